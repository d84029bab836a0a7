"""A tiny decoder of Llama's architecture and a tokenizer, made in seconds, for several tests."""

import torch


def tiny_decoder(blocks=3, vocabulary=40, seed=0, neurons=20, **changes):
    """A random Llama: width 48, 6 query heads on 3 key/value heads, MLPs of so many neurons.

    Args:
        changes: other values of its configuration.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = {
        "vocab_size": vocabulary,
        "hidden_size": 48,
        "intermediate_size": neurons,
        "num_hidden_layers": blocks,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "initializer_range": 0.3,  # with the usual 0.02 every block is nearly the identity
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    return LlamaForCausalLM(LlamaConfig(**config | changes)).eval()


def windows(count: int = 4, length: int = 12, vocabulary: int = 40, seed: int = 1) -> torch.Tensor:
    """Random tokens (count, length)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocabulary, (count, length), generator=generator)


def tiny_tokenizer(texts: list[str], size: int = 300):
    """Byte-pair encoding trained on ``texts``, with the special token <end>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
