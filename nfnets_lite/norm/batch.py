"""Batch normalisation over a batch, over the batches of all processes, and over parts of a batch (ghost batches)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from nfnets_lite.norm.common import four_axes, need_two_values


class BatchNorm2d(nn.BatchNorm2d):
    r"""`torch.nn.BatchNorm2d`, with an error that says what to do if a channel has a single value.

    .. math:: y = \gamma \frac{x - \mu_B}{\sqrt{\sigma_B^2 + \epsilon}} + \beta

    with mean and biased variance of a channel over the batch and its positions. Parameters are those of torch's layer.

    Notes
    -----
    Training uses the batch's statistics, which couples its examples, and keeps running averages. Evaluation uses these
    averages: a fixed affine map, which folds into the convolution before it. Statistics cost one pass over the input,
    and one in the backward pass. Ioffe and Szegedy (arXiv 1502.03167), section 3.

    Examples
    --------
    >>> y = BatchNorm2d(3)(5 + 2 * torch.randn(64, 3, 4, 4))
    >>> y.mean((0, 2, 3)).abs().max() < 1e-5
    tensor(True)
    """

    def _check_input_dim(self, input: Tensor) -> None:
        four_axes(self, input)
        if self.training or self.running_mean is None:
            need_two_values("batch norm", input)


class SyncBatchNorm(nn.SyncBatchNorm):
    r"""Batch normalisation whose statistics are those of the batch over *all* processes: `torch.nn.SyncBatchNorm`.

    The formula and the evaluation are `BatchNorm2d`'s. Parameters are those of torch's layer.

    Notes
    -----
    In one process it is `BatchNorm2d`. On a CPU each process normalises *by itself*, because torch's layer refuses the
    CPU once a process group exists. It couples the examples of all processes, and costs two small exchanges per layer
    and step, during which every process waits for the slowest.

    Examples
    --------
    >>> x = torch.randn(8, 3, 4, 4)
    >>> torch.equal(SyncBatchNorm(3)(x), BatchNorm2d(3)(x))
    True
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.is_cuda and torch.distributed.is_available() and torch.distributed.is_initialized():
            return super().forward(input)
        if self.training or self.running_mean is None:
            need_two_values("batch norm", input)
        return _BatchNorm.forward(self, input)


class GhostBatchNorm2d(BatchNorm2d):
    r"""Batch normalisation of consecutive parts of `size` examples, each with its own statistics.

    .. math:: y_k = \gamma \frac{x_k - \mu_k}{\sqrt{\sigma_k^2 + \epsilon}} + \beta, \qquad
              (\bar\mu, \bar\sigma^2) \leftarrow (1 - m) (\bar\mu, \bar\sigma^2) + m (\mu_k, \sigma_k^2)

    for k = 1, 2, ... in turn: a batch moves the running statistics as its parts would one by one.

    Parameters
    ----------
    channels : int
    size : int
        Examples that share statistics; it must divide every training batch.
    eps, momentum : float
        As in `torch.nn.BatchNorm2d`; with a momentum of None, running statistics are plain means over all parts so far.

    Raises
    ------
    ValueError
        If `size` is below 1. In the forward pass in training: if the batch is no multiple of `size`, or a part has one
        value per channel.

    Notes
    -----
    Only examples of the same part are coupled. Each part is one call of torch's batch norm. Evaluation is that of batch
    norm, foldable. Hoffer, Hubara and Soudry (arXiv 1705.08741), section 4, algorithm 1.

    Examples
    --------
    >>> norm, plain, x = GhostBatchNorm2d(3, size=8), BatchNorm2d(3), torch.randn(16, 3, 4, 4)
    >>> torch.equal(norm(x), torch.cat([plain(x[:8]), plain(x[8:])]))
    True
    """

    def __init__(self, channels: int, size: int = 32, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        if size < 1:
            raise ValueError(f"size={size} must be at least 1 example")
        super().__init__(channels, eps=eps, momentum=momentum)
        self.size = size

    def _check_input_dim(self, input: Tensor) -> None:
        four_axes(self, input)
        if self.training:
            need_two_values("ghost batch norm", input, self.size)

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        if len(input) % self.size:
            divisors = [str(n) for n in range(1, len(input) + 1) if len(input) % n == 0]
            fault = "is larger than" if self.size > len(input) else "does not divide"
            raise ValueError(
                f"size={self.size} {fault} the batch of {len(input)} examples; use a size that does "
                f"({', '.join(divisors)}), or batches of a multiple of {self.size} (drop an epoch's last, short batch)"
            )
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(len(input) // self.size)
        parts = torch.split(input, self.size)
        args = self.running_mean, self.running_var, self.weight, self.bias, True
        if self.momentum is None:
            # Cumulative mean over all parts. Reading the counter makes the CPU wait for a GPU, as in torch's BatchNorm.
            last = int(self.num_batches_tracked)
            rates = [1 / count for count in range(last - len(parts) + 1, last + 1)]
        else:
            rates = [self.momentum] * len(parts)
        return torch.cat([F.batch_norm(part, *args, rate, self.eps) for part, rate in zip(parts, rates)])

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, size={self.size}"  # type: ignore[no-untyped-call]
