"""One update of a training: batch, forward, backward, clipping, optimizer; eager, or captured as a CUDA graph.

The learning rate and the batch's random numbers are tensors at fixed addresses, so that the same code can be captured.
"""

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.sweep import T
from experiments.tasks import capture
from experiments.tasks.clipping import clipping
from experiments.tasks.data import Split
from experiments.tasks.draws import Draws, batch
from experiments.tasks.optimizers import optimizer, set_rate
from experiments.tasks.recipe import Recipe
from nfnets_lite.norm.variance_constancy import VarianceConstancy
from nfnets_lite.sam import ascended

EAGER = 3  # updates before a capture, because an optimizer's first update differs from the others


@dataclass(frozen=True)
class How:
    """How a step is executed; it changes a run only by rounding, so it is not part of the run's key.

    `graph`: the whole step is captured as a CUDA graph and replayed, if the graph gives the eager step's numbers.
    `channels_last`: memory format of model and images.
    """

    graph: bool = False
    channels_last: bool = False

    @classmethod
    def on(cls, device: torch.device) -> "How":
        """The fastest way on a device."""
        return cls(graph=device.type == "cuda", channels_last=True)


class Step:
    """The update of a model by a recipe; a call with the update's number and learning rate returns the loss, 0-d."""

    def __init__(
        self, model: nn.Module, recipe: Recipe, split: Split, classes: int, drawn: Draws, other: Draws | None, how: How
    ) -> None:
        self._model, self._recipe, self._split, self._classes, self._how = model, recipe, split, classes, how
        device = split.images.device
        if how.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # RandAugment groups a batch by operation, on the CPU, which cannot be captured.
        self._captures = how.graph and not recipe.augment.randaugment and not capture.refused()
        self._constancy = VarianceConstancy(model, split.images[:1]).to(device) if recipe.vcl else None
        self._optimizer = optimizer(model, recipe, device)
        if self._constancy is not None:
            self._optimizer.add_param_group({"params": list(self._constancy.parameters()), "weight_decay": 0.0})
        self._clip = clipping(model, recipe.clip) if recipe.clip else None
        self._drawn, self._other = drawn, other
        self._now = drawn.at(0).map(torch.clone)
        self._now_other = other.at(0).map(torch.clone) if other else None
        self._graph: capture.Replayed | None = None
        self._loss, self._clipped = torch.zeros((), device=device), torch.zeros((), device=device)
        self._updates = 0

    def __call__(self, update: int, rate: float) -> Tensor:
        set_rate(self._optimizer, rate)
        self._now.copy_(self._drawn.at(update))
        if self._now_other is not None and self._other is not None:
            self._now_other.copy_(self._other.at(update))
        if self._graph is not None:
            self._graph.replay()
        elif self._captures and self._updates == EAGER:
            compared = 0 if draws_random_numbers(self._model) else sum(1 for _ in self._model.parameters())
            self._graph = capture.tried(self._run, self._state(), compared)
            self._captures = self._graph is not None
        else:
            self._run()
        self._updates += 1
        return self._loss

    @property
    def executed(self) -> str:
        """How the steps so far were executed: ``"eager"``, or ``"graph"`` once a step was captured."""
        return "eager" if self._graph is None else "graph"

    def _state(self) -> list[Tensor]:
        """All tensors that a step changes, the weights first."""
        moments = [t for state in self._optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
        layers = self._constancy.parameters() if self._constancy is not None else ()
        return [*self._model.parameters(), *self._model.buffers(), *layers, *moments, self._loss, self._clipped]

    def clipped_fraction(self) -> float:
        """Mean over the updates of the fraction of units that were clipped."""
        return float(self._clipped) / max(1, self._updates)

    def _run(self) -> None:
        images, targets = self._batch(self._now)
        sam = self._recipe.sam
        if sam is None:
            loss = self._backward(images, targets)
        else:
            uphill = (images, targets) if self._now_other is None else self._batch(self._now_other)
            part = max(1, round(sam.share * len(images)))
            self._backward(uphill[0][:part], uphill[1][:part])
            with ascended(self._model, sam.radius):
                loss = self._backward(images, targets)
        if self._clip is not None:
            self._clipped.add_(self._clip())
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._loss.copy_(loss)

    def _batch(self, drawn: Draws) -> tuple[Tensor, Tensor]:
        images, targets = batch(self._split, drawn, self._recipe.augment, self._classes)
        if self._how.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, targets

    def _backward(self, images: Tensor, targets: Tensor) -> Tensor:
        recipe = self._recipe
        # Casts that autocast cached outside of a graph would be missing inside.
        with torch.autocast(
            images.device.type, torch.bfloat16, enabled=recipe.autocast, cache_enabled=not self._captures
        ):
            logits = self._model(self._split.seen(images))
            loss = F.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)
            total = loss if self._constancy is None else loss + recipe.vcl * self._constancy.loss()
        total.backward()  # type: ignore[no-untyped-call]
        return loss.detach()


def draws_random_numbers(model: nn.Module) -> bool:
    """Whether a training step draws from torch's own generator: dropout or stochastic depth."""
    return any(getattr(m, "rate", 0) or getattr(m, "p", 0) for m in model.modules())


def on_stream(steps: Generator[None, None, T], device: torch.device) -> Generator[None, None, T]:
    """Run the steps on a CUDA stream of their own, so that kernels of several runs share the device."""
    if device.type != "cuda":
        return (yield from steps)
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    while True:
        with torch.cuda.stream(stream):
            try:
                next(steps)
            except StopIteration as end:
                torch.cuda.current_stream(device).wait_stream(stream)
                value: T = end.value
                return value
        yield
