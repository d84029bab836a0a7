"""Sectors against counts by hand, and the row of 4,096 weights that lessons speak of."""

import math

import pytest
import torch

from course_lib.measuring.traffic import (
    IDLE,
    Loads,
    Rows,
    blocks,
    csr_thread_per_row,
    csr_tile,
    csr_warp_per_row,
    dense,
    dense_tile,
    from_mask,
    random_rows,
    scatter,
    touched,
    two_four,
)

WIDTH = 4096


@pytest.fixture(scope="module")
def pruned() -> Rows:
    """256 rows, 90 % of whose weights are zero."""
    return random_rows(256, WIDTH, 0.9)


def per_row(loads: Loads) -> dict[str, float]:
    return {array: count / loads.rows for array, count in loads.sectors().items()}


def sectors_of(addresses: list[int]) -> int:
    return len({address // 32 for address in addresses})


# --- one row of 4,096, 90 % sparse --------------------------------------------------------------


def test_a_dense_row_reads_its_weights_and_the_vector_once():
    loads = dense(3, WIDTH)
    assert per_row(loads) == {"values": 512, "vector": 512}
    assert loads.per_row == 1024 and loads.per_mac == 0.25


def test_csr_with_a_warp_per_row_gains_a_factor_of_two_and_not_of_ten(pruned):
    loads = csr_warp_per_row(pruned)
    assert per_row(loads) == pytest.approx({"values": 62, "indices": 62, "vector": 294}, rel=0.01)
    assert loads.per_mac / dense(1, WIDTH).per_mac == pytest.approx(4.1, rel=0.01)
    assert dense(1, WIDTH).per_row / loads.per_row == pytest.approx(2.4, rel=0.03)


def test_csr_with_a_thread_per_row_gains_nothing(pruned):
    loads = csr_thread_per_row(pruned)
    assert loads.per_row == pytest.approx(1072, rel=0.02)
    assert loads.per_row > dense(1, WIDTH).per_row
    assert loads.sectors()["values"] == pruned.nonzeros, "each value is alone in its sector"


def test_columns_side_by_side_are_read_together_and_columns_in_disorder_are_not(pruned):
    found = {
        order: csr_warp_per_row(random_rows(256, WIDTH, 0.9, order))
        for order in ("clustered", "sorted", "shuffled")
    }
    values = {order: loads.sectors()["values"] for order, loads in found.items()}
    vector = {order: loads.sectors()["vector"] / 256 for order, loads in found.items()}
    assert len({*values.values()}) == 1, "they have as many values each"
    assert vector["clustered"] < 65 and 290 < vector["sorted"] < 300 < 390 < vector["shuffled"]


def test_two_four_halves_the_values_and_reads_the_whole_vector():
    assert per_row(two_four(2, WIDTH, 4)) == {"values": 256, "indices": 16, "vector": 512}
    assert per_row(two_four(2, WIDTH, 2)) == {"values": 128, "indices": 16, "vector": 256}
    assert two_four(2, WIDTH).macs == WIDTH


def test_blocks_are_read_as_a_dense_matrix_is():
    rows = random_rows(32, WIDTH // 8, 0.9)
    wide = blocks(rows, (1, 8))
    assert per_row(wide)["values"] == per_row(wide)["vector"] == rows.nonzeros / 32
    square = blocks(rows, (8, 8))
    assert per_row(square)["values"] == rows.nonzeros / 32, "8 numbers of 4 bytes are a sector"
    assert square.per_row < wide.per_row < csr_warp_per_row(random_rows(32, WIDTH, 0.9)).per_row


def test_narrow_numbers_shrink_what_is_coalesced_and_hardly_what_is_gathered(pruned):
    four, two = csr_warp_per_row(pruned).sectors(), csr_warp_per_row(pruned, 2, 2).sectors()
    ratio = {array: two[array] / four[array] for array in four}
    assert ratio["values"] == ratio["indices"] < 0.6 < 0.7 < ratio["vector"]


# --- by hand ------------------------------------------------------------------------------------

#: Rows with 3, 0, 40 and 1 nonzeros.
LITTLE = Rows(
    torch.tensor([0, 3, 3, 43, 44]), torch.tensor([0, 9, 60, *range(0, 80, 2), 7]), width=80
)


def lists(rows: Rows) -> list[list[int]]:
    """The columns of each row."""
    return [columns.tolist() for columns in rows.columns.tensor_split(rows.starts[1:-1])]


def by_hand(instructions: list[list[int]], columns: list[int], size: int) -> dict[str, int]:
    """Sectors of instructions that are given as the places of the nonzeros that they read."""
    return {
        "values": sum(sectors_of([size * place for place in each]) for each in instructions),
        "indices": sum(sectors_of([4 * place for place in each]) for each in instructions),
        "vector": sum(
            sectors_of([size * columns[place] for place in each]) for each in instructions
        ),
    }


@pytest.mark.parametrize("size", [2, 4])
def test_csr_by_hand(size):
    columns = LITTLE.columns.tolist()
    warps = [[0, 1, 2], [*range(3, 35)], [*range(35, 43)], [43]]
    assert csr_warp_per_row(LITTLE, size).sectors() == by_hand(warps, columns, size)
    threads = [[0, 3, 43], [1, 4], [2, 5], *([place] for place in range(6, 43))]
    assert csr_thread_per_row(LITTLE, size).sectors() == by_hand(threads, columns, size)


def test_a_column_counts_as_a_block_of_one():
    assert blocks(LITTLE, (1, 1)).sectors() == csr_warp_per_row(LITTLE).sectors()


def test_blocks_by_hand():
    rows = Rows(torch.tensor([0, 2, 3]), torch.tensor([0, 3, 1]), width=4)
    loads = blocks(rows, (2, 4))
    # 16 weights of two blocks, then 8 of one; inputs 0 to 3 and 12 to 15, then 4 to 7
    assert loads.sectors() == {"values": 2 + 1, "indices": 1 + 1, "vector": 2 + 1}
    assert loads.addresses["indices"][0].tolist() == [0] * 8 + [4] * 8 + [IDLE] * 16
    assert loads.addresses["vector"][1, :8].tolist() == [16, 20, 24, 28] * 2
    assert (loads.macs, loads.rows) == (24, 4)


@pytest.mark.parametrize(
    ("addresses", "count"),
    [
        ([0, 4, 28], 1),
        ([0, 32, 64], 3),
        ([28, 32], 2),
        ([64, 0, 68, IDLE], 2),
        ([IDLE, IDLE], 0),
        ([12, 12, 12], 1),
    ],
)
def test_an_instruction_costs_the_sectors_that_it_touches(addresses, count):
    assert touched(torch.tensor([addresses])).tolist() == [count]


def test_32_neighbours_lie_in_4_sectors_or_in_5():
    first = 4 * torch.arange(8)
    assert touched(first[:, None] + 4 * torch.arange(32)).tolist() == [4] + 7 * [5]


# --- scatter ------------------------------------------------------------------------------------


def test_a_scatter_touches_what_a_gather_reads_and_updates_every_nonzero(pruned):
    gathered, scattered = csr_warp_per_row(pruned), scatter(pruned)
    assert scattered.sectors()["outputs"] == gathered.sectors()["vector"]
    assert scattered.sectors()["vector"] == pruned.height, "one input for each row"
    assert (gathered.updates, scattered.updates) == (0, pruned.nonzeros)


def test_a_scatter_reads_no_input_for_an_empty_row():
    assert scatter(LITTLE).addresses["vector"].tolist() == [[0], [8], [12]]


# --- a batch ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 4])
def test_in_a_tile_each_weight_and_each_input_serves_128_outputs(size):
    loads = dense_tile(64, size)
    assert loads.sectors() == {"values": 128 * 64 * size / 32, "inputs": 128 * 64 * size / 32}
    assert loads.macs == 128 * 128 * 64


def test_csr_reads_an_input_again_for_each_row():
    rows = random_rows(128, 1024, 0.9)
    loads, whole = csr_tile(rows), dense_tile(1024)
    assert loads.sectors()["inputs"] == rows.nonzeros * 128 * 4 / 32
    assert loads.sectors()["values"] == csr_warp_per_row(rows).sectors()["values"]
    assert loads.per_mac / whole.per_mac == pytest.approx(65, rel=0.02)
    assert loads.total > 6 * whole.total, "a tenth of the MACs, and more traffic"


# --- rows ---------------------------------------------------------------------------------------


def test_rows_of_a_mask_are_those_of_csr():
    mask = torch.rand(5, 12, generator=torch.Generator().manual_seed(0)) < 0.4
    mask[2] = False
    held, rows = mask.float().to_sparse_csr(), from_mask(mask)
    assert torch.equal(rows.starts, held.crow_indices())
    assert torch.equal(rows.columns, held.col_indices())
    assert (rows.height, rows.width, rows.nonzeros) == (5, 12, int(mask.sum()))


@pytest.mark.parametrize("order", ["sorted", "shuffled", "clustered"])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.93, 1.0])
def test_random_rows_have_the_sparsity_and_no_column_twice(order, sparsity):
    rows = random_rows(7, 50, sparsity, order)
    assert rows.nonzeros == round((1 - sparsity) * 7 * 50)
    assert max(rows.starts.diff()) - min(rows.starts.diff()) <= 1
    for columns in lists(rows):
        assert len({*columns}) == len(columns) and {*columns} <= {*range(50)}
        assert order == "shuffled" or columns == sorted(columns)


def test_a_seed_fixes_the_rows():
    one, other, again = (random_rows(2, 64, 0.5, seed=seed).columns for seed in (1, 2, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_rows_without_nonzeros_cost_nothing():
    for kernel in (csr_warp_per_row, csr_thread_per_row, scatter, csr_tile, blocks):
        loads = kernel(random_rows(3, 64, 1.0))
        assert loads.total == 0 and math.isnan(loads.per_mac)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: random_rows(2, 64, 90), "fraction from 0 to 1; got 90"),
        (lambda: random_rows(2, 64, 0.9, "backwards"), "got 'backwards'"),
        (lambda: from_mask(torch.ones(2, 3)), r"\(2, 3\) of torch.float32"),
        (lambda: dense(1, 64, value_bytes=3), "value takes 2 or 4 bytes here; got 3"),
        (lambda: csr_warp_per_row(LITTLE, index_bytes=8), "index takes 2 or 4 bytes here; got 8"),
        (lambda: csr_warp_per_row(random_rows(1, 70_000, 0.99), 2, 2), "70000 columns; use 4"),
        (lambda: two_four(1, 62), "multiple of 4 columns; got 62"),
    ],
)
def test_what_cannot_be_counted_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()
