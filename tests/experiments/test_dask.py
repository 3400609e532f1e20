"""The same runs on a dask cluster of real processes."""

import importlib.util
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from small_sweep import outcomes, sweep, where

from experiments import records
from experiments.engine import cluster, run_sweep
from experiments.engine.runner import _job
from experiments.records import Record
from experiments.sweep import Run, drain

ROOT = Path(__file__).resolve().parents[2]


def work(run: Run) -> Record:
    raise AssertionError("never called")


def test_without_dask_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"scheduler='tcp://h:1' needs dask.distributed.*pip install"):
        cluster.Cluster(work, "tcp://h:1")


def test_a_worker_with_other_numerics_is_refused() -> None:
    run = sweep().search()[0]
    record = drain(_job(run, "small", "smoke", torch.device("cpu")))
    assert cluster.accepted(run, record, "tcp://h:1") is record
    for other in (run.NUMERICS - 1, run.NUMERICS + 1):
        with pytest.raises(ValueError, match=f"NUMERICS={other} for Training, and this process has {run.NUMERICS}"):
            cluster.accepted(run, replace(record, numerics=other), "tcp://h:1")


needs_dask = pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="needs dask.distributed")


@needs_dask
def test_an_address_that_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "TIMEOUT", 1)
    with pytest.raises(ConnectionError, match=r"scheduler='tcp://127.0.0.1:9' does not answer"):
        cluster.Cluster(work, "tcp://127.0.0.1:9")


@needs_dask
def test_a_lost_worker_has_its_runs_repeated_and_each_is_recorded_once(tmp_path: Path) -> None:
    run_sweep(sweep(), where(tmp_path / "here"), lambda _: None)
    # As a user starts them, in the repository's folder: a scheduler, and two workers whose nannies restart them.
    address = "tcp://127.0.0.1:18786"
    command = [sys.executable, "-m", "dask"]
    scheduler = subprocess.Popen([*command, "scheduler", "--port", "18786", "--no-dashboard"], cwd=ROOT)
    workers = subprocess.Popen(
        [*command, "worker", address, "--nworkers", "2", "--nthreads", "1", "--no-dashboard"], cwd=ROOT
    )
    killed: list[int] = []

    def kill_one(record: Record) -> None:
        if len(killed) == 0:
            victims = [
                p for p in psutil.Process(workers.pid).children(recursive=True) if "spawn_main" in str(p.cmdline())
            ]
            victims[0].kill()
            killed.append(victims[0].pid)

    try:
        time.sleep(1)
        run_sweep(sweep(), where(tmp_path / "there", scheduler=address), kill_one)
    finally:
        for process in (workers, scheduler):
            process.terminate()
            process.wait(20)
    assert killed
    assert outcomes(tmp_path / "there") == outcomes(tmp_path / "here")
    assert {r.status for r in records.read(records.path_of(tmp_path / "there", "small")).records} == {"ok", "diverged"}
