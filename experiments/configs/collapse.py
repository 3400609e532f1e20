"""Collapse: what makes the training of a normalizer-free network diverge?

Question: How many of five runs diverge in a very deep network, at the usual learning rate and at half of it? And how
    many under strong augmentation, with clipping and without?
Paper: NF-ResNet (arXiv 2101.08692) at 288 layers; NFNet (2102.06171) section 4 on RandAugment; claims SP-7, NF-12.
Command: python -m experiments run collapse --profile small
Cost: smoke 5 s on 2 cores; small 4 minutes on 2 cores; gpu 1 minute and paper months, by a rule of thumb.
Expected: At the usual learning rate some of the deep runs diverge, at half of it none does. Under RandAugment the
    clipped network trains, and the unclipped one does not always.

The usual learning rate is the one that the search of `depth_scaling` chose for the shallow networks on validation
images. The runs under augmentation have the data, batch size and learning rate of `regularization`, where the learning
rate was chosen for the clipped network. Their schedule at `small` is half as long as there, to save time.
"""

from collections.abc import Iterator
from dataclasses import replace

from experiments.configs import depth_scaling, regularization
from experiments.configs.depth_scaling import DIGITS, TINY, Depth
from experiments.scales import CROPS, DATA, autocast, crops, network
from experiments.sweep import Sweep
from experiments.tasks.recipe import Augment, Clip, Recipe
from experiments.tasks.training import Training
from nfnets_lite.models import model_spec

MAGNITUDE = 15.0  # of RandAugment: strong for any network here
EPOCHS = {"small": 10.0, "paper": 90.0}  # under RandAugment: digits are too small for it, captured steps cannot hold it


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
    """A deep network at two learning rates; then a shallower one clipped and not, with and without RandAugment."""
    deep = DEEP[profile]
    cells = (deep, deep.at_rate(deep.recipe.lr / 2), *_augmented(profile))
    return Sweep("collapse", cells, seeds=tuple(range(5)))


def _augmented(profile: str) -> Iterator[Training]:
    if profile not in EPOCHS:
        return
    scale = regularization.SCALES[profile]
    recipe = Recipe(scale.batch_size, EPOCHS[profile], scale.rate, augment=crops(profile), autocast=autocast(profile))
    plain = CROPS if recipe.augment.crop_flip else Augment()
    for name, augment in (("none", plain), ("randaugment", replace(plain, randaugment=MAGNITUDE))):
        for method, clip in (("nf", None), ("nf_agc", Clip())):
            changed = replace(recipe, augment=augment, clip=clip)
            yield Training(f"{method}:{name}", network(profile).with_method("nf"), scale.data, changed)
