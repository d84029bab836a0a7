"""The dependency graph: which channels of a network can only be removed together.

Removing a channel touches every tensor that it reaches: the filter that writes it, its BatchNorm
numbers, the weights that read it, and the channels that are added to it. To find them, the network
is run once on *labels* instead of numbers (a symbolic trace by torch.fx, then each operation in
turn). A layer that makes new channels gives each a new label; whatever only moves values around
(view, permute, chunk, concatenate, shuffle) moves the labels the same way, because it is executed
on them; whatever joins two channels value by value (an addition, a product) unites their labels;
and a layer that reads channels notes which label each of its inputs has. Labels that are united
are one *channel* of the graph. Channels that are made by the same layers form a *group*, and
pruning chooses among the channels of a group.

The graph refuses what it does not know, and leaves alone what cannot be removed exactly. Lesson 03
builds the idea; the name dependency graph is from DepGraph (Fang et al., 2023).
"""

import copy
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.func import functional_call


class UnknownOperation(ValueError):
    """The network does something that the graph cannot follow; nothing was pruned."""


class Slot(NamedTuple):
    """One dimension of one parameter or buffer, and the channel that each of its places serves."""

    name: str
    dim: int
    channels: torch.Tensor
    reads: bool  # True where the values multiply an input channel, False where they make one


class Group(NamedTuple):
    """Channels to choose among. With a ``reason``, all of them have to stay."""

    name: str
    layers: tuple[str, ...]
    channels: torch.Tensor
    reason: str | None


class Graph(NamedTuple):
    """What :func:`trace` finds out about a network."""

    groups: dict[str, Group]
    slots: list[Slot]
    shape: torch.Size  # of the example input
    steps: list[tuple]  # what was followed, in order, and with which numbers

    @property
    def free(self) -> dict[str, Group]:
        """The groups of which channels can be removed, by name."""
        return {name: group for name, group in self.groups.items() if group.reason is None}

    def __str__(self) -> str:
        lines = []
        for group in self.groups.values():
            joined = f" with {len(group.layers) - 1} more" if len(group.layers) > 1 else ""
            state = group.reason or "free"
            lines.append(f"{group.name}{joined}: {len(group.channels)} channels, {state}")
        return "\n".join(lines)


def trace(model: nn.Module, example: torch.Tensor) -> Graph:
    """The dependency graph of ``model``, found with the shape (not the values) of ``example``.

    Raises:
        UnknownOperation: the network cannot be traced, or holds an operation that the graph does
            not know; the message names the operation and the layer.
    """
    labels = _Labels(model)
    for graph in _symbolic(model):
        labels.follow(graph, example)
    return labels.result(example.shape)


def _symbolic(model: nn.Module) -> list[fx.Graph]:
    """What torch.fx reads in training mode and, where the code differs, in evaluation mode."""
    modes = {module: module.training for module in model.modules()}
    graphs = []
    try:
        for training in (True, False):
            model.train(training)
            graphs.append(_Tracer().trace(copy.copy(model)))  # fx may leave constants on a model
    except Exception as error:
        raise UnknownOperation(f"torch.fx cannot trace {type(model).__name__}: {error}") from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    return graphs[:1] if str(graphs[0]) == str(graphs[1]) else graphs


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        ours = type(module).__module__.partition(".")[0] in ("torchvision", "course_lib")
        return (ours and type(module).__name__ in LAYERS) or super().is_leaf_module(module, name)


class _Labels(fx.Interpreter):
    """Runs a traced network on labels: the value of every tensor is an int64 tensor of its shape.

    The first dimension of every activation is the batch.
    """

    def __init__(self, model: nn.Module):
        super().__init__(model, garbage_collect_values=False, graph=fx.Graph())
        self.extra_traceback = False
        self.tensors = dict(model.named_parameters(remove_duplicate=False))
        self.tensors |= dict(model.named_buffers(remove_duplicate=False))
        self.count = 0  # labels given so far
        self.sources: list[tuple[str, torch.Tensor]] = []  # layers, and the labels they made
        self.united = [torch.empty(2, 0, dtype=torch.int64)]  # pairs of labels
        self.locked: list[tuple[torch.Tensor, str]] = []
        self.slots: dict[tuple[str, int], tuple[torch.Tensor, bool]] = {}
        self.values: dict[str, torch.Tensor] = {}  # parameters used by themselves: their labels
        self.reached: set[str] = set()
        self.steps: list[tuple] = []

    def follow(self, graph: fx.Graph, example: torch.Tensor) -> None:
        """Follow one traced graph; whatever is not foreseen here is a refusal too."""
        self.graph = graph
        try:
            self.run(example)
        except UnknownOperation:
            raise
        except Exception as error:
            raise self.refuse(f"what {self.node.name} does ({error})") from error

    # --- what happens to labels -----------------------------------------------------------------

    def new(self, layer: str, count: int) -> torch.Tensor:
        """Labels of ``count`` channels that ``layer`` makes."""
        labels = self.number(count)
        self.sources.append((layer, labels))
        return labels

    def number(self, count: int) -> torch.Tensor:
        self.count += count
        return torch.arange(self.count - count, self.count)

    def unite(self, a: torch.Tensor, b: torch.Tensor) -> None:
        for dim in range(a.dim()):
            if not a.stride(dim) and not b.stride(dim):  # the same pairs over and over
                a, b = a.narrow(dim, 0, 1), b.narrow(dim, 0, 1)
        self.united.append(torch.stack([a.reshape(-1), b.reshape(-1)]))

    def unite_rows(self, labels: torch.Tensor) -> None:
        self.unite(labels, labels[:, :1].expand_as(labels))

    def lock(self, labels: torch.Tensor, reason: str) -> None:
        self.locked.append((labels.unique(), reason))

    def lock_along(self, x: torch.Tensor, dims: Iterable[int], reason: str) -> None:
        if {dim % x.dim() for dim in dims} & varying(x):
            self.lock(x, reason)

    def slot(self, name: str, dim: int, labels: torch.Tensor, reads: bool = False) -> None:
        """Note that ``labels`` lie along dimension ``dim`` of the parameter or buffer ``name``."""
        if name not in self.tensors:
            if name.endswith("bias"):
                return  # a layer without one
            raise self.refuse(f"a weight that is computed ({name}), as by a parametrization")
        if self.tensors[name].shape[dim] != len(labels):
            raise UnknownOperation(
                f"{name} has the shape {tuple(self.tensors[name].shape)}, but {len(labels)} "
                f"channels lie along its dimension {dim}."
            )
        if (name, dim) in self.slots:  # a layer that is used twice
            self.unite(self.slots[name, dim][0], labels)
        self.slots[name, dim] = labels, reads

    def along(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """The label of each place along ``dim``, where a layer reads its inputs."""
        dim %= x.dim()
        self.lock_along(x, set(range(x.dim())) - {dim}, f"{self.where} mixes what is not channels")
        return first_along(x, dim)

    def refuse(self, what: str) -> UnknownOperation:
        return UnknownOperation(
            f"The dependency graph does not know {what} (in {self.where}), so it cannot tell which "
            "channels go together. Nothing was pruned."
        )

    @property
    def where(self) -> str:
        """The layer that is being followed, or the one whose code holds the operation."""
        if self.node.op == "call_module":
            return self.node.target
        stack = list(self.node.meta.get("nn_module_stack", ()))
        return (stack and stack[-1]) or "the network itself"

    # --- torch.fx calls one of these for every node ---------------------------------------------

    def run_node(self, node: fx.Node) -> Any:
        self.node = node
        return super().run_node(node)

    def placeholder(self, target: str, args: tuple, kwargs: dict) -> torch.Tensor:
        example = super().placeholder(target, args, kwargs)
        if not isinstance(example, torch.Tensor):
            return example
        label = self.number(1)
        self.lock(label, "input of the network")
        return label.expand(example.shape)

    def get_attr(self, target: str, args: tuple, kwargs: dict) -> torch.Tensor:
        self.reached.add(target)
        if target not in self.tensors:
            raise self.refuse(f"the tensor {target}, which is no parameter and no buffer")
        if target not in self.values:
            shape = self.tensors[target].shape
            self.values[target] = self.number(shape.numel()).view(shape)
        return self.values[target]

    def call_module(self, target: str, args: tuple, kwargs: dict) -> Any:
        self.reached.add(target)
        self.steps.append((target,))
        layer = self.fetch_attr(target)
        if layer._forward_hooks or layer._forward_pre_hooks:
            raise self.refuse("a forward hook")
        for kind in type(layer).__mro__:
            if kind.__name__ in LAYERS:
                return LAYERS[kind.__name__](self, layer, *args, **kwargs)
        raise self.refuse(f"the layer {type(layer).__name__}")

    def call_function(self, target: Any, args: tuple, kwargs: dict) -> Any:
        if is_named_tuple(target) or not tensors_in((args, kwargs)):
            result = target(*args, **kwargs)
            if tensors_in(result) and not is_named_tuple(target):
                raise self.refuse(f"a tensor that {target.__name__}() makes from nothing")
            return result
        origin = (getattr(target, "__module__", None) or "torch").partition(".")[0]
        if origin not in ("torch", "torchvision", "_operator", "builtins", "math"):
            raise self.refuse(f"the function {target.__name__}() of {target.__module__}")
        return self.operation(target.__name__, target, args, kwargs)

    def call_method(self, target: str, args: tuple, kwargs: dict) -> Any:
        return self.operation(target, getattr(torch.Tensor, target), args, kwargs)

    def operation(self, name: str, run: Any, args: tuple, kwargs: dict) -> Any:
        name = name if name.startswith("_") else name.rstrip("_")  # relu_ is relu in place
        if name in QUESTIONS:
            return run(*args, **kwargs)
        if name not in OPERATIONS:
            raise self.refuse(f"the operation {name}()")
        rule = OPERATIONS[name]
        moves = rule in (_move, _reshape, _chunk, _split, _index)  # sizes; others calculate
        self.steps.append((name, *([] if moves else numbers_in((args, kwargs)))))
        return rule(self, run, *args, **kwargs)

    def output(self, target: str, args: tuple, kwargs: dict) -> None:
        self.steps.append(("output", *numbers_in(args)))
        for labels in tensors_in(args):
            self.lock(labels, "output of the network")

    # --- the result -----------------------------------------------------------------------------

    def result(self, shape: torch.Size) -> Graph:
        """Turn labels into channels and groups, once the whole network has been followed."""
        self._check_all_reached()
        channel = _components(self.count, self.united)
        slots = [
            Slot(name, dim, channel[labels], reads)
            for (name, dim), (labels, reads) in self.slots.items()
        ]
        for name, labels in self.values.items():
            dims = varying(channel[labels])
            if len(dims) > 1:
                self.lock(labels, f"{name} is used as a whole")
            slots += [Slot(name, dim, first_along(channel[labels], dim), False) for dim in dims]
        return Graph(self._groups(channel), slots, shape, self.steps)

    def _groups(self, channel: torch.Tensor) -> dict[str, Group]:
        reasons: dict[int, str] = {}
        for labels, reason in self.locked:
            reasons = dict.fromkeys(channel[labels].unique().tolist(), reason) | reasons
        alike = [torch.stack([made, made[:1].expand_as(made)]) for _, made in self.sources]
        group_of = _components(self.count, self.united + alike)
        members: dict[int, dict[str, None]] = {}
        for layer, made in self.sources:
            members.setdefault(int(group_of[made[0]]), {})[layer] = None
        groups = {}
        for root, layers in members.items():
            channels = channel[group_of == root].unique()
            reason = "its channels cannot be told apart" if len(channels) == 1 else None
            reason = next((reasons[one] for one in channels.tolist() if one in reasons), reason)
            groups[next(iter(layers))] = Group(next(iter(layers)), tuple(layers), channels, reason)
        return groups

    def _check_all_reached(self) -> None:
        if len({id(tensor) for tensor in self.tensors.values()}) < len(self.tensors):
            raise UnknownOperation("Two layers share a parameter. Nothing was pruned.")
        for name, _ in self.module.named_parameters():
            parts = name.split(".")
            if not self.reached & {".".join(parts[:end]) for end in range(1, len(parts) + 1)}:
                raise UnknownOperation(
                    f"The forward pass never uses {name}, so the graph cannot tell what it reads. "
                    "Take it out of the network. Nothing was pruned."
                )


def _components(count: int, pairs: list[torch.Tensor]) -> torch.Tensor:
    """For each of ``count`` labels the smallest label that it is united with, (count,)."""
    lowest = torch.arange(count)
    a, b = torch.cat([pair for two in pairs for pair in (two, two.flip(0))], dim=1)
    while True:
        lower = lowest.scatter_reduce(0, a, lowest[b], "amin")
        lower = lower[lower]
        if torch.equal(lower, lowest):
            return lowest
        lowest = lower


# --- small questions about labels ---------------------------------------------------------------


def varying(labels: torch.Tensor) -> set[int]:
    """The dimensions along which labels differ."""
    return {
        dim
        for dim in range(labels.dim())
        if labels.stride(dim)
        and not torch.equal(labels, labels.narrow(dim, 0, 1).expand_as(labels))
    }


def first_along(labels: torch.Tensor, dim: int) -> torch.Tensor:
    """The labels along dimension ``dim``, at the first place of all others."""
    return labels[tuple(slice(None) if one == dim else 0 for one in range(labels.dim()))]


def leaves(value: Any) -> Iterator[Any]:
    """What nested tuples, lists and dictionaries hold."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, tuple | list):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def tensors_in(value: Any) -> list[torch.Tensor]:
    """All tensors that ``value`` holds."""
    return [leaf for leaf in leaves(value) if isinstance(leaf, torch.Tensor)]


def numbers_in(value: Any) -> list[float]:
    """All numbers that ``value`` holds."""
    return [leaf for leaf in leaves(value) if isinstance(leaf, int | float)]


def is_named_tuple(target: Any) -> bool:
    """Whether calling ``target`` only puts values side by side."""
    return isinstance(target, type) and issubclass(target, tuple)


def spread(channels: torch.Tensor, shape: torch.Size, dim: int) -> torch.Tensor:
    """``channels`` laid along dimension ``dim`` of an activation of this ``shape``."""
    ones = [1] * len(shape)
    ones[dim] = -1
    return channels.view(ones).expand(shape)


# --- rules --------------------------------------------------------------------------------------
# One for each kind of layer or operation, called with the labels that arrive; returns the labels
# that leave. ``op`` is the layer or the operation itself; ``run.where`` names it.


def _convolution(run: _Labels, op: nn.Module, x: torch.Tensor) -> torch.Tensor:
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


def _linear(run: _Labels, op: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    run.slot(f"{run.where}.weight", 1, run.along(x, -1), reads=True)
    return _new_features(run, run.where, x)


def _new_features(run: _Labels, name: str, x: torch.Tensor) -> torch.Tensor:
    """What the linear layer ``name`` makes: along the last dimension."""
    outputs = run.new(name, len(run.tensors[f"{name}.weight"]))
    run.slot(f"{name}.weight", 0, outputs)
    run.slot(f"{name}.bias", 0, outputs)
    return spread(outputs, x.shape[:-1] + outputs.shape, x.dim() - 1)


def _per_channel(run: _Labels, op: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Every channel has its own numbers and sees no other: BatchNorm, InstanceNorm, PReLU."""
    channels = run.along(x, 1)
    for own in ("weight", "bias", "running_mean", "running_var"):
        tensor = getattr(op, own, None)
        if tensor is not None and tensor.numel() == len(channels):
            run.slot(f"{run.where}.{own}", 0, channels)
    return x


def _group_norm(run: _Labels, op: nn.GroupNorm, x: torch.Tensor) -> torch.Tensor:
    """The channels of one group share a mean and a variance: they stay or go together."""
    run.unite_rows(run.along(x, 1).view(op.num_groups, -1))
    if not op.affine:
        run.lock(x, "GroupNorm without weights does not know how many there are")
    return _per_channel(run, op, x)


def _layer_norm(run: _Labels, op: Any, x: torch.Tensor, shape: Any = (), **_: Any) -> torch.Tensor:
    count = len(getattr(op, "normalized_shape", shape))
    run.lock_along(x, range(-count, 0), f"LayerNorm ({run.where}) normalises them together")
    return x


def _attention(
    run: _Labels, op: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **others
) -> tuple[torch.Tensor, None]:
    """A head is a channel of the inside: its rows of q, k and v, its columns of the output."""
    special = getattr(op, "bias_k", None) is not None or getattr(op, "add_zero_attn", False)
    # The result is a pair: (0,) takes the output, (1,) the weights.
    users = [user for user in run.node.users if user.users or user.op == "output"]
    used = {user.args[1:] for user in users}
    if op.in_proj_weight is None or special or others.keys() - {"need_weights"} or used - {(0,)}:
        raise run.refuse("attention with masks, extra keys, unlike inputs, or its weights used")
    name = run.where
    for x in (query, key, value):
        run.slot(f"{name}.in_proj_weight", 1, run.along(x, -1), reads=True)
    heads = run.new(f"{name}.heads", op.num_heads).repeat_interleave(op.head_dim)
    run.slot(f"{name}.in_proj_weight", 0, heads.repeat(3))
    run.slot(f"{name}.in_proj_bias", 0, heads.repeat(3))
    run.slot(f"{name}.out_proj.weight", 1, heads, reads=True)
    return _new_features(run, f"{name}.out_proj", query), None


def _window_attention(run: _Labels, op: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Swin's and MaxViT's attention: a head is as wide as the block divided by the heads."""
    run.lock(x, f"{type(op).__name__} fixes the width of its heads")
    return x


def _channel_shuffle(run: _Labels, op: nn.ChannelShuffle, x: torch.Tensor) -> torch.Tensor:
    columns = run.along(x, 1).view(op.groups, -1).t()
    run.unite_rows(columns)
    return spread(columns.reshape(-1), x.shape, 1)


def _elementwise(run: _Labels, op: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Values that meet in one place belong together."""
    operands = sorted(tensors_in((args, kwargs)), key=torch.numel, reverse=True)
    whole, *others = torch.broadcast_tensors(*operands)
    for other in others:
        if varying(whole) - varying(other):
            run.lock(other, f"{run.where} uses one of them for many channels")
        else:
            run.unite(whole, other)
    return whole


def _move(run: _Labels, op: Any, *args: Any, **kwargs: Any) -> Any:
    """Values are only moved: move the labels."""
    return op(*args, **kwargs)


def _reshape(run: _Labels, op: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """A size that is written in the code stays, so what lies along it stays or goes together."""
    out = x.reshape(*args, **kwargs)
    sizes = (*run.node.args[1:], *run.node.kwargs.values())
    sizes = sizes[0] if isinstance(sizes[0], tuple | list) else sizes
    dims = varying(out)
    for dim in dims & {dim for dim, size in enumerate(sizes) if isinstance(size, int) and size > 0}:
        if len(dims) == 1:
            run.lock(out, f"{run.where} reshapes them to a fixed size")
        run.unite(out, out.narrow(dim, 0, 1).expand_as(out))
    return out


def _chunk(run: _Labels, op: Any, x: torch.Tensor, chunks: int, dim: int = 0) -> tuple:
    """Equal parts have to stay equal, so the channels at one place of each part go together."""
    parts = op(x, chunks, dim)
    if dim % x.dim() in varying(x):
        if len({part.shape for part in parts}) > 1:
            run.lock(x, f"{run.where} cuts them into unequal parts")
        else:
            run.unite(torch.stack(parts), parts[0].expand(len(parts), *parts[0].shape))
    return parts


def _split(run: _Labels, op: Any, x: torch.Tensor, size: Any, dim: int = 0) -> tuple:
    if isinstance(run.node.args[1], fx.Node):  # computed from the input: equal parts
        return _chunk(run, torch.split, x, size, dim)
    run.lock_along(x, [dim], f"{run.where} splits them at fixed places")
    return op(x, size, dim)


def _index(run: _Labels, op: Any, x: Any, index: Any) -> Any:
    items = index if isinstance(index, tuple) else (index,)
    if not all(item is None or isinstance(item, int | slice | type(...)) for item in items):
        raise run.refuse("indexing by a list or a tensor")
    out = op(x, index)
    if isinstance(x, torch.Tensor) and len(out.unique()) < len(x.unique()):
        run.lock(x, f"{run.where} takes some of them by number")
    return out


def _reduce(
    run: _Labels, op: Any, x: torch.Tensor, dim: Any = None, keepdim: bool = False, **_: Any
) -> torch.Tensor:
    dims = range(x.dim()) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    run.lock_along(x, dims, f"{run.where} adds them up")
    return x.amin(dim=tuple(dims), keepdim=keepdim)


def _softmax(run: _Labels, op: Any, x: torch.Tensor, dim: Any = None, **_: Any) -> torch.Tensor:
    run.lock_along(x, [getattr(op, "dim", dim)], "softmax compares them")
    return x


def _pool(run: _Labels, op: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Neighbours in the picture are joined, channels are not."""
    run.lock_along(x, range(2, x.dim()), f"{run.where} pools across them")
    return _resize(run, op, x, *args, **kwargs)


def _resize(run: _Labels, op: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """The picture becomes larger or smaller."""
    shape = _shape_of_result(op, x, *args, **kwargs)
    changed = {dim for dim in range(x.dim()) if shape[dim] != x.shape[dim]}
    if changed & varying(x):
        raise run.refuse("padding or resizing along the channels")
    for dim in changed:
        x = x.narrow(dim, 0, 1)
    return x.expand(shape)


def _shape_of_result(op: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Size:
    """The shape that the layer or function ``op`` gives to ``x``, without computing a number."""
    if not isinstance(op, nn.Module):
        return op(torch.empty(x.shape, device="meta"), *args, **kwargs).shape
    state = {name: value.to("meta", torch.float32) for name, value in op.state_dict().items()}
    return functional_call(op, state, (torch.empty(x.shape, device="meta"),)).shape


def _table(text: str, rule: Any) -> dict[str, Any]:
    return dict.fromkeys(text.split(), rule)


LAYERS = {
    "_ConvNd": _convolution,
    "Linear": _linear,
    "GroupNorm": _group_norm,
    "ChannelShuffle": _channel_shuffle,
    "Flatten": _move,
    **_table("LayerNorm RMSNorm", _layer_norm),
    **_table("_NormBase PReLU", _per_channel),
    **_table("MultiheadAttention SelfAttention", _attention),
    **_table("ShiftedWindowAttention ShiftedWindowAttentionV2", _window_attention),
    **_table("RelativePositionalMultiHeadAttention", _window_attention),
    **_table("Softmax LogSoftmax", _softmax),
    **_table("AvgPool1d AvgPool2d AvgPool3d MaxPool1d MaxPool2d MaxPool3d", _pool),
    **_table("AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveMaxPool2d Upsample", _pool),
    **_table("CELU ELU GELU Hardsigmoid Hardswish Hardtanh Identity LeakyReLU Mish", _elementwise),
    **_table("ReLU ReLU6 SELU SiLU Sigmoid Softplus Softsign Tanh", _elementwise),
    **_table("Dropout Dropout1d Dropout2d Dropout3d AlphaDropout", _elementwise),
}

OPERATIONS = {
    **_table("add sub mul div truediv pow neg abs exp sqrt iadd isub imul itruediv", _elementwise),
    **_table("maximum minimum clamp contiguous clone detach to float double", _elementwise),
    **_table("relu relu6 leaky_relu elu gelu silu hardswish hardsigmoid hardtanh", _elementwise),
    **_table("sigmoid tanh softplus mish dropout dropout2d stochastic_depth", _elementwise),
    **_table("flatten permute transpose swapaxes movedim squeeze unsqueeze cat stack", _move),
    **_table("expand roll flip _patch_merging_pad", _move),
    **_table("view reshape", _reshape),
    **_table("mean sum amax", _reduce),
    **_table("max_pool1d max_pool2d avg_pool1d avg_pool2d", _pool),
    **_table("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d", _pool),
    **_table("pad interpolate", _resize),
    "chunk": _chunk,
    "split": _split,
    "getitem": _index,
    "softmax": _softmax,
    "layer_norm": _layer_norm,
}

#: Questions about the shape, answered by the labels themselves.
QUESTIONS = {"size", "dim", "getattr", "numel", "len"}
