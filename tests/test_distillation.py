"""Initial weights, objective and time of the students are right, and a recording can be resumed."""

from contextlib import nullcontext
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from interruptions import each, interrupt

from course_lib.deployment import forms
from course_lib.deployment.pruned_file import load
from course_lib.experiments import distillation, recordings
from course_lib.experiments.distillation import (
    BEST,
    METHODS,
    SEEDS,
    TIME_FRACTIONS,
    Setting,
    StudentRun,
    epochs_for,
    untrained,
)
from course_lib.experiments.recorder import record
from course_lib.experiments.recordings import network_file
from course_lib.experiments.registry import EXPERIMENTS
from course_lib.measuring import timing
from course_lib.networks import models
from course_lib.networks.data import Images, Splits
from course_lib.networks.models import SmallResNet
from course_lib.networks.recipes import RECIPES, Recipe
from course_lib.networks.training import accuracy, to_teacher
from course_lib.teaching.exercises import EXERCISES

EPOCHS, LR, COST = 10, 0.1, 2.5


def whole_network() -> SmallResNet:
    """A network of which an eighth is still a network, with the initial weights of its recipe."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SmallResNet(widths=(8, 16), depth=1).eval()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A network and a recipe that train in no time, instead of those of small_resnet."""
    monkeypatch.setattr(distillation, "load_trained", lambda name: whole_network())
    monkeypatch.setitem(models.ARCHITECTURES, "small_resnet", whole_network)
    monkeypatch.setitem(RECIPES, "small_resnet", Recipe("small_resnet", EPOCHS, LR, must_reach=0))


@pytest.fixture(scope="module")
def pictures() -> Splits:
    """4 steps per epoch, 40 in all."""
    random = torch.Generator().manual_seed(0)
    images, labels = torch.randn(650, 1, 28, 28, generator=random), torch.arange(650) % 10
    sizes = (520, 70, 60)
    return Splits(*map(Images, images.split(sizes), labels.split(sizes)))


def says(images: torch.Tensor) -> torch.Tensor:
    """A teacher whose logits are the first pixels."""
    return images[:, 0, 0, :10]


@pytest.fixture
def setting(pictures) -> Setting:
    return Setting("small_resnet", pictures, says, COST)


@pytest.fixture
def fits(monkeypatch):
    """The options of every training run; nothing is trained."""
    seen = []
    monkeypatch.setattr(distillation, "fit", lambda model, data, **how: seen.append(how))
    return seen


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten() for value in model.parameters()])


# --- one student --------------------------------------------------------------------------------


def test_methods_are_every_start_with_every_goal():
    assert sorted(METHODS.values()) == sorted(product((False, True), repeat=2))


def test_all_students_have_the_same_shape():
    shapes = [
        [value.shape for value in untrained(method, "small_resnet", 0).parameters()]
        for method in METHODS
    ]
    assert shapes == [shapes[0]] * 4
    assert shapes[0][0] == (1, 1, 3, 3)  # the stem has one channel of 8


def test_students_begin_with_what_pruning_leaves_or_with_fresh_weights():
    begun = {method: weights(untrained(method, "small_resnet", 0)) for method in METHODS}
    assert torch.equal(begun["scratch"], begun["distilled"])
    assert torch.equal(begun["pruned"], begun["pruned and distilled"])
    assert not torch.equal(begun["pruned"], begun["scratch"])
    inherited = whole_network().stem.weight.flatten(1)
    assert any(torch.equal(row, begun["pruned"][: len(row)]) for row in inherited)


def test_fresh_weights_depend_on_the_seed():
    first, again, second = (weights(untrained("scratch", "small_resnet", s)) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="'taught'; choose from scratch, distilled"):
        untrained("taught", "small_resnet", 0)


@pytest.mark.parametrize("method", METHODS)
def test_equal_time_is_fewer_epochs_with_a_teacher(method, setting, fits):
    run = StudentRun(method, 0.2, 1)
    distillation.train(run, setting)
    expected = 0.2 * EPOCHS / (COST if "distilled" in method else 1)
    assert epochs_for(run, setting) == pytest.approx(expected)
    (told,) = fits
    assert told["epochs"] == pytest.approx(expected)
    assert (told["optimizer"].lr, told["seed"]) == (LR, 1)


@pytest.mark.parametrize("method", METHODS)
def test_only_distilled_students_use_the_teacher(method, setting, fits):
    distillation.train(StudentRun(method, 0.2, 1), setting)
    images, labels = setting.data.train.images[:8], setting.data.train.labels[:8]
    other = setting._replace(teacher=lambda images: says(images).flip(1))
    distillation.train(StudentRun(method, 0.2, 1), other)
    first, second = (told["objective"](images[:, 0, 1, :10], images, labels) for told in fits)
    assert bool(first != second) == ("distilled" in method)


def test_no_budget_is_no_training(setting, fits):
    student = distillation.train(StudentRun("pruned", 0.0, 0), setting)
    assert not fits and torch.equal(
        weights(student), weights(untrained("pruned", "small_resnet", 0))
    )


def test_a_point_is_the_run_and_its_quality(setting):
    run = StudentRun("distilled", 0.2, 0)
    student = distillation.train(run, setting)
    found = distillation.point(run, student, setting)
    assert {key: found[key] for key in run._fields} == run._asdict()
    assert found["epochs"] == pytest.approx(0.2 * EPOCHS / COST, abs=0.001)
    assert found["accuracy"] == pytest.approx(accuracy(student, setting.data.test), abs=0.01)
    assert found["validation"] == pytest.approx(
        accuracy(student, setting.data.validation), abs=0.01
    )


def test_a_run_says_what_it_is():
    assert str(StudentRun("pruned", 0.05, 2)) == "pruned, 5 % of the time, seed 2"


# --- what a teacher costs -----------------------------------------------------------------------


@pytest.mark.slow
def test_the_cost_of_a_slow_teacher_is_measured(pictures, monkeypatch):
    """A clock that only training moves: one second per run, two more per call of the teacher."""
    now = [0.0]
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    train = distillation._fit

    def fit(*arguments, **how) -> None:
        now[0] += 1
        train(*arguments, **how)

    def slow(images: torch.Tensor) -> torch.Tensor:
        now[0] += 2
        return says(images)

    monkeypatch.setattr(distillation, "_fit", fit)
    looks = round(0.5 * (len(pictures.train.labels) // 128))
    how = {"epochs": 0.5, "rounds": 6, "seconds": 0}
    found = distillation.teacher_cost("small_resnet", pictures.train, slow, **how)
    assert found["ratio"] == pytest.approx(1 + 2 * looks)
    assert found["interval"] == [found["ratio"]] * 2
    assert (found["labels"], found["rounds"]) == (2, 6)


# --- the recording ------------------------------------------------------------------------------


def test_the_plan_is_one_seed_after_the_other_and_the_longest_of_the_others_last():
    runs = distillation.plan()
    assert len(runs) == len(set(runs)) == len(SEEDS) * len(TIME_FRACTIONS) * len(METHODS)
    whole, last = runs[:20], runs[-8:]
    assert {run.seed for run in whole} == {0}
    assert [run.time_fraction for run in whole] == sorted(run.time_fraction for run in whole)
    assert {(run.seed, run.time_fraction) for run in last} == {(1, 1.0), (2, 1.0)}
    between = [run.seed for run in runs[20:-8]]
    assert between == sorted(between) and {run.time_fraction for run in whole} == {
        0,
        0.01,
        0.05,
        0.2,
        1,
    }


@pytest.fixture
def quick(monkeypatch, pictures):
    """One budget, two seeds, a given cost and measurement; returns the networks measured."""
    small = EXPERIMENTS["distillation"]._replace(models=("small_resnet",))
    monkeypatch.setitem(EXPERIMENTS, "distillation", small)
    seen = []
    timed = {"median": 1, "quartiles": [1, 1], "rounds": 6, "speedup": 1, "interval": [1, 1]}
    row = {"network": "student", "form": "int8", "bytes": 9, "parameters": 27, "macs": 850}
    row |= {"one thread": timed, "two threads": timed}
    row |= {"accuracy": 9, "interval": [8, 10], "validation": 9}

    def measured(networks, *_):
        seen.append(networks)
        return {"points": [row], "packed": []}

    cost = {"ratio": COST, "interval": [2, 3], "rounds": 6, "labels": 1, "teacher": 2.5}
    monkeypatch.setattr(distillation, "TIME_FRACTIONS", (0.1,))
    monkeypatch.setattr(distillation, "SEEDS", (0, 1))
    monkeypatch.setattr(distillation, "fashion_mnist", lambda: pictures)
    monkeypatch.setattr(distillation, "teacher_cost", lambda *_: cost)
    monkeypatch.setattr(forms, "teacher", lambda *_: nullcontext(says))
    monkeypatch.setattr(forms, "measure", measured)
    return seen


def recorded(path) -> dict:
    return recordings.read(path, "distillation")


def finalists(path) -> list[dict]:
    return recordings.points(recorded(path), time_fraction=0.1, seed=0)


@pytest.mark.slow
def test_a_recording_holds_every_run_and_one_measurement(quick, tmp_path):
    path = record("distillation", "small_resnet", tmp_path / "a.json")
    found = recorded(path)
    runs = [StudentRun(one["method"], one["time_fraction"], one["seed"]) for one in found["points"]]
    assert runs == distillation.plan() and len(runs) == 8
    assert found["cost"]["ratio"] == COST and len(found["deployed"]) == 1
    assert [[*networks] for networks in quick] == [["teacher", "student"]]


@pytest.mark.slow
def test_the_best_student_is_kept(quick, pictures, tmp_path):
    path = record("distillation", "small_resnet", tmp_path / "a.json")
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["best.pruned"]
    student, about = load(network_file(path, BEST))
    best = max(finalists(path), key=lambda one: one["validation"])
    assert about["step"] == str(StudentRun(best["method"], 0.1, 0))
    assert accuracy(student, pictures.test) == pytest.approx(best["accuracy"], abs=2)


def test_a_complete_recording_makes_nothing(quick, fits, tmp_path):
    path = record("distillation", "small_resnet", tmp_path / "a.json")
    before, trained = path.read_text(), len(fits)
    record("distillation", "small_resnet", path)
    assert path.read_text() == before and len(fits) == trained and len(quick) == 1


INTERRUPTIONS = [(distillation, "save", 0), (forms, "measure", 0)]
INTERRUPTIONS += [(recordings, "write", after) for after in (0, 3, 8)]


@pytest.mark.slow
@pytest.mark.parametrize(("owner", "name", "after"), each(INTERRUPTIONS))
def test_an_interrupted_recording_ends_as_an_uninterrupted_one(
    quick, tmp_path, monkeypatch, owner, name, after
):
    whole = record("distillation", "small_resnet", tmp_path / "whole.json")
    parts = tmp_path / "parts.json"
    with monkeypatch.context() as patched:
        interrupt(patched, owner, name, after)
        with pytest.raises(KeyboardInterrupt):
            record("distillation", "small_resnet", parts)
    record("distillation", "small_resnet", parts)
    assert parts.read_text() == whole.read_text()
    first, second = (load(network_file(path, BEST))[0].state_dict() for path in (whole, parts))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
def test_a_lost_student_is_made_and_measured_again(quick, tmp_path):
    path = record("distillation", "small_resnet", tmp_path / "a.json")
    before = sorted(map(str, recorded(path)["points"]))
    network_file(path, BEST).unlink()
    record("distillation", "small_resnet", path)
    assert sorted(map(str, recorded(path)["points"])) == before
    assert load(network_file(path, BEST)) and len(quick) == 2


# --- reading a recording ------------------------------------------------------------------------


def half_done() -> dict:
    """Two seeds from scratch, the later first, and one seed of a pruned student."""
    rows = (("scratch", 0.2, 1, 81.0), ("scratch", 0.2, 0, 80.0), ("pruned", 0.2, 0, 82.5))
    names = ("method", "time_fraction", "seed", "accuracy")
    return {"points": [dict(zip(names, row, strict=True)) for row in rows]}


def test_accuracies_are_in_the_order_of_their_seeds():
    assert distillation.by_seed(half_done(), "scratch", 0.2) == [80.0, 81.0]
    assert distillation.by_seed(half_done(), "distilled", 0.2) == []


def test_a_gain_is_that_of_the_same_seed():
    assert distillation.gains(half_done(), "pruned", "scratch", 0.2) == [2.5]


@pytest.mark.parametrize("case", EXERCISES["10.3"].cases())
def test_the_learner_builds_the_epochs_of_equal_time(case, setting, monkeypatch):
    time_fraction, epochs, cost = case
    recipe = RECIPES["small_resnet"]._replace(epochs=epochs)
    monkeypatch.setitem(RECIPES, "small_resnet", recipe)
    found = epochs_for(StudentRun("distilled", time_fraction, 0), setting._replace(cost=cost))
    assert found == pytest.approx(EXERCISES["10.3"].reference(*case))


def test_the_learner_builds_the_objective():
    for student, teacher, labels, *how in EXERCISES["10.2"].cases():
        objective = to_teacher(lambda images, logits=teacher: logits, *how)
        expected = EXERCISES["10.2"].reference(student, teacher, labels, *how)
        assert float(objective(student, student, labels)) == pytest.approx(
            float(expected), abs=1e-6
        )
