"""Record files for a pull request: packed into one archive where every record is sound, else refused with reasons."""

import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from experiments import configs, records
from experiments.profiles import PROFILES
from experiments.records import Record
from experiments.study import Study, possible

ORIGIN = ("commit", "dirty", "versions", "device", "start", "seconds", "peak_memory_mb")


def pack(folder: Path, target: Path, profile: str) -> list[str]:
    """Write the finished runs of the record files of `folder` to a zip archive; return why not, if one is unsound.

    The archive holds ``PROFILE/CONFIG.jsonl``, the last record of each run, without runs that failed. Where a reason is
    returned, no archive is written.

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
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in paths:
                lines = b"".join(record.line() for record in records.read(path).records if record.done)
                archive.writestr(f"{profile}/{path.name}", lines)
    return reasons


def check(archive: Path) -> list[str]:
    """Why an archive of `pack` is refused; an empty list: it is accepted.

    Raises
    ------
    ValueError
        For a file that is no zip archive.
    """
    try:
        with zipfile.ZipFile(archive) as packed, TemporaryDirectory() as place:
            reasons = [] if packed.namelist() else [f"{archive}: holds no record files"]
            for name in packed.namelist():
                parts = PurePosixPath(name).parts
                if len(parts) != 2 or parts[0] not in PROFILES or not name.endswith(".jsonl"):
                    reasons.append(f"{name}: is not PROFILE/CONFIG.jsonl, of the profiles {', '.join(PROFILES)}")
                    continue
                path = Path(place, parts[1])
                path.write_bytes(packed.read(name))
                reasons += [reason.replace(str(path), name) for reason in faults(path, parts[0])]
            return reasons
    except zipfile.BadZipFile as error:
        raise ValueError(f"archive={str(archive)!r} is no zip archive ({error}); make one from a folder") from None


def faults(path: Path, profile: str) -> Iterator[str]:
    """What speaks against each record of a file, with the path and the run."""
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
    sweep = configs.sweep(path.stem, profile)
    known = possible(sweep) | {run.key: run for run in Study(sweep, ledger).runs}
    for record in ledger.records:
        where = f"{path}: {record.method}, seed {record.seed}, key {record.key}"
        if record.key not in known:
            yield f"{where}: is no run of the present sweep at profile {profile!r}"
        elif record.numerics != known[record.key].NUMERICS:
            yield f"{where}: is stale, its numerics are {record.numerics}, not {known[record.key].NUMERICS}"
        yield from (f"{where}: {fault}" for fault in _origin(record))


def _origin(record: Record) -> Iterator[str]:
    if missing := [name for name in ORIGIN if name not in record.provenance]:
        yield f"lacks provenance: {', '.join(missing)}"
    elif record.provenance["dirty"] is not False or record.provenance["commit"] == "unknown":
        yield "was made by code that is in no commit (dirty); commit the code, then run again with --fresh"
