"""Fetch, verify, convert and read the data sets of the book; `python -m data_scripts --help` is the command line."""

from .conversion import convert
from .sources import DATA, NAMES, SOURCES
from .store import read

__all__ = ["DATA", "NAMES", "SOURCES", "convert", "read"]
