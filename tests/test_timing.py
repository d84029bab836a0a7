"""Candidates are timed in turns, and medians ignore what disturbs a single round."""

import time

import pytest

from course_lib.timing import alternate


def test_candidates_take_turns_and_the_warm_up_is_not_counted():
    turns = []
    times = alternate(
        {"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, rounds=3, warm_up=2
    )
    assert turns == ["a", "b"] * 5
    assert set(times) == {"a", "b"}


def test_times_are_milliseconds_and_a_single_slow_round_does_not_count():
    naps = iter([0.2] + [0.01] * 10)
    times = alternate({"nap": lambda: time.sleep(next(naps))}, rounds=11, warm_up=0)
    assert 10 <= times["nap"] < 100


@pytest.mark.parametrize(("candidates", "rounds"), [({}, 3), ({"a": print}, 0)], ids=str)
def test_nothing_to_time_is_refused(candidates, rounds):
    with pytest.raises(ValueError, match="nothing to time"):
        alternate(candidates, rounds)
