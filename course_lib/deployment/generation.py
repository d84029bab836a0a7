"""A decoder in a real runtime, ONNX Runtime GenAI: in float32, or with weights of 8 or 4 bits.

:func:`build` writes a (pruned) decoder into a folder, :class:`Decoder` runs it, and :func:`timed`
compares several: the *first token*, for which the whole prompt is computed at once (prefill), and
each *further token* (decode), for which all weights are read to compute a single one.

Quantized are all matrices, the embedding among them, in blocks of 32 weights that share a float32
scale. So "8 bits" are 9 bits a weight, and "4 bits" are 5, or 5.1 with zero points. The runtime
also rounds what these matrices are multiplied with to 8 bits, block by block, and multiplies whole
numbers. In all formats a weight of exactly zero stays zero. Lesson 11 uses these functions.
"""

import io
import json
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import torch

from course_lib.deployment.runtime import DeployError, _graph, _own_errors
from course_lib.measuring.timing import (
    Comparison,
    Recorded,
    Run,
    Timing,
    as_recorded,
    compare,
)
from course_lib.networks.smollm import INSTALL
from course_lib.pruning import decoders

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

#: What :func:`build` can write, and how it rounds weights. "int8" and "int4" round to the nearest
#: of evenly spaced values, symmetric about zero; the scale of "int4" may be negative, so that its
#: 16 values reach the largest weight of the block exactly. "int4_k_quant" (of llama.cpp) searches
#: scale and zero point for the least squared error, and takes ten times as long to build.
PRECISIONS = {"float32": None, "int8": "rtn", "int4": "default", "int4_k_quant": "k_quant"}

#: The weights of a block share a scale.
BLOCK = 32

#: The file of the network in a folder, that of its weights, and what the runtime has to know.
NETWORK, WEIGHTS, ABOUT = "model.onnx", "model.onnx.data", "genai_config.json"

#: The builder's names of the layers in a block.
LAYERS = ("attn/qkv_proj", "attn/o_proj", "mlp/gate_proj", "mlp/up_proj", "mlp/down_proj")

#: Operators that read one row of a table: the embedding, the angles of the rotary embedding.
LOOKUPS = ("Gather", "GatherBlockQuantized", "GroupQueryAttention")

#: Operators that only look at a table in another shape.
VIEWS = ("Reshape", "Transpose")


# --- building -----------------------------------------------------------------------------------


def build(
    model: "LlamaForCausalLM", tokenizer: "Tokenizer", folder: Path, precision: str = "float32"
) -> Path:
    """Write ``model`` and its ``tokenizer`` into ``folder``, as the runtime reads them; return it.

    Args:
        model: dense or pruned by :mod:`.decoders`; all of its blocks have the same sizes.
        folder: is created; what an earlier call wrote there is overwritten.
        precision: a key of :data:`PRECISIONS`.

    Raises:
        DeployError: the runtime is not installed, there is no such precision, or the builder cannot
            write this model.
    """
    if precision not in PRECISIONS:
        raise DeployError(f"Precision is one of {', '.join(PRECISIONS)}; got {precision!r}.")
    _refuse(model)
    if precision == "int4_k_quant":
        _refuse_odd(model)
    _runtime()
    with TemporaryDirectory() as source, _own_errors("The model cannot be built"), _silence():
        model.save_pretrained(source)
        tokenizer.save(str(Path(source) / "tokenizer.json"))
        _call_builder(source, folder, _quantization(precision, model.config.num_hidden_layers))
    return folder


def _refuse(model: "LlamaForCausalLM") -> None:
    """Raise a DeployError if the builder would refuse ``model``, or write something else."""
    layers, config = decoders.stack(model).layers, model.config
    if type(model).__name__ != "LlamaForCausalLM" or not config.tie_word_embeddings:
        raise DeployError(
            "The model must be a LlamaForCausalLM whose output layer is its embedding; got "
            f"{type(model).__name__}, tie_word_embeddings={config.tie_word_embeddings}."
        )
    sizes = [(decoders.GROUPS.count(one), decoders.NEURONS.count(one)) for one in layers]
    for number, size in enumerate(sizes):
        if size != sizes[0]:
            raise DeployError(
                f"Block {number} has {size[0]} key/value heads and {size[1]} neurons, block 0 has "
                f"{sizes[0][0]} and {sizes[0][1]}. The runtime's builder takes one width for all "
                "blocks: remove as many from each."
            )
    expected = (config.num_key_value_heads, config.intermediate_size)
    if sizes[0] != expected or len(sizes) != config.num_hidden_layers:
        raise DeployError(
            f"The configuration promises {config.num_hidden_layers} blocks of {expected[0]} "
            f"key/value heads and {expected[1]} neurons; there are {len(sizes)} of {sizes[0][0]} "
            f"and {sizes[0][1]}. decoders.prune and decoders.without_blocks keep it up to date."
        )
    if any(getattr(layer, "out_features", None) == config.vocab_size for layer in layers.modules()):
        raise DeployError(
            f"A matrix in the blocks has {config.vocab_size} rows, as many as there are tokens; "
            "the builder would take it for the output layer. Keep one token more or less."
        )


def _refuse_odd(model: "LlamaForCausalLM") -> None:
    """Raise a DeployError where the builder would pack the zero points of two rows into a byte."""
    for name in ("0.self_attn.q_proj", "0.self_attn.o_proj", "0.mlp.down_proj"):
        width = decoders.stack(model).layers.get_submodule(name).in_features
        if math.ceil(width / BLOCK) % 2:
            raise DeployError(
                f"{name} has rows of {width} weights, which is an odd number of blocks of {BLOCK}: "
                "int4_k_quant cannot store their zero points. Keep a multiple of "
                f"{2 * BLOCK}, or take int4."
            )


def _quantization(precision: str, blocks: int) -> dict[str, Any]:
    """The builder's options for ``precision``.

    It shares the output layer with the embedding only in models of 4 bits. So a model of 8 bits is
    one of 4 bits in which every matrix is an exception.
    """
    if precision == "float32":
        return {}
    names = [f"/model/layers.{number}/{layer}" for number in range(blocks) for layer in LAYERS]
    exceptions = [
        {"match": {"name": f"{name}/MatMul"}, "type": "int8"} for name in ["/lm_head", *names]
    ]
    weights = {
        "type": "int4",
        "method": PRECISIONS[precision],
        "block_size": BLOCK,
        "accuracy_level": 4,  # what they are multiplied with is rounded to 8 bits
        "op_types": ["MatMul", "Gather"],
        "overrides": exceptions if precision == "int8" else [],
    }
    return {"quant_config": {"weights": weights}}


def _call_builder(source: str, folder: Path, quantization: dict[str, Any]) -> None:
    """Call the builder of the runtime on the model of ``transformers`` in ``source``."""
    from onnxruntime_genai.models.builder import create_model, parse_extra_options

    with TemporaryDirectory() as cache:
        about = (None, source, str(folder), "int4" if quantization else "fp32", "cpu", cache)
        options = parse_extra_options(*about, ["hf_token=false"], target_options=quantization)
        create_model(*about, **options)


def _runtime() -> Any:
    """The runtime's module.

    Raises:
        DeployError: it is not installed.
    """
    if find_spec("onnxruntime_genai") is None:
        raise DeployError(f"The runtime onnxruntime-genai is not installed. {INSTALL}")
    import onnxruntime_genai

    return onnxruntime_genai


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress what is printed, progress bars included."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


# --- running ------------------------------------------------------------------------------------


class Decoder:
    """A decoder in ``folder``, as :func:`build` wrote it: called with token ids, it returns logits.

    Args:
        threads: how many it computes with.

    Raises:
        DeployError: the runtime is not installed, ``folder`` is not what :func:`build` writes, or
            there would be no thread.
    """

    def __init__(self, folder: Path, threads: int = 1):
        if threads < 1:
            raise DeployError(f"A model needs at least one thread; got threads={threads}.")
        runtime = _runtime()
        session = {
            "intra_op_num_threads": threads,
            "log_severity_level": 4,  # errors are raised; they need not be printed
            # Threads that keep spinning would take the processor from the model timed next.
            "session.force_spinning_stop": "1",
        }
        with _own_errors(f"{folder} was not written by generation.build"):
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            self._vocabulary = int(about["model"]["vocab_size"])
            config = runtime.Config(str(folder))
            config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
            self._model = runtime.Model(config)

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """The logits (1, L, V) that follow each of the token ids (1, L).

        Raises:
            DeployError: the ids are of another shape or type, not in the vocabulary, or too many.
        """
        with _own_errors("The model cannot be run"):
            generator = self._generator(self._checked(ids), more=0)
            return torch.tensor(generator.get_output("logits"))

    def written(self, ids: torch.Tensor, tokens: int) -> torch.Tensor:
        """What follows the token ids (1, L): always the most probable token (greedy decoding).

        Args:
            tokens: how many are written, at most; fewer if the model ends the text. The token that
                ends it is left out.

        Returns:
            Token ids (1, tokens), int64.

        Raises:
            DeployError: as when it is called.
        """
        with _own_errors("The model cannot be run"):
            generator = self._generator(self._checked(ids), tokens)
            while not generator.is_done():
                generator.generate_next_token()
            return torch.tensor(generator.get_sequence(0)[ids.shape[1] :]).long()[None]

    def _checked(self, ids: torch.Tensor) -> list[int]:
        """The token ids (1, L) as a list. The runtime itself accepts ids that do not exist."""
        if ids.dim() != 2 or len(ids) != 1 or not ids.numel() or ids.is_floating_point():
            raise DeployError(
                f"The model takes token ids (1, L), whole numbers; got {tuple(ids.shape)}, "
                f"{ids.dtype}."
            )
        least, most = int(ids.min()), int(ids.max())
        if least < 0 or most >= self._vocabulary:
            raise DeployError(
                f"Token ids are within 0 to {self._vocabulary - 1}; got {least} to {most}."
            )
        numbers: list[int] = ids[0].tolist()
        return numbers

    def _generator(self, ids: list[int], more: int, endless: bool = False) -> Any:
        """A generator that has read ``ids`` and has room for so many ``more``."""
        runtime, room = _runtime(), len(ids) + more
        parameters = runtime.GeneratorParams(self._model)
        parameters.set_search_options(
            do_sample=False, max_length=room, min_length=room if endless else 0
        )
        generator = runtime.Generator(self._model, parameters)
        generator.append_tokens(ids)
        return generator


# --- bytes --------------------------------------------------------------------------------------


def bytes_on_disk(folder: Path) -> int:
    """Bytes of the files that the runtime reads, the tokenizer left out.

    Raises:
        DeployError: ``folder`` is not what :func:`build` writes.
    """
    with _own_errors(f"{folder} was not written by generation.build"):
        return sum((folder / name).stat().st_size for name in (NETWORK, WEIGHTS, ABOUT))


def bytes_per_token(folder: Path) -> int:
    """Bytes of weights that are read to decode one token, from the sizes in the ONNX file.

    Those of all weights, but only one row of a table in which something is looked up, unless it is
    also multiplied with, as an embedding that is the output layer. The cache of keys and values
    comes on top: :func:`.language.kv_cache_bytes`.

    Raises:
        DeployError: ``folder`` is not what :func:`build` writes.
    """
    graph = _graph(folder / NETWORK)
    computed = {
        name for node in graph.node if node.op_type not in (*LOOKUPS, *VIEWS) for name in node.input
    }
    return sum(
        _bytes(weight) // (1 if weight.name in computed or not weight.dims else weight.dims[0])
        for weight in graph.initializer
    )


def _bytes(weight: Any) -> int:
    """Bytes of an initializer of an ONNX graph."""
    from onnx.helper import tensor_dtype_to_np_dtype

    size: int = tensor_dtype_to_np_dtype(weight.data_type).itemsize
    return math.prod(weight.dims) * size


# --- milliseconds -------------------------------------------------------------------------------


class Times(TypedDict):
    """Milliseconds to the first token after a prompt, and of each further token."""

    first: Recorded
    further: Recorded


def timed(
    folders: Mapping[str, Path],
    prompt: torch.Tensor,
    tokens: int = 16,
    threads: int = 1,
    rounds: int = 10,
    seconds: float = 60.0,
) -> dict[str, Times]:
    """How long the decoders in ``folders`` take, timed in turns, and their speed-up over the first.

    Args:
        folders: as :func:`build` wrote them, by name. All are in memory together.
        prompt: token ids (1, L), in the vocabulary of all of them.
        tokens: how many further tokens are decoded in one sample.
        threads: how many each computes with.
        rounds: six or more.
        seconds: after these, either of the two comparisons ends, but not before six rounds.

    Raises:
        DeployError: a folder is not what :func:`build` writes, or the prompt does not fit.
        ValueError: there are no folders, too few rounds, or no further tokens.
    """
    if tokens < 1:
        raise ValueError(f"At least one further token must be timed; got tokens={tokens}.")
    loops = {
        name: _Loop.begin(Decoder(folder, threads), prompt, tokens)
        for name, folder in folders.items()
    }

    def compared(runs: dict[str, Run]) -> Comparison:
        return compare(runs, rounds=rounds, seconds=seconds, limit=math.inf)

    first = compared({name: loop.first for name, loop in loops.items()})
    further = _divided(compared({name: loop.further for name, loop in loops.items()}), tokens)
    return {
        name: {"first": _recorded(first, name), "further": _recorded(further, name)}
        for name in folders
    }


class _Loop(NamedTuple):
    """A prompt and what follows it, computed again and again in the same cache."""

    generator: Any
    prompt: list[int]
    tokens: int

    @classmethod
    def begin(cls, decoder: Decoder, prompt: torch.Tensor, tokens: int) -> "_Loop":
        with _own_errors("The model cannot be run"):
            ids = decoder._checked(prompt)
            return cls(decoder._generator(ids, tokens + 1, endless=True), ids, tokens)

    def first(self) -> None:
        """Compute the whole prompt, and choose the token that follows."""
        self.generator.rewind_to(0)
        self.generator.append_tokens(self.prompt)
        self.generator.generate_next_token()

    def further(self) -> None:
        """Compute ``tokens`` tokens one by one, the last one of the prompt and those after it."""
        self.generator.rewind_to(len(self.prompt) - 1)
        self.generator.append_tokens(self.prompt[-1:])
        for _ in range(self.tokens):  # the first call only chooses
            self.generator.generate_next_token()


def _divided(comparison: Comparison, calls: int) -> Comparison:
    """The comparison of one call, if each sample was so many ``calls``."""
    timings = {
        name: Timing(tuple(each / calls for each in timing.milliseconds))
        for name, timing in comparison.timings.items()
    }
    return comparison._replace(timings=timings)


def _recorded(comparison: Comparison, name: str) -> Recorded:
    first = next(iter(comparison.timings))
    return as_recorded(comparison.timings[name], comparison.speedup(name, over=first))


def bandwidth(threads: int = 1, megabytes: int = 256) -> float:
    """GB/s at which this machine reads the matrix of a matrix-vector product, float32.

    It is what decoding does. The matrix must be larger than all caches. torch computes such a
    product in one thread, so each thread here has rows of its own.
    """
    rows = torch.randn(megabytes * 2**18 // 4096, 4096).chunk(threads)
    vector = torch.randn(4096)
    with ThreadPoolExecutor(threads) as pool:

        def product() -> None:
            for _ in pool.map(partial(torch.mv, vec=vector), rows):
                pass

        found = compare({"product": product}, rounds=20, seconds=2.0)
    return megabytes * 2**20 / found.timings["product"].median / 1e6
