"""A ``.pruned`` file gives back what was packed, or says why it does not."""

import hashlib
import json
import random
import struct
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from course_lib.deployment import pruned_file
from course_lib.deployment.pruned_file import START, FileError, pack, read, unpack, unpacked_bytes
from course_lib.deployment.storage import bound, encode, share_weights
from course_lib.networks import models
from course_lib.pruning.masks import global_masks, pruned_copy

ABOUT = {"network": "made up", "plan": '{"first": {"0": [1, 2]}}'}


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(40, 60, generator=generator)
    weight[weight.abs() < 1] = 0
    return {
        "first.weight": weight,
        "first.bias": torch.randn(40, generator=generator).half(),
        "second.weight": share_weights(weight.T.contiguous(), 15),
        "second.codes": torch.randint(-8, 8, (30, 5, 3, 3), generator=generator).to(torch.int8),
        "counted": torch.tensor(7),
        "empty": torch.zeros(0, 3),
    }


@pytest.fixture
def file(tmp_path) -> Path:
    return pack(tensors(), tmp_path / "network.pruned", ABOUT)


FIELDS = ("signature", "version", "packed", "size", "parts", "zero")


def rewritten(file: Path, change=lambda header: header, payload=None, **start) -> Path:
    """``file`` with another header, parts or start, and a checksum that is right again."""
    data = file.read_bytes()
    fields = dict(zip(FIELDS, START.unpack_from(data), strict=True))
    begin = START.size + 32
    end = begin + fields["packed"]
    header = change(json.loads(zlib.decompress(data[begin:end])))
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    packed, payload = zlib.compress(text), data[end:] if payload is None else payload
    fields |= {"packed": len(packed), "size": len(text), "parts": len(payload)}
    first = START.pack(*(fields | start).values())
    digest = hashlib.sha256(first + packed + payload).digest()
    file.write_bytes(first + digest + packed + payload)
    return file


# --- what was packed comes back -----------------------------------------------------------------


def test_tensors_come_back(file):
    found, about = unpack(file)
    assert [*found] == [*tensors()] and about == ABOUT
    for name, tensor in tensors().items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)


def test_a_tensor_can_be_stored_in_a_way_of_your_choice(tmp_path):
    weight = tensors()["first.weight"]
    for places in ("CSR", "relative", "bitmask"):
        file = pack({"weight": encode(weight, places, "plain")}, tmp_path / places)
        assert read(file).tensors["weight"].places == places
        assert torch.equal(unpack(file)[0]["weight"], weight)


@pytest.mark.slow
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shapes=some.lists(some.lists(some.integers(0, 6), max_size=4), max_size=4),
    about=some.dictionaries(some.text(), some.text(), max_size=3),
    sparsity=some.floats(0, 1),
    seed=some.integers(0, 1000),
)
def test_any_tensors_come_back(tmp_path, shapes, about, sparsity, seed):
    generator = torch.Generator().manual_seed(seed)
    packed = {}
    for number, shape in enumerate(shapes):
        kept = torch.rand(shape, generator=generator) >= sparsity
        packed[f"tensor {number}"] = torch.randn(shape, generator=generator) * kept
    found, said = unpack(pack(packed, tmp_path / "any.pruned", about))
    assert said == about and found.keys() == packed.keys()
    assert all(torch.equal(found[name], packed[name]) for name in packed)


@pytest.mark.slow
def test_a_trained_and_pruned_network_comes_within_five_percent_of_its_bound(tmp_path):
    model = models.load_trained("resnet18")
    state = pruned_copy(model, global_masks(model, 0.9)).state_dict()
    for name, value in state.items():
        if value.dim() > 1:  # to 15 values, as far apart as the largest weight says
            state[name] = (value / value.abs().max() * 7).round().to(torch.int8)
        elif value.is_floating_point():
            state[name] = value.half()
    file = pack(state, tmp_path / "resnet18.pruned")
    assert file.stat().st_size < 1.05 * sum(bound(value).bytes for value in state.values())
    unpacked, _ = unpack(file)
    assert all(torch.equal(unpacked[name], value) for name, value in state.items())


def test_what_was_there_stays_until_all_is_written(file, monkeypatch):
    before = file.read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        pack({"other": torch.ones(3)}, file)
    assert file.read_bytes() == before and [*file.parent.iterdir()] == [file]


def test_the_start_is_what_the_module_says(file):
    data = file.read_bytes()
    assert data[:8] == b"\x89PRUNED\n"
    version, packed, size = struct.unpack("<III", data[8:20])
    (parts,) = struct.unpack("<Q", data[20:28])
    assert version == 1 and data[28:32] == bytes(4)
    assert len(data) == 64 + packed + parts
    assert data[32:64] == hashlib.sha256(data[:32] + data[64:]).digest()
    header = zlib.decompress(data[64 : 64 + packed])
    assert len(header) == size and json.loads(header)["about"] == ABOUT


# --- what is damaged or made up is refused ------------------------------------------------------


@pytest.mark.slow
def test_three_thousand_mutated_files_are_refused(file):
    """Bytes changed, cut, doubled or put in: none is read, none ends in another error."""
    whole, dice = file.read_bytes(), random.Random(0)
    for number in range(3000):
        data, place = bytearray(whole), dice.randrange(len(whole))
        kind = number % 5
        if kind == 0:
            data[place] ^= 1 << dice.randrange(8)
        elif kind == 1:
            del data[place:]
        elif kind == 2:
            data[place:place] = dice.randbytes(dice.randrange(1, 9))
        elif kind == 3:
            del data[place : place + dice.randrange(1, 9)]
        else:
            data[place : place + 8] = dice.randbytes(8)
        if data == whole:
            continue
        file.write_bytes(data)
        with pytest.raises(FileError):
            unpack(file)


@pytest.mark.slow
def test_made_up_parts_are_refused_or_harmless(file):
    """With a right SHA-256: what comes out was never packed, and the CRC of the tensors says so."""
    whole, dice = file.read_bytes(), random.Random(1)
    length = START.unpack_from(whole)[4]
    for _ in range(1000):
        payload = bytearray(whole[-length:])
        for _ in range(dice.randrange(1, 4)):
            payload[dice.randrange(length)] = dice.randrange(256)
        file.write_bytes(whole)
        rewritten(file, payload=bytes(payload))
        if payload == whole[-length:]:
            continue
        try:
            found, _ = unpack(file)
        except FileError:
            continue
        # bits that no number needs may differ, such as the last ones of a byte or of a code
        assert all(torch.equal(found[name], value) for name, value in tensors().items())


def described(**changes):
    """A change of the header: fields of the description of the first tensor."""
    names = ("name", "shape", "dtype", "places", "values", "parts")

    def change(header):
        row = dict(zip(names, header["tensors"][0], strict=True)) | changes
        header["tensors"][0] = [*row.values()]
        return header

    return change


def without_parts(shape: list[int]):
    """A tensor of zeros that needs no byte in the file, however large it is."""
    row = ["zeros", shape, "float32", "dense", "coded"]
    parts = [["table", "uint32", 0], ["values, often", "uint16", 0], ["values, coded", "uint32", 0]]
    return lambda header: header | {"tensors": [[*row, parts]]}


HUGE = 1 << 47
HEADERS = {
    "no tensors": (lambda header: {"about": {}, "crc32": 0}, "does not say"),
    "a list": (lambda header: [], "does not say"),
    "numbers in about": (lambda header: header | {"about": {"a": 1}}, "does not say"),
    "no JSON": (lambda header: b"{", "is not JSON"),
    "deeply nested": (lambda header: b"[" * 100_000, "is not JSON"),
    "another CRC": (lambda header: header | {"crc32": 1}, "other values come out"),
    "a text for a row": (lambda header: header | {"tensors": ["x"]}, "not described"),
    "a short row": (lambda header: header | {"tensors": [["x"]]}, "not described"),
    "a negative size": (described(shape=[-40, 60]), "not described"),
    "a size that is true": (described(shape=[True, 60]), "not described"),
    "a size that is a fraction": (described(shape=[40.0, 60]), "not described"),
    "a shape that is a text": (described(shape="40"), "not described"),
    "an unknown dtype": (described(dtype="complex64"), "not described"),
    "a dtype that is a list": (described(dtype=[]), "not described"),
    "unknown places": (described(places="__class__"), "not described"),
    "unknown values": (described(values="pickle"), "not described"),
    "a part of objects": (described(parts=[["values", "object", 1]]), "not described"),
    "a part without length": (described(parts=[["values", "uint8"]]), "not described"),
    "a part that is too long": (described(parts=[["values", "uint8", 10**9]]), "beyond the end"),
    "fewer parts": (described(parts=[]), "belong to no tensor"),
    "another shape": (described(shape=[40, 61]), "."),
    "other places": (described(places="CSR"), "do not fit together"),
    "a huge tensor": (described(shape=[HUGE, HUGE]), "that are allowed"),
    "the same name twice": (
        lambda header: header | {"tensors": header["tensors"][:1] * 2},
        "two tensors 'first.weight'",
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_made_up_header_is_refused(file, name):
    change, message = HEADERS[name]
    with pytest.raises(FileError, match=message):
        unpack(rewritten(file, change))


@pytest.mark.parametrize("shape", [[HUGE], [1 << 20, 1 << 20], [1 << 40, 0, 1 << 40, 2]])
def test_zeros_that_need_no_bytes_are_not_allocated_without_limit(file, shape):
    rewritten(file, without_parts(shape), payload=b"")
    if 0 in shape:  # nothing, however it is called
        with pytest.raises(FileError):
            unpack(file)
        return
    with pytest.raises(FileError, match="need more than the 2147483648 bytes that are allowed"):
        unpack(file)


def test_the_limit_is_the_callers(file):
    size = sum(value.numel() * value.element_size() for value in tensors().values())
    assert size == sum(map(unpacked_bytes, read(file).tensors.values()))
    unpack(file, limit=size)
    with pytest.raises(FileError, match=f"more than the {size - 1} bytes"):
        unpack(file, limit=size - 1)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"version": 2}, "version 2; this course reads 1"),
        ({"zero": 1}, "version 1"),
        ({"signature": b"\x89PNG\r\n\x1a\n"}, "begins differently"),
        ({"size": 5}, "another size"),
        ({"size": 1 << 30}, "at most 16777216 are read"),
        ({"parts": 1}, "its start says"),
        ({"parts": 2**64 - 1}, "its start says"),
    ],
)
def test_a_made_up_start_is_refused(file, start, message):
    with pytest.raises(FileError, match=message):
        unpack(rewritten(file, **start))


def test_a_header_that_inflates_without_end_is_not_inflated(file):
    bomb = zlib.compress(bytes(1 << 26))
    first = START.pack(pruned_file.SIGNATURE, 1, len(bomb), 100, 0, 0)
    file.write_bytes(first + hashlib.sha256(first + bomb).digest() + bomb)
    with pytest.raises(FileError, match="another size"):
        unpack(file)


@pytest.mark.parametrize("data", [b"", b"\x89PRUNED\n", bytes(64), b"PK\x03\x04" + bytes(100)])
def test_another_file_is_refused(file, data):
    file.write_bytes(data)
    with pytest.raises(FileError, match=r"network\.pruned: this is not a \.pruned file"):
        unpack(file)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileError, match="nothing"):
        unpack(tmp_path / "nothing.pruned")


@pytest.mark.parametrize(
    ("tensors", "about", "message"),
    [
        ({"a": torch.ones(2)}, {"epochs": 3}, "'epochs' is 3: give str"),
        ({"a": torch.ones(2)}, {3: "three"}, "Metadata must be text"),
        ({"a": torch.ones(2).double()}, None, "a cannot be stored: Cannot store float64"),
        ({"a": torch.ones(2) > 0}, None, "a cannot be stored: Cannot store bool"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, None, "Cannot store complex64"),
        ({"a": torch.eye(3).to_sparse()}, None, "Only dense tensors"),
        ({"a": torch.ones(2, device="meta")}, None, "on meta"),
        ({"a": [1.0]}, None, "got list"),
        ({1: torch.ones(2)}, None, "texts as names; got 1"),
    ],
)
def test_what_cannot_be_stored_is_named_and_nothing_is_written(tmp_path, tensors, about, message):
    with pytest.raises(ValueError, match=message):
        pack(tensors, tmp_path / "a.pruned", about)
    assert not [*tmp_path.iterdir()]


def test_a_path_may_be_text_and_tensors_of_any_shape_come_back(tmp_path):
    base = torch.randn(6, 4)
    tensors = {
        "number": torch.tensor(3.0),
        "empty": torch.ones(0, 3),
        "turned": base.T,
        "tied": base,
        "bfloat16": base[::2].bfloat16(),
    }
    file = str(tmp_path / "a.pruned")
    pack(tensors, file, {"about": "shapes"})
    found, about = unpack(file)
    assert about == {"about": "shapes"} and found.keys() == tensors.keys()
    assert all(torch.equal(found[name], value) for name, value in tensors.items())
