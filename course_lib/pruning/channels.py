"""Structured pruning: which channels matter, and which to remove.

A *score* says how much each channel of a group matters; the lowest go first. Channels that can only
be removed together (see :mod:`course_lib.pruning.graph`) have one score, summed over the layers
that make them. Lesson 02 builds these functions and compares them with the measured cost,
:func:`ablation_losses`.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Integral

import torch
from torch import nn
from torch.nn import functional as F

from course_lib.bars import Progress
from course_lib.networks.models import Inputs, logits
from course_lib.pruning import calibration
from course_lib.pruning.graph import Graph, Slot
from course_lib.pruning.layers import at_rest, copied
from course_lib.pruning.masks import as_number

#: By group name, one score for each of its channels, (channels,).
Scores = dict[str, torch.Tensor]

#: How they are found, from a network and its graph alone.
Score = Callable[[nn.Module, Graph], Scores]

#: Pictures (N, C, H, W), or tokens as ``transformers`` wants them, and their labels (N,).
Batch = tuple[Inputs, torch.Tensor]


# --- scores -------------------------------------------------------------------------------------


def l1(model: nn.Module, graph: Graph) -> Scores:
    """Sum of the absolute weights that make each channel (Li et al., 2017)."""
    weights, slots = _making(model, graph)
    return sum_by_channel(graph, slots, lambda name: weights[name].abs())


def l2(model: nn.Module, graph: Graph) -> Scores:
    """Euclidean norm of the weights that make each channel (He et al., 2018, soft pruning)."""
    weights, slots = _making(model, graph)
    squares = sum_by_channel(graph, slots, lambda name: weights[name].square())
    return {name: total.sqrt() for name, total in squares.items()}


def batchnorm_scale(model: nn.Module, graph: Graph) -> Scores:
    """Absolute scale of the BatchNorm behind each channel (Liu et al., 2017, network slimming).

    Groups with a channel that has no BatchNorm are left out.
    """
    scales = {
        f"{name}.weight": layer.weight.detach().abs()
        for name, layer in model.named_modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.affine
    }
    slots = [slot for slot in graph.slots if slot.name in scales]
    scaled = torch.cat([slot.channels for slot in slots]) if slots else torch.tensor([])
    return {
        name: total
        for name, total in sum_by_channel(graph, slots, scales.__getitem__).items()
        if torch.isin(graph.groups[name].channels, scaled).all()
    }


def taylor(model: nn.Module, graph: Graph, batches: Iterable[Batch]) -> Scores:
    """Estimate, to first order, of how the loss changes without each channel.

    Without a channel, the weights that read it are zero; to first order the loss changes by the sum
    of -weight * gradient over them. The score is its absolute value, averaged over ``batches``
    (Molchanov et al., 2019, who take its square). Use many small batches: over all pictures of a
    trained network the gradients cancel. Gradients are not kept. The network runs in ``eval`` mode
    and is left as it was; a 16-bit network is scored in a float32 copy, because small gradients
    would underflow.

    Args:
        batches: pairs of inputs and labels, see :func:`course_lib.pruning.calibration.labelled`.

    Raises:
        ValueError: a weight is frozen, or the batches are refused.
    """
    model = _in_single(model)
    weights = dict(model.named_parameters())
    slots = [slot for slot in graph.slots if slot.reads]
    frozen = [slot.name for slot in slots if not weights[slot.name].requires_grad]
    if frozen:
        raise ValueError(f"Taylor scores need the gradient of {', '.join(frozen)}: unfreeze them.")
    changes = []
    with at_rest(model), torch.enable_grad():
        for inputs, labels in calibration.labelled(batches):
            loss = _losses(model, inputs, labels).mean()
            slopes = torch.autograd.grad(loss, [weights[slot.name] for slot in slots])
            products = {
                slot.name: _precise(weights[slot.name].detach()) * _precise(slope)
                for slot, slope in zip(slots, slopes, strict=True)
            }
            changes.append(sum_by_channel(graph, slots, products.__getitem__))
    return {
        name: torch.stack([change[name].abs() for change in changes]).mean(0) for name in changes[0]
    }


def _in_single(model: nn.Module) -> nn.Module:
    """``model``, or a copy of it in float32 where a weight has 16 bits."""
    few = any(each.is_floating_point() and each.itemsize < 4 for each in model.parameters())
    return copied(model).float() if few else model


def random_scores(graph: Graph, seed: int) -> Scores:
    """A random score for every channel: the baseline that a real score must beat."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(len(group.channels), generator=generator)
        for name, group in graph.free.items()
    }


def ablation_losses(
    model: nn.Module,
    graph: Graph,
    group: str,
    batches: Iterable[Batch],
    progress: Progress[Batch] = iter,
) -> torch.Tensor:
    """How much the mean loss rises when each channel of ``group`` is removed alone.

    Returns:
        Change of the mean cross-entropy in nats, (channels,); negative where removal helps.
    """
    return loss_changes(model, graph, group, batches, progress).mean(1)


@torch.no_grad()
def loss_changes(
    model: nn.Module,
    graph: Graph,
    group: str,
    batches: Iterable[Batch],
    progress: Progress[Batch] = iter,
) -> torch.Tensor:
    """How the loss of each picture changes when each channel of ``group`` is removed alone.

    This is what every score estimates. The mean of a row is the cost of the channel; the mean of
    its absolute values, in which pictures do not cancel, is its effect on the loss.
    The network runs in ``eval`` mode and is left as it was.

    Args:
        batches: pairs of inputs and labels, see :func:`course_lib.pruning.calibration.labelled`.
        progress: wraps the ``batches``; each takes one pass for every channel.

    Returns:
        Change of the cross-entropy in nats, (channels, pictures).

    Raises:
        ValueError: no such group, or batches that are refused.
    """
    if group not in graph.groups:
        raise ValueError(f"No group is called {group!r}; there are: {', '.join(graph.groups)}.")
    changes = []
    with at_rest(model):
        for inputs, labels in calibration.labelled(progress(batches)):
            with _replayed(model, graph, group, inputs):
                before = _losses(model, inputs, labels)
                rows = []
                for channel in graph.groups[group].channels:
                    with readers_zeroed(model, graph, channel):
                        rows.append(_losses(model, inputs, labels) - before)
            changes.append(torch.stack(rows).cpu())
    return torch.cat(changes, dim=1)


def rank_correlation(scores: torch.Tensor, truth: torch.Tensor) -> float:
    """Spearman's rank correlation of two scores of the same channels, (channels,) each.

    1 for the same order, -1 for the opposite one, about 0 for unrelated orders. NaN if all values
    of one are equal, since they have no order.

    Raises:
        ValueError: the two are not of the same channels.
    """
    if scores.shape != truth.shape or scores.dim() != 1:
        raise ValueError(
            f"Scores and truth are (channels,) each; got the shapes {tuple(scores.shape)} and "
            f"{tuple(truth.shape)}."
        )
    return torch.corrcoef(torch.stack([_ranks(scores), _ranks(truth)]))[0, 1].item()


def _ranks(values: torch.Tensor) -> torch.Tensor:
    """How many values are smaller, equal ones counting half: equal values share a rank."""
    values = values.cpu()
    smaller, equal = values[:, None] > values, values[:, None] == values
    return smaller.double().sum(1) + equal.double().sum(1) / 2


def _losses(model: nn.Module, inputs: Inputs, labels: torch.Tensor) -> torch.Tensor:
    found = _precise(logits(model, inputs))
    return F.cross_entropy(found, labels.to(found.device), reduction="none")


@contextlib.contextmanager
def readers_zeroed(model: nn.Module, graph: Graph, channel: torch.Tensor) -> Iterator[None]:
    """Within the block, the weights that read ``channel`` are zero.

    Args:
        channel: its number in ``graph``, of shape ().
    """
    state = model.state_dict()
    places = []
    for slot in graph.slots:
        if slot.reads:
            index = (slot.channels == channel).nonzero().squeeze(1)
            places.append((state[slot.name], slot.dim, index.to(state[slot.name].device)))
    saved = [tensor.index_select(dim, index) for tensor, dim, index in places]
    try:
        for tensor, dim, index in places:
            tensor.index_fill_(dim, index, 0)
        yield
    finally:
        for (tensor, dim, index), values in zip(places, saved, strict=True):
            tensor.index_copy_(dim, index, values)


@contextlib.contextmanager
def _replayed(model: nn.Module, graph: Graph, group: str, images: Inputs) -> Iterator[None]:
    """Within the block, layers that finish before ``group`` is read repeat their output.

    On the same ``images`` they compute the same, whichever channel of ``group`` is zeroed.
    """
    outputs = _before_read(model, _readers(model, graph, group), images)
    own = {layer: vars(layer).get("forward") for layer in outputs}  # where the caller has set one
    for layer, output in outputs.items():
        layer.forward = lambda *_, output=output, **__: output.clone()  # may be changed in place
    try:
        yield
    finally:
        for layer, forward in own.items():
            del layer.forward
            if forward is not None:
                layer.forward = forward


def _readers(model: nn.Module, graph: Graph, group: str) -> set[nn.Module]:
    """The layers that own the weights which read the channels of ``group``."""
    channels = graph.groups[group].channels
    return {
        model.get_submodule(slot.name.rpartition(".")[0])
        for slot in graph.slots
        if slot.reads and torch.isin(slot.channels, channels).any()
    }


def _before_read(
    model: nn.Module, readers: set[nn.Module], images: Inputs
) -> dict[nn.Module, torch.Tensor]:
    """The output of each layer that runs once, and finishes before any of the ``readers`` starts.

    Of nested layers, only the outermost; empty if a reader never runs by itself.
    """
    calls: Counter[nn.Module] = Counter()
    outputs: dict[nn.Module, torch.Tensor] = {}

    def start(layer: nn.Module, _: object) -> None:
        calls[layer] += 1

    def finish(layer: nn.Module, _: object, output: object) -> None:
        if not calls.keys() & readers and isinstance(output, torch.Tensor):
            for part in layer.modules():
                outputs.pop(part, None)
            outputs[layer] = output.clone()

    hooks = [layer.register_forward_pre_hook(start) for layer in model.modules()]
    hooks += [layer.register_forward_hook(finish) for layer in model.modules()]
    try:
        logits(model, images)
    finally:
        for hook in hooks:
            hook.remove()
    if not readers <= calls.keys():
        return {}
    return {layer: output for layer, output in outputs.items() if calls[layer] == 1}


def _making(model: nn.Module, graph: Graph) -> tuple[dict[str, torch.Tensor], list[Slot]]:
    """The matrices and filters that make channels (no biases, no norms), and their slots."""
    weights = {
        name: _precise(weight.detach())
        for name, weight in model.named_parameters()
        if weight.dim() > 1
    }
    return weights, [slot for slot in graph.slots if slot.name in weights and not slot.reads]


def _precise(values: torch.Tensor) -> torch.Tensor:
    """At least single precision: in 16 bits, small squares underflow and sums overflow."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def sum_by_channel(
    graph: Graph, slots: Iterable[Slot], values: Callable[[str], torch.Tensor]
) -> Scores:
    """For each channel of the free groups, the sum of ``values`` over its places in ``slots``."""
    totals = torch.zeros(1 + max((int(slot.channels.max()) for slot in graph.slots), default=-1))
    for slot in slots:
        by_place = _precise(values(slot.name)).movedim(slot.dim, 0)
        by_place = by_place.reshape(len(slot.channels), -1).sum(1)
        totals.index_add_(0, slot.channels, by_place.float().cpu())
    return {name: totals[group.channels] for name, group in graph.free.items()}


# --- choosing -----------------------------------------------------------------------------------


def lowest(
    scores: Scores, ratio: float | Mapping[str, float], multiple: int = 1
) -> dict[str, list[int]]:
    """The positions of the lowest scores of each group, ``round(ratio * channels)`` of them.

    Args:
        ratio: fraction to remove, from 0 up to but not including 1; one value, or values by group
            name (a group that is not named keeps all its channels).
        multiple: round the number of channels that stay up to a multiple of this (hardware likes 8
            or 16).

    At least one channel of each group stays. Of equal scores, the earlier channel goes first.

    Raises:
        ValueError: a ratio is out of range, no such group, or a score is not a number.
    """
    wanted = ratio if isinstance(ratio, Mapping) else dict.fromkeys(scores, ratio)
    unknown = wanted.keys() - scores.keys()
    if unknown:
        raise ValueError(
            f"There is no score for {', '.join(sorted(unknown))}; there are: {', '.join(scores)}."
        )
    chosen = {}
    for name, share in wanted.items():
        count = len(scores[name])
        stay = _rounded_up(count - round(_checked_ratio(share) * count), multiple, count)
        chosen[name] = _order(scores[name], name)[: count - stay].tolist()
    return chosen


def lowest_overall(
    scores: Scores, ratio: float, floor: float = 0.1, multiple: int = 1
) -> dict[str, list[int]]:
    """The positions of the lowest scores of all groups together, ``ratio`` of all channels.

    Each group's scores are first divided by their mean magnitude, because layers differ in scale.

    Args:
        floor: fraction of its channels that every group keeps, however low they score.
        multiple: as in :func:`lowest`. With it or a high floor, fewer than ``ratio`` go.

    Raises:
        ValueError: a ratio is out of range, or a score is not a number or infinite.
    """
    scores = {name: _precise(score) for name, score in scores.items()}
    orders = {name: _order(score, name) for name, score in scores.items()}
    for name, score in scores.items():
        if score.isinf().any():
            raise ValueError(f"A score of {name} is infinite, so there is no mean to divide by.")
    least = {
        name: max(1, math.ceil(_checked_ratio(floor) * len(order)))
        for name, order in orders.items()
    }
    sizes = {name: score.abs().mean().item() or 1.0 for name, score in scores.items()}
    candidates = sorted(
        (scores[name][position].item() / sizes[name], name, position)
        for name, order in orders.items()
        for position in order[: len(order) - least[name]].tolist()
    )
    total = sum(len(order) for order in orders.values())
    taken = candidates[: round(_checked_ratio(ratio) * total)]
    chosen = {}
    for name, order in orders.items():
        stay = len(order) - sum(1 for _, group, _ in taken if group == name)
        chosen[name] = order[: len(order) - _rounded_up(stay, multiple, len(order))].tolist()
    return chosen


def spared(
    graph: Graph, scores: Scores, removed: Mapping[str, Iterable[int]]
) -> dict[str, list[int]]:
    """``removed``, less the best channel of each layer that would otherwise lose all of them.

    The channels of one group may be made by different layers, for instance where maps are
    concatenated before an addition.
    """
    value = torch.full((graph.provenance.total,), -math.inf)
    gone = torch.zeros(graph.provenance.total, dtype=torch.bool)
    for name, score in scores.items():
        value[graph.groups[name].channels] = score.float().cpu()
        gone[graph.groups[name].channels[list(removed.get(name, ()))]] = True
    for slot in graph.slots:
        if gone[slot.channels].all():
            gone[slot.channels[value[slot.channels].argmax()]] = False
    found = {name: gone[graph.groups[name].channels].nonzero().squeeze(1) for name in removed}
    return {name: places.tolist() for name, places in found.items()}


def _order(scores: torch.Tensor, group: str) -> torch.Tensor:
    if scores.isnan().any():
        raise ValueError(f"A score of {group} is NaN, so its channels have no order.")
    return scores.argsort(stable=True)


def _checked_ratio(ratio: float) -> float:
    if not 0 <= as_number(ratio) < 1:
        raise ValueError(
            f"A ratio is the fraction of channels, from 0 up to but not including 1; got {ratio!r}."
        )
    return as_number(ratio)


def _rounded_up(stay: int, multiple: int, count: int) -> int:
    """How many of ``count`` channels to keep: at least ``stay``, rounded up to a multiple."""
    if not isinstance(multiple, Integral) or multiple < 1:
        raise ValueError(f"Round to a multiple of 1 or more; got {multiple!r}.")
    return min(count, max(multiple, math.ceil(stay / multiple) * multiple))
