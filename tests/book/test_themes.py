"""Figures for both themes: one drawing, whose colours stand out from either ground."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import matplotlib.pyplot as plt
import pytest

from book.figures import plots
from book.figures.palette import BLACK, DARK, GREY, GROUND, INK, LOOK
from book.front import themes
from experiments.records import estimate


def contrast(one: str, other: str) -> float:
    """WCAG's ratio, 1 to 21."""
    shares = []
    for colour in (one, other):
        linear = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in linear]
        shares.append(sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear)))
    return (max(shares) + 0.05) / (min(shares) + 0.05)


@pytest.mark.parametrize("colour", sorted({colour for _, colour, _ in LOOK.values()} | {INK, BLACK, GREY}))
def test_every_colour_of_the_table_can_be_read_on_the_dark_ground(colour: str) -> None:
    assert contrast(DARK.get(colour, colour), DARK[GROUND]) >= 4.5


def test_methods_that_differ_by_colour_differ_in_the_dark() -> None:
    colours = {colour for _, colour, _ in LOOK.values()}
    assert len({DARK.get(colour, colour) for colour in colours}) == len(colours)


@pytest.fixture(scope="module")
def drawing() -> str:
    with plt.rc_context({"xtick.labelsize": 8}):
        fig = plots.by_batch_size({("bn", 8): estimate([50.0, 51.0]), ("fixup", 8): estimate([40.0, 41.0])})
        return plots.svg(fig)


def test_a_figure_in_the_text_names_its_colours_once(drawing: str) -> None:
    page = themes.inline(drawing, 'of "two" & more', "one")
    figure = ET.fromstring(page)[0]
    assert figure.attrib["role"] == "img"
    assert figure.attrib["aria-label"] == 'of "two" & more'
    bare = re.findall(r"(?:fill|stroke): (#\w{6})", page)
    assert not {colour.upper() for colour in bare} & set(DARK)
    assert "var(--c0072b2, #0072b2)" in page
    assert "fill: var(--c111111" in page  # a black marker is filled, too
    names = {light[1:].lower() for light in DARK}
    assert set(re.findall(r"var\(--c(\w{6})", page)) <= names
    assert set(re.findall(r"--c(\w{6}): #", themes.style_sheet())) == names


def test_two_figures_of_a_page_share_no_id(drawing: str) -> None:
    one, two = (themes.inline(drawing, "a", name) for name in ("one", "two"))
    ids, others = (set(re.findall(r' id="([^"]+)"', page)) for page in (one, two))
    assert ids
    assert not ids & others
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', one)) == ids


def test_labels_are_never_shown_smaller_than_a_phone_can_show(drawing: str) -> None:
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', drawing)[1])  # type: ignore[index]
    assert themes.least_width(drawing) == pytest.approx(width * 9 / 8)
    assert themes.least_width("<svg viewBox='0 0 1 1'/>") == 0
