"""The same on a GPU as on the CPU; skipped where there is none."""

import copy

import pytest
import torch

from course_lib import channels, masks, surgery
from course_lib.data import Images
from course_lib.graph import trace
from course_lib.models import build, load_trained
from course_lib.training import accuracy, fit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.fixture
def pictures():
    random = torch.Generator().manual_seed(0)
    return Images(
        torch.randn(256, 1, 28, 28, generator=random),
        torch.randint(10, (256,), generator=random),
    )


@pytest.fixture
def networks():
    """A trained network on the CPU, and its twin on the GPU."""
    network = load_trained("small_resnet")
    return network, copy.deepcopy(network).cuda()


@pytest.mark.parametrize("make", [masks.global_masks, masks.layer_masks, masks.output_masks])
def test_masks_are_those_of_the_cpu(networks, make):
    ours, theirs = (make(network, 0.7) for network in networks)
    assert all(mask.is_cuda for mask in theirs.values())
    assert all(torch.equal(ours[name], theirs[name].cpu()) for name in ours)


def test_random_scores_are_those_of_the_cpu(networks):
    ours, theirs = (masks.random_scores(network, seed=0) for network in networks)
    assert all(torch.equal(ours[name], theirs[name].cpu()) for name in ours)


def test_held_zeros_stay_zero_and_accuracy_is_measured(networks, pictures):
    cpu, gpu = networks
    assert accuracy(gpu, pictures) == pytest.approx(accuracy(cpu, pictures), abs=1)
    found = masks.global_masks(cpu, 0.9)  # masks may lie on another device than the network
    with masks.hold(gpu, found):
        fit(gpu, pictures, epochs=2, lr=0.01, seed=0)
    assert all(torch.equal(mask.cpu(), found[name]) for name, mask in masks.masks_of(gpu).items())


def test_channels_are_removed_where_the_network_is(networks, pictures, tmp_path):
    graphs = [trace(network, pictures.images[:1]) for network in networks]
    removed = [
        channels.lowest(channels.l1(*pair), 0.5) for pair in zip(networks, graphs, strict=True)
    ]
    assert removed[0] == removed[1]
    ours, theirs = (
        surgery.prune(network, graph, removed[0])
        for network, graph in zip(networks, graphs, strict=True)
    )
    assert all(parameter.is_cuda for parameter in theirs.parameters())
    surgery.save(theirs, tmp_path / "pruned.safetensors")
    loaded = surgery.load(build("small_resnet"), tmp_path / "pruned.safetensors")
    for name, value in ours.state_dict().items():
        assert torch.equal(theirs.state_dict()[name].cpu(), value)
        assert torch.equal(loaded.state_dict()[name], value)
    silent = surgery.silence(networks[1], graphs[1], removed[1])
    with torch.no_grad():
        images = pictures.images.cuda()
        torch.testing.assert_close(theirs(images), silent(images), rtol=1e-3, atol=1e-3)
