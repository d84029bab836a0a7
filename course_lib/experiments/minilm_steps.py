"""MiniLM made small step by step: fewer layers, heads, neurons and weights, few values, packed.

What :mod:`course_lib.experiments.steps` does with the networks for pictures, for the one that reads
sentences.
"""

from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch.nn import functional as F

from course_lib.deployment import pruned_file
from course_lib.deployment.pruned_file import FileError, unpack
from course_lib.experiments import steps
from course_lib.networks import minilm
from course_lib.networks.data import Splits
from course_lib.networks.minilm import PAD, SentenceClassifier, Sentences, trimmed
from course_lib.networks.models import logits, on_device
from course_lib.networks.recipes import MINILM
from course_lib.networks.training import Objective, Rewound, Watch, to_labels, to_teacher
from course_lib.pruning import channels, encoders, masks
from course_lib.pruning.channels import Batch

#: Gives the logits (N, 2) of token ids (N, L).
Teacher = Callable[[torch.Tensor], torch.Tensor]

Measured = TypeVar("Measured")

#: Heads and neurons are scored on so many batches of so many training sentences.
SCORED, BATCH = 32, 32

#: Sentences that a network reads at once when nothing is trained.
AT_ONCE = 100

#: The tensor of a packed network that tells how many word pieces it knows.
PIECES = "bert.embeddings.word_embeddings.weight"


class EncoderStep(NamedTuple):
    """How a network is made from ``source``, an earlier step or "dense".

    Args:
        layers: drop so many whole layers.
        heads: then remove this fraction of the attention heads of every layer that is left.
        neurons: and this fraction of the neurons of every MLP.
        weights: then set this fraction of the weights of all linear layers to zero, the smallest.
        codebook_size: then let the other weights of a layer, or an embedding, share so many values.
        epoch_fraction: then train for so many of the recipe's epochs, its learning rates rewound.
        distilled: the goal of the training is what a teacher says, not the labels alone.
    """

    source: str
    layers: int = 0
    heads: float = 0.0
    neurons: float = 0.0
    weights: float = 0.0
    codebook_size: int = 0
    epoch_fraction: float = 0.0
    distilled: bool = False


def apply_step(
    step: EncoderStep,
    source: SentenceClassifier,
    data: Splits,
    teacher: Teacher,
    measure: Callable[[SentenceClassifier], Measured],
    **training,
) -> tuple[SentenceClassifier, Measured]:
    """The network that ``step`` makes of ``source``, and what ``measure`` said before it trained.

    What a step has set to zero stays zero, also in the steps that follow.

    Args:
        data: the parts as :class:`Sentences`.
        training: further arguments of :func:`course_lib.networks.training.fit`, such as
            ``progress``.
    """
    model = cut(step, source, data)
    kept = masks.global_masks(model, step.weights) if step.weights else masks.masks_of(model)
    model = masks.pruned_copy(model, kept)
    few = step.codebook_size
    with steps.weight_sharing(model, few) if few else masks.enforce_masks(on_device(model), kept):
        before = measure(on_device(model))
        if step.epoch_fraction:
            goal = to_teacher(teacher) if step.distilled else to_labels
            retrain(model, data.train, step.epoch_fraction, goal, **training)
    return model.cpu().eval(), before


def retrain(
    model: SentenceClassifier,
    data: Sentences,
    epoch_fraction: float,
    objective: Objective = to_labels,
    progress: Callable[[Iterable], Iterable] = iter,
) -> SentenceClassifier:
    """Train ``model`` in place for the last ``epoch_fraction`` of the recipe.

    Args:
        progress: wraps the counter of training steps.
    """
    return minilm.fine_tune(
        model,
        data,
        epochs=epoch_fraction * MINILM.epochs,
        lr=MINILM.lr,
        seed=MINILM.seed,
        objective=objective,
        schedule=Rewound(MINILM.epochs),
        watch=Watch(progress),
    )


def remembering(network: SentenceClassifier, data: Sentences) -> Teacher:
    """A teacher that looks up what ``network`` says of each sentence of ``data``.

    The sentences are the same in every epoch, so the network reads each of them only once.
    """
    known: dict[tuple[int, ...], torch.Tensor] = {}
    with torch.inference_mode():
        for ids, _ in in_order(data):
            known |= zip(map(_key, ids), logits(network.eval(), ids).cpu(), strict=True)
    return lambda ids: torch.stack([known[_key(row)] for row in ids.cpu()]).to(ids.device)


def _key(ids: torch.Tensor) -> tuple[int, ...]:
    """A sentence without what fills it up."""
    return tuple(ids[ids != PAD].tolist())


# --- what goes ----------------------------------------------------------------------------------


def cut(step: EncoderStep, source: SentenceClassifier, data: Splits) -> SentenceClassifier:
    """A copy of ``source`` without the layers, heads and neurons that ``step`` removes.

    Layers go by what the loss on the validation sentences is without them, heads and neurons by
    their Taylor scores on training sentences (Michel et al., 2019).
    """
    model = encoders.prune(source, {}, least_needed(source, step.layers, data.validation))
    if not step.heads and not step.neurons:
        return model
    graph = encoders.encoder_graph(model)
    scores = channels.taylor(model, graph, some_batches(data.train))
    ratios = {group: getattr(step, group.partition(".")[2]) for group in scores}
    return encoders.prune(model, channels.lowest(scores, ratios))


def least_needed(network: SentenceClassifier, count: int, data: Sentences) -> list[int]:
    """Numbers of ``count`` layers that ``network`` can do without.

    One after the other goes the layer without which the loss on ``data`` is lowest.
    """
    dropped: list[int] = []
    for _ in range(count):
        found = {
            number: float(losses(encoders.prune(network, {}, [*dropped, number]), data).mean())
            for number in numbers(network)
            if number not in dropped
        }
        dropped.append(min(found, key=found.__getitem__))
    return dropped


def numbers(network: SentenceClassifier) -> list[int]:
    """The numbers of the layers that ``network`` still has."""
    return [number for number, layer in enumerate(encoders.layers(network)) if layer.heads]


@torch.inference_mode()
def losses(network: SentenceClassifier, data: Sentences) -> torch.Tensor:
    """Cross-entropy (N,) of ``network`` on each sentence :func:`in_order`, in nats."""
    pairs = [(logits(network.eval(), ids).cpu(), labels) for ids, labels in in_order(data)]
    return torch.cat([F.cross_entropy(*pair, reduction="none") for pair in pairs])


def in_order(data: Sentences, size: int = AT_ONCE) -> list[Batch]:
    """All sentences of ``data`` and their labels in batches, the shortest sentences first."""
    batches = minilm.by_length(data.ids, size)
    return [(trimmed(data.ids[batch]), data.labels[batch]) for batch in batches]


def some_batches(data: Sentences, seed: int = 0) -> list[Batch]:
    """A few small random batches of ``data``, for scores that need gradients."""
    return [*islice(data.batches(BATCH, torch.Generator().manual_seed(seed)), SCORED)]


# --- files --------------------------------------------------------------------------------------


def load(file: Path) -> tuple[SentenceClassifier, dict[str, str]]:
    """The network that :func:`.pruned_file.save` wrote to ``file``, and what it is about.

    The names of its tensors say which layers are left, and their shapes how many heads and neurons.
    It goes with the tokenizer of the trained network, which is not in the file.

    Raises:
        FileError: the file is damaged, or holds no MiniLM.
    """
    tensors, about = unpack(file)
    try:
        whole = SentenceClassifier(len(tensors[PIECES]))
        whole = encoders.prune(whole, {}, _missing(whole, tensors))
        return pruned_file.rebuilt(whole, tensors), about
    except (ValueError, RuntimeError, KeyError) as error:
        raise FileError(f"{file} holds no MiniLM: {error}") from error


def _missing(whole: SentenceClassifier, tensors: dict[str, torch.Tensor]) -> list[int]:
    """The numbers of the layers of which ``tensors`` hold nothing."""
    return [
        number
        for number, layer in enumerate(encoders.layers(whole))
        if not any(name.startswith(f"{layer.name}.") for name in tensors)
    ]
