"""Every sparse format computes the product of the same zeros held dense, or says why it cannot."""

import copy
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from course_lib.deployment import sparse
from course_lib.deployment.sparse import (
    FORMATS,
    TOLERANCE,
    Format,
    Unsupported,
    break_even,
    held_bytes,
    measure,
    pruned,
    to_formats,
    two_four,
)
from course_lib.measuring import cost
from course_lib.measuring.timing import Comparison, Speedup, Timing
from course_lib.networks.models import build
from course_lib.pruning import masks
from course_lib.pruning.masks import nm_mask

SHAPES = [(64, 96), (96, 32), (1, 8), (8, 1), (33, 17)]
ANYWHERE = [name for name, each in FORMATS.items() if each.block == 1]
BLOCKS = {name: each.block for name, each in FORMATS.items() if each.block not in (1, None)}

#: Real products that are timed in no time.
quickly = partial(measure, rounds=6, seconds=0)


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_same_product(held: sparse.StoredMatrix, inputs: torch.Tensor) -> None:
    expected = held.dense.double() @ inputs.double()
    error = (held.tensor @ inputs - expected).abs().max()
    assert error <= TOLERANCE[inputs.dtype] * expected.abs().max().clamp_min(1e-30)


# --- products -----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_product_of_each_format_is_that_of_the_masked_weight(shape, sparsity, batch, dtype):
    held = to_formats(random(*shape, dtype=dtype), sparsity)
    supported = [name for name, each in held.items() if each.why is None]
    whole = [name for name, block in BLOCKS.items() if not any(size % block for size in shape)]
    assert supported == ["dense", *ANYWHERE, *whole]
    for name in supported:
        assert_same_product(held[name], random(shape[1], batch, dtype=dtype, seed=1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_in_half_precision_a_product_is_right_or_torch_refuses_it(dtype):
    inputs = random(96, 7, dtype=dtype, seed=1)
    held = to_formats(random(64, 96, dtype=dtype), 0.5)
    rows = quickly(held, inputs)
    for name in (*ANYWHERE, *BLOCKS):
        try:
            held[name].tensor @ inputs
        except (RuntimeError, NotImplementedError) as problem:
            assert rows[name].timing is None and rows[name].why in str(problem)
        else:
            assert_same_product(held[name], inputs)
            assert rows[name].timing and rows[name].why is None


@pytest.mark.parametrize("name", [*ANYWHERE, *BLOCKS])
def test_each_format_is_the_layout_that_it_is_called_after(name):
    layouts = {"masked": torch.strided, "COO": torch.sparse_coo, "CSR": torch.sparse_csr}
    tensor = to_formats(random(64, 96), 0.5, [name])[name].tensor
    assert tensor.layout is layouts.get(name, torch.sparse_bsr)
    if name in BLOCKS:
        assert tensor.values().shape[1:] == (BLOCKS[name], BLOCKS[name])


def test_only_the_formats_asked_for_are_made():
    assert [*to_formats(random(64, 96), 0.5, (name for name in ["CSR", "COO"]))] == [
        "dense",
        "CSR",
        "COO",
    ]


def test_held_dense_is_the_weight_as_it_is():
    weight = random(64, 96)
    before = weight.clone()
    held = to_formats(weight, 0.9)
    assert held["dense"].tensor is weight and held["dense"].sparsity == 0
    assert torch.equal(weight, before)


# --- the pattern of zeros -----------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.77, 0.999, 1.0])
@pytest.mark.parametrize("weight", [random(12, 10), torch.ones(12, 10)], ids=["random", "ties"])
def test_single_weights_are_pruned_to_the_exact_number(weight, sparsity):
    assert (pruned(weight, sparsity) == 0).sum() == round(sparsity * 120)


def test_the_smallest_weights_are_pruned():
    weight = random(12, 10)
    found = pruned(weight, 0.7)
    threshold = weight.abs().flatten().sort().values[round(0.7 * 120)]
    assert torch.equal(found, weight.where(weight.abs() >= threshold, 0))


@pytest.mark.parametrize(("block", "shape"), [(2, (6, 10)), (4, (8, 12)), (16, (64, 32))])
@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_whole_blocks_of_the_smallest_sum_are_pruned(block, shape, sparsity):
    weight = random(*shape)
    corners = [
        (row, column) for row in range(0, shape[0], block) for column in range(0, shape[1], block)
    ]

    def total(corner):
        row, column = corner
        return weight[row : row + block, column : column + block].abs().sum()

    expected = weight.clone()
    for row, column in sorted(corners, key=total)[: round(sparsity * len(corners))]:
        expected[row : row + block, column : column + block] = 0
    assert torch.equal(pruned(weight, sparsity, block), expected)


@pytest.mark.parametrize("sparsity", [0.0, 0.9])
def test_two_four_keeps_the_two_largest_of_each_four_in_a_row(sparsity):
    weight = random(6, 16)
    expected = weight.clone()
    for row in expected:
        for four in row.split(4):
            four[four.abs().argsort()[:2]] = 0
    assert torch.equal(pruned(weight, sparsity, None), expected)


@pytest.mark.parametrize(
    ("shape", "block", "message"),
    [
        ((6, 8), 4, r"\(6, 8\) cannot be cut into blocks of 4 x 4"),
        ((8, 6), 4, r"\(8, 6\) cannot be cut into blocks of 4 x 4"),
        ((8, 6), None, "4 does not divide the 6 columns"),
    ],
)
def test_a_shape_that_its_pattern_does_not_divide_is_refused(shape, block, message):
    with pytest.raises(Unsupported, match=message):
        pruned(random(*shape), 0.5, block)


def test_two_four_needs_only_columns_in_fours():
    assert (pruned(random(5, 8), 0.5, None) == 0).sum() == 20


def test_the_sparsity_that_was_reached_is_noted():
    held = to_formats(random(64, 64), 0.9)
    assert held["CSR"].sparsity == pytest.approx(round(0.9 * 4096) / 4096)
    assert held["BSR 16"].sparsity == 14 / 16 and held["BSR 32"].sparsity == 1


# --- bytes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 4), (torch.bfloat16, 2)], ids=str)
def test_bytes_by_hand(dtype, width):
    rows, columns, sparsity = 64, 96, 0.75
    kept = rows * columns // 4
    held = to_formats(random(rows, columns, dtype=dtype), sparsity)
    expected = {
        "dense": rows * columns * width,
        "masked": rows * columns * width,
        "COO": kept * (width + 2 * 8),  # a row and a column of 64 bits
        "CSR": kept * (width + 4) + (rows + 1) * 4,  # a column of 32 bits; the beginnings of rows
    }
    for name, block in BLOCKS.items():
        blocks = (rows // block) * (columns // block)
        left = blocks - round(sparsity * blocks)
        expected[name] = left * (block**2 * width + 8) + (rows // block + 1) * 8
    assert {name: held[name].bytes for name in expected} == expected
    assert {name: held_bytes(held[name].tensor) for name in expected} == expected


@pytest.mark.parametrize(("places", "total"), [(torch.zeros(8, 2).short(), 32), (None, 0)])
def test_bytes_of_two_four_are_values_and_places(places, total):
    packed = torch.zeros(8, 16, dtype=torch.float16)
    tensor = SimpleNamespace(layout=torch.strided, packed=packed, meta=places)
    assert held_bytes(tensor) == 8 * 16 * 2 + total


def test_converting_takes_time():
    held = to_formats(random(64, 96), 0.5)
    assert all(held[name].convert_ms > 0 for name in ANYWHERE)


def test_time_of_a_conversion_is_the_median_of_three(monkeypatch):
    readings = iter([0, 0.009, 1, 1.002, 2, 2.004])
    monkeypatch.setattr(sparse, "time", SimpleNamespace(perf_counter=lambda: next(readings)))
    assert to_formats(random(4, 4), 0.5, ["COO"])["COO"].convert_ms == pytest.approx(4)


# --- what cannot be had -------------------------------------------------------------------------


def test_a_format_that_cannot_be_had_is_a_row_with_its_reason():
    rows = quickly(to_formats(random(33, 17), 0.5), random(17, 3, seed=1))
    assert [*rows] == ["dense", *FORMATS]
    reasons = {name: row.why for name, row in rows.items() if row.why}
    assert [*reasons] == [*BLOCKS, "2:4"]
    for name, block in BLOCKS.items():
        assert reasons[name] == f"(33, 17) cannot be cut into blocks of {block} x {block}"
    assert reasons["2:4"] == "4 does not divide the 17 columns"
    assert not any(rows[name].timing or rows[name].speedup for name in reasons)


def test_two_four_needs_a_gpu():
    assert "needs a CUDA GPU" in to_formats(random(64, 64), 0.5)["2:4"].why


def test_two_four_needs_sparse_tensor_cores(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Abacus 75")
    with pytest.raises(Unsupported, match="Abacus 75 has no sparse tensor cores"):
        two_four(SimpleNamespace(is_cuda=True))


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (RuntimeError("No kernel. Try another.\nThe stack of the error"), "No kernel"),
        (NotImplementedError("Not on this device.\nAdvice"), "Not on this device"),
        (RuntimeError(), "RuntimeError"),
    ],
    ids=["sentence", "line", "nothing"],
)
@pytest.mark.parametrize("when", ["converting", "multiplying"])
def test_what_torch_refuses_says_its_first_sentence(monkeypatch, error, why, when):
    def fails(_):
        raise error

    class Refusing(torch.Tensor):
        def __matmul__(self, other):
            raise error

    convert = fails if when == "converting" else lambda weight: weight.as_subclass(Refusing)
    monkeypatch.setattr(sparse, "held_bytes", lambda tensor: 0)
    monkeypatch.setitem(FORMATS, "CSR", Format(convert))
    rows = quickly(to_formats(random(64, 96), 0.5, ["COO", "CSR"]), random(96, 7, seed=1))
    assert rows["CSR"] == sparse.Row(why=why) and rows["COO"].timing


# --- measuring ----------------------------------------------------------------------------------


def test_each_held_weight_has_a_row():
    held = to_formats(random(64, 96), 0.9)
    rows = quickly(held, random(96, 7, seed=1))
    assert [*rows] == [*held] == ["dense", *FORMATS]
    timed = {name: row for name, row in rows.items() if row.why is None}
    assert [*timed] == ["dense", *ANYWHERE, *BLOCKS]
    assert rows["dense"].speedup == (1, 1, 1) and rows["dense"].error == 0
    for row in timed.values():
        assert row.speedup.low <= row.speedup.value <= row.speedup.high
        assert len(row.timing.milliseconds) == 6 and row.error <= 1e-4


def test_a_speedup_is_over_the_dense_weight(monkeypatch):
    class Slow(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            for _ in range(20):
                result = super().__torch_function__(function, types, args, kwargs)
            return result

    monkeypatch.setattr(sparse, "held_bytes", lambda tensor: 0)
    monkeypatch.setitem(FORMATS, "masked", Format(lambda weight: weight.as_subclass(Slow)))
    rows = quickly(to_formats(random(128, 128), 0.5, ["masked"]), random(128, 128, seed=1))
    assert 0 < rows["masked"].speedup.value < 0.5


def test_an_error_is_a_fraction_of_the_largest_value(monkeypatch):
    weight = torch.diag(torch.tensor([1.0, 2.0, 4.0]))
    slip = torch.zeros(3, 3).index_put_((torch.tensor(0), torch.tensor(2)), torch.tensor(2**-13))
    monkeypatch.setitem(FORMATS, "masked", Format(lambda weight: weight + slip))
    row = quickly(to_formats(weight, 0, ["masked"]), torch.eye(3))["masked"]
    assert row.error == 2**-15 and row.timing


@pytest.mark.parametrize("name", ["COO", "CSR", "BSR 16"])
def test_a_wrong_product_is_not_timed(monkeypatch, name):
    convert, block = FORMATS[name]

    def corrupted(weight):
        tensor = convert(weight)
        tensor.values().view(-1)[0] += 3
        return tensor

    monkeypatch.setitem(FORMATS, name, Format(corrupted, block))
    rows = quickly(to_formats(random(64, 96), 0.5), random(96, 7, seed=1))
    assert rows[name].error > 1e-4 and rows[name].timing is None and rows[name].speedup is None
    percent = f"{rows[name].error:.0%}"
    assert rows[name].why == f"its product is wrong by {percent} of the largest value"
    assert [other for other in rows if rows[other].why] == [
        other for other in rows if other in (name, "2:4")
    ]


@pytest.mark.parametrize(("dtype", "right"), [(torch.float32, False), (torch.float16, True)])
def test_how_far_a_product_may_be_off_depends_on_the_precision(monkeypatch, dtype, right):
    monkeypatch.setitem(FORMATS, "masked", Format(lambda weight: weight * 1.002))
    held = to_formats(random(64, 96, dtype=dtype), 0.5, ["masked"])
    row = quickly(held, random(96, 7, dtype=dtype, seed=1))["masked"]
    assert (row.timing is not None) is right and row.error == pytest.approx(0.002, rel=0.5)


def test_a_product_that_is_no_number_is_not_timed(monkeypatch):
    monkeypatch.setitem(FORMATS, "masked", Format(lambda weight: weight * math.nan))
    row = quickly(to_formats(random(64, 96), 0.5, ["masked"]), random(96, 7, seed=1))["masked"]
    assert math.isnan(row.error) and row.timing is None and "wrong" in row.why


def test_a_format_without_a_weight_left_is_not_timed():
    rows = quickly(to_formats(random(64, 64), 0.9), random(64, 3, seed=1))
    assert rows["BSR 32"] == sparse.Row(why="nothing but zeros is left")
    assert rows["BSR 16"].timing and rows["CSR"].timing
    rows = quickly(to_formats(random(64, 64), 1.0), random(64, 3, seed=1))
    assert [name for name, row in rows.items() if row.timing] == ["dense"]


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "inputs", [(64, 7), (96,), (96, 7, 1), (7, 96)], ids=["rows", "vector", "cube", "transposed"]
)
def test_inputs_that_do_not_fit_are_refused_with_both_shapes(inputs):
    held = to_formats(random(64, 96), 0.5, ["CSR"])
    with pytest.raises(ValueError, match=r"inputs are \(columns, batch\)") as refusal:
        quickly(held, random(*inputs))
    assert f"got (64, 96) and {inputs}" in str(refusal.value)


def test_an_unknown_format_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"no format 'ELL'; choose from masked, COO, CSR"):
        to_formats(random(64, 96), 0.5, ["CSR", "ELL"])


@pytest.mark.parametrize("shape", [(96,), (4, 3, 3, 3), ()])
def test_a_weight_that_is_no_matrix_is_refused(shape):
    with pytest.raises(ValueError, match=r"A weight is \(rows, columns\); got \("):
        to_formats(random(*shape), 0.5)


@pytest.mark.parametrize("formats", [["CSR"], ["2:4"], []], ids=str)
@pytest.mark.parametrize("sparsity", [-0.1, 1.1, math.nan])
def test_an_impossible_sparsity_is_refused(sparsity, formats):
    with pytest.raises(ValueError, match=f"A sparsity is a fraction .* got {sparsity}"):
        to_formats(random(64, 96), sparsity, formats)


@pytest.mark.parametrize(
    ("weight", "inputs", "reason"),
    [
        (random(64, 96), torch.full((96, 7), math.nan), "wrong by nan"),
        (torch.zeros(64, 96), random(96, 7), "nothing but zeros is left"),
    ],
    ids=["nan", "zeros"],
)
def test_without_a_dense_time_nothing_is_measured(weight, inputs, reason):
    with pytest.raises(ValueError, match=f"The dense product cannot be timed: .*{reason}"):
        quickly(to_formats(weight, 0.5, ["CSR"]), inputs)


# --- break-even ---------------------------------------------------------------------------------

GRID = [0.5, 0.7, 0.8, 0.9, 0.95, 0.99]


@pytest.mark.parametrize("cost", [2.5, 4, 7, 12, 30])
@pytest.mark.parametrize("power", [1, 0.5, 2])
def test_break_even_is_exact_where_time_is_a_power_of_the_density(cost, power):
    speedups = [(1 / (cost * (1 - sparsity))) ** power for sparsity in GRID]
    assert break_even(GRID, speedups) == pytest.approx(1 - 1 / cost)


@pytest.mark.parametrize(
    ("speedups", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.9], None),
        ([2, 3, 4, 5, 6, 7], 0.5),
        ([0.5, 1, 2, 3, 4, 5], 0.7),
        ([0.5, 0.6, 0.7, 0.8, 0.9, 1], 0.99),
        ([1, 1, 1, 1, 1, 1], 0.5),
        ([2, 0.5, 2, 0.5, 1, 2], 0.95),
        ([2, 0.5, 2, 3, 4, 0.9], None),
    ],
    ids=["never", "always", "tie", "tie at the end", "ties", "several crossings", "slower again"],
)
def test_break_even_of_a_sweep(speedups, expected):
    assert break_even(GRID, speedups) == pytest.approx(expected)


def test_the_last_of_several_crossings_counts():
    found = break_even([0.5, 0.6, 0.75, 0.9375], [2, 0.9, 0.5, 2])
    assert found == pytest.approx(0.875)  # halfway between a quarter and a sixteenth


@pytest.mark.parametrize(("speedup", "expected"), [(2, 0.9), (1, 0.9), (0.99, None)])
def test_break_even_of_a_single_measurement(speedup, expected):
    assert break_even([0.9], [speedup]) == expected


def test_break_even_needs_a_speedup_for_each_sparsity():
    with pytest.raises(ValueError):
        break_even([0.5, 0.9], [2])


# --- converting a network -----------------------------------------------------------------------

PICTURE = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def network():
    """A mixed network; in its first block the zeros lie anywhere, in its second as 2:4 needs."""
    torch.manual_seed(0)
    model = build("conv_attention").eval()
    layers = ("attention.in_proj_weight", "attention.out_proj.weight", "fc1.weight", "fc2.weight")
    kept = masks.layer_masks(model, {f"blocks.0.{name}": 0.95 for name in layers})
    for name in layers:
        kept[f"blocks.1.{name}"] = nm_mask(model.get_parameter(f"blocks.1.{name}").abs(), 2, 4)
    return masks.pruned_copy(model, kept | {"stem.weight": model.stem.weight > 0})


def known_speedups(monkeypatch, **speedups):
    """Let :func:`measure` find these speed-ups, of formats that can be had."""

    def known(held, inputs, **_):
        return {
            name: sparse.Row(why=one.why)
            if one.why
            else sparse.Row(speedup=Speedup(*speedups.get(name, (1, 1, 1))))
            for name, one in held.items()
        }

    monkeypatch.setattr(sparse, "measure", known)


FASTER, SLOWER, UNSURE = (2.0, 1.8, 2.2), (0.5, 0.4, 0.6), (1.2, 0.9, 1.5)


def test_a_converted_network_computes_the_same(network, monkeypatch):
    known_speedups(monkeypatch, CSR=FASTER)
    changed, choices = sparse.converted(network, PICTURE)
    found = {name for name, choice in choices.items() if choice.format}
    layers = ("attention.in_proj", "attention.out_proj", "fc1", "fc2")
    assert found == {f"blocks.{number}.{layer}" for number in (0, 1) for layer in layers}
    kinds = {type(changed.get_submodule(name)) for name in found}
    assert kinds == {sparse.SparseLinear}
    assert changed.blocks[0].fc1.weight.layout is torch.sparse_csr
    torch.testing.assert_close(changed(PICTURE), network(PICTURE))
    assert not any(isinstance(layer, sparse.SparseLinear) for layer in network.modules())


@pytest.mark.parametrize("speedup", [SLOWER, UNSURE, (1, 1, 1)], ids=str)
def test_a_layer_that_is_not_certainly_faster_stays_dense(network, monkeypatch, speedup):
    known_speedups(monkeypatch, CSR=speedup)
    changed, choices = sparse.converted(network, PICTURE)
    assert all(choice.format is None for choice in choices.values())
    assert not any(isinstance(layer, sparse.SparseLinear) for layer in changed.modules())
    assert choices["blocks.0.fc1"].reason.startswith(f"CSR: {Speedup(*speedup)}")


def test_every_layer_has_a_reason(network, monkeypatch):
    known_speedups(monkeypatch, CSR=SLOWER)
    _, choices = sparse.converted(network, PICTURE)
    assert choices["head"] == sparse.Choice(None, 0, "it has no zeros")
    assert choices["stem"].reason == "torch has no sparse convolution"
    assert choices["blocks.0.fc1"].sparsity == pytest.approx(0.95, abs=1e-3)
    assert "2:4: " in choices["blocks.0.fc1"].reason
    assert "sparse tensor cores" in choices["blocks.1.fc1"].reason


def test_zeros_must_lie_as_the_format_needs_them(network, monkeypatch):
    monkeypatch.setitem(FORMATS, "2:4", Format(torch.Tensor.to_sparse_csr, None))
    known_speedups(monkeypatch, **{"2:4": FASTER})
    changed, choices = sparse.converted(network, PICTURE)
    assert choices["blocks.1.fc1"].format == "2:4" and choices["blocks.0.fc2"].format is None
    assert "the zeros do not fit its pattern" in choices["blocks.0.fc2"].reason
    torch.testing.assert_close(changed(PICTURE), network(PICTURE))


def test_the_fastest_of_several_formats_is_chosen(network, monkeypatch):
    known_speedups(monkeypatch, COO=(3, 2, 4), CSR=FASTER)
    _, choices = sparse.converted(network, PICTURE, ["CSR", "COO"])
    assert choices["blocks.0.fc1"].format == "COO"


def test_a_layer_of_zeros_stays_as_it_is():
    layer = nn.Linear(4, 4)
    nn.init.zeros_(layer.weight)
    choice = sparse.Choice(None, 1, "it has nothing but zeros")
    assert sparse.chosen(layer, random(3, 4)) == (choice, None)


def test_the_choice_is_measured(network):
    _, choices = sparse.converted(network, PICTURE, ["CSR"], rounds=6, seconds=0)
    assert choices["blocks.0.fc1"].reason.startswith("CSR: ")


def test_a_row_without_a_time_has_no_ratio():
    assert math.isnan(sparse.Row(why="not here").ratio)
    assert sparse.Row(speedup=Speedup(2.0, 1.5, 2.5)).ratio == 2


# --- too slow -----------------------------------------------------------------------------------


@pytest.fixture
def slow(monkeypatch):
    """Calls, which take as many seconds as ``slow[layout]`` says for each column."""
    rates = {}

    def once(run, matrix, inputs):
        rates.setdefault("asked", []).append(inputs.shape[1])
        return rates.get(matrix.layout, 0.0) * inputs.shape[1]

    monkeypatch.setattr(sparse, "once", once)
    return rates


def test_a_product_that_is_too_slow_is_never_run(slow, monkeypatch):
    held = sparse.to_formats(torch.randn(16, 16), 0.9, ["CSR", "COO"])
    slow[torch.sparse_csr] = 0.05
    rows = sparse.measure(held, torch.randn(16, 512), rounds=6, seconds=0)
    assert rows["CSR"].why == "too slow here: 26 s a call" and rows["CSR"].timing is None
    assert rows["COO"].speedup and rows["dense"].speedup.value == 1


def test_a_dense_product_that_is_too_slow_leaves_nothing_to_compare(slow):
    held = sparse.to_formats(torch.randn(16, 16), 0.9, ["CSR"])
    slow[torch.strided] = 1.0
    rows = sparse.measure(held, torch.randn(16, 100))
    assert {row.why for row in rows.values()} == {
        "the dense product is too slow here: 1e+02 s a call"
    }
    assert max(slow["asked"]) == 1


def test_one_column_is_tried_at_once(slow):
    held = sparse.to_formats(torch.randn(16, 16), 0.9, ["CSR"])
    assert sparse.measure(held, torch.randn(16, 1), rounds=6, seconds=0)["CSR"].speedup
    assert "asked" not in slow


def test_what_turns_out_too_slow_says_so(monkeypatch):
    def compared(runs, *_, **__):
        return Comparison({"dense": Timing((1.0,) * 6), "CSR": Timing((9000.0,))}, {})

    monkeypatch.setattr(sparse, "compare", compared)
    rows = sparse.measure(sparse.to_formats(torch.randn(8, 8), 0.5, ["CSR"]), torch.randn(8, 2))
    assert rows["CSR"].why == "too slow here: 9 s a call" and rows["CSR"].speedup is None


# --- a sparse layer is a layer like others --------------------------------------------------------


def thin(rows: int = 8, columns: int = 8) -> torch.Tensor:
    return pruned(random(rows, columns), 0.75)


MAKERS = {"CSR": sparse.csr, "COO": sparse.coo, "BSR 4": FORMATS["BSR 4"].convert}


@pytest.fixture(params=MAKERS)
def sparse_layer(request):
    return sparse.SparseLinear(MAKERS[request.param](thin()), random(8))


@pytest.mark.parametrize("shape", [(8,), (0, 8), (3, 8), (2, 3, 8), (2, 0, 8)])
def test_a_sparse_layer_takes_what_a_linear_layer_takes(shape):
    layer, x = sparse.SparseLinear(sparse.csr(thin()), random(8)), random(*shape)
    torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, thin(), random(8)))


@pytest.mark.parametrize("wrong", [random(3, 7), random(3, 8).double(), torch.tensor(1.0)])
def test_a_sparse_layer_names_what_it_takes(wrong):
    layer = sparse.SparseLinear(sparse.csr(thin()), None)
    with pytest.raises(ValueError, match=r"takes \(\.\.\., 8\) of torch.float32"):
        layer(wrong)


def test_a_copy_of_a_sparse_layer_shares_nothing(sparse_layer):
    copied, x = copy.deepcopy(nn.Sequential(sparse_layer)), random(3, 8)
    before = sparse_layer(x)
    copied[0].weight.values().zero_()
    copied[0].bias.zero_()
    assert not copied(x).any() and torch.equal(sparse_layer(x), before)


def test_a_sparse_layer_is_cast_saved_and_loaded(sparse_layer, tmp_path):
    state = copy.deepcopy(sparse_layer.state_dict())
    assert "weight.values" in state and all(one.layout is torch.strided for one in state.values())
    other = copy.deepcopy(sparse_layer)
    other.weight.values().zero_()
    other.load_state_dict(state)
    assert torch.equal(other(random(3, 8)), sparse_layer(random(3, 8)))
    held = sum(value.numel() * value.element_size() for value in state.values())
    assert held < cost.stored_bytes(sparse_layer)
    assert other.double()(random(3, 8).double()).dtype == torch.float64
    with pytest.raises(RuntimeError, match="weight"):
        sparse_layer.load_state_dict({name: value[:1] for name, value in state.items()})


@pytest.mark.parametrize(
    ("example", "message"), [(random(8), "batch dimension"), (random(0, 8), "Nothing comes")]
)
def test_a_network_is_converted_for_whole_batches(example, message):
    layer = nn.Linear(8, 8)
    layer.weight.data = thin()
    with pytest.raises(ValueError, match=message):
        sparse.converted(nn.Sequential(layer), example)


def test_a_layer_with_a_hook_stays_dense_and_says_so():
    layer = nn.Linear(8, 8)
    layer.weight.data = thin()
    layer.register_forward_hook(lambda *_: None)
    changed, choices = sparse.converted(nn.Sequential(layer), random(3, 8))
    assert choices["0"].format is None and "hook" in choices["0"].reason
    assert isinstance(changed[0], nn.Linear)


def test_attention_with_a_hook_is_refused():
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    block.self_attn.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="self_attn cannot be taken apart: it has a forward hook"):
        sparse.converted(block, random(1, 3, 8))
