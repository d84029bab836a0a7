"""Claims are loaded with clear errors, judged by rule, and recorded without losing anything."""

import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib import PROJECT
from course_lib.teaching import claims, lessons, progress

CONTEXT = "SmallResNet, Fashion-MNIST"


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNING_COURSE_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(claims, "recordings", lambda: {})


def made_up(*tests, lessons=("01", "04")):
    return claims.Claim("C99", "says", tuple(lessons), "shows", (), tests)


def a_test(name, condition="always", lesson="01", unit="points", **bounds):
    return claims.Test(name, unit, lesson, f"label of {name}", condition, **bounds)


# The shipped file


SHIPPED = claims.load()


def test_shipped_claims_are_numbered_without_a_gap():
    assert list(SHIPPED) == [f"C{number:02d}" for number, _ in enumerate(SHIPPED, start=1)]
    assert all(claim.textbook and claim.shows for claim in SHIPPED.values())


def test_every_lesson_records_the_claims_that_name_it_and_no_others():
    recorded = {
        (found, script.stem[:2])
        for script in lessons.scripts()
        for found in re.findall(r"claims\.record\(\s*[\"'](C\d\d)", script.read_text("utf-8"))
    }
    assert recorded == {(name, lesson) for name in SHIPPED for lesson in SHIPPED[name].lessons}
    for claim in SHIPPED.values():
        assert {test.lesson for test in claim.tests} == {*claim.lessons}


def test_the_recordings_name_the_lessons_of_the_claims():
    for path in (PROJECT / "data").glob("recordings/*/claims.json"):
        recorded = json.loads(path.read_text(encoding="utf-8"))["claims"]
        for name, entries in recorded.items():
            lesson_of = {test.quantity: test.lesson for test in SHIPPED[name].tests}
            assert all(entry["lesson"] == lesson_of[key] for key, entry in entries.items())


def test_lesson_01_measures_its_four_claims():
    tested = {
        claim.id for claim in claims.load().values() for test in claim.tests if test.lesson == "01"
    }
    assert tested >= {"C01", "C02", "C13", "C14"}


ENTRY = {
    "id": "C01",
    "textbook": "says",
    "lessons": ["01"],
    "shows": "shows",
    "sources": [],
    "tests": [
        {
            "quantity": "gap",
            "unit": "points",
            "lesson": "01",
            "at_most": 2,
            "label": "the gap",
            "condition": "always",
        }
    ],
}


def changed(test=None, **changes):
    """ENTRY with other values; the value None leaves the key out."""
    entry = ENTRY | {"tests": [_without_none(ENTRY["tests"][0] | (test or {}))]} | changes
    return _without_none(entry)


def _without_none(entry):
    return {key: value for key, value in entry.items() if value is not None}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "list of claims"),
        ([3], "claim number 1 must be an object"),
        ([changed(id=None)], "claim number 1: 'id' is missing"),
        ([changed(id="C1")], "claim C1: 'id' must look like 'C01'"),
        ([changed(), changed()], "C01 appears twice"),
        ([changed(textbook=None)], "claim C01: 'textbook' is missing"),
        ([changed(textbook="")], "'textbook' must be a str with content"),
        ([changed(lessons="01")], "'lessons' must be a list"),
        ([changed(lessons=[])], "'lessons' must name at least one"),
        ([changed(sources=[1])], "'sources' must contain only text"),
        ([changed(colour="red")], "claim C01 has an unknown key 'colour'"),
        ([changed(tests=["gap"])], "a test of claim C01 must be an object"),
        ([changed(test={"label": None})], "test 'gap' of claim C01: 'label' is missing"),
        ([changed(test={"at_most": None})], "'at_least' or 'at_most' must be given"),
        ([changed(test={"at_least": "1"})], "must be numbers"),
        ([changed(test={"at_most": True})], "must be numbers"),
        ([changed(test={"at_least": 3})], "'at_least' must not exceed 'at_most'"),
        ([changed(test={"lesson": "04"})], "'lesson' must be one of the claim's"),
        ([changed(test={"atmost": 1})], "test 'gap' of claim C01 has an unknown key 'atmost'"),
        ([changed(tests=ENTRY["tests"] * 2)], "must not repeat a quantity"),
    ],
)
def test_wrong_file_names_the_claim_and_the_key(tmp_path, content, message):
    (tmp_path / "claims.json").write_text(json.dumps(content))
    with pytest.raises(claims.ClaimError, match=re.escape(message)):
        claims.load(tmp_path)


@pytest.mark.parametrize("text", [None, "", "[{]"])
def test_file_that_is_missing_or_not_json_says_how_to_restore_it(tmp_path, text):
    if text is not None:
        (tmp_path / "claims.json").write_text(text)
    with pytest.raises(claims.ClaimError, match=r"claims\.json cannot be read .*git checkout"):
        claims.load(tmp_path)


# Judging


BOTH = made_up(
    a_test("high", "at 90 %", at_most=2), a_test("low", "at 50 %", lesson="04", at_least=1)
)


@pytest.mark.parametrize(
    ("measured", "kind", "text"),
    [
        ({}, "untested", "untested: lessons 01 and 04 test it"),
        ({"high": 1, "low": 5}, "holds", "holds at 90 % and at 50 %"),
        ({"high": 1, "low": 0}, "holds when", "holds at 90 %; not at 50 %"),
        ({"high": 3, "low": 0}, "does not hold", "does not hold at 90 % and at 50 %"),
        ({"high": 1}, "holds", "holds at 90 % (lesson 04 measures the rest)"),
        ({"high": 9}, "does not hold", "does not hold at 90 % (lesson 04 measures the rest)"),
        ({"another": 9}, "untested", "untested: lessons 01 and 04 test it"),
    ],
)
def test_verdict_follows_the_rule_and_reads_as_english(measured, kind, text):
    verdict = claims.judge(BOTH, measured)
    assert (verdict.kind, verdict.text) == (kind, text)


def test_a_condition_with_two_tests_needs_both():
    claim = made_up(
        a_test("a", "at 90 %", at_least=5),
        a_test("b", "at 90 %", at_most=2),
        a_test("c", "at 50 %", at_least=1),
    )
    assert claims.judge(claim, {"a": 9, "b": 9, "c": 9}).text == "holds at 50 %; not at 90 %"
    assert claims.judge(claim, {"a": 9, "b": 1, "c": 0}).text == "holds at 90 %; not at 50 %"


def test_claim_without_tests_is_untested():
    assert claims.judge(made_up(lessons=("02",)), {}).text == "untested: lesson 02 tests it"


@given(st.dictionaries(st.sampled_from(["high", "low"]), st.floats(-100, 100)))
def test_verdict_agrees_with_its_outcomes(measured):
    verdict = claims.judge(BOTH, measured)
    passed = {outcome.passed for outcome in verdict.outcomes} - {None}
    kinds = {(True,): "holds", (False,): "does not hold", (False, True): "holds when"}
    assert verdict.kind == kinds.get(tuple(sorted(passed)), "untested")


@given(st.floats(-1e9, 1e9), st.sampled_from(["points", "x", "ms"]))
def test_value_is_judged_as_it_is_shown(value, unit):
    test = a_test("a", unit=unit, at_least=2)
    number = float(test.shown(value).split()[0].replace(",", ""))
    assert test.passed(value) == (number >= 2)
    assert test.rounded(test.rounded(value)) == test.rounded(value)


@pytest.mark.parametrize(
    ("unit", "value", "shown"),
    [
        ("points", 34.234, "34.2 points"),
        ("x", 1, "1.00 x"),
        ("ms", 0.012345, "0.0123 ms"),
        ("ms", 12.3456, "12.3 ms"),
        ("bytes", 1_079_336, "1,080,000 bytes"),
        ("bytes", 999.9, "1,000 bytes"),
    ],
)
def test_shown_with_sensible_digits(unit, value, shown):
    assert a_test("a", unit=unit, at_least=0).shown(value) == shown


@pytest.mark.parametrize(
    ("bounds", "target"),
    [
        ({"at_least": 10}, "at least 10 points"),
        ({"at_most": 2.5}, "at most 2.5 points"),
        ({"at_least": 0.8, "at_most": 1.25}, "0.8 to 1.25 points"),
    ],
)
def test_target_in_words(bounds, target):
    assert a_test("a", **bounds).target == target


def test_bounds_belong_to_the_range():
    test = a_test("a", at_least=1, at_most=2)
    # The last but one is shown as 2.0, the first as 0.9.
    passed = [test.passed(value) for value in (0.94, 1, 2, 2.04, 2.06)]
    assert passed == [False, True, True, True, False]


# Recording


@pytest.mark.parametrize("value", [3, 3.04, np.float32(3), np.int64(3), torch.tensor(3.0)])
def test_record_takes_any_number_and_stores_it_with_its_circumstances(value):
    card = claims.record("C13", {"gap_90": value}, CONTEXT)
    entry = progress.read()["claims"]["C13"]["gap_90"]
    assert entry["value"] == 3.0 and entry["context"] == CONTEXT and entry["lesson"] == "01"
    assert {"date", "machine"} < entry.keys()
    assert card.verdict.kind == "does not hold"


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, "3", True, None, [1, 2], torch.tensor([1.0, 2.0])]
)
def test_record_refuses_what_is_no_finite_number(value):
    with pytest.raises(claims.ClaimError, match="C13: gap_90 must be a finite number, not"):
        claims.record("C13", {"gap_90": value}, CONTEXT)
    assert progress.read()["claims"] == {}


def test_record_refuses_unknown_names_and_says_which_there_are():
    there = f"the claims are {', '.join(SHIPPED)}"
    with pytest.raises(claims.ClaimError, match=f"no claim 'C99'; {there}"):
        claims.record("C99", {"gap_90": 1}, CONTEXT)
    with pytest.raises(claims.ClaimError, match=r"no quantity 'gap'; its quantities are gap_90, "):
        claims.record("C13", {"gap": 1}, CONTEXT)
    with pytest.raises(claims.ClaimError, match="nothing was measured"):
        claims.record("C13", {}, CONTEXT)


def test_later_measurements_join_the_earlier_ones():
    claims.record("C13", {"gap_90": 1}, CONTEXT)
    card = claims.record("C13", {"gap_90_no_finetune": 30}, "another network")
    assert card.verdict.kind == "holds when"
    assert card.contexts == (CONTEXT, "another network")
    claims.record("C13", {"gap_90": 9}, CONTEXT)
    assert claims.values(progress.read()["claims"]["C13"])["gap_90"] == 9


def test_here_does_not_depend_on_what_was_measured_before():
    fresh = claims.record("C13", {"gap_90": 1}, CONTEXT).here
    claims.record("C13", {"gap_90_no_finetune": 30}, CONTEXT)
    assert claims.record("C13", {"gap_90": 1}, CONTEXT).here == fresh


def test_lesson_goes_on_when_the_progress_cannot_be_stored(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PRUNING_COURSE_STATE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="cannot be"):
        assert claims.record("C13", {"gap_90": 1}, CONTEXT).verdict.kind == "holds"


def test_stored_entries_that_make_no_sense_are_left_out():
    progress.update(
        lambda kept: kept["claims"].update(
            C13={"gap_90": 3, "gap_90_no_finetune": {"value": "3"}, "long_gone": {"value": 1}}
        )
    )
    [card] = [card for card in claims.cards() if card.claim.id == "C13"]
    assert card.verdict.kind == "untested" and card.contexts == ()


# The card


class Text(HTMLParser):
    """The text of HTML, and the names of its tags."""

    def __init__(self, html):
        super().__init__()
        self.text, self.tags = "", set()
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


def test_card_shows_the_same_in_html_and_in_plain_text(monkeypatch):
    measured = {"C01": {"smallest_minus_random": {"value": 44.4}}}
    monkeypatch.setattr(claims, "recordings", lambda: {"cpu-2core": {"claims": measured}})
    card = claims.record("C01", {"smallest_minus_random": 31.26}, "<b>a & b</b>")
    page = Text(card._repr_html_())
    for text in (page.text, repr(card)):
        for part in (
            "31.3 points",
            "at least 10 points",
            "reached",
            "not measured yet (lesson 01)",
            "recording cpu-2core",
            "44.4 points",
            "<b>a & b</b>",
            card.verdict.text,
        ):
            assert part in text
    assert page.tags <= {"table", "thead", "tbody", "tr", "th", "td", "br"}


def test_card_says_that_there_is_no_recording_yet():
    assert "no recording yet" in repr(claims.record("C13", {"gap_90": 1}, CONTEXT))


def test_every_kind_of_verdict_has_its_mark():
    kinds = {
        claims.judge(BOTH, m).kind for m in ({}, {"high": 1}, {"high": 9}, {"high": 1, "low": 0})
    }
    assert kinds == set(claims.MARKS)
    assert len({sign for sign, _ in claims.MARKS.values()}) == len(kinds)


# Publishing


def test_published_measurements_come_back_as_a_recording(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("PRUNING_COURSE_STATE", str(tmp_path / "state"))
    claims.record("C13", {"gap_90": 1}, CONTEXT)
    path = claims.publish("cpu-2core", tmp_path)
    assert path == tmp_path / "recordings" / "cpu-2core" / "claims.json"
    recording = claims.recordings(tmp_path)["cpu-2core"]
    assert claims.values(recording["claims"]["C13"]) == {"gap_90": 1}
    assert set(recording["machine"]) == set(claims.machine()) and recording["date"]


@pytest.mark.parametrize("name", ["", "../up", "A", "a b", "-a"])
def test_publish_refuses_a_name_that_is_no_folder_name(name, tmp_path):
    claims.record("C13", {"gap_90": 1}, CONTEXT)
    with pytest.raises(claims.ClaimError, match="is not a machine name"):
        claims.publish(name, tmp_path)


def test_publish_refuses_to_publish_nothing(capsys):
    assert claims.main(["publish", "cpu-2core"]) == 1
    assert "run the lessons first" in capsys.readouterr().err


def test_damaged_recording_is_named(tmp_path, monkeypatch):
    monkeypatch.undo()
    path = tmp_path / "recordings" / "cpu" / "claims.json"
    path.parent.mkdir(parents=True)
    path.write_text("[]")
    with pytest.raises(claims.ClaimError, match="is not a recording"):
        claims.recordings(tmp_path)


def test_machine_tells_what_numbers_depend_on():
    facts = claims.machine()
    assert facts.keys() >= {"processor", "threads", "memory", "CUDA GPU", "python", "torch"}
    assert all(facts.values())
