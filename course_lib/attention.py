"""Attention whose heads can be removed."""

import torch
from torch import nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """Multi-head attention (Vaswani et al., 2017) whose heads need not fill the width of the input.

    Computes what ``nn.MultiheadAttention`` computes, from parameters of the same names, but
    ``in_proj_weight`` may hold any number of heads: it has the shape (3 * heads * head_dim, width),
    queries before keys before values. ``nn.MultiheadAttention`` insists that
    heads * head_dim == width, so it cannot lose a head; this module takes its place.
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
        """How many heads there are now."""
        return self.in_proj_weight.shape[0] // (3 * self.head_dim)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        need_weights: bool = False,
    ) -> tuple[torch.Tensor, None]:
        inputs = (query, key, value)
        if not self.batch_first:
            inputs = tuple(x.transpose(0, 1) for x in inputs)
        weights = self.in_proj_weight.chunk(3)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        projected = [F.linear(*each) for each in zip(inputs, weights, biases, strict=True)]
        heads = [x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for x in projected]
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(*heads, dropout_p=dropout)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out if self.batch_first else out.transpose(0, 1), None
