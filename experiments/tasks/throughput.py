"""Time of a training step and of a reference's, in turns in one process; memory where the device counts it."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from statistics import median
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from experiments.sweep import Outcome, Run
from experiments.tasks.clipping import clipping
from experiments.tasks.descent import one_thread, seeded
from experiments.tasks.optimizers import optimizer, set_rate
from experiments.tasks.recipe import Clip, Recipe
from nfnets_lite.macs import count_macs
from nfnets_lite.models import Spec, create_model

# Operations per second of large networks' eager steps, in float32 and in bfloat16, on one CPU thread and on a large GPU
# (assumed from published speeds until there are records).
SPEED = {"cpu": (4.5e10, 4.5e10), "cuda": (2e13, 6e13)}
COMPILING = 60.0  # seconds to compile a network's forward and backward pass
REPEATS = 3  # steps that are timed in one go


@dataclass(frozen=True)
class Throughput(Run):
    """The step (forward, backward, clipping, SGD) of a network on random images, beside a reference network's.

    Metrics: `step_ms` and `reference_ms` (medians over rounds), `ratio` (median over rounds of step over reference),
    `images_per_s`, `saved_mb` (memory that the forward pass keeps for the backward pass, in 2**20 bytes, without the
    parameters); on CUDA `peak_memory_mb`. The two networks take turns, so other load on the machine slows both. Nothing
    is searched or learnt: the seed draws the images and the weights.
    """

    NUMERICS: ClassVar[int] = 2  # a step keeps more of its standardised weights for the backward pass

    model: Spec
    reference: Spec
    batch_size: int
    side: int
    clip: Clip | None = None
    autocast: bool = False
    channels_last: bool = False
    compiled: bool = False
    training: bool = True
    rounds: int = 10

    def effort(self, device: str) -> float:
        # All rounds of both networks and their warm-up; a multiply-add is two operations, training has three passes.
        macs = sum(_macs(spec.with_method("none"), self.side) for spec in (self.model, self.reference))
        steps, passes = REPEATS * (self.rounds + 1) + 0.5, 3 if self.training else 1
        per_second = SPEED["cpu" if device == "cpu" else "cuda"][self.autocast]
        compiling = COMPILING * len({self.model, self.reference}) if self.compiled else 0.0
        return 0.1 + compiling + 2 * passes * macs * self.batch_size * steps / per_second

    def steps(self, device: torch.device) -> Generator[None, None, Outcome]:
        # Never paused, because another run's steps in between would be measured, too.
        with one_thread(device), seeded(self.seed, device), _compiled_anew() if self.compiled else nullcontext():
            step = self._step(self.model, self.clip, device)
            saved, peak = _saved_mb(step, self.training), _peak_mb(step, device)
            beside = self._step(self.reference, None, device)
            _timed(beside, device)
            pairs = [(_timed(step, device), _timed(beside, device)) for _ in range(self.rounds)]
        mine, theirs = (median(side) for side in zip(*pairs))
        metrics = {
            "step_ms": 1000 * mine,
            "reference_ms": 1000 * theirs,
            "ratio": median(a / b for a, b in pairs),
            "images_per_s": self.batch_size / mine,
            "saved_mb": saved,
        }
        if peak is not None:
            metrics["peak_memory_mb"] = peak
        return Outcome("ok", "", metrics)
        yield  # a generator, as every run's steps are

    def _step(self, spec: Spec, clip: Clip | None, device: torch.device) -> Callable[[], None]:
        model: nn.Module = create_model(spec).to(device).train(self.training)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        model = model.to(memory_format=layout)  # type: ignore[call-overload]
        images = torch.randn(self.batch_size, spec.in_channels, self.side, self.side, device=device).to(
            memory_format=layout
        )
        labels = torch.randint(spec.num_classes, (self.batch_size,), device=device)
        sgd = optimizer(model, Recipe(self.batch_size, 1, 0.0), device)
        set_rate(sgd, 1e-3)
        clip_now = None if clip is None else clipping(model, clip)
        forward = torch.compile(model) if self.compiled else model

        def step() -> None:
            with (
                torch.autocast(device.type, torch.bfloat16, enabled=self.autocast),
                torch.set_grad_enabled(self.training),
            ):
                loss = F.cross_entropy(forward(images), labels)
            if self.training:
                loss.backward()  # type: ignore[no-untyped-call]
                if clip_now is not None:
                    clip_now()
                sgd.step()
                sgd.zero_grad()

        return step


@contextmanager
def _compiled_anew() -> Iterator[None]:
    """Make sure that networks are compiled inside the block.

    All networks share one `forward`, of which torch keeps a few compiled versions in a process. After these it would
    run eagerly without a warning.
    """
    from torch._dynamo import config  # not at the top: it takes a second

    torch.compiler.reset()
    with config.patch(fail_on_recompile_limit_hit=True):
        yield


@lru_cache(maxsize=512)
def _macs(spec: Spec, side: int) -> int:
    return count_macs(spec, side)


def _timed(step: Callable[[], None], device: torch.device, repeats: int = REPEATS) -> float:
    """Mean seconds of a step."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    clock = time.perf_counter()
    for _ in range(repeats):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - clock) / repeats


def _saved_mb(step: Callable[[], None], training: bool) -> float:
    """Memory that a step keeps from its forward for its backward pass, in 2**20 bytes, without the parameters."""
    if not training:
        return 0.0
    kept: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        if not isinstance(x, nn.Parameter):
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        step()
    return sum(kept.values()) / 2**20


def _peak_mb(step: Callable[[], None], device: torch.device) -> float | None:
    """Warm up and return the peak memory that the steps allocated; None on a CPU, where it is not counted."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    _timed(step, device)
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
