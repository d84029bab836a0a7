"""The exercises of lesson 03: where a channel is stored, and what is removed with it."""

from itertools import pairwise

import torch

from course_lib.teaching.exercises.engine import Exercise, Mistake


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- 03.1 ---------------------------------------------------------------------------------------


def remove_hidden(
    first: torch.Tensor, bias: torch.Tensor, second: torch.Tensor, keep: list[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keep rows of the layer that makes the hidden channels, columns of the one that reads them."""
    return first[keep], bias[keep], second[:, keep]


def _hidden_cases() -> list[tuple]:
    return [
        (_random(3, 2), _random(3), _random(2, 3), [0, 2]),
        (_random(4, 4), _random(4), _random(4, 4), [1, 2]),
        (_random(4, 4), _random(4), _random(4, 4), [3, 0]),
        (_random(1, 2), _random(1), _random(3, 1), [0]),
        (_random(5, 3), _random(5), _random(2, 5), [4]),
    ]


def _zeroed(first: torch.Tensor, bias: torch.Tensor, second: torch.Tensor, keep: list[int]):
    kept = torch.zeros(len(bias))
    kept[keep] = 1
    return first * kept[:, None], bias * kept, second * kept


def _others(bias: torch.Tensor, keep: list[int]) -> list[int]:
    return [channel for channel in range(len(bias)) if channel not in keep]


REMOVE_HIDDEN = Exercise(
    id="03.1",
    title="remove hidden channels",
    difficulty=1,
    minutes=6,
    reference=remove_hidden,
    cases=_hidden_cases,
    hints=(
        "Which dimension of `first` is the hidden one? And of `second`?",
        "`first[keep]` takes rows in the order of the list.",
        "`second[:, keep]` takes columns.",
    ),
    mistakes=(
        Mistake(
            lambda first, bias, second, keep: (first[keep], bias[keep], second),
            "The second layer still reads the removed channels. Remove its columns.",
        ),
        Mistake(
            lambda first, bias, second, keep: (first[keep], bias, second[:, keep]),
            "The bias still has a number for every removed channel.",
        ),
        Mistake(
            lambda first, bias, second, keep: (first[keep], bias[keep], second[keep]),
            "You took rows of the second layer. Its rows are its own outputs; the hidden channels "
            "are its columns.",
        ),
        Mistake(
            lambda first, bias, second, keep: (first[:, keep], bias[keep], second[:, keep]),
            "You took columns of the first layer. Its columns are its inputs; the hidden channels "
            "are its rows.",
        ),
        Mistake(
            _zeroed,
            "You set the removed channels to zero, but the tensors keep their size. Select the "
            "channels that stay instead.",
        ),
        Mistake(
            lambda first, bias, second, keep: remove_hidden(
                first, bias, second, _others(bias, keep)
            ),
            "`keep` lists the channels that stay; you removed them and kept the others.",
        ),
        Mistake(
            lambda first, bias, second, keep: remove_hidden(first, bias, second, sorted(keep)),
            "You sorted the channels. The order of `keep` is the order of the result.",
        ),
        Mistake(
            lambda first, bias, second, keep: remove_hidden(
                first, bias, second, list(range(len(keep)))
            ),
            "You kept the right number of channels, but the first ones rather than those in "
            "`keep`.",
        ),
    ),
)


# --- 03.2 ---------------------------------------------------------------------------------------


def reading_columns(channels: list[int], height: int, width: int) -> list[int]:
    """Flattened, each channel takes ``height * width`` columns, one channel after another."""
    pixels = height * width
    return [channel * pixels + pixel for channel in sorted(channels) for pixel in range(pixels)]


def _columns_cases() -> list[tuple]:
    return [
        ([0], 1, 2),
        ([1], 2, 2),
        ([2, 0], 1, 3),
        ([3], 1, 1),
        ([1, 4], 2, 3),
        ([], 2, 2),
    ]


READING_COLUMNS = Exercise(
    id="03.2",
    title="readers behind a flatten",
    difficulty=2,
    minutes=6,
    reference=reading_columns,
    cases=_columns_cases,
    hints=(
        "In which order does `flatten` put the values of a tensor of shape (channels, height, "
        "width)? The last dimension varies fastest.",
        "One channel fills `height * width` neighbouring columns.",
        "Channel c begins at column `c * height * width`.",
    ),
    mistakes=(
        Mistake(
            lambda channels, height, width: sorted(channels),
            "One column per channel is right before the flatten. After it, every pixel of a "
            "channel has its own column.",
        ),
        Mistake(
            lambda channels, height, width: sorted(
                channel + pixel * (max(channels, default=0) + 1)
                for channel in channels
                for pixel in range(height * width)
            ),
            "You placed the columns as if the channel varied fastest. `flatten` puts one channel "
            "after the other.",
        ),
        Mistake(
            lambda channels, height, width: [
                channel * width + pixel for channel in sorted(channels) for pixel in range(width)
            ],
            "You counted one row of pixels per channel. A channel has height times width.",
        ),
        Mistake(
            lambda channels, height, width: [
                channel * height + pixel for channel in sorted(channels) for pixel in range(height)
            ],
            "You counted one column of pixels per channel. A channel has height times width.",
        ),
        Mistake(
            lambda channels, height, width: [
                channel * height * width + pixel
                for channel in channels
                for pixel in range(height * width)
            ],
            "The columns are right, but not their order: return them ascending, whatever the "
            "order of the channels.",
        ),
        Mistake(
            lambda channels, height, width: [
                channel * height * width for channel in sorted(channels)
            ],
            "You returned only the first column of each channel. All of its pixels are read.",
        ),
    ),
)


# --- 03.3 ---------------------------------------------------------------------------------------


def kept_after_concat(widths: list[int], kept: list[list[int]]) -> list[int]:
    """Each tensor begins where the ones before it end, at their full width."""
    places, start = [], 0
    for width, channels in zip(widths, kept, strict=True):
        places += [start + channel for channel in sorted(channels)]
        start += width
    return places


def _concat_cases() -> list[tuple]:
    return [
        ([2, 2], [[0], [1]]),
        ([3, 2], [[0, 2], [0]]),
        ([1, 1, 1], [[0], [], [0]]),
        ([4, 3, 5], [[3, 1], [2], [4, 0]]),
        ([2], [[1]]),
    ]


def _with_starts(kept: list[list[int]], starts: list[int]) -> list[int]:
    return [
        start + channel
        for start, channels in zip(starts, kept, strict=True)
        for channel in sorted(channels)
    ]


def _sums_before(sizes: list[int]) -> list[int]:
    return [sum(sizes[:index]) for index in range(len(sizes))]


KEPT_AFTER_CONCAT = Exercise(
    id="03.3",
    title="places after a concatenation",
    difficulty=2,
    minutes=6,
    reference=kept_after_concat,
    cases=_concat_cases,
    hints=(
        "Where does the second tensor begin in the concatenated one?",
        "Channel c of a tensor is at c plus the widths of all tensors before it.",
        "Keep a running `start`, and add the full width after each tensor.",
    ),
    mistakes=(
        Mistake(
            lambda widths, kept: _with_starts(kept, [0] * len(kept)),
            "Every tensor begins at 0 in your answer. In the concatenated tensor, each begins "
            "where the one before it ends.",
        ),
        Mistake(
            lambda widths, kept: _with_starts(kept, _sums_before([len(one) for one in kept])),
            "You counted only the kept channels of the tensors before. The places are in the old "
            "tensor, which still has all of them.",
        ),
        Mistake(
            lambda widths, kept: list(range(sum(len(one) for one in kept))),
            "These are the places in the *new* tensor. To cut the layer that reads it, you need "
            "the places in the old one.",
        ),
        Mistake(
            lambda widths, kept: [
                place
                for place in range(sum(widths))
                if place not in kept_after_concat(widths, kept)
            ],
            "These are the places to remove. Return those that stay.",
        ),
        Mistake(
            lambda widths, kept: [
                start + channel
                for start, channels in zip(_sums_before(widths), kept, strict=True)
                for channel in channels
            ],
            "The places are right, but not their order: return them ascending.",
        ),
        Mistake(
            lambda widths, kept: _with_starts(
                kept, [index * widths[0] for index in range(len(widths))]
            ),
            "You took the first width for all tensors. They can differ.",
        ),
    ),
)


# --- 03.4 ---------------------------------------------------------------------------------------


def coupled(count: int, pairs: list[tuple[int, int]]) -> list[list[int]]:
    """Give every channel the smallest one that it is coupled to, until nothing changes."""
    lowest = list(range(count))
    for _ in range(count):
        for a, b in pairs:
            lowest[a] = lowest[b] = min(lowest[a], lowest[b])
    together: dict[int, list[int]] = {}
    for channel in range(count):
        together.setdefault(lowest[channel], []).append(channel)
    return list(together.values())


def _coupled_cases() -> list[tuple]:
    return [
        (2, []),
        (3, [(0, 2)]),
        (3, [(2, 1), (0, 1)]),
        (4, [(2, 3), (0, 1), (1, 2)]),
        (6, [(4, 5), (3, 4), (2, 3), (0, 2)]),
        (5, [(3, 1), (3, 3), (1, 3)]),
    ]


def _one_pass(count: int, pairs: list[tuple[int, int]]) -> list[list[int]]:
    lowest = list(range(count))
    for a, b in pairs:
        lowest[a] = lowest[b] = min(lowest[a], lowest[b])
    return [
        [channel for channel in range(count) if lowest[channel] == root]
        for root in sorted(set(lowest))
    ]


def _neighbours(count: int, pairs: list[tuple[int, int]]) -> list[list[int]]:
    """Each channel with its direct neighbours only."""
    taken: set[int] = set()
    lists = []
    for channel in range(count):
        if channel not in taken:
            near = {channel} | {b for a, b in pairs if a == channel}
            near |= {a for a, b in pairs if b == channel}
            lists.append(sorted(near - taken))
            taken |= near
    return lists


COUPLED = Exercise(
    id="03.4",
    title="which channels go together",
    difficulty=3,
    minutes=10,
    reference=coupled,
    cases=_coupled_cases,
    hints=(
        "If 0 is coupled to 1 and 1 to 2, then 0 is coupled to 2.",
        "Give each channel its own number as a label. For each pair, set both labels to the "
        "smaller of the two.",
        "One pass over the pairs is not enough: repeat until no label changes, then collect the "
        "channels with equal labels.",
    ),
    mistakes=(
        Mistake(
            _one_pass,
            "You went over the pairs once. A later pair can join groups that earlier pairs "
            "formed: repeat until nothing changes.",
        ),
        Mistake(
            _neighbours,
            "You collected direct neighbours only. Coupling is transitive: if 0 is coupled to 1 "
            "and 1 to 2, all three belong together.",
        ),
        Mistake(
            lambda count, pairs: [group for group in coupled(count, pairs) if len(group) > 1],
            "You left out the channels that nothing is coupled to. Each of them is a list by "
            "itself.",
        ),
        Mistake(
            lambda count, pairs: [sorted(set(pair)) for pair in pairs],
            "You returned the pairs. Pairs that share a channel belong in one list.",
        ),
        Mistake(
            lambda count, pairs: [set(group) for group in coupled(count, pairs)],
            "The groups are right, but they are sets, which have no order. Return lists in "
            "ascending order.",
        ),
        Mistake(
            lambda count, pairs: sorted(coupled(count, pairs), key=len, reverse=True),
            "The groups are right, but not their order: order them by their first channel, not by "
            "size.",
        ),
    ),
)


# --- 03.5 ---------------------------------------------------------------------------------------


def cost_left(widths: list[int], ratio: float) -> float:
    """The share of the MACs that is left; the first and the last width do not change."""

    def total(sizes: list[int]) -> int:
        return sum(inputs * outputs for inputs, outputs in pairwise(sizes))

    hidden = [width - round(ratio * width) for width in widths[1:-1]]
    return total([widths[0], *hidden, widths[-1]]) / total(widths)


def _cost_cases() -> list[tuple]:
    return [
        ([2, 4, 2], 0.5),
        ([1, 8, 8, 1], 0.5),
        ([3, 10, 20, 10, 5], 0.3),
        ([4, 4], 0.5),
        ([3, 8, 16, 10], 0.0),
        ([3, 7, 9, 10], 0.25),
    ]


def _chain(widths: list) -> float:
    return sum(inputs * outputs for inputs, outputs in pairwise(widths))


COST_LEFT = Exercise(
    id="03.5",
    title="the cost that is left",
    difficulty=2,
    minutes=8,
    reference=cost_left,
    cases=_cost_cases,
    hints=(
        "First write down the widths after pruning; the first and the last do not change.",
        "A layer between two widths costs their product; add these up, before and after.",
        "`zip(widths, widths[1:])` gives the two widths of each layer.",
    ),
    mistakes=(
        Mistake(
            lambda widths, ratio: (1 - ratio) ** 2,
            "That is the rule of thumb for a long chain. Here the first layer keeps its inputs and "
            "the last its outputs.",
        ),
        Mistake(
            lambda widths, ratio: 1 - ratio,
            "That holds for a layer that only loses outputs. Here the next layer loses inputs as "
            "well.",
        ),
        Mistake(
            lambda widths, ratio: (
                _chain([width - round(ratio * width) for width in widths]) / _chain(widths)
            ),
            "You pruned the picture's channels or the classes too. Only hidden widths shrink.",
        ),
        Mistake(
            lambda widths, ratio: (
                _chain([widths[0], *(w - int(ratio * w) for w in widths[1:-1]), widths[-1]])
                / _chain(widths)
            ),
            "`int` truncates, `round` rounds: a quarter of 7 channels is 1.75, so 2 are removed.",
        ),
        Mistake(
            lambda widths, ratio: (
                _chain([widths[0], *((1 - ratio) * w for w in widths[1:-1]), widths[-1]])
                / _chain(widths)
            ),
            "You kept fractions of channels. Remove `round(ratio * width)` whole ones.",
        ),
        Mistake(
            lambda widths, ratio: 1 - cost_left(widths, ratio),
            "That is the share that is saved. Return the share that is left.",
        ),
        Mistake(
            lambda widths, ratio: cost_left(widths, 1 - ratio),
            "You kept the fraction `ratio`. It is the fraction that is removed.",
        ),
    ),
)


EXERCISES = [REMOVE_HIDDEN, READING_COLUMNS, KEPT_AFTER_CONCAT, COUPLED, COST_LEFT]
