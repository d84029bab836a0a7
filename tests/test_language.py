"""Perplexity, choices, and the bytes of a token."""

import math

import pytest
import torch
from decoders_made import tiny_decoder, tiny_tokenizer, windows

from course_lib.measuring import language
from course_lib.networks.texts import Choice


def test_a_loss_is_about_the_next_token():
    probabilities = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [1.0, 0.0, 0.0]]])
    losses = language.token_losses(probabilities.log(), torch.tensor([[0, 2, 1]]))
    assert losses[0].tolist() == pytest.approx([-math.log(0.25), -math.log(0.8)])


def test_a_model_that_knows_nothing_is_as_unsure_as_its_vocabulary():
    losses = language.losses(lambda ids: torch.zeros(*ids.shape, 40), windows())
    assert losses.shape == (4, 11)
    value, low, high = language.perplexity(losses)
    assert (value, low, high) == pytest.approx((40, 40, 40))


def test_losses_are_those_of_transformers():
    model, ids = tiny_decoder(), windows()
    with torch.inference_mode():
        expected = [model(row[None], labels=row[None]).loss for row in ids]
    assert torch.allclose(language.losses(model, ids).mean(1), torch.stack(expected), atol=1e-5)


def test_the_interval_of_a_ratio_is_paired():
    generator = torch.Generator().manual_seed(0)
    windows_differ = 2 * torch.randn(8, 1, generator=generator) + 3
    dense = windows_differ + 0.01 * torch.randn(8, 100, generator=generator)
    value, low, high = language.perplexity_ratio(dense + math.log(2), dense)
    assert (value, low, high) == pytest.approx((2, 2, 2))
    alone = language.perplexity(dense)
    assert alone.high / alone.low > 2


def test_an_infinite_perplexity_is_a_number():
    assert math.isfinite(language.perplexity(torch.full((2, 3), 1e4)).value)


def test_one_window_has_no_interval():
    with pytest.raises(ValueError, match="needs 2 to 16 values"):
        language.perplexity(torch.ones(1, 5))


def test_the_most_probable_option_is_chosen():
    tokenizer = tiny_tokenizer(["he said yes and no and so on"])

    def says(text: str):
        """A model that always expects the tokens of ``text``, in this order, after one token."""
        goal = tokenizer.encode(text).ids

        def model(ids):
            logits = torch.zeros(*ids.shape, tokenizer.get_vocab_size())
            for place, token in enumerate(goal):
                if place < ids.shape[1]:
                    logits[:, place, token] = 9
            return logits

        return model

    single = Choice("h", (" yes", " no"), 1)
    several = Choice("h", (" yes and", " no", " so on and", " said so on"), 3)
    assert language.chosen(says(" no"), tokenizer, [single]).tolist() == [True]
    assert language.chosen(says(" yes"), tokenizer, [single]).tolist() == [False]
    assert language.chosen(says(" said so on"), tokenizer, [several]).tolist() == [True]
    assert language.chosen(says(" so on and"), tokenizer, [several]).tolist() == [False]


def test_padding_does_not_change_a_choice():
    """Options of different lengths share a batch; alone, they have the same probability."""
    tokenizer = tiny_tokenizer(["a b c d e f g"])
    model = tiny_decoder(vocabulary=tokenizer.get_vocab_size())
    choice = Choice("a b", (" c d e f g", " c", " d e"), 0)
    together = language._log_probabilities(model, tokenizer, choice, torch.device("cpu"))
    alone = [
        language._log_probabilities(
            model, tokenizer, choice._replace(options=(option,)), torch.device("cpu")
        )[0]
        for option in choice.options
    ]
    assert torch.allclose(together, torch.stack(alone), atol=1e-5)


def test_what_is_written_is_the_most_probable():
    tokenizer = tiny_tokenizer(["a b c d e f g"])
    model = tiny_decoder(vocabulary=tokenizer.get_vocab_size())
    text = language.written(model, tokenizer, "a b", tokens=1)
    ids = torch.tensor([tokenizer.encode("a b").ids])
    with torch.inference_mode():
        assert text == tokenizer.decode([int(model(ids).logits[0, -1].argmax())])


def test_bytes_of_a_cache():
    # Llama-2-7B: 32 layers of 32 heads of 128, 4,096 tokens in float16, are 2 GiB
    assert language.kv_cache_bytes(32, 32, 128, 4096) == 2 * 2**30
    assert language.kv_cache_bytes(32, 8, 128, 4096) == 2**29
    assert language.kv_cache_bytes(1, 1, 1, 1, batch=3, bytes_per_number=4) == 24


def test_milliseconds_of_a_token():
    assert language.milliseconds_a_token(14e9, 2000) == pytest.approx(7)
    assert language.milliseconds_a_token(14e9, 2000, cache_bytes=2e9) == pytest.approx(8)
