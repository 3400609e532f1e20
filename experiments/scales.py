"""What the configs share at each profile: images, networks and augmentation."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from experiments.tasks.recipe import Augment, Data
from nfnets_lite.models import ResNetSpec, model_spec

DATA: Mapping[str, Data] = MappingProxyType(
    {
        "smoke": Data("digits", train=1077, validation=360),
        "small": Data("cifar10", train=5000, validation=2000, test=10000, pool=2),
        "gpu": Data("cifar10", train=45000, validation=5000),
        "paper": Data("imagenet", validation=10000),
    }
)
# The headline sweeps use all training images but the validation images, and see them through whitened patches.
PATCHES = Data("cifar10", train=45000, validation=5000, patches=2)
WHOLE: Mapping[str, Data] = MappingProxyType({**DATA, "small": PATCHES, "gpu": PATCHES})
CHANNELS: Mapping[str, int] = MappingProxyType({"digits": 1, "fashion_mnist": 1})
CROPS = Augment(crop_flip=True)
PLAIN = Augment()


def network(profile: str, **overrides: Any) -> ResNetSpec:
    """The residual network of a profile: eight layers (narrow at smoke), or ResNet-50 at paper.

    Alpha and the skip gain start at 1: with the published start (0.2 and 0) a schedule of a few hundred updates ends
    before the branches have grown (docs/decisions has the pilot).
    """
    data = DATA[profile]
    shape: dict[str, Any] = {"alpha": 1.0, "skip_gain": 1.0, "in_channels": CHANNELS.get(data.name, 3)}
    if profile == "smoke":
        shape |= {"width": (8, 16, 32), "stem_width": 8}
    if profile == "paper":
        return model_spec("resnet50", alpha=0.2, skip_gain=0.0, **overrides)
    found = model_spec("cifar_resnet8", **{**shape, **overrides})
    assert isinstance(found, ResNetSpec)
    return found


def learner(profile: str) -> ResNetSpec:
    """The network of the headline sweeps: wide, shallow, and quick to learn.

    Three blocks with two 3x3 convolutions each, every block at half the resolution of the one before. On CIFAR-10 the
    first block takes whitened patches (`experiments.tasks.patches`), and there is no stem. NF starts with alpha 1 and
    skip gain 1, as in `network`. docs/decisions describes the search that found this shape.
    """
    if profile in ("smoke", "paper"):
        return network(profile)
    width = {"small": (32, 64, 192), "gpu": (96, 192, 384)}[profile]
    return network(
        profile, width=width, strides=(2, 2, 2), stem="none", stem_width=24, in_channels=24, pooled_shortcut=True,
        activation="gelu",
    )  # fmt: skip


def augmentation(profile: str) -> Augment:
    """Crops and flips of the headline sweeps; none for digits, which are too small and have no mirror images."""
    return {"smoke": PLAIN, "paper": CROPS}.get(profile, Augment(crop_flip=True, pad=2))


def autocast(profile: str) -> bool:
    """Whether a profile computes in bfloat16 where torch's autocast allows it: gpu and paper."""
    return profile in ("gpu", "paper")


def crops(profile: str) -> Augment:
    """Random crops and flips at the profiles with enough updates to profit from them: gpu and paper."""
    return CROPS if profile in ("gpu", "paper") else PLAIN
