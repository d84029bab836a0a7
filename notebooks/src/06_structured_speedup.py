# %% [markdown]
# # 06 What removed channels buy
#
# *Do half the channels take half the time?*
#
# You will be able to
# - count the MACs of a convolution, a chain and a network with fewer channels,
# - predict its time from two ceilings, and say why it takes longer,
# - say where removing channels gains no time,
# - choose a network by accuracy and milliseconds, both measured.
#
# **Time**: 70 minutes of reading and exercises, under 90 s of compute
#
# **Claims** under test: C10, C11
#
# **Needs**: lessons 03, 04 and 05. No network, no GPU.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

from course_lib.bars import bar
from course_lib.experiments import recordings
from course_lib.experiments import structured_speedup as widths
from course_lib.measuring import cost, estimates
from course_lib.measuring.estimates import recorded_speedup

# %%
from course_lib.teaching import claims, figures, recovery
from course_lib.teaching.exercises import check, hint, solution
from course_lib.teaching.reading import read
from course_lib.teaching.widgets import choose, predict, reveal

plt.style.use(figures.STYLE)
HALF = 0.5

# %%
roof = cost.roofline()

# %% [markdown]
# ## Predict
#
# The zeros of lesson 05 need support from the hardware. Removed channels leave smaller *dense*
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
# **Exercise 06.1.** How many multiply-accumulates (MACs) does a convolution need? `height` and
# `width` are those of its output map.


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
    "The time does not follow the MACs here: this layer or this chain is no longer compute-bound.",
)

# %% [markdown]
# ## A whole network
#
# The trained ResNet-18, at widths from 100 to 20 %, on one picture.

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

# %% tags=["nbval-ignore-output"]
first = network[1]["speedup"]
read(
    first < 1,
    f"And without a tenth of its channels it is slower: {first:.2f} times as fast. Its layers have "
    "58 or 115 channels, which the kernels of this processor do not like.",
    f"Without a tenth of its channels it is {first:.2f} times as fast, although its layers have 58 "
    "or 115 channels.",
)

# %% [markdown]
# A tenth of 64 channels leaves 58; an eighth leaves 56, a multiple of 8. Both in one comparison:

# %% tags=["nbval-ignore-output"]
pair = widths.measure("resnet18", 1, (0.0, 0.1, 0.125), roof=roof, rounds=15, seconds=2)
for point in pair[1:]:
    speedup = recorded_speedup(point)
    print(f"{point['removed']:5.1%} removed: {speedup} times as fast")
aligned_gain = estimates.ratio(*(recorded_speedup(point) for point in (pair[2], pair[1])))
print(f"an eighth over a tenth: {aligned_gain}")

# %% tags=["nbval-ignore-output"]
read(
    aligned_gain.low > 1.1,
    "A few channels more or less change the time by far more than their MACs. That is why widths "
    "are rounded to a multiple, and why the steps of the curve above are not all steps of work.",
    "Here the aligned width gains hardly more than its MACs suggest.",
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
# The rest is the same at every width: Python calls one layer after another, torch checks shapes,
# prepares each operation, and allocates memory for its result. Count the operations:

# %% tags=["nbval-ignore-output"]
tiny = widths.build("small_resnet", 0.8)
layers = cost.work(tiny, widths.example(tiny, 1))
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
for more in (1, 8):
    ratio = np.mean([at[step + more] / at[step] for step in (48, 64)])
    print(f"{more} more than a multiple of 16: {ratio:.2f} times the time")

# %% [markdown]
# Where one more channel costs as much as eight more, the curve is a staircase: then keep the
# channels up to the next step. Where it is smooth, odd widths cost nothing extra on this machine.
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
# ## Recorded machines
#
# `python -m course_lib record structured_speedup` records all of this in a few minutes.

# %%
recorded = recordings.load("structured_speedup", "resnet18")


# %%
def over_removed(name, part, batch):
    """Recorded speed-ups of a part, and the reduction of its MACs."""
    points = recordings.points(recorded[name], part=part, batch=int(batch))
    figure, axes = plt.subplots()
    for dtype in dict.fromkeys(point["dtype"] for point in points):
        line = [point for point in points if point["dtype"] == dtype]
        x = [100 * point["removed"] for point in line]
        axes.plot(x, [point["speedup"] for point in line], "o-", label=f"time, {dtype}")
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

# %%
processor = recorded[recordings.COURSE]
for part, batch, removed in (("resnet18", 1, 0.1), ("resnet18", 1, 0.5), ("resnet18", 64, 0.5)):
    for point in recordings.points(processor, part=part, batch=batch, removed=removed):
        print(f"{part}, batch {batch}, {removed:.0%} removed: {point['speedup']:.1f} times faster")

# %% [markdown]
# The wide gap between time and MACs at one picture narrows with a larger batch. And look at 10 %:
# 64 channels become 58, and 128 become 115, which are not on the steps of the staircase.
#
# Does the recording hold on your machine? Compare it with your ResNet-18 from above:

# %% tags=["nbval-ignore-output"]
what = {"part": "resnet18", "removed": HALF, "batch": 1, "dtype": "float32"}
for name, one in recorded.items():
    for point in recordings.points(one, **what):
        print(f"{name}: {point['speedup']:.2f} times faster; here {network[5]['speedup']:.2f}")

# %% tags=["nbval-ignore-output"]
there = recordings.points(processor, **what)[0]["speedup"]
read(
    1 / 1.7 < network[5]["speedup"] / there < 1.7,
    "They agree within a factor of 1.7.",
    "They differ by more than a factor of 1.7: another machine, or a disturbed one.",
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
# ## Recap
#
# - In one layer, MACs fall linearly with its outputs; in a chain, with the square of the width; in
#   a network, nearly so.
# - Time follows MACs where arithmetic is the limit: wide layers, large batches.
# - Costs that do not shrink set a floor: launching every layer, moving its input and output.
# - If the staircase shows steps, keep numbers of channels that suit your hardware.
# - Choose by accuracy and milliseconds, both measured, on the machine that will run it.
#
# ## Interview questions
#
# **1. You remove half of the channels everywhere. How much faster is the network?**
#
# <details><summary>Answer</summary>
#
# MACs fall to about a quarter, since every layer has half of its inputs and outputs (only the
# inputs of the first and the outputs of the last stay). The speed-up is between none and four
# times, depending on how much of the time was arithmetic. A wide network or a large batch comes
# close to the MACs; a small network on one picture gains little, because launching its layers costs
# the same as before.
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
# half empty, and some libraries switch to a slower kernel. Round up: the extra channels cost no
# time and may be worth some accuracy. Whether it matters on the target takes a minute to measure.
#
# </details>
#
# **4. Structured pruning or zeros: which one for latency on an ordinary CPU or GPU?**
#
# <details><summary>Answer</summary>
#
# Structured: what is left is dense, so every library and device gains, without conversion. Zeros
# gain time above the break-even of lesson 05, if the runtime has a kernel for them at all. At equal
# accuracy more single weights can go, so the answer may change where bytes, not milliseconds, are
# the target.
#
# </details>
#
# ## Where next
#
# The network now has fewer channels, but each weight still takes 32 bits. **Lesson 07** quantizes
# what is left, packs it, and runs it in a real runtime.
