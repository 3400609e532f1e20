"""Clipping threshold: which thresholds of AGC work, by batch size, by learning rate and by optimizer?

Question: How do the thresholds of AGC that work change with the batch size, the learning rate and the optimizer?
Paper: NFNet (arXiv 2102.06171) Figures 2b and 7, section 4.1; claim NF-9.
Command: python -m experiments run clipping_threshold --profile small
Cost: smoke 10 s on 2 cores; small 5 minutes on 2 cores; gpu 1 minute and paper weeks, by a rule of thumb.
Expected: Larger batches, at the larger learning rates that go with them, need smaller thresholds. At a small batch the
    threshold hardly matters. Under Adam and Lion clipping changes little; RMSProp needs smaller thresholds.

The learning rate is an axis of the sweep and is not searched: threshold and learning rate act through their product,
and a search would hide that. All runs have the same number of updates, so that a larger batch does not also mean a
shorter schedule. The learning rates go beyond the largest at which the network trains without clipping: below it, a
threshold changes next to nothing (a pilot on validation images showed this). From end to end, learning rates grow by
the same factor as batch sizes, so the paper's linear rule leads from one corner of the grid to the opposite one. The
other cells separate the effect of the learning rate from that of the batch size.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from experiments.scales import DATA, crops, network
from experiments.sweep import Sweep
from experiments.tasks.recipe import Clip, Recipe
from experiments.tasks.training import Training

Rates = tuple[tuple[int, float], ...]  # batch size and learning rate
FACTORS = (0.0025, 0.01, 0.04, 0.16)
NARROW = {"width": (8, 16, 32), "stem_width": 8}  # so that a grid of this size is affordable
# Each adaptive optimizer trains without clipping at all of its learning rates but the largest.
OPTIMIZERS = tuple(
    (name, rate)
    for name, rates in {
        "adam": (0.004, 0.032, 0.256), "rmsprop": (0.001, 0.004, 0.016), "lion": (0.004, 0.016, 0.064)
    }.items()
    for rate in rates
)  # fmt: skip
FEW = (("adam", 0.016), ("adam", 0.256), ("rmsprop", 0.004), ("rmsprop", 0.016), ("lion", 0.016), ("lion", 0.064))


def grid(batches: tuple[int, ...], rates: tuple[float, ...]) -> Rates:
    """Every batch size with every learning rate."""
    return tuple(product(batches, rates))


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile: `settings` of SGD, and the learning rates and the batch size of other optimizers."""

    settings: Rates
    updates: int | None
    optimizer_batch: int
    model: Mapping[str, Any]
    epochs: float = 0.0
    factors: tuple[float, ...] = FACTORS
    optimizers: tuple[tuple[str, float], ...] = OPTIMIZERS
    optimizer_factors: tuple[float, ...] = (0.001, 0.01, 0.1)
    seeds: int = 3


SCALES = {
    "smoke": Scale(grid((16, 128), (0.4, 3.2)), 16, 64, {}, optimizers=FEW, optimizer_factors=(0.01,)),
    "small": Scale(grid((16, 64, 256), (0.2, 0.8, 3.2)), 120, 64, NARROW),
    "gpu": Scale(
        grid((64, 256, 1024), (0.2, 0.8, 3.2)), 200, 256, NARROW,
        factors=(0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16),
    ),
    "paper": Scale(
        tuple((batch, 0.1 * batch / 256) for batch in (256, 512, 1024, 2048, 4096)), None, 1024, {}, epochs=90.0,
        factors=(0.01, 0.02, 0.04, 0.08, 0.16), optimizers=(), seeds=5,
    ),
}  # fmt: skip


def sweep(profile: str) -> Sweep:
    """Every threshold, and none, at every batch size and learning rate; other optimizers at one batch size."""
    scale = SCALES[profile]
    model = network(profile, **scale.model).with_method("nf")
    base = Recipe(
        0, scale.epochs, 0.0, updates=scale.updates, augment=crops(profile), autocast=profile in ("gpu", "paper")
    )
    cells = [
        Training(
            "nf" if factor is None else "nf_agc",
            model,
            DATA[profile],
            replace(base, batch_size=batch, lr=rate, clip=None if factor is None else Clip(factor=factor)),
        )
        for batch, rate in scale.settings
        for factor in (None, *scale.factors)
    ]
    recipe = replace(base, batch_size=scale.optimizer_batch)
    cells += [
        Training(
            name,
            model,
            DATA[profile],
            replace(recipe, optimizer=name, lr=rate, clip=None if factor is None else Clip(factor=factor)),
        )
        for name, rate in scale.optimizers
        for factor in (None, *scale.optimizer_factors)
    ]
    return Sweep("clipping_threshold", tuple(cells), seeds=tuple(range(scale.seeds)))
