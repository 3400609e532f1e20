"""Batch range: at which batch sizes does a network without norms keep up with batch norm, if the networks can learn?

Question: At 64 to 2048 images an update, how far are NF and NF+AGC from BN, at equal epochs and at equal updates?
Paper: NFNet (arXiv 2102.06171) Figure 2a and section 4.1, SkipInit (arXiv 2002.10444); claims NF-8, SK-4.
Command: python -m experiments run batch_range --profile small
Cost: smoke 40 s on 2 cores; small 8 hours on 2 cores; gpu 5 minutes and paper months, by a rule of thumb.
Expected: NF+AGC is within a point of BN at batches 64 and 256, and one to three points below BN at 2048. NF without
    clipping falls behind from 1024 on. BN's best learning rate grows with the batch size; NF's stops growing early.

This sweep replaces `batch_size`, whose networks at `small` were too small to learn (docs/decisions). All methods share
one network and one schedule. Learning rate and threshold are searched at each batch size, with 9 tries for each method:
9 learning rates in steps of the root of 2, or 3 learning rates in steps of 2 with 3 thresholds in steps of 4. The
centres of the learning rates grow with the root of the batch size, except for NF without clipping. Runs labelled
``bn:updates`` and so on all have the number of updates of one batch size, the anchor. The anchor's runs at equal epochs
count for both halves. Both halves share one search.
"""

from dataclasses import dataclass, replace

from experiments.grid import Grid, around
from experiments.scales import WHOLE, augmentation, learner
from experiments.sweep import Sweep
from experiments.tasks.data import FULL
from experiments.tasks.recipe import Clip, Data, Recipe
from experiments.tasks.training import Training, updates_of

METHODS = ("bn", "nf", "nf_agc")
CONTROLS = ("bn_agc", "gn_ws")  # at equal epochs, at the sizes of `others`
UPDATES = ":updates"  # behind the method, in the labels of the half with equal updates
CENTRES = {"bn": 2.0, "bn_agc": 2.0, "gn_ws": 0.5, "nf": 0.2, "nf_agc": 0.5}  # learning rates at 256 images
THRESHOLD = 0.08


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile: batch sizes at equal epochs; `others` also with the number of updates of `anchor`."""

    data: Data
    sizes: tuple[int, ...]
    anchor: int
    others: tuple[int, ...]
    epochs: float
    search_epochs: float
    width: tuple[int, ...] | None = None
    seeds: int = 5


SCALES = {
    "smoke": Scale(
        replace(WHOLE["smoke"], train=540), sizes=(32, 128), anchor=128, others=(32,), epochs=2.0, search_epochs=1.0,
        seeds=3,
    ),
    "small": Scale(
        WHOLE["small"], sizes=(64, 256, 1024, 2048), anchor=1024, others=(256, 2048), epochs=10.0, search_epochs=5.0,
        width=(32, 64, 128),
    ),
    "gpu": Scale(
        WHOLE["gpu"], sizes=(64, 256, 1024, 2048), anchor=1024, others=(256, 2048), epochs=10.0, search_epochs=5.0,
        width=(64, 128, 256),
    ),
    "paper": Scale(
        WHOLE["paper"], sizes=(256, 1024, 4096), anchor=1024, others=(256, 4096), epochs=90.0, search_epochs=30.0,
    ),
}  # fmt: skip


def sweep(profile: str) -> Sweep:
    """Three methods at every batch size and the controls at some, at equal epochs; then the three at equal updates."""
    scale = SCALES[profile]
    base = Recipe(
        0, scale.epochs, 0.0, augment=augmentation(profile), label_smoothing=0.1, autocast=profile != "smoke"
    )  # fmt: skip
    images = scale.data.train or FULL[scale.data.name] - scale.data.validation
    updates = updates_of(replace(base, batch_size=scale.anchor), images)
    settings = [(method, "", replace(base, batch_size=size)) for size in scale.sizes for method in METHODS]
    settings += [(method, "", replace(base, batch_size=size)) for size in scale.others for method in CONTROLS]
    settings += [
        (method, UPDATES, replace(base, batch_size=size, epochs=0.0, updates=updates))
        for size in scale.others
        for method in METHODS
    ]
    return Sweep(
        "batch_range", tuple(cell(profile, *setting) for setting in settings),
        grids=tuple(grid(method, recipe.batch_size) for method, _, recipe in settings), widenings=3,
        search_epochs=scale.search_epochs, seeds=tuple(range(scale.seeds)),
    )  # fmt: skip


def cell(profile: str, method: str, half: str, recipe: Recipe) -> Training:
    """One method with one schedule; its searched values are placeholders."""
    scale, clips = SCALES[profile], method.endswith("_agc")
    model = learner(profile).with_method(method.removesuffix("_agc"))
    if scale.width is not None:
        model = replace(model, width=scale.width)
    return Training(method + half, model, scale.data, replace(recipe, clip=Clip() if clips else None))


def grid(method: str, batch_size: int) -> Grid:
    """The grid with which the search of a method begins at one batch size."""
    rate = CENTRES[method] * (1.0 if method == "nf" else (batch_size / 256) ** 0.5)
    if method.endswith("_agc"):
        return Grid(around(rate, 3, 2.0), around(THRESHOLD, 3, 4.0))
    return Grid(around(rate, 9, 2.0**0.5))
