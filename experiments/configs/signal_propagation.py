"""Signal propagation: how do mean and variance change over the blocks of a network before training?

Question: How do a channel's mean and variance change through a residual network with batch norm, without it, and in NF?
Paper: NF-ResNet (arXiv 2101.08692) section 3; SkipInit (arXiv 2002.10444); claims SP-1 to SP-5, SK-1, RS-1.
Command: python -m experiments run signal_propagation --profile small
Cost: smoke 20 s on 2 cores; small 3 minutes on 2 cores; gpu 1 minute and paper 5 hours, by a rule of thumb.
Expected: The variance grows by 0.68 a block (BN, ReLU), by 1 (ReLU, BN), by alpha squared (NF), and doubles without a
    norm. The mean grows too wherever filters have a mean and activations are positive.

There are two shapes: one stage without a transition, where the growth is undisturbed, and three stages, where
transitions reset it. A third part changes one thing at a time, each known to differ between published plots.
"""

from dataclasses import dataclass, replace

from experiments.scales import CHANNELS, DATA
from experiments.sweep import Sweep
from experiments.tasks.data import SIDE
from experiments.tasks.recipe import Data
from experiments.tasks.signals import Signals
from nfnets_lite.models import ResNetSpec

# Alpha 1 makes NF grow as fast as a batch-normalised network; 0.2 is the published value.
METHODS = (
    "bn", "bn_act_first", "none", "nf_alpha1", "nf", "nf_no_ws_alpha1", "nf_no_ws", "nf_no_gain", "skipinit", "rescale",
)  # fmt: skip
IN_STAGES = ("bn", "bn_act_first", "none", "nf_alpha1", "nf", "nf_no_ws", "nf_no_gain")
ON_IMAGES = ("bn", "bn_act_first", "none", "nf_alpha1", "nf", "nf_no_ws_alpha1")
CHANGED = (
    "scale_first", "unbiased", "raw_shortcut", "restart", "raw_and_restart", "stem_gain", "pooled_stem", "silent",
)  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile: blocks of the stack and of each stage, width, and the batches of noise and images."""

    stack: int
    stage: int
    width: int
    side: int
    noise: int
    images: int
    data: Data
    seeds: int


SCALES = {
    # A stack must be deeper than the three stages together: the claims are judged on the deepest network. Padding zeros
    # reduce the output of every 3x3 convolution, by 2 % at 64 pixels. In NF the losses add up over blocks, so deeper
    # networks get more pixels.
    "smoke": Scale(24, 4, 64, 52, 1, 48, DATA["smoke"], seeds=3),
    "small": Scale(48, 12, 128, 96, 1, 32, DATA["small"], seeds=3),
    "gpu": Scale(96, 24, 128, 128, 1, 64, DATA["gpu"], seeds=5),  # without a norm, 128 blocks exceed float32's range
    "paper": Scale(200, 50, 256, 224, 8, 64, DATA["paper"], seeds=5),
}


def network(method: str, depth: tuple[int, ...], width: int) -> ResNetSpec:
    """A network of bottleneck blocks whose inner width is the block's, so that none is narrower; skip gain 1."""
    spec = ResNetSpec(
        depth=depth, width=tuple(width * 2**i for i in range(len(depth))), strides=(1, 2, 2)[: len(depth)],
        branch=(1, 3, 1), bottleneck=1.0, stem="cifar", stem_width=width, num_classes=10, skip_gain=1.0,
    )  # fmt: skip
    alpha = 1.0 if method.endswith("_alpha1") else 0.2
    method = method.removesuffix("_alpha1")
    if method.startswith("nf"):
        spec = replace(spec.with_method("nf"), alpha=alpha, activation_gain=method == "nf")
        return replace(spec, conv="plain") if method == "nf_no_ws" else spec
    if method == "skipinit":  # of its two starts, 0 and 1 / sqrt(blocks), the first would show nothing
        return replace(spec.with_method(method), skip_gain=sum(depth) ** -0.5)
    return spec.with_method(method)


def _cell(method: str, spec: ResNetSpec, scale: Scale, *, images: bool = False, change: str = "") -> Signals:
    data, batch = (scale.data, scale.images) if images else (None, scale.noise)
    side = scale.side if data is None else 0
    channels = 3 if data is None else CHANNELS.get(data.name, 3)
    return Signals(method, replace(spec, in_channels=channels), data, batch, side, change)


def stack(profile: str, *, images: bool = False) -> dict[str, Signals]:
    """Every method in one long stage."""
    scale = SCALES[profile]
    methods = ON_IMAGES if images else METHODS
    return {m: _cell(m, network(m, (scale.stack,), scale.width), scale, images=images) for m in methods}


def stages(profile: str, *, images: bool = False) -> dict[str, Signals]:
    """The methods in three stages, the second and third entered by a transition."""
    scale = SCALES[profile]
    return {m: _cell(m, network(m, (scale.stage,) * 3, scale.width), scale, images=images) for m in IN_STAGES}


def causes(profile: str) -> dict[str, Signals]:
    """NF (alpha 0.2, three stages) with one change at a time; then BN in training and in evaluation mode.

    ``library`` combines the changes of a library with which such plots are drawn.
    """
    scale = SCALES[profile]
    nf, bn = (network(m, (scale.stage,) * 3, scale.width) for m in ("nf", "bn"))
    gelu = replace(nf, activation="gelu")
    pooled = replace(nf, pooled_shortcut=True)
    found = {"reference": _cell("nf", nf, scale), "images": _cell("nf", nf, scale, images=True)}
    found |= {"gelu": _cell("nf", gelu, scale), "pooled_shortcut": _cell("nf", pooled, scale)}
    found["small_noise"] = replace(
        found["reference"], batch=scale.images, side=SIDE[scale.data.name] // scale.data.pool
    )
    found["pooled_shortcut_images"] = _cell("nf", pooled, scale, images=True)
    found["scale_first_gelu"] = _cell("nf", gelu, scale, change="scale_first")
    for change in CHANGED:
        found[change] = _cell("nf", nf, scale, change=change)
    library = replace(pooled, stem="imagenet")  # a stem of 7x7 with stride 2 and max pooling
    found["library"] = _cell("nf", library, scale, change="silent_and_stem_gain")
    found["bn"] = _cell("bn", bn, scale)
    found["evaluation"] = _cell("bn", bn, scale, change="evaluation")
    return found


def formula(profile: str) -> Signals:
    """RescaleNet's two factors alone, in a pre-activation stack."""
    scale = SCALES[profile]
    return _cell("rescale", network("none", (scale.stack,), scale.width), scale, change="rescaled")


def sweep(profile: str) -> Sweep:
    """Every network of the stack, the stages, the changes and RescaleNet's formula, each once."""
    groups = (
        stack(profile), stack(profile, images=True), stages(profile), stages(profile, images=True), causes(profile),
    )  # fmt: skip
    cells = {cell.key: cell for group in groups for cell in group.values()}
    rule = formula(profile)
    return Sweep("signal_propagation", (*cells.values(), rule), seeds=tuple(range(SCALES[profile].seeds)))
