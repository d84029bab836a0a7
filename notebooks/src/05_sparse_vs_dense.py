# %% [markdown]
# # 05 Sparse against dense
#
# *Why is 90 % sparse not 10x faster?*
#
# You will be able to
# - time two programs so that you can trust their ratio,
# - say what CSR, COO, blocks and 2:4 store, and how many bytes that takes,
# - find the break-even sparsity of a machine, for a vector and for a batch,
# - explain it with two ceilings: memory and arithmetic.
#
# **Time**: 75 minutes of reading and exercises, under 90 s of compute
#
# **Claims** under test: C06, C07, C08, C14
#
# **Needs**: lesson 01. No network; a GPU is used where there is one.

# %%
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch

from course_lib.bars import bar
from course_lib.deployment import sparse
from course_lib.experiments import recordings
from course_lib.experiments import sparse_vs_dense as sweep
from course_lib.measuring import cost, timing
from course_lib.networks import data, models, training
from course_lib.pruning import masks

# %%
from course_lib.teaching import claims, figures
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
for sparsity in bar(sweep.SPARSITIES, "sparsities"):
    held_now = sparse.to_formats(weight, sparsity, ["CSR", "COO"])
    for name, inputs in INPUTS.items():
        found = sparse.measure(held_now, inputs, rounds=15, seconds=0.4)
        for kind in ("CSR", "COO"):
            speedups[name, kind].append(found[kind].ratio)


# %%
def sparsity_axis(axes):
    """Density on a logarithmic scale, labelled with the sparsity."""
    axes.set(xscale="log", yscale="log", xlabel="sparsity (%)", xlim=(0.6, 0.004))
    ticks = [50, 80, 90, 95, 98, 99, 99.5]
    axes.set_xticks([1 - percent / 100 for percent in ticks], [f"{tick:g}" for tick in ticks])
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
# Left of the bend a product is memory-bound, right of it compute-bound. (For a point *above* the
# slope the matrix was in a cache, which is faster than memory.) The batch is the clearer case:

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
# That can be tested with two CSR matrices, both 90 % sparse, with the same number of weights in
# each row. In one they are anywhere, in the other side by side, so that every row reads consecutive
# inputs. Format, bytes and MACs are the same. If scattered *positions* are the reason, the second
# is much faster.


# %%
def csr_rows(together):
    """A CSR matrix that keeps a tenth of each row, anywhere or side by side."""
    left = SIZE // 10
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    for row in mask:
        first = int(torch.randint(SIZE - left + 1, (1,), generator=generator))
        anywhere = torch.randperm(SIZE, generator=generator)[:left]
        row[slice(first, first + left) if together else anywhere] = True
    return sparse.csr(weight * mask)


# %% tags=["nbval-ignore-output"]
places = {"anywhere": csr_rows(together=False), "side by side": csr_rows(together=True)}
runs = {name: partial(torch.matmul, matrix) for name, matrix in places.items()}
gain = {}
for name, inputs in INPUTS.items():
    result = timing.compare(runs, inputs, seconds=1)
    gain[name] = result.speedup("side by side", over="anywhere")
    print(f"{name:14s} side by side over anywhere: {gain[name]}")

# %% tags=["nbval-ignore-output"]
read(
    all(ratio.value < 1.5 for ratio in gain.values()),
    "Near one, so the positions are not the reason. This input fits into a cache, from which "
    "every position can be read about equally fast.",
    "Neighbours are much faster here: the positions do matter on this machine.",
)

# %% [markdown]
# The other candidate is the *overhead* of each weight. Its column index must be loaded as well, and
# its input fetched individually, where a dense product loads many neighbours with one wide
# instruction. So compute the cost of a weight:

# %% tags=["nbval-ignore-output"]
price = {}
for name in INPUTS:
    left = 1 - held["CSR"].sparsity
    price[name] = 1 / (rows[name]["CSR"].ratio * left)
    print(f"{name:14s} a weight in CSR costs {price[name]:.1f} times a dense one", end="")
    print(f"; break-even near {1 - 1 / price[name]:.0%}")

# %% tags=["nbval-ignore-output"]
read(
    max(price.values()) > 2,
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

# %%
bits = 2 * (16 + 2)
print(f"four weights of 16 bits: {4 * 16} bits dense, {bits} bits in 2:4 ({bits / 64:.0%})")

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
# ## Recorded machines
#
# The course recorded the same products for more sizes, batches and number formats. `python -m
# course_lib record sparse_vs_dense` records them on your machine.

# %% tags=["nbval-ignore-output"]
recorded = recordings.load("sparse_vs_dense")
for name, found in recorded.items():
    machine = found["machine"]
    gpu = machine["CUDA GPU"]
    device = gpu if gpu != "none" else f"{machine['processor']}, {machine['threads']} threads"
    print(f"{name}: {device}, torch {machine['torch']}, {len(found['points'])} points")
gpus = [name for name, found in recorded.items() if found["machine"]["CUDA GPU"] != "none"]
print("GPU recordings:", ", ".join(gpus) or "none yet; the text on GPUs below cites papers")

# %%
processor = recorded[recordings.COURSE]
halves = recordings.points(processor, format="CSR", target_sparsity=0.5)
slower = sum(point["speedup"] < 1 for point in halves)
print(f"recorded processor, 50 % sparse: CSR is slower in {slower} of {len(halves)} shapes")


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

# %%
sixteen = recordings.points(processor, dtype="bfloat16", target_sparsity=0.9)
print("16-bit numbers on the recorded processor:", *dict.fromkeys(p["format"] for p in sixteen))

# %% [markdown]
# Hardly any format is left for 16-bit numbers: torch has no kernel for the others on that processor
# and raises an error.
#
# Where is the break-even, for CSR and for blocks of 16?


# %%
def recorded_break_even(found, kind, **what):
    """The break-even of a format as text, from its recorded speed-ups."""
    line = recordings.points(found, format=kind, **what)
    at = sparse.break_even([p["target_sparsity"] for p in line], [p["speedup"] for p in line])
    return "never" if at is None else f"{at:.1%}" if at > 0.5 else "below 50%"


# %% tags=["nbval-ignore-output"]
print("size  columns  numbers " + "".join(f"{kind:>12s}" for kind in ("CSR", "BSR 16")))
for name, found in recorded.items():
    print(name)
    csr_points = recordings.points(found, format="CSR", target_sparsity=0.9)
    for point in csr_points:
        what = {key: point[key] for key in ("matrix", "batch", "dtype")}
        told = [recorded_break_even(found, kind, **what) for kind in ("CSR", "BSR 16")]
        size = f"{point['rows']} x {point['columns']}"
        print(f"{size:12s} {point['batch']:5d} {point['dtype']:9s}", *(f"{t:>11s}" for t in told))

# %%
shapes = recordings.side_by_side(
    {"here": processor},
    "speedup",
    ("matrix", "batch", "target_sparsity"),
    format="CSR",
    dtype="float32",
)
wins = {sparsity: [] for sparsity in sweep.SPARSITIES}
for (_, _, sparsity), values in shapes.items():
    wins[sparsity].append(values["here"] > 1)
for sparsity in (0.7, 0.9, 0.99):
    print(
        f"{sparsity:.0%} sparse: CSR wins in {sum(wins[sparsity])} of {len(wins[sparsity])} shapes"
    )

# %% [markdown]
# The shapes that are not square are layers of ResNet-18 (as matrix products) and of MiniLM. Read
# down a column: there is no single break-even.
#
# The same product on every recorded machine, and how much faster each machine multiplies matrices
# of zeros only. (GPUs can be faster on them: bits that do not change take no power, and power
# limits the clock.)

# %% tags=["nbval-ignore-output"]
what = {"format": "CSR", "target_sparsity": 0.9, "rows": 1024, "columns": 1024}
table = recordings.side_by_side(recorded, "speedup", ("dtype", "batch"), **what)
for (dtype, columns), values in table.items():
    told = ", ".join(f"{name} {value:.2f}x" for name, value in values.items())
    print(f"CSR at 90 %, 1024 x 1024, {columns:4d} columns, {dtype}: {told}")
for name, found in recorded.items():
    for entry in found["zeros"]:
        print(f"{name}: {entry['dtype']}, {entry['size']} cubed, zeros {entry['speedup']:.2f}x")

# %%
same = all(abs(entry["speedup"] - 1) < 0.1 for entry in processor["zeros"])
print("on the recorded processor zeros take as long as random numbers:", same)

# %% [markdown]
# Does the recording hold on your machine? Measure one of its points again:

# %% tags=["nbval-ignore-output"]
matrix = sweep.weight_of("square 1024", "float32", "cpu")
again = sparse.measure(
    sparse.to_formats(matrix, 0.9, ["CSR"]), sweep.inputs_of(matrix, 64), seconds=1
)
here = again["CSR"].speedup
what = {
    "matrix": "square 1024",
    "dtype": "float32",
    "batch": 64,
    "target_sparsity": 0.9,
    "format": "CSR",
}
for name, found in recorded.items():
    for point in recordings.points(found, **what):
        print(f"{name}: recorded {point['speedup']:.2f}x, here {here}")

# %% tags=["nbval-ignore-output"]
there = [point["speedup"] for point in recordings.points(recorded[recordings.COURSE], **what)]
read(
    0.5 < again["CSR"].ratio / there[0] < 2,
    "Your machine agrees with the recorded one within a factor of two.",
    "Your machine differs from the recorded one: for yours, trust your own measurements.",
)

# %% [markdown]
# ## And a GPU?
#
# A GPU has far wider units for dense products, so a sparse product that cannot use them has more to
# lose. Gale et al. (2020) wrote special kernels (Sputnik) that break even near 71 % in single
# precision; with the vendor's kernels of that time the break-even was far higher. With 16-bit
# numbers the dense product runs on the matrix units, which a CSR product cannot use, so the
# break-even is higher still. 2:4 has hardware of its own, with a ceiling of twice the dense rate.
# If this machine has a GPU, the next cell measures it.

# %%
on_gpu = {}
if torch.cuda.is_available():
    for dtype in (torch.float32, torch.float16):
        large = torch.randn(4096, 4096, device="cuda", dtype=dtype)
        inputs = torch.randn(4096, 4096, device="cuda", dtype=dtype)
        for sparsity in (0.9, 0.95):
            kinds = sparse.to_formats(large, sparsity, ["CSR", "2:4"])
            on_gpu[dtype, sparsity] = sparse.measure(kinds, inputs)


# %%
def on_a_gpu(kind, sparsity, dtype):
    """Speed-up on a GPU, 4096 x 4096 times 4096 columns: live, else recorded, else NaN."""
    if on_gpu:
        row = on_gpu[getattr(torch, dtype), sparsity][kind]
        return row.ratio
    what = {"matrix": "square 4096", "batch": 4096, "dtype": dtype, "target_sparsity": sparsity}
    for name in gpus:
        for point in recordings.points(recorded[name], format=kind, **what):
            return point["speedup"]
    return np.nan


# %% [markdown]
# ## The verdicts
#
# Speed-ups are relative to the dense product on this machine; those of a GPU are measured now or
# recorded. C06:

# %% tags=["nbval-ignore-output"]
measured = {
    "csr_90_vector_cpu": rows["one vector"]["CSR"].ratio,
    "csr_90_batch_cpu": rows[by_batch]["CSR"].ratio,
    "csr_90_gpu_32": on_a_gpu("CSR", 0.9, "float32"),
    "csr_90_gpu_16": on_a_gpu("CSR", 0.9, "float16"),
}
context = f"{SIZE} x {SIZE} in float32, one column and {COLUMNS}"
claims.record("C06", claims.known(measured), context)

# %% [markdown]
# The claim is about a GPU; on a CPU the answer depends on the break-even above. C07, the reason:
# how much faster are weights side by side, and what does a weight in CSR cost?

# %% tags=["nbval-ignore-output"]
measured = {
    "together_over_anywhere": gain["one vector"].value,
    "price_of_a_weight": price["one vector"],
}
claims.record("C07", claims.known(measured), context)

# %% [markdown]
# "Gather" can mean two things: the overhead of fetching each input individually, or inputs that are
# far apart in memory. The card says which of the two this machine confirms. C08: does only special
# hardware gain?

# %% tags=["nbval-ignore-output"]
measured = {
    "csr_95_cpu": speedups[by_batch, "CSR"][sweep.SPARSITIES.index(0.95)],
    "bsr_90_cpu": by_kind[by_batch]["BSR 16"].ratio,
    "two_four_gpu": on_a_gpu("2:4", 0.95, "float16"),
    "csr_95_gpu": on_a_gpu("CSR", 0.95, "float16"),
}
claims.record("C08", claims.known(measured), context)

# %% [markdown]
# C14, "memory only":

# %% tags=["nbval-ignore-output"]
measured = {
    "csr_bytes_ratio": held["CSR"].bytes / held["dense"].bytes,
    "csr_time_ratio": 1 / rows[by_batch]["CSR"].ratio,
}
claims.record("C14", claims.known(measured), context)

# %% tags=["stable"]
print(f"bytes in CSR at 90 %: {measured['csr_bytes_ratio']:.2f} of dense")

# %% [markdown]
# ## Recap
#
# - Alternate what you time, take the median, give the ratio an interval, and never time inputs of
#   zeros.
# - A mask saves nothing. CSR saves bytes above 50 % sparsity, and time above the break-even.
# - The break-even belongs to a machine, a format, a kernel and a shape. Measure yours.
# - A weight in CSR costs as much as several dense ones: it needs an index, and wide units stay
#   idle.
# - The more regular the zeros, the faster the product and the lower the accuracy.
#
# ## Interview questions
#
# **1. A matrix is 90 % sparse. Why is the product not ten times faster?**
#
# <details><summary>Answer</summary>
#
# First, if the zeros are stored, nothing is skipped at all. In CSR each weight needs a column
# index, which doubles the bytes, and its input is fetched individually, so wide instructions (and
# on a GPU the matrix units) stay idle. A remaining weight therefore costs as much as several dense
# ones. If it costs as much as five, the break-even is at 80 %, and at 90 % you gain a factor of
# two.
#
# </details>
#
# **2. When is a sparse product worth it on a CPU?**
#
# <details><summary>Answer</summary>
#
# Often at a lower sparsity than on a GPU, whose matrix units a sparse product leaves idle. Find out
# which kernels exist: for which formats, which number types (16-bit CSR may be missing), one column
# or many. Then measure the break-even at the exact shape. If the matrix changes often, include the
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
# twice the dense rate. Real gains are smaller, and there are none where memory bandwidth or launch
# overhead is the limit, as for one vector. It works for certain number types and shapes only, and
# costs more accuracy than the same share of zeros anywhere.
#
# </details>
#
# **4. How do you compare the speed of two programs?**
#
# <details><summary>Answer</summary>
#
# Warm up; alternate the programs; take medians of many rounds, and the ratio round by round with an
# interval; use real or random data; keep conversions out of the timing; on a GPU time with events,
# flush the cache, and beware of launch overhead; report the device, threads and versions. Check the
# timer: a program against itself must give a ratio of one.
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
# ## Where next
#
# Single zeros are faster only where the hardware and its kernels support them. **Lesson 06**
# removes whole channels, which leaves smaller dense matrices. Do half of the channels take half of
# the time?
