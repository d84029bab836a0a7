"""The doctor checks this machine and says what to repair: ``python -m course_lib doctor``.

Each check does its own imports, so that the doctor starts even where torch does not.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from course_lib import PROJECT
from course_lib.files import refusal
from course_lib.measuring import machine

OLDEST, NEWEST = (3, 11), (3, 13)
GIB = 2**30

REINSTALL = (
    "Delete the folder .venv and call 'make lab' again. Without make: "
    "python -m pip install -c constraints.txt -e .[test]"
)


class Finding(NamedTuple):
    """What one check found: ``detail``, whether it is ``ok``, and the ``remedy`` if it is not."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Run every check; a check that raises is itself a finding."""
    checks: list[Callable[[], Finding]] = [python, libraries, cores, threads, memory]
    checks += [*PROCESSOR, cuda, data, language_model, progress_folder, build_folder]
    return [_finding(check) for check in checks]


def report(findings: list[Finding]) -> str:
    """The findings as text, one line each, with the remedy below each one that is not ok."""
    lines = []
    for finding in findings:
        mark = "ok" if finding.ok else "NOT OK"
        lines.append(f"{mark:6}  {finding.name:16}  {finding.detail}")
        if not finding.ok:
            lines += [f"{'':8}-> {line}" for line in finding.remedy.splitlines()]
    broken = sum(not finding.ok for finding in findings)
    lines.append(f"Problems: {broken}." if broken else "Everything is ready.")
    return "\n".join(lines)


def _finding(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as error:  # a broken package may raise anything; the other checks still run
        detail = " ".join(f"{type(error).__name__}: {error}".split())
        name = getattr(check, "__name__", "processor")
        return Finding(name.replace("_", " "), False, detail, REINSTALL)


def python(version: tuple = sys.version_info[:3]) -> Finding:
    """Does the course support this version of Python?"""
    found = ".".join(map(str, version))
    return Finding(
        "python",
        OLDEST <= tuple(version[:2]) <= NEWEST,
        found,
        "Install Python 3.11, 3.12 or 3.13, then delete the folder .venv and call 'make lab'.",
    )


def libraries() -> Finding:
    """Is torch the version that torchvision requires, and can both be imported?"""
    from packaging.requirements import Requirement

    torch_version = metadata.version("torch")
    wanted = next(
        requirement.specifier
        for requirement in map(Requirement, metadata.requires("torchvision") or ())
        if requirement.name == "torch"
    )
    found = f"torch {torch_version}, torchvision {metadata.version('torchvision')}"
    if not wanted.contains(torch_version, prereleases=True):
        return Finding("libraries", False, f"{found}, which needs torch {wanted}", REINSTALL)

    import torch  # noqa: F401
    import torchvision  # noqa: F401

    return Finding("libraries", True, found)


def cores(root: Path = machine.ROOT) -> Finding:
    """How many processors may this process use, within its container?"""
    found, there = machine.cores(root), os.cpu_count()
    limited = "" if found == there else f" of {there}: a container or a setting limits them"
    slow = "; lessons take up to twice as long" if found < 2 else ""
    return Finding("cores", True, f"{found:g}{limited}{slow}")


def threads(cores: int | None = None) -> Finding:
    """Does torch use at most as many threads as there are ``cores``?"""
    import torch

    cores = machine.usable_threads() if cores is None else cores
    used = torch.get_num_threads()
    return Finding(
        "threads",
        used <= cores,
        f"torch uses {used}; {cores} can run at once",
        f"With more threads than cores, threads wait for each other: set OMP_NUM_THREADS={cores} "
        "in the environment before you start, and unset MKL_NUM_THREADS.",
    )


def memory(needed: int = 2 * GIB, root: Path = machine.ROOT) -> Finding:
    """Are at least ``needed`` bytes of memory free, within this container?"""
    free, most = machine.memory(root)
    return Finding(
        "memory",
        free >= needed,
        f"{free / GIB:.1f} of {most / GIB:.1f} GiB free; a lesson needs up to {needed / GIB:.1f}",
        "Close other programs and finished lessons (Kernel, Shut Down). If this is a container, "
        "give it more memory.",
    )


def processor(kind: machine.Instructions, root: Path = machine.ROOT) -> Finding:
    """Does the processor have instructions of this ``kind``, and which lessons does that affect?"""
    there = machine.flags(root)
    if not there:
        return Finding(kind.name, True, "this system does not report it")
    found = ", ".join(sorted(there & kind.flags))
    detail = f"{found}: {kind.present}" if found else kind.missing
    where = f" ({LESSONS[kind.name]})" if kind.name in LESSONS else ""
    return Finding(kind.name, True, detail + where)


#: Where the course shows what a kind of instructions changes.
LESSONS = {
    "int8 arithmetic": "lessons 07, 08",
    "bfloat16": "recordings of lesson 05",
    "float16": "recordings of lesson 05, which skip what is too slow",
    "matrix unit": "lessons 05, 07, 08",
}

PROCESSOR = tuple(partial(processor, kind) for kind in machine.INSTRUCTIONS)


def cuda() -> Finding:
    """Which GPU does this machine have? None is fine."""
    import torch

    if not torch.cuda.is_available():
        return Finding("cuda", True, "no CUDA device, and none is needed")
    return Finding("cuda", True, torch.cuda.get_device_name())


def data(root: Path = PROJECT / "data") -> Finding:
    """Is every file listed in ``SHA256SUMS`` present in ``root``, with the right checksum?"""
    from course_lib.networks.data import DataError, checksums, verified

    try:
        names = checksums(root)
    except DataError as error:
        return Finding("data", False, "the list of files is missing or damaged", str(error))
    problems = []
    for name in names:
        try:
            verified(name, root)
        except DataError as error:
            problems.append(str(error))
    detail = f"{len(names) - len(problems)} of {len(names)} files are present and undamaged"
    return Finding("data", not problems, detail, "\n".join(problems))


def language_model() -> Finding:
    """Is the model of lesson 11 there? All other lessons run without it."""
    from course_lib.networks import smollm

    if smollm.is_installed():
        return Finding("language model", True, "installed")
    return Finding(
        "language model", True, f"not installed; only lesson 11 needs it. {smollm.INSTALL}"
    )


def progress_folder() -> Finding:
    """Can your progress be stored?"""
    from course_lib.teaching.progress import folder

    return writable("progress folder", folder())


def build_folder(project: Path = PROJECT) -> Finding:
    """Can reports be written? In a read-only clone they go beside your progress."""
    from course_lib.teaching.progress import ProgressError, output_folder

    try:
        folder = output_folder(project)
    except ProgressError as error:
        return Finding("build folder", False, "cannot be written anywhere", str(error))
    where = "" if folder == project / "build" else f" in {folder}, because this clone is read-only"
    return Finding("build folder", True, f"can be written{where}")


def writable(name: str, folder: Path) -> Finding:
    """Can a file be written in ``folder``, which is created if it is missing?"""
    why = refusal(folder)
    remedy = f"Make {folder} a folder that you may write to, on a disk that is not full."
    return Finding(name, not why, why or "can be written", remedy)
