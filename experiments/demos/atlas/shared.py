"""Parts that demonstrations of the atlas share: their size, images, a network for each normaliser, and a training.

Axes: N images, C channels, H W space.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.tasks.data import Split, load
from experiments.tasks.descent import one_thread, seeded
from experiments.tasks.recipe import Data
from nfnets_lite.activations import ScaledActivation
from nfnets_lite.conv import ScaledStdConv2d
from nfnets_lite.standardize import standardize_weight


@dataclass(frozen=True)
class Scale:
    """The size of a demonstration.

    Attributes
    ----------
    data : Data
        Images, for the demonstrations that use images.
    updates : int
        Updates of every network that is trained.
    width : int
        Channels or features of a hidden layer.
    items : int
        Number of examples that are generated, scored or synthesised.
    """

    data: Data
    updates: int
    width: int
    items: int


class Demonstration(Protocol):
    """A function of seed, size and device that returns numbers by name, equal ones for equal arguments."""

    def __call__(self, seed: int, scale: Scale, device: torch.device) -> dict[str, float]: ...


def reproducible(function: Demonstration) -> Demonstration:
    """Run a demonstration on one thread, with torch's global generators started from its seed and restored after."""

    @wraps(function)
    def run(seed: int, scale: Scale, device: torch.device) -> dict[str, float]:
        with one_thread(device), seeded(seed, device):
            return function(seed, scale, device)

    return run


def digits(scale: Scale, device: torch.device) -> tuple[Split, Split]:
    """Training and test images of the scale's data set, zero mean and unit variance."""
    splits = load(scale.data, device)
    return splits["train"], splits["test"]


class ScaledStdLinear(nn.Linear):
    """A linear layer with scaled weight standardisation and a gain: `ScaledStdConv2d` for vectors."""

    def __init__(self, in_features: int, out_features: int, gain: float = 1.0) -> None:
        super().__init__(in_features, out_features)
        nn.init.normal_(self.weight, std=in_features**-0.5)
        nn.init.zeros_(self.bias)
        self.gain = nn.Parameter(torch.full((out_features,), gain))

    def effective_weight(self) -> Tensor:
        """The weight that multiplies: each row of mean 0 and norm `gain`."""
        return standardize_weight(self.weight, self.gain)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.effective_weight(), self.bias)


def layer(method: str, inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution, its normaliser and ReLU: `bn`, `gn`, `none`, or `nf`, with standardised weights and a gain."""
    if method == "nf":
        conv = ScaledStdConv2d(inputs, outputs, 3, stride=stride, padding=1)
        return nn.Sequential(conv, ScaledActivation("relu"))
    norms: dict[str, Callable[[], nn.Module]] = {
        "bn": lambda: nn.BatchNorm2d(outputs),
        "gn": lambda: nn.GroupNorm(4, outputs),
        "none": nn.Identity,
    }
    if method not in norms:
        raise ValueError(f"method={method!r} is not known; use one of nf, {', '.join(norms)}")
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=method == "none"), norms[method](), nn.ReLU())


class Network(nn.Sequential):
    """Three convolutions, global average pooling and a linear layer: ``(N, C, H, W) -> (N, outputs)``."""

    def __init__(self, method: str, width: int, outputs: int, channels: int = 1) -> None:
        super().__init__(
            layer(method, channels, width),
            layer(method, width, width, stride=2),
            layer(method, width, width),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, outputs),
        )


def fit(model: nn.Module, loss: Callable[[], Tensor], updates: int, rate: float = 0.01) -> None:
    """Train with Adam and a cosine schedule; `loss` draws its own batch. The model ends in evaluation mode.

    Raises
    ------
    FloatingPointError
        If a parameter is not finite at the end. Otherwise NaN outputs would count: they have an accuracy, and no unit
        of theirs breaks a bound.
    """
    optimizer = torch.optim.Adam(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    model.train()
    for _ in range(updates):
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    if not all(bool(p.isfinite().all()) for p in model.parameters()):
        raise FloatingPointError(f"parameters of {type(model).__name__} are not finite after {updates} updates")
    model.eval()


def classifier_loss(model: nn.Module, split: Split, batch_size: int) -> Callable[[], Tensor]:
    """Cross-entropy on a random batch of labelled images, a new batch at every call."""

    def loss() -> Tensor:
        rows = torch.randint(len(split), (batch_size,)).to(split.images.device)
        return F.cross_entropy(model(split.images[rows]), split.labels[rows])

    return loss


@torch.no_grad()
def accuracy(model: Callable[[Tensor], Tensor], split: Split) -> float:
    """Share of images, in per cent, whose largest output is that of their class."""
    return float(100 * (model(split.images).argmax(1) == split.labels).float().mean())


def batch_norms(model: nn.Module) -> Iterator[Any]:
    """Every batch norm of a network, in order."""
    return (m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d))


def corrupt(images: Tensor, kind: str, generator: torch.Generator | None = None) -> Tensor:
    """Corrupted images: `noise` (standard deviation 0.7), `blur` (3x3 mean), `contrast` (halved) or `bright` (+1)."""
    if kind == "noise":
        noise = torch.randn(images.shape, generator=generator).to(images.device)
        return images + 0.7 * noise
    if kind == "blur":
        return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    if kind == "contrast":
        mean = images.mean((1, 2, 3), keepdim=True)
        return mean + 0.5 * (images - mean)
    if kind == "bright":
        return images + 1.0
    raise ValueError(f"kind={kind!r} is not known; use one of {', '.join(CORRUPTIONS)}")


CORRUPTIONS = ("noise", "blur", "contrast", "bright")
