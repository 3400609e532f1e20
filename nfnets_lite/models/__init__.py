"""Residual networks as data, and by name."""

from nfnets_lite.models.nf_regnet import RegNetSpec
from nfnets_lite.models.nfnet import Resolution
from nfnets_lite.models.registry import RESOLUTIONS, create_model, list_models, model_spec
from nfnets_lite.models.resnet import ResNet
from nfnets_lite.models.spec import METHODS, ResNetSpec

__all__ = [
    "METHODS",
    "RESOLUTIONS",
    "RegNetSpec",
    "ResNet",
    "ResNetSpec",
    "Resolution",
    "create_model",
    "list_models",
    "model_spec",
]
