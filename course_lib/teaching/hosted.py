"""Record two experiments on a GPU of one's own or a hosted one: the notebook ``gpu_recorder``.

The notebook fetches the course, then calls what is here: check the machine, record, check the
files, hand them over. NumPy, torch and torchvision are enough.
"""

import importlib.util
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, TextIO

import torch

from course_lib import PROJECT
from course_lib.experiments import recorder, recordings, sparse_vs_dense, structured_speedup
from course_lib.experiments.recordings import RecordingError
from course_lib.files import refusal
from course_lib.networks.data import DataError
from course_lib.teaching.gpu_break_evens import measured_on

#: The first and the last minor version of torch that the course is tested with.
OLDEST, NEWEST = (2, 11), (2, 15)

#: The environment variable that each platform sets. Kaggle's image is made from Colab's, so that
#: Colab's variable and packages may be on Kaggle, too.
PLATFORMS = {
    "Kaggle": "KAGGLE_KERNEL_RUN_TYPE",
    "Colab": "COLAB_RELEASE_TAG",
    "Lightning": "LIGHTNING_CLOUDSPACE_HOST",
}

#: How to get a GPU, by platform.
SWITCH_ON = {
    "Kaggle": "Choose Settings, Accelerator, GPU T4 x2. Kaggle asks for a verified phone number.",
    "Colab": "Choose Runtime, Change runtime type, T4 GPU, Save. That starts another machine.",
    "Lightning": "Switch the Studio to a machine with a GPU, such as a T4.",
    "Jupyter": "This machine needs an NVIDIA GPU that the command nvidia-smi lists, and a torch "
    "that was built for CUDA. Without one, open this notebook on Colab or Kaggle, which lend GPUs.",
}


class HostedError(RuntimeError):
    """Something that the learner can repair; notebooks show the message without a traceback."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows of the error."""
        return [str(self)]


# --- the machine --------------------------------------------------------------------------------


def platform(environment: Mapping[str, str] = os.environ) -> str:
    """Where this notebook runs: "Kaggle", "Colab", "Lightning", or "Jupyter" for all others."""
    found = (name for name, variable in PLATFORMS.items() if variable in environment)
    return next(found, "Jupyter")


def ready(device: str) -> str:
    """What this machine is, in words, if it can record on ``device``, "cuda" or "cpu".

    Raises:
        HostedError: there is no GPU, torch cannot use it, or torchvision is missing; the message
            says what to do on this platform.
    """
    where = platform()
    _refuse_without_torchvision()
    if device == "cuda":
        _refuse_without_gpu(where)
    name = torch.cuda.get_device_name() if device == "cuda" else "the CPU"
    lines = [f"{where}, torch {torch.__version__}: this will measure {name}.", _advice()]
    if device != "cuda":
        lines.append("A rehearsal: these are times of the CPU, and say nothing about a GPU.")
    return "\n".join(filter(None, lines))


def _refuse_without_torchvision() -> None:
    if importlib.util.find_spec("torchvision") is None:
        raise HostedError(
            "torchvision is missing, which builds the ResNet-18 that is measured. Install the "
            f"version that belongs to torch {torch.__version__}: pip install torchvision"
        )


def _refuse_without_gpu(where: str) -> None:
    if not torch.cuda.is_available():
        raise HostedError(
            f"torch {torch.__version__} finds no GPU. {SWITCH_ON[where]} Then run all cells again."
        )
    try:
        torch.ones(16, 16, device="cuda").mm(torch.ones(16, 16, device="cuda")).sum().item()
    except RuntimeError as error:
        raise HostedError(
            f"The {torch.cuda.get_device_name()} is there, but torch {torch.__version__} cannot "
            f"use it: {str(error).splitlines()[0]} Each version of torch is built for some "
            "generations of GPUs; on Kaggle choose T4 x2, not P100. Then run all cells again."
        ) from error


def _advice() -> str:
    """What to know about this version of torch; empty if the course is tested with it."""
    numbers = re.match(r"(\d+)\.(\d+)", torch.__version__)
    version = tuple(map(int, numbers.groups())) if numbers else OLDEST
    if OLDEST <= version <= NEWEST:
        return ""
    tested = " to ".join(".".join(map(str, each)) for each in (OLDEST, NEWEST))
    return (
        f"The course is tested with torch {tested}. This one is tried as it is; if it fails, run "
        f"'pip install \"torch=={OLDEST[0]}.{OLDEST[1]}.*\" torchvision' and restart the kernel."
    )


# --- recording ----------------------------------------------------------------------------------


def output_folder(here: Path | None = None) -> Path:
    """The folder in which ``recordings/MACHINE/`` is written.

    It is ``data/`` of the clone if ``here``, by default the working folder, is in it. Outside the
    clone, or if that is read-only, it is ``here`` itself: notebooks can link to what lies below it,
    and Kaggle keeps that.
    """
    here, data = (here or Path.cwd()).resolve(), PROJECT / "data"
    at_home = here.is_relative_to(PROJECT) and refusal(data / "recordings") is None
    return data if at_home else here


def record(
    experiment: str, model: str | None = None, *, device: str, minutes: float, folder: Path
) -> Path:
    """Record an experiment, or what its file still lacks, and show the progress; return the file.

    Args:
        experiment, model: as in :func:`course_lib.experiments.recorder.record`.
        device: "cuda" or "cpu".
        minutes: time limit, after which no task starts; the same call resumes.
        folder: from :func:`output_folder`. A file that cannot be resumed is renamed, never
            overwritten.

    Raises:
        HostedError: stopped, or the file was started on another machine.
    """
    path = recordings.file_of(experiment, model, folder)
    print(f"{experiment}: at most {minutes:g} minutes, a little more for the last measurement.")
    try:
        with redirect_stdout(ProgressLine(sys.stdout)) as line:
            recorder.record(experiment, model, path, minutes=minutes, device=device)
    except KeyboardInterrupt as error:
        raise HostedError("Stopped. What is finished is kept; run this cell again.") from error
    except RecordingError as error:
        raise HostedError(f"{error} Here: rename {path}, and run this cell again.") from error
    except (DataError, OSError, ValueError) as error:
        raise HostedError(f"{error} What is finished is kept.") from error
    finally:
        line.end()
    return path


class ProgressLine(StringIO):
    """Standard output during a recording: estimates overwrite one another in one line."""

    def __init__(self, out: TextIO):
        super().__init__()
        self._out, self._start = out, time.monotonic()
        self._begun, self._width = "", 0

    def write(self, text: str) -> int:
        """Show the lines that ``text`` ends, and keep the rest."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in filter(None, lines):
            self._show(line)
        self._out.flush()
        return len(text)

    def _show(self, line: str) -> None:
        if line.startswith("about "):
            spent = (time.monotonic() - self._start) / 60
            line = f"{spent:.1f} minutes so far, {line} for all".ljust(self._width)
            self._out.write(f"\r{line}")
            self._width = len(line)
        else:
            self.end()
            self._out.write(f"{line}\n")

    def end(self) -> None:
        """End the line of estimates."""
        if self._width:
            self._out.write("\n")
        self._width = 0


def examined(path: Path) -> str:
    """What the recording in ``path`` contains, in a sentence, after all its fields were checked.

    Raises:
        HostedError: there is no such file, or it is damaged.
    """
    if not path.exists():
        raise HostedError(f"{path} is not there: run the cell that records it.")
    recording = read(path)
    done, planned = progress(recording)
    machine = measured_on(recording)
    said = f"{path.name} is valid: {done} of {planned} measurements, {machine}."
    return said if done == planned else f"{said} Run its cell again to continue, or take it so."


def read(path: Path) -> dict[str, Any]:
    """The recording in ``path``, all of its fields checked.

    Raises:
        HostedError: the file is damaged.
    """
    try:
        return recordings.read(path)
    except RecordingError as error:
        raise HostedError(
            f"{error.__cause__}. {path} is damaged: run the cell that records it again, which "
            "renames this file and starts a new one."
        ) from error


def progress(recording: Mapping[str, Any]) -> tuple[int, int]:
    """How many measurements a recording of one of the two experiments has, and is to have."""
    device, points = recording["device"], recording["points"]
    planned: set[tuple]
    if recording["experiment"] == "sparse_vs_dense":
        planned = {case[:3] for case in sparse_vs_dense.plan(device)}
        found = {(each["matrix"], each["dtype"], each["target_sparsity"]) for each in points}
    else:
        planned = {*structured_speedup.plan(device)}
        entries = [*points, *recording["staircase"], *recording.get("refused", [])]
        found = {(each.get("part", "staircase"), each["batch"], each["dtype"]) for each in entries}
    return len(planned & found), len(planned)


# --- handing over -------------------------------------------------------------------------------


def hand_over(paths: Sequence[Path], folder: Path) -> str:
    """Offer the files for download, and say where they belong.

    On Colab the browser downloads them, elsewhere the notebook shows a link to each, and without
    IPython its path.

    Args:
        paths: from :func:`record`.
        folder: from :func:`output_folder`.
    """
    where, place = platform(), f"data/recordings/{paths[0].parent.name}/"
    for path in paths:
        _offer(path, where)
    at_home = folder == PROJECT / "data"
    lines = [
        f"They already are in {place} of the clone that this notebook is in." * at_home,
        f"On another machine, put both files into {place} of your clone. If that folder has such "
        "files already, create another, with any name. Lessons 05 and 06 show the recordings in "
        "all folders there, and 'python -m course_lib recordings' checks them.",
        "Kaggle also lists the files under Output." * (where == "Kaggle"),
    ]
    return "\n".join(filter(None, lines))


def _offer(path: Path, where: str) -> None:
    try:
        if where == "Colab":
            from google.colab import files

            files.download(str(path))
        else:
            from IPython.display import FileLink, display

            display(FileLink(os.path.relpath(path)))
    except ImportError:
        print(path)
