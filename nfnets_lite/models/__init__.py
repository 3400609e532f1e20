"""Models by name."""

from dataclasses import replace
from typing import Any

from nfnets_lite.models.resnet import ResNet
from nfnets_lite.models.spec import METHODS, ResNetSpec

_CIFAR = ResNetSpec(
    depth=(1, 1, 1), width=(16, 32, 64), strides=(1, 2, 2), branch=(3, 3), bottleneck=1.0,
    stem="cifar", stem_width=16, num_classes=10,
)  # fmt: skip
_NFNET = ResNetSpec(
    depth=(1, 2, 6, 3), width=(256, 512, 1536, 1536), branch=(1, 3, 3, 1), bottleneck=0.5, group_width=128,
    stem="nfnet", stem_width=128, pooled_shortcut=True, activation="gelu", se_ratio=0.5, head_width=3072,
    stochastic_depth=0.25,
).with_method("nf")  # fmt: skip
_NFNET_PLUS = replace(_NFNET, width=(384, 768, 2048, 2048), stem_width=192, head_width=4096)
_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3), 288: (24, 24, 36, 12)}
_NFNET_DROPOUT = (0.2, 0.3, 0.4, 0.4, 0.5, 0.5, 0.5, 0.5)


def _specs() -> dict[str, ResNetSpec]:
    specs = {f"cifar_resnet{6 * n + 2}": replace(_CIFAR, depth=(n, n, n)) for n in (1, 2, 3, 5, 9, 18)}
    for layers, blocks in _DEPTHS.items():
        specs[f"resnet{layers}"] = ResNetSpec(depth=blocks)
        specs[f"nf_resnet{layers}"] = ResNetSpec(depth=blocks).with_method("nf")
    for i, dropout in enumerate(_NFNET_DROPOUT):
        depth = tuple(n * (i + 1) for n in (1, 2, 6, 3))
        specs[f"nfnet_f{i}"] = replace(_NFNET, depth=depth, dropout=dropout)
        specs[f"nfnet_f{i}_plus"] = replace(_NFNET_PLUS, depth=depth, dropout=dropout)
    return specs


_SPECS = _specs()


def list_models(pattern: str = "") -> list[str]:
    """Names that `create_model` knows, sorted; those that contain `pattern`, if given.

    Examples
    --------
    >>> list_models("cifar_resnet2")
    ['cifar_resnet20']
    """
    return sorted(name for name in _SPECS if pattern in name)


def model_spec(name: str, *, method: str | None = None, **overrides: Any) -> ResNetSpec:
    """The frozen specification behind a name, with a method preset and single fields replaced, in that order.

    Examples
    --------
    >>> model_spec("cifar_resnet8", method="nf", alpha=1.0).alpha
    1.0
    """
    if name not in _SPECS:
        raise ValueError(f"model {name!r} is not known; use one of {', '.join(list_models())}")
    spec = _SPECS[name] if method is None else _SPECS[name].with_method(method)
    unknown = sorted(set(overrides) - set(ResNetSpec.__dataclass_fields__))
    if unknown:
        raise ValueError(
            f"override {unknown[0]!r} is not a field of ResNetSpec; use one of "
            f"{', '.join(ResNetSpec.__dataclass_fields__)}"
        )
    return replace(spec, **overrides)


def create_model(name: str | ResNetSpec, *, method: str | None = None, **overrides: Any) -> ResNet:
    """Build a model, with fresh parameters from torch's global generator.

    Parameters
    ----------
    name : str or ResNetSpec
        One of `list_models()`, or a specification of your own.
    method : str, optional
        A named combination of norm, convolution and residual rule: ``"bn"``, ``"none"``, ``"skipinit"``, ``"nf"``.
        None keeps the model's own.
    **overrides
        Fields of `ResNetSpec`, applied last: ``num_classes=10``, ``alpha=1.0``, ``norm="batch"``, ...

    Raises
    ------
    ValueError
        For an unknown model, method or field; the message lists what is known.

    Examples
    --------
    >>> sum(p.numel() for p in create_model("cifar_resnet8", method="nf").parameters())
    78045
    """
    if isinstance(name, ResNetSpec):
        spec = name if method is None else name.with_method(method)
        return ResNet(replace(spec, **overrides))
    return ResNet(model_spec(name, method=method, **overrides))


__all__ = ["METHODS", "ResNet", "ResNetSpec", "create_model", "list_models", "model_spec"]
