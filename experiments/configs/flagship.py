"""Flagship: how far does a network without norms get on CIFAR-10 in a few epochs, and does Muon replace clipping?

Question: At equal multiply-adds, how far is NF from the batch-norm network of `examples/cifar10.py`, with SGD and with
    Muon, each with and without AGC?
Paper: airbench (arXiv 2404.00498) trains a batch-norm network to 94 %; claims FL-1 to FL-3 are this project's own.
Command: python -m experiments run flagship --profile small
Cost: smoke 20 s on 2 cores; small 7 hours on 2 cores; gpu 7 minutes and paper hours, by a rule of thumb.
Expected: NF with AGC is 0.5 to 1.5 points below BN after 8 epochs. Muon helps both. With Muon, clipping makes no
    difference. Updates in proportion to each filter's norm lie between NF and NF with AGC.

All methods share one network and one schedule. Each has 9 tries on validation images: 9 learning rates in steps of the
root of 2, or 3 learning rates in steps of 2 with 3 thresholds in steps of 4. With Muon, and with updates in proportion
to filters, only the learning rate of the convolutions is searched; gains, biases and the classifier keep theirs.
"""

from dataclasses import dataclass

from examples.cifar10 import Recipe
from experiments.grid import Grid, around
from experiments.scales import DATA
from experiments.sweep import Sweep
from experiments.tasks.flagship import Flagship
from experiments.tasks.recipe import Data

REST = 0.1  # learning rate of gains, biases and classifier, where convolutions have an optimizer of their own
THRESHOLD = 0.08


@dataclass(frozen=True)
class Method:
    """One method: form of the network, optimizer of its convolutions, clipping or none, centre of learning rates."""

    form: str
    optimizer: str
    clips: bool
    rate: float


METHODS = {
    "bn": Method("bn", "sgd", False, 1.0),
    "nf": Method("nf", "sgd", False, 0.2),
    "nf_agc": Method("nf", "sgd", True, 0.5),
    "nf_rows": Method("nf", "rows", False, 0.02),
    "bn_muon": Method("bn", "muon", False, 0.05),
    "nf_muon": Method("nf", "muon", False, 0.05),
    "nf_muon_agc": Method("nf", "muon", True, 0.05),
}


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile; `tries` is the number of settings in each method's search, 9 or 3."""

    data: Data
    width: tuple[int, ...]
    batch_size: int
    epochs: int
    seeds: int
    tries: int = 9
    methods: tuple[str, ...] = tuple(METHODS)


IMAGES = DATA["gpu"]  # all, at full size, without whitened patches: examples/cifar10.py has its own fixed layer
SCALES = {
    "smoke": Scale(
        Data("digits", train=640, validation=200), width=(8, 16, 16), batch_size=32, epochs=2, seeds=3, tries=3,
        methods=("bn", "nf_agc", "nf_muon", "nf_muon_agc"),
    ),
    "small": Scale(IMAGES, width=(32, 128, 128), batch_size=256, epochs=8, seeds=10),
    "gpu": Scale(IMAGES, width=(64, 256, 256), batch_size=512, epochs=10, seeds=10),
    "paper": Scale(IMAGES, width=(128, 384, 384), batch_size=512, epochs=40, seeds=5),
}  # fmt: skip


def sweep(profile: str) -> Sweep:
    """Every method, each with a search of its own."""
    scale = SCALES[profile]
    return Sweep(
        "flagship", tuple(cell(profile, name) for name in scale.methods),
        grids=tuple(grid(profile, name) for name in scale.methods), widenings=0 if profile == "smoke" else 3,
        seeds=tuple(range(scale.seeds)),
    )  # fmt: skip


def cell(profile: str, name: str) -> Flagship:
    """One method at one profile; the searched values in it are placeholders."""
    scale, method = SCALES[profile], METHODS[name]
    recipe = Recipe(
        method.form, scale.width, scale.epochs, scale.batch_size, lr=REST, clip=THRESHOLD if method.clips else 0.0,
        optimizer=method.optimizer,
    )  # fmt: skip
    return Flagship(name, scale.data, recipe)


def grid(profile: str, name: str) -> Grid:
    """The grid with which the search of a method begins."""
    tries, method = SCALES[profile].tries, METHODS[name]
    if not method.clips:
        return Grid(around(method.rate, tries, 2.0**0.5 if tries == 9 else 2.0))
    thresholds = around(THRESHOLD, tries // 3, 4.0)
    return Grid(around(method.rate, 3, 2.0), thresholds)
