"""Why normalise: which learning rates does batch norm allow, how smooth is its loss, and what does its noise do?

Question: What does batch norm bring in training: larger learning rates, a smoother loss, regularisation by its noise?
Paper: Santurkar et al. (arXiv 1805.11604); SkipInit (arXiv 2002.10444); claims ST-1, ST-2.
Command: python -m experiments run why_normalize --profile small
Cost: smoke 15 s on 2 cores; small 6 minutes on 2 cores; gpu 2 minutes and paper weeks, by a rule of thumb.
Expected: BN trains at learning rates at which a network without norms does not. Its gradient changes less along itself.
    The smaller the part of a batch that shares its statistics, the worse the training loss, and the smaller the gap
    between training and test images.

No learning rate is searched: all are shown. Batch norm has two other effects, branches scaled down and means removed.
They need no training; `signal_propagation` measures them.
"""

from dataclasses import dataclass, replace

from experiments.scales import DATA, network
from experiments.sweep import Run, Sweep
from experiments.tasks.batch_noise import BatchNoise
from experiments.tasks.recipe import Data, Recipe
from experiments.tasks.training import Training
from experiments.tasks.why import Landscape
from nfnets_lite.models import ResNetSpec

RATES = (0.0125, 0.05, 0.2, 0.8, 3.2)
PARTS = (16, 4)  # images that share their statistics; the whole batch is a third case


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile: of the trainings, and of the landscapes (`probed` updates, `depth`, `points`).

    At the learning rate `rate` every method with a norm trains well, by pilots on validation images. All methods have
    the same one, so that only the statistics differ. The landscapes are measured at `probed_rate`, at which a network
    without norms trains too, but worse.
    """

    data: Data
    batch_size: int
    updates: int
    probed: int
    depth: tuple[int, ...] = (2, 2, 2)
    rate: float = 0.2
    probed_rate: float = 0.1
    points: int = 12
    seeds: int = 3


SCALES = {
    "smoke": Scale(DATA["smoke"], 64, 30, 30, points=6),
    "small": Scale(DATA["small"], 128, 280, 100),
    # All images, seen four times within the budget, would leave no gap for a regulariser to close.
    "gpu": Scale(Data("cifar10", train=10000, validation=5000), 256, 700, 200, seeds=5),
    "paper": Scale(DATA["paper"], 256, 450_000, 5000, depth=(3, 4, 6, 3), seeds=5),
}


def by_rate(profile: str) -> dict[tuple[str, float], Training]:
    """Trainings with batch norm and without a norm, at every learning rate, by method and learning rate."""
    return {
        (method, rate): _training(profile, network(profile), method, rate)
        for method in ("bn", "none")
        for rate in RATES
    }


def by_noise(profile: str) -> dict[str, Training]:
    """Trainings at one learning rate, with statistics of the whole batch, of smaller parts, and of each image alone."""
    spec, rate = network(profile), SCALES[profile].rate
    found = {"bn": _training(profile, spec, "bn", rate)}
    for part in PARTS:
        ghost = _training(profile, spec, "ghost_bn", rate)
        found[f"ghost_bn {part}"] = replace(ghost, model=replace(ghost.model, norm_options=(("size", part),)))
    return found | {"gn": _training(profile, spec, "gn", rate)}


def noise(profile: str) -> dict[str, BatchNoise]:
    """Measurements of how much the other images of a batch change an image's output."""
    scale, spec = SCALES[profile], network(profile)
    sizes = tuple(2**i for i in range(1, 8))
    return {m: BatchNoise(m, spec.with_method(m), scale.data, sizes) for m in ("bn", "gn", "nf")}


def landscapes(profile: str) -> dict[str, Landscape]:
    """Loss landscapes with batch norm, with batch norm and noise after it, and without a norm."""
    scale, spec = SCALES[profile], network(profile, depth=SCALES[profile].depth)
    recipe = Recipe(scale.batch_size, 0, scale.probed_rate, updates=scale.probed)
    bn = Landscape("bn", spec.with_method("bn"), scale.data, recipe, points=scale.points)
    noisy = replace(bn, method="bn_noisy", noisy=True)
    return {"bn": bn, "bn_noisy": noisy, "none": replace(bn, method="none", model=spec.with_method("none"))}


def _training(profile: str, spec: ResNetSpec, method: str, rate: float) -> Training:
    scale = SCALES[profile]
    recipe = Recipe(scale.batch_size, 0, rate, updates=scale.updates)
    return Training(method, spec.with_method(method), scale.data, recipe)


def sweep(profile: str) -> Sweep:
    """All four groups; the training with batch norm at `rate` is in two of them and is run once."""
    groups = by_rate(profile), by_noise(profile), noise(profile), landscapes(profile)
    cells: dict[str, Run] = {cell.key: cell for group in groups for cell in group.values()}
    return Sweep("why_normalize", tuple(cells.values()), seeds=tuple(range(SCALES[profile].seeds)))
