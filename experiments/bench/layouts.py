"""Time of work with channels last over channels first; single layers here, networks in `steps`."""

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import nn

from experiments.bench.measured import Found, Measured, Timm
from experiments.bench.report import Side
from experiments.bench.targets import DENSE, GROUPED, LAST, Scale
from experiments.bench.timing import Work, in_turns, ms, ratio

# NFNet-F0's third stage: 768 channels in 6 groups of 128, on 14 x 14 positions. 768 * 128 pairs are 312 squared.
WIDTH, GROUPS, DENSE_WIDTH, SIDE = 768, 6, 312, 14


def layouts(steps: Mapping[bool, Work], device: torch.device, repeats: int, macs: int) -> Measured:
    """Time of a step with channels last (True) over the same step with channels first (False)."""
    names = {False: "contiguous", True: "channels last"}
    times = in_turns({names[last]: step for last, step in steps.items()}, device, repeats, warm=2)
    last, first = (Side(name, ms(times[name]), macs=macs) for name in ("channels last", "contiguous"))
    return Measured(ratio(times["channels last"], times["contiguous"]), last, first, "without clipping")


def convolutions(device: torch.device, scale: Scale, timm: Timm) -> Found:
    """Time a grouped convolution, and a dense one with as many multiply-adds, forward and backward."""
    found: Found = {}
    for name, width, groups in ((GROUPED, WIDTH, GROUPS), (DENSE, DENSE_WIDTH, 1)):
        conv = nn.Conv2d(width, width, 3, padding=1, groups=groups)
        steps = {last: _both_passes(deepcopy(conv), device, scale, last=last) for last in (False, True)}
        found[name, LAST] = layouts(steps, device, scale.many, scale.batch * conv.weight.numel() * SIDE**2)
    return found


def _both_passes(conv: nn.Conv2d, device: torch.device, scale: Scale, *, last: bool) -> Work:
    layout = torch.channels_last if last else torch.contiguous_format
    conv.to(device, memory_format=layout)  # type: ignore[call-overload]
    x = torch.randn(scale.batch, conv.in_channels, SIDE, SIDE, device=device).to(memory_format=layout).requires_grad_()

    def work() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=scale.autocast):
            y = conv(x)
        y.backward(torch.ones_like(y))
        conv.zero_grad()
        x.grad = None

    return work
