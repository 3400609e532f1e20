"""Faster CPU forms of two operations, equal up to rounding; used in eager mode only."""

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from nfnets_lite.norm.common import at_least_float32


def applies_to(x: Tensor) -> bool:
    """Whether the fast form may compute on `x`: on a CPU, in eager mode, not traced, compiled, exported or vmapped."""
    return (
        not torch.compiler.is_compiling()
        and type(x) in (Tensor, nn.Parameter)
        and x.device.type == "cpu"
        and torch._C._get_tracing_state() is None
        and x.numel() > 0
        and not torch._C._are_functorch_transforms_active()
        and _get_current_dispatch_mode() is None
    )


def standardized(weight: Tensor, gain: Tensor | None, eps: float) -> Tensor | None:
    """`nfnets_lite.standardize_weight` by torch's group norm kernel, in one pass forward and one backward.

    Returns None where the kernel would give other numbers (a unit is below the floor `eps`, or its variance overflows)
    or would need a copy (the weight has gaps in its memory).
    """
    w, units, fan_in = at_least_float32(weight), len(weight), weight.shape[1:].numel()
    order = list(range(w.ndim))
    if not w.is_contiguous():  # channels last: mean and variance do not depend on the order of a unit's weights
        order = [0, *sorted(order[1:], key=w.stride, reverse=True)]
        w = w.permute(order)
        if not w.is_contiguous():
            return None
    scale = w.new_full((units,), fan_in**-0.5) if gain is None else gain.to(w.dtype) * fan_in**-0.5
    # The kernel adds its epsilon to the variance. Above the floor, this epsilon is lost in rounding.
    negligible = 1e-16 * eps / fan_in
    rows = w.view(1, units, fan_in)
    made, _, inverse_std = torch.native_group_norm(rows, scale, None, 1, units, fan_in, units, negligible)
    least, greatest = (x.item() for x in inverse_std.aminmax())
    if not (least > 0 and greatest * eps**0.5 <= fan_in**0.5):  # true for NaN too
        return None
    return made.view(w.shape).permute([order.index(d) for d in range(w.ndim)]).to(weight.dtype)


def gelu(x: Tensor) -> Tensor:
    """The tanh form of GELU, for float32 without gradients, as ``x * sigmoid(2u)``: torch's kernel has a slow tanh."""
    slope = 2 * (2 / torch.pi) ** 0.5
    gate = torch.addcmul(x.new_full((), slope), x, x, value=0.044715 * slope)
    return gate.mul_(x).sigmoid_().mul_(x)
