"""Ctrl-C counts at a prompt, waits elsewhere, and never prints a traceback."""

import signal
import subprocess
import sys

import pytest

from course_lib import PROJECT
from course_lib.teaching import interrupts


def press(*_):
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_outside_a_prompt_waits_for_the_next_one(monkeypatch):
    monkeypatch.setattr("builtins.input", lambda prompt: "never read")
    keyboard, done = interrupts.Keyboard(), False
    with keyboard.listening():
        press()
        done = True
        with pytest.raises(KeyboardInterrupt):
            keyboard.read("?")
    assert done and keyboard.pressed


def test_ctrl_c_at_a_prompt_counts_at_once(monkeypatch):
    monkeypatch.setattr("builtins.input", press)
    keyboard = interrupts.Keyboard()
    with keyboard.listening(), pytest.raises(KeyboardInterrupt):
        keyboard.read("?")
    assert keyboard.pressed


def test_without_ctrl_c_a_line_is_read_and_the_earlier_handler_returns(monkeypatch):
    monkeypatch.setattr("builtins.input", lambda prompt: "a line")
    before = signal.getsignal(signal.SIGINT)
    keyboard = interrupts.Keyboard()
    with keyboard.listening():
        assert keyboard.read("?") == "a line"
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before and not keyboard.pressed


@pytest.mark.parametrize(
    ("call", "status", "said"), [("end_quietly('Bye.')", 130, "\nBye.\n"), ("ignore()", 0, "")]
)
def test_a_program_that_starts_or_ends_says_nothing_else(call, status, said):
    script = f"""
import signal
from course_lib.teaching import interrupts
interrupts.{call}
try:
    signal.raise_signal(signal.SIGINT)
except BaseException:
    print("caught")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr, done.stdout) == (status, said, "")
