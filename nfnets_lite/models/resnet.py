"""The residual network that a `ResNetSpec` describes: stem, blocks, head.

Axes: N batch, C channels, H W space.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from nfnets_lite.activations import ScaledActivation
from nfnets_lite.conv import Conv2d, ScaledStdConv2d
from nfnets_lite.models.residual import Join, joins
from nfnets_lite.models.spec import ResNetSpec
from nfnets_lite.norm import create_norm
from nfnets_lite.padding import avg_pool_same, max_pool_same


def _conv(spec: ResNetSpec, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    # A norm's own shift makes a bias idle; without a norm the reference has one everywhere, the stem included.
    args = {"stride": stride, "padding": "same", "groups": groups, "bias": spec.norm == "none"}
    if spec.conv == "scaled_ws":
        return ScaledStdConv2d(inputs, outputs, kernel, **args)  # type: ignore[arg-type]
    conv = Conv2d(inputs, outputs, kernel, **args)  # type: ignore[arg-type]
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def _norm_act(spec: ResNetSpec, channels: int, beta: float = 1.0) -> nn.Sequential:
    """Norm, then activation; a block's 1 / expected-std joins the activation's gain: one multiplication for both."""
    gain = ScaledActivation(spec.activation, None if spec.activation_gain else 1.0).scale
    act = ScaledActivation(spec.activation, gain * beta)
    return nn.Sequential(OrderedDict(norm=create_norm(spec.norm, channels), act=act))


class SqueezeExcite(nn.Module):
    """Channel gate: ``x * scale * sigmoid(W2 relu(W1 mean(x)))``, ``(N, C, H, W)`` to the same."""

    def __init__(self, channels: int, hidden: int, scale: float) -> None:
        super().__init__()
        self.reduce, self.expand, self.scale = nn.Linear(channels, hidden), nn.Linear(hidden, channels), scale
        for linear in (self.reduce, self.expand):
            std = linear.in_features**-0.5
            nn.init.trunc_normal_(linear.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.reduce(x.mean((2, 3))))
        gate = self.scale * torch.sigmoid(self.expand(hidden))
        return x * gate[:, :, None, None]


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


class Block(nn.Module):
    """One residual block: ``skip * shortcut + branch * gain * f(beta * act(norm(x)))``.

    The shortcut is the raw input, except in a transition (a stride, or a change of width): there a 1x1 convolution of
    the *activated* input. `branch` is a module of its own, so that a hook sees the signal before any factor.
    """

    def __init__(self, spec: ResNetSpec, inputs: int, outputs: int, stride: int, join: Join, drop: float) -> None:
        super().__init__()
        self.join, self.transition = join, stride > 1 or inputs != outputs
        self.enter = _norm_act(spec, inputs, join.beta)
        inner = int(outputs * spec.bottleneck)
        groups = 1 if spec.group_width is None else inner // spec.group_width
        inner = inner if spec.group_width is None else groups * spec.group_width

        branch = nn.Sequential()
        strided = spec.branch.index(3)
        channels = inputs
        for i, kernel in enumerate(spec.branch):
            if i:
                branch.append(_norm_act(spec, channels))
            last = i == len(spec.branch) - 1
            width = outputs if last else inner
            grouped = groups if kernel > 1 else 1
            branch.append(_conv(spec, channels, width, kernel, stride if i == strided else 1, grouped))
            channels = width
        if spec.se_ratio:
            branch.append(SqueezeExcite(outputs, int(outputs * spec.se_ratio), spec.se_scale))
        self.branch = branch

        pooled = spec.pooled_shortcut and stride > 1
        self.pool_shortcut = pooled
        self.shortcut = _conv(spec, inputs, outputs, 1, 1 if pooled else stride) if self.transition else nn.Identity()
        self.drop = StochasticDepth(drop)
        self.skip_gain = None if join.gain is None else nn.Parameter(torch.tensor(float(join.gain)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.enter(x)
        shortcut = x
        if self.transition:
            shortcut = self.shortcut(avg_pool_same(out) if self.pool_shortcut else out)
        out = self.drop(self.branch(out))
        if self.skip_gain is not None:
            out = out * (self.skip_gain * self.join.branch)
        elif self.join.branch != 1.0:
            out = out * self.join.branch
        return out + (shortcut if self.join.skip == 1.0 else shortcut * self.join.skip)


class _MaxPool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return max_pool_same(x, 3, 2)


def _stem(spec: ResNetSpec) -> nn.Sequential:
    if spec.stem == "cifar":
        return nn.Sequential(_conv(spec, spec.in_channels, spec.stem_width, 3))
    if spec.stem == "imagenet":
        return nn.Sequential(_conv(spec, spec.in_channels, spec.stem_width, 7, 2), _MaxPool())
    layers, channels = nn.Sequential(), spec.in_channels
    for width, stride in ((16, 2), (32, 1), (64, 1), (spec.stem_width, 2)):
        if len(layers):
            layers.append(_norm_act(spec, channels))
        layers.append(_conv(spec, channels, width, 3, stride))
        channels = width
    return layers


class ResNet(nn.Module):
    """Images ``(N, in_channels, H, W)`` to logits ``(N, num_classes)``; built from a `ResNetSpec`.

    Examples
    --------
    >>> net = ResNet(ResNetSpec(depth=(1, 1), width=(8, 16), strides=(1, 2), branch=(3, 3), bottleneck=1.0,
    ...                         stem="cifar", stem_width=8, num_classes=10).with_method("nf"))
    >>> net(torch.zeros(2, 3, 33, 20)).shape
    torch.Size([2, 10])
    """

    def __init__(self, spec: ResNetSpec) -> None:
        super().__init__()
        self.spec = spec
        self.stem = _stem(spec)
        self.blocks = nn.Sequential()
        channels, total = spec.stem_width, sum(spec.depth)
        plan = iter(joins(spec.residual, spec.depth, spec.alpha, spec.skip_gain))
        for width, depth, stage_stride in zip(spec.width, spec.depth, spec.strides):
            for index in range(depth):
                stride = stage_stride if index == 0 else 1
                drop = spec.stochastic_depth * len(self.blocks) / total
                self.blocks.append(Block(spec, channels, width, stride, next(plan), drop))
                channels = width
        self.head = nn.Identity() if spec.head_width is None else _conv(spec, channels, spec.head_width, 1)
        channels = spec.head_width or channels
        self.final = _norm_act(spec, channels)
        self.dropout = nn.Dropout(spec.dropout)
        self.classifier = nn.Linear(channels, spec.num_classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def get_classifier(self) -> nn.Linear:
        """The layer whose weight adaptive gradient clipping leaves alone."""
        return self.classifier

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.spec.in_channels:
            raise ValueError(
                f"input has shape {tuple(x.shape)}; expected (N, {self.spec.in_channels}, H, W): in_channels is "
                f"{self.spec.in_channels} in this model's spec"
            )
        x = self.final(self.head(self.blocks(self.stem(x))))
        return self.classifier(self.dropout(x.mean((2, 3))))  # type: ignore[no-any-return]
