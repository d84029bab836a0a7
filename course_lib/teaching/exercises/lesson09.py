"""The exercises of lesson 09: shares of weights, pruning by an amount, Amdahl, a decision."""

from itertools import pairwise

from course_lib.teaching.exercises.engine import Exercise, Mistake

# --- 09.1 ---------------------------------------------------------------------------------------


def shares(counts: dict[str, int], parts: dict[str, tuple[str, ...]]) -> dict[str, float]:
    """The share of all weights in each part; a part has the weights that begin with its names."""
    whole = sum(counts.values())
    return {
        part: sum(count for name, count in counts.items() if name.startswith(begins)) / whole
        for part, begins in parts.items()
    }


PARTS = {"convolutions": ("stem", "convolutions"), "attention": ("blocks",)}


def _shares_cases() -> list[tuple]:
    return [
        ({"stem.weight": 1, "blocks.0.fc1.weight": 3}, PARTS),
        ({"stem.weight": 2, "convolutions.0.weight": 4, "head.weight": 2}, PARTS),
        ({"convolutions.0.blocks.weight": 6, "blocks.0.stem.weight": 2}, PARTS),
        ({"head.weight": 5, "blocks.1.fc2.weight": 15}, PARTS),
        ({"a.weight": 10, "b.weight": 30, "c.weight": 60}, {"one": ("a", "c"), "none": ("d",)}),
    ]


def _with_whole(counts, parts, whole, belongs=str.startswith, each=int) -> dict[str, float]:
    """Shares of another ``whole``, or by another rule for what ``belongs`` to a part."""
    return {
        part: sum(each(count) for name, count in counts.items() if belongs(name, begins)) / whole
        for part, begins in parts.items()
    }


def _in_any_part(counts, parts) -> int:
    begins = tuple(begin for part in parts.values() for begin in part)
    return sum(count for name, count in counts.items() if name.startswith(begins))


SHARES = Exercise(
    id="09.1",
    title="whose weights are they?",
    difficulty=1,
    minutes=6,
    reference=shares,
    cases=_shares_cases,
    hints=(
        "name.startswith(begins) also takes a tuple: True if the name begins with any of them.",
        "For each part, add up the counts of the names that begin with one of its prefixes.",
        "Divide by the sum of *all* counts, including those that belong to no part.",
    ),
    mistakes=(
        Mistake(
            lambda counts, parts: _with_whole(
                counts,
                parts,
                sum(counts.values()),
                lambda name, begins: any(b in name for b in begins),
            ),
            "You looked for the word anywhere in the name. A part is what the name *begins* with: "
            "a block may have a stem of its own.",
        ),
        Mistake(
            lambda counts, parts: _with_whole(counts, parts, _in_any_part(counts, parts)),
            "Weights that belong to no part, such as those of the head, are in the whole as well.",
        ),
        Mistake(
            lambda counts, parts: _with_whole(counts, parts, len(counts), each=bool),
            "You counted tensors. Add up how many weights each of them has.",
        ),
        Mistake(
            lambda counts, parts: _with_whole(counts, parts, 1.0),
            "Those are counts. Divide by the number of all weights.",
        ),
        Mistake(
            lambda counts, parts: _with_whole(
                counts, parts, sum(counts.values()), lambda name, begins: name.startswith(begins[0])
            ),
            "A part may have several prefixes, such as the stem and the convolutions after it.",
        ),
        Mistake(
            lambda counts, parts: {
                part: share for part, share in shares(counts, parts).items() if share
            },
            "A part without any weights has the share 0; leave it in.",
        ),
        Mistake(
            lambda counts, parts: _with_whole(counts, parts, sum(counts.values()) / 100),
            "Those are percentages. Return fractions, from 0 to 1.",
        ),
    ),
)


# --- 09.2 ---------------------------------------------------------------------------------------


def left_of_block(
    amount: float, heads: int, per_head: int, neurons: int, per_neuron: int
) -> tuple[int, int]:
    """Heads and neurons that stay: whole heads first, then as many neurons as make up the rest."""
    left = (1 - amount) * (heads * per_head + neurons * per_neuron)
    heads_left = max(1, round((1 - amount) * heads))
    neurons_left = round((left - heads_left * per_head) / per_neuron)
    return heads_left, min(neurons, max(1, neurons_left))


def _block_cases() -> list[tuple]:
    return [
        (0.5, 4, 100, 40, 10),
        (0.75, 4, 9216, 192, 192),
        (0.875, 4, 9216, 192, 192),
        (0.0, 4, 100, 40, 10),
        (0.6, 3, 100, 60, 5),
        (0.45, 3, 100, 60, 5),
        (0.9, 8, 64, 32, 16),
        (0.15, 6, 30, 10, 2),
        (0.8, 2, 50, 90, 1),
        (0.2, 3, 100, 10, 5),
    ]


def _block(amount, heads, per_head, neurons, per_neuron, heads_left, least=1, most=None):
    """The answer for ``heads_left`` heads; neurons make up the difference."""
    left = (1 - amount) * (heads * per_head + neurons * per_neuron)
    found = max(least, round((left - heads_left * per_head) / per_neuron))
    return heads_left, min(neurons if most is None else most, found)


LEFT_OF_BLOCK = Exercise(
    id="09.2",
    title="heads and neurons that stay",
    difficulty=3,
    minutes=12,
    reference=left_of_block,
    cases=_block_cases,
    hints=(
        "Of heads * per_head + neurons * per_neuron weights, (1 - amount) may stay.",
        "Heads first: round((1 - amount) * heads), but at least one.",
        "What these heads leave is for neurons: at least one, and no more than there are.",
    ),
    mistakes=(
        Mistake(
            lambda amount, heads, per_head, neurons, per_neuron: (
                max(1, round((1 - amount) * heads)),
                max(1, round((1 - amount) * neurons)),
            ),
            "You removed the same share of both. Only whole heads can be removed, so this misses "
            "the amount: neurons have to make up the difference.",
        ),
        Mistake(
            lambda amount, heads, per_head, neurons, per_neuron: _block(
                amount, heads, per_head, neurons, per_neuron, round((1 - amount) * heads)
            ),
            "A block without heads has no attention. At least one head stays.",
        ),
        Mistake(
            lambda amount, heads, per_head, neurons, per_neuron: _block(
                amount,
                heads,
                per_head,
                neurons,
                per_neuron,
                max(1, round((1 - amount) * heads)),
                least=0,
            ),
            "At least one neuron stays: a layer cannot be empty.",
        ),
        Mistake(
            lambda amount, heads, per_head, neurons, per_neuron: _block(
                amount,
                heads,
                per_head,
                neurons,
                per_neuron,
                max(1, round((1 - amount) * heads)),
                most=10**9,
            ),
            "You keep more neurons than there are.",
        ),
        Mistake(
            lambda amount, heads, per_head, neurons, per_neuron: _block(
                amount, heads, per_head, neurons, per_neuron, max(1, int((1 - amount) * heads))
            ),
            "You always round the number of heads down. Round it to the nearest: then heads and "
            "neurons lose more nearly the same share.",
        ),
        Mistake(
            lambda amount, heads, per_head, neurons, per_neuron: tuple(
                whole - left
                for whole, left in zip(
                    (heads, neurons),
                    left_of_block(amount, heads, per_head, neurons, per_neuron),
                    strict=True,
                )
            ),
            "Those are removed. Return how many stay.",
        ),
        Mistake(
            lambda amount, heads, per_head, neurons, per_neuron: left_of_block(
                1 - amount, heads, per_head, neurons, per_neuron
            ),
            "`amount` is the share to remove; you kept it.",
        ),
    ),
)


# --- 09.3 ---------------------------------------------------------------------------------------


def ratio_for(widths: list[int], amount: float) -> float:
    """The ratio, in steps of 0.01, that comes nearest to removing ``amount`` of the weights."""

    def gone(ratio: float) -> float:
        inner = [width - round(ratio * width) for width in widths[1:-1]]
        fewer = [widths[0], *inner, widths[-1]]
        return 1 - _weights(fewer) / _weights(widths)

    return min((step / 100 for step in range(100)), key=lambda ratio: abs(gone(ratio) - amount))


def _weights(widths: list[int]) -> int:
    return sum(reads * makes for reads, makes in pairwise(widths))


def _ratio_cases() -> list[tuple]:
    return [
        ([100, 100, 100], 0.5),
        ([1, 100, 100, 1], 0.75),
        ([1, 16, 32, 64, 96], 0.75),
        ([3, 200, 200, 200, 10], 0.5),
        ([96, 192, 96], 0.25),
        ([1, 16, 32, 64, 96], 0.0),
        ([10, 50, 80, 50, 10], 0.875),
        ([100, 3, 100], 0.6),
    ]


def _ratio(widths, amount, fewer, count=_weights) -> float:
    """The nearest ratio if ``fewer(widths, ratio)`` is what is left."""

    def missed(ratio: float) -> float:
        return abs(1 - count(fewer(widths, ratio)) / count(widths) - amount)

    return min((step / 100 for step in range(100)), key=missed)


def _inner(widths: list[int], ratio: float) -> list[int]:
    return [widths[0], *(width - round(ratio * width) for width in widths[1:-1]), widths[-1]]


RATIO_FOR = Exercise(
    id="09.3",
    title="the ratio for an amount of weights",
    difficulty=3,
    minutes=12,
    reference=ratio_for,
    cases=_ratio_cases,
    hints=(
        "In lesson 06 you computed the share of weights that a ratio leaves, with both ends "
        "unchanged.",
        "Write a function for the share that one ratio removes. Try 0, 0.01, ..., 0.99.",
        "min(ratios, key=...) with the distance to `amount` as key takes the first of the nearest.",
    ),
    mistakes=(
        Mistake(
            lambda widths, amount: float(round(amount, 2)),
            "Removing that share of the channels removes more of the weights: a weight is removed "
            "with the channel it makes *and* with the channel it reads.",
        ),
        Mistake(
            lambda widths, amount: round(1 - (1 - amount) ** 0.5, 2),
            "The square holds for layers between two pruned ones. The first and the last layer "
            "lose one side only.",
        ),
        Mistake(
            lambda widths, amount: _ratio(
                widths, amount, lambda widths, ratio: [w - round(ratio * w) for w in widths]
            ),
            "You pruned the ends, too. The input and what attention reads have to stay.",
        ),
        Mistake(
            lambda widths, amount: _ratio(widths, amount, _inner, sum),
            "You counted channels. The amount is a share of the *weights*: products of neighbours.",
        ),
        Mistake(
            lambda widths, amount: _ratio(widths, 1 - amount, _inner),
            "You looked for the share that is *left*. The amount is the share to remove.",
        ),
        Mistake(
            lambda widths, amount: next(
                step / 100
                for step in range(101)
                if step == 100
                or 1 - _weights(_inner(widths, step / 100)) / _weights(widths) >= amount
            ),
            "You took the first ratio that removes enough. The one before may be nearer.",
        ),
        Mistake(
            lambda widths, amount: 1 - ratio_for(widths, amount),
            "That is the share of channels that stays. Return the share to remove.",
        ),
    ),
)


# --- 09.4 ---------------------------------------------------------------------------------------


def factor_needed(share: float, target: float) -> float | None:
    """How many times faster ``share`` of the time must get for ``target`` times overall."""
    left = 1 / target - (1 - share)
    return share / left if left > 0 else None


def _factor_cases() -> list[tuple]:
    return [
        (0.5, 1.0),
        (1.0, 4.0),
        (0.75, 2.0),
        (0.5, 2.0),
        (0.5, 1.6),
        (0.25, 3.0),
        (0.5, 0.8),
    ]


FACTOR_NEEDED = Exercise(
    id="09.4",
    title="how fast would the hardware have to be?",
    difficulty=3,
    minutes=10,
    reference=factor_needed,
    cases=_factor_cases,
    hints=(
        "Let the whole take 1. Afterwards it may take 1 / target. How much of that does the rest "
        "take?",
        "1 / target - (1 - share) is left for the share, which took `share` before.",
        "If nothing is left, or less, no factor is enough: return None.",
    ),
    mistakes=(
        Mistake(
            lambda share, target: float(target),
            "Only a share of the time gets faster. The rest stays, so the share has to gain more "
            "than the target.",
        ),
        Mistake(
            lambda share, target: target / share,
            "Speed-ups and shares do not simply divide. Write down *times*: the rest takes "
            "1 - share, whatever the factor.",
        ),
        Mistake(
            lambda share, target: share / ((1 / target - (1 - share)) or 1e-9),
            "Your factor is negative or huge: if the rest alone takes longer than the whole may, "
            "no factor is enough. Return None.",
        ),
        Mistake(
            lambda share, target: 1 / (1 - share + share / target),
            "That is Amdahl's law in the other direction: the speed-up that a factor of `target` "
            "gives. Here the speed-up of the whole is known.",
        ),
        Mistake(
            lambda share, target: (
                (1 - share) / (1 / target - share) if 1 / target > share else None
            ),
            "You made the other part faster: `share` is what the factor applies to.",
        ),
        Mistake(
            lambda share, target: (
                (1 / target - (1 - share)) / share if 1 / target > 1 - share else None
            ),
            "That is the new time over the old one. A factor is the old time over the new one.",
        ),
        Mistake(
            lambda share, target: share / max(1 / target - (1 - share), 1e-9),
            "You return an enormous number where no factor is enough. Return None.",
        ),
    ),
)


# --- 09.5 ---------------------------------------------------------------------------------------


def decide(measured: dict[str, tuple[float, float, float] | None]) -> str:
    """The fastest format among those whose whole interval is above 1, or "dense"."""
    faster = {
        name: speedup[0]
        for name, speedup in measured.items()
        if speedup is not None and speedup[1] > 1
    }
    return max(faster, key=lambda name: faster[name], default="dense")


def _decide_cases() -> list[tuple]:
    return [
        ({"CSR": (2.0, 1.8, 2.2)},),
        ({"CSR": (0.5, 0.4, 0.6)},),
        ({"CSR": (1.2, 0.9, 1.5)},),
        ({"CSR": (0.9, 0.7, 1.1), "2:4": None},),
        ({"CSR": (1.3, 1.2, 1.4), "2:4": (1.7, 1.5, 1.9)},),
        ({"2:4": None, "CSR": (1.5, 1.1, 2.0)},),
        ({"CSR": (1.0, 1.0, 1.0)},),
        ({"CSR": (2.0, 1.2, 4.0), "COO": (1.8, 1.6, 2.0)},),
        ({"CSR": (3.0, 0.8, 9.0), "BSR": (1.4, 1.3, 1.5), "COO": (1.2, 1.1, 1.6)},),
        ({},),
    ]


def _faster(measured, is_faster, key=lambda speedup: speedup[0], best=max) -> str:
    """The decision by another rule for what ``is_faster``, or by another ``key``."""
    found = {
        name: key(speedup)
        for name, speedup in measured.items()
        if speedup is not None and is_faster(*speedup)
    }
    return best(found, key=found.get, default="dense")


DECIDE = Exercise(
    id="09.5",
    title="convert, or not?",
    difficulty=2,
    minutes=8,
    reference=decide,
    cases=_decide_cases,
    hints=(
        "None means that this machine does not support the format: skip it.",
        "A format is certainly faster if its lower end, the second number, is above 1.",
        'Of these take the one with the highest first number; if there is none, "dense".',
    ),
    mistakes=(
        Mistake(
            lambda measured: _faster(measured, lambda value, low, high: value > 1),
            "The median alone may be luck. Only if the *whole* interval is above 1 is it faster.",
        ),
        Mistake(
            lambda measured: _faster(measured, lambda value, low, high: high > 1),
            "That *may* be faster. Converting always costs something, so it has to be certain.",
        ),
        Mistake(
            lambda measured: _faster(measured, lambda value, low, high: low >= 1),
            "Exactly 1 is as fast as dense. Keep the simpler one.",
        ),
        Mistake(
            lambda measured: _faster(
                measured,
                lambda value, low, high: low > 1,
                best=lambda found, key, default: next(iter(found), default),
            ),
            "You took the first that is faster. A later one may be faster still.",
        ),
        Mistake(
            lambda measured: _faster(
                measured, lambda value, low, high: low > 1, lambda speedup: speedup[2]
            ),
            "You chose by the upper end: the widest interval wins, not the fastest format.",
        ),
        Mistake(
            lambda measured: max(
                (name for name, speedup in measured.items() if speedup),
                key=lambda name: measured[name][0],
                default="dense",
            ),
            "You took the fastest format, even where dense is faster than all of them.",
        ),
        Mistake(
            lambda measured: decide(
                {name: one or (2.0, 2.0, 2.0) for name, one in measured.items()}
            ),
            "You assumed hardware that is not there: None means that the format is not supported.",
        ),
    ),
)

EXERCISES = [SHARES, LEFT_OF_BLOCK, RATIO_FOR, FACTOR_NEEDED, DECIDE]
