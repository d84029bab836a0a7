"""The novels, their windows, and the questions that are made of them."""

import pytest
import torch
from decoders_made import tiny_tokenizer

from course_lib.networks import texts
from course_lib.networks.texts import Windows


@pytest.fixture(scope="module")
def novel():
    return texts.novel(texts.TEST)


@pytest.fixture(scope="module")
def tokenizer(novel):
    return tiny_tokenizer([novel[:50_000]], size=2000)


def test_the_novels_are_two(novel):
    assert novel.startswith("Sir Walter Elliot, of Kellynch Hall,")
    assert novel.isascii()
    assert "CHAPTER" not in texts.novel(texts.CALIBRATION)


def test_windows_follow_each_other(tokenizer, novel):
    found = texts.windows(tokenizer, novel, 3, length=16)
    assert found.shape == (3, 16)
    assert novel.startswith(tokenizer.decode(found.flatten().tolist()))


def test_a_text_that_is_too_short_is_refused(tokenizer):
    with pytest.raises(
        ValueError, match=r"2 windows of 512 tokens need 1,024 tokens; the text has"
    ):
        texts.windows(tokenizer, "Too short.", 2)


def test_an_epoch_has_every_window_once():
    ids = torch.arange(12).view(6, 2)
    batches = [*Windows(ids).batches(2, torch.Generator().manual_seed(0))]
    seen = torch.cat([inputs for inputs, _ in batches])
    assert sorted(seen[:, 0].tolist()) == [0, 2, 4, 6, 8, 10]
    assert all(torch.equal(inputs, labels) for inputs, labels in batches)


def test_the_next_word_is_that_of_the_novel(tokenizer, novel):
    found = texts.next_words(tokenizer, novel, 40)
    assert len(found) == 40
    for prompt, options, answer in found:
        assert f"{prompt}{options[answer]}" in novel.replace("\n", " ")
        assert len(set(options)) == 4
        assert texts.CONTEXT[0] <= len(prompt.split()) <= texts.CONTEXT[1]
        assert all(len(tokenizer.encode(option).ids) == 1 for option in options)
    assert len({answer for *_, answer in found}) == 4


def test_the_wrong_words_are_as_frequent_as_the_right_one(tokenizer, novel):
    """Who always takes the most frequent word is right about as often as by chance."""
    found = texts.next_words(tokenizer, novel, 200)
    count = {word: novel.count(f"{word} ") for _, options, _ in found for word in options}
    right = sum(max(options, key=count.get) == options[answer] for _, options, answer in found)
    assert right / 200 < 0.4


def test_questions_depend_on_the_seed_alone(tokenizer, novel):
    assert texts.next_words(tokenizer, novel, 5) == texts.next_words(tokenizer, novel, 5)
    assert texts.next_words(tokenizer, novel, 5) != texts.next_words(tokenizer, novel, 5, seed=1)


def test_too_few_paragraphs_are_refused(tokenizer):
    with pytest.raises(ValueError, match="The text is enough for 0 questions; 1 are wanted"):
        texts.next_words(tokenizer, "A short paragraph.", 1)


def test_capitals_are_chosen_among_those_of_a_continent():
    found = {choice.prompt: choice for choice in texts.capitals()}
    assert len(found) == 109
    _, options, answer = found["The capital of France is"]
    assert options[answer] == " Paris"
    assert len(set(options)) == 4
