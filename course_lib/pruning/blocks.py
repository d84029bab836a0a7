"""The dependency graph of a network whose blocks are all built alike, written down, not found.

torch.fx cannot trace the networks of ``transformers``. In their blocks a *head* is some rows of the
query, key and value matrices and the columns of the matrix that reads them; a *neuron* is one row
of each matrix that makes it and one column of the matrix that reads it. :mod:`.encoders` and
:mod:`.decoders` describe their blocks by :class:`Part`, and get a graph like that of any network.
"""

from collections.abc import Iterator, Mapping
from math import prod
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import nn

from course_lib.pruning.graph import Graph, Group, Provenance, Slot


class Part(NamedTuple):
    """Where a block keeps its heads or neurons: names of parameters, without "weight" and "bias".

    Args:
        name: what the channels are, in the plural.
        made_by: what makes them. The rows of a parameter are divided evenly among the channels.
        read_by: what reads them.
        columns: attributes of the block whose product is the number of columns that read a channel.
        stacked: how many matrices are stored in one parameter of ``made_by``, one below the other.
    """

    name: str
    made_by: tuple[str, ...]
    read_by: str
    columns: tuple[str, ...] = ()
    stacked: int = 1

    def width(self, block: nn.Module) -> int:
        """The number of columns that read one head or neuron of ``block``."""
        return prod(int(attrgetter(name)(block)) for name in self.columns)

    def count(self, block: nn.Module) -> int:
        """The number of heads or neurons of ``block``."""
        return block.get_parameter(f"{self.read_by}weight").shape[1] // self.width(block)

    def is_in(self, block: nn.Module) -> bool:
        """Whether ``block`` has the matrices of this part."""
        found = {name for name, _ in block.named_parameters()}
        return all(f"{begin}weight" in found for begin in (*self.made_by, self.read_by))


def graph(model: nn.Module, blocks: Mapping[int, tuple[str, tuple[Part, ...]]]) -> Graph:
    """The dependency graph of the heads and neurons of ``model``.

    Its groups are ``"0.heads"``, ``"0.neurons"``, ``"1.heads"`` and so on.

    Args:
        blocks: by number, the name of a block in ``model`` and its parts.
    """
    groups: dict[str, Group] = {}
    slots: list[Slot] = []
    count = 0
    for number, (name, parts) in blocks.items():
        block = model.get_submodule(name)
        for part in parts:
            channels = torch.arange(count, count + part.count(block))
            count += len(channels)
            group = f"{number}.{part.name}"
            made_by = tuple(f"{name}.{begin.rpartition('.')[0]}" for begin in part.made_by)
            groups[group] = Group(group, made_by, channels, None)
            slots += _slots(name, block, part, channels)
    nothing = torch.empty(3, 0, dtype=torch.long)
    return Graph(groups, slots, (), Provenance([], {}, count, nothing, nothing[0]))


def _slots(name: str, block: nn.Module, part: Part, channels: torch.Tensor) -> Iterator[Slot]:
    """The places of ``channels``, all heads or all neurons of the block ``name``."""
    tensors = dict(block.named_parameters())
    for maker in (begin + end for begin in part.made_by for end in ("weight", "bias")):
        if maker in tensors:  # a layer may have no bias
            rows = len(tensors[maker]) // part.stacked // len(channels)
            along = channels.repeat_interleave(rows).repeat(part.stacked)
            yield Slot(f"{name}.{maker}", 0, along, reads=False)
    along = channels.repeat_interleave(part.width(block))
    yield Slot(f"{name}.{part.read_by}weight", 1, along, reads=True)
