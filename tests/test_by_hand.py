"""The products that are written out are those of the dense matrix."""

import pytest
import torch

from course_lib.deployment.by_hand import (
    csr_times_matrix,
    csr_times_vector,
    transposed_csr_times_vector,
)

SHAPES = [(6, 9), (1, 5), (5, 1), (8, 64)]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matrix_and_csr(shape: tuple[int, int], density: float) -> tuple[torch.Tensor, tuple]:
    """A matrix, and its values, columns and starts; a middle row is empty."""
    matrix = random(*shape) * (random(*shape, seed=1).abs() < density)
    matrix[shape[0] // 2] = 0
    kept = matrix != 0
    starts = torch.cat([torch.zeros(1, dtype=torch.long), kept.sum(1).cumsum(0)])
    return matrix, (matrix[kept], kept.nonzero()[:, 1], starts)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("density", [0.0, 0.3, 9.0])
def test_products_are_those_of_the_dense_matrix(shape, density):
    matrix, csr = matrix_and_csr(shape, density)
    vector, inputs, outputs = random(shape[1]), random(shape[1], 3), random(shape[0])
    torch.testing.assert_close(csr_times_vector(*csr, vector), matrix @ vector)
    torch.testing.assert_close(csr_times_matrix(*csr, inputs), matrix @ inputs)
    found = transposed_csr_times_vector(*csr, outputs, shape[1])
    torch.testing.assert_close(found, matrix.T @ outputs)


def test_two_rows_that_name_the_same_column_add_up():
    values, columns = torch.tensor([2.0, 3.0]), torch.tensor([1, 1])
    found = transposed_csr_times_vector(
        values, columns, torch.tensor([0, 1, 2]), torch.tensor([10.0, 100.0]), width=3
    )
    assert found.tolist() == [0, 320, 0]
