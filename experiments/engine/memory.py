"""Estimates of the memory that a run needs on a GPU, and of how many runs fit side by side."""

import warnings

import torch
from torch import Tensor, UntypedStorage

from experiments.sweep import Sweep
from experiments.tasks.data import FULL, SIDE
from experiments.tasks.training import EVALUATED, Training, update_time
from experiments.tasks.undrawn import Undrawn
from nfnets_lite.models import Spec, create_model

MOMENTS = {"adam": 2, "rmsprop": 2}  # tensors that an optimizer keeps for each weight; the others keep one
TESTED = 10_000  # images of the largest test set
GB = 1e9


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a CUDA device."""
    return torch.cuda.mem_get_info(device)[0]


def streams_that_fit(sweep: Sweep, device: torch.device, streams: int) -> int:
    """Number of runs side by side, at most `streams` and at least 1, for which a CUDA device has free memory.

    The run with the most arithmetic a batch decides. A warning says when its memory lowers the number.
    """
    trainings = [run for run in sweep.cells if isinstance(run, Training)]
    if device.type != "cuda" or not trainings:
        return streams
    with Undrawn():
        need = memory(max(trainings, key=lambda run: update_time(run.model, run.data, run.recipe.batch_size, "cuda")))
    free = free_memory(device)
    fit = min(streams, max(1, int(free / need)))
    if fit < streams or need > free:
        warnings.warn(
            f"sweep {sweep.name!r}: {fit} of {streams} runs side by side on {device}, because a run may need "
            f"{need / GB:.1f} GB (by arithmetic) and {free / GB:.1f} GB are free",
            stacklevel=2,
        )
    return fit


def memory(run: Training) -> float:
    r"""Bytes that a training may need on a GPU.

    .. math:: D + W (4 + m + a) + 2 A + E

    D: the images. W: the weights; beside them are the gradient, two copies for the check of the captured step, m
    moments of the optimizer, and a = 1 for averaged weights. A: what autograd keeps of one batch for the backward pass,
    found by a forward pass on the meta device; the eager step and the captured step each have a pool. E: three times
    the largest tensor of an evaluation. All tensors count as float32, so that a run under autocast needs less.
    """
    data, recipe = run.data, run.recipe
    side = SIDE.get(data.name, 32) // data.pool
    weights, kept, largest = _sizes(run.model, side, recipe.batch_size)
    images = (data.train or FULL.get(data.name, 0)) + data.validation + (data.test or TESTED)
    copies = 4 + MOMENTS.get(recipe.optimizer, 1) + bool(recipe.ema)
    evaluation = 3 * largest * max(1.0, EVALUATED / recipe.batch_size)
    return 4 * run.model.in_channels * side**2 * images + copies * weights + 2 * kept + evaluation


def _sizes(spec: Spec, side: int, batch_size: int) -> tuple[int, int, int]:
    """Bytes of the weights, of all tensors that autograd keeps of a batch, and of the largest of these."""
    with torch.device("meta"), Undrawn():
        model = create_model(spec)
        images = torch.empty(batch_size, spec.in_channels, side, side)
    weights = {storage._cdata: storage.nbytes() for storage in (p.untyped_storage() for p in model.parameters())}
    kept: dict[int, UntypedStorage] = {}  # views of one tensor count once

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _ = model(images).square()  # held, as a loss holds it
    sizes = [storage.nbytes() for storage in kept.values()]
    return sum(weights.values()), sum(sizes), max(sizes)
