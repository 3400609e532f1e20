"""Drawings are whole, say in words what they show, and stand where their formulas put them."""

from math import log2
from xml.etree import ElementTree

import pytest

from book.figures import pictures


@pytest.mark.parametrize("drawing", [pictures.unit(), pictures.blocks(), pictures.growth()])
def test_a_drawing_has_a_text_alternative_and_stays_in_its_frame(drawing: str) -> None:
    root = ElementTree.fromstring(drawing)
    names = {part.get("id"): part.text for part in root if part.tag in ("title", "desc")}
    assert set(str(root.get("aria-labelledby")).split()) == set(names)
    assert all(names.values())
    width, height = map(float, str(root.get("viewBox")).split()[2:])
    for part in root.iter():
        assert 0 <= float(part.get("x") or part.get("cx") or 0) <= width
        assert 0 <= float(part.get("y") or part.get("cy") or 0) <= height
    assert "#222" not in drawing
    assert 'fill="black"' not in drawing


def test_growth_follows_the_three_formulas() -> None:
    depth = 10
    groups = [part for part in ElementTree.fromstring(pictures.growth(depth, alpha=0.5)) if part.get("class") == "step"]
    heights = [[float(str(circle.get("cy"))) for circle in group] for group in groups]
    doubling = heights[0][0] - heights[1][0]  # one doubling of the variance
    for block, (none, bn, nf) in enumerate(heights):
        start = heights[0][0]
        assert (start - none) / doubling == pytest.approx(block, abs=0.01)
        assert (start - bn) / doubling == pytest.approx(log2(1 + block), abs=0.01)
        assert (start - nf) / doubling == pytest.approx(log2(1 + 0.25 * block), abs=0.01)
