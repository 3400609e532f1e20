"""Checkpoints of a large run: folders that appear by one rename, completely or not at all."""

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import checkpoint as dcp

from experiments.large.large_run import LargeRun
from experiments.large.world import World
from nfnets_lite.averaging import WeightAverage
from nfnets_lite.models import ResNet

KEEP = 2


def _state(model: ResNet, optimizer: torch.optim.SGD, average: WeightAverage) -> dict[str, dict[str, Tensor]]:
    """The tensors of a run by name, with zeros for momentum that does not exist yet; loading writes into them."""
    momentum = {}
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum[name] = state["momentum_buffer"]
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    return {"model": weights, "momentum": momentum, "average": average.averages}


def save(
    folder: Path, step: int, run: LargeRun, model: ResNet, optimizer: torch.optim.SGD, average: WeightAverage, at: World
) -> None:
    """Write the state after `step` updates, and remove all older checkpoints but one; every process calls it.

    Each process writes its part to a hidden folder and flushes it to the disk. Only the rename at the end makes the
    folder a checkpoint, so a run that is killed while it writes leaves none that is incomplete.
    """
    target, partial = folder / f"step-{step:08d}", folder / f".partial-{step:08d}"
    if at.rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    at.wait()
    with warnings.catch_warnings():
        # torch warns at every save by a single process without a group, which is intended here.
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        dcp.save(  # type: ignore[attr-defined]  # public, but not re-exported explicitly
            _state(model, optimizer, average), checkpoint_id=partial, no_dist=not dist.is_initialized()
        )
    if at.rank == 0:
        about = {"step": step, "key": run.key, "seed": run.seed, "updates": average.updates, "torch": torch.__version__}
        with (partial / "about.json").open("w") as file:
            json.dump(about, file)
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        for old in complete(folder)[:-KEEP]:
            shutil.rmtree(old)
    at.wait()


def complete(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, oldest first."""
    return sorted(folder.glob("step-*"))


def load(
    folder: Path, run: LargeRun, model: ResNet, optimizer: torch.optim.SGD, average: WeightAverage, at: World
) -> int:
    """Load the newest checkpoint, if there is one; return the number of updates done.

    The number of processes, their layout, and DDP or FSDP2 may differ from those that wrote the checkpoint.

    Raises
    ------
    ValueError
        If the checkpoint belongs to another run.
    """
    at.wait()
    if at.rank == 0:
        for stale in folder.glob(".partial-*"):
            shutil.rmtree(stale, ignore_errors=True)
    found = complete(folder)
    if not found:
        return 0
    about: dict[str, Any] = json.loads((found[-1] / "about.json").read_text())
    if (about["key"], about["seed"]) != (run.key, run.seed):
        raise ValueError(
            f"{found[-1]} belongs to another run (key {about['key']}, seed {about['seed']}; this one is {run.key}, "
            f"{run.seed}); choose another --out, or remove the folder"
        )
    state = _state(model, optimizer, average)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        dcp.load(  # type: ignore[attr-defined]
            state, checkpoint_id=found[-1], no_dist=not dist.is_initialized()
        )
    average.updates = int(about["updates"])
    return int(about["step"])
