"""Attention along rows and columns, with group norm, batch norm, or standardised weights in its gate.

Source: ELA (Xu and Wan, 2024, arXiv 2403.01123): strip pooling, a 1-d convolution, group norm, a sigmoid.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from experiments.demos.atlas.shared import Scale, accuracy, classifier_loss, digits, fit, layer, reproducible
from nfnets_lite.conv import ScaledStdConv1d

KERNEL, GROUPS, BATCH = 5, 4, 4  # of the convolution, of group norm; images per batch


class LocalAttention(nn.Module):
    """``x * a_h * a_w``; a_h and a_w are sigmoids of a norm of a depth-wise convolution of means over rows and columns.

    Both directions share the convolution and the norm. Shapes ``(N, C, H, W) -> (N, C, H, W)``.
    """

    def __init__(self, norm: str, channels: int) -> None:
        super().__init__()
        conv = ScaledStdConv1d if norm == "nf" else nn.Conv1d
        norms: dict[str, Callable[[], nn.Module]] = {
            "gn": lambda: nn.GroupNorm(GROUPS, channels), "bn": lambda: nn.BatchNorm1d(channels), "nf": nn.Identity,
        }  # fmt: skip
        self.conv = conv(channels, channels, KERNEL, padding=KERNEL // 2, groups=channels, bias=norm == "nf")
        self.norm = norms[norm]()

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gate of every row ``(N, C, H, 1)`` and of every column ``(N, C, 1, W)``."""
        rows, columns = (torch.sigmoid(self.norm(self.conv(x.mean(dim)))) for dim in (3, 2))
        return rows[..., None], columns[:, :, None]

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.gates(x)
        return x * rows * columns


class Attentive(nn.Sequential):
    """Two convolutions, the attention, one more convolution and a classifier; only the gate may see the batch."""

    def __init__(self, norm: str, width: int, outputs: int, channels: int) -> None:
        base = "nf" if norm == "nf" else "gn"
        first = nn.Sequential(layer(base, channels, width), layer(base, width, width, stride=2))
        super().__init__(
            first, LocalAttention(norm, width), layer(base, width, width), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(width, outputs),
        )  # fmt: skip


@torch.no_grad()
def company(model: Attentive, images: Tensor, draws: int = 8) -> float:
    """Standard deviation of an image's gates over batches of different other images; mean over images and gates."""
    model.train()
    features, gate = model[0](images), model[1]
    assert isinstance(gate, LocalAttention)
    found = []
    for _ in range(draws):
        others = features[torch.randint(len(features), (len(features), BATCH - 1))]
        batches = torch.cat((features[:, None], others), 1)
        found.append(torch.stack([gate.gates(batch)[0][0] for batch in batches]))
    model.eval()
    return float(torch.stack(found).std(0).mean())


@reproducible
def demonstrate(seed: int, scale: Scale, device: torch.device) -> dict[str, float]:
    """Accuracy in per cent after training with few images a batch, and how much other images move an image's gates."""
    train, test = digits(scale, device)
    found: dict[str, float] = {}
    for norm in ("bn", "gn", "nf"):
        torch.manual_seed(seed)
        model = Attentive(norm, scale.width, 10, train.images.shape[1]).to(device)
        fit(model, classifier_loss(model, train, BATCH), 4 * scale.updates, rate=0.01)
        found[f"{norm} accuracy"] = accuracy(model, test)
        found[f"{norm} change"] = company(model, test.images[:16])
    return found
