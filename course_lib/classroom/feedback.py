"""The feedback page of a student: points, what was right or wrong, and why."""

import html
from collections.abc import Iterable

from course_lib.classroom.grades import Grade, Mark
from course_lib.teaching.exercises.engine import as_html

# Self-contained: the page is sent by mail and opened anywhere.
STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50em; margin: 0 auto; padding: 1em; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; }
th, td { text-align: left; vertical-align: top; padding: .2em 1em .2em 0; }
section { border-top: 1px solid #8886; }
details { margin: .5em 0 1em; }
"""


def page(student: str, grades: Iterable[Grade]) -> str:
    """The page of ``student``, as HTML that needs no other file."""
    title = html.escape(f"Exercises of {student}")
    body = "\n".join(map(_lesson, grades))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{title}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _lesson(grade: Grade) -> str:
    heading = html.escape(grade.lesson.replace("_", " "))
    reason = f"<p>{html.escape(grade.reason)}</p>" if grade.reason else ""
    marks = "\n".join(map(_mark, grade.marks)) if grade.status == "graded" else ""
    return f"<h2>{heading}: {grade.total} of {grade.out_of} points</h2>\n{reason}\n{marks}"


def _mark(mark: Mark) -> str:
    title = f"{mark.exercise} {mark.title} ({mark.points} of {mark.out_of})"
    code = (
        f"<details><summary>What you wrote</summary>\n<pre>{html.escape(mark.code)}</pre></details>"
    )
    return f"<section>\n{as_html(title, mark.outcome)}\n{code if mark.code else ''}</section>"
