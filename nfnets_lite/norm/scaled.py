"""What PowerNorm and unified normalisation share: a scale by running second moments, and an approximate gradient."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nfnets_lite.norm.common import ChannelNorm, at_least_float32, scale_shift

# From the means per channel of dL/dz * z and of z * z, each (C,), to the statistic that the gradient uses.
Rule = Callable[[Tensor, Tensor], Tensor]


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, inverse: Tensor, rule: Rule) -> Tensor:
        ctx.save_for_backward(x, weight, inverse)
        ctx.rule, ctx.bias_dtype = rule, bias.dtype
        return scale_shift(x, inverse * weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        grad = at_least_float32(grad)
        z = at_least_float32(x) * inverse[:, None, None]
        per_gain = (grad * z).sum((0, 2, 3))
        count = x.numel() // x.shape[1]
        statistic = ctx.rule(per_gain * weight / count, z.square().mean((0, 2, 3)))
        for_x = inverse[:, None, None] * (grad * weight[:, None, None] - statistic[:, None, None] * z)
        return for_x.to(x.dtype), per_gain.to(weight.dtype), grad.sum((0, 2, 3)).to(ctx.bias_dtype), None, None


def scaled(x: Tensor, weight: Tensor, bias: Tensor, inverse: Tensor, rule: Rule) -> Tensor:
    r"""``weight * z + bias`` with ``z = x * inverse`` per channel, and a gradient set by `rule`.

    .. math:: \frac{\partial L}{\partial x} = \mathrm{inverse}
              \left(\frac{\partial L}{\partial z} - \psi z\right), \qquad
              \psi = \mathrm{rule}\left(E\left[\frac{\partial L}{\partial z} z\right], E[z^2]\right)

    The gradient is exact if `inverse` is ``rsqrt(E[x^2] + eps)`` of this batch and `rule` returns its first argument,
    or if `inverse` is a constant and `rule` returns 0. Gradients of `weight` and `bias` are always exact, and `inverse`
    gets none. `rule` is called once per backward pass; it may update a running gradient statistic.

    `x` is ``(N, C, H, W)``, the others are ``(C,)``. The result has the dtype of `x`, the arithmetic at least float32.

    Examples
    --------
    >>> x = torch.tensor([3.0, 4.0]).reshape(2, 1, 1, 1).requires_grad_()
    >>> scaled(x, torch.ones(1), torch.zeros(1), torch.tensor([0.5]), lambda first, second: 0 * first).sum().backward()
    >>> x.grad.flatten()
    tensor([0.5000, 0.5000])
    """
    out: Tensor = _Scaled.apply(x, weight, bias, inverse, rule)  # type: ignore[no-untyped-call]
    return out


class RunningSquareNorm(ChannelNorm):
    """Base of `PowerNorm` and `UnifiedNorm`: evaluation divides by the root of a running second moment.

    Training divides by the batch's own while ``progress < warmup``; `alpha` is the decay of the running statistics.
    """

    running_square: Tensor
    gradient_statistic: Tensor
    progress: Tensor

    def __init__(self, channels: int, alpha: float, warmup: float, eps: float) -> None:
        super().__init__(channels)
        if not 0 <= alpha < 1:
            raise ValueError(f"alpha={alpha} must be in [0, 1); the authors have 0.9")
        if not 0 <= warmup <= 1:
            raise ValueError(f"warmup={warmup} must be in [0, 1]: a share of the training")
        self.alpha, self.warmup, self.eps = alpha, warmup, eps
        self.register_buffer("running_square", torch.ones(channels))
        self.register_buffer("gradient_statistic", torch.zeros(channels))
        self.register_buffer("progress", torch.zeros(()))

    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift, each ``(C,)``, that evaluation applies."""
        return self.weight * (self.running_square + self.eps).rsqrt(), self.bias
