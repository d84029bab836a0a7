"""Widgets store what the learner enters, and each has a picture of the same below it."""

import ipywidgets
import matplotlib.pyplot as plt
import pytest

from course_lib.teaching import figures, progress, widgets

PNG = b"\x89PNG"


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNING_COURSE_STATE", str(tmp_path))


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, and the pictures that replace it: a list of MIME bundles."""
    bundles = []

    class Handle:
        def update(self, bundle, raw):
            bundles.append(bundle)

    def display(bundle, raw=False, **_):
        assert raw
        bundles.append(bundle)
        return Handle()

    monkeypatch.setattr(widgets, "display", display)
    return bundles


@pytest.fixture
def last(monkeypatch):
    """The first widget of a kind within the one that was displayed last."""
    roots, show = [], widgets.show
    monkeypatch.setattr(widgets, "show", lambda widget: (roots.append(widget), show(widget)))
    return lambda kind: _within(roots[-1], kind)


def _within(root: ipywidgets.Widget, kind: type) -> ipywidgets.Widget:
    waiting = [root]
    while not isinstance(waiting[0], kind):
        waiting += getattr(waiting.pop(0), "children", ())
    return waiting[0]


def test_a_prediction_is_kept_and_drawn(shown, last):
    widgets.predict("01.cliff", "Where?", low=50, high=100, unit="%")
    assert widgets.guess("01.cliff") is None
    assert [bundle.get("image/png", b"")[:4] for bundle in shown] == [b"", PNG]
    last(ipywidgets.FloatSlider).value = 80
    assert widgets.guess("01.cliff") is None, "only the button commits"
    last(ipywidgets.Button).click()
    assert widgets.guess("01.cliff") == 80
    assert len(shown) == 3 and shown[2]["image/png"] != shown[1]["image/png"]


def test_a_guess_of_zero_is_a_guess(shown, last):
    widgets.predict("00.half", "How many?", low=0, high=80, unit="points")
    last(ipywidgets.FloatSlider).value = 0
    last(ipywidgets.Button).click()
    widgets.predict("00.half", "How many?", low=0, high=80, unit="points")
    assert last(ipywidgets.FloatSlider).value == 0


def test_the_truth_is_kept_beside_the_guess(shown, last):
    widgets.predict("01.cliff", "Where?", low=50, high=100, unit="%")
    last(ipywidgets.Button).click()
    widgets.reveal("01.cliff", 83.2, low=50, high=100, unit="%")
    kept = progress.read()["predictions"]["01.cliff"]
    asked = {"question": "Where?", "unit": "%", "low": 50, "high": 100}
    assert kept == asked | {"guess": 75.0, "truth": 83.2}


def test_a_truth_without_a_guess_is_shown_too(shown):
    widgets.reveal("01.cliff", 83.2, low=50, high=100, unit="%")
    assert shown[0]["image/png"][:4] == PNG and widgets.guess("01.cliff") is None


@pytest.mark.parametrize(
    ("truth", "ends"), [(57.5, (2, 57.5)), (1, (1, 40)), (9, (2, 40)), (float("nan"), (2, 40))]
)
def test_a_truth_beyond_the_scale_makes_it_longer(truth, ends):
    assert figures.ruler(2, 40, "x", 21, truth).axes[0].get_xlim() == ends


def test_the_truth_says_where_it_comes_from():
    axes = figures.ruler(0, 10, "x", truth=2.0, origin="published").axes[0]
    assert [text.get_text() for text in axes.texts] == ["published: 2 x"]


def test_exploring_redraws_the_picture(shown, last):
    drawn = []

    def draw(value):
        drawn.append(value)
        return figures.ruler(0, 1, "x", guess=value)

    widgets.explore(draw, [0.0, 0.5, 1.0], start=0.5, label="x", alt="A scale.")
    assert drawn == [0.5] and shown[1]["text/plain"] == "A scale."
    last(ipywidgets.SelectionSlider).value = 1.0
    assert drawn == [0.5, 1.0] and shown[2]["image/png"] != shown[1]["image/png"]


def test_choosing_redraws_the_picture_with_every_choice(shown, last):
    drawn = []

    def draw(letter, number):
        drawn.append((letter, number))
        return figures.ruler(0, 9, letter, guess=int(number))

    widgets.choose(draw, {"letter": ["a", "b"], "number": ["1", "2"]}, alt="A scale.")
    assert drawn == [("a", "1")] and shown[1]["text/plain"] == "A scale."
    letters, numbers = last(ipywidgets.VBox).children
    assert (letters.description, numbers.description) == ("letter", "number")
    numbers.value = "2"
    letters.value = "b"
    assert drawn == [("a", "1"), ("a", "2"), ("b", "2")]
    assert len({bundle["image/png"] for bundle in shown[1:]}) == 3


def test_an_answer_is_judged_and_kept(shown, last):
    answers = {"second": ("b",)}
    questions = {"first": "Which?", "second": "And which?"}
    widgets.ask(questions, ["a", "b"], lambda name, ticked: f"{name}: {ticked} <", answers)
    which, asked, boxes, button, said = last(ipywidgets.VBox).children
    assert asked.value == "Which?"
    boxes.children[0].value = True
    button.click()
    assert answers["first"] == ("a",) and said.value.endswith("&lt;")
    which.value = "second"
    assert (asked.value, said.value) == ("And which?", "")
    assert [box.value for box in boxes.children] == [False, True], "an earlier answer comes back"


def test_what_is_ticked_without_the_button_is_kept_while_another_question_is_shown(shown, last):
    answers = {}
    widgets.ask({"first": "?", "second": "?"}, ["a", "b"], lambda name, ticked: "", answers)
    which, _, boxes, button, _ = last(ipywidgets.VBox).children
    boxes.children[1].value = True
    which.value = "second"
    assert [box.value for box in boxes.children] == [False, False]
    which.value = "first"
    assert [box.value for box in boxes.children] == [False, True] and answers == {}
    button.click()
    assert answers == {"first": ("b",)}


def test_without_the_widget_the_words_are_the_same_in_every_run(shown):
    widgets.predict("01.cliff", "Where?", low=50, high=100, unit="%")
    widgets.predict("01.gap", "How much?", low=0, high=9, unit="points")
    assert shown[0]["text/plain"] == shown[2]["text/plain"]


def test_a_shown_figure_has_its_text_and_is_closed(monkeypatch):
    displayed = []
    monkeypatch.setattr(
        figures, "display", lambda *args, **kwargs: displayed.append((args, kwargs))
    )
    figure, _ = plt.subplots()
    figures.show(figure, alt="An empty figure.")
    [((bundle,), options)] = displayed
    assert bundle["text/plain"] == "An empty figure." and bundle["image/png"][:4] == PNG
    assert options["metadata"]["image/png"]["alt"] == "An empty figure."
    assert not plt.fignum_exists(figure.number)


def test_several_lines_get_a_legend_and_the_styles_large_type():
    with plt.style.context(figures.STYLE):
        axes = figures.lines([0, 1], {"a": [1, 2], "b": [2, 1]}, xlabel="x", ylabel="y")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    assert axes.xaxis.label.get_size() == figures.STYLE["font.size"]
    plt.close(axes.figure)
