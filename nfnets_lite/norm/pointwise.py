"""Layers without statistics in the place of a norm: a saturating function of each value."""

import torch
from torch import Tensor, nn

from nfnets_lite.norm.common import ChannelNorm, at_least_float32


class DyT(ChannelNorm):
    r"""Dynamic tanh: a tanh of learnable width, applied to each value.

    .. math:: y = \gamma \tanh(\alpha x) + \beta

    Parameters
    ----------
    channels : int
    alpha : float
        Start of the learnable :math:`\alpha`, one number for the layer.

    Attributes
    ----------
    weight, bias : Parameter
        :math:`\gamma` and :math:`\beta`, ``(C,)``; they start at 1 and 0.
    alpha : Parameter
        Shape ``(1,)``.

    Raises
    ------
    ValueError
        If `alpha` is not positive.

    Notes
    -----
    No statistics: no example depends on another, training and evaluation are the same, and it costs one elementwise
    pass. It is not affine, so it does not fold. Near 0 its gain is :math:`\gamma\alpha`; large values are bounded, and
    do not scale the others down. Zhu et al. (arXiv 2503.10622), section 4, for transformers.

    Examples
    --------
    >>> DyT(1)(torch.tensor([0.0, 100.0]).reshape(2, 1, 1, 1)).flatten()
    tensor([0., 1.], grad_fn=<ViewBackward0>)
    """

    def __init__(self, channels: int, alpha: float = 0.5) -> None:
        super().__init__(channels)
        if not alpha > 0:
            raise ValueError(f"alpha={alpha} must be above 0; the authors start at 0.5")
        self.alpha = nn.Parameter(torch.tensor([float(alpha)]))

    def _bounded(self, x: Tensor) -> Tensor:
        return torch.tanh(self.alpha * x)

    def forward(self, x: Tensor) -> Tensor:
        bounded = self._bounded(at_least_float32(x))
        return (self.weight[:, None, None] * bounded + self.bias[:, None, None]).to(x.dtype)


class Derf(DyT):
    r"""Dynamic erf: `DyT` with the error function, and a learnable shift inside.

    .. math:: y = \gamma\, \mathrm{erf}(\alpha x + s) + \beta, \qquad
              \mathrm{erf}(u) = \frac{2}{\sqrt\pi} \int_0^u e^{-t^2} dt

    The parameters, and the attributes other than `s`, are those of `DyT`.

    Attributes
    ----------
    s : Parameter
        Shape ``(1,)``, one number for the layer, starts at 0.

    Notes
    -----
    Cost, coupling and evaluation are those of `DyT`. Chen et al. (arXiv 2512.10938).

    Examples
    --------
    >>> Derf(1)(torch.tensor([0.0, 2.0]).reshape(2, 1, 1, 1)).flatten().detach().round(decimals=4)
    tensor([0.0000, 0.8427])
    """

    def __init__(self, channels: int, alpha: float = 0.5) -> None:
        super().__init__(channels, alpha)
        self.s = nn.Parameter(torch.zeros(1))

    def _bounded(self, x: Tensor) -> Tensor:
        return torch.erf(self.alpha * x + self.s)
