"""Smoothness of the loss along the gradient in the course of a training, with or without noise after the norms."""

from collections.abc import Generator
from copy import deepcopy
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.sweep import Outcome, Run
from experiments.tasks.data import FULL, Split, load
from experiments.tasks.descent import descend, one_thread, seeded
from experiments.tasks.draws import batch, draw
from experiments.tasks.recipe import Data, Recipe
from experiments.tasks.step import How, Step
from experiments.tasks.training import update_time, updates_of
from nfnets_lite.models import create_model
from nfnets_lite.models.spec import ResNetSpec
from nfnets_lite.norm.batch import BatchNorm2d

STEPS = (0.5, 1.0, 2.0, 4.0)  # steps along the negative gradient, in multiples of the peak learning rate


@dataclass(frozen=True)
class Landscape(Run):
    """A training that is stopped at `points` updates to measure the loss along its gradient.

    At each point the loss and the gradient of the same batch are measured again after steps of half to four times the
    recipe's peak learning rate along the negative gradient (Santurkar et al., arXiv 1805.11604, section 3.2). `noisy`
    adds noise after every batch norm; its mean and scale are new for every update (section 2.1).
    """

    NUMERICS: ClassVar[int] = 1  # not raised yet

    model: ResNetSpec
    data: Data
    recipe: Recipe
    noisy: bool = False
    points: int = 20

    @property
    def datasets(self) -> tuple[str, ...]:
        return (self.data.name,)

    def effort(self, device: str) -> float:
        passes = updates_of(self.recipe, self.data.train or FULL[self.data.name]) + self.points * (1 + len(STEPS))
        # An update is never captured here, so on a GPU its time is that of launching kernels.
        slower = 1 if device == "cpu" else 8
        return slower * passes * update_time(self.model, self.data, self.recipe.batch_size, device)

    def steps(self, device: torch.device) -> Generator[None, None, Outcome]:
        with one_thread(device):
            split = load(self.data, device)["train"]
            with seeded(self.seed, device):
                model = create_model(self.model).to(device)
            if self.noisy:
                disturb(model, torch.Generator(device).manual_seed(self.seed))
            return (yield from self._train(model.train(), split))

    def _train(self, model: nn.Module, split: Split) -> Generator[None, None, Outcome]:
        recipe, device, classes = self.recipe, split.images.device, self.model.num_classes
        updates = updates_of(recipe, len(split))
        generator = torch.Generator().manual_seed(self.seed)
        drawn = draw(len(split), recipe.batch_size, updates, generator, recipe.augment, device)
        step = Step(model, recipe, split, classes, drawn, None, How())
        at = {round((i + 0.5) * updates / self.points) for i in range(self.points)}
        found = []

        def stepped(update: int, rate: float) -> Tensor:
            if update in at:
                images, labels = batch(split, drawn.at(update), recipe.augment, classes)
                found.append(along(deepcopy(model), images, labels, [recipe.lr * s for s in STEPS]))
            return step(update, rate)

        outcome = yield from descend(model, stepped, recipe, updates, device)
        if outcome.status != "ok":
            return outcome
        metrics, curves = _landscape(torch.stack(found).cpu())
        curves["probed"] = [float(u) for u in sorted(at)]
        return replace(outcome, metrics=outcome.metrics | metrics, curve=outcome.curve | curves)


def along(model: nn.Module, images: Tensor, labels: Tensor, rates: list[float]) -> Tensor:
    """Loss, norm of the gradient, and norm of its change, at the start and after each step: ``(1 + steps, 3)``.

    The model is left at the last step.
    """
    parameters: list[Tensor] = list(model.parameters())

    def look() -> tuple[Tensor, list[Tensor]]:
        loss = F.cross_entropy(model(images), labels)
        return loss.detach(), list(torch.autograd.grad(loss, parameters))

    loss, start = look()
    length = _norm(start)
    rows, gone = [torch.stack((loss, length, torch.zeros_like(length)))], 0.0
    for rate in rates:
        with torch.no_grad():
            torch._foreach_add_(parameters, start, alpha=gone - rate)
        gone = rate
        loss, now = look()
        rows.append(torch.stack((loss, _norm(now), _norm([a - b for a, b in zip(now, start)]))))
    return torch.stack(rows)


def _norm(tensors: list[Tensor]) -> Tensor:
    return torch.stack([t.square().sum() for t in tensors]).sum().sqrt()


def _landscape(found: Tensor) -> tuple[dict[str, float], dict[str, list[Any]]]:
    """Metrics and curves from ``(points, 1 + steps, 3)``."""
    loss, length, change = found[..., 0], found[:, 0, 1], found[:, 1:, 2]
    low, high = torch.quantile(change, torch.tensor([0.05, 0.95])).tolist()
    metrics = {
        "gradient_change_range": high - low,
        "relative_gradient_change": float((change / length[:, None]).median()),
        "loss_range": float((loss.amax(1) - loss.amin(1)).mean()),
    }
    shown = {"lowest": loss.amin(1), "highest": loss.amax(1), "gradient_change": change.amax(1)}
    return metrics, {name: [_plain(float(v)) for v in x] for name, x in shown.items()}


def _plain(value: float) -> float | None:
    return float(f"{value:.5g}") if isfinite(value) else None  # the loss after a step may not be finite


def disturb(model: nn.Module, generator: torch.Generator) -> None:
    """Add noise after every batch norm, as in the paper's appendix A.

    Every update and channel has a new mean in [-0.5, 0.5] and a new scale in [1, 1.25]; every image has a shift and a
    scale around them.
    """

    def noise(module: nn.Module, _inputs: object, out: Tensor) -> Tensor:
        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=out.device)

        n, channels = out.shape[:2]
        shift = uniform(1, channels) - 0.5 + 0.1 * (2 * uniform(n, channels) - 1)
        normal = torch.randn((n, channels), generator=generator, device=out.device)
        scale = 1 + 0.25 * uniform(1, channels) + 0.1 * normal
        return out * scale[:, :, None, None] + shift[:, :, None, None]

    for module in model.modules():
        if isinstance(module, BatchNorm2d):
            module.register_forward_hook(noise)
