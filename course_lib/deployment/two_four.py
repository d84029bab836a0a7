"""2:4 by hand: half of the values of a matrix, and two bits for the position of each.

This is the format that sparse tensor cores read (Mishra et al., 2021). torch's own is made by
``torch.sparse.to_sparse_semi_structured``. It holds the same values and the same bits, but stores
them in another order: rows of metadata are interleaved, so that each thread of a warp finds the
bits that it needs side by side. In float32, torch keeps one of every two values instead.
"""

from typing import NamedTuple

import torch
from torch.nn import functional as F

#: Of the zeros of a four, the higher is kept first where fewer than two values are nonzero. Any
#: order would do; this is torch's.
PREFERENCE = (0, 1, 3, 2)


class Packed(NamedTuple):
    """A 2:4 matrix (rows, columns) without half of its zeros.

    ``values`` (rows, columns / 2) are the two kept values of every four. ``metadata`` (rows,
    columns / 8, rounded up) are bytes with the positions of two fours each, the first four in the
    lower half: two bits for the first kept value, two for the second, from 0 to 3.
    """

    values: torch.Tensor
    metadata: torch.Tensor

    @property
    def bytes(self) -> int:
        """Bytes of values and metadata: 9/16 of the dense matrix in 16-bit numbers."""
        return self.values.nbytes + self.metadata.nbytes


def pack(matrix: torch.Tensor) -> Packed:
    """The 2:4 ``matrix`` (rows, columns) of any dtype, packed.

    Raises:
        ValueError: not a matrix, a number of columns that 4 does not divide, or a four with more
            than two nonzero values.
    """
    fours = _fours(matrix)
    kept = _kept(fours)
    values = fours.gather(2, kept).flatten(1)
    first, second = kept.unbind(2)
    halves = F.pad(first | second << 2, (0, fours.shape[1] % 2))  # an even number for each row
    return Packed(values, (halves[:, ::2] | halves[:, 1::2] << 4).to(torch.uint8))


def _fours(matrix: torch.Tensor) -> torch.Tensor:
    """(rows, fours, 4) of a matrix that is 2:4."""
    if matrix.dim() != 2 or matrix.shape[1] % 4:
        raise ValueError(
            f"2:4 needs (rows, columns), with columns in fours; got {tuple(matrix.shape)}."
        )
    fours = matrix.unflatten(1, (-1, 4))
    crowded = (fours.count_nonzero(2) > 2).nonzero().tolist()
    if crowded:
        row, four = crowded[0]
        raise ValueError(
            f"Not 2:4: row {row} has {int(fours[row, four].count_nonzero())} nonzero values in "
            f"columns {4 * four} to {4 * four + 3}, {len(crowded)} fours have more than two. Prune "
            "with masks.nm_mask(scores, 2, 4) first."
        )
    return fours


def _kept(fours: torch.Tensor) -> torch.Tensor:
    """Positions (rows, fours, 2) of the two values to keep, rising: the nonzero ones first."""
    order = torch.tensor(PREFERENCE, device=fours.device)
    return (fours.ne(0) * 4 + order).topk(2).indices.sort().values


def unpack(values: torch.Tensor, metadata: torch.Tensor) -> torch.Tensor:
    """The matrix (rows, columns) of which :func:`pack` made these.

    Args:
        values: (rows, columns / 2).
        metadata: (rows, columns / 8, rounded up), bytes.

    Raises:
        ValueError: shapes do not fit, or the metadata are not bytes.
    """
    rows, halves = len(values), values.shape[-1] // 2
    if metadata.dtype != torch.uint8 or metadata.shape != (rows, (halves + 1) // 2):
        raise ValueError(
            f"Values {tuple(values.shape)} need metadata ({rows}, {(halves + 1) // 2}) of "
            f"torch.uint8; got {tuple(metadata.shape)} of {metadata.dtype}."
        )
    bits = torch.arange(0, 8, 2, device=metadata.device)  # where the four positions of a byte begin
    positions = (metadata.long()[:, :, None] >> bits & 3).flatten(1)[:, : values.shape[1]]
    fours = values.new_zeros(rows, halves, 4)
    fours.scatter_(2, positions.unflatten(1, (-1, 2)), values.unflatten(1, (-1, 2)))
    return fours.flatten(1)
