"""Federated averaging: each client trains on images of its own domain, and only weights travel.

Axes: N images, C channels, H W space.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from experiments.sweep import Outcome
from experiments.tasks.data import Split, load
from experiments.tasks.descent import curve, one_thread, rate_at, seeded
from experiments.tasks.draws import draw
from experiments.tasks.step import How, Step, on_stream
from experiments.tasks.training import Training, evaluate
from nfnets_lite.models import create_model


def _tinted(x: Tensor) -> Tensor:
    """Raise each channel to its own power, from 0.4 to 2.5; a single channel to 2.5."""
    powers = torch.logspace(0, 1, x.shape[1], base=2.5 / 0.4) * 0.4 if x.shape[1] > 1 else torch.tensor([2.5])
    return x ** powers.to(x.device)[:, None, None]


# Of pixels in [0, 1].
DOMAINS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"plain": lambda x: x, "inverted": lambda x: 1 - x, "faded": lambda x: 0.35 + 0.3 * x, "tinted": _tinted}
)
STEP = 5e-4  # seconds of a captured update on a GPU beside its arithmetic, with its share of the averaging


@dataclass(frozen=True)
class Federated(Training):
    """Federated averaging with one client for each domain: `rounds` of local training and averaging.

    Each client has its own share of the training images. `recipe.updates` is the number of updates of a client in a
    round; the learning rate falls with the rounds. Clients keep no state between rounds, so the recipe must have no
    momentum. `local_norms` excludes batch norms, parameters and statistics, from the averaging: each client keeps its
    own (FedBN). After the last averaging, each client's model is tested on images of its domain.

    Metrics: ``DOMAIN_accuracy``, `mean_accuracy` over the domains (also as `accuracy`, by which the search chooses) and
    `worst_domain_accuracy`.
    """

    NUMERICS: ClassVar[int] = 2  # channels last on a CPU, and fewer factors in weights

    rounds: int = 10
    local_norms: bool = False

    def __post_init__(self) -> None:
        if not self.recipe.updates or self.recipe.momentum:
            raise ValueError(
                f"recipe.updates={self.recipe.updates} and recipe.momentum={self.recipe.momentum}: give the updates of "
                "a client in a round, and momentum 0; clients keep no state between rounds"
            )
        if self.local_norms and getattr(self.model, "norm", "") not in ("batch", "sync_batch", "ghost_batch"):
            raise ValueError(
                f"local_norms=True needs batch norms, and the model has norm={getattr(self.model, 'norm', '')!r}; use "
                "local_norms=False"
            )

    def effort(self, device: str) -> float:
        updates = (self.recipe.updates or 0) * self.rounds * len(DOMAINS)
        once = replace(self, recipe=replace(self.recipe, updates=1), rounds=1)
        each = Training.effort(once, device) + (STEP if device == "cuda" else 0.0)
        return updates * each

    def steps(self, device: torch.device) -> Generator[None, None, Outcome]:
        return on_stream(self._steps(device), device)

    def _steps(self, device: torch.device) -> Generator[None, None, Outcome]:
        recipe, local = self.recipe, self.recipe.updates or 0
        with one_thread(device):
            splits = load(self.data, device)
            with seeded(self.seed, device):
                model = create_model(self.model).to(device)
            clients = [deepcopy(model).train() for _ in DOMAINS]
            trainers = [self._trainer(i, client, splits["train"]) for i, client in enumerate(clients)]
            shared = shared_state(clients, self.local_norms)
            losses: list[float] = []
            for number in range(self.rounds):
                rate = rate_at(number, self.rounds, recipe)
                sums = torch.zeros((), device=device)
                for trainer in trainers:
                    for update in range(local):
                        sums += trainer(number * local + update, rate)
                        yield
                average(shared)
                losses.append(float(sums) / (local * len(clients)))
                if not losses[-1] < float("inf"):
                    reason = f"loss {losses[-1]} in round {number + 1} of {self.rounds}"
                    return Outcome("diverged", reason, {"rounds": number + 1}, curve(losses))
            return self._judged(clients, splits[self.split], losses)

    def _trainer(self, index: int, client: nn.Module, train: Split) -> Step:
        share = len(train) // len(DOMAINS)
        part = slice(index * share, (index + 1) * share)
        split = in_domain(replace(train, images=train.images[part], labels=train.labels[part]), list(DOMAINS)[index])
        recipe, device = self.recipe, train.images.device
        # A generator takes 32 bits, and clients of all seeds must differ.
        generator = torch.Generator().manual_seed(self.seed * len(DOMAINS) + index)
        updates = self.rounds * (recipe.updates or 0)
        drawn = draw(len(split), recipe.batch_size, updates, generator, recipe.augment, device)
        return Step(client, recipe, split, self.model.num_classes, drawn, None, How.on(device))

    def _judged(self, clients: Sequence[nn.Module], split: Split, losses: list[float]) -> Outcome:
        judged = {
            f"{domain}_accuracy": evaluate(client, in_domain(split, domain), self.recipe.autocast)["accuracy"]
            for domain, client in zip(DOMAINS, clients)
        }
        mean = sum(judged.values()) / len(judged)
        metrics = judged | {
            "accuracy": mean, "mean_accuracy": mean, "worst_domain_accuracy": min(judged.values()),
            "initial_loss": losses[0], "train_loss": losses[-1], "rounds": self.rounds,
        }  # fmt: skip
        return Outcome("ok", "", metrics, curve(losses))


def in_domain(split: Split, domain: str) -> Split:
    """The split with its images, as pixels, in one of `DOMAINS`."""
    pixels = ((split.images * split.std + split.mean) / 255).clamp(0, 1)
    return replace(split, images=(DOMAINS[domain](pixels) * 255 - split.mean) / split.std)


def shared_state(clients: Sequence[nn.Module], local_norms: bool) -> list[list[Tensor]]:
    """The tensors to average: for each parameter and each buffer of floats, the tensors of all clients."""
    norms = [name for name, module in clients[0].named_modules() if isinstance(module, _BatchNorm)]
    kept = tuple(f"{name}." for name in norms) if local_norms else ()
    states = [client.state_dict() for client in clients]
    names = [name for name, value in states[0].items() if value.is_floating_point() and not name.startswith(kept)]
    return [[state[name] for state in states] for name in names]


@torch.no_grad()
def average(shared: Sequence[Sequence[Tensor]]) -> None:
    """Replace each client's tensors by the mean over clients, in place: a captured step reads the same memory."""
    for tensors in shared:
        mean = torch.stack(list(tensors)).mean(0)
        for tensor in tensors:
            tensor.copy_(mean)
