"""Sharpness-aware minimisation (SAM): take the gradient a small step uphill from the weights."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nfnets_lite._checks import as_iterable
from nfnets_lite.agc import unitwise_norm
from nfnets_lite.roles import _refuse_sparse


@contextmanager
def ascended(parameters: nn.Module | Iterable[Tensor], radius: float = 0.05) -> Iterator[Tensor]:
    r"""Move weights along their gradients by `radius` inside the block, and restore them exactly after it.

    .. math:: w + \rho \frac{g}{\|g\|}

    Gradients are cleared on entry. Call ``backward`` inside the block: the optimizer then applies the gradients of the
    moved weights to the original weights. Clip, decay and step after the block, because its end undoes every change of
    the weights that was made inside it, also by ``optimizer.step()``.

    Parameters
    ----------
    parameters : nn.Module or iterable of Tensor
        With the gradient of the ascent step in ``.grad``; a parameter without a gradient is not moved.
    radius : float
        :math:`\rho`, the length of the step over all parameters together.

    Yields
    ------
    Tensor
        0-d, on the first parameter's device: the norm of the ascent gradient over all parameters together.

    Raises
    ------
    ValueError
        If `radius` is not positive, a gradient is sparse, or no parameter has a gradient.
    TypeError
        If `parameters` are neither a model nor tensors.

    Notes
    -----
    SAM (arXiv 2010.01412), equation 2. NFNet (arXiv 2102.06171, section 5) computes the ascent gradient on 20 % of the
    same batch. Under DDP and FSDP2 the ascent follows the gradient averaged over processes; in the SAM paper each
    device takes an ascent step of its own.

    Examples
    --------
    >>> w = torch.tensor([3.0, 4.0], requires_grad=True)
    >>> (0.5 * w**2).sum().backward()
    >>> with ascended([w], radius=0.5):
    ...     (0.5 * w**2).sum().backward()
    >>> w.grad.tolist(), w.tolist()
    ([3.299999952316284, 4.400000095367432], [3.0, 4.0])
    """
    if not radius > 0:
        raise ValueError(f"radius={radius} must be above 0 (the papers use 0.05)")
    tensors = list(parameters.parameters() if isinstance(parameters, nn.Module) else as_iterable(parameters))
    for other in (each for each in tensors if not isinstance(each, Tensor)):
        raise TypeError(
            f"parameters holds a {type(other).__name__}; pass a model or tensors, such as model.parameters()"
        )
    # By identity: a parameter that is listed twice moves once.
    moved = [(p, p.detach().clone()) for p in {id(p): p for p in tensors}.values() if p.grad is not None]
    if not moved:
        raise ValueError("parameters: no parameter has a gradient; call backward() on the ascent loss first")
    for p, _ in moved:
        _refuse_sparse(p)
    with torch.no_grad():
        norms = [unitwise_norm(p.grad, None) for p, _ in moved if p.grad is not None]
        norms = [(norm.full_tensor() if hasattr(norm, "full_tensor") else norm).float() for norm in norms]
        norm = torch.stack([each.to(norms[0].device) ** 2 for each in norms]).sum().sqrt()
        # If the norm overflows, the weights become NaN: a visible failure, unlike weights that do not move.
        scale = torch.where(norm == torch.inf, torch.nan, radius / norm.clamp(min=1e-12))
        for p, _ in moved:
            assert p.grad is not None
            p.add_(p.grad * scale.to(p.device))
            p.grad = None
    try:
        yield norm
    finally:
        with torch.no_grad():
            for p, kept in moved:
                p.copy_(kept)
