"""SAME padding as in the authors' code: output size ceil(size / stride), an odd pixel of padding at the end."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Padding before and after one axis so that the output has ``ceil(size / stride)`` positions."""
    reach = dilation * (kernel - 1)
    # In a traced or exported program, sizes may be symbols. At a stride of 1 the padding does not depend on the size.
    total = reach - (size - 1) % stride if stride > 1 and reach else reach
    if reach < stride - 1:
        total = torch.sym_max(total, 0) if isinstance(total, torch.SymInt) else max(total, 0)
    return total // 2, total - total // 2


def pad_same(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], value: float = 0.0
) -> tuple[Tensor, tuple[int, ...]]:
    """Pad `x` if a spatial axis needs unequal sides; returns it with the padding of each axis left to the layer."""
    pads = [same_padding(x.shape[2 + i], *axis) for i, axis in enumerate(zip(kernel, stride, dilation))]
    # A program that is traced or exported for any size must not branch on the padding of one size.
    recorded = torch.compiler.is_exporting() or not isinstance(x, Tensor)
    any_size = recorded and any(not isinstance(side, int) for pad in pads for side in pad)
    if not any_size and all(before == after for before, after in pads):
        return x, tuple(before for before, _ in pads)
    flat = [side for pair in reversed(pads) for side in pair]
    return F.pad(x, flat, value=value), (0,) * len(pads)


def max_pool_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """2-d max pooling with SAME padding of minus infinity; output side ``ceil(side / stride)``."""
    x, padding = pad_same(x, (kernel,) * 2, (stride,) * 2, (1, 1), value=float("-inf"))
    return F.max_pool2d(x, kernel, stride, padding)


def avg_pool_same(x: Tensor) -> Tensor:
    """2x2 average pooling with a stride of 2 and SAME padding; padded positions do not count."""
    # ceil_mode clips the last window of an odd side to the image, which is the SAME rule for this kernel and stride.
    return F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)
