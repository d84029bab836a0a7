"""Quantization: by hand for a tensor, by ONNX Runtime for a network, and what that makes of it.

A number ``x`` becomes the whole number ``round(x / scale) + zero_point``, cut to what the bits can
hold (Jacob et al., 2018).
"""

import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import nn

from course_lib.data import Images

#: The names of the input and the output of an exported network.
INPUT, OUTPUT = "input", "logits"

#: Operators that only turn numbers from int8 into float32, or back; and the beginnings of the names
#: of those that compute in int8.
BETWEEN = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
IN_INT8 = ("QLinear", "QGemm", "QMatMul", "MatMulInteger", "DynamicQuantizeMatMul")


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
        """The numbers that the codes stand for, float32."""
        codes = self.codes.float()
        return (codes - _along(self.zero_point, codes, self.axis)) * _along(
            self.scale, codes, self.axis
        )


# --- by hand ------------------------------------------------------------------------------------


def symmetric(values: torch.Tensor, bits: int = 8, axis: int | None = None) -> Quantized:
    """``values`` as signed whole numbers; zero is 0, and both signs reach equally far.

    That suits weights: they lie around zero, and a product with code 0 adds nothing.

    Args:
        values: of any shape, finite.
        bits: 2 to 8; with 4 the codes are -7 to 7.
        axis: None for one scale, or the axis of which every channel has a scale of its own.

    Raises:
        ValueError: impossible bits, no such axis, or values that are not finite.
    """
    _check(values, bits, axis)
    most = 2 ** (bits - 1) - 1
    reach = _over_channels(values.float().abs(), axis, torch.amax)
    scale = _no_zeros(reach / most)
    codes = torch.round(values.float() / _along(scale, values, axis)).clamp(-most, most)
    return Quantized(codes.to(torch.int8), scale, torch.zeros_like(scale), axis)


def affine(values: torch.Tensor, bits: int = 8, axis: int | None = None) -> Quantized:
    """``values`` as whole numbers from 0, over the range from their lowest to their highest.

    That suits activations, which may all be positive. Zero is always in the range and has a code
    of its own, so that padding with zeros stays exact. Arguments and errors: :func:`symmetric`.
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
    """Root mean square of what quantizing changed, over that of ``values``: 0 is exact."""
    changed = quantized.values.double() - values.double()
    return float(changed.square().mean().sqrt() / values.double().square().mean().sqrt())


def _check(values: torch.Tensor, bits: int, axis: int | None) -> None:
    if not 2 <= bits <= 8:
        raise ValueError(f"Codes have from 2 to 8 bits; got {bits}.")
    if axis is not None and not 0 <= axis < values.dim():
        raise ValueError(f"A tensor of shape {tuple(values.shape)} has no axis {axis}.")
    if not values.isfinite().all():
        raise ValueError("Values that are not finite have no code; look where they come from.")


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
    """A channel of zeros has no reach; any scale gives it back."""
    return torch.where(scale > 0, scale, 1.0)


# --- in the runtime -----------------------------------------------------------------------------


def export(
    model: nn.Module, file: Path, example: torch.Tensor, dims: Sequence[str] = ("batch",)
) -> Path:
    """Write ``model`` as ONNX for any number of pictures, BatchNorm folded into its convolutions.

    Args:
        model: on the CPU, in ``eval`` mode. Where it has BatchNorm, torch.fx must understand it.
        example: an input, such as pictures (N, channels, height, width), at least 2 along ``dims``.
        dims: names of the first dimensions of the input, those that may have any size.
    """
    sizes = {place: torch.export.Dim(name) for place, name in enumerate(dims)}
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            _folded(model),
            (example,),
            file,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=(sizes,),
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    return file


def _folded(model: nn.Module) -> nn.Module:
    """``model`` with BatchNorm folded into the convolutions before it."""
    from torch.fx.experimental.optimization import fuse

    has_any = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.modules())
    return fuse(model) if has_any else model


def int8(
    source: Path,
    file: Path,
    pictures: torch.Tensor | Iterable[torch.Tensor],
    *,
    leave: Iterable[str] = (),
    **how,
) -> Path:
    """Quantize the network in ``source``: int8 weights per channel, uint8 activations, QDQ.

    The range of every activation is seen on ``pictures``: real ones, from the training or the
    validation set.

    Args:
        pictures: (N, channels, height, width); a few hundred are enough. Or batches of any inputs.
        leave: names of nodes (:func:`layers`) that stay float32.
        how: further arguments of ``onnxruntime.quantization.quantize_static``.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with TemporaryDirectory() as folder, _quiet():
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(source, prepared)
        quantize_static(
            prepared,
            file,
            _reader(pictures),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            nodes_to_exclude=list(leave),
            **how,
        )
    return file


def dynamic_int8(source: Path, file: Path) -> Path:
    """Quantize the products of matrices in ``source`` without any calibration.

    Weights are int8 with a scale per channel, tables of embeddings int8 with one scale. Activations
    become uint8 on the way into a product, over the range that they have right then, and float32
    behind it. That costs time, but suits transformers, whose activations have outliers.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with TemporaryDirectory() as folder, _quiet():
        prepared = Path(folder) / "prepared.onnx"
        plain = _without_shapes(source, Path(folder) / "plain.onnx")
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantize_dynamic(prepared, file, per_channel=True, weight_type=QuantType.QInt8)
    return file


def _without_shapes(source: Path, file: Path) -> Path:
    """Write to ``file`` the network in ``source``, less what it says of shapes between its nodes.

    torch's exporter optimizes the graph and leaves shapes of what was there before; the quantizer
    would refuse the network for them.
    """
    import onnx

    network = onnx.load(source)
    del network.graph.value_info[:]
    onnx.save(network, file)
    return file


def layers(file: Path) -> list[str]:
    """The names of the nodes that hold weights: convolutions and products of matrices."""
    import onnx

    graph = onnx.load(file, load_external_data=False).graph
    return [node.name for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]


class Deployed:
    """A network in a file, run by ONNX Runtime: called with inputs, it returns logits."""

    def __init__(self, file: Path, threads: int = 1, optimized: Path | None = None):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Threads that still wait in a loop would take the processor from a network timed next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if optimized is not None:
            options.optimized_model_filepath = str(optimized)
        self._session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of N ``pictures``, or whatever else the network was exported for."""
        (logits,) = self._session.run([OUTPUT], {INPUT: pictures.numpy()})
        return torch.from_numpy(logits)


def accuracy(file: Path, data: Images, threads: int = 2, batch_size: int = 500) -> float:
    """Percent of ``data`` that the network in ``file`` gets right, in the runtime."""
    run, right = Deployed(file, threads), 0
    parts = zip(data.images.split(batch_size), data.labels.split(batch_size), strict=True)
    for pictures, labels in parts:
        right += int((run(pictures).argmax(1) == labels).sum())
    return 100 * right / len(data.labels)


def operators(file: Path) -> dict[str, Counter]:
    """How often each operator runs in "int8" and in "float32", once the runtime has optimized.

    What only turns numbers from the one into the other is listed apart, as "between".
    """
    import onnx

    with TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        Deployed(file, optimized=optimized)
        graph = onnx.load(optimized).graph
    found = {"int8": Counter(), "float32": Counter(), "between": Counter()}
    for node in graph.node:
        found[_runs_in(node.op_type)][node.op_type] += 1
    return found


def _runs_in(operator: str) -> str:
    if operator in BETWEEN:
        return "between"
    return "int8" if operator.startswith(IN_INT8) else "float32"


def sensitivity(
    source: Path, pictures: torch.Tensor, data: Images, names: Iterable[str]
) -> Iterator[tuple[str, float]]:
    """For each layer, the accuracy on ``data`` with this layer alone in int8.

    Args:
        source: the network in float32.
        pictures: what the activations are calibrated with.
        data: validation pictures.
        names: layers to look at, from :func:`layers`.
    """
    with TemporaryDirectory() as folder:
        for name in names:
            alone = int8(source, Path(folder) / "alone.onnx", pictures, nodes_to_quantize=[name])
            yield name, accuracy(alone, data)


def _reader(pictures: torch.Tensor | Iterable[torch.Tensor]):
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        """Hands out the pictures in batches."""

        def __init__(self):
            batches = pictures.split(100) if isinstance(pictures, torch.Tensor) else pictures
            self._parts = iter(batches)

        def get_next(self) -> dict | None:
            part = next(self._parts, None)
            return None if part is None else {INPUT: part.numpy()}

    return Reader()


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters tell a lot that is not about this network."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
