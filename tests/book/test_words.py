"""The mechanical part of how this project writes: short sentences, none of the phrases that readers stumbled over."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

REPO = Path(__file__).resolve().parents[2]
LONGEST = 35  # words of a sentence
STUMBLES = (
    "less BN", "less GN", "less NF", "less without", "most settling", "what was given", "what is given",
    "the last so many", "all of a step's", "without a word", "survives the rate", "survives unclipped",
    "to the digit", "comes back", "and no more",
)  # fmt: skip
PAGES = sorted(
    path
    for pattern in ("*.md", "book/*.md", "book/chapters/*.md", "book/guides/*.md", "book/reference/*.md")
    for path in REPO.glob(pattern)
)
MODULES = sorted((REPO / "nfnets_lite").rglob("*.py"))


def prose(markdown: str) -> Iterator[str]:
    """Paragraphs and list items, without code, headings, tables and directives' options."""
    markdown = re.sub(r"\A---\n.*?\n---\n", "", markdown, flags=re.S)
    # What stands inside of an admonition is prose, and its fence is not.
    markdown = re.sub(
        r"^(```+|:::+)\{(admonition|tip|note|warning|grid|grid-item-card|exercise)[^`\n]*$", "", markdown, flags=re.M
    )
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    skipped = 0
    for token in tokens:
        skipped += token.type in ("table_open", "heading_open")
        skipped -= token.type in ("table_close", "heading_close")
        if token.type == "inline" and not skipped and not token.content.startswith("$$"):
            yield re.sub(r"\s+", " ", token.content)


def sentences(paragraph: str) -> list[str]:
    """Split where a sign that ends a sentence is followed by a space and a capital."""
    bare = re.sub(r"`[^`]*`|\$[^$]*\$|\{\w+\}|\]\([^)]*\)", " X ", paragraph)
    return re.split(r"(?<=[.!?])[*\")\]]*\s+(?=[A-Z*\"(\[])", bare)


def texts(docstring: str) -> Iterator[str]:
    """Paragraphs of a docstring, and the text of each field, without headings, formulas and examples."""
    for paragraph in re.split(r"\n\s*\n|\n-{3,}\n|\n\s*- |^(?=\S)[\w, *]+ : .*$", docstring, flags=re.M):
        if not re.match(r"\s*(>>>|\.\. math::)", paragraph):
            yield " ".join(re.sub(r":\w+:`[^`]*`|``[^`]*``", "X", paragraph).split())


def faults(paragraph: str) -> list[str]:
    """What is wrong with a paragraph."""
    found = [
        f"{len(words)} words: {sentence}"
        for sentence in sentences(paragraph)
        if len(words := re.findall(r"[A-Za-z][\w'-]*|\d[\d.,]*", sentence)) > LONGEST
    ]
    return found + [f"{phrase!r}: {paragraph}" for phrase in STUMBLES if phrase in paragraph]


@pytest.mark.parametrize("path", PAGES, ids=[str(path.relative_to(REPO)) for path in PAGES])
def test_pages(path: Path) -> None:
    assert [fault for paragraph in prose(path.read_text()) for fault in faults(paragraph)] == []


@pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(REPO)) for path in MODULES])
def test_docstrings(path: Path) -> None:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and not getattr(node, "name", "").startswith(
            "_"
        ):
            name = getattr(node, "name", path.stem)
            found += [f"{name}: {fault}" for text in texts(ast.get_docstring(node) or "") for fault in faults(text)]
    assert found == []


def test_it_finds_what_it_looks_for() -> None:
    long = "This sentence " + "goes on and on " * 9 + "until it ends."
    assert faults(long)
    assert faults("At batch 8: 3.3 points less BN.")
    assert not faults("Clipping lets NF train.")
