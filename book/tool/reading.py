"""Minutes that a reader needs for a page, from its words and its visible lines of code."""

import re
from collections.abc import Callable
from math import ceil

WORDS, LINES = 120, 15  # read in a minute: words of prose with formulas, and lines of code
MARK = "<!-- minutes -->"
_FENCE = re.compile(r"^(`{3,})([^\n]*)\n(.*?)^\1\s*$", re.M | re.S)
_PAGE = re.compile(r"\{doc\}`(?:[^`<]*<)?([\w/]+)>?`")


def minutes(text: str) -> float:
    """Minutes for the source of a page, without folded cells and without what the build adds.

    Examples
    --------
    >>> minutes("word " * 240)
    2.0
    """
    text = text.split("\n---\n", 1)[-1] if text.startswith("---\n") else text
    code = 0
    for _, head, body in _FENCE.findall(text):
        if head.startswith("{code-cell}"):
            code += 0 if re.search(r":tags:.*(hide|remove|parameters)", body) else len(body.splitlines())
    prose = _FENCE.sub(lambda fence: fence[3] if "admonition" in fence[2] else "", text)
    return len(prose.split()) / WORDS + code / LINES


def fill(page: str, source: Callable[[str], str]) -> str:
    """Replace each `MARK` in a table's row by the minutes for the pages that the row links, in steps of five.

    `source` returns the text of a page by its name.
    """
    rows = page.splitlines(keepends=True)
    for number, row in enumerate(rows):
        if MARK in row:
            whole = sum(minutes(source(name)) for name in _PAGE.findall(row))
            rows[number] = row.replace(MARK, f"about {5 * ceil(whole / 5)}")
    return "".join(rows)
