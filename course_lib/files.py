"""Write files so that they appear complete or not at all."""

import os
import tempfile
from pathlib import Path


def printable(text: str) -> str:
    """``text`` with each lone surrogate, which UTF-8 cannot encode, replaced by its escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def write_whole(file: Path, content: str | bytes) -> Path:
    """Write ``content`` to ``file`` atomically; return ``file``.

    A reader sees the old content or the new, never a part. Text is written as UTF-8 with line
    feeds, on every system. Missing parent folders are created.

    Raises:
        OSError: the content cannot be written; ``file`` is left unchanged.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, file)
    finally:
        beside.unlink(missing_ok=True)
    return file


def refusal(folder: Path) -> str | None:
    """Why no file can be written in ``folder``, or None if one can; a missing folder is created."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"test")
    except OSError as error:
        return str(error)
    return None
