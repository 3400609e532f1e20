"""The targets of the benchmark as data: every ratio with its bar on each type of device, and the size of the work."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from experiments.bench.report import Bar

NEEDS_GPU = "needs a GPU: a step of this network takes minutes on a CPU, or nothing is asked of one"
NO_STEP_COMPILED = "needs a GPU: on a CPU compiling takes longer than all the rest here, and makes the step slower"
NO_IMPORT = "of a CPU: the import knows nothing of a GPU, and is timed where no other work waits for its machine"
NO_COUNT = "needs a GPU: a CPU's memory is not counted"
SHARE_ABOVE = "of the CPU, whose batch above is small; a GPU's is not"
BOTH = ("cpu", "cuda")
GPU = ("cuda",)


@dataclass(frozen=True)
class Target:
    """One ratio: the group that measures it, its bars by type of device, and why other types do not measure it.

    `measure` is the fraction itself: in ``"timm / ours"`` a value of 2 says that timm takes twice as long.
    """

    group: str
    subject: str
    measure: str
    bars: Mapping[str, Bar] = field(default_factory=dict)
    devices: tuple[str, ...] = BOTH
    elsewhere: str = ""
    unit: str = "x"


@dataclass(frozen=True)
class Scale:
    """Size of the work: images of a step, their side, and the numbers of repeats that count.

    Attributes
    ----------
    batch, side : int
        Images and pixels of a training step of NF-ResNet-50 and NFNet-F0; `cifar_batch` is for the CIFAR network, at 32
        pixels.
    share_batch : int
        Images of the step whose share clipping is on a CPU: the paper's number for each device. Clipping costs the same
        at any batch size, so with a few images no code could make its share small.
    inference_side : int
        Pixels of the image on which folded networks are timed.
    repeats, few, many : int
        Repeats of ordinary work, of the longest steps, and of work that takes a millisecond.
    autocast : bool
        Whether steps compute in bfloat16.
    """

    batch: int = 4
    side: int = 128
    cifar_batch: int = 64
    share_batch: int = 32
    inference_side: int = 224
    repeats: int = 31
    few: int = 6
    many: int = 31
    autocast: bool = False


SCALES: Mapping[str, Scale] = {
    "cpu": Scale(),
    "cuda": Scale(batch=128, side=224, cifar_batch=512, repeats=15, few=9, autocast=True),
}


def bars(cpu: Bar | None = None, cuda: Bar | None = None) -> dict[str, Bar]:
    """Bars by type of device."""
    return {name: bar for name, bar in (("cpu", cpu), ("cuda", cuda)) if bar is not None}


def both(bar: Bar) -> dict[str, Bar]:
    """The same bar on all types of device."""
    return bars(bar, bar)


def least(value: float) -> Bar:
    """A bar of at least this value."""
    return Bar(at_least=value)


def most(value: float) -> Bar:
    """A bar of at most this value."""
    return Bar(at_most=value)


F0_NONE, F0_HALF = "AGC over NFNet-F0, no unit clipped", "AGC over NFNet-F0, half of the units clipped"
R56_NONE, R56_HALF = (f"AGC over a CIFAR ResNet-56, {state} clipped" for state in ("no unit", "half of the units"))
RESNET, F0 = "training step, NF-ResNet-50", "training step, NFNet-F0"
RESNET_32 = f"{RESNET}, 32 images"
LARGER = {images: f"{RESNET}, {images} images" for images in (8, 16)}  # batches around the twin's break-even
CIFAR = "training step, CIFAR NF-ResNet-56"
LAST = "channels last / contiguous"
IMPORT, MODULES = "import of nfnets_lite after torch", "modules beyond torch and Python's own"
SYNC = "synchronised batch norm, 2 processes"

TARGETS: tuple[Target, ...] = (
    Target("clipping", F0_NONE, "timm / ours", bars(least(2.5))),
    Target("clipping", F0_NONE, "ours / bytes limit", bars(most(1.5))),
    Target("clipping", F0_NONE, "clip_grad_norm_ / ours"),
    Target("clipping", F0_HALF, "timm / ours", bars(least(2))),
    Target("clipping", F0_HALF, "ours / bytes limit", bars(most(2))),
    Target("clipping", F0_HALF, "clip_grad_norm_ / ours"),
    Target("clipping", R56_NONE, "timm / ours", bars(least(3))),
    Target("clipping", R56_NONE, "ours / clip_grad_norm_", bars(most(1.5))),
    Target("clipping", R56_HALF, "timm / ours", bars(least(3))),
    Target("clipping", R56_HALF, "ours / clip_grad_norm_", bars(most(1.5))),
    Target("resnet", RESNET, "AGC / step", bars(None, most(2)), unit="%"),
    Target("resnet", RESNET_32, "AGC / step", bars(most(3)), ("cpu",), SHARE_ABOVE, unit="%"),
    Target("cifar", CIFAR, "AGC / step", bars(most(3), most(2)), unit="%"),
    Target("resnet", RESNET, "timm / ours", bars(least(1.05), least(1.15))),
    Target("resnet", RESNET, "BN twin / ours", both(least(1))),
    *(Target("resnet", subject, "BN twin / ours") for subject in LARGER.values()),
    Target("resnet", RESNET, LAST),
    Target("resnet", f"{RESNET}, compiled", "timm / ours", bars(None, least(1.15)), GPU, NO_STEP_COMPILED),
    Target("resnet", f"{RESNET}, compiled", "BN twin / ours", bars(None, least(1)), GPU, NO_STEP_COMPILED),
    Target("nfnet", F0, "timm / ours", bars(None, least(1.1))),
    Target("nfnet", F0, "peak memory, ours / timm", bars(None, most(1)), GPU, NO_COUNT),
    Target("nfnet", F0, LAST),
    Target("nfnet", f"{F0}, compiled", "timm / ours", bars(None, least(1.1)), GPU, NO_STEP_COMPILED),
    Target("nfnet", f"{F0}, compiled", "peak memory, ours / timm", bars(None, most(1)), GPU, NO_STEP_COMPILED),
    Target("efficientnet", "training step, NFNet-F1", "EfficientNet-B7 / ours", devices=GPU, elsewhere=NEEDS_GPU),
    Target("inference", "one image, NF-ResNet-50 folded", "timm / ours", bars(least(1.5))),
    Target("inference", "one image, NF-ResNet-50 folded", "not folded / folded"),
    Target("inference", "one image, NFNet-F0 folded", "timm / ours", bars(least(1.5))),
    Target("inference", "one image, NFNet-F0 folded", "not folded / folded"),
    Target("startup", IMPORT, "time", bars(most(50)), ("cpu",), NO_IMPORT, unit="ms"),
    Target("startup", IMPORT, MODULES, bars(most(0)), ("cpu",), NO_IMPORT, unit=""),
    Target("startup", SYNC, "exchanges of a step", unit="ms"),
)  # fmt: skip
