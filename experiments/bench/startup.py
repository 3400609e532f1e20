"""Costs outside of the computations: the import of the package, and the exchanges of synchronised batch norm."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn

from experiments.bench.measured import Found, Measured, Timm
from experiments.bench.report import Side, spread
from experiments.bench.targets import IMPORT, MODULES, SYNC, Scale
from nfnets_lite.models import create_model

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = (
    "import sys, time, torch; before = set(sys.modules); clock = time.perf_counter(); import nfnets_lite; "
    "spent = time.perf_counter() - clock; "
    "print(spent, *sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
)
PROCESSES = 2


def measure(device: torch.device, scale: Scale, timm: Timm) -> Found:
    """Time the exchanges of synchronised batch norm and, on a CPU, the import of the package."""
    sizes = norm_sizes(create_model("resnet50"))
    exchanges = exchange_ms(sizes, scale.repeats)
    said = f"{len(sizes)} layers, two exchanges each, by gloo on one machine: a network adds its own delay"
    sent = Side("exchanges", bytes=4 * sum(2 * (2 * n) + 1 for n in sizes))
    found: Found = {(SYNC, "exchanges of a step"): Measured(spread(exchanges), sent, note=said)}
    if device.type == "cpu":
        times, foreign = import_ms(scale.few)
        found[IMPORT, "time"] = Measured(spread(times))
        found[IMPORT, MODULES] = Measured(spread([float(len(foreign))]), note=", ".join(foreign) or "none")
    return found


def import_ms(repeats: int) -> tuple[list[float], list[str]]:
    """Milliseconds of the import in new processes with torch, and the modules it loads beyond torch and Python's own.

    The first process, which may have to compile the files, does not count.
    """
    times: list[float] = []
    foreign: set[str] = set()
    for _ in range(repeats + 1):
        done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
        spent, *names = done.stdout.split()
        times.append(1000 * float(spent))
        foreign |= set(names) - {"nfnets_lite", "torch"} - set(sys.stdlib_module_names)
    return times[1:], sorted(foreign)


def norm_sizes(model: nn.Module) -> list[int]:
    """Numbers of channels of all batch norms."""
    return [m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def exchange_ms(sizes: Sequence[int], repeats: int) -> list[float]:
    """Milliseconds that two processes spend in a step on the exchanges of synchronised batch norm alone.

    In the forward pass each layer gathers every process's means, deviations and count, ``2 C + 1`` numbers; in the
    backward pass it sums ``2 C`` numbers. No layer can begin before its exchange has ended, so exchanges follow one
    another.
    """
    with tempfile.TemporaryDirectory() as folder:
        spawn(_exchange, (folder, list(sizes), repeats), nprocs=PROCESSES)  # type: ignore[no-untyped-call]
        return list(json.loads((Path(folder) / "times").read_text()))


def _exchange(rank: int, folder: str, sizes: list[int], repeats: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES)
    times: list[float] = []
    for _ in range(repeats + 1):
        distributed.barrier()
        clock = time.perf_counter()
        for size in sizes:
            own = torch.ones(2 * size + 1)
            distributed.all_gather([torch.empty_like(own) for _ in range(PROCESSES)], own)
        for size in reversed(sizes):
            distributed.all_reduce(torch.ones(2 * size))
        times.append(1000 * (time.perf_counter() - clock))
    if rank == 0:
        (Path(folder) / "times").write_text(json.dumps(times[1:]))
    distributed.destroy_process_group()
