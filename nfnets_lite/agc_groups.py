"""What adaptive clipping measures together: worked out once, and again when the gradients are of another kind."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from operator import is_
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from nfnets_lite.agc_norms import Group, Standardized
from nfnets_lite.roles import Role
from nfnets_lite.standardize_ways import Kept

if TYPE_CHECKING:
    from nfnets_lite.agc_triton import Rows

Units: TypeAlias = list[tuple[Tensor, Role]]
Grads: TypeAlias = list[Tensor | None]
SMALL = 2**14  # elements: up to here a kernel's launch costs more than a copy beside the others of a shape
LARGE = 2**16  # elements: from here on a weight that need not be read saves more than it takes to know that


@dataclass(frozen=True)
class Bundle:
    """Dense gradients of one device that are clipped in one go, group after group.

    Parameters
    ----------
    places : list of int
        Where each gradient stands among the units of a `Plan`.
    parameters : list of Tensor
    groups : list of Group
    dtype : torch.dtype
        Of the factors.
    standardized : Standardized or None
        The parameters of the last so many groups, where layers standardise them on a CPU.
    rows : Rows or None
        The same gradients as one kernel takes them, on a GPU.
    """

    places: list[int]
    parameters: list[Tensor]
    groups: list[Group]
    dtype: torch.dtype
    standardized: Standardized | None
    rows: "Rows | None"

    def norms(self, tensors: list[Tensor]) -> Tensor:
        """Norms of all units of the parameters, or of their gradients."""
        return torch.cat([group.norms(tensors[group.span]) for group in self.groups])

    def weight_norms(self, grads: Tensor, clip_factor: float, eps: float) -> Tensor:
        """Norms of all units of the parameters, as far as it takes to compare them with these of their gradients."""
        behind = self.standardized
        last: Tensor | None = None
        if behind is not None and not torch.compiler.is_compiling():
            last = behind.norms(grads[-len(behind.owners) :], clip_factor, eps)
        if behind is None or last is None:
            return self.norms(self.parameters)
        others = [group.norms(self.parameters[group.span]) for group in self.groups[: -len(behind.weights)]]
        return torch.cat([*others, last])

    def views(self, factor: Tensor) -> list[Tensor]:
        """Cut a number for each unit into one tensor for each gradient."""
        parts = zip(torch.split(factor, [math.prod(group.shape) for group in self.groups]), self.groups)
        return [view for part, group in parts for view in part.view(group.shape).unbind()]

    @cached_property
    def room(self) -> tuple[Tensor, list[Tensor]]:
        """Where factors stay on a CPU, and its views, which cost more to make than the numbers.

        Not for a GPU: a captured graph would go on writing there after this is gone.
        """
        factor = torch.empty(sum(math.prod(group.shape) for group in self.groups), dtype=self.dtype)
        return factor, self.views(factor)

    @cached_property
    def owner(self) -> Tensor:
        """Which of the gradients each unit belongs to."""
        counts = [math.prod(group.shape[1:]) for group in self.groups for _ in range(group.shape[0])]
        return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


@dataclass(frozen=True)
class Plan:
    """What is clipped how, for as long as the units and the kinds of their gradients stay.

    Parameters
    ----------
    units, kinds : list
        What was planned for.
    alone : list of int
        Where among the units those stand whose gradients are sharded, or whose units are cut in groups.
    bundles : list of Bundle
        All others.
    """

    units: Units
    kinds: list[tuple[Any, ...] | None]
    alone: list[int]
    bundles: list[Bundle]

    def fits(self, units: Units, grads: Grads) -> bool:
        """Whether it is still the plan for these; asked at each call, so it looks at attributes and makes nothing."""
        # `==` would compare tensors. A list that was changed in place is noticed as well.
        if len(units) != len(self.units) or not all(map(is_, units, self.units)):
            return False
        for (parameter, _), grad, kind in zip(units, grads, self.kinds):
            if grad is None or kind is None:
                if grad is not None or kind is not None:
                    return False
                continue
            dtype, of_parameter, layout, its_type, device, shape, memory = kind
            if (
                grad.dtype is not dtype
                or parameter.dtype is not of_parameter
                or grad.layout is not layout
                or type(grad) is not its_type
                or grad.device != device
                or grad.shape != shape
                or (memory is not None and memory != _memory(parameter, grad))
            ):
                return False
        return True


def kind_of(parameter: Tensor, grad: Tensor) -> tuple[Any, ...]:
    """All of a gradient that a plan depends on."""
    kind = (grad.dtype, parameter.dtype, grad.layout, type(grad), grad.device, grad.shape)
    return (*kind, _memory(parameter, grad) if grad.is_cuda else None)


def _memory(parameter: Tensor, grad: Tensor) -> tuple[object, ...]:
    """What a kernel takes for granted: it reads memory without a look at the tensor."""
    return grad.stride(), parameter.stride(), parameter.shape, parameter.device


def make_plan(units: Units, grads: Grads, kept: Mapping[int, Kept]) -> Plan:
    """Sort the gradients into bundles, and those into groups; `kept` is what layers keep, by the id of their weight."""
    alone: list[int] = []
    bundles: dict[tuple[object, ...], list[int]] = {}
    for place, ((parameter, role), grad) in enumerate(zip(units, grads)):
        if grad is None:
            continue
        if grad.is_sparse:
            raise ValueError(
                f"the gradient of a parameter of shape {tuple(parameter.shape)} is sparse; adaptive clipping needs "
                "dense gradients (build the Embedding with sparse=False, or leave its parameter out)"
            )
        if role.groups > 1 or hasattr(grad, "full_tensor"):
            alone.append(place)
        else:
            key = (grad.device, grad.dtype == torch.float64, _for_a_kernel(parameter, grad, role))
            bundles.setdefault(key, []).append(place)
    present = {place: grad for place, grad in enumerate(grads) if grad is not None}
    made = [_bundle(units, present, places, kept, in_rows=key[-1] is not None) for key, places in bundles.items()]
    kinds = [None if grad is None else kind_of(parameter, grad) for (parameter, _), grad in zip(units, grads)]
    return Plan(list(units), kinds, alone, made)


def _for_a_kernel(parameter: Tensor, grad: Tensor, role: Role) -> tuple[torch.dtype, torch.dtype] | None:
    """Dtypes that a kernel is built for, or None for what none takes."""
    if not grad.is_cuda or torch.compiler.is_compiling():
        return None
    from nfnets_lite import agc_triton  # not at the top: it imports triton

    return (parameter.dtype, grad.dtype) if agc_triton.takes(parameter, grad, role.unit_dim) else None


def _bundle(
    units: Units, grads: dict[int, Tensor], places: list[int], kept: Mapping[int, Kept], *, in_rows: bool
) -> Bundle:
    alike: dict[object, list[int]] = {}
    measured: list[int] = []
    for place in places:
        (parameter, role), grad = units[place], grads[place]
        if id(parameter) in kept and role.unit_dim == 0 and grad.numel() > LARGE and not grad.is_cuda:
            measured.append(place)
        else:
            key = (grad.shape, role.unit_dim, parameter.dtype, grad.dtype) if grad.numel() <= SMALL else place
            alike.setdefault(key, []).append(place)
    groups: list[Group] = []
    ordered: list[int] = []
    for members in [*alike.values(), *([place] for place in measured)]:
        sizes, unit_dim = grads[members[0]].shape, units[members[0]][1].unit_dim
        axes: list[int] | None = [d for d in range(len(sizes)) if d != unit_dim]
        if unit_dim is None:
            axes = [1] if len(members) > 1 else None
        shape = (len(members), *(size if d == unit_dim else 1 for d, size in enumerate(sizes)))
        groups.append(Group(slice(len(ordered), len(ordered) + len(members)), unit_dim, axes, shape))
        ordered += members
    parameters = [units[place][0] for place in ordered]
    double = any(x.dtype == torch.float64 for x in (*parameters, *(grads[place] for place in places)))
    rows = None
    if in_rows:
        from nfnets_lite.agc_triton import Rows

        rows = Rows(parameters, [units[place][1].unit_dim for place in ordered])
    weights = [units[place][0] for place in measured]
    standardized = Standardized(weights, [kept[id(weight)] for weight in weights]) if weights else None
    return Bundle(ordered, parameters, groups, torch.float64 if double else torch.float32, standardized, rows)
