"""Models by name."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from fnmatch import fnmatch
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, overload

from nfnets_lite._checks import check_number
from nfnets_lite.models import nf_regnet, nfnet, vit_spec
from nfnets_lite.models.hints import argument_hint, model_hint
from nfnets_lite.models.resnet import ResNet
from nfnets_lite.models.spec import ResNetSpec
from nfnets_lite.models.vit import VisionTransformer
from nfnets_lite.models.vit_spec import ViTSpec

Spec: TypeAlias = ResNetSpec | ViTSpec
Width: TypeAlias = float | Sequence[int] | None

_CIFAR = ResNetSpec(
    depth=(1, 1, 1), width=(16, 32, 64), strides=(1, 2, 2), branch=(3, 3), bottleneck=1.0,
    stem="cifar", stem_width=16, num_classes=10,
)  # fmt: skip
_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3), 288: (24, 24, 24, 24)}
# As in the authors' nfnets/nf_resnet.py, nfnets/resnet.py and related files: stochastic depth 0.1 without a norm, none
# with batch norm. Squeeze-excite has a quarter of the width, and its gate is not doubled with batch norm.
_NORM_FREE = ResNetSpec(stochastic_depth=0.1)
_RESNETS: Mapping[str, ResNetSpec] = {
    "": ResNetSpec(),
    "se_": ResNetSpec(se_ratio=0.25, se_scale=1.0),
    "nf_": _NORM_FREE.with_method("nf"),
    "se_nf_": replace(_NORM_FREE, se_ratio=0.25).with_method("nf"),
    "skipinit_": _NORM_FREE.with_method("skipinit"),
    "fixup_": _NORM_FREE.with_method("fixup"),
}

SPECS: Mapping[str, Spec] = MappingProxyType(
    {f"cifar_resnet{6 * n + 2}": replace(_CIFAR, depth=(n, n, n)) for n in (1, 2, 3, 5, 9, 18)}
    | {
        f"{prefix}resnet{layers}": replace(spec, depth=depth)
        for prefix, spec in _RESNETS.items()
        for layers, depth in _DEPTHS.items()
    }
    | dict(nfnet.SPECS)
    | dict(nf_regnet.SPECS)
    | dict(vit_spec.SPECS)
)
RESOLUTIONS: Mapping[str, nfnet.Resolution] = MappingProxyType({**nfnet.RESOLUTIONS, **nf_regnet.RESOLUTIONS})


def list_models(pattern: str = "") -> list[str]:
    """Sorted names of the models that `create_model` builds and whose name contains `pattern`, wildcards allowed.

    Examples
    --------
    >>> list_models("cifar_resnet2"), list_models("vit_*")
    (['cifar_resnet20'], ['vit_tiny'])
    """
    return sorted(name for name in SPECS if fnmatch(name, pattern if "*" in pattern else f"*{pattern}*"))


# For type checkers, a name that is a variable is a ResNet's: all names but one are.
@overload
def model_spec(
    name: Literal["vit_tiny"] | ViTSpec, *, method: str | None = None, width: Width = None, **overrides: Any
) -> ViTSpec: ...
@overload
def model_spec(
    name: str | ResNetSpec, *, method: str | None = None, width: Width = None, **overrides: Any
) -> ResNetSpec: ...
def model_spec(name: str | Spec, *, method: str | None = None, width: Width = None, **overrides: Any) -> Spec:
    """The frozen specification behind a name, with a method preset and single fields replaced, in that order.

    The arguments are those of `create_model`.

    Examples
    --------
    >>> model_spec("cifar_resnet8", method="nf", alpha=1.0).alpha
    1.0
    >>> half = model_spec("nfnet_f0", width=0.5, group_width=64)
    >>> half.width, half.stem_channels, half.head_channels
    ((128, 256, 768, 768), 128, 1536)
    """
    if isinstance(name, str):
        if name not in SPECS:
            known = ", ".join(list_models())
            raise ValueError(f"model {name!r} is not known; use one of {known}{model_hint(name, SPECS)}")
        spec = SPECS[name]
    elif isinstance(name, (ResNetSpec, ViTSpec)):
        spec = name
    else:
        raise TypeError(
            f"name={name!r} must be a name of list_models(), or a ResNetSpec or ViTSpec such as ResNetSpec()"
        )
    spec = spec if method is None else spec.with_method(method)
    names = [field.name for field in fields(spec)]
    unknown = sorted(set(overrides) - set(names))
    if unknown:
        raise ValueError(
            f"override {unknown[0]!r} is not a field of the spec; use one of {', '.join(names)}"
            f"{argument_hint(unknown[0], names)}"
        )
    return replace(spec, **{**({} if width is None else _widths(spec, width)), **overrides})


def _widths(spec: Spec, width: float | Sequence[int]) -> dict[str, Any]:
    if isinstance(spec, ViTSpec):
        raise ValueError(f"width={width} scales the stages of a ResNet; a vision transformer has dim={spec.dim}")
    if not isinstance(width, (int, float)):
        return {"width": tuple(width)}
    check_number("width", width, above=0)
    # The authors' `width` scales the stages, but not this stem.
    stem = {"stem_width": spec.stem_channels} if spec.stem == "nfnet" else {}
    return {"width": tuple(int(w * width) for w in spec.width), **stem}


@overload
def create_model(
    name: Literal["vit_tiny"] | ViTSpec, *, method: str | None = None, width: Width = None, **overrides: Any
) -> VisionTransformer: ...
@overload
def create_model(
    name: str | ResNetSpec, *, method: str | None = None, width: Width = None, **overrides: Any
) -> ResNet: ...
def create_model(
    name: str | Spec, *, method: str | None = None, width: Width = None, **overrides: Any
) -> ResNet | VisionTransformer:
    """Build a model, with fresh parameters from torch's global generator.

    Parameters
    ----------
    name : str, ResNetSpec or ViTSpec
        One of `list_models()`, or a specification of your own.
    method : str, optional
        A named combination of norm, convolution, residual rule and order: ``"bn"``, ``"gn_ws"``, ``"skipinit"``,
        ``"nf"``, ...; all are in `nfnets_lite.models.METHODS`. None keeps the model's own. A vision transformer accepts
        the methods that set only a norm.
    width : float or sequence of int, optional
        A factor on the model's stage widths (each rounded down), or the widths themselves. Stem and head follow, but a
        factor does not change NFNet's stem, as in the authors' code. The inner width of a grouped branch is rounded
        down to whole groups. The authors' ``width=w`` is ``width=w / 4`` here for NF-ResNets, and ``width=w / 0.75``
        for NF-RegNets.
    **overrides
        Fields of `ResNetSpec`, or of `ViTSpec`, applied last: ``num_classes=10``, ``depth=(1, 1, 1, 1)``,
        ``group_width=64``, ``alpha=1.0``, ``stochastic_depth=0.0``, ``dropout=0.0``, ``activation="silu"``,
        ``se_ratio=0.25``, ``norm_options={"groups": 8}``, ...

    Raises
    ------
    ValueError
        For an unknown model, method, field or value; the message lists what is known.
    TypeError
        If `name` is neither a name nor a specification.

    Notes
    -----
    The default of stochastic depth is that of the authors' code: 0.25 in NFNets, 0.1 in NF-RegNets and in the ResNets
    without a norm.

    Examples
    --------
    >>> sum(p.numel() for p in create_model("cifar_resnet8", method="nf").parameters())
    78045
    """
    spec = model_spec(name, method=method, width=width, **overrides)
    return VisionTransformer(spec) if isinstance(spec, ViTSpec) else ResNet(spec)
