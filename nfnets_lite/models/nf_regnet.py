"""The normalizer-free RegNets, B0 to B5, as data (NF-ResNet, arXiv 2101.08692).

All values are from the authors' code, google-deepmind/deepmind-research:

- nfnets/base.py: stage widths, depths, resolutions and dropout.
- nfnets/nf_regnet.py: a 3x3 stem of stride 2, as wide as the first stage, and a stride of 2 in all four stages. The
  branch is 1x1, grouped 3x3, squeeze-excite, 1x1. Its width is 2.25 times the block's *input* (1 in the first block),
  in groups of 8. Squeeze-excite has half the branch's width and stands between the 3x3 and the activation after it. The
  shortcut is pooled, the final 1x1 has 1280 / 440 of the last stage's width, and the classifier starts at 0.
- nfnets/experiment_nf_regnets.py: the width factor of 0.75 on the table, SiLU, alpha 0.2, stochastic depth 0.1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from nfnets_lite.models.nfnet import Resolution
from nfnets_lite.models.spec import ResNetSpec


@dataclass(frozen=True)
class RegNetSpec(ResNetSpec):
    """A `ResNetSpec` whose branch widths are multiples of their *input* widths.

    Attributes
    ----------
    expansion : float
        Inner width of a branch over its input's width; `bottleneck` is not used. The network's first block has 1, as
        in EfficientNet.

    Examples
    --------
    >>> [block.inner for block in SPECS["nf_regnet_b0"].blocks()[:3]]
    [32, 80, 168]
    """

    expansion: float = 2.25

    classifier_std: ClassVar[float] = 0.0

    def inner_width(self, stage: int, inputs: int, outputs: int, *, first: bool) -> int:
        return inputs if first else int(inputs * self.expansion)


# Widths before the factor, depths, dropout, resolution in training, resolution in test.
_WIDTH_FACTOR = 0.75
_TABLE = (
    ((48, 104, 208, 440), (1, 3, 6, 6), 0.2, 192, 224),
    ((48, 104, 208, 440), (2, 4, 7, 7), 0.2, 224, 256),
    ((56, 112, 232, 488), (2, 4, 8, 8), 0.3, 240, 272),
    ((56, 128, 248, 528), (2, 5, 9, 9), 0.3, 288, 320),
    ((64, 144, 288, 616), (2, 6, 11, 11), 0.4, 320, 384),
    ((80, 168, 336, 704), (3, 7, 14, 14), 0.4, 384, 456),
)

SPECS: Mapping[str, RegNetSpec] = MappingProxyType(
    {
        f"nf_regnet_b{i}": RegNetSpec(
            depth=depth, width=tuple(int(w * _WIDTH_FACTOR) for w in width), strides=(2, 2, 2, 2),
            branch=(1, 3, "se", 1), group_width=8, stem="regnet", stem_width=1.0, pooled_shortcut=True,
            activation="silu", se_ratio=0.5, head_width=1280 / 440, dropout=dropout, stochastic_depth=0.1,
        ).with_method("nf")
        for i, (width, depth, dropout, _, _) in enumerate(_TABLE)
    }
)  # fmt: skip
RESOLUTIONS: Mapping[str, Resolution] = MappingProxyType(
    {f"nf_regnet_b{i}": Resolution(*sides) for i, (_, _, _, *sides) in enumerate(_TABLE)}
)
