"""Depth: how deep can a residual network without norms be, and at which learning rates does it train?

Question: From 8 to 1,000 layers, which ways of joining branch and shortcut train at all, and at which learning rates?
Paper: SkipInit (arXiv 2002.10444), FixUp (1901.09321), RescaleNet (NeurIPS 2020), NF-ResNet (2101.08692) Table 1;
    claims SK-2, SK-3, SK-6, SP-6.
Command: python -m experiments run depth_scaling --profile small
Cost: smoke 25 s on 2 cores; small 8 minutes on 2 cores; gpu 15 minutes and paper days, by a rule of thumb.
Expected: BN, both SkipInits, FixUp, RescaleNet and NF train at every depth. A deep network without a norm diverges. One
    whose blocks are divided by the root of 2 does not learn. SkipInit's largest learning rate falls with the depth.

The time of an update grows with the depth, so a deeper network gets fewer updates. Methods can be compared at one
depth; one method cannot be compared across depths. At `smoke` and `small` the question is whether the loss falls at
all, which takes few updates on digits and more on CIFAR-10. So `small` has CIFAR-10 at the depths where hundreds of
updates are affordable, and digits beyond. At `gpu` the networks of 8 to 98 layers see all images for five epochs, and
only that of 998 layers is trained for a few hundred updates. Layers are narrow and images small, because at 1,000
layers the number of operations costs time, not their size. NF starts with alpha 0.2 and, at `smoke` and `small`, with
skip gain 1. With the published skip gain of 0 it needs more updates than there are, and with alpha 1 deep networks
train only at the smallest learning rates (a pilot on validation images). At `gpu` and `paper` NF starts from 0, as
SkipInit does. SkipInit's start of 0 is the method itself, and so are FixUp's zeros. The shortest schedules may end
before FixUp has left them.
"""

from dataclasses import dataclass, replace

from experiments.scales import CHANNELS, DATA, crops
from experiments.sweep import Sweep
from experiments.tasks.recipe import Data, Recipe
from experiments.tasks.training import Training
from nfnets_lite.models import ResNetSpec, model_spec

METHODS = ("bn", "none", "half", "skipinit", "skipinit_sqrt", "fixup", "rescale", "nf")
DIGITS = Data("digits", train=400, validation=180, test=180)
TINY = Data("cifar10", train=5000, validation=1000, test=2000, pool=4)


@dataclass(frozen=True)
class Depth:
    """A depth and its schedule: `blocks` in each of three stages, two layers a block; images, batch size and length."""

    blocks: int
    data: Data
    batch_size: int
    updates: int | None
    epochs: float = 0.0


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile."""

    depths: tuple[Depth, ...]
    rates: tuple[float, ...]
    seeds: int
    width: tuple[int, int, int] = (16, 32, 32)
    strides: tuple[int, int, int] = (2, 2, 1)
    nf_skip_gain: float = 1.0


SCALES = {
    "smoke": Scale((Depth(1, DIGITS, 32, 30), Depth(8, DIGITS, 32, 14)), (0.05, 0.15, 0.45), seeds=3),
    "small": Scale(
        (Depth(1, TINY, 32, 200), Depth(8, TINY, 32, 160), Depth(33, DIGITS, 32, 40), Depth(166, DIGITS, 32, 22)),
        (0.05, 0.15, 0.45), seeds=3,
    ),
    "gpu": Scale(
        (*(Depth(n, DATA["gpu"], 128, None, epochs=5.0) for n in (1, 4, 8, 16)), Depth(166, DATA["gpu"], 64, 500)),
        (0.025, 0.1, 0.4, 1.6), seeds=3, width=(24, 48, 64), strides=(2, 2, 2), nf_skip_gain=0.0,
    ),
    # Wide ResNets d-2 of 16, 100 and 1,000 layers, as SkipInit's paper counts: with the shortcuts' convolutions.
    "paper": Scale(
        tuple(Depth(n, Data("cifar10", validation=5000), 128, None, epochs=200.0) for n in (2, 16, 166)),
        tuple(2.0**-k for k in range(8, -1, -1)), seeds=7, width=(32, 64, 128), strides=(1, 2, 2),
        nf_skip_gain=0.0,
    ),
}  # fmt: skip


def sweep(profile: str) -> Sweep:
    """Every method at every depth."""
    scale = SCALES[profile]
    cells = tuple(
        Training(method, model(method, scale, depth), depth.data, recipe(profile, depth))
        for depth in scale.depths
        for method in METHODS
    )
    return Sweep("depth_scaling", cells, scale.rates, seeds=tuple(range(scale.seeds)))


def recipe(profile: str, depth: Depth) -> Recipe:
    """The schedule of a network of a depth; its learning rate of 0 is a placeholder."""
    augment = crops(profile)
    return Recipe(depth.batch_size, depth.epochs, 0.0, updates=depth.updates, augment=augment)


def model(method: str, scale: Scale, depth: Depth) -> ResNetSpec:
    """A network of a depth, whose branches and shortcuts are joined as `method` says."""
    blocks = 3 * depth.blocks
    spec = model_spec(
        "cifar_resnet8", method=method.removesuffix("_sqrt"), depth=(depth.blocks,) * 3, width=scale.width,
        strides=scale.strides, stem_width=16, in_channels=CHANNELS.get(depth.data.name, 3), alpha=0.2,
    )  # fmt: skip
    return replace(spec, skip_gain={"nf": scale.nf_skip_gain, "skipinit_sqrt": blocks**-0.5}.get(method, 0.0))
