"""The places of the book's files, and the pages of its table of contents."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

try:
    import fcntl
except ImportError:  # not on Windows, where two builds of one folder are not guarded against each other
    fcntl = None  # type: ignore[assignment]


class UsageError(ValueError):
    """The command cannot be carried out with these arguments (exit 2)."""


class ChapterError(RuntimeError):
    """One chapter did not run to its end; the others go on (exit 1)."""


class BuildRuns(RuntimeError):
    """Another process builds into the same folder (exit 2)."""


@dataclass(frozen=True)
class Page:
    """One entry of the table of contents."""

    docname: str  # as `_toc.yml` names it, such as chapters/running
    path: Path
    is_chapter: bool  # a notebook, which is executed; another page is only rendered
    waits: bool = False  # executed after all chapters that do not wait, because it reads their records

    @property
    def name(self) -> str:
        return self.docname.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Job:
    """One chapter at one profile, with everything on which its result depends."""

    page: Page
    profile: str
    parameters: dict[str, Any]
    parts: dict[str, str]  # hash by component, see stamps.py
    stale: str  # why the chapter has to run; empty if it need not

    @property
    def key(self) -> str:
        return f"{self.profile}/{self.page.name}"


@dataclass(frozen=True)
class Book:
    """The three folders of a book, and the places in them."""

    root: Path  # the repository: every chapter runs with this as its working directory
    source: Path  # _config.yml, _toc.yml, chapters/
    out: Path  # everything that is made

    @property
    def html(self) -> Path:
        return self.out / "html"

    @property
    def pdf(self) -> Path:
        return self.out / "nfnets-lite.pdf"

    def executed(self, page: Page, profile: str) -> Path:
        return self.out / "executed" / profile / f"{page.docname}.ipynb"

    def partial(self, page: Page, profile: str) -> Path:
        """The notebook of a failed chapter; it is kept beside the last good one and does not replace it."""
        return self.out / "executed" / profile / f"{page.docname}.failed.ipynb"

    def staging(self, page: Page, profile: str) -> Path:
        return self.out / "staging" / profile / f"{page.docname}.ipynb"

    def results_dir(self, profile: str, rerun: bool) -> str:
        """Folder of the records, relative to the root if possible, so that no page shows a path of one machine."""
        path = self.out / "results" / profile if rerun else self.root / "experiments" / "results" / profile
        return (path.relative_to(self.root) if path.is_relative_to(self.root) else path).as_posix()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other builds out of `out` while the block runs; raise a BuildRuns if one is running.

        The system releases the lock when the process ends, however it ends.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        with (self.out / ".lock").open("a+", encoding="utf-8") as lock:
            if fcntl is not None:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    lock.seek(0)
                    by = lock.read().strip() or "unknown"
                    raise BuildRuns(
                        f"a build is running in {self.out} (process {by}); wait for its end, or pass --out with "
                        "another folder"
                    ) from None
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            yield

    def rows(self) -> dict[str, dict[str, Any]]:
        """The rows of status.json, by `profile/chapter`; `book.tool.build.execute_job` says what a row holds."""
        try:
            return dict(json.loads((self.out / "status.json").read_text(encoding="utf-8")))
        except (FileNotFoundError, json.JSONDecodeError):
            return {}

    def toc(self) -> dict[str, Any]:
        return dict(yaml.safe_load((self.source / "_toc.yml").read_text(encoding="utf-8")))

    def pages(self) -> list[Page]:
        return [self._page(docname) for docname in docnames(self.toc())]

    def _page(self, docname: str) -> Page:
        path = self.source / f"{docname}.md"
        if not path.is_file():
            raise UsageError(f"_toc.yml names {docname!r}, but {path} does not exist; write it, or remove its entry")
        head = front_matter(path)
        return Page(docname, path, "kernelspec" in head, bool(head.get("waits_for_others", False)))


def front_matter(path: Path) -> dict[str, Any]:
    """The YAML block between two `---` lines at the head of a text notebook or page."""
    head, *rest = path.read_text(encoding="utf-8").split("\n---", 1)
    found = yaml.safe_load(head.removeprefix("---")) if rest and head.startswith("---") else None
    return found if isinstance(found, dict) else {}


def docnames(node: Any) -> Iterator[str]:
    """Every page of a table of contents, in reading order."""
    if isinstance(node, dict):
        yield from (node[key].removesuffix(".md") for key in ("root", "file") if key in node)
        node = [node[key] for key in ("parts", "chapters", "sections", "subtrees", "entries") if key in node]
    if isinstance(node, list):
        for item in node:
            yield from docnames(item)


def reduce_toc(node: Any, keep: Callable[[str], bool]) -> Any:
    """The table of contents without the pages that `keep` refuses, and without the parts that this empties."""
    if isinstance(node, list):
        return [item for item in (reduce_toc(item, keep) for item in node) if item]
    if not isinstance(node, dict) or ("file" in node and not keep(node["file"].removesuffix(".md"))):
        return None if isinstance(node, dict) else node
    reduced = {key: reduce_toc(value, keep) if isinstance(value, list) else value for key, value in node.items()}
    reduced = {key: value for key, value in reduced.items() if value != []}
    emptied = "chapters" in node and "chapters" not in reduced and "root" not in node
    return None if emptied else reduced


def select(pages: list[Page], names: list[str]) -> list[Page]:
    """The chapters asked for (all of them when none is named), in the book's order."""
    chapters = [page for page in pages if page.is_chapter]
    unknown = [name for name in names if name not in {page.name for page in chapters}]
    if unknown:
        valid = ", ".join(page.name for page in chapters)
        raise UsageError(f"--chapter {unknown[0]!r} is not in _toc.yml; the chapters are: {valid}")
    return [page for page in chapters if not names or page.name in names]
