"""Normalisation layers, and layers in their place, by name: ``create_norm(name, channels, **options)``.

Every norm maps ``(N, C, H, W)`` to the same shape. A norm that activates, too, has ``activates = True``. A norm whose
formula changes during training has a buffer `progress`, which `set_progress` fills.
"""

from collections.abc import Callable, Mapping
from inspect import signature
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from nfnets_lite._checks import check_number
from nfnets_lite.norm.ada_batch import AdaBatchNorm
from nfnets_lite.norm.batch import BatchNorm2d, GhostBatchNorm2d, SyncBatchNorm
from nfnets_lite.norm.batch_channel import BatchChannelNorm
from nfnets_lite.norm.common import is_batch_norm
from nfnets_lite.norm.evonorm import EvoNormB0, EvoNormS0
from nfnets_lite.norm.frn import FilterResponseNorm2d
from nfnets_lite.norm.group import InstanceNorm2d, LayerNorm2d, group, layer
from nfnets_lite.norm.ibn import IBNa
from nfnets_lite.norm.pointwise import Derf, DyT
from nfnets_lite.norm.power import PowerNorm
from nfnets_lite.norm.prepbn import PRepBN
from nfnets_lite.norm.renorm import BatchRenorm2d
from nfnets_lite.norm.unified import UnifiedNorm

__all__ = ["NORMS", "create_norm", "inference_affine", "progress_setter", "set_progress"]

NORMS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "none": lambda channels: nn.Identity(),
        "batch": BatchNorm2d,
        "sync_batch": SyncBatchNorm,
        "ghost_batch": GhostBatchNorm2d,
        "batch_renorm": BatchRenorm2d,
        "group": group,
        "layer": layer,
        "layer2d": LayerNorm2d,
        "instance": InstanceNorm2d,
        "frn": FilterResponseNorm2d,
        "evonorm_b0": EvoNormB0,
        "evonorm_s0": EvoNormS0,
        "batch_channel": BatchChannelNorm,
        "power": PowerNorm,
        "unified": UnifiedNorm,
        "prepbn": PRepBN,
        "ibn_a": IBNa,
        "ibn_b": InstanceNorm2d,
        "ada_batch": AdaBatchNorm,
        "dyt": DyT,
        "derf": Derf,
    }
)


def create_norm(name: str, channels: int, **options: Any) -> nn.Module:
    """A normalisation layer for ``(N, channels, H, W)`` by its name, a key of `NORMS`.

    Parameters
    ----------
    name : str
    channels : int
    **options
        Options of that norm, such as ``groups=8`` of "group" or ``size=16`` of "ghost_batch".

    Raises
    ------
    ValueError
        For an unknown name or option, `channels` below 1, or a value that the norm refuses.

    Examples
    --------
    >>> create_norm("group", 16, groups=8).num_groups
    8
    """
    if name not in NORMS:
        raise ValueError(f"norm={name!r} is not known; use one of {', '.join(NORMS)}")
    known = list(signature(NORMS[name]).parameters)[1:]
    for option in options:
        if option not in known:
            accepted = f"it takes {', '.join(known)}" if known else "it takes none"
            raise ValueError(f"option {option!r} of norm={name!r} is not known; {accepted}")
    check_number("channels", channels, least=1, whole=True)
    if "eps" in options:
        check_number("eps", options["eps"], least=0)
    if options.get("momentum") is not None:  # None: torch's cumulative average
        check_number("momentum", options["momentum"], least=0, most=1)
    return NORMS[name](channels, **options)


def set_progress(model: nn.Module, fraction: float | Tensor) -> None:
    """Set the elapsed share of the training in every norm whose formula changes during training.

    Call it before each update, or each epoch. Buffers are filled in place, so a captured CUDA graph sees the new value.

    Parameters
    ----------
    model : nn.Module
    fraction : float or 0-d Tensor
        From 0 at the start to 1 at the end. A tensor, on the model's device, is not checked.

    Raises
    ------
    ValueError
        If `fraction` is a number outside [0, 1].

    Examples
    --------
    >>> net = nn.Sequential(create_norm("batch_renorm", 4))
    >>> set_progress(net, 0.5)
    >>> net[0].progress
    tensor(0.5000)
    """
    progress_setter(model)(fraction)


def progress_setter(model: nn.Module) -> Callable[[float | Tensor], None]:
    """A function of the fraction that does what `set_progress` does to `model`, whose norms it looks up only once.

    The model may be moved afterwards. If its layers are replaced, make a new function.

    Examples
    --------
    >>> tell = progress_setter(nn.Sequential(create_norm("batch_renorm", 4)))
    >>> tell(0.5)
    """
    # The modules, not their buffers: moving a model replaces its buffers.
    scheduled = [module for module in model.modules() if module._buffers.get("progress") is not None]

    def fill(fraction: float | Tensor) -> None:
        if not isinstance(fraction, Tensor) and not 0 <= fraction <= 1:
            raise ValueError(f"fraction={fraction} must be in [0, 1]: the updates done over all updates")
        for module in scheduled:
            module.get_buffer("progress").fill_(fraction)

    return fill


def inference_affine(norm: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Scale and shift, each ``(C,)``, of a norm whose evaluation is one fixed affine map per channel; else None.

    Torch's batch norms with running statistics have such a map; derived classes that compute more do not. A norm with a
    method ``affine()`` has it, too, unless the method raises a ValueError because of the norm's options or `progress`.

    Examples
    --------
    >>> norm = create_norm("batch", 2)
    >>> _ = norm.running_mean.fill_(3.0)
    >>> [value.detach().round(decimals=2).tolist() for value in inference_affine(norm)]
    [[1.0, 1.0], [-3.0, -3.0]]
    >>> inference_affine(create_norm("group", 2)) is None
    True
    """
    if is_batch_norm(norm):
        if norm.running_mean is None or norm.running_var is None:
            return None
        scale = (norm.running_var + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight
        shift = -norm.running_mean * scale
        return scale, shift if norm.bias is None else shift + norm.bias
    affine = getattr(norm, "affine", None)
    if not callable(affine):  # in torch's norms `affine` is a flag
        return None
    try:
        return affine()  # type: ignore[no-any-return]
    except ValueError:
        return None
