"""The loop of a training with any kind of update: schedule, losses, and the stop at the first loss not finite."""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from math import cos, isfinite, pi
from typing import Any

import torch
from torch import Tensor, nn

from experiments.sweep import Outcome
from experiments.tasks.clipping import clipping
from experiments.tasks.optimizers import optimizer, set_rate
from experiments.tasks.recipe import Recipe
from nfnets_lite.norm import progress_setter

CURVE_POINTS = 20
LAST = 10  # number of last updates whose mean loss is reported
LOOK_EVERY = 32  # updates between two looks at the loss, on devices on which reading it has to wait


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


def descend(
    model: nn.Module, step: Callable[[int, float], Tensor], recipe: Recipe, updates: int, device: torch.device
) -> Generator[None, None, Outcome]:
    """Call ``step(update, rate)``, which returns the loss, for every update, or until a loss is not finite.

    The outcome holds `updates`, `initial_loss`, `train_loss` (mean over the last updates) and the loss curve.
    """
    model.train()
    set_progress = progress_setter(model)  # once: walking through a deep network takes longer than replaying a step
    losses = torch.full((updates,), float("nan"), device=device)
    look_every = 1 if device.type == "cpu" else LOOK_EVERY
    for update in range(updates):
        set_progress(update / updates)
        losses[update] = step(update, rate_at(update, updates, recipe)).detach()
        # A NaN never goes away again, so it is enough to look now and then.
        if update % look_every == look_every - 1 and not bool(losses[update].isfinite()):
            losses = losses[: update + 1]
            break
        yield
    set_progress(1.0)
    found = losses.tolist()
    metrics: dict[str, float] = {"updates": updates, "initial_loss": found[0]}
    if not isfinite(found[-1]):
        at = next(i for i, loss in enumerate(found) if not isfinite(loss))
        reason = f"loss {found[at]} at update {at + 1} of {updates}"
        return Outcome("diverged", reason, {**metrics, "diverged_at": at + 1}, curve(found))
    last = found[-LAST:]
    return Outcome("ok", "", {**metrics, "train_loss": sum(last) / len(last)}, curve(found))


def steps_down(
    model: nn.Module, loss: Callable[[int], Tensor], recipe: Recipe, device: torch.device
) -> Callable[[int, float], Tensor]:
    """Return a step for any loss: backward pass, clipping and optimizer, executed eagerly."""
    update_weights = optimizer(model, recipe, device)
    clip = clipping(model, recipe.clip) if recipe.clip else None

    def step(update: int, rate: float) -> Tensor:
        set_rate(update_weights, rate)
        value = loss(update)
        value.backward()  # type: ignore[no-untyped-call]
        if clip is not None:
            clip()
        update_weights.step()
        update_weights.zero_grad()
        return value

    return step


def curve(losses: list[float]) -> dict[str, list[Any]]:
    """The loss at about twenty evenly spaced updates, each the mean since the one before; None for NaN, for JSON."""
    edges = sorted({round((i + 1) * len(losses) / CURVE_POINTS) for i in range(CURVE_POINTS)} - {0})
    means = [sum(losses[a:b]) / (b - a) for a, b in zip([0, *edges], edges)]
    return {"update": list(edges), "loss": [round(mean, 4) if isfinite(mean) else None for mean in means]}


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Use one thread on a CPU, so that a run's numbers do not depend on the number of cores, and runs share cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if device.type == "cpu" else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators inside the block, and restore their states afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
