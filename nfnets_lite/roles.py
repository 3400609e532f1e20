"""Roles of parameters, which decide the unit of adaptive clipping, whether to clip, and whether to decay.

Roles come from the *type* of the module that owns a parameter, never from its name or its place in a list.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.utils.parametrize import ParametrizationList
from torch.optim.swa_utils import AveragedModel

from nfnets_lite._checks import as_iterable, check_model

Classifier: TypeAlias = nn.Module | Iterable[nn.Module] | Literal["auto"] | None

_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CONV_TRANSPOSE = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# Weights (out, in, ...); the rows of an RNN's stacked gates are outputs, too.
_MATRICES = (nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)
_AFFINE = (nn.LayerNorm, nn.RMSNorm)  # their weight is a gain, even if it has several axes


@dataclass(frozen=True)
class Role:
    """One parameter's role.

    Attributes
    ----------
    kind : str
        ``"weight"``, ``"classifier"``, ``"gain"``, ``"bias"`` or ``"unknown"``.
    unit_dim : int or None
        Axis whose indices are the units of adaptive gradient clipping; None: the whole tensor is one unit.
    clip, decay : bool
        Whether the gradient is clipped adaptively, and whether weight decay applies.
    groups : int
        Groups of a transposed convolution, as in `unitwise_norm`; 1 for every other parameter.
    """

    kind: str
    unit_dim: int | None
    clip: bool
    decay: bool
    groups: int = 1


GAIN = Role("gain", None, clip=True, decay=False)
BIAS = Role("bias", None, clip=True, decay=False)
CLASSIFIER = Role("classifier", 0, clip=False, decay=True)
UNKNOWN = Role("unknown", None, clip=False, decay=False)


def parameter_roles(
    model: nn.Module, *, classifier: Classifier = "auto", strict: bool = True
) -> dict[str, tuple[nn.Parameter, Role]]:
    """Role of every trainable parameter of a model, by name; a shared parameter is listed once.

    The rule is that of the authors' code (NFNet, arXiv 2102.06171, section 4.1). The classifier's *weight* is decayed
    and not clipped. Gains, scalars and biases, the classifier's too, are clipped and not decayed. Every other weight is
    clipped and decayed.

    Parameters
    ----------
    model : nn.Module
        A parametrised tensor (``weight_norm``, ``spectral_norm``, ``orthogonal``) passes its role on to the parameters
        that it is computed from; only the lengths in ``weight_norm`` are a gain.
        A module of your own declares its parameters by an attribute, ``agc_unit_dims = {"kernel": 0, "scale": None}``.
        An axis makes a weight, None a gain (one unit, no decay).
    classifier : "auto", nn.Module, iterable of nn.Module or None
        The layer, or layers, whose weight is not clipped; a container stands for the one layer in it that has a weight.
        "auto" asks ``model.get_classifier()``, which models of this package and of timm have. None: clip everything.
        A model without ``get_classifier`` must name its head: "auto" raises if the model has linear layers. Without
        linear layers, "auto" clips every weight, also that of a convolutional head.
    strict : bool
        False lists a parameter of unknown role as `UNKNOWN` instead of raising.

    Raises
    ------
    ValueError
        If "auto" finds no ``get_classifier`` though the model has linear layers. If `classifier` is not part of the
        model or holds several layers with a weight. If a parameter with more than one long axis belongs to a module of
        unknown type.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    >>> {name: role.clip for name, (_, role) in parameter_roles(net, classifier=net[2]).items()}
    {'0.weight': True, '0.bias': True, '2.weight': False, '2.bias': True}
    """
    check_model("model", model)
    exempt = {id(weight) for head in _find_classifiers(model, classifier) for weight in _weights(head)}
    roles: dict[str, tuple[nn.Parameter, Role]] = {}
    unknown: list[str] = []
    for name, parameter in nn.Module.named_parameters(model):  # wrappers of torch override it and shorten the names
        if not parameter.requires_grad:
            continue
        prefix, _, leaf = name.rpartition(".")
        module = model.get_submodule(prefix)
        role = GAIN
        if not isinstance(module, ParametrizationList):
            role = _role(name, leaf, parameter, module)
        elif not _is_magnitude(leaf, parameter):  # it makes one tensor of a layer, as "0.parametrizations.weight" says
            layer, _, tensor = prefix.rpartition("parametrizations.")
            role = _role(name, tensor, parameter, model.get_submodule(layer.removesuffix(".")))
        if id(parameter) in exempt:  # by identity: an embedding may share it
            role = replace(role, kind="classifier", clip=False) if role.kind == "weight" else CLASSIFIER
        roles[name] = (parameter, role)
        if role is UNKNOWN:
            unknown.append(f"{name} {tuple(parameter.shape)} of a {type(module).__name__}")
    if strict and unknown:
        raise ValueError(
            f"the output axis is not known of: {'; '.join(unknown)}. Known are convolutions (transposed too), Linear, "
            "Bilinear, Embedding, attention, recurrent and norm layers, and any parameter with one long axis. Declare "
            "it on the owning module: agc_unit_dims = {'<parameter>': <axis>, or None for one unit}"
        )
    return roles


def _role(name: str, leaf: str, parameter: Tensor, module: nn.Module) -> Role:
    declared = getattr(module, "agc_unit_dims", {})
    if isinstance(declared, Mapping) and leaf in declared:
        axis = declared[leaf]
        if axis is None:
            return GAIN
        if not isinstance(axis, int) or not -parameter.ndim <= axis < parameter.ndim:
            raise ValueError(
                f"agc_unit_dims declares {axis!r} for parameter {name!r} of shape {tuple(parameter.shape)}; give one "
                f"of its axes, 0 to {parameter.ndim - 1}, or None for one unit"
            )
        return Role("weight", axis % parameter.ndim, clip=True, decay=True)
    vector = BIAS if "bias" in leaf else GAIN
    unit_dim = _unit_dim(parameter)
    if leaf == "weight" and parameter.ndim == 1 and isinstance(module, (*_CONV, *_CONV_TRANSPOSE, nn.Linear)):
        raise ValueError(
            f"parameter {name!r} has shape {tuple(parameter.shape)}, though it is the weight of a "
            f"{type(module).__name__}: it was flattened, by FSDP1 for instance, and its units are lost. Shard with "
            "torch.distributed.fsdp.fully_shard (FSDP2), which keeps them"
        )
    if parameter.ndim <= 1 or isinstance(module, _AFFINE) or _is_magnitude(leaf, parameter):
        return vector
    if isinstance(module, _CONV_TRANSPOSE):
        whole = unit_dim is None and module.groups == 1
        return Role("weight", None if whole else 1, clip=True, decay=True, groups=module.groups)
    if isinstance(module, nn.MultiheadAttention) and unit_dim is None:
        return vector  # bias_k and bias_v, (1, 1, E)
    if isinstance(module, (*_CONV, *_MATRICES)):
        return Role("weight", unit_dim, clip=True, decay=True)
    return UNKNOWN if unit_dim is not None else vector


def _unit_dim(parameter: Tensor) -> int | None:
    """Unit axis of a bare tensor: 0, or None (one unit) if at most one axis is longer than 1."""
    return None if parameter.ndim <= 1 or parameter.numel() == max(parameter.shape) else 0


def _refuse_sparse(parameter: Tensor) -> None:
    """Raise a ValueError if the gradient has no dense memory."""
    if parameter.grad is not None and parameter.grad.layout != torch.strided:
        raise ValueError(
            f"the gradient of a parameter of shape {tuple(parameter.shape)} is sparse; a norm over it needs a dense "
            "one (build the Embedding with sparse=False, or leave its parameter out)"
        )


def _is_magnitude(leaf: str, parameter: Tensor) -> bool:
    """Whether a parameter holds the lengths of a weight's units: original0 or weight_g of ``weight_norm``."""
    known = leaf in ("original0", "weight_g") and _unit_dim(parameter) is None
    return known or (leaf.startswith("original") and parameter.ndim <= 1)


def _inner(model: nn.Module) -> nn.Module:
    """The model inside ``torch.compile``, ``DataParallel``, ``DistributedDataParallel`` and ``AveragedModel``."""
    while True:
        if isinstance(model, (DataParallel, DistributedDataParallel, AveragedModel)):
            model = model.module
        elif isinstance(within := model._modules.get("_orig_mod"), nn.Module):
            model = within
        else:
            return model


def _find_classifiers(model: nn.Module, classifier: Classifier) -> list[nn.Module]:
    if isinstance(classifier, str):
        if classifier != "auto":
            raise ValueError(f"classifier={classifier!r} must be 'auto', None or a layer of the model, not its name")
        bare = _inner(model)
        if not callable(getattr(bare, "get_classifier", None)):
            linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
            if linears:
                raise ValueError(
                    f"classifier='auto' needs {type(bare).__name__}.get_classifier(), which it lacks, and the model "
                    f"has linear layers ({', '.join(linears[-3:])}): pass classifier=<the layer whose weight is not to "
                    "be clipped>, or classifier=None to clip everything"
                )
            return []
        classifier = bare.get_classifier()  # type: ignore[operator]
    several = () if classifier is None else as_iterable(classifier)
    heads = [classifier] if isinstance(classifier, nn.Module) else list(several)
    parts = set(model.modules())
    for head in heads:
        if not isinstance(head, nn.Module) or head not in parts:
            shown = f"a {type(head).__name__}" if isinstance(head, Tensor) else repr(head)
            raise ValueError(f"classifier={shown} is not a module of the model; pass one of its layers, or None")
    return heads


def _weights(head: nn.Module) -> list[nn.Parameter]:
    """The weight of a classifier that is not clipped: its own, or that of the one layer in it that has a weight."""
    holders: dict[str, list[nn.Parameter]] = {}
    for name, (parameter, role) in parameter_roles(head, classifier=None, strict=False).items():
        if role.kind in ("weight", "unknown"):
            holders.setdefault(name.rpartition(".")[0], []).append(parameter)
    if "" not in holders and len(holders) > 1:
        raise ValueError(
            f"classifier={type(head).__name__} holds several layers with a weight ({', '.join(holders)}); pass the "
            "layer that gives the logits, or a list of the layers that are not to be clipped"
        )
    return holders.get("", [w for weights in holders.values() for w in weights])
