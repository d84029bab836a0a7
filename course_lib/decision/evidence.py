"""Evidence from the recordings: networks, the steps that made them smaller, loss and gain.

:mod:`course_lib.decision.rules` looks up here what to expect of a step.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from course_lib.experiments import recordings
from course_lib.experiments.published import select, warnings_of
from course_lib.experiments.recordings import COURSE, RecordingError
from course_lib.experiments.records import (
    Compression,
    DeployedPoint,
    Distillation,
    DropRecovery,
    Mixed,
    OneShotAccuracy,
    RetrainedNetwork,
    StructuredSpeedup,
    Transformer,
)
from course_lib.measuring.estimates import Estimate, exact, ratio, recorded_speedup
from course_lib.measuring.machine import machine_name
from course_lib.networks.data import DATA

ARCHITECTURES = ("cnn", "transformer", "mixed")

#: The step that a field of a recorded network stands for, where the field is not zero.
STEP_OF = {
    "channels": "structured",
    "heads": "structured",
    "neurons": "structured",
    "layers": "structured",
    "weights": "unstructured",
    "codebook_size": "quantize",
    "fake_quantized": "quantize",
    "distilled": "distil",
}


class Evidence(NamedTuple):
    """A network that was made and measured, beside the dense one in float32.

    Args:
        form: the file it lies in: "float32" or "int8" to run, "packed" to send.
        steps: what was done to it, of "structured", "unstructured", "2:4", "distil", "quantize".
        epoch_fraction: the training that it took, as a share of the recipe's epochs.
        accuracy_drop: points of test accuracy lost.
        compression_ratio: how many times fewer bytes.
        mac_reduction: how many times fewer MACs.
        speedup: how many times faster on one thread of a CPU.
        speedup_float32: the same for its float32 form.
        source: the recording.
        speedup_interval: the 95 % interval of ``speedup``.
    """

    architecture: str
    name: str
    form: str
    steps: frozenset[str]
    epoch_fraction: float
    accuracy_drop: float
    compression_ratio: float
    mac_reduction: float
    speedup: float
    speedup_float32: float
    source: str
    speedup_interval: tuple[float, float] = (1.0, 1.0)


class Made(NamedTuple):
    """What was done to a recorded network, and how long it trained."""

    steps: frozenset[str]
    epoch_fraction: float


def collected(root: Path = DATA) -> list[Evidence]:
    """All evidence from recordings in ``root``: this machine's if it has any, else the course's.

    Raises:
        RecordingError: a recording is damaged, or an experiment has none.
    """
    return [
        *_compression(root),
        *_drop_recovery(root),
        *_distillation(root),
        *_transformer(root),
        *_mixed(root),
    ]


def machines(known: Iterable[Evidence]) -> list[str]:
    """The names of the machines that recorded what is ``known``."""
    sources = {part for one in known for part in one.source.split(", ")}
    return sorted({source.rpartition(" on ")[2] for source in sources})


def chosen(experiment: str, model: str | None, root: Path = DATA) -> tuple[Any, str]:
    """The recording of this machine if there is one, else the course's; and its name.

    Raises:
        RecordingError: there is none, or one is damaged.
    """
    found = recordings.load(experiment, model, root)
    for machine in (machine_name(), COURSE, *found):
        if machine in found:
            return found[machine], f"{experiment} on {machine}"
    wanted = f"{experiment} {model or ''}".strip()
    raise RecordingError(
        f"{root} has no recording of {wanted}. Restore it with 'git checkout -- data/recordings', "
        f"or take one: python -m course_lib record {experiment}"
    )


def published_gains(step: str) -> list[str]:
    """What zeros gave whole networks on GPUs, as published: a sentence, and its warnings.

    Empty for steps on which no other work was read, or whose gain follows from the MACs. No network
    of the course was timed on a GPU, so these are not its numbers.

    Args:
        step: such as "2:4" or "unstructured".
    """
    if step not in ("2:4", "unstructured"):
        return []
    networks = select(recordings.published(), kind=step, scope="network")
    found = [row for row in networks if "DLA" not in row.gpu]  # an accelerator beside the GPU
    speedups = [row.speedup for row in found]
    names = dict.fromkeys(str(row.source) for row in found)
    return [
        f"Published speed-ups of whole networks on GPUs with {step}: {min(speedups):.2f}x to "
        f"{max(speedups):.2f}x ({len(found)} figures by {', '.join(names)}).",
        *warnings_of(found),
    ]


# --- networks that were measured in the runtime -------------------------------------------------


def _compression(root: Path) -> Iterator[Evidence]:
    found: Compression
    found, source = chosen("compression", "resnet18", root)
    distilled = ({"distilled": True} | entry for entry in found["networks"])  # all of them were
    return _deployed("cnn", found["points"], _made(distilled), source)


def _transformer(root: Path) -> Iterator[Evidence]:
    found: Transformer
    found, source = chosen("transformer", "minilm", root)
    yield from _deployed("transformer", found["points"], _made(found["networks"]), source)
    dense = _named(found["points"], "dense")
    short = min((one["epoch_fraction"] for one in found["networks"]), default=0.0)
    for row in found["one_shot"]:
        yield _masked(row, 0.0, dense, source)
    for row in found["retrained"]:
        masked = _masked(row, short, dense, source)
        yield masked
        ratio = dense["bytes"] / row["bytes"]
        yield masked._replace(form="packed", compression_ratio=ratio)


def _masked(
    row: OneShotAccuracy, epoch_fraction: float, dense: DeployedPoint, source: str
) -> Evidence:
    """A transformer with masks, trained for a fraction of the epochs."""
    step = "2:4" if row["pattern"] == "2:4" else "unstructured"
    name = f"{row['method']} {row['pattern']}"
    accuracy_drop = dense["accuracy"] - row["accuracy"]
    return _in_place("transformer", name, step, epoch_fraction, accuracy_drop, source)


def _mixed(root: Path) -> Iterator[Evidence]:
    found: Mixed
    found, source = chosen("mixed", "conv_attention", root)
    epoch_fraction = found["recipe"]["epoch_fraction"]
    made = _made([]) | {
        one["name"]: Made(frozenset([one["convolutions"], one["attention"]]), epoch_fraction)
        for one in found["networks"]
    }
    return _deployed("mixed", found["points"], made, source)


def _made(networks: Iterable[Mapping[str, Any]]) -> dict[str, Made]:
    """By name, what was done to each network, and to those that it was made from."""
    made = {"dense": Made(frozenset(), 0.0)}
    for entry in networks:
        source = made[entry["source"]]
        steps = {step for field, step in STEP_OF.items() if entry.get(field)}
        made[entry["name"]] = Made(
            source.steps | steps, source.epoch_fraction + entry["epoch_fraction"]
        )
    return made


def _deployed(
    architecture: str, points: list[DeployedPoint], made: dict[str, Made], source: str
) -> Iterator[Evidence]:
    """The points of a recording in every form, beside the dense network in float32."""
    dense = _named(points, "dense")
    for point in points:
        if point["network"] in made:
            float32 = _named(points, point["network"])
            yield _row(architecture, point, made[point["network"]], dense, float32, source)


def _named(points: list[DeployedPoint], network: str) -> DeployedPoint:
    return next(one for one in points if (one["network"], one["form"]) == (network, "float32"))


def _row(
    architecture: str,
    point: DeployedPoint,
    made: Made,
    dense: DeployedPoint,
    float32: DeployedPoint,
    source: str,
) -> Evidence:
    speedup = _over(point, dense)
    return Evidence(
        architecture,
        point["network"],
        point["form"],
        made.steps | ({"quantize"} if point["form"] == "int8" else set()),
        made.epoch_fraction,
        accuracy_drop=dense["accuracy"] - point["accuracy"],
        compression_ratio=dense["bytes"] / point["bytes"],
        mac_reduction=dense["macs"] / point["macs"],
        speedup=speedup.value,
        speedup_float32=_over(float32, dense).value,
        source=source,
        speedup_interval=(speedup.low, speedup.high),
    )


def _over(point: DeployedPoint, dense: DeployedPoint) -> Estimate:
    """Speed-up over ``dense``; the recorded one is over the first network of the recording."""
    if point is dense:
        return exact(1.0)
    return ratio(recorded_speedup(point["one thread"]), recorded_speedup(dense["one thread"]))


def _in_place(
    architecture: str,
    name: str,
    step: str,
    epoch_fraction: float,
    accuracy_drop: float,
    source: str,
) -> Evidence:
    """A network with its pruned weights stored as zeros: as large and as slow as the dense one."""
    made = Made(frozenset([step]), epoch_fraction)
    gains = (1.0, 1.0, 1.0, 1.0)
    return Evidence(architecture, name, "float32", *made, accuracy_drop, *gains, source)


# --- networks whose other numbers are in other recordings ---------------------------------------


def _drop_recovery(root: Path) -> Iterator[Evidence]:
    """ResNet-18 without a teacher, after short trainings; its times are those of PyTorch."""
    found: DropRecovery
    found, source = chosen("drop_recovery", "resnet18", root)
    speeds: StructuredSpeedup
    speeds, timed = chosen("structured_speedup", "resnet18", root)
    for seeds in _by_training(found["points"]):
        point = seeds[0]
        accuracy_drop = found["dense"]["accuracy"] - fmean(one["accuracy"] for one in seeds)
        name = f"without {100 * point['amount']:.0f} % of the {point['granularity']}"
        if point["granularity"] == "channels":
            speedup = _speed_without(point["amount"], speeds)
            yield _narrowed(found, point, name, accuracy_drop, speedup, f"{source}, {timed}")
        else:
            yield _in_place(
                "cnn", name, "unstructured", point["epoch_fraction"], accuracy_drop, source
            )
            if point["amount"] == 0.5:  # as many zeros as 2:4 has, which no CNN was recorded with
                yield _in_place("cnn", name, "2:4", point["epoch_fraction"], accuracy_drop, source)


def _by_training(points: Iterable[RetrainedNetwork]) -> Iterable[list[RetrainedNetwork]]:
    """The points of each way to prune and retrain, one for each seed: none is advised for luck."""
    found: dict[tuple, list[RetrainedNetwork]] = {}
    for point in points:
        way = (point["granularity"], point["amount"], point["method"], point["schedule"])
        found.setdefault((*way, point["epoch_fraction"], point["lr"]), []).append(point)
    return found.values()


def _narrowed(
    found: DropRecovery,
    point: RetrainedNetwork,
    name: str,
    accuracy_drop: float,
    speedup: Estimate,
    source: str,
) -> Evidence:
    (left,) = (
        one
        for one in found["pruned"]
        if (one["granularity"], one["amount"]) == (point["granularity"], point["amount"])
    )
    return Evidence(
        "cnn",
        name,
        "float32",
        frozenset(["structured"]),
        point["epoch_fraction"],
        accuracy_drop,
        compression_ratio=found["dense"]["parameters"] / left["parameters"],
        mac_reduction=found["dense"]["macs"] / left["macs"],
        speedup=speedup.value,
        speedup_float32=speedup.value,
        source=source,
        speedup_interval=(speedup.low, speedup.high),
    )


def _speed_without(amount: float, recording: StructuredSpeedup) -> Estimate:
    """The speed-up for one picture at the nearest recorded width that is not narrower."""
    rows = recordings.points(recording, part="resnet18", batch=1)
    wider = [row for row in rows if row["removed"] <= amount]
    return recorded_speedup(max(wider, key=lambda row: (row["removed"], row["speedup"])))


def _distillation(root: Path) -> Iterator[Evidence]:
    """The narrow ResNet-18, trained in all four ways but from scratch without a teacher."""
    found: Distillation
    found, source = chosen("distillation", "resnet18", root)
    if not found["deployed"]:
        return
    dense, student = (_named(found["deployed"], name) for name in ("teacher", "student"))
    wanted = {(one["method"], one["time_fraction"]): one["epochs"] for one in found["points"]}
    for (method, time_fraction), epochs in wanted.items():
        made = Made(_steps_of(method), epochs / found["recipe"]["epochs"])
        points = recordings.points(found, method=method, time_fraction=time_fraction)
        right = fmean(one["accuracy"] for one in points)
        row = _row("cnn", student, made, dense, student, source)
        if made.steps:
            yield row._replace(name=method, accuracy_drop=dense["accuracy"] - right)


def _steps_of(method: str) -> frozenset[str]:
    steps = {"pruned": "structured", "distilled": "distil"}
    return frozenset(step for word, step in steps.items() if word in method)
