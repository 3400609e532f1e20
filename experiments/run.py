"""The command line: ``python -m experiments run|list|status``."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from experiments import config, records
from experiments.config import Sweep
from experiments.engine import Where, default_workers, final_runs, pending, resolve_device, run_sweep
from experiments.profiles import PROFILES, check
from experiments.progress import progress
from experiments.records import Ledger
from experiments.sources import code_hash

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
RESULTS = Path(__file__).parent / "results"


def measure(
    name: str,
    profile: str = "smoke",
    results: str | Path = "",
    *,
    device: str = "auto",
    seeds: int | None = None,
    workers: int | None = None,
    fresh: bool = False,
    console: Console | None = None,
) -> Ledger:
    """Run what a config still lacks at a profile, and return all its records; nothing trained twice.

    Parameters
    ----------
    name, profile : str
    results : path
        Folder of the records; empty: ``experiments/results/<profile>``.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    seeds : int, optional
        Number of final seeds, in place of the config's.
    workers : int, optional
        Processes; None: one a core on a CPU, one on a GPU.
    fresh : bool
        Repeat runs whose record was made by other code.
    """
    sweep, where = _plan(name, profile, results, device, seeds, workers, fresh)
    records.check_writable(where.results)
    left = _left(sweep, where)
    with progress(f"{name}, {profile}", left, console or Console()) as report:
        return run_sweep(sweep, where, report)


def obtain(name: str, profile: str, results: str | Path = "", *, rerun: bool = False, device: str = "auto") -> Ledger:
    """The records of a config, for a chapter: trained where `rerun` asks for it and something is missing or stale.

    Without `rerun` nothing is trained, and a config that has no records at this profile is a FileNotFoundError.
    """
    if rerun:
        return measure(name, profile, results, device=device, fresh=True)
    config.module(name)
    ledger = records.read(records.path_of(Path(results) if results else RESULTS / check(profile), name))
    if not ledger.records:
        raise FileNotFoundError(
            f"no records of {name!r} at profile {profile!r} in {ledger.path}; make them with "
            f"`python -m experiments run {name} --profile {profile}`, or build the chapter with RERUN=1"
        )
    return ledger


def _plan(
    name: str, profile: str, results: str | Path, device: str, seeds: int | None, workers: int | None, fresh: bool
) -> tuple[Sweep, Where]:
    sweep = config.sweep(name, profile)
    if seeds is not None:
        sweep = sweep.with_seeds(seeds)
    on = resolve_device(device)
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers} must be at least 1")
    folder = Path(results) if results else RESULTS / profile
    return sweep, Where(profile, folder, on, workers or default_workers(on), fresh)


def _left(sweep: Sweep, where: Where) -> int:
    """Runs left to do. While a search is unfinished its final runs are not known, so all of them count."""
    ledger = records.read(records.path_of(where.results, sweep.name))
    search = len(pending(sweep.search(), ledger, where.fresh))
    finals = final_runs(sweep, ledger)
    return search + (len(finals) if search else len(pending(finals, ledger, where.fresh)))


def _cost(sweep: Sweep, where: Where, left: int) -> str:
    path = records.path_of(where.results, sweep.name)
    seconds = [r.provenance["seconds"] for r in records.read(path).records if r.done]
    if not seconds:
        return f"no record to estimate from; the config says: {config.contract(sweep.name)['Cost']}"
    total = records.estimate(seconds).mean * left / where.workers
    return f"about {total:.0f} s with {where.workers} worker(s), from {len(seconds)} recorded runs"


ProfileOption = Annotated[str, typer.Option(help=", ".join(PROFILES))]
ResultsOption = Annotated[str, typer.Option(help="folder of the records (default: experiments/results/PROFILE)")]


@app.command()
def run(
    names: Annotated[list[str], typer.Argument(help="configs; see `list`")],
    profile: ProfileOption = "smoke",
    results: ResultsOption = "",
    seeds: Annotated[int | None, typer.Option(help="number of final seeds")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    workers: Annotated[int | None, typer.Option(help="processes (default: cores on CPU, 1 on GPU)")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="repeat runs recorded by other code")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what is left and what it costs, then stop")] = False,
) -> None:
    """Run what the records of these configs still lack."""
    console = Console(soft_wrap=True)
    try:
        for name in names:
            sweep, where = _plan(name, profile, results, device, seeds, workers, fresh)
            left = _left(sweep, where)
            cost = _cost(sweep, where, left)
            console.print(f"{name}, {profile}: {left} runs left on {where.device}, {cost if left else 'all recorded'}")
            if not dry_run:
                measure(name, profile, results, device=device, seeds=seeds, workers=workers, fresh=fresh)
    except (ValueError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        console.print("interrupted: finished runs are recorded; the same command goes on from there")
        raise typer.Exit(130) from None


@app.command("list")
def list_configs() -> None:
    """The configs, each with its question and cost."""
    table = Table("config", "question", "cost")
    for name in config.names():
        fields = config.contract(name)
        table.add_row(name, fields["Question"], fields["Cost"])
    Console().print(table)


@app.command()
def doctor(device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto") -> None:
    """Versions, device, dtypes, data found, and one forward and backward."""
    from experiments.doctor import findings

    try:
        for what, found in findings(device):
            Console(soft_wrap=True).print(f"{what:20} {found}", markup=False, highlight=False)
    except (ValueError, RuntimeError) as error:
        Console(soft_wrap=True).print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(2) from error


@app.command()
def status(results: Annotated[str, typer.Option(help="folder that holds one folder a profile")] = "") -> None:
    """Per config and profile: runs done, missing, diverged, failed, stale, and on what device."""
    table = Table("config", "profile", "done", "missing", "diverged", "failed", "stale", "device")
    for name in config.names():
        for profile in PROFILES:
            folder = (Path(results) if results else RESULTS) / profile
            ledger = records.read(records.path_of(folder, name))
            if ledger.torn:
                Console(stderr=True).print(ledger.torn)
            sweep = config.sweep(name, profile)
            runs = [*sweep.search(), *final_runs(sweep, ledger)]
            found = [r for r in (ledger.of(run.key, run.seed) for run in runs) if r is not None]
            count = Counter(r.status for r in found)
            stale = sum(r.provenance["code"] != code_hash() for r in found)
            done = count["ok"] + count["diverged"]
            devices = ", ".join(sorted({r.provenance["device"] for r in found}))
            numbers = (done, len(runs) - done, count["diverged"], count["failed"], stale)
            table.add_row(name, profile, *map(str, numbers), devices)
    Console().print(table)
