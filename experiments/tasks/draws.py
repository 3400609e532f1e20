"""All random numbers of a training's batches, drawn before the training; and batches that are made from them.

The generator is on the CPU, so the batches are the same on every device. The numbers are moved to the device once, and
a step then reads its part there without waiting for the CPU.

Axes: N images, C channels, H W space.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional as F

from experiments.tasks.data import Split
from experiments.tasks.recipe import Augment

LAYERS = 4  # layers of RandAugment, as in the NFNet recipe


@dataclass(frozen=True)
class Draws:
    """Random numbers of all batches, ``(updates, N, ...)``, or of one batch, ``(N, ...)``.

    `rows`: the images. `shift` (down and right) and `flip`: the crops. `share` and `box` (centre down, centre right),
    in [0, 1]: the mixing. `ops`: RandAugment's uniform numbers. None where the augmentation does not need it.
    """

    rows: Tensor
    shift: Tensor | None = None
    flip: Tensor | None = None
    share: Tensor | None = None
    box: Tensor | None = None
    ops: Tensor | None = None

    def map(self, f: Callable[[Tensor], Tensor]) -> "Draws":
        """Apply a function to every tensor."""
        return replace(self, **{name: f(value) for name, value in vars(self).items() if value is not None})

    def at(self, update: int) -> "Draws":
        """The numbers of one batch."""
        return self.map(lambda x: x[update])

    def copy_(self, other: "Draws") -> None:
        """Copy the numbers of `other` in place."""
        for name, value in vars(self).items():
            if value is not None:
                value.copy_(getattr(other, name))


def draw(
    count: int, batch_size: int, updates: int, generator: torch.Generator, augment: Augment, device: torch.device
) -> Draws:
    """Draw the random numbers of `updates` batches from an endless stream of epochs over `count` images.

    Each epoch is a fresh permutation. Batches may cross the end of an epoch, so every batch is full, and every batch
    size sees the same number of images in the same number of epochs.
    """
    total = updates * batch_size
    epochs = [torch.randperm(count, generator=generator) for _ in range(-(-total // count))]
    found = Draws(torch.cat(epochs)[:total].view(updates, batch_size))
    if augment.crop_flip:
        shift = torch.randint(0, 2 * augment.pad + 1, (updates, batch_size, 2), generator=generator)
        flip = torch.rand((updates, batch_size), generator=generator) < 0.5
        found = replace(found, shift=shift, flip=flip)
    if augment.mixup or augment.cutmix:
        share = torch.rand((updates, batch_size), generator=generator, dtype=torch.float64)
        for rows, parameter in _mixed(batch_size, augment):
            share[:, rows] = torch.from_numpy(betaincinv(parameter, parameter, share[:, rows].numpy()))
        box = torch.rand((updates, batch_size, 2), generator=generator)
        found = replace(found, share=share.float(), box=box)
    if augment.randaugment:
        ops = torch.rand((updates, batch_size, 4 * LAYERS), generator=generator, dtype=torch.float64)
        return replace(found.map(lambda x: x.to(device)), ops=ops)  # on the CPU, where operations are picked
    return found.map(lambda x: x.to(device))


def batch(split: Split, drawn: Draws, augment: Augment, classes: int) -> tuple[Tensor, Tensor]:
    """Images of a batch and their labels, ``(N,)``, or ``(N, classes)`` if images are mixed."""
    images, labels = split.images[drawn.rows], split.labels[drawn.rows]
    if drawn.shift is not None and drawn.flip is not None:
        images = crop_and_flip(images, drawn.shift, drawn.flip, augment.pad)
    if drawn.share is not None and drawn.box is not None:
        images, labels = mix(images, labels, drawn.share, drawn.box, augment, classes)
    if drawn.ops is not None:
        images = _randaugment(images, drawn.ops, augment.randaugment, split)
    return images, labels


def crop_and_flip(x: Tensor, shift: Tensor, flip: Tensor, pad: int) -> Tensor:
    """Crop from `pad` pixels of zero padding, and flip horizontally, image by image, on the images' device.

    Parameters
    ----------
    x : Tensor
        ``(N, C, H, W)``.
    shift, flip : Tensor
        ``(N, 2)`` pixels down and right, from 0 to ``2 * pad``; ``(N,)`` bool.
    """
    n, _, height, width = x.shape
    rows = torch.arange(height, device=x.device) + shift[:, :1]
    columns = torch.arange(width, device=x.device)
    columns = torch.where(flip[:, None], width - 1 - columns, columns) + shift[:, 1:]
    index = torch.arange(n, device=x.device)[:, None, None]
    padded = F.pad(x, (pad,) * 4).permute(0, 2, 3, 1)
    return padded[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def mix(x: Tensor, labels: Tensor, share: Tensor, box: Tensor, augment: Augment, classes: int) -> tuple[Tensor, Tensor]:
    """MixUp (arXiv 1710.09412) and CutMix (arXiv 1905.04899) of each image with the one before it in the batch.

    The batch is random, so its neighbour is a random partner. MixUp keeps `share` of every pixel. CutMix replaces a box
    and keeps `share` of the area; a box at the border is cut, and labels are weighted by the area that is really kept.
    """
    height, width = x.shape[-2:]
    length = (1 - share).sqrt()
    inside = _span(box[:, 0], length, height)[:, :, None] & _span(box[:, 1], length, width)[:, None, :]
    cut = torch.zeros_like(share, dtype=torch.bool)
    if augment.cutmix:
        cut[1 if augment.mixup else 0 :: 2 if augment.mixup else 1] = True
    weight = torch.where(cut[:, None, None], (~inside).to(x.dtype), share[:, None, None].to(x.dtype))
    kept, targets = weight.mean((1, 2))[:, None], F.one_hot(labels, classes).to(x.dtype)
    weight = weight[:, None]
    return (
        weight * x + (1 - weight) * x.roll(1, 0),
        kept * targets + (1 - kept) * targets.roll(1, 0),
    )


def _mixed(batch_size: int, augment: Augment) -> list[tuple[slice, float]]:
    """Rows of a batch, with the parameter of their Beta distribution."""
    if augment.mixup and augment.cutmix:
        return [(slice(0, batch_size, 2), augment.mixup), (slice(1, batch_size, 2), augment.cutmix)]
    return [(slice(0, batch_size), augment.mixup or augment.cutmix)]


def _span(centre: Tensor, length: Tensor, side: int) -> Tensor:
    """Mask ``(N, side)`` of the pixels that are at most half of ``length * side`` away from a centre."""
    at, half = (centre * side)[:, None], (length * side)[:, None] / 2
    pixels = torch.arange(side, device=centre.device) + 0.5
    return (pixels >= at - half) & (pixels < at + half)


def _randaugment(x: Tensor, u: Tensor, magnitude: float, split: Split) -> Tensor:
    from experiments.large.large_run import Augment as Large
    from experiments.large.randaugment import rand_augment  # here, because only this augmentation needs kornia

    # The recipe's square and its shift at magnitude 10 are for 224 pixels: they are scaled to this side.
    cutout, translate = (max(1, round(length * x.shape[-1] / 224)) for length in (40, 100))
    large = Large(layers=LAYERS, magnitude=magnitude, cutout=cutout, translate=translate)
    pixels = (x * split.std + split.mean) / 255
    return (rand_augment(pixels, u, large) * 255 - split.mean) / split.std
