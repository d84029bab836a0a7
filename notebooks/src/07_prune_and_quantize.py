# %% [markdown]
# # 07 Prune, quantize, pack
#
# *How small and how fast can a CNN get?*
#
# You will be able to
# - quantize weights and activations by hand, and say how large the error is,
# - calibrate a network, run it in int8 in ONNX Runtime, and see what stays in float32,
# - say what pruning, quantizing and packing give: each alone, all together, in which order,
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
from course_lib.measuring.timing import compare
from course_lib.networks import data, models
from course_lib.networks.training import accuracy
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
# Three quarters of the channels of ResNet-18 are gone, and what is left has eight bits a number
# instead of 32. The file is ONNX, the runtime ONNX Runtime, both before and after.

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
# *Quantize*: choose a step, the **scale**, and round every weight to the nearest multiple of it.
# The multiple, a small whole number, is the **code**. Four bits give the codes -7 to 7.

# %%
weight = resnet18.layer2[0].conv1.weight.detach()
codes = quant.symmetric(weight, bits=4)
figure, axes = plt.subplots()
axes.hist(weight.flatten().numpy(), bins=200, color=figures.COLOURS["dense"])
for code in range(-7, 8):
    axes.axvline(code * float(codes.scale), color=figures.COLOURS["quantized"], linewidth=1.5)
axes.set(
    xlabel="weight", ylabel="how many", yscale="log", title="All that 4 bits can say: 15 lines"
)
figures.show(figure, alt="Histogram of a layer's weights with the fifteen values of four bits.")

# %% [markdown]
# The few largest weights set the scale, and most weights lie within three lines of zero.
#
# **Exercise 07.1.** Return `values` after they were rounded to codes of so many `bits`: the numbers
# that the codes stand for. Positive and negative codes reach equally far.


# %%
def quantize(values, bits):
    """The nearest numbers that codes of so many bits can stand for."""
    return ...


check("07.1", quantize)

# %%
# hint("07.1")
# solution("07.1")

# %% [markdown]
# Channels differ in reach. With one scale for all, a channel of small weights gets few codes.
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
# Per tensor or per channel, how far off are the weights? And does torch's own quantization agree
# with what you wrote?

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
figures.show(axes.figure, alt="Error over bits, per tensor and per channel: halves with each bit.")

# %%
ours = quant.symmetric(weight, 8, axis=0)
zeros = torch.zeros(len(ours.scale), dtype=torch.int32)
theirs = torch.fake_quantize_per_channel_affine(weight, ours.scale, zeros, 0, -127, 127)
same = torch.isclose(ours.values, theirs, atol=1e-7).float().mean()
print("torch agrees on all but a thousandth, which lies between two codes:", bool(same > 0.999))
line = errors["a scale per channel"]
print(f"a bit less makes the error {np.mean(np.divide(line[1:-1], line[2:])):.1f} times larger")

# %% [markdown]
# A straight line on a logarithmic axis: each bit halves the error. What does the network make of
# it?

# %%
percent = [accuracy(steps.fake_quantized(small, bits), few) for bits in bar(BITS, "bits")]
axes = figures.lines(
    BITS,
    {"small_resnet": percent},
    xlabel="bits for a weight, a scale per channel",
    ylabel="validation accuracy (%)",
    colours={"small_resnet": figures.COLOURS["quantized"]},
)
axes.axhline(accuracy(small, few), color=figures.COLOURS["dense"], linestyle="--")
figures.show(axes.figure, alt="Accuracy over bits: flat down to four or five, then a cliff.")

# %%
print("8 bits cost less than a point:", percent[-1] > accuracy(small, few) - 1)
print("2 bits cost more than ten:", percent[0] < accuracy(small, few) - 10)

# %% [markdown]
# Again a plateau and a cliff, as with pruning: there is room for errors, up to a point.
#
# ## Activations: calibrate
#
# A product is quick only if *both* factors are int8, so what flows between the layers gets codes,
# too. After a ReLU it is never negative: codes from 0 to 255, **affine**, with a **zero point**,
# the code of zero.
#
# **Exercise 07.3.** Numbers from `low` to `high` were seen. Return the scale and the zero point of
# codes from 0 to `2 ** bits - 1`. Zero must be among what the codes stand for.


# %%
def affine_range(low, high, bits):
    """The scale, and the code of zero."""
    return ...


check("07.3", affine_range)

# %%
# hint("07.3")
# solution("07.3")

# %% [markdown]
# Weights are known, activations are not: one has to look at some. That is **calibration**. The same
# network is quantized after a look at noise, at a single picture, and at 500 validation pictures.
# `export` writes ONNX, `int8` lets ONNX Runtime quantize it, and the accuracy is that of the
# *file*, in the runtime.

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
# Whatever lies outside the range that was seen is cut off. Hence real pictures, some hundreds of
# them, and none of the test set.
#
# ## A whole network, in the runtime
#
# `channels` is ResNet-18 without three quarters of its channels, trained again with the dense
# network as its teacher, by `python -m course_lib record compression --model resnet18`.

# %%
networks = {"dense": resnet18, "channels": pruned_file.load(recorded_file("channels"))[0]}
files = {}
for name, network in bar(networks.items(), "networks"):
    files |= forms.deployed(network, name, pictures, folder)
for name, file in files.items():
    fewer = files["dense, float32"].stat().st_size / file.stat().st_size
    print(f"{name:17s} {file.stat().st_size / 1e6:5.1f} MB, {fewer:2.0f} times smaller")

# %% [markdown]
# Does all of it run in int8? The runtime says which operators it chose, after its optimizations.

# %% tags=["nbval-ignore-output"]
for kind, operators in runtime.operators(files["channels, int8"]).items():
    print(f"{kind:8s}", ", ".join(f"{count} {name}" for name, count in sorted(operators.items())))

# %% [markdown]
# What falls back to float32 is on the second line; between the two worlds numbers are converted,
# which takes time. Check this list before you believe in "int8".

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
    "On two threads it gains less: a second thread helps the dense network and hardly the small "
    "one, whose layers are over before the work is shared out.",
    "On two threads it gains as much here.",
)

# %% [markdown]
# Compare each at its own best, if that is how you deploy.
#
# ## Which layer minds?
#
# Round one layer at a time, here to 2 bits so that something is to be seen, and look at the
# accuracy on validation pictures.


# %%
def alone(name, bits=2):
    """Accuracy with this one weight rounded, a scale per channel."""
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
figures.show(axes.figure, alt="Points lost by each layer alone at two bits.")

# %% [markdown]
# The first layers and the last one stand out, and they hold few of the weights. So one may leave
# the worst in float32, **if that pays**. With 8 bits, in the runtime, each layer alone, and then
# the three worst left as they are:

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
    "Leaving three in float32 regains something here. Does it pay for what the way out of int8 and "
    "back takes?",
    "Here it does not pay: nothing is to be regained, and every way out of int8 and back takes "
    "time.",
)

# %% [markdown]
# It may pay in a network with a few layers of wild activations; the three lines above tell you.
#
# ## Which first?
#
# "Prune first, then quantize." Try both, without any training: 80 % of the single weights go, and
# the others of a layer share 15 values (k-means, as in Deep Compression: Han, Mao and Dally, 2016).


# %%
def shared_values(network):
    """A copy whose layers have 15 different values beside zero."""
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
    order[name] = accuracy(network, pictures.test)
    print(f"{name}: {order[name]:.1f} % of the test pictures, {file.stat().st_size / 1000:.0f} kB")

# %%
gained = order["prune, then quantize"] - order["quantize, then prune"]
print("pruning first is at least as good:", gained > 0)

# %% [markdown]
# Pruning first, all 15 values are spent on weights that stay. Quantizing first, most of them end
# near zero, on weights that go, and weights that share a value are kept or removed in the order in
# which they lie. Files are smaller then, as fewer values are left.
#
# With a fine-tune and int8 the order was recorded, too, in ResNet-18 without three quarters of its
# channels, a fifth of the epochs for either.

# %%
recorded = recordings.load("compression", "resnet18")[recordings.COURSE]
points = {(point["network"], point["form"]): point for point in recorded["points"]}
for name in ("pruned first", "quantized first"):
    point = points[name, "int8"]
    low, high = point["interval"]
    print(f"{name}, int8 in the end: {point['accuracy']:.2f} % ({low:.1f} to {high:.1f})")

# %% [markdown]
# The intervals overlap: eight bits are so fine that pruning hardly notices. But the fine-tune
# leaves the steps of the codes, so who quantizes first has to do it *again*. That is reason enough.
#
# ## Factors
#
# Channels make it so many times smaller, int8 so many times. Both together: the product?


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
        range(4), ["channels", "int8", "product\n(promised)", "both\n(measured)"], fontsize=11
    )
    axes.set(title=title)
    axes.grid(visible=False, axis="x")
figures.show(figure, alt="Bars: each factor, their product, and what both together really give.")

# %% [markdown]
# For bytes factors nearly multiply: what is left has a quarter of its bits. For time they do not.
# Each factor shortens the arithmetic, and what is *not* arithmetic, a fixed time for every layer,
# is paid once and is a larger share of the rest. Amdahl's law again (lesson 06).
#
# And what do *zeros* bring? 95 % of the weights gone, one by one, in the same runtime:

# %%
zeros = points["weights", "float32"], points["weights", "int8"], points["weights", "packed"]
for point in zeros:
    smaller, faster = gains(point)
    print(f"{point['form']:8s} {smaller:5.1f} times smaller, {faster:4.1f} times faster")

# %% [markdown]
# In ONNX nothing: zeros are stored and multiplied as any number. Packed, a lot of bytes, and the
# time after unpacking is that of the dense network.
#
# ## How many bytes?
#
# A pruned weight needs two things: *where* the weights are, and *what* they are.
#
# **Exercise 07.4.** A layer has `count` weights, `kept` of them are not zero, a value takes `bits`
# bits. How many bytes do three formats need? Dense; a bitmask (a bit for each weight, then the
# values); indices (one of `index` bits beside each value).


# %%
def bytes_needed(count, kept, bits, index):
    """Bytes of "dense", "bitmask" and "indices", in a dictionary."""
    return ...


check("07.4", bytes_needed)

# %%
# hint("07.4")
# solution("07.4")

# %% [markdown]
# How few can it be? A symbol that makes up a share $p$ of all needs at least $\log_2(1/p)$ bits
# (Shannon, 1948). That is the **entropy bound**, for any coder that looks at one symbol at a time.
#
# **Exercise 07.5.** `counts` says how often each symbol occurs. Return the bound of all, in bytes.


# %%
def entropy_bytes(counts):
    """The fewest bytes for symbols that occur so often."""
    return ...


check("07.5", entropy_bytes)

# %%
# hint("07.5")
# solution("07.5")

# %% [markdown]
# Now a real layer, at more and more zeros. Its other weights share 15 values, 4 bits each.


# %%
def layer_of(sparsity):
    """The layer as a matrix, with its smallest weights gone and 15 values for the others."""
    matrix = weight.flatten(1)
    left = masks.lowest_overall({"": matrix}, masks.magnitude, sparsity)[""]
    return storage.share_weights(matrix * left, 15)


def bits_a_weight(matrix):
    """Bits for each weight, zeros included, by format; the entropy bound is the last."""
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
axes.set(xlabel="sparsity (%)", ylabel="bits a weight", ylim=(0, 13), title="A layer, 15 values")
axes.legend(fontsize=11)
figures.show(figure, alt="Bits a weight over sparsity for five formats, and the bound below them.")

# %%
at = by_sparsity
print("at 50 %, CSR is larger than dense:", at[0.5]["CSR"] > at[0.5]["dense"])
print("at 90 %, a bitmask is smaller than CSR:", at[0.9]["bitmask"] < at[0.9]["CSR"])
print("at 98 % it is larger:", at[0.98]["bitmask"] > at[0.98]["CSR"])
print(
    "the coder is within 5 % of the bound at 90 %:",
    at[0.9]["entropy coder"] < 1.05 * at[0.9]["bound"],
)

# %% [markdown]
# A bitmask pays for every weight, an index for every weight that is kept: they cross. The coder is
# near the bound everywhere, because it spends few bits on what is frequent. 2:4 is only for half of
# the weights: two of four, and two bits for the place of each.
#
# ## Pack it
#
# A `.pruned` file holds a network, each tensor in the way that takes the fewest bytes. It begins
# with 64 bytes at fixed places (`course_lib/deployment/pruned_file.py` has the table). Here is
# yours, pruned and then quantized above:

# %% tags=["nbval-ignore-output"]
mine = folder / "prune, then quantize.pruned"
raw = mine.read_bytes()
for first, last, what in (
    (0, 8, "signature"),
    (8, 12, "version"),
    (12, 16, "bytes of the header"),
    (16, 20, "bytes of the header, inflated"),
    (20, 28, "bytes of the parts"),
    (28, 32, "zero"),
    (32, 64, "SHA-256 of all the rest"),
):
    field = raw[first:last]
    number = int.from_bytes(field, "little") if 8 <= first < 32 else ""
    print(f"{first:2d}  {field[:8].hex(' '):23s} {what:30s} {number}")

# %%
header, _, parts, _ = pruned_file.START.unpack_from(raw)[2:]
print("the start, the header and the parts are the whole file:", 64 + header + parts == len(raw))

# %% [markdown]
# **Exercise 07.6.** Read it yourself: return version, bytes of the header and bytes of the parts.
# A file comes from anywhere: return None if it is shorter than 64 bytes, begins differently, or is
# not exactly as long as it says: 64 bytes, the header, the parts.


# %%
def read_start(data):
    """(version, bytes of the header, bytes of the parts), or None."""
    return ...


check("07.6", read_start)

# %%
# hint("07.6")
# solution("07.6")

# %% [markdown]
# After the 64 bytes comes the header, deflated JSON: which tensors, how each is stored, how long
# each part is. What happens to a file in which a single bit is different?

# %%
damaged = bytearray(raw)
damaged[1000] ^= 1
(folder / "damaged.pruned").write_bytes(damaged)
try:
    pruned_file.read(folder / "damaged.pruned")
except pruned_file.FileError as error:
    print(str(error).replace(str(folder), "..."))

# %% [markdown]
# Refused, before anything is decoded. No code is inside, as there is in a pickle, and sizes are
# compared with the file before memory is reserved for them.
#
# What do the bytes of ResNet-18's smallest file say?

# %%
packed = recorded_file("few values")
tensors, about = pruned_file.unpack(packed)
bounds = {name: storage.bound(tensor) for name, tensor in tensors.items()}
weights = [bound for name, bound in bounds.items() if tensors[name].dim() > 1]
shares = {
    "which weights are there": sum(bound.places for bound in weights),
    "what they are": sum(bound.values for bound in weights),
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
# *Which* weights takes nearly as much as *what* they are, and no codebook makes that smaller. And
# the numbers that nobody prunes, biases and normalisation, begin to count.
#
# ## All four axes
#
# Every network of the recording, in every form: accuracy over bytes and over milliseconds, the area
# of a dot its MACs. Dashed: one point below the dense network.

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
    """Accuracy over bytes and over time; a marker for each form."""
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
    """One network in one form, in both pictures."""
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
    alt="Accuracy over bytes and over milliseconds of the recorded networks in three forms.",
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
# What stops it from going further? Look at `narrower`, with an eighth of the channels: it is much
# smaller again, and loses more than it gains in time.

# %%
for name, form in (("channels", "int8"), ("narrower", "float32"), ("narrower", "int8")):
    point = points[name, form]
    ms, right = point["one thread"]["median"], point["accuracy"]
    print(f"{name:9s} {form:8s} {point['macs'] / 1e6:4.1f} MMACs, {ms:.3f} ms, {right:.1f} %")

# %% [markdown]
# Some twenty layers, one after the other, each called, each reading and writing its maps: that time
# stays, and int8 does not shorten it. To go faster, remove *layers*, or hand in more pictures at
# once.
#
# Is the recording true? This lesson measured the same two files:

# %% tags=["nbval-ignore-output"]
away, ratio = in_runtime["channels, int8"] - best["accuracy"], faster / gains(best)[1]
print(f"accuracy: {away:+.2f} points from the recorded one; speed-up: {ratio:.2f} of it")
read(
    abs(away) < 0.3 and 1 / 1.7 < ratio < 1.7,
    "Your machine agrees with the recorded one.",
    "Your processor is another: what int8 gains, and costs, depends on its instructions.",
)

# %% [markdown]
# ## A challenge
#
# **Under 200 kB, at least 91 % of the test pictures, as fast as you can.** `score` unpacks a file,
# runs it in float32 and in int8 on one thread, and keeps the faster one that is accurate enough.

# %% tags=["nbval-ignore-output"]
entry = compression.score(packed, pictures)
print(entry)
print(
    f"{times[1].timings['dense, float32'].median / entry.milliseconds:.1f} times faster than dense"
)

# %% [markdown]
# Beat it. Start from any recorded network, or from `resnet18` itself (minutes, then). Compare your
# tries on the validation pictures and hand in one: `score` reads the test pictures. For example:

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
# C14: without sparse hardware, sparsity saves memory only. In the runtime, 95 % of the weights
# gone:

# %% tags=["nbval-ignore-output"]
exact, _, as_packed = zeros
measurements = {
    "onnx_bytes_ratio": exact["bytes"] / points["dense", "float32"]["bytes"],
    "packed_bytes_ratio": as_packed["bytes"] / points["dense", "float32"]["bytes"],
    "onnx_time_ratio": 1 / exact["one thread"]["speedup"],
}
claims.record("C14", measurements, "ResNet-18, 95 % of the weights, ONNX Runtime, one thread")

# %%
print("ONNX saves nothing:", measurements["onnx_bytes_ratio"] > 0.95)

# %% [markdown]
# C15: prune and quantize, 10 to 20 times smaller, 2 to 3 times faster.

# %% tags=["nbval-ignore-output"]
measurements = {
    "channels_int8_smaller": size["dense, float32"] / size["channels, int8"],
    "channels_int8_faster": times[1].speedup("channels, int8", over="dense, float32").value,
    "channels_int8_lost": points["dense", "float32"]["accuracy"] - in_runtime["channels, int8"],
    "weights_int8_smaller": gains(zeros[1])[0],
    "weights_int8_faster": gains(zeros[1])[1],
}
claims.record("C15", measurements, "ResNet-18, ONNX Runtime, one picture, one thread")

# %% tags=["stable"]
print("channels and int8 are ten times smaller:", measurements["channels_int8_smaller"] > 10)

# %% [markdown]
# More than promised with channels. With single weights all that the runtime sees is int8.
#
# C21: prune first, then quantize; always combine.

# %% tags=["nbval-ignore-output"]
ms = {form: points["narrower", form]["one thread"]["median"] for form in ("float32", "int8")}
orders = [points[f"{name} first", "int8"]["accuracy"] for name in ("pruned", "quantized")]
combined = times[1].speedup("channels, int8", over="channels, float32")
measurements = {
    "order_15_values": gained,
    "order_int8": orders[0] - orders[1],
    "combined_smaller": size["channels, float32"] / size["channels, int8"],
    "combined_faster": combined.value,
    "combined_faster_narrow": ms["float32"] / ms["int8"],
}
claims.record("C21", measurements, "small_resnet and ResNet-18, ONNX Runtime, one thread")

# %% tags=["stable"]
print("combining makes the file smaller:", measurements["combined_smaller"] > 1.5)

# %% [markdown]
# ## Recap
#
# - A scale and a code: each bit halves the error. A scale per channel costs nothing and helps.
# - Weights are known; activations need a look at real pictures, and zero needs a code of its own.
# - Measure the file that is deployed, in its runtime, and read which operators stayed in float32.
# - For bytes factors nearly multiply. For time they do not: what is not arithmetic stays.
# - Zeros cost nothing only in a format that was made for them. The bound says how far it can go.
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
# **2. Pruning makes it 4 times faster, int8 3 times. Your manager writes "12 times" on a slide.**
#
# <details><summary>Answer</summary>
#
# Both shorten the same arithmetic. What neither shortens (launching layers, moving maps, converting
# between int8 and float32, what fell back to float32) becomes most of the time. Measure the
# combination in the target's runtime. For bytes the product is nearly right, as long as the
# format's own overhead is small.
#
# </details>
#
# **3. What is a zero point, and why must zero have an exact code?**
#
# <details><summary>Answer</summary>
#
# Affine codes map a range from low to high to 0 ... 255; the zero point is the code of the real
# number zero. Convolutions pad with zeros and ReLU makes many: were zero rounded, each of them
# would add the same small error, and such errors add up.
#
# </details>
#
# **4. How small can a network with 95 % zeros and 16 values get?**
#
# <details><summary>Answer</summary>
#
# The mask needs $H(0.05) \approx 0.29$ bits for every weight, the values at most 4 bits for every
# kept one, $0.2$ bits a weight: about half a bit instead of 32, some 65 times smaller. An entropy
# coder gets within two percent; a bitmask needs 1.2 bits, indices of 8 bits 0.6.
#
# </details>
#
# **5. In which order do you prune, fine-tune, quantize?**
#
# <details><summary>Answer</summary>
#
# Prune, fine-tune, then quantize and calibrate. Scores see exact weights, codes are spent on
# weights that stay, and a fine-tune would leave the codes anyway. With int8 the order hardly moves
# the accuracy; with few bits it does, and then quantization-aware training belongs to the end.
#
# </details>
#
# ## Where next
#
# Convolutions were easy prey. **Lesson 08** takes on a transformer, where half of the weights are a
# table that is only looked up.
