# %% [markdown]
# # 02 Channel scoring
#
# *Which channels matter, and does L1 know?*
#
# You will be able to
# - score channels by L1, L2, BatchNorm scale and Taylor, and say what each is computed from,
# - measure what a channel really costs, and how certain that measurement is,
# - say where L1 is right, where it is not, and how to fool it,
# - say why the best choice of one channel is not the best choice of many.
#
# **Time**: 60 minutes of reading and exercises, under 90 s of compute
#
# **Claims** under test: C05
#
# **Needs**: lesson 01. No network, no GPU.

# %%
import copy
from statistics import median, stdev

import matplotlib.pyplot as plt
import torch
from torch.nn import functional as F

from course_lib.bars import bar
from course_lib.measuring.estimates import Estimate, over_seeds, paired, widened
from course_lib.networks import data, models, training
from course_lib.pruning import channels, graph, surgery

# %%
from course_lib.teaching import claims, figures
from course_lib.teaching.exercises import check, hint, solution
from course_lib.teaching.widgets import predict, reveal

plt.style.use(figures.STYLE)

# %%
pictures = data.fashion_mnist()
net = models.load_trained("small_resnet")
found = graph.trace(net, pictures.train.images[:1])  # the groups of channels; see lesson 03
first, second, judging = (
    data.Images(*(tensor[start:stop] for tensor in pictures.validation))
    for start, stop in ((0, 500), (500, 1000), (1000, 3000))
)
unlabelled = pictures.train.images[:1024]  # to recalibrate BatchNorm, as in lesson 01
print(sum(len(group.channels) for group in found.free.values()), "channels can be removed")

# %% [markdown]
# Channels are measured on 1,000 validation pictures, in two halves, and choices are evaluated on
# 2,000 others: no choice is evaluated on the pictures that it was made on.
#
# ## Predict
#
# The network has nine residual blocks. Inside each, `conv1` makes channels that only `conv2` reads:
# 16 in the first blocks, 64 in the last. In every block, remove the half of them with the smallest
# weights, without any training. Then recalibrate BatchNorm, as in lesson 01.

# %% tags=["nbval-ignore-output"]
print(f"the whole network: {training.accuracy(net, judging):.1f} %")

# %%
predict(
    "02.half",
    "What accuracy is left?",
    low=0,
    high=100,
    unit="%",
)

# %% [markdown]
# ## The L1 norm of a channel
#
# A convolution makes each of its channels with one filter. A filter of small weights makes a
# channel of small values, so the textbook rule is: sum the absolute weights of each filter, and
# remove the channels with the lowest sums (Li et al., 2017).
#
# **Exercise 02.1.** `weight` has shape (out, in, height, width), or (out, in) for a linear layer.
# Return one number for each output channel.


# %%
def l1_scores(weight):
    """Sum of the absolute weights of each filter, (out,)."""
    return ...


check("02.1", l1_scores)

# %%
# hint("02.1")
# solution("02.1")

# %% [markdown]
# **Exercise 02.2.** Now choose. `round(ratio * channels)` channels go, the lowest scores first.
# Hardware runs best on layers whose width is a multiple of 8 or 16, so round the number that
# *stays* up to a multiple of `multiple`. At least one channel stays. Return the list of positions
# to remove, lowest score first.


# %%
def channels_to_remove(scores, ratio, multiple):
    """Positions of the channels that go; the number that stays is a multiple of `multiple`."""
    return ...


check("02.2", channels_to_remove)

# %%
# hint("02.2")
# solution("02.2")

# %% [markdown]
# The library has both, for all layers at once. Here are the channels of one layer, ordered by L1
# norm.

# %%
l1 = channels.l1(net, found)
name = "blocks.2.conv1"
gone = channels.lowest({name: l1[name]}, ratio=0.25)[name]
order = l1[name].argsort().tolist()
axes = figures.bars({str(one): l1[name][one] for one in order}, ylabel="L1 norm", title=name)
for patch, one in zip(axes.patches, order, strict=True):
    patch.set_color(figures.COLOURS["structured" if one in gone else "dense"])
axes.set_xlabel("channel")
figures.show(axes.figure, alt="L1 norm of 16 channels in rising order; the four lowest would go.")

# %%
print("they would go:", gone)
print(f"the largest is {l1[name].max() / l1[name].min():.1f} times the smallest")

# %% [markdown]
# The orange channels would go. The norms do not differ much: no channel is close to zero.
#
# ## What does a channel really cost?
#
# You can measure it: remove one channel, measure the loss, and put the channel back. The **cost**
# of a channel is the rise of the mean loss.
#
# **Exercise 02.3.** A small network: `hidden = torch.relu(inputs @ make.T + shift)` makes the
# channels, `hidden @ read.T` reads them and gives the logits. Return the cost of one channel: how
# much the mean cross-entropy (`F.cross_entropy(logits, labels)`) rises when the weights that read
# that channel are zero.


# %%
def removal_cost(inputs, make, shift, read, labels, channel):
    """Rise of the mean loss, a float; negative where the loss falls without the channel."""
    return ...


check("02.3", removal_cost)

# %%
# hint("02.3")
# solution("02.3")

# %% [markdown]
# Two layers of the real network, with one bar per channel. The channels are ordered by L1 norm, the
# lowest on the left. If L1 predicted the costs, the bars would rise like a staircase.

# %%
shown = ("blocks.2.conv1", "blocks.0.conv1")
figure, panels = plt.subplots(1, 2)
stairs = {}
for axes, name in zip(panels, shown, strict=True):
    cost = channels.ablation_losses(net, found, name, (first, second))
    stairs[name] = cost[l1[name].argsort()]
    axes.bar(range(len(cost)), 1000 * stairs[name], color=figures.COLOURS["structured"])
    axes.set(title=name, xlabel="channels by L1, rising")
panels[0].set_ylabel("cost (thousandths of a nat)")
figures.show(
    figure, alt="Cost of each channel in the order of L1: a staircase at best on the left."
)

# %%
for name, cost in stairs.items():
    costlier = (cost > cost[0]).sum().item()
    print(f"{name}: most channels cost more than the one with the lowest L1: {costlier > 7}")

# %% [markdown]
# On the left the bars roughly rise. On the right they do not: the first channel to go is one of the
# most expensive. (A *nat* is the unit of the loss, with natural logarithms.)
#
# ## One number for the agreement
#
# Only the order matters for choosing, so compare orders. The **rank correlation** (Spearman, 1904)
# is 1 for the same order, -1 for the opposite one, and about 0 for unrelated ones. Replace every
# value by its rank, then take the ordinary correlation. Equal values share the mean of their ranks.
#
# **Exercise 02.4.** Return the rank correlation of two tensors of the same length.


# %%
def rank_correlation(scores, truth):
    """Spearman's correlation, a float from -1 to 1."""
    return ...


check("02.4", rank_correlation)

# %%
# hint("02.4")
# solution("02.4")

# %% tags=["nbval-ignore-output"]
agreement = {
    name: channels.rank_correlation(torch.arange(len(cost)), cost) for name, cost in stairs.items()
}
print(*(f"{name}: {value:.2f}" for name, value in agreement.items()), sep="\n")

# %%
print("L1 follows the costs on the left, not on the right:", *(v > 0.5 for v in agreement.values()))

# %% [markdown]
# ## Other scores
#
# There are four alternatives. **L2** is the root of the summed squares. **BatchNorm scale** is the
# factor by which the BatchNorm after a channel multiplies it (Liu et al., 2017, who also push it
# towards zero during training, which was not done here). **Random** uses no information. **Taylor**
# uses the loss (Molchanov et al., 2019): the gradient says how the loss changes when a weight
# changes a little, and removing a channel sets all weights that read it to zero. To first order the
# loss changes by the sum of `-weight * gradient` over these weights.
#
# **Exercise 02.5.** `weight` (out, in) reads the channels, `gradients` (batches, out, in) has one
# gradient for each batch of pictures. For each channel, sum over the weights that read it, take the
# absolute value in each batch, and average over the batches.


# %%
def taylor_scores(weight, gradients):
    """Estimate of how far the loss of a batch moves without each channel, (in,)."""
    return ...


check("02.5", taylor_scores)

# %%
# hint("02.5")
# solution("02.5")

# %%
train = (tensor[:1000].split(20) for tensor in pictures.train)  # 50 batches of 20
scores = {
    "random": channels.random_scores(found, seed=0),
    "L1": l1,
    "L2": channels.l2(net, found),
    "BatchNorm": channels.batchnorm_scale(net, found),
    "Taylor": channels.taylor(net, found, zip(*train, strict=True)),
}

# %% [markdown]
# Taylor is the only score that needs pictures. Many small batches are better than one large one: at
# the end of training the mean gradient over all pictures is nearly zero.
#
# ## Channels that several layers make
#
# In a residual network, the output of a block is the sum of its input and of what its layers
# computed. So channel 5 of a stage is written by several layers, and can only be removed from all
# of them at once. Such a channel has one score: the sum over all layers that make it.

# %%
print(found)

# %%
makers = found.groups["stem"].layers
filters = [net.get_parameter(f"{layer}.weight").detach() for layer in makers]
by_hand = sum(weight.abs().sum((1, 2, 3)) for weight in filters)
print(", ".join(makers))
print("scored together:", torch.allclose(by_hand, l1["stem"]))

# %% [markdown]
# Each line is a group of channels to choose from: three **streams** that several layers write, and
# the inside of each of the nine blocks. The last group has the classes and stays. Lesson 03 shows
# how the groups are found.
#
# ## Every channel of the network
#
# Now remove each of them alone, and record the loss of each of the 1,000 pictures.

# %%
changes = {
    name: channels.loss_changes(net, found, name, (first, second))
    for name in bar(found.free, "groups of channels")
}
print(sum(len(change) for change in changes.values()), "channels on 1,000 pictures each")


# %%
def against(truth):
    """Rank correlation with `truth` in every group, for each score and the truth itself."""
    pairs = {name: (truth(c[:, :500]), truth(c[:, 500:])) for name, c in changes.items()}
    rows = {"other half": [channels.rank_correlation(*pair) for pair in pairs.values()]}
    for label, score in scores.items():
        rows[label] = [
            channels.rank_correlation(score[name], truth(c)) for name, c in changes.items()
        ]
    return rows


# %%
def draw(rows, title, alt):
    """The correlations as a table of colours: orange agrees, purple is opposite."""
    figure, axes = plt.subplots(figsize=(10, 4.2))
    axes.imshow(list(rows.values()), cmap="PuOr_r", vmin=-1.7, vmax=1.7, aspect="auto")
    for y, row in enumerate(rows.values()):
        for x, value in enumerate(row):
            axes.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=13)
    names = [name.replace("blocks.", "") for name in changes]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=13)
    axes.set_yticks(range(len(rows)), rows)
    axes.grid(visible=False)
    axes.set(title=title, xlabel="group of channels")
    figures.show(figure, alt)


# %%
def cost(change):
    """Change of the mean loss, in nats, for each channel."""
    return change.mean(1)


by_cost = against(cost)
draw(
    by_cost,
    "Rank correlation with the cost",
    alt="For six rows and twelve groups of channels, the rank correlation with the cost.",
)

# %% tags=["nbval-ignore-output"]
print(*(f"{label:10s} median {median(row):.2f}" for label, row in by_cost.items()), sep="\n")

# %%
print("L1 agrees with the cost, in the median, by less than 0.7:", median(by_cost["L1"]) < 0.7)
print("the cost agrees with itself by less than 0.7:", median(by_cost["other half"]) < 0.7)

# %% [markdown]
# Look at the first row before you judge L1. It compares the cost on 500 pictures with the cost on
# 500 others, and in the last blocks even these two hardly agree. A single channel there costs so
# little that 1,000 pictures are too few to tell which costs more. Where even the truth is
# uncertain, no score can agree with it. The row of random scores shows how far chance alone gets
# with so few channels.
#
# ## Only what is certain
#
# To be fair to the scores, consider only pairs of channels whose costs certainly differ: by more
# than three standard errors. (There are ten thousand pairs, so two standard errors would admit
# hundreds by chance.) Which of the two would you rather lose?


# %%
def certain_pairs(change):
    """Pairs of channels (costly, cheap) whose costs differ by over 3 standard errors, (2, n)."""
    gap = change[:, None] - change  # (channels, channels, pictures)
    return (gap.mean(2) > 3 * gap.std(2) / gap.shape[2] ** 0.5).nonzero().T


# %%
pairs = {name: certain_pairs(change) for name, change in changes.items()}
right = {
    label: torch.cat(
        [score[name][costly] > score[name][cheap] for name, (costly, cheap) in pairs.items()]
    )
    for label, score in scores.items()
}

# %% tags=["nbval-ignore-output"]
share = {label: 100 * hits.double().mean().item() for label, hits in right.items()}
possible = sum(len(change) * (len(change) - 1) // 2 for change in changes.values())
print(f"{len(right['L1'])} of {possible} pairs are certain; share in the right order:")
print(*(f"{label:10s} {percent:.0f} %" for label, percent in share.items()), sep="\n")

# %%
print("L1 orders nine of ten correctly:", share["L1"] >= 90)

# %% [markdown]
# Chance would order about half of them correctly (not exactly half, as a few costly channels are in
# many of these pairs). L1 is far better than chance. But of such clear pairs, the true importance
# would get hardly any wrong.
#
# ## How far does a channel move the loss?
#
# Why is the cost so hard to measure? Without the channel, the loss of some pictures rises and that
# of others falls. In the mean most of that cancels. The size of the change, up or down, does not
# cancel: its mean is the **effect** of a channel.


# %%
def effect(change):
    """Mean absolute change of the loss of a picture, in nats, for each channel."""
    return change.abs().mean(1)


by_effect = against(effect)
draw(
    by_effect,
    "Rank correlation with the effect",
    alt="For six rows and twelve groups of channels, the rank correlation with the effect.",
)

# %% tags=["nbval-ignore-output"]
print(*(f"{label:10s} median {median(row):.2f}" for label, row in by_effect.items()), sep="\n")

# %%
print(
    "the effect agrees with itself, in the median, by over 0.9:",
    median(by_effect["other half"]) > 0.9,
)
print("L1 agrees with it, in the median, by over 0.6:", median(by_effect["L1"]) > 0.6)
print("in most groups by over 0.5:", sum(value > 0.5 for value in by_effect["L1"]) > 6)
print("in the worst by less than 0.3:", min(by_effect["L1"]) < 0.3)
print("Taylor agrees with it in every group by over 0.5:", min(by_effect["Taylor"]) > 0.5)

# %% [markdown]
# The first row is now nearly perfect: the effect can be measured precisely. L1 follows it well in
# most groups, but not at all in those closest to the input, on the left. Taylor follows it
# everywhere. So in most layers L1 predicts how much a channel *does*. It predicts less well whether
# the network is worse without the channel.
#
# ## What it means in accuracy
#
# Back to your prediction: inside every block, a quarter of the channels goes, or half. Each choice
# is evaluated as it is and with BatchNorm recalibrated. Random choices are drawn five times, since
# one draw may be lucky.

# %%
inside = [name for name in found.free if name.endswith("conv1")]
choices = {name: score for name, score in scores.items() if name != "random"} | {
    "cost": {name: cost(change) for name, change in changes.items()},
    "effect": {name: effect(change) for name, change in changes.items()},
}
draws = [channels.random_scores(found, seed) for seed in range(5)]


# %%
def chosen(score, ratio):
    """The fraction of the channels inside each block with the lowest scores."""
    return channels.lowest({name: score[name] for name in inside}, ratio)


def without(removed, network=net):
    """A copy of the network in which no weight reads the removed channels."""
    return surgery.zero_readers(copy.deepcopy(network), found, removed)


# %%
def both(network, on=judging):
    """Which pictures the network gets right: as it is, and recalibrated."""
    before = training.correct(network, on)
    return before, training.correct(training.recalibrate(network, unlabelled), on)


def percent(right):
    return 100 * right.double().mean().item()


# %% tags=["nbval-ignore-output"]
left, right = {}, {}
for ratio in bar((0.25, 0.5), "ratios"):
    for name, score in choices.items():
        right[name, ratio] = both(without(chosen(score, ratio)))
        left[name, ratio] = [percent(each) for each in right[name, ratio]]
    left["random", ratio] = [
        [percent(each) for each in both(without(chosen(score, ratio)))] for score in draws
    ]
reveal("02.half", left["L1", 0.5][1], low=0, high=100, unit="%")

# %%
LIGHT, FULL = "#f5d8a0", figures.COLOURS["structured"]
figure, pair = plt.subplots(1, 2, figsize=(9.6, 4.4), sharey=True)
for axes, ratio in zip(pair, (0.25, 0.5), strict=True):
    for when, colour, label in ((0, LIGHT, "as it is"), (1, FULL, "recalibrated")):
        x = [place + 0.4 * when - 0.2 for place in range(len(choices) + 1)]
        axes.bar(x[:-1], [left[name, ratio][when] for name in choices], 0.4, color=colour)
        dots = [draw[when] for draw in left["random", ratio]]
        axes.plot([x[-1]] * 5, dots, "o", color=colour, markeredgecolor="black", label=label)
    axes.set_xticks(range(len(choices) + 1), [*choices, "random"], rotation=45, ha="right")
    axes.axhline(training.accuracy(net, judging), color="black", linestyle="--")
    axes.set(ylim=(0, 100), title=f"{ratio:.0%} of the channels")
pair[0].set_ylabel("accuracy (%)")
figure.legend(*pair[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
figures.show(figure, alt="Accuracy by score, as it is and recalibrated; random draws as dots.")

# %% tags=["nbval-ignore-output"]
for name in choices:
    a, b = left[name, 0.25], left[name, 0.5]
    print(
        f"{name:10s} a quarter: {a[0]:4.1f} -> {a[1]:4.1f} %   half: {b[0]:4.1f} -> {b[1]:4.1f} %"
    )
spread = {
    (ratio, when): sorted(draw[when] for draw in left["random", ratio])
    for ratio in (0.25, 0.5)
    for when in (0, 1)
}
for (ratio, when), found_ in spread.items():
    state = ("as it is", "recalibrated")[when]
    print(f"random, {ratio:.0%}, {state}: {found_[0]:.1f} to {found_[-1]:.1f} %")

# %%
print("as it is, a quarter: the best draw beats L1:", spread[0.25, 0][-1] > left["L1", 0.25][0])
print("recalibrated, half: L1 beats every draw:", left["L1", 0.5][1] > spread[0.5, 1][-1])
print("recalibrated, a quarter: every choice keeps all but 3 points:")
whole = training.accuracy(net, judging)
print(min(left[name, 0.25][1] for name in choices) > whole - 3, spread[0.25, 1][0] > whole - 3)

# %% [markdown]
# The dashed line is the whole network, each dot a random draw. As it is, the picture is wild:
# Taylor below BatchNorm, draws above L1. That is the trap of lesson 01: what differs is mostly how
# well a choice happens to fit stale statistics. Recalibrated, a quarter of the channels is hardly
# worth choosing, and for half of them L1, L2 and the effect are ahead of every draw.
#
# So L1 does know something. Which of the better scores is best, 2,000 pictures cannot say:

# %% tags=["nbval-ignore-output"]
for name in choices:
    if name != "L1":
        gap = paired(right["L1", 0.5][1], right[name, 0.5][1])
        print(f"half, recalibrated, L1 minus {name:9s} {gap} points")

# %% [markdown]
# The effect takes a pass over the pictures for every channel; L1 takes none.
#
# This lesson measures accuracy only: channels that no weight reads are still stored and computed.
# Lesson 03 removes them, and lesson 06 measures the time.
#
# ## Costs do not add up
#
# One bar is surprising. The cost *is* the truth about each single channel, and yet half of the
# channels, chosen by it, are no better than a draw. Compare the sum of the costs of a quarter of
# them with the measured change of the loss, on the same pictures that the costs were measured on.


# %%
def loss_of(network):
    """Mean loss on the 1,000 pictures that the channels were measured on."""
    with torch.no_grad():
        parts = [F.cross_entropy(network(x), y) for x, y in (first, second)]
    return sum(parts).item() / 2


# %% tags=["nbval-ignore-output"]
promised, happened, pushed = {}, {}, {}
for label in ("cost", "effect"):
    removed = chosen(choices[label], 0.25)
    promised[label], pushed[label] = (
        sum(choices[kind][name][places].sum().item() for name, places in removed.items())
        for kind in ("cost", "effect")
    )
    happened[label] = loss_of(without(removed)) - loss_of(net)
    print(f"{label:6s} sum {promised[label]:+.3f} nats, measured {happened[label]:+.3f} nats")

# %%
print("chosen by cost, the sum predicts a lower loss:", promised["cost"] < 0)
print("it rises, by more than when chosen by effect:", happened["cost"] > happened["effect"] > 0)
print("the effects of these channels are larger:", pushed["cost"] > 1.2 * pushed["effect"])
print("half, recalibrated: the cost is below the best draw:")
print(left["cost", 0.5][1] < spread[0.5, 1][-1])

# %% [markdown]
# The lowest costs are negative: without such a channel the loss falls a little, *as long as all
# others stay*. These channels change the loss of single pictures more than those of the smallest
# effect do; their rises and falls happened to cancel. When all of them are removed at once, they
# need not cancel any more. Channels of small effect are safer: whatever the direction of the
# change, it is small.
#
# ## Breaking the rule
#
# "The L1 norm is the importance" hides an assumption: that the size of a filter is meaningful. A
# BatchNorm follows, which subtracts the mean and divides by the standard deviation. Make a filter
# ten times larger, and its BatchNorm divides by ten times more.
#
# **Exercise 02.6.** Multiply each filter of `weight` (out, in, height, width) by its own positive
# `factor` (out,), and change the running `mean` and `var` of the BatchNorm such that its output
# stays the same. Return all three.


# %%
def rescaled_filters(weight, mean, var, factor):
    """The new weight, mean and variance; the network computes the same function."""
    return ...


check("02.6", rescaled_filters)

# %%
# hint("02.6")
# solution("02.6")

# %% [markdown]
# So every filter can be given any norm. Reverse the order: the largest filter of each `conv1`
# becomes the smallest, and the smallest the largest.

# %%
twin = copy.deepcopy(net)
with torch.no_grad():
    for block in twin.blocks:
        norms = block.conv1.weight.abs().sum((1, 2, 3))
        factor = (norms.mean() / norms) ** 2
        block.conv1.weight *= factor[:, None, None, None]
        block.bn1.running_mean *= factor
        block.bn1.running_var *= factor**2
    difference = (twin(judging.images[:500]) - net(judging.images[:500])).abs().max().item()
print("the same function, up to BatchNorm's tiny epsilon:", difference < 0.05)

# %%
train = (tensor[:1000].split(20) for tensor in pictures.train)
turned = {
    "L1": channels.l1(twin, found),
    "L2": channels.l2(twin, found),
    "BatchNorm": channels.batchnorm_scale(twin, found),
    "Taylor": channels.taylor(twin, found, zip(*train, strict=True)),
}
for label, score in turned.items():
    kept = [channels.rank_correlation(score[name], scores[label][name]) for name in inside]
    print(f"{label:9s} before and after: {median(kept):+.2f}")

# %% tags=["nbval-ignore-output"]
upside_down = median(
    channels.rank_correlation(turned["L1"][name], choices["effect"][name]) for name in inside
)
print(f"L1 against the effect, inside the blocks, in the median: {upside_down:.2f}")
fall = {}
for label in ("L1", "Taylor"):
    before = right[label, 0.5][1]
    after = both(without(chosen(turned[label], 0.5), twin))[1]
    fall[label] = paired(before, after)
    print(
        f"{label:6s} half, recalibrated: {percent(before):.1f} %, rescaled {percent(after):.1f} %"
    )

# %%
print("L1 now ranks opposite to the effect:", upside_down < -0.5)
print("chosen by L1, the accuracy falls by over 5 points:", fall["L1"].low > 5)
print("chosen by Taylor, by less than one:", abs(fall["Taylor"].value) < 1)

# %% [markdown]
# The function is the same, but the ranking is reversed. L2 is fooled as well. Taylor and the
# BatchNorm scale give the same ranking as before, because they are computed from what comes after
# the division.
#
# Then why did L1 work at all? The filters had not been rescaled, and training leaves a trace in
# their norms: before a BatchNorm every gradient step makes the norm of a filter a little larger,
# weight decay makes all norms smaller, and filters with larger gradients stay larger (van
# Laarhoven, 2017). That is a property of one way of training, not a law. For a network trained in
# another way, measure again.
#
# ## The verdict
#
# C05 says that the L1 norm *is* the importance. Compare it with the measurements; the accuracies
# are now from the test pictures. A rank correlation has an interval, too: draw the 1,000 pictures
# again, with repetition, and see how far it moves (the *bootstrap*; Efron, 1979).


# %%
def estimated(statistic, times=100):
    """`statistic` of the changes, with the interval that drawing the pictures again gives it."""
    generator = torch.Generator().manual_seed(0)
    again = []
    for _ in range(times):
        index = torch.randint(1000, (1000,), generator=generator)
        again.append(statistic({name: change[:, index] for name, change in changes.items()}))
    value, half = statistic(changes), 1.96 * stdev(again)
    return Estimate(value, value - half, value + half)


# %%
def agreement_with(score, names):
    """For `estimated`: the rank correlations of `score` with the effect in some groups."""
    return lambda found: [channels.rank_correlation(score[n], effect(found[n])) for n in names]


def certain_share(found):
    """Percent of the pairs that certainly differ in cost that L1 ranks correctly."""
    hits = []
    for name, change in found.items():
        costly, cheap = certain_pairs(change)
        hits.append(l1[name][costly] > l1[name][cheap])
    return 100 * torch.cat(hits).double().mean().item()


# %% tags=["nbval-ignore-output"]
def ahead(mine, *others):
    """How far L1 is ahead of random draws, in points: the mean, with its interval."""
    gaps = [paired(mine, other) for other in others]
    return widened(over_seeds([gap.value for gap in gaps]), gaps[0])


# %% tags=["nbval-ignore-output"]
testing = data.Images(*(tensor[:5000] for tensor in pictures.test))
a_quarter = [both(without(chosen(score, 0.25)), testing) for score in (l1, *draws)]
half = [training.recalibrate(without(chosen(score, 0.5)), unlabelled) for score in (l1, *draws)]
every, within = agreement_with(l1, [*changes]), agreement_with(turned["L1"], inside)
measured = {
    "l1_effect_median": estimated(lambda found: median(every(found))),
    "l1_effect_worst": estimated(lambda found: min(every(found))),
    "l1_certain_pairs": estimated(certain_share, times=6),
    "l1_minus_random": ahead(*(before for before, _ in a_quarter)),
    "l1_minus_random_recalibrated": ahead(*(after for _, after in a_quarter)),
    "l1_minus_random_half_recalibrated": ahead(
        *(training.correct(network, testing) for network in half)
    ),
    "l1_effect_rescaled": estimated(lambda found: median(within(found))),
}

# %% tags=["nbval-ignore-output"]
context = (
    "small_resnet, Fashion-MNIST, channels on 1,000 validation, accuracy on 5,000 test pictures"
)
card = claims.record("C05", measured, context)
card

# %% [markdown]
# In most layers of a network trained this way, the L1 norm is a good estimate of how much a channel
# does, and a better basis for a choice than a draw once half of the channels go. It is not its
# importance.
#
# ## Recap
#
# - L1 sums the absolute weights that make a channel. It needs no pictures and costs nothing.
# - The true cost of one channel is the rise of the loss without it. Most costs are so small that
#   many pictures are needed to rank them.
# - The effect, the mean absolute change of the loss of single pictures, can be measured far more
#   precisely, and L1 follows it in most layers.
# - Recalibrate before you compare choices, and draw at random more than once. Then a quarter of the
#   channels is hardly worth a score; for half of them L1 beats every draw.
# - Costs of single channels do not add up. Small effects are the safer choice.
# - In front of a BatchNorm, the size of a filter is arbitrary. BatchNorm's scale and Taylor are not
#   fooled.
#
# ## Interview questions
#
# **1. Why is the L1 norm of a filter a doubtful importance when a BatchNorm follows?**
#
# <details><summary>Answer</summary>
#
# BatchNorm divides each channel by its standard deviation. Multiply the filter by ten: mean and
# deviation grow by ten, and the output is the same. So the norm can be anything without changing
# the function. That it often works is a trace of training: weight decay and gradients leave filters
# with larger gradients larger. Scores computed after the normalisation (its scale) or from the loss
# (Taylor) do not have this weakness.
#
# </details>
#
# **2. How would you check an importance score before you trust it?**
#
# <details><summary>Answer</summary>
#
# Remove the channels of a layer one at a time on validation data, record how the loss of each
# picture changes, and rank-correlate with the score, layer by layer. First correlate the truth with
# itself on other pictures: it bounds what any score can reach. Then remove many at once,
# recalibrate BatchNorm, and measure the accuracy with its interval, since single costs do not add
# up. Compare with several random draws: without recalibration their spread can be tens of points.
#
# </details>
#
# **3. What does a first-order Taylor score compute, and why over many small batches?**
#
# <details><summary>Answer</summary>
#
# Without a channel, the weights that read it are zero. The gradient times that step, summed over
# these weights, is the change of the loss to first order. At the end of training the mean gradient
# over all data is nearly zero, so one large batch says little. Taking the absolute value in each
# small batch keeps what would otherwise cancel.
#
# </details>
#
# **4. You know the exact loss change of removing each channel alone. Is removing the cheapest half
# optimal?**
#
# <details><summary>Answer</summary>
#
# No. The changes interact: a channel can be cheap because another does the same, and then both go.
# Negative costs belong to channels with a large effect that happened to help; removed together,
# they need not. Either remove a few, measure again and repeat, or prefer channels with a small
# effect.
#
# </details>
#
# ## Where next
#
# Here no weight read the removed channels, but they were still computed. **Lesson 03** removes them
# from every layer, skip connections included, and verifies that the smaller network computes the
# same. **Lesson 04** recovers the accuracy.
