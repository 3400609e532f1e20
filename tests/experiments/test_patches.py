import numpy as np
import pytest
import torch
from torch.nn import functional as F

from experiments.tasks.data import load
from experiments.tasks.patches import FLOOR, seen_through, whitening_filters
from experiments.tasks.recipe import Data, Recipe
from experiments.tasks.training import Training
from nfnets_lite.models import model_spec

CPU = torch.device("cpu")


def test_patches_become_uncorrelated_with_variance_one() -> None:
    images = load(Data("digits", train=1000), CPU)["train"].images
    filters = whitening_filters(images, 2)
    assert filters.shape == (4, 1, 2, 2)
    patches = F.unfold(images.double(), 2).transpose(1, 2).reshape(-1, 4).numpy()
    variances = np.linalg.eigvalsh(np.cov(patches.T, bias=True))[::-1]
    responses = seen_through(filters, images)
    assert responses.shape == (1000, 8, 7, 7)
    assert torch.equal(responses[:, 4:], -responses[:, :4])
    found = np.cov(responses[:, :4].transpose(0, 1).flatten(1).double().numpy(), bias=True)
    assert found == pytest.approx(np.diag(variances / (variances + FLOOR)), abs=2e-4)


def test_the_sign_of_a_filter_is_fixed() -> None:
    images = torch.randn(200, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    filters = whitening_filters(images, 2).flatten(1)
    assert (filters.gather(1, filters.abs().argmax(1, keepdim=True)) > 0).all()
    assert torch.allclose(filters, whitening_filters(-images, 2).flatten(1), atol=1e-5)


@pytest.mark.parametrize("method", ["bn", "nf"])
def test_a_network_without_a_stem_trains_on_patches(method: str) -> None:
    spec = model_spec(
        "cifar_resnet8", method=method, stem="none", in_channels=8, stem_width=8, width=(8, 8, 8), skip_gain=1.0
    )
    run = Training(method, spec, Data("digits", train=1000, validation=200, patches=2), Recipe(20, 4.0, 0.2))
    metrics = run.execute(CPU).metrics
    assert metrics["accuracy"] > 0.7
    assert metrics["train_loss"] < 0.6 * metrics["initial_loss"]


def test_a_network_without_a_stem_needs_the_channels_of_its_input() -> None:
    with pytest.raises(ValueError, match="in_channels=3, and stem_width=16 says 16 channels; set stem_width=3"):
        model_spec("cifar_resnet8", stem="none")
