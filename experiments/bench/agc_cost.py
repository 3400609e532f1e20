"""Time of adaptive gradient clipping beside timm's, beside clipping by global norm, and beside the memory's limit."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from experiments.bench.measured import Found, Measured, Timm
from experiments.bench.report import Side
from experiments.bench.targets import F0_HALF, F0_NONE, R56_HALF, R56_NONE, Scale
from experiments.bench.timing import Seconds, Unequal, Work, in_turns, ms, ratio
from nfnets_lite.agc import AdaptiveClip, unitwise_norm
from nfnets_lite.models import create_model

FACTOR, EPS = 0.01, 1e-3
TOLERANCE = 1e-6  # of a gradient's largest number: some units of float32's last place


def measure(device: torch.device, scale: Scale, timm: Timm) -> Found:
    """Time clipping of NFNet-F0's 71 million parameters, bound by memory, and of a small network, bound by calls."""
    found: Found = {}
    for name, half, whole in (("nfnet_f0", F0_HALF, F0_NONE), ("cifar_resnet56", R56_HALF, R56_NONE)):
        model = create_model(name, method="nf").to(device)
        for subject, share in ((whole, 0.0), (half, 0.5)):
            large = name == "nfnet_f0"
            found |= _side_by_side(model, subject, share, device, timm, scale.repeats if large else scale.many, large)
    return found


def _side_by_side(
    model: nn.Module, subject: str, share: float, device: torch.device, timm: Timm, repeats: int, large: bool
) -> Found:
    clip = AdaptiveClip(model, FACTOR, EPS)
    parameters = [p for p, _ in clip.units]
    saved = gradients(clip, share)

    def reset() -> None:
        torch._foreach_copy_([p.grad for p in parameters if p.grad is not None], saved)

    sides: dict[str, Work] = {
        "ours": clip,
        # With share 0 no gradient reaches the bound, else this one does; torch multiplies in both cases.
        "clip_grad_norm_": lambda: nn.utils.clip_grad_norm_(parameters, 1.0 if share else 1e9),
    }
    if not isinstance(timm, str):
        theirs = timm.utils.adaptive_clip_grad
        sides["timm"] = lambda: theirs(parameters, FACTOR, EPS)
        apart = difference(clip, sides["timm"], reset)
        if apart > TOLERANCE:
            raise Unequal(f"gradients clipped by us and by timm differ by {apart:.1e} of the largest number")
    total = sum(p.numel() * p.element_size() for p in parameters)
    if large:
        sides["copy"] = copying(total, device)
    reset()
    clipped = float(clip())
    if abs(clipped - share) > 0.02:
        raise Unequal(f"{clipped:.2f} of the units were clipped, and {share:g} of them are above their bounds")
    times = in_turns(sides, device, repeats, before=reset)
    must = int(total * (2 + share))  # weights and gradients are read, and what is clipped is written
    ours = Side("ours", ms(times["ours"]), bytes=must)
    norm = Measured(
        ratio(times["clip_grad_norm_"], times["ours"]),
        ours, Side("clip_grad_norm_", ms(times["clip_grad_norm_"])), "another rule: one bound for the whole gradient",
    )  # fmt: skip
    found: Found = {(subject, "clip_grad_norm_ / ours"): norm}
    if not large:
        within = Measured(ratio(times["ours"], times["clip_grad_norm_"]), ours, norm.theirs, norm.note)
        found = {(subject, "ours / clip_grad_norm_"): within}
    found[subject, "timm / ours"] = (
        timm
        if isinstance(timm, str)
        else Measured(
            ratio(times["timm"], times["ours"]), ours, Side("timm", ms(times["timm"]), bytes=must),
            f"gradients equal to {apart:.0e}; {len(parameters)} tensors, the classifier's weight in neither",
        )
    )  # fmt: skip
    if large:
        found[subject, "ours / bytes limit"] = beside_limit(times, must, total, ours)
    return found


def gradients(clip: AdaptiveClip, share: float) -> list[Tensor]:
    """Give every parameter a gradient; a `share` (0 or a half) of the units is at twice its bound, the rest at half.

    Returns copies of the gradients, in the order of ``clip.units``.
    """
    place = 0
    for parameter, role in clip.units:
        grad = torch.randn_like(parameter)
        weight, norm = (unitwise_norm(x.detach(), role.unit_dim, role.groups) for x in (parameter, grad))
        bound = clip.clip_factor * weight.clamp(min=clip.eps)
        count = norm.numel()
        above = (torch.arange(place, place + count, device=grad.device) % 2 == 0).view(norm.shape)
        place += count
        times = torch.where(above, 2.0, 0.5) if share else torch.full_like(norm, 0.5)
        parameter.grad = grad * (bound / norm * times)
    return [p.grad.clone() for p, _ in clip.units if p.grad is not None]


def difference(clip: AdaptiveClip, theirs: Callable[[], object], reset: Callable[[], object]) -> float:
    """Largest difference between gradients clipped by both, relative to the largest number of each tensor."""
    results = []
    for work in (clip, theirs):
        reset()
        work()
        results.append([p.grad.clone() for p, _ in clip.units if p.grad is not None])
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in zip(*results))


def copying(size: int, device: torch.device) -> Work:
    """Work that copies `size` bytes; its time gives the speed of memory."""
    source = torch.empty(size // 4, device=device).normal_()
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def beside_limit(times: Seconds, must: int, copied: int, ours: Side) -> Measured:
    """Time over the time in which a copy would move the same bytes; a copy reads and writes each of its bytes."""
    moved = must / (2 * copied)
    limit = Side("bytes limit", moved * ms(times["copy"]), bytes=must)
    speed = 2 * copied / (ms(times["copy"]) / 1000) / 1e9
    return Measured(ratio(times["ours"], times["copy"], 1 / moved), ours, limit, f"a copy moves {speed:.3g} GB/s")
