"""Files that are there complete or not at all."""

import os
import tempfile
from pathlib import Path


def printable(text: str) -> str:
    """``text`` without what no file can hold: half of a character pair becomes its number."""
    return text.encode("utf-8", "backslashreplace").decode()


def write_whole(file: Path, content: str | bytes) -> Path:
    """Write ``content`` so that a reader of ``file`` sees the old or the new one, never a part.

    Text is written as UTF-8, its lines ended by a line feed on every system.

    Raises:
        OSError: the folder or the disk refuses; ``file`` is left as it was.
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
    """Why no file can be written in ``folder``; None if one can. It is made if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"only tried")
    except OSError as error:
        return str(error)
    return None
