"""The learner's progress survives crashes, damage and two lessons at once."""

import json
import os
import subprocess
import sys
import warnings

import pytest

from course_lib import PROJECT
from course_lib.teaching import lessons, progress


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNING_COURSE_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def solve(name):
    return lambda stored: stored["exercises"].update({name: {"solved": True}})


def test_folder_follows_the_environment_at_every_call(state, monkeypatch):
    assert progress.folder() == state
    monkeypatch.delenv("PRUNING_COURSE_STATE")
    assert progress.folder() == PROJECT / ".course"


def test_nothing_stored_yet_reads_as_empty_and_writes_nothing(state):
    empty = {"version": progress.VERSION} | {section: {} for section in progress.SECTIONS}
    assert progress.read() == empty
    assert not state.exists()


def test_update_returns_and_stores_the_change():
    assert progress.update(solve("01.1"))["exercises"] == {"01.1": {"solved": True}}
    progress.update(solve("01.2"))
    assert set(progress.read()["exercises"]) == {"01.1", "01.2"}


def test_crash_while_writing_leaves_the_old_file_whole(state, monkeypatch):
    progress.update(solve("01.1"))
    before = (state / "progress.json").read_bytes()

    def crash(*paths):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", crash)
        progress.update(solve("01.2"))
    assert (state / "progress.json").read_bytes() == before
    assert not list(state.glob("*.tmp")) and not list(state.glob(".*.tmp"))
    progress.update(solve("01.3"))  # the lock was released


@pytest.mark.parametrize("value", [float("nan"), object()])
def test_a_change_that_json_cannot_hold_leaves_the_old_file_whole(value):
    progress.update(solve("01.1"))
    with pytest.raises((ValueError, TypeError)):
        progress.update(lambda stored: stored["claims"].update(C01={"value": value}))
    assert progress.read()["exercises"] == {"01.1": {"solved": True}}


def test_two_processes_at_once_lose_nothing(state):
    script = (
        "import sys; from course_lib.teaching import progress\n"
        "for i in range(50):\n"
        "    name = f'{sys.argv[1]}.{i}'\n"
        "    progress.update(lambda p: p['exercises'].update({name: {}}))\n"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", script, name], cwd=PROJECT) for name in ("a", "b")
    ]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    expected = {f"{name}.{i}" for name in ("a", "b") for i in range(50)}
    assert set(progress.read()["exercises"]) == expected


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'"text"',
        b"{}",
        b'{"version": true}',
        b'{"version": 1, "claims": []}',
        b'{"version": 1, "exercises": {"01.1": 3}}',
    ],
)
def test_damaged_file_is_set_aside_with_a_warning_that_names_it(state, damage):
    state.mkdir()
    (state / "progress.json").write_bytes(damage)
    with pytest.warns(UserWarning, match="progress.damaged-"):
        assert progress.read()["exercises"] == {}
    [aside] = state.glob("progress.damaged-*.json")
    assert aside.read_bytes() == damage
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        progress.update(solve("01.1"))


def test_two_damaged_files_of_one_second_are_both_kept(state, monkeypatch):
    class Frozen(progress.datetime):
        @classmethod
        def now(cls):
            return cls(2030, 1, 2, 3, 4, 5)

    monkeypatch.setattr(progress, "datetime", Frozen)
    state.mkdir()
    for damage in ("one", "two", "three"):
        (state / "progress.json").write_text(damage)
        with pytest.warns(UserWarning, match="damaged"):
            progress.update(solve("01.1"))
    kept = {path.name: path.read_text() for path in state.glob("progress.damaged-*.json")}
    assert kept == {
        "progress.damaged-20300102T030405.json": "one",
        "progress.damaged-20300102T030405-2.json": "two",
        "progress.damaged-20300102T030405-3.json": "three",
    }


def test_file_of_a_newer_version_is_never_touched(state):
    state.mkdir()
    newer = json.dumps({"version": progress.VERSION + 1, "exercises": ["another shape"]})
    (state / "progress.json").write_text(newer)
    with pytest.raises(progress.ProgressError, match="newer version"):
        progress.update(solve("01.1"))
    with pytest.warns(UserWarning, match="newer version"):
        assert progress.read()["exercises"] == {}
    with pytest.warns(UserWarning, match="newer version"):
        assert progress.remember(solve("01.1"))["exercises"] == {"01.1": {"solved": True}}
    assert (state / "progress.json").read_text() == newer


@pytest.mark.parametrize("version", [1, progress.VERSION])
def test_sections_that_are_unknown_are_kept(state, version):
    state.mkdir()
    (state / "progress.json").write_text(json.dumps({"version": version, "notes": {"11.1": 1}}))
    assert progress.update(solve("01.1"))["notes"] == {"11.1": 1}


# --- files of earlier versions ------------------------------------------------------------------


def measured(lesson, value):
    """A measurement as :mod:`course_lib.teaching.claims` stores it."""
    return {"value": value, "lesson": lesson, "context": "11 pictures", "date": "2026-11-12"}


def learned(version, choosing, drill):
    """A complete progress file in which those two lessons have these numbers."""
    solved = {"attempts": 3, "hints": 1, "solved": True}
    guess = {"question": "In how many of 11?", "unit": "cases", "low": 0, "high": 20, "guess": 11}
    card = {"card": {"card_id": 0, "due": "2026-11-12T11:12:00+00:00"}, "grade": "good"}
    return {
        "version": version,
        "exercises": {
            "01.1": {"attempts": 1, "hints": 0, "solved": False},
            f"{choosing}.1": solved,
            f"{choosing}.4": solved | {"attempts": 11},
            f"{drill}.1": solved | {"attempts": 12},
        },
        "predictions": {
            "10.kept": guess,
            f"{choosing}.sentence": guess | {"truth": 7},
            f"{drill}.ten": guess,
        },
        "claims": {
            "C11": {"gap": measured("04", 0.5), "speed": measured("06", 11.12)},
            "C20": {"one": measured(choosing, 3.05), "damaged": 11},
        },
        "interview": {"01-rescaling": card, f"{choosing}-unsure": card, f"{drill}-own": card},
        "notes": {"11.1": "of another tool"},
    }


def text_of(stored):
    return json.dumps(stored, indent=1) + "\n"


@pytest.mark.parametrize("version", [0, 1])
def test_an_earlier_file_gets_the_lessons_numbers_of_today(state, version):
    state.mkdir()
    file = state / "progress.json"
    file.write_text(earlier := text_of(learned(version, "11", "12")))
    assert progress.read() == learned(progress.VERSION, "12", "13")
    assert file.read_text() == earlier, "reading stores nothing"
    progress.update(lambda stored: None)
    assert file.read_text() == text_of(learned(progress.VERSION, "12", "13"))


def test_a_file_is_carried_over_once(state):
    state.mkdir()
    (state / "progress.json").write_text(text_of(learned(1, "11", "12")))
    for name in ("12.2", "13.2"):
        progress.update(solve(name))
    today = learned(progress.VERSION, "12", "13")
    today["exercises"] |= {"12.2": {"solved": True}, "13.2": {"solved": True}}
    assert progress.read() == today == progress.update(lambda stored: None)
    assert [*state.glob("progress.damaged-*")] == []


def test_a_file_of_today_stays_as_it_is(state):
    # Lesson 11 is another one by now, and its numbers must not move.
    state.mkdir()
    today = learned(progress.VERSION, "11", "12")
    (state / "progress.json").write_text(text_of(today))
    assert progress.read() == progress.update(lambda stored: None) == today


def test_a_crash_while_carrying_over_leaves_the_earlier_file_whole(state, monkeypatch):
    state.mkdir()
    file = state / "progress.json"
    file.write_text(earlier := text_of(learned(1, "11", "12")))

    def crash(*paths):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", crash)
        progress.update(solve("12.2"))
    assert file.read_text() == earlier
    assert "12.1" in progress.read()["exercises"]


def test_renamed_lessons_are_those_of_today():
    names = {script.stem for script in lessons.scripts()}
    assert names >= {*progress.RENAMED.values()} and not names & {*progress.RENAMED}


@pytest.mark.parametrize(
    ("earlier", "today"),
    [
        ("11", "12"),
        ("11.1", "12.1"),
        ("11-unsure", "12-unsure"),
        ("12.ten", "13.ten"),
        ("10.1", "10.1"),
        ("13.1", "13.1"),
        ("111", "111"),
        ("x11", "x11"),
        ("", ""),
    ],
)
def test_only_a_lessons_number_at_the_beginning_is_another(earlier, today):
    assert progress.renumbered(earlier) == today


def test_unwritable_folder_is_a_clear_error_and_for_lessons_a_warning(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PRUNING_COURSE_STATE", str(tmp_path / "file"))
    with pytest.raises(progress.ProgressError, match=r"file.*Make that folder writable"):
        progress.update(solve("01.1"))
    with pytest.warns(match="nothing is stored"), pytest.warns(match="cannot be read"):
        assert "01.1" in progress.remember(solve("01.1"))["exercises"]


def test_folder_that_is_read_as_a_file_never_stops_a_lesson(state):
    (state / "progress.json").mkdir(parents=True)
    with pytest.warns(UserWarning, match="cannot be read"):
        assert progress.read()["claims"] == {}


def test_whole_file_is_readable_by_others_and_ends_where_the_text_ends(tmp_path):
    file = progress.write_whole(tmp_path / "new" / "page.md", "text\n")
    assert file.read_bytes() == b"text\n"
    assert file.stat().st_mode & 0o444 == 0o444 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# --- where output goes --------------------------------------------------------------------------


def test_output_goes_into_the_clone(tmp_path):
    assert progress.output_folder(tmp_path) == tmp_path / "build"


@pytest.fixture
def read_only(tmp_path):
    """A clone in which no ``build`` can be made, not even by an administrator."""
    clone = tmp_path / "clone"
    clone.mkdir()
    (clone / "build").write_text("a file")
    return clone


def test_in_a_read_only_clone_output_goes_into_the_learners_folder(
    read_only, tmp_path, monkeypatch
):
    monkeypatch.setenv("PRUNING_COURSE_STATE", str(tmp_path / "mine"))
    assert progress.output_folder(read_only) == tmp_path / "mine" / "build"


def test_where_nothing_can_be_written_it_says_what_to_do(read_only, monkeypatch):
    monkeypatch.setenv("PRUNING_COURSE_STATE", str(read_only / "build"))
    with pytest.raises(progress.ProgressError, match="Set PRUNING_COURSE_STATE to a folder"):
        progress.output_folder(read_only)
