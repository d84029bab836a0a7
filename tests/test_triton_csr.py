"""The Triton kernel, in a process of its own in which Triton's interpreter is switched on."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from course_lib import PROJECT
from course_lib.deployment import triton_csr

PRODUCTS = """
import torch
from course_lib.deployment.by_hand import csr_times_vector
from course_lib.deployment import triton_csr

generator = torch.Generator().manual_seed(0)
for dtype, near in ((torch.float32, 1e-5), (torch.float16, 2e-2)):
    matrix = torch.randn(5, 100, generator=generator) * (torch.arange(100) % 2)
    matrix[1], matrix[2, 3:] = 0, 0  # a row without nonzeros, and a row with one
    matrix = matrix.to(dtype)
    kept = matrix != 0
    starts = torch.cat([torch.zeros(1, dtype=torch.int32), kept.sum(1).cumsum(0).int()])
    csr = matrix[kept], kept.nonzero()[:, 1].int(), starts
    vector = torch.randn(100, generator=generator).to(dtype)
    found = triton_csr.csr_times_vector(*csr, vector)
    assert found.dtype == dtype and found[1] == 0
    torch.testing.assert_close(found, csr_times_vector(*csr, vector), rtol=near, atol=near)
print("equal")
"""

VECTOR = torch.ones(2)
CSR = (torch.ones(1), torch.zeros(1, dtype=torch.int32), torch.tensor([0, 1], dtype=torch.int32))


@pytest.mark.slow
@pytest.mark.skipif(not triton_csr.available(), reason="Triton is not installed")
def test_the_interpreter_computes_the_product():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", PRODUCTS],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "equal", done.stderr


def test_without_triton_the_product_says_so(monkeypatch):
    monkeypatch.setattr(triton_csr, "available", lambda: False)
    with pytest.raises(RuntimeError, match="Triton is not installed"):
        triton_csr.csr_times_vector(*CSR, VECTOR)


def test_without_a_gpu_and_without_the_interpreter_the_product_says_what_to_do(monkeypatch):
    monkeypatch.setattr(triton_csr, "available", lambda: True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match="before anything imports Triton"):
        triton_csr.csr_times_vector(*CSR, VECTOR)


def test_the_module_can_be_imported_without_triton():
    tree = ast.parse(Path(triton_csr.__file__).read_text(encoding="utf-8"))
    at_the_top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert at_the_top and not any("triton" in ast.unparse(node) for node in at_the_top)
