"""Rate grid: does the result of `batch_size` at its largest batch depend on its grid of learning rates in steps of 4?

Question: With learning rates in steps of 2, how far are NF and NF+AGC from BN at the largest batch?
Paper: none; it checks claim NF-8, whose sweep is batch_size.
Command: python -m experiments run rate_grid --profile small
Cost: smoke 5 s on 2 cores; small 4 minutes on 2 cores; gpu 2 minutes and paper weeks, by a rule of thumb.
Expected: The methods are in the same order as with steps of 4, and the differences change by less than their intervals.

The cells are those of batch_size at its largest batch and at equal epochs, with its seeds and its range of learning
rates.
"""

from dataclasses import replace
from math import log2

from experiments.configs import batch_size
from experiments.sweep import Sweep
from experiments.tasks.training import Training

METHODS = ("bn", "nf", "nf_agc")


def sweep(profile: str) -> Sweep:
    """Three methods of batch_size at its largest batch, at learning rates in steps of 2."""
    whole = batch_size.sweep(profile)
    low, high = min(whole.rates), max(whole.rates)
    rates = tuple(low * 2**step for step in range(round(log2(high / low)) + 1))
    cells = [cell for cell in whole.cells if isinstance(cell, Training) and cell.method in METHODS]
    largest = max(cell.recipe.batch_size for cell in cells)
    kept = tuple(cell for cell in cells if cell.recipe.batch_size == largest)
    return replace(whole, name="rate_grid", cells=kept, rates=rates)
