"""A small vision transformer, as data and as a network: where norms made for transformers are judged at home.

Axes: N batch, T tokens (patches), D channels of a token.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nfnets_lite.models.methods import METHODS, PLAIN, plain_options
from nfnets_lite.models.parts import Blocks, new_classifier
from nfnets_lite.models.spec import Stage
from nfnets_lite.norm import NORMS, create_norm

# A transformer's norms stand in front of a linear layer, so one that activates cuts what attention is to see, and a
# norm of chosen places in a ResNet has none here.
_NOT_HERE = ("frn", "evonorm_b0", "evonorm_s0", "ibn_a", "ibn_b")
VIT_METHODS = tuple(
    name
    for name, choices in METHODS.items()
    if {**choices, "norm": PLAIN["norm"]} == PLAIN and choices["norm"] not in _NOT_HERE
)


@dataclass(frozen=True)
class ViTSpec:
    """A pre-norm vision transformer.

    Attributes
    ----------
    image_size, patch : int
        Side of the image, and of the squares that become tokens, in pixels.
    dim, depth, heads : int
        Channels of a token, blocks, attention heads.
    mlp_ratio : float
        Hidden width of a block's two linear layers over `dim`.
    norm : str
        A name of `nfnets_lite.norm`; ``"layer2d"`` is a transformer's layer norm.
    norm_options : mapping, or tuple of pairs
        Keyword arguments of the norm, plain data; kept as a sorted tuple of pairs.
    dropout : float
        Rate before the classifier.
    num_classes, in_channels : int
        0 classes: the network returns what the classifier would get.

    Raises
    ------
    ValueError
        For a norm that is not known or has no place here, sizes that do not divide, a rate outside [0, 1).

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
            value = getattr(self, field.name)
            least = 0 if field.name == "num_classes" else 1e-9
            if field.name not in ("norm", "norm_options", "dropout") and value < least:
                raise ValueError(f"{field.name}={value} must be {'at least' if least == 0 else 'above'} 0")
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
        """Patches of an image."""
        return (self.image_size // self.patch) ** 2

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Channels and stride of the one map of `VisionTransformer.forward_stages`."""
        return (Stage(self.dim, self.patch),)

    def with_method(self, method: str) -> Self:
        """The same shape with another norm, by the name of a method that is nothing but a norm."""
        if method not in VIT_METHODS:
            why = "needs a residual network's convolutions, branches or places" if method in METHODS else "is not known"
            raise ValueError(f"method={method!r} {why}; for a vision transformer use one of {', '.join(VIT_METHODS)}")
        return replace(self, norm=METHODS[method]["norm"], norm_options=())


SPECS: Mapping[str, ViTSpec] = MappingProxyType({"vit_tiny": ViTSpec()})


class TokenNorm(nn.Module):
    """A norm of `nfnets_lite.norm` for tokens: ``(N, T, D)``, seen by it as ``(N, D, T, 1)``, to the same."""

    def __init__(self, spec: ViTSpec) -> None:
        super().__init__()
        self.norm = create_norm(spec.norm, spec.dim, **dict(spec.norm_options))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2).unsqueeze(3)).squeeze(3).transpose(1, 2)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Multi-head self-attention, ``(N, T, D)`` to the same."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class EncoderBlock(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``."""

    def __init__(self, spec: ViTSpec) -> None:
        super().__init__()
        hidden = int(spec.dim * spec.mlp_ratio)
        self.enter, self.attention = TokenNorm(spec), Attention(spec.dim, spec.heads)
        self.between = TokenNorm(spec)
        self.mlp = nn.Sequential(nn.Linear(spec.dim, hidden), nn.GELU(), nn.Linear(hidden, spec.dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.enter(x))
        return x + self.mlp(self.between(x))  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """Images ``(N, in_channels, H, W)`` to logits ``(N, num_classes)``; built from a `ViTSpec`.

    Parameters
    ----------
    spec : ViTSpec

    Attributes
    ----------
    position : Parameter
        ``(T, D)``, added to the tokens. Like a bias it is clipped as one unit and not decayed: pulling it to 0 would
        make the patches' places alike.

    Raises
    ------
    ValueError
        In the forward pass, for an input of another shape than the spec's.

    Notes
    -----
    No class token: the mean of the tokens, behind the last norm, is classified (instance norm, whose mean is the same
    for every image, is left out there). Weights start truncated normal, std 0.02; the patches', N(0, 1 / fan-in).
    ViT (arXiv 2010.11929), with the mean pooling of its simple variant (arXiv 2205.01580).

    Examples
    --------
    >>> net = VisionTransformer(ViTSpec(image_size=8, patch=2, dim=16, depth=2, heads=2, in_channels=1))
    >>> net(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    agc_unit_dims: Mapping[str, int | None] = MappingProxyType({"position": None})

    def __init__(self, spec: ViTSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embed = nn.Conv2d(spec.in_channels, spec.dim, spec.patch, stride=spec.patch)
        self.position = nn.Parameter(torch.empty(spec.tokens, spec.dim))
        self.blocks = Blocks(*(EncoderBlock(spec) for _ in range(spec.depth)))
        self.final: nn.Module = nn.Identity() if spec.norm == "instance" else TokenNorm(spec)
        self.dropout = nn.Dropout(spec.dropout)
        self.classifier = new_classifier(self, spec.dim, spec.num_classes)
        nn.init.kaiming_normal_(self.embed.weight, nonlinearity="linear")
        nn.init.trunc_normal_(self.position, std=0.02)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
            if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def get_classifier(self) -> nn.Module:
        """The layer whose weight adaptive gradient clipping leaves alone; an identity where there is none."""
        return self.classifier

    def reset_classifier(self, num_classes: int) -> None:
        """Another classifier, newly started, for `num_classes` classes (0: none); the rest stays as it is."""
        self.spec = replace(self.spec, num_classes=num_classes)
        self.classifier = new_classifier(self, self.spec.dim, num_classes)
        if isinstance(self.classifier, nn.Linear):
            nn.init.trunc_normal_(self.classifier.weight, std=0.02)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep no activations inside of blocks for the backward pass, which then computes them a second time."""
        self.blocks.checkpointed = enable

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """One map, ``(N, D, H', W')``, of the tokens before the last norm; `ViTSpec.stages` has its stride."""
        side = self.spec.image_size // self.spec.patch
        return [self.blocks(self._tokens(x)).transpose(1, 2).unflatten(2, (side, side))]

    def forward_features(self, x: Tensor) -> Tensor:
        """What the classifier sees before it is averaged over the tokens: ``(N, T, D)``, normalised."""
        return self.final(self.blocks(self._tokens(x)))  # type: ignore[no-any-return]

    def forward_head(self, x: Tensor) -> Tensor:
        """Logits ``(N, num_classes)``, or ``(N, D)`` without a classifier, from what `forward_features` returns."""
        return self.classifier(self.dropout(x.mean(1)))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def _tokens(self, x: Tensor) -> Tensor:
        spec = self.spec
        if x.ndim != 4 or x.shape[1:] != (spec.in_channels, spec.image_size, spec.image_size):
            raise ValueError(
                f"input has shape {tuple(x.shape)}; expected (N, {spec.in_channels}, {spec.image_size}, "
                f"{spec.image_size}): in_channels and image_size are fixed by this model's spec, for each place has a "
                "learned position"
            )
        return self.embed(x).flatten(2).transpose(1, 2) + self.position  # type: ignore[no-any-return]
