"""The course's attention modules compute the same as torch's ``nn.MultiheadAttention``."""

import pytest
import torch
from networks import TOKENS, example, randomised, relative_error
from torch import nn

from course_lib.networks import models
from course_lib.networks.attention import LayeredAttention, SelfAttention, layered, removable


@pytest.fixture(params=[True, False], ids=["batch first", "tokens first"])
def attention(request):
    return randomised(nn.MultiheadAttention(8, 4, batch_first=request.param))


@pytest.mark.parametrize("kind", [SelfAttention, LayeredAttention])
def test_it_computes_what_torchs_own_attention_computes(attention, kind):
    x = example(TOKENS)
    expected, _ = attention(x, x, x)
    found, weights = kind(attention)(x, x, x)
    assert relative_error(found, expected) < 1e-12 and weights is None


def test_keys_and_values_may_come_from_elsewhere(attention):
    queries, keys, values = (example(TOKENS) * scale for scale in (1, 2, 3))
    expected, _ = attention(queries, keys, values)
    found, _ = SelfAttention(attention)(queries, keys, values)
    assert relative_error(found, expected) < 1e-12
    with pytest.raises(ValueError, match="have one input"):
        LayeredAttention(attention)(queries, keys, values)


def test_without_biases(attention):
    bare = randomised(nn.MultiheadAttention(8, 2, bias=False, batch_first=True))
    x = example(TOKENS)
    expected, _ = bare(x, x, x)
    for kind in (SelfAttention, LayeredAttention):
        assert relative_error(kind(bare)(x, x, x)[0], expected) < 1e-12


@pytest.mark.parametrize("change", [removable, layered, lambda net: layered(removable(net))])
def test_a_network_computes_the_same_and_is_itself_left_alone(change):
    network = models.build("conv_attention").eval()
    pictures = torch.randn(3, 1, 28, 28)
    changed = change(network)
    torch.testing.assert_close(changed(pictures), network(pictures))
    kinds = {type(block.attention) for block in changed.blocks}
    assert nn.MultiheadAttention not in kinds and len(kinds) == 1
    assert all(isinstance(block.attention, nn.MultiheadAttention) for block in network.blocks)
