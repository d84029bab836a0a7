"""Published GPU measurements: sparse against dense, as other works measured it.

Beside *measured* here, *recorded* on a machine of the course and *computed*, a number can be
*published*: a row of ``data/published/``, which names the work that it was read from. Every row is
checked when it is read. What is drawn from several works needs the sentences of
:func:`warnings_of`, because they differ in more than the GPU.
"""

import csv
import json
import math
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import torch

from course_lib.measuring.break_even import TFLOPS, Card, Prediction, predicted
from course_lib.networks.data import DATA, verified

#: Where the zeros are: anywhere ("unstructured"), in a pattern, in whole channels; "dense" rows
#: have none and show what another number type gives.
KINDS = ("dense", "unstructured", "2:4", "V:N:M", "N:M", "blocks", "vector-wise", "channels")

#: What was timed: a matrix product, the feed-forward block of a transformer, a training step, or a
#: whole network (or a stack of its layers).
SCOPES = ("product", "block", "training step", "network")

#: Number types; "" where the source does not say.
DTYPES = ("float32", "float16", "bfloat16", "float8", "int8", "int4", "")

#: How the numbers were read; all but those in result files were typed from the page.
READ_FROM = ("result files", "table in documentation", "issue or pull request")


class PublishedError(ValueError):
    """An invalid file of ``data/published``; the message names file, line, field and value."""


class Source(NamedTuple):
    """A work from which numbers were read; a field is empty or None where it is not known.

    Args:
        authors: their surnames, separated by commas.
        venue: where the paper appeared, such as "SC".
        date: of the numbers, ISO 8601.
        gpus: the GPUs in its rows.
        protocol: how it timed, in words.
        cache_flushed: whether the cache was flushed before each run.
        no_warm_up: the kernel that was timed without a warm-up.
        interest: which interest its authors have in one of the kernels.
        read_from: one of :data:`READ_FROM`.
    """

    id: str
    name: str
    title: str
    authors: str
    venue: str
    year: int | None
    date: str
    repository: str
    commit: str
    files: str
    paper: str
    licence: str
    gpus: tuple[str, ...]
    software: str
    protocol: str
    cache_flushed: bool | None
    no_warm_up: str
    interest: str
    read_from: str
    note: str

    def __str__(self) -> str:
        first, *others = self.authors.split(", ")
        who = f"{first} et al." if others else first or self.paper or self.repository
        when = f"{self.venue} {self.year or 'undated'}".strip()
        return f"{self.name} ({who}, {when})"


class Columns(NamedTuple):
    """Columns of the dense matrix, from ``least`` to ``most`` (None: or more); 1 is a vector."""

    least: int
    most: int | None

    def include(self, count: int) -> bool:
        """Whether products with ``count`` columns belong here."""
        return self.least <= count <= (math.inf if self.most is None else self.most)

    def __str__(self) -> str:
        if self.least == self.most:
            return f"{self.least} column{'s' if self.least > 1 else ''}"
        end = "or more" if self.most is None else f"to {self.most}"
        return f"{self.least} {end} columns"


class Spread(NamedTuple):
    """How far the speed-ups of several shapes lie apart: quartiles and extremes."""

    q25: float
    q75: float
    lowest: float
    highest: float


class PublishedSpeedup(NamedTuple):
    """A published speed-up: dense time over sparse time.

    Args:
        kernel: the name of the kernel, and ``kind`` and ``scope`` what it is, from
            :data:`KINDS` and :data:`SCOPES`.
        columns: of the dense matrix; None for networks.
        sparsity: the fraction of zeros, or of channels removed.
        shapes: how many shapes were measured.
        speedup: the median over the shapes, or the single figure that was published.
        spread: None for a single figure: it was published without an interval.
        inferred: those of the fields "gpu" and "dtype" that the source does not state.
        what: shapes or network, and remarks.
    """

    source: Source
    gpu: str
    dtype: str
    kernel: str
    kind: str
    scope: str
    dense_baseline: str
    columns: Columns | None
    sparsity: float
    shapes: int
    speedup: float
    spread: Spread | None
    inferred: tuple[str, ...]
    what: str

    def __str__(self) -> str:
        zeros = f"{100 * self.sparsity:.3g} %"
        what = f"{self.source}: {self.gpu}, {self.kernel}, {zeros}: {self.speedup:.2f}x"
        if self.spread is None:
            return f"{what}, published without an interval"
        ends = f"{self.spread.lowest:.2f} to {self.spread.highest:.2f}"
        return f"{what} ({ends} over {self.shapes} shapes)"


class PublishedBreakEven(NamedTuple):
    """The sparsity above which a kernel beats the dense product, of the shapes in some rows.

    Args:
        median, lowest, highest: over the shapes that break even within the measured sparsities;
            None if there are none.
        never: how many shapes never do, up to ``highest_sparsity``.
        from_start: how many are faster at every sparsity that was measured.
    """

    source: Source
    gpu: str
    dtype: str
    kernel: str
    kind: str
    dense_baseline: str
    columns: Columns | None
    shapes: int
    median: float | None
    lowest: float | None
    highest: float | None
    never: int
    from_start: int
    highest_sparsity: float


class Datasheet(NamedTuple):
    """What a GPU can do at most, in the words of its maker: dense rates, and those with 2:4.

    TFLOPS and TOPS count a multiplication and an addition as two. A value is 0 where the GPU has no
    such unit, and None where it was not seen in a source. The fp16 rates are those of the tensor
    cores.

    Args:
        accumulation: the number type in which fp16 products are summed, where the rate depends
            on it.
        inferred: fields that follow from others by a rule that ``note`` gives.
        measured: fields that somebody measured, because no datasheet was seen.
        seen_in: where all other values were seen.
    """

    gpu: str
    architecture: str
    accumulation: str
    fp32_tflops: float | None
    fp16_tflops: float | None
    fp16_2_4_tflops: float | None
    int8_tops: float | None
    int8_2_4_tops: float | None
    bandwidth_gb_s: float | None
    l2_mb: float | None
    memory: str
    inferred: tuple[str, ...]
    measured: tuple[str, ...]
    note: str
    seen_in: str


class MeasuredPeak(NamedTuple):
    """The highest rate of a dense product, in TFLOPS, and its share of the datasheet's."""

    gpu: str
    dtype: str
    datasheet: float
    reached: float
    share: float
    seen_in: str


# --- reading ------------------------------------------------------------------------------------


class _Line:
    """A line of a CSV file, whose cells are read as checked values."""

    def __init__(self, file: str, number: int, cells: dict[str, str]):
        self._file, self._number, self._cells = file, number, cells

    def error(self, field: str, must: str) -> PublishedError:
        return PublishedError(
            f"data/{self._file}, line {self._number}: {field} is {self._cells.get(field)!r}; "
            f"it must be {must}."
        )

    def text(self, field: str) -> str:
        if not self._cells.get(field):
            raise self.error(field, "a text")
        return self._cells[field]

    def words(self, field: str, known: Iterable[str]) -> tuple[str, ...]:
        found = tuple(self._cells[field].split())
        if not set(found) <= set(known):
            raise self.error(field, f"some of {', '.join(known)}")
        return found

    def one_of(self, field: str, known: Iterable[str]) -> str:
        if self._cells[field] not in known:
            raise self.error(field, f"one of {', '.join(map(repr, known))}")
        return self._cells[field]

    def number(self, field: str, least: float = 0, most: float = math.inf) -> float:
        try:
            number = float(self._cells[field])
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and least <= number <= most):
            end = "or more" if most == math.inf else f"to {most:g}"
            raise self.error(field, f"a number, {least:g} {end}")
        return number

    def optional(self, field: str, least: float = 0, most: float = math.inf) -> float | None:
        return self.number(field, least, most) if self._cells[field] else None

    def count(self, field: str, least: int = 0) -> int:
        number = self.number(field, least)
        if number != int(number):
            raise self.error(field, "a whole number")
        return int(number)

    def positive(self, field: str) -> float:
        number = self.number(field)
        if number == 0:
            raise self.error(field, "above 0")
        return number

    def optional_text(self, field: str) -> str:
        return self._cells[field]


def _lines(name: str, root: Path) -> list[_Line]:
    file = f"published/{name}"
    with verified(file, root).open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        found = [(reader.line_num, cells) for cells in reader]
    for number, cells in found:
        if None in cells or None in cells.values():
            raise PublishedError(
                f"data/{file}, line {number}: it must have {len(reader.fieldnames or ())} cells; "
                f"got {[*cells.values()]!r:.60}."
            )
    return [_Line(file, number, cells) for number, cells in found]


@cache
def sources(root: Path = DATA) -> dict[str, Source]:
    """The works that rows were read from, by their id.

    Raises:
        DataError: the file is missing or damaged.
        PublishedError: it is invalid; the message names the source, the field and its value.
    """
    path = verified("published/sources.json", root)
    found = json.loads(path.read_text(encoding="utf-8"))
    return {name: _source(name, entry) for name, entry in found.items()}


#: The types of the fields of a source that are not texts.
SOURCE_TYPES: dict[str, tuple[type, ...]] = {
    "year": (int, NoneType),
    "gpus": (list,),
    "cache_flushed": (bool, NoneType),
}


def _source(name: str, entry: dict[str, Any]) -> Source:
    where = f"data/published/sources.json, {name}"
    if entry.keys() != set(Source._fields) - {"id"}:
        wrong = sorted(entry.keys() ^ (set(Source._fields) - {"id"}))
        raise PublishedError(f"{where}: missing or unknown fields {wrong}.")
    for field, value in entry.items():
        if type(value) not in SOURCE_TYPES.get(field, (str,)):
            raise PublishedError(f"{where}: {field} is {value!r}, which has the wrong type.")
    for field in ("name", "repository", "licence", "gpus"):
        if not entry[field]:
            raise PublishedError(f"{where}: {field} is {entry[field]!r}; it must not be empty.")
    if entry["read_from"] not in READ_FROM:
        known = ", ".join(READ_FROM)
        raise PublishedError(f"{where}: read_from is {entry['read_from']!r}, not one of {known}.")
    return Source(**(entry | {"id": name, "gpus": tuple(entry["gpus"])}))


@cache
def rows(root: Path = DATA) -> tuple[PublishedSpeedup, ...]:
    """All published speed-ups, in the order of the file.

    Raises:
        DataError: a file is missing or damaged.
        PublishedError: a row is invalid; the message names file, line, field and value.
    """
    kernels = {
        line.text("kernel"): (line.one_of("kind", KINDS), line.one_of("scope", SCOPES))
        for line in _lines("kernels.csv", root)
    }
    return tuple(_speedup(line, kernels, sources(root)) for line in _lines("gpu.csv", root))


def _speedup(
    line: _Line, kernels: dict[str, tuple[str, str]], known: dict[str, Source]
) -> PublishedSpeedup:
    source = known[line.one_of("source", known)]
    kernel = line.one_of("kernel", kernels)
    kind, scope = kernels[kernel]
    return PublishedSpeedup(
        source=source,
        gpu=line.one_of("gpu", source.gpus),
        dtype=line.one_of("dtype", DTYPES),
        kernel=kernel,
        kind=kind,
        scope=scope,
        dense_baseline=line.text("dense_baseline"),
        columns=_columns(line),
        sparsity=line.number("sparsity", most=1),
        shapes=line.count("shapes", least=1),
        speedup=line.positive("speedup"),
        spread=_spread(line),
        inferred=line.words("inferred", ("gpu", "dtype")),
        what=line.text("what"),
    )


def _columns(line: _Line) -> Columns | None:
    text = line.optional_text("columns")
    if not text:
        return None
    found = re.fullmatch(r"([1-9]\d*)(?:-([1-9]\d*)| (or more))?", text)
    if not found:
        raise line.error("columns", "a count, such as '1', '128-256' or '2048 or more'")
    least, most, open_end = found.groups()
    return Columns(int(least), None if open_end else int(most or least))


def _spread(line: _Line) -> Spread | None:
    if line.count("shapes", least=1) == 1:
        for field in Spread._fields:
            line.one_of(field, ("",))
        return None
    spread = Spread(*(line.positive(field) for field in Spread._fields))
    ends = [spread.lowest, spread.q25, line.number("speedup"), spread.q75, spread.highest]
    if ends != sorted(ends):
        raise line.error("speedup", f"between its quartiles and extremes, {tuple(spread)}")
    return spread


@cache
def break_evens(root: Path = DATA) -> tuple[PublishedBreakEven, ...]:
    """The published break-even sparsities, each of the shapes of some :func:`rows`.

    Raises:
        DataError: a file is missing or damaged.
        PublishedError: a row is invalid; the message names file, line, field and value.
    """
    like = {(row.source.id, row.gpu, row.dtype, row.kernel): row for row in rows(root)}
    return tuple(_break_even(line, like) for line in _lines("break_even.csv", root))


def _break_even(
    line: _Line, like: dict[tuple[str, str, str, str], PublishedSpeedup]
) -> PublishedBreakEven:
    key = line.text("source"), line.text("gpu"), line.text("dtype"), line.text("kernel")
    if key not in like:
        raise line.error("kernel", f"one that gpu.csv has with {', '.join(key[:3])}")
    row, most = like[key], line.number("highest_sparsity", most=1)
    median, lowest, highest = (
        line.optional(field, most=most) for field in ("median", "lowest", "highest")
    )
    shapes, never, from_start = (line.count(name) for name in ("shapes", "never", "from_start"))
    if (never + from_start == shapes) != (median is None) or never + from_start > shapes:
        raise line.error("median", "given exactly if some of the shapes break even")
    ends = [end for end in (lowest, median, highest) if end is not None]
    if ends != sorted(ends) or len(ends) not in (0, 3):
        raise line.error("median", f"from lowest to highest, {lowest} to {highest}")
    about = (row.source, row.gpu, row.dtype, row.kernel, row.kind, row.dense_baseline, row.columns)
    return PublishedBreakEven(*about, shapes, median, lowest, highest, never, from_start, most)


@cache
def datasheets(root: Path = DATA) -> tuple[Datasheet, ...]:
    """The rates and bandwidths that GPUs have by their datasheets.

    Raises:
        DataError: the file is missing or damaged.
        PublishedError: a row is invalid; the message names file, line, field and value.
    """
    return tuple(map(_datasheet, _lines("datasheet.csv", root)))


def _datasheet(line: _Line) -> Datasheet:
    numbers = [name for name in Datasheet._fields if name.endswith(("ops", "gb_s", "mb"))]
    given = {name: line.optional(name) for name in numbers}
    known = [name for name in numbers if given[name] is not None]
    return Datasheet(
        gpu=line.text("gpu"),
        architecture=line.text("architecture"),
        accumulation=line.one_of("accumulation", ("float16", "float32", "")),
        **given,
        memory=line.text("memory"),
        inferred=line.words("inferred", known),
        measured=line.words("measured", known),
        note=line.optional_text("note"),
        seen_in=line.text("seen_in"),
    )


def card(sheet: Datasheet) -> Card:
    """The GPU of a datasheet as the models of :mod:`course_lib.measuring.break_even` take it.

    A card with two rows is named with its ``accumulation``, such as "RTX 3090, float32 sums".

    Raises:
        PublishedError: the datasheet has no rate in single precision, or no bandwidth.
    """
    if not (sheet.fp32_tflops and sheet.bandwidth_gb_s):
        raise PublishedError(
            f"Nothing can be computed for the {sheet.gpu}: its datasheet lacks the rate in single "
            f"precision (fp32_tflops {sheet.fp32_tflops!r}) or the bandwidth (bandwidth_gb_s "
            f"{sheet.bandwidth_gb_s!r}). Choose a GPU that has both."
        )
    return Card(
        name=sheet.gpu + (f", {sheet.accumulation} sums" if sheet.accumulation else ""),
        fp32=sheet.fp32_tflops * TFLOPS,
        fp16=_scaled(sheet.fp16_tflops, TFLOPS),
        two_four=_scaled(sheet.fp16_2_4_tflops, TFLOPS),
        bandwidth=sheet.bandwidth_gb_s * 1e9,
        l2=_scaled(sheet.l2_mb, 2**20),
    )


#: The datasheet that stands for that of a GPU with the same chip, where its own was not seen.
STAND_INS = {"A100 PCIe 80GB": "A100 SXM4 80GB"}


def prediction(row: PublishedBreakEven, root: Path = DATA) -> Prediction | None:
    """The break-even sparsity that a datasheet predicts for ``row``, computed, not published.

    None if there is no datasheet of its GPU, or no model of its kernel.
    """
    gpu = STAND_INS.get(row.gpu, row.gpu)
    accumulation = "float16" if "fp16 accumulate" in row.dense_baseline else "float32"
    sheets = (
        sheet
        for sheet in datasheets(root)
        if sheet.gpu == gpu and sheet.accumulation in ("", accumulation)
    )
    sheet = next(sheets, None)
    if sheet is None or row.columns is None:
        return None
    return predicted(card(sheet), getattr(torch, row.dtype), row.kernel, row.columns.least)


def _scaled(value: float | None, unit: float) -> float | None:
    """``value`` times its ``unit``; None where there is no value or no such unit in the GPU."""
    return value * unit if value else None


@cache
def peaks(root: Path = DATA) -> tuple[MeasuredPeak, ...]:
    """The highest rates that dense products reached on some GPUs.

    Raises:
        DataError: the file is missing or damaged.
        PublishedError: a row is invalid; the message names file, line, field and value.
    """
    return tuple(map(_peak, _lines("measured_peak.csv", root)))


def _peak(line: _Line) -> MeasuredPeak:
    datasheet, reached = line.positive("datasheet"), line.positive("reached")
    share = line.number("share", most=1)
    if abs(share - reached / datasheet) > 0.001:
        raise line.error("share", f"reached / datasheet, {reached / datasheet:.3f}")
    dtype = line.one_of("dtype", DTYPES)
    return MeasuredPeak(line.text("gpu"), dtype, datasheet, reached, share, line.text("seen_in"))


# --- choosing -----------------------------------------------------------------------------------


def select(
    found: Iterable[PublishedSpeedup],
    *,
    gpu: str = "",
    dtype: str | None = None,
    kind: str = "",
    kernel: str = "",
    scope: str = "",
    columns: int | None = None,
    sparsity: float | None = None,
) -> list[PublishedSpeedup]:
    """Those rows of ``found`` that are about all that is given.

    Args:
        gpu: the beginning of its name: "A100" finds every A100.
        kernel: a part of its name, such as "CSR" or "Sputnik".
        columns: a number of columns of the dense matrix: 1 finds single vectors, 4096 also finds
            "2048 or more".

    Raises:
        PublishedError: an unknown ``kind``, ``scope`` or ``dtype``.
    """
    for name, word, known in (("kind", kind, KINDS), ("scope", scope, SCOPES)):
        if word and word not in known:
            raise PublishedError(f"{name} is {word!r}; choose from {', '.join(known)}.")
    if dtype is not None and dtype not in DTYPES:
        raise PublishedError(f"dtype is {dtype!r}; choose from {', '.join(filter(None, DTYPES))}.")
    return [
        row
        for row in found
        if row.gpu.startswith(gpu) and kernel in row.kernel
        if dtype in (None, row.dtype) and kind in ("", row.kind) and scope in ("", row.scope)
        if columns is None or (row.columns is not None and row.columns.include(columns))
        if sparsity is None or math.isclose(row.sparsity, sparsity)
    ]


# --- warnings -----------------------------------------------------------------------------------

#: What has a source, a kernel and a dense baseline.
Row = PublishedSpeedup | PublishedBreakEven


def warnings_of(found: Iterable[Row]) -> list[str]:
    """What readers of these rows must know, in sentences; print it under every figure of them.

    The dense baselines differ; the ways of timing differ; authors have an interest in a kernel.
    Only what applies to the given rows is said.
    """
    given = [*found]
    checks = (_baselines, _accumulation, _flushed_caches, _no_warm_up, _interests)
    return [sentence for check in checks if (sentence := check(given))]


def _baselines(found: Sequence[Row]) -> str:
    """Speed-ups over different dense baselines cannot be compared closely."""
    by_source: dict[str, dict[str, None]] = {}
    for row in found:
        by_source.setdefault(row.source.name, {})[row.dense_baseline] = None
    if len({row.dense_baseline for row in found}) < 2:
        return ""
    each = "; ".join(f"{name}: {' / '.join(bases)}" for name, bases in by_source.items())
    return f"The speed-ups are over different dense baselines ({each})."


def _accumulation(found: Sequence[Row]) -> str:
    """The rate of the dense product of GeForce cards depends on how it accumulates."""
    geforce = [row for row in found if row.gpu.startswith("RTX")]
    in_16, in_32 = (
        _names(row for row in geforce if f"fp{bits} accumulate" in row.dense_baseline)
        for bits in (16, 32)
    )
    if not in_16:
        return ""
    others = f" {in_32} compares with products that accumulate in 32 bits." if in_32 else ""
    return (
        f"{in_16} compares with dense products that accumulate in 16 bits. On GeForce cards they "
        "take half the time of those that accumulate in 32 bits, so that sparse ones look slower."
        + others
    )


def _flushed_caches(found: Sequence[Row]) -> str:
    states = {True: "flushed in", False: "not flushed in", None: "not stated for"}
    if len({row.source.cache_flushed for row in found}) < 2:
        return ""
    told = (
        (words, _names(row for row in found if row.source.cache_flushed is state))
        for state, words in states.items()
    )
    each = "; ".join(f"{words} {names}" for words, names in told if names)
    return f"The ways of timing differ: before each run the cache was {each}."


def _no_warm_up(found: Sequence[Row]) -> str:
    cold = [row for row in found if row.source.no_warm_up and row.source.no_warm_up in row.kernel]
    if not cold:
        return ""
    return f"{cold[0].source.no_warm_up} was timed without a warm-up in {_names(cold)}."


def _interests(found: Sequence[Row]) -> str:
    interested = {row.source.name: row.source.interest for row in found if row.source.interest}
    if not interested:
        return ""
    each = "; ".join(f"{name}: {interest}" for name, interest in interested.items())
    return (
        f"Some authors have an interest in one of the kernels ({each}); the others may be tuned "
        "less well."
    )


def _names(found: Iterable[Row]) -> str:
    return ", ".join(dict.fromkeys(row.source.name for row in found))
