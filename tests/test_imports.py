"""The course starts quickly, and its measuring modules need nothing but torch."""

import subprocess
import sys

import pytest

from course_lib import PROJECT

MEASURING = """data, models, training, masks, cost, timing, recipes, bars, graph, surgery, \
channels, attention, recordings, drop_recovery, sparse, sparse_vs_dense, structured_speedup, \
storage, pruned_file, quantization, compression"""


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_measuring_modules_import_where_there_is_only_torch():
    run(f"""
import sys

class OnlyTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {{"safetensors", "tqdm", "matplotlib", "IPython", "ipywidgets",
                                      "jupytext", "nbformat", "psutil", "torchvision", "onnx",
                                      "onnxruntime", "constriction"}}:
            raise ImportError(name)

sys.meta_path.insert(0, OnlyTorch())
from course_lib import {MEASURING}
""")


@pytest.mark.parametrize("module", MEASURING.split(", "))
def test_no_arrow_goes_back_to_teaching(module):
    loaded = run(f"import sys, course_lib.{module}; print([*sys.modules])")
    assert "course_lib.teaching" not in loaded


def test_import_takes_under_two_seconds_beyond_torch():
    script = f"""
import time, torch
start = time.perf_counter()
from course_lib import {MEASURING}
from course_lib.teaching import claims, exercises, figures, widgets
print(time.perf_counter() - start)
"""
    assert min(float(run(script)) for _ in range(3)) < 2
