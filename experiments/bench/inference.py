"""Time of one image through a folded network, beside timm's, which standardises its weights at every call."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from experiments.bench.measured import Found, Measured, Timm
from experiments.bench.report import Side
from experiments.bench.steps import same_logits
from experiments.bench.targets import Scale
from experiments.bench.timing import Seconds, Unequal, Work, in_turns, ms, ratio
from experiments.bench.timm_peer import macs
from nfnets_lite.fold import fold
from nfnets_lite.macs import count_macs
from nfnets_lite.models import create_model

TOLERANCE = 1e-4  # of the logits' root mean square: rounding through all layers, in another order of factors
NETWORKS = (("NF-ResNet-50", "nf_resnet50", "nf_resnet50"), ("NFNet-F0", "nfnet_f0", "dm_nfnet_f0"))


def measure(device: torch.device, scale: Scale, timm: Timm) -> Found:
    """Time folded networks beside networks that are not folded, and beside timm's."""
    found: Found = {}
    image = torch.randn(1, 3, scale.inference_side, scale.inference_side)
    for title, name, theirs in NETWORKS:
        subject = f"one image, {title} folded"
        model = create_model(name, skip_gain=1.0).eval()
        other: nn.Module | None = None
        note = "timm's nf_resnet50 is another network of the same shape and work"
        if not isinstance(timm, str):
            other = timm.create_model(theirs).eval()
            if theirs.startswith("dm_"):
                note = same_logits(model, other)
        folded = fold(model)
        apart = difference(model, folded, image)
        if apart > TOLERANCE:
            raise Unequal(f"{title}: folded logits differ by {apart:.1e} of their root mean square")
        networks = {"ours, folded": folded, "ours, not folded": model} | ({} if other is None else {"timm": other})
        times, names = _fastest(networks, image, device, scale.repeats)
        work = count_macs(model, scale.inference_side)
        ours = Side(names["ours, folded"], ms(times["ours, folded"]), macs=work)
        unfolded = Side(names["ours, not folded"], ms(times["ours, not folded"]), macs=work)
        gain = ratio(times["ours, not folded"], times["ours, folded"])
        found[subject, "not folded / folded"] = Measured(gain, ours, unfolded, f"logits equal to {apart:.0e}")
        if isinstance(timm, str):
            found[subject, "timm / ours"] = timm
            continue
        with torch.device("meta"):
            peer = Side(names["timm"], ms(times["timm"]), macs=macs(timm.create_model(theirs), scale.inference_side))
        found[subject, "timm / ours"] = Measured(ratio(times["timm"], times["ours, folded"]), ours, peer, note)
    return found


def difference(model: nn.Module, other: nn.Module, image: Tensor) -> float:
    """Largest difference of the logits over their root mean square."""
    with torch.inference_mode():
        own, others = model(image), other(image)
    return float((own - others).abs().max() / own.pow(2).mean().sqrt())


def _fastest(
    networks: dict[str, nn.Module], image: Tensor, device: torch.device, repeats: int
) -> tuple[Seconds, dict[str, str]]:
    """Times of each network in the memory format that suits it better, and its name with that format."""
    # Results were compared on the CPU, because a GPU's convolutions round to 10 bits by default.
    formats = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
    sides = {
        f"{name}, {spelled}": _forward(deepcopy(network).to(device, memory_format=layout), image.to(device))  # type: ignore[call-overload]
        for name, network in networks.items()
        for spelled, layout in formats.items()
    }
    times = in_turns(sides, device, repeats, warm=2)
    faster = {
        name: min((f"{name}, {spelled}" for spelled in formats), key=lambda key: ms(times[key])) for name in networks
    }
    return {name: times[key] for name, key in faster.items()}, faster


def _forward(model: nn.Module, image: Tensor) -> Work:
    def work() -> None:
        with torch.inference_mode():
            model(image)

    return work
