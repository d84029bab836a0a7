"""How small and how fast a network gets when it is pruned, quantized, packed, or all of these.

Lesson 07 shows the recording of this experiment and repeats some of its measurements.
"""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from torch import nn

from course_lib.bars import bar, say
from course_lib.deployment import runtime
from course_lib.deployment.forms import IN_A_ROW, deployed, measure, teacher
from course_lib.deployment.pruned_file import load
from course_lib.deployment.runtime import Deployed
from course_lib.experiments.recorder import Recording
from course_lib.experiments.steps import CompressionStep, RightAfter, apply_step, right_after
from course_lib.measuring.timing import compare
from course_lib.networks.data import Splits, fashion_mnist
from course_lib.networks.models import load_trained, on_device
from course_lib.networks.training import accuracy, to_labels, to_teacher

#: The networks to make, by trained network: each from "dense" or from an earlier one. Removing 75 %
#: leaves 16, 32, 64 and 128 channels, which fill the vector units of a processor (lesson 06).
PLANS = {
    "resnet18": {
        "weights": CompressionStep("dense", weights=0.95, epoch_fraction=0.1),
        "channels": CompressionStep("dense", channels=0.75, epoch_fraction=1.0),
        "both": CompressionStep("channels", weights=0.8, epoch_fraction=0.2),
        "few values": CompressionStep("both", codebook_size=15, epoch_fraction=0.1),
        "narrower": CompressionStep("dense", channels=0.875, epoch_fraction=1.0),
        "pruned first": CompressionStep("dense", channels=0.75, epoch_fraction=0.2),
        "quantized first": CompressionStep(
            "dense", fake_quantized=True, channels=0.75, epoch_fraction=0.2
        ),
    }
}


def header(model: str, device: str) -> dict:
    """The header fields of this experiment's recording: it needs none of its own."""
    return {}


def run(recording: Recording) -> None:
    """Make the missing networks of the plan, then measure all networks together."""
    network, data = recording["model"], fashion_mnist()
    models = {"dense": load_trained(network)}

    def make(step: CompressionStep) -> tuple[nn.Module, dict]:
        source, progress = models[step.source], partial(bar, text="steps")
        made = apply_step(step, source, network, data, to_teacher(logits), progress)
        say(f"validation {accuracy(made, data.validation):.2f} %")
        return made, {**before_training(step, source, data)}

    with teacher(network, data) as logits:
        for name, step in bar(PLANS[network].items(), "networks"):
            entry = {"name": name} | step._asdict()
            models[name] = recording.network(entry, partial(make, step), load)
    if not recording["points"]:
        recording.write(**measure(models, network, data))


def before_training(step: CompressionStep, source: nn.Module, data: Splits) -> RightAfter:
    """The accuracy of ``source`` compressed by ``step``, without the training that follows it."""
    untrained = step._replace(epoch_fraction=0.0)
    return right_after(on_device(apply_step(untrained, source, "", data, to_labels)), data)


# --- the challenge of lesson 07 -----------------------------------------------------------------

#: The packed file must be smaller than this, in bytes, and the test accuracy at least this, in %.
MOST_BYTES, LEAST_ACCURACY = 200_000, 91.0


class Score(NamedTuple):
    """An entry to the challenge, measured on this machine.

    Args:
        bytes: size of the packed file.
        accuracy: test accuracy, in percent.
        milliseconds: latency of one picture on one thread.
        form: "float32" or "int8", whichever is faster and accurate enough.
    """

    bytes: int
    accuracy: float
    milliseconds: float
    form: str

    @property
    def passed(self) -> bool:
        """Whether the network is small and accurate enough."""
        return self.bytes < MOST_BYTES and self.accuracy >= LEAST_ACCURACY

    def __str__(self) -> str:
        return (
            f"{'counts' if self.passed else 'does not count'}: {self.bytes / 1000:.0f} kB, "
            f"{self.accuracy:.2f} % of the test pictures, {self.milliseconds:.3f} ms in {self.form}"
        )


def score(file: Path, data: Splits) -> Score:
    """Unpack ``file``, run the network in ONNX Runtime on one thread, and return its score.

    It runs in float32 and in int8; the score is that of the faster one that is accurate enough.

    Raises:
        FileError: the file is damaged or contains no network of this course.
    """
    model, _ = load(file)
    with TemporaryDirectory() as folder:
        files = deployed(model, "yours", data, Path(folder))
        runs = {name: Deployed(each) for name, each in files.items()}
        times = compare(runs, data.test.images[:1], rounds=100, in_a_row=IN_A_ROW).timings
        scores = [
            Score(
                file.stat().st_size,
                runtime.accuracy(each, data.test),
                times[name].median,
                name.removeprefix("yours, "),
            )
            for name, each in files.items()
        ]
    return min(scores, key=lambda one: (not one.passed, one.milliseconds))
