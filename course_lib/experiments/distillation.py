"""A small network made in four ways in equal training time: fresh or pruned, with a teacher or not.

The *student* is the trained network, the *teacher*, without most of its channels. Lesson 10 shows
what this experiment recorded, and runs one of its points again.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from torch import nn

from course_lib.bars import bar, say
from course_lib.deployment import forms
from course_lib.deployment.pruned_file import load, save
from course_lib.experiments import recordings
from course_lib.experiments.recorder import Recording
from course_lib.experiments.recordings import is_there, network_file
from course_lib.measuring.quality import evaluate
from course_lib.measuring.timing import compare, round_significant
from course_lib.networks.data import Images, Splits, fashion_mnist
from course_lib.networks.models import load_trained, reinitialized
from course_lib.networks.recipes import RECIPES
from course_lib.networks.training import SGD, Watch, fit, to_labels, to_teacher
from course_lib.pruning.granularity import prune

#: The student has lost this fraction of the channels of every layer.
REMOVED = 0.875

#: Shares of the time that the recipe's epochs take a student without a teacher.
TIME_FRACTIONS = (0.0, 0.01, 0.05, 0.2, 1.0)

SEEDS = (0, 1, 2)


class Method(NamedTuple):
    """Whether a student begins with what pruning leaves, and whether a teacher helps it."""

    pruned: bool
    distilled: bool


METHODS = {
    "scratch": Method(pruned=False, distilled=False),
    "distilled": Method(pruned=False, distilled=True),
    "pruned": Method(pruned=True, distilled=False),
    "pruned and distilled": Method(pruned=True, distilled=True),
}

#: Seconds that the comparison of trainings with and without a teacher may take.
LIMIT = 600.0

#: The best student of the longest budget and the first seed is kept under this name.
BEST = "best"


class StudentRun(NamedTuple):
    """A student that is made by one of :data:`METHODS` in a share ``time_fraction`` of the time."""

    method: str
    time_fraction: float
    seed: int

    def __str__(self) -> str:
        return f"{self.method}, {100 * self.time_fraction:.0f} % of the time, seed {self.seed}"


class Setting(NamedTuple):
    """What all students share.

    Args:
        network: the name of the trained network.
        teacher: gives its logits (N, classes) for pictures (N, 1, 28, 28).
        cost: how many times as long training takes with the teacher, see :func:`teacher_cost`.
    """

    network: str
    data: Splits
    teacher: Callable[[torch.Tensor], torch.Tensor]
    cost: float


# --- one student --------------------------------------------------------------------------------


def untrained(method: str, network: str, seed: int) -> nn.Module:
    """The student of ``network`` before any training.

    Raises:
        ValueError: no method has that name.
    """
    if method not in METHODS:
        raise ValueError(f"No method is called {method!r}; choose from {', '.join(METHODS)}.")
    whole = load_trained(network)
    student, _ = prune(whole, "channels", REMOVED, whole)
    if METHODS[method].pruned:
        return student
    # not the recipe's own seed: its draw would be that of the weights that the teacher began with
    return reinitialized(student, RECIPES[network].seed + 1 + seed)


def epochs_for(run: StudentRun, setting: Setting) -> float:
    """The epochs that the time of ``run`` is enough for; lesson 10 builds this."""
    epochs = run.time_fraction * RECIPES[setting.network].epochs
    return epochs / setting.cost if METHODS[run.method].distilled else epochs


def train(
    run: StudentRun, setting: Setting, progress: Callable[[Iterable], Iterable] = iter
) -> nn.Module:
    """The student of ``run``.

    All train alike, with the recipe's learning rates squeezed into their time: students differ only
    in where they begin and in what they are told. For a pruned one that is no handicap: with so few
    channels left, the end of those rates (Renda, Frankle and Carbin, 2020) brings back less, on
    validation pictures, in 1, 5 and 20 % of the time.

    Raises:
        ValueError: no method has that name.
    """
    student = untrained(run.method, setting.network, run.seed)
    if run.time_fraction:
        fit(
            student,
            setting.data.train,
            epochs=epochs_for(run, setting),
            seed=run.seed,
            optimizer=SGD(RECIPES[setting.network].lr),
            objective=to_teacher(setting.teacher) if METHODS[run.method].distilled else to_labels,
            watch=Watch(progress),
        )
    return student


def point(run: StudentRun, student: nn.Module, setting: Setting) -> dict:
    """What a recording holds of ``run``: its epochs, and the quality of the trained ``student``."""
    epochs = {"epochs": round(epochs_for(run, setting), 3)}
    return run._asdict() | epochs | evaluate(student, setting.data)


# --- what a teacher costs -----------------------------------------------------------------------


def teacher_cost(
    network: str,
    data: Images,
    teacher: Callable[[torch.Tensor], torch.Tensor],
    *,
    epochs: float = 1 / 39,
    rounds: int = 30,
    seconds: float = 60.0,
) -> dict:
    """How many times as long training takes with the ``teacher``: the ``ratio``, its ``interval``.

    Also the seconds that an epoch takes with ``labels`` alone and with the ``teacher``. Trainings
    of a few steps (``epochs``: 11 steps of 429) take turns, as
    :func:`course_lib.measuring.timing.compare` has it.
    """
    student = untrained("scratch", network, seed=0)
    how = {"epochs": epochs, "optimizer": SGD(RECIPES[network].lr), "seed": 0}
    goals = {"labels": to_labels, "teacher": to_teacher(teacher)}
    trainings = {
        name: partial(_fit, student, data, objective=goal, **how) for name, goal in goals.items()
    }
    found = compare(trainings, rounds=rounds, seconds=seconds, limit=LIMIT)
    ratio = found.speedup("labels", over="teacher")
    return {
        "ratio": round_significant(ratio.value),
        "interval": [round_significant(ratio.low), round_significant(ratio.high)],
        "rounds": len(found.timings["labels"].milliseconds),
    } | {name: round_significant(one.median / 1000 / epochs) for name, one in found.timings.items()}


def _fit(student: nn.Module, data: Images, **how) -> None:
    with torch.enable_grad():  # the timer has switched gradients off
        fit(student, data, **how)


# --- the recording ------------------------------------------------------------------------------


def plan() -> list[StudentRun]:
    """The runs that are recorded, in their order: the longest of the other seeds come last."""
    runs = [
        StudentRun(method, time_fraction, seed)
        for seed, time_fraction, method in product(SEEDS, TIME_FRACTIONS, METHODS)
    ]
    return sorted(runs, key=lambda run: run.seed > 0 and run.time_fraction == TIME_FRACTIONS[-1])


def header(model: str, device: str) -> dict:
    """What a recording of this experiment begins with."""
    recipe = RECIPES[model]
    return {"recipe": {"epochs": recipe.epochs, "lr": recipe.lr, "removed": REMOVED}}


def run(recording: Recording) -> None:
    """Train the students that the recording lacks; measure the best one in the runtime.

    The best student is kept beside the recording.
    """
    network, data = recording["model"], fashion_mnist()
    with forms.teacher(network, data) as logits:
        recording.once(lambda: {"cost": teacher_cost(network, data.train, logits)}, "cost")
        setting = Setting(network, data, logits, recording["cost"]["ratio"])
        _forget_lost_best(recording)
        recording.each(plan(), partial(_trained, recording, setting), text="students")
    if not recording.part and not recording["deployed"]:
        _measure_deployed(recording, data)


def _trained(recording: Recording, setting: Setting, run: StudentRun) -> dict[str, list[dict]]:
    student = train(run, setting, partial(bar, text="steps"))
    entry = point(run, student, setting)
    if _is_best(entry, recording):
        about = {"command": recording["command"], "step": str(run)}
        save(student.cpu(), setting.network, network_file(recording.path, BEST), **about)
        recording.content |= {"deployed": [], "packed": []}
    say(f"{entry['accuracy']:.2f} %")
    return {"points": [entry]}


def _finalists(recording: Recording) -> list[dict]:
    """The points of which the best student is kept."""
    return recordings.points(recording.content, time_fraction=TIME_FRACTIONS[-1], seed=SEEDS[0])


def _is_best(entry: dict, recording: Recording) -> bool:
    """Whether ``entry`` is a finalist, and better than those that are there."""
    if (entry["time_fraction"], entry["seed"]) != (TIME_FRACTIONS[-1], SEEDS[0]):
        return False
    return all(entry["validation"] > rival["validation"] for rival in _finalists(recording))


def _forget_lost_best(recording: Recording) -> None:
    """Where the best student's file is lost, forget the points of all that might be it."""
    finalists = _finalists(recording)
    if not is_there(network_file(recording.path, BEST), bool(finalists)):
        left = [one for one in recording["points"] if one not in finalists]
        recording.content["points"] = left


def _measure_deployed(recording: Recording, data: Splits) -> None:
    """Record how large and how fast the teacher and the best student are; students are alike."""
    student, _ = load(network_file(recording.path, BEST))
    networks = {"teacher": load_trained(recording["model"]), "student": student}
    found = forms.measure(networks, recording["model"], data)
    recording.write(deployed=found["points"], packed=found["packed"])


# --- reading it ---------------------------------------------------------------------------------


def by_seed(recording: dict, method: str, time_fraction: float) -> list[float]:
    """Test accuracies, in percent, of a method at a budget: one for each seed, in their order."""
    found = recordings.points(recording, method=method, time_fraction=time_fraction)
    return [one["accuracy"] for one in sorted(found, key=lambda one: one["seed"])]


def gains(recording: dict, first: str, second: str, time_fraction: float) -> list[float]:
    """Points that the ``first`` method is ahead of the ``second``, for each seed that both have."""
    pairs = zip(
        *(by_seed(recording, name, time_fraction) for name in (first, second)), strict=False
    )
    return [one - other for one, other in pairs]


def crossover(first: Mapping[float, float], second: Mapping[float, float]) -> float | None:
    """The budget from which on ``first`` is at least as good as ``second``; None if it never is.

    Args:
        first, second: accuracies by budget. Lesson 10 builds this function.
    """
    found = None
    for time_fraction in sorted(first, reverse=True):
        if first[time_fraction] < second[time_fraction]:
            break
        found = time_fraction
    return found


def remembered_cost(cost: float, epochs: float, versions: int, students: int) -> float:
    """What a teacher costs that is asked only once about each of the ``versions`` of a picture.

    Args:
        cost: what it costs when it is asked in every step, see :func:`teacher_cost`.
        epochs: of the training of each of so many ``students``, who all look the answers up.
            Lesson 10 builds this function.
    """
    return 1 + (cost - 1) * versions / (epochs * students)
