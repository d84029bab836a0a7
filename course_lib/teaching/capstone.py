"""The capstone of lesson 12: compress ResNet-18 by a plan, within limits, for a score.

The network of an :class:`Attempt` is actually pruned, trained, quantized and timed. A board keeps
earlier attempts.
"""

import json
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import NamedTuple

from torch import nn

from course_lib.bars import bar, say
from course_lib.deployment import forms, quantization, runtime
from course_lib.deployment.forms import IN_A_ROW, deployed
from course_lib.deployment.runtime import Deployed
from course_lib.experiments import recordings
from course_lib.experiments.recordings import COURSE
from course_lib.experiments.steps import RECALIBRATED_ON, CompressionStep, apply_step
from course_lib.files import write_whole
from course_lib.measuring.timing import compare, round_significant
from course_lib.networks.data import DATA, Images, Splits
from course_lib.networks.models import load_trained, on_device
from course_lib.networks.recipes import RECIPES
from course_lib.networks.training import (
    SGD,
    Objective,
    Watch,
    accuracy,
    fit,
    recalibrate,
    to_labels,
    to_teacher,
)
from course_lib.pruning import masks

NETWORK = "resnet18"

#: Training steps that are timed to estimate the time of all.
TRIED = 5

#: Pictures per training step.
BATCH = 128

#: An attempt so many points below the accuracy limit scores nothing for accuracy.
HOPELESS = 10.0


class Plan(NamedTuple):
    """How to compress the trained network.

    Args:
        channels: the fraction of the channels of every layer to remove.
        weights: the fraction of the remaining weights to set to zero.
        int8: whether to deploy in int8 rather than in float32.
        epochs: the training after pruning, as a fraction of the recipe's epochs.
        teacher: whether to distill from the dense network.
    """

    channels: float = 0.0
    weights: float = 0.0
    int8: bool = True
    epochs: float = 0.2
    teacher: bool = False


class Limits(NamedTuple):
    """The most ``bytes`` and ``time``, and the least ``accuracy``.

    Bytes are those of the file that the runtime reads; time is a fraction of the dense network's.
    Accuracy is in percent, on the validation pictures, because attempts are compared.
    """

    bytes: int
    time: float
    accuracy: float

    def __str__(self) -> str:
        return (
            f"at most {self.bytes / 1000:,.0f} kB and {self.time:.3f} of the dense time, "
            f"at least {self.accuracy:.1f} %"
        )


class Attempt(NamedTuple):
    """The result of a plan, in the units of its limits; ``seconds`` is the training time."""

    plan: Plan
    limits: Limits
    bytes: int
    time: float
    accuracy: float
    seconds: float

    @property
    def parts(self) -> dict[str, float]:
        """The score of each target, from 0 to 1; 1 if it is met.

        Bytes and time: limit over result. Accuracy: 1 minus a tenth for each missing point.
        """
        missing = self.limits.accuracy - self.accuracy
        return {
            "bytes": min(1.0, self.limits.bytes / self.bytes),
            "time": min(1.0, self.limits.time / self.time),
            "accuracy": min(1.0, max(0.0, 1 - missing / HOPELESS)),
        }

    @property
    def score(self) -> float:
        """100 times the mean of its :attr:`parts`."""
        return 100 * fmean(self.parts.values())

    @property
    def passed(self) -> bool:
        """Whether it meets every target."""
        return min(self.parts.values()) == 1

    def __str__(self) -> str:
        lines = [
            _line("bytes", f"{self.bytes:,}", f"at most {self.limits.bytes:,}", self.parts),
            _line("time", f"{self.time:.3f}", f"at most {self.limits.time:.3f}", self.parts),
            _line(
                "accuracy",
                f"{self.accuracy:.2f} %",
                f"at least {self.limits.accuracy:.1f} %",
                self.parts,
            ),
        ]
        verdict = "meets every target" if self.passed else "does not meet every target"
        return "\n".join([*lines, f"score {self.score:.1f} of 100: it {verdict}"])


def _line(name: str, got: str, asked: str, parts: dict[str, float]) -> str:
    met = "met" if parts[name] == 1 else f"not met, {100 * parts[name]:.0f} of 100"
    return f"{name:9s} {got:>12s}   {asked:20s} {met}"


class PlanError(ValueError):
    """A plan that cannot be carried out."""


def checked(plan: Plan) -> Plan:
    """``plan``, if it can be carried out.

    Raises:
        PlanError: which value is wrong, and what to do.
    """
    for name, most in (("channels", 1.0), ("weights", 1.0), ("epochs", 2.0)):
        value = getattr(plan, name)
        if type(value) not in (int, float) or not 0 <= value < most:
            raise PlanError(f"{name} is {value!r}; give a number from 0 to below {most:g}.")
    for name in ("int8", "teacher"):
        if type(getattr(plan, name)) is not bool:
            raise PlanError(f"{name} is {getattr(plan, name)!r}; say True or False.")
    return plan


def drawn(seed: int, root: Path = DATA) -> Limits:
    """Random limits, by ``seed``, that a network of the course's recording meets with a margin.

    Raises:
        RecordingError: the recording is damaged.
    """
    points = recordings.load("compression", NETWORK, root)[COURSE]["points"]
    narrow = [one for one in points if one["macs"] < points[0]["macs"] and one["form"] != "packed"]
    draw = random.Random(seed)
    one = draw.choice(narrow)
    return Limits(
        bytes=1000 * math.ceil(draw.uniform(1.1, 1.6) * one["bytes"] / 1000),
        time=math.ceil(1000 * draw.uniform(1.2, 1.6) / one["one thread"]["speedup"]) / 1000,
        accuracy=math.floor(10 * (one["validation"] - draw.uniform(0.2, 1.2))) / 10,
    )


# --- an attempt ---------------------------------------------------------------------------------


def run(
    plan: Plan,
    limits: Limits,
    data: Splits,
    progress: Callable[[Iterable], Iterable] = bar,
) -> Attempt:
    """Carry out ``plan`` and measure the result: bytes, time against the dense network, accuracy.

    Prints an estimate of the training time before it trains.

    Raises:
        PlanError: the plan cannot be carried out.
    """
    model, whole = pruned(plan, data), load_trained(NETWORK)
    say(_right_after(model, data))
    with _objective(plan, data) as objective:
        say(f"Training will take about {estimate(plan, data, objective):.0f} s.")
        start = time.perf_counter()
        train(model, plan.epochs * RECIPES[NETWORK].epochs, data, objective, progress)
        seconds = time.perf_counter() - start
    with TemporaryDirectory() as folder:
        form = "int8" if plan.int8 else "float32"
        mine = deployed(model, "yours", data, Path(folder))[f"yours, {form}"]
        dense = quantization.export(whole, Path(folder) / "dense.onnx", data.test.images[:2])
        return Attempt(
            plan,
            limits,
            bytes=mine.stat().st_size,
            time=round_significant(time_beside(dense, mine, data)),
            accuracy=round(runtime.accuracy(mine, data.validation), 2),
            seconds=round(seconds, 1),
        )


def _right_after(model: nn.Module, data: Splits) -> str:
    """The accuracy before any training in words, as it is and with BatchNorm recalibrated."""
    few = Images(*(tensor[:1000] for tensor in data.validation))
    stale = accuracy(model, few)
    new = accuracy(recalibrate(deepcopy(model), data.train.images[:RECALIBRATED_ON]), few)
    return f"Right after pruning: {stale:.1f} %, with BatchNorm recalibrated {new:.1f} %."


def time_beside(dense: Path, mine: Path, data: Splits) -> float:
    """The time of ``mine`` per picture, as a fraction of that of ``dense``, timed in turns."""
    runs = {"dense": Deployed(dense), "yours": Deployed(mine)}
    found = compare(runs, data.test.images[:1], rounds=60, seconds=4, in_a_row=IN_A_ROW)
    return 1 / found.speedup("yours", over="dense").value


def pruned(plan: Plan, data: Splits) -> nn.Module:
    """The trained network after the pruning of ``plan``, not retrained.

    Raises:
        PlanError: the plan cannot be carried out.
    """
    channels, weights, *_ = checked(plan)
    step = CompressionStep("dense", channels=channels, weights=weights)
    return apply_step(step, load_trained(NETWORK), NETWORK, data, to_labels)


def train(
    model: nn.Module,
    epochs: float,
    data: Splits,
    objective: Objective,
    progress: Callable[[Iterable], Iterable] = iter,
) -> None:
    """Train ``model`` in place for ``epochs``; weights that are zero stay zero.

    The recipe's whole learning-rate schedule is compressed into ``epochs``. With few channels left,
    that recovers more than its end (:func:`course_lib.experiments.distillation.train`). Without
    training, BatchNorm is recalibrated.
    """
    if not epochs:
        recalibrate(model, data.train.images[:RECALIBRATED_ON])
        return
    with masks.enforce_masks(on_device(model), masks.masks_of(model)):
        recipe = RECIPES[NETWORK]
        fit(
            model,
            data.train,
            epochs=epochs,
            seed=recipe.seed,
            optimizer=SGD(recipe.lr, batch_size=BATCH),
            objective=objective,
            watch=Watch(progress),
        )
    model.cpu()


def estimate(plan: Plan, data: Splits, objective: Objective = to_labels) -> float:
    """The seconds that the training of ``plan`` will take, estimated from a few steps.

    Raises:
        PlanError: the plan cannot be carried out.
    """
    model, steps_per_epoch = pruned(plan, data), len(data.train.labels) // BATCH
    for _ in range(2):  # the first run is a warm-up
        start = time.perf_counter()
        train(model, TRIED / steps_per_epoch, data, objective)
        seconds = time.perf_counter() - start
    return plan.epochs * RECIPES[NETWORK].epochs * steps_per_epoch * seconds / TRIED


@contextmanager
def _objective(plan: Plan, data: Splits) -> Iterator[Objective]:
    """The training loss of ``plan``: from labels, or from a teacher as well."""
    if not plan.teacher:
        yield to_labels
        return
    with forms.teacher(NETWORK, data) as logits:
        yield to_teacher(logits)


# --- the board ----------------------------------------------------------------------------------


def remember(attempt: Attempt, folder: Path) -> list[Attempt]:
    """Add ``attempt`` to the board in ``folder``; return all for its limits, the best first.

    A damaged board is set aside. If the board cannot be stored, a message says so and the lesson
    goes on.
    """
    from filelock import FileLock

    file = board_file(folder)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock"), timeout=10):
            attempts = [*_read(file), attempt]
            write_whole(file, json.dumps([*map(_written, attempts)], indent=1) + "\n")
    except OSError as error:
        say(
            f"The board cannot be stored in {file.parent} ({error}). Make that folder writable, or "
            "set the environment variable PRUNING_COURSE_STATE to a folder that is."
        )
        attempts = [attempt]
    return _ranked(attempts, attempt.limits)


def board(folder: Path, limits: Limits) -> list[Attempt]:
    """All attempts for ``limits`` so far, the best first.

    The best has the highest score and, of equal ones, the fewest epochs.
    """
    return _ranked(_read(board_file(folder)), limits)


def board_file(folder: Path) -> Path:
    """The file of the board in ``folder``."""
    return Path(folder) / "capstone.json"


def table(attempts: Iterable[Attempt]) -> str:
    """The board as text, one attempt per line."""
    lines = ["place   score  met       kB    time  accuracy   plan"]
    for place, one in enumerate(attempts, start=1):
        met = sum(part == 1 for part in one.parts.values())
        lines.append(
            f"{place:5d}   {one.score:5.1f}  {met} of 3  {one.bytes / 1000:6,.0f}  {one.time:.3f}  "
            f"{one.accuracy:6.2f} %   {_listed(one.plan)}"
        )
    return "\n".join(lines)


def _listed(plan: Plan) -> str:
    return ", ".join(f"{name}={value}" for name, value in plan._asdict().items())


def _ranked(attempts: Iterable[Attempt], limits: Limits) -> list[Attempt]:
    mine = [one for one in attempts if one.limits == limits]
    return sorted(mine, key=lambda one: (-one.score, one.plan.epochs))


def _written(attempt: Attempt) -> dict:
    """An entry of the board; "budget" is what existing boards call the limits."""
    entry = attempt._asdict()
    limits = entry.pop("limits")
    return entry | {"plan": attempt.plan._asdict(), "budget": limits._asdict()}


def _read(file: Path) -> list[Attempt]:
    """The attempts in ``file``; none if it is damaged, and then it is set aside."""
    if not file.exists():
        return []
    try:
        return [_attempt(entry) for entry in json.loads(file.read_text(encoding="utf-8"))]
    except (ValueError, TypeError, KeyError) as error:
        aside = recordings.set_aside(file)
        say(f"The board was damaged ({error}). It is kept as {aside.name}; a new one begins.")
        return []


def _attempt(entry: dict) -> Attempt:
    """The attempt of an entry of the board.

    Raises:
        ValueError, TypeError, KeyError: the entry is invalid.
    """
    plan, limits = checked(Plan(**entry["plan"])), Limits(**entry["budget"])
    rest = {name: value for name, value in entry.items() if name not in ("plan", "budget")}
    found = Attempt(plan, limits, **rest)
    numbers = (*limits, *found[2:])
    if not all(type(one) in (int, float) and math.isfinite(one) for one in numbers):
        raise ValueError("a value is not a finite number")
    if min(found.bytes, found.time) <= 0:
        raise ValueError("a size or time is not above 0")
    return found
