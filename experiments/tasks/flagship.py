"""A training of the file that readers copy, `examples/cifar10.py`, judged after each epoch on images held out of it."""

from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import lru_cache
from math import isfinite
from typing import Any, ClassVar, Self

import torch
from torch import nn

from examples import cifar10
from experiments.sweep import Outcome, Run, Setting
from experiments.tasks.data import FULL, SIDE, Split, load
from experiments.tasks.descent import one_thread, seeded
from experiments.tasks.recipe import Data
from experiments.tasks.training import SEEN, SPEED
from nfnets_lite import adaptive_clip_grad_
from nfnets_lite.averaging import WeightAverage
from nfnets_lite.macs import count_macs

TINY = 1e-6  # a clipping threshold that every filter's gradient exceeds
OPTIMIZERS = ("sgd", "muon", "rows")


@dataclass(frozen=True)
class Flagship(Run):
    """One training by `examples.cifar10`, judged with averaged weights and mirrored images.

    A search tries values of ``recipe.lr``, or of ``recipe.filter_lr`` if convolutions have another optimizer. With
    ``"muon"`` their updates are orthogonal. ``"rows"``, which the file does not have, gives each filter an update in
    proportion to its norm: adaptive clipping does so if every gradient exceeds its threshold.

    Metrics beside those of `Training`: `operations`, two for each multiply-add and three passes for each image of each
    epoch. `clipped_fraction` is the mean over the last updates of the epochs.
    """

    NUMERICS: ClassVar[int] = 1

    data: Data
    recipe: cifar10.Recipe
    classes: int = 10

    def __post_init__(self) -> None:
        if self.recipe.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer={self.recipe.optimizer!r} is not known; use one of {', '.join(OPTIMIZERS)}")

    @property
    def datasets(self) -> tuple[str, ...]:
        return (self.data.name,)

    def effort(self, device: str) -> float:
        images = (self.data.train or FULL.get(self.data.name, 0)) or 1
        operations = 6 * _macs(self.recipe.width, SIDE.get(self.data.name, 32)) * images * self.recipe.epochs
        return operations / SPEED["cpu" if device == "cpu" else "cuda"][1]

    def at(self, setting: Setting) -> Self:
        recipe = self.recipe
        if setting.threshold is not None:
            recipe = replace(recipe, clip=setting.threshold)
        if recipe.optimizer == "sgd":
            return replace(self, recipe=replace(recipe, lr=setting.lr))
        return replace(self, recipe=replace(recipe, filter_lr=setting.lr))

    def for_epochs(self, epochs: float) -> Self:
        return replace(self, recipe=replace(self.recipe, epochs=round(epochs)))

    def steps(self, device: torch.device) -> Generator[None, None, Outcome]:
        yield  # only once: the file draws from torch's global generator, which it cannot share with another run
        with one_thread(device), seeded(self.seed, device):
            return self._trained(load(self.data, device))

    def _trained(self, splits: dict[str, Split]) -> Outcome:
        images, labels = splits["train"].images, splits["train"].labels
        net = cifar10.Net(images, self.recipe, self.classes)
        net.to(images.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # unknown to torch's types
        average = WeightAverage(net, self.recipe.average)

        def accuracy(split: Split) -> float:
            with average.applied():
                return cifar10.accuracy(net, split.images, split.labels)

        make = rows if self.recipe.optimizer == "rows" else cifar10.optimizers
        curve: dict[str, list[Any]] = {name: [] for name in ("epoch", "loss", "clipped", "accuracy")}
        updates = len(images) // self.recipe.batch_size
        for loss, clipped in cifar10.train(net, average, self.recipe, images, labels, make):
            epoch = len(curve["epoch"]) + 1
            if not isfinite(loss):
                reason = f"loss {loss} at the end of epoch {epoch} of {self.recipe.epochs}"
                return Outcome("diverged", reason, {"updates": epoch * updates}, curve)
            found = (epoch, round(loss, 4), round(clipped, 4), round(accuracy(splits["validation"]), 4))
            for name, value in zip(curve, found):
                curve[name].append(value)
        metrics = {
            "updates": float(self.recipe.epochs * updates),
            "operations": 6.0
            * _macs(self.recipe.width, images.shape[-1], images.shape[1])
            * self.recipe.epochs
            * len(images),
            "train_loss": curve["loss"][-1],
            "accuracy": accuracy(splits[self.split]),
            "train_accuracy": accuracy(splits["train"].first(SEEN)),
        }
        if self.recipe.clip:
            metrics["clipped_fraction"] = sum(curve["clipped"]) / len(curve["clipped"])
        return Outcome("ok", "", metrics, curve, "eager")


def rows(net: cifar10.Net, recipe: cifar10.Recipe) -> list[torch.optim.Optimizer]:
    """Optimizers: filter updates of `recipe.filter_lr` times the filter's norm (before momentum), SGD for the rest."""
    filters = cifar10.matrices(net)
    others = [p for p in net.parameters() if p.dim() != 4]
    scaled = torch.optim.SGD(filters, recipe.filter_lr / TINY, momentum=0.9, nesterov=True)
    scaled.register_step_pre_hook(lambda *_: _clip_all(filters))
    return [scaled, torch.optim.SGD(others, recipe.lr, momentum=0.9, nesterov=True)]


def _clip_all(filters: list[nn.Parameter]) -> None:
    adaptive_clip_grad_(filters, TINY)


@lru_cache(maxsize=64)
def _macs(width: tuple[int, ...], side: int, channels: int = 3) -> int:
    """Multiply-adds for one image, without those of the fixed filters, which have no backward pass."""
    net = cifar10.Net(torch.zeros(8, channels, 4, 4), cifar10.Recipe(width=width), classes=10)
    return count_macs(net, side, in_channels=channels)
