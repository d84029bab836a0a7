"""The exercises of lesson 12: two steps combined, the best within a limit, briefs, and claims."""

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
        "So the step shortened the rest by the factor (1 - fixed) / (1 / first - fixed). The same "
        "holds for the other step.",
        "Divide the rest by both factors, then add `fixed` back. A speed-up is 1 / time.",
    ),
    mistakes=(
        Mistake(
            lambda first, second, fixed: first * second,
            "That is the product of the speed-ups. It would be right if nothing were fixed, but "
            "the fixed part is not shortened at all.",
        ),
        Mistake(
            lambda first, second, fixed: 1 / combined(first, second, fixed),
            "You returned the time that is left. A speed-up is the dense time over it.",
        ),
        Mistake(
            lambda first, second, fixed: 1 / (fixed + (1 - fixed) / (first * second)),
            "The measured speed-ups include the fixed part already, so you counted it twice. Take "
            "it out of each first.",
        ),
        Mistake(
            lambda first, second, fixed: max(first, second),
            "That is the better of the two. Both steps shorten the time.",
        ),
        Mistake(
            lambda first, second, fixed: first + second - 1,
            "You added the gains. The second step shortens what the first one left: factors "
            "multiply.",
        ),
        Mistake(
            lambda first, second, fixed: (
                1 / ((1 / first - fixed) * (1 / second - fixed) / (1 - fixed))
            ),
            "You took the fixed part out and did not add it back. It counts once, at the end.",
        ),
        Mistake(
            lambda first, second, fixed: 1 / (fixed + (1 / first - fixed) * (1 / second - fixed)),
            "Both remainders contain the factor 1 - fixed, so their product has it twice: divide "
            "by it once.",
        ),
    ),
)


# --- 12.2 ---------------------------------------------------------------------------------------


def best_within(networks: dict[str, dict[str, float]], gain: str, max_accuracy_drop: float) -> str:
    """The largest ``gain`` within the limit; of equal ones, that with the smaller drop."""
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
    """The same with another rule for what is ``allowed``, or for what is best."""
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
        "First drop the networks that lose more than `max_accuracy_drop`, then find the largest "
        "gain.",
        "`max(names, key=...)` may rank by a pair: (gain, -drop) prefers the smaller drop.",
        'Nothing left? Then the answer is "dense": `max(..., default="dense")`.',
    ),
    mistakes=(
        Mistake(
            lambda networks, gain, max_accuracy_drop: _ranked(networks, gain, lambda one: True),
            "You ignored the accuracy drop. The largest gain often belongs to a broken network.",
        ),
        Mistake(
            lambda networks, gain, max_accuracy_drop: _ranked(
                networks, gain, lambda one: one["accuracy_drop"] < max_accuracy_drop
            ),
            "A network that loses exactly `max_accuracy_drop` is allowed.",
        ),
        Mistake(
            lambda networks, gain, max_accuracy_drop: _ranked(
                networks, gain, lambda one: abs(one["accuracy_drop"]) <= max_accuracy_drop
            ),
            "A negative drop is a gain in accuracy. Do not take its absolute value.",
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
            "You always rank by speed. `gain` names what to rank by: compression ratio or "
            "speed-up.",
        ),
        Mistake(
            lambda networks, gain, max_accuracy_drop: _ranked(
                networks,
                gain,
                lambda one: one["accuracy_drop"] <= max_accuracy_drop,
                lambda name: networks[name][gain],
            ),
            "Where two networks gain the same, take the one that loses less.",
        ),
        Mistake(
            lambda networks, gain, max_accuracy_drop: _ranked(
                networks, gain, lambda one: one["accuracy_drop"] <= max_accuracy_drop, none=""
            ),
            'If no network is within the limit, the answer is "dense".',
        ),
    ),
)


# --- 12.3 ---------------------------------------------------------------------------------------

HARDWARE = ("cpu", "gpu", "unknown")
TARGETS = ("speedup", "compression_ratio", "max_accuracy_drop")


def wrong_field(brief: dict) -> str | None:
    """The first invalid field, or a bottleneck that the targets contradict; else None."""
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
    """The same with another rule for an invalid number, or with fewer checks."""
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
        'Last: a bottleneck of "time" with a speedup of 1 contradicts a compression ratio above '
        "1, and the other way round. If both are 1, nothing is required, and the brief is valid.",
    ),
    mistakes=(
        Mistake(
            lambda brief: _checked(brief, _is_no_number, contradicts=False),
            "You check each field by itself. A bottleneck without a target contradicts a target "
            "for the other quantity.",
        ),
        Mistake(
            lambda brief: _checked(
                brief,
                lambda value, low: not isinstance(value, int | float) or value < low,
            ),
            "True is an int to isinstance, and 1 in a sum. As a number of points it is invalid.",
        ),
        Mistake(
            lambda brief: _checked(brief, _is_no_number, known=(*HARDWARE, brief["hardware"])),
            "You accepted any hardware. Only the listed kinds are valid.",
        ),
        Mistake(
            lambda brief: _checked(brief, _is_no_number, least=(1, 1, 1e-9)),
            "A limit of zero points is strict, but valid.",
        ),
        Mistake(
            lambda brief: _checked(brief, _is_no_number, least=(0, 0, 0)),
            "A target of half the speed makes no sense: a factor is at least 1.",
        ),
        Mistake(
            lambda brief: _checked(brief, _is_no_number) and "brief",
            "Return *which* field is wrong: the author of the brief has to repair it.",
        ),
    ),
)


# --- 12.4 ---------------------------------------------------------------------------------------


def contradictions(claims: dict[str, tuple[dict[str, set], str]]) -> list[tuple[str, str]]:
    """Pairs with different advice whose conditions a single deployment can meet."""
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
        "Two conditions can be met together if, for every field that *both* mention, their sets "
        "share a value (`&`). A field that only one mentions excludes nothing.",
    ),
    mistakes=(
        Mistake(
            lambda claims: _pairs(claims, lambda one, other: one[1] != other[1]),
            "You compared only the advice. Claims about different deployments can both be right.",
        ),
        Mistake(
            lambda claims: _pairs(claims, lambda one, other: _can_meet(one[0], other[0])),
            "These conditions can be met together, but some of the claims give the same advice. "
            "That is no contradiction.",
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
            "You compare only claims that mention the same fields. A claim about networks and one "
            "about hardware can both apply to one deployment.",
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
            "One shared value is not enough: the sets must overlap in *every* field that both "
            "mention. And if the claims mention no common field, nothing keeps them apart.",
        ),
        Mistake(
            lambda claims: _pairs(
                claims, lambda one, other: one[1] != other[1] and one[0] == other[0]
            ),
            "You require equal conditions. They only have to overlap.",
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
            "Each pair appears twice, in both orders. Once is enough.",
        ),
    ),
)


# --- 12.5 ---------------------------------------------------------------------------------------


def paid_after(training: float, dense: float, small: float) -> int | None:
    """Pictures until the time saved exceeds the training (s); None if nothing is saved."""
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
        "The number of pictures is the time of the training divided by what one of them saves.",
        "Only whole pictures count: math.ceil. If nothing is saved, return None.",
    ),
    mistakes=(
        Mistake(
            lambda training, dense, small: (
                math.ceil(training / (dense - small)) if dense > small else None
            ),
            "The training is in seconds, the time of a picture in milliseconds.",
        ),
        Mistake(
            lambda training, dense, small: math.ceil(1000 * training / small),
            "You counted the pictures that fit into the training. Divide by what each one *saves*.",
        ),
        Mistake(
            lambda training, dense, small: (
                int(1000 * training / (dense - small)) if dense > small else None
            ),
            "You rounded down, so the training is not quite paid off yet.",
        ),
        Mistake(
            lambda training, dense, small: (
                math.ceil(1000 * training / (dense - small)) if dense != small else None
            ),
            "A slower network never pays off, whatever the number of pictures. Return None.",
        ),
        Mistake(
            lambda training, dense, small: math.ceil(1000 * training / (dense - small)),
            "Equally fast networks save nothing, and you divided by that. Return None.",
        ),
        Mistake(
            lambda training, dense, small: (
                math.ceil(1000 * training / (dense / small)) if dense > small else None
            ),
            "A speed-up is a ratio. What a picture saves is a difference of two times.",
        ),
        Mistake(
            lambda training, dense, small: (
                int(1000 * training / (dense - small)) + 1 if dense > small else None
            ),
            "If the division has no remainder, you count one picture too many: use math.ceil.",
        ),
    ),
)

EXERCISES = [TOGETHER, BEST_WITHIN, WRONG_FIELD, CONTRADICTIONS, PAID_AFTER]
