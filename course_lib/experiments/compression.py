"""How small and how fast a network gets: pruned, quantized, packed, and all of it together.

Lesson 07 shows what this experiment recorded, and measures some of it again.
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
from course_lib.experiments.steps import CompressionStep, apply_step
from course_lib.measuring.timing import compare
from course_lib.networks.data import Splits, fashion_mnist
from course_lib.networks.models import load_trained
from course_lib.networks.training import accuracy, to_teacher

#: The networks that are made of a trained one, each from one before it. 75 % leaves 16, 32, 64 and
#: 128 channels: numbers that vector units like (lesson 06).
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
    """What a recording of this experiment begins with: nothing of its own."""
    return {}


def run(recording: Recording) -> None:
    """Make the networks of the plan that are missing, then measure all of them together."""
    network, data = recording["model"], fashion_mnist()
    models = {"dense": load_trained(network)}

    def make(step: CompressionStep) -> tuple[nn.Module, dict]:
        source, progress = models[step.source], partial(bar, text="steps")
        made = apply_step(step, source, network, data, to_teacher(logits), progress)
        say(f"validation {accuracy(made, data.validation):.2f} %")
        return made, {}

    with teacher(network, data) as logits:
        for name, step in bar(PLANS[network].items(), "networks"):
            entry = {"name": name} | step._asdict()
            models[name] = recording.network(entry, partial(make, step), load)
    if not recording["points"]:
        recording.write(**measure(models, network, data))


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
                runtime.accuracy(each, data.test),
                times[name].median,
                name.removeprefix("yours, "),
            )
            for name, each in files.items()
        ]
    return min(scores, key=lambda one: (not one.passed, one.milliseconds))
