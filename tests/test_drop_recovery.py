"""The experiment does the planned runs, each as specified, and resumes after an interruption."""

import json
from itertools import pairwise, product

import pytest
import torch
from interruptions import interrupt

from course_lib.__main__ import main
from course_lib.experiments import drop_recovery, recorder, recordings
from course_lib.experiments.drop_recovery import (
    AMOUNTS,
    SCHEDULES,
    Run,
    Sweep,
    keys,
    measure,
    plan,
    stages,
)
from course_lib.experiments.recorder import Part, merge, record
from course_lib.measuring import quality
from course_lib.measuring.machine import machine_facts
from course_lib.measuring.quality import interval
from course_lib.networks import models
from course_lib.networks.data import Images, Splits
from course_lib.networks.models import SmallResNet
from course_lib.networks.recipes import RECIPES, Recipe
from course_lib.networks.training import Constant, OneCycle, Rewound
from course_lib.pruning.granularity import prune
from course_lib.pruning.masks import masks_of, sparsity

EPOCHS, LR = 10, 0.1


def small_network() -> SmallResNet:
    """A network of a few hundred weights, drawn from the seed of its recipe."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SmallResNet(widths=(4, 8), depth=1).eval()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A network and a recipe that train in no time, instead of those of small_resnet."""
    monkeypatch.setattr(drop_recovery, "load_trained", lambda name: small_network())
    recipe = Recipe("small_resnet", epochs=EPOCHS, lr=LR, must_reach=0)
    monkeypatch.setitem(RECIPES, "small_resnet", recipe)


@pytest.fixture(scope="module")
def pictures():
    """4 steps per epoch, 40 in all: a budget of 5 % is two steps."""
    random = torch.Generator().manual_seed(0)
    images, labels = torch.randn(650, 1, 28, 28, generator=random), torch.arange(650) % 10
    sizes = (520, 70, 60)
    return Splits(*map(Images, images.split(sizes), labels.split(sizes)))


@pytest.fixture
def weights_when_measured(monkeypatch):
    """The weights of every network whose quality is measured."""
    seen, evaluate = [], quality.evaluate_beside

    def noted(dense, model, data):
        seen.append(torch.cat([value.flatten() for value in model.state_dict().values()]))
        return evaluate(dense, model, data)

    monkeypatch.setattr(drop_recovery, "evaluate_beside", noted)
    return seen


def point(model, granularity, amount, schedule, epoch_fraction, seed, data, method="one-shot"):
    """The point of a run with a single budget."""
    (found,) = measure(
        Run(granularity, amount, method, schedule, (epoch_fraction,), seed), model, data
    )
    return found


@pytest.fixture
def fits(monkeypatch):
    """The arguments of every training, and the sparsity of the network that it trained."""
    seen, fit = [], drop_recovery.fit

    def noted(model, data, **options):
        seen.append(options | {"sparsity": sparsity(model), "stem": len(model.stem.weight)})
        return fit(model, data, **options)

    monkeypatch.setattr(drop_recovery, "fit", noted)
    return seen


# --- the plan -----------------------------------------------------------------------------------


def points_of(runs: list[Run]) -> list[tuple]:
    """The identifying fields of the points of ``runs``, granularity and amount last."""
    return [
        (run.method, run.schedule, epoch_fraction, run.seed, run.granularity, run.amount)
        for run in runs
        for epoch_fraction in run.epoch_fractions
    ]


def every_amount(methods, schedules, epoch_fractions, seeds) -> set[tuple]:
    pruned = [
        (granularity, amount) for granularity, amounts in AMOUNTS.items() for amount in amounts
    ]
    rows = product(methods, schedules, epoch_fractions, seeds, pruned)
    return {(*row, *what) for *row, what in rows}


def test_amounts_are_those_of_lesson_04():
    assert AMOUNTS["weights"] == (0.5, 0.8, 0.9, 0.95, 0.98)
    assert AMOUNTS["channels"] == (0.25, 0.5, 0.7, 0.85)


BOTH = ("constant", "rewound")


def test_amounts_are_among_those_of_the_curves_and_some_among_them():
    for granularity, amounts in AMOUNTS.items():
        assert set(drop_recovery.SOME[granularity]) < set(amounts)
        assert set(amounts) <= set(drop_recovery.CURVE[granularity])


def test_plan_of_the_small_network_begins_with_every_amount_at_a_fifth_of_the_epochs():
    points = points_of(plan("small_resnet", gpu=False))
    assert len(points) > len(set(points))  # constant runs differ only in their rate
    assert set(points[:27]) == every_amount(["one-shot"], ["rewound"], [0.2], range(3))
    rows = {point[:4] for point in points if point[4:] == ("weights", 0.9)}
    for schedule in SCHEDULES["one-shot"]:
        budgets = (0.05, 0.1, 0.2, 0.5)
        assert rows >= {("one-shot", schedule, *one) for one in product(budgets, range(3))}
    for method, names in SCHEDULES.items():
        assert rows >= {(method, names[-1], 0.2, seed) for seed in range(3)}


@pytest.mark.parametrize("model", ["small_resnet", "resnet18"])
@pytest.mark.parametrize("gpu", [False, True])
def test_no_plan_has_a_point_twice(model, gpu):
    found = [tuple(key.values()) for run in plan(model, gpu) for key in keys(run, model)]
    assert len(found) == len(set(found)) > 0


def test_plan_of_resnet18_has_the_larger_budget_first_then_more_seeds():
    points = points_of(plan("resnet18", gpu=False))
    larger, smaller = (every_amount(["one-shot"], ["rewound"], [b], [0]) for b in (0.2, 0.1))
    assert set(points[:9]) == larger and set(points[9:18]) == smaller
    assert set(points[18:36]) == every_amount(["one-shot"], ["rewound"], [0.2], [1, 2])


@pytest.mark.parametrize("model", ["small_resnet", "resnet18"])
def test_plan_for_a_gpu_is_everything_with_five_seeds_one_after_the_other(model):
    points = points_of(plan(model, gpu=True))
    seeds, names = range(5), ["constant", "rewound", "one-cycle"]
    assert set(points) == (
        every_amount(["one-shot"], names, [0.05, 0.1, 0.2, 0.5, 1.0], seeds)
        | every_amount(["gradual", "iterative"], ["rewound"], [0.2], seeds)
        | every_amount(["scratch"], ["one-cycle"], [0.2, 1.0], seeds)
    )
    assert [seed for *_, seed, _, _ in points] == sorted(seed for *_, seed, _, _ in points)


def test_every_run_of_a_plan_is_possible(pictures, monkeypatch):
    monkeypatch.setattr(drop_recovery, "fit", lambda *_, **__: None)
    for run in dict.fromkeys(run._replace(amount=0.5) for run in plan("small_resnet", gpu=True)):
        if run.granularity == "weights" and run.seed == 0:
            assert measure(run, "small_resnet", pictures)


def test_the_command_knows_the_networks_of_the_plans(capsys):
    assert main(["record", "drop_recovery", "--model", "nobody"]) == 1
    said = capsys.readouterr().err
    assert all(name in said for name in drop_recovery.PLANS)


# --- one run ------------------------------------------------------------------------------------


def test_a_smaller_budget_at_a_constant_rate_is_the_same_run_cut_short(
    pictures, weights_when_measured
):
    epoch_fractions = (0.05, 0.1, 0.2)
    nested = measure(
        Run("weights", 0.9, "one-shot", "constant", epoch_fractions, 3), "small_resnet", pictures
    )
    alone = [
        point("small_resnet", "weights", 0.9, "constant", epoch_fraction, 3, pictures)
        for epoch_fraction in epoch_fractions
    ]
    for first, second in zip(nested, alone, strict=True):
        assert first == second
    together, apart = weights_when_measured[:3], weights_when_measured[3:]
    assert all(map(torch.equal, together, apart))
    assert not torch.equal(together[0], together[1])


def test_a_point_says_what_was_run_and_measured(pictures):
    found = point("small_resnet", "weights", 0.8, "rewound", 0.1, 2, pictures)
    asked = {"granularity": "weights", "amount": 0.8, "method": "one-shot", "schedule": "rewound"}
    assert (
        found.items()
        >= (asked | {"epoch_fraction": 0.1, "seed": 2, "epochs": 1.0, "lr": LR}).items()
    )
    assert found["interval"] == pytest.approx(interval(found["accuracy"], 60), abs=0.01)
    low, high = found["interval"]
    assert low < found["accuracy"] < high and high - low > 5  # of 60 pictures, not of 10,000
    dense = quality.evaluate(small_network(), pictures)["accuracy"]
    difference = 100 * (found["only_dense"] - found["only_pruned"]) / 60
    assert difference == pytest.approx(dense - found["accuracy"], abs=0.02)


@pytest.mark.parametrize(
    ("method", "schedule"),
    [(method, schedule) for method, names in SCHEDULES.items() for schedule in names],
)
def test_pruned_weights_stay_gone_to_the_end(pictures, weights_when_measured, method, schedule):
    point("small_resnet", "weights", 0.9, schedule, 0.2, 0, pictures, method=method)
    network = small_network()
    total = sum(mask.numel() for mask in masks_of(network).values())
    (weights,) = weights_when_measured
    assert (weights == 0).sum() >= round(0.9 * total)


def test_rates_are_those_of_the_schedule(pictures, fits):
    run = Run("weights", 0.5, "one-shot", "constant", (0.2,), 0, lr_factor=0.3)
    (found,) = measure(run, "small_resnet", pictures)
    for schedule in ("one-cycle", "rewound"):
        point("small_resnet", "weights", 0.5, schedule, 0.2, 0, pictures)
    constant, squeezed, rewound = fits
    assert found["lr"] == constant["optimizer"].lr == pytest.approx(0.3 * LR)
    assert squeezed["optimizer"].lr == rewound["optimizer"].lr == LR
    schedules = [call["schedule"] for call in fits]
    assert schedules == [Constant(), OneCycle(), Rewound(EPOCHS)]
    assert all(call["epochs"] == 0.2 * EPOCHS for call in fits)


@pytest.mark.parametrize("method", ["gradual", "iterative"])
def test_pruning_in_steps_reaches_the_amount_halfway_within_one_schedule(pictures, fits, method):
    point("small_resnet", "weights", 0.9, "rewound", 0.4, 0, pictures, method=method)
    amounts = [call["sparsity"] for call in fits]
    assert amounts == sorted(amounts) and amounts[0] > 0.4
    left = [1 - amount for amount in amounts]
    ratios = [second / first for first, second in pairwise(left)]
    alike = max(ratios) - min(ratios) < 0.02  # the same share of what is left, each time
    assert alike == (method == "iterative")
    assert amounts[-1] == pytest.approx(0.9, abs=0.001) and amounts[-2] < 0.9
    assert sum(call["epochs"] for call in fits) == pytest.approx(4)
    assert fits[-1]["epochs"] >= 2 and fits[-1]["schedule"].to_follow == 0
    for call, follower in pairwise(fits):  # each continues where the previous one stopped
        left = follower["schedule"].to_follow + follower["epochs"]
        assert call["schedule"].to_follow == pytest.approx(left)
    assert len({call["seed"] for call in fits}) == len(fits)


def test_stages_of_the_real_recipe_make_the_steps_of_its_budget():
    for epoch_fraction in drop_recovery.EPOCH_FRACTIONS:
        parts = stages(Run("weights", 0.9, "gradual", "rewound", (epoch_fraction,), 0), 12)
        assert sum(round(stage.epochs * 429) for stage in parts) == pytest.approx(
            epoch_fraction * 12 * 429, abs=2
        )


def test_scratch_starts_from_other_weights_with_the_same_zeros(pictures, monkeypatch):
    started = []

    def note(model, *_, **__):
        started.append(model)

    monkeypatch.setattr(drop_recovery, "fit", note)
    before = torch.get_rng_state()
    for method, schedule, seed in (
        ("one-shot", "constant", 0),
        ("scratch", "one-cycle", 0),
        ("scratch", "one-cycle", 0),
        ("scratch", "one-cycle", 1),
    ):
        point("small_resnet", "weights", 0.5, schedule, 0.2, seed, pictures, method=method)
    assert torch.equal(torch.get_rng_state(), before)
    trained, fresh, again, other = ((model, model.blocks[0].conv1.weight) for model in started)
    assert torch.equal(fresh[1], again[1])
    assert not torch.equal(fresh[1], other[1]) and not torch.equal(fresh[1], trained[1])
    zeros = masks_of(trained[0])
    for model, _ in (fresh, other):
        assert all(torch.equal(mask, zeros[name]) for name, mask in masks_of(model).items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "lenet"}, "'lenet' is not possible here; choose from small_resnet"),
        ({"granularity": "heads"}, "'heads'.*weights, channels"),
        ({"method": "random"}, "'random'.*one-shot, gradual, iterative, scratch"),
        ({"schedule": "cosine"}, "'cosine'.*constant, one-cycle, rewound"),
        ({"epoch_fraction": 0}, "A budget is a fraction"),
        ({"epoch_fraction": 1.5}, "A budget is a fraction"),
        ({"amount": 1.5}, "sparsity"),
    ],
)
def test_an_impossible_point_is_refused(pictures, change, message):
    asked = {
        "model": "small_resnet",
        "granularity": "weights",
        "amount": 0.5,
        "epoch_fraction": 0.2,
    }
    asked |= {"schedule": "constant", "seed": 0, "data": pictures} | change
    with pytest.raises(ValueError, match=message):
        point(**asked)


@pytest.mark.parametrize(
    ("method", "schedule"),
    [("one-shot", "rewound"), ("iterative", "constant"), ("scratch", "one-cycle")],
)
def test_budgets_that_do_not_nest_are_refused_together(pictures, method, schedule):
    run = Run("weights", 0.5, method, schedule, (0.1, 0.2), 0)
    with pytest.raises(ValueError, match="needs a separate run for each"):
        measure(run, "small_resnet", pictures)


# --- channels -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("amount", AMOUNTS["channels"])
def test_iterative_and_one_shot_end_with_the_same_channels_in_number(amount):
    dense = models.on_device(SmallResNet(widths=(16, 32)))
    once, masks = prune(dense, "channels", amount, dense)
    assert masks == {}
    model = dense
    for stage in stages(Run("channels", amount, "iterative", "rewound", (0.2,), 0), 12):
        before = sum(parameter.numel() for parameter in model.parameters())
        model, _ = prune(model, "channels", stage.amount, dense)
        assert sum(parameter.numel() for parameter in model.parameters()) < before
    shapes = [[parameter.shape for parameter in each.parameters()] for each in (once, model)]
    assert shapes[0] == shapes[1]
    assert len(once.stem.weight) == 16 - round(16 * amount)
    assert len(dense.stem.weight) == 16


@pytest.mark.parametrize(
    ("method", "schedule"),
    [("one-shot", "constant"), ("iterative", "rewound"), ("scratch", "one-cycle")],
)
def test_channels_are_really_gone_while_training(pictures, fits, method, schedule):
    found = point("small_resnet", "channels", 0.5, schedule, 0.2, 0, pictures, method=method)
    assert fits[-1]["stem"] == 2 and fits[-1]["sparsity"] == 0
    assert found["granularity"] == "channels" and found["epochs"] == 2


# --- the recording ------------------------------------------------------------------------------


@pytest.fixture
def few_runs(monkeypatch, pictures):
    """A plan of 9 runs without training: a point depends only on its run."""
    monkeypatch.setattr(drop_recovery, "CURVE", {"weights": (0.5, 0.9), "channels": (0.5,)})
    amounts = {"weights": (0.5, 0.9), "channels": (0.5,)}
    rows = [
        Sweep("one-shot", "constant", (0.05, 0.1), (0,), amounts=amounts),
        Sweep("one-shot", "rewound", (0.1,), (0,), amounts=amounts),
        Sweep("scratch", "one-cycle", (0.1,), (1,), amounts=amounts),
    ]
    monkeypatch.setitem(drop_recovery.PLANS, "small_resnet", rows)
    monkeypatch.setattr(drop_recovery, "fashion_mnist", lambda: pictures)
    measured = []

    def pretended(run, model_name, data, progress, dense_correct):
        measured.append(run)
        facts = {"epochs": 1.0, "lr": 0.1}
        result = {"accuracy": 90 + run.amount, "interval": [90, 91], "validation": 90.0}
        named = {
            name: getattr(run, name) for name in ("granularity", "amount", "method", "schedule")
        }
        return [
            named | {"epoch_fraction": epoch_fraction, "seed": run.seed} | facts | result
            for epoch_fraction in run.epoch_fractions
        ]

    monkeypatch.setattr(drop_recovery, "measure", pretended)
    return measured


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "after"),
    [("evaluate", 0)]
    + [("evaluate_beside", n) for n in range(6)]
    + [("measure", n) for n in range(9)],
)
def test_an_interrupted_recording_ends_as_an_uninterrupted_one(
    few_runs, tmp_path, monkeypatch, name, after
):
    whole, parts = tmp_path / "whole.json", tmp_path / "parts.json"
    record("drop_recovery", "small_resnet", whole)
    few_runs.clear()
    with monkeypatch.context() as patched:
        interrupt(patched, drop_recovery, name, after)
        with pytest.raises(KeyboardInterrupt):
            record("drop_recovery", "small_resnet", parts)
    if parts.exists():
        recordings.read(parts, "drop_recovery")  # whatever was written is a valid recording
    record("drop_recovery", "small_resnet", parts)
    assert parts.read_text() == whole.read_text()
    assert len(few_runs) == len(set(few_runs)) == 9  # nothing was run twice
    assert sorted(tmp_path.iterdir()) == [parts, whole]


def test_a_complete_recording_runs_nothing_and_says_so(few_runs, tmp_path, capsys):
    path = record("drop_recovery", "small_resnet", tmp_path / "a.json")
    first = capsys.readouterr().out
    assert "0 of 9 runs are already recorded" in first and first.count("hours to go") == 3 + 9
    few_runs.clear()
    record("drop_recovery", "small_resnet", path)
    assert not few_runs and "9 of 9 runs are already recorded" in capsys.readouterr().out


def test_a_recording_holds_the_dense_and_the_pruned_networks(few_runs, tmp_path):
    path = record("drop_recovery", "small_resnet", tmp_path / "a.json")
    found = recordings.read(path, "drop_recovery")
    parameters = {
        (each["granularity"], each["amount"]): each["parameters"] for each in found["pruned"]
    }
    macs = {(each["granularity"], each["amount"]): each["macs"] for each in found["pruned"]}
    dense = found["dense"]
    assert list(parameters) == [("weights", 0.5), ("weights", 0.9), ("channels", 0.5)]
    assert macs["weights", 0.9] == dense["macs"] > 2 * macs["channels", 0.5] > 0
    prunable = sum(mask.numel() for mask in masks_of(small_network()).values())
    assert dense["parameters"] - parameters["weights", 0.9] == round(0.9 * prunable)
    assert [each["amount"] for each in found["recalibrated"]] == [0.5, 0.9, 0.5]
    assert found["seeds"] == [0, 1]
    assert found["recipe"]["epochs"] == EPOCHS


def test_a_run_that_lacks_a_point_is_run_again_without_doubling_the_others(few_runs, tmp_path):
    path = record("drop_recovery", "small_resnet", tmp_path / "a.json")
    found = json.loads(path.read_text())
    lost = found["points"].pop(1)
    recordings.write(found, path)
    few_runs.clear()
    record("drop_recovery", "small_resnet", path)
    again = json.loads(path.read_text())["points"]
    assert len(few_runs) == 1 and again == [*found["points"], lost]


def test_two_parts_give_the_recording_of_one_run(few_runs, tmp_path):
    whole = record("drop_recovery", "small_resnet", tmp_path / "whole.json")
    parts = tmp_path / "parts.json"
    paths = [
        record("drop_recovery", "small_resnet", parts, part=Part(number, 2)) for number in (1, 2)
    ]
    assert all(len(recordings.read(path)["points"]) < 12 for path in paths)
    assert merge(paths, parts).read_text() == whole.read_text()


def test_a_damaged_recording_is_kept_and_a_new_one_begins(few_runs, tmp_path, capsys):
    path = tmp_path / "a.json"
    path.write_text("{")
    record("drop_recovery", "small_resnet", path)
    assert "set aside" in capsys.readouterr().out
    (aside,) = tmp_path.glob("a.aside-*.json")
    assert aside.read_text() == "{"
    assert len(recordings.read(path, "drop_recovery")["points"]) == 12


def test_another_recipe_begins_a_new_recording(few_runs, tmp_path, monkeypatch):
    path = record("drop_recovery", "small_resnet", tmp_path / "a.json")
    recipe = RECIPES["small_resnet"]._replace(epochs=5)
    monkeypatch.setitem(RECIPES, "small_resnet", recipe)
    record("drop_recovery", "small_resnet", path)
    assert len(few_runs) == 18 and len([*tmp_path.iterdir()]) == 2


# --- the command --------------------------------------------------------------------------------


@pytest.fixture
def command(few_runs, tmp_path):
    """The command line, and the file that it writes."""
    path = tmp_path / "folder" / "a.json"
    return lambda: main(
        ["record", "drop_recovery", "--model", "small_resnet", "--out", str(path)]
    ), path


def test_command_records(command, capsys):
    record, path = command
    assert record() == 0
    assert f"wrote {path}" in capsys.readouterr().out
    assert len(recordings.read(path, "drop_recovery")["points"]) == 12


def test_command_says_that_it_was_stopped(command, capsys, monkeypatch):
    record, path = command
    interrupt(monkeypatch, drop_recovery, "measure", 2)
    assert record() == 130
    assert "the same command resumes" in capsys.readouterr().err
    assert len(recordings.read(path, "drop_recovery")["points"]) == 4


def test_command_resumes_with_other_threads_and_notes_them(command, monkeypatch):
    record, path = command
    record()
    facts = machine_facts() | {"threads": "64"}
    monkeypatch.setattr(recorder, "machine_facts", lambda: facts)
    interrupted = json.loads(path.read_text())
    interrupted["points"].pop()
    recordings.write(interrupted, path)
    assert record() == 0
    assert recordings.read(path)["machines"] == [machine_facts(), facts]


def test_without_a_path_the_file_is_this_machine_s(few_runs, tmp_path, monkeypatch):
    monkeypatch.setattr(recordings, "machine_name", lambda: "abacus")
    monkeypatch.setattr(recordings.file_of, "__defaults__", (tmp_path,))
    path = record("drop_recovery", "small_resnet")
    assert path == tmp_path / "recordings" / "abacus" / "drop_recovery-small_resnet.json"
    assert [*recordings.load("drop_recovery", "small_resnet", tmp_path)] == ["abacus"]
