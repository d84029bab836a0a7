"""Ctrl-C at a chosen moment, for the tests of what is left then."""

import pytest


def interrupt(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, after: int) -> None:
    """Make the function ``name`` of ``owner`` behave like Ctrl-C after so many calls."""
    real, calls = getattr(owner, name), []

    def interrupted(*arguments, **options):
        calls.append(arguments)
        if len(calls) > after:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, interrupted)
