"""Times of training steps, in turns: ours with clipping, timm's with timm's clipping, and our twin with batch norm."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F

from experiments.bench.measured import Found, Measured, Timm
from experiments.bench.report import Side
from experiments.bench.targets import CIFAR, F0, LARGER, LAST, RESNET, RESNET_32, Scale
from experiments.bench.timing import Unequal, in_turns, ms, ratio, seconds, wait
from experiments.bench.timm_peer import body, difference, give_weights, macs
from nfnets_lite.agc import AdaptiveClip
from nfnets_lite.macs import count_macs
from nfnets_lite.models import create_model

SAME_WORK = 0.02  # largest relative difference of multiply-adds for two networks to count as the same
SAME_LOGITS = 1e-4  # largest difference of logits, relative to their root mean square, in float32
Step = Callable[[], None]
Clip = Callable[[], object]


@dataclass(frozen=True)
class Runner:
    """A network's training step on fixed random images: forward, backward, clipping, SGD with momentum."""

    name: str
    model: nn.Module
    macs: int
    clip: Clip | None = None

    def step(self, device: torch.device, scale: Scale, *, compiled: bool = False, last: bool = False) -> Step:
        """Return a function that executes one step; its batch is drawn here."""
        layout = torch.channels_last if last else torch.contiguous_format
        model = self.model.train().to(device, memory_format=layout)  # type: ignore[call-overload]
        images = torch.randn(scale.batch, 3, scale.side, scale.side, device=device).to(memory_format=layout)
        labels = torch.randint(10, (scale.batch,), device=device)
        sgd = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True, fused=True)
        forward = torch.compile(model) if compiled else model

        def step() -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=scale.autocast):
                loss = F.cross_entropy(forward(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            if self.clip is not None:
                self.clip()
            sgd.step()
            sgd.zero_grad()

        return step


def ours(name: str, side: int, *, method: str | None = None, clip: bool = True) -> Runner:
    """One of our networks, without dropout and stochastic depth, like timm's networks by default."""
    model = create_model(name, method=method, stochastic_depth=0.0, dropout=0.0)
    return Runner("ours" if clip else "BN twin", model, count_macs(model, side), AdaptiveClip(model) if clip else None)


def timms(timm: Timm, name: str, side: int, *, clip: bool = True) -> Runner:
    """One of timm's networks, with timm's clipping of all parameters but the head's, or without clipping."""
    model = timm.create_model(name)
    with torch.device("meta"):
        work = macs(timm.create_model(name), side)
    parameters = body(timm, model)
    return Runner("timm", model, work, (lambda: timm.utils.adaptive_clip_grad(parameters)) if clip else None)


def resnet(device: torch.device, scale: Scale, timm: Timm) -> Found:
    """Time NF-ResNet-50 beside timm's and beside its batch-norm twin; also the share of clipping, and channels last."""
    own = ours("nf_resnet50", scale.side)
    runners = [own, ours("resnet50", scale.side, clip=False)]
    note = ""
    if not isinstance(timm, str):
        runners.append(timms(timm, "nf_resnet50", scale.side))
        _same_work(own, runners[-1])
        note = (
            "timm's nf_resnet50 is another network of the same shape and work: its padding, shortcuts, gains and "
            "branch scalars differ, so logits cannot be compared"
        )
    found = _steps(RESNET, runners, device, scale, timm, note) | _share(RESNET, own, device, scale)
    for batch, subject in LARGER.items():
        found |= _turns(subject, runners[:2], device, replace(scale, batch=batch), note)[0]
    if device.type == "cpu":
        found |= _share(RESNET_32, own, device, replace(scale, batch=scale.share_batch, repeats=scale.few))
    return found


def nfnet(device: torch.device, scale: Scale, timm: Timm) -> Found:
    """Time NFNet-F0 beside timm's ``dm_nfnet_f0`` with the same weights."""
    own, note = ours("nfnet_f0", scale.side), ""
    runners = [own]
    if not isinstance(timm, str):
        runners.append(timms(timm, "dm_nfnet_f0", scale.side))
        _same_work(own, runners[-1])
        note = same_logits(own.model, runners[-1].model)
    return _steps(F0, runners, device, replace(scale, repeats=scale.few), timm, note)


def same_logits(own: nn.Module, theirs: nn.Module) -> str:
    """Give both networks the same weights and branch scalars of 1; return a note on how closely their logits agree."""
    with torch.no_grad():
        for parameter in own.parameters():
            if parameter.ndim == 0:  # a branch's scalar, which starts at 0
                parameter.fill_(1.0)
    give_weights(own, theirs)
    apart = difference(own, theirs, torch.randn(1, 3, 64, 64))
    if apart > SAME_LOGITS:
        raise Unequal(f"with the same weights, logits differ from timm's by {apart:.1e} of their root mean square")
    return f"with the same weights logits are equal to {apart:.0e} (timm's epsilon and GELU as the authors have them)"


def cifar(device: torch.device, scale: Scale, timm: Timm) -> Found:
    """Time the share of clipping in the step of a small network, whose many tensors cost more than their sizes."""
    model = create_model("cifar_resnet56", method="nf")
    runner = Runner("ours", model, count_macs(model, 32), AdaptiveClip(model))
    small = replace(scale, batch=scale.cifar_batch, side=32, repeats=scale.few)
    return _share(CIFAR, runner, device, small)


def efficientnet(device: torch.device, scale: Scale, timm: Timm) -> Found:
    """Time NFNet-F1 beside EfficientNet-B7 on 32 images, each at its training resolution, as in the paper's table 3."""
    key = ("training step, NFNet-F1", "EfficientNet-B7 / ours")
    if isinstance(timm, str):
        return {key: timm}
    f1, b7 = ours("nfnet_f1", 224), replace(timms(timm, "efficientnet_b7", 600, clip=False), name="EfficientNet-B7")
    few = replace(scale, batch=32, repeats=scale.few)
    steps = {r.name: r.step(device, replace(few, side=side)) for r, side in ((f1, 224), (b7, 600))}
    times = in_turns(steps, device, few.repeats, warm=2)
    mine, other = (Side(r.name, ms(times[r.name]), macs=few.batch * r.macs) for r in (f1, b7))
    note = "32 images; 224 px for F1, 600 px for B7"
    return {key: Measured(ratio(times["EfficientNet-B7"], times["ours"]), mine, other, note)}


def _same_work(own: Runner, theirs: Runner) -> None:
    if abs(theirs.macs / own.macs - 1) > SAME_WORK:
        raise Unequal(f"timm's network has {theirs.macs:.4g} multiply-adds an image, ours {own.macs:.4g}")


def _steps(subject: str, runners: Sequence[Runner], device: torch.device, scale: Scale, timm: Timm, note: str) -> Found:
    found: Found = {}
    for compiled in (False, True) if device.type == "cuda" else (False,):
        name = f"{subject}, compiled" if compiled else subject
        beside, sides = _turns(name, runners, device, scale, note, compiled=compiled)
        found |= beside
        if "timm" in sides and sides["timm"].peak_mb is not None and sides["ours"].peak_mb is not None:
            value = ratio([sides["ours"].peak_mb], [sides["timm"].peak_mb])
            found[name, "peak memory, ours / timm"] = Measured(value, sides["ours"], sides["timm"], note)
        if isinstance(timm, str):
            found |= {(name, measure): timm for measure in ("timm / ours", "peak memory, ours / timm")}
    found[subject, LAST] = _layouts(replace(runners[0], clip=None), device, scale)
    return found


def _layouts(bare: Runner, device: torch.device, scale: Scale) -> Measured:
    """Time of a step with channels last over the same step with channels first."""
    names = {"contiguous": False, "channels last": True}
    steps = {
        name: replace(bare, model=deepcopy(bare.model)).step(device, scale, last=last) for name, last in names.items()
    }
    times = in_turns(steps, device, scale.few, warm=2)
    first, last = (Side(name, ms(times[name]), macs=scale.batch * bare.macs) for name in names)
    return Measured(ratio(times["channels last"], times["contiguous"]), last, first, "without clipping")


def _turns(
    name: str, runners: Sequence[Runner], device: torch.device, scale: Scale, note: str, *, compiled: bool = False
) -> tuple[Found, dict[str, Side]]:
    """Time every runner's step in turns; return each over ours, and the sides."""
    ready = {r.name: _ready(r, device, scale, compiled) for r in runners}
    times = in_turns({name: step for name, (_, step) in ready.items()}, device, scale.repeats, warm=2)
    sides = {
        r.name: Side(r.name, ms(times[r.name]), macs=scale.batch * r.macs, peak_mb=ready[r.name][0]) for r in runners
    }
    found: Found = {}
    for peer in [r.name for r in runners if r.name != "ours"]:
        said = note if peer == "timm" else "the same network with batch norm, not clipped"
        found[name, f"{peer} / ours"] = Measured(ratio(times[peer], times["ours"]), sides["ours"], sides[peer], said)
    return found, sides


def _ready(runner: Runner, device: torch.device, scale: Scale, compiled: bool) -> tuple[float | None, Step]:
    """The extra memory that a runner's step takes on a GPU, and the step, which has already run there."""
    if device.type != "cuda":
        return None, runner.step(device, scale, compiled=compiled)
    runner.model.to("cpu")
    torch.cuda.empty_cache()
    held = torch.cuda.memory_allocated(device)
    step = runner.step(device, scale, compiled=compiled)
    step()  # compiles, and makes the momentum
    torch.cuda.reset_peak_memory_stats(device)
    step()
    wait(device)
    return (torch.cuda.max_memory_allocated(device) - held) / 2**20, step


def _share(subject: str, runner: Runner, device: torch.device, scale: Scale) -> Found:
    """Per cent of a step that clipping takes, timed inside of the step; on a GPU nothing overlaps with it."""
    assert runner.clip is not None
    clip, inside = runner.clip, list[float]()
    fractions: list[float] = []

    def timed() -> None:
        inside.append(seconds(lambda: fractions.append(clip()), device))  # type: ignore[arg-type]

    step = replace(runner, clip=timed).step(device, scale)
    step()
    inside.clear()
    whole = [seconds(step, device) for _ in range(scale.repeats)]
    with torch.no_grad():
        clipped = float(torch.stack([torch.as_tensor(f) for f in fractions]).mean())
    sides = Side("AGC", ms(inside)), Side("step", ms(whole), macs=scale.batch * runner.macs)
    note = f"{100 * clipped:.0f} % of the units were clipped"
    return {(subject, "AGC / step"): Measured(ratio(inside, whole, 100), *sides, note)}
