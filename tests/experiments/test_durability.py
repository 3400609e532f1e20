"""Nothing is lost and nothing is recorded twice: real processes, real signals, real limits."""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # workers import small_sweep by its name, wherever pytest is started
import small_sweep
from small_sweep import outcomes, sweep, where

from experiments import records
from experiments.engine import run_sweep, runner
from experiments.tasks.training import Training

ROOT = Path(__file__).resolve().parents[2]
Expected = dict[tuple[str, int], tuple[str, dict[str, float]]]


def start(results: Path, workers: int = 2, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, small_sweep.__file__, str(results), str(workers)],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def finish(process: "subprocess.Popen[str]") -> str:
    try:
        return process.communicate(timeout=300)[0]
    except subprocess.TimeoutExpired:
        process.kill()  # or it would go on beside the tests that follow
        raise


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Expected:
    """The records of a sweep that nothing disturbed."""
    results = tmp_path_factory.mktemp("whole")
    run_sweep(sweep(), where(results), lambda _: None)
    return outcomes(results)


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_9_at_random_moments(tmp_path: Path, expected: Expected, kills: int) -> None:
    rng = random.Random(kills)
    for i in range(1, kills + 1):
        process = start(tmp_path)
        assert process.stdout is not None
        process.stdout.readline()  # "ready": everything is imported
        # Half of the moments while workers start, half while runs are trained and recorded.
        lines = [process.stdout.readline() for _ in range(rng.randrange(3))] if i % 2 else []
        time.sleep(rng.uniform(0, 0.4 if lines else 3))
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        finish(process)
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive, "a worker outlived its parent"
    output = finish(start(tmp_path))
    assert outcomes(tmp_path) == expected, output


def test_a_worker_that_dies_has_its_run_repeated(tmp_path: Path, expected: Expected) -> None:
    process = start(tmp_path, MISHAP="kill_once", MARKER=str(tmp_path / "killed"))
    output = finish(process)
    assert process.returncode == 0, output
    assert (tmp_path / "killed").exists()
    assert outcomes(tmp_path) == expected


@pytest.mark.parametrize(
    ("mishap", "reason"),
    [
        ("kill", "WorkerDied: its process died 2 times, exit code -9: killed, by the system where memory ran out"),
        ("too_large", "1152921504606846976 bytes"),
        ("out_of_memory", "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB"),
    ],
)
def test_a_run_that_cannot_be_done_is_recorded_as_failed_and_the_sweep_goes_on(
    tmp_path: Path, expected: Expected, monkeypatch: pytest.MonkeyPatch, mishap: str, reason: str
) -> None:
    if mishap == "kill":
        finish(start(tmp_path, MISHAP=mishap))
    else:
        monkeypatch.setattr(Training, "steps", small_sweep.MISHAPS[mishap])
        run_sweep(sweep(), where(tmp_path), lambda _: None)
    found = outcomes(tmp_path)
    failed = [r for r in records.read(records.path_of(tmp_path, "small")).records if r.status == "failed"]
    assert [(r.seed, r.config["recipe"]["batch_size"]) for r in failed] == [(3, 8)]
    assert reason in failed[0].reason
    assert failed[0].provenance["seconds"] >= 0
    assert {run: found[run] for run in found if found[run][0] != "failed"} == {
        run: expected[run] for run in expected if run != (failed[0].key, 3)
    }


def test_two_sweeps_in_one_folder_share_the_runs(tmp_path: Path, expected: Expected) -> None:
    both = [start(tmp_path, workers=1) for _ in range(2)]
    outputs = [finish(process) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert outcomes(tmp_path) == expected  # asserts that no line is there twice
    # Each was told of every run, its own and the other's, unless they were recorded before it looked.
    assert max(output.count("ok") for output in outputs) == Counter(s for s, _ in expected.values())["ok"]


def test_a_full_disk_is_said_and_earlier_records_are_whole(tmp_path: Path, expected: Expected) -> None:
    process = start(tmp_path, FILE_SIZE="12000")
    output = finish(process)
    assert process.returncode == 1
    assert "could not be appended (File too large); the records before it are whole" in output
    assert "Make room and give the same command again" in output
    kept = outcomes(tmp_path)
    assert 5 < len(kept) < len(expected)
    assert kept.items() <= expected.items()
    run_sweep(sweep(), where(tmp_path), lambda _: None)
    assert outcomes(tmp_path) == expected


@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="mounting a small file system needs root")
def test_a_full_file_system(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20k", "none", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.decode().strip()}")
    try:
        with pytest.raises(OSError, match=r"No space left on device\); the records before it are whole"):
            run_sweep(sweep(seeds=20, epochs=0.25), where(tmp_path), lambda _: None)
        assert outcomes(tmp_path)
        with pytest.raises(PermissionError, match=r"No space left on device\); nothing was trained"):
            records.check_writable(tmp_path)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_clock_that_jumps_back_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wall = iter(range(10**9, 0, -(10**6)))
    real: Callable[..., Any] = time.gmtime
    monkeypatch.setattr(runner.time, "gmtime", lambda: real(next(wall)))
    monkeypatch.setattr(runner.time, "time", lambda: next(wall))
    run_sweep(sweep(seeds=2, epochs=1), where(tmp_path), lambda _: None)
    found = records.read(records.path_of(tmp_path, "small")).records
    starts = [r.provenance["start"] for r in found]
    assert starts == sorted(starts, reverse=True)
    assert all(0 < r.provenance["seconds"] < 60 for r in found)
    # The last line of a run is its record, whatever the clock said.
    last = replace(found[0], metrics={"accuracy": 0.125}, provenance={**found[0].provenance, "start": "1970"})
    records.append(records.path_of(tmp_path, "small"), last)
    assert records.read(records.path_of(tmp_path, "small")).of(last.key, last.seed) == last


def test_memory_is_flat_over_a_hundred_runs_in_one_process(tmp_path: Path) -> None:
    def resident() -> float:
        return float(psutil.Process().memory_info().rss) / 2**20

    seen: list[float] = []
    run_sweep(sweep(seeds=60, epochs=0.25), where(tmp_path), lambda _: seen.append(resident()))
    assert len(seen) > 120
    assert seen[-1] - seen[20] < 16, f"grew from {seen[20]:.0f} to {seen[-1]:.0f} MiB"
