"""Progress bars for people: shown in a lesson, silent where nobody watches."""

import os
from collections.abc import Iterable

from tqdm.auto import tqdm


def bar(steps: Iterable, text: str = "") -> Iterable:
    """Go through ``steps`` under a progress bar that leaves nothing behind when it is done.

    The variable COURSE_QUIET silences it: builds and tests set it, so that no stored output holds
    a half-finished bar.
    """
    return tqdm(steps, desc=text, leave=False, disable=bool(os.environ.get("COURSE_QUIET")))
