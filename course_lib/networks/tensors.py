"""Safetensors files: read with nothing but torch, and written completely or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from course_lib.files import write_whole
from course_lib.networks.data import DataError

#: The number types in the course's safetensors files, by their names in the format.
DTYPES = {"F16": torch.float16, "F32": torch.float32, "I64": torch.int64}


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, read with nothing but torch.

    GPU servers that run experiments may have no other package. The format: the length of the header
    (8 bytes), the header as JSON, the data. It is for files whose checksum has been verified.

    Raises:
        DataError: the file is not in this format.
    """
    data = bytearray(path.read_bytes())
    begin = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    try:
        header = json.loads(data[8:begin])
        header.pop("__metadata__", None)
        for name, about in header.items():
            first, last = (begin + offset for offset in about["data_offsets"])
            words = torch.frombuffer(data[first:last], dtype=DTYPES[about["dtype"]])
            tensors[name] = words.reshape(about["shape"])
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise DataError(f"{path} is not a safetensors file. Restore it from the clone.") from error
    return tensors


def write_tensors(
    tensors: Mapping[str, torch.Tensor], path: Path | str, about: Mapping[str, str]
) -> None:
    """Write ``tensors`` to ``path`` as safetensors, with metadata ``about``.

    The file appears complete or not at all. Tied weights are stored under each of their names.

    Raises:
        ValueError: the metadata is not all text, or a tensor cannot be stored.
    """
    from safetensors.torch import save

    write_whole(Path(path), save(apart(tensors), check_notes(about)))


def check_notes(about: Mapping[str, str]) -> dict[str, str]:
    """The metadata ``about`` as a dictionary, checked to be text.

    Raises:
        ValueError: a name or a value is not a string.
    """
    for name, note in about.items():
        if not isinstance(name, str) or not isinstance(note, str):
            raise ValueError(f"Metadata must be text; {name!r} is {note!r}: give str({note!r}).")
    return dict(about)


def apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous copies of ``tensors`` that share no memory, as the file format requires.

    Raises:
        ValueError: a tensor is not dense, is quantized, or is on the meta device.
    """
    copies = {}
    for name, value in tensors.items():
        if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
            kind = getattr(value, "layout", type(value).__name__)
            raise ValueError(f"{name} is {kind}; only dense tensors can be stored.")
        if value.is_meta or value.is_quantized:
            raise ValueError(
                f"{name} has no data to store: it is on the meta device, or quantized."
            )
        copies[name] = value.detach().clone(memory_format=torch.contiguous_format)
    return copies


def open_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a safetensors file, and its metadata.

    Raises:
        ValueError: the file is missing, damaged, or not a safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is missing, damaged, or not a safetensors file: {error}. "
            "Save the network again."
        ) from error
