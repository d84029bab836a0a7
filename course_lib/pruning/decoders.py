"""Pruning decoders of Llama's architecture: single weights, neurons, groups of heads, blocks.

Each block has grouped-query attention (query heads that share a key/value head), a gated MLP
(SwiGLU: Shazeer, 2020) and two RMSNorms (Zhang and Sennrich, 2019). What can be removed exactly:

- a *neuron* of the MLP: a row of ``gate_proj`` and of ``up_proj``, a column of ``down_proj``;
- a *group* of heads: a key/value head with all query heads that use it (a query head alone would
  leave unequal groups, which the attention of the runtimes does not compute);
- a *block*, which leaves the residual stream as it is (Men et al., 2024; Gromov et al., 2024);
- tokens of the vocabulary, see :func:`course_lib.networks.smollm.cut_vocabulary`.

A channel of the residual stream cannot be removed exactly: every block reads and writes it, and
RMSNorm divides by the mean over all of them, see :func:`narrower_norm`. SliceGPT (Ashkboos et al.,
2024) first rotates the stream, which RMSNorm permits, so that the channels that go carry little.

Supported are models of ``transformers`` with these blocks (Llama, SmolLM2, Mistral, Qwen2 ...).
Lesson 11 uses these functions.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from course_lib.bars import Progress
from course_lib.networks.models import Network
from course_lib.pruning import blocks, masks, oneshot, surgery
from course_lib.pruning.blocks import Part
from course_lib.pruning.channels import Scores, sum_by_channel
from course_lib.pruning.graph import Graph
from course_lib.pruning.layers import at_rest, copied
from course_lib.pruning.oneshot import Method, Pattern
from course_lib.pruning.surgery import Removed

GROUPS = Part(
    "groups",
    ("self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."),
    "self_attn.o_proj.",
    columns=("self_attn.head_dim", "self_attn.num_key_value_groups"),
)
NEURONS = Part("neurons", ("mlp.gate_proj.", "mlp.up_proj."), "mlp.down_proj.")

#: The linear layers of a block; they are pruned together, as by the authors of SparseGPT.
LINEAR_LAYERS = 7


# --- what there is ------------------------------------------------------------------------------


def stack(model: nn.Module) -> Any:
    """The part of ``model`` that has ``embed_tokens``, ``layers``, ``rotary_emb`` and ``norm``.

    Raises:
        ValueError: it has none, or its blocks are not of the kind that is known here.
    """
    whole: Any = getattr(model, "model", model)
    needed = ("embed_tokens", "layers", "rotary_emb", "norm")
    if not all(hasattr(whole, name) for name in needed) or not len(whole.layers):
        raise ValueError(
            f"{type(model).__name__} is not a decoder of transformers with {', '.join(needed)}."
        )
    for number, block in enumerate(whole.layers):
        if not (GROUPS.is_in(block) and NEURONS.is_in(block)):
            raise ValueError(
                f"Block {number} of {type(model).__name__} is a {type(block).__name__}, which is "
                "not known here: it lacks the matrices of Llama's attention or gated MLP."
            )
    return whole


def graph(model: nn.Module) -> Graph:
    """The dependency graph of the head groups and neurons of ``model``.

    Its groups are ``"0.groups"``, ``"0.neurons"``, ``"1.groups"`` and so on, block by block.

    Raises:
        ValueError: ``model`` is not a decoder that is known here.
    """
    layers = stack(model).layers
    names = {module: name for name, module in model.named_modules()}
    return blocks.graph(
        model, {number: (names[one], (GROUPS, NEURONS)) for number, one in enumerate(layers)}
    )


def linear_layers(model: nn.Module) -> list[str]:
    """The names of all linear layers in the blocks: embedding and output layer are left out.

    Raises:
        ValueError: ``model`` is not a decoder that is known here.
    """
    inside = {id(module) for module in stack(model).layers.modules()}
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module) in inside
    ]


def group_rows(
    group: int, query_heads: int, key_value_heads: int, head_dim: int
) -> tuple[list[int], list[int]]:
    """The rows of ``q_proj``, and those of ``k_proj`` and ``v_proj``, of one group of heads.

    Query heads that share a key/value head are neighbours (Ainslie et al., 2023), and so are the
    rows of a head. :func:`graph` has the same rows; lesson 11 builds this function.

    Args:
        group: which key/value head, from 0.
        head_dim: rows of one head.

    Raises:
        ValueError: no such group, or the query heads cannot be divided among the groups.
    """
    if query_heads % key_value_heads:
        raise ValueError(
            f"{query_heads} query heads cannot be divided evenly among {key_value_heads} key/value "
            "heads."
        )
    if not 0 <= group < key_value_heads:
        raise ValueError(f"The groups are 0 to {key_value_heads - 1}; there is no group {group}.")
    of_query = query_heads // key_value_heads * head_dim
    return (
        list(range(group * of_query, (group + 1) * of_query)),
        list(range(group * head_dim, (group + 1) * head_dim)),
    )


# --- single weights -----------------------------------------------------------------------------


class _Alone(nn.Module):
    """A block that takes the residual stream (N, L, width) alone, and returns it."""

    def __init__(self, block: nn.Module, rotary: nn.Module):
        super().__init__()
        self.block, self.rotary = block, rotary

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = torch.arange(x.shape[1], device=x.device)[None]
        out: torch.Tensor = self.block(x, position_embeddings=self.rotary(x, places))
        return out


def prune_weights(
    model: Network,
    windows: torch.Tensor,
    method: Method = oneshot.sparsegpt,
    pattern: Pattern = 0.5,
    progress: Progress[int] = iter,
) -> Network:
    """A copy of ``model`` with the weights of its blocks pruned in one shot, block by block.

    Only one block runs at a time, on what the pruned blocks before it give, so that the Hessians of
    one block are in memory, and each block runs twice (Frantar and Alistarh, 2023). Embedding and
    output layer stay dense.

    Args:
        windows: calibration text, token ids (N, L).
        method: of :mod:`.oneshot`: magnitude, wanda or sparsegpt.
        progress: wraps the numbers of the blocks, for a progress bar.

    Raises:
        ValueError: ``model`` is not a decoder that is known here, or what :func:`.oneshot.prune`
            refuses.
    """
    pruned = copied(model).eval()
    whole = stack(pruned)
    with torch.no_grad():
        stream = [whole.embed_tokens(window) for window in windows.split(1)]
        for number in progress(range(len(whole.layers))):
            alone = _Alone(whole.layers[number], whole.rotary_emb)
            smaller = oneshot.prune(alone, stream, method, pattern, at_once=LINEAR_LAYERS)
            whole.layers[number] = smaller.block
            stream = [smaller(x) for x in stream]
    return pruned


def prune_everything(model: Network, sparsity: float) -> Network:
    """A copy of ``model`` without the smallest of *all* its weights, embedding included.

    The wrong way: the weights of one layer are compared with those of others, whose inputs differ
    in scale, and with those of the embedding.

    Raises:
        ValueError: ``sparsity`` is not within 0 to 1.
    """
    pruned = copied(model)
    tensors = {name: one for name, one in pruned.named_parameters() if one.dim() > 1}
    keep = masks.lowest_overall(tensors, masks.magnitude, sparsity)
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.mul_(keep[name])
    return pruned


# --- width --------------------------------------------------------------------------------------


def reader_scores(model: nn.Module, graph: Graph, windows: torch.Tensor) -> Scores:
    """How much each head group or neuron adds to the residual stream, on ``windows`` (N, L).

    For each column that reads it: the norm of its input times the norm of the column, as in Wanda
    (Sun et al., 2023); their squares are summed over the columns of a channel. Minitron
    (Muralidharan et al., 2024) ranks by the activations alone.
    """
    norms = masks.input_norms(model, windows.split(1))
    weights = dict(model.named_parameters())
    slots = [slot for slot in graph.slots if slot.reads]

    def added(name: str) -> torch.Tensor:
        return (weights[name].detach() * norms[name]).square()

    return sum_by_channel(graph, slots, added)


def prune(model: Network, removed: Removed) -> Network:
    """A copy of ``model`` without the ``removed`` head groups and neurons.

    It computes what ``model`` computes after ``surgery.zero_readers`` of the same.

    Args:
        removed: by group of :func:`graph`, the positions to remove.

    Raises:
        ValueError: ``model`` is not a decoder that is known here; no such group or position; or a
            block would lose all its groups or all its neurons.
    """
    smaller = surgery.remove(model, surgery.plan(graph(model), removed))
    _configure(smaller)
    return smaller


def _configure(model: nn.Module) -> None:
    """Set the sizes in the configuration of ``model`` to those of its blocks, if they are alike."""
    layers, config = stack(model).layers, vars(model).get("config")
    if config is None:
        return
    config.num_hidden_layers = len(layers)
    neurons = {NEURONS.count(block) for block in layers}
    groups = {GROUPS.count(block) for block in layers}
    if len(neurons) == 1:
        config.intermediate_size = neurons.pop()
    if len(groups) == 1:
        ratio = config.num_attention_heads // config.num_key_value_heads
        config.num_key_value_heads = groups.pop()
        config.num_attention_heads = ratio * config.num_key_value_heads


def narrower_norm(
    weight: torch.Tensor, epsilon: float, kept: Sequence[int]
) -> tuple[torch.Tensor, float]:
    """RMSNorm's weight (width,) and epsilon when only the channels ``kept`` of its input are left.

    RMSNorm divides by the root of the mean square, and the mean is over fewer channels. If those
    that go are zero, the mean square grows by width / kept; both results are scaled so that the
    norm computes what it computed before.
    """
    grown = len(weight) / len(kept)
    return weight[list(kept)] * grown**0.5, epsilon * grown


# --- depth --------------------------------------------------------------------------------------


@torch.inference_mode()
def _streams(model: nn.Module, windows: torch.Tensor) -> Iterable[list[torch.Tensor]]:
    """For each window, the residual stream (1, L, width) before each block, and after the last."""
    whole = stack(model)
    with at_rest(model):
        for window in windows.split(1):
            states = [whole.embed_tokens(window.to(whole.embed_tokens.weight.device))]
            for block in whole.layers:
                states.append(_Alone(block, whole.rotary_emb)(states[-1]))
            yield states


def influence(before: torch.Tensor, after: torch.Tensor) -> float:
    """Block influence: 1 minus the cosine between the stream before and after (Men et al., 2024).

    Args:
        before, after: (..., width); the mean is over all other dimensions.
    """
    return float(1 - F.cosine_similarity(before, after, dim=-1).mean())


def influences(model: nn.Module, windows: torch.Tensor, length: int = 1) -> list[float]:
    """The :func:`influence` of each ``length`` consecutive blocks, by the number of the first.

    With more than one block, their lowest place is what "The unreasonable ineffectiveness of the
    deeper layers" removes (Gromov et al., 2024; they take the angle of the last token).

    Args:
        windows: token ids (N, L).

    Raises:
        ValueError: ``model`` is not a decoder that is known here, or has fewer blocks.
    """
    count = len(stack(model).layers)
    if not 1 <= length <= count:
        raise ValueError(f"The model has {count} blocks; {length} in a row are not possible.")
    sums = torch.zeros(count - length + 1)
    for states in _streams(model, windows):
        pairs = zip(states, states[length:], strict=False)
        sums += torch.tensor([influence(before, after) for before, after in pairs])
    found: list[float] = (sums / len(windows)).tolist()
    return found


def without_blocks(model: Network, numbers: Iterable[int]) -> Network:
    """A copy of ``model`` without the blocks ``numbers``, counted from 0; the rest move up.

    Raises:
        ValueError: ``model`` is not a decoder that is known here, has no such block, or would keep
            none.
    """
    smaller = copied(model)
    whole = stack(smaller)
    gone = set(numbers)
    if not gone <= set(range(len(whole.layers))) or len(gone) == len(whole.layers):
        raise ValueError(
            f"The model has the blocks 0 to {len(whole.layers) - 1} and keeps at least one; asked "
            f"to remove {sorted(gone)}."
        )
    kept = [block for number, block in enumerate(whole.layers) if number not in gone]
    for number, block in enumerate(kept):
        block.self_attn.layer_idx = number  # its place in the cache of keys and values
    whole.layers = nn.ModuleList(kept)
    _configure(smaller)
    return smaller
