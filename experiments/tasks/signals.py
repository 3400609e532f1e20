"""Signal propagation at initialisation: moments after every block, measured and predicted."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from math import exp, isfinite, log
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from experiments.sweep import Outcome, Run
from experiments.tasks.data import SIDE, load
from experiments.tasks.descent import one_thread, seeded
from experiments.tasks.mean_field import Moments, predict
from experiments.tasks.recipe import Data
from experiments.tasks.signal_changes import CHANGES, blocks
from nfnets_lite.macs import count_macs
from nfnets_lite.models.resnet import ResNet
from nfnets_lite.models.spec import ResNetSpec
from nfnets_lite.signal import Signal, signal_propagation

Curve = dict[str, list[float | None]]
_macs = lru_cache(maxsize=512)(count_macs)


@dataclass(frozen=True)
class Signals(Run):
    """Moments of one network before training, in training mode, over one batch.

    Attributes
    ----------
    model : ResNetSpec
    data : Data or None
        Data set whose training images are used; None: unit normal noise.
    batch, side : int
        Number of examples, and side of the noise in pixels (0 for images, which have their own side).
    change : str
        A key of `CHANGES`; ``"evaluation"`` measures in evaluation mode.
    """

    NUMERICS: ClassVar[int] = 1  # not raised yet

    model: ResNetSpec
    data: Data | None
    batch: int
    side: int
    change: str = ""

    def __post_init__(self) -> None:
        if self.change not in CHANGES:
            raise ValueError(f"change={self.change!r} is not known; use one of {', '.join(map(repr, CHANGES))}")

    @property
    def datasets(self) -> tuple[str, ...]:
        return () if self.data is None else (self.data.name,)

    def effort(self, device: str) -> float:
        side = self.side or SIDE[self.data.name] // self.data.pool if self.data else self.side
        macs = _macs(self.model.with_method("none"), side)  # norms have no multiply-adds: methods share the count
        return 0.02 + macs * self.batch / (2e10 if device == "cpu" else 2e12)

    def steps(self, device: torch.device) -> Generator[None, None, Outcome]:
        with one_thread(device):
            with seeded(self.seed, device):
                model = ResNet(self.model).to(device)
            CHANGES[self.change](model)
            outcome = _outcome(model.train(self.change != "evaluation"), self._images(device))
        yield
        return outcome

    def _images(self, device: torch.device) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)  # on the CPU: the same batch on every device
        if self.data is None:
            shape = (self.batch, self.model.in_channels, self.side, self.side)
            return torch.randn(shape, generator=generator).to(device)
        images = load(self.data, device)["train"].images
        return images[torch.randperm(len(images), generator=generator)[: self.batch].to(device)]


def _outcome(model: ResNet, x: Tensor) -> Outcome:
    activated, side = _watch_activated(model)
    signals = signal_propagation(model, x)
    curve: Curve = {
        "variance": [s.var for s in signals],
        "sq_mean": [s.sq_mean for s in signals],
        "branch_variance": [s.branch_var for s in signals[1:]],
        "recursion": [s.predicted * (signals[0].var + signals[0].sq_mean) for s in signals],
        "activated_variance": [float(var) for var, _ in activated],
        "activated_sq_mean": [float(mean) for _, mean in activated],
        **_analysis(model.spec, signals[0], side[0]),
    }
    metrics = _metrics(model.spec, signals, curve)
    return Outcome("ok", "", metrics, {name: [_plain(v) for v in values] for name, values in curve.items()})


def _plain(value: float | None) -> float | None:
    return float(f"{value:.6g}") if value is not None and isfinite(value) else None


def _watch_activated(model: ResNet) -> tuple[list[tuple[Tensor, Tensor]], list[int]]:
    """Lists that the next forward pass fills: moments of each block's rectified output; side of the stem's output."""
    found: list[tuple[Tensor, Tensor]] = []
    side: list[int] = []

    def look(_module: nn.Module, _inputs: object, out: Tensor) -> None:
        var, mean = torch.var_mean(out.relu().double(), dim=(0, 2, 3), correction=0)
        found.append((var.mean(), (mean * mean).mean()))

    def measure(_module: nn.Module, _inputs: object, out: Tensor) -> None:
        side.append(out.shape[-1])

    for block in blocks(model):
        block.register_forward_hook(look)
    model.stem.register_forward_hook(measure)
    return found, side


def _analysis(spec: ResNetSpec, stem: Signal, side: int) -> Curve:
    start = Moments(stem.var + stem.sq_mean, stem.sq_mean)
    points = predict(spec, start, side)
    if not points:
        return {}
    return {
        "predicted_variance": [stem.var, *(x.variance for x, _ in points)],
        "predicted_sq_mean": [stem.sq_mean, *(x.sq_mean for x, _ in points)],
        "predicted_branch_variance": [branch.variance for _, branch in points],
    }


def _metrics(spec: ResNetSpec, signals: Sequence[Signal], curve: Curve) -> dict[str, float]:
    variance, sq_mean = [s.var for s in signals], [s.sq_mean for s in signals]
    branch = [s.branch_var or 0.0 for s in signals[1:]]
    second = [v + m for v, m in zip(variance, sq_mean)]
    inverse_share = [float("nan"), *(v / b if b else float("nan") for v, b in zip(variance[1:], branch))]
    stages = _stages(spec)
    metrics = {
        "variance_slope": slope(variance, stages),
        "variance_last": variance[-1],
        "squared_mean_slope": slope(sq_mean, stages),
        "squared_mean_last": sq_mean[-1],
        "branch_variance": sum(branch) / len(branch),
        "branch_variance_last": branch[-1],
        "inverse_share_slope": slope(inverse_share, [[i for i in stage if i] for stage in stages]),
        "second_moment_drift": max(abs(s / second[0] - 1) for s in second),
        "growth": exp(slope([log(s) for s in second], stages)) if min(second) > 0 else 0.0,
    }
    if predicted := curve.get("predicted_variance"):
        metrics["predicted_error"] = max(abs(v / p - 1) for v, p in zip(variance, predicted) if p)
    return {name: value for name, value in metrics.items() if isfinite(value)}


def _stages(spec: ResNetSpec) -> list[list[int]]:
    """Points of each stage: 0 is the stem, i the end of block i; the input of a transition is not in its stage."""
    plans, ends = spec.blocks(), list(accumulate(spec.depth))
    firsts = [plans[end - depth] for end, depth in zip(ends, spec.depth)]
    resets = [plan.stride > 1 or plan.inputs != plan.outputs for plan in firsts]
    return [list(range(end - depth + reset, end + 1)) for end, depth, reset in zip(ends, spec.depth, resets)]


def slope(values: Sequence[float], stages: Sequence[Sequence[int]]) -> float:
    """Least-squares growth per block within stages: one slope for all stages, an intercept for each.

    Examples
    --------
    >>> slope([0, 2, 4, 1, 3], [[0, 1, 2], [3, 4]])
    2.0
    """
    above, below = 0.0, 0.0
    for stage in stages:
        place, value = np.array(stage, dtype=float), np.array([values[i] for i in stage])
        place -= place.mean()
        above, below = above + float(place @ value), below + float(place @ place)
    return above / below if below else float("nan")
