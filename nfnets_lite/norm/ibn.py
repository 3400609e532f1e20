"""IBN-Net: instance norm in a network's early stages, beside batch norm (a) or between blocks (b)."""

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
    a copy. `ibn_norm` says where a network has it. Pan et al. (arXiv 1807.09441), section 3.

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


class IBNb(InstanceNorm2d):
    """The instance norm of IBN-b; the network's other norms are batch norms, see `ibn_norm`.

    Parameters
    ----------
    channels : int
    eps : float

    Notes
    -----
    As `InstanceNorm2d`. Do not use it directly before the final pooling: every image would have the same channel means.

    Examples
    --------
    >>> IBNb(3)(torch.randn(2, 3, 4, 4)).mean((2, 3)).abs().max() < 1e-5
    tensor(True)
    """


def ibn_norm(name: str, *, stage: int, stages: int, block: int, norm: int) -> str:
    """Name of the norm at a place of a pre-activation network of IBN blocks.

    IBN-a has `IBNa` after the first convolution of each block in the first three stages, but not in the last stage of
    the network. It is on the branch, so the shortcut is not changed. IBN-b has `IBNb` after the stem and after each of
    the first two stages. In a pre-activation network that is the norm at the input of the next stage's first block.

    Parameters
    ----------
    name : str
        "ibn_a" or "ibn_b".
    stage, stages : int
        Index of the stage, from 0, and number of stages.
    block : int
        Index of the block in its stage, from 0.
    norm : int
        Index of the norm in its block: 0 on the block's input, 1 behind its first convolution.

    Returns
    -------
    str
        "ibn_a", "ibn_b" or "batch". Norms outside of blocks (in a stem of several convolutions, before the head) are
        "batch".

    Raises
    ------
    ValueError
        For another name, or a `stage` that the network does not have.

    Notes
    -----
    The authors' networks are post-activation ResNets of four stages; this is the pre-activation counterpart. Pan et al.
    (arXiv 1807.09441), figure 3, and their code.

    Examples
    --------
    >>> [ibn_norm("ibn_a", stage=0, stages=3, block=1, norm=i) for i in range(3)]
    ['batch', 'ibn_a', 'batch']
    >>> [ibn_norm("ibn_b", stage=2, stages=4, block=i, norm=0) for i in range(2)]
    ['ibn_b', 'batch']
    """
    if name not in ("ibn_a", "ibn_b"):
        raise ValueError(f"name={name!r} is not known; use ibn_a or ibn_b")
    if not 0 <= stage < stages:
        raise ValueError(f"stage={stage} is not there; a network of stages={stages} has 0 to {stages - 1}")
    if name == "ibn_a":
        here = norm == 1 and stage < min(3, stages - 1)
    else:
        here = norm == 0 and block == 0 and stage <= min(2, stages - 1)
    return name if here else "batch"
