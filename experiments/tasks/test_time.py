"""A trained network on test images that have changed, in a stream that may be sorted by class.

Axes: N images, C channels, H W space.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn

from experiments.sweep import Outcome
from experiments.tasks.data import Split, load
from experiments.tasks.descent import one_thread, seeded
from experiments.tasks.step import How, on_stream
from experiments.tasks.training import Training, fit, update_time
from nfnets_lite.adapt import alpha_bn, unmix_tns
from nfnets_lite.models import create_model

Change = Callable[[Tensor, torch.Generator], Tensor]


def _blurred(x: Tensor, _: torch.Generator) -> Tensor:
    """Average over 3 by 3 pixels, twice."""
    blur = nn.Sequential(nn.ReplicationPad2d(1), nn.AvgPool2d(3, 1))
    out: Tensor = blur(blur(x))
    return out


def _faint(x: Tensor, _: torch.Generator) -> Tensor:
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + 0.3 * (x - mean)


# Functions of pixels in [0, 1]; their results are clamped to [0, 1].
CORRUPTIONS: Mapping[str, Change] = MappingProxyType(
    {
        "clean": lambda x, _: x,
        "noise": lambda x, generator: x + 0.2 * torch.randn(x.shape, generator=generator).to(x),
        "contrast": _faint,
        "blur": _blurred,
        "brightness": lambda x, _: x + 0.3,
    }
)
STREAMS = ("shuffled", "sorted")
ALPHAS = (0.1, 0.5, 0.9)
TEST_IMAGES = 10_000
EAGER = 0.002  # seconds of a pass on a GPU that is not captured


@dataclass(frozen=True)
class TestTime(Training):
    """One training, then tests on the first `images` of the judged split, changed, in batches of `stream_batch`.

    With `adapt` the model is also tested with other statistics in its batch norms. A search uses unchanged validation
    images only.

    Metrics: those of a training, and ``ADAPTATION_STREAM_CORRUPTION_accuracy`` for every combination of an adaptation
    (``source``: the model in evaluation mode; with `adapt`, ``batch``, ``alpha_10``, ``alpha_50``, ``alpha_90``,
    ``mixed``, ``unmix``), a stream (``shuffled``, ``sorted``) and a corruption. The corruption ``corrupted`` is the
    mean over all corruptions that change the images. ``mixed`` is the ``alpha_*`` that is best on validation images
    with the same change and order.
    """

    NUMERICS: ClassVar[int] = 2  # channels last on a CPU, and fewer factors in weights

    __test__: ClassVar[bool] = False  # otherwise pytest would collect the class, because of its name

    images: int | None = None
    stream_batch: int = 64
    adapt: bool = False

    def effort(self, device: str) -> float:
        if self.split == "validation":
            return super().effort(device)
        evaluations = len(STREAMS) * len(CORRUPTIONS) * (9 if self.adapt else 1)
        batches = (self.images or self.data.test or TEST_IMAGES) / self.stream_batch
        each = update_time(self.model, self.data, self.stream_batch, device, backward=False)
        return super().effort(device) + evaluations * batches * (each + (0 if device == "cpu" else EAGER))

    def steps(self, device: torch.device) -> Generator[None, None, Outcome]:
        return on_stream(self._steps(device), device)

    def _steps(self, device: torch.device) -> Generator[None, None, Outcome]:
        with one_thread(device):
            splits = load(self.data, device)
            with seeded(self.seed, device):
                model = create_model(self.model).to(device)
            outcome = yield from fit(model, self, splits, How.on(device))
            if outcome.status != "ok" or self.split == "validation":
                return outcome
            model.eval()
            found = yield from self._judge(model, splits)
        return replace(outcome, metrics=outcome.metrics | found)

    def _judge(self, model: nn.Module, splits: Mapping[str, Split]) -> Generator[None, None, dict[str, float]]:
        found: dict[str, float] = {}
        for stream in STREAMS:
            scores: dict[str, dict[str, float]] = {}
            for corruption in CORRUPTIONS:
                test = self._stream(splits[self.split], stream, corruption)
                for name, make in self._adaptations(model).items():
                    scores.setdefault(name, {})[corruption] = self._accuracy(make(), test)
                    yield
                if self.adapt:
                    validation = self._stream(splits["validation"], stream, corruption)
                    tried = {a: self._accuracy(alpha_bn(model, a), validation) for a in ALPHAS}
                    best = _name(max(ALPHAS, key=lambda a: tried[a]))
                    scores.setdefault("mixed", {})[corruption] = scores[best][corruption]
                    yield
            for name, by_corruption in scores.items():
                changed = [value for corruption, value in by_corruption.items() if corruption != "clean"]
                by_corruption["corrupted"] = sum(changed) / len(changed)
                found |= {f"{name}_{stream}_{which}_accuracy": value for which, value in by_corruption.items()}
        return found

    def _adaptations(self, model: nn.Module) -> dict[str, Callable[[], nn.Module]]:
        made: dict[str, Callable[[], nn.Module]] = {"source": lambda: model}
        if self.adapt:
            made["batch"] = partial(alpha_bn, model, 0.0)
            made |= {_name(alpha): partial(alpha_bn, model, alpha) for alpha in ALPHAS}
            made["unmix"] = partial(unmix_tns, model, batch_size=self.stream_batch, seed=self.seed)
        return made

    def _stream(self, split: Split, stream: str, corruption: str) -> Split:
        """The split with its images changed, then ordered; both streams of a seed have the same images."""
        split = split.first(self.images or len(split))
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(split), generator=generator).to(split.labels.device)
        changed = corrupted(split, corruption, generator)
        if stream == "sorted":
            order = changed.labels.sort(stable=True).indices
        return replace(changed, images=changed.images[order], labels=changed.labels[order])

    @torch.no_grad()
    def _accuracy(self, model: nn.Module, split: Split) -> float:
        parts = zip(*(torch.split(x, self.stream_batch) for x in (split.images, split.labels)))
        right = [model(images).argmax(1) == labels for images, labels in parts]
        return float(torch.cat(right).float().mean())


def corrupted(split: Split, corruption: str, generator: torch.Generator) -> Split:
    """The split with its images changed, as pixels, by one of `CORRUPTIONS`."""
    pixels = ((split.images * split.std + split.mean) / 255).clamp(0, 1)
    changed = CORRUPTIONS[corruption](pixels, generator).clamp(0, 1)
    return replace(split, images=(changed * 255 - split.mean) / split.std)


def _name(alpha: float) -> str:
    return f"alpha_{round(100 * alpha)}"
