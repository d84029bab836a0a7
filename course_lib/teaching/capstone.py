"""The capstone of lesson 12: ResNet-18 made small by a plan, within limits, and scored.

An :class:`Attempt` is really pruned, trained, quantized and timed. A board keeps earlier ones.
"""

import json
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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
from course_lib.experiments.steps import CompressionStep, apply_step
from course_lib.files import write_whole
from course_lib.measuring.timing import compare, round_significant
from course_lib.networks.data import DATA, Splits
from course_lib.networks.models import load_trained, on_device
from course_lib.networks.recipes import RECIPES
from course_lib.networks.training import SGD, Objective, Watch, fit, to_labels, to_teacher
from course_lib.pruning import masks

NETWORK = "resnet18"

#: So many training steps are timed to say how long all of them will take.
TRIED = 5

#: Pictures in a training step.
BATCH = 128

#: An attempt that is so many points short of the accuracy gets nothing for it.
HOPELESS = 10.0


class Plan(NamedTuple):
    """What is done to the trained network.

    Args:
        channels: the fraction of the channels of every layer that is removed.
        weights: the fraction of the weights that is then set to zero.
        int8: whether it is deployed in int8, or in float32.
        epochs: the training after that, as a share of the recipe's epochs.
        teacher: whether the whole network teaches it.
    """

    channels: float = 0.0
    weights: float = 0.0
    int8: bool = True
    epochs: float = 0.2
    teacher: bool = False


class Limits(NamedTuple):
    """At most so many ``bytes``, this share of the dense ``time``, and at least this ``accuracy``.

    Bytes are those of the file that the runtime reads; accuracy is in percent of the validation
    pictures, because attempts are compared with each other.
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
    """What a plan reached, in the units of its limits, after so many ``seconds`` of training."""

    plan: Plan
    limits: Limits
    bytes: int
    time: float
    accuracy: float
    seconds: float

    @property
    def parts(self) -> dict[str, float]:
        """For each target from 0 to 1; 1 where it is met.

        Bytes and time: what is allowed over what is used. Accuracy: 1 less a tenth for each point
        that is missing.
        """
        missing = self.limits.accuracy - self.accuracy
        return {
            "bytes": min(1.0, self.limits.bytes / self.bytes),
            "time": min(1.0, self.limits.time / self.time),
            "accuracy": min(1.0, max(0.0, 1 - missing / HOPELESS)),
        }

    @property
    def score(self) -> float:
        """The mean of its parts, of 100."""
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
    """Limits that a network of the course's recording keeps, with some room; from a ``seed``.

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
    """Carry out ``plan`` and measure what it gives: bytes, time beside the dense network, accuracy.

    Says before it trains how long that will take.

    Raises:
        PlanError: the plan cannot be carried out.
    """
    model, whole = pruned(plan, data), load_trained(NETWORK)
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


def time_beside(dense: Path, mine: Path, data: Splits) -> float:
    """The time that ``mine`` takes for a picture, as a share of what ``dense`` takes, in turns."""
    runs = {"dense": Deployed(dense), "yours": Deployed(mine)}
    found = compare(runs, data.test.images[:1], rounds=60, seconds=4, in_a_row=IN_A_ROW)
    return 1 / found.speedup("yours", over="dense").value


def pruned(plan: Plan, data: Splits) -> nn.Module:
    """The trained network without what ``plan`` removes, nothing retrained.

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
    """Train ``model`` in place; what is zero stays zero.

    All of the recipe's learning rates are squeezed into the ``epochs``. With few channels left that
    brings back more than the end of them (:func:`course_lib.experiments.distillation.train`).
    """
    if not epochs:
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
    """The seconds that the training of ``plan`` will take, from a few steps of it.

    Raises:
        PlanError: the plan cannot be carried out.
    """
    model, steps_per_epoch = pruned(plan, data), len(data.train.labels) // BATCH
    for _ in range(2):  # the first time warms up
        start = time.perf_counter()
        train(model, TRIED / steps_per_epoch, data, objective)
        seconds = time.perf_counter() - start
    return plan.epochs * RECIPES[NETWORK].epochs * steps_per_epoch * seconds / TRIED


@contextmanager
def _objective(plan: Plan, data: Splits) -> Iterator[Objective]:
    """What the training of ``plan`` makes small."""
    if not plan.teacher:
        yield to_labels
        return
    with forms.teacher(NETWORK, data) as logits:
        yield to_teacher(logits)


# --- the board ----------------------------------------------------------------------------------


def remember(attempt: Attempt, folder: Path) -> list[Attempt]:
    """Add ``attempt`` to the board in ``folder``; return all for its limits, the best first.

    A board that is damaged is set aside. One that cannot be stored is told, and the lesson goes on.
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
    """All attempts within ``limits`` so far, the best first.

    Best is the highest score, and of equal ones that with the fewest epochs.
    """
    return _ranked(_read(board_file(folder)), limits)


def board_file(folder: Path) -> Path:
    """Where the board lies."""
    return Path(folder) / "capstone.json"


def table(attempts: Iterable[Attempt]) -> str:
    """The board as text, an attempt in each line."""
    lines = ["place   score  met       kB    time  accuracy   plan"]
    for place, one in enumerate(attempts, start=1):
        met = sum(part == 1 for part in one.parts.values())
        lines.append(
            f"{place:5d}   {one.score:5.1f}  {met} of 3  {one.bytes / 1000:6,.0f}  {one.time:.3f}  "
            f"{one.accuracy:6.2f} %   {_told(one.plan)}"
        )
    return "\n".join(lines)


def _told(plan: Plan) -> str:
    return ", ".join(f"{name}={value}" for name, value in plan._asdict().items())


def _ranked(attempts: Iterable[Attempt], limits: Limits) -> list[Attempt]:
    mine = [one for one in attempts if one.limits == limits]
    return sorted(mine, key=lambda one: (-one.score, one.plan.epochs))


def _written(attempt: Attempt) -> dict:
    """An entry of the board; its file calls the limits "budget", and boards last."""
    entry = attempt._asdict()
    limits = entry.pop("limits")
    return entry | {"plan": attempt.plan._asdict(), "budget": limits._asdict()}


def _read(file: Path) -> list[Attempt]:
    """The attempts in ``file``; none, and it is set aside, where it is damaged."""
    if not file.exists():
        return []
    try:
        return [_attempt(entry) for entry in json.loads(file.read_text(encoding="utf-8"))]
    except (ValueError, TypeError, KeyError) as error:
        aside = recordings.set_aside(file)
        say(f"The board was damaged ({error}). It is kept as {aside.name}, an empty one begins.")
        return []


def _attempt(entry: dict) -> Attempt:
    """An entry of the board.

    Raises:
        ValueError, TypeError, KeyError: it is none.
    """
    plan, limits = checked(Plan(**entry["plan"])), Limits(**entry["budget"])
    rest = {name: value for name, value in entry.items() if name not in ("plan", "budget")}
    found = Attempt(plan, limits, **rest)
    numbers = (*limits, *found[2:])
    if not all(type(one) in (int, float) and math.isfinite(one) for one in numbers):
        raise ValueError("a number is none")
    if min(found.bytes, found.time) <= 0:
        raise ValueError("a size or time is not above 0")
    return found
