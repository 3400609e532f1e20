"""What each parameter is: its role decides its AGC unit, whether it is clipped and whether it is decayed.

Roles come from the *type* of the module that owns a parameter, never from its name or its place in a list.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

_LINEAR = (nn.Linear, nn.Bilinear, nn.Embedding)
_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CONV_TRANSPOSE = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Role:
    """One parameter's role.

    Attributes
    ----------
    kind : str
        ``"weight"``, ``"classifier"``, ``"gain"`` or ``"bias"``.
    unit_dim : int or None
        Axis whose indices are the units of adaptive gradient clipping; None: the whole tensor is one unit.
    clip, decay : bool
        Whether the gradient is clipped adaptively, and whether weight decay applies.
    """

    kind: str
    unit_dim: int | None
    clip: bool
    decay: bool


GAIN = Role("gain", None, clip=True, decay=False)
BIAS = Role("bias", None, clip=True, decay=False)
CLASSIFIER = Role("classifier", 0, clip=False, decay=True)


def parameter_roles(model: nn.Module, *, classifier: Any = "auto") -> dict[str, tuple[nn.Parameter, Role]]:
    """Role of every trainable parameter of a model, by name; a shared parameter is listed once.

    The rule is the one of the authors' code (NFNet, arXiv 2102.06171, section 4.1): the classifier's *weight* is
    decayed and not clipped; gains, biases and scalars (the classifier's bias among them) are clipped and not decayed;
    every other weight is both.

    Parameters
    ----------
    model : nn.Module
    classifier : "auto", nn.Module or None
        The linear layer whose weight is exempt from clipping. "auto" asks ``model.get_classifier()``, which the models
        of this package and timm's have. None: there is no classifier, clip everything.

    Raises
    ------
    ValueError
        If "auto" finds no ``get_classifier`` though the model has linear layers, if `classifier` is not part of the
        model, or if a parameter with more than one axis belongs to a module of unknown type.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    >>> {name: role.clip for name, (_, role) in parameter_roles(net, classifier=net[2]).items()}
    {'0.weight': True, '0.bias': True, '2.weight': False, '2.bias': True}
    """
    head = _find_classifier(model, classifier)
    roles: dict[str, tuple[nn.Parameter, Role]] = {}
    seen: set[int] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix=module_name, recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                roles[name] = (parameter, _role(name, parameter, module, is_head=module is head))
    return roles


def _role(name: str, parameter: Tensor, module: nn.Module, *, is_head: bool) -> Role:
    if parameter.ndim > 1:
        if is_head:
            return CLASSIFIER
        if isinstance(module, (*_CONV, *_LINEAR)):
            return Role("weight", unit_dim_of(parameter), clip=True, decay=True)
        if isinstance(module, _CONV_TRANSPOSE) and module.groups == 1:
            return Role("weight", 1, clip=True, decay=True)
    if unit_dim_of(parameter) is None:
        return BIAS if name.rpartition(".")[2] == "bias" else GAIN
    raise ValueError(
        f"parameter {name!r} of shape {tuple(parameter.shape)} belongs to a {type(module).__name__}, whose output axis "
        "is not known; known are convolutions, ungrouped transposed convolutions, Linear, Bilinear, Embedding, and "
        "any parameter with one axis. Clip it apart: adaptive_clip_grad_([parameter]) takes axis 0 as the unit axis"
    )


def _find_classifier(model: nn.Module, classifier: Any) -> nn.Module | None:
    if classifier == "auto":
        if callable(getattr(model, "get_classifier", None)):
            return model.get_classifier()  # type: ignore[no-any-return, operator]
        linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        if linears:
            raise ValueError(
                f"classifier='auto' needs {type(model).__name__}.get_classifier(), which it lacks, and the model has "
                f"linear layers ({', '.join(linears[-3:])}): pass classifier=<the layer whose weight is not to be "
                "clipped>, or classifier=None to clip all"
            )
        return None
    if classifier is not None and all(classifier is not module for module in model.modules()):
        raise ValueError(f"classifier={classifier!r} is not a module of the model; pass one of its layers, or None")
    return classifier  # type: ignore[no-any-return]


def unit_dim_of(parameter: Tensor) -> int | None:
    """Unit axis of a bare tensor: 0, or None (one unit) if at most one axis is longer than 1."""
    return None if parameter.ndim <= 1 or parameter.numel() == max(parameter.shape) else 0
