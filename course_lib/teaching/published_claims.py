"""Published values of the quantities that claims test: the same question, asked of other works.

A claim about a GPU is decided by a GPU that is here, else by a recorded one, else by what was
published. :data:`QUESTIONS` says which rows of :mod:`course_lib.experiments.published` answer which
quantity; :mod:`.claims` shows every one of them with its source.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from course_lib.experiments.published import PublishedSpeedup, select
from course_lib.experiments.recordings import published
from course_lib.measuring.estimates import Estimate
from course_lib.networks.data import DATA


class PublishedValue(NamedTuple):
    """The ``value`` of a quantity by one published row.

    ``range`` is None for a single figure, which was published without an interval. Otherwise it is
    what the quantity is at the extremes over the shapes that the source measured. It stands for the
    95 % interval of a measurement: the shape that a claim asks about is hardly ever among those of
    the source, so that its value may lie anywhere between them.
    """

    value: float
    range: Estimate | None
    row: PublishedSpeedup

    @property
    def origin(self) -> str:
        """What was published, by whom and when: GPU, kernel, dense product, shapes."""
        row = self.row
        start = "" if self.value == row.speedup else f"computed from {row.speedup:.2f}x, "
        shapes = f"{row.what} times {row.columns}" if row.spread and row.columns else row.what
        kernels = f"{row.kernel}, over {row.dense_baseline}"
        return f"{start}published by {row.source}: {row.gpu}, {kernels}; {shapes}"


def _itself(speedup: float) -> float:
    return speedup


def _price_at_90(speedup: float) -> float:
    """Sparse time per weight that is left, over dense time per weight, at 90 % sparsity."""
    return 1 / (speedup * (1 - 0.9))


class Question(NamedTuple):
    """Which published products in float16 answer: their kind and kernel, columns and sparsity.

    ``compute`` makes the quantity of a speed-up; it must rise or fall with it.
    """

    kind: str
    kernel: str
    columns: int
    sparsity: float
    compute: Callable[[float], float] = _itself


#: By the quantity in ``claims.json``. Only rows with its sparsity and number type answer.
#: - "csr_90_gpu_32": there are none; published products with CSR in float32 end at 87.5 %.
#: - "csr_95_gpu": the one row is left out. Its dense product, on a GeForce card, accumulates in 16
#:   bits and takes half the time of torch's, which accumulates in 32: over that, CSR would win.
#: - "csr_90_gpu_16" is the same row at 90 %, where CSR loses even so in most shapes; the claim is
#:   that it can be slower.
QUESTIONS = {
    "csr_90_gpu_16": Question("unstructured", "CSR", 4096, 0.9),
    "price_of_a_weight_gpu": Question("unstructured", "CSR", 1, 0.9, _price_at_90),
    "two_four_gpu": Question("2:4", "", 4096, 0.5),
    "csr_95_vector_gpu": Question("unstructured", "CSR", 1, 0.95),
    "blocks_90_gpu": Question("blocks", "8x8", 256, 0.9),
}


def published_values(
    quantities: Iterable[str], root: Path = DATA
) -> dict[str, list[PublishedValue]]:
    """What was published, by quantity; quantities that no row answers are left out.

    Raises:
        DataError: a published file is missing or damaged.
        PublishedError: a published row is invalid.
    """
    found = {name: _values(QUESTIONS[name], root) for name in quantities if name in QUESTIONS}
    return {name: values for name, values in found.items() if values}


def _values(question: Question, root: Path) -> list[PublishedValue]:
    kind, kernel, columns, sparsity, compute = question
    answers = select(
        published(root),
        dtype="float16",
        kind=kind,
        kernel=kernel,
        scope="product",
        columns=columns,
        sparsity=sparsity,
    )
    return [PublishedValue(compute(row.speedup), _range(row, compute), row) for row in answers]


def _range(row: PublishedSpeedup, compute: Callable[[float], float]) -> Estimate | None:
    if row.spread is None:
        return None
    low, high = sorted([compute(row.spread.lowest), compute(row.spread.highest)])
    return Estimate(compute(row.speedup), low, high)
