"""Each network is made once, all are measured in the runtime, and a recording can be resumed."""

from contextlib import nullcontext

import pytest
import torch
from interruptions import each, interrupt
from torch import nn

from course_lib.deployment import forms, pruned_file
from course_lib.deployment.forms import measure
from course_lib.deployment.pruned_file import FileError, load
from course_lib.experiments import compression, recordings, steps
from course_lib.experiments.compression import PLANS
from course_lib.experiments.recorder import record
from course_lib.experiments.recordings import network_file
from course_lib.experiments.registry import EXPERIMENTS
from course_lib.experiments.steps import CompressionStep, apply_step
from course_lib.measuring.quality import Evaluation
from course_lib.networks import models
from course_lib.networks.data import DataError, Images, Splits, fashion_mnist
from course_lib.networks.training import accuracy, to_labels
from course_lib.pruning import masks


@pytest.fixture(scope="module")
def pictures() -> Splits:
    images = torch.randn(256, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    part = Images(images, torch.arange(256) % 10)
    return Splits(part, part, part)


def most_values(model: nn.Module) -> int:
    """The largest number of different nonzero values in a layer of ``model``."""
    return max(len(weight[weight != 0].unique()) for weight in masks.prunable(model).values())


@pytest.mark.slow
def test_the_teacher_is_the_trained_network(pictures):
    network, images = models.load_trained("small_resnet"), pictures.test.images[:8]
    with forms.teacher("small_resnet", pictures) as logits, torch.no_grad():
        near = (logits(images) - network(images)).abs().max()
    assert near < 0.1 * network(images).abs().max()


def test_each_network_of_a_plan_is_made_of_an_earlier_one():
    for plan in PLANS.values():
        known = ["dense"]
        for name, step in plan.items():
            assert step.source in known
            known.append(name)


def test_both_orders_get_the_same_training():
    first, second = (PLANS["resnet18"][name] for name in ("pruned first", "quantized first"))
    assert second == first._replace(fake_quantized=True)


@pytest.fixture(scope="module")
def measured(pictures):
    """The recorded measurements of small_resnet and of its half, in the runtime."""
    whole = models.load_trained("small_resnet")
    half = apply_step(
        CompressionStep("dense", channels=0.5), whole, "small_resnet", pictures, to_labels
    )
    return measure({"dense": whole, "half": half}, "small_resnet", pictures, rounds=6, seconds=0)


def test_every_network_is_measured_in_every_form(measured):
    found = {(point["network"], point["form"]): point for point in measured["points"]}
    assert [*found] == [
        (name, form) for name in ("dense", "half") for form in ("float32", "int8", "packed")
    ]
    for name in ("dense", "half"):
        exact, quantized, packed = (found[name, form] for form in forms.FORMS)
        assert exact["bytes"] > 2 * max(quantized["bytes"], packed["bytes"]) > 0
        assert exact["macs"] == quantized["macs"] == packed["macs"]
        assert packed["accuracy"] == exact["accuracy"]
        assert packed["one thread"] == exact["one thread"]
    assert found["dense", "int8"]["bytes"] > 2 * found["half", "int8"]["bytes"]
    assert found["dense", "float32"]["macs"] > 3 * found["half", "float32"]["macs"]


def test_speed_ups_are_over_the_first_network_in_float32(measured):
    first, second, *_ = measured["points"]
    for label in forms.THREADS:
        assert first[label]["speedup"] == 1 and first[label]["interval"] == [1, 1]
        assert second[label]["speedup"] != 1 and second[label]["median"] > 0


def test_a_packed_network_is_near_its_bound(measured):
    for entry, point in zip(measured["packed"], measured["points"][2::3], strict=True):
        assert entry["bytes"] == point["bytes"]
        assert entry["bound"] < entry["bytes"] < 1.2 * entry["bound"]  # a small one: 60 tensors
        assert entry["packing"] > 1 and entry["unpacking"] > 1


PLAN = {
    "half": CompressionStep("dense", channels=0.5),
    "few": CompressionStep("half", weights=0.5, codebook_size=7, epoch_fraction=0.1),
}


@pytest.fixture
def quick(monkeypatch, pictures, measured):
    """A plan of two networks that are really made; their measurements are given."""
    small = EXPERIMENTS["compression"]._replace(models=("small_resnet",))
    monkeypatch.setitem(EXPERIMENTS, "compression", small)
    made = []

    def noted(step, *arguments, **options):
        made.append(step)
        return apply_step(step, *arguments, **options)

    monkeypatch.setitem(PLANS, "small_resnet", PLAN)
    monkeypatch.setattr(compression, "apply_step", noted)
    monkeypatch.setattr(compression, "measure", lambda *_: measured)
    monkeypatch.setattr(compression, "fashion_mnist", lambda: pictures)
    monkeypatch.setattr(
        compression, "teacher", lambda *_: nullcontext(lambda images: images[:, 0, 0, :10])
    )
    return made


def recorded(path) -> dict:
    return recordings.read(path, "compression")


def test_a_recording_keeps_its_networks_beside_it(quick, measured, tmp_path):
    path = record("compression", "small_resnet", tmp_path / "a.json")
    assert [step for step in quick if step.epoch_fraction] == [PLAN["few"]]
    found = recorded(path)
    assert found["points"] == measured["points"] and found["packed"] == measured["packed"]
    for entry, (name, step) in zip(found["networks"], PLAN.items(), strict=True):
        assert entry.items() >= {"name": name, **step._asdict()}.items()
    half = found["networks"][0]
    assert half["before"].keys() == half["recalibrated"].keys() == Evaluation.__annotations__.keys()
    assert half["before"] != half["recalibrated"]
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == ["few.pruned", "half.pruned"]
    few, about = load(network_file(path, "few"))
    assert most_values(few) <= 7 and "epoch_fraction" in about["step"]


def test_a_complete_recording_makes_nothing(quick, tmp_path):
    path = record("compression", "small_resnet", tmp_path / "a.json")
    before = path.read_text()
    record("compression", "small_resnet", path)
    assert len(quick) == 4 and path.read_text() == before


INTERRUPTIONS = [(steps, "fit", 0), (compression, "measure", 0)]
INTERRUPTIONS += [(recordings, "write", after) for after in (0, 1, 2)]


@pytest.mark.slow
@pytest.mark.parametrize(("owner", "name", "after"), each(INTERRUPTIONS))
def test_an_interrupted_recording_ends_as_an_uninterrupted_one(
    quick, tmp_path, monkeypatch, owner, name, after
):
    whole = record("compression", "small_resnet", tmp_path / "whole.json")
    parts = tmp_path / "parts.json"
    with monkeypatch.context() as patched:
        interrupt(patched, owner, name, after)
        with pytest.raises(KeyboardInterrupt):
            record("compression", "small_resnet", parts)
    record("compression", "small_resnet", parts)
    assert parts.read_text() == whole.read_text()
    for name in PLAN:
        first, second = (load(network_file(path, name))[0].state_dict() for path in (whole, parts))
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_damaged_network_is_set_aside_and_made_anew(quick, tmp_path, capsys):
    path = record("compression", "small_resnet", tmp_path / "a.json")
    file = network_file(path, "few")
    damaged = file.read_bytes()[:-1]
    file.write_bytes(damaged)
    record("compression", "small_resnet", path)
    assert [step.codebook_size for step in quick] == [0, 0, 7, 7, 7, 7] and load(file)
    (aside,) = file.parent.glob("few.aside-*.pruned")
    assert aside.read_bytes() == damaged and aside.name in capsys.readouterr().out


def test_a_network_of_another_plan_is_set_aside(quick, tmp_path, monkeypatch):
    path = record("compression", "small_resnet", tmp_path / "a.json")
    monkeypatch.setitem(
        PLANS, "small_resnet", PLAN | {"few": PLAN["few"]._replace(codebook_size=3)}
    )
    record("compression", "small_resnet", path)
    assert most_values(load(network_file(path, "few"))[0]) <= 3
    assert [one["codebook_size"] for one in recorded(path)["networks"]] == [0, 3]
    assert len([*network_file(path, "few").parent.glob("few*")]) == 2


# --- what is shipped, and the challenge ---------------------------------------------------------


def test_a_network_that_is_not_there_is_refused():
    with pytest.raises(DataError, match="huge"):
        recordings.recorded_file("huge")


@pytest.fixture(scope="module")
def packed(tmp_path_factory, pictures):
    half = apply_step(
        CompressionStep("dense", channels=0.5, codebook_size=7),
        models.load_trained("small_resnet"),
        "small_resnet",
        pictures,
        to_labels,
    )
    return pruned_file.save(half, "small_resnet", tmp_path_factory.mktemp("a") / "half.pruned")


@pytest.mark.slow
def test_a_score_is_that_of_the_packed_network(packed, pictures):
    found = compression.score(packed, pictures)
    assert found.bytes == packed.stat().st_size
    assert found.accuracy == pytest.approx(accuracy(load(packed)[0], pictures.test), abs=3)
    assert found.milliseconds > 0 and not found.passed
    assert str(found).startswith("does not count: ") and found.form in str(found)


@pytest.mark.parametrize(
    ("size", "accuracy", "passed"),
    [(199_999, 91.0, True), (200_000, 95.0, False), (1, 90.99, False)],
)
def test_the_challenge_asks_for_both(size, accuracy, passed):
    assert compression.Score(size, accuracy, 1.0, "int8").passed == passed


@pytest.mark.slow
def test_the_faster_form_that_is_accurate_enough_counts(packed, pictures, monkeypatch):
    known = {"yours.onnx": 92.0, "yours-int8.onnx": 80.0}
    monkeypatch.setattr(compression.runtime, "accuracy", lambda file, data: known[file.name])
    assert compression.score(packed, pictures).form == "float32"


def test_a_damaged_entry_is_refused(packed, pictures, tmp_path):
    damaged = tmp_path / "damaged.pruned"
    damaged.write_bytes(packed.read_bytes()[:-1])
    with pytest.raises(FileError, match="damaged"):
        compression.score(damaged, pictures)


def test_the_networks_of_the_course_reach_their_targets():
    recording = recordings.load("compression", "resnet18")[recordings.COURSE]
    found = {(point["network"], point["form"]): point for point in recording["points"]}
    dense, run, stored = (
        found[key] for key in (("dense", "float32"), ("channels", "int8"), ("few values", "packed"))
    )
    assert run["one thread"]["speedup"] >= 15 and dense["bytes"] >= 40 * run["bytes"]
    assert dense["bytes"] >= 100 * stored["bytes"]
    assert min(run["accuracy"], stored["accuracy"]) >= dense["accuracy"] - 1
    assert all(entry["bytes"] <= 1.05 * entry["bound"] for entry in recording["packed"])


@pytest.mark.sweep
@pytest.mark.parametrize("name", PLANS["resnet18"])
def test_each_network_of_the_course_is_as_accurate_as_it_was_recorded(name):
    recording = recordings.load("compression", "resnet18")[recordings.COURSE]
    (point,) = recordings.points(recording, network=name, form="packed")
    file, few = (
        recordings.recorded_file(name),
        Images(*(part[:500] for part in fashion_mnist().test)),
    )
    assert file.stat().st_size == pytest.approx(point["bytes"], rel=0.01)  # it says how it was made
    assert accuracy(load(file)[0], few) == pytest.approx(point["accuracy"], abs=3.5)
