"""One-shot pruning: single weights of linear layers are removed, without retraining.

A linear layer computes ``X W^T`` from its inputs X (tokens, in). What pruning does to it depends on
the inputs only through ``X^T X`` (in, in), half of the *Hessian* of the squared error of its
outputs (here just called the Hessian). Magnitude ignores it, Wanda looks at its diagonal, and
SparseGPT uses all of it: when a weight goes, others change to make up for it, as in the Optimal
Brain Surgeon (OBS; Hassibi and Stork, 1993). Lesson 08 compares them.

The ``Conv1D`` of ``transformers`` is a linear layer too; its weight is transposed to (out, in).

Which weights go is a *pattern*: a sparsity from 0 to 1, or (n, m) to keep n of every m consecutive
inputs, such as (2, 4).
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import torch
from torch import nn

from course_lib.bars import Progress
from course_lib.networks.models import Inputs, Network, logits
from course_lib.pruning import calibration, masks
from course_lib.pruning.layers import InputHook, at_rest, copied, first_input
from course_lib.pruning.weights import coverage, is_conv1d, prunable, rows

#: A sparsity from 0 (dense) to 1, or (n, m): keep n of every m consecutive inputs.
Pattern = float | tuple[int, int]

#: The pruned weight (out, in), from the weight, the Hessian of its inputs (in, in) and the pattern.
Method = Callable[[torch.Tensor, torch.Tensor, Pattern], torch.Tensor]

#: Which weights of a group of columns stay, from what the removal of each would cost.
Choice = Callable[[torch.Tensor], torch.Tensor]

#: After this many columns, SparseGPT corrects all those further to the right.
BLOCK = 128


# --- the inputs of each layer -------------------------------------------------------------------


@torch.no_grad()
def hessians(
    model: nn.Module, batches: Iterable[Inputs], layers: Sequence[str] | None = None
) -> dict[str, torch.Tensor]:
    """``X^T X`` of the inputs X that each linear layer sees over all ``batches``.

    The network runs in ``eval`` mode and is left as it was. Where a batch has an
    ``attention_mask``, padding tokens are left out. ``nn.MultiheadAttention`` uses the weight of
    its ``out_proj`` without calling that layer, so it is left out. Layers that share a weight have
    one Hessian, under the name of the first.

    Args:
        batches: calibration data, see :func:`course_lib.pruning.calibration.batches`.
        layers: names of linear layers; None for all that run, except those tied to a table of
            embeddings.

    Returns:
        By layer name, in the order in which the layers first run: (in, in) float64.

    Raises:
        ValueError: a given name is not that of a linear layer that runs; a weight cannot be pruned;
            or the calibration data is refused, or makes the inputs of a layer infinite or NaN.
    """
    found: dict[str, torch.Tensor] = {}
    names = _linear(model, layers)
    with at_rest(model):
        for batch in calibration.batches(batches):
            with _watched(names, found, batch):
                logits(model, batch)
    silent = [name for name in names if name not in found]
    if layers is not None and silent:
        raise ValueError(f"No input comes to {', '.join(silent)} when the network runs.")
    for name, hessian in found.items():
        if not hessian.isfinite().all():
            raise ValueError(f"The inputs of {name} are infinite or NaN; look at the layer before.")
    return found


@contextmanager
def _watched(
    names: Mapping[str, Sequence[nn.Module]], found: dict[str, torch.Tensor], batch: Inputs
) -> Iterator[None]:
    """Within the block, add ``X^T X`` of what each layer sees of ``batch`` to ``found``."""

    def watch(name: str) -> InputHook:
        def add(layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            x = calibration.batched(name, layer, first_input(name, args, named))
            x = _tokens(x, batch)
            x = x if x.dtype == torch.float64 else x.float()
            found[name] = found.get(name, 0) + _double(x.T @ x)

        return add

    hooks = [
        layer.register_forward_pre_hook(watch(name), with_kwargs=True)
        for name, layers in names.items()
        for layer in layers
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _double(values: torch.Tensor) -> torch.Tensor:
    """In float64, on the CPU if the device has none (mps)."""
    return values.cpu().double() if values.device.type == "mps" else values.double()


def _tokens(inputs: torch.Tensor, batch: Inputs) -> torch.Tensor:
    """A layer's inputs as (tokens, in), without padding."""
    shown = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    if shown is not None and inputs.shape[:-1] == shown.shape:
        return inputs[shown.bool().to(inputs.device)]
    return inputs.flatten(0, -2)


def _linear(model: nn.Module, layers: Sequence[str] | None) -> dict[str, list[nn.Module]]:
    """For each wanted linear layer, by name, the layers that share its weight, itself first."""
    there = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) or is_conv1d(layer)
    }
    if layers is None:
        weights = prunable(model)
        wanted = [name for name in there if _weight_of(name) in weights]
    else:
        wanted = [layers] if isinstance(layers, str) else list(layers)
    refused = coverage(model).refused
    for name in wanted:
        if name not in there:
            raise ValueError(f"No linear layer is called {name!r}; there are: {', '.join(there)}.")
        if _weight_of(name) in refused:
            raise ValueError(f"{name} cannot be pruned: {refused[_weight_of(name)]}.")
    held = {name: layer._parameters.get("weight") for name, layer in there.items()}
    return {name: [there[other] for other in held if held[other] is held[name]] for name in wanted}


def _weight_of(layer: str) -> str:
    return f"{layer}.weight" if layer else "weight"


# --- methods ------------------------------------------------------------------------------------


def magnitude(weight: torch.Tensor, hessian: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """Zero the smallest weights of the layer (Han et al., 2015); the Hessian is ignored.

    Args:
        weight: (rows, columns), as returned; the Hessian is (columns, columns).

    Raises:
        ValueError: the pattern is invalid or does not fit the weight.
    """
    return weight.detach() * _lowest(masks.magnitude(weight), pattern)


def wanda(weight: torch.Tensor, hessian: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """Zero, in each row, the smallest |weight| times norm of its input (Sun et al., 2023).

    Args:
        weight: (rows, columns), as returned.
        hessian: (columns, columns); its diagonal holds the squared norms.

    Raises:
        ValueError: the pattern is invalid or does not fit the weight.
    """
    scores = masks.wanda(weight, hessian.diagonal().sqrt().float().to(weight.device))
    if isinstance(pattern, tuple):
        return weight.detach() * masks.nm_mask(scores, *pattern)
    count = masks.zeros_asked(pattern, weight.shape[1])
    return weight.detach() * masks.lowest_per_row(scores, count)


def sparsegpt(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    pattern: Pattern,
    columns: int = BLOCK,
    damping: float = 0.01,
) -> torch.Tensor:
    """Zero weights and adjust those to their right to compensate (Frantar and Alistarh, 2023).

    Goes through the inputs from left to right, in groups of ``columns`` (of m, where the pattern is
    n of m). In each group it prunes the weights whose removal costs least at that point. Weights
    further left are not changed again. That makes it fast, since one inverse serves all rows, but
    not optimal, see :func:`reconstructed`.

    Args:
        weight: (rows, columns), as returned; the Hessian is (columns, columns).
        damping: added to the diagonal of the Hessian, as a fraction of its mean.

    Raises:
        ValueError: the pattern is invalid or does not fit the weight, or the Hessian cannot be
            inverted.
    """
    if isinstance(pattern, tuple):
        masks.nm_mask(weight.detach(), *pattern)  # refuses a pattern that does not fit
        columns = pattern[1]

    root = _inverse_root(hessian, damping)
    return _swept(weight, root, columns, lambda costs: _lowest(costs, pattern))


def compensated(
    weight: torch.Tensor, hessian: torch.Tensor, mask: torch.Tensor, damping: float = 0.0
) -> torch.Tensor:
    """The update of :func:`sparsegpt` for a given ``mask`` (out, in), where True keeps.

    A row that loses one weight gets the OBS update with all weights to its left held fixed. If it
    is the first weight of the row, that is the exact OBS update.

    Raises:
        ValueError: the Hessian cannot be inverted.
    """
    root = _inverse_root(hessian, damping)
    groups = iter(mask.to(root.device).split(BLOCK, dim=1))
    return _swept(weight, root, BLOCK, lambda costs: next(groups))


def _swept(weight: torch.Tensor, root: torch.Tensor, group: int, choose: Choice) -> torch.Tensor:
    """Prune each group of columns as ``choose`` says, and correct the columns to its right.

    Row i of ``root``, divided by its first value, holds what OBS needs to remove weight i once all
    weights to its left are fixed. Corrections beyond the current block of columns are applied at
    its end, in one product.
    """
    swept = _double(weight.detach()).clone()
    size = group * max(1, BLOCK // group)
    for start in range(0, weight.shape[1], size):
        block, rest = slice(start, start + size), slice(start + size, None)
        errors = _sweep_block(swept[:, block], root[block, block], group, choose)
        swept[:, rest] -= errors @ root[block, rest]
    return swept.to(weight)


def _sweep_block(
    weight: torch.Tensor, root: torch.Tensor, group: int, choose: Choice
) -> torch.Tensor:
    """Prune and correct a block in place; return what each column lost, in terms of ``root``."""
    errors = torch.zeros_like(weight)
    for column in range(weight.shape[1]):
        if column % group == 0:
            part = slice(column, column + group)
            kept = choose((weight[:, part] / root.diagonal()[part]).square())
        gone = ~kept[:, column % group]
        errors[:, column] = weight[:, column] * gone / root[column, column]
        weight[:, column:] -= errors[:, column, None] * root[column, column:]
        weight[:, column].masked_fill_(gone, 0)  # exactly, not up to rounding
    return errors


def _inverse_root(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    """The upper triangular U with U^T U = inverse of the damped Hessian, float64."""
    damped = _double(hessian).clone()
    damped.diagonal().add_(damping * damped.diagonal().mean())
    try:
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
        root: torch.Tensor = torch.linalg.cholesky(inverse, upper=True)
    except torch.linalg.LinAlgError as error:
        raise ValueError(
            f"The Hessian of {len(hessian)} inputs cannot be inverted with damping {damping}: "
            "use more calibration data or more damping. If that does not help, the inputs are "
            "all zero, or not all finite."
        ) from error
    return root


def _lowest(scores: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """The mask that prunes the lowest of all ``scores`` (out, in), or of every m in a row."""
    if isinstance(pattern, tuple):
        return masks.nm_mask(scores, *pattern)
    return masks.lowest_overall({"it": scores}, lambda scores: scores, pattern)["it"]


# --- the best possible --------------------------------------------------------------------------


def reconstructed(weight: torch.Tensor, hessian: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The best weights for a ``mask`` (out, in): least squares on the inputs that each row keeps.

    For each row, the kept weights solve ``H_kk d = H_kp w_p``, where d is what is added to them and
    w_p what was pruned. If several solutions are best, as with linearly dependent inputs, it is the
    one nearest to ``weight``. Each row needs a linear system of its own, which SparseGPT avoids.
    """
    whole, hessian = _double(weight.detach()), _double(hessian)
    mask = mask.to(whole.device)
    best = whole * mask
    for row, (kept, old) in enumerate(zip(mask, whole, strict=True)):
        if kept.any() and not kept.all():
            missing = hessian[kept][:, ~kept] @ old[~kept]
            best[row, kept] += _solved(hessian[kept][:, kept], missing)
    return best.to(weight)


def _solved(matrix: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The minimum-norm solution, also of singular systems, which torch solves on the CPU only."""
    found = torch.linalg.lstsq(matrix.cpu(), values[:, None].cpu(), driver="gelsy")
    solution: torch.Tensor = found.solution
    return solution[:, 0].to(values)


def output_error(weight: torch.Tensor, pruned: torch.Tensor, hessian: torch.Tensor) -> float:
    """Squared error of the layer's outputs on the calibration data, over their squared norm.

    Args:
        weight, pruned: (rows, columns).
        hessian: (columns, columns), from the calibration data.
    """
    hessian, weight = _double(hessian), _double(weight.detach())
    error = weight - _double(pruned.detach())
    return float(((error @ hessian) * error).sum() / ((weight @ hessian) * weight).sum())


# --- a whole network ----------------------------------------------------------------------------


def prune(
    model: Network,
    batches: Iterable[Inputs],
    method: Method = sparsegpt,
    pattern: Pattern = 0.5,
    layers: Sequence[str] | None = None,
    at_once: int = 1,
    progress: Progress[list[str]] = iter,
) -> Network:
    """A copy of ``model``, in ``eval`` mode, with its linear layers pruned in the order they run.

    Each layer is pruned for the inputs that it gets once the layers before it are pruned. Without
    ``layers``, a warning names the prunable weights that stay dense: those that are in no linear
    layer, or in one that never runs.

    Args:
        batches: calibration data, see :func:`course_lib.pruning.calibration.batches`; kept in
            memory, because each step passes over it once.
        layers: names of linear layers to prune; None for all that run. A layer stays dense if the m
            of the pattern does not divide its inputs.
        at_once: how many linear layers are pruned in one step, with the inputs from before it. The
            authors' code takes one layer of a transformer, which is 6 of these in BERT.
        progress: wraps the steps, for a progress bar.

    Raises:
        ValueError: the pattern is invalid, or what :func:`hessians` or ``method`` refuses,
            with the name of the layer.
    """
    _check(pattern, at_once)
    batches = list(calibration.batches(batches))
    pruned = copied(model).eval()
    names = list(hessians(pruned, batches[:1], layers))
    if layers is None:
        _tell_what_stays(pruned, names)
    for step in progress([names[i : i + at_once] for i in range(0, len(names), at_once)]):
        for name, hessian in hessians(pruned, batches, step).items():
            _prune_layer(name, pruned.get_submodule(name), hessian, method, pattern)
    return pruned


def _check(pattern: Pattern, at_once: int) -> None:
    if not isinstance(at_once, Integral) or at_once < 1:
        raise ValueError(f"Prune at least 1 layer at once; got {at_once!r}.")
    if not isinstance(pattern, tuple):
        masks.zeros_asked(pattern, 0)
    elif len(pattern) != 2:
        raise ValueError(f"A pattern of groups is (n, m): keep n of every m; got {pattern!r}.")
    else:
        masks.nm_mask(torch.ones(1, 0), *pattern)


def _tell_what_stays(model: nn.Module, names: Sequence[str]) -> None:
    """Warn of prunable weights that are in none of the layers ``names``."""
    weights = prunable(model)
    pruned = {id(model.get_submodule(name).weight) for name in names}
    dense = {name: each.numel() for name, each in weights.items() if id(each) not in pruned}
    if dense:
        share = sum(dense.values()) / sum(each.numel() for each in weights.values())
        warnings.warn(
            f"{share:.0%} of the prunable weights stay dense, because they are in no linear layer "
            f"that is called: {', '.join(dense)}. Name the layers to prune, if that is meant.",
            stacklevel=3,
        )


@torch.no_grad()
def _prune_layer(
    name: str, layer: nn.Module, hessian: torch.Tensor, method: Method, pattern: Pattern
) -> None:
    held = layer.get_parameter("weight")
    weight = rows(layer, held)
    if isinstance(pattern, tuple) and weight.shape[1] % pattern[1]:
        return
    try:
        pruned = method(weight, hessian, pattern)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if not pruned.isfinite().all():
        raise ValueError(
            f"{name}: the pruned weights are infinite or NaN in {weight.dtype}. Prune a copy in "
            "float32, model.float()."
        )
    held.copy_(rows(layer, pruned))
