"""The gain from removing channels: MACs, predicted and measured time of layers and networks.

Lesson 06 shows the recording of this experiment and repeats some of its measurements.
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

#: Fractions of the channels to remove, for widths from 100 % down to 20 %.
REMOVED = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)

#: What is timed. "outputs": one convolution, from which only output channels are removed. "chain":
#: three convolutions, from which input and output channels are removed. And two trained networks.
PARTS = ("outputs", "chain", "resnet18", "small_resnet")

#: Channels of the convolutions in "outputs" and "chain", and the side of their maps in pixels.
WIDTH, SIDE = 256, 14

BATCHES = (1, 8, 64)

#: Channels of a convolution with as many inputs as outputs, in steps of one.
STAIRCASE = tuple(range(48, 73))

DTYPES = {"cpu": ("float32",), "cuda": ("float16", "float32")}

#: The default options of a comparison.
TIMING = {"rounds": 30, "seconds": 5.0, "limit": 30.0}

#: Time limit of a recorded comparison, in seconds.
LIMIT = 300.0


def build(part: str, removed: float) -> nn.Module:
    """The ``part`` without the fraction ``removed`` of its channels, on the CPU in ``eval`` mode.

    Raises:
        ValueError: ``part`` is not one of :data:`PARTS`.
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
    """Random inputs (batch, channels, height, width) for a ``model`` of :func:`build`."""
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
    """Time a ``part`` at several widths, alternately; return a point for each.

    Times are in milliseconds. ``predicted`` is the lowest time that the roofline allows, summed
    over the layers; ``speedup`` is over the first of ``removed``. Widths that do not fit into the
    time limit are run once and have no interval, see
    :func:`course_lib.measuring.timing.compare`.

    Args:
        removed: fractions of the channels to remove.
        roof: the roofline of the device for ``dtype``.
        timing: ``rounds``, ``seconds`` and ``limit`` of that function.

    Raises:
        ValueError: ``part`` is not one of :data:`PARTS`.
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
    """Time a convolution for each number of ``channels``, both in and out, alternately.

    Returns a point for each, with times in milliseconds; ``speedup`` is over the last one.

    Args:
        timing: as in :func:`measure`.
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
    """``model`` on ``device``, in channels-last layout, in which convolutions are fastest."""
    # torch's type stubs do not allow a device together with a memory format
    return model.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# --- the recording ------------------------------------------------------------------------------


class Task(NamedTuple):
    """One of :data:`PARTS`, or "staircase", to be timed alternately at all widths."""

    part: str
    batch: int
    dtype: str


def header(model: str, device: str) -> dict:
    """The header fields of this experiment's recording."""
    return {"device": device, "refused": []}


def run(recording: Recording) -> None:
    """Measure what the recording lacks: the rooflines of the machine, and the comparisons."""
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
    """The fields that identify the entries of a task; those of the staircase have no part."""
    return [task._asdict() | ({"part": None} if task.part == "staircase" else {})]


def _too_slow(point: dict) -> bool:
    return math.isnan(point["interval"][0])


def _refused(point: dict) -> dict:
    """The entry of a point that was too slow to be timed: its fields and the reason."""
    about = ("part", "removed", "channels", "batch", "dtype")
    kept = {key: point[key] for key in about if key in point}
    return kept | {"why": too_slow(point["median"] / 1000)}
