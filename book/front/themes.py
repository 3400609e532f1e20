"""Figures for both themes: an SVG in the text of its page, whose colours the page's style sheet can change."""

import re
from html import escape

from book.figures.palette import DARK

SMALLEST = 9.0  # pixels: no label is shown smaller, a figure scrolls sideways before that
_COLOUR = re.compile(r'(fill|stroke)(: ?|=")(#[0-9a-fA-F]{6})')
_PATCH = re.compile(r'(<g id="patch_\d+">\s*<path [^>]*style="fill: )#ffffff')
_FONT = re.compile(r"scale\((0\.\d+) -")  # of a label, in hundredths of its size
_WIDTH = re.compile(r'viewBox="0 0 ([\d.]+)')


def themed(colour: str) -> str:
    """A colour as CSS: the one of the theme on a page with `style_sheet`, and itself everywhere else.

    Examples
    --------
    >>> themed("#0072B2")
    'var(--c0072b2, #0072B2)'
    >>> themed("#D55E00")  # stands out from both grounds
    '#D55E00'
    """
    return f"var(--c{colour[1:].lower()}, {colour})" if colour.upper() in DARK else colour


def style_sheet() -> str:
    """The colours of the dark theme; paper stays light."""
    lines = "".join(f"    --c{light[1:].lower()}: {dark};\n" for light, dark in DARK.items())
    return f'@media screen {{\n  html[data-theme="dark"] {{\n{lines}  }}\n}}\n'


def inline(svg: str, alt: str, name: str) -> str:
    """HTML of a figure that follows the theme of its page.

    Parameters
    ----------
    svg : str
        As matplotlib writes it.
    alt : str
        The text alternative.
    name : str
        Differs between the figures of a page: two elements of a page cannot share an `id`.
    """
    drawing = svg[svg.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", drawing, flags=re.S)
    drawing = _PATCH.sub(r"\1none", drawing)  # the page shows through, with the shadow of what scrolls
    drawing = _COLOUR.sub(lambda found: found[1] + found[2] + themed(found[3]), drawing)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', drawing))
    drawing = re.sub(r' id="([^"]+)"', lambda i: f' id="{name}-{i[1]}"' if i[1] in used else "", drawing)
    drawing = re.sub(r'((?:href="|url\()#)', rf"\1{name}-", drawing)
    head, rest = drawing.split(">", 1)
    head = re.sub(r' (?:height|role|aria-label|style)="[^"]*"', "", head)
    head += f' role="img" aria-label="{escape(alt)}" style="min-width: {least_width(drawing):.0f}px"'
    return f'<div class="figure">{head}>{rest.strip()}</div>'


def least_width(svg: str) -> float:
    """Pixels of width from which the smallest label of a drawing is `SMALLEST` pixels high; 0 without labels."""
    width, sizes = _WIDTH.search(svg), [100 * float(scale) for scale in _FONT.findall(svg)]
    return SMALLEST * float(width[1]) / min(sizes) if width and sizes else 0.0
