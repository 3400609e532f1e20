"""Records that changed code still gives: some of their runs are repeated, and compared to the last digit."""

import time
from collections.abc import Iterable
from dataclasses import replace

from experiments import records
from experiments.config import Run, Sweep
from experiments.engine import Report, Where
from experiments.plan import recorded, stale
from experiments.provenance import commit, device_name
from experiments.records import Ledger, Record
from experiments.repeat import repeat, repeat_at
from experiments.sources import code_hash

Pair = tuple[Run, Record]


class NotConfirmed(ValueError):
    """What the code computes now is not what is recorded."""


def confirm(sweep: Sweep, where: Where, report: Report, earlier: str = "") -> tuple[int, int]:
    """Repeat a stale run of each method, network, batch size and clipping: if all are equal, all are of this code.

    The least costly run that ended well is taken of each. What must be equal: the status, every metric and every curve,
    to the last digit. A confirmed record keeps the commit that it was made at, and says under ``"confirmed"`` by how
    many runs, at which commit and when. Do not run the sweep meanwhile: its file is written anew.

    Parameters
    ----------
    sweep : Sweep
    where : Where
    report : function
        Called with each repeated record.
    earlier : str
        A commit whose code made the records. That code repeats the runs as well, and what the two compute *here* must
        be equal, in place of what is recorded: for records of a machine that is not at hand.

    Returns
    -------
    tuple of int
        Runs that were repeated, and records that are now of this code; both 0 where nothing was stale.

    Raises
    ------
    NotConfirmed
        If a repeated run differs. Nothing is changed then: the records are history, `run --fresh` makes them again.
        Measured times always differ.
    ValueError
        If the records were made on another device, whose arithmetic may round otherwise, and `earlier` is not given; or
        if that commit's code is not what made them.
    """
    path = records.path_of(where.results, sweep.name)
    ledger = records.read(path)
    old = [(run, r) for run, r in recorded(sweep, ledger)[1] if r.done and stale(run, r)]
    if not old:
        return 0, 0
    foreign = {r.provenance["device"] for _, r in old} - {device_name(where.device)}
    if foreign and not earlier:
        raise ValueError(
            f"device={str(where.device)!r} is {device_name(where.device)}, and the stale records of {sweep.name!r} "
            f"were made on {', '.join(sorted(foreign))}: equal numbers are only to be expected there. Compare with "
            "what the code that made them computes here: --earlier COMMIT"
        )
    chosen = sample(old)
    runs = [run for run, _ in chosen]
    before = _by_commit(earlier, sweep, where, chosen) if earlier else [record for _, record in chosen]
    again = repeat(sweep, where, runs, report)
    differing = [what for run, was in zip(runs, before) if (what := difference(was, again.of(run.key, run.seed)))]
    if differing:
        raise NotConfirmed(
            f"{sweep.name}, {where.profile}: {'; '.join(differing)}. The records stay those of earlier code; "
            f"`python -m experiments run {sweep.name} --profile {where.profile} --fresh` makes them again"
        )
    note = {"runs": len(chosen), "commit": commit()[0], "date": time.strftime("%Y-%m-%d", time.gmtime())}
    if earlier:
        note |= {"beside": before[0].provenance["commit"], "device": device_name(where.device)}
    now = {
        (r.key, r.seed): replace(
            r, provenance=r.provenance | {"code": code_hash(type(run).__module__), "confirmed": note}
        )
        for run, r in old
    }
    records.rewrite(path, lambda record: now.get((record.key, record.seed), record))
    return len(chosen), len(old)


def _by_commit(earlier: str, sweep: Sweep, where: Where, chosen: list[Pair]) -> list[Record]:
    """What a commit's code computes of these runs, if it is the code that their records are of."""
    ledger: Ledger = repeat_at(earlier, sweep, where, [run for run, _ in chosen])
    found: list[Record] = []
    for run, was in chosen:
        record = ledger.of(run.key, run.seed)
        if record is None or record.provenance["code"] != was.provenance["code"]:
            at = was.provenance.get("confirmed", was.provenance)["commit"][:7]
            raise ValueError(
                f"earlier={earlier!r} is not the code that the record of {was.method}, seed {was.seed}, is of, which "
                f"was made or confirmed at {at}: pass that one"
            )
        found.append(record)
    return found


def sample(pairs: Iterable[Pair]) -> list[Pair]:
    """The least costly pair of each method, network, batch size and clipping, one that ended well if there is one."""
    chosen: dict[tuple[str, str, str], Pair] = {}
    for run, record in sorted(pairs, key=lambda pair: (pair[1].status != "ok", pair[1].provenance["seconds"])):
        # Kernels are chosen by shape: a small network or batch may round as ever where a large one does not.
        recipe = record.config.get("recipe") or {}
        shape = repr((recipe.get("batch_size"), recipe.get("clip")))
        chosen.setdefault((run.method, repr(record.config.get("model")), shape), (run, record))
    return list(chosen.values())


def difference(was: Record, now: Record | None) -> str:
    """What differs between two records of a run; empty if nothing that was computed does."""
    name = f"{was.method}, seed {was.seed}"
    if now is None or was.status != now.status:
        return f"{name}: {was.status} became {'nothing' if now is None else now.status}"
    for metric in sorted({*was.metrics, *now.metrics}):
        before, after = was.metrics.get(metric), now.metrics.get(metric)
        if before != after:
            return f"{name}: {metric} {before} became {after}"
    return "" if was.curve == now.curve else f"{name}: its curve changed"
