"""What a sparse product makes a GPU move: the sectors that the loads of one warp touch.

The threads of a GPU run in warps of 32, which execute every instruction together. Each active
thread of a load instruction asks for one address. Memory answers in sectors of 32 bytes, so an
instruction costs as many sectors as its addresses lie in: 32 neighbouring 4-byte numbers lie in 4,
or in 5 if the first is not the first of its sector, and 32 numbers anywhere in up to 32. Addresses
that share sectors are called coalesced (NVIDIA, "CUDA C++ Best Practices Guide", section on
coalesced access to global memory; "CUDA C++ Programming Guide").

Every function that is named after a kernel returns the :class:`Loads` of that kernel, for a product
with one vector or with a batch. The kernels of CSR are those of Bell and Garland (2009): with a
thread per row, which they call scalar, and with a warp per row, which they call vector. The tiles
of a batch follow Gale et al. (2020), "Sparse GPU Kernels for Deep Learning" (Sputnik).

The model counts every instruction by itself, as if there were no cache: a sector that two
instructions touch counts twice, and the vector is read again for every row. It leaves out the
starts of the rows, the outputs (unless they are scattered), loads of more than one number per
thread, and time: how many instructions wait at once, and how fast each level of memory is. On a
real GPU caches serve many of these sectors, so read them as work for the memory system, not as
bytes that come from DRAM.
"""

import math
from typing import Literal, NamedTuple

import torch

#: Bytes that memory moves at once.
SECTOR = 32

#: Threads that execute an instruction together.
WARP = 32

#: Rows and columns of the outputs that one block of threads computes in a product with a batch.
TILE = 128

#: Neighbouring columns that are kept or pruned together where nonzeros are "clustered".
RUN = 8

#: The address of a thread that is switched off in an instruction.
IDLE = -1

#: How the nonzeros of a row lie: anywhere and sorted by column; the same, stored in random order;
#: or in runs of :data:`RUN` neighbours, sorted.
Order = Literal["sorted", "shuffled", "clustered"]


class Rows(NamedTuple):
    """Where the nonzeros of a matrix are: CSR without its values.

    ``columns`` (nonzeros,) has the column of each nonzero, row after row; ``starts`` (rows + 1,)
    says where each row begins in it, and where the last one ends. ``width`` is the number of
    columns. Of a matrix of blocks, all of these count blocks.
    """

    starts: torch.Tensor
    columns: torch.Tensor
    width: int

    @property
    def height(self) -> int:
        """Number of rows."""
        return len(self.starts) - 1

    @property
    def nonzeros(self) -> int:
        """Number of nonzeros in all rows."""
        return len(self.columns)


def from_mask(mask: torch.Tensor) -> Rows:
    """The nonzeros of a boolean ``mask`` (rows, columns), True where a weight is kept.

    Raises:
        ValueError: ``mask`` is not a boolean matrix.
    """
    if mask.dim() != 2 or mask.dtype != torch.bool:
        raise ValueError(
            f"A mask is a boolean (rows, columns); got {tuple(mask.shape)} of {mask.dtype}."
        )
    kept, columns = mask.nonzero().unbind(1)
    return Rows(_starts(torch.bincount(kept, minlength=len(mask))), columns, mask.shape[1])


def random_rows(
    height: int, width: int, sparsity: float, order: Order = "sorted", seed: int = 0
) -> Rows:
    """Rows with nonzeros at random columns, as many in each as in the others, give or take one.

    Args:
        height, width: number of rows and of columns.
        sparsity: fraction of zeros.
        order: how the nonzeros of each row lie, see :data:`Order`.
        seed: fixes the columns.

    Raises:
        ValueError: ``sparsity`` is not within 0 to 1, or ``order`` is unknown.
    """
    if not 0 <= sparsity <= 1:
        raise ValueError(f"A sparsity is a fraction from 0 to 1; got {sparsity!r}.")
    if order not in ("sorted", "shuffled", "clustered"):
        raise ValueError(f"The order is sorted, shuffled or clustered; got {order!r}.")
    generator, run = torch.Generator().manual_seed(seed), RUN if order == "clustered" else 1
    draws = torch.rand(height, math.ceil(width / run), generator=generator)
    ranked = draws.repeat_interleave(run, 1)[:, :width].argsort(dim=1, stable=True)
    ends = [round((1 - sparsity) * width * row) for row in range(height + 1)]
    counts = torch.tensor(ends).diff()
    chosen = torch.arange(width) < counts[:, None]
    if order == "shuffled":
        return Rows(_starts(counts), ranked[chosen], width)
    return from_mask(torch.zeros_like(chosen).scatter(1, ranked, chosen))


def _starts(counts: torch.Tensor) -> torch.Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


# --- sectors ------------------------------------------------------------------------------------


def touched(addresses: torch.Tensor) -> torch.Tensor:
    """Number of sectors that each instruction touches.

    Args:
        addresses: (instructions, threads) in bytes, :data:`IDLE` where a thread is switched off.

    Returns:
        (instructions,)
    """
    sectors = addresses.div(SECTOR, rounding_mode="floor").sort(1).values
    new = torch.ones_like(sectors, dtype=torch.bool)
    new[:, 1:] = sectors[:, 1:] != sectors[:, :-1]
    return (new & (sectors >= 0)).sum(1)


class Loads(NamedTuple):
    """The load instructions of a kernel: ``addresses`` (instructions, threads) of each array.

    They are in bytes from the beginning of the array, which is the beginning of a sector, and
    :data:`IDLE` where a thread is switched off. ``macs`` counts multiplications by nonzeros only;
    ``rows`` are the rows that the kernel computes; ``updates`` are additions to outputs in memory,
    each of which has to be atomic.
    """

    addresses: dict[str, torch.Tensor]
    macs: int
    rows: int
    updates: int = 0

    def sectors(self) -> dict[str, int]:
        """Number of sectors by array."""
        return {array: int(touched(each).sum()) for array, each in self.addresses.items()}

    @property
    def total(self) -> int:
        """Sectors of all arrays together."""
        return sum(self.sectors().values())

    @property
    def per_row(self) -> float:
        """Sectors of all arrays per row."""
        return self.total / self.rows

    @property
    def per_mac(self) -> float:
        """Sectors of all arrays per multiplication by a nonzero; NaN if there are none."""
        return self.total / self.macs if self.macs else math.nan


# --- who reads what -----------------------------------------------------------------------------


def _warp_per_row(starts: torch.Tensor) -> torch.Tensor:
    """Positions (instructions, threads) if a warp reads a row, 32 neighbours at a time."""
    lengths = starts.diff()
    pieces = (lengths + WARP - 1) // WARP
    row = torch.arange(len(lengths)).repeat_interleave(pieces)
    piece = torch.arange(len(row)) - _starts(pieces)[row]
    positions = (starts[row] + WARP * piece)[:, None] + torch.arange(WARP)
    return positions.where(positions < starts[row + 1][:, None], IDLE)


def _thread_per_row(starts: torch.Tensor) -> torch.Tensor:
    """Positions (instructions, threads) if each thread of a warp reads a row, one by one."""
    spare = -(len(starts) - 1) % WARP  # threads of the last warp that have no row
    begin = torch.cat([starts[:-1], starts.new_zeros(spare)]).view(-1, WARP)
    lengths = torch.cat([starts.diff(), starts.new_zeros(spare)]).view(-1, WARP)
    steps = lengths.amax(1)
    warp = torch.arange(len(steps)).repeat_interleave(steps)
    step = (torch.arange(len(warp)) - _starts(steps)[warp])[:, None]
    return (begin[warp] + step).where(step < lengths[warp], IDLE)


def _read(positions: torch.Tensor, size: int) -> torch.Tensor:
    """Addresses of the numbers of ``size`` bytes at ``positions``."""
    return (positions * size).where(positions >= 0, IDLE)


def _gather(columns: torch.Tensor, positions: torch.Tensor, size: int) -> torch.Tensor:
    """Addresses of the inputs at the columns that are stored at ``positions``."""
    if not len(columns):
        return positions
    return (columns[positions.clamp_min(0)] * size).where(positions >= 0, IDLE)


def _check_bytes(value_bytes: int, index_bytes: int = 4, width: int = 0) -> None:
    for name, size in (("value", value_bytes), ("index", index_bytes)):
        if size not in (2, 4):
            raise ValueError(f"A {name} takes 2 or 4 bytes here; got {size!r}.")
    if width > 2 ** (8 * index_bytes):
        raise ValueError(f"An index of {index_bytes} bytes cannot count {width} columns; use 4.")


# --- kernels for one vector ---------------------------------------------------------------------


def dense(height: int, width: int, value_bytes: int = 4) -> Loads:
    """A dense matrix times a vector: a warp reads a row and the vector, 32 neighbours at a time.

    Args:
        height, width: number of rows and of columns.
        value_bytes: bytes of a weight and of an input, 2 or 4.

    Raises:
        ValueError: any other number of bytes.
    """
    _check_bytes(value_bytes)
    positions = _warp_per_row(width * torch.arange(height + 1))
    columns = torch.arange(width).repeat(height)
    addresses = {
        "values": _read(positions, value_bytes),
        "vector": _gather(columns, positions, value_bytes),
    }
    return Loads(addresses, macs=height * width, rows=height)


def csr_warp_per_row(rows: Rows, value_bytes: int = 4, index_bytes: int = 4) -> Loads:
    """CSR times a vector, a warp per row: values and indices are coalesced, the vector is gathered.

    This is "CSR vector" of Bell and Garland (2009). Rows begin anywhere in a sector, so that 32
    values of 4 bytes mostly lie in 5 sectors.

    Args:
        value_bytes, index_bytes: bytes of a weight or an input, and of a column index; 2 or 4.

    Raises:
        ValueError: any other number of bytes, or the index is too small for the columns.
    """
    return _csr(rows, _warp_per_row(rows.starts), value_bytes, index_bytes)


def csr_thread_per_row(rows: Rows, value_bytes: int = 4, index_bytes: int = 4) -> Loads:
    """CSR times a vector, a thread per row: the 32 threads of a warp read 32 different rows.

    This is "CSR scalar" of Bell and Garland (2009). Their values lie far apart, so that nearly
    every value and every index costs a sector of its own. Arguments and errors:
    :func:`csr_warp_per_row`.
    """
    return _csr(rows, _thread_per_row(rows.starts), value_bytes, index_bytes)


def _csr(rows: Rows, positions: torch.Tensor, value_bytes: int, index_bytes: int) -> Loads:
    _check_bytes(value_bytes, index_bytes, rows.width)
    addresses = {
        "values": _read(positions, value_bytes),
        "indices": _read(positions, index_bytes),
        "vector": _gather(rows.columns, positions, value_bytes),
    }
    return Loads(addresses, macs=rows.nonzeros, rows=rows.height)


def two_four(height: int, width: int, value_bytes: int = 2) -> Loads:
    """2:4 times a vector: half of the values, two bits for the position of each, the whole vector.

    The positions are read as 32-bit words, one for 16 values, which the threads share. The vector
    is read as in a dense product, and the positions choose among inputs that are already there, so
    that nothing is gathered from memory. (Sparse tensor cores choose in hardware: Mishra et al.,
    2021.)

    Args:
        height, width: number of rows and of columns.
        value_bytes: bytes of a weight and of an input, 2 or 4.

    Raises:
        ValueError: any other number of bytes, or 4 does not divide ``width``.
    """
    if width % 4:
        raise ValueError(f"2:4 needs a multiple of 4 columns; got {width}.")
    whole, rows = dense(height, width, value_bytes), torch.arange(height + 1)
    addresses = {
        "values": _read(_warp_per_row(width // 2 * rows), value_bytes),
        "indices": _read(_warp_per_row(math.ceil(width / 32) * rows), 4),
        "vector": whole.addresses["vector"],
    }
    return Loads(addresses, macs=whole.macs // 2, rows=height)


def blocks(
    rows: Rows, shape: tuple[int, int] = (8, 8), value_bytes: int = 4, index_bytes: int = 4
) -> Loads:
    """Blocks (BSR) times a vector, a warp per row of blocks: one index serves a whole block.

    The values of a block lie side by side, row after row. 32 of them are 4 rows of a block of
    (8, 8), which use the same 8 inputs: within an instruction these are read once.

    Args:
        rows: the blocks that are not zero, with rows and columns counted in blocks.
        shape: rows and columns of a block.
        value_bytes, index_bytes: bytes of a weight or an input, and of a column index; 2 or 4.

    Raises:
        ValueError: any other number of bytes, or the index is too small for the columns.
    """
    _check_bytes(value_bytes, index_bytes, rows.width)
    height, width = shape
    size = height * width
    positions = _warp_per_row(size * rows.starts)
    inputs = rows.columns[:, None, None] * width + torch.arange(width).expand(height, width)
    addresses = {
        "values": _read(positions, value_bytes),
        "indices": _read(positions // size, index_bytes),
        "vector": _gather(inputs.flatten(), positions, value_bytes),
    }
    return Loads(addresses, macs=rows.nonzeros * size, rows=rows.height * height)


def scatter(rows: Rows, value_bytes: int = 4, index_bytes: int = 4) -> Loads:
    """The transpose of a CSR matrix times a vector: outputs are scattered instead of gathered.

    To scatter is to write to computed addresses. A warp reads a row and one input, and adds each
    product to the output that the column index names, in 4 bytes. Other warps add to the same
    outputs, so each of these ``updates`` has to be atomic. It reads and writes its sector, whereas
    a product that gathers adds up in registers and writes every output once.

    Arguments and errors: :func:`csr_warp_per_row`.
    """
    _check_bytes(value_bytes, index_bytes, rows.width)
    positions = _warp_per_row(rows.starts)
    used = rows.starts.diff().nonzero()  # (rows that are not empty, 1): one thread reads the input
    addresses = {
        "values": _read(positions, value_bytes),
        "indices": _read(positions, index_bytes),
        "vector": _read(used, value_bytes),
        "outputs": _gather(rows.columns, positions, 4),
    }
    return Loads(addresses, rows.nonzeros, rows.height, updates=rows.nonzeros)


# --- kernels for a batch ------------------------------------------------------------------------


def dense_tile(width: int, value_bytes: int = 4, tile: int = TILE) -> Loads:
    """A dense product with a batch: what one tile of (tile, tile) outputs loads.

    A block of threads loads ``tile`` rows of weights (tile, width) and ``tile`` columns of inputs
    (width, tile) piece by piece into shared memory, each number once. Every weight then serves all
    columns of the tile, and every input all rows.

    Args:
        width: columns of the weights, which the product sums over.
        value_bytes: bytes of a weight and of an input, 2 or 4.
        tile: rows and columns of the outputs.

    Raises:
        ValueError: any other number of bytes.
    """
    _check_bytes(value_bytes)
    addresses = {
        "values": _read(_warp_per_row(width * torch.arange(tile + 1)), value_bytes),
        "inputs": _read(_warp_per_row(tile * torch.arange(width + 1)), value_bytes),
    }
    return Loads(addresses, macs=tile * tile * width, rows=tile)


def csr_tile(rows: Rows, value_bytes: int = 4, index_bytes: int = 4, tile: int = TILE) -> Loads:
    """CSR times a batch: what the outputs of all ``rows`` load, for ``tile`` columns of the batch.

    A warp computes a row, as in Sputnik (Gale et al., 2020): for each nonzero it reads the row of
    inputs (tile,) that the column index names. These reads are coalesced, and a weight still serves
    all columns of the tile. But each row has nonzeros at other columns, so an input serves one row
    only. That reuse is what CSR loses; caches give back a part of it.

    Args:
        value_bytes, index_bytes: bytes of a weight or an input, and of a column index; 2 or 4.
        tile: columns of the batch.

    Raises:
        ValueError: any other number of bytes, or the index is too small for the columns.
    """
    one = _csr(rows, _warp_per_row(rows.starts), value_bytes, index_bytes)
    inputs = _warp_per_row(tile * torch.arange(rows.nonzeros + 1))
    read = (rows.columns[:, None] * tile + torch.arange(tile)).flatten()
    addresses = {
        "values": one.addresses["values"],
        "indices": one.addresses["indices"],
        "inputs": _gather(read, inputs, value_bytes),
    }
    return Loads(addresses, macs=rows.nonzeros * tile, rows=rows.height)
