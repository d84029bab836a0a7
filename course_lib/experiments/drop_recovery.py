"""Accuracy right after pruning, and after fine-tuning on a share of the training budget.

The *budget* is a fraction of the epochs of the network's own recipe. Lesson 04 shows what this
experiment recorded, and runs one of its points again.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch

from course_lib.bars import bar, say
from course_lib.experiments.recorder import Recording
from course_lib.measuring.quality import evaluate, size
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
    fit,
)
from course_lib.pruning.granularity import prune
from course_lib.pruning.masks import cubic_sparsity, enforce_masks

#: By granularity of pruning, the fractions of weights or of each layer's channels that are removed.
AMOUNTS = {"weights": (0.50, 0.80, 0.90, 0.95, 0.98), "channels": (0.25, 0.50, 0.70, 0.85)}


#: Fractions of the epochs of the recipe.
EPOCH_FRACTIONS = (0.05, 0.10, 0.20, 0.50, 1.00)

#: The constant learning rate, as a fraction of the recipe's highest. Among 0.1, 0.03 and 0.01 it
#: gave small_resnet at 90 % sparsity the best validation accuracy after a tenth of its epochs.
CONSTANT_FACTOR = 0.03

#: The schedules of the learning rate that each method of retraining is recorded with.
#:
#: "one-shot" prunes the trained network and fine-tunes it (Han et al., 2015); "iterative" prunes it
#: in steps while it trains (Zhu and Gupta, 2017); "scratch" trains the pruned network from fresh
#: random weights (Liu et al., 2019). "constant" is a small constant rate; "rewound" repeats the end
#: of the recipe's own schedule (Renda, Frankle and Carbin, 2020); "one-cycle" squeezes the whole of
#: that schedule into the budget.
SCHEDULES = {
    "one-shot": ("constant", "rewound"),
    "iterative": ("constant", "rewound"),
    "scratch": ("one-cycle",),
}

#: The fields that tell one point from another.
KEY = ("granularity", "amount", "method", "schedule", "epoch_fraction", "seed")

#: Iterative pruning takes this many steps, evenly over the first half of its budget.
STEPS = 4


class Run(NamedTuple):
    """One training of a network pruned by ``amount``, measured at each of its rising budgets.

    Only "one-shot" at a constant rate can have several budgets: all others depend on their end.
    """

    granularity: str
    amount: float
    method: str
    schedule: str
    epoch_fractions: tuple[float, ...]
    seed: int

    def __str__(self) -> str:
        return (
            f"{100 * self.amount:.0f} % of {self.granularity}, {self.method}, {self.schedule}, "
            f"{100 * self.epoch_fractions[-1]:.0f} % of the epochs, seed {self.seed}"
        )


class Pruned(NamedTuple):
    """A network right after pruning."""

    granularity: str
    amount: float


class Stage(NamedTuple):
    """A part of a run: prune to ``amount``, train for ``epochs``; so many are ``to_follow``."""

    amount: float
    epochs: float
    to_follow: float


# --- one run ------------------------------------------------------------------------------------


def measure(
    run: Run, model_name: str, data: Splits, progress: Callable[[Iterable], Iterable] = iter
) -> list[dict]:
    """Prune and train as ``run`` says; return a point for each of its budgets.

    A point holds what the run was, its ``epochs``, the ``lr`` (highest of the whole schedule), and
    what :func:`.evaluate` says.

    Raises:
        ValueError: an unknown network, granularity, method or schedule, or an impossible amount.
    """
    _refuse_impossible(run, model_name)
    recipe = RECIPES[model_name]
    model = dense = on_device(load_trained(model_name))
    points: list[dict] = []

    def note(*_) -> None:
        points.append(_point(run, len(points), recipe) | evaluate(model, data))

    for number, stage in enumerate(stages(run, recipe.epochs)):
        model, masks = prune(model, run.granularity, stage.amount, dense)
        if run.method == "scratch":
            # The recipe's own seed would draw the weights that the dense network began from:
            # a lottery ticket (Frankle and Carbin, 2019), not fresh weights.
            model = reinitialized(model, recipe.seed + 1 + run.seed)
        lr, schedule = _rates(run.schedule, recipe, stage.to_follow)
        marks = [epoch_fraction * recipe.epochs for epoch_fraction in run.epoch_fractions[:-1]]
        with enforce_masks(model, masks):
            fit(
                model,
                data.train,
                epochs=stage.epochs,
                seed=run.seed + 1000 * number,  # each stage sees the pictures in another order
                optimizer=SGD(lr),
                schedule=schedule,
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
            f"{run.method}, {run.schedule} needs a run for each of {run.epoch_fractions}."
        )
    if not 0 < run.epoch_fractions[0] <= run.epoch_fractions[-1] <= 1:
        raise ValueError(f"A budget is a fraction from above 0 to 1; got {run.epoch_fractions}.")


def stages(run: Run, epochs: float) -> list[Stage]:
    """The stages of ``run`` for a recipe of so many ``epochs``: one, or a few if iterative."""
    total = run.epoch_fractions[-1] * epochs
    if run.method != "iterative":
        return [Stage(run.amount, total, 0.0)]
    ends = [total * step / (2 * STEPS) for step in range(1, STEPS)] + [total]
    starts = [0.0, *ends]
    return [
        Stage(amount, end - start, total - end)
        for amount, start, end in zip(_amounts(run), starts, ends, strict=False)
    ]


def _amounts(run: Run) -> list[float]:
    """How much of the dense network is gone after each step of iterative pruning."""
    parts = [step / STEPS for step in range(1, STEPS + 1)]
    if run.granularity == "weights":
        return [cubic_sparsity(part, run.amount) for part in parts]
    return [run.amount * part for part in parts]


def _rates(name: str, recipe: Recipe, to_follow: float = 0.0) -> tuple[float, Schedule]:
    """The highest learning rate and the schedule of that ``name``."""
    schedules: dict[str, tuple[float, Schedule]] = {
        "constant": (CONSTANT_FACTOR * recipe.lr, Constant()),
        "one-cycle": (recipe.lr, OneCycle()),
        "rewound": (recipe.lr, Rewound(recipe.epochs, to_follow)),
    }
    return schedules[name]


def _point(run: Run, number: int, recipe: Recipe) -> dict:
    epoch_fraction = run.epoch_fractions[number]
    lr, _ = _rates(run.schedule, recipe)
    return {
        "granularity": run.granularity,
        "amount": run.amount,
        "method": run.method,
        "schedule": run.schedule,
        "epoch_fraction": epoch_fraction,
        "seed": run.seed,
        "epochs": round(epoch_fraction * recipe.epochs, 3),
        "lr": round(lr, 6),
    }


# --- the plan -----------------------------------------------------------------------------------

# Method, schedule, budgets, seeds; in this order, so that an interrupted recording is of use.
PLANS = {
    "small_resnet": (
        ("one-shot", "constant", (0.05, 0.10, 0.20), (0,)),
        ("one-shot", "rewound", (0.20, 0.10, 0.05), (0,)),
        ("iterative", "rewound", (0.20,), (0,)),
        ("scratch", "one-cycle", (0.20,), (0,)),
        ("one-shot", "rewound", (0.50, 1.00), (0,)),
        ("one-shot", "constant", (0.50, 1.00), (0,)),
        ("one-shot", "rewound", (0.20,), (1, 2)),
    ),
    # Forty times the work: only the schedule that was the better one for small_resnet.
    "resnet18": (("one-shot", "rewound", (0.20, 0.10), (0,)),),
}

# Where there is a GPU: everything, for every network, a seed after the other.
GPU_PLAN = tuple(
    (method, schedule, epoch_fractions, (seed,))
    for seed in range(5)
    for method, schedule, epoch_fractions in (
        ("one-shot", "constant", EPOCH_FRACTIONS),
        ("one-shot", "rewound", EPOCH_FRACTIONS),
        ("iterative", "rewound", (0.20,)),
        ("scratch", "one-cycle", (0.20, 1.00)),
    )
)


def plan(model_name: str, gpu: bool) -> list[Run]:
    """The runs that are recorded of a network, in their order: more of them where a GPU helps."""
    return [
        Run(granularity, amount, method, schedule, together, seed)
        for method, schedule, epoch_fractions, seeds in (GPU_PLAN if gpu else PLANS[model_name])
        for seed in seeds
        for together in (
            [epoch_fractions] if schedule == "constant" else [(each,) for each in epoch_fractions]
        )
        for granularity, amounts in AMOUNTS.items()
        for amount in amounts
    ]


# --- the recording ------------------------------------------------------------------------------


def header(model: str, device: str) -> dict:
    """What a recording of this experiment begins with."""
    recipe, runs = RECIPES[model], plan(model, device == "cuda")
    return {
        "recipe": {"epochs": recipe.epochs, "lr": recipe.lr, "constant_factor": CONSTANT_FACTOR},
        "seeds": sorted({run.seed for run in runs}),
    }


def run(recording: Recording) -> None:
    """Measure what the recording lacks: each network right after pruning, and each run."""
    name, data = recording["model"], fashion_mnist()
    dense = on_device(load_trained(name))
    runs = plan(name, torch.cuda.is_available())
    recording.once(lambda: {"dense": evaluate(dense, data) | size(dense)}, "dense")

    def pruned(task: Pruned) -> dict[str, list[dict]]:
        model, _ = prune(dense, *task, dense)
        return {"pruned": [task._asdict() | evaluate(model, data) | size(model)]}

    def trained(task: Run) -> dict[str, list[dict]]:
        points = measure(task, name, data, partial(bar, text="steps"))
        say(f"{task}: {points[-1]['accuracy']:.2f} %")
        return {"points": [one for one in points if not recording.has("points", **_key(one))]}

    tasks = [*dict.fromkeys(Pruned(run.granularity, run.amount) for run in runs)]
    recording.each(tasks, pruned, tables=("pruned",), text="pruned networks")
    recording.each(runs, trained, expected=_keys, work=lambda run: run.epoch_fractions[-1])


def _key(point: dict) -> dict:
    return {name: point[name] for name in KEY}


def _keys(run: Run) -> list[dict]:
    return [
        _key(run._asdict() | {"epoch_fraction": epoch_fraction})
        for epoch_fraction in run.epoch_fractions
    ]
