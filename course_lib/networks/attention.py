"""Attention whose heads can be removed, and whose projections can be replaced."""

import copy
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F


def mixed(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    head_dim: int,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Scaled dot-product attention of all heads (Vaswani et al., 2017).

    Inputs and result have the shape (N, tokens, heads * head_dim), with the heads side by side in
    the last dimension. ``dropout`` is the probability of dropping an attention weight.
    """
    q, k, v = (x.unflatten(-1, (-1, head_dim)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Multi-head attention (Vaswani et al., 2017) with any number of heads.

    Computes what ``nn.MultiheadAttention`` computes, from parameters of the same names, but
    ``in_proj_weight`` may contain any number of heads: its shape is (3 * heads * head_dim, width),
    queries before keys before values. ``nn.MultiheadAttention`` requires heads * head_dim == width,
    so it cannot lose a head; this module replaces it.

    Inputs and output have the shape (N, tokens, width), or (tokens, N, width) without
    ``batch_first``; a mask raises a ``ValueError``.

    Args:
        attention: where the parameters come from; they are shared, not copied.
    """

    def __init__(self, attention: nn.MultiheadAttention):
        super().__init__()
        self.head_dim = attention.head_dim
        self.batch_first = attention.batch_first
        self.dropout = attention.dropout
        self.in_proj_weight = attention.in_proj_weight
        self.in_proj_bias = attention.in_proj_bias
        self.out_proj = attention.out_proj
        self.train(attention.training)

    @property
    def num_heads(self) -> int:
        """The current number of heads."""
        return self.in_proj_weight.shape[0] // (3 * self.head_dim)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: None = None,
        need_weights: bool = False,
        attn_mask: None = None,
    ) -> tuple[torch.Tensor, None]:
        """Self-attention (N, L, width) of (N, L, width), or with the first two dimensions swapped.

        Raises:
            ValueError: there is a mask.
        """
        if key_padding_mask is not None or attn_mask is not None:
            raise ValueError("Attention that has lost heads takes no mask.")
        inputs = [x if self.batch_first else x.transpose(0, 1) for x in (query, key, value)]
        if query is key and key is value:  # one product is faster than three
            whole = F.linear(inputs[0], self.in_proj_weight, self.in_proj_bias)
            query, key, value = whole.chunk(3, -1)
        else:
            query, key, value = map(self._projected, range(3), inputs)
        dropout = self.dropout if self.training else 0.0
        out = self.out_proj(mixed(query, key, value, self.head_dim, dropout))
        return out if self.batch_first else out.transpose(0, 1), None

    def _projected(self, number: int, inputs: torch.Tensor) -> torch.Tensor:
        """Queries (0), keys (1) or values (2) of ``inputs``."""
        bias = None if self.in_proj_bias is None else self.in_proj_bias.chunk(3)[number]
        return F.linear(inputs, self.in_proj_weight.chunk(3)[number], bias)


class LayeredAttention(nn.Module):
    """Self-attention whose two projections are linear layers, which can be replaced one by one.

    For inference: it computes what ``attention`` computes in ``eval`` mode, and shares its
    parameters. A mask, or different queries, keys and values, raise a ``ValueError``.
    """

    def __init__(self, attention: nn.MultiheadAttention | SelfAttention):
        super().__init__()
        self.head_dim = attention.head_dim
        self.batch_first = attention.batch_first
        rows, width = attention.in_proj_weight.shape
        self.in_proj = nn.Linear(width, rows, device="meta")
        self.in_proj.weight, self.in_proj.bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj = attention.out_proj

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: None = None,
        need_weights: bool = False,
        attn_mask: None = None,
    ) -> tuple[torch.Tensor, None]:
        """Self-attention (N, L, width) of (N, L, width), or with the first two dimensions swapped.

        Raises:
            ValueError: there is a mask, or query, key and value are different tensors.
        """
        if key_padding_mask is not None or attn_mask is not None:
            raise ValueError("Attention that has lost heads takes no mask.")
        if not (query is key and key is value):
            raise ValueError(
                "This is self-attention: queries, keys and values must have one input."
            )
        inputs = query if self.batch_first else query.transpose(0, 1)
        q, k, v = self.in_proj(inputs).chunk(3, -1)
        out = self.out_proj(mixed(q, k, v, self.head_dim))
        return out if self.batch_first else out.transpose(0, 1), None


def replaced(
    model: nn.Module, kinds: type | tuple[type, ...], make: Callable[..., nn.Module]
) -> nn.Module:
    """A copy of ``model`` in which ``make(layer)`` replaces each layer of these ``kinds``."""
    copied = copy.deepcopy(model)
    for name, layer in list(copied.named_modules()):
        if isinstance(layer, kinds):
            copied.set_submodule(name, make(layer))
    return copied


def removable(model: nn.Module) -> nn.Module:
    """A copy of ``model`` whose attention is :class:`SelfAttention` everywhere."""
    return replaced(model, nn.MultiheadAttention, SelfAttention)


def layered(model: nn.Module) -> nn.Module:
    """A copy of ``model`` whose attention is :class:`LayeredAttention` everywhere."""
    return replaced(model, (nn.MultiheadAttention, SelfAttention), LayeredAttention)
