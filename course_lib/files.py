"""Files that are there complete or not at all."""

import os
from pathlib import Path


def write_whole(file: Path, text: str) -> Path:
    """Write ``text`` so that a reader of ``file`` sees the old text or the new one, never a part.

    Raises:
        OSError: the folder or the disk refuses; ``file`` is left as it was.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, file)
    finally:
        beside.unlink(missing_ok=True)
    return file
