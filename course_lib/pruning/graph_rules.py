"""What each layer and each operation does to the labels of channels: the rules of the graph.

A rule is called with the labels that arrive and returns those that leave, see
:mod:`course_lib.pruning.graph`. ``run`` collects what is united, locked, made and read. ``op`` is
the layer or the operation itself. What is in none of the tables below is refused.
"""

import operator
import re
from typing import Any

import torch
from torch import fx, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map_only

from course_lib.pruning.following import Args, Follower, Parts, Rule


def varying(labels: torch.Tensor) -> set[int]:
    """The dimensions along which labels, of any shape, differ."""
    return {
        dim
        for dim in range(labels.dim())
        if labels.stride(dim)
        and not torch.equal(labels, labels.narrow(dim, 0, 1).expand_as(labels))
    }


def compact(labels: torch.Tensor) -> torch.Tensor:
    """The same labels, of any shape, without the repetitions of ``expand``."""
    for dim in range(labels.dim()):
        labels = labels if labels.stride(dim) else labels.narrow(dim, 0, 1)
    return labels


def first_along(labels: torch.Tensor, dim: int) -> torch.Tensor:
    """The labels (n,) along dimension ``dim`` of size n, at the first place of all others."""
    return labels[tuple(slice(None) if one == dim else 0 for one in range(labels.dim()))]


def held(value: Any, kind: Any = torch.Tensor) -> list[Any]:
    """Everything of this ``kind`` in nested tuples, lists, dictionaries and slices."""
    leaves = tree_leaves(tree_map_only(slice, lambda x: (x.start, x.stop, x.step), value))
    return [leaf for leaf in leaves if isinstance(leaf, kind)]


def fixed_sizes(value: Any) -> list[int | None]:
    """The sizes of all tensors in ``value``; None where channels lie along the dimension."""
    return [
        None if dim in varying(labels) else labels.shape[dim]
        for labels in held(value)
        for dim in range(labels.dim())
    ]


def spread(channels: torch.Tensor, shape: torch.Size, dim: int) -> torch.Tensor:
    """``channels`` laid along dimension ``dim`` of an activation of this ``shape``."""
    ones = [1] * len(shape)
    ones[dim] = -1
    return channels.view(ones).expand(shape)


# --- the rules ----------------------------------------------------------------------------------


def _convolution(run: Follower, op: nn.modules.conv._ConvNd, x: torch.Tensor) -> torch.Tensor:
    """An output reads all channels of the input, or those of its group."""
    name, inputs, outputs = run.where, run.along(x, 1), run.new(run.where, op.out_channels)
    if op.groups == 1:
        run.slot(f"{name}.weight", 0 if op.transposed else 1, inputs, reads=True)
        run.slot(f"{name}.weight", 1 if op.transposed else 0, outputs)
    else:  # a group can only go as a whole, with what it reads (depthwise: one in, one out)
        parts = [labels.view(op.groups, -1) for labels in (inputs, outputs)]
        run.unite_rows(torch.cat(parts, dim=1))
        run.slot(f"{name}.weight", 0, inputs if op.transposed else outputs)
    run.slot(f"{name}.bias", 0, outputs)
    return spread(outputs, _shape_of_result(op, x), 1)


def _linear(run: Follower, op: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    run.slot(f"{run.where}.weight", 1, run.along(x, -1), reads=True)
    return _new_features(run, run.where, x)


def _new_features(run: Follower, name: str, x: torch.Tensor) -> torch.Tensor:
    """What the linear layer ``name`` makes: along the last dimension."""
    outputs = run.new(name, len(run.tensors[f"{name}.weight"]))
    run.slot(f"{name}.weight", 0, outputs)
    run.slot(f"{name}.bias", 0, outputs)
    return spread(outputs, x.shape[:-1] + outputs.shape, x.dim() - 1)


def _per_channel(run: Follower, op: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Every channel has its own numbers and sees no other: BatchNorm, InstanceNorm, PReLU."""
    if isinstance(op, nn.modules.instancenorm._InstanceNorm):
        run.lock_along(x, _picture(op), f"{run.where} normalises across them")
    channels = run.along(x, 1)
    for own in ("weight", "bias", "running_mean", "running_var"):
        tensor = getattr(op, own, None)
        if tensor is not None and tensor.numel() == len(channels):
            run.slot(f"{run.where}.{own}", 0, channels)
    return x


def _group_norm(run: Follower, op: nn.GroupNorm, x: torch.Tensor) -> torch.Tensor:
    """The channels of one group share a mean and a variance: they stay or go together."""
    run.unite_rows(run.along(x, 1).view(op.num_groups, -1))
    if not op.affine:
        run.lock(x, "GroupNorm without weights does not know how many there are")
    return _per_channel(run, op, x)


def _layer_norm(run: Follower, op: Any, x: torch.Tensor, shape: Any = (), **_: Any) -> torch.Tensor:
    count = len(getattr(op, "normalized_shape", shape))
    run.lock_along(x, range(-count, 0), f"LayerNorm ({run.where}) normalises them together")
    return x


def _attention(
    run: Follower, op: Any, query: Any, key: Any, value: Any, *others: Any, **named: Any
) -> tuple[torch.Tensor, None]:
    """A head is an inner channel: its rows of q, k and v, its columns of the output."""
    special = getattr(op, "bias_k", None) is not None or getattr(op, "add_zero_attn", False)
    special |= bool(held([others, named])) or True in [*others[4:], named.get("is_causal")]
    # The result is a pair: (0,) takes the output, (1,) the weights.
    users = [user for user in run.node.users if user.users or user.op == "output"]
    used = {user.args[1:] for user in users}
    if op.in_proj_weight is None or special or used - {(0,)}:
        raise run.refuse("attention with masks, extra keys, unlike inputs, or its weights used")
    name = run.where
    for x in (query, key, value):
        run.slot(f"{name}.in_proj_weight", 1, run.along(x, -1), reads=True)
    heads = run.new(f"{name}.heads", op.num_heads).repeat_interleave(op.head_dim)
    run.slot(f"{name}.in_proj_weight", 0, heads.repeat(3))
    run.slot(f"{name}.in_proj_bias", 0, heads.repeat(3))
    run.slot(f"{name}.out_proj.weight", 1, heads, reads=True)
    return _new_features(run, f"{name}.out_proj", query), None


def _window_attention(run: Follower, op: nn.Module, x: torch.Tensor, *_: Any) -> torch.Tensor:
    """Swin's and MaxViT's attention: a head is as wide as the block divided by the heads."""
    run.lock(x, f"{type(op).__name__} fixes the width of its heads")
    return x


def _channel_shuffle(run: Follower, op: nn.ChannelShuffle, x: torch.Tensor) -> torch.Tensor:
    columns = run.along(x, 1).view(op.groups, -1).t()
    run.unite_rows(columns)
    return spread(columns.reshape(-1), x.shape, 1)


def _elementwise(run: Follower, op: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Values that meet in one place belong together."""
    operands = sorted(held((args, kwargs)), key=lambda x: (-len(varying(x)), -x.numel()))
    parts: Parts = torch.broadcast_tensors(*operands)
    whole, *others = parts
    for own, other in zip(operands[1:], others, strict=True):
        alone = varying(whole) - varying(other)  # here one label of the other meets many
        sizes = {dim: own.shape[dim - whole.dim() :][:1] for dim in alone}
        if alone and all(size in ((), (1,)) for size in sizes.values()):
            run.lock(other, f"{run.where} uses one of them for many channels")
        else:
            run.unite(whole, other)
    return whole


def _move(run: Follower, op: Any, *args: Any, **kwargs: Any) -> Any:
    """Values are only moved: move the labels."""
    return op(*args, **kwargs)


def _reshape(run: Follower, op: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """A size that is written in the code stays, so what lies along it stays or goes together."""
    out = x.reshape(*args, **kwargs)
    sizes: Args = (*run.node.args[1:], *run.node.kwargs.values())
    sizes = tuple(sizes[0]) if isinstance(sizes[0], tuple | list) else sizes
    dims = varying(out)
    for dim in dims & {dim for dim, size in enumerate(sizes) if isinstance(size, int) and size > 0}:
        if len(dims) == 1:
            run.lock(out, f"{run.where} reshapes them to a fixed size")
        run.unite(out, out.narrow(dim, 0, 1).expand_as(out))
    return out


def _chunk(run: Follower, op: Any, x: torch.Tensor, chunks: int, dim: int = 0) -> Parts:
    """Equal parts have to stay equal, so the channels at one place of each part go together."""
    parts: Parts = op(x, chunks, dim)
    if dim % x.dim() in varying(x):
        if len({part.shape for part in parts}) > 1:
            run.lock(x, f"{run.where} cuts them into unequal parts")
        else:
            run.unite(torch.stack(parts), parts[0].expand(len(parts), *parts[0].shape))
    return parts


def _split(run: Follower, op: Any, x: torch.Tensor, size: Any, dim: int = 0) -> Parts:
    if isinstance(run.node.args[1], fx.Node):  # computed from the input: equal parts
        return _chunk(run, torch.split, x, size, dim)
    run.lock_along(x, [dim], f"{run.where} splits them at fixed places")
    parts: Parts = op(x, size, dim)
    return parts


def _index(run: Follower, op: Any, x: Any, index: Any) -> Any:
    items = index if isinstance(index, tuple) else (index,)
    if not all(item is None or isinstance(item, int | slice | type(...)) for item in items):
        return _whole(run, op, x, index)
    out = op(x, index)
    if isinstance(x, torch.Tensor) and len(compact(out).unique()) < len(compact(x).unique()):
        run.lock(x, f"{run.where} takes some of them by number")
    return out


def _reduce(
    run: Follower, op: Any, x: torch.Tensor, dim: Any = None, keepdim: bool = False, **_: Any
) -> torch.Tensor:
    dims = range(x.dim()) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    run.lock_along(x, dims, f"{run.where} adds them up")
    return x.amin(dim=tuple(dims), keepdim=keepdim)


def _unbind(run: Follower, op: Any, x: torch.Tensor, dim: int = 0) -> list[torch.Tensor]:
    """Parts of size one, without their dimension."""
    return [part.squeeze(dim) for part in _chunk(run, torch.chunk, x, x.shape[dim], dim)]


def _matmul(run: Follower, op: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Channels that a product of activations sums over stay: no weight reads them."""
    run.lock_along(a, [-1], "a product of activations adds them up")
    run.lock_along(b, [-2], "a product of activations adds them up")
    return _elementwise(run, op, a.narrow(-1, 0, 1), b.narrow(-2, 0, 1))


def _whole(run: Follower, op: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    """All that enters or leaves stays, so it is exact whatever happens in between."""
    reason = f"{run.where} uses them as a whole, in {op.__name__}()"
    for labels in held((args, kwargs)):
        run.lock(labels, reason)
    dtype = torch.int64 if op is operator.getitem else torch.float32
    args, kwargs = tree_map_only(torch.Tensor, lambda x: x.to("meta", dtype), (args, kwargs))
    return run.fixed(op(*args, **kwargs).shape, reason)


def _attend(
    run: Follower, op: Any, q: Any, k: Any, v: Any, mask: Any = None, *_: Any, **__: Any
) -> torch.Tensor:
    """Attention without weights of its own: two products."""
    scores = _matmul(run, op, q, k.transpose(-2, -1))
    return _matmul(run, op, scores if mask is None else _elementwise(run, op, scores, mask), v)


def _softmax(run: Follower, op: Any, x: torch.Tensor, dim: Any = None, **_: Any) -> torch.Tensor:
    run.lock_along(x, [getattr(op, "dim", dim)], "softmax compares them")
    return x


def _pool(run: Follower, op: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Pools over places of the picture, not over channels."""
    run.lock_along(x, _picture(op), f"{run.where} pools across them")
    return _resize(run, op, x, *args, **kwargs)


def _picture(op: Any) -> range:
    """The dimensions that a layer or function whose name ends in 1d, 2d or 3d works across."""
    return range(-int(re.findall(r"(\d)d", getattr(op, "__name__", type(op).__name__))[0]), 0)


def _resize(run: Follower, op: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """The picture becomes larger or smaller."""
    shape = _shape_of_result(op, x, *args, **kwargs)
    changed = {dim for dim in range(x.dim()) if shape[dim] != x.shape[dim]}
    if changed & varying(x):
        raise run.refuse("padding or resizing along the channels")
    for dim in changed:
        x = x.narrow(dim, 0, 1)
    return x.expand(shape)


def _shape_of_result(op: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Size:
    """The shape of what the layer or function ``op`` makes of ``x``, without computing it."""
    if not isinstance(op, nn.Module):
        return torch.Size(op(torch.empty(x.shape, device="meta"), *args, **kwargs).shape)
    state = {name: value.to("meta", torch.float32) for name, value in op.state_dict().items()}
    return torch.Size(functional_call(op, state, (torch.empty(x.shape, device="meta"),)).shape)


def _table(text: str, rule: Rule) -> dict[str, Rule]:
    return dict.fromkeys(text.split(), rule)


LAYERS: dict[str, Rule] = {
    **_table("_ConvNd Conv2dSame", _convolution),
    "Linear": _linear,
    "GroupNorm": _group_norm,
    "Upsample": _resize,
    "ChannelShuffle": _channel_shuffle,
    "Flatten": _move,
    **_table("LayerNorm RMSNorm", _layer_norm),
    **_table("_NormBase PReLU FrozenBatchNorm2d BatchNormAct2d", _per_channel),
    **_table("MultiheadAttention SelfAttention", _attention),
    **_table("ShiftedWindowAttention ShiftedWindowAttentionV2 WindowAttention", _window_attention),
    **_table("RelativePositionalMultiHeadAttention", _window_attention),
    **_table("Softmax LogSoftmax", _softmax),
    **_table("AvgPool1d AvgPool2d AvgPool3d MaxPool1d MaxPool2d MaxPool3d", _pool),
    **_table("AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveMaxPool2d", _pool),
    **_table("CELU ELU GELU Hardsigmoid Hardswish Hardtanh Identity LeakyReLU Mish", _elementwise),
    **_table("ReLU ReLU6 SELU SiLU Sigmoid Softplus Softsign Tanh", _elementwise),
    **_table("Dropout Dropout1d Dropout2d Dropout3d AlphaDropout DropPath", _elementwise),
}

OPERATIONS: dict[str, Rule] = {
    **_table("add sub mul div truediv pow neg abs exp sqrt iadd isub imul itruediv", _elementwise),
    **_table("addcmul square maximum minimum clamp contiguous clone detach to float", _elementwise),
    **_table("relu relu6 leaky_relu elu gelu silu hardswish hardsigmoid hardtanh", _elementwise),
    **_table("double sigmoid tanh softplus mish dropout dropout2d stochastic_depth", _elementwise),
    **_table("flatten permute transpose swapaxes movedim squeeze unsqueeze cat stack", _move),
    **_table("expand expand_as reshape_as view_as roll flip _patch_merging_pad", _move),
    **_table("view reshape", _reshape),
    **_table("mean sum amax", _reduce),
    **_table("max_pool1d max_pool2d avg_pool1d avg_pool2d", _pool),
    **_table("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d", _pool),
    **_table("pad interpolate", _resize),
    **_table("linear conv1d conv2d einsum group_norm batch_norm normalize norm repeat", _whole),
    "repeat_interleave": _whole,
    "matmul": _matmul,
    "scaled_dot_product_attention": _attend,
    "unbind": _unbind,
    "chunk": _chunk,
    "split": _split,
    "getitem": _index,
    "softmax": _softmax,
    "layer_norm": _layer_norm,
}

#: NumPy's names of some arguments, which torch accepts too.
NUMPY_NAMES = {"axis": "dim", "keepdims": "keepdim", "x": "input", "a": "input"}

#: Questions about the shape, answered by the labels themselves.
QUESTIONS = {"size", "dim", "getattr", "numel", "len"}

#: Operations that take sizes, which may change with the channels; numbers in all others are
#: values or positions, which may not.
TOLD_SIZES = {"view", "reshape", "expand", "chunk", "split"}
