"""The interview questions are complete, backed by claims, answerable and not repeated."""

import itertools
import json
import math
import re
import shutil
from collections import Counter
from statistics import fmean

import pytest
import yaml

from course_lib import PROJECT
from course_lib.experiments import recordings
from course_lib.measuring import estimates
from course_lib.teaching import claims, progress, questions
from course_lib.teaching.questions import BankError, Estimate, NumberFinder

BANK = questions.load()
ESTIMATES = [question for question in BANK.values() if question.estimate]


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNING_COURSE_STATE", str(tmp_path / "state"))


@pytest.fixture(scope="module")
def finder():
    return NumberFinder(machine="nobody's")


# --- the bank -----------------------------------------------------------------------------------


def test_there_are_enough_of_every_kind_for_every_lesson():
    kinds = Counter(question.kind for question in BANK.values())
    assert kinds.keys() == questions.KINDS.keys() and min(kinds.values()) >= 10
    lessons = Counter(question.lesson for question in BANK.values())
    assert {*lessons} == {one for claim in claims.load().values() for one in claim.lessons}
    assert min(lessons.values()) >= 10 and fmean(lessons.values()) >= 12


def test_a_file_is_called_after_the_lesson_of_its_questions():
    for file in (PROJECT / "data" / "interview").glob("*.yaml"):
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert file.stem == f"lesson{content['lesson']}"


def test_every_topic_and_difficulty_and_claim_is_asked_about():
    assert {question.topic for question in BANK.values()} == {*questions.TOPICS}
    assert {question.difficulty for question in BANK.values()} == {1, 2, 3, 4, 5}
    assert {question.claim for question in BANK.values()} == claims.load().keys()


@pytest.mark.parametrize("question", BANK.values(), ids=lambda question: question.id)
def test_its_numbers_are_found_and_nothing_is_left_to_fill_in(question, finder):
    full = questions.filled(question, finder)
    assert not questions.placeholders(full.texts())
    assert not any(re.search(r"nan|inf\b|[{}]", text) for text in full.texts())


@pytest.mark.parametrize("question", ESTIMATES, ids=lambda question: question.id)
def test_an_estimate_has_a_finite_answer_that_is_right_and_is_told(question, finder):
    truth = finder.number(question.estimate.value).value
    assert math.isfinite(truth)
    assert question.estimate.right(truth, truth)
    assert not question.estimate.right(5 * truth + 100, truth)
    assert "value" in questions.placeholders([question.answer])


def test_most_estimates_are_answered_from_recordings(finder):
    origins = [finder.number(question.estimate.value).origin for question in ESTIMATES]
    typed = [origin for origin in origins if origin == "by arithmetic"]
    assert len(ESTIMATES) >= 30 and len(typed) < len(ESTIMATES) / 2


def test_answers_can_be_said_in_a_minute():
    for question in BANK.values():
        assert len(question.answer.split()) <= 110, question.id
        assert len(question.question.split()) <= 60, question.id


#: Words that say nothing about what a question is about.
IDLE = "a an and are as at be by do does for from how i in is it its not of on or our than that \
the then they this to was we what when which why with you your"


def words(text):
    return {*re.findall(r"[a-z0-9]+", text.lower())} - {*IDLE.split()}


def alike(one, other):
    """The share of words that two texts have in common, from 0 to 1 (Jaccard)."""
    one, other = words(one), words(other)
    return len(one & other) / len(one | other)


def test_no_two_questions_are_nearly_the_same():
    pairs = itertools.combinations(BANK.values(), 2)
    close = [(a.id, b.id) for a, b in pairs if alike(a.question, b.question) > 0.5]
    assert close == []
    pairs = itertools.combinations(BANK.values(), 2)
    assert [(a.id, b.id) for a, b in pairs if alike(a.answer, b.answer) > 0.5] == []


def test_the_check_for_repetition_would_find_one():
    assert alike("Why is a mask not faster?", "Why is a mask no faster at all?") > 0.3
    assert alike("Why is a mask not faster?", "How many heads can go?") == 0


# --- invalid files ------------------------------------------------------------------------------

GOOD = {
    "id": "05-one",
    "kind": "recall",
    "topic": "speed",
    "difficulty": 2,
    "claim": "C06",
    "question": "Why?",
    "answer": "Because.",
    "strong": ["one", "two"],
    "wrong": {"says": "No.", "because": "Yes."},
}
LOOK_UP = {"number": 3}
ESTIMATE = {"kind": "estimate", "estimate": {"value": LOOK_UP, "unit": "x", "factor": 2}}


@pytest.fixture
def bank(tmp_path):
    """Writes a bank of one file and reads it."""
    folder = tmp_path / "data" / "interview"
    folder.mkdir(parents=True)

    def read(*entries, lesson="05", name="mine.yaml"):
        content = {"lesson": lesson, "questions": [*entries]}
        (folder / name).write_text(yaml.safe_dump(content))
        return questions.load(folder.parent)

    return read


def without(key):
    return {name: value for name, value in GOOD.items() if name != key}


def test_a_good_question_is_read(bank):
    read = bank(GOOD, GOOD | ESTIMATE | {"id": "05-two", "answer": "{value}!"})
    assert [*read] == ["05-one", "05-two"] and read["05-one"].lesson == "05"
    assert read["05-two"].estimate == Estimate(LOOK_UP, "x", factor=2)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (without("answer"), r"mine\.yaml, question 05-one: 'answer' is a required"),
        (without("id"), r"question number 1: 'id' is a required"),
        (GOOD | {"kind": "riddle"}, r"05-one, kind: 'riddle' is not one of"),
        (GOOD | {"difficulty": 6}, r"05-one, difficulty: 6 is greater"),
        (GOOD | {"strong": ["one"]}, "05-one, strong: "),
        (GOOD | {"question": " "}, "05-one, question: "),
        (GOOD | {"wrong": {"says": "No."}}, r"05-one, wrong: 'because' is a required"),
        (GOOD | {"colour": "blue"}, "'colour' was unexpected"),
        (GOOD | {"kind": "estimate"}, "'estimate' is a required"),
        (GOOD | {"estimate": ESTIMATE["estimate"]}, "05-one: "),
        (GOOD | {"id": "06-one"}, "05-one|06-one: its id must begin with its lesson, 05"),
        (GOOD | {"claim": "C99"}, "there is no claim 'C99'"),
        (GOOD | {"claim": "C01"}, "claim C01 is tested in lesson 01, not in 05"),
        (GOOD | {"answer": "{times} times"}, r"no look-up for \['times'\]"),
        (GOOD | {"numbers": {"times": LOOK_UP}}, r"no text uses the numbers \['times'\]"),
        (GOOD | {"numbers": {"times": {"number": "3"}}}, "05-one, numbers, times, number: "),
        (GOOD | {"numbers": {"times": {"experiment": "magic", "field": "x"}}}, "'magic' is not"),
        ("a text", "question number 1: 'a text' is not of type 'object'"),
    ],
)
def test_a_wrong_question_is_named_with_its_field(bank, entry, said):
    with pytest.raises(BankError, match=said):
        bank(entry)


def test_an_id_is_used_once(bank):
    bank(GOOD, name="first.yaml")
    with pytest.raises(BankError, match=r"mine\.yaml: the id '05-one' is used twice"):
        bank(GOOD)


def test_a_file_that_is_no_yaml_and_a_missing_bank_are_told(bank, tmp_path):
    with pytest.raises(BankError, match=r"contains no questions.*git checkout"):
        questions.load(tmp_path)
    bank(GOOD)
    (tmp_path / "data" / "interview" / "mine.yaml").write_text("lesson: [")
    with pytest.raises(BankError, match=r"mine\.yaml cannot be read"):
        questions.load(tmp_path / "data")


# --- look-ups -----------------------------------------------------------------------------------

PLACE = {
    "experiment": "drop_recovery",
    "model": "small_resnet",
    "at": "pruned",
    "where": {"granularity": "weights", "amount": 0.9},
    "field": "accuracy",
}


@pytest.fixture
def two_machines(tmp_path):
    """The course's recording, and the learner's own, in which the accuracy is 50."""
    name = "drop_recovery-small_resnet.json"
    there = PROJECT / "data" / "recordings" / "cpu-2core" / name
    for machine in ("cpu-2core", "mine"):
        folder = tmp_path / "recordings" / machine
        folder.mkdir(parents=True)
        shutil.copy(there, folder)
    own = json.loads(there.read_text())
    for entry in own["pruned"]:
        entry["accuracy"] = 50.0
    (tmp_path / "recordings" / "mine" / name).write_text(json.dumps(own))
    return tmp_path


def test_the_learners_own_recording_comes_first(two_machines):
    mine = NumberFinder(two_machines, "mine").number(PLACE)
    assert mine == (50.0, "recorded on mine")
    other = NumberFinder(two_machines, "another").number(PLACE)
    assert other.origin == "recorded on cpu-2core" and other.value != 50.0


def test_both_parts_of_a_ratio_come_from_one_machine(two_machines):
    # If the own recording lacks a number, both sides of the comparison come from the course's.
    path = two_machines / "recordings" / "mine" / "drop_recovery-small_resnet.json"
    own = json.loads(path.read_text())
    own["pruned"] = [entry for entry in own["pruned"] if entry["amount"] != 0.9]
    path.write_text(json.dumps(own))
    ratio = PLACE | {"over": PLACE | {"where": {"granularity": "weights", "amount": 0.5}}}
    found = NumberFinder(two_machines, "mine").number(ratio)
    there = NumberFinder(two_machines, "another").number(ratio)
    assert found == there and found.origin == "recorded on cpu-2core"


def test_a_measured_claim_of_the_learner_comes_first(finder):
    look_up = {"claim": "C02", "quantity": "gap_without_finetune"}
    assert finder.number(look_up).origin == "recorded on cpu-2core"
    claims.record("C02", {"gap_without_finetune": estimates.Estimate(12.5, 12, 13)}, "a test")
    assert NumberFinder().number(look_up) == (12.5, "as you measured it")


def test_seeds_count_as_their_mean(finder):
    what = {"granularity": "weights", "amount": 0.98, "method": "one-shot"}
    what |= {"schedule": "rewound", "epoch_fraction": 0.2}
    recording = recordings.load("drop_recovery", "small_resnet")[recordings.COURSE]
    found = [point["accuracy"] for point in recordings.points(recording, **what)]
    value = finder.number(PLACE | {"at": "points", "where": what}).value
    assert len(found) == 3 and value == pytest.approx(sum(found) / 3)


def test_a_look_up_compares_and_converts(finder):
    assert finder.number({"number": 6, "over": {"number": 4}}).value == 1.5
    assert finder.number({"number": 6, "minus": {"number": 4}}) == (2, "by arithmetic")
    assert finder.number({"number": 6, "over": PLACE}).origin == "recorded on cpu-2core"
    dense = PLACE | {"field": "dense.accuracy"}
    del dense["at"], dense["where"]
    assert finder.number(dense).value == pytest.approx(92.27)


@pytest.mark.parametrize(
    "change",
    [
        {"field": "colour"},
        {"at": "nowhere"},
        {"where": {"amount": 0.123}},
        {"where": {"colour": 1}},
        {"model": "resnet99"},
        {"device": "cuda"},
        {"over": {"number": 0}},
    ],
)
def test_a_look_up_that_finds_nothing_is_told(finder, change):
    with pytest.raises(BankError, match="No recording has"):
        finder.number(PLACE | change)


def test_numbers_are_shown_with_three_digits():
    shown = [questions.shown(value) for value in (0.9391, 57.48, 44729757, 2.0, -0.71, 109)]
    assert shown == ["0.939", "57.5", "44,700,000", "2", "-0.71", "109"]


def test_tolerances():
    by_factor, by_points = Estimate({}, "x", factor=2), Estimate({}, "points", within=1.5)
    assert [by_factor.right(guess, 4) for guess in (1.9, 2, 8, 8.1, 0, -4)] == [
        *(False, True, True, False, False, False)
    ]
    assert by_points.right(-0.5, 1) and not by_points.right(2.6, 1)
    assert by_factor.tolerance == "within a factor of 2"
    assert by_points.tolerance == "within 1.5 points"


def test_reading_the_bank_leaves_the_progress_alone(tmp_path):
    questions.load()
    assert progress.read()["interview"] == {}
    assert not (tmp_path / "state").exists()
