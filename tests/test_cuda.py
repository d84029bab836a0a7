"""The same on a GPU as on the CPU; skipped where there is none."""

import copy
import time
from functools import partial

import pytest
import torch

from course_lib.deployment import sparse
from course_lib.experiments import recordings, sparse_vs_dense, structured_speedup
from course_lib.experiments.recorder import record
from course_lib.measuring import cost, timing
from course_lib.measuring.cost import Roofline
from course_lib.networks.data import Images
from course_lib.networks.models import build, load_trained
from course_lib.networks.training import SGD, accuracy, fit
from course_lib.pruning import channels, masks, surgery
from course_lib.pruning.graph import trace

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.fixture
def pictures():
    random = torch.Generator().manual_seed(0)
    return Images(
        torch.randn(256, 1, 28, 28, generator=random),
        torch.randint(10, (256,), generator=random),
    )


@pytest.fixture
def networks():
    """A trained network on the CPU, and its twin on the GPU."""
    network = load_trained("small_resnet")
    return network, copy.deepcopy(network).cuda()


@pytest.mark.parametrize("make", [masks.global_masks, masks.layer_masks, masks.output_masks])
def test_masks_are_those_of_the_cpu(networks, make):
    ours, theirs = (make(network, 0.7) for network in networks)
    assert all(mask.is_cuda for mask in theirs.values())
    assert all(torch.equal(ours[name], theirs[name].cpu()) for name in ours)


def test_random_scores_are_those_of_the_cpu(networks):
    ours, theirs = (masks.random_scores(network, seed=0) for network in networks)
    assert all(torch.equal(ours[name], theirs[name].cpu()) for name in ours)


def test_held_zeros_stay_zero_and_accuracy_is_measured(networks, pictures):
    cpu, gpu = networks
    assert accuracy(gpu, pictures) == pytest.approx(accuracy(cpu, pictures), abs=1)
    found = masks.global_masks(cpu, 0.9)  # masks may lie on another device than the network
    with masks.enforce_masks(gpu, found):
        fit(gpu, pictures, epochs=2, seed=0, optimizer=SGD(0.01))
    assert all(torch.equal(mask.cpu(), found[name]) for name, mask in masks.masks_of(gpu).items())


def test_channels_are_removed_where_the_network_is(networks, pictures, tmp_path):
    graphs = [trace(network, pictures.images[:1]) for network in networks]
    removed = [
        channels.lowest(channels.l1(*pair), 0.5) for pair in zip(networks, graphs, strict=True)
    ]
    assert removed[0] == removed[1]
    ours, theirs = (
        surgery.prune(network, graph, removed[0])
        for network, graph in zip(networks, graphs, strict=True)
    )
    assert all(parameter.is_cuda for parameter in theirs.parameters())
    surgery.save(theirs, tmp_path / "pruned.safetensors")
    loaded = surgery.load(build("small_resnet"), tmp_path / "pruned.safetensors")
    for name, value in ours.state_dict().items():
        assert torch.equal(theirs.state_dict()[name].cpu(), value)
        assert torch.equal(loaded.state_dict()[name], value)
    silent = surgery.zero_readers(networks[1], graphs[1], removed[1])
    with torch.no_grad():
        images = pictures.images.cuda()
        torch.testing.assert_close(theirs(images), silent(images), rtol=1e-3, atol=1e-3)


# --- timing -------------------------------------------------------------------------------------


def test_the_timer_is_honest_and_agrees_with_triton():
    pytest.importorskip("triton")
    tries = (timing.self_test("cuda") for _ in range(3))  # others may be busy on this machine
    assert any(each.passed and each.triton is not None for each in tries)


def test_a_gpu_is_timed_by_its_own_clock():
    inputs = torch.randn(2048, 2048, device="cuda")
    result = timing.compare({"a": torch.mm}, inputs, inputs, seconds=0.2)
    assert result.where["clock"] == timing.CudaClock.name
    # 2048^3 multiply-accumulates: no GPU needs a second, or does them in a microsecond
    assert 0.001 < result.timings["a"].median < 1000


def test_what_a_partial_holds_on_the_gpu_is_timed_there_too():
    inputs = torch.randn(64, 64, device="cuda")
    result = timing.compare({"a": partial(torch.mm, inputs, inputs)}, seconds=0)
    assert result.where["clock"] == timing.CudaClock.name


def test_the_time_to_launch_is_not_measured():
    inputs = torch.randn(256, 256, device="cuda")

    def slow_to_launch(inputs):
        time.sleep(0.003)
        return inputs @ inputs

    result = timing.compare({"slow": slow_to_launch}, inputs, rounds=20)
    assert result.timings["slow"].median < 1


def test_a_call_that_waits_for_the_gpu_is_timed():
    inputs = torch.randn(64, 64, device="cuda")
    result = timing.compare({"a": lambda inputs: inputs.sum().item()}, inputs, rounds=10)
    assert len(result.timings["a"].milliseconds) == 10 and result.timings["a"].median > 0


def test_ceilings_are_those_of_a_gpu():
    slow, fast = (cost.roofline("cuda", dtype) for dtype in (torch.float32, torch.float16))
    assert 1e10 < slow.bandwidth < 1e14 and slow.bandwidth == pytest.approx(fast.bandwidth, rel=0.2)
    assert 1e11 < slow.rate < fast.rate < 1e16


def test_macs_and_bytes_are_those_of_the_cpu(networks, pictures):
    ours, theirs = networks
    images = pictures.images[:4]
    assert cost.work(theirs, images.cuda()) == cost.work(ours, images)


# --- sparse formats -----------------------------------------------------------------------------


def on_gpu(*shape: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to("cuda", dtype)


@pytest.mark.parametrize("sparsity", [0.5, 0.9])
@pytest.mark.parametrize("batch", [1, 8, 100])
@pytest.mark.parametrize("shape", [(256, 512), (64, 576), (100, 60)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_each_format_computes_the_masked_product_or_has_a_reason(dtype, shape, batch, sparsity):
    weight = on_gpu(*shape, dtype=dtype, seed=0)
    inputs = on_gpu(shape[1], batch, dtype=dtype, seed=1)
    held = sparse.to_formats(weight, sparsity)
    rows = sparse.measure(held, inputs, rounds=6, seconds=0)
    assert [*rows] == ["dense", *sparse.FORMATS]
    assert rows["dense"].timing and rows["masked"].timing
    for name, row in rows.items():
        assert (row.timing is None) == (row.speedup is None) == bool(row.why)
        if row.timing:
            expected = held[name].dense.double() @ inputs.double()
            error = (held[name].tensor @ inputs - expected).abs().max() / expected.abs().max()
            assert error < 2 * sparse.TOLERANCE[dtype]  # the dense product is rounded as well
        else:
            assert len(row.why) > 5


@pytest.mark.parametrize("name", ["COO", "CSR"])
def test_float32_has_the_formats_for_single_weights(name):
    rows = sparse.measure(
        sparse.to_formats(on_gpu(256, 512, dtype=torch.float32, seed=0), 0.9, [name]),
        on_gpu(512, 8, dtype=torch.float32, seed=1),
        rounds=6,
        seconds=0,
    )
    assert rows[name].timing, rows[name].why


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_two_four_is_had_where_there_are_sparse_tensor_cores(dtype):
    weight = on_gpu(256, 512, dtype=dtype, seed=0)
    held = sparse.to_formats(weight, 0.5, ["2:4"])
    row = sparse.measure(held, on_gpu(512, 64, dtype=dtype, seed=1), rounds=6, seconds=0)["2:4"]
    if torch.cuda.get_device_capability() < (8, 0):
        assert "no sparse tensor cores" in row.why
    else:
        assert row.timing, row.why
        assert held["2:4"].sparsity == 0.5
        # half of the values, and two bits for each of them
        assert 0.5 < held["2:4"].bytes / held["dense"].bytes < 0.65


def test_two_four_of_what_it_cannot_hold_says_why():
    held = sparse.to_formats(on_gpu(256, 512, dtype=torch.float64, seed=0), 0.5, ["2:4"])
    assert held["2:4"].why


# --- recordings ---------------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch):
    """Ceilings that are known, and small things to measure."""
    for module in (sparse_vs_dense, structured_speedup):
        monkeypatch.setattr(module, "roofline", lambda device, dtype: Roofline(1e12, 1e13))
    monkeypatch.setitem(sparse_vs_dense.SECONDS, "cuda", 0)
    monkeypatch.setitem(sparse_vs_dense.SIZES, "cuda", (256,))
    monkeypatch.setattr(structured_speedup, "PARTS", ("outputs", "chain", "small_resnet"))
    monkeypatch.setattr(structured_speedup, "BATCHES", (1, 8))
    monkeypatch.setattr(structured_speedup, "WIDTH", 32)
    monkeypatch.setattr(structured_speedup.measure, "__defaults__", ((0.0, 0.5),))
    monkeypatch.setattr(structured_speedup.staircase, "__defaults__", ((16, 24),))


def test_products_are_recorded_on_the_gpu(short, monkeypatch, tmp_path):
    cases = [
        sparse_vs_dense.Case("square 256", dtype, sparsity, (1, 64))
        for dtype in ("float16", "bfloat16", "float32")
        for sparsity in (0.5, 0.9)
    ]
    cases += [sparse_vs_dense.Case("ResNet-18 layer1.0.conv1", "float16", 0.9, (196,))]
    monkeypatch.setattr(sparse_vs_dense, "plan", lambda device: cases)
    path = record("sparse_vs_dense", path=tmp_path / "a.json")
    found = recordings.read(path, "sparse_vs_dense")
    assert found["machine"]["CUDA GPU"] == torch.cuda.get_device_name()
    assert len(recordings.points(found, format="dense")) == 13
    assert len(found["points"]) + len(found["refused"]) == 13 * (1 + len(sparse.FORMATS))
    assert [entry["dtype"] for entry in found["zeros"]] == ["float16", "float32", "bfloat16"]
    before = path.read_text()
    assert record("sparse_vs_dense", path=path).read_text() == before


def test_widths_are_recorded_on_the_gpu(short, tmp_path):
    path = record("structured_speedup", path=tmp_path / "a.json")
    found = recordings.read(path, "structured_speedup")
    dtypes, batches = 2, 2
    assert len(found["points"]) == 3 * 2 * dtypes * batches
    assert len(found["staircase"]) == 2 * dtypes * batches
    for point in recordings.points(found, removed=0.5):
        (whole,) = recordings.points(
            found, **{key: point[key] for key in ("part", "batch", "dtype")}, removed=0.0
        )
        assert point["macs"] < whole["macs"] and point["parameters"] < whole["parameters"]
    before = path.read_text()
    assert record("structured_speedup", path=path).read_text() == before
