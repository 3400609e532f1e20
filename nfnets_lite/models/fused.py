"""Factors of activations, taken into the weight of a convolution before or behind: a smaller tensor.

A network without norms multiplies each activation by its gain and each branch by its skip gain, forward and backward:
memory traffic that batch norm's own multiplication would not add. The products are the same up to rounding. Whatever
looks at an activation or at a layer behind it (a hook) or stands in its place still sees and gives the whole of it.
"""

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from nfnets_lite.activations import ACTIVATIONS, ScaledActivation
from nfnets_lite.conv import ScaledStdConv2d
from nfnets_lite.models.parts import SqueezeExcite


class Chain(nn.Sequential):
    """Layers one after another; an activation's factor in front of a standardised convolution goes into its weight.

    `factor` multiplies the input; other than 1 the first layer must be one that `takes_factor`. `scale`, a 0-d tensor,
    multiplies the output; `takes_scale` says whether the last layer can.
    """

    def forward(self, x: Tensor, factor: float = 1.0, scale: Tensor | None = None) -> Tensor:
        layers = list(self)
        for layer, following in zip(layers, [*layers[1:], None]):
            given = {} if factor == 1.0 else {"factor": factor}
            if following is None and scale is not None:
                x = layer(x, **given, scale=scale)
            elif given or not takes_factor(following):
                x, factor = layer(x, **given), 1.0
            else:
                x, factor = without_factor(layer, x)
        return x


def takes_factor(layer: nn.Module | None) -> bool:
    """Whether ``layer(x, factor)`` is ``layer(factor * x)``, and nobody looks at the input.

    A class that derives may make its weight another way.
    """
    return type(layer) is ScaledStdConv2d and not is_watched(layer)


def takes_scale(branch: nn.Module) -> bool:
    """Whether ``branch(x, scale=s)`` is ``s * branch(x)``, and nobody looks at ``branch(x)``."""
    if not isinstance(branch, Chain) or not len(branch) or is_watched(branch) or is_watched(branch[-1]):
        return False
    return type(branch[-1]) in (ScaledStdConv2d, SqueezeExcite)


def without_factor(layer: nn.Module, x: Tensor) -> tuple[Tensor, float]:
    """An output and a number whose product is ``layer(x)``."""
    act = layer[-1] if isinstance(layer, nn.Sequential) and len(layer) else None
    if type(act) is not ScaledActivation or is_watched(layer) or is_watched(act):
        return layer(x), 1.0
    assert isinstance(layer, nn.Sequential)
    for before in list(layer)[:-1]:
        x = before(x)
    return ACTIVATIONS[act.name](x), act.scale


def is_watched(module: nn.Module) -> bool:
    """Whether a hook sees what goes into the module or comes out of it."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or _has_any_global_hook()  # type: ignore[no-untyped-call]
    )
