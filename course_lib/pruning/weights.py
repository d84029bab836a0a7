"""Which weights a network multiplies its inputs with, and which of these can be pruned.

If a weight is overlooked, "half of the network" is half of something else. So every weight is
prunable, or left out for a stated reason, or the network is refused.
"""

import warnings
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeGuard

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from course_lib.networks.attention import SelfAttention
from course_lib.pruning.layers import at_rest, computed, rewritten, wrapped

#: The matrices that an attention layer may hold itself.
PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")

TABLE = "a table of embeddings is looked up, not multiplied, and is pruned only where it is named"


#: The share of parameters in layers of unknown kinds that is worth a warning.
UNKNOWN = 0.1


class Coverage(NamedTuple):
    """Which weights of a network pruning covers; printing it gives a summary.

    Attributes:
        prunable: the weights that pruning may touch, by parameter name.
        left_out: why every other matrix is left as it is, by parameter name.
        refused: why a weight that is multiplied cannot be pruned, by its name. A network with such
            a weight gets no masks, because they would silently skip it.
        share: the fraction of all learned parameters that is in ``prunable``.
    """

    prunable: dict[str, nn.Parameter]
    left_out: dict[str, str]
    refused: dict[str, str]
    share: float

    def __str__(self) -> str:
        others = self.left_out | self.refused
        said = f"{len(self.prunable)} prunable weights with {self.share:.1%} of all parameters"
        return "\n  ".join([said, *(f"without {name}: {why}" for name, why in others.items())])


@torch.no_grad()
def coverage(model: nn.Module) -> Coverage:
    """Which weights of ``model`` pruning may touch, and why the others are left out or refused.

    The weights of linear, bilinear, convolution and recurrent layers and of ``transformers``'
    ``Conv1D`` are prunable, and the matrices that attention layers hold themselves. Biases and
    normalisation are not, because they are few and each of them matters; nor are embeddings, even
    where an output layer shares their weight (tied). A parameter shared by several layers appears
    once, under its first name.
    """
    with at_rest(model):  # reading a computed weight may update a spectral_norm
        refused, hidden = _hidden(model), _hidden_size(model)
    held = set()
    for name, layer, attribute in _places(model):
        weight, why = layer._parameters.get(attribute), _unfit(layer, attribute)
        if why or weight is None:
            refused[name] = f"{type(layer).__name__}: {why}"
        else:
            held.add(_memory(weight))
    tables = embeddings(model)
    prunable, left_out, seen = {}, {}, {_memory(each): name for name, each in tables.items()}
    for name, weight in model.named_parameters():
        place = _memory(weight)
        if name in tables:
            left_out[name] = TABLE
        elif place not in held:
            left_out |= _reason(model, name, weight, refused)
        elif place in seen:
            refused[name] = f"it lies in the same memory as {seen[place]}: make them one parameter"
        else:
            prunable[name], seen[place] = weight, name
    total = hidden + sum(map(_size, model.parameters()))
    share = sum(map(_size, prunable.values())) / max(total, 1)
    return Coverage(prunable, left_out, refused, share)


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of ``model`` that pruning may touch, by parameter name; see :func:`coverage`.

    Warns where layers of an unknown kind hold more than a tenth of the parameters.

    Raises:
        ValueError: a weight that is multiplied is not a parameter that can be pruned.
    """
    found = coverage(model)
    if found.refused:
        reasons = "; ".join(f"{name}, {why}" for name, why in found.refused.items())
        raise ValueError(f"Masks would silently skip this: {reasons}.")
    _warn_of_unknown(model, found)
    return found.prunable


def _warn_of_unknown(model: nn.Module, found: Coverage) -> None:
    """Warn if a large part of the network belongs to layers of an unknown kind."""
    unknown = [name for name, why in found.left_out.items() if why is not TABLE]
    sizes = {name: _size(each) for name, each in model.named_parameters()}
    share = sum(sizes[name] for name in unknown) / max(sum(sizes.values()), 1)
    if share > UNKNOWN:
        warnings.warn(
            f"{share:.0%} of the parameters are not looked at, because no layer of a known kind "
            f"holds them: {', '.join(unknown)}. Masks and sparsity are those of the rest.",
            stacklevel=4,
        )


def embeddings(model: nn.Module) -> dict[str, nn.Parameter]:
    """The tables of embeddings, by parameter name; they are pruned only if they are named."""
    tables = {
        id(layer._parameters.get("weight"))
        for layer in model.modules()
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag)
    }
    return {name: weight for name, weight in model.named_parameters() if id(weight) in tables}


def owners(model: nn.Module) -> dict[str, list[nn.Module]]:
    """For each parameter that layers multiply with, by name, these layers (several if shared)."""
    found: dict[str, list[nn.Module]] = {}
    names = {id(weight): name for name, weight in model.named_parameters()}
    for _, layer, attribute in _places(model):
        name = names.get(id(layer._parameters.get(attribute)))
        if name is not None:
            found.setdefault(name, []).append(layer)
    return found


@torch.no_grad()
def effective(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights that ``model`` multiplies with, by name, however they are stored.

    Computed, sparse and quantized ones too. Embeddings are left out, even if they are tied.

    Raises:
        ValueError: a layer has no weights yet.
    """
    for name, why in _scripted(model).items():
        raise ValueError(f"The zeros of {name} cannot be counted: {why}.")
    _warn_of_unknown(model, coverage(model))
    tables = {_memory(table) for table in embeddings(model).values()}
    found: dict[str, torch.Tensor] = {}
    seen: set[object] = set()
    with at_rest(model):  # reading a spectral_norm would change its buffers
        for name, layer, attribute in _places(model):
            _refuse_empty(name, layer, attribute)
            weight = _computed_value(layer, attribute)
            place = _memory(weight) if attribute in layer._parameters else name
            if place not in tables | seen:
                found[name] = weight.detach()
            seen.add(place)
        for name, layer in model.named_modules():
            for attribute, weight in _packed(layer).items():
                found[_joined(name, attribute)] = weight.detach()
    return found


def zeros(weight: torch.Tensor) -> int:
    """How many numbers of ``weight`` are zero: any shape, dense, sparse or quantized."""
    if weight.is_quantized:
        weight = weight.dequantize()
    elif weight.dtype.itemsize == 1:  # torch does not count the zeros of eight-bit floats
        weight = weight.float()
    elif weight.layout is not torch.strided or type(weight) not in (torch.Tensor, nn.Parameter):
        weight = weight.to_dense()
    return weight.numel() - int(torch.count_nonzero(weight))


def rows(layer: nn.Module, weight: torch.Tensor) -> torch.Tensor:
    """``weight`` as (out, in / groups, ...), even if the layer stores (in, out / groups, ...).

    Applied again, it gives back the stored layout. Transposed convolutions and ``Conv1D`` store
    their inputs first.
    """
    if not (getattr(layer, "transposed", False) or is_conv1d(layer)):
        return weight
    groups = getattr(layer, "groups", 1)
    outputs_first: torch.Tensor = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    return outputs_first


def is_conv1d(layer: nn.Module) -> bool:
    """Whether it is the ``Conv1D`` of ``transformers``: a linear layer with weight (in, out)."""
    kinds = ((kind.__name__, kind.__module__.partition(".")[0]) for kind in type(layer).__mro__)
    return ("Conv1D", "transformers") in kinds


# --- what a layer holds -------------------------------------------------------------------------


def _places(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Each weight that a layer of ``model`` multiplies with: name, layer, attribute."""
    for name, layer in model.named_modules():
        for attribute in _multiplied(layer):
            yield _joined(name, attribute), layer, attribute


def _multiplied(layer: nn.Module) -> list[str]:
    if isinstance(layer, nn.Linear | nn.Bilinear | nn.modules.conv._ConvNd) or is_conv1d(layer):
        return ["weight"]
    if isinstance(layer, nn.MultiheadAttention | SelfAttention):
        return [name for name in PROJECTIONS if getattr(layer, name, None) is not None]
    if isinstance(layer, nn.RNNBase):
        return [name for name in layer._flat_weights_names if name.startswith("weight")]
    return ["weight_ih", "weight_hh"] if isinstance(layer, nn.RNNCellBase) else []


def _packed(layer: nn.Module) -> dict[str, torch.Tensor]:
    """The matrices that ``layer`` multiplies with and that are not parameters of a known layer."""
    if _multiplied(layer) or isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        return {}
    weight = getattr(layer, "weight", None)
    if "quantized" in type(layer).__module__:
        weight = weight() if callable(weight) else getattr(layer, "get_weight", dict)()
    found = weight if isinstance(weight, Mapping) else {"weight": weight}
    return {name: value for name, value in found.items() if _is_packed(value)}


def _is_packed(value: object) -> TypeGuard[torch.Tensor]:
    if not isinstance(value, torch.Tensor) or isinstance(value, nn.Parameter):
        return False
    return value.dim() > 1


def _computed_value(layer: nn.Module, attribute: str) -> torch.Tensor:
    """The weight as the next call will see it; torch's prune only computes it then."""
    parts = (f"{attribute}_orig", f"{attribute}_mask")
    weight: torch.Tensor
    if all(hasattr(layer, part) for part in parts):
        weight = getattr(layer, parts[0]) * getattr(layer, parts[1])
    else:
        weight = getattr(layer, attribute)
    return weight


# --- why not ------------------------------------------------------------------------------------


def _hidden(model: nn.Module) -> dict[str, str]:
    """Weights that are not stored as parameters of the network, by name, and why."""
    found = _scripted(model)
    for name, layer in model.named_modules():
        for attribute, weight in _packed(layer).items():
            why = computed(layer) or f"it is held as {_form(weight)}; prune before that"
            found[_joined(name, attribute)] = f"{type(layer).__name__}: {why}"
    return found


def _hidden_size(model: nn.Module) -> int:
    """How many numbers are in weights that are not parameters."""
    return sum(_size(each) for layer in model.modules() for each in _packed(layer).values())


def _scripted(model: nn.Module) -> dict[str, str]:
    """The parts that are TorchScript and have weights, by name, and what that means."""
    return {
        name or type(model).__name__: why
        for name, layer in model.named_modules()
        if isinstance(layer, torch.jit.ScriptModule)
        and [*layer.parameters(recurse=False)]
        and (why := wrapped(layer))
    }


def _form(weight: torch.Tensor) -> str:
    if weight.is_quantized:
        return "quantized numbers"
    return "a buffer" if weight.layout is torch.strided else "a sparse matrix"


def _unfit(layer: nn.Module, attribute: str) -> str | None:
    """Why zeros in the parameter would not be zeros in the product."""
    weight = layer._parameters.get(attribute)
    if weight is None:
        return computed(layer) or f"its {attribute} is not a parameter"
    return _without_values(weight) or _immovable(weight) or rewritten(layer)


def _without_values(weight: torch.Tensor) -> str | None:
    if is_lazy(weight):
        return "it is lazy and has no weights yet (run the network once)"
    return (
        "it is on the meta device, without values (load weights first)" if weight.is_meta else None
    )


def _immovable(weight: torch.Tensor) -> str | None:
    """Why single values of ``weight`` cannot be set to zero in place."""
    if weight.is_floating_point() and weight.dtype.itemsize == 1:
        return f"torch cannot compute with {weight.dtype} (convert it first)"
    spread = zip(weight.stride(), weight.shape, strict=True)
    if any(not stride and size > 1 for stride, size in spread):
        return "several of its weights are one number in memory (make it contiguous)"
    return None


def _refuse_empty(name: str, layer: nn.Module, attribute: str) -> None:
    why = _without_values(getattr(layer, attribute))
    if why:
        raise ValueError(f"The zeros of {name} cannot be counted: {why}.")


def _reason(
    model: nn.Module, name: str, weight: torch.Tensor, refused: Mapping[str, str]
) -> dict[str, str]:
    """Why a parameter that no known layer multiplies with is left out; none for biases, norms."""
    owner = name.rpartition(".")[0].partition(".parametrizations")[0]
    known = any(owner in (one, one.rpartition(".")[0]) for one in refused)
    if is_lazy(weight) or weight.dim() < 2 or known:
        return {}
    kind = type(dict(model.named_modules())[owner]).__name__
    return {name: f"it is no weight of a linear, convolution or recurrent layer, but of {kind}"}


def _size(weight: torch.Tensor) -> int:
    return 0 if is_lazy(weight) else weight.numel()


def _memory(weight: torch.Tensor) -> tuple[str | torch.device, int]:
    """A key, equal for two parameters that are one tensor or start at the same address."""
    if is_lazy(weight) or weight.is_meta or not weight.numel():
        return ("object", id(weight))
    return (weight.device, weight.data_ptr())


def _joined(name: str, attribute: str) -> str:
    return f"{name}.{attribute}" if name else attribute
