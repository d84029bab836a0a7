# %% [markdown]
# # 00 Start here
#
# *Does my machine work, and how does this course work?*
#
# You will be able to
# - check that everything the course needs is in place,
# - work with predictions, exercises, verdict cards and your report,
# - say what the *sparsity* of a network is, and remove half of the weights of a trained one.
#
# **Time**: 15 minutes of reading and trying, under 30 s of compute
#
# **Claims** under test: none yet. You meet the claims, and lesson 01 starts to test them.
#
# **Needs**: nothing but this installation. No network, no GPU.

# %% [markdown]
# ## What this course is
#
# Pruning is taught as a handful of numbers: "90 % of the weights can go", "half the channels is
# twice as fast". Each of them is a **claim**. Here you predict first, then run the experiment on a
# real network and real data, and your own machine gives the verdict: *holds*, *holds when ...*, or
# *does not hold*. Words that are new to you are in the [glossary](../GLOSSARY.md).
#
# Run a cell with **Shift + Enter**. Run this one first.

# %%
import matplotlib.pyplot as plt

from course_lib import doctor
from course_lib.measuring import cost, quality
from course_lib.networks import data, models, training
from course_lib.pruning import masks
from course_lib.teaching import claims, figures
from course_lib.teaching.exercises import check, hint, solution
from course_lib.teaching.reading import read
from course_lib.teaching.widgets import predict, reveal

plt.style.use(figures.STYLE)

# %% [markdown]
# ## Does my machine work?
#
# The doctor looks at everything that the course needs. A line that is not `ok` says what to do.

# %% tags=["nbval-ignore-output"]
findings = doctor.examine()
print(doctor.report(findings))

# %% tags=["nbval-ignore-output"]
read(
    all(finding.ok for finding in findings),
    "This machine is ready.",
    "**Something needs repair**: the arrows above say what to do. Most lessons run nevertheless.",
)

# %% [markdown]
# A missing GPU is no problem: where one matters,
# the lesson says so and shows a recording.
#
# ## Predict first
#
# The network below was trained to classify ten kinds of clothing. You will set **half of all its
# weights to zero**, the half closest to zero already, with no training afterwards. Commit to a
# guess before you see the answer: you remember best what you first guessed wrong.

# %%
predict(
    "00.half",
    "How many points of accuracy will it lose?",
    low=0,
    high=80,
    unit="points",
)

# %% [markdown]
# Your guess is stored on this machine, in the folder `.course` of the project, and nowhere else.
#
# ## Real data
#
# Fashion-MNIST has 70,000 greyscale pictures of clothing, 28 by 28 pixels, in ten classes (Xiao,
# Rasul and Vollgraf, 2017). They come in three parts: *train* is for training, *validation* for
# every choice, and *test* is read once per result.

# %%
pictures = data.fashion_mnist()
for name, part in zip(pictures._fields, pictures, strict=True):
    print(f"{name:10s} {len(part.labels):6,d} pictures of shape {tuple(part.images.shape[1:])}")

# %%
figure, axes = plt.subplots(1, 10, figsize=(10, 1.6))
for label, ax in enumerate(axes):
    first = (pictures.train.labels == label).nonzero()[0, 0]
    ax.imshow(pictures.train.images[first, 0], cmap="gray_r")
    ax.set_title(data.CLASSES[label], fontsize=11, loc="center")
    ax.axis("off")
figures.show(figure, alt="One training picture of each of the ten kinds of clothing.")

# %% [markdown]
# Some are hard even for you: a shirt, a pullover and a coat share most of their pixels.
#
# ## A real network
#
# `small_resnet` is a residual network (He et al., 2016) trained for this course; `python -m
# course_lib train small_resnet` trains it again in a few minutes.

# %% tags=["nbval-ignore-output"]
net = models.load_trained("small_resnet")
dense = training.accuracy(net, pictures.test)
low, high = quality.interval(dense, len(pictures.test.labels))
print(f"{sum(weight.numel() for weight in net.parameters()):,} weights")
print(f"{dense:.2f} % test accuracy (95 % interval {low:.1f} to {high:.1f})")

# %%
print("at least 91.5 %, as expected:", dense >= 91.5)

# %% [markdown]
# The *interval* reflects that 10,000 pictures are only a sample: a difference smaller than its
# width may be chance.
#
# ## The experiment: remove half of all weights
#
# A **mask** says which weights stay (True) and which go (False). *Sparsity* is the fraction of
# weights that are exactly zero. Lesson 01 builds the mask; here the library does it.

# %% tags=["nbval-ignore-output"]
half = masks.global_masks(net, sparsity=0.5)
pruned = masks.pruned_copy(net, half)
after = training.accuracy(pruned, pictures.test)
print(f"sparsity {masks.sparsity(pruned):.3f}: {after:.2f} % accuracy, {dense:.2f} % before")
reveal("00.half", max(0.0, dense - after), low=0, high=80, unit="points")

# %%
print("half of the weights are gone:", round(masks.sparsity(pruned), 3) == 0.5)
print("and it lost less than one point:", dense - after < 1)

# %% [markdown]
# Almost nothing happens. Would *any* half of the weights do? Remove a random half. Some of what is
# lost then is not in the weights: the network has stored statistics that no longer fit, and they
# can be measured again without labels or training. Lesson 01 explains that step; here are both
# numbers.

# %% tags=["nbval-ignore-output"]
random_half = masks.global_masks(net, 0.5, score=masks.random_scores(net, seed=0))
randomly = masks.pruned_copy(net, random_half)
stale = training.accuracy(randomly, pictures.test)
training.recalibrate(randomly, pictures.train.images[:1024])
new = training.accuracy(randomly, pictures.test)
print(f"a random half removed: {stale:.1f} % as it is, {new:.1f} % with new statistics")

# %%
print("a random half costs more than 20 points either way:", max(stale, new) < dense - 20)

# %% [markdown]
# The same number of zeros, and most of the accuracy is gone; guessing gives 10 %. What matters is
# *which* weights go. Lesson 01 shows how to choose them.
#
# ## What did we gain?
#
# Every result in this course has four axes: accuracy, bytes on disk, multiply-accumulates (MACs),
# and milliseconds. You have seen the accuracy. Here are two more; lesson 01 measures the time.

# %%
example = pictures.test.images[:1]
print("MACs  before", f"{cost.macs(net, example):,}", " after", f"{cost.macs(pruned, example):,}")
print("bytes before", f"{cost.stored_bytes(net):,}", " after", f"{cost.stored_bytes(pruned):,}")

# %%
work, zeros = cost.work(net, example), masks.layer_sparsity(pruned)
by_zero = sum(work[name.removesuffix(".weight")].macs * zeros[name] for name in zeros)
print(f"multiplications by zero: {by_zero / cost.macs(net, example):.0%} of all")

# %% [markdown]
# Nothing at all: a zero takes as many bytes as any other number, and is multiplied like any other.
# (Half of the weights are zero, but not half of the multiplications: the early layers, which use
# each weight most often, keep most of theirs.)
# This is the first surprise of the course, and half of the lessons are about it.
#
# ## Exercises check themselves
#
# **Exercise 00.1: sparsity.** Write the function, run the cell, and read the result of the check.
# It tries your function on small inputs and edge cases, and shows the smallest one that fails.
# Stuck? Remove the `#` before `hint` (as often as you like) or `solution`.


# %%
def sparsity(tensor):
    """Fraction of the weights in `tensor` that are exactly zero, as a Python float."""
    return ...


check("00.1", sparsity)

# %%
# hint("00.1")
# solution("00.1")

# %% [markdown]
# From the next lesson on, a function that you have built is imported from `course_lib`:
# `masks.sparsity(network)` does the same for a whole network.
#
# ## Claims become cards
#
# These are the claims. Each lesson tests some of them, draws a card with your numbers next to the
# textbook's words, and stores it for your report. `make run` runs all lessons and writes the report
# to `build/report.html`.

# %%
for claim in claims.load().values():
    print(f"{claim.id}  lesson {', '.join(claim.lessons):10s}  {claim.textbook}")

# %% [markdown]
# ## The map
#
# ```mermaid
# flowchart TB
#   accTitle: The lessons of the course
#   accDescr {
#     Four steps, one after the other. Find what can go: lessons 00 to 04. Make it pay: lessons 05
#     to 07. Other networks: lessons 08 to 11. Decide: lessons 12 and 13.
#   }
#   subgraph A["Find what can go"]
#     direction LR
#     L00["00 start<br>here"] --> L01["01 magnitude<br>pruning"] --> L02["02 channel<br>scoring"]
#     L02 --> L03["03 removing<br>channels"] --> L04["04 drop and<br>recovery"]
#   end
#   subgraph B["Make it pay"]
#     direction LR
#     L05["05 sparse<br>vs dense"] --> L06["06 structured<br>speed-up"]
#     L06 --> L07["07 prune and<br>quantize"]
#   end
#   subgraph C["Other networks"]
#     direction LR
#     L08["08<br>transformers"] --> L09["09 mixed<br>architectures"]
#     L09 --> L10["10 pruning or<br>distillation"] --> L11["11 language<br>models"]
#   end
#   subgraph D["Decide"]
#     direction LR
#     L12["12<br>choosing"] --> L13["13 interview<br>drill"]
#   end
#   A --> B --> C --> D
# ```
#
# The claims above name the lesson that tests each of them.
#
# ## Recap
#
# - *Sparsity* is the fraction of weights that are exactly zero.
# - Half of the weights of a trained network can go without loss of accuracy, if it is the right
#   half.
# - A mask alone saves neither bytes nor multiplications.
# - Predict first, then measure.
#
# ## Interview questions
#
# **1. What is the difference between sparsity and pruning ratio?**
#
# <details><summary>Answer</summary>
#
# Sparsity is the fraction of single weights that are exactly zero; the tensors keep their shape.
# *Pruning ratio* means different things in different papers: often the same as sparsity, sometimes
# the fraction of channels that go, sometimes what stays. In this course it is the fraction of whole
# channels, heads or neurons that are removed, which makes the tensors smaller. In an interview, say
# which one you mean.
#
# </details>
#
# **2. You set half of the weights to zero. How much smaller is the file?**
#
# <details><summary>Answer</summary>
#
# Not at all: stored densely, a zero takes as many bytes as any other number, as you have just
# measured. A smaller file needs a format that leaves the zeros out, and such a format has to store
# the positions of the remaining weights.
#
# </details>
#
# **3. Why is there a validation set besides the test set?**
#
# <details><summary>Answer</summary>
#
# Every choice (of sparsity, epoch or learning rate) slightly overfits the data that it was made on.
# If you choose on the validation set, the test set remains unbiased, as long as each result reads
# it once.
#
# </details>
#
# ## Where next
#
# **Lesson 01, magnitude pruning**: which weights can go, how many, and how a network recovers that
# lost too much accuracy.
