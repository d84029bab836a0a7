"""Every lesson matches its script and has all its parts; building and running are safe."""

import hashlib
import json
import os
import re
import warnings
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_lib import PROJECT
from course_lib.teaching import claims, exercises, lessons, progress


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNING_COURSE_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(claims, "recordings", lambda: {})
    return tmp_path / "state"


# The lessons of the course


@pytest.mark.parametrize("script", lessons.scripts(), ids=lambda script: script.stem)
def test_lesson_is_stored_as_its_script_says_and_has_all_its_parts(script):
    notebook = lessons.notebook_of(script)
    assert notebook.is_file(), (
        f"build it: python -m course_lib.teaching.lessons build {script.stem[:2]}"
    )
    assert lessons.differences(script, notebook) == []
    assert lessons.missing_parts(notebook) == []


@pytest.mark.parametrize("script", lessons.scripts(), ids=lambda script: script.stem)
def test_no_text_is_lost_in_the_line_that_begins_a_cell(script):
    """Text after ``# %% [markdown]`` becomes the title of the cell, which no notebook shows."""
    cells = jupytext.read(script, fmt="py:percent").cells
    assert [cell.metadata.title for cell in cells if "title" in cell.metadata] == []


def test_no_notebook_without_a_script():
    stored = {path.name for path in PROJECT.glob("notebooks/*.ipynb")}
    assert stored <= {lessons.notebook_of(script).name for script in lessons.scripts()}


NUMBERS = [script.stem[:2] for script in lessons.scripts()]
DRAFTS = {
    script.stem[:2]: found for script in lessons.scripts() if (found := lessons.todos(script))
}


def assert_lists_the_lessons(numbers, what):
    """All of them, in order; a draft may be left out."""
    lacking = {*NUMBERS} - {*numbers} - DRAFTS.keys()
    assert not lacking, f"{what} lacks the lessons {sorted(lacking)}"
    assert numbers == [number for number in NUMBERS if number in numbers], what


def test_drafts_are_told():
    for number, found in DRAFTS.items():
        warnings.warn(f"Lesson {number} is a draft: {len(found)} lines say TODO.", stacklevel=1)


@pytest.mark.sweep
def test_no_lesson_is_a_draft():
    assert not DRAFTS


def test_the_exercises_of_a_finished_lesson_have_nothing_left_to_do():
    for module in exercises.LESSONS:
        if module.__name__[-2:] not in DRAFTS:
            assert lessons.todos(Path(module.__file__)) == []


def test_a_lesson_calls_itself_and_others_by_numbers_that_there_are():
    assert len(NUMBERS) == len({*NUMBERS}), "two lessons with one number"
    for script, number in zip(lessons.scripts(), NUMBERS, strict=True):
        text = script.read_text(encoding="utf-8")
        assert text.startswith(f"# %% [markdown]\n# # {number} ")
        named = re.findall(r"[Ll]essons? (\d\d)(?: (?:to|and) (\d\d))?", text)
        assert {one for pair in named for one in pair if one} <= {*NUMBERS}, script.name
        calls = r"\b(?:check|hint|solution|predict|reveal)\(\s*\"(\d\d)\.\w+\""
        assert {*re.findall(calls, text)} <= {number}, script.name


def test_the_readme_lists_every_lesson_and_its_seconds():
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (\d\d) [a-z]", readme, re.MULTILINE)
    assert_lists_the_lessons(table, "the table of README.md")
    [times] = re.findall(r"lesson (00 \d+ s,[\s\d,s]*)", readme)
    assert_lists_the_lessons(re.findall(r"(\d\d) \d+ s", times), "README.md, in its seconds,")


def test_the_map_of_lesson_00_shows_every_lesson():
    text = lessons.scripts(["00"])[0].read_text(encoding="utf-8")
    assert_lists_the_lessons(re.findall(r'\bL(\d\d)\["\1\b', text), "the map of lesson 00")


# From a script to a notebook


SCRIPT = """\
# ---
# jupyter:
#   kernelspec:
#     name: python3
#     display_name: Some environment
# ---

# %% [markdown]
# # A title

# %% tags=["nbval-ignore-output"]
import os
print(os.environ["COURSE_QUIET"], os.path.basename(os.getcwd()))
print(os.environ["PRUNING_COURSE_STATE"])

# %%
from ipywidgets import IntSlider
IntSlider(value=3)

# %%
print("twice")

# %%
print("twice")
"""


@pytest.fixture
def course(tmp_path):
    """An empty course, and a function that writes one of its scripts."""
    root = tmp_path / "course"
    (root / "notebooks" / "src").mkdir(parents=True)

    def write(name, text):
        script = root / "notebooks" / "src" / f"{name}.py"
        script.write_text(text, encoding="utf-8")
        return script

    return root, write


def test_notebook_depends_on_the_script_only(course):
    script = course[1]("01_one", SCRIPT)
    first, again = lessons.to_notebook(script), lessons.to_notebook(script)
    assert nbformat.writes(first) == nbformat.writes(again)
    nbformat.validate(first)
    assert first.metadata == {
        "kernelspec": {"name": "python3", "display_name": "Python 3"},
        "language_info": {"name": "python"},
    }
    assert len({cell.id for cell in first.cells}) == len(first.cells) == 5


def test_new_cell_keeps_the_ids_of_the_others(course):
    before = lessons.to_notebook(course[1]("01_one", SCRIPT))
    longer = SCRIPT.replace("# %%\nfrom", "# %%\nprint(1)\n\n# %%\nfrom")
    after = lessons.to_notebook(course[1]("01_one", longer))
    assert len({cell.id for cell in after.cells} - {cell.id for cell in before.cells}) == 1


@pytest.mark.parametrize(("asked", "found"), [((), ["01", "02"]), (("2",), ["02"])])
def test_scripts_are_found_by_number(course, asked, found):
    root, write = course
    write("02_two", "")
    write("01_one", "")
    write("notes", "")
    assert [script.name[:2] for script in lessons.scripts(asked, root)] == found


def test_unknown_lesson_names_those_that_exist(course, capsys):
    root, write = course
    write("01_one", "")
    with pytest.raises(lessons.LessonError, match=r"no lesson 77; the lessons are: 01\."):
        lessons.build(["77"], root)
    assert lessons.main(["run", "77"]) == 1
    assert "There is no lesson 77" in capsys.readouterr().err


# Building (one kernel)


@pytest.mark.slow
def test_build_stores_what_a_clean_kernel_showed_and_then_skips(course, state, capsys):
    root, write = course
    script = write("01_one", SCRIPT)
    environment = dict(os.environ)
    assert lessons.build(root=root) == 0
    assert dict(os.environ) == environment
    notebook = nbformat.read(lessons.notebook_of(script), as_version=4)
    nbformat.validate(notebook)
    quiet, own_state = notebook.cells[1].outputs[0].text.splitlines()
    assert quiet == "1 notebooks" and own_state != str(state)
    [widget] = notebook.cells[2].outputs
    assert widget.data == {"text/plain": "(interactive: run this cell to use it)"}
    assert set(notebook.metadata) == {"kernelspec", "language_info", "course"}
    digest = hashlib.sha256(script.read_bytes()).hexdigest()
    assert notebook.metadata.course.source_sha256 == digest
    assert notebook.metadata.course.seconds >= 0
    assert all("execution" not in cell.metadata for cell in notebook.cells)
    assert [cell.get("execution_count") for cell in notebook.cells] == [None, 1, 2, 3, 4]
    assert lessons.differences(script, lessons.notebook_of(script)) == []

    capsys.readouterr()
    before = lessons.notebook_of(script).stat().st_mtime_ns
    assert lessons.build(root=root) == 0
    assert capsys.readouterr().out == "01 one ... unchanged\n"
    assert lessons.notebook_of(script).stat().st_mtime_ns == before


@pytest.fixture
def executed(monkeypatch):
    """Pretends to execute lessons; collects the progress folders passed to the kernels."""
    states = []

    def execute(notebook, folder, environment):
        states.append(environment["PRUNING_COURSE_STATE"])
        if "fail" in notebook.cells[0].source:
            raise lessons.LessonError(f"Cell 1 failed:\n\n{notebook.cells[0].source}\n\nSome error")
        return 1.6

    monkeypatch.setattr(lessons, "execute", execute)
    return states


def test_build_leaves_the_old_notebook_when_a_cell_fails(course, executed, capsys):
    root, write = course
    lessons_of = [write("01_one", "# %%\n1\n"), write("02_two", "# %%\n2\n")]
    assert lessons.build(root=root) == 0
    before = [lessons.notebook_of(script).read_bytes() for script in lessons_of]
    write("01_one", "# %%\nfail()\n")
    write("02_two", "# %%\n3\n")
    capsys.readouterr()
    assert lessons.build(root=root) == 1
    shown = capsys.readouterr().out
    assert "01 one ... failed" in shown and "fail()" in shown and "Some error" in shown
    assert "02 two ... 2 s ok" in shown
    after = [lessons.notebook_of(script).read_bytes() for script in lessons_of]
    assert after[0] == before[0] and after[1] != before[1]


def test_build_runs_again_when_changed_named_or_damaged(course, executed):
    root, write = course
    script = write("01_one", "# %%\n1\n")
    lessons.build(root=root)
    lessons.build(["01"], root)
    lessons.notebook_of(script).write_text("{}")
    lessons.build(root=root)
    write("01_one", "# %%\n2\n")
    lessons.build(root=root)
    lessons.build(root=root)
    assert len(executed) == 4
    assert len(set(executed)) == 4, "every lesson starts from an empty progress of its own"


@pytest.mark.parametrize("damaged", [False, True], ids=["edited", "damaged"])
def test_build_keeps_what_a_learner_wrote_into_the_notebook(course, executed, state, damaged):
    root, write = course
    script = write("01_one", "# %%\n1\n")
    lessons.build(root=root)
    stored = lessons.notebook_of(script)
    mine = stored.read_text().replace('"1"', '"my_answer"') if not damaged else "{"
    stored.write_text(mine)
    lessons.build(["01"], root)
    assert lessons.differences(script, stored) == []
    assert [kept.read_text() for kept in state.glob("01_one.edited-*.ipynb")] == [mine]
    lessons.build(["01"], root)
    assert len(list(state.glob("*.ipynb"))) == 1, "a notebook as it was built is not kept"


# Running (two kernels)


@pytest.mark.slow
def test_run_goes_on_after_a_failure_and_writes_the_report(course, state, capsys):
    root, write = course
    write("01_fails", "# %%\nprint('before')\n\n# %%\nraise KeyError('the reason')\n")
    store = "open(os.path.join(os.environ['PRUNING_COURSE_STATE'], 'ran'), 'w').close()"
    write("02_works", f"# %%\nimport os\n{store}\n")
    state.mkdir()
    assert lessons.run(root=root) == 1
    shown = capsys.readouterr().out
    assert "01 fails ... failed" in shown and "raise KeyError('the reason')" in shown
    assert "Cell 2 failed" in shown and "KeyError: 'the reason'" in shown and "\x1b" not in shown
    assert "02 works ... " in shown and " s ok\n" in shown
    assert str(root / "build" / "report.html") in shown
    assert f"0 of {len(claims.load())} claims tested" in shown
    assert (root / "build" / "report.html").is_file()
    assert (state / "ran").is_file(), "the learner's own progress is used"
    assert not list(root.glob("notebooks/*.ipynb"))
    failed = nbformat.read(root / "build" / "lessons" / "01_fails.ipynb", as_version=4)
    assert failed.cells[0].outputs[0].text == "before\n"


def test_run_hands_the_kernel_the_same_folder_wherever_it_starts(course, executed, monkeypatch):
    root, write = course
    write("01_one", "# %%\n1\n")
    monkeypatch.chdir(root)
    monkeypatch.setenv("PRUNING_COURSE_STATE", "relative")
    assert lessons.run(root=root) == 0
    assert executed == [str(root.resolve() / "relative")]
    assert progress.folder().resolve() == root.resolve() / "relative"


def test_run_in_a_read_only_clone_says_so_before_it_starts(course, executed, capsys):
    root, write = course
    write("01_one", "# %%\n1\n")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(progress, "refusal", lambda folder: f"{folder} is read-only")
        assert lessons.run(root=root) == 1
    assert executed == [] and "is read-only" in capsys.readouterr().err


# Checking


def test_differences_of_source_type_tags_and_number_are_told(course):
    script = course[1]("01_one", SCRIPT)
    notebook = lessons.to_notebook(script)
    path = lessons.notebook_of(script)
    nbformat.write(notebook, path)
    assert lessons.differences(script, path) == []
    notebook.cells[0].source = "# Another title"
    notebook.cells[1].metadata.tags = []
    notebook.cells[2] = new_markdown_cell(notebook.cells[2].source)
    del notebook.cells[-1]
    nbformat.write(notebook, path)
    told = lessons.differences(script, path)
    assert [line.split(":")[0] for line in told] == [
        "cell 1",
        "cell 2",
        "cell 3",
        "the script has 5 cells, the notebook 4",
    ]


HEADER = """\
# Magnitude pruning

**How many weights can go?**

You will be able to say so.

**Time**: 40 minutes to read, 60 s to compute

**Claims** under test: C01, C02

**Needs**: lesson 00
"""
FOLD = "<details><summary>Why?</summary>Because.</details>\n"
END = f"## Recap\n\n## Interview questions\n\n{FOLD * 3}\n## Where next\n"
CODE = [
    'predict("01.sparsity")',
    'check("01.1", f)\ncheck("01.2", f)\ncheck("01.3", f)\ncheck(\n    "01.4", f)',
    'card = claims.record("C01", {})\nclaims.record(\n    "C02", {})',
    "card.here.kind",
]
TAGGED = {0, 2}


def complete():
    """A made-up lesson with every part."""
    cells = [new_markdown_cell(HEADER)]
    for number, source in enumerate(CODE):
        output = new_output("stream", name="stdout", text="text")
        cell = new_code_cell(source, execution_count=number + 1, outputs=[output])
        cell.metadata["tags"] = ["nbval-ignore-output"] * (number in TAGGED)
        cells.append(cell)
    return new_notebook(cells=[*cells, new_markdown_cell(END)])


def missing(notebook, tmp_path, name="01_made_up"):
    path = tmp_path / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return lessons.missing_parts(path)


def test_complete_lesson_lacks_nothing(tmp_path):
    assert missing(complete(), tmp_path) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# Magnitude", "Magnitude", "a title"),
        ("can go?", "can go", "the one question"),
        ("You will be able to", "You can", "You will be able to"),
        ("**Time**: 40 minutes to read, 60 s", "**Time**: 40 minutes", "compute time"),
        ("**Claims**", "Claims", "the claims under test"),
        ("**Needs**", "Needs", "what it needs"),
        ("C01, C02", "C01, C02, C13", 'C13 of the first cell has no claims.record("C13"'),
        ("## Recap", "## Summary", "no heading '## Recap'"),
        ("## Interview questions", "## Questions", "no heading '## Interview questions'"),
        (FOLD * 3, FOLD * 2, "2 folded answers"),
        ("## Where next", "", "no heading '## Where next'"),
        ("predict(", "guess(", "no predict(...)"),
        ('check("01.3", f)', 'check("01.2", f)', "3 exercises"),
        ('check("01.3", f)', 'check("02.3", f)', "3 exercises"),
        ("card.here.kind", "1\n" * 16, "code cell 4 has 16 lines, at most 15"),
    ],
)
def test_each_missing_part_is_told(tmp_path, old, new, message):
    notebook = complete()
    for cell in notebook.cells:
        cell.source = cell.source.replace(old, new)
    told = missing(notebook, tmp_path)
    assert any(message in line for line in told), told


def printed(name, text):
    return [new_output("stream", name=name, text=text)]


ERROR = new_output("error", ename="KeyError", evalue="x", traceback=[])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"execution_count": None}, "code cell 4 has the execution count None"),
        ({"execution_count": 7}, "code cell 4 has the execution count 7"),
        ({"outputs": [ERROR]}, "code cell 4 ends in an error"),
        ({"outputs": printed("stderr", "Warning")}, "code cell 4 prints to stderr"),
        ({"outputs": printed("stdout", str(PROJECT / "data"))}, "shows a folder of this machine"),
    ],
)
def test_each_wrong_cell_is_told(tmp_path, changes, message):
    notebook = complete()
    notebook.cells[4].update(changes)
    told = missing(notebook, tmp_path)
    assert any(message in line for line in told), told


LIVE_CELLS = {
    "a time": "t = timing.compare(runs).speedup('a', over='b')\nprint(t > 1)",
    "a trained network": "training.fit(net, data)\nprint(accuracy(net))",
    "by way of a loop": "for row in sparse.measure(held, x):\n    kept.append(row)\nprint(kept)",
    "by way of a function": "r = cost.roofline()\n\ndef f(x):\n    return r.rate\nprint(f(1))",
    "beside what is exact": "d = {'a': compare(x)}\nd['b'] = 3\nprint(d)",
    "by way of an entry": "d = {}\nd['a'] = capstone.run(plan)\nprint(d)",
    "in a comprehension": "runs = [compare(one) for one in two]\nprint([run for run in runs])",
    "in a with block": "with hold(net) as held:\n    fit(held)\nprint(held)",
}


def called_live(tmp_path, code, *tags):
    """Whether a lesson that ends with ``code``, the print a cell of its own, is refused."""
    notebook = complete()
    *first, last = code.split("\nprint")
    notebook.cells[3].source, notebook.cells[4].source = "\n".join(first), f"print{last}"
    notebook.cells[4].metadata["tags"] = [*tags]
    return any("timed or trained here" in line for line in missing(notebook, tmp_path))


@pytest.mark.parametrize("kind", LIVE_CELLS)
def test_what_is_live_is_not_compared(tmp_path, kind):
    assert called_live(tmp_path, LIVE_CELLS[kind])
    assert not called_live(tmp_path, LIVE_CELLS[kind], "nbval-ignore-output")
    assert not called_live(tmp_path, LIVE_CELLS[kind], "stable")


EXACT_CELLS = {
    "a recording": "row = recordings.points(recorded)\nprint(row)",
    "a name that is used again": "a = cost.roofline()\na = 3\nprint(a)",
    "a name of a comprehension": "b = [a for a in timing.compare(x)]\nprint([a for a in [1, 2]])",
    "a name inside a function": "a = cost.roofline()\n\ndef f():\n    a = 2\n\nprint(f())",
}


@pytest.mark.parametrize("kind", EXACT_CELLS)
def test_what_is_exact_is_compared(tmp_path, kind):
    assert not called_live(tmp_path, EXACT_CELLS[kind])


def test_first_cell_must_be_text(tmp_path):
    notebook = complete()
    del notebook.cells[0]
    assert sum(line.startswith("the first cell") for line in missing(notebook, tmp_path)) == 6


def test_predict_after_the_verdict_is_too_late(tmp_path):
    notebook = complete()
    notebook.cells[1].source, notebook.cells[4].source = CODE[3], CODE[0]
    assert "no predict(...) before the first claims.record(...)" in missing(notebook, tmp_path)


def test_lesson_00_needs_one_exercise_only(tmp_path):
    notebook = complete()
    notebook.cells[2].source = 'check("00.1", f)'
    assert missing(notebook, tmp_path, "00_start_here") == []


def test_a_draft_needs_one_exercise_and_is_called_a_draft(course, executed, tmp_path, capsys):
    notebook = complete()
    notebook.cells[2].source = 'check("01.1", f)'
    notebook.cells[0].source += "\nTODO: more"
    assert missing(notebook, tmp_path) == []
    root, write = course
    write("01_one", "# %%\n1\n")
    script = write("02_two", "# %% [markdown]\n# A text\n#\n# - TODO: more\n")
    assert lessons.todos(script) == ["02_two.py, line 4: - TODO: more"]
    lessons.build(root=root)
    assert capsys.readouterr().out == "01 one ... 2 s ok\n02 two (draft) ... 2 s ok\n"


def test_stored_notebook_is_plain_json_with_a_last_newline(course, executed):
    root, write = course
    script = write("01_one", "# %%\n1\n")
    lessons.build(root=root)
    text = lessons.notebook_of(script).read_text(encoding="utf-8")
    assert text.endswith("}\n") and not text.endswith("\n\n")
    assert json.loads(text)["nbformat"] == 4
