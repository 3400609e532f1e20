"""Batch statistics betray outliers: a discriminator judges batches of patches of one image.

Source: DisCoPatch (Caetano et al., ICCV 2025, arXiv 2501.08005). Real and generated images pass through the
discriminator in batches of their own, so that batch norm sees two domains with statistics of their own.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.demos.atlas.shared import CORRUPTIONS, Network, Scale, corrupt, digits, fit, reproducible

LATENTS, BATCH = 8, 8  # latent dimensions of the generator; images per training batch


def auroc(inliers: Tensor, outliers: Tensor) -> float:
    """Probability that an inlier scores higher than an outlier, ties counted half (Mann and Whitney)."""
    above = (inliers[:, None] > outliers).double().mean()
    return float(above + 0.5 * (inliers[:, None] == outliers).double().mean())


def patches(images: Tensor, size: int) -> Tensor:
    """Every patch of each image, sides of `size` at half of it apart: ``(N, C, H, W) -> (N, P, C, size, size)``."""
    cut = images.unfold(2, size, size // 2).unfold(3, size, size // 2)
    return cut.permute(0, 2, 3, 1, 4, 5).flatten(1, 2)


class LinearVAE:
    """A linear variational autoencoder at its optimum, which is probabilistic PCA (Lucas et al., 2019).

    With the leading eigenpairs of the covariance and the mean `variance` of the others, the decoder is
    ``U (L - variance)^(1/2)`` and the encoder's mean is that of the exact posterior.
    """

    def __init__(self, images: Tensor, latents: int = LATENTS) -> None:
        rows = images.flatten(1)
        self.mean, self.shape = rows.mean(0), images.shape[1:]
        values, vectors = torch.linalg.eigh(torch.cov(rows.T))
        self.variance = values[:-latents].mean()
        self.decoder = vectors[:, -latents:] * (values[-latents:] - self.variance).clamp_min(0).sqrt()

    def encode(self, images: Tensor) -> Tensor:
        """Mean of the posterior, ``(N, latents)``."""
        inner = self.decoder.T @ self.decoder + self.variance * torch.eye(self.decoder.shape[1]).to(self.decoder)
        latents: Tensor = torch.linalg.solve(inner, self.decoder.T @ (images.flatten(1) - self.mean).T).T
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Images without the decoder's noise: the blurred outputs of an autoencoder."""
        return torch.addmm(self.mean, latents, self.decoder.T).reshape(-1, *self.shape)


def discriminator_loss(model: nn.Module, images: Tensor, vae: LinearVAE, size: int) -> Tensor:
    """Cross-entropy of real, reconstructed and generated patches; each kind is a batch of its own."""
    real = images[torch.randint(len(images), (BATCH,)).to(images.device)]
    latents = torch.randn(BATCH, vae.decoder.shape[1]).to(images.device)
    losses = []
    for shown, target in ((real, 1.0), (vae.decode(vae.encode(real)), 0.0), (vae.decode(latents), 0.0)):
        logits = model(patches(shown, size).flatten(0, 1))[:, 0]
        losses.append(F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target)))
    return losses[0] + 0.5 * (losses[1] + losses[2])


@torch.no_grad()
def scores(model: nn.Module, cut: Tensor, order: Tensor) -> Tensor:
    """Mean output over the patches of each image, ``(N,)``.

    Patches pass through the model in `order`, as many a batch as an image has: in their own order, one image a batch.
    """
    count, each = cut.shape[:2]
    found = torch.cat([model(batch)[:, 0] for batch in torch.split(cut.flatten(0, 1)[order], each)])
    return torch.empty_like(found).scatter_(0, order, found).view(count, each).mean(1)


@reproducible
def demonstrate(seed: int, scale: Scale, device: torch.device) -> dict[str, float]:
    """AUROC of corrupted against clean test images, in per cent: a mean over corruptions."""
    train, test = digits(scale, device)
    vae, size = LinearVAE(train.images), train.images.shape[-1] // 2
    clean, bad = test.images[: scale.items], test.images[scale.items : 2 * scale.items]
    own = torch.arange(patches(torch.cat((clean, bad)), size).shape[:2].numel())
    orders = {"own batch": own, "mixed batch": torch.randperm(len(own))}
    found: dict[str, list[float]] = {"own batch": [], "mixed batch": [], "nf": []}
    for method in ("bn", "nf"):
        torch.manual_seed(seed)
        model = Network(method, scale.width, 1, channels=train.images.shape[1]).to(device)
        fit(model, lambda m=model: discriminator_loss(m, train.images, vae, size), scale.updates)  # type: ignore[misc]
        model.train()  # so that batch norm keeps using the statistics of the batch
        for kind in CORRUPTIONS:
            cut = patches(torch.cat((clean, corrupt(bad, kind))), size)
            for name, order in orders.items() if method == "bn" else (("nf", own),):
                score = scores(model, cut, order.to(device))
                found[name].append(auroc(score[: scale.items], score[scale.items :]))
    return {f"auroc {name}": 100 * sum(values) / len(values) for name, values in found.items()}
