"""The exercises of lesson 10: soft labels, their loss and cost, and comparing two curves."""

import math
import statistics

import torch
from torch.nn import functional as F

from course_lib.experiments.distillation import crossover, remembered_cost
from course_lib.teaching.exercises.engine import Exercise, Mistake

# --- 10.1 ---------------------------------------------------------------------------------------


def softened(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Softmax over the classes of the logits divided by the temperature, (pictures, classes)."""
    return torch.softmax(logits / temperature, dim=1)


def _logits_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.tensor([[2.0, 0.0]]), 2.0),
        (torch.tensor([[2.0, 0.0]]), 1.0),
        (torch.tensor([[1.0, 1.0, 1.0], [3.0, 0.0, -3.0]]), 4.0),
        (torch.tensor([[1000.0, 0.0]]), 1.0),
        (torch.tensor([[4.0, 1.0, 0.0]]), 0.5),
        (3 * torch.randn(4, 10, generator=generator), 4.0),
    ]


SOFTENED = Exercise(
    id="10.1",
    title="softened probabilities",
    difficulty=1,
    minutes=5,
    reference=softened,
    cases=_logits_cases,
    hints=(
        "Divide the logits first; then it is the usual softmax.",
        "A picture is a row: the probabilities of each row add up to 1, so `dim=1`.",
        "`torch.softmax` subtracts the largest logit before it takes exponentials; do not write "
        "the exponentials yourself.",
    ),
    mistakes=(
        Mistake(
            lambda logits, temperature: torch.softmax(logits * temperature, dim=1),
            "You multiplied by the temperature, which sharpens. Divide, and the logits come "
            "closer together.",
        ),
        Mistake(
            lambda logits, temperature: torch.softmax(logits, dim=1) / temperature,
            "You divided the probabilities, and they no longer add up to 1. Divide the logits.",
        ),
        Mistake(
            lambda logits, temperature: torch.softmax(logits / temperature, dim=0),
            "Your columns add up to 1. A picture is a row: dim=1.",
        ),
        Mistake(
            lambda logits, temperature: torch.softmax(logits, dim=1),
            "You left the temperature out.",
        ),
        Mistake(
            lambda logits, temperature: torch.log_softmax(logits / temperature, dim=1),
            "Those are logarithms of the probabilities.",
        ),
        Mistake(
            lambda logits, temperature: (
                torch.exp(logits / temperature)
                / torch.exp(logits / temperature).sum(1, keepdim=True)
            ),
            "exp(1000) is more than a float can hold. Subtract the largest logit of the row first, "
            "or use torch.softmax, which does.",
        ),
        Mistake(
            lambda logits, temperature: torch.softmax(logits, dim=1) ** (1 / temperature),
            "The right proportions, but they do not add up to 1: divide each row by its sum.",
        ),
    ),
)


# --- 10.2 ---------------------------------------------------------------------------------------


def distillation_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor,
    temperature: float,
    share: float,
) -> torch.Tensor:
    """Divergence from the softened teacher and cross-entropy with the labels, a scalar."""
    goal = F.log_softmax(teacher / temperature, dim=1)
    found = F.log_softmax(student / temperature, dim=1)
    apart = (goal.exp() * (goal - found)).sum(1).mean()
    return share * temperature**2 * apart + (1 - share) * F.cross_entropy(student, labels)


def _loss_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = 3 * torch.randn(2, 5, 10, generator=generator)
    labels = torch.tensor([3, 0, 9, 9, 1])
    one = torch.tensor([[2.0, 0.0, -1.0]])
    return [
        (one, torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([1]), 2.0, 1.0),
        (one, one, torch.tensor([0]), 4.0, 0.5),
        (student, teacher, labels, 4.0, 0.0),
        (student, teacher, labels, 1.0, 0.9),
        (student, teacher, labels, 4.0, 0.9),
    ]


def _mixed(apart, labels_part, temperature: float, share: float) -> torch.Tensor:
    return share * temperature**2 * apart + (1 - share) * labels_part


def _divergence(of: torch.Tensor, goal: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean KL divergence of the logits ``of`` from the logits ``goal``, both softened."""
    probabilities = F.log_softmax(goal / temperature, dim=1)
    found = F.log_softmax(of / temperature, dim=1)
    return F.kl_div(found, probabilities, reduction="batchmean", log_target=True)


DISTILLATION_LOSS = Exercise(
    id="10.2",
    title="the loss of distillation",
    difficulty=3,
    minutes=12,
    reference=distillation_loss,
    cases=_loss_cases,
    hints=(
        "Soften both with the temperature. Their divergence is the sum over the classes of p * "
        "(log p - log q), with p the teacher's and q the student's probabilities; take the mean "
        "over the pictures.",
        "`F.kl_div(log_q, log_p, reduction='batchmean', log_target=True)` computes exactly that.",
        "share * temperature ** 2 * divergence + (1 - share) * F.cross_entropy(student, labels): "
        "the labels are compared with the plain student, not the softened one.",
    ),
    mistakes=(
        Mistake(
            lambda student, teacher, labels, temperature, share: (
                share * _divergence(student, teacher, temperature)
                + (1 - share) * F.cross_entropy(student, labels)
            ),
            "The square of the temperature is missing. Softening divides the teacher's gradients "
            "by about that much, and those of the labels would dominate.",
        ),
        Mistake(
            lambda student, teacher, labels, temperature, share: _mixed(
                _divergence(student, teacher, temperature) / temperature,
                F.cross_entropy(student, labels),
                temperature,
                share,
            ),
            "Multiply by the *square* of the temperature: the logits are divided by it, and so are "
            "the differences of the softened probabilities.",
        ),
        Mistake(
            lambda student, teacher, labels, temperature, share: _mixed(
                _divergence(teacher, student, temperature),
                F.cross_entropy(student, labels),
                temperature,
                share,
            ),
            "Student and teacher are swapped: the teacher's probabilities weight the sum. "
            "(F.kl_div takes the one to be trained first.)",
        ),
        Mistake(
            lambda student, teacher, labels, temperature, share: _mixed(
                _divergence(student, teacher, temperature) / student.shape[1],
                F.cross_entropy(student, labels),
                temperature,
                share,
            ),
            "You divided by the number of classes as well. Add up over the classes, and take the "
            "mean over the pictures: reduction='batchmean'.",
        ),
        Mistake(
            lambda student, teacher, labels, temperature, share: (
                (1 - share) * temperature**2 * _divergence(student, teacher, temperature)
                + share * F.cross_entropy(student, labels)
            ),
            "The shares are swapped: `share` belongs to the teacher.",
        ),
        Mistake(
            lambda student, teacher, labels, temperature, share: _mixed(
                _divergence(student, teacher, temperature),
                F.cross_entropy(student / temperature, labels),
                temperature,
                share,
            ),
            "You softened the student for the labels, too. Compare them with its plain logits, "
            "which are what counts when it is used.",
        ),
        Mistake(
            lambda student, teacher, labels, temperature, share: _mixed(
                _divergence(student, temperature * teacher, temperature),
                F.cross_entropy(student, labels),
                temperature,
                share,
            ),
            "You softened the student but not the teacher: they can never agree.",
        ),
        Mistake(
            lambda student, teacher, labels, temperature, share: _mixed(
                F.cross_entropy(student / temperature, softened(teacher, temperature)),
                F.cross_entropy(student, labels),
                temperature,
                share,
            ),
            "That is the cross-entropy with the teacher. Its gradients are right, but it is not "
            "zero when the two agree: subtract the teacher's own entropy.",
        ),
    ),
)


# --- 10.3 ---------------------------------------------------------------------------------------


def epochs_in_time(budget: float, epochs: float, cost: float) -> float:
    """Epochs that fit into ``budget`` of the time if each takes ``cost`` times as long."""
    return budget * epochs / cost


def _time_cases() -> list[tuple]:
    return [
        (0.5, 12.0, 3.0),
        (1.0, 12.0, 1.0),
        (0.0, 12.0, 3.0),
        (0.05, 12.0, 2.5),
        (1.0, 3.0, 4.0),
    ]


EPOCHS_IN_TIME = Exercise(
    id="10.3",
    title="epochs that equal time buys",
    difficulty=1,
    minutes=4,
    reference=epochs_in_time,
    cases=_time_cases,
    hints=(
        "Without a teacher there is time for `budget * epochs` epochs.",
        "With a teacher an epoch takes `cost` times as long. How many fit into the same time?",
    ),
    mistakes=(
        Mistake(
            lambda budget, epochs, cost: budget * epochs * cost,
            "You gave the distilled student more epochs. Each takes longer, so fewer fit.",
        ),
        Mistake(
            lambda budget, epochs, cost: budget * epochs,
            "Those are equal epochs, not equal time. Each takes `cost` times as long.",
        ),
        Mistake(
            lambda budget, epochs, cost: epochs / cost,
            "You left out the budget: the share of the time that is available.",
        ),
        Mistake(
            lambda budget, epochs, cost: budget * epochs / (1 + cost),
            "`cost` is the time of the whole step, including the student's own part: do not add 1.",
        ),
        Mistake(
            lambda budget, epochs, cost: float(int(budget * epochs / cost)),
            "You dropped the fraction of an epoch. Training may stop in the middle of one.",
        ),
        Mistake(
            lambda budget, epochs, cost: budget / cost,
            "That is a share. How many of the `epochs` is it?",
        ),
    ),
)


# --- 10.4 ---------------------------------------------------------------------------------------


def mean_interval(values: list[float], t: float) -> tuple[float, float, float] | None:
    """The mean and ``t`` standard errors to either side; None for a single value."""
    if len(values) < 2:
        return None
    mean = statistics.fmean(values)
    half = t * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def _values_cases() -> list[tuple]:
    return [
        ([90.0, 92.0], 12.71),
        ([1.0, 1.0, 1.0], 4.3),
        ([-0.5, 0.25, 1.0], 4.3),
        ([91.5], 12.71),
        ([90.1, 90.9, 91.3, 89.7, 90.4], 2.78),
    ]


def _around(mean: float, half: float) -> tuple[float, float, float]:
    return mean, mean - half, mean + half


def _unless_single(answer):
    """``answer`` for several values and None for one, so that it is wrong for several only."""
    return lambda values, t: answer(values, t) if len(values) > 1 else None


MEAN_INTERVAL = Exercise(
    id="10.4",
    title="few seeds: a mean and its interval",
    difficulty=2,
    minutes=8,
    reference=mean_interval,
    cases=_values_cases,
    hints=(
        "The standard deviation of a sample divides by n - 1: `statistics.stdev`.",
        "A mean of n values varies less than one value: divide the deviation by the square root "
        "of n.",
        "Go `t` of those to either side. A single value has no deviation: return None.",
    ),
    mistakes=(
        Mistake(
            _unless_single(
                lambda values, t: _around(
                    statistics.fmean(values), 1.96 * statistics.stdev(values) / len(values) ** 0.5
                )
            ),
            "1.96 is for many values. The deviation of a few is itself an estimate, and `t` "
            "allows for that.",
        ),
        Mistake(
            _unless_single(
                lambda values, t: _around(
                    statistics.fmean(values), t * statistics.pstdev(values) / len(values) ** 0.5
                )
            ),
            "You divided the squares by n. A few values are closer to their own mean than to the "
            "true one: divide by n - 1 (`statistics.stdev`; with NumPy `ddof=1`).",
        ),
        Mistake(
            _unless_single(
                lambda values, t: _around(statistics.fmean(values), t * statistics.stdev(values))
            ),
            "That is the range of single values. A mean varies less: divide by the square root of "
            "n.",
        ),
        Mistake(
            _unless_single(
                lambda values, t: _around(
                    statistics.fmean(values), t * statistics.stdev(values) / len(values)
                )
            ),
            "Divide by the *square root* of n: four times the seeds halve the interval.",
        ),
        Mistake(
            _unless_single(lambda values, t: (statistics.fmean(values), min(values), max(values))),
            "The lowest and the highest value are not an interval of the mean: with more seeds "
            "they move apart, while the interval narrows.",
        ),
        Mistake(
            lambda values, t: _around(
                statistics.fmean(values),
                t * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0,
            ),
            "You gave a single value an interval of width zero, as if it were certain. It says "
            "nothing about its spread: return None.",
        ),
        Mistake(
            lambda values, t: _around(
                statistics.fmean(values), t * statistics.stdev(values) / len(values) ** 0.5
            ),
            "A single value has no standard deviation: return None for it.",
        ),
    ),
)


# --- 10.5 ---------------------------------------------------------------------------------------


def _curves_cases() -> list[tuple]:
    second = {0.01: 70.0, 0.05: 80.0, 0.2: 88.0, 1.0: 91.0}
    return [
        ({0.1: 80.0, 1.0: 92.0}, {0.1: 85.0, 1.0: 90.0}),
        (dict.fromkeys(second, 0.0), second),
        (second, second),
        ({0.01: 75.0, 0.05: 79.0, 0.2: 89.0, 1.0: 92.0}, second),
        ({1.0: 90.0, 0.2: 89.0, 0.05: 81.0, 0.01: 71.0}, second),
        ({1.0: 92.0, 0.05: 80.0, 0.2: 89.0, 0.01: 60.0}, second),
    ]


def _better(first: dict, second: dict) -> list[float]:
    return sorted(budget for budget in first if first[budget] >= second[budget])


def _onwards(first: dict, second: dict, order: list[float], least: float = 0.0) -> float | None:
    """The first budget of ``order`` from which on the advantage is at least ``least``."""
    for place, budget in enumerate(order):
        if all(first[later] - second[later] >= least for later in order[place:]):
            return budget
    return None


CROSSOVER = Exercise(
    id="10.5",
    title="from when on is it better?",
    difficulty=2,
    minutes=8,
    reference=crossover,
    cases=_curves_cases,
    hints=(
        '"From when on" means at this budget and at every larger one.',
        "Go through the budgets from the largest to the smallest, and stop at the first at which "
        "`first` is worse.",
        "A dictionary keeps the order in which it was filled: use `sorted`. Return None if "
        "`first` is worse even at the largest budget.",
    ),
    mistakes=(
        Mistake(
            lambda first, second: min(_better(first, second), default=None),
            "That is the first budget at which `first` is as good. It may fall behind again.",
        ),
        Mistake(
            lambda first, second: _onwards(first, second, sorted(first), least=1e-9),
            "Equal is enough: at least as good, not better.",
        ),
        Mistake(
            lambda first, second: _onwards(first, second, list(first)),
            "You took the budgets in the order of the dictionary. Sort them.",
        ),
        Mistake(
            lambda first, second: max(_better(first, second), default=None),
            "That is the largest budget at which it is as good. Return the smallest from which it "
            "stays so.",
        ),
        Mistake(
            lambda first, second: crossover(second, first),
            "That is the budget from which `second` is at least as good.",
        ),
        Mistake(
            lambda first, second: (
                None if crossover(first, second) is None else first[crossover(first, second)]
            ),
            "That is the accuracy there. Return the budget.",
        ),
    ),
)


# --- 10.6 ---------------------------------------------------------------------------------------


def _remembered_cases() -> list[tuple]:
    return [
        (3.0, 10.0, 1, 1),
        (3.0, 10.0, 10, 1),
        (3.0, 10.0, 50, 1),
        (3.0, 10.0, 50, 10),
        (1.0, 12.0, 1, 1),
        (2.5, 3.0, 1, 4),
    ]


REMEMBERED_COST = Exercise(
    id="10.6",
    title="a teacher that is remembered",
    difficulty=3,
    minutes=8,
    reference=remembered_cost,
    cases=_remembered_cases,
    hints=(
        "Let an epoch of the student take 1. Then the teacher's part of an epoch is `cost - 1`.",
        "Run once for each version of every picture, the teacher takes (cost - 1) * versions in "
        "total.",
        "That is shared by `students` trainings of `epochs` epochs. Add the student's own 1.",
    ),
    mistakes=(
        Mistake(
            lambda cost, epochs, versions, students: 1 + cost * versions / (epochs * students),
            "`cost` includes the student's own step. The teacher's part is cost - 1.",
        ),
        Mistake(
            lambda cost, epochs, versions, students: (cost - 1) * versions / (epochs * students),
            "The student has to train, too: add 1, however many students share the teacher.",
        ),
        Mistake(
            lambda cost, epochs, versions, students: 1 + (cost - 1) * versions / students,
            "The stored logits serve in every epoch: divide by the number of epochs.",
        ),
        Mistake(
            lambda cost, epochs, versions, students: 1 + (cost - 1) * versions / epochs,
            "All students look up the same logits: they share the cost of computing them.",
        ),
        Mistake(
            lambda cost, epochs, versions, students: 1 + (cost - 1) / (epochs * students),
            "The teacher has to be run on every version of a picture.",
        ),
        Mistake(
            lambda cost, epochs, versions, students: min(
                cost, remembered_cost(cost, epochs, versions, students)
            ),
            "You clipped the result at `cost`. With more versions than epochs, storing the logits "
            "takes longer than computing them each time, and the result should show it.",
        ),
    ),
)

EXERCISES = [
    SOFTENED,
    DISTILLATION_LOSS,
    EPOCHS_IN_TIME,
    MEAN_INTERVAL,
    CROSSOVER,
    REMEMBERED_COST,
]
