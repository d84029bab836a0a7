"""Make a recording, resume it, or divide the work among several machines.

An experiment can take hours. Its recording is written after every task, so that the same command
resumes where it stopped. Part 3/16 measures every sixteenth task and writes a separate file;
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
from course_lib.experiments.records import RECORDS
from course_lib.experiments.registry import EXPERIMENTS, module_of
from course_lib.measuring.machine import machine_facts
from course_lib.networks.data import checksums
from course_lib.networks.models import Network

Task = TypeVar("Task")

#: The field that the entries of a part have in addition: the number of their task.
TASK = "task"


class OutOfTime(Exception):
    """The time limit of a recording is reached."""


class Part(NamedTuple):
    """The tasks whose number is ``number - 1`` modulo ``of``: "3/16" is the third of sixteen."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> "Part":
        """The part that ``text``, such as ``"3/16"``, stands for.

        Raises:
            ValueError: ``text`` does not have that form, or there is no such part.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        part = cls(*map(int, found.groups())) if found else None
        if not part or not 1 <= part.number <= part.of:
            raise ValueError(f"Write a part like 3/16, the third of sixteen; got {text!r}.")
        return part


class Recording:
    """A recording that is being made.

    Args:
        content: the header and the measurements so far.
        path: the file that is written after every task.
        part: which tasks to measure; None for all.
        whole: for a part, the content of the whole recording if it was started; values that are
            measured only once are copied from it.
        minutes: time limit, after which no task starts; None for no limit.
        device: the device to measure on, "cpu" or "cuda".
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
        """Set ``fields`` to new values and write the recording to its file."""
        self.content |= fields
        recordings.write(self.content, self.path)

    def has(self, table: str, **what: object) -> bool:
        """Whether ``table`` has an entry with the values in ``what``."""
        return any(_agrees(entry, what) for entry in self.content[table])

    def once(self, measure: Callable[[], dict], *fields: str) -> None:
        """Record the result of ``measure`` unless its ``fields`` are already recorded."""
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
            expected: returns the identifying fields of the entries that a finished task has;
                without it, one entry with the fields of the task, which is a named tuple.
            tables: the tables in which to look; each expected entry may be in any of them.
            work: the relative duration of a task, in any unit.
            text: the name of the tasks in messages, in the plural.

        Raises:
            OutOfTime: the time limit was reached before the next task.
        """
        numbered = [*enumerate(tasks)]
        if self.part:
            numbered = numbered[self.part.number - 1 :: self.part.of]
        expected = expected or _fields
        to_do = [one for one in numbered if not self._is_done(expected(one[1]), tables)]
        say(f"{len(numbered) - len(to_do)} of {len(numbered)} {text} are already recorded.")
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
        """A network, loaded from its file next to the recording; made and saved if that is missing.

        Making a network discards ``points``, because all networks are measured together.

        Args:
            entry: the ``name`` of the network and how it is made.
            make: returns the network and further fields of its entry.
            read: loads a network and the notes in its file.

        Raises:
            OutOfTime: the network is missing and the time limit is reached.
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
        """Record a network's ``entry``, which replaces an earlier one of the same name."""
        found = {one["name"]: one for one in self["networks"]} | {entry["name"]: entry}
        self.write(networks=[*found.values()], **fields)

    def stop_in_time(self) -> None:
        """Raise :class:`OutOfTime` if the time limit is reached."""
        if self._minutes is not None and time.monotonic() - self._start > 60 * self._minutes:
            raise OutOfTime


def _fields(task) -> list[dict]:
    return [task._asdict()]


def _has(content: dict, fields: Sequence[str]) -> bool:
    """Whether all ``fields`` are recorded: an empty table is not, a 0 is."""
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
    """Measure what the recording in ``path`` still lacks; return the path of the written file.

    Args:
        name: an experiment in :data:`.registry.EXPERIMENTS`.
        model: the trained network; optional if the experiment has only one or none.
        path: None for this machine's recording of the experiment.
        part: measure only this part of the tasks, into a separate file next to ``path``.
        minutes: time limit, after which no task starts; the same call resumes.
        device: "cpu" or "cuda"; empty for the GPU if there is one.

    Raises:
        RecordingError: there is no such experiment; it does not take ``model``; it cannot be
            divided, or the part does not match the recording; or the recording contains times and
            was started on another machine or with other threads or versions.
    """
    model = _choice(name, model, part)
    module = module_of(name)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    begun = _header(name, model, part) | module.header(model, device)
    whole = Path(path or recordings.file_of(name, model))
    path = recordings.file_of_part(whole, *part) if part else whole
    found, story = recordings.resume(begun, path)
    say(story)
    tables = recordings.tables_of(RECORDS[name])
    content = begun | {field: [] for field in tables if field not in begun} | found
    known = recordings.read(whole, name) if part and whole.exists() else {}
    if known and (differing := recordings.differences(_subject(known), _subject(begun))):
        raise RecordingError(f"{whole} does not match this part: {differing}.")
    recording = Recording(content, path, part, known, minutes, device)
    try:
        module.run(recording)
    except OutOfTime:
        say(f"Time limit of {minutes:g} minutes reached; the same command resumes.")
    return path


def _choice(name: str, model: str | None, part: Part | None) -> str | None:
    """The name of the trained network, if the experiment needs one."""
    if name not in EXPERIMENTS:
        raise RecordingError(f"There is no experiment {name!r}; choose from {[*EXPERIMENTS]}.")
    experiment = EXPERIMENTS[name]
    if part and experiment.undivided:
        raise RecordingError(f"{name} cannot be recorded in parts: {experiment.undivided}.")
    if model is None and len(experiment.models) < 2:
        return next(iter(experiment.models), None)
    if model not in experiment.models:
        choices = " or ".join(experiment.models)
        needs = f"the model {choices}" if choices else "no model"
        raise RecordingError(f"{name} needs {needs}; got {model}.")
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
    """What a part and its recording must share: the machine only if times are recorded."""
    shared = {field: recording[field] for field in recordings.IDENTITY if field in recording}
    where = recording["machine"] if EXPERIMENTS[recording["experiment"]].timed else {}
    return {field: shared[field] for field in shared if field != "part"} | where


# --- parts --------------------------------------------------------------------------------------


def merge(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Join the parts in ``paths`` into the recording of a single run; return its path.

    Args:
        out: file to write; None for this machine's recording of the experiment. An existing file
            is renamed.

    Raises:
        RecordingError: a file is damaged or is not a part, the parts are not of the same recording,
            or one of them is missing or given twice.
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
        raise RecordingError(f"{error} Record that part again.") from error
    if "part" not in found:
        raise RecordingError(f"{path} is not a part: it is a whole recording.")
    return found


def _divided(parts: dict[Path, dict]) -> list[str]:
    """The tables whose entries come from tasks, which the parts have divided."""
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
                f"{first} and {path} are not parts of the same recording: {differing:.300}. Values "
                "that are measured once must be shared: before recording the parts, run the "
                "command with '--minutes 0' and without '--part'."
            )


def _refuse_incomplete(parts: dict[Path, dict]) -> None:
    paths: dict[int, Path] = {}
    for path, part in parts.items():
        number, of = part["part"]
        if number in paths:
            raise RecordingError(f"Part {number}/{of} is given twice: {paths[number]} and {path}.")
        paths[number] = path
    if missing := [f"{number}/{of}" for number in range(1, of + 1) if number not in paths]:
        raise RecordingError(f"These parts are missing: {', '.join(missing)}.")
