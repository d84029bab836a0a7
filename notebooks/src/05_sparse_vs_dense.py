# %% [markdown]
# # 05 Sparse against dense
#
# *Why is 90 % sparse not 10x faster?*
#
# You will be able to
# - time two programs so that the ratio can be believed,
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
# Close what else keeps this machine busy: a neighbour on the second core does not slow down all
# products alike. Now the same product, two hundred times in a row:

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
figures.show(figure, alt="Times of 200 runs: most lie close to the median, some far above it.")

# %% [markdown]
# Nothing changed between the dots, and yet they differ. If one candidate is timed in a quiet moment
# and the other in a busy one, the ratio is about the moments. So time them **in turns**: A B A B.
# And one number of each is the **median**, which a few slow rounds do not move.
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
# `timing.compare` does this, and more: it repeats what is too short for the clock, draws the order
# of every round anew (who comes second finds the cache warm), refuses to time zeros, and gives an
# interval of the ratio. On a GPU it waits until the work is really done. What would take minutes it
# runs once, and says so. Does it tell the truth? Time a thing against itself, and against doing it
# twice.

# %% tags=["nbval-ignore-output"]
test = timing.self_test()
print(f"against itself:      {test.same}")
print(f"against doing twice: {test.twice}")

# %% tags=["nbval-ignore-output"]
read(
    abs(test.same.value - 1) < 0.15 and abs(test.twice.value - 2) < 0.4,
    "About one, and about two: the ratios are right.",
    "**These should be 1 and 2.** Something else keeps this machine busy: close it and run the "
    "lesson again, or do not believe the times that follow.",
)

# %% [markdown]
# You need not repeat this test before every measurement. `timing.compare` gives its quickest
# candidate a second turn in each round, and asks the system how long its threads were ready but had
# no processor. If the repeat disagrees with itself, or if there was waiting, the machine is
# **disturbed**: whenever that happens in a lesson, a line says so, and its times are not to be
# believed.

# %% tags=["nbval-ignore-output"]
quick = timing.compare({"dense": product}, vector, rounds=60)
print("disturbed:", quick.disturbance is not None)
print(f"seconds of waiting for a processor in each second: {quick.waited:.2f}")

# %% [markdown]
# ## A mask gives nothing
#
# Set 90 % to zero and leave the matrix as it is.

# %% tags=["nbval-ignore-output"]
held = sparse.to_formats(weight, 0.9, ["masked", "CSR", "COO"])
rows = {name: sparse.measure(held, inputs, seconds=1) for name, inputs in INPUTS.items()}
for name, found in rows.items():
    print(f"{name:14s} masked over dense: {found['masked'].speedup}")

# %% tags=["nbval-ignore-output"]
read(
    all(abs(found["masked"].ratio - 1) < 0.3 for found in rows.values()),
    "A mask gives no speed: the processor multiplies zeros like everything else.",
    "A mask changed the time here by more than a third, which zeros alone do not explain: the same "
    "products are done. Was the machine disturbed?",
)

# %% [markdown]
# To skip zeros, the matrix has to be stored without them.
#
# ## Stored without zeros
#
# **CSR**, compressed sparse rows, walks through the rows and keeps three lists: the *values* that
# are not zero, the *column* of each, and where each row *starts* in the two lists (with a last
# entry that says where the last row ends).
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
# **COO** keeps a row and a column for each value.
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
# A 32-bit value with a 32-bit column is twice as large as a value alone. So CSR saves memory only
# beyond 50 % sparsity. (Torch's COO has 64-bit indices, two for each value.) Lesson 07 packs far
# tighter; but these formats can be *multiplied* as they are.
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
    "A tenth of the weights, and about a tenth of the time: the naive promise is kept here.",
    f"A tenth of the weights, and {1 / csr_vector:.0%} of the time: the promise was a tenth.",
)
read(
    rows["one vector"]["COO"].ratio < csr_vector,
    "COO is slower than CSR: torch stores two indices of 64 bits for each value.",
    "COO is no slower than CSR here.",
)

# %% [markdown]
# ## Find the break-even
#
# How sparse must it be? The same for more sparsities.

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
figures.show(figure, alt="Speed-up of CSR and COO over sparsity, the dense product, and the ideal.")

# %% [markdown]
# Grey is the dense product, dotted is the naive hope: a tenth of the weights, ten times faster.
# How far a measured line runs below the dotted one says how many times what a dense weight costs
# each weight costs that is left. Where a line crosses the grey one is its **break-even**.

# %% tags=["nbval-ignore-output"]
even = {key: sparse.break_even(sweep.SPARSITIES, values) for key, values in speedups.items()}
for (name, kind), at in even.items():
    print(f"{kind}, {name:14s} " + ("never faster" if at is None else f"from {at:.1%} on"))
at = even[f"a batch of {COLUMNS}", "CSR"]
reveal("05.even", 100 * (1 if at is None else at), low=0, high=100, unit="%")

# %% tags=["nbval-ignore-output"]
crossings = [even[name, "CSR"] or 1 for name in INPUTS]
read(
    abs(crossings[0] - crossings[1]) > 0.05,
    "CSR crosses at one place for the vector and at another for the batch.",
    "CSR crosses at nearly the same place for the vector and for the batch here. The recorded "
    "shapes further down do not agree so well.",
)

# %% [markdown]
# A "break-even sparsity" belongs to a machine, a format and a shape.
#
# ## Two ceilings
#
# Why is a tenth of the weights not a tenth of the time? A product has two jobs: *move* the weights
# from memory, and *multiply*. A machine has a ceiling for each (the roofline of Williams, Waterman
# and Patterson, 2009). First measure both: copying a lot, and multiplying large dense matrices.

# %% tags=["nbval-ignore-output"]
roof = cost.roofline()
print(f"memory     {roof.bandwidth / 1e9:6.1f} GB/s")
print(f"arithmetic {roof.rate / 1e9:6.1f} GMAC/s (matrices of {roof.size} x {roof.size})")
print(f"in the time of one byte it could do {roof.ridge:.1f} MACs")

# %% [markdown]
# **Exercise 05.4.** At these ceilings, what is the least time that a product can take? Moving and
# multiplying happen at the same time. Return the seconds, and which of the two is the limit:
# "memory" or "arithmetic".


# %%
def least_time(macs, moved, rate, bandwidth):
    """Seconds, and the name of what limits."""
    return ...


check("05.4", least_time)

# %%
# hint("05.4")
# solution("05.4")

# %% [markdown]
# MACs per byte is the **arithmetic intensity**. A vector uses every weight once: a fraction of a
# MAC per byte. A batch of 64 uses every weight 64 times. Only MACs with weights that are *not* zero
# count as useful here.


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
    print(f"{kind:6s} {name:14s} {intensity:5.2f} MACs a byte, {rate / 1e9:5.1f} GMAC/s", end="")
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
figures.show(figure, alt="Roofline with the dense and the CSR products, a vector and a batch.")

# %% [markdown]
# Left of the bend a product is memory-bound, right of it compute-bound. (A point *above* the slope
# found its matrix in a cache, which is faster than memory.) The batch is the clearer case:

# %% tags=["nbval-ignore-output"]
share = {key: rate / roof.attainable(intensity) for key, (intensity, rate) in points.items()}
by_batch = f"a batch of {COLUMNS}"
shares = f"{share['dense', by_batch]:.0%} of the roof dense, {share['CSR', by_batch]:.0%} in CSR."
read(
    share["dense", by_batch] > 1.5 * share["CSR", by_batch],
    f"{shares} The same processor does far fewer useful MACs a second in CSR. Why?",
    f"{shares} CSR makes nearly as good use of this processor as the dense product does. Where "
    "it does not, what could be the reason?",
)

# %% [markdown]
# ## Is it the gather?
#
# The textbook says: **gather and scatter**. A dense product reads its inputs in a row. CSR must
# look up the column of each weight, and fetch the input from there: from anywhere.
#
# That can be tested. Two CSR matrices, both 90 % sparse, with equally many weights in each row. In
# one they lie anywhere, in the other side by side, so that every row reads a stretch of
# neighbours. Same format, same bytes, same MACs. If it is the *places*, the second is much faster.


# %%
def csr_rows(together):
    """A CSR matrix with a tenth of each row, anywhere or side by side."""
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
    "Near one: it is not the places. This input fits into a cache, and from there every place is "
    "about equally near.",
    "Neighbours are much faster here: the places do matter on this machine.",
)

# %% [markdown]
# What comes on top of the places is the *work around* each weight. Its column must be loaded as
# well, and its input fetched on its own, where a dense product takes many neighbours with one wide
# instruction. So look at the price of a weight:

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
    "Bytes explain a factor of two: a value and its column. What is beyond is the work around it.",
    "Bytes explain a factor of two: a value and its column. The work around a weight adds nothing "
    "to that here.",
)

# %% [markdown]
# The price tells the break-even at once: if a weight costs five times as much, four fifths have to
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
figures.show(figure, alt="Speed-up of CSR and of blocks of 4, 16 and 32, for a vector and a batch.")

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
    "with a bad routine.",
    "No format is hopeless here. On other machines blocks of 4 were, for a vector: a good format "
    "with a bad routine.",
)

# %% [markdown]
# Which routine the library has for your shape matters more than the theory. **Measure.**
#
# ## 2:4
#
# Some GPUs have a unit for one pattern: of every four weights in a row, two are zero (Mishra et
# al., 2021). It is stored as the two values and two bits for the place of each.
#
# **Exercise 05.5.** Store a row: of every four values keep the two of the largest magnitude (of
# equal ones the earlier), in their order. `places` are 0 to 3, counted within each four.


# %%
def two_four(row):
    """The values that are kept, and their places."""
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
# The more regular the zeros, the easier for the hardware, and the fewer choices for you. Half of
# the weights of `small_resnet` go, in four patterns, without any retraining. Blocks are squares in
# the filters written as a matrix (outputs, inputs x 9).

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
# Retraining repairs much of it (lesson 04); the order of the bars is the price of regularity.
#
# ## Recorded machines
#
# The course recorded the same products for more sizes, batches and number formats.
# `python -m course_lib record sparse_vs_dense` does it on your machine.

# %% tags=["nbval-ignore-output"]
recorded = recordings.load("sparse_vs_dense")
for name, found in recorded.items():
    machine = found["machine"]
    gpu = machine["CUDA GPU"]
    device = gpu if gpu != "none" else f"{machine['processor']}, {machine['threads']} threads"
    print(f"{name}: {device}, torch {machine['torch']}, {len(found['points'])} points")
gpus = [name for name, found in recorded.items() if found["machine"]["CUDA GPU"] != "none"]
print("GPU recordings:", ", ".join(gpus) or "none yet; what is said of GPUs below is literature")

# %%
processor = recorded[recordings.COURSE]
halves = recordings.points(processor, format="CSR", target_sparsity=0.5)
slower = sum(point["speedup"] < 1 for point in halves)
print(f"the recorded processor, 50 % sparse: CSR is slower in {slower} of {len(halves)} shapes")


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
    alt="Recorded speed-up over sparsity, a line for each format; grey is dense.",
)

# %%
sixteen = recordings.points(processor, dtype="bfloat16", target_sparsity=0.9)
print("16-bit numbers on the recorded processor:", *dict.fromkeys(p["format"] for p in sixteen))

# %% [markdown]
# Hardly a format is left for 16-bit numbers: torch has no such routine there, and says so.
#
# Where is the break-even, for CSR and for blocks of 16?


# %%
def recorded_break_even(found, kind, **what):
    """In words, from the recorded speed-ups of a format."""
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
# The rows that are not square are layers of ResNet-18 (as products of matrices) and of MiniLM. Read
# down a column: there is no such thing as *the* break-even.
#
# The same product on every machine that is recorded, and how much faster each is on nothing but
# zeros (GPUs can be: bits that do not change take no power, and power limits their clock):

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
print("on the recorded processor zeros take as long as numbers:", same)

# %% [markdown]
# Is the recording true? One of its points again:

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
    "Your machine is another: believe your own figures for it, and the recording for the other.",
)

# %% [markdown]
# ## And a GPU?
#
# A GPU has far wider units for dense products, so it has more to lose. Gale et al. (2020) wrote
# special routines (Sputnik) that break even near 71 % in single precision; with the vendor's
# routines of that time it took far more. With 16-bit numbers the dense product runs on the matrix
# units, which a CSR product cannot use, and break-even moves further up. 2:4 has a unit of its own,
# with a ceiling of twice the dense rate. If this machine has a GPU, it is measured now.

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
# Speed-ups are over the dense product, on this machine; those of a GPU are live or recorded. C06:

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
# The sentence speaks of a GPU. On a processor it is a matter of the break-even above. C07, the
# reason: how much faster are weights side by side, and what does a weight in CSR cost?

# %% tags=["nbval-ignore-output"]
measured = {
    "together_over_anywhere": gain["one vector"].value,
    "price_of_a_weight": price["one vector"],
}
claims.record("C07", claims.known(measured), context)

# %% [markdown]
# "Gather" can mean two things: the work that each single weight brings along, or places that are
# far apart. The card says which of the two this machine confirms. C08: does only special hardware
# gain?

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
# - Time in turns, take the median, give the ratio an interval, and never time zeros.
# - A mask saves nothing. A sparse format saves bytes beyond half, and time beyond the break-even.
# - The break-even belongs to a machine, a format, a routine and a shape. Measure yours.
# - A weight in CSR costs several dense ones: its index, and wide units that stay idle.
# - The more regular the zeros, the faster the product and the lower the accuracy.
#
# ## Interview questions
#
# **1. A matrix is 90 % sparse. Why is the product not ten times faster?**
#
# <details><summary>Answer</summary>
#
# First, if the zeros are stored, nothing is skipped at all. In CSR a weight brings its column
# along, which doubles the bytes, and its input is fetched on its own, so wide instructions (and on
# a GPU the matrix units) stay idle. A weight that is left costs several dense ones. If it costs
# five, the break-even is at 80 %, and at 90 % you gain a factor of two.
#
# </details>
#
# **2. When is a sparse product worth it on a CPU?**
#
# <details><summary>Answer</summary>
#
# Often earlier than on a GPU, whose matrix units a sparse product leaves idle. Ask for the routine:
# which format, which number type (16-bit CSR may not exist), one column or many. Then measure the
# break-even at the very shape. And count the conversion if the matrix changes often.
#
# </details>
#
# **3. What is 2:4 sparsity, and what does it promise?**
#
# <details><summary>Answer</summary>
#
# Two of every four neighbouring weights are zero. Stored are the two others and two bits each for
# their places: a bit more than half of the bytes. Sparse tensor cores then have a ceiling of twice
# the dense rate. Real gains are smaller, and there are none where memory or launching is the limit,
# for one vector for instance. It works in certain number types and shapes only, and costs more
# accuracy than the same share of zeros anywhere.
#
# </details>
#
# **4. How do you compare the speed of two programs?**
#
# <details><summary>Answer</summary>
#
# Warm up; alternate them; take medians of many rounds, and the ratio round by round with an
# interval; use real or random data; keep conversions outside; on a GPU time with events, empty the
# cache, and beware of launch times; say the device, threads and versions. Check the timer: a
# program against itself must give one.
#
# </details>
#
# **5. What does the roofline tell you that a stopwatch does not?**
#
# <details><summary>Answer</summary>
#
# What could be gained, and where. With few MACs per byte, memory is the limit: store fewer bytes.
# With many, arithmetic is: do fewer MACs, or use a faster unit. A point far below both ceilings
# says that the routine, not the machine, is the problem; that is where CSR lies for a batch.
#
# </details>
#
# ## Where next
#
# Single zeros need luck with the hardware. **Lesson 06** removes whole channels, which leaves dense
# matrices behind. Is half of the channels half of the time?
