"""A graph transformer with batch norm, layer norm, or standardised weights and no norm.

Source: Dwivedi and Bresson (2021, arXiv 2012.09699): attention among neighbours, Laplacian eigenvectors as positions,
and batch norm in place of layer norm. Graphs have the same number of nodes, B graphs of n nodes with D features.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.demos.atlas.shared import Scale, ScaledStdLinear, fit, reproducible
from nfnets_lite.activations import GAINS

NODES, POSITIONS, HEADS, DEPTH, BATCH = 24, 4, 2, 2, 32
BLOCKS = (1, 2, 3)  # communities: the class of a graph
DEGREE, INSIDE = 6.0, 8.0  # expected degree of a node; edges inside a community per edge to another, as probabilities


def block_models(labels: Tensor, nodes: int = NODES) -> Tensor:
    """Adjacency of stochastic block models of equal expected degree, with ``BLOCKS[label]`` communities."""
    graphs = []
    for blocks in (BLOCKS[int(label)] for label in labels):
        member = torch.arange(nodes) * blocks // nodes
        weight = torch.where(member[:, None] == member, INSIDE, 1.0).fill_diagonal_(0)
        chance = (weight * DEGREE / weight.sum(1).mean()).clamp_max(1)
        upper = (torch.rand(nodes, nodes) < chance).float().triu(1)
        order = torch.randperm(nodes)
        graphs.append((upper + upper.T)[order][:, order])
    return torch.stack(graphs)


def laplacian_positions(adjacency: Tensor, count: int = POSITIONS) -> Tensor:
    """Eigenvectors of ``I - D^-1/2 A D^-1/2`` with the smallest eigenvalues but for the first, ``(B, n, count)``."""
    scale = adjacency.sum(-1).clamp_min(1) ** -0.5
    laplacian = torch.eye(adjacency.shape[-1]) - scale[..., :, None] * adjacency * scale[..., None, :]
    _, vectors = torch.linalg.eigh(laplacian.double())
    found: Tensor = vectors[..., 1 : count + 1].float()
    return found


def attention(q: Tensor, k: Tensor, v: Tensor, adjacency: Tensor) -> Tensor:
    """Softmax of ``q k / d^1/2`` over the neighbours of each node; a node without neighbours attends to itself.

    q, k and v are ``(B, heads, n, d)``, adjacency ``(B, n, n)``.
    """
    alone = torch.diag_embed((adjacency.sum(-1) == 0).to(adjacency))
    allowed = (adjacency + alone)[:, None] > 0
    logits = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~allowed, -torch.inf)
    return torch.matmul(logits.softmax(-1), v)


class Normed(nn.Module):
    """A norm of the features of nodes ``(B, n, D)``: over all nodes of the batch, over a node's features, or none."""

    def __init__(self, method: str, width: int) -> None:
        super().__init__()
        self.norm = {"bn": nn.BatchNorm1d, "ln": nn.LayerNorm, "nf": nn.Identity}[method](width)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x.flatten(0, 1))
        return normed.reshape(x.shape)


class Layer(nn.Module):
    """Attention, then two linear layers, each added to its input and normed; NF: branches of weight 2^-1/2 instead."""

    def __init__(self, method: str, width: int) -> None:
        super().__init__()
        linear = ScaledStdLinear if method == "nf" else nn.Linear
        self.qkv, self.out = linear(width, 3 * width), linear(width, width)
        self.wide, self.narrow = linear(width, 2 * width), linear(2 * width, width)
        self.norms = nn.ModuleList(Normed(method, width) for _ in range(2))
        self.share = 0.5**0.5 if method == "nf" else 1.0
        self.gain = GAINS["relu"] if method == "nf" else 1.0

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).movedim(2, 0).transpose(2, 3)
        attended = attention(q, k, v, adjacency).transpose(1, 2).flatten(2)
        x = self.norms[0](self.share * (x + self.out(attended)))
        made: Tensor = self.norms[1](self.share * (x + self.narrow(self.gain * F.relu(self.wide(x)))))
        return made


class GraphTransformer(nn.Module):
    """Degrees and positions embedded and added, layers, mean over the nodes, a linear classifier."""

    def __init__(self, method: str, width: int, outputs: int) -> None:
        super().__init__()
        self.degree, self.position = nn.Linear(1, width), nn.Linear(POSITIONS, width)
        self.layers = nn.ModuleList(Layer(method, width) for _ in range(DEPTH))
        self.classifier = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))

    def forward(self, adjacency: Tensor, positions: Tensor) -> Tensor:
        x = self.degree(adjacency.sum(-1, keepdim=True) / DEGREE - 1) + self.position(positions * NODES**0.5)
        for layer in self.layers:
            x = layer(x, adjacency)
        found: Tensor = self.classifier(x.mean(1))
        return found


@reproducible
def demonstrate(seed: int, scale: Scale, device: torch.device) -> dict[str, float]:
    """Test accuracy in per cent of telling the number of communities, by norm; `bn blind` sees no positions."""
    labels = torch.randint(len(BLOCKS), (2, 4 * scale.items))
    graphs = [block_models(part).to(device) for part in labels]
    places = [laplacian_positions(part.cpu()).to(device) for part in graphs]
    labels = labels.to(device)
    found = {}
    for name, method, seen in (("bn", "bn", 1.0), ("ln", "ln", 1.0), ("nf", "nf", 1.0), ("bn blind", "bn", 0.0)):
        torch.manual_seed(seed)
        model = GraphTransformer(method, scale.width, len(BLOCKS)).to(device)

        def loss(model: nn.Module = model, seen: float = seen) -> Tensor:
            rows = torch.randint(labels.shape[1], (BATCH,)).to(device)
            signs = 2.0 * torch.randint(2, (BATCH, 1, POSITIONS)) - 1  # an eigenvector's sign is arbitrary
            shown = seen * places[0][rows] * signs.to(device)
            return F.cross_entropy(model(graphs[0][rows], shown), labels[0][rows])

        fit(model, loss, scale.updates, rate=0.005)
        with torch.no_grad():
            right = model(graphs[1], seen * places[1]).argmax(1) == labels[1]
        found[f"accuracy {name}"] = float(100 * right.float().mean())
    return found
