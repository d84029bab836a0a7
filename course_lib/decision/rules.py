"""Which steps for which deployment: ordered rules, and what the recordings promise for each.

Lesson 12 draws the picture of :data:`RULES` and judges twenty cases by the same numbers.
"""

import math
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

from course_lib.decision.evidence import ARCHITECTURES, Evidence, collected, published_gains
from course_lib.measuring.estimates import Estimate, exact

#: All steps, in the order in which they are taken: prune, then train, then quantize.
STEPS = ("structured", "unstructured", "2:4", "distil", "quantize")
NOTHING = "nothing"
PRUNING = {"structured", "unstructured", "2:4"}

#: The highest speed-up of a matrix product on sparse tensor cores (Mishra et al., 2021,
#: "Accelerating Sparse Deep Neural Networks").
TWO_FOUR_CEILING = 2.0


class Hardware(NamedTuple):
    """What a kind of hardware makes faster: products of int8; zeros, two of every four.

    ``note`` says how its times follow from those that were recorded.
    """

    note: str
    int8: bool = False
    two_four: bool = False
    gpu: bool = False


NO_GPU = "Times were recorded on a CPU, none on a GPU: 'at most' is what fewer MACs allow. Measure."

HARDWARE = {
    "cpu": Hardware("Without int8 products, int8 is taken to be as fast as float32."),
    "cpu with int8": Hardware("Times were recorded on such a CPU, on one thread.", int8=True),
    "gpu": Hardware(NO_GPU, gpu=True),
    "gpu with 2:4": Hardware(
        f"{NO_GPU} 2:4 gives up to {TWO_FOUR_CEILING:g}x (Mishra et al., 2021).",
        two_four=True,
        gpu=True,
    ),
    "microcontroller": Hardware("The nearest that was recorded is a CPU with int8.", int8=True),
    "unknown": Hardware("Nothing is taken for granted: int8 as fast as float32, no zeros skipped."),
}

#: What can be scarce, and the target that addresses it.
BOTTLENECKS = {
    "compute": "speedup",
    "memory bandwidth": "speedup",
    "download": "compression_ratio",
    "RAM": "compression_ratio",
}


class Brief(NamedTuple):
    """A deployment: what it runs on, what is scarce, and the targets.

    Args:
        hardware: one of :data:`HARDWARE`.
        bottleneck: one of :data:`BOTTLENECKS`.
        architecture: "cnn", "transformer" or "mixed".
        speedup: how many times faster it must get; 1 asks for nothing.
        compression_ratio: how many times fewer bytes it must have; 1 asks for nothing.
        max_accuracy_drop: points of accuracy that it may lose.
        retraining: the training that can be afforded, as a share of the original epochs.
        keep_weights: whether the result must come from the weights that are trained already.
    """

    hardware: str
    bottleneck: str
    architecture: str
    speedup: float = 1.0
    compression_ratio: float = 1.0
    max_accuracy_drop: float = 1.0
    retraining: float = 0.0
    keep_weights: bool = False


class Expected(NamedTuple):
    """What a recorded network promises for a brief.

    Args:
        name: the network that promises it, and its form.
        speedup: the most that the hardware allows where ``at_most``, else measured.
        distilled: whether it learned from a teacher.
        source: the recording.
    """

    name: str
    form: str
    accuracy_drop: float
    compression_ratio: float
    speedup: float
    at_most: bool
    epoch_fraction: float
    distilled: bool
    source: str

    def __str__(self) -> str:
        most = "at most " if self.at_most else ""
        return (
            f"{self.name}, {self.form}: {self.accuracy_drop:.1f} points lost, "
            f"{self.compression_ratio:.1f}x smaller, {most}{self.speedup:.1f}x faster, "
            f"{100 * self.epoch_fraction:.0f} % of the epochs ({self.source})"
        )


#: The fields of a brief that are numbers, and the least that each may be.
LEAST = {"speedup": 1, "compression_ratio": 1, "max_accuracy_drop": 0, "retraining": 0}


class BriefError(ValueError):
    """A brief that asks for what is not possible, or contradicts itself."""


def checked(brief: Brief) -> Brief:
    """``brief``, if it makes sense.

    Raises:
        BriefError: which field is wrong, its value, and what to do.
    """
    for field, choices in (
        ("hardware", HARDWARE),
        ("bottleneck", BOTTLENECKS),
        ("architecture", ARCHITECTURES),
    ):
        if getattr(brief, field) not in choices:
            given = getattr(brief, field)
            raise BriefError(f"{field} is {given!r}; choose from {', '.join(choices)}.")
    for field, least in LEAST.items():
        _check_number(field, getattr(brief, field), least)
    if type(brief.keep_weights) is not bool:
        raise BriefError(f"keep_weights is {brief.keep_weights!r}; say True or False.")
    _refuse_contradiction(brief)
    return brief


def _check_number(field: str, value: Any, least: float) -> None:
    number = type(value) in (int, float) and math.isfinite(value)
    if not number or value < least:
        raise BriefError(f"{field} is {value!r}; give a number that is at least {least}.")


def _refuse_contradiction(brief: Brief) -> None:
    wanted = BOTTLENECKS[brief.bottleneck]
    other = "compression_ratio" if wanted == "speedup" else "speedup"
    if getattr(brief, wanted) == 1 < getattr(brief, other):
        raise BriefError(
            f"The bottleneck is {brief.bottleneck}, but {wanted} is 1 while {other} is "
            f"{getattr(brief, other)}: say which {wanted} it must reach, or name "
            "another bottleneck."
        )


# --- what the recordings promise ----------------------------------------------------------------


def expected(evidence: Evidence, hardware: str) -> Expected:
    """What ``evidence`` promises on ``hardware``.

    No time was recorded on a GPU. There, the remaining MACs limit how fast it can be, and sparse
    tensor cores may double that. Zeros elsewhere and int8 count for nothing.
    """
    kind = HARDWARE[hardware]
    speedup = evidence.speedup if kind.int8 else evidence.speedup_float32
    if kind.gpu:
        doubled = kind.two_four and "2:4" in evidence.steps
        speedup = evidence.mac_reduction * (TWO_FOUR_CEILING if doubled else 1.0)
    return Expected(
        evidence.name,
        evidence.form,
        evidence.accuracy_drop,
        evidence.compression_ratio,
        speedup,
        at_most=kind.gpu and speedup > 1,
        epoch_fraction=evidence.epoch_fraction,
        distilled="distil" in evidence.steps,
        source=evidence.source,
    )


def promises(brief: Brief, steps: Collection[str], known: Iterable[Evidence]) -> list[Expected]:
    """What every recorded network promises that these ``steps`` may make within ``brief``.

    With pruning, a network counts whether or not it had a teacher: ``distilled`` says which.
    """
    return [
        expected(one, brief.hardware)
        for one in known
        if _is_possible(one, brief) and _is_made_by(one, frozenset(steps))
    ]


def _is_possible(one: Evidence, brief: Brief) -> bool:
    """Whether architecture, affordable training and form of the file suit the brief."""
    form = one.form != "packed" or brief.bottleneck == "download"
    fresh = "distil" in one.steps and not one.steps & PRUNING
    affordable = one.epoch_fraction <= brief.retraining + 1e-9
    return (
        one.architecture == brief.architecture
        and form
        and affordable
        and not (fresh and brief.keep_weights)
    )


def _is_made_by(one: Evidence, steps: frozenset[str]) -> bool:
    return one.steps == steps or (bool(steps & PRUNING) and one.steps ^ steps == {"distil"})


def shortfall(brief: Brief, promise: Expected) -> float:
    """How far ``promise`` is from the targets of ``brief``; 0 where it meets them all.

    Factors are compared by their logarithms, points of accuracy as they are.
    """
    factors = (brief.speedup / promise.speedup, brief.compression_ratio / promise.compression_ratio)
    missing = sum(max(0.0, math.log(factor)) for factor in factors)
    return missing + max(0.0, round(promise.accuracy_drop, 2) - brief.max_accuracy_drop)


def best(
    brief: Brief, steps: Collection[str], known: Iterable[Evidence], like: str = ""
) -> Expected | None:
    """The promise nearest to the targets; of several that meet them, the one that loses least.

    None where no network was recorded that these ``steps`` could make.

    Args:
        like: the name of a network that is preferred to all others.
    """

    def rank(one: Expected) -> tuple:
        unlike = one.name != like, one.distilled != ("distil" in steps)
        return unlike[0], shortfall(brief, one), unlike[1], one.accuracy_drop

    return min(promises(brief, steps, known), key=rank, default=None)


def enough(brief: Brief, steps: Collection[str], known: Iterable[Evidence]) -> bool:
    """Whether a recorded network made by ``steps`` meets the targets of ``brief``."""
    promise = best(brief, steps, known)
    return promise is not None and shortfall(brief, promise) == 0


def combined(first: float, second: float, fixed: float) -> float:
    """The speed-up of two steps together, from that of each alone; lesson 12 builds this function.

    Args:
        fixed: the share of the dense time that neither step shortens. What they shorten, both
            shorten: the law of Amdahl (1967) for two steps.
    """
    whole = 1 - fixed
    factors = [whole / (1 / speedup - fixed) for speedup in (first, second)]
    return 1 / (fixed + whole / math.prod(factors))


# --- the rules ----------------------------------------------------------------------------------


class State(NamedTuple):
    """A walk down the rules: the brief, the steps that were chosen so far, and what is known."""

    brief: Brief
    steps: frozenset[str]
    known: Sequence[Evidence]

    def short(self) -> bool:
        """Whether the steps so far do not meet the targets."""
        return not enough(self.brief, self.steps - {NOTHING}, self.known)

    def would_do(self, step: str) -> bool:
        """Whether they do not, but would together with ``step``."""
        return self.short() and enough(self.brief, self.steps | {step}, self.known)


class Rule(NamedTuple):
    """A question; where the answer is yes, ``step`` is taken, and the walk ends if ``last``."""

    question: str
    asks: Callable[[State], bool]
    step: str
    why: str
    claims: tuple[str, ...] = ()
    last: bool = False


def _enough_as_it_is(state: State) -> bool:
    return not state.short()


def _int8_is_enough(state: State) -> bool:
    return state.would_do("quantize")


def _skips_zeros(state: State) -> bool:
    short_of_time = BOTTLENECKS[state.brief.bottleneck] == "speedup"
    skips = HARDWARE[state.brief.hardware].two_four
    return skips and short_of_time and state.would_do("2:4")


def _cannot_retrain(state: State) -> bool:
    return state.short() and state.brief.retraining == 0


def _only_bytes(state: State) -> bool:
    only = state.brief.speedup == 1 and _zeros_count(state.brief)
    return only and state.would_do("unstructured")


def _zeros_help(state: State) -> bool:
    return state.short() and _zeros_count(state.brief)


def _zeros_count(brief: Brief) -> bool:
    """Whether single zeros are worth it: for packed convolutions, and beside attention."""
    download = brief.bottleneck == "download"
    return brief.architecture == "mixed" or (brief.architecture == "cnn" and download)


def _was_distilled(state: State) -> bool:
    found = best(state.brief, state.steps, state.known)
    return bool(state.steps & PRUNING) and found is not None and found.distilled


#: Asked from the first to the last. "Short" means: no recorded network that was made by the steps
#: so far meets the targets.
RULES = (
    Rule(
        "Is it small and fast enough?",
        _enough_as_it_is,
        NOTHING,
        "Every step costs accuracy or work.",
        last=True,
    ),
    Rule(
        "Is int8 alone enough?",
        _int8_is_enough,
        "quantize",
        "It needs no training, and costs next to no accuracy.",
        ("C15", "C21"),
    ),
    Rule(
        "Does the hardware skip 2 of 4 zeros, and is that enough?",
        _skips_zeros,
        "2:4",
        "Sparse tensor cores skip this pattern, and no other zeros.",
        ("C08", "C17", "C20"),
    ),
    Rule(
        "Short, and no retraining?",
        _cannot_retrain,
        "quantize",
        "Without retraining pruned networks lose far too much.",
        ("C02", "C03", "C22"),
        last=True,
    ),
    Rule(
        "Do only packed bytes count, and would zeros do?",
        _only_bytes,
        "unstructured",
        "Packed, single zeros save bytes, and convolutions bear many of them.",
        ("C13", "C14", "C18"),
    ),
    Rule(
        "Otherwise, or unsure of the hardware?",
        State.short,
        "structured",
        "Smaller tensors are smaller and faster everywhere.",
        ("C10", "C18", "C20"),
    ),
    Rule(
        "Still short, and do zeros in convolutions count?",
        _zeros_help,
        "unstructured",
        "Convolutions mind losing weights less than losing channels.",
        ("C14", "C19"),
    ),
    Rule(
        "Still short?",
        State.short,
        "quantize",
        "It comes on top: always for bytes, often for time.",
        ("C15", "C21"),
    ),
    Rule(
        "Had the nearest recorded network a teacher?",
        _was_distilled,
        "distil",
        "In equal epochs a teacher helps; it costs time in each of them.",
        ("C16",),
    ),
)


class Step(NamedTuple):
    """A recommended step: why, which claims say so, and what the recordings promise after it."""

    step: str
    why: str
    claims: tuple[str, ...]
    expected: Expected | None

    def __str__(self) -> str:
        cited = f" ({', '.join(self.claims)})" if self.claims else ""
        promise = f"\n    {self.expected}" if self.expected else ""
        return f"{self.step}: {self.why}{cited}{promise}"


class Advice(NamedTuple):
    """What to do, in order. ``answers`` says for each rule that was asked whether it was yes."""

    brief: Brief
    steps: tuple[Step, ...]
    answers: tuple[bool, ...]
    enough: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The steps without their reasons."""
        return tuple(step.step for step in self.steps)

    @property
    def published(self) -> list[str]:
        """What other works published on these steps, if the hardware is a GPU, in sentences."""
        if not HARDWARE[self.brief.hardware].gpu:
            return []
        return [sentence for name in self.names for sentence in published_gains(name)]

    def __str__(self) -> str:
        later = [*(step.expected for step in self.steps[1:]), ...]
        lines = [
            # what two steps promise together, such as to prune and to distil, is told once
            f"{number}. {step._replace(expected=None) if step.expected == after else step}"
            for number, (step, after) in enumerate(zip(self.steps, later, strict=True), start=1)
        ]
        if not self.enough:
            lines.append("No recorded network meets all targets: this is the nearest way.")
        return "\n".join([*lines, HARDWARE[self.brief.hardware].note, *self.published])


def decide(brief: Brief, known: Sequence[Evidence] | None = None) -> Advice:
    """The steps that :data:`RULES` choose for ``brief``, in the order in which they are taken.

    Args:
        known: evidence; None for what the recordings hold now, this machine's if it has any, else
            the course's.

    Raises:
        BriefError: the brief is impossible or contradicts itself.
        RecordingError: a recording is damaged or missing.
    """
    known = collected() if known is None else known
    state, answers = State(checked(brief), frozenset(), known), []
    chosen: dict[str, Rule] = {}
    for rule in RULES:
        answers.append(rule.asks(state))
        if answers[-1]:
            chosen.setdefault(rule.step, rule)
            state = state._replace(steps=state.steps | {rule.step})
            if rule.last:
                break
    return Advice(brief, _in_order(brief, chosen, known), tuple(answers), not state.short())


def _in_order(brief: Brief, chosen: dict[str, Rule], known: Sequence[Evidence]) -> tuple[Step, ...]:
    """The steps in order, each with what is promised once it and those before it are done."""
    names = [name for name in STEPS if name in chosen]
    whole = best(brief, names, known)
    like = whole.name if whole else ""
    return tuple(
        Step(name, rule.why, rule.claims, best(brief, set(names[: place + 1]), known, like))
        for place, name in enumerate(names or [NOTHING])
        for rule in [chosen[name]]
    )


# --- judging an answer --------------------------------------------------------------------------


class Judgement(NamedTuple):
    """Whether an answer is right, and why."""

    accepted: bool
    why: str

    def __str__(self) -> str:
        return f"{'right' if self.accepted else 'not yet'}: {self.why}"


def judge(brief: Brief, answer: Collection[str], known: Sequence[Evidence]) -> Judgement:
    """Whether the steps of ``answer`` meet the targets of ``brief``, by what was recorded.

    More than one answer can be right: all are whose steps made a network that meets the targets.

    Raises:
        BriefError: the brief is impossible or contradicts itself.
    """
    steps, asked = frozenset(answer), max(checked(brief).speedup, brief.compression_ratio) > 1
    if unknown := steps - {NOTHING, *STEPS}:
        return Judgement(False, f"no step is called {min(unknown)!r}; choose from {_listed()}")
    if not steps:
        return Judgement(False, f"no answer; choose from {_listed()}")
    if NOTHING in steps:
        return _judge_nothing(brief, steps, known)
    if not asked:
        return Judgement(False, "nothing is asked for, and every step costs accuracy or work")
    if brief.keep_weights and "distil" in steps and not steps & PRUNING:
        return Judgement(False, "a fresh student does not keep the trained weights")
    return _judge_steps(brief, steps, known)


def _listed() -> str:
    return ", ".join((*STEPS, NOTHING))


def _judge_nothing(brief: Brief, steps: frozenset[str], known: Sequence[Evidence]) -> Judgement:
    if len(steps) > 1:
        return Judgement(False, "nothing and something cannot both be done")
    return _judge_steps(brief, frozenset(), known)


def _judge_steps(brief: Brief, steps: frozenset[str], known: Sequence[Evidence]) -> Judgement:
    promise = best(brief, steps, known)
    if promise is None:
        budgets = [one.epoch_fraction for one in known if _with_more_training(one, brief, steps)]
        longer = f"; it takes {100 * min(budgets):.0f} % of the epochs" if budgets else ""
        return Judgement(False, f"no such network was recorded within the training paid{longer}")
    misses = missed(brief, promise)
    if misses:
        return Judgement(False, f"{promise} misses {' and '.join(misses)}")
    simpler = _simpler(brief, steps, known)
    remark = f"; {' and '.join(simpler)} alone would do" if simpler else ""
    return Judgement(True, f"{promise}{remark}")


def _with_more_training(one: Evidence, brief: Brief, steps: frozenset[str]) -> bool:
    paid = brief._replace(retraining=max(brief.retraining, one.epoch_fraction))
    return _is_possible(one, paid) and _is_made_by(one, steps)


def _simpler(brief: Brief, steps: frozenset[str], known: Sequence[Evidence]) -> list[str]:
    """The fewest of ``steps`` that are enough by themselves; none if all of them are needed."""
    fewer = {one.steps for one in known if one.architecture == brief.architecture}
    for some in sorted((each for each in fewer if each and each < steps), key=len):
        promise = best(brief, some, known)
        if promise is None or promise.distilled != ("distil" in some):
            continue
        if shortfall(brief, promise) == 0:
            return [step for step in STEPS if step in some]
    return []


def missed(brief: Brief, promise: Expected) -> list[str]:
    """The targets that ``promise`` does not meet, in words."""
    drop, most = promise.accuracy_drop, brief.max_accuracy_drop
    ratio, speedup = promise.compression_ratio, promise.speedup
    return [
        f"{name} ({got:.1f}, asked: {asked:g})"
        for name, got, asked, met in (
            ("points lost", drop, most, round(drop, 2) <= most),
            ("smaller", ratio, brief.compression_ratio, ratio >= brief.compression_ratio),
            ("faster", speedup, brief.speedup, speedup >= brief.speedup),
        )
        if not met
    ]


def right_answers(brief: Brief, known: Sequence[Evidence]) -> list[tuple[str, ...]]:
    """All sets of steps that :func:`judge` accepts, the shortest first."""
    sets = {one.steps for one in known if one.architecture == brief.architecture}
    named = {tuple(step for step in STEPS if step in steps) for steps in sets} | {(NOTHING,)}
    right = [names for names in named if names and judge(brief, names, known).accepted]
    return sorted(right, key=lambda names: (len(names), names))


# --- cases to practise on -----------------------------------------------------------------------


class DeploymentCase(NamedTuple):
    """A product, and its brief."""

    product: str
    brief: Brief


#: Product, hardware, bottleneck, architecture.
PRODUCTS = (
    ("doorbell camera that spots parcels", "cpu with int8", "compute", "cnn"),
    ("bird-song logger on a coin cell", "microcontroller", "RAM", "cnn"),
    ("photo sorter, updated over mobile data", "cpu", "download", "cnn"),
    ("inspection of wafers beside the line", "gpu", "compute", "cnn"),
    ("shelf scanner, hardware not chosen yet", "unknown", "compute", "cnn"),
    ("hearing aid that knows noise from speech", "microcontroller", "compute", "cnn"),
    ("cloud filter of a satellite, sent by radio", "unknown", "download", "cnn"),
    ("X-ray viewer that runs in the browser", "cpu", "download", "cnn"),
    ("sorting belt for fruit", "gpu with 2:4", "compute", "cnn"),
    ("spam filter of a mail server", "cpu with int8", "compute", "transformer"),
    ("ratings of reviews in a phone app", "cpu", "download", "transformer"),
    (
        "router of support tickets in a data centre",
        "gpu with 2:4",
        "memory bandwidth",
        "transformer",
    ),
    ("keyboard that suggests words offline", "cpu with int8", "RAM", "transformer"),
    ("ranking of search results", "gpu", "compute", "transformer"),
    ("comment filter, on the customers' machines", "unknown", "memory bandwidth", "transformer"),
    ("e-reader that finds similar passages", "cpu", "memory bandwidth", "transformer"),
    ("light switch that understands orders", "microcontroller", "RAM", "transformer"),
    ("moderation of a game chat", "gpu with 2:4", "compute", "transformer"),
    ("drone that finds its landing pad", "cpu with int8", "compute", "mixed"),
    ("tablet that finds scratches on parts", "cpu", "download", "mixed"),
    ("glasses that name what they see", "unknown", "compute", "mixed"),
    ("phone camera that tags scenes", "cpu with int8", "RAM", "mixed"),
    ("counter of cars at a crossing", "gpu", "memory bandwidth", "mixed"),
    ("plant guide, updated in the field", "unknown", "download", "mixed"),
)

#: One case in so many asks for nothing.
EASY = 10

#: Budgets of retraining that products have, as shares of the original epochs.
RETRAININGS = (0.0, 0.1, 0.2, 0.5, 1.0, 1.5)


def cases(seed: int, known: Sequence[Evidence], count: int = 20) -> list[DeploymentCase]:
    """``count`` different cases, each with at least one right answer by what was recorded."""
    draw = random.Random(seed)
    products = draw.sample(PRODUCTS, count)
    easy = draw.sample(products, count // EASY)
    return [
        DeploymentCase(
            product, brief if (product, *brief[:3]) in easy else _drawn(brief, draw, known)
        )
        for product, hardware, bottleneck, architecture in products
        for brief in [Brief(hardware, bottleneck, architecture)]
    ]


def _drawn(start: Brief, draw: random.Random, known: Sequence[Evidence]) -> Brief:
    """``start`` with targets that some recorded network meets."""
    same = (one for one in known if one.architecture == start.architecture)
    mine = [one for one in same if 0 <= one.accuracy_drop < 3]
    by_steps: dict[tuple[str, ...], list[Evidence]] = {}
    for one in mine:
        by_steps.setdefault(tuple(sorted(one.steps)), []).append(one)
    while True:
        brief = _asked_of(draw.choice(by_steps[draw.choice([*by_steps])]), start, draw)
        if getattr(brief, BOTTLENECKS[brief.bottleneck]) > 1 and right_answers(brief, known):
            return brief


def _asked_of(one: Evidence, start: Brief, draw: random.Random) -> Brief:
    """Targets that ``one`` just meets; often none for what is not the bottleneck."""
    promise = expected(one, start.hardware)
    targets = {"speedup": promise.speedup, "compression_ratio": promise.compression_ratio}
    wanted = BOTTLENECKS[start.bottleneck]
    asked = {
        name: max(1.0, float(f"{draw.uniform(0.6, 0.9) * target:.2g}"))
        for name, target in targets.items()
        if name == wanted or draw.random() < 0.3
    }
    return start._replace(
        speedup=asked.get("speedup", start.speedup),
        compression_ratio=asked.get("compression_ratio", start.compression_ratio),
        max_accuracy_drop=math.ceil(2 * one.accuracy_drop + draw.random()) / 2,
        retraining=min(share for share in RETRAININGS if share >= one.epoch_fraction - 1e-9),
        keep_weights=draw.random() < 0.3,
    )


# --- the textbook's sentence --------------------------------------------------------------------


#: Points of accuracy that the comparisons of C20 allow.
MAX_ACCURACY_DROP = 1.0


def textbook(brief: Brief) -> tuple[str, ...]:
    """What claim C20 says: sparse hardware, unstructured; otherwise, or unsure, structured."""
    return ("2:4",) if HARDWARE[brief.hardware].two_four else ("structured",)


def most(
    gain: str,
    known: Iterable[Evidence],
    architecture: str,
    pruned: str,
    *,
    form: str = "float32",
    epoch_fraction: float = math.inf,
) -> Estimate:
    """The largest gain of one kind of pruning, not quantized, with at most a point lost.

    If no network is within a point it is 1, that of the dense network. The interval is that of the
    network's time; bytes are exact.

    Args:
        gain: "speedup" or "compression_ratio".
        pruned: the only kind of pruning.
        epoch_fraction: the most training that can be afforded, as a share of the epochs.
    """
    found = [
        one
        for one in known
        if (one.architecture, one.form, one.steps - {"distil"}) == (architecture, form, {pruned})
        and one.accuracy_drop <= MAX_ACCURACY_DROP
        and one.epoch_fraction <= epoch_fraction
    ]
    if not found:
        return exact(1.0)
    first = max(found, key=lambda one: getattr(one, gain))
    if gain == "compression_ratio":
        return exact(first.compression_ratio)
    return Estimate(first.speedup, *first.speedup_interval)
