"""A weight matrix with zeros, stored in every sparse format of torch: its bytes and its speed.

A *format* is a way to store the matrix. Each needs its own *pattern* of zeros: single weights
anywhere, whole square blocks, or two of every four weights in a row (2:4). Lesson 05 shows them.
Lesson 09 converts a network: each layer to the format that is measured to be faster, if any is.
"""

import copy
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch.sparse import SparseSemiStructuredTensor

from course_lib.measuring.timing import Speedup, Timing, affordable, compare, once, too_slow
from course_lib.networks.attention import layered
from course_lib.pruning import calibration
from course_lib.pruning.layers import peculiarity
from course_lib.pruning.masks import lowest_overall, nm_mask, zeros_asked

#: How far a product may be from the dense one, as a fraction of its largest value.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


#: A product that takes more than this share of a GPU's memory is not timed: formats take turns, and
#: what one of them leaves behind would decide whether the next one fits.
MEMORY = 0.25

#: A product is first tried with one column, then with this many times as many, and so on.
MORE = 8


class Unsupported(RuntimeError):
    """A format that is not available for this device, dtype or shape, and why."""


Convert = Callable[[torch.Tensor], torch.Tensor]


class Format(NamedTuple):
    """How a matrix is stored: ``convert`` makes it from a dense one with zeros in its pattern.

    ``block`` is that pattern: 1 for single weights, n for blocks of n x n, None for 2:4.
    """

    convert: Convert
    block: int | None = 1


class StoredMatrix(NamedTuple):
    """A weight matrix in one format.

    ``tensor`` is used in products; ``dense`` is the same matrix stored densely. If the format is
    not available, both are None, and ``why`` says why.
    """

    dense: torch.Tensor | None = None
    tensor: torch.Tensor | None = None
    sparsity: float = 0.0
    bytes: int = 0
    convert_ms: float = 0.0
    why: str | None = None


class Row(NamedTuple):
    """The time of one product in a format; ``speedup`` is over the dense weight.

    ``error`` is the largest difference from the dense product of the same matrix, as a fraction of
    its largest value. A product that was not timed has no ``timing``, and ``why`` says why.
    """

    timing: Timing | None = None
    speedup: Speedup | None = None
    error: float | None = None
    why: str | None = None

    @property
    def ratio(self) -> float:
        """The ``speedup`` as a number; NaN where the product was not timed."""
        return self.speedup.value if self.speedup else math.nan


# --- formats ------------------------------------------------------------------------------------


def csr(weight: torch.Tensor) -> torch.Tensor:
    """Compressed sparse rows: each nonzero value with its column, and where each row begins.

    Args:
        weight: (out, in), as for all formats.
    """
    held = weight.to_sparse_csr()
    places = held.crow_indices().int(), held.col_indices().int()  # 32 bits are enough
    return torch.sparse_csr_tensor(*places, held.values(), weight.shape)


def coo(weight: torch.Tensor) -> torch.Tensor:
    """Coordinates: each nonzero value of (out, in) with its row and its column."""
    return weight.to_sparse_coo().coalesce()


def bsr(weight: torch.Tensor, block: int) -> torch.Tensor:
    """Block sparse rows: CSR whose entries are dense blocks.

    Raises:
        Unsupported: ``block`` does not divide the shape.
    """
    if any(size % block for size in weight.shape):
        raise Unsupported(f"{tuple(weight.shape)} cannot be cut into blocks of {block} x {block}")
    return weight.to_sparse_bsr((block, block))


def two_four(weight: torch.Tensor) -> torch.Tensor:
    """2:4: two of every four values, and two bits for the place of each (Mishra et al., 2021).

    Args:
        weight: (out, in), float16 or bfloat16 on a CUDA GPU.

    Raises:
        Unsupported: there are no sparse tensor cores here.
    """
    if not weight.is_cuda:
        raise Unsupported("2:4 needs a CUDA GPU with sparse tensor cores")
    if torch.cuda.get_device_capability() < (8, 0):
        raise Unsupported(f"{torch.cuda.get_device_name()} has no sparse tensor cores")
    return torch.sparse.to_sparse_semi_structured(weight)


FORMATS = {
    "masked": Format(torch.Tensor.contiguous),
    "COO": Format(coo),
    "CSR": Format(csr),
    "BSR 4": Format(partial(bsr, block=4), block=4),
    "BSR 16": Format(partial(bsr, block=16), block=16),
    "BSR 32": Format(partial(bsr, block=32), block=32),
    "2:4": Format(two_four, block=None),
}


def held_bytes(held: torch.Tensor) -> int:
    """Bytes of the values and of the indices of a matrix of any shape and format."""
    if held.layout is torch.strided and type(held) is torch.Tensor:
        parts = [held]
    elif held.layout is torch.sparse_coo:
        parts = [held.values(), held.indices()]
    elif held.layout in (torch.sparse_csr, torch.sparse_bsr):
        parts = [held.values(), held.col_indices(), held.crow_indices()]
    else:
        semi = cast(SparseSemiStructuredTensor, held)
        parts = [part for part in (semi.packed, semi.meta) if part is not None]
    return sum(part.numel() * part.element_size() for part in parts)


# --- zeros in the pattern that a format needs ---------------------------------------------------


def pruned(weight: torch.Tensor, sparsity: float, block: int | None = 1) -> torch.Tensor:
    """``weight`` (rows, columns) with the smallest of its weights, or of its blocks, set to zero.

    Args:
        block: 1 for single weights; n for blocks of n x n, ranked by the sum of their magnitudes;
            None for the two smallest of every four in a row, whatever the ``sparsity``.

    Raises:
        ValueError: ``sparsity`` is not within 0 to 1.
        Unsupported: the block, or four, does not divide the shape.
    """
    if block is None:
        if weight.shape[1] % 4:
            raise Unsupported(f"4 does not divide the {weight.shape[1]} columns")
        return weight * nm_mask(weight.abs(), 2, 4)
    if any(size % block for size in weight.shape):
        raise Unsupported(f"{tuple(weight.shape)} cannot be cut into blocks of {block} x {block}")
    rows, columns = (size // block for size in weight.shape)
    sums = weight.abs().float().view(rows, block, columns, block).sum((1, 3))
    mask = lowest_overall({"blocks": sums}, torch.Tensor.abs, sparsity)["blocks"]
    return weight * mask.repeat_interleave(block, 0).repeat_interleave(block, 1)


# --- measuring ----------------------------------------------------------------------------------


def to_formats(
    weight: torch.Tensor, sparsity: float, formats: Iterable[str] = tuple(FORMATS)
) -> dict[str, StoredMatrix]:
    """``weight`` (rows, columns) as it is, named "dense", and in each of ``formats`` with zeros.

    A format that is not available for this device, dtype or shape says why.

    Raises:
        ValueError: an unknown format, a weight that is not a matrix, or an invalid ``sparsity``.
    """
    formats = tuple(formats)
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise ValueError(f"There is no format {unknown[0]!r}; choose from {', '.join(FORMATS)}.")
    if weight.dim() != 2:
        raise ValueError(f"A weight is (rows, columns); got {tuple(weight.shape)}.")
    zeros_asked(sparsity, weight.numel())
    held, zeros = {"dense": StoredMatrix(weight, weight, 0.0, held_bytes(weight))}, {}
    for name in formats:
        convert, block = FORMATS[name]
        try:
            if block not in zeros:
                zeros[block] = pruned(weight, sparsity, block)
            held[name] = _converted(zeros[block], convert)
        except (RuntimeError, NotImplementedError) as error:
            held[name] = StoredMatrix(why=_first_sentence(error))
    return held


def _converted(dense: torch.Tensor, convert: Convert) -> StoredMatrix:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its sparse formats beta, or prototypes
        tensor = convert(dense)
        taken = _milliseconds(convert, dense)
    share = 1 - int(dense.count_nonzero()) / dense.numel()
    return StoredMatrix(dense, tensor, share, held_bytes(tensor), taken)


def _milliseconds(convert: Convert, weight: torch.Tensor) -> float:
    """Median of three conversions."""
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        convert(weight)
        if weight.is_cuda:
            torch.cuda.synchronize()
        taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken)


def _first_sentence(error: Exception) -> str:
    """What torch says, without the advice and the stack that may follow."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0].rstrip(".")


def measure(
    held: Mapping[str, StoredMatrix],
    inputs: torch.Tensor,
    *,
    rounds: int = 30,
    seconds: float = 2.0,
    limit: float = 30.0,
) -> dict[str, Row]:
    """Time the products of everything from :func:`to_formats` with ``inputs``, in turns.

    Every product is first compared with the dense product of the same matrix. One that is wrong,
    refused by torch, all zeros or too slow is not timed, and says why.

    Args:
        inputs: (columns, batch), of the dtype and on the device of the weight.
        rounds, seconds, limit: as in :func:`course_lib.measuring.timing.compare`.

    Raises:
        ValueError: shapes do not fit, or the dense product is not finite or all zeros.
    """
    weight = held["dense"].tensor
    assert weight is not None  # it is there in every case
    if inputs.dim() != 2 or weight.shape[1] != inputs.shape[0]:
        raise ValueError(
            "The weight is (rows, columns) and the inputs are (columns, batch); got "
            f"{tuple(weight.shape)} and {tuple(inputs.shape)}."
        )
    taken = _foreseen(weight, inputs, limit)
    if not affordable(taken, limit):
        return {name: Row(why=f"the dense product is {too_slow(taken)}") for name in held}
    rows = {name: _checked(one, inputs, limit) for name, one in held.items()}
    if rows["dense"].why:
        raise ValueError(f"The dense product cannot be timed: {rows['dense'].why}.")
    runs = {
        name: partial(torch.matmul, one.tensor)
        for name, one in held.items()
        if one.tensor is not None and rows[name].why is None
    }
    result = compare(runs, inputs, rounds=rounds, seconds=seconds, limit=limit)
    for name in runs:
        timing, speedup = result.timings[name], result.speedup(name, over="dense")
        if math.isnan(speedup.low):
            rows[name] = rows[name]._replace(why=too_slow(timing.median / 1000))
        else:
            rows[name] = rows[name]._replace(timing=timing, speedup=speedup)
    return rows


def _foreseen(matrix: torch.Tensor, inputs: torch.Tensor, limit: float) -> float:
    """Seconds that ``matrix @ inputs`` may take; 0 if it is certainly not too slow.

    Extrapolated from fewer columns, so as not to wait for a product that is too slow.
    """
    columns, wide = inputs.shape[1], 1
    while wide < columns:
        few = inputs[:, :wide].contiguous()
        if not affordable(MORE * once(torch.matmul, matrix, few), limit):
            taken = once(torch.matmul, matrix, few)  # the first call may load its routine
            if not affordable(MORE * taken, limit):
                return taken * columns / wide
        wide *= MORE
    return 0.0


def _checked(held: StoredMatrix, inputs: torch.Tensor, limit: float) -> Row:
    """The row of a product that is not timed yet: its error, or why it will not be timed."""
    dense, tensor = held.dense, held.tensor
    if dense is None or tensor is None:
        return Row(why=held.why)
    if not dense.any():
        return Row(why="nothing but zeros is left")
    try:
        taken = _foreseen(tensor, inputs, limit)
        if not affordable(taken, limit):
            return Row(why=too_slow(taken))
        found, share = _with_memory(tensor, inputs)
        if share > MEMORY:
            return Row(why=f"its product takes {share:.0%} of the GPU's memory")
    except (RuntimeError, NotImplementedError) as problem:
        return Row(why=_first_sentence(problem))
    expected = dense @ inputs
    error = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
    if not error <= TOLERANCE[inputs.dtype]:
        return Row(error=error, why=f"its product is wrong by {error:.0%} of the largest value")
    return Row(error=error)


def _with_memory(matrix: torch.Tensor, inputs: torch.Tensor) -> tuple[torch.Tensor, float]:
    """``matrix @ inputs``, and the share of the GPU's memory that this takes; 0 on a CPU."""
    if not inputs.is_cuda:
        return matrix @ inputs, 0.0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = matrix @ inputs
    taken = torch.cuda.max_memory_allocated() - before
    torch.cuda.empty_cache()
    return found, taken / torch.cuda.get_device_properties().total_memory


# --- reading a sweep ----------------------------------------------------------------------------


def break_even(sparsities: Sequence[float], speedups: Sequence[float]) -> float | None:
    """The sparsity above which a format is faster than dense; None if it never is.

    Between two measurements, the logarithm of the speed-up is interpolated linearly over that of
    the density (1 - sparsity): the time of a sparse product is about proportional to what is left.
    If all measurements are faster, it is the lowest sparsity measured, or less.

    Args:
        sparsities: rising, below 1.
        speedups: dense time over sparse time at each.
    """
    pairs = list(zip(sparsities, speedups, strict=True))
    slower = [number for number, (_, speedup) in enumerate(pairs) if speedup < 1]
    if not slower:
        return sparsities[0]
    if slower[-1] == len(pairs) - 1:
        return None
    (before, slow), (after, fast) = pairs[slower[-1] : slower[-1] + 2]
    share = math.log(1 / slow) / math.log(fast / slow)
    return 1 - (1 - before) * ((1 - after) / (1 - before)) ** share


# --- converting a network -----------------------------------------------------------------------

#: The formats that a layer may get; the others of :data:`FORMATS` need zeros in whole blocks.
CANDIDATES = ("CSR", "2:4")


#: What may be held in a sparse format, at least in principle.
Layer = nn.Linear | nn.modules.conv._ConvNd


class Choice(NamedTuple):
    """The ``format`` of one layer, None for dense, and the ``reason``."""

    format: str | None
    sparsity: float
    reason: str


class SparseLinear(nn.Module):
    """A linear layer whose ``weight`` (out, in) is in a sparse format; for inference.

    Its ``state_dict`` holds the dense tensors that the weight consists of, such as
    ``weight.values``: neither files nor copies of a state can hold a sparse tensor.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None):
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs (..., out) of inputs (..., in).

        Raises:
            ValueError: ``x`` has another width or type than the weight.
        """
        columns = self.weight.shape[1]
        if x.shape[-1:] != (columns,) or x.dtype != self.weight.dtype:
            raise ValueError(
                f"This layer takes (..., {columns}) of {self.weight.dtype}; got {tuple(x.shape)} "
                f"of {x.dtype}."
            )
        out = (self.weight @ x.reshape(-1, columns).T).T
        out = out.unflatten(0, x.shape[:-1]) if x.dim() > 1 else out[0]
        return out if self.bias is None else out + self.bias

    def __deepcopy__(self, memo: dict) -> "SparseLinear":
        """torch copies the memory of a tensor, but a sparse tensor has several pieces of it."""
        copied = copy.copy(self)
        memo[id(self)] = copied
        weight = self.weight.clone()
        state = {name: value for name, value in vars(self).items() if name != "_buffers"}
        copied.__dict__ = copy.deepcopy(state, memo)
        copied._buffers = {"weight": weight, "bias": copy.deepcopy(self.bias, memo)}
        return copied

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        weight = destination.pop(f"{prefix}weight")
        for name, part in _parts(weight).items():
            destination[f"{prefix}weight.{name}"] = part

    def _load_from_state_dict(
        self, state: dict, prefix: str, metadata, strict, missing, unexpected, errors: list
    ) -> None:
        names = {name: f"{prefix}weight.{name}" for name in _parts(self.weight)}
        if all(name in state for name in names.values()):
            parts = {name: state.pop(whole) for name, whole in names.items()}
            try:
                self.weight = _joined(self.weight, parts)
            except RuntimeError as error:
                errors.append(f"{prefix}weight: {_first_sentence(error)}")
            state[f"{prefix}weight"] = self.weight
        super()._load_from_state_dict(state, prefix, metadata, strict, missing, unexpected, errors)


def _parts(held: torch.Tensor) -> dict[str, torch.Tensor]:
    """The dense tensors that ``held`` consists of; for 2:4, the dense matrix."""
    if held.layout is torch.sparse_coo:
        return {"indices": held.indices(), "values": held.values()}
    if held.layout in (torch.sparse_csr, torch.sparse_bsr):
        starts, columns = held.crow_indices(), held.col_indices()
        return {"starts": starts, "columns": columns, "values": held.values()}
    return {"dense": held if type(held) is torch.Tensor else held.to_dense()}


def _joined(like: torch.Tensor, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """A matrix of ``parts``, with the format, dtype and device of ``like``; copied and checked."""
    held = {name: part.detach().to(like.device, copy=True) for name, part in parts.items()}
    *places, values = held.values()
    values = values.to(like.dtype)
    if like.layout is torch.sparse_coo:
        (indices,) = places
        joined = torch.sparse_coo_tensor(indices, values, like.shape, check_invariants=True)
        return joined.coalesce()
    if places:
        starts, columns = places
        return torch.sparse_compressed_tensor(
            starts, columns, values, like.shape, layout=like.layout, check_invariants=True
        )
    return values if type(like) is torch.Tensor else two_four(values)


def converted(
    model: nn.Module,
    example: torch.Tensor,
    formats: Iterable[str] = CANDIDATES,
    **measuring: Any,
) -> tuple[nn.Module, dict[str, Choice]]:
    """A copy of ``model`` with sparse layers where that is faster here, and the reasons by layer.

    A layer gets a format if this machine has it, the zeros fit its pattern, and the interval of its
    measured speed-up over the dense layer lies above 1; of several, the fastest. The copy is for
    inference and computes what ``model`` computes.

    Args:
        model: any network; the copy is in ``eval`` mode.
        example: an input of the shape, batch included, that the network will be used with.
        formats: names in :data:`FORMATS`.
        measuring: further arguments of :func:`measure`.

    Raises:
        ValueError: a layer gets no input, or no whole batch; or an attention layer has hooks or the
            like, which its copy would not have.
    """
    for name, layer in model.named_modules():
        why = isinstance(layer, nn.MultiheadAttention) and peculiarity(layer)
        if why:
            raise ValueError(f"The attention {name} cannot be taken apart: {why}.")
    copied, choices = layered(model).eval(), {}
    there = _layers(copied)
    for name, inputs in _inputs(copied, example).items():
        layer = there[name]
        if not inputs.numel():
            raise ValueError(
                f"Nothing comes to {name}: its input has the shape {tuple(inputs.shape)}. Give a "
                "batch as large as those that the network will be given."
            )
        choices[name], held = chosen(layer, inputs, formats, **measuring)
        if held is not None:
            copied.set_submodule(name, SparseLinear(held, layer.bias))
    return copied, choices


def chosen(
    layer: Layer, inputs: torch.Tensor, formats: Iterable[str] = CANDIDATES, **measuring: Any
) -> tuple[Choice, torch.Tensor | None]:
    """The format for the weight of ``layer``, and the weight in it; None where it stays dense.

    Args:
        layer: linear, or a convolution.
        inputs: the inputs of the layer, (..., columns).
        measuring: further arguments of :func:`measure`.
    """
    weight, why = layer.weight.detach(), peculiarity(layer)
    sparsity = 1 - int(weight.count_nonzero()) / weight.numel()
    for always, reason in (
        (sparsity == 0, "it has no zeros"),
        (sparsity == 1, "it has nothing but zeros"),
        (not isinstance(layer, nn.Linear), "torch has no sparse convolution"),
        (why is not None, why or ""),
    ):
        if always:
            return Choice(None, sparsity, reason), None
    held = {
        name: _unchanged(one, weight) for name, one in to_formats(weight, sparsity, formats).items()
    }
    rows = measure(held, inputs.flatten(0, -2).T, **measuring)
    del rows["dense"]
    reason = "; ".join(f"{name}: {row.speedup or _why(row, name)}" for name, row in rows.items())
    faster = {name: row.ratio for name, row in rows.items() if is_faster(row)}
    best = max(faster, key=faster.__getitem__, default=None)
    return Choice(best, sparsity, reason), held[best].tensor if best else None


def _why(row: Row, name: str) -> str:
    return (row.why or "").removeprefix(f"{name} ")


def is_faster(row: Row) -> bool:
    """Whether the product was timed, and all of the interval of its speed-up is above 1."""
    return row.speedup is not None and row.speedup.low > 1


def _unchanged(held: StoredMatrix, weight: torch.Tensor) -> StoredMatrix:
    """``held``, unless its pattern removed more of ``weight`` than zeros."""
    if held.dense is None or torch.equal(held.dense, weight):
        return held
    return StoredMatrix(why="the zeros do not fit its pattern")


def _layers(model: nn.Module) -> dict[str, Layer]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, Layer)}


@torch.no_grad()
def _inputs(model: nn.Module, example: torch.Tensor) -> dict[str, torch.Tensor]:
    """The input of each linear layer and convolution of ``model``, by name."""
    found: dict[str, torch.Tensor] = {}

    def note(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> None:
        found[name] = calibration.batched(name, layer, (*args, *kwargs.values())[0])

    handles = [
        layer.register_forward_pre_hook(partial(note, name=name), with_kwargs=True)
        for name, layer in _layers(model).items()
    ]
    try:
        model(example)
    finally:
        for handle in handles:
            handle.remove()
    return found
