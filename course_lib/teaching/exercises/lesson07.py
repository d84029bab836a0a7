"""The exercises of lesson 07: scales, zero points, bytes, the entropy bound, a file header."""

import math
import struct

import torch

from course_lib.teaching.exercises.engine import Exercise, Mistake

# --- 07.1 ---------------------------------------------------------------------------------------


def quantize(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Symmetric fake quantization: ``values`` rounded to multiples of the scale."""
    most = 2 ** (bits - 1) - 1
    reach = values.abs().max()
    if reach == 0:
        return values.clone()
    scale = reach / most
    return torch.round(values / scale) * scale


def _values_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.tensor([0.4, 1.0, -0.7]), 2),
        (torch.tensor([0.3, -2.0, 1.1]), 3),
        (torch.tensor([-0.11, -0.52, -0.93]), 4),
        (torch.zeros(3), 4),
        (torch.tensor([0.37]), 8),
        (torch.randn(4, 5, generator=generator), 4),
        (torch.randn(30, generator=generator), 8),
    ]


def _stepped(values: torch.Tensor, reach: torch.Tensor, most: int, to=torch.round) -> torch.Tensor:
    """``values`` in steps of ``reach / most``; zeros stay zeros."""
    return to(values * (most / reach)) * (reach / most) if reach != 0 else values.clone()


QUANTIZE = Exercise(
    id="07.1",
    title="symmetric codes",
    difficulty=2,
    minutes=8,
    reference=quantize,
    cases=_values_cases,
    hints=(
        "With 4 bits the codes are -7 to 7: the largest is 2 ** (bits - 1) - 1.",
        "The scale is the largest absolute value over the largest code.",
        "Divide by the scale, round, multiply by it again. All zeros have scale 0: return them.",
    ),
    mistakes=(
        Mistake(
            lambda values, bits: _stepped(values, values.abs().max(), 2**bits - 1),
            "You have twice as many codes as the bits can hold: one bit is for the sign.",
        ),
        Mistake(
            lambda values, bits: _stepped(values, values.abs().max(), 2 ** (bits - 1)),
            "The largest code of 4 bits is 7, not 8: there is a zero among the codes, too.",
        ),
        Mistake(
            lambda values, bits: _stepped(values, values.max(), 2 ** (bits - 1) - 1),
            "The reach is the largest *absolute* value. Negative weights may reach further.",
        ),
        Mistake(
            lambda values, bits: _stepped(
                values, values.abs().max(), 2 ** (bits - 1) - 1, torch.trunc
            ),
            "You truncated. Rounding to the nearest code halves the largest error.",
        ),
        Mistake(
            lambda values, bits: (
                torch.round(values / values.abs().max() * (2 ** (bits - 1) - 1))
                if values.any()
                else values.clone()
            ),
            "Those are the codes. Return the numbers that they stand for: codes times scale.",
        ),
        Mistake(
            lambda values, bits: (
                torch.round(values / (values.abs().max() / (2 ** (bits - 1) - 1)))
                * (values.abs().max() / (2 ** (bits - 1) - 1))
            ),
            "If all values are zero, so is the scale, and you divided by it. Return them as they "
            "are.",
        ),
    ),
)


# --- 07.2 ---------------------------------------------------------------------------------------


def channel_scales(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """For each output, the largest absolute weight over the largest code, (out,)."""
    reach = weight.abs().flatten(1).amax(1)
    return torch.where(reach > 0, reach / (2 ** (bits - 1) - 1), 1.0)


def _scales_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(1)
    random = torch.randn(3, 2, 3, 3, generator=generator)
    random[1] = 0
    return [
        (torch.tensor([[1.0, -2.0], [0.5, 0.25]]), 2),
        (torch.tensor([[1.0, -3.0, 0.5]]), 3),
        (torch.tensor([[1.0, 2.0], [0.0, 0.0], [-4.0, 1.0]]), 4),
        (torch.randn(2, 2, 1, 1, generator=generator), 8),
        (random, 8),
        (torch.randn(5, 1, 3, 3, generator=generator), 4),
    ]


def _scales(reach: torch.Tensor, most: int) -> torch.Tensor:
    return torch.where(reach > 0, reach / most, 1.0)


CHANNEL_SCALES = Exercise(
    id="07.2",
    title="a scale for every channel",
    difficulty=2,
    minutes=8,
    reference=channel_scales,
    cases=_scales_cases,
    hints=(
        "Output channel i is weight[i]: all inputs and all positions of the kernel.",
        "`weight.flatten(1)` has a row for each output, whatever the kernel.",
        "A channel of zeros would have scale 0. `torch.where` can make it 1.",
    ),
    mistakes=(
        Mistake(
            lambda weight, bits: _scales(weight.abs().max(), 2 ** (bits - 1) - 1),
            "That is one scale for all. Each output channel has its own.",
        ),
        Mistake(
            lambda weight, bits: _scales(
                weight.abs().transpose(0, 1).flatten(1).amax(1), 2 ** (bits - 1) - 1
            ),
            "You took the channels that the layer reads. A scale per *output* can be multiplied "
            "back in after the sum; one per input cannot.",
        ),
        Mistake(
            lambda weight, bits: _scales(weight.abs().amax(1), 2 ** (bits - 1) - 1),
            "You return a scale for each position of the kernel. Take the largest over all of "
            "them.",
        ),
        Mistake(
            lambda weight, bits: _scales(weight.flatten(1).amax(1), 2 ** (bits - 1) - 1),
            "The largest *absolute* weight counts: a channel may reach further below zero.",
        ),
        Mistake(
            lambda weight, bits: weight.abs().flatten(1).amax(1) / (2 ** (bits - 1) - 1),
            "A channel of zeros has the scale 0, and its codes would divide by it: make it 1.",
        ),
        Mistake(
            lambda weight, bits: _scales(weight.abs().flatten(1).mean(1), 2 ** (bits - 1) - 1),
            "With the mean in place of the maximum, every larger weight is clipped. Take the "
            "largest.",
        ),
        Mistake(
            lambda weight, bits: _scales(weight.abs().flatten(1).amax(1), 2**bits - 1),
            "One bit is for the sign: the largest code is 2 ** (bits - 1) - 1.",
        ),
    ),
)


# --- 07.3 ---------------------------------------------------------------------------------------


def affine_range(low: float, high: float, bits: int) -> tuple[float, int]:
    """Scale and zero point of a range, after widening it to contain zero."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (2**bits - 1)
    return scale, round(-low / scale)


def _range_cases() -> list[tuple]:
    return [
        (0.0, 3.0, 2),
        (-1.0, 2.0, 2),
        (-1.0, 3.1, 8),
        (2.0, 6.0, 4),
        (-5.0, -1.0, 8),
        (-0.3, 7.7, 8),
    ]


AFFINE_RANGE = Exercise(
    id="07.3",
    title="scale and zero point",
    difficulty=3,
    minutes=8,
    reference=affine_range,
    cases=_range_cases,
    hints=(
        "First widen the range until it contains zero: low is at most 0, high at least 0.",
        "There are 2 ** bits codes, so 2 ** bits - 1 steps between the first and the last.",
        "Code 0 stands for low. How many steps above it is zero? That number, rounded, is its "
        "code.",
    ),
    mistakes=(
        Mistake(
            lambda low, high, bits: (
                (high - low) / (2**bits - 1),
                round(-low / ((high - low) / (2**bits - 1))),
            ),
            "Zero must be in the range, even if it was never seen: a convolution pads with it.",
        ),
        Mistake(
            lambda low, high, bits: (
                (max(high, 0.0) - min(low, 0.0)) / 2**bits,
                round(-min(low, 0.0) / ((max(high, 0.0) - min(low, 0.0)) / 2**bits)),
            ),
            "2 ** bits codes have only 2 ** bits - 1 steps between them.",
        ),
        Mistake(
            lambda low, high, bits: (affine_range(low, high, bits)[0], 0),
            "Code 0 stands for low. Zero has this code only if low is zero.",
        ),
        Mistake(
            lambda low, high, bits: (
                affine_range(low, high, bits)[0],
                -affine_range(low, high, bits)[1],
            ),
            "Your zero point is negative, but codes begin at 0: zero is *above* low.",
        ),
        Mistake(
            lambda low, high, bits: (
                affine_range(low, high, bits)[0],
                -min(low, 0.0) / affine_range(low, high, bits)[0],
            ),
            "A zero point is a code: round it to a whole number, so that zero is exact.",
        ),
        Mistake(
            lambda low, high, bits: (max(abs(low), abs(high)) / (2 ** (bits - 1) - 1), 0),
            "Those are symmetric codes. Here half of them would stand for numbers that never "
            "occur.",
        ),
    ),
)


# --- 07.4 ---------------------------------------------------------------------------------------


def bytes_needed(count: int, kept: int, bits: int, index: int) -> dict[str, float]:
    """Dense stores all values, a bitmask one bit per weight, indices one index per kept weight."""
    return {
        "dense": count * bits / 8,
        "bitmask": (count + kept * bits) / 8,
        "indices": kept * (index + bits) / 8,
    }


def _bytes_cases() -> list[tuple]:
    return [
        (8, 4, 8, 8),
        (1000, 100, 32, 16),
        (1000, 100, 4, 16),
        (1000, 5, 4, 16),
        (1000, 1000, 8, 8),
        (64, 0, 8, 5),
    ]


def _needed(dense: float, bitmask: float, indices: float) -> dict[str, float]:
    return {"dense": dense, "bitmask": bitmask, "indices": indices}


BYTES_NEEDED = Exercise(
    id="07.4",
    title="bytes of three formats",
    difficulty=2,
    minutes=7,
    reference=bytes_needed,
    cases=_bytes_cases,
    hints=(
        "Count in bits first, and divide by 8 at the end.",
        "The bitmask has a bit for *every* weight, kept or not.",
        "An index is stored for each kept weight, with its value.",
    ),
    mistakes=(
        Mistake(
            lambda count, kept, bits, index: {
                name: 8 * value for name, value in bytes_needed(count, kept, bits, index).items()
            },
            "Those are bits. A byte has eight of them.",
        ),
        Mistake(
            lambda count, kept, bits, index: _needed(
                kept * bits / 8, (count + kept * bits) / 8, kept * (index + bits) / 8
            ),
            "Dense stores the zeros as well: all `count` values.",
        ),
        Mistake(
            lambda count, kept, bits, index: _needed(
                count * bits / 8, kept * bits / 8, kept * (index + bits) / 8
            ),
            "Values alone do not say where they belong: add the mask, one bit for each weight.",
        ),
        Mistake(
            lambda count, kept, bits, index: _needed(
                count * bits / 8, (count + kept * bits) / 8, kept * bits / 8
            ),
            "Values alone do not say where they belong: add an index to each of them.",
        ),
        Mistake(
            lambda count, kept, bits, index: _needed(
                count * bits / 8, count + kept * bits / 8, kept * (index + bits) / 8
            ),
            "You gave the mask a byte for each weight. One *bit* says kept or not.",
        ),
        Mistake(
            lambda count, kept, bits, index: _needed(
                count * bits / 8, (kept + kept * bits) / 8, kept * (index + bits) / 8
            ),
            "The mask covers every weight, including those that were removed.",
        ),
        Mistake(
            lambda count, kept, bits, index: _needed(
                count * bits / 8, (count + kept * bits) / 8, kept * index / 8
            ),
            "You stored where the weights are, but not what they are.",
        ),
    ),
)


# --- 07.5 ---------------------------------------------------------------------------------------


def entropy_bytes(counts: list[int]) -> float:
    """A symbol that makes up a share p of all needs log2(1 / p) bits, each time that it occurs."""
    total = sum(counts)
    return sum(count * math.log2(total / count) for count in counts if count) / 8


def _entropy_cases() -> list[tuple]:
    return [
        ([1, 1],),
        ([4, 4, 8],),
        ([90, 10],),
        ([7],),
        ([5, 0, 3],),
        ([1, 2, 3, 4, 100],),
        ([3] * 16,),
    ]


ENTROPY_BYTES = Exercise(
    id="07.5",
    title="the entropy bound",
    difficulty=3,
    minutes=8,
    reference=entropy_bytes,
    cases=_entropy_cases,
    hints=(
        "A symbol with share p = count / total needs log2(1 / p) bits. Frequent ones need few.",
        "It needs them each time it occurs: multiply by its count. Add up, then convert to bytes.",
        "A symbol that never occurs needs nothing; skip it, or you divide by zero.",
    ),
    mistakes=(
        Mistake(
            lambda counts: sum(c * math.log(sum(counts) / c) for c in counts if c) / 8,
            "You took the natural logarithm. Bits are logarithms of base 2.",
        ),
        Mistake(
            lambda counts: (
                sum(c / sum(counts) * math.log2(sum(counts) / c) for c in counts if c) / 8
            ),
            "That is the average for one symbol. All of them have to be stored.",
        ),
        Mistake(
            lambda counts: 8 * entropy_bytes(counts),
            "Those are bits. Return bytes.",
        ),
        Mistake(
            lambda counts: sum(c * math.log2(sum(counts) / c) for c in counts) / 8,
            "A count of zero divides by zero. A symbol that never occurs needs no bits: skip it.",
        ),
        Mistake(
            lambda counts: sum(counts) * math.log2(len(counts)) / 8,
            "That is a code of fixed length. Frequent symbols can have shorter codes.",
        ),
        Mistake(
            lambda counts: -entropy_bytes(counts),
            "Your result is negative: log2 of a share is below zero. Invert the share, or the "
            "sign.",
        ),
        Mistake(
            lambda counts: sum(math.log2(sum(counts) / c) for c in counts if c) / 8,
            "You counted every symbol once. Each needs its bits as often as it occurs.",
        ),
    ),
)


# --- 07.6 ---------------------------------------------------------------------------------------

SIGNATURE = b"\x89PRUNED\n"


def read_start(data: bytes) -> tuple[int, int, int] | None:
    """Numbers at fixed offsets, returned only if they agree with the length of the file."""
    if len(data) < 64 or data[:8] != SIGNATURE:
        return None
    version, header = struct.unpack_from("<II", data, 8)
    (parts,) = struct.unpack_from("<Q", data, 20)
    return (version, header, parts) if len(data) == 64 + header + parts else None


def _file(version: int, header: int, parts: int, there: int, signature: bytes = SIGNATURE) -> bytes:
    """A file that claims ``header`` and ``parts`` bytes after its start, and has ``there``."""
    start = struct.pack("<8sIIIQI", signature, version, header, 9 * header, parts, 0)
    return start + bytes(32) + bytes(there)


def _start_cases() -> list[tuple]:
    return [
        (_file(1, 3, 2, 5),),
        (_file(2, 300, 0, 300),),
        (_file(1, 3, 2, 5, b"\x89PNG...\n"),),
        (_file(1, 3, 2, 5)[:20],),
        (_file(1, 3, 2, 4),),
        (_file(1, 3, (1 << 40) + 2, 5),),
        (_file(1, 0, 0, 0),),
        (b"",),
    ]


def _unchecked(data: bytes, order: str = "<", kind: str = "Q", at: int = 8) -> tuple:
    version, header = struct.unpack_from(f"{order}II", data, at)
    return (version, header, *struct.unpack_from(f"{order}{kind}", data, at + 12))


def _if_whole(data: bytes, found: tuple[int, int, int]) -> tuple[int, int, int] | None:
    return found if len(data) == 64 + found[1] + found[2] else None


def _is_ours(data: bytes) -> bool:
    return len(data) >= 64 and data[:8] == SIGNATURE


READ_START = Exercise(
    id="07.6",
    title="read a header, trust nothing",
    difficulty=3,
    minutes=10,
    reference=read_start,
    cases=_start_cases,
    hints=(
        'struct.unpack_from("<I", data, 8) reads the four bytes from offset 8, little-endian.',
        'Eight bytes are "<Q". They begin at offset 20.',
        "Before you return, compare: 64 + header + parts must be exactly len(data).",
    ),
    mistakes=(
        Mistake(
            lambda data: _unchecked(data) if _is_ours(data) else None,
            "You trusted the numbers in the file. A reader that allocates a terabyte because a "
            "file says so is a security hole: compare them with the length of the file.",
        ),
        Mistake(
            lambda data: _if_whole(data, _unchecked(data, ">")) if _is_ours(data) else None,
            'The numbers are little-endian, lowest byte first: "<", not ">".',
        ),
        Mistake(
            lambda data: _if_whole(data, _unchecked(data)) if len(data) >= 64 else None,
            "You did not check the signature: the file could be a picture.",
        ),
        Mistake(
            lambda data: _if_whole(data, _unchecked(data)) if data[:8] == SIGNATURE else None,
            "A file may end before its numbers do. Return None if it is shorter than 64 bytes.",
        ),
        Mistake(
            lambda data: _if_whole(data, _unchecked(data, "<", "I")) if _is_ours(data) else None,
            'You read four bytes for the parts. They have eight, "<Q": the upper four count, too.',
        ),
        Mistake(
            lambda data: _unchecked(data, at=0) if _is_ours(data) else None,
            "You started to read at offset 0. The first eight bytes are the signature.",
        ),
        Mistake(
            lambda data: (
                _unchecked(data)
                if _is_ours(data) and len(data) >= sum(_unchecked(data)[1:])
                else None
            ),
            "The first 64 bytes count as well, and nothing may follow the parts.",
        ),
    ),
)

EXERCISES = [QUANTIZE, CHANNEL_SCALES, AFFINE_RANGE, BYTES_NEEDED, ENTROPY_BYTES, READ_START]
