"""Quantization: of a tensor by hand, of a network by ONNX Runtime, and what it costs.

A real number ``x`` becomes the integer ``round(x / scale) + zero_point``, clipped to the range that
the bits allow (Jacob et al., 2018).
"""

import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import nn

from course_lib.deployment.runtime import (
    INPUT,
    OUTPUT,
    Deployed,
    DeployError,
    _graph,
    _kind,
    _own_errors,
    accuracy,
)
from course_lib.files import write_whole
from course_lib.networks.data import Images
from course_lib.pruning import calibration
from course_lib.pruning.layers import copied

#: How far the runtime's outputs may be from the network's, as a fraction of the largest (rounding).
TOLERANCE = 1e-4


class Quantized(NamedTuple):
    """``codes`` (int8 for signed bits, uint8 for unsigned) that stand for ``values``.

    ``scale`` and ``zero_point`` have one element, or one for each channel along ``axis``.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor
    axis: int | None

    @property
    def values(self) -> torch.Tensor:
        """The numbers that the codes stand for, float32, of the shape of the codes."""
        codes = self.codes.float()
        return (codes - _along(self.zero_point, codes, self.axis)) * _along(
            self.scale, codes, self.axis
        )


# --- by hand ------------------------------------------------------------------------------------


def symmetric(values: torch.Tensor, bits: int = 8, axis: int | None = None) -> Quantized:
    """``values`` as signed integers; the zero point is 0, and both signs reach equally far.

    That suits weights: they lie around zero, and a product with code 0 adds nothing.

    Args:
        values: of any shape, finite.
        bits: 2 to 8; with 4 the codes are -7 to 7.
        axis: None for one scale, or the axis whose channels each have a scale of their own.

    Raises:
        ValueError: invalid bits, no such axis, or values that are not finite.
    """
    _check(values, bits, axis)
    most = 2 ** (bits - 1) - 1
    reach = _over_channels(values.float().abs(), axis, torch.amax)
    scale = _no_zeros(reach / most)
    codes = torch.round(values.float() / _along(scale, values, axis)).clamp(-most, most)
    return Quantized(codes.to(torch.int8), scale, torch.zeros_like(scale), axis)


def affine(values: torch.Tensor, bits: int = 8, axis: int | None = None) -> Quantized:
    """``values`` as unsigned integers, over the range from their lowest to their highest.

    That suits activations, which may all be positive. Zero is always in the range and has an exact
    code, so that padding with zeros stays exact. Arguments, of any shape, and errors are those of
    :func:`symmetric`.
    """
    _check(values, bits, axis)
    most = 2**bits - 1
    low = _over_channels(values.float(), axis, torch.amin).clamp(max=0)
    high = _over_channels(values.float(), axis, torch.amax).clamp(min=0)
    scale = _no_zeros((high - low) / most)
    zero_point = torch.round(-low / scale)
    steps = torch.round(values.float() / _along(scale, values, axis))
    codes = (steps + _along(zero_point, values, axis)).clamp(0, most)
    return Quantized(codes.to(torch.uint8), scale, zero_point, axis)


def relative_error(values: torch.Tensor, quantized: Quantized) -> float:
    """Root mean square error of quantization, over the root mean square of ``values``.

    Raises:
        ValueError: ``values`` and the codes differ in shape.
    """
    if quantized.codes.shape != values.shape:
        raise ValueError(
            f"Codes of shape {tuple(quantized.codes.shape)} do not stand for values of shape "
            f"{tuple(values.shape)}."
        )
    changed = quantized.values.double() - values.double()
    if not changed.any():
        return 0.0
    return float(changed.square().mean().sqrt() / values.double().square().mean().sqrt())


def _check(values: torch.Tensor, bits: int, axis: int | None) -> None:
    if bits not in range(2, 9):
        raise ValueError(f"Codes have from 2 to 8 bits; got {bits}.")
    if axis is not None and axis not in range(values.dim()):
        raise ValueError(f"A tensor of shape {tuple(values.shape)} has no axis {axis}.")
    if not values.numel() or values.is_complex():
        raise ValueError(
            f"Quantization takes one real number or more; got {values.dtype} of shape "
            f"{tuple(values.shape)}."
        )
    # The range from lowest to highest is up to twice the largest magnitude.
    if not (2 * values.float()).isfinite().all():
        raise ValueError(
            "Values that are not finite in float32 have no code; find out where they come from."
        )


def _over_channels(values: torch.Tensor, axis: int | None, reduce) -> torch.Tensor:
    """The lowest or highest of all values, or of each channel along ``axis``."""
    others = [dim for dim in range(values.dim()) if dim != axis]
    return reduce(values, others) if others else values


def _along(each: torch.Tensor, values: torch.Tensor, axis: int | None) -> torch.Tensor:
    """``each`` in a shape that fits ``values``, one element for each channel."""
    if axis is None:
        return each
    return each.view([-1 if dim == axis else 1 for dim in range(values.dim())])


def _no_zeros(scale: torch.Tensor) -> torch.Tensor:
    """A channel of zeros has no range; any scale represents it."""
    return torch.where(scale > 0, scale, 1.0)


# --- in the runtime -----------------------------------------------------------------------------


def export(
    model: nn.Module, file: Path | str, example: torch.Tensor, dims: Sequence[str] = ("batch",)
) -> Path:
    """Write ``model`` as ONNX for any number of pictures, BatchNorm folded into its convolutions.

    What the runtime computes from the file is compared with what ``model`` computes in ``eval``
    mode, on ``example``, on parts of it and on random numbers. A file that differs is not kept.

    Args:
        model: on the CPU, in float32.
        example: an input, such as pictures (N, channels, height, width), at least 2 along ``dims``.
        dims: names of the first dimensions of the input, which may have any size.

    Raises:
        DeployError: torch cannot export ``model``, or the file would compute something else. A
            ``file`` that was there before is left as it was.
    """
    _check_exportable(model, example, dims)
    alone = torch.random.fork_rng([])  # the exporter draws random numbers, and marks the network
    with alone, _own_errors("The network cannot be exported"), _written(file) as made:
        difference, model = math.inf, copied(model).eval()
        for prepared in _foldings(model):
            _to_onnx(prepared, made, example, dims)
            difference = _difference(model, Deployed(made), example, len(dims))
            if difference <= TOLERANCE:
                break
        else:
            raise DeployError(
                "The network cannot be exported: the runtime's outputs differ from its own by "
                f"{difference:.2g} of the largest ({TOLERANCE:g} is rounding). Do hooks, "
                "randomness or state from earlier calls change what it computes?"
            )
    return Path(file)


def _check_exportable(model: nn.Module, example: torch.Tensor, dims: Sequence[str]) -> None:
    if not isinstance(example, torch.Tensor):
        raise DeployError(f"An exported network has one input, a tensor; got {_kind(example)}.")
    sizes = tuple(example.shape)
    if len(sizes) < len(dims) or min(sizes[: len(dims)], default=2) < 2 or 0 in sizes:
        raise DeployError(
            f"The example has the shape {sizes}: give at least 2 along each of {', '.join(dims)}."
        )
    if not example.isfinite().all():
        raise DeployError("The example holds NaN or infinite values: nothing can be compared.")
    for name, value in [("example", example), *model.named_parameters(), *model.named_buffers()]:
        if value.is_floating_point() and value.dtype != torch.float32:
            raise DeployError(f"{name} is {value.dtype}; only float32 is exported: call float().")
        if value.device.type != "cpu":
            raise DeployError(f"{name} is on {value.device}; the runtime is not: call cpu().")


def _foldings(model: nn.Module) -> Iterator[nn.Module]:
    """``model`` with BatchNorm folded into the convolutions before it; then ``model`` as it is.

    The fuser of torch.fx ignores hooks and convolutions that are called twice: it may fail, or make
    a different network.
    """
    from torch.fx.experimental.optimization import fuse

    if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.modules()):
        with suppress(Exception):  # fusing is optional, so whatever it raises is ignored
            yield fuse(model)
    yield model


def _to_onnx(model: nn.Module, file: Path, example: torch.Tensor, dims: Sequence[str]) -> None:
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    sizes = {place: torch.export.Dim(name) for place, name in enumerate(dims)}
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            model,
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=(sizes,),
            dynamo=True,
            verbose=False,
        )
        assert program is not None  # only the exporter without dynamo returns none
        # The exporter notes where each node was written: 25 kB of stack traces and local paths.
        ClearMetadataAndDocStringPass()(program.model)
        program.save(file, external_data=False)


def _difference(model: nn.Module, run: "Deployed", example: torch.Tensor, dims: int) -> float:
    """The largest difference of the runtime's outputs from ``model``'s, over the largest output."""
    with torch.no_grad():
        return max(_apart(model(x), run(x)) for x in _inputs(example, dims))


def _inputs(example: torch.Tensor, dims: int) -> Iterator[torch.Tensor]:
    """``example``, parts of it along the first ``dims`` dimensions, and random numbers."""
    for less in (0, 1, max(example.shape)):
        yield example[tuple(slice(max(1, size - less)) for size in example.shape[:dims])]
    if example.is_floating_point():  # an example of zeros would not tell weights apart
        yield torch.randn(example.shape, generator=torch.Generator().manual_seed(0))


def _apart(expected: object, found: torch.Tensor) -> float:
    if not isinstance(expected, torch.Tensor):
        raise DeployError(f"An exported network returns one tensor; this one, {_kind(expected)}.")
    expected, found = expected.double(), found.double()
    if expected.shape != found.shape or not torch.equal(expected.isnan(), found.isnan()):
        return math.inf
    largest = expected.nan_to_num().abs().max().clamp_min(1e-30)
    return float((expected - found).nan_to_num().abs().max() / largest)


def int8(
    source: Path | str,
    file: Path | str,
    pictures: torch.Tensor | Iterable[torch.Tensor],
    *,
    leave: Iterable[str] = (),
    nodes_to_quantize: Iterable[str] | None = None,
    **how,
) -> Path:
    """Quantize the network in ``source``: int8 weights per channel, uint8 activations, QDQ.

    The ranges of the activations are calibrated on ``pictures``, which should be real ones, from
    the training or the validation set. A grouped transposed convolution stays float32, because the
    quantizer would give it wrong scales.

    Args:
        pictures: (N, channels, height, width); a few hundred are enough. Or batches of any inputs,
            or of pairs (inputs, labels).
        leave: names of nodes (:func:`layers`) that stay float32.
        nodes_to_quantize: names of the only nodes to quantize; None for all.
        how: further arguments of ``onnxruntime.quantization.quantize_static``.

    Raises:
        DeployError: ``source`` was not made by :func:`export`, the pictures do not suit it, or
            there is no such node. A ``file`` that was there before is left as it was.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    whole, leave, only = Deployed(source), list(leave), list(nodes_to_quantize or ())
    _check_names(source, [*leave, *only])
    problem = f"{source} cannot be quantized"
    with TemporaryDirectory() as folder, _quiet(), _own_errors(problem), _written(file) as made:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(Path(source), prepared)
        quantize_static(
            prepared,
            made,
            _reader(pictures, whole),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            nodes_to_exclude=[*leave, *_in_groups(prepared)],
            nodes_to_quantize=only,
            **how,
        )
        Deployed(made)
    return Path(file)


def _check_names(source: Path | str, names: list[str]) -> None:
    known = {node.name for node in _graph(source).node}
    for name in names:
        if name not in known:
            raise DeployError(
                f"{source} has no node {name!r}. Those that hold weights: "
                f"{', '.join(layers(source))}."
            )


def _in_groups(file: Path) -> list[str]:
    """The names of the grouped transposed convolutions."""
    return [
        node.name
        for node in _graph(file).node
        if node.op_type == "ConvTranspose"
        and any(one.name == "group" and one.i > 1 for one in node.attribute)
    ]


def dynamic_int8(source: Path | str, file: Path | str) -> Path:
    """Quantize the matrix products in ``source`` dynamically, without calibration.

    Weights are int8 with a scale per channel, tables of embeddings int8 with one scale. Before each
    product, activations become uint8 over the range that they have at that moment; its result is
    float32. That costs time, but suits transformers, whose activations have outliers.

    Raises:
        DeployError: ``source`` was not made by :func:`export`, or cannot be quantized. A ``file``
            that was there before is left as it was.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    Deployed(source)
    problem = f"{source} cannot be quantized"
    with TemporaryDirectory() as folder, _quiet(), _own_errors(problem), _written(file) as made:
        prepared = Path(folder) / "prepared.onnx"
        plain = _without_shapes(source, Path(folder) / "plain.onnx")
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantize_dynamic(prepared, made, per_channel=True, weight_type=QuantType.QInt8)
        Deployed(made)
    return Path(file)


@contextmanager
def _written(file: Path | str) -> Iterator[Path]:
    """A path to write to, which becomes ``file`` at the end unless an exception is raised."""
    with TemporaryDirectory() as folder:
        made = Path(folder) / "made.onnx"
        yield made
        write_whole(Path(file), made.read_bytes())


def _without_shapes(source: Path | str, file: Path) -> Path:
    """Write the network in ``source`` to ``file``, without the shapes of intermediate tensors.

    torch's exporter optimizes the graph but leaves outdated shapes in it, for which the quantizer
    would refuse the network.
    """
    import onnx

    network = onnx.load(source)
    del network.graph.value_info[:]
    onnx.save(network, file)
    return file


def layers(file: Path | str) -> list[str]:
    """The names of the nodes that hold weights: convolutions and matrix products.

    Raises:
        DeployError: ``file`` is missing or damaged.
    """
    return [node.name for node in _graph(file).node if node.op_type in ("Conv", "Gemm", "MatMul")]


def sensitivity(
    source: Path, pictures: torch.Tensor, data: Images, names: Iterable[str]
) -> Iterator[tuple[str, float]]:
    """For each layer, the accuracy on ``data`` with this layer alone in int8.

    Args:
        source: the network in float32.
        pictures: what the activations are calibrated with, (N, 1, 28, 28).
        data: validation pictures.
        names: layers to look at, from :func:`layers`.
    """
    with TemporaryDirectory() as folder:
        for name in names:
            alone = int8(source, Path(folder) / "alone.onnx", pictures, nodes_to_quantize=[name])
            yield name, accuracy(alone, data)


def _reader(pictures: torch.Tensor | Iterable[torch.Tensor], network: Deployed):
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        """Hands out the pictures in batches."""

        def __init__(self):
            parts = pictures.split(100) if isinstance(pictures, torch.Tensor) else pictures
            self._fed = map(network.fed, calibration.batches(parts))

        def get_next(self) -> dict | None:
            return next(self._fed, None)

    return Reader()


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporters' messages that are not about this network."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
