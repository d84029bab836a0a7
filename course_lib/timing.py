"""Honest timing: candidates in turns, on data that is not all zero, and ratios with an interval.

Lesson 05 builds the heart of it. What goes wrong without: a machine that slows down while the
second candidate runs, a GPU that has only *begun* when the clock is read, a cache that still holds
the data of the last run, zeros (a GPU multiplies them with less power, and so faster), one lucky
run.
"""

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import nn

from course_lib.recordings import machine

#: With fewer rounds than this no 95 % interval of a median exists (Conover, 1999, section 3.2).
LEAST_ROUNDS = 6

#: A sample on the CPU lasts at least this long, in milliseconds: a short call is repeated.
SHORTEST_SAMPLE = 0.2

#: Calls on a GPU shorter than this, in milliseconds, are timed as a CUDA graph where they can be:
#: otherwise the time to launch them is measured.
GRAPH_BELOW = 0.05

#: Warmed up is a candidate whose newest runs are not faster by more than this fraction.
STABLE_WITHIN = 0.05

Run = Callable[..., object]


class Timing(NamedTuple):
    """How long a candidate took, in ``milliseconds``, in each round."""

    milliseconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Half of the rounds were faster."""
        return statistics.median(self.milliseconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """A quarter of the rounds was faster than the first, a quarter slower than the second."""
        low, _, high = statistics.quantiles(self.milliseconds, n=4, method="inclusive")
        return low, high


class Speedup(NamedTuple):
    """A ratio of two times and its 95 % interval; above 1 is faster."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f}x ({self.low:.2f} to {self.high:.2f})"


class Comparison(NamedTuple):
    """The ``timings`` of all candidates, and ``where``: machine, clock, threads, versions."""

    timings: dict[str, Timing]
    where: dict[str, str]

    def speedup(self, name: str, over: str) -> Speedup:
        """How many times faster ``name`` is than ``over``: the median over the rounds."""
        pairs = zip(self.timings[over].milliseconds, self.timings[name].milliseconds, strict=True)
        return median_interval([slow / fast for slow, fast in pairs])

    def __str__(self) -> str:
        lines = [f"{'':24s} {'median':>10s}  {'quartiles':>21s}  {'rounds':>6s}"]
        for name, timing in self.timings.items():
            low, high = timing.quartiles
            lines.append(
                f"{name:24s} {timing.median:7.3f} ms  {low:8.3f} to {high:7.3f} ms"
                f"  {len(timing.milliseconds):6d}"
            )
        return "\n".join([*lines, ", ".join(f"{key}: {one}" for key, one in self.where.items())])


def median_interval(values: Sequence[float]) -> Speedup:
    """The median of ``values`` and its 95 % interval, whatever their distribution.

    The interval ends at two of the values themselves. Each value is above the true median with a
    chance of one half, so how many of them are is a binomial number (Conover, 1999, section 3.2).

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
) -> Comparison:
    """Time every candidate on the same ``inputs``, in turns: A B, B A, A B ...

    Turns, because a machine slows down and speeds up by itself: whatever happens to it happens to
    all candidates. Every round has an order of its own, because a candidate finds in the cache
    what the one before it left there. The first rounds, until the times are stable, are not
    counted. On a GPU the clock are CUDA events, and its cache is emptied before every run.

    Args:
        candidates: called with ``inputs``. What they compute must not depend on the turn. Whether
            a GPU is waited for is seen from the inputs, the arguments of a ``partial`` and the
            parameters of a module: nothing else that lies on a GPU may be in a candidate.
        rounds: at most so many.
        seconds: after this long it stops as soon as it has :data:`LEAST_ROUNDS`.
        zeros: time tensors of nothing but zeros as well.
        in_a_row: on a CPU, a turn is at least so many calls. With one, a small candidate pays for
            what a large one before it threw out of the cache; with some, each finds its own there.

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
    clock = CudaClock() if any(tensor.is_cuda for tensor in tensors) else CpuClock(in_a_row)
    with torch.no_grad(), _no_garbage_collection():
        samples = {name: clock.sampler(partial(run, *inputs)) for name, run in candidates.items()}
        _warm_up(samples.values(), seconds / 2)
        times = _in_turns(samples, rounds, seconds)
    timings = {name: Timing(tuple(taken)) for name, taken in times.items()}
    return Comparison(timings, machine() | {"clock": clock.name})


def as_recorded(timing: Timing, speedup: Speedup) -> dict:
    """What a recording keeps of a time, in milliseconds, and of its speed-up."""
    return {
        "median": digits(timing.median),
        "quartiles": [digits(value) for value in timing.quartiles],
        "rounds": len(timing.milliseconds),
        "speedup": digits(speedup.value),
        "interval": [digits(speedup.low), digits(speedup.high)],
    }


def digits(value: float) -> float:
    """``value`` with four digits: more than any time is worth."""
    return float(f"{value:.4g}")


# --- in turns -----------------------------------------------------------------------------------


def _in_turns(samples: Mapping[str, Callable[[], float]], rounds: int, seconds: float) -> dict:
    """The milliseconds of each sample, a list by name."""
    times: dict[str, list[float]] = {name: [] for name in samples}
    order = random.Random(0)
    start = time.perf_counter()
    for done in range(rounds):
        if done >= LEAST_ROUNDS and time.perf_counter() - start > seconds:
            break
        for name in order.sample(list(samples), len(samples)):
            times[name].append(samples[name]())
    return times


def _warm_up(samples: Iterable[Callable[[], float]], seconds: float) -> None:
    """Run all of them until none gets faster any more, for so many ``seconds`` at most."""
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
    """Python looks for garbage when it likes, also in the middle of a run: not now."""
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


class CpuClock:
    """The clock of the processor. A short call is repeated until the sample is long enough."""

    name = "time.perf_counter"

    def __init__(self, in_a_row: int = 1):
        self._in_a_row = in_a_row

    def sampler(self, run: Callable[[], object]) -> Callable[[], float]:
        """A function that runs ``run`` and returns the milliseconds that one call took."""
        run()
        calls = self._in_a_row
        while self._time(run, calls) * calls < SHORTEST_SAMPLE:
            calls *= 2
        return partial(self._time, run, calls)

    @staticmethod
    def _time(run: Callable[[], object], calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return 1000 * (time.perf_counter() - start) / calls


class CudaClock:
    """CUDA events, on the GPU itself, with its second-level cache emptied before every run."""

    name = "CUDA events, cache emptied"

    def __init__(self) -> None:
        size = torch.cuda.get_device_properties().L2_cache_size
        self._flush = torch.empty(4 * size, dtype=torch.int8, device="cuda")

    def sampler(self, run: Callable[[], object]) -> Callable[[], float]:
        """A function that runs ``run`` and returns the milliseconds that the GPU took."""
        for _ in range(3):
            taken = self._time(run)
        if taken < GRAPH_BELOW:
            run = graphed(run)
        return partial(self._time, run)

    def _time(self, run: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._flush.zero_()  # the GPU is busy with this while the launches below are queued
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)


def graphed(run: Callable[[], object]) -> Callable[[], object]:
    """``run`` as a CUDA graph, launched at once; ``run`` itself if it cannot be captured."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph):
            run()
    except RuntimeError:  # it waits for the GPU, or allocates in a way that a graph forbids
        torch.cuda.set_stream(stream)  # torch 2.11 stays on the stream of the graph that failed
        torch.cuda.synchronize()
        return run
    return graph.replay


# --- is the timer itself honest? ----------------------------------------------------------------


class SelfTest(NamedTuple):
    """What the timer says of cases whose answer is known."""

    same: Speedup
    twice: Speedup
    triton: float | None

    @property
    def passed(self) -> bool:
        """Identical candidates are equal, twice the work takes twice as long, Triton agrees.

        Equal: the interval holds 1, up to a hundredth.
        """
        equal = self.same.low <= 1.01 and self.same.high >= 0.99
        agrees = self.triton is None or abs(self.triton - 1) < 0.05
        return equal and abs(self.twice.value - 2) < 0.2 and agrees


def self_test(device: str = "cpu", size: int | None = None, rounds: int = 30) -> SelfTest:
    """Time a product of matrices against itself, against doing it twice, and as Triton does.

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
    return do_bench(run, return_mode="median") / ours
