"""Grade a folder of submissions: each runs in its own process and is judged by what it returns.

nbgrader's ``autograde`` runs a submission with all of the caller's rights and trusts the scores
that its notebook shows, which is fine among friends. Here a submission runs in a sandbox, and the
process that judges it never runs any of its code.
"""

import hashlib
import multiprocessing
import re
import sys
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

from course_lib import PROJECT
from course_lib.bars import bar
from course_lib.classroom import sandbox, submissions
from course_lib.classroom.assignments import (
    COURSE,
    AssignedExercise,
    Assignment,
    assignments,
    setup,
)
from course_lib.classroom.errors import ClassroomError
from course_lib.classroom.feedback import page
from course_lib.classroom.grades import Grade, Mark, table
from course_lib.classroom.judging import Ran, ran
from course_lib.classroom.sandbox import ResourceLimits
from course_lib.classroom.wire import Job
from course_lib.files import write_whole
from course_lib.measuring import machine
from course_lib.teaching.exercises import EXERCISES
from course_lib.teaching.exercises.engine import Outcome
from course_lib.teaching.running import SECONDS

LIMITS = ResourceLimits()

ENDED_THE_JUDGE = "It ended the process that judges it."


class Notebook(NamedTuple):
    """A student's file with its answers to a lesson, or the reason why there are none."""

    student: str
    file: Path
    lesson: str | None
    answers: submissions.Answers | None
    reason: str = ""


def grade(
    folder: Path,
    out: Path = COURSE,
    limits: ResourceLimits = LIMITS,
    protected: bool = True,
    root: Path = PROJECT,
) -> list[Grade]:
    """Grade every notebook below ``folder``; write ``grades.csv`` and ``feedback/STUDENT.html``.

    Raises:
        ClassroomError: nothing was submitted, or ``protected`` is set and there is no sandbox.
        OSError: ``out`` cannot be written.
    """
    if sys.platform == "win32":
        raise ClassroomError("Grading needs Linux or macOS; on Windows, use WSL.")
    if protected and (lacks := sandbox.missing()):
        raise ClassroomError(
            f"{lacks}\nUse another machine, or, if you trust every student: make grade "
            f"SUBMISSIONS={folder} UNPROTECTED=1 (limits on time and memory still apply)."
        )
    known = {each.number: each for each in assignments(root)}
    students = submissions.find(folder)
    notebooks = [
        _read(student, file, known) for student, files in students.items() for file in files
    ]
    grades = _with_all(_graded(_placed(notebooks), known, limits, protected), students, known)
    _write(grades, known, out)
    return grades


def _read(student: str, file: Path, known: dict[str, Assignment]) -> Notebook:
    try:
        cells = submissions.read(file)
        submissions.renumber(cells, known)
        lesson = submissions.lesson_of(file, cells, set(known))
        if lesson is not None:
            return Notebook(student, file, lesson, submissions.answers(known[lesson], cells))
        reason = "It contains no exercise of the course."
    except submissions.Unreadable as error:
        reason = str(error)
    except Exception as error:  # a broken notebook must not affect other students
        reason = f"Its answers cannot be read ({type(error).__name__})."
    return Notebook(student, file, submissions.lesson_of(file, [], set(known)), None, reason)


def _placed(notebooks: list[Notebook]) -> list[Notebook]:
    """If all recognised notebooks are of one lesson, the unrecognised ones count for it, too."""
    lessons = {notebook.lesson for notebook in notebooks} - {None}
    only = lessons.pop() if len(lessons) == 1 else None
    return [one if one.lesson else one._replace(lesson=only) for one in notebooks]


def _graded(
    notebooks: list[Notebook], known: dict[str, Assignment], limits: ResourceLimits, protected: bool
) -> list[Grade]:
    done = [_zero(one, known) for one in notebooks if one.answers is None]
    to_run = [
        (one, known[one.lesson], one.answers)
        for one in notebooks
        if one.lesson is not None and one.answers is not None
    ]
    jobs = [_job(answers, lesson, limits, protected) for _, lesson, answers in to_run]
    pairs = zip(to_run, _all_ran(jobs, _workers(limits)), strict=True)
    return done + [_graded_one(*each, result) for each, result in pairs]


def _all_ran(jobs: list[Job], workers: int) -> list[Ran | ClassroomError]:
    """The result of each job, or the error if its sandbox could not be set up.

    Raises:
        ClassroomError: the sandbox could not be set up for any job.
    """
    found: list[Ran | ClassroomError] = []
    for job, result in zip(jobs, _ran(jobs, workers), strict=True):
        # None: the judging process ended, because of this job or another; run it again, alone.
        found.append(result or _ran([job], 1)[0] or Ran(ENDED_THE_JUDGE))
    failures = [result for result in found if isinstance(result, ClassroomError)]
    if failures and len(failures) == len(found):
        raise failures[0]
    return found


def _ran(jobs: list[Job], workers: int) -> list[Ran | ClassroomError | None]:
    """The result of each job, run in ``workers`` processes; None if the process ended."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, sandbox.adopt_orphans) as pool:
        try:
            waiting = [_submitted(pool, job) for job in jobs]
            return [_result(future) for future in bar(waiting, "submissions")]
        finally:
            pool.shutdown(cancel_futures=True)


def _submitted(pool: ProcessPoolExecutor, job: Job) -> Future[Ran]:
    try:
        return pool.submit(ran, job)
    except BrokenProcessPool as error:
        future: Future[Ran] = Future()
        future.set_exception(error)
        return future


def _result(future: Future[Ran]) -> Ran | ClassroomError | None:
    try:
        return future.result()
    except BrokenProcessPool:
        return None
    except ClassroomError as error:
        return error
    except Exception as error:
        return Ran(f"It could not be judged ({type(error).__name__}).")


def _graded_one(
    notebook: Notebook,
    assignment: Assignment,
    answers: submissions.Answers,
    result: Ran | ClassroomError,
) -> Grade:
    known = {assignment.number: assignment}
    if isinstance(result, ClassroomError):
        why = f"The grader failed, not the student; grade this notebook again. {result}"
        return _zero(notebook._replace(reason=why), known)._replace(status="error")
    try:
        return _marked(notebook, assignment, answers, result)
    except Exception as error:
        why = f"Its marks could not be computed ({type(error).__name__})."
        return _zero(notebook._replace(reason=why), known)


def _workers(limits: ResourceLimits) -> int:
    """As many processes as there are cores, if there is enough memory for them."""
    room = machine.memory()[0] // (sandbox.RUNTIME + limits.memory)
    return max(1, min(machine.usable_threads(), room))


def _job(
    answers: submissions.Answers, assignment: Assignment, limits: ResourceLimits, protected: bool
) -> Job:
    cells, names = answers
    cases = {name: EXERCISES[name].cases() for name in names}
    return Job(setup(assignment.tasks), cells, names, cases, SECONDS, limits, protected)


def _marked(
    notebook: Notebook, assignment: Assignment, answers: submissions.Answers, result: Ran
) -> Grade:
    if result.reason:
        return _zero(notebook._replace(reason=result.reason), {assignment.number: assignment})
    marks = tuple(_mark(task, answers, result) for task in assignment.tasks)
    return Grade(notebook.student, assignment.name, "graded", _summary(marks, result), marks)


def _summary(marks: tuple[Mark, ...], result: Ran) -> str:
    """Why the grade is not higher: failed cells, or for zero points the first exercise."""
    failed = [error for error in result.errors if error]
    if failed:
        return f"{len(failed)} cells failed, the first: {failed[0]}"
    return "" if any(mark.points for mark in marks) else marks[0].outcome.message


def _mark(task: AssignedExercise, answers: submissions.Answers, result: Ran) -> Mark:
    number, names = task.exercise.id, "|".join(map(re.escape, answers.names[task.exercise.id]))
    its = re.compile(rf"\bdef ({names})\b|^({names}) *=|check\(\s*[\"']{number}\b", re.MULTILINE)
    cells = [pair for pair in zip(answers.cells, result.errors, strict=True) if its.search(pair[0])]
    code, error = cells[-1] if cells else ("", None)
    outcome = result.outcomes[number]
    if outcome is None and error:
        outcome = Outcome("not yet", f"The cell did not run: {error}")
    elif outcome is None and code:
        outcome = Outcome("not yet", f"There is no function `{task.function}`. Keep its name.")
    return Mark.of(task, outcome or Outcome("not attempted", "Nothing was written."), code)


def _zero(notebook: Notebook, known: dict[str, Assignment]) -> Grade:
    """The grade of a notebook that gets no points."""
    tasks = known[notebook.lesson].tasks if notebook.lesson else []
    outcome = Outcome("not graded", notebook.reason)
    name = known[notebook.lesson].name if notebook.lesson else "unknown"
    marks = tuple(Mark.of(task, outcome) for task in tasks)
    return Grade(notebook.student, name, "zero", notebook.reason, marks)


def _with_all(
    grades: list[Grade], students: Iterable[str], known: dict[str, Assignment]
) -> list[Grade]:
    """One grade per student and lesson: the best of several notebooks, or "missing"."""
    best: dict[tuple[str, str], Grade] = {}
    for one in sorted(grades, key=lambda grade: grade.total):
        earlier = best.get((one.student, one.lesson))
        note = "The best of several notebooks counts." if earlier else ""
        best[one.student, one.lesson] = one._replace(reason=f"{one.reason} {note}".strip())
    for assignment in known.values():
        if any(lesson == assignment.name for _, lesson in best):
            for student in students:
                best.setdefault((student, assignment.name), _missing(student, assignment))
    return [best[key] for key in sorted(best)]


def _missing(student: str, assignment: Assignment) -> Grade:
    outcome = Outcome("not attempted", "No notebook was handed in.")
    marks = tuple(Mark.of(task, outcome) for task in assignment.tasks)
    return Grade(student, assignment.name, "missing", outcome.message, marks)


# --- output -------------------------------------------------------------------------------------


def _write(grades: list[Grade], known: dict[str, Assignment], out: Path) -> None:
    write_whole(out / "grades.csv", table(grades))
    for student in dict.fromkeys(grade.student for grade in grades):
        mine = [grade for grade in grades if grade.student == student]
        write_whole(out / "feedback" / f"{_file_name(student)}.html", _page(student, mine))


def _page(student: str, grades: list[Grade]) -> str:
    """The page of ``student``, without the submitted code if that cannot be shown."""
    try:
        return page(student, grades)
    except Exception as error:
        why = f"This page cannot show more ({type(error).__name__}); grades.csv has the points."
        return page(student, [one._replace(status="error", reason=why) for one in grades])


def _file_name(student: str) -> str:
    """``student``, or a very long name shortened and made unique by a hash."""
    if len(student.encode()) <= 200:
        return student
    digest = hashlib.sha256(student.encode()).hexdigest()[:12]
    return f"{student.encode()[:180].decode(errors='ignore')}-{digest}"
