"""The style of all figures: one colour per idea, large type, and an alternative text.

A lesson begins with ``plt.style.use(figures.STYLE)``.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

import matplotlib.pyplot as plt
import torch
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course_lib.pruning.graph import Graph

# Okabe and Ito's colours, which colour-blind readers tell apart.
COLOURS = {
    "dense": "#5f5f5f",
    "unstructured": "#0072B2",
    "structured": "#E69F00",
    "quantized": "#009E73",
    "distilled": "#AA4499",
}

STYLE = {
    "figure.figsize": (7.2, 4.0),
    "figure.constrained_layout.use": True,
    "font.size": 14,
    "axes.titlesize": 14,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "lines.linewidth": 2.5,
    "lines.markersize": 7,
    "legend.frameon": False,
}


#: What Jupyter displays: a picture, or the text where pictures are not shown.
Picture = TypedDict("Picture", {"image/png": bytes, "text/plain": str})


def show(figure: Figure, alt: str) -> None:
    """Display ``figure`` as a PNG with the alternative text ``alt``, and close it."""
    display(picture(figure, alt), raw=True, metadata={"image/png": {"alt": alt}})


def picture(figure: Figure, alt: str) -> Picture:
    """``figure`` as Jupyter displays it: the PNG, or ``alt`` where pictures are not shown."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    plt.close(figure)
    return {"image/png": png.getvalue(), "text/plain": alt}


def lines(
    x: Sequence[float],
    series: Mapping[str, Sequence[float]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    colours: Mapping[str, str] | None = None,
) -> Axes:
    """One line per series over ``x``, labelled in the legend; returns the axes to add to."""
    _, axes = plt.subplots()
    for (label, y), marker in zip(series.items(), "os^Dv", strict=False):
        axes.plot(x, y, marker=marker, label=label, color=(colours or {}).get(label))
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if len(series) > 1:
        axes.legend()
    return axes


def bars(
    heights: Mapping[str, float], *, ylabel: str, title: str = "", colour: str = "unstructured"
) -> Axes:
    """One bar per name, in order; returns the axes to add to."""
    _, axes = plt.subplots()
    axes.bar(range(len(heights)), list(heights.values()), color=COLOURS[colour])
    axes.set_xticks(range(len(heights)), list(heights), rotation=90, fontsize=11)
    axes.set(ylabel=ylabel, title=title)
    axes.grid(visible=False, axis="x")
    return axes


def wiring(graph: Graph, until: str) -> Figure:
    """One line per group of channels: filled where a layer makes them, open where one reads them.

    Shows the layers in the order of the forward pass, up to and including ``until``.

    Raises:
        ValueError: no layer ``until`` makes channels.
    """
    readers = {
        name: {
            slot.name.removesuffix(".weight")
            for slot in graph.slots
            if slot.reads and torch.isin(slot.channels, group.channels).any()
        }
        for name, group in graph.groups.items()
    }
    makers = {layer for group in graph.groups.values() for layer in group.layers}
    followed = dict.fromkeys(slot.name.removesuffix(".weight") for slot in graph.slots)
    order = [layer for layer in followed if layer in makers]
    order = order[: order.index(until) + 1]
    rows = [group for group in graph.groups.values() if group.name in order]
    names = ("makes the channels", "reads the channels")
    figure, axes = plt.subplots(figsize=(7.2, 1.8 + 0.42 * len(rows)))
    for row, group in enumerate(rows):
        places = [
            [order.index(one) for one in layers if one in order]
            for layers in (group.layers, readers[group.name])
        ]
        both = [*places[0], *places[1]]
        axes.plot(both, [row] * len(both), color=COLOURS["dense"], zorder=1)
        for x, colour, name in zip(places, (COLOURS["structured"], "white"), names, strict=True):
            label = name if row == 0 else None
            axes.scatter(x, [row] * len(x), s=110, color=colour, edgecolor="black", label=label)
    axes.set_xticks(range(len(order)), order, rotation=90, fontsize=11)
    lines = [f"{len(group.channels)} of {group.name}" for group in rows]
    axes.set_yticks(range(len(rows)), lines, fontsize=11)
    axes.invert_yaxis()
    axes.legend(loc="lower left")
    return figure


def ruler(
    low: float,
    high: float,
    unit: str,
    guess: float | None = None,
    truth: float | None = None,
    origin: str = "measured",
) -> Figure:
    """A scale from ``low`` to ``high`` with the learner's guess and, once it is known, the truth.

    The scale is extended to include a guess or a truth beyond its ends. ``origin`` says where the
    truth comes from.
    """
    seen = [value for value in (guess, truth) if value is not None and math.isfinite(value)]
    low, high = min([low, *seen]), max([high, *seen])
    figure, axes = plt.subplots(figsize=(7.2, 1.7))
    axes.plot([low, high], [0, 0], color=COLOURS["dense"], linewidth=3)
    # The guess is named above the scale and the truth below, so that they never overlap.
    for value, name, filling, place in (
        (guess, "your guess", "white", 0.4),
        (truth, origin, "black", -0.75),
    ):
        if value is not None:
            _dot(axes, value, filling)
            axes.text(value, place, f"{name}: {value:.3g} {unit}", ha=_side(value, low, high))
    axes.set(ylim=(-1, 1), xlim=(low, high), xlabel=unit)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    return figure


def _dot(axes: Axes, value: float, filling: str) -> None:
    axes.plot(
        value,
        0,
        "o",
        markersize=14,
        markerfacecolor=filling,
        markeredgecolor="black",
        markeredgewidth=2,
        clip_on=False,
    )


def _side(value: float, low: float, high: float) -> Literal["left", "center", "right"]:
    place = (value - low) / (high - low)
    return "left" if place < 0.2 else "right" if place > 0.8 else "center"
