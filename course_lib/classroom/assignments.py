"""The exercises of the lessons as nbgrader assignments, one per lesson and generated from it.

Text and stub come from the lesson's script, the solution is the source of the exercise's reference,
the hidden test calls its checker, and its difficulty gives the points.
"""

import ast
import contextlib
import inspect
import os
import re
import symtable
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, NotRequired, Protocol, TypedDict, TypeGuard

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course_lib import PROJECT
from course_lib.bars import bar
from course_lib.classroom.errors import ClassroomError
from course_lib.files import write_whole
from course_lib.teaching import lessons
from course_lib.teaching.exercises import EXERCISES
from course_lib.teaching.exercises.engine import Exercise
from course_lib.teaching.progress import RENAMED

COURSE = PROJECT / "build" / "classroom"
STUB = "return ..."

#: In a code cell: the exercise that it checks, and the name of the function.
CHECK = re.compile(r"\bcheck\(\s*[\"'](\d\d\.\w+)[\"']\s*,\s*(\w+)")

#: nbgrader's settings. ``nbgrader`` is run inside the folder, as in its manual.
CONFIG = f'''\
"""nbgrader's settings for this course. Written by "make classroom", which replaces this file."""

import os
import sysconfig
from pathlib import Path

c = get_config()  # noqa: F821 (nbgrader defines it)
c.CourseDirectory.course_id = "pruning-measured"
c.CourseDirectory.root = str(Path(__file__).parent)
c.ClearSolutions.code_stub = {{"python": "{STUB}"}}
c.ExecutePreprocessor.timeout = 60

# While nbgrader runs a notebook, check() must not write into anybody's own progress.
os.environ["PRUNING_COURSE_STATE"] = str(Path(__file__).parent / "state")
os.environ["COURSE_QUIET"] = "1"

# nbgrader runs the program "alembic", installed beside this Python, by its bare name.
os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
'''

HEADER = """\
# {title}: exercises

Write each function where it says `...`, run its cell, and read the result of the check. Keep the
names of the functions and of this file. You may add cells before a function that needs them.
Grading runs only these cells, with Python, NumPy and torch, but without the course's library and
without access to files. Save this file and hand it in.

The exercises belong to lesson {number}, `notebooks/{name}.ipynb`."""


class AssignedExercise(NamedTuple):
    """An exercise as it appears in a lesson: its text, and the cell with the stub."""

    exercise: Exercise
    function: str
    text: str
    stub: str

    @property
    def points(self) -> int:
        """The points for this exercise: its difficulty."""
        return self.exercise.difficulty


class Release(TypedDict):
    """nbgrader's reply to a request for the students' version of an assignment."""

    success: bool
    error: NotRequired[str | None]
    log: NotRequired[str | None]


class ReleaseMaker(Protocol):
    """The part of nbgrader's ``NbGraderAPI`` that is used here."""

    def generate_assignment(self, name: str) -> Release:
        """Make the students' version of the assignment ``name``."""


class Assignment(NamedTuple):
    """The exercises of one lesson; ``own`` maps the ids of the lesson's cells to their source."""

    name: str
    title: str
    tasks: list[AssignedExercise]
    own: dict[str, str]

    @property
    def number(self) -> str:
        """The number of the lesson, such as "07"."""
        return self.name[:2]

    @property
    def points(self) -> int:
        """The points of all exercises together."""
        return sum(task.points for task in self.tasks)


# From a lesson to an assignment


def assignments(root: Path = PROJECT) -> list[Assignment]:
    """One assignment for every lesson that has exercises.

    Raises:
        ClassroomError: a lesson checks an unknown exercise, or a stub has no ``return ...``.
    """
    every = [assignment(script) for script in lessons.scripts(root=root)]
    return [each for each in every if each.tasks]


def assignment(script: Path) -> Assignment:
    """The exercises of the lesson ``script``, in the order of the lesson."""
    cells = lessons.to_notebook(script).cells
    tasks: list[AssignedExercise] = []
    text = ""
    for cell in cells:
        if cell.cell_type == "markdown":
            text = cell.source
        elif found := CHECK.search(cell.source):
            number, function = found.groups()
            tasks.append(_task(script, number, function, text, cell.source))
    title = cells[0].source.partition("\n")[0].lstrip("# ") if cells else script.stem
    return Assignment(script.stem, title, tasks, {cell.id: cell.source for cell in cells})


def _task(script: Path, number: str, function: str, text: str, stub: str) -> AssignedExercise:
    if number not in EXERCISES:
        raise ClassroomError(f"{script.name} checks {number}, but no exercise has that number.")
    if len(re.findall(rf"^ +{re.escape(STUB)}$", stub, re.MULTILINE)) != 1:
        raise ClassroomError(f"{script.name}: the stub of {number} must contain `{STUB}` once.")
    return AssignedExercise(EXERCISES[number], function, _own_text(text, number), stub)


def _own_text(text: str, number: str) -> str:
    """The text from its last heading on, if it has one: the rest refers to figures above."""
    heading = text.rfind("\n## ") + 1
    return text[heading or max(text.find(f"**Exercise {number}"), 0) :]


def setup(tasks: Iterable[AssignedExercise]) -> str:
    """The first cell: the imports that the references need, and ``check`` and ``hint``."""
    needed = [line for task in tasks for line in _imports(task.exercise.reference)]
    plain = sorted({"import numpy as np", "import torch", *needed})
    return "\n".join([*plain, "\nfrom course_lib.teaching.exercises import check, hint"])


def _imports(reference: Callable) -> list[str]:
    """The imports that ``reference`` uses; those of the course stay inside the solution."""
    used = _used(ast.parse("\n".join(definitions(reference))))
    nodes = ast.parse(_module_source(reference)).body
    imports = filter(_is_import, nodes)
    return [ast.unparse(node) for node in imports if not _is_own(node) and used & _names(node)]


def solved(task: AssignedExercise) -> str:
    """The cell of ``task`` with the reference in place of the stub's ``...``, marked for nbgrader.

    The reference, and what it needs from its module, are nested in the function: nbgrader removes
    them together, so that the release shows only the stub.
    """
    function = next(
        node
        for node in ast.parse(task.stub).body
        if isinstance(node, ast.FunctionDef) and node.name == task.function
    )
    arguments = ", ".join(argument.arg for argument in function.args.args)
    lines = (
        "### BEGIN SOLUTION",
        "\n\n".join(definitions(task.exercise.reference)),
        "",
        f"return {task.exercise.reference.__name__}({arguments})",
        "### END SOLUTION",
    )
    body = textwrap.indent("\n".join(lines), " " * 4)
    return task.stub.replace(f"    {STUB}", body)


def definitions(reference: Callable) -> list[str]:
    """The source of ``reference`` and of what it uses from its module, in source order."""
    source = _module_source(reference)
    defined = {name: node for node in ast.parse(source).body for name in _names(node)}
    wanted, found = [reference.__name__], set()
    while wanted:
        node = defined.get(wanted.pop())
        if node in found or node is None or (_is_import(node) and not _is_own(node)):
            continue
        found.add(node)
        wanted += _used(node)
    return [_source(source, node) for node in dict.fromkeys(defined.values()) if node in found]


def _module_source(reference: Callable) -> str:
    return inspect.getsource(sys.modules[reference.__module__])


def _source(source: str, node: ast.stmt) -> str:
    decorators = getattr(node, "decorator_list", [])
    first = min(part.lineno for part in (node, *decorators))
    return "\n".join(source.splitlines()[first - 1 : node.end_lineno])


def _used(node: ast.AST) -> set[str]:
    """The module-level names that the code reads; arguments of the same name do not count."""
    return _globals(symtable.symtable(ast.unparse(node), "module", "exec"))


def _globals(table: symtable.SymbolTable) -> set[str]:
    symbols = table.get_symbols()
    own = {each.get_name() for each in symbols if each.is_global() and each.is_referenced()}
    return own.union(*map(_globals, table.get_children()))


def _names(node: ast.stmt) -> set[str]:
    """The names that a statement of a module defines or imports."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if _is_import(node):
        return {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _is_import(node: ast.stmt) -> TypeGuard[ast.Import | ast.ImportFrom]:
    return isinstance(node, ast.Import | ast.ImportFrom)


def _is_own(node: ast.stmt) -> bool:
    """Whether it imports from the course, which a submission cannot read during grading."""
    return "course_lib" in ast.unparse(node)


# From an assignment to notebooks


def source_notebook(assignment: Assignment) -> NotebookNode:
    """The instructor's version, with solutions and hidden tests."""
    text = HEADER.format(title=assignment.title, number=assignment.number, name=assignment.name)
    notebook = new_notebook(cells=[new_markdown_cell(text), _setup_cell(assignment)])
    notebook.metadata = NotebookNode(
        kernelspec={"name": "python3", "display_name": "Python 3", "language": "python"},
        language_info={"name": "python"},
    )
    for task in assignment.tasks:
        notebook.cells += _cells(task)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # the same in every build
    return notebook


def _setup_cell(assignment: Assignment) -> NotebookNode:
    return _marked(setup(assignment.tasks), f"setup-{assignment.number}", locked=True)


def _cells(task: AssignedExercise) -> list[NotebookNode]:
    number = task.exercise.id
    name, worth = number.replace(".", "-"), f"{task.points} point" + "s" * (task.points > 1)
    test = (
        f"# {worth} for exercise {number}. Grading runs further tests.\n"
        f'assert "not attempted" not in str(check("{number}", {task.function})), "still a stub"\n'
        "### BEGIN HIDDEN TESTS\n"
        "from course_lib.teaching.exercises import require\n\n"
        f'require("{number}", {task.function})\n'
        "### END HIDDEN TESTS"
    )
    return [
        new_markdown_cell(f"{task.text}\n\n*{worth}, about {task.exercise.minutes} minutes*"),
        _marked(solved(task), f"exercise-{name}", solution=True),
        _marked(test, f"test-{name}", grade=True, locked=True, points=task.points),
    ]


def _marked(source: str, grade_id: str, **marks: bool | int) -> NotebookNode:
    """A code cell with nbgrader's metadata."""
    cell = new_code_cell(source)
    unmarked = {"grade": False, "solution": False, "locked": False, "task": False}
    cell.metadata["nbgrader"] = {"schema_version": 3, "grade_id": grade_id, **unmarked, **marks}
    return cell


# The course


def build(folder: Path = COURSE, root: Path = PROJECT) -> list[Assignment]:
    """Write the nbgrader course into ``folder``: settings, ``source/`` and ``release/``.

    If called again it replaces those; the grade book and the submissions are left unchanged.

    Raises:
        ClassroomError: nbgrader is not installed, or rejects an assignment; the message says why.
        OSError: the folder cannot be written.
    """
    every = assignments(root)
    write_whole(folder / "nbgrader_config.py", CONFIG)
    with _environment_kept():
        nbgrader = _nbgrader(folder)
        for each in bar(every, "assignments"):
            _release(each, folder, nbgrader)
    return every


def earlier(folder: Path) -> dict[str, str]:
    """The current names of those assignments in ``folder`` whose lessons were renumbered."""
    return {name: today for name, today in RENAMED.items() if (folder / "source" / name).is_dir()}


def _release(assignment: Assignment, folder: Path, nbgrader: ReleaseMaker) -> None:
    file = folder / "source" / assignment.name / f"{assignment.name}.ipynb"
    write_whole(file, nbformat.writes(source_notebook(assignment)) + "\n")
    done = nbgrader.generate_assignment(assignment.name)
    if not done["success"]:
        said = done.get("log") or done.get("error") or "no reason given"
        raise ClassroomError(f"nbgrader cannot release {assignment.name}:\n{said.strip()}")


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    """Restore the environment of this process afterwards: nbgrader's settings change it."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _nbgrader(folder: Path) -> ReleaseMaker:
    """nbgrader's Python interface, with the settings of ``folder``."""
    try:
        from nbgrader.apps import NbGraderAPI
    except ImportError:
        raise ClassroomError(
            "nbgrader is not installed. Run `make classroom`, or install it into this Python: "
            f"{sys.executable} -m pip install -c constraints.txt -e '.[classroom]'"
        ) from None
    from traitlets.config import PyFileConfigLoader

    return NbGraderAPI(config=PyFileConfigLoader("nbgrader_config.py", str(folder)).load_config())
