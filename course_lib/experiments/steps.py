"""Compress a network step by step: fewer channels, fewer weights, few different values."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypedDict

import torch
from torch import nn
from torch.nn.utils import parametrize

from course_lib.deployment.quantization import symmetric
from course_lib.deployment.storage import share_weights
from course_lib.measuring.quality import Evaluation, evaluate
from course_lib.networks.data import Images, Splits
from course_lib.networks.models import on_device
from course_lib.networks.recipes import RECIPES
from course_lib.networks.training import SGD, Objective, Rewound, Watch, fit, recalibrate
from course_lib.pruning import masks
from course_lib.pruning.granularity import prune
from course_lib.pruning.weights import prunable

#: The number of training pictures for BatchNorm recalibration, which needs no labels.
RECALIBRATED_ON = 1024


class CompressionStep(NamedTuple):
    """How a network is made from ``source``, an earlier step or "dense".

    The fields are applied in this order; a field that is False or 0 changes nothing.

    Args:
        fake_quantized: round every weight to int8, with one scale per channel.
        channels: fraction of the channels of every layer to remove.
        weights: fraction of all weights to set to zero, the smallest in the network.
        codebook_size: number of different nonzero values that each layer may have.
        epoch_fraction: length of the training that follows, as a fraction of the recipe's epochs,
            with learning-rate rewinding.
    """

    source: str
    fake_quantized: bool = False
    channels: float = 0.0
    weights: float = 0.0
    codebook_size: int = 0
    epoch_fraction: float = 0.0


def apply_step(
    step: CompressionStep,
    source: nn.Module,
    network: str,
    data: Splits,
    objective: Objective,
    progress: Callable[[Iterable], Iterable] = iter,
) -> nn.Module:
    """A copy of ``source`` compressed by ``step``, on the CPU and in ``eval`` mode.

    Weights that a step sets to zero stay zero, also in later steps.

    Args:
        network: the name of the recipe.
        objective: the training loss.
        progress: wraps the counter of training steps.
    """
    model = fake_quantized(source) if step.fake_quantized else source
    if step.channels:
        model, _ = prune(model, "channels", step.channels, model)
    kept = masks.global_masks(model, step.weights) if step.weights else masks.masks_of(model)
    model = masks.pruned_copy(model, kept)
    held = (
        weight_sharing(model, step.codebook_size)
        if step.codebook_size
        else masks.enforce_masks(on_device(model), kept)
    )
    with held:
        if step.epoch_fraction:
            how = {"objective": objective, "watch": Watch(progress)}
            retrain(model, network, data.train, step.epoch_fraction, RECIPES[network].seed, **how)
    return model.cpu().eval()


class RightAfter(TypedDict):
    """The accuracy of a pruned network before any training: as it is, and recalibrated."""

    before: Evaluation
    recalibrated: Evaluation


def right_after(model: nn.Module, data: Splits[Images]) -> RightAfter:
    """The accuracy of the pruned ``model`` as it is, and after BatchNorm recalibration in place."""
    unlabelled = data.train.images[:RECALIBRATED_ON]
    return {
        "before": evaluate(model, data),
        "recalibrated": evaluate(recalibrate(model, unlabelled), data),
    }


def retrain(
    model: nn.Module, network: str, data: Images, epoch_fraction: float, seed: int, **training
) -> nn.Module:
    """Train ``model`` in place with the end of the recipe of ``network``; return it.

    Args:
        epoch_fraction: length of the training, as a fraction of the recipe's epochs, with
            learning-rate rewinding (Renda, Frankle and Carbin, 2020).
        training: further arguments of :func:`fit`, such as ``objective`` or ``watch``.
    """
    recipe = RECIPES[network]
    return fit(
        on_device(model),
        data,
        epochs=epoch_fraction * recipe.epochs,
        seed=seed,
        optimizer=SGD(recipe.lr),
        schedule=Rewound(recipe.epochs),
        **training,
    )


def fake_quantized(model: nn.Module, bits: int = 8) -> nn.Module:
    """A copy of ``model`` with weights fake-quantized to ``bits`` bits, one scale per channel."""
    copied = masks.pruned_copy(model, {})
    with torch.no_grad():
        for weight in prunable(copied).values():
            weight.copy_(symmetric(weight, bits, axis=0).values)
    return copied


# --- trainable shared values --------------------------------------------------------------------


@contextmanager
def weight_sharing(model: nn.Module, count: int) -> Iterator[None]:
    """Within the block, the weights of each layer share ``count`` nonzero values, which can train.

    This applies to convolutions, linear layers and embeddings. At the start, k-means decides which
    weights share a value. Training then changes the values: the gradient of a value is the sum of
    the gradients of its weights (Han et al., 2016, "Deep Compression"). After the block the weights
    are ordinary parameters again.

    Raises:
        ValueError: an invalid ``count``, see
            :func:`course_lib.deployment.storage.share_weights`.
    """
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, nn.Linear | nn.Embedding | nn.modules.conv._ConvNd)
    ]
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", _Shared(layer.weight, count))
    try:
        yield
    finally:
        for layer in layers:
            parametrize.remove_parametrizations(layer, "weight")


class _Shared(nn.Module):
    """A weight as a table of values, the first of which is zero, and an index for each weight."""

    def __init__(self, weight: torch.Tensor, count: int):
        super().__init__()
        quantized = share_weights(weight.detach(), count)
        self.values = quantized[quantized != 0].unique()
        indices = torch.searchsorted(self.values, quantized.contiguous()) + 1
        self.register_buffer("indices", torch.where(quantized == 0, 0, indices))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return _Looked.apply(torch.cat([values.new_zeros(1), values]), self.indices)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        return self.values


class _Looked(torch.autograd.Function):
    """``table[indices]``, with a gradient that is 30 times faster than torch's on a CPU."""

    @staticmethod
    def forward(ctx, table: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(indices)
        ctx.count = len(table)
        return table[indices]

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (indices,) = ctx.saved_tensors
        sums = torch.bincount(indices.flatten(), gradient.flatten(), ctx.count)
        return sums.to(gradient.dtype), None
