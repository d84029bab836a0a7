"""Whether a layer does what its class says, which pruning relies on.

A linear layer multiplies with its ``weight`` as it is stored. With a hook, a replaced ``forward``
or a weight that is computed from other parameters it does not, and what is pruned is then not what
is multiplied.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from course_lib.networks.models import Network

#: Is called before a layer: with it, its arguments and its named ones.
InputHook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]


def peculiarity(layer: nn.Module) -> str | None:
    """Why ``layer`` itself (not its parts) does not do what its class says; else None.

    A phrase for an error message, such as "its forward was replaced"; it names the remedy where
    there is one.
    """
    return changed(layer) or overridden(layer)


def changed(layer: nn.Module) -> str | None:
    """How this ``layer`` was changed after it was constructed; None if it was not."""
    checks = (wrapped, _lazy, computed, _replaced, _hooked)
    return next(filter(None, (check(layer) for check in checks)), None)


def computed(layer: nn.Module) -> str | None:
    """Why a parameter of ``layer`` is not what it computes with; None if each of them is."""
    parametrized = getattr(layer, "parametrizations", None)
    if isinstance(parametrized, nn.ModuleDict) and parametrized:
        return (
            f"its {', '.join(parametrized)} is computed by a parametrization "
            "(torch.nn.utils.parametrize.remove_parametrizations makes it an ordinary parameter)"
        )
    plain = [name for name, value in vars(layer).items() if isinstance(value, torch.Tensor)]
    derived = [one for one in plain if any(own.startswith(f"{one}_") for own in layer._parameters)]
    if derived:
        return (
            f"its {', '.join(derived)} is computed before each call, as by torch.nn.utils.prune "
            "(prune.remove, remove_weight_norm or remove_spectral_norm make it a parameter again)"
        )
    return None


def rewritten(layer: nn.Module) -> str | None:
    """Why ``layer`` may compute something else than its class in torch; None if it does not."""
    return _replaced(layer) or overridden(layer)


def wrapped(layer: nn.Module) -> str | None:
    """What hides the network that ``layer`` holds; None if nothing does."""
    if isinstance(layer, torch.jit.ScriptModule):
        return "TorchScript hides its code (take the network that was scripted)"
    if hasattr(layer, "_orig_mod"):
        return "torch.compile wraps it (take its _orig_mod, and compile afterwards)"
    if isinstance(layer, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return f"{type(layer).__name__} wraps it (take its module)"
    return None


def _lazy(layer: nn.Module) -> str | None:
    if isinstance(layer, LazyModuleMixin) and layer.has_uninitialized_params():
        return "it is lazy and has no weights yet (run the network once)"
    return None


def _replaced(layer: nn.Module) -> str | None:
    return "its forward was replaced" if "forward" in vars(layer) else None


def _hooked(layer: nn.Module) -> str | None:
    hooked = layer._forward_hooks or layer._forward_pre_hooks
    return "it has a forward hook (remove it first)" if hooked else None


def overridden(layer: nn.Module) -> str | None:
    """How the class of ``layer`` differs from the torch class that it extends; None if it does not.

    Quantization-aware layers, for example, differ.
    """
    base = next((kind for kind in type(layer).__mro__ if _is_of_torch(kind)), None)
    if base is None:
        return None
    names = ("forward", "_conv_forward")
    own = [name for name in names if _method(type(layer), name) is not _method(base, name)]
    if own:
        return f"its class {type(layer).__name__} has a {own[0]} other than that of {base.__name__}"
    return None


def _is_of_torch(kind: type) -> bool:
    """Whether ``kind`` is a layer of torch, other than a container of layers."""
    package, _, module = kind.__module__.rpartition(".")
    return package == "torch.nn.modules" and module not in ("module", "container", "lazy")


def _method(kind: type, name: str) -> object:
    return getattr(kind, name, None)


def first_input(name: str, args: tuple[Any, ...], named: dict[str, Any]) -> torch.Tensor:
    """The first input of the layer ``name``, of any shape, called with ``args`` and ``named``.

    Raises:
        ValueError: the first argument is not a tensor.
    """
    given = (*args, *named.values(), None)[0]
    if not isinstance(given, torch.Tensor):
        raise ValueError(f"{name} is called with {type(given).__name__}; it needs a tensor.")
    return given


# --- the network that was given -----------------------------------------------------------------


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Within the block ``model`` is in ``eval`` mode; afterwards it is bit for bit as it was.

    The mode of each layer, the buffers and torch's random state are restored, even after an error:
    measuring a network must not change it. Compiled parts run uncompiled, because compiled code
    does not call the hooks of the layers in it.
    """
    modes = [(layer, layer.training) for layer in model.modules()]
    buffers = [
        (layer, name, buffer, _kept(buffer))
        for layer in model.modules()
        for name, buffer in layer._buffers.items()
    ]
    devices = {tensor.device for tensor in model.parameters() if tensor.is_cuda}
    with _uncompiled(model), torch.random.fork_rng([device.index for device in devices]):
        model.eval()
        try:
            yield
        finally:
            for layer, mode in modes:
                layer.training = mode
            for layer, name, buffer, before in buffers:
                _restore(layer, name, buffer, before)


def _uncompiled(model: nn.Module) -> AbstractContextManager[object]:
    compiled = any(
        hasattr(layer, "_orig_mod") or layer._compiled_call_impl for layer in model.modules()
    )
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def _kept(buffer: torch.Tensor | None) -> torch.Tensor | None:
    return None if buffer is None else buffer.detach().clone()


def _restore(
    layer: nn.Module, name: str, buffer: torch.Tensor | None, before: torch.Tensor | None
) -> None:
    layer._buffers[name] = buffer
    if buffer is None or before is None or buffer.is_meta or _same(buffer, before):
        return
    with torch.no_grad():
        buffer.copy_(before)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.layout is not torch.strided or torch.equal(one, other)


def copied(model: Network, instead: dict[int, torch.Tensor] | None = None) -> Network:
    """A copy of ``model`` that shares nothing with it.

    Args:
        instead: by the id of a tensor of ``model``, what replaces it in the copy.

    Raises:
        ValueError: a function in ``model`` keeps a reference to one of its layers or weights, so
            that the copy would still use those of the original; or something cannot be copied.
    """
    own = {id(part) for part in (*model.modules(), *model.parameters(), *model.buffers())}
    for name, layer in model.named_modules():
        for what, function in _functions(layer):
            if _keeps(function, own):
                raise ValueError(
                    f"{name or type(model).__name__} cannot be copied: its {what} holds on to a "
                    "layer or weight of the network, so that a copy would compute with that of "
                    "the original. Make it a method of a class, or remove it first."
                )
    try:
        return copy.deepcopy(model, instead)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        reasons = [f"{name}: {why}" for name, why in _each_computed(model)]
        why = "; ".join(reasons) or str(error).partition("\n")[0]
        raise ValueError(f"{type(model).__name__} cannot be copied. {why}.") from error


def _each_computed(model: nn.Module) -> Iterator[tuple[str, str]]:
    for name, layer in model.named_modules():
        why = computed(layer)
        if why:
            yield name or type(model).__name__, why


def _functions(layer: nn.Module) -> Iterator[tuple[str, object]]:
    """What is attached to ``layer`` itself: functions among its attributes, and its hooks."""
    if hasattr(layer, "_orig_mod"):  # a copy gets its own from torch.compile
        return
    for name, value in vars(layer).items():
        if name == "_compiled_call_impl":  # a copy does not have it
            continue
        if name.endswith("_hooks") and isinstance(value, dict):
            what = name[1:-1].replace("_", " ")
            yield from ((what, each) for each in value.values())
        elif isinstance(value, FunctionType | partial):
            yield name, value


def _keeps(function: object, own: set[int]) -> bool:
    """Whether ``function`` refers to an object with an id in ``own`` that no copy would replace.

    ``copy.deepcopy`` copies what a method or a ``partial`` is bound to, but never a function.
    """
    if isinstance(function, partial):
        return _keeps(function.func, own)
    if not isinstance(function, FunctionType):
        return False
    cells = [cell.cell_contents for cell in function.__closure__ or () if _is_set(cell)]
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return any(_is_own(each, own) or _keeps(each, own) for each in cells + defaults)


def _is_own(value: object, own: set[int]) -> bool:
    if isinstance(value, MethodType):
        return id(value.__self__) in own
    if isinstance(value, list | tuple | dict):
        inner = value.values() if isinstance(value, dict) else value
        return any(id(each) in own for each in inner)
    return id(value) in own


def _is_set(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - empty while the function around it still runs
    except ValueError:
        return False
    return True
