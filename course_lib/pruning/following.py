"""The part of :class:`.graph.Labels` that the rules of :mod:`.graph_rules` use."""

from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import fx


class Run(Protocol):
    """A run that follows labels through a network; ``node`` is the operation that is followed."""

    node: fx.Node
    tensors: Mapping[str, torch.Tensor]

    @property
    def where(self) -> str:
        """The layer that is being followed, or the one whose code holds the operation."""

    def new(self, layer: str, count: int) -> torch.Tensor:
        """Labels of ``count`` channels that ``layer`` makes."""

    def fixed(self, shape: torch.Size, reason: str) -> torch.Tensor:
        """Labels for values that are not channels of a layer and have to stay."""

    def unite(self, a: torch.Tensor, b: torch.Tensor) -> None:
        """Note that labels at the same place of ``a`` and ``b`` go together."""

    def unite_rows(self, labels: torch.Tensor) -> None:
        """Note that the labels of each row go together."""

    def lock(self, labels: torch.Tensor, reason: str) -> None:
        """Note that all of the ``labels`` stay."""

    def lock_along(self, x: torch.Tensor, dims: Iterable[int], reason: str) -> None:
        """Note that the labels of ``x`` stay, if they differ along one of ``dims``."""

    def slot(self, name: str, dim: int, labels: torch.Tensor, reads: bool = False) -> None:
        """Note that ``labels`` lie along dimension ``dim`` of the parameter or buffer ``name``."""

    def along(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """The label of each place along ``dim``, where a layer reads its inputs."""

    def refuse(self, what: str) -> ValueError:
        """The error that says that ``what`` is unknown."""
