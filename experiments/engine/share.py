"""Record files for a pull request: packed into one archive if every record is sound, else refused with reasons."""

import zipfile
import zlib
from collections.abc import Iterator
from math import isfinite
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from experiments import configs, records
from experiments.profiles import PROFILES
from experiments.records import Record
from experiments.study import Study, possible

LARGEST = 2**28  # bytes of a file of records; ours have less than 2**25
ORIGIN = ("commit", "dirty", "versions", "device", "start", "seconds", "peak_memory_mb")


def pack(folder: Path, target: Path, profile: str) -> list[str]:
    """Write the finished runs of the record files in `folder` to a zip archive, and return an empty list.

    The archive holds ``PROFILE/CONFIG.jsonl`` with the last record of each run, without runs that failed. If a record
    is not sound, no archive is written, and the reasons are returned.

    Raises
    ------
    FileNotFoundError
        For a folder without record files.
    """
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        raise FileNotFoundError(f"folder={str(folder)!r} holds no record files (*.jsonl); give the folder of a profile")
    reasons = [reason for path in paths for reason in faults(path, profile)]
    if not reasons:
        # All lines are read before an earlier archive is overwritten.
        lines = {p.name: b"".join(r.line() for r in records.read(p).records if r.done) for p in paths}
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in lines.items():
                archive.writestr(f"{profile}/{name}", text)
    return reasons


def check(archive: Path) -> list[str]:
    """Reasons why an archive made by `pack` is refused; an empty list if it is accepted.

    Raises
    ------
    ValueError
        If the file is no zip archive.
    """
    try:
        with zipfile.ZipFile(archive) as packed, TemporaryDirectory() as place:
            reasons = [] if packed.namelist() else [f"{archive}: holds no record files"]
            for name, text in _members(packed):
                parts = PurePosixPath(name).parts
                if (
                    len(parts) != 2
                    or "/".join(parts) != name
                    or parts[0] not in PROFILES
                    or not name.endswith(".jsonl")
                ):
                    reasons.append(f"{name}: is not PROFILE/CONFIG.jsonl, of the profiles {', '.join(PROFILES)}")
                    continue
                path = Path(place, parts[1])
                path.write_bytes(text)
                reasons += [reason.replace(str(path), name) for reason in faults(path, parts[0])]
            return reasons
    except zipfile.BadZipFile as error:
        raise ValueError(f"archive={str(archive)!r} is no zip archive ({error}); make one from a folder") from None


def _members(packed: zipfile.ZipFile) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the files of an archive, each name once; a ValueError for one that cannot be read."""
    names = packed.namelist()
    for info in packed.infolist():
        if names.count(info.filename) > 1 or info.file_size > LARGEST:
            raise ValueError(f"{info.filename}: is in the archive twice, or larger than {LARGEST} bytes")
        try:
            yield info.filename, packed.read(info)
        except (zlib.error, RuntimeError) as error:  # damaged, encrypted, or compressed by an unknown method
            raise ValueError(
                f"{info.filename}: cannot be read ({error}); make the archive anew from a folder"
            ) from None


def faults(path: Path, profile: str) -> Iterator[str]:
    """Reasons against the records of a file, each with the path and the run."""
    if path.stem not in configs.names():
        yield f"{path}: {path.stem!r} is no config; use the name of one from `python -m experiments list`"
        return
    try:
        ledger = records.read(path)
    except ValueError as error:
        yield str(error)
        return
    if ledger.torn:
        yield ledger.torn
    if not any(record.done for record in ledger.records):
        yield f"{path}: holds no finished run; delete it"
    if odd := [f"{path}: {r.method}, seed {r.seed}: {fault}" for r in ledger.records for fault in _forms(r)]:
        yield from odd  # with these numbers no setting can be chosen, so the other checks would fail
        return
    sweep = configs.sweep(path.stem, profile)
    known = possible(sweep) | {run.key: run for run in Study(sweep, ledger).runs}
    for record in ledger.records:
        where = f"{path}: {record.method}, seed {record.seed}, key {record.key}"
        if record.key not in known:
            yield f"{where}: is no run of the present sweep at profile {profile!r}"
        elif not _agrees(record.config, known[record.key].resolved):
            yield f"{where}: its config does not belong to its key"
        elif record.numerics != known[record.key].NUMERICS:
            yield f"{where}: is stale, its numerics are {record.numerics}, not {known[record.key].NUMERICS}"
        if (record.sweep, record.profile) != (path.stem, profile):
            yield f"{where}: was made for sweep {record.sweep!r} at profile {record.profile!r}"
        yield from (f"{where}: {fault}" for fault in _origin(record))


def _agrees(recorded: Any, run: Any) -> bool:
    """Whether the recorded fields of a run equal the present ones; fields that were added later may be missing."""
    if isinstance(recorded, dict) and isinstance(run, dict):
        return all(name in run and _agrees(value, run[name]) for name, value in recorded.items())
    if isinstance(recorded, list) and isinstance(run, (list, tuple)):
        return len(recorded) == len(run) and all(map(_agrees, recorded, run))
    return bool(recorded == run)


def _forms(record: Record) -> Iterator[str]:
    """Reasons against fields that `experiments run` cannot have written."""
    if type(record.seed) is not int or record.seed < 0:
        yield f"seed={record.seed!r} is no whole number from 0 on"
    if record.status not in ("ok", "diverged", "failed"):
        yield f"status={record.status!r} is none of ok, diverged, failed"
    numbers = record.metrics.values() if isinstance(record.metrics, dict) else [None]
    if not all(isinstance(number, int | float) and isfinite(number) for number in numbers):
        yield "its metrics are no finite numbers"


def _origin(record: Record) -> Iterator[str]:
    if not isinstance(record.provenance, dict):
        yield "has no provenance"
    elif missing := [name for name in ORIGIN if name not in record.provenance]:
        yield f"lacks provenance: {', '.join(missing)}"
    elif record.provenance["dirty"] is not False or record.provenance["commit"] == "unknown":
        yield "was made by code that is in no commit (dirty); commit the code, then run again with --fresh"
