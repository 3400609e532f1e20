"""The book on paper: one file, printed by a real browser, with the words of every chapter and nothing cut off."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from fixture_book import PROFILES, REPO, make_book

from book.tool.build import Request, run
from book.tool.layout import Book, UsageError
from book.tool.pdf import BROWSERS, MARK, offer, print_book


def offered(book: Book) -> list[Path]:
    """The PDFs that the first page links to."""
    text = (book.html / "intro.html").read_text(encoding="utf-8")
    return [book.html / link for link in re.findall(r'href="([^":]*\.pdf)"', text)]


def test_nothing_rendered_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="make book"):
        print_book(make_book(tmp_path))


@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no browser to print with")
def test_the_book_is_printed_and_links_to_no_file_of_this_machine(tmp_path: Path) -> None:
    book = make_book(tmp_path)
    intro = book.source / "intro.md"
    intro.write_text(intro.read_text() + "\nIts {download}`source </nfnets_lite/core.py>`.\n")
    assert run(book, Request(), PROFILES) == 0
    made = print_book(book).read_bytes()
    assert made.startswith(b"%PDF")
    assert len(made) > 10_000
    assert b"file:" not in made


def test_a_site_offers_the_pdf_of_itself_or_none(tmp_path: Path) -> None:
    book = make_book(tmp_path)
    book.out.mkdir()
    book.pdf.write_bytes(b"%PDF")
    assert run(book, Request(), PROFILES) == 0
    assert offered(book) == []  # of which build that file is, nobody knows
    for _ in range(2):  # a second `make pdf` adds no second link
        offer(book)
        assert [path.read_bytes() for path in offered(book)] == [b"%PDF"]
    assert run(book, Request(), PROFILES) == 0  # renders nothing anew
    assert offered(book) == [book.html / "nfnets-lite.pdf"]
    intro = book.source / "intro.md"
    intro.write_text(intro.read_text() + "\nAnother word.\n")
    assert run(book, Request(), PROFILES) == 0
    assert offered(book) == []
    assert not list(book.html.rglob("*.pdf"))


def test_the_first_page_has_a_place_for_the_link() -> None:
    assert (REPO / "book" / "intro.md").read_text().count(f"\n{MARK}\n") == 1
