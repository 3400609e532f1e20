"""The state of one large run on one process, and one update of it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.large import augment
from experiments.large.large_run import LargeRun, Layout, rate_at
from experiments.large.world import Replicas, World
from nfnets_lite.agc import AdaptiveClip
from nfnets_lite.averaging import WeightAverage
from nfnets_lite.models import create_model
from nfnets_lite.optim import param_groups
from nfnets_lite.sam import ascended

Batch = tuple[Tensor, Tensor]


class Trainer:
    """The state of one run on one process, and one update of it."""

    def __init__(self, run: LargeRun, layout: Layout, at: World) -> None:
        self.run, self.layout, self.at, recipe = run, layout, at, run.recipe
        self.groups = layout.accumulation(recipe.batch_size, at.size)
        torch.manual_seed(augment.seed_of(run.seed, 3))  # the same start on every process
        model = create_model(run.model).to(at.device)
        if at.device.type == "cuda" and layout.shard == "ddp":  # FSDP2 takes contiguous weights only
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.replicas = Replicas(model, layout, at)
        self.model = self.replicas.model
        # One fused call cannot take sharded and whole tensors together, so each kind has its own group.
        parameters = [
            {**group, "params": same}
            for group in param_groups(self.model, recipe.weight_decay)
            for kind in sorted({type(p) for p in group["params"]}, key=str)
            if (same := [p for p in group["params"] if type(p) is kind])
        ]
        self.optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=recipe.momentum, nesterov=True)
        self.clip = None if recipe.clip_factor is None else AdaptiveClip(self.model, recipe.clip_factor)
        self.average = WeightAverage(self.model, recipe.decay)

    def update(self, step: int, batches: list[Batch]) -> tuple[Tensor, Tensor]:
        """Update from this process's part of the batch; return its mean loss and clipped fraction, on the device."""
        run, recipe = self.run, self.run.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(step, run.steps, run.warmup, run.peak)
        ready = self._prepared(step, batches)
        if recipe.sam_radius is None:
            loss = self._backward(step, ready)
        else:
            few = max(1, round(recipe.sam_fraction * self.layout.micro))
            self._backward(step, [(x[:few], y[:few]) for x, y in ready])
            with ascended(self.model, recipe.sam_radius):
                loss = self._backward(step, ready)
        clipped = self.clip() if self.clip is not None else torch.zeros((), device=loss.device)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update()
        return loss, clipped

    def _prepared(self, step: int, batches: list[Batch]) -> list[Batch]:
        run, micro = self.run, self.layout.micro
        table = augment.draws(run.augment, run.seed, step, run.recipe.batch_size)
        ready = []
        for group, (images, labels) in enumerate(batches):
            first = (self.at.rank * self.groups + group) * micro
            images, labels = (x.to(self.at.device, non_blocking=True) for x in (images, labels))
            rows = table[first : first + micro]
            ready.append(augment.prepare(images, labels, rows, run.augment, run.model.num_classes, first))
        return ready

    def _backward(self, step: int, batches: list[Batch]) -> Tensor:
        """Compute gradients of the mean loss over the batch of all processes; return this process's mean loss."""
        recipe, device = self.run.recipe, self.at.device
        total = torch.zeros((), device=device)
        for group, (x, targets) in enumerate(batches):
            # Dropout and stochastic depth draw below. A seed for each group makes the draws independent of earlier
            # ones, so a resumed run, or a run on fewer processes, draws the same numbers.
            torch.manual_seed(augment.seed_of(self.run.seed, 4, step, self.at.rank * self.groups + group))
            if device.type == "cuda":
                x = x.contiguous(memory_format=torch.channels_last)
            with self.replicas.accumulating(last=group == len(batches) - 1):
                with torch.autocast(device.type, torch.bfloat16, enabled=recipe.autocast):
                    logits = self.replicas.forward(x)
                loss = F.cross_entropy(logits.float(), targets, label_smoothing=recipe.label_smoothing)
                (loss / len(batches)).backward()  # type: ignore[no-untyped-call]
            total += loss.detach() / len(batches)
        return total
