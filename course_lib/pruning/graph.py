"""The dependency graph: which channels of a network can only be removed together.

Removing a channel touches every tensor that it reaches: the filter that writes it, its BatchNorm
numbers, the weights that read it, and the channels that are added to it. To find them, the network
is run once on *labels* instead of numbers (a symbolic trace by torch.fx, then each operation in
turn). A layer that makes new channels gives each a new label; whatever only moves values around
(view, permute, chunk, concatenate, shuffle) moves the labels the same way, because it is executed
on them; whatever joins two channels value by value (an addition, a product) unites their labels;
and a layer that reads channels notes which label each of its inputs has. Labels that are united
are one *channel*. Channels made by the same layers form a *group*; pruning chooses among these.

The graph refuses what it does not know, and leaves alone what cannot be removed exactly. Lesson 03
builds the idea; the name dependency graph is from DepGraph (Fang et al., 2023).
"""

import copy
import inspect
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import fx, nn
from torch.fx.node import Target

from course_lib.pruning import graph_rules as rules
from course_lib.pruning.following import Args, Named, Step
from course_lib.pruning.layers import changed, overridden


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


class Provenance(NamedTuple):
    """How a graph was found; for a smaller network it must be the same, with fewer labels."""

    steps: list[Step]  # what was done, in order, and with which numbers (None: may change)
    labels: dict[tuple[str, int], torch.Tensor]  # along a dimension of a parameter or buffer
    total: int  # of labels
    united: torch.Tensor  # in which step, and which two labels, (3, pairs)
    locked: torch.Tensor


class Graph(NamedTuple):
    """What :func:`trace` finds out about a network."""

    groups: dict[str, Group]
    slots: list[Slot]
    shapes: tuple[torch.Size, ...]  # of the example inputs
    provenance: Provenance

    @property
    def free(self) -> dict[str, Group]:
        """The groups whose channels can be removed, by name."""
        return {name: group for name, group in self.groups.items() if group.reason is None}

    def __str__(self) -> str:
        lines = []
        for group in self.groups.values():
            joined = f" with {len(group.layers) - 1} more" if len(group.layers) > 1 else ""
            about = f"{len(group.channels)} channels, {group.reason or 'free'}"
            lines.append(f"{group.name}{joined}: {about}")
        return "\n".join(lines)


def trace(model: nn.Module, example: torch.Tensor | tuple[torch.Tensor, ...]) -> Graph:
    """The dependency graph of ``model``, found with the shape (not the values) of ``example``.

    Args:
        example: the input; a tuple if there are several.

    Raises:
        UnknownOperation: the network cannot be traced, or holds an operation that the graph does
            not know; the message names the operation and the layer.
    """
    for name, layer in model.named_modules():
        if why := changed(layer):
            raise UnknownOperation(f"{name or type(layer).__name__}: {why}. Nothing was pruned.")
    examples, labels = example if isinstance(example, tuple) else (example,), Labels(model)
    for graph in _symbolic(model):
        labels.follow(graph, examples)
    return labels.result(tuple(each.shape for each in examples))


def _symbolic(model: nn.Module) -> list[fx.Graph]:
    """What torch.fx reads in training mode and, where the code differs, in evaluation mode."""
    modes = {module: module.training for module in model.modules()}
    graphs, tracer = [], _Tracer()
    try:
        for training in (True, False):
            model.train(training)
            graphs.append(tracer.trace(copy.copy(model)))  # fx may leave constants on a model
    except Exception as error:
        place, _ = next(reversed(tracer.module_stack.values()), (type(model).__name__, None))
        raise UnknownOperation(
            f"torch.fx cannot trace what {place} does: {str(error).split('. ')[0]}. Nothing was "
            "pruned; a part of it, such as the backbone of a detector, can be pruned by itself."
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    return graphs[:1] if str(graphs[0]) == str(graphs[1]) else graphs


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True  # a value made from a buffer is not a constant

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        known = type(module).__module__.partition(".")[0] in ("torchvision", "timm", "course_lib")
        leaf = known and type(module).__name__ in rules.LAYERS
        return leaf or super().is_leaf_module(module, name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return (_Chunks if node.target in ("chunk", torch.chunk) else fx.Proxy)(node, self)


class _Chunks(fx.Proxy):
    """The parts of a tensor; for a ``list`` of them, fx would have to know how many there are."""

    def __len__(self) -> int:
        return cast(int, (*self.node.args[1:2], self.node.kwargs.get("chunks"))[0])

    def __iter__(self) -> Iterator[fx.Proxy]:
        return (self[part] for part in range(len(self)))  # type: ignore[index]  # fx adds it late


class Labels(fx.Interpreter):
    """Runs a traced network on labels: the value of every tensor is an int64 tensor of its shape.

    The first dimension of every activation is the batch.
    """

    def __init__(self, model: nn.Module):
        super().__init__(model, garbage_collect_values=False, graph=fx.Graph())
        self.extra_traceback = False
        self.tensors: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
        self.tensors |= dict(model.named_buffers(remove_duplicate=False))
        self.count = 0  # labels given so far
        self.sources: list[tuple[str, torch.Tensor]] = []  # layers, and the labels they made
        self.united = [torch.empty(3, 0, dtype=torch.int64)]  # in which step, and which two labels
        self.locked: list[tuple[torch.Tensor, str]] = []
        self.slots: dict[tuple[str, int], tuple[torch.Tensor, bool]] = {}
        self.values: dict[str, torch.Tensor] = {}  # parameters used by themselves: their labels
        self.reached: set[str] = set()
        self.steps: list[Step] = []

    def follow(self, graph: fx.Graph, examples: tuple[torch.Tensor, ...]) -> None:
        """Follow one traced graph; an error that was not foreseen is a refusal too.

        Raises:
            UnknownOperation: the examples do not fit, or an operation cannot be followed.
        """
        self.graph = graph
        inputs = [node for node in graph.nodes if node.op == "placeholder"]
        needed = [node.target for node in inputs if not node.args]
        if not len(needed) <= len(examples) <= len(inputs):
            raise UnknownOperation(
                f"The network takes the inputs {', '.join(needed)}; the example has "
                f"{len(examples)}. Give a tuple with one tensor for each. Nothing was pruned."
            )
        try:
            self.run(*examples)
        except Exception as error:
            if isinstance(error, UnknownOperation):
                raise
            raise self.refuse(f"what {self.node.name} does ({error})") from error

    def new(self, layer: str, count: int) -> torch.Tensor:
        """Labels (count,) of the channels that ``layer`` makes."""
        labels = self.number(count)
        self.sources.append((layer, labels))
        return labels

    def number(self, count: int) -> torch.Tensor:
        """Labels (count,) that no other value has."""
        self.count += count
        return torch.arange(self.count - count, self.count)

    def fixed(self, shape: torch.Size, reason: str) -> torch.Tensor:
        """Labels of that ``shape`` for values that are not channels of a layer and have to stay."""
        label = self.number(1)
        self.lock(label, reason)
        return label.expand(shape)

    def unite(self, a: torch.Tensor, b: torch.Tensor) -> None:
        """Note that labels at the same place of ``a`` and ``b``, of one shape, go together."""
        for dim in range(a.dim()):
            if not a.stride(dim) and not b.stride(dim):  # the same pairs repeated
                a, b = a.narrow(dim, 0, 1), b.narrow(dim, 0, 1)
        codes = (a.reshape(-1) * self.count + b.reshape(-1)).unique()
        pairs = torch.stack([codes // self.count, codes % self.count])
        step = torch.full_like(pairs[:1], len(self.steps))
        self.united.append(torch.cat([step, pairs]))

    def unite_rows(self, labels: torch.Tensor) -> None:
        """Note that the labels of each row of (rows, columns) go together."""
        self.unite(labels, labels[:, :1].expand_as(labels))

    def lock(self, labels: torch.Tensor, reason: str) -> None:
        """Note that all of the ``labels``, of any shape, stay."""
        self.locked.append((rules.compact(labels).unique(), reason))

    def lock_along(self, x: torch.Tensor, dims: Iterable[int], reason: str) -> None:
        """Note that the labels ``x``, of any shape, stay if they differ along one of ``dims``."""
        if {dim % x.dim() for dim in dims} & rules.varying(x):
            self.lock(x, reason)

    def slot(self, name: str, dim: int, labels: torch.Tensor, reads: bool = False) -> None:
        """Note that ``labels`` (n,) lie along dimension ``dim`` of the tensor ``name``.

        Raises:
            UnknownOperation: that dimension has another size.
        """
        if name not in self.tensors:
            return  # a layer without a bias
        if self.tensors[name].shape[dim] != len(labels):
            shape = tuple(self.tensors[name].shape)
            raise self.refuse(f"why {len(labels)} channels come to {name} of the shape {shape}")
        if (name, dim) in self.slots:  # a layer that is used twice
            self.unite(self.slots[name, dim][0], labels)
        self.slots[name, dim] = labels, reads

    def along(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """The labels (n,) of the n places along ``dim``, where a layer reads its inputs."""
        dim %= x.dim()
        self.lock_along(x, set(range(x.dim())) - {dim}, f"{self.where} mixes what is not channels")
        return rules.first_along(x, dim)

    def refuse(self, what: str) -> UnknownOperation:
        """The error that says that ``what`` is unknown."""
        return UnknownOperation(
            f"The dependency graph does not know {what} (in {self.where}), so it cannot tell which "
            "channels go together. Nothing was pruned."
        )

    @property
    def where(self) -> str:
        """The layer that is being followed, or the one whose code holds the operation."""
        if self.node.op == "call_module":
            return str(self.node.target)
        stack = list(self.node.meta.get("nn_module_stack", ()))
        return (stack and stack[-1]) or "the network itself"

    def run_node(self, node: fx.Node) -> Any:
        """Follow one node of the graph."""
        self.node = node
        return super().run_node(node)

    def placeholder(self, target: Target, args: Args, kwargs: Named) -> Any:
        """The labels of an input: it keeps all its values."""
        example = super().placeholder(target, args, kwargs)
        if not isinstance(example, torch.Tensor):
            return example
        return self.fixed(example.shape, "input of the network")

    def get_attr(self, target: Target, args: Args, kwargs: Named) -> torch.Tensor:
        """The labels of a parameter that the code uses by itself, of the parameter's shape.

        Raises:
            UnknownOperation: it is neither a parameter nor a buffer.
        """
        self.reached.add(name := str(target))
        if name not in self.tensors:
            raise self.refuse(f"the tensor {name}, which is neither a parameter nor a buffer")
        if name not in self.values:
            shape = self.tensors[name].shape
            self.values[name] = self.number(shape.numel()).view(shape)
        return self.values[name]

    def call_module(self, target: Target, args: Args, kwargs: Named) -> Any:
        """The labels of what a layer makes, or the refusal of a layer without a rule."""
        self.reached.add(name := str(target))
        self.steps.append((f"the layer {name}",))
        layer = self.fetch_attr(name)
        if type(layer).__name__ not in rules.LAYERS and overridden(layer):
            raise self.refuse(f"what this layer does: {overridden(layer)}")
        given = inspect.signature(layer.forward).bind(*args, **kwargs)  # input=x, too
        for kind in type(layer).__mro__:
            if kind.__name__ in rules.LAYERS:
                return rules.LAYERS[kind.__name__](self, layer, *given.args, **given.kwargs)
        raise self.refuse(f"the layer {type(layer).__name__}")

    def call_function(self, target: Any, args: Args, kwargs: Named) -> Any:
        """The labels of what a function returns, or the refusal of a function without a rule."""
        if isinstance(target, type) and issubclass(target, tuple):  # several outputs, side by side
            return target(*args, **kwargs)
        if not rules.held((args, kwargs)):  # a calculation with sizes
            result = target(*args, **kwargs)
            if rules.held(result):
                raise self.refuse(f"a tensor that {target.__name__}() makes from nothing")
            return result
        origin = (getattr(target, "__module__", None) or "torch").partition(".")[0]
        if origin not in ("torch", "torchvision", "_operator", "builtins", "math"):
            raise self.refuse(f"the function {target.__name__}() of {target.__module__}")
        return self.operation(target.__name__, target, args, kwargs)

    def call_method(self, target: Target, args: Args, kwargs: Named) -> Any:
        """The labels of what a method of a tensor returns."""
        return self.operation(str(target), getattr(torch.Tensor, str(target)), args, kwargs)

    def operation(self, name: str, run: Any, args: Args, kwargs: Named) -> Any:
        """The labels of the result of the operation ``name``, by its rule.

        Raises:
            UnknownOperation: there is no rule, or the rule cannot follow these arguments.
        """
        name = name if name.startswith("_") else name.rstrip("_")  # relu_ is relu in place
        if name in rules.QUESTIONS:
            return run(*args, **kwargs)
        if name not in rules.OPERATIONS:
            raise self.refuse(f"the operation {name}()")
        kwargs = {rules.NUMPY_NAMES.get(key, key): value for key, value in kwargs.items()}
        args = (kwargs.pop("input"), *args) if "input" in kwargs else args
        self.steps.append(())  # operations inside of it belong to this step
        result = rules.OPERATIONS[name](self, run, *args, **kwargs)
        told = name in rules.TOLD_SIZES
        numbers = rules.fixed_sizes(result) if told else rules.held((args, kwargs), int | float)
        self.steps[-1] = (f"{name}() in {self.where}", *numbers)
        return result

    def output(self, target: Target, args: Args, kwargs: Named) -> None:
        """Note that all values that the network returns stay."""
        self.steps.append(("the output", *rules.held(args, int | float)))
        for labels in rules.held(args):
            self.lock(labels, "output of the network")

    def result(self, shapes: tuple[torch.Size, ...]) -> Graph:
        """Turn labels into channels and groups, once the whole network has been followed."""
        self._check_all_reached()
        channel = _components(self.count, [pairs[1:] for pairs in self.united])
        for name, labels in self.values.items():
            own = [made for (owner, _), (made, _) in self.slots.items() if owner == name]
            dims = rules.varying(channel[labels])
            if own or len(dims) > 1:  # a layer's own parameter, or one with no dimension to cut
                for part in (labels, *own):
                    self.lock(part, f"{name} is used as a whole")
            else:
                self.slots |= {(name, dim): (rules.first_along(labels, dim), False) for dim in dims}
        slots = [Slot(*place, channel[own], reads) for place, (own, reads) in self.slots.items()]
        provenance = Provenance(
            self.steps,
            {place: labels for place, (labels, _) in self.slots.items()},
            self.count,
            torch.cat(self.united, dim=1),
            torch.cat([labels for labels, _ in self.locked]),
        )
        return Graph(self._groups(channel), slots, shapes, provenance)

    def _groups(self, channel: torch.Tensor) -> dict[str, Group]:
        reasons, first = [reason for _, reason in self.locked], torch.full((self.count,), -1)
        for number, (labels, _) in reversed([*enumerate(self.locked)]):
            first[channel[labels]] = number
        made = [(layer, channel[labels]) for layer, labels in self.sources]
        alike = [torch.stack([labels, labels[:1].expand_as(labels)]) for _, labels in made]
        group_of = _components(self.count, [self.united[0][1:], *alike])
        members: dict[int, dict[str, None]] = {}
        for layer, labels in made:
            members.setdefault(int(group_of[labels[0]]), {})[layer] = None
        every = torch.cat([labels for _, labels in made]).unique()
        groups = {}
        for root, layers in members.items():
            channels = every[group_of[every] == root]
            reason = "its channels cannot be told apart" if len(channels) == 1 else None
            reason = next((reasons[one] for one in first[channels].tolist() if one >= 0), reason)
            groups[next(iter(layers))] = Group(next(iter(layers)), tuple(layers), channels, reason)
        return groups

    def _check_all_reached(self) -> None:
        names: dict[int, str] = {}
        for name, tensor in self.tensors.items():
            other = names.setdefault(id(tensor), name)
            if other != name:
                raise UnknownOperation(f"{other} and {name} are one tensor. Nothing was pruned.")
            parts = name.split(".")
            used = self.reached & {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
            if not used and isinstance(tensor, nn.Parameter):
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
