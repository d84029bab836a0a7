"""Linux Landlock: restrict what this process may read and write from now on.

A process gives up rights for itself and for every process that it starts. It needs no privilege to
do so, and cannot undo it. The names are those of the kernel's manual page, landlock(7).
"""

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

# System call numbers, the same on every architecture.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
RULE_PATH_BENEATH = 1
PR_SET_NO_NEW_PRIVS = 38

WRITE_FILE, READ_FILE, READ_DIR, REMOVE_FILE, MAKE_FILE, TRUNCATE = (
    1 << bit for bit in (1, 2, 3, 5, 8, 14)
)
#: The number of file access rights in each version of the kernel's interface, from version 1 on.
FILE_RIGHTS = (13, 14, 15, 15, 16)
TCP = 0b11  # bind and connect, version 4
SCOPES = 0b11  # no signals to other processes, nor use of their abstract sockets, version 6
NEEDED = 3  # earlier versions allow truncating files that may not be written


class _Ruleset(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("files", "network", "scoped"))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version() -> int:
    """The version of Landlock in this kernel; 0 if it has none."""
    try:
        return max(0, ctypes.CDLL(None).syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1))
    except (AttributeError, OSError, TypeError):  # not Linux
        return 0


def restrict(read: Iterable[Path], write: Path) -> None:
    """Allow reading below ``read``, reading and writing plain files in ``write``, nothing else.

    No other program can be started; TCP and signals to other processes are denied if the kernel
    supports that. Call it before a second thread starts, because that thread would keep its rights.

    Raises:
        OSError: the kernel refuses, or its Landlock is older than version ``NEEDED``.
    """
    known = version()
    if known < NEEDED:
        raise OSError(f"Landlock is version {known} here; version {NEEDED} is needed (Linux 6.2).")
    files = (1 << FILE_RIGHTS[min(known, len(FILE_RIGHTS)) - 1]) - 1
    rules = _Ruleset(files, TCP if known >= 4 else 0, SCOPES if known >= 6 else 0)
    size = 8 if known < 4 else 16 if known < 6 else 24
    ruleset = _call(CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), 0)
    for path in read:
        _allow(ruleset, path, READ_FILE | READ_DIR)
    _allow(ruleset, write, READ_FILE | READ_DIR | WRITE_FILE | REMOVE_FILE | MAKE_FILE | TRUNCATE)
    _prctl_no_new_privileges()
    _call(RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = _PathBeneath(rights if path.is_dir() else rights & READ_FILE, parent)
        _call(ADD_RULE, ruleset, RULE_PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(parent)


def _prctl_no_new_privileges() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs cannot be set for this process")


def _call(number: int, *arguments: object) -> int:
    result = ctypes.CDLL(None, use_errno=True).syscall(number, *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"Landlock: {os.strerror(error)}")
    return result
