"""Grades: the points of a student for each exercise, and the reasons."""

import csv
import io
from typing import NamedTuple

from course_lib.classroom.assignments import AssignedExercise
from course_lib.teaching.exercises.engine import Outcome


class Mark(NamedTuple):
    """A student's result for one exercise: points, maximum, outcome and submitted code."""

    exercise: str
    title: str
    points: int
    out_of: int
    outcome: Outcome
    code: str = ""

    @classmethod
    def of(cls, task: AssignedExercise, outcome: Outcome, code: str = "") -> "Mark":
        """All points of ``task`` for a correct answer, otherwise none."""
        points = task.points if outcome.kind == "correct" else 0
        return cls(task.exercise.id, task.exercise.title, points, task.points, outcome, code)


class Grade(NamedTuple):
    """A student's grade for the notebook of one lesson.

    The ``status`` is "graded", "zero" or "missing", or "error" if the grader failed, which is not
    the student's fault.
    """

    student: str
    lesson: str
    status: str
    reason: str
    marks: tuple[Mark, ...]

    @property
    def total(self) -> int:
        """The points of all exercises together."""
        return sum(mark.points for mark in self.marks)

    @property
    def out_of(self) -> int:
        """The maximum number of points."""
        return sum(mark.out_of for mark in self.marks)


def table(grades: list[Grade]) -> str:
    """The grades as CSV: a row for each student and lesson, a column for each exercise."""
    columns = sorted({mark.exercise for grade in grades for mark in grade.marks})
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["student", "lesson", *columns, "total", "out of", "status", "reason"])
    for one in grades:
        points = {mark.exercise: mark.points for mark in one.marks}
        numbers = [points.get(column, "") for column in columns]
        words = (one.status, _harmless(one.reason))
        row = (_harmless(one.student), one.lesson, *numbers, one.total, one.out_of, *words)
        writer.writerow(row)
    return stream.getvalue()


def _harmless(text: str) -> str:
    """``text``, quoted if a spreadsheet would run it as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
