"""Batch size: does clipping let a normalizer-free network train at the batch sizes that batch norm can use?

Question: Which batch sizes can BN, GN, NF and NF+AGC use, with a learning rate searched for each method and batch size?
Paper: NFNet (arXiv 2102.06171) Figure 2a and section 4.1, SkipInit (arXiv 2002.10444); claims NF-8, SK-4.
Command: python -m experiments run batch_size --profile small
Cost: smoke 25 s on 2 cores; small 18 minutes on 2 cores; gpu 5 minutes and paper months, by a rule of thumb.
Expected: NF+AGC stays level with BN at every batch size; NF without clipping falls behind as the batch grows.

All methods share one network, one schedule and one grid of learning rates. In one half of the sweep, all runs have the
same number of epochs: a large batch then has few updates, which handicaps every method. In the other half, labelled
``bn:updates`` and so on, all batch sizes have the number of updates of one of them, the anchor. The anchor's runs at
equal epochs count for both halves. NF starts with alpha = 1 and skip gain 1. With the published start (0.2 and 0), a
schedule of a few hundred updates ends before the branches have grown (docs/decisions has the pilot). At smoke the
network has two stages of one block, both strided, so that the largest batch still gets ten updates. At small and gpu
the network has half the channels, so that the many updates of the smallest batch are affordable.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from experiments.scales import DATA, autocast, crops, network
from experiments.sweep import Sweep
from experiments.tasks.data import FULL
from experiments.tasks.recipe import Clip, Recipe
from experiments.tasks.training import Training, updates_of

METHODS = ("bn", "gn", "nf", "nf_agc")
UPDATES = ":updates"  # behind the method, in the labels of the half with equal updates
SHORT = {"depth": (1, 1), "width": (8, 16), "strides": (2, 2)}
NARROW = {"width": (8, 16, 32), "stem_width": 8}


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile: batch sizes at equal epochs; `others` also with the number of updates of `anchor`."""

    sizes: tuple[int, ...]
    anchor: int
    others: tuple[int, ...]
    epochs: float
    rates: tuple[float, ...]
    model: Mapping[str, Any]
    seeds: int


SCALES = {
    "smoke": Scale((32, 64, 128, 256), 128, (32, 256), 2.5, (0.05, 0.4, 3.2), SHORT, seeds=3),
    "small": Scale((8, 32, 128, 512, 1024), 512, (32, 128, 1024), 8.0, (0.05, 0.2, 0.8, 3.2), NARROW, seeds=3),
    "gpu": Scale((16, 64, 256, 1024, 4096), 1024, (64, 256, 4096), 3.0, (0.0125, 0.05, 0.2, 0.8, 3.2), NARROW, seeds=5),
    "paper": Scale((256, 512, 1024, 2048, 4096), 1024, (256, 4096), 90.0, (0.1, 0.2, 0.4, 0.8, 1.6), {}, seeds=5),
}


def sweep(profile: str) -> Sweep:
    """Every method at every batch size, at equal epochs and then at equal updates."""
    scale, data = SCALES[profile], DATA[profile]
    base = Recipe(0, scale.epochs, 0.0, augment=crops(profile), autocast=autocast(profile))
    images = data.train or FULL[data.name] - data.validation
    updates = updates_of(replace(base, batch_size=scale.anchor), images)
    settings = [("", replace(base, batch_size=size)) for size in scale.sizes]
    settings += [(UPDATES, replace(base, batch_size=size, epochs=0.0, updates=updates)) for size in scale.others]
    cells = tuple(
        Training(
            method + half,
            network(profile, **scale.model).with_method(method.removesuffix("_agc")),
            data,
            replace(recipe, clip=Clip() if method == "nf_agc" else None),
        )
        for half, recipe in settings
        for method in METHODS
    )
    return Sweep("batch_size", cells, scale.rates, seeds=tuple(range(scale.seeds)))
