"""The exercise of lesson 00: what sparsity is."""

import torch

from course_lib.teaching.exercises.engine import Exercise, Mistake


def sparsity(tensor: torch.Tensor) -> float:
    """Fraction of the weights that are exactly zero."""
    return (tensor == 0).float().mean().item()


def _cases() -> list[tuple]:
    tensors = (
        [0.0, 1.0],
        [0.0, 0.0, 0.0, 5.0],
        [1e-9, 0.0, -3.0, 2.0],
        [-0.0, -1.0, 1.0],
        [7.0],
        [0.0, 0.0],
        [[0.0, 0.0, 1.0], [2.0, 0.0, -1.0]],
    )
    return [(torch.tensor(values),) for values in tensors]


EXERCISES = [
    Exercise(
        id="00.1",
        title="sparsity of a tensor",
        difficulty=1,
        minutes=3,
        reference=sparsity,
        cases=_cases,
        hints=(
            "`tensor == 0` is True where a weight is exactly zero.",
            "A fraction is the mean of True (1) and False (0), taken after `.float()`.",
            "`.item()` turns a tensor of one number into a Python float.",
        ),
        mistakes=(
            Mistake(
                lambda tensor: (tensor != 0).float().mean().item(),
                "You return the fraction that is left, the density. Sparsity is the fraction "
                "that is zero.",
            ),
            Mistake(
                lambda tensor: float((tensor == 0).sum()),
                "You return the number of zeros. Sparsity is a fraction: divide by how many "
                "weights there are.",
            ),
            Mistake(
                lambda tensor: int((tensor == 0).sum()),
                "You return the number of zeros. Sparsity is a fraction: divide by how many "
                "weights there are, all dimensions together.",
            ),
            Mistake(
                lambda tensor: 100 * (tensor == 0).float().mean().item(),
                "You return a percentage. Sparsity is a fraction from 0 to 1.",
            ),
            Mistake(
                lambda tensor: (tensor.abs() < 1e-6).float().mean().item(),
                "A tiny weight is not a zero: it still has to be stored and multiplied. Sparsity "
                "counts weights that are exactly zero.",
            ),
            Mistake(
                lambda tensor: float((tensor == 0).sum()) / len(tensor),
                "`len(tensor)` counts rows. Use `tensor.numel()`, which counts every weight.",
            ),
            Mistake(
                lambda tensor: (tensor == 0).float().mean(),
                "You return a tensor that holds one number. Add `.item()` to make it a float.",
            ),
        ),
    )
]
