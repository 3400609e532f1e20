"""The whole book as one PDF: it is rendered as a single page, which Chromium prints. `make pdf`, after `make book`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import typer

from book.tool.build import ROOT
from book.tool.layout import Book, UsageError
from book.tool.render import jupyter_book
from experiments.terminal import never_fail_to_print

BROWSERS = ("chromium", "google-chrome", "chromium-browser", "chrome")
WAIT = 120_000  # milliseconds of the page's virtual time, for the formulas
MARK = "<!-- pdf -->"  # place of the link on the first page
app = typer.Typer(add_completion=False)


def print_book(book: Book) -> Path:
    """Print the sources that were rendered last; return the path of the PDF.

    Raises
    ------
    UsageError
        If nothing was rendered yet, or there is no browser to print with.
    RuntimeError
        If rendering or printing fails; the message holds the output of the program that failed.
    """
    source, work = book.out / "source", book.out / "single"
    if not (book.html / "index.html").is_file() or not (source / "_toc.yml").is_file():
        raise UsageError("nothing has been rendered yet; run `make book` first")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise UsageError(f"printing needs a browser, one of {', '.join(BROWSERS)}; install Chromium")
    shutil.rmtree(work, ignore_errors=True)
    log = jupyter_book(source, work, ["--builder", "singlehtml"])
    page = work / "_build" / "singlehtml" / "index.html"
    if log.returncode or not page.is_file():
        raise RuntimeError(f"rendering the book as one page failed:\n{log.stdout}")
    for file in page.parent.glob("*.html"):  # only the site has the files to download
        file.write_text(re.sub(r' href="_downloads/[^"]*"', "", file.read_text(encoding="utf-8")), encoding="utf-8")
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


def offer(book: Book) -> None:
    """Copy the PDF to the rendered site and link it on the first page.

    The next rendering starts from the sources, which have no link. So a site offers a PDF of itself, or none.
    """
    shutil.copyfile(book.pdf, book.html / book.pdf.name)
    page = book.html / f"{book.toc()['root']}.html"
    size = f"{book.pdf.stat().st_size / 1e6:.1f} MB"
    link = f'{MARK}<p>The whole book is also <a href="{book.pdf.name}">one PDF</a> ({size}).</p>'
    page.write_text(re.sub(f"{MARK}.*", link, page.read_text(encoding="utf-8")), encoding="utf-8")


@app.command()
def main() -> None:
    """Print the book that was built last as a PDF, and link the PDF on its first page."""
    book = Book(ROOT, ROOT / "book", ROOT / "book" / "_build")
    try:
        with book.alone():
            print(f"{print_book(book)}: {book.pdf.stat().st_size / 1e6:.1f} MB")
            offer(book)
    except (UsageError, RuntimeError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    never_fail_to_print()
    app()
