"""Contrastive training on two views of each image: a loss over the whole batch, which can be solved by cheating.

Axes: P pairs of a batch, N = 2 P images, C channels, H W space, D of an embedding, F of a feature.
"""

from collections.abc import Generator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.sweep import Outcome, Run
from experiments.tasks.data import Split, load
from experiments.tasks.descent import descend, one_thread, seeded, steps_down
from experiments.tasks.draws import crop_and_flip
from experiments.tasks.recipe import Data, Recipe
from experiments.tasks.step import on_stream
from experiments.tasks.training import update_time
from nfnets_lite.models import ResNetSpec, create_model

LAYOUTS = ("pairs", "shuffled")
JUDGED = 20  # batches
RIDGE = 1e-2  # ridge of the linear probe, for each image
CHUNK = 500  # images of a forward pass for the probe


@dataclass(frozen=True)
class Contrastive(Run):
    """Train embeddings so that an image's second view is the nearest among all second views of the batch.

    `recipe.batch_size` counts pairs. `layout` ``"pairs"`` puts the views of an image next to each other, so that norms
    over parts of a batch see both; ``"shuffled"`` passes the second views in another order, drawn anew for each batch.
    `jitter` says how much the views differ. `model.num_classes` is the width of the embedding.

    Metrics: `train_accuracy` and `eval_accuracy`, the share of test images whose other view is the nearest of the
    batch, in training and evaluation mode on the same views; `probe_accuracy`, of a linear classifier (ridge
    regression) on the features in front of the embedding.
    """

    NUMERICS: ClassVar[int] = 1  # not raised yet

    model: ResNetSpec
    data: Data
    recipe: Recipe
    layout: str = "pairs"
    temperature: float = 0.5
    jitter: float = 1.0

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout={self.layout!r} is not known; use one of {', '.join(LAYOUTS)}")
        if not self.recipe.updates:
            raise ValueError(f"recipe.updates={self.recipe.updates} must be given: this kind of run has no epochs")

    @property
    def datasets(self) -> tuple[str, ...]:
        return (self.data.name,)

    def effort(self, device: str) -> float:
        # Norms over parts of a batch launch many small kernels, and nothing is captured.
        each = update_time(self.model, self.data, 2 * self.recipe.batch_size, device)
        return (self.recipe.updates or 0) * (each + (0.003 if device == "cpu" else 0.01))

    def steps(self, device: torch.device) -> Generator[None, None, Outcome]:
        return on_stream(self._steps(device), device)

    def _steps(self, device: torch.device) -> Generator[None, None, Outcome]:
        recipe, updates = self.recipe, self.recipe.updates or 0
        with one_thread(device):
            splits = load(self.data, device)
            with seeded(self.seed, device):
                model = create_model(self.model).to(device)
            generator = torch.Generator(device).manual_seed(self.seed)

            def loss(_update: int) -> Tensor:
                likeness = self._likeness(model, splits["train"], generator) / self.temperature
                return (F.cross_entropy(likeness, _own(likeness)) + F.cross_entropy(likeness.T, _own(likeness))) / 2

            outcome = yield from descend(model, steps_down(model, loss, recipe, device), recipe, updates, device)
            if outcome.status != "ok":
                return outcome
            judged = {
                "train_accuracy": self._matched(deepcopy(model).train(), splits[self.split]),
                "eval_accuracy": self._matched(model.eval(), splits[self.split]),
                "probe_accuracy": probe(model, splits["train"], splits[self.split], self.data.classes or 10),
            }
        return replace(outcome, metrics=outcome.metrics | judged)

    def _likeness(self, model: nn.Module, split: Split, generator: torch.Generator) -> Tensor:
        """Cosine between every first and every second view of a new batch, ``(P, P)``."""
        pairs, device = self.recipe.batch_size, split.images.device
        rows = torch.randperm(len(split), generator=generator, device=device)[:pairs]
        first, second = (view(split.images[rows], self.jitter, generator) for _ in range(2))
        if self.layout == "pairs":
            both = model(torch.stack((first, second), 1).flatten(0, 1)).unflatten(0, (pairs, 2))
            a, b = both[:, 0], both[:, 1]
        else:
            order = torch.randperm(pairs, generator=generator, device=device)
            a, b = model(torch.cat((first, second[order]))).chunk(2)
            b = b[order.argsort()]
        return F.normalize(a, dim=1) @ F.normalize(b, dim=1).T

    @torch.no_grad()
    def _matched(self, model: nn.Module, split: Split) -> float:
        """Share of views whose nearest view is the other one of their image; both modes judge the same views."""
        generator = torch.Generator(split.images.device).manual_seed(self.seed + 1)
        right = []
        for _ in range(JUDGED):
            likeness = self._likeness(model, split, generator)
            right += [likeness.argmax(1) == _own(likeness), likeness.argmax(0) == _own(likeness)]
        return float(torch.cat(right).float().mean())


def _own(likeness: Tensor) -> Tensor:
    return torch.arange(len(likeness), device=likeness.device)


def view(x: Tensor, jitter: float, generator: torch.Generator) -> Tensor:
    """A random view of each image: moved by up to an eighth of its side, channels scaled and shifted, noise added."""
    n, channels, side, _ = x.shape

    def uniform(*shape: int) -> Tensor:
        return jitter * (torch.rand(shape, generator=generator, device=x.device) - 0.5)

    reach = max(1, min(4, side // 8))
    shift = torch.randint(0, 2 * reach + 1, (n, 2), generator=generator, device=x.device)
    moved = crop_and_flip(x, shift, torch.zeros(n, dtype=torch.bool, device=x.device), reach)
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    return moved * (1 + uniform(n, channels, 1, 1)) + uniform(n, channels, 1, 1) + 0.5 * jitter * noise


@torch.no_grad()
def probe(model: nn.Module, train: Split, test: Split, classes: int) -> float:
    """Test accuracy of ridge regression onto the classes, from the classifier's input in evaluation mode."""
    body = deepcopy(model).eval()
    body.classifier = nn.Identity()

    def features(split: Split) -> Tensor:
        return torch.cat([body(part) for part in torch.split(split.images, CHUNK)]).double()

    x = features(train)
    std, mean = torch.std_mean(x, 0)

    def standardised(x: Tensor) -> Tensor:
        x = (x - mean) / std.clamp(min=1e-6)
        return torch.cat([x, torch.ones_like(x[:, :1])], 1)

    x = standardised(x)
    ridge = RIDGE * len(x) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weight = torch.linalg.solve(x.T @ x + ridge, x.T @ F.one_hot(train.labels, classes).to(x.dtype))
    return float(((standardised(features(test)) @ weight).argmax(1) == test.labels).double().mean())
