"""Read recordings of :mod:`course_lib.experiments.drop_recovery`, complete or not.

Results that are not recorded are NaN, which a figure leaves out.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import TypedDict

from course_lib.experiments import recordings
from course_lib.experiments.drop_recovery import Run, keys, plan
from course_lib.experiments.recordings import RecordingError
from course_lib.experiments.records import DropRecovery, RetrainedNetwork
from course_lib.measuring.estimates import (
    Estimate,
    difference,
    over_seeds,
    paired_counts,
    unpaired,
    widened,
)
from course_lib.networks.data import DATA

#: The accuracies of these recordings are measured on so many pictures.
TEST_PICTURES = 10_000


class Chosen(DropRecovery):
    """A recording and its ``name``, that of the machine."""

    name: str


def load(model: str, root: Path = DATA) -> Chosen:
    """The recording of ``model`` with the most points (of equal ones, a GPU's), and its ``name``.

    Raises:
        RecordingError: there is none, or one is damaged.
    """
    found = recordings.load("drop_recovery", model, root)
    if not found:
        raise RecordingError(
            f"{root} has no recording of drop_recovery for {model}. Restore it with "
            f"'git checkout -- data/recordings', or make one: python -m course_lib record "
            f"drop_recovery --model {model}"
        )
    name = max(found, key=lambda name: (len(found[name]["points"]), on_gpu(found[name])))
    return found[name] | {"name": name}


def on_gpu(recording: DropRecovery) -> bool:
    """Whether the ``recording`` was made on a GPU."""
    return _device(recording["machine"]) != recording["machine"]["processor"]


def _device(machine: Mapping[str, str]) -> str:
    """What trained the networks on a ``machine``: its GPU, or its processor if it has none."""
    gpu = machine.get("CUDA GPU", "none")
    return machine["processor"] if gpu == "none" else gpu


def _plan(recording: DropRecovery) -> list[Run]:
    """What was to be recorded: the plan for a GPU if the header has its seeds.

    The plan for a processor can be recorded on a GPU, too.
    """
    longer = plan(recording["model"], gpu=True)
    gpu = set(recording["seeds"]) == {run.seed for run in longer}
    return longer if gpu else plan(recording["model"], gpu=False)


def about(recording: Chosen) -> str:
    """Where a ``recording`` was made, how much of its plan is done, and with which seeds."""
    machine, points = recording["machine"], recording["points"]
    machines = recording.get("machines", [machine])
    device = " and ".join(dict.fromkeys(map(_device, machines)))
    planned = [key for run in _plan(recording) for key in keys(run, recording["model"])]
    missing = [key for key in planned if not any(key.items() <= point.items() for point in points)]
    seeds = ", ".join(str(seed) for seed in sorted({point["seed"] for point in points}))
    lines = [
        f"{recording['model']}: recorded on {recording['name']} ({device}, "
        f"{machine.get('threads', '?')} threads), {recording['written']}",
        f"  {len(points)} points, seeds {seeds or 'none'}",
    ]
    if missing:
        lines.append(
            f"  it is not complete: {len(missing)} of {len(planned)} planned points are missing, "
            "below as well"
        )
    return "\n".join(lines)


def gaps(
    recording: DropRecovery,
    granularity: str,
    amount: float,
    epoch_fraction: float = 0.2,
    **how: str,
) -> list[float]:
    """Test accuracy still lost after retraining, in points, for each seed that is recorded.

    Args:
        how: ``method``, "one-shot" by default; ``schedule``, by default the one with the best
            accuracy on the validation pictures. Of several learning rates of a schedule, the best
            on them is selected, too. Only those with the most seeds compete: a single training may
            have been lucky.
    """
    dense = recording["dense"]["accuracy"]
    found = _selected(recording, granularity, amount, epoch_fraction, **how)
    return [dense - point["accuracy"] for point in found]


def _selected(
    recording: DropRecovery,
    granularity: str,
    amount: float,
    epoch_fraction: float = 0.2,
    method: str = "one-shot",
    schedule: str | None = None,
) -> list[RetrainedNetwork]:
    """The points of :func:`gaps`, in the order of their seeds."""
    what = {
        "granularity": granularity,
        "amount": amount,
        "epoch_fraction": epoch_fraction,
        "method": method,
    }
    found = recordings.points(recording, **what)
    groups = _by_rates([point for point in found if schedule in (None, point["schedule"])])
    most = max(map(len, groups.values()), default=0)
    rivals = [points for points in groups.values() if len(points) == most]
    best: list[RetrainedNetwork] = max(rivals, key=_mean_validation, default=[])
    return sorted(best, key=lambda point: point["seed"])


def _mean_validation(points: list[RetrainedNetwork]) -> float:
    return fmean(point["validation"] for point in points)


def _by_rates(points: list[RetrainedNetwork]) -> dict[tuple[str, float], list[RetrainedNetwork]]:
    """The ``points`` by schedule and highest learning rate."""
    found: dict[tuple[str, float], list[RetrainedNetwork]] = {}
    for point in points:
        found.setdefault((point["schedule"], point["lr"]), []).append(point)
    return found


def gap(
    recording: DropRecovery,
    granularity: str,
    amount: float,
    epoch_fraction: float = 0.2,
    **how: str,
) -> float:
    """The mean of :func:`gaps`, in points; NaN if none is recorded."""
    lost = gaps(recording, granularity, amount, epoch_fraction, **how)
    return fmean(lost) if lost else math.nan


def gap_estimate(
    recording: DropRecovery,
    granularity: str,
    amount: float,
    epoch_fraction: float = 0.2,
    **how: str,
) -> Estimate | None:
    """The mean of :func:`gaps` with its 95 % interval, in points; None if none is recorded.

    The interval covers the test pictures: paired if the recording counts those that only one of
    both networks gets right, otherwise wider. With several seeds it also covers the luck of the
    training; with a single one it does not.
    """
    found = _selected(recording, granularity, amount, epoch_fraction, **how)
    if not found:
        return None
    dense = recording["dense"]["accuracy"]
    pictures = _of_pictures(dense, found)
    lost = [dense - point["accuracy"] for point in found]
    return widened(over_seeds(lost), pictures) if len(lost) > 1 else pictures


class Way(TypedDict, total=False):
    """How a network was pruned and retrained; see :func:`gaps`."""

    epoch_fraction: float
    method: str
    schedule: str


def lead(
    recording: DropRecovery, granularity: str, amount: float, way: Way, rival: Way
) -> Estimate | None:
    """Accuracy of ``way`` minus that of its ``rival``, in points, paired by seed.

    None if no seed is recorded for both. The interval covers the luck of the training, and that of
    the test pictures. The latter is estimated from above: which pictures only one of the two gets
    right is not recorded, so it is that of two independent gaps. With one seed in common it covers
    the pictures only.
    """
    ours, theirs = (
        {point["seed"]: point for point in _selected(recording, granularity, amount, **how)}
        for how in (way, rival)
    )
    both = [seed for seed in ours if seed in theirs]
    if not both:
        return None
    dense = recording["dense"]["accuracy"]
    pictures = difference(*(_of_pictures(dense, [*each.values()]) for each in (theirs, ours)))
    if len(both) == 1:
        return pictures
    ahead = [ours[seed]["accuracy"] - theirs[seed]["accuracy"] for seed in both]
    return widened(over_seeds(ahead), pictures)


def _of_pictures(dense: float, points: list[RetrainedNetwork]) -> Estimate:
    """The gap of one of the ``points``, preferably with paired counts."""
    point = next((one for one in points if "only_dense" in one), points[0])
    if "only_dense" in point:
        return paired_counts(point["only_dense"], point["only_pruned"], TEST_PICTURES)
    return unpaired(dense, point["accuracy"], TEST_PICTURES)


# --- built in lesson 04 -------------------------------------------------------------------------


def smallest_budget(gaps: Mapping[float, float], tolerance: float) -> float | None:
    """The smallest budget whose gap is at most ``tolerance`` points; None if there is none.

    Args:
        gaps: by budget, the accuracy still lost, in points. Lesson 04 builds this function.
    """
    return min(
        (epoch_fraction for epoch_fraction, lost in gaps.items() if lost <= tolerance), default=None
    )
