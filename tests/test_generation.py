"""A decoder in ONNX Runtime GenAI computes what torch computes, and its bytes are counted."""

import importlib.util
import json
import socket

import onnx
import pytest
import torch
from decoders_made import tiny_decoder, tiny_tokenizer, windows
from onnx import TensorProto, helper

from course_lib.deployment import generation
from course_lib.deployment.generation import Decoder, build, bytes_on_disk, bytes_per_token, timed
from course_lib.deployment.runtime import DeployError
from course_lib.measuring import language, timing
from course_lib.pruning import decoders

pytest.importorskip("onnxruntime_genai")
pytestmark = pytest.mark.slow  # the builder alone takes seconds to import

VOCABULARY, NEURONS = 128, 192
PROMPT = windows(1, 12, VOCABULARY)


def tiny(blocks=2, neurons=NEURONS, **changes):
    """A random Llama of width 64 with 4 query heads of 16 numbers on 2 key/value heads."""
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    others = {"max_position_embeddings": 64, "initializer_range": 0.1, "eos_token_id": 0}
    return tiny_decoder(blocks, VOCABULARY, neurons=neurons, **sizes | others | changes)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer(["one two three"], 280)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """The tiny model in all precisions, each in a folder of its name."""
    root = tmp_path_factory.mktemp("built")
    model = tiny()
    for precision in generation.PRECISIONS:
        build(model, tokenizer, root / precision, precision)
    return root


@torch.inference_mode()
def error(folder, model, ids=PROMPT):
    """How far the logits are from those of ``model``, as a fraction of their norm."""
    expected = model(ids).logits
    return float((Decoder(folder)(ids) - expected).norm() / expected.norm())


# --- it computes what torch computes ------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "least", "most"),
    [("float32", 0, 1e-5), ("int8", 1e-3, 0.05), ("int4", 0.05, 0.5), ("int4_k_quant", 0.05, 0.5)],
)
def test_the_logits_are_those_of_torch(folder, precision, least, most):
    assert least <= error(folder / precision, tiny()) < most


def test_greedy_decoding_writes_what_torch_writes(folder):
    model = tiny()
    expected = model.generate(
        PROMPT, attention_mask=torch.ones_like(PROMPT), max_new_tokens=9, do_sample=False
    )
    assert Decoder(folder / "float32").written(PROMPT, 9).tolist() == expected[:, 12:].tolist()


def test_a_text_may_end_early(tokenizer, tmp_path):
    whole = Decoder(build(tiny(), tokenizer, tmp_path / "a")).written(PROMPT, 9)[0].tolist()
    end = whole[4]
    ending = Decoder(build(tiny(eos_token_id=end), tokenizer, tmp_path / "b"))
    assert ending.written(PROMPT, 9)[0].tolist() == whole[: whole.index(end)]


def test_its_losses_are_measured_like_those_of_any_language_model(folder):
    texts = windows(3, 10, VOCABULARY)
    found = language.losses(Decoder(folder / "float32"), texts)
    torch.testing.assert_close(found, language.losses(tiny(), texts))


@pytest.mark.parametrize("precision", ["float32", "int8", "int4"])
def test_a_pruned_model_is_built(tokenizer, tmp_path, precision):
    removed = {f"{block}.neurons": range(0, 45) for block in range(3)}
    removed |= {f"{block}.groups": [1] for block in range(3)}
    smaller = decoders.without_blocks(decoders.prune(tiny(blocks=3), removed), [1])
    assert error(build(smaller, tokenizer, tmp_path, precision), smaller) < 0.5
    assert decoders.NEURONS.count(smaller.model.layers[0]) == NEURONS - 45


def test_without_a_block_is_exact(tokenizer, tmp_path):
    smaller = decoders.without_blocks(tiny(blocks=3), [0])
    assert error(build(smaller, tokenizer, tmp_path), smaller) < 1e-5


@pytest.mark.parametrize("precision", ["int8", "int4", "int4_k_quant"])
def test_zeros_stay_zero(tokenizer, tmp_path, precision):
    """A model whose MLPs write nothing computes the same when their other weights change."""
    model, other = tiny(), tiny()
    for one, factor in ((model, 1.0), (other, -3.0)):
        for block in one.model.layers:
            block.mlp.down_proj.weight.data[:, ::2] = 0
            block.mlp.up_proj.weight.data[1::2] = 0
            block.mlp.gate_proj.weight.data *= factor
    logits = [
        Decoder(build(one, tokenizer, tmp_path / name, precision))(PROMPT)
        for name, one in (("a", model), ("b", other))
    ]
    torch.testing.assert_close(*logits, rtol=0, atol=1e-3)  # rounding


# --- bytes --------------------------------------------------------------------------------------


def test_every_weight_is_read_for_a_token_and_one_row_of_each_table(folder):
    weights = sum(one.numel() for one in tiny().parameters())
    angles = 2 * 16 // 2  # a row of the cosines and one of the sines
    assert bytes_per_token(folder / "float32") == 4 * (weights + angles)


@pytest.mark.parametrize(("precision", "bits"), [("int8", 9), ("int4", 5), ("int4_k_quant", 5.125)])
def test_a_block_of_weights_has_a_scale_and_may_have_a_zero_point(folder, precision, bits):
    matrices = sum(one.numel() for one in tiny().parameters() if one.dim() > 1)
    norms = 4 * 64 * 5
    expected = matrices * bits / 8 + norms + 4 * 16
    assert bytes_per_token(folder / precision) == expected


def test_an_embedding_that_is_not_the_output_layer_is_read_by_the_row(tmp_path):
    table = helper.make_tensor("table", TensorProto.FLOAT, [10, 4], [0.0] * 40)
    matrix = helper.make_tensor("matrix", TensorProto.FLOAT, [4, 3], [0.0] * 12)
    scalar = helper.make_tensor("scalar", TensorProto.FLOAT, [], [1.0])
    nodes = [
        helper.make_node("Reshape", ["table", "shape"], ["viewed"]),
        helper.make_node("Gather", ["viewed", "ids"], ["row"]),
        helper.make_node("MatMul", ["row", "matrix"], ["product"]),
        helper.make_node("Mul", ["product", "scalar"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "graph", [], [], [table, matrix, scalar])
    onnx.save(helper.make_model(graph), tmp_path / generation.NETWORK)
    assert bytes_per_token(tmp_path) == 4 * (4 + 12 + 1)


def test_the_files_hold_what_is_read_and_little_more(folder):
    for precision in generation.PRECISIONS:
        about = (folder / precision / generation.ABOUT).stat().st_size
        network = (folder / precision / generation.NETWORK).stat().st_size
        tables = bytes_on_disk(folder / precision) - about - network
        angles = 4 * 64 * 16  # those of all 64 places
        assert tables - bytes_per_token(folder / precision) == pytest.approx(angles, abs=4096)


# --- milliseconds -------------------------------------------------------------------------------


def test_the_first_token_and_further_tokens_are_timed_apart(folder):
    folders = {name: folder / name for name in ("float32", "int4")}
    found = timed(folders, PROMPT, tokens=4, rounds=6, seconds=1.0)
    assert list(found) == ["float32", "int4"]
    for times in found.values():
        for recorded in times.values():
            assert recorded["rounds"] == 6 and recorded["median"] > 0
    assert all(recorded["speedup"] == 1 for recorded in found["float32"].values())


def test_a_further_time_is_that_of_one_token(folder, monkeypatch):
    def compare(runs, **_):
        milliseconds = {"first": (6.0,) * 6, "further": (8.0,) * 6}
        times = {name: timing.Timing(milliseconds[run.__name__]) for name, run in runs.items()}
        return timing.Comparison(times, {})

    monkeypatch.setattr(generation, "compare", compare)
    times = timed({"int4": folder / "int4"}, PROMPT, tokens=4)["int4"]
    assert (times["first"]["median"], times["further"]["median"]) == (6.0, 2.0)


def test_what_is_timed_can_be_repeated_and_writes_what_torch_writes(folder):
    loop = generation._Loop.begin(Decoder(folder / "float32"), PROMPT, tokens=5)
    expected = Decoder(folder / "float32").written(PROMPT, 5)[0].tolist()
    for run in (loop.first, loop.further, loop.further, loop.first, loop.further):
        run()
        count = 1 if run == loop.first else 5
        assert loop.generator.get_sequence(0)[12:].tolist() == expected[:count]


def test_the_bandwidth_leaves_torch_as_it_was():
    before = torch.get_num_threads()
    assert generation.bandwidth(threads=before + 1, megabytes=1) > 0
    assert torch.get_num_threads() == before


# --- quiet, and without a network ---------------------------------------------------------------


def test_building_prints_nothing_and_needs_no_network(tokenizer, tmp_path, monkeypatch, capfd):
    def refuse(*_):
        raise AssertionError("the network is used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    Decoder(build(tiny(), tokenizer, tmp_path, "int4"))(PROMPT)
    assert capfd.readouterr() == ("", "")


def test_an_earlier_model_is_overwritten(tokenizer, tmp_path):
    build(tiny(), tokenizer, tmp_path, "int4")
    assert error(build(tiny(), tokenizer, tmp_path), tiny()) < 1e-5


# --- what is refused ----------------------------------------------------------------------------


def unequal():
    return decoders.prune(tiny(), {"1.neurons": [0]})


def wrong_about_blocks():
    model = tiny()
    model.config.num_hidden_layers = 3
    return model


@pytest.mark.parametrize(
    ("make", "precision", "message"),
    [
        (tiny, "int2", "float32, int8, int4, int4_k_quant; got 'int2'"),
        (
            unequal,
            "float32",
            "Block 1 has 2 key/value heads and 191 neurons, block 0 has 2 and 192",
        ),
        (wrong_about_blocks, "float32", "promises 3 blocks .* there are 2"),
        (lambda: tiny(tie_word_embeddings=False), "float32", "tie_word_embeddings=False"),
        (lambda: tiny().model, "float32", "got LlamaModel"),
        (lambda: tiny(neurons=96), "int4_k_quant", "rows of 96 weights.* multiple of 64"),
        (lambda: tiny(neurons=VOCABULARY), "float32", "128 rows, as many as there are tokens"),
        (lambda: tiny(head_dim=20), "float32", "cannot be run: .*must be a multiple of"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused(make, precision, message, tokenizer, tmp_path):
    with pytest.raises(DeployError, match=message):
        Decoder(build(make(), tokenizer, tmp_path, precision))(PROMPT)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (PROMPT[0], r"token ids \(1, L\).* got \(12,\), torch.int64"),
        (PROMPT.repeat(2, 1), r"got \(2, 12\)"),
        (PROMPT[:, :0], r"got \(1, 0\)"),
        (PROMPT.float(), "torch.float32"),
        (PROMPT + 120, "within 0 to 127; got"),
        (-PROMPT, "got -"),
        (PROMPT.repeat(1, 6), "cannot be run: .*max_length"),
    ],
)
def test_ids_that_the_model_does_not_take_are_refused(folder, ids, message):
    decoder = Decoder(folder / "int4")
    with pytest.raises(DeployError, match=message):
        decoder(ids)


@pytest.mark.parametrize("call", [Decoder, bytes_on_disk])
def test_a_folder_that_was_not_built_is_refused(call, tmp_path):
    with pytest.raises(DeployError, match=r"was not written by generation\.build"):
        call(tmp_path)
    (tmp_path / generation.ABOUT).write_text(json.dumps({"model": {"vocab_size": 5}}))
    with pytest.raises(DeployError, match=r"was not written by generation\.build"):
        call(tmp_path)


def test_no_thread_and_no_token_are_refused(folder):
    with pytest.raises(DeployError, match="threads=0"):
        Decoder(folder / "int4", threads=0)
    with pytest.raises(ValueError, match="tokens=0"):
        timed({"int4": folder / "int4"}, PROMPT, tokens=0)


def test_without_the_runtime_it_is_said_how_to_install_it(folder, tokenizer, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        generation, "find_spec", lambda name: None if "genai" in name else found(name)
    )
    with pytest.raises(DeployError, match=r"not installed. Run 'make lab'.*language"):
        build(tiny(), tokenizer, tmp_path)
    with pytest.raises(DeployError, match=r"not installed"):
        Decoder(folder / "int4")
