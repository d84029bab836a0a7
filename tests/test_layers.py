"""A layer that is not what its class says is known."""

from functools import partial
from types import MethodType

import pytest
import torch
from torch import nn
from torch.ao.nn import qat
from torch.ao.quantization import get_default_qat_qconfig
from torch.nn.utils import parametrizations, prune

from course_lib.pruning import layers
from course_lib.pruning.layers import at_rest, copied

NORMS = (nn.utils.weight_norm, nn.utils.spectral_norm)


class Doubled(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


class Standardized(nn.Conv2d):
    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, weight / weight.std(), bias)


class Renamed(nn.Linear):
    """Adds nothing."""


def replaced(layer):
    old = layer.forward
    layer.forward = lambda x: old(x) * 2
    return layer


def hooked(layer):
    layer.register_forward_hook(lambda *_: None)
    return layer


PECULIAR = {
    "torch's prune": lambda: prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5),
    "torch's prune of a bias": lambda: prune.l1_unstructured(nn.Linear(4, 4), "bias", 0.5),
    "torch's prune of an LSTM": lambda: prune.random_unstructured(nn.LSTM(4, 4), "weight_ih_l0", 1),
    "weight_norm": lambda: NORMS[0](nn.Linear(4, 4)),
    "spectral_norm": lambda: NORMS[1](nn.Conv2d(3, 4, 3)),
    "parametrization": lambda: parametrizations.weight_norm(nn.Linear(4, 4)),
    "parametrized bias": lambda: parametrizations.weight_norm(nn.Linear(4, 4), "bias"),
    "lazy": lambda: nn.LazyLinear(4),
    "replaced forward": lambda: replaced(nn.Linear(4, 4)),
    "hook": lambda: hooked(nn.BatchNorm2d(4)),
    "hook on a container": lambda: hooked(nn.Sequential(nn.Linear(4, 4))),
    "subclass": lambda: Doubled(4, 4),
    "subclass of a convolution": lambda: Standardized(3, 4, 3),
    "quantization-aware": lambda: qat.Linear(4, 4, qconfig=get_default_qat_qconfig()),
    "scripted": lambda: torch.jit.script(nn.Linear(4, 4)),
    "compiled": lambda: torch.compile(nn.Linear(4, 4)),
    "data parallel": lambda: nn.DataParallel(nn.Linear(4, 4)),
}

PLAIN = {
    "linear": lambda: nn.Linear(4, 4),
    "subclass that adds nothing": lambda: Renamed(4, 4),
    "attention": lambda: nn.MultiheadAttention(4, 2),
    "output of attention": lambda: nn.MultiheadAttention(4, 2).out_proj,
    "recurrent": lambda: nn.LSTM(4, 4),
    "container": lambda: nn.Sequential(nn.Linear(4, 4)),
    "lazy, after a run": lambda: _run(nn.LazyLinear(4), torch.randn(2, 3)),
    "transposed": lambda: nn.ConvTranspose2d(3, 4, 3),
    "normalisation": lambda: nn.BatchNorm2d(4),
    "prune removed": lambda: prune.remove(
        prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5), "weight"
    ),
}


def _run(layer, x):
    layer(x)
    return layer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", PECULIAR)
def test_it_is_not_what_its_class_says(kind):
    assert layers.peculiarity(PECULIAR[kind]())


@pytest.mark.parametrize("kind", PLAIN)
def test_it_is_what_its_class_says(kind):
    assert layers.peculiarity(PLAIN[kind]()) is None


def test_the_reason_names_the_parameter():
    assert "its bias is computed" in layers.computed(PECULIAR["torch's prune of a bias"]())
    assert "its weight is computed" in layers.computed(PECULIAR["parametrization"]())
    assert layers.computed(hooked(nn.Linear(4, 4))) is None


# --- the network that was given -----------------------------------------------------------------


class Counting(nn.Module):
    """Counts its calls in a buffer, one in place and one anew, and draws a random number."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("noise", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        self.noise = torch.rand(1)
        return x


def test_at_rest_a_network_is_in_eval_mode_and_afterwards_as_it_was():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(), Counting())
    model[1].eval()
    buffers = {name: (each, each.clone()) for name, each in model.named_buffers()}
    state = torch.get_rng_state()
    with pytest.raises(KeyError), at_rest(model):
        assert not any(layer.training for layer in model.modules())
        model(torch.randn(4, 2))
        raise KeyError
    assert [layer.training for layer in model] == [True, False, True] and model.training
    for name, each in model.named_buffers():
        assert each is buffers[name][0] and torch.equal(each, buffers[name][1])
    assert torch.equal(torch.get_rng_state(), state)


def test_at_rest_hooks_of_a_compiled_network_are_called():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    compiled, calls = torch.compile(model, backend="eager"), []
    compiled(torch.ones(1, 2))
    model[1].register_forward_pre_hook(lambda *_: calls.append(1))
    with at_rest(compiled):
        compiled(torch.ones(1, 2))
    assert calls


def _closed_over(model):
    old = model[1].forward
    model[1].forward = lambda x: 2 * old(x)


def _nested(model):
    def scaled(x):
        return x * model[0].weight.mean()

    model[1].forward = lambda x: scaled(x)


def _default(model):
    model[1].forward = lambda x, first=model[0]: first(x)


def _hook(model):
    model[1].register_forward_hook(lambda layer, given, out: out + model[0].bias)


def _in_a_list(model):
    parts = [model[0]]
    model[1].forward = lambda x: parts[0](x)


@pytest.mark.parametrize("put", [_closed_over, _nested, _default, _hook, _in_a_list])
def test_what_would_still_use_the_original_is_not_copied(put):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    put(model)
    with pytest.raises(ValueError, match=r"1 cannot be copied: its forward.* holds on to a layer"):
        copied(model)


def _method(model):
    model[1].forward = MethodType(lambda layer, x: x @ layer.weight, model[1])


def _partial(model):
    model[1].forward = partial(lambda layer, x: x @ layer.weight, model[1])


def _harmless(model):
    seen = []
    model[1].register_forward_hook(lambda layer, given, out: seen.append(out))


def _compiled(model):
    model.compile(backend="eager")
    model(torch.ones(1, 2))


@pytest.mark.parametrize("put", [_method, _partial, _harmless, _compiled])
def test_a_copy_shares_nothing_with_its_original(put):
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    put(model)
    copy = copied(model)
    copy[1].weight.data.zero_()
    assert not copy(torch.ones(1, 2)).any() and model(torch.ones(1, 2)).any()


def test_what_has_no_copy_is_named():
    model = nn.Sequential(prune.l1_unstructured(nn.Linear(4, 4), "bias", 0.5))
    with pytest.raises(ValueError, match=r"Sequential cannot be copied\. 0: its bias is computed"):
        copied(model)
