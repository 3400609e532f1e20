"""Group norm, batch norm and no norm on corrupted images, and on images of another source.

Source: Benchmarking the robustness of instance segmentation models (Dalva et al., 2021, arXiv 2109.01123).
"""

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from experiments.demos.atlas.shared import (
    CORRUPTIONS,
    Network,
    Scale,
    accuracy,
    classifier_loss,
    corrupt,
    digits,
    fit,
    reproducible,
)  # fmt: skip
from experiments.tasks.data import Split

DRAWN = 48  # pixels a side of a digit as it is drawn


def printed(count: int, like: Split, generator: torch.Generator) -> Split:
    """Printed digits in the form of a data set: Pillow's own font, with random size, place and rotation."""
    side, channels = like.images.shape[-1], like.images.shape[1]
    labels = torch.arange(count) % 10
    random = torch.rand(count, 3, generator=generator).tolist()
    drawn = []
    for label, (size, turn, shift) in zip(labels.tolist(), random, strict=True):
        canvas = Image.new("L", (DRAWN, DRAWN))
        font = ImageFont.load_default(size=DRAWN * (0.7 + 0.3 * size))  # sizes differ in the weight of their strokes
        ImageDraw.Draw(canvas).text((DRAWN / 2, DRAWN / 2), str(label), fill=255, font=font, anchor="mm")
        turned = canvas.rotate(20 * turn - 10, Image.Resampling.BILINEAR)
        left, top, right, bottom = turned.getbbox() or (0, 0, DRAWN, DRAWN)
        # Handwritten digits of the data set fill its height, and three quarters of its width: so do these.
        shown = turned.crop((left, top, right, bottom)).resize((3 * side // 4, side), Image.Resampling.BOX)
        placed = Image.new("L", (side, side))
        placed.paste(shown, (round((side - shown.width) * shift), 0))
        drawn.append(np.asarray(placed, dtype=np.float32))
    pixels = torch.from_numpy(np.stack(drawn))[:, None].expand(-1, channels, -1, -1)
    device = like.images.device
    return Split((pixels.to(device) - like.mean) / like.std, labels.to(device), like.mean, like.std)


@reproducible
def demonstrate(seed: int, scale: Scale, device: torch.device) -> dict[str, float]:
    """Accuracy in per cent by norm: clean, over the corruptions, and on printed digits."""
    train, test = digits(scale, device)
    other = printed(5 * scale.items, test, torch.Generator().manual_seed(seed))
    found: dict[str, float] = {}
    for method in ("bn", "gn", "nf"):
        torch.manual_seed(seed)
        model = Network(method, scale.width, 10, channels=train.images.shape[1]).to(device)
        fit(model, classifier_loss(model, train, 64), 3 * scale.updates)
        found[f"{method} clean"] = accuracy(model, test)
        each = []
        for kind in CORRUPTIONS:
            spoilt = corrupt(test.images, kind, torch.Generator().manual_seed(seed))
            each.append(accuracy(model, Split(spoilt, test.labels, test.mean, test.std)))
        found[f"{method} corrupted"] = sum(each) / len(each)
        found[f"{method} printed"] = accuracy(model, other)
    return found
