"""What can stand where a ResNet has a norm: a factory by name, ``create_norm(name, channels)``."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import nn

NORMS: Mapping[str, Callable[[int], nn.Module]] = MappingProxyType(
    {
        "none": lambda channels: nn.Identity(),
        "batch": nn.BatchNorm2d,
    }
)


def create_norm(name: str, channels: int) -> nn.Module:
    """A normalisation layer for ``(N, channels, H, W)`` by its name, a key of `NORMS`.

    Examples
    --------
    >>> type(create_norm("batch", 16)).__name__
    'BatchNorm2d'
    """
    if name not in NORMS:
        raise ValueError(f"norm={name!r} is not known; use one of {', '.join(NORMS)}")
    return NORMS[name](channels)
