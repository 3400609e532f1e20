"""Norms within one example: over groups of channels, all channels, the channels of a position, or one channel."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nfnets_lite.norm.common import need_two_values, whole_groups


class GroupNorm(nn.GroupNorm):
    """torch's group norm, which copies maps in channels last on a CPU where torch's kernel for them fails or is slow.

    In torch 2.13 that kernel ends with a segmentation fault in the backward pass if its input needs no gradient. In
    half precision it takes up to twenty times as long as for channels first.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not isinstance(input, Tensor) or input.device.type != "cpu":  # torch.fx passes a proxy that is no tensor
            return super().forward(input)
        half = input.dtype in (torch.bfloat16, torch.float16)
        if half and input.ndim == 4 and not input.is_contiguous() and not torch.compiler.is_compiling():
            return super().forward(input.contiguous()).contiguous(memory_format=torch.channels_last)
        if torch.is_grad_enabled() and not input.requires_grad:
            input = input.contiguous()
        return super().forward(input)


def group(channels: int, groups: int | None = None, eps: float = 1e-5) -> nn.GroupNorm:
    r"""Group normalisation, `torch.nn.GroupNorm`: statistics over some channels and all positions of one example.

    .. math:: y = \gamma \frac{x - \mu_g}{\sqrt{\sigma_g^2 + \epsilon}} + \beta

    Parameters
    ----------
    channels : int
    groups : int, optional
        Must divide `channels`. By default as many as suit: up to 32, of at least 4 channels each.
    eps : float

    Raises
    ------
    ValueError
        If `groups` does not divide `channels`.

    Notes
    -----
    Training and evaluation are the same, and no example depends on another. Statistics are computed in evaluation too,
    so it does not fold. Wu and He (arXiv 1803.08494), section 3.

    Examples
    --------
    >>> group(64).num_groups, group(64, groups=32).num_groups
    (16, 32)
    """
    return GroupNorm(whole_groups(channels, groups), channels, eps=eps)


def layer(channels: int, eps: float = 1e-5) -> nn.GroupNorm:
    r"""Layer normalisation of a convolutional map: all channels and positions of one example share statistics.

    .. math:: y = \gamma \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta

    Notes
    -----
    `group` with one group, so gain and bias are per channel, not per channel and position. Cost, coupling and
    evaluation are those of `group`. Ba, Kiros and Hinton (arXiv 1607.06450), section 3.

    Examples
    --------
    >>> y = layer(4)(3 + torch.randn(2, 4, 8, 8))
    >>> y.mean((1, 2, 3)).abs().max() < 1e-5
    tensor(True)
    """
    return GroupNorm(1, channels, eps=eps)


class LayerNorm2d(nn.LayerNorm):
    r"""Layer normalisation of each position by itself, over its channels: the layer norm of transformers.

    .. math:: y_{chw} = \gamma_c \frac{x_{chw} - \mu_{hw}}{\sqrt{\sigma_{hw}^2 + \epsilon}} + \beta_c

    Parameters
    ----------
    channels : int
    eps : float

    Notes
    -----
    ``(N, C, H, W)`` to the same, in channels-last memory format; with inputs in that format it costs what
    `torch.nn.LayerNorm` costs. Training and evaluation are the same, no example depends on another, it does not fold.
    Ba, Kiros and Hinton (arXiv 1607.06450), section 3; over channels alone as in Vaswani et al. (arXiv 1706.03762).

    Examples
    --------
    >>> y = LayerNorm2d(16)(torch.randn(2, 16, 3, 3))
    >>> y.mean(1).abs().max() < 1e-5
    tensor(True)
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class InstanceNorm2d(nn.InstanceNorm2d):
    r"""Instance normalisation: each channel of each example by its own statistics, `torch.nn.InstanceNorm2d`.

    .. math:: y = \gamma \frac{x - \mu_{nc}}{\sqrt{\sigma_{nc}^2 + \epsilon}} + \beta

    Parameters
    ----------
    channels : int
    eps : float

    Raises
    ------
    ValueError
        In the forward pass, for a map of one position: nothing would be left but the bias.

    Notes
    -----
    With gain and bias, without running statistics. Training and evaluation are the same, no example depends on another,
    it does not fold. It removes each example's contrast, which a classifier may need. Do not use it directly before the
    final pooling: every image would have the same channel means. Ulyanov, Vedaldi and Lempitsky (arXiv 1607.08022),
    section 2. The name "ibn_b" is this norm too. A residual network of this package has it at the places of IBN-b (Pan
    et al., arXiv 1807.09441), and batch norm at the others.

    Examples
    --------
    >>> y = InstanceNorm2d(3)(torch.randn(2, 3, 8, 8))
    >>> y.mean((2, 3)).abs().max() < 1e-5
    tensor(True)
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, eps=eps, affine=True)

    def forward(self, input: Tensor) -> Tensor:
        need_two_values("instance norm", input, 1)
        return F.instance_norm(input, None, None, self.weight, self.bias, eps=self.eps)
