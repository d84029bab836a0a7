"""The networks have the sizes that the course states, and their weights are safe to load."""

import os
import pickle
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from course_lib.measuring import cost
from course_lib.networks import data, models, tensors
from course_lib.networks.recipes import RECIPES
from course_lib.networks.training import accuracy
from course_lib.pruning import surgery

NAMES = list(models.ARCHITECTURES)
WEIGHTS = "weights/small_resnet.safetensors"


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def small():
    """An untrained small_resnet, its batch statistics included."""
    torch.manual_seed(0)
    model = models.build("small_resnet")
    model(torch.randn(8, 1, 28, 28))
    return model.eval()


def layer_input(model: nn.Module, layer: nn.Module) -> torch.Size:
    """The shape of the input of ``layer`` when ``model`` gets one image."""
    shapes = []
    with layer.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape)):
        model.eval()(torch.randn(1, 1, 28, 28))
    return shapes[0]


# --- inputs by name -----------------------------------------------------------------------------


class ByName(nn.Module):
    """Takes and returns what a network of transformers does."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, ids, mask):
        return SimpleNamespace(logits=self.scale * ids * mask)


def test_logits_of_networks_that_take_tensors_and_of_those_that_take_names(small):
    pictures = torch.randn(2, 1, 28, 28)
    assert torch.equal(models.logits(small, pictures), small(pictures))
    ids, mask = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    assert models.logits(ByName(), {"mask": mask, "ids": ids}).tolist() == [[2.0, 0.0]]


# --- architecture -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "size"),
    [("small_resnet", 270_000), ("resnet18", 11_200_000), ("conv_attention", 520_000)],
)
def test_number_of_weights(network, size):
    weights = sum(parameter.numel() for parameter in models.build(network).parameters())
    assert weights == pytest.approx(size, rel=0.05)


@pytest.mark.parametrize("pictures", [1, 3])
def test_one_logit_for_each_class(name, pictures):
    model = models.build(name).eval()
    assert model(torch.randn(pictures, 1, 28, 28)).shape == (pictures, len(data.CLASSES))


def test_stem_of_resnet18_is_3x3_with_stride_2_and_no_pooling_follows():
    model = models.build("resnet18")
    stem = model.conv1
    assert (stem.in_channels, stem.kernel_size, stem.stride) == (1, (3, 3), (2, 2))
    assert not any(isinstance(layer, nn.MaxPool2d) for layer in model.modules())
    assert layer_input(model, model.layer1) == (1, 64, 14, 14)


def test_stem_of_small_resnet_halves_the_picture():
    model = models.build("small_resnet")
    assert layer_input(model, model.blocks) == (1, 16, 14, 14)


def test_skip_is_a_convolution_only_where_the_shape_changes():
    skips = [type(block.skip) for block in models.build("small_resnet").blocks]
    same, changed = nn.Identity, nn.Sequential
    assert skips == [same, same, same, changed, same, same, changed, same, same]


def test_blocks_of_conv_attention_see_sixteen_places():
    model = models.build("conv_attention")
    assert layer_input(model, model.convolutions) == (1, 16, 14, 14)
    assert layer_input(model, model.blocks) == (1, 16, 96)


def test_attention_block_is_the_one_of_torch():
    torch.manual_seed(0)
    block = models.AttentionBlock(width=12, heads=3, hidden=20).eval()
    layer = nn.TransformerEncoderLayer(
        12, 3, 20, activation="gelu", batch_first=True, norm_first=True
    )
    names = {"attention": "self_attn", "fc1": "linear1", "fc2": "linear2"}
    for name, part in block.named_children():
        layer.get_submodule(names.get(name, name)).load_state_dict(part.state_dict())
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(block(x), layer.eval()(x))


def test_conv_attention_can_lose_channels_heads_and_neurons():
    example = torch.randn(1, 1, 28, 28)
    model = models.build("conv_attention").eval()
    smaller = surgery.shrink(model, example, 0.5)
    assert smaller.convolutions[2].conv1.weight.shape == (32, 16, 3, 3)
    assert [block.attention.num_heads for block in smaller.blocks] == [2] * 4
    assert [block.fc1.out_features for block in smaller.blocks] == [96] * 4
    assert cost.macs(smaller, example) < 0.4 * cost.macs(model, example)


@pytest.mark.parametrize("make", [models.build, models.load_trained])
def test_unknown_network_is_refused_with_the_choices(make):
    with pytest.raises(ValueError, match=r"'resnet50'.*small_resnet, .*resnet18"):
        make("resnet50")


# --- trained weights ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def test_pictures():
    return data.fashion_mnist().test


def test_trained_network_is_float32_and_ready_for_inference(name):
    model = models.load_trained(name)
    assert not any(layer.training for layer in model.modules())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=[pytest.mark.sweep] * (one != "small_resnet")) for one in NAMES],
)
def test_trained_network_reaches_its_accuracy_and_its_file_tells_it(name, test_pictures):
    measured = accuracy(models.load_trained(name), test_pictures)
    target = {"small_resnet": 91.5, "resnet18": 93.0, "conv_attention": 91.5}[name]
    assert measured >= target == RECIPES[name].must_reach
    with safe_open(data.DATA / f"weights/{name}.safetensors", "pt") as file:
        about = file.metadata()
    command = about["command"].replace("course_lib.recipes", "course_lib train")
    assert command == f"python -m course_lib train {name}"
    assert float(about["test_accuracy"]) == pytest.approx(measured, abs=0.1)


# --- files of weights ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", models.ARCHITECTURES)
def test_tensors_are_read_as_the_library_reads_them(name):
    path = data.DATA / f"weights/{name}.safetensors"
    found, expected = tensors.read_tensors(path), load_file(path)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype and torch.equal(found[key], value)


@pytest.fixture
def root(tmp_path):
    """A ``data/`` folder whose only file is the weights of small_resnet, written by a test."""
    (tmp_path / "SHA256SUMS").touch()
    (tmp_path / "README.md").write_text("| `weights/small_resnet.safetensors` | weights | `` |\n")
    (tmp_path / "weights").mkdir()
    return tmp_path


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_weights_come_back_as_fp16_holds_them(root, small, layout):
    models.save_weights(small.to(memory_format=layout), root / WEIGHTS, {"command": "none"})
    data.record_checksum(WEIGHTS, root)
    loaded = models.load_trained("small_resnet", root).state_dict()
    for key, value in small.state_dict().items():
        assert torch.equal(loaded[key], value.half().float() if value.dim() else value)
    with safe_open(root / WEIGHTS, "pt") as file:
        assert file.metadata() == {"command": "none"}
        assert file.get_tensor("stem.weight").dtype == torch.float16


def test_crash_while_saving_leaves_the_old_file_and_no_other(root, small, monkeypatch):
    models.save_weights(small, root / WEIGHTS, {})
    before = (root / WEIGHTS).read_bytes()
    nn.init.zeros_(small.head.weight)

    def crash(*paths):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", crash)
        models.save_weights(small, root / WEIGHTS, {})
    assert (root / WEIGHTS).read_bytes() == before
    assert list(root.rglob("*.safetensors")) == [root / WEIGHTS]
    models.save_weights(small, root / WEIGHTS, {})  # leftovers of the crash do not get in the way
    assert (root / WEIGHTS).read_bytes() != before


def test_missing_weights_are_refused(root):
    with pytest.raises(data.DataError, match=WEIGHTS):
        models.load_trained("small_resnet", root)


class Trap:
    """Unpickling it creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("dump", "load"),
    [(pickle.dump, pickle.load), (torch.save, partial(torch.load, weights_only=False))],
    ids=["pickle", "torch.save"],
)
def test_pickle_in_place_of_the_weights_is_never_unpickled(root, dump, load):
    sprung = root / "sprung"
    with (root / WEIGHTS).open("wb") as file:
        dump(Trap(sprung), file)
    data.record_checksum(WEIGHTS, root)
    with pytest.raises(data.DataError, match="is not a safetensors file"):
        models.load_trained("small_resnet", root)
    assert not sprung.exists()
    with (root / WEIGHTS).open("rb") as file:
        load(file)
    assert sprung.exists()  # the trap works: unpickling the file springs it


def test_tied_weights_are_written_and_notes_have_to_be_text(tmp_path):
    weight, file = torch.randn(4, 3), str(tmp_path / "new" / "a.safetensors")
    tensors.write_tensors({"a": weight, "b": weight, "turned": weight.T}, file, {"about": "ties"})
    found = tensors.read_tensors(tmp_path / "new" / "a.safetensors")
    assert torch.equal(found["a"], weight) and torch.equal(found["b"], weight)
    assert torch.equal(found["turned"], weight.T)
    with pytest.raises(ValueError, match=r"'epochs' is 3: give str\(3\)"):
        tensors.write_tensors({"a": weight}, file, {"epochs": 3})


@pytest.mark.parametrize(
    "header", [b"[]", b'{"a": 1}', b'{"a": {}}', b'{"a": {"dtype": "F9", "data_offsets": [0, 4]}}']
)
def test_a_damaged_file_of_weights_is_refused(tmp_path, header):
    file = tmp_path / "a.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(data.DataError, match="not a safetensors file"):
        tensors.read_tensors(file)
