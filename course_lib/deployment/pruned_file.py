r"""The file format ``.pruned``: a network's tensors, each stored in its own way, in one safe file.

A file is a fixed start of 64 bytes, a header, and the parts of all tensors, one after the other:

======  =====  ==========================================================================
offset  bytes  what (whole numbers are little-endian)
======  =====  ==========================================================================
0       8      the signature ``\x89PRUNED\n``
8       4      version of the format, 1
12      4      bytes of the header as it lies in the file
16      4      bytes of the header once inflated
20      8      bytes of the parts
28      4      zero
32      32     SHA-256 of the 32 bytes before, of the header and of the parts
64             the header: JSON, deflated by zlib
then           the parts
======  =====  ==========================================================================

The header says ``about`` (a text for each name), ``crc32`` of the bytes of all tensors, and for
each tensor its name, shape, dtype, ``places`` and ``values`` (see
:mod:`course_lib.deployment.storage`), and the name, dtype and length of each part.

Nothing in a file is executed, and nothing is allocated before its size has been checked against the
file and a limit. A file that was truncated, changed or forged is refused.
"""

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from course_lib.deployment.storage import (
    PLACES,
    VALUES,
    WORDS,
    Encoded,
    StorageError,
    decode,
    smallest,
    words_of,
)
from course_lib.files import write_whole
from course_lib.networks.models import Network, build, halved
from course_lib.networks.tensors import check_notes
from course_lib.pruning import surgery

SIGNATURE = b"\x89PRUNED\n"
VERSION = 1
START = struct.Struct("<8sIIIQI")
DIGEST_BYTES = 32

#: Tensors of more bytes than this, all together, are refused unless the caller allows more.
LIMIT = 1 << 31

#: A header is never longer than this, in bytes.
MOST_HEADER = 1 << 24

#: Parts are arrays of these, little-endian.
PART_DTYPES = {"uint8": "<u1", "uint16": "<u2", "uint32": "<u4", "uint64": "<u8"}


class FileError(ValueError):
    """A file is not a complete and unchanged ``.pruned`` file, and why."""


class Stored(NamedTuple):
    """What a file says about itself, and the parts of its tensors."""

    about: dict[str, str]
    crc32: int
    tensors: dict[str, Encoded]


def pack(
    tensors: Mapping[str, torch.Tensor | Encoded],
    file: Path | str,
    about: Mapping[str, str] | None = None,
) -> Path:
    """Write ``tensors`` and ``about`` to ``file``, which appears complete or not at all.

    A tensor is stored in the way that takes the fewest bytes; an encoded one as it is.

    Raises:
        ValueError: a tensor cannot be stored, or a note is not a string.
    """
    about = check_notes(about or {})
    rows, parts, crc32 = [], [], 0
    for name, tensor in tensors.items():
        encoded, whole = _encoded(name, tensor)
        crc32 = zlib.crc32(words_of(whole).data, crc32)
        stored = [(each, *_as_bytes(part)) for each, part in encoded.parts.items()]
        described = [[each, dtype, length] for each, dtype, length, _ in stored]
        rows.append([name, *encoded[:4], described])
        parts += [raw for *_, raw in stored]
    header = {"about": about, "crc32": crc32, "tensors": rows}
    text = json.dumps(header, separators=(",", ":")).encode()
    packed, payload = zlib.compress(text, 9), b"".join(parts)
    start = START.pack(SIGNATURE, VERSION, len(packed), len(text), len(payload), 0)
    digest = hashlib.sha256(start + packed + payload).digest()
    return write_whole(Path(file), start + digest + packed + payload)


def _encoded(name: str, tensor: torch.Tensor | Encoded) -> tuple[Encoded, torch.Tensor]:
    """How ``tensor`` is stored, and the tensor itself."""
    if not isinstance(name, str):
        raise ValueError(f"Tensors have texts as names; got {name!r}.")
    try:
        if isinstance(tensor, Encoded):
            return tensor, decode(tensor)
        return smallest(tensor), tensor
    except ValueError as error:
        raise ValueError(f"{name} cannot be stored: {error}") from error


def unpack(file: Path | str, limit: int = LIMIT) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors that were packed into ``file``, and what it is about.

    They are the same bit for bit, except for the sign of a zero.

    Raises:
        FileError: ``file`` is incomplete, was changed, or would need more than ``limit`` bytes.
    """
    stored, tensors, crc32 = read(file, limit), {}, 0
    for name, encoded in stored.tensors.items():
        try:
            tensors[name] = decode(encoded)
        except StorageError as error:
            raise FileError(f"{file}, {name}: {error}") from error
        crc32 = zlib.crc32(words_of(tensors[name]).data, crc32)
    if crc32 != stored.crc32:
        raise FileError(f"{file}: other values come out than were packed.")
    return tensors, stored.about


def read(file: Path | str, limit: int = LIMIT) -> Stored:
    """What ``file`` holds, checked but not yet decoded.

    Raises:
        FileError: as :func:`unpack`.
    """
    try:
        data = memoryview(Path(file).read_bytes())
        header, payload = _opened(data)
        return _described(_parsed(header), payload, limit)
    except (FileError, OSError) as error:
        raise FileError(f"{file}: {error}") from error


def unpacked_bytes(encoded: Encoded) -> int:
    """Bytes of the tensor that ``encoded`` stores."""
    return math.prod(encoded.shape) * np.dtype(WORDS[encoded.dtype]).itemsize


# --- reading what may be damaged ----------------------------------------------------------------


def _opened(data: memoryview) -> tuple[bytes, memoryview]:
    """The inflated header and the parts of a file that is complete and unchanged."""
    begin = START.size + DIGEST_BYTES
    if len(data) < begin or data[: len(SIGNATURE)] != SIGNATURE:
        raise FileError("this is not a .pruned file: it begins differently.")
    _, version, packed, inflated, length, zero = START.unpack_from(data)
    if version != VERSION or zero:
        raise FileError(f"its format has version {version}; this course reads {VERSION}.")
    if len(data) != begin + packed + length:
        raise FileError(f"it has {len(data)} bytes, its start says {begin + packed + length}.")
    digest = hashlib.sha256(bytes(data[: START.size]) + data[begin:]).digest()
    if digest != data[START.size : begin]:
        raise FileError("its SHA-256 is wrong: it was changed. Get it or make it again.")
    if inflated > MOST_HEADER:
        raise FileError(f"its header would have {inflated} bytes; at most {MOST_HEADER} are read.")
    return _inflated(data[begin : begin + packed], inflated), data[begin + packed :]


def _inflated(packed: memoryview, size: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        header = inflater.decompress(packed, size + 1)
    except zlib.error as error:
        raise FileError(f"its header cannot be inflated: {error}.") from error
    if len(header) != size or not inflater.eof or inflater.unused_data:
        raise FileError("its header has another size than its start says.")
    return header


def _parsed(header: bytes) -> dict:
    try:
        found = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise FileError(f"its header is not JSON: {error}.") from error
    fits = isinstance(found, dict) and found.keys() == {"about", "crc32", "tensors"}
    if not fits or not isinstance(found["tensors"], list) or not _texts(found["about"]):
        raise FileError("its header does not say what the file is about and which tensors it has.")
    return found


def _texts(about: object) -> bool:
    return isinstance(about, dict) and all(isinstance(value, str) for value in about.values())


def _described(header: dict, payload: memoryview, limit: int) -> Stored:
    stored, at, unpacked = Stored(header["about"], header["crc32"], {}), 0, 0
    for row in header["tensors"]:
        if not _is_row(row):
            raise FileError(f"a tensor is not described as it should be: {str(row)[:200]}.")
        name, shape, dtype, places, values, described = row
        if name in stored.tensors:
            raise FileError(f"it has two tensors {name!r}.")
        parts = {}
        for part, kind, length in described:
            size = length * np.dtype(PART_DTYPES[kind]).itemsize
            if size > len(payload) - at:
                raise FileError(f"{name}, {part} reaches beyond the end of the file.")
            parts[part] = np.frombuffer(payload, PART_DTYPES[kind], length, at)
            at += size
        encoded = Encoded(tuple(shape), dtype, places, values, parts)
        stored.tensors[name] = encoded
        unpacked += unpacked_bytes(encoded)
        if unpacked > limit:
            raise FileError(f"its tensors need more than the {limit} bytes that are allowed.")
    if at != len(payload):
        raise FileError(f"{len(payload) - at} bytes at its end belong to no tensor.")
    return stored


def _is_row(row: object) -> bool:
    if not isinstance(row, list) or len(row) != 6:
        return False
    name, shape, dtype, places, values, described = row
    return (
        all(isinstance(text, str) for text in (name, dtype, places, values))
        and dtype in WORDS
        and places in PLACES
        and values in VALUES
        and isinstance(shape, list)
        and all(map(_is_count, shape))
        and isinstance(described, list)
        and all(map(_is_part, described))
    )


def _is_part(part: object) -> bool:
    if not isinstance(part, list) or len(part) != 3:
        return False
    name, dtype, length = part
    return isinstance(name, str) and str(dtype) in PART_DTYPES and _is_count(length)


def _is_count(number: object) -> bool:
    return type(number) is int and 0 <= number < 1 << 48


def _as_bytes(part: np.ndarray) -> tuple[str, int, bytes]:
    little = part.astype(PART_DTYPES[part.dtype.name], copy=False)
    return part.dtype.name, len(part), little.tobytes()


def save(model: nn.Module, network: str, file: Path, **about: str) -> Path:
    """Write ``model``, made from ``network``, as a ``.pruned`` file with half-precision values."""
    return pack(halved(model), file, {"network": network} | about)


def load(file: Path) -> tuple[nn.Module, dict[str, str]]:
    """The network that :func:`save` wrote, ready for inference, and what the file is about.

    Its shapes say how many channels are left. Which ones of the original network they were does not
    matter to what it computes.

    Raises:
        FileError: the file is damaged, or holds no network of this course.
    """
    tensors, about = unpack(file)
    try:
        smaller = rebuilt(build(about.get("network", "")), tensors)
    except (ValueError, RuntimeError, KeyError) as error:
        raise FileError(f"{file} holds no network of this course: {error}") from error
    return smaller, about


def rebuilt(whole: Network, tensors: dict[str, torch.Tensor]) -> Network:
    """The network, in ``eval`` mode, with ``tensors``, cut from the freshly built ``whole``.

    Raises:
        ValueError, RuntimeError, KeyError: the tensors are those of another network.
    """
    smaller = surgery.remove(whole, _plan(whole, tensors))
    smaller.load_state_dict(tensors)
    return smaller.eval()


def _plan(whole: nn.Module, tensors: dict[str, torch.Tensor]) -> surgery.Plan:
    """The plan that cuts ``whole`` to the shapes of ``tensors``."""
    plan: surgery.Plan = {}
    for name, value in whole.state_dict().items():
        for dim, (count, left) in enumerate(zip(value.shape, tensors[name].shape, strict=True)):
            if left != count:
                plan.setdefault(name, {})[dim] = list(range(left))
    return plan
