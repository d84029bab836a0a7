"""The exercises of lesson 01: masks, scores, and training steps that keep the zeros."""

from collections.abc import Callable

import torch

from course_lib.teaching.exercises.engine import Exercise, Mistake


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- 01.1 ---------------------------------------------------------------------------------------


def magnitude_mask(weight: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Keep all but the ``round(sparsity * n)`` smallest magnitudes; of equal ones the first go."""
    count = round(sparsity * weight.numel())
    order = weight.abs().flatten().argsort(stable=True)
    mask = torch.ones(weight.numel(), dtype=torch.bool)
    mask[order[:count]] = False
    return mask.view(weight.shape)


def _magnitude_cases() -> list[tuple]:
    return [
        (torch.tensor([1.0, -2.0, 3.0, -4.0]), 0.5),
        (torch.tensor([1.0, -2.0, 3.0, -4.0]), 0.25),
        (torch.tensor([1.0, 1.0, 1.0, 1.0]), 0.5),
        (torch.tensor([5.0]), 0.0),
        (torch.tensor([5.0]), 1.0),
        (_random(3, 4), 0.65),
        (_random(4, 5, seed=1).T, 0.3),
    ]


def _prune_in_order(score: torch.Tensor, count: int) -> torch.Tensor:
    mask = torch.ones(score.numel(), dtype=torch.bool)
    mask[score.flatten().argsort(stable=True)[:count]] = False
    return mask.view(score.shape)


def _threshold(weight: torch.Tensor, sparsity: float) -> torch.Tensor:
    """The largest magnitude to prune."""
    count = round(sparsity * weight.numel())
    return weight.abs().flatten().sort().values[count - 1] if count else torch.tensor(-1.0)


def _first_kept(weight: torch.Tensor, sparsity: float) -> torch.Tensor:
    """The smallest magnitude to keep."""
    count = round(sparsity * weight.numel())
    ordered = weight.abs().flatten().sort().values
    return ordered[count] if count < len(ordered) else torch.tensor(torch.inf)


MAGNITUDE_MASK = Exercise(
    id="01.1",
    title="a magnitude mask",
    difficulty=2,
    minutes=8,
    reference=magnitude_mask,
    cases=_magnitude_cases,
    hints=(
        "How many weights are pruned? `round(sparsity * weight.numel())`.",
        "A threshold cannot separate weights of equal size. An order can: "
        "`weight.abs().flatten().argsort(stable=True)` lists positions, smallest first.",
        "Start from a flat mask of True, set the first positions to False, and give it the "
        "weight's shape with `.view(weight.shape)`.",
    ),
    mistakes=(
        Mistake(
            lambda weight, sparsity: _prune_in_order(weight, round(sparsity * weight.numel())),
            "You rank the signed values, so large negative weights go first. Rank `weight.abs()`.",
        ),
        Mistake(
            lambda weight, sparsity: _prune_in_order(
                -weight.abs(), round(sparsity * weight.numel())
            ),
            "You prune the largest weights and keep the smallest: the order is reversed.",
        ),
        Mistake(
            lambda weight, sparsity: ~magnitude_mask(weight, sparsity),
            "Your mask is True where a weight is pruned. In this course True means keep.",
        ),
        Mistake(
            lambda weight, sparsity: weight.abs() > _threshold(weight, sparsity),
            "With equal weights your threshold prunes too many: all ties go together. Prune "
            "exactly the requested number, by position in the order.",
        ),
        Mistake(
            lambda weight, sparsity: weight.abs() >= _first_kept(weight, sparsity),
            "With equal weights your threshold prunes too few: all ties stay together. Prune "
            "exactly the requested number, by position in the order.",
        ),
        Mistake(
            lambda weight, sparsity: weight.abs() > sparsity * weight.abs().max(),
            "You prune everything below a fraction of the largest weight. Sparsity is a fraction "
            "of the number of weights, not of their size.",
        ),
        Mistake(
            lambda weight, sparsity: weight * magnitude_mask(weight, sparsity),
            "You return the masked weights. Return the mask itself, a tensor of True and False.",
        ),
        Mistake(
            lambda weight, sparsity: _prune_in_order(weight.abs(), int(sparsity * weight.numel())),
            "`int` truncates: 0.65 of 12 is 7.8, which `round` makes 8.",
        ),
    ),
)


# --- 01.2 ---------------------------------------------------------------------------------------


def global_masks(weights: dict[str, torch.Tensor], sparsity: float) -> dict[str, torch.Tensor]:
    """One ranking of all weights, split into one mask per layer."""
    everything = torch.cat([weight.flatten() for weight in weights.values()])
    mask = magnitude_mask(everything, sparsity)
    parts = mask.split([weight.numel() for weight in weights.values()])
    return {
        name: part.view(weight.shape)
        for (name, weight), part in zip(weights.items(), parts, strict=True)
    }


def _global_cases() -> list[tuple]:
    small, large = torch.tensor([0.1, -0.2]), torch.tensor([3.0, -4.0])
    ties = {"first": torch.tensor([1.0, 1.0]), "second": torch.tensor([1.0, 1.0])}
    three = {
        name: _random(*shape, seed=1) * scale
        for name, shape, scale in (
            ("conv", (2, 3), 0.2),
            ("hidden", (3, 3), 1.0),
            ("head", (5,), 3.0),
        )
    }
    return [
        ({"small": small, "large": large}, 0.5),
        ({"small": small, "large": large}, 0.25),
        (ties, 0.25),
        ({"only": torch.tensor([2.0])}, 0.0),
        ({"only": torch.tensor([2.0])}, 1.0),
        (three, 0.62),
    ]


def _each(weights: dict, mask: Callable) -> dict:
    return {name: mask(weight) for name, weight in weights.items()}


def _all(weights: dict) -> torch.Tensor:
    return torch.cat([weight.flatten() for weight in weights.values()])


def _on_scaled(weights: dict, sparsity: float, scale: Callable) -> dict:
    """Global masks, ranked after dividing each layer by its own scale."""
    return global_masks(_each(weights, lambda weight: weight / scale(weight)), sparsity)


def _mean_of_thresholds(weights: dict, sparsity: float) -> dict:
    thresholds = [_threshold(weight, sparsity) for weight in weights.values()]
    return _each(weights, lambda weight: weight.abs() > sum(thresholds) / len(thresholds))


GLOBAL_MASKS = Exercise(
    id="01.2",
    title="masks for the whole network",
    difficulty=2,
    minutes=8,
    reference=global_masks,
    cases=_global_cases,
    hints=(
        "Every weight of the network competes with every other. Put them into one long vector "
        "with `torch.cat`.",
        "You already have a function that masks one tensor: use it on the long vector.",
        "`mask.split([weight.numel() for weight in weights.values()])` splits it again.",
    ),
    mistakes=(
        Mistake(
            lambda weights, sparsity: _each(weights, lambda w: magnitude_mask(w, sparsity)),
            "You prune the same fraction of every layer. With a global ranking, a layer of small "
            "weights may lose nearly all of them and a layer of large weights none.",
        ),
        Mistake(
            _mean_of_thresholds,
            "You average the thresholds of the layers. The threshold for all weights together is "
            "a different number: rank them together.",
        ),
        Mistake(
            lambda weights, sparsity: _on_scaled(weights, sparsity, lambda w: w.abs().max()),
            "You divide each layer by its largest weight before ranking. A global ranking compares "
            "the magnitudes as they are.",
        ),
        Mistake(
            lambda weights, sparsity: _on_scaled(weights, sparsity, lambda w: w.abs().mean()),
            "You divide each layer by its mean magnitude before ranking. A global ranking compares "
            "the magnitudes as they are.",
        ),
        Mistake(
            lambda weights, sparsity: _each(
                weights, lambda w: w.abs() > _threshold(_all(weights), sparsity)
            ),
            "With equal weights in two layers your threshold prunes too many. Prune exactly the "
            "requested number, earlier layers first.",
        ),
        Mistake(
            lambda weights, sparsity: _each(global_masks(weights, sparsity), torch.logical_not),
            "Your masks are True where a weight is pruned. In this course True means keep.",
        ),
        Mistake(
            lambda weights, sparsity: magnitude_mask(_all(weights), sparsity),
            "The ranking is right, but you return one long mask. Split it into one mask per layer.",
        ),
    ),
)


# --- 01.3 ---------------------------------------------------------------------------------------


def masked_step(
    weight: torch.Tensor,
    velocity: torch.Tensor,
    gradient: torch.Tensor,
    mask: torch.Tensor,
    lr: float,
    momentum: float,
    weight_decay: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step of SGD with momentum and weight decay after which pruned weights are zero."""
    velocity = momentum * velocity + gradient + weight_decay * weight
    weight = (weight - lr * velocity) * mask
    return weight, velocity


def _step_cases() -> list[tuple]:
    rates = (0.1, 0.9, 0.01)
    mask = torch.tensor([True, False])
    resting, moving = torch.zeros(2), torch.tensor([1.0, 1.0])
    masks = _random(2, 3, seed=4) > 0
    return [
        (torch.tensor([1.0, 0.0]), resting, torch.tensor([0.5, 0.5]), mask, *rates),
        (torch.tensor([1.0, 0.0]), moving, torch.tensor([0.5, 0.0]), mask, *rates),
        (torch.tensor([1.0, 2.0]), resting, torch.tensor([0.5, 0.5]), mask, *rates),
        (_random(2, 3, seed=1), _random(2, 3, seed=2), _random(2, 3, seed=3), masks, *rates),
    ]


def _step(weight, velocity, gradient, lr, momentum, weight_decay) -> tuple:
    velocity = momentum * velocity + gradient + weight_decay * weight
    return weight - lr * velocity, velocity


MASKED_STEP = Exercise(
    id="01.3",
    title="a training step that keeps the zeros",
    difficulty=3,
    minutes=10,
    reference=masked_step,
    cases=_step_cases,
    hints=(
        "First write the step without a mask: velocity = momentum * velocity + gradient "
        "+ weight_decay * weight, then weight - lr * velocity.",
        "Momentum remembers steps from before the pruning, so a zero gradient is not enough.",
        "Whatever the optimizer does, multiply the new weight by the mask at the very end.",
    ),
    mistakes=(
        Mistake(
            lambda w, v, g, mask, *rates: _step(w, v, g, *rates),
            "The mask is not used, so the first gradient revives every pruned weight.",
        ),
        Mistake(
            lambda w, v, g, mask, *rates: _step(w, v, g * mask, *rates),
            "You mask the gradient only. The velocity still moves a pruned weight: momentum "
            "revives it. Mask the weight after the step.",
        ),
        Mistake(
            lambda w, v, g, mask, *rates: _step(w * mask, v, g, *rates),
            "You mask the weight before the step, and the step revives it. Mask it after the step.",
        ),
        Mistake(
            lambda w, v, g, mask, lr, momentum, decay: (
                (w - lr * (momentum * v + g)) * mask,
                momentum * v + g,
            ),
            "The weight decay is missing: add weight_decay * weight to the velocity.",
        ),
        Mistake(
            lambda w, v, g, mask, lr, momentum, decay: (
                (w - lr * (g + decay * w)) * mask,
                g + decay * w,
            ),
            "The momentum is missing: the new velocity starts from momentum * velocity.",
        ),
        Mistake(
            lambda w, v, g, mask, *rates: (
                _step(w, v, g, *rates)[0] * ~mask,
                _step(w, v, g, *rates)[1],
            ),
            "You keep the weights that the mask prunes. True means keep: multiply by the mask "
            "itself.",
        ),
        Mistake(
            lambda w, v, g, mask, *rates: masked_step(w, v, g, mask, *rates)[0],
            "Return both the new weight and the new velocity: the next step needs both.",
        ),
    ),
)


# --- 01.4 ---------------------------------------------------------------------------------------


def wanda(weight: torch.Tensor, input_norm: torch.Tensor) -> torch.Tensor:
    """|weight| (out, in) times the norm (in,) of the input that it reads."""
    return weight.abs() * input_norm


def _wanda_cases() -> list[tuple]:
    return [
        (torch.tensor([[1.0, -1.0], [2.0, -3.0]]), torch.tensor([10.0, 0.5])),
        (torch.tensor([[-2.0]]), torch.tensor([3.0])),
        (torch.tensor([[1.0, -2.0, 3.0]]), torch.tensor([0.0, 1.0, 2.0])),
        (_random(4, 3), _random(3, seed=1).abs()),
    ]


WANDA = Exercise(
    id="01.4",
    title="Wanda's score",
    difficulty=2,
    minutes=5,
    reference=wanda,
    cases=_wanda_cases,
    hints=(
        "weight[i, j] is multiplied by input j, so its score needs the norm of input j.",
        "The weight has shape (out, in) and the norm (in,): broadcasting aligns the last "
        "dimension.",
    ),
    mistakes=(
        Mistake(
            lambda weight, norm: weight.abs(),
            "That is the magnitude alone. A small weight matters if its input is large: multiply "
            "by the norm of the input.",
        ),
        Mistake(
            lambda weight, norm: weight * norm,
            "The score of a negative weight must not be negative: take the absolute value.",
        ),
        Mistake(
            lambda weight, norm: weight.abs() * norm[:, None],
            "You scale the rows, the outputs of the layer. Column j of the weight reads input j.",
        ),
        Mistake(
            lambda weight, norm: weight.abs() * norm.square(),
            "You square the norm. Wanda multiplies by the norm itself, which gives the size of "
            "weight times input.",
        ),
        Mistake(
            lambda weight, norm: weight.square() * norm,
            "You square the weight but not the norm, which changes the order. Multiply the "
            "absolute value by the norm.",
        ),
        Mistake(
            lambda weight, norm: weight.abs() / norm,
            "You divide by the norm. A larger input makes its weights matter more, not less.",
        ),
        Mistake(
            lambda weight, norm: (weight.abs() * norm).sum(0),
            "You sum over the outputs. Every weight needs its own score: return the shape of the "
            "weight.",
        ),
    ),
)


# --- 01.5 ---------------------------------------------------------------------------------------


def nm_mask(weight: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """Keep the ``n`` largest magnitudes of every ``m`` consecutive inputs."""
    groups = weight.abs().reshape(-1, m)
    order = groups.argsort(dim=1, stable=True)
    mask = torch.ones(groups.shape, dtype=torch.bool)
    mask.scatter_(1, order[:, : m - n], False)
    return mask.view(weight.shape)


def _nm_cases() -> list[tuple]:
    return [
        (torch.tensor([[1.0, -2.0, 3.0, -4.0]]), 2, 4),
        (torch.tensor([[1.0, -2.0, 3.0, -4.0]]), 1, 4),
        (torch.tensor([[1.0, 1.0, 1.0, 1.0]]), 2, 4),
        (torch.tensor([[9.0, 8.0, 7.0, 6.0, 1.0, 2.0, 3.0, 4.0]]), 2, 4),
        (torch.tensor([[1.0, 2.0]]), 2, 2),
        (_random(4, 8), 2, 4),
        (_random(4, 8, seed=1), 1, 4),
    ]


def _row_mask(weight: torch.Tensor, n: int, m: int) -> torch.Tensor:
    return torch.stack([magnitude_mask(row, 1 - n / m) for row in weight])


NM_MASK = Exercise(
    id="01.5",
    title="an N:M mask",
    difficulty=3,
    minutes=10,
    reference=nm_mask,
    cases=_nm_cases,
    hints=(
        "`weight.reshape(-1, m)` makes every group of m consecutive inputs a row.",
        "Within a row, prune the m - n smallest magnitudes, always exactly that many.",
        "`mask.scatter_(1, order[:, :m - n], False)` writes False at the positions in `order`.",
    ),
    mistakes=(
        Mistake(
            lambda weight, n, m: magnitude_mask(weight, 1 - n / m),
            "You rank the whole matrix. The hardware needs exactly n of every m neighbours, so "
            "rank each group of m by itself.",
        ),
        Mistake(
            _row_mask,
            "You rank whole rows. The hardware needs exactly n of every m neighbours within a row.",
        ),
        Mistake(
            lambda weight, n, m: nm_mask(weight, m - n, m),
            "You prune n of every m. N:M keeps n and prunes m - n.",
        ),
        Mistake(
            lambda weight, n, m: ~nm_mask(weight, m - n, m),
            "You keep the smallest n of each group. Keep the largest.",
        ),
        Mistake(
            lambda weight, n, m: ~nm_mask(weight, n, m),
            "Your mask is True where a weight is pruned. In this course True means keep.",
        ),
        Mistake(
            lambda weight, n, m: _prune_signed(weight, n, m),
            "You rank the signed values, so large negative weights go first. Rank the magnitudes.",
        ),
        Mistake(
            lambda weight, n, m: (
                weight.abs()
                >= weight.abs()
                .reshape(-1, m)
                .sort(1)
                .values[:, m - n, None]
                .expand(-1, m)
                .reshape(weight.shape)
            ),
            "With equal weights your threshold keeps more than n in a group. The hardware stores "
            "exactly n: choose positions, not a threshold.",
        ),
    ),
)


def _prune_signed(weight: torch.Tensor, n: int, m: int) -> torch.Tensor:
    order = weight.reshape(-1, m).argsort(dim=1, stable=True)
    mask = torch.ones(order.shape, dtype=torch.bool)
    return mask.scatter(1, order[:, : m - n], False).view(weight.shape)


EXERCISES = [MAGNITUDE_MASK, GLOBAL_MASKS, MASKED_STEP, WANDA, NM_MASK]
