"""What a lesson calls: ``check("01.2", my_function)``, ``hint("01.2")``, ``solution("01.2")``.

None of them raises in a lesson, whatever the arguments. Attempts and hints are stored in the
learner's progress. ``require`` is for graders: the same check, but it raises.
"""

import html
import inspect
import textwrap
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from course_lib.teaching import progress
from course_lib.teaching.exercises.engine import Exercise, Outcome, as_html, as_text, examine
from course_lib.teaching.progress import Progress

FILES = sorted(Path(__file__).parent.glob("lesson[0-9][0-9].py"))
LESSONS = [import_module(f"{__name__}.{file.stem}") for file in FILES]

EXERCISES: dict[str, Exercise] = {
    exercise.id: exercise for lesson in LESSONS for exercise in lesson.EXERCISES
}


class Shown:
    """What a lesson displays: HTML in Jupyter, plain text elsewhere."""

    def __init__(self, page: str, text: str):
        self._html, self._text = page, text

    def _repr_html_(self) -> str:
        return self._html

    def __repr__(self) -> str:
        return self._text


def check(name: str, answer: Callable) -> Shown:
    """Check ``answer``, store the attempt, and show the outcome; never raises."""
    if name not in EXERCISES:
        return _unknown(name)
    exercise = EXERCISES[name]
    outcome = judge(exercise, answer)
    if outcome.kind != "not attempted":
        _remember(name, attempts=1, solved=outcome.kind == "correct")
    title = (
        f"Exercise {exercise.id}, {exercise.title} "
        f"(difficulty {exercise.difficulty} of 5, {exercise.minutes} minutes)"
    )
    return Shown(as_html(title, outcome), as_text(title, outcome))


def require(name: str, answer: Callable) -> None:
    """For graders: like :func:`check`, but silent when correct.

    Raises:
        KeyError: no exercise has that name.
        AssertionError: the answer is missing or wrong; the message says why.
    """
    outcome = judge(EXERCISES[name], answer)
    if outcome.kind != "correct":
        raise AssertionError(as_text(f"Exercise {name}", outcome))


def judge(exercise: Exercise, answer: Callable) -> Outcome:
    """The outcome of ``answer``; what cannot be called, or compared, is "not yet" as well."""
    if not callable(answer):
        why = f"Pass the function itself, without brackets; got a {type(answer).__name__}."
        return Outcome("not yet", why)
    try:
        return examine(exercise, answer)
    except Exception as error:  # the result cannot even be compared or shown
        why = f"Your result cannot be compared ({type(error).__name__}: {error})."
        return Outcome("not yet", f"{why} Return an ordinary number or dense tensor.")


def hint(name: str) -> Shown:
    """Show the next hint; after the last one, start again. Hints are counted, without penalty."""
    if name not in EXERCISES:
        return _unknown(name)
    hints = EXERCISES[name].hints
    seen = progress.read()["exercises"].get(name, {}).get("hints", 0)
    _remember(name, hints=1)
    number = seen % len(hints)
    text = f"Hint {number + 1} of {len(hints)}: {hints[number]}"
    return Shown(f"<p>{html.escape(text)}</p>", text)


def solution(name: str) -> Shown:
    """Show the reference solution."""
    if name not in EXERCISES:
        return _unknown(name)
    source = textwrap.dedent(inspect.getsource(EXERCISES[name].reference))
    return Shown(f"<pre>{html.escape(source)}</pre>", source)


def _unknown(name: str) -> Shown:
    text = f"There is no exercise {name!r}; the exercises are {', '.join(EXERCISES)}."
    return Shown(f"<p>{html.escape(text)}</p>", text)


def _remember(name: str, attempts: int = 0, hints: int = 0, solved: bool = False) -> None:
    def change(state: Progress) -> None:
        entry = state["exercises"].setdefault(name, {"attempts": 0, "hints": 0, "solved": False})
        entry["attempts"] += attempts
        entry["hints"] += hints
        entry["solved"] = entry["solved"] or solved

    progress.remember(change)
