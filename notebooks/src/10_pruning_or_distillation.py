# %% [markdown]
# # 10 Pruning or distillation
#
# *Shrink the old network, or train a small one?*
#
# You will be able to
# - write the loss of distillation, and say what its temperature does,
# - measure what a teacher costs, and compare methods in equal *time* instead of equal epochs,
# - say how certain a difference between a few seeds is,
# - choose between pruning, distillation and training from scratch, for the time that you have.
#
# **Time**: 75 minutes of reading and exercises, under 90 s of compute
#
# **Claims** under test: C16, C22
#
# **Needs**: lessons 03 and 04. No network, no GPU.

# %%
import math
import time
from contextlib import ExitStack
from statistics import fmean

import matplotlib.pyplot as plt
import torch
from torch.nn import functional as F

from course_lib.bars import bar
from course_lib.deployment import forms
from course_lib.experiments import distillation, drop_recovery, recordings
from course_lib.experiments.distillation import METHODS, Setting, StudentRun

# %%
from course_lib.measuring.cost import macs
from course_lib.measuring.estimates import Estimate, difference, over_seeds, unpaired, widened
from course_lib.measuring.quality import STUDENT_T
from course_lib.networks import data, models
from course_lib.teaching import claims, figures, recovery
from course_lib.teaching.exercises import check, hint, solution
from course_lib.teaching.reading import read
from course_lib.teaching.widgets import explore, predict, reveal

# %%
plt.style.use(figures.STYLE)
pictures = data.fashion_mnist()
resnet18 = models.load_trained("resnet18")
at_the_end = ExitStack()  # closes the teacher's file
teacher = at_the_end.enter_context(forms.teacher("resnet18", pictures))

# %% [markdown]
# ## Predict
#
# You have a trained ResNet-18 and need a network of a sixtieth of its size. It can start from the
# weights that pruning leaves, or from fresh ones. And it can learn from the labels alone, or also
# from the large network, its **teacher** (Hinton, Vinyals and Dean, 2015).

# %%
predict(
    "10.cost",
    "In every step the teacher sees the pictures, too. How many times as long does a step take?",
    low=1,
    high=20,
    unit="x",
    step=0.1,
)

# %%
predict(
    "10.kept",
    "No teacher, 5 % of a full training: how far ahead is pruning over training from scratch?",
    low=-10,
    high=20,
    unit="points",
    step=0.5,
)

# %% [markdown]
# ## One student, four ways
#
# The **student** is ResNet-18 without seven eighths of its channels. All four students have this
# architecture, and therefore the same bytes, MACs and milliseconds. They differ in two things:

# %%
student = distillation.untrained("pruned", "resnet18", seed=0)
for name, network in {"teacher": resnet18, "student": student}.items():
    weights = sum(tensor.numel() for tensor in network.parameters())
    example = models.EXAMPLE.to(next(network.parameters()).device)
    print(f"{name}: {weights / 1e6:5.2f} M weights, {macs(network, example) / 1e6:5.1f} MMACs")
print()
for name, method in METHODS.items():
    start = "pruned weights" if method.pruned else "fresh weights"
    goal = "labels and teacher" if method.distilled else "labels"
    print(f"{name:20s} starts from {start}, learns from {goal}")

# %% [markdown]
# ## What a teacher says
#
# A label says "shirt" and no more. A teacher also says how likely a T-shirt is, and how unlikely a
# sandal. In the probabilities of a trained network that is hard to see, as one of them is mostly
# near 1. So they are **softened**: the logits are divided by a **temperature** before the softmax.
#
# **Exercise 10.1.** Return the probabilities of `logits` (pictures, classes) at a temperature.


# %%
def softened(logits, temperature):
    """Probabilities, shape (pictures, classes)."""
    return ...


check("10.1", softened)

# %%
# hint("10.1")
# solution("10.1")

# %% [markdown]
# Here is a shirt that the teacher is not quite sure about. Turn up the temperature.

# %%
shirts = pictures.validation.images[pictures.validation.labels == data.CLASSES.index("shirt")]
with torch.inference_mode():
    said = models.logits(resnet18, shirts)
sure = said.softmax(1)[:, data.CLASSES.index("shirt")]
chosen = int((sure - 0.7).abs().argmin())


# %%
def soft_labels(temperature):
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.8), width_ratios=(1, 2))
    left.imshow(shirts[chosen, 0], cmap="gray_r")
    left.axis("off")
    probabilities = (said[chosen] / temperature).softmax(0)
    right.barh(data.CLASSES, 100 * probabilities, color=figures.COLOURS["distilled"])
    right.set(xlabel="probability (%)", xlim=(0, 100), title=f"temperature {temperature}")
    right.tick_params(axis="y", labelsize=11)
    return figure


# %%
explore(
    soft_labels,
    (1, 2, 4, 8, 16),
    start=4,
    label="temperature",
    alt="A shirt, and the teacher's softened probabilities for all ten classes.",
)

# %% [markdown]
# At temperature 1, two classes have nearly all of the probability; at 16, all classes are nearly
# equal. In between, the student can learn what else the picture looks like, and how much. The mean
# over all shirts:

# %%
mean = (said / 4).softmax(1).mean(0)
ranked = [data.CLASSES[place] for place in mean.argsort(descending=True)]
print("most like a shirt: ", ", ".join(ranked[1:4]))
print("least like a shirt:", ranked[-1])

# %% [markdown]
# ## The loss
#
# The student's probabilities $q$ should approach the teacher's $p$, both softened by the same
# temperature $T$. The Kullback-Leibler divergence $\sum p \log (p / q)$ measures how far apart they
# are; it is zero where they agree. The labels keep a share of the loss:
#
# $$\text{loss} = s \, T^2 \sum p \log \frac{p}{q} + (1 - s) \, \text{cross-entropy}$$
#
# **Exercise 10.2.** `student` and `teacher` are logits (pictures, classes). The cross-entropy uses
# the student's logits without softening. Return the mean loss over the pictures.


# %%
def distillation_loss(student, teacher, labels, temperature, share):
    """The mean loss, a scalar tensor."""
    return ...


check("10.2", distillation_loss)

# %%
# hint("10.2")
# solution("10.2")

# %% [markdown]
# From here on `training.to_teacher` does this, with $T = 4$ and $s = 0.9$. Why $T^2$? Look at the
# gradient for a student that knows nothing yet (all logits zero).


# %%
def gradient(temperature, factor):
    """The norm of the gradient, for all shirts."""
    logits = torch.zeros_like(said, requires_grad=True)
    goal = (said / temperature).log_softmax(1)
    found = (logits / temperature).log_softmax(1)
    apart = F.kl_div(found, goal, reduction="batchmean", log_target=True)
    (factor * apart).backward()
    return float(logits.grad.norm())


# %%
temperatures = (1, 2, 4, 8, 16, 32)
norms = {
    "without the square": [gradient(one, 1) for one in temperatures],
    "times its square": [gradient(one, one**2) for one in temperatures],
}
colours = dict(zip(norms, (figures.COLOURS["dense"], figures.COLOURS["distilled"]), strict=True))
axes = figures.lines(
    temperatures, norms, xlabel="temperature", ylabel="norm of the gradient", colours=colours
)
axes.set(xscale="log", yscale="log", xticks=temperatures, xticklabels=map(str, temperatures))
axes.minorticks_off()
figures.show(axes.figure, alt="Gradient against temperature: it falls without the square only.")

# %%
plain = norms["without the square"]
print(f"from 16 to 32 it falls to 1/{plain[-2] / plain[-1]:.0f}")
squared = norms["times its square"]
print("with the square it stays within a factor of 3:", max(squared) < 3 * min(squared))

# %% [markdown]
# Softening divides the gradient by $T$ twice: once because the logits are divided by it, and once
# because the two distributions move closer together. Without the square, the labels would outweigh
# the teacher at a high $T$.
#
# ## What a teacher costs
#
# Each picture is shifted and mirrored differently in every epoch, and the teacher sees the same
# version as the student (Beyer et al., 2022, found that this matters). So a large network runs in
# every training step. Ours runs as the int8 file of lesson 07, the fastest form on a CPU. Time
# short trainings with and without it, in turns:

# %% tags=["nbval-ignore-output"]
brief = {"epochs": 1 / 78, "rounds": 6, "seconds": 6}
cost = distillation.teacher_cost("resnet18", pictures.train, teacher, **brief)
print(
    f"an epoch takes {cost['labels']:.1f} s with labels, {cost['teacher']:.1f} s with the teacher"
)
low, high = cost["interval"]
print(f"that is {cost['ratio']:.2f} times as long ({low:.2f} to {high:.2f})")
reveal("10.cost", cost["ratio"], low=1, high=20, unit="x")

# %% tags=["nbval-ignore-output"]
read(
    cost["ratio"] < 20,
    "The teacher has 64 times the MACs but costs far less than that: it runs forward only, without "
    "gradients and in int8. And most of the time of a step of so small a student is overhead.",
    "The teacher has 64 times the MACs, and on this machine int8 hardly compensates for that.",
)

# %% [markdown]
# At equal *epochs*, training with a teacher takes more time. To compare in equal time:
#
# **Exercise 10.3.** A budget is a share of the time that `epochs` epochs take without a teacher.
# How many epochs fit into it if each takes `cost` times as long?


# %%
def epochs_in_time(budget, epochs, cost):
    """Epochs, a float."""
    return ...


check("10.3", epochs_in_time)

# %%
# hint("10.3")
# solution("10.3")

# %% tags=["nbval-ignore-output"]
setting = Setting("resnet18", pictures, teacher, cost["ratio"])
for budget in distillation.TIME_FRACTIONS:
    epochs = [
        distillation.epochs_for(StudentRun(name, budget, 0), setting)
        for name in ("scratch", "distilled")
    ]
    print(f"{budget:4.0%} of the time: {epochs[0]:5.2f} epochs, with a teacher {epochs[1]:5.2f}")

# %% [markdown]
# ## Four students, live
#
# All train with the same recipe, with the learning-rate schedule shortened to their time. First all
# four train for 1 % of the time of a full training; then the two without a teacher for 5 %.

# %% tags=["nbval-ignore-output"]
live, seconds = {}, {}
runs = [StudentRun(method, 0.01, seed=0) for method in METHODS]
runs += [StudentRun(method, 0.05, seed=0) for method in ("scratch", "pruned")]
for run in bar(runs, "students"):
    start = time.perf_counter()
    trained = distillation.train(run, setting)
    seconds[run] = time.perf_counter() - start
    live[run] = distillation.point(run, trained, setting)
    print(
        f"{run.time_fraction:3.0%}  {run.method:20s} {live[run]['epochs']:.2f} epochs, "
        f"{seconds[run]:4.1f} s, {live[run]['accuracy']:.1f} % of the test pictures"
    )

# %% tags=["nbval-ignore-output"]
at_1, at_5 = (
    {run.method: point["accuracy"] for run, point in live.items() if run.time_fraction == budget}
    for budget in (0.01, 0.05)
)
alone, taught = (
    sum(seconds[run] for run in runs[:4] if METHODS[run.method].distilled == wanted)
    for wanted in (False, True)
)
print(f"in 1 %, those with a teacher trained for {taught:.1f} s, the others for {alone:.1f} s")
read(
    at_1["distilled"] < at_1["scratch"] and at_1["pruned and distilled"] < at_1["pruned"],
    "With so little time the teacher does not pay: each step takes longer, and there is still "
    "plenty to learn from the labels alone.",
    "At least one of the two students with a teacher is ahead here, even in so little time.",
)

# %% tags=["nbval-ignore-output"]
kept = at_5["pruned"] - at_5["scratch"]
reveal("10.kept", kept, low=-10, high=20, unit="points")
read(
    kept > 0,
    f"The trained weights are {kept:.1f} points ahead, in this one run.",
    f"The trained weights are {-kept:.1f} points behind, in this one run.",
)

# %% [markdown]
# ## The whole training, recorded
#
# Full trainings of all four take a quarter of an hour, so they were recorded, with three seeds:
# `python -m course_lib record distillation --model resnet18`.

# %%
recorded = recordings.load("distillation", "resnet18")[recordings.COURSE]
low, high = recorded["cost"]["interval"]
print(f"{len(recorded['points'])} students; with the teacher a step takes ", end="")
print(f"{recorded['cost']['ratio']:.1f} times as long ({low:.1f} to {high:.1f})")
for name in METHODS:
    found = distillation.by_seed(recorded, name, 1.0)
    print(f"{name:20s} after all of the time:", "  ".join(f"{one:.2f} %" for one in found))

# %% [markdown]
# Three seeds give three results: which is *the* accuracy? Report their mean; its uncertainty
# depends on how much they differ. But a standard deviation estimated from so few values is itself
# uncertain. Student (1908) found how wide the interval has to be: not 1.96 standard errors to
# either side, but 4.3 with three values, and 12.7 with two.
#
# **Exercise 10.4.** Return the mean and the low and high ends of the interval, `t` standard errors
# to either side. A single value has no interval: return None.


# %%
def mean_and_interval(values, t):
    """(mean, low, high), or None."""
    return ...


check("10.4", mean_and_interval)

# %%
# hint("10.4")
# solution("10.4")

# %% [markdown]
# From here on `estimates.over_seeds` does this; it takes the factor `t` from the number of values:

# %%
print("  ".join(f"{count}: {far:.1f}" for count, far in STUDENT_T.items()))

# %% [markdown]
# A third seed helps a lot, a ninth little. All of the recording:

# %%
STYLES = {
    "scratch": {"color": figures.COLOURS["dense"], "marker": "o"},
    "distilled": {"color": figures.COLOURS["distilled"], "marker": "D"},
    "pruned": {"color": figures.COLOURS["structured"], "marker": "s"},
    "pruned and distilled": {"color": figures.COLOURS["distilled"], "marker": "s", "ls": "--"},
}
TIME_FRACTIONS = distillation.TIME_FRACTIONS


# %%
def curve(axes, name, budgets):
    """Mean and interval of one method; budgets evenly spaced, methods side by side."""
    found = [over_seeds(distillation.by_seed(recorded, name, budget)) for budget in budgets]
    half = [each.high - each.value for each in found]
    mean = [each.value for each in found]
    shift = 0.05 * ([*METHODS].index(name) - 1.5)
    places = [place + shift for place in range(len(budgets))]
    axes.errorbar(places, mean, half, capsize=4, label=name, **STYLES[name])
    axes.set_xticks(range(len(budgets)), [f"{100 * budget:.0f}" for budget in budgets])


# %%
figure, pair = plt.subplots(1, 2, figsize=(10.4, 4.4), width_ratios=(3, 2))
for axes, budgets in zip(pair, (TIME_FRACTIONS, TIME_FRACTIONS[-2:]), strict=True):
    for name in METHODS:
        curve(axes, name, budgets)
    axes.set(xlabel="share of the time (%)")
pair[0].set(ylabel="test accuracy (%)", ylim=(0, 100))
pair[1].set(title="the end, enlarged", ylim=(80, 94))
pair[0].legend(loc="lower right", fontsize=11, handlelength=3)
figures.show(figure, alt="Accuracy against training time; methods with a teacher start behind.")

# %%
means = {
    name: {budget: fmean(distillation.by_seed(recorded, name, budget)) for budget in TIME_FRACTIONS}
    for name in METHODS
}
for budget in TIME_FRACTIONS:
    ranked = sorted(METHODS, key=lambda name: -means[name][budget])
    print(f"{budget:4.0%}", "  ".join(f"{name} {means[name][budget]:.1f}" for name in ranked))

# %% [markdown]
# Does it agree with your live run? Only to within a few points: after so short a training the
# accuracy of a small network depends on chance, and even the rounding of another processor or
# number of threads changes it.

# %% tags=["nbval-ignore-output"]
for name in ("scratch", "pruned"):
    points = recordings.points(recorded, method=name, time_fraction=0.05)
    seen = ", ".join(f"{point['accuracy']:.1f} %" for point in points)
    print(f"{name:8s} here {at_5[name]:.1f} %, recorded with three seeds {seen}")

# %% [markdown]
# ## Trained weights, or fresh ones?
#
# The first question: without a teacher, how far is pruning ahead of training from scratch? Two
# students of the same seed see the same pictures in the same order, so take the difference for each
# seed, and then the mean.


# %%
def lead(first, second, budget):
    """The lead of the first in points, for each seed, and the mean with its interval."""
    found = distillation.gains(recorded, first, second, budget)
    mean = over_seeds(found)
    seeds = " ".join(f"{one:6.2f}" for one in found)
    sure = "not clear" if mean.low <= 0 <= mean.high else ""
    interval = f"({mean.low:6.2f} to {mean.high:6.2f})"
    print(f"{budget:5.0%}  {seeds}   mean {mean.value:6.2f} {interval} {sure}")
    return mean


# %%
print("pruned minus scratch, seeds 0, 1 and 2")
kept = {budget: lead("pruned", "scratch", budget) for budget in TIME_FRACTIONS}

# %% [markdown]
# Without training both only guess: so few channels do not work without it. After 5 % the pruned
# network leads in every seed, but by such different amounts that the interval contains zero. After
# 1 and 20 % the seeds do not even agree on which one leads. And after the full training hardly any
# difference is left, as Liu et al. (2019) found for channels.
#
# These intervals cover the luck of the *training*. A sentence about accuracy in general also has to
# cover the luck of the 10,000 test *pictures*: the half-width of lesson 04 is added in quadrature.
# (It is larger than it need be, since both students saw the same test pictures, of which the
# recording has only the percentages.)


# %%
def in_general(led, first, second):
    """The lead of one accuracy over another, with the luck of the test pictures in its interval."""
    return widened(led, unpaired(first, second, len(pictures.test.labels)))


in_full = in_general(kept[1.0], means["pruned"][1.0], means["scratch"][1.0])
print(f"after all of the time, on these test pictures: {kept[1.0]} points")
print(f"on others, too:                                {in_full} points")

# %% [markdown]
# Your live students were those of seed 0, in which trained weights help most after 5 %. With a
# single seed you would have overestimated the lead.
#
# Seven eighths of the channels are a lot. The recording of lesson 04 has the lead of pruning over
# training from scratch after 20 % of the training, when less is removed from `small_resnet`:


# %%
def mean_of(values, others):
    """The mean and its interval; a single training is taken to vary as much as the others."""
    if len(values) > 1:
        return over_seeds(values)
    mean = over_seeds(others)
    half = math.sqrt(len(others)) * (mean.high - mean.value)
    return Estimate(values[0], values[0] - half, values[0] + half)


# %%
small, ahead = recovery.load("small_resnet"), {}
for amount in drop_recovery.AMOUNTS["channels"]:
    ways = [recovery.gaps(small, "channels", amount, method=way) for way in ("one-shot", "scratch")]
    led = difference(mean_of(ways[1], ways[0]), mean_of(*ways))
    percent = [small["dense"]["accuracy"] - fmean(gaps) for gaps in ways]
    ahead[amount] = in_general(led, *percent)
    print(f"without {amount:.0%} of the channels: {ahead[amount]} points")

# %% [markdown]
# With half of the channels or more, their weights are worth points; where 15 % stay, no lead can be
# seen.
#
# From which budget on is one method at least as good as another?
#
# **Exercise 10.5.** `first` and `second` map budgets to accuracies. Return the smallest budget at
# which `first` is at least as good, there and at every larger one; None if there is none.


# %%
def from_when_on(first, second):
    """A budget, or None."""
    return ...


check("10.5", from_when_on)

# %%
# hint("10.5")
# solution("10.5")

# %%
for first, second in (
    ("pruned", "scratch"),
    ("distilled", "scratch"),
    ("pruned and distilled", "pruned"),
):
    budget = distillation.crossover(means[first], means[second])
    when = "never, in this time" if budget is None else f"from {budget:.0%} of the time on"
    print(f"by the means, {first} is at least as good as {second}: {when}")

# %% [markdown]
# ## With a teacher, or without?
#
# The second question: with and without a teacher in equal time, and then distillation from fresh
# weights against pruning without a teacher.

# %%
PAIRS = (("distilled", "scratch"), ("pruned and distilled", "pruned"), ("distilled", "pruned"))
taught = {}
for first, second in PAIRS:
    print(f"{first} minus {second}")
    for budget in (0.05, 0.2, 1.0):
        taught[first, second, budget] = lead(first, second, budget)

# %% [markdown]
# With the time of a full training, the method with a teacher is slightly behind in every pair and
# seed. With less time it is mostly far behind: early on, more steps are worth more than better
# targets.
#
# Papers mostly compare at equal *epochs*, as if the teacher's time were free. Lesson 07 has such a
# student, `narrower`: pruned, and distilled for as many epochs as the others had without a teacher.

# %%
narrower = recordings.load("compression", "resnet18")[recordings.COURSE]
(free,) = recordings.points(narrower, network="narrower", form="float32")
pruned = distillation.by_seed(recorded, "pruned", 1.0)
led = difference(mean_of([free["accuracy"]], pruned), over_seeds(pruned))
by_epochs = in_general(led, free["accuracy"], fmean(pruned))
print(f"pruned, all of the time:               {means['pruned'][1.0]:.2f} %")
print(f"with a teacher, in equal time:         {means['pruned and distilled'][1.0]:.2f} %")
print(
    f"with a teacher, {recorded['cost']['ratio']:.1f} times the time:    {free['accuracy']:.2f} %"
)
print(f"in equal epochs the teacher adds {by_epochs} points")

# %% [markdown]
# In equal epochs the student with a teacher is ahead, in equal time it is behind. But both
# differences are small: in equal epochs, one student and 10,000 pictures are too few to distinguish
# the gain from zero. What three times the time would give *without* a teacher was not recorded. You
# can try it:

# %%
# trained = distillation.train(StudentRun("pruned", cost["ratio"], seed=0), setting, progress=bar)
# distillation.point(StudentRun("pruned", cost["ratio"], seed=0), trained, setting)

# %% [markdown]
# ## When is a teacher's time free?
#
# When it is shared. A teacher's logits can be **remembered** (cached) and looked up: MiniLM's
# teacher in lesson 08 reads each sentence only once, and every student looks up its logits. With
# augmented pictures it needs the logits of each *version*: shifting and mirroring give 50 here.
#
# **Exercise 10.6.** With a teacher that runs in every step, training takes `cost` times as long.
# Now the teacher runs once on each of the `versions` of every picture, and `students` trainings of
# `epochs` epochs look up the logits. How many times as long as without a teacher does each training
# take?


# %%
def cost_when_remembered(cost, epochs, versions, students):
    """Relative time of one training, its share of the teacher's time included."""
    return ...


check("10.6", cost_when_remembered)

# %%
# hint("10.6")
# solution("10.6")

# %%
ratio, students = recorded["cost"]["ratio"], range(1, 31)
lines = {
    f"{versions} version{'s' if versions > 1 else ''}": [
        distillation.remembered_cost(ratio, 12, versions, count) for count in students
    ]
    for versions in (50, 12, 1)
}
shades = dict(zip(lines, ("#5c1f52", figures.COLOURS["distilled"], "#d9a9d0"), strict=True))
how = {"xlabel": "students", "ylabel": "times as long, each", "colours": shades}
axes = figures.lines(students, lines, **how)
axes.axhline(ratio, color="black", linestyle="--")
axes.set(ylim=(0.8, 6), title="dashed: teacher runs in every step")
figures.show(axes.figure, alt="Cost of a cached teacher against the number of students.")

# %%
worth = [n for n in students if distillation.remembered_cost(ratio, 12, 50, n) < ratio]
print(f"all 50 versions pay from {worth[0]} students on")
megabytes = 50 * len(pictures.train.labels) * 10 * 2 / 1e6
print(f"and take {megabytes:.0f} MB: ten numbers of 16 bits each")

# %% [markdown]
# For a single student, caching all versions never pays. For a search over many students it soon
# does. With a single version, a teacher is nearly free even for one student, but its logits then
# belong to a picture that the student does not see: Beyer et al. (2022) found that this costs
# accuracy. Try it: logits for the original pictures, for students that see them shifted.

# %%
# from course_lib.networks import training
#
# with torch.inference_mode():
#     known = torch.cat([teacher(part) for part in pictures.train.images.split(500)])
# places = data.Images(pictures.train.images, torch.arange(len(known)))  # instead of labels
#
#
# def remembered(logits, images, places):
#     goal = training.to_teacher(lambda _: known[places])
#     return goal(logits, images, pictures.train.labels[places])
#
#
# trained = distillation.untrained("distilled", "resnet18", seed=0)
# how = {"optimizer": training.SGD(lr=0.1), "watch": training.Watch(bar)}
# training.fit(trained, places, epochs=0.6, seed=0, objective=remembered, **how)

# %% [markdown]
# ## Per byte
#
# All students have the same bytes, MACs and milliseconds, so the more accurate one is also more
# accurate *per byte*. In ONNX Runtime, one picture, one thread:

# %%
for row in recorded["deployed"]:
    if row["form"] != "packed":
        print(
            f"{row['network']:8s} {row['form']:8s} {row['accuracy']:.2f} %  "
            f"{row['bytes'] / 1000:6.0f} kB  {row['macs'] / 1e6:5.1f} MMACs  "
            f"{row['one thread']['median']:.3f} ms"
        )

# %%
whole, little = (
    recordings.points({"points": recorded["deployed"]}, network=name, form="float32")[0]
    for name in ("teacher", "student")
)
print(f"the student is {whole['bytes'] / little['bytes']:.0f} times smaller, ", end="")
print(f"and loses {whole['accuracy'] - little['accuracy']:.1f} points")
print("more than two points are lost:", whole["accuracy"] - little["accuracy"] > 2)

# %% [markdown]
# Int8 saves two thirds of the bytes but no time: arithmetic is a small part of the time of so small
# a network (lesson 07).
#
# ## The verdicts
#
# C16: distillation is more accurate per byte, and costs more training. All students have equal
# bytes; the accuracies are from the recording, the teacher's cost was measured here.

# %% tags=["nbval-ignore-output"]
source = f"recorded on {recordings.COURSE}"
context = "a student of ResNet-18, 10,000 test pictures, 3 seeds"
full = {
    pair: in_general(taught[*pair, 1.0], *(means[name][1.0] for name in pair)) for pair in PAIRS
}
from_recording = {
    "distilled_over_pruned": full["distilled", "pruned"],
    "teacher_fresh": full["distilled", "scratch"],
    "teacher_pruned": full["pruned and distilled", "pruned"],
    "teacher_pruned_epochs": by_epochs,
}
claims.record("C16", from_recording, context, source)
claims.record("C16", {"teacher_cost": Estimate(cost["ratio"], *cost["interval"])}, context)

# %% [markdown]
# The cost of a teacher is certain, its benefit is not. In equal time there is none against pruning
# alone, nor for fresh weights; what it adds to pruned weights is too close to call, in equal time
# and in equal epochs. It also depends on the teacher: ours has 64 times the MACs of its student.
# Where a teacher is hardly larger than its student, or a step spends its time elsewhere, equal time
# and equal epochs are nearly the same.
#
# C22: prune to keep trained weights, or when retraining is too expensive. All of it is recorded.

# %% tags=["nbval-ignore-output"]
measured = {
    f"kept_{100 * budget:.0f}": in_general(led, means["pruned"][budget], means["scratch"][budget])
    for budget, led in kept.items()
}
card22 = claims.record("C22", measured, context, source)
there = f"recorded on {small['name']}"
half = claims.record("C22", {"kept_20_half": ahead[0.5]}, "small_resnet, 10,000 pictures", there)
half

# %%
print(card22.here.text)
print(half.here.text)
at_the_end.close()

# %% [markdown]
# Keeping trained weights is worth it while half of the channels stay. With an eighth of them, three
# seeds and 10,000 pictures do not show whether the weights are worth a point: what certainly
# remains of pruning is the architecture.
#
# ## Recap
#
# - A teacher's probabilities show which classes are alike; the temperature makes the small ones
#   count, and its square keeps the gradient comparable to that of the labels.
# - A teacher costs training time. Measure it, and compare in equal time; equal epochs favour the
#   teacher.
# - Trained weights are a head start where many of them stay. With an eighth of the channels it
#   differs from seed to seed, so much that three seeds do not show whether there is one.
# - A few seeds give an interval, too: Student's, wider than the usual one, and narrower again for
#   paired differences. It covers the training; the luck of the test pictures comes on top.
# - A teacher's logits can be cached: its time is nearly free when many students share it.
#
# ## Interview questions
#
# **1. You need a network of a sixtieth of the size of the one that you have. Prune it, or distil?**
#
# <details><summary>Answer</summary>
#
# How much training time is there? With little of it, prune and fine-tune on the labels: a teacher
# slows down every step. Do not expect much from the old weights, though: at a sixtieth hardly any
# of them are left, and a fresh network is nearly as good. With plenty of time a teacher can be
# worth its cost. The two do not exclude each other: pruning sets the initial weights of the
# student, distillation its targets, and you can do both. Run two or three seeds before you trust a
# difference.
#
# </details>
#
# **2. Why soft labels, and what does the temperature do?**
#
# <details><summary>Answer</summary>
#
# A label names one class; the teacher's probabilities also say which of the others are likely, and
# so how classes relate. A trained network is so confident that these others are near zero. Dividing
# the logits by a temperature raises them. Gradients shrink with its square, so the loss is
# multiplied by that; at high temperatures the loss amounts to matching the logits.
#
# </details>
#
# **3. A paper reports two points more by distillation, after the same number of epochs. What do you
# ask?**
#
# <details><summary>Answer</summary>
#
# What a step with the teacher costs, and what the baseline reaches when it trains for as long. How
# many seeds, and the interval of the difference. Whether the baseline's learning rate, schedule and
# augmentation were tuned as carefully. And whether the teacher was trained for this purpose: then
# its training is part of the cost.
#
# </details>
#
# **4. Your teacher makes each step three times as long. How do you make it cheaper?**
#
# <details><summary>Answer</summary>
#
# It only runs forward: quantize it, use a larger batch or another device, or take a smaller
# teacher. Or cache its logits: that is simple where inputs repeat exactly, as sentences do;
# augmented pictures need a set for each version, which pays when many students share it. Logits of
# the original picture, for a student that sees it shifted, are cheaper still and worse.
#
# </details>
#
# **5. After 5 % of the training the pruned network leads, after all of it hardly. What does that
# say about pruning?**
#
# <details><summary>Answer</summary>
#
# That with so many channels gone, the remaining weights are a good start and not much more. Trained
# for long enough, fresh weights in the same architecture come close, as Liu et al. (2019) found:
# then the benefit of pruning is the architecture. Keeping the weights pays when training is short
# or expensive, when there are few data, or when little is removed and the network hardly has to be
# retrained.
#
# </details>
#
# ## Where next
#
# All of this was for networks that classify. **Lesson 11** takes a network that writes, where
# training again is out of the question for nearly everyone.
