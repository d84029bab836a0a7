"""Run an untrusted program: in its own folder, under limits, and watched from outside.

The program limits itself before it runs a submission (:func:`confine`). The process that started it
watches it, and kills it together with everything that it may have started (:func:`run`).
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, NamedTuple

import psutil

from course_lib import PROJECT
from course_lib.classroom import landlock
from course_lib.classroom.errors import ClassroomError

LOOK = 0.05  # seconds between two checks of a running submission
CONFINED = b"confined\n"  # what a program writes at the end of confine()
START = 120.0  # seconds that Python and torch may take to load
RUNTIME = 1 << 30  # bytes that Python and torch need by themselves, estimated generously
PROCESSES = 256  # threads and processes that the user may have in addition to the present ones
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36

#: What Python and its libraries read while they run. The course is not part of it.
SYSTEM = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo", "/etc/localtime")
DEVICES = ("/dev/null", "/dev/urandom", "/dev/random", "/dev/zero")


class ResourceLimits(NamedTuple):
    """The limits of one submission.

    Args:
        seconds: of running time, and of processor time.
        memory: bytes beyond what Python and torch need.
        file: bytes of one file.
        files: number of files.
    """

    seconds: float = 45.0
    memory: int = 1 << 30
    file: int = 16 << 20
    files: int = 64


class Ended(NamedTuple):
    """What a program wrote to its standard output, or why that does not count."""

    output: bytes
    reason: str | None


def missing() -> str | None:
    """What this system lacks to keep a submission away from files, or None."""
    version = landlock.version()
    if version >= landlock.NEEDED:
        return None
    return (
        "This system cannot keep a submission away from your files: that needs Linux 6.2 or newer "
        f"with Landlock version {landlock.NEEDED} (here: {sys.platform}, {version or 'none'})."
    )


# --- inside: how a program limits itself --------------------------------------------------------


def confine(folder: Path, limits: ResourceLimits, protected: bool) -> None:
    """Limit this process permanently; with ``protected``, allow writing in ``folder`` only.

    It reports that on standard error, for :func:`run`.

    Raises:
        OSError: the system refuses one of the limits.
        RuntimeError: a second thread is already running, which would keep its rights.
    """
    if protected and (threads := psutil.Process().num_threads()) != 1:
        raise RuntimeError(f"{threads} threads are running; Landlock would restrict only one.")
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    _limit_resources(limits)
    if protected:
        landlock.restrict(_readable(), folder)
    os.write(sys.stderr.fileno(), CONFINED)


def _limit_resources(limits: ResourceLimits) -> None:
    import resource  # Windows has none

    now = psutil.Process().memory_info().vms
    mine = os.getuid()
    there = sum(_threads(process, mine) for process in psutil.process_iter())
    wanted = {
        "RLIMIT_CPU": round(time.process_time() + limits.seconds) + 1,
        "RLIMIT_AS": now + limits.memory,
        "RLIMIT_FSIZE": limits.file,
        "RLIMIT_NOFILE": limits.files,
        "RLIMIT_NPROC": there + PROCESSES,
        "RLIMIT_CORE": 0,
    }
    for name, limit in wanted.items():
        with contextlib.suppress(ValueError, AttributeError):  # macOS knows no RLIMIT_AS
            resource.setrlimit(getattr(resource, name), (limit, limit))


def _threads(process: psutil.Process, user: int) -> int:
    try:
        return process.num_threads() if process.uids().real == user else 0
    except psutil.Error:
        return 0  # it has ended in the meantime


def _readable() -> list[Path]:
    python = (Path(name) for name in (sys.prefix, sys.base_prefix, *sys.path) if name)
    wanted = {path for path in (*python, *map(Path, SYSTEM + DEVICES)) if path.exists()}
    return sorted(wanted - {PROJECT})


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


# --- outside: how it is started, watched and killed ---------------------------------------------


def adopt_orphans() -> None:
    """Become the parent of processes that a submission leaves, so that :func:`run` finds them."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def run(module: str, job: bytes, folder: Path, limits: ResourceLimits) -> Ended:
    """Run ``python -m module`` with ``job`` as its input, in ``folder``, under ``limits``.

    The module must call :func:`confine`, and close its standard error, before it runs any of a
    submission. Nothing that it starts outlives this call.

    Raises:
        ClassroomError: it ended before that, which is not the fault of the submission.
    """
    before = _descendants()
    # Files, not pipes: whatever the program does with them, it cannot block this process.
    file = tempfile.TemporaryFile
    with file() as given, file() as written, file() as said:
        given.write(job)
        given.seek(0)
        try:
            process = _start(module, folder, given, written, said)
            reason = _watch(process, said.fileno(), folder, limits)
        finally:
            _kill(before)
        if not _is_confined(said.fileno()):
            said.seek(0)
            errors = said.read().decode(errors="replace").strip()[-2000:]
            raise ClassroomError(f"The sandbox cannot be set up:\n{errors or reason}")
        written.seek(0)
        return Ended(written.read(limits.file), reason)


def _start(module: str, folder: Path, given: IO, written: IO, said: IO) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module],
        stdin=given,
        stdout=written,
        stderr=said,
        cwd=folder,
        env=_environment(folder),
        start_new_session=True,
    )


def _environment(folder: Path) -> dict[str, str]:
    """None of the teacher's variables, and one thread: a second would escape :func:`confine`."""
    libraries = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {
        "PYTHONPATH": str(PROJECT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": os.defpath,
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
        "COURSE_QUIET": "1",
        "MPLBACKEND": "agg",
        "MALLOC_ARENA_MAX": "2",
        **dict.fromkeys(libraries, "1"),
    }


def _is_confined(said: int) -> bool:
    """A submission cannot forge or undo this, because its standard error is closed by then."""
    return os.pread(said, os.fstat(said).st_size, 0).endswith(CONFINED)


def _watch(
    process: subprocess.Popen, said: int, folder: Path, limits: ResourceLimits
) -> str | None:
    """Wait for the process to end; return why it was stopped or failed, or None.

    The time limit and the checks begin when it is confined: before that, Python and torch load, and
    may start programs of their own.
    """
    end, confined = time.monotonic() + START, False
    while process.poll() is None:
        if not confined and _is_confined(said):
            end, confined = time.monotonic() + limits.seconds, True
        if time.monotonic() > end:
            return f"It was still running after {limits.seconds:g} seconds and was stopped."
        if confined and (reason := _excess(process.pid, folder, limits)):
            return reason
        time.sleep(LOOK)
    if process.returncode < 0:
        return f"It crashed Python ({signal.Signals(-process.returncode).name})."
    return None


def _excess(pid: int, folder: Path, limits: ResourceLimits) -> str | None:
    """Which limit a running program exceeds, as a sentence, or None."""
    with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
        process = psutil.Process(pid)
        if process.children():
            return "It started another process and was stopped."
        if process.memory_info().rss > RUNTIME + limits.memory:
            return f"It used more than {limits.memory >> 20} MB of memory and was stopped."
        with os.scandir(folder) as entries:
            sizes = [entry.stat(follow_symlinks=False).st_size for entry in entries]
        if sum(sizes) > 4 * limits.file or len(sizes) > limits.files:
            return f"It wrote {len(sizes)} files of {sum(sizes) >> 20} MB and was stopped."
    return None


def _descendants() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _kill(before: set[psutil.Process]) -> None:
    """Kill what was started since ``before``; suspend all of it first, so that none can fork."""
    while left := [one for one in _descendants() - before if _alive(one)]:
        for action in (psutil.Process.suspend, psutil.Process.kill):
            for one in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    action(one)
        psutil.wait_procs(left, timeout=1)
    psutil.wait_procs(_descendants() - before, timeout=1)  # reaps zombies


def _alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False
