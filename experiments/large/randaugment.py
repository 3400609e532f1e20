"""RandAugment of a batch on the device, with kornia's operations where it has them.

Differences from the authors' list of 16 operations (their ``autoaugment.py``, all 16 are here):

- Contrast is kornia's, around the image's mean grey. The authors' "mean" is the number of pixels over 256, a constant
  that depends on the resolution alone (144 at 192 pixels, white from 256 on).
- Solarize at magnitude 10 and above leaves the image as it is (the threshold is 256 and more).
- Equalize, Posterize, Sharpness, Color, Brightness, Invert and AutoContrast are theirs, up to rounding of one level.
- Rotation, shears and translations are one affine warp each, nearest pixel, grey (128) outside; the sign conventions
  differ, which a random sign undoes.
- SolarizeAdd and Cutout are written here: kornia's would add to every pixel, and has no square of fixed size.

Axes: N images, C channels, H W space.
"""

from collections.abc import Callable

import kornia
import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.large.large_run import Augment

OPERATIONS = (
    "rotate", "shear_x", "shear_y", "translate_x", "translate_y",
    "auto_contrast", "equalize", "invert", "posterize", "solarize", "solarize_add",
    "color", "contrast", "brightness", "sharpness", "cutout",
)  # fmt: skip
GEOMETRIC = 5
GREY = 128 / 255


def rand_augment(x: Tensor, u: Tensor, augment: Augment) -> Tensor:
    """RandAugment (arXiv 1909.13719): apply `layers` randomly chosen operations to each image, one after the other.

    Images are in [0, 1] and rounded to the 256 levels of 8 bits between operations, as in the authors' code.
    """
    if not augment.layers:
        return x
    x = _levels(x.clamp(0, 1))
    for layer in range(augment.layers):
        choice, sign, *place = u[:, 4 * layer : 4 * layer + 4].unbind(1)
        chosen = (choice * len(OPERATIONS)).long()
        out = x.clone()
        for rows, apply in _groups(chosen, torch.where(sign < 0.5, -1.0, 1.0), torch.stack(place, 1), augment):
            at = rows.to(x.device)
            out[at] = apply(x[at])
        x = _levels(out)
    return x


def _levels(x: Tensor) -> Tensor:
    return (x * 255 + 1e-3).floor().clamp(0, 255) / 255


def _groups(
    chosen: Tensor, sign: Tensor, place: Tensor, augment: Augment
) -> list[tuple[Tensor, Callable[[Tensor], Tensor]]]:
    """Rows of the images that share an operation, and the operation; all warps count as one operation."""
    strength = augment.magnitude / 10
    warped = (chosen < GEOMETRIC).nonzero().flatten()
    cut = (chosen == OPERATIONS.index("cutout")).nonzero().flatten()
    groups: list[tuple[Tensor, Callable[[Tensor], Tensor]]] = [
        (warped, lambda x: _warp(x, chosen[warped], sign[warped] * strength, augment.translate)),
        (cut, lambda x: _cutout(x, place[cut], int(strength * augment.cutout))),
    ]
    for index in range(GEOMETRIC, len(OPERATIONS) - 1):
        groups.append(((chosen == index).nonzero().flatten(), _photometric(OPERATIONS[index], strength)))
    return [(rows, apply) for rows, apply in groups if len(rows)]


def _photometric(name: str, strength: float) -> Callable[[Tensor], Tensor]:
    enhance = kornia.enhance
    factor = strength * 1.8 + 0.1
    operations: dict[str, Callable[[Tensor], Tensor]] = {
        "auto_contrast": _auto_contrast,
        "equalize": enhance.equalize,
        "invert": enhance.invert,
        "posterize": lambda x: enhance.posterize(x, min(8, int(strength * 4))),
        "solarize": lambda x: torch.where(x * 255 < int(strength * 256) - 0.5, x, 1 - x),
        "solarize_add": lambda x: torch.where(x * 255 < 127.5, (x + int(strength * 110) / 255).clamp(0, 1), x),
        "color": lambda x: enhance.adjust_saturation_with_gray_subtraction(x, factor),
        "contrast": lambda x: enhance.adjust_contrast_with_mean_subtraction(x, factor),
        "brightness": lambda x: enhance.adjust_brightness_accumulative(x, factor),
        "sharpness": lambda x: enhance.sharpness(x, factor),
    }
    return operations[name]


def _auto_contrast(x: Tensor) -> Tensor:
    flat = x.amax((2, 3), keepdim=True) == x.amin((2, 3), keepdim=True)
    return torch.where(flat, x, kornia.enhance.normalize_min_max(x))


def _cutout(x: Tensor, place: Tensor, half: int) -> Tensor:
    height, width = x.shape[-2:]
    inside = []
    for i, side in ((0, height), (1, width)):
        at, pixels = (place[:, i] * side).long()[:, None], torch.arange(side)
        inside.append((pixels >= at - half) & (pixels < at + half))
    return x.masked_fill((inside[0][:, None, :, None] & inside[1][:, None, None, :]).to(x.device), GREY)


def _warp(x: Tensor, chosen: Tensor, amount: Tensor, translate: int) -> Tensor:
    """Rotation by 30 degrees, shear by 0.3, translation by `translate` pixels, each times `amount`, image by image."""
    height, width = x.shape[-2:]
    kind = F.one_hot(chosen, GEOMETRIC).to(amount.dtype).T * amount
    angle = kind[0] * (torch.pi / 6)
    cosine, sine = angle.cos(), angle.sin()
    # Rotation about the centre; the shears keep the first row or column.
    cx, cy = (width - 1) / 2, (height - 1) / 2
    top = torch.stack((cosine, -sine + 0.3 * kind[1], cx - cosine * cx + sine * cy + translate * kind[3]), 1)
    bottom = torch.stack((sine + 0.3 * kind[2], cosine, cy - sine * cx - cosine * cy + translate * kind[4]), 1)
    matrix = torch.stack((top, bottom), 1).to(x.device, x.dtype)
    grey = torch.full((3,), GREY, device=x.device, dtype=x.dtype)
    warped: Tensor = kornia.geometry.transform.warp_affine(
        x, matrix, (height, width), mode="nearest", padding_mode="fill", fill_value=grey
    )
    return warped
