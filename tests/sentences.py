"""A tiny vocabulary, a few reviews written with it, and a tiny network for them."""

import pytest
import torch

from course_lib.networks import minilm
from course_lib.networks.data import Reviews, Splits
from course_lib.networks.minilm import SPECIAL, SentenceClassifier

PRAISE = ["a good film", "good acting", "so good", "what a good story", "good fun", "good , a film"]
BLAME = ["a bad film", "bad acting", "so bad", "what a bad story", "bad fun", "bad , a film"]
LETTERS = [mark + letter for mark in ("", "##") for letter in "abcdefghijklmnopqrstuvwxyz"]
WORDS = ["good", "bad", "film", "films", "act", "acting", "##ing", "##s"]
WORDS += ["so", "what", "a", "story", "fun", ",", "!"]
PIECES = [*SPECIAL, *WORDS, *(letter for letter in LETTERS if letter not in WORDS)]

#: Three narrow layers.
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 32,
}


def reviews(times: int = 8) -> Reviews:
    """Every review, repeated ``times`` times."""
    labels = torch.tensor([1] * len(PRAISE) + [0] * len(BLAME)).repeat(times)
    return Reviews((PRAISE + BLAME) * times, labels * 2.0 - 1, labels)


def network(monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> SentenceClassifier:
    """A network of :data:`SIZES` with random weights; later networks get the same sizes."""
    monkeypatch.setattr(minilm, "SIZES", SIZES)
    torch.manual_seed(seed)
    found = SentenceClassifier(len(PIECES))
    with torch.no_grad():
        for parameter in found.parameters():  # larger than initial weights: every part matters
            parameter.add_(torch.randn_like(parameter) / 5)
    return found.eval()


def splits() -> Splits:
    """The same tokenized reviews as all three parts."""
    part = minilm.encoded(minilm.build_tokenizer(PIECES), reviews())
    return Splits(part, part, part)
