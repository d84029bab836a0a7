"""Networks with fewer channels are really smaller; a recording resumes after an interruption."""

import json
from itertools import pairwise, product

import pytest
import torch
from interruptions import interrupt
from torch import nn

from course_lib.__main__ import main
from course_lib.experiments import recorder, recordings, structured_speedup
from course_lib.experiments.recorder import record
from course_lib.experiments.structured_speedup import (
    BATCHES,
    DTYPES,
    PARTS,
    REMOVED,
    STAIRCASE,
    build,
    example,
    measure,
    placed,
    staircase,
)
from course_lib.measuring import cost
from course_lib.measuring.cost import Roofline
from course_lib.measuring.machine import machine_facts
from course_lib.measuring.timing import Comparison, Timing, compare
from course_lib.networks.models import load_trained

ROOF = Roofline(bandwidth=1e9, rate=2e9)


def parameters(model: nn.Module) -> int:
    return sum(each.numel() for each in model.parameters())


# --- what is built ------------------------------------------------------------------------------


def test_widths_are_all_down_to_a_fifth():
    assert REMOVED == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    assert BATCHES == (1, 8, 64) and DTYPES["cuda"] == ("float16", "float32")
    assert [*STAIRCASE] == [*range(48, 73)]  # a step of 8 or 16 channels must show


@pytest.mark.parametrize(("removed", "left"), [(0.0, 256), (0.1, 230), (0.5, 128), (0.8, 51)])
def test_outputs_are_one_convolution_that_loses_outputs(removed, left):
    model = build("outputs", removed)
    (layer,) = (each for each in model if isinstance(each, nn.Conv2d))
    assert layer.weight.shape == (left, 256, 3, 3)
    assert model(example(model, 2)).shape == (2, left, 14, 14)


@pytest.mark.parametrize(("removed", "left"), [(0.0, 256), (0.1, 230), (0.5, 128), (0.8, 51)])
def test_chain_loses_inputs_and_outputs_of_three_convolutions(removed, left):
    model = build("chain", removed)
    layers = [each for each in model if isinstance(each, nn.Conv2d)]
    assert [layer.weight.shape for layer in layers] == [(left, left, 3, 3)] * 3
    inputs = example(model, 2)
    assert inputs.shape == model(inputs).shape == (2, left, 14, 14)


@pytest.fixture(scope="module")
def networks():
    """Trained networks, with all and with half of their channels."""
    return {
        (name, removed): build(name, removed)
        for name in ("small_resnet", "resnet18")
        for removed in (0.0, 0.5)
    }


@pytest.mark.parametrize("name", ["small_resnet", "resnet18"])
def test_networks_without_half_of_their_channels_are_really_smaller(networks, name):
    whole, half = networks[name, 0.0], networks[name, 0.5]
    pictures = example(whole, 1)
    assert 0.2 < parameters(half) / parameters(whole) < 0.3
    assert 0.2 < cost.macs(half, pictures) / cost.macs(whole, pictures) < 0.35
    assert half(pictures).shape == whole(pictures).shape == (1, 10)


@pytest.mark.parametrize("name", ["small_resnet", "resnet18"])
def test_nothing_removed_is_the_trained_network_itself(networks, name):
    trained, found = load_trained(name).state_dict(), networks[name, 0.0].state_dict()
    assert all(torch.equal(found[key], value) for key, value in trained.items())


@pytest.mark.parametrize("part", PARTS)
def test_what_is_built_is_ready_for_inference(networks, part):
    for removed in (0.0, 0.5):
        model = networks.get((part, removed)) or build(part, removed)
        assert not any(layer.training for layer in model.modules())
        assert {each.device.type for each in model.parameters()} == {"cpu"}


def test_an_unknown_part_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"no part 'vgg'; choose from outputs, chain, resnet18"):
        build("vgg", 0.5)


# --- inputs -------------------------------------------------------------------------------------


def test_inputs_are_repeatable_and_leave_the_random_numbers_alone():
    model = build("chain", 0.5)
    before = torch.get_rng_state()
    first, again = example(model, 3), example(model, 3)
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(first, again)
    assert first.shape == (3, 128, 14, 14)
    assert not torch.equal(first, example(model, 3, seed=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_network_and_inputs_have_channels_last(dtype):
    model = placed(build("chain", 0.5), "cpu", dtype)
    inputs = example(model, 3)
    for tensor in (model[0].weight, inputs):
        assert tensor.dtype == dtype and tensor.is_contiguous(memory_format=torch.channels_last)


def test_networks_are_given_pictures(networks):
    assert example(networks["resnet18", 0.5], 5).shape == (5, 1, 28, 28)


# --- measuring ----------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """Real times of small convolutions."""
    monkeypatch.setattr(structured_speedup, "WIDTH", 16)
    monkeypatch.setattr(structured_speedup, "SIDE", 6)
    return {"rounds": 6, "seconds": 0}


@pytest.mark.slow
@pytest.mark.parametrize("part", ["outputs", "chain", "small_resnet"])
def test_points_say_what_each_width_costs(quick, part):
    removed = (0.0, 0.25, 0.75)
    points = measure(part, 2, removed, roof=ROOF, **quick)
    assert [point["removed"] for point in points] == [*removed]
    for point in points:
        model = build(part, point["removed"])
        inputs = example(model, 2)
        assert point["macs"] == cost.macs(model, inputs)
        assert point["parameters"] == parameters(model)
        work = cost.work(model, inputs).values()
        assert point["predicted"] == pytest.approx(sum(map(ROOF.milliseconds, work)), rel=1e-3)
        assert point["predicted"] * ROOF.rate / 1000 >= 0.999 * point["macs"]
        assert (point["part"], point["batch"], point["dtype"]) == (part, 2, "float32")
    for field in ("parameters", "macs", "predicted"):
        assert all(wider[field] > narrower[field] for wider, narrower in pairwise(points))
    assert points[0]["speedup"] == 1 and points[0]["interval"] == [1, 1]


def test_steps_of_the_staircase_are_one_convolution_with_so_many_channels(quick):
    points = staircase(2, range(5, 8), **quick)
    assert [point["channels"] for point in points] == [5, 6, 7]
    assert [point["macs"] for point in points] == [2 * 6 * 6 * n * n * 9 for n in (5, 6, 7)]
    assert points[-1]["speedup"] == 1 and points[-1]["interval"] == [1, 1]


@pytest.fixture
def pretended(monkeypatch):
    """Times that depend only on the position: the first candidate takes 1 ms, the next 2, ..."""
    asked = []

    def pretend(candidates, **options):
        asked.append((tuple(candidates), options))
        times = {name: Timing((place,) * 6) for place, name in enumerate(candidates, 1)}
        for run in candidates.values():
            run()
        return Comparison(times, {})

    monkeypatch.setattr(structured_speedup, "compare", pretend)
    return asked


def test_speedups_are_over_the_whole_width(quick, pretended):
    points = measure("chain", 1, (0.0, 0.5, 0.75), roof=ROOF, **quick)
    assert [point["median"] for point in points] == [1, 2, 3]
    assert [point["speedup"] for point in points] == [1, 0.5, 0.3333]
    assert pretended == [(("0.0", "0.5", "0.75"), quick | {"limit": 30})]


def test_speedups_of_the_staircase_are_over_the_most_channels(quick, pretended):
    points = staircase(1, (4, 5, 6), **quick)
    assert [point["speedup"] for point in points] == [3, 1.5, 1]
    assert pretended == [(("4", "5", "6"), quick | {"limit": 30})]


# --- the recording ------------------------------------------------------------------------------

WANTED = [
    (part, batch, dtype)
    for dtype in ("float32", "bfloat16")
    for batch in (1, 2)
    for part in ("outputs", "chain", "staircase")
]


@pytest.fixture
def few(quick, monkeypatch):
    """A plan of twelve comparisons of small convolutions, on a CPU with a given roofline."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(structured_speedup, "PARTS", ("outputs", "chain"))
    monkeypatch.setattr(structured_speedup, "BATCHES", (1, 2))
    monkeypatch.setitem(DTYPES, "cpu", ("float32", "bfloat16"))
    monkeypatch.setattr(measure, "__defaults__", ((0.0, 0.5),))
    monkeypatch.setattr(staircase, "__defaults__", ((4, 5),))
    monkeypatch.setattr(structured_speedup, "roofline", lambda device, dtype: ROOF)


def said(recording: dict) -> list[tuple]:
    """The identifying fields of the points of a recording."""
    points = [
        (point["part"], point["removed"], point["batch"], point["dtype"])
        for point in recording["points"]
    ]
    steps = recording["staircase"]
    return points + [(step["channels"], step["batch"], step["dtype"]) for step in steps]


EXPECTED = {*product(("outputs", "chain"), (0.0, 0.5), (1, 2), ("float32", "bfloat16"))} | {
    *product((4, 5), (1, 2), ("float32", "bfloat16"))
}


def test_a_recording_holds_every_part_at_every_width(few, monkeypatch, tmp_path):
    def hurried(candidates, **options):
        return compare(candidates, rounds=6, seconds=0)

    monkeypatch.setattr(structured_speedup, "compare", hurried)
    path = record("structured_speedup", path=tmp_path / "a.json", device="cpu")
    found = recordings.read(path, "structured_speedup")
    assert len(said(found)) == len(EXPECTED) and {*said(found)} == EXPECTED
    ceilings = {"bandwidth": 1e9, "rate": 2e9, "size": 2048}
    assert found["rooflines"] == [
        {"dtype": "float32"} | ceilings,
        {"dtype": "bfloat16"} | ceilings,
    ]
    assert found["model"] == "resnet18" and found["machine"] == machine_facts()
    assert all(point["median"] > 0 for point in [*found["points"], *found["staircase"]])


def test_what_is_too_slow_is_recorded_as_such_and_not_tried_again(few, monkeypatch, tmp_path):
    def pretend(candidates, **options):
        times = dict.fromkeys(candidates, Timing((2.0,) * 6))
        return Comparison(times | {next(iter(candidates)): Timing((90_000.0,))}, {})

    monkeypatch.setattr(structured_speedup, "compare", pretend)
    path = record("structured_speedup", path=tmp_path / "a.json", device="cpu")
    found = recordings.read(path, "structured_speedup")
    assert found["points"] == [], "a speed-up over a single run has no interval"
    assert [step["channels"] for step in found["staircase"]] == [5] * 4
    assert {each["why"] for each in found["refused"] if "channels" in each} == {
        "too slow here: 90 s a call"
    }
    monkeypatch.setattr(structured_speedup, "compare", None)
    record("structured_speedup", path=path, device="cpu")


def test_the_ceiling_is_that_of_the_dtype(few, pretended, monkeypatch, tmp_path):
    rates = {torch.float32: 1e3, torch.bfloat16: 2e3}  # so slow that only MACs matter
    monkeypatch.setattr(
        structured_speedup, "roofline", lambda device, dtype: Roofline(1e9, rates[dtype])
    )
    path = record("structured_speedup", path=tmp_path / "a.json", device="cpu")
    for point in recordings.read(path, "structured_speedup")["points"]:
        rate = rates[getattr(torch, point["dtype"])]
        assert point["predicted"] == pytest.approx(1000 * point["macs"] / rate, rel=1e-3)


INTERRUPTIONS = [(structured_speedup, "roofline", 1)]
INTERRUPTIONS += [(structured_speedup, "compare", after) for after in (0, 1, 2, 3, 11)]
INTERRUPTIONS += [(recordings, "write", after) for after in (1, 5)]


@pytest.mark.parametrize(("owner", "name", "after"), INTERRUPTIONS)
def test_an_interrupted_recording_ends_as_an_uninterrupted_one(
    few, pretended, tmp_path, monkeypatch, owner, name, after
):
    whole, parts = tmp_path / "whole.json", tmp_path / "parts.json"
    record("structured_speedup", path=whole, device="cpu")
    pretended.clear()
    with monkeypatch.context() as patched:
        interrupt(patched, owner, name, after)
        with pytest.raises(KeyboardInterrupt):
            record("structured_speedup", path=parts, device="cpu")
    if parts.exists():
        recordings.read(parts, "structured_speedup")  # whatever was written is a valid recording
    record("structured_speedup", path=parts, device="cpu")
    assert parts.read_text() == whole.read_text()
    assert len(pretended) == len(WANTED) + (name == "write")  # only the unwritten task is lost
    assert sorted(tmp_path.iterdir()) == [parts, whole]


def test_a_complete_recording_measures_nothing(few, pretended, tmp_path):
    path = record("structured_speedup", path=tmp_path / "a.json", device="cpu")
    before = path.read_text()
    pretended.clear()
    record("structured_speedup", path=path, device="cpu")
    assert not pretended and path.read_text() == before


def test_a_recording_of_other_weights_is_set_aside(few, pretended, tmp_path):
    path = record("structured_speedup", path=tmp_path / "a.json", device="cpu")
    recordings.write(json.loads(path.read_text()) | {"weights": "ffff"}, path)
    record("structured_speedup", path=path, device="cpu")
    assert len(pretended) == 2 * len(WANTED) and len([*tmp_path.iterdir()]) == 2


# --- the command --------------------------------------------------------------------------------


@pytest.fixture
def command(few, pretended, tmp_path):
    """The command line, and the file that it writes."""
    path = tmp_path / "folder" / "a.json"
    return lambda: main(["record", "structured_speedup", "--out", str(path)]), path


def test_command_records(command, capsys):
    record, path = command
    assert record() == 0
    assert f"wrote {path}" in capsys.readouterr().out
    assert {*said(recordings.read(path, "structured_speedup"))} == EXPECTED


def test_command_sets_a_damaged_file_aside(command, capsys):
    record, path = command
    path.parent.mkdir()
    path.write_text("[]")
    assert record() == 0
    assert "set aside" in capsys.readouterr().out
    (aside,) = path.parent.glob("a.aside-*.json")
    assert aside.read_text() == "[]" and recordings.read(path, "structured_speedup")


def test_command_says_that_it_was_stopped(command, capsys, monkeypatch):
    record, path = command
    interrupt(monkeypatch, structured_speedup, "compare", 4)
    assert record() == 130
    assert "the same command resumes" in capsys.readouterr().err
    assert len(recordings.read(path, "structured_speedup")["points"]) == 6


def test_command_does_not_resume_with_other_threads(command, capsys, monkeypatch):
    record, path = command
    record()
    before = path.read_text()
    facts = machine_facts() | {"threads": "64"}
    monkeypatch.setattr(recorder, "machine_facts", lambda: facts)
    assert record() == 1
    assert "not '64'" in capsys.readouterr().err and path.read_text() == before


def test_without_a_path_the_file_is_this_machine_s(few, pretended, tmp_path, monkeypatch):
    monkeypatch.setattr(recordings, "machine_name", lambda: "abacus")
    monkeypatch.setattr(recordings.file_of, "__defaults__", (None, tmp_path))
    path = record(
        "structured_speedup",
    )
    assert path == tmp_path / "recordings" / "abacus" / "structured_speedup-resnet18.json"
    assert [*recordings.load("structured_speedup", "resnet18", tmp_path)] == ["abacus"]
