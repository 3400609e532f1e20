"""Gradient over weight: the ratio that adaptive clipping bounds, in training with clipping and without.

Question: How are the ratios of gradient norm to weight norm distributed over units and updates, clipped and unclipped?
Paper: NFNet (arXiv 2102.06171) section 4 motivates clipping by this ratio and prints no distribution; no claim.
Command: python -m experiments run gradient_ratios --profile small
Cost: smoke 5 s on 2 cores; small 1 minute on 2 cores; gpu 1 minute and paper days, by a rule of thumb.
Expected: Without clipping, the ratios grow without bound before the network diverges. Clipping keeps the network from
    diverging without making the ratios small. Batch norm makes them small by itself.

At the lower learning rate the network trains without clipping, at the higher one it does not.
"""

from dataclasses import dataclass, replace

from experiments.scales import DATA, autocast, crops, network
from experiments.sweep import Sweep
from experiments.tasks.ratios import Ratios
from experiments.tasks.recipe import Clip, Recipe

METHODS = ("bn", "nf", "nf_agc")


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile."""

    batch_size: int
    updates: int | None
    rates: tuple[float, float]
    epochs: float = 0.0
    seeds: int = 3


SCALES = {
    "smoke": Scale(64, 40, (0.05, 0.8)),
    "small": Scale(128, 160, (0.05, 0.8)),
    "gpu": Scale(256, 300, (0.05, 1.6)),
    "paper": Scale(4096, None, (0.4, 1.6), epochs=90.0, seeds=5),
}


def sweep(profile: str) -> Sweep:
    """Every method at both learning rates."""
    scale = SCALES[profile]
    recipe = Recipe(
        scale.batch_size,
        scale.epochs,
        0.0,
        updates=scale.updates,
        augment=crops(profile),
        autocast=autocast(profile),
    )
    cells = tuple(
        Ratios(
            method,
            network(profile).with_method(method.removesuffix("_agc")),
            DATA[profile],
            replace(recipe, lr=rate, clip=Clip() if method == "nf_agc" else None),
        )
        for rate in scale.rates
        for method in METHODS
    )
    return Sweep("gradient_ratios", cells, seeds=tuple(range(scale.seeds)))
