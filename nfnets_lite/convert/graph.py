"""The order of a network's layers, read from the graph that autograd records in one forward pass."""

import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from nfnets_lite.convert.gains import Node, gain_of_any, is_rectifier, parents_of
from nfnets_lite.norm.common import at_least_float32

Run: TypeAlias = Callable[[nn.Module], Any]


class Call(NamedTuple):
    """One call of a layer: nodes before and behind it; mean and deviation of its output's channels; their axis, < 0."""

    inputs: list[Node | None]
    after: Node
    mean: Tensor
    std: Tensor
    axis: int


class Graph:
    """The calls of `layers`, a mapping from names to layers and channel axes, and the operations between them.

    A layer norm's axis may be None: sizes tell it, or else whether the norm permutes its input. What is inside the
    modules of `whole` belongs to them, and not to what is between. `parts` has, by the node behind it, the name of each
    module that is called once and maps a tensor to a tensor; of several the innermost. `unchanged` has, by the name of
    a module that returns its input, as dropout does in evaluation, the part whose output that is.
    """

    def __init__(
        self, model: nn.Module, run: Run, layers: Mapping[str, tuple[nn.Module, int | None]], whole: Collection[str]
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
        self.unchanged = {name: self.parts[ins[0]] for name, ins, out in spans if ins == out and ins[0] in self.parts}
        self.nodes = _upstream([*roots, *(node for *_, out in spans for node in out)])
        owned = [span for span in spans if span[0] in whole] + [(n, call.inputs, [call.after]) for n, call in calls]
        self.owner = {node: name for name, inputs, out in owned for node in _upstream(out, {*inputs})}
        self.consumers: dict[Node, set[Node]] = defaultdict(set)
        for node in self.nodes:
            for parent in parents_of(node):
                self.consumers[parent].add(node)
        # An activation in place behind a linear layer leaves a view of the layer's output that nothing reads.
        self.unread = {node for node in self.nodes if node not in self.consumers} - {*roots}

    def _at_end(self, name: str, axis: int | None) -> Callable[..., None]:
        def hook(layer: Any, args: tuple[Any, ...], named: dict[str, Any], out: Any) -> None:
            if isinstance(out, Tensor) and out.grad_fn is not None:
                inputs, known = _nodes((args, named)), axis
                if known is None:
                    fits = [a for a in (1, -1) if out.shape[a:][:1] == layer.normalized_shape]
                    inside = _upstream([out.grad_fn], {*inputs})
                    permutes = any(re.match("Permute|Transpose|Unsqueeze", node.name()) for node in inside)
                    known = fits[0] if len(fits) == 1 else 1 if permutes else -1
                last = known % out.ndim - out.ndim  # counted from the end
                self.calls[name].append(Call(inputs, out.grad_fn, *channel_moments(out.detach(), last), last))

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
        return gain_of_any(ahead, {self.calls[name][0].after, *filter(passes, ahead)})

    def only_feeds(self, name: str, other: str) -> bool:
        """Whether a layer's output goes straight into another one, of the same channels, and nowhere else."""
        *_, after, _, _, axis = self.calls[name][0]
        direct = any((call.inputs[0], call.axis) == (after, axis) for call in self.calls[other] if call.inputs)
        return direct and {self.owner.get(node) for node in self.consumers[after]} == {other}

    def activates(self, name: str) -> bool:
        """Whether a layer contains an activation."""
        return any(owner == name and is_rectifier(node) for node, owner in self.owner.items())

    def stray_norms(self) -> list[str]:
        """Norms that the forward pass computes outside of the layers."""
        names = [node.name() for node in self.nodes if node not in self.owner]
        return [name for name in names if re.search("(Batch|Group|Layer|Instance|Rms)Norm", name)]

    def branch_ends(self, weighted: Set[str]) -> Iterator[str]:
        """The last layers of residual branches, or their last modules if these compute with weights by themselves.

        Of the terms of a residual sum, the shortcut has at most one layer; a branch has more, and nothing else reads
        it. Sums that only another sum reads belong to that sum: x + a(x) + b(x) has two branches.
        """
        sums = {n for n in self.nodes if n not in self.owner and n.name().startswith("AddBackward")}
        inner = {n for n in sums if len(readers := self.consumers[n] - self.unread) == 1 and readers <= sums}
        outer = self.nodes - inner
        for node in sums & outer:
            chain = {node, *_upstream(inner.intersection(parents_of(node)), outer)}
            parents = [p for n in chain for p in parents_of(n) if p not in chain]
            sides = [parent for parent in parents if not parent.name().endswith("AccumulateGrad")]
            up = [_upstream([side]) for side in sides]
            rest = [set[Node]().union(*up[:i], *up[i + 1 :]) for i in range(len(sides))]
            own = [found - others for found, others in zip(up, rest)]
            layers = [{self.owner[n] for n in part if self.owner.get(n) in weighted} for part in own]
            size = [len(names) + len(self._weights(part)) for names, part in zip(layers, own)]
            short = min(range(len(size)), key=size.__getitem__, default=0)
            for i, side in enumerate(sides):
                inside = own[i] | self.unread | chain
                # A shortcut reads what its branch reads; an embedding of positions, which is added too, reads no input.
                reads = layers[short] or up[short] & up[i]
                long = size[short] <= 1 and size[i] > size[short]
                if long and reads and all(self.consumers[n] <= inside for n in own[i]):
                    yield from self._last(side, rest[i])

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


def _upstream(roots: Collection[Node | None], stop: Set[Node | None] = frozenset()) -> Set[Node]:
    """`roots` and all nodes that lead to them, nearest first, without `stop` and the nodes behind it."""
    found = {root: None for root in roots if root is not None and root not in stop}
    todo = deque(found)
    while todo:
        for parent in parents_of(todo.popleft()):
            if parent not in found and parent not in stop:
                found[parent] = None
                todo.append(parent)
    return found.keys()
