"""Training and accuracy: one short loop that every lesson and every recipe uses."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR

from course_lib.bars import Progress
from course_lib.networks.data import Batch, Images, Labelled
from course_lib.networks.models import Network

#: Computes the loss from the logits (N, classes), the inputs that gave them, and the labels (N,).
Objective = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Examples(Labelled, Protocol):
    """Data to train on: images or sentences."""

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """One shuffled pass in full batches of inputs and labels."""


# --- the objective ------------------------------------------------------------------------------


def to_labels(logits: torch.Tensor, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The usual objective: mean cross-entropy of logits (N, classes) and labels (N,), in nats."""
    return F.cross_entropy(logits, labels)


def to_teacher(
    teacher: Callable[[torch.Tensor], torch.Tensor], temperature: float = 4.0, share: float = 0.9
) -> Objective:
    """The objective of distillation (Hinton, Vinyals and Dean, 2015).

    ``share * temperature^2 * KL(teacher || student) + (1 - share) * cross-entropy``, where the
    probabilities of teacher and student are softened by ``temperature``. The teacher sees the same
    augmented images; it is a network in ``eval`` mode, or any other function from images to logits
    (N, classes).

    Raises:
        ValueError: the temperature is not above 0, or the share is not between 0 and 1.
    """
    if temperature <= 0 or not 0 <= share <= 1:
        raise ValueError(
            f"The temperature must be above 0, the share from 0 to 1; got {temperature}, {share}."
        )

    def objective(logits: torch.Tensor, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            goal = F.log_softmax(teacher(images) / temperature, dim=1)
        found = F.log_softmax(logits / temperature, dim=1)
        apart = F.kl_div(found, goal, reduction="batchmean", log_target=True)
        # softened probabilities give gradients smaller by the square of the temperature
        return share * temperature**2 * apart + (1 - share) * to_labels(logits, images, labels)

    return objective


# --- the optimizer ------------------------------------------------------------------------------


class SGD(NamedTuple):
    """Stochastic gradient descent with Nesterov momentum 0.9, the usual choice for convolutions.

    Args:
        lr: highest learning rate of the schedule.
        batch_size: examples per step.
    """

    lr: float
    weight_decay: float = 5e-4
    batch_size: int = 128

    def of(self, model: nn.Module) -> torch.optim.Optimizer:
        """The torch optimizer for ``model``."""
        how: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        return torch.optim.SGD(model.parameters(), momentum=0.9, nesterov=True, **how)


class AdamW(NamedTuple):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), usual for attention.

    It needs a far lower learning rate than SGD.

    Args:
        lr: highest learning rate of the schedule.
        batch_size: examples per step.
    """

    lr: float
    weight_decay: float = 0.01
    batch_size: int = 32

    def of(self, model: nn.Module) -> torch.optim.Optimizer:
        """The torch optimizer for ``model``."""
        how: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        return torch.optim.AdamW(model.parameters(), **how)


# --- the schedule of the learning rate ----------------------------------------------------------


class OneCycle(NamedTuple):
    """Up for a quarter of the steps, then down to nearly zero (Smith and Topin, 2018)."""

    def of(self, optimizer: torch.optim.Optimizer, steps: int, steps_per_epoch: int) -> LRScheduler:
        """The scheduler for a training run of ``steps`` steps."""
        return _one_cycle(optimizer, steps)


class Constant(NamedTuple):
    """The same learning rate from the first step to the last."""

    def of(self, optimizer: torch.optim.Optimizer, steps: int, steps_per_epoch: int) -> LRScheduler:
        """The scheduler for a training run of ``steps`` steps."""
        return ConstantLR(optimizer, factor=1.0, total_iters=0)


class Rewound(NamedTuple):
    """Learning-rate rewinding: the end of an earlier one-cycle (Renda, Frankle and Carbin, 2020).

    Args:
        of_epochs: length of that one-cycle, in epochs.
        to_follow: epochs at its end that are left for later training runs.
    """

    of_epochs: float
    to_follow: float = 0.0

    def of(self, optimizer: torch.optim.Optimizer, steps: int, steps_per_epoch: int) -> LRScheduler:
        """The scheduler for a training run of ``steps`` steps.

        Raises:
            ValueError: the run is longer than the rest of the one-cycle.
        """
        whole, after = (round(epochs * steps_per_epoch) for epochs in self)
        done = whole - after - steps
        if done < 0:
            raise ValueError(
                f"{steps} steps with {after} to follow are more than the one-cycle of {whole} "
                "steps that they rewind to; pass its length as of_epochs."
            )
        scheduler = _one_cycle(optimizer, whole)  # also stores the range of rates in the optimizer
        return _one_cycle(optimizer, whole, done) if done else scheduler


Optimizer = SGD | AdamW
Schedule = OneCycle | Constant | Rewound


def _one_cycle(optimizer: torch.optim.Optimizer, steps: int, done: int = 0) -> OneCycleLR:
    """One-cycle over ``steps`` steps, of which the first ``done`` are over."""
    return OneCycleLR(
        optimizer,
        optimizer.defaults["lr"],
        total_steps=max(steps, 5),  # with 4 steps, torch's first phase would have length zero
        pct_start=0.25,
        cycle_momentum=False,
        last_epoch=done - 1,
    )


# --- the loop -----------------------------------------------------------------------------------


class Watch(NamedTuple):
    """How a training run is watched.

    Args:
        progress: wraps the step counter, for a progress bar.
        after_epoch: called with (epoch, mean training loss since the last call) after every full
            pass, or at each of the ``marks``.
        marks: increasing numbers of epochs after which to call ``after_epoch``. The weights at a
            mark are those of a run that ends there, unless the schedule depends on the length.
    """

    progress: Progress[int] = iter
    after_epoch: Callable[[float, float], None] | None = None
    marks: Sequence[float] | None = None


def fit(
    model: Network,
    data: Examples,
    *,
    epochs: float,
    seed: int,
    optimizer: Optimizer,
    schedule: Schedule = OneCycle(),
    objective: Objective = to_labels,
    watch: Watch = Watch(),
) -> Network:
    """Train ``model`` in place; return it in ``eval`` mode.

    Args:
        data: training images, which are augmented, or sentences.
        epochs: passes over the data, which may be fractional (0.25 is a quarter of a pass).
        seed: seeds the order and the augmentation; the same seed gives the same weights.
        objective: the loss; :func:`to_teacher` is that of distillation.

    Raises:
        ValueError: the schedule or optimizer is not one of the above, there is too little data for
            one step, or a mark or rewound epoch is outside the run that it belongs to.
    """
    _refuse_names(optimizer, schedule)
    steps_per_epoch = len(data.labels) // optimizer.batch_size
    steps = round(epochs * steps_per_epoch)
    if steps < 1:
        raise ValueError(
            f"{epochs} epochs of {len(data.labels)} examples in batches of {optimizer.batch_size} "
            "give no training step; use more epochs or smaller batches."
        )
    marked = _marked(watch.marks, steps, steps_per_epoch)
    stepper = optimizer.of(model)
    scheduler = schedule.of(stepper, steps, steps_per_epoch)
    stream = _endless(data, optimizer.batch_size, torch.Generator().manual_seed(seed))
    device = next(model.parameters()).device
    losses = []
    model.train()
    for step in watch.progress(range(1, steps + 1)):
        inputs, labels = (tensor.to(device) for tensor in next(stream))
        with _sound(model):
            loss = objective(model(inputs), inputs, labels)
            stepper.zero_grad()
            loss.backward()
        stepper.step()
        scheduler.step()
        losses.append(loss.item())
        if watch.after_epoch is not None and step in marked:
            watch.after_epoch(marked[step], sum(losses) / len(losses))
            losses.clear()
            model.train()
    return model.eval()


def _refuse_names(optimizer: Optimizer, schedule: Schedule) -> None:
    """Refuse anything but the classes above, such as the names that were arguments once."""
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"The optimizer must be SGD(lr=...) or AdamW(lr=...); got {optimizer!r}.")
    if not isinstance(schedule, Schedule):
        raise ValueError(
            f"Use the schedule OneCycle(), Constant() or Rewound(of_epochs=...); got {schedule!r}."
        )


def _endless(data: Examples, size: int, generator: torch.Generator) -> Iterator[Batch]:
    while True:
        yield from data.batches(size, generator)


@contextmanager
def _sound(model: nn.Module) -> Iterator[None]:
    """Turn oneDNN off for a network in which a strided 1x1 convolution reads few channels.

    With fewer than eight input channels, on processors with AVX2 and in channels-last format, its
    backward pass writes out of bounds (torch 2.15), and the process crashes later.
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


@torch.inference_mode()
def correct(model: nn.Module, data: Images, batch_size: int = 500) -> torch.Tensor:
    """Which of ``data`` the ``model`` labels correctly, bool (N,); puts it into ``eval`` mode."""
    model.eval()
    device = next(model.parameters()).device
    predicted = [
        model(images.to(device)).argmax(1).cpu() for images in data.images.split(batch_size)
    ]
    return torch.cat(predicted) == data.labels


def accuracy(model: nn.Module, data: Images, batch_size: int = 500) -> float:
    """The accuracy of ``model`` on ``data``, in percent; puts ``model`` into ``eval`` mode."""
    return 100 * correct(model, data, batch_size).sum().item() / len(data.labels)


# --- the statistics of BatchNorm ----------------------------------------------------------------


@torch.no_grad()
def recalibrate(model: Network, inputs: torch.Tensor, batch_size: int = 128) -> Network:
    """Estimate the running statistics of all BatchNorm layers of ``model`` anew, in place.

    Pruning changes what arrives at a BatchNorm layer; its running mean and variance are still those
    of the unpruned network. Here they become the averages over a few batches, without labels and
    without a step of training. Known as adaptive BatchNorm or BatchNorm recalibration (Li et al.,
    2020, "EagleEye"). A network without running statistics stays as it is. Lesson 01 builds this.

    Args:
        inputs: training examples (N, ...); about a thousand are enough.
        batch_size: examples in a batch, or a few more, so that no batch is smaller.

    Returns:
        ``model``, in ``eval`` mode.

    Raises:
        ValueError: fewer than 2 inputs, or a batch size below 2.
    """
    if len(inputs) < 2 or batch_size < 2:
        raise ValueError(
            "A variance needs at least 2 inputs in a batch; got "
            f"{len(inputs)} inputs in batches of {batch_size}."
        )
    device = next(model.parameters()).device
    norms = [
        layer
        for layer in model.eval().modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None
    ]
    with _averaging(norms):
        for batch in inputs.tensor_split(max(1, len(inputs) // batch_size)):
            model(batch.to(device))
    return model


@contextmanager
def _averaging(norms: Sequence[nn.modules.batchnorm._BatchNorm]) -> Iterator[None]:
    """Let ``norms`` average the statistics of all batches, starting from none.

    If that fails, they get back what they had.
    """
    before = [copy.deepcopy(layer.state_dict()) for layer in norms]
    momenta = [layer.momentum for layer in norms]
    try:
        for layer in norms:
            layer.reset_running_stats()
            layer.momentum = None  # the mean of all batches, each as much as any other
            layer.train()
        yield
    except BaseException:
        for layer, state in zip(norms, before, strict=True):
            layer.load_state_dict(state)
        raise
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
            layer.eval()
