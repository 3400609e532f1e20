"""Functions of symmetric matrices through their eigenvalues. All take batches ``(..., n, n)`` in float64."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

FLOOR = 1e-12  # of eigenvalues


class _Spectral(torch.autograd.Function):
    """A function of symmetric matrices through their eigenvalues, with the derivative of Daleckii and Krein.

    autograd's own derivative of eigenvectors divides by differences of eigenvalues, which are 0 at the identity.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]) -> Tensor:
        values, vectors = torch.linalg.eigh(x)
        ctx.save_for_backward(values, vectors, function(values), slope(values))
        return torch.matmul(vectors * function(values)[..., None, :], vectors.mT)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        values, vectors, images, slopes = ctx.saved_tensors
        gap = values[..., :, None] - values[..., None, :]
        near = gap.abs() < 1e-9 * values.abs().amax(-1)[..., None, None].clamp_min(1e-9)
        divided = (images[..., :, None] - images[..., None, :]) / gap.masked_fill(near, 1.0)
        divided = torch.where(near, 0.5 * (slopes[..., :, None] + slopes[..., None, :]), divided)
        inside = vectors.mT @ (0.5 * (grad + grad.mT)) @ vectors
        return vectors @ (divided * inside) @ vectors.mT, None, None


def power(x: Tensor, exponent: float) -> Tensor:
    """A real power of SPD matrices."""
    made: Tensor = _Spectral.apply(  # type: ignore[no-untyped-call]
        x, lambda v: v.clamp_min(FLOOR) ** exponent, lambda v: exponent * v.clamp_min(FLOOR) ** (exponent - 1)
    )
    return made


def log(x: Tensor) -> Tensor:
    """The matrix logarithm of SPD matrices."""
    made: Tensor = _Spectral.apply(  # type: ignore[no-untyped-call]
        x, lambda v: v.clamp_min(FLOOR).log(), lambda v: 1 / v.clamp_min(FLOOR)
    )
    return made


def exp(x: Tensor) -> Tensor:
    """The matrix exponential of symmetric matrices."""
    made: Tensor = _Spectral.apply(x, torch.exp, torch.exp)  # type: ignore[no-untyped-call]
    return made
