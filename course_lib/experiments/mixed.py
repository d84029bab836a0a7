"""Convolutions and attention in one network: which part is pruned how, what it costs and gains.

Lesson 09 shows what this experiment recorded, and measures some of it again.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import nn

from course_lib.bars import bar, say
from course_lib.deployment import forms, quantization
from course_lib.deployment.pruned_file import load
from course_lib.experiments import steps
from course_lib.experiments.recorder import Recording
from course_lib.experiments.recordings import network_file
from course_lib.measuring.quality import evaluate
from course_lib.networks.attention import layered, removable, replaced
from course_lib.networks.data import Splits, fashion_mnist
from course_lib.networks.models import EXAMPLE, AttentionBlock, load_trained, on_device
from course_lib.networks.recipes import RECIPES
from course_lib.networks.training import Watch
from course_lib.pruning import channels, masks, surgery
from course_lib.pruning.graph import Graph, trace
from course_lib.pruning.masks import Masks
from course_lib.pruning.surgery import Plan
from course_lib.pruning.weights import prunable

#: The network, and the beginnings of the names of what belongs to either part of it. Neither has
#: the position, the head and the norms between.
NETWORK = "conv_attention"
PARTS = {"convolutions": ("stem", "convolutions"), "attention": ("blocks",)}


class Way(NamedTuple):
    """How either part is pruned: "structured" or "unstructured"; attention also as "2:4"."""

    convolutions: str
    attention: str


WAYS = {
    "textbook": Way("structured", "unstructured"),
    "reverse": Way("unstructured", "structured"),
    "both structured": Way("structured", "structured"),
    "both unstructured": Way("unstructured", "unstructured"),
}

#: So much of the weights of either part goes.
AMOUNTS = (0.5, 0.75, 0.875)

#: Every network then trains for this share of the epochs of the recipe.
EPOCH_FRACTION = 0.1


class Variant(NamedTuple):
    """A way to prune, how much of the weights of either part, and the seed of the training."""

    way: Way
    amount: float
    seed: int = 0


#: The networks that are made of the trained one. "two of four" says what the pattern of sparse
#: tensor cores costs, beside "textbook 50".
PLAN = {
    f"{name} {100 * amount:g}": Variant(way, amount)
    for amount in AMOUNTS
    for name, way in WAYS.items()
} | {"two of four": Variant(Way("structured", "2:4"), 0.5)}

#: These say how much is luck. Of them nothing but the accuracy is measured.
AGAIN = {
    f"{name}, seed {seed}": variant._replace(seed=seed)
    for name, variant in sorted(PLAN.items(), key=lambda item: item[1].amount != 0.75)
    for seed in (1, 2)
}

#: Of these the packed file stays beside the recording, the others are removed once measured.
KEPT = tuple(f"{name} 75" for name in WAYS)

#: Of these it is also measured what attention takes.
TAKEN_APART = ("dense", "textbook 75")

#: What stays of a layer is a multiple of so many channels or neurons, which processors like.
MULTIPLE = 8

#: The ratio of channels is found to one part in so many.
RATIOS = 200


# --- what goes ----------------------------------------------------------------------------------


def weights_of(model: nn.Module, part: str) -> dict[str, nn.Parameter]:
    """The weights of a part of ``model`` that pruning may touch, by parameter name."""
    found = prunable(model)
    return {name: found[name] for name in found if name.startswith(PARTS[part])}


def prune(model: nn.Module, variant: Variant) -> tuple[nn.Module, Masks]:
    """A copy of ``model`` pruned as ``variant`` says, and its masks.

    Both ways have the same criterion, the magnitudes of weights, and the same allocation: what
    differs is the structure. Structured: the channels, or heads and neurons, of the lowest L1 norms
    are removed. Unstructured: every layer loses as many single weights, those nearest zero, as the
    structured way would take from it.

    Args:
        model: the whole network, on the CPU, so that every machine removes the same.
    """
    graph = trace(model, EXAMPLE)
    lowest = {part: removed(model, graph, part, variant.amount) for part in PARTS}
    structured = [part for part, how in variant.way._asdict().items() if how == "structured"]
    gone = {group: places for part in structured for group, places in lowest[part].items()}
    smaller = surgery.prune(model, graph, gone)
    kept: Masks = {}
    for part, how in variant.way._asdict().items():
        weights = weights_of(smaller, part)
        if how == "2:4":
            kept |= {
                name: masks.nm_mask(masks.magnitude(weight), 2, 4)
                for name, weight in weights.items()
            }
        elif how == "unstructured":
            shares = shares_gone(weights, surgery.plan(graph, lowest[part]))
            kept |= {
                name: masks.layer_masks(smaller, {name: shares[name]})[name] for name in shares
            }
    return masks.pruned_copy(smaller, kept), kept


def removed(model: nn.Module, graph: Graph, part: str, amount: float) -> dict[str, list[int]]:
    """By group, the channels, heads and neurons that go where a part is structured.

    So many channels and neurons stay that their number is a multiple of :data:`MULTIPLE`.
    """
    scores = channels.l1(model, graph)
    ratios = RATIOS_OF[part](model, graph, amount)
    heads = {name: ratio for name, ratio in ratios.items() if name.endswith("heads")}
    others = {name: ratio for name, ratio in ratios.items() if name not in heads}
    return channels.lowest(scores, heads) | channels.lowest(scores, others, MULTIPLE)


def channel_ratios(model: nn.Module, graph: Graph, amount: float) -> dict[str, float]:
    """One ratio for the channels of every group, so that about ``amount`` of the convolutions goes.

    A weight goes with what it makes and with what it reads, so the ratio is below ``amount``. The
    channels that become tokens stay: attention reads them, and a norm takes them together.
    """
    weights = weights_of(model, "convolutions")
    groups = [name for name in graph.free if name.startswith(PARTS["convolutions"])]
    any_scores = {name: torch.zeros(len(graph.groups[name].channels)) for name in groups}

    def missed(ratio: float) -> float:
        plan = surgery.plan(graph, channels.lowest(any_scores, ratio, MULTIPLE))
        return abs(share_gone(weights, plan) - amount)

    return dict.fromkeys(groups, min((step / RATIOS for step in range(RATIOS)), key=missed))


def share_gone(weights: Mapping[str, torch.Tensor], plan: Plan) -> float:
    """The share of all ``weights`` that ``plan`` does not keep."""
    sizes = {name: weight.numel() for name, weight in weights.items()}
    gone = sum(share * sizes[name] for name, share in shares_gone(weights, plan).items())
    return gone / sum(sizes.values())


def shares_gone(weights: Mapping[str, torch.Tensor], plan: Plan) -> dict[str, float]:
    """The share of each of the ``weights`` that ``plan`` does not keep."""
    return {
        name: 1
        - math.prod(
            len(plan.get(name, {}).get(dim, range(size))) / size
            for dim, size in enumerate(weight.shape)
        )
        for name, weight in weights.items()
    }


def head_ratios(model: nn.Module, graph: Graph, amount: float) -> dict[str, float]:
    """The ratios of heads and of neurons of each block, so that ``amount`` of attention goes."""
    ratios: dict[str, float] = {}
    blocks = [layer for layer in model.modules() if isinstance(layer, AttentionBlock)]
    for number, block in enumerate(blocks):
        names = f"blocks.{number}.attention.heads", f"blocks.{number}.fc1"
        counts = [len(graph.groups[name].channels) for name in names]
        in_heads = block.attention.in_proj_weight.numel() + block.attention.out_proj.weight.numel()
        in_neurons = block.fc1.weight.numel() + block.fc2.weight.numel()
        left = heads_and_neurons_left(
            amount, counts[0], in_heads // counts[0], counts[1], in_neurons // counts[1]
        )
        ratios |= {names[0]: 1 - left[0] / counts[0], names[1]: 1 - left[1] / counts[1]}
    return ratios


def heads_and_neurons_left(
    amount: float, heads: int, per_head: int, neurons: int, per_neuron: int
) -> tuple[int, int]:
    """How many heads and neurons of a block stay when ``amount`` of its weights goes.

    The same share of either, as near as whole heads can be; neurons make up for the difference. At
    least one of either stays, so that more than ``amount`` may be left.

    Args:
        per_head: weights of a head.
        per_neuron: weights of a neuron.
    """
    left = (1 - amount) * (heads * per_head + neurons * per_neuron)
    heads_left = max(1, round((1 - amount) * heads))
    neurons_left = round((left - heads_left * per_head) / per_neuron)
    return heads_left, min(neurons, max(1, neurons_left))


RATIOS_OF: dict[str, Callable[[nn.Module, Graph, float], dict[str, float]]] = {
    "convolutions": channel_ratios,
    "attention": head_ratios,
}


def gone(model: nn.Module, whole: nn.Module) -> dict[str, float]:
    """The share of each part's weights in ``whole`` that are no longer there, or zero."""
    return {
        part: round(1 - _nonzero(weights_of(model, part)) / _nonzero(weights_of(whole, part)), 4)
        for part in PARTS
    }


def _nonzero(weights: Mapping[str, torch.Tensor]) -> int:
    return sum(int(weight.count_nonzero()) for weight in weights.values())


# --- making the networks ------------------------------------------------------------------------


def make_variant(
    variant: Variant,
    whole: nn.Module,
    data: Splits,
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[nn.Module, dict]:
    """The network that ``variant`` makes of ``whole``, trained again; and what became of it.

    That is the share of each part that is ``gone``, and the accuracy right after pruning
    (``before``), with the BatchNorm statistics estimated anew (``recalibrated``), and ``after`` the
    training. What is zero stays zero.

    Args:
        progress: wraps the counter of training steps.
    """
    model, kept = prune(whole, variant)
    with masks.enforce_masks(on_device(model), kept):
        found = steps.right_after(model, data)
        steps.retrain(
            model, NETWORK, data.train, EPOCH_FRACTION, variant.seed, watch=Watch(progress)
        )
        after = evaluate(model, data)
    return model.cpu().eval(), {"gone": gone(model, whole), **found, "after": after}


# --- in the runtime -----------------------------------------------------------------------------


def measure(models: Mapping[str, nn.Module], data: Splits, **timing) -> dict:
    """The ``points`` and ``packed`` of :func:`.forms.measure`; ``parts``.

    All networks run the same code of attention, whether or not they lost heads.

    Args:
        models: the first is the whole one; parts are those of :data:`TAKEN_APART`.
        timing: ``rounds`` and ``seconds``.
    """
    models = {name: removable(model) for name, model in models.items()}
    found = forms.measure(models, NETWORK, data, **timing)
    rows = [
        {"network": name} | row
        for name in TAKEN_APART
        if name in models
        for row in time_of_parts(models[name], data.test.images[:1], **timing)
    ]
    return found | {"parts": rows}


def time_of_parts(model: nn.Module, picture: torch.Tensor, **timing) -> list[dict]:
    """What ``model`` takes whole, without its attention blocks, and without their products alone.

    The differences are what those cost. Every ``variant`` is timed in turns with the others, in
    float32.

    Args:
        picture: (1, 1, 28, 28).
        timing: ``rounds`` and ``seconds``.
    """
    variants = {
        "whole": model,
        "without attention": _with_blocks(model, nn.Identity()),
        "without products": _with_blocks(model, without_products(model.get_submodule("blocks"))),
    }
    with TemporaryDirectory() as folder:
        files = {
            name: quantization.export(each, Path(folder) / f"{name}.onnx", torch.cat([picture] * 2))
            for name, each in variants.items()
        }
        times = forms.timed(files, picture, **timing)
    return [{"variant": name} | time for name, time in times.items()]


def _with_blocks(model: nn.Module, blocks: nn.Module) -> nn.Module:
    other = deepcopy(model)
    other.blocks = blocks
    return other


def without_products(blocks: nn.Module) -> nn.Module:
    """A copy of attention ``blocks`` in which no linear layer multiplies.

    All else is done as before, so that the time that is missing is what the products take.
    """
    return replaced(layered(blocks), nn.Linear, Copied)


class Copied(nn.Module):
    """Takes the place of a linear layer: the shape of its output, from copies of its input."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.features, self.times = layer.out_features, -(-layer.out_features // layer.in_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Copies (..., out) of inputs (..., in)."""
        return torch.cat([x] * self.times, -1)[..., : self.features]


def factor_needed(share: float, target: float) -> float | None:
    """How many times faster a ``share`` of the time must get for the whole to be ``target`` times.

    None if no factor is enough: the rest alone takes longer. Lesson 09 builds this function, which
    is the law of Amdahl (1967) read backwards.
    """
    left = 1 / target - (1 - share)
    return share / left if left > 0 else None


# --- the recording ------------------------------------------------------------------------------


def header(model: str, device: str) -> dict:
    """What a recording of this experiment begins with."""
    recipe = RECIPES[model]
    training = {"epochs": recipe.epochs, "lr": recipe.lr, "epoch_fraction": EPOCH_FRACTION}
    return {"recipe": training | {"multiple": MULTIPLE}}


def run(recording: Recording) -> None:
    """Make and measure the networks of the plan, then train some of them with other seeds.

    Networks lie beside the recording until all are measured, then only those in :data:`KEPT`.
    """
    data, whole = fashion_mnist(), load_trained(NETWORK)

    def make(variant: Variant) -> tuple[nn.Module, dict]:
        made, found = make_variant(variant, whole, data, progress=partial(bar, text="steps"))
        say(f"validation {found['after']['validation']:.2f} %")
        return made, found

    if not recording["points"] or not all(_known(recording, *each) for each in PLAN.items()):
        models = {"dense": whole}
        for name, variant in bar(PLAN.items(), "networks"):
            models[name] = recording.network(_entry(name, variant), partial(make, variant), load)
        recording.write(**measure(models, data))
    for name in PLAN.keys() - set(KEPT):
        network_file(recording.path, name).unlink(missing_ok=True)
    for name, variant in bar(AGAIN.items(), "other seeds"):
        if not _known(recording, name, variant):
            recording.stop_in_time()
            recording.note(_entry(name, variant) | make(variant)[1])


def _known(recording: Recording, name: str, variant: Variant) -> bool:
    """Whether the network is in the recording, made as ``variant`` says."""
    return recording.has("networks", **_entry(name, variant))


def _entry(name: str, variant: Variant) -> dict:
    return {"name": name} | variant.way._asdict() | {"amount": variant.amount, "seed": variant.seed}
