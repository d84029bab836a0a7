"""Predictions against arithmetic by hand, and against what was published for the cards."""

import pytest
import torch

from course_lib.measuring import break_even
from course_lib.measuring.break_even import (
    LAUNCH,
    TFLOPS,
    Card,
    batch,
    launch_floor,
    predicted,
    seconds,
    sparse_rate,
    stops_gaining,
    vector,
)
from course_lib.measuring.cost import Work
from course_lib.measuring.traffic import SECTOR, csr_warp_per_row, random_rows

V100 = Card("V100 SXM2", 15.7 * TFLOPS, 125 * TFLOPS, None, 900e9, 6 * 2**20)
A100 = Card("A100 SXM4 40GB", 19.5 * TFLOPS, 312 * TFLOPS, 624 * TFLOPS, 1555e9, 40 * 2**20)
RTX_3090 = Card("RTX 3090", 35.6 * TFLOPS, 71 * TFLOPS, 142 * TFLOPS, 936e9, 6 * 2**20)
ORIN = Card("Jetson AGX Orin", 5.3 * TFLOPS, None, None, 204.8e9, 4 * 2**20)

CARDS = (V100, A100, RTX_3090, ORIN)


# --- one vector ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "index_bytes", "sparsity"),
    [
        (torch.float32, 4, 1 / 2),
        (torch.float16, 4, 2 / 3),
        (torch.bfloat16, 2, 1 / 2),
        (torch.float16, 0.5, 1 / 5),
        (torch.float32, 0, 0),
    ],
)
@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_without_a_gather_the_bytes_of_the_format_decide_on_every_card(
    card, dtype, index_bytes, sparsity
):
    assert vector(card, dtype, index_bytes, gather=False) == pytest.approx(sparsity, abs=1e-3)


def test_with_a_gather_both_products_move_as_many_bytes_at_the_break_even():
    found = vector(V100, torch.float16, 2)
    loads = csr_warp_per_row(random_rows(8, 4096, found), value_bytes=2)
    sparse = (1 - found) * 4096 * (2 + 2) + SECTOR * loads.sectors()["vector"] / 8
    assert sparse == pytest.approx(2 * 4096 * 2, rel=0.01)


@pytest.mark.parametrize("index_bytes", [0.5, 2, 4])
def test_a_gather_and_wider_indices_raise_the_break_even(index_bytes):
    free, paid = (vector(V100, torch.float16, index_bytes, gather=each) for each in (False, True))
    assert free < paid < vector(V100, torch.float16, 2 * index_bytes)


def test_a_card_without_arithmetic_is_not_limited_by_bytes():
    slow = V100._replace(fp32=1e9)
    assert vector(slow, torch.float32) == 0, "as many MACs per second, and never more of them"


# --- a batch ------------------------------------------------------------------------------------


def test_in_single_precision_the_share_of_the_peak_decides():
    by_hand = 1 - 0.27 / 0.8
    assert batch(V100, torch.float32) == pytest.approx(by_hand, abs=0.001)
    assert batch(A100, torch.float32, share=0.4, cached=1) == pytest.approx(1 - 0.4 / 0.8)
    published = 0.71  # Gale et al., 2020, on a V100
    assert abs(batch(V100, torch.float32) - published) < 0.06


def test_tensor_cores_move_the_break_even_of_16_bit_numbers_far_up():
    by_hand = 1 - 0.27 * 15.7 / (0.8 * 125)
    assert batch(V100, torch.float16) == pytest.approx(by_hand, abs=0.001)
    for card in (V100, A100):
        assert 0.94 < batch(card, torch.float16) < 0.98


def test_a_card_with_much_arithmetic_for_its_bandwidth_breaks_even_later():
    loaded = 4 + (4 + 4) * 1.25 / 128  # bytes per MAC; 32 values of 4 bytes lie in 5 sectors
    rate = 936e9 / (0.1 * loaded)
    assert sparse_rate(RTX_3090, torch.float32) == pytest.approx(rate, rel=0.01)
    assert batch(RTX_3090, torch.float32) == pytest.approx(1 - rate / (0.8 * 17.8e12), abs=0.01)
    assert batch(RTX_3090, torch.float32) > batch(V100, torch.float32) + 0.1
    alike = [batch(card, torch.float32, cached=1) for card in CARDS]
    assert alike == pytest.approx([alike[0]] * len(CARDS)), "without memory the cards are alike"


def test_a_sparse_kernel_as_fast_as_the_dense_one_breaks_even_at_once():
    assert batch(V100, torch.float32, share=0.9, cached=1) == 0


# --- 2:4 ----------------------------------------------------------------------------------------


# --- published kernels --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "dtype", "kernel", "columns", "published"),
    [
        (RTX_3090, torch.float16, "unstructured, MACKO", 1, 0.222),
        (RTX_3090, torch.float16, "unstructured CSR, Sputnik", 1, 0.638),
        (A100, torch.float32, "unstructured CSR, Sputnik", 4096, 0.802),
    ],
)
def test_what_was_published_is_predicted_roughly(card, dtype, kernel, columns, published):
    found = predicted(card, dtype, kernel, columns)
    assert found.ideal <= found.expected
    assert min(abs(each - published) for each in found) < 0.15


def test_there_is_no_prediction_without_a_model():
    assert predicted(A100, torch.float16, "block 8x8, cuSPARSE blocked-ELL", 256) is None


# --- whole networks -----------------------------------------------------------------------------


def test_a_layer_takes_its_slower_limit_and_its_launch():
    arithmetic, memory = Work(macs=10**9, moved=1), Work(macs=1, moved=10**9)
    one = 10**9 / (0.8 * 15.7 * TFLOPS)
    assert seconds(V100, [arithmetic], launch=0) == pytest.approx(one)
    both = seconds(V100, [arithmetic, memory], launch=1e-5)
    assert both == pytest.approx(one + 10**9 / 900e9 + 2e-5)
    assert seconds(V100, [arithmetic], torch.float16, 0) == pytest.approx(one * 15.7 / 125)


def test_a_narrow_network_only_launches_and_a_wide_one_does_not():
    networks = {16: [Work(10**5, 10**4)] * 20, 1024: [Work(10**9, 10**7)] * 20}
    assert launch_floor(20) == 20 * LAUNCH
    assert seconds(A100, networks[16]) < 1.05 * launch_floor(20)
    assert stops_gaining(A100, networks) == 16
    assert stops_gaining(A100, networks, launch=1e-10) is None
    assert stops_gaining(A100, networks, launch=1.0) == 1024


# --- the datasheet ------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [vector, batch])
def test_a_number_type_without_a_rate_is_refused(call):
    with pytest.raises(ValueError, match=r"float16 and bfloat16; got torch.int8"):
        call(V100, torch.int8)


def test_a_card_whose_rate_is_unknown_is_refused():
    with pytest.raises(ValueError, match="tensor cores is known of the Jetson AGX Orin; use"):
        batch(ORIN, torch.float16)
    assert 0 < batch(ORIN, torch.float32) < 1


def test_caches_serve_what_a_v100_needs_to_reach_its_share():
    share = sparse_rate(V100, torch.float32, share=1.0) / V100.fp32
    assert 0.27 < share < 0.29, "memory alone would allow hardly more"
    assert break_even.SPARSE_SHARE == 0.27
