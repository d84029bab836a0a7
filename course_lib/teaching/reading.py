"""What a live result means, in a sentence that was chosen by the result itself.

A training of seconds ends elsewhere on another processor, and a speed-up lies elsewhere. So no
sentence about one is written down as a fact: a lesson writes a sentence for either outcome.
"""

from IPython.display import Markdown, display


def read(found: bool, if_so: str, otherwise: str) -> None:
    """Display the sentence for what was ``found``: ``if_so`` where it is true, else ``otherwise``.

    Both are Markdown.
    """
    display(Markdown(if_so if found else otherwise))
