"""One training, plainly: model, batches, step, evaluation. Divergence is an outcome, not an error."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import cos, isfinite, pi
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.config import Recipe, Run
from experiments.data import Split, batches, load
from nfnets_lite.agc import AdaptiveClip
from nfnets_lite.models import create_model
from nfnets_lite.optim import param_groups

CURVE_POINTS = 20


@dataclass(frozen=True)
class Outcome:
    """What a training gave: status ``"ok"`` or ``"diverged"``, metrics of the judged split, and the loss curve."""

    status: str
    reason: str
    metrics: dict[str, float]
    curve: dict[str, list[float]] = field(default_factory=dict)


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
def _one_thread(device: torch.device) -> Iterator[None]:
    """One thread a run on a CPU: its numbers then do not depend on the number of cores, and runs share them well."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if device.type == "cpu" else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def train(run: Run, device: torch.device) -> Outcome:
    """Train one run to its end, or to the first loss that is not finite, and judge it on its split.

    Everything random comes from ``run.seed``: the start through torch's global generator (left as it was found), the
    order and augmentation through a generator of their own, so that methods are paired by seed.
    """
    recipe, splits = run.recipe, load(run.data, device)
    updates = max(1, round(recipe.epochs * len(splits["train"]) / recipe.batch_size))
    with _one_thread(device), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(run.seed)
        model = create_model(run.model).to(device)
        if device.type == "cuda":
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        losses, clipped = _fit(model, run, splits["train"], updates)
        last = losses[-1]
        if not isfinite(last):
            at = next(i for i, loss in enumerate(losses) if not isfinite(loss))
            reason = f"loss {last} at update {at + 1} of {updates}"
            return Outcome("diverged", reason, {"updates": updates, "diverged_at": at + 1}, _curve(losses))
        metrics = evaluate(model, splits[run.split], recipe.autocast)
    metrics |= {"updates": updates, "train_loss": sum(losses[-10:]) / len(losses[-10:])}
    if recipe.clip_factor is not None:
        metrics["clipped_fraction"] = clipped
    if not isfinite(metrics["loss"]):
        return Outcome("diverged", f"loss {metrics['loss']} on the {run.split} images", metrics, _curve(losses))
    return Outcome("ok", "", metrics, _curve(losses))


def _fit(model: nn.Module, run: Run, data: Split, updates: int) -> tuple[list[float], float]:
    recipe, device = run.recipe, data.images.device
    optimizer = torch.optim.SGD(
        param_groups(model, recipe.weight_decay), lr=recipe.lr, momentum=recipe.momentum, nesterov=True, fused=True
    )
    clip = None if recipe.clip_factor is None else AdaptiveClip(model, recipe.clip_factor)
    generator = torch.Generator().manual_seed(run.seed)
    losses: list[Tensor] = []
    clipped: list[Tensor] = []
    model.train()
    for step, batch in enumerate(batches(data, recipe.batch_size, updates, generator, run.data.augment)):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, updates, recipe)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.autocast):
            loss = F.cross_entropy(model(batch.images), batch.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        if clip is not None:
            clipped.append(clip())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        # Reading a loss waits for the device, so it is done now and then; a NaN never goes away again.
        if step % 32 == 31 and not bool(loss.isfinite()):
            break
    fraction = float(torch.stack(clipped).mean()) if clipped else 0.0
    return torch.stack(losses).tolist(), fraction


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


def _curve(losses: list[float]) -> dict[str, list[Any]]:
    """The loss at some twenty evenly spaced updates, each the mean since the one before; JSON has no NaN: None."""
    edges = sorted({round((i + 1) * len(losses) / CURVE_POINTS) for i in range(CURVE_POINTS)} - {0})
    means = [sum(losses[a:b]) / (b - a) for a, b in zip([0, *edges], edges)]
    return {"update": list(edges), "loss": [round(mean, 4) if isfinite(mean) else None for mean in means]}
