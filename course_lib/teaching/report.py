"""The learner's report: every claim with this machine's numbers, on one page to show to others.

``build/report.md`` is the text; ``build/report.html`` is the same, self-contained, for a browser
or a printer.
"""

import html
from collections import Counter
from collections.abc import Iterable
from datetime import date
from pathlib import Path

from markdown_it import MarkdownIt

from course_lib import PROJECT
from course_lib.files import write_whole
from course_lib.teaching import claims, progress
from course_lib.teaching.claims import MARKS, Card, Outcome, Verdict
from course_lib.teaching.exercises import EXERCISES

TITLE = "Pruning, Measured: my results"

# Nothing from elsewhere: the page must open on a train and in ten years.
STYLE = """
:root { color-scheme: light dark; --line: #8886; --accent: #2166ac; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72em; margin: 0 auto; padding: 1em; }
h1 { line-height: 1.2; border-bottom: 4px solid var(--accent); padding-bottom: .3em; }
h2 { margin-top: 2em; }
table { display: block; overflow-x: auto; border-collapse: collapse; font-size: .9em; }
th, td { text-align: left; vertical-align: top; padding: .4em .8em .4em 0; min-width: 3em;
  border-bottom: 1px solid var(--line); }
td:nth-child(n+2) { min-width: 9em; }
@media print {
  body { font-size: 10pt; max-width: none; padding: 0; }
  table { display: table; width: 100%; }
  td:nth-child(n+2) { min-width: 0; }
  thead { display: table-header-group; }
  tr { break-inside: avoid; }
  h2 { break-after: avoid; }
}
"""


def write(folder: Path = PROJECT / "build") -> Path:
    """Write ``report.md`` and ``report.html`` into ``folder``; return the path of the page.

    Raises:
        OSError: the folder cannot be written; an earlier report stays as it was.
    """
    text = markdown()
    write_whole(Path(folder) / "report.md", text)
    return write_whole(Path(folder) / "report.html", page(text))


def summary(cards: Iterable[Card]) -> str:
    """One line: how many claims are tested, and how they fared."""
    kinds = Counter(card.verdict.kind for card in cards)
    tested = kinds.total() - kinds["untested"]
    fared = ", ".join(f"{kind} ({kinds[kind]})" for kind in MARKS if kind != "untested")
    return f"{tested} of {kinds.total()} claims tested: {fared}."


def markdown() -> str:
    """The report as Markdown, from the learner's progress."""
    learner, cards = progress.read(), claims.cards()
    machine = claims.machine().items()
    sections = [
        f"# {TITLE}",
        "Claims of the textbooks on neural-network pruning, tested by experiments on one machine, "
        "which is described at the end. Every verdict is computed from the numbers beside it.",
        f"**{summary(cards)}**",
        "## Claims",
        _table(
            ("claim", "the textbook says", "verdict", "this machine", "the course's recording"),
            [_claim_row(card) for card in cards],
        ),
        "## Exercises",
        _exercises(learner["exercises"]),
        "## Predictions against measurements",
        _predictions(learner["predictions"]),
        "## Machine",
        _table(("what", "here"), [*machine, ("date of this report", date.today().isoformat())]),
    ]
    return "\n\n".join(sections) + "\n"


def page(text: str) -> str:
    """The Markdown ``text`` as one HTML page that needs no other file."""
    # HTML inside the text (a learner's own words) stays text.
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
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


def _claim_row(card: Card) -> tuple[str, ...]:
    recorded = (f"{machine}: {_recorded(verdict)}" for machine, verdict in card.recorded.items())
    return (
        card.claim.id,
        card.claim.textbook,
        f"{MARKS[card.verdict.kind][0]} {card.verdict.text}",
        _numbers(card.verdict),
        "; ".join(recorded) or "no recording yet",
    )


def _numbers(verdict: Verdict) -> str:
    measured = [outcome for outcome in verdict.outcomes if outcome.value is not None]
    return "; ".join(_number(outcome) for outcome in measured) or "-"


def _recorded(verdict: Verdict) -> str:
    """The same numbers of another machine, in the same order, without their labels."""
    measured = [outcome for outcome in verdict.outcomes if outcome.value is not None]
    return "; ".join(f"**{outcome.test.shown(outcome.value)}**" for outcome in measured) or "-"


def _number(outcome: Outcome) -> str:
    test = outcome.test
    return f"{test.label}: **{test.shown(outcome.value)}** (target: {test.target})"


def _exercises(attempted: dict[str, dict]) -> str:
    """Every exercise of the course, solved or not."""
    rows, solved = [], 0
    for name, exercise in EXERCISES.items():
        entry = attempted.get(name, {})
        solved += bool(entry.get("solved"))
        state = "solved" if entry.get("solved") else "not yet" if entry else "not attempted"
        rows.append((name, exercise.title, state, entry.get("attempts", 0), entry.get("hints", 0)))
    table = _table(("exercise", "", "state", "attempts", "hints read"), rows)
    return f"{solved} of {len(EXERCISES)} exercises solved.\n\n{table}"


def _predictions(predictions: dict[str, dict]) -> str:
    """The guesses that the learner committed to, beside what was measured."""
    rows = [
        (entry.get("question", name), _amount(entry, "guess"), _amount(entry, "truth"))
        for name, entry in sorted(predictions.items())
        if entry.get("guess") is not None
    ]
    return _table(("question", "my guess", "measured"), rows) if rows else "None made yet."


def _amount(entry: dict, key: str) -> str:
    if entry.get(key) is None:
        return "not yet"
    number = entry[key]
    shown = f"{number:.3g}" if isinstance(number, float) and abs(number) < 1000 else str(number)
    return f"{shown} {entry.get('unit', '')}".strip()
