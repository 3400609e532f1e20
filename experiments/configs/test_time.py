"""Test time: which statistics should a trained network use when the test images have changed?

Question: On changed images, in random order or sorted by class, which normalisation keeps the most accuracy?
Paper: alpha-BN (arXiv 2110.04065), UnMix-TNS (2401.08328), IBN-Net (1807.09441); claims AB-1, UM-1 and IB-1.
Command: python -m experiments run test_time --profile small
Cost: smoke 15 s on 2 cores; small 5 minutes on 2 cores; gpu 2 minutes and paper days, by a rule of thumb.
Expected: Statistics of the test batch rescue BN from a change of contrast if images come in random order, and ruin its
    accuracy if they are sorted by class. Mixtures and UnMix-TNS lie between. GN and NF do not depend on the order.

Each network is trained once for each seed and then tested with every change and order. Learning rates are searched on
unchanged validation images.
"""

from dataclasses import dataclass, replace

from experiments.scales import DATA, autocast, crops, network
from experiments.sweep import Sweep
from experiments.tasks.recipe import Clip, Data, Recipe
from experiments.tasks.test_time import TestTime

METHODS = ("bn", "ibn_a", "gn", "nf_agc")


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile; a test stream has `images` images, in batches of `stream_batch`."""

    data: Data
    batch_size: int
    epochs: float
    rates: tuple[float, ...]
    images: int | None
    stream_batch: int
    seeds: int


SCALES = {
    "smoke": Scale(DATA["smoke"], 64, 2.0, (0.05, 0.2), 160, 16, seeds=3),
    "small": Scale(DATA["small"], 128, 8.0, (0.1, 0.4, 1.6), 4000, 64, seeds=3),
    "gpu": Scale(DATA["gpu"], 256, 4.0, (0.1, 0.4, 1.6), 5000, 64, seeds=3),
    "paper": Scale(DATA["paper"], 1024, 90.0, (0.1, 0.4), None, 64, seeds=5),
}


def sweep(profile: str) -> Sweep:
    """Four networks; the statistics of BN are adapted at test time."""
    scale = SCALES[profile]
    recipe = Recipe(scale.batch_size, scale.epochs, 0.0, augment=crops(profile), autocast=autocast(profile))
    cells = tuple(
        TestTime(
            method,
            network(profile).with_method(method.removesuffix("_agc")),
            scale.data,
            replace(recipe, clip=Clip()) if method == "nf_agc" else recipe,
            images=scale.images,
            stream_batch=scale.stream_batch,
            adapt=method == "bn",
        )
        for method in METHODS
    )
    return Sweep("test_time", cells, scale.rates, seeds=tuple(range(scale.seeds)))
