"""Read the records of a config, or train the runs that have none, for chapters; plan and status for the commands."""

import shutil
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from experiments import configs, records
from experiments.engine import STREAMS, Where, default_workers, resolve_device, run_sweep
from experiments.engine.progress import progress
from experiments.profiles import PROFILES, check
from experiments.study import Study
from experiments.sweep import Sweep
from experiments.tasks.elsewhere import on_data

RESULTS = Path(__file__).parent / "results"
INTERACTIVE = Path(__file__).parents[1] / "book" / "_build" / "interactive"  # records of a reader's own runs
COLUMNS = ("config", "profile", "done", "missing", "diverged", "failed", "stale", "on", "hours")  # of `rows`


def obtain(
    name: str,
    profile: str,
    results: str | Path = "",
    *,
    rerun: bool = False,
    device: str = "auto",
    partial: bool = False,
) -> Study:
    """A config with its records, for a chapter; with `rerun`, missing and stale runs are trained first.

    Without `rerun` nothing is trained, and a config that lacks runs at this profile raises a FileNotFoundError. With
    `partial`, the existing records are returned instead, which may be none. With `rerun` and no folder, new records go
    to ``book/_build/interactive/<profile>``, which starts as a copy of the committed records. The committed records
    change only if `results` names their folder.

    Raises
    ------
    ValueError
        For a `rerun` that is no bool: the text "false" counts as true.
    """
    if not isinstance(rerun, bool):
        raise ValueError(f"rerun={rerun!r} must be True or False, without quotes")
    if rerun:
        folder = results or _own_copy(name, profile)
        return run_left(*plan(name, profile, folder, device, None, None, fresh=True, scheduler=""), Console())
    configs.module(name)
    study = Study.read(configs.sweep(name, profile), Path(results) if results else RESULTS / check(profile))
    if not study.ledger.records and not partial:
        raise FileNotFoundError(
            f"no records of {name!r} at profile {profile!r} in {study.path}; make them with "
            f"`python -m experiments run {name} --profile {profile}`, or build the chapter with RERUN=1"
        )
    missing = len(study.missing)
    if missing and not partial:
        raise FileNotFoundError(
            f"{missing} of {len(study.runs)} runs of {name!r} at profile {profile!r} are not in {study.path}, whose "
            "records may be of an earlier version of the sweep; make them with "
            f"`python -m experiments run {name} --profile {profile}`, or build the chapter with RERUN=1"
        )
    if old := sum(result.stale for result in study.recorded):
        warnings.warn(
            f"{old} of {len(study.recorded)} records of {name!r} at profile {profile!r} are stale: the numbers that "
            f"their kind of run computes have changed since. `python -m experiments run {name} --profile {profile} "
            "--fresh` makes them again",
            stacklevel=2,
        )
    return study


def _own_copy(name: str, profile: str) -> Path:
    """The folder for a reader's records, which starts with a copy of the committed ones."""
    folder = INTERACTIVE / check(profile)
    own, committed = (records.path_of(place, name) for place in (folder, RESULTS / profile))
    if not own.exists() and committed.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(committed, own)
    return folder


def run_left(sweep: Sweep, where: Where, console: Console) -> Study:
    """Train the runs that a sweep lacks, and show the progress."""
    records.check_writable(where.results)
    left = Study.read(sweep, where.results).left(fresh=where.fresh)
    with progress(f"{sweep.name}, {where.profile}", len(left), console) as report:
        return Study(sweep, run_sweep(sweep, where, report))


def plan(
    name: str,
    profile: str,
    results: str | Path,
    device: str,
    seeds: int | None,
    workers: int | None,
    fresh: bool,
    scheduler: str,
    *,
    data: str = "",
    here: bool = True,
) -> tuple[Sweep, Where]:
    """A config's sweep and where to run it, from checked options.

    `data` replaces the config's data set; `here` says that the device must be on this machine.
    """
    sweep = configs.sweep(name, profile)
    if data:
        sweep = on_data(sweep, data)
    if seeds is not None:
        sweep = sweep.with_seeds(seeds)
    if scheduler and workers is not None:
        raise ValueError(f"workers={workers} and scheduler={scheduler!r} exclude each other: the cluster has its own")
    on = resolve_device(device, here=here and not scheduler)
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers} must be at least 1")
    folder = Path(results).expanduser() if results else RESULTS / (f"{profile}_{data}" if data else profile)
    streams = STREAMS if on.type == "cuda" and workers is None else 1
    return sweep, Where(profile, folder, on, workers or default_workers(on), fresh, scheduler, streams)


def rows(results: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    """Rows of the status table, one for each config and profile, each with a warning about its file, or "".

    Done, missing and failed add up to all runs of the present sweep; done includes diverged. Stale counts the records
    of `Study.stale`, also those of runs that the sweep no longer has. On: names of the devices. Hours: sum over runs.
    """
    for name in configs.names():
        for profile in PROFILES:
            study = Study.read(configs.sweep(name, profile), results / profile)
            found = study.recorded
            count = Counter(r.status for r in found)
            devices = ", ".join(sorted({r.provenance["device"] for r in found}))
            seconds = sum(r.provenance["seconds"] for r in found)
            numbers = (
                count["ok"] + count["diverged"], len(study.runs) - len(found), count["diverged"], count["failed"],
                len(study.stale),
            )  # fmt: skip
            hours = f"{seconds / 3600:.2f}" if found else ""
            yield (name, profile, *map(str, numbers), devices, hours), study.ledger.torn
