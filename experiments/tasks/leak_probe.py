"""The leak probe: can a network answer for one example what only the other examples of its batch show?

Axes: N images of a batch, C channels, H W space.
"""

from collections.abc import Generator, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.sweep import Outcome, Run
from experiments.tasks.data import Split, load
from experiments.tasks.descent import descend, one_thread, seeded, steps_down
from experiments.tasks.recipe import Data, Recipe
from experiments.tasks.step import on_stream
from nfnets_lite.models import Spec, create_model

STEP = {"cpu": 0.01, "cuda": 0.005}  # seconds of an update of a small batch, run eagerly; a trial takes half of it


@dataclass(frozen=True)
class LeakProbe(Run):
    """Train on batches whose first image is noise, and whose label is the class, 0 or 1, of all other images.

    The loss is that of the first image. A network without a path between images cannot do better than chance, 50 %.

    Metrics: `accuracy` over `trials` batches of the judged split in training mode, and `eval_accuracy` on the same
    batches in evaluation mode. `coupling`, before training: the largest derivative of the first image's output by
    another image, over the largest by itself; the curve has every image's.
    """

    NUMERICS: ClassVar[int] = 1  # not raised yet

    model: Spec
    data: Data
    recipe: Recipe
    trials: int = 100

    def __post_init__(self) -> None:
        if self.data.classes != 2 or self.model.num_classes != 2:
            raise ValueError(
                f"data.classes={self.data.classes} and model.num_classes={self.model.num_classes} must both be 2: the "
                "label is a bit"
            )
        if not self.recipe.updates:
            raise ValueError(f"recipe.updates={self.recipe.updates} must be given: the probe has no epochs")

    @property
    def datasets(self) -> tuple[str, ...]:
        return (self.data.name,)

    def effort(self, device: str) -> float:
        return STEP["cpu" if device == "cpu" else "cuda"] * ((self.recipe.updates or 0) + self.trials / 2)

    def steps(self, device: torch.device) -> Generator[None, None, Outcome]:
        return on_stream(self._steps(device), device)

    def _steps(self, device: torch.device) -> Generator[None, None, Outcome]:
        recipe, updates = self.recipe, self.recipe.updates or 0
        with one_thread(device):
            splits = load(self.data, device)
            with seeded(self.seed, device):
                model = create_model(self.model).to(device)
            generator = torch.Generator().manual_seed(self.seed)
            batches = Batches(splits["train"], recipe.batch_size, updates, generator)
            trials = Batches(splits[self.split], recipe.batch_size, self.trials, generator)
            reach = coupling(model, batches[0][0])

            def loss(update: int) -> Tensor:
                images, label = batches[update]
                return F.cross_entropy(model(images)[:1], label)

            outcome = yield from descend(model, steps_down(model, loss, recipe, device), recipe, updates, device)
            others = reach[1:].max() / reach[0]
            outcome = replace(
                outcome,
                metrics=outcome.metrics | {"coupling": float(others)},
                curve=outcome.curve | {"coupling": (reach / reach[0]).tolist()},
            )
            if outcome.status != "ok":
                return outcome
            judged = {
                "accuracy": _accuracy(deepcopy(model).train(), trials),
                "eval_accuracy": _accuracy(model.eval(), trials),
            }
        return replace(outcome, metrics=outcome.metrics | judged)


class Batches:
    """`count` batches, drawn at once; a batch is the images ``(N, C, H, W)``, noise first, and the label."""

    def __init__(self, split: Split, size: int, count: int, generator: torch.Generator) -> None:
        device, labels = split.images.device, split.labels.cpu()
        self._images, self._count = split.images, count
        bits = torch.randint(2, (count,), generator=generator)
        self._noise = torch.randn((count, *split.images.shape[1:]), generator=generator).to(device)
        rows = torch.empty((count, size - 1), dtype=torch.int64)
        for bit in (0, 1):
            shown, here = (labels == bit).nonzero()[:, 0], bits == bit
            drawn = torch.randint(len(shown), (int(here.sum()), size - 1), generator=generator)
            rows[here] = shown[drawn]
        self._rows, self._bits = rows.to(device), bits.to(device)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self[i] for i in range(self._count))

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return torch.cat([self._noise[i : i + 1], self._images[self._rows[i]]]), self._bits[i : i + 1]


def coupling(model: nn.Module, images: Tensor) -> Tensor:
    """Largest derivative of the first image's output by each image of the batch, ``(N,)``, in training mode."""
    images = images.clone().requires_grad_()
    # On a copy: a forward pass in training mode moves running statistics.
    (gradient,) = torch.autograd.grad(deepcopy(model).train()(images)[0].square().sum(), images)
    return gradient.abs().amax((1, 2, 3))


@torch.no_grad()
def _accuracy(model: nn.Module, trials: Batches) -> float:
    right = [model(images)[0].argmax() == label[0] for images, label in trials]
    return float(torch.stack(right).float().mean())
