"""Is a layer what its class says? Whoever removes weights from one has to know.

A linear layer multiplies with its ``weight``, as that lies there. Not so where a hook, another
``forward`` or a weight that is computed from other parameters comes in between: what is pruned then
is not what is multiplied.
"""

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize


def peculiarity(layer: nn.Module) -> str | None:
    """Why ``layer`` itself (not its parts) is not what its class says; None if it is.

    A phrase for an error, such as "its forward was replaced", that says what to do where something
    helps.
    """
    return changed(layer) or overridden(layer)


def changed(layer: nn.Module) -> str | None:
    """What was done to this ``layer`` after its class had made it; None if nothing."""
    checks = (_wrapped, _lazy, computed, _replaced, _hooked)
    return next(filter(None, (check(layer) for check in checks)), None)


def computed(layer: nn.Module) -> str | None:
    """Why a parameter of ``layer`` is not what it computes with; None if each of them is."""
    if parametrize.is_parametrized(layer):
        names = ", ".join(layer.parametrizations)
        return (
            f"its {names} is computed by a parametrization "
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


def _wrapped(layer: nn.Module) -> str | None:
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
    """How the class of ``layer`` differs from the one of torch that it extends; None: not at all.

    A quantization-aware layer is one that differs.
    """
    base = next((kind for kind in type(layer).__mro__ if _is_of_torch(kind)), None)
    names = ("forward", "_conv_forward") if base is not None else ()
    own = [name for name in names if _method(type(layer), name) is not _method(base, name)]
    if own:
        return f"its class {type(layer).__name__} has a {own[0]} other than that of {base.__name__}"
    return None


def _is_of_torch(kind: type) -> bool:
    """Whether ``kind`` is a layer of torch, and none that only holds others."""
    package, _, module = kind.__module__.rpartition(".")
    return package == "torch.nn.modules" and module not in ("module", "container", "lazy")


def _method(kind: type, name: str) -> object:
    return getattr(kind, name, None)
