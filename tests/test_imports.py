"""The course starts quickly, and its measuring modules need nothing but torch."""

import subprocess
import sys

import pytest

from course_lib import PROJECT
from course_lib.experiments import recordings

#: The packages that a machine without Jupyter can use.
ROOMS = ("networks", "pruning", "measuring", "deployment", "experiments", "decision")
MEASURING = "import " + ", ".join(
    f"course_lib.{room}.{file.stem}"
    for room in ROOMS
    for file in sorted((PROJECT / "course_lib" / room).glob("[a-z]*.py"))
)


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    return done.stdout


def without(*packages: str) -> str:
    """The beginning of a script on a machine that lacks ``packages``."""
    return f"import sys; sys.modules.update(dict.fromkeys({packages}))\n"


#: What is missing on a GPU server with only Python, NumPy, torch and torchvision.
ABSENT = ("safetensors", "tqdm", "matplotlib", "IPython", "ipywidgets", "jupytext", "nbformat")
ABSENT += ("psutil", "onnx", "onnxruntime", "constriction", "yaml", "pytest", "hypothesis")
ABSENT += ("transformers", "tokenizers", "onnxruntime_genai", "gguf", "accelerate")


@pytest.mark.slow
def test_measuring_modules_import_where_there_is_only_torch():
    run(without(*ABSENT, "torchvision") + MEASURING)


@pytest.mark.slow
def test_the_recorders_run_where_there_is_only_torch(tmp_path):
    script = f"""
from pathlib import Path
from course_lib.experiments import sparse_vs_dense, structured_speedup
from course_lib.experiments.recorder import record

few = [case._replace(batches=case.batches[:1]) for case in sparse_vs_dense.plan("cpu")
       if case.matrix in ("square 512", "ResNet-18 layer1.0.conv1") and case.sparsity == 0.9]
sparse_vs_dense.plan = lambda device: few
sparse_vs_dense.SIZES = {{"cpu": (64,)}}
sparse_vs_dense.DTYPES = {{"cpu": ("float32",)}}
print(record("sparse_vs_dense", path=Path({str(tmp_path / "products.json")!r}), device="cpu"))
print(structured_speedup.build("small_resnet", 0.5))
"""
    said = run(without(*ABSENT) + script)
    assert "A new recording" in said and "SmallResNet" in said
    points = recordings.read(tmp_path / "products.json", "sparse_vs_dense")["points"]
    assert {point["matrix"] for point in points} == {"square 512", "ResNet-18 layer1.0.conv1"}


def test_the_runtime_is_kept_from_reporting_how_it_is_used():
    assert run("import os, course_lib; print(os.environ['ORT_DISABLE_TELEMETRY'])") == "1\n"


#: Packages that take about a second or more; ``make bench`` measures the rest.
SLOW = {"transformers", "onnx", "onnxruntime", "onnxscript", "constriction", "jsonschema", "scipy"}
SLOW |= {"torchvision", "torch.export", "torch.onnx", "torch._dynamo", "torch._inductor", "timm"}


@pytest.mark.slow
def test_no_arrow_goes_back_to_teaching_and_what_is_slow_to_import_waits():
    script = f"""
import sys, torch
before = {{*sys.modules}}
{MEASURING}
print(*{{*sys.modules}} - before)
from course_lib.teaching import claims, exercises, figures, widgets
print(*{{*sys.modules}} - before)
"""
    measuring, everything = (line.split() for line in run(script).splitlines())
    assert not [name for name in measuring if name.startswith("course_lib.teaching")]
    assert not SLOW & {*everything}
