"""A network as ONNX, in float32 and int8, and packed: its bytes, its times and its accuracy."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypedDict

import torch
from torch import nn

from course_lib.bars import bar
from course_lib.deployment import quantization, runtime, storage
from course_lib.deployment.pruned_file import save, unpack
from course_lib.deployment.runtime import Deployed
from course_lib.measuring.quality import evaluated_by, size
from course_lib.measuring.timing import Recorded, as_recorded, compare, round_significant
from course_lib.networks.data import Images, Splits
from course_lib.networks.models import halved, load_trained, on_device

#: The forms of a network: an ONNX file in "float32" or in "int8", or a "packed" file.
FORMS = ("float32", "int8", "packed")

#: The numbers of threads that the runtime is timed with.
THREADS = {"one thread": 1, "two threads": 2}

#: How many validation pictures calibrate the activations for int8.
CALIBRATION = 500

#: How many pictures a network gets in a row before it is the next one's turn.
IN_A_ROW = 10


@contextmanager
def teacher(network: str, data: Splits[Images]) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """The fastest source of the trained ``network``'s logits: on a CPU, its int8 file."""
    whole = load_trained(network)
    if torch.cuda.is_available():
        yield on_device(whole)
        return
    with TemporaryDirectory() as folder:
        files = deployed(whole, "dense", data, Path(folder))
        yield Deployed(files["dense, int8"], torch.get_num_threads())


class Runtime(NamedTuple):
    """How networks are deployed, timed and evaluated, which differs for pictures and sentences.

    Args:
        deployed: writes a network under a name into a folder, and returns the files by form.
        example: what the runtime is timed on, and MACs are counted on.
        accuracy: of the network in a file on a part of the data, in percent.
    """

    deployed: Callable[[nn.Module, str, Path], dict[str, Path]]
    example: torch.Tensor
    accuracy: Callable[[Path, Any], float]


def pictures(data: Splits[Images]) -> Runtime:
    """How networks for pictures are measured: timed on one of the test set."""

    def written(model: nn.Module, name: str, folder: Path) -> dict[str, Path]:
        return deployed(model, name, data, folder)

    return Runtime(written, data.test.images[:1], runtime.accuracy)


def measure(
    models: Mapping[str, nn.Module],
    network: str,
    data: Splits[Any],
    *,
    runtime: Runtime | None = None,
    rounds: int = 200,
    seconds: float = 60.0,
) -> dict[str, list[dict[str, Any]]]:
    """The ``points`` of a recording, one for each of ``models`` in each form, and the ``packed``.

    Accuracy and milliseconds are those of the runtime; all files are timed in turns. A packed
    network is unpacked once, and from then on runs as the float32 one.

    Args:
        models: on the CPU, in ``eval`` mode; speed-ups are over the first, in float32.
        runtime: None for that of :func:`pictures`.
    """
    runtime = runtime or pictures(data)
    points: list[dict[str, Any]] = []
    packed: list[dict[str, Any]] = []
    files: dict[str, Path] = {}
    with TemporaryDirectory() as folder:
        for name, model in bar(models.items(), "files"):
            files |= runtime.deployed(model, name, Path(folder))
            packed.append({"network": name, **packing(model, network, Path(folder) / name)})
        times = timed(files, runtime.example, rounds, seconds)
        for (name, model), entry in zip(bar(models.items(), "accuracy"), packed, strict=True):
            whole = {"network": name, **size(model, runtime.example)}
            for form in ("float32", "int8"):
                file = files[f"{name}, {form}"]
                point = whole | {"form": form, "bytes": file.stat().st_size}
                point |= evaluated_by(partial(runtime.accuracy, file), data)
                points.append(point | times[f"{name}, {form}"])
            points.append(points[-2] | {"form": "packed", "bytes": entry["bytes"]})
    return {"points": points, "packed": packed}


def timed(
    files: Mapping[str, Path], example: torch.Tensor, rounds: int = 200, seconds: float = 60.0
) -> dict[str, dict[str, Recorded]]:
    """The runtime's times for ``example``, by file name, as a recording stores them.

    All ``files`` take turns, with one thread and then with two; speed-ups are over the first.

    Args:
        example: pictures (N, 1, 28, 28), or whatever shape the networks take.
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


def deployed(model: nn.Module, name: str, data: Splits[Images], folder: Path) -> dict[str, Path]:
    """``model`` as ONNX in ``folder``, in float32 and in int8; files by name and form."""
    exact = quantization.export(model, folder / f"{name}.onnx", data.test.images[:2])
    pictures = data.validation.images[:CALIBRATION]
    quantized = quantization.int8(exact, folder / f"{name}-int8.onnx", pictures)
    return {f"{name}, float32": exact, f"{name}, int8": quantized}


class Packing(TypedDict):
    """What a recording keeps of a packed file: ``bound`` in bytes, MB of float32 a second."""

    bytes: int
    bound: int
    packing: float
    unpacking: float


def packing(model: nn.Module, network: str, file: Path, rounds: int = 3) -> Packing:
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
        "packing": round_significant(megabytes / min(save_seconds)),
        "unpacking": round_significant(megabytes / min(load_seconds)),
    }
