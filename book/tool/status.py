"""The table of the status page: from what each chapter was made, read from its notebook and its records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from book.tool.layout import Book, Page
from book.tool.stamps import recorded

HEADER = (
    "chapter",
    "state",
    "profile",
    "executed",
    "took",
    "records",
    "commits of the records",
    "device of the records",
)


def row(book: Book, page: Page, profile: str, stale: str, shown: Sequence[Path]) -> list[str]:
    """The cells of one chapter; `shown` are the record files that its captions name."""
    last = book.rows().get(f"{profile}/{page.name}", {})
    found = [record for path in shown for record in _read(path)]
    origins = [record["provenance"] for record in found]
    made = recorded(book.executed(page, profile)) or {}
    devices = sorted({str(origin["device"]) for origin in origins}) or [made.get("device", "")]
    commits = sorted({str(origin["commit"])[:7] for origin in origins})
    files = ", ".join(f"[{path.stem}](/records/{path.name}) ({len(_read(path))} runs)" for path in shown)
    return [
        f"{{doc}}`{page.docname}`",
        f"shows an earlier run; since then: {stale}" if stale else "fresh",
        profile,
        str(last.get("when", ""))[:10],
        f"{last['seconds']:.0f} s" if "seconds" in last else "",
        files or ("those of all claims" if page.waits else "none"),
        ", ".join(commits),
        "; ".join(devices),
    ]


def table(rows: Sequence[Sequence[str]]) -> str:
    """The table, in Markdown."""
    lines = [HEADER, ["---"] * len(HEADER), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def scales(results: Path) -> str:
    """A sentence that lists the profiles with committed records and those without."""
    from experiments.profiles import PROFILES  # here, so that `--help` of the build imports no experiments

    found = [p for p in PROFILES if any((results / p).glob("*.jsonl"))]
    lacking = [p for p in PROFILES if p not in (*found, "smoke")]  # smoke is trained by every build
    said = f"Committed records: {', '.join(f'`{p}`' for p in found) or 'none'}."
    return said + (f" Nothing is recorded at {' or '.join(f'`{p}`' for p in lacking)} yet." if lacking else "")


def _read(path: Path) -> list[Mapping[str, Any]]:
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # a torn last line, which is no run
    return found
