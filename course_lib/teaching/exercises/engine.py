"""Exercises that check themselves, and name the misconception behind a wrong answer.

An exercise has a reference solution and *mistakes*: common wrong answers, written as code, each
with a message for learners who give it. A learner's function is run on the exercise's cases; if it
is wrong, the message of the mistake that gives the same results says why. The tests run every
mistake and require that it is rejected with its own message.
"""

import copy
import html
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from course_lib.teaching.running import SECONDS, Failure, Result, call, run, same


class Mistake(NamedTuple):
    """A common wrong answer, and the message for learners who give it."""

    answer: Callable
    message: str


class Exercise(NamedTuple):
    """A function to write, with its ``reference`` solution.

    ``cases`` returns argument tuples, the smallest first. ``difficulty`` is from 1 to 5;
    ``minutes`` is the time to plan for.
    """

    id: str
    title: str
    difficulty: int
    minutes: int
    reference: Callable
    cases: Callable[[], list[tuple]]
    hints: tuple[str, ...]
    mistakes: tuple[Mistake, ...]


class Outcome(NamedTuple):
    """What :func:`assess` found: ``kind`` is "not attempted", "not yet" or "correct".

    ``table`` shows the failing case, as pairs of a name and a value.
    """

    kind: str
    message: str
    table: tuple[tuple[str, str], ...] = ()


def examine(exercise: Exercise, answer: Callable, seconds: float = SECONDS) -> Outcome:
    """Compare ``answer`` with the reference on every case; never raises."""
    return assess(exercise, run(answer, exercise.cases(), seconds))


def assess(exercise: Exercise, results: list[Result]) -> Outcome:
    """Judge what a learner's function returned for the cases of ``exercise``.

    The first case that differs decides; the mistake with the same results supplies the message.
    """
    cases = exercise.cases()
    arguments, last = cases[len(results) - 1], results[-1]
    if last.value is ...:
        return Outcome("not attempted", "Replace the `...` and run the cell again.")
    if last.changed:
        why = (
            "Your function changed its input. Work on a copy: the caller still needs the original."
        )
        return Outcome("not yet", why, _table(exercise, arguments, last.value))
    if last.ends:
        return Outcome("not yet", last.value.message, _table(exercise, arguments, last.value))
    return _compared(exercise, cases, [result.value for result in results])


def _compared(exercise: Exercise, cases: list[tuple], values: list) -> Outcome:
    for arguments, value in zip(cases, values, strict=True):
        if not same(value, _expected(exercise, arguments)):
            why = _diagnosis(exercise, cases, values) or _difference(exercise, arguments, value)
            return Outcome("not yet", why, _table(exercise, arguments, value))
    return Outcome("correct", f"All {len(cases)} cases agree, including the awkward ones.")


def _diagnosis(exercise: Exercise, cases: list[tuple], results: list) -> str | None:
    """The message of the mistake that gives the same result in every case."""
    for mistake in exercise.mistakes:
        wrong = (call(mistake.answer, copy.deepcopy(case)) for case in cases)
        if all(map(_alike, wrong, results)):
            return mistake.message
    return None


def _expected(exercise: Exercise, arguments: tuple) -> Any:
    """What the reference returns for a copy of ``arguments``, which it may change."""
    return exercise.reference(*copy.deepcopy(arguments))


def _difference(exercise: Exercise, arguments: tuple, result: Any) -> str:
    expected = _expected(exercise, arguments)
    if isinstance(result, Failure):
        return result.message
    if type(result) is not type(expected):
        return (
            f"Return a {type(expected).__name__}; your function returned a {type(result).__name__}."
        )
    if isinstance(expected, torch.Tensor) and result.shape != expected.shape:
        return f"The shape is {tuple(result.shape)}, but {tuple(expected.shape)} was expected."
    if isinstance(expected, torch.Tensor) and result.dtype != expected.dtype:
        return f"The dtype is {result.dtype}, but {expected.dtype} was expected."
    return "The result differs from the expected one on the case below, the smallest that fails."


def _alike(one: Any, other: Any) -> bool:
    """Whether two results of any type are equal, or are failures with the same error."""
    if isinstance(one, Failure) or isinstance(other, Failure):
        return type(one) is type(other) and one.error == other.error
    return same(one, other)


def _table(exercise: Exercise, arguments: tuple, result: Any) -> tuple[tuple[str, str], ...]:
    names = inspect.signature(exercise.reference).parameters
    rows = [(name, _text(value)) for name, value in zip(names, arguments, strict=True)]
    rows.append(("expected", _text(_expected(exercise, arguments))))
    mine = f"{result.error}" if isinstance(result, Failure) else _text(result)
    return (*rows, ("yours", mine))


def _text(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        text = str(value.int() if value.dtype == torch.bool else value)
        text = text.removeprefix("tensor(").removesuffix(")").replace("\n       ", "\n")
        text = text.split(", dtype=")[0]
    elif isinstance(value, dict):
        text = "\n".join(f"{key}: {_text(entry)}" for key, entry in value.items())
    elif isinstance(value, tuple):
        text = "\n".join(_text(entry) for entry in value)
    else:
        text = repr(value)
    return text if len(text) <= 400 else text[:397] + "..."


def as_html(title: str, outcome: Outcome) -> str:
    """The outcome as a small block of HTML: the verdict in words, and the failing case."""
    rows = "".join(
        f"<tr><th style='text-align:left;vertical-align:top'>{html.escape(name)}</th>"
        f"<td style='text-align:left'><pre>{html.escape(text)}</pre></td></tr>"
        for name, text in outcome.table
    )
    table = f"<table>{rows}</table>" if rows else ""
    words = html.escape(outcome.message)
    return f"<p><b>{html.escape(title)}: {outcome.kind}.</b> {words}</p>{table}"


def as_text(title: str, outcome: Outcome) -> str:
    """The outcome as plain text."""
    rows = "".join(f"\n{name}:\n{text}" for name, text in outcome.table)
    return f"{title}: {outcome.kind}. {outcome.message}{rows}"
