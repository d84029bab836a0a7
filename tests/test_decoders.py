"""Weights, neurons, head groups and blocks go from a decoder, which then computes the rest."""

import copy

import pytest
import torch
from decoders_made import tiny_decoder, windows
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import relative_error
from torch import nn
from torch.nn import functional as F

from course_lib.pruning import channels, decoders, encoders, masks, oneshot, surgery


@pytest.fixture
def model():
    return tiny_decoder()


@pytest.fixture
def ids():
    return windows()


def logits(model, ids):
    with torch.inference_mode():
        return model(ids, use_cache=False).logits


def unchanged(model):
    """A check that ``model`` is still what it is now."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = model.config.to_dict()

    def check():
        assert model.config.to_dict() == config
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    return check


# --- width --------------------------------------------------------------------------------------


def test_a_group_is_a_key_value_head_with_its_query_heads(model):
    found = decoders.graph(model)
    assert {name: len(group.channels) for name, group in found.groups.items()} == {
        f"{number}.{kind}": count
        for number in range(3)
        for kind, count in (("groups", 3), ("neurons", 20))
    }
    rows = {
        slot.name.rpartition("self_attn.")[2]: (slot.channels == 1).nonzero().squeeze(1).tolist()
        for slot in found.slots
        if slot.name.startswith("model.layers.0.self_attn.")
    }
    assert rows["q_proj.weight"] == [*range(32, 64)]  # two query heads of 16 numbers
    assert rows["k_proj.weight"] == rows["v_proj.weight"] == [*range(16, 32)]
    assert rows["o_proj.weight"] == [*range(32, 64)]


@settings(max_examples=15)
@given(data=st.data())
def test_removing_computes_what_zeroing_the_readers_computes(data):
    model, ids = tiny_decoder(), windows()
    graph = decoders.graph(model)
    removed = {
        name: data.draw(st.sets(st.integers(0, len(group.channels) - 1), max_size=2))
        for name, group in graph.groups.items()
    }
    check = unchanged(model)
    smaller = decoders.prune(model, removed)
    zeroed = surgery.zero_readers(copy.deepcopy(model), graph, removed)
    assert relative_error(logits(smaller, ids), logits(zeroed, ids)) < 1e-5
    check()


def test_the_configuration_follows_where_blocks_stay_alike(model):
    removed = {f"{number}.neurons": [0, 1] for number in range(3)}
    smaller = decoders.prune(model, removed | {f"{number}.groups": [2] for number in range(3)})
    sizes = smaller.config
    assert (sizes.intermediate_size, sizes.num_attention_heads) == (18, 4)
    assert sizes.num_key_value_heads == 2
    assert decoders.prune(model, {"0.neurons": [0]}).config.intermediate_size == 20


def test_a_smaller_decoder_generates_with_its_cache_what_it_computes_without(model):
    smaller = decoders.without_blocks(decoders.prune(model, {"0.groups": [1]}), [0, 1])
    ids = windows(1, 6)
    whole = smaller.generate(ids, max_new_tokens=5, do_sample=False, min_new_tokens=5)
    for place in range(6, 11):
        assert logits(smaller, whole[:, :place])[0, -1].argmax() == whole[0, place]


def test_a_block_cannot_lose_everything(model):
    with pytest.raises(ValueError, match=r"All 3 channels of 0\.groups would go"):
        decoders.prune(model, {"0.groups": [0, 1, 2]})


def test_scores_are_what_a_channel_adds(model, ids):
    graph = decoders.graph(model)
    scores = decoders.reader_scores(model, graph, ids)
    down = model.model.layers[1].mlp.down_proj
    seen = []
    hook = down.register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    logits(model, ids)
    hook.remove()
    expected = (seen[0].flatten(0, 1).norm(dim=0) * down.weight).square().sum(0)
    assert torch.allclose(scores["1.neurons"], expected.detach().to(scores["1.neurons"]), rtol=1e-4)
    assert len(scores["0.groups"]) == 3


@pytest.mark.parametrize("stranger", [nn.Linear(3, 3), nn.Sequential()])
def test_other_networks_are_refused(stranger):
    with pytest.raises(ValueError, match="is not a decoder of transformers"):
        decoders.graph(stranger)


def test_a_decoder_with_other_blocks_is_refused():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=10, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    with pytest.raises(ValueError, match="is not a decoder"):
        decoders.graph(GPT2LMHeadModel(config))
    model = tiny_decoder(1)
    model.model.layers[0].mlp = nn.Linear(48, 48)
    with pytest.raises(ValueError, match=r"Block 0 .* lacks the matrices"):
        decoders.graph(model)


def test_a_decoder_is_no_encoder(model):
    with pytest.raises(ValueError, match="no encoder layer"):
        encoders.encoder_graph(model)


# --- RMSNorm ------------------------------------------------------------------------------------


@given(
    kept=st.sets(st.integers(0, 7), min_size=1),
    epsilon=st.sampled_from([0.0, 1e-5, 0.1]),
    seed=st.integers(0, 99),
)
def test_a_narrower_norm_computes_the_same_where_the_rest_is_zero(kept, epsilon, seed):
    generator = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(2, 3, 8, generator=generator).unbind()
    kept = sorted(kept)
    x = x * torch.tensor([place in kept for place in range(8)])
    whole = F.rms_norm(x, (8,), weight[0], epsilon)
    narrow_weight, narrow_epsilon = decoders.narrower_norm(weight[0], epsilon, kept)
    narrow = F.rms_norm(x[:, kept], (len(kept),), narrow_weight, narrow_epsilon)
    assert torch.allclose(whole[:, kept], narrow, atol=1e-5)


# --- depth --------------------------------------------------------------------------------------


def test_without_blocks_the_rest_computes_on(model, ids):
    check = unchanged(model)
    smaller = decoders.without_blocks(model, [1])
    skipped = copy.deepcopy(model)
    del skipped.model.layers[1]
    skipped.config.num_hidden_layers = 2
    assert torch.equal(logits(smaller, ids), logits(skipped, ids))
    assert [block.self_attn.layer_idx for block in smaller.model.layers] == [0, 1]
    assert smaller.config.num_hidden_layers == 2
    check()


@pytest.mark.parametrize("numbers", [[3], [-1], [0, 1, 2]])
def test_blocks_that_cannot_go_are_refused(model, numbers):
    with pytest.raises(ValueError, match="blocks 0 to 2 and keeps at least one"):
        decoders.without_blocks(model, numbers)


def test_a_block_that_adds_nothing_has_no_influence(model, ids):
    block = model.model.layers[1]
    with torch.no_grad():
        block.self_attn.o_proj.weight.zero_()
        block.mlp.down_proj.weight.zero_()
    found = decoders.influences(model, ids)
    assert found[1] == pytest.approx(0, abs=1e-6)
    assert min(found[0], found[2]) > 0.01
    assert decoders.influences(model, ids, length=2)[0] == pytest.approx(found[0], abs=1e-5)


def test_influence_of_a_turn_by_a_right_angle_is_one():
    assert decoders.influence(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 5.0]])) == 1


def test_more_blocks_in_a_row_than_there_are_is_refused(model, ids):
    with pytest.raises(ValueError, match="has 3 blocks; 4 in a row"):
        decoders.influences(model, ids, length=4)


# --- single weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", [oneshot.magnitude, oneshot.wanda, oneshot.sparsegpt])
@pytest.mark.parametrize("pattern", [0.5, (2, 4)])
def test_the_weights_of_the_blocks_go_and_no_others(model, ids, method, pattern):
    check = unchanged(model)
    pruned = decoders.prune_weights(model, ids, method, pattern)
    sparse = {
        name: masks.sparsity(pruned.get_submodule(name)) for name in decoders.linear_layers(model)
    }
    assert all(value == pytest.approx(0.5, abs=0.01) for value in sparse.values())
    assert len(sparse) == 21
    assert torch.equal(pruned.model.embed_tokens.weight, model.model.embed_tokens.weight)
    check()


def test_block_by_block_is_the_same_as_the_whole_model_at_once(model, ids):
    """The network that runs whole for each block gives the same weights, in far more time."""
    pruned = decoders.prune_weights(model, ids, oneshot.sparsegpt, 0.5)
    names = decoders.linear_layers(model)
    whole = oneshot.prune(model, [*ids.split(1)], oneshot.sparsegpt, 0.5, names, at_once=7)
    for name in names:
        one, other = (each.get_submodule(name).weight for each in (pruned, whole))
        assert torch.allclose(one, other, atol=1e-4), name


def test_the_wrong_way_prunes_the_embedding_too(model):
    check = unchanged(model)
    pruned = decoders.prune_everything(model, 0.5)
    tensors = [one for one in pruned.parameters() if one.dim() > 1]
    zeros, total = sum((one == 0).sum() for one in tensors), sum(one.numel() for one in tensors)
    assert zeros / total == pytest.approx(0.5, abs=1e-3)
    assert (pruned.model.embed_tokens.weight == 0).any()
    assert pruned.lm_head.weight is pruned.model.embed_tokens.weight
    check()


def test_pruned_neurons_can_be_chosen_by_any_score(model, ids):
    graph = decoders.graph(model)
    scores = decoders.reader_scores(model, graph, ids)
    chosen = channels.lowest({name: scores[name] for name in scores if "neurons" in name}, 0.5)
    assert decoders.prune(model, chosen).config.intermediate_size == 10
