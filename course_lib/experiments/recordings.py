"""Recordings: the stored results of long experiments, one file per experiment and machine.

The file is ``data/recordings/MACHINE/EXPERIMENT-MODEL.json``, or ``EXPERIMENT.json`` if the
experiment needs no trained network. ``python -m course_lib record`` writes it, see
:mod:`.recorder`; lessons :func:`load` it and measure one of the points again.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime
from functools import cache
from pathlib import Path
from typing import (
    Annotated,
    Any,
    NamedTuple,
    NotRequired,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from course_lib.bars import say
from course_lib.deployment import pruned_file
from course_lib.deployment.pruned_file import FileError
from course_lib.experiments.published import PublishedSpeedup, rows
from course_lib.experiments.records import RECORDS
from course_lib.experiments.registry import EXPERIMENTS
from course_lib.files import write_whole
from course_lib.measuring.machine import machine_name
from course_lib.measuring.quality import Percentage, PercentageInterval
from course_lib.measuring.timing import Range
from course_lib.networks.data import DATA, verified

#: The machine on which the recordings of the course were made.
COURSE = "cpu-2core"

#: Version of the fields. When a field changes, raise it and extend :data:`UPGRADES`.
SCHEMA = 3

#: New names of the fields of schema 1, by experiment.
RENAMED = {
    "drop_recovery": {"style": "granularity", "budget": "epoch_fraction"},
    "sparse_vs_dense": {"asked": "target_sparsity"},
    "compression": {
        "values": "codebook_size",
        "rounded": "fake_quantized",
        "budget": "epoch_fraction",
    },
    "transformer": {"values": "codebook_size", "budget": "epoch_fraction"},
    "mixed": {"budget": "epoch_fraction"},
    "distillation": {"budget": "time_fraction"},
}

#: The fields that identify a recording: if one of them differs, it is another recording.
IDENTITY = ("experiment", "device", "model", "weights", "recipe", "part")


class RecordingError(RuntimeError):
    """A recording that cannot be read, resumed or merged."""


# --- the fields of a recording ------------------------------------------------------------------

KINDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
}


def check(recording: Any, experiment: str) -> dict:
    """``recording``, unchanged, if it has all fields of ``experiment``, with valid values.

    Raises:
        RecordingError: no such experiment, another schema or experiment, or a field that is missing
            or invalid; the message names the field and its value.
    """
    if experiment not in EXPERIMENTS:
        raise RecordingError(f"there is no experiment {experiment!r}; choose from {[*EXPERIMENTS]}")
    found = recording if isinstance(recording, dict) else {}
    for key, wanted in (("schema", SCHEMA), ("experiment", experiment)):
        if found.get(key, wanted) != wanted:
            raise RecordingError(f"its {key} is {found[key]!r}, not {wanted!r}")
    for place, problem in _problems(recording, RECORDS[experiment], "the recording"):
        raise RecordingError(f"{place} {problem}")
    return recording


@cache
def fields_of(record: type) -> dict[str, Any]:
    """The fields of a ``TypedDict`` with their types, :class:`typing.Annotated` or not."""
    return {
        name: get_args(kind)[0] if get_origin(kind) is NotRequired else kind
        for name, kind in get_type_hints(record, include_extras=True).items()
    }


def tables_of(record: type) -> list[str]:
    """The names of the fields that are lists of entries."""
    kinds = {name: get_args(kind) for name, kind in fields_of(record).items()}
    return [name for name, inside in kinds.items() if inside and is_typeddict(inside[0])]


def _problems(value: object, kind: Any, place: str) -> Iterator[tuple[str, str]]:
    """Each place where ``value`` is not of the type ``kind``, and what is wrong there."""
    plain = dict if is_typeddict(kind) else get_origin(kind) or kind
    if is_typeddict(kind) and isinstance(value, dict):
        for key, inner in fields_of(kind).items():
            if key in value:
                yield from _problems(value[key], inner, f"{place}: {key}")
            elif key in kind.__required_keys__:
                yield place, f"lacks {key!r}"
    elif plain is list and isinstance(value, list):
        for number, entry in enumerate(value):
            yield from _problems(entry, get_args(kind)[0], f"{place}, entry {number}")
    elif plain is Annotated:
        if not ANNOTATED[kind](value):
            yield place, f"must be {kind.__metadata__[0]}; got {value!r:.60}"
    elif not (_is_number(value) if plain is float else type(value) is plain):
        yield place, f"must be {KINDS[plain]}; got {value!r:.60}"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_pair(value: Any) -> bool:
    two = isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))
    return two and value[0] <= value[1]


def _is_percentage(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 100


#: How the values of an annotated type are checked.
ANNOTATED: dict[Any, Callable[[Any], bool]] = {
    Percentage: _is_percentage,
    PercentageInterval: lambda value: _is_pair(value) and all(map(_is_percentage, value)),
    Range: lambda value: _is_pair(value) and value[0] >= 0,
}


# --- reading and writing ------------------------------------------------------------------------


def file_of(experiment: str, model: str | None = None, root: Path = DATA) -> Path:
    """The path of this machine's recording of ``experiment`` on the network ``model``."""
    return Path(root) / "recordings" / machine_name() / _file_name(experiment, model)


def file_of_part(whole: Path, number: int, of: int) -> Path:
    """The path of part ``number`` of ``of`` of the recording ``whole``, in the same folder."""
    return whole.with_name(f"{whole.stem}.part-{number}-of-{of}{whole.suffix}")


def _file_name(experiment: str, model: str | None) -> str:
    return f"{experiment}-{model}.json" if model else f"{experiment}.json"


def load(experiment: str, model: str | None = None, root: Path = DATA) -> dict[str, Any]:
    """The recordings of ``experiment`` on the network ``model``, by the name of the machine.

    They include your own. The dictionary may be empty.

    Raises:
        RecordingError: a recording is damaged or from an incompatible version of the course.
    """
    paths = sorted(Path(root).glob(f"recordings/*/{_file_name(experiment, model)}"))
    return {path.parent.name: read(path, experiment) for path in paths}


def read(path: Path, experiment: str | None = None) -> dict:
    """The recording in ``path``, with the fields of the current schema.

    Args:
        experiment: the expected experiment; None for any.

    Raises:
        RecordingError: the file cannot be read or is not a valid recording of the experiment.
    """
    try:
        found = _up_to_date(json.loads(Path(path).read_text(encoding="utf-8")))
        return check(found, experiment or found.get("experiment"))
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecordingError) as error:
        raise RecordingError(
            f"{path} is not a valid recording of {experiment or 'an experiment'}: {error}. Restore "
            "it if it came with the course; if it is your own, delete it and record again."
        ) from error


def _up_to_date(found: Any) -> Any:
    """``found``, upgraded to the current schema if it is a recording of an earlier one."""
    if isinstance(found, dict):
        for schema, upgrade in UPGRADES.items():
            if found.get("schema") == schema:
                found = upgrade(found) | {"schema": schema + 1}
    return found


def _with_terms_of_the_field(found: dict) -> dict:
    return _renamed(found, RENAMED.get(found.get("experiment", ""), {}))


def _with_recalibration(found: dict) -> dict:
    """In schema 2, gradual pruning was called iterative, and nothing was recalibrated."""
    if found.get("experiment") != "drop_recovery":
        return found
    points = [
        one | ({"method": "gradual"} if one.get("method") == "iterative" else {})
        for one in found["points"]
    ]
    recipe = {field: found["recipe"][field] for field in ("epochs", "lr")}
    return found | {"points": points, "recipe": recipe, "recalibrated": []}


#: By schema, the function that turns a recording into one of the next schema.
UPGRADES = {1: _with_terms_of_the_field, 2: _with_recalibration}


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {names.get(key, key): _renamed(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(entry, names) for entry in value]
    return value


class Listed(NamedTuple):
    """A recording on this disk, its date (ISO 8601) and its number of points."""

    machine: str
    experiment: str
    model: str
    written: str
    points: int

    def __str__(self) -> str:
        what = f"{self.experiment} {self.model}".strip()
        return f"{self.machine:16s} {what:32s} {self.points:5d} points, written {self.written}"


def listed(root: Path = DATA) -> list[Listed]:
    """All recordings in ``root``, grouped by experiment; parts and renamed files are left out.

    Raises:
        RecordingError: one of them is damaged.
    """
    return [
        Listed(name, experiment, found.get("model", ""), found["written"], len(found["points"]))
        for experiment in EXPERIMENTS
        for path in sorted(Path(root).glob(f"recordings/*/{experiment}*.json"))
        if path.name.count(".") == 1  # neither a renamed file nor a part
        for name, found in [(path.parent.name, read(path, experiment))]
    ]


def published(root: Path = DATA) -> tuple[PublishedSpeedup, ...]:
    """What other works measured on GPUs: beside the recordings of the course, never among them.

    :mod:`.published` chooses from these rows, and has the warnings that belong under them.

    Raises:
        DataError: a file is missing or damaged.
        PublishedError: a row is invalid.
    """
    return rows(root)


def points(recording: Mapping[str, Any], **what: object) -> list[Any]:
    """The points with the values in ``what``, such as ``granularity="weights", seed=0``."""
    return [point for point in recording["points"] if all(point[key] == what[key] for key in what)]


def write(recording: dict, path: Path) -> Path:
    """Write ``recording`` to ``path``, completely or not at all; return ``path``.

    Each entry of a table has a line of its own. The field ``written`` is set to today.

    Raises:
        ValueError: a number is not finite.
    """
    recording["written"] = date.today().isoformat()
    lines = ",\n".join(f" {json.dumps(key)}: {_text(value)}" for key, value in recording.items())
    return write_whole(Path(path), f"{{\n{lines}\n}}\n")


def _text(value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(f"  {_text(entry)}" for entry in value) + "\n ]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def resume(begun: dict, path: Path) -> tuple[dict, str]:
    """The recording in ``path`` with the header ``begun``, and a message about the file.

    If there is no such recording, it is empty: ``{}``. A file that is damaged or contains another
    recording is renamed, never overwritten.

    A recording without times can be resumed on another machine; ``machines`` then lists them all.

    Raises:
        RecordingError: the recording contains times and was started on another machine or with
            other threads or versions.
    """
    if not path.exists():
        return {}, f"A new recording: {path}"
    try:
        found = read(path, begun["experiment"])
    except RecordingError as error:
        return {}, f"{error.__cause__}: {path} is set aside as {set_aside(path).name}."
    others = [key for key in IDENTITY if found.get(key) != begun.get(key)]
    if others:
        reason = f"Different {' and '.join(others)}"
        return {}, f"{reason}: {path} is set aside as {set_aside(path).name}."
    if not EXPERIMENTS[begun["experiment"]].timed:
        found |= machines_of(found, begun)
    elif changed := differences(found["machine"], begun["machine"]):
        raise RecordingError(
            f"{path} was started with {changed}. Resume it with the same settings (OMP_NUM_THREADS "
            "sets the threads), or write another file with --out."
        )
    return found, f"Resuming {path}"


def machines_of(*recordings: dict) -> dict:
    """The field ``machines`` if ``recordings`` come from more than one machine; otherwise empty."""
    found: list[dict] = []
    for recording in recordings:
        each = recording.get("machines", [recording["machine"]])
        found += [machine for machine in each if machine not in found]
    return {"machines": found} if len(found) > 1 else {}


def differences(then: dict, now: dict) -> str:
    """The differences between two machines or two headers, in words; empty if there are none."""
    return "; ".join(
        f"{key} {then.get(key)!r}, not {now.get(key)!r}"
        for key in {**then, **now}
        if then.get(key) != now.get(key)
    )


def set_aside(path: Path) -> Path:
    """Rename the file ``path`` to a free name with the current time; return the new path."""
    stamp = f"{datetime.now():%Y%m%dT%H%M%S}"
    aside, number = path.with_name(f"{path.stem}.aside-{stamp}{path.suffix}"), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.stem}.aside-{stamp}-{number}{path.suffix}")
    return path.rename(aside)


def network_file(path: Path, name: str) -> Path:
    """The file of the network ``name`` that belongs to the recording in ``path``."""
    return path.with_suffix("") / f"{name.replace(' ', '_')}.pruned"


def recorded_file(
    name: str,
    network: str = "resnet18",
    experiment: str = "compression",
    machine: str = COURSE,
) -> Path:
    """The file of the packed network ``name``, which an experiment made from ``network``.

    Args:
        experiment: the experiment that made it.
        machine: the machine on which that was recorded.

    Raises:
        DataError: the file is missing or damaged.
    """
    recording = Path("recordings") / machine / f"{experiment}-{network}.json"
    return verified(network_file(recording, name).as_posix())


def is_there(file: Path, recorded: bool, read: Callable[[Path], object] = pruned_file.load) -> bool:
    """Whether ``file`` is intact and belongs to a recorded network; any other file is renamed.

    Args:
        recorded: whether the recording has an entry for this network.
        read: loads a network, and raises :class:`FileError` if the file is damaged.
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
    say(f"{file} is set aside as {set_aside(file).name}.")
    return False
