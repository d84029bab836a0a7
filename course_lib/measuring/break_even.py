"""From a GPU's datasheet to the sparsity from which a sparse product is faster than the dense one.

Everything here is computed, nothing is measured: a product takes the time of the slower of its
arithmetic and its memory traffic (the roofline of Williams, Waterman and Patterson, 2009), plus the
time to launch it. Two cases:

- One vector (:func:`vector`) is memory-bound. Only bytes count, so the break-even is that of the
  format, and nearly the same on every card.
- A batch (:func:`batch`) is compute-bound if it is dense, on tensor cores for 16-bit numbers. A
  sparse kernel runs on the CUDA cores, at a share of their rate, and is memory-bound where a card
  has much arithmetic for its bandwidth. The break-even is that of the card.

What the model leaves out: how well a kernel balances rows of different lengths, launches of a
different size, tiles that do not fill the card, the bandwidth of each cache, clock and power.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import NamedTuple

import torch

from course_lib.measuring.cost import Roofline, Work
from course_lib.measuring.traffic import SECTOR, csr_tile, csr_warp_per_row, random_rows

#: The share of the datasheet's rate that dense products reach: 0.87 was measured on an A100 and
#: 0.80 on an H100, in bfloat16 (Bekman, "Machine Learning Engineering", 2024).
DENSE_SHARE = 0.8

#: The share of the rate of the CUDA cores that a CSR product with a batch reaches: that of Sputnik
#: on a V100 in single precision (Gale et al., 2020).
SPARSE_SHARE = 0.27

#: The share of its traffic (:func:`course_lib.measuring.traffic.csr_tile`) that caches serve. With
#: less than this, the bandwidth of a V100 would not allow it the share above.
CACHED = 0.9

#: Seconds to launch a kernel: a few microseconds. The driver and the host decide; measure yours.
LAUNCH = 4e-6

#: MACs per second of one TFLOPS, which counts a multiplication and an addition as two operations.
TFLOPS = 5e11


class Card(NamedTuple):
    """A GPU as its datasheet describes it.

    Rates are in MACs per second: ``fp32`` of the CUDA cores; ``fp16`` of the tensor cores, dense;
    ``two_four`` of the tensor cores with 2:4 weights. They are None where there are none.
    ``bandwidth`` is in bytes per second; ``l2`` is the L2 cache in bytes, None where it is unknown.
    """

    name: str
    fp32: float
    fp16: float | None
    two_four: float | None
    bandwidth: float
    l2: float | None


def _bytes(dtype: torch.dtype) -> int:
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"Rates are for float32, float16 and bfloat16; got {dtype}.")
    return dtype.itemsize


def _dense_rate(card: Card, dtype: torch.dtype) -> float:
    """MACs per second of dense products in ``dtype``."""
    rate = card.fp32 if _bytes(dtype) == 4 else card.fp16
    if rate is None:
        raise ValueError(f"No rate of tensor cores is known of the {card.name}; use float32.")
    return DENSE_SHARE * rate


# --- one vector ---------------------------------------------------------------------------------


def vector(
    card: Card,
    dtype: torch.dtype,
    index_bytes: float = 4,
    *,
    width: int = 4096,
    gather: bool = True,
) -> float:
    """Break-even sparsity of CSR, or of a format like it, times one vector.

    Args:
        card: the GPU.
        dtype: of weights and inputs.
        index_bytes: bytes of a column index: 4 or 2 in CSR; half a byte in a format that stores the
            distance to the next nonzero, such as MACKO.
        width: columns of the matrix.
        gather: whether the vector costs the sectors that a warp per row touches (and in a dense
            product those of a whole row), each as much as one from DRAM. Without it, caches serve
            the vector for free, which is the lowest possible break-even.

    Raises:
        ValueError: ``dtype`` is not one of float32, float16 and bfloat16.
    """
    size, roof = _bytes(dtype), Roofline(card.bandwidth, card.fp32)

    def sparse(sparsity: float) -> float:
        kept = round((1 - sparsity) * width)
        moved = kept * (size + index_bytes) + gather * _gathered(width, sparsity, size)
        return roof.milliseconds(Work(kept, round(moved)))

    dense = roof.milliseconds(Work(width, size * width * (1 + gather)))
    return _crossing(dense, sparse)


@cache
def _gathered(width: int, sparsity: float, size: int, rows: int = 8) -> float:
    """Bytes per row of the sectors of the vector that a warp per row touches."""
    loads = csr_warp_per_row(random_rows(rows, width, sparsity), size)
    return SECTOR * loads.sectors()["vector"] / rows


def _crossing(dense: float, sparse: Callable[[float], float], steps: int = 16) -> float:
    """The sparsity from which ``sparse``, which falls, is below ``dense``: by bisection."""
    low, high = 0.0, 1.0
    if sparse(low) <= dense:
        return low
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (low, middle) if sparse(middle) <= dense else (middle, high)
    return high


# --- a batch ------------------------------------------------------------------------------------


def batch(
    card: Card,
    dtype: torch.dtype,
    share: float = SPARSE_SHARE,
    cached: float = CACHED,
) -> float:
    """Break-even sparsity of CSR times a large batch.

    Args:
        card: the GPU.
        dtype: of weights and inputs; in 16 bits the dense product runs on tensor cores.
        share: of the rate of the CUDA cores that the sparse kernel reaches, at most.
        cached: share of its traffic that caches serve; the rest comes at the card's bandwidth. With
            1, only arithmetic counts.

    Raises:
        ValueError: ``dtype`` is not one of float32, float16 and bfloat16, or no rate is known.
    """
    return max(0.0, 1 - sparse_rate(card, dtype, share, cached) / _dense_rate(card, dtype))


def sparse_rate(
    card: Card, dtype: torch.dtype, share: float = SPARSE_SHARE, cached: float = CACHED
) -> float:
    """Useful MACs per second of CSR times a large batch: the lower of two ceilings.

    Arguments and errors: :func:`batch`.
    """
    loads = csr_tile(random_rows(4, 256, 0.9), _bytes(dtype))
    moved = (1 - cached) * SECTOR * loads.per_mac
    roof = Roofline(card.bandwidth, share * card.fp32)
    return roof.attainable(1 / moved if moved else math.inf)


# --- published kernels --------------------------------------------------------------------------

#: Bytes of an index in the kernels whose break-even was published, by kernel and bytes of a value.
#: Sputnik has 16-bit indices for 16-bit values; MACKO stores distances in 4 bits.
INDEX_BYTES = {
    ("unstructured CSR, cuSPARSE", 2): 4.0,
    ("unstructured CSR, cuSPARSE", 4): 4.0,
    ("unstructured CSR, Sputnik", 2): 2.0,
    ("unstructured CSR, Sputnik", 4): 4.0,
    ("unstructured, MACKO", 2): 0.5,
}


class Prediction(NamedTuple):
    """Two break-even sparsities: ``ideal`` if caches served every input for free, and ``expected``.

    For a vector, ``expected`` pays for the gather; for a batch, for the traffic beyond the caches.
    """

    ideal: float
    expected: float


def predicted(card: Card, dtype: torch.dtype, kernel: str, columns: int) -> Prediction | None:
    """Break-even sparsity of a published ``kernel``; None if there is no model for it.

    Args:
        card: the GPU.
        dtype: of weights and inputs.
        kernel: its name in the published data.
        columns: of the inputs; more than one means a large batch.

    Raises:
        ValueError: ``dtype`` is not one of float32, float16 and bfloat16, or no rate is known.
    """
    index_bytes = INDEX_BYTES.get((kernel, _bytes(dtype)))
    if index_bytes is None:
        return None
    if columns == 1:
        bounds = (vector(card, dtype, index_bytes, gather=gather) for gather in (False, True))
    else:
        bounds = (batch(card, dtype, cached=cached) for cached in (1.0, CACHED))
    return Prediction(*bounds)


# --- whole networks -----------------------------------------------------------------------------


def seconds(
    card: Card,
    works: Iterable[Work],
    dtype: torch.dtype = torch.float32,
    launch: float = LAUNCH,
) -> float:
    """Least time of the layers of a network, one after another, with a launch for each.

    Args:
        card: the GPU.
        works: of the layers, see :func:`course_lib.measuring.cost.work`.
        dtype: in which the layers are computed. Bytes are taken from ``works`` as they are.
        launch: seconds to launch a kernel.

    Raises:
        ValueError: ``dtype`` is not one of float32, float16 and bfloat16, or no rate is known.
    """
    roof = Roofline(card.bandwidth, _dense_rate(card, dtype))
    return sum(roof.milliseconds(work) / 1000 + launch for work in works)


def launch_floor(kernels: int, launch: float = LAUNCH) -> float:
    """Seconds that a network of so many kernels takes at least, however narrow it is."""
    return kernels * launch


def stops_gaining(
    card: Card,
    networks: Mapping[float, Iterable[Work]],
    dtype: torch.dtype = torch.float32,
    *,
    launch: float = LAUNCH,
    gain: float = 1.1,
) -> float | None:
    """The width from which on a narrower network hardly gets faster, because it only launches.

    That is the widest network whose time is within a factor of ``gain`` of its launches alone: even
    a network without channels would not be faster than that. None if all are slower.

    Args:
        card: the GPU.
        networks: the works of the layers, by the width of the network.
        dtype, launch: as in :func:`seconds`.

    Raises:
        ValueError: ``dtype`` is not one of float32, float16 and bfloat16, or no rate is known.
    """
    found = [
        width
        for width, works in ((width, [*works]) for width, works in networks.items())
        if seconds(card, works, dtype, launch) <= gain * launch_floor(len(works), launch)
    ]
    return max(found, default=None)
