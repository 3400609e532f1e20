"""Collapse: what makes the training of a normalizer-free network end in infinity?

Question: How many of five runs diverge in a very deep network, at the usual rate and at half of it; and how many under
    strong augmentation, with clipping and without?
Paper: NF-ResNet (arXiv 2101.08692) at 288 layers; NFNet (2102.06171) section 4 on RandAugment; ledger claims SP-7,
    NF-12.
Command: python -m experiments run collapse --profile small
Cost: smoke 5 s on 2 cores; small 4 minutes on 2 cores; gpu 1 minute and paper months, by a rule of thumb.
Expected: at the usual rate some of the deep runs diverge, at half of it none does; under RandAugment the clipped
    network trains, and the unclipped one does not always.

The usual rate is the one that the search of `depth_scaling` chose for the shallow networks on validation images. Under
augmentation, data, batch and rate are those of `regularization`: the rate that was chosen for the clipped network. The
schedule is half as long there at `small`, for its cost.
"""

from collections.abc import Iterator
from dataclasses import replace

from experiments.configs import depth_scaling, regularization
from experiments.configs.depth_scaling import DIGITS, TINY, Depth
from experiments.scales import CROPS, DATA, crops, network
from experiments.sweep import Sweep
from experiments.tasks.recipe import Augment, Clip, Recipe
from experiments.tasks.training import Training
from nfnets_lite.models import model_spec

MAGNITUDE = 15.0  # of RandAugment: strong for any network here
EPOCHS = {"small": 10.0, "paper": 90.0}  # under augmentation, which neither digits nor captured steps can have


def _deep(profile: str, depth: Depth) -> Training:
    recipe = replace(depth_scaling.recipe(profile, depth), lr=0.15)
    return Training("nf", depth_scaling.model("nf", depth_scaling.SCALES[profile], depth), depth.data, recipe)


DEEP = {
    "smoke": _deep("smoke", Depth(8, DIGITS, 32, 14)),
    "small": _deep("small", Depth(33, TINY, 32, 160)),
    "gpu": _deep("gpu", Depth(33, DATA["gpu"], 64, 160)),
    "paper": Training(
        "nf", model_spec("nf_resnet288", stochastic_depth=0.0), DATA["paper"],
        Recipe(1024, 90.0, 0.4, augment=CROPS, autocast=True),
    ),
}  # fmt: skip


def sweep(profile: str) -> Sweep:
    """A deep network at its usual rate and at half of it; clipped and not, with and without strong augmentation."""
    deep = DEEP[profile]
    cells = (deep, deep.at_rate(deep.recipe.lr / 2), *_augmented(profile))
    return Sweep("collapse", cells, seeds=tuple(range(5)))


def _augmented(profile: str) -> Iterator[Training]:
    if profile not in EPOCHS:
        return
    scale = regularization.SCALES[profile]
    recipe = Recipe(
        scale.batch_size, EPOCHS[profile], scale.rate, augment=crops(profile), autocast=profile in ("gpu", "paper")
    )
    plain = CROPS if recipe.augment.crop_flip else Augment()
    for name, augment in (("none", plain), ("randaugment", replace(plain, randaugment=MAGNITUDE))):
        for method, clip in (("nf", None), ("nf_agc", Clip())):
            changed = replace(recipe, augment=augment, clip=clip)
            yield Training(f"{method}:{name}", network(profile).with_method("nf"), scale.data, changed)
