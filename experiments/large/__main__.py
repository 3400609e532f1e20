"""Command line: ``torchrun --nproc-per-node N -m experiments.large CONFIG --data DIR``, or one process with python."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from experiments import records
from experiments.large.forecast import Machine, plan
from experiments.large.imagenet import NAMES, config, with_sam
from experiments.large.large_run import LargeRun, Layout
from experiments.large.world import World, world
from experiments.profiles import PROFILES
from experiments.records import Record
from experiments.records.provenance import peak_memory_mb, provenance

if TYPE_CHECKING:
    from experiments.large.loop import Result

app = typer.Typer(add_completion=False)
_DEFAULT = Layout()


@app.command()
def train(
    name: Annotated[str, typer.Argument(metavar="CONFIG", help=f"one of {', '.join(NAMES)}")],
    data: Annotated[Path | None, typer.Option(help="folder with train/<class>/* and val/<class>/*")] = None,
    out: Annotated[Path | None, typer.Option(help="checkpoints, log, record (default: runs/CONFIG-PROFILE)")] = None,
    profile: Annotated[str, typer.Option(help=", ".join(PROFILES))] = "paper",
    seed: Annotated[int, typer.Option(help="seed of all random numbers")] = 0,
    sam: Annotated[bool, typer.Option("--sam", help="sharpness-aware, radius 0.05 on 20 % of the batch")] = False,
    micro: Annotated[int | None, typer.Option(help="images in one pass of one process; passes accumulate")] = None,
    shard: Annotated[str, typer.Option(help="ddp; or fsdp (FSDP2), if the model does not fit on one GPU")] = "ddp",
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile, block by block")] = False,
    workers: Annotated[int, typer.Option(help="decoding processes for each training process")] = _DEFAULT.workers,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    checkpoint_every: Annotated[int, typer.Option(help="updates between checkpoints")] = _DEFAULT.checkpoint_every,
    log_every: Annotated[int, typer.Option(help="updates between log lines")] = _DEFAULT.log_every,
    stop_after: Annotated[int | None, typer.Option(help="stop after this update, with a checkpoint")] = None,
    show_plan: Annotated[bool, typer.Option("--plan", help="print steps, cost and memory; train nothing")] = False,
    processes: Annotated[int | None, typer.Option(help="number of processes, for --plan without torchrun")] = None,
    tflops: Annotated[float, typer.Option(help="peak TFLOP/s of one GPU, for --plan")] = Machine.tflops,
    utilisation: Annotated[float, typer.Option(help="share of the peak in use, for --plan")] = Machine.utilisation,
) -> None:
    """Train one of the papers' runs on an image folder; the same command resumes an interrupted run."""
    try:
        run = replace(config(name, profile), seed=seed)
        run = with_sam(run) if sam else run
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if processes is not None:
            if not show_plan or processes < 1:
                raise ValueError(
                    f"processes={processes} must be at least 1 and is for --plan; torchrun sets the number"
                )
            count = processes
        kind: Literal["ddp", "fsdp"] = shard  # type: ignore[assignment]  # Layout refuses anything else
        size = micro if micro is not None else min(_DEFAULT.micro, max(1, run.recipe.batch_size // count))
        layout = Layout(size, kind, compile, workers, device, checkpoint_every, log_every, stop_after)
        if show_plan:
            if os.environ.get("RANK", "0") == "0":
                typer.echo("\n".join(plan(run, layout, count, Machine(tflops, utilisation)).lines()))
            return
        if data is None:
            raise ValueError("--data is missing: a folder with train/<class>/* and val/<class>/*. --plan needs none")
        _train(run, data, out or Path("runs") / f"{name}-{profile}", layout)
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


def _train(run: LargeRun, data: Path, out: Path, layout: Layout) -> None:
    from experiments.large.loop import fit, on_folder  # brings kornia, which a plan does not need

    run = on_folder(run, data)
    with world(layout.device) as at:
        started, clock = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.perf_counter()
        if at.rank == 0:
            records.check_writable(out)
            typer.echo("\n".join(plan(run, layout, at.size).lines()))
        result = fit(run, data, out, layout, at)
        if at.rank == 0:
            typer.echo(f"{result.status} {result.reason} {result.metrics}")
            if result.status != "stopped":
                seconds = round(time.perf_counter() - clock, 3)
                records.append(records.path_of(out, run.name), record(run, result, at, started, seconds))


def record(run: LargeRun, result: "Result", at: World, started: str, seconds: float) -> Record:
    """The record that the book reads; `seconds` count from the last start, if the run was resumed."""
    origin = provenance(at.device) | {
        "start": started, "seconds": seconds, "peak_memory_mb": round(peak_memory_mb(at.device), 1),
        "processes": at.size,
    }  # fmt: skip
    metrics = {name: value for name, value in result.metrics.items() if value == value}
    return Record(
        sweep=run.name, profile=run.profile, method="nf_agc", key=run.key, seed=run.seed, status=result.status,
        reason=result.reason, config=run.resolved, metrics=metrics, curve=result.curve, provenance=origin,
        numerics=run.NUMERICS,
    )  # fmt: skip


if __name__ == "__main__":
    app()
