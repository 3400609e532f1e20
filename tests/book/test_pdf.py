"""The book on paper: one file, printed by a real browser, with the words of every chapter and nothing cut off."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fixture_book import PROFILES, make_book

from book.build import Request, run
from book.layout import UsageError
from book.pdf import BROWSERS, print_book


def test_nothing_rendered_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="make book"):
        print_book(make_book(tmp_path))


@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no browser to print with")
def test_the_book_is_printed_and_offered(tmp_path: Path) -> None:
    book = make_book(tmp_path)
    assert run(book, Request(), PROFILES) == 0
    made = print_book(book)
    assert made.read_bytes().startswith(b"%PDF")
    assert made.stat().st_size > 10_000
    intro = book.source / "intro.md"
    intro.write_text(intro.read_text() + "\n<!-- pdf -->\n")
    assert run(book, Request(), PROFILES) == 0
    assert list(book.html.rglob("*.pdf"))
