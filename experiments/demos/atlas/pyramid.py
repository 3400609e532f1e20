"""One batch norm over all levels of a feature pyramid, instead of one for each level.

Source: SEPC (Wang et al., CVPR 2020, arXiv 2005.03101), whose integrated batch norm joins the levels' positions.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.demos.atlas.shared import Scale, digits, fit, reproducible
from nfnets_lite.activations import ScaledActivation
from nfnets_lite.conv import ScaledStdConv2d
from nfnets_lite.norm.batch import GhostBatchNorm2d

CANVAS, LEVELS = 16, 3  # pixels a side; levels, each half as large as the one before
BATCH, PART = 16, 2  # images per gradient; images that share statistics, as on one of eight devices


class Integrated(nn.Module):
    """One norm for a list of maps ``(N, C, H_i, W_i)``: it sees the positions of all levels side by side.

    With batch norm inside, that is one mean and variance a channel over all of them.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        flat = self.norm(torch.cat([m.flatten(2) for m in maps], 2)[:, :, None])[:, :, 0]
        parts = flat.split([m[0, 0].numel() for m in maps], 2)
        return [part.unflatten(2, m.shape[2:]) for part, m in zip(parts, maps)]


class PerLevel(nn.ModuleList):
    """A norm for each map of a list, with its own statistics and parameters."""

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [norm(m) for norm, m in zip(self, maps)]


def shared(channels: int) -> GhostBatchNorm2d:
    """Batch norm over `PART` images at a time."""
    return GhostBatchNorm2d(channels, size=PART, momentum=0.02)


class Head(nn.Module):
    """A shared head on a pyramid of pooled images: two shared convolutions, then the mean over each level."""

    def __init__(self, method: str, width: int, outputs: int, channels: int) -> None:
        super().__init__()
        conv = ScaledStdConv2d if method == "nf" else nn.Conv2d
        self.convs = nn.ModuleList(conv(i, width, 3, padding=1) for i in (channels, width))
        norms: dict[str, Callable[[], nn.Module]] = {
            "integrated": lambda: Integrated(shared(width)),
            "level": lambda: PerLevel(shared(width) for _ in range(LEVELS)),
            "nf": nn.Identity,
        }
        self.norms = nn.ModuleList(norms[method]() for _ in self.convs)
        self.activation = ScaledActivation("relu", None if method == "nf" else 1.0)
        self.classifier = nn.Linear(LEVELS * width, outputs)

    def forward(self, images: Tensor) -> Tensor:
        maps: list[Tensor] = [images]
        for _ in range(LEVELS - 1):
            maps.append(F.avg_pool2d(maps[-1], 2))
        for conv, norm in zip(self.convs, self.norms):
            maps = [self.activation(m) for m in norm([conv(m) for m in maps])]
        outputs: Tensor = self.classifier(torch.cat([m.mean((2, 3)) for m in maps], 1))
        return outputs


def placed(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Each image at its own size, a half of the canvas or all of it, in a random place on an empty canvas."""
    canvas = images.new_zeros(len(images), images.shape[1], CANVAS, CANVAS) + images.amin()
    large = torch.rand(len(images), generator=generator) < 0.5
    corner = torch.randint(CANVAS // 2 + 1, (len(images), 2), generator=generator)
    for side, rows in ((CANVAS, large), (CANVAS // 2, ~large)):
        shown = F.interpolate(images[rows.to(images.device)], (side, side), mode="bilinear")
        for image, row in zip(shown, rows.nonzero()[:, 0].tolist()):
            top, left = (0, 0) if side == CANVAS else corner[row].tolist()
            canvas[row, :, top : top + side, left : left + side] = image
    return canvas


@torch.no_grad()
def statistics_noise(head: Head, images: Tensor, batches: int) -> float:
    """Variance over batches of the logarithm of the first norm's variance, a mean over channels and levels."""
    found = []
    for batch in torch.split(images[: batches * PART], PART):
        maps = [batch]
        for _ in range(LEVELS - 1):
            maps.append(F.avg_pool2d(maps[-1], 2))
        values = [head.convs[0](m).transpose(0, 1).flatten(1) for m in maps]
        each = [torch.cat(values, 1)] if isinstance(head.norms[0], Integrated) else values
        found.append(torch.stack([v.var(1).clamp_min(1e-6).log() for v in each]))
    return float(torch.stack(found).var(0).mean())


@reproducible
def demonstrate(seed: int, scale: Scale, device: torch.device) -> dict[str, float]:
    """Test accuracy in per cent with 2 images per statistic, and the noise of statistics, by the norm of the head."""
    train, test = digits(scale, device)
    seen, unseen = placed(train.images), placed(test.images)
    found = {}
    for method in ("level", "integrated", "nf"):
        torch.manual_seed(seed)
        head = Head(method, scale.width, 10, train.images.shape[1]).to(device)
        if method != "nf":
            found[f"noise {method}"] = statistics_noise(head, seen, scale.items)

        def loss(head: Head = head) -> Tensor:
            rows = torch.randint(len(train), (BATCH,)).to(device)
            return F.cross_entropy(head(seen[rows]), train.labels[rows])

        fit(head, loss, 4 * scale.updates, rate=0.01)
        with torch.no_grad():
            found[f"accuracy {method}"] = float(100 * (head(unseen).argmax(1) == test.labels).float().mean())
    found["log10 noise ratio"] = float(torch.tensor(found["noise level"] / found["noise integrated"]).log10())
    return found
