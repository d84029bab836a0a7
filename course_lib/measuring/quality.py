"""Accuracy with its interval, and differences of accuracies with theirs."""

import math
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, TypedDict

import torch
from torch import nn

from course_lib.measuring.cost import macs
from course_lib.networks.data import Images, Part, Splits
from course_lib.networks.models import EXAMPLE
from course_lib.networks.training import accuracy, correct


def interval(percent: float, n: int) -> tuple[float, float]:
    """95 % Wilson interval of an accuracy of ``percent`` measured on ``n`` examples, in percent.

    Wilson (1927): unlike the plain normal interval it stays inside 0 to 100.
    """
    z, p = 1.959964, percent / 100
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, 100 * (centre - half)), min(100.0, 100 * (centre + half))


def difference_interval(first: float, second: float, n: int) -> tuple[float, float]:
    """95 % interval of ``first - second``, two accuracies in percent, in points.

    Each was measured on ``n`` pictures of its own. On the same pictures the interval is narrower:
    see :func:`paired_interval`. Lesson 04 builds this function.
    """
    variance = sum(percent / 100 * (1 - percent / 100) / n for percent in (first, second))
    half = 100 * 1.96 * math.sqrt(variance)
    return first - second - half, first - second + half


def paired_interval(only_first: int, only_second: int, n: int) -> tuple[float, float]:
    """95 % interval of the difference of two accuracies on the same ``n`` pictures, in points.

    Pictures that both get right, or both get wrong, say nothing about the difference (McNemar,
    1947). What counts are those that ``only_first`` and ``only_second`` got right.
    """
    difference = (only_first - only_second) / n
    variance = (only_first + only_second) / n**2 - difference**2 / n
    half = 100 * 1.96 * math.sqrt(variance)
    return 100 * difference - half, 100 * difference + half


#: Standard errors to either side of a mean for 95 % (Student's t), by the number of values.
STUDENT_T = dict(
    zip(
        range(2, 17),
        (
            12.706,
            4.303,
            3.182,
            2.776,
            2.571,
            2.447,
            2.365,
            2.306,
            2.262,
            2.228,
            2.201,
            2.179,
            2.160,
            2.145,
            2.131,
        ),
        strict=True,
    )
)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean of a few ``values``, such as one for each seed, and its 95 % interval.

    Student (1908): the fewer values, the less is known about their spread. Lesson 10 builds this.

    Raises:
        ValueError: fewer than two values, or more than :data:`STUDENT_T` has.
    """
    if len(values) not in STUDENT_T:
        raise ValueError(
            f"An interval of the mean needs {min(STUDENT_T)} to {max(STUDENT_T)} values; "
            f"got {len(values)}."
        )
    mean = statistics.fmean(values)
    half = STUDENT_T[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


#: A percentage, and an interval of percentages: the text says how a recording is checked.
Percentage = Annotated[float, "a number from 0 to 100"]
PercentageInterval = Annotated[list[float], "two numbers from 0 to 100, the lower first"]


class Evaluation(TypedDict):
    """What a recording keeps of an accuracy: of the test part, its 95 % interval; of validation."""

    accuracy: Percentage
    interval: PercentageInterval
    validation: Percentage


class Size(TypedDict):
    """What a recording keeps of the size of a network."""

    parameters: int
    macs: int


class PairedEvaluation(Evaluation):
    """The same, and how many test pictures only the dense or only the pruned network gets right."""

    only_dense: int
    only_pruned: int


def evaluate(model: nn.Module, data: Splits[Images]) -> Evaluation:
    """Test ``accuracy``, its 95 % ``interval``, and ``validation`` accuracy, of ``model``."""
    return evaluated_by(partial(accuracy, model), data)


def evaluated_by(percent_right: Callable[[Part], float], data: Splits[Part]) -> Evaluation:
    """The same for a model whose accuracy on a part of the data is ``percent_right(part)``."""
    return _evaluation(percent_right(data.test), percent_right(data.validation), data)


def evaluate_beside(
    dense: torch.Tensor, model: nn.Module, data: Splits[Images]
) -> PairedEvaluation:
    """The same for a pruned ``model``, and the counts that :func:`paired_interval` needs.

    Args:
        dense: which test pictures the dense network gets right, bool (N,): see
            :func:`course_lib.networks.training.correct`.
    """
    pruned = correct(model, data.test)
    test = 100 * pruned.sum().item() / len(pruned)
    return {
        **_evaluation(test, accuracy(model, data.validation), data),
        "only_dense": int((dense & ~pruned).sum()),
        "only_pruned": int((pruned & ~dense).sum()),
    }


def _evaluation(test: float, validation: float, data: Splits[Any]) -> Evaluation:
    low, high = interval(test, len(data.test.labels))
    return {
        "accuracy": round(test, 2),
        "interval": [round(low, 2), round(high, 2)],
        "validation": round(validation, 2),
    }


def size(model: nn.Module, example: torch.Tensor = EXAMPLE) -> Size:
    """``parameters`` that are not zero, biases and normalisation included, and ``macs``.

    Args:
        example: an input with the shape of a batch of one.
    """
    left = sum(int(parameter.count_nonzero()) for parameter in model.parameters())
    example = example.to(next(model.parameters()).device)
    return {"parameters": left, "macs": macs(model, example)}
