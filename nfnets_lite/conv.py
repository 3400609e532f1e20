"""Convolutions: torch's, with SAME padding at any stride, plain or with scaled-standardised weights.

Axes: O output channels, I input channels, K kernel.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from nfnets_lite.padding import pad_same
from nfnets_lite.standardize import standardize_weight

_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class _SameConv(_ConvNd):
    """Adds the reference's SAME padding, and one place where the weight that convolves is made."""

    same: bool = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: str | int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        same = padding == "same" and padding_mode == "zeros"
        # torch refuses padding="same" at a stride above 1, so it is not told of it.
        args: Any = (in_channels, out_channels, kernel_size, stride, 0 if same else padding, dilation, groups, bias)
        super().__init__(*args, padding_mode, device, dtype)  # type: ignore[call-arg]
        self.same = same

    def effective_weight(self) -> Tensor:
        """The weight that convolves, shape ``(O, I / groups, *K)``."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        expected = self.weight.ndim
        if x.ndim != expected or x.shape[1] != self.in_channels:
            raise ValueError(
                f"input has shape {tuple(x.shape)}; {type(self).__name__} needs {expected} axes, (N, C, ...), "
                f"with C = in_channels = {self.in_channels}"
            )
        if not self.same:
            return self._conv_forward(x, self.effective_weight(), self.bias)
        x, padding = pad_same(x, self.kernel_size, self.stride, self.dilation)
        convolve = _CONVOLVE[x.ndim - 2]
        return convolve(x, self.effective_weight(), self.bias, self.stride, padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}{', padding=same' if self.same else ''}"  # type: ignore[no-untyped-call]


class _ScaledStdConv(_SameConv):
    """Adds the gain and the standardisation; documented at `ScaledStdConv2d`."""

    unit_dim = 0

    def __init__(self, *args: Any, eps: float = 1e-4, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.eps = eps
        self.gain = nn.Parameter(self.weight.new_ones(self.out_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights N(0, 1 / fan_in), gain 1, bias 0: the reference's start."""
        if not hasattr(self, "gain"):  # called by torch's constructor, before the gain exists
            return
        fan_in = self.weight[0].numel() if self.unit_dim == 0 else self.weight[:, 0].numel()
        nn.init.normal_(self.weight, std=fan_in**-0.5)
        nn.init.ones_(self.gain)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def effective_weight(self) -> Tensor:
        return standardize_weight(self.weight, self.gain, eps=self.eps, unit_dim=self.unit_dim)


class Conv2d(_SameConv, nn.Conv2d):
    """`torch.nn.Conv2d` whose ``padding="same"`` also works with a stride: output ``ceil(size / stride)``.

    Examples
    --------
    >>> Conv2d(3, 8, 3, stride=2, padding="same")(torch.zeros(1, 3, 33, 20)).shape
    torch.Size([1, 8, 17, 10])
    """


class ScaledStdConv2d(_ScaledStdConv, nn.Conv2d):
    r"""`torch.nn.Conv2d` with scaled weight standardisation: `standardize_weight` of its weight, then the convolution.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        As in `torch.nn.Conv2d`; ``padding="same"`` is the reference's SAME and works at any stride.
    eps : float
        Lower bound on fan-in times the variance of a filter.

    Attributes
    ----------
    gain : Parameter
        Shape ``(O,)``, starts at 1. Adaptive gradient clipping treats it as one unit; it takes no weight decay.

    Notes
    -----
    Shapes ``(N, I, H, W) -> (N, O, H', W')``. Statistics are at least float32, under autocast too. The standardised
    weight is made anew each call, in evaluation as well. NF-ResNet (arXiv 2101.08692), section 4.2.

    Examples
    --------
    >>> conv = ScaledStdConv2d(16, 32, 3, stride=2, padding="same")
    >>> conv(torch.randn(2, 16, 9, 8)).shape
    torch.Size([2, 32, 5, 4])
    """


class ScaledStdConv1d(_ScaledStdConv, nn.Conv1d):
    """`ScaledStdConv2d` for sequences: ``(N, I, L) -> (N, O, L')``."""


class ScaledStdConv3d(_ScaledStdConv, nn.Conv3d):
    """`ScaledStdConv2d` for volumes: ``(N, I, D, H, W) -> (N, O, D', H', W')``."""
