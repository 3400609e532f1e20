"""The file with the records of a sweep: appending in one write under a lock; reading, also with a torn last line."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

from experiments.records.record import NewerSchema, Record, parse

try:
    import fcntl
except ImportError:  # not on Windows, where two sweeps on one folder are not guarded against each other
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Ledger:
    """The last record of each run of one sweep at one profile; `torn` is a warning about the file, or empty."""

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
    """The file of the records of a sweep."""
    return results / f"{sweep}.jsonl"


def read(path: Path) -> Ledger:
    """Read a record file; a missing one is empty.

    A last line without its newline is torn: it is reported in `Ledger.torn`, and its run counts as not done. Any other
    line that is no record raises a ValueError with file and line, because no crash of ours leaves one. So does a line
    of a newer schema, which this code cannot read.
    """
    try:
        with path.open("rb") as file:
            with suppress(OSError):  # a read-only file system may have no locks, and it has no writers
                _lock(file, shared=True)
            return _parsed(file, path)
    except FileNotFoundError:
        return Ledger(path)


def _parsed(file: IO[bytes], path: Path) -> Ledger:
    latest: dict[tuple[str, int], Record] = {}
    names: dict[bytes, str] = {}  # many lines share few names: each is kept once
    torn = ""
    for number, line in enumerate(file, 1):
        if line[-1:] != b"\n":
            torn = f"{path}: the last line is torn ({len(line)} bytes, no newline); its run will be repeated"
            break
        try:
            record = parse(line, names)
            latest[record.key, record.seed] = record
        except NewerSchema as error:
            raise ValueError(f"{path}, line {number} has {error}") from None
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{path}, line {number} is not a record ({error}); records are written by `experiments run` "
                "only. Delete that line (its run will be repeated), or restore the file from git"
            ) from error
    return Ledger(path, tuple(latest.values()), torn)


def append(path: Path, record: Record) -> int:
    """Append one record in one write and flush it to the disk; return the size of the file.

    A torn last line is cut off first. If the write fails (a full disk, a quota), an OSError is raised, nothing of the
    record stays in the file, and the records before it are whole.
    """
    with _alone(path) as file:
        size = _cut_torn(file)
        line = record.line()
        try:
            written = 0
            while written < len(line):  # a disk that fills up takes a part, and fails at the next call
                written += file.write(line[written:]) or 0
            os.fsync(file.fileno())
        except OSError as error:
            file.truncate(size)
            raise OSError(
                f"{path}: the record of {record.method!r}, seed {record.seed}, could not be appended "
                f"({error.strerror or error}); the records before it are whole. "
                "Make room and give the same command again: it goes on from there"
            ) from error
        return size + len(line)


def rewrite(path: Path, change: Callable[[Record], Record] = lambda record: record) -> None:
    """Replace a file by the last record of each run, changed by `change`: completely or not at all.

    Records that later ones replaced are dropped, and so is a torn last line. Other processes that append meanwhile wait
    for the new file.
    """
    part = path.with_suffix(".part")
    with _alone(path) as file:
        with path.open("rb") as old:
            found = _parsed(old, path).records
        with part.open("wb") as new:
            new.writelines(change(record).line() for record in found)
            new.flush()
            os.fsync(new.fileno())
        if fcntl is None:
            file.close()  # Windows replaces no file that is open
        part.replace(path)


@contextmanager
def _alone(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to append to, and lock it. If `rewrite` replaced it while the lock was awaited, open the new one."""
    while True:
        with path.open("ab+", buffering=0) as file:
            _lock(file)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield file
                return


def _cut_torn(file: IO[bytes]) -> int:
    size = file.seek(0, 2)
    if size and (file.seek(size - 1), file.read(1))[1] != b"\n":
        file.seek(0)
        size = file.read().rfind(b"\n") + 1
        file.truncate(size)
    return size


def _lock(file: IO[bytes], *, shared: bool = False) -> None:
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def check_writable(results: Path) -> None:
    """Raise, before any training, if records could not be written to this folder, or if its disk is full."""
    try:
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results) as probe:  # a name that no other sweep uses
            probe.write(bytes(2**12))
            probe.flush()
    except OSError as error:
        raise PermissionError(
            f"results={str(results)!r} cannot be written to ({error.strerror or error}); nothing was trained. "
            "Pass --results with a folder that you may write to"
        ) from error
