"""Batch-channel normalisation: batch norm by running estimates, for batches of any size, then group norm."""

import torch
from torch import Tensor
from torch.nn import functional as F

from nfnets_lite.norm.common import ChannelNorm, follow, moments, need_two_values, whole_groups
from nfnets_lite.norm.group import GroupNorm


class BatchChannelNorm(ChannelNorm):
    r"""Batch-channel normalisation: normalise by running *estimates* of mean and variance, then by group norm.

    .. math:: \hat\mu &\leftarrow \hat\mu + r (\mu_B - \hat\mu), \qquad
              \hat\sigma^2 \leftarrow \hat\sigma^2 + r (\sigma_B^2 - \hat\sigma^2) \\
              y &= \mathrm{GN}\left(\gamma_b \frac{x - \hat\mu}{\sqrt{\hat\sigma^2 + \epsilon}} + \beta_b\right)

    with mean and biased variance of this batch per channel, and a group norm with an affine map of its own. The
    estimates are updated before they are used, and are constants in the backward pass. Unlike group norm alone, they
    normalise each channel by itself; a batch of one image is enough.

    Parameters
    ----------
    channels : int
    groups : int, optional
        Groups of the group norm; must divide `channels`. By default as many as suit: up to 32, of at least 4 channels.
    rate : float
        r, the weight of this batch in the estimates.
    eps : float

    Attributes
    ----------
    weight, bias : Parameter
        :math:`\gamma_b` and :math:`\beta_b`, ``(C,)``; the group norm, `group`, has the others.
    running_mean, running_var : Tensor
        The estimates, each ``(C,)``; they start at 0 and 1.

    Raises
    ------
    ValueError
        If `groups` does not divide `channels` or `rate` is outside (0, 1]. In the forward pass in training: if a
        channel has one value.

    Notes
    -----
    Evaluation does not move the estimates; the group norm does not fold. Other examples of the batch affect an output
    through the weight r of the batch in the estimates, without a gradient. It costs a pass for the batch's statistics,
    and both norms. Qiao et al. (arXiv 1903.10520), for convolutions with standardised weights.

    Examples
    --------
    >>> norm, x = BatchChannelNorm(8, rate=0.5), 2 + torch.randn(1, 8, 4, 4)
    >>> y = norm(x)
    >>> torch.allclose(norm.running_mean, 0.5 * x.mean((0, 2, 3)))
    True
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, groups: int | None = None, rate: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__(channels)
        if not 0 < rate <= 1:
            raise ValueError(f"rate={rate} must be in (0, 1]: the share of a batch in the running estimates")
        self.rate, self.eps = rate, eps
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.group = GroupNorm(whole_groups(channels, groups), channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        if self.training:
            need_two_values("batch-channel norm", x)
            with torch.no_grad():
                batch_mean, batch_var = moments(x)
                follow(mean, batch_mean, self.rate)
                follow(var, batch_var, self.rate)
            # Copies for the backward pass: another forward pass may move the estimates before it.
            mean, var = mean.clone(), var.clone()
        x = F.batch_norm(x, mean, var, self.weight, self.bias, training=False, eps=self.eps)
        out: Tensor = self.group(x)
        return out
