"""Settings of a training as frozen dataclasses: images, augmentation, clipping, optimizer and schedule."""

from dataclasses import dataclass, field

OPTIMIZERS = ("sgd", "adam", "rmsprop", "lion", "lars")
RULES = ("agc", "layer", "global")
LAYERS = ("body", "all", "weights", "no_stem", "late", "early")
TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "fashion_mnist": "Fashion-MNIST", "imagenet": "ImageNet"}


@dataclass(frozen=True)
class Data:
    """A data set and the numbers of its images that are used.

    `train` and `validation` are disjoint parts of the published training images, drawn once, the same for every seed.
    `test` images are the first ones of the published test set. None takes all images left. `pool` averages squares of
    pixels of that side. `classes` keeps only the labels below it; None: all. With `patches`, a side in pixels, the
    network sees whitened patches in place of pixels (`experiments.tasks.patches`); 0: pixels.
    """

    name: str
    train: int | None = None
    validation: int = 0
    test: int | None = None
    pool: int = 1
    classes: int | None = None
    patches: int = 0

    @property
    def title(self) -> str:
        """The name as its publishers write it."""
        return TITLES.get(self.name, self.name)


@dataclass(frozen=True)
class Augment:
    """Random changes of the training images.

    `crop_flip`: crop after zero padding by `pad` pixels, and horizontal flip. `mixup`, `cutmix`: parameter of the Beta
    distribution of an image's share (0: off); with both, each takes half of the batch. `randaugment`: magnitude of its
    4 layers (0: off).
    """

    crop_flip: bool = False
    pad: int = 4
    mixup: float = 0.0
    cutmix: float = 0.0
    randaugment: float = 0.0


@dataclass(frozen=True)
class Clip:
    """Gradient clipping.

    `rule`: ``"agc"`` clips unit by unit, ``"layer"`` takes each tensor as one unit, ``"global"`` bounds the norm of the
    whole gradient by `factor`. `layers`: ``"body"`` is all but the classifier's weight, ``"all"`` everything,
    ``"weights"`` the body without gains and biases, ``"no_stem"`` the body without the stem, ``"early"`` and ``"late"``
    the first and the second half of the body.
    """

    rule: str = "agc"
    factor: float = 0.01
    eps: float = 1e-3
    layers: str = "body"

    def __post_init__(self) -> None:
        _check("rule", self.rule, RULES)
        _check("layers", self.layers, LAYERS)


@dataclass(frozen=True)
class Sam:
    """Sharpness-aware minimisation: radius of the ascent, and the share of the batch, or the other batch, it sees."""

    radius: float = 0.05
    share: float = 1.0
    other_batch: bool = False


@dataclass(frozen=True)
class Recipe:
    """How to train: batch size, length, optimizer and regularisers; linear warm-up, then a cosine to zero.

    `updates` overrides `epochs`. `vcl` is the weight of the variance constancy loss. `ema` is the decay of the averaged
    weights that are judged (0: the last weights are judged).
    """

    batch_size: int
    epochs: float
    lr: float
    updates: int | None = None
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay_gains: bool = False
    warmup: float = 0.1
    clip: Clip | None = None
    augment: Augment = field(default_factory=Augment)
    label_smoothing: float = 0.0
    ema: float = 0.0
    sam: Sam | None = None
    vcl: float = 0.0
    autocast: bool = False

    def __post_init__(self) -> None:
        _check("optimizer", self.optimizer, OPTIMIZERS)


def _check(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}={value!r} is not known; use one of {', '.join(known)}")
