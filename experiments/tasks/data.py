"""Data sets as one tensor of images and one of labels on the device, with fixed splits; no loader, no workers.

Axes: N images, C channels, H W space.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import data_scripts
from data_scripts import data_root
from experiments.tasks.patches import seen_through, whitening_filters
from experiments.tasks.recipe import Data

ROOT = Path(__file__).resolve().parents[2]
SPLITS = ("train", "validation", "test")
SIDE = {"digits": 8, "cifar10": 32, "fashion_mnist": 28, "imagenet": 224}  # pixels
FULL = {"digits": 1437, "cifar10": 50_000, "fashion_mnist": 60_000, "imagenet": 1_281_167}  # training images


@dataclass(frozen=True)
class Split:
    """Images ``(N, C, H, W)`` float32, zero mean and unit variance over the training images; labels ``(N,)`` int64.

    ``images * std + mean`` are pixels of 0 to 255, with `mean` and `std` of shape ``(1, C, 1, 1)``. `filters` whiten
    patches; None: a network sees the pixels.
    """

    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor
    filters: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def seen(self, images: Tensor) -> Tensor:
        """The network's input for these images, which may be augmented: the images, or their whitened patches."""
        return images if self.filters is None else seen_through(self.filters, images)

    def first(self, count: int) -> "Split":
        """The first `count` images and labels."""
        return replace(self, images=self.images[:count], labels=self.labels[:count])


def prepare(name: str) -> None:
    """Make a data set ready for `load`, before any worker needs it.

    If ``$NFNETS_LITE_DATA`` holds published files that were not converted yet, they are verified and converted into the
    repository's ``data/``. Raises the errors of `load` if the data set is unknown, missing or damaged.
    """
    _published(name)


def converted(name: str) -> Path | None:
    """The folder that holds the converted arrays of `name`; None if there is none yet."""
    folders = (root / name for root in (data_root(), ROOT / "data"))
    return next((folder for folder in folders if (folder / "train_images.npy").exists()), None)


def _root(name: str) -> Path:
    """The root from which `name` is read; published files at `data_root` are converted first."""
    if (folder := converted(name)) is not None:
        return folder.parent
    if (data_root() / name).is_dir():
        return data_scripts.convert(name, data_root() / name, ROOT / "data").parent
    return data_root()  # nothing there: reading it says what is missing and how to get it


def _published(name: str) -> dict[str, np.ndarray]:
    if name == "digits":
        # scikit-learn's file is read without importing scikit-learn, which takes longer than a training on it.
        found = find_spec("sklearn")
        if found is None or found.origin is None:
            raise ModuleNotFoundError("data set 'digits' is a file of scikit-learn: `pip install scikit-learn`")
        rows = np.loadtxt(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
        # The file has 1,797 scans in the publisher's order. The last fifth, by other writers, is the test set.
        images = (rows[:, :-1].reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
        labels = rows[:, -1].astype(np.uint8)
        return {
            "train_images": images[:1437], "train_labels": labels[:1437],
            "test_images": images[1437:], "test_labels": labels[1437:],
        }  # fmt: skip
    if name not in data_scripts.NAMES:
        raise ValueError(f"data set {name!r} is not known; use one of digits, {', '.join(data_scripts.NAMES)}")
    return data_scripts.read(name, _root(name))


@lru_cache(maxsize=2)
def load(data: Data, device: torch.device, apart: Data | None = None) -> dict[str, Split]:
    """The three splits of a data set on the device, without the images that `apart` keeps for validation.

    Raises
    ------
    ValueError
        If the data set is unknown, or has fewer images than `data` asks for.
    FileNotFoundError, ValueError
        From `data_scripts.read`, if files are missing, truncated or have a wrong sum.
    """
    published = _kept(_published(data.name), data.classes, apart)
    of_train, of_validation = _drawn(data, len(published["train_labels"]))
    take = {
        "train": ("train", of_train),
        "validation": ("train", of_validation),
        "test": ("test", np.arange(len(published["test_labels"]))[: data.test]),
    }
    images = {split: _pooled(published[f"{part}_images"][rows], data.pool) for split, (part, rows) in take.items()}
    labels = {split: published[f"{part}_labels"][rows] for split, (part, rows) in take.items()}
    std, mean = torch.std_mean(images["train"], dim=(0, 2, 3), keepdim=True)
    images = {split: (images[split] - mean) / std for split in SPLITS}
    filters = whitening_filters(images["train"], data.patches).to(device) if data.patches else None
    return {
        split: Split(
            images[split].to(device),
            torch.from_numpy(labels[split].astype(np.int64)).to(device),
            mean.to(device),
            std.to(device),
            filters,
        )
        for split in SPLITS
    }


def _drawn(data: Data, available: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the `available` training images that are trained on, and rows that are kept for validation."""
    train = available - data.validation if data.train is None else data.train
    if not 0 < train + data.validation <= available:
        raise ValueError(
            f"train={data.train} and validation={data.validation} ask for {train + data.validation} images; "
            f"{data.name} has {available} training images"
        )
    order = np.random.default_rng(0).permutation(available)
    return order[:train], order[train : train + data.validation]


def _kept(published: dict[str, np.ndarray], classes: int | None, apart: Data | None) -> dict[str, np.ndarray]:
    """The published images of the first `classes` classes, without the validation images of `apart`."""
    if classes is None and apart is None:
        return published
    labels = {part: published[f"{part}_labels"] for part in ("train", "test")}
    rows = {part: np.full(len(of), True) if classes is None else of < classes for part, of in labels.items()}
    if apart is not None:
        rows["train"][_drawn(apart, len(labels["train"]))[1]] = False
    return {name: array[rows[name.partition("_")[0]]] for name, array in published.items()}


def _pooled(images: np.ndarray, pool: int) -> Tensor:
    x = torch.from_numpy(np.ascontiguousarray(images)).float()
    return F.avg_pool2d(x, pool) if pool > 1 else x
