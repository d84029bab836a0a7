"""Making, resuming and dividing a recording works the same for every experiment."""

import json
import threading
from types import SimpleNamespace
from typing import TypedDict

import pytest

from course_lib.__main__ import main
from course_lib.experiments import recorder, recordings
from course_lib.experiments.recorder import Part, merge, record
from course_lib.experiments.recordings import RecordingError
from course_lib.experiments.records import RECORDS, Header
from course_lib.experiments.registry import EXPERIMENTS, Experiment

SQUARES = [{"number": number} for number in range(7)]


class Square(TypedDict):
    number: int
    square: int
    odd: int


class Refused(TypedDict):
    number: int
    why: str


class Squares(Header):
    points: list[Square]
    refused: list[Refused]


class Toy:
    """An experiment that takes no time: squares of numbers. It notes which ones it measured."""

    def __init__(self):
        self.measured, self.constants = [], iter(range(100))

    def header(self, model, device):
        return {"recipe": {"power": 2}}

    def run(self, recording):
        recording.once(lambda: {"constant": {"value": next(self.constants)}}, "constant")
        expected = {"expected": lambda task: [task], "tables": ("points", "refused")}
        recording.each(SQUARES, self.squares, **expected)

    def squares(self, task):
        self.measured.append(task["number"])
        if task["number"] == 3:
            return {"points": [], "refused": [task | {"why": "three"}]}
        return {"points": [task | {"square": task["number"] ** 2, "odd": odd} for odd in (0, 1)]}


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "toy", Experiment("numbers"))
    monkeypatch.setitem(RECORDS, "toy", Squares)
    made = Toy()
    monkeypatch.setattr(recorder, "module_of", lambda name: made)
    return made


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(recordings.file_of, "__defaults__", (None, tmp_path))
    monkeypatch.setattr(recordings, "machine_name", lambda: "abacus")


def at_once(*parts, minutes=None):
    """Record all parts at the same time; return their files."""
    found = {}

    def one(part):
        found[part] = record("toy", part=part, minutes=minutes)

    threads = [threading.Thread(target=one, args=[part]) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[part] for part in parts]


def parts_of(count):
    return [Part(number, count) for number in range(1, count + 1)]


# --- one machine --------------------------------------------------------------------------------


def test_a_recording_is_measured_once_and_checked(toy):
    path = record("toy")
    found = recordings.read(path, "toy")
    assert path.name == "toy.json" and path.parent.name == "abacus"
    assert [point["square"] for point in found["points"]][::2] == [0, 1, 4, 16, 25, 36]
    assert found["refused"] == [{"number": 3, "why": "three"}]
    before = path.read_text()
    record("toy")
    assert toy.measured == [*range(7)] and path.read_text() == before


def test_without_minutes_it_begins_and_no_more(toy):
    path = record("toy", minutes=0)
    assert toy.measured == [] and recordings.read(path)["constant"] == {"value": 0}


@pytest.mark.parametrize(
    ("name", "model", "part", "message"),
    [
        ("nothing", None, None, "no experiment 'nothing'"),
        (
            "drop_recovery",
            None,
            None,
            "small_resnet_2 or resnet18; got None",
        ),
        ("compression", "vgg", None, "needs the model resnet18; got vgg"),
        ("sparse_vs_dense", "resnet18", None, "needs no model; got resnet18"),
        ("mixed", None, Part(1, 2), "in parts: its networks are timed alternately"),
    ],
)
def test_what_cannot_be_recorded_is_refused(name, model, part, message, tmp_path):
    with pytest.raises(RecordingError, match=message):
        record(name, model, part=part)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_command_knows_every_experiment(name, monkeypatch, capsys, tmp_path):
    asked = []
    monkeypatch.setattr(recorder, "record", lambda *given, **how: asked.append((given, how)))
    out = tmp_path / "a.json"
    assert main(["record", name, "--model", "it", "--out", str(out), "--part", "2/3"]) == 0
    assert asked == [((name, "it", out), {"part": Part(2, 3), "minutes": None})]


@pytest.mark.parametrize("text", ["", "3", "0/2", "3/2", "1/0", "-1/2", "1/2/3", "a/b", "1.0/2"])
def test_an_invalid_part_is_refused(text, capsys):
    with pytest.raises(ValueError, match="like 3/16"):
        Part.parse(text)
    if text:
        assert main(["record", "sparse_vs_dense", f"--part={text}"]) == 1


# --- parts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 7, 9])
def test_parts_at_once_give_the_file_of_one_run(toy, count, tmp_path):
    whole = record("toy", path=tmp_path / "whole.json")
    toy.measured.clear()
    toy.constants = iter([0] * count)
    paths = at_once(*parts_of(count))
    assert sorted(set(toy.measured)) == [*range(7)]
    assert paths[0].name == f"toy.part-1-of-{count}.json"
    merged = merge(reversed(paths))
    assert merged.read_text() == whole.read_text()
    assert recordings.listed(tmp_path)[0].points == 12
    before = merged.read_text()
    record("toy")
    assert merged.read_text() == before


def test_a_part_is_resumed(toy):
    path = record("toy", part=Part(2, 2), minutes=0)
    record("toy", part=Part(2, 2))
    record("toy", part=Part(2, 2))
    assert [point["number"] for point in recordings.read(path)["points"]] == [1, 1, 5, 5]


def test_what_is_measured_once_is_shared_with_a_recording_that_was_begun(toy):
    record("toy", minutes=0)
    paths = at_once(*parts_of(3))
    assert {recordings.read(path)["constant"]["value"] for path in paths} == {0}
    begun = recordings.file_of("toy")
    assert merge(paths) == begun and len([*begun.parent.glob("toy.aside-*.json")]) == 1


def test_a_recording_of_something_else_is_not_that_of_a_part(toy):
    changed(record("toy", minutes=0), recipe={"power": 3})
    with pytest.raises(RecordingError, match="does not match this part: recipe"):
        record("toy", part=Part(1, 2))


def test_the_commands_record_and_merge(toy, capsys):
    assert main(["record", "toy", "--minutes", "0"]) == 0
    for part in ("1/2", "2/2"):
        assert main(["record", "toy", "--part", part]) == 0
    folder = recordings.file_of("toy").parent
    paths = [str(path) for path in folder.glob("toy.part-*.json")]
    assert main(["recordings", "merge", *paths[:1]]) == 1
    assert "missing" in capsys.readouterr().err
    assert main(["recordings", "merge", *paths]) == 0
    assert len(recordings.read(folder / "toy.json")["points"]) == 12


def changed(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


SPOILED = {
    "another machine": (lambda path: changed(path, machine={"processor": "x"}), "same recording"),
    "another constant": (lambda path: changed(path, constant={"value": 9}), "'--minutes 0'"),
    "another recipe": (lambda path: changed(path, recipe={"power": 3}), "recipe"),
    "another division": (lambda path: changed(path, part=[2, 3]), "parts 2, not 3"),
    "given twice": (lambda path: changed(path, part=[1, 2]), "Part 1/2 is given twice"),
    "damaged": (lambda path: path.write_text("{"), "Record that part again"),
    "no object": (lambda path: path.write_text("[]"), "Record that part again"),
    "of another version": (lambda path: changed(path, schema=0), "schema is 0"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_what_does_not_belong_together_is_not_merged(toy, name):
    spoil, message = SPOILED[name]
    toy.constants = iter([0, 0])
    first, second = at_once(*parts_of(2))
    spoil(second)
    before = {path: path.read_bytes() for path in first.parent.iterdir()}
    with pytest.raises(RecordingError, match=message):
        merge([first, second])
    assert {path: path.read_bytes() for path in first.parent.iterdir()} == before


def test_a_whole_recording_is_not_a_part(toy):
    with pytest.raises(RecordingError, match="is not a part"):
        merge([record("toy")])


def test_a_missing_part_is_named(toy):
    first, _, third = at_once(*parts_of(3))
    toy.constants = iter([0] * 3)
    with pytest.raises(RecordingError, match="missing: 2/3"):
        changed(third, constant=recordings.read(first)["constant"])
        merge([first, third])


def test_entries_of_a_part_say_where_they_come_from_and_others_do_not(toy):
    part, whole = record("toy", part=Part(3, 3)), record("toy")
    assert [point["task"] for point in recordings.read(part)["points"]] == [2, 2, 5, 5]
    assert not any("task" in point for point in recordings.read(whole)["points"])


def test_hours_are_those_of_the_work_that_is_left(toy, monkeypatch, capsys):
    clock = iter(range(0, 100_000, 3600))  # an hour passes between two readings
    monkeypatch.setattr(recorder, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    record("toy")
    said = [line for line in capsys.readouterr().out.splitlines() if "hours to go" in line]
    assert said[:2] == ["about 6.0 hours to go", "about 5.0 hours to go"]
    assert said[-1] == "about 0.0 hours to go"
