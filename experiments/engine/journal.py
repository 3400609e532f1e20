"""A record file to which one or several processes add runs, each run by one process only."""

import hashlib
from pathlib import Path
from types import TracebackType

from experiments import records
from experiments.records import Record
from experiments.sweep import Run

try:
    import fcntl
except ImportError:  # not on Windows, where two sweeps on one folder are not guarded against each other
    fcntl = None  # type: ignore[assignment]


class Journal:
    """Takes runs, so that no other process trains them, and appends their records.

    A run in progress is one locked byte of a hidden, empty file beside the records. The system releases the lock when
    the process ends, however it ends, so nothing is left to clean up. Two threads of one process share their locks.

    Attributes
    ----------
    ledger : Ledger
        The records as they were when the journal was opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ledger = self._now = records.read(path)
        self._size = _size(path)
        self._locks = path.with_name(f".{path.name}.lock").open("ab") if fcntl is not None else None

    def take(self, run: Run) -> bool:
        """Take the run; return False if another process has it."""
        if self._locks is not None:
            try:
                fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place(run))
            except (BlockingIOError, PermissionError):  # which of the two depends on the system
                return False
        return True

    def release(self, run: Run) -> None:
        """Let others take the run."""
        if self._locks is not None:
            fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, _place(run))

    def news(self, run: Run) -> Record | None:
        """Record that another process made of the run since the journal was opened, or None; take the run first."""
        size = _size(self.path)
        if size != self._size:
            self._now, self._size = records.read(self.path), size
        found = self._now.of(run.key, run.seed)
        return None if found == self.ledger.of(run.key, run.seed) else found

    def append(self, run: Run, record: Record) -> None:
        """Write the record to the disk, and only then let others take the run."""
        size = records.append(self.path, record)
        if size == self._size + len(record.line()):  # otherwise other processes wrote, too: their records are unread
            self._size = size
        self.release(run)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._locks is not None:
            self._locks.close()


def _place(run: Run) -> int:
    return int(hashlib.sha256(f"{run.key}:{run.seed}".encode()).hexdigest()[:15], 16)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
