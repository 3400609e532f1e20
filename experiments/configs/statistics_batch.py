"""Statistics batch: how many images does the mean of batch norm need, at a fixed gradient batch?

Question: How does accuracy fall as the images per statistic go from many to one, with an unchanged gradient batch?
Paper: GN (arXiv 1803.08494) table 2; NF-ResNet (2101.08692) table 2; Hoffer et al. (1705.08741); Ioffe (1702.03275);
    claims SP-8, GN-1, GB-1, BR-1, RS-5.
Command: python -m experiments run statistics_batch --profile small
Cost: smoke 10 s on 2 cores; small 2 hours on 2 cores; gpu 6 minutes and paper weeks, by a rule of thumb.
Expected: BN loses several points below 8 images. GN and NF compute no statistics over the batch and do not change.

Each gradient batch is cut into parts that are normalised apart (ghost batch norm). So the number of images per gradient
stays the same, and the learning rate with it. Small gradient batches alone would change both at once. All methods are
trained with small gradient batches as well, on fewer images: passes over all images would take too long. At `small` and
`gpu` each cell has a search of its own, around a learning rate that is proportional to its gradient batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from experiments.grid import Grid, around
from experiments.scales import DATA, WHOLE, augmentation, learner, network
from experiments.sweep import Sweep
from experiments.tasks.recipe import Clip, Data, Recipe
from experiments.tasks.training import Training
from nfnets_lite.models import ResNetSpec

WITHOUT = ("gn", "nf", "nf_agc")
CENTRES = {"gn": 0.5, "nf": 0.2, "nf_agc": 0.5}  # learning rates at 256 images that searches start around; else 2
TIED = ("bn", *WITHOUT, "brn", "rescale")
CLIP = Clip(factor=0.08)  # the threshold that the search of `budget` found


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
    search_epochs: float | None = None
    tied_methods: tuple[str, ...] = ("bn", "brn", "rescale")
    tied_batches: tuple[int, ...] = (4, 32)
    seeds: int = 3


SCALES = {
    "smoke": Scale(network("smoke"), DATA["smoke"], 64, (1, 2, 4, 8, 32), 1.5, 128, (0.05, 0.2)),
    "small": Scale(
        replace(learner("small"), width=(32, 64, 128)), WHOLE["small"], 256, (2, 4, 8, 16, 32), 6.0, 6000,
        search_epochs=2.0, tied_methods=TIED, tied_batches=(2, 4, 16),
    ),
    "gpu": Scale(
        replace(learner("gpu"), width=(32, 64, 192)), WHOLE["gpu"], 256, (1, 2, 4, 8, 16, 32, 64), 6.0, 6000,
        tied_methods=TIED, tied_batches=(2, 4, 16, 32),
    ),
    "paper": Scale(
        network("paper"), DATA["paper"], 1024, (2, 4, 8, 16, 32, 64), 100.0, 50000, (0.1, 0.4),
        tied_methods=TIED, tied_batches=(2, 4, 16, 32), seeds=5,
    ),
}  # fmt: skip


def sweep(profile: str) -> Sweep:
    """Batch norm over parts of every size, GN, NF and NF with AGC; then methods with small gradient batches."""
    scale = SCALES[profile]
    cells = tuple(_cells(profile))
    seeds = tuple(range(scale.seeds))
    if scale.rates:
        return Sweep("statistics_batch", cells, scale.rates, seeds=seeds)
    return Sweep(
        "statistics_batch", cells, grids=tuple(map(grid, cells)), widenings=3, search_epochs=scale.search_epochs,
        seeds=seeds,
    )  # fmt: skip


def grid(cell: Training) -> Grid:
    """Four learning rates in steps of 2; the third is proportional to the gradient batch."""
    return Grid(around(CENTRES.get(cell.method, 2.0) * cell.recipe.batch_size / 256, 4, 2.0))


def _cells(profile: str) -> Iterator[Training]:
    scale = SCALES[profile]
    for size in (*scale.sizes, scale.batch_size):  # over the whole batch, ghost batch norm is batch norm
        whole = _cell(profile, "ghost_bn", scale.batch_size, scale.data)
        yield replace(whole, model=replace(whole.model, norm_options=(("size", size),)))
    for method in WITHOUT:
        yield _cell(profile, method, scale.batch_size, scale.data)
    for method in scale.tied_methods:
        for batch in scale.tied_batches:
            yield _cell(profile, method, batch, replace(scale.data, train=scale.tied))


def _cell(profile: str, method: str, batch: int, data: Data) -> Training:
    scale = SCALES[profile]
    recipe = Recipe(
        batch, scale.epochs, 0.0, clip=CLIP if method == "nf_agc" else None, augment=augmentation(profile),
        autocast=profile != "smoke",
    )  # fmt: skip
    return Training(method, scale.model.with_method(method.removesuffix("_agc")), data, recipe)
