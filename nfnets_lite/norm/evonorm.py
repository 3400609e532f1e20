"""EvoNorm: norm and activation in one formula, found by search, with batch statistics (B0) and without (S0)."""

import torch
from torch import Tensor, nn

from nfnets_lite.norm.common import ChannelNorm, at_least_float32, follow, need_two_values, scale_shift, whole_groups


class _EvoNorm(ChannelNorm):
    activates = True

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__(channels)
        self.eps = eps
        self.slope = nn.Parameter(torch.ones(channels))

    def _std(self, var: Tensor) -> Tensor:
        return (var + self.eps).sqrt()


class EvoNormB0(_EvoNorm):
    r"""EvoNorm-B0: divide by the larger of the batch's deviation and the example's own deviation plus v x.

    .. math:: y = \gamma \frac{x}{\max\left(\sqrt{\sigma_{nhw}^2 + \epsilon},\
              v x + \sqrt{\sigma_{hw}^2 + \epsilon}\right)} + \beta

    with the biased variance of a channel over batch and positions, and over one example's positions.

    Parameters
    ----------
    channels : int
    eps, momentum : float
        As in `torch.nn.BatchNorm2d`.

    Attributes
    ----------
    activates : bool
        True: the maximum makes it nonlinear, and no activation belongs after it.
    slope : Parameter
        v, ``(C,)``, starts at 1.

    Raises
    ------
    ValueError
        In the forward pass, in training, if a channel has one value.

    Notes
    -----
    The batch's variance couples examples. Evaluation uses its running average (biased, as in the authors' code) and
    still computes each example's own variance, so it does not fold. It costs two variances and a division.
    Liu et al. (arXiv 2004.02967), the table of its layers.

    Examples
    --------
    >>> EvoNormB0(4)(torch.randn(2, 4, 5, 5)).shape
    torch.Size([2, 4, 5, 5])
    """

    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(channels, eps)
        self.momentum = momentum
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        var = self.running_var
        if self.training:
            need_two_values("EvoNorm-B0", x)
            var = at_least_float32(x).var((0, 2, 3), correction=0)
            with torch.no_grad():
                follow(self.running_var, var, self.momentum)
        wide = at_least_float32(x)
        own = self._std(wide.var((2, 3), correction=0, keepdim=True))
        bent = self.slope[:, None, None] * wide + own
        y = wide / torch.maximum(self._std(var)[:, None, None], bent)
        return scale_shift(y, self.weight, self.bias).to(x.dtype)


class EvoNormS0(_EvoNorm):
    r"""EvoNorm-S0: the gated input divided by the deviation of its group of channels, within one example.

    .. math:: y = \gamma \frac{x \, \mathrm{sigmoid}(v x)}{\sqrt{\sigma_g^2 + \epsilon}} + \beta

    with the biased variance of x, about its mean, over the group's channels and positions.

    Parameters
    ----------
    channels : int
    groups : int, optional
        Must divide `channels`. By default as many as suit: up to 32, of at least 4 channels each.
    eps : float

    Attributes
    ----------
    activates : bool
        True: the gate is the activation, and none belongs after it.
    slope : Parameter
        v, ``(C,)``, starts at 1, where the numerator is SiLU.

    Raises
    ------
    ValueError
        If `groups` does not divide `channels`.

    Notes
    -----
    No example depends on another, training and evaluation are the same, and it does not fold. It costs group norm's
    pass for the variance and a sigmoid. Liu et al. (arXiv 2004.02967), the table of its layers.

    Examples
    --------
    >>> EvoNormS0(8)(torch.randn(2, 8, 5, 5)).shape
    torch.Size([2, 8, 5, 5])
    """

    def __init__(self, channels: int, groups: int | None = None, eps: float = 1e-5) -> None:
        super().__init__(channels, eps)
        self.groups = whole_groups(channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        wide = at_least_float32(x)
        var = wide.reshape(len(x), self.groups, -1, *x.shape[2:]).var((2, 3, 4), correction=0)
        std = self._std(var).repeat_interleave(len(self.weight) // self.groups, dim=1)
        gated = wide * torch.sigmoid(self.slope[:, None, None] * wide)
        return scale_shift(gated / std[:, :, None, None], self.weight, self.bias).to(x.dtype)
