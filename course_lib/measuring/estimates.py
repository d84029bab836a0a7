"""A measured value with its 95 % interval, and the intervals of differences and ratios.

A conclusion is worth no more than its interval: what is compared with a threshold is the whole
interval, see :func:`course_lib.teaching.claims.judge`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from course_lib.measuring import quality
from course_lib.measuring.timing import Recorded


class HasInterval(Protocol):
    """A value and the ends of its 95 % interval, such as :class:`Estimate` or ``Speedup``."""

    @property
    def value(self) -> float:
        """The measured value."""

    @property
    def low(self) -> float:
        """The lower end of the interval."""

    @property
    def high(self) -> float:
        """The upper end of the interval."""


class Estimate(NamedTuple):
    """A measured ``value``, and its 95 % interval from ``low`` to ``high``."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def exact(value: float) -> Estimate:
    """A ``value`` without error, such as a number of bytes."""
    return Estimate(value, value, value)


def paired(first: torch.Tensor, second: torch.Tensor) -> Estimate:
    """The accuracy of ``first`` minus that of ``second`` on the same pictures, in points.

    Args:
        first, second: for each picture whether the network is right, bool (N,), from
            :func:`course_lib.networks.training.correct`.

    Raises:
        ValueError: they are of different lengths.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"Only results on the same pictures can be paired; got {len(first)} and {len(second)}."
        )
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    return paired_counts(only_first, only_second, len(first))


def paired_counts(only_first: int, only_second: int, n: int) -> Estimate:
    """The same, from how many of ``n`` pictures only one of both gets right (McNemar, 1947)."""
    low, high = quality.paired_interval(only_first, only_second, n)
    return Estimate(100 * (only_first - only_second) / n, low, high)


def unpaired(first: float, second: float, n: int) -> Estimate:
    """The difference of two accuracies, in percent, of which only the values are known.

    Each was measured on ``n`` examples. The interval is that for examples of their own: if they
    were the same examples, it is wider than it need be.
    """
    low, high = quality.difference_interval(first, second, n)
    return Estimate(first - second, low, high)


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean over a few seeds, with its interval by Student's t.

    It covers the luck of the training, not that of the test pictures.

    Raises:
        ValueError: fewer than two values, or more than :data:`.quality.STUDENT_T` has.
    """
    return Estimate(*quality.mean_interval(values))


def difference(first: HasInterval, second: HasInterval) -> Estimate:
    """``first`` minus ``second``, two independent estimates: their errors add in quadrature."""
    value = first.value - second.value
    down = math.hypot(first.value - first.low, second.high - second.value)
    up = math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value, value - down, value + up)


def ratio(first: HasInterval, second: HasInterval) -> Estimate:
    """``first`` over ``second``, two independent estimates above zero.

    Their relative errors, as differences of logarithms, add in quadrature.
    """
    logs = [Estimate(*(math.log(end) for end in (e.value, e.low, e.high))) for e in (first, second)]
    return Estimate(*map(math.exp, difference(*logs)))


def widened(estimate: HasInterval, other: HasInterval) -> Estimate:
    """``estimate`` with an interval that also covers the error of ``other``, in quadrature.

    For a mean over seeds: it covers the luck of the training; the interval of one network on the
    test pictures covers that of the pictures.
    """
    down = math.hypot(estimate.value - estimate.low, other.value - other.low)
    up = math.hypot(estimate.high - estimate.value, other.high - other.value)
    return Estimate(estimate.value, estimate.value - down, estimate.value + up)


def recorded_speedup(timed: Recorded) -> Estimate:
    """The speed-up in the entry of a recording, with its interval."""
    return Estimate(timed["speedup"], *timed["interval"])
