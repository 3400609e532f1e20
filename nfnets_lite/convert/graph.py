"""The order of a network's layers, read from the graph that autograd records in one forward pass."""

import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from nfnets_lite.activations import GAINS, gain_of
from nfnets_lite.norm.common import at_least_float32

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


class Call(NamedTuple):
    """One call of a layer: nodes before and behind it; mean and deviation of its output's channels; their axis, < 0."""

    inputs: list[Node | None]
    after: Node
    mean: Tensor
    std: Tensor
    axis: int


class Graph:
    """The calls of `layers`, a mapping from names to layers and channel axes, and the operations between them.

    What is inside the modules of `whole` belongs to them, and not to what is between. `parts` has, by the node behind
    it, the name of each module that is called once and maps a tensor to a tensor; of several the innermost.
    """

    def __init__(
        self,
        model: nn.Module,
        run: Callable[[nn.Module], Any],
        layers: Mapping[str, tuple[nn.Module, int]],
        whole: Collection[str],
    ) -> None:
        self.calls: dict[str, list[Call]] = {name: [] for name in layers}
        spans: list[tuple[str, list[Node | None], list[Node | None]]] = []
        maps: list[tuple[Node | None, str]] = []
        hooks = [m.register_forward_hook(self._at_end(n, axis), with_kwargs=True) for n, (m, axis) in layers.items()]

        def span(name: str, _module: nn.Module, args: Any, named: Any, out: Any) -> None:
            spans.append((name, _nodes((args, named)), _nodes(out)))
            if name and isinstance(out, Tensor) and len(args) == 1 and isinstance(args[0], Tensor) and not named:
                maps.append((out.grad_fn, name))

        # Of all modules: `run` may return nothing. Scripted ones take no hooks.
        plain = {n: m for n, m in model.named_modules() if not isinstance(m, torch.jit.ScriptModule)}
        hooks += [m.register_forward_hook(partial(span, n), with_kwargs=True) for n, m in plain.items()]
        try:
            roots = _nodes(run(model))
        finally:
            for hook in hooks:
                hook.remove()
        calls = [(name, call) for name, each in self.calls.items() for call in each]
        times = Counter(name for name, *_ in spans)
        self.parts = {node: name for node, name in reversed(maps) if node is not None and times[name] == 1}
        self.nodes = _upstream([*roots, *(node for *_, out in spans for node in out)])
        owned = [span for span in spans if span[0] in whole] + [(n, call.inputs, [call.after]) for n, call in calls]
        self.owner = {node: name for name, inputs, out in owned for node in _upstream(out, {*inputs})}
        self.consumers: dict[Node, set[Node]] = defaultdict(set)
        for node in self.nodes:
            for parent in _parents(node):
                self.consumers[parent].add(node)
        # An activation in place behind a linear layer leaves a view of the layer's output that nothing reads.
        self.unread = {node for node in self.nodes if node not in self.consumers} - {*roots}

    def _at_end(self, name: str, axis: int) -> Callable[..., None]:
        def hook(_layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any], out: Any) -> None:
            if isinstance(out, Tensor) and out.grad_fn is not None:
                last = axis % out.ndim - out.ndim  # counted from the end
                moments = channel_moments(out.detach(), last)
                self.calls[name].append(Call(_nodes((args, named)), out.grad_fn, *moments, last))

        return hook

    def _ahead(self, name: str, passes: Callable[[Node], Any]) -> Iterator[Node]:
        """The nodes that a layer's output reaches through nodes that `passes` accepts."""
        seen: set[Node] = set()
        todo = [self.calls[name][0].after]
        while todo:
            for node in self.consumers[todo.pop()] - seen:
                seen.add(node)
                yield node
                if passes(node):
                    todo.append(node)

    def reaches(self, name: str, targets: Collection[str], stops: Set[str]) -> bool:
        """Whether a layer's output reaches one of the targets without passing a layer of `stops` or a gate."""

        def passes(node: Node) -> bool:
            return self.owner.get(node) not in stops and not re.match("Sigmoid|Hardsigmoid|Softmax", node.name())

        return any(self.owner.get(node) in targets for node in self._ahead(name, passes))

    def gain_behind(self, name: str) -> float:
        """The gain of the activation that follows a layer, directly or after a sum or pooling; 1 if there is none."""

        def passes(node: Node) -> Any:
            return node not in self.owner and re.match("AddBack|.*View|Permute|Transpose|.*Pool", node.name())

        ahead = [node for node in self._ahead(name, passes) if node not in self.owner]
        inputs = {self.calls[name][0].after, *filter(passes, ahead)}
        shifted = {node for node in inputs if _kind(node) == "Add" and len(_parents(node)) == 1}  # by a constant
        # Of a product such as z * tanh(softplus(z)) the whole is the activation, rather than what is inside it.
        found: list[tuple[bool, float]] = []
        for node in (node for node in ahead if _kind(node) in _ACTIVATIONS):
            with suppress(LookupError, RuntimeError, ValueError):
                pair = _kind(node) in _PAIRS
                found.append((pair, _gain(_expression(node, inputs - shifted if pair else inputs))))
        return max(found, default=(False, 1.0))[1]

    def only_feeds(self, name: str, other: str) -> bool:
        """Whether a layer's output goes straight into another layer, as its first input, and nowhere else."""
        after = self.calls[name][0].after
        direct = any(call.inputs[0] is after for call in self.calls[other] if call.inputs)
        return direct and {self.owner.get(node) for node in self.consumers[after]} == {other}

    def activates(self, name: str) -> bool:
        """Whether a layer contains an activation."""
        return any(owner == name and _kind(node) in _RECTIFIERS for node, owner in self.owner.items())

    def stray_norms(self) -> list[str]:
        """Norms that the forward pass computes outside of the layers."""
        names = [node.name() for node in self.nodes if node not in self.owner]
        return [name for name in names if re.search("(Batch|Group|Layer|Instance|Rms)Norm", name)]

    def branch_ends(self, weighted: Set[str]) -> Iterator[str]:
        """The last layers of residual branches, or their last modules if these compute with weights by themselves.

        In a residual sum the shortcut has at most one layer, the branch has more, and nothing else reads the branch.
        """
        for node in self.nodes:
            sides = [parent for parent in _parents(node) if not parent.name().endswith("AccumulateGrad")]
            if node in self.owner or not node.name().startswith("AddBackward") or len(sides) != 2:
                continue
            up = [_upstream([side]) for side in sides]
            own = [up[0] - up[1], up[1] - up[0]]
            layers = [{self.owner[n] for n in part if self.owner.get(n) in weighted} for part in own]
            size = [len(names) + len(self._weights(part)) for names, part in zip(layers, own)]
            long = int(size[1] > size[0])
            inside = own[long] | self.unread | {node}
            one_sided = size[1 - long] <= 1 and size[long] > size[1 - long]
            # A shortcut reads what its branch reads; an embedding of positions, which is added too, reads no input.
            reads = layers[1 - long] or up[0] & up[1]
            if one_sided and reads and all(self.consumers[n] <= inside for n in own[long]):
                yield from self._last(sides[long], up[1 - long])

    def _last(self, side: Node, shortcut: Set[Node]) -> list[str]:
        """The last layer before the sum that the whole branch passes through; the last module if weights follow it."""
        part: list[str] = []
        for node in _upstream([side], shortcut):  # nearest first
            name = self.owner.get(node, "")
            ends = [call for call in self.calls.get(name, []) if call.after is node]
            if not ends and node not in self.parts:
                continue
            behind = _upstream([side], {node})
            if not behind & shortcut:
                if ends:
                    return part if self._weights(behind) else [name]
                part = part or [self.parts[node]]
        return part

    def _weights(self, nodes: Set[Node]) -> set[Node]:
        """The nodes of weights that belong to no layer; a gain has one axis longer than 1, a weight has more."""
        leaves = {n for n in nodes if n not in self.owner and n.name().endswith("AccumulateGrad")}
        return {leaf for leaf in leaves if sum(size > 1 for size in leaf.variable.shape) > 1}


def channel_moments(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation for each index of an axis, in at least float32."""
    over = [d for d in range(x.ndim) if d != axis % x.ndim]
    var, mean = torch.var_mean(at_least_float32(x), over, correction=0)
    return mean, var.sqrt()


def _nodes(values: Any) -> list[Node | None]:
    """The nodes of the tensors in containers, or in the attributes of an object."""
    leaves = [leaf if isinstance(leaf, Tensor) else getattr(leaf, "__dict__", None) for leaf in tree_leaves(values)]
    return [leaf.grad_fn for leaf in tree_leaves(leaves) if isinstance(leaf, Tensor)]


def _parents(node: Node) -> list[Node]:
    return [parent for parent, _ in node.next_functions if parent is not None]


def _upstream(roots: Collection[Node | None], stop: Set[Node | None] = frozenset()) -> Set[Node]:
    """`roots` and all nodes that lead to them, nearest first, without `stop` and the nodes behind it."""
    found = {root: None for root in roots if root is not None and root not in stop}
    todo = deque(found)
    while todo:
        for parent in _parents(todo.popleft()):
            if parent not in found and parent not in stop:
                found[parent] = None
                todo.append(parent)
    return found.keys()


def _kind(node: Node) -> str:
    return re.sub("Backward.*", "", node.name())


def _expression(node: Node, inputs: Set[Node]) -> tuple[Any, ...]:
    """The function of a node, its arguments, and expressions of its parents: () for `inputs`, else a LookupError."""
    if node in inputs:
        return ()
    kind, parents = _kind(node), [parent for parent, _ in node.next_functions]
    function, names = (_ACTIVATIONS | _WITHIN)[kind]
    saved = [getattr(node, f"_saved_{name}") for name in names.split()]
    if kind == "Add" and parents[1] is None and _kind(parents[0]) == "Abs":  # of softsign, z / (1 + |z|)
        parents = _parents(parents[0])
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
