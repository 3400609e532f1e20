"""The NFNets: F0 to F7 and the wider F0+ to F7+, as data (NFNet, arXiv 2102.06171, table 1 and appendix A.3).

Widths, dropout rates, resolutions and the rate of stochastic depth (0.25 in the authors' experiment, 0.1 in their
class) are from google-deepmind/deepmind-research, nfnets/base.py and nfnets/experiment_nfnets.py.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

from nfnets_lite.models.spec import ResNetSpec


class Resolution(NamedTuple):
    """Image side in pixels.

    Parameters
    ----------
    train, test : int
        Side in training and in test; the test side is larger.
    """

    train: int
    test: int


_BASE = ResNetSpec(
    depth=(1, 2, 6, 3), width=(256, 512, 1536, 1536), branch=(1, 3, 3, 1), bottleneck=0.5, group_width=128,
    stem="nfnet", stem_width=0.5, pooled_shortcut=True, activation="gelu", se_ratio=0.5, head_width=2.0,
    stochastic_depth=0.25,
).with_method("nf")  # fmt: skip

# Row i is Fi, with i + 1 times F0's blocks: dropout, resolution in training, resolution in test.
_TABLE = (
    (0.2, 192, 256),
    (0.3, 224, 320),
    (0.4, 256, 352),
    (0.4, 320, 416),
    (0.5, 384, 512),
    (0.5, 416, 544),
    (0.5, 448, 576),
    (0.5, 480, 608),
)
_WIDTHS = {"": _BASE.width, "_plus": (384, 768, 2048, 2048)}

SPECS: Mapping[str, ResNetSpec] = MappingProxyType(
    {
        f"nfnet_f{i}{suffix}": replace(
            _BASE, depth=tuple(n * (i + 1) for n in _BASE.depth), width=width, dropout=dropout
        )
        for suffix, width in _WIDTHS.items()
        for i, (dropout, _, _) in enumerate(_TABLE)
    }
)
RESOLUTIONS: Mapping[str, Resolution] = MappingProxyType(
    {f"nfnet_f{i}{suffix}": Resolution(*sides) for suffix in _WIDTHS for i, (_, *sides) in enumerate(_TABLE)}
)
