"""Everything random about the batches of a training, drawn at its start; and a batch made from its part of it.

The generator is a CPU one, so the batches are the same on every device; what was drawn is moved to the device once, and
a step then takes its rows there without waiting for the CPU.

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

LAYERS = 4  # of RandAugment, as in the NFNet recipe


@dataclass(frozen=True)
class Draws:
    """What `updates` batches take, or one of them: ``(updates, N, ...)`` or ``(N, ...)``.

    `rows` of the images; `shift` down and right and `flip` of the crop; `share` and `box` (centre down, centre right)
    of the mixing, in [0, 1]; `ops`, RandAugment's uniform numbers. None where the augmentation does not ask for it.
    """

    rows: Tensor
    shift: Tensor | None = None
    flip: Tensor | None = None
    share: Tensor | None = None
    box: Tensor | None = None
    ops: Tensor | None = None

    def map(self, f: Callable[[Tensor], Tensor]) -> "Draws":
        """The same with a function applied to every tensor."""
        return replace(self, **{name: f(value) for name, value in vars(self).items() if value is not None})

    def at(self, update: int) -> "Draws":
        """Those of one batch."""
        return self.map(lambda x: x[update])

    def copy_(self, other: "Draws") -> None:
        """Take over another's numbers in place."""
        for name, value in vars(self).items():
            if value is not None:
                value.copy_(getattr(other, name))


def draw(
    count: int, batch_size: int, updates: int, generator: torch.Generator, augment: Augment, device: torch.device
) -> Draws:
    """All that is random about `updates` batches of one endless stream of epochs over `count` images.

    Each epoch is a fresh permutation. The stream is cut without regard to where an epoch ends, so every batch is full
    and every batch size sees the same number of images for the same number of epochs.
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
        return replace(found.map(lambda x: x.to(device)), ops=ops)  # its operations are picked on the CPU
    return found.map(lambda x: x.to(device))


def batch(split: Split, drawn: Draws, augment: Augment, classes: int) -> tuple[Tensor, Tensor]:
    """Images of a batch, and their labels: ``(N,)``, or ``(N, classes)`` where images are mixed."""
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

    The batch is a random one, so its neighbour is a random partner. An image keeps `share` of itself: of every pixel,
    or of the area but for a box cut at the border, whose true part is what the labels are weighed by.
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
    """Which rows of a batch have which Beta parameter."""
    if augment.mixup and augment.cutmix:
        return [(slice(0, batch_size, 2), augment.mixup), (slice(1, batch_size, 2), augment.cutmix)]
    return [(slice(0, batch_size), augment.mixup or augment.cutmix)]


def _span(centre: Tensor, length: Tensor, side: int) -> Tensor:
    """Which of `side` pixels are within half of ``length * side`` of a centre, ``(N, side)``."""
    at, half = (centre * side)[:, None], (length * side)[:, None] / 2
    pixels = torch.arange(side, device=centre.device) + 0.5
    return (pixels >= at - half) & (pixels < at + half)


def _randaugment(x: Tensor, u: Tensor, magnitude: float, split: Split) -> Tensor:
    from experiments.large.large_run import Augment as Large
    from experiments.large.randaugment import rand_augment  # needs kornia, which only this augmentation does

    # The square and the shift at magnitude 10 are the recipe's parts of a side of 224 pixels.
    cutout, translate = (max(1, round(length * x.shape[-1] / 224)) for length in (40, 100))
    large = Large(layers=LAYERS, magnitude=magnitude, cutout=cutout, translate=translate)
    pixels = (x * split.std + split.mean) / 255
    return (rand_augment(pixels, u, large) * 255 - split.mean) / split.std
