"""Statistics batch: how many images does a batch norm's mean need, at a fixed gradient batch?

Question: How does accuracy fall as the images per statistics batch go from many to one, the gradient batch unchanged?
Paper: GN (arXiv 1803.08494) table 2; NF-ResNet (2101.08692) table 2; Hoffer et al. (1705.08741); ledger claims SP-8,
    GN-1, GB-1.
Command: python -m experiments run statistics_batch --profile small
Cost: smoke 25 s on 2 cores; small 9 minutes on 2 cores; gpu 2 minutes and paper weeks, by a rule of thumb.
Expected: BN loses several points below 8 images; GN and NF do not have the knob and stay where they are.

Each gradient batch is cut into chunks that are normalised apart (ghost batch norm), so that the number of images per
gradient, and with it the learning rate, stays the same: with small batches alone the two would be confused.
"""

from dataclasses import dataclass, replace

from experiments.config import Sweep
from experiments.scales import DATA, crops, network
from experiments.tasks.recipe import Data, Recipe
from experiments.tasks.training import Training

WITHOUT = ("gn", "nf")


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile."""

    data: Data
    batch_size: int
    sizes: tuple[int, ...]
    epochs: float
    rates: tuple[float, ...]
    seeds: int = 3


SCALES = {
    "smoke": Scale(DATA["smoke"], 64, (1, 2, 4, 16, 64), 4.0, (0.05, 0.2)),
    "small": Scale(DATA["small"], 128, (1, 2, 4, 8, 16, 32, 64, 128), 8.0, (0.05, 0.2, 0.8)),
    "gpu": Scale(DATA["gpu"], 256, (1, 2, 4, 8, 16, 32, 64, 256), 4.0, (0.2, 0.8), seeds=5),
    "paper": Scale(DATA["paper"], 1024, (2, 4, 8, 16, 32, 64), 100.0, (0.1, 0.4), seeds=5),
}


def sweep(profile: str) -> Sweep:
    """Batch norm over every number of images (``bn``), and the methods that have no such number."""
    scale = SCALES[profile]
    recipe = Recipe(scale.batch_size, scale.epochs, 0.0, augment=crops(profile), autocast=profile in ("gpu", "paper"))
    spec = network(profile)
    ghost = spec.with_method("ghost_bn")
    cells = [Training("bn", replace(ghost, norm_options=(("size", size),)), scale.data, recipe) for size in scale.sizes]
    cells += [Training(method, spec.with_method(method), scale.data, recipe) for method in WITHOUT]
    return Sweep("statistics_batch", tuple(cells), scale.rates, seeds=tuple(range(scale.seeds)))
