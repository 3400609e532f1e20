"""Few images: how should a pre-trained network be fine-tuned when an update sees 2 images?

Question: With 2, 4 and 16 images an update, what do frozen batch norms, running batch norms, group norm and NF reach?
Paper: none; detectors freeze the batch norms of their backbone by custom. Claims FI-1 and FI-2 are this project's own.
Command: python -m experiments run few_images --profile small
Cost: smoke 20 s on 2 cores; small 80 minutes on 2 cores; gpu 6 minutes and paper weeks, by a rule of thumb.
Expected: With 2 images an update, BN with frozen norms is several points above BN whose norms follow the batch. At 16
    images the two are within a point. GN with standardised weights is level with frozen BN; NF with AGC is 1 to 3
    points behind.

A detector sees 1 to 4 images on each device, because its images are large. Here a network is pre-trained on eight of
ten classes at an ordinary batch size, and fine-tuned on few images of all ten. `bn:live` normalises by the statistics
of each small batch. `bn:frozen` turns each batch norm into the fixed affine map that it is in evaluation. GN and NF are
pre-trained as such. The learning rate of pre-training is fixed; docs/decisions has the pilot. The learning rate of
fine-tuning is searched for each method and batch size, with the same number of tries.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from experiments.grid import Grid, around
from experiments.scales import DATA, augmentation, learner, network
from experiments.sweep import Sweep
from experiments.tasks.recipe import Clip, Data, Recipe
from experiments.tasks.transfer import Transfer
from nfnets_lite.models import ResNetSpec

METHODS = ("bn:live", "bn:frozen", "gn_ws", "nf_agc")
SOURCE_RATES: Mapping[str, float] = {"bn": 1.0, "gn_ws": 0.25, "nf_agc": 0.35}  # at 256 images
CLIP = Clip(factor=0.08)
RATE = 0.02  # centre of the grids at 16 images; in proportion to the batch size


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile; `tries` learning rates for each method and batch size."""

    model: ResNetSpec
    source: Data
    data: Data
    source_batch: int
    source_epochs: float
    epochs: float
    batch_sizes: tuple[int, ...] = (2, 4, 16)
    tries: int = 3
    seeds: int = 3
    source_rates: Mapping[str, float] = field(default_factory=lambda: SOURCE_RATES)


def whole(profile: str, width: tuple[int, ...]) -> ResNetSpec:
    """The headline network with a convolution as its stem: whitened patches would differ between the two data sets."""
    plain = network(profile)
    return replace(learner(profile), width=width, stem=plain.stem, in_channels=3)


SCALES = {
    "smoke": Scale(
        network("smoke"), Data("digits", train=700, validation=100, classes=8),
        Data("digits", train=100, validation=360), 64, 4.0, 2.0, batch_sizes=(2, 16), tries=2,
        source_rates=dict.fromkeys(SOURCE_RATES, 0.2),
    ),
    "small": Scale(
        whole("small", (32, 64, 128)), Data("cifar10", train=33000, validation=2000, classes=8),
        Data("cifar10", train=2000, validation=5000), 256, 6.0, 5.0,
    ),
    "gpu": Scale(
        whole("gpu", (64, 128, 256)), Data("cifar10", train=33000, validation=2000, classes=8),
        Data("cifar10", train=2000, validation=5000), 256, 16.0, 5.0, seeds=5,
    ),
    "paper": Scale(network("paper"), DATA["paper"], DATA["paper"], 1024, 90.0, 5.0, seeds=5),
}  # fmt: skip


def sweep(profile: str) -> Sweep:
    """Every method at every batch size of fine-tuning."""
    scale = SCALES[profile]
    cells = tuple(cell(profile, method, size) for method in METHODS for size in scale.batch_sizes)
    grids = tuple(grid(cell.recipe.batch_size, scale.tries) for cell in cells)
    return Sweep(
        "few_images", cells, grids=grids, widenings=0 if profile == "smoke" else 3, seeds=tuple(range(scale.seeds))
    )


def cell(profile: str, method: str, batch_size: int) -> Transfer:
    """One method at one batch size of fine-tuning."""
    scale, base = SCALES[profile], method.partition(":")[0]
    shared = Recipe(
        batch_size, scale.epochs, 0.0, clip=CLIP if base.endswith("_agc") else None, augment=augmentation(profile),
        label_smoothing=0.1,
    )  # fmt: skip
    source = replace(
        shared, batch_size=scale.source_batch, epochs=scale.source_epochs, lr=scale.source_rates[base],
        autocast=profile != "smoke",
    )  # fmt: skip
    model = scale.model.with_method(base.removesuffix("_agc"))
    return Transfer(method, model, scale.source, source, scale.data, shared, fixed_norms=method == "bn:frozen")


def grid(batch_size: int, tries: int) -> Grid:
    """Learning rates of fine-tuning in steps of 4 around one that is proportional to the batch size."""
    return Grid(around(RATE * batch_size / 16, tries, 4.0))
