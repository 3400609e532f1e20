"""IBN-Net: instance norm in a network's early stages, beside batch norm (a) or between blocks (b)."""

import torch
from torch import Tensor, nn

from nfnets_lite.norm.batch import BatchNorm2d
from nfnets_lite.norm.group import InstanceNorm2d


class IBNa(nn.Module):
    r"""Instance norm of the first half of the channels, batch norm of the second, each with its gain and bias.

    Parameters
    ----------
    channels : int
        At least 2; of an odd number, the batch norm has one more.
    eps, momentum : float
        `eps` of both; `momentum` as in `torch.nn.BatchNorm2d`.

    Raises
    ------
    ValueError
        For fewer than 2 channels; in the forward pass for a map of one position, which instance norm needs more than.

    Notes
    -----
    The idea: contrast and colour are taken off half of the channels, content is kept in the other half. The second
    half couples examples in training, evaluation has running statistics there; nothing folds. It costs batch norm and
    a copy. Pan et al. (arXiv 1807.09441), section 3. Where a network has it says `ibn_norm`.

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
    As `InstanceNorm2d`. A network must not have it directly before its pooling: it would erase what is pooled.

    Examples
    --------
    >>> IBNb(3)(torch.randn(2, 3, 4, 4)).mean((2, 3)).abs().max() < 1e-5
    tensor(True)
    """


def ibn_norm(name: str, *, stage: int, stages: int, block: int, norm: int) -> str:
    """Which norm stands at a place of a pre-activation network of IBN blocks.

    IBN-a has instance norm beside batch norm after the first convolution of each block of the first three stages, the
    last stage left out: on the branch, so that the shortcut stays as it is. IBN-b has instance norm after the stem and
    after the sum that ends each of the first two stages; where norms come first, both are what the first
    block of the next stage takes.

    Parameters
    ----------
    name : str
        "ibn_a" or "ibn_b".
    stage, stages : int
        Which one, from 0, of how many.
    block : int
        Within its stage, from 0.
    norm : int
        Within its block, from 0: the one on the block's input is 0, the one behind its first convolution 1.

    Returns
    -------
    str
        "ibn_a", "ibn_b" or "batch". Norms outside of blocks (in a stem of several convolutions, before the head) are
        "batch".

    Raises
    ------
    ValueError
        For another name, or a stage that is not there.

    Notes
    -----
    The authors' networks are post-activation ResNets of four stages; this is the counterpart. Pan et al.
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
