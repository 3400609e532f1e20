"""Normalisers made for transformers, in a transformer: a small ViT that takes every norm of the package.

Question: In a vision transformer, how do BN, PowerNorm, unified norm, PRepBN, DyT and Derf compare with layer norm?
Paper: PowerNorm (arXiv 2003.07845), unified normalisation (2208.01313), SLAB (2405.11582), DyT (2503.10622), Derf
    (2512.10938); claims PN-1, UN-1, PR-1.
Command: python -m experiments run transformers --profile small
Cost: smoke 10 s on 2 cores; small 8 minutes on 2 cores; gpu 2 minutes and paper days, by a rule of thumb.
Expected: Most are within a few points of layer norm, and batch norm is well below it. So shallow a transformer trains
    without a norm, too.
"""

from dataclasses import dataclass

from experiments.scales import CHANNELS, DATA, autocast, crops
from experiments.sweep import Sweep
from experiments.tasks.recipe import Data, Recipe
from experiments.tasks.training import Training
from nfnets_lite.models import ViTSpec, model_spec

METHODS = ("ln2d", "bn", "pn", "un", "prepbn", "dyt", "derf", "none")


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile: data; side and patch in pixels; width, depth and heads; schedule."""

    data: Data
    side: int
    patch: int
    dim: int
    depth: int
    heads: int
    batch_size: int
    epochs: float
    rates: tuple[float, ...]
    seeds: int = 3


SCALES = {
    "smoke": Scale(DATA["smoke"], 8, 2, 32, 2, 2, 32, 1.5, (0.004, 0.016)),
    "small": Scale(DATA["small"], 16, 4, 64, 4, 4, 128, 8.0, (0.0005, 0.002, 0.008)),
    "gpu": Scale(DATA["gpu"], 32, 4, 96, 4, 3, 512, 4.5, (0.0005, 0.002, 0.008)),
    "paper": Scale(DATA["paper"], 224, 16, 384, 12, 6, 1024, 90.0, (0.0005, 0.001), seeds=5),
}


def sweep(profile: str) -> Sweep:
    """Every method in the same transformer, trained with Adam."""
    scale = SCALES[profile]
    spec = model_spec(
        "vit_tiny", image_size=scale.side, patch=scale.patch, dim=scale.dim, depth=scale.depth, heads=scale.heads,
        in_channels=CHANNELS.get(scale.data.name, 3), num_classes=1000 if profile == "paper" else 10,
    )  # fmt: skip
    assert isinstance(spec, ViTSpec)
    recipe = Recipe(
        scale.batch_size, scale.epochs, 0.0, optimizer="adam", weight_decay=0.0, augment=crops(profile),
        autocast=autocast(profile),
    )  # fmt: skip
    cells = tuple(Training(method, spec.with_method(method), scale.data, recipe) for method in METHODS)
    return Sweep("transformers", cells, scale.rates, seeds=tuple(range(scale.seeds)))
