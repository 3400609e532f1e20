"""Layers that replace a norm, and the hook that sets their gains and biases on a batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nfnets_lite.convert.graph import channel_moments


class ChannelAffine(nn.Module):
    """``gain * x + bias``, learnable for each channel; the axis of the channels is counted from the end."""

    def __init__(self, channels: int, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.gain, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return _along(self.gain, self.axis) * x + _along(self.bias, self.axis)


class BranchScale(nn.Module):
    """``alpha * gain * x`` at the end of a branch, where the gain is one learnable number (SkipInit, NF-ResNets)."""

    def __init__(self, alpha: float, gain: float) -> None:
        super().__init__()
        self.alpha, self.gain = alpha, nn.Parameter(torch.tensor(float(gain)))

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.alpha * self.gain)


def _along(values: Tensor, axis: int) -> Tensor:
    """Values of the channels, in a shape that broadcasts along an axis below 0."""
    return values.reshape(-1, *[1] * (-1 - axis))


def calibrating(name: str, layer: Any, axis: int, mean: Tensor, std: Tensor) -> Callable[..., Tensor]:
    """A forward hook that sets a layer's gain and bias so that the channels of the output have `mean` and `std`."""

    def at_end(_module: nn.Module, _inputs: object, out: Tensor) -> Tensor:
        found_mean, found_std = channel_moments(out, axis)
        typical = found_std.square().mean().sqrt()
        if not 0 < typical < torch.inf:
            raise ValueError(
                f"batch: the output of {name!r} has a standard deviation of {float(typical)}; pass a batch of several "
                "different inputs, scaled as in training"
            )
        # A channel that hardly varies on this batch is not scaled up fully: on others it may vary.
        factor = std / torch.maximum(found_std, 0.1 * typical)
        shift = mean - factor * found_mean
        layer.gain.mul_(factor)
        layer.bias.mul_(factor).add_(shift)
        return (out * _along(factor, axis) + _along(shift, axis)).to(out.dtype)

    return at_end
