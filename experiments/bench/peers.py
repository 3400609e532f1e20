"""Ours beside timm, beside torch's clipping and beside the machine's limits: every target measured, or why not."""

import gc
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from rich.console import Console

from experiments.bench import clipping, inference, layouts, standardizing, startup, steps
from experiments.bench.measured import Found, Measured, Timm
from experiments.bench.report import FOLDER, Report, Row, path_of, write
from experiments.bench.tables import shown
from experiments.bench.targets import SCALES, TARGETS, Scale, Target
from experiments.bench.timing import Unequal
from experiments.bench.timm_peer import Missing, load
from experiments.engine import resolve_device
from experiments.provenance import provenance

Group: TypeAlias = Callable[[torch.device, Scale, Timm], Found]
GROUPS: Mapping[str, Group] = MappingProxyType(
    {
        "clipping": clipping.measure,
        "standardizing": standardizing.measure,
        "resnet": steps.resnet,
        "nfnet": steps.nfnet,
        "cifar": steps.cifar,
        "efficientnet": steps.efficientnet,
        "layout": layouts.convolutions,
        "inference": inference.measure,
        "startup": startup.measure,
    }
)
UNEQUAL = "not timed, because the results differ: "


def peer() -> Timm:
    """timm as a module, or the reason why it is missing."""
    try:
        return load()
    except Missing as reason:
        return str(reason)


def measure(
    device: torch.device, scale: Scale, timm: Timm, say: Callable[[str], None], targets: Sequence[Target] = TARGETS
) -> tuple[Row, ...]:
    """A row for each target, in their order; every group that has one on this type of device runs once."""
    found: Found = {}
    for name in dict.fromkeys(t.group for t in targets if device.type in t.devices):
        clock = time.perf_counter()
        keys = [(t.subject, t.measure) for t in targets if t.group == name and device.type in t.devices]
        try:
            torch.manual_seed(0)
            found |= {key: value for key, value in GROUPS[name](device, scale, timm).items() if key in keys}
        except Unequal as error:
            found |= dict.fromkeys(keys, UNEQUAL + str(error))
        except torch.OutOfMemoryError as error:
            found |= dict.fromkeys(keys, f"the device's memory does not hold it: {str(error).splitlines()[0]}")
        finally:
            gc.collect()  # networks in cycles would hold their memory into the next group
        say(f"{name}: {time.perf_counter() - clock:.0f} s")
    return tuple(_row(target, device.type, found) for target in targets)


def _row(target: Target, device: str, found: Found) -> Row:
    result = found[target.subject, target.measure] if device in target.devices else target.elsewhere
    bar = target.bars.get(device)
    if isinstance(result, Measured):
        return Row(
            target.subject, target.measure, target.unit, result.value, bar, result.ours, result.theirs, note=result.note
        )
    status = "unequal" if result.startswith(UNEQUAL) else "skipped"
    return Row(target.subject, target.measure, target.unit, bar=bar, status=status, note=result)


def facts(device: torch.device, scale: Scale, timm: Timm) -> dict[str, Any]:
    """How a report was made."""
    return {
        "provenance": provenance(device, __name__),
        "timm": timm if isinstance(timm, str) else timm.__version__,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg(),
        "scale": vars(scale),
        "start": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def main(device_name: str, console: Console, folder: Path = FOLDER) -> None:
    """Measure, say and write; a RuntimeError at the end if two sides gave different results."""
    device = resolve_device(device_name)
    scale, timm = SCALES[device.type], peer()
    how = facts(device, scale, timm)  # the load is what it was before we added ours
    rows = measure(device, scale, timm, lambda text: console.print(text, highlight=False))
    report = Report(device.type, rows, how)
    table, notes = shown(report)
    console.print(table)
    console.print("\n".join(notes), highlight=False)
    path = path_of(device.type, folder)
    write(report, path)
    bars = [row.met for row in rows if row.met is not None]
    skipped = sum(row.status == "skipped" for row in rows)
    console.print(
        f"{sum(bars)} of {len(bars)} bars met, {skipped} rows skipped; written to {path.name} in {path.parent.name}/",
        highlight=False,
    )
    unequal = [f"{row.subject}: {row.note}" for row in rows if row.status == "unequal"]
    if unequal:
        raise RuntimeError("; ".join(dict.fromkeys(unequal)))
