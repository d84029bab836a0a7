# %% [markdown]
# # 13 Interview drill
#
# *Can I say it in sixty seconds?*
#
# You will be able to
# - answer what interviewers ask about pruning, with a number and its condition,
# - estimate speeds, bytes and points within a tolerance, and explain why an estimate was off,
# - turn a row of a table into one sentence that stands up to questions,
# - practise so that you remember: questions come back just before you would forget them.
#
# **Time**: 60 minutes of reading and exercises, under 15 s of compute, and then the drill
#
# **Claims** under test: none. All of them come back as answers.
#
# **Needs**: the lessons whose questions you want to practise. No network, no GPU.

# %%
from collections import Counter
from datetime import UTC, datetime, timedelta

import matplotlib.pyplot as plt
import numpy as np
from fsrs import Card, Rating, Scheduler

from course_lib.experiments import recordings
from course_lib.measuring.quality import interval
from course_lib.teaching import drill, drill_widgets, figures, questions, report
from course_lib.teaching.exercises import EXERCISES, check, hint, solution
from course_lib.teaching.widgets import choose, predict, reveal

plt.style.use(figures.STYLE)

# %% [markdown]
# ## Predict
#
# Below you answer ten questions from all lessons, a minute each, and tick the points of a strong
# answer that you made. An answer is good if it makes three quarters of the points in time.

# %%
predict(
    "13.ten",
    "Ten questions, a minute each: how many of your answers will be good?",
    low=0,
    high=10,
    unit="of 10",
)

# %% [markdown]
# ## The questions
#
# Every question has an answer that the course measured or took from a named paper, the points that
# a strong answer makes, and a common wrong answer with the reason why it is wrong.

# %%
bank = questions.load()
figures.show(drill_widgets.bank_figure(bank), alt="The number of questions by kind and lesson.")

# %%
kinds = Counter(question.kind for question in bank.values())
print(", ".join(f"{count} {questions.KINDS[kind]}" for kind, count in kinds.items()))
print(f"{len(bank)} questions on {len({question.claim for question in bank.values()})} claims")
per_lesson = Counter(question.lesson for question in bank.values())
print("at least ten for every lesson with claims:", min(per_lesson.values()) >= 10)

# %% [markdown]
# **Recall** calls for a definition, **explain** for a minute of reasons, **estimate** for a number,
# **spot the mistake** for a critical look at a confident sentence, and **design** for a plan of a
# deployment.
#
# ## Why be asked, and when again?
#
# Trying to recall an answer makes you remember it longer than reading it again (Roediger and
# Karpicke, 2006). So think first, say your answer aloud, and only then look.
#
# When should a question come back? Just before you would have forgotten it: then one answer is
# enough, and you remember it longer than before. The oldest scheme for that is a row of boxes
# (Leitner, 1972).
#
# **Exercise 13.1.** There are boxes 1 to 5. After a right answer a question moves up one box (at
# most to box 5), after a wrong one back to box 1. It waits one day in box 1, two in box 2, then 4,
# 8 and 16. Return its new box and the number of days that it waits there.


# %%
def next_box(box, right):
    """(the new box, the days until it comes back)."""
    return ...


check("13.1", next_box)

# %%
# hint("13.1")
# solution("13.1")

# %% [markdown]
# Boxes treat all questions alike. FSRS (Ye, Su and Cao, 2022; the library `fsrs`) keeps two numbers
# for each question instead, the *stability* of your memory of it and its *difficulty* so far, and
# asks again when the probability of recall has fallen to 90 %. Here is one question that is always
# answered well, and one that is forgotten once.


# %%
def followed(grades):
    """Days of the reviews, and the probability of recall on every day, for one question."""
    scheduler, start = Scheduler(enable_fuzzing=False), datetime(2030, 1, 1, tzinfo=UTC)
    card, now, days, chances = Card(card_id=0, due=start), start, [], []
    for grade in grades:
        card, _ = scheduler.review_card(card, grade, now)
        days.append((now - start) / timedelta(days=1))
        while now < card.due:
            chances.append(((now - start).days, scheduler.get_card_retrievability(card, now)))
            now = min(card.due, now + timedelta(days=1))
    return days, chances


# %%
lives = {
    "always good": [Rating.Good] * 6,
    "once forgotten": [Rating.Good] * 3 + [Rating.Again] + [Rating.Good] * 3,
}
figure, pair = plt.subplots(1, 2, figsize=(9.6, 3.6), sharey=True)
for axes, (name, grades) in zip(pair, lives.items(), strict=True):
    days, chances = followed(grades)
    axes.plot(*np.transpose(chances), color=figures.COLOURS["dense"])
    axes.plot(days, [1.0] * len(days), "k|", markersize=14)
    axes.set(title=name, xlabel="day", ylim=(0.8, 1.03))
pair[0].set(ylabel="probability of recall")
figures.show(figure, alt="Probability of recall by day: it falls to 0.9, each review resets it.")

# %%
for name, grades in lives.items():
    days, _ = followed(grades)
    print(f"{name:15s} asked on day", ", ".join(f"{day:.0f}" for day in days))

# %% [markdown]
# Each good answer makes the next interval longer. A forgotten question comes back the same day, and
# its intervals grow more slowly afterwards.
#
# ## Estimates
#
# *How many times faster?* An interviewer does not want three digits but the right order of
# magnitude, and the reason for it. Twice the truth and half of it are equally wrong, so the error
# is measured on a logarithmic scale.
#
# **Exercise 13.2.** Is `guess` at most `factor` times too large or too small? Exactly the factor
# counts as near; zero or the opposite sign never does.


# %%
def within_factor(guess, truth, factor):
    """True if the guess is near enough."""
    return ...


check("13.2", within_factor)

# %%
# hint("13.2")
# solution("13.2")

# %% [markdown]
# Where do the true values come from? Not from a book: each estimate names a value in a recording,
# yours if you have made it, otherwise the course's.

# %%
finder = questions.NumberFinder()
example = bank["05-csr-speed"]
print(questions.filled(example, finder).question)
for key, value in example.estimate.value.items():
    print(f"  {key:11s}", value)

# %% tags=["nbval-ignore-output"]
truth = finder.number(example.estimate.value)
print(f"{truth.value:.2f} times, {truth.origin}")
figure, axes = plt.subplots(figsize=(7.2, 2.0))
band = truth.value / example.estimate.factor, truth.value * example.estimate.factor
axes.axvspan(*band, color="#dddddd")
axes.plot([10, truth.value], [0, 0], "ko", markersize=10)
axes.annotate("naive", (10, 0.3), ha="center")
axes.annotate("measured", (truth.value, 0.3), ha="center")
ticks = [0.5, 1, 2, 5, 10, 20]
axes.set(xscale="log", xlabel="times faster", ylim=(-1, 1), yticks=[], xlim=(0.5, 20))
axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
figures.show(figure, alt="A logarithmic scale: the tolerance, the truth inside, 10 outside.")

# %%
print("ten times is near enough:", example.estimate.right(10, truth.value))
asked = [question for question in bank.values() if question.estimate]
found = [finder.number(question.estimate.value).value for question in asked]
origins = [finder.number(question.estimate.value).origin for question in asked]
measured = [origin for origin in origins if origin != "by arithmetic"]
print(f"{len(asked)} estimates, {len(measured)} of them from recordings")
print("all have a finite answer:", bool(np.isfinite(found).all()))

# %% [markdown]
# Values in the grey band count as right. "A tenth of the weights, so ten times faster" is outside.
#
# ## From a row to a sentence
#
# In an interview, a number without its condition is no better than a textbook claim. A sentence
# that stands up to questions has a direction, a size, an interval and a condition.
#
# **Exercise 13.3.** `what` is `ratio` times as fast as the dense network, with an interval from
# `low` to `high`. Return one of three sentences, with numbers to one decimal:
#
# - `"int8: 3.6 times faster (3.4 to 3.8), one picture."` if the interval is above 1,
# - `"int8: 2.0 times slower (1.6 to 2.5), one picture."` if it is below 1 (with the reciprocals of
#   all three numbers),
# - `"int8: no difference was measured (0.9 to 1.1), one picture."` if it contains 1.


# %%
def sentence(what, ratio, low, high, condition):
    """A sentence with direction, size, interval and condition."""
    return ...


check("13.3", sentence)

# %%
# hint("13.3")
# solution("13.3")

# %% [markdown]
# The reference solution's sentences about ResNet-18 in ONNX Runtime, from the course's recording:

# %%
SOME = ("dense", "int8"), ("weights", "float32"), ("channels", "float32"), ("channels", "int8")
say = EXERCISES["13.3"].reference
recorded = recordings.load("compression", "resnet18")[recordings.COURSE]
for point in recorded["points"]:
    if (point["network"], point["form"]) in SOME:
        timed = point["one thread"]
        what = f"{point['network']}, {point['form']}"
        print(say(what, timed["speedup"], *timed["interval"], "one picture, one thread"))

# %% [markdown]
# Not every row gives a strong sentence: with 95 % of the weights gone, nothing was gained in this
# runtime.
#
# ## Cards
#
# Questions that are due come first, then ten new ones. Think, say your answer aloud, press the
# button, and grade yourself honestly; estimates are graded automatically. With the keyboard, use
# Tab and Enter. Your grades are stored on this machine, and `make drill` continues in the terminal.

# %%
TODAY = datetime.now(UTC)
deck = drill.deck(bank, TODAY, seed=TODAY.toordinal(), new=10)
drill_widgets.cards(deck, finder)

# %% [markdown]
# New questions should not all be about one topic. From a shuffled pile, the topics take turns:
#
# **Exercise 13.4.** `topics` lists the topic of each question in the pile. Return the positions of
# `count` questions: the first one of every topic, in the order in which the topics appear, then the
# second one of every topic, and so on. If there are fewer questions, return fewer positions.


# %%
def balanced(topics, count):
    """Positions, topic by topic in turns."""
    return ...


check("13.4", balanced)

# %%
# hint("13.4")
# solution("13.4")

# %%
ten = drill.draw(bank, count=10, seed=12)
print("topics of ten questions:", ", ".join(question.topic for question in ten))

# %% [markdown]
# ## The mock interview
#
# Ten questions, a minute each. Say your answer aloud, press the button, and tick the points that
# you made. The summary at the end says what to read again.

# %%
another = TODAY.toordinal() + 1  # not the questions of the cards again
drill_widgets.interview(drill.draw(bank, count=10, seed=another), finder)

# %% [markdown]
# Here is what the summary looks like for a learner who makes one, two and three points in turn,
# always in forty seconds.

# %%
answers = []
for question in ten:
    made = 1 + len(answers) % 3
    ticked = tuple(place < made for place in range(len(drill.rubric(question, finder))))
    answers.append(drill.Answer(question, ticked, seconds=40))
print(drill.summary(answers))

# %% [markdown]
# ## How good am I?
#
# Suppose seven of ten answers were good. Is that better than six of ten last week? Ten questions
# are a sample, just as ten thousand pictures are, only a far smaller one.
#
# **Exercise 13.5.** Return the 95 % interval of `right` of `asked`, in percent (Wilson, 1927). With
# $p$ = right / asked, $n$ = asked and $z$ = 1.96: the centre is $p + z^2 / 2n$, half of the width
# $z \sqrt{p (1 - p) / n + z^2 / 4n^2}$, and both are divided by $1 + z^2 / n$.


# %%
def success_interval(right, asked):
    """(low, high) in percent."""
    return ...


check("13.5", success_interval)

# %%
# hint("13.5")
# solution("13.5")


# %%
def draw(count):
    """The interval for each share of good answers among `count` questions."""
    shares = np.linspace(0, 1, 11)
    ends = np.array([interval(100 * share, int(count)) for share in shares])
    figure, axes = plt.subplots(figsize=(7.2, 3.4))
    axes.fill_between(100 * shares, *ends.T, color="#dddddd")
    axes.plot([0, 100], [0, 100], color=figures.COLOURS["dense"])
    axes.set(xlabel="good answers (%)", ylabel="interval (%)", title=f"{count} questions")
    return figure


choose(draw, {"questions": ["10", "30", "150"]}, alt="The interval: wide for ten, narrow for 150.")

# %% [markdown]
# From here on `quality.interval` does this. Seven good answers out of ten are compatible with a
# true rate from four in ten to nine in ten. Do not read a trend into two evenings; the topics below
# say more.

# %% tags=["nbval-ignore-output"]
rows = drill.by_topic(bank, TODAY)
figures.show(drill_widgets.topics_figure(rows), alt="By topic: questions asked and known.")
answered = sum(row.asked for row in rows)
if answered:
    good = 10 * sum(row.known for row in rows) / answered
    reveal("13.ten", good, low=0, high=10, unit="of 10")
else:
    print("No answers yet. Run this cell again after some cards.")

# %%
print("every question belongs to a topic:", sum(row.questions for row in rows) == len(bank))

# %% [markdown]
# ## Recap
#
# - Recall, do not reread. You remember best what you recalled just before forgetting it.
# - An estimate has a size and a reason; factors are judged on a logarithmic scale.
# - A sentence that stands up to questions has a direction, a size, an interval and a condition.
# - Ten questions are a small sample. Practise by topic, and reread what the summary lists.
#
# ## Interview questions
#
# The question bank has those of all lessons; these are about the drill itself.
#
# **1. You have one evening before the interview. Do you read all notes again?**
#
# <details><summary>Answer</summary>
#
# No: ask yourself, and look only after you have tried. Recalling strengthens a memory more than
# reading does (Roediger and Karpicke, 2006). Begin with what you got wrong before, mix the topics,
# and stop while you can still sleep.
#
# </details>
#
# **2. "How much faster will it be?" You have no measurement. What do you say?**
#
# <details><summary>Answer</summary>
#
# An order of magnitude with its reason and its bounds: "half of the channels leave a quarter of the
# MACs, so at most four times; for one picture at a time on a CPU more likely two, as the overhead
# of each layer stays. I could measure it in an hour, like this." Name what would change it.
#
# </details>
#
# **3. Why is a guess of twice the truth judged like a guess of half of it?**
#
# <details><summary>Answer</summary>
#
# Speeds and sizes multiply. On a logarithmic scale both are equally far from the truth. By relative
# error the half would be 50 % off and the double 100 %, and a guess near zero would never be more
# than 100 % off.
#
# </details>
#
# **4. You do not know the answer. What now?**
#
# <details><summary>Answer</summary>
#
# Say so, and then how you would find out: which experiment, what you would keep equal, what you
# would measure, which result would decide. That is the job. The common mistake is to guess a number
# without saying that it is a guess.
#
# </details>
#
# **5. What do you do when an interviewer quotes a rule that you have measured to be wrong?**
#
# <details><summary>Answer</summary>
#
# Give the condition under which it holds, then your number with *its* condition: "that is right for
# one layer; for a whole ResNet-18 and one picture I measured more, because the next layer reads
# fewer channels as well." You have contradicted nobody, and shown that you measure.
#
# </details>
#
# ## Where next
#
# Your report: every claim with your numbers, to show in an interview. Then practise with
# `make drill`, a few minutes a day.

# %%
page = report.write()
print(f"Your report: {page.parent.name}/{page.name}")
