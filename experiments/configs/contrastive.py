"""Contrastive: does batch norm solve a loss over the whole batch by cheating?

Question: If both views of an image are normalised together in one part of the batch, does the network learn to match
    them, or do the statistics leak the match?
Paper: NFNet (arXiv 2102.06171), introduction; SimCLR (2002.05709) and MoCo (1911.05722); claim BC-1.
Command: python -m experiments run contrastive --profile small
Cost: smoke 10 s on 2 cores; small 4 minutes on 2 cores; gpu 2 minutes, by a rule of thumb; paper days.
Expected: BN matches views in training mode and not in evaluation mode, and its features are the worst. There is no such
    gap with shuffled second views, with statistics over the whole batch, with group norm, or with NF.

As on several devices, "bn" computes statistics over parts of the batch; both views of an image are in the same part.
"bn_shuffled" passes the second views in another order, and "sync_bn" computes statistics over the whole batch. The
views differ enough to make honest matching hard: where colour alone tells images apart, cheating would gain nothing.
All methods train with Adam at one learning rate, at which all of them learnt in a pilot. Nothing is searched for: the
gap between the modes does not depend on the best learning rate.
"""

from dataclasses import dataclass, replace

from experiments.scales import DATA, network
from experiments.sweep import Sweep
from experiments.tasks.contrastive import Contrastive
from experiments.tasks.recipe import Data, Recipe

METHODS = ("bn", "bn_shuffled", "sync_bn", "gn", "nf")
EMBEDDING = 32


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile; `part` is the number of images over which "bn" computes statistics."""

    data: Data
    pairs: int
    part: int
    updates: int
    rate: float
    jitter: float
    seeds: int


SCALES = {
    "smoke": Scale(DATA["smoke"], 32, 8, 60, 0.03, 2.0, seeds=3),
    "small": Scale(replace(DATA["small"], test=5000), 64, 8, 500, 0.01, 2.5, seeds=3),
    "gpu": Scale(DATA["gpu"], 128, 16, 600, 0.01, 2.5, seeds=3),
    "paper": Scale(DATA["paper"], 2048, 64, 100_000, 0.001, 1.0, seeds=3),
}


def sweep(profile: str) -> Sweep:
    """Each method once, all with one recipe."""
    scale = SCALES[profile]
    recipe = Recipe(scale.pairs, epochs=0.0, lr=scale.rate, updates=scale.updates, optimizer="adam")
    spec = network(profile, num_classes=EMBEDDING)
    parts = replace(spec.with_method("ghost_bn"), norm_options=(("size", scale.part),))
    specs = {method: spec.with_method(method) for method in ("sync_bn", "gn", "nf")} | {
        "bn": parts,
        "bn_shuffled": parts,
    }
    cells = tuple(
        Contrastive(
            method,
            specs[method],
            scale.data,
            recipe,
            layout="shuffled" if method == "bn_shuffled" else "pairs",
            jitter=scale.jitter,
        )
        for method in METHODS
    )
    return Sweep("contrastive", cells, seeds=tuple(range(scale.seeds)))
