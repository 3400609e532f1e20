"""Records: one JSON line a run, appended in one write, read back with a torn last line recognised, and aggregated."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy import stats

try:
    import fcntl
except ImportError:  # not on Windows, where two sweeps on one folder are not guarded against each other
    fcntl = None  # type: ignore[assignment]

SCHEMA = 1
DONE = ("ok", "diverged")


@dataclass(frozen=True)
class Record:
    """One run and what came of it.

    `key` is the hash of `config` (which is the run without its seed and its label); `status` is ``"ok"``,
    ``"diverged"`` (a result) or ``"failed"`` (an error, repeated at the next start), with the reason.
    """

    sweep: str
    profile: str
    method: str
    key: str
    seed: int
    status: str
    reason: str
    config: dict[str, Any]
    metrics: dict[str, float]
    curve: dict[str, list[Any]]
    provenance: dict[str, Any]
    schema: int = SCHEMA

    @property
    def done(self) -> bool:
        """Whether there is a result; an error is none."""
        return self.status in DONE

    def line(self) -> bytes:
        """The record as it stands in the file."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False).encode() + b"\n"


@dataclass(frozen=True)
class Ledger:
    """The records of one sweep at one profile, the last of each run; and what was wrong with the file."""

    path: Path
    records: tuple[Record, ...] = ()
    torn: str = ""

    def of(self, key: str, seed: int) -> Record | None:
        """The record of one run, if there is one."""
        return self._index.get((key, seed))

    @cached_property
    def _index(self) -> dict[tuple[str, int], Record]:
        return {(r.key, r.seed): r for r in self.records}


def path_of(results: Path, sweep: str) -> Path:
    """Where the records of a sweep are."""
    return results / f"{sweep}.jsonl"


def read(path: Path) -> Ledger:
    """Read a record file; a missing one is empty.

    A last line without its newline is torn: it is reported in `Ledger.torn` and its run counts as not done. A line in
    the middle that is no record is corruption that no crash of ours leaves: a ValueError names file and line.
    """
    if not path.exists():
        return Ledger(path)
    *lines, tail = path.read_bytes().split(b"\n")
    latest: dict[tuple[str, int], Record] = {}
    for number, line in enumerate(lines, 1):
        try:
            record = Record(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number} is not a record ({error}); records are written by `experiments run` only. "
                "Delete that line (its run will be repeated), or restore the file from git"
            ) from error
        latest[record.key, record.seed] = record
    torn = f"{path}: the last line is torn ({len(tail)} bytes, no newline); its run will be repeated" if tail else ""
    return Ledger(path, tuple(latest.values()), torn)


def append(path: Path, record: Record) -> None:
    """Append one record in one write and flush it to the disk; a torn last line is cut off first."""
    with path.open("ab+") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        if size and (file.seek(size - 1), file.read(1))[1] != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        file.write(record.line())
        file.flush()
        os.fsync(file.fileno())


def check_writable(results: Path) -> None:
    """Raise, before any training, if records could not be written to this folder."""
    probe = results / ".write_test"
    try:
        results.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise PermissionError(
            f"results={str(results)!r} cannot be written to ({error.strerror or error}); nothing was trained. "
            "Pass --results with a folder that you may write to"
        ) from error


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, its standard error and 95 % t interval (None for a single seed), and how many diverged."""

    mean: float
    stderr: float | None
    low: float | None
    high: float | None
    count: int
    diverged: int = 0

    def __format__(self, spec: str) -> str:
        """Mean and half width of the interval, each by `spec` (default ``.1f``); a dagger marks a single seed."""
        spec = spec or ".1f"
        if self.high is None:
            return f"{self.mean:{spec}}†"
        return f"{self.mean:{spec}}\u00a0±\u00a0{self.high - self.mean:{spec}}"

    def __str__(self) -> str:
        return format(self)


def estimate(values: Sequence[float], diverged: int = 0, level: float = 0.95) -> Estimate:
    """Mean and t interval.

    Examples
    --------
    >>> estimate([1.0, 2.0, 3.0]).mean, round(estimate([1.0, 2.0, 3.0]).high, 3)
    (2.0, 4.484)
    """
    if not values:
        raise ValueError("values is empty; a mean needs at least one seed")
    mean, count = fmean(values), len(values)
    if count == 1:
        return Estimate(mean, None, None, None, 1, diverged)
    stderr = stdev(values) / count**0.5
    half = float(stats.t.ppf((1 + level) / 2, count - 1)) * stderr
    return Estimate(mean, stderr, mean - half, mean + half, count, diverged)


def accuracy(record: Record) -> float:
    """Accuracy in per cent. A diverged run counts as chance: it is not dropped."""
    chance = 1 / record.config["model"]["num_classes"]
    return 100 * (record.metrics["accuracy"] if record.status == "ok" else chance)


def aggregate(
    records: Iterable[Record], by: Callable[[Record], Any], value: Callable[[Record], float] = accuracy
) -> dict[Any, Estimate]:
    """Estimates of a value over the seeds of each group, groups in order of first appearance."""
    groups: dict[Any, list[Record]] = {}
    for record in records:
        if record.done:
            groups.setdefault(by(record), []).append(record)
    return {
        group: estimate([value(r) for r in found], sum(r.status == "diverged" for r in found))
        for group, found in groups.items()
    }


def paired_difference(
    plus: Iterable[Record], minus: Iterable[Record], value: Callable[[Record], float] = accuracy
) -> Estimate:
    """Estimate of ``plus - minus`` over the seeds that both have, paired by seed."""
    left, right = ({r.seed: value(r) for r in side if r.done} for side in (plus, minus))
    common = sorted(left.keys() & right.keys())
    if not common:
        raise ValueError("plus and minus share no seed; a paired difference needs runs of both with the same seeds")
    return estimate([left[seed] - right[seed] for seed in common])
