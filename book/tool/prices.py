"""The cost of executing a chapter, from its front matter or its configs' docstrings, without importing them."""

from __future__ import annotations

import ast
import re

from book.tool.layout import Book, Job, front_matter


def price(book: Book, job: Job) -> str:
    """The cost that a chapter states, or else the cost of every config it trains; empty if it only reads records."""
    head = front_matter(job.page.path)
    stated = head.get("cost")
    if isinstance(stated, dict):
        stated = stated.get(job.profile)
    if stated or not job.parameters["rerun"]:
        return str(stated or "")
    return ", ".join(f"{name} {price_of_config(book, name, job.profile)}" for name in head.get("configs", []))


def price_of_config(book: Book, name: str, profile: str) -> str:
    """The cost at a profile, from a config's line `Cost: smoke 25 s on 2 cores; gpu and paper 1 minute, ...`."""
    source = (book.root / "experiments" / "configs" / f"{name}.py").read_text(encoding="utf-8")
    said = re.search(r"^Cost: (.*?)(?=^\w+:|\Z)", ast.get_docstring(ast.parse(source)) or "", re.MULTILINE | re.DOTALL)
    found = said and re.search(rf"\b{profile}(?: and \w+)? (.+?)(?= and \w+ |[,;.]| by |$)", said[1])
    return found[1] if found else "at a price its docstring does not say"
