"""Adaptive gradient clipping: bound each unit's gradient by a fraction of its weight norm."""

from collections.abc import Iterable
from functools import reduce
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from nfnets_lite.agc_groups import Bundle, Grads, Plan, Units, make_plan
from nfnets_lite.agc_norms import kept_by_layers, norm_over
from nfnets_lite.roles import Classifier, Role, parameter_roles, unit_dim_of
from nfnets_lite.standardize_ways import Kept

Parameters: TypeAlias = nn.Module | Tensor | Iterable[Tensor]


def unitwise_norm(x: Tensor, unit_dim: int | None = 0, groups: int = 1) -> Tensor:
    """L2 norm of each unit, shaped to broadcast against `x`; computed in at least float32.

    Parameters
    ----------
    x : Tensor
        A weight or its gradient.
    unit_dim : int or None
        Axis whose indices are the units; None takes the whole tensor as one unit.
    groups : int
        Above 1, for the ``(I, O / groups, *K)`` of a grouped transposed convolution: each of this many equal parts of
        axis 0 has units of its own, and the norm is repeated along its part.

    Examples
    --------
    >>> unitwise_norm(torch.ones(2, 4, 2, 2)).flatten().tolist()
    [4.0, 4.0]
    """
    if groups > 1:
        parts = x.reshape(groups, -1, *x.shape[1:])
        of_parts = norm_over([d for d in range(1, parts.ndim) if d != 2], parts, keepdim=True)
        return of_parts.repeat_interleave(parts.shape[1], dim=1).flatten(0, 1)
    if unit_dim is None:
        return norm_over(None, x)
    return norm_over([d for d in range(x.ndim) if d != unit_dim], x, keepdim=True)


class AdaptiveClip:
    """Adaptive gradient clipping with the parameters' roles resolved once; call it before each optimizer step.

    `adaptive_clip_grad_` documents the arithmetic and the arguments; a training loop keeps one of these instead, so
    that the model is not walked at every step. Parameters that are frozen now are not seen later.

    Raises
    ------
    ValueError
        As `adaptive_clip_grad_`.
    TypeError
        For parameters that are neither a model nor tensors.

    Examples
    --------
    >>> net = nn.Linear(4, 2)
    >>> clip = AdaptiveClip(net, classifier=None)
    >>> _ = net(torch.ones(1, 4)).sum().backward()
    >>> float(clip())  # every unit was above its bound
    1.0
    """

    def __init__(
        self, parameters: Parameters, clip_factor: float = 0.01, eps: float = 1e-3, *, classifier: Classifier = "auto"
    ) -> None:
        for name, value in (("clip_factor", clip_factor), ("eps", eps)):
            if not value > 0:
                raise ValueError(f"{name}={value} must be above 0 (clip_factor around 0.01, eps around 1e-3)")
        self.clip_factor, self.eps = clip_factor, eps
        self.units: Units
        self._kept: dict[int, Kept] = {}  # what layers know of their weights, by the weights' id
        self._plan: Plan | None = None
        if isinstance(parameters, nn.Module):
            roles = parameter_roles(parameters, classifier=classifier).values()
            self.units = [(p, role) for p, role in roles if role.clip]
            self._kept = kept_by_layers(parameters)
        else:
            tensors = [parameters] if isinstance(parameters, Tensor) else list(parameters)
            for tensor in tensors:
                if not isinstance(tensor, Tensor):
                    raise TypeError(
                        f"parameters holds a {type(tensor).__name__}; pass a model, a tensor or an iterable of tensors "
                        "(model.parameters(), not named_parameters() nor optimizer groups)"
                    )
            self.units = [(p, Role("weight", unit_dim_of(p), clip=True, decay=True)) for p in tensors]

    def __getstate__(self) -> dict[str, object]:
        # A plan's views of one tensor would each come back with memory of its own, and every id is another then.
        return {**self.__dict__, "_plan": None, "_kept": {}}

    @torch.no_grad()
    def __call__(self) -> Tensor:
        """Clip the gradients in place; returns the fraction of units that were clipped, a 0-d tensor."""
        grads = [parameter.grad for parameter, _ in self.units]
        plan = self._planned(grads)
        clipped = [self._clip_one(*self.units[place]) for place in plan.alone]
        clipped += [self._clip_many(bundle, grads) for bundle in plan.bundles]
        if not clipped:
            raise ValueError(
                f"parameters: none of the {len(self.units)} to be clipped has a gradient; call this after "
                "loss.backward() and before optimizer.zero_grad()"
            )
        total = reduce(torch.add, [total.to(clipped[0][0].device) for total, _ in clipped])
        return total / sum(units for _, units in clipped)

    def _planned(self, grads: Grads) -> Plan:
        if torch.compiler.is_compiling():  # what is traced stays in the graph, and nothing of it is for other calls
            return make_plan(self.units, grads, self._kept)
        if self._plan is None or not self._plan.fits(self.units, grads):
            self._plan = make_plan(self.units, grads, self._kept)
        return self._plan

    def _clip_many(self, bundle: Bundle, all_grads: Grads) -> tuple[Tensor, int]:
        """Clip dense gradients of one device: small ones of a shape are measured together, all are clipped at once."""
        grads = [grad for place in bundle.places if (grad := all_grads[place]) is not None]
        if bundle.rows is not None and bundle.rows.ready(grads):
            return bundle.rows.clip_(grads, self.clip_factor, self.eps)
        norm = bundle.norms(grads)
        factor, above = self._factor(bundle.weight_norms(norm, self.clip_factor, self.eps), norm)
        total = above.sum()
        if total.device.type != "cpu" or torch.compiler.is_compiling():
            torch._foreach_mul_(grads, bundle.views(factor))
        elif total.item():  # on a CPU looking costs nothing, and most steps clip few units or none
            room, views = bundle.room
            room.copy_(factor)
            hit = torch.unique_consecutive(bundle.owner[above]).tolist()
            torch._foreach_mul_([grads[place] for place in hit], [views[place] for place in hit])
        return total, above.numel()

    def _clip_one(self, parameter: Tensor, role: Role) -> tuple[Tensor, int]:
        """Clip one gradient that is sharded, or whose units are cut in groups."""
        grad = parameter.grad
        assert grad is not None
        weight, norm = (unitwise_norm(x, role.unit_dim, role.groups) for x in (parameter, grad))
        factor, above = self._factor(weight, norm)
        grad.mul_(factor)
        if role.groups > 1:  # each unit stands there once per input channel of its group
            above = above[:: above.shape[0] // role.groups]
        total: Tensor = above.sum()
        return total.full_tensor() if hasattr(total, "full_tensor") else total, above.numel()

    def _factor(self, weight: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
        """What each unit's gradient is multiplied by, and which units are above their bound."""
        # Nothing in place: a sharded norm changes its placement on the way to a number.
        bound = weight.clamp(min=self.eps) * self.clip_factor
        above = norm > bound
        # A NaN norm compares false: its unit is left as it is, visible, rather than turned into zeros.
        return torch.where(above, bound / norm.clamp(min=1e-6), 1.0), above


def adaptive_clip_grad_(
    parameters: Parameters,
    clip_factor: float = 0.01,
    eps: float = 1e-3,
    *,
    classifier: Classifier = "auto",
    scaler: GradScaler | None = None,
) -> Tensor:
    r"""Clip gradients in place, unit by unit, in proportion to the norm of the unit's weights.

    .. math:: G_i \leftarrow \lambda \frac{\max(\|W_i\|, \epsilon)}{\|G_i\|} G_i
              \quad\text{if}\quad \|G_i\| > \lambda \max(\|W_i\|, \epsilon)

    A unit is an output channel of a convolution or a row of a linear layer; a gain, a bias or a scalar is one unit
    as a whole.

    Parameters
    ----------
    parameters : nn.Module, Tensor or iterable of Tensor
        A model: the classifier's weight is left alone and every other parameter is clipped by its role
        (see `nfnets_lite.roles`). Bare tensors are all clipped, with axis 0 as the unit axis.
    clip_factor : float
        :math:`\lambda`. The paper uses 0.01 for batches of 1024 to 4096 under SGD; adaptive optimizers want others.
    eps : float
        Lower bound on a unit's weight norm, so that zero-initialised parameters can move.
    classifier : "auto", nn.Module, iterable of nn.Module or None
        For a model: the layer whose weight is exempt, or several; "auto" asks ``model.get_classifier()``.
    scaler : GradScaler, optional
        The loss scaler in use, for a check: gradients that it has not unscaled are refused. A scale cannot be seen in
        the gradients themselves, so without this argument there is no check; `attach_agc` needs none.

    Returns
    -------
    Tensor
        0-d, on the gradients' device: the fraction of units that were clipped. Reading it waits for the device.

    Raises
    ------
    ValueError
        For a factor that is not positive, a sparse gradient, no gradient at all, a role that is not known
        (`parameter_roles`), or gradients that `scaler` has not unscaled.
    TypeError
        For parameters that are neither a model nor tensors.

    Notes
    -----
    Call it once per update, after the last ``backward`` of an accumulation, on *unscaled* gradients:
    ``scaler.unscale_(optimizer)``, this, ``scaler.step(optimizer)``, ``scaler.update()``. The optimizer adds weight
    decay and momentum afterwards. Parameters without a gradient are passed over; NaN stays NaN. On a CPU the norms of
    large standardised weights are known from the forward pass, unless they were changed since other than by ``.data``.
    NFNet (arXiv 2102.06171), section 4.

    Examples
    --------
    >>> w = torch.ones(2, 4, requires_grad=True)
    >>> (w * torch.tensor([[1.0], [1e-3]])).sum().backward()
    >>> float(adaptive_clip_grad_(w))  # the first row is above 0.01 * 2, the second is not
    0.5
    """
    if scaler is not None and scaler.is_enabled():
        # torch offers no public question for it. The states are per optimizer and are cleared by scaler.update().
        stages = [state["stage"].name for state in scaler._per_optimizer_states.values()]
        if "UNSCALED" not in stages:
            raise ValueError(
                f"scaler has not unscaled the gradients, which are {scaler.get_scale():g} times too large: clipped "
                "now, they would be divided by that afterwards. Call scaler.unscale_(optimizer) first"
            )
    return AdaptiveClip(parameters, clip_factor, eps, classifier=classifier)()
