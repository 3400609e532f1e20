"""A sweep's design is committed before its records begin; a decision note with a line ``Design of: NAME`` holds it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(r"^Design of: (\w+)$", re.M)
Git = Callable[..., str]


def git_in(folder: Path) -> Git:
    def git(*args: str) -> str:
        return subprocess.run(("git", "-C", str(folder), *args), capture_output=True, text=True, check=True).stdout

    return git


def notes(root: Path) -> dict[str, list[str]]:
    """The notes that hold the design of each sweep, by their path in the repository."""
    found: dict[str, list[str]] = {}
    for path in sorted((root / "docs" / "decisions").glob("*.md")):
        for name in LINE.findall(path.read_text(encoding="utf-8")):
            found.setdefault(name, []).append(path.relative_to(root).as_posix())
    return found


def too_late(root: Path) -> list[str]:
    """Designs whose line was committed after the first record at `small` was started, or not at all.

    The date is the author's, which a rebase leaves as it is.
    """
    git, found = git_in(root), []
    for name, paths in notes(root).items():
        file = root / "experiments" / "results" / "small" / f"{name}.jsonl"
        if not file.is_file():
            continue
        rows: list[dict[str, Any]] = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        began = min(datetime.fromisoformat(row["provenance"]["start"]) for row in rows)
        for path in paths:
            added = git("log", "--reverse", "--format=%at", f"-SDesign of: {name}", "--", path).split()
            if not added or datetime.fromtimestamp(int(added[0]), UTC) > began:
                when = datetime.fromtimestamp(int(added[0]), UTC).isoformat() if added else "never"
                found.append(
                    f"{path}: the design of {name} was committed {when}, its records began {began.isoformat()}"
                )
    return found


def test_no_design_was_committed_after_its_records_began() -> None:
    try:
        shallow = git_in(ROOT)("rev-parse", "--is-shallow-repository").strip()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout: when a design was committed cannot be known")
    if shallow == "true":
        pytest.skip("a shallow clone: when a design was committed cannot be known; `git fetch --unshallow`")
    assert too_late(ROOT) == []


def test_a_design_names_a_sweep() -> None:
    from experiments import configs

    assert set(notes(ROOT)) <= set(configs.names())


@pytest.fixture
def checkout(tmp_path: Path) -> Callable[[str], Path]:
    """A checkout with a note committed at noon, and records that began at a given time."""

    def made(began: str) -> Path:
        note = tmp_path / "docs" / "decisions" / "2030-01-01-a-design.md"
        note.parent.mkdir(parents=True)
        note.write_text("# A design\n\nDesign of: batch_size\n")
        git = git_in(tmp_path)
        git("init", "-q")
        git("add", ".")
        who = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        git(*who, "-c", "commit.gpgsign=false", "commit", "-q", "-m", "A design", "--date", "2030-01-01T12:00:00Z")
        (tmp_path / "experiments" / "results" / "small").mkdir(parents=True)
        rows = [{"provenance": {"start": start}} for start in ("2099-01-01T00:00:00Z", began)]
        records = tmp_path / "experiments" / "results" / "small" / "batch_size.jsonl"
        records.write_text("\n".join(map(json.dumps, rows)))
        return tmp_path

    return made


def test_a_design_before_its_records_is_accepted(checkout: Callable[[str], Path]) -> None:
    assert too_late(checkout("2030-01-01T12:00:01Z")) == []


def test_a_design_after_its_records_began_is_refused(checkout: Callable[[str], Path]) -> None:
    (said,) = too_late(checkout("2030-01-01T11:59:59Z"))
    assert said == (
        "docs/decisions/2030-01-01-a-design.md: the design of batch_size was committed 2030-01-01T12:00:00+00:00, its "
        "records began 2030-01-01T11:59:59+00:00"
    )


def test_a_design_that_was_never_committed_is_refused(checkout: Callable[[str], Path]) -> None:
    root = checkout("2031-01-01T00:00:00Z")
    (root / "docs" / "decisions" / "2030-01-02-another.md").write_text("Design of: batch_size\n")
    (said,) = too_late(root)
    assert "2030-01-02-another.md: the design of batch_size was committed never" in said


TOLD = ROOT / "docs" / "decisions" / "2026-11-30-batch-size-redesign-told.md"


def test_what_is_told_of_the_first_batch_size_records_is_what_they_say() -> None:
    from experiments import records
    from experiments.claims.effects import compare

    cells: dict[tuple[str, int], dict[int, float]] = {}
    for record in records.read(ROOT / "experiments" / "results" / "superseded" / "batch_size-2026-11-21.jsonl").records:
        if record.config["split"] == "test":
            cell = cells.setdefault((record.method, record.config["recipe"]["batch_size"]), {})
            cell[record.seed] = records.accuracy(record)
    text = TOLD.read_text(encoding="utf-8")
    for other, table in (("nf", text.partition("NF + AGC minus NF at")[2]), ("bn", text.partition("minus BN:")[2])):
        told = re.findall(
            r"^\| (\d+) \| (-?[\d.]+) ± ([\d.]+) \|", table.partition("\n\n")[2].partition("\n\n")[0], re.M
        )
        assert len(told) == 5
        for size, mean, half in told:
            effect = compare([(1, cells["nf_agc", int(size)]), (-1, cells[other, int(size)])])
            low, high = effect.interval(0.95) or (0.0, 0.0)
            assert (float(mean), float(half)) == pytest.approx((effect.mean, (high - low) / 2), abs=0.0501)
