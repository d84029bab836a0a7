"""MACs against a count by hand, bytes against a file that was really written."""

import pytest
import torch
from safetensors.torch import save_model
from torch import nn

from course_lib import cost, masks


def test_macs_of_a_linear_layer_and_a_convolution_by_hand():
    assert cost.macs(nn.Linear(30, 20), torch.randn(1, 30)) == 30 * 20
    convolution = nn.Conv2d(3, 8, kernel_size=3, stride=2)
    # 8 output channels of 4 x 4, each from 3 channels of 3 x 3
    assert cost.macs(convolution, torch.randn(1, 3, 9, 9)) == 8 * 4 * 4 * 3 * 3 * 3


def test_macs_count_zeros_and_grow_with_the_batch():
    layer = nn.Linear(30, 20)
    masks.apply_masks(layer, masks.global_masks(layer, 0.9))
    assert cost.macs(layer, torch.randn(7, 30)) == 7 * 30 * 20


@pytest.mark.parametrize("training", [True, False])
def test_macs_count_attention_in_both_modes(training):
    width, tokens = 8, 5
    block = nn.TransformerEncoderLayer(width, nhead=4, dim_feedforward=16, batch_first=True)
    attention = 4 * tokens * width**2 + 2 * tokens**2 * width
    assert cost.macs(block.train(training), torch.randn(1, tokens, width)) == (
        attention + 2 * tokens * width * 16
    )
    assert torch.backends.mha.get_fastpath_enabled()


def test_stored_bytes_are_those_of_the_file(tmp_path):
    model = nn.Sequential(nn.Linear(30, 20), nn.BatchNorm1d(20))
    save_model(model, str(tmp_path / "weights.safetensors"))
    written = (tmp_path / "weights.safetensors").stat().st_size
    assert cost.stored_bytes(model) == written
    assert cost.stored_bytes(model.half()) < 0.7 * written
