"""Each step does what it says, and a saved network computes what it computed."""

from contextlib import nullcontext

import pytest
import torch
from interruptions import interrupt
from torch import nn

from course_lib import compression, masks, models, recordings
from course_lib.__main__ import main
from course_lib.compression import (
    PLANS,
    Step,
    load,
    measure,
    network_file,
    rounded,
    save,
    sharing,
    take,
)
from course_lib.data import Images, Splits
from course_lib.pruned_file import FileError, pack
from course_lib.quantization import symmetric
from course_lib.storage import shared
from course_lib.training import to_labels


@pytest.fixture(scope="module")
def pictures() -> Splits:
    images = torch.randn(256, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    part = Images(images, torch.arange(256) % 10)
    return Splits(part, part, part)


@pytest.fixture
def network() -> nn.Module:
    return models.load_trained("small_resnet")


def values_of(model: nn.Module) -> list[int]:
    return [len(weight[weight != 0].unique()) for weight in masks.prunable(model).values()]


def same(first: nn.Module, second: nn.Module) -> bool:
    images = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return torch.allclose(first(images), second(images), atol=1e-5)


# --- steps --------------------------------------------------------------------------------------


def test_a_step_removes_channels_then_weights_then_values(network, pictures):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    step = Step("dense", channels=0.5, weights=0.8, values=7)
    made = take(step, network, "small_resnet", pictures, to_labels)
    widths = {name: len(weight) for name, weight in masks.prunable(made).items()}
    assert widths["blocks.0.conv1.weight"] == 8 and widths["head.weight"] == 10
    assert masks.sparsity(made) == pytest.approx(0.8, abs=1e-3)
    assert max(values_of(made)) <= 7
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("values", [0, 7])
def test_what_was_zero_stays_zero_through_training_and_later_steps(network, pictures, values):
    first = take(Step("dense", weights=0.9), network, "small_resnet", pictures, to_labels)
    second = take(
        Step("first", values=values, budget=0.2), first, "small_resnet", pictures, to_labels
    )
    for name, kept in masks.masks_of(first).items():
        weight = masks.prunable(second)[name]
        assert bool((weight[~kept] == 0).all())
        assert not torch.equal(weight, masks.prunable(first)[name])
    assert not second.training


def test_a_step_trains_as_the_recipe_says(network, pictures, monkeypatch):
    asked = []

    def noted(model, data, **options):
        asked.append(options)
        return model

    monkeypatch.setattr(compression, "fit", noted)
    step = Step("dense", channels=0.5, budget=0.25)
    take(step, network, "small_resnet", pictures, to_labels, progress=iter)
    (options,) = asked
    assert options["epochs"] == 3 and options["of_epochs"] == 12 and options["lr"] == 0.2
    assert options["objective"] is to_labels and options["progress"] is iter


def test_the_teacher_is_the_trained_network(network, pictures):
    with compression.teacher("small_resnet", pictures) as logits, torch.no_grad():
        images = pictures.test.images[:8]
        near = (logits(images) - network(images)).abs().max()
    assert near < 0.1 * network(images).abs().max()


def test_rounding_first_prunes_the_rounded_weights(network, pictures):
    made = take(Step("dense", rounded=True), network, "small_resnet", pictures, to_labels)
    for name, weight in masks.prunable(network).items():
        assert torch.equal(masks.prunable(made)[name], symmetric(weight.detach(), 8, 0).values)


def test_rounding_leaves_the_network_alone(network):
    before = network.stem.weight.clone()
    assert not torch.equal(rounded(network, 4).stem.weight, before)
    assert torch.equal(network.stem.weight, before)


# --- few values that learn ----------------------------------------------------------------------


def test_shared_values_are_those_of_k_means_until_they_train():
    layer = nn.Linear(30, 20)
    expected = shared(layer.weight.detach(), 5)
    with sharing(layer, 5):
        assert torch.equal(layer.weight, expected)
    assert torch.equal(layer.weight, expected) and isinstance(layer.weight, nn.Parameter)
    assert "weight" in dict(layer.named_parameters())


def test_the_gradient_of_a_value_is_the_sum_of_those_of_its_weights():
    torch.manual_seed(0)
    layer, inputs = nn.Linear(6, 4), torch.randn(3, 6)
    with torch.no_grad():
        layer.weight[0] = 0
    quantized = shared(layer.weight.detach(), 3).requires_grad_()
    (inputs @ quantized.T + layer.bias).square().sum().backward()
    with sharing(layer, 3):
        layer(inputs).square().sum().backward()
        values = layer.parametrizations.weight.original
        for value, gradient in zip(values, values.grad, strict=True):
            expected = quantized.grad[quantized == value].sum()
            assert float(gradient) == pytest.approx(float(expected), rel=1e-4)


def test_after_a_training_step_weights_still_share_and_zeros_are_zero():
    torch.manual_seed(0)
    layer = nn.Linear(30, 20)
    with torch.no_grad():
        layer.weight[layer.weight.abs() < 0.1] = 0
    zeros = layer.weight == 0
    with sharing(layer, 4):
        before = layer.weight.detach().clone()
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, weight_decay=0.1)
        layer(torch.randn(8, 30)).square().sum().backward()
        optimizer.step()
    assert not torch.equal(layer.weight, before)
    assert len(layer.weight[~zeros].unique()) == 4 and bool((layer.weight[zeros] == 0).all())


def test_an_impossible_number_of_values_leaves_the_network_as_it_was(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match="got 1000"), sharing(network, 1000):
        pass
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


# --- files --------------------------------------------------------------------------------------


def test_a_saved_network_computes_what_it_computed(network, pictures, tmp_path):
    step = Step("dense", channels=0.5, weights=0.8, values=7)
    made = take(step, network, "small_resnet", pictures, to_labels)
    file = save(made, "small_resnet", tmp_path / "small.pruned", command="made up")
    found, about = load(file)
    assert about == {"network": "small_resnet", "command": "made up"}
    assert same(found, made.half().float()) and not found.training
    assert masks.sparsity(found) == masks.sparsity(made)


def test_a_smaller_network_has_a_smaller_file(network, pictures, tmp_path):
    sizes = []
    for step in (Step("dense"), Step("dense", weights=0.9), Step("dense", weights=0.9, values=15)):
        made = take(step, network, "small_resnet", pictures, to_labels)
        sizes.append(save(made, "small_resnet", tmp_path / "a.pruned").stat().st_size)
    assert sizes[0] > 4 * sizes[1] > 8 * sizes[2]


@pytest.mark.parametrize(
    ("tensors", "about"),
    [
        ({"weight": torch.ones(3)}, {"network": "small_resnet"}),
        ({"weight": torch.ones(3)}, {"network": "unknown"}),
        ({"weight": torch.ones(3)}, {}),
    ],
)
def test_another_file_is_refused(tmp_path, tensors, about):
    file = pack(tensors, tmp_path / "other.pruned", about)
    with pytest.raises(FileError, match=r"other\.pruned holds no network of this course"):
        load(file)


def test_a_network_with_tensors_that_do_not_fit_is_refused(network, tmp_path):
    tensors = network.state_dict() | {"head.weight": torch.ones(10, 70)}
    file = pack(tensors, tmp_path / "wide.pruned", {"network": "small_resnet"})
    with pytest.raises(FileError, match="holds no network"):
        load(file)


# --- the recording ------------------------------------------------------------------------------


def test_each_network_of_a_plan_is_made_of_an_earlier_one():
    for plan in PLANS.values():
        known = ["dense"]
        for name, step in plan.items():
            assert step.source in known
            known.append(name)


def test_both_orders_get_the_same_training():
    first, second = (PLANS["resnet18"][name] for name in ("pruned first", "quantized first"))
    assert second == first._replace(rounded=True)


@pytest.fixture(scope="module")
def measured(pictures):
    """What a recording would hold of small_resnet and of its half, measured in the runtime."""
    whole = models.load_trained("small_resnet")
    half = take(Step("dense", channels=0.5), whole, "small_resnet", pictures, to_labels)
    return measure({"dense": whole, "half": half}, "small_resnet", pictures, rounds=6, seconds=0)


def test_every_network_is_measured_in_every_form(measured):
    found = {(point["network"], point["form"]): point for point in measured["points"]}
    assert [*found] == [
        (name, form) for name in ("dense", "half") for form in ("float32", "int8", "packed")
    ]
    for name in ("dense", "half"):
        exact, quantized, packed = (found[name, form] for form in compression.FORMS)
        assert exact["bytes"] > 2 * max(quantized["bytes"], packed["bytes"]) > 0
        assert exact["macs"] == quantized["macs"] == packed["macs"]
        assert packed["accuracy"] == exact["accuracy"]
        assert packed["one thread"] == exact["one thread"]
    assert found["dense", "int8"]["bytes"] > 2 * found["half", "int8"]["bytes"]
    assert found["dense", "float32"]["macs"] > 3 * found["half", "float32"]["macs"]


def test_speed_ups_are_over_the_first_network_in_float32(measured):
    first, second, *_ = measured["points"]
    for label in compression.THREADS:
        assert first[label]["speedup"] == 1 and first[label]["interval"] == [1, 1]
        assert second[label]["speedup"] != 1 and second[label]["median"] > 0


def test_a_packed_network_is_near_its_bound(measured):
    for entry, point in zip(measured["packed"], measured["points"][2::3], strict=True):
        assert entry["bytes"] == point["bytes"]
        assert entry["bound"] < entry["bytes"] < 1.2 * entry["bound"]  # a small one: 60 tensors
        assert entry["packing"] > 1 and entry["unpacking"] > 1


PLAN = {
    "half": Step("dense", channels=0.5),
    "few": Step("half", weights=0.5, values=7, budget=0.1),
}


@pytest.fixture
def quick(monkeypatch, pictures, measured):
    """A plan of two networks, which are made, and whose measurements are known."""
    made = []

    def noted(step, *arguments, **options):
        made.append(step)
        return take(step, *arguments, **options)

    monkeypatch.setitem(PLANS, "small_resnet", PLAN)
    monkeypatch.setattr(compression, "take", noted)
    monkeypatch.setattr(compression, "measure", lambda *_: measured)
    monkeypatch.setattr(compression, "fashion_mnist", lambda: pictures)
    monkeypatch.setattr(
        compression, "teacher", lambda *_: nullcontext(lambda images: images[:, 0, 0, :10])
    )
    return made


def recorded(path) -> dict:
    return recordings.read(path, "compression")


def test_a_recording_keeps_its_networks_beside_it(quick, measured, tmp_path):
    path = compression.record("small_resnet", tmp_path / "a.json")
    assert quick == [*PLAN.values()]
    found = recorded(path)
    assert found["points"] == measured["points"] and found["packed"] == measured["packed"]
    assert found["networks"] == [{"name": name} | step._asdict() for name, step in PLAN.items()]
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == ["few.pruned", "half.pruned"]
    few, about = load(network_file(path, "few"))
    assert max(values_of(few)) <= 7 and "budget" in about["step"]


def test_a_complete_recording_makes_nothing(quick, tmp_path):
    path = compression.record("small_resnet", tmp_path / "a.json")
    before = path.read_text()
    compression.record("small_resnet", path)
    assert len(quick) == 2 and path.read_text() == before


INTERRUPTIONS = [(compression, "fit", 0), (compression, "measure", 0)]
INTERRUPTIONS += [(recordings, "write", after) for after in (0, 1, 2)]


@pytest.mark.parametrize(("owner", "name", "after"), INTERRUPTIONS)
def test_an_interrupted_recording_ends_as_an_uninterrupted_one(
    quick, tmp_path, monkeypatch, owner, name, after
):
    whole = compression.record("small_resnet", tmp_path / "whole.json")
    parts = tmp_path / "parts.json"
    with monkeypatch.context() as patched:
        interrupt(patched, owner, name, after)
        with pytest.raises(KeyboardInterrupt):
            compression.record("small_resnet", parts)
    compression.record("small_resnet", parts)
    assert parts.read_text() == whole.read_text()
    for step in PLAN:
        first, second = (load(network_file(path, step))[0].state_dict() for path in (whole, parts))
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_damaged_network_is_set_aside_and_made_anew(quick, tmp_path, capsys):
    path = compression.record("small_resnet", tmp_path / "a.json")
    file = network_file(path, "few")
    damaged = file.read_bytes()[:-1]
    file.write_bytes(damaged)
    compression.record("small_resnet", path)
    assert [step.values for step in quick] == [0, 7, 7] and load(file)
    (aside,) = file.parent.glob("few.aside-*.pruned")
    assert aside.read_bytes() == damaged and aside.name in capsys.readouterr().out


def test_a_network_of_another_plan_is_set_aside(quick, tmp_path, monkeypatch):
    path = compression.record("small_resnet", tmp_path / "a.json")
    monkeypatch.setitem(PLANS, "small_resnet", PLAN | {"few": PLAN["few"]._replace(values=3)})
    compression.record("small_resnet", path)
    assert max(values_of(load(network_file(path, "few"))[0])) <= 3
    assert [one["values"] for one in recorded(path)["networks"]] == [0, 3]
    assert len([*network_file(path, "few").parent.glob("few*")]) == 2


def test_the_command_records(monkeypatch, capsys, tmp_path):
    asked = []
    monkeypatch.setattr(compression, "record", lambda *given: asked.append(given) or given[1])
    out = tmp_path / "a.json"
    assert main(["record", "compression", "--model", "resnet18", "--out", str(out)]) == 0
    assert asked == [("resnet18", out)] and f"wrote {out}" in capsys.readouterr().out
