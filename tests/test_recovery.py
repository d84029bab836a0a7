"""Reading recordings, complete or not, and checking intervals on simulated test sets."""

import copy
import math

import numpy as np
import pytest

from course_lib.experiments import drop_recovery, recordings
from course_lib.experiments.recordings import RecordingError
from course_lib.measuring import estimates, quality
from course_lib.teaching import claims, recovery
from course_lib.teaching.exercises import EXERCISES

SIZE = {"parameters": 27, "macs": 850}
MACHINE = {"processor": "abacus", "threads": "1", "CUDA GPU": "none"}


def measured(accuracy, validation=None):
    ends = [accuracy - 0.5, accuracy + 0.5]
    return {"accuracy": accuracy, "interval": ends, "validation": validation or accuracy}


def point(accuracy, validation=None, **changes):
    """A point at 90 % of the weights and a fifth of the epochs, but for the ``changes``."""
    what = {"granularity": "weights", "amount": 0.9, "method": "one-shot", "schedule": "constant"}
    numbers = {"epoch_fraction": 0.2, "seed": 0, "epochs": 2.4, "lr": 0.006}
    return what | numbers | measured(accuracy, validation) | changes


@pytest.fixture
def recording():
    return {
        "schema": recordings.SCHEMA,
        "experiment": "drop_recovery",
        "command": "python -m course_lib record drop_recovery --model small_resnet",
        "model": "small_resnet",
        "weights": "0123abcd",
        "recipe": {"epochs": 12, "lr": 0.2},
        "machine": MACHINE,
        "started": "2026-01-31",
        "written": "2026-02-01",
        "seeds": [0, 1],
        "dense": measured(92.0) | SIZE,
        "pruned": [{"granularity": "weights", "amount": 0.9} | measured(27.0) | SIZE],
        "recalibrated": [{"granularity": "weights", "amount": 0.9} | measured(85.0)],
        "points": [
            point(91.0, 91.5),
            point(90.0, 91.5, seed=1),
            point(90.8, 91.8, schedule="rewound"),
            point(90.8, 91.8, schedule="rewound", seed=1),
            point(80.0, epoch_fraction=0.05),
            point(60.0, schedule="one-cycle", method="scratch"),
        ],
    }


@pytest.fixture
def stored(tmp_path, recording):
    """Write a recording of so many points, made on a processor or a GPU."""

    def write(name, points, gpu="none"):
        changed = copy.deepcopy(recording)
        changed["points"] = [point(91.0, seed=seed) for seed in range(points)]
        changed["machine"] = MACHINE | {"CUDA GPU": gpu}
        path = tmp_path / "recordings" / name / "drop_recovery-small_resnet.json"
        recordings.write(changed, path)

    return write


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        ([("cpu-2core", 9, "none")], "cpu-2core"),
        ([("cpu-2core", 9, "none"), ("h100", 20, "H100")], "h100"),
        ([("cpu-2core", 9, "none"), ("a100", 2, "A100")], "cpu-2core"),
        ([("cpu-2core", 9, "none"), ("a100", 9, "A100")], "a100"),
    ],
)
def test_the_fullest_recording_is_taken_a_gpus_if_in_doubt(stored, tmp_path, there, taken):
    for name, points, gpu in there:
        stored(name, points, gpu)
    assert recovery.load("small_resnet", tmp_path)["name"] == taken


def test_without_any_recording_the_message_says_how_to_get_one(tmp_path):
    with pytest.raises(RecordingError, match=r"record drop_recovery --model resnet18"):
        recovery.load("resnet18", tmp_path)


def test_a_half_done_recording_says_so(recording):
    said = recovery.about(recording | {"name": "cpu-2core"})
    assert "cpu-2core (abacus, 1 threads)" in said and "seeds 0, 1" in said
    assert "6 points" in said and "not complete" in said
    recording["machine"] = MACHINE | {"CUDA GPU": "H100"}
    assert "(H100, " in recovery.about(recording | {"name": "h100"})
    recording["machines"] = [MACHINE, MACHINE | {"CUDA GPU": "H100"}]
    assert "(abacus and H100, " in recovery.about(recording | {"name": "cpu-2core"})


def test_the_plan_that_a_gpu_had_is_known_by_its_seeds(recording):
    recording |= {"seeds": [0, 1, 2, 3, 4], "name": "h100"}
    of_a_gpu = drop_recovery.plan("small_resnet", gpu=True)
    planned = sum(len(drop_recovery.keys(run, "small_resnet")) for run in of_a_gpu)
    assert f"of {planned} planned points" in recovery.about(recording)
    recording |= {"seeds": [0, 1, 2], "machine": MACHINE | {"CUDA GPU": "H100"}}
    assert f"of {planned} planned points" not in recovery.about(recording)


def test_a_complete_recording_lacks_nothing(recording):
    runs = drop_recovery.plan("small_resnet", gpu=False)
    recording["points"] = [
        point(91.0, **key) for run in runs for key in drop_recovery.keys(run, "small_resnet")
    ]
    assert "not complete" not in recovery.about(recording | {"name": "cpu-2core"})


def test_points_are_found_by_what_they_are(recording):
    assert len(recordings.points(recording)) == 6
    assert [each["seed"] for each in recordings.points(recording, schedule="constant")] == [0, 1, 0]
    assert recordings.points(recording, granularity="channels") == []


def test_gaps_are_given_for_each_seed(recording):
    lost = recovery.gaps(recording, "weights", 0.9, 0.2, schedule="constant")
    assert lost == [1.0, 2.0]
    assert recovery.gap(recording, "weights", 0.9, 0.2, schedule="constant") == 1.5
    assert recovery.gap(recording, "weights", 0.9, 0.2, method="scratch") == 32.0
    assert recovery.gap(recording, "weights", 0.9, 0.05) == 12.0


def test_the_schedule_is_chosen_on_validation_pictures(recording):
    assert recovery.gap(recording, "weights", 0.9) == pytest.approx(1.2)  # 91.8 beats 91.5


def test_a_gap_has_the_interval_of_pictures_and_of_seeds(recording):
    where = (recording, "weights", 0.9)
    single = recovery.gap_estimate(*where, method="scratch")
    assert single == pytest.approx(quality_of(92.0, 60.0))
    several = recovery.gap_estimate(*where, schedule="constant")
    assert several.value == 1.5
    assert several.high - several.value > estimates.over_seeds([1.0, 2.0]).high - 1.5
    recording["points"][-1] |= {"only_dense": 3300, "only_pruned": 100}
    paired = recovery.gap_estimate(*where, method="scratch")
    assert paired.value == pytest.approx(32.0) and paired.high < single.high
    assert recovery.gap_estimate(*where, 1.0) is None


def test_a_lead_is_paired_by_seed(recording):
    recording["points"][3] |= {"accuracy": 89.8}  # both seeds are ahead by -0.2
    ways = {"schedule": "rewound"}, {"schedule": "constant"}
    lead = recovery.lead(recording, "weights", 0.9, *ways)
    alone = estimates.unpaired(92.0, 91.0, recovery.TEST_PICTURES)
    assert lead.value == pytest.approx(-0.2)
    assert lead.high - lead.value == pytest.approx(math.sqrt(2) * (alone.high - 1), abs=0.02)
    recording["points"][2] |= {"accuracy": 91.8}  # now by 0.8 and -0.2
    wider = recovery.lead(recording, "weights", 0.9, *ways)
    assert wider.value == pytest.approx(0.3) and wider.high - wider.value > 6


def test_a_lead_needs_a_seed_in_common(recording):
    ways = {"method": "scratch"}, {"schedule": "constant", "epoch_fraction": 0.05}
    one = recovery.lead(recording, "weights", 0.9, *ways)
    assert one.value == pytest.approx(-20) and one.high - one.value < 2  # the pictures only
    recording["points"][-1]["seed"] = 7
    assert recovery.lead(recording, "weights", 0.9, *ways) is None
    assert recovery.lead(recording, "channels", 0.5, *ways) is None


def quality_of(dense, accuracy):
    return estimates.unpaired(dense, accuracy, recovery.TEST_PICTURES)


def test_so_is_the_constant_rate(recording):
    for seed in (0, 1):
        recording["points"] += [point(91.3, 91.4, lr=0.02, seed=seed)]
        recording["points"] += [point(90.1, 91.9, lr=0.06, seed=seed)]
    recording["points"] += [point(91.9, 92.5, lr=0.1)]  # a single training does not compete
    assert recovery.gap(recording, "weights", 0.9, schedule="constant") == pytest.approx(1.9)


def test_what_is_not_recorded_is_nan_and_is_left_out_of_a_claim(recording):
    missing = recovery.gap(recording, "channels", 0.5)
    assert math.isnan(missing)
    assert recovery.gaps(recording, "weights", 0.9, 1.0) == []
    assert claims.known({"a": missing, "b": 1.5}) == {"b": 1.5}


@pytest.mark.parametrize(
    ("lost", "smallest"),
    [({0.2: 1.0, 0.1: 2.0, 0.05: 3.0}, 0.1), ({0.1: math.nan, 0.2: 1.0}, 0.2), ({0.1: 3.0}, None)],
)
def test_the_smallest_budget_that_is_enough(lost, smallest):
    assert recovery.smallest_budget(lost, 2.0) == smallest


# --- intervals against what happens over many test sets ------ ------------------------------------

N, SETS = 2000, 4000


def covered(intervals, truth):
    return np.mean([low <= truth <= high for low, high in intervals])


def test_the_interval_of_a_difference_holds_the_truth_95_times_in_100():
    random = np.random.default_rng(0)
    first, second = (random.binomial(N, share, SETS) / N * 100 for share in (0.92, 0.90))
    found = [quality.difference_interval(a, b, N) for a, b in zip(first, second, strict=True)]
    assert 0.94 < covered(found, 2.0) < 0.96


def test_the_paired_interval_holds_the_truth_95_times_in_100_and_is_narrower():
    # Of the pictures 5 % are right in the first network only, 3 % in the second only.
    random = np.random.default_rng(0)
    counts = random.multinomial(N, [0.05, 0.03, 0.87, 0.05], SETS)
    found = [quality.paired_interval(int(a), int(b), N) for a, b, *_ in counts]
    assert 0.94 < covered(found, 2.0) < 0.96
    apart = quality.difference_interval(92.0, 90.0, N)
    assert np.ptp(found[0]) < 0.8 * np.ptp(apart)


@pytest.mark.parametrize("case", EXERCISES["04.3"].cases())
def test_the_learner_builds_the_smallest_budget(case):
    assert recovery.smallest_budget(*case) == EXERCISES["04.3"].reference(*case)


@pytest.mark.parametrize("case", EXERCISES["04.4"].cases())
def test_the_learner_builds_the_interval_of_a_difference(case):
    found = quality.difference_interval(*case)
    assert found == pytest.approx(EXERCISES["04.4"].reference(*case))
