"""The exercises of the lessons as nbgrader assignments: one a lesson, nothing written twice.

Text and stub come from the lesson's script, the solution is the source of the exercise's reference,
the hidden test calls its checker, and its difficulty gives the points.
"""

import ast
import contextlib
import inspect
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

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

COURSE = PROJECT / "build" / "classroom"
STUB = "return ..."

#: In a code cell: the exercise that it checks, and the name of the function.
CHECK = re.compile(r"\bcheck\(\s*[\"'](\d\d\.\w+)[\"']\s*,\s*(\w+)")

#: nbgrader's settings. ``nbgrader`` is called inside of the folder, as its manual does.
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

# What check() remembers while nbgrader runs a notebook is nobody's own progress.
os.environ["PRUNING_COURSE_STATE"] = str(Path(__file__).parent / "state")
os.environ["COURSE_QUIET"] = "1"

# nbgrader calls the program "alembic", which lies beside this Python, by its bare name.
os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
'''

HEADER = """\
# {title}: exercises

Write each function where it says `...`, run its cell, and read what the check says. Keep the names
of the functions and of this file. Cells of your own may come before a function that needs them.
Whoever grades runs only these cells: with Python, NumPy and torch, without the course's own library
and without files. Save, and hand in this file.

The story behind the exercises is in lesson {number}, `notebooks/{name}.ipynb`."""


class Task(NamedTuple):
    """An exercise as it stands in a lesson: its text, and the cell with the stub."""

    exercise: Exercise
    function: str
    text: str
    stub: str

    @property
    def points(self) -> int:
        """What it is worth: its difficulty."""
        return self.exercise.difficulty


class Assignment(NamedTuple):
    """The exercises of one lesson; ``own`` maps the ids of the lesson's cells to their source."""

    name: str
    title: str
    tasks: list[Task]
    own: dict[str, str]

    @property
    def number(self) -> str:
        """The lesson's, such as "07"."""
        return self.name[:2]

    @property
    def points(self) -> int:
        """Those of all exercises together."""
        return sum(task.points for task in self.tasks)


# From a lesson to an assignment


def assignments(root: Path = PROJECT) -> list[Assignment]:
    """One for every lesson that has exercises.

    Raises:
        ClassroomError: a lesson checks an exercise that nobody wrote, or its stub has no ``...``.
    """
    every = [assignment(script) for script in lessons.scripts(root=root)]
    return [each for each in every if each.tasks]


def assignment(script: Path) -> Assignment:
    """The exercises of the lesson ``script``, in its order."""
    cells = lessons.to_notebook(script).cells
    tasks, text = [], ""
    for cell in cells:
        if cell.cell_type == "markdown":
            text = cell.source
        elif found := CHECK.search(cell.source):
            tasks.append(_task(script, *found.groups(), text, cell.source))
    title = cells[0].source.partition("\n")[0].lstrip("# ") if cells else script.stem
    return Assignment(script.stem, title, tasks, {cell.id: cell.source for cell in cells})


def _task(script: Path, number: str, function: str, text: str, stub: str) -> Task:
    if number not in EXERCISES:
        raise ClassroomError(f"{script.name} checks {number}, but no exercise has that number.")
    if len(re.findall(rf"^ +{re.escape(STUB)}$", stub, re.MULTILINE)) != 1:
        raise ClassroomError(f"{script.name}: the stub of {number} has no single `{STUB}`.")
    return Task(EXERCISES[number], function, _own_text(text, number), stub)


def _own_text(text: str, number: str) -> str:
    """From the last heading on, if there is one: what comes before speaks of pictures above."""
    heading = text.rfind("\n## ") + 1
    return text[heading or max(text.find(f"**Exercise {number}"), 0) :]


def setup(tasks: Iterable[Task]) -> str:
    """The first cell: what the references and the stubs need, and ``check`` and ``hint``."""
    modules = dict.fromkeys(inspect.getmodule(task.exercise.reference) for task in tasks)
    imports = [
        ast.unparse(node)
        for module in modules
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, ast.Import | ast.ImportFrom) and "course_lib" not in ast.unparse(node)
    ]
    plain = sorted({"import numpy as np", "import torch", *imports})
    return "\n".join([*plain, "\nfrom course_lib.teaching.exercises import check, hint"])


def solved(task: Task) -> str:
    """The cell of ``task`` with the reference where the stub has its ``...``, marked for nbgrader.

    The reference and what it needs of its module stand inside of the function, so that the release,
    which loses all of it, shows nothing but the stub.
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


def definitions(reference: object) -> list[str]:
    """The source of ``reference``, and before it of what it uses from its own module."""
    source = inspect.getsource(inspect.getmodule(reference))
    defined = {name: node for node in ast.parse(source).body for name in _names(node)}
    wanted, found = [reference.__name__], {}
    while wanted:
        name = wanted.pop()
        if name in defined and name not in found:
            found[name] = ast.get_source_segment(source, defined[name])
            nodes = ast.walk(defined[name])
            wanted += [node.id for node in nodes if isinstance(node, ast.Name)]
    return [found[name] for name in defined if name in found]


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


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
        cell.id = f"cell-{number}"  # the same at every call
    return notebook


def _setup_cell(assignment: Assignment) -> NotebookNode:
    return _marked(setup(assignment.tasks), f"setup-{assignment.number}", locked=True)


def _cells(task: Task) -> list[NotebookNode]:
    number = task.exercise.id
    name, worth = number.replace(".", "-"), f"{task.points} point" + "s" * (task.points > 1)
    test = (
        f"# {worth} for exercise {number}. More is tested when it is graded.\n"
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
    """A code cell with nbgrader's marks."""
    cell = new_code_cell(source)
    unmarked = {"grade": False, "solution": False, "locked": False, "task": False}
    cell.metadata["nbgrader"] = {"schema_version": 3, "grade_id": grade_id, **unmarked, **marks}
    return cell


# The course


def build(folder: Path = COURSE, root: Path = PROJECT) -> list[Assignment]:
    """Write the nbgrader course into ``folder``: settings, ``source/`` and ``release/``.

    Called again it replaces those; the grade book and what was handed in stay as they are.

    Raises:
        ClassroomError: nbgrader is not installed, or refuses an assignment; the message says why.
        OSError: the folder cannot be written.
    """
    every = assignments(root)
    write_whole(folder / "nbgrader_config.py", CONFIG)
    with _environment_kept():
        nbgrader = _nbgrader(folder)
        for each in bar(every, "assignments"):
            _release(each, folder, nbgrader)
    return every


def _release(assignment: Assignment, folder: Path, nbgrader: object) -> None:
    file = folder / "source" / assignment.name / f"{assignment.name}.ipynb"
    write_whole(file, nbformat.writes(source_notebook(assignment)) + "\n")
    done = nbgrader.generate_assignment(assignment.name)
    if not done["success"]:
        said = done.get("log") or done.get("error") or "no reason given"
        raise ClassroomError(f"nbgrader cannot release {assignment.name}:\n{said.strip()}")


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    """The settings of nbgrader change this process's environment, too: put it back."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _nbgrader(folder: Path) -> object:
    """nbgrader's own interface, with the settings of ``folder``."""
    try:
        from nbgrader.apps import NbGraderAPI
    except ImportError:
        raise ClassroomError(
            "nbgrader is not installed. Call `make classroom`, or install it into this Python: "
            f"{sys.executable} -m pip install -c constraints.txt -e '.[classroom]'"
        ) from None
    from traitlets.config import PyFileConfigLoader

    return NbGraderAPI(config=PyFileConfigLoader("nbgrader_config.py", str(folder)).load_config())
