"""A training judged in evaluation mode, and in training mode on batches made like the training batches."""

from collections.abc import Generator, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from experiments.sweep import Outcome
from experiments.tasks.data import Split, load
from experiments.tasks.descent import descend, one_thread, seeded
from experiments.tasks.draws import draw
from experiments.tasks.step import How, Step, on_stream
from experiments.tasks.training import Training, evaluate, updates_of
from nfnets_lite.models import create_model


@dataclass(frozen=True)
class TwoModes(Training):
    """One training whose batches, of training and of judging, hold `classes` classes each (0: ordinary batches).

    Metrics: `accuracy` and `loss` in evaluation mode, `batch_accuracy` in training mode, all on the same images: whole
    batches of the judged split, with each image in at most one batch.
    """

    NUMERICS: ClassVar[int] = 2  # channels last on a CPU, and fewer factors in weights

    classes: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.classes <= self.model.num_classes:
            raise ValueError(f"classes={self.classes} must be from 0 (ordinary batches) to {self.model.num_classes}")

    def steps(self, device: torch.device) -> Generator[None, None, Outcome]:
        return on_stream(self._steps(device), device)

    def _steps(self, device: torch.device) -> Generator[None, None, Outcome]:
        recipe = self.recipe
        with one_thread(device):
            splits = load(self.data, device)
            train, split = splits["train"], splits[self.split]
            with seeded(self.seed, device):
                model = create_model(self.model).to(device)
            updates = updates_of(recipe, len(train))
            generator = torch.Generator().manual_seed(self.seed)
            drawn = draw(len(train), recipe.batch_size, updates, generator, recipe.augment, device)
            if self.classes:
                stream = endless(train.labels.cpu(), recipe.batch_size, self.classes, generator)
                drawn = replace(drawn, rows=torch.stack([next(stream) for _ in range(updates)]).to(device))
            step = Step(model, recipe, train, self.model.num_classes, drawn, None, How.on(device))
            outcome = yield from descend(model, step, recipe, updates, device)
            if outcome.status != "ok":
                return outcome
            if self.classes:
                batches = list(blocks(split.labels.cpu(), recipe.batch_size, self.classes, generator))
            else:
                batches = list(_whole(torch.randperm(len(split), generator=generator), recipe.batch_size))
            rows = torch.stack(batches).to(device)
            same = replace(split, images=split.images[rows.flatten()], labels=split.labels[rows.flatten()])
            metrics = outcome.metrics | {"batch_accuracy": in_training_mode(model, split, rows, recipe.autocast)}
            metrics |= evaluate(model, same, recipe.autocast)
        return replace(outcome, metrics=metrics)


def blocks(labels: Tensor, size: int, classes: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield batches of `size` rows with `classes` classes each: random groups of classes, shuffled and cut to batches.

    The rows of a group that do not fill a batch are dropped.
    """
    present = torch.unique(labels)
    order = present[torch.randperm(len(present), generator=generator)]
    batches = []
    for group in torch.split(order, classes):
        rows = torch.isin(labels, group).nonzero()[:, 0]
        batches += list(_whole(rows[torch.randperm(len(rows), generator=generator)], size))
    if not batches:
        raise ValueError(f"size={size}: no group of {classes} classes has that many images; use smaller batches")
    yield from (batches[i] for i in torch.randperm(len(batches), generator=generator).tolist())


def endless(labels: Tensor, size: int, classes: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the batches of `blocks`, epoch after epoch, with new groups in each."""
    while True:
        yield from blocks(labels, size, classes, generator)


def _whole(rows: Tensor, size: int) -> Iterator[Tensor]:
    return (part for part in torch.split(rows, size) if len(part) == size)


@torch.no_grad()
def in_training_mode(model: nn.Module, split: Split, rows: Tensor, autocast: bool = False) -> float:
    """Accuracy over batches of rows ``(batches, size)``, in training mode; the model is not changed."""
    copy = deepcopy(model).train()  # its running statistics move
    with torch.autocast(split.images.device.type, torch.bfloat16, enabled=autocast):
        right = [copy(split.images[batch]).argmax(1) == split.labels[batch] for batch in rows]
    return float(torch.cat(right).float().mean())
