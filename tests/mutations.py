"""JSON damaged by attackers or accidents: parts replaced, removed, repeated or cut off."""

import json
import random
from collections.abc import Iterator
from typing import Any

#: Replacements for a part: every type, and values that programs trip over.
JUNK = (
    *(None, True, 0, -1, 10**400, 1e308, float("nan"), "", "\ud800", "\x00", "tensor", "é" * 300),
    *([], {}, [[]], [None], {"": None}, ["float", "x"], ["plain", "\udfff"], ["tensor", "int8"]),
    *(["plain", 10**400], ["float", float("inf")], ["bytes", "="], ["other", 3], ["ellipsis"]),
    ["tensor", "float32", [-1], ""],
    ["tensor", "complex64", [0, 1 << 62], ""],
    ["dict", [[["list", []], ["plain", 1]]]],
    ["failure", 1, [2]],
)


def mutated(data: Any, seed: int, changes: int = 2) -> bytes:
    """``data`` as JSON, damaged in a few places; the same ``seed`` gives the same damage."""
    draw = random.Random(seed)
    damaged = json.loads(json.dumps(data))
    for _ in range(draw.randint(1, changes)):
        damaged = _changed(damaged, draw)
    text = json.dumps(damaged).encode()
    return _cut(text, draw) if draw.random() < 0.2 else text


def _changed(data: Any, draw: random.Random) -> Any:
    root = [data]
    holder, key = draw.choice([*_places(root)])
    action = draw.choice(("junk", "junk", "remove", "repeat", "wrap"))
    if action == "junk":
        holder[key] = draw.choice(JUNK)
    elif action == "remove":
        del holder[key]
    elif action == "wrap":
        holder[key] = [holder[key]]
    elif isinstance(holder, list):
        holder.insert(key, holder[key])
    return root[0] if root else None


def _places(holder: Any) -> Iterator[tuple[Any, Any]]:
    """Every part of nested lists and dictionaries, as its container and its key."""
    for key in range(len(holder)) if isinstance(holder, list) else [*holder]:
        yield holder, key
        if isinstance(holder[key], list | dict):
            yield from _places(holder[key])


def _cut(text: bytes, draw: random.Random) -> bytes:
    """``text`` with bytes cut off or inserted."""
    at = draw.randrange(len(text))
    return draw.choice(
        (text[:at], text[at:], text[:at] + b"\xff\x00" + text[at:], text + b"[" * 5000)
    )
