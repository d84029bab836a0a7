# %% [markdown]
# # 01 Magnitude pruning
#
# *How many weights can go, and which?*
#
# You will be able to
# - build magnitude masks, for a layer and for a network, with exactly the sparsity asked for,
# - say when small weights are the unimportant ones, and break the rule on purpose,
# - fine-tune a network that lost nine tenths of its weights, and keep all of them at zero,
# - say what a mask saves and what it does not, and measure it.
#
# **Time**: 60 minutes of reading and exercises, under 90 s of compute
#
# **Claims** under test: C01, C02, C13, C14
#
# **Needs**: lesson 00. No network, no GPU.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

from course_lib.bars import bar
from course_lib.measuring import cost, timing
from course_lib.networks import data, models, training
from course_lib.pruning import masks
from course_lib.teaching import claims, figures
from course_lib.teaching.exercises import check, hint, solution
from course_lib.teaching.reading import read
from course_lib.teaching.widgets import explore, predict, reveal

plt.style.use(figures.STYLE)

# %%
pictures = data.fashion_mnist()
net = models.load_trained("small_resnet")
some = data.Images(*(tensor[:2000] for tensor in pictures.validation))  # for quick looks
print(f"{len(masks.prunable(net))} layers with {cost.stored_bytes(net):,} bytes of weights")
print(masks.coverage(net))

# %% [markdown]
# A sparsity is a share of *something*: here of the weights of linear layers and convolutions.
# Biases and BatchNorm parameters are few and stay. Always ask which weights a sparsity refers to.
#
# Curves are measured on 2,000 validation pictures, which is quick; the test set is for the final
# numbers only.
#
# ## Predict
#
# In lesson 00 half of the weights could be removed at hardly any loss. Keep removing the smallest
# weights that are left, with no training in between.

# %%
predict(
    "01.cliff",
    "At which sparsity has the network lost ten points of accuracy?",
    low=50,
    high=100,
    unit="%",
)

# %% [markdown]
# ## Most weights are small
#
# The histogram shows all weights of the network. Move the slider: the blue part is pruned.

# %%
weights = torch.cat([weight.detach().flatten() for weight in masks.prunable(net).values()])
look = {"bins": 120, "range": (-0.4, 0.4), "stacked": True, "label": ["pruned", "kept"]}
colours = [figures.COLOURS["unstructured"], figures.COLOURS["dense"]]


def histogram(sparsity):
    figure, axes = plt.subplots()
    cut = weights.abs().quantile(sparsity).item()
    pruned, kept = weights[weights.abs() <= cut], weights[weights.abs() > cut]
    axes.hist([pruned, kept], color=colours, **look)
    axes.set(xlabel="weight", ylabel="number of weights", title=f"sparsity {100 * sparsity:.0f} %")
    axes.legend()
    return figure


# %%
explore(
    histogram,
    values=[0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95],
    start=0.5,
    label="sparsity",
    alt="Histogram of all weights, a narrow peak at zero; the part nearest zero is pruned.",
)

# %%
print(f"half of all weights are smaller than {weights.abs().median():.3f} in size,")
print(f"the largest is {weights.abs().max():.2f}")

# %% [markdown]
# Most weights are close to zero: the band that contains half of them is narrow compared with the
# largest. That is why removing the smaller half changes the network so little.
#
# ## Build it: a magnitude mask
#
# **Exercise 01.1.** True keeps a weight, False prunes it. A threshold looks natural, but equal
# weights always fall on the same side of it. Prune *exactly* `round(sparsity * n)` weights; among
# equal ones, the earlier goes first.


# %%
def magnitude_mask(weight, sparsity):
    """Boolean tensor of the shape of `weight`: False for the smallest magnitudes."""
    return ...


check("01.1", magnitude_mask)

# %%
# hint("01.1")
# solution("01.1")

# %% [markdown]
# **Exercise 01.2.** Now for a whole network: one ranking of all weights together. `weights` maps
# each layer's name to its weight; return a mask for each name.


# %%
def global_masks(weights, sparsity):
    """Masks by name. Together they prune the smallest magnitudes of all layers."""
    return ...


check("01.2", global_masks)

# %%
# hint("01.2")
# solution("01.2")

# %% [markdown]
# From here on the library's `masks.global_masks(network, sparsity)` does this. It gives the same
# masks, even for 100 million weights, and does not sort them: it selects by the bits of the
# magnitudes.
#
# ## Smallest, random, largest
#
# The same number of weights, chosen in three ways.

# %% tags=["nbval-ignore-output"]
sparsities = [0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
orders = {
    "smallest first": masks.magnitude,
    "random": masks.random_scores(net, seed=0),
    "largest first": masks.largest_first,
}
curves = {name: [] for name in orders}
for name, score in orders.items():
    for sparsity in bar(sparsities, name):
        pruned = masks.pruned_copy(net, masks.global_masks(net, sparsity, score))
        curves[name].append(training.accuracy(pruned, some))
print(*(f"{name}: {curve[4]:.1f} % at 60 %" for name, curve in curves.items()), sep="\n")

# %%
small, random, large = curves.values()
print("smallest first loses under 2 points at 50 %:", small[0] - small[3] < 2)
print("random is at most half as good at 50 %:", random[3] < 0.5 * small[3])

# %%
colours = [figures.COLOURS["unstructured"], "#8a8a8a", "#222222"]
axes = figures.lines(
    [100 * sparsity for sparsity in sparsities],
    curves,
    xlabel="sparsity (%)",
    ylabel="accuracy (%)",
    title="Which weights go is everything",
    colours=dict(zip(curves, colours, strict=True)),
)
axes.axhline(10, color="#999999", linestyle=":", linewidth=1.5)
figures.show(axes.figure, alt="Accuracy against sparsity: smallest first stays high, falls late.")

# %% [markdown]
# If the smallest weights go first, the network keeps its accuracy up to a cliff. Removing a random
# fifth already does a lot of damage, and removing the largest destroys it at once. The dotted line
# is random guessing.
#
# Where is the cliff, and how good was your guess?

# %% tags=["nbval-ignore-output"]
falling = curves["smallest first"][::-1]  # read from the right, the accuracy rises
cliff = 100 * np.interp(falling[-1] - 10, falling, sparsities[::-1])
reveal("01.cliff", cliff, low=50, high=100, unit="%")

# %%
print("ten points are lost between 65 and 90 % sparsity:", 65 < cliff < 90)

# %% [markdown]
# ## Per layer or global?
#
# A **global** ranking compares all weights of the network. **Per layer**, each layer loses the same
# fraction. The sparsity of the network is the same; the distribution of the zeros is not.

# %%
everywhere = masks.global_masks(net, 0.8)
by_layer = masks.layer_masks(net, 0.8)
short = {name: name.removeprefix("blocks.").removesuffix(".weight") for name in everywhere}
zeros = masks.layer_sparsity(masks.pruned_copy(net, everywhere))
axes = figures.bars(
    {short[name]: 100 * zeros[name] for name in zeros},
    ylabel="sparsity (%)",
    title="Where a global ranking puts its zeros (80 % in all)",
)
axes.axhline(80, color=figures.COLOURS["dense"], linestyle="--")
figures.show(axes.figure, alt="Sparsity of each layer: low in the first layers, high in the last.")

# %% tags=["nbval-ignore-output"]
scores = {
    name: training.accuracy(masks.pruned_copy(net, mask), some)
    for name, mask in (("global", everywhere), ("per layer", by_layer))
}
print(*(f"{name:10s} {score:.1f} %" for name, score in scores.items()), sep="\n")

# %%
print("global keeps at least 20 points more:", scores["global"] - scores["per layer"] > 20)

# %% [markdown]
# The wide last layers have most of the weights and lose most of them. The narrow first layers are
# spared; with per-layer pruning they have to lose four weights of five, and the accuracy collapses.
#
# ## How sensitive is each layer?
#
# Prune one layer alone, to 90 %, and leave all others dense.

# %% tags=["nbval-ignore-output"]
lost, whole = {}, training.accuracy(net, some)
for name in bar(list(everywhere), "one layer at a time"):
    alone = masks.pruned_copy(net, masks.layer_masks(net, {name: 0.9}))
    lost[short[name]] = whole - training.accuracy(alone, some)
axes = figures.bars(lost, ylabel="points lost", title="Each layer alone at 90 % sparsity")
figures.show(axes.figure, alt="Accuracy lost by pruning each layer alone; early layers lose most.")

# %%
layers = list(lost)
early, late = (sum(lost[name] for name in half) for half in (layers[:7], layers[-9:]))
print("the first seven layers lose more than the last nine:", early > late)

# %% [markdown]
# The tall bars are the layers that the global ranking spared. It does not know the accuracy: the
# weights of these layers are simply larger.
#
# ## Bring it back: fine-tuning
#
# At 90 % sparsity the network is destroyed. Can a short training repair it? The pruned weights must
# stay zero, but the optimizer does not know that: momentum moves even a weight whose gradient is
# zero.
#
# **Exercise 01.3.** One step of SGD with momentum and weight decay that leaves every pruned weight
# at exactly zero. The new velocity is `momentum * velocity + gradient + weight_decay * weight`, and
# the weight moves by `-lr * velocity`. Return both.


# %%
def masked_step(weight, velocity, gradient, mask, lr, momentum, weight_decay):
    """The new weight and the new velocity; the weight is zero wherever `mask` is False."""
    return ...


check("01.3", masked_step)

# %%
# hint("01.3")
# solution("01.3")

# %%
predict(
    "01.gap",
    "90 % of the weights are gone. How many points are lost after less than half an epoch?",
    low=0,
    high=40,
    unit="points",
    step=0.5,
)

# %% [markdown]
# `masks.enforce_masks` does what you just wrote, around any optimizer. The recipe took twelve
# epochs; this is 0.4 of one.

# %% tags=["nbval-ignore-output"]
ninety = masks.global_masks(net, 0.9)
broken = masks.pruned_copy(net, ninety)
repaired = masks.pruned_copy(net, ninety)
with masks.enforce_masks(repaired, ninety):
    how = {"optimizer": training.SGD(lr=0.02), "watch": training.Watch(bar)}
    training.fit(repaired, pictures.train, epochs=0.4, seed=0, **how)

networks = {"dense": net, "90 % pruned": broken, "and fine-tuned": repaired}
tested = {name: training.accuracy(network, pictures.test) for name, network in networks.items()}
print(*(f"{name:15s} {percent:.2f} %" for name, percent in tested.items()), sep="\n")
gap = tested["dense"] - tested["and fine-tuned"]
reveal("01.gap", gap, low=0, high=40, unit="points")

# %% tags=["stable"]
print("sparsity afterwards:", round(masks.sparsity(repaired), 4))
back = tested["and fine-tuned"] - tested["90 % pruned"]
print("over forty points come back:", back > 40)

# %% tags=["nbval-ignore-output"]
read(
    gap < 2,
    f"Back to within {gap:.1f} points of the dense network, with one weight in ten.",
    f"Most of the accuracy is back, but {gap:.1f} points are still lost after so short a training.",
)

# %% [markdown]
# Every zero is still in place. Lesson 04 measures this for many sparsities and training budgets.
#
# ## Breaking the rule
#
# "Small weights contribute little" hides an assumption: that the inputs they read are of similar
# size. A small weight on a large input matters. After a ReLU, you can make a channel ten times
# larger and the weights that read it ten times smaller; the network computes *exactly* the same
# function.


# %%
def rescaled(network, seed, spread):
    """The same function: larger channels inside each block, read by smaller weights."""
    twin = masks.pruned_copy(network, {})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for block in twin.blocks:
            factor = (spread * torch.randn(len(block.bn1.weight), generator=generator)).exp()
            block.bn1.weight *= factor
            block.bn1.bias *= factor
            block.conv2.weight /= factor[:, None, None]
    return twin


# %%
twin = rescaled(net, seed=0, spread=1.0)
difference = (twin(some.images[:100]) - net(some.images[:100])).abs().max().item()
print("the same function, up to rounding:", difference < 1e-3)

# %% [markdown]
# Magnitude now ranks these weights by the arbitrary scale of their channels. **Wanda** (Sun et al.,
# 2023) multiplies each magnitude by the norm of the input that the weight reads.
#
# **Exercise 01.4.** `weight` has shape (out, in), `input_norm` has shape (in,). Return the scores.


# %%
def wanda(weight, input_norm):
    """Score of every weight: its magnitude times the norm of the input it reads."""
    return ...


check("01.4", wanda)

# %%
# hint("01.4")
# solution("01.4")

# %% [markdown]
# Prune the second convolution of every block to 60 %, in both networks, by both scores. Wanda needs
# some inputs: 512 training pictures.

# %% tags=["nbval-ignore-output"]
second = {name: 0.6 for name in everywhere if "conv2" in name}
inputs = [pictures.train.images[:512]]
rows = {}
for label, network in (("as trained", net), ("rescaled", twin)):
    scores = {"magnitude": masks.magnitude, "Wanda": masks.wanda_scores(network, inputs)}
    for name, score in scores.items():
        pruned = masks.pruned_copy(network, masks.layer_masks(network, second, score))
        rows[label, name] = training.accuracy(pruned, pictures.test)
        print(f"{label:11s} {name:10s} {rows[label, name]:.1f} %")

# %%
print(
    "as trained, the two agree within 2 points:",
    abs(rows["as trained", "magnitude"] - rows["as trained", "Wanda"]) < 2,
)
print(
    "rescaled, magnitude is at least 10 points worse:",
    rows["rescaled", "Wanda"] - rows["rescaled", "magnitude"] > 10,
)
print(
    "rescaling changes Wanda by less than half a point:",
    abs(rows["rescaled", "Wanda"] - rows["as trained", "Wanda"]) < 0.5,
)

# %% [markdown]
# The function is the same, but magnitude fails: it removes small weights that read large channels.
# Wanda is unaffected by the rescaling. The network as trained does not need it: plain magnitude
# does as well. Sun et al. designed Wanda for large language models, where a few channels are far
# larger than the rest.
#
# ## What a mask does not do
#
# Nine tenths of the weights are zero. Is the network smaller or faster?

# %% tags=["nbval-ignore-output"]
one = pictures.test.images[:1]
times = timing.compare({"dense": net, "masked": repaired}, one, rounds=100)
for name, network in (("dense", net), ("masked", repaired)):
    print(
        f"{name:7s} {tested['dense' if name == 'dense' else 'and fine-tuned']:.1f} %, "
        f"{cost.stored_bytes(network):,} bytes, {cost.macs(network, one):,} MACs, "
        f"{times.timings[name].median:.2f} ms"
    )
print(f"on {torch.get_num_threads()} threads, torch {torch.__version__}")

# %% tags=["stable"]
bytes_ratio = cost.stored_bytes(repaired) / cost.stored_bytes(net)
time_ratio = 1 / times.speedup("masked", over="dense").value
print(f"bytes, masked over dense: {bytes_ratio:.3f}")

# %% tags=["nbval-ignore-output"]
read(
    0.8 <= time_ratio <= 1.25,
    "Same bytes, same MACs, same time. The processor multiplies zeros like any other numbers.",
    f"Same bytes and MACs, but {time_ratio:.2f} times the time: the arithmetic is the same, so "
    "something disturbed one of the two timings. Run the cell again.",
)

# %% [markdown]
# To gain from zeros you need a format that leaves them out (lesson 07) and a kernel that skips them
# (lesson 05), or whole channels that are really removed (lesson 03).
#
# ## In passing: two of four
#
# Some GPUs skip zeros if they come in a fixed pattern: of every four neighbouring inputs, two are
# zero. That pattern is called 2:4, and in general **N:M**: n of every m stay.
#
# **Exercise 01.5.** A mask for a matrix of shape (out, in), in groups of `m` consecutive inputs.


# %%
def nm_mask(weight, n, m):
    """Boolean mask that keeps the `n` largest magnitudes of every `m` neighbours in a row."""
    return ...


check("01.5", nm_mask)

# %%
# hint("01.5")
# solution("01.5")

# %% tags=["nbval-ignore-output"]
halves = {
    "half of the network": masks.global_masks(net, 0.5),
    "half of each layer": masks.layer_masks(net, 0.5),
    "half of each output": masks.output_masks(net, 0.5),
    "two of every four": masks.nm_masks(net, n=2, m=4),
}
freedom = {
    name: training.accuracy(masks.pruned_copy(net, mask), some) for name, mask in halves.items()
}
print(*(f"{name:20s} {percent:.1f} %" for name, percent in freedom.items()), sep="\n")

# %%
print(
    "each row is below the one above:",
    sorted(freedom.values(), reverse=True) == [*freedom.values()],
)

# %% [markdown]
# Each mask removes half of the weights (the first layer has one input channel, so 2:4 leaves it
# dense). The less freedom a mask has in placing its zeros, the more accuracy it costs. Lesson 05
# measures what the hardware gains from it.
#
# ## The verdicts
#
# Four claims with your numbers, all accuracies from the test pictures. First C01: the rule and its
# counterexample.


# %%
def tested_at(sparsity, score=masks.magnitude):
    """Test accuracy of the network with this sparsity, without fine-tuning."""
    pruned = masks.pruned_copy(net, masks.global_masks(net, sparsity, score))
    return training.accuracy(pruned, pictures.test)


context = "small_resnet, Fashion-MNIST, 10,000 test pictures"

# %% tags=["nbval-ignore-output"]
measured = {
    "smallest_minus_random": tested_at(0.6) - tested_at(0.6, orders["random"]),
    "magnitude_minus_wanda_rescaled": rows["rescaled", "magnitude"] - rows["rescaled", "Wanda"],
}
card01 = claims.record("C01", measured, context)
card01

# %%
print(card01.here.text)

# %% [markdown]
# The rule holds where its assumption holds. C02: is fine-tuning essential?

# %% tags=["nbval-ignore-output"]
measured = {
    "gap_without_finetune": tested["dense"] - tested["90 % pruned"],
    "gap_with_finetune": gap,
    "gap_without_finetune_50": tested["dense"] - tested_at(0.5),
}
card02 = claims.record("C02", measured, context)
card02

# %% [markdown]
# C13: what do nine tenths cost?

# %% tags=["nbval-ignore-output"]
measured = {
    "gap_90": gap,
    "gap_90_no_finetune": tested["dense"] - tested["90 % pruned"],
}
card13 = claims.record("C13", measured, context)
card13

# %% [markdown]
# The textbook's number omits its condition, fine-tuning. C14: what does a mask save?

# %% tags=["nbval-ignore-output"]
measured = {"masked_time_ratio": time_ratio, "masked_bytes_ratio": bytes_ratio}
card14 = claims.record("C14", measured, context)
card14

# %% [markdown]
# The textbook says "memory only", but a mask does not even save memory: for that, a format has to
# leave the zeros out. Lessons 05 and 07 measure such formats.
#
# ## Recap
#
# - Removing the smallest weights costs hardly any accuracy up to a cliff. Removing random ones
#   costs accuracy at once.
# - A global ranking spares narrow layers; the same fraction everywhere does not.
# - After a short fine-tune, one weight in ten is enough here. Enforce the masks, or gradients and
#   momentum make pruned weights nonzero again.
# - Magnitude works only where inputs are of similar size; Wanda multiplies it by the input's norm.
# - A mask saves neither bytes nor time.
#
# ## Interview questions
#
# **1. Why does magnitude pruning work at all, and when does it fail?**
#
# <details><summary>Answer</summary>
#
# The contribution of a weight is weight times input. If the inputs of a layer are of similar size,
# small weights contribute little, so removing them changes the output least. Normalisation makes
# the inputs similar. Where inputs differ (after a rescaling, or with the outlier channels of
# language models), a small weight on a large input matters; scores that include the input, such as
# Wanda's, correct for that.
#
# </details>
#
# **2. Global or per-layer sparsity: which one, and what is the danger?**
#
# <details><summary>Answer</summary>
#
# Global usually keeps more accuracy at the same sparsity, since large redundant layers lose more.
# The danger: at high sparsity it can remove all weights of a layer whose weights are small, which
# cuts the network. And a global ranking compares magnitudes between layers, which is meaningful
# only if their scales are comparable.
#
# </details>
#
# **3. You masked 90 % of the weights. The latency is the same. Why?**
#
# <details><summary>Answer</summary>
#
# A mask writes zeros into a dense tensor. The same kernel still loads and multiplies every element.
# Gains need a sparse format with a kernel that beats dense at that shape and sparsity, hardware
# with a fixed pattern such as 2:4, or structured pruning, which makes the dense tensors smaller.
#
# </details>
#
# **4. You zero the gradients of pruned weights. Do they stay zero?**
#
# <details><summary>Answer</summary>
#
# Not necessarily. Momentum from before the pruning still moves them. (Weight decay alone does not
# move a weight that is exactly zero, but adaptive optimizers keep other state.) Apply the mask to
# the weights after every step.
#
# </details>
#
# ## Where next
#
# Single zeros gave no speed-up. **Lesson 02** measures which whole channels matter, and **lesson
# 03** removes them. **Lesson 05** shows when a sparse format does pay.
