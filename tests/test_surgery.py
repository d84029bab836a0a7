"""A smaller network computes what the whole one does without the removed channels, or none is made.

The single operations are in test_graph.py; here are whole networks, random ones and torchvision's.
"""

import copy
import json
import pickle

import pytest
import torch
from benchmarks import bench_coverage
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import TOKENS, Net, between, conv, example, randomised, relative_error
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from course_lib.networks.attention import SelfAttention
from course_lib.networks.models import small_resnet
from course_lib.pruning import channels, surgery
from course_lib.pruning.graph import Graph, UnknownOperation, trace

# --- random networks ----------------------------------------------------------------------------


def tokens(net: Net, x: torch.Tensor) -> torch.Tensor:
    """A transformer block on the pixels."""
    x = x.flatten(2).transpose(1, 2)
    normed = net.norm(x)
    x = x + net.attention(normed, normed, normed)[0]
    x = x + net.fc2(F.gelu(net.fc1(x)))
    return net.out(x.transpose(1, 2).reshape(x.shape[0], x.shape[2], 4, 4))


def shuffled(x: torch.Tensor, groups: int) -> torch.Tensor:
    batch, count, height, width = x.shape
    parts = x.view(batch, groups, count // groups, height, width)
    return parts.transpose(1, 2).reshape(batch, count, height, width)


def gated(net: Net, x: torch.Tensor) -> torch.Tensor:
    value, gate = x.chunk(2, 1)
    return net.out(value * gate.sigmoid())


#: Blocks for pictures of 4x4: a function of the channels that arrive and those that leave, both
#: multiples of 4.
BLOCKS = {
    "plain": lambda c, n: nn.Sequential(conv(c, n, bias=False), nn.BatchNorm2d(n), nn.ReLU()),
    "grouped": lambda c, n: nn.Sequential(conv(c, n, groups=4), nn.GroupNorm(4, n), nn.SiLU()),
    "group norm": lambda c, n: nn.Sequential(conv(c, n), nn.GroupNorm(2, n), nn.PReLU(n)),
    "depthwise": lambda c, n: nn.Sequential(
        conv(c, 2 * c, groups=c), nn.BatchNorm2d(2 * c), nn.Hardswish(), nn.Conv2d(2 * c, n, 1)
    ),
    "transposed": lambda c, n: nn.Sequential(
        nn.ConvTranspose2d(c, n, 3, padding=1), nn.InstanceNorm2d(n, affine=True), nn.GELU()
    ),
    "transposed groups": lambda c, n: nn.ConvTranspose2d(c, n, 3, padding=1, groups=2),
    "residual": lambda c, n: Net(
        lambda net, x: F.relu(x + net.b(net.norm(net.a(x)).relu())),
        a=conv(c, n),
        norm=nn.BatchNorm2d(n),
        b=conv(n, c),
    ),
    "projected": lambda c, n: Net(
        lambda net, x: F.relu(net.skip(x) + net.body(x)), skip=nn.Conv2d(c, n, 1), body=conv(c, n)
    ),
    "dense": lambda c, n: Net(
        lambda net, x: net.out(torch.cat([x, net.body(x).relu()], 1)),
        body=conv(c, n),
        out=nn.Conv2d(c + n, n, 1),
    ),
    "branches": lambda c, n: Net(
        lambda net, x: torch.cat([net.a(x), net.b(F.max_pool2d(x, 3, 1, 1))], 1),
        a=conv(c, n - 2),
        b=nn.Conv2d(c, 2, 1),
    ),
    "shuffle": lambda c, n: nn.Sequential(nn.ChannelShuffle(2), conv(c, n, groups=2)),
    "shuffle by view": lambda c, n: Net(lambda net, x: net.out(shuffled(x, 4)), out=conv(c, n)),
    "gate": lambda c, n: Net(gated, out=conv(c // 2, n)),
    "squeeze": lambda c, n: Net(
        lambda net, x: net.out(x * net.up(net.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()),
        down=nn.Conv2d(c, n, 1),
        up=nn.Conv2d(n, c, 1),
        out=nn.Conv2d(c, n, 1),
    ),
    "map": lambda c, n: Net(
        lambda net, x: net.out(x * net.map(x).sigmoid()), map=conv(c, 1), out=conv(c, n)
    ),
    "twice": lambda c, n: Net(
        lambda net, x: net.out(net.twice(net.twice(x).relu())), twice=conv(c, c), out=conv(c, n)
    ),
    "scale": lambda c, n: Net(
        lambda net, x: net.out(x * net.scale),
        scale=nn.Parameter(torch.empty(c, 1, 1)),
        out=conv(c, n),
    ),
    "transformer": lambda c, n: Net(
        tokens,
        norm=nn.LayerNorm(c),
        attention=nn.MultiheadAttention(c, 4, batch_first=True),
        fc1=nn.Linear(c, n),
        fc2=nn.Linear(n, c),
        out=nn.Conv2d(c, n, 1),
    ),
}

#: Blocks whose code computes places from sizes: exact, left alone or refused, but never wrong.
SNEAKY = {
    "rolled": lambda c, n: Net(lambda net, x: net.out(x.roll(n // 4, 1)), out=conv(c, n)),
    "rolled half round": lambda c, n: Net(
        lambda net, x: net.out(x.roll(x.shape[1] // 2, 1)), out=conv(c, n)
    ),
    "every other": lambda c, n: Net(lambda net, x: net.out(x[:, ::2]), out=conv(c // 2, n)),
    "first": lambda c, n: Net(lambda net, x: net.out(x[:, :3]), out=conv(3, n)),
    "shuffled in twos": lambda c, n: Net(
        lambda net, x: net.out(shuffled(x, x.shape[1] // 2)), out=conv(c, n)
    ),
    "unequal parts": lambda c, n: Net(
        lambda net, x: net.out(torch.cat(x.chunk(3, 1)[::-1], 1)), out=conv(c, n)
    ),
    "fixed parts": lambda c, n: Net(
        lambda net, x: net.out(torch.cat(x.split([1, c - 1], 1)[::-1], 1)), out=conv(c, n)
    ),
    "fixed view": lambda c, n: Net(
        lambda net, x: net.out(x.reshape(-1, 2, c // 2, 4, 4).transpose(1, 2).flatten(1, 2)),
        out=conv(c, n),
    ),
    "sum of rolled": lambda c, n: Net(
        lambda net, x: net.out(x + x.roll(c // 2, 1)), out=conv(c, n)
    ),
    "depthwise of rolled": lambda c, n: Net(
        lambda net, x: net.out(net.each(x.roll(c // 2, 1)) + x),
        each=conv(c, c, groups=c),
        out=conv(c, n),
    ),
    "mean": lambda c, n: Net(lambda net, x: net.out(x / x.shape[1]), out=conv(c, n)),
}

widths = st.sampled_from([4, 8, 12])
architectures = st.tuples(
    widths,
    st.lists(st.tuples(st.sampled_from([*BLOCKS, *SNEAKY]), widths), min_size=1, max_size=5),
    st.sampled_from(["mean", "flatten"]),
)


def build(architecture) -> nn.Sequential:
    """The network that :data:`architectures` describe: pictures of 4x4 in, three numbers out."""
    width, blocks, end = architecture
    layers = [conv(3, width)]
    for name, after in blocks:
        layers.append((BLOCKS | SNEAKY)[name](width, after))
        width = width if name == "residual" else after
    pool, pixels = (nn.AdaptiveAvgPool2d(1), 1) if end == "mean" else (nn.Identity(), 16)
    return nn.Sequential(*layers, pool, nn.Flatten(), nn.Linear(pixels * width, 3))


def state_of(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def assert_same_state(network: nn.Module, expected: dict[str, torch.Tensor]) -> None:
    found = network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def assert_trains(network: nn.Module, x: torch.Tensor) -> None:
    network.train()(x).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.slow
@settings(max_examples=100)
@given(architectures, st.floats(0.05, 0.95), st.integers(0, 9))
def test_random_networks_are_pruned_exactly(tmp_path_factory, architecture, ratio, seed):
    network, x = randomised(build(architecture), seed), example((2, 3, 4, 4))
    before, graph = state_of(network), trace(network, x)
    removed = channels.lowest(channels.random_scores(graph, seed), ratio)
    try:
        smaller = surgery.prune(network, graph, removed)
    except UnknownOperation:
        assert any(name in SNEAKY for name, _ in architecture[1])
        return
    except ValueError as error:  # of a group that several layers make, all that one makes
        assert "keep at least one" in str(error)
        return
    finally:
        assert_same_state(network, before)
    path = tmp_path_factory.getbasetemp() / "random.safetensors"
    surgery.save(smaller, path)
    loaded = surgery.load(randomised(build(architecture), seed + 1), path)
    assert_same_state(loaded, smaller.state_dict())
    assert torch.equal(loaded(x), smaller(x))
    silent = surgery.zero_readers(copy.deepcopy(network), graph, removed)
    assert relative_error(smaller(x), silent(x)) < 1e-9
    assert relative_error(smaller.train()(x), silent.train()(x)) < 1e-9
    assert_trains(smaller, x)


# --- torchvision --------------------------------------------------------------------------------


#: Models of torchvision, one of each further kind, and the side of a picture.
OTHER_KINDS = {
    "googlenet": 64,
    "mobilenet_v3_small": 64,
    "regnet_y_400mf": 64,
    "alexnet": 64,
    "convnext_tiny": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "mnasnet0_5": 64,
    "mobilenet_v2": 64,
    "regnet_x_400mf": 64,
    "resnet18": 64,
    "squeezenet1_1": 64,
    "swin_t": 64,
    "vit_b_32": 224,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("shufflenet_v2_x0_5", 64),
        *(pytest.param(name, side, marks=pytest.mark.sweep) for name, side in OTHER_KINDS.items()),
    ],
)
def test_a_model_of_each_kind_of_torchvision(name, side):
    measured = bench_coverage.measure_ours(name, side)
    assert measured["error"] < 1e-9
    assert measured["after"][0] < 0.75 * measured["before"][0]


@pytest.mark.parametrize("damage", ["wrong", "hidden", "large", "frozen"])
def test_the_coverage_table_notices_what_is_wrong(damage):
    expected = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    bench_coverage.check_equal(expected, expected)
    with pytest.raises(bench_coverage.Failed):
        if damage == "wrong":
            bench_coverage.check_equal(expected + 1e-6, expected)
        elif damage == "hidden":
            bench_coverage.check_equal(torch.ones(2, 2), torch.ones(2, 2))
        elif damage == "large":
            bench_coverage.check_smaller((10, 10), (5, 10))
        else:
            network = between(lambda net, x: x.detach())
            bench_coverage.check_trains(network, example().float())


# --- what is asked for --------------------------------------------------------------------------


@pytest.fixture
def network():
    """Random float64: a residual block with BatchNorm, then a grouped convolution."""
    return randomised(fresh())


def fresh() -> Net:
    return between(
        lambda net, x: net.grouped((x + net.b(net.norm(net.a(x)).relu())).relu()),
        8,
        12,
        a=conv(8, 6, bias=False),
        norm=nn.BatchNorm2d(6),
        b=conv(6, 8),
        grouped=conv(8, 12, groups=4),
    )


REMOVED = {"stem": [2], "a": [0, 3, 5]}


def graph_of(network: nn.Module) -> Graph:
    return trace(network, example())


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ({"b": [0]}, "No group is called 'b'; there are: stem, a, head"),
        ({"a": [6]}, r"a has the channels 0 to 5; asked for \[6\]"),
        ({"a": [-1]}, r"a has the channels 0 to 5; asked for \[-1\]"),
        ({"a": range(6)}, "All 6 channels of a would go; keep at least one"),
        ({"head": [0]}, "channels of head have to stay: output of the network"),
    ],
)
@pytest.mark.parametrize("act", [surgery.prune, surgery.zero_readers])
def test_what_cannot_be_removed_is_refused_and_nothing_changes(network, act, removed, message):
    before = state_of(network)
    with pytest.raises(ValueError, match=message):
        act(network, graph_of(network), {"stem": [1]} | removed)
    assert_same_state(network, before)


def test_layer_that_would_be_empty_is_named():
    network = between(
        lambda net, x: net.pairs(torch.cat([net.a(x), net.b(x)], 1)),
        8,
        6,
        a=conv(8, 4),
        b=conv(8, 2),
        pairs=conv(6, 6, groups=3),
    )
    with pytest.raises(
        ValueError, match=r"All 2 channels of b\.weight would go; keep at least one"
    ):
        surgery.prune(network, graph_of(network), {"a": [2]})


def test_order_and_repetition_of_what_is_asked_for_do_not_matter(network):
    graph = graph_of(network)
    assert surgery.plan(graph, {"a": [5, 0, 3, 0]}) == surgery.plan(graph, {"a": [0, 3, 5]})
    assert surgery.plan(graph, {"a": torch.tensor([0, 3, 5])}) == surgery.plan(
        graph, {"a": [0, 3, 5]}
    )


@pytest.mark.parametrize("removed", [{}, {"stem": []}])
def test_to_remove_nothing_copies(network, removed):
    smaller = surgery.prune(network, graph_of(network), removed)
    assert_same_state(smaller, network.state_dict())
    assert smaller is not network and str(smaller) == str(network)


def test_the_original_is_left_as_it_is(network):
    before, sizes = state_of(network), str(network)
    tensors = [*network.parameters(), *network.buffers()]
    smaller = surgery.prune(network, graph_of(network), REMOVED)
    with torch.no_grad():
        for tensor in [*smaller.parameters(), *smaller.buffers()]:
            tensor.zero_()
    assert_same_state(network, before)
    assert str(network) == sizes
    now = [*network.parameters(), *network.buffers()]
    assert all(one is other for one, other in zip(tensors, now, strict=True))


def test_layers_tell_their_new_sizes():
    model = nn.Sequential(
        conv(3, 8),
        nn.GroupNorm(4, 8),
        nn.PReLU(8),
        conv(8, 16, groups=4),
        nn.BatchNorm2d(16, affine=False),
        nn.ConvTranspose2d(16, 8, 2, groups=2),
        nn.InstanceNorm2d(8, affine=True),
        nn.ConvTranspose2d(8, 6, 2),
        nn.BatchNorm2d(6),
        nn.Flatten(),
        nn.Linear(6 * 64, 5),
        nn.Linear(5, 2),
    )
    removed = {"0": [1], "7": [0, 2], "10": [4]}
    smaller = surgery.prune(model, trace(model, torch.zeros(1, 3, 6, 6)), removed)
    assert str(smaller) == str(
        nn.Sequential(
            conv(3, 4),
            nn.GroupNorm(2, 4),
            nn.PReLU(4),
            conv(4, 8, groups=2),
            nn.BatchNorm2d(8, affine=False),
            nn.ConvTranspose2d(8, 4, 2, groups=1),
            nn.InstanceNorm2d(4, affine=True),
            nn.ConvTranspose2d(4, 4, 2),
            nn.BatchNorm2d(4),
            nn.Flatten(),
            nn.Linear(4 * 64, 4),
            nn.Linear(4, 2),
        )
    )


@pytest.mark.parametrize("training", [True, False])
def test_mode_type_and_frozen_parameters_are_kept(network, training):
    network.train(training)
    network.norm.train(not training)
    frozen = ("stem.weight", "norm.bias", "head.weight")
    for name, parameter in network.bfloat16().named_parameters():
        parameter.requires_grad = name not in frozen
    smaller = surgery.prune(network, graph_of(network), REMOVED)
    modes = zip(smaller.modules(), network.modules(), strict=True)
    assert all(one.training == other.training for one, other in modes)
    for name, parameter in smaller.named_parameters():
        assert parameter.requires_grad == (name not in frozen)
        assert parameter.dtype == torch.bfloat16 and isinstance(parameter, nn.Parameter)


def test_smaller_network_trains_and_the_original_gets_no_gradient(network):
    smaller = surgery.prune(network, graph_of(network), REMOVED)
    mean, x = smaller.norm.running_mean.clone(), example()
    assert mean.shape == (3,)
    optimizer = torch.optim.SGD(smaller.parameters(), lr=1e-5)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = smaller.train()(x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
    assert not torch.equal(smaller.norm.running_mean, mean)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_attention_loses_heads_under_the_same_names():
    block = randomised(
        Net(
            lambda net, x: x + net.attention(x, x, x)[0],
            attention=nn.MultiheadAttention(8, 4, dropout=0.5, batch_first=True),
        )
    )
    smaller = surgery.prune(block, trace(block, example(TOKENS)), {"attention.heads": [0, 3]})
    assert isinstance(smaller.attention, SelfAttention) and smaller.attention.num_heads == 2
    assert {name: tuple(value.shape) for name, value in smaller.state_dict().items()} == {
        "attention.in_proj_weight": (12, 8),
        "attention.in_proj_bias": (12,),
        "attention.out_proj.weight": (8, 4),
        "attention.out_proj.bias": (8,),
    }
    assert isinstance(block.attention, nn.MultiheadAttention)
    assert_trains(smaller, example(TOKENS))
    smaller = surgery.prune(smaller, trace(smaller, example(TOKENS)), {"attention.heads": [1]})
    assert smaller.attention.num_heads == 1


def test_network_on_no_device_can_be_planned():
    with torch.device("meta"):
        network = small_resnet()
    graph = trace(network, torch.empty(1, 1, 28, 28))
    removed = channels.lowest(channels.random_scores(graph, 0), 0.5)
    smaller = surgery.prune(network, graph, removed)
    assert smaller.head.weight.shape == (10, 32) and smaller.head.weight.is_meta


# --- shrink -------------------------------------------------------------------------------------


def test_shrink_removes_the_weakest_of_every_group(network):
    with torch.no_grad():
        network.a.weight[[1, 4]] *= 1e-3
    smaller = surgery.shrink(network, example(), 1 / 3)
    assert torch.equal(smaller.norm.running_mean, network.norm.running_mean[[0, 2, 3, 5]])
    assert smaller.stem.out_channels == 6 and smaller.grouped.groups == 3


def test_shrink_scores_as_it_is_told(network):
    with torch.no_grad():
        network.norm.weight.copy_(torch.tensor([3, 1, 4, 1.5, 9, 2.6]))
    smaller = surgery.shrink(network, example(), {"a": 0.5}, channels.batchnorm_scale)
    assert smaller.norm.weight.tolist() == [3, 4, 9]


def test_network_without_removable_channels_is_refused_with_the_reasons():
    with pytest.raises(ValueError, match=r"(?s)No channel .*stem: 2 channels, output of the netw"):
        surgery.shrink(Net(lambda net, x: net.stem(x), stem=conv(3, 2)), example(), 0.5)


@pytest.mark.parametrize("ratio", [-0.1, 1, float("nan")])
def test_ratio_that_is_none_is_refused(network, ratio):
    with pytest.raises(ValueError, match="ratio"):
        surgery.shrink(network, example(), ratio)


# --- plans, and networks that are pruned more than once -----------------------------------------


def test_plan_cuts_any_network_of_the_same_architecture(network):
    kept = surgery.plan(graph_of(network), REMOVED)
    other = randomised(fresh(), seed=1)
    expected = surgery.prune(other, graph_of(other), REMOVED)
    assert_same_state(surgery.remove(other, kept), expected.state_dict())


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"body.weight": {0: [0]}}, "this one has no body.weight"),
        ({"stem.weight": {0: [0, 8]}}, r"of dimension 0 of stem.weight .*\(8, 3, 3, 3\)"),
        ({"stem.weight": {0: [-1, 2]}}, "of dimension 0 of stem.weight"),
        ({"stem.weight": {0: []}}, "of dimension 0 of stem.weight"),
        ({"stem.weight": {4: [0]}}, "of dimension 4 of stem.weight"),
    ],
)
def test_plan_for_another_network_is_refused(network, kept, message):
    before = state_of(network)
    with pytest.raises(ValueError, match=f"(?s)plan is for another network: .*{message}"):
        surgery.remove(network, kept)
    assert_same_state(network, before)


def test_to_prune_twice_is_to_prune_once_by_both(network, tmp_path):
    once = surgery.prune(network, graph_of(network), {"stem": [2], "a": [0, 3]})
    twice = surgery.prune(once, graph_of(once), {"stem": [0], "a": [1]})  # 2 of 1, 2, 4, 5
    together = surgery.prune(network, graph_of(network), {"stem": [0, 2], "a": [0, 2, 3]})
    assert_same_state(twice, together.state_dict())
    assert twice.pruning_plan == together.pruning_plan
    assert once.pruning_plan == surgery.plan(graph_of(network), {"stem": [2], "a": [0, 3]})
    surgery.save(twice, tmp_path / "twice.safetensors")
    loaded = surgery.load(fresh().double(), tmp_path / "twice.safetensors")
    assert_same_state(loaded, twice.state_dict())


def test_copy_of_a_pruned_network_knows_its_plan(network):
    smaller = surgery.prune(network, graph_of(network), REMOVED)
    assert copy.deepcopy(smaller).pruning_plan == smaller.pruning_plan


# --- files --------------------------------------------------------------------------------------


@pytest.fixture
def saved(network, tmp_path):
    """The file of a pruned network."""
    path = tmp_path / "pruned.safetensors"
    surgery.save(surgery.prune(network, graph_of(network), REMOVED), path)
    return path


def rewrite(path, change) -> None:
    """Change the plan that a file holds."""
    with safe_open(path, "pt") as file:
        plan = json.loads(file.metadata()["pruning_plan"])
    save_file(load_file(path), path, {"pruning_plan": json.dumps(change(plan))})


def test_file_holds_the_plan_as_json_beside_the_weights(network, saved):
    with safe_open(saved, "pt") as file:
        plan = json.loads(file.metadata()["pruning_plan"])
        assert set(file.keys()) == set(network.state_dict())
    assert plan["norm.running_mean"] == {"0": [1, 2, 4]}
    assert plan["stem.weight"] == {"0": [0, 1, 2, 3, 6, 7]}  # the third of four pairs is gone


@pytest.mark.parametrize("training", [True, False])
def test_loaded_network_is_the_saved_one_to_the_bit(network, saved, training):
    whole = randomised(fresh(), seed=1).train(training)
    before = state_of(whole)
    loaded = surgery.load(whole, saved)
    smaller = surgery.prune(network, graph_of(network), REMOVED)
    assert_same_state(loaded, smaller.state_dict())
    assert str(loaded) == str(smaller) and loaded.training == training
    assert torch.equal(loaded.eval()(example()), smaller(example()))
    assert loaded.pruning_plan == smaller.pruning_plan
    assert_same_state(whole, before)


def test_network_that_was_never_pruned_is_saved_and_loaded_whole(network, tmp_path):
    surgery.save(network, tmp_path / "whole.safetensors")
    loaded = surgery.load(fresh().double(), tmp_path / "whole.safetensors")
    assert_same_state(loaded, network.state_dict())


def test_weights_without_a_plan_are_refused(network, saved):
    save_file(network.state_dict(), saved)
    with pytest.raises(ValueError, match=f"{saved} holds no pruning plan"):
        surgery.load(fresh(), saved)


@pytest.mark.parametrize(
    "plan", ["[1]", "3", "null", "{", '{"stem.weight": [1]}', '{"a": {"b": [0]}}']
)
def test_what_is_no_plan_is_refused(network, saved, plan):
    save_file(network.state_dict(), saved, {"pruning_plan": plan})
    with pytest.raises(ValueError, match="holds no pruning plan"):
        surgery.load(fresh(), saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: {},
        lambda plan: plan | {"stem.weight": {"0": [0, 1]}},
        lambda plan: plan | {"stem.weight": {"0": [0, 1, 2, 3, 6, 99]}},
        lambda plan: plan | {"stem.weight": {"9": [0]}},
        lambda plan: plan | {"spare.weight": {"0": [0]}},
        lambda plan: plan | {"grouped.weight": {"0": [0]}},
        lambda plan: {name: kept for name, kept in plan.items() if name != "norm.weight"},
    ],
    ids=["none", "shorter", "too far", "no such dimension", "no such name", "no group", "one less"],
)
def test_plan_that_was_tampered_with_is_refused(saved, change):
    rewrite(saved, change)
    with pytest.raises(ValueError, match=r"another network"):
        surgery.load(fresh(), saved)


@pytest.mark.parametrize("other", [small_resnet(), between(lambda net, x: x)], ids=["net", "less"])
def test_file_of_another_network_is_refused(saved, other):
    with pytest.raises(ValueError, match="another network"):
        surgery.load(other, saved)


def test_file_is_not_loaded_into_a_network_that_is_pruned_already(network, saved):
    with pytest.raises(ValueError, match="another network"):
        surgery.load(surgery.prune(network, graph_of(network), REMOVED), saved)


@pytest.mark.parametrize(
    "keep", [0, 7, 500, -1], ids=["empty", "cut header", "cut plan", "cut tail"]
)
def test_damaged_file_is_refused(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises((ValueError, SafetensorError)):
        surgery.load(fresh(), saved)


def test_pickle_is_never_unpickled(network, saved, tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "sprung").touch, ()

    with saved.open("wb") as file:
        pickle.dump(Trap(), file)
    with pytest.raises((ValueError, SafetensorError)):
        surgery.load(fresh(), saved)
    assert not (tmp_path / "sprung").exists()
