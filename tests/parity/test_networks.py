"""Whole networks against the authors' code: logits, signals block by block, loss, gradients; and their sizes.

`more_networks` was made for this package: a float64 evaluation in JAX of the networks that the authors' files define,
with the golden data's value generator (kind ``plain_w``: sqrt(3 / fan_in) t), labels 3 and 7, plain cross entropy.
"""

from functools import lru_cache

import numpy as np
import pytest
import torch
from golden import capture, fill, image, load, uniform, worst
from torch.nn import functional as F

from nfnets_lite import create_model, signal_propagation
from nfnets_lite.macs import count_macs
from nfnets_lite.models import RESOLUTIONS, ResNet
from nfnets_lite.models.resnet import Block

GOLDEN = ("nfnet_tiny_64", "nf_resnet50_64", "nfnet_f0_64")
SIZES = {  # parameters, tensors, multiply-adds in training and test (G): the reference's table
    "nfnet_f0": (71_489_284, 233, 6.98, 12.38),
    "nfnet_f1": (132_634_256, 437, 17.44, 35.54),
    "nfnet_f2": (193_779_228, 641, 33.14, 62.59),
    "nfnet_f3": (254_924_200, 845, 67.94, 114.76),
    "nfnet_f4": (316_069_172, 1049, 121.12, 215.24),
    "nfnet_f5": (377_214_144, 1253, 169.50, 289.76),
    "nfnet_f6": (438_359_116, 1457, 228.29, 377.28),
    "nfnet_f7": (499_504_088, 1661, 298.48, 478.78),
}
PAPER_MILLIONS = (71.5, 132.6, 193.8, 254.9, 316.1, 377.2, 438.4)


def build(case: str, dtype: torch.dtype) -> ResNet:
    about, _ = load(case)
    if case == "nfnet_tiny_64":
        config = about["config"]
        model = create_model(
            "nfnet_f0", depth=config["depth"], width=config["width"], group_width=config["group_width"],
            num_classes=about["num_classes"], dropout=config["drop_rate"],
        )  # fmt: skip
    else:
        model = create_model(case.removesuffix("_64"), num_classes=about["num_classes"])
    return model.to(dtype).eval()


@pytest.mark.parametrize("case", GOLDEN)
def test_logits_in_both_precisions(case: str) -> None:
    about, arrays = load(case)
    model = build(case, torch.float64)
    fill(model, about["params"])
    x = torch.from_numpy(image(about["input_shape"]))
    with torch.no_grad():
        assert worst(model(x.double()), arrays["logits"]) < 1e-9
        assert worst(model.float()(x), arrays["logits"]) < 1e-4
    assert sum(p.numel() for p in model.parameters()) == about["num_params"]


@pytest.mark.parametrize("case", GOLDEN)
def test_gradients(case: str) -> None:
    about, arrays = load(case)
    model = build(case, torch.float64)
    named = fill(model, about["params"])
    x = torch.from_numpy(image(about["input_shape"])).double()
    loss = F.cross_entropy(model(x), torch.from_numpy(arrays["labels"]))
    loss.backward()
    assert abs(float(loss.detach()) - arrays["loss"]) < 1e-12 * arrays["loss"]
    check_gradients(named, arrays["grad_norm"], arrays["grad_dot"])


def check_gradients(named: dict[str, torch.nn.Parameter], norms: np.ndarray, dots: np.ndarray) -> None:
    for (name, parameter), norm, dot in zip(named.items(), norms, dots):
        assert parameter.grad is not None, name
        gradient = parameter.grad.numpy()
        # A gradient that cancels to rounding (a bias before a norm-like gain) has no relative precision to ask for.
        assert abs(np.linalg.norm(gradient.ravel()) - norm) <= 1e-9 * norm + 1e-14, name
        assert abs(np.sum(gradient * uniform(f"probe:{name}", *gradient.shape)) - dot) <= 1e-9 * norm + 1e-14, name


@pytest.mark.parametrize("case", GOLDEN)
def test_signals_block_by_block(case: str) -> None:
    about, arrays = load(case)
    dtype, tolerance = (torch.float32, 1e-4) if case == "nfnet_f0_64" else (torch.float64, 1e-11)
    model = build(case, dtype)
    fill(model, about["params"])
    x = torch.from_numpy(image(about["input_shape"])).to(dtype)
    blocks = [block for block in model.blocks if isinstance(block, Block)]
    watched = {str(i): block for i, block in enumerate(blocks)} | {"in:pool": model.dropout}
    with torch.no_grad(), capture(watched) as seen:
        signals = signal_propagation(model, x)
    np.testing.assert_allclose([s.sq_mean for s in signals], arrays["signal_sq_mean"], rtol=tolerance)
    np.testing.assert_allclose([s.var for s in signals], arrays["signal_var"], rtol=tolerance)
    np.testing.assert_allclose([s.branch_var for s in signals[1:]], arrays["residual_var"], rtol=tolerance)
    np.testing.assert_allclose([block.join.beta for block in blocks], arrays["beta"], rtol=1e-14)
    assert worst(seen["in:pool"], arrays["pool"]) < tolerance
    for i in range(about["num_blocks"]):
        assert list(seen[str(i)].shape) == arrays["block_shape"][i].tolist()
        at = seen[str(i)].flatten()[torch.from_numpy(arrays[f"block{i:02}_idx"])]
        assert worst(at, arrays[f"block{i:02}_val"]) < tolerance


@pytest.mark.parametrize("name", sorted(load("more_networks")[0]))
def test_other_networks(name: str) -> None:
    """NF-RegNet, squeeze-excite, SkipInit, FixUp, an NFNet of odd widths: odd sizes, logits and gradients."""
    about, arrays = load("more_networks")
    case = about[name]
    model = create_model(name, num_classes=10, dropout=0.0, **case["overrides"]).double().eval()
    params = list(case["params"])
    if name.startswith("skipinit"):  # ours has a bias in the stem too, as the paper says; the authors' code has none
        params.append({"name": "NF_ResNet.initial_conv.b", "kind": "bias", "shape": [model.spec.stem_channels]})
    named = fill(model, params)
    if name.startswith("skipinit"):
        named.pop("NF_ResNet.initial_conv.b").data.zero_()
    loss = F.cross_entropy(
        model(torch.from_numpy(image(case["input_shape"])).double()), torch.from_numpy(arrays[f"{name}/labels"])
    )
    loss.backward()
    with torch.no_grad():
        logits = model(torch.from_numpy(image(case["input_shape"])).double())
    assert worst(logits, arrays[f"{name}/logits"]) < 1e-9
    assert abs(float(loss.detach()) - arrays[f"{name}/loss"]) < 1e-11 * arrays[f"{name}/loss"]
    check_gradients(named, arrays[f"{name}/grad_norm"], arrays[f"{name}/grad_dot"])


@lru_cache
def on_meta(name: str) -> ResNet:
    with torch.device("meta"):
        return create_model(name)


@lru_cache
def macs_of(name: str) -> tuple[int, int]:
    train, test = (count_macs(on_meta(name), side) for side in RESOLUTIONS[name])
    return train, test


@pytest.mark.parametrize("name", SIZES)
def test_size_and_cost_of_an_nfnet(name: str) -> None:
    model = on_meta(name)
    parameters, tensors, train, test = SIZES[name]
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(list(model.parameters())) == tensors
    at_train, at_test = macs_of(name)
    assert (round(at_train / 1e9, 2), round(at_test / 1e9, 2)) == (train, test)
    index = int(name[-1])
    if index < len(PAPER_MILLIONS):
        assert round(parameters / 1e6, 1) == PAPER_MILLIONS[index]


def test_the_papers_costs_include_gates_and_classifier() -> None:
    """Without either, at least one variant leaves the paper's printed digits."""
    gates, classifiers = 0, 0
    for name, (_, _, _, printed) in SIZES.items():
        model = on_meta(name)
        _, macs = macs_of(name)
        linears = {
            n: m.in_features * m.out_features for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)
        }
        classifier = linears.pop("classifier")
        gates += round((macs - sum(linears.values())) / 1e9, 2) != printed
        classifiers += round((macs - classifier) / 1e9, 2) != printed
    assert gates == len(SIZES)
    assert classifiers >= 1


def test_sizes_of_the_others() -> None:
    sizes = {"nfnet_f0_plus": 118_824_516, "nf_resnet50": 25_557_048, "nf_resnet101": 44_549_193}
    for name, parameters in sizes.items():
        assert sum(p.numel() for p in on_meta(name).parameters()) == parameters
