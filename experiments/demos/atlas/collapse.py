"""A latent predictive model without reconstruction, whose latents collapse or do not.

Source: MuDreamer (Burchi and Timofte, 2024, arXiv 2405.15083), where batch norm in the representation network prevents
collapse. The model here is far smaller: an encoder, a predictor of the next latent, moving digits, no reward.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.demos.atlas.shared import Scale, ScaledStdLinear, digits, fit, reproducible

SIDE, LATENTS, BATCH = 12, 16, 64  # pixels of the world, a torus; size of a latent; pairs per batch
TO_PREDICTION, TO_LATENT = 0.95, 0.05  # weights of the two losses: which of the two vectors moves


def world(images: Tensor, places: Tensor) -> Tensor:
    """Images on an empty torus, moved down and right by `places`, ``(N, 2)``: ``(N, C, H, W) -> (N, C S S)``."""
    height, width = images.shape[2:]
    canvas = images.new_full((len(images), images.shape[1], SIDE, SIDE), float(images.amin()))
    canvas[:, :, :height, :width] = images
    rows = (torch.arange(SIDE).to(places)[None] - places[:, :1]) % SIDE
    columns = (torch.arange(SIDE).to(places)[None] - places[:, 1:]) % SIDE
    each = torch.arange(len(images)).to(places)[:, None, None]
    return canvas.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2).flatten(1)


def effective_rank(latents: Tensor) -> float:
    """Exponential of the entropy of the singular values of centred latents ``(N, D)`` (Roy and Vetterli, 2007)."""
    share = torch.linalg.svdvals((latents - latents.mean(0)).double())
    share = share / share.sum().clamp_min(1e-12)
    return float(torch.special.entr(share).sum().exp())


def relative_spread(latents: Tensor) -> float:
    """Share of the mean square of latents that is variance over examples: 0 if every example has the same latent."""
    return float(latents.var(0, correction=0).sum() / latents.square().mean(0).sum().clamp_min(1e-12))


def readable(latents: Tensor, places: Tensor) -> float:
    """Share of the variance of places on the torus that linear regression on latents explains on held-out examples.

    Latents are standardised first: their scale does not count.
    """
    x = (latents - latents.mean(0)) / latents.std(0).clamp_min(1e-12)
    angles = 2 * torch.pi * places / SIDE
    y = torch.cat((angles.sin(), angles.cos()), 1).to(x)
    half = len(x) // 2
    x = torch.cat((x, torch.ones_like(x[:, :1])), 1).double()
    fitted = torch.linalg.pinv(x[:half]) @ y[:half].double()
    error = (x[half:] @ fitted - y[half:]).square().sum(0)
    return float(1 - (error / (y[half:] - y[half:].mean(0)).square().sum(0)).mean())


def spread_loss(latents: Tensor) -> Tensor:
    """Hinge that asks for a standard deviation of at least 1 in every latent (VICReg, Bardes et al., 2022)."""
    return F.relu(1 - (latents.var(0) + 1e-4).sqrt()).mean()


class WorldModel(nn.Module):
    """Encoder ``(N, S S) -> (N, D)`` with a norm after each of its layers, and a predictor of the next latent."""

    def __init__(self, method: str, inputs: int, width: int) -> None:
        super().__init__()
        norms: dict[str, Callable[[int], nn.Module]] = {
            "bn": lambda n: nn.BatchNorm1d(n, affine=False),
            "ln": lambda n: nn.LayerNorm(n, bias=False),
        }
        norm = norms.get(method, nn.Identity)
        linear = ScaledStdLinear if method == "constraint" else nn.Linear
        first, second = linear(inputs, width), linear(width, LATENTS)
        self.encoder = nn.Sequential(first, norm(width), nn.ReLU(), second, norm(LATENTS))
        self.predictor = nn.Sequential(nn.Linear(LATENTS + 2, width), nn.ReLU(), nn.Linear(width, LATENTS))
        self.constrained = method == "constraint"

    def loss(self, before: Tensor, action: Tensor, after: Tensor) -> Tensor:
        """Squared error of the prediction; most of its weight trains the predictor, the rest the latents."""
        encoded = self.encoder(torch.cat((before, after)))
        now, then = encoded.chunk(2)
        predicted = self.predictor(torch.cat((now, action), 1))
        error = TO_PREDICTION * F.mse_loss(predicted, then.detach()) + TO_LATENT * F.mse_loss(predicted.detach(), then)
        return error + spread_loss(encoded) if self.constrained else error


@reproducible
def demonstrate(seed: int, scale: Scale, device: torch.device) -> dict[str, float]:
    """Effective rank and spread of latents on test images, and how well a linear probe predicts the place from them."""
    train, test = digits(scale, device)
    found: dict[str, float] = {}
    for method in ("bn", "ln", "none", "constraint"):
        torch.manual_seed(seed)
        model = WorldModel(method, train.images.shape[1] * SIDE**2, 4 * scale.width).to(device)

        def loss(model: WorldModel = model) -> Tensor:
            rows = torch.randint(len(train), (BATCH,)).to(device)
            place, move = torch.randint(SIDE, (BATCH, 2)), torch.randint(-1, 2, (BATCH, 2))
            seen = [world(train.images[rows], p.to(device)) for p in (place, (place + move) % SIDE)]
            return model.loss(seen[0], move.float().to(device), seen[1])

        fit(model, loss, 3 * scale.updates, rate=0.003)
        with torch.no_grad():
            place = torch.randint(SIDE, (len(test), 2)).to(device)
            latents = model.encoder(world(test.images, place))
        found[f"rank {method}"] = effective_rank(latents)
        found[f"spread {method}"] = 100 * relative_spread(latents)
        found[f"place {method}"] = 100 * readable(latents, place)
    return found
