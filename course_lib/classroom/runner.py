"""The process in which a submission runs: it returns what the functions return, nothing more.

Started by :mod:`course_lib.classroom.grading`, never by hand. Nothing that it says about points is
trusted: whatever a submission does to Python in here, it can only change its own answers. The
exercises and their solutions are neither loaded nor readable.
"""

import json
import os
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy  # noqa: F401 (before the sandbox closes: torch imports it on first use)
import torch

from course_lib.classroom import sandbox
from course_lib.classroom.wire import Job, RunnerOutput, encode
from course_lib.teaching.running import run

#: What no exercise needs. The system denies it where it can; here the attempt is recorded.
FORBIDDEN = (
    *("os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.system", "subprocess.Popen"),
    *("os.kill", "os.killpg", "socket.connect", "socket.bind", "socket.sendto"),
)
#: What a submission may do only in its own folder.
OWN_FOLDER = (
    *("os.remove", "os.rmdir", "os.rename", "os.truncate", "os.link", "os.symlink"),
    *("os.chmod", "os.mkdir", "shutil.rmtree", "shutil.move", "open"),
)


def main() -> None:
    """Read the job, enter the sandbox, run the cells and their functions, write the results."""
    job: Job = pickle.load(sys.stdin.buffer)  # from the grader, which is trusted
    torch.set_num_threads(1)
    results = os.dup(1)
    with open(os.devnull, "r+b") as nowhere:
        sandbox.confine(Path.cwd(), job.limits, job.protected)
        for stream in (0, 1, 2):
            os.dup2(nowhere.fileno(), stream)
    data = json.dumps(answers(job)).encode()
    with open(results, "wb") as output:
        output.write(data)
    os._exit(0)  # threads of endless functions may still be running


def answers(job: Job) -> RunnerOutput:
    """The error of each cell or None, the results of each exercise, and forbidden attempts."""
    _forget_the_exercises()
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(job.setup, namespace)
    attempts = _forbid()
    errors = [_error(cell, namespace, attempts) for cell in job.cells]
    found = {
        exercise: _results(_function(namespace, names), job.cases[exercise], job.seconds)
        for exercise, names in job.names.items()
    }
    return RunnerOutput(errors=errors, results=found, attempts=attempts[:10])


def _forget_the_exercises() -> None:
    """Make ``check`` and the like do nothing in a submission: the grader judges elsewhere."""
    inert = types.ModuleType("course_lib.teaching.exercises")
    for name in ("check", "hint", "solution", "require"):
        setattr(inert, name, lambda *_, **__: None)
    sys.modules[inert.__name__] = inert


def _forbid() -> list[str]:
    """Refuse what only a hostile submission does; attempts appear in the returned list.

    This gives the teacher a reason. It is not a protection: that is the sandbox's task.
    """
    attempts: list[str] = []
    home = os.path.join(os.getcwd(), "")

    def hook(event: str, arguments: tuple) -> None:
        if event in FORBIDDEN or (event in OWN_FOLDER and _outside(event, arguments, home)):
            attempts.append(f"{event} {arguments[:1]}"[:200])
            raise PermissionError(f"a submission may not call {event}")

    sys.addaudithook(hook)
    return attempts


def _outside(event: str, arguments: tuple, home: str) -> bool:
    """Whether the event changes a file outside the submission's own folder."""
    path = arguments[0]
    if isinstance(path, int):  # a file that is already open
        return False
    if event == "open" and not set(arguments[1] or "r") & set("wax+"):
        return False
    return not os.path.normpath(os.path.join(home, os.fsdecode(path))).startswith(home)


def _error(cell: str, namespace: dict[str, Any], attempts: list[str]) -> str | None:
    """Run ``cell``; return how it failed, or None."""
    try:
        exec(_compiled(cell), namespace)
    except BaseException as error:
        if isinstance(error, MemoryError):
            attempts.append("filling the memory")
        return f"{type(error).__name__}: {error}"[:300]
    return None


def _compiled(cell: str) -> types.CodeType:
    try:
        return compile(cell, "<cell>", "exec")
    except SyntaxError:
        # Perhaps Jupyter syntax: lines such as %matplotlib or !pip, which have no effect here.
        lines = (line for line in cell.split("\n") if not line.startswith(("%", "!")))
        return compile("\n".join(lines), "<cell>", "exec")


def _function(namespace: dict[str, Any], names: list[str]) -> Callable | None:
    return next((namespace[name] for name in names if callable(namespace.get(name))), None)


def _results(
    function: Callable | None, cases: list[tuple], seconds: float
) -> list[list[Any]] | None:
    if function is None:
        return None
    return [[encode(one.value), one.changed] for one in run(function, cases, seconds)]


if __name__ == "__main__":
    main()
