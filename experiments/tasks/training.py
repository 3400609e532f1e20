"""One training, plainly: model, batches, step, evaluation. Divergence is an outcome, not an error."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from math import cos, isfinite, pi
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.config import Outcome, Run, drain
from experiments.tasks.data import Split, load
from experiments.tasks.draws import Draws, draw
from experiments.tasks.recipe import Data, Recipe
from experiments.tasks.step import How, Step, on_stream
from nfnets_lite.averaging import WeightAverage
from nfnets_lite.macs import count_macs
from nfnets_lite.models import Spec, create_model
from nfnets_lite.norm import set_progress

CURVE_POINTS = 20
# Seconds an update, and operations a second, of networks as small as these: one CPU thread; a large GPU with the step
# captured (assumed from published rates of such networks, until there are records).
SPEED = {"cpu": (5e-3, 4.5e10), "cuda": (5e-4, 1.5e13)}
SIDE = {"digits": 8, "cifar10": 32, "fashion_mnist": 28, "imagenet": 224}  # pixels
FULL = {"digits": 1437, "cifar10": 50_000, "fashion_mnist": 60_000, "imagenet": 1_281_167}  # training images
LOOK_EVERY = 32  # updates
OTHER = 1_000_003  # from a seed to that of the batches that SAM may climb on instead (the generator takes 32 bits)
SEEN = 2000  # training images whose accuracy is taken at the end


@dataclass(frozen=True)
class Training(Run):
    """One training of a model on data by a recipe, judged on its split."""

    model: Spec
    data: Data
    recipe: Recipe

    @property
    def datasets(self) -> tuple[str, ...]:
        return (self.data.name,)

    def effort(self, device: str) -> float:
        step, per_second = SPEED["cpu" if device == "cpu" else "cuda"]
        recipe = self.recipe
        images = (self.data.train or FULL.get(self.data.name, 0)) or 1
        updates = updates_of(recipe, images)
        passes = 6 * (1 + (recipe.sam.share if recipe.sam else 0))  # two for the forward pass, four for the backward
        macs = _macs(self.model, SIDE.get(self.data.name, 32) // self.data.pool)
        return updates * (step + passes * macs * recipe.batch_size / per_second)

    def at_rate(self, rate: float) -> Self:
        return replace(self, recipe=replace(self.recipe, lr=rate))

    def steps(self, device: torch.device) -> Generator[None, None, Outcome]:
        return on_stream(train(self, device), device)


@lru_cache(maxsize=512)
def _macs(spec: Spec, side: int) -> int:
    return count_macs(spec, side)


def updates_of(recipe: Recipe, images: int) -> int:
    """Updates of a training on so many images."""
    return recipe.updates or max(1, round(recipe.epochs * images / recipe.batch_size))


def rate_at(step: int, updates: int, recipe: Recipe) -> float:
    """Learning rate of one update: linear warm-up, never from zero, then a half cosine to zero.

    Examples
    --------
    >>> recipe = Recipe(batch_size=8, epochs=1, lr=1.0, warmup=0.2)
    >>> [round(rate_at(step, 10, recipe), 3) for step in (0, 1, 2, 6)]
    [0.5, 1.0, 1.0, 0.5]
    """
    warmup = int(recipe.warmup * updates)
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    return recipe.lr * 0.5 * (1 + cos(pi * (step - warmup) / (updates - warmup)))


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """One thread a run on a CPU: its numbers then do not depend on the number of cores, and runs share them well."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if device.type == "cpu" else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's global generators start from the seed inside the block, and are left as they were found."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def train(run: Training, device: torch.device, how: How | None = None) -> Generator[None, None, Outcome]:
    """Train one run to its end, or to the first loss that is not finite, and judge it on its split.

    Everything random comes from ``run.seed``: the start through torch's global generator, the order and augmentation
    through a generator of their own, so that methods are paired by seed.
    """
    with one_thread(device):
        splits = load(run.data, device)
        with seeded(run.seed, device):
            model = create_model(run.model).to(device)
        outcome = yield from fit(model, run, splits, how or How.on(device))
    return outcome


def fit(model: nn.Module, run: Training, splits: dict[str, Split], how: How) -> Generator[None, None, Outcome]:
    """Train a model by the run's recipe and judge it; the model is left as trained."""
    recipe, split = run.recipe, splits["train"]
    device = split.images.device
    updates = updates_of(recipe, len(split))
    # What draws from torch's own generator within a step cannot share it with another run's: it is not paused.
    random = any(getattr(m, "rate", 0) or getattr(m, "p", 0) for m in model.modules())
    if random:
        with seeded(run.seed, device):
            losses, clipped, average = drain(_optimize(model, run, split, updates, how))
    else:
        losses, clipped, average = yield from _optimize(model, run, split, updates, how)
    metrics: dict[str, float] = {"updates": updates, "initial_loss": losses[0]}
    if not isfinite(losses[-1]):
        at = next(i for i, loss in enumerate(losses) if not isfinite(loss))
        reason = f"loss {losses[-1]} at update {at + 1} of {updates}"
        return Outcome("diverged", reason, {**metrics, "diverged_at": at + 1}, curve(losses))
    with average.applied() if average else nullcontext():
        metrics |= evaluate(model, splits[run.split], recipe.autocast)
        metrics["train_accuracy"] = evaluate(model, split.first(SEEN), recipe.autocast)["accuracy"]
    metrics["train_loss"] = sum(losses[-10:]) / len(losses[-10:])
    if recipe.clip is not None:
        metrics["clipped_fraction"] = clipped
    if not isfinite(metrics["loss"]):
        return Outcome("diverged", f"loss {metrics['loss']} on the {run.split} images", metrics, curve(losses))
    return Outcome("ok", "", metrics, curve(losses))


def _optimize(
    model: nn.Module, run: Training, split: Split, updates: int, how: How
) -> Generator[None, None, tuple[list[float], float, WeightAverage | None]]:
    recipe, device = run.recipe, split.images.device

    def drawn(seed: int) -> Draws:
        generator = torch.Generator().manual_seed(seed)
        return draw(len(split), recipe.batch_size, updates, generator, recipe.augment, device)

    other = drawn(run.seed + OTHER) if recipe.sam and recipe.sam.other_batch else None
    model.train()
    step = Step(model, recipe, split, run.model.num_classes, drawn(run.seed), other, how)
    average = WeightAverage(model, recipe.ema) if recipe.ema else None
    losses = torch.full((updates,), float("nan"), device=device)
    for update in range(updates):
        set_progress(model, update / updates)
        losses[update] = step(update, rate_at(update, updates, recipe))
        if average is not None:
            average.update()
        # Reading a loss waits for the device, so it is done now and then; a NaN never goes away again.
        if update % LOOK_EVERY == LOOK_EVERY - 1 and not bool(losses[update].isfinite()):
            losses = losses[: update + 1]
            break
        yield
    set_progress(model, 1.0)
    return losses.tolist(), step.clipped_fraction(), average


@torch.no_grad()
def evaluate(model: nn.Module, data: Split, autocast: bool = False, chunk: int = 1000) -> dict[str, float]:
    """Accuracy (in [0, 1]) and mean cross entropy (nats) over a split, in evaluation mode."""
    model.eval()
    correct, loss = 0, 0.0
    for start in range(0, len(data), chunk):
        images, labels = data.images[start : start + chunk], data.labels[start : start + chunk]
        with torch.autocast(images.device.type, torch.bfloat16, enabled=autocast):
            logits: Tensor = model(images)
        correct += int((logits.argmax(1) == labels).sum())
        loss += float(F.cross_entropy(logits.float(), labels, reduction="sum"))
    return {"accuracy": correct / len(data), "loss": loss / len(data)}


def curve(losses: list[float]) -> dict[str, list[Any]]:
    """The loss at some twenty evenly spaced updates, each the mean since the one before; JSON has no NaN: None."""
    edges = sorted({round((i + 1) * len(losses) / CURVE_POINTS) for i in range(CURVE_POINTS)} - {0})
    means = [sum(losses[a:b]) / (b - a) for a, b in zip([0, *edges], edges)]
    return {"update": list(edges), "loss": [round(mean, 4) if isfinite(mean) else None for mean in means]}
