"""Progress bars: shown in lessons, turned off in builds and tests."""

import os
import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

Step = TypeVar("Step")

#: Wraps an iterable of steps and shows progress, as :func:`bar` does; ``iter`` shows nothing.
Progress = Callable[[Iterable[Step]], Iterable[Step]]


def bar(steps: Iterable[Step], text: str = "") -> Iterable[Step]:
    """Iterate over ``steps`` under a progress bar, labelled ``text``, that disappears at the end.

    The environment variable COURSE_QUIET turns the bar off. Builds and tests set it, so that no
    stored output contains a half-finished bar. Without tqdm, as on some GPU servers, there is no
    bar.
    """
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return steps
    return tqdm(steps, desc=text, leave=False, disable=bool(os.environ.get("COURSE_QUIET")))


def say(line: str) -> None:
    """Print ``line`` immediately, above any progress bar that is being shown."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        print(line)
    else:
        tqdm.write(line)
    sys.stdout.flush()
