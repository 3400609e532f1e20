"""Drawings that explain an idea: SVG in the page's own text colour, light and dark, without a script."""

from collections.abc import Iterator, Sequence
from math import log2

from IPython.display import HTML, display

from book.figures.plots import BLUE, GREEN, GREY, RED

WIDTH = 420  # of a drawing, in its own units: a phone shows it at nearly full size


def show(drawing: str) -> None:
    """Show a drawing in a chapter."""
    display(HTML(f'<div class="picture">{drawing}</div>'))  # type: ignore[no-untyped-call]


def unit() -> str:
    """Which numbers of a weight make one unit of AGC: convolution, linear layer, transposed convolution, gain."""
    rows = (
        ("convolution", "(out, in, height, width)", "one filter: all numbers of one output channel", 4, 6, "row"),
        ("linear layer", "(out, in)", "one row: all weights of one output", 4, 6, "row"),
        ("transposed convolution", "(in, out, height, width)", "one output channel, now a column", 4, 6, "column"),
        ("gain or bias", "(channels,)", "the whole tensor is one unit", 1, 6, "all"),
    )
    return _svg(
        "The unit of adaptive gradient clipping in four kinds of tensor",
        "; ".join(f"{name} of shape {shape}: {said}" for name, shape, said, *_ in rows),
        470,
        _units(rows),
    )


def _units(rows: Sequence[tuple[str, str, str, int, int, str]]) -> Iterator[str]:
    top = 16
    for name, shape, said, height, width, which in rows:
        yield _text(10, top, f"{name}, shape {shape}", weight="bold")
        for i in range(height):
            for j in range(width):
                inside = {"row": i == 1, "column": j == 2, "all": True}[which]
                fill = f'fill="{GREEN}"' if inside else f'fill="{GREY}" fill-opacity="0.25"'
                yield f'<rect x="{12 + 22 * j}" y="{top + 10 + 18 * i}" width="20" height="16" rx="2" {fill}/>'
        yield from _wrapped(160, top + 26, said, 32)
        top += 44 + 18 * height


def blocks() -> str:
    """A residual block with batch norm beside the normalizer-free block, layer by layer."""
    pairs = (
        ("batch norm: statistics of the batch", "divide by beta, a constant of the analysis"),
        ("ReLU", "ReLU times its gain"),
        ("3x3 convolution", "3x3 convolution, standardised weights"),
        ("batch norm", ""),
        ("ReLU", "ReLU times its gain"),
        ("3x3 convolution", "3x3 convolution, standardised weights"),
        ("", "times skip gain and alpha"),
        ("add the input", "add the input"),
    )
    return _svg(
        "A residual block with batch norm, left, and without a norm, right",
        "; ".join(f"{left or 'nothing'} against {right or 'nothing'}" for left, right in pairs),
        36 + 50 * len(pairs),
        _blocks(pairs),
    )


def _blocks(pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    for side, (title, colour) in enumerate((("with batch norm", BLUE), ("normalizer-free", RED))):
        x = 5 + 210 * side
        yield _text(x, 16, title, weight="bold")
        yield f'<path d="M{x + 100} 26 V{36 + 50 * len(pairs) - 14}" stroke="currentColor" fill="none"/>'
        for i, pair in enumerate(pairs):
            if pair[side]:
                other = pair[0] != pair[1]
                ink = f'stroke="{colour}" stroke-width="2.5"' if other else 'stroke="currentColor"'
                y = 34 + 50 * i
                yield f'<rect class="paper" x="{x}" y="{y}" width="200" height="38" rx="6" {ink}/>'
                lines = list(_lines(pair[side], 27))
                for k, line in enumerate(lines):
                    yield _text(x + 100, y + 24 - 8 * (len(lines) - 1) + 16 * k, line, anchor="middle")


def growth(depth: int = 10, alpha: float = 0.2) -> str:
    """Second moment of the signal after each block, one by one: no norm, batch norm, normalizer-free.

    Without a norm the second moment doubles at each block. With batch norm on the branch it grows by 1, and in an NF
    network by the square of `alpha`.
    """
    series = (
        ("no norm: doubles", GREY, [2.0**block for block in range(depth + 1)]),
        ("batch norm: grows by 1", BLUE, [1.0 + block for block in range(depth + 1)]),
        (f"NF: grows by {alpha:g}²", RED, [1.0 + alpha**2 * block for block in range(depth + 1)]),
    )
    said = "; ".join(f"{name}, {values[-1]:.4g} after block {depth}" for name, _, values in series)
    return _svg("Second moment of the signal after each block", said, 390, _growth(series, depth))


def _growth(series: Sequence[tuple[str, str, Sequence[float]]], depth: int) -> Iterator[str]:
    base, high, step = 340, 230, (WIDTH - 60) / (depth + 1)
    for power in range(0, depth + 1, 2):
        y = base - high * power / depth
        yield f'<path d="M40 {y:.1f} H{WIDTH - 10}" stroke="currentColor" stroke-opacity="0.2"/>'
        yield _text(34, y + 5, f"{2**power}", anchor="end")
    for block in range(depth + 1):
        x = 52 + step * block
        if block % 2 == 0:
            yield _text(x, base + 20, f"{block}", anchor="middle")
        # Each block appears in its turn, over and over; where motion is not wanted, all of them stand still.
        yield f'<g class="step" style="--turn: {block}">'
        for place, (_, colour, values) in enumerate(series):
            y = base - high * log2(values[block]) / depth
            yield f'<circle cx="{x + 7 * (place - 1):.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>'
        yield "</g>"
    yield _text(WIDTH / 2, base + 40, "block", anchor="middle")
    yield _text(8, 16, "second moment q (doubling scale)")
    for place, (name, colour, _) in enumerate(series):
        yield f'<circle cx="60" cy="{36 + 18 * place}" r="5" fill="{colour}"/>'
        yield _text(72, 41 + 18 * place, name)


def _svg(title: str, described: str, height: float, inside: Iterator[str]) -> str:
    name = "".join(c for c in title.lower() if c.isalpha())
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-labelledby="{name}-t {name}-d" font-size="13" '
        f'fill="currentColor"><title id="{name}-t">{title}</title><desc id="{name}-d">{described}</desc>'
        f"{''.join(inside)}</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-weight="{weight}">{text}</text>'


def _wrapped(x: float, y: float, text: str, width: int) -> Iterator[str]:
    yield from (_text(x, y + 17 * i, line) for i, line in enumerate(_lines(text, width)))


def _lines(text: str, width: int) -> Iterator[str]:
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            yield line
            line = word
        else:
            line = f"{line} {word}".strip()
    if line:
        yield line
