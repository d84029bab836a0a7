"""Invalid recordings are refused, and no recording is overwritten by another."""

import copy
import json
import subprocess
import sys
from typing import get_args

import pytest

from course_lib import PROJECT
from course_lib.__main__ import main
from course_lib.experiments import recordings
from course_lib.experiments.recordings import (
    RecordingError,
    check,
    file_of,
    listed,
    load,
    points,
    read,
    resume,
    write,
)
from course_lib.experiments.records import RECORDS
from course_lib.experiments.registry import EXPERIMENTS
from course_lib.measuring.machine import gpu_slug, machine_facts

QUALITY = {"accuracy": 90.5, "interval": [89.9, 91.0], "validation": 91}
SIZE = {"parameters": 27, "macs": 850}
PRUNED = {"granularity": "weights", "amount": 0.5}
POINT = (
    PRUNED
    | {"method": "one-shot", "schedule": "constant", "epoch_fraction": 0.2, "seed": 0}
    | {"epochs": 2.4, "lr": 0.006}
    | QUALITY
)
RECORDING = {
    "schema": recordings.SCHEMA,
    "experiment": "drop_recovery",
    "command": "python -m course_lib record drop_recovery --model small_resnet",
    "model": "small_resnet",
    "weights": "0123abcd",
    "recipe": {"epochs": 12, "lr": 0.2},
    "machine": {"processor": "abacus", "threads": "1"},
    "started": "2026-01-31",
    "written": "2026-02-01",
    "seeds": [0],
    "dense": QUALITY | SIZE,
    "pruned": [PRUNED | QUALITY | SIZE],
    "recalibrated": [PRUNED | QUALITY],
    "points": [POINT, POINT | {"seed": 1}],
}

TIMED = {"median": 2.5, "quartiles": [2.0, 3], "rounds": 30, "speedup": 0.4, "interval": [0, 0.5]}
CEILING = {"dtype": "float32", "bandwidth": 1e9, "rate": 2e9}
PRODUCT = {"matrix": "square 8", "rows": 8, "columns": 8, "batch": 1, "dtype": "float32"}
PRODUCT |= {"target_sparsity": 0.9, "format": "CSR"}
HEADER = {key: RECORDING[key] for key in ("schema", "command", "machine", "started", "written")}
SPARSE = (
    HEADER
    | {"experiment": "sparse_vs_dense", "seed": 0}
    | {"device": "cpu", "rooflines": [CEILING], "zeros": [{"dtype": "float32", "size": 8} | TIMED]}
    | {
        "points": [
            PRODUCT | {"sparsity": 0.89, "bytes": 92, "convert": 0.1, "error": 0} | TIMED,
        ],
        "refused": [PRODUCT | {"why": "it cannot be had"}],
    }
)
STRUCTURED = (
    HEADER
    | {"experiment": "structured_speedup", "model": "resnet18", "weights": "0123abcd"}
    | {"device": "cpu", "rooflines": [CEILING]}
    | {
        "points": [
            {"part": "chain", "removed": 0, "batch": 1, "dtype": "float32"}
            | {"parameters": 27, "macs": 850, "predicted": 1.5}
            | TIMED
        ],
        "staircase": [{"channels": 8, "batch": 1, "dtype": "float32", "macs": 9} | TIMED],
    }
)
COMPRESSION = (
    HEADER
    | {"experiment": "compression", "model": "resnet18", "weights": "0123abcd"}
    | {
        "networks": [
            {
                "name": "both",
                "source": "channels",
                "fake_quantized": False,
                "channels": 0,
                "weights": 0.8,
            }
            | {"codebook_size": 15, "epoch_fraction": 0.2}
        ],
        "points": [
            {"network": "both", "form": "int8", "bytes": 92}
            | {"one thread": TIMED, "two threads": TIMED}
            | QUALITY
            | SIZE
        ],
        "packed": [
            {"network": "both", "bytes": 92, "bound": 90, "packing": 96.5, "unpacking": 175}
        ],
    }
)
TRANSFORMER = (
    HEADER
    | {"experiment": "transformer", "model": "minilm", "weights": "0123abcd"}
    | {"recipe": {"epochs": 3, "lr": 5e-5}}
    | {key: COMPRESSION[key] for key in ("points", "packed")}
    | {
        "layers": [{"layer": 0, "accuracy": -1.5, "loss": 0.02}],
        "heads": [{"layer": 0, "head": 3, "accuracy": 0.25, "loss": -0.001}],
        "one_shot": [{"method": "Wanda", "pattern": "2:4"} | QUALITY],
        "retrained": [{"method": "Wanda", "pattern": "2:4", "bytes": 9} | QUALITY],
        "networks": [
            {"name": "half", "source": "dense", "layers": 0, "heads": 0.5, "neurons": 0.5}
            | {
                "weights": 0,
                "codebook_size": 0,
                "epoch_fraction": 0.2,
                "distilled": True,
                "before": QUALITY,
            }
        ],
        "operators": [{"operator": "Softmax", "runs_in": "float32", "count": 6}],
    }
)
DISTILLATION = (
    HEADER
    | {"experiment": "distillation", "model": "resnet18", "weights": "0123abcd"}
    | {"recipe": {"epochs": 12, "lr": 0.1, "removed": 0.875}}
    | {"cost": {"ratio": 2.5, "interval": [2.4, 3], "rounds": 30, "labels": 9.5, "teacher": 24}}
    | {"points": [{"method": "pruned", "time_fraction": 0, "seed": 1, "epochs": 0} | QUALITY]}
    | {"deployed": COMPRESSION["points"], "packed": COMPRESSION["packed"]}
)
SPEEDS = {
    "transformer": TRANSFORMER,
    "distillation": DISTILLATION,
    "sparse_vs_dense": SPARSE,
    "structured_speedup": STRUCTURED,
    "compression": COMPRESSION,
}


@pytest.fixture
def recording():
    return copy.deepcopy(RECORDING)


@pytest.fixture
def path(tmp_path, recording):
    return write(recording, tmp_path / "recordings" / "abacus" / "drop_recovery-small_resnet.json")


# --- writing and reading ------------------------------------------------------------------------


def test_what_was_written_is_loaded_by_machine(path, recording, tmp_path):
    other = path.parents[1] / "h100" / path.name
    write(recording | {"seeds": [0, 1]}, other)
    loaded = load("drop_recovery", "small_resnet", tmp_path)
    assert [*loaded] == ["abacus", "h100"]
    assert loaded["abacus"] == recording and loaded["h100"]["seeds"] == [0, 1]


def test_no_recording_is_no_error(path, tmp_path):
    assert load("drop_recovery", "resnet18", tmp_path) == {}


def test_a_file_has_a_line_for_each_point(path):
    lines = path.read_text().splitlines()
    points = [json.loads(line.strip().rstrip(",")) for line in lines if '"epoch_fraction"' in line]
    assert points == RECORDING["points"]


def test_an_invalid_number_is_not_written(path, recording):
    before = path.read_text()
    recording["points"][0]["accuracy"] = float("nan")
    with pytest.raises(ValueError):
        write(recording, path)
    assert path.read_text() == before


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\0", '{"schema": 1'])
def test_a_damaged_file_is_refused_with_its_name(path, text, tmp_path):
    path.write_text(text)
    with pytest.raises(RecordingError, match=r"small_resnet\.json is not a valid rec"):
        load("drop_recovery", "small_resnet", tmp_path)


# --- the schema ---------------------------------------------------------------------------------


def test_a_whole_recording_is_accepted(recording):
    assert check(recording, "drop_recovery") is recording


@pytest.mark.parametrize("field", [*RECORDING])
def test_each_field_must_be_there(recording, field):
    del recording[field]
    with pytest.raises(RecordingError, match=f"lacks '{field}'"):
        check(recording, "drop_recovery")


@pytest.mark.parametrize("field", [*POINT])
def test_each_field_of_each_point_must_be_there(recording, field):
    del recording["points"][1][field]
    with pytest.raises(RecordingError, match=f"points, entry 1 lacks '{field}'"):
        check(recording, "drop_recovery")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("seed", 0.5, "seed must be a whole number; got 0.5"),
        ("seed", True, "seed must be a whole number"),
        ("seed", None, "seed must be a whole number"),
        ("amount", "0.5", "amount must be a number; got '0.5'"),
        ("epochs", float("inf"), "epochs must be a number"),
        ("lr", float("nan"), "lr must be a number"),
        ("granularity", 3, "granularity must be a string"),
        ("accuracy", 100.1, "accuracy must be a number from 0 to 100; got 100.1"),
        ("validation", -1, "validation must be a number from 0 to 100"),
        ("accuracy", float("nan"), "accuracy must be a number from 0"),
        ("interval", [91.0, 89.9], "interval must be two numbers from 0 to 100, the lower first"),
        ("interval", [91.0], "interval must be two numbers"),
        ("interval", 91.0, "interval must be two numbers"),
    ],
)
def test_a_field_of_another_kind_is_refused(recording, place, value, message):
    recording["points"][0][place] = value
    with pytest.raises(RecordingError, match=f"points, entry 0: {message}"):
        check(recording, "drop_recovery")


@pytest.mark.parametrize("value", [1, "true", None])
def test_a_switch_is_true_or_false(value):
    recording = copy.deepcopy(TRANSFORMER)
    recording["networks"][0]["distilled"] = value
    with pytest.raises(RecordingError, match="distilled must be true or false; got"):
        check(recording, "transformer")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("schema", recordings.SCHEMA + 1, f"its schema is {recordings.SCHEMA + 1}"),
        ("experiment", "speed", "its experiment is 'speed', not 'drop_recovery'"),
        ("points", {}, "points must be a list"),
        ("points", [3], "points, entry 0 must be an object"),
        ("machine", "abacus", "machine must be an object"),
        ("recipe", {"epochs": 12}, "recipe lacks 'lr'"),
    ],
)
def test_a_wrong_header_is_refused(recording, field, value, message):
    with pytest.raises(RecordingError, match=message):
        check(recording | {field: value}, "drop_recovery")


def test_an_unknown_experiment_is_refused_with_the_choices(recording):
    with pytest.raises(RecordingError, match=r"no experiment 'speed'.*drop_recovery"):
        check(recording, "speed")


@pytest.mark.parametrize("experiment", SPEEDS)
def test_a_whole_recording_of_speed_is_accepted_as_it_is_written(experiment, tmp_path):
    path = write(copy.deepcopy(SPEEDS[experiment]), tmp_path / "a.json")
    assert read(path, experiment)["points"] == SPEEDS[experiment]["points"]


def holes(recording: dict) -> list[tuple]:
    """Every field that a recording could lack: the table that it is in, if any, and its name."""
    lists = [name for name, value in recording.items() if isinstance(value, list)]
    inner = [(name, field) for name in lists for field in recording[name][0]]
    return [(None, field) for field in recording if field not in ("schema", "experiment")] + inner


@pytest.mark.parametrize(
    ("experiment", "entries", "field"),
    [(name, *hole) for name, recording in SPEEDS.items() for hole in holes(recording)],
)
def test_each_field_of_a_recording_of_speed_must_be_there(experiment, entries, field):
    recording = copy.deepcopy(SPEEDS[experiment])
    del (recording[entries][0] if entries else recording)[field]
    with pytest.raises(RecordingError, match=f"{entries or 'recording'}.* lacks '{field}'"):
        check(recording, experiment)


@pytest.mark.parametrize(
    "value",
    [[3.0, 2.0], [-0.1, 1], [1.0], [1, 2, 3], 2.0, "2", [1, float("inf")], [float("nan"), 1]],
    ids=str,
)
@pytest.mark.parametrize("field", ["quartiles", "interval"])
@pytest.mark.parametrize(
    ("experiment", "entries"),
    [("sparse_vs_dense", "points"), ("sparse_vs_dense", "zeros"), ("structured_speedup", "points")],
)
def test_an_invalid_range_is_refused(experiment, entries, field, value):
    recording = copy.deepcopy(SPEEDS[experiment])
    recording[entries][0][field] = value
    message = f"{entries}, entry 0: {field} must be two numbers not below 0, the lower first; got"
    with pytest.raises(RecordingError, match=message):
        check(recording, experiment)


@pytest.mark.parametrize("value", [[0, 0], [0.5, 0.5], [0, 1e9], [140.5, 230]])
def test_a_range_may_be_any_that_is_not_below_zero(value):
    recording = copy.deepcopy(STRUCTURED)
    recording["staircase"][0]["quartiles"] = value
    assert check(recording, "structured_speedup") is recording


@pytest.mark.parametrize("value", [[0, 100.5], [-1, 3]])
def test_an_interval_of_accuracies_ends_at_100(recording, value):
    recording["dense"] = recording["dense"] | {"interval": value}
    with pytest.raises(RecordingError, match="two numbers from 0 to 100"):
        check(recording, "drop_recovery")


# --- listing and reading ------------------------------------------------------------------------


@pytest.fixture
def shelf(path, tmp_path):
    """Recordings of several experiments on two machines; one of them was set aside."""
    for machine in ("abacus", "h100"):
        write(
            copy.deepcopy(STRUCTURED),
            path.parents[1] / machine / "structured_speedup-resnet18.json",
        )
    write(copy.deepcopy(SPARSE), path.parents[1] / "h100" / "sparse_vs_dense.json")
    (path.parent / "sparse_vs_dense.aside-20260131T101010.json").write_text("{")
    (path.parent / "claims.json").write_text("{")
    return tmp_path


def test_all_recordings_are_listed_by_experiment(shelf):
    assert [each[:3] for each in listed(shelf)] == [
        ("abacus", "drop_recovery", "small_resnet"),
        ("h100", "sparse_vs_dense", ""),
        ("abacus", "structured_speedup", "resnet18"),
        ("h100", "structured_speedup", "resnet18"),
    ]
    assert [each.points for each in listed(shelf)] == [2, 1, 1, 1]


def test_a_listed_recording_is_a_line(shelf):
    first, second, *_ = listed(shelf)
    assert str(first).split()[:6] == [
        "abacus",
        "drop_recovery",
        "small_resnet",
        "2",
        "points,",
        "written",
    ]
    assert str(second).split()[:4] == ["h100", "sparse_vs_dense", "1", "points,"]
    assert str(second).endswith(
        read(next(shelf.rglob("h100/sparse*")), "sparse_vs_dense")["written"]
    )


def test_where_nothing_is_recorded_nothing_is_listed(tmp_path):
    assert listed(tmp_path) == []


def test_a_damaged_recording_is_named(shelf):
    (shelf / "recordings" / "h100" / "sparse_vs_dense.json").write_text("{")
    with pytest.raises(RecordingError, match=r"sparse_vs_dense\.json is not a valid rec"):
        listed(shelf)


def test_the_command_lists_what_is_there(shelf, monkeypatch, capsys):
    monkeypatch.setattr(listed, "__defaults__", (shelf,))
    assert main(["recordings"]) == 0
    assert capsys.readouterr().out.splitlines() == [str(each) for each in listed(shelf)]


def test_the_command_names_a_damaged_recording(shelf, monkeypatch, capsys):
    (shelf / "recordings" / "h100" / "sparse_vs_dense.json").write_text("{")
    monkeypatch.setattr(listed, "__defaults__", (shelf,))
    assert main(["recordings"]) == 1
    said = capsys.readouterr()
    assert "sparse_vs_dense.json is not a valid recording" in said.err and not said.out


@pytest.mark.slow
def test_the_recordings_of_the_course_are_whole():
    done = subprocess.run(
        [sys.executable, "-m", "course_lib", "recordings"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = {tuple(line.split()[:2]) for line in done.stdout.splitlines()}
    assert found == {each[:2] for each in listed()}


@pytest.mark.parametrize(
    ("what", "found"),
    [
        ({}, [0, 1, 2, 3]),
        ({"granularity": "weights"}, [0, 1, 3]),
        ({"granularity": "weights", "seed": 0}, [0, 3]),
        ({"amount": 0.9, "granularity": "weights"}, [3]),
        ({"granularity": "heads"}, []),
    ],
)
def test_points_are_those_that_agree(recording, what, found):
    others = [POINT | {"granularity": "channels"}, POINT | {"amount": 0.9}]
    recording["points"] += others
    assert points(recording, **what) == [recording["points"][number] for number in found]


@pytest.mark.parametrize(
    ("model", "name"),
    [(None, "sparse_vs_dense.json"), ("resnet18", "sparse_vs_dense-resnet18.json")],
)
def test_a_file_is_called_after_experiment_and_model(model, name, tmp_path, monkeypatch):
    monkeypatch.setattr(recordings, "machine_name", lambda: "abacus")
    path = file_of("sparse_vs_dense", model, tmp_path)
    assert path == tmp_path / "recordings" / "abacus" / name
    write(copy.deepcopy(SPARSE), path)
    assert [*load("sparse_vs_dense", model, tmp_path)] == ["abacus"]
    assert load("sparse_vs_dense", "small_resnet", tmp_path) == {}


# --- resuming -----------------------------------------------------------------------------------


@pytest.mark.parametrize("experiment", SPEEDS)
def test_a_recording_of_speed_is_resumed(experiment, tmp_path):
    begun = copy.deepcopy(SPEEDS[experiment])
    path = write(copy.deepcopy(begun), tmp_path / "a.json")
    found, story = resume(begun, path)
    assert found["points"] == begun["points"] and "Resuming" in story


def test_a_recording_is_resumed(path, recording):
    found, story = resume(recording | {"started": "2027-01-01"}, path)
    assert found == RECORDING | {"written": recording["written"]}
    assert "Resuming" in story and path.exists()


def test_without_a_file_a_new_recording_starts(recording, tmp_path):
    found, story = resume(recording, tmp_path / "new.json")
    assert found == {} and "new recording" in story


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting"),
        (json.dumps(RECORDING | {"schema": 0}), "its schema is 0"),
        (json.dumps(RECORDING | {"model": "resnet18"}), "Different model"),
        (json.dumps(RECORDING | {"weights": "ffff"}), "Different weights"),
        (
            json.dumps(RECORDING | {"recipe": RECORDING["recipe"] | {"lr": 0.1}}),
            "Different recipe",
        ),
    ],
    ids=["damaged", "schema", "model", "weights", "recipe"],
)
def test_what_cannot_be_resumed_is_set_aside_whole(path, recording, text, reason):
    for _ in range(2):  # twice within a second: the second file needs a different name
        path.write_text(text)
        found, story = resume(recording, path)
        assert found == {} and not path.exists()
        assert reason in story and "set aside as drop_recovery-small_resnet.aside-" in story
    aside = [*path.parent.iterdir()]
    assert [file.read_text() for file in aside] == [text] * 2
    assert load("drop_recovery", "small_resnet", path.parents[2]) == {}


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        ({"processor": "abacus", "threads": "2"}, "threads '1', not '2'"),
        ({"processor": "abacus"}, "threads '1', not None"),
        ({"processor": "abacus", "threads": "1", "torch": "3"}, "torch None, not '3'"),
    ],
)
def test_times_of_another_machine_are_left_as_they_are(tmp_path, machine, message):
    path = write(copy.deepcopy(SPARSE), tmp_path / "a.json")
    before = path.read_text()
    with pytest.raises(RecordingError, match=message):
        resume(SPARSE | {"machine": machine}, path)
    assert path.read_text() == before and [*path.parent.iterdir()] == [path]


def test_accuracies_are_resumed_on_another_machine_which_is_noted(path, recording):
    first, second = recording["machine"], {"processor": "slide rule", "threads": "2"}
    for machine, machines in (
        (first, None),
        (second, [first, second]),
        (first, [first, second]),
    ):
        found, _ = resume(recording | {"machine": machine}, path)
        assert found["machine"] == first and found.get("machines") == machines
        write(found, path)


# --- the machine --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-40GB", "a100"),
        ("Tesla V100-SXM2-16GB", "v100"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA", "gpu"),
    ],
)
def test_a_gpu_is_called_by_its_model(name, slug):
    assert gpu_slug(name) == slug


def test_this_machine_has_a_folder_and_facts(tmp_path):
    path = recordings.file_of("drop_recovery", "resnet18", tmp_path)
    assert path.parent.parent == tmp_path / "recordings"
    assert path.name == "drop_recovery-resnet18.json"
    assert all(machine_facts().values())
    with pytest.raises(RecordingError, match="No such file"):
        read(path, "drop_recovery")


# --- recordings of an earlier schema ------------------------------------------------------------


def test_fields_of_an_earlier_schema_get_their_new_names(tmp_path):
    old = json.loads(json.dumps(RECORDING).replace("granularity", "style"))
    old = json.loads(json.dumps(old).replace("epoch_fraction", "budget")) | {"schema": 1}
    old["points"][0]["method"], old["recipe"]["constant_factor"] = "iterative", 0.03
    del old["recalibrated"]
    (path := tmp_path / "a.json").write_text(json.dumps(old))
    before = path.read_bytes()
    expected = copy.deepcopy(RECORDING) | {"recalibrated": []}
    expected["points"][0]["method"] = "gradual"
    assert read(path, "drop_recovery") == expected
    assert path.read_bytes() == before


def test_every_experiment_has_the_type_of_its_recording():
    assert RECORDS.keys() == EXPERIMENTS.keys()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_renamed_field_is_one_of_the_current_schema(name):
    record = RECORDS[name]
    tables = [recordings.fields_of(record)[table] for table in recordings.tables_of(record)]
    fields = {field for table in tables for field in recordings.fields_of(*get_args(table))}
    fields |= recordings.fields_of(recordings.fields_of(record).get("recipe", record)).keys()
    for old, new in recordings.RENAMED.get(name, {}).items():
        assert new in fields and old not in fields
