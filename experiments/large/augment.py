"""MixUp, CutMix and then RandAugment of a batch on the device, in the authors' order, with soft labels.

All random numbers of a batch are one table of uniform numbers, with a row for each image. The table depends only on the
seed and the update, so each image gets the same numbers however a batch is split over processes and accumulation steps.

Axes: N images, C channels, H W space.
"""

import torch
from numpy.random import SeedSequence
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional as F

from experiments.large.large_run import Augment
from experiments.large.randaugment import rand_augment

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def seed_of(*numbers: int) -> int:
    """One seed from several numbers, as if drawn at random."""
    return int(SeedSequence(numbers).generate_state(1, "uint64")[0]) >> 1


def draws(augment: Augment, seed: int, update: int, batch_size: int) -> Tensor:
    """The uniform numbers of one batch, ``(N, 3 + 4 * layers)``: mixing, then for each layer choice, sign and place."""
    generator = torch.Generator().manual_seed(seed_of(seed, 2, update))
    return torch.rand(batch_size, 3 + 4 * augment.layers, generator=generator, dtype=torch.float64)


def normalize(x: Tensor) -> Tensor:
    """Zero mean and unit variance over ImageNet, channel by channel."""
    mean, std = (torch.tensor(v, device=x.device, dtype=x.dtype)[:, None, None] for v in (MEAN, STD))
    return (x - mean) / std


def prepare(
    images: Tensor, labels: Tensor, u: Tensor, augment: Augment, classes: int, first: int = 0
) -> tuple[Tensor, Tensor]:
    """The network's input from decoded images, mixed, augmented and normalised; and the soft labels ``(N, classes)``.

    Parameters
    ----------
    images, labels : Tensor
        uint8 ``(2 N, C, H, W)`` and ``(2 N,)``, an image and its partner side by side; N of each without mixing.
    u : Tensor
        The rows of `draws` for these images, on the CPU.
    first : int
        Place of the first image in the batch; MixUp goes to even places, CutMix to odd ones.
    """
    x = images.float() / 255
    targets = F.one_hot(labels, classes).float()
    if augment.mix:
        x, targets = mix(x, targets, u, augment.mixup, first)
    return normalize(rand_augment(x, u[:, 3:], augment)), targets


def mix(x: Tensor, targets: Tensor, u: Tensor, alpha: float, first: int = 0) -> tuple[Tensor, Tensor]:
    """Mix each pair of images to one, by MixUp (arXiv 1710.09412) or CutMix (arXiv 1905.04899), and mix the labels."""
    height, width = x.shape[-2:]
    share = torch.from_numpy(betaincinv(alpha, alpha, u[:, 0].numpy()))
    # CutMix's share is Beta(1, 1), which is uniform; the patch, cut at the border, is the first image's.
    length = (1 - u[:, 0]).sqrt()
    rows, columns = (_inside(u[:, i], length, side) for i, side in ((1, height), (2, width)))
    patch = (rows[:, None, :, None] & columns[:, None, None, :]).to(torch.float64)
    cut = (torch.arange(first, first + len(u)) % 2 == 1)[:, None, None, None]
    weight = torch.where(cut, patch, share[:, None, None, None]).to(x.device, x.dtype)
    of_first = weight.mean((1, 2, 3))[:, None]
    return (
        weight * x[0::2] + (1 - weight) * x[1::2],
        of_first * targets[0::2] + (1 - of_first) * targets[1::2],
    )


def _inside(centre: Tensor, length: Tensor, side: int) -> Tensor:
    """Mask ``(N, side)`` of the pixels that are at most half of ``length * side`` away from a random pixel."""
    at, half = (centre * side).long()[:, None], (length * side).long()[:, None] // 2
    pixels = torch.arange(side)
    return (pixels >= at - half) & (pixels < at + half)
