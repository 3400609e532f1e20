"""What else depends on batch statistics: a working demonstration for each entry of the chapter `atlas`."""

from importlib import import_module

from experiments.demos.atlas.shared import Demonstration

ENTRIES = (
    "outliers", "spd", "hyperbolic", "pyramid", "graphs", "certified", "distilled", "collapse", "pruned", "segmenter",
    "robust", "local_attention", "double_descent", "smoothness",
)  # fmt: skip


def demonstration(entry: str) -> Demonstration:
    """The demonstration of an entry: a function of seed, size and device that returns numbers by name."""
    if entry not in ENTRIES:
        raise ValueError(f"entry={entry!r} is not known; use one of {', '.join(ENTRIES)}")
    found: Demonstration = import_module(f"experiments.demos.atlas.{entry}").demonstrate
    return found
