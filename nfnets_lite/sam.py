"""Sharpness-aware minimisation: take the gradient where the loss is worst, a small step uphill."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nfnets_lite.agc import refuse_sparse, unitwise_norm


@contextmanager
def ascended(parameters: nn.Module | Iterable[Tensor], radius: float = 0.05) -> Iterator[Tensor]:
    r"""Weights moved along the gradient they hold, by `radius` in all, inside the block; their own, to the bit, after.

    .. math:: w + \rho \frac{g}{\|g\|}

    The gradients are cleared on entry, so that the ``backward`` inside the block leaves those of the moved weights for
    the optimizer to use on the original ones.

    Parameters
    ----------
    parameters : nn.Module or iterable of Tensor
        With the gradient of the ascent step in ``.grad``. Those without one are not moved.
    radius : float
        :math:`\rho`, the length of the step over all parameters together.

    Yields
    ------
    Tensor
        0-d: the norm of the gradient that was climbed.

    Raises
    ------
    ValueError
        For a radius that is not positive, a sparse gradient, or if there is no gradient at all.

    Notes
    -----
    SAM (arXiv 2010.01412), equation 2. NFNet (arXiv 2102.06171, section 5) computes the ascent gradient on 20 % of the
    same batch; the authors' code does not have it. Under DDP and FSDP2 the ascent follows the gradient averaged over
    processes, so any number of them takes the same step; the SAM paper lets each device climb on its own.
    Clip and decay after the block: they belong to the update, not to the ascent.

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
    tensors = parameters.parameters() if isinstance(parameters, nn.Module) else parameters
    # By identity: a parameter that is given twice climbs once.
    moved = [(p, p.detach().clone()) for p in {id(p): p for p in tensors}.values() if p.grad is not None]
    if not moved:
        raise ValueError("no parameter has a gradient to climb; call backward() on the ascent loss first")
    for p, _ in moved:
        refuse_sparse(p)
    with torch.no_grad():
        squares = [_whole(unitwise_norm(p.grad, None)).float() ** 2 for p, _ in moved if p.grad is not None]
        norm = torch.stack(squares).sum().sqrt()
        # An infinite norm makes the weights NaN for the second pass, which is seen, rather than leave them in place.
        scale = torch.where(norm == torch.inf, torch.nan, radius / norm.clamp(min=1e-12))
        for p, _ in moved:
            assert p.grad is not None
            p.add_(p.grad * scale)
            p.grad = None
    try:
        yield norm
    finally:
        with torch.no_grad():
            for p, kept in moved:
                p.copy_(kept)


def _whole(x: Tensor) -> Tensor:
    """A sharded number (DTensor) as an ordinary one."""
    gather = getattr(x, "full_tensor", None)
    return x if gather is None else gather()
