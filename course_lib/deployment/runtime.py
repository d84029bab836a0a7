"""A network in an ONNX file, run by ONNX Runtime."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from course_lib.networks.data import Images

#: The names of the input and the output of an exported network.
INPUT, OUTPUT = "input", "logits"

#: Operators that only convert between int8 and float32; and how the names of those that compute in
#: int8 begin.
BETWEEN = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")


IN_INT8 = ("QLinear", "QGemm", "QMatMul", "MatMulInteger", "DynamicQuantizeMatMul")


#: ONNX's names of the number types that a network may take.
TYPES = {
    "tensor(float)": torch.float32,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(uint8)": torch.uint8,
    "tensor(bool)": torch.bool,
}


class DeployError(ValueError):
    """A network cannot be exported, quantized or run, and why."""


def _kind(value: object) -> str:
    return type(value).__name__


@contextmanager
def _own_errors(problem: str) -> Iterator[None]:
    """Turns what torch, ONNX and ONNX Runtime raise, which may be anything, into one error."""
    try:
        yield
    except DeployError:
        raise
    except Exception as error:
        cause = error.__cause__ or error
        words = " ".join(str(cause).split())[:300] or _kind(cause)
        raise DeployError(f"{problem}: {words}") from error


def _graph(file: Path | str):
    import onnx

    with _own_errors(f"{file} cannot be read as ONNX"):
        return onnx.load(file, load_external_data=False).graph


class Deployed:
    """A network in a file, run by ONNX Runtime: called with inputs, it returns logits.

    Raises:
        DeployError: the file is missing, damaged, or was not made by :func:`.quantization.export`.
    """

    def __init__(self, file: Path | str, threads: int = 1, optimized: Path | None = None):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Threads that keep spinning would take the processor from the network timed next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if optimized is not None:
            options.optimized_model_filepath = str(optimized)
        with _own_errors(f"{file} cannot be run"):
            self._session = onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
        self._input, *others = self._session.get_inputs()
        if others or self._input.name != INPUT:
            raise DeployError(f"{file} was not made by quantization.export: it has other inputs.")

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of N ``pictures``, or whatever else the network was exported for.

        Raises:
            DeployError: inputs of another type or shape than the network takes.
        """
        with _own_errors("The network cannot be run"):
            (logits,) = self._session.run([OUTPUT], self.fed(pictures))
        return torch.from_numpy(logits)

    def fed(self, pictures: torch.Tensor) -> dict[str, np.ndarray]:
        """``pictures`` as the runtime takes them, by the name of the input.

        Raises:
            DeployError: they are of another type or shape than the network takes.
        """
        wanted, sizes = TYPES.get(self._input.type), self._input.shape
        if not isinstance(pictures, torch.Tensor) or pictures.dtype != wanted:
            got = getattr(pictures, "dtype", _kind(pictures))
            raise DeployError(f"The network takes a tensor of {wanted}; got {got}.")
        # A dimension that may have any size has a name instead of a number.
        fits = pictures.dim() == len(sizes) and all(
            size == got
            for size, got in zip(sizes, pictures.shape, strict=True)
            if isinstance(size, int)
        )
        if not fits or not pictures.numel():
            raise DeployError(
                f"The network takes inputs of the shape ({', '.join(map(str, sizes))}); "
                f"got {tuple(pictures.shape)}."
            )
        return {INPUT: pictures.detach().cpu().numpy()}


def accuracy(file: Path, data: Images, threads: int = 2, batch_size: int = 500) -> float:
    """Percent of ``data`` that the network in ``file`` gets right, in the runtime.

    Raises:
        DeployError: there are no pictures, or they do not fit the network.
    """
    if not len(data.labels):
        raise DeployError("Accuracy needs at least one picture; got none.")
    run, right = Deployed(file, threads), 0
    parts = zip(data.images.split(batch_size), data.labels.split(batch_size), strict=True)
    for pictures, labels in parts:
        right += int((run(pictures).argmax(1) == labels).sum())
    return 100 * right / len(data.labels)


def operators(file: Path) -> dict[str, Counter[str]]:
    """How often each operator runs in "int8" and in "float32", after the runtime's optimizations.

    Operators that only convert from one to the other are listed separately, as "between".
    """
    with TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        Deployed(file, optimized=optimized)
        graph = _graph(optimized)
    found: dict[str, Counter[str]] = {kind: Counter() for kind in ("int8", "float32", "between")}
    for node in graph.node:
        found[_runs_in(node.op_type)][node.op_type] += 1
    return found


def _runs_in(operator: str) -> str:
    if operator in BETWEEN:
        return "between"
    return "int8" if operator.startswith(IN_INT8) else "float32"
