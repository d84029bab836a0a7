# %% [markdown]
# # 09 Mixed architectures
#
# *Convolution and attention in one network: what goes where?*
#
# You will be able to
# - say where the weights, the MACs and the milliseconds of a mixed network are,
# - remove the same share of the weights of each part, by channels, heads and neurons or one by one,
#   and verify that the rest computes what it should,
# - take a recommendation apart: what each half of it gains, and on which axis,
# - say how fast sparse hardware would have to be before it changes the answer,
# - convert a layer to a sparse format only where it is measured to be faster.
#
# **Time**: 75 minutes of reading and exercises, under 90 s of compute
#
# **Claims** under test: C19
#
# **Needs**: lessons 03, 05 and 06. No network, no GPU.

# %%
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import ListedColormap

# %%
from course_lib.bars import bar
from course_lib.deployment import pruned_file, runtime, sparse
from course_lib.deployment import quantization as quant
from course_lib.deployment.forms import IN_A_ROW, THREADS
from course_lib.experiments import mixed, recordings, steps
from course_lib.experiments.recordings import recorded_file
from course_lib.measuring import cost, estimates
from course_lib.measuring.estimates import recorded_speedup
from course_lib.measuring.timing import compare
from course_lib.networks import attention, data, models, training
from course_lib.pruning import masks, surgery
from course_lib.pruning.graph import trace

# %%
from course_lib.teaching import claims, figures
from course_lib.teaching.exercises import check, hint, solution
from course_lib.teaching.reading import read
from course_lib.teaching.widgets import choose, predict, reveal

plt.style.use(figures.STYLE)
pictures = data.fashion_mnist()
picture = pictures.test.images[:1]
network = models.load_trained("conv_attention")
recorded = recordings.load("mixed", "conv_attention")[recordings.COURSE]
points = {(point["network"], point["form"]): point for point in recorded["points"]}
made = {one["name"]: one for one in recorded["networks"]}
dense = points["dense", "float32"]
WAYS, AMOUNTS = mixed.WAYS, (50, 75, 87.5)

# %% [markdown]
# Residual blocks process the picture locally, down to a map of 4x4. Each position of the map is a
# token, and four blocks of attention relate all tokens. Convolutions before a transformer make it
# train better (Xiao et al., 2021), and many vision networks have both.
#
# ## Predict
#
# The textbook prunes such a network in two ways at once: **convolutions structured** (whole
# channels), **attention unstructured** (single weights). Three quarters of the weights of *each*
# part go, followed by a tenth of the epochs of retraining. There are three other ways.

# %%
predict(
    "09.ahead",
    "Test accuracy: how far is the textbook's way ahead of the best other way? (negative: behind)",
    low=-5,
    high=5,
    unit="points",
    step=0.1,
)

# %%
predict(
    "09.faster",
    "And how many times faster than the whole network is it in ONNX Runtime, on one thread?",
    low=0.5,
    high=5,
    unit="x",
    step=0.1,
)

# %% [markdown]
# ## Where is what?
#
# **Exercise 09.1.** `counts` maps each tensor's name to its number of weights, `parts` maps each
# part to the prefixes of its tensors' names. Return the share of all weights that each part has.


# %%
def shares(counts, parts):
    """By part, its share of all weights, from 0 to 1."""
    return ...


check("09.1", shares)

# %%
# hint("09.1")
# solution("09.1")

# %% [markdown]
# Weights, MACs and milliseconds give three different answers. The milliseconds were recorded by
# omission: the network without its attention blocks, and with blocks that do everything except
# multiply by weights.

# %%
weights = {part: mixed.weights_of(network, part).values() for part in mixed.PARTS}
counts = {part: sum(weight.numel() for weight in found) for part, found in weights.items()}
work = cost.work(attention.layered(network), picture)
macs = {
    part: sum(one.macs for name, one in work.items() if name.startswith(begins))
    for part, begins in mixed.PARTS.items()
}
other_macs = cost.macs(network, picture) - sum(macs.values())


# %%
def milliseconds(rows, threads="one thread"):
    """Milliseconds of the convolutions, of the products of attention, of the rest of attention."""
    took = {row["variant"]: row[threads]["median"] for row in rows}
    whole, without, no_products = (
        took[name] for name in ("whole", "without attention", "without products")
    )
    return [without, whole - no_products, no_products - without]


def parts_of(name):
    """The recorded times of the parts of a network."""
    return [row for row in recorded["parts"] if row["network"] == name]


# %%
by_axis = {
    "weights": [*counts.values(), 0],
    "MACs": [*macs.values(), other_macs],
    "milliseconds": milliseconds(parts_of("dense")),
}
percent = {axis: [100 * one / sum(found) for one in found] for axis, found in by_axis.items()}

# %%
PIECES = ("convolutions", "attention: products with weights", "attention: all the rest")
SHADES = ("#5f5f5f", "#b5b5b5", "white")
figure, axes = plt.subplots(figsize=(7.2, 3.4))
for row, pieces in enumerate(percent.values()):
    for place, (piece, shade) in enumerate(zip(PIECES, SHADES, strict=True)):
        drawn = {"left": sum(pieces[:place]), "color": shade, "edgecolor": "black"}
        axes.barh(row, pieces[place], label=piece if row == 0 else None, **drawn)
axes.set_yticks(range(3), percent)
axes.set(xlabel="share (%)", xlim=(0, 100), ylim=(2.5, -0.5))
figure.legend(loc="outside upper center", fontsize=12)
figures.show(figure, alt="Shares of convolutions and attention: weights, MACs, milliseconds.")

# %%
for axis, (first, second, third) in percent.items():
    print(f"{axis:12s} convolutions {first:3.0f} %, attention {second:3.0f} % and {third:3.0f} %")

# %% [markdown]
# Convolutions do most of the MACs, but attention takes most of the time. A convolution reads a map
# once and does a lot of arithmetic; a block of attention is a dozen small operations, one after
# another, each with a fixed overhead (lesson 06). Is it the same on your machine?

# %% tags=["nbval-ignore-output"]
here = milliseconds(mixed.time_of_parts(network, picture, rounds=60, seconds=3))
for piece, ms in zip(PIECES, here, strict=True):
    print(f"{piece:33s} {ms:.3f} ms")

# %% tags=["nbval-ignore-output"]
read(
    sum(here[1:]) > here[0],
    "Here, too, attention takes more time than the convolutions.",
    "Here the convolutions take more time than attention, unlike on the recorded machine.",
)

# %% [markdown]
# ## Which structure has each part?
#
# *Structured* means whole rows and columns. In a convolution a row makes a channel, and a column
# (nine weights per row) reads one. In attention whole heads go, each with 24 queries, keys and
# values. Between the parts nothing can go: the channels that become tokens stay, because a
# LayerNorm normalises them together (lesson 03).

# %%
graph = trace(network, picture)
print(graph)

# %%
removed = {}
for part in mixed.PARTS:
    removed |= mixed.removed(network, graph, part, 0.5)
plan = surgery.plan(graph, removed)


def structured(name):
    """Mask of the entries of a weight that stay once whole channels and heads are gone."""
    stays = torch.ones_like(network.get_parameter(name), dtype=torch.bool)
    for dim, kept in plan[name].items():
        gone = [place for place in range(stays.shape[dim]) if place not in kept]
        stays.index_fill_(dim, torch.tensor(gone), False)
    return stays


# %%
PICTURED = {
    "convolutions": "convolutions.2.conv1.weight",
    "attention": "blocks.0.attention.in_proj_weight",
}


def stays(part, name):
    """Masks of a weight as matrices, by pattern, when half of its part goes."""
    weight = network.get_parameter(name).detach()
    share = mixed.shares_gone({name: weight}, plan)[name]
    found = {"structured": structured(name)}
    found["unstructured"] = masks.layer_masks(network, {name: share})[name]
    found["2:4"] = masks.nm_mask(weight.abs(), 2, 4)
    return {how: mask.flatten(1) for how, mask in found.items()}


# %%
figure, grid = plt.subplots(2, 3, figsize=(9.6, 6.4), height_ratios=(1, 2))
for row, (part, name) in zip(grid, PICTURED.items(), strict=True):
    for axes, (how, mask) in zip(row, stays(part, name).items(), strict=True):
        colour = figures.COLOURS["structured" if how == "structured" else "unstructured"]
        colours = ListedColormap(["white", colour])
        axes.imshow(mask, aspect="auto", cmap=colours, vmin=0, vmax=1, interpolation="none")
        axes.set(title=how, xticks=[], yticks=[])
    row[0].set(ylabel=f"{part}: outputs", xlabel="inputs")
figures.show(figure, alt="What stays of a convolution and of an attention matrix, three ways.")

# %% [markdown]
# A convolution has a weight of shape (out, in, 3, 3). Here it is *flattened*: a row holds all the
# weights of one output, nine for each input. The orange weights become a smaller matrix. The blue
# matrix keeps its size, and a kernel has to know where the zeros are. In 2:4, two of every four
# neighbours in such a row are zero: that is the pattern that sparse tensor cores skip (lesson 05).
#
# ## As many weights of either
#
# Only the structure is to differ. So both ways have the same **criterion**, the magnitude: single
# weights by their own, channels, heads and neurons by the L1 norm. And both have the same
# **allocation**: every layer loses as many single weights as whole channels would take from it.
# The structured way sets the numbers, and it rounds widths to multiples of 8, as lesson 06 advises.
#
# Heads can only be removed whole, so neurons have to make up the difference.
#
# **Exercise 09.2.** A block has `heads` heads of `per_head` weights and `neurons` neurons of
# `per_neuron`. The share `amount` of its weights goes. How many heads and how many neurons stay?
# Heads: the number closest to the same share, at least one. Neurons: as many as then fit, at least
# one.


# %%
def left_of_block(amount, heads, per_head, neurons, per_neuron):
    """(heads, neurons) that stay."""
    return ...


check("09.2", left_of_block)

# %%
# hint("09.2")
# solution("09.2")

# %% [markdown]
# For channels it is the other way round: one ratio for all of them determines the share of weights.
#
# **Exercise 09.3.** A chain of layers has `widths` channels; the first and the last width stay. The
# number of weights of a layer is the product of its input and output widths. Which ratio out of 0,
# 0.01, ... 0.99 removes a share of all weights closest to `amount`? A width loses `round(ratio *
# width)` channels.


# %%
def ratio_for(widths, amount):
    """The ratio of channels; the smallest of equally close ones."""
    return ...


check("09.3", ratio_for)

# %%
# hint("09.3")
# solution("09.3")

# %%
for amount in (0.5, 0.75, 0.875):
    gone, left = {}, {}
    for part in mixed.PARTS:
        places = mixed.removed(network, graph, part, amount)
        weights = mixed.weights_of(network, part)
        gone[part] = mixed.share_gone(weights, surgery.plan(graph, places))
        left |= {group: len(graph.groups[group].channels) - len(places[group]) for group in places}
    widths = [
        count for group, count in left.items() if group.startswith(mixed.PARTS["convolutions"])
    ]
    heads, neurons = left["blocks.0.attention.heads"], left["blocks.0.fc1"]
    print(f"{amount:6.1%} wanted; gone: " + ", ".join(f"{p} {x:.1%}" for p, x in gone.items()))
    print(f"        channels left {widths}; a block keeps {heads} heads, {neurons} neurons")

# %% [markdown]
# With widths in multiples of 8, the shares are only about those that were wanted; the single
# weights follow them. Attention has a limit: a block keeps one head, which is an eighth of its
# weights. Beyond that, only single weights (or whole blocks) can go.
#
# Is the removal exact? As in lesson 03, the smaller network must compute the same as the whole one
# with zeros in the weights that read the removed channels and heads.

# %%
images = pictures.validation.images[:100]
smaller, _ = mixed.prune(network, mixed.PLAN["both structured 50"])
unread = surgery.zero_readers(models.load_trained("conv_attention"), graph, removed)
with torch.no_grad():
    error = (smaller(images) - unread(images)).abs().max() / unread(images).abs().max()
print("the same to single precision:", bool(error < 1e-4))

# %% [markdown]
# ## Right after
#
# Which part loses more accuracy? All four ways, nothing retrained: as they are, and with BatchNorm
# recalibrated (lesson 01). Attention has LayerNorm, which stores no statistics; but it reads what
# the convolutions make. The fill colour of a dot shows how the **convolutions** were pruned, its
# edge how **attention** was.


# %%
MARKS = {"textbook": "o", "reverse": "s", "both structured": "D", "both unstructured": "^"}


def style(way):
    """Marker of a way. Fill: convolutions. Edge: attention. Large where the two differ."""
    fill, edge = (figures.COLOURS[how] for how in WAYS[way])
    shape = {"marker": MARKS[way], "markersize": 17 if fill != edge else 9, "linestyle": ""}
    return shape | {"markerfacecolor": fill, "markeredgecolor": edge, "markeredgewidth": 4}


# %%
def accuracies(name, when="after"):
    """Test accuracies of a network such as "textbook 75", one for each seed of the training."""
    return [one[when]["accuracy"] for each, one in made.items() if each.startswith(name)]


# %%
def accuracy_of(**panels):
    """Test accuracy of every way against the share of the weights that is gone."""
    figure, row = plt.subplots(1, len(panels), figsize=(9.6, 4.4), sharey=True, squeeze=False)
    for axes, (when, title) in zip(row[0], panels.items(), strict=True):
        for way in WAYS:
            y = [np.mean(accuracies(f"{way} {amount:g}", when)) for amount in AMOUNTS]
            axes.plot(AMOUNTS, y, color="#b5b5b5", linewidth=1.5)
            axes.plot(AMOUNTS, y, label=way, **style(way))
        axes.axhline(dense["accuracy"], color=figures.COLOURS["dense"], linestyle="--")
        axes.set(xlabel="weights gone of either part (%)", xticks=AMOUNTS, title=title)
    row[0][0].set_ylabel("test accuracy (%)")
    row[0][-1].legend(fontsize=11, labelspacing=0.9, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


# %%
figures.show(
    accuracy_of(before="as it is", recalibrated="recalibrated"),
    alt="Accuracy before any training, four ways, as it is and recalibrated.",
)

# %%
for amount in AMOUNTS:
    for when in ("before", "recalibrated"):
        left = {way: made[f"{way} {amount:g}"][when]["accuracy"] for way in WAYS}
        row = ", ".join(f"{way} {dense['accuracy'] - left[way]:.1f}" for way in WAYS)
        print(f"{amount:4.1f} %, {when:12s} points lost: {row}")

# %%
textbook = made["textbook 50"]
print("half gone, the textbook's way: over 20 points are stale statistics:", end=" ")
print(textbook["recalibrated"]["accuracy"] - textbook["before"]["accuracy"] > 20)

# %% [markdown]
# As it is, the networks without channels seem lost. Recalibrated, what is left differs by points,
# not by everything: most of the collapse was in the statistics of BatchNorm. Fine-tuning may repair
# the rest.
#
# ## After a tenth of the epochs

# %%
figures.show(accuracy_of(after="fine-tuned"), alt="Accuracy after fine-tuning, four ways.")

# %%
for amount in AMOUNTS:
    means = {way: np.mean(accuracies(f"{way} {amount:g}")) for way in WAYS}
    print(f"{amount:5.1f} %: " + ", ".join(f"{way} {mean:.2f}" for way, mean in means.items()))

# %%
every = [accuracies(f"{way} {amount:g}") for way in WAYS for amount in AMOUNTS]
print(*{len(each) for each in every}, "trainings of each; they lie within ", end="")
print(f"{max(np.ptp(each) for each in every):.1f} points of each other")

# %% [markdown]
# A dot is the mean of several trainings with different seeds, which agree well. The ways form two
# pairs: what matters is how the convolutions were pruned. By how much, at 75 %?


# %%
def apart(first, second):
    """How far the first network is ahead of the second, in points, by the seeds they share."""
    pair = accuracies(first), accuracies(second)
    gaps = [one - other for one, other in zip(*pair, strict=True)]
    return estimates.widened(
        estimates.over_seeds(gaps), estimates.unpaired(*map(np.mean, pair), 10_000)
    )


mean = {way: np.mean(accuracies(f"{way} 75")) for way in WAYS}
for way in WAYS:
    print(f"{way:17s} {mean[way]:.2f}")

# %% [markdown]
# The textbook's advice has two halves. The four ways form a two-by-two table, so each half can be
# judged by itself: what does it change, while the other part stays as it is?

# %%
halves = {
    "attention: unstructured instead of structured": ("textbook", "both structured"),
    "the same with unstructured convolutions": ("both unstructured", "reverse"),
    "convolutions: structured instead of unstructured": ("textbook", "both unstructured"),
    "the same with structured attention": ("both structured", "reverse"),
}
effect = {half: apart(f"{one} 75", f"{other} 75") for half, (one, other) in halves.items()}
for half, gained in effect.items():
    print(f"{half:49s} {gained} points")

# %%
first, second, third, fourth = effect.values()
print("attention: the pattern changes less than a point, by the means:")
print(max(abs(first.value), abs(second.value)) < 1)
print("convolutions: structured costs more, beyond the interval:", max(third.high, fourth.high) < 0)

# %% [markdown]
# The result is the reverse of the advice. Attention does as well with fewer heads and neurons as
# with single zeros; it is the convolutions that lose accuracy without whole channels. A likely
# reason is that these convolutions are narrow, with 16 channels at first, so that each channel is a
# large part of the input of the next layer, while four blocks on sixteen tokens have more heads and
# neurons than this task needs. Longer fine-tuning would recover some of the loss (lesson 04). And
# this is one network on one task: what carries over is the method, not the answer.
#
# ## Is the recording true?
#
# Prune one of its networks again, both parts structured, 75 %, up to the training. The trained
# network is stored with the recording.

# %% tags=["nbval-ignore-output"]
again, _ = mixed.prune(network, mixed.PLAN["both structured 75"])
found = mixed.gone(again, network) | steps.right_after(again, pictures)
stored, _ = pruned_file.load(recorded_file("both structured 75", "conv_attention", "mixed"))
found["after"] = {"accuracy": training.accuracy(stored, pictures.test)}
for when in ("before", "recalibrated", "after"):
    here, there = (one[when]["accuracy"] for one in (found, made["both structured 75"]))
    print(f"{when:12s} here {here:.2f} %, recorded {there:.2f} %")

# %%
there = made["both structured 75"]
print("the same number of weights is gone:", found.items() >= there["gone"].items())
off = max(
    abs(found[when]["accuracy"] - there[when]["accuracy"]) for when in ("recalibrated", "after")
)
print("the accuracies agree within a point:", off < 1)

# %% [markdown]
# ## Bytes and milliseconds
#
# Packed (lesson 07), equal numbers of weights take nearly equal bytes; single weights take slightly
# more, as their positions are stored. In the runtime only structured pruning makes a network
# smaller.


# %%
def dot(pair, name, form, threads, **style):
    """Draw one network on both axes: bytes of its packed file, time in the runtime."""
    point = points[name, form]
    size, ms = points[name, "packed"]["bytes"] / 1000, point[threads]["median"]
    pair[0].plot(size, point["accuracy"], **style)
    pair[1].plot(ms, point["accuracy"], **style)
    if name != "dense" and "both unstructured" not in name:  # these overlap
        place = (ms, point["accuracy"])
        pair[1].annotate(name.split()[-1], place, (12, -4), textcoords="offset points", size=11)


# %%
GREY = {"color": figures.COLOURS["dense"], "marker": "o", "markersize": 12, "linestyle": ""}


def two_axes(form, threads):
    """Accuracy against bytes and against time, a dot for each network."""
    figure, pair = plt.subplots(1, 2, figsize=(10.4, 4.8), sharey=True)
    dot(pair, "dense", form, threads, **GREY)
    for name in [f"{way} {amount:g}" for amount in AMOUNTS for way in WAYS]:
        dot(pair, name, form, threads, **style(name.rpartition(" ")[0]))
    pair[0].set(xlabel="packed (kB): 87.5, 75, 50 % gone", ylabel="test accuracy (%)")
    pair[1].set(xlabel=f"ms for one picture, {form}, {threads}")
    styles = {way: style(way) for way in WAYS} | {"dense": GREY}
    handles = [plt.Line2D([], [], label=way, **each) for way, each in styles.items()]
    pair[0].legend(handles=handles, fontsize=11, labelspacing=0.9)
    return figure


# %%
choose(
    two_axes,
    {"form": ["float32", "int8"], "threads": [*THREADS]},
    alt="Accuracy against packed bytes and milliseconds, four ways, three amounts.",
)

# %% [markdown]
# Which networks are on the **front** of each picture, so that no cheaper one is as accurate (lesson
# 08)?

# %%
compared = ["dense"] + [f"{way} {amount:g}" for amount in AMOUNTS for way in WAYS]
by_cost = {
    "packed bytes": lambda name: points[name, "packed"]["bytes"],
    "ms, float32": lambda name: points[name, "float32"]["one thread"]["median"],
}
fronts = {}
for axis, cost_of in by_cost.items():
    both = {name: (cost_of(name), points[name, "float32"]["accuracy"]) for name in compared}
    fronts[axis] = cost.pareto_front(both)
    print(f"{axis:12s}: {', '.join(fronts[axis])}")

# %%
on_a_front = {name.rpartition(" ")[0] for front in fronts.values() for name in front}
print("a network of the textbook's way is on a front:", "textbook" in on_a_front)

# %%
print("at 75 %:           packed    ONNX    float32      int8")
for way in WAYS:
    packed, exact, int8 = (points[f"{way} 75", form] for form in ("packed", "float32", "int8"))
    ms = [one["one thread"]["median"] for one in (exact, int8)]
    print(
        f"{way:17s} {packed['bytes'] / 1000:4.0f} kB {exact['bytes'] / 1000:5.0f} kB"
        f"   {ms[0]:.3f} ms  {ms[1]:.3f} ms"
    )

# %%
int8, exact = (points["both structured 75", form]["one thread"] for form in ("int8", "float32"))
print("int8 makes the fastest of them slower:", int8["median"] > exact["median"])

# %% [markdown]
# Packed, all four are nearly equal. In the runtime, those with a structured part are smaller, and
# those with structured *attention*, where the milliseconds are, are the fastest. Int8 adds little:
# between so many small operations numbers are converted back and forth (lesson 07).
#
# And on your machine? The four networks are stored with the recording.

# %%
folder = TemporaryDirectory()  # for the files of this lesson
networks = {"dense": network}
for way in WAYS:
    networks[way] = pruned_file.load(recorded_file(f"{way} 75", "conv_attention", "mixed"))[0]
files = {
    name: quant.export(attention.removable(one), Path(folder.name) / f"{name}.onnx", images[:2])
    for name, one in bar(networks.items(), "networks")
}

# %% tags=["nbval-ignore-output"]
runs = {name: runtime.Deployed(file) for name, file in files.items()}
times = compare(runs, picture, rounds=100, seconds=4, in_a_row=IN_A_ROW)
for name, timing in times.timings.items():
    print(f"{name:17s} {timing.median:.3f} ms, {times.speedup(name, over='dense')} faster")

# %% tags=["nbval-ignore-output"]
ratios = {
    way: times.speedup(way, over="dense").value
    / points[f"{way} 75", "float32"]["one thread"]["speedup"]
    for way in WAYS
}
read(
    all(2 / 3 < ratio < 1.5 for ratio in ratios.values()),
    "All agree with the recording within a factor of 1.5.",
    f"From {min(ratios.values()):.1f} to {max(ratios.values()):.1f} times the recorded speed-ups: "
    "another machine, or a disturbed one.",
)

# %% tags=["nbval-ignore-output"]
others = [way for way in WAYS if way != "textbook"]
ahead = apart("textbook 75", f"{max(others, key=mean.get)} 75")
reveal("09.ahead", ahead.value, low=-5, high=5, unit="points", origin="recorded")
faster = times.speedup("textbook", over="dense").value
reveal("09.faster", faster, low=0.5, high=5, unit="x")

# %% tags=["nbval-ignore-output"]
gained = times.speedup("both structured", over="textbook")
read(
    gained.low > 1,
    f"Both structured is faster than the textbook's way: {gained}.",
    f"Both structured is not clearly faster than the textbook's way here: {gained}.",
)

# %% [markdown]
# ## With sparse hardware
#
# The textbook's way relies on hardware that skips zeros. Even then only the products of attention
# with its weights become faster, and the rest of the time stays: apply Amdahl's law in reverse.
#
# **Exercise 09.4.** A `share` of the time can be made faster by some factor. Which factor makes the
# whole `target` times faster? Return None if none does.


# %%
def factor_needed(share, target):
    """The factor, or None."""
    return ...


check("09.4", factor_needed)

# %%
# hint("09.4")
# solution("09.4")

# %% [markdown]
# How fast would the hardware have to be? The share of the products in "textbook 75" was measured by
# omitting them, and the goal is the time of "both structured 75".

# %%
named = [*compared, "two of four"]
took = {name: points[name, "float32"]["one thread"]["median"] for name in named}
pieces = milliseconds(parts_of("textbook 75"))
share = pieces[1] / sum(pieces)
products = share * took["textbook 75"]
FACTORS = [1 + step / 20 for step in range(181)]
curve = [took["textbook 75"] - products * (1 - 1 / factor) for factor in FACTORS]

# %%
figure, axes = plt.subplots()
axes.plot(FACTORS, curve, color=figures.COLOURS["unstructured"], label="textbook's way")
goal = took["both structured 75"]
axes.axhline(goal, color=figures.COLOURS["structured"], label="both structured")
axes.axvline(2, color="black", linestyle="--", linewidth=1.5, label="2:4 at its best")
axes.set(xlabel="attention's products faster by (x)", ylabel="ms for one picture", ylim=(0, None))
axes.legend(fontsize=11)
figures.show(
    figure, alt="Time of the textbook's way against the speed-up of the products, and the goal."
)

# %%
target = took["textbook 75"] / goal
needed = mixed.factor_needed(share, target)
print(f"attention's products take {share:.0%} of the time of the textbook's way")
print(f"the whole would have to become {target:.2f} times faster")
print("so the products would have to:", f"{needed:.1f} times" if needed else "none is enough")
print(f"without their time, {curve[0] - products:.3f} ms are left; the goal is {goal:.3f} ms")

# %%
print("twice as fast is enough:", needed is not None and needed <= 2)

# %% [markdown]
# Do not trust that factor to the last digit: it is the ratio of two small differences of times, and
# the goal is close to the time that an infinite factor would leave. It is certain that twice as
# fast is not enough. Removing a head also removes its softmax and its data movement. A zero weight
# saves one multiplication at best.
#
# What does sparse hardware gain? A recording of a GPU would show it. 2:4 does half of the
# multiplications, so its ceiling is a factor of two (Mishra et al., 2021), and small matrices stay
# far below that.

# %%
found = recordings.load("sparse_vs_dense")
gpus = {name: recordings.points(one, format="2:4") for name, one in found.items()}
for name, rows in gpus.items():
    best = max((row["speedup"] for row in rows), default=None)
    print(f"{name}: 2:4 gives {best:.2f}x at best" if best else f"{name}: no sparse tensor cores")

# %% [markdown]
# And it skips half of the weights only in *its* pattern. What does the pattern cost, compared with
# zeros anywhere? And would 2:4, at its ceiling, be faster than structured attention at 50 %?

# %%
for name in ("textbook 50", "two of four", "both structured 50"):
    print(f"{name:19s} {np.mean(accuracies(name)):.2f} %")
print("the pattern costs", apart("textbook 50", "two of four"), "points")

# %%
ceiling = took["two of four"] - products / 2
print(f"2:4 as it is       {took['two of four']:.3f} ms")
print(f"2:4 at its ceiling {ceiling:.3f} ms")
print(f"both structured 50 {took['both structured 50']:.3f} ms")

# %% [markdown]
# The interval of its cost contains zero, which is good news if you have the hardware. But even at
# its ceiling it only draws level with removing heads and neurons.
#
# ## The rule, as code
#
# "Convert to a sparse format only if the hardware supports it", says the careful engineer, "and if
# it is faster". Both can be tested on a machine.
#
# **Exercise 09.5.** `measured` maps each format to its speed-up over dense and the two ends of its
# interval, such as `(2.0, 1.8, 2.2)`, or to None if the machine does not support the format. Return
# the name of the format to convert to, or `"dense"`.


# %%
def decide(measured):
    """The fastest format that is certainly faster than dense, or "dense"."""
    return ...


check("09.5", decide)

# %%
# hint("09.5")
# solution("09.5")

# %% [markdown]
# `sparse.converted` does it for a network: it times every layer that has zeros, on its real inputs,
# and gives a reason for each decision. First a single layer, large and with few weights left:

# %% tags=["nbval-ignore-output"]
generator = torch.Generator().manual_seed(0)
large = torch.nn.Linear(1024, 1024)
large.weight.data = sparse.pruned(torch.randn(1024, 1024, generator=generator), 0.95)
choice, _ = sparse.chosen(large, torch.randn(16, 1024, generator=generator))
print(choice)

# %% tags=["nbval-ignore-output"]
read(
    choice.format is not None,
    f"It is converted to {choice.format}.",
    "It stays dense: no sparse format is certainly faster on this machine.",
)

# %% [markdown]
# Now the networks, with three quarters of their weights gone.

# %% tags=["nbval-ignore-output"]
converted = {way: sparse.converted(networks[way], picture) for way in bar(WAYS, "networks")}
for way, (_, choices) in converted.items():
    with_zeros = [choice for choice in choices.values() if choice.sparsity]
    sparse_now = [choice for choice in with_zeros if choice.format]
    print(f"{way:17s} {len(with_zeros):2d} layers with zeros, {len(sparse_now)} converted")

# %% tags=["stable"]
with torch.no_grad():
    same = [
        torch.allclose(changed(images), networks[way](images), atol=1e-4)
        for way, (changed, _) in converted.items()
    ]
print("all compute the same:", all(same))

# %% tags=["nbval-ignore-output"]
_, choices = converted["both unstructured"]
for name in ("convolutions.3.conv2", "blocks.0.fc1", "blocks.3.attention.in_proj", "blocks.3.fc2"):
    print(f"{name:27s} {choices[name].sparsity:.0%} zeros: {choices[name].reason}")

# %% tags=["stable"]
print(
    "no convolution is converted:",
    all(choice.format is None for name, choice in choices.items() if "conv" in name),
)

# %% [markdown]
# The product of a matrix of width 96 with 16 tokens is too small to make up for the overhead of
# each nonzero weight (lesson 05). The rule finds that out layer by layer, and on a machine with
# sparse tensor cores the same call may decide differently.
#
# ## The verdict
#
# C19: convolutions structured, attention unstructured.


# %% tags=["nbval-ignore-output"]
def slower_than(first, second):
    """How many times as long the first network takes as the second."""
    rows = (points[name, "float32"]["one thread"] for name in (second, first))
    return estimates.ratio(*map(recorded_speedup, rows))


smallest = min(points[f"{way} 75", "packed"]["bytes"] for way in others)
fastest, fastest_50 = (
    min((f"{way} {amount}" for way in others), key=took.get) for amount in (75, 50)
)
at_ceiling = ceiling / took["two of four"]  # computed, not measured

# %% tags=["nbval-ignore-output"]
measurements = {
    "accuracy_over_best_other_75": ahead,
    "bytes_over_smallest_other_75": points["textbook 75", "packed"]["bytes"] / smallest,
    "time_over_fastest_other_75": slower_than("textbook 75", fastest),
    "time_over_fastest_other_50_ceiling": estimates.ratio(
        slower_than("two of four", fastest_50), estimates.exact(1 / at_ceiling)
    ),
    "two_four_lost": apart("textbook 50", "two of four"),
}
context = "conv_attention, Fashion-MNIST, 10,000 test pictures; ONNX Runtime, one thread"
claims.record("C19", measurements, context, f"recorded on {recordings.COURSE}")

# %%
print("the textbook's way is the fastest without sparse hardware:", end=" ")
print(took["textbook 75"] < took[fastest])

# %% [markdown]
# ## Recap
#
# - Weights, MACs and milliseconds are in different places of a network: measure all three.
# - Compare ways at an equal share of weights; otherwise you compare amounts.
# - Structured pruning has a limit where the pieces are large: one head and one neuron per block.
# - A recommendation may have two parts. A two-by-two experiment shows what each part gains.
# - Prune structurally where the milliseconds are, and where the network is wide: measure both.
# - The gain of sparse hardware is limited by the share of the time that it affects (Amdahl).
# - Convert by measurement, layer by layer, and keep a layer dense where sparse is not certainly
#   faster.
#
# ## Interview questions
#
# **1. A network has convolutions and attention. What do you prune how?**
#
# <details><summary>Answer</summary>
#
# First profile: where are the bytes, and where is the time? Then try each part alone: how much of
# it can go before accuracy falls? Use structured pruning where the milliseconds are, because only
# smaller tensors are faster everywhere; remove single weights to save bytes where structured
# pruning costs too much. "Convolutions structured, attention unstructured" fits a network with wide
# convolutions that take the time, and attention on hardware that skips zeros. This lesson's network
# needed the opposite.
#
# </details>
#
# **2. Sparse tensor cores make a product twice as fast. Attention is half of our time. So?**
#
# <details><summary>Answer</summary>
#
# Not all of attention is products with weights: softmax, the products of queries with keys, norms
# and data movement stay. If the products are 40 % of the time, twice as fast makes the whole 1 /
# (0.6 + 0.2) = 1.25 times faster, at the very best, and small matrices reach less. And that
# requires half of the weights to be zero in the 2:4 pattern.
#
# </details>
#
# **3. Two networks lost the same number of weights. One is as fast as before. Why?**
#
# <details><summary>Answer</summary>
#
# Single zeros are multiplied like any number by dense kernels. Whole channels and heads make the
# tensors smaller. And *where* they go matters: a weight of a convolution is used at every position
# of the map, one of a linear layer once for every token, and small operations have a fixed
# overhead.
#
# </details>
#
# **4. You want to remove 90 % of the heads and neurons of four blocks with four heads each. What is
# the problem?**
#
# <details><summary>Answer</summary>
#
# Heads can only be removed whole: one of four is already a quarter of the heads, and an eighth of
# such a block. With one head left, only the MLP can shrink further, until it is gone. After that,
# remove whole blocks, make heads narrower, or remove single weights.
#
# </details>
#
# **5. When do you convert a layer to a sparse format?**
#
# <details><summary>Answer</summary>
#
# When the target has a kernel for it, the zeros have the pattern that the kernel needs, and the
# speed-up, measured at the batch and shape of the deployment, has an interval above 1. Otherwise
# keep it dense: conversion costs time and memory, and the fallback of a format is often slow.
#
# </details>
#
# ## Where next
#
# All of these networks were pruned from a large trained one. **Lesson 10** measures whether it
# would have been better to train a small one from the start, with the large one as its teacher.
