"""Unified normalisation: second moments are smoothed over the last steps by a geometric mean, without outliers."""

from functools import partial

import torch
from torch import Tensor

from nfnets_lite.norm.common import at_least_float32, follow, scale_shift
from nfnets_lite.norm.scaled import RunningSquareNorm, scaled


class UnifiedNorm(RunningSquareNorm):
    r"""Unified normalisation: divide each channel by the root of the geometric mean of its last M second moments.

    .. math:: z_t &= \frac{x_t}{\sqrt{\hat\sigma_t^2 + \epsilon}}, \quad y_t = \gamma z_t + \beta \\
              \hat\sigma_t^2 &= \Bigl(\prod_{i=0}^{M-1} \sigma_{t-i}^2\Bigr)^{1/M}, \quad \sigma_t^2 = E[x_t^2]

    with means E over batch and positions; this step is one of the M. The gradient statistic
    :math:`g_t = E[\frac{\partial L}{\partial z_t} z_t]` is smoothed, too, by an arithmetic mean and a running average:

    .. math:: \frac{\partial L}{\partial x_t} &= \frac{1}{\sqrt{\hat\sigma_t^2 + \epsilon}}
              \left(\frac{\partial L}{\partial z_t} - \psi_t z_t\right) \\
              \psi_t &= \alpha \psi_{t-1} + \frac{1 - \alpha}{M} \sum_{i=0}^{M-1} g_{t-i}

    A step is an outlier if a channel's arithmetic mean of the M moments exceeds the geometric mean by more than M times
    the variance of the M roots recorded *before* this step. An outlier, and every step while ``progress < warmup`` or
    fewer than M steps are recorded, uses its own statistics: :math:`\hat\sigma_t^2 = \sigma_t^2` and
    :math:`\psi_t = g_t`, with the exact gradient. The running statistics are recorded in place of an outlier's.

    Parameters
    ----------
    channels : int
    window : int
        M, at least 2; the authors' code has 4.
    alpha, warmup : float
        As in `PowerNorm`.
    filtration : bool
        Whether outliers are looked for.
    eps : float

    Attributes
    ----------
    running_square : Tensor
        ``(C,)``, running average of :math:`\hat\sigma^2`: evaluation divides by its root.
    squares, gradients : Tensor
        ``(M, C)``, the last :math:`\sigma^2` and g, the newest last. The backward pass updates `gradients` and
        `gradient_statistic`, which is :math:`\psi`.
    steps, skipped : Tensor
        0-d, training steps so far, and how many of them were outliers.
    progress : Tensor
        0-d buffer, share of the training that is over; `nfnets_lite.norm.set_progress` fills it.

    Raises
    ------
    ValueError
        For a `window` below 2, `alpha` outside [0, 1) or `warmup` outside [0, 1].

    Notes
    -----
    Examples are coupled: a batch has the weight 1/M in the logarithm of the scale. No mean is subtracted. It costs two
    passes over the input in each direction. Evaluation is a fixed scale and shift, foldable. Yang et al. (ACM
    Multimedia 2022, arXiv 2208.01313). As in the authors' code, the variance is one number over the window and all
    channels, and one channel above the bound makes the whole step an outlier. Their code also multiplies gradients by a
    clipped ratio of this step's scale to the running scale; the paper and this class do not.

    Examples
    --------
    >>> norm = UnifiedNorm(1, window=2, warmup=0.0, filtration=False)
    >>> for size in (1.0, 4.0, 1.0):
    ...     y = norm(torch.full((2, 1, 1, 1), size))
    >>> y.flatten()[0].detach().round(decimals=4)  # 1 / 2: the last two squares, 16 and 1, have the geometric mean 4
    tensor(0.5000)
    """

    squares: Tensor
    gradients: Tensor
    steps: Tensor
    skipped: Tensor

    def __init__(
        self,
        channels: int,
        window: int = 4,
        alpha: float = 0.9,
        warmup: float = 0.1,
        filtration: bool = True,
        eps: float = 1e-5,
    ) -> None:
        super().__init__(channels, alpha, warmup, eps)
        if window < 2:
            raise ValueError(f"window={window} must be at least 2 steps; the authors have 4")
        self.window, self.filtration = window, filtration
        self.register_buffer("squares", torch.zeros(window, channels))
        self.register_buffer("gradients", torch.zeros(window, channels))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("skipped", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return scale_shift(x, *self.affine())
        with torch.no_grad():
            square = at_least_float32(x).square().mean((0, 2, 3))
            alone, outlier, geometric = self._judge(square)
            used = torch.where(alone, square, geometric)
            self._record(self.squares, torch.where(outlier, self.running_square, square))
            follow(self.running_square, used, 1 - self.alpha)
            self.steps.add_(1)
            self.skipped.add_(outlier)
            inverse = (used + self.eps).rsqrt()
        return scaled(x, self.weight, self.bias, inverse, partial(self._statistic, alone, outlier))

    def _judge(self, square: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whether the step uses its own statistics, whether it is an outlier, and the window's geometric mean."""
        settled = (self.steps >= self.window) & (self.progress >= self.warmup)
        latest = torch.cat([self.squares[1:], square[None]])
        geometric = latest.log().mean(0).exp()
        bound = self.window * self.squares.sqrt().var()
        outlier = (latest.mean(0) - geometric > bound).any() & settled & self.filtration
        return ~settled | outlier, outlier, geometric

    @torch.no_grad()
    def _statistic(self, alone: Tensor, outlier: Tensor, first: Tensor, _second: Tensor) -> Tensor:
        """The statistic that the gradient uses for `first`, E[dL/dz z]."""
        self._record(self.gradients, torch.where(outlier, self.gradient_statistic, first))
        follow(self.gradient_statistic, self.gradients.mean(0), 1 - self.alpha)
        return torch.where(alone, first, self.gradient_statistic)

    @staticmethod
    def _record(window: Tensor, newest: Tensor) -> None:
        window.copy_(torch.cat([window[1:], newest[None].to(window.dtype)]))
