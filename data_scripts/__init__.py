"""Fetch, verify, convert and read the data sets of the book; `python -m data_scripts --help` is the command line."""

from .conversion import convert
from .sources import NAMES, SOURCES, data_root
from .store import read

__all__ = ["NAMES", "SOURCES", "convert", "data_root", "read"]
