"""Make a recording, resume it, and divide the work among machines.

An experiment measures for hours. It is written after every task, so that the same command resumes
where it stopped. Part 3/16 of it measures every sixteenth task, in a file of its own, and
:func:`merge` joins the parts.
"""

import re
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch

from course_lib.bars import bar, say
from course_lib.deployment import pruned_file
from course_lib.experiments import recordings
from course_lib.experiments.recordings import RecordingError, is_there, network_file
from course_lib.experiments.registry import EXPERIMENTS, module_of
from course_lib.measuring.machine import machine_facts
from course_lib.networks.data import checksums
from course_lib.networks.models import Network

Task = TypeVar("Task")

#: In a part, the field of an entry that says which task it comes from.
TASK = "task"


class OutOfTime(Exception):
    """The minutes that a recording may take are over."""


class Part(NamedTuple):
    """Every task whose number is ``number - 1`` modulo ``of``: "3/16" is the third of sixteen."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> "Part":
        """The part that ``text`` names.

        Raises:
            ValueError: it is not like "3/16".
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        part = cls(*map(int, found.groups())) if found else None
        if not part or not 1 <= part.number <= part.of:
            raise ValueError(f"A part is like 3/16, the third of sixteen; got {text!r}.")
        return part


class Recording:
    """A recording in the making.

    Args:
        content: the header, and what was measured so far.
        path: the file that it is written to after every task.
        part: which of the tasks are measured here; None for all.
        whole: of a part, the recording that it belongs to, as far as there is one: what is measured
            once is taken from it.
        minutes: no task begins after so long; None for no limit.
        device: that it is measured on, "cpu" or "cuda".
    """

    def __init__(
        self,
        content: dict,
        path: Path,
        part: Part | None = None,
        whole: dict | None = None,
        minutes: float | None = None,
        device: str = "cpu",
    ):
        self.content, self.path, self.part, self.whole = content, path, part, whole or {}
        self.device = device
        self._minutes, self._start = minutes, time.monotonic()

    def __getitem__(self, field: str):
        return self.content[field]

    def write(self, **fields: object) -> None:
        """Write the recording to its file, with new values of ``fields``."""
        self.content |= fields
        recordings.write(self.content, self.path)

    def has(self, table: str, **what: object) -> bool:
        """Whether an entry of ``table`` has these values."""
        return any(_agrees(entry, what) for entry in self.content[table])

    def once(self, measure: Callable[[], dict], *fields: str) -> None:
        """Record what ``measure`` gives, unless these ``fields`` of it are there."""
        if _has(self.content, fields):
            return
        known = {field: self.whole[field] for field in fields} if _has(self.whole, fields) else {}
        self.write(**(known or measure()))

    def each(
        self,
        tasks: Sequence[Task],
        measure: Callable[[Task], dict[str, list[dict]]],
        *,
        expected: Callable[[Task], Iterable[dict]] | None = None,
        tables: Sequence[str] = ("points",),
        work: Callable[[Task], float] = lambda task: 1.0,
        text: str = "runs",
    ) -> None:
        """Measure the ``tasks`` that are missing; write the recording after each.

        Args:
            measure: returns the entries of a task, by table.
            expected: the entries that show that a task is done, as far as their fields tell them
                apart; without it, one entry with the fields of the task, a named tuple.
            tables: where the expected entries are.
            work: how long a task takes, in any unit.
            text: what the tasks are called.

        Raises:
            OutOfTime: there is no time left for the next task.
        """
        numbered = [*enumerate(tasks)]
        if self.part:
            numbered = numbered[self.part.number - 1 :: self.part.of]
        expected = expected or _fields
        to_do = [one for one in numbered if not self._is_done(expected(one[1]), tables)]
        say(f"{len(numbered) - len(to_do)} of {len(numbered)} {text} are there.")
        left, done, start = sum(work(task) for _, task in to_do), 0.0, time.monotonic()
        for number, task in bar(to_do, text):
            self.stop_in_time()
            for table, entries in measure(task).items():
                origin = {TASK: number} if self.part else {}
                self.content[table] += [entry | origin for entry in entries]
            self.write()
            done, left = done + work(task), left - work(task)
            hours = (time.monotonic() - start) / done * left / 3600
            say(f"about {hours:.1f} hours to go")

    def _is_done(self, expected: Iterable[dict], tables: Sequence[str]) -> bool:
        return all(any(self.has(table, **what) for table in tables) for what in expected)

    def network(
        self,
        entry: dict,
        make: Callable[[], tuple[Network, dict]],
        read: Callable[[Path], tuple[Network, dict]],
    ) -> Network:
        """A network from its file beside the recording; made, saved and noted if that is missing.

        What was measured of all networks together is forgotten when one is made anew.

        Args:
            entry: the ``name`` of the network, and how it is made.
            make: returns the network, and what else is to be noted of it.
            read: loads a network from its file.
        """
        file = network_file(self.path, entry["name"])
        if not is_there(file, self.has("networks", **entry), read):
            self.stop_in_time()
            made, found = make()
            about = {"command": self["command"], "step": str(entry)}
            pruned_file.save(made, self["model"], file, **about)
            self.note(entry | found, points=[])
        return read(file)[0]

    def note(self, entry: dict, **fields: object) -> None:
        """Add a network's ``entry``, or put it in the place of an earlier one of that name."""
        found = {one["name"]: one for one in self["networks"]} | {entry["name"]: entry}
        self.write(networks=[*found.values()], **fields)

    def stop_in_time(self) -> None:
        """Raise :class:`OutOfTime` if no further task may begin."""
        if self._minutes is not None and time.monotonic() - self._start > 60 * self._minutes:
            raise OutOfTime


def _fields(task) -> list[dict]:
    return [task._asdict()]


def _has(content: dict, fields: Sequence[str]) -> bool:
    """Whether all ``fields`` were recorded; a table begins empty, and 0 is a value."""
    return all(content.get(field) not in (None, [], {}) for field in fields)


def _agrees(entry: dict, what: dict) -> bool:
    return all(entry.get(field) == value for field, value in what.items())


# --- recording ----------------------------------------------------------------------------------


def record(
    name: str,
    model: str | None = None,
    path: Path | None = None,
    *,
    part: Part | None = None,
    minutes: float | None = None,
    device: str = "",
) -> Path:
    """Measure what the recording in ``path`` still lacks; return its path.

    Args:
        name: of an experiment in :data:`.registry.EXPERIMENTS`.
        model: the trained network; may be left out where there is no choice.
        path: without, this machine's recording of the experiment.
        part: measure only this part of the tasks, into a file of its own beside ``path``.
        minutes: begin no task after so long; the same call resumes.
        device: "cpu" or "cuda"; empty takes the GPU where there is one.

    Raises:
        RecordingError: there is no such experiment, it is not recorded of ``model``, it has no
            parts; or it holds times and was begun on another machine, or with other threads or
            versions.
    """
    model = _choice(name, model, part)
    module = module_of(name)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    begun = _header(name, model, part) | module.header(model, device)
    whole = Path(path or recordings.file_of(name, model))
    path = recordings.file_of_part(whole, *part) if part else whole
    found, story = recordings.resume(begun, path)
    say(story)
    tables = [field for field, kind in EXPERIMENTS[name].shape.items() if _is_table(kind)]
    content = begun | {field: [] for field in tables if field not in begun} | found
    known = recordings.read(whole, name) if part and whole.exists() else {}
    if known and (differing := recordings.differences(_subject(known), _subject(begun))):
        raise RecordingError(f"{whole} is not the recording of this part: {differing}.")
    recording = Recording(content, path, part, known, minutes, device)
    try:
        module.run(recording)
    except OutOfTime:
        say(f"{minutes:g} minutes are over: the same command resumes.")
    return path


def _choice(name: str, model: str | None, part: Part | None) -> str | None:
    """The trained network that is meant."""
    if name not in EXPERIMENTS:
        raise RecordingError(f"There is no experiment {name!r}; choose from {[*EXPERIMENTS]}.")
    experiment = EXPERIMENTS[name]
    if part and experiment.undivided:
        raise RecordingError(f"{name} cannot be recorded in parts: {experiment.undivided}.")
    if model is None and len(experiment.models) < 2:
        return next(iter(experiment.models), None)
    if model not in experiment.models:
        choices = " or ".join(experiment.models) or "no network"
        raise RecordingError(f"{name} is recorded of {choices}, not of {model}.")
    return model


def _header(name: str, model: str | None, part: Part | None) -> dict:
    command = f"python -m course_lib record {name}"
    command += f" --model {model}" if len(EXPERIMENTS[name].models) > 1 else ""
    header = {"schema": recordings.SCHEMA, "experiment": name}
    header |= {"command": f"{command} --part {part}", "part": [*part]} if part else {}
    header.setdefault("command", command)
    if model:
        header |= {"model": model, "weights": checksums()[f"weights/{model}.safetensors"]}
    return header | {"machine": machine_facts(), "started": date.today().isoformat()}


def _subject(recording: dict) -> dict:
    """What a part shares with its recording: what is measured and, where it is timed, where."""
    shared = {field: recording[field] for field in recordings.IDENTITY if field in recording}
    where = recording["machine"] if EXPERIMENTS[recording["experiment"]].timed else {}
    return {field: shared[field] for field in shared if field != "part"} | where


def _is_table(kind: object) -> bool:
    return isinstance(kind, list) and isinstance(kind[0], dict)


# --- parts --------------------------------------------------------------------------------------


def merge(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Join the parts in ``paths`` to the recording that one machine would make; return its path.

    Args:
        out: where to write it; without, where this machine's recording of the experiment belongs.
            A file that is there is set aside.

    Raises:
        RecordingError: a file is damaged or no part, the parts are not those of one recording, or
            one is missing or there twice.
    """
    parts = {path: _read_part(path) for path in map(Path, paths)}
    _refuse_strangers(parts)
    _refuse_incomplete(parts)
    first = next(iter(parts.values()))
    merged = {field: value for field, value in first.items() if field != "part"}
    merged["command"] = merged["command"].partition(" --part ")[0]
    merged["started"] = min(part["started"] for part in parts.values())
    merged |= recordings.machines_of(*parts.values())
    for table in _divided(parts):
        entries = [entry for part in parts.values() for entry in part[table]]
        entries.sort(key=lambda entry: entry[TASK])
        merged[table] = [{key: entry[key] for key in entry if key != TASK} for entry in entries]
    out = Path(out or recordings.file_of(first["experiment"], first.get("model")))
    if out.exists():
        say(f"{out} is set aside as {recordings.set_aside(out).name}.")
    return recordings.write(merged, out)


def _read_part(path: Path) -> dict:
    try:
        found = recordings.read(path)
    except RecordingError as error:
        raise RecordingError(f"{error} Measure that part again.") from error
    if "part" not in found:
        raise RecordingError(f"{path} is no part of a recording: it was recorded as a whole.")
    return found


def _divided(parts: dict[Path, dict]) -> list[str]:
    """The tables whose entries come from tasks."""
    return [
        field
        for field in next(iter(parts.values()))
        if any(TASK in entry for part in parts.values() for entry in _entries(part, field))
    ]


def _entries(part: dict, field: str) -> list[dict]:
    found = part.get(field)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _refuse_strangers(parts: dict[Path, dict]) -> None:
    own = {"part", "command", "started", "written", *_divided(parts)}
    if not all(EXPERIMENTS[part["experiment"]].timed for part in parts.values()):
        own |= {"machine", "machines"}
    headers = {
        path: {field: value for field, value in part.items() if field not in own}
        | {"parts": part["part"][1]}
        for path, part in parts.items()
    }
    first, header = next(iter(headers.items()))
    for path, other in headers.items():
        if differing := recordings.differences(header, other):
            raise RecordingError(
                f"{first} and {path} are not parts of one recording: {differing:.300}. What is "
                "measured once has to be shared: begin with '--minutes 0' and without a part."
            )


def _refuse_incomplete(parts: dict[Path, dict]) -> None:
    paths: dict[int, Path] = {}
    for path, part in parts.items():
        number, of = part["part"]
        if number in paths:
            raise RecordingError(f"Part {number}/{of} is there twice: {paths[number]} and {path}.")
        paths[number] = path
    if missing := [f"{number}/{of}" for number in range(1, of + 1) if number not in paths]:
        raise RecordingError(f"Of {of} parts these are missing: {', '.join(missing)}.")
