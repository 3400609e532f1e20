"""One training: model, batches, step and evaluation."""

from collections.abc import Generator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from math import isfinite
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.sweep import Outcome, Run, Setting, drain
from experiments.tasks.data import FULL, SIDE, Split, load
from experiments.tasks.descent import descend, one_thread, seeded
from experiments.tasks.draws import Draws, draw
from experiments.tasks.recipe import Data, Recipe
from experiments.tasks.step import How, Step, draws_random_numbers, on_stream
from nfnets_lite.averaging import WeightAverage
from nfnets_lite.macs import count_macs
from nfnets_lite.models import Spec, create_model

# Seconds that each layer adds to an update, and operations per second, for small networks: on one CPU thread, and on a
# large GPU with a captured step (assumed from published speeds until there are records).
SPEED = {"cpu": (5e-4, 4.5e10), "cuda": (5e-5, 8e13)}
OTHER = 1_000_003  # added to a seed for the other batches of SAM's ascent (a generator takes 32 bits)
SEEN = 2000  # number of training images whose accuracy is measured at the end
EVALUATED = 1000  # images of a forward pass in an evaluation


@dataclass(frozen=True)
class Training(Run):
    """One training of a model on data by a recipe, judged on the images of `split`."""

    NUMERICS: ClassVar[int] = 2  # channels last on a CPU, and fewer factors in weights

    model: Spec
    data: Data
    recipe: Recipe

    @property
    def datasets(self) -> tuple[str, ...]:
        return (self.data.name,)

    def effort(self, device: str) -> float:
        recipe = self.recipe
        images = (self.data.train or FULL.get(self.data.name, 0)) or 1
        passes = 1 + (recipe.sam.share if recipe.sam else 0)
        return passes * updates_of(recipe, images) * update_time(self.model, self.data, recipe.batch_size, device)

    def at(self, setting: Setting) -> Self:
        clip = self.recipe.clip
        if setting.threshold is not None:
            if clip is None:
                raise ValueError(f"threshold={setting.threshold}, but {self.method!r} does not clip; use None")
            clip = replace(clip, factor=setting.threshold)
        return replace(self, recipe=replace(self.recipe, lr=setting.lr, clip=clip))

    def for_epochs(self, epochs: float) -> Self:
        return replace(self, recipe=replace(self.recipe, epochs=epochs, updates=None))

    def network(self, splits: Mapping[str, Split]) -> nn.Module:
        """The network to train, newly initialised, on the device of the images."""
        return create_model(self.model).to(splits["train"].images.device)

    def steps(self, device: torch.device) -> Generator[None, None, Outcome]:
        return on_stream(train(self, device), device)


def update_time(spec: Spec, data: Data, images: int, device: str, backward: bool = True) -> float:
    """Seconds of an update on `images` images, by arithmetic; without `backward`, of a forward pass."""
    per_layer, per_second = SPEED["cpu" if device == "cpu" else "cuda"]
    layers, macs = _size(spec, SIDE.get(data.name, 32) // data.pool)
    return layers * per_layer + (6 if backward else 2) * macs * images / per_second


@lru_cache(maxsize=512)
def _size(spec: Spec, side: int) -> tuple[int, int]:
    """Number of layers, and of multiply-adds for one image."""
    with torch.device("meta"):
        layers = sum(p.dim() > 1 for p in create_model(spec).parameters())
    return layers, count_macs(spec, side)


def updates_of(recipe: Recipe, images: int) -> int:
    """Number of updates of a training on `images` images."""
    return recipe.updates or max(1, round(recipe.epochs * images / recipe.batch_size))


def train(run: Training, device: torch.device, how: How | None = None) -> Generator[None, None, Outcome]:
    """Train one run to its end, or to the first loss that is not finite, and judge it on its split.

    All random numbers come from ``run.seed``: the initial weights from torch's global generator, order and augmentation
    of the images from another generator, so that methods are paired by seed.
    """
    with one_thread(device):
        splits = load(run.data, device)
        with seeded(run.seed, device):
            model = run.network(splits)
        outcome = yield from fit(model, run, splits, how or How.on(device))
    return outcome


def fit(model: nn.Module, run: Training, splits: dict[str, Split], how: How) -> Generator[None, None, Outcome]:
    """Train a model in place by the run's recipe, and judge it."""
    recipe, split = run.recipe, splits["train"]
    device = split.images.device
    updates = updates_of(recipe, len(split))

    def drawn(seed: int) -> Draws:
        generator = torch.Generator().manual_seed(seed)
        return draw(len(split), recipe.batch_size, updates, generator, recipe.augment, device)

    other = drawn(run.seed + OTHER) if recipe.sam and recipe.sam.other_batch else None
    step = Step(model, recipe, split, run.model.num_classes, drawn(run.seed), other, how)
    average = WeightAverage(model, recipe.ema) if recipe.ema else None

    def stepped(update: int, rate: float) -> Tensor:
        loss = step(update, rate)
        if average is not None:
            average.update()
        return loss

    training = descend(model, stepped, recipe, updates, device)
    # A network that draws from torch's global generator within a step cannot share it with other runs: no pauses.
    if draws_random_numbers(model):
        with seeded(run.seed, device):
            outcome = drain(training)
    else:
        outcome = yield from training
    outcome = replace(outcome, executed=step.executed)
    if outcome.status != "ok":
        return outcome
    metrics = dict(outcome.metrics)
    if recipe.clip is not None:
        metrics["clipped_fraction"] = step.clipped_fraction()
    with average.applied() if average else nullcontext():
        metrics |= evaluate(model, splits[run.split], recipe.autocast)
        metrics["train_accuracy"] = evaluate(model, split.first(SEEN), recipe.autocast)["accuracy"]
    if not isfinite(metrics["loss"]):
        return replace(
            outcome, status="diverged", reason=f"loss {metrics['loss']} on the {run.split} images", metrics=metrics
        )
    return replace(outcome, metrics=metrics)


@torch.no_grad()
def evaluate(model: nn.Module, data: Split, autocast: bool = False, chunk: int = EVALUATED) -> dict[str, float]:
    """Accuracy (in [0, 1]) and mean cross entropy (nats) over a split, in evaluation mode."""
    model.eval()
    correct, loss = 0, 0.0
    for start in range(0, len(data), chunk):
        images, labels = data.images[start : start + chunk], data.labels[start : start + chunk]
        with torch.autocast(images.device.type, torch.bfloat16, enabled=autocast):
            logits: Tensor = model(data.seen(images))
        correct += int((logits.argmax(1) == labels).sum())
        loss += float(F.cross_entropy(logits.float(), labels, reduction="sum"))
    return {"accuracy": correct / len(data), "loss": loss / len(data)}
