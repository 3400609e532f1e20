"""What a sweep still has to do, and how long that takes by earlier records."""

import json
from collections.abc import Iterable, Sequence
from math import log2
from pathlib import Path
from statistics import fmean

from experiments import config, records
from experiments.config import Run, Sweep
from experiments.engine import Where
from experiments.plan import final_runs, pending
from experiments.provenance import device_name
from experiments.records import Record


def runs_left(sweep: Sweep, where: Where) -> list[Run]:
    """Runs left to do. While a search is unfinished its final runs are not known, so all of them count."""
    ledger = records.read(records.path_of(where.results, sweep.name))
    search, finals = pending(sweep.search(), ledger, where.fresh), final_runs(sweep, ledger)
    return search + (finals if search else pending(finals, ledger, where.fresh))


def cost(sweep: Sweep, where: Where, left: Sequence[Run], committed: Path) -> str:
    """The time that the runs left will take, in words, from this folder's records, or else from the committed ones."""
    for folder in (where.results, committed / where.profile):
        done = [r for r in records.read(records.path_of(folder, sweep.name)).records if r.done]
        if done:
            break
    else:
        return f"no record to estimate from; the config says: {config.contract(sweep.name)['Cost']}"
    device = "" if where.scheduler else device_name(where.device)
    here = [r for r in done if r.provenance["device"] == device]
    seconds = list(estimates(left, here or done))
    basis = f"from {len(here or done)} recorded runs"
    if not here:  # another device's seconds are better than none, if they are called that
        basis += " on " + ", ".join(sorted({r.provenance["device"] for r in done}))
    if where.scheduler:
        return f"about {_span(sum(seconds))} of work for the cluster, {basis}"
    total = max(sum(seconds) / where.workers, max(seconds))
    return f"about {_span(total)} with {where.workers} worker(s), {basis}"


def estimates(runs: Iterable[Run], done: Sequence[Record]) -> Iterable[float]:
    """Seconds of each run: those of its own key, or else of the likeliest runs, by the images that they saw.

    Likeliest is the same network and data first, then the nearest batch size (it sets the number of updates), the same
    clipping, and the nearest learning rate (a run that diverges ends early).
    """
    by_key: dict[str, list[Record]] = {}
    for record in done:
        by_key.setdefault(record.key, []).append(record)
    known = {key: (found[0], fmean(r.provenance["seconds"] for r in found)) for key, found in by_key.items()}
    for run in runs:
        if run.key in known:
            yield known[run.key][1]
            continue
        nearest = min(known.values(), key=lambda pair: _distance(run, pair[0]))
        yield (
            nearest[1]
            * _images(run.recipe.epochs, run.data.train)
            / _images(nearest[0].config["recipe"]["epochs"], nearest[0].config["data"]["train"])
        )


def _distance(run: Run, record: Record) -> tuple[bool, bool, float, bool, float]:
    theirs, recipe = record.config, record.config["recipe"]
    return (
        json.dumps(run.resolved["model"], sort_keys=True) != json.dumps(theirs["model"], sort_keys=True),
        run.data.name != theirs["data"]["name"],
        abs(log2(run.recipe.batch_size / recipe["batch_size"])),
        (run.recipe.clip_factor is None) != (recipe["clip_factor"] is None),
        abs(run.recipe.lr - recipe["lr"]) / (run.recipe.lr + recipe["lr"]),
    )


def _images(epochs: float, train: int | None) -> float:
    return epochs * (train or 1)


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
