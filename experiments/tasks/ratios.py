"""The ratio that adaptive clipping bounds: each unit's gradient norm over its weight norm, at every update."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from experiments.sweep import Outcome
from experiments.tasks.data import Split, load
from experiments.tasks.descent import descend, one_thread, seeded
from experiments.tasks.draws import Draws, draw
from experiments.tasks.step import How, Step, on_stream
from experiments.tasks.training import Training, evaluate, updates_of
from nfnets_lite.agc import unitwise_norm
from nfnets_lite.models import create_model
from nfnets_lite.roles import Role, parameter_roles

EPS = 1e-3  # lower bound of a unit's weight norm, as in clipping
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
# A gain or bias vector, and a scalar, is one unit as a whole.
KINDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"weights": ("weight",), "vectors": ("gain", "bias"), "classifier": ("classifier",)}
)
POINTS = 40  # most points of a curve


@dataclass(frozen=True)
class Ratios(Training):
    """A training that also measures the ratio of every unit at every update, before any clipping.

    Metrics: those of a training, and ``above_<factor>``: the share of units and updates whose ratio is above a
    threshold, without the classifier's weight. Curves: ``at`` lists up to `POINTS` updates, and ``<kind>_<level>`` has
    the quantiles `LEVELS` over the units of a kind of `KINDS` at these updates; None where one is not finite.
    """

    NUMERICS: ClassVar[int] = 2  # channels last on a CPU, and fewer factors in weights

    thresholds: tuple[float, ...] = (0.01, 0.04, 0.16)

    def effort(self, device: str) -> float:
        # The step is eager and has a few more operations for each parameter.
        return super().effort(device) + updates_of(self.recipe, self.data.train or 1) * (
            4e-3 if device == "cpu" else 1e-2
        )

    def steps(self, device: torch.device) -> Generator[None, None, Outcome]:
        return on_stream(_watched(self, device), device)


class Watch:
    """A function that returns the ratios of a model's units by kind; call it after a backward pass.

    Examples
    --------
    >>> net = nn.Linear(2, 3)
    >>> net(torch.ones(1, 2)).sum().backward()
    >>> [len(ratios) for ratios in Watch(net, classifier=None)().values()]
    [3, 1, 0]
    """

    def __init__(self, model: nn.Module, **options: Any) -> None:
        roles = parameter_roles(model, **options).values()
        self._none = next(model.parameters()).new_empty(0)
        self._of: dict[str, list[tuple[Tensor, Role]]] = {
            kind: [(p, role) for p, role in roles if role.kind in names] for kind, names in KINDS.items()
        }

    @torch.no_grad()
    def __call__(self) -> dict[str, Tensor]:
        return {
            kind: torch.cat([ratio(p, role) for p, role in found if p.grad is not None] or [self._none])
            for kind, found in self._of.items()
        }


def ratio(parameter: Tensor, role: Role) -> Tensor:
    """Gradient norm over weight norm of each unit of a parameter, ``(units,)``; the parameter must have a gradient."""
    assert parameter.grad is not None
    weight = unitwise_norm(parameter, role.unit_dim, role.groups).clamp(min=EPS)
    return (unitwise_norm(parameter.grad, role.unit_dim, role.groups) / weight).flatten()


class WatchedStep(Step):
    """A step that records, before it clips, quantiles of the ratios and the share above each threshold."""

    def __init__(self, model: nn.Module, run: Ratios, split: Split, drawn: Draws, updates: int, how: How) -> None:
        super().__init__(model, run.recipe, split, run.model.num_classes, drawn, None, how)
        device, self._watch, self._inner, self._at = split.images.device, Watch(model), self._clip, 0
        self._thresholds = torch.tensor(run.thresholds, device=device)
        self._levels = torch.tensor(LEVELS, device=device)
        self.quantiles = torch.full((updates, len(KINDS), len(LEVELS)), float("nan"), device=device)
        self.above = torch.zeros(updates, len(run.thresholds), device=device)
        self._clip = self._note

    def _note(self) -> Tensor:
        found = self._watch()
        for place, ratios in enumerate(found.values()):
            if len(ratios):
                self.quantiles[self._at, place] = ratios.quantile(self._levels)
        body = torch.cat([found["weights"], found["vectors"]])
        self.above[self._at] = (body > self._thresholds[:, None]).float().mean(1)
        self._at += 1
        return self._inner() if self._inner else torch.zeros_like(self._clipped)


def _watched(run: Ratios, device: torch.device) -> Generator[None, None, Outcome]:
    recipe = run.recipe
    with one_thread(device):
        splits = load(run.data, device)
        split, updates = splits["train"], updates_of(recipe, len(splits["train"]))
        with seeded(run.seed, device):
            model = create_model(run.model).to(device)
        generator = torch.Generator().manual_seed(run.seed)
        drawn = draw(len(split), recipe.batch_size, updates, generator, recipe.augment, device)
        # A step that writes to a new place at each update cannot be captured.
        step = WatchedStep(model, run, split, drawn, updates, replace(How.on(device), graph=False))
        outcome = yield from descend(model, step, recipe, updates, device)
        finite = int(outcome.metrics.get("diverged_at", updates + 1)) - 1  # updates before the loss was not finite
        shares = step.above[: max(1, finite)].mean(0).tolist()
        metrics = outcome.metrics | {f"above_{t:g}": share for t, share in zip(run.thresholds, shares)}
        outcome = replace(outcome, metrics=metrics, curve=outcome.curve | _curve(step.quantiles))
        if outcome.status != "ok":
            return outcome
        if recipe.clip is not None:
            metrics["clipped_fraction"] = step.clipped_fraction()
        metrics |= evaluate(model, splits[run.split], recipe.autocast)
    if not isfinite(metrics["loss"]):
        outcome = replace(outcome, status="diverged", reason=f"loss {metrics['loss']} on the {run.split} images")
    return replace(outcome, metrics=metrics)


def _curve(quantiles: Tensor) -> dict[str, list[Any]]:
    """Quantiles at evenly spaced updates, without a mean over updates: a ratio varies less than a batch's loss."""
    updates = len(quantiles)
    at = sorted({round(i * (updates - 1) / (POINTS - 1)) for i in range(POINTS)})
    found: dict[str, list[Any]] = {"at": [i + 1 for i in at]}
    for place, kind in enumerate(KINDS):
        for level, column in zip(LEVELS, quantiles[at, place].T):
            found[f"{kind}_{level:g}"] = _plain(column)
    return found


def _plain(values: Tensor) -> list[float | None]:
    return [float(f"{value:.4g}") if isfinite(value) else None for value in values.tolist()]
