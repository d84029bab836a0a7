# %% [markdown]
# # 11 Language models
#
# *What survives in a model that writes?*
#
# You will be able to
# - measure a language model: perplexity with its interval, and tasks that may disagree with it,
# - predict the milliseconds of a token from bytes and bandwidth, and the bytes of a KV cache,
# - prune single weights in one shot, and show why magnitude over the whole network is wrong,
# - remove neurons, groups of heads and whole blocks exactly, and compare them at equal cost,
# - say what to do first with a language model that is too large or too slow.
#
# **Time**: 120 minutes of reading and exercises, under 90 s of compute
#
# **Claims** under test: C23, C24
#
# **Needs**: lessons 05, 07 and 08, and the language model, which `make lab` has installed. No
# network, no GPU.

# %%
import math
from copy import deepcopy

import matplotlib.pyplot as plt
import torch

# %%
from course_lib.bars import bar
from course_lib.experiments import language_model, recordings
from course_lib.measuring import language
from course_lib.measuring.estimates import Estimate, paired_counts
from course_lib.networks import smollm, texts
from course_lib.pruning import decoders, surgery

# %%
from course_lib.teaching import claims, figures
from course_lib.teaching.exercises import check, hint, solution
from course_lib.teaching.widgets import predict, reveal

plt.style.use(figures.STYLE)
model, tokenizer = smollm.load()
recorded = recordings.load("language_model")[recordings.COURSE]

# %% [markdown]
# SmolLM2-135M-Instruct (Allal et al., 2025) has the architecture of Llama, as most language models
# do: a stack of blocks that add to a residual stream, each with attention and a gated MLP. It is
# small enough for a laptop, and it writes.

# %%
for prompt in ("The capital of France is", "Two and two make"):
    print(f"{prompt}|{language.written(model, tokenizer, prompt, 8)!r}")

# %% [markdown]
# What follows the bar is the model's. Where are its weights?

# %%
total = sum(weight.numel() for weight in model.parameters())
for part in ("embed_tokens", "self_attn", "mlp"):
    count = sum(w.numel() for name, w in model.named_parameters() if part in name)
    print(f"{part:12s} {count / 1e6:5.1f} million weights, {count / total:.0%}")

# %% [markdown]
# The embedding is a table of 49,152 tokens; the same matrix is the output layer, so here it *is*
# multiplied, once for each token that is written.
#
# Read this before you quote a number. The package that contains the model stores it in 4 bits.
# What this lesson calls *dense* was de-quantized from there. The original may be a little better,
# and rounding to 4 bits again costs less than it would cost the original. It is also a *small*
# model: small models are the hard case for everything below, because they have less to spare.
#
# ## Predict

# %%
predict(
    "11.half",
    "Half of the weights in each layer go, chosen well, without training. By what factor does "
    "perplexity rise?",
    low=1,
    high=10,
    unit="x",
    step=0.1,
)

# %%
predict(
    "11.faster",
    "All weights in 4 bits instead of 32, in ONNX Runtime: how many times faster is a token?",
    low=0.5,
    high=8,
    unit="x",
    step=0.5,
)

# %%
predict(
    "11.blocks",
    "How many of the 30 blocks can go, the least useful first, until perplexity has doubled?",
    low=0,
    high=15,
    unit="blocks",
    step=1,
)

# %% [markdown]
# ## How good is a model that writes?
#
# After each token the model gives every token of its vocabulary a probability. Take a text that it
# did not write, and ask how probable each next token was.
#
# **Exercise 11.1.** `logits` are (N, L, V): N windows of L tokens, V tokens in the vocabulary;
# those at a place are about the *next* token. `ids` are the tokens of the text, (N, L). Return, of
# shape (N, L - 1), minus the natural logarithm of the probability of each token but the first of a
# window. It must be finite even if the probability is too small for a float.


# %%
def token_losses(logits, ids):
    """Minus the log-probability of each token but the first."""
    return ...


check("11.1", token_losses)

# %%
# hint("11.1")
# solution("11.1")

# %% [markdown]
# The exponential of their mean is the **perplexity** (Jelinek et al., 1977): a model of perplexity
# 20 is as unsure as if it chose among 20 tokens each time.
#
# **Exercise 11.2.** `losses`, (windows, tokens), are in nats. Return the perplexity over *all*
# tokens, a float.


# %%
def perplexity(losses):
    """The exponential of the mean loss."""
    return ...


check("11.2", perplexity)

# %%
# hint("11.2")
# solution("11.2")

# %% [markdown]
# The text is Jane Austen's *Persuasion*, in windows of 512 tokens. Whatever needs a calibration
# text gets another novel, *Northanger Abbey*: calibrated on the test text, a model looks too good.

# %% tags=["nbval-ignore-output"]
FEW = 2  # windows measured here; the recording has more
novel = texts.novel(texts.TEST)
windows = texts.windows(tokenizer, novel, FEW)
losses = language.losses(model, windows, bar)
print(tokenizer.decode(windows[0, :40].tolist()))
print(f"perplexity of these two windows: {losses.mean().exp():.1f}")

# %%
points = {
    tuple(row[key] for key in language_model.Variant._fields): row for row in recorded["points"]
}
dense = points["dense", "", 0, "float32"]
again = losses.mean(1) - torch.tensor(dense["losses"][:FEW])
print("as recorded, to 0.01 nats:", again.abs().max().item() < 0.01)
print("all windows of the recording:", Estimate(*dense["perplexity"]))

# %% [markdown]
# The interval is wide, since one page differs from the next. When two models read the *same* pages,
# their *ratio* is known far better; all comparisons below are such ratios.
#
# A perplexity is only comparable for the same text and the same tokenizer, and no user has ever
# asked for one. So there are two tasks that a person can do, four options each (chance is 25 %):

# %%
words = texts.next_words(tokenizer, novel[language_model.TASKS_FROM :], 1)
for prompt, options, answer in (*words, texts.capitals()[30]):
    print(f"...{prompt[-70:]} |{' /'.join(options)}?  (answer:{options[answer]})")

# %%
for task in ("next_word", "capitals"):
    low, high = dense[task]["interval"]
    print(f"{task:10s} {dense[task]['accuracy']:.0f} % right ({low:.0f} to {high:.0f})")

# %% [markdown]
# The three wrong words are about as frequent in the novel as the right one. Without that, a model
# that knows only how frequent words are would look clever: always ask what the simplest rival gets.
#
# ## Why a token takes so long
#
# A model answers in two phases. **Prefill** reads the prompt, all tokens at once: each weight that
# is loaded serves hundreds of them. **Decoding** writes one token after the other: each weight that
# is loaded serves one multiplication. Lesson 05 has the roofline for that: at one multiplication
# per weight, the memory is the ceiling, on a laptop and on a GPU alike.
#
# So the time of a token can be predicted without counting a single multiplication.
#
# Besides the weights, a token reads the keys and values of all tokens before it. They never change,
# so they are stored in the **KV cache**. In **grouped-query attention** (Ainslie et al., 2023)
# several query heads share one key/value head.
#
# **Exercise 11.3.** How many bytes does the cache of `batch` sequences of `length` tokens take?
# Each head has `head_dim` numbers. (It stores what later tokens need again, and nothing else.)


# %%
def cache_bytes(layers, query_heads, key_value_heads, head_dim, length, batch, bytes_per_number):
    """Bytes of the KV cache, an int."""
    return ...


check("11.3", cache_bytes)

# %%
# hint("11.3")
# solution("11.3")

# %% [markdown]
# **Exercise 11.4.** To write one token at batch 1, every weight is read once and used once, and so
# is the cache. What is the least time of a token, in milliseconds? A gigabyte is $10^9$ bytes.
# Weights and cache come through the same memory, one after the other.


# %%
def milliseconds_a_token(weight_bytes, gigabytes_per_second, cache_bytes):
    """The least time to decode one token, in milliseconds."""
    return ...


check("11.4", milliseconds_a_token)

# %%
# hint("11.4")
# solution("11.4")

# %% [markdown]
# The prediction, against ONNX Runtime (onnxruntime-genai), at batch 1 after a prompt of 512 tokens.
# This is **weight-only quantization**: in the files int8 and int4 only the *weights* are small:
# they are converted when they are used, and the arithmetic is that of float32 or int8.

# %%
THREADS = ("one thread", "two threads")
rates = {row["threads"]: row["gigabytes"] for row in recorded["bandwidths"]}
times = {tuple(row[key] for key in ("way", "amount", "form")): row for row in recorded["times"]}
cache = language.kv_cache_bytes(30, 3, 64, recorded["tokens"], bytes_per_number=4)
for form in ("float32", "int8", "int4"):
    row = times["dense", "", form]
    for threads in THREADS:
        told = language.milliseconds_a_token(row["read"], rates[threads], cache)
        ms = row[threads]["further"]["median"]
        print(
            f"{form:8s} {threads:12s} {row['read'] / 1e6:4.0f} MB, predicted {told:5.1f} ms, "
            f"measured {ms:5.1f} ms, ratio {ms / told:.2f}"
        )

# %% [markdown]
# In float32 the bytes explain the time, without a multiplication counted. The fewer bytes, the more
# is missing: besides reading weights, a token passes through hundreds of small operators, one
# after the other, and each of them costs a little, however small it is. So, as in lesson 06, there
# is a fixed cost: $t = a + \mathrm{bytes} / \mathrm{bandwidth}$, and $a$ grows with the number of
# blocks. Fit the two to float32 and int8, and predict four models that were not used for the fit.


# %%
def megabytes(way, amount, form, blocks=30):
    """Of the weights and of the cache, which a token reads."""
    return times[way, amount, form]["read"] / 1e6 + cache * blocks / 30 / 1e6


def token_ms(*key):
    return times[key]["one thread"]["further"]["median"]


full, byte = ("dense", "", "float32"), ("dense", "", "int8")
slope = (token_ms(*full) - token_ms(*byte)) / (megabytes(*full) - megabytes(*byte))
fixed = token_ms(*byte) - slope * megabytes(*byte)
print(f"{1 / slope:.0f} GB/s, and {fixed:.1f} ms for 30 blocks")

# %%
unseen = {("dense", ""): 30, ("vocabulary", ""): 30, ("neurons", "30 %"): 30, ("blocks", "8"): 22}
errors = []
for key, blocks in unseen.items():
    told = fixed * blocks / 30 + slope * megabytes(*key, "int4", blocks)
    errors.append(told / token_ms(*key, "int4") - 1)
    print(
        f"{' '.join(key):14s} int4: predicted {told:.1f} ms, measured {token_ms(*key, 'int4'):.1f}"
    )
print("all within 10 %:", max(map(abs, errors)) < 0.1)

# %%
for form in ("float32", "int8", "int4"):
    row = times["dense", "", form]
    first, token = (row["one thread"][phase]["median"] for phase in ("first", "further"))
    rate = recorded["tokens"] / first
    print(f"{form:8s} prefill {rate * 1000:5.0f} tokens/s, decoding {1000 / token:4.0f} tokens/s")
int4 = times["dense", "", "int4"]
reveal("11.faster", int4["one thread"]["further"]["speedup"], low=0.5, high=8, unit="x")

# %% [markdown]
# And the cache? It grows with the length of the text and with every user, the weights do not. From
# which length on does it outweigh them?

# %%
lengths = [2**power for power in range(5, 18)]
sizes = {
    "9 key/value heads": [language.kv_cache_bytes(30, 9, 64, n) / 1e6 for n in lengths],
    "3, as it is": [language.kv_cache_bytes(30, 3, 64, n) / 1e6 for n in lengths],
}

# %%
shades = {"9 key/value heads": "#999999", "3, as it is": figures.COLOURS["structured"]}
axes = figures.lines(
    lengths, sizes, xlabel="tokens in the cache", ylabel="MB (float16)", colours=shades
)
for form, colour in (("float32", "dense"), ("int4", "quantized")):
    megabytes = times["dense", "", form]["read"] / 1e6
    axes.axhline(megabytes, color=figures.COLOURS[colour], linestyle="--")
    axes.text(lengths[0], megabytes * 1.2, f"weights, {form}", fontsize=11)
axes.set(xscale="log", yscale="log")
figures.show(
    axes.figure, alt="Cache size against length; it crosses the weights in float32 and int4."
)

# %%
a_token = language.kv_cache_bytes(30, 3, 64, 1)
for form in ("float32", "int4"):
    print(f"{form}: from {times['dense', '', form]['read'] / a_token:,.0f} tokens on")

# %% [markdown]
# The smaller the weights become, the sooner the cache is what counts; eight users with one text
# each have eight caches and share the weights. That is why servers group heads, quantize the cache
# and store it in pages (PagedAttention: Kwon et al., 2023), and why batching pays: a weight that is
# loaded once serves all users. Pruning and quantizing *weights* help most where the batch is small.
#
# ## Half of the weights, the wrong way first
#
# Rank all weights of the model by magnitude, and remove the smallest: lesson 01. Do it here, and
# check the recording.

# %% tags=["nbval-ignore-output"]
wrong = decoders.prune_everything(model, 0.3)
now = language.losses(wrong, windows, bar)
print(f"perplexity over that of the dense model: {(now - losses).mean().exp():.2f}")
print(language.written(wrong, tokenizer, language_model.PROMPT, 25))

# %%
everything = points["everything", "30 %", 0, "float32"]
again = now.mean(1) - torch.tensor(everything["losses"][:FEW])
print("as recorded, to 0.05 nats:", again.abs().max().item() < 0.05)
table = wrong.get_input_embeddings().weight
print(f"of the embedding {(table == 0).float().mean():.0%} went, of the whole model 30 %")

# %% [markdown]
# Two mistakes. Weights of different layers are compared although their inputs differ in scale; and
# the embedding, whose rows are the model's words, takes part. The right way spares it, and compares
# weights only within a layer (magnitude, SparseGPT) or within the row of one output (Wanda). Block
# after block, each sees the inputs that the pruned blocks before it give. A calibration text of
# 4,096 tokens is enough, and the whole takes a minute or two here.

# %%
PERCENT = (20, 30, 40, 50, 60, 70)
METHODS = ("magnitude", "Wanda", "SparseGPT")
LINES = dict(zip(METHODS, ("#0072b2", "#56b4e9", "#004d73"), strict=True))
figure, axes = plt.subplots(figsize=(7.2, 4.4))
for method, marker in zip(METHODS, "os^", strict=True):
    rows = [points[method, f"{percent} %", 0, "float32"]["ratio"] for percent in PERCENT]
    value, low, high = zip(*rows, strict=True)
    axes.plot(PERCENT, value, marker=marker, color=LINES[method], label=method)
    axes.fill_between(PERCENT, low, high, color=LINES[method], alpha=0.2, linewidth=0)
whole = [points["everything", f"{percent} %", 0, "float32"]["ratio"][0] for percent in (20, 30, 50)]
axes.plot((20, 30, 50), whole, "x:", color="black", label="magnitude, whole network")
axes.set(yscale="log", ylim=(0.9, 1000), xlabel="weights removed from each layer (%)")
axes.set(ylabel="perplexity over dense", title="One shot, no training")
axes.legend()
figures.show(figure, alt="Perplexity over sparsity: steepest for the whole network at once.")

# %%
for pattern in ("50 %", "2:4"):
    for method in METHODS:
        row = points[method, pattern, 0, "float32"]
        print(
            f"{pattern:5s} {method:10s} perplexity {row['perplexity'][0]:8.1f}, "
            f"{Estimate(*row['ratio'])} times the dense one"
        )
half = points["SparseGPT", "50 %", 0, "float32"]
reveal("11.half", half["ratio"][0], low=1, high=10, unit="x")

# %% [markdown]
# A number of that kind says little about what breaks. Read. All of them continue the same
# beginning.

# %%
print(f"{language_model.PROMPT} ...\n\n{'dense':15s} {dense['writes']!r}")
for percent in (50, 60, 70):
    for method in METHODS:
        row = points[method, f"{percent} %", 0, "float32"]
        print(f"{f'{method} {percent} %':15s} {row['writes']!r}")

# %% [markdown]
# What breaks first, in your reading: spelling, grammar, sense, or the thread of the story? In these
# lines, texts repeat themselves while every word is still spelled correctly. What they do not show
# is what the model no longer *knows*.
#
# ## Perplexity and tasks

# %%
KINDS = {"magnitude": "o", "Wanda": "s", "SparseGPT": "^", "blocks": "D", "neurons": "v"}
figure, panels = plt.subplots(1, 2, figsize=(9.6, 4.2), sharex=True, sharey=True)
for axes, task in zip(panels, ("next_word", "capitals"), strict=True):
    for way, marker in KINDS.items():
        rows = [row for key, row in points.items() if key[0] == way and key[2:] == (0, "float32")]
        x, y = [row["ratio"][0] for row in rows], [row[task]["accuracy"] for row in rows]
        colour = "unstructured" if way in METHODS else "structured"
        axes.scatter(x, y, marker=marker, color=figures.COLOURS[colour], label=way)
    axes.axhline(25, color="black", linestyle=":")
    axes.set(xscale="log", xlabel="perplexity over dense", title=task.replace("_", " "))
panels[0].set(ylabel="right of four (%)")
panels[1].legend(fontsize=11)
figures.show(
    figure, alt="Two scatter plots: each task's accuracy against the ratio of perplexities."
)


# %%
def task_lost(row, task):
    """Points of accuracy below the dense model, paired."""
    counts, n = row[task], {"next_word": language_model.NEXT_WORDS, "capitals": 109}[task]
    return paired_counts(counts["only_dense"], counts["only_pruned"], n)


SHOWN = [("magnitude", "30 %"), ("SparseGPT", "30 %"), ("SparseGPT", "50 %"), ("vocabulary", "")]
print(f"{'':15s} {'ratio':>5s} {'lost: next word':>22s} {'capitals (points)':>22s}")
for key in (*SHOWN, ("blocks", "4"), ("neurons", "30 %")):
    row = points[*key, 0, "float32"]
    lost = [str(task_lost(row, task)) for task in ("next_word", "capitals")]
    print(f"{' '.join(key):15s} {row['ratio'][0]:5.2f} {lost[0]:>22s} {lost[1]:>22s}")

# %%
gentle = {way: points[way, "30 %", 0, "float32"] for way in ("magnitude", "SparseGPT")}
print(
    "at 30 % SparseGPT has the lower perplexity, above and below the other's interval:",
    gentle["SparseGPT"]["ratio"][2] < gentle["magnitude"]["ratio"][1],
)
print("it has lost capitals for certain:", task_lost(gentle["SparseGPT"], "capitals").low > 0)
print("magnitude has not:", task_lost(gentle["magnitude"], "capitals").low <= 0)

# %% [markdown]
# Compare the first two lines. By perplexity SparseGPT at 30 % is far better than magnitude; by
# capitals it is worse. The last word of a sentence in a novel is still guessed when many capitals
# are forgotten. And the smaller vocabulary has the *best* perplexity of all, since fewer tokens
# share the probability, yet it knows no capital: the names of countries, which no novel needs, are
# now spelled in pieces that the model never saw together. If you look at perplexity alone, you ship
# these models.
#
# Is it the method, or the text that it was calibrated on? A novel of 1803 has no use for
# Ouagadougou, and SparseGPT removes what its text does not use.

# %%
TEXTS = {"another novel": "SparseGPT", "movie reviews": "SparseGPT on reviews"}
TEXTS["what the model writes"] = "SparseGPT on its own text"
for percent in ("30 %", "50 %"):
    for text, way in TEXTS.items():
        row = points[way, percent, 0, "float32"]
        print(
            f"{percent} calibrated on {text:22s} perplexity x {row['ratio'][0]:.2f}, capitals "
            f"{row['capitals']['accuracy']:.0f} %, next word {row['next_word']['accuracy']:.0f} %"
        )

# %% [markdown]
# A text of another kind costs perplexity on the novel, as you would expect, and saves a few
# capitals at best (with 109 questions, five points are within chance). Many are gone with any text.
# So it is not only the novel's fault. One explanation, not tested here: a weight whose inputs are
# usually small is removed, whether or not a rare fact needs it. Williams and Aletras (2024) have
# more on the choice of the text.
#
# One more control. Wanda ranks within the row of each output, magnitude within a layer. Is it the
# inputs that make Wanda better, or the rows?

# %%
for percent in ("30 %", "50 %"):
    for way in ("magnitude", "magnitude in rows", "Wanda"):
        ratio = Estimate(*points[way, percent, 0, "float32"]["ratio"])
        print(f"{percent} {way:18s} perplexity x {ratio}")

# %% [markdown]
# The rows help a little, at most. What makes Wanda better is the norm of the inputs. In language
# models a few channels carry values far larger than the rest (Dettmers et al., 2022), so that even
# small weights that read them matter.
#
# ## Width: neurons and groups of heads
#
# **Width pruning** removes a part of every block. A neuron of the gated MLP (SwiGLU: Shazeer, 2020)
# is a row of `gate_proj`, the same row of `up_proj`, and a column of `down_proj`. Attention is
# harder: a query head that shares its key/value head with two others cannot go alone, since the
# runtime expects groups of equal size. What goes is a *group*.
#
# **Exercise 11.5.** Return two lists of row numbers in ascending order: the rows of `q_proj` that
# belong to the group number `group`, counted from 0, and those of `k_proj`, which `v_proj` shares.
# Head h of a matrix has the `head_dim` rows from `h * head_dim` on, and the query heads of a group
# are neighbours: the first ones use key/value head 0, the next ones 1, and so on.


# %%
def group_rows(group, query_heads, key_value_heads, head_dim):
    """Rows of q_proj, and rows of k_proj and v_proj."""
    return ...


check("11.5", group_rows)

# %%
# hint("11.5")
# solution("11.5")

# %% [markdown]
# The library knows where each neuron and group lives. The proof is that of lesson 03: zero what
# reads them in the large model, remove them, compare.

# %%
graph = decoders.graph(model)
gone = {"0.groups": [1], "7.neurons": [*range(0, 1536, 3)], "29.groups": [0, 2]}
smaller = decoders.prune(model, gone)
unread = surgery.zero_readers(deepcopy(model), graph, gone)
few = windows[:1, :64]
with torch.no_grad():
    expected = unread(few).logits
    error = (smaller(few).logits - expected).abs().max() / expected.abs().max()
print("removal is exact, to rounding:", error.item() < 1e-4)

# %% [markdown]
# What cannot be removed exactly is a channel of the **residual stream**, the width of the model:
# all blocks read and write it. And there is a trap. RMSNorm (Zhang and Sennrich, 2019) divides by
# the root of the mean square of all channels, so even a channel that is always zero counts: in the
# mean.
#
# **Exercise 11.6.** RMSNorm computes $w \, x / \sqrt{\mathrm{mean}(x^2) + \epsilon}$. All channels
# that are not in `kept` are zero and go. Return the weight (in the order of `kept`) and the epsilon
# with which the narrower norm computes the same for those that stay.


# %%
def narrower_norm(weight, epsilon, kept):
    """The weight (kept,), a tensor, and epsilon, a float, of the narrower norm."""
    return ...


check("11.6", narrower_norm)

# %%
# hint("11.6")
# solution("11.6")

# %% [markdown]
# No channel is zero by itself. SliceGPT (Ashkboos et al., 2024) makes some nearly so: RMSNorm
# without its weight does not change when the stream is *rotated*, so the stream can be turned until
# most of it lies in few channels. Minitron (Muralidharan et al., 2024) removes channels by their
# activations and distils afterwards; LLM-Pruner (Ma et al., 2023) removes coupled structures by
# gradients and heals with LoRA (Hu et al., 2022).
#
# ## Depth: whole blocks
#
# Removing whole blocks is **depth pruning**. A block adds to the stream; if it hardly turns it, it
# hardly matters.
#
# **Exercise 11.7.** `before` and `after` are the stream (..., width) before and after a block: the
# last dimension is that of a token, the others count tokens. Return the **block influence**
# (ShortGPT: Men et al., 2024), a float: 1 minus the cosine between a token before and after, as the
# mean over all tokens.


# %%
def influence(before, after):
    """1 minus the mean cosine of before and after."""
    return ...


check("11.7", influence)

# %%
# hint("11.7")
# solution("11.7")

# %%
axes = figures.bars(
    dict(enumerate(recorded["influences"])), ylabel="block influence", colour="structured"
)
axes.set(xlabel="block", yscale="log")
figures.show(axes.figure, alt="Bars: the first two blocks and the last turn the stream most.")

# %% [markdown]
# The first block turns the stream by almost a right angle. Gromov et
# al. (2024) observe that the deeper layers are the ones to drop, all but the last. Remove the four
# blocks of least influence, and check the recording.

# %% tags=["nbval-ignore-output"]
order = sorted(range(30), key=recorded["influences"].__getitem__)
shallow = decoders.without_blocks(model, order[:4])
now = language.losses(shallow, windows, bar)
print("blocks removed:", sorted(order[:4]))
print(f"perplexity over that of the dense model: {(now - losses).mean().exp():.2f}")
print(language.written(shallow, tokenizer, language_model.PROMPT, 25))

# %%
again = now.mean(1) - torch.tensor(points["blocks", "4", 0, "float32"]["losses"][:FEW])
print("as recorded, to 0.02 nats:", again.abs().max().item() < 0.02)

# %%
COUNTS = (1, 2, 4, 6, 8, 10)
figure, axes = plt.subplots(figsize=(7.2, 4.2))
for way, counts, style in (("blocks", COUNTS, "D-"), ("deep blocks", (1, 2, 4, 8), "v--")):
    rows = [points[way, str(count), 0, "float32"]["ratio"] for count in counts]
    value, low, high = zip(*rows, strict=True)
    label = "least influence" if way == "blocks" else "the deepest, but not the last"
    axes.plot(counts, value, style, color=figures.COLOURS["structured"], label=label)
    axes.fill_between(counts, low, high, color=figures.COLOURS["structured"], alpha=0.2)
axes.axhline(2, color="black", linestyle=":")
axes.set(yscale="log", xlabel="blocks removed of 30", ylabel="perplexity over dense")
axes.legend()
figures.show(figure, alt="Perplexity ratio over blocks removed: it passes 2 within a few blocks.")

# %%
ratios = [1.0, *(points["blocks", str(count), 0, "float32"]["ratio"][0] for count in COUNTS)]
survive = max(count for count, ratio in zip((0, *COUNTS), ratios, strict=True) if ratio <= 2)
print(f"of the counts that were measured, {survive} is the largest with perplexity at most doubled")
reveal("11.blocks", survive, low=0, high=15, unit="blocks")

# %% [markdown]
# On this model the rule "the deepest, but not the last" fails: the influence of each block,
# measured on a few pages, is the better guide by far.
#
# ## Depth against width, at equal cost
#
# Equal cost of what? Of bytes, or of milliseconds.

# %%
STRUCTURED = {"blocks": "D", "neurons": "v", "groups": "P", "vocabulary": "*"}
THOSE = {**STRUCTURED, "SparseGPT": "^", "dense": "o"}


def cost_of(row):
    """MB in float16, and milliseconds of a token where it was timed."""
    timed = times.get((row["way"], row["amount"], "float32"))
    return row["bytes"] / 1e6, timed and timed["one thread"]["further"]["median"]


# %%
figure, panels = plt.subplots(1, 2, figsize=(9.6, 4.4), sharey=True)
labels = ("MB (float16)", "ms a token (float32, one thread)")
for way, marker in THOSE.items():
    rows = [row for key, row in points.items() if key[0] == way and key[2:] == (0, "float32")]
    kind = "structured" if way in STRUCTURED else "dense" if way == "dense" else "unstructured"
    for place, (axes, label) in enumerate(zip(panels, labels, strict=True)):
        y = [row["ratio"][0] for row in rows if cost_of(row)[place]]
        x = [cost_of(row)[place] for row in rows if cost_of(row)[place]]
        axes.scatter(x, y, marker=marker, color=figures.COLOURS[kind], label=way)
        axes.set(yscale="log", ylim=(0.9, 6), xlabel=label)
panels[0].set(ylabel="perplexity over dense")
panels[1].legend(fontsize=10)
figures.show(figure, alt="Perplexity ratio against bytes and against milliseconds.")

# %% [markdown]
# For the same bytes, and in float32 for the same milliseconds, removing neurons costs less than
# removing blocks; groups of heads cost most for what they save. (The smaller vocabulary lies below
# 1, and forgot every capital.) In 4 bits the order of the times changes, since the fixed cost is a
# larger part of them, and only blocks take it along:

# %%
plain = token_ms("dense", "", "int4")
for key in (("blocks", "8"), ("neurons", "30 %")):
    read = times["dense", "", "int4"]["read"] / times[*key, "int4"]["read"]
    print(
        f"{' '.join(key):14s} int4: {read:.2f} times fewer bytes, "
        f"{plain / token_ms(*key, 'int4'):.2f} times faster"
    )

# %% [markdown]
# Muralidharan et al. (2024) found the same for models of up to 15 billion weights: width keeps
# more, depth is faster.
#
# ## What to do first: int4 against sparsity
#
# Sparse weights can be stored as a bitmask and what is left: at 50 % that is 9 bits a weight
# instead of 16. Rounding each weight to 4 bits, with a scale in float32 for every 32 weights, takes
# 5. `int4` rounds to nearest, `int4_k_quant` (of llama.cpp) searches a scale and a zero point for
# each block. In the float16 rows the embedding is in 16 bits, in the others it is rounded, too.

# %%
FORMS = ("float32", "int8", "int4", "int4_k_quant")
ROWS = [("dense", "", form) for form in FORMS]
ROWS += [("SparseGPT", amount, "float32") for amount in ("30 %", "50 %", "60 %")]
SMALLER = [("SparseGPT", "50 %"), ("SparseGPT", "2:4"), ("blocks", "4"), ("neurons", "30 %")]
ROWS += [(*each, "int4_k_quant") for each in SMALLER]
for way, amount, form in ROWS:
    row = points[way, amount, 0, form]
    stored = "float16" if form == "float32" else form
    print(
        f"{way:10s} {amount:5s} {stored:8s} {row['bytes'] / 1e6:5.0f} MB, perplexity "
        f"{row['perplexity'][0]:6.1f}, {Estimate(*row['ratio'])} times the dense one"
    )

# %% [markdown]
# 4 bits take half the bytes of 50 % sparsity and cost less by every measure: perplexity, and above
# all knowledge. 8 bits cost nothing that can be seen. Pruned *and* rounded to 4 bits, the model is
# hardly smaller than with 4 bits alone, since zeros are stored like all other weights, and worse
# than either; only the smaller vocabulary, blocks and neurons take bytes away once more.
#
# One line is missing from the table: the file that this model came in. It has 4 bits a weight, and
# *by definition* the perplexity of the dense model here, because it is the dense model, in blocks
# of 32 with a scale and a minimum (GGUF's Q4_1, with the embedding in 8 bits). The rows above round
# it once more, to another grid. A format that fits how a model was made costs little; two that do
# not fit each other cost twice.

# %%
print(f"the file it came in: {smollm.GGUF_BYTES / 1e6:.0f} MB")
four = points["dense", "", 0, "int4_k_quant"]
print("4 bits are smaller than 50 % sparsity:", four["bytes"] < half["bytes"])
print("and lose less perplexity:", four["ratio"][2] < half["ratio"][1])
print("and fewer capitals:", task_lost(four, "capitals").high < task_lost(half, "capitals").low)

# %% [markdown]
# ## After a little training
#
# Papers on depth pruning add a short fine-tune, the **healing**. Here: all weights, on the
# calibration novel. The dense model gets the same training, because a few pages by the same author
# help *any* model with *Persuasion*: without that row, the gain would look like healing.


# %%
def percent_right(row, task):
    """Percent of a task that a model gets right."""
    return row[task]["accuracy"]


control = points["dense", "", language_model.STEPS, "float32"]
healed = [key[:2] for key in points if key[2] == language_model.STEPS]

# %%
print("                        perplexity  over dense    next word      capitals")
for way, amount in healed:
    pair = [points[way, amount, steps, "float32"] for steps in (0, language_model.STEPS)]
    ratio = math.exp(sum(pair[1]["losses"]) / 16 - sum(control["losses"]) / 16)
    before, after = (row["perplexity"][0] for row in pair)
    print(f"{way:10s} {amount:5s} {before:6.1f} -> {after:5.1f} {ratio:9.2f}    ", end="")
    for task in ("next_word", "capitals"):
        first, last = (percent_right(row, task) for row in pair)
        print(f"{first:8.0f} -> {last:.0f} %", end="")
    print()

# %%
changes = [
    percent_right(points[way, amount, language_model.STEPS, "float32"], "capitals")
    - percent_right(points[way, amount, 0, "float32"], "capitals")
    for way, amount in healed
]
print(f"capitals: {min(changes):+.1f} to {max(changes):+.1f} points by the training")

# %% [markdown]
# ("Over dense": times the perplexity of the dense model that was trained alike.) The dense model
# gains, too: that is the style of the author, not healing. Beyond it, every pruned model makes up
# much of what it had lost in perplexity, and the worst of them most of its lost words. But the
# capitals do not come back, however the model was pruned: no change is larger than 109 questions
# can tell. 64 steps on a novel bring back the language, not the facts. They were not in the novel.
# Minitron retrains with billions of tokens and a teacher, which is another budget.
#
# ## What else an interviewer will name
#
# - **GPTQ** (Frantar et al., 2023) is SparseGPT for rounding: round a column, and let those to its
#   right compensate. **AWQ** (Lin et al., 2024) is Wanda for rounding: inputs that are large make
#   their weights matter, so scale these up before rounding. What was measured above is rounding to
#   nearest, the simplest rival of both. **QAT** trains with the rounding in the loop.
# - **Mixture of experts**: each token uses a few of many MLPs. Bytes *held* and bytes *read* part:
#   memory as for all experts, time as for the chosen ones. Pruning means dropping experts.
# - **Speculative decoding** (Leviathan et al., 2023): a small model writes some tokens, the large
#   one checks all of them in one pass, and the text stays that of the large one. It turns decoding,
#   bound by bytes, into prefill, bound by arithmetic. A pruned model makes a good draft.
# - **2:4** halves the values that a GPU reads. Weights in 4 bits are a quarter of 16: at batch 1,
#   quantization wins there, too. 2:4 pays where arithmetic is the ceiling: prefill, large batches.
#
# ## The verdicts
#
# C23: half of a language model's weights can go in one shot, at little perplexity.


# %%
def kept(row, task):
    """Percent of the dense model's accuracy above chance that is left, with its interval."""
    above = dense[task]["accuracy"] - 25
    lost = task_lost(row, task)
    return Estimate(*(100 - 100 * each / above for each in (lost.value, lost.high, lost.low)))


# %% tags=["nbval-ignore-output"]
source = f"recorded on {recordings.COURSE}"
context = "SmolLM2-135M-Instruct, de-quantized from 4 bits; 8,192 tokens of Persuasion"
measurements = {
    f"ratio_{method.lower()}_{percent}": Estimate(
        *points[method, f"{percent} %", 0, "float32"]["ratio"]
    )
    for method, percent in (("SparseGPT", 50), ("Wanda", 50), ("magnitude", 50), ("SparseGPT", 30))
}
by_capitals = kept(points["SparseGPT", "30 %", 0, "float32"], "capitals")
measurements["kept_capitals_sparsegpt_30"] = by_capitals
claims.record("C23", measurements, context, source)

# %% [markdown]
# C24: a quarter of its layers can go. That is 8 of 30 blocks.

# %% tags=["nbval-ignore-output"]
quarter = points["blocks", "8", 0, "float32"]
measurements = {
    "kept_next_word_quarter": kept(quarter, "next_word"),
    "kept_capitals_quarter": kept(quarter, "capitals"),
    "ratio_blocks_quarter": Estimate(*quarter["ratio"]),
}
claims.record("C24", measurements, context, source)

# %%
print("half of the weights by SparseGPT is above 1.3:", half["ratio"][1] > 1.3)
print("without a quarter of the blocks it is above 1.3:", quarter["ratio"][1] > 1.3)

# %% [markdown]
# Both claims come from models that are fifty to a thousand times larger, and there they were
# measured well. On a small model, which has less to spare, neither holds as it is quoted. Before
# you repeat such a sentence, ask: how large was the model, and what was measured, perplexity or
# knowledge?
#
# ## Recap
#
# - Decoding is bound by bytes. Bytes over bandwidth, and a fixed cost for each block, predict the
#   time of a token; MACs do not.
# - The KV cache grows with every token and every user, the weights do not.
# - Perplexity is compared as a ratio on the same text. It is not the task: facts can be gone while
#   the next word of a novel is still guessed.
# - Magnitude over the whole network fails; within a layer it is poor; the inputs (Wanda) and the
#   compensation (SparseGPT) make the difference.
# - Blocks, neurons and groups of heads are removed exactly; the residual stream's width is not.
# - Quantize first: 4 bits save more bytes at less harm than half of the weights, and are faster.
#
# ## Interview questions
#
# **1. "Half of the weights of our 7B model are zero, so it decodes twice as fast." Does it?**
#
# <details><summary>Answer</summary>
#
# Only if the kernel reads fewer bytes. A dense runtime reads the zeros, too, and decoding is bound
# by the bytes that are read. With a sparse format 50 % at 16 bits are 9 bits a weight, so at best
# 1.8 times; 4 bits are better, and every runtime has them. 2:4 on a GPU gains in prefill or at
# large batches, where arithmetic is the limit.
#
# </details>
#
# **2. Your chatbot is slow. What do you ask before you change the model?**
#
# <details><summary>Answer</summary>
#
# Which phase is slow. A slow first token is prefill: long prompts, bound by arithmetic; prefix
# caching, shorter prompts, more compute. Slow further tokens are decoding, bound by bytes: 4-bit
# weights, a smaller model, speculative decoding, at batch 1; with many users the cache and the
# batching count. Then measure, at the batch and the lengths of your users.
#
# </details>
#
# **3. How do magnitude, Wanda and SparseGPT differ, and what would you report?**
#
# <details><summary>Answer</summary>
#
# Magnitude looks at the weight, Wanda at the weight times the norm of its input, ranked within the
# row of an output, SparseGPT also updates what stays, by the inverse of the inputs' second moments.
# Report the ratio of perplexities with its interval on a text that calibrated nothing, and tasks
# that need knowledge: they fall first.
#
# </details>
#
# **4. Why can you drop a block but not a channel of the residual stream?**
#
# <details><summary>Answer</summary>
#
# A block adds to the stream, so without it the stream passes on, and later blocks still read what
# they expect, nearly. A channel of the stream is written and read by all blocks, and it counts in
# every RMSNorm. SliceGPT rotates the stream first, so that the channels that go carry little.
#
# </details>
#
# **5. From which length does the KV cache outweigh the weights?**
#
# <details><summary>Answer</summary>
#
# Bytes of the weights over the bytes of a token in the cache: 2 x layers x key/value heads x head
# width x bytes per number. Llama-2-7B in 16 bits: 13.5 GB over half a megabyte, about 26,000
# tokens, over all users together. With 4-bit weights it is a quarter of that. Grouped heads and a
# cache in 8 bits move it away.
#
# </details>
#
# ## Where next
#
# You have pruned, quantized and distilled networks for pictures, for sentences and for text.
# **Lesson 12** turns the question round: given a deployment, what do you do?
