"""A new lesson is complete at once, and an invalid name changes nothing."""

import os
import shutil
import subprocess
import sys

import pytest

from course_lib import PROJECT
from course_lib.teaching import lessons, new_lesson
from course_lib.teaching.exercises import template
from course_lib.teaching.exercises.engine import examine
from course_lib.teaching.lessons import LessonError

TEMPLATES = ("notebooks/src/template.py", "course_lib/teaching/exercises/template.py")


@pytest.fixture
def root(tmp_path):
    """A course with the lessons 00, 01 and 03, and the templates."""
    for name in TEMPLATES:
        file = tmp_path / name
        file.parent.mkdir(parents=True)
        shutil.copy(PROJECT / name, file)
    for name in ("00_start", "01_one", "03_three"):
        (tmp_path / "notebooks/src" / f"{name}.py").write_text("# %%\n1\n")
    return tmp_path


def contents(root):
    return {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}


def test_a_lesson_has_its_number_and_title_in_two_files(root):
    before = contents(root)
    files = new_lesson.begin("02_two_words", root)
    assert [file.relative_to(root).as_posix() for file in files] == [
        "notebooks/src/02_two_words.py",
        "course_lib/teaching/exercises/lesson02.py",
    ]
    script, exercises = (file.read_text() for file in files)
    assert script.startswith("# %% [markdown]\n# # 02 Two words\n")
    assert 'check("02.1", ' in script and 'id="02.1"' in exercises
    assert "NN" not in script + exercises and "TITLE" not in script
    assert lessons.todos(files[0])
    assert {file: contents(root)[file] for file in before} == before
    assert contents(root).keys() == before.keys() | {*files}


@pytest.mark.parametrize("number", ["02", "04"], ids=["left out", "next"])
def test_free_numbers_are_accepted(root, number):
    assert new_lesson.free_numbers(root) == ["02", "04"]
    new_lesson.begin(f"{number}_more", root)
    assert number not in new_lesson.free_numbers(root)


def test_the_first_lesson_of_all_is_00(tmp_path):
    assert new_lesson.free_numbers(tmp_path) == ["00"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", r"'' is not a lesson name: .* such as 04_language_models"),
        ("language_models", "not a lesson name"),
        ("02", "not a lesson name"),
        ("2_models", "not a lesson name"),
        ("02_Models", "not a lesson name"),
        ("02-models", "not a lesson name"),
        ("02_models.py", "not a lesson name"),
        ("../02_models", "not a lesson name"),
        ("02__models", "not a lesson name"),
        ("01_models", r"01 cannot be .* these are free: 02, 04\."),
        ("05_models", r"05 cannot be .* these are free: 02, 04\."),
    ],
)
def test_a_name_that_cannot_be_one_changes_nothing(root, name, words):
    before = contents(root)
    with pytest.raises(LessonError, match=words):
        new_lesson.begin(name, root)
    assert contents(root) == before


def test_an_earlier_name_is_refused(root, monkeypatch):
    monkeypatch.setattr(new_lesson, "RENAMED", {"02_two": "03_three"})
    with pytest.raises(LessonError, match="02_two is the earlier name of 03_three"):
        new_lesson.begin("02_two", root)


def test_exercises_without_a_lesson_are_not_replaced(root):
    mine = root / "course_lib/teaching/exercises/lesson02.py"
    mine.write_text("mine")
    with pytest.raises(LessonError, match=r"lesson02\.py exists already"):
        new_lesson.begin("02_two", root)
    assert mine.read_text() == "mine" and len(lessons.scripts(root=root)) == 3


def test_the_command_says_what_is_wrong(capsys):
    assert new_lesson.main([""]) == 1
    assert "not a lesson name" in capsys.readouterr().err


def test_the_exercise_of_the_template_is_one():
    [exercise] = template.EXERCISES
    assert examine(exercise, exercise.reference).kind == "correct"
    assert len(exercise.mistakes) >= 5
    for mistake in exercise.mistakes:
        assert examine(exercise, mistake.answer).message == mistake.message


# In a copy of the course


@pytest.fixture
def course(tmp_path):
    """A copy of the course, which shares the data, and a function that runs Python in it."""
    root = tmp_path / "copy"
    left_out = shutil.ignore_patterns(".*", "build", "data", "*.egg-info", "__pycache__")
    shutil.copytree(PROJECT, root, ignore=left_out)
    (root / "data").symlink_to(PROJECT / "data")
    state = {"PYTHONPATH": str(root), "PRUNING_COURSE_STATE": str(tmp_path / "state")}

    def python(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=root,
            env=os.environ | state,
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout + done.stderr

    return root, python


TESTS = ("test_lessons", "test_exercises", "test_classroom")


@pytest.mark.sweep
def test_all_is_green_from_the_first_minute(course):
    root, python = course
    number = new_lesson.free_numbers()[0]
    status, said = python("course_lib.teaching.new_lesson", f"{number}_made_up")
    assert status == 0, said
    notebook = f"notebooks/{number}_made_up.ipynb"
    assert f"wrote notebooks/src/{number}_made_up.py" in said
    assert f"{number} made up (draft) ... " in said and (root / notebook).is_file()

    written = [line.removeprefix("wrote ") for line in said.splitlines()[:2]]
    for style in (("ruff", "check"), ("ruff", "format", "--check")):
        status, said = python(*style, *written)
        assert status == 0, said
    status, said = python("pytest", "-q", "--nbval", "--nbval-current-env", notebook)
    assert status == 0, said
    files = [f"tests/{name}.py" for name in TESTS]
    status, said = python("pytest", "-q", "-p", "no:nbval", "-m", "not slow and not sweep", *files)
    assert status == 0, said
    assert f"Lesson {number} is a draft" in said
    release = "tests/test_lessons.py::test_no_lesson_is_a_draft"
    status, said = python("pytest", "-q", "-p", "no:nbval", release)
    assert status == 1 and "TODO" in said, said
