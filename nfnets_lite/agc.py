"""Adaptive gradient clipping: bound each unit's gradient by a fraction of the norm of the unit's weights."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from nfnets_lite._checks import as_iterable, check_number
from nfnets_lite.roles import Classifier, Role, _refuse_sparse, _unit_dim, parameter_roles

Parameters: TypeAlias = nn.Module | Tensor | Iterable[Tensor] | Mapping[str, tuple[Tensor, Role]]

_SMALL = 2**14  # elements: up to this size, stacking tensors of one shape costs less than one call for each


def unitwise_norm(x: Tensor, unit_dim: int | None = 0, groups: int = 1) -> Tensor:
    """L2 norm of each unit, shaped to broadcast against `x`; computed in at least float32.

    Parameters
    ----------
    x : Tensor
        A weight or its gradient.
    unit_dim : int or None
        Axis whose indices are the units; None takes the whole tensor as one unit.
    groups : int
        Above 1 for a grouped transposed convolution, ``(I, O / groups, *K)``: a unit is an index of axis 1 within one
        of this many equal parts of axis 0. The norm is repeated along the part.

    Examples
    --------
    >>> unitwise_norm(torch.ones(2, 4, 2, 2)).flatten().tolist()
    [4.0, 4.0]
    """
    if groups > 1:
        parts = x.view(groups, -1, *x.shape[1:])
        return _norm(parts, [0, 2]).repeat_interleave(parts.shape[1], dim=1).flatten(0, 1)
    return _norm(x, [] if unit_dim is None else [unit_dim])


def _norm(x: Tensor, unit_dims: Sequence[int]) -> Tensor:
    """L2 norm over every axis that is not in `unit_dims`, shaped to broadcast against `x`."""
    x = x.abs() if x.is_complex() else x
    dtype = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
    summed = [d for d in range(x.ndim) if d not in unit_dims]
    if not summed:  # each number is a unit; torch would read an empty list as all axes
        return x.abs().to(dtype)
    return torch.linalg.vector_norm(x, dim=summed, keepdim=len(unit_dims) > 0, dtype=dtype)  # type: ignore[no-any-return]


def _norms(tensors: list[Tensor], unit_dims: Sequence[int]) -> Tensor:
    """Unit norms of tensors of one shape; entry i along axis 0 broadcasts against tensor i."""
    if len(tensors) > 1 and tensors[0].numel() <= _SMALL:
        return _norm(torch.stack(tensors), [0, *(d + 1 for d in unit_dims)])
    return torch.stack([_norm(x, unit_dims) for x in tensors])


class AdaptiveClip:
    """Adaptive gradient clipping with the parameters' roles resolved once; call it before each optimizer step.

    Formula, arguments and errors are those of `adaptive_clip_grad_`, which resolves the roles at every call. Made from
    a model, an `AdaptiveClip` resolves them again when trainable parameters of the model were replaced, added, frozen
    or thawed, as by ``reset_classifier`` or ``load_state_dict(assign=True)``. Made from roles or tensors, it keeps to
    these tensors. Its ``units``, a tuple of (Tensor, Role), are what it clips, each once; they are not to be assigned.

    Examples
    --------
    Clip the weights alone, and leave gains and biases as they are:

    >>> net = nn.Linear(4, 2)
    >>> _ = net(torch.ones(1, 4)).sum().backward()
    >>> roles = parameter_roles(net, classifier=None)
    >>> clip = AdaptiveClip({name: (p, role) for name, (p, role) in roles.items() if role.kind == "weight"})
    >>> float(clip())  # every unit was above its bound
    1.0
    """

    def __init__(
        self, parameters: Parameters, clip_factor: float = 0.01, eps: float = 1e-3, *, classifier: Classifier = "auto"
    ) -> None:
        check_number("clip_factor", clip_factor, above=0)
        check_number("eps", eps, above=0)
        self.clip_factor, self.eps = clip_factor, eps
        self._model = parameters if isinstance(parameters, nn.Module) else nn.Module()  # without parameters
        self._classifier = list(classifier) if isinstance(classifier, Iterator) else classifier  # to be read again
        self._found = [p for p in self._model.parameters() if p.requires_grad]
        self.units = _chosen(parameters, self._classifier)

    def __call__(self) -> Tensor:
        """Clip the gradients in place; returns the fraction of units that were clipped, a 0-d tensor."""
        return self._clip_units(self._current_units())

    def _current_units(self) -> tuple[tuple[Tensor, Role], ...]:
        """The parameters to be clipped. They are found anew if the model has other trainable parameters by now."""
        now = [p for p in self._model.parameters() if p.requires_grad]
        if [*map(id, now)] != [*map(id, self._found)]:
            self._found, self.units = now, _chosen(self._model, self._classifier)
        return self.units

    @torch.no_grad()
    def _clip_units(self, units: Iterable[tuple[Tensor, Role]]) -> Tensor:
        groups: dict[tuple[tuple[int, ...], object], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for place, (parameter, role) in enumerate(units):
            weight, grad = parameter, parameter.grad
            unit_dims: tuple[int, ...] = () if role.unit_dim is None else (role.unit_dim,)
            if grad is None:
                continue
            _refuse_sparse(parameter)
            if role.groups > 1:  # a unit is an index of axis 1 within one part of axis 0
                weight, grad = (x.view(role.groups, -1, *x.shape[1:]) for x in (weight, grad))
                unit_dims = (0, 2)
            # Gradients of one shape, device and dtype share a call; a sharded gradient (DTensor) has a call of its own.
            alike = (grad.shape, grad.device, grad.dtype, weight.dtype)
            groups[unit_dims, place if hasattr(grad, "full_tensor") else alike].append((weight, grad))
        if not groups:
            cure = "all are frozen, or an empty list was passed (a generator gives its tensors only once)"
            if any(p.requires_grad for p, _ in self.units):
                cure = "call this after loss.backward() and before optimizer.zero_grad()"
            raise ValueError(f"parameters: none of the {len(self.units)} to be clipped has a gradient; {cure}")
        above = [self._clip(dims, [w for w, _ in pairs], [g for _, g in pairs]) for (dims, _), pairs in groups.items()]
        clipped = torch.cat([each.to(above[0].device) for each in above]).float()
        return clipped.mean() if len(clipped) else clipped.sum()  # 0, where no layer has a unit

    def _clip(self, unit_dims: tuple[int, ...], weights: list[Tensor], grads: list[Tensor]) -> Tensor:
        """Clip gradients of one shape in place; returns which of their units were above the bound, 1-d."""
        factor, above = self._factor(_norms(weights, unit_dims), _norms(grads, unit_dims))
        places = list(range(len(grads)))
        if grads[0].device.type == "cpu" and not torch.compiler.is_compiling() and not hasattr(above, "full_tensor"):
            # On a CPU, skip tensors without a clipped unit. On a GPU, asking for them would wait, and break a graph.
            places = above.view(len(grads), above[0].numel()).any(1).nonzero().flatten().tolist()
        if places:
            torch._foreach_mul_([grads[i] for i in places], [factor[i] for i in places])
        return (above.full_tensor() if hasattr(above, "full_tensor") else above).flatten()

    def _factor(self, weight: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
        """Factor on each unit's gradient, and which units are above their bound, from the norms of weight and grad."""
        bound = weight.clamp(min=self.eps) * self.clip_factor
        # A norm of finite numbers can overflow. The gradient then becomes NaN, a visible failure.
        overflow = torch.maximum(weight, norm) == torch.inf
        above = (norm > bound) | overflow  # false for a NaN norm: the gradient stays NaN
        factor = torch.where(above, bound / norm.clamp(min=1e-6), 1.0)
        return torch.where(overflow, torch.nan, factor), above


def _chosen(parameters: Parameters, classifier: Classifier) -> tuple[tuple[Tensor, Role], ...]:
    """Parameters to be clipped with their roles, each once."""
    if isinstance(parameters, nn.Module):
        parameters = parameter_roles(parameters, classifier=classifier)
    elif classifier is not None and classifier != "auto":
        raise ValueError("classifier= needs the model as first argument; pass the model, not its parameters or roles")
    units: dict[int, tuple[Tensor, Role]] = {}  # by identity
    for entry in as_iterable(parameters.values() if isinstance(parameters, Mapping) else parameters):
        match entry:
            case Tensor():
                units[id(entry)] = (entry, Role("weight", _unit_dim(entry), clip=True, decay=True))
            case (Tensor() as parameter, Role() as role):
                units |= {id(parameter): (parameter, role)} if role.clip else {}
            case _:
                raise TypeError(
                    f"parameters holds a {type(entry).__name__}; pass a model, parameter_roles(model), tensors or one "
                    "tensor (model.parameters(), not named_parameters() nor optimizer groups)"
                )
    return tuple(units.values())


def adaptive_clip_grad_(
    parameters: Parameters, clip_factor: float = 0.01, eps: float = 1e-3, *, classifier: Classifier = "auto"
) -> Tensor:
    r"""Clip gradients in place, unit by unit, in proportion to the norm of the unit's weights.

    .. math:: G_i \leftarrow \lambda \frac{\max(\|W_i\|, \epsilon)}{\|G_i\|} G_i
              \quad\text{if}\quad \|G_i\| > \lambda \max(\|W_i\|, \epsilon)

    A unit is an output channel of a convolution or a row of a linear layer; a gain, a bias or a scalar is one unit
    as a whole.

    Parameters
    ----------
    parameters : nn.Module, Tensor, iterable of Tensor, or mapping of str to (Tensor, Role)
        A model: the classifier's weight is left alone, and every other parameter is clipped by its role (see
        `nfnets_lite.roles`). A mapping as `parameter_roles` returns it, perhaps with fewer entries or other roles.
        Bare tensors are all clipped, with axis 0 as the unit axis. A parameter that is listed twice is clipped once.
    clip_factor : float
        :math:`\lambda`, the threshold. The paper uses 0.01 with SGD and batch sizes of 1024 to 4096; other optimizers
        need other values.
    eps : float
        Lower bound on a unit's weight norm, so that zero-initialised parameters can move.
    classifier : "auto", nn.Module, iterable of nn.Module or None
        For a model: the layer, or layers, whose weight is not clipped, as in `parameter_roles`. "auto" asks
        ``model.get_classifier()``; the head of a model without it is clipped unless named, a convolution too.

    Returns
    -------
    Tensor
        0-d, on the gradients' device: the fraction of units that were clipped. Reading it waits for the device.

    Raises
    ------
    ValueError
        If `clip_factor` or `eps` is no finite number above 0, a gradient is sparse, no parameter has a gradient, a role
        is unknown (`parameter_roles`), or `classifier` is named without a model.
    TypeError
        If `parameters` are neither a model, nor roles, nor tensors.

    Notes
    -----
    Call it once per update, after the last ``backward`` of an accumulation, on *unscaled* gradients: with a
    ``GradScaler``, call ``scaler.unscale_(optimizer)`` first. A wrong order is not noticed, because gradients do not
    show their scale. Parameters without a gradient are skipped. A NaN gradient stays NaN. A unit's gradient becomes NaN
    if the norm of its weights or of its gradient overflows. NFNet (arXiv 2102.06171), section 4.

    Examples
    --------
    >>> w = torch.ones(2, 4, requires_grad=True)
    >>> (w * torch.tensor([[1.0], [1e-3]])).sum().backward()
    >>> float(adaptive_clip_grad_(w))  # the first row is above 0.01 * 2, the second is not
    0.5
    """
    return AdaptiveClip(parameters, clip_factor, eps, classifier=classifier)()
