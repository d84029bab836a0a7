"""A recording is refused when it is not what it should be, and is never overwritten by another."""

import copy
import json

import pytest

from course_lib import recordings
from course_lib.recordings import RecordingError, check, gpu_slug, load, read, resume, write

QUALITY = {"accuracy": 90.5, "interval": [89.9, 91.0], "validation": 91}
SIZE = {"parameters": 27, "macs": 850}
PRUNED = {"style": "weights", "amount": 0.5}
POINT = (
    PRUNED
    | {"method": "one-shot", "schedule": "constant", "budget": 0.2, "seed": 0}
    | {"epochs": 2.4, "lr": 0.006, "seconds": 98}
    | QUALITY
)
RECORDING = {
    "schema": recordings.SCHEMA,
    "experiment": "drop_recovery",
    "command": "python -m course_lib record drop_recovery --model small_resnet",
    "model": "small_resnet",
    "weights": "0123abcd",
    "recipe": {"epochs": 12, "lr": 0.2, "constant_factor": 0.03},
    "machine": {"processor": "abacus", "threads": "1"},
    "started": "2026-01-31",
    "written": "2026-02-01",
    "seeds": [0],
    "dense": QUALITY | SIZE,
    "pruned": [PRUNED | QUALITY | SIZE],
    "points": [POINT, POINT | {"seed": 1}],
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
    points = [json.loads(line.strip().rstrip(",")) for line in lines if '"budget"' in line]
    assert points == RECORDING["points"]


def test_a_number_that_is_none_is_not_written(path, recording):
    before = path.read_text()
    recording["points"][0]["accuracy"] = float("nan")
    with pytest.raises(ValueError):
        write(recording, path)
    assert path.read_text() == before


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\0", '{"schema": 1'])
def test_a_damaged_file_is_refused_with_its_name(path, text, tmp_path):
    path.write_text(text)
    with pytest.raises(RecordingError, match=r"small_resnet\.json is no recording of drop_recov"):
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
        ("seed", 0.5, "seed must be a whole number; it is 0.5"),
        ("seed", True, "seed must be a whole number"),
        ("seed", None, "seed must be a whole number"),
        ("amount", "0.5", "amount must be a number; it is '0.5'"),
        ("seconds", float("inf"), "seconds must be a number"),
        ("lr", float("nan"), "lr must be a number"),
        ("style", 3, "style must be a text"),
        ("accuracy", 100.1, "accuracy must be a number from 0 to 100; it is 100.1"),
        ("validation", -1, "validation must be a number from 0 to 100"),
        ("accuracy", float("nan"), "accuracy must be a number from 0"),
        ("interval", [91.0, 89.9], "interval must be a lower and a higher number"),
        ("interval", [91.0], "interval must be a lower"),
        ("interval", 91.0, "interval must be a lower"),
    ],
)
def test_a_field_of_another_kind_is_refused(recording, place, value, message):
    recording["points"][0][place] = value
    with pytest.raises(RecordingError, match=f"points, entry 0: {message}"):
        check(recording, "drop_recovery")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("schema", recordings.SCHEMA + 1, f"its schema is {recordings.SCHEMA + 1}"),
        ("experiment", "speed", "its experiment is 'speed', not 'drop_recovery'"),
        ("points", {}, "points must be a list"),
        ("points", [3], "points, entry 0 must be an object"),
        ("machine", "abacus", "machine must be an object"),
        ("recipe", {"epochs": 12, "lr": 0.2}, "recipe lacks 'constant_factor'"),
    ],
)
def test_a_wrong_header_is_refused(recording, field, value, message):
    with pytest.raises(RecordingError, match=message):
        check(recording | {field: value}, "drop_recovery")


def test_an_unknown_experiment_is_refused_with_the_choices(recording):
    with pytest.raises(RecordingError, match=r"no experiment 'speed'.*drop_recovery"):
        check(recording, "speed")


# --- going on -----------------------------------------------------------------------------------


def test_a_recording_goes_on(path, recording):
    found, story = resume(recording | {"started": "2027-01-01"}, path)
    assert found == RECORDING | {"written": recording["written"]}
    assert "Going on" in story and path.exists()


def test_where_there_is_none_a_new_one_begins(recording, tmp_path):
    found, story = resume(recording, tmp_path / "new.json")
    assert found is None and "new recording" in story


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting"),
        (json.dumps(RECORDING | {"schema": 0}), "its schema is 0"),
        (json.dumps(RECORDING | {"model": "resnet18"}), "another model"),
        (json.dumps(RECORDING | {"weights": "ffff"}), "another weights"),
        (
            json.dumps(RECORDING | {"recipe": RECORDING["recipe"] | {"lr": 0.1}}),
            "another recipe",
        ),
    ],
    ids=["damaged", "schema", "model", "weights", "recipe"],
)
def test_what_cannot_go_on_is_set_aside_whole(path, recording, text, reason):
    for _ in range(2):  # twice within a second: the second one needs a name of its own
        path.write_text(text)
        found, story = resume(recording, path)
        assert found is None and not path.exists()
        assert reason in story and "set aside as drop_recovery-small_resnet.aside-" in story
    aside = [*path.parent.iterdir()]
    assert [file.read_text() for file in aside] == [text] * 2
    assert load("drop_recovery", "small_resnet", path.parents[2]) == {}


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        ({"processor": "abacus", "threads": "2"}, "threads '1', now '2'"),
        ({"processor": "abacus"}, "threads '1', now None"),
        ({"processor": "abacus", "threads": "1", "torch": "3"}, "torch None, now '3'"),
    ],
)
def test_a_recording_of_another_machine_is_left_as_it_is(path, recording, machine, message):
    before = path.read_text()
    with pytest.raises(RecordingError, match=message):
        resume(recording | {"machine": machine}, path)
    assert path.read_text() == before and [*path.parent.iterdir()] == [path]


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
    assert all(recordings.machine().values())
    with pytest.raises(RecordingError, match="No such file"):
        read(path, "drop_recovery")
