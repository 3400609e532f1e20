"""A training step as a CUDA graph, or the eager step if the graph fails or computes something else."""

import warnings
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

# Additions in another order change an update a little; a wrong step differs from the right one by about its own size.
TOLERANCE = 0.1
_refused: list[str] = []  # why this process captures no more steps


class Replayed(Protocol):
    """A captured step."""

    def replay(self) -> None:
        """Execute the captured step once."""


def capture(step: Callable[[], None]) -> Replayed:
    """Capture a step as a CUDA graph; capturing does not execute it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        step()
    return graph


def refused() -> str:
    """Reason why this process captures no more steps; empty if it still captures."""
    return _refused[0] if _refused else ""


def tried(step: Callable[[], None], state: Sequence[Tensor], compared: int) -> Replayed | None:
    """Execute one step, eagerly and as a graph from the same state; return the graph if both agree, else None.

    If they do not agree, or the capture raises, the state is the one after the eager step, a warning says why, and this
    process captures no further step. If memory ran out, later steps are still tried.

    Parameters
    ----------
    step : callable
        The step, which changes `state` in place.
    state : sequence of Tensor
        All tensors that a step changes: weights, buffers, momentum, sums.
    compared : int
        Number of tensors that must agree, from the first on: the weights. 0 if the network draws random numbers.
    """
    before = _copies(state)
    step()
    after = _copies(state)
    _put(state, before)
    full = False
    try:
        graph = capture(step)
        _put(state, before)
        graph.replay()
        eager = after[:compared]
        apart = _distance(state[:compared], eager) / (_distance(eager, before[:compared]) or 1.0)
        if apart <= TOLERANCE:
            return graph
        reason = f"the captured update differs from the eager one by {100 * apart:.3g} %"
    except Exception as error:  # of a driver, a library, an operation that cannot be captured
        reason = f"{type(error).__name__}: {error}"
        full = isinstance(error, torch.OutOfMemoryError)
    _put(state, after)
    if not full:  # a later run may have the memory
        _refused.append(reason)
    warnings.warn(f"steps are not captured as CUDA graphs, and run eagerly: {reason}", stacklevel=2)
    return None


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def _put(state: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(state, values, strict=True):
        tensor.copy_(value)


def _distance(some: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """Norm of the difference over all tensors; infinite if it is NaN."""
    squares = sum(float((a.detach() - b).double().square().sum()) for a, b in zip(some, others, strict=True))
    return squares**0.5 if squares == squares else float("inf")
