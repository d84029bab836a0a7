"""Intervals hold the truth as often as they say, and combine as independent errors do."""

import math

import numpy as np
import pytest
import torch

from course_lib.measuring import estimates
from course_lib.measuring.estimates import Estimate, difference, exact, ratio, widened

N = 2_000


def test_the_paired_interval_holds_the_true_difference_95_times_in_100():
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        easy = random.random(N) < 0.85  # both are right on these
        first = torch.from_numpy(easy | (random.random(N) < 0.4))
        second = torch.from_numpy(easy | (random.random(N) < 0.3))
        found = estimates.paired(first, second)
        assert found.value == pytest.approx(100 * (first.double() - second.double()).mean().item())
        held += found.low <= 100 * 0.15 * 0.1 <= found.high
    assert 0.92 < held / 400 < 0.98


def test_the_same_pictures_give_a_narrower_interval_than_pictures_of_their_own():
    paired, apart = estimates.paired_counts(60, 20, N), estimates.unpaired(92.0, 90.0, N)
    assert paired.value == apart.value == pytest.approx(2.0)
    assert paired.high - paired.low < apart.high - apart.low


def test_only_results_on_the_same_pictures_are_paired():
    with pytest.raises(ValueError, match="got 3 and 2"):
        estimates.paired(torch.ones(3, dtype=torch.bool), torch.ones(2, dtype=torch.bool))


def test_errors_of_a_difference_add_in_quadrature():
    found = difference(Estimate(5.0, 2.0, 9.0), Estimate(1.0, -3.0, 4.0))
    assert found == pytest.approx((4.0, 4.0 - math.hypot(3, 3), 4.0 + math.hypot(4, 4)))
    assert difference(Estimate(5.0, 2.0, 9.0), exact(1.0)) == (4.0, 1.0, 8.0)


def test_a_ratio_turned_around_has_the_interval_turned_around():
    first, second = Estimate(4.0, 2.0, 5.0), Estimate(2.0, 1.9, 2.5)
    there, back = ratio(first, second), ratio(second, first)
    assert there.value == pytest.approx(2.0) and there.low < 2 < there.high
    assert [1 / back.value, 1 / back.high, 1 / back.low] == pytest.approx([*there])
    assert ratio(first, exact(2.0)) == pytest.approx((2.0, 1.0, 2.5))


def test_a_widened_interval_covers_both_errors_around_the_first_value():
    found = widened(Estimate(1.0, 0.7, 1.3), Estimate(9.0, 8.6, 9.4))
    assert found == pytest.approx((1.0, 0.5, 1.5))
    assert widened(Estimate(1.0, 0.7, 1.3), exact(9.0)) == pytest.approx((1.0, 0.7, 1.3))


def test_a_recorded_speedup_has_the_recorded_interval():
    entry = {"speedup": 2.5, "interval": [2.4, 2.7], "median": 1.0}
    assert estimates.recorded_speedup(entry) == (2.5, 2.4, 2.7)
    assert str(Estimate(2.5, 2.4, 2.7)) == "2.50 (2.40 to 2.70)"
