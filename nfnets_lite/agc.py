"""Adaptive gradient clipping: bound each unit's gradient by a fraction of its weight norm."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from nfnets_lite.roles import parameter_roles, unit_dim_of


def unitwise_norm(x: Tensor, unit_dim: int | None = 0) -> Tensor:
    """L2 norm of each unit, shaped to broadcast against `x`; computed in at least float32.

    Parameters
    ----------
    x : Tensor
        A weight or its gradient.
    unit_dim : int or None
        Axis whose indices are the units; None takes the whole tensor as one unit.

    Examples
    --------
    >>> unitwise_norm(torch.ones(2, 4, 2, 2)).flatten().tolist()
    [4.0, 4.0]
    """
    dtype = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
    over = None if unit_dim is None else [d for d in range(x.ndim) if d != unit_dim]
    norm: Tensor = torch.linalg.vector_norm(x, dim=over, keepdim=unit_dim is not None, dtype=dtype)
    return norm


class AdaptiveClip:
    """Adaptive gradient clipping with the parameters' roles resolved once; call it before each optimizer step.

    `adaptive_clip_grad_` documents the arithmetic and the arguments; a training loop keeps one of these instead, so
    that the model is not walked at every step.

    Examples
    --------
    >>> net = nn.Linear(4, 2)
    >>> clip = AdaptiveClip(net, classifier=None)
    >>> _ = net(torch.ones(1, 4)).sum().backward()
    >>> float(clip())  # every unit was above its bound
    1.0
    """

    def __init__(
        self,
        parameters: nn.Module | Tensor | Iterable[Tensor],
        clip_factor: float = 0.01,
        eps: float = 1e-3,
        *,
        classifier: Any = "auto",
    ) -> None:
        for name, value in (("clip_factor", clip_factor), ("eps", eps)):
            if not value > 0:
                raise ValueError(f"{name}={value} must be above 0 (clip_factor around 0.01, eps around 1e-3)")
        self.clip_factor, self.eps = clip_factor, eps
        self.units: list[tuple[Tensor, int | None]]
        if isinstance(parameters, nn.Module):
            roles = parameter_roles(parameters, classifier=classifier).values()
            self.units = [(p, role.unit_dim) for p, role in roles if role.clip]
        else:
            tensors = [parameters] if isinstance(parameters, Tensor) else parameters
            self.units = [(p, unit_dim_of(p)) for p in tensors]

    @torch.no_grad()
    def __call__(self) -> Tensor:
        """Clip the gradients in place; returns the fraction of units that were clipped, a 0-d tensor."""
        clipped: list[Tensor] = []
        count = 0
        for parameter, unit_dim in self.units:
            grad = parameter.grad
            if grad is None:
                continue
            if grad.is_sparse:
                raise ValueError(
                    f"the gradient of a parameter of shape {tuple(parameter.shape)} is sparse; adaptive clipping needs "
                    "dense gradients (build the Embedding with sparse=False, or leave its parameter out)"
                )
            bound = unitwise_norm(parameter, unit_dim).clamp_(min=self.eps).mul_(self.clip_factor)
            norm = unitwise_norm(grad, unit_dim)
            above = norm > bound
            # A NaN norm compares false: its unit is left as it is, visible, rather than turned into zeros.
            factor = torch.where(above, bound / norm.clamp(min=1e-6), 1.0)
            grad.mul_(factor.to(grad.dtype))
            clipped.append(above.sum())
            count += above.numel()
        return torch.stack(clipped).sum() / count if clipped else torch.zeros(())


def adaptive_clip_grad_(
    parameters: nn.Module | Tensor | Iterable[Tensor],
    clip_factor: float = 0.01,
    eps: float = 1e-3,
    *,
    classifier: Any = "auto",
) -> Tensor:
    r"""Clip gradients in place, unit by unit, in proportion to the norm of the unit's weights.

    .. math:: G_i \leftarrow \lambda \frac{\max(\|W_i\|, \epsilon)}{\|G_i\|} G_i
              \quad\text{if}\quad \|G_i\| > \lambda \max(\|W_i\|, \epsilon)

    A unit is an output channel of a convolution or a row of a linear layer; a gain, a bias or a scalar is one unit
    as a whole.

    Parameters
    ----------
    parameters : nn.Module, Tensor or iterable of Tensor
        A model: the classifier's weight is left alone and every other parameter is clipped by its role
        (see `nfnets_lite.roles`). Bare tensors are all clipped, with axis 0 as the unit axis.
    clip_factor : float
        :math:`\lambda`. The paper uses 0.01 for batches of 1024 to 4096 under SGD; adaptive optimizers want others.
    eps : float
        Lower bound on a unit's weight norm, so that zero-initialised parameters can move.
    classifier : "auto", nn.Module or None
        For a model: the layer whose weight is exempt; "auto" asks ``model.get_classifier()``.

    Returns
    -------
    Tensor
        0-d, on the gradients' device: the fraction of units that were clipped. Reading it waits for the device.

    Notes
    -----
    Call it on *unscaled* gradients, after accumulation, before the optimizer adds weight decay and momentum.
    Parameters without a gradient are passed over; NaN stays NaN. NFNet (arXiv 2102.06171), section 4.

    Examples
    --------
    >>> w = torch.ones(2, 4, requires_grad=True)
    >>> (w * torch.tensor([[1.0], [1e-3]])).sum().backward()
    >>> float(adaptive_clip_grad_(w))  # the first row is above 0.01 * 2, the second is not
    0.5
    """
    return AdaptiveClip(parameters, clip_factor, eps, classifier=classifier)()
