"""Our code beside timm, beside torch's clipping and beside the machine's limits: every target's value or a reason."""

import gc
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from rich.console import Console

from experiments.bench import agc_cost, inference, startup, steps
from experiments.bench.measured import Found, Measured, Timm
from experiments.bench.report import FOLDER, Report, Row, path_of, write
from experiments.bench.report_tables import shown
from experiments.bench.targets import SCALES, TARGETS, Scale, Target
from experiments.bench.timing import Unequal
from experiments.bench.timm_peer import Missing, load
from experiments.engine import resolve_device
from experiments.records.provenance import provenance

Group: TypeAlias = Callable[[torch.device, Scale, Timm], Found]
GROUPS: Mapping[str, Group] = MappingProxyType(
    {
        "clipping": agc_cost.measure,
        "resnet": steps.resnet,
        "nfnet": steps.nfnet,
        "cifar": steps.cifar,
        "efficientnet": steps.efficientnet,
        "inference": inference.measure,
        "startup": startup.measure,
    }
)
UNEQUAL = "not timed, because the results differ: "
ENDED = "not measured: the command ended before"


def peer() -> Timm:
    """timm as a module, or the reason why it is missing."""
    try:
        return load()
    except Missing as reason:
        return str(reason)


def measure(
    device: torch.device,
    scale: Scale,
    timm: Timm,
    targets: Sequence[Target],
    say: Callable[[str], None],
    keep: Callable[[tuple[Row, ...]], None],
) -> None:
    """Measure all groups, and pass the rows of all targets, in order, to `keep` after each group.

    Every group that has a target on this type of device runs once. If a group fails, its rows are skipped, with the
    error as the reason, and the other groups still run.
    """
    here = [t for t in targets if device.type in t.devices]
    found: Found = {(t.subject, t.measure): ENDED for t in here}
    for name in dict.fromkeys(t.group for t in here):
        clock = time.perf_counter()
        keys = [(t.subject, t.measure) for t in here if t.group == name]
        try:
            torch.manual_seed(0)
            results = GROUPS[name](device, scale, timm)
            found |= {key: results.get(key, "its group gave no number") for key in keys}
        except Unequal as error:
            found |= dict.fromkeys(keys, UNEQUAL + str(error))
        except torch.OutOfMemoryError as error:
            found |= dict.fromkeys(keys, f"the device's memory does not hold it: {_first_line(error)}")
        except Exception as error:  # of a compiler, a driver or timm: the other groups must still be measured
            found |= dict.fromkeys(keys, f"it failed: {type(error).__name__}: {_first_line(error)}")
            say(f"{name} failed: {type(error).__name__}: {error}")
        finally:
            gc.collect()  # networks in cycles would hold their memory into the next group
        say(f"{name}: {time.perf_counter() - clock:.0f} s")
        keep(tuple(_row(target, device.type, found) for target in targets))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


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
    """Facts about how a report was made: versions, device, scale, load of the machine."""
    return {
        "provenance": provenance(device),
        "timm": timm if isinstance(timm, str) else timm.__version__,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg(),
        "scale": vars(scale),
        "start": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def main(device_name: str, console: Console, folder: Path = FOLDER, targets: Sequence[Target] = TARGETS) -> None:
    """Measure, write the report after each group, and print it; raise a RuntimeError at the end if results differ."""
    device = resolve_device(device_name)
    scale, timm = SCALES[device.type], peer()
    how = facts(device, scale, timm)  # before the measurements, so that the load is that of other processes
    path, report = path_of(device.type, folder), Report(device.type, (), how)

    def keep(rows: tuple[Row, ...]) -> None:
        nonlocal report
        report = Report(device.type, rows, how)
        write(report, path)

    measure(device, scale, timm, targets, lambda text: console.print(text, highlight=False, markup=False), keep)
    table, notes = shown(report)
    console.print(table)
    console.print("\n".join(notes), highlight=False, markup=False)
    rows = report.rows
    bars = [row.met for row in rows if row.met is not None]
    skipped = sum(row.status == "skipped" for row in rows)
    console.print(
        f"{sum(bars)} of {len(bars)} bars met, {skipped} rows skipped; written to {path.name} in {path.parent.name}/",
        highlight=False,
    )
    unequal = [f"{row.subject}: {row.note}" for row in rows if row.status == "unequal"]
    if unequal:
        raise RuntimeError("; ".join(dict.fromkeys(unequal)))
