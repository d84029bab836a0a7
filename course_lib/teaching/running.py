"""Run a learner's function on the cases of an exercise; ``exercises.engine`` judges the results.

This module imports nothing else of the course: the grader (``course_lib.classroom``) uses it to run
submissions in a process that cannot read the solutions.
"""

import copy
import ctypes
import threading
import traceback
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch

SECONDS = 5.0  # time limit of a learner's function for one case


class Failure(NamedTuple):
    """How a learner's function failed on a case instead of returning a value."""

    error: str
    message: str


class Result(NamedTuple):
    """What a function returned for a case: a value, ``...`` or a :class:`Failure`."""

    value: Any
    changed: bool = False  # whether the function changed its arguments

    @property
    def ends(self) -> bool:
        """Whether the remaining cases are skipped: no answer, changed arguments, or a time-out."""
        endless = isinstance(self.value, Failure) and self.value.error == "endless"
        return self.value is ... or self.changed or endless


class _Timeout(BaseException):
    """Raised inside a learner's function that runs too long; no ``except Exception`` stops it."""


def run(answer: Callable, cases: Iterable[tuple], seconds: float = SECONDS) -> list[Result]:
    """A result for each case, in order, up to the first that :attr:`Result.ends`."""
    results: list[Result] = []
    for arguments in cases:
        given = copy.deepcopy(arguments)
        value = call(answer, given, seconds)
        results.append(Result(value, changed=value is not ... and not same(given, arguments)))
        if results[-1].ends:
            break
    return results


def call(function: Callable, arguments: tuple, seconds: float = SECONDS) -> Any:
    """What ``function`` returns, or a :class:`Failure`; it is stopped after ``seconds``."""
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
            box.append(Failure(type(error).__name__, _words(error)))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive() and thread.ident is not None:
        # Python has no way to end a thread; an exception raised inside it stops an endless loop.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(_Timeout)
        )
        why = f"Your function still ran after {seconds:g} seconds and was stopped."
        return Failure("endless", f"{why} Does every loop end?")
    return box[0] if box else Failure("endless", "Your function was stopped.")


def _words(error: BaseException) -> str:
    line = traceback.extract_tb(error.__traceback__)[-1]
    where = f" (line `{line.line}`)" if line.line else ""
    return f"Your function raised {type(error).__name__}: {error}{where}."


def same(result: Any, expected: Any) -> bool:
    """Whether the two are equal, floats up to rounding; values of another type never are."""
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
            and all(same(result[key], expected[key]) for key in expected)
        )
    if isinstance(expected, tuple | list):
        return (
            isinstance(result, tuple | list)
            and len(result) == len(expected)
            and all(map(same, result, expected))
        )
    if isinstance(expected, float):
        number = isinstance(result, int | float) and not isinstance(result, bool)
        return number and abs(result - expected) <= 1e-6 * max(1.0, abs(expected))
    return type(result) is type(expected) and result == expected
