"""How many bytes does a pruned weight need? Ways to store it, from dense down to an entropy coder.

A way of storing answers two separate questions: its *places* say where the kept weights are, its
*values* say what they are. Any two can be combined, and all are lossless: the same bits come back.
:mod:`course_lib.deployment.pruned_file` writes them to disk.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

#: The names of dtypes in a file, and the unsigned integers that hold the same bits.
WORDS = {
    "float32": np.uint32,
    "float16": np.uint16,
    "bfloat16": np.uint16,
    "int8": np.uint8,
    "uint8": np.uint8,
    "int32": np.uint32,
    "int64": np.uint64,
}

#: Up to this many different values are listed once and each is a symbol. With more of them, each
#: byte of a value is a symbol.
MOST_SYMBOLS = 4096

#: A codebook has at most this many values: an index into it is one byte or less.
MOST_SHARED = 256

#: Bits of a relative index: as many as Deep Compression takes for linear layers. (It takes 8 for
#: convolutions.) With fewer bits more gaps need a bridge, which costs a value each.
GAP_BITS = 5

#: Up to this many numbers are stored as they are: listing the symbols of a coder takes more.
SHORT = 256

#: A byte with more bits of entropy than this, such as the last of a float, is stored as it is.
WORTH_CODING = 7.9

Parts = dict[str, np.ndarray]

#: What picks the kept weights from all of them: a slice, a mask or an array of places.
Picked = slice | np.ndarray


class StorageError(ValueError):
    """The stored parts do not match their description."""


class Encoded(NamedTuple):
    """A tensor as ``parts`` that say where its kept weights lie and what they are."""

    shape: tuple[int, ...]
    dtype: str
    places: str
    values: str
    parts: Parts

    @property
    def bytes(self) -> int:
        """Bytes of the parts, without the names and sizes that a file adds."""
        return sum(part.nbytes for part in self.parts.values())


def encode(tensor: torch.Tensor, places: str = "coded", values: str = "coded") -> Encoded:
    """Store ``tensor`` with one of :data:`PLACES` and one of :data:`VALUES`.

    A weight of shape (outputs, ...) counts as a matrix with a row for each output.

    Raises:
        ValueError: an unknown way of storing, or one that does not suit this tensor.
    """
    for name, ways in ((places, PLACES), (values, VALUES)):
        if name not in ways:
            raise ValueError(f"There is no {name!r}; choose from {', '.join(ways)}.")
    _check_dense(tensor)
    dtype = str(tensor.dtype).removeprefix("torch.")
    words = words_of(tensor)
    parts, kept = PLACES[places].write(words != 0)
    parts = parts | VALUES[values].write(words.ravel()[kept])
    return Encoded(tuple(tensor.shape), dtype, places, values, parts)


def _check_dense(tensor: torch.Tensor) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"Only tensors are stored; got {type(tensor).__name__}.")
    if tensor.layout is not torch.strided or tensor.is_meta:
        raise ValueError(
            f"Only dense tensors with numbers are stored; got {tensor.layout} on {tensor.device}."
        )
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in WORDS:
        raise ValueError(f"Cannot store {dtype}; choose from {', '.join(WORDS)}.")


def decode(encoded: Encoded) -> torch.Tensor:
    """The tensor that :func:`encode` was given, of the same shape, bit for bit but for signs of 0.

    Raises:
        StorageError: the parts do not fit together.
    """
    shape, dtype, places, values, parts = encoded
    flat = np.zeros(math.prod(shape), WORDS[dtype])
    try:
        kept = PLACES[places].read(parts, _as_matrix(shape))
        room = flat[kept]
        flat[kept] = VALUES[values].read(parts, len(room), flat.dtype)
    except (KeyError, IndexError, ValueError, TypeError, OverflowError, AssertionError) as error:
        raise StorageError(f"The parts do not fit together: {error!r}") from error
    return torch.from_numpy(flat).view(getattr(torch, dtype)).reshape(shape)


def smallest(tensor: torch.Tensor) -> Encoded:
    """``tensor``, of any shape, in the way that takes the fewest bytes of those worth trying."""
    _check_dense(tensor)
    if tensor.numel() <= SHORT:
        return encode(tensor, "dense", "plain")
    ways = [("dense", "plain"), ("dense", "coded")]
    if _distinct(words_of(tensor).ravel(), MOST_SHARED) is None:  # a zero is not one value of few
        ways = [("dense", "plain"), ("coded", "plain"), ("coded", "coded")]
    return min((encode(tensor, *way) for way in ways), key=lambda encoded: encoded.bytes)


def words_of(tensor: torch.Tensor) -> np.ndarray:
    """The bits of ``tensor`` (outputs, ...) as unsigned integers (rows, columns).

    Negative zero, which a negative weight times a mask is, becomes plain zero.
    """
    size = tensor.element_size()
    signed = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[size]
    flat = tensor.detach().cpu().contiguous().view(-1).view(signed).numpy().view(f"u{size}")
    if tensor.is_floating_point():
        flat = np.where(flat == 1 << (8 * size - 1), 0, flat).astype(flat.dtype)
    return flat.reshape(_as_matrix(tensor.shape))


def _as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    rows = shape[0] if len(shape) > 1 else 1
    return rows, math.prod(shape) // max(rows, 1)


# --- how far it can go --------------------------------------------------------------------------


class Bound(NamedTuple):
    """The entropy of the places and of the values, in bytes: no coder takes fewer.

    That holds for coders that code each symbol independently (Shannon, 1948).
    """

    places: float
    values: float

    @property
    def bytes(self) -> float:
        """The sum of both."""
        return self.places + self.values


def bound(tensor: torch.Tensor) -> Bound:
    """The entropy bound of ``tensor``, of any shape: of its mask and of its nonzero values.

    The symbols are the values or their bytes, whichever takes less; different ones are listed once.
    A tensor of a few numbers is best stored as it is.
    """
    _check_dense(tensor)
    words = words_of(tensor).ravel()
    kept = words[words != 0]
    mask = entropy(np.array([len(kept), len(words) - len(kept)])) * len(words)
    return Bound(mask / 8, min(kept.nbytes, _bytes_by_value(kept), _bytes_by_byte(kept)))


def _bytes_by_value(words: np.ndarray) -> float:
    table = _distinct(words)
    if table is None:
        return math.inf
    return len(words) * entropy(np.bincount(_places_in(table, words))) / 8 + table.nbytes


def _bytes_by_byte(words: np.ndarray) -> float:
    counts = [np.bincount(plane) for plane in _planes(words)]
    listed = sum(np.count_nonzero(each) for each in counts)
    return len(words) * sum(map(entropy, counts)) / 8 + listed


def entropy(counts: np.ndarray) -> float:
    """Bits per symbol, of symbols that occur ``counts`` times (Shannon, 1948)."""
    shares = counts[counts > 0] / max(1, counts.sum())
    return float(-(shares * np.log2(shares)).sum()) + 0.0


# --- few values for many weights ----------------------------------------------------------------


def share_weights(weight: torch.Tensor, count: int, steps: int = 30) -> torch.Tensor:
    """``weight`` with only ``count`` different values besides zero: k-means (Han et al., 2016).

    The values start evenly spaced between the lowest and the highest weight, which Deep Compression
    found best: it leaves the few large weights values of their own. The result has the shape of
    ``weight``, which may be any.

    Raises:
        ValueError: ``count`` is not from 1 to :data:`MOST_SHARED`.
    """
    if not 1 <= count <= MOST_SHARED:
        raise ValueError(f"A codebook has from 1 to {MOST_SHARED} values; got {count}.")
    kept = weight[weight != 0].double()
    if not len(kept):
        return weight.clone()
    centres = torch.linspace(float(kept.min()), float(kept.max()), count, dtype=torch.float64)
    for _ in range(steps):
        nearest = _nearest(kept, centres)
        size = torch.bincount(nearest, minlength=count)
        mean = torch.bincount(nearest, weights=kept, minlength=count) / size.clamp_min(1)
        moved = torch.where(size > 0, mean, centres).sort().values
        if torch.equal(moved, centres):
            break
        centres = moved
    quantized = weight.clone()
    quantized[weight != 0] = centres[_nearest(kept, centres)].to(weight.dtype)
    return quantized


def _nearest(values: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    return torch.bucketize(values, (centres[1:] + centres[:-1]) / 2)


# --- places: where the kept weights lie ---------------------------------------------------------


class Places(NamedTuple):
    """``write`` takes a mask (rows, columns); it returns parts, and an index of the kept weights.

    ``read`` takes the parts and (rows, columns), and returns that index. It indexes the flattened
    weights: a slice, a mask or an array of positions.
    """

    write: Callable[[np.ndarray], tuple[Parts, Picked]]
    read: Callable[[Mapping[str, np.ndarray], tuple[int, int]], Picked]


def _all(mask: np.ndarray) -> tuple[Parts, slice]:
    """Dense: every weight is kept, the zeros too."""
    return {}, slice(None)


def _read_all(parts: Mapping[str, np.ndarray], shape: tuple[int, int]) -> slice:
    return slice(None)


def _csr(mask: np.ndarray) -> tuple[Parts, np.ndarray]:
    """Compressed sparse rows: the column of each kept weight, and where each row begins."""
    starts = np.concatenate([[0], np.cumsum(mask.sum(1))])
    columns = np.nonzero(mask)[1].astype(np.min_scalar_type(max(mask.shape[1] - 1, 0)))
    return {"starts": starts.astype(np.uint32), "columns": columns}, np.flatnonzero(mask)


def _read_csr(parts: Mapping[str, np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    starts, columns = parts["starts"].astype(np.int64), parts["columns"].astype(np.int64)
    counts = np.diff(starts)
    _require(len(counts) == shape[0] and starts[0] == 0, "a row has no beginning")
    _require(bool((counts >= 0).all()) and starts[-1] == len(columns), "rows and columns differ")
    _require(bool((columns < shape[1]).all()), "a column lies outside")
    return np.repeat(np.arange(shape[0]) * shape[1], counts) + columns


def _relative(mask: np.ndarray, bits: int) -> tuple[Parts, np.ndarray]:
    """For each kept weight, how many zeros lie before it.

    A gap that ``bits`` cannot hold is bridged with zeros that are stored like kept weights.
    """
    places = np.flatnonzero(mask)
    before = np.concatenate([[-1], places[:-1]])[: len(places)]
    bridges = (places - before - 1) >> bits
    ranks = np.arange(bridges.sum()) - np.repeat(np.cumsum(bridges) - bridges, bridges) + 1
    kept = np.sort(np.concatenate([places, np.repeat(before, bridges) + (ranks << bits)]))
    gaps = np.diff(kept, prepend=-1) - 1
    return {"count": np.array([len(kept)], np.uint32), "gaps": pack_bits(gaps, bits)}, kept


def _read_relative(
    parts: Mapping[str, np.ndarray], shape: tuple[int, int], bits: int
) -> np.ndarray:
    kept = np.cumsum(unpack_bits(parts["gaps"], bits, int(parts["count"][0])) + 1) - 1
    _require(not len(kept) or kept[-1] < math.prod(shape), "a gap leads outside")
    return kept


def _bitmask(mask: np.ndarray) -> tuple[Parts, np.ndarray]:
    """One bit for each weight."""
    return {"mask": np.packbits(mask)}, mask.ravel()


def _read_bitmask(parts: Mapping[str, np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    return unpack_bits(parts["mask"], 1, math.prod(shape)).astype(bool)


def _two_four(mask: np.ndarray) -> tuple[Parts, np.ndarray]:
    """Two of every four weights in a row, and two bits for the place of each."""
    if mask.shape[1] % 4 or (mask.reshape(-1, 4).sum(1) > 2).any():
        raise ValueError("2:4 needs at most two weights in every four of a row.")
    two = np.sort(np.argsort(~mask.reshape(-1, 4), axis=1, kind="stable")[:, :2], axis=1)
    kept = (two + 4 * np.arange(len(two))[:, None]).ravel()
    return {"places": pack_bits(two.ravel(), 2)}, kept


def _read_two_four(parts: Mapping[str, np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    fours, rest = divmod(math.prod(shape), 4)
    _require(not rest, "the weights are no multiple of four")
    two = unpack_bits(parts["places"], 2, 2 * fours)
    return two + np.repeat(4 * np.arange(fours), 2)


def _coded_mask(mask: np.ndarray) -> tuple[Parts, np.ndarray]:
    """The mask, coded close to its entropy."""
    return _code(mask.ravel().astype(np.int32), "mask"), mask.ravel()


def _read_coded_mask(parts: Mapping[str, np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    return _uncode(parts, "mask", math.prod(shape)).astype(bool)


PLACES = {
    "dense": Places(_all, _read_all),
    "CSR": Places(_csr, _read_csr),
    "relative": Places(partial(_relative, bits=GAP_BITS), partial(_read_relative, bits=GAP_BITS)),
    "bitmask": Places(_bitmask, _read_bitmask),
    "2:4": Places(_two_four, _read_two_four),
    "coded": Places(_coded_mask, _read_coded_mask),
}


# --- values: what the kept weights are ----------------------------------------------------------


class Values(NamedTuple):
    """``write`` takes the kept words and returns parts; ``read`` takes parts, count and dtype."""

    write: Callable[[np.ndarray], Parts]
    read: Callable[[Mapping[str, np.ndarray], int, np.dtype], np.ndarray]


def _plain(words: np.ndarray) -> Parts:
    """As they are."""
    return {"values": words}


def _read_plain(parts: Mapping[str, np.ndarray], count: int, dtype: np.dtype) -> np.ndarray:
    _require(len(parts["values"]) == count, "there are not as many values as places")
    return parts["values"]


def _codebook(words: np.ndarray) -> Parts:
    """The different values, and for each kept weight the index of its value."""
    table = _distinct(words, MOST_SHARED)
    if table is None:
        raise ValueError(f"A codebook holds up to {MOST_SHARED} values: share them first.")
    return {"table": table, "indices": pack_bits(_places_in(table, words), _index_bits(table))}


def _read_codebook(parts: Mapping[str, np.ndarray], count: int, dtype: np.dtype) -> np.ndarray:
    return parts["table"][unpack_bits(parts["indices"], _index_bits(parts["table"]), count)]


def _index_bits(table: np.ndarray) -> int:
    """Bits of an index into ``table``."""
    return max(0, len(table) - 1).bit_length()


def _coded(words: np.ndarray) -> Parts:
    """Symbols, coded close to their entropy: the values, or if they are too many, their bytes."""
    table = _distinct(words)
    if table is not None and _bytes_by_value(words) <= _bytes_by_byte(words):
        symbols = _places_in(table, words).astype(np.int32)
        return {"table": table} | _code(symbols, "values")
    parts: Parts = {}
    for number, plane in enumerate(_planes(words)):
        if entropy(np.bincount(plane)) > WORTH_CODING:
            parts |= {f"byte {number}": plane}
        else:
            parts |= _code(plane.astype(np.int32), f"byte {number}")
    return parts


def _read_coded(parts: Mapping[str, np.ndarray], count: int, dtype: np.dtype) -> np.ndarray:
    if "table" in parts:
        return parts["table"][_uncode(parts, "values", count)]
    words = np.zeros((count, dtype.itemsize), np.uint8)
    for number in range(dtype.itemsize):
        name = f"byte {number}"
        words[:, number] = parts[name] if name in parts else _uncode(parts, name, count)
    return words.view(dtype.newbyteorder("<")).ravel()


def _planes(words: np.ndarray) -> np.ndarray:
    """The bytes of ``words`` (bytes of a word, count), the lowest first."""
    size = words.dtype.itemsize
    return words.astype(words.dtype.newbyteorder("<")).view(np.uint8).reshape(-1, size).T


def _places_in(table: np.ndarray, words: np.ndarray) -> np.ndarray:
    """For each of ``words`` its place in ``table``, which is sorted and holds all of them."""
    if words.dtype.itemsize > 2:
        return np.searchsorted(table, words)
    places = np.zeros(1 << (8 * words.dtype.itemsize), np.int32)
    places[table] = np.arange(len(table))
    return places[words]


def _distinct(words: np.ndarray, most: int = MOST_SYMBOLS) -> np.ndarray | None:
    """The different values in ``words``, sorted; None if there are more than ``most``."""
    if words.dtype.itemsize <= 2:
        table = np.flatnonzero(np.bincount(words)).astype(words.dtype)
        return table if len(table) <= most else None
    table = np.unique(words[: 4 * most])  # a look at the first ones settles most cases
    if len(table) <= most and len(words) > 4 * most:
        table = np.unique(np.concatenate([table, words[~_in(table, words)]]))
    return table if len(table) <= most else None


def _in(table: np.ndarray, words: np.ndarray) -> np.ndarray:
    return table[np.searchsorted(table, words).clip(max=len(table) - 1)] == words


VALUES = {
    "plain": Values(_plain, _read_plain),
    "codebook": Values(_codebook, _read_codebook),
    "coded": Values(_coded, _read_coded),
}


# --- bits and codes -----------------------------------------------------------------------------


def pack_bits(numbers: np.ndarray, bits: int) -> np.ndarray:
    """``numbers`` from 0 to 2**bits - 1 as bytes, ``bits`` (0 to 8) for each, highest bit first."""
    spread = np.unpackbits(numbers.astype(np.uint8)[:, None], axis=1)[:, 8 - bits :]
    return np.packbits(spread)


def unpack_bits(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The ``count`` numbers that :func:`pack_bits` was given.

    Raises:
        StorageError: ``packed`` does not have the length of ``count`` numbers.
    """
    _require(len(packed) == -(-count * bits // 8), "there are not as many bits as numbers")
    spread = np.unpackbits(packed, count=count * bits).reshape(count, bits)
    padded = np.pad(spread, ((0, 0), (8 - bits, 0)))
    return np.packbits(padded, axis=1).ravel().astype(np.int64)


def _code(symbols: np.ndarray, name: str) -> Parts:
    """``symbols`` (int32) by a range coder (Martin, 1979).

    It has to know how often each symbol occurs; 16 bits for each are precise enough.
    """
    counts = np.bincount(symbols)
    often = np.maximum(np.round(counts * (65535 / max(1, counts.max(initial=0)))), 1)
    often[counts == 0] = 0
    stream = np.zeros(0, np.uint32)
    if np.count_nonzero(counts) > 1:  # otherwise there is nothing to code
        encoder = _constriction().queue.RangeEncoder()
        encoder.encode(symbols, _model(often))
        stream = encoder.get_compressed()
    return {f"{name}, often": often.astype(np.uint16), f"{name}, coded": stream}


def _uncode(parts: Mapping[str, np.ndarray], name: str, count: int) -> np.ndarray:
    often, stream = parts[f"{name}, often"], parts[f"{name}, coded"]
    there = np.flatnonzero(often)
    _require(len(there) > 0 or count == 0, "no symbol occurs")
    if len(there) < 2:
        return np.full(count, there[0] if count else 0, np.int32)
    return _constriction().queue.RangeDecoder(stream).decode(_model(often), count)


def _model(often: np.ndarray):
    probabilities = often.astype(np.float64) / often.sum(dtype=np.float64)
    return _constriction().model.Categorical(probabilities, perfect=False)


def _constriction():
    """The entropy coders of Bamler (2022), imported when they are needed."""
    import constriction

    return constriction.stream


def _require(true: bool, otherwise: str) -> None:
    if not true:
        raise StorageError(otherwise)
