"""The rooms of ``course_lib`` follow their rules: none imports a room above it, for example."""

import ast
import re

import imports
import pytest
from imports import PROJECT, ROOMS, arrows, between, floors, room_of

from course_lib.experiments.registry import EXPERIMENTS


def test_every_module_lies_in_a_room_or_serves_all():
    outside = {name for name in arrows() if room_of(name) not in ROOMS}
    assert outside == {"__main__", "bars", "doctor", "files", "lab"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_below(room):
    assert_allowed(room, arrows())


def assert_allowed(room, found):
    allowed = {room, *ROOMS[room], "bars", "files"}
    broken = {
        f"{name} imports {other}"
        for name, others in found.items()
        if room_of(name) == room
        for other in others
        if room_of(other) not in allowed
    }
    assert not broken


def test_nothing_imports_itself_in_a_circle():
    assert floors(arrows())
    rooms = between(arrows())
    assert max(floors(rooms).values()) <= 9 and sum(map(len, rooms.values())) <= 60


def recorders():
    return {f"experiments.{name}" for name in EXPERIMENTS}


def test_no_recorder_is_imported_by_the_rooms_up_to_the_decision():
    found = arrows()
    assert recorders() <= found.keys()
    broken = {
        f"{name} imports {other}"
        for name in found
        if room_of(name) in ("experiments", "decision")
        for other in found[name] & recorders()
    }
    assert not broken


@pytest.mark.parametrize(
    ("module", "other"),
    [
        ("networks.data", "measuring.timing"),
        ("pruning.masks", "measuring.cost"),
        ("measuring.cost", "pruning.masks"),
        ("deployment.sparse", "experiments.recordings"),
        ("decision.rules", "deployment.runtime"),
        ("experiments.steps", "teaching.claims"),
        ("teaching.claims", "classroom.grading"),
    ],
)
def test_a_rule_that_is_broken_is_noticed(module, other):
    found = arrows()
    found[module] = found[module] | {other}
    with pytest.raises(AssertionError, match=f"{module} imports {other}"):
        assert_allowed(room_of(module), found)


#: A lesson by its number, as in "lesson 05", "lessons 07, 08" or "05_sparse_vs_dense".
LESSON = re.compile(r"\blessons? ?\d\d\b|\b\d\d_[a-z]", re.IGNORECASE)

#: They must not name lessons, except in a docstring that says where a function is built.
BELOW_TEACHING = (*ROOMS["teaching"], "bars", "files", "")


def lesson_numbers(source):
    """The strings of ``source`` that name a lesson by its number, docstrings left out."""
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, documented)]
    docstrings = {ast.get_docstring(node, clean=False) for node in nodes}
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return [
        text
        for text in strings
        if isinstance(text, str) and text not in docstrings and LESSON.search(text)
    ]


@pytest.mark.parametrize(
    "name", [name for name in imports.modules() if room_of(name) in BELOW_TEACHING]
)
def test_nothing_below_teaching_knows_a_lesson_number(name):
    assert lesson_numbers(imports.modules()[name].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('kind("int8", "fast (lessons 07, 08)")', 1),
        ('f"see lesson {1} and lesson 05: {2}"', 1),
        ('FILE = "notebooks/05_sparse_vs_dense.py"', 1),
        ('def f():\n    """Lesson 05 builds this."""\n    return 1  # as in lesson 05', 0),
        ('"lessons take longer"', 0),
    ],
)
def test_a_lesson_number_is_noticed(source, count):
    assert len(lesson_numbers(source)) == count


def functions_of(name: str) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(imports.modules()[name].read_text(encoding="utf-8"))
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


@pytest.mark.parametrize("name", imports.modules())
def test_no_function_has_more_than_eight_arguments(name):
    for function in functions_of(name):
        given = function.args
        names = [one.arg for one in given.posonlyargs + given.args + given.kwonlyargs]
        own = [one for one in names if one not in ("self", "cls")]
        assert len(own) + bool(given.vararg) + bool(given.kwarg) <= 8, function.name


@pytest.mark.parametrize("name", imports.modules())
def test_no_function_is_longer_than_forty_lines_without_its_docstring(name):
    for function in functions_of(name):
        docstring = ast.get_docstring(function, clean=False)
        lines = function.end_lineno - function.lineno + 1
        assert lines - (docstring.count("\n") + 1 if docstring else 0) <= 40, function.name


def test_each_import_is_seen(tmp_path):
    folder = tmp_path / "course_lib" / "networks"
    folder.mkdir(parents=True)
    for name in ("data", "models", "training", "recipes"):
        (folder / f"{name}.py").touch()
    (folder / "models.py").write_text(
        "import course_lib.networks.data\n"
        "from course_lib.networks import training as t\n"
        "def f():\n    from course_lib.networks.recipes import RECIPES\n"
    )
    assert imports.imported("networks.models", tmp_path) == {
        f"networks.{name}" for name in ("data", "training", "recipes")
    }


def test_rooms_say_what_they_are_in_a_sentence():
    for room in ROOMS:
        text = (PROJECT / "course_lib" / room / "__init__.py").read_text(encoding="utf-8")
        assert text.startswith('"""') and text.count("\n") == 1
    assert set(between(arrows())) >= set(ROOMS)


def test_the_picture_of_the_rooms_is_the_one_that_the_imports_draw():
    page = (PROJECT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert imports.drawn(page) == page
    assert all(f"| `{room}` |" in page for room in ROOMS)
