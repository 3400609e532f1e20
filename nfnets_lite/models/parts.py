"""Parts of a network: convolutions, norms and activations as a spec asks for them, gates, biases, stochastic depth.

Axes: N batch, C channels, H W space.
"""

from collections import OrderedDict
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nfnets_lite.activations import ScaledActivation
from nfnets_lite.conv import Conv2d, ScaledStdConv2d, WSConv2d
from nfnets_lite.models.spec import BlockSpec, ResNetSpec
from nfnets_lite.norm import create_norm
from nfnets_lite.padding import max_pool_same


def conv(spec: ResNetSpec, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    """A convolution with SAME padding as the spec asks for it, with a bias unless another layer adds one.

    Except in `ScaledStdConv2d`, weights start with He's variance, or half of it where the input has second moment 1:
    directly behind a norm, and in ``conv="scaled_ws_dense"``.
    """
    # A norm cancels a bias; FixUp and RescaleNet have their own. Elsewhere the authors' code has one, stem included.
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
    """Name of the norm at a place of a block, counted from the block's input, or outside of blocks (no `plan`).

    The norms of IBN (Pan et al., arXiv 1807.09441, figure 3, and the authors' code) stand at some places, and batch
    norm at the others. IBN-a follows the first convolution of a block, in the first three stages but not in the last
    stage. IBN-b follows the stem and the first two stages: here it is at the input of the next stage's first block.
    """
    if spec.norm not in ("ibn_a", "ibn_b"):
        return spec.norm
    if plan is None:
        return "batch"
    if spec.norm == "ibn_a":
        here = place == 1 and plan.stage < min(3, len(spec.depth) - 1)
    else:
        here = place == 0 and plan.index == 0 and plan.stage < 3
    return spec.norm if here else "batch"


def norm_act(
    spec: ResNetSpec, channels: int, norm: str, beta: float = 1.0, *, before: bool = True, after: bool = True
) -> nn.Sequential:
    """Norm, then activation, whose gain is multiplied by `beta`, a block's 1 / expected std.

    No activation follows a norm that activates by itself. FixUp has a scalar bias in the norm's place (`before`) and
    one before the next convolution (`after`), where RescaleNet has a `CentringBias`.
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
    """A linear layer with bias 0, of the model's device and dtype; an identity for 0 classes."""
    if num_classes == 0:
        return nn.Identity()
    like = next(model.parameters())
    layer = nn.Linear(features, num_classes, device=like.device, dtype=like.dtype)
    nn.init.zeros_(layer.bias)
    return layer


def times(factor: Tensor | float, x: Tensor) -> Tensor:
    """``factor * x``; `x` itself if the factor is the number 1."""
    return x if isinstance(factor, float) and factor == 1.0 else x * factor


class ScalarBias(nn.Module):
    """``x + bias`` with one learnable number that starts at 0 (FixUp, arXiv 1901.09321, section 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class CentringBias(nn.Module):
    r"""RescaleNet's data-dependent bias: a bias per channel whose start centres the input.

    .. math:: y = x + d\, b - m

    In the first `steps` training passes, m is the average of the channel means (over N, H, W) of all batches so far,
    this batch included; after them it is constant. The learnable b starts at 0. Its factor d is 0.01 in these passes,
    and 1 after them. No gradient flows through m.

    ``(N, C, H, W)`` to the same; the mean is computed in float32. In the first `steps` passes an output depends on all
    examples of its batch. The authors' code also counts forward passes in evaluation; this class does not. RescaleNet
    (Shao et al., NeurIPS 2020).
    """

    mean: Tensor
    count: Tensor

    def __init__(self, channels: int, steps: int = 8) -> None:
        super().__init__()
        self.steps = steps
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))  # an integer: WeightAverage leaves it alone

    def forward(self, x: Tensor) -> Tensor:
        early = self.count < self.steps
        if self.training:
            found = x.detach().float().mean((0, 2, 3))
            # torch.where, not if: nothing waits for the device, and an infinite mean of a later batch has no effect.
            self.mean.copy_(torch.where(early, self.mean + (found - self.mean) / (self.count + 1), self.mean))
            self.count.add_(early)
        shift = self.bias * torch.where(early, 0.01, 1.0) - self.mean
        return x + shift.to(x.dtype)[:, None, None]

    def extra_repr(self) -> str:
        return f"{len(self.mean)}, steps={self.steps}"


class SqueezeExcite(nn.Module):
    """Channel gate ``x * scale * sigmoid(W2 relu(W1 mean(x)))``, ``(N, C, H, W)`` to the same; the ReLU has no gain."""

    def __init__(self, channels: int, hidden: int, scale: float) -> None:
        super().__init__()
        self.reduce, self.expand, self.scale = nn.Linear(channels, hidden), nn.Linear(hidden, channels), scale
        for linear in (self.reduce, self.expand):
            std = linear.in_features**-0.5
            nn.init.trunc_normal_(linear.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(linear.bias)

    def gate(self, x: Tensor) -> Tensor:
        """The gate of each channel, ``(N, C)``, in (0, 1), without the factor `scale`."""
        return torch.sigmoid(self.expand(torch.relu(self.reduce(x.mean((2, 3))))))

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.scale * self.gate(x))[:, :, None, None]


class StochasticDepth(nn.Module):
    """Drops the branch of random examples in training, *not* dividing by the keep probability, as the authors' code."""

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
    """Blocks in sequence. If `checkpointed`, the backward pass computes their activations a second time."""

    checkpointed = False

    def step(self, block: nn.Module, x: Tensor) -> Tensor:
        """The output of one block."""
        if not (self.checkpointed and torch.is_grad_enabled()):
            return block(x)  # type: ignore[no-any-return]
        # A compiled backward pass updates no buffers, and torch.compile accepts no contexts of this kind.
        contexts = None if torch.compiler.is_compiling() else (nullcontext(), _BuffersOfNow(block))
        options: dict[str, Any] = {"context_fn": lambda: contexts} if contexts else {}
        return checkpoint(block, x, use_reentrant=False, **options)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        for block in self:
            x = self.step(block, x)
        return x


class _BuffersOfNow:
    """A context in which a block's buffers have the values of now; whatever is written to them is lost at its end."""

    def __init__(self, block: nn.Module) -> None:
        buffers = ((m._buffers, name, b) for m in block.modules() for name, b in m._buffers.items())
        self.found = [(table, name, b.detach().clone()) for table, name, b in buffers if b is not None]

    def __enter__(self) -> None:
        # Other tensors, not other values: what the second pass keeps for the gradient may be a buffer.
        self.present = [(table, name, table[name]) for table, name, _ in self.found]
        for table, name, value in self.found:
            table[name] = value.clone()

    def __exit__(self, *_: object) -> None:
        for table, name, buffer in self.present:
            table[name] = buffer


class MaxPool(nn.Module):
    """3x3 stride-2 SAME max pooling."""

    def forward(self, x: Tensor) -> Tensor:
        return max_pool_same(x, 3, 2)
