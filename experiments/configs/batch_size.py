"""Batch size: does clipping let a normalizer-free network train at the batch sizes that batch norm can use?

Question: Which batch sizes can BN, NF and NF+AGC use, when each has its learning rate searched at each of them?
Paper: NFNet (arXiv 2102.06171) Figure 2a and section 4.1; ledger claim NF-8.
Command: python -m experiments run batch_size --profile small
Cost: smoke 2 minutes on 2 cores; small 30 minutes on 2 cores; gpu and paper not measured yet.
Expected: NF+AGC stays level with BN at every batch size; NF without clipping falls behind as the batch grows.

Three methods share one network, one schedule, one number of image passes and one grid of learning rates. NF starts
with alpha = 1 and skip gain 1: with the published start (0.2 and 0) a schedule of a few hundred updates ends before the
branches have grown, and the comparison would measure that instead (docs/decisions has the pilot).
"""

from dataclasses import dataclass, replace

from experiments.config import Sweep
from experiments.tasks.recipe import Augment, Clip, Data, Recipe
from experiments.tasks.training import Training
from nfnets_lite.models import model_spec

NONE = Augment()
METHODS = ("bn", "nf", "nf_agc")


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile."""

    model: str
    data: Data
    batch_sizes: tuple[int, ...]
    epochs: float
    rates: tuple[float, ...]
    seeds: int
    clip_factor: float = 0.01
    augment: Augment = NONE
    autocast: bool = False
    classes: int = 10


SCALES = {
    "smoke": Scale(
        "cifar_resnet8", Data("digits", train=1077, validation=360), (16, 32, 64, 128, 256), 8.0,
        (0.0125, 0.05, 0.2, 0.8, 3.2), seeds=3,
    ),
    "small": Scale(
        "cifar_resnet8", Data("cifar10", train=5000, validation=2000, test=10000, pool=2), (8, 32, 128, 256, 512),
        12.0, (0.0125, 0.05, 0.2, 0.8, 3.2), seeds=3,
    ),
    "gpu": Scale(
        "cifar_resnet20", Data("cifar10", train=45000, validation=5000), (64, 256, 1024, 2048, 4096),
        20.0, (0.05, 0.2, 0.8, 3.2, 12.8), seeds=5, augment=Augment(crop_flip=True), autocast=True,
    ),
    "paper": Scale(
        "nf_resnet50", Data("imagenet", validation=10000), (256, 512, 1024, 2048, 4096),
        90.0, (0.1, 0.2, 0.4, 0.8, 1.6), seeds=5, augment=Augment(crop_flip=True), autocast=True, classes=1000,
    ),
}  # fmt: skip


def sweep(profile: str) -> Sweep:
    """Every method at every batch size."""
    scale = SCALES[profile]
    channels = 1 if scale.data.name == "digits" else 3
    spec = model_spec(scale.model, alpha=1.0, skip_gain=1.0, num_classes=scale.classes, in_channels=channels)
    models = {"bn": spec.with_method("bn"), "nf": spec.with_method("nf"), "nf_agc": spec.with_method("nf")}
    recipe = Recipe(batch_size=0, epochs=scale.epochs, lr=0.0, augment=scale.augment, autocast=scale.autocast)
    cells = tuple(
        Training(
            method,
            models[method],
            scale.data,
            replace(recipe, batch_size=batch, clip=Clip(factor=scale.clip_factor) if method == "nf_agc" else None),
        )
        for method in METHODS
        for batch in scale.batch_sizes
    )
    return Sweep("batch_size", cells, scale.rates, search_seeds=(1000,), seeds=tuple(range(scale.seeds)))
