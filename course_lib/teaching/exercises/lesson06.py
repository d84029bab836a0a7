"""The exercises of lesson 06: counting multiplications, and why time does not follow them."""

from itertools import pairwise

from course_lib.teaching.exercises.engine import Exercise, Mistake

# --- 06.1 ---------------------------------------------------------------------------------------


def conv_macs(inputs: int, outputs: int, kernel: int, height: int, width: int) -> int:
    """Every output value is a sum over all inputs and all positions of the kernel."""
    return outputs * height * width * inputs * kernel * kernel


def _macs_cases() -> list[tuple]:
    return [
        (1, 1, 1, 2, 3),
        (2, 3, 1, 1, 1),
        (1, 1, 3, 2, 2),
        (64, 64, 3, 14, 14),
        (256, 128, 3, 14, 7),
        (1, 64, 7, 5, 4),
    ]


CONV_MACS = Exercise(
    id="06.1",
    title="MACs of a convolution",
    difficulty=1,
    minutes=5,
    reference=conv_macs,
    cases=_macs_cases,
    hints=(
        "How many output values are there? One for each output channel and each position.",
        "One output value reads kernel x kernel positions of every input channel.",
        "Multiply the two numbers.",
    ),
    mistakes=(
        Mistake(
            lambda inputs, outputs, kernel, height, width: inputs * outputs * kernel * kernel,
            "That is the number of weights. Each of them is used at every position of the feature "
            "map.",
        ),
        Mistake(
            lambda inputs, outputs, kernel, height, width: (
                inputs * outputs * kernel * height * width
            ),
            "The kernel has two dimensions: kernel x kernel positions.",
        ),
        Mistake(
            lambda inputs, outputs, kernel, height, width: (
                outputs * kernel * kernel * height * width
            ),
            "One output channel reads *all* input channels, not one of them.",
        ),
        Mistake(
            lambda inputs, outputs, kernel, height, width: (
                inputs * kernel * kernel * height * width
            ),
            "That is one output channel. There are more of them.",
        ),
        Mistake(
            lambda inputs, outputs, kernel, height, width: (
                2 * conv_macs(inputs, outputs, kernel, height, width)
            ),
            "Those are operations (FLOPs): a multiplication and an addition each. One MAC is both.",
        ),
        Mistake(
            lambda inputs, outputs, kernel, height, width: (
                (inputs + outputs) * kernel * kernel * height * width
            ),
            "Every output channel meets every input channel: multiply the two, do not add them.",
        ),
    ),
)


# --- 06.2 ---------------------------------------------------------------------------------------


def share_left(channels: list[int], removed: float) -> float:
    """The share of the MACs left when all widths but the first and the last shrink."""
    inner = [count - round(removed * count) for count in channels[1:-1]]
    fewer = [channels[0], *inner, channels[-1]]
    return _products(fewer) / _products(channels)


def _products(channels: list[int]) -> int:
    return sum(reads * makes for reads, makes in pairwise(channels))


def _chain_cases() -> list[tuple]:
    return [
        ([1, 2, 1], 0.5),
        ([4, 4, 4], 0.5),
        ([1, 64, 64, 64, 10], 0.5),
        ([3, 10, 20, 10], 0.3),
        ([8, 8], 0.5),
        ([2, 100, 100, 100, 100, 2], 0.9),
        ([5, 6, 7], 0.0),
    ]


SHARE_LEFT = Exercise(
    id="06.2",
    title="a chain of layers",
    difficulty=2,
    minutes=8,
    reference=share_left,
    cases=_chain_cases,
    hints=(
        "A layer that reads a channels and makes b of them costs a * b.",
        "The first number is the channels of the picture and the last the classes: both stay.",
        "Add up the products of neighbours, once with all channels and once with those left.",
    ),
    mistakes=(
        Mistake(
            lambda channels, removed: 1 - removed,
            "That holds for one layer that loses outputs. Here each inner layer also *reads* "
            "fewer.",
        ),
        Mistake(
            lambda channels, removed: (1 - removed) ** 2,
            "The square holds for layers that lose inputs *and* outputs. The first layer keeps "
            "its inputs and the last one its outputs.",
        ),
        Mistake(
            lambda channels, removed: (
                _products([c - round(removed * c) for c in channels]) / _products(channels)
            ),
            "You pruned the ends, too: the channels of the picture and the classes cannot be "
            "removed.",
        ),
        Mistake(
            lambda channels, removed: (
                sum([channels[0], *(c - round(removed * c) for c in channels[1:-1]), channels[-1]])
                / sum(channels)
            ),
            "You added up channels. A layer costs the *product* of what it reads and makes.",
        ),
        Mistake(
            lambda channels, removed: 1 - share_left(channels, removed),
            "That is the share that is saved; return the share that is left.",
        ),
        Mistake(
            lambda channels, removed: 1 / share_left(channels, removed),
            "That is how many times fewer MACs there are. Return the share that is left, at most "
            "1.",
        ),
        Mistake(
            lambda channels, removed: (
                _products(
                    [channels[0], *(round(removed * c) for c in channels[1:-1]), channels[-1]]
                )
                / _products(channels)
            ),
            "You kept what should be removed: `removed` is the fraction to remove.",
        ),
    ),
)


# --- 06.3 ---------------------------------------------------------------------------------------


def overall_speedup(share: float, factor: float) -> float:
    """The speed-up when ``share`` of the time is divided by ``factor`` (Amdahl's law)."""
    return 1 / (1 - share + share / factor)


def _amdahl_cases() -> list[tuple]:
    return [
        (0.5, 2.0),
        (1.0, 4.0),
        (0.0, 4.0),
        (0.9, 10.0),
        (0.25, 1.0),
        (0.75, 1000.0),
    ]


OVERALL_SPEEDUP = Exercise(
    id="06.3",
    title="Amdahl's law",
    difficulty=2,
    minutes=6,
    reference=overall_speedup,
    cases=_amdahl_cases,
    hints=(
        "Let the whole take 1. How long does the untouched part take? And the other part, now?",
        "The new time is (1 - share) + share / factor.",
        "The speed-up is the old time over the new time.",
    ),
    mistakes=(
        Mistake(
            lambda share, factor: share * factor,
            "A share and a factor do not simply multiply. Add up the new *times* of both parts.",
        ),
        Mistake(
            lambda share, factor: 1 - share + share * factor,
            "You averaged the speed-ups. Average the *times*: share / factor is what the faster "
            "part takes now.",
        ),
        Mistake(
            lambda share, factor: 1 - share + share / factor,
            "That is the new time. The speed-up is the old time, 1, over it.",
        ),
        Mistake(
            lambda share, factor: factor,
            "Only a share of the time gets faster. The rest takes as long as before.",
        ),
        Mistake(
            lambda share, factor: 1 / (share + (1 - share) / factor),
            "You made the *other* part faster.",
        ),
        Mistake(
            lambda share, factor: factor / share if share else 1.0,
            "The smaller the share, the *less* is gained.",
        ),
    ),
)


# --- 06.4 ---------------------------------------------------------------------------------------


def aligned(left: int, multiple: int, whole: int) -> int:
    """The next multiple at or above ``left``, but at most ``whole``, all channels of the layer."""
    return min(-(-left // multiple) * multiple, whole)


def _aligned_cases() -> list[tuple]:
    return [
        (57, 8, 64),
        (56, 8, 64),
        (1, 8, 64),
        (61, 16, 64),
        (9, 8, 10),
        (10, 1, 10),
        (33, 32, 64),
    ]


ALIGNED = Exercise(
    id="06.4",
    title="a number that the hardware likes",
    difficulty=2,
    minutes=5,
    reference=aligned,
    cases=_aligned_cases,
    hints=(
        "Round *up*: the extra channels cost almost no time and keep some accuracy.",
        "Dividing with `//` rounds down. `-(-left // multiple)` rounds up.",
        "A layer cannot keep more channels than it has.",
    ),
    mistakes=(
        Mistake(
            lambda left, multiple, whole: left // multiple * multiple,
            "You rounded down: that removes channels which cost almost no time.",
        ),
        Mistake(
            lambda left, multiple, whole: max(multiple, left // multiple * multiple),
            "You rounded down, except for small layers. Round up.",
        ),
        Mistake(
            lambda left, multiple, whole: -(-left // multiple) * multiple,
            "A layer cannot keep more channels than it has: at most `whole`.",
        ),
        Mistake(
            lambda left, multiple, whole: min(round(left / multiple) * multiple, whole),
            "You rounded to the nearest multiple. Round up.",
        ),
        Mistake(
            lambda left, multiple, whole: min((left // multiple + 1) * multiple, whole),
            "A number that is already a multiple stays as it is.",
        ),
        Mistake(
            lambda left, multiple, whole: min(left + multiple, whole),
            "You added the multiple. Find the next number that is divisible by it.",
        ),
    ),
)


# --- 06.5 ---------------------------------------------------------------------------------------


def fastest(networks: dict[str, tuple[float, float]], floor: float) -> str | None:
    """The network with the fewest milliseconds among those of at least ``floor`` percent."""
    enough = {name: ms for name, (accuracy, ms) in networks.items() if accuracy >= floor}
    return min(enough, key=lambda name: enough[name], default=None)


def _fastest_cases() -> list[tuple]:
    measured = {
        "dense": (93.0, 8.0),
        "half": (92.0, 3.0),
        "quarter": (90.0, 2.0),
        "odd": (92.0, 3.5),
    }
    return [
        ({"a": (90.0, 2.0), "b": (91.0, 1.0)}, 90.0),
        (measured, 91.0),
        (measured, 92.0),
        (measured, 92.5),
        (measured, 0.0),
        (measured, 99.0),
        ({"a": (90.0, 2.0), "b": (10.0, 1.0)}, 5.0),
        ({}, 50.0),
    ]


def _enough(networks: dict, floor: float) -> dict:
    return {name: pair for name, pair in networks.items() if pair[0] >= floor}


FASTEST = Exercise(
    id="06.5",
    title="the fastest that is good enough",
    difficulty=2,
    minutes=6,
    reference=fastest,
    cases=_fastest_cases,
    hints=(
        "First drop the networks that are not accurate enough.",
        "Of the rest, take the one with the fewest milliseconds. Return its name.",
        "`min(names, key=..., default=None)` also covers the case that nothing is left.",
    ),
    mistakes=(
        Mistake(
            lambda networks, floor: min(networks, key=lambda name: networks[name][1], default=None),
            "You took the fastest of all, even if it is not accurate enough.",
        ),
        Mistake(
            lambda networks, floor: max(
                _enough(networks, floor), key=lambda name: networks[name][0], default=None
            ),
            "You took the most accurate one. The floor is a condition; above it only time counts.",
        ),
        Mistake(
            lambda networks, floor: min(
                [name for name, pair in networks.items() if pair[0] > floor],
                key=lambda name: networks[name][1],
                default=None,
            ),
            "A network that just reaches the floor is good enough.",
        ),
        Mistake(
            lambda networks, floor: max(
                _enough(networks, floor), key=lambda name: networks[name][1], default=None
            ),
            "You took the slowest: fewer milliseconds are faster.",
        ),
        Mistake(
            lambda networks, floor: max(
                networks, key=lambda name: networks[name][0] / networks[name][1], default=None
            ),
            "You took the best accuracy per millisecond. That may be far below the floor.",
        ),
        Mistake(
            lambda networks, floor: (
                fastest(networks, floor)
                or max(networks, key=lambda name: networks[name][0], default=None)
            ),
            "If none is accurate enough, return None, not the nearest miss.",
        ),
    ),
)

EXERCISES = [CONV_MACS, SHARE_LEFT, OVERALL_SPEEDUP, ALIGNED, FASTEST]
