"""The loop of a training whose step is not the usual one: schedule, losses, and where it stops."""

from collections.abc import Callable, Generator
from math import isfinite

import torch
from torch import Tensor, nn

from experiments.config import Outcome
from experiments.tasks.recipe import Recipe
from experiments.tasks.training import LOOK_EVERY, curve, rate_at
from nfnets_lite.norm import set_progress

LAST = 10  # updates whose mean loss is reported


def descend(
    model: nn.Module, step: Callable[[int, float], Tensor], recipe: Recipe, updates: int, device: torch.device
) -> Generator[None, None, Outcome]:
    """Call ``step(update, rate)``, which returns its loss, to the end, or until a loss is not finite.

    The outcome holds `updates`, `initial_loss`, `train_loss` (mean of the last ones) and the loss curve.
    """
    model.train()
    losses = torch.full((updates,), float("nan"), device=device)
    for update in range(updates):
        set_progress(model, update / updates)
        losses[update] = step(update, rate_at(update, updates, recipe)).detach()
        # Reading a loss waits for the device, so it is done now and then; a NaN never goes away again.
        if update % LOOK_EVERY == LOOK_EVERY - 1 and not bool(losses[update].isfinite()):
            losses = losses[: update + 1]
            break
        yield
    found = losses.tolist()
    metrics = {"updates": float(updates), "initial_loss": found[0]}
    if not isfinite(found[-1]):
        at = next(i for i, loss in enumerate(found) if not isfinite(loss)) + 1
        reason = f"loss {found[-1]} at update {at} of {updates}"
        return Outcome("diverged", reason, {**metrics, "diverged_at": at}, curve(found))
    last = found[-LAST:]
    return Outcome("ok", "", {**metrics, "train_loss": sum(last) / len(last)}, curve(found))
