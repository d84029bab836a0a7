"""Every table of the recording is right, and the experiment resumes after an interruption."""

import pytest
import sentences
import torch
from interruptions import each, interrupt

from course_lib.deployment import forms
from course_lib.experiments import recorder, recordings, transformer
from course_lib.experiments.minilm_steps import EncoderStep, apply_step, load
from course_lib.experiments.recorder import record
from course_lib.experiments.recordings import network_file, recorded_file
from course_lib.experiments.transformer import PLAN, one_shot
from course_lib.measuring.quality import Evaluation
from course_lib.networks import minilm
from course_lib.networks.data import Splits
from course_lib.networks.minilm import PAD, Sentences
from course_lib.pruning import encoders, masks

WEIGHTS = "0123abcd"

SMALL_PLAN = {
    "half": EncoderStep("dense", heads=0.5, neurons=0.5, epoch_fraction=1 / 3, distilled=True),
    "few": EncoderStep("half", layers=1, weights=0.5, codebook_size=7),
}


@pytest.fixture
def network(monkeypatch):
    return sentences.network(monkeypatch)


@pytest.fixture
def data():
    return sentences.splits()


def test_each_network_of_the_plan_is_made_of_an_earlier_one():
    known = ["dense"]
    for name, step in PLAN.items():
        assert step.source in known
        known.append(name)
    assert set(transformer.KEPT) <= PLAN.keys()
    assert set(transformer.RETRAINED) <= transformer.PATTERNS.keys()


# --- layers and heads, one at a time ------------------------------------------------------------


def test_changes_without_a_head_are_those_of_ablation(network, data):
    found = transformer.ablated_heads(network, data.validation, 1)
    graph = encoders.encoder_graph(network)
    for kind, digits in (("accuracy", 0.011), ("loss", 1e-3)):
        expected = encoders.ablation(network, graph, "1.heads", MEASURES[kind](data.validation))
        assert [row[kind] for row in found] == pytest.approx(expected.tolist(), abs=digits)
    assert [(row["layer"], row["head"]) for row in found] == [(1, head) for head in range(4)]


MEASURES = {
    "accuracy": lambda data: lambda model: minilm.accuracy(model, data),
    "loss": lambda data: lambda model: float(transformer.losses(model, data).mean()),
}


def test_without_a_layer_is_what_is_left_when_it_is_dropped(network, data):
    found = transformer.without_layer(network, data.validation, 2)
    smaller = encoders.prune(network, {}, [2])
    for kind, digits in (("accuracy", 0.011), ("loss", 1e-3)):
        measure = MEASURES[kind](data.validation)
        assert found[kind] == pytest.approx(measure(smaller) - measure(network), abs=digits)
    assert found["layer"] == 2


# --- single weights, in one shot ----------------------------------------------------------------


@pytest.mark.parametrize("method", transformer.METHODS)
@pytest.mark.parametrize("pattern", ["80 %", "2:4"])
def test_one_shot_prunes_the_linear_layers_of_the_encoder(network, data, method, pattern):
    found = masks.prunable(one_shot(network, method, pattern, data.train))
    for name, weight in masks.prunable(network).items():
        zeros = float((found[name] == 0).double().mean())
        wanted = {"80 %": 0.8, "2:4": 0.5}[pattern] if name.startswith("bert.encoder") else 0.0
        assert zeros == pytest.approx(wanted, abs=0.02)
        changed = not torch.equal(found[name][found[name] != 0], weight[found[name] != 0])
        assert changed == (method == "SparseGPT" and wanted > 0)


def test_batches_of_one_length_hold_every_sentence_without_padding(data):
    batches = transformer.of_one_length(data.train.ids)
    assert all(bool((batch != PAD).all()) for batch in batches)
    assert sum(batch.numel() for batch in batches) == int((data.train.ids != PAD).sum())
    assert len({batch.shape[1] for batch in batches}) == len(batches)


# --- in the runtime -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured():
    """The recorded measurements of a tiny network and of its half, in the runtime."""
    with pytest.MonkeyPatch.context() as patched:
        network, data = sentences.network(patched), sentences.splits()
        half, _ = apply_step(
            EncoderStep("dense", heads=0.5, neurons=0.5), network, data, None, lambda _: {}
        )
        return transformer.measure({"dense": network, "half": half}, data, rounds=6, seconds=0)


def test_every_network_is_measured_in_every_form(measured):
    found = {(point["network"], point["form"]): point for point in measured["points"]}
    names = ("whole vocabulary", "dense", "half")
    assert [*found] == [(name, form) for name in names for form in forms.FORMS]
    for name in names:
        exact, quantized, packed = (found[name, form] for form in forms.FORMS)
        assert exact["bytes"] > max(quantized["bytes"], packed["bytes"]) > 0
        assert exact["macs"] == quantized["macs"] == packed["macs"]
        assert packed["accuracy"] == exact["accuracy"]
    whole, dense, half = (found[name, "float32"] for name in names)
    assert whole["bytes"] > 5 * dense["bytes"] and whole["macs"] == dense["macs"] > half["macs"]
    assert whole["accuracy"] == dense["accuracy"] and whole["one thread"]["speedup"] == 1
    assert found["whole vocabulary", "int8"]["bytes"] < whole["bytes"] / 3


def test_products_run_in_int8_and_the_rest_falls_back(measured):
    found = {(row["runs_in"], row["operator"]): row["count"] for row in measured["operators"]}
    in_int8 = sum(count for (where, _), count in found.items() if where == "int8")
    assert in_int8 >= 3 * 6 and found["float32", "Softmax"] == 3
    assert found["between", "DynamicQuantizeLinear"] > 0


@pytest.mark.slow
def test_accuracy_in_the_runtime_is_that_of_torch(network, data, tmp_path):
    exact, quantized = transformer.deployed(network, "a", tmp_path).values()
    expected = minilm.accuracy(network, data.test)
    assert transformer.runtime_accuracy(exact, data.test) == expected
    assert transformer.runtime_accuracy(quantized, data.test) == pytest.approx(expected, abs=9)


def test_the_runtime_is_timed_on_tokens_without_padding(data):
    found = transformer.first_tokens(data.test, 12)
    assert found.shape == (1, 12) and bool((found != PAD).all())
    assert found[0, :5].tolist() == data.test.ids[0, :5].tolist()


# --- the recording ------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch, network, measured):
    """A small plan with given measurements; returns the steps that were taken."""
    made, part = [], sentences.reviews()

    def noted(step, *arguments, **options):
        made.append(step)
        return apply_step(step, *arguments, **options)

    tokenizer = minilm.build_tokenizer(sentences.PIECES)
    monkeypatch.setattr(minilm, "load_trained", lambda: (network, tokenizer))
    monkeypatch.setattr(transformer, "movie_reviews", lambda: Splits(part, part, part))
    monkeypatch.setattr(recorder, "checksums", lambda: {"weights/minilm.safetensors": WEIGHTS})
    monkeypatch.setattr(transformer, "PLAN", SMALL_PLAN)
    monkeypatch.setattr(transformer, "KEPT", ("few",))
    monkeypatch.setattr(transformer, "METHODS", {"Wanda": transformer.METHODS["Wanda"]})
    monkeypatch.setattr(transformer, "PATTERNS", {"50 %": 0.5, "2:4": (2, 4)})
    monkeypatch.setattr(transformer, "RETRAINED", ("2:4",))
    monkeypatch.setattr(transformer, "apply_step", noted)
    monkeypatch.setattr(transformer, "measure", lambda *_: measured)
    return made


def recorded(path) -> dict:
    return recordings.read(path, "transformer")


def test_a_recording_holds_every_table(quick, measured, tmp_path):
    found = recorded(record("transformer", path=tmp_path / "a.json"))
    assert quick == [*SMALL_PLAN.values()]
    assert [row["layer"] for row in found["layers"]] == [0, 1, 2]
    assert len(found["heads"]) == 3 * 4 and found["weights"] == WEIGHTS
    assert [row["pattern"] for row in found["one_shot"]] == ["50 %", "2:4"]
    assert [row["pattern"] for row in found["retrained"]] == ["2:4"]
    assert all(found[table] == measured[table] for table in measured)
    for entry, (name, step) in zip(found["networks"], SMALL_PLAN.items(), strict=True):
        assert entry.pop("before").keys() == Evaluation.__annotations__.keys()
        assert entry == {"name": name} | step._asdict()


def test_only_some_of_its_networks_stay_beside_it(quick, tmp_path):
    path = record("transformer", path=tmp_path / "a.json")
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["few.pruned"]
    few, about = load(network_file(path, "few"))
    assert [layer.heads for layer in encoders.layers(few)].count(0) == 1
    assert "'codebook_size': 7" in about["step"]


def test_a_complete_recording_makes_nothing(quick, tmp_path):
    path = record("transformer", path=tmp_path / "a.json")
    before = path.read_text()
    record("transformer", path=path)
    assert len(quick) == 2 and path.read_text() == before


INTERRUPTIONS = [(minilm, "fine_tune", 0), (minilm, "fine_tune", 1), (transformer, "measure", 0)]
INTERRUPTIONS += [(recordings, "write", after) for after in range(9)]


@pytest.mark.slow
@pytest.mark.parametrize(("owner", "name", "after"), each(INTERRUPTIONS))
def test_an_interrupted_recording_ends_as_an_uninterrupted_one(
    quick, tmp_path, monkeypatch, owner, name, after
):
    whole = record("transformer", path=tmp_path / "whole.json")
    parts = tmp_path / "parts.json"
    with monkeypatch.context() as patched:
        interrupt(patched, owner, name, after)
        with pytest.raises(KeyboardInterrupt):
            record("transformer", path=parts)
    record("transformer", path=parts)
    assert parts.read_text() == whole.read_text()
    first, second = (load(network_file(path, "few"))[0].state_dict() for path in (whole, parts))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_damaged_network_is_set_aside_and_made_anew(quick, tmp_path, monkeypatch, capsys):
    path = tmp_path / "a.json"
    with monkeypatch.context() as patched:
        interrupt(patched, transformer, "measure", 0)
        with pytest.raises(KeyboardInterrupt):
            record("transformer", path=path)
    file = network_file(path, "half")
    damaged = file.read_bytes()[:-1]
    file.write_bytes(damaged)
    record("transformer", path=path)
    assert [step.source for step in quick] == ["dense", "half", "dense"]
    assert [entry["name"] for entry in recorded(path)["networks"]] == ["half", "few"]
    (aside,) = file.parent.glob("half.aside-*.pruned")
    assert aside.read_bytes() == damaged and aside.name in capsys.readouterr().out


@pytest.mark.slow
def test_another_plan_is_made_and_measured(quick, tmp_path, monkeypatch):
    path = record("transformer", path=tmp_path / "a.json")
    other = SMALL_PLAN | {"few": SMALL_PLAN["few"]._replace(codebook_size=3)}
    monkeypatch.setattr(transformer, "PLAN", other)
    record("transformer", path=path)
    assert [step.codebook_size for step in quick] == [0, 7, 0, 3]
    assert [entry["codebook_size"] for entry in recorded(path)["networks"]] == [0, 3]
    assert len([*network_file(path, "few").parent.glob("few*")]) == 2


@pytest.mark.slow
def test_a_recording_of_other_weights_is_set_aside(quick, tmp_path, monkeypatch, capsys):
    path = record("transformer", path=tmp_path / "a.json")
    before = path.read_text()
    monkeypatch.setattr(recorder, "checksums", lambda: {"weights/minilm.safetensors": "other"})
    record("transformer", path=path)
    (aside,) = tmp_path.glob("a.aside-*.json")
    assert aside.read_text() == before and recorded(path)["weights"] == "other"
    assert "Different weights" in capsys.readouterr().out


# --- what the course recorded -------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_the_course():
    recording = recordings.load("transformer", "minilm")[recordings.COURSE]
    return {(point["network"], point["form"]): point for point in recording["points"]}


def test_the_networks_of_the_course_reach_their_targets(of_the_course):
    whole, run, stored = (
        of_the_course[key]
        for key in (("whole vocabulary", "float32"), ("short", "int8"), ("few values", "packed"))
    )
    assert min(run[threads]["speedup"] for threads in ("one thread", "two threads")) >= 4
    assert whole["bytes"] >= 8 * run["bytes"] and whole["bytes"] >= 15 * stored["bytes"]
    assert min(run["accuracy"], stored["accuracy"]) >= whole["accuracy"] - 2


@pytest.mark.slow
def test_the_network_that_is_kept_is_as_accurate_as_it_was_recorded(of_the_course):
    file = recorded_file("few values", "minilm", "transformer")
    point = of_the_course["few values", "packed"]
    assert file.stat().st_size == pytest.approx(point["bytes"], rel=0.01)  # it says how it was made
    _, data = transformer.subject()
    few = Sentences(*(part[:500] for part in data.test))
    assert minilm.accuracy(load(file)[0], few) == pytest.approx(point["accuracy"], abs=4)
