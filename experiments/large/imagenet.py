"""ImageNet: the papers' runs of NFNet-F0 to F6, from scratch.

Question: Does the package, with the paper's recipe, reach the paper's accuracy on ImageNet?
Paper: NFNet (arXiv 2102.06171) table 3 and appendix A.1; claims NF-16 (recipe) and NF-13 (SAM).
Command: torchrun --nproc-per-node 8 -m experiments.large nfnet_f0 --profile paper --data DIR
Cost: smoke seconds on 2 cores; small and gpu depend on the folder; paper is printed by --plan and was never run here.
Expected: top-1 of 83.6, 84.7, 85.1, 85.7, 85.9, 86.0 (F0 to F5), 86.5 for F6 with SAM; untested.

`config` serves any image folder; the profile changes numbers only. Make variants with `replace()`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from experiments.large.large_run import Augment, LargeRecipe, LargeRun
from experiments.profiles import check
from nfnets_lite.models import RESOLUTIONS, Resolution, model_spec

NAMES = tuple(f"nfnet_f{i}" for i in range(7))
# RandAugment's strength: 5 for F0, 10 for F1 and F2, 15 from F3 on (authors' experiment; paper, appendix A.1).
_MAGNITUDE = (5, 10, 10, 15, 15, 15, 15)


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile: factors on width and resolution, and the schedule."""

    width: float
    pixels: float
    batch_size: int
    epochs: float
    warmup_epochs: float


SCALES: Mapping[str, Scale] = {
    "smoke": Scale(1 / 32, 1 / 6, 16, 2.0, 0.5),
    "small": Scale(1 / 8, 1 / 3, 128, 20.0, 1.0),
    "gpu": Scale(1 / 2, 2 / 3, 1024, 90.0, 5.0),
    "paper": Scale(1.0, 1.0, 4096, 360.0, 5.0),
}


def config(name: str, profile: str = "paper") -> LargeRun:
    """The run of one NFNet at a profile.

    Examples
    --------
    >>> run = config("nfnet_f0")
    >>> run.steps, run.peak, run.size
    (112602, 1.6, Resolution(train=192, test=256))
    """
    if name not in NAMES:
        raise ValueError(f"config {name!r} is not known; use one of {', '.join(NAMES)}")
    scale, variant = SCALES[check(profile)], NAMES.index(name)
    # Stem and group width are scaled with the width, so that the number of groups stays the same.
    spec = model_spec(name, width=scale.width, stem_width=0.5, group_width=int(128 * scale.width))
    sides = [32 * max(1, round(side * scale.pixels / 32)) for side in RESOLUTIONS[name]]
    augment = Augment(
        magnitude=_MAGNITUDE[variant], cutout=round(40 * scale.pixels), translate=round(100 * scale.pixels)
    )
    recipe = LargeRecipe(batch_size=scale.batch_size, epochs=scale.epochs, warmup_epochs=scale.warmup_epochs)
    return LargeRun(name, profile, spec, Resolution(*sides), recipe, augment)


def with_sam(run: LargeRun, radius: float = 0.05) -> LargeRun:
    """The run with sharpness-aware minimisation, whose ascent sees 20 % of the batch (claim NF-13)."""
    return replace(run, recipe=replace(run.recipe, sam_radius=radius))
