"""Accuracy right after pruning, after BatchNorm recalibration, and after retraining.

A training budget is a fraction of the epochs of the network's own recipe. Lesson 04 shows the
recording of this experiment and repeats one of its runs.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple

import torch

from course_lib.bars import bar, say
from course_lib.experiments.recorder import Recording
from course_lib.experiments.steps import RECALIBRATED_ON
from course_lib.measuring.quality import evaluate, evaluate_beside, size
from course_lib.networks.data import Splits, fashion_mnist
from course_lib.networks.models import load_trained, on_device, reinitialized
from course_lib.networks.recipes import RECIPES, Recipe
from course_lib.networks.training import (
    SGD,
    Constant,
    OneCycle,
    Rewound,
    Schedule,
    Watch,
    correct,
    fit,
    recalibrate,
)
from course_lib.pruning.granularity import prune
from course_lib.pruning.masks import cubic_sparsity, enforce_masks

#: By granularity, the fractions of all weights, or of the channels of each layer, that are removed.
AMOUNTS = {"weights": (0.50, 0.80, 0.90, 0.95, 0.98), "channels": (0.25, 0.50, 0.70, 0.85)}

#: The amounts that are recorded for every budget, with several seeds.
SOME = {"weights": (0.90, 0.98), "channels": (0.50, 0.70)}

#: The amounts that are recorded for all epochs, with several seeds, and for more learning rates.
HARDEST = {"weights": (0.98,), "channels": (0.70,)}

#: The fractions for the curve of the accuracy right after pruning.
CURVE = {
    "weights": (0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99),
    "channels": (0.0625, 0.125, 0.1875, 0.25, 0.3125, 0.375, 0.4375, 0.5, 0.625, 0.7, 0.75, 0.85),
}

#: The training budgets, as fractions of the recipe's epochs.
EPOCH_FRACTIONS = (0.05, 0.10, 0.20, 0.50, 1.00)

#: Constant learning rates, as fractions of the recipe's highest rate. For each budget the best one
#: is chosen by validation accuracy: a rate tuned for another budget is not a fair baseline.
CONSTANT_FACTORS = (0.1, 0.03)

#: Lower and higher rates, recorded with one seed to show that none of them is better.
OUTER_FACTORS = (0.3, 0.01)

#: The learning-rate schedules that are recorded for each method.
#:
#: "one-shot" prunes the trained network once and retrains it (Han et al., 2015). Two methods prune
#: in several steps and train after each: "gradual" follows a cubic sparsity curve, for channels
#: equal steps (Zhu and Gupta, 2017); "iterative" removes the same fraction of what is left in each
#: step (Han et al., 2015; Frankle and Carbin, 2019). "scratch" trains the pruned network from new
#: random weights (Liu et al., 2019).
#:
#: "constant" is a small constant rate; "rewound" repeats the end of the recipe's own schedule
#: (learning-rate rewinding; Renda, Frankle and Carbin, 2020); "one-cycle" compresses that whole
#: schedule into the budget (Le and Hua, 2021).
SCHEDULES = {
    "one-shot": ("constant", "one-cycle", "rewound"),
    "gradual": ("constant", "rewound"),
    "iterative": ("constant", "rewound"),
    "scratch": ("one-cycle",),
}

#: The fields that identify a point.
KEY = ("granularity", "amount", "method", "schedule", "epoch_fraction", "seed", "lr")

#: The number of steps in gradual and iterative pruning, spread over the first half of the budget.
STEPS = 4


class Run(NamedTuple):
    """One training run of a network pruned by ``amount``, measured at each of its budgets.

    Only "one-shot" at a constant rate can have several budgets: elsewhere the schedule depends on
    the length of the run.

    Args:
        granularity: "weights" or "channels".
        amount: the fraction of weights or channels that is removed.
        method, schedule: a method of :data:`SCHEDULES` and one of its schedules.
        epoch_fractions: the budgets in increasing order, as fractions of the recipe's epochs.
        lr_factor: the highest learning rate, as a fraction of the recipe's.
    """

    granularity: str
    amount: float
    method: str
    schedule: str
    epoch_fractions: tuple[float, ...]
    seed: int
    lr_factor: float = 1.0

    def __str__(self) -> str:
        return (
            f"{100 * self.amount:.0f} % of {self.granularity}, {self.method}, {self.schedule}, "
            f"{100 * self.epoch_fractions[-1]:.0f} % of the epochs, seed {self.seed}"
        )


class Pruned(NamedTuple):
    """A network right after pruning: the fraction ``amount`` of its weights or channels is gone."""

    granularity: str
    amount: float


class Stage(NamedTuple):
    """Prune to ``amount``, train for ``epochs``; ``to_follow`` epochs of the run come later."""

    amount: float
    epochs: float
    to_follow: float


# --- one run ------------------------------------------------------------------------------------


def measure(
    run: Run,
    model_name: str,
    data: Splits,
    progress: Callable[[Iterable], Iterable] = iter,
    dense_correct: torch.Tensor | None = None,
) -> list[dict]:
    """Prune and train a network as specified by ``run``; return a point for each budget.

    A point has the fields in :data:`KEY`, where ``lr`` is the highest rate of the whole schedule,
    its ``epochs``, and the result of :func:`.evaluate_beside`.

    Args:
        model_name: a trained network with a recipe.
        progress: wraps the counter of training steps.
        dense_correct: which test pictures the dense network gets right, bool (N,); None to compute
            it.

    Raises:
        ValueError: an unknown network, granularity, method or schedule, or an invalid amount or
            budget.
    """
    _refuse_impossible(run, model_name)
    recipe = RECIPES[model_name]
    model = dense = on_device(load_trained(model_name))
    if dense_correct is None:
        dense_correct = correct(dense, data.test)
    points: list[dict] = []

    def note(*_) -> None:
        key = keys(run, model_name)[len(points)]
        epochs = {"epochs": round(key["epoch_fraction"] * recipe.epochs, 3)}
        points.append(key | epochs | evaluate_beside(dense_correct, model, data))

    for number, stage in enumerate(stages(run, recipe.epochs)):
        model, masks = prune(model, run.granularity, stage.amount, dense)
        if run.method == "scratch":
            # The recipe's own seed would give the initial weights of the dense network: a lottery
            # ticket (Frankle and Carbin, 2019), not new random weights.
            model = reinitialized(model, recipe.seed + 1 + run.seed)
        marks = [epoch_fraction * recipe.epochs for epoch_fraction in run.epoch_fractions[:-1]]
        with enforce_masks(model, masks):
            fit(
                model,
                data.train,
                epochs=stage.epochs,
                seed=run.seed + 1000 * number,  # another order of the pictures in each stage
                optimizer=SGD(run.lr_factor * recipe.lr),
                schedule=_schedule(run.schedule, recipe, stage.to_follow),
                watch=Watch(progress, note, marks),
            )
    note()
    return points


def _refuse_impossible(run: Run, model_name: str) -> None:
    for value, choices in (
        (model_name, RECIPES),
        (run.granularity, AMOUNTS),
        (run.method, SCHEDULES),
        (run.schedule, SCHEDULES.get(run.method, ())),
    ):
        if value not in choices:
            raise ValueError(f"{value!r} is not possible here; choose from {', '.join(choices)}.")
    if len(run.epoch_fractions) > 1 and (run.method, run.schedule) != ("one-shot", "constant"):
        raise ValueError(
            f"{run.method}, {run.schedule} needs a separate run for each budget; "
            f"got {run.epoch_fractions}."
        )
    if not 0 < run.epoch_fractions[0] <= run.epoch_fractions[-1] <= 1:
        raise ValueError(f"A budget is a fraction above 0, at most 1; got {run.epoch_fractions}.")


def stages(run: Run, epochs: float) -> list[Stage]:
    """The stages of ``run``: one, or :data:`STEPS` if it prunes in several steps.

    Args:
        epochs: length of the whole recipe.
    """
    total = run.epoch_fractions[-1] * epochs
    if run.method not in ("gradual", "iterative"):
        return [Stage(run.amount, total, 0.0)]
    ends = [total * step / (2 * STEPS) for step in range(1, STEPS)] + [total]
    starts = [0.0, *ends]
    return [
        Stage(amount, end - start, total - end)
        for amount, start, end in zip(_amounts(run), starts, ends, strict=False)
    ]


def _amounts(run: Run) -> list[float]:
    """The fraction of the dense network that is removed after each step."""
    parts = [step / STEPS for step in range(1, STEPS + 1)]
    if run.method == "iterative":
        return [1 - (1 - run.amount) ** part for part in parts]
    if run.granularity == "weights":
        return [cubic_sparsity(part, run.amount) for part in parts]
    return [run.amount * part for part in parts]


def _schedule(name: str, recipe: Recipe, to_follow: float) -> Schedule:
    schedules: dict[str, Schedule] = {
        "constant": Constant(),
        "one-cycle": OneCycle(),
        "rewound": Rewound(recipe.epochs, to_follow),
    }
    return schedules[name]


def keys(run: Run, model_name: str) -> list[dict]:
    """The fields that identify the points of ``run``, one for each of its budgets."""
    lr = {"lr": round(run.lr_factor * RECIPES[model_name].lr, 6)}
    fields = [run._asdict() | lr | {"epoch_fraction": each} for each in run.epoch_fractions]
    return [{name: point[name] for name in KEY} for point in fields]


# --- the plan -----------------------------------------------------------------------------------


class Sweep(NamedTuple):
    """Runs of one method and schedule, for every amount, budget and seed."""

    method: str
    schedule: str
    epoch_fractions: tuple[float, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    lr_factor: float = 1.0
    amounts: Mapping[str, tuple[float, ...]] = AMOUNTS

    def runs(self) -> list[Run]:
        """The runs in the order of recording; at a constant rate one run has all budgets."""
        together = [(each,) for each in self.epoch_fractions]
        return [
            Run(granularity, amount, self.method, self.schedule, budgets, seed, self.lr_factor)
            for seed in self.seeds
            for budgets in ([self.epoch_fractions] if self.schedule == "constant" else together)
            for granularity, amounts in self.amounts.items()
            for amount in amounts
        ]


def _plan_of_small_resnet() -> list[Sweep]:
    """Ordered so that an interrupted recording is already useful."""
    short, others = (0.05, 0.10, 0.20, 0.50), (0.05, 0.10, 0.50)
    return [
        *(Sweep("one-shot", name, (0.20,)) for name in ("rewound", "one-cycle")),
        Sweep("gradual", "rewound", (0.20,)),
        Sweep("scratch", "one-cycle", (0.20,)),
        *(Sweep("one-shot", "constant", short, (0,), each, SOME) for each in CONSTANT_FACTORS),
        Sweep("iterative", "rewound", (0.20,), amounts=SOME),
        *(Sweep("one-shot", name, others, amounts=SOME) for name in ("rewound", "one-cycle")),
        *(Sweep("one-shot", "constant", short, (1, 2), each, SOME) for each in CONSTANT_FACTORS),
        *(Sweep("one-shot", "constant", short, (0,), each, HARDEST) for each in OUTER_FACTORS),
        Sweep("one-shot", "rewound", (1.00,), amounts=HARDEST),
        Sweep("scratch", "one-cycle", (1.00,), amounts=HARDEST),
    ]


# Training resnet18 takes twelve times as long, so it has fewer schedules, seeds and budgets.
PLANS = {
    "small_resnet": _plan_of_small_resnet(),
    # the same architecture, trained with other seeds: do results depend on the dense network?
    "small_resnet_1": [Sweep("one-shot", "rewound", (0.20,), (0,))],
    "small_resnet_2": [Sweep("one-shot", "rewound", (0.20,), (0,))],
    "resnet18": [
        Sweep("one-shot", "rewound", (0.20, 0.10), (0,)),
        Sweep("one-shot", "rewound", (0.20,), (1, 2)),
    ],
}

# With a GPU: everything, for every network, one seed after another.
GPU_PLAN = [
    sweep
    for seed in range(5)
    for sweep in (
        *(
            Sweep("one-shot", "constant", EPOCH_FRACTIONS, (seed,), each)
            for each in CONSTANT_FACTORS
        ),
        *(Sweep("one-shot", each, EPOCH_FRACTIONS, (seed,)) for each in ("rewound", "one-cycle")),
        *(Sweep(each, "rewound", (0.20,), (seed,)) for each in ("gradual", "iterative")),
        Sweep("scratch", "one-cycle", (0.20, 1.00), (seed,)),
    )
]


def plan(model_name: str, gpu: bool) -> list[Run]:
    """The runs to record for a network, in order; with a GPU there are more."""
    sweeps = GPU_PLAN if gpu else PLANS[model_name]
    return [run for sweep in sweeps for run in sweep.runs()]


# --- the recording ------------------------------------------------------------------------------


def header(model: str, device: str) -> dict:
    """The header fields of this experiment's recording."""
    recipe, runs = RECIPES[model], plan(model, device == "cuda")
    return {
        "recipe": {"epochs": recipe.epochs, "lr": recipe.lr},
        "seeds": sorted({run.seed for run in runs}),
    }


def run(recording: Recording) -> None:
    """Measure what the recording lacks: the networks right after pruning, and the runs."""
    name, data = recording["model"], fashion_mnist()
    dense = on_device(load_trained(name))
    recording.once(lambda: {"dense": evaluate(dense, data) | size(dense)}, "dense")
    dense_correct = correct(dense, data.test)

    def pruned(task: Pruned) -> dict[str, list[dict]]:
        model, _ = prune(dense, *task, dense)
        found: dict[str, list[dict]] = {"pruned": [], "recalibrated": []}
        if not recording.has("pruned", **task._asdict()):
            quality = evaluate_beside(dense_correct, model, data)
            found["pruned"] = [task._asdict() | quality | size(model)]
        quality = evaluate_beside(dense_correct, recalibrate(model, unlabelled), data)
        found["recalibrated"] = [task._asdict() | quality]
        return found

    def trained(task: Run) -> dict[str, list[dict]]:
        points = measure(task, name, data, partial(bar, text="steps"), dense_correct)
        say(f"{task}: {points[-1]['accuracy']:.2f} %")
        known = [recording.has("points", **key) for key in keys(task, name)]
        return {"points": [one for one, there in zip(points, known, strict=True) if not there]}

    unlabelled = data.train.images[:RECALIBRATED_ON]
    tasks = [Pruned(name, amount) for name, amounts in CURVE.items() for amount in amounts]
    recording.each(tasks, pruned, tables=("recalibrated",), text="pruned networks")
    runs = plan(name, recording.device == "cuda")
    expected = partial(keys, model_name=name)
    recording.each(runs, trained, expected=expected, work=lambda run: run.epoch_fractions[-1])
