"""The recording of the language model, with a tiny one: what goes, what is measured."""

import json

import pytest
import torch
from decoders_made import tiny_decoder, tiny_tokenizer

from course_lib.experiments import language_model, recordings
from course_lib.experiments.language_model import PLAN, Subject, Variant
from course_lib.experiments.recorder import record
from course_lib.networks import texts
from course_lib.networks.texts import Windows
from course_lib.pruning import decoders, masks


def small(variant: Variant) -> Variant:
    """The variant with fewer blocks, as the tiny model has only a few."""
    return variant._replace(amount="1") if variant.way.endswith("blocks") else variant


@pytest.fixture(scope="module")
def about():
    novel = texts.novel(texts.TEST)
    tokenizer = tiny_tokenizer([novel[:30_000]], size=800)
    windows = texts.windows(tokenizer, novel, 6, length=24)
    return Subject(
        tiny_decoder(blocks=4, vocabulary=tokenizer.get_vocab_size(), neurons=320),
        tokenizer,
        measured=windows[:2],
        calibration=windows[2:4],
        reviews=windows[4:5],
        training=Windows(windows[4:]),
        next_words=texts.next_words(tokenizer, novel, 4),
        capitals=texts.capitals()[:3],
    )


@pytest.fixture(scope="module")
def dense(about):
    return language_model.answers(about.model, about)


def test_the_plan_has_everything_once():
    assert len(set(PLAN)) == len(PLAN)
    ways = {variant.way for variant in PLAN}
    assert {*language_model.METHODS, "blocks", "neurons", "groups", "vocabulary"} <= ways
    for method in language_model.METHODS:
        amounts = {one.amount for one in PLAN if one.way == method and one.form == "float32"}
        assert amounts == {*language_model.PATTERNS} - {"10 %"}


@pytest.mark.parametrize(
    "variant", [one for one in PLAN if one.form == "float32" and not one.steps], ids=str
)
def test_each_variant_is_smaller_and_the_dense_model_unchanged(variant, about):
    variant = small(variant)
    before = {name: value.clone() for name, value in about.model.state_dict().items()}
    made = language_model.pruned(variant, about)
    after = about.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    count = sum(int(each.count_nonzero()) for each in made.parameters())
    whole = sum(int(each.count_nonzero()) for each in about.model.parameters())
    assert count == whole if variant.way in ("dense", "vocabulary") else count < whole


def test_an_unknown_way_is_refused(about):
    with pytest.raises(ValueError, match="no way 'heads'"):
        language_model.pruned(Variant("heads", "50 %"), about)


def test_deep_blocks_spare_the_last(about):
    assert language_model.removed_blocks("deep blocks", 2, about) == [1, 2]
    influences = decoders.influences(about.model, about.calibration)
    (least,) = language_model.removed_blocks("blocks", 1, about)
    assert influences[least] == min(influences)


def test_a_fine_tune_learns_the_text_and_keeps_the_zeros(about):
    model = language_model.pruned(Variant("magnitude", "50 %"), about)
    zeros = {name: weight == 0 for name, weight in model.named_parameters() if weight.dim() > 1}

    def loss():
        with torch.inference_mode():
            ids = about.training.ids
            return language_model.next_token(model(ids), ids, ids).item()

    before = loss()
    language_model.tuned(model, about.training, steps=30)
    assert loss() < before
    sparse = masks.masks_of(model)
    assert all((model.get_parameter(name)[zeros[name]] == 0).all() for name in sparse)


def test_quality_is_beside_the_dense_model(about, dense):
    same = language_model.quality(dense, dense)
    assert same["ratio"] == [1, 1, 1]
    assert same["next_word"]["only_dense"] == same["capitals"]["only_pruned"] == 0
    other = dense._replace(losses=dense.losses + 0.5, next_words=~dense.next_words)
    found = language_model.quality(other, dense)
    assert found["ratio"] == pytest.approx([1.649] * 3, abs=1e-3)
    assert found["next_word"]["accuracy"] == 100 - same["next_word"]["accuracy"]


def test_zeros_are_stored_as_a_bitmask(about):
    whole = language_model.stored_bytes(about.model)
    assert whole == 2 * sum(each.numel() for each in about.model.parameters())
    half = language_model.stored_bytes(language_model.pruned(Variant("magnitude", "50 %"), about))
    blocks = sum(
        about.model.get_submodule(name).weight.numel()
        for name in decoders.linear_layers(about.model)
    )
    assert half == pytest.approx(whole - blocks * (1 - 1 / 8), rel=0.01)


def test_the_recording_is_complete_and_resumes(about, monkeypatch, tmp_path):
    monkeypatch.setattr(language_model, "subject", lambda: about)
    monkeypatch.setattr(language_model, "STEPS", 2)
    plan = [
        Variant(),
        Variant("Wanda", "50 %"),
        Variant("blocks", "1"),
        Variant("neurons", "50 %", steps=2),
        Variant(form="int4"),
    ]
    monkeypatch.setattr(language_model, "PLAN", plan)
    monkeypatch.setattr(language_model, "GROUPS", {})
    monkeypatch.setattr(language_model.generation, "bandwidth", lambda threads: 10.0 * threads)
    path = record("language_model", path=tmp_path / "recording.json", device="cpu")
    found = recordings.read(path, "language_model")
    assert [one["way"] for one in found["points"]] == [one.way for one in plan]
    assert found["points"][0]["ratio"] == [1, 1, 1]
    assert all(one["bytes"] > 0 and one["macs"] > 0 for one in found["points"])
    assert len(found["influences"]) == 4
    text = json.loads(path.read_text())
    text["points"].pop()
    path.write_text(json.dumps(text))
    record("language_model", path=path, device="cpu")
    again = recordings.read(path)
    assert again["points"] == found["points"]


def test_all_groups_are_timed_beside_the_dense_model(about, monkeypatch):
    seen = []

    def timed(folders, prompt, threads, rounds, seconds):
        seen.append((len(folders), tuple(prompt.shape), threads))
        one = {"median": 1.0, "quartiles": [1.0, 1.0], "rounds": 9, "speedup": 1.0}
        return {name: {"first": one, "further": one} for name in folders}

    monkeypatch.setattr(language_model.generation, "timed", timed)
    monkeypatch.setattr(language_model, "FIRST_TOKENS", 300)
    variants = [Variant(form="int4"), Variant("blocks", "1")]
    found = language_model.timed(variants, about)
    assert [one["form"] for one in found] == ["int4", "float32"]
    assert seen == [(3, (1, 24), 1), (3, (1, 24), 2)]
    assert found[0]["read"] < found[1]["read"]
