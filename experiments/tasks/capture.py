"""A training step as a CUDA graph, and the eager step wherever a graph fails or computes something else."""

import warnings
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

# Additions in another order change an update a little; a wrong step is off by as much as itself.
TOLERANCE = 0.1
_refused: list[str] = []  # why this process goes on eagerly


class Replayed(Protocol):
    """A captured step."""

    def replay(self) -> None:
        """Do the step once more."""


def capture(step: Callable[[], None]) -> Replayed:
    """Capture a step as a CUDA graph; capturing does not execute it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        step()
    return graph


def refused() -> str:
    """Why this process captures no more steps; empty: it does."""
    return _refused[0] if _refused else ""


def tried(step: Callable[[], None], state: Sequence[Tensor], compared: int) -> Replayed | None:
    """Do one step, eagerly and as a graph from the same state; return the graph if both agree, else None.

    Where they do not, or the capture raises, the state is that after the eager step, a warning says why, and this
    process captures no further step. Only where memory ran out, later steps are tried again.

    Parameters
    ----------
    step : callable
        It changes `state` in place.
    state : sequence of Tensor
        All tensors that a step changes: weights, buffers, momentum, sums.
    compared : int
        How many of them must agree, from the first on: the weights. 0 where the network draws random numbers.
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
    """Norm of the difference, over all tensors; NaN counts as infinitely far."""
    squares = sum(float((a.detach() - b).double().square().sum()) for a, b in zip(some, others, strict=True))
    return squares**0.5 if squares == squares else float("inf")
