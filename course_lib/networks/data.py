"""The data of the course: images (Fashion-MNIST) and sentences (movie reviews).

Every file is part of the clone and is checked against ``data/SHA256SUMS`` before it is read, so
nothing is downloaded and no damaged file is used. Both loaders return three parts: *train* for
fitting, *validation* for every choice, and *test*, which is read once per result.
"""

import gzip
import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch.nn import functional as F

from course_lib import PROJECT
from course_lib.files import write_whole

DATA = PROJECT / "data"

CLASSES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)

# Mean and standard deviation of the 60,000 training images, pixel values scaled to [0, 1].
PIXEL_MEAN, PIXEL_STD = 0.2860, 0.3530


#: Inputs and labels of one batch.
Batch = tuple[torch.Tensor, torch.Tensor]


class DataError(RuntimeError):
    """A file of ``data/`` is missing, or differs from the one that the course was made with."""


def augment(images: torch.Tensor, generator: torch.Generator, pad: int = 2) -> torch.Tensor:
    """Mirror and shift ``images`` (N, C, H, W) at random; the result has the same shape.

    Each image is mirrored with probability 1/2 and shifted by up to ``pad`` pixels in either
    direction. Uncovered pixels get the smallest value in ``images``, the background.
    """
    n, _, height, width = images.shape
    flip = torch.rand(n, 1, 1, 1, generator=generator) < 0.5
    images = torch.where(flip, images.flip(3), images)
    background = images.amin().item()
    padded = F.pad(images, (pad,) * 4, value=background)
    top, left = torch.randint(0, 2 * pad + 1, (2, n, 1), generator=generator)
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    picture = torch.arange(n)[:, None, None]
    cropped = padded.permute(0, 2, 3, 1)[picture, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2)


class Images(NamedTuple):
    """Images: ``images`` (N, 1, 28, 28) float32, standardised; ``labels`` (N,) int64, 0 to 9."""

    images: torch.Tensor
    labels: torch.Tensor

    def batches(
        self, size: int, generator: torch.Generator, augmented: bool = True
    ) -> Iterator[Batch]:
        """One shuffled pass in full batches of ``size``; a last incomplete batch is dropped."""
        order = torch.randperm(len(self.labels), generator=generator)
        for index in order[: len(order) // size * size].split(size):
            images = self.images[index]
            yield augment(images, generator) if augmented else images, self.labels[index]


class Reviews(NamedTuple):
    """N sentences: ``texts``, ``ratings`` (N,) float32, -4 to 4, ``labels`` (N,) int64, 0 or 1."""

    texts: list[str]
    ratings: torch.Tensor
    labels: torch.Tensor


class Labelled(Protocol):
    """A part of a data set, of whatever kind, with its ``labels`` (N,)."""

    @property
    def labels(self) -> torch.Tensor:
        """The class of each example, int64 (N,)."""


Part = TypeVar("Part", bound=Labelled)


class Splits(NamedTuple, Generic[Part]):
    """The three parts of a data set, such as :class:`Images` or :class:`Reviews`."""

    train: Part
    validation: Part
    test: Part


def checksums(root: Path = DATA) -> dict[str, str]:
    """The SHA-256 of every data file, by its path below ``data/``, from ``SHA256SUMS``.

    Raises:
        DataError: ``SHA256SUMS`` is missing or damaged.
    """
    listing = Path(root) / "SHA256SUMS"
    if not listing.is_file():
        raise DataError(f"{listing} is missing. {_repair('SHA256SUMS')}")
    entries = [line.split("  ") for line in listing.read_text(encoding="utf-8").splitlines()]
    if not all(len(entry) == 2 and len(entry[0]) == 64 for entry in entries):
        raise DataError(f"{listing} is damaged: a line has no checksum. {_repair('SHA256SUMS')}")
    return {name: digest for digest, name in entries}


def record_checksum(name: str, root: Path = DATA) -> None:
    """Write the SHA-256 of a new or changed file to ``SHA256SUMS`` and ``data/README.md``.

    Raises:
        DataError: ``data/README.md`` has no row for the file.
    """
    known = checksums(root) | {name: sha256(Path(root) / name)}
    lines = (f"{digest}  {path}\n" for path, digest in sorted(known.items()))
    readme = Path(root) / "README.md"
    row = re.compile(rf"^(\| `{re.escape(name)}` \|.*\| )`\w*` \|$", re.MULTILINE)
    text, rows = row.subn(rf"\g<1>`{known[name]}` |", readme.read_text(encoding="utf-8"))
    if not rows:
        raise DataError(f"{readme} has no row for {name}: add one, with source and licence.")
    write_whole(readme, text)
    write_whole(Path(root) / "SHA256SUMS", "".join(lines))


def verified(name: str, root: Path = DATA) -> Path:
    """The path of the data file ``name``, after its SHA-256 has been verified.

    Raises:
        DataError: the file is not listed, missing or damaged; the message says how to restore it.
    """
    expected = checksums(root).get(name)
    if expected is None:
        raise DataError(f"data/{name} is not listed in data/SHA256SUMS. {_repair('SHA256SUMS')}")
    path = Path(root) / name
    if not path.is_file():
        raise DataError(f"data/{name} is missing. {_repair(name)}")
    actual = sha256(path)
    if actual != expected:
        raise DataError(
            f"data/{name} is damaged: its SHA-256 is {actual[:12]}..., "
            f"expected {expected[:12]}.... {_repair(name)}"
        )
    return path


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _repair(name: str) -> str:
    return (
        f"Restore it with 'git checkout -- data/{name}' in the project's folder, "
        "or download the project again."
    )


def fashion_mnist(root: Path = DATA) -> Splits[Images]:
    """Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017): 55,000 / 5,000 / 10,000 images.

    The validation part is the last 5,000 images of the original training set.

    Raises:
        DataError: a file is missing or damaged.
    """
    images, labels = _idx_images("train", root), _idx_labels("train", root)
    return Splits(
        train=Images(images[:55_000], labels[:55_000]),
        validation=Images(images[55_000:], labels[55_000:]),
        test=Images(_idx_images("t10k", root), _idx_labels("t10k", root)),
    )


def _idx_images(part: str, root: Path) -> torch.Tensor:
    raw = gzip.decompress(verified(f"fashion-mnist/{part}-images-idx3-ubyte.gz", root).read_bytes())
    # An IDX file: 16 bytes of header (magic number and three sizes), then one byte per pixel.
    pixels = torch.from_numpy(np.frombuffer(raw, np.uint8, offset=16).copy())
    scale, shift = 1 / (255 * PIXEL_STD), -PIXEL_MEAN / PIXEL_STD
    return pixels.view(-1, 1, 28, 28).float().mul_(scale).add_(shift)


def _idx_labels(part: str, root: Path) -> torch.Tensor:
    raw = gzip.decompress(verified(f"fashion-mnist/{part}-labels-idx1-ubyte.gz", root).read_bytes())
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=8).astype(np.int64))


def movie_reviews(root: Path = DATA) -> Splits[Reviews]:
    """Sentences of movie reviews, each rated by about twenty people (Hutto and Gilbert, 2014).

    A sentence is positive (1) if its mean rating is above zero, and negative (0) if it is below;
    the few rated exactly zero are left out. A hash of the text alone assigns each sentence to its
    part, so that a repeated sentence never ends up in two: a fifth is test, and a tenth of the rest
    is validation.

    Raises:
        DataError: the file is missing or damaged.
    """
    path = verified("movie-reviews/movieReviewSnippets_GroundTruth.txt", root)
    parts: dict[str, list[tuple[str, float]]] = {"train": [], "validation": [], "test": []}
    for line in path.read_text(encoding="utf-8").splitlines():
        _, rating, text = line.split("\t", 2)
        if float(rating) != 0:
            parts[_part_of(text)].append((text.strip(), float(rating)))
    return Splits(**{name: _reviews(rows) for name, rows in parts.items()})


def _part_of(text: str) -> str:
    percent = int.from_bytes(hashlib.sha256(text.strip().encode()).digest()[:8], "big") % 100
    return "test" if percent < 20 else "validation" if percent < 28 else "train"


def _reviews(rows: list[tuple[str, float]]) -> Reviews:
    ratings = torch.tensor([rating for _, rating in rows])
    return Reviews([text for text, _ in rows], ratings, (ratings > 0).long())


# python -m course_lib.networks.data FILE ...: update the checksums of files that changed
if __name__ == "__main__":
    for changed in sys.argv[1:]:
        record_checksum(changed)
