"""Candidates are timed in turns, and what the interval says is true as often as it promises."""

import gc
import json
import math
import random
from collections import Counter
from functools import partial
from itertools import count, pairwise, permutations, product
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from course_lib.experiments import recordings
from course_lib.experiments.records import RECORDS
from course_lib.experiments.registry import EXPERIMENTS, Experiment
from course_lib.measuring import timing
from course_lib.measuring.machine import machine_facts
from course_lib.measuring.timing import (
    LEAST_ROUNDS,
    SHORTEST_SAMPLE,
    Comparison,
    CpuClock,
    Recorded,
    SelfTest,
    Speedup,
    Timing,
    as_recorded,
    compare,
    median_interval,
    round_significant,
    self_test,
)

#: Real runs that are over at once.
QUICK = {"rounds": LEAST_ROUNDS, "seconds": 0}


class Clock:
    """A clock that moves on only while one of its candidates runs."""

    def __init__(self):
        self.now, self.runs = 0.0, []

    def perf_counter(self) -> float:
        return self.now

    def candidate(self, name: str, milliseconds):
        """A candidate whose next run takes what ``milliseconds()`` says."""

        def run(*_):
            assert len(self.runs) < 100_000, "it never ends"
            self.runs.append(name)
            self.now += milliseconds() / 1000

        return run


@pytest.fixture
def clock(monkeypatch):
    simulated = Clock()
    monkeypatch.setattr(timing, "_waited", lambda: 0.0)
    monkeypatch.setattr(timing, "time", simulated)
    return simulated


def falling(*milliseconds: float):
    """Those durations, then the last one for ever."""
    rest = list(milliseconds)
    return lambda: rest.pop(0) if len(rest) > 1 else rest[0]


def made_up(**milliseconds: list[float]) -> Comparison:
    return Comparison({name: Timing(tuple(times)) for name, times in milliseconds.items()}, {})


# --- rounds -------------------------------------------------------------------------------------


def test_candidates_take_turns(clock):
    names = ["a", "b", "c"]
    result = compare(durations(clock, a=1, b=2, c=3), rounds=8)
    counted = clock.runs[-32:]
    assert all(sorted(counted[at : at + 4]) == ["a", *names] for at in range(0, 32, 4))
    assert [len(result.timings[name].milliseconds) for name in names] == [8] * 3


def test_no_candidate_always_follows_the_same_one(clock):
    names = ["a", "b", "c", "d"]
    compare({name: clock.candidate(name, lambda: 1) for name in names}, rounds=30)
    counted = clock.runs[-150:]
    followed = Counter(pairwise(counted))
    assert max(followed[pair] for pair in permutations(names, 2)) < 20


def test_times_are_milliseconds_of_one_run(clock):
    result = compare({"a": clock.candidate("a", lambda: 7), "b": clock.candidate("b", lambda: 3)})
    assert result.timings["a"].milliseconds == pytest.approx([7] * 30)
    assert result.timings["b"].milliseconds == pytest.approx([3] * 30)


def test_warm_up_lasts_until_no_candidate_gets_faster_and_is_not_counted(clock):
    warming = clock.candidate("warming", falling(90, 90, 90, 40, 20, 10, 5))
    result = compare({"steady": clock.candidate("steady", lambda: 1), "warming": warming})
    assert result.timings["warming"].milliseconds == pytest.approx([5] * 30)
    # 90 and 90 say how long it takes; 90, 40, 20, 10, 5, 5 warm it up; 30 rounds count
    assert clock.runs.count("warming") == 2 + 6 + 30


def test_warm_up_ends_when_times_never_get_stable(clock):
    step = count()
    run = clock.candidate("a", lambda: 200 * 0.94 ** next(step))
    rounds = len(compare({"a": run}, rounds=10, seconds=1).repeats)
    before = sum(200 * 0.94**number for number in range(len(clock.runs) - 2 * rounds))
    # two runs that say how long one takes, one to compare with, half a second, one over it
    assert 500 < before < 3 * 200 + 500 + 200


def test_it_stops_after_so_many_seconds(clock):
    result = compare({"a": clock.candidate("a", lambda: 150)}, rounds=30, seconds=2)
    assert len(result.timings["a"].milliseconds) == 7  # and 7 repeats


@pytest.mark.parametrize("seconds", [0, 2])
def test_it_never_stops_before_an_interval_is_possible(clock, seconds):
    result = compare({"a": clock.candidate("a", lambda: 3_000)}, seconds=seconds)
    assert len(result.timings["a"].milliseconds) == LEAST_ROUNDS


# --- a limit ------------------------------------------------------------------------------------


def durations(clock, **milliseconds):
    """Candidates that take so long."""
    return {name: clock.candidate(name, lambda ms=ms: ms) for name, ms in milliseconds.items()}


def test_what_is_too_slow_is_run_once(clock):
    result = compare(durations(clock, slow=60_000, a=10, b=20))
    assert clock.runs.count("slow") == 1 and clock.now < 60 + 30
    assert result.timings["slow"].milliseconds == pytest.approx((60_000,))
    assert len(result.timings["a"].milliseconds) == 30
    assert [*result.timings] == ["slow", "a", "b"]


def test_what_was_run_once_has_a_ratio_without_an_interval(clock):
    result = compare(durations(clock, slow=60_000, a=10))
    speedup = result.speedup("a", over="slow")
    assert speedup.value == pytest.approx(6000) and math.isnan(speedup.low)
    assert "run once: too slow here" in str(speedup) and "60000.000 ms" in str(result)
    assert not math.isnan(result.speedup("a", over="a").low)


def test_all_candidates_together_fit_into_the_limit(clock):
    result = compare(durations(clock, a=1000, b=2000, c=3000), seconds=2)
    rounds = {name: len(timing.milliseconds) for name, timing in result.timings.items()}
    assert rounds == {"a": LEAST_ROUNDS, "b": LEAST_ROUNDS, "c": 1}
    assert clock.now < 30 + 3 + 9  # the one run, and the repeats of the quickest


def test_with_more_time_it_is_timed(clock):
    result = compare(durations(clock, slow=60_000), limit=600)
    assert len(result.timings["slow"].milliseconds) == LEAST_ROUNDS


def test_nothing_fits(clock):
    result = compare(durations(clock, a=60_000, b=90_000))
    assert clock.runs == ["a", "b"] and not result.disturbance
    assert result.speedup("a", over="b").value == pytest.approx(1.5)


def test_once_is_one_call_in_seconds(clock):
    assert timing.once(clock.candidate("a", lambda: 250)) == pytest.approx(0.25)
    assert clock.runs == ["a"]


# --- a disturbed machine ------------------------------------------------------------------------


def noisy(clock, spread: float):
    dice = random.Random(0)
    return {"a": clock.candidate("a", lambda: dice.lognormvariate(0, spread))}


@pytest.mark.parametrize(("spread", "disturbed"), [(0.02, False), (0.6, True)])
def test_a_disturbed_machine_disagrees_with_itself(clock, monkeypatch, capsys, spread, disturbed):
    monkeypatch.delenv("COURSE_QUIET")
    result = compare(noisy(clock, spread))
    assert bool(result.disturbance) is disturbed and len(result.repeats) == 30
    for text in (str(result), capsys.readouterr().out):
        assert ("do not believe these times" in text) is disturbed


def test_a_build_is_not_told(clock, capsys):
    assert compare(noisy(clock, 0.6)).disturbance
    assert capsys.readouterr().out == ""


def test_a_few_slow_rounds_are_no_disturbance(clock):
    times = iter([2.0, 2, 2, 2, 2, *([2] * 11 + [9]) * 100])
    assert not compare({"a": clock.candidate("a", lambda: next(times))}).disturbance


def test_a_machine_of_another_pace_is_not_disturbed(clock):
    run = clock.candidate("a", lambda: 2 if clock.now < 0.08 else 6)
    assert not compare({"a": run}).disturbance


@pytest.mark.parametrize(("share", "told"), [(0.02, None), (0.4, "40%"), (1.7, "100%")])
def test_waiting_for_a_processor_is_a_disturbance_however_steady(clock, monkeypatch, share, told):
    monkeypatch.setattr(timing, "_waited", lambda: share * clock.now)
    found = compare(noisy(clock, 0)).disturbance
    assert (found is None) is (told is None)
    assert told is None or f"threads waited for a processor {told} of the time" in found


def test_the_system_says_how_long_threads_waited():
    first = timing._waited()
    assert 0 <= first <= timing._waited() < 1e7


# --- other devices ------------------------------------------------------------------------------


def test_a_device_that_works_on_by_itself_is_waited_for(clock, monkeypatch):
    queue = []

    def wait(*_):
        clock.now += sum(queue)
        queue.clear()

    monkeypatch.setattr(torch.accelerator, "synchronize", wait)
    found = timing.DeviceClock().sampler(lambda: queue.append(0.003))
    assert found() == pytest.approx(3)


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (["cpu", "cpu"], "CpuClock"),
        ([], "CpuClock"),
        (["cpu", "meta"], "CpuClock"),
        (["cpu", "mps"], "DeviceClock"),
        (["xpu"], "DeviceClock"),
        (["cpu", "cuda"], "CudaClock"),
    ],
)
def test_the_clock_is_that_of_the_device(monkeypatch, kinds, expected):
    class CudaClock:
        """On a machine without a GPU."""

    monkeypatch.setattr(timing, "CudaClock", CudaClock)
    tensors = [SimpleNamespace(device=torch.device(kind)) for kind in kinds]
    assert type(timing._clock_of(tensors, 1)).__name__ == expected


def test_a_slow_round_moves_neither_median_nor_interval(clock):
    result = compare(
        {
            "a": clock.candidate("a", falling(*[2] * 12, 500, 2)),
            "b": clock.candidate("b", lambda: 1),
        },
        rounds=20,
    )
    assert max(result.timings["a"].milliseconds) == pytest.approx(500)
    assert result.timings["a"].median == pytest.approx(2)
    assert result.speedup("b", over="a") == pytest.approx((2, 2, 2))


def test_median_and_quartiles_by_hand():
    values = Timing((9.0, 1.0, 3.0, 5.0, 7.0))
    assert values.median == 5 and values.quartiles == (3, 7)


# --- short calls --------------------------------------------------------------------------------


@pytest.mark.parametrize("milliseconds", [0.0004, 0.01, 0.15])
def test_a_short_call_is_repeated_until_the_sample_is_long_enough(clock, milliseconds):
    sample = CpuClock().sampler(clock.candidate("a", lambda: milliseconds))
    clock.runs.clear()
    assert sample() == pytest.approx(milliseconds)
    assert SHORTEST_SAMPLE <= len(clock.runs) * milliseconds < 2 * SHORTEST_SAMPLE


def test_a_long_call_is_run_once_in_a_sample(clock):
    sample = CpuClock().sampler(clock.candidate("a", lambda: 5))
    clock.runs.clear()
    sample()
    assert clock.runs == ["a"]


def test_a_turn_is_so_many_calls_in_a_row(clock):
    candidates = {name: clock.candidate(name, lambda: 5) for name in ("a", "b")}
    result = compare(candidates, rounds=6, seconds=0, in_a_row=3)
    counted = clock.runs[-6 * 2 * 3 :]
    turns = {"".join(counted[at : at + 3]) for at in range(0, len(counted), 3)}
    assert turns == {"aaa", "bbb"}
    assert result.timings["a"].milliseconds == pytest.approx([5] * 6)


# --- ratios -------------------------------------------------------------------------------------


def test_above_one_is_faster():
    result = made_up(slow=[3.0] * 6, fast=[2.0] * 6)
    assert result.speedup("fast", over="slow") == (1.5, 1.5, 1.5)
    assert result.speedup("slow", over="fast").value < 1


def test_a_speedup_is_the_median_of_the_ratios_of_the_rounds():
    result = made_up(a=[10, 20, 30, 40, 50, 60, 70], b=[1, 10, 10, 10, 10, 10, 70])
    ratios = sorted([10, 2, 3, 4, 5, 6, 1])
    assert result.speedup("b", over="a") == (ratios[3], ratios[0], ratios[-1])


def test_a_machine_that_slows_down_halfway_leaves_the_ratio_alone(clock):
    def at_this_speed(milliseconds):
        return milliseconds * (3 if clock.now > 0.25 else 1)

    result = compare(
        {
            "a": clock.candidate("a", lambda: at_this_speed(10)),
            "b": clock.candidate("b", lambda: at_this_speed(5)),
        }
    )
    for each in result.timings.values():
        assert max(each.milliseconds) == pytest.approx(3 * min(each.milliseconds))
    assert result.speedup("b", over="a") == pytest.approx((2, 2, 2))


def test_identical_candidates_are_told_to_be_equal(clock, monkeypatch):
    monkeypatch.setattr(timing, "machine_facts", dict)
    noise = random.Random(0)

    def noisy():
        speed = 1 + 0.2 * math.sin(clock.now)
        return speed * noise.lognormvariate(0, 0.1) * (5 if noise.random() < 0.05 else 1)

    same = {name: clock.candidate(name, noisy) for name in ("first", "second")}
    intervals = [compare(same).speedup("first", over="second") for _ in range(400)]
    assert sum(each.low <= 1 <= each.high for each in intervals) >= 0.93 * 400
    assert max(each.high - each.low for each in intervals) < 0.4


# --- the interval -------------------------------------------------------------------------------

DISTRIBUTIONS = {
    "normal": (lambda dice: dice.gauss(3, 1), 3),
    "log-normal": (lambda dice: dice.lognormvariate(0, 1), 1),
    "heavy tails": (lambda dice: math.tan(math.pi * (dice.random() - 0.5)), 0),
}


@pytest.mark.parametrize("size", [6, 7, 9, 30, 100])
@pytest.mark.parametrize(("draw", "median"), DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
def test_interval_covers_the_true_median_as_often_as_it_says(draw, median, size):
    dice = random.Random(size)
    found = [median_interval([draw(dice) for _ in range(size)]) for _ in range(1000)]
    assert sum(each.low <= median <= each.high for each in found) >= 930


def coverage(size: int, cut: int) -> float:
    """How often the median is between the values ``cut`` places from either end, by counting."""
    sides = product([0, 1], repeat=size)  # each value is below the median or above it
    return sum(cut < sum(below) < size - cut for below in sides) / 2**size


@pytest.mark.parametrize("size", range(LEAST_ROUNDS, 13))
def test_interval_is_as_narrow_as_95_percent_allow(size):
    value, low, high = median_interval(random.Random(0).sample(range(size), size))
    assert value == (size - 1) / 2 and high == size - 1 - low
    assert coverage(size, low) >= 0.95 > coverage(size, low + 1)


def test_interval_of_many_values_is_the_one_of_the_normal_approximation():
    _, low, high = median_interval(range(1501))
    assert low == pytest.approx(750 - 1.96 * math.sqrt(1501) / 2, abs=1)
    assert high == 1500 - low


def test_interval_of_too_few_values_is_refused():
    with pytest.raises(ValueError, match="needs 6 values; got 5"):
        median_interval([1.0] * 5)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candidates", "rounds", "message"),
    [
        ({}, 30, "got 0 candidates, 30 rounds"),
        ({"a": print}, 5, "got 1 candidates, 5 rounds"),
        ({"a": print}, -1, "got 1 candidates, -1 rounds"),
    ],
    ids=["nothing", "too few rounds", "negative"],
)
def test_nothing_to_time_is_refused(candidates, rounds, message):
    with pytest.raises(ValueError, match=f"a candidate and 6 rounds or more; {message}"):
        compare(candidates, rounds=rounds)


def silent_linear() -> nn.Linear:
    layer = nn.Linear(4, 4)
    nn.init.zeros_(layer.weight)
    return layer


ZEROS, RANDOM = torch.zeros(4, 4), torch.rand(4, 4)
OF_ZEROS = {
    "input": ({"a": torch.mm}, (RANDOM, ZEROS)),
    "argument": ({"a": partial(torch.mm, ZEROS)}, (RANDOM,)),
    "named argument": ({"a": partial(torch.mm, mat2=ZEROS)}, (RANDOM,)),
    "module": ({"a": silent_linear()}, (RANDOM,)),
    "module with its input": ({"a": partial(silent_linear(), RANDOM)}, ()),
    "inner module": ({"a": nn.Sequential(nn.ReLU(), silent_linear())}, (RANDOM,)),
    "second candidate": ({"a": nn.Linear(4, 4), "b": silent_linear()}, (RANDOM,)),
}


@pytest.mark.parametrize(("candidates", "inputs"), OF_ZEROS.values(), ids=OF_ZEROS)
def test_zeros_are_refused_unless_asked_for(candidates, inputs):
    with pytest.raises(ValueError, match=r"shape \(4, 4\) holds nothing but zeros"):
        compare(candidates, *inputs)
    assert compare(candidates, *inputs, zeros=True, **QUICK).timings["a"].median > 0


def linear_without_bias_values() -> nn.Linear:
    layer = nn.Linear(4, 4)
    nn.init.zeros_(layer.bias)
    return layer


FINE = {
    "one that is not zero": (torch.mm, torch.ones(4, 4).tril(-3)),
    "vector": (torch.add, torch.zeros(4)),
    "sparse": (torch.mm, torch.zeros(4, 4).to_sparse()),
    "zero bias": (linear_without_bias_values(), RANDOM),
}


@pytest.mark.parametrize(("run", "argument"), FINE.values(), ids=FINE)
def test_what_is_no_matrix_of_zeros_is_timed(run, argument):
    inputs = (argument,) if isinstance(run, nn.Module) else (argument, RANDOM)
    assert compare({"a": run}, *inputs, **QUICK).timings["a"].median > 0


# --- while it runs ------------------------------------------------------------------------------


@pytest.fixture(params=[True, False], ids=["collector on", "collector off"])
def collector(request):
    """Whether Python's garbage collector was on before."""
    was_on = gc.isenabled()
    (gc.enable if request.param else gc.disable)()
    yield request.param
    (gc.enable if was_on else gc.disable)()


def test_no_garbage_is_collected_meanwhile(clock, collector):
    seen = set()
    run = clock.candidate("a", lambda: seen.add(gc.isenabled()) or 1)
    compare({"a": run})
    assert seen == {False} and gc.isenabled() == collector


def test_after_an_exception_the_collector_is_as_before(collector):
    def fails():
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        compare({"a": fails})
    assert gc.isenabled() == collector


def test_no_gradients_are_recorded():
    layer, seen = nn.Linear(4, 4), []
    compare({"a": lambda inputs: seen.append(layer(inputs).requires_grad)}, RANDOM, **QUICK)
    assert seen and not any(seen) and torch.is_grad_enabled()


# --- what is told -------------------------------------------------------------------------------


def test_a_comparison_prints_candidates_times_and_the_machine(clock):
    names = {"dense": lambda: 2, "sparse": lambda: 0.5}
    result = compare({name: clock.candidate(name, each) for name, each in names.items()})
    dense, sparse = str(result).splitlines()[1:3]
    assert dense.split()[:3] == ["dense", "2.000", "ms"] and dense.split()[-1] == "30"
    assert sparse.split() == ["sparse", "0.500", "ms", "0.500", "to", "0.500", "ms", "30"]
    for key, fact in machine_facts().items():
        assert f"{key}: {fact}" in str(result)
    assert "clock: time.perf_counter" in str(result)


def test_a_speedup_prints_its_interval():
    assert str(Speedup(1.234, 1.1, 1.456)) == "1.23x (1.10 to 1.46)"


def test_what_is_recorded_fits_a_recording(clock, monkeypatch):
    result = compare({"a": clock.candidate("a", lambda: 2), "b": clock.candidate("b", lambda: 1)})
    entry = as_recorded(result.timings["b"], result.speedup("b", over="a"))
    monkeypatch.setitem(EXPERIMENTS, "timed", Experiment(""))
    monkeypatch.setitem(RECORDS, "timed", Recorded)
    assert recordings.check(json.loads(json.dumps(entry)), "timed") == entry
    assert entry == {
        "median": 1,
        "quartiles": [1, 1],
        "rounds": 30,
        "speedup": 2,
        "interval": [2, 2],
    }


@pytest.mark.parametrize(
    ("value", "kept"), [(123456.0, 123500), (0.00123456, 0.001235), (0.0, 0), (2.0, 2)]
)
def test_numbers_are_recorded_with_four_digits(value, kept):
    assert round_significant(value) == kept


# --- the clock of a GPU, on one that is made up -------------------------------------------------


class Gpu:
    """A host that queues work, and a GPU that does it: both have a time, in milliseconds."""

    def __init__(self):
        self.host = self.device = 0.0
        self.log, self.cache, self.int8 = [], 50_000_000, torch.int8
        self.cuda = SimpleNamespace(
            Event=self.event,
            get_device_properties=lambda: SimpleNamespace(L2_cache_size=self.cache),
            synchronize=self.wait,
        )

    def work(self, name, *, launch, takes):
        """The host needs ``launch`` to queue what ``takes`` so long on the GPU."""
        self.log.append(name)
        self.host += launch
        self.device = max(self.device, self.host) + takes

    def wait(self):
        self.host = max(self.host, self.device)

    def event(self, enable_timing):
        assert enable_timing
        at = SimpleNamespace(synchronize=self.wait)
        at.record = lambda: setattr(at, "time", max(self.device, self.host))
        at.elapsed_time = lambda end: end.time - at.time
        return at

    def empty(self, size, dtype, device):
        assert size >= 2 * self.cache and dtype is torch.int8 and device == "cuda"
        return SimpleNamespace(zero_=lambda: self.work("flush", launch=0.01, takes=0.06))


@pytest.fixture
def gpu(monkeypatch):
    made_up = Gpu()
    monkeypatch.setattr(timing, "torch", made_up)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: made_up.host / 1000)
    return made_up


def test_on_a_gpu_the_cache_is_emptied_and_only_the_run_is_timed(gpu):
    sample = timing.CudaClock().sampler(lambda: gpu.work("run", launch=0.02, takes=1.0))
    gpu.log.clear()
    assert [sample(), sample()] == pytest.approx([1.0, 1.0])
    assert gpu.log == ["flush", "flush", "run"] * 2


@pytest.mark.parametrize("launch", [0.001, 0.05, 0.6, 5.0])
def test_on_a_gpu_the_time_to_launch_is_not_measured(gpu, launch):
    def network():
        for _ in range(3):
            gpu.work("run", launch=launch, takes=0.005)

    assert timing.CudaClock().sampler(network)() == pytest.approx(0.015)


# --- is it honest? ------------------------------------------------------------------------------

EQUAL, DOUBLE = Speedup(1.0, 0.98, 1.02), Speedup(2.0, 1.95, 2.05)


@pytest.mark.parametrize(
    ("found", "passed"),
    [
        (SelfTest(EQUAL, DOUBLE, None), True),
        (SelfTest(EQUAL, DOUBLE, 1.04), True),
        (SelfTest(EQUAL, Speedup(2.15, 2.1, 2.2), 0.96), True),
        (SelfTest(EQUAL, DOUBLE, 1.06), False),
        (SelfTest(EQUAL, DOUBLE, 0.94), False),
        (SelfTest(Speedup(1.03, 1.02, 1.04), DOUBLE, None), False),
        (SelfTest(Speedup(0.97, 0.96, 0.98), DOUBLE, None), False),
        (SelfTest(EQUAL, Speedup(1.0, 0.9, 1.1), None), False),
        (SelfTest(EQUAL, Speedup(0.5, 0.4, 0.6), None), False),
        (SelfTest(EQUAL, Speedup(2.3, 1.9, 2.6), None), False),
    ],
)
def test_the_timer_passes_only_with_the_known_answers(found, passed):
    assert found.passed is passed


def test_the_timer_is_honest_here():
    tries = (self_test("cpu", size=128) for _ in range(5))  # others may be busy on this machine
    assert any(each.passed and each.triton is None for each in tries)
