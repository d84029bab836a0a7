"""The recipes that trained the networks of the course: ``python -m course_lib train NAME``.

A recipe is a handful of numbers. Training starts from a seed, measures the validation accuracy of
every epoch, keeps the best epoch, reads the test part once, and writes fp16 safetensors.
"""

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from course_lib.bars import bar, say
from course_lib.files import write_whole
from course_lib.networks import minilm
from course_lib.networks.data import Images, Reviews, Splits, fashion_mnist, movie_reviews
from course_lib.networks.models import build, save_weights
from course_lib.networks.training import SGD, Watch, accuracy, fit


class Recipe(NamedTuple):
    """How one network is trained; its test accuracy, in percent, must reach ``must_reach``."""

    network: str
    epochs: int
    lr: float
    must_reach: float
    seed: int = 0


#: The networks for images.
RECIPES = {
    "small_resnet": Recipe("small_resnet", epochs=12, lr=0.2, must_reach=91.5),
    "small_resnet_1": Recipe("small_resnet_1", epochs=12, lr=0.2, must_reach=91.5, seed=1),
    "small_resnet_2": Recipe("small_resnet_2", epochs=12, lr=0.2, must_reach=91.5, seed=2),
    "resnet18": Recipe("resnet18", epochs=12, lr=0.1, must_reach=93.0),
    "conv_attention": Recipe("conv_attention", epochs=12, lr=0.1, must_reach=91.5),
}

#: The network for sentences, which starts from pretrained weights.
MINILM = Recipe("minilm", epochs=3, lr=5e-5, must_reach=85.0)


class Best:
    """The weights of the epoch with the highest validation accuracy; of equals, the first."""

    def __init__(self, model: nn.Module, epochs: int, validation: Callable[[], float]):
        self.model, self.epochs, self.validation = model, epochs, validation
        self.epoch: float = 0
        self.accuracy = -1.0
        self.weights: dict[str, torch.Tensor] = {}
        self.start = time.perf_counter()

    def note(self, epoch: float, loss: float) -> None:
        """After an epoch: measure, print, and keep the weights if they are the best so far."""
        validation = self.validation()
        seconds = time.perf_counter() - self.start
        say(
            f"epoch {epoch:2.0f} of {self.epochs}  loss {loss:.3f}  "
            f"validation {validation:.2f} %  {seconds:.0f} s"
        )
        if validation > self.accuracy:
            self.epoch, self.accuracy = epoch, validation
            self.weights = copy.deepcopy(self.model.state_dict())

    def restore(self) -> None:
        """Load the best weights, rounded to the precision of the file."""
        self.model.load_state_dict(self.weights)
        self.model.half().float()  # the test accuracy is that of the weights as shipped

    def about(self, recipe: Recipe, validation: float, test: float) -> dict[str, str]:
        """The metadata of the file of weights; accuracies are in percent."""
        return {
            "command": f"python -m course_lib train {recipe.network}",
            "epoch": str(self.epoch),
            "validation_accuracy": f"{validation:.2f}",
            "test_accuracy": f"{test:.2f}",
            "torch": torch.__version__,
        }


def train(recipe: Recipe, data: Splits[Images]) -> tuple[nn.Module, dict[str, str]]:
    """Train on images; return the network of the best validation epoch and its metadata."""
    torch.manual_seed(recipe.seed)
    model = build(recipe.network)
    best = Best(model, recipe.epochs, lambda: accuracy(model, data.validation))
    fit(
        model,
        data.train,
        epochs=recipe.epochs,
        seed=recipe.seed,
        optimizer=SGD(recipe.lr),
        watch=Watch(bar, best.note),
    )
    best.restore()
    return model, best.about(recipe, best.accuracy, accuracy(model, data.test))


def train_minilm(
    recipe: Recipe, data: Splits[Reviews]
) -> tuple[nn.Module, list[str], dict[str, str]]:
    """Fine-tune on sentences, then cut the vocabulary to what the training sentences need.

    Returns the smaller network, its word pieces and its metadata, with the accuracies before the
    cut (``whole_...``) and after it. Validation and test sentences do not influence what is cut.

    Raises:
        PackageError: the package with the pretrained weights is missing or not the expected one.
    """
    torch.manual_seed(recipe.seed)
    network, tokenizer = minilm.pretrained()
    training, validation, test = (minilm.encoded(tokenizer, part) for part in data)
    best = Best(network, recipe.epochs, lambda: minilm.accuracy(network, validation))
    minilm.fine_tune(
        network,
        training,
        epochs=recipe.epochs,
        lr=recipe.lr,
        seed=recipe.seed,
        watch=Watch(bar, best.note),
    )
    best.restore()
    whole = {
        "whole_validation_accuracy": f"{best.accuracy:.2f}",
        "whole_test_accuracy": f"{minilm.accuracy(network, test):.2f}",
    }
    network, tokenizer = minilm.cut_vocabulary(network, tokenizer, data.train.texts)
    measured = [
        minilm.accuracy(network, minilm.encoded(tokenizer, part))
        for part in (data.validation, data.test)
    ]
    return network, minilm.pieces_of(tokenizer), best.about(recipe, *measured) | whole


def make(recipe: Recipe, path: Path) -> tuple[dict[str, str], int, list[Path]]:
    """Train by ``recipe`` and write the weights to ``path``; for sentences, also the vocabulary.

    Returns the metadata of the weights, the number of test examples and the files written.

    Raises:
        PackageError: MiniLM's pretrained weights are missing or not the expected ones.
    """
    if recipe is not MINILM:
        data = fashion_mnist()
        model, about = train(recipe, data)
        save_weights(model, path, about)
        return about, len(data.test.labels), [path]
    reviews = movie_reviews()
    model, pieces, about = train_minilm(recipe, reviews)
    save_weights(model, path, about)
    listing = write_whole(path.with_suffix(".vocabulary.txt"), "\n".join(pieces) + "\n")
    return about, len(reviews.test.labels), [path, listing]
