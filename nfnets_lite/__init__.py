"""Normalizer-free networks, adaptive gradient clipping and the norms that they replace, in plain PyTorch.

>>> import torch, nfnets_lite as nf
>>> model = nf.create_model("cifar_resnet20", method="nf", num_classes=10)
>>> optimizer = torch.optim.SGD(nf.param_groups(model, weight_decay=5e-4), lr=0.1, momentum=0.9, nesterov=True)
>>> loss = model(torch.randn(4, 3, 32, 32)).logsumexp(1).mean()
>>> loss.backward()
>>> clipped = nf.adaptive_clip_grad_(model, clip_factor=0.01)
>>> optimizer.step()
"""

from typing import Any

from nfnets_lite.activations import gain_of
from nfnets_lite.agc import AdaptiveClip, adaptive_clip_grad_
from nfnets_lite.clip_report import agc_report
from nfnets_lite.conv import ScaledStdConv1d, ScaledStdConv2d, ScaledStdConv3d, ScaledStdConvTranspose2d, WSConv2d
from nfnets_lite.convert import convert
from nfnets_lite.fold import fold
from nfnets_lite.macs import count_macs
from nfnets_lite.models import ResNetSpec, ViTSpec, create_model, list_models, model_spec
from nfnets_lite.models.hints import name_hint
from nfnets_lite.norm import create_norm, set_progress
from nfnets_lite.optim import attach_agc, param_groups
from nfnets_lite.pretrained import load_pretrained, save_pretrained
from nfnets_lite.signal import signal_propagation
from nfnets_lite.standardize import standardize_weight

__version__ = "0.1.0"
__all__ = [
    "AdaptiveClip",
    "ResNetSpec",
    "ScaledStdConv1d",
    "ScaledStdConv2d",
    "ScaledStdConv3d",
    "ScaledStdConvTranspose2d",
    "ViTSpec",
    "WSConv2d",
    "adaptive_clip_grad_",
    "agc_report",
    "attach_agc",
    "convert",
    "count_macs",
    "create_model",
    "create_norm",
    "fold",
    "gain_of",
    "list_models",
    "load_pretrained",
    "model_spec",
    "param_groups",
    "save_pretrained",
    "set_progress",
    "signal_propagation",
    "standardize_weight",
]


def __getattr__(name: str) -> Any:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{name_hint(name)}")
