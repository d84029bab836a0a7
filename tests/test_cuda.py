"""The same on a GPU as on the CPU; skipped where there is none."""

import copy

import pytest
import torch

from course_lib import masks
from course_lib.data import Images
from course_lib.models import load_trained
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
