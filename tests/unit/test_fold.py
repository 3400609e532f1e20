"""Folding, and the ways out of eager PyTorch: compile, export, ONNX, for folded and unfolded models."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nfnets_lite import ScaledStdConv2d, create_model
from nfnets_lite.conv import Conv1d, Conv2d, Conv3d, ScaledStdConv1d, ScaledStdConv3d, ScaledStdConvTranspose2d
from nfnets_lite.fold import fold

TINY = {"nfnet_f0": {"depth": (1, 1), "width": (32, 48), "strides": (1, 2), "group_width": 16}, "cifar_resnet8": {}}


def network(name: str = "nfnet_f0") -> nn.Module:
    torch.manual_seed(0)
    method = "nf" if name.startswith("cifar") else None
    return create_model(name, method=method, num_classes=5, skip_gain=0.7, **TINY[name]).eval()


def images() -> Tensor:
    return torch.randn(2, 3, 33, 40, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_folded_networks_give_the_same_outputs_from_plain_convolutions(name: str) -> None:
    model = network(name)
    before = copy.deepcopy(model.state_dict())
    folded = fold(model.train())
    assert model.training
    x = images()
    expected = model.eval()(x)
    torch.testing.assert_close(folded(x), expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    convs = [layer for layer in folded.modules() if isinstance(layer, nn.Conv2d)]
    for conv in convs:
        strided = conv.stride != (1, 1) and conv.kernel_size != (1, 1)
        assert type(conv) is (Conv2d if strided else nn.Conv2d)
    assert len(convs) == sum(isinstance(layer, ScaledStdConv2d) for layer in model.modules())
    assert not any("gain" in key and "skip_gain" not in key for key in folded.state_dict())


@pytest.mark.parametrize(
    ("layer", "shape", "plain"),
    [
        (ScaledStdConv1d(4, 6, 3, stride=2, padding="same"), (2, 4, 9), Conv1d),
        (ScaledStdConv1d(4, 6, 4, padding="same"), (2, 4, 9), Conv1d),
        (ScaledStdConv1d(4, 6, 3, padding="same", dilation=2), (2, 4, 9), nn.Conv1d),
        (ScaledStdConv2d(4, 6, 3, padding=1, padding_mode="reflect", groups=2), (2, 4, 5, 6), nn.Conv2d),
        (ScaledStdConv2d(4, 6, (1, 3), stride=(2, 1), padding="same", bias=False), (2, 4, 5, 6), nn.Conv2d),
        (ScaledStdConv3d(4, 6, 3, stride=2, padding="same"), (2, 4, 5, 6, 4), Conv3d),
        (ScaledStdConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2), (2, 4, 5, 6), nn.ConvTranspose2d),
        (ScaledStdConv2d(4, 6, 3).double(), (2, 4, 5, 6), nn.Conv2d),
        (ScaledStdConv2d(4, 6, 3).bfloat16(), (2, 4, 5, 6), nn.Conv2d),
    ],
)
@torch.no_grad()
def test_every_layer_folds_to_the_same_function(layer: Any, shape: tuple[int, ...], plain: type[nn.Module]) -> None:
    nn.init.uniform_(layer.gain, 0.5, 2.0)
    folded = fold(layer)
    x = torch.randn(shape).to(layer.weight.dtype)
    assert type(folded) is plain
    assert torch.equal(folded(x), layer(x))


def test_a_layer_that_stands_twice_is_folded_in_both_places() -> None:
    conv = ScaledStdConv2d(3, 3, 3, padding="same")
    folded = fold(nn.Sequential(conv, nn.ReLU(), conv))
    assert type(folded[0]) is nn.Conv2d
    assert folded[0] is folded[2]


def test_a_folded_model_refuses_to_train() -> None:
    folded, x = fold(network()), images()
    assert not any(p.requires_grad for p in folded.parameters())
    message = r"folded (Conv2d) {}: its standardised weight is baked in.*Train the model that was folded"
    with pytest.raises(RuntimeError, match=message.format("is in training mode")):
        folded.train()(x)
    folded.eval().requires_grad_(True)
    with pytest.raises(RuntimeError, match=message.format("requires a gradient")):
        folded(x)
    for same in (copy.deepcopy(folded), pickle.loads(pickle.dumps(folded))):
        with pytest.raises(RuntimeError, match="baked in"):
            same(x)
    folded.requires_grad_(False)
    x.requires_grad_()
    folded(x).sum().backward()
    assert float(x.grad.abs().max()) > 0


def test_there_must_be_something_to_fold() -> None:
    for model in (nn.Linear(2, 2), fold(network())):
        with pytest.raises(ValueError, match="holds no scaled-standardised convolution, so there is nothing to fold"):
            fold(model)


# --- out of eager PyTorch

both = pytest.mark.parametrize("folded", [False, True], ids=["unfolded", "folded"])


def pair(folded: bool) -> tuple[nn.Module, Tensor, Tensor]:
    model, x = network(), images()
    model = fold(model) if folded else model
    with torch.no_grad():
        return model, x, model(x)


@both
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compile(folded: bool, backend: str) -> None:
    model, x, expected = pair(folded)
    torch.compiler.reset()
    with torch.no_grad():
        out = torch.compile(model, backend=backend, fullgraph=True)(x)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


@both
def test_export(folded: bool) -> None:
    model, x, expected = pair(folded)
    out = torch.export.export(model, (x,)).module()(x)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


@both
def test_onnx(folded: bool, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, x, expected = pair(folded)
    path = str(tmp_path / "model.onnx")
    torch.onnx.export(model, (x,), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(out, expected.numpy(), rtol=0, atol=1e-5)
