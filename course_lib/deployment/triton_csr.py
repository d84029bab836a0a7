"""CSR times a vector as a GPU kernel, in Triton (Tillet et al., 2019), with a warp per row.

torch for Linux brings Triton along; on other systems it may be absent (:func:`available`). Without
a GPU, Triton's interpreter runs the kernel on the CPU, instruction by instruction. It has to be
switched on before anything imports Triton: ``os.environ["TRITON_INTERPRET"] = "1"``.
"""

import importlib.util
import os
from functools import cache
from typing import Any

import torch

#: Nonzeros of a row that are read at once: one for each thread of a warp.
BLOCK = 32

#: ``triton.language``, once a kernel is made: the compiler looks for it among the globals.
tl: Any = None


def available() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


@cache
def _kernel() -> Any:
    """The kernel: one program for each row."""
    global tl
    import triton
    import triton.language as tl

    @triton.jit
    def kernel(values, columns, starts, vector, outputs, BLOCK: tl.constexpr):
        row = tl.program_id(0)
        start, end = tl.load(starts + row), tl.load(starts + row + 1)
        total = tl.zeros((BLOCK,), tl.float32)
        for first in range(start, end, BLOCK):
            places = first + tl.arange(0, BLOCK)
            inside = places < end
            addresses = vector + tl.load(columns + places, mask=inside, other=0)
            inputs = tl.load(addresses, mask=inside, other=0.0).to(tl.float32)  # the gather
            total += inputs * tl.load(values + places, mask=inside, other=0.0)
        tl.store(outputs + row, tl.sum(total))

    return kernel


def csr_times_vector(
    values: torch.Tensor, columns: torch.Tensor, starts: torch.Tensor, vector: torch.Tensor
) -> torch.Tensor:
    """A CSR matrix times ``vector`` (columns,): a vector (rows,), added up in float32.

    Args:
        values: (nonzeros,), of the type of ``vector``.
        columns: (nonzeros,), of integers.
        starts: (rows + 1,), where each row begins in both.
        vector: on a GPU, or on the CPU where the interpreter is switched on.

    Raises:
        RuntimeError: Triton is not installed, or it cannot run where ``vector`` is.
    """
    if not available():
        raise RuntimeError("Triton is not installed: it comes with torch for Linux.")
    if not vector.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError(
            "Without a GPU, Triton needs its interpreter. Restart Python and set "
            'os.environ["TRITON_INTERPRET"] = "1" before anything imports Triton.'
        )
    outputs = torch.empty(len(starts) - 1, dtype=vector.dtype, device=vector.device)
    _kernel()[(len(outputs),)](values, columns, starts, vector, outputs, BLOCK=BLOCK, num_warps=1)
    return outputs
