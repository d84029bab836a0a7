"""Pruning transformer encoders: attention heads, neurons and whole layers.

torch.fx cannot trace the networks of ``transformers``, but all encoders are built alike, so their
dependency graph is written down instead of found, see :mod:`.blocks`. With it, heads and neurons
are channels like any other: ``channels.l1``, ``channels.taylor`` and ``channels.ablation_losses``
score them, ``channels.lowest`` chooses, ``surgery.zero_readers`` zeroes them. Lesson 08 uses these
functions.

Supported are BERT and models with the same layer (RoBERTa, MiniLM, ...) in ``transformers`` 5,
and torchvision's VisionTransformer. ``transformers`` itself is not needed here.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from course_lib.networks.models import Network
from course_lib.networks.tensors import open_tensors, write_tensors
from course_lib.pruning import blocks, surgery
from course_lib.pruning.blocks import Part
from course_lib.pruning.channels import Scores, readers_zeroed, sum_by_channel
from course_lib.pruning.graph import Graph
from course_lib.pruning.surgery import Plan, Removed

BERT = (
    Part(
        "heads",
        ("attention.self.query.", "attention.self.key.", "attention.self.value."),
        "attention.output.dense.",
        columns=("attention.self.attention_head_size",),
    ),
    Part("neurons", ("intermediate.dense.",), "output.dense."),
)
VISION = (
    Part(
        "heads",
        ("self_attention.in_proj_",),  # queries, keys and values
        "self_attention.out_proj.",
        columns=("self_attention.head_dim",),
        stacked=3,
    ),
    Part("neurons", ("mlp.0.",), "mlp.3."),
)


class Layer(NamedTuple):
    """What is left of one layer of an encoder; one that was dropped has no heads and no neurons."""

    name: str
    heads: int = 0
    head_dim: int = 0
    neurons: int = 0


class Dropped(nn.Module):
    """Takes the place of a layer that was dropped, and returns its input.

    The other layers keep their numbers and names.
    """

    def forward(self, x: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        """``x`` (N, L, width), unchanged."""
        return x


# --- what there is ------------------------------------------------------------------------------


def layers(model: nn.Module) -> list[Layer]:
    """The layers of the encoder in ``model``, in order, with their numbers of heads and neurons.

    Raises:
        ValueError: there is no encoder layer of a known kind in ``model``.
    """
    return [_described(name, model.get_submodule(name)) for name in _names(model)]


def _described(name: str, layer: nn.Module) -> Layer:
    parts = _parts(layer)
    if not parts:
        return Layer(name)
    heads, neurons = parts
    return Layer(name, heads.count(layer), heads.width(layer), neurons.count(layer))


def encoder_graph(model: nn.Module) -> Graph:
    """The dependency graph of the heads and neurons of ``model``.

    Its groups are ``"0.heads"``, ``"0.neurons"``, ``"1.heads"`` and so on, by the number of the
    layer. A layer that was dropped has none; the others keep their numbers.

    Raises:
        ValueError: there is no encoder layer of a known kind in ``model``.
    """
    named = enumerate(_names(model))
    return blocks.graph(
        model, {number: (name, _parts(model.get_submodule(name))) for number, name in named}
    )


def _names(model: nn.Module) -> list[str]:
    """The names of the encoder layers of ``model``, dropped ones too."""
    names = [
        name for name, layer in model.named_modules() if isinstance(layer, Dropped) or _parts(layer)
    ]
    if not names:
        raise ValueError(
            f"{type(model).__name__} has no encoder layer that is known here: BERT's of "
            "transformers, or that of torchvision's VisionTransformer."
        )
    return names


def _parts(layer: nn.Module) -> tuple[Part, ...]:
    """The heads and the neurons of ``layer``; none if it is no encoder layer that is known here."""
    for parts in (BERT, VISION):
        if all(part.is_in(layer) for part in parts):
            return parts
    return ()


# --- scores that only encoders need -------------------------------------------------------------


def l1(model: nn.Module, graph: Graph) -> Scores:
    """Sum of all absolute weights of each head or neuron, in what makes it and in what reads it.

    Biases are left out. ``channels.l1`` counts only what makes a channel (Li et al., 2017).
    """
    weights = {name: weight.detach().abs() for name, weight in model.named_parameters()}
    slots = [slot for slot in graph.slots if weights[slot.name].dim() > 1]
    return sum_by_channel(graph, slots, weights.__getitem__)


def ablation(
    model: nn.Module, graph: Graph, group: str, measure: Callable[[nn.Module], float]
) -> torch.Tensor:
    """How ``measure(model)`` changes when each head or neuron of ``group`` is zeroed alone.

    Michel et al. (2019) do this with the accuracy. For the loss, ``channels.ablation_losses`` is
    faster.

    Returns:
        Value without the head minus value with it, (heads,); for accuracy, negative is worse.
    """
    before = measure(model)
    changes = []
    for channel in graph.groups[group].channels:
        with readers_zeroed(model, graph, channel):
            changes.append(measure(model) - before)
    return torch.tensor(changes)


# --- removing -----------------------------------------------------------------------------------


def prune(model: Network, removed: Removed, dropped: Iterable[int] = ()) -> Network:
    """A copy of ``model`` without the ``removed`` heads and neurons and the ``dropped`` layers.

    It computes what ``model`` computes after ``surgery.zero_readers`` of the same heads and
    neurons, and with every dropped layer passing on its input.

    Args:
        removed: by group of :func:`encoder_graph` (``"0.heads"``), the positions to remove.
        dropped: numbers of layers, counted in the whole network.

    Raises:
        ValueError: no such group, position or layer; a layer that would lose all its heads or all
            its neurons (drop the layer, or keep one); or no layer would be left.
    """
    smaller = surgery.remove(model, surgery.plan(encoder_graph(model), removed))
    return _drop(smaller, dropped)


def _drop(model: Network, dropped: Iterable[int]) -> Network:
    """Drop layers of ``model`` in place."""
    found = layers(model)
    there = [number for number, layer in enumerate(found) if layer.heads]
    wanted = sorted(set(dropped))
    if wanted == there:
        raise ValueError(f"All {len(there)} layers would be dropped; keep at least one.")
    for number in wanted:
        if number not in there:
            raise ValueError(f"There is no layer {number} to drop; there are: {there}.")
        model.set_submodule(found[number].name, Dropped())
    gone = tuple(f"{found[number].name}." for number in wanted)
    plan: Plan = vars(model)["pruning_plan"]
    vars(model)["pruning_plan"] = {
        name: kept for name, kept in plan.items() if not name.startswith(gone)
    }
    return model


# --- files --------------------------------------------------------------------------------------


def save(model: nn.Module, path: Path) -> None:
    """Write a pruned encoder to ``path``: safetensors, with what is left as JSON in the metadata.

    The format is that of :func:`surgery.save`, with the dropped layers added.
    """
    dropped = [number for number, layer in enumerate(layers(model)) if not layer.heads]
    plan = getattr(model, "pruning_plan", {})
    about = {"pruning_plan": json.dumps(plan), "dropped_layers": json.dumps(dropped)}
    write_tensors(model.state_dict(), path, about)


def load(model: nn.Module, path: Path) -> nn.Module:
    """The pruned encoder that :func:`save` wrote, cut from ``model``, freshly built and unpruned.

    Raises:
        ValueError: the file is damaged, was not written by :func:`save`, or holds another network.
    """
    dropped = _read_dropped(open_tensors(path)[1].get("dropped_layers"), path)
    try:
        whole = prune(model, {}, dropped)
    except ValueError as error:
        raise ValueError(f"{path} holds another network: {error}") from error
    return surgery.load(whole, path)


def _read_dropped(text: str | None, path: Path) -> list[int]:
    try:
        return [int(number) for number in json.loads(text or "")]
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} does not say which layers were dropped, so it was not written by "
            f"encoders.save: {error}"
        ) from error
