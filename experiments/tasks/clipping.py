"""Gradient clipping as a `Clip` says; a step calls it between its backward pass and its update."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from experiments.tasks.recipe import Clip
from nfnets_lite.agc import AdaptiveClip
from nfnets_lite.roles import Role, parameter_roles

Clipping = Callable[[], Tensor]
BY_PLACE = ("early", "late")  # layers chosen by their place in the network


def clipping(model: nn.Module, clip: Clip) -> Clipping:
    """Return a function that clips the model's gradients in place and returns the clipped fraction of its units, 0-d.

    For ``"global"``, all parameters that `clip.layers` covers are one unit.
    """
    blocks = len(_blocks(model)) if clip.layers in BY_PLACE else 0
    chosen = {
        name: (parameter, replace(role, clip=True))
        for name, (parameter, role) in parameter_roles(model).items()
        if _covered(clip.layers, role, name, blocks)
    }
    if clip.rule == "global":
        return partial(_clip_whole, [parameter for parameter, _ in chosen.values()], clip.factor)
    if clip.rule == "layer":
        chosen = {name: (p, replace(role, unit_dim=None, groups=1)) for name, (p, role) in chosen.items()}
    return AdaptiveClip(chosen, clip.factor, clip.eps)


def _clip_whole(parameters: list[Tensor], bound: float) -> Tensor:
    """Scale the whole gradient down to norm `bound` if it is longer; return 1 if it was, else 0."""
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    # A norm that overflows would make every gradient zero and go unnoticed; NaN is noticed.
    nn.utils.clip_grads_with_norm_(parameters, bound, torch.where(norm == torch.inf, torch.nan, norm))
    return (norm > bound).float()


def _blocks(model: nn.Module) -> nn.Sequential:
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.Sequential):
        raise TypeError(
            f"model is a {type(model).__name__} without `blocks`; clipping by place in the network needs them"
        )
    return blocks


def _covered(layers: str, role: Role, name: str, blocks: int) -> bool:
    if layers == "all":
        return True
    if not role.clip or (layers == "weights" and role.kind != "weight"):
        return False
    if layers in BY_PLACE:
        if not name.startswith("blocks."):
            return name.startswith("stem.") == (layers == "early")
        return (int(name.split(".")[1]) < blocks / 2) == (layers == "early")
    return not (layers == "no_stem" and name.startswith("stem."))
