"""Torch's convolutions with SAME padding at any stride, and with plain or standardised weights.

Axes: O output channels, I input channels, K kernel.
"""

from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from nfnets_lite.padding import pad_same
from nfnets_lite.standardize import standardize_weight, unit_std_weight

# torch.fx records a call of a wrapped function as one step; it cannot trace the checks inside.
torch.fx.wrap("standardize_weight")
torch.fx.wrap("unit_std_weight")

_Size: TypeAlias = int | tuple[int, ...]
_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class _SameConv(_ConvNd):
    """Adds SAME padding to a convolution of torch, and `effective_weight`, which subclasses override."""

    same: bool = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _Size,
        stride: _Size = 1,
        padding: str | _Size = 0,
        dilation: _Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        same = padding == "same" and padding_mode == "zeros"
        # torch refuses padding="same" at a stride above 1, so torch gets 0.
        args: Any = (in_channels, out_channels, kernel_size, stride, 0 if same else padding, dilation, groups, bias)
        super().__init__(*args, padding_mode, device, dtype)  # type: ignore[call-arg]
        self.same = same

    def effective_weight(self) -> Tensor:
        """The weight that the convolution uses, shape ``(O, I / groups, *K)``."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        return self._convolve(x, self.effective_weight(), self.bias)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        expected = self.weight.ndim
        if isinstance(x, Tensor) and (x.ndim != expected or x.shape[1] != self.in_channels):  # torch.fx has a proxy
            raise ValueError(
                f"input has shape {tuple(x.shape)}; {type(self).__name__} needs {expected} axes, (N, C, ...), "
                f"with C = in_channels = {self.in_channels}"
            )
        if not self.same:
            return self._conv_forward(x, weight, bias)
        x, padding = pad_same(x, self.kernel_size, self.stride, self.dilation)
        return _CONVOLVE[len(self.kernel_size)](x, weight, bias, self.stride, padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}{', padding=same' if self.same else ''}"  # type: ignore[no-untyped-call]


class _Standardized(_ConvNd):
    """Adds `eps` and the initial values of a standardised weight to a convolution of torch."""

    default_eps: ClassVar[float]

    def __init__(self, *args: Any, eps: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.eps = self.default_eps if eps is None else eps
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights from N(0, 1 / fan_in), and set the bias to 0 and a gain to 1, as the authors' code does."""
        if not hasattr(self, "eps"):  # torch's constructor calls this before `eps` is set
            return
        nn.init.normal_(self.weight, std=(self.weight.numel() / self.out_channels) ** -0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        gain = getattr(self, "gain", None)
        if gain is not None:
            nn.init.ones_(gain)


class _ScaledStd(_Standardized):
    """Adds the gain and the standardisation to a convolution of torch; documented at `ScaledStdConv2d`."""

    unit_dim = 0
    default_eps = 1e-4

    def __init__(self, *args: Any, eps: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, eps=eps, **kwargs)
        self.gain = nn.Parameter(self.weight.new_ones(self.out_channels))

    def effective_weight(self) -> Tensor:
        """The weight that the convolution uses: like `weight`, with each output unit of mean 0 and norm `gain`."""
        return standardize_weight(self.weight, self.gain, eps=self.eps, unit_dim=self.unit_dim)


class Conv2d(_SameConv, nn.Conv2d):
    """`torch.nn.Conv2d` whose ``padding="same"`` also works with a stride: output ``ceil(size / stride)``.

    Examples
    --------
    >>> Conv2d(3, 8, 3, stride=2, padding="same")(torch.zeros(1, 3, 33, 20)).shape
    torch.Size([1, 8, 17, 10])
    """


class Conv1d(_SameConv, nn.Conv1d):
    """`Conv2d` for sequences: ``(N, I, L) -> (N, O, ceil(L / stride))``."""


class Conv3d(_SameConv, nn.Conv3d):
    """`Conv2d` for volumes: ``(N, I, D, H, W) -> (N, O, D', H', W')``."""


class ScaledStdConv2d(_ScaledStd, _SameConv, nn.Conv2d):
    r"""`torch.nn.Conv2d` with scaled weight standardisation: it convolves with `standardize_weight` of its weight.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        As in `torch.nn.Conv2d`; ``padding="same"`` works at any stride, with output size ``ceil(size / stride)``.
    eps : float
        Lower bound on fan-in times the variance of a filter.

    Notes
    -----
    Shapes ``(N, I, H, W) -> (N, O, H', W')``. The parameter ``gain``, ``(O,)``, starts at 1. Statistics are computed in
    at least float32, under autocast too. Every call standardises the weight, in evaluation too, until
    `nfnets_lite.fold` does so for good. A single weight (fan-in 1, as in a depthwise 1x1) minus its mean is 0, so the
    output is the bias. NF-ResNet (arXiv 2101.08692), section 4.2.

    Examples
    --------
    >>> conv = ScaledStdConv2d(16, 32, 3, stride=2, padding="same")
    >>> conv(torch.randn(2, 16, 9, 8)).shape
    torch.Size([2, 32, 5, 4])
    """


class WSConv2d(_Standardized, _SameConv, nn.Conv2d):
    """`torch.nn.Conv2d` with weight standardisation: it convolves with `unit_std_weight` of its weight.

    A norm with a gain has to follow, because the outputs grow with the square root of the fan-in. `ScaledStdConv2d`,
    which has the same arguments, shapes and dtypes, needs no norm. Here `eps` is added to the standard deviation.
    Weight Standardization (arXiv 1903.10520), section 3.

    Raises
    ------
    ValueError
        If the fan-in is 1: a single weight has no standard deviation.

    Examples
    --------
    >>> conv = WSConv2d(16, 32, 3, stride=2, padding="same", bias=False)
    >>> conv(torch.randn(2, 16, 9, 8)).shape
    torch.Size([2, 32, 5, 4])
    """

    default_eps = 1e-5

    def __init__(self, *args: Any, eps: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, eps=eps, **kwargs)
        if self.weight[0].numel() < 2:
            raise ValueError(
                f"weight has shape {tuple(self.weight.shape)}, a fan-in of 1, which has no standard deviation; use "
                "fewer groups, a larger kernel_size, or a plain Conv2d"
            )

    def effective_weight(self) -> Tensor:
        """The weight that the convolution uses: like `weight`, with each output unit of mean 0 and deviation 1."""
        return unit_std_weight(self.weight, eps=self.eps)


class ScaledStdConv1d(_ScaledStd, _SameConv, nn.Conv1d):
    """`ScaledStdConv2d` for sequences: ``(N, I, L) -> (N, O, L')``.

    Examples
    --------
    >>> ScaledStdConv1d(16, 32, 3, stride=2, padding="same")(torch.randn(2, 16, 9)).shape
    torch.Size([2, 32, 5])
    """


class ScaledStdConv3d(_ScaledStd, _SameConv, nn.Conv3d):
    """`ScaledStdConv2d` for volumes: ``(N, I, D, H, W) -> (N, O, D', H', W')``.

    Examples
    --------
    >>> ScaledStdConv3d(4, 8, 3, padding="same")(torch.randn(1, 4, 5, 6, 7)).shape
    torch.Size([1, 8, 5, 6, 7])
    """


class ScaledStdConvTranspose2d(_ScaledStd, nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` with scaled weight standardisation over the fan-in of each *output* channel.

    The arguments are those of `torch.nn.ConvTranspose2d` and `eps` of `ScaledStdConv2d`. Shapes are
    ``(N, I, H, W) -> (N, O, H', W')``; the weight is ``(I, O / groups, *K)``, so its unit axis is 1, within each group.
    With a stride s, an output position uses about one in ``s ** 2`` of a unit's weights, so its variance is about
    ``(gain / s) ** 2``. Not in the papers.

    Examples
    --------
    >>> ScaledStdConvTranspose2d(8, 4, 4, stride=2, padding=1)(torch.randn(2, 8, 5, 6)).shape
    torch.Size([2, 4, 10, 12])
    """

    unit_dim = 1

    def effective_weight(self) -> Tensor:
        if self.groups == 1:
            return super().effective_weight()
        # (I, O / groups, *K) to (O, I / groups, *K), where axis 0 alone counts the units, and back.
        split = self.weight.reshape(self.groups, -1, *self.weight.shape[1:]).transpose(1, 2)
        made = standardize_weight(split.flatten(0, 1), self.gain, eps=self.eps)
        return made.reshape(split.shape).transpose(1, 2).reshape(self.weight.shape)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        weight, stride, padding, dilation = self.effective_weight(), self.stride, self.padding, self.dilation
        extra = self._output_padding(x, output_size, stride, padding, self.kernel_size, 2, dilation)  # type: ignore[arg-type]
        return F.conv_transpose2d(x, weight, self.bias, stride, padding, extra, self.groups, dilation)  # type: ignore[arg-type]
