"""Transfer: how well do networks with and without batch norm transfer to other images?

Question: After the same pre-training, does NF or BN fine-tune better, as a whole and with frozen features?
Paper: NFNet (arXiv 2102.06171) table 4 (300 million private images); claim NF-14.
Command: python -m experiments run transfer --profile small
Cost: smoke 10 s on 2 cores; small 6 minutes on 2 cores; gpu 2 minutes and paper days, by a rule of thumb.
Expected: NF fine-tunes better than BN by half a point or more. Both are better than the same network from scratch.

Pre-training sees eight of the ten classes. Fine-tuning sees all ten, with few images of each. The learning rate of
fine-tuning is searched on validation images that pre-training has not seen either. The learning rate of pre-training is
fixed: at small it is the one that the search of `batch_size` chose for both methods at this batch size; at other
profiles it is near that one and untested.
"""

from dataclasses import dataclass, replace

from experiments.scales import DATA, autocast, crops, network
from experiments.sweep import Sweep
from experiments.tasks.recipe import Clip, Data, Recipe
from experiments.tasks.transfer import Transfer

METHODS = ("bn", "nf_agc")
ARMS = ("whole", "frozen", "scratch")


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile."""

    source: Data
    data: Data
    source_batch: int
    source_epochs: float
    source_rate: float
    batch_size: int
    epochs: float
    rates: tuple[float, ...]
    seeds: int


SCALES = {
    "smoke": Scale(
        Data("digits", train=700, validation=100, classes=8), Data("digits", train=100, validation=360),
        64, 4.0, 0.2, 20, 5.0, (0.02, 0.1), seeds=3,
    ),
    "small": Scale(
        Data("cifar10", train=5000, validation=500, test=1000, pool=2, classes=8), replace(DATA["small"], train=1000),
        128, 12.0, 0.8, 50, 10.0, (0.02, 0.1, 0.5), seeds=3,
    ),
    "gpu": Scale(
        Data("cifar10", train=33000, validation=2000, classes=8), replace(DATA["gpu"], train=4500),
        512, 12.0, 1.6, 128, 12.0, (0.02, 0.1, 0.5), seeds=3,
    ),
    "paper": Scale(DATA["paper"], DATA["paper"], 1024, 10.0, 0.4, 2048, 15.0, (0.1,), seeds=5),
}  # fmt: skip


def sweep(profile: str) -> Sweep:
    """Both methods, fine-tuned as a whole, with frozen features, and from scratch; labels such as ``nf_agc:frozen``."""
    scale = SCALES[profile]
    shared = {"autocast": autocast(profile), "augment": crops(profile)}
    cells = []
    for method in METHODS:
        clip = Clip() if method == "nf_agc" else None
        source = Recipe(scale.source_batch, scale.source_epochs, scale.source_rate, clip=clip, **shared)  # type: ignore[arg-type]
        recipe = Recipe(scale.batch_size, scale.epochs, 0.0, clip=clip, **shared)  # type: ignore[arg-type]
        spec = network(profile).with_method(method.removesuffix("_agc"))
        for arm in ARMS:
            data = None if arm == "scratch" else scale.source
            cells.append(Transfer(f"{method}:{arm}", spec, data, source, scale.data, recipe, arm == "frozen"))
    return Sweep("transfer", tuple(cells), scale.rates, seeds=tuple(range(scale.seeds)))
