# %% [markdown]
# # 05 Sparse against dense
#
# *Why is 90 % sparse not 10x faster?*
#
# You will be able to
# - time two programs so that you can trust their ratio,
# - say what CSR, COO, blocks and 2:4 store, and how many bytes that takes,
# - find the break-even sparsity of a machine, for a vector and for a batch,
# - explain it with two ceilings, memory and arithmetic, and with what a GPU moves,
# - predict the break-even of a GPU that you do not have, and check it against published times.
#
# **Time**: 110 minutes of reading and exercises, under 90 s of compute. Take a break before *Inside
# a GPU*; the section *Write the product* is optional.
#
# **Claims** under test: C06, C07, C08, C14
#
# **Needs**: lesson 01. No network; a GPU is used where there is one.

# %%
import inspect
import os
import subprocess
import sys
import textwrap
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.ticker import LogLocator

# %%
from course_lib.bars import bar
from course_lib.deployment import sparse, triton_csr
from course_lib.deployment import two_four as packing
from course_lib.experiments import counters, published, recordings
from course_lib.experiments import sparse_vs_dense as sweep
from course_lib.measuring import break_even, cost, timing, traffic
from course_lib.measuring.estimates import exact, ratio
from course_lib.measuring.timing import Speedup
from course_lib.networks import data, models, training
from course_lib.pruning import masks

# %%
from course_lib.teaching import claims, figures, traffic_figures
from course_lib.teaching.exercises import check, hint, solution
from course_lib.teaching.reading import read
from course_lib.teaching.widgets import choose, predict, reveal

plt.style.use(figures.STYLE)

# %%
SIZE, COLUMNS = 2048, 64
generator = torch.Generator().manual_seed(0)
weight = torch.randn(SIZE, SIZE, generator=generator)
vector = torch.randn(SIZE, 1, generator=generator)
batch = torch.randn(SIZE, COLUMNS, generator=generator)
INPUTS = {"one vector": vector, f"a batch of {COLUMNS}": batch}

# %% [markdown]
# ## Predict
#
# A layer is a matrix that multiplies vectors. In this one 90 % of the weights are zero, and it is
# stored without its zeros. "A tenth of the work" would be ten times faster.

# %%
predict(
    "05.csr",
    "90 % sparse, stored without the zeros, one vector: how many times faster than dense?",
    low=0,
    high=10,
    unit="x",
    step=0.1,
)

# %%
predict(
    "05.even",
    "From which sparsity on is it faster at all, for a batch of 64 vectors?",
    low=0,
    high=100,
    unit="%",
)

# %%
predict(
    "05.gpu",
    "On a GPU (RTX 3090), 16-bit numbers, thousands of vectors: 90 % sparse over dense?",
    low=0,
    high=10,
    unit="x",
    step=0.1,
)

# %% [markdown]
# ## An honest timer
#
# Close other programs that keep this machine busy: a process on another core does not slow down all
# products equally. Then time the same product two hundred times in a row:

# %% tags=["nbval-ignore-output"]
product = partial(torch.matmul, weight)
trace = timing.compare({"dense": product}, vector, rounds=200).timings["dense"]
low, high = trace.quartiles
print(f"median {trace.median:.3f} ms, half of them from {low:.3f} to {high:.3f} ms")
print(f"fastest {min(trace.milliseconds):.3f} ms, slowest {max(trace.milliseconds):.3f} ms")

# %%
figure, axes = plt.subplots()
axes.plot(trace.milliseconds, ".", color=figures.COLOURS["dense"])
axes.axhline(trace.median, color="black", linewidth=1.5)
axes.set(xlabel="round", ylabel="milliseconds", ylim=(0, None), title="One product, 200 times")
figures.show(figure, alt="Times of 200 runs: most are close to the median, some far above it.")

# %% [markdown]
# Nothing changed between the runs, yet their times differ. If one candidate is timed while the
# machine is idle and the other while it is busy, their ratio is meaningless. So time them **in
# turns**: A B A B. To summarize each, take the **median**, which a few slow rounds do not move.
#
# **Exercise 05.1.** `candidates` maps names to functions, `clock()` gives seconds. Run each
# candidate once without counting, then in `rounds` rounds, in turns. Return the median
# milliseconds of each.


# %%
def median_times(candidates, rounds, clock):
    """Median milliseconds of each candidate, by name."""
    return ...


check("05.1", median_times)

# %%
# hint("05.1")
# solution("05.1")

# %% [markdown]
# `timing.compare` does this, and more: it repeats calls that are too short for the clock, shuffles
# the order in every round (the second candidate finds the cache warm), refuses to time inputs of
# zeros, and gives an interval for the ratio. On a GPU it waits until the work has finished. A call
# that would take minutes is run only once, and the result says so. Can you trust it? Time a product
# against itself, and against doing it twice.

# %% tags=["nbval-ignore-output"]
test = timing.self_test()
print(f"against itself:      {test.same}")
print(f"against doing twice: {test.twice}")

# %% tags=["nbval-ignore-output"]
read(
    abs(test.same.value - 1) < 0.15 and abs(test.twice.value - 2) < 0.4,
    "About one, and about two: the ratios are right.",
    "**These should be 1 and 2.** Other programs keep this machine busy: close them and run the "
    "lesson again, or do not trust the times that follow.",
)

# %% [markdown]
# You need not repeat this test before every measurement. `timing.compare` runs its quickest
# candidate a second time in each round, and reads from the operating system how long its threads
# were ready but had no processor. If the two runs disagree, or if threads had to wait, the machine
# is **disturbed**: whenever that happens in a lesson, a printed line says so, and you should not
# trust those times.

# %% tags=["nbval-ignore-output"]
quick = timing.compare({"dense": product}, vector, rounds=60)
print("disturbed:", quick.disturbance is not None)
print(f"seconds per second spent waiting for a processor: {quick.waited:.2f}")

# %% [markdown]
# ## A mask gives nothing
#
# Set 90 % of the weights to zero and store the matrix as before.

# %% tags=["nbval-ignore-output"]
held = sparse.to_formats(weight, 0.9, ["masked", "CSR", "COO"])
rows = {name: sparse.measure(held, inputs, seconds=1) for name, inputs in INPUTS.items()}
for name, found in rows.items():
    print(f"{name:14s} masked over dense: {found['masked'].speedup}")

# %% tags=["nbval-ignore-output"]
read(
    all(abs(found["masked"].ratio - 1) < 0.3 for found in rows.values()),
    "A mask gives no speed-up: the processor multiplies zeros like any other numbers.",
    "A mask changed the time here by more than 30 %, which zeros alone do not explain: the "
    "arithmetic is the same. Was the machine disturbed?",
)

# %% [markdown]
# To skip zeros, the matrix has to be stored without them.
#
# ## Stored without zeros
#
# **CSR**, compressed sparse row, stores three lists, row by row: the nonzero *values*, the *column*
# of each, and the index at which each row *starts* in these two lists (with a final entry for the
# end of the last row).
#
# **Exercise 05.2.** Build the three lists from a matrix given as a list of rows.


# %%
def to_csr(matrix):
    """Values, columns and starts."""
    return ...


check("05.2", to_csr)

# %%
# hint("05.2")
# solution("05.2")

# %%
little = torch.tensor([[5.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 2.0]])
print(sparse.csr(little).values(), sparse.csr(little).col_indices())
print(sparse.csr(little).crow_indices())

# %% [markdown]
# **COO** stores a row index and a column index for each value.
#
# **Exercise 05.3.** How many bytes does CSR take?


# %%
def csr_bytes(rows, columns, nonzeros, value_bytes, index_bytes):
    """Bytes of the three lists."""
    return ...


check("05.3", csr_bytes)

# %%
# hint("05.3")
# solution("05.3")

# %%
for name in ("dense", "masked", "CSR", "COO"):
    print(f"{name:7s} {held[name].bytes / 2**20:5.1f} MiB at {held[name].sparsity:.0%} sparsity")

# %% [markdown]
# A 32-bit value with a 32-bit column index takes twice the space of the value alone, so CSR saves
# memory only above 50 % sparsity. (Torch's COO has two 64-bit indices for each value.) The formats
# of lesson 07 are far smaller, but these can be *multiplied* as they are.
#
# Now the time.

# %% tags=["nbval-ignore-output"]
for name, found in rows.items():
    for kind in ("CSR", "COO"):
        print(f"{name:14s} {kind} over dense: {found[kind].speedup}")
csr_vector = rows["one vector"]["CSR"].ratio
reveal("05.csr", csr_vector, low=0, high=10, unit="x")

# %% tags=["nbval-ignore-output"]
read(
    csr_vector > 9,
    "A tenth of the weights takes about a tenth of the time: the naive estimate is right here.",
    f"A tenth of the weights takes {1 / csr_vector:.0%} of the time, not a tenth of it.",
)
read(
    rows["one vector"]["COO"].ratio < csr_vector,
    "COO is slower than CSR: torch stores two indices of 64 bits for each value.",
    "COO is no slower than CSR here.",
)

# %% [markdown]
# ## Find the break-even
#
# How sparse must the matrix be? Repeat the measurement at more sparsities.

# %%
speedups = {(name, kind): [] for name in INPUTS for kind in ("CSR", "COO")}
measured_at = {}
for sparsity in bar(sweep.SPARSITIES, "sparsities"):
    held_now = sparse.to_formats(weight, sparsity, ["CSR", "COO"])
    for name, inputs in INPUTS.items():
        found = sparse.measure(held_now, inputs, rounds=15, seconds=0.4)
        for kind in ("CSR", "COO"):
            speedups[name, kind].append(found[kind].ratio)
            measured_at[name, kind, sparsity] = found[kind].speedup


# %%
def sparsity_axis(axes):
    """Density on a logarithmic scale, labelled with the sparsity."""
    axes.set(xscale="log", yscale="log", xlabel="sparsity (%)", xlim=(0.6, 0.004))
    ticks = [50, 80, 90, 95, 98, 99, 99.5]
    axes.set_xticks([1 - percent / 100 for percent in ticks], [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.axhline(1, color=figures.COLOURS["dense"])


# %%
figure, pair = plt.subplots(1, 2, figsize=(9.6, 4.2), sharey=True)
DENSITIES = [1 - sparsity for sparsity in sweep.SPARSITIES]
for axes, name in zip(pair, INPUTS, strict=True):
    for kind, line in (("CSR", "o-"), ("COO", "s--")):
        axes.plot(DENSITIES, speedups[name, kind], line, color="#0072B2", label=kind)
    axes.plot(DENSITIES, [1 / density for density in DENSITIES], ":", color="black")
    sparsity_axis(axes)
    axes.set_title(name)
pair[0].set_ylabel("times faster than dense")
pair[0].legend(loc="lower right")
figures.show(figure, alt="Speed-up of CSR and COO against sparsity, with dense and the ideal.")

# %% [markdown]
# The grey line is the dense product, the dotted one the naive estimate: a tenth of the weights, ten
# times faster. The distance of a measured line below the dotted one shows how many times more a
# remaining weight costs than a weight of the dense product. The point where a line crosses the grey
# one is its **break-even**.

# %% tags=["nbval-ignore-output"]
even = {key: sparse.break_even(sweep.SPARSITIES, values) for key, values in speedups.items()}
for (name, kind), at in even.items():
    print(f"{kind}, {name:14s} " + ("never faster" if at is None else f"faster above {at:.1%}"))
at = even[f"a batch of {COLUMNS}", "CSR"]
reveal("05.even", 100 * (1 if at is None else at), low=0, high=100, unit="%")

# %% tags=["nbval-ignore-output"]
crossings = [even[name, "CSR"] or 1 for name in INPUTS]
read(
    abs(crossings[0] - crossings[1]) > 0.05,
    "The break-even of CSR is not the same for the vector and for the batch.",
    "CSR breaks even at nearly the same sparsity for the vector and for the batch here. The "
    "recorded shapes further down agree less well.",
)

# %% [markdown]
# A "break-even sparsity" belongs to a machine, a format and a shape.
#
# ## Two ceilings
#
# Why is a tenth of the weights not a tenth of the time? A product has to *move* the weights from
# memory and to *multiply* them. A machine has a ceiling for each (the roofline of Williams,
# Waterman and Patterson, 2009). Measure both: by copying a large array, and by multiplying large
# dense matrices.

# %% tags=["nbval-ignore-output"]
roof = cost.roofline()
print(f"memory     {roof.bandwidth / 1e9:6.1f} GB/s")
print(f"arithmetic {roof.rate / 1e9:6.1f} GMAC/s (matrices of {roof.size} x {roof.size})")
print(f"in the time it takes to move one byte, it could do {roof.ridge:.1f} MACs")

# %% [markdown]
# **Exercise 05.4.** Given these ceilings, what is the least time that a product can take? Moving
# and multiplying happen at the same time. Return the seconds, and which of the two is the limit:
# "memory" or "arithmetic".


# %%
def least_time(macs, moved, rate, bandwidth):
    """Seconds, and the name of the limit."""
    return ...


check("05.4", least_time)

# %%
# hint("05.4")
# solution("05.4")

# %% [markdown]
# The number of MACs per byte is the **arithmetic intensity**. A vector uses every weight once: a
# fraction of a MAC per byte. A batch of 64 uses every weight 64 times. Only MACs with nonzero
# weights count as useful here.


# %%
def on_the_roofline(held, row, inputs):
    """Useful MACs per byte, and per second, of one measured product."""
    columns = inputs.shape[1]
    macs = int(held.dense.count_nonzero()) * columns
    moved = held.bytes + 4 * (inputs.numel() + held.dense.shape[0] * columns)
    return macs / moved, macs / (row.timing.median / 1000)


# %% tags=["nbval-ignore-output"]
points = {
    (kind, name): on_the_roofline(held[kind], rows[name][kind], inputs)
    for kind in ("dense", "CSR")
    for name, inputs in INPUTS.items()
}
for (kind, name), (intensity, rate) in points.items():
    share = rate / roof.attainable(intensity)
    print(f"{kind:6s} {name:14s} {intensity:5.2f} MACs/byte, {rate / 1e9:5.1f} GMAC/s", end="")
    print(f", {share:.0%} of the roof")

# %%
figure, axes = plt.subplots()
x = np.geomspace(0.05, 100, 100)
axes.plot(x, [roof.attainable(value) / 1e9 for value in x], color="black", label="the roof")
for (kind, name), (intensity, rate) in points.items():
    colour = figures.COLOURS["dense" if kind == "dense" else "unstructured"]
    marker = "o" if name == "one vector" else "s"
    axes.plot(intensity, rate / 1e9, marker, color=colour, markersize=11, label=f"{kind}, {name}")
axes.set(xscale="log", yscale="log", xlabel="useful MACs per byte", ylabel="useful GMAC/s")
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=11)
figures.show(figure, alt="Roofline with the dense and CSR products, for a vector and a batch.")

# %% [markdown]
# Left of the bend, the *ridge*, a product is memory-bound, right of it compute-bound. (For a point
# *above* the slope the matrix was in a cache, which is faster than memory.) The batch is the
# clearer case:

# %% tags=["nbval-ignore-output"]
share = {key: rate / roof.attainable(intensity) for key, (intensity, rate) in points.items()}
by_batch = f"a batch of {COLUMNS}"
shares = f"{share['dense', by_batch]:.0%} of the roof dense, {share['CSR', by_batch]:.0%} in CSR."
read(
    share["dense", by_batch] > 1.5 * share["CSR", by_batch],
    f"{shares} The same processor does far fewer useful MACs per second in CSR. Why?",
    f"{shares} CSR makes nearly as good use of this processor as the dense product does. Where "
    "it does not, what could be the reason?",
)

# %% [markdown]
# ## Is it the gather?
#
# The textbook says: **gather and scatter**. A dense product reads its inputs one after another. CSR
# must look up the column of each weight and fetch the input at that index, which may be anywhere.
#
# That can be tested with two CSR matrices with the same number of weights in each row. In one they
# are anywhere, in the other side by side, so that every row reads consecutive inputs. Format, bytes
# and MACs are the same. If scattered *positions* are the reason, the second is much faster. The
# inputs grow from 16 kB, which every cache holds, to 128 MiB.

# %%
ROWS, KEPT = 256, 4096


def wide_csr(columns, together):
    """A CSR matrix whose rows keep as many weights, over `columns` inputs."""
    if together:
        first = torch.randint(columns - KEPT + 1, (ROWS, 1), generator=generator)
        places = first + torch.arange(KEPT)
    else:
        places = torch.randint(columns, (ROWS, KEPT), generator=generator).sort(1).values
    starts = torch.arange(0, ROWS * KEPT + 1, KEPT, dtype=torch.int32)
    values = torch.randn(ROWS * KEPT, generator=generator)
    return torch.sparse_csr_tensor(starts, places.flatten().int(), values, (ROWS, columns))


# %% tags=["nbval-ignore-output"]
by_size = {}
for columns in bar([2**exponent for exponent in (12, 16, 20, 22, 25)], "input sizes"):
    inputs = torch.randn(columns, 1, generator=generator)
    names = {"anywhere": False, "side by side": True}
    runs = {name: partial(torch.matmul, wide_csr(columns, way)) for name, way in names.items()}
    result = timing.compare(runs, inputs, rounds=15, seconds=0.7)
    by_size[columns * 4 / 2**20] = result.speedup("side by side", over="anywhere")

# %%
figure, axes = plt.subplots()
y = [speedup.value for speedup in by_size.values()]
ends = [[s.value - s.low for s in by_size.values()], [s.high - s.value for s in by_size.values()]]
axes.errorbar([*by_size], y, ends, fmt="o-", color=figures.COLOURS["unstructured"], capsize=4)
axes.axhline(1, color=figures.COLOURS["dense"], linestyle="--")
axes.set_xscale("log")
axes.set(xlabel="input (MiB)", ylabel="times faster", ylim=(0, None))
axes.set_title("Weights side by side over anywhere")
figures.show(figure, alt="Gain of weights side by side against the size of the input.")

# %% tags=["nbval-ignore-output"]
smallest, *_, largest = by_size.values()
print(f"16 kB: {smallest}; 128 MiB: {largest}")
read(
    largest.low > 1.5 > smallest.high,
    "In a cache the positions hardly matter. Beyond it they do: every weight waits for memory.",
    "Compare both ends: how much the positions matter depends on where the input lies.",
)

# %% [markdown]
# The other candidate is the *overhead* of each weight. Its column index must be loaded as well. For
# a vector its input is fetched individually, where a dense product loads many neighbours with one
# wide instruction. For a batch the wide instructions are busy, along the columns; what is lost
# there is *reuse*: a dense kernel keeps a tile of weights and inputs in registers and uses each
# number many times, while CSR loads its inputs again for every weight. So compute the cost of a
# weight:

# %% tags=["nbval-ignore-output"]
price = {}
for name in INPUTS:
    left = 1 - held["CSR"].sparsity
    price[name] = ratio(exact(1 / left), rows[name]["CSR"].speedup)
    print(f"{name:14s} a weight in CSR costs {price[name].value:.1f} times a dense one", end="")
    print(f"; break-even near {1 - 1 / price[name].value:.0%}")

# %% tags=["nbval-ignore-output"]
read(
    max(each.value for each in price.values()) > 2,
    "Bytes explain a factor of two: a value and its column. The rest is overhead.",
    "Bytes explain a factor of two: a value and its column. There is no further overhead here.",
)

# %% [markdown]
# The break-even follows from this cost: if a weight costs five times as much, four fifths have to
# go before anything is gained.
#
# ## Blocks
#
# If zeros come in whole blocks, one index serves many weights, and inside a block everything is
# dense again: **BSR**. Here are blocks of 4, 16 and 32, at the same 90 %.

# %% tags=["nbval-ignore-output"]
KINDS = ["CSR", "BSR 4", "BSR 16", "BSR 32"]
blocks = sparse.to_formats(weight, 0.9, KINDS)
by_kind = {
    name: sparse.measure(blocks, inputs, rounds=15, seconds=1) for name, inputs in INPUTS.items()
}
for kind in KINDS:
    told = ", ".join(f"{name}: {found[kind].speedup}" for name, found in by_kind.items())
    print(f"{kind:7s} {told}")

# %%
figure, axes = plt.subplots()
x = np.arange(len(KINDS))
for shift, (name, found) in zip((-0.2, 0.2), by_kind.items(), strict=True):
    heights = [found[kind].ratio for kind in KINDS]
    colour = figures.COLOURS["unstructured"] if name == "one vector" else "#66b3dc"
    axes.bar(x + shift, heights, 0.38, color=colour, label=name)
axes.axhline(1, color=figures.COLOURS["dense"])
axes.set_xticks(x, KINDS)
axes.set(ylabel="times faster than dense", title="90 % sparse")
axes.legend()
figures.show(figure, alt="Speed-up of CSR and blocks of 4, 16 and 32, for a vector and a batch.")

# %% tags=["nbval-ignore-output"]
read(
    by_kind[by_batch]["BSR 16"].ratio > by_kind[by_batch]["CSR"].ratio,
    "For the batch, blocks of 16 are faster than CSR.",
    "For the batch, blocks of 16 are no faster than CSR here.",
)
worst = min((found[kind].ratio, kind, name) for name, found in by_kind.items() for kind in KINDS)
read(
    worst[0] < 0.5,
    f"{worst[1]} for {worst[2]} takes {1 / worst[0]:.0f} times as long as dense: a good format "
    "with a slow kernel.",
    "No format is very slow here. On other machines blocks of 4 were, for a vector: a good format "
    "with a slow kernel.",
)

# %% [markdown]
# Which kernel the library has for your shape matters more than the theory. **Measure.**
#
# ## 2:4
#
# Some GPUs have hardware for one pattern: of every four consecutive weights in a row, two are zero
# (Mishra et al., 2021). The two others are stored as values, with two bits for the position of
# each.
#
# **Exercise 05.5.** Store a row: of every four values keep the two with the largest magnitudes (of
# equal ones the earlier), in their order. Positions run from 0 to 3 within each group of four.


# %%
def two_four(row):
    """The values that are kept, and their positions."""
    return ...


check("05.5", two_four)

# %%
# hint("05.5")
# solution("05.5")

# %% [markdown]
# `deployment.two_four` packs a whole matrix like this. (Torch stores the same values and the same
# bits, the latter in another order, which its hardware wants.)

# %%
halves = (weight * masks.nm_mask(weight.abs(), 2, 4)).half()
packed = packing.pack(halves)
print(f"2:4 in 16 bits: {packed.bytes / halves.nbytes:.1%} of the dense bytes")
print("unpacked again, it is the same:", torch.equal(packing.unpack(*packed), halves))

# %% tags=["nbval-ignore-output"]
two_four_held = sparse.to_formats(weight, 0.5, ["2:4"])["2:4"]
print("here:", two_four_held.why or f"{two_four_held.bytes:,} bytes")

# %% [markdown]
# ## What a pattern costs
#
# The more regular the zeros, the easier they are for the hardware, but the less freedom you have in
# choosing them. Remove half of the weights of `small_resnet`, in four patterns, without any
# retraining. Blocks are squares of the weights reshaped to a matrix (outputs, inputs x 9).

# %%
pictures = data.fashion_mnist()
net = models.load_trained("small_resnet")
some = data.Images(*(tensor[:2000] for tensor in pictures.validation))
print(f"{len(some.labels):,} validation pictures")


def block_masks(network, block):
    """Half of the blocks of every layer that can be cut into blocks."""
    found = masks.layer_masks(network, 0.0)
    for name, parameter in masks.prunable(network).items():
        matrix = parameter.detach().flatten(1)
        if all(size % block == 0 for size in matrix.shape):
            found[name] = sparse.pruned(matrix, 0.5, block).ne(0).view_as(parameter)
    return found


# %% tags=["nbval-ignore-output"]
PATTERNS = {
    "anywhere": masks.global_masks(net, 0.5),
    "each layer": masks.layer_masks(net, 0.5),
    "2:4": masks.nm_masks(net, 2, 4),
    "blocks of 4": block_masks(net, 4),
}
left = {
    name: training.accuracy(masks.pruned_copy(net, found), some) for name, found in PATTERNS.items()
}
print(", ".join(f"{name} {percent:.1f} %" for name, percent in left.items()))

# %%
axes = figures.bars(left, ylabel="accuracy (%)", title="Half of the weights gone, not retrained")
axes.set_xticks(range(len(left)), list(left), rotation=0)
figures.show(axes.figure, alt="Accuracy by pattern: anywhere highest, 2:4 lower, blocks lowest.")

# %%
falling = sorted(left.values(), reverse=True) == [*left.values()]
print("each pattern costs more than the one before:", falling)

# %% [markdown]
# Retraining repairs much of the damage (lesson 04); the differences between the bars are the cost
# of regularity.
#
# ## Inside a GPU
#
# A GPU runs threads in **warps** of 32, which execute every instruction together. In a load each
# thread asks for one address, and memory answers in **sectors** of 32 bytes. If the 32 addresses
# are neighbours, they lie in four or five sectors: the load is **coalesced**. If they are anywhere,
# they lie in up to 32 sectors, of which a few bytes are used and the rest is moved for nothing. So
# count sectors, not bytes.
#
# **Exercise 05.6.** A warp computes a row of CSR times a vector. Each load instruction reads the
# values of 32 nonzeros (or of what is left of the row), another one their columns, a third the
# inputs at these columns. The row has its nonzeros at `columns`; it begins at position `start` of
# the lists of values and of columns. The vector begins at byte 0, like both lists. How many sectors
# do the instructions touch in the values, the columns, and the vector?


# %%
def csr_sectors(columns, start, value_bytes, index_bytes):
    """Sectors of the values, of the columns, and of the vector."""
    return ...


check("05.6", csr_sectors)

# %%
# hint("05.6")
# solution("05.6")

# %% [markdown]
# `traffic` counts them for several kernels. A dense row and a vector of 4,096 numbers of 32 bits,
# beside the same row without 90 % of its weights:

# %%
left_90 = traffic.random_rows(64, 4096, 0.9)
KERNELS = {
    "dense": traffic.dense(64, 4096),
    "CSR, warp per row": traffic.csr_warp_per_row(left_90),
    "CSR, thread per row": traffic.csr_thread_per_row(left_90),
    "blocks of 8 x 8": traffic.blocks(traffic.random_rows(8, 512, 0.9), (8, 8)),
    "2:4 (half is left)": traffic.two_four(64, 4096, value_bytes=4),
}
print("sectors per row       values  indices  vector    all  per MAC")
for name, loads in KERNELS.items():
    values, indices, inputs = (
        loads.sectors().get(array, 0) / loads.rows for array in ("values", "indices", "vector")
    )
    print(f"{name:20s} {values:7.0f} {indices:8.0f} {inputs:7.0f} {loads.per_row:6.0f}", end="")
    print(f" {loads.per_mac:8.2f}")

# %%
dense_row, csr_row = KERNELS["dense"], KERNELS["CSR, warp per row"]
print(f"CSR: a MAC costs {csr_row.per_mac / dense_row.per_mac:.1f} times the sectors,")
print(f"so a tenth of the MACs needs {dense_row.per_row / csr_row.per_row:.1f} times fewer, not 10")

# %% [markdown]
# With a thread per row, 32 threads read 32 different rows: nothing is coalesced, and nothing
# gained. (The first kernels for CSR did that; Bell and Garland, 2009.) With a warp per row, values
# and columns are coalesced. What is left is the **gather** from the vector. In blocks, one index
# serves 64 weights, and their inputs are neighbours.
#
# Is the model right? A GPU has counters. An H200 ran three products with a matrix of 4,096 rows, 90
# % of it zero, while Nsight Compute counted (*recorded*): a CSR kernel with a warp per row, which
# you will read below, the CSR product of NVIDIA's library cuSPARSE, and the dense product.

# %%
print("H200, sectors per row  model  asked for  from L2  from memory   time")
for (dtype, kernel), seen in counters.sectors().items():
    width = 4 if dtype == "float32" else 2
    models = {
        "Triton": traffic.csr_warp_per_row(left_90, width),
        "dense": traffic.dense(64, 4096, width),
    }
    said = f"{models[kernel].per_row:6.0f}" if kernel in models else "     -"
    counts = (f"{each / counters.ROWS:10.0f}" for each in seen[:3])
    print(f"{dtype:8s} {kernel:12s}", said, *counts, f"{seen.nanoseconds / 1000:8.1f} us")

# %% [markdown]
# The model of CSR is right to two percent. The dense kernels ask for less than the model says: they
# keep inputs in registers, or copy with other instructions, which this counter misses. The caches
# do the rest: the vector has 16 kB and stays in the first one, so what CSR reads from *memory* are
# its values and columns, once. That is a fifth of the dense bytes in 32 bits, and three tenths in
# 16: a tenth of the weights, each with an index of four bytes.
#
# Which sectors light up? Press the buttons. A cell is a sector; it is dark where several
# instructions load it again.

# %% tags=["nbval-ignore-output"]
choose(
    traffic_figures.explore,
    traffic_figures.CHOICES,
    alt="Sectors of values, indices and vector that a kernel touches, as cells that light up.",
)

# %% [markdown]
# Sorted columns that lie close together share sectors; in random order each costs its own.
# **Scatter** is the same on the way out: to multiply with the *transposed* matrix (training needs
# that for the gradient), every nonzero adds to an output at a computed address, and since two
# threads may hit the same one, each update must be atomic.

# %%
print(
    f"gather:  {left_90.nonzeros / 64:.0f} reads per row, "
    f"{traffic.csr_warp_per_row(left_90).sectors()['vector'] / 64:.0f} sectors"
)
scattered = traffic.scatter(left_90)
print(f"scatter: {scattered.updates / 64:.0f} atomic updates per row")

# %% [markdown]
# For a batch, each weight is used for many columns. A dense kernel computes a tile of 128 x 128
# outputs at once: it loads a column of weights and a row of inputs into fast **shared memory**, and
# uses each of these numbers 128 times. In CSR each row has nonzeros at columns of its own, so a
# kernel loads the inputs again for every weight. (Caches, which are not counted here, serve a
# part.)

# %%
tile, csr_batch = traffic.dense_tile(4096), traffic.csr_tile(traffic.random_rows(128, 4096, 0.9))
print(f"dense: {tile.per_mac:.4f} sectors per MAC, CSR: {csr_batch.per_mac:.3f}")
print(f"CSR moves {csr_batch.per_mac / tile.per_mac:.0f} times as much per MAC")

# %% [markdown]
# ## Predict a GPU
#
# A datasheet is enough for a first estimate. The dense product of a batch runs on the **matrix
# units** (tensor cores) if its numbers have 16 bits, a CSR product on the ordinary cores (CUDA
# cores), and reaches a `share` of their rate: 27 % in the best published kernel (Sputnik, Gale et
# al., 2020; single precision, V100).
#
# **Exercise 05.7.** At which sparsity does CSR break even? For one vector, where both products move
# as many bytes: a dense weight moves `value_bytes`, one in CSR also `index_bytes`. For a batch,
# where both take as many seconds, by arithmetic alone. Return both sparsities, 0 if CSR is always
# faster.


# %%
def from_datasheet(value_bytes, index_bytes, dense_rate, cuda_rate, share):
    """The break-even sparsity for one vector, and for a batch."""
    return ...


check("05.7", from_datasheet)

# %%
# hint("05.7")
# solution("05.7")

# %% [markdown]
# `break_even` does the same, and adds the sectors of the gather for a vector, and the traffic that
# caches do not serve for a batch. Predict the break-even of every card whose datasheet the course
# has, in *computed* numbers:

# %%
sheets = [sheet for sheet in published.datasheets() if sheet.fp32_tflops and sheet.bandwidth_gb_s]
CARDS = [published.card(sheet) for sheet in sheets]
print("break-even sparsity (%), computed   one vector          a batch")
print("                             32 bit   16 bit   32 bit   16 bit")
for card in CARDS:
    cells = [
        100 * model(card, dtype)
        for model in (break_even.vector, break_even.batch)
        for dtype in (torch.float32, torch.float16)
    ]
    print(f"{card.name:26s}", *(f"{cell:8.0f}" for cell in cells))

# %% [markdown]
# For one vector only bytes count, so all cards give the same. For a batch in 16 bits the tensor
# cores are many times faster than the other cores, so nearly all weights must be zero before a CSR
# product wins. That is most of the story of "90 % sparse is slow on a GPU": the dense product has
# become so fast. (The Jetson Orin is missing: no source that was read states its bandwidth.)
#
# Were these predictions right? `data/published` holds break-even sparsities that other works
# measured. Predicted from left to right, *published* upwards:

# %%
BLUE = figures.COLOURS["unstructured"]
LOOKS = {
    "unstructured CSR, cuSPARSE": "o",
    "unstructured CSR, Sputnik": "s",
    "unstructured, MACKO": "D",
}
predictions = {row: published.prediction(row) for row in published.break_evens()}
predictions = {row: bounds for row, bounds in predictions.items() if bounds}


# %%
def draw(axes, row, bounds):
    """One card and kernel: bars from the ideal to the expected prediction, and over the shapes."""
    fill = BLUE if row.columns.least == 1 else "white"
    look = {"color": BLUE, "markerfacecolor": fill, "markersize": 10}
    x = 100 * np.mean(bounds)
    if row.median is None:  # never, up to the highest sparsity that was measured
        return axes.plot(x, 100 * row.highest_sparsity, "^", **look)
    across = 50 * np.ptp(bounds)
    up = 100 * np.abs(np.subtract([[row.lowest], [row.highest]], row.median))
    return axes.errorbar(x, 100 * row.median, up, across, LOOKS[row.kernel], **look)


# %%
def cautions(figure, rows):
    """Print below a figure what the readers of its published rows must know."""
    width = int(12.8 * figure.get_figwidth())
    lines = [textwrap.fill(each, width) for each in published.warnings_of(rows)]
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=9)


# %%
figure, axes = plt.subplots(figsize=(8.4, 5.4))
for row, bounds in predictions.items():
    draw(axes, row, bounds)
axes.plot([15, 100], [15, 100], "--", color=figures.COLOURS["dense"])
marks = LOOKS | {"never, up to here": "^"}
handles = [plt.Line2D([], [], marker=m, color=BLUE, linestyle="") for m in marks.values()]
axes.legend(handles, marks, loc="upper left", fontsize=11)
axes.set(xlabel="break-even predicted from the datasheet (%)", ylabel="published (%)")
axes.set_title("Filled: one vector. White: thousands of columns.")
cautions(figure, predictions)
figures.show(figure, alt="Published against predicted break-even sparsity, by kernel and card.")

# %%
for row, bounds in predictions.items():
    low, high = (100 * end for end in sorted(bounds))
    found = "never" if row.median is None else f"{100 * row.median:.0f} %"
    print(f"{row.gpu:15s} {row.dtype} {row.kernel.removeprefix('unstructured'):18s}", end="")
    print(f" {row.columns!s:22s} {low:3.0f} to {high:3.0f} %, published {found}", end="")
    off = "" if row.median is None else f", off by {100 * (bounds.expected - row.median):+.0f}"
    print(off)

# %%
errors = [100 * (each.expected - row.median) for row, each in predictions.items() if row.median]
near = sum(abs(error) < 10 for error in errors)
print(
    f"expected: {near} of {len(errors)} within ten points, {min(errors):+.0f} to {max(errors):+.0f}"
)
never = [(row, each) for row, each in predictions.items() if row.median is None]
wrong = sum(each.expected < row.highest_sparsity for row, each in never)
print(f"never in the measured range: {len(never)}, of which {wrong} contradict the prediction")

# %% [markdown]
# The estimate is rough. It ranks a vector before a batch and 32 bits before 16, but it cannot know
# how good a kernel is: for CSR it is too low nearly everywhere. For one vector it says the same for
# every card, and the same kernel differs by fifteen points between cards. MACKO stores a distance
# of four bits instead of an index, so it breaks even far earlier; it does better than expected,
# near the ideal in which caches serve the gather.
#
# ## What others measured
#
# The rows behind these break-evens, and more, with the speed-up over the dense product:


# %%
def setting_of(row):
    """GPU, number type and columns of a product: what must be equal in one figure."""
    return f"{row.gpu}, {row.dtype}, {row.columns}"


def kernel_of(row):
    """The kernel; those of V:N:M differ in M only."""
    return row.kernel.partition(":2:")[0]


# %%
settings = {}
for row in published.select(published.rows(), scope="product"):
    settings.setdefault(setting_of(row), []).append(row)
settings = {
    name: rows
    for name, rows in settings.items()
    if len({row.sparsity for row in rows}) >= 4  # enough for a line
}


# %%
def published_speedups(setting):
    """Median speed-ups over sparsity, a line for each kernel."""
    figure, axes = plt.subplots(figsize=(9.6, 4.8))
    kernels = dict.fromkeys(map(kernel_of, settings[setting]))
    for name, marker in zip(kernels, "os^DvP*X", strict=False):
        rows = [row for row in settings[setting] if kernel_of(row) == name]
        x, y = zip(*sorted((1 - row.sparsity, row.speedup) for row in rows), strict=True)
        kind = "unstructured" if name.startswith("unstructured") else "structured"
        axes.plot(x, y, f"{marker}-", color=figures.COLOURS[kind], label=name)
    sparsity_axis(axes)
    axes.set(xlim=(1.1, 0.015), ylabel="times faster than dense", title=setting)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=10)
    cautions(figure, settings[setting])
    return figure


# %% tags=["nbval-ignore-output"]
choose(
    published_speedups,
    {"GPU, numbers, columns": sorted(settings, key=lambda name: "3090, float16, 2" not in name)},
    alt="Published speed-up against sparsity, a line for each kernel; grey is dense.",
)

# %% [markdown]
# Read what is printed below a figure before you compare two of its lines: dense baselines differ,
# ways of timing differ, and most authors measured a kernel of their own. And here is the number
# that you predicted:


# %%
ampere = {"gpu": "RTX 3090", "dtype": "float16", "columns": 4096, "scope": "product"}
[anywhere_90] = published.select(published.rows(), **ampere, kind="unstructured", sparsity=0.9)
[pairs] = published.select(published.rows(), **ampere, kind="2:4", sparsity=0.5)
print(anywhere_90)
print(pairs)

# %% tags=["nbval-ignore-output"]
reveal("05.gpu", anywhere_90.speedup, low=0, high=10, unit="x", origin="published")

# %%
vector_even = {
    (row.gpu, row.kernel): row for row in published.break_evens() if row.columns.least == 1
}
for kernel in LOOKS:
    evens = [row.median for (_, name), row in vector_even.items() if name == kernel]
    print(f"one vector, {kernel}: even at {min(evens):.0%} to {max(evens):.0%}")
[blocks_of_8] = [row for row in published.break_evens() if "8x8" in row.kernel]
print(f"{blocks_of_8.gpu}, float16, blocks of 8: even at {blocks_of_8.median:.0%}")
for gpu in ("A100 PCIe", "RTX 3090", "RTX 4090"):
    found = [row for row in predictions if row.gpu.startswith(gpu) and row.dtype == "float32"]
    for row in found:
        print(f"{row.gpu}, float32, batch: " + (f"{row.median:.0%}" if row.median else "never"))

# %% [markdown]
# So "unstructured sparsity never pays on a GPU" is false for one vector at a time, which is how a
# language model writes, word by word: there even 30 % can be enough, with the right format. For a
# batch it is nearly true, and the reason is not the sparse kernel alone: in single precision the
# *same* kernel breaks even on an A100 and does not on a 3090 or 4090, whose ordinary cores are
# faster and whose memory is slower.
#
# And whole networks? There the product is only a part.

# %%
whole = published.select(published.rows(), scope="network")
kinds = {"2:4": "2:4", "blocks": "blocks", "V:N:M": "V:N:M", "unstructured": "unstructured"}
kinds = {name: [row for row in whole if row.kind == kind] for name, kind in kinds.items()}
figure, axes = plt.subplots(figsize=(8.4, 4.4))
for place, (name, found) in enumerate(kinds.items()):
    colour = figures.COLOURS["unstructured" if name == "unstructured" else "structured"]
    spread = np.linspace(-0.25, 0.25, len(found))
    axes.plot([row.speedup for row in found], place + spread, "o", color=colour, markersize=6)
axes.axvline(1, color=figures.COLOURS["dense"])
axes.set_yticks(range(len(kinds)), [f"{name} ({len(found)})" for name, found in kinds.items()])
axes.set(xlabel="times faster than dense, whole networks, published", xlim=(0.5, 3.5))
cautions(figure, [row for found in kinds.values() for row in found])
figures.show(figure, alt="Published speed-ups of whole networks by pattern of sparsity.")

# %%
two_four_whole = [row for row in kinds["2:4"] if "DLA" not in row.gpu]
slower = [row for row in two_four_whole if row.speedup < 1]
print(
    f"2:4 in whole networks on GPUs: {min(r.speedup for r in two_four_whole):.2f}x to "
    f"{max(r.speedup for r in two_four_whole):.2f}x, slower in {len(slower)} of "
    f"{len(two_four_whole)}"
)
print("sources:", *dict.fromkeys(str(row.source) for row in whole), sep="\n  ")

# %% [markdown]
# The largest gain in these sources is not sparsity. Segment Anything became three to five times
# faster by 16-bit numbers alone, and 2:4 on top of that gave between nothing and a tenth.

# %%
sam = [row for row in whole if row.source.id == "sam_fast"]
for kind in ("dense", "2:4"):
    found = [row.speedup for row in sam if row.kind == kind and row.dtype == "bfloat16"]
    name = "16-bit numbers" if kind == "dense" else kind
    print(f"{name:15s} {min(found):.2f}x to {max(found):.2f}x ({sam[0].source})")

# %% [markdown]
# ## Recorded, and yours
#
# The course records the same products for more sizes, batches and number formats. `python -m
# course_lib record sparse_vs_dense` records them on your machine. Without a GPU of your own,
# `notebooks/gpu_recorder.ipynb` records one in three minutes on a hosted notebook.

# %% tags=["nbval-ignore-output"]
recorded = recordings.load("sparse_vs_dense")
for name, found in recorded.items():
    machine = found["machine"]
    gpu = machine["CUDA GPU"]
    device = gpu if gpu != "none" else f"{machine['processor']}, {machine['threads']} threads"
    print(f"{name}: {device}, torch {machine['torch']}, {len(found['points'])} points")
gpus = [name for name, found in recorded.items() if found["machine"]["CUDA GPU"] != "none"]
print("GPU recordings:", ", ".join(gpus) or "none yet")


# %%
def speedup_over_sparsity(name, matrix, columns, dtype):
    """Recorded speed-ups of every format."""
    what = {"matrix": f"square {matrix}", "batch": int(columns), "dtype": dtype}
    figure, axes = plt.subplots()
    for kind, marker in zip(sparse.FORMATS, "os^DvP*", strict=True):
        line = recordings.points(recorded[name], format=kind, **what)
        if line and kind != "masked":
            density = [1 - point["target_sparsity"] for point in line]
            axes.plot(density, [point["speedup"] for point in line], f"{marker}-", label=kind)
    sparsity_axis(axes)
    axes.set(ylabel="times faster than dense", title=f"{name}, {matrix} x {matrix}")
    handles, _ = axes.get_legend_handles_labels()
    title = None if handles else "not recorded"
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), title=title)
    return figure


# %% tags=["nbval-ignore-output"]
choose(
    speedup_over_sparsity,
    {
        "machine": [*recorded],
        "size": ["2048", "512", "1024", "4096", "8192"],
        "columns": [str(count) for count in sweep.BATCHES],
        "numbers": ["float32", "float16", "bfloat16"],
    },
    alt="Recorded speed-up against sparsity, one line per format; grey is dense.",
)

# %% [markdown]
# Where is the break-even, over all shapes? A line is a square matrix, a cross a layer of ResNet-18
# (as a matrix product) or of MiniLM.


# %%
def evens(found, kind):
    """By matrix, (columns, break-even in percent) of a format; 100 for never."""
    lines = {}
    for point in recordings.points(found, format=kind, dtype="float32", target_sparsity=0.9):
        what = {key: point[key] for key in ("matrix", "batch", "dtype")}
        line = recordings.points(found, format=kind, **what)
        at = sparse.break_even([p["target_sparsity"] for p in line], [p["speedup"] for p in line])
        percent = 100 if at is None else 100 * at
        lines.setdefault(point["matrix"], []).append((point["batch"], percent))
    return lines


# %%
processor = recorded[recordings.COURSE]
SHADES = {"square 512": "#9ecae1", "square 1024": BLUE, "square 2048": "#08306b"}
figure, pair = plt.subplots(1, 2, figsize=(9.6, 4.4), sharey=True)
for axes, kind in zip(pair, ("CSR", "BSR 16"), strict=True):
    for matrix, line in sorted(evens(processor, kind).items(), key=lambda each: len(each[0])):
        square = {"color": SHADES.get(matrix), "label": matrix.split()[-1], "marker": "o"}
        cross = {"color": "black", "marker": "x", "linestyle": ""}
        axes.plot(*zip(*sorted(line), strict=True), **(square if matrix in SHADES else cross))
    axes.set(xscale="log", title=f"{kind}, float32", xlabel="columns", ylim=(45, 102))
    axes.set_xticks([1, 8, 64, 512], ["1", "8", "64", "512"])
pair[0].set_ylabel("break-even sparsity (%), 100: never")
pair[1].legend(title="size", loc="center left", bbox_to_anchor=(1, 0.5))
figures.show(figure, alt="Recorded break-even of CSR and blocks of 16 against columns, by size.")

# %%
found = [percent for line in evens(processor, "CSR").values() for _, percent in line]
print(f"CSR on the recorded processor: even at {min(found):.0f} to {max(found):.0f} %,")
print(f"never in {sum(percent == 100 for percent in found)} of {len(found)} shapes")

# %% [markdown]
# There is no single break-even on a CPU either. And on the recorded GPU? Predict it from its own
# ceilings, *measured*: what a copy and a dense product reached.

# %%
h200 = recorded["h200"]
top = {each["dtype"]: each for each in h200["rooflines"]}
rates = [top[dtype]["rate"] / break_even.DENSE_SHARE for dtype in ("float32", "float16")]
card = break_even.Card("H200", *rates, None, top["float32"]["bandwidth"], None)


# %%
def even_on(found, matrix, columns, dtype, kind="CSR"):
    """The recorded break-even sparsity in words; a line that ends early is not recorded."""
    what = {"matrix": matrix, "batch": columns, "dtype": dtype, "format": kind}
    line = recordings.points(found, **what)
    if len(line) < len(sweep.SPARSITIES):
        return "(part)"
    at = sparse.break_even([p["target_sparsity"] for p in line], [p["speedup"] for p in line])
    return "never" if at is None else f"{100 * at:.0f} %"


# %%
print("H200, CSR            predicted     1024    2048    4096    8192 (rows, columns)")
for dtype, columns in (("float32", 1), ("float16", 1), ("float32", 4096), ("float16", 4096)):
    ends = break_even.predicted(card, getattr(torch, dtype), "unstructured CSR, cuSPARSE", columns)
    low, high = (100 * end for end in sorted(ends))
    cells = [even_on(h200, f"square {n}", columns, dtype) for n in (1024, 2048, 4096, 8192)]
    name = "one vector" if columns == 1 else f"{columns} columns"
    print(f"{dtype} {name:12s} {low:3.0f} to {high:3.0f} %", *(f"{each:>7s}" for each in cells))

# %% [markdown]
# For one vector the size decides. cuSPARSE runs several kernels, which take some 16 us together
# whatever is left of the matrix; the H200 reads a dense matrix of 2,048 x 2,048 in less. Only large
# matrices gain. For thousands of columns in 16 bits it is as predicted: hardly ever. In 32 bits the
# prediction is far too low. It assumes 27 % of the rate of the CUDA cores; this product reaches

# %%
what = {"matrix": "square 4096", "batch": 4096, "dtype": "float32", "format": "CSR"}
[point] = recordings.points(h200, target_sparsity=0.9, **what)
macs_per_second = (1 - 0.9) * 4096**3 / (point["median"] / 1000)
print(f"{macs_per_second / top['float32']['rate']:.0%} of the rate of the dense product")

# %% [markdown]
# Blocks and 2:4 are missing from many of its lines. torch launches them from Python, which took 0.3
# to 1 ms on the host; the product itself is quicker on such a GPU, so the recording refuses to give
# it a time. If you use 2:4 from PyTorch, that launch is the first thing to measure.
#
# Does the recording of the CPU hold on your machine? Measure one of its points again:

# %% tags=["nbval-ignore-output"]
matrix = sweep.weight_of("square 1024", "float32", "cpu")
again = sparse.measure(
    sparse.to_formats(matrix, 0.9, ["CSR"]), sweep.inputs_of(matrix, 64), seconds=1
)
here = again["CSR"].speedup
what = {"matrix": "square 1024", "dtype": "float32", "batch": 64, "format": "CSR"}
[there] = recordings.points(processor, target_sparsity=0.9, **what)
print(f"{recordings.COURSE}: recorded {there['speedup']:.2f}x, here {here}")

# %% tags=["nbval-ignore-output"]
read(
    0.5 < again["CSR"].ratio / there["speedup"] < 2,
    "Your machine agrees with the recorded one within a factor of two.",
    "Your machine differs from the recorded one: for yours, trust your own measurements.",
)

# %% [markdown]
# If this machine has a GPU, the next cell measures it.

# %%
on_gpu = {}
if torch.cuda.is_available():
    for dtype, columns in ((torch.float32, 4096), (torch.float16, 4096), (torch.float16, 1)):
        large = torch.randn(4096, 4096, device="cuda", dtype=dtype)
        inputs = torch.randn(4096, columns, device="cuda", dtype=dtype)
        for sparsity in (0.9, 0.95):
            held_there = sparse.to_formats(large, sparsity, ["CSR", "2:4"])
            on_gpu[dtype, columns, sparsity] = sparse.measure(held_there, inputs)


# %%
def speedup_on_gpu(kind, sparsity, dtype, columns=4096):
    """Speed-up on a GPU, 4096 x 4096 or more: live, else recorded over sizes, else None."""
    if on_gpu:
        return on_gpu[getattr(torch, dtype), columns, sparsity][kind].speedup
    what = {"batch": columns, "dtype": dtype, "target_sparsity": sparsity, "format": kind}
    for name in gpus:
        found = [one for one in recordings.points(recorded[name], **what) if one["rows"] >= 4096]
        if found:
            ends = [end for one in found for end in one["interval"]]
            return Speedup(np.median([one["speedup"] for one in found]), min(ends), max(ends))
    return None


gpu_source = f"recorded on {gpus[0]}" if gpus and not on_gpu else ""

# %% [markdown]
# ## Write the product
#
# This section is for those who want to see the gather in code. Skip it if you are short of time.
#
# **Exercise 05.8.** Multiply a CSR matrix, given by its three lists, with `inputs`, a list of rows
# (one for each column of the matrix). Return the outputs as a list of rows.


# %%
def csr_product(values, columns, starts, inputs):
    """The outputs, a list of rows."""
    return ...


check("05.8", csr_product)

# %%
# hint("05.8")
# solution("05.8")

# %% [markdown]
# As a GPU kernel in Triton (Tillet, Kung and Cox, 2019) it looks like this: a program for each row,
# 32 nonzeros at a time. The third load is the gather.

# %%
print(inspect.getsource(triton_csr).partition("    @triton.jit\n")[2].partition("    return")[0])

# %% [markdown]
# Is it any good? On the H200 (*recorded*, the same matrix; times faster than dense, 95 %):

# %%
for dtype in ("float32", "float16"):
    print(f"{dtype}       " + "".join(f"{100 * each:>20.0f} %" for each in (0.5, 0.7, 0.9, 0.95)))
    for kernel in ("cuSPARSE", "Triton"):
        found = [t for t in counters.times() if (t.dtype, t.kernel) == (dtype, kernel)]
        print(f"  {kernel:10s}", *(f"{each.speedup!s:>21s}" for each in found[:4]))
    ours, dense = (counters.sectors()[dtype, kernel].nanoseconds for kernel in ("Triton", "dense"))
    print(f"  Triton at 90 %, by the profiler, one run: {dense / ours:.2f}x")

# %% [markdown]
# These few lines beat the library here. That is no rule: in a random matrix all rows are about as
# long, and cuSPARSE spends a third of its time on dividing rows of any length fairly. The profiler
# empties the caches in another way and times kernels alone, and finds about the same gain.
#
# Triton has an interpreter that runs a kernel on the CPU, instruction by instruction. It comes with
# torch for Linux; elsewhere the next cell says that it is missing. It has to be switched on before
# Triton is imported, so the cell starts another Python.

# %% tags=["nbval-ignore-output"]
RUN = """
import torch
from course_lib.deployment import by_hand, sparse, triton_csr
matrix = sparse.csr(torch.randn(8, 64) * (torch.rand(8, 64) < 0.2))
parts = matrix.values(), matrix.col_indices(), matrix.crow_indices()
vector = torch.randn(64)
same = triton_csr.csr_times_vector(*parts, vector), by_hand.csr_times_vector(*parts, vector)
print("the kernel computes what the loops compute:", torch.allclose(*same, atol=1e-5))
"""
if triton_csr.available():
    switched_on = os.environ | {"TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", RUN], env=switched_on, check=True)
else:
    print("Triton is not installed here: it comes with torch for Linux.")

# %% [markdown]
# ## At work
#
# With PyTorch on a GPU, 2:4 takes these lines (torch 2.11; compute capability 8.0 or higher):
#
# ```python
# from torch.sparse import to_sparse_semi_structured
#
# model = model.half().cuda().eval()
# for layer in model.modules():
#     if isinstance(layer, torch.nn.Linear):
#         mask = nm_mask(layer.weight.abs(), 2, 4)           # two of every four
#         pruned = (layer.weight * mask).detach()
#         layer.weight = torch.nn.Parameter(to_sparse_semi_structured(pruned))
# model = torch.compile(model)                               # fuses what surrounds the products
# with torch.inference_mode():
#     outputs = model(inputs.half())
# ```
#
# It raises an error if the matrix has not multiples of 32 rows and 64 columns (16 and 16 with
# cuSPARSELt), for number types without such a kernel, and for a convolution. It gains
# nothing if the matrix or the batch is small, and can lose if the kernels are older than the card:
# kernels made for the A100 were *slower* than dense on an H100 (0.62x, CUTLASS issue #1335).
# Retrain after pruning, as always, and measure your shapes before you promise anything.
#
# Where does the field go? Serving stacks have dropped or frozen such paths for lack of use: vLLM
# removed its 2:4 kernels (pull request #36799, merged 2026-03), llm-compressor followed (#2452,
# #2720), torchao deleted its sparsity modules (#4728, 2026-08). PyTorch 2.15 still has
# `to_sparse_semi_structured`. For your career that means: know why sparse is slow and when it is
# not, and do not build a product on one library's kernel.
#
# ## The verdicts
#
# Speed-ups are relative to the dense product. What was measured here or recorded comes first; what
# nobody measured here is decided by what was published, with its sources on the card. C06:


# %%
context = f"{SIZE} x {SIZE} in float32, one column and {COLUMNS}"


def also_on_gpu(card, values):
    """The card of a claim, with values of a GPU if there are any."""
    found = claims.known(values)
    return claims.record(card.claim.id, found, "4096 x 4096 or more", gpu_source) if found else card


# %% tags=["nbval-ignore-output"]
here = {
    "csr_90_vector_cpu": rows["one vector"]["CSR"].speedup,
    "csr_90_batch_cpu": rows[by_batch]["CSR"].speedup,
}
gpu = {
    "csr_90_gpu_32": speedup_on_gpu("CSR", 0.9, "float32"),
    "csr_90_gpu_16": speedup_on_gpu("CSR", 0.9, "float16"),
}
also_on_gpu(claims.record("C06", here, context), gpu)

# %% [markdown]
# The claim is about a GPU; on a CPU the answer depends on the break-even above. C07, the reason:
# how much faster are weights side by side, and what does a weight in CSR cost?

# %% tags=["nbval-ignore-output"]
here = {
    "together_over_anywhere": smallest,
    "together_over_anywhere_large": largest,
    "price_of_a_weight": price["one vector"],
}
one_vector = speedup_on_gpu("CSR", 0.9, "float16", columns=1)
gpu = {"price_of_a_weight_gpu": one_vector and ratio(exact(1 / (1 - 0.9)), one_vector)}
also_on_gpu(claims.record("C07", here, context), gpu)

# %% [markdown]
# "Gather" can mean two things: the overhead of fetching each input individually, or inputs that are
# far apart in memory. The second counts once the input does not fit into a cache, which few layers
# of a network reach. The card says what was confirmed. C08: does only special hardware gain?

# %% tags=["nbval-ignore-output"]
here = {
    "csr_95_cpu": measured_at[by_batch, "CSR", 0.95],
    "bsr_90_cpu": by_kind[by_batch]["BSR 16"].speedup,
}
gpu = {
    "two_four_gpu": speedup_on_gpu("2:4", 0.95, "float16"),
    "csr_95_gpu": speedup_on_gpu("CSR", 0.95, "float16"),
    "csr_95_vector_gpu": speedup_on_gpu("CSR", 0.95, "float16", columns=1),
}
also_on_gpu(claims.record("C08", here, context), gpu)

# %% [markdown]
# C14, "memory only":

# %% tags=["nbval-ignore-output"]
measured = {
    "csr_bytes_ratio": held["CSR"].bytes / held["dense"].bytes,
    "csr_time_ratio": ratio(exact(1), rows[by_batch]["CSR"].speedup),
}
claims.record("C14", measured, f"{SIZE} x {SIZE} in float32, {COLUMNS} columns")

# %% tags=["stable"]
print(f"bytes in CSR at 90 %: {measured['csr_bytes_ratio']:.2f} of dense")

# %% [markdown]
# ## Recap
#
# - Alternate what you time, take the median, give the ratio an interval, and never time inputs of
#   zeros.
# - A mask saves nothing. CSR saves bytes above 50 % sparsity, and time above the break-even.
# - The break-even belongs to a machine, a format, a kernel and a shape. Measure yours.
# - A weight in CSR costs as much as several dense ones: it needs an index, its input is gathered,
#   and for a batch nothing is reused.
# - On a GPU count sectors. In 16 bits the dense product is so fast that nearly all weights have to
#   go; for one vector at a time far fewer.
# - The more regular the zeros, the faster the product and the lower the accuracy.
#
# ## Interview questions
#
# **1. A matrix is 90 % sparse. Why is the product not ten times faster?**
#
# <details><summary>Answer</summary>
#
# First, if the zeros are stored, nothing is skipped at all. In CSR each weight needs a column
# index, which doubles the bytes (in 32 bits), and its input is gathered: on a GPU a warp then moves
# about four times the sectors per MAC. For a batch the dense kernel reuses each loaded number many
# times and, in 16 bits, runs on the matrix units; the CSR kernel can do neither. If a remaining
# weight costs as much as five dense ones, the break-even is at 80 %, and at 90 % you gain a factor
# of two.
#
# </details>
#
# **2. When is a sparse product worth it on a CPU?**
#
# <details><summary>Answer</summary>
#
# Often at a lower sparsity than on a GPU, whose dense products run on matrix units. Find out which
# kernels exist: for which formats, which number types (16-bit CSR may be missing), one column or
# many. Then measure the break-even at the exact shape. If the matrix changes often, include the
# time of the conversion.
#
# </details>
#
# **3. What is 2:4 sparsity, and what does it promise?**
#
# <details><summary>Answer</summary>
#
# Two of every four consecutive weights are zero. The two others are stored with two bits each for
# their positions: slightly more than half of the bytes. Sparse tensor cores then have a ceiling of
# twice the dense rate. Published products gain 1.1 to 2 times, whole networks much less, and some
# lose. For a single vector the arithmetic is no limit, but the bytes are: with a kernel made for
# it, Llama-3-8B generated 226 instead of 181 tokens a second on an A100 (torchao, over 4-bit
# weights). It works for certain number types and shapes only, and costs more accuracy than the same
# share of zeros anywhere.
#
# </details>
#
# **4. How do you compare the speed of two programs?**
#
# <details><summary>Answer</summary>
#
# Warm up; alternate the programs; take medians of many rounds, and the ratio round by round with an
# interval; use real or random data; keep conversions out of the timing; on a GPU time with events,
# flush the cache, and beware of launch overhead (the time to start a kernel); report the device,
# threads and versions. Check the timer: a program against itself must give a ratio of one.
#
# </details>
#
# **5. What does the roofline tell you that a stopwatch does not?**
#
# <details><summary>Answer</summary>
#
# How much could be gained, and where. With few MACs per byte, memory is the limit: store fewer
# bytes. With many, arithmetic is: do fewer MACs, or use a faster unit. A point far below both
# ceilings means that the kernel, not the machine, is the problem, as with CSR for a batch.
#
# </details>
#
# **6. At which sparsity does a GPU gain from unstructured zeros?**
#
# <details><summary>Answer</summary>
#
# Ask back: one vector or a batch, how many bits, which card, which kernel? A batch in 16 bits:
# above 95 %, because the dense product runs on tensor cores (published: 97.5 % on an RTX 3090). A
# batch in 32 bits: near 70 to 80 % on a V100 or A100 with Sputnik (the 71 % of Gale et al., 2020,
# are for the matrix of an LSTM with 8,192 inputs and 2,048 hidden units, 128 columns, on a V100),
# never up to 87.5 % on an RTX 3090. One vector: 64 to 85 % with CSR, 20 to 30 % with MACKO. Then
# measure your own shape.
#
# </details>
#
# ## Where next
#
# Single zeros are faster only where the hardware and its kernels support them. **Lesson 06**
# removes whole channels, which leaves smaller dense matrices. Do half of the channels take half of
# the time?
