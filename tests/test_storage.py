"""Every way of storing is exact, and as long as counting by hand says."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from course_lib.deployment import storage
from course_lib.deployment.storage import (
    MOST_SHARED,
    PLACES,
    VALUES,
    WORDS,
    StorageError,
    bound,
    decode,
    encode,
    entropy,
    pack_bits,
    share_weights,
    smallest,
    unpack_bits,
)
from course_lib.pruning.masks import nm_mask

WAYS = list(product(PLACES, VALUES))


def random(*shape: int, sparsity: float = 0.9, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(shape, generator=generator) >= sparsity
    return torch.randn(shape, generator=generator) * kept


def same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    alike = first.shape == second.shape and first.dtype == second.dtype
    return alike and np.array_equal(storage.words_of(first), storage.words_of(second))


def in_the_pattern(weight: torch.Tensor) -> torch.Tensor:
    """A weight that every way can store: 2:4, with few values."""
    return share_weights(weight * nm_mask(weight.abs(), 2, 4), 9)


# --- exact --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("places", "values"), WAYS)
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.999, 1.0])
def test_every_way_gives_back_the_same_bits(places, values, sparsity):
    weight = in_the_pattern(random(24, 40, sparsity=sparsity))
    assert same_bits(decode(encode(weight, places, values)), weight)


@pytest.mark.parametrize("dtype", WORDS)
@pytest.mark.parametrize("places", [name for name in PLACES if name != "2:4"])
def test_every_dtype_gives_back_the_same_bits(dtype, places):
    weight = (50 * random(16, 3, 3, 3, sparsity=0.7)).to(getattr(torch, dtype))
    for values in ("plain", "coded"):
        assert same_bits(decode(encode(weight, places, values)), weight)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (7,), (1, 1), (3, 0), (5, 4, 3, 3), (1000,)])
@pytest.mark.parametrize("places", [name for name in PLACES if name != "2:4"])
def test_every_shape_gives_back_the_same_bits(shape, places):
    weight = random(*shape, sparsity=0.5)
    assert same_bits(decode(encode(weight, places, "coded")), weight)


@pytest.mark.parametrize(("places", "values"), WAYS)
def test_infinity_and_nan_come_back(places, values):
    weight = torch.tensor([[0.5, 0.0, math.inf, 0.0], [0.0, math.nan, 0.0, -math.inf]])
    assert same_bits(decode(encode(weight, places, values)), weight)


def test_the_negative_zeros_of_a_mask_are_zeros():
    weight, mask = torch.tensor([-1.0, 2.0, -3.0, 4.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    encoded = encode(weight * mask, "bitmask", "plain")
    assert encoded.bytes == 1 + 2 * 4
    assert torch.equal(decode(encoded), weight * mask)


@settings(max_examples=200, deadline=None)
@given(
    words=some.lists(some.integers(0, 2**16 - 1), max_size=60),
    rows=some.integers(1, 5),
    places=some.sampled_from([name for name in PLACES if name != "2:4"]),
    values=some.sampled_from([*VALUES]),
)
def test_any_bits_come_back(words, rows, places, values):
    words = (words * rows)[: len(words) // rows * rows]
    bits = np.array(words, np.uint16).view(np.int16)
    weight = torch.from_numpy(bits).view(torch.float16).reshape(rows, -1)
    assert same_bits(decode(encode(weight, places, values)), weight)


def test_a_weight_with_more_values_than_symbols_is_coded_by_its_bytes():
    weight = random(300, 300, sparsity=0.5)
    encoded = encode(weight, "coded", "coded")
    assert "table" not in encoded.parts and same_bits(decode(encoded), weight)
    # the last bytes of a float are noise, the first are not
    assert "byte 0" in encoded.parts and "byte 3, coded" in encoded.parts


def test_values_that_only_the_end_holds_are_in_the_table():
    weight = torch.ones(5 * storage.MOST_SYMBOLS)
    weight[-2:] = torch.tensor([2.0, 3.0])
    assert same_bits(decode(encode(weight, "dense", "codebook")), weight)


def test_a_weight_that_is_not_contiguous_is_stored_as_it_looks():
    weight = random(6, 8).T
    assert same_bits(decode(encode(weight, "CSR", "plain")), weight)


# --- as long as counting by hand says -----------------------------------------------------------


def sizes(encoded: storage.Encoded) -> dict[str, int]:
    return {name: part.nbytes for name, part in encoded.parts.items()}


def test_dense_takes_the_bytes_of_the_numbers():
    assert encode(random(30, 40), "dense", "plain").bytes == 30 * 40 * 4
    assert encode(random(30, 40).half(), "dense", "plain").bytes == 30 * 40 * 2


@pytest.mark.parametrize(("columns", "each"), [(256, 1), (257, 2), (65_537, 4)])
def test_csr_takes_a_column_for_each_weight_and_a_place_for_each_row(columns, each):
    weight = random(4, columns)
    kept = int(weight.count_nonzero())
    expected = {"starts": 4 * 5, "columns": each * kept, "values": 4 * kept}
    assert sizes(encode(weight, "CSR", "plain")) == expected


def test_a_bitmask_takes_a_bit_for_each_weight():
    weight = random(10, 10)
    kept = int(weight.count_nonzero())
    assert sizes(encode(weight, "bitmask", "plain")) == {"mask": 13, "values": 4 * kept}


def test_two_four_takes_half_of_the_values_and_four_bits_for_every_four():
    weight = random(8, 16, sparsity=0)
    weight *= nm_mask(weight.abs(), 2, 4)
    assert sizes(encode(weight, "2:4", "plain")) == {"places": 8 * 16 // 8, "values": 8 * 8 * 4}


def test_a_relative_index_bridges_a_gap_that_it_cannot_hold():
    weight = torch.zeros(1, 140)
    weight[0, [31, 64, 131]] = torch.tensor([1.0, 2.0, 3.0])
    # 31 zeros fit into five bits; 32 need a bridge; 66 need two
    encoded = encode(weight, "relative", "plain")
    assert sizes(encoded) == {"count": 4, "gaps": 4, "values": 4 * (3 + 1 + 2)}
    assert encoded.parts["values"].view(np.float32).tolist() == [1, 0, 2, 0, 0, 3]
    assert unpack_bits(encoded.parts["gaps"], 5, 6).tolist() == [31, 31, 0, 31, 31, 2]


def test_a_codebook_takes_its_values_and_an_index_for_each_weight():
    weight = torch.tensor([0.5, -1.0, 2.0, 0.5, 0.5, -1.0, 2.0, 0.25, 7.0])
    # five values, so three bits for each of nine weights
    assert sizes(encode(weight, "dense", "codebook")) == {"table": 5 * 4, "indices": 4}


def test_a_codebook_of_one_value_needs_no_index():
    weight = torch.tensor([0.0, 3.0, 3.0, 0.0])
    assert sizes(encode(weight, "bitmask", "codebook")) == {"mask": 1, "table": 4, "indices": 0}


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["float32", "float16", "shared", "int8"])
def test_coding_comes_within_five_percent_of_the_bound(sparsity, kind):
    weight = random(1000, 1200, sparsity=sparsity)
    if kind == "float16":
        weight = weight.half()
    elif kind == "shared":
        weight = share_weights(weight, 15)
    elif kind == "int8":
        weight = (30 * weight).round().clamp(-127, 127).to(torch.int8)
    least = bound(weight).bytes
    coded = smallest(weight).bytes
    assert coded < 1.05 * least
    described = 2 * 256 * 4  # the frequencies of the symbols are no part of the bound
    assert coded > 0.98 * least - described


def test_the_smallest_way_never_takes_more_than_the_plain_numbers():
    for weight in (random(16), random(64, 16), torch.tensor(3), torch.zeros(5000)):
        assert smallest(weight).bytes <= weight.numel() * weight.element_size()
        assert same_bits(decode(smallest(weight)), weight)


# --- the bound ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "bits"), [([1, 1], 1), ([1, 3], 0.8112781), ([5, 0], 0), ([2] * 8, 3), ([], 0)]
)
def test_entropy_by_hand(counts, bits):
    assert entropy(np.array(counts, int)) == pytest.approx(bits)


def test_the_bound_by_hand():
    weight = torch.tensor([0.0, 0.0, 0.0, 5.0, 0.0, 6.0, 0.0, 0.0] * 100)
    found = bound(weight)
    assert found.places == pytest.approx(800 * 0.8112781 / 8)  # one of four is kept
    # a bit each; 5.0 and 6.0 differ in one of four bytes, so five bytes are listed
    assert found.values == pytest.approx(200 * 1 / 8 + 5)
    assert found.bytes == found.places + found.values


def test_the_bound_of_many_values_is_that_of_their_bytes():
    weight = torch.arange(1, 65_536, dtype=torch.int32)
    listed = 2 * 256 + 2  # the bytes that differ; the two upper ones are always zero
    assert bound(weight).values == pytest.approx(2 * 65_535 + listed, rel=1e-4)


# --- shared values ------------------------------------------------------------------------------


def test_shared_values_are_few_and_near():
    weight = random(200, 200, sparsity=0.5)
    quantized = share_weights(weight, 16)
    values = quantized[quantized != 0].unique()
    assert len(values) == 16
    assert torch.equal(quantized == 0, weight == 0)
    nearest = (weight[weight != 0][:, None] - values).abs().min(1).values
    assert torch.allclose((weight - quantized).abs()[weight != 0], nearest, atol=1e-6)
    even = torch.linspace(float(weight.min()), float(weight.max()), 16)
    unmoved = (weight[weight != 0][:, None] - even).abs().min(1).values
    assert float((nearest**2).mean()) < 0.5 * float((unmoved**2).mean())


def test_every_shared_value_is_the_mean_of_its_weights():
    weight = random(100, 100, sparsity=0)
    quantized = share_weights(weight, 8, steps=1000)
    for value in quantized.unique():
        assert float(value) == pytest.approx(float(weight[quantized == value].mean()), abs=1e-4)


def test_fewer_weights_than_values_are_left_as_they_are():
    weight = torch.tensor([0.0, 1.0, 0.0, -2.0])
    assert torch.allclose(share_weights(weight, 16), weight)
    assert torch.equal(share_weights(torch.zeros(4), 16), torch.zeros(4))


@pytest.mark.parametrize("count", [0, MOST_SHARED + 1])
def test_an_impossible_codebook_is_refused(count):
    with pytest.raises(ValueError, match=f"from 1 to {MOST_SHARED} values; got {count}"):
        share_weights(random(4, 4), count)


# --- bits ---------------------------------------------------------------------------------------


@given(bits=some.integers(0, 8), data=some.data())
def test_bits_come_back(bits, data):
    numbers = data.draw(some.lists(some.integers(0, 2**bits - 1), max_size=40))
    packed = pack_bits(np.array(numbers, int), bits)
    assert len(packed) == math.ceil(len(numbers) * bits / 8)
    assert unpack_bits(packed, bits, len(numbers)).tolist() == numbers


def test_the_highest_bit_comes_first():
    assert pack_bits(np.array([0b101, 0b011]), 3).tolist() == [0b10101100]


# --- refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("places", "values", "message"),
    [
        ("sparse", "plain", "no 'sparse'; choose from dense, CSR"),
        ("CSR", "zip", "no 'zip'; choose from plain, codebook"),
        ("2:4", "plain", "at most two weights in every four"),
        ("dense", "codebook", "up to 256 values"),
    ],
)
def test_a_way_that_a_weight_cannot_have_is_refused(places, values, message):
    with pytest.raises(ValueError, match=message):
        encode(random(40, 40, sparsity=0.1), places, values)


def test_columns_that_four_does_not_divide_are_refused():
    with pytest.raises(ValueError, match="2:4"):
        encode(torch.zeros(4, 6), "2:4", "plain")


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match="Cannot store complex64; choose from float32"):
        encode(torch.zeros(2, dtype=torch.complex64))


BREAKS = {
    "cut": lambda part: part[:-1],
    "short": lambda part: part[:3],
    "empty": lambda part: part[:0],
    "reversed": lambda part: part[::-1].copy(),
    "one more": lambda part: part + 1,
    "far": lambda part: part + 200,
    "hundredfold": lambda part: part * 100,
    "all ones": lambda part: part | 255,
    "nothing": lambda part: part * 0,
}
BROKEN = [
    ("CSR", "plain", "starts", "cut"),
    ("CSR", "plain", "starts", "reversed"),
    ("CSR", "plain", "starts", "empty"),
    ("CSR", "plain", "starts", "one more"),
    ("CSR", "plain", "columns", "far"),
    ("CSR", "plain", "columns", "cut"),
    ("CSR", "plain", "values", "cut"),
    ("relative", "plain", "gaps", "all ones"),
    ("relative", "plain", "gaps", "cut"),
    ("relative", "plain", "count", "hundredfold"),
    ("relative", "plain", "count", "empty"),
    ("bitmask", "plain", "mask", "cut"),
    ("bitmask", "plain", "mask", "all ones"),
    ("2:4", "plain", "places", "cut"),
    ("coded", "plain", "mask, often", "nothing"),
    ("coded", "plain", "mask, often", "empty"),
    ("dense", "codebook", "table", "short"),
    ("dense", "codebook", "indices", "cut"),
    ("dense", "coded", "table", "short"),
    ("dense", "coded", "values, often", "empty"),
]


@pytest.mark.parametrize(("places", "values", "name", "breaks"), BROKEN)
def test_parts_that_do_not_fit_together_are_refused(places, values, name, breaks):
    weight = in_the_pattern(random(24, 40, sparsity=0.3))
    encoded = encode(weight, places, values)
    encoded.parts[name] = BREAKS[breaks](encoded.parts[name])
    with pytest.raises(StorageError):
        decode(encoded)


@pytest.mark.parametrize(("places", "values"), WAYS)
def test_a_part_that_is_missing_is_refused(places, values):
    encoded = encode(in_the_pattern(random(24, 40, sparsity=0.3)), places, values)
    for name in encoded.parts:
        less = {other: part for other, part in encoded.parts.items() if other != name}
        with pytest.raises(StorageError):
            decode(encoded._replace(parts=less))
