"""The networks of the course, and their trained weights.

The weights are safetensors files, in half precision on disk, checked by SHA-256 and never
unpickled. Each was made by ``python -m course_lib train NAME``.
"""

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional as F

from course_lib.networks.data import DATA, verified
from course_lib.networks.tensors import read_tensors, write_tensors

#: The input of a network: a tensor, or tensors by name, as ``transformers`` takes them.
Inputs = torch.Tensor | Mapping[str, torch.Tensor]

#: A network of any class, where a function returns one of the class that it was given.
Network = TypeVar("Network", bound=nn.Module)


def logits(model: nn.Module, inputs: Inputs) -> torch.Tensor:
    """The logits (N, classes) that ``model`` gives for ``inputs``.

    The inputs are moved to the device of the model, and floating-point inputs cast to the type of
    its weights. A network of ``transformers`` takes tensors by name and returns an object whose
    attribute ``logits`` is used.

    Raises:
        ValueError: the network does not accept the inputs.
    """
    first = next(chain(model.parameters(), model.buffers()), torch.tensor(0))
    by_name = inputs if isinstance(inputs, Mapping) else {}
    args = () if isinstance(inputs, Mapping) else (_placed(inputs, first),)
    try:
        outputs = model(*args, **{name: _placed(value, first) for name, value in by_name.items()})
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"{type(model).__name__} cannot take {_described(inputs)}: {_first_line(error)}"
        ) from error
    return getattr(outputs, "logits", outputs)


def _placed(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    fractions = value.is_floating_point() and like.is_floating_point()
    return value.to(like.device, like.dtype if fractions else value.dtype)


def _described(inputs: Inputs) -> str:
    named = inputs.items() if isinstance(inputs, Mapping) else [("inputs", inputs)]
    return ", ".join(f"{name} {tuple(each.shape)} of {each.dtype}" for name, each in named)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a skip connection (He et al., 2016).

    The skip is the identity, or a 1x1 convolution where the block changes the shape. Takes
    (N, channels_in, H, W) and returns (N, channels_out, H / stride, W / stride), rounded up.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.skip = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (N, out, H / stride, W / stride) of features (N, in, H, W)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.skip(x))


class SmallResNet(nn.Module):
    """ResNet-20 (He et al., 2016) with a stem of stride 2: 0.27 M weights, for 28x28 images.

    Takes (N, 1, 28, 28) and returns logits (N, classes).
    """

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64), depth: int = 3, classes: int = 10):
        super().__init__()
        self.stem = nn.Conv2d(1, widths[0], 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        blocks, channels = [], widths[0]
        for stage, width in enumerate(widths):
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(ResidualBlock(channels, width, stride))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of pictures (N, 1, 28, 28)."""
        x = self.blocks(F.relu(self.bn(self.stem(x))))
        return self.head(x.mean(dim=(2, 3)))


def small_resnet() -> SmallResNet:
    """The network that lessons prune live: small enough to fine-tune while you watch."""
    return SmallResNet()


def resnet18() -> nn.Module:
    """torchvision's ResNet-18 for 28x28 grey images: one-channel 3x3 stem, no max-pooling.

    (He et al., 2016.) The stem keeps stride 2, so the first stage works on 14x14 feature maps;
    11.2 M weights. Takes (N, 1, 28, 28) and returns logits (N, 10).
    """
    from torchvision import models  # imported here: it takes a second, and few lessons need it

    model = models.resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(1, 64, 3, stride=2, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


class AttentionBlock(nn.Module):
    """A transformer layer: attention and an MLP, each after a LayerNorm, with skip connections.

    (Vaswani et al., 2017; LayerNorm first, as in Xiong et al., 2020.) Takes and returns
    (N, tokens, width).
    """

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens (N, L, width) of tokens (N, L, width)."""
        normed = self.norm1(x)
        x = x + self.attention(normed, normed, normed, need_weights=False)[0]
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class ConvAttentionNet(nn.Module):
    """Convolutions first, then attention: 0.5 M weights, for 28x28 images.

    Residual blocks extract local features, down to a 4x4 map. Each of its 16 positions is a token
    for the attention blocks, which see the whole image. A convolutional stem for a transformer is
    from Xiao et al., 2021. Takes (N, 1, 28, 28) and returns logits (N, classes).
    """

    def __init__(
        self,
        widths: tuple[int, int, int, int] = (16, 32, 64, 96),
        depth: int = 4,
        heads: int = 4,
        hidden: int = 192,
        classes: int = 10,
    ):
        super().__init__()
        first, second, third, width = widths
        self.stem = nn.Conv2d(1, first, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(first)
        self.convolutions = nn.Sequential(
            ResidualBlock(first, first),
            ResidualBlock(first, second, stride=2),
            ResidualBlock(second, third),
            ResidualBlock(third, width, stride=2),
        )
        self.position = nn.Parameter(torch.randn(1, 16, width) * 0.02)
        self.blocks = nn.Sequential(*(AttentionBlock(width, heads, hidden) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of pictures (N, 1, 28, 28)."""
        x = self.convolutions(F.relu(self.bn(self.stem(x))))
        tokens = x.flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(tokens)).mean(1))


def conv_attention() -> ConvAttentionNet:
    """The course's mixed network: convolutions, then attention."""
    return ConvAttentionNet()


#: By the name of its weights. ``small_resnet_1`` and ``small_resnet_2`` are ``small_resnet``,
#: trained from other seeds: what holds for one trained network need not hold for the next.
ARCHITECTURES = {
    "small_resnet": small_resnet,
    "small_resnet_1": small_resnet,
    "small_resnet_2": small_resnet,
    "resnet18": resnet18,
    "conv_attention": conv_attention,
}


def build(name: str) -> nn.Module:
    """The network ``name`` with fresh random weights; ``torch.manual_seed`` sets their seed.

    Raises:
        ValueError: there is no network of that name.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"No network is called {name!r}; choose from {', '.join(ARCHITECTURES)}.")
    return ARCHITECTURES[name]()


def load_trained(name: str, root: Path = DATA) -> nn.Module:
    """The trained network ``name``, float32 and in ``eval`` mode.

    Raises:
        ValueError: there is no network of that name.
        DataError: the weights are missing or damaged.
    """
    model = build(name)
    model.load_state_dict(read_tensors(verified(f"weights/{name}.safetensors", root)))
    return model.eval()


def save_weights(model: nn.Module, path: Path, about: dict[str, str]) -> None:
    """Write the weights of ``model`` to ``path`` as fp16 safetensors, with metadata ``about``."""
    write_tensors(halved(model), path, about)


def halved(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of ``model``, its floating-point tensors in half precision."""
    return {
        name: value.half() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }


#: An input of the right shape, for counting MACs and tracing channels.
EXAMPLE = torch.zeros(1, 1, 28, 28)


def on_device(model: Network) -> Network:
    """``model``, moved to the GPU if there is one, and to channels-last memory format."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # torch's type stubs do not allow a device together with a memory format
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def reinitialized(model: Network, seed: int) -> Network:
    """``model`` with fresh random weights, the same on every device.

    Each layer draws torch's default initial weights for its current shape. The state of the global
    random generator is left unchanged.
    """
    # torch's type stubs do not allow a device together with a memory format
    model = model.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in model.modules():
            reset = getattr(layer, "reset_parameters", None)
            if callable(reset):
                reset()
    return on_device(model)
