"""A residual network in plain torch, trained with its norms kept, removed or converted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from experiments.tasks.data import Split
from experiments.tasks.training import Training
from nfnets_lite import convert
from nfnets_lite.models import ResNetSpec

CHANGES = ("none", "out", "converted")
MEASURED = 256  # training images on which a conversion sets gains and biases


@dataclass(frozen=True)
class Conversion(Training):
    """One training of a `PlainResNet` with the depth, width and strides of `model`.

    `change`: ``"none"`` keeps batch norm, ``"out"`` removes it, ``"converted"`` calls `nfnets_lite.convert`.
    """

    NUMERICS: ClassVar[int] = 1

    model: ResNetSpec
    change: str = "none"

    def __post_init__(self) -> None:
        if self.change not in CHANGES:
            raise ValueError(f"change={self.change!r} is not known; use one of {', '.join(CHANGES)}")

    def network(self, splits: Mapping[str, Split]) -> nn.Module:
        images = splits["train"].images
        model = PlainResNet(self.model).to(images.device)
        if self.change == "out":
            take_norms_out(model)
        elif self.change == "converted":
            convert(model, images[:MEASURED])
        return model


class PlainResNet(nn.Module):
    """Basic blocks with batch norm after each convolution and the activation after the sum (ResNet, 1512.03385)."""

    def __init__(self, spec: ResNetSpec) -> None:
        super().__init__()
        layers, width = [_conv_norm(spec.in_channels, spec.width[0], 3, 1), nn.ReLU()], spec.width[0]
        for plan in spec.blocks():
            layers.append(_Residual(width, plan.outputs, plan.stride))
            width = plan.outputs
        self.body, self.fc = nn.Sequential(*layers), nn.Linear(width, spec.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def get_classifier(self) -> nn.Module:
        """The layer whose weight adaptive gradient clipping leaves alone."""
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean((2, 3)))  # type: ignore[no-any-return]


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        first, second = _conv_norm(inputs, outputs, 3, stride), _conv_norm(outputs, outputs, 3, 1)
        self.branch, self.shortcut = nn.Sequential(first, nn.ReLU(), second), nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut = _conv_norm(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.shortcut(x))


def _conv_norm(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def take_norms_out(model: nn.Module) -> None:
    """Replace every batch norm by an identity, in place, without converting the network."""
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            model.set_submodule(path, nn.Identity())
