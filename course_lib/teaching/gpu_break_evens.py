"""Break-even sparsities: those of a recording beside those computed and published for GPUs.

The notebook ``gpu_recorder`` shows them. NumPy and torch are enough, except for the figure.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from course_lib.deployment import sparse
from course_lib.experiments import published, sparse_vs_dense
from course_lib.experiments.published import Datasheet, PublishedBreakEven
from course_lib.measuring import break_even
from course_lib.measuring.machine import gpu_slug

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: The number types and formats of a recording that are compared, with the kind of their zeros.
DTYPES = ("float16", "float32")
FORMATS = {"CSR": "unstructured", "BSR 16": "blocks"}

#: What torch multiplies CSR matrices with on a GPU, by its name in the published data.
CUSPARSE = "unstructured CSR, cuSPARSE"

#: Products with so many columns are compared with one another: the least and the most of each.
COLUMNS = {"one vector": (1, 1), "128 columns or more": (128, 2**31)}

#: Rows of the smallest matrix that is compared, if such large ones are recorded: the published ones
#: are large, and on a GPU a small product takes the time of its launch.
LARGE = 2048


class Shapes(NamedTuple):
    """Break-even sparsities of the same product in several shapes.

    Args:
        shapes: how many.
        median, lowest, highest: over those that break even within the measured sparsities; None
            if there are none.
        never: how many are slower at the highest sparsity, ``most``.
        always: how many are faster at every sparsity that was measured.
    """

    shapes: int
    median: float | None
    lowest: float | None
    highest: float | None
    never: int
    always: int
    most: float

    def __str__(self) -> str:
        parts = []
        if self.median is not None and self.lowest is not None and self.highest is not None:
            ends = f" ({_percent(self.lowest)} to {_percent(self.highest)})"
            parts.append(_percent(self.median) + ends * (self.lowest < self.highest))
        for count, what in (
            (self.never, f"never up to {_percent(self.most)}"),
            (self.always, "at every sparsity measured"),
        ):
            if count:
                parts.append(what + f" in {count} of {self.shapes} shapes" * (count < self.shapes))
        return "; ".join(parts)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g} %"


class BreakEven(NamedTuple):
    """The sparsity from which a sparse product is faster than the dense one, and who says so.

    Args:
        origin: "recorded" on this machine, "computed" from a datasheet, or "published".
        columns: a key of :data:`COLUMNS`.
        kind: of the zeros, one of the values of :data:`FORMATS`.
        what: the GPU, the format or kernel, and the source.
        sparsity: over shapes. Of what is computed: the ideal, in which caches serve all inputs,
            and the expected, in which they do not, with the mean of the two.
        row: what was published.
    """

    origin: str
    columns: str
    dtype: str
    kind: str
    what: str
    sparsity: Shapes
    row: PublishedBreakEven | None = None


def compared(recording: Mapping[str, Any]) -> list[BreakEven]:
    """Break-even sparsities of a recording of ``sparse_vs_dense``, each followed by its like.

    For each number type and number of columns: those recorded, those that the datasheet of this GPU
    predicts, and those that were published. Only square matrices that were recorded up to the
    highest sparsity count.
    """
    found: list[BreakEven] = []
    for dtype in DTYPES:
        for columns in COLUMNS:
            here = [*_recorded(recording, columns, dtype)]
            if here:
                found += [*here, *_computed(recording, columns, dtype)]
                found += _published(columns, dtype)
    return found


def measured_on(recording: Mapping[str, Any]) -> str:
    """The GPU that a recording was measured on, or the processor."""
    machine = recording["machine"]
    return machine["CUDA GPU"] if recording["device"] == "cuda" else machine["processor"]


def _recorded(recording: Mapping[str, Any], columns: str, dtype: str) -> Iterator[BreakEven]:
    least, most = COLUMNS[columns]
    points = [
        each
        for each in recording["points"]
        if each["dtype"] == dtype and least <= each["batch"] <= most and "square" in each["matrix"]
    ]
    for name, kind in FORMATS.items():
        lines = _lines([each for each in points if each["format"] == name])
        if lines:
            what = f"{measured_on(recording)}, {name}"
            yield BreakEven("recorded", columns, dtype, kind, what, over_shapes(lines))


def _lines(points: Sequence[Mapping[str, Any]]) -> list[dict[float, float]]:
    """The speed-up by sparsity, of each shape that was recorded up to the highest sparsity."""
    shapes: dict[tuple[str, int], dict[float, float]] = {}
    for each in [each for each in points if each["rows"] >= LARGE] or points:
        line = shapes.setdefault((each["matrix"], each["batch"]), {})
        line[each["target_sparsity"]] = each["speedup"]
    return [line for line in shapes.values() if max(sparse_vs_dense.SPARSITIES) in line]


def over_shapes(lines: Sequence[Mapping[float, float]]) -> Shapes:
    """Summarize the break-evens of several shapes.

    Args:
        lines: of each shape, the speed-up by sparsity.
    """
    evens = [
        sparse.break_even(sorted(line), [line[sparsity] for sparsity in sorted(line)])
        for line in lines
        if min(line.values()) < 1
    ]
    within = [even for even in evens if even is not None]
    ends: tuple[float | None, float | None, float | None] = (None, None, None)
    if within:
        ends = (median(within), min(within), max(within))
    never, always = len(evens) - len(within), len(lines) - len(evens)
    return Shapes(len(lines), *ends, never, always, max(map(max, lines)))


def _computed(recording: Mapping[str, Any], columns: str, dtype: str) -> Iterator[BreakEven]:
    sheet = datasheet_of(measured_on(recording))
    if sheet is None:
        return
    card = published.card(sheet)
    try:
        found = break_even.predicted(card, getattr(torch, dtype), CUSPARSE, COLUMNS[columns][0])
    except ValueError:  # the datasheet has no rate for this number type
        return
    if found:
        what = f"CSR, from the datasheet of the {card.name}"
        over = Shapes(1, sum(found) / 2, min(found), max(found), 0, 0, 1.0)
        yield BreakEven("computed", columns, dtype, "unstructured", what, over)


def _published(columns: str, dtype: str) -> Iterator[BreakEven]:
    least, most = COLUMNS[columns]
    for row in published.break_evens():
        if row.dtype != dtype or row.kind not in FORMATS.values():
            continue
        if row.columns and least <= row.columns.least <= most:
            ends = (row.median, row.lowest, row.highest)
            counts = (row.never, row.from_start, row.highest_sparsity)
            over = Shapes(row.shapes, *ends, *counts)
            what = f"{row.gpu}, {row.kernel} ({row.source.name}, {row.source.year or 'undated'})"
            yield BreakEven("published", columns, dtype, row.kind, what, over, row)


def datasheet_of(gpu: str) -> Datasheet | None:
    """The datasheet of the GPU that CUDA calls ``gpu``; None if there is none.

    Of several, that which shares most words with the name, such as "80GB" or "PCIe". Of a GPU whose
    16-bit rate depends on the type of its sums, that of 32-bit sums, which torch uses.
    """
    words = {*re.findall(r"[a-z0-9]+", gpu.lower())}
    alike = [
        sheet
        for sheet in published.datasheets()
        if gpu_slug(sheet.gpu) == gpu_slug(gpu) and sheet.accumulation in ("", "float32")
    ]

    def shared(sheet: Datasheet) -> int:
        about = f"{sheet.gpu} {sheet.memory}".lower().replace(" gb", "gb")
        return len(words & {*re.findall(r"[a-z0-9]+", about)})

    return max(alike, key=shared, default=None)


# --- showing ------------------------------------------------------------------------------------


def table(found: Sequence[BreakEven]) -> str:
    """The break-evens as text, and below it what readers of the published ones must know."""
    if not found:
        return "No square matrix is recorded at all sparsities yet: run the recording cell again."
    width = max(len(each.what) for each in found)
    lines, heading = [], ""
    for each in found:
        if heading != (heading := f"{each.columns}, {each.dtype}"):
            lines.append(f"\n{heading}")
        lines.append(f"  {each.origin:9s}  {each.what:{width}s}  {each.sparsity}")
    if all(each.origin != "computed" for each in found):
        lines.append("\nNothing is computed: data/published has no datasheet of this machine.")
    warnings = published.warnings_of(each.row for each in found if each.row)
    return "\n".join([*lines, "", *warnings]).strip()


def show(found: Sequence[BreakEven]) -> None:
    """Draw the break-evens; without matplotlib, say that there is no figure."""
    try:
        from course_lib.teaching import figures
    except ImportError as error:
        print(f"There is no figure without {error.name}; the table has all numbers.")
        return
    if found:
        alt = "Break-even sparsities: those recorded here beside computed and published ones."
        figures.show(drawn(found), alt)


#: How each origin is drawn: its marker and its opacity.
STYLES = {"recorded": ("o", 1.0), "computed": ("D", 0.6), "published": ("s", 0.6)}


def drawn(found: Sequence[BreakEven]) -> "Figure":
    """A panel for each number type and number of columns, with a line per break-even.

    The line goes from the lowest to the highest, the marker is on the median. Colours are the kinds
    of zeros, markers the origins.
    """
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    panels: dict[str, list[BreakEven]] = {}
    for each in found:
        panels.setdefault(f"{each.columns}, {each.dtype}", []).append(each)
    heights = [1 + len(panel) for panel in panels.values()]
    figure, grid = plt.subplots(
        len(panels),
        figsize=(10, 1 + 0.3 * sum(heights)),
        height_ratios=heights,
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, (title, panel) in zip(grid[:, 0], panels.items(), strict=True):
        _draw(axes, panel)
        axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel("from this sparsity on, sparse is faster (%)", fontsize=11)
    handles = [
        Line2D([], [], color="black", marker=marker, alpha=opacity, linestyle="none", label=origin)
        for origin, (marker, opacity) in STYLES.items()
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), fontsize=10)
    return figure


def _draw(axes: "Axes", panel: Sequence[BreakEven]) -> None:
    from course_lib.teaching.figures import COLOURS

    colours = {"unstructured": COLOURS["unstructured"], "blocks": COLOURS["structured"]}
    for place, each in enumerate(panel):
        even, colour = each.sparsity, colours[each.kind]
        marker, opacity = STYLES[each.origin]
        if even.median is None or even.lowest is None or even.highest is None:
            axes.text(2, place, str(even), va="center", fontsize=9, color=colour)
            continue
        ends = [100 * even.lowest, 100 * even.highest]
        axes.plot(ends, [place, place], color=colour, alpha=opacity, linewidth=2)
        axes.plot(100 * even.median, place, marker, color=colour, alpha=opacity, markersize=6)
        if even.never:
            text = f"never in {even.never} of {even.shapes} shapes"
            axes.text(2, place, text, va="center", fontsize=9, color=colour)
    axes.set_yticks(range(len(panel)), [each.what for each in panel], fontsize=9)
    axes.set(xlim=(0, 100), ylim=(len(panel) - 0.5, -0.5))
    axes.tick_params(axis="x", labelsize=10)
    axes.grid(visible=True, axis="x", color="#e4e4e4")
