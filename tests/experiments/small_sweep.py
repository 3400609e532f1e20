"""A sweep of tiny runs in a process of its own, to be killed, starved or raced by tests.

python tests/experiments/small_sweep.py RESULTS WORKERS [MISHAP]
"""

import os
import resource
import signal
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import torch

from experiments import records
from experiments.engine import Where, run_sweep
from experiments.records import Record
from experiments.sweep import Outcome, Sweep
from experiments.tasks.recipe import Data, Recipe
from experiments.tasks.training import Training
from nfnets_lite.models import model_spec

Steps = Generator[None, None, Outcome]
steps = Training.steps

MODEL = model_spec("cifar_resnet8", method="nf", in_channels=1, width=(4, 4, 4), stem_width=4, skip_gain=1.0)
DATA = Data("digits", train=128, validation=64, test=64)


def sweep(seeds: int = 5, epochs: float = 3) -> Sweep:
    cells = tuple(Training("nf", MODEL, DATA, Recipe(batch, epochs, 0.0)) for batch in (8, 16))
    return Sweep("small", cells, (0.05, 1e4), search_seeds=(1000,), seeds=tuple(range(seeds)))


def where(results: Path, workers: int = 1, scheduler: str = "") -> Where:
    return Where("smoke", results, torch.device("cpu"), workers, scheduler=scheduler)


def outcomes(results: Path) -> dict[tuple[str, int], tuple[str, dict[str, float]]]:
    """What was computed, by run; asserts that no line of the file is torn or there twice."""
    path = records.path_of(results, "small")
    ledger = records.read(path)
    assert not ledger.torn
    assert len(ledger.records) == path.read_bytes().count(b"\n")
    return {(r.key, r.seed): (r.status, r.metrics) for r in ledger.records}


def _first(run: Training) -> bool:
    return run.seed == 3 and run.recipe.batch_size == 8


def _kill(run: Training, device: torch.device) -> Steps:
    if _first(run):
        os.kill(os.getpid(), signal.SIGKILL)
    return (yield from steps(run, device))


def _kill_once(run: Training, device: torch.device) -> Steps:
    marker = Path(os.environ["MARKER"])
    if _first(run) and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return (yield from steps(run, device))


def _too_large(run: Training, device: torch.device) -> Steps:
    if _first(run):
        torch.empty(2**60, dtype=torch.uint8)
    return (yield from steps(run, device))


def _out_of_memory(run: Training, device: torch.device) -> Steps:
    if _first(run):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of")
    return (yield from steps(run, device))


MISHAPS: dict[str, Callable[[Training, torch.device], Steps]] = {
    "kill": _kill, "kill_once": _kill_once, "too_large": _too_large, "out_of_memory": _out_of_memory,
}  # fmt: skip

# Workers import this file too, before any run, so that theirs is the same.
if "MISHAP" in os.environ:
    Training.steps = MISHAPS[os.environ["MISHAP"]]  # type: ignore[method-assign]

if __name__ == "__main__":
    if "FILE_SIZE" in os.environ:  # bytes that a file may have: a disk that is full
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(os.environ["FILE_SIZE"]),) * 2)
    torch.set_num_threads(1)
    print("ready", flush=True)

    def report(record: Record) -> None:
        print(record.status, record.reason, flush=True)

    try:
        run_sweep(sweep(), where(Path(sys.argv[1]), int(sys.argv[2]), os.environ.get("SCHEDULER", "")), report)
    except OSError as error:
        sys.exit(f"error: {error}")
