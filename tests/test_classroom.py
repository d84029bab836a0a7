"""Assignments agree with the lessons, pass with their solutions, and work with nbgrader."""

import functools
import os
import re
import subprocess
import sys

import nbformat
import pytest
from submitted import empty, hand_in, lesson, perfect

from course_lib.classroom import assignments
from course_lib.classroom.__main__ import main
from course_lib.classroom.errors import ClassroomError
from course_lib.teaching import exercises, lessons

ALL = assignments.assignments()
TASKS = [task for each in ALL for task in each.tasks]


def test_every_exercise_of_the_course_is_in_an_assignment():
    assert [task.exercise.id for task in TASKS] == list(exercises.EXERCISES)
    assert all(each.points == sum(t.exercise.difficulty for t in each.tasks) for each in ALL)


@pytest.mark.slow
@pytest.mark.parametrize("each", ALL, ids=lambda each: each.name)
def test_solutions_pass_their_hidden_tests_and_stubs_do_not(each):
    namespace = {}
    exec(assignments.setup(each.tasks), namespace)
    for task in each.tasks:
        _, answer, test = (cell.source for cell in assignments._cells(task))
        for source, passes in ((task.stub, False), (answer, True)):
            exec(source, namespace)
            if passes:
                exec(test, namespace)
                continue
            with pytest.raises(AssertionError, match="stub"):
                exec(test, namespace)


def test_a_hidden_test_refuses_a_wrong_answer():
    task = TASKS[1]
    test = assignments._cells(task)[-1].source
    wrong = task.exercise.mistakes[0]
    names = {"check": exercises.check, task.function: wrong.answer}
    with pytest.raises(AssertionError, match="not yet"):
        exec(test, names)


def uses_the_course(values):
    """A reference in a module with imports, constants and a decorated helper."""
    return assignments.ast.unparse(assignments.ast.parse(STUB)) + helper(tuple(values))


STUB: str = "0"


@functools.cache
def helper(values):
    return str(len(values)) + assignments.STUB


def test_a_solution_brings_what_it_needs():
    source = "\n".join(assignments.definitions(uses_the_course))
    assert "from course_lib.classroom import assignments" in source and "@functools.cache" in source
    assert 'STUB: str = "0"' in source and "import functools" not in source
    assert assignments._imports(uses_the_course) == ["import functools"]
    namespace = {}
    exec(f"import functools\n{source}", namespace)
    assert namespace["uses_the_course"]([1, 2]) == uses_the_course([1, 2])


def has_an_argument_like_a_function(helper):
    """A reference whose argument has the name of something else in its module."""
    return [helper for _ in range(2)]


def test_a_solution_brings_nothing_that_only_shares_a_name():
    [source] = assignments.definitions(has_an_argument_like_a_function)
    assert source.startswith("def has_an_argument_like_a_function")


def test_the_guide_speaks_of_exercises_and_lessons_that_there_are():
    guide = (assignments.PROJECT / "notebooks" / "TEACHING.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\b\d\d\.\d\b", guide)) <= set(exercises.EXERCISES)
    mistakes = guide.partition("## What students get wrong")[2]
    finished = {a.number for a in ALL if not any(map(lessons.todos, lessons.scripts([a.number])))}
    lacking = finished - {*re.findall(r"^\| (\d\d) \|", mistakes, re.MULTILINE)}
    assert not lacking, f"'What students get wrong' of TEACHING.md lacks {sorted(lacking)}"


def test_the_text_is_that_of_the_exercise():
    for task in TASKS:
        assert f"**Exercise {task.exercise.id}" in task.text
        assert task.text.startswith(("## ", "**Exercise"))


def script(tmp_path, text):
    folder = tmp_path / "notebooks" / "src"
    folder.mkdir(parents=True)
    (folder / "01_one.py").write_text(f"# %% [markdown]\n# # 01 One\n\n# %%\n{text}")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('def f(x):\n    return ...\n\n\ncheck("01.99", f)\n', "no exercise has that number"),
        ('def f(x):\n    return x\n\n\ncheck("01.1", f)\n', r"must contain `return \.\.\.` once"),
    ],
)
def test_a_lesson_that_makes_no_assignment_is_named(tmp_path, text, words):
    with pytest.raises(ClassroomError, match=words) as raised:
        assignments.assignments(script(tmp_path, text))
    assert "01_one.py" in str(raised.value)


def test_a_lesson_without_exercises_makes_no_assignment(tmp_path):
    assert assignments.assignments(script(tmp_path, "print(1)\n")) == []


def test_make_classroom_names_what_is_there_by_an_earlier_number(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(assignments, "COURSE", tmp_path)
    monkeypatch.setattr(assignments, "build", lambda: [])
    assert main(["build"]) == 0
    assert "is now" not in capsys.readouterr().out
    (tmp_path / "source" / "11_choosing").mkdir(parents=True)
    assert main(["build"]) == 0
    said = capsys.readouterr().out
    assert "11_choosing is now 12_choosing." in said and "with 'make grade'" in said
    assert "interview_drill" not in said


def test_without_nbgrader_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nbgrader.apps", None)
    with pytest.raises(ClassroomError, match=r"make classroom.*\[classroom\]"):
        assignments.build(tmp_path)


# With nbgrader itself


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """The nbgrader course of two lessons, built twice, with a grade book in between."""
    pytest.importorskip("nbgrader")
    root = tmp_path_factory.mktemp("clone")
    (root / "notebooks" / "src").mkdir(parents=True)
    for each in lessons.scripts(["00", "01"]):
        (root / "notebooks" / "src" / each.name).write_bytes(each.read_bytes())
    folder = tmp_path_factory.mktemp("classroom")
    before = dict(os.environ)
    assert [each.number for each in assignments.build(folder, root)] == ["00", "01"]
    assert dict(os.environ) == before
    hand_in(perfect(lesson("00")), folder / "submitted/ann/00_start_here/00_start_here.ipynb")
    hand_in(empty(lesson("00")), folder / "submitted/bob/00_start_here/00_start_here.ipynb")
    first = contents(folder)
    assignments.build(folder, root)
    assert contents(folder) == first, "the same lessons make the same notebooks"
    return folder


def contents(folder):
    return {path: path.read_text() for path in folder.rglob("*.ipynb")}


def nbgrader(course, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "nbgrader", *arguments],
        cwd=course,
        env={**os.environ, "PYTHONPATH": str(assignments.PROJECT)},
        capture_output=True,
        text=True,
    )


def test_the_release_shows_stubs_and_no_solutions(course):
    text = (course / "release/01_magnitude_pruning/01_magnitude_pruning.ipynb").read_text()
    assert all(word not in text for word in ("SOLUTION", "HIDDEN", "require", "torch.Tensor"))
    cells = nbformat.reads(text, as_version=4).cells
    released = {cell.source for cell in cells if cell.metadata.get("nbgrader", {}).get("solution")}
    assert released == {task.stub for task in lesson("01").tasks}


@pytest.mark.sweep
def test_nbgrader_validates_the_source_and_not_the_release(course):
    name = "00_start_here/00_start_here.ipynb"
    said = nbgrader(course, "validate", f"source/{name}", f"release/{name}").stdout
    source, release = said.split(f"VALIDATION FAILED ON {len(lesson('00').tasks)} CELL")
    assert "Success" in source and "Success" not in release


@pytest.mark.slow
def test_nbgrader_grades_by_itself(course):
    done = nbgrader(course, "autograde", "00_start_here")
    assert done.returncode == 0, done.stderr
    with assignments._environment_kept():
        again = assignments._nbgrader(course).generate_assignment("00_start_here")
        assert again["success"], "an update can follow the grading"
        from nbgrader.api import Gradebook

        with Gradebook(f"sqlite:///{course}/gradebook.db", "pruning-measured") as book:
            found = book.submission_dicts("00_start_here")
    scores = {one["student"]: (one["score"], one["max_score"]) for one in found}
    points = lesson("00").points
    assert scores == {"ann": (points, points), "bob": (0, points)}
    assert (course / "state" / "progress.json").is_file(), "not in the teacher's own progress"
