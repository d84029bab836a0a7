"""Pruning a fraction of the single weights of a network, or of the channels of every layer."""

from torch import nn

from course_lib.networks.models import EXAMPLE, on_device
from course_lib.pruning import channels, surgery
from course_lib.pruning.graph import trace
from course_lib.pruning.masks import Masks, global_masks, pruned_copy


def prune(
    model: nn.Module, granularity: str, amount: float, dense: nn.Module
) -> tuple[nn.Module, Masks]:
    """A copy of ``model`` without the fraction ``amount`` of what ``dense`` has, and its masks.

    Weights: those nearest zero in the whole network. Channels: those with the lowest L1 norm in
    every layer; they are removed, so there are no masks. ``model`` is ``dense`` itself, or what
    earlier rounds of iterative pruning left of it.
    """
    model, dense = model.cpu(), dense.cpu()  # so that every machine removes the same
    if granularity == "weights":
        masks = global_masks(model, amount)
        return on_device(pruned_copy(model, masks)), masks
    graph, whole = (trace(network, EXAMPLE) for network in (model, dense))
    ratios = {}
    for name, group in graph.free.items():
        count = len(whole.groups[name].channels)
        ratios[name] = 1 - (count - round(amount * count)) / len(group.channels)
    fewer = surgery.prune(model, graph, channels.lowest(channels.l1(model, graph), ratios))
    return on_device(fewer), {}
