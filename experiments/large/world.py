"""Processes that train one model: their ranks, DDP or FSDP2 around the model, and averaged gradients."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from experiments.large.large_run import Layout
from experiments.records.provenance import resolve_device
from nfnets_lite.models import ResNet


@dataclass(frozen=True)
class World:
    """This process among `size` processes; without torchrun it is rank 0 of 1."""

    rank: int
    size: int
    device: torch.device

    def mean(self, x: Tensor) -> Tensor:
        """The mean over processes, the same on each of them."""
        return self.sum(x) / self.size

    def sum(self, x: Tensor) -> Tensor:
        """The sum over processes, the same on each of them."""
        if dist.is_initialized():
            dist.all_reduce(x)
        return x

    def wait(self) -> None:
        """Wait until every process has come here."""
        if dist.is_initialized():
            dist.barrier()


@contextmanager
def world(device: str = "auto") -> Iterator[World]:
    """Join the process group that ``torchrun`` describes in the environment, if there is one; leave it at the end."""
    found = resolve_device(device)
    if "RANK" not in os.environ:
        yield World(0, 1, found)
        return
    if found.type == "cuda" and found.index is None:
        found = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(found)
    cuda = found.type == "cuda"
    dist.init_process_group("nccl" if cuda else "gloo", device_id=found if cuda else None)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), found)
    finally:
        dist.destroy_process_group()


class Replicas:
    """One model on all processes.

    Attributes
    ----------
    model : ResNet
        The model for optimizer, clipping and averaging; its parameters are shards under FSDP2.
    forward : nn.Module
        The module to call in training.
    """

    def __init__(self, model: ResNet, layout: Layout, among: World) -> None:
        self.model, self.world = model, among
        self.forward: nn.Module = model
        if layout.compile:
            # Block by block: equal blocks compile once, and each block can be sharded.
            for block in model.blocks:
                block.compile()
        self._whole: list[nn.Parameter] = []
        if layout.shard == "fsdp":
            if not dist.is_initialized():
                raise ValueError("shard='fsdp' needs processes to shard over; start it with torchrun, or use ddp")
            # FSDP2 shards no 0-d parameter: the skip gains stay whole, and their gradients are averaged here.
            self._whole = [p for p in model.parameters() if p.ndim == 0]
            mesh = init_device_mesh(among.device.type, (among.size,))
            for block in model.blocks:
                fully_shard(block, mesh=mesh, ignored_params=set(self._whole))
            # By default the root keeps its gathered weights after a forward pass, and an evaluation with other
            # weights (the average's) would still see them.
            fully_shard(model, mesh=mesh, ignored_params=set(self._whole), reshard_after_forward=True)
        elif dist.is_initialized():
            ids = [among.device.index] if among.device.type == "cuda" else None
            self.forward = DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)

    @contextmanager
    def accumulating(self, *, last: bool) -> Iterator[None]:
        """Context for each forward and backward pass of an update; gradients are exchanged in the last pass only."""
        if isinstance(self.model, FSDPModule):
            self.model.set_requires_gradient_sync(last)
        no_sync = isinstance(self.forward, DistributedDataParallel) and not last
        with self.forward.no_sync() if no_sync else nullcontext():  # type: ignore[operator]
            yield
        if last:
            self._average_whole()

    def _average_whole(self) -> None:
        grads = [p.grad for p in self._whole if p.grad is not None]
        if grads:
            for grad, mean in zip(grads, self.world.mean(torch.stack(grads))):
                grad.copy_(mean)
