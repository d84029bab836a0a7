"""What the counters of a GPU say of three products of a matrix and a vector.

``tests/benchmarks/gpu_csr.py`` made both files, on an NVIDIA H200, with a random matrix of 4,096 x
4,096. Lesson 05 holds its model of sectors against them.
"""

import csv
from pathlib import Path
from typing import NamedTuple

from course_lib.measuring.timing import Speedup
from course_lib.networks.data import DATA, verified

SECTORS = "recordings/h200/csr_sectors.csv"
TIMES = "recordings/h200/csr_times.csv"

#: Rows of the matrix, of which 90 % is zero where sectors were counted.
ROWS = 4096

#: The metrics of Nsight Compute, by field of :class:`Counted`.
METRICS = {
    "l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum": "asked",
    "lts__t_sectors_op_read.sum": "second_level",
    "dram__sectors_read.sum": "memory",
    "gpu__time_duration.sum": "nanoseconds",
}


class Counted(NamedTuple):
    """The counters of one product, summed over its kernels.

    Sectors ``asked`` for by load instructions, read from the ``second_level`` cache, and read from
    ``memory``; and the ``nanoseconds`` of a single run. A kernel that copies with other
    instructions, as those of tensor cores do, asks for fewer than it reads.
    """

    asked: float = 0.0
    second_level: float = 0.0
    memory: float = 0.0
    nanoseconds: float = 0.0


class Timed(NamedTuple):
    """A product by ``kernel``: microseconds, and the ``speedup`` over the dense product."""

    dtype: str
    sparsity: float
    kernel: str
    microseconds: float
    speedup: Speedup


def sectors(root: Path = DATA) -> dict[tuple[str, str], Counted]:
    """What was counted, by dtype and by "Triton", "cuSPARSE" or "dense".

    Raises:
        DataError: the file is missing or damaged.
    """
    found: dict[tuple[str, str], Counted] = {}
    dtypes, dtype, last = iter(("float32", "float16")), "", ""
    for row in _rows(SECTORS, root):
        product = _product(row["Kernel Name"])
        if product == "Triton" and row["ID"] != last:  # it is the first of the three
            dtype = next(dtypes)
        last, field = row["ID"], METRICS[row["Metric Name"]]
        so_far = found.get((dtype, product), Counted())
        value = float(row["Metric Value"].replace(",", ""))
        found[dtype, product] = so_far._replace(**{field: getattr(so_far, field) + value})
    return found


def _product(kernel: str) -> str:
    """The product that a kernel belongs to; cuSPARSE also fills its output with zeros first."""
    if kernel == "kernel":
        return "Triton"
    return "cuSPARSE" if "cusparse" in kernel or "FillFunctor" in kernel else "dense"


def times(root: Path = DATA) -> list[Timed]:
    """The times of all products, by sparsity.

    Raises:
        DataError: the file is missing or damaged.
    """
    return [
        Timed(
            row["dtype"],
            float(row["sparsity"]),
            row["kernel"],
            float(row["microseconds"]),
            Speedup(*(float(row[name]) for name in ("speedup", "low", "high"))),
        )
        for row in _rows(TIMES, root)
    ]


def _rows(name: str, root: Path) -> list[dict[str, str]]:
    with verified(name, root).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
