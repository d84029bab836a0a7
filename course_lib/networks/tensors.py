"""Tensors on disk: safetensors files, read without any package and written whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from course_lib.files import write_whole
from course_lib.networks.data import DataError

#: What a safetensors file calls the numbers that the course keeps in one.
DTYPES = {"F16": torch.float16, "F32": torch.float32, "I64": torch.int64}


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file whose checksum is right, with nothing but torch.

    What is measured has to run on a GPU server that has no other package. The format: the length of
    the header, the header as JSON, the numbers.

    Raises:
        DataError: it is no such file.
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
        raise DataError(f"{path} is no safetensors file. Restore it from the clone.") from error
    return tensors


def write_tensors(
    tensors: Mapping[str, torch.Tensor], path: Path | str, about: Mapping[str, str]
) -> None:
    """Write ``tensors`` to ``path`` as safetensors, with ``about`` as metadata.

    The file appears complete or not at all. Tied weights are stored under each of their names.

    Raises:
        ValueError: a note that is no text.
    """
    from safetensors.torch import save

    write_whole(Path(path), save(apart(tensors), check_notes(about)))


def check_notes(about: Mapping[str, str]) -> dict[str, str]:
    """``about``, if all of it is text.

    Raises:
        ValueError: a name or a note is something else.
    """
    for name, note in about.items():
        if not isinstance(name, str) or not isinstance(note, str):
            raise ValueError(f"Notes are texts by name; {name!r} is {note!r}: give str({note!r}).")
    return dict(about)


def apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies of ``tensors`` that share no memory, as a file needs them."""
    copies = {}
    for name, value in tensors.items():
        if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
            kind = getattr(value, "layout", type(value).__name__)
            raise ValueError(f"{name} is {kind}; only dense tensors are stored.")
        if value.is_meta or value.is_quantized:
            raise ValueError(f"{name} has no numbers to store: it is on meta, or quantized.")
        copies[name] = value.detach().clone(memory_format=torch.contiguous_format)
    return copies


def open_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a safetensors file, and what it says about them.

    Raises:
        ValueError: it is not there, damaged, or no such file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is missing, damaged, or no safetensors file: {error}. Save the network again."
        ) from error
