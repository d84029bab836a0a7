"""One-shot pruning against the exact solutions: least squares, and the Optimal Brain Surgeon."""

import math
import warnings
from types import MethodType
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_encoders import bert, sentences, vision
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import DataLoader, TensorDataset

from course_lib.pruning import masks, oneshot
from course_lib.pruning.oneshot import compensated, hessians, output_error, reconstructed, sparsegpt

METHODS = {"magnitude": oneshot.magnitude, "Wanda": oneshot.wanda, "SparseGPT": sparsegpt}


def layer(
    outputs: int, inputs: int, seed: int = 0, tokens: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """A random weight (outputs, inputs), and correlated inputs of it (tokens, inputs); float64."""
    random = torch.Generator().manual_seed(seed)
    tokens = 4 * inputs if tokens is None else tokens

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    return draw(outputs, inputs), draw(tokens, inputs) @ (
        torch.eye(inputs) + 0.3 * draw(inputs, inputs)
    )


def random_mask(shape: tuple[int, int], seed: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5


def squared(weight: torch.Tensor, pruned: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Squared error of each output over all tokens, from the inputs themselves."""
    return (x @ (weight - pruned).T).square().sum(0)


sizes = {"outputs": st.integers(1, 6), "inputs": st.integers(1, 12), "seed": st.integers(0, 99)}


# --- least squares ------------------------------------------------------------------------------


@given(**sizes)
def test_reconstructed_is_the_least_squares_solution_on_the_kept_inputs(outputs, inputs, seed):
    weight, x = layer(outputs, inputs, seed)
    mask = random_mask(weight.shape, seed)
    best = reconstructed(weight, x.T @ x, mask)
    assert not best[~mask].any()
    for row, kept in enumerate(mask):
        if kept.any():
            direct = torch.linalg.lstsq(x[:, kept], (x @ weight[row])[:, None]).solution[:, 0]
            assert torch.allclose(best[row, kept], direct, rtol=1e-8, atol=1e-8)


@given(**sizes)
def test_nothing_near_reconstructed_weights_is_better(outputs, inputs, seed):
    weight, x = layer(outputs, inputs, seed)
    mask = random_mask(weight.shape, seed)
    best = reconstructed(weight, x.T @ x, mask)
    step = 1e-3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)) * mask
    assert (squared(weight, best, x) <= squared(weight, best + step, x) + 1e-12).all()


def test_inputs_that_depend_on_each_other_have_a_solution_too():
    weight, x = layer(3, 8)
    x[:, 5] = x[:, 2]  # the same twice
    x[:, 7] = 0  # and one that is never there
    mask = torch.ones_like(weight, dtype=torch.bool)
    mask[:, 2] = False
    best = reconstructed(weight, x.T @ x, mask)
    assert torch.allclose(best[:, 5], weight[:, 5] + weight[:, 2])
    assert torch.allclose(best[:, 7], weight[:, 7])
    assert squared(weight, best, x).max() < 1e-16


def test_more_inputs_than_tokens_have_a_solution_without_error():
    weight, x = layer(3, 8, tokens=3)
    mask = torch.arange(8) >= 2
    best = reconstructed(weight, x.T @ x, mask.expand(3, 8))
    assert squared(weight, best, x).max() < 1e-12


@pytest.mark.parametrize("keep", [True, False])
def test_all_kept_and_none_kept(keep):
    weight, x = layer(3, 5)
    mask = torch.full_like(weight, keep, dtype=torch.bool)
    for pruned in (reconstructed(weight, x.T @ x, mask), compensated(weight, x.T @ x, mask)):
        assert torch.equal(pruned, weight * keep)


# --- OBS ----------------------------------------------------------------------------------------


def obs(weight: torch.Tensor, hessian: torch.Tensor, pruned: int) -> torch.Tensor:
    """What the Optimal Brain Surgeon makes of one row that loses one weight, after its paper."""
    inverse = torch.linalg.inv(hessian)
    return weight - weight[pruned] / inverse[pruned, pruned] * inverse[:, pruned]


@given(**sizes)
def test_first_weight_of_a_row_goes_as_obs_has_it(outputs, inputs, seed):
    weight, x = layer(outputs, inputs, seed)
    mask = torch.ones_like(weight, dtype=torch.bool)
    mask[:, 0] = False
    found = compensated(weight, x.T @ x, mask)
    expected = torch.stack([obs(row, x.T @ x, 0) for row in weight])
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-8)
    assert torch.allclose(found, reconstructed(weight, x.T @ x, mask), rtol=1e-6, atol=1e-8)


@given(**sizes, place=st.integers(0, 11))
def test_any_weight_goes_as_obs_has_it_with_those_on_the_left_held(outputs, inputs, seed, place):
    weight, x = layer(outputs, inputs, seed)
    place = place % inputs
    mask = torch.ones_like(weight, dtype=torch.bool)
    mask[:, place] = False
    found = compensated(weight, x.T @ x, mask)
    right = x[:, place:].T @ x[:, place:]
    expected = torch.stack([obs(row[place:], right, 0) for row in weight])
    assert torch.equal(found[:, :place], weight[:, :place])
    assert torch.allclose(found[:, place:], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("inputs", [127, 128, 129, 300])
def test_sweep_over_many_inputs_is_obs_again_and_again(inputs):
    weight, x = layer(3, inputs)
    mask, expected = random_mask(weight.shape, 0), weight.clone()
    for place in range(inputs):
        inverse = torch.linalg.inv(x[:, place:].T @ x[:, place:])
        lost = expected[:, place] * ~mask[:, place]
        expected[:, place:] -= lost[:, None] * inverse[0] / inverse[0, 0]
    found = compensated(weight, x.T @ x, mask)
    assert torch.allclose(found, expected * mask, rtol=1e-6, atol=1e-8)


def test_each_row_loses_its_own_weight_without_help_of_the_others():
    weight, x = layer(4, 6)
    mask = torch.ones_like(weight, dtype=torch.bool)
    mask[range(4), [0, 2, 5, 3]] = False
    found = compensated(weight, x.T @ x, mask)
    for row in range(4):
        alone = compensated(weight[row : row + 1], x.T @ x, mask[row : row + 1])
        assert torch.allclose(found[row], alone[0])


# --- SparseGPT ----------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", [0.3, 0.5, 0.8, (2, 4), (1, 4)])
@pytest.mark.parametrize("seed", range(4))
def test_sparsegpt_lies_between_the_optimum_and_plain_zeroing(pattern, seed):
    weight, x = layer(24, 32, seed)
    hessian = x.T @ x
    pruned = sparsegpt(weight, hessian, pattern, columns=16)
    mask = pruned != 0
    errors = [
        output_error(weight, each, hessian)
        for each in (reconstructed(weight, hessian, mask), pruned, weight * mask)
    ]
    assert errors[0] < 0.95 * errors[1] and errors[1] < 0.95 * errors[2]


@given(**sizes)
def test_no_mask_makes_the_update_better_than_the_optimum(outputs, inputs, seed):
    weight, x = layer(outputs, inputs, seed)
    mask, hessian = random_mask(weight.shape, seed), x.T @ x
    found = compensated(weight, hessian, mask)
    assert not found[~mask].any()
    best = squared(weight, reconstructed(weight, hessian, mask), x)
    assert (best <= squared(weight, found, x) * (1 + 1e-9) + 1e-12).all()


def test_update_can_be_worse_than_plain_zeroing():
    # The first input is nearly the sum of the others, so its weight of 1 moves on to them; but the
    # third goes as well, and it would have cancelled the first nearly.
    x = torch.tensor([[0.01, 0, 0], [-1, -2, 1], [0.01, 0.01, 0]], dtype=torch.float64)
    weight, mask = torch.ones(1, 3, dtype=torch.float64), torch.tensor([[False, True, False]])
    updated = squared(weight, compensated(weight, x.T @ x, mask), x)
    assert updated > 2 * squared(weight, weight * mask, x)


@pytest.mark.parametrize("columns", [20, 128, 200, 400])
def test_the_mask_of_sparsegpt_given_again_gives_the_same_weights(columns):
    weight, x = layer(8, 300)
    pruned = sparsegpt(weight, x.T @ x, 0.5, columns, damping=0.01)
    for part in (pruned != 0).split(columns, dim=1):
        assert int(part.sum()) == part.numel() - round(0.5 * part.numel())
    again = compensated(weight, x.T @ x, pruned != 0, damping=0.01)
    assert torch.allclose(pruned, again, rtol=1e-9)


def test_uncorrelated_inputs_leave_nothing_to_make_up_for():
    weight, _ = layer(8, 16)
    hessian = torch.diag(torch.arange(1.0, 17.0)).double()
    pruned = sparsegpt(weight, hessian, 0.5, damping=0.0)
    assert torch.allclose(pruned, weight * (pruned != 0))
    scores = masks.wanda(weight, hessian.diagonal().sqrt())
    assert torch.equal(pruned != 0, masks.lowest_overall({"": scores}, torch.abs, 0.5)[""])


def test_hessian_without_an_inverse_is_refused():
    weight, x = layer(2, 6, tokens=3)
    with pytest.raises(ValueError, match=r"of 6 inputs cannot be inverted with damping 0\.0"):
        compensated(weight, x.T @ x, torch.ones(2, 6, dtype=torch.bool))
    assert sparsegpt(weight, x.T @ x, 0.5).isfinite().all()
    for bad in (0 * x, x * math.nan):
        with pytest.raises(ValueError, match="all zero, or not all finite"):
            sparsegpt(weight, bad.T @ bad, 0.5)


# --- all methods --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@given(sparsity=st.floats(0, 1), **sizes)
def test_sparsity_is_the_one_that_was_asked_for(method, sparsity, outputs, inputs, seed):
    weight, x = layer(outputs, inputs, seed)
    pruned = method(weight, x.T @ x, sparsity)
    rows = masks.zeros_asked(sparsity, inputs) * outputs
    wanted = rows if method is oneshot.wanda else masks.zeros_asked(sparsity, weight.numel())
    assert int((pruned == 0).sum()) == wanted


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 2), (0, 3), (4, 4)])
def test_n_of_every_m_are_kept(method, n, m):
    weight, x = layer(5, 12)
    pruned = method(weight, x.T @ x, (n, m))
    assert ((pruned != 0).view(5, -1, m).sum(2) == n).all()


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ((2, 5), "2:5 needs"),
        ((3, 2), "3:2"),
        ((0, 0), "0:0"),
        (1.5, "sparsity"),
        (-0.1, "sparsity"),
    ],
)
def test_impossible_pattern_is_refused(method, pattern, message):
    weight, x = layer(4, 12)
    with pytest.raises(ValueError, match=message):
        method(weight, x.T @ x, pattern)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_weight_is_left_as_it_is_and_its_type_kept(method):
    weight, x = layer(4, 12)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        given = nn.Parameter(weight.to(dtype))
        before = given.detach().clone()
        pruned = method(given, x.T @ x, 0.5)
        assert pruned.dtype == dtype and not pruned.requires_grad
        assert torch.equal(given, before)


def test_methods_rank_as_their_papers_say_where_inputs_differ_in_size():
    weight, x = layer(32, 48)
    x = x * torch.logspace(-1, 1, 48).double()[torch.randperm(48)]
    hessian = x.T @ x
    errors = [
        output_error(weight, method(weight, hessian, 0.5), hessian) for method in METHODS.values()
    ]
    assert errors == sorted(errors, reverse=True)


def test_output_error_is_that_of_the_outputs():
    weight, x = layer(5, 8)
    other, _ = layer(5, 8, seed=1)
    expected = squared(weight, other, x).sum() / (x @ weight.T).square().sum()
    assert output_error(weight, other, x.T @ x) == pytest.approx(float(expected))


# --- a whole network ----------------------------------------------------------------------------


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 10), nn.Linear(10, 4)).double()


def inputs(count: int = 3) -> list[torch.Tensor]:
    return list(layer(1, 12, tokens=30 * count)[1].split(30))


def test_hessians_sum_over_all_batches():
    model, batches = network(), inputs()
    found = hessians(model, batches)
    assert list(found) == ["0", "2", "3"]
    x = torch.cat(batches)
    assert torch.allclose(found["0"], x.T @ x)
    hidden = model[:2](x)
    assert torch.allclose(found["2"], hidden.T @ hidden)
    assert not any(part._forward_pre_hooks for part in model.modules())


def test_norms_of_the_inputs_are_on_the_diagonal():
    model, batches = network(), inputs()
    norms = masks.input_norms(model, batches)
    for name, hessian in hessians(model, batches).items():
        assert torch.allclose(hessian.diagonal().sqrt().float(), norms[f"{name}.weight"])


def test_padding_is_left_out():
    model = bert()
    name = "bert.encoder.layer.1.intermediate.dense"
    padded = hessians(model, [sentences()])[name]
    alone = 0
    for row, length in enumerate((2, 3, 4, 5)):
        one = {key: value[row : row + 1, :length] for key, value in sentences().items()}
        assert one["attention_mask"].all()
        alone += hessians(model, [one])[name]
    assert torch.allclose(padded, alone, rtol=1e-4, atol=1e-4)


def test_hooks_go_even_if_the_network_fails():
    model = network()
    with pytest.raises(ValueError, match=r"Sequential cannot take inputs \(2, 7\)"):
        hessians(model, [torch.zeros(2, 7).double()])
    assert not any(part._forward_pre_hooks for part in model.modules())


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_each_layer_is_pruned_for_the_inputs_that_it_then_gets(method):
    model, batches = network(), inputs()
    pruned = oneshot.prune(model, batches, method, 0.5)
    x = torch.cat(batches)
    for number in (0, 2, 3):
        seen = pruned[:number](x).detach()
        expected = method(model[number].weight, seen.T @ seen, 0.5)
        assert torch.allclose(pruned[number].weight, expected)
        assert torch.equal(pruned[number].bias, model[number].bias)


def test_layers_at_once_are_pruned_for_the_inputs_from_before():
    model, batches = network(), inputs()
    pruned = oneshot.prune(model, batches, sparsegpt, 0.5, at_once=3)
    for name, hessian in hessians(model, batches).items():
        expected = sparsegpt(model.get_submodule(name).weight, hessian, 0.5)
        assert torch.allclose(pruned.get_submodule(name).weight, expected)


def test_only_the_named_layers_are_pruned_and_the_original_is_left():
    model, batches = network(), inputs()
    before = [parameter.clone() for parameter in model.parameters()]
    pruned = oneshot.prune(model.train(), batches, pattern=(2, 4), layers=["2", "0"])
    found = masks.layer_sparsity(pruned)
    assert found == {"0.weight": 0.5, "2.weight": 0.5, "3.weight": 0}
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert model.training and not pruned.training


def test_layer_that_m_does_not_divide_stays_dense():
    pruned = oneshot.prune(network(), inputs(), pattern=(2, 4))
    assert masks.layer_sparsity(pruned) == {"0.weight": 0.5, "2.weight": 0.5, "3.weight": 0}


@pytest.mark.parametrize("build", [bert, vision])
def test_transformers_are_pruned(build):
    random = torch.Generator().manual_seed(0)
    model = build()
    batches = [sentences() if build is bert else torch.randn(16, 3, 8, 8, generator=random)]
    ran = list(hessians(model, batches))
    assert len(ran) == (6 * 3 + 2 if build is bert else 2 * 3 + 1)
    for method in METHODS.values():
        found = masks.layer_sparsity(oneshot.prune(model, batches, method, 0.5, ran, at_once=6))
        assert all(found[f"{name}.weight"] == pytest.approx(0.5, abs=0.03) for name in ran)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batches": []}, "at least one batch"),
        ({"layers": ["1"]}, "No linear layer is called '1'; there are: 0, 2, 3"),
        ({"pattern": 2.0}, "sparsity"),
        ({"pattern": 90}, r"got 90\. For 90 percent, give 0\.9"),
        ({"pattern": True}, "sparsity"),
        ({"pattern": (2, 0)}, "got 2:0"),
        ({"pattern": (2, 4, 8)}, r"keep n of every m; got \(2, 4, 8\)"),
        ({"at_once": 0}, "Prune at least 1 layer at once; got 0"),
        ({"at_once": 1.5}, "Prune at least 1 layer at once"),
        ({"batches": [torch.zeros(12).double()]}, "comes to 0: the batch dimension"),
        ({"batches": [torch.zeros(2, 12).double() / 0]}, "NaN"),
        ({"batches": [torch.zeros(2, 12).double()]}, "0: The Hessian of 12 inputs cannot"),
        ({"batches": [torch.zeros(2, 7).double()]}, r"Sequential cannot take inputs \(2, 7\)"),
    ],
)
def test_what_cannot_be_pruned_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        oneshot.prune(network(), **({"batches": inputs()} | arguments))


def test_layer_that_never_runs_is_refused():
    name = "encoder.layers.encoder_layer_0.self_attention.out_proj"
    with pytest.raises(ValueError, match=f"No input comes to {name}"):
        hessians(vision(), [torch.zeros(1, 3, 8, 8)], [name])


# --- what people have ---------------------------------------------------------------------------


class ByName(nn.Module):
    """Calls its layer with a keyword."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 4)

    def forward(self, x):
        return self.layer(input=x)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_calibration_data_of_any_kind_gives_the_same(method):
    model, batches = network(), inputs()
    expected = oneshot.prune(model, batches, method)
    pairs = TensorDataset(torch.cat(batches), torch.zeros(90))
    for each in (iter(batches), DataLoader(pairs, batch_size=30), {"input": torch.cat(batches)}):
        found = oneshot.prune(model, each, method)
        for ours, theirs in zip(found.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_a_layer_may_be_called_with_a_keyword():
    pruned = oneshot.prune(ByName(), inputs(), oneshot.wanda)
    assert masks.sparsity(pruned) == 0.5


def test_layers_that_share_a_weight_are_pruned_once_for_the_inputs_of_all():
    model = nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12)).double()
    model[2].weight = model[0].weight
    x = torch.cat(inputs())
    seen = torch.cat([x, model[:2](x).detach()])
    pruned = oneshot.prune(model, inputs(), sparsegpt)
    expected = sparsegpt(model[0].weight, seen.T @ seen, 0.5)
    assert pruned[0].weight is pruned[2].weight
    torch.testing.assert_close(pruned[0].weight, expected, check_dtype=False)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_networks_in_16_bits_are_pruned_as_in_32(method, dtype):
    model = network().to(dtype)
    ours = oneshot.prune(model, inputs(), method)
    theirs = oneshot.prune(model.float(), [x.to(dtype).float() for x in inputs()], method)
    assert torch.equal(ours[0].weight == 0, theirs[0].weight == 0)
    torch.testing.assert_close(ours[0].weight.float(), theirs[0].weight, rtol=0.01, atol=0.01)


def test_what_stays_dense_is_named():
    model = nn.ModuleDict({"unused": nn.Linear(3, 4), "used": nn.Linear(12, 3)})
    model.forward = MethodType(lambda self, x: self["used"](x), model)
    with pytest.warns(UserWarning, match=r"25% of the prunable weights stay dense.*unused\.weight"):
        oneshot.prune(model, inputs(), oneshot.wanda)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        oneshot.prune(model, inputs(), oneshot.wanda, layers="used")


def broken(change):
    """A network whose last layer, or what comes to it, is not a number."""
    model = network()
    with torch.no_grad():
        change(model)
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model[3].weight[0, 0].fill_(math.nan), "3: A score .* is NaN"),
        (lambda model: model[2].bias[0].fill_(math.inf), "The inputs of 3 are infinite or NaN"),
        (lambda model: weight_norm(model[3]), r"3\.weight, .* computed by a parametrization"),
    ],
)
def test_an_error_names_the_layer(change, message):
    for method in (oneshot.wanda, sparsegpt):
        with pytest.raises(ValueError, match=message):
            oneshot.prune(broken(change), inputs(), method)


def test_weights_that_their_type_cannot_hold_are_refused():
    def enlarged(weight, hessian, pattern):
        return weight * 1e7

    with pytest.raises(ValueError, match=r"0: the pruned weights are infinite .* torch\.float16"):
        oneshot.prune(network().half(), inputs(), enlarged)


def test_layers_beside_one_that_cannot_be_pruned_can_be_named():
    model = broken(lambda model: weight_norm(model[3]))
    found = masks.layer_sparsity(oneshot.prune(model, inputs(), oneshot.wanda, 0.5, ["0"]))
    assert found["0.weight"] == 0.5 and found["3.weight"] == 0
    with pytest.raises(ValueError, match=r"3 cannot be pruned: .* parametrization"):
        oneshot.prune(model, inputs(), layers=["3"])


def test_a_device_without_float64_counts_on_the_cpu():
    values = mock.Mock(spec=torch.Tensor, device=torch.device("mps"))
    oneshot._double(values)
    values.cpu().double.assert_called_once()
    values.double.assert_not_called()
