"""Scores are what they say, true costs are those of a really pruned network, choices are exact."""

import copy
import math
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from course_lib.networks.models import SmallResNet, resnet18
from course_lib.pruning import channels, surgery
from course_lib.pruning.graph import trace
from course_lib.teaching.exercises import EXERCISES

PICTURE = torch.zeros(1, 1, 12, 12)


def shaken(model, seed=0):
    """``model`` with random weights and statistics, so that nothing is 0 or 1 by chance."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.is_floating_point():
                size = 1 / math.sqrt(max(1, tensor[0].numel())) if tensor.dim() > 1 else 1
                tensor.copy_(size * torch.randn(tensor.shape, generator=generator))
    return model.eval()


def chain():
    """Three layers; the last reads each channel of the second in nine columns."""
    layers = [nn.Conv2d(1, 5, 3, stride=2), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3)]
    return shaken(nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 3)))


def residual():
    """One residual block in each of two stages, the second with a convolution as its skip."""
    return shaken(SmallResNet(widths=(4, 6), depth=1, classes=3))


class Twice(nn.Module):
    """Uses one ReLU in three places, and changes what layers return in place."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.third = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(5, 3)

    def forward(self, x):
        x = self.relu(self.norm(self.first(x)))
        out = self.second(x)
        out += x
        out = self.third(self.relu(out))
        out *= 0.5
        return self.head(self.relu(out).mean((2, 3)))


class Attending(nn.Module):
    """Attention over the rows of a picture; the output projection is never called by itself."""

    def __init__(self):
        super().__init__()
        self.embed, self.attention = nn.Linear(12, 8), nn.MultiheadAttention(8, 4, batch_first=True)
        self.wide, self.head = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.embed(x.flatten(1, 2))
        x = self.attention(x, x, x, need_weights=False)[0]
        return self.head(torch.relu(self.wide(x)).mean(1))


NETWORKS = {
    "chain": chain,
    "residual": residual,
    "a layer used twice": lambda: shaken(Twice()),
    "attention": lambda: shaken(Attending()),
    "ResNet-18": lambda: shaken(resnet18()),
}


def pictures(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=generator)
    return torch.randn(count, 1, 12, 12, generator=generator), labels


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_state(model, state):
    return all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def by_position(score, names):
    """What ``score`` says of the channel at each position of layers that make it together."""
    return torch.stack([sum(score(name, place) for name in names) for place in range(4)])


# --- scores from weights ------------------------------------------------------------------------


def test_l1_and_l2_are_those_of_each_filter():
    model = chain()
    found = trace(model, PICTURE)
    l1, l2 = channels.l1(model, found), channels.l2(model, found)
    for name, layer in (("0", model[0]), ("3", model[3])):
        for place in range(layer.out_channels):
            weights = layer.weight[place].flatten().tolist()
            assert l1[name][place] == pytest.approx(sum(abs(one) for one in weights), rel=1e-5)
            squares = sum(one * one for one in weights)
            assert l2[name][place] == pytest.approx(math.sqrt(squares), rel=1e-5)


def test_channels_of_a_residual_stream_are_scored_together():
    model = residual()
    found = trace(model, PICTURE)
    makers = ("stem", "blocks.0.conv2")
    assert found.groups["stem"].layers == makers
    layers = dict(model.named_modules())
    sums = by_position(lambda name, place: layers[name].weight[place].abs().sum(), makers)
    squares = by_position(lambda name, place: layers[name].weight[place].square().sum(), makers)
    scales = by_position(
        lambda name, place: layers[name].weight[place].abs(), ("bn", "blocks.0.bn2")
    )
    assert torch.allclose(channels.l1(model, found)["stem"], sums)
    assert torch.allclose(channels.l2(model, found)["stem"], squares.sqrt())
    assert torch.allclose(channels.batchnorm_scale(model, found)["stem"], scales)


def test_a_convolution_on_the_skip_counts():
    model = residual()
    made = [layer.weight.abs().flatten(1).sum(1) for layer in (model.blocks[1].conv2,)]
    made.append(model.blocks[1].skip[0].weight.abs().flatten(1).sum(1))
    assert torch.allclose(channels.l1(model, trace(model, PICTURE))["blocks.1.conv2"], sum(made))


def test_without_batchnorm_there_is_no_scale():
    model = chain()
    scales = channels.batchnorm_scale(model, trace(model, PICTURE))
    assert scales.keys() == {"0"}
    assert torch.equal(scales["0"], model[1].weight.abs())
    bare = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    assert channels.batchnorm_scale(bare, trace(bare, torch.zeros(1, 4))) == {}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_every_score_has_one_number_for_each_channel_that_can_go(make):
    model = make()
    found = trace(model, PICTURE)
    state, batches = state_of(model), [pictures(4)]
    for scores in (
        channels.l1(model, found),
        channels.l2(model, found),
        channels.taylor(model, found, batches),
        channels.random_scores(found, seed=0),
    ):
        assert scores.keys() == found.free.keys()
        for name, score in scores.items():
            assert score.shape == found.groups[name].channels.shape
            assert (score >= 0).all() and not score.requires_grad
    assert same_state(model, state)


def test_random_scores_depend_on_the_seed_only():
    found = trace(residual(), PICTURE)
    one, again, other = (channels.random_scores(found, seed) for seed in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


# --- Taylor -------------------------------------------------------------------------------------


def loss_with(model, found, channel, share, batch):
    """The loss when the weights that read ``channel`` have only a ``share`` of their size."""
    twin = copy.deepcopy(model)
    state = twin.state_dict()
    for slot in found.slots:
        if slot.reads:
            places = (slot.channels == channel).nonzero().squeeze(1)
            part = state[slot.name].index_select(slot.dim, places)
            state[slot.name].index_copy_(slot.dim, places, share * part)
    with torch.no_grad():
        return F.cross_entropy(twin(batch[0]), batch[1]).item()


@pytest.mark.parametrize("name", ["chain", "residual", "attention"])
def test_taylor_is_the_slope_of_the_loss_when_the_reads_fade(name):
    model = NETWORKS[name]().double()
    found = trace(model, PICTURE)
    batches = [(images.double(), labels) for images, labels in (pictures(6, 1), pictures(6, 2))]
    step = 1e-5
    for group, score in channels.taylor(model, found, batches).items():
        for place, channel in enumerate(found.groups[group].channels):
            slopes = [
                (
                    loss_with(model, found, channel, 1 + step, batch)
                    - loss_with(model, found, channel, 1 - step, batch)
                )
                / (2 * step)
                for batch in batches
            ]
            expected = sum(abs(slope) for slope in slopes) / len(slopes)
            assert score[place] == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_taylor_keeps_no_gradient_and_says_what_it_lacks():
    model = chain()
    found = trace(model, PICTURE)
    channels.taylor(model, found, [pictures(4)])
    assert all(weight.grad is None for weight in model.parameters())
    with pytest.raises(ValueError, match="at least one batch"):
        channels.taylor(model, found, [])
    model[6].weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"the gradient of 6\.weight: unfreeze"):
        channels.taylor(model, found, [pictures(4)])


# --- the truth ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(make, id=name, marks=[pytest.mark.sweep] * (name == "ResNet-18"))
        for name, make in NETWORKS.items()
    ],
)
def test_loss_changes_are_those_of_a_really_pruned_network(make):
    model = make().double()
    found = trace(model, PICTURE)
    batches = [(images.double(), labels) for images, labels in (pictures(3, 1), pictures(2, 2))]
    state = state_of(model)
    for name, group in found.free.items():
        places = range(len(group.channels))
        if len(group.channels) > 16:
            wanted = [0, len(group.channels) - 1]  # ResNet-18 is wide
            part = group._replace(channels=group.channels[wanted])
            changes = channels.loss_changes(
                model, found._replace(groups=found.groups | {name: part}), name, batches
            )
            places = wanted
        else:
            changes = channels.loss_changes(model, found, name, batches)
        assert changes.shape == (len(places), 5)
        for change, place in zip(changes, places, strict=True):
            pruned = surgery.prune(model, found, {name: [place]})
            expected = torch.cat([losses(pruned, *b) - losses(model, *b) for b in batches])
            assert torch.allclose(change, expected, rtol=1e-9, atol=1e-9)
    assert same_state(model, state)
    assert not any("forward" in vars(layer) for layer in model.modules())


def losses(model, images, labels):
    with torch.no_grad():
        return F.cross_entropy(model(images), labels, reduction="none")


def test_true_costs_are_the_mean_over_all_pictures():
    model = residual()
    found = trace(model, PICTURE)
    batches = [pictures(5, 1), pictures(3, 2)]
    costs = channels.ablation_losses(model, found, "blocks.1.conv1", iter(batches))
    changes = channels.loss_changes(model, found, "blocks.1.conv1", batches)
    assert changes.shape == (6, 8)
    assert torch.equal(costs, changes.mean(1))
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    whole = channels.ablation_losses(model, found, "blocks.1.conv1", [(images, labels)])
    assert torch.allclose(costs, whole, atol=1e-6)


def test_a_group_that_cannot_be_removed_can_still_be_asked_about_its_costs():
    model = chain()
    found = trace(model, PICTURE)
    assert channels.ablation_losses(model, found, "6", [pictures(4)]).tolist() == [0, 0, 0]


def test_what_comes_before_the_channels_runs_once():
    model = residual()
    found = trace(model, PICTURE)
    stem = model.stem.weight.data_ptr()
    with mock.patch("torch.nn.functional.conv2d", wraps=F.conv2d) as conv:
        channels.loss_changes(model, found, "blocks.1.conv1", [pictures(4)])
    runs = [call.args[1].data_ptr() for call in conv.call_args_list]
    assert runs.count(stem) == 1
    assert runs.count(model.blocks[1].conv2.weight.data_ptr()) == 2 + 6


def test_an_interruption_leaves_the_network_as_it_was():
    model = residual()
    found = trace(model, PICTURE)
    state, hooks = state_of(model), [len(layer._forward_hooks) for layer in model.modules()]
    images, labels = pictures(4)
    with (
        mock.patch.object(channels, "_losses", side_effect=[torch.zeros(4), KeyboardInterrupt]),
        pytest.raises(KeyboardInterrupt),
    ):
        channels.loss_changes(model, found, "blocks.1.conv1", [(images, labels)])
    assert same_state(model, state)
    assert not any("forward" in vars(layer) for layer in model.modules())
    assert hooks == [len(layer._forward_hooks) for layer in model.modules()]


def test_a_forward_that_somebody_put_there_is_put_back():
    model = residual()
    found = trace(model, PICTURE)
    mine = model.stem.forward
    model.stem.forward = mine
    channels.loss_changes(model, found, "blocks.1.conv1", [pictures(4)])
    assert vars(model.stem)["forward"] is mine


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (lambda images, labels: images, "no labels"),
        (lambda images, labels: (images, labels[:2]), "one label for each"),
        (lambda images, labels: (images * math.nan, labels), "NaN"),
        (lambda images, labels: (images[..., :4], labels), "Sequential cannot take inputs"),
    ],
    ids=["no labels", "too few", "NaN", "another size"],
)
def test_batches_that_say_nothing_are_refused(batch, message):
    model = chain()
    found = trace(model, PICTURE)
    batches = [batch(*pictures(4))]
    for measure in (
        channels.taylor,
        lambda *args: channels.ablation_losses(*args[:2], "0", args[2]),
    ):
        with pytest.raises(ValueError, match=message):
            measure(model, found, batches)
    with pytest.raises(ValueError, match="No group is called 'stem'; there are: 0"):
        channels.ablation_losses(model, found, "stem", [pictures(4)])


def test_progress_sees_every_batch_and_no_batch_is_an_error():
    model = chain()
    found = trace(model, PICTURE)
    seen = []
    batches = [pictures(2, 1), pictures(2, 2)]
    channels.ablation_losses(
        model, found, "0", batches, lambda steps: (seen.append(s) or s for s in steps)
    )
    assert len(seen) == 2
    with pytest.raises(ValueError, match="at least one batch"):
        channels.ablation_losses(model, found, "0", [])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_gives_the_scores_and_costs_of_the_cpu():
    model, batches = residual().double(), [pictures(6)]
    batches = [(images.double(), labels) for images, labels in batches]
    found, twin = trace(model, PICTURE), copy.deepcopy(model).cuda()
    for score in (channels.l1, channels.l2, channels.batchnorm_scale):
        ours, theirs = score(model, found), score(twin, found)
        assert all(torch.allclose(ours[name], theirs[name]) for name in ours)
    ours, theirs = (channels.taylor(network, found, batches) for network in (model, twin))
    assert all(torch.allclose(ours[name], theirs[name]) for name in ours)
    for name in found.free:
        ours, theirs = (
            channels.ablation_losses(net, found, name, batches) for net in (model, twin)
        )
        assert torch.allclose(ours, theirs)


# --- rank correlation ---------------------------------------------------------------------------


def slow_rank_correlation(one, other):
    """Spearman's correlation without a tensor: shared ranks, then Pearson's formula."""

    def ranks(values):
        ordered = sorted(values)
        return [ordered.index(v) + (ordered.count(v) - 1) / 2 for v in values]

    def centred(values):
        return [value - sum(values) / len(values) for value in values]

    a, b = centred(ranks(one)), centred(ranks(other))
    size = math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / size if size else math.nan


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=12))
def test_rank_correlation_shares_ranks_among_equals(pairs):
    one, other = (list(values) for values in zip(*pairs, strict=True))
    found = channels.rank_correlation(torch.tensor(one), torch.tensor(other))
    assert found == pytest.approx(slow_rank_correlation(one, other), abs=1e-9, nan_ok=True)


def test_rank_correlation_of_other_channels_is_refused():
    with pytest.raises(ValueError, match=r"got the shapes \(3,\) and \(4,\)"):
        channels.rank_correlation(torch.ones(3), torch.ones(4))


def test_rank_correlation_sees_the_order_only():
    values = torch.randn(20, generator=torch.Generator().manual_seed(0))
    assert channels.rank_correlation(values, values.exp()) == pytest.approx(1)
    assert channels.rank_correlation(values, -(values**3)) == pytest.approx(-1)


# --- choosing -----------------------------------------------------------------------------------

SCORES = {"a": torch.tensor([3.0, 1.0, 2.0, 0.5]), "b": torch.tensor([10.0, 30.0, 20.0])}


def random_group(count, seed=0):
    return torch.rand(count, generator=torch.Generator().manual_seed(seed))


def test_lowest_chooses_in_each_group():
    assert channels.lowest(SCORES, 0.5) == {"a": [3, 1], "b": [0, 2]}
    assert channels.lowest(SCORES, 0) == {"a": [], "b": []}
    assert channels.lowest(SCORES, {"b": 0.3}) == {"b": [0]}
    assert channels.lowest(SCORES, {"a": 0.25, "b": 0.0}) == {"a": [3], "b": []}


@pytest.mark.parametrize("choose", [channels.lowest, channels.lowest_overall])
def test_of_equal_scores_the_earlier_goes_first_and_one_stays(choose):
    ties = {"a": torch.ones(5)}
    assert choose(ties, 0.4) == {"a": [0, 1]}
    assert choose(ties, 0.99) == {"a": [0, 1, 2, 3]}
    assert choose({"a": torch.ones(1)}, 0.99) == {"a": []}


@pytest.mark.parametrize(
    ("count", "ratio", "multiple", "stay"),
    [
        (20, 0.5, 1, 10),
        (20, 0.5, 8, 16),
        (32, 0.5, 8, 16),
        (64, 0.7, 16, 32),
        (6, 0.5, 8, 6),
        (20, 0.99, 8, 8),
        (20, 0.0, 8, 20),
        (20, 0.05, 8, 20),
    ],
)
def test_the_number_that_stays_is_rounded_up_to_a_multiple(count, ratio, multiple, stay):
    scores = {"a": random_group(count)}
    assert len(channels.lowest(scores, ratio, multiple)["a"]) == count - stay
    assert len(channels.lowest_overall(scores, ratio, multiple=multiple)["a"]) == count - stay


@given(
    count=st.integers(1, 40),
    ratio=st.floats(0, 1, exclude_max=True),
    multiple=st.sampled_from([1, 2, 8, 16]),
    seed=st.integers(0, 99),
)
def test_what_goes_never_scores_above_what_stays(count, ratio, multiple, seed):
    scores = random_group(count, seed).mul(5).round()  # many ties
    [gone] = channels.lowest({"a": scores}, ratio, multiple).values()
    stay = sorted(set(range(count)) - set(gone))
    assert len(set(gone)) == len(gone) <= round(ratio * count)
    assert len(stay) >= 1 and (len(stay) % multiple == 0 or len(stay) == count)
    assert not gone or max(scores[gone]) <= min(scores[stay])
    if multiple == 1:
        assert len(gone) == min(round(ratio * count), count - 1)


@pytest.mark.parametrize("choose", [channels.lowest, channels.lowest_overall])
@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, math.nan, True, "0.5", None])
def test_an_impossible_ratio_is_refused(choose, ratio):
    with pytest.raises(ValueError, match="from 0 up to but not including 1"):
        choose(SCORES, ratio)


@pytest.mark.parametrize("choose", [channels.lowest, channels.lowest_overall])
def test_a_score_that_is_no_number_is_refused(choose):
    with pytest.raises(ValueError, match="score of b is NaN"):
        choose(SCORES | {"b": torch.tensor([1.0, math.nan])}, 0.5)


def test_other_impossible_wishes_are_refused():
    with pytest.raises(ValueError, match="no score for c; there are: a, b"):
        channels.lowest(SCORES, {"c": 0.5})
    with pytest.raises(ValueError, match="multiple of 1 or more; got 0"):
        channels.lowest(SCORES, 0.5, multiple=0)
    with pytest.raises(ValueError, match=r"multiple of 1 or more; got 1\.5"):
        channels.lowest(SCORES, 0.5, multiple=1.5)
    with pytest.raises(ValueError, match="from 0 up to"):
        channels.lowest_overall(SCORES, 0.5, floor=1)
    with pytest.raises(ValueError, match="score of b is infinite"):
        channels.lowest_overall(SCORES | {"b": torch.tensor([1.0, math.inf])}, 0.5)


def test_lowest_overall_compares_groups_by_their_mean():
    # Relative to the means 1.625 and 20 the order is a3, b0, a1, b2, a2, b1, a0.
    assert channels.lowest_overall(SCORES, 3 / 7, floor=0) == {"a": [3, 1], "b": [0]}
    louder = SCORES | {"a": 100 * SCORES["a"]}
    assert channels.lowest_overall(louder, 3 / 7, floor=0) == {"a": [3, 1], "b": [0]}


def test_every_group_keeps_its_floor():
    scores = {"low": torch.tensor([0.1, 0.1, 0.1, 97.0]), "high": torch.ones(6)}
    free = channels.lowest_overall(scores, 0.3, floor=0)
    assert free == {"low": [0, 1, 2], "high": []}
    held = channels.lowest_overall(scores, 0.3, floor=0.5)
    assert held == {"low": [0, 1], "high": [0]}
    assert sum(map(len, channels.lowest_overall(scores, 0.9, floor=0.5).values())) == 5


def test_lowest_overall_takes_scores_of_any_sign_and_zeros():
    costs = {"a": torch.tensor([-3.0, -1.0, 2.0, 1.0]), "b": torch.tensor([0.1, 0.2, 5.0, 5.0])}
    assert channels.lowest_overall(costs, 0.5, floor=0) == {"a": [0, 1], "b": [0, 1]}
    nothing = {"a": torch.zeros(4), "b": torch.ones(4)}
    assert channels.lowest_overall(nothing, 0.5, floor=0) == {"a": [0, 1, 2], "b": [0]}


# --- what the lesson builds ---------------------------------------------------------------------


def test_the_learner_builds_what_the_library_has():
    built = {name: EXERCISES[f"02.{name}"].reference for name in range(1, 7)}
    model = residual()
    found = trace(model, PICTURE)
    layer = model.blocks[1].conv1
    assert torch.allclose(built[1](layer.weight), channels.l1(model, found)["blocks.1.conv1"])
    scores = random_group(20)
    assert built[2](scores, 0.5, 8) == channels.lowest({"a": scores}, 0.5, 8)["a"]
    other = random_group(20, seed=1).round()
    assert built[4](scores, other) == channels.rank_correlation(scores, other)


def test_the_learner_measures_and_estimates_what_the_library_does():
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    images, labels = torch.randn(8, 5), torch.arange(8) % 3
    found = trace(model, torch.zeros(1, 5))
    weights = [model[0].weight, model[0].bias, model[2].weight]
    model[2].bias.data.zero_()
    with torch.no_grad():
        costs = [EXERCISES["02.3"].reference(images, *weights, labels, place) for place in range(4)]
    expected = channels.ablation_losses(model, found, "0", [(images, labels)]).tolist()
    assert costs == pytest.approx(expected, abs=1e-6)
    slopes = [
        torch.autograd.grad(F.cross_entropy(model(x), y), model[2].weight)[0]
        for x, y in ((images[:4], labels[:4]), (images[4:], labels[4:]))
    ]
    estimate = EXERCISES["02.5"].reference(model[2].weight.detach(), torch.stack(slopes))
    batches = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    assert torch.allclose(estimate, channels.taylor(model, found, batches)["0"])


def test_rescaled_filters_fool_the_norms_but_not_batchnorm_or_taylor():
    model = residual().double()
    twin, found = copy.deepcopy(model), trace(model, PICTURE)
    block = twin.blocks[0]
    statistics = block.bn1.running_mean, block.bn1.running_var
    factor = torch.tensor([10.0, 3.0, 0.5, 4.0]).double()
    fresh = EXERCISES["02.6"].reference(block.conv1.weight.detach(), *statistics, factor)
    with torch.no_grad():
        for tensor, values in zip((block.conv1.weight, *statistics), fresh, strict=True):
            tensor.copy_(values)
    images, labels = pictures(8)
    batches = [(images.double(), labels)]
    assert torch.allclose(model(images.double()), twin(images.double()), rtol=1e-3, atol=1e-4)
    name = "blocks.0.conv1"
    for score in (channels.l1, channels.l2):
        before, after = score(model, found)[name], score(twin, found)[name]
        assert torch.allclose(after, factor.float() * before)
    for score in (channels.batchnorm_scale, lambda *args: channels.taylor(*args, batches)):
        assert torch.allclose(score(model, found)[name], score(twin, found)[name], rtol=1e-2)


# --- 16-bit networks ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        *((torch.float16, size) for size in (1e-5, 1.0, 1e4)),
        *((dtype, size) for dtype in (torch.bfloat16, torch.float32) for size in (1e-8, 1.0, 1e4)),
    ],
)
@pytest.mark.parametrize("score", [channels.l1, channels.l2])
def test_scores_do_not_depend_on_the_type_of_the_weights(score, size, dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4096, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        model[0].weight.uniform_(0.5, 1).mul_(size * torch.linspace(2, 1, 8)[:, None])
    half = copy.deepcopy(model).to(dtype)
    same = copy.deepcopy(half).double()  # the very same weights
    wiring = trace(same, torch.randn(2, 4096).double())
    found, expected = score(half, wiring)["0"], score(same, wiring)["0"]
    assert found.isfinite().all() and torch.allclose(found, expected, rtol=1e-5)
    assert len(expected.unique()) == 8


def test_taylor_does_not_vanish_in_small_numbers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2)).half()
    with torch.no_grad():
        model[2].weight.mul_(1e-4)  # times a gradient of a thousandth, nothing in 16 bits
    batch = torch.randn(16, 64).half(), torch.arange(16) % 2
    found = channels.taylor(model, trace(model, torch.randn(2, 64)), [batch])["0"]
    assert (found > 0).sum() >= 7, "a neuron may be off for all inputs"


def test_no_layer_loses_all_of_its_channels():
    class Joined(nn.Module):
        """Two maps side by side, added to those of a third layer."""

        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(3, 8, 1)
            self.head = nn.Conv2d(8, 1, 1)

        def forward(self, x):
            return self.head(torch.cat([self.a(x), self.b(x)], 1) + self.c(x))

    model, x = Joined(), torch.randn(1, 3, 4, 4)
    graph = trace(model, x)
    scores = {"a": torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8])}
    lowest = channels.lowest(scores, 0.5)
    with pytest.raises(ValueError, match=r"All 2 channels of a\.weight would go"):
        surgery.prune(model, graph, lowest)
    removed = channels.spared(graph, scores, lowest)
    assert lowest == {"a": [0, 1, 2, 3]} and removed == {"a": [0, 2, 3]}
    surgery.prune(model, graph, removed)(x)
    assert channels.spared(graph, scores, {"a": [3]}) == {"a": [3]}
    surgery.shrink(model, x, 0.5, lambda *_: scores)(x)
