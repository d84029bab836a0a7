"""Calibration data, in whatever form it is given, as checked batches of inputs.

Scores and ranges are only as good as the data they are measured on: an empty batch, NaN, or a
picture mistaken for a batch of rows also gives a result, and a wrong one.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from course_lib.networks.models import Inputs

#: Keys of a dictionary that hold labels, not inputs.
LABELS = ("labels", "label")


def batches(given: object) -> Iterator[Inputs]:
    """The inputs of each batch in ``given``, one after the other.

    Args:
        given: a list, a ``DataLoader`` or a generator of batches. A batch is a tensor (N, ...), a
            dictionary of such tensors by the name of the argument, or a pair (inputs, labels),
            whose labels are ignored. A single tensor or dictionary is one batch.

    Raises:
        ValueError: there is no batch, or one is empty, not finite, or holds no tensor.
    """
    yield from (inputs for inputs, _ in _checked(given))


def labelled(given: object) -> Iterator[tuple[Inputs, torch.Tensor]]:
    """The inputs and the labels (N,) of each batch in ``given``: pairs, or dictionaries with both.

    Raises:
        ValueError: as :func:`batches`; or a batch has no labels, or not one for each input.
    """
    for number, (inputs, labels) in enumerate(_checked(given)):
        if not isinstance(labels, torch.Tensor):
            raise ValueError(f"Batch {number} has no labels: give pairs (inputs, labels).")
        if labels.shape[:1] != _first(inputs).shape[:1]:
            raise ValueError(
                f"Batch {number} has inputs of the shape {tuple(_first(inputs).shape)} and labels "
                f"of the shape {tuple(labels.shape)}: give one label for each input."
            )
        yield inputs, labels


def batched(name: str, layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """``x``, the input of the linear layer or convolution ``name``, of a shape with a batch first.

    Raises:
        ValueError: it has none.
    """
    weight = layer.weight
    if isinstance(weight, torch.Tensor) and x.dim() < weight.dim():
        raise ValueError(
            f"An input of the shape {tuple(x.shape)} comes to {name}: the batch dimension is "
            "missing. Give batches, such as x.unsqueeze(0) for a single x."
        )
    return x


def _checked(given: object) -> Iterator[tuple[Inputs, object]]:
    """Inputs, and labels or None, of each batch."""
    if isinstance(given, torch.Tensor | Mapping):
        given = [given]
    if not isinstance(given, Iterable) or isinstance(given, str | bytes):
        raise ValueError(f"Calibration data is batches of tensors; got {type(given).__name__}.")
    dims = None
    for number, batch in enumerate(given):
        inputs, labels = _parts(batch, number)
        for name, tensor in inputs.items() if isinstance(inputs, Mapping) else [("", inputs)]:
            _check(tensor, f"Batch {number}{name and f', {name}'}")
        shape = _first(inputs).shape
        if len(shape) != (dims or len(shape)):
            raise ValueError(
                f"Batch {number} has the shape {tuple(shape)}, the ones before have {dims} "
                "dimensions. Give labels as pairs (inputs, labels), one for each batch."
            )
        dims = len(shape)
        yield inputs, labels
    if dims is None:
        raise ValueError(
            "Calibration needs at least one batch; got none. (A generator can be read only once.)"
        )


def _parts(batch: Any, number: int) -> tuple[Inputs, object]:
    if isinstance(batch, Mapping):
        labels = next((batch[name] for name in LABELS if name in batch), None)
        return {name: value for name, value in batch.items() if name not in LABELS}, labels
    if isinstance(batch, tuple | list):
        if not 1 <= len(batch) <= 2:
            raise ValueError(
                f"Batch {number} has {len(batch)} parts: give inputs alone, or (inputs, labels). "
                "Several inputs go into a dictionary, by the name of the argument."
            )
        inputs, labels = (*batch, None)[:2]
        return (_parts(inputs, number)[0] if isinstance(inputs, Mapping) else inputs), labels
    return batch, None


def _check(tensor: object, which: str) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"{which} is {type(tensor).__name__}; give tensors.")
    if not tensor.numel():
        raise ValueError(f"{which} is empty: its shape is {tuple(tensor.shape)}.")
    if tensor.is_floating_point() and not tensor.isfinite().all():
        raise ValueError(f"{which} holds NaN or infinite values. Find out where they come from.")


def _first(inputs: Inputs) -> torch.Tensor:
    return next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs
