"""How much the other images of a batch change a network's output for an image."""

from collections.abc import Generator
from dataclasses import dataclass
from math import log
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from experiments.sweep import Outcome, Run
from experiments.tasks.data import load
from experiments.tasks.descent import one_thread, seeded
from experiments.tasks.recipe import Data
from nfnets_lite.models import create_model
from nfnets_lite.models.spec import ResNetSpec


@dataclass(frozen=True)
class BatchNoise(Run):
    """Logits of `images` images, each in `draws` random batches of every size, in training mode, before training.

    The noise at a batch size is the standard deviation of a logit over the batches, divided by the standard deviation
    of the logit over the images.
    """

    NUMERICS: ClassVar[int] = 1  # not raised yet

    model: ResNetSpec
    data: Data
    sizes: tuple[int, ...]
    images: int = 4
    draws: int = 8

    @property
    def datasets(self) -> tuple[str, ...]:
        return (self.data.name,)

    def effort(self, device: str) -> float:
        return (2e-4 if device == "cpu" else 1e-6) * sum(self.sizes) * self.images * self.draws

    def steps(self, device: torch.device) -> Generator[None, None, Outcome]:
        with one_thread(device):
            data = load(self.data, device)["train"].images
            generator = torch.Generator().manual_seed(self.seed)
            order = torch.randperm(len(data), generator=generator)
            probes, others = data[order[: self.images].to(device)], data[order[self.images :].to(device)]
            with seeded(self.seed, device):
                model = create_model(self.model).to(device).train()
            found = []
            for size in self.sizes:
                found.append(self._logits(model, probes, others, size, generator))
                yield
        return _outcome(self.sizes, [x.cpu() for x in found])

    @torch.no_grad()
    def _logits(
        self, model: nn.Module, probes: Tensor, others: Tensor, size: int, generator: torch.Generator
    ) -> Tensor:
        """``(draws, images, classes)``."""
        rows = []
        for _ in range(self.draws):
            for probe in probes:
                company = torch.randperm(len(others), generator=generator)[: size - 1].to(probe.device)
                rows.append(model(torch.cat((probe[None], others[company])))[0])
        return torch.stack(rows).view(self.draws, len(probes), -1)


def _outcome(sizes: tuple[int, ...], logits: list[Tensor]) -> Outcome:
    between = logits[-1].double().mean(0).var(0).mean().sqrt().item()  # over images, in the largest batches
    noise = [x.double().var(0).mean().sqrt().item() / between for x in logits]
    metrics = {"noise_smallest": noise[0], "noise_largest": noise[-1]}
    if min(noise) > 1e-5:  # below it there is only rounding
        metrics["noise_exponent"] = float(np.polyfit([log(s) for s in sizes], [log(n) for n in noise], 1)[0])
    return Outcome("ok", "", metrics, {"size": list(sizes), "noise": [float(f"{n:.5g}") for n in noise]})
