"""CSR times one vector on a GPU: the course's Triton kernel, cuSPARSE and the dense product.

Both files in ``data/recordings/h200/`` that begin with ``csr`` came from here:

    python tests/benchmarks/gpu_csr.py > csr_times.csv
    ncu --csv --clock-control none --profile-from-start off --metrics \
l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum,lts__t_sectors_op_read.sum,\
dram__sectors_read.sum,gpu__time_duration.sum \
        python tests/benchmarks/gpu_csr.py count | grep '^"' > csr_sectors.csv

The second command lets Nsight Compute count sectors at three levels: asked for by load
instructions, read from the second-level cache, read from memory. The caches are emptied before.
"""

import sys
from collections.abc import Callable
from functools import partial

import torch

from course_lib.deployment import sparse, triton_csr
from course_lib.measuring import timing

SIZE, SPARSITIES = 4096, (0.5, 0.7, 0.9, 0.95, 0.99)
DTYPES = (torch.float32, torch.float16)


def products(dtype: torch.dtype, sparsity: float) -> dict[str, Callable[[], torch.Tensor]]:
    """The three products of the same random matrix and vector."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(SIZE, SIZE, generator=generator)
    matrix *= torch.rand(SIZE, SIZE, generator=generator) >= sparsity
    dense = matrix.to("cuda", dtype)
    vector = torch.randn(SIZE, generator=generator).to("cuda", dtype)
    held = sparse.csr(dense)
    parts = held.values(), held.col_indices(), held.crow_indices()
    found: dict[str, Callable[[], torch.Tensor]] = {
        "Triton": partial(triton_csr.csr_times_vector, *parts, vector),
        "cuSPARSE": partial(torch.matmul, held, vector[:, None]),
        "dense": partial(torch.mv, dense, vector),
    }
    expected = dense.double() @ vector.double()
    for name, run in found.items():
        error = (run().double().flatten() - expected).abs().max() / expected.abs().max()
        assert error < 1e-3, f"{name} is wrong by {error:.1e}"
    return found


if sys.argv[1:] == ["count"]:
    for each in DTYPES:
        runs = products(each, 0.9)
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        for run in runs.values():
            run()
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()
else:
    print("dtype,sparsity,kernel,microseconds,speedup,low,high")
    for each in DTYPES:
        for target in SPARSITIES:
            result = timing.compare(products(each, target), seconds=0.5)
            for name in result.timings:
                took = 1000 * result.timings[name].median
                faster = result.speedup(name, over="dense")
                ratios = ",".join(f"{value:.3f}" for value in faster)
                print(f"{str(each).removeprefix('torch.')},{target},{name},{took:.1f},{ratios}")
