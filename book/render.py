"""Executed notebooks and plain pages -> one folder of sources -> Jupyter Book -> book/_build/html."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from book.execute import assignments
from book.layout import Book, Page, docnames, reduce_toc
from book.stamps import code_files, digest, digest_files

MATHJAX = ("sphinx-mathjax-offline", "tex-svg-full.js")


def renderable(book: Book, pages: list[Page], profile: str) -> list[Page]:
    """The plain pages, and the chapters that were executed at this profile."""
    return [page for page in pages if not page.is_chapter or book.executed(page, profile).is_file()]


def render(book: Book, pages: list[Page], profile: str, stale: dict[str, str]) -> tuple[bool, str]:
    """Whether the HTML is up to date, and what to tell: a rendering that fails leaves the old HTML as it was."""
    kept = renderable(book, pages, profile)
    source = stage(book, kept, profile, stale)
    # A page that is left out may be linked from one that is in: only the whole book can be held to no warnings.
    strict = len(kept) == len(pages)
    versions = [importlib.metadata.version(name) for name in ("jupyter-book", "sphinx", "sphinx-book-theme")]
    stamp = digest(json.dumps([strict, versions, digest_files(source, (p for p in source.rglob("*") if p.is_file()))]))
    mark = book.out / "html.stamp"
    if (book.html / "index.html").is_file() and mark.is_file() and mark.read_text() == stamp:
        return True, "unchanged"
    mark.unlink(missing_ok=True)
    work = book.out / "render"
    shutil.rmtree(work, ignore_errors=True)  # warnings come only from pages that are read, so read them all
    log = _jupyter_book(source, work, ["-W", "--keep-going"] if strict else [])
    if log.returncode:
        return False, log.stdout
    shutil.rmtree(book.html, ignore_errors=True)
    (work / "_build" / "html").rename(book.html)
    mark.write_text(stamp)
    return True, f"{len(kept)} pages" + ("" if strict else f"; {len(pages) - len(kept)} left out, not executed yet")


def _jupyter_book(source: Path, work: Path, flags: list[str]) -> subprocess.CompletedProcess[str]:
    program = "from jupyter_book.cli.main import main; main()"
    arguments = ["build", str(source), "--path-output", str(work), "--quiet", "-n", *flags]
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def stage(book: Book, pages: list[Page], profile: str, stale: dict[str, str]) -> Path:
    """A fresh folder with what the rendering reads, and nothing else; `stale` says why, for each docname that is."""
    source = book.out / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    for name in ("_config.yml", "references.bib"):
        shutil.copyfile(book.source / name, source / name)
    for name in ("assets", "_ext"):
        shutil.copytree(book.source / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(mathjax(), source / "assets" / "mathjax" / MATHJAX[1])
    for path in code_files(book):  # so that a chapter can show the package's own lines: literalinclude /nfnets_lite/...
        copy = source / path.relative_to(book.source if path.is_relative_to(book.source) else book.root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    names = {page.docname for page in pages}
    toc = book.toc()
    if set(docnames(toc)) != names:
        toc = reduce_toc(toc, names.__contains__)
    (source / "_toc.yml").write_text(yaml.safe_dump(toc, sort_keys=False), encoding="utf-8")
    for page in pages:
        copy = source / f"{page.docname}{'.ipynb' if page.is_chapter else '.md'}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        if page.is_chapter:
            notebook = json.loads(book.executed(page, profile).read_text(encoding="utf-8"))
            notebook = with_banner(with_alt_text(with_parameters(notebook)), stale.get(page.docname, ""))
            copy.write_text(json.dumps(notebook), encoding="utf-8")
        else:
            shutil.copyfile(page.path, copy)
    return source


def with_parameters(notebook: dict[str, Any]) -> dict[str, Any]:
    """Show the values that a page was made with in its own `parameters` cell.

    The injected cell goes: in a downloaded notebook it would undo, unseen, what a reader sets in the cell above it.
    """
    tagged = {tag: cell for cell in notebook["cells"] for tag in cell["metadata"].get("tags", [])}
    own, injected = tagged.get("parameters"), tagged.get("injected-parameters")
    if own and injected:
        given = assignments("".join(injected["source"]))
        lines = "".join(own["source"]).splitlines()
        for name, value in assignments("\n".join(lines)).items():
            if name in given:
                new, line = ast.literal_eval(given[name]), lines[value.lineno - 1]
                shown = json.dumps(new) if isinstance(new, str) else repr(new)
                lines[value.lineno - 1] = line[: value.col_offset] + shown + line[value.end_col_offset :]
        own["source"] = "\n".join(lines)
        notebook["cells"].remove(injected)
    return notebook


def with_alt_text(notebook: dict[str, Any]) -> dict[str, Any]:
    """Hand `display(figure, metadata={"alt": ...})` on to the image, where MyST-NB looks for it: in the cell."""
    for cell in notebook["cells"]:
        found = [output.get("metadata", {}).get("alt") for output in cell.get("outputs", [])]
        if any(found):
            options = cell["metadata"].setdefault("mystnb", {}).setdefault("image", {})
            options.setdefault("alt", "; ".join(alt for alt in found if alt))
    return notebook


def with_banner(notebook: dict[str, Any], stale: str) -> dict[str, Any]:
    """A page that shows an older run says so itself, under its title."""
    banner = f"\n\n```{{warning}}\nThis page shows an earlier run; since then: {stale}.\n```\n"
    for cell in notebook["cells"] if stale else []:
        text = "".join(cell["source"])
        cell["source"] = re.sub(r"(?m)^# .+$", lambda title: title[0] + banner, text, count=1)
        if cell["source"] != text:
            break
    return notebook


def mathjax() -> Path:
    """The one file of MathJax that pages need, from an installed package: a page then asks no other host for it."""
    package, name = MATHJAX
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == name:
            return Path(str(file.locate()))
    raise FileNotFoundError(f"{name} of the package {package!r} is not installed; run: pip install -e '.[book]'")
