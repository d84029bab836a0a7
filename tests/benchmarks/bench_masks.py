"""Time and memory of exact global magnitude pruning, beside torch's own.

Prunes 90 % of a ResNet-50 and of a network of 100 M weights, once with
``course_lib.pruning.masks.global_masks`` and ``apply_masks``, once with
``torch.nn.utils.prune.global_unstructured``. Every measurement runs in a process of its own, the
two contenders alternate, and both must have pruned the same weights. Memory is the peak beyond the
network itself; it is read from Linux's ``/proc``.

    python tests/benchmarks/bench_masks.py [--weights 100_000_000] [--rounds 3]
"""

import argparse
import json
import math
import platform
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the course, installed or not

SPARSITY = 0.9
CONTENDERS = ("course_lib", "torch")
STATUS, RESET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


# --- one measurement, in its own process --------------------------------------------------------


def network(name: str, weights: int):
    """A network with random weights that depend on nothing but the arguments."""
    import torch
    from torch import nn
    from torchvision.models import resnet50

    torch.manual_seed(0)
    if name == "ResNet-50":
        return resnet50()
    side = math.isqrt(weights // 4)
    return nn.Sequential(*[nn.Linear(side, side, bias=False) for _ in range(4)])


def prune_ours(model) -> None:
    """What the course does."""
    from course_lib.pruning.masks import apply_masks, global_masks

    apply_masks(model, global_masks(model, SPARSITY))


def prune_torch(model) -> None:
    """What torch offers."""
    from torch import nn
    from torch.nn.utils.prune import L1Unstructured, global_unstructured

    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    parameters = [(layer, "weight") for layer in layers]
    global_unstructured(parameters, pruning_method=L1Unstructured, amount=SPARSITY)


def memory(field: str) -> int:
    """A size of this process in bytes: VmRSS is the present one, VmHWM its peak."""
    [line] = [line for line in STATUS.read_text().splitlines() if line.startswith(field + ":")]
    return int(line.split()[1]) * 1024


def measure(contender: str, name: str, weights: int) -> dict:
    """Seconds and peak bytes of one pruning, and what it pruned."""
    import torch

    prune = {"course_lib": prune_ours, "torch": prune_torch}[contender]
    prune(network("linear", 4_000))  # what happens once in a process is not counted
    model = network(name, weights)
    RESET_PEAK.write_text("5")  # else the peak of making the network would hide a lower one
    resident = memory("VmRSS")
    start = time.perf_counter()
    prune(model)
    seconds = time.perf_counter() - start
    peak = memory("VmHWM") - resident
    return {
        "seconds": seconds,
        "peak": peak,
        "pruned": what_was_pruned(model, network(name, weights)),
        "setting": f"torch {torch.__version__}, {torch.get_num_threads()} threads",
    }


def what_was_pruned(model, original) -> dict:
    """How many weights were pruned, of how many, and the largest of them beside the smallest kept.

    Two prunings that agree in these numbers pruned the same weights, but for equal ones.
    """
    from course_lib.pruning.masks import prunable

    layers = dict(model.named_modules())
    zeros, total, largest_pruned, smallest_kept = 0, 0, 0.0, math.inf
    for name, weight in prunable(original).items():
        pruned = layers[name.removesuffix(".weight")].weight.detach() == 0
        magnitude = weight.detach().abs()
        zeros, total = zeros + int(pruned.sum()), total + weight.numel()
        largest_pruned = max(largest_pruned, magnitude.masked_fill(~pruned, 0).max().item())
        smallest_kept = min(smallest_kept, magnitude.masked_fill(pruned, math.inf).min().item())
    return {"zeros": zeros, "of": total, "threshold": largest_pruned, "kept from": smallest_kept}


# --- the comparison -----------------------------------------------------------------------------


def in_own_process(contender: str, name: str, weights: int) -> dict:
    """Run :func:`measure` in a fresh process."""
    command = [sys.executable, __file__, "--weights", str(weights), "--measure", contender, name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def compare(name: str, weights: int, rounds: int) -> list[dict[str, dict]]:
    """The measurements of both contenders, alternating, for each round.

    Raises:
        RuntimeError: they did not prune the same weights, or not as many as asked.
    """
    results = [
        {who: in_own_process(who, name, weights) for who in CONTENDERS} for _ in range(rounds)
    ]
    first = results[0]["course_lib"]["pruned"]
    exact = first["zeros"] == round(SPARSITY * first["of"])
    if not exact or first["kept from"] < first["threshold"]:
        raise RuntimeError(f"{name}: these are not the {SPARSITY:.0%} smallest weights: {first}")
    for result in results:
        for who in CONTENDERS:
            if result[who]["pruned"] != first:
                raise RuntimeError(f"{name}: {who} pruned {result[who]['pruned']}, not {first}")
    return results


def report(name: str, results: list[dict[str, dict]]) -> None:
    """Print the medians of one network."""
    for who in CONTENDERS:
        seconds = median(result[who]["seconds"] for result in results)
        peak = median(result[who]["peak"] for result in results) / 1e6
        print(f"{name:<18}{who:<12}{seconds:>10.3f}{peak:>12.0f}", flush=True)


def paired_ratio(results: list[dict[str, dict]], quantity: str) -> float:
    """Median over the rounds of ours divided by torch's."""
    return median(result["course_lib"][quantity] / result["torch"][quantity] for result in results)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=int, default=100_000_000, help="of the large network")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("CONTENDER", "NETWORK"), help="one only")
    chosen = parser.parse_args()
    if not RESET_PEAK.exists():
        sys.exit("This benchmark reads its peak memory from /proc, which only Linux has.")
    if chosen.measure:
        print(json.dumps(measure(*chosen.measure, chosen.weights)))
        return
    print(f"{SPARSITY:.0%} of the weights, global magnitude; median of {chosen.rounds} rounds")
    print(f"{'network':<18}{'contender':<12}{'seconds':>10}{'peak MB':>12}")
    for name in ("ResNet-50", f"{chosen.weights / 1e6:.0f} M weights"):
        results = compare(name, chosen.weights, chosen.rounds)
        report(name, results)
    print(f"{results[0]['torch']['setting']}, Python {platform.python_version()}, {cpu()}")
    time_ratio, memory_ratio = (paired_ratio(results, what) for what in ("seconds", "peak"))
    print(f"masks: time ratio {time_ratio:.2f}, memory ratio {memory_ratio:.2f}")


def cpu() -> str:
    """The processor, as Linux names it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
