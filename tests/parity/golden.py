"""The golden data: values made by formula, and the names its parameters have in this package."""

import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nfnets_lite.models import ResNet
from nfnets_lite.models.parts import SqueezeExcite

ASSETS = Path(__file__).parent / "assets"


@lru_cache
def load(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Description and arrays of one golden case."""
    with np.load(ASSETS / f"{name}.npz") as arrays:
        return json.loads((ASSETS / f"{name}.json").read_text()), dict(arrays)


def uniform(key: str, *shape: int) -> np.ndarray:
    """t(key) of the given shape, in [-1, 1): splitmix64 over the index, started by the key's checksum."""
    z = np.uint64(zlib.crc32(key.encode()) << 32) + np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64)
    for factor, shift in ((0x9E3779B97F4A7C15, 30), (0xBF58476D1CE4E5B9, 27), (0x94D049BB133111EB, 31)):
        z *= np.uint64(factor)
        z ^= z >> np.uint64(shift)
    return ((z >> np.uint64(40)).astype(np.float64) / 2**23 - 1).reshape(shape)


def value(kind: str, key: str, shape: list[int]) -> np.ndarray:
    """A parameter: computed in float64, rounded once to float32."""
    t = uniform(key, *shape)
    if kind.startswith("conv_w"):
        t = (0.3 + 3**0.5 * t) / np.prod(shape[1:]) ** 0.5
        if kind == "conv_w_floor":
            t[3::7] *= 1e-3
    else:
        offset, scale = {
            "gain": (1.0, 0.25),
            "gain_shortcut": (1.25, 0.25),
            "bias": (0.0, 0.2),
            "skip_gain": (1.5, 0.5),
            "plain_w": (0.0, (3 / np.prod(shape[1:])) ** 0.5),  # convolutions that nothing standardises
            "se_w": (0.0, 2 * (3 / shape[-1]) ** 0.5 if shape else 0.0),
            "fc_w": (0.0, (3 / shape[-1]) ** 0.5 if shape else 0.0),
        }[kind]
        t = offset + scale * t
    return t.astype(np.float32)


def image(shape: list[int], key: str = "input") -> np.ndarray:
    """The networks' input: noise, and the same on an 8 times coarser grid."""
    n, c, h, w = shape
    coarse = uniform(f"{key}/coarse", n, c, -(-h // 8), -(-w // 8)).repeat(8, 2).repeat(8, 3)[:, :, :h, :w]
    return (uniform(key, *shape) + 1.6 * coarse).astype(np.float32)


def our_name(model: ResNet, name: str) -> str:
    """Where a golden parameter, ``network.module. ... .leaf``, sits in one of our models."""
    _, *modules, leaf = name.split(".")
    weight = {"w": "weight", "b": "bias"}.get(leaf, leaf)
    if not modules:  # FixUp's scalars outside the blocks
        return {"bias1": "stem.1.bias", "bias2": "dropout.1.bias"}[leaf]
    if number := re.fullmatch(r"(?:initial_|stem_)conv(\d*)", modules[0]):
        return f"stem.{_convs(model.stem)[int(number[1] or 0)]}.{weight}"
    if modules[0] in ("final_conv", "linear"):
        return f"{'head' if modules[0] == 'final_conv' else 'classifier'}.{weight}"
    number = re.fullmatch(r"(?:nf_)?(?:res_)?block(?:_(\d+))?", modules[0])
    assert number, name
    index = int(number[1] or 0)
    branch = model.blocks[index].branch
    if len(modules) == 1:
        within = {
            "skip_gain": "skip_gain", "scale": "skip_gain", "bias1a": "enter.shift.bias", "bias3b": "shift.bias",
            "bias1b": "branch.1.norm.bias", "bias2a": "branch.1.shift.bias",
            "bias2b": "branch.3.norm.bias", "bias3a": "branch.3.shift.bias",
        }[leaf]  # fmt: skip
    elif modules[1] == "conv_shortcut":
        within = f"shortcut.{weight}"
    elif modules[1] == "squeeze_excite":
        at = next(i for i, layer in enumerate(branch) if isinstance(layer, SqueezeExcite))
        within = f"branch.{at}.{'reduce' if modules[2] == 'linear' else 'expand'}.{weight}"
    else:
        convs = _convs(branch)
        order = ["conv0", "conv1", "conv2"] if len(convs) == 3 else ["conv0", "conv1", "conv1b", "conv2"]
        within = f"branch.{convs[order.index(modules[1])]}.{weight}"
    return f"blocks.{index}.{within}"


def _convs(layers: nn.Sequential) -> list[int]:
    return [i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]


def fill(model: ResNet, params: list[dict[str, Any]]) -> dict[str, nn.Parameter]:
    """Load the golden values, all of them and no others; returns our parameters by golden name."""
    dtype = model.classifier.weight.dtype
    state = {
        our_name(model, p["name"]): torch.from_numpy(np.asarray(value(p["kind"], p["name"], p["shape"]))).to(dtype)
        for p in params
    }
    model.load_state_dict(state)
    named = dict(model.named_parameters())
    return {p["name"]: named[our_name(model, p["name"])] for p in params}


def worst(ours: Tensor | np.ndarray, golden: np.ndarray) -> float:
    """Largest difference over the root mean square of the golden values."""
    x = ours.detach().double().numpy() if isinstance(ours, Tensor) else ours
    return float(np.abs(x - golden).max() / np.sqrt(np.mean(golden**2)))


@contextmanager
def capture(modules: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """What the modules put out while the block runs, by the given keys; ``in:`` keys keep the input instead."""
    seen: dict[str, Tensor] = {}

    def keep(key: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[key] = inputs[0] if key.startswith("in:") else output

        return hook

    handles = [module.register_forward_hook(keep(key)) for key, module in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
