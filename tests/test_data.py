"""The data of the course is loaded correctly, and damaged data is refused."""

import gzip
import hashlib
from collections import Counter

import pytest
import torch
from torchvision.datasets import FashionMNIST

from course_lib.networks import data

IMAGE_FILES = [
    "fashion-mnist/train-images-idx3-ubyte.gz",
    "fashion-mnist/train-labels-idx1-ubyte.gz",
    "fashion-mnist/t10k-images-idx3-ubyte.gz",
    "fashion-mnist/t10k-labels-idx1-ubyte.gz",
]
REVIEW_FILE = "movie-reviews/movieReviewSnippets_GroundTruth.txt"
LABEL_FILE = IMAGE_FILES[3]


# --- pictures -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images():
    return data.fashion_mnist()


@pytest.fixture(scope="module")
def torchvision_parts(tmp_path_factory):
    """Training and test part of the same files, as read by torchvision."""
    root = tmp_path_factory.mktemp("torchvision")
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in IMAGE_FILES:
        path = data.DATA / name
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    return FashionMNIST(root, train=True), FashionMNIST(root, train=False)


def test_pictures_have_the_sizes_shapes_and_types_of_the_course(images):
    for part, size in zip(images, (55_000, 5_000, 10_000), strict=True):
        assert part.images.shape == (size, 1, 28, 28) and part.images.dtype == torch.float32
        assert part.labels.shape == (size,) and part.labels.dtype == torch.int64


def test_training_pictures_are_standardised(images):
    assert abs(images.train.images.mean()) < 0.01
    assert abs(images.train.images.std() - 1) < 0.01


@pytest.mark.slow
def test_parts_are_those_of_an_independent_reader(images, torchvision_parts):
    training, test = torchvision_parts
    expected = [
        (training.data[:55_000], training.targets[:55_000]),
        (training.data[-5_000:], training.targets[-5_000:]),  # validation: the last 5,000
        (test.data, test.targets),
    ]
    for part, (pixels, labels) in zip(images, expected, strict=True):
        restored = (part.images * data.PIXEL_STD + data.PIXEL_MEAN) * 255
        assert torch.equal(restored.round().to(torch.uint8).squeeze(1), pixels)
        assert (restored - restored.round()).abs().max() < 0.01
        assert torch.equal(part.labels, labels)


@pytest.mark.slow
def test_pixel_statistics_are_those_of_the_original_training_set(torchvision_parts):
    pixels = torchvision_parts[0].data.double() / 255
    assert pixels.mean().item() == pytest.approx(data.PIXEL_MEAN, abs=1e-4)
    assert pixels.std().item() == pytest.approx(data.PIXEL_STD, abs=1e-4)


def test_test_set_holds_a_thousand_of_each_class(images):
    assert images.test.labels.bincount().tolist() == [1_000] * 10


def test_classes_are_named_in_the_order_of_the_labels(torchvision_parts):
    published = [name.lower().split("/")[0] for name in torchvision_parts[0].classes]
    assert [name.lower() for name in data.CLASSES] == published


# --- sentences ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reviews():
    return data.movie_reviews()


@pytest.fixture(scope="module")
def raw_reviews():
    """(text, rating) of every line of the file."""
    lines = (data.DATA / REVIEW_FILE).read_text(encoding="utf-8").splitlines()
    return [(line.split("\t")[2].strip(), float(line.split("\t")[1])) for line in lines]


def test_every_sentence_but_the_neutral_ones_is_in_a_part(reviews, raw_reviews):
    rated = [row for row in raw_reviews if row[1] != 0]
    assert len(raw_reviews) == 10_605 and len(raw_reviews) - len(rated) == 37
    loaded = Counter(
        (text, round(rating, 4))
        for part in reviews
        for text, rating in zip(part.texts, part.ratings.tolist(), strict=True)
    )
    assert loaded == Counter((text, round(rating, 4)) for text, rating in rated)


def test_label_is_the_sign_of_the_rating(reviews):
    for part in reviews:
        assert len(part.texts) == len(part.ratings) == len(part.labels)
        assert part.ratings.dtype == torch.float32 and part.labels.dtype == torch.int64
        assert part.labels.tolist() == [int(rating > 0) for rating in part.ratings.tolist()]
        assert 0.45 < part.labels.float().mean() < 0.55


def test_parts_share_no_sentence(reviews):
    train, validation, test = (set(part.texts) for part in reviews)
    assert not (train & validation or train & test or validation & test)


def test_shares_of_the_parts(reviews):
    train, validation, test = (len(part.texts) for part in reviews)
    total = train + validation + test
    assert (train / total, test / total) == pytest.approx((0.72, 0.20), abs=0.01)
    assert validation / (train + validation) == pytest.approx(0.10, abs=0.01)


def test_split_never_changes(reviews):
    digest = hashlib.sha256("\n".join(reviews.test.texts).encode()).hexdigest()
    assert digest == "211b7d4a9326a2c0d1492d6bb542f80d1e2c3b916db64986883c98606743bafa"


# --- missing and damaged files ------------------------------------------------------------------


@pytest.fixture
def root(tmp_path):
    """A copy of ``data/``: links to its files, each of which a test may replace."""
    for name in data.checksums():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(data.DATA / name)
    (tmp_path / "SHA256SUMS").write_bytes((data.DATA / "SHA256SUMS").read_bytes())
    return tmp_path


def remove(path):
    path.unlink()


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()  # the link, not its target
    path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [remove, flip_a_bit])
@pytest.mark.parametrize("name", [*IMAGE_FILES, REVIEW_FILE])
def test_missing_or_altered_file_is_refused_with_its_name_and_the_repair(root, name, damage):
    load = data.movie_reviews if name == REVIEW_FILE else data.fashion_mnist
    damage(root / name)
    with pytest.raises(data.DataError) as error:
        load(root)
    assert f"data/{name} is " in str(error.value)
    assert f"git checkout -- data/{name}" in str(error.value)


def test_missing_checksums_are_refused_with_the_repair(root):
    (root / "SHA256SUMS").unlink()
    with pytest.raises(data.DataError, match="git checkout -- data/SHA256SUMS"):
        data.verified(LABEL_FILE, root)


def test_file_that_is_not_listed_is_refused_with_its_name_and_the_repair(root):
    (root / "extra.txt").write_text("not part of the course")
    with pytest.raises(data.DataError, match=r"extra\.txt") as error:
        data.verified("extra.txt", root)
    assert "git checkout -- data/SHA256SUMS" in str(error.value)


@pytest.mark.parametrize("line", ["<<<<<<< HEAD", "8d3605d196f4"], ids=["merge", "cut short"])
def test_damaged_checksums_are_refused_with_the_repair(root, line):
    with (root / "SHA256SUMS").open("a") as listing:
        listing.write(line + "\n")
    with pytest.raises(data.DataError, match="git checkout -- data/SHA256SUMS"):
        data.verified(LABEL_FILE, root)


def test_intact_file_is_found_below_the_given_root(root):
    assert data.verified(LABEL_FILE, root) == root / LABEL_FILE


@pytest.mark.parametrize("name", ["a.txt", "new.txt"])
def test_recording_a_checksum_changes_one_line_and_one_row_and_keeps_the_rest(tmp_path, name):
    listing, readme = tmp_path / "SHA256SUMS", tmp_path / "README.md"
    table = "| `a.txt` | one | `{}` |\n| `new.txt` | two | `{}` |\n| `z.txt` | three | `{}` |\n"
    listing.write_text(f"{'a' * 64}  a.txt\n{'f' * 64}  z.txt\n")
    readme.write_text(table.format("a" * 64, "", "f" * 64))
    (tmp_path / name).write_bytes(b"made again")
    data.record_checksum(name, tmp_path)
    known = {"a.txt": "a" * 64, "z.txt": "f" * 64}
    known[name] = hashlib.sha256(b"made again").hexdigest()
    assert listing.read_text() == "".join(f"{known[each]}  {each}\n" for each in sorted(known))
    assert readme.read_text() == table.format(known["a.txt"], known.get("new.txt", ""), "f" * 64)
    assert data.verified(name, tmp_path) == tmp_path / name
    assert not list(tmp_path.glob("*.partial"))


def test_checksum_of_a_file_without_a_row_is_refused_and_nothing_is_changed(tmp_path):
    for name in ("SHA256SUMS", "README.md", "new.txt"):
        (tmp_path / name).touch()
    with pytest.raises(data.DataError, match="has no row for"):
        data.record_checksum("new.txt", tmp_path)
    assert (tmp_path / "SHA256SUMS").read_text() == ""


def test_every_listed_file_is_as_listed():
    for name in data.checksums():
        data.verified(name)
