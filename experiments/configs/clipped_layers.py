"""Clipped layers: which parts of a network does adaptive clipping have to cover?

Question: Does it help to leave the classifier unclipped, and what happens if other parts are left unclipped?
Paper: NFNet (arXiv 2102.06171) section 4.1; claim NF-10.
Command: python -m experiments run clipped_layers --profile small
Cost: smoke 5 s on 2 cores; small 2 minutes on 2 cores; gpu 30 s and paper weeks, by a rule of thumb.
Expected: Clipping the classifier's weight as well costs accuracy. Leaving the first convolution unclipped does not
    matter. Leaving either half of the blocks unclipped ends in divergence or costs more than a point.

At the learning rate used, the network does not train without clipping, as the runs of `nf` show. At a learning rate at
which it trains without clipping, no part needs clipping.
"""

from dataclasses import dataclass, replace

from experiments.scales import DATA, autocast, crops, network
from experiments.sweep import Sweep
from experiments.tasks.recipe import Clip, Recipe
from experiments.tasks.training import Training

# "body" is all but the classifier's weight: elsewhere in the book, AGC clips these layers.
METHODS = {
    "nf": None, "nf_agc": "body", "agc_all": "all", "agc_weights": "weights", "agc_no_stem": "no_stem",
    "agc_early": "early", "agc_late": "late",
}  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile; small has more seeds, because the effect is a fraction of a point."""

    batch_size: int
    updates: int | None
    rate: float
    seeds: int
    epochs: float = 0.0
    factor: float = 0.01


SCALES = {
    "smoke": Scale(64, 32, 0.8, seeds=3),
    "small": Scale(128, 150, 0.8, seeds=8),
    "gpu": Scale(512, 250, 1.6, seeds=5),
    "paper": Scale(4096, None, 1.6, seeds=5, epochs=90.0),
}


def sweep(profile: str) -> Sweep:
    """Every choice of clipped layers, and no clipping, at one threshold and one learning rate."""
    scale = SCALES[profile]
    model = network(profile).with_method("nf")
    recipe = Recipe(
        scale.batch_size,
        scale.epochs,
        scale.rate,
        updates=scale.updates,
        augment=crops(profile),
        autocast=autocast(profile),
    )
    cells = tuple(
        Training(
            method,
            model,
            DATA[profile],
            replace(recipe, clip=None if layers is None else Clip(factor=scale.factor, layers=layers)),
        )
        for method, layers in METHODS.items()
    )
    return Sweep("clipped_layers", cells, seeds=tuple(range(scale.seeds)))
