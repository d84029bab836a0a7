"""The exercises of lesson 02: what a channel is worth, and how to check a score."""

import math

import torch
from torch.nn import functional as F

from course_lib.teaching.exercises.engine import Exercise, Mistake


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- 02.1 ---------------------------------------------------------------------------------------


def l1_scores(weight: torch.Tensor) -> torch.Tensor:
    """Sum of the absolute weights of each filter, (out,)."""
    return weight.abs().flatten(1).sum(1)


def _l1_cases() -> list[tuple]:
    return [
        (torch.tensor([[1.0, -2.0], [3.0, 0.5]]),),
        (torch.tensor([[[[2.0]], [[-1.0]]], [[[0.0]], [[4.0]]]]),),
        (torch.tensor([[-1.0, 1.0, 1.0]]),),
        (_random(4, 3, 3, 3),),
        (_random(3, 5, 3, seed=1),),
    ]


L1_SCORES = Exercise(
    id="02.1",
    title="the L1 norm of every channel",
    difficulty=1,
    minutes=5,
    reference=l1_scores,
    cases=_l1_cases,
    hints=(
        "weight[i] is the filter that makes channel i. How large are its weights in total?",
        "`weight.flatten(1)` makes each filter a row, whatever the shape of the rest.",
    ),
    mistakes=(
        Mistake(
            lambda weight: weight.flatten(1).sum(1),
            "Positive and negative weights cancel in your sum. Take their absolute values.",
        ),
        Mistake(
            lambda weight: weight.flatten(1).sum(1).abs(),
            "You take the absolute value of the sum: positive and negative weights have cancelled "
            "by then. Take it of each weight, before the sum.",
        ),
        Mistake(
            lambda weight: weight.flatten(1).norm(dim=1),
            "That is the L2 norm, the root of the sum of squares. L1 sums the absolute values.",
        ),
        Mistake(
            lambda weight: weight.flatten(1).square().sum(1),
            "You sum squares, which lets the large weights count more. L1 sums the absolute "
            "values.",
        ),
        Mistake(
            lambda weight: weight.abs().flatten(1).mean(1),
            "That is the mean. The order within one layer is the same, but a channel that several "
            "layers make needs the sum of all its weights.",
        ),
        Mistake(
            lambda weight: weight.abs().transpose(0, 1).flatten(1).sum(1),
            "You sum over the outputs and get a number for every input. The filter weight[i] makes "
            "channel i: keep the first dimension.",
        ),
        Mistake(
            lambda weight: weight.abs().reshape(*weight.shape[:2], -1).sum(2),
            "You get a number for each pair of output and input. A channel is made by a whole "
            "filter: sum over its inputs as well.",
        ),
        Mistake(
            lambda weight: l1_scores(weight) / l1_scores(weight).max(),
            "You divide by the largest score. L1 is the plain sum.",
        ),
    ),
)


# --- 02.2 ---------------------------------------------------------------------------------------


def channels_to_remove(scores: torch.Tensor, ratio: float, multiple: int) -> list[int]:
    """Positions of the lowest scores; the number of channels that stay is a multiple."""
    count = len(scores)
    stay = max(1, count - round(ratio * count))
    stay = min(count, math.ceil(stay / multiple) * multiple)
    return scores.argsort(stable=True)[: count - stay].tolist()


def _remove_cases() -> list[tuple]:
    return [
        (torch.tensor([3.0, 1.0, 4.0, 2.0]), 0.5, 1),
        (torch.tensor([1.0, 1.0, 1.0, 1.0]), 0.5, 1),
        (torch.tensor([3.0, 1.0, 4.0, 2.0]), 0.95, 1),
        (_random(20).abs(), 0.38, 1),
        (_random(20).abs(), 0.5, 8),
        (_random(6).abs(), 0.5, 8),
    ]


def _order(scores: torch.Tensor) -> torch.Tensor:
    return scores.argsort(stable=True)


def _gone_in_multiples(scores: torch.Tensor, ratio: float, multiple: int) -> list[int]:
    gone = math.ceil(round(ratio * len(scores)) / multiple) * multiple
    return _order(scores)[: min(gone, len(scores) - 1)].tolist()


def _rounded_down(scores: torch.Tensor, ratio: float, multiple: int) -> list[int]:
    stay = max(1, len(scores) - round(ratio * len(scores)))
    stay = max(1, stay // multiple * multiple)
    return _order(scores)[: len(scores) - stay].tolist()


def _below_threshold(scores: torch.Tensor, ratio: float, multiple: int) -> list[int]:
    gone = channels_to_remove(scores, ratio, multiple)
    threshold = scores[gone[-1]] if gone else -math.inf
    return [place for place in _order(scores).tolist() if scores[place] <= threshold]


def _uncapped(scores: torch.Tensor, ratio: float, multiple: int) -> list[int]:
    count = len(scores)
    stay = math.ceil(max(1, count - round(ratio * count)) / multiple) * multiple
    return _order(scores)[: count - stay].tolist()


def _cut_off(scores: torch.Tensor, ratio: float, multiple: int) -> list[int]:
    count = len(scores)
    stay = math.ceil(max(1, count - int(ratio * count)) / multiple) * multiple
    return _order(scores)[: count - min(count, stay)].tolist()


def _may_be_empty(scores: torch.Tensor, ratio: float, multiple: int) -> list[int]:
    count = len(scores)
    stay = math.ceil((count - round(ratio * count)) / multiple) * multiple
    return _order(scores)[: count - min(count, stay)].tolist()


CHANNELS_TO_REMOVE = Exercise(
    id="02.2",
    title="which channels go",
    difficulty=2,
    minutes=7,
    reference=channels_to_remove,
    cases=_remove_cases,
    hints=(
        "First compute how many stay: the number of channels minus `round(ratio * channels)`, at "
        "least 1.",
        "Then round it up: `math.ceil(stay / multiple) * multiple`, but never to more channels "
        "than there are.",
        "`scores.argsort(stable=True)` lists the positions, lowest score first. Take as many as "
        "are to be removed.",
    ),
    mistakes=(
        Mistake(
            lambda scores, ratio, multiple: _order(scores)[
                len(channels_to_remove(scores, ratio, multiple)) :
            ].tolist(),
            "You return the channels that stay. Return those to remove.",
        ),
        Mistake(
            lambda scores, ratio, multiple: scores.argsort(stable=True, descending=True)[
                : len(channels_to_remove(scores, ratio, multiple))
            ].tolist(),
            "You remove the highest scores. Remove the lowest.",
        ),
        Mistake(
            lambda scores, ratio, multiple: channels_to_remove(scores, ratio, 1),
            "You do not use `multiple`. With 20 channels, a ratio of 0.5 and a multiple of 8, 16 "
            "channels stay.",
        ),
        Mistake(
            _gone_in_multiples,
            "The number you remove is a multiple. The number that *stays* has to be one: it is "
            "the width of the new layer.",
        ),
        Mistake(
            _rounded_down,
            "You round the number that stays down, so you remove more channels than requested. "
            "Round up.",
        ),
        Mistake(
            _below_threshold,
            "With equal scores your threshold removes too many: all ties go together. Take "
            "positions from the order.",
        ),
        Mistake(
            _may_be_empty,
            "With a high ratio you remove all channels, which disconnects the network. Keep at "
            "least one.",
        ),
        Mistake(
            _cut_off,
            "`int` truncates: 0.38 of 20 is 7.6, which `round` makes 8.",
        ),
        Mistake(
            _uncapped,
            "With 6 channels and a multiple of 8, more channels would stay than there are. The "
            "number to remove becomes negative, and a negative slice counts from the end.",
        ),
        Mistake(
            lambda scores, ratio, multiple: sorted(channels_to_remove(scores, ratio, multiple)),
            "These are the right channels in the wrong order. Return the lowest score first.",
        ),
    ),
)


# --- 02.3 ---------------------------------------------------------------------------------------


def removal_cost(
    inputs: torch.Tensor,
    make: torch.Tensor,
    shift: torch.Tensor,
    read: torch.Tensor,
    labels: torch.Tensor,
    channel: int,
) -> float:
    """The rise of the mean loss when nothing reads ``channel`` any more."""
    hidden = torch.relu(inputs @ make.T + shift)
    before = F.cross_entropy(hidden @ read.T, labels)
    hidden[:, channel] = 0
    return (F.cross_entropy(hidden @ read.T, labels) - before).item()


def _cost_cases() -> list[tuple]:
    # Two classes, two channels; the second channel has zero weights and is equal to its shift.
    make, shift = torch.tensor([[1.0], [0.0]]), torch.tensor([0.0, 2.0])
    read, labels = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), torch.tensor([0, 1])
    inputs = torch.tensor([[3.0], [1.0]])
    more = _random(12, 3, seed=1), _random(4, 3, seed=2), _random(4, seed=3), _random(3, 4, seed=4)
    answers = torch.tensor([0, 1, 2] * 4)
    small = [
        (inputs.double(), make.double(), shift.double(), read.double(), labels, channel)
        for channel in (0, 1)
    ]
    large = [(*(tensor.double() for tensor in more), answers, channel) for channel in (0, 1, 2)]
    return small + large


def _logits(inputs, make, shift, read) -> torch.Tensor:
    return torch.relu(inputs @ make.T + shift) @ read.T


def _without(tensor: torch.Tensor, dim: int, place: int) -> torch.Tensor:
    return tensor.index_fill(dim, torch.tensor([place]), 0)


def _rise(inputs, make, shift, read, labels, after, measure=F.cross_entropy) -> float:
    return (measure(after, labels) - measure(_logits(inputs, make, shift, read), labels)).item()


def _filter_zeroed(inputs, make, shift, read, labels, channel) -> float:
    after = _logits(inputs, _without(make, 0, channel), shift, read)
    return _rise(inputs, make, shift, read, labels, after)


def _class_zeroed(inputs, make, shift, read, labels, channel) -> float:
    after = _logits(inputs, make, shift, _without(read, 0, channel))
    return _rise(inputs, make, shift, read, labels, after)


def _unread(inputs, make, shift, read, channel) -> torch.Tensor:
    return _logits(inputs, make, shift, _without(read, 1, channel))


def _wrong(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (logits.argmax(1) != labels).double().mean()


def _summed(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, labels, reduction="sum")


REMOVAL_COST = Exercise(
    id="02.3",
    title="what a channel costs",
    difficulty=2,
    minutes=8,
    reference=removal_cost,
    cases=_cost_cases,
    hints=(
        "Compute the loss twice: as it is, and without the channel. The cost is the second minus "
        "the first.",
        "Without the channel, the last layer has nothing to read there: its column of `hidden` is "
        "zero.",
        "`F.cross_entropy(hidden @ read.T, labels)` is the mean loss; `.item()` makes it a float.",
    ),
    mistakes=(
        Mistake(
            _filter_zeroed,
            "You set the filter to zero, but the channel is still read: relu lets its shift "
            "through. Zero what is read, the column of `hidden`.",
        ),
        Mistake(
            _class_zeroed,
            "You zero a class. Row i of `read` computes the logit of class i; column i reads "
            "channel i.",
        ),
        Mistake(
            lambda x, make, shift, read, labels, channel: F.cross_entropy(
                _unread(x, make, shift, read, channel), labels
            ).item(),
            "That is the loss without the channel. The cost is the rise: subtract the loss with "
            "the channel.",
        ),
        Mistake(
            lambda x, make, shift, read, labels, channel: (
                -removal_cost(x, make, shift, read, labels, channel)
            ),
            "The sign is reversed. A cost is positive where the loss rises: after minus before.",
        ),
        Mistake(
            lambda x, make, shift, read, labels, channel: abs(
                removal_cost(x, make, shift, read, labels, channel)
            ),
            "Removing a channel can also help. Then the cost is negative: do not take the "
            "absolute value.",
        ),
        Mistake(
            lambda x, make, shift, read, labels, channel: _rise(
                x, make, shift, read, labels, _unread(x, make, shift, read, channel), _wrong
            ),
            "You measure the error rate. One channel rarely changes a prediction, so most costs "
            "would be zero. The loss also shows smaller changes.",
        ),
        Mistake(
            lambda x, make, shift, read, labels, channel: _rise(
                x, make, shift, read, labels, _unread(x, make, shift, read, channel), _summed
            ),
            "You sum over the pictures, so twice as many pictures give twice the cost. Take the "
            "mean.",
        ),
    ),
)


# --- 02.4 ---------------------------------------------------------------------------------------


def rank_correlation(scores: torch.Tensor, truth: torch.Tensor) -> float:
    """Correlation of the ranks (Spearman); equal values share the mean of their ranks."""

    def ranks(values: torch.Tensor) -> torch.Tensor:
        smaller, equal = values[:, None] > values, values[:, None] == values
        return smaller.double().sum(1) + equal.double().sum(1) / 2

    return torch.corrcoef(torch.stack([ranks(scores), ranks(truth)]))[0, 1].item()


def _rank_cases() -> list[tuple]:
    return [
        (torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 10.0, 100.0])),
        (torch.tensor([3.0, 1.0, 2.0]), torch.tensor([1.0, 3.0, 2.0])),
        (torch.tensor([3.0, 1.0, 2.0, 4.0]), torch.tensor([10.0, 20.0, 30.0, 40.0])),
        (torch.tensor([1.0, 1.0, 2.0]), torch.tensor([2.0, 1.0, 3.0])),
        (_random(9), _random(9, seed=1)),
        (torch.tensor([5.0, 0.0, 0.0, 0.0, 7.0]), torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])),
    ]


def _pearson(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1].item()


def _places(values: torch.Tensor) -> torch.Tensor:
    return values.argsort(stable=True).argsort()


def _shared_ranks(values: torch.Tensor) -> torch.Tensor:
    smaller, equal = values[:, None] > values, values[:, None] == values
    return smaller.double().sum(1) + equal.double().sum(1) / 2 + 0.5


def _short_formula(a: torch.Tensor, b: torch.Tensor) -> float:
    difference, n = _shared_ranks(a) - _shared_ranks(b), len(a)
    return 1 - 6 * difference.square().sum().item() / (n * (n * n - 1))


RANK_CORRELATION = Exercise(
    id="02.4",
    title="rank correlation",
    difficulty=3,
    minutes=8,
    reference=rank_correlation,
    cases=_rank_cases,
    hints=(
        "The rank of a value is the number of smaller values. Replace both lists by their ranks.",
        "`values[:, None] > values` compares every value with every other; the sum of a row "
        "counts the smaller ones. For ties, add half the number of equal ones.",
        "`torch.corrcoef(torch.stack([a, b]))[0, 1]` is the ordinary correlation of a and b.",
    ),
    mistakes=(
        Mistake(
            _pearson,
            "That is the ordinary correlation of the values. A single huge value dominates it. "
            "Correlate the ranks.",
        ),
        Mistake(
            lambda scores, truth: _pearson(scores.argsort(stable=True), truth.argsort(stable=True)),
            "`argsort` gives the positions in sorted order, not the rank of each value. Count how "
            "many values are smaller.",
        ),
        Mistake(
            lambda scores, truth: _pearson(_places(scores), _places(truth)),
            "With equal values your ranks depend on their position. Equal values share a rank.",
        ),
        Mistake(
            _short_formula,
            "The formula with the squared differences holds only without ties. Use the ordinary "
            "correlation of the ranks.",
        ),
        Mistake(
            lambda scores, truth: abs(rank_correlation(scores, truth)),
            "The opposite order must give -1: do not take the absolute value.",
        ),
        Mistake(
            lambda scores, truth: rank_correlation(-scores, truth),
            "One of your lists is ranked from the top and the other from the bottom, so the sign "
            "is reversed.",
        ),
        Mistake(
            lambda scores, truth: F.cosine_similarity(
                _shared_ranks(scores), _shared_ranks(truth), dim=0
            ).item(),
            "You multiply the ranks without subtracting their mean, so that any two orders look "
            "alike. Use the correlation.",
        ),
    ),
)


# --- 02.5 ---------------------------------------------------------------------------------------


def taylor_scores(weight: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """Mean over the batches of |sum of weight * gradient| over what reads each channel, (in,)."""
    return (weight * gradients).sum(1).abs().mean(0)


def _taylor_cases() -> list[tuple]:
    weight = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    return [
        (weight, torch.tensor([[[1.0, 1.0], [1.0, 1.0]]])),
        (weight, torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[-1.0, 0.0], [0.0, -1.0]]])),
        (weight, torch.tensor([[[-1.0, 1.0], [-1.0, 1.0]]])),
        (_random(3, 4), _random(5, 3, 4, seed=1)),
        (_random(4, 4, seed=2), _random(2, 4, 4, seed=3)),
    ]


TAYLOR_SCORES = Exercise(
    id="02.5",
    title="Taylor's estimate",
    difficulty=3,
    minutes=8,
    reference=taylor_scores,
    cases=_taylor_cases,
    hints=(
        "`weight * gradients` has the shape (batches, out, in): the first dimension is broadcast.",
        "Column j reads channel j: sum over the outputs. These weights are removed together, so "
        "their effects on the loss may cancel.",
        "Take the absolute value within each batch, then the mean over the batches.",
    ),
    mistakes=(
        Mistake(
            lambda weight, gradients: (weight * gradients).abs().sum(1).mean(0),
            "You take the absolute value for every weight. All of them are removed at once, and "
            "their effects may cancel: sum first.",
        ),
        Mistake(
            lambda weight, gradients: (weight * gradients.mean(0)).sum(0).abs(),
            "You average the gradients first. In a trained network they cancel over many pictures, "
            "and little is left. Take the absolute value in each batch.",
        ),
        Mistake(
            lambda weight, gradients: (weight * gradients).sum(1).mean(0),
            "Batches in which the loss rises and batches in which it falls cancel in your mean. "
            "Take the absolute value in each batch.",
        ),
        Mistake(
            lambda weight, gradients: gradients.sum(1).abs().mean(0),
            "You use the gradient alone. Setting a weight to zero is a step as long as the "
            "weight: multiply by it.",
        ),
        Mistake(
            lambda weight, gradients: weight.abs().sum(0),
            "You use the weights alone, which is the L1 norm of the readers. The gradient says "
            "how much the loss depends on them.",
        ),
        Mistake(
            lambda weight, gradients: (weight * gradients).sum(2).abs().mean(0),
            "You sum over the inputs, which scores the channels that the layer makes. Column j "
            "reads channel j: sum over the outputs.",
        ),
        Mistake(
            lambda weight, gradients: (weight * gradients).abs().mean(0),
            "You get a score for every weight. A channel is removed with all its weights: return "
            "one number for each column.",
        ),
        Mistake(
            lambda weight, gradients: (weight * gradients).sum(1).square().mean(0),
            "You square instead of taking the absolute value. Molchanov et al. do so, too; here "
            "the score is in nats, like the loss.",
        ),
        Mistake(
            lambda weight, gradients: (weight * gradients).sum(1).abs().sum(0),
            "You sum over the batches, so more batches give higher scores. Take their mean.",
        ),
    ),
)


# --- 02.6 ---------------------------------------------------------------------------------------


def rescaled_filters(
    weight: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, factor: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Filters times ``factor``, and the BatchNorm statistics that leave the function unchanged."""
    return weight * factor[:, None, None, None], mean * factor, var * factor.square()


def _rescale_cases() -> list[tuple]:
    ones = torch.ones(2)
    return [
        (torch.ones(2, 2, 1, 1), ones, ones, torch.tensor([1.0, 10.0])),
        (torch.ones(1, 1, 1, 1), -3 * torch.ones(1), 4 * torch.ones(1), torch.tensor([0.5])),
        (_random(3, 3, 3, 3), _random(3), _random(3, seed=1).abs(), _random(3, seed=2).exp()),
        (_random(4, 2, 3, 3), _random(4), _random(4, seed=1).abs(), _random(4, seed=2).exp()),
    ]


def _scaled(weight: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return weight * factor[:, None, None, None]


RESCALED_FILTERS = Exercise(
    id="02.6",
    title="other filters, the same function",
    difficulty=3,
    minutes=6,
    reference=rescaled_filters,
    cases=_rescale_cases,
    hints=(
        "A filter multiplied by 10 gives outputs multiplied by 10. What happens to their mean and "
        "their variance?",
        "The mean grows with the factor, the variance with its square.",
        "`factor[:, None, None, None]` gives each filter, weight[i], its own factor.",
    ),
    mistakes=(
        Mistake(
            lambda weight, mean, var, factor: (_scaled(weight, factor), mean, var),
            "The BatchNorm still has the statistics of the old outputs, so the function changes. "
            "Scale the mean and the variance as well.",
        ),
        Mistake(
            lambda weight, mean, var, factor: (
                _scaled(weight, factor),
                mean,
                var * factor.square(),
            ),
            "The outputs are larger, and so is their mean: scale the running mean as well.",
        ),
        Mistake(
            lambda weight, mean, var, factor: (_scaled(weight, factor), mean * factor, var),
            "The outputs also vary more: scale the running variance as well.",
        ),
        Mistake(
            lambda weight, mean, var, factor: (
                _scaled(weight, factor),
                mean * factor,
                var * factor,
            ),
            "The standard deviation grows with the factor. BatchNorm keeps its square, the "
            "variance, which grows with the square of the factor.",
        ),
        Mistake(
            lambda weight, mean, var, factor: (
                _scaled(weight, factor),
                mean * factor.square(),
                var * factor.square(),
            ),
            "Only the variance grows with the square. The mean grows with the factor itself.",
        ),
        Mistake(
            lambda weight, mean, var, factor: (
                _scaled(weight, factor),
                mean / factor,
                var / factor.square(),
            ),
            "You scaled the statistics the wrong way. Larger outputs have a larger mean and "
            "variance.",
        ),
        Mistake(
            lambda weight, mean, var, factor: (
                weight * factor[None, :, None, None],
                mean * factor,
                var * factor.square(),
            ),
            "You scale the inputs of the filters. The factor belongs to the channel that the "
            "filter makes, the first dimension.",
        ),
        Mistake(
            lambda weight, mean, var, factor: (
                weight * factor,
                mean * factor,
                var * factor.square(),
            ),
            "Broadcasting aligns the last dimension, the width of the filter. Give the factor the "
            "shape (out, 1, 1, 1).",
        ),
        Mistake(
            lambda weight, mean, var, factor: _scaled(weight, factor),
            "Return three tensors: the filters, the running mean and the running variance.",
        ),
    ),
)


EXERCISES = [
    L1_SCORES,
    CHANNELS_TO_REMOVE,
    REMOVAL_COST,
    RANK_CORRELATION,
    TAYLOR_SCORES,
    RESCALED_FILTERS,
]
