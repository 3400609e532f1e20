"""Environments that hold what a requirement brings and nothing else, without asking an index: linked, not installed."""

from __future__ import annotations

import importlib.metadata
import subprocess
import venv
from collections.abc import Iterable, Mapping
from pathlib import Path


def bare_env(folder: Path, requirements: Iterable[str]) -> Path:
    """The interpreter of a new environment with all that the requirements bring, less what is built from here."""
    venv.create(folder / "env", symlinks=True)
    python, linked = folder / "env" / "bin" / "python", folder / "linked"
    linked.mkdir()
    for name in set().union(*map(needed_by, requirements)) - {"nfnets-lite"}:
        link(importlib.metadata.distribution(name), linked)
    where = run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    (Path(where) / "linked.pth").write_text(f"{linked}\n")
    return python


def needed_by(wanted: str) -> set[str]:
    """The names of a requirement, such as ``torch`` or ``nfnets-lite[book]``, and all that it brings, as is here."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: set[tuple[str, str]] = set()
    ask = [Requirement(wanted)]
    while ask:
        asked = ask.pop()
        for extra in ("", *asked.extras):
            if (key := (canonicalize_name(asked.name), extra)) in found:
                continue
            found.add(key)
            for line in importlib.metadata.requires(asked.name) or ():
                brought = Requirement(line)
                if brought.marker is None or brought.marker.evaluate({"extra": extra}):
                    ask.append(brought)
    return {name for name, _ in found}


def link(distribution: importlib.metadata.Distribution, folder: Path) -> None:
    """Its modules and its metadata, as links."""
    tops = {Path(file.parts[0]) for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}
    for top in tops:
        target = Path(str(distribution.locate_file(top)))
        if target.exists() and not (folder / top).exists():  # several share a namespace package, nvidia for one
            (folder / top).symlink_to(target)


def run(*command: str, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """What a command printed; it must succeed."""
    done = subprocess.run(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert not done.returncode, done.stdout
    return done.stdout
