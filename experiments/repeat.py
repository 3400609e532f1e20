"""Some runs of a sweep once more, by this code or by an earlier commit's, on the same machine: `confirm` compares them.

As a script it takes the code that comes first on the path, so it uses no more of it than any version of it has.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from experiments import config, records
from experiments.config import Run, Sweep
from experiments.dispatch import dispatch
from experiments.engine import Where, backend_for, default_workers, lost, resolve_device
from experiments.journal import Journal
from experiments.plan import recorded
from experiments.records import Ledger, Record
from experiments.tasks.data import data_root, prepare

ROOT = Path(__file__).resolve().parent.parent


def repeat(sweep: Sweep, where: Where, runs: Sequence[Run], report: Callable[[Record], None]) -> Ledger:
    """Train runs of a sweep anew, by this code, and keep nothing: what a file would hold after it."""
    for name in sorted({name for run in runs for name in run.datasets}):
        prepare(name)
    with tempfile.TemporaryDirectory() as folder:
        return _to_file(sweep, where, runs, Path(folder) / "again.jsonl", report)


def repeat_at(revision: str, sweep: Sweep, where: Where, runs: Sequence[Run]) -> Ledger:
    """The same by the code of a commit, from a checkout of its own beside this one.

    Raises
    ------
    ValueError
        If git knows no such commit, or that code fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        tree, out = Path(folder) / "tree", Path(folder) / "again.jsonl"
        asked = {
            "sweep": sweep.name, "profile": where.profile, "results": str(where.results.resolve()),
            "device": str(where.device), "out": str(out), "runs": [[run.key, run.seed] for run in runs],
        }  # fmt: skip
        paths = {"PYTHONPATH": str(tree), "NFNETS_LITE_DATA": str(data_root().resolve())}
        _call("git", "-C", str(ROOT), "worktree", "add", "--detach", str(tree), revision)
        try:
            script = [sys.executable, "-P", str(Path(__file__).resolve())]
            _call(*script, given=json.dumps(asked), cwd=tree, env={**os.environ, **paths})
        finally:
            _call("git", "-C", str(ROOT), "worktree", "remove", "--force", str(tree))
        return records.read(out)


def _call(*command: str, given: str = "", **options: object) -> None:
    ended = subprocess.run(command, input=given, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if ended.returncode:
        raise ValueError(f"{' '.join(command)} failed: {ended.stderr.strip()[-600:]}")


def _to_file(sweep: Sweep, where: Where, runs: Sequence[Run], path: Path, report: Callable[[Record], None]) -> Ledger:
    with Journal(path) as journal:
        backend = backend_for(sweep, where, len(runs))
        try:
            for record in dispatch(runs, backend, journal, partial(lost, sweep.name, where)):
                report(record)
        finally:
            backend.close(now=True)
    return records.read(path)


def _main() -> None:
    asked = json.load(sys.stdin)
    sweep, results, device = config.sweep(asked["sweep"], asked["profile"]), Path(asked["results"]), asked["device"]
    where = Where(asked["profile"], results, resolve_device(device), default_workers(resolve_device(device)))
    wanted = {(key, seed) for key, seed in asked["runs"]}
    _, known = recorded(sweep, records.read(records.path_of(results, sweep.name)))
    runs = [run for run, _ in known if (run.key, run.seed) in wanted]
    _to_file(sweep, where, runs, Path(asked["out"]), lambda record: None)


if __name__ == "__main__":
    _main()
