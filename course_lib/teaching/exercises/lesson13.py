"""The exercises of lesson 13: a Leitner box, a tolerance, a sentence, a fair draw, an interval."""

import math

from course_lib.teaching.drill import balanced
from course_lib.teaching.exercises.engine import Exercise, Mistake
from course_lib.teaching.questions import within_factor

# --- 13.1 ---------------------------------------------------------------------------------------


def next_box(box: int, right: bool) -> tuple[int, int]:
    """Up one box after a right answer, back to the first after a wrong one."""
    box = min(box + 1, 5) if right else 1
    return box, 2 ** (box - 1)


LEITNER = Exercise(
    id="13.1",
    title="a Leitner box",
    difficulty=1,
    minutes=5,
    reference=next_box,
    cases=lambda: [(1, True), (2, True), (3, False), (1, False), (4, True), (5, True)],
    hints=(
        "First find the new box, then its days.",
        "`min(box + 1, 5)` goes up and stays in the last box.",
        "Box 1 waits one day, box 2 two, box 3 four: `2 ** (box - 1)`.",
    ),
    mistakes=(
        Mistake(
            lambda box, right: (box + 1, 2**box) if right else (1, 1),
            "There is no box 6: after a right answer in the last box, the question stays there.",
        ),
        Mistake(
            lambda box, right: (
                next_box(box, True) if right else (max(box - 1, 1), 2 ** (max(box - 1, 1) - 1))
            ),
            "A wrong answer goes back to box 1, not one box down.",
        ),
        Mistake(
            lambda box, right: (next_box(box, right)[0], 2 ** (box - 1)),
            "Those are the days of the old box. The question waits in the new one.",
        ),
        Mistake(
            lambda box, right: (next_box(box, right)[0],) * 2,
            "The days double from box to box: 1, 2, 4, 8, 16.",
        ),
        Mistake(
            lambda box, right: (next_box(box, right)[0], 2 ** next_box(box, right)[0]),
            "Box 1 waits one day, not two: the exponent is box - 1.",
        ),
        Mistake(
            lambda box, right: next_box(box, not right),
            "You reversed it: right answers go up, wrong ones back to the start.",
        ),
        Mistake(
            lambda box, right: next_box(box, right)[::-1],
            "Return the box first, then the days.",
        ),
    ),
)


# --- 13.2 ---------------------------------------------------------------------------------------


def _guesses() -> list[tuple]:
    return [
        (2.0, 2.0, 1.5),
        (1.0, 2.0, 1.5),
        (3.1, 2.0, 1.5),
        (2.9, 2.0, 1.5),
        (1.4, 2.0, 1.5),
        (0.5, 2.0, 1.5),
        (50.0, 100.0, 2.0),
        (200.0, 100.0, 2.0),
        (0.02, 0.05, 2.0),
        (0.0, 2.0, 1.5),
        (-2.0, 2.0, 1.5),
        (-0.8, -0.9, 1.5),
    ]


def _near(guess: float, truth: float, judge) -> bool:
    """``judge`` for guesses of the same sign; False for others."""
    return guess * truth > 0 and judge(guess / truth)


WITHIN_FACTOR = Exercise(
    id="13.2",
    title="near enough",
    difficulty=2,
    minutes=6,
    reference=within_factor,
    cases=_guesses,
    hints=(
        "Twice too large and half as large are the same distance in logarithms.",
        "`abs(math.log(guess / truth))` is that distance; compare it with `math.log(factor)`.",
        "A guess of zero or of the other sign has no logarithm: return False first. Allow 1e-9 "
        "for rounding.",
    ),
    mistakes=(
        Mistake(
            lambda g, t, f: _near(g, t, lambda r: abs(r - 1) <= f - 1 + 1e-9),
            "Half the truth is a factor of two away, but a relative error of only 0.5. Use "
            "logarithms.",
        ),
        Mistake(
            lambda g, t, f: _near(g, t, lambda r: r <= f + 1e-9),
            "You only reject guesses that are too large. Those too small are as wrong.",
        ),
        Mistake(
            lambda g, t, f: _near(g, t, lambda r: r >= 1 / f - 1e-9),
            "You only reject guesses that are too small. Those too large are as wrong.",
        ),
        Mistake(
            lambda g, t, f: abs(g - t) <= f,
            "A factor is not a difference: 98 is near 100, and 0.02 is far from 0.05.",
        ),
        Mistake(
            lambda g, t, f: _near(g, t, lambda r: abs(math.log(r)) <= f),
            "Compare logarithms with logarithms: log(factor), not the factor.",
        ),
        Mistake(
            lambda g, t, f: _near(g, t, lambda r: abs(math.log(r)) < math.log(f) - 1e-9),
            "A guess exactly a factor away still counts; allow for rounding.",
        ),
        Mistake(
            lambda g, t, f: abs(math.log(g / t)) <= math.log(f) + 1e-9,
            "Zero and a guess of the other sign have no logarithm. They are never near.",
        ),
        Mistake(
            lambda g, t, f: g != 0 and abs(math.log(abs(g / t))) <= math.log(f) + 1e-9,
            "A loss of 2 points is not near a gain of 2 points: the signs must agree.",
        ),
    ),
)


# --- 13.3 ---------------------------------------------------------------------------------------


def sentence(what: str, ratio: float, low: float, high: float, condition: str) -> str:
    """A sentence that says faster, slower or neither, depending on the interval."""
    if low <= 1 <= high:
        return f"{what}: no difference was measured ({low:.1f} to {high:.1f}), {condition}."
    if low > 1:
        return f"{what}: {ratio:.1f} times faster ({low:.1f} to {high:.1f}), {condition}."
    return f"{what}: {1 / ratio:.1f} times slower ({1 / high:.1f} to {1 / low:.1f}), {condition}."


def _rows() -> list[tuple]:
    return [
        ("Half of the channels", 2.4, 2.2, 2.6, "ResNet-18, one picture, two threads"),
        ("95 % zeros in CSR", 4.0, 3.1, 4.4, "2048 x 2048, one vector"),
        ("int8", 0.5, 0.4, 0.625, "a narrow network, one thread"),
        ("A mask", 1.04, 0.97, 1.1, "90 % zeros, one picture"),
        ("Two threads", 0.96, 0.9, 1.0, "a small network"),
    ]


def _always(word: str):
    """A sentence that ignores whether the interval contains 1."""
    return lambda what, ratio, low, high, condition: (
        f"{what}: {ratio:.1f} times {word} ({low:.1f} to {high:.1f}), {condition}."
    )


def _by_ratio(what: str, ratio: float, low: float, high: float, condition: str) -> str:
    """Faster or slower by the ratio alone, so never "no difference"."""
    if ratio > 1:
        return f"{what}: {ratio:.1f} times faster ({low:.1f} to {high:.1f}), {condition}."
    return f"{what}: {1 / ratio:.1f} times slower ({1 / high:.1f} to {1 / low:.1f}), {condition}."


def _unturned(what: str, ratio: float, low: float, high: float, condition: str) -> str:
    """Inverts the ends of the interval but leaves them in their places."""
    if high < 1:
        ends = f"{1 / low:.1f} to {1 / high:.1f}"
        return f"{what}: {1 / ratio:.1f} times slower ({ends}), {condition}."
    return sentence(what, ratio, low, high, condition)


def _not_inverted(what: str, ratio: float, low: float, high: float, condition: str) -> str:
    """Says slower, with the ratio of faster."""
    if high < 1:
        return f"{what}: {ratio:.1f} times slower ({low:.1f} to {high:.1f}), {condition}."
    return sentence(what, ratio, low, high, condition)


SENTENCE = Exercise(
    id="13.3",
    title="a row becomes a sentence",
    difficulty=3,
    minutes=10,
    reference=sentence,
    cases=_rows,
    hints=(
        "Three cases: the interval contains 1, is above it, or is below it.",
        "For slower, invert the ratio: 1 / ratio, and the ends of the interval swap.",
        "`f'{ratio:.1f}'` has one decimal. The sentence ends with the condition and a full stop.",
    ),
    mistakes=(
        Mistake(_always("faster"), "Check the interval first: it may contain 1, or be below it."),
        Mistake(_by_ratio, "Where the interval contains 1, no difference was measured. Say so."),
        Mistake(_unturned, "1 / low is now the *higher* end: the ends swap."),
        Mistake(_not_inverted, "Half as fast is 2 times slower: invert the ratio and its ends."),
        Mistake(
            lambda what, ratio, low, high, condition: sentence(what, ratio, low, high, "").replace(
                ", .", "."
            ),
            "The condition is missing. Without it the sentence claims too much.",
        ),
        Mistake(
            lambda what, ratio, low, high, condition: (
                f"{what}: {ratio:.1f} times faster, {condition}."
                if low > 1
                else sentence(what, ratio, low, high, condition)
            ),
            "Give the interval, too: it says how certain the ratio is.",
        ),
        Mistake(
            lambda what, ratio, low, high, condition: sentence(
                what, ratio, low, high - 1e-9, condition
            ),
            "An interval that ends exactly at 1 contains it.",
        ),
    ),
)


# --- 13.4 ---------------------------------------------------------------------------------------


def _topics() -> list[tuple]:
    return [
        (["a", "a", "b"], 2),
        (["b", "a"], 2),
        (["b", "a", "b", "a"], 3),
        (["a", "a", "a", "b", "c", "b"], 5),
        (["a"], 3),
        ([], 2),
        (["a", "b", "b"], 0),
    ]


def _firsts(topics: list[str], count: int) -> list[int]:
    """The first place of each topic only."""
    return [place for place, topic in enumerate(topics) if topic not in topics[:place]][:count]


def _repeated(topics: list[str], count: int) -> list[int]:
    """As many as requested, starting over where there are too few."""
    order = balanced(topics, len(topics))
    return [order[place % len(order)] for place in range(count)] if order else []


BALANCED = Exercise(
    id="13.4",
    title="a fair draw",
    difficulty=3,
    minutes=10,
    reference=balanced,
    cases=_topics,
    hints=(
        "First round: the first entry of every topic. Second round: the second of every topic.",
        "`topics[:place].count(topics[place])` is the round in which a place is taken.",
        "Sort the places by (round, first place of their topic), and cut after `count`.",
    ),
    mistakes=(
        Mistake(
            lambda topics, count: list(range(min(count, len(topics)))),
            "Those are the first entries. A topic with many questions would crowd out the others.",
        ),
        Mistake(
            _firsts,
            "After the first round comes a second, and so on, as long as there are entries.",
        ),
        Mistake(
            lambda topics, count: sorted(
                range(len(topics)), key=lambda place: topics.index(topics[place])
            )[:count],
            "You take all of one topic before the next. Take one of each, then again.",
        ),
        Mistake(
            lambda topics, count: sorted(
                range(len(topics)),
                key=lambda place: (topics[:place].count(topics[place]), topics[place]),
            )[:count],
            "Topics take turns in the order in which they first appear, not by the alphabet.",
        ),
        Mistake(
            _repeated, "If there are fewer entries than `count`, return fewer, none of them twice."
        ),
        Mistake(
            lambda topics, count: [topics[place] for place in balanced(topics, count)],
            "Return the places of the entries, not their topics.",
        ),
        Mistake(
            lambda topics, count: sorted(balanced(topics, count)),
            "Return the places in the order in which they are taken; you sorted them.",
        ),
    ),
)


# --- 13.5 ---------------------------------------------------------------------------------------


def success_interval(right: int, asked: int) -> tuple[float, float]:
    """Wilson's interval: it stays inside 0 to 100 and never shrinks to a point."""
    z, p = 1.96, right / asked
    centre = p + z**2 / (2 * asked)
    half = z * math.sqrt(p * (1 - p) / asked + z**2 / (4 * asked**2))
    scale = 100 / (1 + z**2 / asked)
    return scale * (centre - half), scale * (centre + half)


def _plain(right: int, asked: int, z: float = 1.96) -> tuple[float, float]:
    """The normal interval, in percent."""
    p = right / asked
    half = z * math.sqrt(p * (1 - p) / asked)
    return 100 * (p - half), 100 * (p + half)


def _unscaled(right: int, asked: int) -> tuple[float, float]:
    """Wilson's interval without its denominator."""
    scale = 1 + 1.96**2 / asked
    low, high = success_interval(right, asked)
    return low * scale, high * scale


def _centred(right: int, asked: int) -> tuple[float, float]:
    """Wilson's width around the plain share."""
    low, high = success_interval(right, asked)
    share, half = 100 * right / asked, (high - low) / 2
    return share - half, share + half


SUCCESS_INTERVAL = Exercise(
    id="13.5",
    title="seven of ten",
    difficulty=2,
    minutes=8,
    reference=success_interval,
    cases=lambda: [(7, 10), (1, 2), (0, 10), (10, 10), (70, 100), (1, 1)],
    hints=(
        "p is right / asked, z is 1.96, n is asked. Write the formula down in three lines.",
        "centre = p + z**2 / (2 n); half = z sqrt(p (1 - p) / n + z**2 / (4 n**2)).",
        "Divide both by 1 + z**2 / n, and multiply by 100 for percent.",
    ),
    mistakes=(
        Mistake(
            _plain,
            "That is the plain interval. After 10 of 10 it has no width at all: use Wilson's.",
        ),
        Mistake(
            lambda right, asked: (
                max(0.0, _plain(right, asked)[0]),
                min(100.0, _plain(right, asked)[1]),
            ),
            "Clipped to 0 and 100, the plain interval still has no width after 10 of 10.",
        ),
        Mistake(
            lambda right, asked: tuple(end / 100 for end in success_interval(right, asked)),
            "Those are fractions. Return percentages.",
        ),
        Mistake(_unscaled, "You forgot to divide by 1 + z**2 / n."),
        Mistake(_centred, "The centre moves towards 0.5: p + z**2 / (2 n), before dividing."),
        Mistake(
            lambda right, asked: success_interval(right, asked)[::-1],
            "Return the lower end first.",
        ),
        Mistake(
            lambda right, asked: _plain(right, asked, z=1.0),
            "One standard error covers only about 68 %. Use 1.96, and Wilson's form.",
        ),
    ),
)


EXERCISES = (LEITNER, WITHIN_FACTOR, SENTENCE, BALANCED, SUCCESS_INTERVAL)
