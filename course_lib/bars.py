"""Progress bars for people: shown in a lesson, silent where nobody watches."""

import os
import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

Step = TypeVar("Step")

#: Goes through steps and shows how far it is, as :func:`bar` does; ``iter`` shows nothing.
Progress = Callable[[Iterable[Step]], Iterable[Step]]


def bar(steps: Iterable[Step], text: str = "") -> Iterable[Step]:
    """Go through ``steps`` under a progress bar that leaves nothing behind when it is done.

    The variable COURSE_QUIET silences it: builds and tests set it, so that no stored output holds
    a half-finished bar. A GPU server may have no tqdm; then there is no bar.
    """
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return steps
    return tqdm(steps, desc=text, leave=False, disable=bool(os.environ.get("COURSE_QUIET")))


def say(line: str) -> None:
    """Print ``line`` at once, above a bar that is being shown."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        print(line)
    else:
        tqdm.write(line)
    sys.stdout.flush()
