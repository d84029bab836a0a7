"""The widgets of the lessons. Below each widget is a picture that needs no kernel."""

import html
from collections.abc import Callable, Mapping, Sequence

import ipywidgets
from IPython.display import display
from matplotlib.figure import Figure

from course_lib.teaching import figures, progress
from course_lib.teaching.figures import Picture
from course_lib.teaching.progress import Prediction


def predict(name: str, question: str, low: float, high: float, unit: str, step: float = 1) -> None:
    """Ask for a number before anything runs; the learner commits to it with a button.

    The guess is stored in the learner's progress: :func:`reveal` shows it beside the truth.
    """
    earlier = guess(name)
    slider = ipywidgets.FloatSlider(
        value=(low + high) / 2 if earlier is None else earlier,
        min=low,
        max=high,
        step=step,
        readout_format=".3g",
        layout=ipywidgets.Layout(width="60%"),
    )
    button = ipywidgets.Button(description="This is my guess", button_style="primary")
    said = ipywidgets.HTML(_said(earlier, unit))

    def commit(_) -> None:
        scale: Prediction = {"unit": unit, "low": low, "high": high}
        _remember(name, {"question": question, **scale, "guess": slider.value})
        said.value = _said(slider.value, unit)
        picture.update(_ruler(low, high, unit, slider.value, None), raw=True)

    button.on_click(commit)
    asked = ipywidgets.HTML(f"<b>Predict.</b> {question}")
    show(ipywidgets.VBox([asked, ipywidgets.HBox([slider, ipywidgets.Label(unit)]), button, said]))
    picture = display(_ruler(low, high, unit, earlier, None), raw=True, display_id=True)


def guess(name: str) -> float | None:
    """The number that the learner committed to, or None."""
    return progress.read()["predictions"].get(name, {}).get("guess")


def reveal(
    name: str, truth: float, low: float, high: float, unit: str, origin: str = "measured"
) -> None:
    """Show the learner's guess beside the ``truth``, and store both for the report.

    Args:
        origin: where the truth comes from: "measured", "recorded", "published" or "computed".
    """
    _remember(name, {"unit": unit, "truth": truth})
    display(_ruler(low, high, unit, guess(name), truth, origin), raw=True)


def explore(
    draw: Callable[[float], Figure], values: Sequence[float], start: float, label: str, alt: str
) -> None:
    """A slider over ``values`` that redraws the picture below it.

    Without a kernel the picture of ``start`` stays.
    """
    slider = ipywidgets.SelectionSlider(
        options=values,
        value=start,
        description=label,
        layout=ipywidgets.Layout(width="70%"),
        continuous_update=False,
        style={"description_width": "initial"},
    )
    show(slider)
    picture = display(figures.picture(draw(start), alt), raw=True, display_id=True)
    slider.observe(
        lambda change: picture.update(figures.picture(draw(change["new"]), alt), raw=True), "value"
    )


def choose(draw: Callable[..., Figure], choices: Mapping[str, Sequence[str]], alt: str) -> None:
    """A row of buttons for each of ``choices``; pressing one redraws the picture below.

    ``draw`` is called with one value of each row, in their order. Without a kernel the picture of
    the first values stays.
    """
    rows = [
        ipywidgets.ToggleButtons(options=values, description=label, style={"button_width": "auto"})
        for label, values in choices.items()
    ]

    def drawn() -> Picture:
        return figures.picture(draw(*(row.value for row in rows)), alt)

    show(ipywidgets.VBox(rows))
    picture = display(drawn(), raw=True, display_id=True)
    for row in rows:
        row.observe(lambda _: picture.update(drawn(), raw=True), "value")


def ask(
    questions: Mapping[str, str],
    options: Sequence[str],
    judged: Callable[[str, tuple[str, ...]], str],
    answers: dict[str, tuple[str, ...]],
) -> None:
    """Show one question at a time, boxes to tick as its answer, and the verdict of ``judged``.

    Args:
        questions: the texts, by name.
        judged: the verdict on the name of a question and the options that were ticked.
        answers: gets what was ticked, by name, whenever the learner presses the button. What is
            ticked without it is kept until the learner returns to that question.
    """
    which = ipywidgets.Dropdown(options=[*questions], layout=ipywidgets.Layout(width="60%"))
    asked, said = ipywidgets.HTML(questions[which.value]), ipywidgets.HTML()
    layout = ipywidgets.Layout(width="auto")
    boxes = [ipywidgets.Checkbox(description=one, indent=False, layout=layout) for one in options]
    button = ipywidgets.Button(description="This is my answer", button_style="primary")

    drafts = dict(answers)

    def ticked() -> tuple[str, ...]:
        return tuple(box.description for box in boxes if box.value)

    def change(to) -> None:
        drafts[to["old"]] = ticked()
        asked.value, said.value = questions[which.value], ""
        for box in boxes:
            box.value = box.description in drafts.get(which.value, ())

    def commit(_) -> None:
        answers[which.value] = ticked()
        said.value = html.escape(judged(which.value, answers[which.value]))

    which.observe(change, "value")
    button.on_click(commit)
    show(ipywidgets.VBox([which, asked, ipywidgets.HBox(boxes), button, said]))


def _remember(name: str, entry: Prediction) -> None:
    progress.remember(lambda state: state["predictions"].setdefault(name, {}).update(entry))


def show(widget: ipywidgets.Widget) -> None:
    """Display ``widget``, with a text for readers without a kernel that never changes."""
    words = {"text/plain": "(interactive: run this cell to use it)"}
    display(widget._repr_mimebundle_() | words, raw=True)


def _said(value: float | None, unit: str) -> str:
    return "No guess yet." if value is None else f"Your guess: <b>{value:.3g} {unit}</b>. Read on."


def _ruler(
    low: float,
    high: float,
    unit: str,
    guess: float | None,
    truth: float | None,
    origin: str = "measured",
) -> Picture:
    alt = f"A scale from {low:g} to {high:g} {unit} for your guess and the {origin} value."
    return figures.picture(figures.ruler(low, high, unit, guess, truth, origin), alt)
