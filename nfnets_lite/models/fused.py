"""A faster forward pass of a residual block, whose constant factors multiply weights instead of activations.

A normalizer-free block multiplies each activation by a gain and its branch by a skip gain. Weights are much smaller
tensors than activations, so to multiply the weights costs less, forward and backward.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from nfnets_lite import _fast
from nfnets_lite.activations import ACTIVATIONS, ScaledActivation
from nfnets_lite.conv import ScaledStdConv2d
from nfnets_lite.models.parts import StochasticDepth, times
from nfnets_lite.models.residual import Join
from nfnets_lite.padding import avg_pool_same
from nfnets_lite.standardize import standardize_weight


class Residual(Protocol):
    """The members of a `Block` that other modules use."""

    join: Join
    transition: bool
    pool_shortcut: bool
    skip_gain: nn.Parameter | None
    enter: nn.Sequential
    branch: nn.Sequential
    shortcut: nn.Module
    drop: StochasticDepth
    shift: nn.Module

    def modules(self, remove_duplicate: bool = True) -> Iterator[nn.Module]:
        """The block and all of its parts."""


def fused_block(block: Residual, x: Tensor) -> Tensor | None:
    """``block(x)`` up to rounding; None if `x` is not on a CPU in eager mode, or a hook watches a part of the block."""
    if not _fast.applies_to(x) or _is_observed(block.modules()):
        return None
    join = block.join
    factor, out = _run(_leaves(block.enter), 1.0, x)
    shortcut = times(factor, out) if join.activated_skip and not block.transition else x
    if block.transition:
        pooled = avg_pool_same(out) if block.pool_shortcut else out
        shortcut = times(*_run(_leaves(block.shortcut), factor, pooled))
    gain = join.branch if block.skip_gain is None else block.skip_gain * join.branch
    layers = list(_leaves(block.branch))
    if layers and type(last := layers[-1]) is ScaledStdConv2d:
        factor, out = _run(layers[:-1], factor, out)
        out = _convolved(last, factor, out, gain)
    else:
        out = times(gain, times(*_run(layers, factor, out)))
    return times(join.skip, shortcut) + block.drop(block.shift(out))  # type: ignore[no-any-return]


def _is_observed(modules: Iterable[nn.Module]) -> bool:
    """Whether any of the modules has a hook, or a ``forward`` set on the instance."""
    return bool(_has_any_global_hook()) or any(  # type: ignore[no-untyped-call]
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks or "forward" in vars(m)
        for m in modules
    )


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of nested Sequentials, in the order in which they run."""
    if type(module) is not nn.Sequential:
        yield module
        return
    for layer in module:
        yield from _leaves(layer)


def _run(layers: Iterable[nn.Module], factor: float, x: Tensor) -> tuple[float, Tensor]:
    """A number and a tensor whose product is ``layers(factor * x)``."""
    for layer in layers:
        if type(layer) is ScaledActivation:
            factor, x = layer.scale, ACTIVATIONS[layer.name](times(factor, x))
        elif type(layer) is ScaledStdConv2d:
            factor, x = 1.0, _convolved(layer, factor, x)
        elif type(layer) is not nn.Identity:
            factor, x = 1.0, layer(times(factor, x))
    return factor, x


def _convolved(conv: ScaledStdConv2d, factor: float, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
    """``gain * conv(factor * x)``; the factors multiply the layer's gain and bias."""
    weight = standardize_weight(conv.weight, times(gain * factor, conv.gain), eps=conv.eps)
    return conv._convolve(x, weight, None if conv.bias is None else times(gain, conv.bias))
