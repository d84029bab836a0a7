"""Heads, neurons and layers go from real encoders, which then compute what the silenced ones do."""

import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import randomised, relative_error
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from course_lib.networks.models import logits
from course_lib.networks.tensors import open_tensors
from course_lib.pruning import channels, encoders, surgery
from course_lib.pruning.encoders import Layer, encoder_graph
from course_lib.pruning.graph import trace

LAYERS, HEADS, NEURONS = 3, 4, 10
VIT = "encoder.layers.encoder_layer_"


def vision() -> nn.Module:
    """torchvision's VisionTransformer with three layers, whole and freshly built."""
    from torchvision.models import VisionTransformer

    model = VisionTransformer(8, 4, LAYERS, HEADS, 16, NEURONS, num_classes=3)
    nn.init.normal_(model.heads.head.weight)
    return model.eval()


def bert(attention: str = "sdpa", kind: str = "BertForSequenceClassification") -> nn.Module:
    """BERT with three layers, whole and freshly built."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=NEURONS,
        max_position_embeddings=8,
        num_labels=3,
        attn_implementation=attention,
    )
    return getattr(transformers, kind)(config).eval()


def pictures(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def sentences(count: int = 4) -> dict[str, torch.Tensor]:
    """Tokens of sentences of different lengths, as a tokenizer of transformers gives them."""
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(20, (count, 6), generator=random)
    mask = (torch.arange(6) <= torch.arange(count)[:, None] + 1).long()
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


#: Of each kind, a function that builds it and one that gives inputs.
KINDS = {
    "vision": (vision, pictures),
    "sdpa": (bert, sentences),
    "eager": (lambda: bert("eager"), sentences),
}


@pytest.fixture(params=KINDS)
def kind(request):
    """A network with random weights in float64, and inputs for it."""
    build, inputs = KINDS[request.param]
    model = randomised(build())
    return model, in_float64(inputs())


def in_float64(inputs):
    return inputs.double() if isinstance(inputs, torch.Tensor) else inputs


REMOVED = {"0.heads": [1], "1.heads": [0, 2, 3], "1.neurons": [9, 0, 4], "2.neurons": range(9)}


# --- what there is ------------------------------------------------------------------------------


@pytest.mark.slow
def test_both_architectures_are_described_alike(kind):
    model, _ = kind
    found = encoders.layers(model)
    assert [layer[1:] for layer in found] == [(HEADS, 4, NEURONS)] * LAYERS
    groups = encoder_graph(model).free
    assert {name: len(group.channels) for name, group in groups.items()} == {
        f"{number}.{part}": count
        for number in range(LAYERS)
        for part, count in (("heads", HEADS), ("neurons", NEURONS))
    }


def test_names_of_the_layers_are_those_of_the_network():
    assert [layer.name for layer in encoders.layers(vision())] == [f"{VIT}{n}" for n in range(3)]
    assert encoders.layers(bert())[1].name == "bert.encoder.layer.1"
    made_by = encoder_graph(bert()).groups["1.heads"].layers
    assert made_by == tuple(
        f"bert.encoder.layer.1.attention.self.{x}" for x in ("query", "key", "value")
    )
    assert encoder_graph(vision()).groups["0.heads"].layers == (f"{VIT}0.self_attention",)
    assert encoders.layers(bert(kind="BertModel"))[1].name == "encoder.layer.1"


def test_layer_of_roberta_is_known():
    transformers = pytest.importorskip("transformers")
    config = transformers.RobertaConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=5
    )
    model = transformers.RobertaModel(config)
    assert encoders.layers(model) == [Layer("encoder.layer.0", 2, 4, 5)]


def test_vit_b_16_is_known():
    from torchvision.models import vit_b_16

    with torch.device("meta"):
        model = vit_b_16()
    assert encoders.layers(model) == [Layer(f"{VIT}{n}", 12, 64, 3072) for n in range(12)]
    smaller = encoders.prune(model, {f"{n}.heads": range(6) for n in range(12)})
    assert encoders.layers(smaller)[3] == Layer(f"{VIT}3", 6, 64, 3072)


@pytest.mark.parametrize("act", [encoders.layers, encoder_graph])
def test_network_without_a_known_encoder_is_refused(act):
    with pytest.raises(ValueError, match="Sequential has no encoder layer that is known"):
        act(nn.Sequential(nn.Linear(2, 2), nn.MultiheadAttention(4, 2)))


# --- removing -----------------------------------------------------------------------------------


def test_removed_is_silenced_in_double_precision(kind):
    model, inputs = kind
    smaller = encoders.prune(model, REMOVED)
    silent = surgery.zero_readers(copy.deepcopy(model), encoder_graph(model), REMOVED)
    assert relative_error(logits(smaller, inputs), logits(silent, inputs)) < 1e-12
    assert relative_error(logits(smaller, inputs), logits(model, inputs)) > 1e-3
    assert [(layer.heads, layer.neurons) for layer in encoders.layers(smaller)] == [
        (3, 10),
        (1, 7),
        (4, 1),
    ]


def test_removed_is_silenced_in_single_precision(kind):
    model, inputs = kind
    model = model.float()
    inputs = inputs.float() if isinstance(inputs, torch.Tensor) else inputs
    smaller = encoders.prune(model, REMOVED)
    silent = surgery.zero_readers(copy.deepcopy(model), encoder_graph(model), REMOVED)
    assert relative_error(logits(smaller, inputs), logits(silent, inputs)) < 1e-6


def test_matrices_really_are_smaller():
    attention = encoders.prune(bert(), REMOVED).bert.encoder.layer[1].attention
    assert attention.self.query.weight.shape == (4, 16) and attention.self.key.bias.shape == (4,)
    assert attention.output.dense.weight.shape == (16, 4)
    assert str(attention.output.dense) == str(nn.Linear(4, 16))
    assert attention.self.num_attention_heads == 1 and attention.self.all_head_size == 4
    block = encoders.prune(vision(), REMOVED).encoder.layers[1]
    assert block.self_attention.in_proj_weight.shape == (12, 16)
    assert block.mlp[0].weight.shape == (7, 16) and block.mlp[3].weight.shape == (16, 7)


def test_attention_implementation_can_be_changed_after_the_cut():
    smaller = encoders.prune(randomised(bert()), REMOVED)
    expected = logits(smaller, sentences())
    smaller.set_attn_implementation("eager")
    assert relative_error(logits(smaller, sentences()), expected) < 1e-12
    attentions = smaller(**sentences(), output_attentions=True).attentions
    assert [weights.shape[1] for weights in attentions] == [3, 1, 4]


def test_the_dependency_graph_that_is_found_cuts_the_same():
    model = randomised(vision())
    found = {
        f"{VIT}0.self_attention.heads": [1, 3],
        f"{VIT}2.mlp.0": [0, 7],
    }
    expected = surgery.prune(model, trace(model, pictures().double()), found)
    smaller = encoders.prune(model, {"0.heads": [1, 3], "2.neurons": [0, 7]})
    assert smaller.pruning_plan == expected.pruning_plan
    assert torch.equal(smaller(pictures().double()), expected(pictures().double()))


def test_the_original_is_left_as_it_is(kind):
    model, inputs = kind
    before, state = logits(model, inputs), copy.deepcopy(model.state_dict())
    smaller = encoders.prune(model, REMOVED, [2])
    with torch.no_grad():
        for parameter in smaller.parameters():
            parameter.zero_()
    assert torch.equal(logits(model, inputs), before)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())


def test_smaller_network_trains(kind):
    model, inputs = kind
    smaller = encoders.prune(model, REMOVED, [0]).train()
    F.cross_entropy(logits(smaller, inputs), torch.tensor([0, 1, 2, 0])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in smaller.parameters())


@pytest.mark.parametrize(
    ("removed", "dropped", "message"),
    [
        ({"3.heads": [0]}, [], "No group is called '3.heads'; there are: 0.heads, 0.neurons"),
        ({"0.heads": [4]}, [], r"0.heads has the channels 0 to 3; asked for \[4\]"),
        ({"0.heads": range(4)}, [], "All 4 channels of 0.heads would go; keep at least one"),
        ({"2.neurons": range(10)}, [], "All 10 channels of 2.neurons would go"),
        ({}, [3], r"There is no layer 3 to drop; there are: \[0, 1, 2\]"),
        ({}, [-1], "There is no layer -1"),
        ({}, [2, 1, 0], "All 3 layers would be dropped; keep at least one"),
    ],
)
def test_what_cannot_be_removed_is_refused(kind, removed, dropped, message):
    with pytest.raises(ValueError, match=message):
        encoders.prune(kind[0], removed, dropped)


# --- whole layers -------------------------------------------------------------------------------


def skipping(model: nn.Module, inputs, dropped: list[int]) -> torch.Tensor:
    """What ``model`` gives when the output of some layers is replaced by their input."""
    hooks = [
        model.get_submodule(encoders.layers(model)[number].name).register_forward_hook(
            lambda layer, args, output: args[0]
        )
        for number in dropped
    ]
    try:
        return logits(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("dropped", [[0], [1], [2], [0, 2]])
def test_dropped_layer_passes_on_its_input(kind, dropped):
    model, inputs = kind
    smaller = encoders.prune(model, {}, dropped)
    assert torch.equal(logits(smaller, inputs), skipping(model, inputs, dropped))
    found = encoders.layers(smaller)
    assert [number for number, layer in enumerate(found) if not layer.heads] == dropped
    gone = sum(
        parameter.numel()
        for number in dropped
        for parameter in model.get_submodule(found[number].name).parameters()
    )
    assert gone == sum(p.numel() for p in model.parameters()) - sum(
        p.numel() for p in smaller.parameters()
    )


def test_numbers_of_the_other_layers_stay(kind):
    model, inputs = kind
    smaller = encoders.prune(encoders.prune(model, {"1.heads": [3]}, [0]), {"2.heads": [0]})
    assert list(encoder_graph(smaller).groups) == ["1.heads", "1.neurons", "2.heads", "2.neurons"]
    at_once = encoders.prune(model, {"1.heads": [3], "2.heads": [0], "0.neurons": [1]}, [0])
    assert smaller.pruning_plan == at_once.pruning_plan
    assert torch.equal(logits(smaller, inputs), logits(at_once, inputs))


def test_layer_is_not_dropped_twice(kind):
    smaller = encoders.prune(kind[0], {}, [1])
    with pytest.raises(ValueError, match=r"no layer 1 to drop; there are: \[0, 2\]"):
        encoders.prune(smaller, {}, [1])


# --- random choices, and files ------------------------------------------------------------------

choices = st.fixed_dictionaries(
    {
        f"{number}.{part}": st.lists(st.integers(0, count - 1), max_size=count, unique=True).filter(
            lambda gone, count=count: len(gone) < count
        )
        for number in range(LAYERS)
        for part, count in (("heads", HEADS), ("neurons", NEURONS))
    }
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vision", "sdpa"])
@settings(max_examples=20)
@given(removed=choices, dropped=st.sets(st.integers(0, LAYERS - 1), max_size=LAYERS - 1))
def test_any_choice_is_exact_and_survives_a_file(tmp_path_factory, name, removed, dropped):
    build, inputs = KINDS[name]
    model, x = randomised(build()), in_float64(inputs())
    smaller = encoders.prune(model, removed, dropped)
    silent = surgery.zero_readers(copy.deepcopy(model), encoder_graph(model), removed)
    expected = skipping(silent, x, sorted(dropped))
    assert relative_error(logits(smaller, x), expected) < 1e-12
    path = tmp_path_factory.getbasetemp() / "random.safetensors"
    encoders.save(smaller, path)
    loaded = encoders.load(build().double(), path)
    assert torch.equal(logits(loaded, x), logits(smaller, x))
    assert encoders.layers(loaded) == encoders.layers(smaller)
    assert loaded.pruning_plan == smaller.pruning_plan


@pytest.fixture
def saved(tmp_path):
    """The file of a pruned VisionTransformer."""
    path = tmp_path / "pruned.safetensors"
    encoders.save(encoders.prune(vision(), REMOVED, [0]), path)
    return path


def test_network_that_was_never_pruned_is_saved_and_loaded_whole(tmp_path):
    model = randomised(vision())
    encoders.save(model, tmp_path / "whole.safetensors")
    loaded = encoders.load(vision().double(), tmp_path / "whole.safetensors")
    assert torch.equal(loaded(pictures().double()), model(pictures().double()))


def test_file_says_what_is_left_in_json(saved):
    metadata = open_tensors(saved)[1]
    assert json.loads(metadata["dropped_layers"]) == [0]
    plan = json.loads(metadata["pruning_plan"])
    assert plan[f"{VIT}2.mlp.0.weight"] == {"0": [9]}
    assert not any(name.startswith(f"{VIT}0.") for name in [*plan, *load_file(saved)])


@pytest.mark.parametrize("keep", [0, 7, 400, -1])
def test_damaged_file_is_refused(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(ValueError, match=f"{saved} is missing, damaged, or not a safetensors file"):
        encoders.load(vision(), saved)


@pytest.mark.parametrize("text", [None, "{", "3", "null", '["a"]', "[[1]]"])
def test_file_that_says_nothing_of_layers_is_refused(saved, text):
    about = {"pruning_plan": "{}"} | ({} if text is None else {"dropped_layers": text})
    save_file(load_file(saved), saved, about)
    with pytest.raises(ValueError, match="does not say which layers were dropped"):
        encoders.load(vision(), saved)


def test_file_without_a_plan_is_refused(saved):
    save_file(load_file(saved), saved, {"dropped_layers": "[0]"})
    with pytest.raises(ValueError, match="holds no pruning plan"):
        encoders.load(vision(), saved)


@pytest.mark.parametrize("dropped", ["[7]", "[1]", "[]", "[0, 1, 2]"])
def test_file_with_other_layers_is_refused(saved, dropped):
    plan = open_tensors(saved)[1]["pruning_plan"]
    save_file(load_file(saved), saved, {"pruning_plan": plan, "dropped_layers": dropped})
    with pytest.raises(ValueError, match=f"{saved} holds another network|plan is for another"):
        encoders.load(vision(), saved)


def test_file_of_another_architecture_is_refused(saved):
    with pytest.raises(ValueError, match="another network"):
        encoders.load(bert(), saved)


# --- scores -------------------------------------------------------------------------------------


def batches(inputs, count: int = 2) -> list:
    return [(inputs, torch.tensor([0, 1, 2, 1])), (inputs, torch.tensor([2, 0, 0, 1]))][:count]


def test_l1_counts_all_matrices_of_a_head_and_a_neuron():
    model = bert()
    found = encoders.l1(model, encoder_graph(model))
    layer = model.bert.encoder.layer[1]
    first = layer.attention.self
    heads = torch.stack(
        [part.weight.abs().view(HEADS, -1).sum(1) for part in (first.query, first.key, first.value)]
    ).sum(0)
    heads += layer.attention.output.dense.weight.abs().view(16, HEADS, 4).sum((0, 2))
    assert torch.allclose(found["1.heads"], heads)
    neurons = layer.intermediate.dense.weight.abs().sum(1) + layer.output.dense.weight.abs().sum(0)
    assert torch.allclose(found["1.neurons"], neurons)


def test_scores_of_channels_work_for_encoders(kind):
    model, inputs = kind
    graph = encoder_graph(model)
    for scores in (
        encoders.l1(model, graph),
        channels.l1(model, graph),
        channels.taylor(model, graph, batches(inputs)),
    ):
        assert scores.keys() == graph.free.keys()
        smaller = encoders.prune(model, channels.lowest(scores, 0.5))
        assert [(one.heads, one.neurons) for one in encoders.layers(smaller)] == [(2, 5)] * 3


def test_taylor_is_the_slope_of_the_loss_in_the_gate_of_a_head():
    model, inputs = randomised(bert()), sentences()
    graph = encoder_graph(model)
    gates = torch.ones(HEADS, dtype=torch.float64, requires_grad=True)

    def gate(layer: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (args[0] * gates.repeat_interleave(4),)

    found = channels.taylor(model, graph, batches(inputs))["1.heads"]
    model.bert.encoder.layer[1].attention.output.dense.register_forward_pre_hook(gate)
    slopes = []
    for x, labels in batches(inputs):
        loss = F.cross_entropy(logits(model, x), labels)
        slopes.append(torch.autograd.grad(loss, gates)[0].abs())
    assert torch.allclose(found, torch.stack(slopes).mean(0).float())


@pytest.mark.slow
@pytest.mark.parametrize("group", ["0.heads", "2.heads", "1.neurons"])
def test_cost_of_a_head_is_that_of_the_network_without_it(kind, group):
    model, inputs = kind
    graph = encoder_graph(model)

    def loss(network: nn.Module) -> float:
        with torch.no_grad():
            found = [F.cross_entropy(logits(network, x), y) for x, y in batches(inputs)]
        return float(torch.stack(found).mean())

    costs = channels.ablation_losses(model, graph, group, batches(inputs))
    measured = encoders.ablation(model, graph, group, loss)
    removed = [
        loss(encoders.prune(model, {group: [one]})) - loss(model) for one in range(len(costs))
    ]
    assert torch.allclose(costs.double(), torch.tensor(removed, dtype=torch.float64))
    assert torch.allclose(measured.double(), torch.tensor(removed, dtype=torch.float64), atol=1e-6)
    assert measured.abs().max() > 1e-4


def test_ablation_leaves_the_network_as_it_was_even_if_it_is_interrupted():
    model = vision()
    before = copy.deepcopy(model.state_dict())
    values = iter([1.0, 0.5])
    with pytest.raises(StopIteration):
        encoders.ablation(model, encoder_graph(model), "0.heads", lambda network: next(values))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


# --- export -------------------------------------------------------------------------------------


@pytest.mark.sweep
def test_pruned_bert_runs_in_onnx_runtime(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    smaller = encoders.prune(bert(), REMOVED, [2])
    inputs = sentences()
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        smaller,
        (),
        tmp_path / "bert.onnx",
        kwargs=inputs,
        dynamic_shapes={name: {0: batch} for name in inputs},
        dynamo=True,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(tmp_path / "bert.onnx")
    more = sentences(7)
    (found,) = session.run(None, {name: value.numpy() for name, value in more.items()})
    assert relative_error(torch.from_numpy(found), logits(smaller, more)) < 1e-5
