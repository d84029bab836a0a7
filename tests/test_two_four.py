"""2:4 packed by hand: exact round trips, bytes, and the values and bits of torch's own format."""

import pytest
import torch
from torch.sparse import _semi_structured_conversions as torch_own

from course_lib.deployment.two_four import Packed, pack, unpack
from course_lib.pruning.masks import nm_mask


def two_four_matrix(rows: int, columns: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    return (weight * nm_mask(weight.abs(), 2, 4)).to(dtype)


def emptier(matrix: torch.Tensor) -> torch.Tensor:
    """``matrix`` with more zeros: fours with one nonzero value, or with none, at every position."""
    kept = torch.rand(matrix.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    return matrix * kept


def test_two_rows_by_hand():
    packed = pack(torch.tensor([[0.0, 5, 0, 7, 1, 2, 0, 0], [0, 0, 3, 4, 6, 0, 0, 8]]))
    assert packed.values.tolist() == [[5, 7, 1, 2], [3, 4, 6, 8]]
    # positions 1 and 3, then 0 and 1; positions 2 and 3, then 0 and 3
    assert packed.metadata.tolist() == [[0b0100_1101], [0b1100_1110]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("columns", [4, 8, 12, 64])
def test_unpacking_gives_the_same_matrix(columns, dtype):
    matrix = two_four_matrix(7, columns, dtype)
    for each in (matrix, emptier(matrix), torch.zeros_like(matrix)):
        packed = pack(each)
        assert packed.values.shape == (7, columns // 2) and packed.values.dtype == dtype
        assert packed.metadata.shape == (7, (columns + 7) // 8)
        assert torch.equal(unpack(*packed), each)


def test_in_16_bits_nine_sixteenths_of_the_bytes_are_left():
    matrix = two_four_matrix(32, 64)
    assert pack(matrix).bytes / matrix.nbytes == 0.5625
    assert pack(matrix.float()).bytes / matrix.float().nbytes == 0.53125


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("emptied", [False, True])
def test_torch_has_the_same_values_and_the_same_bits_in_another_order(dtype, emptied):
    matrix = two_four_matrix(64, 128, dtype)
    matrix = emptier(matrix) if emptied else matrix
    values, reordered = torch_own.sparse_semi_structured_from_dense_cutlass(matrix)
    packed = pack(matrix)
    assert torch.equal(values, packed.values)
    offsets = torch_own._calculate_meta_reordering_scatter_offsets(
        *reordered.shape, reordered.dtype, "cpu"
    )
    in_order = reordered.flatten()[offsets].view(reordered.shape)
    assert torch.equal(in_order.view(torch.uint8), packed.metadata)
    assert not torch.equal(reordered.view(torch.uint8), packed.metadata)


def test_torch_unpacks_what_was_packed_by_hand():
    matrix = two_four_matrix(32, 64)
    values, metadata = pack(matrix)
    words = metadata.view(torch.int16)
    offsets = torch_own._calculate_meta_reordering_scatter_offsets(*words.shape, words.dtype, "cpu")
    reordered = torch.empty_like(words).flatten().scatter_(0, offsets, words.flatten())
    unpacked = torch_own.sparse_semi_structured_to_dense_cutlass(
        values, reordered.view(words.shape)
    )
    assert torch.equal(unpacked, matrix)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.ones(2, 6), r"columns in fours; got \(2, 6\)"),
        (torch.ones(8), r"columns in fours; got \(8,\)"),
        (
            torch.tensor([[0.0, 1, 0, 0, 1, 1, 0, 1]]),
            "row 0 has 3 nonzero values in columns 4 to 7",
        ),
        (torch.ones(3, 8), "6 fours have more than two"),
    ],
)
def test_what_is_not_two_four_is_refused_and_named(matrix, message):
    with pytest.raises(ValueError, match=message):
        pack(matrix)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda packed: Packed(packed.values[:, :4], packed.metadata),
        lambda packed: Packed(packed.values, packed.metadata.int()),
        lambda packed: Packed(packed.values[:1], packed.metadata),
    ],
    ids=["too few columns", "not bytes", "too few rows"],
)
def test_parts_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ValueError, match="need metadata"):
        unpack(*wrong(pack(two_four_matrix(2, 64))))
