"""Whitened patches: a fixed first layer, computed from the training images before any training.

Axes: N images, C channels, H W space, P side of a patch.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 1000  # images at a time
FLOOR = 5e-4  # added to the variances, so that noise in directions that hardly vary is not amplified


def whitening_filters(images: Tensor, side: int) -> Tensor:
    r"""Filters whose responses to the patches of these images are uncorrelated, with variance 1.

    .. math:: w_i = v_i / \sqrt{\lambda_i + 5 \cdot 10^{-4}}

    with the eigenvectors and eigenvalues of the covariance of all patches. No label enters, and no batch: the filters
    are constants of the data set, like its mean and variance. airbench (arXiv 2404.00498) has such a first layer.

    Parameters
    ----------
    images : Tensor
        ``(N, C, H, W)``, of mean 0 and variance 1.
    side : int
        P, in pixels.

    Returns
    -------
    Tensor
        ``(C * P * P, C, P, P)``, the most varying direction first. The largest weight of each filter is positive, so
        that the filters do not depend on the sign that a library gives to an eigenvector.
    """
    size = images.shape[1] * side * side
    total, outer, count = torch.zeros(size).double(), torch.zeros(size, size).double(), 0
    for part in torch.split(images, CHUNK):
        patches = F.unfold(part, side).transpose(1, 2).reshape(-1, size)
        total += patches.sum(0)
        outer += (patches.T @ patches).double()
        count += len(patches)
    mean = total / count
    variances, vectors = torch.linalg.eigh(outer / count - mean.outer(mean))
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    filters: Tensor = (vectors / (variances + FLOOR).sqrt()).T.flip(0)
    return filters.float().reshape(size, images.shape[1], side, side)


def seen_through(filters: Tensor, images: Tensor) -> Tensor:
    """The network's input: the filters' responses and their negatives, ``(N, 2 C P P, H - P + 1, W - P + 1)``.

    The negatives let both signs pass the next activation.
    """
    found = F.conv2d(images, filters)
    return torch.cat([found, -found], 1)
