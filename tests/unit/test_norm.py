import pytest
import torch

from nfnets_lite.norm import NORMS, create_norm


@pytest.mark.parametrize("name", NORMS)
def test_every_norm_keeps_the_shape_and_passes_gradients(name: str) -> None:
    x = torch.randn(4, 8, 5, 3, requires_grad=True)
    y = create_norm(name, 8)(x)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


def test_batch_norm_is_torchs() -> None:
    x = torch.randn(16, 3, 4, 4) * 5 + 2
    y = create_norm("batch", 3)(x)
    var, mean = torch.var_mean(y, dim=(0, 2, 3), correction=0)
    assert torch.allclose(mean, torch.zeros(3), atol=1e-5)
    assert torch.allclose(var, torch.ones(3), atol=1e-4)


def test_unknown_norm_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"norm='batchnorm' is not known; use one of none, batch"):
        create_norm("batchnorm", 8)
