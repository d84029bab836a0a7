"""The part of :class:`.graph.Labels` that the rules of :mod:`.graph_rules` use."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Concatenate, Protocol

import torch
from torch import fx

#: What an operation is called with: labels, numbers, and whatever else the code passes on.
Args = tuple[Any, ...]
Named = dict[str, Any]

#: What an operation cuts a tensor into.
Parts = tuple[torch.Tensor, ...]

#: What was done, and with which numbers (None: may change).
Step = tuple[str | float | None, ...]


class Follower(Protocol):
    """A run that follows labels through a network; ``node`` is the operation that is followed.

    Labels are int64 tensors of the shape of the value they stand for: equal labels, one channel.
    """

    node: fx.Node

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """The parameters and buffers of the network, by name."""

    @property
    def where(self) -> str:
        """The layer that is being followed, or the one whose code holds the operation."""

    def new(self, layer: str, count: int) -> torch.Tensor:
        """Labels (count,) of the channels that ``layer`` makes."""

    def fixed(self, shape: torch.Size, reason: str) -> torch.Tensor:
        """Labels of that ``shape`` for values that are not channels of a layer and have to stay."""

    def unite(self, a: torch.Tensor, b: torch.Tensor) -> None:
        """Note that labels at the same place of ``a`` and ``b``, of one shape, go together."""

    def unite_rows(self, labels: torch.Tensor) -> None:
        """Note that the labels of each row of (rows, columns) go together."""

    def lock(self, labels: torch.Tensor, reason: str) -> None:
        """Note that all of the ``labels``, of any shape, stay."""

    def lock_along(self, x: torch.Tensor, dims: Iterable[int], reason: str) -> None:
        """Note that the labels ``x``, of any shape, stay if they differ along one of ``dims``."""

    def slot(self, name: str, dim: int, labels: torch.Tensor, reads: bool = False) -> None:
        """Note that ``labels`` (n,) lie along dimension ``dim`` of the tensor ``name``."""

    def along(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """The labels (n,) of the n places along ``dim``, where a layer reads its inputs."""

    def refuse(self, what: str) -> ValueError:
        """The error that says that ``what`` is unknown."""


#: Called with the run, the layer or operation and its arguments, it gives the labels that leave.
Rule = Callable[Concatenate[Follower, ...], Any]
