"""Small differences between the authors' networks and their ports, each switched on alone in one of our models.

A switch changes a model in place, so that the chapter can compare the same parameters on the same batch with the
difference and without. Public code and issue threads describe the differences; only their arithmetic is repeated here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nfnets_lite.activations import ScaledActivation
from nfnets_lite.agc import AdaptiveClip, unitwise_norm
from nfnets_lite.conv import ScaledStdConv2d


@dataclass(frozen=True)
class Difference:
    """One difference between the reference and a port, in words, and the switch that applies it to a model."""

    reference: str
    other: str
    switch: Callable[[nn.Module], None]


def _standardized(scale: Callable[[Tensor, int], Tensor]) -> type[ScaledStdConv2d]:
    """A standardised convolution that scales a centred filter by a function of its biased variance and its fan-in."""

    class Standardized(ScaledStdConv2d):
        def effective_weight(self) -> Tensor:
            w = self.weight.flatten(1)
            variance, mean = torch.var_mean(w, dim=1, correction=0, keepdim=True)
            scaled = (w - mean) * scale(variance, w.shape[1]) * self.gain[:, None]
            return scaled.reshape(self.weight.shape)

    return Standardized


def _unbiased(variance: Tensor, fan_in: int) -> Tensor:
    return (variance * (fan_in / (fan_in - 1)) * fan_in).clamp(min=1e-4).rsqrt()


def _epsilon_added(variance: Tensor, fan_in: int) -> Tensor:
    return ((variance + 1e-5) * fan_in).rsqrt()


class _ErfGelu(ScaledActivation):
    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x) * self.scale


def _become(kind: type[nn.Module], of: type[nn.Module]) -> Callable[[nn.Module], None]:
    def switch(model: nn.Module) -> None:
        for module in model.modules():
            if type(module) is of:
                module.__class__ = kind

    return switch


def _symmetric_padding(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, ScaledStdConv2d):
            module.same, module.padding = False, tuple(k // 2 for k in module.kernel_size)


FORWARD: Mapping[str, Difference] = MappingProxyType(
    {
        "variance": Difference("biased", "unbiased, n - 1", _become(_standardized(_unbiased), ScaledStdConv2d)),
        "epsilon": Difference(
            "max(var · n, 1e-4)", "var + 1e-5", _become(_standardized(_epsilon_added), ScaledStdConv2d)
        ),
        "GELU": Difference("tanh form", "erf form", _become(_ErfGelu, ScaledActivation)),
        "padding": Difference(
            "SAME: an odd pixel of padding goes to the right and bottom", "k // 2 on both sides", _symmetric_padding
        ),
    }
)  # fmt: skip


@torch.no_grad()
def logit_difference(reference: nn.Module, other: nn.Module, x: Tensor) -> float:
    """Largest difference of two models' logits on a batch, over the root mean square of the reference's."""
    expected = reference(x)
    return float((other(x) - expected).abs().max() / expected.square().mean().sqrt())


def gains(model: nn.Module) -> list[nn.Parameter]:
    """The gain vectors of a model's standardised convolutions."""
    return [module.gain for module in model.modules() if isinstance(module, ScaledStdConv2d)]


@torch.no_grad()
def clipped_gains(model: nn.Module, clip_factor: float, *, per_channel: bool) -> tuple[float, float]:
    """Fraction of gain units above their bound, and the norm of the clipped gradient over the norm before clipping.

    In the authors' code a gain vector is one unit. In ports that store it as ``(O, 1, 1, 1)``, each entry is a unit.
    """
    above, units, kept, total = 0, 0, 0.0, 0.0
    for gain in gains(model):
        if gain.grad is None:
            continue
        weight, grad = (gain[:, None], gain.grad[:, None]) if per_channel else (gain[None], gain.grad[None])
        bound, norm = unitwise_norm(weight).clamp(min=1e-3) * clip_factor, unitwise_norm(grad)
        factor = (bound / norm.clamp(min=1e-6)).clamp(max=1)
        above, units = above + int((norm > bound).sum()), units + norm.numel()
        kept, total = kept + float((grad * factor).square().sum()), total + float(grad.square().sum())
    return above / units, (kept / total) ** 0.5


@torch.no_grad()
def clipped_classifier(model: nn.Module, classifier: nn.Linear, clip_factor: float) -> tuple[float, float]:
    """Effect of clipping the classifier's weight, which the reference does not: fraction of rows, and share of norm."""
    assert classifier.weight.grad is not None
    before = classifier.weight.grad.clone()
    fraction = float(AdaptiveClip(classifier.weight, clip_factor)())
    left = float(classifier.weight.grad.norm() / before.norm())
    classifier.weight.grad.copy_(before)
    return fraction, left
