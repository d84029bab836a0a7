"""What a network costs: bytes on disk, multiply-accumulates, bytes moved; and what limits both.

MACs are counted by torch's own counter, which counts a multiplication and an addition as two
operations.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from course_lib.measuring.timing import compare, once
from course_lib.networks.models import Inputs
from course_lib.networks.tensors import apart

#: What a network is called with: an input, a tuple of inputs, or a dictionary of inputs by name.
Example = Inputs | tuple[torch.Tensor, ...]


@torch.no_grad()
def macs(model: nn.Module, example: Example) -> int:
    """Multiply-accumulates of one forward pass on ``example``, zeros included.

    Args:
        model: in either mode; it is left as it was.
        example: an input, a tuple of inputs, or a dictionary of inputs by name.

    Raises:
        ValueError: it is not known how often one of the operations multiplies.
    """
    with _counter(model) as counter:
        _call(model, example)
    return counter.get_total_flops() // 2


def _call(model: nn.Module, example: Example) -> None:
    if isinstance(example, Mapping):
        model(**example)
    else:
        model(*example) if isinstance(example, tuple) else model(example)


@contextmanager
def _counter(model: nn.Module) -> Iterator[FlopCounterMode]:
    """torch's counter, which cannot see into torch's fused attention: that is switched off here.

    The buffers of ``model``, such as the statistics of BatchNorm, are restored at the end. Its
    parameters take no gradient meanwhile: the counter would follow some that have none here.
    """
    if isinstance(model, torch.jit.ScriptModule) or hasattr(model, "_orig_mod"):
        raise ValueError("A compiled network hides what it computes: give the original one.")
    fused, before = torch.backends.mha.get_fastpath_enabled(), _copies(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    torch.backends.mha.set_fastpath_enabled(False)
    model.requires_grad_(False)
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    try:
        with torch.random.fork_rng([]), counter, _Unknown(counter):
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for parameter in trained:
            parameter.requires_grad_(True)
        for buffer, value in before:
            buffer.copy_(value)


def _copies(model: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The dense buffers of ``model``, each with a copy of it."""
    dense = (buffer for buffer in model.buffers() if buffer.layout is torch.strided)
    return [(buffer, buffer.clone()) for buffer in dense]


def stored_bytes(model: nn.Module) -> int:
    """Size of the file that holds the weights of ``model`` as they are, in safetensors format.

    Tied weights are stored under each of their names, as
    :func:`course_lib.networks.tensors.write_tensors` stores them; a sparse matrix is stored as its
    indices and values.
    """
    from safetensors.torch import save

    return len(save(apart(model.state_dict())))


# --- what torch's counter does not know ---------------------------------------------------------


def _recurrent(
    x: torch.Size, weights: torch.Size | list[torch.Size], *others: Any, **_: object
) -> int:
    """A recurrent layer: each step multiplies with every weight that is a matrix.

    The weights are a list, or the matrices for the input and for the state follow each other.
    """
    sizes = weights if isinstance(weights, list) else [weights, others[0]]
    return 2 * math.prod(x[:-1]) * sum(math.prod(size) for size in sizes if len(size) == 2)


def _bilinear(x: torch.Size, weight: torch.Size, *_: object, **__: object) -> int:
    """For each input as many multiplications as ``weight`` (outputs, first, second) has numbers."""
    return 2 * math.prod(x[:-1]) * math.prod(weight)


def _distances(
    x: torch.Size, y: torch.Size, *_: object, out_shape: torch.Size, **__: object
) -> int:
    """Every distance adds up as many squares as the points have coordinates."""
    return 2 * math.prod(out_shape) * x[-1]


def _with_vector(*shapes: object, out_shape: object = None, **_: object) -> int:
    """A matrix, or a vector, times a vector: every number of it counts once."""
    return 2 * max(math.prod(shape) for shape in shapes if isinstance(shape, torch.Size))


aten = torch.ops.aten

#: Floating-point operations, from the shapes, of what torch's counter would count as none.
FORMULAS = {
    aten.mkldnn_rnn_layer: _recurrent,
    aten._cudnn_rnn: _recurrent,
    aten._trilinear: _bilinear,
    aten._cdist_forward: _distances,
    aten._euclidean_dist: _distances,
    aten.mv: _with_vector,
    aten.addmv: _with_vector,
    aten.dot: _with_vector,
}

#: Operations on several tensors that normalize, move or choose numbers: none of that is counted.
FREE = re.compile(
    r".*(norm|pool|scatter|gather|index|copy|put|embedding|sampl|where|cat|stack|backward"
    r"|check_errors|bucketize|searchsorted|equal|pad|normal|set|clamp|softmax|prelu|lift|alias).*"
)

#: Operations that multiply, even if they are given only one floating-point tensor.
MULTIPLIES = re.compile(r"_?(fft|linalg|cholesky|.*mm$|.*rnn|.*conv|linear)")


class _Unknown(TorchDispatchMode):
    """Refuses operations that may multiply and that ``counter`` does not know."""

    def __init__(self, counter: FlopCounterMode):
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own has no types
        self._known = counter.flop_registry

    def __torch_dispatch__(
        self,
        operation: torch._ops.OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if operation._overloadpacket not in self._known and _may_multiply(operation, args):
            raise ValueError(
                f"It is not known how often {operation._overloadpacket} multiplies, so the MACs of "
                "this network cannot be counted. Count the parts that do not call it."
            )
        return operation(*args, **(kwargs or {}))


def _may_multiply(operation: torch._ops.OpOverload, args: tuple[object, ...]) -> bool:
    """Whether ``operation``, which has no formula, is more than a choice or a scaling."""
    name = operation._overloadpacket.__name__
    if torch.Tag.pointwise in operation.tags or operation.is_view or FREE.fullmatch(name):
        return False
    numbers = [one for one in args if isinstance(one, torch.Tensor) and one.is_floating_point()]
    return len(numbers) > 1 or MULTIPLIES.match(name) is not None


# --- layer by layer -----------------------------------------------------------------------------


class Work(NamedTuple):
    """What a layer does in one forward pass: its MACs, and the bytes that it has to move."""

    macs: int
    moved: int

    @property
    def intensity(self) -> float:
        """Arithmetic intensity: MACs per byte moved."""
        return self.macs / self.moved


class _Call:
    """One call of a module: MACs counted before it, and what the layers inside it account for."""

    def __init__(self, before: int):
        self.before, self.inside = before, 0
        self.layers: set[nn.Module] = set()


@torch.no_grad()
def work(model: nn.Module, example: Example) -> dict[str, Work]:
    """What every layer of ``model`` does in one forward pass on ``example``, by its name.

    A layer is a module without modules inside, or one that multiplies with weights of its own, such
    as ``nn.MultiheadAttention``. It has to move its weights, its input and its output, once each;
    savings by a cache and repeated reads are not counted. Operations that are not modules,
    such as an addition in ``forward``, are not counted either. Arguments and errors: :func:`macs`.
    """
    found: dict[str, Work] = {}
    calls = [_Call(0)]

    def begin(layer: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        calls.append(_Call(counter.get_total_flops()))

    def end(
        layer: nn.Module,
        args: tuple[object, ...],
        kwargs: dict[str, object],
        output: object,
        name: str,
    ) -> None:
        call, whole = calls.pop(), counter.get_total_flops()
        own = whole - call.before - call.inside
        calls[-1].inside += whole - call.before
        calls[-1].layers |= call.layers
        if not [*layer.children()] or (own and layer._parameters):
            macs, moved = found.get(name, (0, 0))
            weights = _weights(layer, call.layers)
            moved += sum(map(_bytes, [*weights, *args, *kwargs.values(), output]))
            found[name] = Work(macs + own // 2, moved)
            calls[-1].layers.add(layer)

    hooks = [
        hook
        for name, layer in model.named_modules()
        for hook in (
            layer.register_forward_pre_hook(begin, with_kwargs=True),
            layer.register_forward_hook(partial(end, name=name), with_kwargs=True),
        )
    ]
    try:
        with _counter(model) as counter:
            _call(model, example)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _weights(layer: nn.Module, others: set[nn.Module]) -> list[torch.Tensor]:
    """Parameters and buffers of ``layer`` and of what it holds, less those of ``others``."""
    own = {
        id(value): value
        for module in layer.modules()
        if module not in others
        for value in [*module._parameters.values(), *module._buffers.values()]
        if value is not None
    }
    return [*own.values()]


def _bytes(value: object) -> int:
    """Bytes of a tensor, or of all tensors that a tuple, a list or a dictionary holds."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        value = tuple(value.values())
    return sum(map(_bytes, value)) if isinstance(value, tuple | list) else 0


# --- what limits --------------------------------------------------------------------------------


#: The ceiling of arithmetic is measured with products of at least this size, none of which takes
#: longer than this many seconds.
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
        """MACs per byte above which work is compute-bound, and below which it is memory-bound."""
        return self.rate / self.bandwidth

    def attainable(self, intensity: float) -> float:
        """The most MACs per second at an arithmetic ``intensity`` of so many MACs per byte."""
        return min(self.rate, self.bandwidth * intensity)

    def milliseconds(self, work: Work) -> float:
        """The least time that ``work`` can take."""
        return 1000 * max(work.macs / self.rate, work.moved / self.bandwidth)


def roofline(device: str = "cpu", dtype: torch.dtype = torch.float32) -> Roofline:
    """Measure both ceilings: copying far more than a cache holds, and a product of matrices.

    Not every processor has arithmetic in every ``dtype``: where products are slow, smaller ones are
    measured.
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


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the networks that no other one beats: the Pareto front, in the order given.

    A network is beaten if another costs no more, is no less accurate, and better in one of the two.
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
