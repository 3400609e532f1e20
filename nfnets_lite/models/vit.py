"""A small vision transformer as a network, made from a `ViTSpec`.

Axes: N batch, T tokens (patches), D channels of a token.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nfnets_lite.models.parts import Blocks, new_classifier
from nfnets_lite.models.vit_spec import ViTSpec
from nfnets_lite.norm import create_norm


class TokenNorm(nn.Module):
    """A norm of `nfnets_lite.norm` on tokens ``(N, T, D)``, which it gets as ``(N, D, T, 1)``."""

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
    """The network of a `ViTSpec`: images ``(N, in_channels, H, W)`` to logits ``(N, num_classes)``.

    Attributes
    ----------
    position : Parameter
        ``(T, D)``, added to the tokens. Like a bias it is clipped as one unit and not decayed: decay would make the
        patches' positions alike.

    Raises
    ------
    ValueError
        In the forward pass, for an input of another shape than the spec's.

    Notes
    -----
    No class token: the mean of the tokens after the last norm is classified. Instance norm is left out there, because
    it would give every image the same mean. Linear weights start truncated normal with std 0.02, the patch embedding's
    N(0, 1 / fan-in). ViT (arXiv 2010.11929), with the mean pooling of its simple variant (arXiv 2205.01580).

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
        """The classifier, whose weight adaptive gradient clipping leaves alone; an identity for 0 classes."""
        return self.classifier

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by a new one for `num_classes` classes, or by an identity for 0 classes."""
        self.spec = replace(self.spec, num_classes=num_classes)
        self.classifier = new_classifier(self, self.spec.dim, num_classes)
        if isinstance(self.classifier, nn.Linear):
            nn.init.trunc_normal_(self.classifier.weight, std=0.02)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Save memory: the backward pass computes the activations inside blocks again, from the same buffers."""
        self.blocks.checkpointed = enable

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """The tokens before the last norm, as a list of one map ``(N, D, H', W')``; ``spec.stages`` has its stride."""
        side = self.spec.image_size // self.spec.patch
        return [self.blocks(self._tokens(x)).transpose(1, 2).unflatten(2, (side, side))]

    def forward_features(self, x: Tensor) -> Tensor:
        """Normalised features before they are averaged over tokens, ``(N, T, D)``."""
        return self.final(self.blocks(self._tokens(x)))  # type: ignore[no-any-return]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits ``(N, num_classes)`` from the output of `forward_features`; its mean ``(N, D)`` with `pre_logits`."""
        x = self.dropout(x.mean(1))
        return x if pre_logits else self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def _tokens(self, x: Tensor) -> Tensor:
        spec = self.spec
        expected = spec.in_channels, spec.image_size, spec.image_size
        if isinstance(x, Tensor) and (x.ndim != 4 or x.shape[1:] != expected):  # torch.fx has a proxy without a shape
            raise ValueError(
                f"input has shape {tuple(x.shape)}; expected (N, {spec.in_channels}, {spec.image_size}, "
                f"{spec.image_size}): in_channels and image_size are fixed by this model's spec, because each patch "
                "has a learned position"
            )
        return self.embed(x).flatten(2).transpose(1, 2) + self.position  # type: ignore[no-any-return]
