"""What a network costs: bytes on disk and multiply-accumulates."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@torch.no_grad()
def macs(model: nn.Module, example: torch.Tensor) -> int:
    """Multiply-accumulates of one forward pass on ``example``, zeros included.

    Counted by torch itself, which counts a multiplication and an addition as two operations.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # torch does not count its fused attention
    try:
        with FlopCounterMode(display=False) as counter:
            model(example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops() // 2


def stored_bytes(model: nn.Module) -> int:
    """Size of the file that holds the weights of ``model`` as they are, in safetensors format."""
    from safetensors.torch import save

    return len(save({name: value.contiguous() for name, value in model.state_dict().items()}))
