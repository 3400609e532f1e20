"""Specification of a small vision transformer, on which norms made for transformers can be tested."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Self

from nfnets_lite._checks import check_number
from nfnets_lite.models.methods import METHODS, PLAIN, plain_options
from nfnets_lite.models.spec import Stage
from nfnets_lite.norm import NORMS, create_norm

# A norm that activates would cut off a part of what attention gets; IBN is defined for stages of a ResNet.
_NOT_HERE = ("frn", "evonorm_b0", "evonorm_s0", "ibn_a", "ibn_b")
VIT_METHODS = tuple(
    name
    for name, choices in METHODS.items()
    if {**choices, "norm": PLAIN["norm"]} == PLAIN and choices["norm"] not in _NOT_HERE
)


@dataclass(frozen=True)
class ViTSpec:
    """Specification of a pre-norm vision transformer.

    Attributes
    ----------
    image_size, patch : int
        Sides of the image and of a square patch, in pixels.
    dim, depth, heads : int
        Channels of a token, blocks, attention heads.
    mlp_ratio : float
        Hidden width of a block's two linear layers over `dim`.
    norm : str
        A name of `nfnets_lite.norm`; ``"layer2d"`` is a transformer's layer norm.
    norm_options : mapping, or tuple of pairs
        Keyword arguments of the norm, plain data; stored as a sorted tuple of pairs.
    dropout : float
        Rate before the classifier.
    num_classes, in_channels : int
        With 0 classes the network returns the pooled features.

    Raises
    ------
    ValueError
        For a norm that is unknown or not for transformers, sizes that do not divide, or a rate outside [0, 1).

    Examples
    --------
    >>> ViTSpec(image_size=8, patch=2).with_method("bn").tokens
    16
    """

    image_size: int = 32
    patch: int = 4
    dim: int = 192
    depth: int = 12
    heads: int = 3
    mlp_ratio: float = 4.0
    norm: str = "layer2d"
    norm_options: tuple[tuple[str, Any], ...] = ()
    dropout: float = 0.0
    num_classes: int = 10
    in_channels: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm_options", plain_options(self.norm_options))
        known = sorted(set(NORMS) - set(_NOT_HERE))
        if self.norm not in known:
            why = "activates, or stands at places of a ResNet" if self.norm in _NOT_HERE else "is not known"
            raise ValueError(f"norm={self.norm!r} {why}; for a vision transformer use one of {', '.join(known)}")
        for field in fields(self):
            if field.name not in ("norm", "norm_options", "dropout", "mlp_ratio"):
                least = 0 if field.name == "num_classes" else 1
                check_number(field.name, getattr(self, field.name), least=least, whole=True)
        check_number("mlp_ratio", self.mlp_ratio, above=0)
        for whole, part in (("image_size", "patch"), ("dim", "heads")):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(
                    f"{part}={getattr(self, part)} does not divide {whole}={getattr(self, whole)}; use a divisor"
                )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be a rate in [0, 1)")
        if self.norm_options:
            create_norm(self.norm, self.dim, **dict(self.norm_options))  # refuses options it does not take

    @property
    def tokens(self) -> int:
        """Number of patches of an image."""
        return (self.image_size // self.patch) ** 2

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Channels and stride of the one map of `VisionTransformer.forward_stages`."""
        return (Stage(self.dim, self.patch),)

    def with_method(self, method: str) -> Self:
        """A copy with the norm of a named method, one that sets nothing but a norm."""
        if method not in VIT_METHODS:
            why = "needs a residual network's convolutions, branches or places" if method in METHODS else "is not known"
            raise ValueError(f"method={method!r} {why}; for a vision transformer use one of {', '.join(VIT_METHODS)}")
        return replace(self, norm=METHODS[method]["norm"], norm_options=())


SPECS: Mapping[str, ViTSpec] = MappingProxyType({"vit_tiny": ViTSpec()})
