"""Statistics batch: how many images does the mean of batch norm need, at a fixed gradient batch?

Question: How does accuracy fall as the images per statistic go from many to one, with an unchanged gradient batch?
Paper: GN (arXiv 1803.08494) table 2; NF-ResNet (2101.08692) table 2; Hoffer et al. (1705.08741); Ioffe (1702.03275);
    claims SP-8, GN-1, GB-1, BR-1, RS-5.
Command: python -m experiments run statistics_batch --profile small
Cost: smoke 10 s on 2 cores; small 8 minutes on 2 cores; gpu 6 minutes and paper weeks, by a rule of thumb.
Expected: BN loses several points below 8 images. GN and NF compute no statistics over the batch and do not change.

Each gradient batch is cut into parts that are normalised apart (ghost batch norm). So the number of images per gradient
stays the same, and the learning rate with it. Small gradient batches alone would change both at once. Some methods
are trained with small gradient batches as well, on fewer images: passes over all images would take too long. At `gpu`
each cell has a search of its own, whose learning rates are proportional to its gradient batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from experiments.grid import Grid, around
from experiments.scales import DATA, WHOLE, autocast, crops, learner, network
from experiments.sweep import Sweep
from experiments.tasks.recipe import Data, Recipe
from experiments.tasks.training import Training
from nfnets_lite.models import ResNetSpec

WITHOUT = ("gn", "nf")
CENTRES = {"gn": 0.5, "nf": 0.2}  # learning rates at 256 images, for the profile that searches around them; BN's is 2


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile; `tied` is the number of training images of the runs with small gradient batches."""

    model: ResNetSpec
    data: Data
    batch_size: int
    sizes: tuple[int, ...]
    epochs: float
    tied: int
    rates: tuple[float, ...] = ()
    tied_methods: tuple[str, ...] = ("bn", "brn", "rescale")
    tied_batches: tuple[int, ...] = (4, 32)
    seeds: int = 3


SCALES = {
    "smoke": Scale(network("smoke"), DATA["smoke"], 64, (1, 2, 4, 8, 32), 1.5, 128, (0.05, 0.2)),
    "small": Scale(network("small"), DATA["small"], 128, (1, 2, 4, 8, 16, 32, 64), 5.0, 1500, (0.05, 0.2, 0.8)),
    "gpu": Scale(
        replace(learner("gpu"), width=(32, 64, 192)), WHOLE["gpu"], 256, (1, 2, 4, 8, 16, 32, 64), 6.0, 6000,
        tied_methods=("bn", "gn", "nf", "brn", "rescale"), tied_batches=(2, 4, 16, 32),
    ),
    "paper": Scale(
        network("paper"), DATA["paper"], 1024, (2, 4, 8, 16, 32, 64), 100.0, 50000, (0.1, 0.4),
        tied_methods=("bn", "gn", "nf", "brn", "rescale"), tied_batches=(2, 4, 16, 32), seeds=5,
    ),
}  # fmt: skip


def sweep(profile: str) -> Sweep:
    """Batch norm over parts of every size, GN and NF, and three methods with gradient batches of 4 and 32."""
    scale = SCALES[profile]
    recipe = Recipe(scale.batch_size, scale.epochs, 0.0, augment=crops(profile), autocast=autocast(profile))
    cells = tuple(_cells(scale, scale.model, recipe))
    seeds = tuple(range(scale.seeds))
    if scale.rates:
        return Sweep("statistics_batch", cells, scale.rates, seeds=seeds)
    grids = tuple(grid(cell) for cell in cells)
    return Sweep("statistics_batch", cells, grids=grids, widenings=3, seeds=seeds)


def grid(cell: Training) -> Grid:
    """Three learning rates in steps of 4 around one that is proportional to the gradient batch."""
    centre = CENTRES.get(cell.method, 2.0)
    return Grid(around(centre * cell.recipe.batch_size / 256, 3, 4.0))


def _cells(scale: Scale, spec: ResNetSpec, recipe: Recipe) -> Iterator[Training]:
    ghost = spec.with_method("ghost_bn")
    for size in (*scale.sizes, scale.batch_size):  # over the whole batch, ghost batch norm is batch norm
        yield Training("ghost_bn", replace(ghost, norm_options=(("size", size),)), scale.data, recipe)
    for method in WITHOUT:
        yield Training(method, spec.with_method(method), scale.data, recipe)
    few = replace(scale.data, train=scale.tied)
    for method in scale.tied_methods:
        for batch in scale.tied_batches:
            yield Training(method, spec.with_method(method), few, replace(recipe, batch_size=batch))
