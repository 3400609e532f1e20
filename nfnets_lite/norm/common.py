"""Helpers of several norms: gain and bias, statistics in float32, checks of shapes and groups."""

from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_PLAIN = (_BatchNorm.forward.__module__, __name__.rpartition(".")[0])


def at_least_float32(x: Tensor) -> Tensor:
    """`x` itself in float32 and float64, a float32 copy of anything narrower."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def is_batch_norm(module: nn.Module) -> TypeGuard[_BatchNorm]:
    """Whether a layer computes batch norm and nothing else; derived classes may compute more: timm's also activate.

    Examples
    --------
    >>> is_batch_norm(nn.BatchNorm2d(3)), is_batch_norm(nn.GroupNorm(1, 3))
    (True, False)
    """
    return isinstance(module, _BatchNorm) and type(module).forward.__module__.startswith(_PLAIN)


class ChannelNorm(nn.Module):
    """Base class: a gain `weight` and a bias `bias` per channel, each ``(C,)``, which start at 1 and 0.

    ``repr`` shows the options, which constructors keep as attributes.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def extra_repr(self) -> str:
        options = {name: value for name, value in vars(self).items() if name[0] != "_" and name != "training"}
        return ", ".join([f"{len(self.weight)}", *(f"{name}={value}" for name, value in options.items())])


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and *biased* variance per channel of ``(N, C, H, W)``, each ``(C,)``, in at least float32."""
    var, mean = torch.var_mean(at_least_float32(x), (0, 2, 3), correction=0)
    return mean, var


def follow(running: Tensor, found: Tensor, rate: float | Tensor) -> None:
    """Update running statistics in place, in their own dtype: ``(1 - rate) * running + rate * found``."""
    running.lerp_(found.to(running.dtype), rate)


def scale_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``x * scale + shift`` per channel, ``(N, C, H, W)`` and ``(C,)``, in the dtype of `x`."""
    return torch.addcmul(shift[:, None, None], at_least_float32(x), scale[:, None, None]).to(x.dtype)


def four_axes(norm: nn.Module, x: Tensor) -> None:
    """Refuse an input that is not ``(N, C, H, W)``."""
    if isinstance(x, Tensor) and x.ndim != 4:  # torch.fx has a proxy
        raise ValueError(f"input has shape {tuple(x.shape)}; {type(norm).__name__} needs 4 axes, (N, C, H, W)")


def need_two_values(kind: str, x: Tensor, examples: int | None = None) -> None:
    """Refuse an input ``(N, C, H, W)`` whose variance per channel would be taken over one value.

    `examples` is the number of examples that share statistics, by default N. The message calls the norm `kind`.
    """
    examples = len(x) if examples is None else examples
    if examples * x.shape[2] * x.shape[3] == 1:
        raise ValueError(
            f"input has shape {tuple(x.shape)}; {kind} takes a variance over {examples} example of one position, and "
            "one value has none. Give it more examples or a larger map, call .eval() where it has running "
            "statistics, or build the model with a norm that mixes channels instead: 'group', 'layer', 'layer2d'"
        )


def whole_groups(channels: int, groups: int | None) -> int:
    """`groups`, checked; for None the largest divisor of `channels` up to 32 that leaves at least 4 channels a group.

    It is 1 if there is no such divisor. The authors of group normalisation use 32, too many for narrow networks.

    Raises
    ------
    ValueError
        If `groups` does not divide `channels`.

    Examples
    --------
    >>> [whole_groups(channels, None) for channels in (256, 64, 16, 6, 3)]
    [32, 16, 4, 1, 1]
    """
    divisors = [g for g in range(1, channels + 1) if channels % g == 0]
    if groups is None:
        return max((g for g in divisors if g <= 32 and channels // g >= 4), default=1)
    if groups not in divisors:
        raise ValueError(
            f"groups={groups} does not divide channels={channels}; use one of {', '.join(map(str, divisors))}, or "
            "None for the largest that suits"
        )
    return groups
