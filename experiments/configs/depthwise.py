"""Depth-wise convolutions: does standardising their few weights cost accuracy, and what does more augmentation bring?

Question: In a network of inverted bottlenecks, how does batch norm compare with weights standardised everywhere, and
    with weights standardised everywhere but in depth-wise convolutions? Do MixUp and CutMix help such a network on top
    of RandAugment?
Paper: NF-ResNet (arXiv 2101.08692) on EfficientNets, NFNet (2102.06171) section 4.2; claims SP-9, NF-17.
Command: python -m experiments run depthwise --profile small
Cost: smoke 5 s on 2 cores; small 5 minutes on 2 cores; gpu 1 minute and paper weeks, by a rule of thumb.
Expected: The network with standardised weights everywhere is below batch norm. Leaving depth-wise weights plain makes
    up for most of the difference. In short schedules MixUp and CutMix cost accuracy in every network.

The blocks are those of MobileNetV2, with the norm before the convolution: a 1x1 convolution to four times the width, a
depth-wise 3x3, and a 1x1 back. A depth-wise filter has 9 weights. Standardised weights sum to 0, so such a filter
cannot average its input.
"""

from dataclasses import dataclass, replace
from typing import Any

from experiments.scales import DATA, autocast, crops, network
from experiments.sweep import Sweep
from experiments.tasks.recipe import Augment, Data, Recipe
from experiments.tasks.training import Training
from nfnets_lite.models import ResNetSpec

INVERTED: dict[str, Any] = {"branch": (1, 3, 1), "bottleneck": 4.0, "group_width": 1}
NETWORKS: dict[str, dict[str, Any]] = {
    "mobilenet_bn": {"method": "bn"},
    "mobilenet_ws": {"method": "nf"},
    "mobilenet_ws_dense": {"method": "nf", "conv": "scaled_ws_dense"},
}
MIXED = (Augment(), Augment(mixup=0.2, cutmix=1.0))


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile; RandAugment only where images are larger than digits and no graph is captured."""

    data: Data
    batch_size: int
    epochs: float
    rates: tuple[float, ...]
    shape: dict[str, Any]
    seeds: int = 3
    randaugment: float = 0.0


SCALES = {
    "smoke": Scale(DATA["smoke"], 32, 1.0, (0.1, 0.4), {}),
    "small": Scale(
        DATA["small"], 64, 4.0, (0.05, 0.2, 0.8), {"width": (8, 16, 32), "stem_width": 8}, randaugment=5.0
    ),
    "gpu": Scale(DATA["gpu"], 256, 4.0, (0.1, 0.4, 1.6), {"depth": (2, 2, 2)}),
    "paper": Scale(
        DATA["paper"], 1024, 90.0, (0.1, 0.4, 1.6),
        {"depth": (3, 4, 6, 3), "width": (24, 48, 96, 192), "stem_width": 32}, seeds=5, randaugment=5.0,
    ),
}  # fmt: skip


def sweep(profile: str) -> Sweep:
    """The three networks; where there is RandAugment, also batch norm under it, with and without MixUp and CutMix."""
    scale = SCALES[profile]
    recipe = Recipe(scale.batch_size, scale.epochs, 0.0, augment=crops(profile), autocast=autocast(profile))
    cells = [Training(name, _model(profile, scale, **made), scale.data, recipe) for name, made in NETWORKS.items()]
    if scale.randaugment:
        model = _model(profile, scale, method="bn")
        shared: dict[str, Any] = {"crop_flip": recipe.augment.crop_flip, "randaugment": scale.randaugment}
        cells += [
            Training("mobilenet_aug", model, scale.data, replace(recipe, augment=replace(augment, **shared)))
            for augment in MIXED
        ]
    return Sweep("depthwise", tuple(cells), scale.rates, seeds=tuple(range(scale.seeds)))


def _model(profile: str, scale: Scale, method: str, **changes: Any) -> ResNetSpec:
    return replace(network(profile).with_method(method), **{**INVERTED, **scale.shape, **changes})
