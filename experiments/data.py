"""Data on the device: one tensor of images, one of labels, split once and for all; no loader, no workers.

Axes: N images, C channels, H W space.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import data_scripts
from experiments.config import Data

ROOT = Path(__file__).resolve().parent.parent
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Images ``(N, C, H, W)`` float32, zero mean and unit variance over the training images; labels ``(N,)`` int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def data_root() -> Path:
    """Folder of the converted data sets: ``$NFNETS_LITE_DATA``, or ``data/`` in the repository."""
    return Path(os.environ.get("NFNETS_LITE_DATA") or ROOT / "data")


def prepare(name: str) -> None:
    """Make a data set ready for `load`, once, before any worker needs it.

    Where ``$NFNETS_LITE_DATA`` holds published files that were not converted yet, they are verified and converted into
    the repository's ``data/``. Raises as `load` does if the data set is unknown, missing or damaged.
    """
    _published(name)


def _converted(name: str) -> Path:
    """The root that holds the converted arrays of `name`."""
    for root in (data_root(), ROOT / "data"):
        if (root / name / "train_images.npy").exists():
            return root
    if (data_root() / name).is_dir():
        data_scripts.convert(name, data_root() / name, ROOT / "data")
        return ROOT / "data"
    return data_root()  # nothing there: reading it says what is missing and how to get it


def _published(name: str) -> dict[str, np.ndarray]:
    if name == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        # The bunch is 1,797 scans in the publisher's order; its last fifth is the test set, by other writers.
        images, labels = (digits.images[:, None] * (255 / 16)).astype(np.uint8), digits.target.astype(np.uint8)
        return {
            "train_images": images[:1437], "train_labels": labels[:1437],
            "test_images": images[1437:], "test_labels": labels[1437:],
        }  # fmt: skip
    if name not in data_scripts.NAMES:
        raise ValueError(f"data set {name!r} is not known; use one of digits, {', '.join(data_scripts.NAMES)}")
    return data_scripts.read(name, _converted(name))


@lru_cache(maxsize=2)
def load(data: Data, device: torch.device) -> dict[str, Split]:
    """The three splits of a data set, on the device.

    Raises
    ------
    ValueError
        For an unknown data set, or when more images are asked for than there are.
    FileNotFoundError, ValueError
        From `data_scripts.read`, when files are missing, truncated or have a wrong sum.
    """
    published = _published(data.name)
    available = len(published["train_labels"])
    train = available - data.validation if data.train is None else data.train
    if not 0 < train + data.validation <= available:
        raise ValueError(
            f"train={data.train} and validation={data.validation} ask for {train + data.validation} images; "
            f"{data.name} has {available} training images"
        )
    order = np.random.default_rng(0).permutation(available)
    take = {
        "train": ("train", order[:train]),
        "validation": ("train", order[train : train + data.validation]),
        "test": ("test", np.arange(len(published["test_labels"]))[: data.test]),
    }
    images = {split: _pooled(published[f"{part}_images"][rows], data.pool) for split, (part, rows) in take.items()}
    labels = {split: published[f"{part}_labels"][rows] for split, (part, rows) in take.items()}
    std, mean = torch.std_mean(images["train"], dim=(0, 2, 3), keepdim=True)
    return {
        split: Split(
            ((images[split] - mean) / std).to(device), torch.from_numpy(labels[split].astype(np.int64)).to(device)
        )
        for split in SPLITS
    }


def _pooled(images: np.ndarray, pool: int) -> Tensor:
    x = torch.from_numpy(np.ascontiguousarray(images)).float()
    return F.avg_pool2d(x, pool) if pool > 1 else x


def batches(split: Split, batch_size: int, updates: int, generator: torch.Generator, augment: bool) -> Iterator[Split]:
    """`updates` batches from one endless stream of epochs, each a fresh permutation.

    The stream is cut without regard to where an epoch ends, so every batch is full and every batch size sees the same
    number of images for the same number of epochs. `generator` is a CPU one: the order is the same on every device.
    """
    device, count = split.images.device, len(split)
    stream = torch.empty(0, dtype=torch.int64)
    for _ in range(updates):
        while len(stream) < batch_size:
            stream = torch.cat((stream, torch.randperm(count, generator=generator)))
        rows, stream = stream[:batch_size].to(device), stream[batch_size:]
        images = split.images[rows]
        yield Split(crop_and_flip(images, generator) if augment else images, split.labels[rows])


def crop_and_flip(x: Tensor, generator: torch.Generator, pad: int = 4) -> Tensor:
    """Random crop from zero padding, and random horizontal flip, image by image, on the images' device."""
    n, _, height, width = x.shape
    shift = torch.randint(0, 2 * pad + 1, (2, n, 1), generator=generator).to(x.device)
    flip = (torch.rand((n, 1), generator=generator) < 0.5).to(x.device)
    rows = torch.arange(height, device=x.device) + shift[0]
    columns = torch.arange(width, device=x.device)
    columns = torch.where(flip, width - 1 - columns, columns) + shift[1]
    index = torch.arange(n, device=x.device)[:, None, None]
    padded = F.pad(x, (pad,) * 4).permute(0, 2, 3, 1)
    return padded[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
