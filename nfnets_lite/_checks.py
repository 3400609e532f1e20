"""Checks of arguments that several functions share."""

from collections.abc import Iterable
from math import inf
from numbers import Integral, Real
from typing import Any

from torch import Tensor, nn


def check_number(
    name: str, value: Any, *, above: float = -inf, least: float = -inf, most: float = inf, whole: bool = False
) -> None:
    """Raise a ValueError unless `value` is a finite number, a whole one if `whole`, within the bounds."""
    kind = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if kind and above < value < inf and least <= value <= most:
        return
    bounds = [f"{word} {bound:g}" for word, bound in (("above", above), ("of at least", least), ("of at most", most))]
    accepted = " and ".join(bound for bound in bounds if "inf" not in bound)
    number = f"a {'whole' if whole else 'finite'} number{accepted and f' {accepted}'}"
    raise ValueError(f"{name}={value!r} must be {number}")


def check_model(name: str, value: object) -> None:
    """Raise a TypeError unless `value` is a module."""
    if not isinstance(value, nn.Module):
        raise TypeError(f"{name} is a {type(value).__name__}; pass the model itself, an nn.Module, not its parameters")


def as_iterable(given: Any) -> Iterable[Any]:
    """The entries of an iterable; a tensor, or an object without entries, alone."""
    return [given] if isinstance(given, Tensor) or not isinstance(given, Iterable) else given
