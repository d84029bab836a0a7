"""Small networks for the tests of the dependency graph and of surgery."""

from collections.abc import Callable

import torch
from torch import nn

PICTURES = (2, 3, 6, 6)
TOKENS = (2, 5, 8)


class Net(nn.Module):
    """Layers, parameters and buffers by name, with a forward pass that a test gives in a line."""

    def __init__(self, forward: Callable, **parts):
        super().__init__()
        self.steps = forward
        for name, part in parts.items():
            if isinstance(part, nn.Module | nn.Parameter):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, x):
        return self.steps(self, x)


def conv(inputs: int, outputs: int, **options) -> nn.Conv2d:
    """A 3x3 convolution that keeps the image size."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def between(forward: Callable, channels: int = 8, after: int | None = None, **parts) -> Net:
    """``forward`` between two convolutions: ``channels`` go in, ``after`` come out."""
    return Net(
        lambda net, x: net.head(forward(net, net.stem(x).relu())),
        stem=conv(3, channels),
        head=conv(after or channels, 2),
        **parts,
    )


@torch.no_grad()
def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """``model`` in float64 and ``eval`` mode, with random nonzero values in all tensors."""
    random = torch.Generator().manual_seed(seed)
    for tensor in [*model.double().parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            lowest = -0.5 if tensor.dim() > 1 else 0.5  # scales and variances are positive
            drawn = torch.rand(tensor.shape, generator=random, dtype=torch.float64)
            tensor.copy_(lowest + drawn)
    return model.eval()


def example(shape: tuple[int, ...] = PICTURES) -> torch.Tensor:
    """A random input."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@torch.no_grad()
def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest absolute difference divided by the largest absolute value."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())
