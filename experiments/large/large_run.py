"""One large run as frozen data, and its learning-rate schedule. Nothing here is executed."""

from dataclasses import asdict, dataclass
from functools import cached_property
from math import cos, pi
from typing import ClassVar, Literal

from experiments.records.keys import key_of
from nfnets_lite.models import ResNetSpec, Resolution

APART = ("name", "profile", "seed")  # the fields of a run that do not enter its key


@dataclass(frozen=True)
class Augment:
    """Augmentation of a batch on the device, after crop and flip.

    Attributes
    ----------
    mix : bool
        MixUp on one half of the batch and CutMix on the other. Each image then has its own partner, so twice as many
        images are read.
    mixup : float
        Both parameters of MixUp's Beta distribution; those of CutMix are 1.
    layers, magnitude : int, float
        RandAugment: number of operations on each image, and their strength on a scale of 10.
    cutout, translate : int
        Half the side of the grey square, and the shift, in pixels at magnitude 10.
    """

    mix: bool = True
    mixup: float = 0.2
    layers: int = 4
    magnitude: float = 5
    cutout: int = 40
    translate: int = 100


@dataclass(frozen=True)
class LargeRecipe:
    """How to train (NFNet, arXiv 2102.06171, appendix A.1).

    Attributes
    ----------
    batch_size : int
        Images of an update, over all processes and accumulation steps.
    rate : float
        Peak learning rate for each 256 images of the batch.
    decay : float
        Decay of the averaged weights; see `nfnets_lite.averaging`.
    sam_radius : float, optional
        Length of the ascent step of sharpness-aware minimisation; None: no sharpness-aware minimisation.
    sam_fraction : float
        The share of each batch on which the ascent gradient is computed.
    """

    batch_size: int = 4096
    epochs: float = 360.0
    rate: float = 0.1
    warmup_epochs: float = 5.0
    weight_decay: float = 2e-5
    momentum: float = 0.9
    clip_factor: float | None = 0.01
    label_smoothing: float = 0.1
    decay: float = 0.99999
    autocast: bool = True
    sam_radius: float | None = None
    sam_fraction: float = 0.2


@dataclass(frozen=True)
class LargeRun:
    """One run with all of its settings. `key` identifies everything but the seed and the name."""

    NUMERICS: ClassVar[int] = 1  # not raised yet

    name: str
    profile: str
    model: ResNetSpec
    size: Resolution
    recipe: LargeRecipe = LargeRecipe()
    augment: Augment = Augment()
    images: int = 1_281_167
    seed: int = 0

    @property
    def steps(self) -> int:
        """Number of updates of the run; the last epoch is cut to whole batches, as in the authors' code."""
        return max(1, int(self.recipe.epochs * self.images / self.recipe.batch_size))

    @property
    def warmup(self) -> float:
        """Warm-up in updates; not rounded, as in the authors' code."""
        return self.recipe.warmup_epochs * self.images / self.recipe.batch_size

    @property
    def peak(self) -> float:
        """The highest learning rate."""
        return self.recipe.rate * self.recipe.batch_size / 256

    @cached_property
    def resolved(self) -> dict[str, object]:
        """Every field but the names and the seed, as plain data."""
        return {name: value for name, value in asdict(self).items() if name not in APART}

    @cached_property
    def key(self) -> str:
        """Hash of the fields that differ from their defaults; equal keys are the same experiment."""
        return key_of(self, APART)


@dataclass(frozen=True)
class Layout:
    """How a run is laid out on machines; this changes the results only by rounding.

    Attributes
    ----------
    micro : int
        Images in one forward pass of one process; passes are accumulated to a batch. Dropout and stochastic depth draw
        anew for each pass, so with them this number does change the results.
    shard : "ddp" or "fsdp"
    workers : int
        Processes that decode images, for each training process.
    checkpoint_every, log_every : int
        Updates between checkpoints, and between log lines.
    stop_after : int, optional
        Update after which the run stops, with a checkpoint, as at the time limit of a queue.
    """

    micro: int = 64
    shard: Literal["ddp", "fsdp"] = "ddp"
    compile: bool = False
    workers: int = 8
    device: str = "auto"
    checkpoint_every: int = 1000
    log_every: int = 50
    stop_after: int | None = None

    def __post_init__(self) -> None:
        for name in ("micro", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.shard not in ("ddp", "fsdp"):
            raise ValueError(f"shard={self.shard!r} is not known; use ddp, or fsdp for models that do not fit")

    def accumulation(self, batch_size: int, world: int) -> int:
        """Forward passes of each process for one update."""
        if batch_size % (self.micro * world):
            raise ValueError(
                f"batch_size={batch_size} is not a whole number of times micro={self.micro} x {world} process(es); "
                f"choose --micro among the divisors of {batch_size / world:g}"
            )
        return batch_size // (self.micro * world)


def rate_at(step: float, steps: int, warmup: float, peak: float, start: float = 0.0, end: float = 0.0) -> float:
    """Learning rate of one update: linear from `start` to `peak`, then a half cosine to `end`.

    Examples
    --------
    >>> [round(rate_at(step, steps=10, warmup=2, peak=1.0), 3) for step in (0, 1, 2, 6, 10)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if step < warmup:
        return start + (peak - start) * step / warmup
    return end + (peak - end) * 0.5 * (1 + cos(pi * (step - warmup) / (steps - warmup)))
