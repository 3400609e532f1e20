"""The command line: ``python -m experiments run|list|status|doctor|sprint|share|bench``."""

import time
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from experiments import configs
from experiments.engine import Where, resolve_device
from experiments.engine.cost import cost, span
from experiments.engine.dispatch import OutOfTime
from experiments.obtain import COLUMNS, RESULTS, plan, rows, run_left
from experiments.profiles import PROFILES, check
from experiments.study import Study
from experiments.sweep import Sweep
from experiments.tasks.elsewhere import stuck
from experiments.terminal import aligned

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

ProfileOption = Annotated[str, typer.Option(help=", ".join(PROFILES))]
ResultsOption = Annotated[str, typer.Option(help="folder of the records (default: experiments/results/PROFILE)")]


@app.command()
def run(
    names: Annotated[list[str], typer.Argument(help="configs, as `list` names them; or `all`, most informative first")],
    profile: ProfileOption = "smoke",
    results: ResultsOption = "",
    seeds: Annotated[int | None, typer.Option(help="number of seeds of the final runs (default: the config's)")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    workers: Annotated[int | None, typer.Option(help="processes (default: cores on CPU, 1 on GPU)")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="repeat the runs whose records are stale")] = False,
    scheduler: Annotated[str, typer.Option(help="address of a dask scheduler, in place of local processes")] = "",
    streams: Annotated[int | None, typer.Option(help="runs at once in one process (default: 4 on a GPU)")] = None,
    minutes: Annotated[float | None, typer.Option(help="begin no run after this many minutes")] = None,
    data: Annotated[str, typer.Option(help="cifar100: use it in place of CIFAR-10, where a config allows that")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the runs left and their cost, then stop")] = False,
) -> None:
    """Train the runs of these configs that have no record yet."""
    console = Console(soft_wrap=True)
    until = inf if minutes is None else time.monotonic() + 60 * minutes
    total = 0.0
    try:
        for name in configs.queue() if names == ["all"] else names:
            if time.monotonic() >= until and not dry_run:  # the costs are not printed either: that takes seconds
                said = f"time is up: {name} and what follows it were not begun; the same command goes on from there"
                console.print(said, highlight=False)
                break
            if data and names == ["all"] and stuck(configs.sweep(name, profile)):
                console.print(f"{name}, {profile}: skipped, because it needs its own data set", highlight=False)
                continue
            options = (device, seeds, workers, fresh, scheduler)
            sweep, where = plan(name, profile, results, *options, data=data, here=not dry_run)
            where = replace(where, until=until, streams=streams or where.streams)
            left = Study.read(sweep, where.results).left(fresh=where.fresh)
            seconds, basis = cost(sweep, where, left, RESULTS) if left else (0.0, "")
            total += seconds
            said = f"about {span(seconds)} with {where.workers} worker(s), {basis}" if left else "all recorded"
            console.print(f"{name}, {profile}: {len(left)} runs left on {where.device}, {said}", highlight=False)
            if left and not dry_run:
                try:
                    run_left(sweep, where, console)
                except OutOfTime as end:
                    console.print(f"{name}: time is up, {end}; the same command goes on from there", highlight=False)
            if data and not dry_run:  # without `data`, the book shows the verdicts
                _print_verdicts(sweep, where, console)
        if dry_run and (names == ["all"] or len(names) > 1):
            console.print(f"about {span(total)} in all", highlight=False)
    except (ValueError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        console.print("interrupted: finished runs are recorded; the same command goes on from there")
        raise typer.Exit(130) from None


def _print_verdicts(sweep: Sweep, where: Where, console: Console) -> None:
    from experiments.claims import verdicts_of

    for verdict in verdicts_of(Study.read(sweep, where.results), where.profile):
        because = f" ({verdict.because})" if verdict.because else ""
        console.print(f"{verdict.claim.id}: {verdict.verdict}{because}", highlight=False, markup=False)
        for found in verdict.findings:
            said = f"  {found.name}: {found.measured} (asked: {found.wanted}), {found.said}"
            console.print(said, highlight=False, markup=False)


@app.command("list")
def list_configs() -> None:
    """List the configs, each with its question and cost."""
    table = Table("config", "question", "cost")
    for name in configs.names():
        fields = configs.contract(name)
        table.add_row(name, fields["Question"], fields["Cost"])
    Console().print(table)


@app.command()
def doctor(device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto") -> None:
    """Show versions, device, dtypes and data found, and run one forward and backward pass."""
    from experiments.doctor import findings

    try:
        for what, found in findings(device):
            Console(soft_wrap=True).print(f"{what:20} {found}", markup=False, highlight=False)
    except (ValueError, RuntimeError) as error:
        Console(soft_wrap=True).print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(2) from error


@app.command()
def status(results: Annotated[str, typer.Option(help="folder with one folder for each profile")] = "") -> None:
    """Count the done, missing, diverged, failed and stale runs of each config and profile; show devices and hours."""
    shown: list[tuple[str, ...]] = [COLUMNS]
    letters: dict[str, str] = {}
    on = COLUMNS.index("on")
    try:
        for row, warning in rows(Path(results) if results else RESULTS):
            # The names of devices are too long for a narrow terminal: a letter stands for them.
            letter = letters.setdefault(row[on], chr(ord("a") + len(letters))) if row[on] else ""
            shown.append((*row[:on], letter, *row[on + 1 :]))
            if warning:
                Console(stderr=True).print(warning)
    except (ValueError, OSError) as error:
        Console(soft_wrap=True).print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(2) from error
    print(aligned(shown))
    for name, letter in letters.items():
        print(f"{letter}: {name}")


@app.command()
def sprint(
    minutes: Annotated[float, typer.Option(help="minutes that you have the machine for")] = 14.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    results: Annotated[str, typer.Option(help="folder for logs and records")] = "sprint",
    profile: ProfileOption = "gpu",
) -> None:
    """Run checks, GPU tests, sweeps and timings within a fixed time; the same command goes on where it stopped."""
    from experiments.engine.sprint import ended_by_signals
    from experiments.engine.sprint import sprint as run_parts

    console, failed = Console(soft_wrap=True), False
    try:
        with ended_by_signals():
            for said, bad in run_parts(minutes, str(resolve_device(device)), Path(results), profile):
                console.print(said, highlight=False, markup=False)
                failed |= bad
    except (ValueError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(2) from error
    if failed:
        raise typer.Exit(1)


@app.command()
def share(
    source: Annotated[Path, typer.Argument(help="folder with the records of one profile, or an archive to check")],
    profile: Annotated[str, typer.Option(help="profile of the records (default: the name of the folder)")] = "",
    out: Annotated[Path, typer.Option(help="the archive to write")] = Path("records.zip"),
) -> None:
    """Pack records into an archive for a pull request, or check an archive; say why one is refused."""
    from experiments.engine import share as shared

    console = Console(soft_wrap=True)
    try:
        packing = source.is_dir()
        reasons = shared.pack(source, out, check(profile or source.resolve().name)) if packing else shared.check(source)
    except (ValueError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(2) from error
    for reason in reasons:
        console.print(f"refused: {reason}", highlight=False, markup=False)
    if reasons:
        raise typer.Exit(1)
    console.print(f"packed: {out}; attach it to a pull request" if packing else "accepted", highlight=False)


@app.command()
def bench(
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    only: Annotated[str, typer.Option(help="engine or peers (default: both)")] = "",
) -> None:
    """Time our engine beside ordinary training, and our clipping, steps and inference beside timm's."""
    from experiments.bench import ordinary, peers

    parts = {"engine": ordinary.main, "peers": peers.main}
    failed = False
    try:
        if only and only not in parts:
            raise ValueError(f"only={only!r} is not known; use one of {', '.join(parts)}")
        on_gpu = resolve_device(device).type == "cuda"
    except ValueError as error:
        Console(soft_wrap=True).print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(2) from error
    # A GPU may be lent for a short time: there the part whose results are kept bit by bit comes first.
    for name in [only] if only else sorted(parts, reverse=on_gpu):
        # A file or a pipe counts as 80 columns, which is too narrow for a table of ratios.
        console = Console(soft_wrap=True, width=max(150, Console().width) if name == "peers" else None)
        try:
            parts[name](device, console)
        except Exception as error:  # of a driver, a compiler, a worker: the other part can still run
            failed = True
            said = f"error: {name}: {type(error).__name__}: {error}"
            console.print(said, style="red", markup=False)
    raise typer.Exit(int(failed))
