"""Why normalise: which rates does batch norm allow, how smooth is its loss, and what does the noise of a batch do?

Question: What does batch norm buy in training: larger stable rates, a smoother loss, regularisation by its noise?
Paper: Santurkar et al. (arXiv 1805.11604); SkipInit (arXiv 2002.10444); ledger claims ST-1, ST-2.
Command: python -m experiments run why_normalize --profile small
Cost: smoke 15 s on 2 cores; small 6 minutes on 2 cores; gpu 2 minutes and paper weeks, by a rule of thumb.
Expected: BN trains at rates where no norm does not; its gradient changes less along itself; the smaller the part of a
    batch that shares its statistics, the worse the training loss, and the smaller the gap to the test images.

No rate is searched: every one is shown. The other two effects of batch norm, branches scaled down and means removed,
need no training; `signal_propagation` measures them.
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
PARTS = (16, 4)  # images that share their statistics, beside the whole batch


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile: of the trainings, of the noise that is looked at, and of the landscapes.

    `rate` is the one of the grid at which every method with a norm trains well, by pilots on validation images: the
    same for all, so that nothing but the statistics differs. The landscapes have `probed_rate`: a network without a
    norm is to train as well, or there is no landscape to look at, but worse, or there is nothing to explain.
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
    """With batch norm and without any, at every rate."""
    return {
        (method, rate): _training(profile, network(profile), method, rate)
        for method in ("bn", "none")
        for rate in RATES
    }


def by_noise(profile: str) -> dict[str, Training]:
    """At one rate: statistics of the whole batch, of ever smaller parts of it, and of each image alone."""
    spec, rate = network(profile), SCALES[profile].rate
    found = {"bn": _training(profile, spec, "bn", rate)}
    for part in PARTS:
        ghost = _training(profile, spec, "ghost_bn", rate)
        found[f"ghost_bn {part}"] = replace(ghost, model=replace(ghost.model, norm_options=(("size", part),)))
    return found | {"gn": _training(profile, spec, "gn", rate)}


def noise(profile: str) -> dict[str, BatchNoise]:
    """How much the company of an image changes what is computed for it."""
    scale, spec = SCALES[profile], network(profile)
    sizes = tuple(2**i for i in range(1, 8))
    return {m: BatchNoise(m, spec.with_method(m), scale.data, sizes) for m in ("bn", "gn", "nf")}


def landscapes(profile: str) -> dict[str, Landscape]:
    """With batch norm, with batch norm and noise behind it, and without."""
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
    """All of it; the batch-normalised training at the shared rate is in two groups, and is run once."""
    groups = by_rate(profile), by_noise(profile), noise(profile), landscapes(profile)
    cells: dict[str, Run] = {cell.key: cell for group in groups for cell in group.values()}
    return Sweep("why_normalize", tuple(cells.values()), seeds=tuple(range(SCALES[profile].seeds)))
