"""Names of a normalizer-free network's parameters in the authors' trees and in timm's dm_nfnet.

The names follow from the model's structure, so models of other widths or depths have names, too.
"""

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor, nn

from nfnets_lite.conv import ScaledStdConv2d
from nfnets_lite.models import ResNet
from nfnets_lite.models.resnet import Block

# By the number of convolutions in a branch: the authors' names, and timm's.
_BRANCH = {
    3: (("conv0", "conv1", "conv2"), ("conv1", "conv2", "conv3")),
    4: (("conv0", "conv1", "conv1b", "conv2"), ("conv1", "conv2", "conv2b", "conv3")),
}
_SQUEEZE_EXCITE = (("squeeze_excite/linear", "attn_last.fc1"), ("squeeze_excite/linear_1", "attn_last.fc2"))


@dataclass(frozen=True)
class Slot:
    """One parameter: the tensor to fill, and its names here, in the authors' tree and in timm's ``dm_nfnet_*``.

    The name in the authors' tree is below the network's own name, without the ``~``.
    """

    parameter: Tensor
    name: str
    haiku: str
    timm: str


def slots(model: nn.Module) -> list[Slot]:
    """Every parameter of a normalizer-free model, each once, with its names.

    Raises
    ------
    ValueError
        If the model is not one that the authors' code has: NFNet, NF-ResNet, NF-RegNet.
    """
    if not isinstance(model, ResNet) or (model.spec.conv, model.spec.residual) != ("scaled_ws", "nf"):
        raise ValueError(
            f"model is a {type(model).__name__} that the authors published no parameters for; build nfnet_f*, "
            "nf_resnet* or nf_regnet_* with create_model"
        )
    names = {module: name for name, module in model.named_modules()}
    found: list[Slot] = []

    def add(module: nn.Module, haiku: str, timm: str) -> None:
        for leaf, parameter in module.named_parameters(recurse=False):
            theirs = {"weight": "w", "bias": "b"} if isinstance(module, nn.Linear) else {"weight": "w"}
            place = f"{names[module]}.{leaf}"
            found.append(Slot(parameter, place, f"{haiku}/{theirs.get(leaf, leaf)}", f"{timm}.{leaf}"))

    stem = [layer for layer in model.stem if isinstance(layer, ScaledStdConv2d)]
    for i, layer in enumerate(stem):
        many = len(stem) > 1
        add(layer, f"stem_conv{i}" if many else "initial_conv", f"stem.conv{i + 1}" if many else "stem.conv")
    stages = [(stage, i) for stage, depth in enumerate(model.spec.depth) for i in range(depth)]
    kind = "nf_res_block" if model.spec.stem == "imagenet" else "nf_block"
    for index, (block, (stage, i)) in enumerate(zip(model.blocks, stages)):
        assert isinstance(block, Block)
        assert block.skip_gain is not None
        haiku, timm = f"{kind}_{index}" if index else kind, f"stages.{stage}.{i}"
        found.append(Slot(block.skip_gain, f"{names[block]}.skip_gain", f"{haiku}/skip_gain", f"{timm}.skipinit_gain"))
        convs = [layer for layer in block.branch.modules() if isinstance(layer, ScaledStdConv2d)]
        if len(convs) not in _BRANCH:
            raise ValueError(f"model has {len(convs)} convolutions in a branch; the authors' networks have 3 or 4")
        for layer, theirs, timms in zip(convs, *_BRANCH[len(convs)]):
            add(layer, f"{haiku}/{theirs}", f"{timm}.{timms}")
        linears = [layer for layer in block.branch.modules() if isinstance(layer, nn.Linear)]
        for linear, (theirs, timms) in zip(linears, _SQUEEZE_EXCITE):
            add(linear, f"{haiku}/{theirs}", f"{timm}.{timms}")
        if block.transition:
            add(block.shortcut, f"{haiku}/conv_shortcut", f"{timm}.downsample.conv")
    if isinstance(model.head, ScaledStdConv2d):
        add(model.head, "final_conv", "final_conv")
    add(model.classifier, "linear", "head.fc")
    return found


def is_dm_nfnet(names: Collection[str]) -> bool:
    """Whether a timm state dict is of a ``dm_nfnet_*``: by its gains, stem, last convolution and squeeze-excite."""

    def has(*ends: str) -> bool:
        return any(name.endswith(ends) for name in names)

    same = has(".skipinit_gain") and has("stem.conv1.weight") and has("final_conv.weight")
    return same and not has(".attn_last.conv.weight", ".attn.fc1.weight")
