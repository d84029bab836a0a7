"""The exercises of lesson 12: two steps at once, the best in a limit, sound briefs, and claims."""

import math
from itertools import combinations

from course_lib.decision.rules import combined
from course_lib.teaching.exercises.engine import Exercise, Mistake

# --- 12.1 ---------------------------------------------------------------------------------------


def _together_cases() -> list[tuple]:
    return [
        (2.0, 2.0, 0.0),
        (2.0, 4.0, 0.1),
        (12.0, 3.0, 0.03),
        (1.0, 5.0, 0.1),
        (1.5, 1.2, 0.5),
        (8.0, 0.8, 0.05),
    ]


TOGETHER = Exercise(
    id="12.1",
    title="two steps at once",
    difficulty=3,
    minutes=10,
    reference=combined,
    cases=_together_cases,
    hints=(
        "Let the dense time be 1. After the first step it is 1 / first, and `fixed` of that was "
        "never shortened: the rest went from 1 - fixed to 1 / first - fixed.",
        "So the step shortened the rest by the factor (1 - fixed) / (1 / first - fixed). The other "
        "step likewise.",
        "The rest is divided by both factors, then `fixed` comes back. A speed-up is 1 / time.",
    ),
    mistakes=(
        Mistake(
            lambda first, second, fixed: first * second,
            "That is the product of the speed-ups. It would be right if nothing were fixed: but "
            "that part is not shortened twice, it is not shortened at all.",
        ),
        Mistake(
            lambda first, second, fixed: 1 / combined(first, second, fixed),
            "You returned the time that is left. A speed-up is the dense time over it.",
        ),
        Mistake(
            lambda first, second, fixed: 1 / (fixed + (1 - fixed) / (first * second)),
            "The measured speed-ups hold the fixed part already, so you counted it twice. Take it "
            "out of each first.",
        ),
        Mistake(
            lambda first, second, fixed: max(first, second),
            "That is the better of the two. Both shorten what is left.",
        ),
        Mistake(
            lambda first, second, fixed: first + second - 1,
            "You added what they gain. The second step shortens what the first has left: factors "
            "multiply.",
        ),
        Mistake(
            lambda first, second, fixed: (
                1 / ((1 / first - fixed) * (1 / second - fixed) / (1 - fixed))
            ),
            "You took the fixed part out and did not add it again. It is paid once, in the end.",
        ),
        Mistake(
            lambda first, second, fixed: 1 / (fixed + (1 / first - fixed) * (1 / second - fixed)),
            "What is left of either is a part of 1, not of 1 - fixed: divide by that once.",
        ),
    ),
)


# --- 12.2 ---------------------------------------------------------------------------------------


def best_within(networks: dict[str, dict[str, float]], gain: str, max_accuracy_drop: float) -> str:
    """The largest gain of those that lose no more; of equal ones that which loses least."""
    allowed = {
        name: one for name, one in networks.items() if one["accuracy_drop"] <= max_accuracy_drop
    }
    ranked = max(
        allowed, key=lambda name: (allowed[name][gain], -allowed[name]["accuracy_drop"]), default=""
    )
    return ranked or "dense"


def _network(accuracy_drop: float, compression_ratio: float, speedup: float) -> dict[str, float]:
    return {
        "accuracy_drop": accuracy_drop,
        "compression_ratio": compression_ratio,
        "speedup": speedup,
    }


NETWORKS = {
    "int8": _network(0.1, 4.0, 3.5),
    "channels": _network(0.4, 16.0, 12.0),
    "weights": _network(-0.3, 40.0, 1.0),
    "narrow": _network(1.0, 60.0, 30.0),
    "tiny": _network(7.0, 200.0, 60.0),
}


def _within_cases() -> list[tuple]:
    equal = {"one": _network(0.5, 4.0, 2.0), "two": _network(0.2, 4.0, 9.0)}
    return [
        (NETWORKS, "speedup", 0.5),
        (NETWORKS, "compression_ratio", 0.5),
        (NETWORKS, "compression_ratio", 1.0),
        (NETWORKS, "speedup", 100.0),
        (NETWORKS, "speedup", 0.0),
        (NETWORKS, "compression_ratio", -1.0),
        (equal, "compression_ratio", 1.0),
        ({}, "compression_ratio", 1.0),
    ]


def _ranked(networks, gain, allowed, key=None, none="dense") -> str:
    """The same with another idea of what is ``allowed``, or of what is best."""
    names = [name for name, one in networks.items() if allowed(one)]
    key = key or (lambda name: (networks[name][gain], -networks[name]["accuracy_drop"]))
    return max(names, key=key, default=none)


BEST_WITHIN = Exercise(
    id="12.2",
    title="the best within a limit",
    difficulty=2,
    minutes=7,
    reference=best_within,
    cases=_within_cases,
    hints=(
        "First throw out what loses more than `max_accuracy_drop`, then find the largest gain.",
        "`max(names, key=...)` may rank by a pair: (gain, -drop) prefers the smaller drop.",
        'Nothing left? Then the answer is "dense": `max(..., default="dense")`.',
    ),
    mistakes=(
        Mistake(
            lambda networks, gain, max_accuracy_drop: _ranked(networks, gain, lambda one: True),
            "You did not look at what is lost. The largest gain is often a broken network's.",
        ),
        Mistake(
            lambda networks, gain, max_accuracy_drop: _ranked(
                networks, gain, lambda one: one["accuracy_drop"] < max_accuracy_drop
            ),
            "A network that loses exactly as much as it may is allowed.",
        ),
        Mistake(
            lambda networks, gain, max_accuracy_drop: _ranked(
                networks, gain, lambda one: abs(one["accuracy_drop"]) <= max_accuracy_drop
            ),
            "A negative loss is a gain of accuracy. Do not take its absolute value.",
        ),
        Mistake(
            lambda networks, gain, max_accuracy_drop: _ranked(
                networks,
                gain,
                lambda one: one["accuracy_drop"] <= max_accuracy_drop,
                lambda name: -networks[name]["accuracy_drop"],
            ),
            "That is the most accurate one. Accuracy is the limit here, the gain is the goal.",
        ),
        Mistake(
            lambda networks, gain, max_accuracy_drop: _ranked(
                networks, "speedup", lambda one: one["accuracy_drop"] <= max_accuracy_drop
            ),
            "You always rank by speed. `gain` says what the bottleneck is: bytes or time.",
        ),
        Mistake(
            lambda networks, gain, max_accuracy_drop: _ranked(
                networks,
                gain,
                lambda one: one["accuracy_drop"] <= max_accuracy_drop,
                lambda name: networks[name][gain],
            ),
            "Two gain the same: take the one that loses less.",
        ),
        Mistake(
            lambda networks, gain, max_accuracy_drop: _ranked(
                networks, gain, lambda one: one["accuracy_drop"] <= max_accuracy_drop, none=""
            ),
            'No network is within the limit: then it stays as it is, "dense".',
        ),
    ),
)


# --- 12.3 ---------------------------------------------------------------------------------------

HARDWARE = ("cpu", "gpu", "unknown")
TARGETS = ("speedup", "compression_ratio", "max_accuracy_drop")


def wrong_field(brief: dict) -> str | None:
    """Words, then numbers, then what contradicts."""
    if brief["hardware"] not in HARDWARE:
        return "hardware"
    for field, least in zip(TARGETS, (1, 1, 0), strict=True):
        value = brief[field]
        if type(value) not in (int, float) or value < least:
            return field
    wanted = "speedup" if brief["bottleneck"] == "time" else "compression_ratio"
    most = max(brief["speedup"], brief["compression_ratio"])
    return "bottleneck" if brief[wanted] == 1 < most else None


def _brief(**changes: object) -> dict:
    targets = {"speedup": 2.0, "compression_ratio": 1, "max_accuracy_drop": 0.5}
    return {"hardware": "cpu", "bottleneck": "time"} | targets | changes


def _brief_cases() -> list[tuple]:
    return [
        (_brief(),),
        (_brief(hardware="abacus"),),
        (_brief(speedup=0.5),),
        (_brief(compression_ratio="10x"),),
        (_brief(max_accuracy_drop=-1),),
        (_brief(max_accuracy_drop=0),),
        (_brief(max_accuracy_drop=True),),
        (_brief(bottleneck="bytes"),),
        (_brief(bottleneck="bytes", compression_ratio=4, speedup=1),),
        (_brief(speedup=1, compression_ratio=1),),
        (_brief(speedup=1, compression_ratio=5),),
        (_brief(hardware="unknown", speedup="2"),),
    ]


def _checked(brief, is_wrong, contradicts=True, known=HARDWARE, least=(1, 1, 0)) -> str | None:
    """The same with another idea of a wrong number, or with less that is checked."""
    if brief["hardware"] not in known:
        return "hardware"
    for field, low in zip(TARGETS, least, strict=True):
        if is_wrong(brief[field], low):
            return field
    wanted = "speedup" if brief["bottleneck"] == "time" else "compression_ratio"
    both_none = brief["speedup"] == brief["compression_ratio"] == 1
    return "bottleneck" if contradicts and brief[wanted] == 1 and not both_none else None


def _is_no_number(value: object, least: float) -> bool:
    return isinstance(value, bool) or not isinstance(value, int | float) or value < least


WRONG_FIELD = Exercise(
    id="12.3",
    title="is the brief sound?",
    difficulty=3,
    minutes=10,
    reference=wrong_field,
    cases=_brief_cases,
    hints=(
        'Go through the fields in their order: "hardware", "speedup", "compression_ratio", '
        '"max_accuracy_drop".',
        "A number is an int or a float, neither True nor text.",
        'Last: a bottleneck of "time" with a speedup of 1 contradicts itself if anything else is '
        "asked for. If both are 1, nothing is asked, and that is sound.",
    ),
    mistakes=(
        Mistake(
            lambda brief: _checked(brief, _is_no_number, contradicts=False),
            "You read each field by itself. A bottleneck that nothing is asked of contradicts the "
            "rest.",
        ),
        Mistake(
            lambda brief: _checked(
                brief,
                lambda value, low: not isinstance(value, int | float) or value < low,
            ),
            "True is an int to isinstance, and 1 in a sum. As a number of points it is a mistake.",
        ),
        Mistake(
            lambda brief: _checked(brief, _is_no_number, known=(*HARDWARE, brief["hardware"])),
            "You believed any hardware. What is not known cannot be decided for.",
        ),
        Mistake(
            lambda brief: _checked(brief, _is_no_number, least=(1, 1, 1e-9)),
            "Zero points may be lost: that is strict, and sound.",
        ),
        Mistake(
            lambda brief: _checked(brief, _is_no_number, least=(0, 0, 0)),
            "To become half as fast is nothing to ask for: a factor is at least 1.",
        ),
        Mistake(
            lambda brief: _checked(brief, _is_no_number) and "brief",
            "Say *which* field is wrong: whoever wrote the brief has to repair it.",
        ),
    ),
)


# --- 12.4 ---------------------------------------------------------------------------------------


def contradictions(claims: dict[str, tuple[dict[str, set], str]]) -> list[tuple[str, str]]:
    """Pairs that advise differently and that one deployment can meet both conditions of."""
    return [
        (one, other)
        for one, other in combinations(claims, 2)
        if claims[one][1] != claims[other][1] and _can_meet(claims[one][0], claims[other][0])
    ]


def _can_meet(one: dict[str, set], other: dict[str, set]) -> bool:
    return all(one[field] & other[field] for field in one.keys() & other.keys())


CLAIMS = {
    "A": ({"network": {"cnn"}}, "structured"),
    "B": ({"network": {"transformer"}}, "unstructured"),
    "C": ({"hardware": {"cpu", "unknown"}}, "structured"),
}


def _claims_cases() -> list[tuple]:
    always: dict[str, tuple[dict[str, set], str]] = {
        "A": ({}, "structured"),
        "B": ({}, "unstructured"),
    }
    two = {
        "A": ({"network": {"cnn", "mixed"}, "hardware": {"gpu"}}, "unstructured"),
        "B": ({"network": {"mixed"}, "hardware": {"cpu"}}, "structured"),
        "C": ({"network": {"mixed"}, "hardware": {"cpu", "gpu"}}, "structured"),
        "D": ({"network": {"mixed", "transformer"}}, "quantize"),
    }
    return [(CLAIMS,), (always,), (two,), ({},), ({"only": ({}, "quantize")},)]


def _pairs(claims, conflict) -> list[tuple[str, str]]:
    return [
        (one, other)
        for one, other in combinations(claims, 2)
        if conflict(claims[one], claims[other])
    ]


CONTRADICTIONS = Exercise(
    id="12.4",
    title="claims that cannot both be right",
    difficulty=3,
    minutes=10,
    reference=contradictions,
    cases=_claims_cases,
    hints=(
        "itertools.combinations(claims, 2) gives every pair once, in the order of the claims.",
        "Two claims with the same advice never contradict each other.",
        "They can meet if every field that *both* speak of has a value that suits both: the sets "
        "have something in common (`&`). A field that only one speaks of excludes nothing.",
    ),
    mistakes=(
        Mistake(
            lambda claims: _pairs(claims, lambda one, other: one[1] != other[1]),
            "You compared only the advice. Claims about different deployments can both be right.",
        ),
        Mistake(
            lambda claims: _pairs(claims, lambda one, other: _can_meet(one[0], other[0])),
            "These can meet, but some of them advise the same. That is no contradiction.",
        ),
        Mistake(
            lambda claims: _pairs(
                claims,
                lambda one, other: (
                    one[1] != other[1]
                    and one[0].keys() == other[0].keys()
                    and _can_meet(one[0], other[0])
                ),
            ),
            "You compare only claims that speak of the same fields. A claim about networks and one "
            "about hardware meet in a deployment that has both.",
        ),
        Mistake(
            lambda claims: _pairs(
                claims,
                lambda one, other: (
                    one[1] != other[1]
                    and any(
                        one[0][each] & other[0][each] for each in one[0].keys() & other[0].keys()
                    )
                ),
            ),
            "One field in common is not enough: *every* field that both speak of must suit both. "
            "And where they speak of no common field, nothing keeps them apart.",
        ),
        Mistake(
            lambda claims: _pairs(
                claims, lambda one, other: one[1] != other[1] and one[0] == other[0]
            ),
            "You ask for equal conditions. They only have to overlap.",
        ),
        Mistake(
            lambda claims: [
                (one, other)
                for one in claims
                for other in claims
                if one != other
                and claims[one][1] != claims[other][1]
                and _can_meet(claims[one][0], claims[other][0])
            ],
            "Each pair is there twice, in both orders. Once is enough.",
        ),
    ),
)


# --- 12.5 ---------------------------------------------------------------------------------------


def paid_after(training: float, dense: float, small: float) -> int | None:
    """The training over what each picture saves, rounded up."""
    saved = (dense - small) / 1000
    return math.ceil(training / saved) if saved > 0 else None


def _paid_cases() -> list[tuple]:
    return [
        (1.0, 3.0, 1.0),
        (10.0, 3.0, 1.0),
        (1.0, 5.0, 2.0),
        (600.0, 4.0, 0.125),
        (5.0, 1.0, 2.0),
        (5.0, 2.0, 2.0),
        (0.0, 2.0, 1.0),
    ]


PAID_AFTER = Exercise(
    id="12.5",
    title="when has the training paid?",
    difficulty=2,
    minutes=6,
    reference=paid_after,
    cases=_paid_cases,
    hints=(
        "Each picture saves dense - small milliseconds. A second has a thousand of them.",
        "The number of pictures is the time of the training over what one of them saves.",
        "After a part of a picture nothing is paid: math.ceil. And if it saves nothing: None.",
    ),
    mistakes=(
        Mistake(
            lambda training, dense, small: (
                math.ceil(training / (dense - small)) if dense > small else None
            ),
            "The training is in seconds, a picture in milliseconds.",
        ),
        Mistake(
            lambda training, dense, small: math.ceil(1000 * training / small),
            "You count pictures that fit into the training. What pays is what each one *saves*.",
        ),
        Mistake(
            lambda training, dense, small: (
                int(1000 * training / (dense - small)) if dense > small else None
            ),
            "You rounded down: then the last bit is not paid yet.",
        ),
        Mistake(
            lambda training, dense, small: (
                math.ceil(1000 * training / (dense - small)) if dense != small else None
            ),
            "A network that is slower never pays, after no number of pictures. Return None.",
        ),
        Mistake(
            lambda training, dense, small: math.ceil(1000 * training / (dense - small)),
            "Two that are equally fast save nothing, and you divided by it. Return None.",
        ),
        Mistake(
            lambda training, dense, small: (
                math.ceil(1000 * training / (dense / small)) if dense > small else None
            ),
            "A speed-up is a ratio. What a picture saves is a difference of times.",
        ),
        Mistake(
            lambda training, dense, small: (
                int(1000 * training / (dense - small)) + 1 if dense > small else None
            ),
            "Where it comes out even, you counted one picture too many: math.ceil does not.",
        ),
    ),
)

EXERCISES = [TOGETHER, BEST_WITHIN, WRONG_FIELD, CONTRADICTIONS, PAID_AFTER]
