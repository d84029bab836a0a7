# %% [markdown]
# # 12 Choosing
#
# *Given this deployment, what do you do?*
#
# You will be able to
# - turn a product into a brief: hardware, bottleneck, network, targets, training budget,
# - answer nine questions to find the steps that fit, and name the measurement behind each,
# - predict the gain of two steps together, and find claims that contradict each other,
# - make a plan for ResNet-18 within limits, run it, and see its score.
#
# **Time**: 90 minutes of reading and exercises, under 60 s of compute
#
# **Claims** under test: C20
#
# **Needs**: lessons 05 to 10. No network, no GPU.

# %%
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap

from course_lib.decision import evidence, rules
from course_lib.decision.rules import BOTTLENECKS, HARDWARE, STEPS, Brief, decide, judge
from course_lib.networks import data
from course_lib.teaching import capstone, choosing, claims, figures, progress
from course_lib.teaching.capstone import Plan
from course_lib.teaching.exercises import check, hint, solution
from course_lib.teaching.exercises.lesson12 import contradictions
from course_lib.teaching.widgets import ask, choose, predict, reveal

# %%
plt.style.use(figures.STYLE)
pictures = data.fashion_mnist()
known = evidence.collected()

# %% [markdown]
# ## Predict
#
# "Sparse hardware: unstructured. Otherwise, or unsure: structured." The textbook decides by that
# sentence alone. Below are twenty products, each with its hardware and its targets.

# %%
predict(
    "12.sentence",
    "In how many of twenty cases does that sentence alone meet all targets?",
    low=0,
    high=20,
    unit="cases",
)

# %%
predict(
    "12.start",
    "ResNet-18 with an eighth of its channels, 5 % of the epochs: what validation accuracy?",
    low=50,
    high=95,
    unit="%",
    step=0.5,
)

# %% [markdown]
# ## What is known
#
# A decision is only as good as the measurements behind it. Ours are the recordings: yours from this
# machine, or the course's where you have none. Every compressed network in them is one piece of
# evidence: its steps, its training, its loss of accuracy and its gains.

# %% tags=["nbval-ignore-output"]
for source in dict.fromkeys(one.source for one in known):
    print(f"{sum(one.source == source for one in known):4d} networks from {source}")
print()
for name, form in (("dense", "int8"), ("channels", "float32"), ("channels", "int8")):
    one = next(one for one in known if (one.name, one.form) == (name, form))
    gains = f"{one.compression_ratio:.1f}x, {one.speedup:.1f}x"
    print(f"{name}, {form}: {one.accuracy_drop:.1f} points lost, {gains}")

# %%
kinds = {one.architecture: 0 for one in known}
for one in known:
    kinds[one.architecture] += 1
print("at least twenty of each kind of network:", min(kinds.values()) >= 20, [*kinds])

# %% [markdown]
# The rows show channels alone, int8 alone, and both: the two speed-ups do not multiply (lesson 07),
# because neither shortens all of the time.
#
# **Exercise 12.1.** One step alone makes the network `first` times faster, another alone `second`
# times. The share `fixed` of the dense time is shortened by neither; the rest is shortened by both.
# How many times faster are both together?


# %%
def together(first, second, fixed):
    """The speed-up of two steps together, from that of each alone."""
    return ...


check("12.1", together)

# %%
# hint("12.1")
# solution("12.1")

# %% [markdown]
# From here on `rules.combined` does this. How large is the fixed part? The time of the narrowest
# network is an upper bound: it has a sixtieth of the MACs, so most of its time is overhead.

# %% tags=["nbval-ignore-output"]
runtime = {(one.name, one.form): one for one in known if one.source.startswith("compression")}
channels, int8 = runtime["channels", "float32"].speedup, runtime["dense", "int8"].speedup
fixed = 1 / runtime["narrower", "float32"].speedup
promised = {
    "product": channels * int8,
    "with a fixed part": rules.combined(channels, int8, fixed),
    "measured": runtime["channels", "int8"].speedup,
}
for name, times in promised.items():
    print(f"{name:18s} {times:5.1f}x")

# %%
off = {name: abs(np.log(times / promised["measured"])) for name, times in promised.items()}
print("the fixed part explains most of it:", off["with a fixed part"] < off["product"] / 2)

# %% [markdown]
# With one more measured number, the estimate is much closer to the measurement.
#
# **Exercise 12.2.** `networks` maps each name to its "accuracy_drop" (in points),
# "compression_ratio" (times smaller) and "speedup" (times faster). Return the name of the network
# with the largest `gain` among those that lose at most `max_accuracy_drop`, or `"dense"` if there
# is none. Of equal gains, take the one that loses less.


# %%
def best_within(networks, gain, max_accuracy_drop):
    """Name of the best network within the limit; gain: "compression_ratio" or "speedup"."""
    return ...


check("12.2", best_within)

# %%
# hint("12.2")
# solution("12.2")

# %% [markdown]
# ## A brief
#
# What do you have to know before you prune anything? The answers to eight questions. Getting them
# is most of the work of a decision.

# %%
brief = Brief(
    hardware="unknown",
    bottleneck="compute",
    architecture="cnn",
    speedup=4,  # at least
    compression_ratio=20,
    max_accuracy_drop=1,  # points
    retraining=1.0,  # share of the original epochs
    keep_weights=False,
)
print("hardware:  ", ", ".join(HARDWARE))
print("bottleneck:", ", ".join(BOTTLENECKS))

# %% tags=["nbval-ignore-output"]
print(decide(brief, known))

# %%
print(*decide(brief, known).names, sep=", then ")

# %% [markdown]
# Each step comes with its reason, the claims that support it, and the gains to expect after it.
# These numbers are not written into the rules: the rules look up the closest recorded network that
# was made with exactly these steps, with no more training than the budget allows.
#
# A customer's first brief is rarely valid.

# %%
for change in ({"speedup": 0.5}, {"hardware": "laptop"}, {"speedup": 1}):
    try:
        decide(brief._replace(**change), known)
    except rules.BriefError as error:
        print(error)

# %% [markdown]
# **Exercise 12.3.** A small brief is a dictionary: "hardware" ("cpu", "gpu" or "unknown"),
# "bottleneck" ("time" or "bytes"), and the numbers "speedup", "compression_ratio" (at least 1) and
# "max_accuracy_drop" (at least 0). Return the first invalid field, in the order hardware, speedup,
# compression_ratio, max_accuracy_drop. If these are valid, return `"bottleneck"` if the target of
# the bottleneck is 1 (no gain) and that of the other is larger. Return None if the brief is valid.


# %%
def wrong_field(brief):
    """The name of the first invalid field, or None."""
    return ...


check("12.3", wrong_field)

# %%
# hint("12.3")
# solution("12.3")

# %% [markdown]
# ## The framework, as a picture
#
# Answer nine questions from top to bottom; at each yes, take that step. "Short" means that, by the
# recordings, the steps so far do not meet the targets. The picture is drawn from the same rules
# that `decide` follows. Press the buttons: what changes with the hardware, the network, the
# training?

# %%
ASKED = {"1.5 times": 1.5, "4 times": 4.0, "30 times": 30.0}
TRAINING = {"none": 0.0, "a fifth": 0.2, "all epochs": 1.0, "more": 1.5}


def path(hardware, bottleneck, network, asked, training):
    """The picture for one brief that allows a loss of at most one point."""
    wanted = {BOTTLENECKS[bottleneck]: ASKED[asked]}
    brief = Brief(hardware, bottleneck, network, retraining=TRAINING[training], **wanted)
    return choosing.picture(decide(brief, known))


# %% tags=["nbval-ignore-output"]
choose(
    path,
    {
        "hardware": ["unknown", *(name for name in HARDWARE if name != "unknown")],
        "bottleneck": [*BOTTLENECKS],
        "network": [*evidence.ARCHITECTURES],
        "asked": ["4 times", "1.5 times", "30 times"],
        "training": ["all epochs", "none", "a fifth", "more"],
    },
    alt="Nine questions from top to bottom; the path of one brief is highlighted.",
)

# %%
for network in evidence.ARCHITECTURES:
    unsure = Brief("unknown", "compute", network, speedup=1.3, max_accuracy_drop=1, retraining=1.0)
    print(f"unsure of the hardware, {network}:", ", ".join(decide(unsure, known).names))

# %% [markdown]
# Unsure means structured, and for a mix of convolutions and attention zeros in addition (lesson
# 09). Press "microcontroller" and "RAM" next, then "gpu with 2:4". All times were measured on CPUs:
# for a GPU the picture says "at most", from the MACs, and for 2:4 it uses the ceiling of 2x that
# Mishra et al. (2021) give for products on sparse tensor cores.
#
# ## Claims that cannot both be right
#
# Textbooks give several rules, each convincing. Do they agree?
#
# **Exercise 12.4.** `claims` maps names to pairs: the conditions (for each field a set of values),
# and the advice. Two claims contradict each other if their advice differs and one deployment can
# meet the conditions of both: each field that is in both has a value allowed by both. Return all
# such pairs of names, in the order of the claims.


# %%
def my_contradictions(claims):
    """A list of pairs of names."""
    return ...


check("12.4", my_contradictions)

# %%
# hint("12.4")
# solution("12.4")

# %%
skips, others = {"gpu with 2:4"}, {name for name in HARDWARE if not HARDWARE[name].two_four}
TEXTBOOK = {
    "C17 (transformers)": ({"network": {"transformer"}}, "unstructured"),
    "C18 (CNNs)": ({"network": {"cnn"}}, "structured"),
    "C20 (sparse hardware)": ({"hardware": skips}, "unstructured"),
    "C20 (otherwise)": ({"hardware": others}, "structured"),
    "C14 (memory)": ({"bottleneck": {"download", "RAM"}}, "unstructured"),
}
for one, other in contradictions(TEXTBOOK):
    print(f"{one} against {other}")

# %% [markdown]
# For a transformer on an ordinary CPU, C17 says one thing and C20 another. In an interview, that is
# the moment to ask for the bottleneck and then for a measurement, rather than to quote a third
# rule.
#
# ## Twenty cases
#
# Products and targets are drawn at random with a fixed seed. Each case can be solved: some recorded
# network meets its targets. Choose a case, tick your steps, and press the button. An answer is
# right if a network made with exactly these steps meets the targets, so several can be right.

# %%
cases = {case.product: case.brief for case in rules.cases(seed=9, known=known)}


def told(brief):
    """A brief as text."""
    asked = {"faster": brief.speedup, "smaller": brief.compression_ratio}
    targets = [f"{number:g} times {name}" for name, number in asked.items() if number > 1]
    keep = "; the trained weights must be kept" if brief.keep_weights else ""
    return (
        f"{brief.architecture} on {brief.hardware}; bottleneck: {brief.bottleneck}; "
        f"target: {' and '.join(targets) or 'none'}; "
        f"at most {brief.max_accuracy_drop:g} points lost; "
        f"training: {100 * brief.retraining:.0f} % of the epochs{keep}"
    )


# %% tags=["nbval-ignore-output"]
answers = {}
ask(
    {product: told(brief) for product, brief in cases.items()},
    (*STEPS, rules.NOTHING),
    lambda product, steps: str(judge(cases[product], steps, known)),
    answers,
)

# %%
print(f"{len(cases)} cases; you have answered {len(answers)}")

# %% [markdown]
# You can also enter them as code: `answers["spam filter of a mail server"] = ("quantize",)`. Here
# is what `judge` says about the first case and three answers.

# %% tags=["nbval-ignore-output"]
product, brief = next(iter(cases.items()))
print(f"{product}: {told(brief)}\n")
for steps in (("unstructured",), ("quantize",), decide(brief, known).names):
    print(f"{', '.join(steps)}\n   {judge(brief, steps, known)}")

# %%
right = {name: rules.right_answers(each, known) for name, each in cases.items()}
print("every case has a right answer:", all(right.values()))
print("most have more than one:", sum(len(ways) > 1 for ways in right.values()) > 10)

# %% [markdown]
# Now all twenty cases, answered by the picture, the textbook's sentence alone, "always int8", and
# you. A filled cell means that the answer meets the targets.

# %%
ways = {
    "the picture": lambda product: decide(cases[product], known).names,
    "the textbook": lambda product: rules.textbook(cases[product]),
    "always int8": lambda product: ("quantize",),
    "you": lambda product: answers.get(product, ()),
}
verdicts = {
    way: [judge(cases[product], choice(product), known).accepted for product in cases]
    for way, choice in ways.items()
}

# %% tags=["nbval-ignore-output"]
figure, axes = plt.subplots(figsize=(10.4, 6.4))
filled = ListedColormap(["white", figures.COLOURS["dense"]])
axes.imshow([*zip(*verdicts.values(), strict=True)], cmap=filled, vmin=0, vmax=1, aspect="auto")
axes.set_yticks(range(len(cases)), cases, fontsize=11)
axes.set_xticks(range(len(ways)), [f"{way}\n{sum(verdicts[way])} of 20" for way in ways])
axes.set_xticks(np.arange(0.5, len(ways)), minor=True)
axes.set_yticks(np.arange(0.5, len(cases)), minor=True)
axes.grid(visible=False)
axes.grid(which="minor", color="black")
axes.tick_params(which="both", length=0)
figures.show(figure, alt="Twenty cases, four ways to answer them: filled where targets are met.")

# %%
print("the picture is right in at least 18 of 20:", sum(verdicts["the picture"]) >= 18)
print("the sentence alone in fewer than 15:", sum(verdicts["the textbook"]) < 15)

# %% tags=["nbval-ignore-output"]
reveal("12.sentence", sum(verdicts["the textbook"]), low=0, high=20, unit="cases")
yours = [product for product in answers if judge(cases[product], answers[product], known).accepted]
same = [name for name in answers if set(answers[name]) == set(decide(cases[name], known).names)]
print(f"you answered {len(answers)}: {len(yours)} right, {len(same)} the same as the picture")

# %% [markdown]
# Where does the picture fail? It is greedy: it takes cheap steps first and never goes back. Over a
# thousand cases from other seeds:

# %%
many = [case.brief for seed in range(100, 150) for case in rules.cases(seed, known)]
wrong = [each for each in many if not judge(each, decide(each, known).names, known).accepted]
print(f"{len(many)} cases; right in more than 95 %:", len(wrong) < 0.05 * len(many))

# %% tags=["nbval-ignore-output"]
print(f"wrong in {len(wrong)}")
for each in wrong[:2]:
    print(f"\n{told(each)}\n   the picture: {', '.join(decide(each, known).names)}")
    print(f"   right: {', '.join(rules.right_answers(each, known)[0])}")

# %%
print(
    "every wrong answer includes unstructured pruning:",
    all("unstructured" in decide(each, known).names for each in wrong),
)

# %% [markdown]
# ## Does it pay?
#
# **Exercise 12.5.** A smaller network took `training` seconds to make. A picture takes `dense`
# milliseconds with the old network and `small` with the new one. After how many pictures has the
# training paid for itself? Return None if it never does.


# %%
def paid_after(training, dense, small):
    """A whole number of pictures, or None."""
    return ...


check("12.5", paid_after)

# %%
# hint("12.5")
# solution("12.5")

# %% [markdown]
# ## The capstone
#
# There are three limits for ResNet-18: the bytes of the file that the runtime reads, the time for a
# picture as a share of the dense network's, and the accuracy. They are drawn at random with a seed,
# from what recorded networks reached with some margin, so that they can be met.

# %%
limits = capstone.drawn(seed=5)
print(limits)

# %% [markdown]
# A plan says how many channels and how many weights go, whether the network is deployed in int8,
# how long it trains (as a share of the recipe's epochs), and whether the dense network is its
# teacher. `capstone.run` really does all of it: it prunes, trains on Fashion-MNIST, quantizes, and
# times in ONNX Runtime in turns with the dense network.
#
# The **score** is 100 times the mean of three parts, each at most 1, so that 100 means that all
# targets are met. The parts for bytes and for time are the limit divided by the measured value; the
# part for accuracy is 1 minus a tenth for each missing point. The accuracy is measured on the
# *validation* pictures, because choosing among attempts is a choice.
#
# `capstone.estimate` says in advance how long a plan will take. Compare:

# %% tags=["nbval-ignore-output"]
plans = {
    "the quick one": Plan(channels=0.875, epochs=0.05),
    "longer": Plan(channels=0.875, epochs=1.0),
    "wider": Plan(channels=0.75, epochs=0.2),
}
seconds = {name: capstone.estimate(plan, pictures) for name, plan in plans.items()}
for name, plan in plans.items():
    print(f"{name:14s} about {seconds[name]:5.0f} s   {plan}")

# %% tags=["nbval-ignore-output"]
attempt = capstone.run(plans["the quick one"], limits, pictures)
print(attempt)
reveal("12.start", attempt.accuracy, low=50, high=95, unit="%")

# %% tags=["stable"]
print("small enough:", attempt.parts["bytes"] == 1)
print("so little training is not enough:", attempt.accuracy < limits.accuracy - 2)

# %% [markdown]
# The accuracy is too low. Does it need more training, more channels, or a teacher? Look at the
# recordings first, which costs nothing:

# %% tags=["nbval-ignore-output"]
small = [one for one in known if one.form == "int8" and one.compression_ratio > 50]
for one in small:
    if one.architecture == "cnn" and one.epoch_fraction <= 1:
        ratio, drop = one.compression_ratio, one.accuracy_drop
        print(f"{one.name:16s} {drop:4.1f} points lost, {ratio:5.1f}x, {one.epoch_fraction:.0%}")

# %%
full = [one.accuracy_drop for one in runtime.values() if one in small]
print("all epochs and a teacher lose less than half a point:", min(full) < 0.5)

# %% [markdown]
# The board lists all attempts at these limits on this machine. The best attempt has the highest
# score and, among equal scores, the least training.

# %% tags=["nbval-ignore-output"]
print(capstone.table(capstone.remember(attempt, progress.folder())))

# %% [markdown]
# Your turn. Another `seed` gives other limits; `capstone.board(progress.folder(), limits)` returns
# the attempts. Measure the *test* accuracy once, for the network that you would deploy (lesson 07
# shows how).

# %%
# mine = Plan(channels=0.75, weights=0.0, int8=True, epochs=0.2, teacher=False)
# attempt = capstone.run(mine, limits, pictures)
# print(attempt)
# print(capstone.table(capstone.remember(attempt, progress.folder())))

# %% [markdown]
# ## The verdict
#
# C20: sparse hardware, unstructured; otherwise, or unsure, structured. How much does each kind of
# pruning gain at a loss of at most one point? On ordinary hardware the gain of zeros is what was
# measured in the runtime; on sparse hardware 2:4 is credited with its ceiling, which no whole
# network reaches. If you are unsure of the hardware, assume the worse of the two.

# %% tags=["nbval-ignore-output"]
zeros, fewer = "unstructured", "structured"
measurements = {
    f"{kind}_structured_over_unstructured": rules.most("speedup", known, kind, fewer)
    / rules.most("speedup", known, kind, zeros)
    for kind in evidence.ARCHITECTURES
}
packed = [
    rules.most("compression_ratio", known, "cnn", kind, form="packed") for kind in (fewer, zeros)
]
measurements["packed_structured_over_unstructured"] = packed[0] / packed[1]
for name, paid in (("short", 0.2), ("full", 1.0)):
    fastest = rules.most("speedup", known, "transformer", fewer, epoch_fraction=paid)
    measurements[f"two_four_over_structured_{name}"] = rules.TWO_FOUR_CEILING / fastest
claims.record("C20", measurements, "the recordings of lessons 05 to 10, one thread of a CPU")

# %%
print("structured is faster for the CNN:", measurements["cnn_structured_over_unstructured"] > 1)

# %% [markdown]
# The sentence is a good start, and no more. "Otherwise structured" is right for networks with
# plenty of channels, heads or neurons; in narrow networks structured pruning costs too much
# accuracy. And sparse hardware wins while there is little time to train: with a full training,
# structured pruning exceeds even its ceiling.
#
# ## Recap
#
# - Start with a brief: hardware, bottleneck, network, three targets, training, weights.
# - Cheap steps first: int8 needs no training, and is often enough.
# - Unsure of the hardware: structured, because smaller tensors are faster everywhere.
# - A rule only predicts a measurement. Where two rules contradict each other, measure.
# - Speed-ups do not multiply; without the fixed part of the time they nearly do.
# - An answer is judged by the targets, not by the rule behind it. Several can be right.
#
# ## Interview questions
#
# **1. You get a network and "make it faster". What do you ask?**
#
# <details><summary>Answer</summary>
#
# On which hardware does it run, and what does that accelerate (int8, 2:4, small batches)? What is
# the bottleneck: arithmetic, memory bandwidth, the download, RAM? How much faster, how much
# smaller, how many points may it lose, measured on which data? How much training is affordable, and
# is the training data available? Must these weights be kept? Then profile before you prune.
#
# </details>
#
# **2. Nobody knows yet what it will run on. Structured or unstructured?**
#
# <details><summary>Answer</summary>
#
# Structured: what is left is an ordinary, smaller network, faster on anything. Zeros gain time only
# where a kernel or a unit skips their pattern; elsewhere they gain nothing. The exceptions are a
# network so narrow that structured pruning costs too much accuracy, and a product for which only
# the bytes of the download count.
#
# </details>
#
# **3. The target has sparse tensor cores. Is 2:4 the answer?**
#
# <details><summary>Answer</summary>
#
# It is at most twice as fast, for products with weights, at large enough sizes; all the rest of the
# time stays (Amdahl). It costs little accuracy, often after only a short fine-tune. If the target
# is higher, removing heads, neurons or channels goes further; the two can be combined, if you
# measure the combination.
#
# </details>
#
# **4. You may not retrain at all. What is left?**
#
# <details><summary>Answer</summary>
#
# Int8 after calibration: four times smaller, and faster where the hardware has int8 products. For
# transformers, half of the weights in one shot (SparseGPT, Wanda) for a point or two, which pays
# only with 2:4 hardware or in a packed file. Structured pruning without any training loses far too
# much.
#
# </details>
#
# **5. A colleague says: pruning gives 10x, int8 gives 4x, so we promise 40x. What do you reply?**
#
# <details><summary>Answer</summary>
#
# For bytes that is nearly right; for time it is not. Neither step shortens the fixed part, which is
# already included in each measured speed-up. Take it out, multiply the factors of the rest, add it
# again, and measure the combination in the runtime of the target before you promise it.
#
# </details>
#
# ## Where next
#
# You can now decide, and say why. **Lesson 13** has you do it against the clock, in an interview.
