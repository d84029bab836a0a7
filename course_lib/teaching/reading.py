"""Sentences about a live result, selected by the result itself.

A short training reaches another accuracy on another processor, and a speed-up differs. So a lesson
does not state such a result as a fact, but has a sentence for either outcome.
"""

from IPython.display import Markdown, display


def read(found: bool, if_so: str, otherwise: str) -> None:
    """Display ``if_so`` if ``found`` is true, else ``otherwise``.

    Both are Markdown.
    """
    display(Markdown(if_so if found else otherwise))
