"""Alternatives to AGC: how wide is the range of thresholds that work, and does it move with batch size and depth?

Question: Does one threshold serve several batch sizes and depths, for unit-wise, layer-wise and global-norm clipping?
Paper: NFNet (arXiv 2102.06171) section 4; claim NF-11.
Command: python -m experiments run clip_alternatives --profile small
Cost: smoke 15 s on 2 cores; small 6 minutes on 2 cores; gpu 2 minutes and paper weeks, by a rule of thumb.
Expected: One threshold serves all settings for AGC, and a little less well for layer-wise clipping. The threshold of
    global-norm clipping has to be tuned for each setting. LARS trains in every setting and is less accurate.

All runs with clipping have one learning rate, at which the network does not train without clipping: only there does the
range of thresholds that work have an upper end. Every clipping rule has the same number of thresholds, in a range in
which a pilot on validation images found both ends. LARS has no threshold: its learning rate, which bounds its step,
takes the place of the threshold.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from experiments.scales import DATA, WHOLE, autocast, crops, learner, network
from experiments.sweep import Sweep
from experiments.tasks.recipe import Clip, Data, Recipe
from experiments.tasks.training import Training
from nfnets_lite.models import ResNetSpec

METHODS = {"nf_agc": "agc", "layer_clip": "layer", "global_clip": "global"}


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile; `depths` are blocks per stage."""

    model: ResNetSpec
    data: Data
    batch_sizes: tuple[int, ...]
    depths: tuple[tuple[int, ...], ...]
    factors: Mapping[str, tuple[float, ...]]
    lars: tuple[float, ...]
    rate: float
    updates: int | None = None
    epochs: float = 0.0
    seeds: int = 3


def octaves(start: float, count: int, step: int = 1) -> tuple[float, ...]:
    """Return `count` values from `start` on, each `step` octaves above the one before."""
    return tuple(start * 2 ** (step * i) for i in range(count))


def factors(relative: float, whole: float, count: int, step: int = 1) -> dict[str, tuple[float, ...]]:
    """`count` thresholds of each rule: from `relative` on, or from `whole` on for the norm of the whole gradient."""
    return {
        "agc": octaves(relative, count, step),
        "layer": octaves(relative, count, step),
        "global": octaves(whole, count, step),
    }


SCALES = {
    "smoke": Scale(
        network("smoke"), DATA["smoke"], (16, 64), ((1, 1, 1), (2, 2, 2)), factors(0.0025, 0.0625, 3, step=2), (8.0,),
        rate=0.8, updates=14,
    ),
    "small": Scale(
        network("small", width=(8, 16, 32), stem_width=8), DATA["small"], (32, 128), ((1, 1, 1), (3, 3, 3)),
        factors(0.00125, 0.0625, 5), (2.0, 8.0), rate=0.8, updates=80,
    ),
    "gpu": Scale(
        replace(learner("gpu"), width=(32, 64, 128)), WHOLE["gpu"], (64, 512), ((1, 1, 1), (3, 3, 3)),
        factors(0.005, 0.0625, 7), (2.0, 8.0, 32.0), rate=1.0, epochs=4.0,
    ),
    "paper": Scale(
        network("paper"), DATA["paper"], (1024, 4096), ((3, 4, 6, 3), (3, 24, 36, 3)), factors(0.01, 0.0625, 5),
        (2.0, 8.0, 32.0), rate=1.6, epochs=90.0, seeds=5,
    ),
}  # fmt: skip


def sweep(profile: str) -> Sweep:
    """Every rule at every threshold, and LARS at every learning rate, for every batch size and depth."""
    scale = SCALES[profile]
    base = Recipe(
        0, scale.epochs, scale.rate, updates=scale.updates, augment=crops(profile), autocast=autocast(profile)
    )
    # A global norm is taken over all parameters, as it is wherever it is used.
    recipes = [
        (method, replace(base, clip=Clip(rule=rule, factor=factor, layers="all" if rule == "global" else "body")))
        for method, rule in METHODS.items()
        for factor in scale.factors[rule]
    ]
    recipes += [("lars", replace(base, optimizer="lars", lr=rate)) for rate in scale.lars]
    cells = tuple(
        Training(
            method,
            replace(scale.model, depth=depth).with_method("nf"),
            scale.data,
            replace(recipe, batch_size=batch),
        )
        for batch in scale.batch_sizes
        for depth in scale.depths
        for method, recipe in recipes
    )
    return Sweep("clip_alternatives", cells, seeds=tuple(range(scale.seeds)))
