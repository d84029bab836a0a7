"""Each step does what its fields say, and a saved network computes the same as before."""

import pytest
import sentences
import torch
from torch import nn
from torch.nn import functional as F

from course_lib.deployment import pruned_file
from course_lib.deployment.pruned_file import FileError, pack
from course_lib.experiments import minilm_steps
from course_lib.experiments.minilm_steps import (
    EncoderStep,
    apply_step,
    in_order,
    least_needed,
    load,
    losses,
    remembering,
)
from course_lib.networks import minilm
from course_lib.networks.minilm import PAD
from course_lib.networks.recipes import MINILM
from course_lib.networks.training import Rewound, to_labels, to_teacher
from course_lib.pruning import encoders, masks
from course_lib.pruning.encoders import Layer


@pytest.fixture
def network(monkeypatch):
    return sentences.network(monkeypatch)


@pytest.fixture
def data():
    return sentences.splits()


def taken(step, network, data, **training):
    return apply_step(
        step, network, data, remembering(network, data.train), lambda _: {}, **training
    )[0]


def tables(model: nn.Module) -> list[torch.Tensor]:
    """All weights of linear layers and of embeddings."""
    kinds = (nn.Linear, nn.Embedding)
    return [layer.weight.detach() for layer in model.modules() if isinstance(layer, kinds)]


# --- steps --------------------------------------------------------------------------------------


def test_a_step_drops_layers_then_heads_and_neurons_then_weights_then_values(network, data):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    step = EncoderStep("dense", layers=1, heads=0.5, neurons=0.75, weights=0.6, codebook_size=5)
    made = taken(step, network, data)
    left = sorted(layer[1:] for layer in encoders.layers(made))
    assert left == [(0, 0, 0), (2, 4, 8), (2, 4, 8)]
    assert masks.sparsity(made) == pytest.approx(0.6, abs=1e-3)
    assert max(len(each[each != 0].unique()) for each in tables(made)) <= 5
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_an_empty_step_changes_nothing(network, data):
    made = taken(EncoderStep("dense"), network, data)
    assert torch.equal(made(data.test.ids), network(data.test.ids)) and not made.training


@pytest.mark.parametrize("values", [0, 7])
def test_what_was_zero_stays_zero_through_training_and_later_steps(network, data, values):
    first = taken(EncoderStep("dense", weights=0.9), network, data)
    second = taken(EncoderStep("first", codebook_size=values, epoch_fraction=0.5), first, data)
    for name, kept in masks.masks_of(first).items():
        weight = masks.prunable(second)[name]
        assert bool((weight[~kept] == 0).all())
        assert not torch.equal(weight, masks.prunable(first)[name])


@pytest.mark.parametrize("distilled", [False, True])
def test_a_step_trains_as_the_recipe_says(network, data, monkeypatch, distilled):
    asked = []
    monkeypatch.setattr(minilm, "fine_tune", lambda *_, **options: asked.append(options))
    taken(
        EncoderStep("dense", heads=0.5, epoch_fraction=0.5, distilled=distilled),
        network,
        data,
        progress=iter,
    )
    (options,) = asked
    assert options["epochs"] == MINILM.epochs / 2
    assert options["lr"] == MINILM.lr and options["schedule"] == Rewound(MINILM.epochs)
    assert (options["objective"] is to_labels) != distilled and options["watch"].progress is iter


def test_a_network_is_measured_before_it_trains(network, data):
    step = EncoderStep("dense", neurons=0.5, codebook_size=3, epoch_fraction=0.5)

    def measured(model):
        return {"logits": model(data.test.ids).detach()}

    made, before = apply_step(step, network, data, remembering(network, data.train), measured)
    untrained, _ = apply_step(step._replace(epoch_fraction=0.0), network, data, None, measured)
    assert torch.equal(before["logits"], untrained(data.test.ids))
    assert not torch.equal(before["logits"], made(data.test.ids))


@pytest.mark.slow
def test_distilling_brings_a_network_near_its_teacher(network, data):
    goal = network(data.test.ids).softmax(1)

    def apart(model: nn.Module) -> float:
        return float((model(data.test.ids).softmax(1) - goal).detach().abs().mean())

    student = taken(EncoderStep("dense", heads=0.5, neurons=0.5), network, data)
    before = apart(student)
    objective = to_teacher(remembering(network, data.train), share=1.0)
    options = {"epochs": 60, "lr": 3e-3, "seed": 0, "objective": objective}
    minilm.fine_tune(student, data.train, **options)
    assert apart(student) < before / 3


def test_a_teacher_recognizes_a_sentence_with_any_padding(network, data):
    teacher = remembering(network, data.train)
    ids = data.train.ids[:5]
    with torch.no_grad():
        for shown in (ids, F.pad(ids, (0, 3), value=PAD), minilm.trimmed(ids[1:3])):
            torch.testing.assert_close(teacher(shown), network(shown))


# --- what is removed ----------------------------------------------------------------------------


def test_the_layers_without_which_the_loss_is_lowest_are_dropped(network, data):
    def without(*dropped: int) -> float:
        smaller = encoders.prune(network, {}, dropped)
        logits = smaller(data.validation.ids).detach()
        return float(F.cross_entropy(logits, data.validation.labels))

    first, second = least_needed(network, 2, data.validation)
    assert without(first) == min(without(number) for number in range(3))
    others = {0, 1, 2} - {first}
    assert without(first, second) == min(without(first, number) for number in others)
    assert least_needed(network, 0, data.validation) == []


def test_a_dropped_layer_is_not_dropped_again(network, data):
    smaller = encoders.prune(network, {}, [1])
    assert minilm_steps.numbers(smaller) == [0, 2]
    assert least_needed(smaller, 1, data.validation)[0] in (0, 2)


def test_losses_are_those_of_the_sentences_in_order(network, data):
    batches = in_order(data.test, 7)
    assert sum(len(labels) for _, labels in batches) == len(data.test.labels)
    lengths = torch.cat([(ids != PAD).sum(1) for ids, _ in batches])
    assert torch.equal(lengths, lengths.sort().values)
    found = losses(network, data.test)
    expected = F.cross_entropy(network(data.test.ids), data.test.labels)
    assert found.shape == data.test.labels.shape
    assert float(found.mean()) == pytest.approx(float(expected.detach()), rel=1e-5)


# --- files --------------------------------------------------------------------------------------


def test_a_saved_network_computes_what_it_computed(network, data, tmp_path):
    step = EncoderStep("dense", layers=1, heads=0.25, neurons=0.5, weights=0.5, codebook_size=7)
    made = taken(step, network, data)
    file = pruned_file.save(made, "minilm", tmp_path / "small.pruned", command="made up")
    found, about = load(file)
    assert about == {"network": "minilm", "command": "made up"} and not found.training
    assert encoders.layers(found) == encoders.layers(made)
    torch.testing.assert_close(found(data.test.ids), made.half().float()(data.test.ids))


def test_a_whole_network_is_stored_too(network, data, tmp_path):
    found, _ = load(pruned_file.save(network, "minilm", tmp_path / "whole.pruned"))
    assert encoders.layers(found)[0] == Layer("bert.encoder.layer.0", 4, 4, 32)
    torch.testing.assert_close(found(data.test.ids), network.half().float()(data.test.ids))


@pytest.mark.parametrize("lost", ["head.weight", "bert.encoder.layer.1.output.dense.bias"])
def test_a_file_that_lacks_a_tensor_is_refused(network, tmp_path, lost):
    tensors = {name: value for name, value in network.state_dict().items() if name != lost}
    file = pack(tensors, tmp_path / "other.pruned", {"network": "minilm"})
    with pytest.raises(FileError, match=r"other\.pruned contains no MiniLM"):
        load(file)


def test_another_network_is_refused(tmp_path):
    file = pack({"weight": torch.ones(3)}, tmp_path / "other.pruned", {"network": "resnet18"})
    with pytest.raises(FileError, match=r"other\.pruned contains no MiniLM"):
        load(file)
