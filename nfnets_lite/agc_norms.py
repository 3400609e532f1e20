"""Norms of units: measured, or known well enough from the forward pass that standardised their weights."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from nfnets_lite.standardize_ways import Kept

DOUBT = 1e-3  # of a norm: far more than statistics in float32 are off


def norm_over(axes: list[int] | None, x: Tensor, *, keepdim: bool = False) -> Tensor:
    """L2 norms over these axes, of the whole tensor for None; computed in at least float32."""
    dtype = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
    if axes == []:  # each number is a unit; torch would take no axes for all of them
        return x.abs().to(dtype)
    norm: Tensor = torch.linalg.vector_norm(x, dim=axes, keepdim=keepdim, dtype=dtype)
    return norm


def kept_by_layers(model: nn.Module) -> dict[int, Kept]:
    """What the layers of a model that standardise their weights keep, by the `id` of the weight."""
    found: dict[int, Kept] = {}
    for layer in model.modules():
        kept = getattr(layer, "kept", None)
        if isinstance(kept, Kept):
            found[id(layer.weight)] = kept
    return found


@dataclass(frozen=True)
class Group:
    """Tensors of one shape, whose units are measured in one call.

    Parameters
    ----------
    span : slice
        Where they stand in their bundle.
    unit_dim : int or None
        The unit axis of each; None: each is one unit.
    axes : list of int or None
        What a norm runs over once they are one tensor; None: everything.
    shape : tuple of int
        ``(tensors, ...)``: of their units, so that each part broadcasts against its tensor.
    """

    span: slice
    unit_dim: int | None
    axes: list[int] | None
    shape: tuple[int, ...]

    def norms(self, tensors: list[Tensor]) -> Tensor:
        """Norms of their units, one tensor's after the other's; the numbers are those of `unitwise_norm`."""
        if len(tensors) == 1:
            x = tensors[0]
        elif self.unit_dim is None:
            x = torch.stack(tensors).reshape(len(tensors), -1)
        else:
            x = torch.cat(tensors, self.unit_dim)
        return norm_over(self.axes, x).flatten()


@dataclass(frozen=True)
class Standardized:
    """Weights that their layers standardise, units on axis 0, and what the layers keep of that.

    Reading all weights once more is half of what clipping costs where no unit is clipped. The forward pass has read
    them, and the norm of a unit of N weights is ``sqrt(N * (mean ** 2 + std ** 2))``.

    Parameters
    ----------
    weights : list of Tensor
    kept : list of Kept
    """

    weights: list[Tensor]
    kept: list[Kept]

    @cached_property
    def counts(self) -> list[int]:
        """Units of each weight."""
        return [len(weight) for weight in self.weights]

    @cached_property
    def owners(self) -> Tensor:
        """Which of the weights each unit belongs to."""
        return torch.arange(len(self.counts)).repeat_interleave(torch.tensor(self.counts))

    @cached_property
    def fan_ins(self) -> Tensor:
        """N of each unit."""
        return torch.tensor([float(weight[0].numel()) for weight in self.weights])[self.owners]

    @cached_property
    def unknown(self) -> list[tuple[Tensor, Tensor]]:
        """In place of statistics that a layer has not, or that are of another weight."""
        return [(weight.new_full((1, len(weight)), math.nan, dtype=torch.float32),) * 2 for weight in self.weights]

    def norms(self, grads: Tensor, clip_factor: float, eps: float) -> Tensor | None:
        """Norms of all units, one weight's after the other's, as far as it takes to compare them with the gradients'.

        Where no unit of a weight can be above its bound, bounds from below stand in place of the norms: a little less
        than they are, which says the same of every unit. All others are measured. None if no weight's are known.

        Parameters
        ----------
        grads : Tensor
            Norms of the gradients of the same units.
        """
        found = [kept.statistics(weight) for kept, weight in zip(self.kept, self.weights)]
        if not any(found):
            return None
        mean, inverse_std = (
            torch.cat(each, 1).flatten() for each in zip(*(known or no for known, no in zip(found, self.unknown)))
        )
        norms = torch.addcmul(inverse_std.pow(-2), mean, mean).mul_(self.fan_ins).sqrt_().mul_(1 - DOUBT)
        near = ~(grads <= norms.clamp(min=eps).mul_(clip_factor))  # so is what is not a number
        parts = torch.split(norms, self.counts)
        for place in torch.unique_consecutive(self.owners[near]).tolist():
            weight = self.weights[place]
            parts[place].copy_(norm_over(list(range(1, weight.ndim)), weight))
        return norms
