"""Read recordings of :mod:`course_lib.experiments.drop_recovery`, complete or not.

Results that are not recorded are NaN, which a figure leaves out.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from course_lib.experiments import recordings
from course_lib.experiments.drop_recovery import keys, plan
from course_lib.experiments.recordings import RecordingError
from course_lib.experiments.records import DropRecovery, RetrainedNetwork
from course_lib.measuring.estimates import (
    Estimate,
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
    return recording["machine"].get("CUDA GPU", "none") != "none"


def about(recording: Chosen) -> str:
    """Where a ``recording`` was made, how much of its plan is done, and with which seeds."""
    machine, points = recording["machine"], recording["points"]
    machines = recording.get("machines", [machine])
    kind = "CUDA GPU" if on_gpu(recording) else "processor"
    device = " and ".join(dict.fromkeys(each[kind] for each in machines))
    runs = plan(recording["model"], on_gpu(recording))
    planned = [key for run in runs for key in keys(run, recording["model"])]
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
    epoch_fraction: float,
    method: str = "one-shot",
    schedule: str | None = None,
) -> list[RetrainedNetwork]:
    """The points of :func:`gaps`."""
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
    return max(rivals, key=_mean_validation, default=[])


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
    pictures = _of_pictures(dense, next((one for one in found if "only_dense" in one), found[0]))
    lost = [dense - point["accuracy"] for point in found]
    return widened(over_seeds(lost), pictures) if len(lost) > 1 else pictures


def _of_pictures(dense: float, point: RetrainedNetwork) -> Estimate:
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
