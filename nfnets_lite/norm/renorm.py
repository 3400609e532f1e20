"""Batch renormalisation: batch norm that is corrected towards its running statistics while it trains."""

import torch
from torch import Tensor
from torch.nn import functional as F

from nfnets_lite.norm.common import ChannelNorm, follow, moments, need_two_values, scale_shift

# The paper has batch norm until step 5 thousand, the full d_max at 25 thousand and the full r_max at 40 thousand of 160
# thousand steps. Here they are shares of the training.
_PLAIN, _D_WHOLE, _R_WHOLE = 5 / 160, 25 / 160, 40 / 160


class BatchRenorm2d(ChannelNorm):
    r"""Batch renormalisation: in training, batch norm times r plus d.

    .. math:: y &= \gamma \left(\frac{x - \mu_B}{\sigma_B} r + d\right) + \beta \\
              r &= \mathrm{clip}\left(\frac{\sigma_B}{\bar\sigma}, \frac{1}{r_{max}}, r_{max}\right), \quad
              d = \mathrm{clip}\left(\frac{\mu_B - \bar\mu}{\bar\sigma}, -d_{max}, d_{max}\right)

    with :math:`\sigma_B = \sqrt{\mathrm{var}_B + \epsilon}` of the batch and running averages :math:`\bar\mu` and
    :math:`\bar\sigma`; r and d count as constants in the backward pass. Inside both bounds y is what evaluation gives,
    :math:`\gamma (x - \bar\mu) / \bar\sigma + \beta`.

    Parameters
    ----------
    channels : int
    r_max, d_max : float
        Final bounds. Until 3 % of the training they are 1 and 0, which is batch norm. Then they grow linearly with
        `progress`, to `d_max` at 16 % and `r_max` at 25 %.
    eps, momentum : float
        As in `torch.nn.BatchNorm2d`. The paper uses a momentum of 0.01, in trainings of over 100 thousand steps.

    Attributes
    ----------
    progress : Tensor
        0-d buffer, share of the training that is over; `nfnets_lite.norm.set_progress` fills it. Left at 0, the layer
        stays batch norm.

    Raises
    ------
    ValueError
        If ``r_max < 1`` or ``d_max < 0``. In the forward pass in training: if a channel has one value.

    Notes
    -----
    It costs batch norm and one more pass for the statistics. Examples are coupled: outputs less so as the bounds grow,
    gradients as in batch norm. Evaluation is a fixed affine map, foldable. As in the paper, the running average is of
    the standard deviation, not of the variance. Ioffe (arXiv 1702.03275), section 3, algorithm 1.

    Examples
    --------
    >>> norm, x = BatchRenorm2d(3), 2 + torch.randn(8, 3, 4, 4)
    >>> _ = norm.progress.fill_(1.0)
    >>> torch.allclose(norm(x), x, atol=1e-5)  # the running statistics are still 0 and 1
    True
    """

    running_mean: Tensor
    running_std: Tensor
    progress: Tensor

    def __init__(
        self, channels: int, r_max: float = 3.0, d_max: float = 5.0, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__(channels)
        if r_max < 1 or d_max < 0:
            raise ValueError(f"r_max={r_max} must be at least 1 and d_max={d_max} at least 0; the paper has 3 and 5")
        self.r_max, self.d_max, self.eps, self.momentum = r_max, d_max, eps, momentum
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_std", torch.ones(channels))
        self.register_buffer("progress", torch.zeros(()))

    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift, each ``(C,)``, that evaluation applies."""
        scale = self.weight / self.running_std
        return scale, self.bias - self.running_mean * scale

    def _correction(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        r_max = 1 + (self.r_max - 1) * self._grown(_R_WHOLE)
        d_max = self.d_max * self._grown(_D_WHOLE)
        r = (std / self.running_std).clamp(1 / r_max, r_max)
        return r, ((mean - self.running_mean) / self.running_std).clamp(-d_max, d_max)

    def _grown(self, whole: float) -> Tensor:
        return ((self.progress - _PLAIN) / (whole - _PLAIN)).clamp(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return scale_shift(x, *self.affine())
        need_two_values("batch renormalisation", x)
        with torch.no_grad():
            mean, var = moments(x)
            std = (var + self.eps).sqrt()
            r, d = self._correction(mean, std)
            follow(self.running_mean, mean, self.momentum)
            follow(self.running_std, std, self.momentum)
        # gamma (x_hat r + d) + beta: torch's batch norm with another gain and bias.
        weight, bias = self.weight * r, self.weight * d + self.bias
        return F.batch_norm(x, None, None, weight, bias, training=True, eps=self.eps)
