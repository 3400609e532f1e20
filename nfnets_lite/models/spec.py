"""Specification of a residual network: a frozen dataclass, whose variants are made by ``replace()``."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from math import prod
from operator import mul
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self

from nfnets_lite._checks import check_number
from nfnets_lite.activations import ACTIVATIONS
from nfnets_lite.models.hints import argument_hint
from nfnets_lite.models.methods import METHODS, check_choices, plain_options
from nfnets_lite.models.residual import RESIDUALS
from nfnets_lite.norm import NORMS

STEM_STRIDE: Mapping[str, int] = MappingProxyType({"none": 1, "cifar": 1, "imagenet": 4, "nfnet": 4, "regnet": 2})
_KNOWN: Mapping[str, Collection[str]] = {
    "stem": STEM_STRIDE,
    "norm": NORMS,
    "conv": ("plain", "ws", "scaled_ws", "scaled_ws_dense"),
    "residual": RESIDUALS,
    "activation": set(ACTIVATIONS) - {"glu"},  # glu halves the channels, and no network here does
}


@dataclass(frozen=True)
class ResNetSpec:
    """Specification of a pre-activation residual network.

    Attributes
    ----------
    depth, width, strides : tuple of int
        Blocks, output channels and stride of each stage.
    branch : tuple of int or "se"
        Kernel sizes of a branch's convolutions. The first one above 1 carries the stride: (3, 3) is the basic block,
        (1, 3, 1) the bottleneck, (1, 3, 3, 1) NFNet's. ``"se"`` marks the place of squeeze-excite; by default it is
        last.
    bottleneck : float, or one per stage
        Inner width of a branch over its output width.
    group_width : int, None, or one per stage
        Channels per group of the 3x3 convolutions, whose width is rounded down to a multiple of it; None: dense.
    stem : str
        ``"cifar"``: one 3x3. ``"regnet"``: one 3x3 of stride 2. ``"imagenet"``: 7x7 of stride 2, max pooling.
        ``"nfnet"``: four 3x3 with strides 2, 1, 1, 2. ``"none"``: no stem; `stem_width` must equal `in_channels`.
    stem_width : int or float
        Channels out of the stem; a float is a factor on the first stage's width (rounded down).
    pooled_shortcut : bool
        Average-pool before a strided shortcut's 1x1 convolution, instead of striding the convolution.
    norm, conv, residual : str
        Independent choices: a norm of `nfnets_lite.norm`; weights that are ``"plain"``, standardised (``"ws"``,
        ``"scaled_ws"``), or standardised except in depth-wise convolutions (``"scaled_ws_dense"``); a residual rule of
        `nfnets_lite.models.residual.joins`.
    norm_options : mapping, or tuple of pairs
        Keyword arguments of the norm, plain data; stored as a sorted tuple of pairs.
    act_first : bool
        Activation, norm, convolution, in this order, instead of norm, activation, convolution.
    activation : str
    activation_gain : bool
        Multiply activations by their variance-preserving gain.
    alpha, skip_gain : float
        Branch factor of ``residual="nf"``, and initial value of the learnable scalar on the branch.
    se_ratio, se_scale : float
        Squeeze-excite hidden width over the branch's width (0: no squeeze-excite), and the factor on its output.
    head_width : int, float or None
        Channels of a last 1x1 convolution before pooling; a float is a factor on the last stage's width (rounded
        down); None: there is none.
    dropout, stochastic_depth : float
        Dropout rate before the classifier; rate of stochastic depth, of which block i of n, from 0, has ``i / n``.
    num_classes, in_channels : int
        With 0 classes the network returns the pooled features.

    Raises
    ------
    ValueError
        For a name that is not known, stages of unequal count, a rate outside [0, 1), groups that fit no branch.
        Also for choices that undo each other, such as ``conv="ws"`` without a norm.

    Examples
    --------
    >>> spec = ResNetSpec(depth=(1, 1), width=(8, 16), strides=(1, 2), stem_width=0.5)
    >>> spec.stem_channels, spec.min_size
    (4, 5)
    """

    depth: tuple[int, ...] = (3, 4, 6, 3)
    width: tuple[int, ...] = (256, 512, 1024, 2048)
    strides: tuple[int, ...] = (1, 2, 2, 2)
    branch: tuple[int | str, ...] = (1, 3, 1)
    bottleneck: float | tuple[float, ...] = 0.25
    group_width: int | tuple[int | None, ...] | None = None
    stem: str = "imagenet"
    stem_width: int | float = 0.25
    pooled_shortcut: bool = False
    norm: str = "batch"
    norm_options: tuple[tuple[str, Any], ...] = ()
    conv: str = "plain"
    residual: str = "plain"
    act_first: bool = False
    activation: str = "relu"
    activation_gain: bool = False
    alpha: float = 0.2
    skip_gain: float = 0.0
    se_ratio: float = 0.0
    se_scale: float = 2.0
    head_width: int | float | None = None
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    num_classes: int = 1000
    in_channels: int = 3

    classifier_std: ClassVar[float] = 0.01

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm_options", plain_options(self.norm_options))
        for field in fields(self):  # a list, as JSON gives it, would make the spec unhashable
            if isinstance(getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))
        for name, known in _KNOWN.items():
            value = getattr(self, name)
            if value not in known:
                names = ", ".join(sorted(known))
                raise ValueError(f"{name}={value!r} is not known; use one of {names}{argument_hint(str(value), known)}")
        for name in ("depth", "width", "strides"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or not value:
                raise ValueError(f"{name}={value!r} must be a tuple with one whole number per stage, such as (1, 2, 2)")
            for stage, each in enumerate(value):
                check_number(f"{name}[{stage}]", each, least=1, whole=True)
        check_number("alpha", self.alpha, above=0)
        check_number("skip_gain", self.skip_gain)
        per_stage = (self.depth, self.width, self.strides, self.bottleneck, self.group_width)
        if len({len(values) for values in per_stage if isinstance(values, tuple)}) > 1:
            raise ValueError(
                f"depth={self.depth}, width={self.width}, strides={self.strides}, bottleneck={self.bottleneck} and "
                f"group_width={self.group_width} must have one entry per stage each (the last two may be one number)"
            )
        kernels = [k for k in self.branch if isinstance(k, int)]
        if not set(self.branch) <= {*kernels, "se"} or max(kernels, default=0) < 2:
            raise ValueError(f"branch={self.branch} must hold kernel sizes, one of them above 1, and optionally 'se'")
        for name in ("dropout", "stochastic_depth"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be a rate in [0, 1)")
        for name, least in (("num_classes", 0), ("in_channels", 1), ("stem_channels", 1)):
            check_number(name, getattr(self, name), least=least, whole=True)
        if self.stem == "none" and self.stem_channels != self.in_channels:
            raise ValueError(
                f"stem='none' gives the first block the input's in_channels={self.in_channels}, and "
                f"stem_width={self.stem_width} says {self.stem_channels} channels; set stem_width={self.in_channels}"
            )
        check_choices(self.norm, self.norm_options, self.conv, self.residual, self.act_first, self.width[0])
        self.blocks()  # refuses a branch narrower than a group

    @property
    def stem_channels(self) -> int:
        """Channels out of the stem."""
        return _channels(self.stem_width, self.width[0])

    @property
    def head_channels(self) -> int | None:
        """Channels of the last 1x1 convolution, if there is one."""
        return None if self.head_width is None else _channels(self.head_width, self.width[-1])

    @property
    def min_size(self) -> int:
        """Smallest image side in pixels; on a smaller image a stride would act on a single position."""
        return STEM_STRIDE[self.stem] * prod(self.strides) // 2 + 1

    @property
    def stages(self) -> tuple["Stage", ...]:
        """Channels and stride of each map of `nfnets_lite.models.ResNet.forward_stages`."""
        strides = accumulate(self.strides, mul, initial=STEM_STRIDE[self.stem])
        return tuple(map(Stage, self.width, list(strides)[1:]))

    def inner_width(self, stage: int, inputs: int, outputs: int, *, first: bool) -> int:
        """Width of a branch before it is rounded to whole groups; `first` is the first block of the network."""
        return int(outputs * (self.bottleneck[stage] if isinstance(self.bottleneck, tuple) else self.bottleneck))

    def blocks(self) -> list["BlockSpec"]:
        """The plan of every block, in order."""
        plan: list[BlockSpec] = []
        inputs, kernels = self.stem_channels, [k for k in self.branch if isinstance(k, int)]
        for stage, (depth, outputs) in enumerate(zip(self.depth, self.width)):
            group = self.group_width[stage] if isinstance(self.group_width, tuple) else self.group_width
            for index in range(depth):
                inner = self.inner_width(stage, inputs, outputs, first=not plan)
                if inner < (group or 1):
                    raise ValueError(
                        f"group_width={group} exceeds the inner width {inner} of a block of stage {stage} "
                        f"({inputs} to {outputs} channels); use at most that, or None, or a larger bottleneck"
                    )
                groups, inner = (inner // group, inner - inner % group) if group else (1, inner)
                if any(c % groups for c, kernel in ((inputs, kernels[0]), (outputs, kernels[-1])) if kernel > 1):
                    raise ValueError(
                        f"group_width={group} makes {groups} groups of the inner width {inner} of a block of stage "
                        f"{stage}, and they must divide its {inputs} to {outputs} channels; use another width, or None"
                    )
                stride = self.strides[stage] if index == 0 else 1
                plan.append(BlockSpec(inputs, outputs, inner, groups, stride, stage, index))
                inputs = outputs
        return plan

    def with_method(self, method: str) -> Self:
        """A copy with the norm, convolution, residual rule and order of a named method, a key of `METHODS`."""
        if method not in METHODS:
            raise ValueError(f"method={method!r} is not known; use one of {', '.join(METHODS)}")
        gates = {"se_scale": 1.0} if self.se_ratio else {}  # only "nf" has a factor on them
        return replace(self, **{**gates, **METHODS[method]})


@dataclass(frozen=True)
class BlockSpec:
    """Channels in, out and inside a branch, groups of 3x3 convolutions, stride, stage, and index in the stage."""

    inputs: int
    outputs: int
    inner: int
    groups: int
    stride: int
    stage: int
    index: int


class Stage(NamedTuple):
    """Shape of a stage's output, as ``forward_stages`` returns it.

    Parameters
    ----------
    channels, stride : int
        Channels of the output, and pixels of the image from one of its positions to the next.
    """

    channels: int
    stride: int


def _channels(width: int | float, of: int) -> int:
    # Rounding first keeps a product such as 330 * (1280 / 440) from falling just below its integer.
    return width if isinstance(width, int) else int(round(of * width, 6))
