"""Transfer: training on one data set, then fine-tuning on another one with a new classifier."""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from experiments.sweep import Outcome, Run, Setting
from experiments.tasks.data import load
from experiments.tasks.descent import one_thread, seeded
from experiments.tasks.recipe import Data, Recipe
from experiments.tasks.step import How, on_stream
from experiments.tasks.training import Training, fit
from nfnets_lite.convert.plan import replace_layers
from nfnets_lite.models import Spec, create_model
from nfnets_lite.norm import inference_affine
from nfnets_lite.norm.common import is_batch_norm, scale_shift

MOST_KEPT = 12  # pre-trained networks that a process keeps for further runs


@dataclass(frozen=True)
class Transfer(Run):
    """Pre-training on `source`, then fine-tuning on `data`; judged after fine-tuning.

    Without a `source` the network is trained from scratch. `frozen` fine-tunes only the new classifier; batch norms
    still update their running statistics on the new images. `fixed_norms` replaces each batch norm by its map in
    evaluation before fine-tuning, as detectors do. The searched learning rate is that of fine-tuning.
    """

    NUMERICS: ClassVar[int] = 2  # channels last on a CPU, and fewer factors in weights

    model: Spec
    source: Data | None
    source_recipe: Recipe
    data: Data
    recipe: Recipe
    frozen: bool = False
    fixed_norms: bool = False

    def __post_init__(self) -> None:
        if self.fixed_norms and self.source is None:
            raise ValueError("fixed_norms=True with source=None would fix norms that saw no image; give a source")
        if self.frozen and self.source is None:
            raise ValueError("frozen=True with source=None would train a classifier on random features; give a source")

    @property
    def datasets(self) -> tuple[str, ...]:
        return tuple({data.name: None for data in (self.source, self.data) if data is not None})

    def effort(self, device: str) -> float:
        return sum(part.effort(device) for part in self._parts())

    def at(self, setting: Setting) -> Self:
        return replace(self, recipe=replace(self.recipe, lr=setting.lr))

    def steps(self, device: torch.device) -> Generator[None, None, Outcome]:
        return on_stream(self._steps(device), device)

    def _parts(self) -> list[Training]:
        second = Training(self.method, self.model, self.data, self.recipe, split=self.split, seed=self.seed)
        if self.source is None:
            return [second]
        spec = replace(self.model, num_classes=self.source.classes or self.model.num_classes)
        return [
            Training(self.method, spec, self.source, self.source_recipe, split="validation", seed=self.seed),
            second,
        ]

    def _steps(self, device: torch.device) -> Generator[None, None, Outcome]:
        parts = self._parts()
        with one_thread(device):
            with seeded(self.seed, device):
                model = create_model(parts[0].model).to(device)
            metrics: dict[str, float] = {}
            if len(parts) > 1:
                first = yield from self._pretrained(model, parts[0], device)
                if first.status != "ok":
                    return replace(first, reason=f"pre-training: {first.reason}")
                metrics["source_accuracy"] = first.metrics["accuracy"]
                if self.frozen:
                    model.requires_grad_(requires_grad=False)
                if self.fixed_norms:
                    fix_norms(model)
                with seeded(self.seed, device):
                    model.reset_classifier(self.model.num_classes)
            outcome = yield from fit(model, parts[-1], load(self.data, device), How.on(device))
        return replace(outcome, metrics=outcome.metrics | metrics)

    def _pretrained(self, model: nn.Module, training: Training, device: torch.device) -> Generator[None, None, Outcome]:
        """Pre-train the model, or give it the weights of the same training in an earlier run of this process."""
        # Pre-training must not see the images that choose the learning rate of fine-tuning.
        apart = self.data if self.data.name == training.data.name else None
        key = training.key, training.seed, apart, device
        if key not in KEPT:
            outcome = yield from fit(model, training, load(training.data, device, apart), How.on(device))
            while len(KEPT) >= MOST_KEPT:
                del KEPT[next(iter(KEPT))]
            # On the CPU, as another run may read them on another stream of a GPU.
            KEPT[key] = outcome, {name: value.to("cpu", copy=True) for name, value in model.state_dict().items()}
        outcome, state = KEPT[key]
        model.load_state_dict(state)
        return outcome


KEPT: dict[object, tuple[Outcome, dict[str, Tensor]]] = {}  # what pre-trainings of this process led to


class FixedNorm(nn.Module):
    """A batch norm as the fixed scale and shift per channel that it applies in evaluation."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.detach().clone())
        self.register_buffer("shift", shift.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return scale_shift(x, self.scale, self.shift)


def fix_norms(model: nn.Module) -> None:
    """Replace each batch norm of a model by a `FixedNorm`."""
    norms = {norm: inference_affine(norm) for norm in model.modules() if is_batch_norm(norm)}
    replace_layers(model, {norm: FixedNorm(*affine) for norm, affine in norms.items() if affine is not None})
