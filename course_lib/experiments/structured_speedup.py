"""What removed channels buy: MACs, predicted and measured time of a layer, a chain and networks.

Lesson 06 shows what this experiment recorded, and runs some of it again.
"""

import math
from collections.abc import Iterable
from functools import partial
from itertools import pairwise, product
from typing import NamedTuple

import torch
from torch import nn

from course_lib.experiments.recorder import Recording
from course_lib.measuring.cost import Roofline, macs, roofline, work
from course_lib.measuring.timing import as_recorded, compare, round_significant, too_slow
from course_lib.networks.models import EXAMPLE, load_trained
from course_lib.pruning.granularity import prune

#: Fractions of the channels that are removed: the widths 100 to 20 %.
REMOVED = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)

#: What is timed. "outputs": one convolution that loses outputs. "chain": three convolutions that
#: lose all of their channels, also those that they read. Two trained networks.
PARTS = ("outputs", "chain", "resnet18", "small_resnet")

#: Channels of the convolutions in "outputs" and "chain", on maps of so many pixels a side.
WIDTH, SIDE = 256, 14

BATCHES = (1, 8, 64)

#: Channels of a convolution that reads and writes as many, one more at a time.
STAIRCASE = tuple(range(48, 73))

DTYPES = {"cpu": ("float32",), "cuda": ("float16", "float32")}

#: How a comparison is timed, if nothing else is asked for.
TIMING = {"rounds": 30, "seconds": 5.0, "limit": 30.0}

#: Seconds that a recorded comparison may take.
LIMIT = 300.0


def build(part: str, removed: float) -> nn.Module:
    """The ``part`` without the fraction ``removed`` of its channels, ready to be timed.

    Raises:
        ValueError: an unknown part.
    """
    left = WIDTH - round(removed * WIDTH)
    if part == "outputs":
        return _convolutions([WIDTH, left])
    if part == "chain":
        return _convolutions([left] * 4)
    if part not in PARTS:
        raise ValueError(f"There is no part {part!r}; choose from {', '.join(PARTS)}.")
    whole = load_trained(part)
    return (prune(whole, "channels", removed, whole)[0] if removed else whole).cpu().eval()


def _convolutions(channels: list[int]) -> nn.Sequential:
    layers = []
    for inputs, outputs in pairwise(channels):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.ReLU()]
    return nn.Sequential(*layers).eval()


def example(model: nn.Module, batch: int, seed: int = 0) -> torch.Tensor:
    """Random inputs for what :func:`build` gives."""
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    shape = EXAMPLE.shape[1:] if first.in_channels == 1 else (first.in_channels, SIDE, SIDE)
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(batch, *shape, generator=generator)
    return inputs.to(first.weight).contiguous(memory_format=torch.channels_last)


def measure(
    part: str,
    batch: int,
    removed: Iterable[float] = REMOVED,
    *,
    roof: Roofline,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    **timing,
) -> list[dict]:
    """Time a ``part`` at several widths, all in turns; a point for each, times in milliseconds.

    ``predicted`` is what ``roof`` allows at best, the layers one after the other; ``speedup`` is
    over the first of ``removed``. What does not fit into the limit of seconds is run once, see
    :func:`course_lib.measuring.timing.compare`, and has no interval.

    Args:
        timing: ``rounds``, ``seconds`` and ``limit`` of that function.
    """
    models = {fraction: placed(build(part, fraction), device, dtype) for fraction in removed}
    inputs = {fraction: example(model, batch) for fraction, model in models.items()}
    result = compare(
        {str(each): partial(models[each], inputs[each]) for each in models},
        **TIMING | timing,
    )
    first = next(iter(result.timings))
    points = []
    for fraction, model in models.items():
        layers = work(model, inputs[fraction]).values()
        point = {"part": part, "removed": fraction, "batch": batch, "dtype": _name(dtype)}
        point["parameters"] = sum(each.numel() for each in model.parameters())
        point["macs"] = sum(layer.macs for layer in layers)
        point["predicted"] = round_significant(sum(roof.milliseconds(layer) for layer in layers))
        speedup = result.speedup(str(fraction), over=first)
        points.append(point | as_recorded(result.timings[str(fraction)], speedup))
    return points


def staircase(
    batch: int,
    channels: Iterable[int] = STAIRCASE,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    **timing,
) -> list[dict]:
    """Time a convolution that reads and writes so many ``channels``, for each of them, in turns.

    ``speedup`` is over the last of ``channels``.
    """
    models = {count: placed(_convolutions([count] * 2), device, dtype) for count in channels}
    inputs = {count: example(model, batch) for count, model in models.items()}
    result = compare(
        {str(each): partial(models[each], inputs[each]) for each in models},
        **TIMING | timing,
    )
    last = [*result.timings][-1]
    return [
        {"channels": count, "batch": batch, "dtype": _name(dtype)}
        | {"macs": macs(model, inputs[count])}
        | as_recorded(result.timings[str(count)], result.speedup(str(count), over=last))
        for count, model in models.items()
    ]


def placed(model: nn.Module, device: str, dtype: torch.dtype) -> nn.Module:
    """``model`` on a device, in the layout that convolutions are fastest in."""
    # torch's types do not know a device and a layout together
    return model.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# --- the recording ------------------------------------------------------------------------------


class Task(NamedTuple):
    """A part of :data:`PARTS`, or the "staircase", to be timed at all widths in turns."""

    part: str
    batch: int
    dtype: str


def header(model: str, device: str) -> dict:
    """What a recording of this experiment begins with."""
    return {"device": device, "refused": []}


def run(recording: Recording) -> None:
    """Measure what the recording lacks: the ceilings of the machine, and every comparison."""
    device = recording["device"]
    recording.once(lambda: _ceilings(device), "rooflines")
    rooflines = {
        each["dtype"]: Roofline(each["bandwidth"], each["rate"]) for each in recording["rooflines"]
    }

    def measured(task: Task) -> dict[str, list[dict]]:
        where = {"device": device, "dtype": getattr(torch, task.dtype), "limit": LIMIT}
        if task.part == "staircase":
            table, points = "staircase", staircase(task.batch, **where)
        else:
            table = "points"
            points = measure(task.part, task.batch, roof=rooflines[task.dtype], **where)
        return {
            table: [point for point in points if not _too_slow(point)],
            "refused": [_refused(point) for point in points if _too_slow(point)],
        }

    tasks = [Task(*each) for each in product((*PARTS, "staircase"), BATCHES, DTYPES[device])]
    tasks.sort(key=lambda task: (DTYPES[device].index(task.dtype), BATCHES.index(task.batch)))
    tables = ("points", "staircase", "refused")
    recording.each(tasks, measured, expected=_expected, tables=tables, text="comparisons")


def _ceilings(device: str) -> dict:
    found = {name: roofline(device, getattr(torch, name)) for name in DTYPES[device]}
    return {"rooflines": [{"dtype": name} | roof._asdict() for name, roof in found.items()]}


def _expected(task: Task) -> list[dict]:
    """What every entry of a task has; those of the staircase have no part."""
    return [task._asdict() | ({"part": None} if task.part == "staircase" else {})]


def _too_slow(point: dict) -> bool:
    return math.isnan(point["interval"][0])


def _refused(point: dict) -> dict:
    """What is recorded of a point that was run once: what it is, and why it has no times."""
    about = ("part", "removed", "channels", "batch", "dtype")
    kept = {key: point[key] for key in about if key in point}
    return kept | {"why": too_slow(point["median"] / 1000)}
