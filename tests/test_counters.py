"""The counters of a GPU, and the model of sectors that they check."""

import pytest
import torch

from course_lib.experiments import counters
from course_lib.measuring import traffic


@pytest.fixture(scope="module")
def kept():
    generator = torch.Generator().manual_seed(0)
    torch.randn(4096, 4096, generator=generator)
    return traffic.from_mask(torch.rand(4096, 4096, generator=generator) >= 0.9)


@pytest.mark.parametrize(("dtype", "value_bytes"), [("float32", 4), ("float16", 2)])
def test_the_model_of_a_warp_per_row_asks_for_what_the_gpu_counted(kept, dtype, value_bytes):
    predicted = traffic.csr_warp_per_row(kept, value_bytes).total
    # the starts of the rows, which the model leaves out, are two or three sectors per row
    assert 1 < counters.sectors()[dtype, "Triton"].asked / predicted < 1.02


def test_every_product_was_counted_at_every_level():
    found = counters.sectors()
    assert len(found) == 6
    for (dtype, product), each in found.items():
        assert min(each.second_level, each.memory, each.nanoseconds) > 0
        values = 4096**2 * (4 if dtype == "float32" else 2)
        read = each.memory * traffic.SECTOR
        if product == "dense":
            assert read == pytest.approx(values, rel=0.01)
        else:  # a tenth of the values, each with an index of 4 bytes
            assert read == pytest.approx(0.1 * (values + 4 * 4096**2), rel=0.02)


def test_the_times_are_those_of_three_products():
    found = counters.times()
    assert {(each.dtype, each.kernel) for each in found} == {*counters.sectors()}
    assert all(each.speedup.low <= each.speedup.value <= each.speedup.high for each in found)
    dense = {(t.dtype, t.sparsity): t.microseconds for t in found if t.kernel == "dense"}
    for each in found:
        ratio = dense[each.dtype, each.sparsity] / each.microseconds
        assert each.speedup.value == pytest.approx(ratio, rel=0.03)
