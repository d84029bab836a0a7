# %% [markdown]
# # 03 Removing channels
#
# *How do you really shrink a network with skip connections?*
#
# You will be able to
# - remove a channel from every tensor that it touches, and say which tensors these are,
# - verify that the smaller network computes what it should, to rounding error,
# - say why some channels can only go together, and read a dependency graph,
# - say how many multiplications are left, and prune any network of torchvision in one call.
#
# **Time**: 60 minutes of reading and exercises, under 60 s of compute
#
# **Claims** under test: C09
#
# **Needs**: lesson 02. No network, no GPU.

# %%
import copy

import matplotlib.pyplot as plt
import torch
from torch import nn

from course_lib.bars import bar
from course_lib.measuring import cost
from course_lib.networks import data, models, training
from course_lib.pruning import channels, graph, surgery
from course_lib.teaching import claims, figures
from course_lib.teaching.exercises import check, hint, solution
from course_lib.teaching.widgets import predict, reveal

plt.style.use(figures.STYLE)

# %%
pictures = data.fashion_mnist()
net = models.load_trained("resnet18")
one = pictures.test.images[:1]
print(f"ResNet-18: {cost.macs(net, one):,} multiply-accumulates for one picture")

# %% [markdown]
# ## Predict
#
# Lesson 01 wrote zeros into a network, and nothing became smaller. This lesson really removes
# channels.

# %%
predict(
    "03.macs",
    "Half of the channels of every layer are removed. What share of the MACs is left?",
    low=0,
    high=100,
    unit="%",
)

# %% [markdown]
# ## One channel, two layers
#
# A channel is made by one layer and read by the next. In this block `conv1` makes 256 channels,
# `bn1` rescales each of them, and `conv2` reads them.

# %%
block = net.layer3[0]
for name in ("conv1.weight", "bn1.weight", "bn1.running_mean", "conv2.weight"):
    print(f"{name:17s} {tuple(block.state_dict()[name].shape)}")

# %% [markdown]
# A filter has the shape (outputs, inputs, height, width). To remove a channel, take a row out of
# the layer that makes it and a column out of the layer that reads it.
#
# **Exercise 03.1.** Two linear layers, for simplicity: `first` has shape (hidden, in), `bias` has
# shape (hidden,), `second` has shape (out, hidden). Keep only the hidden channels in the list
# `keep`, in that order. Return the three smaller tensors.


# %%
def remove_hidden(first, bias, second, keep):
    """The two weights and the bias with only the hidden channels `keep`."""
    return ...


check("03.1", remove_hidden)

# %%
# hint("03.1")
# solution("03.1")

# %% [markdown]
# Half of the channels of `conv1` are half of *two* weights. Here is what is left of both, drawn to
# scale (for one position of the kernel).

# %%
example = torch.zeros(1, 1, 28, 28)
found = graph.trace(net, example)
name = "layer3.0.conv1"
half = channels.lowest(channels.l1(net, found), {name: 0.5})
smaller = surgery.prune(net, found, half)

# %%
figure, panels = plt.subplots(1, 2, sharey=True)
for axes, layer in zip(panels, ("conv1", "conv2"), strict=True):
    shapes = [each.layer3[0].get_submodule(layer).weight.shape[:2] for each in (net, smaller)]
    for (rows, columns), kind in zip(shapes, ("dense", "structured"), strict=True):
        place, colour = (0, 256 - rows), figures.COLOURS[kind]
        axes.add_patch(plt.Rectangle(place, columns, rows, color=colour))
    sizes = " to ".join(f"{rows} x {columns}" for rows, columns in shapes)
    axes.set(xlim=(0, 258), ylim=(0, 258), xlabel="inputs", aspect="equal")
    axes.set_title(f"{layer}: {sizes}", fontsize=12)
panels[0].set_ylabel("outputs")
figures.show(
    figure, alt="Two weights as rectangles; conv1 loses half its rows, conv2 half its columns."
)

# %% [markdown]
# Grey is the original weight, orange what is left: half of the rows of `conv1`, half of the columns
# of `conv2`. Both are dense tensors, which need no special kernel. How much faster they are depends
# on the hardware all the same (lesson 06).
#
# ## Is it the same network?
#
# The smaller network should compute what the old one computes *without these channels*. But what is
# a network "without" channels? A natural idea is to set the filters that make them to zero.

# %%
ten = pictures.test.images[:10].double()
gone = half[name]


def distance(network):
    """Largest difference from the smaller network's outputs, relative to their size."""
    with torch.no_grad():
        reference = smaller.double()(ten)
        return ((network.double()(ten) - reference).abs().max() / reference.abs().max()).item()


# %%
zeroed = copy.deepcopy(net)
with torch.no_grad():
    zeroed.layer3[0].conv1.weight[gone] = 0
print("filters set to zero: the same output?", distance(zeroed) < 1e-9)

# %% [markdown]
# It is not. The next layer is a BatchNorm, which turns the zeros into its own shift, and ReLU
# passes a positive shift on. The channel is not zero but constant.

# %% tags=["nbval-ignore-output"]
norm = net.layer3[0].bn1
shift = (
    norm.bias - norm.weight * norm.running_mean / (norm.running_var + norm.eps).sqrt()
).detach()
print(f"values of {len(gone)} zeroed channels: {shift[gone].min():.2f} to {shift[gone].max():.2f}")

# %% [markdown]
# In the right reference, no weight *reads* the channel: the weights of `conv2` that read it are
# zero.

# %%
unread = copy.deepcopy(net)
with torch.no_grad():
    unread.layer3[0].conv2.weight[:, gone] = 0
print("readers set to zero: the same output?", distance(unread) < 1e-9)

# %% [markdown]
# In double precision the two agree in all digits but the last few. **Removing a channel is exactly
# the same as zeroing the weights that read it.** Every removal in this course is tested against
# that.
#
# The reader can also come after a flatten: then one channel is read by many columns.
#
# **Exercise 03.2.** Pictures of shape (channels, height, width) are flattened and read by a linear
# layer. Which of its columns read the given channels? Return a list in rising order.


# %%
def reading_columns(channels, height, width):
    """Columns of the linear layer that read one of `channels` (a list of numbers)."""
    return ...


check("03.2", reading_columns)

# %%
# hint("03.2")
# solution("03.2")

# %% [markdown]
# DenseNet and Inception concatenate tensors: there, channel 3 of the second tensor is read at
# another position.
#
# **Exercise 03.3.** Tensors with `widths` channels are concatenated. `kept` lists, for each of
# them, the channels that stay. Which positions of the *old* concatenated tensor stay?


# %%
def kept_after_concat(widths, kept):
    """Positions in the concatenated tensor, in rising order."""
    return ...


check("03.3", kept_after_concat)

# %%
# hint("03.3")
# solution("03.3")

# %% [markdown]
# ## The residual stream
#
# ResNet adds: `out = conv2(...) + x`. Channel 7 of the sum is the sum of both channels 7. If it is
# removed from one side only, the shapes no longer match. So channel 7 goes from *every* layer that
# adds to this stream, or from none.
#
# **Exercise 03.4.** There are `count` channels, numbered from 0. Each pair in `pairs` has to stay
# or go together. Return the lists of channels that go together, each in rising order, ordered by
# their first channel.


# %%
def coupled(count, pairs):
    """Lists of channels that can only be removed together."""
    return ...


check("03.4", coupled)

# %%
# hint("03.4")
# solution("03.4")

# %% [markdown]
# That is the core of a **dependency graph** (Fang et al., 2023). `graph.trace` runs the network
# once on labels instead of numbers: a layer that makes channels gives each a new label, an addition
# merges the labels of its operands, and each reader records which label it reads at which position.

# %%
small = models.load_trained("small_resnet")
wiring = graph.trace(small, example)
print(wiring)

# %%
figures.show(
    figures.wiring(wiring, until="blocks.5.conv2"),
    alt="For each group of channels, the layers that make them and the layers that read them.",
)

# %% [markdown]
# Each line is one group of channels, running from the layers that make it (filled) to those that
# read it (open). Inside a block, one layer makes a group and one reads it. The residual streams are
# the long lines: four layers add to each of them, so each of their channels is a row of four
# weights at once. Lesson 02 scored such channels together.
#
# The last group cannot be pruned: its channels are the classes.
#
# ## How much is left?
#
# Each layer loses outputs *and* inputs. In the middle of the network, with a fraction $r$ of the
# channels gone, a weight keeps $(1-r)$ of its rows and $(1-r)$ of its columns. The first layer
# loses outputs only, and the last inputs only.
#
# **Exercise 03.5.** A chain of layers with `widths` [in, hidden, ..., hidden, out], all on maps of
# the same size. The cost of a layer is inputs times outputs. From every hidden width, `round(ratio
# * width)` channels are removed. What share of the cost is left?


# %%
def cost_left(widths, ratio):
    """Cost of the pruned chain over the cost of the whole one."""
    return ...


check("03.5", cost_left)

# %%
# hint("03.5")
# solution("03.5")

# %%
ratios = [0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9]
left = {"1 - ratio": [1 - r for r in ratios], "(1 - ratio)²": [(1 - r) ** 2 for r in ratios]}
for label, network in (("ResNet-18", net), ("small_resnet", small)):
    pruned = [surgery.shrink(network, example, ratio) for ratio in bar(ratios, label)]
    left[label] = [cost.macs(each, one) / cost.macs(network, one) for each in pruned]

# %%
orange, grey = figures.COLOURS["structured"], figures.COLOURS["dense"]
axes = figures.lines(
    [100 * ratio for ratio in ratios],
    {label: [100 * share for share in shares] for label, shares in left.items()},
    xlabel="channels removed from every layer (%)",
    ylabel="multiplications left (%)",
    colours=dict(zip(left, ["#bbbbbb", grey, orange, "#8f5d00"], strict=True)),
)
figures.show(
    axes.figure, alt="MACs left against ratio: both networks follow the square, not the line."
)

# %% [markdown]
# Both networks follow the square closely: the first and the last layer, which lose on one side
# only, are a small part of them. How good was your guess?

# %% tags=["nbval-ignore-output"]
half_left = left["ResNet-18"][ratios.index(0.5)]
reveal("03.macs", 100 * half_left, low=0, high=100, unit="%")

# %%
print(f"half of the channels: {100 * half_left:.1f} % of the multiplications are left")

# %% [markdown]
# Fewer MACs do not necessarily mean less time: lesson 06 measures that.
#
# ## Any network, in one call
#
# `surgery.shrink` traces, scores, chooses and removes. Here are three networks of torchvision with
# random weights. Their BatchNorms get random values, because an error in a shift cannot be seen
# while it is zero.


# %%
def shaken(network):
    """Random statistics, scales and shifts for every BatchNorm."""
    torch.manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_var.uniform_(0.5, 2)
            for tensor in (layer.running_mean, layer.weight.data, layer.bias.data):
                tensor.normal_()
    return network.eval()


# %%
def error(network, wiring, removed, picture):
    """Relative difference from the network with zeroed readers, in double precision."""
    pruned = surgery.prune(network, wiring, removed).double()
    unread = surgery.zero_readers(copy.deepcopy(network), wiring, removed).double()
    with torch.no_grad():
        expected = unread(picture.double())
        return ((pruned(picture.double()) - expected).abs().max() / expected.abs().max()).item()


# %%
from torchvision.models import densenet121, mobilenet_v2, resnet18

picture = torch.rand(1, 3, 64, 64)
errors = []
for build in bar((resnet18, mobilenet_v2, densenet121)):
    whole = shaken(build())
    traced = graph.trace(whole, picture)
    pruned = surgery.shrink(whole, picture, ratio=0.5)
    macs = cost.macs(pruned, picture) / cost.macs(whole, picture)
    errors.append(error(whole, traced, channels.lowest(channels.l1(whole, traced), 0.5), picture))
    print(f"{build.__name__:13s} {len(traced.free):3d} groups, {100 * macs:.0f} % of the MACs left")

# %%
print("same output as with zeroed readers, in all three:", max(errors) < 1e-9)

# %% [markdown]
# MobileNetV2 has depthwise convolutions, in which each output channel is coupled to its input
# channel; in DenseNet every layer reads the concatenated outputs of all earlier ones in its block.
# The graph has a small rule for each kind of layer, and no rule for a particular network.
#
# What if it meets an operation that it does not know? Guessing would be the worst choice: the
# network would be silently wrong.


# %%
class Odd(nn.Module):
    """Sorts its channels by size, so no channel has a fixed position."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x):
        return self.second(self.first(x).sort(dim=1).values)


try:
    surgery.shrink(Odd(), example, ratio=0.5)
except graph.UnknownOperation as error_message:
    print(error_message)

# %% [markdown]
# It refuses, and names the operation. Some other channels it leaves in place, and gives the reason:
# for instance those that a LayerNorm normalises together, because their mean and variance change
# when one is removed. No choice of zeroed weights would give the same output.
#
# ## Keep it
#
# A pruned network is saved with its *plan*, the list of what was kept of each tensor, as readable
# text. To load it, build the original network, prune it by the plan, and fill in the weights.
# Nothing is unpickled.

# %%
from pathlib import Path
from tempfile import TemporaryDirectory

half_net = surgery.shrink(net, example, ratio=0.5)
with TemporaryDirectory() as folder:
    file = Path(folder) / "half.safetensors"
    surgery.save(half_net, file)
    again = surgery.load(models.build("resnet18"), file).eval()
    size = file.stat().st_size / cost.stored_bytes(net)
print("kept of bn1:", half_net.pruning_plan["bn1.weight"][0][:8], "...")
print("loaded, it computes the same:", torch.equal(again(one), half_net(one)))
print(f"the file is {100 * size:.0f} % of the dense one")

# %% [markdown]
# And the accuracy? Here are three of the four axes with half of the channels and no retraining
# (lesson 06 measures the milliseconds):

# %% tags=["nbval-ignore-output"]
some = data.Images(*(tensor[:2000] for tensor in pictures.validation))
accuracy = {}
for label, network in (("dense", net.float()), ("half of the channels", half_net)):
    accuracy[label] = training.accuracy(network, some)
    print(
        f"{label:21s} {accuracy[label]:.1f} %, "
        f"{cost.stored_bytes(network):,} bytes, {cost.macs(network, one):,} MACs"
    )

training.recalibrate(half_net, pictures.train.images[:1024])
recalibrated = training.accuracy(half_net, some)
print(f"with BatchNorm recalibrated (lesson 01): {recalibrated:.1f} %")

# %%
print("as it is, no better than guessing:", accuracy["half of the channels"] < 15)
print("recalibrated, better than that by over 20 points:", recalibrated > 35)

# %% [markdown]
# The network is a quarter of its size. As it is, it only guesses, but much of that is its old
# BatchNorm statistics. Lesson 04 recovers the rest of the accuracy.
#
# ## The verdict
#
# C09 says that removing channels shrinks the matrices. Measured are the weights of the two layers
# at the cut, the MACs of the whole network, and the error of the removal.

# %% tags=["nbval-ignore-output"]
at_the_cut = [
    sum(network.layer3[0].get_submodule(layer).weight.numel() for layer in ("conv1", "conv2"))
    for network in (smaller, net)
]
measured = {
    "weights_left": at_the_cut[0] / at_the_cut[1],
    "macs_left": half_left,
    "removal_error": max(distance(unread), *errors),
}
card09 = claims.record("C09", measured, "ResNet-18, half of the channels; error over four networks")
card09

# %%
print(card09.here.text)

# %% [markdown]
# It holds, and the textbook understates it: going from 256 to 128 channels in one layer halves two
# weights, and in all layers it leaves a quarter of each.
#
# ## Recap
#
# - A channel is a row of the weight that makes it, an entry in each BatchNorm on the way, and a
#   column of every weight that reads it.
# - Removing a channel equals zeroing the weights that *read* it. Zeroing the weights that make it
#   leaves BatchNorm's shift.
# - Channels that are added, or multiplied element by element, are coupled: they go together or
#   stay.
# - With a fraction $r$ of all channels gone, about $(1-r)^2$ of the MACs are left.
# - A tool that guesses can be silently wrong. It should verify its result, or refuse.
#
# ## Interview questions
#
# **1. You remove half of the filters of one convolution. What else has to change?**
#
# <details><summary>Answer</summary>
#
# The bias of that layer, the scale, shift, mean and variance of the BatchNorm after it, and the
# input side of every layer that reads its output: columns of the next convolution, or blocks of
# columns of a linear layer after a flatten. If the output is added to another tensor, also the
# layers that make the other tensor, and all layers that read the sum. And the sizes stored in the
# modules.
#
# </details>
#
# **2. Why not just zero the filters?**
#
# <details><summary>Answer</summary>
#
# First, nothing becomes smaller: a dense kernel multiplies zeros at full cost. Second, it is not
# the same function: BatchNorm turns the zero channel into the constant shift - scale * mean / std,
# which the next layer reads. The smaller network corresponds to zeroing the weights that read the
# channel.
#
# </details>
#
# **3. What makes pruning a ResNet harder than pruning a VGG?**
#
# <details><summary>Answer</summary>
#
# The additions. All layers that add to one residual stream must keep the same channels, so a
# channel is scored over all of them and removed from all of them. Within a block the first
# convolutions are free. A common shortcut is to prune only inside the blocks; it leaves the stream
# at full width, so less is gained.
#
# </details>
#
# **4. Half of the channels are removed in every layer. How much computation is left, and why is it
# not half?**
#
# <details><summary>Answer</summary>
#
# About a quarter. The cost of a convolution is proportional to inputs times outputs, and both were
# halved. Only the first layer (its input is the picture) and the last (its output is the classes)
# keep one side. Depthwise convolutions keep a half, since each of their outputs reads one input.
#
# </details>
#
# ## Where next
#
# The smaller network lost accuracy. **Lesson 04** measures the drop, and what recovers it. **Lesson
# 06** measures whether a quarter of the MACs takes a quarter of the time.
