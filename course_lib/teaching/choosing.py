"""A figure of the rules of :mod:`course_lib.decision.rules`, with one deployment highlighted."""

import textwrap

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course_lib.decision.rules import HARDWARE, NOTHING, RULES, Advice, Expected, Step
from course_lib.teaching.figures import COLOURS

#: The idea of each step, which gives its colour.
IDEAS = {
    NOTHING: "dense",
    "structured": "structured",
    "unstructured": "unstructured",
    "2:4": "unstructured",
    "distil": "distilled",
    "quantize": "quantized",
}

#: The x coordinates of the columns: questions, steps, what to expect.
QUESTION, STEP, PROMISE = 0.0, 5.0, 7.0

FAINT = "#c8c8c8"


def picture(advice: Advice) -> Figure:
    """:data:`course_lib.decision.rules.RULES` from top to bottom, with the answers of ``advice``.

    A step of the advice shows its number in the order of the steps, and what the recorded networks
    let one expect after it.
    """
    figure, axes = plt.subplots(figsize=(11.6, 7.4))
    chosen = {step.step: (place, step) for place, step in enumerate(advice.steps, start=1)}
    for row, rule in enumerate(RULES):
        asked = row < len(advice.answers)
        yes = asked and advice.answers[row]
        _question(axes, row, rule.question, asked, yes)
        _step(axes, row, rule.step, f"{chosen[rule.step][0]}. " if yes else "", yes)
        if yes:
            axes.text(PROMISE, row, _promise(chosen.pop(rule.step)[1]), va="center", fontsize=11)
    axes.text(0, len(RULES) - 0.35, _verdict(advice), va="top", fontsize=11)
    axes.set(xlim=(-0.1, 11.6), ylim=(len(RULES) + 0.55, -0.6))
    axes.axis("off")
    return figure


def _verdict(advice: Advice) -> str:
    """Whether the targets are met, by which recordings, and a note on the hardware."""
    verdict = "it meets all targets" if advice.enough else "the closest choice; it misses a target"
    promises = [step.expected for step in advice.steps if step.expected]
    sources = ", ".join(dict.fromkeys(promise.source for promise in promises))
    note = HARDWARE[advice.brief.hardware].note
    return textwrap.fill(f"By the recordings ({sources}): {verdict}. {note}", 115)


def _question(axes: Axes, row: int, question: str, asked: bool, yes: bool) -> None:
    colour = "black" if asked else FAINT
    box = {
        "boxstyle": "round,pad=0.35",
        "facecolor": "white",
        "edgecolor": colour,
        "linewidth": 2.5 if yes else 1,
    }
    words = textwrap.fill(question, 40)
    axes.text(QUESTION + 0.1, row, words, va="center", fontsize=12, color=colour, bbox=box)
    if row:
        arrow = {"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (0.5, row - 0.36), (0.5, row - 0.64), arrowprops=arrow)


def _step(axes: Axes, row: int, step: str, number: str, yes: bool) -> None:
    idea = COLOURS[IDEAS[step]]
    colour = "black" if yes else FAINT
    box = {
        "boxstyle": "round,pad=0.35",
        "edgecolor": idea if yes else FAINT,
        "facecolor": idea if yes else "white",
        "alpha": 0.45 if yes else None,
    }
    axes.text(STEP, row, f"{number}{step}", bbox=box, va="center", fontsize=12, color=colour)
    arrow = {"arrowstyle": "-|>", "color": colour}
    axes.annotate("", (STEP - 0.15, row), (STEP - 0.9, row), arrowprops=arrow)
    axes.text(STEP - 0.6, row - 0.1, "yes", ha="center", va="bottom", fontsize=10, color=colour)


def _promise(step: Step) -> str:
    """What to expect after a step, in two short lines, and the claims that say so."""
    cited = f" ({', '.join(step.claims)})" if step.claims else ""
    if step.expected is None:
        return f"not recorded by itself{cited}"
    return f"{_gains(step.expected)}\n{step.expected.name}, {step.expected.form}{cited}"


def _gains(promise: Expected) -> str:
    most = "≤ " if promise.at_most else ""
    gained = f"{promise.compression_ratio:.1f}x smaller, {most}{promise.speedup:.1f}x faster"
    return f"{promise.accuracy_drop:+.1f} points lost, {gained}".replace("+", "")
