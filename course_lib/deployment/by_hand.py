"""Products with a CSR matrix, written out: where the gather is, and where the scatter.

A matrix (rows, columns) is given by the three lists of CSR: its ``values`` (nonzeros,), their
``columns`` (nonzeros,), and the ``starts`` (rows + 1,) of its rows in both. These functions are
for reading; they loop over the rows in Python. Inputs out of range raise what torch raises.
"""

from itertools import pairwise

import torch


def csr_times_vector(
    values: torch.Tensor, columns: torch.Tensor, starts: torch.Tensor, vector: torch.Tensor
) -> torch.Tensor:
    """The matrix times ``vector`` (columns,): a vector (rows,)."""
    outputs = vector.new_zeros(len(starts) - 1)
    for row, (start, end) in enumerate(_ranges(starts)):
        inputs = vector[columns[start:end]]  # the gather: addresses that are read from memory
        outputs[row] = values[start:end] @ inputs
    return outputs


def csr_times_matrix(
    values: torch.Tensor, columns: torch.Tensor, starts: torch.Tensor, inputs: torch.Tensor
) -> torch.Tensor:
    """The matrix times ``inputs`` (columns, batch): outputs (rows, batch).

    Each nonzero gathers a whole row of the inputs, whose numbers lie side by side. But what one row
    of the matrix gathers, no other row uses.
    """
    outputs = inputs.new_zeros(len(starts) - 1, inputs.shape[1])
    for row, (start, end) in enumerate(_ranges(starts)):
        for place in range(start, end):
            outputs[row] += values[place] * inputs[columns[place]]
    return outputs


def transposed_csr_times_vector(
    values: torch.Tensor,
    columns: torch.Tensor,
    starts: torch.Tensor,
    vector: torch.Tensor,
    width: int,
) -> torch.Tensor:
    """The transposed matrix times ``vector`` (rows,): a vector (``width``,).

    It is what a linear layer needs for the gradient of its inputs. ``width`` is the number of
    columns, which the three lists do not say.
    """
    outputs = vector.new_zeros(width)
    for row, (start, end) in enumerate(_ranges(starts)):
        products = values[start:end] * vector[row]
        outputs.index_add_(0, columns[start:end], products)  # the scatter: addresses to write to
    return outputs


def _ranges(starts: torch.Tensor) -> list[tuple[int, int]]:
    """Where the nonzeros of each row begin and end."""
    return list(pairwise(starts.tolist()))
