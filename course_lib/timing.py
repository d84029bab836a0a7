"""Honest timing: candidates in turns, medians of many."""

import statistics
import time
from collections.abc import Callable, Mapping


def alternate(
    candidates: Mapping[str, Callable[[], object]], rounds: int = 30, warm_up: int = 5
) -> dict[str, float]:
    """Median milliseconds of each candidate, timed in turns: A B A B ...

    Turns, because a machine slows down and speeds up by itself: whatever happens to it happens to
    every candidate. The first ``warm_up`` rounds are not counted. For the CPU: nothing here waits
    for a GPU to finish.

    Raises:
        ValueError: no candidates or fewer than one round.
    """
    if not candidates or rounds < 1:
        raise ValueError(
            f"There is nothing to time: {len(candidates)} candidates, {rounds} rounds."
        )
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(warm_up + rounds):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            if turn >= warm_up:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(taken) for name, taken in times.items()}
