"""Each step does what its fields say, and a saved network computes the same as before."""

import pytest
import torch
from torch import nn

from course_lib.deployment.pruned_file import FileError, load, pack, save
from course_lib.deployment.quantization import symmetric
from course_lib.deployment.storage import share_weights
from course_lib.experiments import steps as made_in_steps
from course_lib.experiments.steps import CompressionStep, apply_step, fake_quantized, weight_sharing
from course_lib.networks import models
from course_lib.networks.data import Images, Splits
from course_lib.networks.training import SGD, Rewound, to_labels
from course_lib.pruning import masks


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
    step = CompressionStep("dense", channels=0.5, weights=0.8, codebook_size=7)
    made = apply_step(step, network, "small_resnet", pictures, to_labels)
    widths = {name: len(weight) for name, weight in masks.prunable(made).items()}
    assert widths["blocks.0.conv1.weight"] == 8 and widths["head.weight"] == 10
    assert masks.sparsity(made) == pytest.approx(0.8, abs=1e-3)
    assert max(values_of(made)) <= 7
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("values", [0, 7])
def test_what_was_zero_stays_zero_through_training_and_later_steps(network, pictures, values):
    first = apply_step(
        CompressionStep("dense", weights=0.9), network, "small_resnet", pictures, to_labels
    )
    second = apply_step(
        CompressionStep("first", codebook_size=values, epoch_fraction=0.2),
        first,
        "small_resnet",
        pictures,
        to_labels,
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

    monkeypatch.setattr(made_in_steps, "fit", noted)
    step = CompressionStep("dense", channels=0.5, epoch_fraction=0.25)
    apply_step(step, network, "small_resnet", pictures, to_labels, progress=iter)
    (options,) = asked
    assert options["epochs"] == 3 and options["schedule"] == Rewound(12)
    assert options["optimizer"] == SGD(0.2)
    assert options["objective"] is to_labels and options["watch"].progress is iter


def test_rounding_first_prunes_the_rounded_weights(network, pictures):
    made = apply_step(
        CompressionStep("dense", fake_quantized=True), network, "small_resnet", pictures, to_labels
    )
    for name, weight in masks.prunable(network).items():
        assert torch.equal(masks.prunable(made)[name], symmetric(weight.detach(), 8, 0).values)


def test_rounding_leaves_the_network_alone(network):
    before = network.stem.weight.clone()
    assert not torch.equal(fake_quantized(network, 4).stem.weight, before)
    assert torch.equal(network.stem.weight, before)


# --- trainable shared values --------------------------------------------------------------------


def test_shared_values_are_those_of_k_means_until_they_train():
    layer = nn.Linear(30, 20)
    expected = share_weights(layer.weight.detach(), 5)
    with weight_sharing(layer, 5):
        assert torch.equal(layer.weight, expected)
    assert torch.equal(layer.weight, expected) and isinstance(layer.weight, nn.Parameter)
    assert "weight" in dict(layer.named_parameters())


def test_a_table_of_embeddings_shares_values_too():
    torch.manual_seed(0)
    table = nn.Embedding(30, 20)
    with weight_sharing(table, 5):
        table(torch.arange(9)).square().sum().backward()
    assert len(table.weight.unique()) == 5 and isinstance(table.weight, nn.Parameter)


def test_the_gradient_of_a_value_is_the_sum_of_those_of_its_weights():
    torch.manual_seed(0)
    layer, inputs = nn.Linear(6, 4), torch.randn(3, 6)
    with torch.no_grad():
        layer.weight[0] = 0
    quantized = share_weights(layer.weight.detach(), 3).requires_grad_()
    (inputs @ quantized.T + layer.bias).square().sum().backward()
    with weight_sharing(layer, 3):
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
    with weight_sharing(layer, 4):
        before = layer.weight.detach().clone()
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, weight_decay=0.1)
        layer(torch.randn(8, 30)).square().sum().backward()
        optimizer.step()
    assert not torch.equal(layer.weight, before)
    assert len(layer.weight[~zeros].unique()) == 4 and bool((layer.weight[zeros] == 0).all())


def test_an_impossible_number_of_values_leaves_the_network_as_it_was(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match="got 1000"), weight_sharing(network, 1000):
        pass
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


# --- files --------------------------------------------------------------------------------------


def test_a_saved_network_computes_what_it_computed(network, pictures, tmp_path):
    step = CompressionStep("dense", channels=0.5, weights=0.8, codebook_size=7)
    made = apply_step(step, network, "small_resnet", pictures, to_labels)
    file = save(made, "small_resnet", tmp_path / "small.pruned", command="made up")
    found, about = load(file)
    assert about == {"network": "small_resnet", "command": "made up"}
    assert same(found, made.half().float()) and not found.training
    assert masks.sparsity(found) == masks.sparsity(made)


def test_a_smaller_network_has_a_smaller_file(network, pictures, tmp_path):
    sizes = []
    for step in (
        CompressionStep("dense"),
        CompressionStep("dense", weights=0.9),
        CompressionStep("dense", weights=0.9, codebook_size=15),
    ):
        made = apply_step(step, network, "small_resnet", pictures, to_labels)
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
