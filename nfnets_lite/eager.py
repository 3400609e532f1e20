"""When a path of its own may be taken: plain numbers are there, and nobody but torch's eager mode sees the steps."""

import torch
from torch import Tensor, nn


def is_eager(x: Tensor) -> bool:
    """Whether an operation on a plain tensor is executed now and as it stands: nothing is traced, mapped or empty."""
    return (
        type(x) in (Tensor, nn.Parameter)
        and x.numel() > 0
        and not torch.compiler.is_compiling()
        and torch._C._get_tracing_state() is None
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0  # a kernel of ours knows no tangents
    )
