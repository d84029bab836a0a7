"""The learner's report: every claim with this machine's numbers, on one page to show to others.

``build/report.md`` is the text, with its pictures beside it; ``build/report.html`` is the same,
self-contained, for a browser or a printer.
"""

import base64
import html
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

import matplotlib.pyplot as plt
from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from course_lib import PROJECT
from course_lib.files import write_whole
from course_lib.teaching import claims, figures, progress
from course_lib.teaching.claims import (
    MARKS,
    STATES,
    Card,
    Claim,
    TestOutcome,
    deciding_published,
    shown_published,
)
from course_lib.teaching.exercises import EXERCISES
from course_lib.teaching.progress import Attempts, Prediction, Progress

TITLE = "Pruning, Measured: my results"

# No external resources: the page must work offline, and still in ten years.
STYLE = """
:root { color-scheme: light dark; --line: #8886; --accent: #2166ac; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60em; margin: 0 auto; padding: 1em; }
h1 { line-height: 1.2; border-bottom: 4px solid var(--accent); padding-bottom: .3em; }
h2 { margin-top: 2em; }
h3 { margin: 2em 0 .3em; line-height: 1.3; }
h3 + p { margin-top: 0; }
img { max-width: 100%; background: white; }
table { display: block; overflow-x: auto; border-collapse: collapse; font-size: .9em; }
th, td { text-align: left; vertical-align: top; padding: .3em .8em .3em 0; min-width: 3em;
  border-bottom: 1px solid var(--line); }
td:nth-child(n+2) { min-width: 8em; }
@media print {
  body { font-size: 10pt; max-width: none; padding: 0; }
  table { display: table; width: 100%; }
  td:nth-child(n+2) { min-width: 0; }
  thead { display: table-header-group; }
  tr, img { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
}
"""


class Dot(TypedDict):
    """How Matplotlib draws a test, and its label in the legend."""

    label: str
    marker: str
    color: str
    markerfacecolor: NotRequired[str]
    markerfacecoloralt: NotRequired[str]
    fillstyle: NotRequired[Literal["left"]]


#: By state, how a test is drawn.
DOTS: dict[str | None, Dot] = {
    "reached": {"label": "target reached", "marker": "o", "color": MARKS["holds"][1]},
    "missed": {"label": "target missed", "marker": "X", "color": MARKS["does not hold"][1]},
    "too close to call": {
        "label": "too close to call",
        "marker": "D",
        "color": MARKS["undecided"][1],
    },
    None: {
        "label": "not measured",
        "marker": "o",
        "color": MARKS["untested"][1],
        "markerfacecolor": "white",
    },
}


def write(folder: Path = PROJECT / "build") -> Path:
    """Write the report into ``folder``; return the path of the page, ``report.html``.

    Raises:
        OSError: the folder cannot be written; an earlier report stays as it was.
    """
    folder, cards, learner = Path(folder), claims.cards(), progress.read()
    shown = pictures(cards, learner["predictions"])
    text = markdown(cards, learner, shown)
    for name, (_, png) in shown.items():
        write_whole(folder / name, png)
    write_whole(folder / "report.md", text)
    return write_whole(folder / "report.html", page(text, shown))


def summary(cards: Iterable[Card]) -> str:
    """One line: how many claims are tested, and their verdicts."""
    kinds = Counter(card.verdict.kind for card in cards)
    tested = kinds.total() - kinds["untested"]
    fared = ", ".join(f"{kind} ({kinds[kind]})" for kind in MARKS if kind != "untested")
    return f"{tested} of {kinds.total()} claims tested: {fared}."


# The text


def markdown(cards: list[Card], learner: Progress, shown: Mapping[str, tuple[str, bytes]]) -> str:
    """The report as Markdown: the ``cards``, and what the ``learner`` did in the course.

    Args:
        shown: the :func:`pictures`.
    """
    images = {name: f"![{alt}]({name})" for name, (alt, _) in shown.items()}
    sections = [
        f"# {TITLE}",
        "Textbook claims about neural-network pruning, tested by experiments on one machine, "
        "which is described at the end. Every verdict is computed from the numbers below it; "
        "the numbers of a recording are from the machine that it names, and published ones from "
        "the work that is named beside them.",
        f"**{summary(cards)}**",
        images[GLANCE],
        "## Claims",
        *map(_claim, cards),
        "## Untested",
        _untested(cards),
        "## Exercises",
        _exercises(learner["exercises"]),
        "## Predictions against measurements",
        *([images[GUESSES]] if GUESSES in images else []),
        _predictions(learner["predictions"]),
        "## Machine",
        _machine(),
    ]
    return "\n\n".join(sections) + "\n"


def page(text: str, shown: Mapping[str, tuple[str, bytes]]) -> str:
    """The Markdown ``text`` as one self-contained HTML page, with the pictures embedded."""
    # HTML in the text (from a learner's own words) stays text.
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    for name, (_, png) in shown.items():
        inside = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        body = body.replace(f'src="{name}"', f'src="{inside}"')
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(TITLE)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )


def _table(headings: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [_row(headings), _row("---" for _ in headings), *(_row(row) for row in rows)]
    return "\n".join(lines)


def _row(cells: Iterable[object]) -> str:
    words = (" ".join(str(cell).split()).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(words)} |"


def _claim(card: Card) -> str:
    """A claim's section: the verdict, and every number beside its target."""
    claim = card.claim
    parts = [
        f"### {claim.id} {claim.textbook}",
        f"{MARKS[card.verdict.kind][0]} **{card.verdict.text}**",
        f"That is {card.circumstances}." if card.circumstances else "",
        _numbers(card) if claim.tests else "",
        *_published(card),
        f"Targets: {' '.join(_reasons(claim))}" if claim.tests else "",
        f"Textbook and literature: {'; '.join(claim.sources)}." if claim.sources else "",
    ]
    return "\n\n".join(filter(None, parts))


def _reasons(claim: Claim) -> list[str]:
    """Why the targets are what they are: a sentence for each reason, with its targets."""
    found: dict[str, list[str]] = {}
    for test in claim.tests:
        found.setdefault(test.reason, []).append(test.target)
    return [f"{', '.join(dict.fromkeys(targets))}: {reason}." for reason, targets in found.items()]


def _numbers(card: Card) -> str:
    columns = {"this machine": card.verdict} | {
        f"recording {machine}": verdict for machine, verdict in card.recorded.items()
    }
    rows = [
        (
            test.label,
            test.target,
            *(_number(verdict.outcomes[place]) for verdict in columns.values()),
            card.sources.get(test.quantity, "-") or "measured",
        )
        for place, test in enumerate(card.claim.tests)
    ]
    return _table(("what", "target", *columns, "source"), rows)


def _published(card: Card) -> list[str]:
    """What other works published on the tests of a claim, and what to know about it."""
    rows = [
        (
            outcome.test.label,
            outcome.test.target,
            shown_published(outcome.test, one),
            one.value.origin,
        )
        for outcome in card.verdict.outcomes
        for one in outcome.published
    ]
    if not rows:
        return []
    table = _table(("what", "target", "published", "by"), rows)
    return [table, f"Caution: {' '.join(card.warnings)}"] if card.warnings else [table]


def _number(outcome: TestOutcome) -> str:
    if outcome.estimate is None or outcome.state is None:
        return f"not yet (lesson {outcome.test.lesson})"
    return f"{STATES[outcome.state]} **{outcome.test.shown_with_interval(outcome.estimate)}**"


def _untested(cards: Iterable[Card]) -> str:
    """What is missing, with the lesson that measures it."""
    rows = [
        (card.claim.id, outcome.test.label, outcome.test.lesson)
        for card in cards
        for outcome in card.verdict.outcomes
        if outcome.state is None
    ]
    return _table(("claim", "not measured", "lesson"), rows) if rows else "Nothing."


def _exercises(attempted: dict[str, Attempts]) -> str:
    """The exercises of every lesson: how many are solved, and which are not."""
    by_lesson = defaultdict(list)
    for name in EXERCISES:
        by_lesson[name.partition(".")[0]].append(name)
    solved = {name for name in EXERCISES if attempted.get(name, {}).get("solved")}
    table = _table(
        ("lesson", "solved", "attempts", "hints read", "not solved"),
        [_lesson_row(lesson, names, solved, attempted) for lesson, names in by_lesson.items()],
    )
    return f"{len(solved)} of {len(EXERCISES)} exercises solved.\n\n{table}"


def _lesson_row(
    lesson: str, names: list[str], solved: set[str], attempted: dict[str, Attempts]
) -> tuple[object, ...]:
    attempts = sum(attempted.get(name, {}).get("attempts", 0) for name in names)
    hints = sum(attempted.get(name, {}).get("hints", 0) for name in names)
    done = solved.intersection(names)
    rest = ", ".join(f"{name} {EXERCISES[name].title}" for name in names if name not in done)
    return lesson, f"{len(done)} of {len(names)}", attempts, hints, rest or "-"


def _predictions(predictions: dict[str, Prediction]) -> str:
    """The guesses that the learner committed to, and what was measured."""
    rows = [
        (
            entry.get("question", name),
            _amount(entry.get("guess"), entry),
            _amount(entry.get("truth"), entry),
        )
        for name, entry in sorted(predictions.items())
        if entry.get("guess") is not None
    ]
    return _table(("question", "my guess", "measured"), rows) if rows else "None made yet."


def _amount(number: float | None, entry: Prediction) -> str:
    if number is None:
        return "not yet"
    shown = f"{number:.3g}" if isinstance(number, float) and abs(number) < 1000 else str(number)
    return f"{shown} {entry.get('unit', '')}".strip()


def _machine() -> str:
    dated = ("date of this report", date.today().isoformat())
    return _table(("what", "here"), [*claims.machine().items(), dated])


# The pictures

GLANCE, GUESSES = "report-glance.png", "report-guesses.png"


def pictures(cards: list[Card], predictions: dict[str, Prediction]) -> dict[str, tuple[str, bytes]]:
    """The figures of the report, by file name: a description in words, and the PNG."""
    guessed = {name: entry for name, entry in sorted(predictions.items()) if _is_ready(entry)}
    with plt.style.context(figures.STYLE):
        drawn = {
            GLANCE: (
                glance(cards),
                "The tests of every claim: target reached, missed, or too close to call; half "
                "dots by what was published.",
            )
        }
        if guessed:
            drawn[GUESSES] = (guesses(guessed), "Every guess, and what was measured.")
    return {
        name: (alt, figures.picture(figure, alt)["image/png"])
        for name, (figure, alt) in drawn.items()
    }


def glance(cards: list[Card]) -> Figure:
    """A line for each claim, a dot for each of its tests; half a dot by what was published."""
    figure, axes = plt.subplots(figsize=(9.6, 0.6 + 0.34 * len(cards)))
    for row, card in enumerate(cards):
        read = deciding_published(card.claim, card.verdict.outcomes)
        for place, outcome in enumerate(card.verdict.outcomes):
            dot = _half(outcome, card.claim) if outcome in read else DOTS[outcome.state]
            axes.plot(place, row, linestyle="", markersize=9, **dot)
    handles = [plt.Line2D([], [], linestyle="", markersize=9, **dot) for dot in DOTS.values()]
    axes.set_yticks(range(len(cards)), map(_said, cards), fontsize=11)
    axes.set(ylim=(len(cards) - 0.5, -0.5), xlim=(-0.6, None), xticks=[])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    figure.legend(handles=handles, loc="outside upper right", ncols=len(DOTS), fontsize=11)
    axes.set_xlabel("half a mark: published, not measured here", loc="right", fontsize=11)
    return figure


def _half(outcome: TestOutcome, claim: Claim) -> Dot:
    """How a test is drawn that was published, not measured: half filled."""
    dot = DOTS[outcome.published_state(claim.exists)]
    return {**dot, "fillstyle": "left", "markerfacecoloralt": "white"}


def _said(card: Card) -> str:
    return f"{card.claim.textbook}  {card.claim.id} {MARKS[card.verdict.kind][0]}"


def _is_ready(entry: Prediction) -> bool:
    return all(entry.get(key) is not None for key in ("guess", "truth", "low", "high"))


def guesses(guessed: dict[str, Prediction]) -> Figure:
    """A line for each prediction, on a scale from 0 to 1: guess (open) and truth (filled)."""
    figure, axes = plt.subplots(figsize=(9.6, 1.2 + 0.34 * len(guessed)))
    for row, entry in enumerate(guessed.values()):
        ends = _place(entry["guess"], entry), _place(entry["truth"], entry)
        axes.plot(ends, [row, row], color=figures.COLOURS["dense"])
        for place, name, fill in zip(ends, ("guess", "measured"), ("white", "black"), strict=True):
            label = name if row == 0 else None
            axes.plot(place, row, "ko", markersize=9, markerfacecolor=fill, label=label)
    axes.set_yticks(range(len(guessed)), guessed, fontsize=11)
    axes.set(ylim=(len(guessed) - 0.5, -0.5), xlim=(-0.02, 1.02), xlabel="scale of the question")
    axes.set_xticks([0, 1], ["low end", "high end"])
    figure.legend(loc="outside upper right", ncols=2, fontsize=11)
    return figure


def _place(number: float, entry: Prediction) -> float:
    """The position of ``number`` on the scale of its question, clipped to 0 to 1."""
    place = (number - entry["low"]) / (entry["high"] - entry["low"])
    return min(1.0, max(0.0, place))
