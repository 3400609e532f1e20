"""Runs on which the engine and ordinary training are compared."""

from dataclasses import dataclass, replace

from experiments import configs
from experiments.tasks.recipe import Augment
from experiments.tasks.training import Training

METHODS = ("bn", "nf_agc")


@dataclass(frozen=True)
class Slice:
    """Runs of the batch-size sweep to compare on: each method and batch size with `seeds` seeds side by side.

    A mean accuracy below `floor` means that nothing was trained. The runs have `train` training images and no
    augmentation, which the ordinary way lacks.
    """

    profile: str
    sizes: tuple[int, ...]
    rate: float
    epochs: float
    floor: float
    train: int | None = None
    seeds: int = 1

    def runs(self, seed: int) -> list[Training]:
        """The runs of one repeat."""
        cells = [c for c in configs.sweep("batch_size", self.profile).cells if isinstance(c, Training)]
        first = {method: next(c for c in cells if c.method == method) for method in METHODS}
        return [
            replace(
                cell,
                recipe=replace(cell.recipe, batch_size=size, lr=self.rate, epochs=self.epochs, augment=Augment()),
                data=replace(cell.data, train=self.train or cell.data.train),
                seed=seed + 50 * i,
            )
            for i in range(self.seeds)
            for size in self.sizes
            for cell in first.values()
        ]


# On a GPU, one run with a small batch leaves the device mostly idle, and one with a large batch fills it.
SLICES: dict[str, dict[str, Slice]] = {
    "cpu": {"smoke sweep": Slice("smoke", (32, 128), 0.2, 8.0, 0.5)},
    "cuda": {
        "batch 32": Slice("gpu", (32,), 0.1, 1.0, 0.2, train=8192, seeds=2),
        "batch 4096": Slice("gpu", (4096,), 0.4, 3.0, 0.1, train=40960, seeds=2),
    },
}
