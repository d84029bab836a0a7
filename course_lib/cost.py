"""What a network costs: bytes on disk, multiply-accumulates, bytes moved; and what limits both.

MACs are counted by torch's own counter, which counts a multiplication and an addition as two
operations.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from course_lib.timing import compare, once


@torch.no_grad()
def macs(model: nn.Module, example: torch.Tensor) -> int:
    """Multiply-accumulates of one forward pass on ``example``, zeros included."""
    with _counter() as counter:
        model(example)
    return counter.get_total_flops() // 2


@contextmanager
def _counter() -> Iterator[FlopCounterMode]:
    """Torch's counter, which does not see into its fused attention: that is off meanwhile."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def stored_bytes(model: nn.Module) -> int:
    """Size of the file that holds the weights of ``model`` as they are, in safetensors format."""
    from safetensors.torch import save

    return len(save({name: value.contiguous() for name, value in model.state_dict().items()}))


# --- layer by layer -----------------------------------------------------------------------------


class Work(NamedTuple):
    """What a layer does in one forward pass: its MACs, and the bytes that it has to move."""

    macs: int
    moved: int

    @property
    def intensity(self) -> float:
        """Arithmetic intensity: MACs per byte moved."""
        return self.macs / self.moved


@torch.no_grad()
def work(model: nn.Module, example: torch.Tensor) -> dict[str, Work]:
    """What every layer of ``model`` does in one forward pass on ``example``, by its name.

    A layer is a module without modules inside. It has to move its weights, its input and its
    output, each once; what a cache saves, or a bad order repeats, is not counted. Operations that
    are no module, such as an addition in ``forward``, are not counted either.
    """
    found: dict[str, Work] = {}
    before: list[int] = []

    def begin(layer: nn.Module, inputs: tuple) -> None:
        before.append(counter.get_total_flops())

    def end(layer: nn.Module, inputs: tuple, output: torch.Tensor, name: str) -> None:
        macs, moved = found.get(name, (0, 0))
        macs += (counter.get_total_flops() - before.pop()) // 2
        moved += sum(map(_bytes, [*layer.parameters(), *layer.buffers(), *inputs, output]))
        found[name] = Work(macs, moved)

    layers = [(name, layer) for name, layer in model.named_modules() if not [*layer.children()]]
    hooks = [layer.register_forward_pre_hook(begin) for _, layer in layers]
    hooks += [layer.register_forward_hook(partial(end, name=name)) for name, layer in layers]
    try:
        with _counter() as counter:
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _bytes(value: object) -> int:
    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 0


# --- what limits --------------------------------------------------------------------------------


#: The ceiling of arithmetic is measured with products from this size on, and none of them takes
#: longer than so many seconds.
SMALLEST_PRODUCT = 256
LONGEST_PRODUCT = 0.5


class Roofline(NamedTuple):
    """The two ceilings of a machine, measured (Williams, Waterman and Patterson, 2009).

    ``bandwidth`` in bytes per second, ``rate`` in MACs per second, the latter with matrices of
    ``size`` rows and columns.
    """

    bandwidth: float
    rate: float
    size: int = 2048

    @property
    def ridge(self) -> float:
        """MACs per byte from which on arithmetic, not memory, is the limit."""
        return self.rate / self.bandwidth

    def attainable(self, intensity: float) -> float:
        """MACs per second at so many MACs per byte, at best."""
        return min(self.rate, self.bandwidth * intensity)

    def milliseconds(self, work: Work) -> float:
        """The least time that ``work`` can take."""
        return 1000 * max(work.macs / self.rate, work.moved / self.bandwidth)


def roofline(device: str = "cpu", dtype: torch.dtype = torch.float32) -> Roofline:
    """Measure both ceilings: copying far more than a cache holds, and a product of matrices.

    Not every processor has arithmetic in every ``dtype``: where products are slow, they are smaller
    ones.
    """
    megabytes, largest = (1024, 8192) if device == "cuda" else (256, 2048)
    source = torch.rand(megabytes * 2**18, device=device)
    target = torch.empty_like(source)
    copying = compare({"copy": target.copy_}, source, rounds=10, seconds=1.0)
    matrices = _matrices(device, dtype, largest)
    product = compare({"product": torch.mm}, *matrices, rounds=10, seconds=1.0)
    size = len(matrices[0])
    return Roofline(
        bandwidth=2 * _bytes(source) / (copying.timings["copy"].median / 1000),
        rate=size**3 / (product.timings["product"].median / 1000),
        size=size,
    )


def _matrices(device: str, dtype: torch.dtype, largest: int) -> tuple[torch.Tensor, ...]:
    """Two matrices, as large as can be multiplied in :data:`LONGEST_PRODUCT`, ``largest`` at most.

    Twice the size takes eight times as long.
    """
    size = SMALLEST_PRODUCT
    while True:
        pair = tuple(torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        if size == largest or 8 * once(torch.mm, *pair) > LONGEST_PRODUCT:
            return pair
        size *= 2


# --- comparing ----------------------------------------------------------------------------------


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the networks that no other one beats: the Pareto front, in the order given.

    One is beaten where another costs no more and is no less accurate, and better in one of the two.
    Lesson 08 builds this function.

    Args:
        points: cost, such as bytes or milliseconds, and accuracy of each network.
    """
    return [
        name
        for name, (cost, accuracy) in points.items()
        if not any(
            other[0] <= cost and other[1] >= accuracy and tuple(other) != (cost, accuracy)
            for other in points.values()
        )
    ]
