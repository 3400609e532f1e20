"""Normalizer-Free networks, adaptive gradient clipping and what they replace, in plain PyTorch.

>>> import torch, nfnets_lite as nf
>>> model = nf.create_model("cifar_resnet20", method="nf", num_classes=10)
>>> optimizer = torch.optim.SGD(nf.param_groups(model, weight_decay=5e-4), lr=0.1, momentum=0.9, nesterov=True)
>>> loss = model(torch.randn(4, 3, 32, 32)).logsumexp(1).mean()
>>> loss.backward()
>>> clipped = nf.adaptive_clip_grad_(model, clip_factor=0.01)
>>> optimizer.step()
"""

from nfnets_lite.agc import adaptive_clip_grad_
from nfnets_lite.conv import ScaledStdConv2d
from nfnets_lite.models import create_model, list_models
from nfnets_lite.optim import param_groups
from nfnets_lite.signal import signal_propagation
from nfnets_lite.standardize import standardize_weight

__version__ = "0.1.0"
__all__ = [
    "ScaledStdConv2d",
    "adaptive_clip_grad_",
    "create_model",
    "list_models",
    "param_groups",
    "signal_propagation",
    "standardize_weight",
]
