"""Scaled weight standardisation: the reparameterisation that replaces normalised activations in NF networks."""

import torch
from torch import Tensor


def standardize_weight(weight: Tensor, gain: Tensor | None = None, *, eps: float = 1e-4, unit_dim: int = 0) -> Tensor:
    r"""Standardise each output unit of a weight over its fan-in, then scale it.

    .. math:: \hat W_i = g_i \, \frac{W_i - \mu_i}{\sqrt{\max(N \sigma_i^2,\ \epsilon)}}

    with mean and *biased* variance over the N weights of unit i. Every unit then has norm ``g_i``, so a convolution
    of independent unit-variance inputs has outputs of variance ``g_i ** 2`` and no mean shift.

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
        Shape and dtype of `weight`; statistics are computed in at least float32.

    Raises
    ------
    ValueError
        If `weight` has fewer than 2 axes or `eps` is not positive.

    Notes
    -----
    NF-ResNet (arXiv 2101.08692), section 4.2, to the letter of the authors' code. timm adds 1e-5 to the variance and
    other ports use the unbiased variance: both give another network. A constant filter gives zeros, not NaN.

    Examples
    --------
    >>> w = standardize_weight(torch.randn(8, 3, 3, 3))
    >>> torch.allclose(w.flatten(1).norm(dim=1), torch.ones(8), atol=1e-6)
    True
    """
    if weight.ndim < 2:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}; a weight with a fan-in is needed, at least 2 axes "
            "(a gain or a bias is not standardised)"
        )
    if not eps > 0:
        raise ValueError(f"eps={eps} must be above 0 (the reference has 1e-4): a constant filter divides by its root")
    over = [d for d in range(weight.ndim) if d != unit_dim % weight.ndim]
    w = weight if weight.dtype in (torch.float32, torch.float64) else weight.float()
    centred = w - w.mean(over, keepdim=True)
    scale = (centred * centred).sum(over, keepdim=True).clamp(min=eps).rsqrt()
    if gain is not None:
        shape = [1] * weight.ndim
        shape[unit_dim] = weight.shape[unit_dim]
        scale = scale * gain.to(w.dtype).reshape(shape)
    return (centred * scale).to(weight.dtype)
