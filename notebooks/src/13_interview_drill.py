# %% [markdown]
# # 13 Interview drill
#
# *Can I say it in sixty seconds?*
#
# You will be able to
# - answer what interviewers ask about pruning, with a number and its condition,
# - estimate speeds, bytes and points within a tolerance, and know why you were off,
# - turn a row of a table into one sentence that holds under questions,
# - practise so that it stays: questions come back just before you would forget them.
#
# **Time**: 60 minutes of reading and exercises, under 15 s of compute, and then the drill
#
# **Claims** under test: none. All of them come back as answers.
#
# **Needs**: the lessons whose questions you want to be asked. No network, no GPU.

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
# Below you will be asked ten questions from all lessons, a minute each, and tick which points of a
# strong answer you made. An answer with three quarters of the points, in time, is a good one.

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
figures.show(
    drill_widgets.bank_figure(bank), alt="How many questions of each kind every lesson has."
)

# %%
kinds = Counter(question.kind for question in bank.values())
print(", ".join(f"{count} {questions.KINDS[kind]}" for kind, count in kinds.items()))
print(f"{len(bank)} questions on {len({question.claim for question in bank.values()})} claims")
per_lesson = Counter(question.lesson for question in bank.values())
print("at least ten for every lesson with claims:", min(per_lesson.values()) >= 10)

# %% [markdown]
# **Recall** wants a definition, **explain** a minute of reasons, **estimate** a number, **spot the
# mistake** a second look at a confident sentence, and **design** a plan for a deployment.
#
# ## Why be asked, and when again?
#
# Whoever tries to recall remembers longer than whoever reads the page again (Roediger and Karpicke,
# 2006). So think first, say it aloud, and only then look.
#
# When should a question come back? Just before you would have forgotten it: then it costs one
# answer, and the memory lasts longer than before. The oldest scheme for that is a row of boxes
# (Leitner, 1972).
#
# **Exercise 13.1.** There are boxes 1 to 5. After a right answer a question moves one box up, after
# a wrong one back to box 1. In box 1 it waits one day, in box 2 two, then 4, 8 and 16. Return its
# new box and for how many days it waits there.


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
# for each question instead, how *stable* its memory is and how *difficult* it was so far, and asks
# again when the chance of recall has sunk to 90 %. Here is one question that is always answered
# well, and one that is forgotten once.


# %%
def followed(grades):
    """Days of the reviews, and the chance of recall on every day, for one question."""
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
pair[0].set(ylabel="chance of recall")
figures.show(figure, alt="Chance of recall over days: it sinks to 0.9, and each review lifts it.")

# %%
for name, grades in lives.items():
    days, _ = followed(grades)
    print(f"{name:15s} asked on day", ", ".join(f"{day:.0f}" for day in days))

# %% [markdown]
# Each good answer makes the next pause longer. What was forgotten comes back the same day, and its
# pauses grow more slowly afterwards.
#
# ## Estimates
#
# *How many times faster?* An interviewer does not want three digits but the right size, and the
# reason for it. Twice too large and half as large are equally wrong, so what is near is a matter
# of logarithms.
#
# **Exercise 13.2.** Is `guess` at most `factor` times too large or too small? Exactly the factor
# counts as near; zero or the other sign never does.


# %%
def within_factor(guess, truth, factor):
    """True if the guess is near enough."""
    return ...


check("13.2", within_factor)

# %%
# hint("13.2")
# solution("13.2")

# %% [markdown]
# Where does the truth come from? Not from a book: each estimate names a place in a recording, yours
# if you have taken it, else the course's.

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
figures.show(figure, alt="A logarithmic scale with the tolerance, the truth in it, and 10 outside.")

# %%
print("ten times is near enough:", example.estimate.right(10, truth.value))
asked = [question for question in bank.values() if question.estimate]
found = [finder.number(question.estimate.value).value for question in asked]
measured = [question for question in asked if "number" not in question.estimate.value]
print(f"{len(asked)} estimates, {len(measured)} of them from recordings")
print("all have a finite answer:", bool(np.isfinite(found).all()))

# %% [markdown]
# The grey band is what counts as right. "A tenth of the weights, so ten times faster" lies outside.
#
# ## From a row to a sentence
#
# In an interview a number without its condition is a textbook claim again. A sentence that holds
# has a direction, a size, an interval and a condition.
#
# **Exercise 13.3.** A row says how many times as fast `what` is: `ratio`, with its interval from
# `low` to `high`. Write one of three sentences, numbers with one decimal:
#
# - `"int8: 3.6 times faster (3.4 to 3.8), one picture."` if the interval lies above 1,
# - `"int8: 2.0 times slower (1.6 to 2.5), one picture."` if it lies below, everything turned round,
# - `"int8: no difference was measured (0.9 to 1.1), one picture."` if it holds 1.


# %%
def sentence(what, ratio, low, high, condition):
    """A sentence with direction, size, interval and condition."""
    return ...


check("13.3", sentence)

# %%
# hint("13.3")
# solution("13.3")

# %% [markdown]
# The library's sentences about ResNet-18 in ONNX Runtime, from the course's recording:

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
# The same row can carry a strong sentence or none at all: 95 % of the weights are gone, and in this
# runtime nothing was gained.
#
# ## Cards
#
# What is due comes first, then ten new ones. Think, say it aloud, press the button, and grade
# yourself honestly; an estimate grades itself. With the keyboard: Tab and Enter. Your grades are
# kept on this machine, and `make drill` goes on in the terminal.

# %%
TODAY = datetime.now(UTC)
deck = drill.deck(bank, TODAY, seed=TODAY.toordinal(), new=10)
drill_widgets.cards(deck, finder)

# %% [markdown]
# New ones should not all be about one thing. From a shuffled pile the topics take turns:
#
# **Exercise 13.4.** `topics` holds the topic of each question of the pile. Return the positions of
# `count` questions: the first one of every topic, in the order in which the topics appear, then the
# second one of every topic, and so on. Where there are fewer, return fewer.


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
# you made. At the end it says what to read again.

# %%
another = TODAY.toordinal() + 1  # not the questions of the cards again
drill_widgets.interview(drill.draw(bank, count=10, seed=another), finder)

# %% [markdown]
# Here is what the summary looks like, for somebody who makes one point, two and three in turn, each
# time in forty seconds.

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
# Seven of ten were good. Is that better than six of ten last week? Ten questions are a sample, as
# ten thousand pictures are, only a far smaller one.
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
    """What so many questions tell: the share of good answers and its interval."""
    shares = np.linspace(0, 1, 11)
    ends = np.array([interval(100 * share, int(count)) for share in shares])
    figure, axes = plt.subplots(figsize=(7.2, 3.4))
    axes.fill_between(100 * shares, *ends.T, color="#dddddd")
    axes.plot([0, 100], [0, 100], color=figures.COLOURS["dense"])
    axes.set(xlabel="good answers (%)", ylabel="interval (%)", title=f"{count} questions")
    return figure


choose(draw, {"questions": ["10", "30", "150"]}, alt="The interval: wide for ten, narrow for 150.")

# %% [markdown]
# From here on `quality.interval` does this. After ten questions seven good ones mean anything from
# four in ten to nine in ten. Do not read a trend into two evenings; the topics below say more.

# %% tags=["nbval-ignore-output"]
rows = drill.by_topic(bank, TODAY)
figures.show(drill_widgets.topics_figure(rows), alt="By topic: how many were asked, and are known.")
answered = sum(row.asked for row in rows)
if answered:
    good = 10 * sum(row.known for row in rows) / answered
    reveal("13.ten", good, low=0, high=10, unit="of 10")
else:
    print("Nothing answered yet. Run this cell again after some cards.")

# %%
print("every question belongs to a topic:", sum(row.questions for row in rows) == len(bank))

# %% [markdown]
# ## Recap
#
# - Recall, do not reread. What you nearly forgot, and then found, stays.
# - An estimate has a size and a reason; a factor is judged in logarithms.
# - A sentence that holds under questions has direction, size, interval and condition.
# - Ten questions are a small sample. Practise by topic, and read what the summary names.
#
# ## Interview questions
#
# The bank is full of them; these are about the drill itself.
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
# A size with its reason and its bounds: "half of the channels leave a quarter of the MACs, so at
# most four times; one picture at a time on a CPU rather two, as launching each layer stays. I would
# measure it in an hour, this way." Name what would change it.
#
# </details>
#
# **3. Why is a guess of twice the truth judged like a guess of half of it?**
#
# <details><summary>Answer</summary>
#
# Speeds and sizes multiply. In logarithms both are the same distance away. A relative error would
# call the half 50 % off and the double 100 %, and would never call a guess near zero very wrong.
#
# </details>
#
# **4. You do not know the answer. What now?**
#
# <details><summary>Answer</summary>
#
# Say so, and then how you would find out: which experiment, what is held equal, what would be
# measured, which result would decide. That is what the job is. Guessing a number without saying
# that it is a guess is the common mistake.
#
# </details>
#
# **5. What do you do when an interviewer quotes a rule that you have measured to be wrong?**
#
# <details><summary>Answer</summary>
#
# Give the condition under which it holds, then your number with *its* condition: "that is right
# for one layer; for a whole ResNet-18 and one picture I measured more, because the next layer reads
# fewer channels as well." You contradict nobody, and you have shown that you measure.
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
