"""Regularisation: does a network without norms need it more than one with batch norm, and which kind?

Question: How do dropout, stochastic depth, mixing, RandAugment, decay and averaging act on BN, and on NF with clipping?
Paper: NFNet (arXiv 2102.06171) table 2 and sections 4 and 5; ledger claims NF-5, NF-18, SK-5.
Command: python -m experiments run regularization --profile small
Cost: smoke 10 s on 2 cores; small 11 minutes on 2 cores; gpu 2 minutes and paper days, by a rule of thumb.
Expected: NF overfits more than BN without regularisers, and gains more from them; decay on gains and biases harms it.

The rate is fixed: at small the one that the batch-size search chose for both methods on validation images at this
batch, elsewhere near it and untested. One regulariser is changed at a time; `all` is the NFNet recipe's set. Short runs
underfit, so most regularisers cost accuracy there: what is compared is the cost for NF beside the cost for BN.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from experiments.scales import CROPS, DATA, crops, network
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
    """The numbers of one profile; digits are too few pixels for RandAugment, and have no colours."""

    data: Data
    batch_size: int
    epochs: float
    rate: float
    seeds: int
    regularizers: tuple[str, ...] = EVERY


SMALL = replace(DATA["small"], train=2500)  # few images, seen often: there is something to overfit
SCALES = {
    "smoke": Scale(
        replace(DATA["smoke"], train=100), 50, 20.0, 0.2, seeds=3,
        regularizers=("none", "dropout", "depth", "mixup", "no_decay", "decayed_gains", "ema"),
    ),
    "small": Scale(SMALL, 125, 20.0, 0.8, seeds=3),
    # RandAugment needs kornia, and its grouping of images by operation cannot be captured: CPU and paper only.
    "gpu": Scale(DATA["gpu"], 512, 8.0, 1.6, seeds=3, regularizers=tuple(r for r in EVERY if r != "randaugment")),
    "paper": Scale(DATA["paper"], 1024, 90.0, 0.4, seeds=5),
}  # fmt: skip


def sweep(profile: str) -> Sweep:
    """Every regulariser for both methods; the regulariser's name follows the method's: ``bn:dropout``."""
    scale = SCALES[profile]
    base = Recipe(
        scale.batch_size, scale.epochs, scale.rate, augment=crops(profile), autocast=profile in ("gpu", "paper")
    )
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
