"""SmolLM2 pruned in every way, and quantized: perplexity, two tasks, bytes, MACs, milliseconds.

Lesson 11 shows the recording of this experiment and repeats one of its points.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from course_lib.bars import bar, say
from course_lib.deployment import generation
from course_lib.deployment.forms import THREADS
from course_lib.deployment.storage import encode
from course_lib.experiments.recorder import Recording
from course_lib.measuring import language
from course_lib.measuring.cost import macs
from course_lib.measuring.estimates import Estimate
from course_lib.measuring.language import LanguageModel
from course_lib.measuring.quality import interval
from course_lib.networks import smollm, texts
from course_lib.networks.data import movie_reviews
from course_lib.networks.models import on_device
from course_lib.networks.texts import Choice, Windows
from course_lib.networks.training import AdamW, Watch, fit
from course_lib.pruning import channels, decoders, masks, oneshot
from course_lib.pruning.layers import copied
from course_lib.pruning.oneshot import Method, Pattern

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: How single weights are chosen, in each block, and how many of them go.
METHODS: dict[str, Method] = {
    "magnitude": oneshot.magnitude,
    "Wanda": oneshot.wanda,
    "SparseGPT": oneshot.sparsegpt,
}
FRACTIONS = {
    "10 %": 0.1,
    "20 %": 0.2,
    "30 %": 0.3,
    "40 %": 0.4,
    "50 %": 0.5,
    "60 %": 0.6,
    "70 %": 0.7,
}
PATTERNS: dict[str, Pattern] = {**FRACTIONS, "2:4": (2, 4)}


def magnitude_in_rows(
    weight: torch.Tensor, hessian: torch.Tensor, pattern: Pattern
) -> torch.Tensor:
    """Zero the smallest weights (out, in) of each output: Wanda's ranking without its inputs."""
    if isinstance(pattern, tuple):
        return oneshot.magnitude(weight, hessian, pattern)
    count = masks.zeros_asked(pattern, weight.shape[1])
    return weight.detach() * masks.lowest_per_row(masks.magnitude(weight), count)


#: Does it matter that Wanda ranks within rows, and what SparseGPT is calibrated on (Williams and
#: Aletras, 2024): the other novel, movie reviews, or what the model itself writes?
CONTROLS: dict[str, Method] = {
    "magnitude in rows": magnitude_in_rows,
    "SparseGPT on reviews": oneshot.sparsegpt,
    "SparseGPT on its own text": oneshot.sparsegpt,
}

#: Windows of :data:`.texts.WINDOW` tokens: what perplexity is measured on, what calibrates, and
#: what a fine-tune draws from.
MEASURED, CALIBRATING, TRAINING = 16, 8, 128

#: The tasks begin after so many characters of the novel, behind the windows that are measured.
TASKS_FROM, NEXT_WORDS = 60_000, 200

#: A short fine-tune ("healing"): steps of one window each, with AdamW and one cycle.
STEPS, LR = 64, 1e-4

#: What the model writes is recorded, too: so many tokens after this prompt.
PROMPT, WRITTEN = "The young man looked at her, and said", 30


class Variant(NamedTuple):
    """A model made from the dense one.

    Args:
        way: a method of :data:`METHODS` or :data:`CONTROLS`; "everything" (magnitude over all
            weights at once, embedding included); "blocks" with the least influence, or the "deep
            blocks", those before the last one; "neurons" or "groups" of heads that add least, or
            "random neurons"; "vocabulary", without the tokens that neither novel needs; or "dense".
        amount: a pattern of :data:`PATTERNS`; a number of blocks; "" if there is no choice.
        steps: of the fine-tune that follows.
        form: "float32" as torch computes, or another of :data:`.generation.PRECISIONS`, for the
            weights in the runtime.
    """

    way: str = "dense"
    amount: str = ""
    steps: int = 0
    form: str = "float32"

    def __str__(self) -> str:
        tuned = f", {self.steps} steps" if self.steps else ""
        return f"{self.way} {self.amount}{tuned}, {self.form}".replace("  ", " ")


class Subject(NamedTuple):
    """The dense model, its tokenizer, and the texts."""

    model: Any
    tokenizer: "Tokenizer"
    measured: torch.Tensor
    calibration: torch.Tensor
    reviews: torch.Tensor
    training: Windows
    next_words: list[Choice]
    capitals: list[Choice]


def subject() -> Subject:
    """What the experiment is about.

    Raises:
        PackageError: the language model is not installed.
        DataError: a text is missing or damaged.
    """
    model, tokenizer = smollm.load()
    test, other = texts.novel(texts.TEST), texts.novel(texts.CALIBRATION)
    reviews = movie_reviews().train.texts
    training = texts.windows(tokenizer, other, CALIBRATING + TRAINING)
    return Subject(
        model,
        tokenizer,
        measured=texts.windows(tokenizer, test, MEASURED),
        calibration=training[:CALIBRATING],
        reviews=texts.windows(tokenizer, "\n".join(reviews), CALIBRATING),
        training=Windows(training[CALIBRATING:]),
        next_words=texts.next_words(tokenizer, test[TASKS_FROM:], NEXT_WORDS),
        capitals=texts.capitals(),
    )


def with_vocabulary(variant: Variant, about: Subject) -> Subject:
    """``about``, for the way "vocabulary" without the tokens that neither novel needs."""
    if variant.way != "vocabulary":
        return about
    kept = smollm.kept_tokens(
        about.tokenizer, [texts.novel(name) for name in (texts.TEST, texts.CALIBRATION)]
    )
    model, tokenizer = smollm.cut_vocabulary(about.model, about.tokenizer, kept)
    return about._replace(
        model=model,
        tokenizer=tokenizer,
        measured=texts.windows(tokenizer, texts.novel(texts.TEST), MEASURED),
    )


# --- the plan -----------------------------------------------------------------------------------

#: In order: an interrupted recording is already useful.
PLAN = [
    Variant(),
    *(Variant(method, pattern) for pattern in ("50 %", "2:4") for method in METHODS),
    *(Variant("blocks", count) for count in ("8", "4")),
    Variant("neurons", "30 %"),
    *(Variant(form=form) for form in ("int8", "int4", "int4_k_quant")),
    *(Variant(method, pattern) for pattern in ("30 %", "60 %", "70 %") for method in METHODS),
    *(Variant("everything", amount) for amount in ("20 %", "30 %", "50 %")),
    *(Variant("blocks", count) for count in ("1", "2", "6", "10")),
    *(Variant("deep blocks", count) for count in ("1", "2", "4", "8")),
    *(Variant("neurons", amount) for amount in ("10 %", "20 %", "40 %", "50 %")),
    *(Variant("random neurons", amount) for amount in ("10 %", "30 %")),
    Variant("groups", "1 of 3"),
    Variant("vocabulary"),
    *(Variant(way, pattern) for pattern in ("50 %", "30 %") for way in CONTROLS),
    *(
        Variant(way, amount, form="int4_k_quant")
        for way, amount in (
            ("SparseGPT", "50 %"),
            ("SparseGPT", "2:4"),
            ("blocks", "4"),
            ("neurons", "30 %"),
            ("vocabulary", ""),
        )
    ),
    *(
        Variant(way, amount, STEPS)
        for way, amount in (
            ("dense", ""),
            ("blocks", "8"),
            ("SparseGPT", "50 %"),
            ("neurons", "30 %"),
            ("magnitude", "50 %"),
            ("SparseGPT", "2:4"),
            ("blocks", "4"),
        )
    ),
    *(Variant(method, pattern) for pattern in ("20 %", "40 %") for method in METHODS),
]

#: What is timed together, in turns, beside the dense model in float32.
GROUPS = {
    "precisions": [
        *(Variant(form=form) for form in generation.PRECISIONS),
        Variant("SparseGPT", "50 %"),
        Variant("blocks", "8", form="int4"),
        Variant("neurons", "30 %", form="int4"),
        Variant("vocabulary", form="int4"),
    ],
    "structures": [
        *(Variant("blocks", count) for count in ("4", "8")),
        *(Variant("neurons", amount) for amount in ("30 %", "50 %")),
        Variant("groups", "1 of 3"),
        Variant("vocabulary"),
    ],
}

#: The length of the prompt before the tokens that are timed, and the tokens it may consist of: any
#: tokens take the same time, but a smaller vocabulary must have them.
PROMPT_TOKENS, FIRST_TOKENS = 512, 10_000


# --- making -------------------------------------------------------------------------------------


def pruned(variant: Variant, about: Subject) -> nn.Module:
    """The model of ``variant`` before fine-tuning and quantization.

    Raises:
        ValueError: there is no such way or amount.
    """
    model, way, amount = about.model, variant.way, variant.amount
    if way in ("dense", "vocabulary"):  # with_vocabulary has cut the vocabulary
        return copied(model)
    if way in METHODS | CONTROLS:
        method, text = (METHODS | CONTROLS)[way], about.calibration
        if way == "SparseGPT on reviews":
            text = about.reviews
        if way == "SparseGPT on its own text":
            text = own_text(model, CALIBRATING)
        progress = partial(bar, text="blocks")
        return decoders.prune_weights(model, text, method, PATTERNS[amount], progress)
    if way == "everything":
        return decoders.prune_everything(model, FRACTIONS[amount])
    if way in ("blocks", "deep blocks"):
        return decoders.without_blocks(model, removed_blocks(way, int(amount), about))
    if way in ("neurons", "random neurons", "groups"):
        return decoders.prune(model, _removed_channels(way, amount, about))
    raise ValueError(f"There is no way {way!r} to prune the language model.")


def own_text(model: Any, count: int, length: int = texts.WINDOW, seed: int = 0) -> torch.Tensor:
    """So many windows of what ``model`` writes from nothing, token ids (count, length).

    Each token is drawn from the probabilities that the model gives.
    """
    start = torch.full((count, 1), model.config.bos_token_id)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        ids: torch.Tensor = model.generate(
            start,
            attention_mask=torch.ones_like(start),
            do_sample=True,
            top_k=0,
            max_length=length,
            min_length=length,
        )
    return ids


def removed_blocks(way: str, count: int, about: Subject) -> list[int]:
    """The numbers of the blocks that go: the deepest but the last, or the least influential."""
    everyone = range(len(decoders.stack(about.model).layers))
    if way == "deep blocks":
        return [*everyone][-count - 1 : -1]
    influences = decoders.influences(about.model, about.calibration)
    return sorted(sorted(everyone, key=influences.__getitem__)[:count])


def _removed_channels(way: str, amount: str, about: Subject) -> dict[str, list[int]]:
    """The same fraction of the neurons of each block, or one group of heads of each."""
    graph = decoders.graph(about.model)
    if way == "random neurons":
        scores = channels.random_scores(graph, seed=0)
    else:
        scores = decoders.reader_scores(about.model, graph, about.calibration)
    kind = way.removeprefix("random ")
    chosen = {name: one for name, one in scores.items() if name.endswith(f".{kind}")}
    ratio = 1 / 3 if kind == "groups" else FRACTIONS[amount]
    return channels.lowest(chosen, ratio, multiple=32 if kind == "neurons" else 1)


def next_token(outputs: Any, ids: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """The objective of language models: mean cross-entropy of each next token of ``ids`` (N, L)."""
    return F.cross_entropy(outputs.logits[:, :-1].transpose(1, 2), ids[:, 1:])


def tuned(model: nn.Module, training: Windows, steps: int) -> nn.Module:
    """``model`` fine-tuned in place for ``steps``; weights that are zero stay zero."""
    optimizer, watch = AdamW(LR, batch_size=1), Watch(partial(bar, text="steps"))
    with masks.enforce_masks(model, masks.masks_of(model)):
        return fit(
            model,
            training,
            epochs=steps / len(training.ids),
            seed=0,
            optimizer=optimizer,
            objective=next_token,
            watch=watch,
        )


# --- measuring ----------------------------------------------------------------------------------


class Answers(NamedTuple):
    """What a model gave: the losses (windows, tokens), and which choices were right, bool (N,)."""

    losses: torch.Tensor
    next_words: torch.Tensor
    capitals: torch.Tensor


def answers(model: LanguageModel, about: Subject) -> Answers:
    """The losses of ``model`` on the measured windows, and its choices in both tasks."""
    return Answers(
        language.losses(model, about.measured, partial(bar, text="windows")),
        language.chosen(model, about.tokenizer, about.next_words, partial(bar, text="words")),
        language.chosen(model, about.tokenizer, about.capitals, partial(bar, text="capitals")),
    )


def quality(found: Answers, dense: Answers) -> dict:
    """``perplexity``, its ``ratio`` to that of ``dense``, the mean ``losses``, and both tasks."""
    return {
        "perplexity": _rounded(language.perplexity(found.losses)),
        "ratio": _rounded(language.perplexity_ratio(found.losses, dense.losses)),
        "losses": [round(loss, 4) for loss in found.losses.double().mean(1).tolist()],
        "next_word": _share(found.next_words, dense.next_words),
        "capitals": _share(found.capitals, dense.capitals),
    }


def _rounded(found: Estimate) -> list[float]:
    return [float(f"{value:.4g}") for value in found]


def _share(right: torch.Tensor, dense: torch.Tensor) -> dict:
    """Percent ``right``, and the counts for :func:`.quality.paired_interval`."""
    percent = 100 * right.double().mean().item()
    return {
        "accuracy": round(percent, 2),
        "interval": [round(end, 2) for end in interval(percent, len(right))],
        "only_dense": int((dense & ~right).sum()),
        "only_pruned": int((right & ~dense).sum()),
    }


def stored_bytes(model: nn.Module) -> int:
    """Bytes of all weights in float16, each tensor as it is or as a bitmask and what is left."""
    return sum(
        min(
            encode(tensor.detach().half(), places, "plain").bytes for places in ("dense", "bitmask")
        )
        for tensor in model.parameters()  # a tied tensor counts once
    )


# --- the recording ------------------------------------------------------------------------------


def header(model: str | None, device: str) -> dict:
    """The header fields of this experiment's recording."""
    weights = smollm.FILES["model.safetensors"]
    return {
        "weights": weights,
        "steps": STEPS,
        "lr": LR,
        "prompt": PROMPT,
        "tokens": PROMPT_TOKENS,
    }


def run(recording: Recording) -> None:
    """Measure what the recording lacks: the models of :data:`PLAN`, then their times."""
    about = subject()
    recording.once(
        lambda: {"influences": decoders.influences(about.model, about.calibration)}, "influences"
    )
    dense = answers(on_device(about.model), about)

    def measured(variant: Variant) -> dict[str, list[dict]]:
        entry = variant._asdict() | measure(variant, about, dense)
        value, low, high = entry["perplexity"]
        say(f"{variant}: perplexity {value:.1f} ({low:.1f} to {high:.1f})")
        return {"points": [entry]}

    recording.each(PLAN, measured, text="models", work=lambda variant: 1 + variant.steps / 16)
    if not recording.part:
        _record_times(recording, about)


def measure(variant: Variant, about: Subject, dense: Answers) -> dict:
    """The fields of ``variant`` in the recording, besides those that name it."""
    about = with_vocabulary(variant, about)
    model = on_device(pruned(variant, about))
    if variant.steps:
        model = tuned(model, about.training, variant.steps)
    size = {
        "parameters": sum(int(each.count_nonzero()) for each in model.parameters()),
        "macs": macs(model, torch.ones(1, 1, dtype=torch.int64)),
    }
    if variant.form == "float32":
        found = quality(answers(model, about), dense) | {"bytes": stored_bytes(model)}
        return size | found | {"writes": language.written(model, about.tokenizer, PROMPT, WRITTEN)}
    with TemporaryDirectory() as folder:
        generation.build(model.cpu(), about.tokenizer, Path(folder), variant.form)
        return size | in_runtime(Path(folder), about, dense)


def in_runtime(folder: Path, about: Subject, dense: Answers) -> dict:
    """The fields of the model in ``folder``, as :func:`.generation.build` wrote it."""
    decoder = generation.Decoder(folder, torch.get_num_threads())

    def one_by_one(ids: torch.Tensor) -> torch.Tensor:
        return torch.cat([decoder(row[None]) for row in ids])

    prompt = about.tokenizer.encode(PROMPT, add_special_tokens=False).ids
    text = decoder.written(torch.tensor([prompt]), WRITTEN)[0].tolist()
    return quality(answers(one_by_one, about), dense) | {
        "bytes": generation.bytes_on_disk(folder),
        "writes": about.tokenizer.decode(text),
    }


# --- milliseconds -------------------------------------------------------------------------------


def _record_times(recording: Recording, about: Subject) -> None:
    """Record the bandwidth of the machine, and the times of :data:`GROUPS`."""
    recording.once(
        lambda: {
            "bandwidths": [
                {"threads": label, "gigabytes": generation.bandwidth(threads)}
                for label, threads in THREADS.items()
            ]
        },
        "bandwidths",
    )

    def measured(name: str) -> dict[str, list[dict]]:
        return {"times": timed(GROUPS[name], about)}

    def expected(name: str) -> list[dict]:
        return [variant._asdict() for variant in GROUPS[name]]

    recording.each([*GROUPS], measured, expected=expected, tables=("times",), text="groups")


def timed(variants: Sequence[Variant], about: Subject) -> list[dict]:
    """Bytes ``read`` for a token, and the times with one thread and two, of each of ``variants``.

    They take turns with the dense model in float32, to which all speed-ups refer.
    """
    everyone = [Variant(), *(variant for variant in variants if variant != Variant())]
    prompt = about.calibration[:1, :PROMPT_TOKENS] % FIRST_TOKENS
    with TemporaryDirectory() as root:
        folders = {}
        for number, variant in enumerate(bar(everyone, "files")):
            subject = with_vocabulary(variant, about)
            model = pruned(variant, subject)
            folders[variant] = generation.build(
                model, subject.tokenizer, Path(root) / str(number), variant.form
            )
        names = {str(variant): folder for variant, folder in folders.items()}
        times = {
            label: generation.timed(names, prompt, threads=threads, rounds=8, seconds=30)
            for label, threads in THREADS.items()
        }
        return [
            variant._asdict()
            | {"read": generation.bytes_per_token(folders[variant])}
            | {label: times[label][str(variant)] for label in THREADS}
            for variant in variants
        ]
