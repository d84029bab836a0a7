"""Compress MiniLM step by step: fewer layers, heads, neurons, weights and different values.

The counterpart of :mod:`course_lib.experiments.steps`, which compresses the networks for pictures.
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

#: Computes logits (N, 2) from token ids (N, L).
Teacher = Callable[[torch.Tensor], torch.Tensor]

Measured = TypeVar("Measured")

#: Heads and neurons are scored on 32 batches of 32 training sentences.
SCORED, BATCH = 32, 32

#: The batch size for inference, in sentences.
AT_ONCE = 100

#: The tensor of a packed network whose rows are its vocabulary.
PIECES = "bert.embeddings.word_embeddings.weight"


class EncoderStep(NamedTuple):
    """How a network is made from ``source``, an earlier step or "dense".

    The fields are applied in this order; a field that is 0 changes nothing.

    Args:
        layers: number of whole layers to drop.
        heads: fraction of the attention heads to remove from each remaining layer.
        neurons: fraction of the neurons to remove from each MLP.
        weights: fraction of the weights of all linear layers to set to zero, the smallest.
        codebook_size: number of different nonzero values that a layer or an embedding may have.
        epoch_fraction: length of the training that follows, as a fraction of the recipe's epochs,
            with learning-rate rewinding.
        distilled: whether that training uses a teacher, not the labels alone.
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
    """A copy of ``source`` compressed by ``step``, and the result of ``measure`` before training.

    Weights that a step sets to zero stay zero, also in later steps.

    Args:
        data: three parts of :class:`Sentences`.
        teacher: is used if the step is ``distilled``.
        measure: is called with the compressed network before it is trained.
        training: further arguments of :func:`retrain`, such as ``progress``.

    Returns:
        The network, on the CPU and in ``eval`` mode, and that result.
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
    """Train ``model`` in place with the end of the recipe; return it.

    Args:
        epoch_fraction: length of the training, as a fraction of the recipe's epochs, with
            learning-rate rewinding (Renda, Frankle and Carbin, 2020).
        objective: the training loss.
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
    """A teacher that looks up the logits of ``network`` for the sentences of ``data``.

    The sentences are the same in every epoch, so the network runs only once for each. For other
    sentences the teacher raises KeyError.
    """
    known: dict[tuple[int, ...], torch.Tensor] = {}
    with torch.inference_mode():
        for ids, _ in in_order(data):
            known |= zip(map(_key, ids), logits(network.eval(), ids).cpu(), strict=True)
    return lambda ids: torch.stack([known[_key(row)] for row in ids.cpu()]).to(ids.device)


def _key(ids: torch.Tensor) -> tuple[int, ...]:
    """The tokens of a sentence, without padding."""
    return tuple(ids[ids != PAD].tolist())


# --- what is removed ----------------------------------------------------------------------------


def cut(step: EncoderStep, source: SentenceClassifier, data: Splits) -> SentenceClassifier:
    """A copy of ``source`` without the layers, heads and neurons that ``step`` removes.

    Layers are chosen by the validation loss without them, heads and neurons by their Taylor scores
    on training sentences (Michel et al., 2019).
    """
    model = encoders.prune(source, {}, least_needed(source, step.layers, data.validation))
    if not step.heads and not step.neurons:
        return model
    graph = encoders.encoder_graph(model)
    scores = channels.taylor(model, graph, some_batches(data.train))
    ratios = {group: getattr(step, group.partition(".")[2]) for group in scores}
    return encoders.prune(model, channels.lowest(scores, ratios))


def least_needed(network: SentenceClassifier, count: int, data: Sentences) -> list[int]:
    """The numbers of the ``count`` layers that ``network`` needs least.

    They are dropped one at a time: each time the layer without which the loss on ``data`` is
    lowest.
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
    """The numbers of the layers that have not been dropped from ``network``."""
    return [number for number, layer in enumerate(encoders.layers(network)) if layer.heads]


@torch.inference_mode()
def losses(network: SentenceClassifier, data: Sentences) -> torch.Tensor:
    """Cross-entropy (N,) of ``network`` on the sentences of ``data`` :func:`in_order`, in nats."""
    pairs = [(logits(network.eval(), ids).cpu(), labels) for ids, labels in in_order(data)]
    return torch.cat([F.cross_entropy(*pair, reduction="none") for pair in pairs])


def in_order(data: Sentences, size: int = AT_ONCE) -> list[Batch]:
    """All sentences of ``data`` with their labels, in batches, from the shortest to the longest."""
    batches = minilm.by_length(data.ids, size)
    return [(trimmed(data.ids[batch]), data.labels[batch]) for batch in batches]


def some_batches(data: Sentences, seed: int = 0) -> list[Batch]:
    """A few small random batches of ``data``, for scores that need gradients."""
    return [*islice(data.batches(BATCH, torch.Generator().manual_seed(seed)), SCORED)]


# --- files --------------------------------------------------------------------------------------


def load(file: Path) -> tuple[SentenceClassifier, dict[str, str]]:
    """The network that :func:`.pruned_file.save` wrote to ``file``, and the notes in the file.

    The layers that are left follow from the names of its tensors, the numbers of heads and neurons
    from their shapes. Its tokenizer is that of the trained network, which is not in the file.

    Raises:
        FileError: the file is damaged or contains no MiniLM.
    """
    tensors, about = unpack(file)
    try:
        whole = SentenceClassifier(len(tensors[PIECES]))
        whole = encoders.prune(whole, {}, _missing(whole, tensors))
        return pruned_file.rebuilt(whole, tensors), about
    except (ValueError, RuntimeError, KeyError) as error:
        raise FileError(f"{file} contains no MiniLM: {error}") from error


def _missing(whole: SentenceClassifier, tensors: dict[str, torch.Tensor]) -> list[int]:
    """The numbers of the layers that have no tensor in ``tensors``."""
    return [
        number
        for number, layer in enumerate(encoders.layers(whole))
        if not any(name.startswith(f"{layer.name}.") for name in tensors)
    ]
