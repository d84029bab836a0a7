"""The learner's progress: exercises, predictions, claims and interview, in one JSON file.

The file is ``.course/progress.json`` in the project's folder; the environment variable
``PRUNING_COURSE_STATE`` names another folder. Two lessons may be open at once, each in its own
kernel, so every change is made under a lock and replaces the whole file.
"""

import json
import os
import re
import warnings
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar

from filelock import FileLock

from course_lib import PROJECT
from course_lib.files import refusal, write_whole

if TYPE_CHECKING:
    from fsrs.card import CardDict

VERSION = 2
SECTIONS = ("exercises", "predictions", "claims", "interview")

#: The lessons that were renumbered in version 2, by their earlier names.
RENAMED = {"11_choosing": "12_choosing", "12_interview_drill": "13_interview_drill"}


class ProgressError(RuntimeError):
    """The progress cannot be read or stored; the message names the path and what to do."""


Entry = TypeVar("Entry")


class Attempts(TypedDict, total=False):
    """What a learner did with one exercise."""

    attempts: int
    hints: int
    solved: bool


class Prediction(TypedDict, total=False):
    """A learner's guess and the measured truth, on a scale from ``low`` to ``high``.

    Numbers are in ``unit``. What has not happened yet is missing.
    """

    question: str
    unit: str
    low: float
    high: float
    guess: float
    truth: float


class Measurement(TypedDict):
    """The measured value of one quantity of a claim, and where and when it was measured."""

    value: float
    lesson: str
    context: str
    date: str
    machine: str


class Answered(TypedDict):
    """An interview question: its card as :mod:`fsrs` stores it, and the last grade."""

    card: "CardDict"
    grade: str


class Progress(TypedDict):
    """All that is stored, by exercise, prediction, claim and quantity, and question."""

    version: int
    exercises: dict[str, Attempts]
    predictions: dict[str, Prediction]
    claims: dict[str, dict[str, Measurement]]
    interview: dict[str, Answered]


def folder() -> Path:
    """The folder of the progress; ``PRUNING_COURSE_STATE`` is read at every call."""
    return Path(os.environ.get("PRUNING_COURSE_STATE") or PROJECT / ".course").expanduser()


def output_folder(project: Path = PROJECT) -> Path:
    """The folder for generated files: the project's ``build``, or one in the learner's folder.

    The latter is for a read-only project, such as a clone that many share.

    Raises:
        ProgressError: neither can be written.
    """
    reasons = []
    for each in (project / "build", folder() / "build"):
        reason = refusal(each)
        if reason is None:
            return each
        reasons.append(reason)
    raise ProgressError(
        f"Nothing can be written: {'; '.join(reasons)}. Set PRUNING_COURSE_STATE to a folder "
        "of your own, or copy the course to a place that you may write to."
    )


def read() -> Progress:
    """The stored progress; its ``SECTIONS`` are empty where nothing is stored.

    A damaged file is set aside with a warning. A file that cannot be used (no permission, or from a
    newer version of the course) also gives only a warning, so that a lesson always runs.
    """
    try:
        try:
            return _parsed(folder() / "progress.json")
        except ValueError:
            return update(lambda progress: None)  # sets the file aside, under the lock
    except ProgressError as error:
        warnings.warn(str(error), stacklevel=2)
        return _empty()


def update(change: Callable[[Progress], None]) -> Progress:
    """Read the progress, let ``change`` edit it in place, store it, and return it.

    Raises:
        ProgressError: the folder cannot be written, or the file is of a newer version; the file
            is left as it was.
    """
    file = folder() / "progress.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock"), timeout=10):
            progress = _parsed_or_set_aside(file)
            change(progress)
            write_whole(file, json.dumps(progress, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise ProgressError(
            f"The progress cannot be stored in {file.parent} ({error}). Make that folder writable, "
            "or set the environment variable PRUNING_COURSE_STATE to a folder that is."
        ) from error
    return progress


def remember(change: Callable[[Progress], None]) -> Progress:
    """Like :func:`update`, for lessons: if storing fails, it warns, and the lesson goes on.

    Returns the progress with the change, stored or not. Python shows the same warning once.
    """
    try:
        return update(change)
    except ProgressError as error:
        warnings.warn(f"{error} Until then nothing is stored.", stacklevel=1)
        progress = read()
        change(progress)
        return progress


def _empty() -> Progress:
    return {"version": VERSION, "exercises": {}, "predictions": {}, "claims": {}, "interview": {}}


def _parsed(file: Path) -> Progress:
    """The progress in ``file``; ValueError when it is damaged, ProgressError when unusable."""
    try:
        progress = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return _empty()
    except OSError as error:
        raise ProgressError(
            f"{file} cannot be read ({error}). Make it readable, or set the environment variable "
            "PRUNING_COURSE_STATE to another folder."
        ) from error
    version = progress.get("version") if isinstance(progress, dict) else None
    if type(version) is not int:
        raise ValueError("it is not a progress file")
    if version > VERSION:
        raise ProgressError(
            f"{file} was written by a newer version of the course (format {version}; this one "
            f"knows {VERSION}). Update the course, or set the environment variable "
            "PRUNING_COURSE_STATE to another folder."
        )
    progress = _empty() | progress
    if not all(_is_section(progress[section]) for section in SECTIONS):
        raise ValueError("a section is damaged")
    return progress if version == VERSION else _carried_over(progress)


def _carried_over(progress: Progress) -> Progress:
    """The ``progress`` of an earlier version, with today's lesson numbers."""
    for entries in progress["claims"].values():
        for entry in entries.values():
            if isinstance(entry, dict) and isinstance(entry.get("lesson"), str):
                entry["lesson"] = renumbered(entry["lesson"])
    return {
        **progress,
        "version": VERSION,
        "exercises": _renumbered(progress["exercises"]),
        "predictions": _renumbered(progress["predictions"]),
        "interview": _renumbered(progress["interview"]),
    }


def _renumbered(entries: dict[str, Entry]) -> dict[str, Entry]:
    return {renumbered(name): entry for name, entry in entries.items()}


def renumbered(name: str) -> str:
    """``name`` with today's lesson number in place of the earlier one: "12.1" for "11.1"."""
    numbers = {earlier[:2]: today[:2] for earlier, today in RENAMED.items()}
    return re.sub(r"^\d\d(?!\d)", lambda found: numbers.get(found[0], found[0]), name)


def _is_section(section: object) -> bool:
    return isinstance(section, dict) and all(isinstance(entry, dict) for entry in section.values())


def _parsed_or_set_aside(file: Path) -> Progress:
    """Like :func:`_parsed`, but a damaged file is renamed, never deleted; needs the lock."""
    try:
        return _parsed(file)
    except ValueError as error:
        aside = _free_name(file)
        file.rename(aside)
        warnings.warn(
            f"The progress was damaged ({error}). It is kept as {aside}; a new one begins.",
            stacklevel=2,
        )
        return _empty()


def _free_name(file: Path) -> Path:
    stamp = f"{datetime.now():%Y%m%dT%H%M%S}"
    aside, number = file.with_name(f"progress.damaged-{stamp}.json"), 1
    while aside.exists():
        number += 1
        aside = file.with_name(f"progress.damaged-{stamp}-{number}.json")
    return aside
