"""When is a sparse product faster? Every format, by sparsity, size, batch and dtype.

Lesson 05 shows the recording of this experiment and repeats some of its measurements.
"""

from functools import partial
from typing import NamedTuple

import torch

from course_lib.bars import bar
from course_lib.deployment import sparse
from course_lib.deployment.sparse import StoredMatrix
from course_lib.experiments.recorder import Recording
from course_lib.measuring.cost import roofline
from course_lib.measuring.timing import Comparison, as_recorded, compare, round_significant
from course_lib.networks.models import load_trained

SPARSITIES = (0.50, 0.70, 0.80, 0.90, 0.95, 0.98, 0.99, 0.995)

#: Rows and columns of the square matrices, by device.
SIZES = {"cpu": (1024, 512, 2048), "cuda": (4096, 2048, 8192, 1024, 512)}

#: Numbers of columns of the inputs; with 1 it is a matrix-vector product.
BATCHES = (1, 8, 64, 512, 4096)

#: The first dtype is measured with every matrix, the others with square matrices: on a CPU, which
#: has hardly any sparse products for them, with the first of these only.
DTYPES = {"cpu": ("float32", "bfloat16", "float16"), "cuda": ("float16", "float32", "bfloat16")}

#: Convolutions of ResNet-18, and the number of output positions for one picture. As a matrix
#: product, the weight (channels out, channels in x 9) is multiplied by one column per position.
CONVOLUTIONS = {
    "layer1.0.conv1": 196,
    "layer2.1.conv1": 49,
    "layer3.1.conv1": 16,
    "layer4.1.conv1": 4,
}

#: Linear layers of MiniLM-L6, (rows, columns). A sentence has one column per token.
LINEAR = {"attention": (384, 384), "neurons": (1536, 384), "output": (384, 1536)}
TOKENS = 32

#: Target duration of a comparison of all formats, in seconds, by device.
SECONDS = {"cpu": 1.0, "cuda": 0.1}

#: Its time limit in seconds; products that do not fit are recorded as too slow.
LIMIT = 120.0


class Case(NamedTuple):
    """A matrix at one sparsity, multiplied by inputs of each of the ``batches``.

    Args:
        matrix: "square N", or "ResNet-18" or "MiniLM" and the name of a layer.
        dtype: the name of a torch dtype, such as "float32".
        sparsity: fraction of the weights to set to zero.
        batches: numbers of columns of the inputs.
    """

    matrix: str
    dtype: str
    sparsity: float
    batches: tuple[int, ...]


def plan(device: str) -> list[Case]:
    """All cases, ordered so that an interrupted recording is already useful."""
    first, *others = DTYPES[device]
    squares = [f"square {size}" for size in SIZES[device]]
    layers = [f"ResNet-18 {name}" for name in CONVOLUTIONS] + [f"MiniLM {name}" for name in LINEAR]
    more = squares if device == "cuda" else squares[:1]
    together = [(matrix, first) for matrix in squares + layers]
    together += [(matrix, dtype) for dtype in others for matrix in more]
    return [
        Case(matrix, dtype, sparsity, _batches(matrix))
        for matrix, dtype in together
        for sparsity in SPARSITIES
    ]


def _batches(matrix: str) -> tuple[int, ...]:
    kind, name = matrix.split()
    if kind == "ResNet-18":
        return tuple(CONVOLUTIONS[name] * pictures for pictures in (1, 64))
    return tuple(TOKENS * sentences for sentences in (1, 32)) if kind == "MiniLM" else BATCHES


def weight_of(matrix: str, dtype: str, device: str, seed: int = 0) -> torch.Tensor:
    """The dense weight (rows, columns): trained for ResNet-18, random for the others.

    The time of a product depends on the positions of the zeros, not on the remaining values.
    """
    kind, name = matrix.split()
    if kind == "ResNet-18":
        weight = load_trained("resnet18").get_parameter(f"{name}.weight").detach().flatten(1)
    else:
        shape = LINEAR[name] if kind == "MiniLM" else (int(name), int(name))
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return weight.to(device, getattr(torch, dtype))


def inputs_of(weight: torch.Tensor, batch: int, seed: int = 1) -> torch.Tensor:
    """Random inputs (in, batch) for a ``weight`` (out, in)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(weight.shape[1], batch, generator=generator).to(weight)


# --- the recording ------------------------------------------------------------------------------


def header(model: None, device: str) -> dict:
    """The header fields of this experiment's recording."""
    return {"device": device, "seed": 0}


def run(recording: Recording) -> None:
    """Measure what the recording lacks: the rooflines of the machine, and the cases."""
    device = recording["device"]

    def measured(case: Case) -> dict[str, list[dict]]:
        lacking = [one["batch"] for one in _expected(case) if not recording.has("points", **one)]
        return _measured(case._replace(batches=tuple(lacking)), device)

    recording.once(lambda: _ceilings(device), "rooflines", "zeros")
    recording.each(plan(device), measured, expected=_expected, text="matrices")


def _expected(case: Case) -> list[dict]:
    product = {"matrix": case.matrix, "dtype": case.dtype, "target_sparsity": case.sparsity}
    return [product | {"batch": batch} for batch in case.batches]


def _ceilings(device: str) -> dict:
    """The roofline for each dtype, and a product of zeros compared with one of random numbers."""
    rooflines, zeros = [], []
    for name in bar(DTYPES[device], "ceilings"):
        dtype = getattr(torch, name)
        found = roofline(device, dtype)
        rooflines.append({"dtype": name} | found._asdict())
        size = min(SIZES[device][0], found.size)
        result = against_zeros(size, device, dtype)
        ratio = result.speedup("zeros", over="random")
        entry = {"dtype": name, "size": size} | as_recorded(result.timings["zeros"], ratio)
        zeros.append(entry)
    return {"rooflines": rooflines, "zeros": zeros}


def against_zeros(size: int, device: str, dtype: torch.dtype) -> Comparison:
    """Times of the same dense product of two square matrices: of random numbers and of zeros.

    A GPU may be faster on zeros: bits that do not flip use no power, and power limits its clock
    (He, 2024, "Strangely, matrix multiplications on GPUs run faster when given predictable data").

    Args:
        size: rows and columns of the matrices.
    """
    random = torch.randn(size, size).to(device, dtype)
    nothing = torch.zeros_like(random)
    products = {
        "random": partial(torch.mm, random, random),
        "zeros": partial(torch.mm, nothing, nothing),
    }
    return compare(products, rounds=20, zeros=True)


def _measured(case: Case, device: str) -> dict[str, list[dict]]:
    """The timed products of a case, and the formats that could not be timed."""
    weight = weight_of(case.matrix, case.dtype, device)
    held = sparse.to_formats(weight, case.sparsity)
    points, refused = [], []
    for fields in _expected(case):
        inputs = inputs_of(weight, fields["batch"])
        rows = sparse.measure(held, inputs, seconds=SECONDS[device], limit=LIMIT)
        product = {"rows": weight.shape[0], "columns": weight.shape[1]} | fields
        for name, row in rows.items():
            if row.timing and row.speedup and row.error is not None:
                entry = product | {"format": name} | _about(held[name], row.error)
                points.append(entry | as_recorded(row.timing, row.speedup))
            if row.why:
                refused.append(product | {"format": name, "why": row.why})
    return {"points": points, "refused": refused}


def _about(held: StoredMatrix, error: float) -> dict:
    return {
        "sparsity": round(held.sparsity, 4),
        "bytes": held.bytes,
        "convert": round_significant(held.convert_ms),
        "error": round_significant(error),
    }
