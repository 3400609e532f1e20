"""Weight standardisation: scaled, which replaces normalised activations in NF networks, and the one before it."""

import torch
from torch import Tensor, nn


def standardize_weight(
    weight: Tensor, gain: Tensor | None = None, *, eps: float = 1e-4, unit_dim: int = 0, factor: float = 1.0
) -> Tensor:
    r"""Standardise each output unit of a weight over its fan-in, then scale it.

    .. math:: \hat W_i = f g_i \, \frac{W_i - \mu_i}{\sqrt{\max(N \sigma_i^2,\ \epsilon)}}

    with mean and *biased* variance over the N weights of unit i. Every unit then has norm ``f * g_i``, so a convolution
    of independent unit-variance inputs has outputs of variance ``(f * g_i) ** 2`` and no mean shift.

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
    factor : float
        A constant on all units, f: a convolution's input that ought to be multiplied can have its weight multiplied.

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

    On a CPU, in eager mode, torch's group norm kernel does it, several times as fast, where no unit is below `eps`.

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
    w = weight if weight.dtype in (torch.float32, torch.float64) else weight.float()
    made = _by_group_norm(w, gain, eps, factor) if unit_dim == 0 and _is_eager_on_cpu(weight) else None
    return (_by_the_formula(w, gain, eps, unit_dim, factor) if made is None else made).to(weight.dtype)


def _by_the_formula(w: Tensor, gain: Tensor | None, eps: float, unit_dim: int, factor: float) -> Tensor:
    over = [d for d in range(w.ndim) if d != unit_dim % w.ndim]
    centred = w - w.mean(over, keepdim=True)
    scale = (centred * centred).sum(over, keepdim=True).clamp(min=eps).rsqrt()
    if gain is not None:
        shape = [1] * w.ndim
        shape[unit_dim] = w.shape[unit_dim]
        scale = scale * gain.to(w.dtype).reshape(shape)
    return centred * (scale if factor == 1.0 else scale * factor)


def _by_group_norm(w: Tensor, gain: Tensor | None, eps: float, factor: float) -> Tensor | None:
    """The formula by one kernel, and one in the backward pass; None where the floor under the variance is reached."""
    units, fan_in = len(w), w.shape[1:].numel()
    to_norm = factor * fan_in**-0.5
    scale = w.new_full((units,), to_norm) if gain is None else gain.to(w.dtype) * to_norm
    # The kernel adds its epsilon to the variance: far below what the floor lets pass, it is lost in rounding.
    rows, little = w.reshape(1, units, fan_in), 1e-16 * eps / fan_in
    made, _, inverse_std = torch.native_group_norm(rows, scale, None, 1, units, fan_in, units, little)
    reached = not inverse_std.amax().item() * eps**0.5 <= fan_in**0.5  # also by what is not a number
    return None if reached else made.view(w.shape)


def _is_eager_on_cpu(weight: Tensor) -> bool:
    """Whether the numbers are here to be looked at, for nothing: no device to wait for, nothing traced or mapped."""
    return (
        weight.device.type == "cpu"
        and type(weight) in (Tensor, nn.Parameter)
        and weight.numel() > 0
        and weight.is_contiguous()
        and not torch.compiler.is_compiling()
        and torch._C._get_tracing_state() is None
        and not torch._C._are_functorch_transforms_active()
    )


def unit_std_weight(weight: Tensor, *, eps: float = 1e-5) -> Tensor:
    r"""Bring each output unit of a weight to mean 0 and standard deviation 1 over its fan-in.

    .. math:: \hat W_i = \frac{W_i - \mu_i}{\sigma_i + \epsilon}

    with the *unbiased* standard deviation. Outputs then grow with the root of the fan-in, and a norm has to follow.

    Parameters
    ----------
    weight : Tensor
        Shape ``(O, I / groups, *kernel)``, a fan-in of at least 2.
    eps : float
        Added to the standard deviation.

    Returns
    -------
    Tensor
        Shape and dtype of `weight`; statistics are computed in at least float32.

    Raises
    ------
    ValueError
        If the fan-in is below 2 or `eps` is not positive.

    Notes
    -----
    Weight Standardization (arXiv 1903.10520), section 3, as the authors' PyTorch code has it; their TensorFlow code
    takes the biased deviation. A constant filter gives zeros, not NaN.

    Examples
    --------
    >>> w = unit_std_weight(torch.randn(8, 3, 3, 3))
    >>> torch.allclose(w.flatten(1).std(dim=1), torch.ones(8), atol=1e-4)
    True
    """
    if weight.ndim < 2 or weight[0].numel() < 2:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}; at least 2 axes and a fan-in of at least 2 are needed: a single "
            "weight has no standard deviation"
        )
    if not eps > 0:
        raise ValueError(f"eps={eps} must be above 0 (the reference has 1e-5): a constant filter divides by it")
    over = list(range(1, weight.ndim))
    w = weight if weight.dtype in (torch.float32, torch.float64) else weight.float()
    centred = w - w.mean(over, keepdim=True)
    # A norm, not torch.std: its derivative at 0 is 0 as well, and on a CPU it is several times as fast.
    norm = torch.linalg.vector_norm(centred, dim=over, keepdim=True)
    std = norm * (weight[0].numel() - 1) ** -0.5
    made: Tensor = centred / (std + eps)
    return made.to(weight.dtype)
