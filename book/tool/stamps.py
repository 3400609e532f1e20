"""Hashes of everything on which a chapter's result depends, one for each component, to say why a chapter is stale."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from book.tool.layout import Book, Page

KEY = "build"  # key in the metadata of an executed notebook, for {"stamp": ..., "parts": {...}}
APART = ("front", "tool", "scaffold")  # folders of the book whose code does not change what a chapter computes


def digest(text: str | bytes) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def digest_files(base: Path, paths: Iterable[Path]) -> str:
    """One hash of names (relative to `base`) and contents; moving or deleting a file changes it, too."""
    lines = (f"{path.relative_to(base).as_posix()} {digest(path.read_bytes())}" for path in sorted(paths))
    return digest("\n".join(lines))


def code_files(book: Book) -> list[Path]:
    """The source files that a chapter can import, and the file of claims."""
    packages = [path for name in ("nfnets_lite", "experiments") for path in (book.root / name).rglob("*.py")]
    inside = [path.relative_to(book.source) for path in book.source.rglob("*.py")]
    helpers = [book.source / path for path in inside if path.parts[0][0] != "_" and path.parts[0] not in APART]
    claims = book.root / "experiments" / "claims" / "claims.yaml"
    return packages + helpers + ([claims] if claims.is_file() else [])


def device_class(device: str) -> str:
    """The kind of a device: `cuda:0` and `cuda:1` give the same book; `auto` is the kind that a chapter will find."""
    return _auto() if device == "auto" else device.split(":")[0]


@lru_cache(maxsize=1)
def _auto() -> str:
    try:
        import torch  # here, because it takes a second, and a book without computations does not need it
    except ImportError:
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"


def parts(book: Book, page: Page, parameters: dict[str, object], shared: dict[str, str]) -> dict[str, str]:
    """Every component of one chapter's stamp."""
    given = digest(json.dumps(parameters, sort_keys=True))
    return {"text": digest(page.path.read_bytes()), "parameters": given, **shared}


def shared_parts(book: Book, profile: str, rerun: bool, device: str) -> dict[str, str]:
    """The components that all chapters of one build have in common, hashed once."""
    records = book.root / book.results_dir(profile, rerun)
    constraints = book.root / "constraints.txt"
    benches = (book.root / "experiments" / "results" / "bench").glob("peers-*.json")
    return {
        "bench": digest_files(book.root, benches),
        "code": digest_files(book.root, code_files(book)),
        # A re-run makes its own records, so they cannot be part of the stamp.
        "records": "made by the run" if rerun else digest_files(records, records.rglob("*.jsonl")),
        "constraints": digest(constraints.read_bytes() if constraints.is_file() else b""),
        "python": platform.python_version(),
        "device": device_class(device),
    }


def stamp(parts: dict[str, str]) -> str:
    """All components in one hash."""
    return digest(json.dumps(parts, sort_keys=True))


def recorded(notebook: Path) -> dict[str, str] | None:
    """The components from which an executed notebook was made; None if there is no such notebook."""
    try:
        return dict(json.loads(notebook.read_text(encoding="utf-8"))["metadata"][KEY]["parts"])
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return None


def why_stale(now: dict[str, str], notebook: Path) -> str:
    """The reason why an executed notebook is stale; empty if it is fresh."""
    before = recorded(notebook)
    if before is None:
        return "not executed yet"
    changed = [name for name in now.keys() | before.keys() if now.get(name) != before.get(name)]
    return ", ".join(sorted(changed)) + " changed" if changed else ""
