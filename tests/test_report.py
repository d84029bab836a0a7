"""The report lists every claim, is self-contained, and survives unusual progress files."""

import re

import pytest

from course_lib.measuring.estimates import Estimate
from course_lib.teaching import claims, progress, report
from course_lib.teaching.exercises import EXERCISES


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNING_COURSE_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(claims, "recordings", lambda: {})


def section(text, heading):
    return text.split(f"## {heading}\n\n")[1].split("\n\n## ")[0]


def claim(text, name):
    """The section of one claim."""
    [found] = re.findall(rf"\n### {name} .*?(?=\n##)", text, flags=re.DOTALL)
    return found


def about(value, error=0.5):
    """An estimate with an interval of ``error`` to either side."""
    return Estimate(value, value - error, value + error)


@pytest.fixture
def written(tmp_path):
    """Writes the report and returns its Markdown."""

    def write():
        report.write(tmp_path / "build")
        return (tmp_path / "build" / "report.md").read_text(encoding="utf-8")

    return write


def test_empty_progress_lists_every_claim_as_untested_with_its_lesson(written):
    text = written()
    summary = f"0 of {len(claims.load())} claims tested: holds (0), holds when (0)"
    assert f"**{summary}, does not hold (0), undecided (0).**" in text
    assert re.findall(r"^### (C\d\d) ", text, flags=re.MULTILINE) == list(claims.load())
    assert "untested: lesson 02 tests it" in claim(text, "C05")
    tests = sum(len(one.tests) for one in claims.load().values())
    assert len(section(text, "Untested").splitlines()) == 2 + tests
    assert f"0 of {len(EXERCISES)} exercises solved." in text and "None made yet." in text
    assert report.GUESSES not in text


def test_measured_claim_shows_its_number_with_the_interval_and_counts(written):
    claims.record("C13", {"gap_90": about(1.23), "gap_90_no_finetune": about(40)}, "SmallResNet")
    claims.record("C13", {"gap_95": about(1.9)}, "SmallResNet")
    text = written()
    summary = f"1 of {len(claims.load())} claims tested: holds (0), holds when (1)"
    assert f"{summary}, does not hold (0), undecided (0)." in text
    found = claim(text, "C13")
    assert "✔ **1.2 points (0.7 to 1.7)**" in found
    assert "✘ **40.0 points (39.5 to 40.5)**" in found
    assert "≈ **1.9 points (1.4 to 2.4)**" in found
    assert "at most 2 points" in found and "◑ **holds" in found
    assert f"That is for SmallResNet; on {claims.processor()}" in found
    open_tests = section(text, "Untested")
    gaps = [test.label for test in claims.load()["C13"].tests if test.quantity == "gap_90"]
    assert f"| C13 | {gaps[0]} |" not in open_tests and "| C13 |" in open_tests


def test_an_undecided_claim_counts_as_tested(written):
    claims.record("C13", {"gap_90": about(2)}, "SmallResNet")
    text = written()
    assert "holds (0), holds when (0), does not hold (0), undecided (1)." in text
    assert "≈ **undecided: too close to call" in claim(text, "C13")


def test_recording_stands_beside_the_own_numbers(monkeypatch, written):
    recorded = {"gap_90": {"value": 1.7, "low": 1.5, "high": 1.9}, "gap_95": {"value": 1.7}}
    recording = {"claims": {"C13": recorded}}
    monkeypatch.setattr(claims, "recordings", lambda: {"cpu-2core": recording})
    found = claim(written(), "C13")
    assert "| this machine | recording cpu-2core | source |" in found
    wanted = r"\| not yet \(lesson 0\d\) \| ✔ \*\*1\.7 points \(1\.5 to 1\.9\)\*\* \| - \|"
    assert len(re.findall(wanted, found)) == 1
    assert found.count("1.7 points") == 1  # not the one that was recorded without an interval


def test_what_was_read_from_a_recording_names_it_and_is_not_shown_twice(monkeypatch, written):
    recorded = {"gap_90": {"value": 1.7, "low": 1.5, "high": 1.9}}
    recording = {"claims": {"C13": recorded}}
    monkeypatch.setattr(claims, "recordings", lambda: {"cpu-2core": recording})
    claims.record("C13", {"gap_90": about(1.2)}, "SmallResNet", "recorded on cpu-2core")
    claims.record("C13", {"gap_95": about(1.2)}, "ResNet-18")
    found = claim(written(), "C13")
    assert "| this machine | source |" in found and "recording cpu-2core" not in found
    sources = re.findall(r"✔ \*\*1\.2 points \(0\.7 to 1\.7\)\*\* \| (.*) \|", found)
    assert sources == ["recorded on cpu-2core", "measured"]
    assert "torch" in found and "; recorded on cpu-2core." in found


def test_a_claim_that_was_only_read_names_no_machine_of_the_learner(written):
    claims.record("C13", {"gap_90": about(1.2)}, "SmallResNet", "recorded on cpu-2core")
    assert "That is for SmallResNet; recorded on cpu-2core." in claim(written(), "C13")


def test_every_target_of_a_claim_has_its_reason(written):
    text = written()
    for name, each in claims.load().items():
        (line,) = [line for line in claim(text, name).splitlines() if line.startswith("Targets: ")]
        for test in each.tests:
            assert f"{test.reason}." in line and f"{test.target}" in line


def test_of_equal_targets_with_different_reasons_both_are_given(monkeypatch, written):
    first, second = claims.load()["C13"].tests[:2]
    tests = first._replace(reason="one reason"), second._replace(reason="another")
    changed = claims.load()["C13"]._replace(tests=tests)
    monkeypatch.setattr(claims, "load", lambda: {"C13": changed})
    wanted = "Targets: at most 2 points: one reason. at most 2 points: another."
    assert wanted in claim(written(), "C13")


def test_a_claim_without_tests_has_no_targets(monkeypatch, written):
    without = claims.load()["C13"]._replace(tests=())
    monkeypatch.setattr(claims, "load", lambda: {"C13": without})
    assert "Targets" not in written()


@pytest.mark.slow
def test_exercises_and_predictions_are_listed_with_what_is_missing(written):
    def learn(kept):
        solved = {"attempts": 3, "hints": 1, "solved": True}
        kept["exercises"].update({"01.2": solved, "01.1": {"attempts": 1}})
        scale = {"low": 0, "high": 100}
        asked = {"guess": 30, "unit": "%", "question": "How much | how far?", "truth": 42.0}
        kept["predictions"].update(
            {"01.a": asked | scale, "01.b": {"guess": 1.23456}, "01.c": {"truth": 7.0}}
        )

    progress.update(learn)
    text = written()
    assert f"1 of {len(EXERCISES)} exercises solved." in text
    [row] = [line for line in section(text, "Exercises").splitlines() if line.startswith("| 01 |")]
    assert row.split(" | ")[2:4] == ["4", "1"]
    assert "01.1 a magnitude mask" in row and "01.2" not in row
    assert "| How much \\| how far? | 30 % | 42 % |\n| 01.b | 1.23 | not yet |" in text
    assert "01.c" not in text and f"]({report.GUESSES})" in text


def test_the_pictures_have_a_dot_for_every_test_and_every_guess():
    claims.record("C13", {"gap_90": about(1.23), "gap_90_no_finetune": about(40)}, "SmallResNet")
    claims.record("C13", {"gap_95": about(1.9)}, "SmallResNet")
    cards = claims.cards()
    (axes,) = report.glance(cards).axes
    names = [line.get_label() for line in axes.lines]
    assert len(names) == sum(len(card.verdict.outcomes) for card in cards)
    for state in ("target reached", "target missed", "too close to call"):
        assert names.count(state) == 1
    assert names.count("not measured") == len(names) - 3
    beyond = {"guess": 120, "truth": 50, "low": 0, "high": 100}
    (axes,) = report.guesses({"01.a": beyond}).axes
    assert [line.get_xdata()[0] for line in axes.lines[1:]] == [1.0, 0.5]


def test_what_was_only_published_is_drawn_by_halves():
    claims.record("C06", {"csr_90_vector_cpu": about(2)}, "2048 x 2048")
    [card] = [card for card in claims.cards() if card.claim.id == "C06"]
    (axes,) = report.glance([card]).axes
    drawn = {line.get_fillstyle(): line.get_label() for line in axes.lines}
    assert drawn["left"] == "target reached"


def test_every_state_is_drawn_differently_without_its_colour():
    assert report.DOTS.keys() == {*claims.STATES, None}
    shapes = {(dot["marker"], dot.get("markerfacecolor")) for dot in report.DOTS.values()}
    assert len(shapes) == len(report.DOTS)


def test_page_needs_nothing_else_and_keeps_the_learners_words_as_text(tmp_path):
    question = "<script>alert(1)</script> <img src=x>"
    progress.update(lambda kept: kept["predictions"].update(a={"guess": 1, "question": question}))
    path = report.write(tmp_path / "build")
    page = path.read_text(encoding="utf-8")
    assert path == tmp_path / "build" / "report.html"
    assert not re.search(r"<(script|link)|https?://|url\(|@import", page)
    assert re.findall(r"<img src=\"(.{22})", page) == ["data:image/png;base64,"]
    assert "&lt;script&gt;" in page
    assert 'name="viewport"' in page and "@media print" in page
    assert (tmp_path / "build" / report.GLANCE).read_bytes().startswith(b"\x89PNG")


def test_crash_leaves_the_earlier_report_whole(tmp_path, monkeypatch):
    before = report.write(tmp_path).read_bytes()
    claims.record("C13", {"gap_90": about(1)}, "SmallResNet")

    def crash(*paths):
        raise OSError("disk full")

    monkeypatch.setattr(progress.os, "replace", crash)
    with pytest.raises(OSError, match="disk full"):
        report.write(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before
    found = {path.name for path in tmp_path.glob("*.*")}
    assert found == {"report.html", "report.md", report.GLANCE}
