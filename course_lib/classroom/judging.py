"""Run one submission in the sandbox, and judge what its functions returned.

Separate from the rest of the grading, because every judging process loads this module.
"""

import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from course_lib.classroom import sandbox
from course_lib.classroom.wire import Forged, Job, returned
from course_lib.teaching.exercises import EXERCISES
from course_lib.teaching.exercises.engine import Outcome, assess
from course_lib.teaching.running import Result

RUNNER = "course_lib.classroom.runner"
ENDED = "It ended Python before its functions were run."


class Ran(NamedTuple):
    """The result of running a notebook: why none of it counts, or its outcomes and cell errors."""

    reason: str | None
    outcomes: dict[str, Outcome | None] = {}  # noqa: RUF012 (a default of a tuple, never changed)
    errors: list[str | None] = []  # noqa: RUF012


def ran(job: Job) -> Ran:
    """Run a submission in the sandbox and judge what its functions returned."""
    if not job.cells:
        return Ran(None, dict.fromkeys(job.names), [])
    folder = tempfile.TemporaryDirectory(prefix="submission-", ignore_cleanup_errors=True)
    with folder as name:
        ended = sandbox.run(RUNNER, _pickled(job), Path(name), job.limits)
    if ended.reason or not ended.output:
        return Ran(ended.reason or ENDED)
    try:
        back = returned(ended.output, job)
    except Forged as error:
        return Ran(f"Its results cannot be read ({error}).")
    if back.attempts:
        return Ran(f"It tried something that no exercise needs: {back.attempts[0]}")
    outcomes = {number: _judged(number, results) for number, results in back.results.items()}
    return Ran(None, outcomes, back.errors)


def _pickled(job: Job) -> bytes:
    """``job`` with the classes of its cases, since a submission cannot import the exercises."""
    import cloudpickle

    modules = {sys.modules[EXERCISES[name].cases.__module__] for name in job.cases}
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        return cloudpickle.dumps(job)
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _judged(number: str, results: list[Result] | None) -> Outcome | None:
    """The outcome of an exercise from the results of its function; None if there is none."""
    if results is None:
        return None
    cases = len(EXERCISES[number].cases())
    if not results or len(results) > cases or (len(results) < cases and not results[-1].ends):
        return Outcome("not yet", f"There are {len(results)} results for {cases} cases.")
    try:
        return assess(EXERCISES[number], results)
    except Exception as error:  # a value that no comparison foresees, such as a giant number
        return Outcome("not yet", f"What it returned cannot be compared ({type(error).__name__}).")
