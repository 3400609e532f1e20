"""What a block is built from: convolutions and activations as a spec asks for them, gates, drops, scalar biases.

Axes: N batch, C channels, H W space.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from nfnets_lite.activations import ScaledActivation
from nfnets_lite.conv import Conv2d, ScaledStdConv2d
from nfnets_lite.models.spec import ResNetSpec
from nfnets_lite.norm import create_norm
from nfnets_lite.padding import max_pool_same


def conv(spec: ResNetSpec, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    """A SAME convolution, plain with He's start or weight-standardised, with a bias where nothing else shifts."""
    # A norm's own shift makes a bias idle, FixUp has scalar ones; else the reference has one, the stem included.
    bias = spec.norm == "none" and spec.residual != "fixup"
    if spec.conv == "scaled_ws":
        return ScaledStdConv2d(inputs, outputs, kernel, stride=stride, padding="same", groups=groups, bias=bias)
    layer = Conv2d(inputs, outputs, kernel, stride=stride, padding="same", groups=groups, bias=bias)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def norm_act(
    spec: ResNetSpec, channels: int, beta: float = 1.0, *, before: bool = True, after: bool = True
) -> nn.Sequential:
    """Norm, then activation; a block's 1 / expected-std joins the activation's gain: one multiplication for both.

    FixUp has a scalar bias in the norm's place and one before the next convolution; `before` and `after` say which.
    """
    gain = ScaledActivation(spec.activation, None if spec.activation_gain else 1.0).scale
    fixup = spec.residual == "fixup"
    norm = ScalarBias() if fixup and before else create_norm(spec.norm, channels)
    layers = OrderedDict(norm=norm, act=ScaledActivation(spec.activation, gain * beta))
    if fixup and after:
        layers["shift"] = ScalarBias()
    return nn.Sequential(layers)


class ScalarBias(nn.Module):
    """``x + bias`` with one learnable number that starts at 0 (FixUp, arXiv 1901.09321, section 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class SqueezeExcite(nn.Module):
    """Channel gate: ``x * scale * sigmoid(W2 relu(W1 mean(x)))``, ``(N, C, H, W)`` to the same.

    The ReLU has no gain, in the reference too.
    """

    def __init__(self, channels: int, hidden: int, scale: float) -> None:
        super().__init__()
        self.reduce, self.expand, self.scale = nn.Linear(channels, hidden), nn.Linear(hidden, channels), scale
        for linear in (self.reduce, self.expand):
            std = linear.in_features**-0.5
            nn.init.trunc_normal_(linear.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(linear.bias)

    def gate(self, x: Tensor) -> Tensor:
        """The gate of each channel, ``(N, C)``, in (0, 1): before the factor."""
        return torch.sigmoid(self.expand(torch.relu(self.reduce(x.mean((2, 3))))))

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.scale * self.gate(x))[:, :, None, None]


class StochasticDepth(nn.Module):
    """Drops the branch of single examples in training, *without* dividing by the keep probability, as the reference."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) >= self.rate
        return x * keep.to(x.dtype)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.4g}"


class MaxPool(nn.Module):
    """3x3 stride-2 SAME max pooling."""

    def forward(self, x: Tensor) -> Tensor:
        return max_pool_same(x, 3, 2)
