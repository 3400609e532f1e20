"""Residual networks and a small vision transformer, by name or by specification."""

from nfnets_lite.models.methods import METHODS
from nfnets_lite.models.nf_regnet import RegNetSpec
from nfnets_lite.models.nfnet import Resolution
from nfnets_lite.models.registry import RESOLUTIONS, Spec, create_model, list_models, model_spec
from nfnets_lite.models.resnet import ResNet
from nfnets_lite.models.spec import ResNetSpec, Stage
from nfnets_lite.models.vit import VisionTransformer
from nfnets_lite.models.vit_spec import ViTSpec

__all__ = [
    "METHODS",
    "RESOLUTIONS",
    "RegNetSpec",
    "ResNet",
    "ResNetSpec",
    "Resolution",
    "Spec",
    "Stage",
    "ViTSpec",
    "VisionTransformer",
    "create_model",
    "list_models",
    "model_spec",
]
