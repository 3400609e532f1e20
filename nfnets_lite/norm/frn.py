"""Filter response normalisation with its thresholded linear unit."""

import torch
from torch import Tensor, nn

from nfnets_lite.norm.common import ChannelNorm, at_least_float32


class FilterResponseNorm2d(ChannelNorm):
    r"""Filter response normalisation and its activation: divide a channel by its root mean square, then threshold.

    .. math:: y = \max\left(\gamma \frac{x}{\sqrt{\nu^2 + \epsilon}} + \beta,\ \tau\right), \qquad
              \nu^2 = \frac{1}{HW} \sum_{h, w} x_{hw}^2

    for each channel of each example.

    Parameters
    ----------
    channels : int
    eps : float

    Attributes
    ----------
    activates : bool
        True: the threshold is the activation, and none belongs after it.
    threshold : Parameter
        :math:`\tau`, ``(C,)``, starts at 0, where the activation is ReLU; learned because no mean is subtracted.

    Notes
    -----
    It costs one pass for the mean square, in evaluation too. No example depends on another, training and evaluation are
    the same, and it does not fold. Of a map of one position only signs are left; the authors learn :math:`\epsilon`
    there.
    Singh and Krishnan (arXiv 1911.09737), section 3.

    Examples
    --------
    >>> FilterResponseNorm2d(1)(torch.tensor([[[[3.0, -3.0]]]])).round(decimals=4)
    tensor([[[[1., 0.]]]], grad_fn=<RoundBackward1>)
    """

    activates = True

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels)
        self.eps = eps
        self.threshold = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        wide = at_least_float32(x)
        inverse = (wide.square().mean((2, 3), keepdim=True) + self.eps).rsqrt()
        weight, bias, threshold = (p[:, None, None] for p in (self.weight, self.bias, self.threshold))
        return torch.maximum(wide * (inverse * weight) + bias, threshold).to(x.dtype)
