"""Records for a pull request: a sound file is packed and accepted, an unsound one refused with the reason."""

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from experiments import cli, configs
from experiments.records import Record

RUN = configs.sweep("batch_size", "smoke").search()[0]
ORIGIN = {
    "commit": "0" * 40, "dirty": False, "versions": {"torch": "2"}, "device": "a GPU", "start": "2026-01-01T00:00:00Z",
    "seconds": 1.0, "peak_memory_mb": 10.0,
}  # fmt: skip
RECORD = Record(
    "batch_size",
    "smoke",
    RUN.method,
    RUN.key,
    RUN.seed,
    "ok",
    "",
    RUN.resolved,
    {"accuracy": 0.5},
    {},
    ORIGIN,
    RUN.NUMERICS,
)


def share(*arguments: Path) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ("share", *map(str, arguments)), env={"COLUMNS": "400"})
    return result.exit_code, result.output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "smoke").mkdir()
    return tmp_path / "smoke"


def test_sound_records_are_packed_and_accepted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    failed = replace(RECORD, seed=RECORD.seed + 1, status="failed", reason="OutOfMemoryError: ...", metrics={})
    (folder / "batch_size.jsonl").write_bytes(RECORD.line() + failed.line())
    assert share(folder) == (0, "packed: records.zip; attach it to a pull request\n")
    assert zipfile.ZipFile("records.zip").read("smoke/batch_size.jsonl") == RECORD.line()
    assert share(Path("records.zip")) == (0, "accepted\n")


def changed(config: dict[str, Any], **recipe: float) -> dict[str, Any]:
    return {**config, "recipe": {**config["recipe"], **recipe}}


FAULTS: list[tuple[Callable[[Record], bytes], str]] = [
    (lambda r: replace(r, key="0" * 16).line(), "is no run of the present sweep at profile 'smoke'"),
    (lambda r: replace(r, numerics=0).line(), f"is stale, its numerics are 0, not {RUN.NUMERICS}"),
    (lambda r: replace(r, provenance={"commit": "0" * 40}).line(), "lacks provenance: dirty, versions, device, start"),
    (lambda r: replace(r, provenance=ORIGIN | {"dirty": True}).line(), "was made by code that is in no commit (dirty)"),
    (lambda r: replace(r, provenance=ORIGIN | {"commit": "unknown"}).line(), "was made by code that is in no commit"),
    (lambda r: r.line() + r.line()[:-9], "the last line is torn"),
    (lambda r: b"{}\n", "line 1 is not a record"),
    (lambda r: b"[" * 100_000 + b"\n", "line 1 is not a record"),
    (lambda r: b"", "holds no finished run; delete it"),
    (lambda r: replace(r, config=changed(r.config, lr=99.0)).line(), "its config does not belong to its key"),
    (lambda r: replace(r, profile="gpu").line(), "was made for sweep 'batch_size' at profile 'gpu'"),
    (lambda r: replace(r, seed=-1).line(), "seed=-1 is no whole number from 0 on"),
    (lambda r: r.line() + replace(r, seed=5, status="great").line(), "status='great' is none of ok, diverged, failed"),
    (lambda r: replace(r, metrics={"accuracy": "high"}).line(), "its metrics are no finite numbers"),
    (lambda r: replace(r, provenance=None).line(), "has no provenance"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "reason"), FAULTS)
def test_an_unsound_record_is_refused_with_the_reason(
    lines: Callable[[Record], bytes], reason: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "batch_size.jsonl").write_bytes(lines(RECORD))
    code, said = share(folder)
    assert (code, said.count("refused: ")) == (1, 1)
    assert reason in said
    assert not Path("records.zip").exists()
    with zipfile.ZipFile("sent.zip", "w") as archive:
        archive.writestr("smoke/batch_size.jsonl", lines(RECORD))
    code, said = share(Path("sent.zip"))
    assert code == 1
    assert "refused: smoke/batch_size.jsonl" in said
    assert reason in said


@pytest.mark.parametrize(
    ("name", "reason"),
    [("smoke/nope.jsonl", "'nope' is no config"), ("batch_size.jsonl", "is not PROFILE/CONFIG.jsonl"),
     ("tiny/batch_size.jsonl", "is not PROFILE/CONFIG.jsonl")],
)  # fmt: skip
def test_a_file_that_belongs_nowhere_is_refused(name: str, reason: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "sent.zip", "w") as archive:
        archive.writestr(name, RECORD.line())
    code, said = share(tmp_path / "sent.zip")
    assert code == 1
    assert reason in said


def test_what_is_no_archive_and_no_records_says_so(folder: Path) -> None:
    assert "holds no record files" in share(folder)[1]
    (folder / "sent.zip").write_bytes(b"no archive")
    code, said = share(folder / "sent.zip")
    assert (code, "is no zip archive" in said) == (2, True)


def test_an_archive_that_cannot_be_read_says_so_and_an_earlier_one_is_kept(folder: Path) -> None:
    sent = folder / "sent.zip"
    with zipfile.ZipFile(sent, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("smoke/batch_size.jsonl", RECORD.line())
    whole = bytearray(sent.read_bytes())
    whole[60] ^= 0xFF  # within the compressed lines
    sent.write_bytes(bytes(whole))
    code, said = share(sent)
    assert code == 2
    assert "cannot be read" in said or "is no zip archive" in said
    (folder / "batch_size.jsonl").write_bytes(RECORD.line())
    (folder / "sam.jsonl").write_bytes(b"")
    assert share(folder, Path("--out"), sent)[0] == 1
    assert sent.read_bytes() == bytes(whole)
