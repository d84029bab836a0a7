"""Find and read the submissions of students, in any of the usual layouts.

``FOLDER/STUDENT.ipynb``, ``FOLDER/STUDENT/NN_name.ipynb``, and nbgrader's own
``FOLDER/STUDENT/ASSIGNMENT/NN_name.ipynb``. Nothing here runs any code of a submission.
"""

import ast
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbformat import NotebookNode

from course_lib.classroom.assignments import CHECK, Assignment
from course_lib.classroom.errors import ClassroomError
from course_lib.files import printable
from course_lib.teaching.progress import RENAMED, renumbered

LARGEST = 20 << 20  # bytes of a notebook; an executed lesson has a tenth of that
GRADE_ID = re.compile(r"-(\d\d)-\w+$")

#: In the code of a lesson: a number that :func:`renumber` may have to replace.
NUMBER = re.compile(
    r"((?:\b(?:check|hint|solution|predict|reveal)\(\s*|\bEXERCISES\[)[\"']|\blesson)(\d\d)\b"
)


class Unreadable(ValueError):
    """A file that cannot be read as a notebook; the message says why."""


class Answers(NamedTuple):
    """The cells of a notebook to run, and the names that its functions may have, by exercise."""

    cells: list[str]
    names: dict[str, list[str]]


def find(folder: Path) -> dict[str, list[Path]]:
    """The notebooks of each student, sorted by path; a student may have none.

    Raises:
        ClassroomError: the folder does not exist, or contains no submissions.
    """
    if not folder.is_dir():
        raise ClassroomError(f"There is no folder {folder}. Name the one with the submissions.")
    found: dict[str, list[Path]] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith((".", "__")):
            continue
        if entry.is_dir():
            found.setdefault(printable(entry.name), []).extend(_notebooks(entry))
        elif entry.suffix == ".ipynb":
            found.setdefault(printable(entry.stem), []).append(entry)
    if not found:
        raise ClassroomError(
            f"{folder} contains no submissions: neither STUDENT.ipynb nor folders of students."
        )
    return found


def _notebooks(folder: Path) -> list[Path]:
    return sorted(
        Path(root, name)
        for root, _, names in os.walk(folder)
        for name in names
        if name.endswith(".ipynb") and ".ipynb_checkpoints" not in root
    )


def read(file: Path) -> list[NotebookNode]:
    """The code cells of a notebook.

    Raises:
        Unreadable: the file cannot be read, or is not a notebook.
    """
    try:
        if file.is_symlink() or not file.is_file():
            raise Unreadable("It is a link or a folder, not a file.")
        if (size := file.stat().st_size) > LARGEST:
            raise Unreadable(f"It has {size >> 20} MB; a notebook has at most {LARGEST >> 20}.")
        cells = nbformat.reads(file.read_text(encoding="utf-8-sig"), as_version=4).cells
        whole = [cell for cell in cells if cell.cell_type == "code" and _is_whole(cell)]
    except Unreadable:
        raise
    except OSError as error:
        raise Unreadable(f"It cannot be read ({error.strerror}).") from None
    except Exception as error:  # a damaged notebook may raise anything
        raise Unreadable(f"It is not a notebook ({type(error).__name__}).") from None
    for cell in whole:
        cell.source = printable(cell.source)
    return whole


def _is_whole(cell: NotebookNode) -> bool:
    parts = (cell.source, str), (cell.metadata, dict), (cell.get("id", ""), str)
    return all(isinstance(part, kind) for part, kind in parts)


def renumber(cells: list[NotebookNode], known: Mapping[str, Assignment]) -> None:
    """Renumber ``cells`` in place if they were handed out under the earlier lesson numbers.

    A number alone does not tell, since it may belong to another lesson now: the functions do.
    """
    functions = {task.exercise.id: task.function for one in known.values() for task in one.tasks}
    checks = [pair for cell in cells for pair in CHECK.findall(cell.source)]
    today = sum(functions.get(number) == name for number, name in checks)
    earlier = sum(functions.get(renumbered(number)) == name for number, name in checks)
    if earlier <= today:
        return
    for cell in cells:
        cell.source = NUMBER.sub(_today, cell.source)
        mark = cell.metadata.get("nbgrader")
        if isinstance(mark, dict) and isinstance(mark.get("grade_id"), str):
            mark["grade_id"] = re.sub(r"(-)(\d\d)\b", _today, mark["grade_id"], count=1)


def _today(found: re.Match) -> str:
    return found[1] + renumbered(found[2])


def lesson_of(file: Path, cells: list[NotebookNode], known: set[str]) -> str | None:
    """The number of the lesson whose exercises are in ``cells``, or else from the file names."""
    said = [number for cell in cells for number in _numbers(cell)]
    counted = Counter(number[:2] for number in said if number[:2] in known)
    if counted:
        return counted.most_common(1)[0][0]
    names = [name for name in (file.name, file.parent.name) if re.match(r"\d\d\D", name)]
    named = [RENAMED.get(name.removesuffix(".ipynb"), name)[:2] for name in names]
    return next((number for number in named if number in known), None)


def _numbers(cell: NotebookNode) -> list[str]:
    """The exercises that a cell checks, or that its nbgrader metadata names."""
    mark = cell.metadata.get("nbgrader")
    grade_id = str(mark.get("grade_id", "")) if isinstance(mark, dict) else ""
    return [number for number, _ in CHECK.findall(cell.source)] + GRADE_ID.findall(grade_id)


def answers(assignment: Assignment, cells: list[NotebookNode]) -> Answers:
    """Those of ``cells`` that the learner wrote: exercises, and cells of their own.

    The lesson's own cells are not run, whether changed or not, because their experiments take
    minutes; only imports that were added to them are. Untouched stubs are left out as well, so that
    a spare copy does not overwrite an answer.
    """
    stubs = {task.stub.strip() for task in assignment.tasks}
    own = {key: source.strip() for key, source in assignment.own.items()}
    experiments = {key: source for key, source in own.items() if source not in stubs}
    untouched = {*own.values(), ""}
    run: list[str] = []
    for cell in cells:
        text = cell.source.strip()
        if cell.get("id") in experiments or text in experiments.values() or _is_locked(cell):
            run += _imports(cell.source)
        elif text not in untouched:
            run.append(cell.source)
    names = {task.exercise.id: [task.function] for task in assignment.tasks}
    for number, name in CHECK.findall("\n".join(run)):
        if number in names:
            names[number].insert(0, name)  # a renamed function is passed to check
    return Answers(run, names)


def _imports(source: str) -> list[str]:
    """Imports of the standard library, each as a cell; none if ``source`` cannot be parsed."""
    try:
        nodes = ast.parse(source).body
    except (SyntaxError, ValueError, MemoryError, RecursionError):  # the last two: nested too deep
        return []
    return [
        ast.unparse(node)
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom) and _is_standard(node)
    ]


def _is_standard(node: ast.Import | ast.ImportFrom) -> bool:
    modules = (
        [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
    )
    return all(module.partition(".")[0] in sys.stdlib_module_names for module in modules)


def _is_locked(cell: NotebookNode) -> bool:
    """Whether nbgrader protects the cell, as it does the imports and the tests."""
    mark = cell.metadata.get("nbgrader")
    return isinstance(mark, dict) and bool(mark.get("locked"))
