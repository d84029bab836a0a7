"""The graph knows which channels go together, and says so when it does not.

Which places of which tensor belong to a channel is written down by hand for every operation. The
reference of a removal is made by hand too: the listed weights that read the channels are zero.
"""

import copy
from typing import NamedTuple

import pytest
import torch
import torchvision
from networks import PICTURES, TOKENS, Net, between, conv, example, randomised, relative_error
from torch import fx, nn
from torch.ao.nn import qat
from torch.ao.quantization import get_default_qat_qconfig
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from course_lib.pruning import channels, surgery
from course_lib.pruning.graph import UnknownOperation, trace

# --- every operation, by hand -------------------------------------------------------------------


class Case(NamedTuple):
    """A network, channels to remove, and the places that serve them.

    The places of ``makes`` lie along dimension 0 and those of ``reads`` along dimension 1, unless
    the name ends with another dimension ("up.weight:1").
    """

    network: Net
    removed: dict[str, list[int]]
    makes: dict[str, list[int]]
    reads: dict[str, list[int]]
    shape: tuple[int, ...] = PICTURES


def places(listed: dict[str, list[int]], dim: int) -> dict[tuple[str, int], list[int]]:
    """The places by name and dimension."""
    pairs = {tuple(key.split(":")): where for key, where in listed.items()}
    return {(name, int(*other) if other else dim): where for (name, *other), where in pairs.items()}


def both(name: str, where: list[int]) -> dict[str, list[int]]:
    """The same places of the weight and of the bias of a layer."""
    return {f"{name}.weight": where, f"{name}.bias": where}


def norm(name: str, where: list[int]) -> dict[str, list[int]]:
    """The same places of all four tensors of a BatchNorm."""
    return both(name, where) | statistics(name, where)


def statistics(name: str, where: list[int]) -> dict[str, list[int]]:
    return {f"{name}.running_mean": where, f"{name}.running_var": where}


def interleave(x: torch.Tensor) -> torch.Tensor:
    """The channel shuffle of ShuffleNet, two halves."""
    batch, count, height, width = x.shape
    halves = x.view(batch, 2, count // 2, height, width)
    return halves.transpose(1, 2).reshape(batch, count, height, width)


def halves_swapped(x: torch.Tensor, cut) -> torch.Tensor:
    first, second = cut(x)
    return torch.cat([second, first], 1)


def squeeze_and_excite(net: Net, x: torch.Tensor) -> torch.Tensor:
    return x * net.up(net.down(F.adaptive_avg_pool2d(x, 1)).relu()).sigmoid()


def transformer_block(batch_first: bool) -> Net:
    """Attention and an MLP on tokens of width 8, each behind a LayerNorm and beside a skip."""

    def forward(net, x):
        normed = net.norm1(x)
        x = x + net.attention(normed, normed, normed, need_weights=False)[0]
        return x + net.fc2(F.gelu(net.fc1(net.norm2(x))))

    return Net(
        forward,
        norm1=nn.LayerNorm(8),
        attention=nn.MultiheadAttention(8, 4, batch_first=batch_first),
        norm2=nn.LayerNorm(8),
        fc1=nn.Linear(8, 6),
        fc2=nn.Linear(6, 8),
    )


def attention_case(batch_first: bool) -> Case:
    """Head 2 of 4 has the width 2: places 4 and 5 of the queries, of the keys and of the values."""
    head = [4, 5, 12, 13, 20, 21]
    return Case(
        transformer_block(batch_first),
        {"attention.heads": [2], "fc1": [0, 3]},
        {"attention.in_proj_weight": head, "attention.in_proj_bias": head} | both("fc1", [0, 3]),
        {"attention.out_proj.weight": [4, 5], "fc2.weight": [0, 3]},
        TOKENS,
    )


CASES = {
    "convolution": Case(
        between(lambda net, x: x, 4),
        {"stem": [1, 3]},
        both("stem", [1, 3]),
        {"head.weight": [1, 3]},
    ),
    "convolution in one dimension": Case(
        Net(
            lambda net, x: net.head(net.stem(x.flatten(2)).relu()),
            stem=nn.Conv1d(3, 4, 3),
            head=nn.Conv1d(4, 2, 3),
        ),
        {"stem": [1, 3]},
        both("stem", [1, 3]),
        {"head.weight": [1, 3]},
    ),
    "convolution without bias": Case(
        Net(
            lambda net, x: net.head(net.stem(x).relu()),
            stem=conv(3, 4, bias=False),
            head=conv(4, 2, bias=False),
        ),
        {"stem": [2]},
        {"stem.weight": [2]},
        {"head.weight": [2]},
    ),
    "grouped convolution": Case(  # group 1 of 4 reads 2 and 3, and makes 3, 4 and 5
        between(lambda net, x: net.grouped(x), 8, 12, grouped=conv(8, 12, groups=4)),
        {"stem": [1]},
        both("stem", [2, 3]) | both("grouped", [3, 4, 5]),
        {"head.weight": [3, 4, 5]},
    ),
    "depthwise convolution": Case(
        between(lambda net, x: net.depthwise(x), 4, depthwise=conv(4, 4, groups=4)),
        {"stem": [0, 2]},
        both("stem", [0, 2]) | both("depthwise", [0, 2]),
        {"head.weight": [0, 2]},
    ),
    "depthwise convolution with two outputs each": Case(
        between(lambda net, x: net.depthwise(x), 4, 8, depthwise=conv(4, 8, groups=4)),
        {"stem": [0, 2]},
        both("stem", [0, 2]) | both("depthwise", [0, 1, 4, 5]),
        {"head.weight": [0, 1, 4, 5]},
    ),
    "depthwise convolution of which one group is left": Case(
        between(lambda net, x: net.depthwise(x), 2, 4, depthwise=conv(2, 4, groups=2)),
        {"stem": [0]},
        both("stem", [0]) | both("depthwise", [0, 1]),
        {"head.weight": [0, 1]},
    ),
    "transposed convolution": Case(
        between(lambda net, x: net.up(x).relu(), 4, 6, up=nn.ConvTranspose2d(4, 6, 2, stride=2)),
        {"stem": [1], "up": [2, 5]},
        both("stem", [1]) | {"up.weight:1": [2, 5], "up.bias": [2, 5]},
        {"up.weight:0": [1], "head.weight": [2, 5]},
    ),
    "grouped transposed convolution": Case(
        between(lambda net, x: net.up(x), 8, 12, up=nn.ConvTranspose2d(8, 12, 2, groups=4)),
        {"stem": [1]},
        both("stem", [2, 3]) | {"up.weight": [2, 3], "up.bias": [3, 4, 5]},
        {"head.weight": [3, 4, 5]},
    ),
    "linear": Case(
        Net(
            lambda net, x: net.b(net.a(x).relu()), a=nn.Linear(8, 6), b=nn.Linear(6, 3, bias=False)
        ),
        {"a": [0, 4]},
        both("a", [0, 4]),
        {"b.weight": [0, 4]},
        TOKENS,
    ),
    "batch norm": Case(
        between(lambda net, x: net.norm(x), 4, norm=nn.BatchNorm2d(4)),
        {"stem": [1]},
        both("stem", [1]) | norm("norm", [1]),
        {"head.weight": [1]},
    ),
    "batch norm without scale and shift": Case(
        between(lambda net, x: net.norm(x), 4, norm=nn.BatchNorm2d(4, affine=False)),
        {"stem": [1]},
        both("stem", [1]) | statistics("norm", [1]),
        {"head.weight": [1]},
    ),
    "batch norm without statistics": Case(
        between(lambda net, x: net.norm(x), 4, norm=nn.BatchNorm2d(4, track_running_stats=False)),
        {"stem": [1]},
        both("stem", [1]) | both("norm", [1]),
        {"head.weight": [1]},
    ),
    "instance norm": Case(
        between(
            lambda net, x: net.norm(x),
            4,
            norm=nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        ),
        {"stem": [1]},
        both("stem", [1]) | norm("norm", [1]),
        {"head.weight": [1]},
    ),
    "instance norm that has no tensors": Case(
        between(lambda net, x: net.norm(x), 4, norm=nn.InstanceNorm2d(4)),
        {"stem": [1]},
        both("stem", [1]),
        {"head.weight": [1]},
    ),
    "group norm": Case(
        between(lambda net, x: net.norm(x), 8, norm=nn.GroupNorm(4, 8)),
        {"stem": [1]},
        both("stem", [2, 3]) | both("norm", [2, 3]),
        {"head.weight": [2, 3]},
    ),
    "layer norm in a block": Case(
        Net(
            lambda net, x: x + net.fc2(net.fc1(net.norm(x)).relu()),
            norm=nn.LayerNorm(8),
            fc1=nn.Linear(8, 6),
            fc2=nn.Linear(6, 8),
        ),
        {"fc1": [2, 3]},
        both("fc1", [2, 3]),
        {"fc2.weight": [2, 3]},
        TOKENS,
    ),
    "activation with a number for each channel": Case(
        between(lambda net, x: net.act(x - 1), 4, act=nn.PReLU(4)),
        {"stem": [1, 2]},
        both("stem", [1, 2]) | {"act.weight": [1, 2]},
        {"head.weight": [1, 2]},
    ),
    "activation with one number": Case(
        between(lambda net, x: net.act(x - 1), 4, act=nn.PReLU()),
        {"stem": [1, 2]},
        both("stem", [1, 2]),
        {"head.weight": [1, 2]},
    ),
    "addition": Case(  # the stem and what is added to it make the same channels
        between(lambda net, x: x + net.b(net.a(x).relu()), 4, a=conv(4, 5), b=conv(5, 4)),
        {"stem": [1], "a": [0, 4]},
        both("stem", [1]) | both("b", [1]) | both("a", [0, 4]),
        {"a.weight": [1], "b.weight": [0, 4], "head.weight": [1]},
    ),
    "addition in place": Case(
        between(lambda net, x: x.add_(net.a(x)).relu_(), 4, a=conv(4, 4)),
        {"stem": [1]},
        both("stem", [1]) | both("a", [1]),
        {"a.weight": [1], "head.weight": [1]},
    ),
    "multiplication": Case(
        between(lambda net, x: net.a(x) * net.b(x).sigmoid(), 4, 5, a=conv(4, 5), b=conv(4, 5)),
        {"a": [2], "stem": [0]},
        both("a", [2]) | both("b", [2]) | both("stem", [0]),
        {"a.weight": [0], "b.weight": [0], "head.weight": [2]},
    ),
    "concatenation": Case(  # the channels of b come after the three of a
        between(
            lambda net, x: torch.cat([net.a(x), net.b(x)], 1), 4, 5, a=conv(4, 3), b=conv(4, 2)
        ),
        {"a": [2], "b": [1], "stem": [0]},
        both("a", [2]) | both("b", [1]) | both("stem", [0]),
        {"a.weight": [0], "b.weight": [0], "head.weight": [2, 4]},
    ),
    "concatenation with itself": Case(
        between(lambda net, x: torch.cat([x, -x], 1), 3, 6),
        {"stem": [1]},
        both("stem", [1]),
        {"head.weight": [1, 4]},
    ),
    "chunk": Case(
        between(lambda net, x: halves_swapped(x, lambda x: x.chunk(2, 1)), 6),
        {"stem": [1]},
        both("stem", [1, 4]),
        {"head.weight": [1, 4]},
    ),
    "split at a computed place": Case(
        between(lambda net, x: halves_swapped(x, lambda x: x.split(x.shape[1] // 2, 1)), 6),
        {"stem": [1]},
        both("stem", [1, 4]),
        {"head.weight": [1, 4]},
    ),
    "channel shuffle by view and transpose": Case(  # the head reads 0, 3, 1, 4, 2, 5
        between(lambda net, x: interleave(x), 6),
        {"stem": [1]},
        both("stem", [1, 4]),
        {"head.weight": [2, 3]},
    ),
    "channel shuffle": Case(
        between(lambda net, x: net.shuffle(x), 6, shuffle=nn.ChannelShuffle(2)),
        {"stem": [1]},
        both("stem", [1, 4]),
        {"head.weight": [2, 3]},
    ),
    "flatten": Case(  # each channel has four pixels
        Net(
            lambda net, x: net.head(F.max_pool2d(net.stem(x), 3).flatten(1)),
            stem=conv(3, 4),
            head=nn.Linear(16, 3),
        ),
        {"stem": [0, 2]},
        both("stem", [0, 2]),
        {"head.weight": [0, 1, 2, 3, 8, 9, 10, 11]},
    ),
    "flatten with the channels last": Case(
        Net(
            lambda net, x: net.head(F.max_pool2d(net.stem(x), 3).permute(0, 2, 3, 1).flatten(1)),
            stem=conv(3, 4),
            head=nn.Linear(16, 3),
        ),
        {"stem": [2]},
        both("stem", [2]),
        {"head.weight": [2, 6, 10, 14]},
    ),
    "mean over the picture": Case(
        Net(
            lambda net, x: net.head(net.stem(x).relu().mean((2, 3))),
            stem=conv(3, 4),
            head=nn.Linear(4, 3),
        ),
        {"stem": [2]},
        both("stem", [2]),
        {"head.weight": [2]},
    ),
    "squeeze and excitation": Case(
        between(squeeze_and_excite, 4, down=nn.Conv2d(4, 3, 1), up=nn.Conv2d(3, 4, 1)),
        {"stem": [3], "down": [0]},
        both("stem", [3]) | both("down", [0]) | both("up", [3]),
        {"down.weight": [3], "up.weight": [0], "head.weight": [3]},
    ),
    "one map for all channels": Case(
        between(lambda net, x: x * net.map(x).sigmoid(), 4, map=conv(4, 1)),
        {"stem": [1]},
        both("stem", [1]),
        {"map.weight": [1], "head.weight": [1]},
    ),
    "one map for the one channel that is left": Case(
        between(lambda net, x: x * net.map(x).sigmoid(), 4, map=conv(4, 1)),
        {"stem": [0, 2, 3]},
        both("stem", [0, 2, 3]),
        {"map.weight": [0, 2, 3], "head.weight": [0, 2, 3]},
    ),
    "pooling, padding and resizing": Case(
        between(
            lambda net, x: net.up(F.pad(net.pool(F.avg_pool2d(x, 2)), (1, 1))),
            4,
            pool=nn.MaxPool2d(2, ceil_mode=True),
            up=nn.Upsample(scale_factor=2),
        ),
        {"stem": [1]},
        both("stem", [1]),
        {"head.weight": [1]},
    ),
    "layer that is used twice": Case(  # what it makes is what it reads
        between(lambda net, x: net.twice(net.twice(x).relu()), 4, twice=conv(4, 4)),
        {"stem": [1]},
        both("stem", [1]) | both("twice", [1]),
        {"twice.weight": [1], "head.weight": [1]},
    ),
    "parameter and buffer for each channel": Case(
        between(
            lambda net, x: x * net.scale + net.shift,
            4,
            scale=nn.Parameter(torch.empty(4, 1, 1)),
            shift=torch.empty(1, 4, 1, 1),
        ),
        {"stem": [1]},
        both("stem", [1]) | {"scale": [1], "shift:1": [1]},
        {"head.weight": [1]},
    ),
    "attention, batch first": attention_case(batch_first=True),
    "attention, tokens first": attention_case(batch_first=False),
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request):
    """A case; its network is random float64."""
    return request.param._replace(network=randomised(copy.deepcopy(request.param.network)))


def test_a_channel_is_every_place_that_serves_it_and_no_other(case):
    graph = trace(case.network, example(case.shape))
    kept = surgery.plan(graph, case.removed)
    tensors = dict(case.network.named_parameters()) | dict(case.network.named_buffers())
    gone = {
        (name, dim): sorted(set(range(tensors[name].shape[dim])) - set(stays))
        for name, dims in kept.items()
        for dim, stays in dims.items()
    }
    assert gone == places(case.makes, 0) | places(case.reads, 1)


@pytest.mark.filterwarnings("ignore:input's size at dim")  # InstanceNorm2d without tensors
def test_removing_is_the_same_as_not_reading(case):
    x = example(case.shape)
    smaller = surgery.prune(case.network, trace(case.network, x), case.removed)
    found = smaller(x)
    state = case.network.state_dict()
    for (name, dim), where in places(case.reads, 1).items():
        state[name].index_fill_(dim, torch.tensor(where), 0)
    assert relative_error(found, case.network(x)) < 1e-9


def test_what_is_left_of_each_tensor_is_what_it_held(case):
    smaller = surgery.prune(
        case.network, trace(case.network, example(case.shape)), case.removed
    ).state_dict()
    for name, tensor in case.network.state_dict().items():
        for (listed, dim), where in (places(case.makes, 0) | places(case.reads, 1)).items():
            if listed == name:
                stays = [place for place in range(tensor.shape[dim]) if place not in where]
                tensor = tensor.index_select(dim, torch.tensor(stays))
        assert torch.equal(smaller[name], tensor)


def test_groups_are_named_after_the_first_layer_that_makes_them():
    network = CASES["addition"].network
    graph = trace(network, example())
    assert {name: group.layers for name, group in graph.groups.items()} == {
        "stem": ("stem", "b"),
        "a": ("a",),
        "head": ("head",),
    }
    assert [len(group.channels) for group in graph.groups.values()] == [4, 5, 2]
    assert list(graph.free) == ["stem", "a"]
    assert str(graph).splitlines() == [
        "stem with 1 more: 4 channels, free",
        "a: 5 channels, free",
        "head: 2 channels, output of the network",
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_only_the_shape_of_the_example_counts(dtype):
    network = CASES["transposed convolution"].network.to(dtype)
    for fill in (0, float("nan")):
        graph = trace(network, torch.full(PICTURES, fill, dtype=dtype))
        assert [len(group.channels) for group in graph.free.values()] == [4, 6]


def test_the_picture_may_have_another_size_later():
    network = randomised(CASES["channel shuffle by view and transpose"].network)
    smaller = surgery.prune(network, trace(network, example()), {"stem": [0]})
    assert smaller(example((1, 3, 9, 7))).shape == (1, 2, 9, 7)


@pytest.mark.parametrize("training", [True, False])
def test_following_a_network_leaves_no_trace_on_it(training):
    network = between(
        lambda net, x: x + torch.zeros(1, 8, 1, 1), 8, norm=nn.BatchNorm2d(8), spare=conv(1, 1)
    ).train(training)
    network.norm.train(not training)
    before, modes = dict(vars(network)), [layer.training for layer in network.modules()]
    state = copy.deepcopy(network.state_dict())
    with pytest.raises(UnknownOperation):
        trace(network, example())
    assert [layer.training for layer in network.modules()] == modes
    assert vars(network) == before
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())


def test_layers_of_both_modes_are_followed():
    def forward(net, x):
        x = net.stem(x).relu()
        return (net.head(x), net.aux(x)) if net.training else net.late(net.head(x))

    network = Net(forward, stem=conv(3, 4), head=conv(4, 2), aux=conv(4, 2), late=conv(2, 2))
    smaller = surgery.prune(network, trace(network, example()), {"stem": [1]})
    shapes = {name: tuple(layer.weight.shape[:2]) for name, layer in smaller.named_children()}
    assert shapes == {"stem": (3, 3), "head": (2, 3), "aux": (2, 3), "late": (2, 2)}
    assert "head" not in trace(network, example()).free  # an output in training


# --- what stays as it is ------------------------------------------------------------------------


class LayerNorm(nn.Module):
    """Named like torch's own layer, but one that normalises the channels of pictures."""

    def forward(self, x):
        return x - x.mean(1, keepdim=True)


def heads(qkv: torch.Tensor, count: int) -> torch.Tensor:
    """Attention as most networks write it: queries, keys and values from one linear layer."""
    batch, tokens, width = qkv.shape
    parts = qkv.reshape(batch, tokens, 3, count, width // 3 // count).permute(2, 0, 3, 1, 4)
    q, k, v = parts.unbind(0)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def one_head() -> Net:
    """Attention with one head, as it is written in formulas; its values can be pruned."""
    return Net(
        lambda net, x: net.out(
            (net.embed(x) @ net.keys(x).transpose(1, 2)).softmax(-1) @ net.values(x)
        ),
        embed=nn.Linear(8, 6),
        keys=nn.Linear(8, 6),
        values=nn.Linear(8, 6),
        out=nn.Linear(6, 8),
    )


#: A network, the group that has to stay, and a part of the reason.
STAY = {
    "output": (between(lambda net, x: x), "head", "output of the network"),
    "normalised together": (
        between(
            lambda net, x: net.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
            norm=nn.LayerNorm(8),
        ),
        "stem",
        r"LayerNorm \(norm\)",
    ),
    "normalised by a layer of one's own": (
        between(lambda net, x: net.norm(x), norm=LayerNorm()),
        "stem",
        "norm adds them up",
    ),
    "groups without weights": (
        between(lambda net, x: net.norm(x), norm=nn.GroupNorm(4, 8, affine=False)),
        "stem",
        "GroupNorm",
    ),
    "added to the input": (
        Net(lambda net, x: net.head(net.stem(x) + x), stem=conv(3, 3), head=conv(3, 2)),
        "stem",
        "input of the network",
    ),
    "softmax": (between(lambda net, x: x.softmax(1)), "stem", "softmax"),
    "mean over channels": (
        between(lambda net, x: x - x.mean(1, keepdim=True)),
        "stem",
        "adds them up",
    ),
    "mean over everything": (between(lambda net, x: x - x.mean()), "stem", "adds them up"),
    "view to a fixed number": (
        between(lambda net, x: x.view(-1, 8, 36).view(x.shape)),
        "stem",
        "fixed size",
    ),
    "reshape to a fixed width": (
        Net(
            lambda net, x: net.head(F.max_pool2d(net.stem(x), 3).reshape(-1, 32)),
            stem=conv(3, 8),
            head=nn.Linear(32, 2),
        ),
        "stem",
        "fixed size",
    ),
    "view to two fixed sizes": (
        between(lambda net, x: x.view(-1, 2, 4, 6, 6).transpose(1, 2).flatten(1, 2)),
        "stem",
        "told apart",
    ),
    "split of fixed width": (
        between(lambda net, x: torch.cat(x.split(4, 1)[::-1], 1)),
        "stem",
        "fixed places",
    ),
    "split at fixed places": (
        between(lambda net, x: torch.cat(torch.split(x, [3, 5], 1)[::-1], 1)),
        "stem",
        "fixed places",
    ),
    "unequal chunks": (
        between(lambda net, x: torch.cat(x.chunk(3, 1)[::-1], 1)),
        "stem",
        "unequal parts",
    ),
    "every other channel": (between(lambda net, x: x[:, ::2], 8, 4), "stem", "by number"),
    "the first channels": (between(lambda net, x: x[:, :3], 8, 3), "stem", "by number"),
    "halves at a computed place": (
        between(lambda net, x: torch.cat([x[:, x.shape[1] // 2 :], x[:, : x.shape[1] // 2]], 1)),
        "stem",
        "by number",
    ),
    "channels as rows": (
        Net(
            lambda net, x: net.head(net.stem(x).transpose(1, 2)),
            stem=conv(3, 6),
            head=conv(6, 2),
        ),
        "stem",
        "mixes what is not channels",
    ),
    "channels as pictures": (
        between(lambda net, x: net.one(x.flatten(0, 1).unsqueeze(1)).view(x.shape), one=conv(1, 1)),
        "stem",
        "mixes what is not channels",
    ),
    "map for all channels": (
        between(lambda net, x: x * net.map(x), map=conv(8, 1)),
        "map",
        "for many channels",
    ),
    "convolution without a layer": (
        between(
            lambda net, x: F.conv2d(x, net.weight), weight=nn.Parameter(torch.ones(8, 8, 1, 1))
        ),
        "stem",
        r"as a whole, in conv2d\(\)",
    ),
    "indexing by a list": (
        between(lambda net, x: x[:, [1, 0, 3, 2, 5, 4, 7, 6]]),
        "stem",
        "as a whole, in getitem",
    ),
    "indexing by a tensor": (
        between(lambda net, x: x[:, net.order], order=torch.arange(8)),
        "stem",
        "as a whole, in getitem",
    ),
    "norm over channels": (between(lambda net, x: x / x.norm(2, 1, True)), "stem", "in norm"),
    "product of activations": (
        between(lambda net, x: x * (x.flatten(2).transpose(1, 2) @ x.flatten(2)).mean()),
        "stem",
        "a product of activations adds them up",
    ),
    "queries": (one_head(), "embed", "a product of activations adds them up"),
    "heads of one's own": (
        Net(
            lambda net, x: net.out(heads(net.embed(x), 2)),
            embed=nn.Linear(8, 24),
            out=nn.Linear(8, 8),
        ),
        "embed",
        "told apart|adds them up",
    ),
    "width between two attention layers": (
        Net(
            lambda net, x: net.block(net.embed(x)),
            embed=nn.Linear(8, 8),
            block=transformer_block(batch_first=True),
        ),
        "embed",
        "LayerNorm",
    ),
}


def half_of_all(graph) -> dict[str, list[int]]:
    """Every other channel of every free group."""
    return {name: [*range(0, len(group.channels), 2)][:-1] for name, group in graph.free.items()}


@pytest.mark.parametrize(("network", "group", "reason"), STAY.values(), ids=STAY)
def test_channels_that_cannot_go_exactly_stay_and_the_reason_is_told(network, group, reason):
    network = randomised(copy.deepcopy(network))
    x = example(TOKENS if hasattr(network, "embed") else PICTURES)
    graph = trace(network, x)
    assert group not in graph.free
    with pytest.raises(ValueError, match=f"The channels of {group} have to stay: .*{reason}"):
        surgery.plan(graph, {group: [0]})
    smaller = surgery.prune(network, graph, half_of_all(graph))
    assert (
        relative_error(smaller(x), surgery.zero_readers(network, graph, half_of_all(graph))(x))
        < 1e-9
    )


# --- what is refused ----------------------------------------------------------------------------


@fx.wrap
def of_ones_own(x):
    """A function that torch.fx does not look into."""
    return x.roll(1, 1)


def with_hook(network: Net) -> Net:
    network.stem.register_forward_hook(lambda layer, inputs, output: output.roll(1, 1))
    return network


def tied(network: Net) -> Net:
    network.second.weight = network.first.weight
    return network


def with_another_forward(network: nn.Module) -> nn.Module:
    old = network[-1].forward
    network[-1].forward = lambda x: 2 * old(x)
    return network


def with_plain_tensor(network: Net) -> Net:
    network.scale = torch.ones(8, 1, 1)
    return network


def attending(use, **options) -> Net:
    """Attention that is called as ``use`` does."""
    return Net(
        lambda net, x: net.head(use(net, net.embed(x))),
        embed=nn.Linear(8, 8),
        attention=nn.MultiheadAttention(8, 4, batch_first=True, **options),
        head=nn.Linear(8, 2),
        mask=torch.zeros(5, 5),
    )


#: A network, and what the message has to name: the operation, then the layer.
REFUSED = {
    "layer": (
        between(lambda net, x: net.up(x), 8, 2, up=nn.PixelShuffle(2)),
        r"PixelShuffle.*in up",
    ),
    "layer with a memory": (
        between(lambda net, x: net.rnn(x.flatten(2))[0], rnn=nn.LSTM(36, 36, batch_first=True)),
        "LSTM.*in rnn",
    ),
    "function": (between(lambda net, x: torch.cumsum(x, 1)), r"cumsum\(\) \(in the network itself"),
    "method": (between(lambda net, x: x.cumsum(1)), r"cumsum\(\) \(in the network itself"),
    "method in a block": (
        between(lambda net, x: net.block(x), block=Net(lambda net, x: x.sort(1)[0])),
        r"sort\(\) \(in block\)",
    ),
    "function of one's own": (
        between(lambda net, x: of_ones_own(x)),
        r"of_ones_own\(\) of test_graph",
    ),
    "padding of channels": (
        between(lambda net, x: F.pad(x, (0, 0, 0, 0, 2, 2)), 8, 12),
        "along the channels",
    ),
    "new channels of zeros": (
        between(lambda net, x: torch.cat([x, torch.zeros((2, x.shape[1], 6, 6))], 1), 8, 16),
        r"zeros\(\)",
    ),
    "number for each channel": (
        between(lambda net, x: x * torch.arange(x.shape[1]).view(1, -1, 1, 1)),
        r"arange\(\)",
    ),
    "constant": (between(lambda net, x: x * torch.ones(8, 1, 1)), "constant"),
    "tensor that is no buffer": (
        with_plain_tensor(between(lambda net, x: x * net.scale)),
        "scale, which is neither a parameter",
    ),
    "control flow by values": (
        between(lambda net, x: x if x.sum() > 0 else -x),
        "cannot trace what Net does: .*control flow",
    ),
    "control flow by sizes": (
        between(lambda net, x: x if x.shape[1] == 8 else -x),
        "cannot trace what Net does: .*control flow",
    ),
    "parameter of two layers": (
        tied(between(lambda net, x: net.second(net.first(x)), first=conv(8, 8), second=conv(8, 8))),
        "first.weight and second.weight are one tensor",
    ),
    "parameter of no layer": (
        between(lambda net, x: x, spare=conv(8, 8)),
        r"never uses spare\.weight",
    ),
    "parametrized weight": (
        between(lambda net, x: net.norm(x), norm=parametrizations.weight_norm(conv(8, 8))),
        "norm: its weight is computed by a parametrization",
    ),
    "masked weight": (
        between(
            lambda net, x: net.sparse(x), sparse=prune.l1_unstructured(conv(8, 8), "weight", 0.5)
        ),
        "sparse: its weight is computed before each call",
    ),
    "hook": (with_hook(between(lambda net, x: x)), "stem: it has a forward hook"),
    "attention with a mask": (
        attending(lambda net, x: net.attention(x, x, x, attn_mask=net.mask)[0]),
        r"attention.*in attention",
    ),
    "attention that returns its weights": (
        attending(lambda net, x: net.attention(x, x, x)[1] @ x),
        r"attention.*in attention",
    ),
    "attention with an extra key": (
        attending(lambda net, x: net.attention(x, x, x)[0], add_bias_kv=True),
        r"attention.*in attention",
    ),
}


@pytest.mark.parametrize(("network", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_known_is_refused_by_name(network, message):
    shape = TOKENS if hasattr(network, "embed") else PICTURES
    with pytest.raises(UnknownOperation, match=f"(?s){message}"):
        trace(network, torch.zeros(shape))


class Sum(nn.Module):
    """Takes two inputs, and a third that may be left out."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = conv(3, 8), conv(3, 8), conv(8, 2)

    def forward(self, x, y, scale=1.0):
        return self.head(self.one(x) + self.two(y) * scale)


def test_a_network_with_two_inputs_takes_a_pair_of_examples():
    network, inputs = randomised(Sum()), (example(), example())
    graph = trace(network, inputs)
    assert graph.groups["one"].layers == ("one", "two")
    smaller = surgery.prune(network, graph, {"one": [0, 3]})
    expected = surgery.zero_readers(network, graph, {"one": [0, 3]})(*inputs)
    assert relative_error(smaller(*inputs), expected) < 1e-9


@pytest.mark.parametrize("given", [(example(),), (example(),) * 4])
def test_as_many_examples_as_inputs_are_asked_for(given):
    with pytest.raises(UnknownOperation, match=f"inputs x, y; the example has {len(given)}"):
        trace(Sum(), given)


def halves_added(x: torch.Tensor) -> torch.Tensor:
    first, second = x.view(x.shape[0], 2, -1, 6, 6).unbind(1)
    return first + second


SPELLINGS = {
    "axis": lambda net, x: x * x.mean(axis=(2, 3), keepdims=True),
    "dim": lambda net, x: x * x.mean((2, 3), True),
    "function by name": lambda net, x: F.relu(input=x) + torch.mul(input=x, other=x),
    "layer by name": lambda net, x: net.norm(input=x),
    "list of chunks": lambda net, x: torch.cat(list(x.chunk(2, 1))[::-1], 1),
    "chunks by name": lambda net, x: torch.cat(list(torch.chunk(x, chunks=2, dim=1))[::-1], 1),
    "number of chunks": lambda net, x: x / len(x.chunk(2, 1)),
    "unbound": lambda net, x: halves_added(x),
    "tensors by name": lambda net, x: torch.cat(tensors=[x, x], dim=1),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_same_may_be_written_in_many_ways(spelling):
    after = {"unbound": 4, "tensors by name": 16}.get(spelling, 8)
    network = between(SPELLINGS[spelling], 8, after, norm=nn.BatchNorm2d(8))
    network = randomised(network if spelling == "layer by name" else without(network, "norm"))
    graph = trace(network, example())
    removed = half_of_all(graph)
    smaller = surgery.prune(network, graph, removed)
    expected = surgery.zero_readers(network, graph, removed)(example())
    assert relative_error(smaller(example()), expected) < 1e-9
    assert removed, graph


def without(network: Net, name: str) -> Net:
    delattr(network, name)
    return network


@pytest.mark.parametrize("norm", [torchvision.ops.FrozenBatchNorm2d(8), nn.BatchNorm2d(8)])
def test_frozen_statistics_go_with_their_channel(norm):
    network = randomised(between(lambda net, x: net.norm(x), norm=norm))
    smaller = surgery.prune(network, trace(network, example()), {"stem": [1, 2]})
    assert len(smaller.norm.running_mean) == len(smaller.norm.weight) == 6
    surgery.zero_readers(network, trace(network, example()), {"stem": [1, 2]})
    assert relative_error(smaller(example()), network(example())) < 1e-9


def test_attention_may_be_called_by_position():
    network = randomised(attending(lambda net, x: net.attention(x, x, x, None, False)[0]))
    graph = trace(network, example(TOKENS))
    smaller = surgery.prune(network, graph, {"attention.heads": [0]})
    expected = surgery.zero_readers(network, graph, {"attention.heads": [0]})(example(TOKENS))
    assert relative_error(smaller(example(TOKENS)), expected) < 1e-9
    with pytest.raises(ValueError, match="takes no mask"):
        smaller.attention(*[example(TOKENS)] * 3, attn_mask=torch.zeros(5, 5))


@pytest.mark.slow
def test_the_backbone_of_a_detector_is_pruned_by_itself():
    detector = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None
    ).eval()
    with pytest.raises(UnknownOperation, match="the backbone of a detector, can be pruned"):
        surgery.shrink(detector, torch.zeros(1, 3, 64, 64), 0.5)
    parameters = sum(one.numel() for one in detector.backbone.parameters())
    detector.backbone = surgery.shrink(detector.backbone, torch.zeros(1, 3, 64, 64), 0.5)
    assert sum(one.numel() for one in detector.backbone.parameters()) < 0.6 * parameters
    assert detector([torch.rand(3, 64, 64)])[0].keys() == {"boxes", "labels", "scores"}


CHANGED = {
    "compiled": (torch.compile(nn.Sequential(conv(3, 4))), "OptimizedModule: torch.compile wraps"),
    "scripted": (torch.jit.script(nn.Sequential(conv(3, 4))), "TorchScript hides its code"),
    "lazy": (nn.Sequential(nn.LazyConv2d(4, 3)), "0: it is lazy and has no weights yet"),
    "parallel": (nn.DataParallel(nn.Sequential(conv(3, 4))), "DataParallel wraps it"),
    "quantization-aware": (
        nn.Sequential(qat.Conv2d(3, 4, 3, qconfig=get_default_qat_qconfig()), conv(4, 2)),
        "other than that of Conv2d.*in 0",
    ),
    "bias with a parametrization": (
        nn.Sequential(parametrizations.weight_norm(conv(3, 4), "bias"), conv(4, 2)),
        "0: its bias is computed by a parametrization",
    ),
    "replaced forward": (
        with_another_forward(nn.Sequential(conv(3, 4), conv(4, 2))),
        "1: its forward",
    ),
    "replaced forward of the network": (
        with_another_forward(nn.ModuleList([nn.Sequential(conv(3, 4), conv(4, 2))]))[0],
        "Sequential: its forward was replaced",
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("network", "message"), CHANGED.values(), ids=CHANGED)
def test_a_layer_that_is_not_what_its_class_says_is_refused_by_name(network, message):
    with pytest.raises(UnknownOperation, match=f"(?s){message}"):
        surgery.shrink(network, torch.zeros(PICTURES), 0.5)


# --- what would be silently wrong ---------------------------------------------------------------


def picture_by_channels(net: Net, x: torch.Tensor) -> torch.Tensor:
    """Transposes the picture in a shape that is made from the number of channels."""
    batch, count, _, _ = x.shape
    return x + x.view(batch, count, count, -1).transpose(2, 3).reshape(x.shape)


#: Networks whose code computes with the number of channels, or does what the graph does not see.
SNEAKY = {
    "divided by the number of channels": between(lambda net, x: x / x.shape[1]),
    "scaled by a power of it": between(lambda net, x: x * x.size(1) ** -0.5),
    "divided by the number of values": between(lambda net, x: x / x.numel()),
    "clamped by it": between(lambda net, x: x.clamp(max=x.shape[1] / 8)),
    "slope by it": between(lambda net, x: F.leaky_relu(x - 1, 1 / x.shape[1])),
    "divided by the size of a layer": between(lambda net, x: x / net.stem.out_channels),
    "multiplied by the size of a weight": between(lambda net, x: x * net.stem.weight.shape[0]),
    "another way for another size": between(
        lambda net, x: 2 * x if net.stem.out_channels == 8 else x
    ),
    "another way in evaluation": between(lambda net, x: x if net.training else x.roll(1, 1)),
    "weight that is also a value": between(lambda net, x: x * net.stem.weight.mean()),
    "bias that is also a value": between(lambda net, x: x * net.stem.bias.sum()),
    "scale that is also a value": between(
        lambda net, x: net.norm(x) * net.norm.weight.sum(), norm=nn.BatchNorm2d(8)
    ),
    "rolled": between(lambda net, x: x.roll(1, 1)),
    "rolled half round": between(lambda net, x: x.roll(x.shape[1] // 2, 1)),
    "rolled by a hook of a block": between(
        lambda net, x: net.block(x), block=nn.Sequential(nn.ReLU())
    ),
    "flipped": between(lambda net, x: x.flip(1)),
    "shuffled in twos": between(
        lambda net, x: x.view(-1, x.shape[1] // 2, 2, 6, 6).transpose(1, 2).reshape(x.shape)
    ),
    "shuffled by a hidden two": between(
        lambda net, x: (
            x.view(-1, x.shape[0], x.shape[1] // x.shape[0], 6, 6).transpose(1, 2).reshape(x.shape)
        )
    ),
    "shuffled by the groups of a layer": between(
        lambda net, x: (
            net.grouped(x)
            .view(-1, net.grouped.groups, x.shape[1] // net.grouped.groups, 6, 6)
            .transpose(1, 2)
            .reshape(x.shape)
        ),
        grouped=conv(8, 8, groups=2),
    ),
    "channels into rows": between(
        lambda net, x: x.view(-1, x.shape[1] // 2, 12, 6).view(x.shape[0], -1, 6, 6)
    ),
    "channels by pixels": between(
        lambda net, x: x.reshape(-1, 4, 4, 18).permute(0, 2, 1, 3).reshape(x.shape)
    ),
    "part of a repetition": between(lambda net, x: torch.cat([x, x], 1)[:, 4:12]),
    "parts of a computed width": between(
        lambda net, x: torch.cat(x.split(x.shape[1] // 4 * 2, 1)[::-1], 1)
    ),
    "as many parts as there are pairs": between(
        lambda net, x: torch.cat(x.chunk(x.shape[1] // 2, 1)[::-1], 1)
    ),
    "cropped to as many rows as channels": between(lambda net, x: x[:, :, : x.shape[1] - 4]),
    "cropped to the size of a layer": between(lambda net, x: x[:, :, : net.stem.out_channels - 4]),
    "row with the number of channels": between(lambda net, x: x * x[:, :, x.shape[1] - 4, :, None]),
    "picture rolled by channels": between(lambda net, x: x * x.roll(x.shape[1], 2)),
    "picture transposed by channels": Net(
        lambda net, x: net.head(picture_by_channels(net, net.stem(x))),
        stem=conv(3, 6),
        head=conv(6, 2),
    ),
    "changed in place through a view": between(
        lambda net, x: (x.transpose(1, 2).add_(net.other(x).transpose(1, 2)), x)[1],
        other=conv(8, 8),
    ),
    "added to itself, rolled": between(lambda net, x: x + x.roll(4, 1)),
    "chunks of what is rolled": between(
        lambda net, x: halves_swapped(x.roll(4, 1), lambda x: x.chunk(2, 1))
    ),
    "depthwise of what is rolled": between(
        lambda net, x: net.depthwise(x.roll(4, 1)) + x, depthwise=conv(8, 8, groups=8)
    ),
    "groups of what is flipped": between(
        lambda net, x: net.norm(x.roll(4, 1).flip(1)), norm=nn.GroupNorm(2, 8)
    ),
    "pooled across features": Net(
        lambda net, x: net.head(net.pool(net.stem(x.mean((2, 3))))),
        stem=nn.Linear(3, 8),
        pool=nn.AvgPool1d(3, 1, 1),
        head=nn.Linear(8, 2),
    ),
    "pooled across channels": Net(
        lambda net, x: net.head(F.max_pool2d(net.stem(x.flatten(2)), 3, 1, 1)),
        stem=nn.Conv1d(3, 8, 3),
        head=nn.Conv1d(8, 2, 3),
    ),
    "normalised across features": Net(
        lambda net, x: net.head(net.norm(net.stem(x.mean((2, 3))))),
        stem=nn.Linear(3, 8),
        norm=nn.InstanceNorm1d(8),
        head=nn.Linear(8, 2),
    ),
    "normalised across channels": Net(
        lambda net, x: net.head(net.norm(net.stem(x.flatten(2)))),
        stem=nn.Conv1d(3, 8, 3),
        norm=nn.InstanceNorm2d(8),
        head=nn.Conv1d(8, 2, 3),
    ),
    "squeezed when one is left": Net(
        lambda net, x: net.head(net.stem(x).mean((2, 3), keepdim=True).squeeze()),
        stem=conv(3, 2),
        head=nn.Linear(2, 2),
    ),
    "widened when one is left": Net(
        lambda net, x: net.head((net.stem(x.mean((2, 3))).view(2, 4, -1) + net.shift).flatten(1)),
        stem=nn.Linear(3, 8),
        shift=nn.Parameter(torch.empty(2)),
        head=nn.Linear(8, 2),
    ),
}
SNEAKY["rolled by a hook of a block"].block.register_forward_hook(lambda *call: call[2].roll(1, 1))


@pytest.mark.filterwarnings("ignore:input's size at dim")  # normalised across what it should not
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("network", SNEAKY.values(), ids=SNEAKY)
def test_removal_is_exact_in_both_modes_or_refused(network, seed):
    network = randomised(copy.deepcopy(network))
    x = example()
    try:
        graph = trace(network, x)
    except UnknownOperation:
        return
    for ratio in (0.25, 0.5, 0.75):
        removed = channels.lowest(channels.random_scores(graph, seed), ratio)
        try:
            smaller = surgery.prune(network, graph, removed)
        except UnknownOperation:
            continue
        silent = surgery.zero_readers(copy.deepcopy(network), graph, removed)
        for training in (True, False):
            found, expected = smaller.train(training)(x), silent.train(training)(x)
            assert relative_error(found, expected) < 1e-9
