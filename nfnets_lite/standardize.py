"""Weight standardisation: the scaled form of normalizer-free networks, and the original form, which needs a norm."""

import torch
from torch import Tensor

from nfnets_lite import _fast
from nfnets_lite.norm.common import at_least_float32


def standardize_weight(weight: Tensor, gain: Tensor | None = None, *, eps: float = 1e-4, unit_dim: int = 0) -> Tensor:
    r"""Standardise each output unit of a weight over its fan-in, then scale it.

    .. math:: \hat W_i = g_i \, \frac{W_i - \mu_i}{\sqrt{\max(N \sigma_i^2,\ \epsilon)}}

    with mean and *biased* variance over the N weights of unit i. Every unit then has norm ``g_i``, so a convolution of
    independent unit-variance inputs has outputs of variance ``g_i ** 2`` and no mean shift.

    Parameters
    ----------
    weight : Tensor
        Shape ``(O, I / groups, *kernel)``, or with the units on axis `unit_dim`.
    gain : Tensor, optional
        Shape ``(O,)``; 1 if absent.
    eps : float
        Lower bound on N times the variance: it *replaces* smaller values, it is not added.
    unit_dim : int
        Axis of the output units: 0 for a convolution or a linear layer, 1 for a transposed convolution.

    Returns
    -------
    Tensor
        Shape and dtype of `weight`; statistics are computed in at least float32. A constant filter gives zeros. Weights
        whose sum of squares overflows, in float32 near 1e19, give NaN.

    Raises
    ------
    ValueError
        If `weight` has fewer than 2 axes, `gain` another shape, or `eps` is not positive.
    TypeError
        If `weight` is complex or holds integers.

    Notes
    -----
    NF-ResNet (arXiv 2101.08692), section 4.2, computed as in the authors' code. timm adds 1e-5 to the variance, and
    other ports use the unbiased variance: both change a network's outputs.

    Examples
    --------
    >>> w = standardize_weight(torch.randn(8, 3, 3, 3))
    >>> torch.allclose(w.flatten(1).norm(dim=1), torch.ones(8), atol=1e-6)
    True
    """
    _check(weight, eps)
    units = weight.shape[unit_dim]
    if gain is not None and gain.shape != (units,):
        raise ValueError(
            f"gain has shape {tuple(gain.shape)}; {(units,)} is needed, a number for each unit, axis {unit_dim} of the "
            "weight (timm's gains of more axes: gain.flatten())"
        )
    if unit_dim == 0 and _fast.applies_to(weight):
        made = _fast.standardized(weight, gain, eps)
        if made is not None:
            return made
    w = at_least_float32(weight)
    over = [d for d in range(w.ndim) if d != unit_dim % w.ndim]
    centred = w - w.mean(over, keepdim=True)
    squares = (centred * centred).sum(over, keepdim=True)
    _overflow_to_nan(squares)
    scale = squares.clamp(min=eps).rsqrt()
    if gain is not None:
        scale = scale * gain.to(w.dtype).reshape(squares.shape)
    return (centred * scale).to(weight.dtype)


def unit_std_weight(weight: Tensor, *, eps: float = 1e-5) -> Tensor:
    r"""Bring each output unit of a weight to mean 0 and standard deviation 1 over its fan-in.

    .. math:: \hat W_i = \frac{W_i - \mu_i}{\sigma_i + \epsilon}

    with the *unbiased* standard deviation. A convolution's outputs then grow with the square root of the fan-in, and a
    norm has to follow. Weight Standardization (arXiv 1903.10520), section 3, as in the authors' PyTorch code; their
    TensorFlow code uses the biased deviation.

    Parameters
    ----------
    weight : Tensor
        Shape ``(O, I / groups, *kernel)``, a fan-in of at least 2.
    eps : float
        Added to the standard deviation.

    Returns
    -------
    Tensor
        As of `standardize_weight`.

    Raises
    ------
    ValueError, TypeError
        As `standardize_weight`, and if the fan-in is below 2.

    Examples
    --------
    >>> w = unit_std_weight(torch.randn(8, 3, 3, 3))
    >>> torch.allclose(w.flatten(1).std(dim=1), torch.ones(8), atol=1e-4)
    True
    """
    _check(weight, eps)
    if weight[0].numel() < 2:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}; it needs a fan-in of at least 2, because a single weight has no "
            "standard deviation"
        )
    over = list(range(1, weight.ndim))
    w = at_least_float32(weight)
    centred = w - w.mean(over, keepdim=True)
    # vector_norm is several times as fast as torch.std on a CPU; the derivative of both at 0 is 0.
    norm = torch.linalg.vector_norm(centred, dim=over, keepdim=True)
    std = norm * (weight[0].numel() - 1) ** -0.5
    _overflow_to_nan(std)
    made: Tensor = centred / (std + eps)
    return made.to(weight.dtype)


def _check(weight: Tensor, eps: float) -> None:
    if not weight.is_floating_point():
        raise TypeError(
            f"weight has dtype {weight.dtype}, which is not standardised; pass real floating-point numbers, such as "
            "float32, float64 or bfloat16"
        )
    if weight.ndim < 2:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}; it needs at least 2 axes (gains and biases are not standardised)"
        )
    if not eps > 0:
        raise ValueError(f"eps={eps} must be above 0, such as the default, or a constant filter is divided by 0")


def _overflow_to_nan(x: Tensor) -> None:
    """Replace infinity by NaN in place: a visible failure, where a division by infinity would make filters of zeros."""
    x.detach().nan_to_num_(nan=torch.nan, posinf=torch.nan)  # detached, it costs nothing in the backward pass
