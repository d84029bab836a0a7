"""What a language model is measured by: perplexity, choices, and the bytes of one token.

Lesson 11 builds the core of it: :func:`token_losses`, :func:`kv_cache_bytes` and
:func:`milliseconds_a_token`.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from course_lib.bars import Progress
from course_lib.measuring.estimates import Estimate
from course_lib.measuring.quality import mean_interval

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from course_lib.networks.texts import Choice

#: Computes the logits (N, L, V) that follow each of the token ids (N, L).
LanguageModel = Callable[[torch.Tensor], Any]


# --- perplexity ---------------------------------------------------------------------------------


def token_losses(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Minus the log-probability of every token but the first, in nats, (N, L - 1).

    Args:
        logits: (N, L, V). Those at a place are about the *next* token.
        ids: the tokens, int64 (N, L).
    """
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")


@torch.inference_mode()
def losses(
    model: LanguageModel, windows: torch.Tensor, progress: Progress[torch.Tensor] = iter
) -> torch.Tensor:
    """The :func:`token_losses` (N, L - 1) of ``model`` on ``windows`` (N, L), one after the other.

    Args:
        model: takes token ids (1, L) and returns logits (1, L, V), or an object with ``logits``.
            A module is put into ``eval`` mode.
        progress: wraps the windows, for a progress bar.
    """
    device, found = _device(model), []
    for window in progress(windows.split(1)):
        ids = window.to(device)
        found.append(token_losses(_logits(model, ids), ids).cpu())
    return torch.cat(found)


def _device(model: LanguageModel) -> torch.device:
    """Where ``model`` computes; a module is put into ``eval`` mode."""
    if isinstance(model, nn.Module):
        return next(model.eval().parameters()).device
    return torch.device("cpu")


def _logits(model: LanguageModel, ids: torch.Tensor) -> torch.Tensor:
    """The logits (N, L, V), float32, of token ids (N, L)."""
    outputs: Any = model(ids)
    found: torch.Tensor = outputs.logits if hasattr(outputs, "logits") else outputs
    return found.float()


def perplexity(losses: torch.Tensor) -> Estimate:
    """The exponential of the mean loss (Jelinek et al., 1977), with its 95 % interval.

    A model with perplexity 20 is as unsure as if it chose among 20 tokens. Tokens of one window are
    not independent, so the interval comes from the means of the windows.

    Args:
        losses: of :func:`losses`, (windows, tokens); 2 to 16 windows.

    Raises:
        ValueError: too few windows, or too many.
    """
    return Estimate(*map(_exp, mean_interval(losses.double().mean(1).tolist())))


def perplexity_ratio(pruned: torch.Tensor, dense: torch.Tensor) -> Estimate:
    """The perplexity of ``pruned`` over that of ``dense``, with its paired 95 % interval.

    Args:
        pruned, dense: losses of two models on the same windows, (windows, tokens).

    Raises:
        ValueError: too few windows, or too many.
    """
    return perplexity(pruned.double() - dense.double())


def _exp(nats: float) -> float:
    return math.exp(min(nats, 700.0))  # beyond that a float is infinite


# --- tasks --------------------------------------------------------------------------------------


@torch.inference_mode()
def chosen(
    model: LanguageModel,
    tokenizer: "Tokenizer",
    choices: Sequence["Choice"],
    progress: Progress["Choice"] = iter,
) -> torch.Tensor:
    """Which of the ``choices`` the model gets right, bool (choices,).

    The model chooses the option that it gives the highest probability after the prompt, the product
    over its tokens.

    Args:
        model: as for :func:`losses`.
    """
    device = _device(model)
    right = [
        int(_log_probabilities(model, tokenizer, choice, device).argmax()) == choice.answer
        for choice in progress(choices)
    ]
    return torch.tensor(right)


def _log_probabilities(
    model: LanguageModel, tokenizer: "Tokenizer", choice: "Choice", device: torch.device
) -> torch.Tensor:
    """The log-probability of each option after the prompt, (options,)."""

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    prompt, options = ids(choice.prompt), [ids(option) for option in choice.options]
    rows = [torch.tensor([*prompt, *option[:-1]]) for option in options]
    if all(len(option) == 1 for option in options):
        rows = rows[:1]  # all rows are the prompt
    # Padding at the end changes nothing: a token sees only those before it.
    batch = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)
    found = _logits(model, batch)[:, len(prompt) - 1 :].log_softmax(2).cpu()
    sums = [
        row[range(len(option)), option].sum()
        for row, option in zip(found.expand(len(options), -1, -1), options, strict=True)
    ]
    return torch.stack(sums)


def written(model: Any, tokenizer: "Tokenizer", prompt: str, tokens: int = 30) -> str:
    """What ``model`` writes after ``prompt``: always the most probable token (greedy decoding).

    Args:
        model: of ``transformers``.
        tokens: how many are written, at most.
    """
    ids = torch.tensor([tokenizer.encode(prompt, add_special_tokens=False).ids])
    ids = ids.to(next(model.parameters()).device)
    mask = torch.ones_like(ids)
    whole = model.generate(ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False)
    return tokenizer.decode(whole[0, ids.shape[1] :].tolist())


# --- bytes and milliseconds ---------------------------------------------------------------------


def kv_cache_bytes(
    layers: int,
    key_value_heads: int,
    head_dim: int,
    length: int,
    batch: int = 1,
    bytes_per_number: int = 2,
) -> int:
    """Bytes of the keys and values of ``length`` tokens, in all layers.

    Grouped-query attention (Ainslie et al., 2023) divides them by the number of query heads that
    share a key/value head.
    """
    return 2 * layers * key_value_heads * head_dim * length * batch * bytes_per_number


def milliseconds_a_token(
    weight_bytes: float, gigabytes_per_second: float, cache_bytes: float = 0.0
) -> float:
    """The least time to decode one token: all weights and the whole cache are read once.

    At batch 1 each weight that is read serves one multiplication, so the memory is the ceiling
    (Williams, Waterman and Patterson, 2009).
    """
    return (weight_bytes + cache_bytes) / gigabytes_per_second / 1e6
