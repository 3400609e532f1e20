"""PowerNorm: division by a running quadratic mean, with an approximate backward pass."""

from functools import partial

import torch
from torch import Tensor

from nfnets_lite.norm.common import at_least_float32, follow, scale_shift, whole_groups
from nfnets_lite.norm.scaled import RunningSquareNorm, scaled


class PowerNorm(RunningSquareNorm):
    r"""PowerNorm: divide each channel by a running quadratic mean of the steps *before* this one.

    .. math:: z = \frac{x}{\sqrt{\psi^2 + \epsilon}}, \quad y = \gamma z + \beta, \qquad
              \psi^2 \leftarrow \alpha \psi^2 + (1 - \alpha) E[x^2]

    with means E over batch and positions. No gradient can flow through earlier steps; in its place the backward pass
    uses a running statistic :math:`\nu`, which starts at 0:

    .. math:: \frac{\partial L}{\partial x} &= \frac{1}{\sqrt{\psi^2 + \epsilon}}
              \left(\frac{\partial L}{\partial z} - \nu z\right) \\
              \nu &\leftarrow \nu \left(1 - (1 - \alpha) E[z^2]\right)
              + (1 - \alpha) E\left[\frac{\partial L}{\partial z} z\right]

    While ``progress < warmup``, training divides by the batch's own quadratic mean, with the exact gradient, and it
    updates both running statistics.

    Parameters
    ----------
    channels : int
    alpha : float
        Decay of both running statistics per step; the authors use 0.9.
    warmup : float
        Share of the training, by `progress`, with batch statistics; 0 for none. It does not end unless `progress` is
        set.
    groups : int, optional
        If given, each position is first divided by its root mean square over each of this many groups of channels, in
        evaluation too. The authors' code has one group. None, as in the formula, leaves this out.
    eps : float

    Attributes
    ----------
    running_square, gradient_statistic : Tensor
        :math:`\psi^2` and :math:`\nu`, each ``(C,)``. The backward pass updates :math:`\nu`.
    progress : Tensor
        0-d buffer, share of the training that is over; `nfnets_lite.norm.set_progress` fills it.

    Raises
    ------
    ValueError
        For `alpha` outside [0, 1), `warmup` outside [0, 1], or `groups` that do not divide `channels`.

    Notes
    -----
    After the warm-up an output depends on all earlier batches, and not on other examples of its batch. No mean is
    subtracted: a large mean uses up the scale. It costs two passes over the input in each direction. Evaluation is a
    fixed scale and shift, foldable unless there are `groups`. Shen et al. (arXiv 2003.07845), algorithm 2; their code
    differs, and divides the gradient by the batch's quadratic mean.

    Examples
    --------
    >>> norm, x = PowerNorm(1, warmup=0.0), torch.full((2, 1, 1, 1), 3.0)
    >>> norm(x).flatten()[0].round(decimals=3), norm.running_square
    (tensor(3., grad_fn=<RoundBackward1>), tensor([1.8000]))
    """

    def __init__(
        self, channels: int, alpha: float = 0.9, warmup: float = 0.1, groups: int | None = None, eps: float = 1e-5
    ) -> None:
        super().__init__(channels, alpha, warmup, eps)
        self.groups = None if groups is None else whole_groups(channels, groups)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift, each ``(C,)``, that evaluation applies; a ValueError with `groups`."""
        if self.groups is not None:
            raise ValueError(
                f"groups={self.groups}: each position is divided by a root mean square of its own, so evaluation is "
                "no fixed map. Train with groups=None to fold"
            )
        return super().affine()

    def _positions_scaled(self, x: Tensor) -> Tensor:
        if self.groups is None:
            return x
        split = torch.unflatten(at_least_float32(x), 1, (self.groups, -1))
        split = split * (split.square().mean(2, keepdim=True) + self.eps).rsqrt()
        return split.flatten(1, 2).to(x.dtype)

    @torch.no_grad()
    def _statistic(self, warm: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """The statistic that the gradient uses for `first`, E[dL/dz z]; `second` is E[z^2]."""
        used = torch.where(warm, first, self.gradient_statistic)
        step = (1 - self.alpha) * (first - self.gradient_statistic * second)
        self.gradient_statistic.add_(step)
        return used

    def forward(self, x: Tensor) -> Tensor:
        x = self._positions_scaled(x)
        if not self.training:
            return scale_shift(x, *super().affine())
        with torch.no_grad():
            square = at_least_float32(x).square().mean((0, 2, 3))
            warm = self.progress < self.warmup
            inverse = (torch.where(warm, square, self.running_square) + self.eps).rsqrt()
            follow(self.running_square, square, 1 - self.alpha)
        return scaled(x, self.weight, self.bias, inverse, partial(self._statistic, warm))
