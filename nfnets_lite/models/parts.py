"""What a block is built from: convolutions and activations as a spec asks for them, gates, drops, biases.

Axes: N batch, C channels, H W space.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nfnets_lite.activations import ScaledActivation
from nfnets_lite.conv import Conv2d, ScaledStdConv2d, WSConv2d
from nfnets_lite.models.spec import BlockSpec, ResNetSpec
from nfnets_lite.norm import create_norm
from nfnets_lite.norm.ibn import ibn_norm
from nfnets_lite.padding import max_pool_same


def conv(spec: ResNetSpec, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    """A SAME convolution, plain or of standardised weights, with a bias where nothing else shifts.

    Except for `ScaledStdConv2d`, weights have He's start, without its factor of 2 where nothing halves: behind a norm,
    and between convolutions of unit gain.
    """
    # A norm's own shift makes a bias idle, FixUp and RescaleNet have theirs; else the reference has one, stem included.
    bias = spec.norm == "none" and spec.residual not in ("fixup", "rescale")
    if spec.conv == "scaled_ws" or (spec.conv == "scaled_ws_dense" and not 1 < groups == inputs):
        return ScaledStdConv2d(inputs, outputs, kernel, stride=stride, padding="same", groups=groups, bias=bias)
    kind = WSConv2d if spec.conv == "ws" else Conv2d
    layer = kind(inputs, outputs, kernel, stride=stride, padding="same", groups=groups, bias=bias)
    halved = not spec.act_first and spec.conv != "scaled_ws_dense"
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu" if halved else "linear")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def norm_name(spec: ResNetSpec, plan: BlockSpec | None = None, place: int = 0) -> str:
    """Which norm stands at a block's place, counted from its input on, or outside of the blocks."""
    if spec.norm not in ("ibn_a", "ibn_b"):
        return spec.norm
    if plan is None:
        return "batch"
    return ibn_norm(spec.norm, stage=plan.stage, stages=len(spec.depth), block=plan.index, norm=place)


def norm_act(
    spec: ResNetSpec, channels: int, norm: str, beta: float = 1.0, *, before: bool = True, after: bool = True
) -> nn.Sequential:
    """Norm, then activation; a block's 1 / expected-std joins the activation's gain: one multiplication for both.

    A norm that activates by itself has no activation behind it. FixUp has a scalar bias in the norm's place and one
    before the next convolution, RescaleNet a bias of its own there; `before` and `after` say which.
    """
    gain = ScaledActivation(spec.activation, None if spec.activation_gain else 1.0).scale
    standing = create_norm(norm, channels, **(dict(spec.norm_options) if norm == spec.norm else {}))
    activates = getattr(standing, "activates", False)
    act = ScaledActivation("identity", beta) if activates else ScaledActivation(spec.activation, gain * beta)
    fixup = spec.residual == "fixup"
    layers = OrderedDict[str, nn.Module](norm=ScalarBias() if fixup and before else standing, act=act)
    if spec.act_first:
        layers.move_to_end("norm")
    if after and spec.residual in ("fixup", "rescale"):
        layers["shift"] = ScalarBias() if fixup else CentringBias(channels)
    return nn.Sequential(layers)


def new_classifier(model: nn.Module, features: int, num_classes: int) -> nn.Module:
    """A linear layer with biases 0, where a model's parameters are; an identity for 0 classes."""
    if num_classes == 0:
        return nn.Identity()
    like = next(model.parameters())
    layer = nn.Linear(features, num_classes, device=like.device, dtype=like.dtype)
    nn.init.zeros_(layer.bias)
    return layer


def times(factor: Tensor | float, x: Tensor) -> Tensor:
    """``factor * x``; the number 1 costs no pass over `x`."""
    return x if isinstance(factor, float) and factor == 1.0 else x * factor


class ScalarBias(nn.Module):
    """``x + bias`` with one learnable number that starts at 0 (FixUp, arXiv 1901.09321, section 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class CentringBias(nn.Module):
    r"""A bias per channel that starts where it centres its input: RescaleNet's data-dependent bias.

    .. math:: y = x + d\, b - m

    In each of the first `steps` training forward passes, m moves to the mean of all channel means seen so far, over
    N, H, W, this batch's first; then it stays. Until then the learnable b, which starts at 0, is damped by d = 0.01;
    afterwards d is 1. No gradient goes through m.

    Parameters
    ----------
    channels : int
    steps : int

    Notes
    -----
    ``(N, C, H, W)`` to the same; the mean is taken in float32. During the first passes the examples of a batch depend
    on each other, so a network of these is without batch statistics only afterwards. The authors' code also counts
    forward passes in evaluation; this one does not. RescaleNet (Shao et al., NeurIPS 2020).
    """

    mean: Tensor
    count: Tensor

    def __init__(self, channels: int, steps: int = 8) -> None:
        super().__init__()
        self.steps = steps
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))  # whole: no average of weights holds it back

    def forward(self, x: Tensor) -> Tensor:
        early = self.count < self.steps
        if self.training:
            found = x.detach().float().mean((0, 2, 3))
            # Chosen by where, not by an if: no wait for the device, and a later batch's infinity does not get in.
            self.mean.copy_(torch.where(early, self.mean + (found - self.mean) / (self.count + 1), self.mean))
            self.count.add_(early)
        shift = self.bias * torch.where(early, 0.01, 1.0) - self.mean
        return x + shift.to(x.dtype)[:, None, None]

    def extra_repr(self) -> str:
        return f"{len(self.mean)}, steps={self.steps}"


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


class Blocks(nn.Sequential):
    """Blocks in a row. With `checkpointed`, the backward pass computes their activations a second time."""

    checkpointed = False

    def step(self, block: nn.Module, x: Tensor) -> Tensor:
        """One block."""
        again = self.checkpointed and torch.is_grad_enabled()
        return checkpoint(block, x, use_reentrant=False) if again else block(x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        for block in self:
            x = self.step(block, x)
        return x


class MaxPool(nn.Module):
    """3x3 stride-2 SAME max pooling."""

    def forward(self, x: Tensor) -> Tensor:
        return max_pool_same(x, 3, 2)
