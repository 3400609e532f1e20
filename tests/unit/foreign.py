"""The networks of the guide on replacing batch norm: of torch alone, written as people write them."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

_GUIDE = Path(__file__).resolve().parents[2] / "book" / "guides" / "replace_batch_norm.md"
_SPACE: dict[str, Any] = {"torch": torch, "nn": nn, "F": F, "pairwise": pairwise, "__name__": __name__}
for _cell in re.findall(
    r"^```\{code-cell\} ipython3\n:tags: \[networks[^]]*\]\n\n(.*?)^```$", _GUIDE.read_text(), re.M | re.S
):
    exec(_cell, _SPACE)

NETWORKS, LayerNorm2d, UNet = (_SPACE[name] for name in ("NETWORKS", "LayerNorm2d", "UNet"))
basic, conv_norm, resnet = (_SPACE[name] for name in ("basic", "conv_norm", "resnet"))
