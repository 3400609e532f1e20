"""Images in class folders: finding, decoding and cropping them, and an order of them that can be resumed.

The layout is that of ``imagenet`` and most other image folders::

    DIR/train/<class>/*.jpg      1,281,167 images in 1000 classes for ImageNet
    DIR/val/<class>/*.jpg        50,000 images in the same classes

Files end in .jpg, .jpeg, .png or .webp, in upper or lower case. A class's number is its place in the sorted folder
names.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import exp, log
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator, default_rng
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset, Sampler

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
BICUBIC = Image.Resampling.BICUBIC
IGNORED = -100  # the label of padding, which cross entropy leaves out


@dataclass(frozen=True, eq=False)
class Folder:
    """One split: its files in a fixed order, the class number of each, and the names of the classes.

    `files` are bytes in one array, relative to `root`. A million paths as Python objects would gradually be copied into
    every decoding process, because their reference counts change.
    """

    root: Path
    files: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Path, int]:
        return self.root / os.fsdecode(bytes(self.files[index])), int(self.labels[index])


def scan(root: Path, split: str, classes: tuple[str, ...] | None = None) -> Folder:
    """Find the images of a split.

    Raises
    ------
    FileNotFoundError
        If the folder is missing.
    ValueError
        If there is no class, if a class has no image, or if the classes are not `classes`.
    """
    folder = root / split
    if not folder.is_dir():
        raise FileNotFoundError(
            f"data={str(root)!r} has no folder {split!r}; expected {folder}/<class>/*.jpg. Point --data at the folder "
            "that holds train/ and val/"
        )
    found = tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))
    if not found:
        raise ValueError(f"{folder} has no class folders; expected {folder}/<class>/*.jpg, one folder a class")
    if classes is not None and found != classes:
        extra, lacking = sorted(set(found) - set(classes)), sorted(set(classes) - set(found))
        raise ValueError(
            f"{folder} and train/ differ in their classes: only in {split} {extra[:3]} ({len(extra)}), only in train "
            f"{lacking[:3]} ({len(lacking)}). Both need the same class folders"
        )
    files: list[bytes] = []
    labels: list[int] = []
    for label, name in enumerate(found):
        names = sorted(e.name for e in os.scandir(folder / name) if e.name.lower().endswith(SUFFIXES))
        if not names:
            raise ValueError(f"{folder / name} has no images; accepted are {', '.join(SUFFIXES)}. Fill or remove it")
        files += [os.fsencode(os.path.join(name, n)) for n in names]
        labels += [label] * len(names)
    return Folder(folder, np.array(files), np.array(labels), found)


def decode(path: Path) -> Image.Image:
    """The image in RGB; raises a ValueError that names a file that cannot be read."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be decoded ({error}); replace the file, or remove it from the set") from error


def random_crop(image: Image.Image, size: int, rng: Generator) -> Image.Image:
    """A random part of the image ("inception" crop), resized to a square, flipped half the time.

    The part has 8 to 100 % of the area, and an aspect ratio of 3/4 to 4/3 (uniform in the logarithm). After ten draws
    that do not fit, it is the largest centred square. Going deeper with convolutions (arXiv 1409.4842), section 6.
    """
    width, height = image.size
    side = min(width, height)
    box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    for _ in range(10):
        area = width * height * rng.uniform(0.08, 1.0)
        aspect = exp(rng.uniform(log(3 / 4), log(4 / 3)))
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            box = (left, top, left + w, top + h)
            break
    image = image.resize((size, size), BICUBIC, box=box)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image


def squash_and_crop(image: Image.Image, size: int, margin: int = 32) -> Image.Image:
    """The centre of the whole image, resized to a square of ``size + margin``, bicubic (NFNet, appendix A.1).

    Pillow smooths when it shrinks; the authors' TensorFlow resize does not.
    """
    start = margin // 2
    image = image.resize((size + margin, size + margin), BICUBIC)
    return image.crop((start, start, start + size, start + size))


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return default_rng((seed, epoch)).permutation(count)


class TrainImages(Dataset[tuple[Tensor, int]]):
    """The endless stream of training images: item k, uint8 ``(3, size, size)``, depends only on `seed` and k.

    Each pass over the files has its own permutation, and each item has its own crop, in whichever worker or process.
    """

    def __init__(self, folder: Folder, size: int, seed: int) -> None:
        self.folder, self.size, self.seed = folder, size, seed

    def __getitem__(self, k: int) -> tuple[Tensor, int]:
        epoch, place = divmod(k, len(self.folder))
        path, label = self.folder[_order(self.seed, epoch, len(self.folder))[place]]
        return _tensor(random_crop(decode(path), self.size, default_rng((self.seed, 1, k)))), label


class TestImages(Dataset[tuple[Tensor, int]]):
    """The evaluation images in order, uint8 ``(3, size, size)``; any index past the end is padding, label -100."""

    __test__ = False  # otherwise pytest would collect the class, because of its name

    def __init__(self, folder: Folder, size: int) -> None:
        self.folder, self.size = folder, size

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        padding = index >= len(self.folder)
        path, label = self.folder[0 if padding else index]
        return _tensor(squash_and_crop(decode(path), self.size)), IGNORED if padding else label


class Groups(Sampler[list[int]]):
    """The items of each forward pass of one process, computed from the update's number, so that it can start anywhere.

    Update t takes the items from ``t * batch`` on. Process `rank` of `world` has one contiguous part of the batch, in
    groups of `micro` items.
    """

    def __init__(self, start: int, stop: int, batch: int, micro: int, rank: int, world: int) -> None:
        self.first = range(start, stop)
        self.batch, self.micro, self.share, self.rank = batch, micro, batch // world, rank

    def __iter__(self) -> Iterator[list[int]]:
        for update in self.first:
            begin = update * self.batch + self.rank * self.share
            for at in range(begin, begin + self.share, self.micro):
                yield list(range(at, at + self.micro))

    def __len__(self) -> int:
        return len(self.first) * (self.share // self.micro)
