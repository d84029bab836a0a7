"""Ctrl-C at a chosen moment, for the tests of what is left then."""

from collections.abc import Sequence

import pytest


def each(cases: Sequence[tuple], quick: int = 2) -> list:
    """``cases`` to go through, the first ``quick`` of them always and the others in a sweep."""
    return [
        pytest.param(*case, marks=[pytest.mark.sweep] * (number >= quick))
        for number, case in enumerate(cases)
    ]


def interrupt(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, after: int) -> None:
    """Make the function ``name`` of ``owner`` behave like Ctrl-C after so many calls."""
    real, calls = getattr(owner, name), []

    def interrupted(*arguments, **options):
        calls.append(arguments)
        if len(calls) > after:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, interrupted)
