"""The bank of interview questions: read from ``data/interview``, checked, filled with numbers.

A file has the questions of one lesson; ``data/README.md`` describes their fields. Measured numbers
are never typed there: a *look-up* says which recording has the number, and :class:`NumberFinder`
looks in the learner's own recordings first, then in the course's.
"""

import math
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, NotRequired, TypedDict

import fastjsonschema
import yaml

from course_lib.experiments import published, recordings
from course_lib.experiments.recordings import COURSE
from course_lib.experiments.registry import EXPERIMENTS
from course_lib.measuring.machine import machine_name
from course_lib.networks.data import DATA
from course_lib.teaching import claims, progress
from course_lib.teaching.progress import Measurement

KINDS = {
    "recall": "recall",
    "explain": "explain in sixty seconds",
    "estimate": "estimate",
    "mistake": "spot the mistake",
    "design": "design a deployment",
}

TOPICS = (
    "scoring",
    "surgery",
    "recovery",
    "evidence",
    "sparsity",
    "speed",
    "quantization",
    "storage",
    "transformers",
    "distillation",
    "deployment",
    "language models",
)


class BankError(ValueError):
    """An invalid question, or a number that is not recorded; the message says which."""


# --- the fields of a file -----------------------------------------------------------------------


class LookUp(TypedDict, total=False):
    """One number: typed arithmetic, a measured claim, a place in a recording, or published rows.

    ``over`` or ``minus`` compares it with another one.
    """

    number: float
    claim: str
    quantity: str
    experiment: str
    published: str
    model: str
    device: str
    at: str
    where: dict[str, str | float]
    field: str
    over: "LookUp"
    minus: "LookUp"


class EstimateEntry(TypedDict):
    """The fields of a number to guess."""

    value: LookUp
    unit: str
    factor: NotRequired[float]
    within: NotRequired[float]


class WrongEntry(TypedDict):
    """The fields of a common wrong answer."""

    says: str
    because: str


class QuestionEntry(TypedDict):
    """The fields of a question."""

    id: str
    kind: str
    topic: str
    difficulty: int
    claim: str
    question: str
    answer: str
    strong: list[str]
    wrong: WrongEntry
    estimate: NotRequired[EstimateEntry]
    numbers: NotRequired[dict[str, LookUp]]


class QuestionFile(TypedDict):
    """A file of ``data/interview``."""

    lesson: str
    questions: list[QuestionEntry]


#: The tables of published rows, see :mod:`course_lib.experiments.published`.
PUBLISHED: dict[str, Callable[[Path], Sequence[published.Row]]] = {
    "speed-ups": published.rows,
    "break-evens": published.break_evens,
}

#: The same as a JSON schema, which also checks the values.
TEXT = {"type": "string", "pattern": r"\S"}
LOOK_UP = {"$ref": "#/$defs/look-up"}

DEFINITIONS = {
    "look-up": {
        "type": "object",
        "properties": {
            "number": {"type": "number"},
            "claim": {"type": "string", "pattern": r"^C\d\d$"},
            "quantity": TEXT,
            "experiment": {"enum": [*EXPERIMENTS]},
            "published": {"enum": [*PUBLISHED]},
            "model": TEXT,
            "device": TEXT,
            "at": TEXT,
            "where": {"type": "object"},
            "field": TEXT,
            "over": LOOK_UP,
            "minus": LOOK_UP,
        },
        "oneOf": [
            {"required": ["number"]},
            {"required": ["claim", "quantity"]},
            {"required": ["experiment", "field"]},
            {"required": ["published", "where", "field"]},
        ],
        "not": {"required": ["over", "minus"]},
        "additionalProperties": False,
    }
}

ESTIMATE = {
    "type": "object",
    "properties": {
        "value": LOOK_UP,
        "unit": TEXT,
        "factor": {"type": "number", "exclusiveMinimum": 1},
        "within": {"type": "number", "exclusiveMinimum": 0},
    },
    "required": ["value", "unit"],
    "oneOf": [{"required": ["factor"]}, {"required": ["within"]}],
    "additionalProperties": False,
}

QUESTION = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "pattern": r"^\d\d-[a-z0-9-]+$"},
        "kind": {"enum": [*KINDS]},
        "topic": {"enum": [*TOPICS]},
        "difficulty": {"type": "integer", "minimum": 1, "maximum": 5},
        "claim": {"type": "string", "pattern": r"^C\d\d$"},
        "question": TEXT,
        "answer": TEXT,
        "strong": {"type": "array", "items": TEXT, "minItems": 2, "maxItems": 5},
        "wrong": {
            "type": "object",
            "properties": {"says": TEXT, "because": TEXT},
            "required": ["says", "because"],
            "additionalProperties": False,
        },
        "estimate": ESTIMATE,
        "numbers": {"type": "object", "additionalProperties": LOOK_UP},
    },
    "required": [
        *("id", "kind", "topic", "difficulty", "claim"),
        *("question", "answer", "strong", "wrong"),
    ],
    "if": {"properties": {"kind": {"const": "estimate"}}},
    "then": {"required": ["estimate"]},
    "else": {"not": {"required": ["estimate"]}},
    "additionalProperties": False,
}

SCHEMA = {
    "$defs": DEFINITIONS,
    "type": "object",
    "properties": {
        "lesson": {"type": "string", "pattern": r"^\d\d$"},
        "questions": {"type": "array", "items": QUESTION, "minItems": 1},
    },
    "required": ["lesson", "questions"],
    "additionalProperties": False,
}


class Wrong(NamedTuple):
    """A common wrong answer, and why it is wrong."""

    says: str
    because: str


class Estimate(NamedTuple):
    """A number to guess: right within a ``factor`` of it, or ``within`` so many units of it."""

    value: LookUp
    unit: str
    factor: float | None = None
    within: float = 0.0

    def right(self, guess: float, truth: float) -> bool:
        """Whether ``guess`` is close enough to ``truth``."""
        if self.factor is None:
            return abs(guess - truth) <= self.within
        return within_factor(guess, truth, self.factor)

    @property
    def tolerance(self) -> str:
        """The tolerance in words, such as ``"within a factor of 1.5"``."""
        if self.factor is None:
            return f"within {self.within:g} {self.unit}"
        return f"within a factor of {self.factor:g}"


class Question(NamedTuple):
    """An interview question, with all that is needed to grade an answer.

    ``lesson`` and ``claim`` support the answer. ``numbers`` has the look-ups of the {placeholders}
    in the texts, which :func:`filled` replaces by the numbers.
    """

    id: str
    kind: str
    topic: str
    difficulty: int
    lesson: str
    claim: str
    question: str
    answer: str
    strong: tuple[str, ...]
    wrong: Wrong
    estimate: Estimate | None
    numbers: dict[str, LookUp]

    def texts(self) -> tuple[str, ...]:
        """All that a learner reads, in the order of reading."""
        return self.question, self.answer, *self.strong, *self.wrong


# --- reading ------------------------------------------------------------------------------------


def load(root: Path = DATA) -> dict[str, Question]:
    """The questions of ``root/interview``, by id.

    Raises:
        BankError: a file is missing or invalid; the message names file, question and field.
    """
    files = sorted(Path(root).glob("interview/*.yaml"))
    if not files:
        raise BankError(
            f"{Path(root) / 'interview'} contains no questions. Restore it with 'git checkout -- "
            "data/interview' in the project's folder, or download the project again."
        )
    bank: dict[str, Question] = {}
    known = claims.load()
    for file in files:
        for question in _questions(file, known):
            if question.id in bank:
                raise BankError(
                    f"{file.name}: the id {question.id!r} is used twice; choose another."
                )
            bank[question.id] = question
    return bank


def _questions(file: Path, known: dict[str, claims.Claim]) -> Iterator[Question]:
    """The questions in ``file``, each checked on its own and against the ``known`` claims."""
    content = _parsed(file)
    for entry in content["questions"]:
        question = _question(entry, content["lesson"])
        for problem in _problems(question, known):
            raise BankError(f"{file.name}, question {question.id}: {problem}")
        yield question


#: The reader written in C, which is ten times as fast, where it is installed.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _parsed(file: Path) -> QuestionFile:
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), LOADER)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BankError(f"{file} cannot be read: {error}. Repair or restore it.") from error
    try:
        _fits_schema()(content)
    except fastjsonschema.JsonSchemaValueException:
        _explain(file, content)
    return content


@cache
def _fits_schema() -> Callable[[object], object]:
    """A quick check of a file's content; :func:`_explain` says what is wrong."""
    return fastjsonschema.compile({"$schema": "http://json-schema.org/draft-07/schema#", **SCHEMA})


def _explain(file: Path, content: QuestionFile) -> None:
    """Raise a BankError that names the first field that is invalid."""
    from jsonschema import Draft202012Validator  # here, because it takes seconds

    for problem in Draft202012Validator(SCHEMA).iter_errors(content):
        place = _place(content, [*problem.absolute_path])
        message = f"{problem.message:.200}. data/README.md says what each field holds."
        raise BankError(f"{file.name}{place}: {message}")


def _place(content: QuestionFile, path: list) -> str:
    """The question and the field that ``path`` leads to, in words."""
    if path[:1] != ["questions"] or len(path) < 2:
        return "".join(f", {step}" for step in path)
    entry = content["questions"][path[1]]
    name = entry.get("id") if isinstance(entry, dict) else None
    fields = "".join(f", {step}" for step in path[2:])
    return f", question {name or f'number {path[1] + 1}'}{fields}"


def _question(entry: QuestionEntry, lesson: str) -> Question:
    estimate, numbers = entry.get("estimate"), entry.get("numbers", {})
    return Question(
        id=entry["id"],
        kind=entry["kind"],
        topic=entry["topic"],
        difficulty=entry["difficulty"],
        lesson=lesson,
        claim=entry["claim"],
        question=entry["question"].strip(),
        answer=entry["answer"].strip(),
        strong=tuple(entry["strong"]),
        wrong=Wrong(**entry["wrong"]),
        estimate=Estimate(**estimate) if estimate else None,
        numbers=numbers | {"value": estimate["value"]} if estimate else numbers,
    )


def _problems(question: Question, known: dict[str, claims.Claim]) -> Iterator[str]:
    """Problems that the schema does not cover."""
    if not question.id.startswith(question.lesson):
        yield f"its id must begin with its lesson, {question.lesson}."
    if question.claim not in known:
        yield f"there is no claim {question.claim!r}; claims.json lists them."
    elif question.lesson not in known[question.claim].lessons:
        there = ", ".join(known[question.claim].lessons)
        yield f"the claim {question.claim} is tested in lesson {there}, not in {question.lesson}."
    missing = set(placeholders(question.texts())) - question.numbers.keys()
    if missing:
        yield f"there is no look-up for {sorted(missing)}; add them to 'numbers'."
    unread = question.numbers.keys() - {"value", *placeholders(question.texts())}
    if unread:
        yield f"no text uses the numbers {sorted(unread)}; remove them."


def placeholders(texts: Iterable[str]) -> list[str]:
    """The names in braces, in order."""
    parts = (part for text in texts for part in string.Formatter().parse(text))
    return [name for _, name, _, _ in parts if name is not None]


# --- numbers ------------------------------------------------------------------------------------


class Number(NamedTuple):
    """A number and where it comes from, in words."""

    value: float
    origin: str


class NumberFinder:
    """Looks up numbers, in the learner's own recordings first, then in the course's.

    Args:
        root: the folder ``data``.
        machine: the name of the folder of the learner's own recordings; None for this machine's.
    """

    def __init__(self, root: Path = DATA, machine: str | None = None):
        self._root = root
        self._machine = machine or machine_name()
        # A recording is read once.
        self._recorded: dict[tuple[str, str | None], dict[str, dict]] = {}

    def number(self, look_up: LookUp) -> Number:
        """The number that ``look_up`` describes: all parts of it from one machine.

        Raises:
            BankError: no recording has it.
        """
        for own in (True, False):
            try:
                value = self._value(look_up, own)
            except (LookupError, TypeError, ZeroDivisionError):
                continue  # this machine did not record it, or not in this way
            if math.isfinite(value):
                return Number(value, self._origin(look_up, own))
        raise BankError(
            f"No recording has {look_up}. Restore the course's with 'git checkout -- "
            "data/recordings', or repair the look-up."
        )

    def _origin(self, look_up: LookUp, own: bool) -> str:
        if "number" in look_up:
            other = look_up.get("over") or look_up.get("minus")
            return self._origin(other, own) if other else "by arithmetic"
        if "published" in look_up:
            names = dict.fromkeys(str(row.source) for row in self._rows(look_up))
            return f"published by {' and '.join(names)}"
        if "claim" in look_up and own:
            entry = self._measured(own)[look_up["claim"]][look_up["quantity"]]
            return entry.get("source") or "as you measured it"
        return f"recorded on {self._machine if own else COURSE}"

    def _value(self, look_up: LookUp, own: bool) -> float:
        value = self._base(look_up, own)
        if "over" in look_up:
            return value / self._value(look_up["over"], own)
        if "minus" in look_up:
            return value - self._value(look_up["minus"], own)
        return value

    def _base(self, look_up: LookUp, own: bool) -> float:
        if "number" in look_up:
            return look_up["number"]
        if "claim" in look_up:
            return self._measured(own)[look_up["claim"]][look_up["quantity"]]["value"]
        if "published" in look_up:
            return fmean(getattr(row, look_up["field"]) for row in self._rows(look_up))
        recording = self._recording(look_up, own)
        if "at" not in look_up:
            return _field(recording, look_up["field"])
        # Several entries that agree, such as seeds, count as their mean.
        what = look_up.get("where", {})
        agree = [e for e in recording[look_up["at"]] if all(e[key] == what[key] for key in what)]
        return fmean([_field(entry, look_up["field"]) for entry in agree] or [math.nan])

    def _rows(
        self, look_up: LookUp
    ) -> list[published.PublishedSpeedup | published.PublishedBreakEven]:
        """The published rows that agree with ``where``; several count as their mean."""
        what = {name: str(value) for name, value in look_up["where"].items()}
        rows: Sequence[published.Row] = PUBLISHED[look_up["published"]](self._root)
        found = [row for row in rows if all(_published(row, name) == what[name] for name in what)]
        if not found:
            raise LookupError(f"nothing like {look_up['where']} was published")
        return found

    def _measured(self, own: bool) -> dict[str, dict[str, Measurement]]:
        return progress.read()["claims"] if own else claims.recordings(self._root)[COURSE]["claims"]

    def _recording(self, look_up: LookUp, own: bool) -> dict:
        key = look_up["experiment"], look_up.get("model")
        if key not in self._recorded:
            self._recorded[key] = recordings.load(*key, self._root)
        found = self._recorded[key][self._machine if own else COURSE]
        if look_up.get("device", found.get("device")) != found.get("device"):
            raise LookupError("recorded on another kind of device")
        return found


def _published(row: published.Row, name: str) -> str:
    """A field of a published row as text; of its source the id."""
    return row.source.id if name == "source" else str(getattr(row, name))


def _field(entry: dict, path: str) -> float:
    """The number at ``path``, whose steps are separated by dots: ``"one thread.speedup"``."""
    first, _, rest = path.partition(".")
    return _field(entry[first], rest) if rest else float(entry[first])


def shown(value: float) -> str:
    """``value`` with three significant digits, such as ``"57.5"`` or ``"44,700"``."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:g}"


def filled(question: Question, finder: NumberFinder) -> Question:
    """``question`` with the numbers in place of the {placeholders}.

    Raises:
        BankError: no recording has one of them.
    """
    found = {name: shown(finder.number(each).value) for name, each in question.numbers.items()}
    return question._replace(
        question=question.question.format_map(found),
        answer=question.answer.format_map(found),
        strong=tuple(point.format_map(found) for point in question.strong),
        wrong=Wrong(*(text.format_map(found) for text in question.wrong)),
    )


# --- built in lesson 13 -------------------------------------------------------------------------


def within_factor(guess: float, truth: float, factor: float) -> bool:
    """Whether ``guess`` is at most ``factor`` times too large or too small. Built in lesson 13.

    False if the signs differ or the guess is zero.
    """
    if guess * truth <= 0:
        return False
    return abs(math.log(guess / truth)) <= math.log(factor) + 1e-9
