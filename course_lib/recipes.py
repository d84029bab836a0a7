"""The recipes that trained the networks of the course: ``python -m course_lib.recipes NAME``.

A recipe is a handful of numbers. It trains from a seed, measures every epoch on the validation
pictures, keeps the best epoch, reads the test pictures once, and writes fp16 safetensors.
"""

import argparse
import copy
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

from course_lib.bars import bar, say
from course_lib.data import DATA, Splits, fashion_mnist, record_checksum
from course_lib.models import build, save_weights
from course_lib.training import accuracy, fit, interval


class Recipe(NamedTuple):
    """How one network is trained, and the test accuracy (percent) that it must reach."""

    network: str
    epochs: int
    lr: float
    must_reach: float
    seed: int = 0


RECIPES = {
    "small_resnet": Recipe("small_resnet", epochs=12, lr=0.2, must_reach=91.5),
    "resnet18": Recipe("resnet18", epochs=12, lr=0.1, must_reach=93.0),
}


def train(recipe: Recipe, data: Splits) -> tuple[torch.nn.Module, dict[str, str]]:
    """Train by ``recipe``; return the network of the best validation epoch and facts about it."""
    torch.manual_seed(recipe.seed)
    model = build(recipe.network)
    best = {"epoch": 0, "validation": -1.0, "weights": None}
    start = time.perf_counter()

    def keep_best(epoch: int, loss: float) -> None:
        validation = accuracy(model, data.validation)
        seconds = time.perf_counter() - start
        say(
            f"epoch {epoch:2d} of {recipe.epochs}  loss {loss:.3f}  "
            f"validation {validation:.2f} %  {seconds:.0f} s"
        )
        if validation > best["validation"]:
            weights = copy.deepcopy(model.state_dict())
            best.update(epoch=epoch, validation=validation, weights=weights)

    fit(
        model,
        data.train,
        epochs=recipe.epochs,
        lr=recipe.lr,
        seed=recipe.seed,
        after_epoch=keep_best,
        progress=bar,
    )
    model.load_state_dict(best["weights"])
    model.half().float()  # what the file will hold: the test reads the weights as they are shipped
    test = accuracy(model, data.test)
    return model, {
        "command": f"python -m course_lib.recipes {recipe.network}",
        "epoch": str(best["epoch"]),
        "validation_accuracy": f"{best['validation']:.2f}",
        "test_accuracy": f"{test:.2f}",
        "torch": torch.__version__,
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line: train one network, write its weights, exit 1 if it misses its target."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.recipes", description=__doc__)
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--out", type=Path, default=None, help="where to write the weights")
    chosen = parser.parse_args(arguments)
    recipe = RECIPES[chosen.name]
    data = fashion_mnist()
    model, about = train(recipe, data)
    low, high = interval(float(about["test_accuracy"]), len(data.test.labels))
    print(
        f"test accuracy {about['test_accuracy']} % ({low:.1f} to {high:.1f}), "
        f"epoch {about['epoch']} chosen on validation"
    )
    name = f"weights/{chosen.name}.safetensors"
    path = chosen.out or DATA / name
    save_weights(model, path, about)
    if chosen.out is None:
        record_checksum(name)
    print(f"wrote {path}")
    if float(about["test_accuracy"]) < recipe.must_reach:
        print(f"The recipe must reach {recipe.must_reach} %.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
