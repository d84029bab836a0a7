"""Unstructured pruning: which single weights to remove, and how to keep them removed.

A *mask* is a boolean tensor of the shape of its weight: True keeps, False prunes. A *score* says
how much a weight matters; masks prune the lowest scores. All masks are exact: asked for a sparsity
of ``s`` over ``n`` weights, they prune ``round(s * n)`` of them, ties included (the earlier weight
goes first). Scores are compared in single precision. A network whose weights cannot all be pruned
as they are is refused (see :mod:`course_lib.pruning.weights`). Embeddings are left alone, unless a
mask, a score or a sparsity is given for one by its name. Lesson 01 builds these functions.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import reduce
from numbers import Integral
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from course_lib.networks.models import Inputs, Network, logits
from course_lib.pruning import calibration
from course_lib.pruning.layers import InputHook, at_rest, copied, first_input
from course_lib.pruning.weights import coverage as coverage
from course_lib.pruning.weights import (
    effective,
    embeddings,
    is_conv1d,
    owners,
    prunable,
    rows,
    zeros,
)

#: By parameter name, a boolean tensor of the parameter's shape: True keeps, False prunes.
Masks = dict[str, torch.Tensor]

#: A score for each single weight, from the weights.
Scorer = Callable[[torch.Tensor], torch.Tensor]

#: A score for each single weight: a function of the weights, or scores by parameter name.
Score = Scorer | Mapping[str, torch.Tensor]

# Large tensors are ranked in pieces of this many weights, which bounds the memory that it takes.
PIECE = 1 << 20

UNSTEADY = (
    "The score changes from call to call. Compute the scores once and "
    "pass them as a mapping from parameter name to scores."
)


# --- which weights ------------------------------------------------------------------------------


def sparsity(model: nn.Module) -> float:
    """Fraction of exact zeros among the weights that ``model`` multiplies with, as it uses them.

    Counts all weights of linear, bilinear, convolution, recurrent and attention layers, including
    computed (``torch.nn.utils.prune``, ``weight_norm``), sparse and quantized ones. Does not count
    biases, norms and embeddings; :func:`coverage` says what share of the network is counted.

    Raises:
        ValueError: a layer has no weights yet.
    """
    weights = effective(model).values()
    total = sum(weight.numel() for weight in weights)
    return sum(zeros(weight) for weight in weights) / total if total else 0.0


def layer_sparsity(model: nn.Module) -> dict[str, float]:
    """Fraction of exact zeros in each weight that :func:`sparsity` counts, by its name.

    Raises:
        ValueError: a layer has no weights yet.
    """
    return {name: zeros(one) / max(one.numel(), 1) for name, one in effective(model).items()}


# --- scores -------------------------------------------------------------------------------------


def magnitude(weight: torch.Tensor) -> torch.Tensor:
    """Score of each weight: its absolute value (Han et al., 2015). Same shape as ``weight``."""
    weight = weight.detach()
    is_integer = not (weight.is_floating_point() or weight.is_complex())
    return (weight.float() if is_integer else weight).abs()  # int8 has no +128


def largest_first(weight: torch.Tensor) -> torch.Tensor:
    """Scores, of the shape of ``weight``, by which the largest weights go first."""
    return -magnitude(weight)


def random_scores(model: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """A random score for every prunable weight: the baseline that a real score must beat."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(weight.shape, generator=generator).to(weight.device)
        for name, weight in prunable(model).items()
    }


def wanda(weight: torch.Tensor, input_norm: torch.Tensor) -> torch.Tensor:
    """Score of each weight: |weight| times the norm of the input it reads (Sun et al., 2023).

    Args:
        weight: of a linear layer (out, in) or a convolution (out, in / groups, ...).
        input_norm: (in,), the L2 norm of each input feature or channel; see :func:`input_norms`.

    Raises:
        ValueError: the number of norms is not a multiple of the layer's inputs.
    """
    out, per_group = weight.shape[:2]
    groups, rest = divmod(input_norm.numel(), max(per_group, 1))
    if rest or groups < 1 or out % groups:
        raise ValueError(
            f"{input_norm.numel()} input norms do not fit a weight of shape {tuple(weight.shape)}: "
            f"give one for each of its {per_group} inputs (times the groups of a convolution)."
        )
    norms = input_norm.view(groups, per_group).repeat_interleave(out // groups, dim=0)
    return magnitude(weight) * norms.view(out, per_group, *[1] * (weight.dim() - 2))


def wanda_scores(model: nn.Module, batches: Iterable[Inputs]) -> dict[str, torch.Tensor]:
    """Wanda's score of every weight that :func:`input_norms` has norms for.

    If the network also multiplies with weights that get no score, :func:`global_masks` refuses
    these scores: the sparsity would be that of the scored weights only.

    Raises:
        ValueError: as :func:`input_norms`.
    """
    weights, layers = prunable(model), owners(model)
    found = {}
    for name, norm in input_norms(model, batches).items():
        layer = layers[name][0]
        found[name] = rows(layer, wanda(rows(layer, weights[name]), norm))
    return found


@torch.no_grad()
def input_norms(model: nn.Module, batches: Iterable[Inputs]) -> dict[str, torch.Tensor]:
    """L2 norm of each input feature of each prunable layer, over all ``batches``.

    The network runs in ``eval`` mode and is left as it was.

    Args:
        batches: calibration data, see :func:`course_lib.pruning.calibration.batches`.

    Returns:
        The weight's name mapped to (in,) float32: one norm per input feature of a linear layer, or
        per input channel of a convolution. Weights that are used in another way have none:
        those of recurrent and bilinear layers, and all of ``nn.MultiheadAttention``.

    Raises:
        ValueError: the network is refused by :func:`prunable`, the data by
            :func:`course_lib.pruning.calibration.batches`, or an input lacks the batch dimension.
    """
    squares: dict[str, torch.Tensor] = {}

    def watch(name: str) -> InputHook:
        def add(layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            called = name.rpartition(".")[0] or type(model).__name__
            x = calibration.batched(called, layer, first_input(called, args, named)).float()
            features = -1 if _is_linear(layer) else 1
            seen = x.movedim(features, 0).flatten(1).square().sum(1)
            squares[name] = squares.get(name, 0) + seen

        return add

    names = prunable(model)
    handles = [
        layer.register_forward_pre_hook(watch(name), with_kwargs=True)
        for name, layers in owners(model).items()
        for layer in layers
        if name in names and (_is_linear(layer) or isinstance(layer, nn.modules.conv._ConvNd))
    ]
    try:
        with at_rest(model):
            for batch in calibration.batches(batches):
                logits(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: total.sqrt() for name, total in squares.items()}


def _is_linear(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or is_conv1d(layer)


# --- masks from scores --------------------------------------------------------------------------


def global_masks(model: nn.Module, sparsity: float, score: Score = magnitude) -> Masks:
    """Prune the lowest scores of the whole network: every weight competes with every other.

    Raises:
        ValueError: ``sparsity`` is not within 0 to 1, a score is not a number, the network is
            refused by :func:`prunable`, or the given scores lack one of its weights.
    """
    return lowest_overall(*_scored(model, score), sparsity)


def layer_masks(
    model: nn.Module, sparsity: float | Mapping[str, float], score: Score = magnitude
) -> Masks:
    """Prune the lowest scores of each layer on its own.

    Args:
        sparsity: one value, or values by parameter name (a layer that is not named stays dense).

    Raises:
        ValueError: a sparsity is not within 0 to 1, or as :func:`global_masks`.
    """
    if isinstance(sparsity, Mapping):
        wanted = sparsity
        tensors, function = _scored(model, score, wanted)
    else:
        tensors, function = _scored(model, score)
        wanted = dict.fromkeys(tensors, sparsity)
    return {
        name: lowest_overall({name: tensors[name]}, function, wanted.get(name, 0.0))[name]
        for name in tensors
    }


def output_masks(model: nn.Module, sparsity: float, score: Score = magnitude) -> Masks:
    """Prune the lowest scores of each output (row of the weight) on its own, as Wanda does.

    Raises:
        ValueError: ``sparsity`` is not within 0 to 1, or as :func:`global_masks`.
    """

    def prune_rows(scores: torch.Tensor) -> torch.Tensor:
        flat = scores.flatten(1)
        return lowest_per_row(flat, zeros_asked(sparsity, flat.shape[1])).view(scores.shape)

    return _outputs_first(model, score, prune_rows)


def nm_masks(model: nn.Module, n: int, m: int, score: Score = magnitude) -> Masks:
    """Keep ``n`` of every ``m`` consecutive inputs, such as 2:4 (Mishra et al., 2021).

    The groups run along the dimension that the product sums over: the inputs of a linear layer,
    the input channels of a convolution. A layer whose inputs ``m`` does not divide stays dense.

    Raises:
        ValueError: not 0 <= n <= m, or as :func:`global_masks`.
    """
    _check_nm(n, m)

    def prune_groups(scores: torch.Tensor) -> torch.Tensor:
        if scores.shape[1] % m:
            return torch.ones_like(scores, dtype=torch.bool)
        return nm_mask(scores, n, m)

    return _outputs_first(model, score, prune_groups)


def _outputs_first(
    model: nn.Module, score: Score, prune: Callable[[torch.Tensor], torch.Tensor]
) -> Masks:
    """The mask that ``prune`` makes from the scores of each layer, given as (out, in, ...)."""
    layers = owners(model)
    masks = {}
    tensors, function = _scored(model, score)
    for name, tensor in tensors.items():
        scores = _refuse_nan(_score_of(name, tensor, function), name)
        layer = layers[name][0] if name in layers else model  # an embedding has no such layer
        masks[name] = rows(layer, prune(rows(layer, scores))).contiguous()
    return masks


def _score_of(name: str, tensor: torch.Tensor, score: Scorer) -> torch.Tensor:
    found = score(tensor.detach())
    is_tensor = isinstance(found, torch.Tensor)
    if not is_tensor or found.shape != tensor.shape or found.is_complex() or found.is_meta:
        got = f"{tuple(found.shape)} of {found.dtype}" if is_tensor else type(found).__name__
        raise ValueError(
            f"The score of {name} must be real numbers of the shape {tuple(tensor.shape)} of the "
            f"weight, one for each; got {got}."
        )
    return found


def nm_mask(scores: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """Mask that keeps the ``n`` highest of every ``m`` consecutive scores along dimension 1.

    Mask and scores have the same shape, that of the weight.

    Raises:
        ValueError: not 0 <= n <= m, or ``m`` does not divide the size of dimension 1.
    """
    _check_nm(n, m)
    if scores.dim() < 2 or scores.shape[1] % m:
        raise ValueError(
            f"{n}:{m} needs a dimension 1 that {m} divides; the shape is {tuple(scores.shape)}."
        )
    inputs_last = scores.movedim(1, -1)
    kept = lowest_per_row(inputs_last.reshape(-1, m), m - n)
    return kept.view(inputs_last.shape).movedim(-1, 1).contiguous()


def _check_nm(n: int, m: int) -> None:
    whole = isinstance(n, Integral) and isinstance(m, Integral)
    if not whole or not 0 <= n <= m or m < 1:
        raise ValueError(f"An N:M mask keeps n of m with 0 <= n <= m; got {n}:{m}.")


def lowest_per_row(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Mask that prunes the ``count`` lowest of each row of ``scores`` (rows, columns)."""
    order = _refuse_nan(scores).float().argsort(dim=1, stable=True)
    kept = torch.ones_like(scores, dtype=torch.bool)
    return kept.scatter_(1, order[:, :count], False)


def lowest_overall(tensors: Mapping[str, torch.Tensor], score: Scorer, sparsity: float) -> Masks:
    """Prune the fraction ``sparsity`` of all weights of ``tensors``, lowest ``score`` first.

    Two passes over the weights find the highest score to prune, a third writes the masks; only the
    scores of one tensor exist at a time. Sorting 100 M weights takes far more time and memory.

    Raises:
        ValueError: ``sparsity`` is not within 0 to 1, a score is not a number, or ``score`` changes
            from call to call.
    """
    total = sum(tensor.numel() for tensor in tensors.values())
    count = zeros_asked(sparsity, total)

    def scores(name: str) -> Iterator[torch.Tensor]:
        for piece in _score_of(name, tensors[name], score).reshape(-1).split(PIECE):
            yield _refuse_nan(piece.float(), name)

    threshold, ties = _kth_lowest(
        lambda: (piece for name in tensors for piece in scores(name)), count
    )
    masks = {}
    for name, tensor in tensors.items():
        mask = torch.empty(tensor.numel(), dtype=torch.bool, device=tensor.device)
        for kept, piece in zip(mask.split(PIECE), scores(name), strict=True):
            torch.gt(piece, threshold, out=kept)
            if ties is not None:
                tied = (piece == threshold).nonzero().squeeze(1)
                kept[tied[ties:]] = True
                ties = max(0, ties - len(tied))
        masks[name] = mask.view(tensor.shape)
    if sum(int(mask.count_nonzero()) for mask in masks.values()) != total - count:
        raise ValueError(UNSTEADY)
    return masks


def zeros_asked(sparsity: float, total: int) -> int:
    """How many of ``total`` weights a sparsity prunes: ``round(sparsity * total)``.

    Raises:
        ValueError: ``sparsity`` is not within 0 to 1.
    """
    share = as_number(sparsity)
    if not 0 <= share <= 1:
        percent = f" For {share:g} percent, give {share / 100:g}." if 1 < share <= 100 else ""
        raise ValueError(
            f"A sparsity is a fraction from 0 (dense) to 1 (all pruned); got {sparsity!r}.{percent}"
        )
    return round(share * total)


def as_number(value: Any) -> float:
    """``value``, also a scalar of NumPy or torch, as a float; NaN if it is not a single number."""
    if isinstance(value, bool | str | bytes) or getattr(value, "dtype", None) in (bool, torch.bool):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return math.nan


def _kth_lowest(scores: Callable[[], Iterator[torch.Tensor]], k: int) -> tuple[float, int | None]:
    """The ``k``-th lowest score, and how many of those equal to it to prune (None: all of them).

    A radix selection: count the upper 16 bits of all scores, find the bin that holds rank ``k``,
    then count the lower 16 bits of the scores in that bin.
    """
    if k == 0:
        return -math.inf, 0
    upper, k, _ = _bin_of_rank(((_sortable(piece) >> 16) + 0x8000 for piece in scores()), k)
    upper -= 0x8000
    candidates = (ordered[ordered >> 16 == upper] for ordered in map(_sortable, scores()))
    lower, k, equal = _bin_of_rank((ordered & 0xFFFF for ordered in candidates), k)
    bits = _mirror_negative(torch.tensor((upper << 16) + lower, dtype=torch.int32))
    return bits.view(torch.float32).item(), None if k == equal else k


def _bin_of_rank(digits: Iterable[torch.Tensor], k: int) -> tuple[int, int, int]:
    """The digit at rank ``k`` (from 1) of all ``digits``, its rank in its bin, the bin's size."""
    counts = reduce(torch.add, (torch.bincount(digit, minlength=1 << 16) for digit in digits))
    up_to = counts.cumsum(0)
    if k > up_to[-1]:
        raise ValueError(UNSTEADY)
    found = int(torch.searchsorted(up_to, k))
    size = int(counts[found])
    return found, k - int(up_to[found]) + size, size


def _sortable(scores: torch.Tensor) -> torch.Tensor:
    """32-bit integers that sort as the floats ``scores`` do, made from their bits."""
    return _mirror_negative((scores + 0.0).view(torch.int32))  # + 0.0 turns -0 into 0


def _mirror_negative(bits: torch.Tensor) -> torch.Tensor:
    """Reverse the order of negative numbers: there, a larger bit pattern is a smaller float."""
    return bits ^ ((bits >> 31) & 0x7FFF_FFFF)


def _refuse_nan(scores: torch.Tensor, name: str = "the weights") -> torch.Tensor:
    if scores.numel() and scores.amax().isnan():  # a maximum is NaN when any score is
        raise ValueError(
            f"A score of {name} is NaN, so its weights have no order. Did the training diverge? "
            "Load the trained weights again, or lower the learning rate."
        )
    return scores


def _scored(
    model: nn.Module, score: Score, wanted: Mapping[str, float] | None = None
) -> tuple[Mapping[str, torch.Tensor], Scorer]:
    """The tensors to rank, and the function that turns them into scores.

    Args:
        wanted: names of the weights that need a score; None for every prunable one.
    """
    weights, named = prunable(model), embeddings(model)
    if not weights:
        raise ValueError(
            f"{type(model).__name__} has no linear or convolution layer to prune; "
            "masks.coverage says what it has."
        )
    _known(wanted or (), weights | named)
    if not isinstance(score, Mapping):
        if not callable(score):
            raise ValueError(f"A score is a function, or scores by name; got {score!r}.")
        return weights | {name: named[name] for name in wanted or () if name in named}, score
    _fit(score, weights | named)
    missing = [name for name in (weights if wanted is None else wanted) if name not in score]
    if missing:
        total = sum(weight.numel() for weight in weights.values())
        share = sum((weights | named)[name].numel() for name in missing) / total
        raise ValueError(
            f"There is no score for {', '.join(missing)}, {share:.0%} of the prunable weights, so "
            "the sparsity would be that of the rest. Give scores for these too, or name the "
            "weights to prune: layer_masks takes a sparsity for each name."
        )
    return score, lambda scores: scores


# --- putting masks on a network -----------------------------------------------------------------


@torch.no_grad()
def apply_masks(model: nn.Module, masks: Masks) -> None:
    """Set the pruned weights of ``model`` to zero, in place; their old values are lost.

    Raises:
        ValueError: a mask has an unknown name, another shape than its weight, or is not boolean.
    """
    weights = prunable(model) | embeddings(model)
    _fit(masks, weights)
    for name, mask in masks.items():
        if mask.dtype != torch.bool:
            raise ValueError(f"The mask of {name} must be boolean; its dtype is {mask.dtype}.")
    for name, mask in masks.items():
        weights[name].masked_fill_(~mask.to(weights[name].device), 0)


def pruned_copy(model: Network, masks: Masks) -> Network:
    """A copy of ``model`` with ``masks`` applied; ``model`` itself is left as it is.

    Raises:
        ValueError: as :func:`apply_masks`, or something attached to ``model`` cannot be copied.
    """
    pruned = copied(model)
    apply_masks(pruned, masks)
    return pruned


@contextlib.contextmanager
def enforce_masks(model: nn.Module, masks: Masks) -> Iterator[None]:
    """Keep pruned weights at exactly zero while the network trains with any optimizer.

    Within the context a pruned weight gets no gradient and is set back to zero after every step,
    so that neither momentum nor weight decay revives it. Afterwards the zeros are ordinary values.

    Raises:
        ValueError: a mask has an unknown name or another shape than its weight.
    """
    apply_masks(model, masks)
    weights = prunable(model) | embeddings(model)
    pruned = {weights[name]: ~mask.to(weights[name].device) for name, mask in masks.items()}

    def zero_weights(*_: object) -> None:
        with torch.no_grad():
            for weight, gone in pruned.items():
                weight.masked_fill_(gone, 0)

    def zero_gradient(weight: nn.Parameter) -> None:
        if weight.grad is not None:
            weight.grad.masked_fill_(pruned[weight], 0)

    handles = [register_optimizer_step_post_hook(zero_weights)]
    for weight in pruned:
        if weight.requires_grad:
            handles.append(weight.register_post_accumulate_grad_hook(zero_gradient))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def masks_of(model: nn.Module) -> Masks:
    """The masks of a pruned network: False wherever a prunable weight is exactly zero.

    Embeddings get none, since a row of zeros in one may be that of the padding token.
    """
    return {name: weight.detach() != 0 for name, weight in prunable(model).items()}


def cubic_sparsity(progress: float, final: float, initial: float = 0.0) -> float:
    """Sparsity at ``progress`` (0 to 1) of gradual pruning: fast at first, then ever slower.

    Zhu and Gupta (2017): ``final + (initial - final) * (1 - progress) ** 3``.

    Raises:
        ValueError: an argument is not within 0 to 1.
    """
    for name, value in (("progress", progress), ("final", final), ("initial", initial)):
        if not 0 <= as_number(value) <= 1:
            raise ValueError(f"{name} is a fraction from 0 to 1; got {value!r}.")
    return final + (initial - final) * (1 - progress) ** 3


def _fit(given: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> None:
    if not isinstance(given, Mapping):
        raise ValueError(f"Give tensors by parameter name; got {type(given).__name__}.")
    _known(given, weights)
    for name, tensor in given.items():
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"For {name}, give a tensor; got {type(tensor).__name__}.")
        if tensor.shape != weights[name].shape:
            raise ValueError(
                f"{name} has the shape {tuple(weights[name].shape)}, "
                f"but what was given for it has {tuple(tensor.shape)}."
            )


def _known(names: Iterable[str], weights: Mapping[str, torch.Tensor]) -> None:
    for name in names:
        if name not in weights:
            raise ValueError(
                f"No prunable weight is called {name!r}; there are: {', '.join(weights)}."
            )
