"""What is recorded of every config at every profile."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from experiments import config, records
from experiments.cost import all_runs
from experiments.plan import recorded, stale
from experiments.profiles import PROFILES

COLUMNS = ("config", "profile", "done", "missing", "diverged", "failed", "stale", "on", "hours")


def rows(results: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    """Rows of a table, each with what was wrong with its file.

    Done, missing and failed add up to all runs of the sweep as it is now; the diverged and the stale are among them.
    Stale: all records of the file that `plan.stale` tells, those of runs that the sweep has no more too. On: the names
    of the devices. Hours: what all of them took.
    """
    for name in config.names():
        for profile in PROFILES:
            ledger = records.read(records.path_of(results / profile, name))
            sweep = config.sweep(name, profile)
            runs, pairs = recorded(sweep, ledger)
            found = [r for _, r in pairs]
            count = Counter(r.status for r in found)
            # A widened grid has runs beyond those that the sweep starts with.
            known = all_runs(sweep) | {run.key: run for run in runs} if ledger.records else {}
            old = sum(stale(known.get(r.key), r) for r in ledger.records)
            devices = ", ".join(sorted({r.provenance["device"] for r in found}))
            seconds = sum(r.provenance["seconds"] for r in found)
            numbers = (
                count["ok"] + count["diverged"], len(runs) - len(found), count["diverged"], count["failed"], old
            )  # fmt: skip
            hours = f"{seconds / 3600:.2f}" if found else ""
            yield (name, profile, *map(str, numbers), devices, hours), ledger.torn
