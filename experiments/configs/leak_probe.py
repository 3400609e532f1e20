"""Leak probe: can a network answer for one image what only the other images of its batch show?

Question: In which networks do outputs in training depend on the rest of the batch, and can this path be learnt?
Paper: NFNet (arXiv 2102.06171), introduction and appendix B; claims NF-20 and BC-1.
Command: python -m experiments run leak_probe --profile small
Cost: smoke 10 s on 2 cores; small 3 minutes on 2 cores; gpu and paper 1 minute, by a rule of thumb.
Expected: Batch norm nearly always gives the right answer, also over parts of the batch. Every method that treats images
    apart stays near 50 %.

The first image of a batch is noise, and its label is the class of all other images. The learning rate is small, because
one example an update gives a noisy gradient, and nothing but the path across the batch is to be learnt. Nothing is
searched for.
"""

from dataclasses import dataclass, replace

from experiments.scales import DATA, network
from experiments.sweep import Sweep
from experiments.tasks.leak_probe import LeakProbe
from experiments.tasks.recipe import Data, Recipe

METHODS = ("bn", "ghost_bn", "brn", "gn", "ln", "in", "nf", "none")
BATCH, PART = 32, 8


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile."""

    data: Data
    updates: int
    rate: float
    seeds: int


SCALES = {
    "smoke": Scale(Data("digits", classes=2), 40, 0.02, seeds=3),
    "small": Scale(Data("cifar10", train=5000, test=2000, pool=2, classes=2), 150, 0.02, seeds=3),
    "gpu": Scale(Data("cifar10", classes=2), 150, 0.02, seeds=5),
    "paper": Scale(replace(DATA["paper"], validation=0, classes=2), 300, 0.02, seeds=5),
}


def sweep(profile: str) -> Sweep:
    """Each method once; ghost batch norm takes its statistics over a quarter of the batch."""
    scale = SCALES[profile]
    recipe = Recipe(BATCH, epochs=0.0, lr=scale.rate, updates=scale.updates, weight_decay=0.0)
    spec = network(profile, num_classes=2)
    specs = {method: spec.with_method(method) for method in METHODS}
    specs["ghost_bn"] = replace(specs["ghost_bn"], norm_options=(("size", PART),))
    cells = tuple(LeakProbe(method, specs[method], scale.data, recipe) for method in METHODS)
    return Sweep("leak_probe", cells, seeds=tuple(range(scale.seeds)))
