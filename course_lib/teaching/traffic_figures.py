"""The sectors of memory that a warp touches, as cells that light up."""

import math
from collections.abc import Callable
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from course_lib.measuring.traffic import (
    RUN,
    SECTOR,
    WARP,
    Loads,
    Order,
    blocks,
    csr_thread_per_row,
    csr_warp_per_row,
    dense,
    random_rows,
    two_four,
)
from course_lib.teaching.figures import COLOURS

#: Cells on a line.
CELLS = 32

UNTOUCHED = "#ececec"

#: Columns of the matrix of :func:`explore`.
WIDTH = 1024


class Kernel(NamedTuple):
    """A kernel of :func:`explore`: its colour, and its loads for a sparsity and an order."""

    colour: str
    loads: Callable[[float, Order], Loads]


KERNELS = {
    "dense": Kernel("dense", lambda sparsity, order: dense(1, WIDTH)),
    "CSR, warp per row": Kernel(
        "unstructured",
        lambda sparsity, order: csr_warp_per_row(random_rows(1, WIDTH, sparsity, order)),
    ),
    "CSR, thread per row": Kernel(
        "unstructured",
        lambda sparsity, order: csr_thread_per_row(random_rows(WARP, WIDTH, sparsity, order)),
    ),
    "2:4": Kernel("structured", lambda sparsity, order: two_four(1, WIDTH, value_bytes=4)),
    "blocks of 8 x 8": Kernel(
        "structured",
        lambda sparsity, order: blocks(random_rows(1, WIDTH // RUN, sparsity, order), (RUN, RUN)),
    ),
}

#: What :func:`explore` draws: choices for :func:`course_lib.teaching.widgets.choose`.
CHOICES = {
    "kernel": [*KERNELS],
    "sparsity": ["90 %", "80 %", "95 %"],
    "columns": ["sorted", "clustered", "shuffled"],
}


def explore(kernel: str, sparsity: str, order: Order) -> Figure:
    """The sectors that a kernel touches, for one value of each of :data:`CHOICES`.

    A dense row has no sparsity, 2:4 has always 50 %, and neither has an order of columns.
    """
    colour, loads = KERNELS[kernel]
    return sectors(loads(int(sparsity.removesuffix(" %")) / 100, order), colour, kernel)


def sectors(loads: Loads, colour: str, title: str = "", instruction: int = 0) -> Figure:
    """Which sectors of each array a kernel touches: in one instruction, and in all of them.

    A cell is a sector of 32 bytes. It is dark if it is touched more than once.

    Args:
        loads: of one of the kernels of :mod:`course_lib.measuring.traffic`.
        colour: a name in :data:`course_lib.teaching.figures.COLOURS`.
        title: the name of the kernel.
        instruction: which instruction that reads values is shown on its own. Of an array with fewer
            instructions, it is the one that is as far along.

    Raises:
        ValueError: there is no such instruction.
    """
    count = len(loads.addresses["values"])
    if not 0 <= instruction < count:
        raise ValueError(f"There are instructions 0 to {count - 1}; got {instruction}.")
    whole = {array: _counts(each) for array, each in loads.addresses.items()}
    lines = [math.ceil(len(counts) / CELLS) for counts in whole.values()]
    height = 1.0 + sum(0.4 + 0.147 * each for each in lines)
    figure, grid = plt.subplots(len(whole), 2, figsize=(9.6, height), height_ratios=lines)
    rows = "whole row" if loads.rows == 1 else f"{loads.rows} rows"
    for (array, counts), (left, right) in zip(whole.items(), grid, strict=True):
        addresses = loads.addresses[array]
        place = instruction * len(addresses) // count
        one = _counts(addresses[place : place + 1], len(counts))
        _strip(left, one, colour, f"{array}, one instruction: {_sectors(one)}")
        told = f"{_sectors(counts.clamp_max(1))}, {int(counts.sum()):,} accesses"
        _strip(right, counts, colour, f"{array}, {rows}: {told}")
    total = f"{loads.total:,} sectors for {loads.macs:,} MACs"
    figure.suptitle(f"{title}: {total}", x=0.005, ha="left", fontsize=14)
    _legend(figure, colour)
    return figure


def _sectors(counts: torch.Tensor) -> str:
    number = int(counts.sum())
    return f"{number:,} sector" + ("" if number == 1 else "s")


def _counts(addresses: torch.Tensor, size: int = 0) -> torch.Tensor:
    """How many instructions of ``addresses`` (instructions, threads) touch each sector."""
    numbers = addresses.div(SECTOR, rounding_mode="floor")
    touched = [each[each >= 0].unique() for each in numbers]
    return torch.bincount(torch.cat(touched), minlength=size)


def _shades(colour: str) -> list[str]:
    """For a sector that is not touched, touched once, and touched more than once."""
    red, green, blue = to_rgb(COLOURS[colour])
    return [UNTOUCHED, COLOURS[colour], to_hex((0.4 * red, 0.4 * green, 0.4 * blue))]


def _strip(axes: Axes, counts: torch.Tensor, colour: str, label: str) -> None:
    """The sectors of one array in lines of :data:`CELLS`, from the top left."""
    lines = math.ceil(len(counts) / CELLS)
    cells = torch.full((lines * CELLS,), torch.nan)
    cells[: len(counts)] = counts.clamp_max(2).float()
    axes.pcolormesh(
        cells.view(lines, CELLS).numpy(),
        cmap=ListedColormap(_shades(colour)),
        vmin=0,
        vmax=2,
        edgecolors="white",
        linewidth=1,
    )
    axes.set(xlim=(0, CELLS), ylim=(lines, 0), aspect="equal", anchor="NW")
    axes.set_title(label, fontsize=12)
    axes.axis("off")


def _legend(figure: Figure, colour: str) -> None:
    names = ("a sector that is not touched", "touched once", "touched more than once")
    patches = [Patch(color=c, label=name) for c, name in zip(_shades(colour), names, strict=True)]
    figure.legend(handles=patches, loc="outside lower left", ncols=3, fontsize=12)
