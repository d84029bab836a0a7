# %% [markdown]
# # NN TITLE
#
# *TODO: which one question does this lesson answer?*
#
# You will be able to
# - TODO: what the reader can do afterwards, beginning with a verb,
# - TODO: two to five such lines.
#
# **Time**: 10 minutes of reading and exercises, under 10 s of compute (TODO: your own times)
#
# **Claims** under test: none yet (TODO: those of `data/claims.json` that this lesson records)
#
# **Needs**: lesson 01 (TODO: the lessons that this one builds on). No network, no GPU.

# %%
from copy import deepcopy

import matplotlib.pyplot as plt

from course_lib.measuring import cost
from course_lib.networks import models
from course_lib.teaching import figures
from course_lib.teaching.exercises import check, hint, solution
from course_lib.teaching.widgets import predict, reveal

plt.style.use(figures.STYLE)

# %% [markdown]
# ## Predict
#
# TODO: say what will be measured, in two or three sentences, and what the textbook says about it.
# The reader commits to a number before anything runs.

# %%
predict(
    "NN.half",
    "The same network with 16-bit instead of 32-bit weights: how many times smaller is its file?",
    low=1,
    high=4,
    unit="x",
    step=0.1,
)

# %% [markdown]
# ## TODO: one idea
#
# TODO: a section has one idea: two or three sentences, a cell of at most fifteen lines, a picture,
# and a sentence that says what the picture shows. No sentence states a measured number: a cell
# prints it.
#
# **Exercise NN.1.** TODO: replace this example, and write at least three more. A trained network
# takes `dense_bytes`, and the file that is deployed `file_bytes`. Return the compression ratio: how
# many times smaller the file is.


# %%
def compression_ratio(dense_bytes, file_bytes):
    """How many times smaller the file is than the dense network."""
    return ...


check("NN.1", compression_ratio)

# %%
# hint("NN.1")
# solution("NN.1")

# %% [markdown]
# TODO: the experiment, on a real network. From here on the function of the exercise is imported
# from `course_lib`, so that a reader who skipped the exercise can go on.
#
# TODO: if an output depends on the machine, the tag `nbval-ignore-output` excludes it from the
# comparison (`# %% tags=["nbval-ignore-output"]`). Let the next cell print something that is the
# same on every machine: a rounded number, or whether a condition is met.

# %%
network = models.load_trained("small_resnet")
files = {
    "32 bits": cost.stored_bytes(network),
    "16 bits": cost.stored_bytes(deepcopy(network).half()),
}
ratio = files["32 bits"] / files["16 bits"]
print(f"{ratio:.1f} times smaller")
reveal("NN.half", ratio, low=1, high=4, unit="x")

# %%
kilobytes = {name: count / 1000 for name, count in files.items()}
axes = figures.bars(kilobytes, ylabel="kB", colour="quantized")
axes.set_xticks(range(len(files)), list(files), rotation=0)
figures.show(axes.figure, alt="Two bars: the file with 16 bits is half as large as with 32.")

# %% [markdown]
# TODO: a sentence that reads the picture.
#
# ## The verdicts
#
# TODO: for each claim of the first cell, `claims.record("Cnn", {"quantity": value}, context)` in a
# cell of its own computes the verdict and draws the card.
#
# ## Recap
#
# - TODO: what was seen, a line for each section.
#
# ## Interview questions
#
# **1. TODO: what would an interviewer ask about this?**
#
# <details><summary>Answer</summary>
#
# TODO: an answer that can be given in sixty seconds.
#
# </details>
#
# **2. TODO: a second question**
#
# <details><summary>Answer</summary>
#
# TODO: its answer.
#
# </details>
#
# **3. TODO: a third question**
#
# <details><summary>Answer</summary>
#
# TODO: its answer.
#
# </details>
#
# ## Where next
#
# TODO: the question that is left open, and the lesson that answers it.
