"""Codes are those of the formula and of torch; the deployed file is measured where it runs."""

from itertools import pairwise
from pathlib import Path

import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from interruptions import each
from torch import nn

from course_lib.deployment import quantization, runtime
from course_lib.deployment.quantization import (
    affine,
    dynamic_int8,
    export,
    int8,
    layers,
    relative_error,
    sensitivity,
    symmetric,
)
from course_lib.deployment.runtime import Deployed, accuracy, operators
from course_lib.networks import data, models, training
from course_lib.networks.data import Images

SCHEMES = {"symmetric": symmetric, "affine": affine}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- by hand ------------------------------------------------------------------------------------


def test_symmetric_codes_by_hand():
    found = symmetric(torch.tensor([0.0, 0.5, -1.27, 1.0]))
    assert float(found.scale) == pytest.approx(0.01)
    assert found.codes.tolist() == [0, 50, -127, 100] and found.codes.dtype == torch.int8
    assert found.values.tolist() == pytest.approx([0, 0.5, -1.27, 1.0])


def test_affine_codes_by_hand():
    found = affine(torch.tensor([-0.5, 0.0, 2.05, 1.0]))
    assert float(found.scale) == pytest.approx(0.01) and float(found.zero_point) == 50
    assert found.codes.tolist() == [0, 50, 255, 150] and found.codes.dtype == torch.uint8


def test_four_bits_have_fifteen_symmetric_and_sixteen_affine_codes():
    values = torch.linspace(0, 1, 1000)
    assert symmetric(values - 0.5, bits=4).codes.unique().tolist() == [*range(-7, 8)]
    assert affine(values, bits=4).codes.unique().tolist() == [*range(16)]


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("axis", [None, 0, 1, 3])
@pytest.mark.parametrize("name", SCHEMES)
def test_codes_are_those_of_torch(name, axis, bits):
    values = random(6, 5, 3, 4) * torch.linspace(0.1, 3, 6).view(-1, 1, 1, 1)
    found = SCHEMES[name](values, bits, axis)
    signed = name == "symmetric"
    ends = (-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if axis is None:
        point = int(found.zero_point)
        expected = torch.fake_quantize_per_tensor_affine(values, float(found.scale), point, *ends)
    else:
        points = found.zero_point.int()
        expected = torch.fake_quantize_per_channel_affine(values, found.scale, points, axis, *ends)
    assert torch.allclose(found.values, expected, atol=1e-6)


@given(
    values=some.lists(some.floats(-1e3, 1e3, width=32), min_size=1, max_size=20),
    bits=some.integers(2, 8),
    name=some.sampled_from([*SCHEMES]),
)
def test_no_value_is_off_by_more_than_a_step_and_zero_stays_zero(values, bits, name):
    values = torch.tensor([*values, 0.0])
    found = SCHEMES[name](values, bits)
    # half a step, and for affine codes another half, because the zero point is rounded as well
    step = 0.5 if name == "symmetric" else 1.0
    assert bool(((found.values - values).abs() <= (step + 1e-3) * found.scale).all())
    assert float(found.values[-1]) == 0


@pytest.mark.parametrize("name", SCHEMES)
def test_a_scale_for_each_channel_is_never_worse(name):
    values = random(8, 4, 3, 3) * torch.logspace(-2, 1, 8).view(-1, 1, 1, 1)
    one, each = (SCHEMES[name](values, 8, axis) for axis in (None, 0))
    assert each.scale.shape == (8,)
    assert relative_error(values[0], symmetric(values[0])) < 0.02
    assert relative_error(values, each) < relative_error(values, one)
    lost = (one.values[0] == 0).float().mean()
    assert lost > 0.9  # one scale for all: the smallest channel is gone


def test_each_bit_less_doubles_the_error():
    values = random(100_000)
    errors = [relative_error(values, symmetric(values, bits)) for bits in (8, 7, 6, 5)]
    ratios = [after / before for before, after in pairwise(errors)]
    assert all(1.9 < ratio < 2.2 for ratio in ratios)


def test_values_of_one_sign_gain_a_bit_from_affine_codes():
    values = random(10_000).relu()
    gained = relative_error(values, symmetric(values)) / relative_error(values, affine(values))
    assert gained == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("axis", [None, 0])
def test_zeros_come_back(name, axis):
    zeros = torch.zeros(3, 4)
    assert torch.equal(SCHEMES[name](zeros, 8, axis).values, zeros)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize(
    ("values", "bits", "axis", "message"),
    [
        (torch.ones(3), 1, None, "from 2 to 8 bits; got 1"),
        (torch.ones(3), 9, None, "from 2 to 8 bits; got 9"),
        (torch.ones(3), 8, 1, r"shape \(3,\) has no axis 1"),
        (torch.tensor([1.0, torch.nan]), 8, None, "not finite"),
        (torch.tensor([1.0, torch.inf]), 8, 0, "not finite"),
        (torch.tensor([1.0, 1e300], dtype=torch.float64), 8, 0, "not finite"),
        (torch.tensor([-3e38, 3e38]), 8, None, "not finite"),
        (torch.ones(3), True, None, "from 2 to 8 bits; got True"),
        (torch.ones(3), 4.5, None, "from 2 to 8 bits; got 4.5"),
        (torch.ones(0, 3), 8, None, r"one real number or more; .* shape \(0, 3\)"),
        (torch.ones(3, dtype=torch.complex64), 8, None, "complex64"),
    ],
)
def test_what_has_no_codes_is_refused(name, values, bits, axis, message):
    with pytest.raises(ValueError, match=message):
        SCHEMES[name](values, bits, axis)


# --- in the runtime -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures():
    splits = data.fashion_mnist()
    return {
        "calibration": splits.validation.images[:200],
        "test": Images(*(tensor[:1000] for tensor in splits.test)),
    }


@pytest.fixture(scope="module")
def network():
    return models.load_trained("small_resnet")


@pytest.fixture(scope="module")
def exported(network, pictures, tmp_path_factory):
    file = tmp_path_factory.mktemp("exported") / "small_resnet.onnx"
    return export(network, file, pictures["test"].images[:2])


@pytest.fixture(scope="module")
def quantized(exported, pictures):
    return int8(exported, exported.with_name("int8.onnx"), pictures["calibration"])


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 7])
def test_an_exported_network_gives_the_same_logits_for_any_number_of_pictures(
    network, exported, pictures, count
):
    images = pictures["test"].images[:count]
    with torch.no_grad():
        expected = network(images)
    assert torch.allclose(Deployed(exported)(images), expected, atol=1e-4)


def test_files_do_not_say_where_they_were_made(exported, quantized):
    for file in (exported, quantized):
        assert str(Path(torch.__file__).parent).encode() not in file.read_bytes()


def test_batch_norm_is_folded(exported):
    assert operators(exported)["float32"]["BatchNormalization"] == 0
    kinds = {node.op_type for node in onnx.load(exported).graph.node}
    assert "Conv" in kinds and "BatchNormalization" not in kinds


def test_the_network_itself_is_left_alone(network, exported):
    assert isinstance(network.bn, nn.BatchNorm2d) and not network.training


@pytest.mark.slow
def test_accuracy_in_the_runtime_is_that_of_torch(network, exported, pictures):
    assert accuracy(exported, pictures["test"]) == training.accuracy(network, pictures["test"])
    odd = accuracy(exported, pictures["test"], threads=1, batch_size=300)
    assert odd == accuracy(exported, pictures["test"])


@pytest.mark.slow
def test_int8_is_smaller_and_nearly_as_good(exported, quantized, pictures):
    assert quantized.stat().st_size < 0.4 * exported.stat().st_size
    images = pictures["test"].images
    whole, coded = Deployed(exported)(images), Deployed(quantized)(images)
    assert not torch.equal(whole, coded)
    assert (whole.argmax(1) == coded.argmax(1)).float().mean() > 0.97
    change = accuracy(quantized, pictures["test"]) - accuracy(exported, pictures["test"])
    assert abs(change) < 1


def test_weights_have_a_scale_for_each_channel(network, quantized):
    sizes = {tuple(one.dims) for one in onnx.load(quantized).graph.initializer}
    assert {(16,), (32,), (64,)} <= sizes
    codes = [one for one in onnx.load(quantized).graph.initializer if len(one.dims) == 4]
    assert len(codes) == len(layers_of(network))
    assert {one.data_type for one in codes} == {onnx.TensorProto.INT8}


def layers_of(network):
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]


def test_layers_are_all_that_hold_weights(network, exported):
    assert len(layers(exported)) == len(set(layers(exported))) == len(layers_of(network)) + 1


def test_operators_say_what_falls_back(exported, quantized):
    whole, coded = operators(exported), operators(quantized)
    assert not whole["int8"] and whole["float32"]["Conv"] == 21
    assert coded["int8"]["QLinearConv"] == 21 and coded["float32"]["Conv"] == 0
    assert coded["float32"]["ReduceMean"] == 1 and coded["between"]  # it knows no average


def test_a_layer_that_is_left_stays_in_float(exported, pictures, tmp_path):
    first = layers(exported)[0]
    file = int8(exported, tmp_path / "but_one.onnx", pictures["calibration"], leave=[first])
    found = operators(file)
    assert found["float32"]["Conv"] == 1 and found["int8"]["QLinearConv"] == 20


@pytest.mark.slow
def test_sensitivity_quantizes_one_layer_at_a_time(exported, pictures, monkeypatch):
    names, seen = layers(exported)[:2], []

    def kept(file, *_):
        seen.append(operators(file)["int8"].total())
        return accuracy(file, pictures["test"])

    monkeypatch.setattr(quantization, "accuracy", kept)
    found = dict(sensitivity(exported, pictures["calibration"], pictures["test"], names))
    assert [*found] == names and seen == [1, 1]
    assert all(80 < one < 100 for one in found.values())


class Reader(nn.Module):
    """Reads token ids (N, L) of any N and L: a table, an MLP and the mean over the tokens."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(50, 32)
        self.layers = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32), nn.GELU())
        self.head = nn.Linear(32, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.table(ids)).mean(1))


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A network for tokens, and its file."""
    network, example = Reader().eval(), torch.ones(2, 4, dtype=torch.int64)
    file = tmp_path_factory.mktemp("exported") / "reader.onnx"
    return network, export(network, file, example, dims=("batch", "tokens"))


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(50, shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 4), (2, 30)])
def test_a_network_for_tokens_takes_any_number_of_any_length(reader, shape):
    network, file = reader
    expected = network(ids(*shape)).detach()
    assert torch.allclose(Deployed(file)(ids(*shape)), expected, atol=1e-5)


def test_dynamic_int8_needs_no_calibration(reader, tmp_path):
    _, file = reader
    quantized = dynamic_int8(file, tmp_path / "dynamic.onnx")
    whole, coded = (Deployed(each)(ids(20, 9)) for each in (file, quantized))
    assert not torch.equal(whole, coded)
    assert (whole - coded).abs().max() < 0.1 * whole.abs().max()
    assert quantized.stat().st_size < 0.8 * file.stat().st_size
    found = operators(quantized)
    assert found["int8"].total() == 3 and not operators(file)["int8"]


def test_calibration_may_come_in_batches_of_any_shape(reader, tmp_path):
    _, file = reader
    quantized = int8(file, tmp_path / "static.onnx", [ids(4, 3), ids(2, 9)])
    whole, coded = (Deployed(each)(ids(20, 9)) for each in (file, quantized))
    assert operators(quantized)["int8"] and (whole - coded).abs().max() < 0.1 * whole.abs().max()


def test_pictures_of_another_size_are_refused(exported):
    with pytest.raises(Exception, match="28"):
        Deployed(exported)(torch.zeros(1, 1, 32, 32))


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("dtype", [torch.int32, torch.float16, torch.bfloat16, torch.bool])
def test_numbers_of_any_real_type_have_codes(name, dtype):
    values = torch.tensor([0, 1, 1], dtype=dtype)
    assert relative_error(values, SCHEMES[name](values)) == 0


def test_the_error_of_zeros_is_zero_and_shapes_have_to_fit():
    zeros = torch.zeros(3)
    assert relative_error(zeros, symmetric(zeros)) == 0
    with pytest.raises(ValueError, match=r"shape \(3,\) do not stand for values of shape \(2,\)"):
        relative_error(torch.ones(2), symmetric(zeros))


# --- networks that a fuser takes for others, and inputs that are not what they should be ----------


def uneven(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """``norm`` with statistics that change something."""
    for values in (norm.weight, norm.bias, norm.running_var):
        values.data.uniform_(0.5, 2)
    return norm


def small() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), uneven(nn.BatchNorm2d(8)), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers).eval()


class Called(nn.Module):
    """One convolution called twice, each time with a BatchNorm of its own."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.first, self.second = (uneven(nn.BatchNorm2d(8)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.first(self.conv(x)) + self.second(self.conv(x.flip(3)))).mean((2, 3))


def hooked(place: str) -> nn.Module:
    network = small()
    layer = network.get_submodule(place)
    layer.register_forward_hook(lambda layer, inputs, output: 2 * output + 1)
    return network


def parametrized() -> nn.Module:
    network = small()
    nn.utils.parametrizations.weight_norm(network[0])
    return network


PECULIAR = {
    "called twice": Called,
    "a hook on the network": lambda: hooked(""),
    "a hook on the convolution": lambda: hooked("0"),
    "a hook on the BatchNorm": lambda: hooked("1"),
    "a parametrization": parametrized,
    "training mode": lambda: small().train(),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name",), each([(name,) for name in PECULIAR]))
def test_what_a_fuser_takes_for_another_network_is_exported_right(name, tmp_path):
    network, pictures = PECULIAR[name](), random(4, 3, 8, 8)
    training, before = network.training, {**network.state_dict()}
    found = Deployed(export(network, str(tmp_path / "new" / "a.onnx"), pictures))(pictures)
    assert network.training == training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    with torch.no_grad():
        assert torch.allclose(found, network.eval()(pictures), atol=1e-5)


class Counting(nn.Module):
    """Computes something else in each call."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.calls


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x + 1


LINE = random(4, 3)
REFUSED = {
    "another result each time": (Counting, LINE, "differ from its own"),
    "two outputs": (Pair, LINE, "returns one tensor; this one, tuple"),
    "float16": (lambda: nn.Linear(3, 2).half(), LINE, r"weight is torch.float16"),
    "a dictionary": (lambda: nn.Linear(3, 2), {"x": LINE}, "one input, a tensor; got dict"),
    "no batch": (lambda: nn.Conv2d(3, 8, 3), random(3, 8, 8), "cannot be exported"),
    "a batch of one": (lambda: nn.Linear(3, 2), LINE[:1], r"shape \(1, 3\): give at least 2"),
    "an empty batch": (lambda: nn.Linear(3, 2), LINE[:0], r"shape \(0, 3\)"),
    "NaN": (lambda: nn.Linear(3, 2), LINE * torch.nan, "NaN"),
    "the wrong width": (lambda: nn.Linear(5, 2), LINE, "cannot be exported"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_an_export_that_is_refused_leaves_the_file_as_it_was(name, tmp_path):
    make, example, message = REFUSED[name]
    file = tmp_path / "network.onnx"
    file.write_text("before")
    with pytest.raises(runtime.DeployError, match=message):
        export(make(), file, example)
    assert file.read_text() == "before" and [*tmp_path.iterdir()] == [file]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return export(small(), tmp_path_factory.mktemp("tiny") / "tiny.onnx", random(4, 3, 8, 8))


PICTURES = random(16, 3, 8, 8)
CALIBRATION = {
    "none": (PICTURES[:0], {}, "is empty"),
    "an empty list": ([], {}, "at least one batch"),
    "NaN": (PICTURES * torch.nan, {}, "NaN"),
    "float16": (PICTURES.half(), {}, "takes a tensor of torch.float32; got torch.float16"),
    "wrong channels": (PICTURES[:, :1], {}, r"takes inputs of the shape \(batch, 3, 8, 8\)"),
    "no batch dimension": ([PICTURES[0]], {}, r"got \(3, 8, 8\)"),
    "dictionaries": ([{"x": PICTURES}], {}, "takes a tensor of torch.float32; got dict"),
    "an unknown node": (PICTURES, {"leave": ["no"]}, "has no node 'no'. Those that hold weights"),
    "an unknown one": (PICTURES, {"nodes_to_quantize": ["no"]}, "has no node 'no'"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALIBRATION)
def test_calibration_that_does_not_suit_is_refused(name, tiny, tmp_path):
    pictures, how, message = CALIBRATION[name]
    file = tmp_path / "int8.onnx"
    file.write_text("before")
    with pytest.raises(runtime.DeployError, match=message):
        int8(tiny, file, pictures, **how)
    assert file.read_text() == "before"


def test_pairs_with_labels_calibrate_as_pictures_do(tiny, tmp_path):
    pairs = [(part, torch.zeros(len(part))) for part in PICTURES.split(4)]
    files = [int8(tiny, str(tmp_path / f"{n}.onnx"), x) for n, x in enumerate((PICTURES, pairs))]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_a_transposed_convolution_in_groups_stays_in_float(tmp_path):
    layers = nn.Conv2d(3, 16, 1), nn.ReLU(), nn.ConvTranspose2d(16, 8, 2, 2, groups=4)
    network = nn.Sequential(*layers).eval()
    exact = export(network, tmp_path / "exact.onnx", PICTURES)
    coded = int8(exact, tmp_path / "int8.onnx", PICTURES)
    with torch.no_grad():
        expected = network(PICTURES)
    assert (Deployed(coded)(PICTURES) - expected).norm() < 0.03 * expected.norm()
    assert operators(coded)["float32"]["ConvTranspose"] == 1


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut"])
def test_a_file_that_is_no_network_is_refused_by_everything(damage, tiny, tmp_path):
    file, whole = tmp_path / "damaged.onnx", tiny.read_bytes()
    if damage != "missing":
        file.write_bytes(
            {"empty": b"", "text": b"no network", "cut": whole[: len(whole) // 2]}[damage]
        )
    for run in (
        lambda: Deployed(file),
        lambda: int8(file, tmp_path / "out.onnx", PICTURES),
        lambda: dynamic_int8(file, tmp_path / "out.onnx"),
        lambda: operators(file),
    ):
        with pytest.raises(runtime.DeployError, match="damaged"):
            run()
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("wrong", [[1.0], PICTURES.double(), PICTURES[0], PICTURES[:, :2]])
def test_the_runtime_refuses_inputs_that_do_not_fit(tiny, wrong):
    with pytest.raises(runtime.DeployError, match="takes"):
        Deployed(tiny)(wrong)


def test_the_runtime_takes_inputs_that_require_gradients(tiny):
    assert Deployed(tiny)(PICTURES.clone().requires_grad_()).shape == (16, 8)


@pytest.mark.parametrize("values", [[5.0, 6.0, 7.0], [-9.0, -8.0], [-1.0, 3.0]])
def test_zero_has_a_code_of_its_own_wherever_the_values_lie(values):
    found = affine(torch.tensor(values))
    assert 0 <= found.zero_point <= 255 and found.zero_point == found.zero_point.round()
