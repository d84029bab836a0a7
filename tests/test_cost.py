"""MACs and bytes against counts by hand and a file that was really written; what limits both."""

import pytest
import torch
from safetensors.torch import save_model
from torch import nn

from course_lib.measuring import cost
from course_lib.measuring.cost import Roofline, Work, work
from course_lib.measuring.timing import Comparison, Timing
from course_lib.networks import models
from course_lib.pruning import masks


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


# --- layer by layer -----------------------------------------------------------------------------


def tower() -> nn.Sequential:
    layers = [nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8 * 4 * 4, 10)).eval()


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 4), (torch.float64, 8)])
def test_work_of_each_layer_by_hand(dtype, width):
    found = work(tower().to(dtype), torch.randn(2, 3, 9, 9, dtype=dtype))
    picture, maps = 2 * 3 * 9 * 9, 2 * 8 * 4 * 4
    counter = 8  # BatchNorm's count of batches, a 64-bit number
    assert found == {
        "0": Work(maps * 3 * 9, width * (8 * 3 * 9 + 8 + picture + maps)),
        "1": Work(0, width * (4 * 8 + 2 * maps) + counter),
        "2": Work(0, width * 2 * maps),
        "3": Work(0, width * 2 * maps),
        "4": Work(2 * 128 * 10, width * (128 * 10 + 10 + maps + 2 * 10)),
    }


def test_model_that_is_a_layer_has_the_empty_name():
    layer = nn.Linear(30, 20, bias=False)
    found = work(layer, torch.randn(7, 30))
    assert found == {"": Work(7 * 30 * 20, 4 * (30 * 20 + 7 * 30 + 7 * 20))}


class Block(nn.Module):
    """A layer that it is given, under a name of its own."""

    def __init__(self, **layers: nn.Module):
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.children():
            x = layer(x)
        return x


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.Linear(6, 6, bias=False)])
def test_a_shared_layer_counts_as_often_as_it_is_used(layer):
    inputs = torch.randn(2, 6)
    once = work(nn.Sequential(layer), inputs)["0"]
    twice = work(nn.Sequential(layer, nn.Tanh(), layer), inputs)
    apart = work(nn.Sequential(Block(a=layer), nn.Tanh(), Block(b=layer)), inputs)
    assert twice["0"] == apart["0.a"] == Work(2 * once.macs, 2 * once.moved)
    assert [*twice] == ["0", "1"] and [*apart] == ["0.a", "1"]


def test_a_layer_that_is_not_used_does_no_work():
    model = nn.Sequential(nn.Linear(4, 4))
    model.other = nn.Sequential(nn.Linear(4, 4))
    model.forward = lambda x: model[0](x)
    assert [*work(model, torch.randn(1, 4))] == ["0"]


@pytest.mark.parametrize(
    ("name", "batch"), [("small_resnet", 1), ("small_resnet", 3), ("resnet18", 1)]
)
def test_layers_together_have_the_macs_of_the_network(name, batch):
    network, pictures = models.build(name).eval(), torch.randn(batch, 1, 28, 28)
    found = work(network, pictures)
    assert sum(layer.macs for layer in found.values()) == cost.macs(network, pictures) > 0
    learned = {layer for layer, module in network.named_modules() if hasattr(module, "weight")}
    assert learned <= {*found}
    assert {layer for layer, each in found.items() if each.macs} == {
        layer for layer in learned if network.get_parameter(f"{layer}.weight").dim() > 1
    }


def hooks_of(model: nn.Module) -> list:
    layers = [*model.modules()]
    return [hook for layer in layers for hook in (layer._forward_hooks, layer._forward_pre_hooks)]


def test_counting_leaves_no_hooks_even_after_an_exception():
    model, fastpath = tower(), torch.backends.mha.get_fastpath_enabled()
    work(model, torch.randn(1, 3, 9, 9))
    assert not any(hooks_of(model))
    with pytest.raises(RuntimeError):
        work(model, torch.randn(1, 3, 11, 11))  # the linear layer finds too many inputs
    assert not any(hooks_of(model)) and torch.backends.mha.get_fastpath_enabled() == fastpath


def test_intensity_is_macs_per_byte():
    assert Work(macs=300, moved=40).intensity == 7.5


# --- what limits --------------------------------------------------------------------------------

ROOF = Roofline(bandwidth=1e9, rate=4e9)


def test_ridge_is_where_both_ceilings_meet():
    assert ROOF.ridge == 4
    assert ROOF.attainable(ROOF.ridge) == ROOF.rate == ROOF.bandwidth * ROOF.ridge


@pytest.mark.parametrize(("intensity", "rate"), [(0, 0), (1, 1e9), (4, 4e9), (5, 4e9), (1e6, 4e9)])
def test_attainable_is_the_lower_of_both_ceilings(intensity, rate):
    assert ROOF.attainable(intensity) == rate


@pytest.mark.parametrize(
    ("done", "milliseconds"),
    [
        (Work(macs=0, moved=2_000_000), 2),
        (Work(macs=1_000_000, moved=2_000_000), 2),
        (Work(macs=8_000_000, moved=2_000_000), 2),
        (Work(macs=20_000_000, moved=2_000_000), 5),
    ],
    ids=["only moving", "below the ridge", "at the ridge", "above the ridge"],
)
def test_least_time_is_that_of_the_slower_ceiling(done, milliseconds):
    assert ROOF.milliseconds(done) == pytest.approx(milliseconds)
    if done.macs:
        assert done.macs / ROOF.attainable(done.intensity) == pytest.approx(milliseconds / 1000)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ceilings_are_bytes_read_and_written_and_macs_of_a_product(monkeypatch, dtype):
    milliseconds, seen = {"copy": 100.0, "product": 50.0}, {}

    def pretended(candidates, *inputs, **_):
        ((name, run),) = candidates.items()
        seen[name] = inputs
        run(*inputs)
        return Comparison({name: Timing((milliseconds[name],) * 6)}, {})

    monkeypatch.setattr(cost, "compare", pretended)
    found = cost.roofline("meta", dtype)  # tensors without memory, which cost no time
    (source,), (first, second) = seen["copy"], seen["product"]
    assert source.nbytes >= 2**28 and first.dtype == second.dtype == dtype
    assert found.bandwidth == pytest.approx(2 * source.nbytes / 0.1)
    (rows, inner), (_, columns) = first.shape, second.shape
    assert found.rate == pytest.approx(rows * inner * columns / 0.05)


@pytest.mark.parametrize(
    ("rate", "size"), [(5e10, 2048), (3e9, 1024), (8e7, 256), (1e3, 256)], ids=str
)
def test_where_products_are_slow_the_ceiling_is_measured_with_smaller_ones(monkeypatch, rate, size):
    def pretended(candidates, *inputs, **_):
        name = next(iter(candidates))
        milliseconds = 1000 * len(inputs[0]) ** 3 / rate if name == "product" else 100.0
        return Comparison({name: Timing((milliseconds,) * 6)}, {})

    waited = []
    monkeypatch.setattr(
        cost, "once", lambda run, a, b: waited.append(len(a) ** 3 / rate) or waited[-1]
    )
    monkeypatch.setattr(cost, "compare", pretended)
    found = cost.roofline("meta", torch.float16)
    assert found.size == size and found.rate == pytest.approx(rate)
    assert rate < 1e8 or sum(waited) < 1, "slower than that, the smallest product has to do"


@pytest.mark.parametrize(
    ("points", "names"),
    [
        ({}, []),
        ({"alone": (3, 70)}, ["alone"]),
        ({"dense": (10, 90), "small": (5, 88), "worse": (6, 80)}, ["dense", "small"]),
        ({"as dear": (1, 50), "better": (1, 60), "as good": (2, 60)}, ["better"]),
        ({"one": (1, 80), "twin": (1, 80)}, ["one", "twin"]),
    ],
)
def test_front_holds_what_no_other_beats(points, names):
    assert cost.pareto_front(points) == names


# --- what torch's counter takes for nothing -------------------------------------------------------


class Last(nn.Module):
    """A recurrent layer and a head that reads its last step."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)[0][:, -1]


@pytest.mark.parametrize(("kind", "gates"), [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
@pytest.mark.parametrize("both", [False, True])
def test_macs_of_recurrent_layers(kind, gates, both):
    layer = kind(6, 5, num_layers=2, bidirectional=both, batch_first=True)
    ways = 1 + both
    first, second = 5 * (6 + 5), 5 * (5 * ways + 5)
    expected = 3 * 7 * ways * gates * (first + second)
    assert cost.macs(Last(layer), torch.randn(3, 7, 6)) == expected
    assert work(Last(layer), torch.randn(3, 7, 6))["layer"].macs == expected


class Of(nn.Module):
    """A function as a network."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
        return self.function(*inputs, **named)


@pytest.mark.parametrize(
    ("network", "shapes", "expected"),
    [
        (nn.Bilinear(3, 5, 4), [(2, 3), (2, 5)], 2 * 4 * 3 * 5),
        (Of(torch.cdist), [(6, 3), (7, 3)], 6 * 7 * 3),
        (Of(torch.mv), [(6, 3), (3,)], 18),
        (Of(torch.dot), [(6,), (6,)], 6),
        (Of(torch.cat), [], 0),
    ],
)
def test_macs_of_other_products(network, shapes, expected):
    inputs = tuple(map(torch.randn, shapes)) or ([torch.ones(2), torch.ones(2)],)
    assert cost.macs(network, inputs) == expected


@pytest.mark.parametrize(
    "function", [torch.fft.rfft, torch.linalg.inv, torch.linalg.det], ids=lambda f: f.__name__
)
def test_an_operation_that_cannot_be_counted_is_named(function):
    with pytest.raises(ValueError, match=r"not known how often aten\._?(fft|linalg)\w+ multiplies"):
        cost.macs(Of(function), torch.eye(4))


def test_several_inputs_by_place_or_by_name_and_their_bytes():
    first, second = torch.randn(2, 3), torch.randn(2, 5)
    layer = nn.Bilinear(3, 5, 4, bias=False)
    by_place = work(layer, (first, second))[""]
    assert by_place == work(layer, {"input1": first, "input2": second})[""]
    assert by_place.moved == 4 * (4 * 3 * 5 + 2 * 3 + 2 * 5 + 2 * 4)


def test_attention_is_a_layer_with_all_of_its_weights():
    width, tokens = 8, 5
    layer = nn.TransformerEncoderLayer(width, 2, 16, batch_first=True, dropout=0.0).eval()
    found = work(layer, torch.randn(1, tokens, width))
    assert found["self_attn"].macs == 4 * tokens * width**2 + 2 * tokens**2 * width
    weights = 4 * (width * width + width)
    assert found["self_attn"].moved == 4 * (weights + (3 + 1) * tokens * width)
    assert sum(each.macs for each in found.values()) == cost.macs(
        layer, torch.randn(1, tokens, width)
    )


def test_counting_leaves_statistics_and_randomness_as_they_were():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    cost.macs(network, torch.ones(2, 3, 8, 8))
    work(network, torch.ones(2, 3, 8, 8))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert torch.equal(random, torch.get_rng_state()) and network.training


def test_tied_weights_are_stored_under_both_names():
    network = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    apart = cost.stored_bytes(network)
    network[1].weight = network[0].weight
    assert cost.stored_bytes(network) == apart


def test_a_compiled_network_is_refused():
    with pytest.raises(ValueError, match="compiled network"):
        cost.macs(torch.jit.trace(nn.Linear(3, 2), torch.ones(1, 3)), torch.ones(1, 3))


class Token(nn.Module):
    """Adds a token of its own, and passes it on alone."""

    def __init__(self):
        super().__init__()
        self.token, self.layer = nn.Parameter(torch.ones(1, 1, 4)), nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(self.token.expand(len(x), -1, -1)) + self.layer(x)


def test_a_token_that_is_passed_on_is_counted():
    model = Token()
    model.layer.bias.requires_grad_(False)
    assert cost.macs(model, torch.randn(2, 1, 4)) == 2 * 2 * 16
    assert [one.requires_grad for one in model.parameters()] == [True, True, False]
