"""Textbook claims about pruning, and the verdicts that measurements give them.

``data/claims.json`` has the claims and their tests (a quantity and the range it must be in). A
lesson measures and calls :func:`record`, which stores the measurements in the learner's progress;
the verdict is computed, never typed. What other works published (:mod:`.published_claims`) stands
beside it, and decides what the learner cannot measure. ``python -m course_lib.teaching.claims
publish MACHINE`` turns the author's own measurements into the recording that the cards of all
learners show beside theirs.
"""

import argparse
import html
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, SupportsFloat, TypedDict, cast

import psutil
import torch

from course_lib.experiments.published import warnings_of
from course_lib.experiments.recordings import COURSE
from course_lib.files import write_whole
from course_lib.measuring.estimates import Estimate, HasInterval, exact
from course_lib.measuring.machine import machine_facts, processor
from course_lib.networks.data import DATA, record_checksum
from course_lib.teaching import progress
from course_lib.teaching.progress import Measurement, Progress
from course_lib.teaching.published_claims import PublishedValue, published_values

# Decimals by unit; values in other units are shown with three significant digits.
DECIMALS = {"points": 1, "%": 1, "x": 2}

# Sign and colour of a verdict; the colour only repeats what the sign and the words say.
MARKS = {
    "holds": ("✔", "#1b7f5c"),
    "holds when": ("◑", "#b7791f"),
    "does not hold": ("✘", "#b83227"),
    "undecided": ("≈", "#5b5b8c"),
    "untested": ("○", "#777777"),
}


#: The mark of a test that is reached or missed, or whose interval holds its threshold.
STATES = {"reached": "✔", "missed": "✘", "too close to call": "≈"}


class ClaimError(ValueError):
    """An invalid claim, quantity or value; the message names what is allowed."""


class Test(NamedTuple):
    """One measurable condition of a claim: ``quantity``, in ``unit``, is within the bounds.

    ``condition`` completes the sentence "the claim holds ..." ("at 90 % sparsity"). ``reason`` says
    where the bounds come from. A quantity that is ``exact`` has no interval; the text says why.
    ``hardware`` is what it is measured on, "cpu" or "gpu", if that matters to the claim.
    """

    quantity: str
    unit: str
    lesson: str
    label: str
    condition: str
    reason: str
    at_least: float | None = None
    at_most: float | None = None
    exact: str = ""
    hardware: str = ""

    def rounded(self, value: float) -> float:
        """``value`` rounded to the digits that are shown, which are also those that are judged."""
        digits = DECIMALS.get(self.unit)
        rounded = float(f"{value:.3g}") if digits is None else round(value, digits)
        return rounded + 0.0  # no minus before a zero

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

    def state(self, estimate: HasInterval) -> str:
        """A key of :data:`STATES`: on which side of its bounds the whole interval lies.

        Values are rounded as they are shown, so that the two never disagree.
        """
        bottom = -math.inf if self.at_least is None else self.at_least
        top = math.inf if self.at_most is None else self.at_most
        low, high = self.rounded(estimate.low), self.rounded(estimate.high)
        if bottom <= low and high <= top:
            return "reached"
        return "missed" if high < bottom or low > top else "too close to call"

    def shown_with_interval(self, estimate: HasInterval) -> str:
        """The value with its unit and its interval, such as ``"34.2 points (33.1 to 35.3)"``."""
        value = self.shown(estimate.value)
        if self.exact and estimate.low == estimate.high:
            return value
        low, high = (self.shown(end).partition(" ")[0] for end in (estimate.low, estimate.high))
        return f"{value} ({low} to {high})"


class Claim(NamedTuple):
    """A textbook statement, the lessons that test it, and its tests.

    A claim about some ``hardware`` is decided on that hardware alone: tests on other hardware are
    shown beside it. A claim that something ``exists`` holds as soon as one condition is met.
    """

    id: str
    textbook: str
    lessons: tuple[str, ...]
    shows: str
    sources: tuple[str, ...]
    tests: tuple[Test, ...]
    hardware: str = ""
    exists: bool = False

    def is_decided_by(self, test: Test) -> bool:
        """Whether ``test`` counts for the verdict."""
        return not self.hardware or test.hardware in ("", self.hardware)


class PublishedOutcome(NamedTuple):
    """A published value of the quantity of a test, and the state of the test by it alone."""

    value: PublishedValue
    state: str


class TestOutcome(NamedTuple):
    """One test and its measured estimate; it and ``state`` are None while unmeasured."""

    test: Test
    estimate: HasInterval | None
    state: str | None
    published: tuple[PublishedOutcome, ...] = ()

    def published_state(self, exists: bool) -> str | None:
        """The state of the test by all published values together; None if there are none.

        That something ``exists`` is seen once, be it as a single figure. Otherwise all values must
        agree. A single figure without an interval decides nothing alone, but it can disagree.
        """
        states = {one.state for one in self.published}
        if exists and "reached" in states:
            return "reached"
        if len(states) == 1 and any(one.value.range for one in self.published):
            return states.pop()
        return "too close to call" if states else None


class Verdict(NamedTuple):
    """``kind`` is a key of ``MARKS``; ``text`` says it in words, without measured numbers."""

    kind: str
    text: str
    outcomes: tuple[TestOutcome, ...]


class Recording(TypedDict):
    """The recorded measurements of one machine, by claim and quantity."""

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
    reason: str
    at_least: NotRequired[float]
    at_most: NotRequired[float]
    exact: NotRequired[str]
    hardware: NotRequired[str]


class ClaimEntry(TypedDict):
    """The fields of a claim in ``claims.json``."""

    id: str
    textbook: str
    lessons: list[str]
    shows: str
    sources: list[str]
    tests: list[TestEntry]
    hardware: NotRequired[str]
    exists: NotRequired[bool]


CLAIM_KEYS = {
    "id": str,
    "textbook": str,
    "lessons": list,
    "shows": str,
    "sources": list,
    "tests": list,
}
TEST_KEYS = {
    "quantity": str,
    "unit": str,
    "lesson": str,
    "label": str,
    "condition": str,
    "reason": str,
}


def _claim(content: Any, where: str) -> Claim:
    if isinstance(content, dict) and isinstance(content.get("id"), str):
        where = f"claim {content['id']}"
    entry: ClaimEntry = _with_keys(content, CLAIM_KEYS, ("hardware", "exists"), where)
    _require(re.fullmatch(r"C\d\d", entry["id"]), where, "id", "must look like 'C01'")
    for key, words in (("lessons", entry["lessons"]), ("sources", entry["sources"])):
        only_text = all(isinstance(word, str) for word in words)
        _require(only_text, where, key, "must contain only text")
    _require(entry["lessons"], where, "lessons", "must name at least one lesson")
    _require_hardware(content, where)
    is_bool = type(content.get("exists", False)) is bool
    _require(is_bool, where, "exists", "must be true or false")
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
        hardware=entry.get("hardware", ""),
        exists=entry.get("exists", False),
    )


def _test(content: Any, claim: str, lessons: list[str]) -> Test:
    where = f"a test of {claim}"
    if isinstance(content, dict) and isinstance(content.get("quantity"), str):
        where = f"test {content['quantity']!r} of {claim}"
    bounds = ("at_least", "at_most")
    entry: TestEntry = _with_keys(content, TEST_KEYS, (*bounds, "exact", "hardware"), where)
    given = [content[key] for key in bounds if key in content]
    _require(given, where, "at_least", "or 'at_most' must be given")
    _require(all(type(bound) in (int, float) for bound in given), where, bounds, "must be numbers")
    _require(given == sorted(given), where, "at_least", "must not exceed 'at_most'")
    _require(entry["lesson"] in lessons, where, "lesson", f"must be one of the claim's, {lessons}")
    _require_hardware(content, where)
    text = content.get("exact", "why")
    _require(isinstance(text, str) and text, where, "exact", "must say why there is no interval")
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


def _require_hardware(content: dict[str, object], where: str) -> None:
    known = content.get("hardware", "cpu") in ("cpu", "gpu")
    _require(known, where, "hardware", "must be 'cpu' or 'gpu'")


def _require(condition: object, where: str, key: object, message: str) -> None:
    if not condition:
        raise ClaimError(f"claims.json: {where}: {key!r} {message}.")


# Judging


def judge(
    claim: Claim,
    measured: Mapping[str, HasInterval],
    published: Mapping[str, Sequence[PublishedValue]] | None = None,
) -> Verdict:
    """The verdict on ``claim`` from the ``measured`` quantities; those of other claims are ignored.

    A test is reached or missed only if its whole 95 % interval is on one side of its bounds;
    otherwise it is too close to call. A condition is as good as the worst of its tests. All
    conditions reached: *holds*; some: *holds when*; all missed: *does not hold*; nothing that
    decides the claim measured: *untested*, or *undecided* if it was measured on other hardware.
    Anything else is *undecided*.

    Once anything is measured, ``published`` values decide the tests that are not, as
    :meth:`TestOutcome.published_state` describes; the text marks their conditions "[published]".
    """
    found = published or {}
    outcomes = tuple(
        _outcome(test, measured.get(test.quantity), found.get(test.quantity, ()))
        for test in claim.tests
    )
    states = _states(claim, outcomes)
    kept, missed, close = (
        [condition for condition, each in states.items() if each == state] for state in STATES
    )
    rest = [one.test.lesson for one in outcomes if one.state is None and not one.published]
    still_open = f" ({_lessons(rest, 'measure')} the rest)" if rest else ""
    if not states:
        if claim.hardware and any(outcome.state for outcome in outcomes):
            text = f"undecided: no {claim.hardware.upper()} was measured{still_open}"
            return Verdict("undecided", text, outcomes)
        return Verdict("untested", f"untested: {_lessons(claim.lessons, 'test')} it", outcomes)
    said = [f"too close to call {_listed(close)}"] if close else []
    if not kept:
        said = [f"does not hold {_listed(missed)}", *said] if missed else said
        kind, start = ("undecided", "undecided: ") if close else ("does not hold", "")
        return Verdict(kind, f"{start}{'; '.join(said)}{still_open}", outcomes)
    said = [f"not {_listed(missed)}", *said] if missed else said
    kind = "holds when" if said and not claim.exists else "holds"
    return Verdict(kind, "; ".join([f"holds {_listed(kept)}", *said]) + still_open, outcomes)


def _states(claim: Claim, outcomes: Sequence[TestOutcome]) -> dict[str, str]:
    """By condition, the worst state of its tests that decide the ``claim``."""
    found: dict[str, str] = {}
    order = ("missed", "too close to call", "reached")
    read = {one.test.condition for one in deciding_published(claim, outcomes)}
    for outcome in outcomes:
        condition = outcome.test.condition
        state = outcome.state
        if state is None and condition in read:
            state = outcome.published_state(claim.exists)
        if state is not None and claim.is_decided_by(outcome.test):
            name = f"{condition} [published]" if condition in read else condition
            found[name] = min(state, found.get(name, state), key=order.index)
    return found


def deciding_published(claim: Claim, outcomes: Iterable[TestOutcome]) -> list[TestOutcome]:
    """Those ``outcomes`` that published values decide, once anything of the claim is measured."""
    every = [*outcomes]
    if not any(one.state for one in every):
        return []
    unmeasured = (one for one in every if one.state is None and one.published)
    return [one for one in unmeasured if claim.is_decided_by(one.test)]


def _outcome(
    test: Test, estimate: HasInterval | None, published: Iterable[PublishedValue]
) -> TestOutcome:
    beside = tuple(
        PublishedOutcome(value, test.state(value.range or exact(value.value)))
        for value in published
    )
    return TestOutcome(test, estimate, None if estimate is None else test.state(estimate), beside)


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _lessons(numbers: Iterable[str], verb: str) -> str:
    """Lessons and what they do, such as "lesson 04 measures" or "lessons 04 and 06 measure"."""
    numbers = sorted(set(numbers))
    if len(numbers) == 1:
        return f"lesson {numbers[0]} {verb}s"
    return f"lessons {_listed(numbers)} {verb}"


# Recording


def record(
    name: str,
    measured: Mapping[str, SupportsFloat | HasInterval],
    context: str,
    source: str = "",
) -> "Card":
    """Store what a lesson measured for the claim ``name`` and return its card.

    Measurements of other lessons are kept; a quantity measured again replaces the older value.

    Args:
        measured: an estimate with its interval for each quantity, in the unit that ``claims.json``
            gives it; a plain number only where that file says why there is no interval.
        context: what was measured, such as ``"SmallResNet, Fashion-MNIST, 10,000 test pictures"``.
        source: where it was recorded, if it was not measured here: "recorded on cpu-2core". What
            was published is looked up by itself, and never passed.

    Raises:
        ClaimError: there is no such claim, it has no such quantity, a value is not finite, or its
            interval is missing or does not contain it.
    """
    claims = load()
    if name not in claims:
        raise ClaimError(f"There is no claim {name!r}; the claims are {', '.join(claims)}.")
    claim = claims[name]
    if not measured:
        raise ClaimError(f"{name}: nothing was measured; its quantities are {_quantities(claim)}.")
    about = {"context": context} | ({"source": source} if source else {})
    entries = {key: _entry(claim, key, value, about) for key, value in measured.items()}
    learner = progress.remember(lambda kept: kept["claims"].setdefault(name, {}).update(entries))
    return _card(claim, learner, recordings(), entries)


def _quantities(claim: Claim) -> str:
    return ", ".join(test.quantity for test in claim.tests) or "not chosen yet (claims.json)"


def _entry(
    claim: Claim, quantity: str, given: SupportsFloat | HasInterval, about: dict[str, str]
) -> Measurement:
    tests = {test.quantity: test for test in claim.tests}
    if quantity not in tests:
        raise ClaimError(
            f"{claim.id} has no quantity {quantity!r}; its quantities are {_quantities(claim)}."
        )
    test = tests[quantity]
    estimate = _estimate(test, given, f"{claim.id}: {quantity}")
    entry = {
        "value": test.rounded(estimate.value),
        "low": test.rounded(estimate.low),
        "high": test.rounded(estimate.high),
        "lesson": test.lesson,
        "date": date.today().isoformat(),
        "machine": f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }
    return cast(Measurement, entry | about)


def _estimate(test: Test, given: Any, what: str) -> Estimate:
    if hasattr(given, "low") and hasattr(given, "high"):
        ends = [_finite(end, what) for end in (given.value, given.low, given.high)]
        if not ends[1] <= ends[0] <= ends[2]:
            raise ClaimError(f"{what}: {ends[0]:g} is not within its interval {ends[1:]}.")
        return Estimate(*ends)
    number = _finite(given, what)
    if not test.exact:
        raise ClaimError(
            f"{what} is {number:g} without an interval: give an Estimate, see "
            "course_lib.measuring.estimates."
        )
    return Estimate(number, number, number)


def _finite(value: Any, what: str) -> float:
    """``value`` as a float: a Python or NumPy number, or a tensor of one element."""
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError, RuntimeError):
        number = math.nan
    if not math.isfinite(number):
        raise ClaimError(f"{what} must be a finite number, not {value!r}.")
    return number


def known(
    measured: Mapping[str, SupportsFloat | HasInterval | None],
) -> dict[str, SupportsFloat | HasInterval]:
    """``measured`` without what is not recorded: None, or a value or interval that is NaN."""
    return {
        name: given
        for name, given in measured.items()
        if given is not None and not _is_nan(getattr(given, "low", given))
    }


def _is_nan(number: Any) -> bool:
    return math.isnan(number)


def estimates(claim: Claim, entries: Mapping[str, Measurement]) -> dict[str, Estimate]:
    """The estimates in the stored ``entries`` of ``claim``, by quantity.

    What an earlier version of the course stored without an interval is left out.
    """
    found = {}
    for test in claim.tests:
        entry = entries.get(test.quantity)
        if isinstance(entry, dict) and _is_number(entry.get("value")):
            value = entry["value"]
            ends = (value, entry.get("low"), entry.get("high"))
            if all(map(_is_number, ends)):
                found[test.quantity] = Estimate(*ends)  # type: ignore[arg-type]
            elif test.exact:
                found[test.quantity] = Estimate(value, value, value)
    return found


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
    just_measured: Mapping[str, Measurement] | None = None,
) -> "Card":
    entries = learner["claims"].get(claim.id, {})
    mine = estimates(claim, entries)
    published = published_values(test.quantity for test in claim.tests)
    verdict = judge(claim, mine, published)
    sources = {name: entries[name].get("source", "") for name in mine}
    others = {
        machine: _of_others(recording["claims"].get(claim.id, {}), entries, machine)
        for machine, recording in recorded.items()
    }
    return Card(
        claim=claim,
        verdict=verdict,
        here=judge(claim, estimates(claim, just_measured), published) if just_measured else verdict,
        contexts=_different(entries[name].get("context", "") for name in mine),
        machines=_different(entries[name].get("machine", "") for name in mine if not sources[name]),
        sources=sources,
        recorded={
            machine: judge(claim, found)
            for machine, each in others.items()
            if (found := estimates(claim, each))
        },
    )


def _different(words: Iterable[str]) -> tuple[str, ...]:
    """The ``words`` in their order, each once, without empty ones."""
    return tuple(filter(None, dict.fromkeys(words)))


def _of_others(
    recorded: Mapping[str, Measurement], mine: Mapping[str, Measurement], machine: str
) -> dict[str, Measurement]:
    """What ``machine`` recorded, without the very measurements that are shown as the learner's.

    And without what it read itself in the recording of another machine.
    """
    own = f"recorded on {machine}"
    read = {
        name
        for name, entry in mine.items()
        if isinstance(entry, dict) and entry.get("source") == own
    }
    return {
        name: entry
        for name, entry in recorded.items()
        if isinstance(entry, dict) and entry.get("source", own) == own
        if mine.get(name) != entry and name not in read
    }


@dataclass(frozen=True, repr=False)
class Card:
    """A claim with this machine's measurements, recordings, what was published, and the verdicts.

    ``verdict`` covers everything that this machine has measured, ``here`` only the measurements
    passed to this call of :func:`record`. ``here`` does not depend on which lessons ran before, so
    lessons print it where their output is compared. ``recorded`` has a verdict for each recording
    that has measurements of its own. ``sources`` says for each of the learner's quantities where it
    was read, "" for those measured on this machine: only the latter's machine is in ``machines``.
    """

    claim: Claim
    verdict: Verdict
    here: Verdict
    contexts: tuple[str, ...]
    machines: tuple[str, ...]
    sources: dict[str, str]
    recorded: dict[str, Verdict]

    @property
    def circumstances(self) -> str:
        """What was measured and where: "for ResNet-18; on a Xeon; recorded on cpu-2core"."""
        places = [f"on {machine}" for machine in self.machines]
        what = [f"for {'; '.join(self.contexts)}"] if self.contexts else []
        read = [
            f"published by {one.value.row.source}"
            for outcome in deciding_published(self.claim, self.verdict.outcomes)
            for one in outcome.published
        ]
        return "; ".join([*what, *places, *_different([*self.sources.values(), *read])])

    @property
    def sentence(self) -> str:
        """The verdict as a sentence that names what was measured, and on which machine."""
        circumstances = self.circumstances
        return (
            f"{self.verdict.text}. That is {circumstances}" if circumstances else self.verdict.text
        )

    def rows(self) -> list[tuple[str, list[str]]]:
        """What the card shows: a heading and its lines, for every row."""
        mine = [self._line(outcome) for outcome in self.verdict.outcomes] or ["no test chosen yet"]
        recorded = [
            (f"recording {machine}", [_line(one) for one in verdict.outcomes if one.state])
            for machine, verdict in self.recorded.items()
        ]
        beside = [("published", self.published)] if self.published else []
        cautions = [("caution", self.warnings)] if self.warnings else []
        return [
            ("textbook", [self.claim.textbook]),
            ("your machine", mine),
            *recorded,
            *beside,
            *cautions,
            ("verdict", [f"{MARKS[self.verdict.kind][0]} {self.sentence}"]),
        ]

    @property
    def published(self) -> list[str]:
        """The tests with published values, each followed by all of them with their sources."""
        return [
            line
            for outcome in self.verdict.outcomes
            if outcome.published
            for line in (
                f"{outcome.test.label}, target: {outcome.test.target}:",
                *(_published_line(outcome.test, one) for one in outcome.published),
            )
        ]

    @property
    def warnings(self) -> list[str]:
        """What readers of the published values must know."""
        return warnings_of(
            one.value.row for outcome in self.verdict.outcomes for one in outcome.published
        )

    def _line(self, outcome: TestOutcome) -> str:
        return _line(outcome, self.sources.get(outcome.test.quantity, ""))

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


def shown_published(test: Test, one: PublishedOutcome) -> str:
    """A published value with its range over shapes and the state of ``test`` by it."""
    mark = f"{STATES[one.state]} {one.state}"
    if one.value.range is None:
        return f"{test.shown(one.value.value)} (published without an interval), {mark}"
    return f"{test.shown_with_interval(one.value.range)}, {mark}"


def _published_line(test: Test, one: PublishedOutcome) -> str:
    return f"- {shown_published(test, one)}, {one.value.origin}"


def _line(outcome: TestOutcome, source: str = "") -> str:
    test = outcome.test
    if outcome.estimate is None or outcome.state is None:
        return f"{test.label}: not measured yet (lesson {test.lesson})"
    mark = f"{STATES[outcome.state]} {outcome.state}"
    said = ", ".join(filter(None, [f"target: {test.target}", mark, source]))
    return f"{test.label}: {test.shown_with_interval(outcome.estimate)}, {said}"


# The course's recordings


def machine() -> dict[str, str]:
    """What measurements depend on: processor, memory, graphics card, threads and versions."""
    return {**machine_facts(), "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB"}


def recordings(root: Path = DATA) -> dict[str, Recording]:
    """The measurements in ``root/recordings/*/claims.json``, by the machine's name.

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
