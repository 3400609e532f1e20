"""Conversion: a network of your own with batch norm, with its norms removed, and converted.

Question: At equal budget, how far is a converted network from the one with batch norm, and is it better than the one
    whose norms were only removed? With clipping and without.
Paper: none: the conversion is this package's. It puts in the parts of NF-ResNet (arXiv 2101.08692).
Command: python -m experiments run convert --profile small
Cost: smoke 20 s on 2 cores; small 15 minutes on 2 cores; gpu 2 minutes and paper weeks, by a rule of thumb.
Expected: With clipping the converted network is within 2 points of batch norm and above the one without norms.

The network is a ResNet with basic blocks, written in plain torch. The learning rate of all three networks is searched
in the same way.
"""

from dataclasses import dataclass

from experiments.scales import DATA, autocast, crops, network
from experiments.sweep import Sweep
from experiments.tasks.converted import CHANGES, Conversion
from experiments.tasks.recipe import Clip, Data, Recipe

NAMES = {"none": "bn", "out": "norms_out", "converted": "converted"}
THRESHOLD = 0.1  # which the conversion guide recommends for small batches


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile; `blocks` is the number of blocks in each of three stages."""

    data: Data
    batch_size: int
    epochs: float
    rates: tuple[float, ...]
    blocks: int
    seeds: int = 3


SCALES = {
    "smoke": Scale(DATA["smoke"], 32, 1.5, (0.1, 0.4), 1),
    "small": Scale(DATA["small"], 64, 8.0, (0.05, 0.1, 0.2, 0.4), 2),
    "gpu": Scale(DATA["gpu"], 256, 16.0, (0.1, 0.2, 0.4, 0.8), 3),
    "paper": Scale(DATA["paper"], 1024, 90.0, (0.1, 0.4, 1.6), 3, seeds=5),
}


def sweep(profile: str) -> Sweep:
    """The network with its norms kept, removed and converted, each without and with clipping."""
    scale = SCALES[profile]
    model = network(profile, depth=(3, 4, 6, 3) if profile == "paper" else (scale.blocks,) * 3).with_method("bn")
    cells = []
    for change in CHANGES:
        for clip in (None, Clip(factor=THRESHOLD)):
            recipe = Recipe(
                scale.batch_size, scale.epochs, 0.0, clip=clip, augment=crops(profile),
                autocast=autocast(profile),
            )  # fmt: skip
            name = NAMES[change] + ("_agc" if clip else "")
            cells.append(Conversion(name, model, scale.data, recipe, change))
    return Sweep("convert", tuple(cells), scale.rates, seeds=tuple(range(scale.seeds)))
