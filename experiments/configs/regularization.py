"""Regularisation: does a network without norms need it more than one with batch norm, and which kind?

Question: How do dropout, stochastic depth, MixUp, CutMix, RandAugment, weight decay and averaging change the accuracy
    of BN, and of NF with clipping?
Paper: NFNet (arXiv 2102.06171) table 2 and sections 4 and 5; claims NF-5, NF-18, SK-5.
Command: python -m experiments run regularization --profile small
Cost: smoke 10 s on 2 cores; small 11 minutes on 2 cores; gpu 2 minutes and paper days, by a rule of thumb.
Expected: NF overfits more than BN without regularisers, and gains more from them. Weight decay on gains and biases
    harms NF.

The learning rate is fixed. At small it is the one that the search of `batch_size` chose for both methods on validation
images at this batch size; at other profiles it is near that one and untested. One regulariser is changed at a time;
`all` has those of the NFNet recipe together. Short runs underfit, so most regularisers cost accuracy there: compare the
cost for NF with the cost for BN.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from experiments.scales import CROPS, DATA, autocast, crops, network
from experiments.sweep import Sweep
from experiments.tasks.recipe import Augment, Clip, Data, Recipe
from experiments.tasks.training import Training

METHODS = ("bn", "nf_agc")
MODEL: Mapping[str, dict[str, Any]] = {
    "dropout": {"dropout": 0.25},
    "depth": {"stochastic_depth": 0.1},
    "all": {"dropout": 0.25, "stochastic_depth": 0.1},
}
RECIPE: Mapping[str, dict[str, Any]] = {
    "smoothing": {"label_smoothing": 0.1},
    "no_decay": {"weight_decay": 0.0},
    "decayed_gains": {"decay_gains": True},
    "ema": {"ema": 0.99},
    "all": {"label_smoothing": 0.1, "ema": 0.99},
}
AUGMENT: Mapping[str, dict[str, float]] = {
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "randaugment": {"randaugment": 5.0},
    "all": {"mixup": 0.2, "cutmix": 1.0},
}
EVERY = tuple(dict.fromkeys(("none", *MODEL, *RECIPE, *AUGMENT)))


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile; no RandAugment for digits, which have too few pixels for it and no colours."""

    data: Data
    batch_size: int
    epochs: float
    rate: float
    seeds: int
    regularizers: tuple[str, ...] = EVERY


SMALL = replace(DATA["small"], train=2500)  # few images, seen often, so that networks overfit
SCALES = {
    "smoke": Scale(
        replace(DATA["smoke"], train=100), 50, 20.0, 0.2, seeds=3,
        regularizers=("none", "dropout", "depth", "mixup", "no_decay", "decayed_gains", "ema"),
    ),
    "small": Scale(SMALL, 125, 20.0, 0.8, seeds=3),
    # RandAugment needs kornia, and it groups images by operation, which a captured step cannot: CPU and paper only.
    "gpu": Scale(DATA["gpu"], 512, 8.0, 1.6, seeds=3, regularizers=tuple(r for r in EVERY if r != "randaugment")),
    "paper": Scale(DATA["paper"], 1024, 90.0, 0.4, seeds=5),
}  # fmt: skip


def sweep(profile: str) -> Sweep:
    """Every regulariser for both methods; labels are ``method:regulariser``, such as ``bn:dropout``."""
    scale = SCALES[profile]
    base = Recipe(scale.batch_size, scale.epochs, scale.rate, augment=crops(profile), autocast=autocast(profile))
    return Sweep(
        "regularization",
        tuple(_cell(method, name, profile, base) for method in METHODS for name in scale.regularizers),
        seeds=tuple(range(scale.seeds)),
    )


def _cell(method: str, name: str, profile: str, base: Recipe) -> Training:
    spec = network(profile).with_method(method.removesuffix("_agc"))
    augment = Augment(**{**vars(CROPS if base.augment.crop_flip else Augment()), **AUGMENT.get(name, {})})
    recipe = replace(base, clip=Clip() if method == "nf_agc" else None, augment=augment, **RECIPE.get(name, {}))
    return Training(f"{method}:{name}", replace(spec, **MODEL.get(name, {})), SCALES[profile].data, recipe)
