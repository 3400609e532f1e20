"""Timing of several sides in turns within one process, so that other load on the machine slows all of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import torch

from experiments.bench.report import Spread, spread

Work = Callable[[], object]
Seconds = dict[str, list[float]]


class Unequal(RuntimeError):
    """Raised if two sides give different results, so that comparing their times would mean nothing."""


def wait(device: torch.device) -> None:
    """Wait until the device has finished all of its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Work, device: torch.device) -> float:
    """Seconds of one call, with the device's work."""
    wait(device)
    clock = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - clock


def in_turns(
    sides: Mapping[str, Work], device: torch.device, repeats: int, *, before: Work | None = None, warm: int = 1
) -> Seconds:
    """Seconds of every side at every repeat.

    Parameters
    ----------
    sides : mapping of str to function
    repeats : int
        Calls of each side that count. Each repeat begins with another side, so that none always follows the same side.
    before : function, optional
        Called before every call and not timed, to undo what a call changes.
    warm : int
        First calls of each side, which do not count.
    """
    found: Seconds = {name: [] for name in sides}
    names = list(sides)
    for repeat in range(-warm, repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            if before is not None:
                before()
            spent = seconds(sides[name], device)
            if repeat >= 0:
                found[name].append(spent)
    return found


def ratio(over: Sequence[float], under: Sequence[float], factor: float = 1.0) -> Spread:
    """Median and interval of the ratios of all repeats, times a factor."""
    return spread([factor * a / b for a, b in zip(over, under)])


def ms(values: Sequence[float]) -> float:
    """Median in milliseconds."""
    return 1000 * median(values)
