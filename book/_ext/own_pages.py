"""Sphinx extension: pages that load nothing from other hosts, links to the text's source, and accessible names.

Jupyter Book always loads sphinx-thebe, whose script comes from another host, and has no option to leave it out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx


def _is_thebe(script: Any) -> bool:
    attributes = getattr(script, "attributes", {})
    return "thebe" in f"{getattr(script, 'filename', script)} {attributes.get('body', '')}"


def drop_thebe(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Remove thebe's scripts and style from the head of a page, and its settings from the text."""
    for key in ("script_files", "css_files"):
        context[key] = [item for item in context.get(key, []) if not _is_thebe(item)]
    if "body" in context and doctree is not None:
        # sphinx-thebe adds a settings block and a variable to the text, which only its script uses.
        for node in list(doctree.findall(lambda n: n.tagname == "raw")):
            if "x-thebe-config" in node.astext() or node.astext().startswith("<script>kernelName"):
                context["body"] = context["body"].replace(node.astext(), "")


def _leaf_buttons(buttons: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for button in buttons:
        yield from _leaf_buttons(button["buttons"]) if "buttons" in button else [button]


def link_to_text(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Let a chapter's source buttons lead to its .md, which can be edited, and not to the executed .ipynb."""
    for button in _leaf_buttons(context.get("header_buttons", [])):
        if button["label"] in ("source-edit-button", "source-file-button"):
            button["url"] = button["url"].replace(".ipynb", ".md")


def open_in_colab(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Add a Colab button to every chapter; the release workflow keeps executed notebooks on a branch for it."""
    buttons = context.get("header_buttons")
    if buttons is None or not str(app.env.doc2path(pagename, base=False)).endswith(".ipynb"):
        return
    place = app.config.html_theme_options["repository_url"].removeprefix("https://github.com/")
    buttons.insert(
        0,
        {
            "type": "link",
            "url": f"https://colab.research.google.com/github/{place}/blob/notebooks/{pagename}.ipynb",
            "icon": "fas fa-play",
            "tooltip": "Open in Colab",
            "label": "colab-button",
        },
    )


# Parts of the theme's HTML that confuse screen readers: names that differ from the visible words, and a list without
# list items.
UNSPEAKABLE = (
    (re.compile(r'(<button class="btn search-button-field[^>]*?) aria-label="Search"'), r"\1"),
    (re.compile(r'(<i class="theme-switch [^>]*?) +title="[^"]*"'), r'\1 aria-hidden="true"'),
    (re.compile(r'<summary aria-label="Toggle hidden content">'), "<summary>"),
    (re.compile(r'<div role="list" class="citation-list">'), '<div class="citation-list">'),
)


def make_speakable(app: Sphinx, exception: Exception | None) -> None:
    """Correct the HTML of all pages for screen readers, after the build."""
    for path in Path(app.outdir).rglob("*.html") if exception is None else []:
        text = before = path.read_text(encoding="utf-8")
        for pattern, better in UNSPEAKABLE:
            text = pattern.sub(better, text)
        if text != before:
            path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the handlers, to run after the theme's own."""
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("html-page-context", link_to_text, priority=900)
    app.connect("html-page-context", open_in_colab, priority=900)
    app.connect("build-finished", make_speakable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
