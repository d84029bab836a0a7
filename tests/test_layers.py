"""A layer that is not what its class says is known."""

import pytest
import torch
from torch import nn
from torch.ao.nn import qat
from torch.ao.quantization import get_default_qat_qconfig
from torch.nn.utils import parametrizations, prune

from course_lib import layers

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
