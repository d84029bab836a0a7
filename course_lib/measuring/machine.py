"""What this machine offers: cores, memory and instructions, within the limits of a container.

Linux limits the resources of a group of processes, a *control group*. Groups are nested, and the
tightest limit applies. Version 1 of the interface has a directory tree for each resource, version 2
a single tree (Linux kernel documentation, admin-guide/cgroup-v1 and admin-guide/cgroup-v2).
"""

import importlib.metadata
import math
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

#: Version 1 reports a number at least this large, in bytes, where there is no limit.
UNLIMITED = 1 << 60

ROOT = Path("/")


def cores(root: Path = ROOT) -> float:
    """The number of processors that this process may use at once.

    It is the smallest of what the machine has, what the process affinity allows and what the
    container's quota allows, which may be a fraction of one processor.

    Args:
        root: the directory that contains ``proc`` and ``sys``.
    """
    return min([float(_processors()), *_quotas(root)])


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    for folder in _folders("cpu", root):
        words = _words(folder / "cpu.max")  # version 2: the quota and the period in one file
        words = words or _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]):
            yield int(words[0]) / int(words[1])


def memory(root: Path = ROOT) -> tuple[int, int]:
    """Free and total memory in bytes, within the limits of the container.

    File cache counts as free, because the system can reclaim it.
    """
    import psutil

    machine = psutil.virtual_memory()
    free, most = [machine.available], [machine.total]
    for folder in _folders("memory", root):
        limit = _number(folder / "memory.max", folder / "memory.limit_in_bytes")
        if limit is None or limit >= UNLIMITED:
            continue
        used = _number(folder / "memory.current", folder / "memory.usage_in_bytes") or 0
        most.append(limit)
        free.append(max(0, limit - used + _cached(folder)))
    return min(free), min(most)


def _cached(folder: Path) -> int:
    """Bytes of file cache that the group could release."""
    words = _words(folder / "memory.stat")
    values = dict(zip(words[::2], words[1::2], strict=False))
    return int(values.get("total_inactive_file") or values.get("inactive_file") or 0)


def _folders(resource: str, root: Path) -> Iterator[Path]:
    """The folders, for ``resource``, of this process's group and of the groups that enclose it."""
    top = root / "sys" / "fs" / "cgroup"
    for line in _lines(root / "proc" / "self" / "cgroup"):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            trees = [top, top / "unified"]
        elif resource in controllers.split(","):
            trees = [top / controllers, top / resource]
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for tree in trees:
            yield from (tree.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))


def _number(*files: Path) -> int | None:
    """The number in the first of ``files`` that has any content; None for "max"."""
    words = next(filter(None, map(_words, files)), [])
    return int(words[0]) if words and words[0].isdigit() else None


def _words(file: Path) -> list[str]:
    return " ".join(_lines(file)).split()


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


# --- instructions -------------------------------------------------------------------------------


class Instructions(NamedTuple):
    """A kind of instructions: its names in each system, and what its presence or absence means."""

    name: str
    flags: frozenset[str]
    present: str
    missing: str


def _kind(name: str, flags: str, present: str, missing: str) -> Instructions:
    return Instructions(name, frozenset(flags.split()), present, missing)


INSTRUCTIONS = (
    _kind(
        "vectors",
        "avx2 hw.optional.avx2_0 asimd hw.optional.neon hw.optional.AdvSIMD",
        "several numbers at a time",
        "none that is known: all products are slow",
    ),
    _kind(
        "wide vectors",
        "avx512f hw.optional.avx512f sve",
        "float32 products can be faster than with AVX2",
        "none: float32 products can take longer than on a processor with AVX-512",
    ),
    _kind(
        "int8 arithmetic",
        "avx512_vnni avx_vnni hw.optional.avx512vnni asimddp hw.optional.arm.FEAT_DotProd",
        "int8 is fast, and its sums are exact",
        "none: int8 saves less time, and 16-bit sums may overflow",
    ),
    _kind(
        "bfloat16",
        "avx512_bf16 amx_bf16 bf16 hw.optional.arm.FEAT_BF16",
        "products can be faster than float32",
        "no arithmetic: bfloat16 is converted to float32 and back, which saves memory but no time",
    ),
    _kind(
        "float16",
        "avx512_fp16 amx_fp16 asimdhp fphp hw.optional.arm.FEAT_FP16",
        "products can be faster than float32",
        "no arithmetic: a float16 product can take far longer than one in float32",
    ),
    _kind(
        "matrix unit",
        "amx_tile hw.optional.amx_version sme hw.optional.arm.FEAT_SME",
        "int8 and bfloat16 products can be far faster",
        "none: int8 and bfloat16 products run in the vector units",
    ),
)


def flags(root: Path = ROOT) -> set[str]:
    """The feature flags of the processor as the system names them; empty if it reports none."""
    found = set()
    for line in _lines(root / "proc" / "cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            found |= set(value.split())
    return found or _flags_of_macos()


def _flags_of_macos() -> set[str]:
    if platform.system() != "Darwin":
        return set()
    done = subprocess.run(["sysctl", "hw.optional"], capture_output=True, text=True, check=False)
    pairs = (line.partition(":") for line in done.stdout.splitlines())
    return {key.strip() for key, _, value in pairs if value.strip() not in ("", "0")}


def usable_threads(root: Path = ROOT) -> int:
    """How many threads can run at once: the number of cores, rounded up, at least 1."""
    return max(1, math.ceil(cores(root)))


# --- name and facts -------------------------------------------------------------------------------


def machine_facts() -> dict[str, str]:
    """What measurements depend on: processor, GPU, threads and versions."""
    import torch  # here, so that the doctor starts even where torch does not

    cuda = torch.cuda.is_available()
    return {
        "processor": processor(),
        "threads": str(torch.get_num_threads()),
        "CUDA GPU": torch.cuda.get_device_name() if cuda else "none",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": importlib.metadata.version("torchvision"),
    }


def processor() -> str:
    """The model name of the processor, or its family if the system does not report the model."""
    try:
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        facts = ""
    name = re.search(r"^model name\s*:\s*(.+)$", facts, re.MULTILINE)
    return name[1].strip() if name else platform.processor() or platform.machine()


def machine_name() -> str:
    """The folder name of this machine's recordings: its GPU model, or its number of cores."""
    import torch

    if not torch.cuda.is_available():
        return f"cpu-{usable_threads()}core"
    return gpu_slug(torch.cuda.get_device_name())


def gpu_slug(name: str) -> str:
    """The model part of a GPU's full name: ``h100`` for ``NVIDIA H100 80GB HBM3``."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    around = re.compile(r"nvidia|tesla|geforce|\d+gb|hbm\d\w*|pcie|sxm\d*|nvl")
    return "-".join(word for word in words if not around.fullmatch(word)) or "gpu"
