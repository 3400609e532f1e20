"""Adaptive clipping and the optimizer around it, against numbers made with the authors' code."""

import numpy as np
import pytest
import torch
from torch import nn

from nfnets_lite import ScaledStdConv2d, adaptive_clip_grad_, param_groups
from nfnets_lite.agc import unitwise_norm
from nfnets_lite.roles import _unit_dim
from tests.parity import golden

AGC = np.load(golden.ASSETS / "agc_set_a.npz")
CASES = sorted({key.split("/")[0] for key in AGC})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("clip_factor", [0.01, 0.04, 0.16])
@pytest.mark.parametrize("case", CASES)
def test_clipped_gradient_is_the_references(case: str, clip_factor: float, dtype: torch.dtype) -> None:
    weight = nn.Parameter(torch.from_numpy(AGC[f"{case}/param"]).to(dtype))
    weight.grad = torch.from_numpy(AGC[f"{case}/grad"]).to(dtype)
    adaptive_clip_grad_(weight, clip_factor=clip_factor)
    expected = torch.from_numpy(AGC[f"{case}/clipped_{clip_factor}"])
    scale = max(float(expected.abs().max()), 1e-30)
    assert float((weight.grad - expected).abs().max()) / scale < (1e-6 if dtype == torch.float32 else 1e-14)


@pytest.mark.parametrize("case", CASES)
def test_unit_norms_are_the_references(case: str) -> None:
    for what in ("param", "grad"):
        x = torch.from_numpy(AGC[f"{case}/{what}"]).double()
        norms = unitwise_norm(x, _unit_dim(x)).flatten().numpy()
        np.testing.assert_allclose(norms, AGC[f"{case}/{what}_norm"], rtol=1e-14, atol=0)


class Tiny(nn.Module):
    """The modules that the reference's steps were taken on, so that the roles come from types."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = ScaledStdConv2d(3, 8, 3), ScaledStdConv2d(8, 8, 1)
        self.skip_gain = nn.Parameter(torch.zeros(()))
        self.reduce, self.expand, self.fc = nn.Linear(8, 4), nn.Linear(4, 8), nn.Linear(8, 10)

    def get_classifier(self) -> nn.Module:
        return self.fc


MODULES = {
    "NFNet.stem_conv0": "stem",
    "NFNet.nf_block.conv0": "conv",
    "NFNet.nf_block.squeeze_excite.linear": "reduce",
    "NFNet.nf_block.squeeze_excite.linear_1": "expand",
    "NFNet.linear": "fc",
}


def _ours(name: str) -> str:
    if name.endswith("skip_gain"):
        return "skip_gain"
    module, leaf = name.rsplit(".", 1)
    return f"{MODULES[module]}.{ {'w': 'weight', 'b': 'bias'}.get(leaf, leaf) }"


def test_plain_sgd_with_clipping_takes_the_references_steps() -> None:
    meta, data = golden.load("sgd_agc_steps_a")
    model = Tiny().double()
    parameters = {name: model.get_parameter(_ours(name)) for name in meta["shapes"]}
    assert len(parameters) == len(list(model.parameters()))
    averages = {}
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(data[f"param0/{name}"]))
            averages[name] = parameter.clone()
    groups = param_groups(model, meta["weight_decay"])
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=meta["momentum"], nesterov=meta["nesterov"])
    for step in range(meta["steps"]):
        for name, parameter in parameters.items():
            drawn = golden.uniform(f"{meta['tag']}/{name}/grad{step}", *parameter.shape)
            drawn = (meta["grad_amplitude_by_step"][step] * drawn).astype(np.float32).astype(np.float64)
            parameter.grad = torch.from_numpy(np.asarray(drawn))
        for group in optimizer.param_groups:
            group["lr"] = float(data["lr"][step])
        adaptive_clip_grad_(model, meta["clipping"], meta["eps"])
        optimizer.step()
        decay = min(meta["ema_decay"], (1 + step) / (10 + step))
        for name, parameter in parameters.items():
            expected = data[f"param{step + 1}/{name}"]
            np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=0, atol=1e-14, err_msg=name)
            averages[name].mul_(decay).add_(parameter.detach(), alpha=1 - decay)
    for name, average in averages.items():
        np.testing.assert_allclose(average.numpy(), data[f"ema6/{name}"], rtol=0, atol=1e-14, err_msg=name)
