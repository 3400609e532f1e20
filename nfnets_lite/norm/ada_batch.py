"""Adaptive balance of batch norm's running statistics, between a mean over all steps and a moving average."""

import torch
from torch import Tensor
from torch.nn import functional as F

from nfnets_lite.norm.batch import BatchNorm2d
from nfnets_lite.norm.common import follow


class AdaBatchNorm(BatchNorm2d):
    r"""Batch norm whose running statistics follow the adaptive balance of AdaB2N.

    .. math:: \bar\mu_t = \bar\mu_{t-1} + \eta_t (\mu_t - \bar\mu_{t-1}), \qquad
              \eta_t = \frac{\eta_{t-1}}{\eta_{t-1} + (1 - m)^\kappa}, \qquad \eta_1 = m^\kappa

    and the same for the variance; training normalises by the batch, as `BatchNorm2d`. With :math:`\kappa = 1` that is
    its moving average of momentum m, with :math:`\kappa = 0` the mean over all steps, each weighing the same.

    Parameters
    ----------
    channels : int
    kappa : float
        In [0, 1], the balance.
    eps, momentum : float
        As in `torch.nn.BatchNorm2d`; `momentum` is m, in (0, 1). Set to None later, as
        `torch.optim.swa_utils.update_bn` does, it makes the mean over all steps.

    Attributes
    ----------
    steps_averaged : Tensor
        0-d buffer, :math:`1 / \eta_t`: how many steps the average is worth. It grows to
        :math:`1 / (1 - (1 - m)^\kappa)`.

    Raises
    ------
    ValueError
        For `kappa` or `momentum` outside their ranges; in the forward pass, in training, if a channel has one value.

    Notes
    -----
    AdaB2N was made for learning tasks one after another. Its other parts, batch statistics weighted by task and a loss
    that pulls them towards the running ones, are left out: the first needs each example's task, and the second is no
    layer's business. Cost, coupling and evaluation as in batch norm; the variance that is averaged is unbiased,
    as torch's (the authors' is biased). Lyu et al. (NeurIPS 2023, arXiv 2310.08855), and their code for the start.

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
        """Running statistics and their step size as at the start."""
        super().reset_running_stats()
        if "steps_averaged" in self._buffers:  # torch's constructor calls this before it is there
            self.steps_averaged.fill_(self._before)

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        # With momentum 1, torch's kernel leaves the batch's own statistics where running ones would be.
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
