"""timm for comparisons: imported where it is installed, and given our weights."""

import importlib
import sys
from contextlib import suppress
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from nfnets_lite.pretrained.names import slots

PARTS = ("timm", "timm.models", "timm.utils")
_NAMED = "datasets models models.feature_extraction ops ops.misc transforms transforms.functional"  # by timm's imports
TORCHVISION = ("torchvision", *(f"torchvision.{name}" for name in _NAMED.split()))


class Missing(RuntimeError):
    """Raised if timm, or something else that a comparison needs, is missing; the message says what."""


def load() -> Any:
    """Import timm with its ``models`` and ``utils``.

    timm imports torchvision, which nothing here needs. Mocks stand in for it where it is absent or built for another
    torch, and stay only while timm is imported.

    Raises
    ------
    Missing
        If timm is not installed or cannot be imported; the message gives the reason.
    """
    mocked = {} if _has_torchvision() else {name: MagicMock() for name in TORCHVISION}
    sys.modules.update(mocked)
    try:
        timm, *_ = [importlib.import_module(name) for name in PARTS]
    except Exception as error:  # of any kind: other rows must still be measured
        raise Missing(
            f"timm cannot be imported ({type(error).__name__}: {error}): pip install 'nfnets-lite[bench]'"
        ) from error
    finally:
        for name in mocked:
            del sys.modules[name]
    return timm


def _has_torchvision() -> bool:
    """Whether torchvision can be imported; one for another torch raises errors of all sorts."""
    with suppress(Exception):
        importlib.import_module("torchvision")
        return True
    return False


def body(timm: Any, model: nn.Module) -> list[Tensor]:
    """The parameters that timm's training script clips: all but the last layer's weight and bias."""
    return list(timm.models.model_parameters(model, exclude_head=True))


def macs(model: nn.Module, side: int) -> int:
    """Multiply-adds for one image by torch's counter, for a model of any kind on the meta device."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.eval()(torch.empty(1, 3, side, side, device="meta"))
    return int(counter.get_total_flops()) // 2


def give_weights(ours: nn.Module, theirs: nn.Module) -> None:
    """Copy the parameters of our NFNet into timm's ``dm_nfnet`` of the same shape."""
    state = theirs.state_dict()
    own = slots(ours)
    if {slot.timm for slot in own} != state.keys():
        raise ValueError("theirs is not timm's dm_nfnet of the same depth: its tensors have other names")
    with torch.no_grad():
        for slot in own:
            state[slot.timm].copy_(slot.parameter.reshape(state[slot.timm].shape))


def difference(ours: nn.Module, theirs: nn.Module, images: Tensor) -> float:
    """Largest difference of the logits over their root mean square, with timm's two deviations corrected meanwhile.

    timm adds 1e-5 to the variance of the weights and takes the erf form of GELU. With the authors' choice of both, the
    two networks are the same function: the authors' floor of 1e-4 under the sum of squares is far below that of any
    filter of a new network.
    """
    changed: list[tuple[nn.Module, str, Any]] = []
    for module in theirs.modules():
        for name, value in (("eps", 1e-12), ("act_fn", _tanh_gelu)):
            if hasattr(module, name):
                changed.append((module, name, getattr(module, name)))
                setattr(module, name, value)
    modes = [(model, model.training) for model in (ours, theirs)]
    try:
        with torch.no_grad():
            own, other = (model.eval()(images).double() for model in (ours, theirs))
    finally:
        for module, name, before in changed:
            setattr(module, name, before)
        for model, mode in modes:
            model.train(mode)
    return float((own - other).abs().max() / own.pow(2).mean().sqrt())


def _tanh_gelu(x: Tensor, inplace: bool = False) -> Tensor:
    return F.gelu(x, approximate="tanh")
