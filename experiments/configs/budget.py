"""Budget: how much longer must a network without norms train to reach the accuracy of batch norm?

Question: How far is NF from BN after 2, 4, 8, 16 and 32 epochs, on training and on test images?
Paper: none compares lengths of training; claims BD-1, BD-2 and BD-3 are this project's own.
Command: python -m experiments run budget --profile small
Cost: smoke 20 s on 2 cores; small 9 hours on 2 cores; gpu 7 minutes and paper months, by a rule of thumb.
Expected: NF with AGC is several points below BN after 2 epochs and within a point of BN after 32. GN with standardised
    weights lies between NF with AGC and BN. NF without clipping needs smaller learning rates and stays below NF with
    AGC.

All methods share one network, one batch size and one schedule. Learning rate and threshold are searched on validation
images in trainings of one length, with the same number of tries for each method. BN, GN and NF have 9 learning rates in
steps of the root of 2. Methods that clip have 3 learning rates in steps of 2, each with 3 thresholds in steps of 4. A
grid is widened where the best setting lies at its end, at most three times. The setting that was found is used at every
length. Only BN and NF with AGC have the longest trainings. Two controls are trained at one length, each with a search
of its own: BN with AGC, and NF with AGC from the published start (alpha 0.2, skip gain 0).
"""

from dataclasses import dataclass, replace

from experiments.grid import Grid, around
from experiments.scales import WHOLE, augmentation, autocast, learner
from experiments.sweep import Sweep
from experiments.tasks.recipe import Clip, Data, Recipe
from experiments.tasks.training import Training

METHODS = ("bn", "gn_ws", "nf", "nf_agc")
LONGEST = ("bn", "nf_agc")
CONTROLS = ("bn_agc", "nf_agc_published")


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile: lengths of training in epochs, and centres of the grids.

    Only BN and NF with AGC are trained for `long_epochs`. `rate` is the centre of the learning rates with batch or
    group norm, `clipped_nf_rate` of those of NF with AGC, and `unclipped_nf_rate` of those of NF without AGC.
    """

    data: Data
    batch_size: int
    epochs: tuple[float, ...]
    long_epochs: tuple[float, ...]
    search_epochs: float
    control_epochs: float
    rate: float
    clipped_nf_rate: float
    unclipped_nf_rate: float
    threshold: float = 0.08
    seeds: int = 3


SCALES = {
    "smoke": Scale(
        replace(WHOLE["smoke"], train=540), batch_size=32, epochs=(1.0, 2.0, 4.0), long_epochs=(8.0,),
        search_epochs=1.0, control_epochs=4.0, rate=0.4, clipped_nf_rate=0.4, unclipped_nf_rate=0.1,
    ),
    "small": Scale(
        WHOLE["small"], batch_size=256, epochs=(2.0, 4.0, 8.0), long_epochs=(16.0, 32.0), search_epochs=4.0,
        control_epochs=4.0, rate=1.0, clipped_nf_rate=0.5, unclipped_nf_rate=0.2,
    ),
    "gpu": Scale(
        WHOLE["gpu"], batch_size=512, epochs=(4.0, 8.0, 16.0), long_epochs=(32.0,), search_epochs=4.0,
        control_epochs=16.0, rate=1.0, clipped_nf_rate=0.5, unclipped_nf_rate=0.4, seeds=5,
    ),
    "paper": Scale(
        WHOLE["paper"], batch_size=1024, epochs=(10.0, 30.0), long_epochs=(90.0,), search_epochs=10.0,
        control_epochs=30.0, rate=0.4, clipped_nf_rate=0.4, unclipped_nf_rate=0.4, threshold=0.02,
    ),
}  # fmt: skip


def sweep(profile: str) -> Sweep:
    """Every method at the short lengths, two methods at the long ones, and the controls at one length."""
    scale = SCALES[profile]
    settings = [(method, epochs) for epochs in scale.epochs for method in METHODS]
    settings += [(method, epochs) for epochs in scale.long_epochs for method in LONGEST]
    settings += [(method, scale.control_epochs) for method in CONTROLS]
    cells = tuple(_cell(profile, method, epochs) for method, epochs in settings)
    return Sweep(
        "budget", cells, grids=tuple(grid(profile, method) for method, _ in settings), widenings=3,
        search_epochs=scale.search_epochs, seeds=tuple(range(scale.seeds)),
    )  # fmt: skip


def grid(profile: str, method: str) -> Grid:
    """Nine settings: learning rates in steps of the root of 2, or in steps of 2 with thresholds in steps of 4."""
    scale = SCALES[profile]
    if "_agc" in method:
        rate = scale.clipped_nf_rate if method.startswith("nf") else scale.rate
        return Grid(around(rate, 3, 2.0), around(scale.threshold, 3, 4.0))
    return Grid(around(scale.unclipped_nf_rate if method == "nf" else scale.rate, 9, 2.0**0.5))


def _cell(profile: str, method: str, epochs: float) -> Training:
    model = learner(profile).with_method(method.partition("_agc")[0])
    if method.endswith("_published"):
        model = replace(model, alpha=0.2, skip_gain=0.0)
    recipe = Recipe(
        SCALES[profile].batch_size, epochs, 0.0, clip=Clip() if "_agc" in method else None,
        augment=augmentation(profile), label_smoothing=0.1, autocast=autocast(profile),
    )  # fmt: skip
    return Training(method, model, SCALES[profile].data, recipe)
