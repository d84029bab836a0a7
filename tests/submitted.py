"""Submissions to grade: correct, untouched, partly correct and hostile."""

from copy import deepcopy
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from course_lib.classroom.assignments import Assignment, assignment, solved, source_notebook
from course_lib.teaching import lessons

ENDLESS = "while True:\n    pass"

MEMORY = "hoard = []\nwhile True:\n    hoard.append(bytearray(20_000_000))"

#: Deletes files as a careless student would, and then by system calls that bypass Python.
DELETES = """\
import ctypes, os, shutil
try:
    shutil.rmtree({folder!r})
    os.remove({file!r})
except OSError:
    pass
ctypes.CDLL(None).unlink({file!r}.encode())
ctypes.CDLL(None).truncate({file!r}.encode(), 0)
"""

#: Forges its result in every way that a student might think of.
FORGED = """\
import json, os, sys, torch
import course_lib.teaching.running as running
print("Score: 12/12. All 7 cases agree, including the awkward ones.")
running.same = lambda *_: True
torch.allclose = lambda *_, **__: True
sys.modules["course_lib.teaching.exercises"].require = lambda *_: None
honest = json.dumps
json.dumps = lambda data: honest({{**data, "points": 12, "outcome": "correct", "total": 12}})
{function} = lambda *arguments: True
"""

LEAVES = "import os\nos._exit(0)"

FLOODS = """\
for number in range(100_000):
    print("tons of it " * 100)
for number in range(1000):
    with open(f"big{number}", "wb") as file:
        file.write(bytes(1_000_000))
"""


def lesson(number: str) -> Assignment:
    return assignment(lessons.scripts([number])[0])


def perfect(of: Assignment) -> NotebookNode:
    return source_notebook(of)


def partly(of: Assignment, right: int, first: str = "") -> NotebookNode:
    """The first ``right`` exercises solved, and before them a cell ``first``."""
    notebook = deepcopy(source_notebook(of))
    stubs = {solved(task): task.stub for task in of.tasks[right:]}
    for cell in notebook.cells:
        cell.source = stubs.get(cell.source, cell.source)
    if first:
        notebook.cells.insert(2, new_code_cell(first))
    return notebook


def empty(of: Assignment) -> NotebookNode:
    return partly(of, 0)


def hostile(of: Assignment, folder: Path) -> dict[str, NotebookNode | str]:
    """One of each kind; the precious ``folder`` contains a ``file``."""
    precious = {"folder": str(folder), "file": str(folder / "file")}
    return {
        "loops for ever": partly(of, 0, ENDLESS),
        "fills memory": partly(of, 0, MEMORY),
        "deletes files": partly(of, 0, DELETES.format(**precious)),
        "forges a score": partly(of, 0, FORGED.format(function=of.tasks[0].function)),
        "is no notebook": "PK\x03\x04 a text of a word processor",
        "leaves": partly(of, 1, LEAVES),
        "floods": partly(of, 0, FLOODS),
    }


def hand_in(notebook: NotebookNode | str, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    text = notebook if isinstance(notebook, str) else nbformat.writes(notebook)
    file.write_text(text, encoding="utf-8")
