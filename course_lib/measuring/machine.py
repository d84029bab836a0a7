"""What this machine offers: cores, memory, instructions, within the limits of a container.

Linux limits a group of processes, a *control group*; groups are nested, and the narrowest limit
counts. Of its two interfaces, version 1 has a tree of folders for each resource, version 2 one for
all (Linux kernel documentation, admin-guide/cgroup-v1 and admin-guide/cgroup-v2).
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

#: Version 1 writes a number like this where there is no limit.
UNLIMITED = 1 << 60

ROOT = Path("/")


def cores(root: Path = ROOT) -> float:
    """How many processors may be used at once, by machine, process and container.

    A container may have a fraction of one.

    Args:
        root: where ``proc`` and ``sys`` are.
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
    """Free bytes and total bytes of memory, within the limits of the container.

    Memory that only caches files, which can be read again, counts as free.
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
    """Bytes of cached files that the group could release."""
    words = _words(folder / "memory.stat")
    values = dict(zip(words[::2], words[1::2], strict=False))
    return int(values.get("total_inactive_file") or values.get("inactive_file") or 0)


def _folders(resource: str, root: Path) -> Iterator[Path]:
    """The folders of the group of this process, and of the groups around it, for ``resource``."""
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
    """The number in the first of ``files`` that is there; None for "max"."""
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
    """A kind of instructions, what systems call it, and what lessons do with or without it."""

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
        "none that is known: all products are slow, and lessons take longer",
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
        "int8 is fast, and its sums are exact (lessons 07, 08)",
        "none: int8 gains less time, and sums of 16 bits may overflow (lessons 07, 08)",
    ),
    _kind(
        "bfloat16",
        "avx512_bf16 amx_bf16 bf16 hw.optional.arm.FEAT_BF16",
        "products can be faster than float32 (recordings of lesson 05)",
        "no arithmetic: bfloat16 is turned into float32 and back, which saves memory but no time",
    ),
    _kind(
        "float16",
        "avx512_fp16 amx_fp16 asimdhp fphp hw.optional.arm.FEAT_FP16",
        "products can be faster than float32 (recordings of lesson 05)",
        "no arithmetic: a float16 product can take far longer than one in float32; "
        "what is too slow is left out, and says so (recordings of lesson 05)",
    ),
    _kind(
        "matrix unit",
        "amx_tile hw.optional.amx_version sme hw.optional.arm.FEAT_SME",
        "int8 and bfloat16 products can be far faster (lessons 05, 07, 08)",
        "none: int8 and bfloat16 products run in the vector units (lessons 05, 07, 08)",
    ),
)


def flags(root: Path = ROOT) -> set[str]:
    """The features of the processor, as the system names them; empty if it does not say."""
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
    """How many threads can run at once: the cores, rounded up."""
    return max(1, math.ceil(cores(root)))


# --- its name and facts ---------------------------------------------------------------------------


def machine_facts() -> dict[str, str]:
    """What measurements depend on: processor, graphics card, threads and versions."""
    import torch  # here, so that the doctor starts where torch does not

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
    """The model name of the processor, or its family where the system does not tell."""
    try:
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        facts = ""
    name = re.search(r"^model name\s*:\s*(.+)$", facts, re.MULTILINE)
    return name[1].strip() if name else platform.processor() or platform.machine()


def machine_name() -> str:
    """The folder of this machine's recordings: the model of its GPU, or its number of cores."""
    import torch

    if not torch.cuda.is_available():
        return f"cpu-{usable_threads()}core"
    return gpu_slug(torch.cuda.get_device_name())


def gpu_slug(name: str) -> str:
    """The model in the full name of a GPU: ``h100`` for ``NVIDIA H100 80GB HBM3``."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    around = re.compile(r"nvidia|tesla|geforce|\d+gb|hbm\d\w*|pcie|sxm\d*|nvl")
    return "-".join(word for word in words if not around.fullmatch(word)) or "gpu"
