"""Numbers as people type them: ``2,5``, ``44 700``, ``10k``, ``1e3``, ``50 %``.

Some write thousands as 1,000 and a half as 0.5, others 1.000 and 0,5. What means the same in both
ways of writing is read; what does not, such as 1,000, is refused with both meanings. The drill
reads estimates with it, in the terminal and in lesson 13.
"""

import math
import re

#: What may follow a number and multiplies it.
MULTIPLES = {"k": 1e3, "K": 1e3, "thousand": 1e3, "M": 1e6, "million": 1e6, "billion": 1e9}

PERCENT = {"%": 0.01, "percent": 0.01}

#: Other words for some units.
SYNONYMS = {
    "%": ("percent", "points"),
    "points": ("point", "%", "percent", "percentage points"),
    "x": ("times", "fold", "-fold"),
    "million": ("M",),
}

#: The spaces and apostrophes that may separate thousands. All are read as one space.
GAPS = re.compile(r"(?<=\d)['_\u2019\u00a0\u2009\u202f](?=\d)")

NUMBER = re.compile(r"([-+]?)((?:\d[\d., ]*|[.,])\d|\d)[.,]?(?:[eE]([-+]?\d{1,3}))?", re.ASCII)
GROUPS = r"[1-9]\d{0,2}(?:%s\d{3})+"


class NumberError(ValueError):
    """What was typed is not a number, or could be two; the message says what to type."""


def read(text: str, unit: str = "") -> float:
    """The number in ``text``, which may end with a multiple (``MULTIPLES``) and with ``unit``.

    Args:
        text: such as ``"2,5 x"`` or ``"10k"``.
        unit: the unit that was asked for. A share ("of the bytes") may also be typed in percent.

    Raises:
        NumberError: it is no number, has another unit, or means two things.
    """
    plain = text.strip().lstrip("~\u2248 ").replace("\u2212", "-").replace("\u00d7", "x")
    plain = GAPS.sub(" ", plain)
    found = NUMBER.match(plain)
    if not found:
        raise NumberError("Type a number such as 2.5.")
    sign, digits, power = found.groups()
    times = _multiple(plain[found.end() :].strip(), unit)
    value = float(f"{_plain(sign, digits)}e{power or 0}") * times
    if not math.isfinite(value):
        raise NumberError(f"{text!r} is too large. Type a number such as 2.5.")
    return value


def _multiple(rest: str, unit: str) -> float:
    """What the words after a number multiply it by; the unit itself leaves it as it is."""
    if _is_unit(rest, unit):
        return 1.0
    share = PERCENT if unit.startswith("of the ") else {}
    first, _, others = rest.partition(" ")
    multiple = (MULTIPLES | share).get(first)
    if multiple and _is_unit(others.strip(), unit):
        return multiple
    wanted = f"in this unit: {unit}" if unit else "without a unit"
    raise NumberError(f"{rest!r} is not understood. Type a number {wanted}.")


def _is_unit(rest: str, unit: str) -> bool:
    return rest.lower() in ("", unit.lower()) or rest in SYNONYMS.get(unit, ())


def _plain(sign: str, digits: str) -> str:
    """The number without separators of thousands, and with a decimal point."""
    marks = {mark for mark in " ,." if mark in digits}
    whole, decimal, part = digits, "", ""
    last = max(digits.rfind(","), digits.rfind("."))
    if last >= 0 and digits.count(digits[last]) == 1:
        whole, decimal, part = digits[:last], digits[last], digits[last + 1 :]
    separators = marks - {decimal}
    grouped = len(separators) == 1 and re.fullmatch(GROUPS % re.escape(*separators), whole)
    if (decimal and not part.isdigit()) or (separators and not grouped):
        raise NumberError(f"{digits} is no number. Type one such as 1000 or 2.5.")
    if not separators and len(part) == 3 and re.fullmatch(r"[1-9]\d{0,2}", whole):
        short = part.rstrip("0") or "0"
        meanings = f"{sign}{whole}{part} or {sign}{whole}.{short}{'0' if len(short) == 3 else ''}"
        raise NumberError(f"{sign}{digits} could be {meanings}. Type {meanings}.")
    for separator in separators:
        whole = whole.replace(separator, "")
    return f"{sign}{whole or 0}.{part or 0}"
