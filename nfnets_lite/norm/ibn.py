"""IBN-a: instance norm beside batch norm."""

import torch
from torch import Tensor, nn

from nfnets_lite.norm.batch import BatchNorm2d
from nfnets_lite.norm.group import InstanceNorm2d


class IBNa(nn.Module):
    r"""Instance norm on the first half of the channels, batch norm on the second, each with its gain and bias.

    Parameters
    ----------
    channels : int
        At least 2; of an odd number, batch norm has one more than instance norm.
    eps, momentum : float
        `eps` of both; `momentum` as in `torch.nn.BatchNorm2d`.

    Raises
    ------
    ValueError
        For fewer than 2 channels. In the forward pass: for a map of one position, which instance norm cannot normalise.

    Notes
    -----
    Instance norm removes contrast and colour from half of the channels; the other half keeps them. The second half
    couples examples in training, and uses running statistics in evaluation. It does not fold, and costs batch norm and
    a copy. A residual network of this package has it behind the first convolution of each block in the first three
    stages, but not in the last stage, and batch norm at the other places. Pan et al. (arXiv 1807.09441), section 3.

    Examples
    --------
    >>> y = IBNa(4)(torch.randn(8, 4, 5, 5) * 3 + 1)
    >>> y[:, :2].mean((2, 3)).abs().max() < 1e-5, y[:, 2:].mean((0, 2, 3)).abs().max() < 1e-5
    (tensor(True), tensor(True))
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        if channels < 2:
            raise ValueError(f"channels={channels} must be at least 2: half have instance norm, half batch norm")
        half = channels // 2
        self.instance = InstanceNorm2d(half, eps=eps)
        self.batch = BatchNorm2d(channels - half, eps=eps, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        first, second = torch.split(x, [self.instance.num_features, self.batch.num_features], dim=1)
        return torch.cat([self.instance(first), self.batch(second)], dim=1)
