"""Every weight of a network is prunable, left out for a reason, or refused by name."""

import copy

import pytest
import torch
from torch import nn
from torch.ao.nn import qat
from torch.ao.quantization import get_default_qat_qconfig, quantize_dynamic
from torch.nn.utils import parametrizations, prune

from course_lib.deployment import sparse
from course_lib.networks.attention import SelfAttention
from course_lib.pruning import masks, oneshot
from course_lib.pruning.weights import coverage, effective, prunable, rows


def two() -> nn.Sequential:
    """Two linear layers of 64 weights each."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))


def changed(change) -> nn.Sequential:
    """Two linear layers, and what ``change`` does to the first one."""
    model = two()
    found = change(model[0])
    model[0] = found if isinstance(found, nn.Module) else model[0]
    return model


def with_weight(make):
    """Replaces the weight of a layer by what ``make`` makes of it."""

    def change(layer):
        layer.weight = nn.Parameter(make(layer.weight.detach()), requires_grad=False)

    return lambda: changed(change)


class Own(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def replaced(layer):
    layer.forward = lambda x: x


def as_buffer(layer):
    weight = layer.weight.detach()
    del layer.weight
    layer.register_buffer("weight", weight)


def aliased(view) -> nn.Sequential:
    model = two()
    model[2].weight = nn.Parameter(view(model[0].weight.detach()))
    return model


def tied_by_its_data() -> nn.Sequential:
    model = nn.Sequential(nn.Embedding(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight.data = model[0].weight.data
    return model


def gpt2() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 12, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **ids)).eval()


#: What can be pruned: how to build it, and how many numbers are in its weights.
PRUNABLE = {
    "LSTM": (lambda: nn.LSTM(4, 8, 2, bidirectional=True, proj_size=2), 832),
    "GRU": (lambda: nn.GRU(4, 8), 288),
    "RNN cell": (lambda: nn.RNNCell(4, 8), 96),
    "bilinear": (lambda: nn.Bilinear(2, 4, 3), 24),
    "attention": (lambda: nn.MultiheadAttention(8, 2), 256),
    "keys of another width": (lambda: nn.MultiheadAttention(8, 2, kdim=4, add_bias_kv=True), 224),
    "attention that lost heads": (lambda: SelfAttention(nn.MultiheadAttention(8, 2)), 256),
    "grouped": (lambda: nn.Conv2d(8, 4, 3, groups=4), 72),
    "grouped and transposed": (lambda: nn.ConvTranspose2d(8, 4, 3, groups=4), 72),
    "GPT-2": (gpt2, 12 * 8 * 8),
    "float16": (lambda: two().half(), 128),
    "bfloat16": (lambda: two().bfloat16(), 128),
    "complex": (lambda: two().to(torch.complex64), 128),
    "integers": (with_weight(lambda w: (9 * w).round().char()), 128),
    "strided": (with_weight(lambda w: torch.cat([w, w], 1)[:, ::2]), 128),
    "channels last": (lambda: nn.Conv2d(4, 2, 2).to(memory_format=torch.channels_last), 32),
    "empty layer": (lambda: nn.Sequential(nn.Linear(0, 3), nn.Linear(3, 4), nn.Linear(4, 0)), 12),
    "frozen": (lambda: two().requires_grad_(False), 128),
    "parametrized bias": (
        lambda: changed(lambda layer: parametrizations.weight_norm(layer, "bias", dim=None)),
        128,
    ),
    "data parallel": (lambda: nn.DataParallel(two()), 128),
    "compiled": (lambda: torch.compile(two(), backend="eager"), 128),
    "hook": (lambda: changed(lambda layer: layer.register_forward_hook(lambda *_: None)), 128),
}

#: What is refused: how to build it, and what is said.
REFUSED = {
    "torch's prune": (
        lambda: changed(lambda layer: prune.l1_unstructured(layer, "weight", 0.5)),
        r"0\.weight, Linear: its weight is computed before each call",
    ),
    "weight_norm": (
        lambda: changed(parametrizations.weight_norm),
        r"0\.weight, .*: its weight is computed by a parametrization",
    ),
    "spectral_norm": (
        lambda: changed(parametrizations.spectral_norm),
        r"0\.weight, .*: its weight is computed by a parametrization",
    ),
    "old weight_norm": (lambda: changed(nn.utils.weight_norm), r"0\.weight, .*before each call"),
    "old spectral_norm": (lambda: changed(nn.utils.spectral_norm), r"0\.weight, .*before each"),
    "pruned LSTM": (
        lambda: prune.random_unstructured(nn.LSTM(4, 4), "weight_ih_l0", 0.5),
        "weight_ih_l0, LSTM: its weight_ih_l0 is computed",
    ),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 4)), r"0\.weight.* is lazy"),
    "meta": (lambda: two().to("meta"), r"0\.weight, Linear: it is on the meta device"),
    "sparse": (
        lambda: changed(lambda one: sparse.SparseLinear(sparse.csr(one.weight.detach()), None)),
        r"0\.weight, SparseLinear: it is held as a sparse matrix; prune before",
    ),
    "quantized": (lambda: quantize_dynamic(two(), {nn.Linear}), r"0\.weight, .* quantized"),
    "quantized LSTM": (
        lambda: nn.Sequential(quantize_dynamic(nn.Sequential(nn.LSTM(4, 8)))),
        r"0\.0\.weight_ih_l0, LSTM: it is held as quantized",
    ),
    "quantization-aware": (
        lambda: nn.Sequential(qat.Linear(4, 4, qconfig=get_default_qat_qconfig())),
        r"0\.weight, Linear: its class Linear has a forward other than",
    ),
    "class of its own": (lambda: nn.Sequential(Own(4, 4)), r"0\.weight, Own: its class Own has"),
    "replaced forward": (lambda: changed(replaced), r"0\.weight, Linear: its forward was replaced"),
    "buffer": (lambda: changed(as_buffer), r"0\.weight, Linear: its weight is not a parameter"),
    "scripted": (lambda: torch.jit.script(two()), "0, TorchScript"),
    "scripted part": (lambda: changed(torch.jit.script), "0, TorchScript"),
    "one memory": (lambda: aliased(torch.t), r"2\.weight, it lies in the same memory as 0\.weight"),
    "tied by its data": (tied_by_its_data, r"1\.weight, it lies in the same memory as 0\.weight"),
    "expanded": (with_weight(lambda w: w[:1].expand(8, 8)), r"0\.weight.*one number in memory"),
    "eight bits": (lambda: two().to(torch.float8_e4m3fn), r"0\.weight.*convert it first"),
}

MAKERS = [masks.global_masks, masks.layer_masks, masks.output_masks]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", PRUNABLE)
def test_half_of_all_weights_is_half_of_all_weights(kind):
    build, numbers = PRUNABLE[kind]
    model = build()
    with torch.no_grad():
        for weight in prunable(model).values():
            weight[weight == 0] = 1
    assert sum(weight.numel() for weight in prunable(model).values()) == numbers
    found = masks.global_masks(model, 0.5)
    for pruned in (masks.pruned_copy(model, found), model):
        masks.apply_masks(pruned, found)
        zero = sum(int((weight == 0).sum()) for weight in prunable(pruned).values())
        assert zero == numbers / 2 and masks.sparsity(pruned) == 0.5
        assert coverage(pruned).share == pytest.approx(numbers / _parameters(pruned))
    random = masks.global_masks(model, 0.25, masks.random_scores(model, 0))
    assert sum(int((~mask).sum()) for mask in random.values()) == numbers / 4


def _parameters(model: nn.Module) -> int:
    return sum(each.numel() for each in model.parameters())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", REFUSED)
def test_a_weight_that_masks_would_pass_over_is_refused_by_name(kind):
    build, message = REFUSED[kind]
    model = build()
    for make in MAKERS:
        with pytest.raises(ValueError, match=message):
            make(model, 0.5)
    for use in (
        lambda: masks.nm_masks(model, 2, 4),
        lambda: masks.apply_masks(model, {}),
        lambda: masks.masks_of(model),
        lambda: masks.random_scores(model, 0),
        lambda: masks.input_norms(model, torch.randn(2, 8)),
        lambda: prunable(model),
    ):
        with pytest.raises(ValueError, match=message):
            use()
    assert coverage(model).refused and "without" in str(coverage(model))


def spectral_embedding() -> nn.Module:
    return nn.Sequential(parametrizations.spectral_norm(nn.Embedding(8, 8)), nn.Linear(8, 8))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["embedding", "spectral_norm", "old spectral_norm"])
def test_to_look_at_a_computed_weight_is_no_step_of_its_norm(kind):
    model = spectral_embedding() if kind == "embedding" else REFUSED[kind][0]()
    before = copy.deepcopy(model.state_dict())
    assert str(coverage(model)) and masks.layer_sparsity(model)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@torch.no_grad()
def _zeroed(weight: torch.Tensor, share: float = 0.25) -> torch.Tensor:
    flat = torch.ones(weight.numel())
    flat[: round(share * weight.numel())] = 0
    return flat.view(weight.shape[::-1]).t().contiguous()  # whole columns


def _sparse(layer: nn.Linear) -> nn.Module:
    return sparse.SparseLinear(sparse.csr(_zeroed(layer.weight)), None)


def _normed(layer: nn.Linear) -> nn.Module:
    layer.weight.data = _zeroed(layer.weight)
    return parametrizations.weight_norm(layer)


def _masked(layer: nn.Linear) -> nn.Module:
    return prune.custom_from_mask(layer, "weight", _zeroed(layer.weight))


def _trained_on(layer: nn.Linear) -> nn.Module:
    """The weight that torch's prune computed last is out of date."""
    with torch.no_grad():
        _masked(layer).weight_orig[:4] = 0
    return layer


ZEROS = {
    "torch's prune": (_masked, 16),
    "torch's prune, after a step": (_trained_on, 40),
    "weight_norm": (_normed, 16),
    "sparse": (_sparse, 16),
    "buffer": (as_buffer, 0),
}


@pytest.mark.parametrize("kind", ZEROS)
def test_sparsity_counts_the_zeros_that_are_multiplied(kind):
    change, zero = ZEROS[kind]
    model = changed(change)
    assert masks.sparsity(model) == zero / 128
    assert masks.layer_sparsity(model) == {"0.weight": zero / 64, "2.weight": 0}


@pytest.mark.filterwarnings("ignore")
def test_sparsity_of_quantized_weights():
    model = two()
    with torch.no_grad():
        model[0].weight.copy_(_zeroed(model[0].weight, 0.5)), model[2].weight.fill_(1)
    assert masks.sparsity(quantize_dynamic(model, {nn.Linear})) == 0.25
    lstm = nn.Sequential(nn.LSTM(4, 8))
    nn.init.zeros_(lstm[0].weight_ih_l0)
    nn.init.ones_(lstm[0].weight_hh_l0)
    assert masks.sparsity(quantize_dynamic(lstm, {nn.LSTM})) == pytest.approx(1 / 3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["lazy", "meta", "scripted"])
def test_zeros_that_cannot_be_counted_are_an_error(kind):
    with pytest.raises(ValueError, match=r"The zeros of 0.* cannot be counted"):
        masks.sparsity(REFUSED[kind][0]())


def test_what_is_left_out_has_a_reason():
    model = nn.ModuleDict({"table": nn.Embedding(4, 8), "head": nn.Linear(8, 4)})
    model.position = nn.Parameter(torch.zeros(1, 2))
    model["head"].weight = model["table"].weight
    model["own"] = nn.Linear(8, 1)
    found = coverage(model)
    assert [*found.prunable] == ["own.weight"] and not found.refused
    assert "embeddings" in found.left_out["table.weight"]
    assert "of ModuleDict" in found.left_out["position"]
    assert found.share == 8 / (32 + 2 + 4 + 8 + 1)
    assert "1 prunable weights with 17.0% of all parameters" in str(found)
    assert [*effective(model)] == ["own.weight"]


class Experts(nn.Module):
    """Multiplies with matrices that it holds itself, as mixtures of experts do."""

    def __init__(self):
        super().__init__()
        self.experts, self.head = nn.Parameter(torch.randn(2, 4, 4)), nn.Linear(4, 4)

    def forward(self, x):
        return self.head(x @ self.experts[0])


@pytest.mark.parametrize("use", [masks.sparsity, lambda model: masks.global_masks(model, 0.5)])
def test_a_large_part_that_is_not_looked_at_is_said(use):
    with pytest.warns(UserWarning, match="62% of the parameters are not looked at, .*: experts"):
        use(Experts())


def test_rows_are_the_outputs_and_turning_twice_changes_nothing():
    layers = [nn.Conv1d(8, 4, 1, groups=2), nn.ConvTranspose1d(8, 4, 1, groups=2), nn.Linear(8, 4)]
    for layer in layers:
        turned = rows(layer, layer.weight)
        assert turned.shape[:2] == (4, 8 // getattr(layer, "groups", 1))
        assert torch.equal(rows(layer, turned), layer.weight)


# --- Conv1D of transformers ---------------------------------------------------------------------


def as_linear(model: nn.Module) -> nn.Module:
    """GPT-2 with linear layers in the place of each Conv1D."""
    other = copy.deepcopy(model)
    for name, layer in list(other.named_modules()):
        if type(layer).__name__ == "Conv1D":
            linear = nn.Linear(*layer.weight.shape)
            linear.weight.data, linear.bias = layer.weight.detach().t().contiguous(), layer.bias
            other.set_submodule(name, linear)
    return other


TOKENS = {"input_ids": torch.arange(24).view(3, 8) % 12}
PRUNERS = {
    "rows": lambda model: masks.pruned_copy(model, masks.output_masks(model, 0.5)),
    "2:4": lambda model: masks.pruned_copy(model, masks.nm_masks(model, 2, 4)),
    "Wanda": lambda model: masks.pruned_copy(
        model, masks.output_masks(model, 0.5, masks.wanda_scores(model, [TOKENS]))
    ),
    "SparseGPT": lambda model: oneshot.prune(model, [TOKENS], oneshot.sparsegpt, (2, 4)),
    "one-shot Wanda": lambda model: oneshot.prune(model, [TOKENS], oneshot.wanda, 0.5),
}


@pytest.mark.parametrize("pruner", PRUNERS)
def test_conv1d_is_pruned_as_the_linear_layer_that_it_is(pruner):
    model = gpt2()
    linear = as_linear(model)
    ours, expected = (effective(PRUNERS[pruner](each)) for each in (model, linear))
    assert len(ours) == 4
    for name, weight in ours.items():
        torch.testing.assert_close(weight.t(), expected[name], rtol=1e-4, atol=1e-6)
        assert float((weight == 0).float().mean()) == 0.5
