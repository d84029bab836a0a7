"""Textbook claims about pruning, and the verdicts that measurements give them.

``data/claims.json`` has the claims and their tests (a quantity and the range it must be in). A
lesson measures and calls :func:`record`, which stores the measurements in the learner's progress;
the verdict is computed, never typed. ``python -m course_lib.teaching.claims publish MACHINE`` turns
the author's own measurements into the recording that the cards of all learners show beside theirs.
"""

import argparse
import html
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, SupportsFloat, TypedDict

import psutil
import torch

from course_lib.experiments.recordings import COURSE
from course_lib.files import write_whole
from course_lib.measuring.machine import machine_facts, processor
from course_lib.networks.data import DATA, record_checksum
from course_lib.teaching import progress
from course_lib.teaching.progress import Measurement, Progress

# Decimals by unit; values in other units are shown with three significant digits.
DECIMALS = {"points": 1, "%": 1, "x": 2}

# Sign and colour of a verdict; the colour only repeats what the sign and the words say.
MARKS = {
    "holds": ("✔", "#1b7f5c"),
    "holds when": ("◑", "#b7791f"),
    "does not hold": ("✘", "#b83227"),
    "untested": ("○", "#777777"),
}


class ClaimError(ValueError):
    """An invalid claim, quantity or value; the message names what is allowed."""


class Test(NamedTuple):
    """One measurable condition of a claim: ``quantity``, in ``unit``, is within the bounds.

    ``condition`` completes the sentence "the claim holds ..." ("at 90 % sparsity").
    """

    quantity: str
    unit: str
    lesson: str
    label: str
    condition: str
    at_least: float | None = None
    at_most: float | None = None

    def rounded(self, value: float) -> float:
        """``value`` rounded to the digits that are shown, which are also those that are judged."""
        if self.unit in DECIMALS:
            return round(value, DECIMALS[self.unit])
        return float(f"{value:.3g}")

    def shown(self, value: float) -> str:
        """``value`` with its unit, such as ``"34.2 points"``."""
        value = self.rounded(value)
        if self.unit in DECIMALS:
            return f"{value:.{DECIMALS[self.unit]}f} {self.unit}"
        return f"{value:,.0f} {self.unit}" if abs(value) >= 1000 else f"{value:g} {self.unit}"

    @property
    def target(self) -> str:
        """The range in words, such as ``"at least 10 points"``."""
        if self.at_least is None:
            return f"at most {self.at_most:g} {self.unit}"
        if self.at_most is None:
            return f"at least {self.at_least:g} {self.unit}"
        return f"{self.at_least:g} to {self.at_most:g} {self.unit}"

    def passed(self, value: float) -> bool:
        """Whether the rounded ``value`` is in the range, bounds included."""
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        return low <= self.rounded(value) <= high


class Claim(NamedTuple):
    """A textbook statement, the lessons that test it, and its tests."""

    id: str
    textbook: str
    lessons: tuple[str, ...]
    shows: str
    sources: tuple[str, ...]
    tests: tuple[Test, ...]


class TestOutcome(NamedTuple):
    """One test and its measured value; both ``value`` and ``passed`` are None while unmeasured."""

    test: Test
    value: float | None
    passed: bool | None


class Verdict(NamedTuple):
    """``kind`` is a key of ``MARKS``; ``text`` says it in words, without measured numbers."""

    kind: str
    text: str
    outcomes: tuple[TestOutcome, ...]


class Recording(TypedDict):
    """The published measurements of one machine, by claim and quantity."""

    machine: dict[str, str]
    date: str
    claims: dict[str, dict[str, Measurement]]


# Loading


def load(root: Path = DATA) -> dict[str, Claim]:
    """The claims of ``claims.json`` in the folder ``root``, by id.

    Raises:
        ClaimError: the file is missing or invalid; the message names the claim and the key.
    """
    entries = _json(Path(root) / "claims.json")
    if not isinstance(entries, list):
        raise ClaimError(f"claims.json must be a list of claims, not {type(entries).__name__}.")
    claims = {}
    for position, entry in enumerate(entries, start=1):
        claim = _claim(entry, f"claim number {position}")
        if claim.id in claims:
            raise ClaimError(f"claims.json: {claim.id} appears twice.")
        claims[claim.id] = claim
    return claims


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ClaimError(
            f"{path} cannot be read ({error}). Restore it with 'git checkout -- "
            f"{path.parent.name}/{path.name}', or repair what you edited."
        ) from error


class TestEntry(TypedDict):
    """The fields of a test in ``claims.json``."""

    quantity: str
    unit: str
    lesson: str
    label: str
    condition: str
    at_least: NotRequired[float]
    at_most: NotRequired[float]


class ClaimEntry(TypedDict):
    """The fields of a claim in ``claims.json``."""

    id: str
    textbook: str
    lessons: list[str]
    shows: str
    sources: list[str]
    tests: list[TestEntry]


CLAIM_KEYS = {
    "id": str,
    "textbook": str,
    "lessons": list,
    "shows": str,
    "sources": list,
    "tests": list,
}
TEST_KEYS = {"quantity": str, "unit": str, "lesson": str, "label": str, "condition": str}


def _claim(content: Any, where: str) -> Claim:
    if isinstance(content, dict) and isinstance(content.get("id"), str):
        where = f"claim {content['id']}"
    entry: ClaimEntry = _with_keys(content, CLAIM_KEYS, (), where)
    _require(re.fullmatch(r"C\d\d", entry["id"]), where, "id", "must look like 'C01'")
    for key, words in (("lessons", entry["lessons"]), ("sources", entry["sources"])):
        only_text = all(isinstance(word, str) for word in words)
        _require(only_text, where, key, "must contain only text")
    _require(entry["lessons"], where, "lessons", "must name at least one lesson")
    tests = tuple(_test(test, where, entry["lessons"]) for test in entry["tests"])
    names = [test.quantity for test in tests]
    _require(len(set(names)) == len(names), where, "tests", "must not repeat a quantity")
    return Claim(
        id=entry["id"],
        textbook=entry["textbook"],
        lessons=tuple(entry["lessons"]),
        shows=entry["shows"],
        sources=tuple(entry["sources"]),
        tests=tests,
    )


def _test(content: Any, claim: str, lessons: list[str]) -> Test:
    where = f"a test of {claim}"
    if isinstance(content, dict) and isinstance(content.get("quantity"), str):
        where = f"test {content['quantity']!r} of {claim}"
    bounds = ("at_least", "at_most")
    entry: TestEntry = _with_keys(content, TEST_KEYS, bounds, where)
    given = [content[key] for key in bounds if key in content]
    _require(given, where, "at_least", "or 'at_most' must be given")
    _require(all(type(bound) in (int, float) for bound in given), where, bounds, "must be numbers")
    _require(given == sorted(given), where, "at_least", "must not exceed 'at_most'")
    _require(entry["lesson"] in lessons, where, "lesson", f"must be one of the claim's, {lessons}")
    return Test(**entry)


def _with_keys(
    entry: Any, required: Mapping[str, type], optional: tuple[str, ...], where: str
) -> Any:
    """``entry``, once it has the ``required`` keys, each of its type, and no unknown ones."""
    if not isinstance(entry, dict):
        raise ClaimError(f"claims.json: {where} must be an object with keys, not {entry!r}.")
    for key, kind in required.items():
        _require(key in entry, where, key, "is missing")
        right = isinstance(entry[key], kind) and (entry[key] != "")
        _require(right, where, key, f"must be a {kind.__name__} with content, not {entry[key]!r}")
    for key in entry.keys() - required.keys() - set(optional):
        raise ClaimError(f"claims.json: {where} has an unknown key {key!r}.")
    return entry


def _require(condition: object, where: str, key: object, message: str) -> None:
    if not condition:
        raise ClaimError(f"claims.json: {where}: {key!r} {message}.")


# Judging


def judge(claim: Claim, measured: Mapping[str, float]) -> Verdict:
    """The verdict on ``claim`` from the ``measured`` quantities; those of other claims are ignored.

    A condition is met when all of its measured tests pass. All conditions met: *holds*; some:
    *holds when*; none: *does not hold*; nothing measured: *untested*.
    """
    outcomes = tuple(_outcome(test, measured.get(test.quantity)) for test in claim.tests)
    conditions: dict[str, bool] = {}
    for outcome in outcomes:
        if outcome.passed is not None:
            name = outcome.test.condition
            conditions[name] = conditions.get(name, True) and outcome.passed
    kept = [name for name, passed in conditions.items() if passed]
    broken = [name for name, passed in conditions.items() if not passed]
    if not conditions:
        return Verdict("untested", f"untested: {_lessons(claim.lessons, 'test')} it", outcomes)
    rest = [outcome.test.lesson for outcome in outcomes if outcome.value is None]
    still_open = f" ({_lessons(rest, 'measure')} the rest)" if rest else ""
    if not broken:
        return Verdict("holds", f"holds {_listed(kept)}{still_open}", outcomes)
    if not kept:
        return Verdict("does not hold", f"does not hold {_listed(broken)}{still_open}", outcomes)
    text = f"holds {_listed(kept)}; not {_listed(broken)}{still_open}"
    return Verdict("holds when", text, outcomes)


def _outcome(test: Test, value: float | None) -> TestOutcome:
    return TestOutcome(test, value, None if value is None else test.passed(value))


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _lessons(numbers: Iterable[str], verb: str) -> str:
    """Lessons and what they do, such as "lesson 04 measures" or "lessons 04 and 06 measure"."""
    numbers = sorted(set(numbers))
    if len(numbers) == 1:
        return f"lesson {numbers[0]} {verb}s"
    return f"lessons {_listed(numbers)} {verb}"


# Recording


def record(name: str, measured: Mapping[str, float], context: str) -> "Card":
    """Store what a lesson measured for the claim ``name`` and return its card.

    Measurements of other lessons are kept; a quantity measured again replaces the older value.

    Args:
        measured: a number for each quantity, in the unit that ``claims.json`` gives it.
        context: what was measured, such as ``"SmallResNet, Fashion-MNIST, 10,000 test pictures"``.

    Raises:
        ClaimError: there is no such claim, it has no such quantity, or a value is not finite.
    """
    claims = load()
    if name not in claims:
        raise ClaimError(f"There is no claim {name!r}; the claims are {', '.join(claims)}.")
    claim = claims[name]
    if not measured:
        raise ClaimError(f"{name}: nothing was measured; its quantities are {_quantities(claim)}.")
    entries = {key: _entry(claim, key, value, context) for key, value in measured.items()}
    learner = progress.remember(lambda kept: kept["claims"].setdefault(name, {}).update(entries))
    return _card(claim, learner, recordings(), here=judge(claim, values(entries)))


def _quantities(claim: Claim) -> str:
    return ", ".join(test.quantity for test in claim.tests) or "not chosen yet (claims.json)"


def _entry(claim: Claim, quantity: str, value: SupportsFloat, context: str) -> Measurement:
    tests = {test.quantity: test for test in claim.tests}
    if quantity not in tests:
        raise ClaimError(
            f"{claim.id} has no quantity {quantity!r}; its quantities are {_quantities(claim)}."
        )
    test = tests[quantity]
    return {
        "value": test.rounded(_finite(value, f"{claim.id}: {quantity}")),
        "lesson": test.lesson,
        "context": context,
        "date": date.today().isoformat(),
        "machine": f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }


def _finite(value: SupportsFloat, what: str) -> float:
    """``value`` as a float: a Python or NumPy number, or a tensor of one element."""
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError, RuntimeError):
        number = math.nan
    if not math.isfinite(number):
        raise ClaimError(f"{what} must be a finite number, not {value!r}.")
    return number


def known(measured: Mapping[str, float]) -> dict[str, float]:
    """``measured`` without the quantities that are NaN because they are not recorded."""
    return {name: value for name, value in measured.items() if not math.isnan(value)}


def values(entries: Mapping[str, Measurement]) -> dict[str, float]:
    """The measured numbers in the stored ``entries`` of one claim, by quantity."""
    return {
        name: float(entry["value"])
        for name, entry in entries.items()
        if isinstance(entry, dict) and _is_number(entry.get("value"))
    }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)


def cards() -> list["Card"]:
    """A card for every claim, from the learner's progress, in the order of ``claims.json``."""
    learner, recorded = progress.read(), recordings()
    return [_card(claim, learner, recorded) for claim in load().values()]


def _card(
    claim: Claim,
    learner: Progress,
    recorded: dict[str, Recording],
    here: Verdict | None = None,
) -> "Card":
    entries = learner["claims"].get(claim.id, {})
    known = {test.quantity for test in claim.tests}
    verdict = judge(claim, values(entries))
    return Card(
        claim=claim,
        verdict=verdict,
        here=here or verdict,
        contexts=tuple(
            dict.fromkeys(
                entries[name].get("context", "") for name in values(entries) if name in known
            )
        ),
        recorded={
            machine: judge(claim, values(recording["claims"].get(claim.id, {})))
            for machine, recording in recorded.items()
            if claim.id in recording["claims"]
        },
    )


@dataclass(frozen=True, repr=False)
class Card:
    """A claim with this machine's measurements, the course's recordings and the verdicts.

    ``verdict`` covers everything that this machine has measured, ``here`` only the measurements
    passed to this call of :func:`record`. ``here`` does not depend on which lessons ran before, so
    lessons print it where their output is compared. ``recorded`` has a verdict for each recording.
    """

    claim: Claim
    verdict: Verdict
    here: Verdict
    contexts: tuple[str, ...]
    recorded: dict[str, Verdict]

    def rows(self) -> list[tuple[str, list[str]]]:
        """What the card shows: a heading and its lines, for every row."""
        mine = [_line(outcome) for outcome in self.verdict.outcomes] or ["no test chosen yet"]
        if self.contexts:
            mine.append(f"measured on: {'; '.join(self.contexts)}")
        recorded = [
            (f"recording {machine}", [_line(outcome) for outcome in verdict.outcomes])
            for machine, verdict in self.recorded.items()
        ]
        return [
            ("textbook", [self.claim.textbook]),
            ("your machine", mine),
            *(recorded or [("the course's recording", ["no recording yet"])]),
            ("verdict", [f"{MARKS[self.verdict.kind][0]} {self.verdict.text}"]),
        ]

    def __repr__(self) -> str:
        lines = [f"{self.claim.id}: {self.verdict.kind}"]
        for heading, texts in self.rows():
            lines += [f"  {heading}:", *(f"    {text}" for text in texts)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        # Code hosts strip all styles: the table must be readable without them.
        accent = MARKS[self.verdict.kind][1]
        left = 'style="text-align: left; vertical-align: top; white-space: normal"'
        head = f"<tr><th {left}>{self.claim.id}</th><th {left}>{self.verdict.kind}</th></tr>"
        body = "".join(
            f"<tr><th {left}>{html.escape(heading)}</th>"
            f"<td {left}>{'<br>'.join(html.escape(text) for text in texts)}</td></tr>"
            for heading, texts in self.rows()
        )
        return (
            f'<table style="border-left: 6px solid {accent}; max-width: 60em; margin-left: 0">'
            f"<thead>{head}</thead><tbody>{body}</tbody></table>"
        )


def _line(outcome: TestOutcome) -> str:
    test = outcome.test
    if outcome.value is None:
        return f"{test.label}: not measured yet (lesson {test.lesson})"
    mark = "✔ reached" if outcome.passed else "✘ missed"
    return f"{test.label}: {test.shown(outcome.value)} (target: {test.target}, {mark})"


# The course's recordings


def machine() -> dict[str, str]:
    """What measurements depend on: processor, memory, graphics card, threads and versions."""
    return {**machine_facts(), "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB"}


def recordings(root: Path = DATA) -> dict[str, Recording]:
    """The published measurements in ``root/recordings/*/claims.json``, by the machine's name.

    Raises:
        ClaimError: a recording is damaged.
    """
    recorded = {}
    for path in sorted(Path(root).glob("recordings/*/claims.json")):
        recording: Recording = _json(path)
        if not isinstance(recording, dict) or not isinstance(recording.get("claims"), dict):
            raise ClaimError(f"{path} is not a recording: it must be an object with 'claims'.")
        recorded[path.parent.name] = recording
    return recorded


def publish(name: str, root: Path = DATA) -> Path:
    """Write the learner's measurements to ``root/recordings/NAME/claims.json``; return its path.

    Raises:
        ClaimError: the name is not valid, or nothing has been measured yet.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise ClaimError(f"{name!r} is not a machine name: use a-z, 0-9 and -, as in {COURSE}.")
    measured = progress.read()["claims"]
    if not measured:
        raise ClaimError(
            f"There are no measurements in {progress.folder()} yet: run the lessons first."
        )
    content: Recording = {
        "machine": machine(),
        "date": date.today().isoformat(),
        "claims": measured,
    }
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    return write_whole(Path(root) / "recordings" / name / "claims.json", text)


def main(arguments: list[str] | None = None) -> int:
    """``publish MACHINE``: the author's command."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.teaching.claims")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser(
        "publish", help="publish this machine's measurements as a recording"
    )
    command.add_argument("machine", help=f"a name for the machine, such as {COURSE}")
    try:
        path = publish(parser.parse_args(arguments).machine)
    except ClaimError as error:
        print(error, file=sys.stderr)
        return 1
    record_checksum(path.relative_to(DATA).as_posix())
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
