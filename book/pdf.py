"""The whole book as one PDF: rendered as a single page, which Chromium prints. `make pdf`, after `make book`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from book.build import ROOT, load_profiles, plan
from book.build import Request as Asked
from book.layout import Book, UsageError
from book.render import jupyter_book, render

BROWSERS = ("chromium", "google-chrome", "chromium-browser", "chrome")
WAIT = 120_000  # milliseconds of the page's own time, for the formulas
app = typer.Typer(add_completion=False)


def print_book(book: Book) -> Path:
    """Print the sources that were rendered last; returns the file.

    Raises
    ------
    UsageError
        If nothing was rendered yet, or there is no browser to print with.
    RuntimeError
        If the rendering or the printing fails, with what was said.
    """
    source, work = book.out / "source", book.out / "single"
    if not (source / "_toc.yml").is_file():
        raise UsageError("nothing has been rendered yet; run `make book` first")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise UsageError(f"printing needs a browser, one of {', '.join(BROWSERS)}; install Chromium")
    shutil.rmtree(work, ignore_errors=True)
    log = jupyter_book(source, work, ["--builder", "singlehtml"])
    page = work / "_build" / "singlehtml" / "index.html"
    if log.returncode or not page.is_file():
        raise RuntimeError(f"rendering the book as one page failed:\n{log.stdout}")
    made = book.pdf.with_suffix(".new")
    flags = ["--headless", "--disable-gpu", "--no-pdf-header-footer", f"--virtual-time-budget={WAIT}"]
    flags += ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's sandbox refuses root
    said = subprocess.run(
        [browser, *flags, f"--print-to-pdf={made}", page.as_uri()],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if said.returncode or not made.is_file():
        raise RuntimeError(f"{browser} did not print:\n{said.stdout}")
    made.replace(book.pdf)
    return book.pdf


@app.command()
def main(profile: Annotated[str, typer.Option(help="The profile of the book that was built.")] = "smoke") -> None:
    """Print the book that was built last, and render it again with a link to the PDF."""
    book = Book(ROOT, ROOT / "book", ROOT / "book" / "_build")
    try:
        print(f"{print_book(book)}: {book.pdf.stat().st_size / 1e6:.1f} MB")
        pages, jobs = plan(book, Asked(profile=profile), load_profiles())
    except (UsageError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    good, message = render(book, pages, profile, {job.page.docname: job.stale for job in jobs if job.stale})
    print(message if good else f"error: rendering failed\n{message}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    app()
