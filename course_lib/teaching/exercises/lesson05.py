"""The exercises of lesson 05: an honest timer, sparse formats by hand, and the roofline."""

import statistics
from collections.abc import Callable
from itertools import pairwise

from course_lib.teaching.exercises.engine import Exercise, Mistake

# --- 05.1 ---------------------------------------------------------------------------------------


class Machine:
    """A simulated machine that becomes ``slower`` times as slow after ``slow_after`` seconds."""

    def __init__(self, slow_after: float, slower: float):
        self.slow_after, self.slower, self.now = slow_after, slower, 0.0

    def __call__(self) -> float:
        """The time on its clock, in seconds."""
        return self.now

    def work(self, seconds: float) -> None:
        """Advance the clock by ``seconds``, times ``slower`` once the machine is slow."""
        self.now += seconds * (self.slower if self.now >= self.slow_after else 1)

    def __eq__(self, other: object) -> bool:  # the same machine, however late it is
        return isinstance(other, Machine)

    def __repr__(self) -> str:
        return f"clock (the machine is {self.slower:g}x slower after {self.slow_after:g} s)"


class SimulatedJob:
    """A job on a :class:`Machine`, of given milliseconds; its first run takes ten times as long."""

    def __init__(self, machine: Machine, *milliseconds: float):
        self.machine, self.milliseconds, self.runs = machine, milliseconds, 0

    def __call__(self) -> None:
        taken = self.milliseconds[self.runs % len(self.milliseconds)]
        self.machine.work(taken / 1000 * (10 if self.runs == 0 else 1))
        self.runs += 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SimulatedJob) and other.milliseconds == self.milliseconds

    def __repr__(self) -> str:
        return f"takes {' or '.join(f'{each:g}' for each in self.milliseconds)} ms"


def median_times(
    candidates: dict[str, Callable], rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Milliseconds of each candidate: the median of rounds in which each has one turn."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(1 + rounds):
        for name, run in candidates.items():
            start = clock()
            run()
            if turn > 0:
                times[name].append(1000 * (clock() - start))
    return {name: statistics.median(taken) for name, taken in times.items()}


def _timer_cases() -> list[tuple]:
    cases = []
    for jobs, rounds, slow_after, slower in (
        ({"a": (2,)}, 1, 99, 1),
        ({"a": (2,), "b": (4,)}, 3, 99, 1),
        ({"a": (2, 2, 2, 2, 9)}, 4, 99, 1),
        ({"a": (2,), "b": (2,)}, 9, 0.06, 3),
        ({"a": (5, 1, 3), "b": (1,), "c": (2, 8)}, 6, 0.2, 2),
    ):
        machine = Machine(slow_after, slower)
        candidates = {name: SimulatedJob(machine, *taken) for name, taken in jobs.items()}
        cases.append((candidates, rounds, machine))
    return cases


def _timed(run: Callable, clock: Callable[[], float]) -> float:
    start = clock()
    run()
    return 1000 * (clock() - start)


def _rounds(candidates: dict, rounds: int, clock: Callable, of: Callable, skip: int = 1) -> dict:
    """Times in turns without the first ``skip``; ``of`` reduces the rest to one number."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(skip + rounds):
        for name, run in candidates.items():
            times[name].append(_timed(run, clock))
    return {name: of(taken[skip:]) for name, taken in times.items()}


def _one_after_the_other(candidates: dict, rounds: int, clock: Callable) -> dict:
    return {
        name: statistics.median([_timed(run, clock) for _ in range(1 + rounds)][1:])
        for name, run in candidates.items()
    }


def _average(taken: list[float]) -> float:
    return sum(taken) / len(taken)


MEDIAN_TIMES = Exercise(
    id="05.1",
    title="an honest timer",
    difficulty=3,
    minutes=12,
    reference=median_times,
    cases=_timer_cases,
    hints=(
        "Two loops: the outer one counts rounds, the inner one gives each candidate its turn.",
        "Read the clock right before and right after `run()`; the difference is in seconds.",
        "Run one round more than `rounds` and discard the times of the first. `statistics.median` "
        "takes a list.",
    ),
    mistakes=(
        Mistake(
            _one_after_the_other,
            "You timed all rounds of one candidate, then all of the next. The machine slowed down "
            "in between, which affected only one of them. Give each its turn in every round.",
        ),
        Mistake(
            lambda candidates, rounds, clock: _rounds(
                candidates, rounds, clock, statistics.median, skip=0
            ),
            "You counted the first run. It loads code and data that later runs find in place.",
        ),
        Mistake(
            lambda candidates, rounds, clock: _rounds(
                candidates, rounds - 1, clock, lambda taken: statistics.median(taken or [0.0])
            ),
            "One round is missing: the uncounted round is in addition to `rounds`.",
        ),
        Mistake(
            lambda candidates, rounds, clock: _rounds(candidates, rounds, clock, _average),
            "You took the average. A single slow round shifts it, but hardly shifts the median.",
        ),
        Mistake(
            lambda candidates, rounds, clock: _rounds(candidates, rounds, clock, min),
            "You took the fastest round. That is the luckiest one, not a typical one.",
        ),
        Mistake(
            lambda candidates, rounds, clock: _rounds(candidates, rounds, clock, sum),
            "You added up all rounds. Return the time of one run: the median.",
        ),
        Mistake(
            lambda candidates, rounds, clock: {
                name: taken / 1000
                for name, taken in median_times(candidates, rounds, clock).items()
            },
            "The clock shows seconds; return milliseconds.",
        ),
    ),
)


# --- 05.2 ---------------------------------------------------------------------------------------


def to_csr(matrix: list[list[float]]) -> tuple[list[float], list[int], list[int]]:
    """Row after row: the values that are not zero, their columns, and where each row begins."""
    values, columns, starts = [], [], [0]
    for row in matrix:
        for column, value in enumerate(row):
            if value != 0:
                values.append(value)
                columns.append(column)
        starts.append(len(values))
    return values, columns, starts


def _csr_cases() -> list[tuple]:
    return [
        ([[5.0, 0.0], [0.0, 7.0]],),
        ([[0.0, 0.0, 3.0], [1.0, 0.0, 2.0]],),
        ([[0.0, 0.0], [4.0, 0.0], [0.0, 0.0]],),
        ([[0.0]],),
        ([[-1.0, 2.0, -3.0]],),
        ([[2.0, 0.0], [2.0, 9.0], [0.0, 6.0], [8.0, 8.0]],),
    ]


def _by_columns(matrix: list[list[float]]) -> tuple[list[float], list[int], list[int]]:
    return to_csr([list(column) for column in zip(*matrix, strict=True)])


def _per_row(starts: list[int]) -> list[int]:
    return [end - start for start, end in pairwise(starts)]


TO_CSR = Exercise(
    id="05.2",
    title="compressed sparse rows",
    difficulty=2,
    minutes=8,
    reference=to_csr,
    cases=_csr_cases,
    hints=(
        "Go through the rows from the top, and through each row from the left.",
        "`starts` begins with 0. After each row append how many values there are so far.",
        "For an empty row, append the same number again: it begins where the next one begins.",
    ),
    mistakes=(
        Mistake(
            lambda matrix: (*to_csr(matrix)[:2], to_csr(matrix)[2][:-1]),
            "The last entry of `starts` is missing: where the last row ends.",
        ),
        Mistake(
            lambda matrix: (*to_csr(matrix)[:2], to_csr(matrix)[2][1:]),
            "`starts` must begin with 0, where the first row begins.",
        ),
        Mistake(
            lambda matrix: (*to_csr(matrix)[:2], _per_row(to_csr(matrix)[2])),
            "You listed how many values each row has. `starts` says where each row *begins*: add "
            "them up from 0.",
        ),
        Mistake(
            _by_columns,
            "You went through the columns. That is CSC; CSR goes row by row.",
        ),
        Mistake(
            lambda matrix: (
                to_csr(matrix)[0],
                [number for number, row in enumerate(matrix) for value in row if value != 0],
                to_csr(matrix)[2],
            ),
            "You noted the row of each value. The rows are known from `starts`; note the column.",
        ),
        Mistake(
            lambda matrix: to_csr([[max(value, 0.0) for value in row] for row in matrix]),
            "You dropped the negative values. Only zeros are left out.",
        ),
        Mistake(
            lambda matrix: (
                [value for row in matrix for value in row],
                [column for row in matrix for column in range(len(row))],
                [len(matrix[0]) * number for number in range(len(matrix) + 1)],
            ),
            "You stored the zeros, too.",
        ),
    ),
)


# --- 05.3 ---------------------------------------------------------------------------------------


def csr_bytes(rows: int, columns: int, nonzeros: int, value_bytes: int, index_bytes: int) -> int:
    """A value and a column for each nonzero, and a start for each row and for the end."""
    return nonzeros * (value_bytes + index_bytes) + (rows + 1) * index_bytes


def _bytes_cases() -> list[tuple]:
    return [
        (2, 2, 1, 4, 4),
        (3, 2, 0, 4, 4),
        (4, 8, 5, 2, 4),
        (1024, 1024, 104_858, 4, 4),
        (512, 4608, 235_930, 2, 2),
        (1, 1, 1, 4, 8),
    ]


CSR_BYTES = Exercise(
    id="05.3",
    title="what CSR stores",
    difficulty=1,
    minutes=4,
    reference=csr_bytes,
    cases=_bytes_cases,
    hints=(
        "Three lists: values, columns, starts. How long is each?",
        "`values` and `columns` have one entry for each nonzero.",
        "`starts` has one entry more than there are rows.",
    ),
    mistakes=(
        Mistake(
            lambda rows, columns, nonzeros, value_bytes, index_bytes: nonzeros * value_bytes,
            "Those are the values alone. Each also needs its column, and each row its start.",
        ),
        Mistake(
            lambda rows, columns, nonzeros, value_bytes, index_bytes: (
                nonzeros * (value_bytes + index_bytes)
            ),
            "The starts of the rows are missing.",
        ),
        Mistake(
            lambda rows, columns, nonzeros, value_bytes, index_bytes: (
                nonzeros * (value_bytes + index_bytes) + rows * index_bytes
            ),
            "One start is missing: the list also says where the last row ends.",
        ),
        Mistake(
            lambda rows, columns, nonzeros, value_bytes, index_bytes: (
                nonzeros * (value_bytes + 2 * index_bytes)
            ),
            "That is COO, with a row and a column for each value. CSR keeps a start for each row "
            "instead.",
        ),
        Mistake(
            lambda rows, columns, nonzeros, value_bytes, index_bytes: (
                nonzeros * (value_bytes + index_bytes) + (columns + 1) * index_bytes
            ),
            "You counted a start for each column; there is one for each row.",
        ),
        Mistake(
            lambda rows, columns, nonzeros, value_bytes, index_bytes: rows * columns * value_bytes,
            "That is the dense matrix.",
        ),
    ),
)


# --- 05.4 ---------------------------------------------------------------------------------------


def least_time(macs: float, moved: float, rate: float, bandwidth: float) -> tuple[float, str]:
    """The slower of the two: doing the arithmetic, or moving the bytes."""
    arithmetic, memory = macs / rate, moved / bandwidth
    return max(arithmetic, memory), "arithmetic" if arithmetic >= memory else "memory"


def _roofline_cases() -> list[tuple]:
    return [
        (10.0, 2.0, 5.0, 4.0),
        (10.0, 20.0, 5.0, 4.0),
        (8.0, 4.0, 4.0, 2.0),
        (1e6, 4e6, 5e10, 1e10),
        (5e8, 8e6, 5e10, 1e10),
        (20.0, 10.0, 5.0, 1.0),
        (0.0, 3.0, 5.0, 4.0),
    ]


def _limit(arithmetic: float, memory: float) -> str:
    return "arithmetic" if arithmetic >= memory else "memory"


LEAST_TIME = Exercise(
    id="05.4",
    title="read a roofline",
    difficulty=2,
    minutes=8,
    reference=least_time,
    cases=_roofline_cases,
    hints=(
        "How long does the arithmetic take at `rate`? How long do the bytes take at `bandwidth`?",
        "Both happen at the same time. Which one finishes last?",
        "Return that time, and which of the two it was.",
    ),
    mistakes=(
        Mistake(
            lambda macs, moved, rate, bandwidth: (
                macs / rate + moved / bandwidth,
                _limit(macs / rate, moved / bandwidth),
            ),
            "You added the two times. The processor loads the next numbers while it calculates: "
            "only the slower of the two counts.",
        ),
        Mistake(
            lambda macs, moved, rate, bandwidth: (
                min(macs / rate, moved / bandwidth),
                _limit(macs / rate, moved / bandwidth),
            ),
            "You took the shorter time. The work is done when *both* are.",
        ),
        Mistake(
            lambda macs, moved, rate, bandwidth: (
                max(macs / rate, moved / bandwidth),
                "memory" if macs / rate >= moved / bandwidth else "arithmetic",
            ),
            "The time is right, but the names are swapped: what takes longer is the limit.",
        ),
        Mistake(
            lambda macs, moved, rate, bandwidth: (
                macs / rate,
                _limit(macs / rate, moved / bandwidth),
            ),
            "You always returned the time of the arithmetic. Where memory is the limit, return "
            "the time of the memory.",
        ),
        Mistake(
            lambda macs, moved, rate, bandwidth: (
                max(macs * rate, moved * bandwidth),
                _limit(macs * rate, moved * bandwidth),
            ),
            "You multiplied. An amount *divided* by a rate is a time.",
        ),
        Mistake(
            lambda macs, moved, rate, bandwidth: (
                max(macs / rate, moved / bandwidth),
                "arithmetic" if macs > moved else "memory",
            ),
            "You compared MACs with bytes. Compare the two times: a machine may do twenty MACs in "
            "the time it takes to move one byte.",
        ),
    ),
)


# --- 05.5 ---------------------------------------------------------------------------------------


def two_four(row: list[float]) -> tuple[list[float], list[int]]:
    """The two largest of every four, in their order, and the place of each within its four."""
    values, places = [], []
    for start in range(0, len(row), 4):
        four = row[start : start + 4]
        largest = sorted(range(4), key=lambda place: (-abs(four[place]), place))[:2]
        for place in sorted(largest):
            values.append(four[place])
            places.append(place)
    return values, places


def _two_four_cases() -> list[tuple]:
    return [
        ([1.0, 4.0, 2.0, 3.0],),
        ([9.0, 1.0, 2.0, 8.0],),
        ([-5.0, 1.0, 2.0, -3.0],),
        ([9.0, 8.0, 7.0, 6.0, 1.0, 2.0, 3.0, 4.0],),
        ([1.0, 1.0, 1.0, 1.0],),
        ([0.0, 0.0, 0.0, 7.0],),
        ([],),
    ]


def _fours(row: list[float], choose: Callable) -> tuple[list[float], list[int]]:
    """Store what ``choose`` picks of each four: places, in the order in which they are stored."""
    values, places = [], []
    for start in range(0, len(row), 4):
        four = row[start : start + 4]
        for place in choose(four):
            values.append(four[place])
            places.append(place)
    return values, places


def _ranked(four: list[float]) -> list[int]:
    return sorted(range(4), key=lambda place: (-abs(four[place]), place))


def _largest_overall(row: list[float]) -> tuple[list[float], list[int]]:
    ranked = sorted(range(len(row)), key=lambda place: (-abs(row[place]), place))
    kept = sorted(ranked[: len(row) // 2])
    return [row[place] for place in kept], [place % 4 for place in kept]


TWO_FOUR = Exercise(
    id="05.5",
    title="2:4 by hand",
    difficulty=3,
    minutes=10,
    reference=two_four,
    cases=_two_four_cases,
    hints=(
        "Cut the row into fours. Each four keeps exactly two, whatever its neighbours contain.",
        "Rank the four places by `abs(value)`, the largest first; of equal ones the earlier place.",
        "Sort the two places that you keep, then store value and place of each.",
    ),
    mistakes=(
        Mistake(
            lambda row: _fours(row, lambda four: _ranked(four)[:2]),
            "You stored the larger value first. Keep the order of the row: the hardware reads "
            "from left to right.",
        ),
        Mistake(
            lambda row: _fours(
                row,
                lambda four: sorted(sorted(range(4), key=lambda place: (-four[place], place))[:2]),
            ),
            "You ranked by the signed value. A large negative weight matters as well: rank by its "
            "magnitude.",
        ),
        Mistake(
            lambda row: _fours(row, lambda four: sorted(_ranked(four)[2:])),
            "You kept the two smallest of every four.",
        ),
        Mistake(
            lambda row: (
                two_four(row)[0],
                [2 * (n // 2) * 2 + place for n, place in enumerate(two_four(row)[1])],
            ),
            "Your places count from the start of the row. Counted from the start of their four, "
            "they are 0 to 3 and fit into two bits.",
        ),
        Mistake(
            _largest_overall,
            "You kept the largest half of the whole row. Every four keeps two: that is what the "
            "hardware relies on.",
        ),
        Mistake(
            lambda row: _fours(row, lambda four: [p for p in range(4) if p in _ranked(four)[:1]]),
            "You kept only one of every four.",
        ),
        Mistake(
            lambda row: (
                [value for place, value in enumerate(row) if place % 4 in (0, 1)],
                [place % 4 for place in range(len(row)) if place % 4 in (0, 1)],
            ),
            "You kept the first two of every four, whatever their values.",
        ),
    ),
)

EXERCISES = [MEDIAN_TIMES, TO_CSR, CSR_BYTES, LEAST_TIME, TWO_FOUR]
