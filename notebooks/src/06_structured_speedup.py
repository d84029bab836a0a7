# %% [markdown]
# # 06 What removed channels buy
#
# *Do half the channels take half the time?*
#
# You will be able to
# - count the MACs of a convolution, a chain and a network with fewer channels,
# - fit time = a + b * MACs, predict the time of a width, and say what a is,
# - say where removing channels gains no time, on a CPU and, from its datasheet, on a GPU,
# - choose widths that suit the hardware, and a network by accuracy and milliseconds.
#
# **Time**: 75 minutes of reading and exercises, under 90 s of compute
#
# **Claims** under test: C10, C11
#
# **Needs**: lessons 03, 04 and 05. No network, no GPU.

# %%
from functools import partial
from itertools import pairwise, product

import matplotlib.pyplot as plt
import numpy as np
import torch

from course_lib.bars import bar
from course_lib.experiments import published, recordings
from course_lib.experiments import structured_speedup as widths
from course_lib.measuring import break_even, cost, timing
from course_lib.measuring.estimates import recorded_speedup

# %%
from course_lib.networks import models
from course_lib.pruning import channels, graph, surgery
from course_lib.teaching import claims, figures, recovery
from course_lib.teaching.exercises import check, hint, solution, working
from course_lib.teaching.reading import read
from course_lib.teaching.widgets import choose, predict, reveal

plt.style.use(figures.STYLE)
HALF, ORANGE = 0.5, figures.COLOURS["structured"]

# %%
roof = cost.roofline()

# %% [markdown]
# ## Predict
#
# The zeros of lesson 05 need a kernel that skips them. Removed channels leave smaller *dense*
# matrices, which need no special kernel. Remove half of the channels of ResNet-18.

# %%
predict(
    "06.half",
    "ResNet-18 without half of its channels, one picture: how many times faster?",
    low=1,
    high=5,
    unit="x",
    step=0.1,
)

# %%
predict(
    "06.small",
    "small_resnet, forty times smaller, without half of its channels: how many times faster?",
    low=1,
    high=5,
    unit="x",
    step=0.1,
)

# %% [markdown]
# ## One layer
#
# **Exercise 06.1.** How many multiply-accumulates (MACs) does a convolution (without groups) need?
# `height` and `width` are those of its output map.


# %%
def conv_macs(inputs, outputs, kernel, height, width):
    """MACs for one picture."""
    return ...


check("06.1", conv_macs)

# %%
# hint("06.1")
# solution("06.1")

# %% [markdown]
# Remove a tenth of the outputs, and a tenth of the MACs is gone: a straight line. Does the time
# follow? Try one convolution with 256 channels in and out, on maps of 14 x 14.


# %% tags=["nbval-ignore-output"]
def measured(part, batch, removed=(0.0, 0.25, 0.5, 0.75)):
    """The part at a few widths, timed in turns."""
    return widths.measure(part, batch, removed, roof=roof, rounds=20, seconds=2)


layer = measured("outputs", batch=1)
for point in layer:
    print(
        f"{point['removed']:4.0%} removed: {point['macs'] / 1e6:6.1f} MMACs, "
        f"{point['median']:.2f} ms, {point['speedup']:.2f} times faster"
    )

# %% tags=["stable"]
half = {"layer": next(point for point in layer if point["removed"] == HALF)}
print(f"half of the outputs, MACs: {layer[0]['macs'] / half['layer']['macs']:.1f} times fewer")

# %% [markdown]
# ## A chain
#
# In a network the next layer *reads* fewer channels as well.
#
# **Exercise 06.2.** `channels` lists the widths along a chain of layers, from the picture to the
# classes; the cost of a layer is the product of its input and output widths. Remove the fraction
# `removed` of the channels at every width but the first and the last (`count - round(removed *
# count)` remain). What share of the MACs is left?


# %%
def share_left(channels, removed):
    """MACs after over MACs before."""
    return ...


check("06.2", share_left)

# %%
# hint("06.2")
# solution("06.2")

# %% tags=["nbval-ignore-output"]
chain = measured("chain", batch=1)
half["chain"] = next(point for point in chain if point["removed"] == HALF)
print(f"half of the channels of a chain: {half['chain']['speedup']:.2f} times faster")

# %% tags=["stable"]
print(f"its MACs: {chain[0]['macs'] / half['chain']['macs']:.1f} times fewer")

# %%
figure, pair = plt.subplots(1, 2, figsize=(9.6, 4.2), sharey=True)
for axes, (name, points) in zip(pair, {"one layer": layer, "a chain": chain}.items(), strict=True):
    x = [100 * point["removed"] for point in points]
    for key, line, label in (("macs", "--", "MACs"), ("median", "o-", "time")):
        share = [100 * point[key] / points[0][key] for point in points]
        colour = figures.COLOURS["structured"] if key == "median" else "black"
        axes.plot(x, share, line, color=colour, label=label)
    axes.set(title=name, xlabel="channels removed (%)", ylim=(0, 110))
pair[0].set_ylabel("left (%)")
pair[0].legend()
figures.show(figure, alt="MACs and time left against channels removed, for a layer and a chain.")

# %% [markdown]
# The MACs follow a straight line on the left and a parabola, $(1-r)^2$, on the right. So "half of
# the channels, half of the MACs" is true of one layer that loses outputs. In a chain, half of the
# channels leave a quarter of the MACs.

# %% tags=["nbval-ignore-output"]
read(
    half["layer"]["speedup"] > 1.6 and half["chain"]["speedup"] > 2.4,
    "The time follows, though not fully: the chain gains much more than the layer.",
    "The time does not follow the MACs here: something other than arithmetic limits this layer "
    "or this chain, or its narrow layers run on slower kernels.",
)

# %% [markdown]
# ## A whole network
#
# The trained ResNet-18, at widths from 100 to 20 %, on one picture. "At best" adds up what the
# roofline of lesson 05 allows each layer. (Winograd's algorithm multiplies less and can beat it.)

# %% tags=["nbval-ignore-output"]
network = widths.measure("resnet18", 1, roof=roof, rounds=15, seconds=3)
print("removed   MMACs  at best   measured   MACs  time (times fewer, faster)")
for point in network:
    fewer = network[0]["macs"] / point["macs"]
    print(
        f"{point['removed']:5.0%} {point['macs'] / 1e6:9.1f} {point['predicted']:6.2f} ms "
        f"{point['median']:7.2f} ms {fewer:6.1f} {point['speedup']:5.1f}"
    )
half["resnet18, 1"] = network[5]
reveal("06.half", network[5]["speedup"], low=1, high=5, unit="x")

# %%
figure, axes = plt.subplots()
x = [100 * point["removed"] for point in network]
for key, line, colour, label in (
    ("median", "o-", figures.COLOURS["structured"], "measured"),
    ("predicted", "--", "black", "at best, by the roofline"),
):
    axes.plot(x, [point[key] for point in network], line, color=colour, label=label)
by_macs = [network[0]["median"] * point["macs"] / network[0]["macs"] for point in network]
axes.plot(x, by_macs, ":", color="#777777", label="if time followed the MACs")
axes.set(xlabel="channels removed (%)", ylabel="ms for one picture", ylim=(0, None))
axes.set_title("ResNet-18")
axes.legend()
figures.show(figure, alt="Time of ResNet-18 against channels removed: measured, roofline, MACs.")

# %% tags=["stable"]
fewer = network[0]["macs"] / network[5]["macs"]
print(f"half of the channels: {fewer:.1f} times fewer MACs")

# %% tags=["nbval-ignore-output"]
faster = network[5]["speedup"]
read(
    faster < 0.9 * fewer,
    f"It is {faster:.1f} times faster. The dotted line is what the MACs suggest, and the measured "
    "one ends above it: some of the time does not shrink with the channels.",
    f"It is {faster:.1f} times faster: on this machine the time of ResNet-18 falls as its MACs do. "
    "Is that so for every network?",
)

# %% [markdown]
# ## What does not shrink?
#
# Take a network in which little is left to shrink.

# %% tags=["nbval-ignore-output"]
small = widths.measure("small_resnet", 1, roof=roof, rounds=30, seconds=2)
half["small_resnet, 1"] = small[5]
for point in (small[0], small[5], small[8]):
    print(
        f"{point['removed']:4.0%} removed: {point['macs'] / 1e6:5.2f} MMACs, at best "
        f"{point['predicted']:.3f} ms, measured {point['median']:.3f} ms"
    )
reveal("06.small", small[5]["speedup"], low=1, high=5, unit="x")

# %% tags=["stable"]
fewer = small[0]["macs"] / small[5]["macs"]
print(f"half of the channels: {fewer:.1f} times fewer MACs")

# %% tags=["nbval-ignore-output"]
faster = small[5]["speedup"]
read(
    faster < fewer / 2,
    f"It is {faster:.1f} times faster, less than half of what the MACs suggest. Arithmetic is a "
    "small part of the time of this network.",
    f"It is {faster:.1f} times faster: arithmetic takes most of the time even of this small "
    "network here.",
)

# %% [markdown]
# The rest hardly depends on the width: Python calls one layer after another, torch checks shapes,
# prepares each operation, and allocates memory for its result. Count the layers, without ReLUs and
# additions, which are functions:

# %% tags=["nbval-ignore-output"]
tiny = widths.build("small_resnet", 0.8)
work = cost.work(tiny, widths.example(tiny, 1))
layers = [name for name in work if not name.endswith("skip")]  # an identity does nothing
each = 1000 * small[8]["median"] / len(layers)
print(f"{len(layers)} layers in {small[8]['median']:.2f} ms: {each:.0f} microseconds each,")
print("for layers that have next to nothing to compute")

# %% [markdown]
# **Exercise 06.3.** Amdahl's law: a `share` of the time becomes `factor` times faster, the rest
# stays the same. How many times faster is the whole?


# %%
def overall_speedup(share, factor):
    """Old time over new time."""
    return ...


check("06.3", overall_speedup)

# %%
# hint("06.3")
# solution("06.3")

# %% [markdown]
# A larger batch spreads this fixed cost over many pictures. The same networks on 64 pictures at
# once:

# %% tags=["nbval-ignore-output"]
for part in bar(["resnet18", "small_resnet"], "64 pictures"):
    points = widths.measure(part, 64, (0.0, HALF), roof=roof, rounds=8, seconds=2)
    half[f"{part}, 64"] = points[-1]
    print(f"{part:13s} half of the channels, 64 pictures: {points[-1]['speedup']:.2f} times faster")

# %%
SHOWN = ["layer", "chain", "resnet18, 1", "resnet18, 64", "small_resnet, 1", "small_resnet, 64"]
figure, axes = plt.subplots(figsize=(8.4, 4.2))
axes.bar(
    range(len(SHOWN)),
    [half[name]["speedup"] for name in SHOWN],
    color=figures.COLOURS["structured"],
)
axes.set_xticks(range(len(SHOWN)), [name.replace(", ", "\n") for name in SHOWN], fontsize=11)
axes.axhline(2, color=figures.COLOURS["dense"], linestyle="--")
axes.axhline(4, color=figures.COLOURS["dense"], linestyle=":")
axes.set(ylabel="times faster", title="Half of the channels")
axes.grid(visible=False, axis="x")
figures.show(figure, alt="Speed-up with half of the channels: layer, chain, two networks, batches.")

# %% tags=["nbval-ignore-output"]
gains = [half[name]["speedup"] for name in SHOWN]
read(
    half["small_resnet, 64"]["speedup"] > half["small_resnet, 1"]["speedup"],
    "The small network gains more from fewer channels with a batch than with one picture.",
    "The small network gains no more from fewer channels with a batch than with one picture here.",
)
read(
    max(gains) > 1.5 * min(gains),
    f"'Half of the channels is twice as fast' (dashed) is too simple: {min(gains):.1f} to "
    f"{max(gains):.1f} times here, depending on network and batch.",
    f"From {min(gains):.1f} to {max(gains):.1f}: the six are close together here.",
)

# %% [markdown]
# ## A number that the hardware likes
#
# Processors compute with 4, 8 or 16 numbers at once. With 57 channels, the last such group is
# mostly empty. Is a layer of 57 channels as fast as one of 56, or as slow as one of 64?

# %%
stairs = widths.staircase(64, rounds=20, seconds=4)
figure, axes = plt.subplots()
count = [point["channels"] for point in stairs]
low, high = np.transpose([point["quartiles"] for point in stairs])
axes.fill_between(count, low, high, color=figures.COLOURS["structured"], alpha=0.3)
axes.plot(count, [point["median"] for point in stairs], "o-", color="#8f5d00")
axes.set_xticks(range(48, 73, 8))
axes.set(
    xlabel="channels in and out", ylabel="ms for 64 pictures", title="One convolution, 14 x 14"
)
figures.show(figure, alt="Time of a convolution against its channels, 48 to 72, with quartiles.")

# %% tags=["nbval-ignore-output"]
at = {point["channels"]: point["median"] for point in stairs}
for step, multiple in ((56, 8), (48, 16), (64, 32)):
    one, eight = (at[step + more] / at[step] - 1 for more in (1, 8))
    print(f"{step}, a multiple of {multiple}: 1 channel more {one:+.0%} time, 8 more {eight:+.0%}")

# %% [markdown]
# Where one more channel costs as much as eight more, the curve is a staircase: then keep the
# channels up to the next step. Where it is smooth, odd widths cost nothing extra on this machine.
#
# For a whole network the authors of Torch-Pruning *published* such a curve: ResNet-50 without up to
# 90 % of its channels, in batches of 64, on a GPU that they do not name.

# %%
rows = [row for row in published.rows() if row.source.id == "torch_pruning" and row.sparsity < 0.95]
gmacs = [float(row.what.split("; ")[1].removesuffix(" GMACs")) for row in rows]
figure, axes = plt.subplots()
x = [100 * row.sparsity for row in rows]
axes.plot(x, [gmacs[0] / each for each in gmacs], ":", color="black", label="if time followed MACs")
axes.plot(x, [row.speedup for row in rows], "o-", color=ORANGE, label="published")
axes.set(xlabel="channels removed (%)", ylabel="times faster", title="ResNet-50, GPU not named")
axes.set(yscale="log", ylim=(0.9, 10), yticks=[1, 2, 4, 8], yticklabels=[1, 2, 4, 8])
axes.minorticks_off()
axes.legend()
figures.show(figure, alt="Published speed-up of ResNet-50 and its MACs against channels removed.")
print(rows[0].source, *published.warnings_of(rows), sep="\n")

# %% [markdown]
# Where does the line jump? Find the steps of 5 % that shorten the time by *more* than the MACs:

# %%
for (before, after), (more, less) in zip(pairwise(rows), pairwise(gmacs), strict=True):
    shorter, fewer = after.speedup / before.speedup, more / less
    if shorter > fewer:
        left = [int(count * (1 - after.sparsity)) for count in (64, 128, 256, 512)]
        print(f"to {after.sparsity:.0%}: MACs {fewer:.2f}, time {shorter:.2f} times less, {left}")
print(f"5 % removed: {rows[1].speedup:.2f} times as fast as dense")

# %% [markdown]
# Both steps lead to widths (in brackets) that are multiples of 16 or 32. That suggests alignment;
# it proves nothing, since neither the GPU nor its kernels are known.
#
# **Exercise 06.4.** Pruning would leave `left` of a layer's `whole` channels. Return the number to
# keep: `left` rounded up to a multiple of `multiple`, but not more than the layer has.


# %%
def aligned(left, multiple, whole):
    """How many channels to keep."""
    return ...


check("06.4", aligned)

# %%
# hint("06.4")
# solution("06.4")

# %% [markdown]
# Look back at ResNet-18 without a tenth of its channels: was it faster than dense? Apply your
# function to it. (`working` is your function once it is correct, and the reference until then.)

# %%
round_up = working("06.4", aligned)
whole = widths.build("resnet18", 0.0)
traced = graph.trace(whole, models.EXAMPLE)
keep, ratios = {}, {}
for name, group in traced.free.items():
    count = len(group.channels)
    left = count - round(0.1 * count)
    keep[count] = f"{left} -> {round_up(left, 8, count)}"
    ratios[name] = 1 - round_up(left, 8, count) / count
rounded = surgery.prune(whole, traced, channels.lowest(channels.l1(whole, traced), ratios))
print("channels:", *(f"{count} -> {after}" for count, after in keep.items()), sep="\n")

# %% tags=["nbval-ignore-output"]
inputs = widths.example(whole, 1)
networks = {"dense": whole, "a tenth gone": widths.build("resnet18", 0.1), "rounded": rounded}
runs = {
    name: partial(widths.placed(each, "cpu", torch.float32), inputs)
    for name, each in networks.items()
}
result = timing.compare(runs, rounds=30, seconds=3)
for name in ("a tenth gone", "rounded"):
    million = cost.macs(networks[name], inputs) / 1e6
    print(f"{name}: {million:.0f} MMACs, {result.speedup(name, over='dense')} over dense")
gain = result.speedup("rounded", over="a tenth gone")
print(f"rounded over odd widths: {gain}")

# %% tags=["nbval-ignore-output"]
read(
    gain.low > 1,
    "More MACs in less time: on this processor odd widths cost more than the extra channels.",
    "The rounded network is slower: odd widths cost nothing extra here, the extra channels do."
    if gain.high < 1
    else "No difference can be told: the extra channels cost no measurable time here.",
)

# %% [markdown]
# ## Accuracy against milliseconds
#
# Speed alone is easy: remove everything. The recording of lesson 04 has the accuracy after
# retraining for a fifth of the epochs. Plot it against the time.


# %% tags=["nbval-ignore-output"]
def with_accuracy(name, removed=(0.0, 0.25, 0.5, 0.7, 0.85)):
    """(accuracy, milliseconds) for each fraction of the channels."""
    recording = recovery.load(name)
    dense = recording["dense"]["accuracy"]
    points = widths.measure(name, 1, removed, roof=roof, rounds=20, seconds=2)
    lost = [0.0, *(recovery.gap(recording, "channels", fraction) for fraction in removed[1:])]
    return {
        f"{name}, {point['removed']:.0%}": (dense - gap, point["median"])
        for point, gap in zip(points, lost, strict=True)
        if not np.isnan(gap)
    }


found = {name: with_accuracy(name) for name in bar(["resnet18", "small_resnet"], "networks")}

# %%
figure, axes = plt.subplots()
for (name, points), colour in zip(
    found.items(), ("#8f5d00", figures.COLOURS["structured"]), strict=True
):
    accuracy, ms = zip(*points.values(), strict=True)
    axes.plot(ms, accuracy, "o-", color=colour, label=name)
    for label, (percent, taken) in points.items():
        words = label.split()[-1]
        axes.annotate(words, (taken, percent), (6, -14), textcoords="offset points", size=11)
axes.set(xscale="log", xlabel="ms for one picture", ylabel="test accuracy (%)")
axes.set_xticks([0.5, 1, 2, 4, 8, 16], ["0.5", "1", "2", "4", "8", "16"])
axes.minorticks_off()
axes.legend(loc="lower right")
figures.show(figure, alt="Accuracy against milliseconds for two networks, by channels removed.")

# %% [markdown]
# Up and to the left is better. The labels give the share of channels removed. Compare the two lines
# at equal accuracy: is it better to prune a wide network a lot, or a narrow one a little?
#
# **Exercise 06.5.** `networks` maps names to (accuracy, milliseconds). Return the name of the
# fastest network with an accuracy of at least `floor`, or None.


# %%
def fastest(networks, floor):
    """The name of the fastest network that is accurate enough, or None."""
    return ...


check("06.5", fastest)

# %%
# hint("06.5")
# solution("06.5")

# %% [markdown]
# ## Predict a width
#
# Instead of measuring every width, fit a line: time = a + b * MACs. b is the cost of a MAC, and a
# is what does not shrink.
#
# **Exercise 06.6.** Fit a and b to some networks by least squares (`np.polyfit`), and predict the
# time of a network of `new` MACs. Return a, b and the time.


# %%
def fit_time(macs, times, new):
    """a, b, and the time at `new` MACs."""
    return ...


check("06.6", fit_time)

# %%
# hint("06.6")
# solution("06.6")

# %% [markdown]
# Fit five of the widths of ResNet-18 from above, and predict one not seen: without 35 % of its
# channels.

# %% tags=["nbval-ignore-output"]
time_of = working("06.6", fit_time)
FITTED = (0.0, 0.2, 0.4, 0.6, 0.8)


def over_macs(points, removed):
    """Millions of MACs, and milliseconds, of the points at these widths."""
    some = [point for point in points if point["removed"] in removed]
    return [point["macs"] / 1e6 for point in some], [point["median"] for point in some]


new = cost.macs(widths.build("resnet18", 0.35), inputs) / 1e6
a, b, expected = time_of(*over_macs(network, FITTED), new)
print(f"a = {a:.2f} ms; a million MACs cost b = {1000 * b:.1f} microseconds")
print(f"{new:.0f} MMACs: {expected:.2f} ms predicted")

# %% [markdown]
# Now measure it, in turns with the dense network, so that a slow moment of the machine cancels:

# %% tags=["nbval-ignore-output"]
unseen = widths.measure("resnet18", 1, (0.0, 0.35), roof=roof, rounds=20, seconds=2)
found, promised = recorded_speedup(unseen[1]), network[0]["median"] / expected
error = found.value / promised - 1
print(f"measured {unseen[1]['median']:.2f} ms")
print(f"over dense: predicted {promised:.2f}, measured {found}")
read(
    abs(error) < 0.15,
    f"The predicted time is off by {abs(error):.0%}: good enough to choose a width.",
    f"The predicted time is off by {abs(error):.0%}. Do the points scatter, or does the line bend?",
)

# %%
figure, axes = plt.subplots()
x, y = over_macs(network, FITTED)
axes.plot([0, max(x)], [a, a + b * max(x)], "--", color="black", label="a + b * MACs")
axes.plot(x, y, "o", color=ORANGE, label="fitted")
axes.plot(new, network[0]["median"] / found.value, "*", color="#8f5d00", ms=15, label="not seen")
axes.plot(0, a, "s", color="#5f5f5f", label="a: what does not shrink", clip_on=False)
axes.set(xlabel="millions of MACs", ylabel="ms for one picture", xlim=(0, None), ylim=(0, None))
axes.set_title("ResNet-18")
axes.legend()
figures.show(figure, alt="Times of ResNet-18 over its MACs, the fitted line, and a width not seen.")

# %% [markdown]
# How far can you trust it? The same on the *recorded* times of the course's processor, between the
# fitted widths and beyond them:

# %%
recorded = recordings.load("structured_speedup", "resnet18")
processor = recorded[recordings.COURSE]
points = recordings.points(processor, part="resnet18", batch=1, dtype="float32")
for title, fitted, asked in (
    ("between", FITTED, (0.1, 0.3, 0.5, 0.7)),
    ("beyond", (0.0, 0.1, 0.2, 0.3, 0.4), (0.5, 0.6, 0.7, 0.8)),
):
    wanted = zip(*over_macs(points, asked), strict=True)
    errors = [time_of(*over_macs(points, fitted), macs)[2] / ms - 1 for macs, ms in wanted]
    print(f"recorded, {title}: predicted times off by", *(f"{each:+.0%}" for each in errors))

# %% [markdown]
# Interpolate; do not extrapolate. The line is a simplification: odd widths scatter around it, and
# since the bytes that move shrink with the width, not its square, part of their time ends up in a.
# It holds for one network, batch and machine.
#
# Amdahl's law (06.3) now says what any pruning can gain: b * MACs shrinks, a stays.

# %% tags=["nbval-ignore-output"]
dense_macs, half_macs = (point["macs"] / 1e6 for point in (network[0], network[5]))
share = b * dense_macs / (a + b * dense_macs)
speedup = working("06.3", overall_speedup)(share, dense_macs / half_macs)
print(
    f"{share:.0%} of the dense time shrinks. Half of the channels, times faster: {speedup:.1f} by"
)
print(
    f"Amdahl's law, {network[5]['speedup']:.1f} measured; without any MACs: {1 / (1 - share):.1f}"
)

# %% [markdown]
# ## A narrow layer on a GPU
#
# First *computed*, then *recorded*. A GPU divides the output of a matrix product into blocks
# of, say, 128 x 128 numbers. Each such **tile** is computed by one of its streaming multiprocessors
# (an A100 has 108). A convolution is such a product: a row for every position of the output, a
# column for every output channel. As many tiles as there are multiprocessors run at once: a
# **wave**. A tile that extends beyond the edge is padded and costs as much as a full one; a last
# wave of one tile takes as long as a full one (NVIDIA, "Matrix Multiplication Background User's
# Guide", 2023).

# %%
TILE, MULTIPROCESSORS = 128, 108


def waves(rows, columns):
    """How many tiles a product has, and in how many waves an A100 computes them."""
    tiles = -(-rows // TILE) * -(-columns // TILE)
    return tiles, -(-tiles // MULTIPROCESSORS)


print("channels  1 picture  64 pictures  (tiles in waves, computed for maps of 14 x 14)")
for count in (256, 192, 129, 128, 64):
    one, many = (waves(batch * 14 * 14, count) for batch in (1, 64))
    print(f"{count:8d}     {one[0]} in {one[1]}    {many[0]:4d} in {many[1]}")

# %% [markdown]
# With 64 pictures, the step from 129 to 128 channels saves a wave; the others save nothing. With
# one picture there is a single wave at any width, and most multiprocessors are idle. (Fewer *input*
# channels shorten the sum behind each number.) Real steps are smaller: libraries choose between
# tiles of several sizes, and can divide long sums among multiprocessors.
#
# Every kernel must also be started, at any width: the **launch overhead**. The model below assumes
# 4 microseconds. That is in no datasheet: driver, host and framework decide. A few microseconds are
# usual; eager PyTorch, which runs Python for every operation, needs more, a CUDA graph less.
#
# At which width does `small_resnet` (16, 32 and 64 channels) stop gaining? Guess, then compute the
# least time from datasheets, in 16-bit numbers, with one kernel for each convolution (BatchNorm,
# ReLU and addition fused into it) and one for the linear layer.

# %%
WIDTHS = [4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]
NAMES = ("Tesla T4", "A100 SXM4 80GB", "H100 SXM")
cards = [published.card(sheet) for sheet in published.datasheets() if sheet.gpu in NAMES]


def works(width, batch):
    """MACs and bytes of the layers of a small_resnet with `width` channels in its first stage."""
    with torch.device("meta"):  # shapes only, nothing is computed
        net = models.SmallResNet((width, 2 * width, 4 * width)).half().eval()
        pictures = torch.empty(batch, 1, 28, 28, dtype=torch.float16)
    return [layer for layer in cost.work(net, pictures).values() if layer.macs]


# %%
micro = {}
for batch in (1, 64):
    networks = {width: works(width, batch) for width in WIDTHS}
    for card in cards:
        times = [break_even.seconds(card, each, torch.float16) for each in networks.values()]
        micro[card.name, batch] = [1e6 * each for each in times]
        stop = break_even.stops_gaining(card, networks, torch.float16)
        told = f"stops gaining at {stop} channels" if stop else "gains at all of these widths"
        print(f"computed, batch of {batch:2d}, {card.name}: {told}")
floor = 1e6 * break_even.launch_floor(len(networks[16]))
print(f"computed: {len(networks[16])} launches take {floor:.0f} microseconds, the launch floor")

# %%
figure, pair = plt.subplots(1, 2, figsize=(9.6, 4.2), sharey=True)
STYLES = zip(cards, (ORANGE, "#b87a00", "#5c3d00"), ("o-", "s-", "^-"), strict=True)
for card, colour, line in STYLES:
    for axes, batch in zip(pair, (1, 64), strict=True):
        axes.plot(WIDTHS, micro[card.name, batch], line, color=colour, label=card.name, ms=6)
for axes, title in zip(pair, ("one picture", "64 pictures"), strict=True):
    axes.axhline(floor, color="#5f5f5f", linestyle="--", label="launch floor")
    axes.set(xscale="log", yscale="log", xlabel="channels of the first stage", title=title)
    axes.set_xticks([4, 16, 64, 256], [4, 16, 64, 256])
    axes.set_yticks([100, 300, 1000, 3000], [100, 300, 1000, 3000])
    axes.minorticks_off()
pair[0].set_ylabel("microseconds, computed")
pair[0].legend(fontsize=11)
figures.show(figure, alt="Computed time of small_resnet over its width, on T4, A100 and H100.")

# %% [markdown]
# ("Stops gaining": within 10 % of the floor.) The floor is the a of your line, and for one picture
# `small_resnet` already lies on it. The faster the card, the wider a network must be before its
# width matters. The model is simple: all multiprocessors are busy at 80 % of the datasheet's rate,
# which narrow layers do not reach, and launches add to the work, which a host that runs ahead
# overlaps. Fewer launches help (fusion, fewer layers), cheaper ones (a CUDA graph), or larger
# batches.
#
# And a real GPU? An H200 timed your staircase, too: a convolution of 64 pictures with 48 to 72
# channels, one at a time.

# %%
h200 = recorded["h200"]
figure, axes = plt.subplots()
for dtype, colour, marker in (("float32", "#8f5d00", "s-"), ("float16", ORANGE, "o-")):
    line = [each for each in h200["staircase"] if (each["dtype"], each["batch"]) == (dtype, 64)]
    x, y = zip(*((each["channels"], 1000 * each["median"]) for each in line), strict=True)
    axes.plot(x, y, marker, color=colour, label=dtype)
axes.set(xlabel="channels, in and out", ylabel="microseconds on an H200", ylim=(0, None))
axes.set_xticks(range(48, 73, 4))
axes.set_title("Recorded: a convolution of 64 pictures")
axes.legend(fontsize=11)
figures.show(figure, alt="Recorded time of a convolution on an H200 over its number of channels.")

# %%
for dtype, step in (("float16", 8), ("float32", 4)):
    for batch in widths.BATCHES:
        line = [one for one in h200["staircase"] if (one["dtype"], one["batch"]) == (dtype, batch)]
        even = [one["median"] for one in line if one["channels"] % step == 0]
        odd = [one["median"] for one in line if one["channels"] % step]
        longer = np.median(odd) / np.median(even)
        print(f"{dtype}, batch of {batch:2d}, no multiple of {step}: {longer:.1f} times as long")

# %% [markdown]
# No gentle steps, but a comb: one channel more or less costs twice the time. In 16 bits multiples
# of 8 are quick, in 32 bits multiples of 4 (torch lets tensor cores compute 32-bit convolutions, in
# TF32). So on such a GPU a width that pruning left at 57 is slower than the 64 before. Whole
# networks, without a tenth (odd widths) and without half of their channels (even ones):

# %%
print("H200, times faster than dense   a tenth gone          half gone           dense, ms")
for part, dtype in product(("resnet18", "small_resnet"), ("float16", "float32")):
    for batch in widths.BATCHES:
        line = recordings.points(h200, part=part, batch=batch, dtype=dtype)
        at = {point["removed"]: point for point in line}
        cells = [f"{recorded_speedup(at[removed])!s:>20s}" for removed in (0.1, 0.5)]
        print(f"{part:12s} {dtype} {batch:3d}    ", *cells, f"{at[0.0]['median']:10.2f}")

# %% [markdown]
# Half of the channels gain a tenth at most, at any batch here, and without a tenth it is *slower*.
# The last column says why: 64 pictures take no longer than one. These are times of plain (eager)
# PyTorch, whose Python cannot launch the layers as fast as an H200 computes them: the launch floor,
# and far higher than the one computed above. On such a card use a CUDA graph, a compiler, larger
# batches or fewer layers before you count channels.
#
# ## Recorded machines
#
# `python -m course_lib record structured_speedup` records all of this in a few minutes.


# %%
def over_removed(name, part, batch):
    """Recorded speed-ups of a part, and the reduction of its MACs."""
    points = recordings.points(recorded[name], part=part, batch=int(batch))
    figure, axes = plt.subplots()
    for dtype, style in zip(dict.fromkeys(p["dtype"] for p in points), ("o-", "s--"), strict=False):
        line = [point for point in points if point["dtype"] == dtype]
        x, y = zip(*((100 * p["removed"], p["speedup"]) for p in line), strict=True)
        axes.plot(x, y, style, color=ORANGE, label=f"time, {dtype}")
    fewer = [line[0]["macs"] / point["macs"] for point in line]
    axes.plot(x, fewer, ":", color="black", label="MACs")
    axes.set(xlabel="channels removed (%)", ylabel="times faster", title=f"{name}, {part}")
    axes.set(yscale="log", yticks=[1, 2, 4, 8, 16], yticklabels=["1", "2", "4", "8", "16"])
    axes.minorticks_off()
    axes.legend()
    return figure


# %% tags=["nbval-ignore-output"]
choose(
    over_removed,
    {
        "machine": [*recorded],
        "what": ["resnet18", "small_resnet", "chain", "outputs"],
        "pictures": [str(batch) for batch in widths.BATCHES],
    },
    alt="Recorded speed-up against channels removed, with the reduction of MACs.",
)

# %% [markdown]
# Does the recording hold on your machine? Compare half of the channels of ResNet-18:

# %% tags=["nbval-ignore-output"]
there = recordings.points(processor, part="resnet18", removed=HALF, batch=1)[0]["speedup"]
here = network[5]["speedup"]
read(
    1 / 1.7 < here / there < 1.7,
    f"{here:.2f} times faster here, {there:.2f} recorded: they agree within a factor of 1.7.",
    f"{here:.2f} times faster here, {there:.2f} recorded: another machine, or a disturbed one.",
)

# %% [markdown]
# ## The verdicts
#
# C10: removing 50 % of the channels makes a network 50 % faster. Take that as half the time, a
# factor of two; anything from 1.6 to 2.5 counts.

# %% tags=["nbval-ignore-output"]
measurements = {
    "layer_half": recorded_speedup(half["layer"]),
    "chain_half": recorded_speedup(half["chain"]),
    "resnet18_half_1": recorded_speedup(half["resnet18, 1"]),
    "resnet18_half_64": recorded_speedup(half["resnet18, 64"]),
    "small_resnet_half_1": recorded_speedup(half["small_resnet, 1"]),
}
claims.record("C10", measurements, f"{torch.get_num_threads()} threads, float32")

# %% [markdown]
# The card says for which of them the rule holds. C11, now with its time: 1.5 to 2 times faster,
# less than a point lost.

# %% tags=["nbval-ignore-output"]
measurements = {
    "half_speed_resnet18": recorded_speedup(half["resnet18, 1"]),
    "half_speed_small_resnet": recorded_speedup(half["small_resnet, 1"]),
}
claims.record("C11", measurements, "one picture, float32")

# %% [markdown]
# Time and accuracy come from the same networks, and the card judges each separately.
#
# ## At work
#
# Not run here: these packages are not part of the course. Torch-Pruning builds a dependency graph,
# as in lesson 03, and removes whole groups:
#
# ```python
# import torch_pruning as tp
#
# pruner = tp.pruner.BasePruner(  # tp.pruner.MetaPruner in older versions
#     model,
#     example_inputs=example,
#     importance=tp.importance.GroupMagnitudeImportance(p=2),
#     pruning_ratio=0.5,
#     ignored_layers=[model.fc],  # the classes stay
#     round_to=8,  # aligned widths
# )
# pruner.step()  # tp.DependencyGraph finds the groups; then recalibrate and fine-tune
# compiled = torch.compile(model, mode="reduce-overhead")  # fuses; on a GPU, a CUDA graph
# torch.onnx.export(model, (example,), "small.onnx", dynamo=True)
# session = onnxruntime.InferenceSession("small.onnx")  # on a GPU, name the providers
# # TensorRT: trtexec --onnx=small.onnx --saveEngine=small.engine --useCudaGraph
# ```
#
# Where it fails: custom operations and branches that depend on values are not traced, so compare
# MACs and outputs afterwards. The state dict does not fit the original class: save the object, or
# its widths. `torch.compile` removes much of a and hardly touches b, so the same pruning gains a
# *larger* factor: measure it after compiling. New input shapes compile again. A TensorRT engine
# fits one type of GPU.
#
# Toolkits drop such pruning: NNCF removed its older algorithms, structural pruning among them, in
# December 2025 (pull request 3773); AIMET's developers no longer work on compression, channel
# pruning included (issue 4011, August 2025). Narrower dense networks need no support at run time,
# so the method works as before. But expect to maintain the surgery yourself, and to be asked
# whether training a smaller network would do (lesson 10).
#
# ## Recap
#
# - In one layer, MACs fall linearly with its outputs; in a chain, with the square of the width; in
#   a network, nearly so.
# - Time follows MACs where arithmetic is the limit: wide layers, large batches.
# - time = a + b * MACs, fitted on a few widths, predicts those between them. What does not shrink,
#   such as the launch of every layer, is in a.
# - If the staircase shows steps, keep numbers of channels that suit your hardware.
# - On a GPU, tiles and waves make the steps, and launches a floor: narrow networks gain nothing.
# - Choose by accuracy and milliseconds, both measured, on the machine that will run it.
#
# ## Interview questions
#
# **1. You remove half of the channels everywhere. How much faster is the network?**
#
# <details><summary>Answer</summary>
#
# MACs fall to about a quarter, since every layer has half of its inputs and outputs (only the
# inputs of the first and the outputs of the last stay). The speed-up is mostly between none and
# four times, depending on how much of the time was arithmetic. A wide network or a large batch
# comes close to the MACs; a small network on one picture gains little, because launching its layers
# costs the same as before.
#
# </details>
#
# **2. MACs went down four times, latency hardly moved. Where do you look?**
#
# <details><summary>Answer</summary>
#
# At the time per layer. Is it bound by launch overhead (many tiny layers: fuse them, use a compiled
# runtime or a larger batch), or by memory (BatchNorm, activations and pooling move bytes but do no
# MACs: fuse or shrink the maps)? Does an odd number of channels push a layer onto a slower kernel?
# A roofline shows which layers are far from both ceilings.
#
# </details>
#
# **3. Why do you round the number of channels to a multiple of 8 or 16?**
#
# <details><summary>Answer</summary>
#
# Vector and matrix units take several channels at a time. The last group takes as long when it is
# half empty, and some libraries switch to a slower kernel. Round up: the extra channels then cost
# little or no time and may be worth some accuracy. Not every target has such steps: measure.
#
# </details>
#
# **4. Structured pruning or zeros: which one for latency on an ordinary CPU or GPU?**
#
# <details><summary>Answer</summary>
#
# Mostly structured: what is left is dense, so every library can use it without conversion, and it
# gains wherever arithmetic or memory is the limit. Zeros gain time above the break-even of lesson
# 05, if the runtime has a kernel for them at all. At equal accuracy more single weights can go, so
# the answer may change where bytes, not milliseconds, are the target.
#
# </details>
#
# **5. On a GPU, half of the channels of a small network gain nothing. Why, and what does help?**
#
# <details><summary>Answer</summary>
#
# A launch takes microseconds at any width; if the kernels are shorter, the network only launches.
# Narrow layers also fill few tiles: multiprocessors are idle, tiles are padded, and a last wave
# costs as much as a full one. Profile: gaps between kernels point to launches. Then use larger
# batches, fusion or a CUDA graph, and widths that fill tiles.
#
# </details>
#
# **6. You have the times of five widths. How do you predict a sixth, and when is that wrong?**
#
# <details><summary>Answer</summary>
#
# Fit time = a + b * MACs by least squares, look at the residuals, and predict between the measured
# widths. It is wrong beyond them, where layers become memory- or launch-bound; at odd widths, if
# the hardware has steps; and for another batch, number type, runtime or machine, which has its own
# a and b. Then measure the width that you chose.
#
# </details>
#
# ## Where next
#
# The network now has fewer channels, but each weight still takes 32 bits. **Lesson 07** quantizes
# what is left, packs it, and runs it in a real runtime.
