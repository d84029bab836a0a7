"""Submissions, hostile ones included, are really run and get the points that they earned."""

import copy
import csv
import json
import math
import os
import sys
import time

import pytest
import torch
from mutations import mutated
from submitted import empty, hand_in, hostile, lesson, partly, perfect

from course_lib.classroom import (
    __main__,
    assignments,
    feedback,
    grading,
    judging,
    landlock,
    runner,
    sandbox,
    submissions,
    wire,
)
from course_lib.classroom.errors import ClassroomError
from course_lib.classroom.feedback import page
from course_lib.classroom.grades import Grade, Mark, table
from course_lib.teaching import lessons, progress
from course_lib.teaching.exercises import EXERCISES
from course_lib.teaching.exercises.engine import Outcome, assess, examine
from course_lib.teaching.running import Result, run

PROTECTED = sandbox.missing() is None
SMALL = sandbox.ResourceLimits(seconds=6, memory=400 << 20, file=1 << 20, files=20)
FIRST = lesson("01")

needs_landlock = pytest.mark.skipif(not PROTECTED, reason="needs Landlock (Linux 6.2)")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="grading needs Linux or macOS")


# --- what is sent back --------------------------------------------------------------------------

VALUES = [
    *(None, True, 3, -0.5, math.inf, "ä", b"\x00\xff", ..., [], (1, [2.0, None])),
    {"a": (1,), 2: [3], 0.5: {}},
    *(torch.arange(6).reshape(2, 3), torch.tensor(1.5), torch.zeros(0, 2), torch.tensor([True])),
    torch.tensor([1.0], dtype=torch.bfloat16),
    torch.arange(12.0).view(3, 4).T,
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back_as_it_was(value):
    back = wire.decode(json.loads(json.dumps(wire.encode(value))))
    if isinstance(value, torch.Tensor):
        assert back.dtype == value.dtype and torch.equal(back, value)
    else:
        assert type(back) is type(value) and back == value


class Odd(list):
    """A list that raises when it is iterated over."""

    def __iter__(self):
        raise RuntimeError("no")


OTHERS = {
    "object": object(),
    "Odd": Odd([1]),
    "float32 tensor of 4 numbers": torch.eye(2).to_sparse(),
}


@pytest.mark.parametrize("name", OTHERS)
def test_of_what_is_no_data_the_type_is_left(name):
    assert type(wire.decode(wire.encode(OTHERS[name]))).__name__ == name


@pytest.mark.parametrize(
    "data",
    [
        [],
        ["pickle", "x"],
        ["plain", {}],
        ["tensor", "float32", [1 << 40], "AAAA"],
        ["tensor", "object", [1], "AAAA"],
        ["dict", [[["list", []], ["plain", 1]]]],
        ["float", "x"],
        3,
    ],
    ids=str,
)
def test_forged_data_is_refused(data):
    with pytest.raises((ValueError, TypeError, LookupError)):
        wire.decode(data)


# --- running and judging are apart --------------------------------------------------------------


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=lambda exercise: exercise.id)
def test_results_that_were_sent_are_judged_as_if_they_had_not(exercise):
    for answer in (exercise.reference, exercise.mistakes[0].answer, lambda *_: ...):
        sent = [
            Result(wire.decode(json.loads(json.dumps(wire.encode(one.value)))), one.changed)
            for one in run(answer, exercise.cases())
        ]
        assert assess(exercise, sent) == examine(exercise, answer)


@pytest.mark.parametrize("number", [0, 1, 50])
def test_a_wrong_number_of_results_is_refused(number):
    outcome = judging._judged("00.1", [Result(0.5)] * number)
    assert outcome.kind == "not yet" and "results for" in outcome.message


# --- untrusted replies --------------------------------------------------------------------------


def true_answer(of: wire.Job) -> dict:
    """What the runner writes for a submission that solves everything."""
    results = {
        name: [
            [wire.encode(one.value), one.changed] for one in run(EXERCISES[name].reference, cases)
        ]
        for name, cases in of.cases.items()
    }
    return {"errors": [None] * len(of.cells), "results": results, "attempts": []}


def judged(of: wire.Job, output: bytes, monkeypatch) -> Grade:
    """The grade for ``output``; the table and the student's page must be possible, too."""
    monkeypatch.setattr(sandbox, "run", lambda *_: sandbox.Ended(output, None))
    answers = submissions.Answers(of.cells, of.names)
    notebook = grading.Notebook("ann", None, "01", answers)
    grade = grading._graded_one(notebook, FIRST, answers, judging.ran(of))
    for text in (table([grade]), page("ann", [grade])):
        text.encode()
    return grade


@pytest.fixture(scope="module")
def whole_lesson():
    cells = [solved.source for solved in perfect(FIRST).cells if "def " in solved.source]
    return job(*cells, names=[task.exercise.id for task in FIRST.tasks])


def test_a_true_answer_gets_all_points(whole_lesson, monkeypatch):
    output = json.dumps(true_answer(whole_lesson)).encode()
    assert judged(whole_lesson, output, monkeypatch).total == FIRST.points


@pytest.mark.parametrize(
    "block", [0, *(pytest.param(n, marks=pytest.mark.sweep) for n in range(1, 10))]
)
def test_no_answer_of_a_stranger_stops_the_grading(whole_lesson, monkeypatch, block):
    truth = true_answer(whole_lesson)
    for seed in range(50 * block, 50 * block + 50):
        grade = judged(whole_lesson, mutated(truth, seed), monkeypatch)
        assert grade.status in ("graded", "zero") and 0 <= grade.total <= FIRST.points
        assert grade.reason or grade.total


def test_lists_that_a_submission_cleared_are_its_own_zero(whole_lesson, monkeypatch):
    emptied = json.dumps({"errors": [], "results": {}, "attempts": []}).encode()
    grade = judged(whole_lesson, emptied, monkeypatch)
    assert grade.status == "zero" and "cannot be read" in grade.reason


def test_what_ends_a_judging_process_costs_nobody_else(monkeypatch):
    """A crashed process loses other answers, too: each of those is judged again, alone."""
    good = judging.Ran(None, {}, [])
    broken = iter([[None, good, None], [good], [None]])
    monkeypatch.setattr(grading, "_ran", lambda jobs, workers: next(broken))
    found = grading._all_ran([job(), job(), job()], 2)
    assert found == [good, good, judging.Ran(grading.ENDED_THE_JUDGE)]


def test_a_sandbox_that_fails_once_is_an_error_and_always_a_refusal(monkeypatch):
    failed = ClassroomError("The sandbox cannot be set up: no memory")
    monkeypatch.setattr(grading, "_ran", lambda jobs, workers: [failed, judging.Ran(None)])
    found = grading._all_ran([job(), job()], 2)
    nothing = submissions.Answers([], {})
    notebook = grading.Notebook("ann", None, "01", nothing)
    grade = grading._graded_one(notebook, FIRST, nothing, found[0])
    assert grade.status == "error" and "no memory" in grade.reason and grade.total == 0
    monkeypatch.setattr(grading, "_ran", lambda jobs, workers: [failed, failed])
    with pytest.raises(ClassroomError, match="no memory"):
        grading._all_ran([job(), job()], 2)


def notebook_files(folder, seeds):
    """Damaged copies of a solved notebook, one for each seed."""
    content = json.loads(submissions.nbformat.writes(perfect(FIRST)))
    for seed in seeds:
        file = folder / f"student{seed}.ipynb"
        file.write_bytes(mutated(content, seed, changes=4))
        yield file


@pytest.mark.slow
def test_no_notebook_of_a_stranger_stops_the_reading(tmp_path):
    known = {FIRST.number: FIRST}
    for file in notebook_files(tmp_path, range(200)):
        notebook = grading._read("ann", file, known)
        if notebook.answers is None:
            table([grading._zero(notebook, known)]).encode()
        else:
            grading._job(notebook.answers, FIRST, SMALL, PROTECTED)


@pytest.mark.sweep
def test_no_notebook_of_a_stranger_stops_the_grading(tmp_path):
    (tmp_path / "in").mkdir()
    files = [*notebook_files(tmp_path / "in", range(200))]
    hand_in(perfect(FIRST), tmp_path / "in" / "perfect.ipynb")
    grades = grading.grade(tmp_path / "in", tmp_path / "out", SMALL, PROTECTED)
    by_student = {grade.student: grade for grade in grades}
    assert len(by_student) == len(files) + 1 and by_student["perfect"].total == FIRST.points


# --- one submission in the sandbox --------------------------------------------------------------


def job(*cells, names=("00.1",), limits=SMALL):
    names = {name: [EXERCISES[name].reference.__name__] for name in names}
    cases = {name: EXERCISES[name].cases() for name in names}
    return wire.Job("import torch", [*cells], names, cases, 1.0, limits, PROTECTED)


RIGHT = "def sparsity(tensor):\n    return (tensor == 0).float().mean().item()"
UNTOUCHED = "def median_times(candidates, rounds, clock):\n    return ..."
ABLATION = """\
def ablation(loss, heads):
    whole = loss([True] * heads)
    return [loss([i != j for j in range(heads)]) - whole for i in range(heads)]
"""
LOOPS = "def magnitude_mask(weight, sparsity):\n    while True:\n        pass"
FAILING = ("%matplotlib inline\nx = 1", "x = = 2", "1 / 0", "exit()")


@pytest.fixture(scope="module")
def mixed():
    cells = (*FAILING, LOOPS, UNTOUCHED, ABLATION, RIGHT)
    return judging.ran(job(*cells, names=("01.1", "05.1", "08.3", "00.1")))


@pytest.mark.slow
def test_cases_with_classes_of_their_own_need_no_exercises(mixed):
    kinds = {number: mixed.outcomes[number].kind for number in ("05.1", "08.3")}
    assert kinds == {"05.1": "not attempted", "08.3": "correct"}


def test_an_endless_function_costs_only_itself(mixed):
    assert mixed.reason is None
    assert "still ran after" in mixed.outcomes["01.1"].message
    assert mixed.outcomes["00.1"].kind == "correct"


def test_cells_that_fail_are_told_and_the_others_count(mixed):
    assert [error and error.split(":")[0] for error in mixed.errors] == [
        *(None, "SyntaxError", "ZeroDivisionError", "SystemExit", None, None, None, None)
    ]


PAST_PYTHON = f"""\
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.unlink(b"{{file}}")
libc.truncate(b"{{file}}", 0)
libc.open(b"{{file}}", os.O_WRONLY | os.O_TRUNC)
libc.rename(b"{{file}}", b"stolen")
libc.mkdir(b"{{file}}-folder", 0o777)
read = libc.open(b"{{file}}", os.O_RDONLY)
course = libc.open(b"{runner.__file__}", os.O_RDONLY)
libc.kill(os.getppid(), 9)
own = libc.open(b"mine", os.O_CREAT | os.O_WRONLY, 0o600)
spied = [read, course]
"""
TELLS = "def sparsity(tensor):\n    return [own >= 0, spied]"


@pytest.mark.slow
@needs_landlock
def test_past_python_the_system_still_denies(tmp_path):
    file = tmp_path / "file"
    file.write_text("precious")
    result = judging.ran(job(PAST_PYTHON.format(file=file), TELLS))
    shown = dict(result.outcomes["00.1"].table)["yours"]
    assert shown == "[True, [-1, -1]]", "its own folder can be written, the others not even read"
    assert file.read_text() == "precious" and [*tmp_path.iterdir()] == [file]


LEAVES_A_CHILD = """\
import ctypes, time
libc = ctypes.CDLL(None)
if libc.fork() == 0:
    libc.setsid()
    if libc.fork() == 0:
        time.sleep(600)
    libc._exit(0)
time.sleep(600)
"""


@pytest.fixture
def adopting():
    """This process adopts orphans for the duration of a test."""
    sandbox.adopt_orphans()
    yield
    sandbox._prctl(sandbox.PR_SET_CHILD_SUBREAPER, 0)


@pytest.mark.slow
def test_nothing_outlives_a_submission(adopting):
    before = sandbox._descendants()
    started = time.monotonic()
    result = judging.ran(job(LEAVES_A_CHILD))
    assert result.reason == "It started another process and was stopped."
    assert time.monotonic() - started < 300, "the child would have slept for 600"
    if sys.platform == "linux":
        assert not sandbox._descendants() - before


TRICKS = {
    "crashes": ("import ctypes\nctypes.string_at(0)", "crashed Python"),
    "writes over the results": (
        "import os\nfor fd in range(3, 20):\n    try:\n        os.write(fd, b'[' * 200_000)\n"
        "    except OSError:\n        pass",
        "cannot be read",
    ),
    "clears what the collector knows": (
        "import gc\nfor one in gc.get_objects():\n    if type(one) is list:\n        one.clear()",
        "cannot be read",
    ),
    "undoes the results": (
        "import os\nfor fd in range(2, 20):\n    try:\n        os.ftruncate(fd, 0)\n"
        "    except OSError:\n        pass\nos._exit(0)",
        "ended Python",
    ),
    "network": (
        "import socket\ntry:\n    socket.create_connection(('127.0.0.1', 9), 1)\n"
        "except BaseException:\n    pass",
        "It tried something that no exercise needs: socket.connect",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("trick", TRICKS)
def test_a_trick_is_a_zero_with_its_reason(trick):
    code, words = TRICKS[trick]
    assert words in judging.ran(job(code, RIGHT)).reason


@pytest.mark.slow
def test_unprotected_python_still_refuses(tmp_path):
    (tmp_path / "file").touch()
    unprotected = job(f"import os\nos.remove({str(tmp_path / 'file')!r})")._replace(protected=False)
    assert "os.remove" in judging.ran(unprotected).reason
    assert (tmp_path / "file").exists()


@pytest.mark.slow
def test_a_sandbox_that_cannot_be_set_up_is_nobodys_zero(tmp_path):
    with pytest.raises(ClassroomError, match=r"cannot be set up:\n(.|\n)*Unpickling"):
        sandbox.run(judging.RUNNER, b"no job", tmp_path, SMALL)


@needs_landlock
def test_landlock_refuses_an_old_kernel(monkeypatch, tmp_path):
    monkeypatch.setattr(landlock, "version", lambda: 2)
    with pytest.raises(OSError, match="version 2"):
        landlock.restrict([], tmp_path)


def test_without_protection_it_refuses_until_it_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(landlock, "version", lambda: 0)
    hand_in(empty(lesson("00")), tmp_path / "ann.ipynb")
    assert __main__.main(["grade", str(tmp_path)]) == 1
    assert "Linux 6.2 or newer" in (said := capsys.readouterr().err)
    assert f"SUBMISSIONS={tmp_path} UNPROTECTED=1" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([""], "SUBMISSIONS=path"),
        (["/no/such"], "There is no folder"),
        (["EMPTY"], "no submissions"),
    ],
)
def test_a_folder_that_cannot_be_graded_is_named(arguments, words, tmp_path, capsys):
    arguments = [str(tmp_path) if one == "EMPTY" else one for one in arguments]
    extra = [] if PROTECTED else ["--unprotected"]
    assert __main__.main(["grade", *arguments, *extra]) == 1
    assert words in capsys.readouterr().err


# --- reading ------------------------------------------------------------------------------------


def cell(source, id="own", **metadata):
    return submissions.nbformat.v4.new_code_cell(source, id=id, metadata=metadata)


def test_students_are_found_in_every_layout(tmp_path):
    for name in (
        *("ann.ipynb", "bob/01_magnitude_pruning.ipynb", "bob/mine.ipynb", "notes.txt"),
        *("čech/01_magnitude_pruning/01_magnitude_pruning.ipynb", ".DS_Store", "__MACOSX/x.ipynb"),
        "dan/.ipynb_checkpoints/01-checkpoint.ipynb",
    ):
        hand_in("{}", tmp_path / name)
    found = {student: len(files) for student, files in submissions.find(tmp_path).items()}
    assert found == {"ann": 1, "bob": 2, "dan": 0, "čech": 1}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a notebook"),
        (b"PK\x03\x04\xff", "not a notebook"),
        (b"[" * 100_000, "not a notebook"),
        (b'{"nbformat": 4, "cells": 3}', "not a notebook"),
        (b" " * (21 << 20), "21 MB"),
        (None, "link or a folder"),
    ],
    ids=["empty", "docx", "deep", "odd", "huge", "folder"],
)
def test_what_is_no_notebook_is_said(content, words, tmp_path):
    file = tmp_path / "ann.ipynb"
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(submissions.Unreadable, match=words):
        submissions.read(file)


def test_the_lesson_is_known_by_its_exercises_then_by_its_names(tmp_path):
    known = {"01", "02"}
    checks, marked = cell('check("02.1", f)'), cell("", nbgrader={"grade_id": "test-02-1"})
    file = tmp_path / "01_anna.ipynb"
    for cells, lesson_number in (([checks], "02"), ([marked], "02"), ([], "01")):
        assert submissions.lesson_of(file, cells, known) == lesson_number
    assert submissions.lesson_of(tmp_path / "anna.ipynb", [], known) is None
    assert submissions.lesson_of(tmp_path / "77_x.ipynb", [cell('check("77.1", f)')], known) is None


def test_only_what_the_learner_wrote_is_run():
    stub = FIRST.tasks[0].stub
    answer = stub.replace("...", "weight.abs() > 1")
    experiment = next(key for key, source in FIRST.own.items() if "training.fit" in source)
    cells = [
        *(cell(source) for source in FIRST.own.values()),
        *(cell("helper = 1"), cell(answer), cell(stub), cell("")),
        *(cell("slow()", nbgrader={"locked": True}), cell("slow()", experiment)),
    ]
    assert submissions.answers(FIRST, cells).cells == ["helper = 1", answer]


def test_imports_that_were_added_to_the_first_cell_count():
    first = cell("import math, torch\nfrom itertools import chain\nimport json\n1 / 0")
    first.metadata["nbgrader"] = {"locked": True}
    assert submissions.answers(FIRST, [first]).cells == [
        "from itertools import chain",
        "import json",
    ]
    assert submissions.answers(FIRST, [cell("import =", nbgrader={"locked": True})]).cells == []


def test_a_renamed_function_is_found_by_its_check():
    answers = submissions.answers(FIRST, [cell('def mine(w, s): ...\ncheck("01.1", mine)')])
    assert answers.names["01.1"] == ["mine", "magnitude_mask"]


# --- from before the lessons were renumbered ----------------------------------------------------

KNOWN = {each.number: each for each in assignments.assignments()}
EARLIER = {today: earlier for earlier, today in progress.RENAMED.items()}
renamed = pytest.mark.parametrize("of", [lesson("12"), lesson("13")], ids=lambda of: of.name)


def earlier(notebook, of):
    """``notebook`` of the lesson ``of``, with its earlier number."""
    number, notebook = EARLIER[of.name][:2], copy.deepcopy(notebook)
    for place, one in enumerate(notebook.cells):
        one.id = f"earlier-{place}"
        one.source = one.source.replace(f'"{of.number}.', f'"{number}.')
        one.source = one.source.replace(f"lesson{of.number}", f"lesson{number}")
        mark = one.metadata.get("nbgrader", {})
        if mark:
            mark["grade_id"] = mark["grade_id"].replace(f"-{of.number}", f"-{number}")
    return notebook


def whole(of):
    """The lesson with its exercises solved."""
    solutions = {task.stub: assignments.solved(task) for task in of.tasks}
    notebook = lessons.to_notebook(lessons.scripts([of.number])[0])
    for one in notebook.cells:
        one.source = solutions.get(one.source, one.source)
    return notebook


@renamed
@pytest.mark.parametrize("made", [perfect, whole])
def test_an_earlier_notebook_is_read_like_that_of_today(made, of, tmp_path):
    hand_in(made(of), tmp_path / "today.ipynb")
    hand_in(earlier(made(of), of), tmp_path / "earlier.ipynb")
    today, before = (
        grading._read("ann", tmp_path / f"{name}.ipynb", KNOWN) for name in ("today", "earlier")
    )
    assert today.lesson == before.lesson == of.number
    assert today.answers == before.answers
    assert len(today.answers.cells) >= len(of.tasks)


@renamed
def test_an_earlier_notebook_without_its_own_checks_is_known_by_the_locked_ones(of, tmp_path):
    notebook = earlier(perfect(of), of)
    for one in notebook.cells:
        if one.metadata.get("nbgrader", {}).get("solution"):
            one.source = "\n".join(
                line for line in one.source.splitlines() if not line.startswith("check(")
            )
    hand_in(notebook, tmp_path / "earlier.ipynb")
    assert grading._read("ann", tmp_path / "earlier.ipynb", KNOWN).lesson == of.number


@renamed
def test_a_cell_that_is_left_over_does_not_make_a_notebook_an_earlier_one(of, tmp_path):
    notebook, number = perfect(of), EARLIER[of.name][:2]
    notebook.cells.append(cell(f'check("{number}.1", {of.tasks[0].function})'))
    hand_in(notebook, tmp_path / "today.ipynb")
    assert grading._read("ann", tmp_path / "today.ipynb", KNOWN).lesson == of.number


@renamed
def test_another_lesson_with_the_earlier_number_is_not_taken_for_it(of, tmp_path):
    number = EARLIER[of.name][:2]
    tasks = [
        task._replace(exercise=task.exercise._replace(id=f"{number}.{place}"))
        for place, task in enumerate(FIRST.tasks, start=1)
    ]
    new = assignments.Assignment(f"{number}_new", "New", tasks, {})
    known = {of.number: of, number: new}
    cells = [cell(f'check("{number}.1", {tasks[0].function})')]
    submissions.renumber(cells, known)
    assert submissions.lesson_of(tmp_path / "x.ipynb", cells, set(known)) == number
    hand_in(earlier(perfect(of), of), tmp_path / "earlier.ipynb")
    assert grading._read("ann", tmp_path / "earlier.ipynb", known).lesson == of.number


@pytest.mark.parametrize("of", [*KNOWN.values()], ids=lambda of: of.name)
def test_a_notebook_of_today_keeps_its_numbers(of):
    cells = [one for one in perfect(of).cells if one.cell_type == "code"]
    before = copy.deepcopy(cells)
    submissions.renumber(cells, KNOWN)
    assert cells == before


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("11_choosing.ipynb", "12"),
        ("12_interview_drill.ipynb", "13"),
        ("12_interview_drill/mine.ipynb", "13"),
        ("12_choosing.ipynb", "12"),
        ("12_anna.ipynb", "12"),
    ],
)
def test_an_earlier_name_is_understood_where_nothing_can_be_read(name, number, tmp_path):
    hand_in("{", tmp_path / name)
    found = grading._read("ann", tmp_path / name, KNOWN)
    assert found.lesson == number and "not a notebook" in found.reason


@pytest.mark.slow
def test_earlier_notebooks_get_all_of_their_points(tmp_path):
    handed_in = tmp_path / "handed-in"
    for number in ("12", "13"):
        of = lesson(number)
        hand_in(earlier(perfect(of), of), handed_in / "ann" / f"{EARLIER[of.name]}.ipynb")
    grades = grading.grade(handed_in, tmp_path / "out", protected=PROTECTED)
    assert [one.lesson for one in grades] == ["12_choosing", "13_interview_drill"]
    assert all(one.total == one.out_of > 0 and one.reason == "" for one in grades)


# --- a whole class ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """A class with every kind of submission: its grades, the output and a precious folder."""
    folder, out, precious = map(tmp_path_factory.mktemp, ("handed-in", "out", "precious"))
    hand_in("precious", precious / "file")
    kinds = {
        "perfect": perfect(FIRST),
        "untouched": empty(FIRST),
        "partly": partly(FIRST, 2),
        "=cmd": "{",
        **hostile(FIRST, precious),
    }
    for student, notebook in kinds.items():
        hand_in(notebook, folder / f"{student}.ipynb")
    hand_in(empty(FIRST), folder / "Zoë <b>" / "first try.ipynb")
    hand_in(partly(FIRST, 1), folder / "Zoë <b>" / "01_magnitude_pruning" / "second.ipynb")
    (folder / "nothing").mkdir()
    grades = grading.grade(folder, out, SMALL, PROTECTED)
    return {grade.student: grade for grade in grades}, out, precious


def test_everybody_gets_what_they_earned(graded):
    points = [task.points for task in FIRST.tasks]
    expected = {
        "perfect": sum(points),
        "partly": sum(points[:2]),
        "Zoë <b>": points[0],
    }
    assert {name: grade.total for name, grade in graded[0].items() if grade.total} == expected
    assert all(grade.out_of == sum(points) for grade in graded[0].values())


@pytest.mark.parametrize(
    ("student", "status", "words"),
    [
        ("perfect", "graded", ""),
        ("untouched", "graded", "Nothing was written."),
        ("nothing", "missing", "No notebook was handed in."),
        ("Zoë <b>", "graded", "The best of several"),
        ("=cmd", "zero", "not a notebook"),
        ("is no notebook", "zero", "not a notebook"),
        ("loops for ever", "zero", "still running after 6 seconds"),
        ("fills memory", "zero", "filling the memory"),
        ("deletes files", "zero", "shutil.rmtree"),
        ("forges a score", "graded", "Return a Tensor; your function returned a bool."),
        ("leaves", "zero", "ended Python"),
        ("floods", "zero", "files of"),
    ],
)
def test_every_zero_has_its_reason(graded, student, status, words):
    grade = graded[0][student]
    assert grade.status == status
    assert words in grade.reason if words else grade.reason == ""


def test_files_of_others_are_still_there(graded):
    if PROTECTED:
        assert (graded[2] / "file").read_text() == "precious"
    names = [" ".join(one.cmdline()) for one in sandbox._descendants() if sandbox._alive(one)]
    assert not [name for name in names if "runner" in name]


def test_the_table_has_a_row_for_everybody(graded):
    text = (graded[1] / "grades.csv").read_text(encoding="utf-8")
    rows = {row["student"]: row for row in csv.DictReader(text.splitlines())}
    assert len(rows) == len(graded[0])
    told = {"01.1": "2", "01.3": "0", "total": "4", "out of": f"{FIRST.points}"}
    assert rows["partly"] | told == rows["partly"]
    assert rows["'=cmd"]["status"] == "zero", "a spreadsheet must not take a name for a formula"
    assert list(rows["partly"])[-2:] == ["status", "reason"]


def test_everybody_gets_a_page_of_their_own(graded):
    pages = {path.stem: path.read_text(encoding="utf-8") for path in graded[1].glob("feedback/*")}
    assert set(pages) == set(graded[0])
    assert f"4 of {FIRST.points} points" in pages["partly"] and "What you wrote" in pages["partly"]
    assert "Zoë &lt;b&gt;" in pages["Zoë <b>"] and "<b>" not in pages["Zoë <b>"].split("<h2>")[0]
    assert "still running after" in pages["loops for ever"]
    assert not any(word in text for text in pages.values() for word in ("http", "src=", "<link"))


def test_several_lessons_have_columns_and_rows_of_their_own():
    both = (lesson("00"), FIRST)
    marks = {
        each.number: tuple(
            grading.Mark.of(task, examine(task.exercise, task.exercise.reference))
            for task in each.tasks
        )
        for each in both
    }
    grades = [Grade("ann", name, "graded", "", marks[name]) for name in marks]
    header, *rows = csv.reader(table(grades).splitlines())
    columns = [task.exercise.id for each in both for task in each.tasks]
    assert header[2 : 2 + len(columns)] == columns and [row[2] for row in rows] == ["1", ""]
    for each in both:
        assert f"{each.points} of {each.points} points" in page("ann", grades)


def test_who_hands_in_one_lesson_misses_the_other():
    known = {each.number: each for each in (lesson("00"), FIRST)}
    mine = grading._zero(grading.Notebook("ann", None, "00", None, "why"), known)
    yours = grading._zero(grading.Notebook("bob", None, "01", None, "why"), known)
    grades = grading._with_all([mine, yours], ["ann", "bob"], known)
    statuses = {(one.student, one.lesson[:2]): one.status for one in grades}
    assert statuses == {
        ("ann", "00"): "zero",
        ("ann", "01"): "missing",
        ("bob", "00"): "missing",
        ("bob", "01"): "zero",
    }


def test_an_error_while_reading_concerns_one_notebook(monkeypatch, tmp_path):
    """Whatever the error: it cannot be foreseen what a notebook does to the code that reads it."""

    def fails(assignment, cells):
        raise RecursionError("on purpose")

    known = {"01": FIRST}
    monkeypatch.setattr(submissions, "read", lambda file: [])
    monkeypatch.setattr(submissions, "lesson_of", lambda *_: "01")
    monkeypatch.setattr(submissions, "answers", fails)
    found = grading._read("ada", tmp_path / "01.ipynb", known)
    assert found.answers is None and found.lesson == "01"
    assert found.reason == "Its answers cannot be read (RecursionError)."


def test_a_page_that_cannot_be_made_is_no_other_students_trouble(monkeypatch, tmp_path):
    shown = feedback._mark

    def fails_for_one(mark):
        if "ada" in mark.code:
            raise RecursionError("on purpose")
        return shown(mark)

    monkeypatch.setattr(feedback, "_mark", fails_for_one)
    mark = Mark("01.1", "masks", 1, 1, Outcome("correct", "right"), "written by ada")
    grades = [
        Grade("ada", "01_masks", "graded", "", (mark,)),
        Grade("bob", "01_masks", "graded", "", (mark._replace(code="written by bob"),)),
    ]
    grading._write(grades, {}, tmp_path)
    pages = {file.stem: file.read_text() for file in (tmp_path / "feedback").iterdir()}
    assert "cannot show more (RecursionError)" in pages["ada"] and "written by bob" in pages["bob"]
    assert "written by ada" not in pages["ada"]


def test_the_limits_leave_room_for_the_teacher():
    assert 1 <= grading._workers(sandbox.ResourceLimits()) <= os.cpu_count()
    assert grading._workers(sandbox.ResourceLimits(memory=1 << 60)) == 1
