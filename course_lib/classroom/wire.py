"""The messages between the grader and the process of a submission.

The grader is trusted and may send a pickle. The reply is JSON, which can be read without running
anything; a pickle would run the code of whoever wrote it.
"""

import base64
import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict

import torch

from course_lib.classroom.sandbox import ResourceLimits
from course_lib.files import printable
from course_lib.teaching.running import Failure, Result

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

    ``setup`` is the first cell of the assignment, ``cells`` are those of the submission, and
    ``seconds`` is the time limit for one case.
    """

    setup: str
    cells: list[str]
    names: dict[str, list[str]]
    cases: dict[str, list[tuple]]
    seconds: float
    limits: ResourceLimits
    protected: bool


class RunnerOutput(TypedDict):
    """The JSON that the runner writes; :func:`returned` reads it.

    ``results`` has, for each exercise, ``[encoded value, whether its arguments were changed]`` for
    each case, or None if there is no function.
    """

    errors: list[str | None]
    results: dict[str, list[list[Any]] | None]
    attempts: list[str]


class Forged(ValueError):
    """The reply is not what the runner writes, so a submission has changed it."""


class Returned(NamedTuple):
    """The reply: the error of each cell, what each function returned, and forbidden attempts.

    An exercise whose function is missing has None for its results.
    """

    errors: list[str | None]
    results: dict[str, list[Result] | None]
    attempts: list[str]


def returned(output: bytes, job: Job) -> Returned:
    """Read the reply to ``job``, all of which a submission may have written.

    Raises:
        Forged: it does not have the form of a reply to ``job``.
    """
    try:
        data = json.loads(output)
        attempts = [printable(one)[:200] for one in _listed(data["attempts"], str)]
        errors = [one and printable(one)[:300] for one in _listed(data["errors"], str | None)]
        _require(len(errors) == len(job.cells), f"{len(errors)} cells of {len(job.cells)}")
        _require(data["results"].keys() == job.names.keys(), "other exercises")
        results = {
            number: _results(data["results"][number], len(cases))
            for number, cases in job.cases.items()
        }
    except Exception as error:  # untrusted data may raise anything
        raise Forged(f"{type(error).__name__}: {printable(str(error))[:100]}") from error
    return Returned(errors, results, attempts)


def _results(rows: list | None, cases: int) -> list[Result] | None:
    if rows is None:
        return None
    _require(len(_listed(rows, list)) <= cases, f"{len(rows)} results for {cases} cases")
    return [Result(decode(value), changed is True) for value, changed in rows]


def _listed(value: Any, kind: Any) -> list:
    _require(isinstance(value, list), f"a {type(value).__name__} is not a list")
    _require(all(isinstance(one, kind) for one in value), "an entry of the wrong type")
    return value


def _require(true: bool, otherwise: str) -> None:
    if not true:
        raise ValueError(otherwise)


def encode(value: Any) -> list:
    """``value`` as ``[kind, ...]`` for JSON; of anything but data, only the type name is kept."""
    try:
        return _encoded(value)
    except Exception:  # a learner's own class may raise anything
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
        ValueError, TypeError, LookupError: ``data`` was not written by :func:`encode`.
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
    return printable(value) if isinstance(value, str) else value


def _stand_in(name: str) -> Any:
    """An object that equals nothing; messages show the ``name`` of its type."""
    return type(printable(name)[:60], (), {})()


DECODERS: dict[str, Callable[..., Any]] = {
    "plain": _decoded_plain,
    "float": float,
    "bytes": base64.b64decode,
    "tensor": _decoded_tensor,
    "failure": lambda error, message: Failure(printable(error), printable(message)[:500]),
    "other": _stand_in,
}
