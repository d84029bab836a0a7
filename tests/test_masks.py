"""Masks prune exactly what they are asked for, and what is pruned stays pruned."""

import copy
import math
import re
from itertools import pairwise
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset

from course_lib.networks.attention import SelfAttention
from course_lib.pruning import masks
from course_lib.pruning.masks import (
    apply_masks,
    coverage,
    cubic_sparsity,
    enforce_masks,
    global_masks,
    input_norms,
    layer_masks,
    layer_sparsity,
    masks_of,
    nm_mask,
    nm_masks,
    output_masks,
    prunable,
    pruned_copy,
    random_scores,
    sparsity,
    wanda,
    wanda_scores,
)

KINDS = {2: nn.Linear, 3: nn.Conv1d, 4: nn.Conv2d}


def network(*weights: torch.Tensor) -> nn.Sequential:
    """Layers that hold exactly these weights, strides included; their forward is of no use."""
    layers = []
    for weight in weights:
        layer = KINDS[weight.dim()](1, 1, *[1] * (weight.dim() > 2), bias=False)
        layer.weight = nn.Parameter(weight)
        layers.append(layer)
    return nn.Sequential(*layers)


def zeros(found: masks.Masks) -> int:
    return sum(int((~mask).sum()) for mask in found.values())


# --- what is prunable ---------------------------------------------------------------------------


class Tied(nn.Module):
    """Two linear layers share one weight, another one is that of the embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 6)
        self.first.weight, self.head.weight = self.second.weight, self.embedding.weight

    def forward(self, x):
        return self.head(self.first(self.second(self.embedding(x))))


@pytest.fixture
def mixed():
    """A network that also holds what pruning must leave alone: biases, BatchNorm, an embedding."""
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "embedding": nn.Embedding(5, 4),
            "conv": nn.Conv2d(4, 8, 3),
            "bn": nn.BatchNorm2d(8),
            "transposed": nn.ConvTranspose1d(8, 6, 3),
            "linear": nn.Linear(6, 8),
        }
    )


def test_prunable_are_the_weights_of_linear_and_convolution_layers(mixed):
    assert list(prunable(mixed)) == ["conv.weight", "transposed.weight", "linear.weight"]
    assert prunable(mixed)["conv.weight"] is mixed["conv"].weight


def test_matrices_that_attention_holds_itself_are_prunable():
    one, several = (
        nn.ModuleDict({"a": nn.MultiheadAttention(8, 2, kdim=kdim)}) for kdim in (None, 6)
    )
    names = [name.removeprefix("a.") for name in prunable(several)]
    assert names == ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"]
    for whole in (one, nn.ModuleDict({"a": SelfAttention(one["a"])})):
        assert [*prunable(whole)] == ["a.in_proj_weight", "a.out_proj.weight"]
        assert sparsity(pruned_copy(whole, global_masks(whole, 0.5))) == 0.5


def test_shared_weight_is_counted_once_and_pruned_once():
    model = Tied()
    found = global_masks(model, 0.5)
    assert list(found) == ["first.weight"] and zeros(found) == 8
    apply_masks(model, found)
    assert sparsity(model) == 0.5 and layer_sparsity(model) == {"first.weight": 0.5}
    assert model.first.weight is model.second.weight


def test_embedding_is_pruned_only_where_it_is_named():
    for use in (global_masks, layer_masks, output_masks):
        assert "embedding.weight" not in use(Tied(), 0.5)
    model = Tied()
    assert "embeddings" in coverage(model).left_out["embedding.weight"]
    found = layer_masks(model, {"embedding.weight": 0.5})
    assert zeros({"it": found.pop("embedding.weight")}) == 12 and found["first.weight"].all()
    ready = {"embedding.weight": torch.rand(6, 4), "first.weight": torch.rand(4, 4)}
    found = output_masks(model, 0.5, ready)
    with enforce_masks(model, found):
        assert int((model.head.weight == 0).sum()) == 12
    assert int((pruned_copy(Tied(), found).head.weight == 0).sum()) == 12


def test_sparsity_counts_exact_zeros():
    model = network(torch.tensor([[0.0, -0.0, 1e-45, 1.0]]), torch.tensor([[0.0, 1.0]]))
    assert sparsity(model) == 3 / 6
    assert layer_sparsity(model) == {"0.weight": 0.5, "1.weight": 0.5}


def test_network_without_prunable_layers_has_no_sparsity():
    model = nn.Sequential(nn.BatchNorm1d(3))
    assert sparsity(model) == 0 and layer_sparsity(model) == {}


# --- masks: properties over awkward networks ----------------------------------------------------


def pick(*values: float):
    """Fill a tensor with a random choice of these values."""
    choices = torch.tensor(values)
    return lambda shape, random: choices[torch.randint(len(values), shape, generator=random)]


FILLS = {
    "normal": lambda shape, random: torch.randn(shape, generator=random),
    "few values": pick(-1.0, -0.5, 0.0, 0.5, 1.0),
    "all equal": pick(-0.25),
    "signed zeros": pick(-0.0, 0.0, 0.5),
    "infinities": pick(-math.inf, math.inf, 1.0, -1.0),
}
LAYOUTS = {
    "contiguous": lambda make, shape: make(shape),
    "transposed": lambda make, shape: make((shape[1], shape[0], *shape[2:])).transpose(0, 1),
    "strided": lambda make, shape: make((shape[0], 2 * shape[1], *shape[2:]))[:, ::2],
    "channels last": lambda make, shape: make((shape[0], *shape[2:], shape[1])).movedim(-1, 1),
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
SCORES = {
    "magnitude": masks.magnitude,
    "largest first": masks.largest_first,  # negative scores
    "signed": torch.Tensor.detach,  # scores of both signs, -0 and 0
}

sizes = st.one_of(
    st.tuples(st.integers(1, 8), st.integers(1, 8)),
    st.tuples(st.integers(1, 4), st.integers(1, 8), st.integers(1, 3)),
    st.tuples(st.integers(1, 4), st.integers(1, 8), st.integers(1, 3), st.integers(1, 3)),
)
fractions = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))
scores = st.sampled_from(list(SCORES)).map(SCORES.get)


@st.composite
def weights(draw):
    """A weight tensor of random shape, values, layout and type."""
    fill = FILLS[draw(st.sampled_from(list(FILLS)))]
    layout = LAYOUTS[draw(st.sampled_from(list(LAYOUTS)))]
    random = torch.Generator().manual_seed(draw(st.integers(0, 1_000)))
    weight = layout(lambda shape: fill(shape, random), draw(sizes))
    return weight.to(draw(st.sampled_from(DTYPES)))


networks = st.lists(weights(), min_size=1, max_size=3).map(lambda tensors: network(*tensors))


def lowest_by_sorting(tensors: list[torch.Tensor], score, count: int) -> list[torch.Tensor]:
    """The masks as a stable sort of all scores makes them: short, slow, and clearly right."""
    flat = torch.cat([score(tensor).float().flatten() for tensor in tensors])
    kept = torch.ones(len(flat), dtype=torch.bool)
    kept[flat.argsort(stable=True)[:count]] = False
    parts = kept.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def assert_same(found: masks.Masks, expected: list[torch.Tensor]) -> None:
    for mask, reference in zip(found.values(), expected, strict=True):
        assert mask.dtype == torch.bool and torch.equal(mask, reference)


# A piece of 7 weights makes ties cross the borders of pieces and of layers.
@pytest.mark.parametrize("piece", [7, masks.PIECE])
@given(model=networks, fraction=fractions, score=scores)
def test_global_masks_are_those_of_a_stable_sort_of_all_scores(piece, model, fraction, score):
    tensors = list(prunable(model).values())
    count = round(fraction * sum(tensor.numel() for tensor in tensors))
    with mock.patch.object(masks, "PIECE", piece):
        found = global_masks(model, fraction, score)
    assert list(found) == list(prunable(model)) and zeros(found) == count
    assert_same(found, lowest_by_sorting(tensors, score, count))


@given(model=networks, fraction=fractions, score=scores)
def test_layer_masks_are_those_of_a_stable_sort_of_each_layer(model, fraction, score):
    expected = [
        lowest_by_sorting([tensor], score, round(fraction * tensor.numel()))[0]
        for tensor in prunable(model).values()
    ]
    assert_same(layer_masks(model, fraction, score), expected)


@given(model=networks, fraction=fractions, score=scores)
def test_output_masks_are_those_of_a_stable_sort_of_each_output(model, fraction, score):
    expected = [
        torch.stack(
            [lowest_by_sorting([row], score, round(fraction * row.numel()))[0] for row in tensor]
        )
        for tensor in prunable(model).values()
    ]
    assert_same(output_masks(model, fraction, score), expected)


@given(model=networks, m=st.integers(1, 5), score=scores, data=st.data())
def test_nm_masks_keep_the_n_highest_of_every_m_inputs(model, m, score, data):
    n = data.draw(st.integers(0, m))
    found = nm_masks(model, n, m, score)
    for mask, tensor in zip(found.values(), prunable(model).values(), strict=True):
        assert mask.shape == tensor.shape and mask.dtype == torch.bool
        if tensor.shape[1] % m:
            assert mask.all()  # stays dense
            continue
        for group, values in zip(mask.split(m, dim=1), tensor.split(m, dim=1), strict=True):
            assert ((~group).sum(1) == m - n).all()
            rows = (part.movedim(1, -1).reshape(-1, m) for part in (group, values))
            for kept, row in zip(*rows, strict=True):
                assert torch.equal(kept, lowest_by_sorting([row], score, m - n)[0])


@pytest.mark.slow
@given(model=networks, ends=st.tuples(fractions, fractions), score=scores)
@pytest.mark.parametrize("make", [global_masks, layer_masks, output_masks])
def test_what_a_lower_sparsity_prunes_a_higher_one_prunes_too(make, model, ends, score):
    low, high = (make(model, fraction, score) for fraction in sorted(ends))
    assert not any((high[name] & ~low[name]).any() for name in low)


@given(model=networks, fraction=fractions)
def test_applied_masks_give_exactly_the_sparsity_of_weights_that_were_not_zero(model, fraction):
    with torch.no_grad():
        for weight in prunable(model).values():
            weight[weight == 0] = 1
    found = global_masks(model, fraction)
    apply_masks(model, found)
    assert sparsity(model) == zeros(found) / sum(mask.numel() for mask in found.values())
    assert_same(masks_of(model), list(found.values()))


# --- masks: single cases ------------------------------------------------------------------------


def one_of_two_masks(model, _sparsity, score=masks.magnitude):
    """N:M masks under the signature of the others."""
    return nm_masks(model, 1, 2, score)


MAKERS = [global_masks, layer_masks, output_masks, one_of_two_masks]


def test_smallest_magnitudes_go_first_across_layers():
    model = network(torch.tensor([[0.1, -0.2, 3.0]]), torch.tensor([[-0.15], [5.0], [0.3]]))
    found = global_masks(model, 0.5)
    assert found["0.weight"].tolist() == [[False, False, True]]
    assert found["1.weight"].tolist() == [[False], [True], [True]]


def test_earlier_weight_goes_first_among_ties_across_layers():
    model = network(torch.ones(2, 3), -torch.ones(2, 3))
    found = global_masks(model, 8 / 12)
    assert not found["0.weight"].any()
    assert found["1.weight"].tolist() == [[False, False, True], [True, True, True]]


def test_groups_of_an_nm_mask_run_along_the_input_channels():
    weight = torch.zeros(1, 4, 1, 2)
    weight[0, :, 0, 0] = torch.tensor([1.0, 2, 3, 4])
    weight[0, :, 0, 1] = torch.tensor([4.0, 3, 2, 1])
    mask = nm_masks(network(weight), 2, 4)["0.weight"]
    assert mask[0, :, 0, 0].tolist() == [False, False, True, True]
    assert mask[0, :, 0, 1].tolist() == [True, True, False, False]


@pytest.mark.parametrize("groups", [1, 2])
def test_outputs_and_inputs_of_a_transposed_convolution_are_not_confused(groups):
    layer = nn.ConvTranspose1d(8, 6, 1, groups=groups, bias=False)
    shape = (groups, 8 // groups, 6 // groups)  # its weight is stored as (in, out / groups, width)
    pruned = ~output_masks(nn.Sequential(layer), 0.25)["0.weight"].view(shape)
    assert (pruned.sum(dim=1) == 0.25 * shape[1]).all()
    pruned = ~nm_masks(nn.Sequential(layer), 1, 4)["0.weight"].view(shape)
    assert (pruned.unflatten(1, (-1, 4)).sum(dim=2) == 3).all()


def test_layer_masks_take_a_sparsity_by_name_and_leave_other_layers_dense():
    found = layer_masks(network(torch.randn(4, 5), torch.randn(4, 5)), {"1.weight": 0.25})
    assert found["0.weight"].all() and int((~found["1.weight"]).sum()) == 5


@pytest.mark.parametrize("make", MAKERS)
def test_ready_scores_decide_instead_of_the_weights(make):
    model = network(torch.tensor([[9.0, 1.0]]), torch.tensor([[1.0, 9.0]]))
    ready = {"0.weight": torch.tensor([[0.0, 3.0]]), "1.weight": torch.tensor([[2.0, 1.0]])}
    found = make(model, 0.5, ready)
    assert found["0.weight"].tolist() == [[False, True]]
    assert found["1.weight"].tolist() == [[True, False]]


@pytest.mark.parametrize("make", MAKERS)
def test_scores_are_compared_in_single_precision(make):
    nearly_equal = torch.tensor([[1 + 1e-12, 1.0]], dtype=torch.float64)
    assert make(network(nearly_equal), 0.5)["0.weight"].tolist() == [[False, True]]


@pytest.mark.parametrize("make", MAKERS)
def test_score_function_sees_a_whole_weight_and_may_compare_within_it(make):
    def relative(weight):
        return weight.detach().abs() / weight.detach().abs().amax()

    torch.manual_seed(0)
    model = network(torch.randn(5, 6), 9 * torch.randn(3, 4))
    ready = {name: relative(weight) for name, weight in prunable(model).items()}
    with mock.patch.object(masks, "PIECE", 7):
        assert_same(make(model, 0.5, relative), list(make(model, 0.5, ready).values()))


@pytest.mark.parametrize("shape", [(5, 6), (50, 60)], ids=str)
def test_score_function_that_draws_anew_at_every_call_is_refused(shape):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="pass them as a mapping"):
        global_masks(network(torch.randn(shape)), 0.5, torch.rand_like)


def test_random_scores_follow_their_seed():
    model = network(torch.zeros(3, 4), torch.zeros(2, 3, 1))
    first, same, other = (random_scores(model, seed) for seed in (1, 1, 2))
    assert [score.shape for score in first.values()] == [(3, 4), (2, 3, 1)]
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])


@pytest.mark.sweep
def test_a_hundred_million_weights_are_pruned_exactly():
    with torch.device("meta"):
        model = nn.Sequential(*[nn.Linear(5_000, 5_000, bias=False) for _ in range(4)])
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    for weight in prunable(model).values():
        nn.init.normal_(weight, 0, 1)
    found = global_masks(model, 0.9)
    assert zeros(found) == 90_000_000
    largest_pruned, smallest_kept = 0, math.inf
    for name, weight in prunable(model).items():
        magnitudes = weight.detach().abs()
        largest_pruned = max(largest_pruned, magnitudes.masked_fill(found[name], 0).max())
        smallest_kept = min(smallest_kept, magnitudes.masked_fill(~found[name], math.inf).min())
    assert largest_pruned <= smallest_kept


# --- masks: what is refused ---------------------------------------------------------------------


NO_FRACTIONS = [-0.1, 1.1, 90, math.nan, True, "0.5", None, torch.tensor([0.5, 0.5])]


@pytest.mark.parametrize("make", [global_masks, layer_masks, output_masks])
@pytest.mark.parametrize("fraction", NO_FRACTIONS, ids=repr)
def test_sparsity_that_is_no_fraction_is_refused(make, fraction):
    with pytest.raises(ValueError, match=f"from 0 .*to 1 .*got {re.escape(repr(fraction))}"):
        make(network(torch.randn(2, 2)), fraction)


def test_a_sparsity_in_percent_is_told_as_a_fraction():
    with pytest.raises(ValueError, match=r"got 90\. For 90 percent, give 0\.9"):
        global_masks(network(torch.randn(2, 2)), 90)


@pytest.mark.parametrize("half", [np.float32(0.5), np.array(0.5), torch.tensor(0.5)], ids=repr)
def test_scalars_of_numpy_and_torch_are_numbers(half):
    assert zeros(global_masks(network(torch.randn(4, 4)), half)) == 8


@pytest.mark.parametrize("score", [None, "l1", 3])
def test_score_that_is_neither_function_nor_mapping_is_refused(score):
    with pytest.raises(ValueError, match="A score is a function, or scores by name"):
        global_masks(network(torch.randn(2, 2)), 0.5, score)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "score",
    [torch.sum, lambda weight: 1, lambda weight: weight[:1], lambda weight: weight.to("meta")],
    ids=["one number", "no tensor", "one row", "no values"],
)
def test_function_that_gives_no_score_for_each_weight_is_refused(make, score):
    with pytest.raises(ValueError, match=r"The score of 0\.weight must be real numbers of the sha"):
        make(network(torch.randn(2, 2)), 0.5, score)


@pytest.mark.parametrize("make", MAKERS)
def test_scores_that_lack_a_weight_are_refused_because_half_would_be_half_of_the_rest(make):
    model = network(torch.randn(2, 6), torch.randn(2, 2))
    with pytest.raises(ValueError, match=r"no score for 1\.weight, 25% of the prunable weights"):
        make(model, 0.5, {"0.weight": torch.rand(2, 6)})


def test_scores_of_the_weights_that_a_sparsity_names_are_enough():
    model = network(torch.randn(2, 6), torch.randn(2, 2))
    found = layer_masks(model, {"0.weight": 0.5}, {"0.weight": torch.rand(2, 6)})
    assert zeros(found) == 6
    with pytest.raises(ValueError, match=r"no score for 1\.weight"):
        layer_masks(model, {"0.weight": 0.5, "1.weight": 0.5}, {"0.weight": torch.rand(2, 6)})


def test_smallest_integer_has_the_largest_magnitude():
    weight = torch.tensor([-128, 127], dtype=torch.int8)
    assert masks.magnitude(weight).tolist() == [128, 127]


@pytest.mark.parametrize("make", MAKERS)
def test_network_without_prunable_layers_is_refused(make):
    with pytest.raises(ValueError, match="Sequential has no linear or convolution layer"):
        make(nn.Sequential(nn.BatchNorm1d(3)), 0.5)


@pytest.mark.parametrize("fraction", [0, 0.5, 1])
@pytest.mark.parametrize("make", MAKERS)
def test_score_that_is_not_a_number_is_refused(make, fraction):
    weight = torch.randn(3, 6)
    weight[1, 2] = math.nan
    with pytest.raises(ValueError, match="NaN"), mock.patch.object(masks, "PIECE", 7):
        make(network(torch.randn(2, 2), weight), fraction)


@pytest.mark.parametrize("inputs", [3, 4])  # what 4 does not divide stays dense, but not unchecked
@pytest.mark.parametrize(("n", "m"), [(-1, 4), (5, 4), (0, 0), (2.0, 4), (None, 4)])
def test_impossible_nm_is_refused(n, m, inputs):
    with pytest.raises(ValueError, match=f"got {n}:{m}"):
        nm_masks(network(torch.randn(4, inputs)), n, m)


@pytest.mark.parametrize("shape", [(4,), (4, 6)])
def test_nm_mask_of_scores_that_m_does_not_divide_is_refused(shape):
    with pytest.raises(ValueError, match="a dimension 1 that 4 divides"):
        nm_mask(torch.randn(shape), 2, 4)


def enter_hold(model, given):
    with enforce_masks(model, given):
        pass


@pytest.mark.parametrize(
    "use",
    [apply_masks, pruned_copy, enter_hold, lambda model, given: global_masks(model, 0.5, given)],
    ids=["apply_masks", "pruned_copy", "enforce_masks", "ready scores"],
)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"2.weight": torch.zeros(2, 3)}, "'2.weight'; there are: 0.weight, 1.weight"),
        ({"1.weight": torch.zeros(3, 2)}, r"1.weight has the shape \(2, 3\).* \(3, 2\)"),
    ],
    ids=["name", "shape"],
)
def test_masks_or_scores_that_do_not_fit_are_refused_and_nothing_is_pruned(use, wrong, message):
    model = network(torch.randn(2, 3), torch.randn(2, 3))
    given = {"0.weight": torch.zeros(2, 3)} | wrong
    with pytest.raises(ValueError, match=message):
        use(model, {name: tensor.bool() for name, tensor in given.items()})
    assert sparsity(model) == 0


@pytest.mark.parametrize("given", [None, [1], {"0.weight": [1]}, "0.weight"])
def test_masks_that_are_no_tensors_are_refused(given):
    with pytest.raises(ValueError, match="tensor"):
        apply_masks(network(torch.randn(2, 2)), given)


def test_sparsity_by_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"'head'; there are: 0\.weight"):
        layer_masks(network(torch.randn(2, 2)), {"head": 0.5})


# --- Wanda --------------------------------------------------------------------------------------


def test_wanda_of_a_linear_layer_by_hand():
    weight = torch.tensor([[1.0, -2.0], [-3.0, 4.0]])
    assert wanda(weight, torch.tensor([10.0, 0.5])).tolist() == [[10.0, 1.0], [30.0, 2.0]]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_wanda_of_a_convolution_uses_the_norm_of_the_channel_that_each_weight_reads(groups):
    layer = nn.Conv2d(4, 8, 3, groups=groups)
    norms = torch.tensor([1.0, 10.0, 100.0, 1000.0])
    scores = wanda(layer.weight, norms)
    assert scores.shape == layer.weight.shape
    for output in range(8):
        first_read = output // (8 // groups) * (4 // groups)
        for index in range(4 // groups):
            expected = layer.weight[output, index].abs() * norms[first_read + index]
            torch.testing.assert_close(scores[output, index], expected)


def test_wanda_of_a_weight_without_inputs_is_refused():
    with pytest.raises(ValueError, match="2 input norms do not fit"):
        wanda(torch.ones(3, 0), torch.ones(2))


@pytest.mark.parametrize("count", [0, 3, 6])
def test_norms_that_do_not_fit_are_refused(count):
    with pytest.raises(ValueError, match=rf"{count} input norms do not fit .*\(8, 2, 3\)"):
        wanda(torch.randn(8, 2, 3), torch.ones(count))


@pytest.fixture
def reader():
    """A grouped convolution, an activation and a linear layer: weights 0.weight and 3.weight."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 2, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def test_input_norms_over_two_batches_by_hand(reader):
    pictures = torch.randn(5, 2, 3, 3)
    norms = input_norms(reader, pictures.split([3, 2]))
    hidden = reader[:3](pictures)
    assert list(norms) == ["0.weight", "3.weight"]
    expected_by_channel = torch.stack([pictures[:, channel].norm() for channel in range(2)])
    expected_by_feature = torch.stack([hidden[:, feature].norm() for feature in range(16)])
    torch.testing.assert_close(norms["0.weight"], expected_by_channel)
    torch.testing.assert_close(norms["3.weight"], expected_by_feature)
    assert not norms["3.weight"].requires_grad


def test_input_norms_of_a_linear_layer_sum_over_every_position_of_a_sequence():
    norms = input_norms(nn.Sequential(nn.Linear(2, 1)), [torch.tensor([[[3.0, 1.0], [4.0, 0.0]]])])
    assert norms["0.weight"].tolist() == [5.0, 1.0]


def test_wanda_scores_join_weights_and_measured_norms(reader):
    batch = torch.randn(4, 2, 3, 3)
    norms, scores = input_norms(reader, [batch]), wanda_scores(reader, [batch])
    for name, weight in prunable(reader).items():
        torch.testing.assert_close(scores[name], wanda(weight, norms[name]))
    assert zeros(global_masks(reader, 0.5, scores)) == round(0.5 * (16 + 48))


class ByName(nn.Module):
    """Calls its layer with a keyword, and is called with one."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, values, shift):
        return self.layer(input=values + shift)


X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
BATCHES = {
    "tensors": lambda: X.split(2),
    "pairs": lambda: [(part, torch.zeros(len(part))) for part in X.split(2)],
    "DataLoader": lambda: DataLoader(TensorDataset(X, torch.zeros(6)), batch_size=2, shuffle=True),
    "generator": lambda: iter(X.split(2)),
    "double precision": lambda: [X.double()],
    "one tensor": lambda: X,
}


@pytest.mark.parametrize("kind", BATCHES)
def test_whatever_the_batches_are_the_norms_are_the_same(kind):
    norms = input_norms(nn.Sequential(nn.Linear(4, 2)), BATCHES[kind]())
    torch.testing.assert_close(norms["0.weight"], X.norm(dim=0))


def test_norms_where_network_and_layer_are_called_with_keywords():
    norms = input_norms(ByName(), {"values": X, "shift": torch.ones(4), "labels": torch.ones(6)})
    torch.testing.assert_close(norms["layer.weight"], (X + 1).norm(dim=0))


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([X[0]], r"An input of the shape \(4,\) comes to layer: the batch dimension"),
        ([X * math.nan], "NaN"),
        ([X[:0]], "empty"),
        ([], "at least one batch"),
        ([X[:, :3]], r"Sequential cannot take inputs \(6, 3\) of torch.float32"),
        ([X.long()], "Sequential cannot take"),
        ([{"picture": X}], "Sequential cannot take picture"),
    ],
)
def test_batches_that_would_give_wrong_norms_are_refused(batches, message):
    model = nn.Sequential()
    model.layer = nn.Linear(4, 2)
    with pytest.raises(ValueError, match=message):
        wanda_scores(model, batches)


def test_a_picture_is_not_taken_for_a_batch_of_rows():
    with pytest.raises(ValueError, match=r"\(16, 32, 32\) comes to 0: the batch dimension"):
        wanda_scores(nn.Sequential(nn.Conv2d(16, 8, 3)), [torch.randn(16, 32, 32)])


def test_layers_that_share_a_weight_add_their_inputs():
    layer, twin = nn.Linear(4, 4), nn.Linear(4, 4)
    twin.weight = layer.weight
    norms = input_norms(nn.Sequential(layer, twin), X)
    expected = torch.cat([X, layer(X)]).norm(dim=0).detach()
    assert [*norms] == ["0.weight"]
    torch.testing.assert_close(norms["0.weight"], expected)


@pytest.mark.parametrize("groups", [1, 2])
def test_wanda_of_a_transposed_convolution(groups):
    layer = nn.ConvTranspose1d(4, 6, 2, groups=groups)
    scores = wanda_scores(nn.Sequential(layer), X[:, :, None])["0.weight"]
    torch.testing.assert_close(scores, layer.weight.abs() * X.norm(dim=0)[:, None, None])


@pytest.mark.parametrize(
    "layer", [nn.MultiheadAttention(4, 2), nn.LSTM(4, 3), nn.Bilinear(2, 2, 3)]
)
def test_half_of_what_wanda_cannot_score_is_not_half(layer):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.other = nn.Linear(4, 4), layer

        def forward(self, x):
            return self.first(x)

    scores = wanda_scores(Both(), X)
    assert [*scores] == ["first.weight"]
    with pytest.raises(ValueError, match="There is no score for other"):
        global_masks(Both(), 0.5, scores)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("size", [1e-3, 1e2])
def test_wanda_does_not_depend_on_the_type_of_the_numbers(dtype, size):
    model = nn.Sequential(nn.Linear(4, 8)).to(dtype)
    with torch.no_grad():
        model[0].weight.mul_(size)
    ours = output_masks(model, 0.5, wanda_scores(model, size * X.to(dtype)))
    single = copy.deepcopy(model).float()
    scores = wanda_scores(single, (size * X.to(dtype)).float())
    assert_same(ours, list(output_masks(single, 0.5, scores).values()))


def test_measuring_leaves_no_hooks_even_after_an_exception(reader):
    input_norms(reader, [torch.randn(1, 2, 3, 3)])
    assert_no_hooks(reader)
    with pytest.raises(ValueError, match="Sequential cannot take inputs"):
        input_norms(reader, [torch.randn(1, 2, 3, 3), torch.randn(1, 3, 3, 3)])
    assert_no_hooks(reader)


def assert_no_hooks(model: nn.Module) -> None:
    for layer in model.modules():
        assert not (layer._forward_pre_hooks or layer._forward_hooks or layer._backward_hooks)
    for weight in model.parameters():
        assert not weight._backward_hooks and not weight._post_accumulate_grad_hooks


# --- applying masks -----------------------------------------------------------------------------


def test_applying_masks_changes_the_pruned_weights_and_nothing_else(mixed):
    before = copy.deepcopy(mixed.state_dict())
    found = global_masks(mixed, 0.7)
    apply_masks(mixed, found)
    after = mixed.state_dict()
    assert list(after) == list(before)
    for name, value in before.items():
        expected = value.where(found[name], 0) if name in found else value
        assert torch.equal(after[name], expected)
    assert_no_hooks(mixed)
    assert not any(nn.utils.parametrize.is_parametrized(layer) for layer in mixed.modules())
    assert type(mixed["linear"].weight) is nn.Parameter


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_pruned_weight_is_zero_whatever_it_was(value):
    model = network(torch.tensor([[value, 1.0]]))
    apply_masks(model, {"0.weight": torch.tensor([[False, True]])})
    assert model[0].weight.tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_mask_that_is_not_boolean_is_refused(dtype):
    model = network(torch.ones(1, 2))
    with pytest.raises(ValueError, match=f"0.weight must be boolean; its dtype is {dtype}"):
        apply_masks(model, {"0.weight": torch.tensor([[0, 1]], dtype=dtype)})
    assert sparsity(model) == 0


def test_layer_without_a_mask_is_left_as_it_is(mixed):
    before = mixed["conv"].weight.clone()
    apply_masks(mixed, {"linear.weight": torch.zeros(8, 6, dtype=torch.bool)})
    assert torch.equal(mixed["conv"].weight, before) and not mixed["linear"].weight.any()


def test_pruned_copy_leaves_the_network_itself_alone(mixed):
    before, found = copy.deepcopy(mixed.state_dict()), global_masks(mixed, 0.7)
    pruned = pruned_copy(mixed, found)
    assert all(torch.equal(value, before[name]) for name, value in mixed.state_dict().items())
    apply_masks(mixed, found)
    pairs = zip(pruned.state_dict().values(), mixed.state_dict().values(), strict=True)
    assert all(torch.equal(ours, expected) for ours, expected in pairs)


# --- holding masks while a network trains -------------------------------------------------------

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.1),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.1, momentum=0.9, weight_decay=0.1),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 0.1, weight_decay=0.1),
    "LBFGS": lambda p: torch.optim.LBFGS(p, 0.1, max_iter=1),
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def loss_of(model: nn.Module) -> torch.Tensor:
    random = torch.Generator().manual_seed(1)
    inputs = torch.randn(32, 6, generator=random, dtype=torch.float64)
    return (model(inputs) - inputs[:, :3].sin()).square().mean()


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int = 1) -> None:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    for _ in range(count):
        optimizer.step(closure)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_held_zeros_stay_zero_and_kept_weights_train_as_under_torchs_own_masks(model, make):
    # Both start with an optimizer that already remembers steps of the dense network.
    ours, reference = model, copy.deepcopy(model)
    optimizer, other = make(ours.parameters()), make(reference.parameters())
    steps(ours, optimizer, 3)
    steps(reference, other, 3)
    found = global_masks(ours, 0.6)
    for layer, mask in zip((reference[0], reference[2]), found.values(), strict=True):
        prune.custom_from_mask(layer, "weight", mask)  # multiplies by the mask in every forward
    start = copy.deepcopy(ours.state_dict())
    with enforce_masks(ours, found):
        for _ in range(4):
            steps(ours, optimizer)
            steps(reference, other)
            assert_same(masks_of(ours), list(found.values()))
    for index in (0, 2):
        expected = reference[index].weight_orig * reference[index].weight_mask
        torch.testing.assert_close(ours[index].weight, expected)
        torch.testing.assert_close(ours[index].bias, reference[index].bias)
        moved = ours[index].weight != start[f"{index}.weight"]
        assert moved[found[f"{index}.weight"]].all()


def test_held_zeros_stay_zero_through_a_line_search(model):
    optimizer = torch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe")
    steps(model, optimizer, 2)
    found = global_masks(model, 0.6)
    with enforce_masks(model, found):
        before = loss_of(model)
        steps(model, optimizer, 3)
        assert_same(masks_of(model), list(found.values()))
    assert loss_of(model) < before


def test_gradient_clipping_sees_no_gradient_of_pruned_weights(model):
    found = global_masks(model, 0.6)
    apply_masks(model, found)
    loss_of(model).backward()
    kept = [parameter.grad * found.get(name, 1) for name, parameter in model.named_parameters()]
    model.zero_grad()
    with enforce_masks(model, found):
        for passes in (1, 2):  # the second adds to the gradients of the first
            loss_of(model).backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), math.inf)
            expected = passes * torch.stack([gradient.norm() for gradient in kept]).norm()
            torch.testing.assert_close(norm, expected)
            assert not model[0].weight.grad[~found["0.weight"]].any()


class Stop(Exception):
    """Ends a training early."""


@pytest.mark.parametrize("error", [None, Stop], ids=["normal end", "exception"])
def test_afterwards_nothing_is_held(model, error):
    found = global_masks(model, 0.6)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    try:
        with enforce_masks(model, found):
            steps(model, optimizer)
            if error:
                raise error
    except Stop:
        pass
    assert_same(masks_of(model), list(found.values()))
    assert_no_hooks(model)
    steps(model, optimizer, 3)
    assert sparsity(model) == 0


def test_two_networks_are_held_at_once(model):
    teacher = copy.deepcopy(model)
    with (
        enforce_masks(model, global_masks(model, 0.6)),
        enforce_masks(teacher, global_masks(teacher, 0.3)),
    ):
        for held in (model, teacher):
            steps(held, torch.optim.Adam(held.parameters(), 0.1), 2)
    assert (sparsity(model), sparsity(teacher)) == (round(0.6 * 72) / 72, round(0.3 * 72) / 72)


def test_frozen_weights_can_be_held(model):
    model[0].weight.requires_grad_(False)
    found = global_masks(model, 0.6)
    with enforce_masks(model, found):
        steps(model, torch.optim.Adam(model.parameters(), 0.1), 2)
    assert_same(masks_of(model), list(found.values()))


def test_shared_weight_is_held():
    torch.manual_seed(0)
    model = Tied()
    found = global_masks(model, 0.5)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    with enforce_masks(model, found):
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.arange(6)).square().mean().backward()
            optimizer.step()
    assert_same(masks_of(model), list(found.values()))


# --- gradual pruning ----------------------------------------------------------------------------


@given(ends=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_cubic_sparsity_runs_from_its_initial_to_its_final_value(ends):
    initial, final = sorted(ends)
    curve = [cubic_sparsity(step / 20, final, initial) for step in range(21)]
    assert curve[0] == pytest.approx(initial) and curve[-1] == final
    assert all(a <= b + 1e-12 for a, b in pairwise(curve))
    assert all(0 <= value <= 1 for value in curve)


def test_cubic_sparsity_is_fast_at_first():
    assert cubic_sparsity(0.5, 0.8) == pytest.approx(0.7)  # 0.8 - 0.8 / 8: most is pruned by half


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
@pytest.mark.parametrize("name", ["progress", "final", "initial"])
def test_cubic_sparsity_refuses_what_is_no_fraction(name, value):
    arguments = {"progress": 0.5, "final": 0.5, "initial": 0.5} | {name: value}
    with pytest.raises(ValueError, match=f"{name} is a fraction from 0 to 1; got {value}"):
        cubic_sparsity(**arguments)
