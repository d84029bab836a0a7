"""The interview drill: the schedule of the questions, grading, and a mock interview.

A question comes back shortly before it would be forgotten, as the library ``fsrs`` predicts from
its grades (Ye, Su and Cao, 2022). The schedule is stored in the learner's progress.
``python -m course_lib.teaching.drill`` asks in the terminal; ``drill_widgets`` asks in lesson 13.
"""

from course_lib.teaching import interrupts

STOPPED = "Stopped. What you answered is kept; the same command continues."

if __name__ == "__main__":
    interrupts.end_quietly(STOPPED)  # before the imports below, which take a second or more

import argparse
import random
import shutil
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import partial
from typing import NamedTuple, TypeVar

from fsrs import Card, Rating, Scheduler, State

from course_lib.teaching import claims, progress, questions, typed_numbers
from course_lib.teaching.progress import Answered, Progress
from course_lib.teaching.questions import KINDS, TOPICS, BankError, Estimate, NumberFinder, Question
from course_lib.teaching.typed_numbers import NumberError

GRADES = ("again", "hard", "good", "easy")
SECONDS = 60  # for an answer in a mock interview

# A failed question is asked again in the same drill, after so many others (or after those that are
# left), and no more than so many times.
OTHERS_BETWEEN = 3
REPEATS = 2

BACK = "Comes back in this drill."

NARROWEST = 20  # columns that text is wrapped to, even in a narrower window

Bank = Mapping[str, Question]
Meaning = TypeVar("Meaning")
Choice = TypeVar("Choice", str, int)


class DrillError(ValueError):
    """A selection without any question, or an impossible number of them; the message says which."""


# --- the schedule -------------------------------------------------------------------------------


def remember(name: str, grade: str, now: datetime, before: Card | None = None) -> datetime:
    """Store that the question ``name`` was answered, and return when it is due again.

    Args:
        grade: one of ``GRADES``.
        now: a time in UTC.
        before: the card from before the answer, where this grade replaces an earlier one of it.
    """

    def change(state: Progress) -> None:
        card = before or _card(state["interview"], name, now)
        card, _ = scheduler.review_card(card, rating, now)
        state["interview"][name] = {"card": card.to_dict(), "grade": grade}

    # Without its random fuzz the schedule depends on the grades and the clock only.
    scheduler, rating = Scheduler(enable_fuzzing=False), Rating[grade.title()]
    return _card(progress.remember(change)["interview"], name, now).due


def stored_card(name: str, now: datetime) -> Card:
    """The card of the question ``name``, a new one if it was never asked."""
    return _card(progress.read()["interview"], name, now)


def _card(entries: Mapping[str, Answered], name: str, now: datetime) -> Card:
    """The stored card of a question; a new one if there is none or it is damaged."""
    try:
        card = Card.from_dict(entries[name]["card"])
    except (LookupError, TypeError, ValueError):
        return Card(card_id=0, due=now)
    began = card.stability is not None and card.difficulty is not None
    steps = card.state == State.Review or type(card.step) is int
    whole = began and steps and card.due.tzinfo and card.last_review and card.last_review.tzinfo
    return card if whole else Card(card_id=0, due=now)


def asked(bank: Bank, now: datetime) -> dict[str, datetime]:
    """When each question that was answered before is due (UTC), by id."""
    entries = progress.read()["interview"]
    cards = {name: _card(entries, name, now) for name in bank if name in entries}
    return {name: card.due for name, card in cards.items() if card.last_review}


def deck(bank: Bank, now: datetime, seed: int, new: int = 10) -> list[Question]:
    """What to ask now: questions due, longest overdue first, then ``new`` ones of all topics."""
    before = asked(bank, now)
    due = sorted((name for name in before if before[name] <= now), key=lambda name: before[name])
    fresh = {name: question for name, question in bank.items() if name not in before}
    return [bank[name] for name in due] + draw(fresh, new, seed)


class Pile:
    """The questions still to ask, in order; one that was failed goes back into the pile.

    It returns after ``OTHERS_BETWEEN`` others, or after those that are left, at most ``REPEATS``
    times.
    """

    def __init__(self, deck: Iterable[Question]):
        self._waiting = [*deck]
        self._repeated: Counter[str] = Counter()
        self.answered = 0

    @property
    def current(self) -> Question | None:
        """The question to ask now; None at the end."""
        return self._waiting[0] if self._waiting else None

    @property
    def count(self) -> int:
        """How many questions there are, with those answered and those that came back."""
        return self.answered + len(self._waiting)

    def returns(self, grade: str) -> bool:
        """Whether the current question comes back after this ``grade``."""
        there = self.current
        return grade == "again" and there is not None and self._repeated[there.id] < REPEATS

    def answer(self, grade: str) -> None:
        """Go on to the next question."""
        back, question = self.returns(grade), self._waiting.pop(0)
        self.answered += 1
        if back:
            self._repeated[question.id] += 1
            self._waiting.insert(OTHERS_BETWEEN, question)


class TopicRow(NamedTuple):
    """The numbers of questions of a topic: all, asked before, known and due.

    A question is known if its last grade was good or easy.
    """

    topic: str
    questions: int
    asked: int
    known: int
    due: int


def by_topic(bank: Bank, now: datetime) -> list[TopicRow]:
    """The learner's progress, a row for each topic of the ``bank``."""
    entries, before = progress.read()["interview"], asked(bank, now)
    rows = []
    for topic in TOPICS:
        names = [name for name, question in bank.items() if question.topic == topic]
        there = [name for name in names if name in before]
        known = sum(entries[name].get("grade") in ("good", "easy") for name in there)
        due = sum(before[name] <= now for name in there)
        rows += [TopicRow(topic, len(names), len(there), known, due)] if names else []
    return rows


# --- drawing questions --------------------------------------------------------------------------


def choose(
    bank: Bank,
    lessons: Collection[str] = (),
    topics: Collection[str] = (),
    difficulties: Collection[int] = (),
) -> Bank:
    """The questions of these lessons, topics and difficulties; an empty selection means all.

    Raises:
        DrillError: there is none, or none of one of them.
    """
    _refuse_unknown("lesson", lessons, sorted({question.lesson for question in bank.values()}))
    _refuse_unknown("topic", topics, TOPICS)
    _refuse_unknown("difficulty", difficulties, range(1, 6))
    chosen = {
        name: question
        for name, question in bank.items()
        if (not lessons or question.lesson in lessons)
        and (not topics or question.topic in topics)
        and (not difficulties or question.difficulty in difficulties)
    }
    if not chosen:
        raise DrillError(
            f"No question fits lessons {[*lessons]}, topics {[*topics]} and difficulties "
            f"{[*difficulties]} together. Leave out one of them."
        )
    return chosen


def _refuse_unknown(kind: str, wanted: Collection[Choice], known: Collection[Choice]) -> None:
    for each in wanted:
        if each not in known:
            there = ", ".join(map(str, known))
            raise DrillError(f"There are no questions of {kind} {each!r}. Choose from {there}.")


def draw(bank: Bank, count: int, seed: int) -> list[Question]:
    """At most ``count`` questions, drawn from ``seed``, spread evenly over the topics.

    Raises:
        DrillError: ``count`` is below zero.
    """
    if count < 0:
        raise DrillError(f"{count} questions cannot be drawn. Choose a number of at least 0.")
    shuffled = random.Random(seed).sample(list(bank.values()), len(bank))
    return [shuffled[place] for place in balanced([each.topic for each in shuffled], count)]


def balanced(topics: Sequence[str], count: int) -> list[int]:
    """Positions of ``count`` entries, taken from the topics in turn. Built in lesson 13.

    The first entry of each topic comes first, in the order of the topics' first appearance, then
    the second of each, and so on. Fewer positions where there are fewer entries.
    """
    rounds = [topics[:place].count(topic) for place, topic in enumerate(topics)]
    first = {topic: place for place, topic in reversed([*enumerate(topics)])}
    order = sorted(range(len(topics)), key=lambda place: (rounds[place], first[topics[place]]))
    return order[:count]


# --- judging ------------------------------------------------------------------------------------


def rubric(question: Question, finder: NumberFinder) -> list[str]:
    """What an answer is graded by: the number to guess, if any, and the strong points."""
    strong = [*questions.filled(question, finder).strong]
    if question.estimate is None:
        return strong
    truth = finder.number(question.estimate.value).value
    target = f"{questions.shown(truth)} {question.estimate.unit}"
    return [f"a number {question.estimate.tolerance} of {target}", *strong]


def judged(estimate: Estimate, guess: float, finder: NumberFinder) -> str:
    """The grade of a guess: "good" within the tolerance, else "again"."""
    right = estimate.right(guess, finder.number(estimate.value).value)
    return "good" if right else "again"


def comes_back(due: datetime, now: datetime) -> str:
    """When a question is asked again, in words."""
    minutes = (due - now).total_seconds() / 60
    for unit, length in (("day", 24 * 60), ("hour", 60), ("minute", 1)):
        if minutes >= length:
            count = round(minutes / length)
            return f"Comes back in {count} {unit}{'s' if count > 1 else ''}."
    return "Comes back in a minute."


class Answer(NamedTuple):
    """An answer in a mock interview: the points of the rubric that it made, and its seconds."""

    question: Question
    ticked: tuple[bool, ...]
    seconds: float

    @property
    def late(self) -> bool:
        """Whether it took longer than ``SECONDS``."""
        return self.seconds > SECONDS

    @property
    def grade(self) -> str:
        """Good with three quarters of the points in time, hard with half of them, else again."""
        share = sum(self.ticked) / len(self.ticked)
        return "good" if share >= 0.75 and not self.late else "hard" if share >= 0.5 else "again"


class Summary(NamedTuple):
    """The result of a mock interview: points made and possible, by topic; what to read again."""

    points: dict[str, tuple[int, int]]
    late: int
    again: list[Question]

    def __str__(self) -> str:
        made, there = (sum(each) for each in zip(*self.points.values(), strict=True))
        lines = [f"{made} of {there} points, {self.late} answers over {SECONDS} seconds"]
        lines += [f"  {name:14s} {some} of {all_}" for name, (some, all_) in self.points.items()]
        lines += ["Read again:"] if self.again else []
        lines += [f"  lesson {each.lesson}, claim {each.claim} ({each.id})" for each in self.again]
        return "\n".join(lines)


def summary(answers: Sequence[Answer]) -> Summary:
    """The result of a mock interview.

    Raises:
        DrillError: nothing was answered.
    """
    if not answers:
        raise DrillError("Nothing was answered, so there is nothing to summarize.")
    points: dict[str, tuple[int, int]] = {}
    for answer in answers:
        made, there = points.get(answer.question.topic, (0, 0))
        points[answer.question.topic] = made + sum(answer.ticked), there + len(answer.ticked)
    again = [answer.question for answer in answers if answer.grade == "again"]
    return Summary(points, sum(answer.late for answer in answers), again)


# --- in the terminal ----------------------------------------------------------------------------


class Quit(Exception):
    """The learner wants to stop."""


class NotUnderstood(ValueError):
    """A line that is no answer to the prompt; the message says what to type."""


class Terminal(NamedTuple):
    """How to talk to the learner; tests feed lines instead of a keyboard."""

    finder: NumberFinder
    read: Callable[[str], str]
    write: Callable[[str], object]
    clock: Callable[[], float]

    def ask(self, prompt: str) -> str:
        """A line that the learner typed.

        Raises:
            Quit: it was "q", or Ctrl-C or Ctrl-D were pressed.
        """
        try:
            line = self.read(prompt).strip()
        except (EOFError, KeyboardInterrupt):
            raise Quit from None
        if line.lower() in ("q", "quit"):
            raise Quit
        return line

    def ask_until(self, prompt: str, meaning: Callable[[str], Meaning]) -> Meaning:
        """Ask until ``meaning`` accepts the line, and return what it means.

        A line that it raises NotUnderstood or NumberError for is asked again.
        """
        while True:
            line = self.ask(prompt)
            try:
                return meaning(line)
            except (NotUnderstood, NumberError) as error:
                self.say(str(error))

    def say(self, text: str, indent: str = "") -> None:
        """Write ``text``, wrapped to the width of the window."""
        width = max(NARROWEST, min(88, shutil.get_terminal_size().columns - 1))
        self.write(textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent))

    def head(self, place: int, count: int, question: Question) -> None:
        """Write the number and kind of the question, and its text."""
        self.write(f"\n{place} of {count}: {heading(question)}")
        self.say(questions.filled(question, self.finder).question)

    def show(self, question: Question) -> None:
        """Write the answer, its strong points and the usual mistake."""
        full = questions.filled(question, self.finder)
        self.say(full.answer)
        for point in full.strong:
            self.say(f"+ {point}", "  ")
        self.say(f"Often heard: {full.wrong.says} But: {full.wrong.because}")
        self.say(source(question, self.finder))


def heading(question: Question) -> str:
    """The kind of the question, such as ``"estimate, speed, difficulty 3 of 5"``."""
    return f"{KINDS[question.kind]}, {question.topic}, difficulty {question.difficulty} of 5"


def source(question: Question, finder: NumberFinder) -> str:
    """Which lesson and claim support the answer, and where its number comes from."""
    proof = f"Proved in lesson {question.lesson}, claim {question.claim}"
    if question.estimate is None:
        return f"{proof}."
    return f"{proof}; the number {finder.number(question.estimate.value).origin}."


def practise(cards: Sequence[Question], terminal: Terminal, now: Callable[[], datetime]) -> int:
    """Ask ``cards`` one by one and store each grade at once; return how many were answered.

    A failed one comes back, see :class:`Pile`, and then counts again.
    """
    pile = Pile(cards)
    while pile.current is not None:
        question = pile.current
        terminal.head(pile.answered + 1, pile.count, question)
        try:
            grade = _answered(question, terminal)
        except Quit:
            break
        due = remember(question.id, grade, now())
        terminal.say(BACK if pile.returns(grade) else comes_back(due, now()))
        pile.answer(grade)
    return pile.answered


def _answered(question: Question, terminal: Terminal) -> str:
    """Let the learner answer; an estimate is graded by its number, others by the learner."""
    if question.estimate is None:
        terminal.ask("Say it aloud, then press Enter for the answer: ")
        terminal.show(question)
        return terminal.ask_until("Your grade: 1 again, 2 hard, 3 good, 4 easy: ", _grade)
    unit = question.estimate.unit
    guess = terminal.ask_until(f"Your guess ({unit}): ", partial(typed_numbers.read, unit=unit))
    grade = judged(question.estimate, guess, terminal.finder)
    terminal.say("Right." if grade == "good" else "Not close enough.")
    terminal.show(question)
    return grade


def _grade(line: str) -> str:
    grade = dict(zip("1234", GRADES, strict=True)).get(line, line.lower())
    if grade not in GRADES:
        raise NotUnderstood("Type 1, 2, 3 or 4.")
    return grade


def interview(
    drawn: Sequence[Question], terminal: Terminal, now: Callable[[], datetime]
) -> list[Answer]:
    """A mock interview: a minute for each question, then the rubric. Stores every grade."""
    answers: list[Answer] = []
    for place, question in enumerate(drawn, start=1):
        terminal.head(place, len(drawn), question)
        try:
            seconds = _timed(question, terminal)
        except Quit:
            break
        terminal.show(question)
        points = rubric(question, terminal.finder)
        ticked = _ticked(points, terminal)
        if ticked:
            rest = (False,) * (len(points) - len(ticked))
            answers.append(Answer(question, (*ticked, *rest), seconds))
            remember(question.id, answers[-1].grade, now())
        if len(ticked) < len(points):
            break
    return answers


def _timed(question: Question, terminal: Terminal) -> float:
    """Let the learner answer, and return the seconds."""
    began = terminal.clock()
    terminal.ask(f"You have {SECONDS} seconds. Press Enter when you have said it: ")
    seconds = terminal.clock() - began
    terminal.say(f"{seconds:.0f} seconds{', too long' if seconds > SECONDS else ''}.")
    return seconds


def _ticked(points: Sequence[str], terminal: Terminal) -> list[bool]:
    """Which of ``points`` the answer made; fewer where the learner stops. Those count as missed."""
    ticked: list[bool] = []
    for point in points:
        try:
            ticked.append(terminal.ask_until(f"Did you say: {point}? (y/n) ", _yes))
        except Quit:
            break
    return ticked


def _yes(line: str) -> bool:
    try:
        return {"y": True, "yes": True, "n": False, "no": False}[line.lower()]
    except KeyError:
        raise NotUnderstood("Type y or n.") from None


def table(rows: Iterable[TopicRow]) -> str:
    """The progress by topic as lines of text."""
    lines = [f"{'topic':14s} questions  asked  known  due"]
    lines += [f"{r.topic:14s} {r.questions:9d} {r.asked:6d} {r.known:6d} {r.due:4d}" for r in rows]
    return "\n".join(lines)


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m course_lib.teaching.drill", description="Practise interview questions."
    )
    parser.add_argument("--mock", action="store_true", help="a timed mock interview")
    parser.add_argument("--lesson", action="append", default=[], help="such as 05; repeatable")
    parser.add_argument("--topic", action="append", default=[], choices=TOPICS)
    parser.add_argument(
        "--count", type=_at_least_one, default=10, help="new questions, or those of --mock (10)"
    )
    parser.add_argument(
        "--seed", type=_whole, default=date.today().toordinal(), help="default: today"
    )
    return parser.parse_args(arguments)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number such as 10") from None


def _at_least_one(text: str) -> int:
    if _whole(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} questions cannot be asked; type 1 or more")
    return _whole(text)


def main(arguments: list[str] | None = None) -> int:
    """Practise in the terminal: what is due and some new questions, or a mock interview.

    Returns 1 if that is not possible, and 130 if Ctrl-C ended it.
    """
    chosen, keyboard = _arguments(arguments), interrupts.Keyboard()
    try:
        bank = choose(questions.load(), [each.zfill(2) for each in chosen.lesson], chosen.topic)
        with keyboard.listening():
            _drill(bank, chosen, Terminal(NumberFinder(), keyboard.read, print, time.monotonic))
    except (BankError, DrillError, claims.ClaimError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        keyboard.pressed = True
    if keyboard.pressed:
        print(f"\n{STOPPED}", file=sys.stderr)
    return interrupts.STATUS if keyboard.pressed else 0


def _drill(bank: Bank, chosen: argparse.Namespace, terminal: Terminal) -> None:
    print("Nothing is lost when you stop: type q, or press Ctrl-C or Ctrl-D, at any time.")
    if chosen.mock:
        answers = interview(draw(bank, chosen.count, chosen.seed), terminal, _now)
        print(f"\n{summary(answers)}" if answers else "\nNothing answered.")
    else:
        done = practise(deck(bank, _now(), chosen.seed, chosen.count), terminal, _now)
        print(f"\n{done} answered.\n{table(by_topic(bank, _now()))}")


def _now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    status = main()
    interrupts.ignore()
    sys.exit(status)
