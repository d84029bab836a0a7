"""Ways to compress a transformer, separately and combined: the cost and gain of each.

Lesson 08 shows the recording of this experiment on MiniLM and repeats some of its measurements.
"""

import math
from collections.abc import Mapping
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import nn

from course_lib.bars import bar, say
from course_lib.deployment import pruned_file, quantization, runtime
from course_lib.deployment.forms import Runtime
from course_lib.deployment.forms import measure as in_runtime
from course_lib.deployment.runtime import Deployed
from course_lib.experiments.minilm_steps import (
    EncoderStep,
    apply_step,
    in_order,
    load,
    losses,
    numbers,
    remembering,
    retrain,
)
from course_lib.experiments.recorder import Recording
from course_lib.experiments.recordings import network_file
from course_lib.measuring.quality import Evaluation, evaluated_by
from course_lib.measuring.timing import round_significant
from course_lib.networks import minilm
from course_lib.networks.data import Splits, movie_reviews
from course_lib.networks.minilm import PAD, SentenceClassifier, Sentences
from course_lib.networks.models import on_device
from course_lib.networks.recipes import MINILM
from course_lib.pruning import channels, encoders, masks, oneshot

#: Length of a short fine-tune, as a fraction of the recipe's epochs: half an epoch.
SHORT = 1 / 6

#: The networks to make, each from "dense" or from an earlier one: first combinations of several
#: ways to compress, then each way separately.
PLAN = {
    "small": EncoderStep("dense", heads=0.5, neurons=0.75, epoch_fraction=1.0, distilled=True),
    "few values": EncoderStep("small", codebook_size=15, epoch_fraction=1 / 3, distilled=True),
    "short": EncoderStep(
        "dense", layers=2, heads=0.5, neurons=0.5, epoch_fraction=1.0, distilled=True
    ),
    "heads 25": EncoderStep("dense", heads=0.25, epoch_fraction=SHORT),
    "heads 50": EncoderStep("dense", heads=0.5, epoch_fraction=SHORT),
    "heads 75": EncoderStep("dense", heads=0.75, epoch_fraction=SHORT),
    "neurons 50": EncoderStep("dense", neurons=0.5, epoch_fraction=SHORT),
    "neurons 75": EncoderStep("dense", neurons=0.75, epoch_fraction=SHORT),
    "layers 1": EncoderStep("dense", layers=1, epoch_fraction=SHORT),
    "layers 2": EncoderStep("dense", layers=2, epoch_fraction=SHORT),
    "layers 3": EncoderStep("dense", layers=3, epoch_fraction=SHORT),
    "weights 50": EncoderStep("dense", weights=0.5, epoch_fraction=SHORT),
    "weights 65": EncoderStep("dense", weights=0.65, epoch_fraction=SHORT),
    "weights 80": EncoderStep("dense", weights=0.8, epoch_fraction=SHORT),
}

#: The networks whose packed files stay next to the recording. The others are deleted once they are
#: measured, because together they would be larger than everything else in the course.
KEPT = ("few values",)

#: One-shot methods, which remove single weights without training, and the patterns of zeros, see
#: :mod:`course_lib.pruning.oneshot`.
METHODS = {"magnitude": oneshot.magnitude, "Wanda": oneshot.wanda, "SparseGPT": oneshot.sparsegpt}
FRACTIONS = {"50 %": 0.5, "60 %": 0.6, "70 %": 0.7, "80 %": 0.8}
PATTERNS: dict[str, oneshot.Pattern] = {**FRACTIONS, "2:4": (2, 4)}

#: The patterns that are also recorded after a short fine-tune.
RETRAINED = ("80 %", "2:4")

#: The number of training sentences that calibrate the one-shot methods.
CALIBRATION = 256

#: The number of linear layers in a layer of the encoder; they are pruned together.
LINEAR_LAYERS = 6

#: The length of the sentence on which the runtime is timed, in tokens.
TOKENS = 32


def header(model: str, device: str) -> dict:
    """The header fields of this experiment's recording."""
    return {"recipe": {"epochs": MINILM.epochs, "lr": MINILM.lr}}


def run(recording: Recording) -> None:
    """Measure what the recording lacks: layers, heads, one-shot pruning and smaller networks.

    The networks are stored next to the recording until all are measured, then only those in
    :data:`KEPT`.
    """
    network, data = subject()
    _record_layers(recording, network, data.validation)
    _record_one_shot(recording, network, data)
    made = all(recording.has("networks", **_entry(*each)) for each in PLAN.items())
    if not made or not recording["points"]:
        recording.write(**measure(_networks(recording, network, data), data))
    for name in PLAN.keys() - set(KEPT):
        network_file(recording.path, name).unlink(missing_ok=True)
    _record_retrained(recording, network, data)


def subject() -> tuple[SentenceClassifier, Splits]:
    """The trained network, and the three parts of the data as tokenized sentences.

    Raises:
        DataError: a file is missing or damaged.
    """
    network, tokenizer = minilm.load_trained()
    return network, Splits(*(minilm.encoded(tokenizer, part) for part in movie_reviews()))


def evaluate(network: nn.Module, data: Splits) -> Evaluation:
    """Test accuracy with its interval, and validation accuracy, of ``network``, in percent."""
    return evaluated_by(partial(minilm.accuracy, network), data)


# --- layers and heads, one at a time ------------------------------------------------------------


def _record_layers(recording: Recording, network: SentenceClassifier, data: Sentences) -> None:
    """Record the changes without each layer and without each of its heads."""
    network = on_device(network)

    def measured(number: int) -> dict[str, list[dict]]:
        heads = ablated_heads(network, data, number)
        return {"heads": heads, "layers": [without_layer(network, data, number)]}

    def expected(number: int) -> list[dict]:
        return [{"layer": number}]

    tasks = numbers(network)
    recording.each(tasks, measured, expected=expected, tables=("layers",), text="layers")
    network.cpu()


def without_layer(network: SentenceClassifier, data: Sentences, number: int) -> dict:
    """Changes of ``accuracy`` (points) and ``loss`` (nats) on ``data`` without layer ``number``."""
    before, after = losses(network, data), losses(encoders.prune(network, {}, [number]), data)
    return {"layer": number} | _change(before, after)


def ablated_heads(network: SentenceClassifier, data: Sentences, number: int) -> list[dict]:
    """The same changes for each head of layer ``number``, zeroed alone (Michel et al., 2019)."""
    graph, before = encoders.encoder_graph(network), losses(network, data)
    changes = channels.loss_changes(network, graph, f"{number}.heads", in_order(data))
    return [
        {"layer": number, "head": head} | _change(before, before + change)
        for head, change in enumerate(changes)
    ]


def _change(before: torch.Tensor, after: torch.Tensor) -> dict:
    """Changes of accuracy, in points, and loss, in nats, from the losses of the sentences.

    With two classes, a prediction is right if its loss is below log 2.
    """
    points = 100 * ((after < math.log(2)).double() - (before < math.log(2)).double()).mean()
    return {
        "accuracy": round(float(points), 2),
        "loss": round_significant(float((after - before).mean())),
    }


# --- single weights, in one shot ----------------------------------------------------------------


class OneShot(NamedTuple):
    """A network pruned once, by a method of :data:`METHODS` to a pattern of :data:`PATTERNS`."""

    method: str
    pattern: str


def one_shot(
    network: SentenceClassifier, method: str, pattern: str, data: Sentences
) -> SentenceClassifier:
    """A copy of ``network`` with the linear layers of its encoder pruned, not retrained.

    Args:
        method: one of :data:`METHODS`.
        pattern: one of :data:`PATTERNS`.
        data: training sentences; the first :data:`CALIBRATION` of them are used.
    """
    layers = [
        name
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and name.startswith("bert.encoder.")
    ]
    batches = of_one_length(data.ids[:CALIBRATION])
    return oneshot.prune(
        network, batches, METHODS[method], PATTERNS[pattern], layers, at_once=LINEAR_LAYERS
    )


def of_one_length(ids: torch.Tensor) -> list[torch.Tensor]:
    """The sentences ``ids`` (N, L) in batches without padding, one batch per length."""
    lengths = (ids != PAD).sum(1)
    return [ids[lengths == length, :length] for length in lengths.unique().tolist()]


def _record_one_shot(recording: Recording, network: SentenceClassifier, data: Splits) -> None:
    """Record the accuracy of each method with each pattern, without retraining."""

    def measured(task: OneShot) -> dict[str, list[dict]]:
        model = on_device(one_shot(network, *task, data.train))
        return {"one_shot": [task._asdict() | evaluate(model, data)]}

    tasks = [OneShot(method, pattern) for pattern, method in product(PATTERNS, METHODS)]
    recording.each(tasks, measured, tables=("one_shot",), text="one-shot networks")


def _record_retrained(recording: Recording, network: SentenceClassifier, data: Splits) -> None:
    """Record the accuracy of some of them after a short fine-tune, and their packed ``bytes``."""

    def measured(task: OneShot) -> dict[str, list[dict]]:
        model = on_device(one_shot(network, *task, data.train))
        with masks.enforce_masks(model, masks.masks_of(model)):
            retrain(model, data.train, SHORT, progress=partial(bar, text="steps"))
        entry = task._asdict() | evaluate(model, data)
        with TemporaryDirectory() as folder:
            file = pruned_file.save(model.cpu(), MINILM.network, Path(folder) / "retrained.pruned")
            return {"retrained": [entry | {"bytes": file.stat().st_size}]}

    tasks = [OneShot(method, pattern) for pattern, method in product(RETRAINED, METHODS)]
    recording.each(tasks, measured, tables=("retrained",), text="retrained networks")


# --- the smaller networks -----------------------------------------------------------------------


def _entry(name: str, step: EncoderStep) -> dict:
    return {"name": name} | step._asdict()


def _networks(
    recording: Recording, network: SentenceClassifier, data: Splits
) -> dict[str, SentenceClassifier]:
    """The dense network and those of the plan; missing ones are made."""
    teacher = remembering(on_device(network), data.train)
    models = {"dense": network.cpu()}

    def make(step: EncoderStep) -> tuple[SentenceClassifier, dict]:
        made, before = apply_step(
            step,
            models[step.source],
            data,
            teacher,
            measure=partial(evaluate, data=data),
            progress=partial(bar, text="steps"),
        )
        say(f"validation {minilm.accuracy(made, data.validation):.2f} %")
        return made, {"before": before}

    for name, step in bar(PLAN.items(), "networks"):
        models[name] = recording.network(_entry(name, step), partial(make, step), load)
    return models


# --- in the runtime -----------------------------------------------------------------------------


def measure(
    models: Mapping[str, SentenceClassifier], data: Splits, rounds: int = 200, seconds: float = 120
) -> dict:
    """The ``points`` and ``packed`` of :func:`.forms.measure`, and the ``operators``.

    Speed-ups are over the first network, which is the dense one with its whole vocabulary.

    Args:
        models: networks by name, with "dense" among them.
        rounds, seconds: how often and for how long to time them.
    """
    models = {"whole vocabulary": minilm.uncut(models["dense"]), **models}
    runtime = Runtime(deployed, first_tokens(data.test), runtime_accuracy)
    found = in_runtime(
        models, MINILM.network, data, runtime=runtime, rounds=rounds, seconds=seconds
    )
    return found | {"operators": _operators(models["dense"])}


def deployed(model: nn.Module, name: str, folder: Path) -> dict[str, Path]:
    """``model`` as ONNX in ``folder``, in float32 and in int8; files by name and form.

    In int8, activations are quantized dynamically. Ranges calibrated on training sentences would be
    no faster here, because few operators between the products support int8, and would change the
    logits several times as much.
    """
    example = torch.ones(2, TOKENS, dtype=torch.int64)
    dims = ("batch", "tokens")
    exact = quantization.export(model, folder / f"{name}.onnx", example, dims)
    quantized = quantization.dynamic_int8(exact, folder / f"{name}-int8.onnx")
    return {f"{name}, float32": exact, f"{name}, int8": quantized}


def first_tokens(data: Sentences, count: int = TOKENS) -> torch.Tensor:
    """The first ``count`` tokens of ``data`` without padding, as one sentence, (1, count)."""
    return data.ids[data.ids != PAD][None, :count]


def runtime_accuracy(file: Path, data: Sentences, threads: int = 2) -> float:
    """Accuracy of the network in ``file`` on ``data``, in percent, one sentence at a time.

    In int8 the range of an activation is that of the whole batch, so in larger batches the logits
    of a sentence would depend on the other sentences.
    """
    return minilm.accuracy(Deployed(file, threads), data, batch_size=1)


def _operators(network: SentenceClassifier) -> list[dict]:
    """The operators of the int8 file of ``network``, and the number type that each runs in."""
    with TemporaryDirectory() as folder:
        files = deployed(network, "dense", Path(folder))
        found = runtime.operators(files["dense, int8"])
    return [
        {"operator": operator, "runs_in": runs_in, "count": count}
        for runs_in, counts in found.items()
        for operator, count in counts.items()
    ]
