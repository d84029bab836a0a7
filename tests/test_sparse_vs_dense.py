"""The experiment measures every planned product once, and resumes after an interruption."""

import json
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from interruptions import interrupt
from torch.nn import functional as F

from course_lib.__main__ import main
from course_lib.deployment import sparse
from course_lib.experiments import recorder, recordings, sparse_vs_dense
from course_lib.experiments.recorder import record
from course_lib.experiments.sparse_vs_dense import (
    CONVOLUTIONS,
    LINEAR,
    SPARSITIES,
    Case,
    against_zeros,
    inputs_of,
    plan,
    weight_of,
)
from course_lib.measuring.cost import Roofline
from course_lib.measuring.machine import machine_facts
from course_lib.measuring.timing import Comparison, Timing
from course_lib.networks.models import load_trained

# --- the plan -----------------------------------------------------------------------------------


def products(device: str) -> list[tuple]:
    """Every product of the plan: matrix, dtype, sparsity, batch."""
    return [(*case[:3], batch) for case in plan(device) for batch in case.batches]


def squares(sizes, dtypes) -> set[tuple]:
    names = [f"square {size}" for size in sizes]
    batches = [1, 8, 64, 512, 4096]
    return {*product(names, dtypes, SPARSITIES, batches)}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_product_is_measured_twice(device):
    assert len(products(device)) == len({*products(device)})


def test_sparsities_are_half_to_almost_all():
    assert SPARSITIES == (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)


def test_plan_of_a_gpu_has_every_square_with_every_batch_and_dtype():
    dtypes = ["float16", "bfloat16", "float32"]
    found = {each for each in products("cuda") if each[0].startswith("square")}
    assert found == squares([512, 1024, 2048, 4096, 8192], dtypes)


def test_plan_of_a_cpu_has_every_square_with_every_batch_in_float32():
    found = {each for each in products("cpu") if each[0].startswith("square")}
    assert found == squares([512, 1024, 2048], ["float32"]) | squares(
        [1024], ["bfloat16", "float16"]
    )


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_layers_are_those_of_networks_for_one_input_and_for_many(device):
    batches = {
        "ResNet-18 layer1.0.conv1": (196, 196 * 64),
        "ResNet-18 layer2.1.conv1": (49, 49 * 64),
        "ResNet-18 layer3.1.conv1": (16, 16 * 64),
        "ResNet-18 layer4.1.conv1": (4, 4 * 64),
        "MiniLM attention": (32, 1024),
        "MiniLM neurons": (32, 1024),
        "MiniLM output": (32, 1024),
    }
    first = plan(device)[0].dtype
    layers = [case for case in plan(device) if not case.matrix.startswith("square")]
    assert set(layers) == {
        Case(matrix, first, sparsity, batches[matrix])
        for matrix in batches
        for sparsity in SPARSITIES
    }


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_first_comes_a_whole_sweep_of_one_matrix(device):
    first = plan(device)[: len(SPARSITIES)]
    assert len({case[:2] for case in first}) == 1
    assert tuple(case.sparsity for case in first) == SPARSITIES


# --- matrices and inputs ------------------------------------------------------------------------


def test_positions_are_those_of_the_maps_in_the_network():
    network, found = load_trained("resnet18"), {}

    def note(name):
        return lambda layer, inputs, output: found.update({name: output[0, 0].numel()})

    for name in CONVOLUTIONS:
        network.get_submodule(name).register_forward_hook(note(name))
    with torch.no_grad():
        network(torch.zeros(1, 1, 28, 28))
    assert found == CONVOLUTIONS


@pytest.mark.slow
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_weight_of_a_convolution_is_the_trained_one(name):
    layer = load_trained("resnet18").get_submodule(name)
    weight = weight_of(f"ResNet-18 {name}", "float32", "cpu")
    maps = torch.randn(1, layer.in_channels, 6, 6)
    columns = F.unfold(maps, kernel_size=3)  # the pixels that each position sees
    expected = F.conv2d(maps, layer.weight).flatten(2)
    torch.testing.assert_close(weight @ columns[0], expected[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("matrix", "shape"),
    [("square 64", (64, 64))] + [(f"MiniLM {name}", shape) for name, shape in LINEAR.items()],
)
def test_other_weights_are_random_and_the_same_every_time(matrix, shape, dtype):
    weight = weight_of(matrix, dtype, "cpu")
    assert weight.shape == shape and weight.dtype == getattr(torch, dtype)
    assert torch.equal(weight, weight_of(matrix, dtype, "cpu"))
    assert not torch.equal(weight, weight_of(matrix, dtype, "cpu", seed=1))
    assert weight.float().std() == pytest.approx(1, abs=0.1)


def test_inputs_are_repeatable_and_leave_the_random_numbers_alone():
    weight = weight_of("MiniLM neurons", "bfloat16", "cpu")
    before = torch.get_rng_state()
    first, again = inputs_of(weight, 8), inputs_of(weight, 8)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.shape == (384, 8) and first.dtype == weight.dtype and torch.equal(first, again)
    assert not torch.equal(first, inputs_of(weight, 8, seed=2))
    square = weight_of("square 8", "float32", "cpu")
    assert not torch.equal(inputs_of(square, 8), square)


def test_zeros_are_timed_against_random_numbers_of_the_same_size(monkeypatch):
    seen = {}

    def pretended(candidates, **options):
        seen.update({name: run() for name, run in candidates.items()}, options=options)
        return Comparison({name: Timing((1.0,) * 6) for name in candidates}, {})

    monkeypatch.setattr(sparse_vs_dense, "compare", pretended)
    against_zeros(16, "cpu", torch.bfloat16)
    assert not seen["zeros"].any() and seen["random"].all() and seen["options"]["zeros"]
    assert seen["zeros"].shape == seen["random"].shape == (16, 16)
    assert seen["zeros"].dtype == seen["random"].dtype == torch.bfloat16


# --- the recording ------------------------------------------------------------------------------

CASES = [
    Case("square 32", "float32", 0.5, (1, 8)),
    Case("square 32", "float32", 0.9, (1, 8)),
    Case("square 64", "float32", 0.9, (4,)),
    Case("square 32", "bfloat16", 0.9, (8,)),
]
KEYS = [(*case[:3], batch) for case in CASES for batch in case.batches]


@pytest.fixture
def small(monkeypatch):
    """A CPU that takes no time, with a given roofline."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sparse_vs_dense.SECONDS, "cpu", 0)
    monkeypatch.setitem(sparse_vs_dense.SIZES, "cpu", (32,))
    monkeypatch.setattr(sparse_vs_dense, "roofline", lambda device, dtype: Roofline(1e9, 2e9))


@pytest.fixture
def few(small, monkeypatch):
    """The plan of :data:`CASES`; returns the products that are measured."""
    measured, measure = [], sparse.measure

    def noted(held, inputs, **options):
        measured.append((held["dense"].tensor, inputs))
        return measure(held, inputs, **options)

    monkeypatch.setattr(sparse_vs_dense, "plan", lambda device: CASES)
    monkeypatch.setattr(sparse, "measure", noted)
    return measured


def keys(recording: dict) -> list[tuple]:
    """The products for which ``recording`` has a dense time."""
    fields = ("matrix", "dtype", "target_sparsity", "batch")
    points = recordings.points(recording, format="dense")
    return [tuple(point[field] for field in fields) for point in points]


def test_a_recording_holds_each_product_in_each_format(few, tmp_path):
    path = record("sparse_vs_dense", path=tmp_path / "a.json", device="cpu")
    found = recordings.read(path, "sparse_vs_dense")
    assert keys(found) == KEYS and len(few) == len(KEYS)
    told = [*found["points"], *found["refused"]]
    asked = [
        (point["matrix"], point["dtype"], point["target_sparsity"], point["batch"])
        for point in told
    ]
    for key in KEYS:
        formats = [point["format"] for point, its in zip(told, asked, strict=True) if its == key]
        assert sorted(formats) == sorted(["dense", *sparse.FORMATS])
    for point in found["points"]:
        low, high = point["interval"]
        assert low <= point["speedup"] <= high and point["rounds"] >= 6 and point["median"] > 0
    assert all(each["why"] for each in found["refused"])


def test_a_point_says_what_was_multiplied(small, monkeypatch, tmp_path):
    cases = [Case("MiniLM output", "float32", 0.9, (4,))]
    monkeypatch.setattr(sparse_vs_dense, "plan", lambda device: cases)
    path = record("sparse_vs_dense", path=tmp_path / "a.json", device="cpu")
    points = recordings.read(path, "sparse_vs_dense")["points"]
    dense, held = (
        next(each for each in points if each["format"] == name) for name in ("dense", "CSR")
    )
    asked = {"matrix": "MiniLM output", "rows": 384, "columns": 1536, "batch": 4}
    asked |= {"dtype": "float32", "target_sparsity": 0.9}
    assert dense.items() >= asked.items() and held.items() >= asked.items()
    kept = 384 * 1536 - round(0.9 * 384 * 1536)
    assert held["sparsity"] == 0.9 and held["bytes"] == kept * 8 + 385 * 4
    assert dense["sparsity"] == 0 and dense["bytes"] == 384 * 1536 * 4
    assert dense["speedup"] == 1 and dense["interval"] == [1, 1] and dense["error"] == 0


def test_a_recording_begins_with_the_ceilings_of_every_dtype(few, monkeypatch, tmp_path):
    times = {"random": Timing((2.0,) * 6), "zeros": Timing((1.0,) * 6)}
    monkeypatch.setattr(sparse_vs_dense, "against_zeros", lambda *_: Comparison(times, {}))
    path = record("sparse_vs_dense", path=tmp_path / "a.json", device="cpu")
    found = recordings.read(path, "sparse_vs_dense")
    dtypes = ["float32", "bfloat16", "float16"]
    ceilings = {"bandwidth": 1e9, "rate": 2e9, "size": 2048}
    assert found["rooflines"] == [{"dtype": name} | ceilings for name in dtypes]
    asked = [(entry["dtype"], entry["size"]) for entry in found["zeros"]]
    assert asked == [(name, 32) for name in dtypes]
    assert all(entry["median"] == 1 and entry["speedup"] == 2 for entry in found["zeros"])
    assert found["machine"] == machine_facts()


def test_without_a_gpu_the_plan_of_the_cpu_is_measured(small, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(sparse_vs_dense, "plan", lambda device: asked.append(device) or [])
    record("sparse_vs_dense", path=tmp_path / "a.json")
    assert asked == ["cpu"]


INTERRUPTIONS = [(sparse_vs_dense, "roofline", 1), (sparse_vs_dense, "against_zeros", 2)]
INTERRUPTIONS += [(sparse, "to_formats", after) for after in range(4)]
INTERRUPTIONS += [(sparse, "measure", after) for after in (0, 1, 3, 5)]
INTERRUPTIONS += [(recordings, "write", after) for after in (0, 1, 2)]


@pytest.mark.slow
@pytest.mark.parametrize(("owner", "name", "after"), INTERRUPTIONS)
def test_an_interrupted_recording_ends_as_an_uninterrupted_one(
    few, tmp_path, monkeypatch, owner, name, after
):
    path = tmp_path / "a.json"
    with monkeypatch.context() as patched:
        interrupt(patched, owner, name, after)
        with pytest.raises(KeyboardInterrupt):
            record("sparse_vs_dense", path=path, device="cpu")
    if path.exists():
        recordings.read(path, "sparse_vs_dense")  # whatever was written is a valid recording
    record("sparse_vs_dense", path=path, device="cpu")
    found = recordings.read(path, "sparse_vs_dense")
    assert keys(found) == KEYS
    told = [
        (each["format"], each["matrix"], each["dtype"], each["target_sparsity"], each["batch"])
        for each in [*found["points"], *found["refused"]]
    ]
    assert len(told) == len({*told}) == len(KEYS) * (1 + len(sparse.FORMATS))
    assert [*tmp_path.iterdir()] == [path]


def test_a_complete_recording_measures_nothing(few, tmp_path):
    path = record("sparse_vs_dense", path=tmp_path / "a.json", device="cpu")
    before = path.read_text()
    few.clear()
    record("sparse_vs_dense", path=path, device="cpu")
    assert not few and path.read_text() == before


def test_at_the_time_limit_it_stops_and_can_be_resumed(few, tmp_path, capsys):
    path = record("sparse_vs_dense", path=tmp_path / "a.json", minutes=0, device="cpu")
    assert "Time limit of 0 minutes reached; the same command resumes." in capsys.readouterr().out
    assert recordings.read(path, "sparse_vs_dense")["points"] == [] and not few
    record("sparse_vs_dense", path=path, minutes=60, device="cpu")
    said = capsys.readouterr().out
    assert "Resuming" in said and "Time limit" not in said
    assert keys(recordings.read(path, "sparse_vs_dense")) == KEYS


def test_it_stops_after_so_many_minutes(few, tmp_path, monkeypatch):
    readings = iter([0, 10, 50, 60, 100, 110, 150])  # at first, then before and after each matrix
    clock = SimpleNamespace(monotonic=lambda: next(readings))
    monkeypatch.setattr(recorder, "time", clock)
    path = record("sparse_vs_dense", path=tmp_path / "a.json", minutes=2, device="cpu")
    assert keys(recordings.read(path, "sparse_vs_dense")) == KEYS[:4]


def test_a_product_that_is_lost_is_measured_again_without_doubling_the_others(few, tmp_path):
    path = record("sparse_vs_dense", path=tmp_path / "a.json", device="cpu")
    found = json.loads(path.read_text())
    for entries in ("points", "refused"):
        found[entries] = [
            each for each in found[entries] if (each["target_sparsity"], each["batch"]) != (0.5, 8)
        ]
    recordings.write(found, path)
    few.clear()
    record("sparse_vs_dense", path=path, device="cpu")
    assert len(few) == 1
    assert sorted(keys(recordings.read(path, "sparse_vs_dense"))) == sorted(KEYS)


# --- the command --------------------------------------------------------------------------------


@pytest.fixture
def command(few, tmp_path):
    """The command line, and the file that it writes."""
    path = tmp_path / "folder" / "a.json"
    return lambda *more: main(["record", "sparse_vs_dense", "--out", str(path), *more]), path


def test_command_records(command, capsys):
    record, path = command
    assert record() == 0
    assert f"wrote {path}" in capsys.readouterr().out
    assert keys(recordings.read(path, "sparse_vs_dense")) == KEYS


def test_command_without_time_has_written_a_file(command, capsys):
    record, path = command
    assert record("--minutes", "0") == 0
    assert f"wrote {path}" in capsys.readouterr().out
    assert recordings.read(path, "sparse_vs_dense")["points"] == []


def test_command_sets_a_damaged_file_aside(command, capsys):
    record, path = command
    path.parent.mkdir()
    path.write_text("{")
    assert record("--minutes", "0") == 0
    assert "set aside" in capsys.readouterr().out
    (aside,) = path.parent.glob("a.aside-*.json")
    assert aside.read_text() == "{" and recordings.read(path, "sparse_vs_dense")


def test_command_says_that_it_was_stopped(command, capsys, monkeypatch):
    record, path = command
    interrupt(monkeypatch, sparse, "measure", 3)
    assert record() == 130
    assert "the same command resumes" in capsys.readouterr().err
    assert keys(recordings.read(path, "sparse_vs_dense")) == KEYS[:2]


def test_command_does_not_resume_with_other_threads(command, capsys, monkeypatch):
    record, path = command
    record("--minutes", "0")
    before = path.read_text()
    facts = machine_facts() | {"threads": "64"}
    monkeypatch.setattr(recorder, "machine_facts", lambda: facts)
    assert record() == 1
    assert "not '64'" in capsys.readouterr().err and path.read_text() == before


def test_without_a_path_the_file_is_this_machine_s(few, tmp_path, monkeypatch):
    monkeypatch.setattr(recordings, "machine_name", lambda: "abacus")
    monkeypatch.setattr(recordings.file_of, "__defaults__", (None, tmp_path))
    path = record("sparse_vs_dense", minutes=0)
    assert path == tmp_path / "recordings" / "abacus" / "sparse_vs_dense.json"
    assert [*recordings.load("sparse_vs_dense", root=tmp_path)] == ["abacus"]
