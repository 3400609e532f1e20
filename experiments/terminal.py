"""Printing that works on any terminal: narrow ones, pipes, and those that know only ASCII."""

import sys
from collections.abc import Sequence
from io import TextIOWrapper


def never_fail_to_print() -> None:
    """Make streams print "?" for a letter that the terminal does not know, in place of a UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as plain text in columns, two spaces apart; no cell is cut off.

    Examples
    --------
    >>> print(aligned([("config", "done"), ("sam", "12")]))
    config  done
    sam     12
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
