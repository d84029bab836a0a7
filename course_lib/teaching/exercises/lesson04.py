"""The exercises of lesson 04: accuracy lost, accuracy recovered, and what is only noise."""

import math

from course_lib.teaching.exercises.engine import Exercise, Mistake

# --- 04.1 ---------------------------------------------------------------------------------------


def drop_recovery_gap(dense: float, pruned: float, retrained: float) -> tuple[float, float, float]:
    """Points lost by pruning, points regained by retraining, points still lost."""
    return dense - pruned, retrained - pruned, dense - retrained


def _points_cases() -> list[tuple]:
    return [
        (90.0, 30.0, 88.0),
        (90.0, 89.0, 90.5),
        (80.0, 80.0, 80.0),
        (92.5, 10.0, 10.0),
        (75.25, 74.0, 74.5),
    ]


DROP_RECOVERY_GAP = Exercise(
    id="04.1",
    title="drop, recovery and gap",
    difficulty=1,
    minutes=4,
    reference=drop_recovery_gap,
    cases=_points_cases,
    hints=(
        "All three are plain differences of two accuracies; nothing is divided.",
        "The drop is dense minus pruned, and positive when accuracy was lost.",
        "Check yourself: the drop is the recovery plus the gap.",
    ),
    mistakes=(
        Mistake(
            lambda dense, pruned, retrained: tuple(
                100 * points / dense for points in drop_recovery_gap(dense, pruned, retrained)
            ),
            "You divided by the dense accuracy: that is relative percent. From 90 % to 81 % is 9 "
            "points (and 10 percent).",
        ),
        Mistake(
            lambda dense, pruned, retrained: (
                pruned - dense,
                retrained - pruned,
                retrained - dense,
            ),
            "The signs are reversed: a drop and a gap are positive when accuracy was lost.",
        ),
        Mistake(
            lambda dense, pruned, retrained: (
                dense - pruned,
                dense - retrained,
                retrained - pruned,
            ),
            "Recovery and gap are swapped: the recovery is what came back, the gap what is still "
            "lost.",
        ),
        Mistake(
            lambda dense, pruned, retrained: (
                dense - pruned,
                100 * (retrained - pruned) / (dense - pruned),
                dense - retrained,
            ),
            "Your recovery is a share of the drop. Return the points regained: a share has no "
            "meaning where nothing was lost.",
        ),
        Mistake(
            lambda dense, pruned, retrained: (dense - pruned, retrained, dense - retrained),
            "Your recovery is the accuracy afterwards. Subtract the accuracy right after pruning.",
        ),
        Mistake(
            lambda dense, pruned, retrained: (
                dense - pruned,
                retrained - pruned,
                max(0.0, dense - retrained),
            ),
            "You clipped the gap at zero. A retrained network may beat the dense one: then its "
            "gap is negative, and that is a finding.",
        ),
        Mistake(
            lambda dense, pruned, retrained: tuple(
                points / 100 for points in drop_recovery_gap(dense, pruned, retrained)
            ),
            "You return fractions. The accuracies are in percent, so their differences are points.",
        ),
    ),
)


# --- 04.2 ---------------------------------------------------------------------------------------


def rewound_rates(rates: list[float], budget: float) -> list[float]:
    """The last learning rates of the recipe, as many steps as the budget allows."""
    steps = round(budget * len(rates))
    return rates[len(rates) - steps :]


def _rates_cases() -> list[tuple]:
    recipe = [0.02, 0.1, 0.2, 0.19, 0.15, 0.1, 0.05, 0.02, 0.01, 0.001]
    return [
        ([0.1, 0.4, 0.3, 0.2], 0.5),
        ([0.1, 0.4, 0.3, 0.2], 0.25),
        ([0.1, 0.4, 0.3, 0.2], 1.0),
        ([0.1, 0.4, 0.3, 0.2], 0.0),
        (recipe, 0.3),
        (recipe, 0.18),
    ]


def _steps(rates: list[float], budget: float) -> int:
    return round(budget * len(rates))


def _squeezed(rates: list[float], budget: float) -> list[float]:
    steps = _steps(rates, budget)
    return [rates[step * len(rates) // steps] for step in range(steps)]


def _from_the_peak(rates: list[float], budget: float) -> list[float]:
    peak = rates.index(max(rates))
    return rates[peak : peak + _steps(rates, budget)]


REWOUND_RATES = Exercise(
    id="04.2",
    title="rewound learning rates",
    difficulty=2,
    minutes=8,
    reference=rewound_rates,
    cases=_rates_cases,
    hints=(
        "Rewind until exactly the budget is left of the recipe. Which learning rates come after "
        "that point?",
        "How many steps are left? `round(budget * len(rates))`.",
        "The last n entries of a list are `rates[-n:]`, except when n is 0. "
        "`rates[len(rates) - n:]` is right for every n.",
    ),
    mistakes=(
        Mistake(
            lambda rates, budget: rates[: _steps(rates, budget)],
            "That is the beginning of the recipe, with its warm-up. Rewinding repeats the end.",
        ),
        Mistake(
            _squeezed,
            "You squeezed the whole schedule into the budget: warm-up and peak again. Rewinding "
            "keeps the pace of the recipe and repeats its last steps.",
        ),
        Mistake(
            _from_the_peak,
            "You start at the highest rate. Where a rewound schedule starts depends on the "
            "budget: only a large one includes the peak.",
        ),
        Mistake(
            lambda rates, budget: [rates[-1]] * _steps(rates, budget),
            "You stay at the recipe's last rate, which is nearly zero: nothing would be learned.",
        ),
        Mistake(
            lambda rates, budget: (
                [rates[len(rates) - _steps(rates, budget)]] * _steps(rates, budget)
                if _steps(rates, budget)
                else []
            ),
            "You found the right point, but kept its rate. From there on, the recipe's rates fall "
            "to the end.",
        ),
        Mistake(
            lambda rates, budget: rewound_rates(rates, budget)[::-1],
            "The rates are right, but reversed: the rate has to fall, not rise.",
        ),
        Mistake(
            lambda rates, budget: rates[-_steps(rates, budget) :],
            "With no steps left you return the whole recipe: `rates[-0:]` is `rates[0:]`.",
        ),
        Mistake(
            lambda rates, budget: rates[len(rates) - int(budget * len(rates)) :],
            "`int` truncates: 0.18 of 10 steps is 1.8, which `round` makes 2.",
        ),
    ),
)


# --- 04.3 ---------------------------------------------------------------------------------------


def smallest_budget(gaps: dict[float, float], tolerance: float) -> float | None:
    """The smallest budget whose gap is at most the tolerance; None if there is none."""
    enough = [budget for budget, gap in gaps.items() if gap <= tolerance]
    return min(enough, default=None)


def _budget_cases() -> list[tuple]:
    return [
        ({0.1: 3.0, 0.2: 1.5}, 2.0),
        ({0.5: 0.4, 0.2: 1.0, 0.1: 3.0}, 2.0),
        ({0.1: 2.0, 0.2: 1.0}, 2.0),
        ({0.1: 5.0, 0.2: 4.0, 1.0: 3.0}, 2.0),
        ({0.05: -2.5, 0.1: 1.0}, 2.0),
        ({0.05: 2.5, 0.1: 1.9, 0.2: 2.1}, 2.0),
        ({}, 2.0),
    ]


def _enough(gaps: dict[float, float], tolerance: float) -> list[float]:
    return [budget for budget, gap in gaps.items() if gap <= tolerance]


def _and_stays(gaps: dict[float, float], tolerance: float) -> float | None:
    found = None
    for budget in sorted(gaps, reverse=True):
        if gaps[budget] > tolerance:
            break
        found = budget
    return found


SMALLEST_BUDGET = Exercise(
    id="04.3",
    title="the smallest budget that is enough",
    difficulty=2,
    minutes=6,
    reference=smallest_budget,
    cases=_budget_cases,
    hints=(
        "First collect the budgets whose gap is at most the tolerance.",
        "A negative gap means better than dense, so it is within any tolerance.",
        "`min(..., default=None)` is the smallest, or None if there is nothing to choose from.",
    ),
    mistakes=(
        Mistake(
            lambda gaps, tolerance: next(iter(_enough(gaps, tolerance)), None),
            "You took the first that fits. The entries come in any order: take the smallest.",
        ),
        Mistake(
            lambda gaps, tolerance: min(
                (budget for budget, gap in gaps.items() if gap < tolerance), default=None
            ),
            "A gap of exactly the tolerance is within it.",
        ),
        Mistake(
            lambda gaps, tolerance: min(gaps, key=gaps.get, default=None),
            "That is the budget with the smallest gap. A smaller budget may be enough, or none "
            "may be.",
        ),
        Mistake(
            lambda gaps, tolerance: max(_enough(gaps, tolerance), default=None),
            "That is the largest budget that is enough. The question is how little is enough.",
        ),
        Mistake(
            lambda gaps, tolerance: min(_enough(gaps, tolerance), default=max(gaps, default=None)),
            "If no budget is enough, you return the largest one as if it were. Return None.",
        ),
        Mistake(
            lambda gaps, tolerance: min(_enough(gaps, tolerance), default=0.0),
            "If no budget is enough, you return 0, as if no training were needed. Return None.",
        ),
        Mistake(
            lambda gaps, tolerance: min(
                (budget for budget, gap in gaps.items() if abs(gap) <= tolerance), default=None
            ),
            "You took the absolute value. A negative gap means better than dense: that is enough.",
        ),
        Mistake(
            lambda gaps, tolerance: gaps.get(smallest_budget(gaps, tolerance)),
            "You return the gap. Return the budget that reached it.",
        ),
        Mistake(
            _and_stays,
            "You require all larger budgets to be enough, too. With noise a larger one may miss "
            "by a little; return the smallest one that was measured to be enough.",
        ),
    ),
)


# --- 04.4 ---------------------------------------------------------------------------------------


def difference_interval(first: float, second: float, n: int) -> tuple[float, float]:
    """95 % interval of first - second in points; each is an accuracy in percent on n pictures."""
    p, q = first / 100, second / 100
    variance = p * (1 - p) / n + q * (1 - q) / n
    half = 100 * 1.96 * math.sqrt(variance)
    return first - second - half, first - second + half


def _difference_cases() -> list[tuple]:
    return [
        (90.0, 80.0, 100),
        (92.0, 91.0, 10_000),
        (80.0, 90.0, 100),
        (50.0, 50.0, 1000),
        (100.0, 100.0, 50),
        (100.0, 60.0, 10),
    ]


def _around(first: float, second: float, half: float) -> tuple[float, float]:
    return first - second - half, first - second + half


def _half(percent: float, n: int) -> float:
    return 1.96 * math.sqrt(percent * (100 - percent) / n)


DIFFERENCE_INTERVAL = Exercise(
    id="04.4",
    title="the interval of a difference",
    difficulty=3,
    minutes=10,
    reference=difference_interval,
    cases=_difference_cases,
    hints=(
        "The variance of an accuracy p (a fraction) on n pictures is p * (1 - p) / n.",
        "Both accuracies are uncertain. The variance of a difference is the *sum* of the two "
        "variances.",
        "Half the width is 1.96 * sqrt(variance), times 100 to return to points.",
    ),
    mistakes=(
        Mistake(
            lambda first, second, n: _around(first, second, _half(first, n)),
            "Only the first accuracy is uncertain in your answer. The second has a variance, too: "
            "add both.",
        ),
        Mistake(
            lambda first, second, n: _around(first, second, _half(first, n) + _half(second, n)),
            "You added the two half widths. That asks whether the two intervals overlap, which is "
            "too strict: both errors are rarely at their worst at once. Add the variances.",
        ),
        Mistake(
            lambda first, second, n: _around(
                first, second, 1.96 * math.sqrt((first * (1 - first) + second * (1 - second)) / n)
            ),
            "You used percent where p is a fraction, so 1 - p is negative. Divide by 100 first.",
        ),
        Mistake(
            lambda first, second, n: _around(
                first / 100, second / 100, math.hypot(_half(first, n), _half(second, n)) / 100
            ),
            "You return fractions. The answer is in points: multiply by 100.",
        ),
        Mistake(
            lambda first, second, n: _around(
                first, second, math.hypot(_half(first, n), _half(second, n)) / 100
            ),
            "The half width is still a fraction while the difference is in points. Multiply it by "
            "100.",
        ),
        Mistake(
            lambda first, second, n: _around(
                first,
                second,
                1.96 * (first * (100 - first) / n + second * (100 - second) / n) / 100,
            ),
            "You forgot the square root: half the width is 1.96 * sqrt(variance).",
        ),
        Mistake(
            lambda first, second, n: _around(
                first, second, math.hypot(_half(first, n), _half(second, n)) / 1.96
            ),
            "That is one standard error, an interval of about 68 %. For 95 % multiply by 1.96.",
        ),
        Mistake(
            lambda first, second, n: difference_interval(second, first, n),
            "You subtracted the first from the second.",
        ),
        Mistake(
            lambda first, second, n: _around(
                first, second, math.hypot(_half(first, n), _half(second, n)) / math.sqrt(2)
            ),
            "You averaged the variances, or divided by 2n. Each accuracy was measured on n "
            "pictures: the variances add up.",
        ),
    ),
)


# --- 04.5 ---------------------------------------------------------------------------------------


def iterative_sparsities(share: float, rounds: int) -> list[float]:
    """The sparsity after each round; a round keeps the fraction (1 - share) of what was left."""
    return [1 - (1 - share) ** done for done in range(1, rounds + 1)]


def _rounds_cases() -> list[tuple]:
    return [
        (0.5, 2),
        (0.2, 3),
        (0.2, 11),
        (0.3, 1),
        (0.0, 2),
        (1.0, 2),
        (0.5, 0),
    ]


ITERATIVE_SPARSITIES = Exercise(
    id="04.5",
    title="sparsity, round by round",
    difficulty=2,
    minutes=6,
    reference=iterative_sparsities,
    cases=_rounds_cases,
    hints=(
        "Follow what is *left*. It starts at 1.",
        "After one round (1 - share) is left, after two (1 - share) * (1 - share).",
        "The sparsity is 1 minus what is left.",
    ),
    mistakes=(
        Mistake(
            lambda share, rounds: [share * done for done in range(1, rounds + 1)],
            "You removed the share of *all* weights in every round. Each round removes a share of "
            "those that are left.",
        ),
        Mistake(
            lambda share, rounds: [min(1.0, share * done) for done in range(1, rounds + 1)],
            "You removed the share of all weights and stopped at 1. A share below 1 of the "
            "remaining weights never removes the last one.",
        ),
        Mistake(
            lambda share, rounds: [(1 - share) ** done for done in range(1, rounds + 1)],
            "That is the fraction that is left. The sparsity is the fraction that is removed.",
        ),
        Mistake(
            lambda share, rounds: [1 - (1 - share) ** done for done in range(rounds)],
            "Your list starts before the first round. Return the sparsity after each round.",
        ),
        Mistake(
            lambda share, rounds: [share * (1 - share) ** done for done in range(rounds)],
            "That is what each round removes. Return the total removed after each round.",
        ),
        Mistake(
            lambda share, rounds: [share**done for done in range(1, rounds + 1)],
            "You multiplied the fractions removed, so the sparsity falls. Multiply the fractions "
            "kept.",
        ),
        Mistake(
            lambda share, rounds: 1 - (1 - share) ** rounds,
            "That is the sparsity after the last round only. Return a list, one for each round.",
        ),
        Mistake(
            lambda share, rounds: [share] * rounds,
            "The share is the same in every round, but the rounds add up: return the total "
            "removed.",
        ),
    ),
)


EXERCISES = [
    DROP_RECOVERY_GAP,
    REWOUND_RATES,
    SMALLEST_BUDGET,
    DIFFERENCE_INTERVAL,
    ITERATIVE_SPARSITIES,
]
