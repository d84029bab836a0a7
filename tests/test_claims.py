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
from course_lib.measuring.estimates import Estimate, exact
from course_lib.measuring.machine import processor
from course_lib.measuring.timing import Speedup
from course_lib.teaching import claims, lessons, progress

CONTEXT = "SmallResNet, Fashion-MNIST"


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNING_COURSE_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(claims, "recordings", lambda: {})


def made_up(*tests, lessons=("01", "04"), **more):
    return claims.Claim("C99", "says", tuple(lessons), "shows", (), tests, **more)


def a_test(name, condition="always", lesson="01", unit="points", **more):
    label = f"label of {name}"
    return claims.Test(name, unit, lesson, label, condition, f"reason of {name}", **more)


def about(value, error=0.5):
    """An estimate with an interval of ``error`` to either side."""
    return Estimate(value, value - error, value + error)


def entry(value, error=0.5, **more):
    """The same as it is stored."""
    return {"value": value, "low": value - error, "high": value + error, **more}


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


def test_every_shipped_target_has_a_reason_and_every_value_an_interval_or_the_reason_why_not():
    tests = [test for claim in SHIPPED.values() for test in claim.tests]
    assert all(test.reason.strip() for test in tests)
    assert {test.exact for test in tests if "bytes" in test.quantity} == {
        "bytes are counted, not sampled"
    }
    assert not any(test.exact for test in tests if test.unit == "points")


def test_every_shipped_claim_about_hardware_has_a_test_that_decides_it():
    about_hardware = [claim for claim in SHIPPED.values() if claim.hardware]
    assert {"C06", "C08"} <= {claim.id for claim in about_hardware}
    for claim in about_hardware:
        assert any(test.hardware == claim.hardware for test in claim.tests)


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
            "reason": "the textbook's own number",
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
        ([changed(test={"reason": None})], "test 'gap' of claim C01: 'reason' is missing"),
        ([changed(test={"reason": ""})], "'reason' must be a str with content"),
        ([changed(test={"exact": ""})], "'exact' must say why there is no interval"),
        ([changed(test={"exact": True})], "'exact' must say why there is no interval"),
        ([changed(test={"hardware": "tpu"})], "test 'gap' of claim C01: 'hardware' must be 'cpu'"),
        ([changed(hardware="tpu")], "claim C01: 'hardware' must be 'cpu' or 'gpu'"),
        ([changed(exists="yes")], "claim C01: 'exists' must be true or false"),
        ([changed(exists=1)], "claim C01: 'exists' must be true or false"),
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


def test_what_may_be_given_is_loaded(tmp_path):
    given = changed(test={"exact": "counted", "hardware": "cpu"}, hardware="gpu", exists=True)
    (tmp_path / "claims.json").write_text(json.dumps([given]))
    [claim] = claims.load(tmp_path).values()
    assert (claim.hardware, claim.exists) == ("gpu", True)
    assert (claim.tests[0].exact, claim.tests[0].hardware) == ("counted", "cpu")


# The state of a test


@pytest.mark.parametrize(
    ("low", "high", "state"),
    [
        (1.2, 1.8, "reached"),
        (1, 2, "reached"),  # the bounds belong to the range
        (0.2, 0.8, "missed"),
        (2.2, 3, "missed"),
        (0.5, 1.5, "too close to call"),
        (1.5, 2.5, "too close to call"),
        (0.5, 2.5, "too close to call"),
        (0.96, 2.04, "reached"),  # shown as 1.0 and 2.0
        (0.94, 2, "too close to call"),  # shown as 0.9
        (0.5, 0.96, "too close to call"),  # shown as 1.0
        (0.5, 0.94, "missed"),
        (1, 2.06, "too close to call"),  # shown as 2.1
        (2.06, 3, "missed"),
    ],
)
def test_a_test_is_decided_only_if_the_whole_interval_is_on_one_side(low, high, state):
    test = a_test("a", at_least=1, at_most=2)
    assert test.state(Estimate((low + high) / 2, low, high)) == state


@pytest.mark.parametrize(
    ("bounds", "low", "high", "state"),
    [
        ({"at_least": 1}, 1.5, 1e9, "reached"),
        ({"at_least": 1}, -1e9, 0.5, "missed"),
        ({"at_least": 1}, 0.5, 1.5, "too close to call"),
        ({"at_most": 1}, -1e9, 0.5, "reached"),
        ({"at_most": 1}, 1.5, 1e9, "missed"),
        ({"at_most": 1}, 0.5, 1.5, "too close to call"),
    ],
)
def test_one_bound_leaves_the_other_side_open(bounds, low, high, state):
    assert a_test("a", **bounds).state(Estimate(0.5 * (low + high), low, high)) == state


def test_what_is_not_measured_has_no_state():
    (outcome,) = claims.judge(made_up(a_test("a", at_least=1)), {}).outcomes
    assert outcome.estimate is None and outcome.state is None


@given(st.floats(-10, 10), st.floats(0, 5), st.floats(0, 5))
def test_a_wider_interval_never_decides_otherwise(value, error, more):
    test = a_test("a", at_least=-1, at_most=2)
    narrow, wide = test.state(about(value, error)), test.state(about(value, error + more))
    assert wide in (narrow, "too close to call")


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
        (
            {"high": 2, "low": 1},
            "undecided",
            "undecided: too close to call at 90 % and at 50 %",
        ),
        ({"high": 1, "low": 1}, "holds when", "holds at 90 %; too close to call at 50 %"),
        (
            {"high": 3, "low": 1},
            "undecided",
            "undecided: does not hold at 90 %; too close to call at 50 %",
        ),
        (
            {"high": 2},
            "undecided",
            "undecided: too close to call at 90 % (lesson 04 measures the rest)",
        ),
    ],
)
def test_verdict_follows_the_rule_and_reads_as_english(measured, kind, text):
    verdict = claims.judge(BOTH, {name: about(value) for name, value in measured.items()})
    assert (verdict.kind, verdict.text) == (kind, text)


def test_all_three_states_are_named_in_their_order():
    claim = made_up(
        a_test("a", "at 10 %", at_least=1),
        a_test("b", "at 20 %", at_least=1),
        a_test("c", "at 30 %", at_least=1),
    )
    verdict = claims.judge(claim, {"a": about(1), "b": about(0), "c": about(9)})
    assert verdict.kind == "holds when"
    assert verdict.text == "holds at 30 %; not at 20 %; too close to call at 10 %"


def test_a_condition_is_as_good_as_the_worst_of_its_tests():
    claim = made_up(
        a_test("a", "at 90 %", at_least=5),
        a_test("b", "at 90 %", at_most=2),
        a_test("c", "at 50 %", at_least=1),
    )

    def text(**measured):
        found = {name: about(value) for name, value in measured.items()}
        return claims.judge(claim, found).text

    assert text(a=9, b=9, c=9) == "holds at 50 %; not at 90 %"
    assert text(a=9, b=1, c=0) == "holds at 90 %; not at 50 %"
    assert text(a=9, b=2, c=9) == "holds at 50 %; too close to call at 90 %"
    assert text(a=5, b=9, c=9) == "holds at 50 %; not at 90 %"


def test_claim_without_tests_is_untested():
    assert claims.judge(made_up(lessons=("02",)), {}).text == "untested: lesson 02 tests it"


ON_GPU = made_up(
    a_test("by_cpu", "on a CPU", at_most=1, hardware="cpu"),
    a_test("by_gpu", "on a GPU", lesson="04", at_most=1, hardware="gpu"),
    hardware="gpu",
)


@pytest.mark.parametrize(
    ("measured", "kind", "text"),
    [
        ({}, "untested", "untested: lessons 01 and 04 test it"),
        (
            {"by_cpu": 0},
            "undecided",
            "undecided: no GPU was measured (lesson 04 measures the rest)",
        ),
        (
            {"by_cpu": 9},
            "undecided",
            "undecided: no GPU was measured (lesson 04 measures the rest)",
        ),
        ({"by_cpu": 9, "by_gpu": 0}, "holds", "holds on a GPU"),
        ({"by_cpu": 0, "by_gpu": 9}, "does not hold", "does not hold on a GPU"),
        ({"by_cpu": 0, "by_gpu": 1}, "undecided", "undecided: too close to call on a GPU"),
        ({"by_gpu": 0}, "holds", "holds on a GPU (lesson 01 measures the rest)"),
    ],
)
def test_a_claim_about_hardware_is_decided_on_that_hardware_alone(measured, kind, text):
    found = {name: about(value) for name, value in measured.items()}
    verdict = claims.judge(ON_GPU, found)
    assert (verdict.kind, verdict.text) == (kind, text)
    shown = {one.test.quantity for one in verdict.outcomes if one.state is not None}
    assert shown == set(measured)  # what was measured elsewhere is shown all the same


def test_a_test_on_any_hardware_decides_a_claim_about_one():
    claim = made_up(a_test("size", "for bytes", at_most=1), hardware="gpu")
    assert claims.judge(claim, {"size": about(0)}).kind == "holds"


@pytest.mark.parametrize(
    ("measured", "kind", "text"),
    [
        ({"high": 1, "low": 5}, "holds", "holds at 90 % and at 50 %"),
        ({"high": 1, "low": 0}, "holds", "holds at 90 %; not at 50 %"),
        ({"high": 1, "low": 1}, "holds", "holds at 90 %; too close to call at 50 %"),
        ({"high": 3, "low": 0}, "does not hold", "does not hold at 90 % and at 50 %"),
        (
            {"high": 3, "low": 1},
            "undecided",
            "undecided: does not hold at 90 %; too close to call at 50 %",
        ),
    ],
)
def test_a_claim_that_something_exists_holds_when_one_condition_does(measured, kind, text):
    found = {name: about(value) for name, value in measured.items()}
    verdict = claims.judge(BOTH._replace(exists=True), found)
    assert (verdict.kind, verdict.text) == (kind, text)


@given(
    st.dictionaries(
        st.sampled_from(["high", "low"]),
        st.builds(about, st.floats(-100, 100), st.floats(0, 100)),
    ),
    st.booleans(),
)
def test_verdict_agrees_with_its_outcomes(measured, exists):
    verdict = claims.judge(BOTH._replace(exists=exists), measured)
    states = {outcome.state for outcome in verdict.outcomes} - {None}
    if "reached" in states:
        kind = "holds" if exists or states == {"reached"} else "holds when"
    elif "too close to call" in states:
        kind = "undecided"
    else:
        kind = "does not hold" if states else "untested"
    assert verdict.kind == kind


@given(st.floats(-1e9, 1e9), st.sampled_from(["points", "x", "ms"]))
def test_value_is_judged_as_it_is_shown(value, unit):
    test = a_test("a", unit=unit, at_least=2)
    number = float(test.shown(value).split()[0].replace(",", ""))
    assert test.state(exact(value)) == ("reached" if number >= 2 else "missed")
    assert test.rounded(test.rounded(value)) == test.rounded(value)


@pytest.mark.parametrize(
    ("unit", "value", "shown"),
    [
        ("points", 34.234, "34.2 points"),
        ("points", -0.04, "0.0 points"),
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


@pytest.mark.parametrize(
    ("more", "estimate", "shown"),
    [
        ({}, Estimate(34.234, 33.1, 35.26), "34.2 points (33.1 to 35.3)"),
        ({}, Estimate(0.01, -0.04, 1), "0.0 points (0.0 to 1.0)"),
        (
            {"unit": "bytes"},
            Estimate(2e6, 1.5e6, 2.5e6),
            "2,000,000 bytes (1,500,000 to 2,500,000)",
        ),
        ({"unit": "of the output"}, Estimate(0.5, 0.25, 1), "0.5 of the output (0.25 to 1)"),
        ({"exact": "counted"}, exact(2), "2.0 points"),
        ({"exact": "counted"}, Estimate(2, 1, 3), "2.0 points (1.0 to 3.0)"),
    ],
)
def test_a_value_is_shown_with_its_interval_unless_it_is_exact(more, estimate, shown):
    assert a_test("a", at_least=0, **more).shown_with_interval(estimate) == shown


# Recording


NUMBERS = [3, 3.004, np.float32(3), np.int64(3), torch.tensor(3.0)]


@pytest.mark.parametrize("value", NUMBERS)
def test_record_takes_any_number_and_stores_it_with_its_circumstances(value):
    card = claims.record("C13", {"gap_90": Estimate(value, value, value)}, CONTEXT)
    found = progress.read()["claims"]["C13"]["gap_90"]
    assert found["value"] == found["low"] == found["high"] == 3.0
    assert found["context"] == CONTEXT and found["lesson"] == "01"
    assert {"date", "machine"} < found.keys() and "source" not in found
    assert card.verdict.kind == "does not hold"


@pytest.mark.parametrize("value", NUMBERS)
def test_an_exact_value_needs_no_interval(value):
    card = claims.record("C14", {"masked_bytes_ratio": value}, CONTEXT)
    found = progress.read()["claims"]["C14"]["masked_bytes_ratio"]
    assert found["value"] == found["low"] == found["high"] == 3.0
    assert card.verdict.kind == "does not hold" and "3.00 x, target" in repr(card)


@pytest.mark.parametrize("value", NUMBERS)
def test_any_other_value_needs_an_interval(value):
    words = r"C13: gap_90 is 3(\.004)? without an interval: give an Estimate"
    with pytest.raises(claims.ClaimError, match=words):
        claims.record("C13", {"gap_90": value}, CONTEXT)
    assert progress.read()["claims"] == {}


@pytest.mark.parametrize("kind", [Estimate, Speedup])
def test_an_interval_is_stored_and_judged(kind):
    card = claims.record("C15", {"channels_int8_faster": kind(3.456, 1.999, 4.001)}, CONTEXT)
    found = progress.read()["claims"]["C15"]["channels_int8_faster"]
    assert (found["value"], found["low"], found["high"]) == (3.46, 2.0, 4.0)
    assert card.here.outcomes == card.verdict.outcomes
    assert "3.46 x (2.00 to 4.00), target: at least 2 x, ✔ reached" in repr(card)


@pytest.mark.parametrize("ends", [(1.5, 2), (-2, 0.5), (2, 0.5)])
def test_an_interval_contains_its_value(ends):
    for name, quantity in (("C13", "gap_90"), ("C14", "masked_bytes_ratio")):
        with pytest.raises(claims.ClaimError, match=f"{name}: {quantity}: 1 is not within its"):
            claims.record(name, {quantity: Estimate(1, *ends)}, CONTEXT)
    assert progress.read()["claims"] == {}


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, "3", True, None, [1, 2], torch.tensor([1.0, 2.0])]
)
def test_record_refuses_what_is_no_finite_number(value):
    for given_ in (value, Estimate(value, 0, 1), Estimate(0, value, 1), Estimate(0, -1, value)):
        with pytest.raises(claims.ClaimError, match="C13: gap_90 must be a finite number, not"):
            claims.record("C13", {"gap_90": given_}, CONTEXT)
    with pytest.raises(claims.ClaimError, match="masked_bytes_ratio must be a finite number, not"):
        claims.record("C14", {"masked_bytes_ratio": value}, CONTEXT)
    assert progress.read()["claims"] == {}


def test_known_leaves_out_what_is_not_recorded_and_what_was_run_only_once():
    kept = {"a": 1.0, "b": about(1), "c": Speedup(2, 1, 3), "d": torch.tensor(1.0)}
    gone = {
        "e": None,
        "f": math.nan,
        "g": Speedup(2, math.nan, math.nan),
        "h": Estimate(math.nan, math.nan, math.nan),
    }
    assert claims.known(kept | gone) == kept


def test_record_refuses_unknown_names_and_says_which_there_are():
    there = f"the claims are {', '.join(SHIPPED)}"
    with pytest.raises(claims.ClaimError, match=f"no claim 'C99'; {there}"):
        claims.record("C99", {"gap_90": about(1)}, CONTEXT)
    with pytest.raises(claims.ClaimError, match=r"no quantity 'gap'; its quantities are gap_90, "):
        claims.record("C13", {"gap": about(1)}, CONTEXT)
    with pytest.raises(claims.ClaimError, match="nothing was measured"):
        claims.record("C13", {}, CONTEXT)


def test_later_measurements_join_the_earlier_ones():
    claims.record("C13", {"gap_90": about(1)}, CONTEXT)
    card = claims.record("C13", {"gap_90_no_finetune": about(30)}, "another network")
    assert card.verdict.kind == "holds when"
    assert card.contexts == (CONTEXT, "another network")
    claims.record("C13", {"gap_90": about(9)}, CONTEXT)
    found = claims.estimates(SHIPPED["C13"], progress.read()["claims"]["C13"])
    assert found == {"gap_90": about(9), "gap_90_no_finetune": about(30)}


def test_here_does_not_depend_on_what_was_measured_before():
    fresh = claims.record("C13", {"gap_90": about(1)}, CONTEXT).here
    claims.record("C13", {"gap_90_no_finetune": about(30)}, CONTEXT)
    assert claims.record("C13", {"gap_90": about(1)}, CONTEXT).here == fresh


def test_lesson_goes_on_when_the_progress_cannot_be_stored(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PRUNING_COURSE_STATE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="cannot be"):
        assert claims.record("C13", {"gap_90": about(1)}, CONTEXT).verdict.kind == "holds"


def stored(name, **entries):
    """The card of a claim for which these entries are stored."""
    progress.update(lambda kept: kept["claims"].update({name: entries}))
    [card] = [card for card in claims.cards() if card.claim.id == name]
    return card


def test_stored_entries_that_make_no_sense_are_left_out():
    card = stored("C13", gap_90=3, gap_90_no_finetune={"value": "3"}, long_gone={"value": 1})
    assert card.verdict.kind == "untested" and card.contexts == ()
    assert card.sentence == card.verdict.text


@pytest.mark.parametrize("ends", [{}, {"low": 1}, {"high": 2}, {"low": "1", "high": 2}])
def test_stored_entries_without_an_interval_are_left_out_unless_they_are_exact(ends):
    without = {"value": 1.0, "context": CONTEXT, "machine": "an abacus"} | ends
    assert stored("C13", gap_90=without).verdict.kind == "untested"
    card = stored("C14", masked_bytes_ratio=without, masked_time_ratio=without)
    assert [one.estimate for one in card.verdict.outcomes[:2]] == [None, exact(1)]
    assert card.verdict.kind == "does not hold" and card.contexts == (CONTEXT,)


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


def with_recording(monkeypatch, **entries):
    """Make cpu-2core the only recording, with these entries of C13."""
    recording = {"cpu-2core": {"claims": {"C13": entries}}}
    monkeypatch.setattr(claims, "recordings", lambda: recording)


def test_card_shows_the_same_in_html_and_in_plain_text(monkeypatch):
    measured = {"C01": {"smallest_minus_random": entry(44.4)}}
    monkeypatch.setattr(claims, "recordings", lambda: {"cpu-2core": {"claims": measured}})
    card = claims.record("C01", {"smallest_minus_random": about(31.26)}, "<b>a & b</b>")
    page = Text(card._repr_html_())
    for text in (page.text, repr(card)):
        for part in (
            "31.3 points (30.8 to 31.8)",
            "at least 10 points",
            "✔ reached",
            "not measured yet (lesson 01)",
            "recording cpu-2core",
            "44.4 points (43.9 to 44.9)",
            "<b>a & b</b>",
            card.verdict.text,
        ):
            assert part in text
    assert page.tags <= {"table", "thead", "tbody", "tr", "th", "td", "br"}


def test_card_without_a_recording_has_no_row_for_one():
    card = claims.record("C13", {"gap_90": about(1)}, CONTEXT)
    assert [heading for heading, _ in card.rows()] == ["textbook", "your machine", "verdict"]


def test_the_sentence_names_what_was_measured_and_on_which_machine():
    claims.record("C13", {"gap_90": about(1)}, CONTEXT)
    card = claims.record("C13", {"gap_95": about(9)}, "ResNet-18")
    (machine,) = card.machines
    assert machine.startswith(processor()) and torch.__version__ in machine
    assert card.sentence == f"{card.verdict.text}. That is for {CONTEXT}; ResNet-18; on {machine}"
    assert card.sentence in dict(card.rows())["verdict"][0]


def test_the_source_of_what_was_read_is_shown_and_is_not_this_machine():
    source = "recorded on gpu-t4"
    card = claims.record("C13", {"gap_90": about(1)}, CONTEXT, source)
    assert progress.read()["claims"]["C13"]["gap_90"]["source"] == source
    assert f"target: at most 2 points, ✔ reached, {source}" in repr(card)
    assert card.machines == ()
    assert card.sentence == f"{card.verdict.text}. That is for {CONTEXT}; {source}"
    card = claims.record("C13", {"gap_95": about(9)}, CONTEXT)
    assert card.sources == {"gap_90": source, "gap_95": ""}
    assert card.sentence.endswith(f"for {CONTEXT}; on {card.machines[0]}; {source}")
    assert [source in line for line in repr(card).splitlines() if "95 % sparsity, sm" in line] == [
        False
    ]
    card = claims.record("C13", {"gap_90": about(1)}, CONTEXT)  # now measured here
    assert card.sources["gap_90"] == "" and source not in repr(card)


def test_a_recording_leaves_out_what_was_read_from_it(monkeypatch):
    with_recording(monkeypatch, gap_90=entry(1.5), gap_95=entry(1.7))
    card = claims.record("C13", {"gap_90": about(1)}, CONTEXT, "recorded on another")
    assert quantities(card.recorded["cpu-2core"]) == ["gap_90", "gap_95"]
    card = claims.record("C13", {"gap_90": about(1)}, CONTEXT, "recorded on cpu-2core")
    assert quantities(card.recorded["cpu-2core"]) == ["gap_95"]
    card = claims.record("C13", {"gap_95": about(1)}, CONTEXT, "recorded on cpu-2core")
    assert card.recorded == {}
    assert [heading for heading, _ in card.rows()] == ["textbook", "your machine", "verdict"]


def test_a_recording_leaves_out_what_is_the_very_same_measurement(monkeypatch):
    claims.record("C13", {"gap_90": about(1)}, CONTEXT)
    mine = progress.read()["claims"]["C13"]["gap_90"]
    with_recording(monkeypatch, gap_90=mine, gap_95=entry(1.7))
    card = claims.record("C13", {"gap_90_no_finetune": about(9)}, CONTEXT)
    assert quantities(card.recorded["cpu-2core"]) == ["gap_95"]
    with_recording(monkeypatch, gap_90=mine | {"date": "2020-02-02"})
    [card] = [card for card in claims.cards() if card.claim.id == "C13"]
    assert quantities(card.recorded["cpu-2core"]) == ["gap_90"]


def test_a_recording_leaves_out_what_its_machine_read_elsewhere(monkeypatch):
    with_recording(
        monkeypatch,
        gap_90=entry(1.5, source="recorded on gpu"),
        gap_90_no_finetune=entry(9, source="recorded on gpu-t4"),
        gap_95=entry(1.5, source="recorded on cpu-2core"),
        gap_95_resnet18=entry(1.7),
    )
    [card] = [card for card in claims.cards() if card.claim.id == "C13"]
    assert quantities(card.recorded["cpu-2core"]) == ["gap_95", "gap_95_resnet18"]


def test_a_recording_without_intervals_is_left_out_unless_it_is_exact(monkeypatch):
    measured = {
        "C13": {"gap_90": {"value": 1.7}},
        "C14": {"masked_bytes_ratio": {"value": 1.0}, "masked_time_ratio": {"value": 1.0}},
    }
    monkeypatch.setattr(claims, "recordings", lambda: {"cpu-2core": {"claims": measured}})
    found = {card.claim.id: card.recorded for card in claims.cards()}
    assert found["C13"] == {}
    assert quantities(found["C14"]["cpu-2core"]) == ["masked_bytes_ratio"]


def quantities(verdict):
    """The quantities that were measured."""
    return [one.test.quantity for one in verdict.outcomes if one.state is not None]


def test_every_kind_of_verdict_has_its_mark():
    measured = ({}, {"high": 1}, {"high": 9}, {"high": 2}, {"high": 1, "low": 0})
    kinds = {
        claims.judge(BOTH, {name: about(value) for name, value in each.items()}).kind
        for each in measured
    }
    assert kinds == set(claims.MARKS)


def test_marks_and_states_are_distinct_without_their_colours():
    assert len({sign for sign, _ in claims.MARKS.values()}) == len(claims.MARKS)
    assert len({colour for _, colour in claims.MARKS.values()}) == len(claims.MARKS)
    assert len(set(claims.STATES.values())) == len(claims.STATES)


# Publishing


def test_published_measurements_come_back_as_a_recording(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("PRUNING_COURSE_STATE", str(tmp_path / "state"))
    claims.record("C13", {"gap_90": about(1)}, CONTEXT)
    path = claims.publish("cpu-2core", tmp_path)
    assert path == tmp_path / "recordings" / "cpu-2core" / "claims.json"
    recording = claims.recordings(tmp_path)["cpu-2core"]
    assert claims.estimates(SHIPPED["C13"], recording["claims"]["C13"]) == {"gap_90": about(1)}
    assert set(recording["machine"]) == set(claims.machine()) and recording["date"]


@pytest.mark.parametrize("name", ["", "../up", "A", "a b", "-a"])
def test_publish_refuses_a_name_that_is_no_folder_name(name, tmp_path):
    claims.record("C13", {"gap_90": about(1)}, CONTEXT)
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
