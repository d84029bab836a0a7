"""Loading times of imports, data and trained networks, each in its own process.

python tests/benchmarks/bench_loading.py [--rounds 3]
"""

import argparse
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]

#: What is measured, and the target in seconds on two idle cores.
TASKS = {
    "import course_lib, beyond torch": (
        "import torch",
        "from course_lib.pruning import graph, masks, surgery\n"
        "from course_lib.measuring import cost, timing\n"
        "from course_lib.networks import training\n"
        "from course_lib.deployment import sparse\n"
        "from course_lib.experiments import recordings\n"
        "from course_lib.teaching import claims, exercises, figures, widgets",
        2.0,
    ),
    "Fashion-MNIST": ("from course_lib.networks import data", "data.fashion_mnist()", 3.0),
    "small_resnet": (
        "from course_lib.networks import models",
        "models.load_trained('small_resnet')",
        1.0,
    ),
    "resnet18": ("from course_lib.networks import models", "models.load_trained('resnet18')", 1.0),
    "MiniLM, its imports too": (
        "",
        "from course_lib.networks import minilm; minilm.load_trained()",
        5.0,
    ),
}


def seconds(before: str, task: str) -> float:
    """The seconds that ``task`` takes after ``before``, in a fresh Python."""
    script = f"{before}\nimport time\nstart = time.perf_counter()\n{task}\n"
    script += "print(time.perf_counter() - start)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def main() -> None:
    """Print a row for each task: the fastest of a few rounds, and the target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    for name, (before, task, target) in TASKS.items():
        best = min(seconds(before, task) for _ in range(rounds))
        print(f"{name:32s} {best:5.2f} s  (target {target:g} s)")


if __name__ == "__main__":
    main()
