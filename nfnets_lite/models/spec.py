"""The architecture as data: one frozen specification for every residual network here, variants by `replace()`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from nfnets_lite.activations import ACTIVATIONS
from nfnets_lite.models.residual import RESIDUALS
from nfnets_lite.norm import NORMS

STEMS = ("cifar", "imagenet", "nfnet")
CONVS = ("plain", "scaled_ws")

# What people call a method is a combination of four independent choices.
METHODS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "bn": {"norm": "batch", "conv": "plain", "residual": "plain", "activation_gain": False},
        "none": {"norm": "none", "conv": "plain", "residual": "plain", "activation_gain": False},
        "skipinit": {"norm": "none", "conv": "plain", "residual": "skipinit", "activation_gain": False},
        "nf": {"norm": "none", "conv": "scaled_ws", "residual": "nf", "activation_gain": True},
    }
)


@dataclass(frozen=True)
class ResNetSpec:
    """A pre-activation residual network.

    Attributes
    ----------
    depth, width, strides : tuple of int
        Blocks, output channels and stride of each stage.
    branch : tuple of int
        Kernel sizes of a branch's convolutions. The first 3x3 carries the stride: (3, 3) is the basic block,
        (1, 3, 1) the bottleneck, (1, 3, 3, 1) NFNet's.
    bottleneck : float
        Inner width of a branch over its output width.
    group_width : int or None
        Channels per group of the 3x3 convolutions, whose width is rounded down to a multiple of it; None: dense.
    stem : str
        ``"cifar"`` one 3x3; ``"imagenet"`` 7x7 stride 2, max pooling; ``"nfnet"`` four 3x3 with strides 2, 1, 1, 2.
    stem_width : int
        Channels out of the stem.
    pooled_shortcut : bool
        Average-pool before a strided shortcut's 1x1 convolution, instead of striding the convolution.
    norm, conv, residual : str
        What stands for a norm, how weights are parameterised, how the branch joins: independent choices.
    activation : str
    activation_gain : bool
        Multiply activations by their variance-preserving gain.
    alpha, skip_gain : float
        Branch factor of ``residual="nf"`` and start of the learnable scalar on the branch.
    se_ratio, se_scale : float
        Squeeze-excite hidden width over the branch's width (0: no squeeze-excite), and the factor on its output.
    head_width : int or None
        Channels of a last 1x1 convolution before pooling; None: there is none.
    dropout, stochastic_depth : float
        Rate before the classifier; rate that block i of n gets ``i / n`` of.
    num_classes, in_channels : int
    """

    depth: tuple[int, ...] = (3, 4, 6, 3)
    width: tuple[int, ...] = (256, 512, 1024, 2048)
    strides: tuple[int, ...] = (1, 2, 2, 2)
    branch: tuple[int, ...] = (1, 3, 1)
    bottleneck: float = 0.25
    group_width: int | None = None
    stem: str = "imagenet"
    stem_width: int = 64
    pooled_shortcut: bool = False
    norm: str = "batch"
    conv: str = "plain"
    residual: str = "plain"
    activation: str = "relu"
    activation_gain: bool = False
    alpha: float = 0.2
    skip_gain: float = 0.0
    se_ratio: float = 0.0
    se_scale: float = 2.0
    head_width: int | None = None
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    num_classes: int = 1000
    in_channels: int = 3

    def __post_init__(self) -> None:
        for name, value, known in (
            ("stem", self.stem, STEMS),
            ("norm", self.norm, NORMS),
            ("conv", self.conv, CONVS),
            ("residual", self.residual, RESIDUALS),
            ("activation", self.activation, ACTIVATIONS),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r} is not known; use one of {', '.join(sorted(known))}")
        if not len(self.depth) == len(self.width) == len(self.strides):
            raise ValueError(
                f"depth={self.depth}, width={self.width} and strides={self.strides} must have one entry per stage each"
            )
        for name in ("dropout", "stochastic_depth"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be a rate in [0, 1)")
        if self.group_width is not None:
            for width in self.width:
                if int(width * self.bottleneck) < self.group_width:
                    raise ValueError(
                        f"group_width={self.group_width} exceeds the inner width {int(width * self.bottleneck)} of a "
                        f"stage of width {width}; use at most that, or None"
                    )

    def with_method(self, method: str) -> "ResNetSpec":
        """The same shape with a named combination of norm, conv, residual and activation gain."""
        if method not in METHODS:
            raise ValueError(f"method={method!r} is not known; use one of {', '.join(METHODS)}")
        return replace(self, **METHODS[method])
