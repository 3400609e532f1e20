"""Checks, tests, sweeps and timings in a few minutes on a borrowed machine, each stopped at its time limit."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from math import isfinite
from pathlib import Path

from experiments.profiles import check
from experiments.records.provenance import commit

ROOT = Path(__file__).resolve().parents[2]
PLANNED = 14.0  # minutes of a sprint for which the seconds below are meant; they scale with the length of the sprint
CHECKS, TESTS, LAST, BENCH = 60.0, 120.0, 150.0, 120.0
LEFT = "MINUTES LEFT"
EARLY = 0.95  # share of its seconds after which a part with `LEFT` begins no more runs
GRACE = 3.0  # seconds that an interrupted part has to finish before it is killed


@dataclass(frozen=True)
class Part:
    """One command of a sprint.

    Attributes
    ----------
    name : str
        Also the name of its log, ``NAME.log``.
    command : tuple of str
        Arguments of the Python interpreter. `LEFT` stands for the minutes that the part has.
    end : float
        Second of the sprint by which the part has to end; it begins when the part before it ends.
    resumes : bool
        True: the next sprint runs the part again, and it goes on from its records. False: once is enough.
    needs : str
        A module; if it is not installed, the part is skipped.
    """

    name: str
    command: tuple[str, ...]
    end: float
    resumes: bool = False
    needs: str = ""


def parts(minutes: float, device: str, folder: Path, profile: str) -> tuple[Part, ...]:
    """The parts of a sprint, the most informative first, each with the second by which it has to end."""
    unit, total = minutes / PLANNED, 60 * minutes
    sweeps = total - unit * LAST
    run = ("-m", "experiments", "run", "all", "--profile", profile, "--device", device, "--minutes", LEFT)
    return (
        Part("checks", ("tests/experiments/first_losses.py", "--check", device), unit * CHECKS),
        Part("tests", ("-m", "pytest", "-q", "@tests/gpu.args"), unit * (CHECKS + TESTS), needs="pytest"),
        Part("sweeps", (*run, "--results", str(folder / profile)), sweeps, resumes=True),
        Part("bench", ("-m", "experiments", "bench", "--device", device, "--only", "peers"), sweeps + unit * BENCH),
    )  # fmt: skip


def sprint(minutes: float, device: str, folder: Path, profile: str = "gpu") -> Iterator[tuple[str, bool]]:
    """Run the parts one after the other; for each, yield how it ended and whether it failed.

    Each part writes to a log in `folder`. A part that has not finished at its limit is interrupted, and killed 3
    seconds later; records of finished runs are kept. A part that finished leaves a file ``NAME.done``. The next sprint
    in the same folder, on the same device and at the same commit, skips it. The sweeps go on where they stopped.

    Parameters
    ----------
    minutes : float
        Length of the sprint. Limits are in proportion: of 14 minutes, the checks have 1 and the tests 2. Sweeps begin
        no run in the last 2.5 minutes, of which the timings have 2.
    device : str
        ``"cuda"``, ``"cpu"``, ...
    folder : Path
        Folder of the logs, and of the records, which are in a folder named like the profile.
    profile : str
        Profile of the sweeps.
    """
    if not (isfinite(minutes) and minutes > 0):
        raise ValueError(f"minutes={minutes} must be above 0")
    check(profile)
    here = f"{device} {commit()[0]}"
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    for part in parts(minutes, device, folder.resolve(), profile):
        done = folder / f"{part.name}.done"
        if not part.resumes and done.exists() and done.read_text(encoding="utf-8") == here:
            yield f"{part.name}: done before", False
        elif part.needs and find_spec(part.needs) is None:
            yield f"{part.name}: skipped, {part.needs} is not installed", False
        else:
            start = time.monotonic()
            ended = _run(part, folder / f"{part.name}.log", began + part.end - start)
            if ended == "through":
                done.write_text(here, encoding="utf-8")
            yield f"{part.name}: {ended} after {time.monotonic() - start:.0f} s", ended.startswith("failed")


def _run(part: Part, log: Path, seconds: float) -> str:
    """Run a part; return how it ended: through, failed with a status, or stopped at its limit."""
    if seconds <= 0:
        return "not begun, no time is left; ended"
    command = [f"{EARLY * seconds / 60:.3f}" if argument == LEFT else argument for argument in part.command]
    # With this path the package need not be installed.
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    with log.open("a", encoding="utf-8") as out:
        # In a session of its own, so that its workers are stopped with it.
        process = subprocess.Popen(
            (sys.executable, *command), cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, stdout=out,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            _stop(process)
            return "stopped at its limit"
        except BaseException:
            _stop(process)
            raise
    return "through" if status == 0 else f"failed with status {status}, see {log.name},"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a process and all that it started; after `GRACE`, or if interrupted again, kill those that remain."""
    try:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(GRACE)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        pass
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP inside the block into SystemExit, so that processes it started are stopped."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
