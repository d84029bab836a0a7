"""The interview drill of lesson 13: cards, a mock interview with a countdown, and pictures.

Everything works with the keyboard: Tab moves through the buttons in order, Enter or Space presses
one, Enter submits a guess, and each step moves the focus to what comes next.
"""

import asyncio
import html
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from course_lib.teaching import drill, questions, typed_numbers, widgets
from course_lib.teaching.drill import GRADES, SECONDS, Answer, Bank, TopicRow
from course_lib.teaching.questions import KINDS, NumberFinder, Question
from course_lib.teaching.typed_numbers import NumberError

# Settings, not Layout objects: each widget gets its own, so that each can be hidden alone.
WIDTH, WIDE = {"width": "44em"}, {"width": "100%"}


def utc() -> datetime:
    """The time in UTC, which the schedule needs."""
    return datetime.now(UTC)


# --- what a learner reads -----------------------------------------------------------------------


def question_html(question: Question, place: int, count: int, finder: NumberFinder) -> str:
    """The question with its kind and place, as HTML."""
    text = html.escape(questions.filled(question, finder).question)
    return f"<p>{place} of {count}: {drill.heading(question)}</p><p><b>{text}</b></p>"


def answer_html(question: Question, finder: NumberFinder) -> str:
    """The answer, its strong points, the usual mistake and the source, as HTML."""
    full = questions.filled(question, finder)
    points = "".join(f"<li>{html.escape(point)}</li>" for point in full.strong)
    wrong = f"Often heard: <i>{html.escape(full.wrong.says)}</i> {html.escape(full.wrong.because)}"
    proof = html.escape(drill.source(question, finder))
    return f"<p>{html.escape(full.answer)}</p><ul>{points}</ul><p>{wrong}</p><p>{proof}</p>"


def _button(text: str, press: Callable[[], None]) -> ipywidgets.Button:
    layout = {"width": "auto", "align_self": "flex-start"}
    button = ipywidgets.Button(description=text, layout=layout)
    button.on_click(lambda _: press())
    return button


def _visible(shown: bool, *parts: ipywidgets.DOMWidget) -> None:
    for part in parts:
        part.layout.display = None if shown else "none"


# --- cards --------------------------------------------------------------------------------------


class Cards:
    """Flash cards: think, show the answer, grade yourself; an estimate is graded by its number.

    A failed card comes back, see :class:`course_lib.teaching.drill.Pile`.

    Args:
        deck: the questions, in their order.
        now: the clock, in UTC.
    """

    def __init__(
        self, deck: Sequence[Question], finder: NumberFinder, now: Callable[[], datetime] = utc
    ):
        self._pile, self._finder, self._now = drill.Pile(deck), finder, now
        self._grade = ""  # of the current question, once it is answered
        self.question, self.answer, self.said = (ipywidgets.HTML(layout=WIDTH) for _ in range(3))
        self.guess = ipywidgets.Text(continuous_update=False, placeholder="a number, then Enter")
        self.guess.observe(lambda change: self._guessed(change["new"]), "value")
        self.show = _button("Show the answer", self._show)
        self.grades = [_button(grade, partial(self._graded, grade)) for grade in GRADES]
        self.next = _button("Next question", self._next)
        self.choice = ipywidgets.HBox(self.grades)
        rows = [self.question, self.guess, self.show, self.answer, self.choice]
        self.root = ipywidgets.VBox([*rows, self.said, self.next])
        self._ask()

    @property
    def current(self) -> Question | None:
        """The question that is shown; None at the end."""
        return self._pile.current

    def _ask(self) -> None:
        _visible(False, self.guess, self.show, self.answer, self.choice, self.said, self.next)
        if self.current is None:
            self.question.value = f"<p>Cards done: {self._pile.answered}. Come back tomorrow.</p>"
            return
        place, count = self._pile.answered + 1, self._pile.count
        self.question.value = question_html(self.current, place, count, self._finder)
        self.guess.value = ""
        if self.current.estimate:
            self.guess.description = self.current.estimate.unit[:12]
        _visible(True, self.guess if self.current.estimate else self.show)

    def _guessed(self, text: str) -> None:
        if not text or self.current is None or self.current.estimate is None:
            return  # the field was cleared for the next question
        try:
            value = typed_numbers.read(text, self.current.estimate.unit)
        except NumberError as error:
            self._say(str(error))
            return
        grade = drill.judged(self.current.estimate, value, self._finder)
        self._show()
        self._graded(grade, "Right. " if grade == "good" else "Not close enough. ")

    def _show(self) -> None:
        if self.current is None:
            return
        self.answer.value = answer_html(self.current, self._finder)
        _visible(False, self.show, self.guess)
        _visible(True, self.answer)
        if self.current.estimate is None:
            _visible(True, self.choice)
            self.grades[GRADES.index("good")].focus()

    def _graded(self, grade: str, before: str = "") -> None:
        if self.current is None:
            return
        self._grade = grade
        due = drill.remember(self.current.id, grade, self._now())
        back = self._pile.returns(grade)
        self._say(before + (drill.BACK if back else drill.comes_back(due, self._now())))
        _visible(False, self.choice)
        _visible(True, self.next)
        self.next.focus()

    def _say(self, text: str) -> None:
        self.said.value = html.escape(text)
        _visible(True, self.said)

    def _next(self) -> None:
        self._pile.answer(self._grade)
        self._ask()
        if self.current:
            (self.guess if self.current.estimate else self.show).focus()


def cards(deck: Sequence[Question], finder: NumberFinder) -> None:
    """Show ``deck`` as cards; a grade is stored as soon as it is pressed."""
    widgets.show(Cards(deck, finder).root)


# --- mock interview -----------------------------------------------------------------------------


class Interview:
    """A mock interview: a minute for each question, then the rubric as boxes to tick.

    Every tick is stored at once, so that it is kept if the learner stops before the next question.

    Args:
        drawn: the questions, in their order.
        now, clock: the time of day in UTC, and seconds for the countdown.
        spawn: runs the countdown in the background.
    """

    def __init__(
        self,
        drawn: Sequence[Question],
        finder: NumberFinder,
        now: Callable[[], datetime] = utc,
        clock: Callable[[], float] = time.monotonic,
        spawn: Callable[[Coroutine], object] = asyncio.ensure_future,
    ):
        self._drawn, self._finder, self._now = drawn, finder, now
        self._clock, self._spawn = clock, spawn
        self.answers: list[Answer] = []
        self.running = False
        self.question, self.answer = (ipywidgets.HTML(layout=WIDTH) for _ in range(2))
        self.time = ipywidgets.IntProgress(max=SECONDS, layout=WIDTH)
        self.boxes = ipywidgets.VBox()
        self.start = _button("Start: a minute for each question", self._ask)
        self.stop = _button("I have said it", self._said)
        self.next = _button("Next", self._ticked)
        rows = [self.start, self.question, self.time, self.stop, self.answer, self.boxes, self.next]
        self.root = ipywidgets.VBox(rows)
        _visible(False, self.question, self.time, self.stop, self.answer, self.boxes, self.next)

    @property
    def current(self) -> Question:
        """The question being asked."""
        return self._drawn[len(self.answers)]

    def _ask(self) -> None:
        place = len(self.answers) + 1
        self.question.value = question_html(self.current, place, len(self._drawn), self._finder)
        _visible(False, self.start, self.answer, self.boxes, self.next)
        _visible(True, self.question, self.time, self.stop)
        self._began, self.running = self._clock(), True
        self._tick()
        self._spawn(self.countdown(place))
        self.stop.focus()

    async def countdown(self, place: int, pause: Callable = asyncio.sleep) -> None:
        """Let the bar of question number ``place`` run down, a step each second."""
        while self.running and len(self.answers) + 1 == place and self._tick() > 0:
            await pause(1)

    def _tick(self) -> int:
        self.seconds = self._clock() - self._began
        left = max(0, round(SECONDS - self.seconds))
        self.time.value = left
        self.time.description = f"{left} s"
        self.time.bar_style = "danger" if left <= 10 else "info"
        return left

    def _said(self) -> None:
        self._tick()
        self.running = False
        self.answer.value = answer_html(self.current, self._finder)
        points = drill.rubric(self.current, self._finder)
        self.boxes.children = [
            ipywidgets.Checkbox(description=point, indent=False, layout=WIDE) for point in points
        ]
        self._before = drill.stored_card(self.current.id, self._now())
        for box in self.boxes.children:
            box.observe(lambda _: self._store(), "value")
        _visible(False, self.stop)
        _visible(True, self.answer, self.boxes, self.next)
        self.boxes.children[0].focus()

    def _store(self) -> Answer:
        """Store the grade of what is ticked now; return the answer."""
        ticked = tuple(box.value for box in self.boxes.children)
        answer = Answer(self.current, ticked, self.seconds)
        drill.remember(self.current.id, answer.grade, self._now(), self._before)
        return answer

    def _ticked(self) -> None:
        self.answers.append(self._store())
        if len(self.answers) < len(self._drawn):
            self._ask()
            return
        self.question.value = f"<pre>{html.escape(str(drill.summary(self.answers)))}</pre>"
        _visible(False, self.time, self.answer, self.boxes, self.next)


def interview(drawn: Sequence[Question], finder: NumberFinder) -> None:
    """Show a mock interview over ``drawn``; nothing happens until the learner starts it."""
    widgets.show(Interview(drawn, finder).root)


# --- pictures -----------------------------------------------------------------------------------


def bank_figure(bank: Bank) -> Figure:
    """The number of questions by kind (rows) and lesson (columns)."""
    lessons = sorted({question.lesson for question in bank.values()})
    pairs = [(question.kind, question.lesson) for question in bank.values()]
    counts = np.array([[pairs.count((kind, one)) for one in lessons] for kind in KINDS])
    figure, axes = plt.subplots(figsize=(9.0, 3.4))
    axes.imshow(counts, cmap="Greys", vmax=2 * counts.max(), aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        axes.text(column, row, str(count), ha="center", va="center")
    axes.set_xticks(range(len(lessons)), lessons)
    axes.set_yticks(range(len(KINDS)), KINDS.values())
    axes.set(xlabel="lesson")
    axes.grid(visible=False)
    return figure


def topics_figure(rows: Sequence[TopicRow]) -> Figure:
    """For each topic: all questions, those asked before, and those known the last time."""
    parts: Mapping[str, tuple[str, list[int]]] = {
        "not asked yet": ("white", [row.questions for row in rows]),
        "asked": ("#b5b5b5", [row.asked for row in rows]),
        "known": ("#5f5f5f", [row.known for row in rows]),
    }
    figure, axes = plt.subplots(figsize=(7.2, 4.6))
    for label, (shade, widths) in parts.items():
        axes.barh(range(len(rows)), widths, color=shade, edgecolor="black", label=label)
    axes.set_yticks(range(len(rows)), [row.topic for row in rows])
    axes.set(xlabel="questions", ylim=(len(rows) - 0.5, -0.5))
    axes.locator_params(axis="x", integer=True)
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside upper center", ncols=3, fontsize=12)
    return figure
