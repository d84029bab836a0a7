# %% [markdown]
# # 07 Prune, quantize, pack
#
# *How small and how fast can a CNN get?*
#
# You will be able to
# - quantize weights and activations by hand, and measure the error,
# - calibrate a network, run it in int8 in ONNX Runtime, and see what stays in float32,
# - say what pruning, quantizing and packing gain, alone and together, and in which order to apply
#   them,
# - compute the fewest bytes that a pruned network can have, and come within a few percent.
#
# **Time**: 90 minutes of reading and exercises, under 90 s of compute
#
# **Claims** under test: C14, C15, C21
#
# **Needs**: lessons 01, 03 and 06. No network, no GPU.

# %%
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
import torch

# %%
from course_lib.bars import bar
from course_lib.deployment import forms, pruned_file, runtime, storage
from course_lib.deployment import quantization as quant
from course_lib.deployment.forms import IN_A_ROW
from course_lib.experiments import compression, recordings, steps
from course_lib.experiments.recordings import recorded_file
from course_lib.measuring.estimates import exact, paired, ratio, recorded_speedup, unpaired
from course_lib.measuring.timing import compare
from course_lib.networks import data, models
from course_lib.networks.training import accuracy, correct
from course_lib.pruning import masks

# %%
from course_lib.teaching import claims, figures
from course_lib.teaching.exercises import check, hint, solution
from course_lib.teaching.reading import read
from course_lib.teaching.widgets import choose, predict, reveal

plt.style.use(figures.STYLE)
pictures = data.fashion_mnist()
few, picture = data.Images(*(part[:1000] for part in pictures.validation)), pictures.test.images[:1]
resnet18, small = models.load_trained("resnet18"), models.load_trained("small_resnet")
kept = TemporaryDirectory()  # for the files of this lesson
folder = Path(kept.name)

# %% [markdown]
# ## Predict
#
# Remove three quarters of the channels of ResNet-18, and store the rest in eight bits per number
# instead of 32. The file is ONNX and the runtime ONNX Runtime, before and after.

# %%
predict(
    "07.smaller",
    "ResNet-18 without 3/4 of its channels, in int8: how many times smaller is the file?",
    low=1,
    high=100,
    unit="x",
)

# %%
predict(
    "07.faster",
    "And one picture, on one thread: how many times faster?",
    low=1,
    high=40,
    unit="x",
)

# %% [markdown]
# ## Few bits for a weight
#
# To *quantize*, choose a step size, the **scale**, and round every weight to the nearest multiple
# of it. The multiplier, a small integer, is the **code**. Four bits give the codes -7 to 7.

# %%
weight = resnet18.layer2[0].conv1.weight.detach()
codes = quant.symmetric(weight, bits=4)
figure, axes = plt.subplots()
axes.hist(weight.flatten().numpy(), bins=200, color=figures.COLOURS["dense"])
for code in range(-7, 8):
    axes.axvline(code * float(codes.scale), color=figures.COLOURS["quantized"], linewidth=1.5)
axes.set(
    xlabel="weight", ylabel="count", yscale="log", title="The 15 values that 4 bits can represent"
)
figures.show(figure, alt="Histogram of a layer's weights, with the fifteen values of 4 bits.")

# %% [markdown]
# The few largest weights set the scale, and most weights are within three lines of zero.
#
# **Exercise 07.1.** Return `values` rounded to codes of `bits` bits: the numbers that the codes
# represent, not the codes. The largest positive and the largest negative code are equally far from
# zero.


# %%
def quantize(values, bits):
    """The nearest numbers that codes of `bits` bits can represent."""
    return ...


check("07.1", quantize)

# %%
# hint("07.1")
# solution("07.1")

# %% [markdown]
# Channels differ in their ranges. With one scale for all, a channel of small weights uses few
# codes.
#
# **Exercise 07.2.** `weight` has the shape (outputs, inputs, ...). Return a scale for each output.


# %%
def channel_scales(weight, bits):
    """A scale for each output channel, shape (outputs,)."""
    return ...


check("07.2", channel_scales)

# %%
# hint("07.2")
# solution("07.2")

# %% [markdown]
# How large is the error of the weights, per tensor and per channel? And does torch's own
# quantization agree with what you wrote?

# %%
BITS = range(2, 9)
how = {"one scale": None, "a scale per channel": 0}
errors = {
    label: [
        100 * quant.relative_error(weight, quant.symmetric(weight, bits, axis)) for bits in BITS
    ]
    for label, axis in how.items()
}
colours = dict(zip(how, (figures.COLOURS["dense"], figures.COLOURS["quantized"]), strict=True))
axes = figures.lines(
    BITS, errors, xlabel="bits", ylabel="error (% of the weights)", colours=colours
)
axes.set(yscale="log", yticks=[1, 3, 10, 30, 100], yticklabels=["1", "3", "10", "30", "100"])
figures.show(axes.figure, alt="Error against bits, per tensor and per channel: each bit halves it.")

# %%
ours = quant.symmetric(weight, 8, axis=0)
zeros = torch.zeros(len(ours.scale), dtype=torch.int32)
theirs = torch.fake_quantize_per_channel_affine(weight, ours.scale, zeros, 0, -127, 127)
same = torch.isclose(ours.values, theirs, atol=1e-7).float().mean()
print("torch agrees on all but 0.1 %, which are halfway between two codes:", bool(same > 0.999))
line = errors["a scale per channel"]
print(f"one bit fewer makes the error {np.mean(np.divide(line[1:-1], line[2:])):.1f} times larger")

# %% [markdown]
# A straight line on a logarithmic axis: each bit halves the error. How does the error affect the
# accuracy?

# %%
percent = [accuracy(steps.fake_quantized(small, bits), few) for bits in bar(BITS, "bits")]
axes = figures.lines(
    BITS,
    {"small_resnet": percent},
    xlabel="bits per weight, a scale per channel",
    ylabel="validation accuracy (%)",
    colours={"small_resnet": figures.COLOURS["quantized"]},
)
axes.axhline(accuracy(small, few), color=figures.COLOURS["dense"], linestyle="--")
figures.show(axes.figure, alt="Accuracy against bits: flat down to four or five, then a cliff.")

# %%
print("8 bits cost less than a point:", percent[-1] > accuracy(small, few) - 1)
print("2 bits cost more than ten:", percent[0] < accuracy(small, few) - 10)

# %% [markdown]
# Again a plateau and a cliff, as with pruning: the network tolerates errors up to a point.
#
# ## Activations: calibrate
#
# A product is fast only if *both* factors are int8, so the activations need codes as well. After a
# ReLU they are never negative, so their codes run from 0 to 255. This **affine** quantization has a
# **zero point**, the code of zero.
#
# **Exercise 07.3.** The observed values range from `low` to `high`. Return the scale and the zero
# point for codes from 0 to `2 ** bits - 1`. One of the codes must represent zero exactly.


# %%
def affine_range(low, high, bits):
    """The scale, and the code of zero."""
    return ...


check("07.3", affine_range)

# %%
# hint("07.3")
# solution("07.3")

# %% [markdown]
# Weights are known in advance, activations are not: their ranges have to be measured on some
# inputs. That is **calibration**. Here the same network is calibrated on noise, on a single
# picture, and on 500 validation pictures. `export` writes ONNX, `int8` lets ONNX Runtime quantize
# it, and the accuracy is that of the *file*, in the runtime.

# %% tags=["nbval-ignore-output"]
exported = quant.export(small, folder / "small.onnx", few.images[:2])
shown = {
    "faint noise": 0.1 * torch.randn(100, 1, 28, 28, generator=torch.Generator().manual_seed(0)),
    "one picture": few.images[:1],
    "500 pictures": pictures.validation.images[:500],
}
found = {"float32": runtime.accuracy(exported, pictures.test)}
for name, seen in bar(shown.items(), "calibrations"):
    found[name] = runtime.accuracy(quant.int8(exported, folder / "int8.onnx", seen), pictures.test)
for name, right in found.items():
    print(f"{name:12s} {right:.2f} % of the test pictures")

# %% tags=["stable"]
print("noise costs over ten points:", found["faint noise"] < found["float32"] - 10)

# %% tags=["nbval-ignore-output"]
lost = found["float32"] - found["500 pictures"]
read(
    lost < 0.5,
    f"After 500 pictures int8 costs {max(lost, 0):.2f} points.",
    f"After 500 pictures int8 still costs {lost:.2f} points: a processor without VNNI adds "
    "products in 16 bits, which can overflow.",
)

# %% [markdown]
# Values outside the calibrated range are clipped. So calibrate on a few hundred real pictures, none
# of them from the test set.
#
# ## A whole network, in the runtime
#
# `channels` is ResNet-18 without three quarters of its channels, retrained with the dense network
# as its teacher by `python -m course_lib record compression --model resnet18`. `weights` is
# ResNet-18 without 95 % of its single weights. What did the training give back? The accuracies
# before it were recorded too, as they are and with BatchNorm recalibrated (lesson 01).

# %%
recorded = recordings.load("compression", "resnet18")[recordings.COURSE]
points = {(point["network"], point["form"]): point for point in recorded["points"]}
made = {one["name"]: one for one in recorded["networks"]}
print("test accuracy (%)   as it is  recalibrated  trained")
for name in ("weights", "channels"):
    stale, new = (made[name][when]["accuracy"] for when in ("before", "recalibrated"))
    print(f"{name:18s} {stale:9.1f} {new:13.1f} {points[name, 'float32']['accuracy']:8.1f}")

# %% [markdown]
# Without the weights almost nothing but the statistics was wrong. Without the channels the training
# had to learn again.

# %%
networks = {"dense": resnet18, "channels": pruned_file.load(recorded_file("channels"))[0]}
files = {}
for name, network in bar(networks.items(), "networks"):
    files |= forms.deployed(network, name, pictures, folder)
for name, file in files.items():
    fewer = files["dense, float32"].stat().st_size / file.stat().st_size
    print(f"{name:17s} {file.stat().st_size / 1e6:5.1f} MB, {fewer:2.0f} times smaller")

# %% [markdown]
# Does all of it run in int8? After its optimizations, the runtime lists the operators it chose.

# %% tags=["nbval-ignore-output"]
for kind, operators in runtime.operators(files["channels, int8"]).items():
    print(f"{kind:8s}", ", ".join(f"{count} {name}" for name, count in sorted(operators.items())))

# %% [markdown]
# The second line lists what falls back to float32; at every change between the two, numbers are
# converted, which takes time. Check this list before you believe that a network runs in int8.

# %% tags=["nbval-ignore-output"]
in_runtime = {
    name: runtime.accuracy(files[name], pictures.test)
    for name in bar(["dense, int8", "channels, float32", "channels, int8"], "accuracy")
}
for name, right in in_runtime.items():
    print(f"{name:17s} {right:.2f} %")

# %% tags=["nbval-ignore-output"]
lost = in_runtime["channels, float32"] - in_runtime["channels, int8"]
read(
    lost <= 0.3,
    f"int8 costs {max(lost, 0):.2f} points.",
    f"int8 costs {lost:.2f} points on this processor, more than where the course was recorded.",
)

# %% tags=["nbval-ignore-output"]
times = {}
for threads in (1, 2):
    runs = {name: runtime.Deployed(file, threads) for name, file in files.items()}
    times[threads] = compare(runs, picture, rounds=60, seconds=4, in_a_row=IN_A_ROW)
    print(f"{threads} threads")
    for name, timing in times[threads].timings.items():
        faster = times[threads].speedup(name, over="dense, float32")
        print(f"  {name:17s} {timing.median:.3f} ms, {faster} faster")

# %%
size = {name: file.stat().st_size for name, file in files.items()}
print("more than 40 times smaller:", size["dense, float32"] > 40 * size["channels, int8"])

# %% tags=["nbval-ignore-output"]
faster = times[1].speedup("channels, int8", over="dense, float32").value
reveal("07.smaller", size["dense, float32"] / size["channels, int8"], low=1, high=100, unit="x")
reveal("07.faster", faster, low=1, high=40, unit="x")

# %% tags=["nbval-ignore-output"]
both = times[2].speedup("channels, int8", over="dense, float32").value
read(
    both < 0.9 * faster,
    "On two threads it gains less: a second thread helps the dense network, but hardly the small "
    "one, whose layers are too short to be worth dividing.",
    "On two threads it gains as much here.",
)

# %% [markdown]
# If you can choose the number of threads, compare each network at its own best number.
#
# ## Which layer minds?
#
# Round one layer at a time, here to 2 bits so that the effect is visible, and measure the accuracy
# on validation pictures.


# %%
def alone(name, bits=2):
    """Accuracy with this weight tensor alone rounded, a scale per channel."""
    copy = masks.pruned_copy(small, {})
    weight = masks.prunable(copy)[name]
    weight.data = quant.symmetric(weight.detach(), bits, axis=0).values
    return accuracy(copy, few)


whole = accuracy(small, few)
harm = {name: whole - alone(name) for name in bar([*masks.prunable(small)], "layers")}

# %%
axes = figures.bars(
    {name.removesuffix(".weight"): points for name, points in harm.items()},
    ylabel="points lost at 2 bits",
    colour="quantized",
)
figures.show(axes.figure, alt="Points lost when each layer alone is rounded to two bits.")

# %% [markdown]
# The first layers and the last one stand out, and they have few of the weights. So the most
# sensitive ones can stay in float32, **if that pays**. Now with 8 bits, in the runtime: first each
# layer alone, then all layers except the three most sensitive ones:

# %%
seen, names = pictures.validation.images[:200], quant.layers(exported)
alone_int8 = dict(quant.sensitivity(exported, seen, few, bar(names, "layers")))
worst = sorted(names, key=alone_int8.get)[:3]
candidates = {
    "float32": exported,
    "int8": quant.int8(exported, folder / "all.onnx", seen),
    "int8 but for three": quant.int8(exported, folder / "most.onnx", seen, leave=worst),
}

# %% tags=["nbval-ignore-output"]
runs = {name: runtime.Deployed(file) for name, file in candidates.items()}
taken = compare(runs, picture, rounds=60, in_a_row=IN_A_ROW).timings
right = {name: runtime.accuracy(file, pictures.test) for name, file in candidates.items()}
print(f"worst layers at 8 bits: {', '.join(worst)}")
for name in candidates:
    print(f"{name:19s} {right[name]:.2f} % of the test pictures, {taken[name].median:.3f} ms")

# %% tags=["nbval-ignore-output"]
read(
    right["int8 but for three"] > right["int8"] + 0.5,
    "Leaving three in float32 regains accuracy here. Is that worth the time of the conversions "
    "from int8 and back?",
    "Here it does not pay: there is no accuracy to regain, and converting from int8 and back "
    "takes time.",
)

# %% [markdown]
# It may pay in a network in which a few layers have large outliers; the three lines above show
# whether it does.
#
# ## Which first?
#
# "Prune first, then quantize." Try both orders, without any training: 80 % of the single weights
# go, and the remaining weights of each layer share 15 values (k-means, as in Deep Compression: Han,
# Mao and Dally, 2016).


# %%
def shared_values(network):
    """A copy whose layers have 15 different values besides zero."""
    copy = masks.pruned_copy(network, {})
    with steps.weight_sharing(copy, 15):
        return copy


def pruned(network):
    """A copy without 80 % of its weights, the smallest of the network."""
    return masks.pruned_copy(network, masks.global_masks(network, 0.8))


# %%
orders = {
    "prune, then quantize": shared_values(pruned(small)),
    "quantize, then prune": pruned(shared_values(small)),
}

# %% tags=["nbval-ignore-output"]
order = {}
for name, network in orders.items():
    file = pruned_file.save(network, "small_resnet", folder / f"{name}.pruned")
    order[name] = correct(network, pictures.test)  # which of the pictures it gets right
    percent = 100 * order[name].float().mean()
    print(f"{name}: {percent:.1f} % of the test pictures, {file.stat().st_size / 1000:.0f} kB")

# %%
gained = paired(order["prune, then quantize"], order["quantize, then prune"])
print("pruning first is better, by the whole interval of the difference:", gained.low > 0)

# %% [markdown]
# If you prune first, all 15 values serve weights that stay. If you quantize first, most of them end
# up near zero, for weights that go, and ties between weights of equal value are broken by their
# position. Files are smaller then, as fewer values are left.
#
# Both orders were also recorded with fine-tuning and int8, for ResNet-18 without three quarters of
# its channels, with a fifth of the epochs each.

# %%
n = len(pictures.test.labels)
percent = {name: points[name, "int8"]["accuracy"] for name in ("pruned first", "quantized first")}
for name, right in percent.items():
    print(f"{name}, finally int8: {right:.2f} %")
by_order = unpaired(*percent.values(), n)
print(f"difference: {by_order} points")

# %% [markdown]
# The interval of the difference contains zero: eight bits are so fine that 10,000 pictures show no
# effect of the order. But fine-tuning moves the weights off their codes, so if you quantize first,
# you have to quantize *again*. That is reason enough to prune first.
#
# ## Factors
#
# Removing channels makes the file smaller by one factor, int8 by another. Do both together give the
# product?


# %%
def gains(point, threads="one thread"):
    """(times smaller, times faster) than the dense network in float32."""
    return points["dense", "float32"]["bytes"] / point["bytes"], point[threads]["speedup"]


rows = {
    "channels": gains(points["channels", "float32"]),
    "int8": gains(points["dense", "int8"]),
    "both": gains(points["channels", "int8"]),
}
rows["product"] = tuple(np.multiply(rows["channels"], rows["int8"]))
for name, (smaller, faster) in rows.items():
    print(f"{name:9s} {smaller:5.1f} times smaller, {faster:5.1f} times faster")

# %%
figure, pair = plt.subplots(1, 2, figsize=(9.6, 4.0))
for axes, place, title in zip(pair, (0, 1), ("times smaller", "times faster"), strict=True):
    heights = [rows[name][place] for name in ("channels", "int8", "product", "both")]
    colours = [figures.COLOURS[idea] for idea in ("structured", "quantized")] + ["white", "black"]
    axes.bar(range(4), heights, color=colours, edgecolor="black")
    axes.set_xticks(
        range(4), ["channels", "int8", "product\n(expected)", "both\n(measured)"], fontsize=11
    )
    axes.set(title=title)
    axes.grid(visible=False, axis="x")
figures.show(figure, alt="Bars: each factor, their product, and the measured gain of both.")

# %% [markdown]
# For bytes the factors nearly multiply: each remaining weight takes a quarter of the bits. For time
# they do not. Each factor shortens only the arithmetic; the fixed overhead of every layer stays and
# becomes a larger share of the total. That is Amdahl's law again (lesson 06).
#
# And what do *zeros* gain? The same runtime, with 95 % of the single weights gone:

# %%
zeros = points["weights", "float32"], points["weights", "int8"], points["weights", "packed"]
for point in zeros:
    smaller, faster = gains(point)
    print(f"{point['form']:8s} {smaller:5.1f} times smaller, {faster:4.1f} times faster")

# %% [markdown]
# In ONNX nothing: zeros are stored and multiplied like any other numbers. Packing saves a lot of
# bytes, but after unpacking the network is as slow as the dense one.
#
# ## How many bytes?
#
# A pruned tensor stores two things: *where* its nonzero weights are, and *what* they are.
#
# **Exercise 07.4.** A layer has `count` weights, `kept` of them nonzero, and each value takes
# `bits` bits. How many bytes do three formats need? Dense; a bitmask (one bit per weight, then the
# values); indices (an index of `index` bits with each value).


# %%
def bytes_needed(count, kept, bits, index):
    """A dictionary of the bytes of "dense", "bitmask" and "indices"."""
    return ...


check("07.4", bytes_needed)

# %%
# hint("07.4")
# solution("07.4")

# %% [markdown]
# What is the minimum? A symbol that makes up a share $p$ of all symbols needs at least
# $\log_2(1/p)$ bits (Shannon, 1948). Summed over all symbols, that is the **entropy bound** for any
# coder that codes one symbol at a time.
#
# **Exercise 07.5.** `counts` lists how often each symbol occurs. Return the bound for all symbols
# together, in bytes.


# %%
def entropy_bytes(counts):
    """The entropy bound in bytes for symbols with these counts."""
    return ...


check("07.5", entropy_bytes)

# %%
# hint("07.5")
# solution("07.5")

# %% [markdown]
# Now a real layer, at increasing sparsity. Its nonzero weights share 15 values, of 4 bits each.


# %%
def layer_of(sparsity):
    """The layer as a matrix, its smallest weights zero and 15 values for the others."""
    matrix = weight.flatten(1)
    left = masks.lowest_overall({"": matrix}, masks.magnitude, sparsity)[""]
    return storage.share_weights(matrix * left, 15)


def bits_a_weight(matrix):
    """Bits per weight, zeros included, by format; the entropy bound is the last."""
    ways = {"dense": "dense", "CSR": "CSR", "relative index": "relative", "bitmask": "bitmask"}
    found = {name: storage.encode(matrix, way, "codebook").bytes for name, way in ways.items()}
    found |= {"entropy coder": storage.encode(matrix).bytes, "bound": storage.bound(matrix).bytes}
    return {name: 8 * size / matrix.numel() for name, size in found.items()}


# %%
two_of_four = weight.flatten(1) * masks.nm_mask(masks.magnitude(weight.flatten(1)), 2, 4)
hardware = storage.encode(storage.share_weights(two_of_four, 15), "2:4", "codebook").bytes

# %%
SPARSITIES = (0.0, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
by_sparsity = {each: bits_a_weight(layer_of(each)) for each in bar(SPARSITIES, "sparsities")}
figure, axes = plt.subplots()
for name in by_sparsity[0.5]:
    style = {"color": "black", "linestyle": "--"} if name == "bound" else {"marker": "o"}
    y = [found[name] for found in by_sparsity.values()]
    axes.plot([100 * each for each in SPARSITIES], y, label=name, **style)
axes.plot(50, 8 * hardware / weight.numel(), "k*", markersize=12, label="2:4")
axes.set(xlabel="sparsity (%)", ylabel="bits per weight", ylim=(0, 13), title="A layer, 15 values")
axes.legend(fontsize=11)
figures.show(figure, alt="Bits per weight against sparsity: five formats, the bound below them.")

# %%
at = by_sparsity
print("at 50 %, CSR is larger than dense:", at[0.5]["CSR"] > at[0.5]["dense"])
print("at 90 %, a bitmask is smaller than CSR:", at[0.9]["bitmask"] < at[0.9]["CSR"])
print("at 98 %, it is larger:", at[0.98]["bitmask"] > at[0.98]["CSR"])
print(
    "at 90 %, the entropy coder is within 5 % of the bound:",
    at[0.9]["entropy coder"] < 1.05 * at[0.9]["bound"],
)

# %% [markdown]
# A bitmask takes a bit for every weight, an index format an index for every weight that is kept, so
# their lines cross. The entropy coder is near the bound everywhere, because it spends few bits on
# frequent symbols. 2:4 exists for 50 % sparsity only: two values of every four, with two bits for
# the position of each.
#
# ## Pack it
#
# A `.pruned` file holds a network, each tensor in the format that takes the fewest bytes. It begins
# with 64 bytes of fixed layout (the table is in `course_lib/deployment/pruned_file.py`). Here is
# the file of the network that was pruned and then quantized above:

# %% tags=["nbval-ignore-output"]
mine = folder / "prune, then quantize.pruned"
raw = mine.read_bytes()
for first, last, what in (
    (0, 8, "signature"),
    (8, 12, "version"),
    (12, 16, "header, bytes"),
    (16, 20, "header, bytes when inflated"),
    (20, 28, "parts, bytes"),
    (28, 32, "zero"),
    (32, 64, "SHA-256 of the rest"),
):
    field = raw[first:last]
    number = int.from_bytes(field, "little") if 8 <= first < 32 else ""
    print(f"{first:2d}  {field[:8].hex(' '):23s} {what:30s} {number}")

# %%
header, _, parts, _ = pruned_file.START.unpack_from(raw)[2:]
print("64 bytes, the header and the parts are the whole file:", 64 + header + parts == len(raw))

# %% [markdown]
# **Exercise 07.6.** Read it yourself: return the version and the sizes of the header and of the
# parts, in bytes. A file may come from anywhere: return None if it is shorter than 64 bytes, begins
# with another signature, or is not exactly as long as these sizes say (64 bytes, the header, the
# parts).


# %%
def read_start(data):
    """(version, header bytes, parts bytes), or None."""
    return ...


check("07.6", read_start)

# %%
# hint("07.6")
# solution("07.6")

# %% [markdown]
# After the 64 bytes comes the header, deflated JSON: which tensors there are, how each is stored,
# how long each part is. What happens if a single bit of a file is wrong?

# %%
damaged = bytearray(raw)
damaged[1000] ^= 1
(folder / "damaged.pruned").write_bytes(damaged)
try:
    pruned_file.read(folder / "damaged.pruned")
except pruned_file.FileError as error:
    print(str(error).replace(str(folder), "..."))

# %% [markdown]
# The file is rejected before anything is decoded. Unlike a pickle it contains no code, and sizes
# are checked against the file before memory is allocated for them.
#
# What do the bytes of ResNet-18's smallest file store?

# %%
packed = recorded_file("few values")
tensors, about = pruned_file.unpack(packed)
bounds = {name: storage.bound(tensor) for name, tensor in tensors.items()}
weights = [bound for name, bound in bounds.items() if tensors[name].dim() > 1]
shares = {
    "positions of the weights": sum(bound.places for bound in weights),
    "their values": sum(bound.values for bound in weights),
    "biases, normalisation": sum(b.bytes for name, b in bounds.items() if tensors[name].dim() < 2),
}
there = packed.stat().st_size
shares["start, header, coder"] = there - sum(shares.values())
for name, count in shares.items():
    print(f"{name:24s} {count / 1000:6.1f} kB, {count / there:4.0%}")

# %%
bound = sum(one.bytes for one in bounds.values())
print(f"all of it: {there / 1000:.0f} kB, {there / bound:.3f} of its entropy bound")
print(f"{points['dense', 'float32']['bytes'] / there:.0f} times smaller than the dense network")

# %% [markdown]
# The *positions* of the weights take nearly as many bytes as their *values*, and no codebook makes
# them smaller. And the parameters that are not pruned, biases and normalisation, begin to matter.
#
# ## All four axes
#
# Every network of the recording, in every form: accuracy against bytes and against milliseconds;
# the area of a dot shows its MACs. The dashed line is one point below the dense network.

# %%
IDEAS = {
    "dense": "dense",
    "weights": "unstructured",
    "channels": "structured",
    "both": "unstructured",
    "few values": "quantized",
    "narrower": "structured",
}
MARKERS = {"float32": "o", "int8": "s", "packed": "D"}
STYLE = {"color": "white", "markeredgecolor": "black", "linestyle": ""}
LEGEND = [plt.Line2D([], [], marker=mark, label=form, **STYLE) for form, mark in MARKERS.items()]
TICKS = (0.1, 0.2, 0.5, 1, 2, 4)
floor = points["dense", "float32"]["accuracy"] - 1


# %%
def four_axes(threads):
    """Accuracy against bytes and against time; a marker for each form."""
    figure, pair = plt.subplots(1, 2, figsize=(10.4, 4.8), sharey=True)
    for name, form in points:
        if name in IDEAS:
            dot(pair, points[name, form], figures.COLOURS[IDEAS[name]], threads)
    for axes, label in zip(pair, ("bytes", f"ms for one picture, {threads}"), strict=True):
        axes.axhline(floor, color=figures.COLOURS["dense"], linestyle="--")
        axes.set(xscale="log", xlabel=label, ylim=(floor - 0.3, floor + 1.3))
    pair[0].set(ylabel="test accuracy (%)", xlim=(6e4, 1e8))
    pair[1].set(xticks=TICKS, xticklabels=map(str, TICKS), xlim=(0.06, 6))
    pair[1].minorticks_off()
    pair[1].legend(handles=LEGEND, fontsize=11, loc="center right")
    return figure


# %%
def dot(pair, point, colour, threads):
    """Draw one network in one form on both axes."""
    area = 30 + 500 * point["macs"] / points["dense", "float32"]["macs"]
    style = {"color": colour, "marker": MARKERS[point["form"]], "edgecolor": "black"}
    place = (point["bytes"], point["accuracy"])
    pair[0].scatter(*place, area, **style)
    if point["form"] == "packed":  # as fast as in float32
        pair[0].annotate(point["network"], place, (4, -18), textcoords="offset points", size=11)
    else:
        pair[1].scatter(point[threads]["median"], point["accuracy"], area, **style)


# %%
choose(
    four_axes,
    {"threads": [*forms.THREADS]},
    alt="Accuracy against bytes and milliseconds, recorded networks in three forms.",
)

# %%
best = points["channels", "int8"]
lost = points["dense", "float32"]["accuracy"] - best["accuracy"]
smaller, faster = gains(best)
print(f"to run:   {smaller:.0f} times smaller, {faster:.0f} times faster, {lost:.1f} points lost")
lost = points["dense", "float32"]["accuracy"] - points["few values", "packed"]["accuracy"]
smaller, _ = gains(points["few values", "packed"])
print(f"to store: {smaller:.0f} times smaller, {lost:.1f} points lost")

# %% [markdown]
# Why not go further? Look at `narrower`, with an eighth of the channels: it is much smaller again,
# but it loses accuracy and gains little time.

# %%
for name, form in (("channels", "int8"), ("narrower", "float32"), ("narrower", "int8")):
    point = points[name, form]
    ms, right = point["one thread"]["median"], point["accuracy"]
    print(f"{name:9s} {form:8s} {point['macs'] / 1e6:4.1f} MMACs, {ms:.3f} ms, {right:.1f} %")

# %% [markdown]
# Some twenty layers run one after another, and each has to be launched and to read and write its
# maps. That time stays, and int8 does not shorten it. To go faster, remove *layers*, or process
# more pictures at once.
#
# Does the recording hold on your machine? This lesson measured the same two files:

# %% tags=["nbval-ignore-output"]
away, against = in_runtime["channels, int8"] - best["accuracy"], faster / gains(best)[1]
print(f"accuracy: recorded {away:+.2f} points; speed-up: recorded times {against:.2f}")
read(
    abs(away) < 0.3 and 1 / 1.7 < against < 1.7,
    "Your machine agrees with the recorded one.",
    "Your processor differs: what int8 gains, and costs, depends on its instructions.",
)

# %% [markdown]
# ## A challenge
#
# **Under 200 kB, at least 91 % of the test pictures, as fast as you can.** `score` unpacks a file,
# runs it in float32 and in int8 on one thread, and keeps the faster of those that are accurate
# enough.

# %% tags=["nbval-ignore-output"]
entry = compression.score(packed, pictures)
print(entry)
print(
    f"{times[1].timings['dense, float32'].median / entry.milliseconds:.1f} times faster than dense"
)

# %% [markdown]
# Beat it. Start from any recorded network, or from `resnet18` itself (which takes minutes). Compare
# your attempts on the validation pictures and score only one of them: `score` reads the test
# pictures. For example:

# %%
# from course_lib.networks.training import to_teacher
#
# step = steps.CompressionStep("narrower", weights=0.5, codebook_size=31, epoch_fraction=0.1)
# source, _ = pruned_file.load(recorded_file("narrower"))
# with forms.teacher("resnet18", pictures) as logits:
#     objective = to_teacher(logits)
#     made = steps.apply_step(step, source, "resnet18", pictures, objective, progress=bar)
# compression.score(pruned_file.save(made, "resnet18", folder / "mine.pruned"), pictures)

# %% [markdown]
# ## The verdicts
#
# C14: without sparse hardware, sparsity saves memory only. Tested in the runtime, with 95 % of the
# weights zero, by the recording:

# %% tags=["nbval-ignore-output"]
source = f"recorded on {recordings.COURSE}"
masked, _, as_packed = zeros
measurements = {
    "onnx_bytes_ratio": masked["bytes"] / points["dense", "float32"]["bytes"],
    "packed_bytes_ratio": as_packed["bytes"] / points["dense", "float32"]["bytes"],
    "onnx_time_ratio": ratio(exact(1), recorded_speedup(masked["one thread"])),
}
context = "ResNet-18, 95 % of the weights, ONNX Runtime, one thread"
claims.record("C14", measurements, context, source)

# %%
print("ONNX saves nothing:", measurements["onnx_bytes_ratio"] > 0.95)

# %% [markdown]
# C15: prune and quantize, 10 to 20 times smaller, 2 to 3 times faster. With channels by what you
# measured above (only the dense network's accuracy is the recorded one), with single weights by the
# recording:

# %% tags=["nbval-ignore-output"]
context = "ResNet-18, ONNX Runtime, one picture, one thread"
percent = points["dense", "float32"]["accuracy"], in_runtime["channels, int8"]
measurements = {
    "channels_int8_smaller": size["dense, float32"] / size["channels, int8"],
    "channels_int8_faster": times[1].speedup("channels, int8", over="dense, float32"),
    "channels_int8_lost": unpaired(*percent, n),
}
claims.record("C15", measurements, context)
from_recording = {
    "weights_int8_smaller": gains(zeros[1])[0],
    "weights_int8_faster": recorded_speedup(zeros[1]["one thread"]),
}
claims.record("C15", from_recording, context, source)

# %% tags=["stable"]
print("channels and int8 are ten times smaller:", measurements["channels_int8_smaller"] > 10)

# %% [markdown]
# With channels the gain is larger than claimed. With single weights, the runtime gains from int8
# alone.
#
# C21: prune first, then quantize; always combine. The order in int8 and the time of `narrower` are
# from the recording.

# %% tags=["nbval-ignore-output"]
context = "small_resnet and ResNet-18, ONNX Runtime, one thread"
measurements = {
    "order_15_values": gained,
    "combined_smaller": size["channels, float32"] / size["channels, int8"],
    "combined_faster": times[1].speedup("channels, int8", over="channels, float32"),
}
claims.record("C21", measurements, context)
narrow = [recorded_speedup(points["narrower", form]["one thread"]) for form in ("int8", "float32")]
from_recording = {"order_int8": by_order, "combined_faster_narrow": ratio(*narrow)}
claims.record("C21", from_recording, context, source)

# %% tags=["stable"]
print("combining makes the file smaller:", measurements["combined_smaller"] > 1.5)

# %% [markdown]
# ## Recap
#
# - A weight becomes a scale times a code: each bit halves the error. A scale per channel costs
#   almost nothing and helps.
# - Weights are known; the ranges of activations have to be calibrated on real pictures, and zero
#   needs an exact code.
# - Measure the deployed file in its runtime, and check which operators stayed in float32.
# - For bytes the factors nearly multiply. For time they do not, because overhead stays.
# - Zeros save bytes only in a format made for them. The entropy bound says how small it can get.
#
# ## Interview questions
#
# **1. You prune to 90 % zeros and export to ONNX. The file is as large and as slow as before.
# Why?**
#
# <details><summary>Answer</summary>
#
# ONNX stores dense tensors and ordinary runtimes multiply them densely. Zeros save bytes only in a
# sparse or entropy-coded file, which is unpacked before use, and time only with kernels that skip
# them. For a smaller and faster file remove channels, or use int8.
#
# </details>
#
# **2. Pruning makes a network 4 times faster, int8 3 times. Your manager writes "12 times" on a
# slide. What do you say?**
#
# <details><summary>Answer</summary>
#
# Both shorten the same arithmetic. What neither shortens (launching layers, moving maps, converting
# between int8 and float32, operators that fell back to float32) becomes most of the time. Measure
# the combination in the runtime of the target. For bytes the product is nearly right, as long as
# the format's own overhead is small.
#
# </details>
#
# **3. What is a zero point, and why must zero have an exact code?**
#
# <details><summary>Answer</summary>
#
# Affine codes map a range from low to high to 0 ... 255; the zero point is the code of the real
# number zero. Convolutions pad with zeros and ReLU produces many: if zero were rounded, each of
# them would add the same small error, and such errors accumulate.
#
# </details>
#
# **4. How small can a network with 95 % zeros and 16 values get?**
#
# <details><summary>Answer</summary>
#
# The mask needs $H(0.05) \approx 0.29$ bits per weight, and the values at most 4 bits per kept
# weight, which is $0.2$ bits per weight: about half a bit instead of 32, some 65 times smaller. An
# entropy coder gets within two percent of that; a bitmask needs 1.2 bits, indices of 8 bits 0.6.
#
# </details>
#
# **5. In which order do you prune, fine-tune, quantize?**
#
# <details><summary>Answer</summary>
#
# Prune, fine-tune, calibrate, quantize: the ranges are measured on the network that will be
# quantized. Scores then see exact weights, the codes serve weights that stay, and fine-tuning would
# move weights off their codes anyway. In ResNet-18 with int8 the order hardly changed the accuracy;
# with few bits it did, and then quantization-aware training comes last.
#
# </details>
#
# ## Where next
#
# Convolutions were easy to compress. **Lesson 08** prunes a transformer, where half of the weights
# are in a table whose rows are only looked up.
