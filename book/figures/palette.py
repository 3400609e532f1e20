"""One look through the book: a name, a colour and a marker for each method."""

import re
import zlib
from collections.abc import Mapping

# Okabe and Ito's palette: told apart with any colour vision, and by the marker in print. A family shares its colour.
BLUE, RED, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PURPLE, BLACK, GREY = "#56B4E9", "#CC79A7", "#111111", "#7F7F7F"  # an SVG would leave #000000 out
WHITE = "#FEFEFE"  # on a coloured cell, in both themes
GROUND, INK, GRID = "#FFFFFF", "#262626", "#CCCCCC"  # page, text and lines of seaborn's white grid
# What takes their place in the dark theme; a colour that is not named stands out from both grounds.
DARK: Mapping[str, str] = {
    GROUND: "#121212",  # the page of the theme
    INK: "#E6E6E6",
    GRID: "#4D4D4D",
    BLACK: "#F2F2F2",
    "#000000": "#F2F2F2",  # of a line; text on a coloured cell has no colour of its own, and stays black
    BLUE: "#3D97D9",
    SKY: "#A5DAF5",
    GREY: "#9A9A9A",
}
LOOK: Mapping[str, tuple[str, str, str]] = {
    "bn": ("BN", BLUE, "o"),
    "nf": ("NF", RED, "s"),
    "nf_agc": ("NF + AGC", GREEN, "^"),
    "bn_agc": ("BN + AGC", BLUE, "D"),
    "bn:live": ("BN, live", BLUE, "o"),
    "bn:frozen": ("BN, frozen", SKY, "D"),
    "bn_muon": ("BN, Muon", BLUE, "P"),
    "nf_rows": ("NF, steps by norm", ORANGE, "v"),
    "nf_muon": ("NF, Muon", PURPLE, "s"),
    "nf_muon_agc": ("NF + AGC, Muon", PURPLE, "^"),
    "nf_agc_published": ("NF + AGC, published start", GREEN, "v"),
    "gn": ("GN", ORANGE, "D"),
    "none": ("no norm", GREY, "<"),
    "half": ("(x + f) / √2", GREY, "v"),
    "skipinit": ("SkipInit", PURPLE, "P"),
    "skipinit_sqrt": ("SkipInit, 1/√d", PURPLE, "p"),
    "fixup": ("FixUp", BLACK, "X"),
    "rescale": ("RescaleNet", SKY, "h"),
    "bn_act_first": ("BN, act. first", SKY, "o"),
    "ghost_bn": ("ghost BN", BLUE, "s"),
    "sync_bn": ("sync BN", BLUE, "^"),
    "brn": ("batch renorm", BLUE, "D"),
    "adabn": ("AdaB2N", BLUE, "v"),
    "gn_ws": ("GN + WS", ORANGE, "s"),
    "ln": ("LN", ORANGE, "^"),
    "ln2d": ("LN per position", ORANGE, "v"),
    "in": ("IN", ORANGE, "P"),
    "frn": ("FRN + TLU", PURPLE, "o"),
    "evonorm_b0": ("EvoNorm-B0", PURPLE, "s"),
    "evonorm_s0": ("EvoNorm-S0", PURPLE, "^"),
    "bcn": ("BCN", SKY, "s"),
    "bcn_ws": ("BCN + WS", SKY, "^"),
    "pn": ("PowerNorm", SKY, "D"),
    "un": ("unified norm", SKY, "v"),
    "prepbn": ("PRepBN", SKY, "P"),
    "ibn_a": ("IBN-a", BLACK, "o"),
    "ibn_b": ("IBN-b", BLACK, "s"),
    "dyt": ("DyT", GREEN, "o"),
    "derf": ("Derf", GREEN, "s"),
    "gn_silu": ("GN, SiLU", ORANGE, "h"),
    "bn_elu": ("BN, ELU", BLUE, "P"),
    "vcl": ("VCL", GREY, "o"),
    "vcl_elu": ("VCL, ELU", GREY, "s"),
    "nf_no_gain": ("NF, no gain", ORANGE, "v"),
    "nf_no_ws": ("NF, no WS", BLACK, "D"),
    "nf_he": ("NF, He", SKY, "v"),
    "training mode": ("training mode", BLUE, "o"),
    "evaluation mode": ("evaluation mode", ORANGE, "s"),
    "rescale_formula": ("RescaleNet, formula", SKY, "p"),
}
# What follows the colon of a method in the records, and networks that no figure shows, in words.
VARIANTS: Mapping[str, str] = {"none": "plain", "randaugment": "RandAugment"}
NETWORKS: Mapping[str, str] = {
    "mobilenet_bn": "BN",
    "mobilenet_ws": "standardised everywhere",
    "mobilenet_ws_dense": "depth-wise filters plain",
    "mobilenet_aug": "BN, augmented",
}


def label(method: str) -> str:
    """A method's name in text and legends."""
    return look(method)[0]


def spelt(text: str) -> str:
    """A text with names of methods in place of those in the records; a variant, after a colon, follows in brackets.

    Examples
    --------
    >>> spelt("nf_agc minus bn: at least 1")
    'NF + AGC minus BN: at least 1'
    >>> spelt("failed to train, nf:randaugment: at least 0.6")
    'failed to train, NF (RandAugment): at least 0.6'
    """
    methods = sorted((method for method in [*LOOK, *NETWORKS] if method not in ("in", "half")), key=len, reverse=True)

    def words(found: re.Match[str]) -> str:
        name, variant = found[1], found[2]
        said = NETWORKS.get(name) or label(name)
        return f"{said} ({VARIANTS.get(variant, variant.replace('_', ' '))})" if variant else said

    return re.sub(rf"\b({'|'.join(methods)})\b(?::(\w+))?", words, text)


def look(method: str) -> tuple[str, str, str]:
    """Name, colour and marker of a method; one that `LOOK` does not know has its own name and colour everywhere."""
    if method in LOOK:
        return LOOK[method]
    place = zlib.crc32(method.encode())
    colours, markers = (BLUE, RED, GREEN, ORANGE, SKY, PURPLE, BLACK, GREY), "os^DvPX"
    return method.replace("_", " "), colours[place % len(colours)], markers[place // 8 % len(markers)]
