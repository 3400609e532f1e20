"""AdaB2N: batch norm whose running statistics are between a mean over all steps and a moving average."""

import torch
from torch import Tensor
from torch.nn import functional as F

from nfnets_lite.norm.batch import BatchNorm2d
from nfnets_lite.norm.common import follow


class AdaBatchNorm(BatchNorm2d):
    r"""Batch norm whose running statistics follow the adaptive balance of AdaB2N.

    .. math:: \bar\mu_t = \bar\mu_{t-1} + \eta_t (\mu_t - \bar\mu_{t-1}), \qquad
              \eta_t = \frac{\eta_{t-1}}{\eta_{t-1} + (1 - m)^\kappa}, \qquad \eta_1 = m^\kappa

    The variance follows the same rule. Training normalises by the batch, as `BatchNorm2d`. With :math:`\kappa = 1` the
    statistics are its moving averages of momentum m, with :math:`\kappa = 0` plain means over all steps.

    Parameters
    ----------
    channels : int
    kappa : float
        In [0, 1], the balance.
    eps, momentum : float
        As in `torch.nn.BatchNorm2d`; `momentum` is m, in (0, 1). If it is set to None later, as
        `torch.optim.swa_utils.update_bn` does, the statistics are plain means over all steps.

    Attributes
    ----------
    steps_averaged : Tensor
        0-d buffer, :math:`1 / \eta_t`: the effective number of steps in the average. It grows to
        :math:`1 / (1 - (1 - m)^\kappa)`.

    Raises
    ------
    ValueError
        If `kappa` or `momentum` is outside its range. In the forward pass in training: if a channel has one value.

    Notes
    -----
    AdaB2N was made for continual learning. Two of its parts are left out: weights of examples by task, and a loss term
    that pulls batch statistics towards the running ones. Cost, coupling and evaluation are those of batch norm. The
    averaged variance is unbiased, as torch's (the authors' is biased). Lyu et al. (NeurIPS 2023, arXiv 2310.08855); the
    start is from their code.

    Examples
    --------
    >>> norm = AdaBatchNorm(1, kappa=0.0)
    >>> for mean in (0.0, 3.0, 6.0):
    ...     y = norm(mean + torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1))
    >>> norm.running_mean, norm.steps_averaged
    (tensor([3.]), tensor(3.))
    """

    steps_averaged: Tensor

    def __init__(self, channels: int, kappa: float = 0.5, eps: float = 1e-5, momentum: float = 0.1) -> None:
        if not 0 <= kappa <= 1:
            raise ValueError(f"kappa={kappa} must be in [0, 1]: 0 is the mean over all steps, 1 the moving average")
        if not 0 < momentum < 1:
            raise ValueError(f"momentum={momentum} must be in (0, 1); torch's batch norm has 0.1")
        super().__init__(channels, eps=eps, momentum=momentum)
        self.kappa, self._keep = kappa, (1 - momentum) ** kappa
        self._before = (momentum**-kappa - 1) / self._keep  # 1 / eta_0: the rule then gives eta_1 = m^kappa
        self.register_buffer("steps_averaged", torch.tensor(self._before))

    def reset_running_stats(self) -> None:
        """Set running statistics and their step size back to their start."""
        super().reset_running_stats()
        if "steps_averaged" in self._buffers:  # torch's constructor calls this before the buffer exists
            self.steps_averaged.fill_(self._before)

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        # With momentum 1, torch's kernel writes the batch's statistics into the two buffers.
        mean, var = torch.zeros_like(self.running_mean), torch.ones_like(self.running_var)
        out = F.batch_norm(input, mean, var, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.steps_averaged.mul_(self._keep).add_(1)
            eta = (self.steps_averaged if self.momentum is not None else self.num_batches_tracked).reciprocal()
            follow(self.running_mean, mean, eta)
            follow(self.running_var, var, eta)
        return out

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, kappa={self.kappa}"  # type: ignore[no-untyped-call]
