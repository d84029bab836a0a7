"""A network made small step by step: fewer channels, fewer weights, few values, int8, packed.

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
from torch.nn.utils import parametrize

from course_lib import masks, quantization, recordings, storage, surgery
from course_lib.bars import bar, say
from course_lib.data import Splits, checksums, fashion_mnist
from course_lib.drop_recovery import judged, on_device, prune, size
from course_lib.models import build, halved, load_trained
from course_lib.pruned_file import FileError, pack, unpack
from course_lib.quantization import Deployed, symmetric
from course_lib.recipes import RECIPES
from course_lib.storage import shared
from course_lib.timing import Comparison, as_recorded, compare, digits
from course_lib.training import Objective, accuracy, fit, to_teacher


class Step(NamedTuple):
    """How a network is made from ``source``, an earlier step or "dense".

    Args:
        rounded: first round every weight to int8 per channel, as quantizing first would.
        channels: remove this fraction of the channels of every layer.
        weights: then set this fraction of the weights to zero, the smallest in the network.
        values: then let all other weights of a layer share so many values.
        budget: then train for this share of the recipe's epochs, its learning rates rewound.
    """

    source: str
    rounded: bool = False
    channels: float = 0.0
    weights: float = 0.0
    values: int = 0
    budget: float = 0.0


def take(
    step: Step, source: nn.Module, network: str, data: Splits, objective: Objective, **training
) -> nn.Module:
    """The network that ``step`` makes of ``source``, by the recipe of ``network``.

    What a step has set to zero stays zero, also in the steps that follow.

    Args:
        objective: what training makes small.
        training: further arguments of :func:`fit`, such as ``progress``.
    """
    model = rounded(source) if step.rounded else source
    if step.channels:
        model, _ = prune(model, "channels", step.channels, model)
    kept = masks.global_masks(model, step.weights) if step.weights else masks.masks_of(model)
    model = masks.pruned_copy(model, kept)
    held = sharing(model, step.values) if step.values else masks.hold(model, kept)
    with held:
        if step.budget:
            recipe = RECIPES[network]
            fit(
                on_device(model),
                data.train,
                epochs=step.budget * recipe.epochs,
                lr=recipe.lr,
                seed=recipe.seed,
                objective=objective,
                schedule="rewound",
                of_epochs=recipe.epochs,
                **training,
            )
    return model.cpu().eval()


def rounded(model: nn.Module, bits: int = 8) -> nn.Module:
    """A copy of ``model`` whose weights are those that ``bits`` and a scale per channel can say."""
    copied = masks.pruned_copy(model, {})
    with torch.no_grad():
        for weight in masks.prunable(copied).values():
            weight.copy_(symmetric(weight, bits, axis=0).values)
    return copied


# --- few values that learn ----------------------------------------------------------------------


@contextmanager
def sharing(model: nn.Module, count: int) -> Iterator[None]:
    """Let the weights of each layer share ``count`` values beside zero, also while they train.

    Which weights share a value is settled at the beginning, by k-means. What trains are the values:
    the gradient of a value is the sum of those of its weights (Han et al., 2016, "Deep
    Compression"). Afterwards the weights are ordinary ones again.

    Raises:
        ValueError: an impossible ``count``, see :func:`course_lib.storage.shared`.
    """
    layers = [
        layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
    ]
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", _Shared(layer.weight, count))
    try:
        yield
    finally:
        for layer in layers:
            parametrize.remove_parametrizations(layer, "weight")


class _Shared(nn.Module):
    """A weight as a table of values and the place of each weight in it; zero is the first."""

    def __init__(self, weight: torch.Tensor, count: int):
        super().__init__()
        quantized = shared(weight.detach(), count)
        self.values = quantized[quantized != 0].unique()
        places = torch.searchsorted(self.values, quantized.contiguous()) + 1
        self.register_buffer("places", torch.where(quantized == 0, 0, places))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return _Looked.apply(torch.cat([values.new_zeros(1), values]), self.places)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        return self.values


class _Looked(torch.autograd.Function):
    """``table[places]``; its gradient adds up 30 times faster than that of torch on a CPU."""

    @staticmethod
    def forward(ctx, table: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(places)
        ctx.count = len(table)
        return table[places]

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (places,) = ctx.saved_tensors
        sums = torch.bincount(places.flatten(), gradient.flatten(), ctx.count)
        return sums.to(gradient.dtype), None


# --- files --------------------------------------------------------------------------------------


def save(model: nn.Module, network: str, file: Path, **about: str) -> Path:
    """Write ``model``, made from ``network``, as a ``.pruned`` file with half-precision values."""
    return pack(halved(model), file, {"network": network} | about)


def load(file: Path) -> tuple[nn.Module, dict[str, str]]:
    """The network that :func:`save` wrote, ready for inference, and what the file is about.

    Its shapes say which channels are gone. Which ones of the whole network they were does not
    matter to what it computes.

    Raises:
        FileError: the file is damaged, or holds no network of this course.
    """
    tensors, about = unpack(file)
    try:
        whole = build(about.get("network", ""))
        smaller = surgery.remove(whole, _plan(whole, tensors))
        smaller.load_state_dict(tensors)
    except (ValueError, RuntimeError, KeyError) as error:
        raise FileError(f"{file} holds no network of this course: {error}") from error
    return smaller.eval(), about


def _plan(whole: nn.Module, tensors: dict[str, torch.Tensor]) -> surgery.Plan:
    """The plan that cuts ``whole`` to the shapes of ``tensors``."""
    plan: surgery.Plan = {}
    for name, value in whole.state_dict().items():
        for dim, (count, left) in enumerate(zip(value.shape, tensors[name].shape, strict=True)):
            if left != count:
                plan.setdefault(name, {})[dim] = list(range(left))
    return plan


# --- the recording ------------------------------------------------------------------------------

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
            if not _is_there(file, entry in recording["networks"]):
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


def _begun(network: str) -> dict:
    return {
        "schema": recordings.SCHEMA,
        "experiment": "compression",
        "command": f"python -m course_lib record compression --model {network}",
        "model": network,
        "weights": checksums()[f"weights/{network}.safetensors"],
        "machine": recordings.machine(),
        "started": date.today().isoformat(),
    }


def _is_there(file: Path, recorded: bool) -> bool:
    """Whether ``file`` holds the network that is ``recorded``; any other one is set aside."""
    if not file.exists():
        return False
    try:
        load(file)
    except FileError as error:
        say(str(error))
    else:
        if recorded:
            return True
    say(f"{file} is set aside as {recordings.set_aside(file).name}.")
    return False


def measure(
    models: Mapping[str, nn.Module],
    network: str,
    data: Splits,
    *,
    rounds: int = 200,
    seconds: float = 60.0,
) -> dict:
    """The ``points`` of a recording, one for each of ``models`` in each form, and the ``packed``.

    Accuracy and milliseconds are those of the runtime; all files are timed in turns, on one picture
    of the test set. A packed network is unpacked once, and then it is the one in float32.

    Args:
        models: on the CPU, in ``eval`` mode; speed-ups are over the first, in float32.
    """
    points, packed, files = [], [], {}
    with TemporaryDirectory() as folder:
        for name, model in bar(models.items(), "files"):
            files |= deployed(model, name, data, Path(folder))
            packed.append({"network": name} | packing(model, network, Path(folder) / name))
        times = {
            label: compare(
                {name: Deployed(file, threads) for name, file in files.items()},
                data.test.images[:1],
                rounds=rounds,
                seconds=seconds,
            )
            for label, threads in bar(THREADS.items(), "times")
        }
        first = next(iter(files))
        for (name, model), entry in zip(bar(models.items(), "accuracy"), packed, strict=True):
            whole = {"network": name} | size(model)
            for form in ("float32", "int8"):
                file = files[f"{name}, {form}"]
                point = whole | {"form": form, "bytes": file.stat().st_size}
                point |= judged(partial(quantization.accuracy, file), data)
                points.append(point | _times(times, f"{name}, {form}", first))
            points.append(points[-2] | {"form": "packed", "bytes": entry["bytes"]})
    return {"points": points, "packed": packed}


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


def _times(times: Mapping[str, Comparison], name: str, first: str) -> dict:
    return {
        label: as_recorded(result.timings[name], result.speedup(name, over=first))
        for label, result in times.items()
    }
