"""Ctrl-C in a program of the course that talks to somebody: one sentence and status 130.

While the program starts, Ctrl-C ends it at once. Later it counts only where the program waits for a
line. Anywhere else it waits for the next prompt, so that nothing is left half done.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

#: The exit status of a program that Ctrl-C ended: 128 plus the number of the signal.
STATUS = 130


def end_quietly(message: str) -> None:
    """Let Ctrl-C end the program at once, for as long as it has nothing to store."""

    def end(*_: object) -> None:
        os.write(sys.stderr.fileno(), f"\n{message}\n".encode())
        os._exit(STATUS)

    signal.signal(signal.SIGINT, end)


def ignore() -> None:
    """Ignore Ctrl-C from now on, while a program that is done ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Keyboard:
    """Reads lines; remembers whether Ctrl-C was ``pressed``."""

    def __init__(self) -> None:
        self.pressed = False
        self._waiting = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within this block, Ctrl-C counts only at a prompt."""
        before = signal.signal(signal.SIGINT, self._press)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _press(self, *_: object) -> None:
        self.pressed = True
        if self._waiting:
            raise KeyboardInterrupt

    def read(self, prompt: str) -> str:
        """A line.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed, now or before.
        """
        self._waiting = True
        try:
            if self.pressed:
                raise KeyboardInterrupt
            return input(prompt)
        except KeyboardInterrupt:
            self.pressed = True
            raise
        finally:
            self._waiting = False
