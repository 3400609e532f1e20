"""Render executed notebooks and plain pages to book/_build/html, by way of one folder of sources for Jupyter Book."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from book.front import answer, explorers, from_records, headline, themes
from book.tool import reading, status
from book.tool.dress import REPOSITORY, dressed, given, records_shown
from book.tool.layout import Book, Page, docnames, reduce_toc
from book.tool.stamps import code_files, digest, digest_files

MATHJAX = ("sphinx-mathjax-offline", "tex-svg-full.js")


def renderable(book: Book, pages: list[Page], profile: str) -> list[Page]:
    """The plain pages, and the chapters that were executed at this profile."""
    return [page for page in pages if not page.is_chapter or book.executed(page, profile).is_file()]


def render(book: Book, pages: list[Page], profile: str, stale: dict[str, str]) -> tuple[bool, str]:
    """Render the pages; return whether it worked, and a message. If rendering fails, the old HTML stays."""
    kept = renderable(book, pages, profile)
    source = stage(book, kept, profile, stale)
    # Pages may link to pages that are left out, so warnings are errors only for the whole book.
    strict = len(kept) == len(pages)
    versions = [importlib.metadata.version(name) for name in ("jupyter-book", "sphinx", "sphinx-book-theme")]
    stamp = digest(json.dumps([strict, versions, digest_files(source, (p for p in source.rglob("*") if p.is_file()))]))
    mark = book.out / "html.stamp"
    if (book.html / "index.html").is_file() and mark.is_file() and mark.read_text() == stamp:
        return True, "unchanged"
    mark.unlink(missing_ok=True)
    work = book.out / "render"
    shutil.rmtree(work, ignore_errors=True)  # Sphinx warns only about pages that it reads, so it must read them all
    log = jupyter_book(source, work, ["-W", "--keep-going"] if strict else [])
    if log.returncode:
        return False, log.stdout
    shutil.rmtree(book.html, ignore_errors=True)
    (work / "_build" / "html").rename(book.html)
    mark.write_text(stamp)
    return True, f"{len(kept)} pages" + ("" if strict else f"; {len(pages) - len(kept)} left out, not executed yet")


def jupyter_book(source: Path, work: Path, flags: list[str]) -> subprocess.CompletedProcess[str]:
    """Run Jupyter Book on a folder of sources, in a process of its own."""
    program = "from jupyter_book.cli.main import main; main()"
    arguments = ["build", str(source), "--path-output", str(work), "--quiet", "-n", *flags]
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def stage(book: Book, pages: list[Page], profile: str, stale: dict[str, str]) -> Path:
    """Make a new folder with the sources of the rendering; `stale` has the reason for each stale docname."""
    source = book.out / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    for name in ("_config.yml", "references.bib"):
        shutil.copyfile(book.source / name, source / name)
    for name in ("assets", "_ext"):
        shutil.copytree(book.source / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(mathjax(), source / "assets" / "mathjax" / MATHJAX[1])
    (source / "assets" / "colours.css").write_text(themes.style_sheet(), encoding="utf-8")
    # So that a page can show the project's own lines: literalinclude /nfnets_lite/...
    for path in (*code_files(book), *(book.root / "examples").glob("*.py")):
        copy = source / path.relative_to(book.source if path.is_relative_to(book.source) else book.root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    names = {page.docname for page in pages}
    toc = book.toc()
    if set(docnames(toc)) != names:
        toc = reduce_toc(toc, names.__contains__)
    (source / "_toc.yml").write_text(yaml.safe_dump(toc, sort_keys=False), encoding="utf-8")
    rows = []
    for page in pages:
        copy = source / f"{page.docname}{'.ipynb' if page.is_chapter else '.md'}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        if page.is_chapter:
            notebook = json.loads(book.executed(page, profile).read_text(encoding="utf-8"))
            results = book.root / (given(notebook, "results_dir") or "")
            shown = [path for name in records_shown(notebook) if (path := results / f"{name}.jsonl").is_file()]
            for path in shown:
                (source / "records").mkdir(exist_ok=True)
                shutil.copyfile(path, source / "records" / path.name)
            rows.append(status.row(book, page, profile, stale.get(page.docname, ""), shown))
            copy.write_text(json.dumps(dressed(notebook, stale.get(page.docname, ""))), encoding="utf-8")
        else:
            shutil.copyfile(page.path, copy)
    _fill_in(source / "status.md", "<!-- chapters -->", status.table(rows))
    _fill_in(source / "intro.md", "<!-- recorded -->", status.scales(book.root / "experiments" / "results"))
    first, texts = source / "intro.md", {page.docname: page.path for page in pages}
    if first.is_file():
        text = first.read_text(encoding="utf-8")
        first.write_text(reading.fill(text, lambda name: texts[name].read_text("utf-8") if name in texts else ""))
    if first.is_file() and "<!-- answer -->" in first.read_text(encoding="utf-8"):
        verdicts = answer.committed()
        _fill_in(first, "<!-- answer -->", answer.answer(verdicts, answer.in_book))
        best = headline.best_profile()
        study = headline.study_at(best)
        said = from_records.sentences(study, best)
        _fill_in(first, "<!-- situations -->", answer.situations(verdicts, answer.in_book, said))
        _fill_in(first, "<!-- headline -->", headline.in_book(study, best))
    if "explorer" in names:
        for name, drawing in explorers.write(source / "assets", source / "records", REPOSITORY).items():
            _fill_in(source / "explorer.md", f"<!-- {name} -->", drawing)
    return source


def _fill_in(page: Path, mark: str, text: str) -> None:
    """Replace a mark of a page by a text; a book may lack the page."""
    if page.is_file():
        page.write_text(page.read_text(encoding="utf-8").replace(mark, text), encoding="utf-8")


def mathjax() -> Path:
    """The file of MathJax that pages need, from an installed package, so that pages load it from no other host."""
    package, name = MATHJAX
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == name:
            return Path(str(file.locate()))
    raise FileNotFoundError(f"{name} of the package {package!r} is not installed; run: pip install -e '.[book]'")
