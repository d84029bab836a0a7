"""Removing channels: a plan of what to keep, and the smaller network that it makes.

A *plan* says, for each parameter and buffer that becomes smaller, which places of which dimension
are kept. It is made from the dependency graph, but applying it needs no graph: the same plan cuts a
freshly built network, which is how a pruned network is loaded. Lesson 03 builds these functions.

A removal is exact: the smaller network computes what the whole one computes once the weights that
read the removed channels are zero (:func:`zero_readers`).
"""

import json
from collections.abc import Iterable, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import nn

from course_lib.networks.attention import SelfAttention
from course_lib.networks.models import Network
from course_lib.networks.tensors import open_tensors, write_tensors
from course_lib.pruning import channels
from course_lib.pruning.graph import Graph, Provenance, UnknownOperation, trace
from course_lib.pruning.layers import copied

#: By name of the parameter or buffer and by dimension, the indices that are kept, in order.
Plan = dict[str, dict[int, list[int]]]

#: By name of the group, the positions of the channels to remove in its ``channels``.
Removed = Mapping[str, Iterable[int]]


def shrink(
    model: nn.Module, example: torch.Tensor, ratio: float, score: channels.Score = channels.l1
) -> nn.Module:
    """A copy of ``model`` without the fraction ``ratio`` of the channels of every free group.

    Args:
        example: an input of the right shape; its values do not matter.
        score: ``score(model, graph)`` gives scores, the lowest go first.

    Raises:
        UnknownOperation: the dependency graph does not know all of ``model``, see :func:`trace`.
        ValueError: nothing in ``model`` can be removed, or ``ratio`` is not within 0 to 1.
    """
    graph = trace(model, example)
    if not graph.free:
        raise ValueError(f"No channel of this network can be removed exactly:\n{graph}")
    scores = score(model, graph)
    return prune(model, graph, channels.spared(graph, scores, channels.lowest(scores, ratio)))


def prune(model: Network, graph: Graph, removed: Removed) -> Network:
    """A copy of ``model`` without the ``removed`` channels, its wiring checked.

    Raises:
        ValueError: no such group or channel, a group that has to stay or would become empty.
        UnknownOperation: the code of the network does not work with smaller tensors.
    """
    kept = plan(graph, removed)
    smaller = remove(model, kept)
    _check_wiring(graph, kept, smaller)
    return smaller


def plan(graph: Graph, removed: Removed) -> Plan:
    """What is kept of each parameter and buffer when the ``removed`` channels go.

    Raises:
        ValueError: no such group or channel, a group that has to stay or would become empty.
    """
    gone = _gone(graph, removed)
    kept: Plan = {}
    for slot in graph.slots:
        stays = ~gone[slot.channels]
        if not stays.any():
            raise ValueError(
                f"All {len(stays)} channels of {slot.name} would go; keep at least one."
            )
        if not stays.all():
            kept.setdefault(slot.name, {})[slot.dim] = stays.nonzero().squeeze(1).tolist()
    return kept


def _gone(graph: Graph, removed: Removed) -> torch.Tensor:
    """For every channel of ``graph``, whether ``removed`` names it; checked."""
    gone = torch.zeros(graph.provenance.total, dtype=torch.bool)
    for name, positions in removed.items():
        positions = sorted({int(position) for position in positions})
        if name not in graph.groups:
            raise ValueError(f"No group is called {name!r}; there are: {', '.join(graph.groups)}.")
        group = graph.groups[name]
        count = len(group.channels)
        if positions and group.reason:
            raise ValueError(f"The channels of {name} have to stay: {group.reason}.")
        if positions and not 0 <= positions[0] <= positions[-1] < count:
            raise ValueError(f"{name} has the channels 0 to {count - 1}; asked for {positions}.")
        if len(positions) == count:
            raise ValueError(f"All {count} channels of {name} would go; keep at least one.")
        gone[group.channels[positions]] = True
    return gone


def zero_readers(model: nn.Module, graph: Graph, removed: Removed) -> nn.Module:
    """Set to zero, in place, the weights that read the ``removed`` channels; return ``model``.

    The channels then have no effect, so removing them changes nothing. Zeroing the filters that
    *make* them is not enough: a BatchNorm turns zero into its shift.
    """
    gone = _gone(graph, removed)
    state = model.state_dict()
    for slot in graph.slots:
        if slot.reads:
            places = gone[slot.channels].nonzero().squeeze(1)
            state[slot.name].index_fill_(slot.dim, places.to(state[slot.name].device), 0)
    return model


def remove(model: Network, plan: Plan) -> Network:
    """A copy of ``model`` with only what ``plan`` keeps; ``model`` itself is left as it is.

    The copy has its plan, relative to the unpruned network, as ``pruning_plan``.

    Raises:
        ValueError: the plan is for another network.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if not plan.keys() <= tensors.keys():
        missing = ", ".join(plan.keys() - tensors.keys())
        raise ValueError(f"The plan is for another network: this one has no {missing}.")
    cut = {id(tensors[name]): _cut(tensors[name], name, kept) for name, kept in plan.items()}
    smaller = copied(model, cut)
    for name, layer in list(smaller.named_modules()):
        if isinstance(layer, nn.MultiheadAttention) and f"{name}.in_proj_weight" in plan:
            smaller.set_submodule(name, SelfAttention(layer))
    for layer in smaller.modules():
        _set_sizes(layer)
    smaller.__dict__["pruning_plan"] = _compose(getattr(model, "pruning_plan", {}), plan)
    return smaller


def _cut(tensor: torch.Tensor, name: str, kept: Mapping[int, list[int]]) -> torch.Tensor:
    values = tensor.detach()
    for dim, places in kept.items():
        size = tensor.shape[dim] if dim < tensor.dim() else 0
        if not places or not 0 <= min(places) <= max(places) < size:
            raise ValueError(
                f"The plan is for another network: of dimension {dim} of {name} it keeps places "
                f"{places[:3]}...{places[-3:]}, but the shape is {tuple(tensor.shape)}."
            )
        values = values.index_select(dim, torch.tensor(places, device=values.device))
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(values, requires_grad=tensor.requires_grad)
    return values


def _set_sizes(layer: nn.Module) -> None:
    """Set the sizes that a layer stores to those of its weights."""
    if isinstance(layer, nn.modules.conv._ConvNd):
        first, second = ("out_channels", "in_channels")[:: -1 if layer.transposed else 1]
        if layer.groups > 1:  # groups go as a whole
            layer.groups = layer.groups * layer.weight.shape[0] // getattr(layer, first)
        setattr(layer, first, layer.weight.shape[0])
        setattr(layer, second, layer.weight.shape[1] * layer.groups)
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, nn.GroupNorm) and layer.affine:
        layer.num_groups = layer.num_groups * len(layer.weight) // layer.num_channels
        layer.num_channels = len(layer.weight)
    elif isinstance(layer, nn.modules.batchnorm._NormBase):
        sizes = {len(tensor) for tensor in (layer.weight, layer.running_mean) if tensor is not None}
        layer.num_features = max(sizes, default=layer.num_features)
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = len(layer.weight)
    elif hasattr(layer, "attention_head_size"):
        bert: Any = layer  # the self-attention of BERT in transformers
        bert.all_head_size = bert.query.weight.shape[0]
        bert.num_attention_heads = bert.all_head_size // bert.attention_head_size


def _compose(first: Plan, second: Plan) -> Plan:
    """The plan that does at once what ``first`` and then ``second`` do."""
    whole = {name: dict(kept) for name, kept in first.items()}
    for name, kept in second.items():
        for dim, places in kept.items():
            before = whole.setdefault(name, {}).get(dim)
            whole[name][dim] = places if before is None else [before[place] for place in places]
    return whole


def _check_wiring(graph: Graph, plan: Plan, smaller: nn.Module) -> None:
    """Trace the smaller network: it must do the same with the channels that were kept.

    The code of a network may compute with sizes in ways that the graph cannot foresee.
    """
    before = graph.provenance
    try:
        after = trace(smaller, tuple(map(torch.empty, graph.shapes))).provenance
        place = _other_step(before, after) or _other_labels(before, after, plan)
    except (UnknownOperation, IndexError) as error:
        raise UnknownOperation(f"It does not run with fewer channels. {error}") from error
    if place:
        raise UnknownOperation(
            "With fewer channels the network computes something else, because its code calculates "
            f"with their number: see {place}. Nothing was pruned."
        )


def _other_step(before: Provenance, after: Provenance) -> str | None:
    """The first step that differs, or uses numbers that must not change but did; else None."""
    for one, other in zip_longest(before.steps, after.steps, fillvalue=()):
        same = (kept is None or kept == now for kept, now in zip(one, other, strict=False))
        if len(one) != len(other) or not all(same):
            return str((one or other)[0])
    return None


def _other_labels(before: Provenance, after: Provenance, plan: Plan) -> str | None:
    """Where the remaining labels lie or meet differently than before; None if nowhere."""
    lies = {}
    for (name, dim), labels in after.labels.items():
        if (name, dim) in before.labels:  # if not: a grouped convolution with one group left
            kept = plan.get(name, {}).get(dim, range(len(labels)))
            lies[name, dim] = labels * before.total + before.labels[name, dim][list(kept)]
    both = torch.cat([*lies.values()]).unique()
    new, old = both // before.total, both % before.total
    twice = both[(new.bincount()[new] > 1) | (old.bincount()[old] > 1)]
    if len(twice):
        return next(name for (name, _), codes in lies.items() if torch.isin(codes, twice).any())
    named = torch.full((after.total,), -1).scatter(0, new, old)
    step, a, b = after.united[:, (named[after.united[1:]] >= 0).all(0)]
    met = torch.isin(
        (step * before.total + named[a]) * before.total + named[b],
        (before.united[0] * before.total + before.united[1]) * before.total + before.united[2],
    )
    fixed = torch.isin(named[a], before.locked) | torch.isin(named[b], before.locked)
    elsewhere = step[~(met | fixed)]
    return str(after.steps[elsewhere[0] - 1][0]) if len(elsewhere) else None


def save(model: nn.Module, path: str | Path) -> None:
    """Write a pruned network to ``path``: safetensors, with its plan as JSON in the metadata."""
    about = {"pruning_plan": json.dumps(getattr(model, "pruning_plan", {}))}
    write_tensors(model.state_dict(), path, about)


def load(model: nn.Module, path: str | Path) -> nn.Module:
    """The pruned network that :func:`save` wrote, cut from ``model``, freshly built and unpruned.

    Raises:
        ValueError: the file is damaged, holds no plan, or one for another network.
    """
    tensors, about = open_tensors(path)
    smaller = remove(model, _read_plan(about.get("pruning_plan"), path))
    state = smaller.state_dict()
    try:
        if state.keys() != tensors.keys():
            raise RuntimeError(f"{len(state.keys() ^ tensors.keys())} names differ")
        state.update(tensors)  # into the dictionary that also knows the versions of the layers
        smaller.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} holds another network: {error}") from error
    return smaller


def _read_plan(text: str | None, path: str | Path) -> Plan:
    try:
        return {
            str(name): {int(dim): [int(place) for place in places] for dim, places in kept.items()}
            for name, kept in json.loads(text or "").items()
        }
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path} holds no pruning plan, so it was not written by surgery.save: {error}"
        ) from error
