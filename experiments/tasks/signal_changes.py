"""Changes to our networks that explain differences between published plots of signal propagation, one at a time.

Most changes are differences between the authors' description and public code that draws such plots. Only their
arithmetic is repeated here.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from nfnets_lite.activations import ACTIVATIONS, GAINS, ScaledActivation
from nfnets_lite.conv import ScaledStdConv2d
from nfnets_lite.models.parts import MaxPool
from nfnets_lite.models.residual import Join, joins
from nfnets_lite.models.resnet import Block, ResNet

Change = Callable[[ResNet], None]


class ScaledBefore(nn.Module):
    """``gain * g(beta * x)``, as in the paper's formula; the authors' code computes ``gain * beta * g(x)``."""

    def __init__(self, name: str, beta: float) -> None:
        super().__init__()
        self.name, self.beta = name, beta

    def forward(self, x: Tensor) -> Tensor:
        return ACTIVATIONS[self.name](x * self.beta) * GAINS[self.name]


class RawShortcut(nn.Module):
    """The shortcut of a transition, applied to the block's raw input in place of the activated and scaled input."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.shortcut, self.raw = block.shortcut, torch.empty(0)
        block.register_forward_pre_hook(self._keep)

    def _keep(self, _block: nn.Module, inputs: tuple[Tensor]) -> None:
        self.raw = inputs[0]

    def forward(self, _activated: Tensor) -> Tensor:
        out: Tensor = self.shortcut(self.raw)
        return out


def blocks(model: ResNet) -> list[Block]:
    """The residual blocks, in order."""
    return [block for block in model.blocks if isinstance(block, Block)]


def _scale_first(model: ResNet) -> None:
    for block in blocks(model):
        block.enter.act = ScaledBefore(model.spec.activation, block.join.beta)


def _raw_shortcut(model: ResNet) -> None:
    for block in blocks(model):
        if block.transition:
            block.shortcut = RawShortcut(block)


def _restart(model: ResNet) -> None:
    # The predicted variance starts at 1 in every stage, as if the input of the transition had variance 1.
    for block in blocks(model):
        if block.transition:
            block.enter.act = ScaledActivation(model.spec.activation)


def _raw_and_restart(model: ResNet) -> None:
    _raw_shortcut(model)
    _restart(model)


def _activated_pooled_stem(model: ResNet) -> None:
    model.stem.extend([nn.ReLU(), MaxPool()])


def _stem_gain(model: ResNet) -> None:
    # Code that keeps the activation's gain in the weights has it in the stem's too, which follows no activation.
    with torch.no_grad():
        for layer in model.stem:
            if isinstance(layer, ScaledStdConv2d):
                layer.gain.mul_(GAINS[model.spec.activation])


def _silent(model: ResNet) -> None:
    # A port without a skip gain starts with the last gain at 0, for a start with silent branches like the authors'.
    with torch.no_grad():
        for block in blocks(model):
            convs = [layer for layer in block.branch if isinstance(layer, ScaledStdConv2d)]
            convs[-1].gain.zero_()


def _silent_and_stem_gain(model: ResNet) -> None:
    _silent(model)
    _stem_gain(model)


def _unbiased(model: ResNet) -> None:
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, ScaledStdConv2d):
                fan_in = layer.weight[0].numel()
                layer.gain.mul_(((fan_in - 1) / fan_in) ** 0.5)


def _rescaled(model: ResNet) -> None:
    # RescaleNet's formula alone: factors on both paths of a pre-activation network, no biases, no activated shortcut.
    for block, join in zip(blocks(model), joins("rescale", model.spec.depth, 1.0, 1.0)):
        block.join = Join(skip=join.skip, branch=join.branch * join.start)


# "evaluation" changes no module: `Signals` measures in evaluation mode.
CHANGES: Mapping[str, Change] = MappingProxyType(
    {
        "": lambda model: None,
        "evaluation": lambda model: None,
        "scale_first": _scale_first,
        "raw_shortcut": _raw_shortcut,
        "restart": _restart,
        "raw_and_restart": _raw_and_restart,
        "pooled_stem": _activated_pooled_stem,
        "stem_gain": _stem_gain,
        "silent": _silent,
        "silent_and_stem_gain": _silent_and_stem_gain,
        "unbiased": _unbiased,
        "rescaled": _rescaled,
    }
)
