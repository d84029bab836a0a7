"""A small network trained in four ways for equal time: from scratch or pruned, distilled or not.

The *teacher* is the trained network; the *student* is the same without most of its channels. Lesson
10 shows the recording of this experiment and repeats one of its runs.
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
from course_lib.experiments.records import Distillation, TeacherCost
from course_lib.measuring.quality import evaluate
from course_lib.measuring.timing import compare, round_significant
from course_lib.networks.data import Images, Splits, fashion_mnist
from course_lib.networks.models import load_trained, reinitialized
from course_lib.networks.recipes import RECIPES
from course_lib.networks.training import SGD, Watch, fit, to_labels, to_teacher
from course_lib.pruning.granularity import prune

#: The student lacks this fraction of the channels of every layer.
REMOVED = 0.875

#: Training budgets, as fractions of the time that a student without a teacher needs for the whole
#: recipe.
TIME_FRACTIONS = (0.0, 0.01, 0.05, 0.2, 1.0)

SEEDS = (0, 1, 2)


class Method(NamedTuple):
    """Whether a student starts from the pruned teacher, and whether it is distilled."""

    pruned: bool
    distilled: bool


METHODS = {
    "scratch": Method(pruned=False, distilled=False),
    "distilled": Method(pruned=False, distilled=True),
    "pruned": Method(pruned=True, distilled=False),
    "pruned and distilled": Method(pruned=True, distilled=True),
}

#: Time limit for the comparison of training with and without a teacher, in seconds.
LIMIT = 600.0

#: The best student with the longest budget and the first seed is stored under this name.
BEST = "best"


class StudentRun(NamedTuple):
    """A student, trained by one of :data:`METHODS` for one of the budgets.

    Args:
        method: a name in :data:`METHODS`.
        time_fraction: the budget, see :data:`TIME_FRACTIONS`.
        seed: of the training, and of the initial weights if they are random.
    """

    method: str
    time_fraction: float
    seed: int

    def __str__(self) -> str:
        return f"{self.method}, {100 * self.time_fraction:.0f} % of the time, seed {self.seed}"


class Setting(NamedTuple):
    """What all students have in common.

    Args:
        network: the name of the trained network.
        teacher: computes logits (N, classes) from pictures (N, 1, 28, 28).
        cost: how many times as long training takes with the teacher, see :func:`teacher_cost`.
    """

    network: str
    data: Splits
    teacher: Callable[[torch.Tensor], torch.Tensor]
    cost: float


# --- one student --------------------------------------------------------------------------------


def untrained(method: str, network: str, seed: int) -> nn.Module:
    """The student of ``network`` before training.

    Raises:
        ValueError: no such method.
    """
    if method not in METHODS:
        raise ValueError(f"There is no method {method!r}; choose from {', '.join(METHODS)}.")
    whole = load_trained(network)
    student, _ = prune(whole, "channels", REMOVED, whole)
    if METHODS[method].pruned:
        return student
    # not the recipe's own seed, which would give the initial weights of the teacher
    return reinitialized(student, RECIPES[network].seed + 1 + seed)


def epochs_for(run: StudentRun, setting: Setting) -> float:
    """The number of epochs that fit into the time of ``run``. Lesson 10 builds this function."""
    epochs = run.time_fraction * RECIPES[setting.network].epochs
    return epochs / setting.cost if METHODS[run.method].distilled else epochs


def train(
    run: StudentRun, setting: Setting, progress: Callable[[Iterable], Iterable] = iter
) -> nn.Module:
    """The trained student of ``run``.

    All students train with the recipe's one-cycle schedule, compressed into their time; only the
    initial weights and the objective differ. This is no disadvantage for a pruned student: with so
    few channels left, learning-rate rewinding (Renda, Frankle and Carbin, 2020) recovers less
    validation accuracy in 1, 5 and 20 % of the time.

    Args:
        progress: wraps the counter of training steps.

    Raises:
        ValueError: no such method.
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
    """The point of ``run``: its fields and epochs, and the accuracy of the trained ``student``."""
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
) -> TeacherCost:
    """How many times as long training takes with the ``teacher`` as without.

    Runs of a few steps with and without the teacher are timed alternately, see
    :func:`course_lib.measuring.timing.compare`.

    Args:
        epochs: length of each run; by default 11 steps.
        rounds, seconds: how often and for how long to time them.

    Returns:
        The ``ratio``, its 95 % ``interval``, the number of ``rounds``, and the seconds that an
        epoch takes with the ``labels`` alone and with the ``teacher``.
    """
    student = untrained("scratch", network, seed=0)
    how = {"epochs": epochs, "optimizer": SGD(RECIPES[network].lr), "seed": 0}
    goals = {"labels": to_labels, "teacher": to_teacher(teacher)}
    trainings = {
        name: partial(_fit, student, data, objective=goal, **how) for name, goal in goals.items()
    }
    found = compare(trainings, rounds=rounds, seconds=seconds, limit=LIMIT)
    ratio = found.speedup("labels", over="teacher")
    seconds_of = {name: one.median / 1000 / epochs for name, one in found.timings.items()}
    return {
        "ratio": round_significant(ratio.value),
        "interval": [round_significant(ratio.low), round_significant(ratio.high)],
        "rounds": len(found.timings["labels"].milliseconds),
        "labels": round_significant(seconds_of["labels"]),
        "teacher": round_significant(seconds_of["teacher"]),
    }


def _fit(student: nn.Module, data: Images, **how) -> None:
    with torch.enable_grad():  # the timer disables gradients
        fit(student, data, **how)


# --- the recording ------------------------------------------------------------------------------


def plan() -> list[StudentRun]:
    """The runs to record, in order; the longest runs of all but the first seed come last."""
    runs = [
        StudentRun(method, time_fraction, seed)
        for seed, time_fraction, method in product(SEEDS, TIME_FRACTIONS, METHODS)
    ]
    return sorted(runs, key=lambda run: run.seed > 0 and run.time_fraction == TIME_FRACTIONS[-1])


def header(model: str, device: str) -> dict:
    """The header fields of this experiment's recording."""
    recipe = RECIPES[model]
    return {"recipe": {"epochs": recipe.epochs, "lr": recipe.lr, "removed": REMOVED}}


def run(recording: Recording) -> None:
    """Train the students that the recording lacks; measure the best one in ONNX Runtime.

    The best student is stored next to the recording.
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
    """The points among which the best student is chosen."""
    return recordings.points(recording.content, time_fraction=TIME_FRACTIONS[-1], seed=SEEDS[0])


def _is_best(entry: dict, recording: Recording) -> bool:
    """Whether ``entry`` is a finalist and better than the recorded ones."""
    if (entry["time_fraction"], entry["seed"]) != (TIME_FRACTIONS[-1], SEEDS[0]):
        return False
    return all(entry["validation"] > rival["validation"] for rival in _finalists(recording))


def _forget_lost_best(recording: Recording) -> None:
    """If the best student's file is missing, discard the finalists, so that they train again."""
    finalists = _finalists(recording)
    if not is_there(network_file(recording.path, BEST), bool(finalists)):
        left = [one for one in recording["points"] if one not in finalists]
        recording.content["points"] = left


def _measure_deployed(recording: Recording, data: Splits) -> None:
    """Record the size and speed of the teacher and the best student; all students are alike."""
    student, _ = load(network_file(recording.path, BEST))
    networks = {"teacher": load_trained(recording["model"]), "student": student}
    found = forms.measure(networks, recording["model"], data)
    recording.write(deployed=found["points"], packed=found["packed"])


# --- reading a recording ------------------------------------------------------------------------


def by_seed(recording: Distillation, method: str, time_fraction: float) -> list[float]:
    """Test accuracies of a method at a budget, in percent, in the order of the seeds."""
    found = recordings.points(recording, method=method, time_fraction=time_fraction)
    return [one["accuracy"] for one in sorted(found, key=lambda one: one["seed"])]


def gains(recording: Distillation, first: str, second: str, time_fraction: float) -> list[float]:
    """Test accuracy of ``first`` minus that of ``second``, in points, for each seed of both."""
    pairs = zip(
        *(by_seed(recording, name, time_fraction) for name in (first, second)), strict=False
    )
    return [one - other for one, other in pairs]


def crossover(first: Mapping[float, float], second: Mapping[float, float]) -> float | None:
    """The smallest budget such that, from there on, ``first`` is at least as good as ``second``.

    None if ``second`` is better at the largest budget. Lesson 10 builds this function.

    Args:
        first, second: accuracies by budget.
    """
    found = None
    for time_fraction in sorted(first, reverse=True):
        if first[time_fraction] < second[time_fraction]:
            break
        found = time_fraction
    return found


def remembered_cost(cost: float, epochs: float, versions: int, students: int) -> float:
    """The cost of a teacher whose logits are computed once and stored.

    Lesson 10 builds this function.

    Args:
        cost: the cost if the teacher runs in every step, see :func:`teacher_cost`.
        epochs: the number of epochs for which each student trains.
        versions: the number of augmented versions of each picture.
        students: the number of students that use the stored logits.
    """
    return 1 + (cost - 1) * versions / (epochs * students)
