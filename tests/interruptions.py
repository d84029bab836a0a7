"""Ctrl-C at a chosen moment, to test what is left behind."""

from collections.abc import Sequence

import pytest


def each(cases: Sequence[tuple], quick: int = 2) -> list:
    """``cases`` as parameters: the first ``quick`` always run, the others only in a sweep."""
    return [
        pytest.param(*case, marks=[pytest.mark.sweep] * (number >= quick))
        for number, case in enumerate(cases)
    ]


def interrupt(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, after: int) -> None:
    """Make the function ``name`` of ``owner`` raise KeyboardInterrupt after ``after`` calls."""
    real, calls = getattr(owner, name), []

    def interrupted(*arguments, **options):
        calls.append(arguments)
        if len(calls) > after:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, interrupted)
