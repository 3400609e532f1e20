"""Sharpness-aware minimisation: how much of the batch does the ascent need, and does it have to be the same batch?

Question: Does SAM help NF with clipping? Is a fifth of the batch enough for its ascent, and does another batch do?
Paper: NFNet (arXiv 2102.06171) section 5 and table 3; SAM (arXiv 2010.01412); claim NF-13.
Command: python -m experiments run sam --profile small
Cost: smoke 10 s on 2 cores; small 10 minutes on 2 cores; gpu 2 minutes and paper days, by a rule of thumb.
Expected: SAM gains accuracy; a fifth of the batch keeps the gain at a fraction of the cost; another batch loses it.

Images, learning rate and schedule are those of `regularization`.
"""

from dataclasses import replace

from experiments.configs.regularization import SCALES
from experiments.scales import autocast, crops, network
from experiments.sweep import Sweep
from experiments.tasks.recipe import Clip, Recipe, Sam
from experiments.tasks.training import Training

VARIANTS = {
    "sgd": None,
    "sam": Sam(),
    "sam_fifth": Sam(share=0.2),
    "sam_other": Sam(other_batch=True),
}
METHODS = ("bn", "nf_agc")


def sweep(profile: str) -> Sweep:
    """Every variant for both methods; labels are ``method:variant``, such as ``nf_agc:sam_fifth``."""
    scale = SCALES[profile]
    recipe = Recipe(scale.batch_size, scale.epochs, scale.rate, augment=crops(profile), autocast=autocast(profile))
    cells = (
        Training(
            f"{method}:{name}",
            network(profile).with_method(method.removesuffix("_agc")),
            scale.data,
            replace(recipe, sam=sam, clip=Clip() if method == "nf_agc" else None),
        )
        for method in METHODS
        for name, sam in VARIANTS.items()
    )
    return Sweep("sam", tuple(cells), seeds=tuple(range(5 if profile != "smoke" else 3)))
