"""Two modes: how much accuracy is lost between training mode and evaluation mode?

Question: How large is the gap between training and evaluation mode, with statistics of few images, or of few classes?
Paper: Batch renormalisation (arXiv 1702.03275), section 4; NFNet (2102.06171), introduction; claim BR-1.
Command: python -m experiments run two_modes --profile small
Cost: smoke 10 s on 2 cores; small 7 minutes on 2 cores; gpu 2 minutes and paper weeks, by a rule of thumb.
Expected: There is no gap without batch statistics. BN's gap grows as the images per statistic get fewer. Batches of few
    classes cost BN more accuracy than batch renormalisation.

Statistics over few images are taken over parts of a batch, so that the number of images per gradient stays the same.
Batches of few classes have few classes for every method, and so do their gradients: what group norm loses there is not
due to statistics.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from experiments.scales import DATA, network
from experiments.sweep import Sweep
from experiments.tasks.recipe import Clip, Data, Recipe
from experiments.tasks.two_modes import TwoModes
from nfnets_lite.models import ResNetSpec

BLOCKED = ("bn", "brn", "gn", "nf_agc")
CLASSES = 2


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile; `sizes` are images per statistic, `blocked` images of a batch of few classes."""

    data: Data
    batch_size: int
    sizes: tuple[int, ...]
    blocked: int
    epochs: float
    rates: tuple[float, ...]
    seeds: int
    autocast: bool = False


SCALES = {
    "smoke": Scale(DATA["smoke"], 64, (2, 4, 8, 32), 32, 1.5, (0.05, 0.2), seeds=3),
    "small": Scale(replace(DATA["small"], test=5000), 128, (2, 4, 8, 32), 64, 5.0, (0.0125, 0.05, 0.2, 0.8), seeds=3),
    "gpu": Scale(DATA["gpu"], 256, (2, 4, 8, 32), 128, 3.0, (0.0125, 0.05, 0.2, 0.8), seeds=3, autocast=True),
    "paper": Scale(DATA["paper"], 1024, (2, 4, 8, 32), 32, 100.0, (0.1, 0.4), seeds=5, autocast=True),
}


def sweep(profile: str) -> Sweep:
    """Batch norm over parts of several sizes, GN and NF; then batches of few classes."""
    scale = SCALES[profile]
    return Sweep("two_modes", tuple(_cells(network(profile), scale)), scale.rates, seeds=tuple(range(scale.seeds)))


def _cells(spec: ResNetSpec, scale: Scale) -> Iterator[TwoModes]:
    recipe = Recipe(scale.batch_size, scale.epochs, 0.0, autocast=scale.autocast)
    for size in scale.sizes:
        parts = replace(spec.with_method("ghost_bn"), norm_options=(("size", size),))
        yield TwoModes("ghost_bn", parts, scale.data, recipe)
    for method in ("bn", "gn", "nf_agc"):
        yield TwoModes(method, spec.with_method(method.removesuffix("_agc")), scale.data, _clipped(recipe, method))
    few = replace(recipe, batch_size=scale.blocked)
    for method in BLOCKED:
        model = spec.with_method(method.removesuffix("_agc"))
        yield TwoModes(f"{method}:blocked", model, scale.data, _clipped(few, method), classes=CLASSES)


def _clipped(recipe: Recipe, method: str) -> Recipe:
    return replace(recipe, clip=Clip()) if method == "nf_agc" else recipe
