"""Initial weights of FixUp and RescaleNet, whose scale depends on a convolution's place in the network."""

from collections.abc import Sequence

import torch
from torch import nn

from nfnets_lite.models.fused import Residual


def _convs(layers: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in layers.modules() if isinstance(layer, nn.Conv2d)]


def fixup_start(model: nn.Module, blocks: Sequence[Residual], classifier: nn.Module) -> None:
    r"""Set FixUp's initial weights (arXiv 1901.09321, section 3): 0 in branches' last convolutions and the classifier.

    The other convolutions are normal with He's variance over the *outgoing* connections. In a network of L blocks, they
    are scaled by :math:`L^{-1/(2m-2)}` in a branch of m convolutions.
    """
    inside: dict[nn.Module, float] = {}
    for block in blocks:
        convs = _convs(block.branch)
        inside |= {layer: len(blocks) ** (-0.5 / (len(convs) - 1)) for layer in convs[:-1]}
        inside[convs[-1]] = 0.0
    for layer in _convs(model):
        fan_out = layer.out_channels * layer.weight[0, 0].numel()
        nn.init.normal_(layer.weight, std=(2 / fan_out) ** 0.5 * inside.get(layer, 1.0))
    if isinstance(classifier, nn.Linear):
        nn.init.zeros_(classifier.weight)


def rescale_start(blocks: Sequence[Residual], classifier: nn.Module) -> None:
    r"""Set RescaleNet's initial weights (Shao et al., NeurIPS 2020, as in the authors' code).

    The m convolutions of a branch have He's variance over the incoming connections, and are scaled by the m-th root of
    ``Join.start``. Shortcuts and classifier are N(0, 1 / fan-in), because no ReLU precedes them or its mean is removed.
    """
    for block in blocks:
        convs = _convs(block.branch)
        for layer in convs:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            with torch.no_grad():
                layer.weight.mul_(block.join.start ** (1 / len(convs)))
    for block in blocks:
        for layer in _convs(block.shortcut):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    if isinstance(classifier, nn.Linear):
        nn.init.kaiming_normal_(classifier.weight, nonlinearity="linear")
