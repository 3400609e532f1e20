"""Clipping threshold: which thresholds of AGC work, by batch size, by learning rate and by optimizer?

Question: How do the thresholds of AGC that work change with the batch size, the learning rate and the optimizer?
Paper: NFNet (arXiv 2102.06171) Figures 2b and 7, section 4.1; claim NF-9.
Command: python -m experiments run clipping_threshold --profile small
Cost: smoke 10 s on 2 cores; small 5 minutes on 2 cores; gpu 3 minutes and paper weeks, by a rule of thumb.
Expected: Larger batches, at the larger learning rates that go with them, need smaller thresholds. At a small batch the
    threshold hardly matters. Under Adam and Lion clipping changes little; RMSProp needs smaller thresholds.

The learning rate is an axis of the sweep (but at `paper`, where it follows the batch size) and is not searched:
threshold and learning rate act through their product, and a search would hide that. At `smoke` and `small` all runs
have the same number of updates, so that a larger batch does not also mean a shorter schedule. At `gpu` and `paper` they
have the same number of epochs, as in the paper: with equal updates the smallest batch would see each image once and
learn too little. The learning rates go beyond the largest at which the network trains without clipping: below it, a
threshold changes next to nothing (a pilot on validation images showed this). From end to end, learning rates grow by
the same factor as batch sizes, so the paper's linear rule leads from one corner of the grid to the opposite one. The
other cells separate the effect of the learning rate from that of the batch size.
"""

from dataclasses import dataclass, replace
from itertools import product

from experiments.scales import DATA, WHOLE, autocast, crops, learner, network
from experiments.sweep import Sweep
from experiments.tasks.recipe import Clip, Data, Recipe
from experiments.tasks.training import Training
from nfnets_lite.models import ResNetSpec

Rates = tuple[tuple[int, float], ...]  # batch size and learning rate
THRESHOLDS = (0.0025, 0.01, 0.04, 0.16)
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

    model: ResNetSpec
    data: Data
    settings: Rates
    optimizer_batch: int
    updates: int | None = None
    epochs: float = 0.0
    thresholds: tuple[float, ...] = THRESHOLDS
    optimizers: tuple[tuple[str, float], ...] = OPTIMIZERS
    optimizer_thresholds: tuple[float, ...] = (0.001, 0.01, 0.1)
    seeds: int = 3


SCALES = {
    "smoke": Scale(
        network("smoke"), DATA["smoke"], grid((16, 128), (0.4, 3.2)), 64, updates=16, optimizers=FEW,
        optimizer_thresholds=(0.01,),
    ),
    "small": Scale(
        network("small", width=(8, 16, 32), stem_width=8), DATA["small"], grid((16, 64, 256), (0.2, 0.8, 3.2)), 64,
        updates=120,
    ),
    # From corner to corner, the learning rate that the search of `budget` found at 256 images, by the linear rule.
    "gpu": Scale(
        replace(learner("gpu"), width=(32, 64, 128)), WHOLE["gpu"], grid((64, 256, 1024), (0.125, 0.5, 2.0)), 256,
        epochs=6.0, thresholds=(0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32),
    ),
    "paper": Scale(
        network("paper"), DATA["paper"], tuple((batch, 0.1 * batch / 256) for batch in (256, 512, 1024, 2048, 4096)),
        1024, epochs=90.0, thresholds=(0.01, 0.02, 0.04, 0.08, 0.16), optimizers=(), seeds=5,
    ),
}  # fmt: skip


def sweep(profile: str) -> Sweep:
    """Every threshold, and none, at every batch size and learning rate; other optimizers at one batch size."""
    scale = SCALES[profile]
    model = scale.model.with_method("nf")
    base = Recipe(0, scale.epochs, 0.0, updates=scale.updates, augment=crops(profile), autocast=autocast(profile))
    cells = [
        Training(
            "nf" if factor is None else "nf_agc",
            model,
            scale.data,
            replace(base, batch_size=batch, lr=rate, clip=None if factor is None else Clip(factor=factor)),
        )
        for batch, rate in scale.settings
        for factor in (None, *scale.thresholds)
    ]
    recipe = replace(base, batch_size=scale.optimizer_batch)
    cells += [
        Training(
            name,
            model,
            scale.data,
            replace(recipe, optimizer=name, lr=rate, clip=None if factor is None else Clip(factor=factor)),
        )
        for name, rate in scale.optimizers
        for factor in (None, *scale.optimizer_thresholds)
    ]
    return Sweep("clipping_threshold", tuple(cells), seeds=tuple(range(scale.seeds)))
