"""Training and measuring accuracy: one short loop that every lesson and every recipe uses."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR

from course_lib.bars import Progress
from course_lib.networks.data import Images, Labelled

Network = TypeVar("Network", bound=nn.Module)

#: Inputs and labels of one batch.
Batch = tuple[torch.Tensor, torch.Tensor]

#: Called with the data, the batch size and a generator, it makes one shuffled pass over them.
Draw = Callable[[Any, int, torch.Generator], Iterator[Batch]]

#: What training makes small: a number from the logits (N, classes), the pictures that they were
#: given for, and the labels (N,).
Objective = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def augment(images: torch.Tensor, generator: torch.Generator, pad: int = 2) -> torch.Tensor:
    """Mirror half of the images and shift each by up to ``pad`` pixels; shape (N, C, H, W) kept."""
    n, _, height, width = images.shape
    flip = torch.rand(n, 1, 1, 1, generator=generator) < 0.5
    images = torch.where(flip, images.flip(3), images)
    background = images.amin().item()
    padded = F.pad(images, (pad,) * 4, value=background)
    top, left = torch.randint(0, 2 * pad + 1, (2, n, 1), generator=generator)
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    picture = torch.arange(n)[:, None, None]
    cropped = padded.permute(0, 2, 3, 1)[picture, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2)


def batches(
    data: Images, size: int, generator: torch.Generator, augmented: bool = True
) -> Iterator[Batch]:
    """One shuffled pass over ``data`` in full batches (the last incomplete one is left out)."""
    order = torch.randperm(len(data.labels), generator=generator)
    for index in order[: len(order) // size * size].split(size):
        images = data.images[index]
        yield augment(images, generator) if augmented else images, data.labels[index]


def to_labels(logits: torch.Tensor, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The usual objective: cross-entropy with the labels."""
    return F.cross_entropy(logits, labels)


def to_teacher(
    teacher: Callable[[torch.Tensor], torch.Tensor], temperature: float = 4.0, share: float = 0.9
) -> Objective:
    """The objective of distillation (Hinton, Vinyals and Dean, 2015).

    For ``share`` of it the probabilities of ``teacher``, softened by ``temperature``, are the goal,
    for the rest the labels. The teacher sees the same augmented pictures; it is a network in
    ``eval`` mode, or whatever else gives logits (N, classes) for pictures.

    Raises:
        ValueError: a temperature that is not above 0, or a share outside of 0 to 1.
    """
    if temperature <= 0 or not 0 <= share <= 1:
        raise ValueError(
            f"The temperature is above 0 and the share from 0 to 1; got {temperature}, {share}."
        )

    def objective(logits: torch.Tensor, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            goal = F.log_softmax(teacher(images) / temperature, dim=1)
        found = F.log_softmax(logits / temperature, dim=1)
        apart = F.kl_div(found, goal, reduction="batchmean", log_target=True)
        # softer probabilities have gradients smaller by the square of the temperature
        return share * temperature**2 * apart + (1 - share) * to_labels(logits, images, labels)

    return objective


def fit(
    model: Network,
    data: Labelled,
    *,
    epochs: float,
    lr: float,
    seed: int,
    batch_size: int = 128,
    weight_decay: float = 5e-4,
    optimizer: str = "sgd",
    draw: Draw = batches,
    objective: Objective = to_labels,
    schedule: str = "one-cycle",
    of_epochs: float = 0.0,
    to_follow: float = 0.0,
    after_epoch: Callable[[float, float], None] | None = None,
    marks: Sequence[float] | None = None,
    progress: Progress[int] = iter,
) -> Network:
    """Train ``model`` in place, as a rule with SGD on augmented pictures.

    Args:
        epochs: passes over the data; a fraction is allowed (0.25 is a quarter of a pass).
        lr: highest learning rate of the (whole) schedule.
        seed: seeds the order and the augmentation; the same seed gives the same weights.
        optimizer: ``"sgd"`` with Nesterov momentum 0.9, which suits convolutions, or ``"adamw"``
            (Loshchilov and Hutter, 2019), which suits attention and takes a far lower ``lr``.
        draw: called with ``data``, the batch size and a generator, makes one shuffled pass over
            full batches; :func:`batches` augments pictures.
        objective: what to make small; :func:`to_teacher` distils.
        schedule: ``"one-cycle"`` (Smith and Topin, 2018: up, then down to nearly zero),
            ``"constant"``, or ``"rewound"``: the end of an earlier one-cycle (Renda, Frankle and
            Carbin, 2020).
        of_epochs: only for ``"rewound"``: how long that earlier one-cycle was.
        to_follow: only for ``"rewound"``: epochs of it that are left to trainings after this one.
        after_epoch: called with (epoch, mean training loss since the last call) after every full
            pass, or at each of the ``marks``.
        marks: rising numbers of epochs after which to call ``after_epoch``. Training to a mark is
            the same as training that long and no longer, unless the schedule depends on the end.
        progress: wraps the step counter, for a progress bar.

    Raises:
        ValueError: unknown schedule or optimizer, not enough data for one step, or epochs or marks
            outside of the training that they belong to.
    """
    steps_per_epoch = len(data.labels) // batch_size
    steps = round(epochs * steps_per_epoch)
    if steps < 1:
        raise ValueError(
            f"{epochs} epochs of {len(data.labels)} pictures in batches of {batch_size} "
            "are no training step; ask for more epochs or smaller batches."
        )
    marked = _marked(marks, steps, steps_per_epoch)
    stepper = _optimizer(optimizer, model, lr, weight_decay)
    whole, after = round(of_epochs * steps_per_epoch), round(to_follow * steps_per_epoch)
    scheduler = _scheduler(schedule, stepper, lr, steps, whole, after)
    stream = _endless(draw, data, batch_size, torch.Generator().manual_seed(seed))
    device = next(model.parameters()).device
    losses = []
    model.train()
    for step in progress(range(1, steps + 1)):
        images, labels = (tensor.to(device) for tensor in next(stream))
        with _sound(model):
            loss = objective(model(images), images, labels)
            stepper.zero_grad()
            loss.backward()
        stepper.step()
        scheduler.step()
        losses.append(loss.item())
        if after_epoch is not None and step in marked:
            after_epoch(marked[step], sum(losses) / len(losses))
            losses.clear()
            model.train()
    return model.eval()


def _endless(draw: Draw, data: Labelled, size: int, generator: torch.Generator) -> Iterator[Batch]:
    while True:
        yield from draw(data, size, generator)


def _optimizer(
    name: str, model: nn.Module, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(
            model.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay, nesterov=True
        )
    if name == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    raise ValueError(f"No optimizer is called {name!r}; choose 'sgd' or 'adamw'.")


@contextmanager
def _sound(model: nn.Module) -> Iterator[None]:
    """Without oneDNN for a network in which a strided 1x1 convolution reads few channels.

    With fewer than eight, on processors with AVX2 and in the layout that is channels last, it
    writes beyond its memory in the backward pass (torch 2.15), and the process breaks off later.
    """
    narrow = any(
        layer.kernel_size == (1, 1) and max(layer.stride) > 1 and layer.in_channels < 8
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d)
    )
    if not narrow:
        yield
        return
    before, *_ = torch.backends.mkldnn.set_flags(_enabled=False, _fp32_precision=None)
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(_enabled=before, _fp32_precision=None)


def _marked(marks: Sequence[float] | None, steps: int, per_epoch: int) -> dict[int, float]:
    """The mark, in epochs, of each marked step; without ``marks``, every full pass."""
    if marks is None:
        marks = range(1, steps // per_epoch + 1)
    marked = {round(mark * per_epoch): mark for mark in marks}
    if len(marked) < len(marks) or not all(1 <= step <= steps for step in marked):
        raise ValueError(
            f"Marks must be different steps of the training; {list(marks)} epochs are the steps "
            f"{[round(mark * per_epoch) for mark in marks]} of {steps}."
        )
    return marked


def _scheduler(
    name: str, optimizer: torch.optim.Optimizer, lr: float, steps: int, whole: int, after: int
) -> LRScheduler:
    if name not in ("one-cycle", "constant", "rewound"):
        raise ValueError(
            f"No schedule is called {name!r}; choose 'one-cycle', 'constant' or 'rewound'."
        )
    if name == "rewound":
        return _rewound(optimizer, lr, steps, whole, after)
    if whole or after:
        raise ValueError(f"of_epochs and to_follow are for 'rewound'; the schedule is {name!r}.")
    if name == "constant":
        return ConstantLR(optimizer, factor=1.0, total_iters=0)
    return _one_cycle(optimizer, lr, steps)


def _one_cycle(
    optimizer: torch.optim.Optimizer, lr: float, steps: int, done: int = 0
) -> OneCycleLR:
    """One-cycle over ``steps`` steps of which ``done`` are over."""
    return OneCycleLR(
        optimizer,
        lr,
        total_steps=max(steps, 5),  # in 4 steps torch's first phase would have no length
        pct_start=0.25,
        cycle_momentum=False,
        last_epoch=done - 1,
    )


def _rewound(
    optimizer: torch.optim.Optimizer, lr: float, steps: int, whole: int, after: int
) -> OneCycleLR:
    """The last ``steps`` of a one-cycle over ``whole`` steps, or those ``after`` steps earlier."""
    done = whole - after - steps
    if done < 0:
        raise ValueError(
            f"{steps} steps with {after} to follow are more than the one-cycle of {whole} steps "
            "that they rewind to; give its length as of_epochs."
        )
    scheduler = _one_cycle(optimizer, lr, whole)  # also notes in the optimizer where rates end
    return _one_cycle(optimizer, lr, whole, done) if done else scheduler


@torch.inference_mode()
def accuracy(model: nn.Module, data: Images, batch_size: int = 500) -> float:
    """Share of ``data`` that ``model`` labels correctly, in percent; puts it into ``eval`` mode."""
    model.eval()
    device = next(model.parameters()).device
    correct = 0
    pieces = zip(data.images.split(batch_size), data.labels.split(batch_size), strict=True)
    for images, labels in pieces:
        predicted = model(images.to(device)).argmax(1).cpu()
        correct += (predicted == labels).sum().item()
    return 100 * correct / len(data.labels)
