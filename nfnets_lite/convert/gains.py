"""The gain of an activation, from the nodes of autograd's graph that compute it."""

from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from nfnets_lite.activations import GAINS, gain_of

Node: TypeAlias = Any  # of autograd's graph
# Activations by the kinds of their nodes: the function, and the arguments that the node saves. A sigmoid is a gate.
_RECTIFIERS: dict[str, tuple[Callable[..., Tensor], str]] = {
    "Relu": (F.relu, ""), "Hardtanh": (F.hardtanh, "min_val max_val"), "LeakyRelu": (F.leaky_relu, "negative_slope"),
    "Elu": (torch.ops.aten.elu, "alpha scale input_scale"), "Celu": (F.celu, "alpha"), "Silu": (F.silu, ""),
    "Gelu": (lambda z, how: F.gelu(z, approximate=how), "approximate"), "Hardswish": (F.hardswish, ""),
    "Mish": (F.mish, ""), "PreluKernel": (F.leaky_relu, "weight"),
    "RreluWithNoise": (lambda z, lower, upper: F.leaky_relu(z, (lower + upper) / 2), "lower upper"),
}  # fmt: skip
_PAIRS = {"Mul": (torch.mul, ""), "Sub": (torch.sub, ""), "Div": (torch.div, "")}
_ACTIVATIONS = _RECTIFIERS | _PAIRS | {
    "Softplus": (F.softplus, "beta threshold"), "Tanh": (torch.tanh, ""), "LogSigmoid": (F.logsigmoid, ""),
    "Softshrink": (F.softshrink, "lambd"), "Hardshrink": (F.hardshrink, "lambd"), "Clamp": (torch.clamp, "min max"),
    "ClampMin": (torch.clamp_min, "min"), "ClampMax": (torch.clamp_max, "max"), "Maximum": (torch.clamp_min, "other"),
}  # fmt: skip
_WITHIN = {"Sigmoid": (torch.sigmoid, ""), "Hardsigmoid": (F.hardsigmoid, ""), "Add": (lambda z: 1 + z.abs(), "")}


def gain_of_any(nodes: Sequence[Node], inputs: Set[Node]) -> float:
    """The gain of the activation among `nodes` that acts on the values of `inputs`; 1 if none is known."""
    shifted = {node for node in inputs if _kind(node) == "Add" and len(parents_of(node)) == 1}  # by a constant
    # Of a product such as z * tanh(softplus(z)) the whole is the activation, rather than what is inside it.
    found: list[tuple[bool, float]] = []
    for node in (node for node in nodes if _kind(node) in _ACTIVATIONS):
        with suppress(LookupError, RuntimeError, ValueError):
            pair = _kind(node) in _PAIRS
            found.append((pair, _gain(_expression(node, inputs - shifted if pair else inputs))))
    return max(found, default=(False, 1.0))[1]


def is_rectifier(node: Node) -> bool:
    """Whether a node is an activation by itself, and not an operation that may also be one."""
    return _kind(node) in _RECTIFIERS


def parents_of(node: Node) -> list[Node]:
    """The nodes whose values a node takes."""
    return [parent for parent, _ in node.next_functions if parent is not None]


def _kind(node: Node) -> str:
    return str(node.name()).partition("Backward")[0]


def _expression(node: Node, inputs: Set[Node]) -> tuple[Any, ...]:
    """The function of a node, its arguments, and expressions of its parents: () for `inputs`, else a LookupError."""
    if node in inputs:
        return ()
    kind, parents = _kind(node), [parent for parent, _ in node.next_functions]
    function, names = (_ACTIVATIONS | _WITHIN)[kind]
    saved = [getattr(node, f"_saved_{name}") for name in names.split()]
    if kind == "Add" and parents[1] is None and _kind(parents[0]) == "Abs":  # of softsign, z / (1 + |z|)
        parents = parents_of(parents[0])
    elif None in parents[: 1 + (kind in _PAIRS)] or kind == "Add" or (kind == "Maximum" and parents[1]):
        raise LookupError("a constant that autograd does not save, or a second input")
    numbers = (float(value.float().mean()) if isinstance(value, Tensor) else value for value in saved)
    return function, tuple(numbers), *(_expression(parent, inputs) for parent in parents[: 1 + (kind in _PAIRS)])


@lru_cache
def _gain(expression: tuple[Any, ...]) -> float:
    # Recorded trainings of converted networks have the published gain of ReLU.
    return GAINS["relu"] if expression == (F.relu, (), ()) else gain_of(partial(_value, expression))


def _value(expression: tuple[Any, ...], z: Tensor) -> Tensor:
    if not expression:
        return z
    function, numbers, *parents = expression
    return function(*(_value(parent, z) for parent in parents), *numbers)  # type: ignore[no-any-return]
