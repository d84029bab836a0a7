"""Honest timing: candidates in turns, on data that is not all zero, and ratios with an interval.

Lesson 05 builds the core of it. What it guards against: a machine that slows down while the second
candidate runs, a GPU that has only *begun* when the clock is read, a cache that still holds the
data of the last run, zeros (a GPU multiplies them with less power, and so faster), one lucky run, a
neighbour that takes the processor away.
"""

import gc
import math
import os
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Annotated, NamedTuple, TypedDict

import torch
from torch import nn

from course_lib.bars import say
from course_lib.measuring.machine import machine_facts

#: With fewer rounds than this no 95 % interval of a median exists (Conover, 1999, section 3.2).
LEAST_ROUNDS = 6

#: A sample on the CPU lasts at least this long, in milliseconds: a short call is repeated.
SHORTEST_SAMPLE = 0.2

#: A candidate is warmed up once its latest runs are faster by no more than this fraction.
STABLE_WITHIN = 0.05

#: A machine is disturbed if, in half of the rounds, two runs of the same work differed by this
#: fraction, or if this fraction of the time was spent waiting for a processor.
DISTURBED = 0.15
WAITED = 0.1

#: Runs of a candidate that come before the rounds: two or three of the warm-up.
BEFORE = 3

#: What to do about disturbed times.
CLOSE = "Close what else keeps this machine busy and measure again; do not believe these times."

Run = Callable[..., object]

#: Runs a candidate and returns the milliseconds that it took.
Sample = Callable[[], float]

#: Candidates and their second turn, :data:`AGAIN`.
Turn = str | object


class Timing(NamedTuple):
    """How long a candidate took, in ``milliseconds``, in each round; once, if it is too slow."""

    milliseconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Milliseconds; half of the rounds were faster."""
        return statistics.median(self.milliseconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """A quarter of the rounds was faster than the first, a quarter slower than the second."""
        if len(self.milliseconds) == 1:
            return self.milliseconds * 2
        low, _, high = statistics.quantiles(self.milliseconds, n=4, method="inclusive")
        return low, high


class Speedup(NamedTuple):
    """A ratio of two times and its 95 % interval; above 1 is faster.

    The ends of the interval are NaN where one of the two was so slow that it was run once.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.value:.2g}x (run once: too slow here for an interval)"
        return f"{self.value:.2f}x ({self.low:.2f} to {self.high:.2f})"


class Comparison(NamedTuple):
    """The ``timings`` of all candidates, and ``where``: machine, clock, threads, versions.

    ``repeats`` holds a ratio for each round: how long the quickest candidate took when its turn
    came again, over the first time. On a quiet machine all of them are close to one. ``waited`` is
    how long threads were ready but had no processor, over the time of all rounds.
    """

    timings: dict[str, Timing]
    where: dict[str, str]
    repeats: tuple[float, ...] = ()
    waited: float = 0.0

    @property
    def disturbance(self) -> str | None:
        """Why the times cannot be trusted: other work keeps the machine busy. None if not."""
        differs = statistics.median([max(each, 1 / each) - 1 for each in self.repeats or [1.0]])
        signs = []
        if differs > DISTURBED:
            signs.append(f"two runs of the same work differed by {differs:.0%}")
        if self.waited > WAITED:
            signs.append(f"threads waited for a processor {min(self.waited, 1):.0%} of the time")
        return f"Disturbed: {' and '.join(signs)}. {CLOSE}" if signs else None

    def speedup(self, name: str, over: str) -> Speedup:
        """How many times faster ``name`` is than ``over``: the median over the rounds."""
        slow, fast = self.timings[over], self.timings[name]
        if min(len(slow.milliseconds), len(fast.milliseconds)) < LEAST_ROUNDS:
            return Speedup(slow.median / fast.median, math.nan, math.nan)
        pairs = zip(slow.milliseconds, fast.milliseconds, strict=True)
        return median_interval([before / after for before, after in pairs])

    def __str__(self) -> str:
        lines = [f"{'':24s} {'median':>10s}  {'quartiles':>21s}  {'rounds':>6s}"]
        for name, timing in self.timings.items():
            low, high = timing.quartiles
            lines.append(
                f"{name:24s} {timing.median:7.3f} ms  {low:8.3f} to {high:7.3f} ms"
                f"  {len(timing.milliseconds):6d}"
            )
        if self.disturbance:
            lines.append(self.disturbance)
        return "\n".join([*lines, ", ".join(f"{key}: {one}" for key, one in self.where.items())])


def too_slow(seconds: float) -> str:
    """Why a candidate that takes so many ``seconds`` was not timed."""
    return f"too slow here: {seconds:.2g} s a call"


def median_interval(values: Sequence[float]) -> Speedup:
    """The median of ``values`` and its 95 % interval, whatever their distribution.

    The interval ends at two of the values themselves. Each value lies above the true median with a
    probability of one half, so the number that do is binomial (Conover, 1999, section 3.2).

    Raises:
        ValueError: fewer than six values, which have no such interval.
    """
    ranked, n = sorted(values), len(values)
    if n < LEAST_ROUNDS:
        raise ValueError(f"An interval of the median needs {LEAST_ROUNDS} values; got {n}.")
    as_few_below = accumulate(math.comb(n, count) for count in range(n))
    cut = sum(40 * ways <= 2**n for ways in as_few_below) - 1  # 2.5 % at most at either end
    return Speedup(statistics.median(ranked), ranked[cut], ranked[n - 1 - cut])


def compare(
    candidates: Mapping[str, Run],
    *inputs: torch.Tensor,
    rounds: int = 30,
    seconds: float = 2.0,
    zeros: bool = False,
    in_a_row: int = 1,
    limit: float = 30.0,
) -> Comparison:
    """Time every candidate on the same ``inputs``, in turns: A B, B A, A B ...

    In turns, because a machine slows down and speeds up by itself, and that then affects all
    candidates alike. The order changes from round to round, because a candidate finds in the cache
    what the one before it left there. Warm-up rounds, until the times are stable, are not counted.
    On a CUDA GPU, times are those of CUDA events, and the cache is emptied before every run; other
    devices are waited for.

    The quickest candidate has a second turn in every round. Where the two disagree, or where the
    system says that threads had to wait for a processor, the machine is busy with something else:
    the result has a ``disturbance``, which is printed at once.

    Args:
        candidates: called with ``inputs``. What they compute must not depend on the turn. Whether
            to wait for a GPU is decided by the inputs, the arguments of a ``partial`` and the
            parameters of a module, so a candidate must not hold anything else on a GPU.
        rounds: at most this many.
        seconds: after this long it stops as soon as it has :data:`LEAST_ROUNDS`.
        limit: seconds for everything together. The slowest candidates that do not fit are run once,
            and have no interval.
        zeros: whether tensors of nothing but zeros may be timed.
        in_a_row: on a CPU, a turn is at least this many calls. With one, a small candidate pays for
            what a large one before it evicted from the cache; with several, it finds its own data.

    Raises:
        ValueError: nothing to time, too few rounds, or a tensor of zeros.
    """
    if not candidates or rounds < LEAST_ROUNDS:
        raise ValueError(
            f"Timing needs a candidate and {LEAST_ROUNDS} rounds or more; got {len(candidates)} "
            f"candidates, {rounds} rounds."
        )
    tensors = [tensor for run in candidates.values() for tensor in _tensors(run, inputs)]
    if not zeros:
        _refuse_zeros(tensors)
    clock = _clock_of(tensors, in_a_row)
    runs = {name: partial(run, *inputs) for name, run in candidates.items()}
    with torch.no_grad(), _no_garbage_collection():
        first = {name: clock.once(run) for name, run in runs.items()}
        samples = {name: clock.sampler(runs[name]) for name in _fitting(first, limit)}
        _warm_up(samples.values(), seconds / 2)
        waited, start = _waited(), time.perf_counter()
        times = _in_turns(_with_repeat(samples), rounds, seconds)
        waited = (_waited() - waited) / max(time.perf_counter() - start, 1e-9)
    again, before = times.pop(AGAIN, []), next(iter(times.values()), [])
    repeats = tuple(late / early for late, early in zip(again, before, strict=True))
    timings = {name: Timing(tuple(times.get(name, [first[name]]))) for name in runs}
    result = Comparison(timings, machine_facts() | {"clock": clock.name}, repeats, waited)
    if result.disturbance and not os.environ.get("COURSE_QUIET"):
        say(result.disturbance)
    return result


def once(run: Run, *inputs: torch.Tensor) -> float:
    """Seconds of one call, waited for: enough to see whether more can be afforded."""
    with torch.no_grad():
        return _clock_of(_tensors(run, inputs), 1).once(partial(run, *inputs)) / 1000


def affordable(seconds: float, limit: float) -> bool:
    """Whether :func:`compare` has time within ``limit`` for a call of so many ``seconds``."""
    return seconds * (LEAST_ROUNDS + BEFORE) <= limit


#: Two times or two speed-ups: the text says how a recording is checked.
Range = Annotated[list[float], "two numbers not below 0, the lower first"]


class Recorded(TypedDict):
    """What a recording keeps of a time, in milliseconds, and of its speed-up."""

    median: float
    quartiles: Range
    rounds: int
    speedup: float
    interval: Range


def as_recorded(timing: Timing, speedup: Speedup) -> Recorded:
    """What a recording keeps of a time, in milliseconds, and of its speed-up."""
    return {
        "median": round_significant(timing.median),
        "quartiles": [round_significant(value) for value in timing.quartiles],
        "rounds": len(timing.milliseconds),
        "speedup": round_significant(speedup.value),
        "interval": [round_significant(speedup.low), round_significant(speedup.high)],
    }


def round_significant(value: float) -> float:
    """``value`` rounded to four significant digits, more than any time deserves."""
    return float(f"{value:.4g}")


# --- in turns -----------------------------------------------------------------------------------

#: The name of the second turn of the quickest candidate.
AGAIN = object()


def _fitting(first: Mapping[str, float], limit: float) -> list[str]:
    """The candidates that all fit into ``limit`` seconds, the quickest first.

    Args:
        first: milliseconds of one call of each.
    """
    ranked = sorted(first, key=first.__getitem__)
    sums = accumulate(first[name] / 1000 for name in ranked)
    return [name for name, total in zip(ranked, sums, strict=True) if affordable(total, limit)]


def _with_repeat(samples: Mapping[str, Sample]) -> dict[Turn, Sample]:
    """``samples``, and the first of them a second time."""
    turns: dict[Turn, Sample] = dict(samples.items())
    if samples:
        turns[AGAIN] = next(iter(samples.values()))
    return turns


def _waited() -> float:
    """Seconds so far in which threads of this process were ready to run but had no processor.

    Only Linux tells; elsewhere it is 0.
    """
    nanoseconds = 0
    for file in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError):  # a thread that ended just now
            nanoseconds += int(file.read_text().split()[1])
    return nanoseconds / 1e9


def _in_turns(
    samples: Mapping[Turn, Sample], rounds: int, seconds: float
) -> dict[Turn, list[float]]:
    """The milliseconds of each sample, a list by name."""
    times: dict[Turn, list[float]] = {name: [] for name in samples}
    order = random.Random(0)
    start = time.perf_counter()
    for done in range(rounds):
        if done >= LEAST_ROUNDS and time.perf_counter() - start > seconds:
            break
        for name in order.sample(list(samples), len(samples)):
            times[name].append(samples[name]())
    return times


def _warm_up(samples: Iterable[Sample], seconds: float) -> None:
    """Run all of them until none gets faster any more, for at most ``seconds``."""
    samples = list(samples)
    best = [sample() for sample in samples]
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        latest = [sample() for sample in samples]
        pairs = list(zip(best, latest, strict=True))
        if all(now > (1 - STABLE_WITHIN) * before for before, now in pairs):
            return
        best = [min(pair) for pair in pairs]


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Within the block, Python does not collect garbage, which it may do in the middle of a run."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


# --- what may be timed --------------------------------------------------------------------------


def _tensors(run: Run, inputs: Sequence[object]) -> list[torch.Tensor]:
    """The tensors that ``run`` certainly reads: its inputs, and what it is known to hold."""
    held = list(inputs)
    if isinstance(run, partial):
        held += [*run.args, *run.keywords.values(), run.func]
    modules = [run, *held]
    held += [p for module in modules if isinstance(module, nn.Module) for p in module.parameters()]
    return [value for value in held if isinstance(value, torch.Tensor)]


def _refuse_zeros(tensors: Sequence[torch.Tensor]) -> None:
    for tensor in tensors:
        matrix = tensor.dim() > 1 and tensor.layout is torch.strided
        if matrix and type(tensor) in (torch.Tensor, nn.Parameter) and not tensor.any():
            raise ValueError(
                f"A tensor of shape {tuple(tensor.shape)} holds nothing but zeros. Hardware can be "
                "faster on zeros than on data: time random numbers, torch.randn for instance."
            )


# --- clocks -------------------------------------------------------------------------------------


def _clock_of(tensors: Iterable[torch.Tensor], in_a_row: int) -> "CpuClock | CudaClock":
    """The clock of the device on which the ``tensors`` lie."""
    kinds = {tensor.device.type for tensor in tensors} - {"cpu", "meta"}
    if "cuda" in kinds:
        return CudaClock()
    return DeviceClock(in_a_row) if kinds else CpuClock(in_a_row)


class CpuClock:
    """The clock of the processor. A short call is repeated until the sample is long enough."""

    name = "time.perf_counter"

    def __init__(self, in_a_row: int = 1):
        self._in_a_row = in_a_row

    def once(self, run: Callable[[], object]) -> float:
        """Milliseconds of the first call of ``run``."""
        return self._time(run, 1)

    def sampler(self, run: Callable[[], object]) -> Sample:
        """A function that runs ``run`` and returns the milliseconds that one call took."""
        calls = self._in_a_row
        while self._time(run, calls) * calls < SHORTEST_SAMPLE:
            calls *= 2
        return partial(self._time, run, calls)

    def _time(self, run: Callable[[], object], calls: int) -> float:
        self._wait()
        start = time.perf_counter()
        for _ in range(calls):
            run()
        self._wait()
        return 1000 * (time.perf_counter() - start) / calls

    def _wait(self) -> None:
        """Nothing: a call on the processor returns when it is done."""


class DeviceClock(CpuClock):
    """The clock of the processor, which waits for a device that works asynchronously (mps, xpu)."""

    name = "time.perf_counter, device waited for"

    def once(self, run: Callable[[], object]) -> float:
        """Milliseconds of the second call of ``run``; the first one may compile."""
        self._time(run, 1)
        return self._time(run, 1)

    def _wait(self) -> None:
        torch.accelerator.synchronize()


class CudaClock:
    """CUDA events, on the GPU itself, with its second-level cache emptied before every run.

    While the host queues the launches of a run, the GPU is kept busy with emptying the cache again
    and again. Otherwise it would wait for the launches, and a call that is quick on the GPU but
    slow to launch, such as a small network, would get the time of its launches.
    """

    name = "CUDA events, cache emptied"

    def __init__(self) -> None:
        size = torch.cuda.get_device_properties().L2_cache_size
        self._flush = torch.empty(4 * size, dtype=torch.int8, device="cuda")
        self._flushing = min(self._time(self._flush.zero_, 1) for _ in range(5))

    def once(self, run: Callable[[], object]) -> float:
        """Milliseconds of the second call of ``run``; the first one may load what it needs."""
        self._time(run, 1)
        return self._time(run, 1)

    def sampler(self, run: Callable[[], object]) -> Sample:
        """A function that runs ``run`` and returns the milliseconds that the GPU took."""
        launching = max(_launching(run) for _ in range(3))
        # twice as long as needed: these launches, too, take the host some time
        return partial(self._time, run, 1 + math.ceil(2 * launching / self._flushing))

    def _time(self, run: Callable[[], object], flushes: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(flushes):
            self._flush.zero_()
        start.record()
        run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))


def _launching(run: Callable[[], object]) -> float:
    """Milliseconds that the host needs to queue ``run`` on a GPU that has nothing else to do."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    taken = 1000 * (time.perf_counter() - start)
    torch.cuda.synchronize()
    return taken


# --- is the timer itself honest? ----------------------------------------------------------------


class SelfTest(NamedTuple):
    """What the timer says of cases whose answer is known."""

    same: Speedup
    twice: Speedup
    triton: float | None

    @property
    def passed(self) -> bool:
        """Identical candidates are equal, twice the work takes twice as long, Triton agrees.

        Equal means that the interval contains 1, to within a hundredth.
        """
        equal = self.same.low <= 1.01 and self.same.high >= 0.99
        agrees = self.triton is None or abs(self.triton - 1) < 0.05
        return equal and abs(self.twice.value - 2) < 0.2 and agrees


def self_test(device: str = "cpu", size: int | None = None, rounds: int = 30) -> SelfTest:
    """Time a product of matrices against itself, against doing it twice, and with Triton's timer.

    ``triton`` is Triton's time over ours, None on a CPU and where there is no Triton.
    """
    size = size or (4096 if device == "cuda" else 512)
    dtype = torch.float16 if device == "cuda" else torch.float32
    first, second = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    result = compare(
        {"once": torch.mm, "again": torch.mm, "twice": _twice}, first, second, rounds=rounds
    )
    ours = result.timings["once"].median
    return SelfTest(
        result.speedup("again", over="once"),
        result.speedup("once", over="twice"),
        _triton_over(ours, partial(torch.mm, first, second)) if device == "cuda" else None,
    )


def _twice(first: torch.Tensor, second: torch.Tensor) -> None:
    torch.mm(first, second)
    torch.mm(first, second)


def _triton_over(ours: float, run: Callable[[], object]) -> float | None:
    try:
        from triton.testing import do_bench
    except ImportError:
        return None
    return float(do_bench(run, return_mode="median")) / ours
