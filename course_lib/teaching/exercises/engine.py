"""Exercises that check themselves, and name the misconception behind a wrong answer.

An exercise holds its reference solution and its *mistakes*: each is a wrong answer written as code,
with the words that help whoever wrote it. A learner's function is run on the exercise's cases; when
it is wrong, the mistake that gives the same results says why. The tests run every mistake and
demand that it is rejected in its own words.
"""

import copy
import ctypes
import html
import inspect
import threading
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

SECONDS = 5.0  # what a learner's function may take for one case


class Mistake(NamedTuple):
    """A wrong answer, and what to tell whoever gives it."""

    answer: Callable
    message: str


class Exercise(NamedTuple):
    """A function to write: ``cases`` are argument tuples, the smallest first."""

    id: str
    title: str
    difficulty: int
    minutes: int
    reference: Callable
    cases: Callable[[], list[tuple]]
    hints: tuple[str, ...]
    mistakes: tuple[Mistake, ...]


class Outcome(NamedTuple):
    """What :func:`examine` found: ``kind`` is "not attempted", "not yet" or "correct"."""

    kind: str
    message: str
    table: tuple[tuple[str, str], ...] = ()


class _Timeout(BaseException):
    """Raised inside a learner's function that runs too long; no ``except Exception`` stops it."""


class _Failure(NamedTuple):
    """How a learner's function failed on a case instead of returning a value."""

    error: str
    message: str


def examine(exercise: Exercise, answer: Callable, seconds: float = SECONDS) -> Outcome:
    """Compare ``answer`` with the reference on every case; never raises.

    Stops at the first case that differs, and looks for the mistake that explains it.
    """
    results = []
    for arguments in exercise.cases():
        given = copy.deepcopy(arguments)
        result = _run(answer, given, seconds)
        if result is ...:
            return Outcome("not attempted", "Replace the `...` and run the cell again.")
        results.append(result)
        if not _same(given, arguments):
            why = "Your function changed its input. Work on a copy: whoever called it needs it."
            return Outcome("not yet", why, _table(exercise, arguments, result))
        if isinstance(result, _Failure) and result.error == "endless":
            return Outcome("not yet", result.message, _table(exercise, arguments, result))
    cases = exercise.cases()
    for arguments, result in zip(cases, results, strict=True):
        if not _same(result, _expected(exercise, arguments)):
            why = _diagnosis(exercise, cases, results) or _difference(exercise, arguments, result)
            return Outcome("not yet", why, _table(exercise, arguments, result))
    return Outcome("correct", f"All {len(cases)} cases agree, the awkward ones too.")


def _diagnosis(exercise: Exercise, cases: list[tuple], results: list) -> str | None:
    """The words of the mistake that gives the same result in every case."""
    for mistake in exercise.mistakes:
        wrong = (_run(mistake.answer, copy.deepcopy(case), SECONDS) for case in cases)
        if all(map(_alike, wrong, results)):
            return mistake.message
    return None


def _expected(exercise: Exercise, arguments: tuple) -> Any:
    """What the reference returns; it may use up what it is given, such as a clock."""
    return exercise.reference(*copy.deepcopy(arguments))


def _difference(exercise: Exercise, arguments: tuple, result: Any) -> str:
    expected = _expected(exercise, arguments)
    if isinstance(result, _Failure):
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


def _same(result: Any, expected: Any) -> bool:
    """Equal, floats up to rounding; a type that the reference does not return is never equal."""
    if isinstance(expected, torch.Tensor):
        if not isinstance(result, torch.Tensor) or result.dtype != expected.dtype:
            return False
        return result.shape == expected.shape and torch.allclose(
            result.double(), expected.double(), rtol=1e-5, atol=1e-7, equal_nan=True
        )
    if isinstance(expected, dict):
        return (
            isinstance(result, dict)
            and result.keys() == expected.keys()
            and all(_same(result[key], expected[key]) for key in expected)
        )
    if isinstance(expected, tuple | list):
        return (
            isinstance(result, tuple | list)
            and len(result) == len(expected)
            and all(map(_same, result, expected))
        )
    if isinstance(expected, float):
        number = isinstance(result, int | float) and not isinstance(result, bool)
        return number and abs(result - expected) <= 1e-6 * max(1.0, abs(expected))
    return type(result) is type(expected) and result == expected


def _alike(one: Any, other: Any) -> bool:
    """Two answers of any type that give the same result, or fail in the same way."""
    if isinstance(one, _Failure) or isinstance(other, _Failure):
        return type(one) is type(other) and one.error == other.error
    return _same(one, other)


def _run(function: Callable, arguments: tuple, seconds: float) -> Any:
    """What ``function`` returns, or a :class:`_Failure`; an endless loop is stopped."""
    box: list[Any] = []

    def work() -> None:
        try:
            with torch.no_grad():
                box.append(function(*arguments))
        except NotImplementedError:
            box.append(...)
        except _Timeout:
            pass
        except BaseException as error:
            box.append(_Failure(type(error).__name__, _words(error)))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        # Python has no way to end a thread; an exception raised inside it stops an endless loop.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(_Timeout)
        )
        why = f"Your function still ran after {seconds:g} seconds and was stopped. Does a loop end?"
        return _Failure("endless", why)
    return box[0] if box else _Failure("endless", "Your function was stopped.")


def _words(error: BaseException) -> str:
    line = traceback.extract_tb(error.__traceback__)[-1]
    where = f" (line `{line.line}`)" if line.line else ""
    return f"Your function raised {type(error).__name__}: {error}{where}."


def _table(exercise: Exercise, arguments: tuple, result: Any) -> tuple[tuple[str, str], ...]:
    names = inspect.signature(exercise.reference).parameters
    rows = [(name, _text(value)) for name, value in zip(names, arguments, strict=True)]
    rows.append(("expected", _text(_expected(exercise, arguments))))
    mine = f"{result.error}" if isinstance(result, _Failure) else _text(result)
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
