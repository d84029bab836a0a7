"""How small and how fast a network gets: pruned, quantized, packed, and all of it together.

Lesson 07 shows what this experiment recorded, and measures some of it again.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import nn

from course_lib.bars import bar, say
from course_lib.deployment import quantization, storage
from course_lib.deployment.pruned_file import FileError, unpack
from course_lib.deployment.quantization import Deployed
from course_lib.experiments import recordings
from course_lib.experiments.drop_recovery import judged, on_device, size
from course_lib.experiments.steps import Step, load, save, take
from course_lib.measuring.machine import machine_facts
from course_lib.measuring.timing import as_recorded, compare, digits
from course_lib.networks.data import Splits, checksums, fashion_mnist, verified
from course_lib.networks.models import halved, load_trained
from course_lib.networks.training import accuracy, to_teacher

#: The networks that are made of a trained one, each from one before it. 75 % leaves 16, 32, 64 and
#: 128 channels: numbers that vector units like (lesson 06).
PLANS = {
    "resnet18": {
        "weights": Step("dense", weights=0.95, budget=0.1),
        "channels": Step("dense", channels=0.75, budget=1.0),
        "both": Step("channels", weights=0.8, budget=0.2),
        "few values": Step("both", values=15, budget=0.1),
        "narrower": Step("dense", channels=0.875, budget=1.0),
        "pruned first": Step("dense", channels=0.75, budget=0.2),
        "quantized first": Step("dense", rounded=True, channels=0.75, budget=0.2),
    }
}

#: A network lies in an ONNX file, in "float32" or quantized to "int8", or in a "packed" one.
FORMS = ("float32", "int8", "packed")

#: What the runtime is timed with.
THREADS = {"one thread": 1, "two threads": 2}

#: So many validation pictures show int8 the range of every activation.
CALIBRATION = 500

#: Pictures that a network is shown one after the other before it is the next one's turn.
IN_A_ROW = 10


def record(network: str, path: Path | None = None, data: Splits | None = None) -> Path:
    """Make the networks of the plan that are still missing, then measure all of them together.

    They are kept in a folder beside the recording in ``path``, see :func:`network_file`.

    Raises:
        RecordingError: it was begun on another machine, or with other threads or versions.
    """
    path = Path(path or recordings.file_of("compression", network))
    data = data or fashion_mnist()
    recording, story = recordings.resume(_begun(network), path)
    say(story)
    recording = recording or _begun(network) | {"networks": [], "points": [], "packed": []}
    models = {"dense": load_trained(network)}
    with teacher(network, data) as logits:
        how = {"objective": to_teacher(logits), "progress": partial(bar, text="steps")}
        for name, step in bar(PLANS[network].items(), "networks"):
            file, entry = network_file(path, name), {"name": name} | step._asdict()
            if not is_there(file, entry in recording["networks"]):
                made = take(step, models[step.source], network, data, **how)
                save(made, network, file, command=recording["command"], step=str(entry))
                others = [one for one in recording["networks"] if one["name"] != name]
                recording |= {"networks": [*others, entry], "points": [], "packed": []}
                recordings.write(recording, path)
                say(f"{name}: validation {accuracy(made, data.validation):.2f} %")
            models[name], _ = load(file)
    if not recording["points"]:
        recording |= measure(models, network, data)
        recordings.write(recording, path)
    return path


@contextmanager
def teacher(network: str, data: Splits) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """What gives the logits of the trained ``network`` soonest: on a CPU, its int8 file."""
    whole = load_trained(network)
    if torch.cuda.is_available():
        yield on_device(whole)
        return
    with TemporaryDirectory() as folder:
        files = deployed(whole, "dense", data, Path(folder))
        yield Deployed(files["dense, int8"], torch.get_num_threads())


def network_file(path: Path, name: str) -> Path:
    """Where the network ``name`` of the recording in ``path`` lies."""
    return path.with_suffix("") / f"{name.replace(' ', '_')}.pruned"


def recorded_file(
    name: str,
    network: str = "resnet18",
    experiment: str = "compression",
    machine: str = "cpu-2core",
) -> Path:
    """The packed network ``name``, made from ``network`` when ``machine`` recorded ``experiment``.

    Raises:
        DataError: the file is missing or damaged.
    """
    recording = Path("recordings") / machine / f"{experiment}-{network}.json"
    return verified(network_file(recording, name).as_posix())


def _begun(network: str) -> dict:
    return {
        "schema": recordings.SCHEMA,
        "experiment": "compression",
        "command": f"python -m course_lib record compression --model {network}",
        "model": network,
        "weights": checksums()[f"weights/{network}.safetensors"],
        "machine": machine_facts(),
        "started": date.today().isoformat(),
    }


def is_there(file: Path, recorded: bool, read: Callable[[Path], object] = load) -> bool:
    """Whether ``file`` holds the network that is ``recorded``; any other one is set aside.

    Args:
        read: loads a network, and raises :class:`FileError` where there is none.
    """
    if not file.exists():
        return False
    try:
        read(file)
    except FileError as error:
        say(str(error))
    else:
        if recorded:
            return True
    say(f"{file} is set aside as {recordings.set_aside(file).name}.")
    return False


class Runtime(NamedTuple):
    """How networks are deployed, timed and tried: others for pictures than for sentences.

    Args:
        deployed: writes a network, with this name, into this folder; gives :func:`deployed`.
        example: what the runtime is timed on, and MACs are counted on.
        accuracy: of the network in this file on this part of the data, in percent.
    """

    deployed: Callable[[nn.Module, str, Path], dict[str, Path]]
    example: torch.Tensor
    accuracy: Callable[[Path, tuple], float]


def pictures(data: Splits) -> Runtime:
    """How networks for pictures are measured: timed on one of the test set."""

    def written(model: nn.Module, name: str, folder: Path) -> dict[str, Path]:
        return deployed(model, name, data, folder)

    return Runtime(written, data.test.images[:1], quantization.accuracy)


def measure(
    models: Mapping[str, nn.Module],
    network: str,
    data: Splits,
    *,
    runtime: Runtime | None = None,
    rounds: int = 200,
    seconds: float = 60.0,
) -> dict:
    """The ``points`` of a recording, one for each of ``models`` in each form, and the ``packed``.

    Accuracy and milliseconds are those of the runtime; all files are timed in turns. A packed
    network is unpacked once, and then it is the one in float32.

    Args:
        models: on the CPU, in ``eval`` mode; speed-ups are over the first, in float32.
        runtime: without, that for :func:`pictures`.
    """
    runtime = runtime or pictures(data)
    points, packed, files = [], [], {}
    with TemporaryDirectory() as folder:
        for name, model in bar(models.items(), "files"):
            files |= runtime.deployed(model, name, Path(folder))
            packed.append({"network": name} | packing(model, network, Path(folder) / name))
        times = timed(files, runtime.example, rounds, seconds)
        for (name, model), entry in zip(bar(models.items(), "accuracy"), packed, strict=True):
            whole = {"network": name} | size(model, runtime.example)
            for form in ("float32", "int8"):
                file = files[f"{name}, {form}"]
                point = whole | {"form": form, "bytes": file.stat().st_size}
                point |= judged(partial(runtime.accuracy, file), data)
                points.append(point | times[f"{name}, {form}"])
            points.append(points[-2] | {"form": "packed", "bytes": entry["bytes"]})
    return {"points": points, "packed": packed}


def timed(
    files: Mapping[str, Path], example: torch.Tensor, rounds: int = 200, seconds: float = 60.0
) -> dict[str, dict]:
    """What a recording keeps of the times that the runtime takes for ``example``, by name of file.

    All ``files`` take turns, with one thread and then with two; speed-ups are over the first.
    """
    found = {
        label: compare(
            {name: Deployed(file, threads) for name, file in files.items()},
            example,
            rounds=rounds,
            seconds=seconds,
            in_a_row=IN_A_ROW,
        )
        for label, threads in bar(THREADS.items(), "times")
    }
    first = next(iter(files))
    return {
        name: {
            label: as_recorded(result.timings[name], result.speedup(name, over=first))
            for label, result in found.items()
        }
        for name in files
    }


def deployed(model: nn.Module, name: str, data: Splits, folder: Path) -> dict[str, Path]:
    """``model`` as ONNX in ``folder``, in float32 and in int8; files by name and form."""
    exact = quantization.export(model, folder / f"{name}.onnx", data.test.images[:2])
    pictures = data.validation.images[:CALIBRATION]
    quantized = quantization.int8(exact, folder / f"{name}-int8.onnx", pictures)
    return {f"{name}, float32": exact, f"{name}, int8": quantized}


def packing(model: nn.Module, network: str, file: Path, rounds: int = 3) -> dict:
    """``bytes`` of ``model`` once packed, the entropy ``bound``, and MB of float32 a second."""
    save_seconds, load_seconds = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        save(model, network, file)
        middle = time.perf_counter()
        unpack(file)
        save_seconds.append(middle - start)
        load_seconds.append(time.perf_counter() - middle)
    tensors = halved(model).values()
    megabytes = sum(4 * tensor.numel() for tensor in tensors) / 1e6
    return {
        "bytes": file.stat().st_size,
        "bound": round(sum(storage.bound(tensor).bytes for tensor in tensors)),
        "packing": digits(megabytes / min(save_seconds)),
        "unpacking": digits(megabytes / min(load_seconds)),
    }


# --- the challenge of lesson 07 -----------------------------------------------------------------

#: A network may have so many bytes, packed, and must be as accurate as this, in percent.
MOST_BYTES, LEAST_ACCURACY = 200_000, 91.0


class Score(NamedTuple):
    """A packed network on this machine: ``milliseconds`` for a picture, the ``form`` it runs in."""

    bytes: int
    accuracy: float
    milliseconds: float
    form: str

    @property
    def passed(self) -> bool:
        """Whether it is small and accurate enough."""
        return self.bytes < MOST_BYTES and self.accuracy >= LEAST_ACCURACY

    def __str__(self) -> str:
        return (
            f"{'counts' if self.passed else 'does not count'}: {self.bytes / 1000:.0f} kB, "
            f"{self.accuracy:.2f} % of the test pictures, {self.milliseconds:.3f} ms in {self.form}"
        )


def score(file: Path, data: Splits) -> Score:
    """Unpack ``file``, run it in the runtime on one thread, and say how good it is.

    It runs in float32 and in int8. What counts is the faster one that is accurate enough.

    Raises:
        FileError: the file is damaged, or holds no network of this course.
    """
    model, _ = load(file)
    with TemporaryDirectory() as folder:
        files = deployed(model, "yours", data, Path(folder))
        runs = {name: Deployed(each) for name, each in files.items()}
        times = compare(runs, data.test.images[:1], rounds=100, in_a_row=IN_A_ROW).timings
        scores = [
            Score(
                file.stat().st_size,
                quantization.accuracy(each, data.test),
                times[name].median,
                name.removeprefix("yours, "),
            )
            for name, each in files.items()
        ]
    return min(scores, key=lambda one: (not one.passed, one.milliseconds))
