"""What the grader and the process of a submission tell each other.

The grader is trusted and may send a pickle. What comes back is JSON, which can be read without
running anything: a pickle would run code of whoever wrote it.
"""

import base64
import math
from typing import Any, NamedTuple

import torch

from course_lib.classroom.sandbox import Limits
from course_lib.teaching.running import Failure

PLAIN = (type(None), bool, int, str)
MOST = 1_000_000  # numbers in a tensor; no exercise asks for more
TYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64),
    )
}


class Job(NamedTuple):
    """A submission to run: for each exercise the names that its function may have, and the cases.

    ``setup`` is the first cell of the assignment; ``cells`` are those of the submission.
    """

    setup: str
    cells: list[str]
    names: dict[str, list[str]]
    cases: dict[str, list[tuple]]
    seconds: float
    limits: Limits
    protected: bool


def encode(value: Any) -> list:
    """``[kind, ...]`` for JSON; of what is no data only the name of its type is left."""
    try:
        return _encoded(value)
    except Exception:  # a learner's own class may refuse anything
        return ["other", type(value).__name__]


def _encoded(value: Any) -> list:
    if isinstance(value, Failure):
        return ["failure", value.error, value.message]
    if value is ...:
        return ["ellipsis"]
    if type(value) in PLAIN:
        return ["plain", value]
    if isinstance(value, float):
        return ["float", float(value)]
    if isinstance(value, bytes):
        return ["bytes", base64.b64encode(value).decode()]
    if isinstance(value, dict):
        return ["dict", [[_encoded(key), _encoded(entry)] for key, entry in value.items()]]
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return [kind, [_encoded(entry) for entry in value]]
    if isinstance(value, torch.Tensor):
        return _tensor(value)
    return ["other", type(value).__name__]


def _tensor(value: torch.Tensor) -> list:
    dtype = str(value.dtype).removeprefix("torch.")
    if value.layout != torch.strided or dtype not in TYPES or value.numel() > MOST:
        return ["other", f"{dtype} tensor of {value.numel()} numbers"]
    flat = value.detach().cpu().contiguous().reshape(-1)
    data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return ["tensor", dtype, list(value.shape), base64.b64encode(data).decode()]


def decode(data: Any) -> Any:
    """The value that :func:`encode` was given.

    Raises:
        ValueError, TypeError, LookupError: this is nothing that :func:`encode` writes.
    """
    kind, *parts = data
    if kind == "ellipsis":
        return ...
    if kind in ("list", "tuple"):
        return (list if kind == "list" else tuple)(decode(entry) for entry in parts[0])
    if kind == "dict":
        return {decode(key): decode(entry) for key, entry in parts[0]}
    return DECODERS[kind](*parts)


def _decoded_tensor(dtype: str, shape: list[int], data: str) -> torch.Tensor:
    content = bytearray(base64.b64decode(data))
    if math.prod(shape) == 0:
        return torch.empty(shape, dtype=TYPES[dtype])
    return torch.frombuffer(content, dtype=TYPES[dtype]).reshape(shape)


def _decoded_plain(value: Any) -> Any:
    if type(value) not in PLAIN:
        raise TypeError(f"a {type(value).__name__} is not plain")
    return value


def _stand_in(name: str) -> Any:
    """An object that equals nothing and whose type has the ``name``, which a message shows."""
    return type(name[:60], (), {})()


DECODERS = {
    "plain": _decoded_plain,
    "float": float,
    "bytes": base64.b64decode,
    "tensor": _decoded_tensor,
    "failure": lambda error, message: Failure(str(error), str(message)[:500]),
    "other": _stand_in,
}
