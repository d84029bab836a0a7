"""Plans are carried out and scored as documented, and no board is lost."""

import json
import re

import pytest
import torch

from course_lib.experiments.recordings import COURSE, load
from course_lib.measuring.timing import compare
from course_lib.networks import models, training
from course_lib.networks.data import Images, Splits
from course_lib.pruning import masks
from course_lib.teaching import capstone
from course_lib.teaching.capstone import Attempt, Limits, Plan, PlanError

LIMITS = Limits(bytes=1000, time=0.1, accuracy=90.0)
MET = Attempt(Plan(), LIMITS, bytes=1000, time=0.1, accuracy=90.0, seconds=3.0)


@pytest.fixture(scope="module")
def pictures() -> Splits:
    images = torch.randn(512, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    part = Images(images, torch.arange(512) % 10)
    return Splits(part, part, part)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"channels": 1.0}, "channels is 1.0; give a number from 0 to below 1."),
        ({"channels": "half"}, "channels is 'half'"),
        ({"weights": -0.1}, "weights is -0.1"),
        ({"epochs": float("nan")}, "epochs is nan; give a number from 0 to below 2."),
        ({"epochs": True}, "epochs is True"),
        ({"int8": 1}, "int8 is 1; say True or False."),
        ({"teacher": "yes"}, "teacher is 'yes'"),
    ],
)
def test_a_wrong_plan_is_refused_before_any_work(wrong, words):
    with pytest.raises(PlanError, match=re.escape(words)):
        capstone.run(Plan()._replace(**wrong), LIMITS, data=None)


def test_limits_come_from_the_seed_and_a_recorded_network_keeps_them():
    points = load("compression", "resnet18")[COURSE]["points"]
    drawn = [capstone.drawn(seed) for seed in range(30)]
    assert drawn == [capstone.drawn(seed) for seed in range(30)] and len(set(drawn)) > 20
    for bytes_, time, accuracy in drawn:
        assert any(
            one["bytes"] <= bytes_
            and 1 / one["one thread"]["speedup"] <= time
            and one["validation"] >= accuracy
            for one in points
            if one["form"] != "packed"
        )
        assert bytes_ < points[0]["bytes"] / 5, "doing nothing is never enough"


# The score


def test_meeting_all_exactly_is_full_marks():
    assert MET.score == 100 and MET.passed
    assert MET._replace(bytes=10, time=0.01, accuracy=99.0).score == 100
    assert "meets every target" in str(MET) and "not met" not in str(MET)


@pytest.mark.parametrize(
    ("change", "part", "worth"),
    [
        ({"bytes": 2000}, "bytes", 0.5),
        ({"time": 0.4}, "time", 0.25),
        ({"accuracy": 89.0}, "accuracy", 0.9),
        ({"accuracy": 10.0}, "accuracy", 0.0),
    ],
)
def test_a_missed_target_costs_its_part_of_a_third(change, part, worth):
    missed = MET._replace(**change)
    assert missed.parts[part] == pytest.approx(worth)
    assert missed.score == pytest.approx(100 * (2 + worth) / 3)
    assert not missed.passed and str(missed).count("not met") == 1


# An attempt


@pytest.fixture(scope="module")
def attempt(pictures):
    """An attempt, the numbers of training steps, and the network that was deployed."""
    plan = Plan(channels=0.875, weights=0.5, int8=True, epochs=0.2)
    steps, made, deployed = [], [], capstone.deployed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            capstone, "deployed", lambda model, *more: made.append(model) or deployed(model, *more)
        )
        patch.setattr(
            capstone, "compare", lambda *what, **_: compare(*what, rounds=6, seconds=0, in_a_row=1)
        )
        found = capstone.run(plan, LIMITS, pictures, lambda each: steps.append(len(each)) or each)
    return found, steps, made[0]


def test_an_attempt_is_trained_and_measured(attempt, pictures):
    found, steps, _ = attempt
    assert steps == [round(0.2 * 12 * (len(pictures.train.labels) // 128))]
    whole = sum(4 * tensor.numel() for tensor in models.load_trained("resnet18").parameters())
    assert 64 * found.bytes < 1.5 * whole, "an eighth of the channels in eight bits"
    assert found.time > 0 and found.seconds > 0
    assert 0 <= found.accuracy <= 100


def test_zeros_stay_zeros_through_the_training(attempt):
    assert masks.sparsity(attempt[2]) == pytest.approx(0.5, abs=0.01)


def test_without_training_batchnorm_is_recalibrated(pictures):
    model = capstone.pruned(Plan(channels=0.9), pictures)
    before = model.bn1.running_mean.clone()
    capstone.train(model, 0.0, pictures, training.to_labels)
    assert not torch.equal(model.bn1.running_mean, before) and not model.training


def test_a_teacher_is_asked_only_where_the_plan_says_so(pictures, monkeypatch):
    asked = []

    def teacher(network, data):
        asked.append(network)
        raise RuntimeError("asked")

    monkeypatch.setattr(capstone.forms, "teacher", teacher)
    with pytest.raises(RuntimeError, match="asked"):
        capstone.run(Plan(channels=0.9, teacher=True), LIMITS, pictures)
    assert asked == ["resnet18"]


@pytest.mark.sweep
def test_the_estimate_is_no_time_without_training_and_more_with_more(pictures):
    assert capstone.estimate(Plan(channels=0.9, epochs=0.0), pictures) == 0
    short, long = (capstone.estimate(Plan(channels=0.9, epochs=e), pictures) for e in (0.2, 1.8))
    assert long > 3 * short > 0


# The board


def test_the_board_keeps_all_attempts_and_ranks_those_within_its_limits(tmp_path):
    worse = MET._replace(bytes=3000)
    cheaper = MET._replace(plan=Plan(epochs=0.1))
    other = MET._replace(limits=LIMITS._replace(bytes=5))
    for each in (worse, MET, other):
        capstone.remember(each, tmp_path)
    assert capstone.remember(cheaper, tmp_path) == [cheaper, MET, worse]
    assert capstone.board(tmp_path, LIMITS) == [cheaper, MET, worse]
    assert capstone.board(tmp_path, other.limits) == [other]
    lines = capstone.table(capstone.board(tmp_path, LIMITS)).splitlines()
    assert len(lines) == 4 and "epochs=0.1" in lines[1] and "3 of 3" in lines[1]


def test_an_empty_board(tmp_path):
    assert capstone.board(tmp_path / "none", LIMITS) == []


ENTRY = json.loads(json.dumps(capstone._written(MET)))


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "3",
        "[3]",
        "[{}]",
        json.dumps([ENTRY | {"bytes": "many"}]),
        json.dumps([ENTRY | {"time": 0}]),
        json.dumps([ENTRY | {"plan": {"channels": 7}}]),
        json.dumps([ENTRY | {"colour": "red"}]),
        "\ufeff[]",
    ],
)
def test_a_damaged_board_is_set_aside_never_overwritten(tmp_path, content, capsys):
    file = capstone.board_file(tmp_path)
    file.write_text(content, encoding="utf-8")
    assert capstone.remember(MET, tmp_path) == [MET]
    (aside,) = tmp_path.glob("capstone.aside-*.json")
    assert aside.read_text(encoding="utf-8") == content
    assert aside.name in capsys.readouterr().out
    assert capstone.board(tmp_path, LIMITS) == [MET]


def test_a_board_that_cannot_be_stored_is_told_and_nothing_breaks(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert capstone.remember(MET, tmp_path / "file") == [MET]
    assert "PRUNING_COURSE_STATE" in capsys.readouterr().out
