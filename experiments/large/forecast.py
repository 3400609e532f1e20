"""Forecast of a run's steps, cost and memory, printed before anything is read or trained."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from experiments.large.large_run import LargeRun, Layout
from nfnets_lite.macs import count_macs
from nfnets_lite.models import create_model


@dataclass(frozen=True)
class Machine:
    """Assumptions for the forecast of hours: peak of one GPU in bf16, and the share of it that training uses.

    989 TFLOP/s is the H100's and H200's published dense peak. The utilisation is an assumption, not a measurement:
    grouped 3x3 convolutions and the standardisation of weights keep NFNets well below what dense layers reach.
    """

    tflops: float = 989.0
    utilisation: float = 0.2

    def __post_init__(self) -> None:
        if not self.tflops > 0:
            raise ValueError(f"tflops={self.tflops} must be above 0")
        if not 0 < self.utilisation <= 1:
            raise ValueError(f"utilisation={self.utilisation} must be in (0, 1]")


@dataclass(frozen=True)
class Plan:
    """Steps, images, multiply-adds, hours and memory of a run; `lines` to print it."""

    run: LargeRun
    layout: Layout
    machine: Machine
    processes: int
    parameters: int
    macs: int
    activations: int

    @property
    def images(self) -> int:
        """Number of training images that pass forward and backward, without SAM's ascent."""
        return self.run.steps * self.run.recipe.batch_size

    @property
    def passes(self) -> float:
        """Multiply-adds of an update over those of its forward pass; backward counts double, SAM adds its ascent."""
        return 3 * (1 if self.run.recipe.sam_radius is None else 1 + self.run.recipe.sam_fraction)

    @property
    def multiply_adds(self) -> float:
        """Multiply-adds of the whole training."""
        return self.macs * self.passes * self.images

    @property
    def gpu_hours(self) -> float:
        """Hours on one GPU at the assumed peak and utilisation; a multiply-add is two operations."""
        return 2 * self.multiply_adds / (self.machine.tflops * 1e12 * self.machine.utilisation) / 3600

    @property
    def memory(self) -> tuple[float, float]:
        """GiB of one process: weights, gradients, momentum and average in float32; and activations of one pass."""
        shards = self.processes if self.layout.shard == "fsdp" else 1
        return 16 * self.parameters / shards / 2**30, self.activations * self.layout.micro / 2**30

    def lines(self) -> list[str]:
        """The plan as lines of text."""
        run, (state, activations) = self.run, self.memory
        each = 2 if run.augment.mix else 1
        groups = self.layout.accumulation(run.recipe.batch_size, self.processes)
        return [
            f"{run.name}, {run.profile}, seed {run.seed}, key {run.key}",
            f"model          {self.parameters:,} parameters; {run.size.train} px in training, {run.size.test} in test",
            f"steps          {run.steps:,} updates of {run.recipe.batch_size} = {self.processes} process(es) x "
            f"{groups} x {self.layout.micro}; warm-up {run.warmup:.1f}, peak rate {run.peak:g}",
            f"images         {self.images:,} ({each * self.images:,} decoded: {each} an image)",
            f"multiply-adds  {self.macs / 1e9:.2f} G forward x {self.passes:g} x images = {self.multiply_adds:.3g}",
            f"GPU-hours      {self.gpu_hours:,.0f} at {self.machine.utilisation:.0%} of {self.machine.tflops:g} "
            f"TFLOP/s (assumed), {self.gpu_hours / self.processes:,.0f} hours on {self.processes}",
            f"memory         {state + activations:.1f} GiB a process: {state:.1f} for weights, gradients, momentum and "
            f"average, about {activations:.1f} for activations ({self.layout.shard})",
        ]


def plan(run: LargeRun, layout: Layout, processes: int = 1, machine: Machine | None = None) -> Plan:
    """Cost of a run, from its specification alone; the model is built on the meta device."""
    with torch.device("meta"):
        model = create_model(run.model)
    parameters = sum(p.numel() for p in model.parameters())
    macs, stored = count_macs(model, run.size.train), _activations(model, run.size.train)
    return Plan(run, layout, machine or Machine(), processes, parameters, macs, stored)


def _activations(model: nn.Module, side: int) -> int:
    """Estimate of the bytes that the backward pass needs for one image: the outputs of all leaf modules, in bf16."""
    total = 0

    def count(_module: nn.Module, _inputs: object, out: Tensor) -> None:
        nonlocal total
        total += 2 * out.numel()

    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(count)
    model(torch.empty(1, 3, side, side, device="meta"))
    return total
