"""Folding, and the ways out of eager PyTorch: compile, export, ONNX, for folded and unfolded models."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from nfnets_lite import ScaledStdConv2d, create_model
from nfnets_lite.activations import ScaledActivation
from nfnets_lite.conv import (
    Conv1d,
    Conv2d,
    Conv3d,
    ScaledStdConv1d,
    ScaledStdConv3d,
    ScaledStdConvTranspose2d,
    WSConv2d,
)
from nfnets_lite.fold import fold
from nfnets_lite.norm import NORMS, create_norm, inference_affine, set_progress

TINY = {
    "nfnet_f0": {"depth": (1, 1), "width": (32, 48), "strides": (1, 2), "group_width": 16},
    "cifar_resnet8": {},
    "cifar_resnet14": {"branch": (1, 3, 1), "bottleneck": 2.0, "group_width": 1, "conv": "scaled_ws_dense"},
}


def network(name: str = "nfnet_f0") -> nn.Module:
    torch.manual_seed(0)
    method = "nf" if name.startswith("cifar") else None
    return create_model(name, method=method, num_classes=5, skip_gain=0.7, **TINY[name]).eval()


def images() -> Tensor:
    return torch.randn(2, 3, 33, 40, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_a_branch_may_be_any_module() -> None:
    class Wrapper(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    model, x = network("cifar_resnet8"), images()
    expected = model(x)
    model.blocks[0].branch = Wrapper(model.blocks[0].branch)
    torch.testing.assert_close(fold(model)(x), expected, rtol=0, atol=3e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_folded_networks_give_the_same_outputs_from_plain_convolutions(name: str) -> None:
    model = network(name)
    before = copy.deepcopy(model.state_dict())
    folded = fold(model.train())
    assert model.training
    x = images()
    expected = model.eval()(x)
    # Float32 through all layers, in another order of factors: processors differ in the last digits.
    torch.testing.assert_close(folded(x), expected, rtol=0, atol=3e-6 * float(expected.abs().max()))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    convs = [layer for layer in folded.modules() if isinstance(layer, nn.Conv2d)]
    for conv in convs:
        ours = (conv.stride != (1, 1) and conv.kernel_size != (1, 1)) or conv.groups > 8  # depth-wise: left as it was
        assert type(conv) is (Conv2d if ours else nn.Conv2d)
    assert len(convs) == sum(isinstance(layer, nn.Conv2d) for layer in model.modules())
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


@pytest.mark.parametrize("called", [False, True])
def test_a_pruned_network_is_folded_as_its_next_forward_pass_computes(called: bool) -> None:
    model = nn.Sequential(ScaledStdConv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)).eval()
    for layer in (model[0], model[2], model[3]):
        for leaf in ("weight", "bias"):
            prune.random_unstructured(layer, leaf, 0.5)
            getattr(layer, f"{leaf}_orig").data.normal_()  # as an optimizer or load_state_dict does
    if called:
        model(images())
    weight = model[0].weight
    folded = fold(model)
    assert model[0].weight is weight
    torch.testing.assert_close(folded(images()), model(images()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("within", [torch.inference_mode, lambda: torch.device("meta")], ids=["inference", "meta"])
def test_a_network_may_be_folded_in_any_mode_and_used_in_another(within: Any) -> None:
    model, x = network("cifar_resnet8"), images().requires_grad_()
    with within():
        folded = fold(model)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-5, atol=1e-5)
    folded(x).sum().backward()
    assert float(x.grad.abs().max()) > 0


def trained(*layers: nn.Module) -> nn.Sequential:
    """Layers whose norms have gains, biases and running statistics of their own, in evaluation."""
    torch.manual_seed(2)
    net = nn.Sequential(*layers)
    for layer in net.modules():
        if not isinstance(layer, (nn.modules.conv._ConvNd, nn.Sequential)):
            for value in (*layer.parameters(), *layer.buffers()):
                if value.is_floating_point():
                    nn.init.uniform_(value, 0.3, 2.0)
    set_progress(net, 1.0)
    return net.eval()


@pytest.mark.parametrize("name", NORMS)
@torch.no_grad()
def test_a_norm_that_is_fixed_in_evaluation_joins_the_convolution_in_front(name: str) -> None:
    net = trained(nn.Conv2d(4, 8, 3), create_norm(name, 8), nn.ReLU())
    fixed = inference_affine(net[1]) is not None
    x = torch.randn(2, 4, 6, 5)
    if not fixed:
        with pytest.raises(ValueError, match="holds no norm that evaluates as a fixed affine map"):
            fold(net)
        return
    folded = fold(net)
    assert [type(layer) for layer in folded] == [nn.Conv2d, nn.Identity, nn.ReLU]
    expected = net(x)
    torch.testing.assert_close(folded(x), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert float((nn.Sequential(net[0], net[2])(x) - expected).abs().max()) > 0.1  # the norm did something


@pytest.mark.parametrize(
    ("conv", "norm", "shape", "plain"),
    [
        (nn.Conv1d(4, 6, 3, bias=False), nn.BatchNorm1d(6), (2, 4, 9), nn.Conv1d),
        (
            nn.Conv2d(4, 6, 3, groups=2, padding="same", padding_mode="reflect"),
            nn.BatchNorm2d(6),
            (2, 4, 5, 6),
            nn.Conv2d,
        ),
        (nn.Conv3d(4, 6, 2), nn.BatchNorm3d(6, affine=False), (2, 4, 3, 4, 5), nn.Conv3d),
        (nn.ConvTranspose1d(4, 6, 3), nn.BatchNorm1d(6), (2, 4, 9), nn.ConvTranspose1d),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), nn.BatchNorm2d(6), (2, 4, 5, 6), nn.ConvTranspose2d),
        (Conv2d(4, 6, 3, padding="same"), nn.SyncBatchNorm(6), (2, 4, 5, 6), nn.Conv2d),
        (Conv2d(4, 6, 3, stride=2, padding="same", bias=False), nn.BatchNorm2d(6), (2, 4, 5, 6), Conv2d),
        (ScaledStdConv2d(4, 6, 3, padding="same"), nn.BatchNorm2d(6), (2, 4, 5, 6), nn.Conv2d),
        (WSConv2d(4, 6, 3, padding="same"), nn.BatchNorm2d(6), (2, 4, 5, 6), nn.Conv2d),
        (ScaledStdConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), (2, 4, 5, 6), nn.ConvTranspose2d),
    ],
)
@torch.no_grad()
def test_a_norm_joins_every_convolution(
    conv: nn.Module, norm: nn.Module, shape: tuple[int, ...], plain: type[nn.Module]
) -> None:
    net = trained(nn.Sequential(conv), nn.Sequential(norm, nn.ReLU())).double()
    before = copy.deepcopy(net.state_dict())
    folded, x = fold(net), torch.randn(shape, dtype=torch.float64)
    assert type(folded[0][0]) is plain
    assert type(folded[1][0]) is nn.Identity
    torch.testing.assert_close(folded(x), net(x))
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


@pytest.mark.parametrize("method", ["bn", "nf"])
@torch.no_grad()
def test_residual_networks_lose_the_norms_inside_their_branches(method: str) -> None:
    net = trained(
        create_model("cifar_resnet8", method=method, num_classes=5, **({"skip_gain": 0.7} if method == "nf" else {}))
    )
    folded, x = fold(net), images()
    expected = net(x)
    torch.testing.assert_close(folded(x), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    left = {name for name, layer in folded.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    if method == "bn":  # those behind a sum, at the start of a block and before the head, have no convolution in front
        assert left == {*(f"0.blocks.{block}.enter.norm" for block in range(3)), "0.final.norm"}


@torch.no_grad()
def test_a_norm_without_a_convolution_of_its_own_stays() -> None:
    class Backwards(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            for layer in reversed(self):
                x = layer(x)
            return x

    conv, relu, norm = nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)
    for net in (
        trained(conv, norm, conv),  # the convolution runs elsewhere without the norm
        trained(conv, relu, norm),
        trained(conv, norm, relu, norm),  # the norm stands twice
        trained(nn.Conv2d(4, 4, 1), relu, conv, relu, norm),  # and so does what is between
        trained(Backwards(conv, norm)),
    ):
        with pytest.raises(ValueError, match="holds no norm that evaluates as a fixed affine map"):
            fold(net)


def test_a_network_with_folded_norms_refuses_to_train() -> None:
    folded = fold(trained(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    with pytest.raises(RuntimeError, match=r"is in training mode: its norm is baked in, .* no longer normalise"):
        folded.train()(images())


@pytest.mark.parametrize("name", ["nfnet_f0", "cifar_resnet8"])
@torch.no_grad()
def test_factors_of_activations_and_branches_move_into_weights(name: str) -> None:
    model = network(name).double()
    folded, x = fold(model), images().double()
    scales = [layer.scale for layer in folded.blocks.modules() if isinstance(layer, ScaledActivation)]
    assert len(scales) > 4
    assert set(scales) == {1.0}
    gated = name == "nfnet_f0"  # the gate takes the branch's gain, in passing
    assert any("skip_gain" in key for key in folded.state_dict()) is gated
    torch.testing.assert_close(folded(x), model(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_a_folded_networks_state_says_all_that_it_computes(name: str) -> None:
    model, x = network(name), images()
    torch.manual_seed(1)
    other = fold(create_model(name, method=model.spec.residual, num_classes=5, skip_gain=0.1, **TINY[name]))
    assert not torch.allclose(other(x), model(x), rtol=0.1)
    other.load_state_dict(fold(model).state_dict())
    torch.testing.assert_close(other(x), model(x), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_factor_stays_where_it_has_another_taker() -> None:
    act, first, second = ScaledActivation("relu"), ScaledStdConv2d(4, 4, 1), ScaledStdConv2d(4, 4, 1)
    x = torch.randn(2, 4, 5, 5)
    for net in (
        nn.Sequential(first, act, second, act),  # the activation stands twice
        nn.Sequential(first, act, first, second),  # the convolution does
        nn.Sequential(first, nn.Sequential(act), nn.Identity(), second),  # something else is between
    ):
        torch.testing.assert_close(fold(net)(x), net(x))
        assert fold(net).get_submodule("1" if net[1] is act else "1.0").scale == act.scale > 1


@pytest.mark.parametrize("place", ["0", "1", "3"])
@pytest.mark.parametrize("before", [False, True])
@torch.no_grad()
def test_a_layer_with_a_hook_stays(place: str, before: bool) -> None:
    net = trained(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), ScaledStdConv2d(4, 4, 3), nn.ReLU())
    net.append(ScaledStdConv2d(4, 4, 1))
    if before:
        net.get_submodule(place).register_forward_pre_hook(lambda _m, inputs: (2 * inputs[0],))
    else:
        net.get_submodule(place).register_forward_hook(lambda _m, _i, out: 2 * out)
    folded, x = fold(net), images()
    torch.testing.assert_close(folded(x), net(x), rtol=1e-5, atol=1e-5)
    assert type(folded.get_submodule(place)) is type(net.get_submodule(place))


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


def test_an_exported_network_takes_any_size() -> None:
    for name in TINY:
        model, any_size = network(name), torch.export.Dim.AUTO
        sides = ({2: any_size, 3: any_size},)
        exported = torch.export.export(model, (torch.randn(2, 3, 64, 64),), dynamic_shapes=sides).module()
        for shape in ((96, 128), (66, 66), (65, 93), (33, 40)):
            x = torch.randn(2, 3, *shape)
            torch.testing.assert_close(exported(x), model(x), rtol=0, atol=1e-5)


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


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("size", [32, 33, 37])
def test_a_folded_network_is_traced_by_fx_for_every_size_and_scripted(name: str, size: int) -> None:
    folded, x = fold(network(name)), torch.randn(2, 3, size, size)
    traced = torch.fx.symbolic_trace(folded)
    torch.testing.assert_close(traced(x), folded(x))
    scripted = torch.jit.script(traced)
    torch.testing.assert_close(scripted(x), folded(x))
    with pytest.raises(RuntimeError, match="training mode"):
        traced.train()(x)


@pytest.mark.parametrize("name", [*TINY, "vit_tiny"])
def test_a_network_that_trains_is_traced_by_fx(name: str) -> None:
    model, x = create_model(name) if name == "vit_tiny" else network(name), torch.randn(2, 3, 32, 32)
    traced = torch.fx.symbolic_trace(model.eval())
    torch.testing.assert_close(traced(x), model(x))
    traced(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_folded_batch_norm_network_is_traced() -> None:
    torch.manual_seed(0)
    model = create_model("cifar_resnet8", method="bn", num_classes=5).eval()
    x = images()
    folded = fold(model)
    torch.testing.assert_close(torch.fx.symbolic_trace(folded)(x), model(x))


def test_stages_are_cut_from_a_folded_network_by_fx() -> None:
    folded = fold(network())
    graph = torch.fx.symbolic_trace(folded, concrete_args=None).graph
    names = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    assert {"classifier", "blocks.0.branch.0"} <= names


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.skipif(torch.backends.quantized.engine == "none", reason="no engine for quantised layers")
def test_a_folded_network_is_quantised_in_eager_mode() -> None:
    quantization = pytest.importorskip("torch.ao.quantization")
    torch.manual_seed(0)
    folded = fold(network("cifar_resnet8"))
    x = torch.randn(16, 3, 32, 32)
    for layer in folded.modules():
        layer.qconfig = quantization.default_qconfig if type(layer) is nn.Conv2d else None
    ready = quantization.prepare(quantization.add_quant_dequant(folded))
    ready(x)
    quantised = quantization.convert(ready)
    assert [m for m in quantised.modules() if isinstance(m, torch.ao.nn.quantized.Conv2d)]
    assert float(torch.corrcoef(torch.stack([quantised(x).flatten(), folded(x).flatten()]))[0, 1]) > 0.95
    with pytest.raises(RuntimeError, match="training mode"):
        ready.train()(x)
    training = fold(network("cifar_resnet8")).train()
    for layer in training.modules():
        layer.qconfig = quantization.default_qat_qconfig if type(layer) is nn.Conv2d else None
    with pytest.raises(RuntimeError, match="training mode"):
        quantization.prepare_qat(training)(x)
