"""Statistics batch: how many images does the mean of batch norm need, at a fixed gradient batch?

Question: How does accuracy fall as the images per statistic go from many to one, with an unchanged gradient batch?
Paper: GN (arXiv 1803.08494) table 2; NF-ResNet (2101.08692) table 2; Hoffer et al. (1705.08741); Ioffe (1702.03275);
    claims SP-8, GN-1, GB-1, BR-1, RS-5.
Command: python -m experiments run statistics_batch --profile small
Cost: smoke 10 s on 2 cores; small 8 minutes on 2 cores; gpu 2 minutes and paper weeks, by a rule of thumb.
Expected: BN loses several points below 8 images. GN and NF compute no statistics over the batch and do not change.

Each gradient batch is cut into parts that are normalised apart (ghost batch norm). So the number of images per gradient
stays the same, and the learning rate with it. Small gradient batches alone would change both at once. Three more
methods are trained with gradient batches of 4 and 32 as well, on fewer images: passes over all images would take too
long.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from experiments.scales import DATA, crops, network
from experiments.sweep import Sweep
from experiments.tasks.recipe import Data, Recipe
from experiments.tasks.training import Training
from nfnets_lite.models import ResNetSpec

WITHOUT = ("gn", "nf")
TIED = ("bn", "brn", "rescale")
TIED_BATCHES = (4, 32)


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile; `tied` is the number of training images of the runs with small gradient batches."""

    data: Data
    batch_size: int
    sizes: tuple[int, ...]
    epochs: float
    rates: tuple[float, ...]
    tied: int
    seeds: int = 3


SCALES = {
    "smoke": Scale(DATA["smoke"], 64, (1, 2, 4, 8, 32), 1.5, (0.05, 0.2), 128),
    "small": Scale(DATA["small"], 128, (1, 2, 4, 8, 16, 32, 64), 5.0, (0.05, 0.2, 0.8), 1500),
    "gpu": Scale(DATA["gpu"], 256, (1, 2, 4, 8, 32, 64), 4.0, (0.2, 0.8), 3000, seeds=5),
    "paper": Scale(DATA["paper"], 1024, (2, 4, 8, 16, 32, 64), 100.0, (0.1, 0.4), 50000, seeds=5),
}


def sweep(profile: str) -> Sweep:
    """Batch norm over parts of every size, GN and NF, and three methods with gradient batches of 4 and 32."""
    scale = SCALES[profile]
    recipe = Recipe(scale.batch_size, scale.epochs, 0.0, augment=crops(profile), autocast=profile in ("gpu", "paper"))
    cells = tuple(_cells(scale, network(profile), recipe))
    return Sweep("statistics_batch", cells, scale.rates, seeds=tuple(range(scale.seeds)))


def _cells(scale: Scale, spec: ResNetSpec, recipe: Recipe) -> Iterator[Training]:
    ghost = spec.with_method("ghost_bn")
    for size in (*scale.sizes, scale.batch_size):  # over the whole batch, ghost batch norm is batch norm
        yield Training("ghost_bn", replace(ghost, norm_options=(("size", size),)), scale.data, recipe)
    for method in WITHOUT:
        yield Training(method, spec.with_method(method), scale.data, recipe)
    few = replace(scale.data, train=scale.tied)
    for method in TIED:
        for batch in TIED_BATCHES:
            yield Training(method, spec.with_method(method), few, replace(recipe, batch_size=batch))
