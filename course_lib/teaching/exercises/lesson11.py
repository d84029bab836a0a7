"""The exercises of lesson 11: perplexity, the bytes of a token, and what a decoder can lose."""

import math

import torch
from torch.nn import functional as F

from course_lib.measuring.language import milliseconds_a_token, token_losses
from course_lib.pruning.decoders import group_rows, influence, narrower_norm
from course_lib.teaching.exercises.engine import Exercise, Mistake


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


# --- 11.1: token_losses is the library's --------------------------------------------------------


def _token_cases() -> list[tuple]:
    ids = torch.tensor([[1, 4, 0, 4, 2], [3, 3, 1, 0, 2], [0, 1, 2, 3, 4]])
    return [
        (torch.tensor([[[2.0, 0.0], [0.0, 1.0]]]), torch.tensor([[0, 1]])),
        (torch.zeros(1, 3, 4), torch.tensor([[2, 2, 1]])),  # every token is equally probable
        (torch.tensor([[[1.0, 0.0]]]), torch.tensor([[1]])),  # nothing to predict
        (torch.tensor([[[2000.0, 0.0, -1.0], [0.0, 9.0, 0.0]]]), torch.tensor([[2, 1]])),
        (3 * _random(3, 5, 6), ids),
        (_random(2, 4, 5, seed=1), ids[:2, :4]),
    ]


def _at_the_ids(values: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Of (N, L, V) the numbers of the tokens ``ids``, (N, L)."""
    return values.gather(2, ids[:, :, None])[:, :, 0]


TOKEN_LOSSES = Exercise(
    id="11.1",
    title="the loss of each token",
    difficulty=2,
    minutes=10,
    reference=token_losses,
    cases=_token_cases,
    hints=(
        "The logits at a place are about the *next* token: those at place 0 predict `ids[:, 1]`.",
        "So drop the last place of the logits and the first of the ids. Nothing follows the last "
        "token, and nothing predicts the first.",
        "`torch.log_softmax(logits, dim=2)` has the log-probability of every token of the "
        "vocabulary; `gather` picks one of each, and `F.cross_entropy(..., reduction='none')` does "
        "both for classes in dimension 1.",
    ),
    mistakes=(
        Mistake(
            lambda logits, ids: -_at_the_ids(logits.log_softmax(2), ids),
            "You compared the logits with the token at the same place, which the model has just "
            "read. They are about the next one: shift by one.",
        ),
        Mistake(
            lambda logits, ids: -_at_the_ids(logits.log_softmax(2), ids)[:, 1:],
            "You left out the first token, but did not shift: each token is still compared with "
            "the logits at its own place, not with those before it.",
        ),
        Mistake(
            lambda logits, ids: -_at_the_ids(logits[:, 1:].log_softmax(2), ids[:, :-1]),
            "You shifted the wrong way: the logits are compared with the token *before* them. Drop "
            "the last place of the logits and the first of the ids.",
        ),
        Mistake(
            lambda logits, ids: token_losses(logits, ids) / math.log(2),
            "Those are bits. Take the natural logarithm: nats, whose exponential is a perplexity.",
        ),
        Mistake(
            lambda logits, ids: torch.exp(-token_losses(logits, ids)),
            "Those are the probabilities. The loss is minus their logarithm.",
        ),
        Mistake(
            lambda logits, ids: -token_losses(logits, ids),
            "The sign is reversed. A logarithm of a probability is negative, a loss is positive.",
        ),
        Mistake(
            lambda logits, ids: token_losses(logits, ids).mean(),
            "You took the mean at once. Return one loss per token; the mean of a window, and its "
            "interval, come later.",
        ),
        Mistake(
            lambda logits, ids: -_at_the_ids(logits[:, :-1].log_softmax(1), ids[:, 1:]),
            "Your softmax runs over the places of the text. The probabilities of the *vocabulary* "
            "add up to 1: the last dimension.",
        ),
        Mistake(
            lambda logits, ids: -_at_the_ids(logits[:, :-1], ids[:, 1:]),
            "Those are the logits themselves. A softmax makes them probabilities.",
        ),
        Mistake(
            lambda logits, ids: -_at_the_ids(logits[:, :-1].softmax(2).log(), ids[:, 1:]),
            "A very improbable token has a probability that rounds to zero, and the loss becomes "
            "infinite. `log_softmax` computes the logarithm without the probability.",
        ),
    ),
)


# --- 11.2 ---------------------------------------------------------------------------------------


def perplexity(losses: torch.Tensor) -> float:
    """The exponential of the mean over all tokens; ``measuring.language`` adds an interval."""
    return math.exp(losses.mean())


def _losses_cases() -> list[tuple]:
    return [
        (torch.tensor([[0.0, 2.0]]).double(),),
        (torch.full((1, 3), math.log(20), dtype=torch.double),),  # one of 20 equally probable
        (torch.zeros(2, 2).double(),),  # always sure, and right
        (torch.tensor([[1.0], [5.0]]).double(),),
        (4 * _random(3, 8).abs(),),
        (3 + _random(5, 6, seed=1),),
    ]


PERPLEXITY = Exercise(
    id="11.2",
    title="perplexity",
    difficulty=1,
    minutes=5,
    reference=perplexity,
    cases=_losses_cases,
    hints=(
        "It is the inverse of the geometric mean of the probabilities.",
        "First the mean of all losses, windows and tokens alike; then one exponential.",
        "The losses are in nats, so the base is e. Return a float: `math.exp`, or `.item()`.",
    ),
    mistakes=(
        Mistake(
            lambda losses: losses.exp().mean().item(),
            "You took the mean of the exponentials. A single improbable token would decide it: "
            "take the mean first, then one exponential.",
        ),
        Mistake(
            lambda losses: losses.mean(1).exp().mean().item(),
            "You took the mean of the windows' perplexities. The exponential comes last, after the "
            "mean over all tokens.",
        ),
        Mistake(
            lambda losses: losses.sum().exp().item(),
            "You added up the losses: that grows with the length of the text. Take the mean.",
        ),
        Mistake(
            lambda losses: losses.sum(1).mean().exp().item(),
            "You took the mean over the windows, of sums over their tokens. Divide by the number "
            "of tokens as well.",
        ),
        Mistake(
            lambda losses: 2 ** losses.mean().item(),
            "The losses are in nats, so the base is e. Two to the power of them belongs to bits.",
        ),
        Mistake(
            lambda losses: math.exp(-losses.mean()),
            "Drop the minus sign: a loss is minus a logarithm already. That is the geometric mean "
            "of the probabilities; perplexity is its inverse.",
        ),
        Mistake(
            lambda losses: losses.mean().item(),
            "That is the mean loss, the cross-entropy. Perplexity is its exponential.",
        ),
        Mistake(
            lambda losses: math.exp(losses.median()),
            "You took the median, which ignores how improbable the improbable tokens are. Take the "
            "mean.",
        ),
    ),
)


# --- 11.3 ---------------------------------------------------------------------------------------


def cache_bytes(
    layers: int,
    query_heads: int,
    key_value_heads: int,
    head_dim: int,
    length: int,
    batch: int,
    bytes_per_number: int,
) -> int:
    """A key and a value of each key/value head, for every token, in every layer.

    It is ``measuring.language.kv_cache_bytes``, which is not given ``query_heads``.
    """
    del query_heads  # queries are used once, and not stored
    return 2 * layers * key_value_heads * head_dim * length * batch * bytes_per_number


def _cache_cases() -> list[tuple]:
    return [
        (1, 2, 1, 4, 3, 1, 2),
        (2, 3, 3, 4, 5, 1, 4),  # no groups: multi-head attention
        (3, 8, 1, 2, 7, 2, 1),  # one group: multi-query attention
        (2, 4, 2, 8, 0, 1, 2),  # before the first token
        (30, 9, 3, 64, 2048, 1, 2),
        (32, 32, 8, 128, 8192, 16, 2),
    ]


CACHE_BYTES = Exercise(
    id="11.3",
    title="bytes of a cache of keys and values",
    difficulty=2,
    minutes=7,
    reference=cache_bytes,
    cases=_cache_cases,
    hints=(
        "Which of query, key and value does a later token need again?",
        "For one token of one sequence, each layer stores a key and a value of `head_dim` numbers "
        "for every key/value head.",
        "Then multiply: by the layers, by the tokens of a sequence, by the sequences of a batch, "
        "by the bytes of a number.",
    ),
    mistakes=(
        Mistake(
            lambda layers, queries, pairs, dim, length, batch, size: (
                2 * layers * queries * dim * length * batch * size
            ),
            "You counted the query heads. They share the keys and values of their group, which are "
            "stored once: that is what grouped-query attention is for.",
        ),
        Mistake(
            lambda layers, queries, pairs, dim, length, batch, size: (
                layers * pairs * dim * length * batch * size
            ),
            "You counted keys or values. Both are stored.",
        ),
        Mistake(
            lambda layers, queries, pairs, dim, length, batch, size: (
                layers * (queries + 2 * pairs) * dim * length * batch * size
            ),
            "You stored the queries, too. A query is used once, by its own token; later tokens "
            "need only keys and values.",
        ),
        Mistake(
            lambda layers, queries, pairs, dim, length, batch, size: (
                2 * pairs * dim * length * batch * size
            ),
            "That is one layer. Each layer has keys and values of its own.",
        ),
        Mistake(
            lambda layers, queries, pairs, dim, length, batch, size: (
                2 * layers * pairs * dim * length * batch
            ),
            "That is how many numbers are stored. Multiply by the bytes of each.",
        ),
        Mistake(
            lambda layers, queries, pairs, dim, length, batch, size: (
                2 * layers * pairs * dim * length * batch * size * 8
            ),
            "Those are bits. The size of a number is given in bytes already.",
        ),
        Mistake(
            lambda layers, queries, pairs, dim, length, batch, size: (
                2 * layers * pairs * dim * length * size
            ),
            "You left out the batch. Sequences share the weights, but not the cache: each has its "
            "own.",
        ),
        Mistake(
            lambda layers, queries, pairs, dim, length, batch, size: (
                2 * layers * pairs * dim * length**2 * batch * size
            ),
            "The scores of attention grow with the square of the length. The cache grows with the "
            "length: a key and a value per token.",
        ),
        Mistake(
            lambda layers, queries, pairs, dim, length, batch, size: (
                2 * layers * (queries // pairs) * dim * length * batch * size
            ),
            "You multiplied by the query heads in a group. Count the groups: each has one "
            "key/value head.",
        ),
    ),
)


# --- 11.4: milliseconds_a_token is the library's ------------------------------------------------


def _token_time_cases() -> list[tuple]:
    return [
        (2e9, 1.0, 0.0),
        (1e9, 10.0, 1e9),
        (0.0, 4.0, 3e8),
        (269e6, 12.5, 47e6),
        (14e9, 1008.0, 1e9),
        (3.5e9, 50.0, 8.6e9),  # the cache outweighs the weights
    ]


TOKEN_TIME = Exercise(
    id="11.4",
    title="milliseconds a token",
    difficulty=1,
    minutes=5,
    reference=milliseconds_a_token,
    cases=_token_time_cases,
    hints=(
        "To compute one token, each weight and each key and value in the cache is read once.",
        "A gigabyte is 1e9 bytes. Bytes over bytes per second are seconds.",
        "How many milliseconds is a second?",
    ),
    mistakes=(
        Mistake(
            lambda weight_bytes, gigabytes_per_second, cache_bytes: (
                (weight_bytes + cache_bytes) / (gigabytes_per_second * 2**30) * 1e3
            ),
            "You took 2 to the power of 30 bytes, a GiB. Bandwidths are given in GB: 1e9 bytes.",
        ),
        Mistake(
            lambda weight_bytes, gigabytes_per_second, cache_bytes: (
                (weight_bytes + cache_bytes) / gigabytes_per_second / 1e9
            ),
            "Those are seconds. Return milliseconds.",
        ),
        Mistake(
            lambda weight_bytes, gigabytes_per_second, cache_bytes: (
                weight_bytes / gigabytes_per_second / 1e6
            ),
            "You left out the cache. The keys and values of all earlier tokens are read, too.",
        ),
        Mistake(
            lambda weight_bytes, gigabytes_per_second, cache_bytes: (
                max(weight_bytes, cache_bytes) / gigabytes_per_second / 1e6
            ),
            "You took the larger of the two. Moving and multiplying may overlap, but weights and "
            "cache come through the same memory: add them.",
        ),
        Mistake(
            lambda weight_bytes, gigabytes_per_second, cache_bytes: (
                (weight_bytes + cache_bytes) / 2 / gigabytes_per_second / 1e6
            ),
            "You divided by 2, as if to count weights or MACs. A bandwidth is in bytes, and so are "
            "the arguments.",
        ),
        Mistake(
            lambda weight_bytes, gigabytes_per_second, cache_bytes: (
                (weight_bytes + cache_bytes) * 8 / gigabytes_per_second / 1e6
            ),
            "You counted bits. The bandwidth of a memory is in bytes per second.",
        ),
        Mistake(
            lambda weight_bytes, gigabytes_per_second, cache_bytes: (
                gigabytes_per_second * 1e9 / (weight_bytes + cache_bytes)
            ),
            "Those are tokens per second. Return the milliseconds of one token.",
        ),
        Mistake(
            lambda weight_bytes, gigabytes_per_second, cache_bytes: (
                (weight_bytes + 2 * cache_bytes) / gigabytes_per_second / 1e6
            ),
            "You counted the cache twice. `cache_bytes` includes the keys and the values; the "
            "one new entry that is written hardly counts.",
        ),
    ),
)


# --- 11.5: group_rows is the library's ----------------------------------------------------------


def _group_cases() -> list[tuple]:
    return [
        (0, 4, 2, 1),
        (1, 4, 2, 2),
        (1, 2, 2, 3),  # a query head for each key/value head
        (0, 3, 1, 2),  # a single key/value head
        (2, 9, 3, 4),
        (0, 6, 2, 3),
    ]


def _head_rows(heads: range, head_dim: int) -> list[int]:
    return [head * head_dim + step for head in heads for step in range(head_dim)]


def _rows_of_head(group: int, head_dim: int) -> list[int]:
    return _head_rows(range(group, group + 1), head_dim)


GROUP_ROWS = Exercise(
    id="11.5",
    title="the rows of a group of heads",
    difficulty=3,
    minutes=10,
    reference=group_rows,
    cases=_group_cases,
    hints=(
        "How many query heads share a key/value head? Divide.",
        "With 4 query heads on 2 key/value heads, the query heads 0 and 1 use the first, 2 and 3 "
        "the second.",
        "Head h has the rows h * head_dim to (h + 1) * head_dim - 1. The second list is that of "
        "head `group`; the first that of several query heads in a row.",
    ),
    mistakes=(
        Mistake(
            lambda group, query_heads, key_value_heads, head_dim: (
                _head_rows(range(group, query_heads, key_value_heads), head_dim),
                _rows_of_head(group, head_dim),
            ),
            "You assigned the query heads to the groups in turn. Those of a group are "
            "*neighbours*: the first ones use key/value head 0, the next ones 1.",
        ),
        Mistake(
            lambda group, query_heads, key_value_heads, head_dim: (
                _rows_of_head(group, head_dim),
                _rows_of_head(group, head_dim),
            ),
            "That is one query head. All query heads that share a key/value head go with it.",
        ),
        Mistake(
            lambda group, query_heads, key_value_heads, head_dim: (
                group_rows(group, query_heads, key_value_heads, head_dim)[0],
                group_rows(group, query_heads, key_value_heads, head_dim)[0],
            ),
            "You removed the query's rows from keys and values as well. These have fewer heads: "
            "one per group.",
        ),
        Mistake(
            lambda group, query_heads, key_value_heads, head_dim: (
                _rows_of_head(group * (query_heads // key_value_heads), head_dim),
                _rows_of_head(group, head_dim),
            ),
            "That is the first query head of the group. The others use the same keys and values, "
            "so they go, too.",
        ),
        Mistake(
            lambda group, query_heads, key_value_heads, head_dim: group_rows(
                group, query_heads, key_value_heads, 1
            ),
            "Those are the numbers of heads. A head is `head_dim` rows.",
        ),
        Mistake(
            lambda group, query_heads, key_value_heads, head_dim: (
                _head_rows(range(group, group + query_heads // key_value_heads), head_dim),
                _rows_of_head(group, head_dim),
            ),
            "Your query heads begin at head `group`. The groups before it have several query heads "
            "each: begin after all of those.",
        ),
        Mistake(
            lambda group, query_heads, key_value_heads, head_dim: tuple(
                [head + step * heads for step in range(head_dim) for head in there]
                for heads, there in (
                    (query_heads, group_rows(group, query_heads, key_value_heads, 1)[0]),
                    (key_value_heads, [group]),
                )
            ),
            "You took every n-th row, as if the heads were interleaved. The rows of a head are "
            "adjacent.",
        ),
        Mistake(
            lambda group, query_heads, key_value_heads, head_dim: group_rows(
                group, query_heads, key_value_heads, head_dim
            )[::-1],
            "The two lists are swapped: first the rows of `q_proj`, then those of `k_proj` and "
            "`v_proj`.",
        ),
    ),
)


# --- 11.6: narrower_norm is the library's -------------------------------------------------------


def _norm_cases() -> list[tuple]:
    return [
        (torch.tensor([1.0, 2.0]), 0.5, [1]),
        (torch.tensor([1.0, 1.0, 1.0, 1.0]), 0.01, [0]),
        (torch.tensor([1.0, 2.0, 3.0]), 0.1, [0, 1, 2]),  # nothing goes
        (torch.tensor([-1.0, 2.0, 0.5, 3.0]), 0.2, [3, 0]),
        (_random(9), 1e-5, [0, 2, 3, 7]),
        (_random(12, seed=1), 0.0, [1, 5, 6, 10]),
    ]


def _scaled(
    weight: torch.Tensor, epsilon: float, kept: list[int], of_weight: float, of_epsilon: float
) -> tuple[torch.Tensor, float]:
    """The kept weights and epsilon, each times a power of width / kept."""
    grown = len(weight) / len(kept)
    return weight[kept] * grown**of_weight, epsilon * grown**of_epsilon


def _zeroed_channels(
    weight: torch.Tensor, epsilon: float, kept: list[int]
) -> tuple[torch.Tensor, float]:
    narrow, epsilon = narrower_norm(weight, epsilon, kept)
    return torch.zeros_like(weight).index_copy(0, torch.tensor(kept), narrow), epsilon


NARROWER_NORM = Exercise(
    id="11.6",
    title="a narrower RMSNorm",
    difficulty=4,
    minutes=12,
    reference=narrower_norm,
    cases=_norm_cases,
    hints=(
        "Channels that are zero add nothing to the sum of squares. What do they change in the "
        "*mean* of squares?",
        "With half of the channels the mean of squares is twice as large, and its root is "
        "sqrt(2) times as large.",
        "Let g be width / kept. sqrt(g * mean + g * epsilon) is sqrt(g) * sqrt(mean + epsilon): "
        "scale epsilon by g, and the weight by what undoes the sqrt(g).",
    ),
    mistakes=(
        Mistake(
            lambda weight, epsilon, kept: _scaled(weight, epsilon, kept, 0, 0),
            "You only selected the weights. The mean of squares is now over fewer channels, so "
            "the norm divides by more than before.",
        ),
        Mistake(
            lambda weight, epsilon, kept: _scaled(weight, epsilon, kept, -0.5, -1),
            "Both factors are inverted. The mean of squares grew, so the norm divides by more: the "
            "weight must grow, too.",
        ),
        Mistake(
            lambda weight, epsilon, kept: _scaled(weight, epsilon, kept, 1, 1),
            "You scaled the weight by width / kept. The norm divides by the *root* of the mean of "
            "squares: take the root of that factor.",
        ),
        Mistake(
            lambda weight, epsilon, kept: _scaled(weight, epsilon, kept, 0.5, 0),
            "The weight is right. Epsilon is added to a mean of squares that has grown: it has to "
            "grow with it, or tokens of small norm come out larger than before.",
        ),
        Mistake(
            lambda weight, epsilon, kept: _scaled(weight, epsilon, kept, 0.5, 0.5),
            "Epsilon stands under the root, beside the mean of squares: it needs the whole factor, "
            "not its root.",
        ),
        Mistake(
            lambda weight, epsilon, kept: _scaled(weight, epsilon, kept, 0.5, -1),
            "You shrank epsilon. It is compared with a mean of squares that has grown.",
        ),
        Mistake(
            lambda weight, epsilon, kept: _scaled(weight, epsilon, kept, -0.5, 1),
            "Epsilon is right, but the weight is divided. The norm divides by more than before, "
            "and the weight has to make up for it.",
        ),
        Mistake(
            lambda weight, epsilon, kept: narrower_norm(weight, epsilon, sorted(kept)),
            "You sorted the channels. Keep them in the order of `kept`, which is that of the "
            "stream.",
        ),
        Mistake(
            _zeroed_channels,
            "The weights of the other channels are zero but still there. Return those of `kept` "
            "only.",
        ),
    ),
)


# --- 11.7: influence is the library's -----------------------------------------------------------


def _stream_cases() -> list[tuple]:
    before = _random(6, 5)
    louder = before * torch.tensor([[1.0], [9.0], [1.0], [1.0], [4.0], [1.0]])
    return [
        (torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])),
        (torch.tensor([[3.0, 4.0]]), torch.tensor([[-3.0, -4.0]])),
        (before, before),  # a block that does nothing
        (before, louder),  # one that only rescales
        (louder, before + _random(6, 5, seed=1)),
        (_random(2, 3, 4), _random(2, 3, 4, seed=2)),
    ]


def _product(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    return (before * after).sum(-1)


BLOCK_INFLUENCE = Exercise(
    id="11.7",
    title="the influence of a block",
    difficulty=2,
    minutes=8,
    reference=influence,
    cases=_stream_cases,
    hints=(
        "A token is a vector: the last dimension. Compare it before and after the block.",
        "`F.cosine_similarity(before, after, dim=-1)` has one number per token: 1 for the same "
        "direction.",
        "Take the mean over all tokens and subtract it from 1. Return a float.",
    ),
    mistakes=(
        Mistake(
            lambda before, after: float(F.cosine_similarity(before, after, dim=-1).mean()),
            "That is the similarity: largest for a block that does nothing. Subtract it from 1.",
        ),
        Mistake(
            lambda before, after: influence(
                before.flatten(0, -2).mean(0), after.flatten(0, -2).mean(0)
            ),
            "You compared the mean of all tokens. Changes that differ from token to token cancel "
            "in it: take one cosine per token, then the mean.",
        ),
        Mistake(
            lambda before, after: influence(before.flatten(), after.flatten()),
            "You made one long vector of all tokens, in which those of large norm decide. Take one "
            "cosine per token, then the mean.",
        ),
        Mistake(
            lambda before, after: float((after - before).norm(dim=-1).mean()),
            "That is how far the tokens move, which depends on the size of the stream. It grows "
            "from block to block, and the last ones would always look important.",
        ),
        Mistake(
            lambda before, after: float(
                ((after - before).norm(dim=-1) / before.norm(dim=-1)).mean()
            ),
            "That is the relative distance. The cosine ignores a change of the length, because the "
            "next norm undoes it anyway.",
        ),
        Mistake(
            lambda before, after: float(1 - F.cosine_similarity(before, after, dim=0).mean()),
            "You compared channels. A token is a vector along the *last* dimension: dim=-1.",
        ),
        Mistake(
            lambda before, after: float((1 - F.cosine_similarity(before, after, dim=-1)).sum()),
            "You added up the tokens, so a longer text gives a larger influence. Take the mean.",
        ),
        Mistake(
            lambda before, after: float(1 - _product(before, after).mean()),
            "That is the product of the vectors. A cosine is divided by both norms.",
        ),
        Mistake(
            lambda before, after: float(
                1 - F.cosine_similarity(before, after, dim=-1).abs().mean()
            ),
            "You dropped the sign of the cosine. A token that is turned around has changed as much "
            "as possible, not at all as little.",
        ),
        Mistake(
            lambda before, after: float(
                torch.arccos(F.cosine_similarity(before, after, dim=-1).clamp(-1, 1)).mean()
                / math.pi
            ),
            "That is the angle as a share of half a turn, which Gromov et al. (2024) use. Here: 1 "
            "minus the cosine (Men et al., 2024).",
        ),
    ),
)

EXERCISES = [
    TOKEN_LOSSES,
    PERPLEXITY,
    CACHE_BYTES,
    TOKEN_TIME,
    GROUP_ROWS,
    NARROWER_NORM,
    BLOCK_INFLUENCE,
]
