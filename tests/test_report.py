"""The report lists every claim, needs no other file, and survives an odd progress."""

import re

import pytest

from course_lib.teaching import claims, progress, report
from course_lib.teaching.exercises import EXERCISES


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNING_COURSE_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(claims, "recordings", lambda: {})


def section(text, heading):
    return text.split(f"## {heading}\n\n")[1].split("\n\n## ")[0]


def test_empty_progress_lists_every_claim_as_untested_with_its_lesson():
    text = report.markdown()
    assert "**0 of 22 claims tested: holds (0), holds when (0), does not hold (0).**" in text
    rows = section(text, "Claims").splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == list(claims.load())
    assert "untested: lesson 02 tests it" in rows[4]
    assert f"0 of {len(EXERCISES)} exercises solved." in text and "None made yet." in text


def test_measured_claim_shows_its_number_and_counts():
    claims.record("C13", {"gap_90": 1.23, "gap_90_no_finetune": 40}, "SmallResNet")
    text = report.markdown()
    assert "1 of 22 claims tested: holds (0), holds when (1), does not hold (0)." in text
    [row] = [line for line in section(text, "Claims").splitlines() if "| C13 |" in line]
    assert "**1.2 points**" in row and "**40.0 points**" in row and "at most 2 points" in row
    assert "◑ holds at" in row and "no recording yet" in row


def test_recording_stands_beside_the_own_numbers(monkeypatch):
    recording = {"claims": {"C13": {"gap_90": {"value": 1.7}}}}
    monkeypatch.setattr(claims, "recordings", lambda: {"cpu-2core": recording})
    assert re.search(r"cpu-2core: .*\*\*1\.7 points\*\*", report.markdown())


def test_exercises_and_predictions_are_listed_with_what_is_missing():
    def learn(kept):
        solved = {"attempts": 3, "hints": 1, "solved": True}
        kept["exercises"].update({"01.2": solved, "01.1": {"attempts": 1}})
        kept["predictions"].update(
            {
                "01.a": {
                    "guess": 30,
                    "unit": "%",
                    "question": "How much | how far?",
                    "truth": 42.0,
                },
                "01.b": {"guess": 1.23456},
                "01.c": {"truth": 7.0},
            }
        )

    progress.update(learn)
    text = report.markdown()
    assert f"1 of {len(EXERCISES)} exercises solved." in text
    assert "| 01.1 | a magnitude mask | not yet | 1 | 0 |" in text
    assert "| 01.2 | masks for the whole network | solved | 3 | 1 |" in text
    assert "| 01.3 | a training step that keeps the zeros | not attempted | 0 | 0 |" in text
    assert "| How much \\| how far? | 30 % | 42 % |\n| 01.b | 1.23 | not yet |" in text
    assert "01.c" not in text


def test_page_needs_nothing_else_and_keeps_the_learners_words_as_text(tmp_path):
    question = "<script>alert(1)</script> <img src=x>"
    progress.update(lambda kept: kept["predictions"].update(a={"guess": 1, "question": question}))
    path = report.write(tmp_path / "build")
    page = path.read_text(encoding="utf-8")
    assert path == tmp_path / "build" / "report.html"
    assert not re.search(r"<(script|img|link)|https?://|url\(|@import", page)
    assert "&lt;script&gt;" in page and page.count("<table>") == 4
    assert 'name="viewport"' in page and "@media print" in page
    assert (tmp_path / "build" / "report.md").read_text(encoding="utf-8") == report.markdown()


def test_crash_leaves_the_earlier_report_whole(tmp_path, monkeypatch):
    before = report.write(tmp_path).read_bytes()
    claims.record("C13", {"gap_90": 1}, "SmallResNet")

    def crash(*paths):
        raise OSError("disk full")

    monkeypatch.setattr(progress.os, "replace", crash)
    with pytest.raises(OSError, match="disk full"):
        report.write(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before
    assert {path.name for path in tmp_path.glob("*.*")} == {"report.html", "report.md"}
