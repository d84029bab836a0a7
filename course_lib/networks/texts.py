"""English prose as token ids, and two small tasks for a language model.

The prose is that of two novels by Jane Austen: :data:`TEST` is read by the measurements,
:data:`CALIBRATION` by what prunes, quantizes or fine-tunes. Both are in the public domain.
"""

import csv
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from course_lib.networks.data import DATA, Batch, verified

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: The novels; a paragraph is a line.
TEST, CALIBRATION = "persuasion", "northanger_abbey"

#: The length of a window in tokens, in the measurements of the course.
WINDOW = 512

#: The next word is guessed after so many words of the same paragraph, at least and at most.
CONTEXT = (20, 32)

#: The other options stand at most so many places away in the list of words by frequency.
NEAR = 20


class Windows(NamedTuple):
    """Windows of a text to train on: ``ids`` (N, L) int64; the labels are the same tokens."""

    ids: torch.Tensor

    @property
    def labels(self) -> torch.Tensor:
        """The tokens themselves, (N, L): each is the label of the place before it."""
        return self.ids

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """One shuffled pass in full batches of ``size``; a last incomplete batch is dropped."""
        order = torch.randperm(len(self.ids), generator=generator)
        for index in order[: len(order) // size * size].split(size):
            yield self.ids[index], self.ids[index]


class Choice(NamedTuple):
    """A question with four options: which of them continues ``prompt``?

    Args:
        prompt: the beginning of a sentence.
        options: the continuations, each beginning with a space.
        answer: the place of the right one in ``options``.
    """

    prompt: str
    options: tuple[str, ...]
    answer: int


def novel(name: str, root: Path = DATA) -> str:
    """The text of a novel, :data:`TEST` or :data:`CALIBRATION`; each line is a paragraph.

    Raises:
        DataError: the file is missing or damaged.
    """
    return verified(f"language/{name}.txt", root).read_text(encoding="utf-8")


def windows(tokenizer: "Tokenizer", text: str, count: int, length: int = WINDOW) -> torch.Tensor:
    """The first ``count`` windows of ``text``, token ids (count, length), int64.

    Raises:
        ValueError: the text is too short.
    """
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if len(ids) < count * length:
        raise ValueError(
            f"{count} windows of {length} tokens need {count * length:,} tokens; "
            f"the text has {len(ids):,}."
        )
    return torch.tensor(ids[: count * length]).view(count, length)


# --- tasks --------------------------------------------------------------------------------------


def next_words(tokenizer: "Tokenizer", text: str, count: int, seed: int = 0) -> list[Choice]:
    """Which of four words comes next in ``text``? Chance is 25 %.

    Each option is one token. The three wrong ones are about as frequent in ``text`` as the right
    one, so that a model which only knows frequencies guesses.

    Raises:
        ValueError: ``text`` has too few paragraphs that are long enough.
    """
    generator = random.Random(seed)
    ranked = _ranked(tokenizer, text)
    rank = {word: place for place, word in enumerate(ranked)}
    paragraphs = text.splitlines()
    generator.shuffle(paragraphs)
    found: list[Choice] = []
    for words in map(str.split, paragraphs):
        places = [place for place in range(CONTEXT[0], len(words)) if words[place] in rank]
        if places and len(found) < count:
            place = generator.choice(places)
            near = rank[words[place]]
            others = ranked[max(0, near - NEAR) : near] + ranked[near + 1 : near + 1 + NEAR]
            prompt = " ".join(words[max(0, place - CONTEXT[1]) : place])
            found.append(_shuffled(prompt, words[place], others, generator))
    if len(found) < count:
        raise ValueError(f"The text is enough for {len(found)} questions; {count} are wanted.")
    return found


def _ranked(tokenizer: "Tokenizer", text: str) -> list[str]:
    """The words of ``text`` that are one token, the most frequent first."""
    counts = Counter(re.findall(r"(?<= )[a-z]{4,}(?= )", text))
    return [
        word
        for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        if len(tokenizer.encode(f" {word}", add_special_tokens=False).ids) == 1
    ]


def capitals(root: Path = DATA, seed: int = 0) -> list[Choice]:
    """The capital of each of 109 countries, out of four capitals of its continent.

    Raises:
        DataError: the file is missing or damaged.
    """
    generator = random.Random(seed)
    text = verified("language/capitals.csv", root).read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    of_continent = defaultdict(list)
    for row in rows:
        of_continent[row["continent"]].append(row["capital"])
    return [
        _shuffled(
            f"The capital of {row['country']} is",
            row["capital"],
            [other for other in of_continent[row["continent"]] if other != row["capital"]],
            generator,
        )
        for row in rows
    ]


def _shuffled(prompt: str, right: str, others: list[str], generator: random.Random) -> Choice:
    """The question whose options are ``right`` and three of ``others``, in random order."""
    options = [right, *generator.sample(others, 3)]
    generator.shuffle(options)
    return Choice(prompt, tuple(f" {option}" for option in options), options.index(right))
