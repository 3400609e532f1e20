"""Checksums: MD5 for published files, because publishers give MD5, and SHA-256 for converted files."""

import hashlib
from collections.abc import Callable
from functools import partial
from io import BufferedIOBase
from pathlib import Path
from typing import Any

# MD5 only recognises a published file. Python allows it in FIPS mode if it is marked as not used for security.
_KINDS: dict[str, Callable[[], Any]] = {"MD5": partial(hashlib.md5, usedforsecurity=False), "SHA-256": hashlib.sha256}


def digest(handle: BufferedIOBase, kind: str) -> str:
    """Hexadecimal `kind` sum of an open file from its start; the file is left at its start."""
    handle.seek(0)
    actual = hashlib.file_digest(handle, _KINDS[kind]).hexdigest()
    handle.seek(0)
    return actual


def require(handle: BufferedIOBase, path: Path, kind: str, expected: str, way_out: str) -> None:
    """Raise ValueError naming the file, both sums and the way out unless the sum is `expected`."""
    actual = digest(handle, kind)
    if actual != expected:
        raise ValueError(
            f"{path} is damaged, truncated or another file: its {kind} is {actual}, expected {expected}; {way_out}"
        )
