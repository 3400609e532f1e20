"""The files that readers copy: they run as they stand, and do what they say."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from examples import cifar10
from nfnets_lite.averaging import WeightAverage

ROOT = Path(__file__).resolve().parents[2]


def stripes(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of noise with lines across or down, which crops and mirror images leave as they are."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    lines = (torch.arange(16) % 4 < 2).float() * 2 - 1
    images = torch.where(labels[:, None, None, None] > 0, lines[:, None], lines[None, :]).expand(count, 3, 16, 16)
    return images + 0.5 * torch.randn(count, 3, 16, 16, generator=generator), labels


@pytest.mark.parametrize(
    ("method", "changes"),
    [("nf", {}), ("bn", {"clip": 0.0}), ("nf", {"optimizer": "muon", "clip": 0.0}), ("nf", {"optimizer": "muon"})],
)
def test_a_small_training_learns(method: str, changes: dict[str, Any]) -> None:
    images, labels = stripes(192)
    recipe = cifar10.Recipe(method=method, width=(8, 8, 8), epochs=8, batch_size=32, lr=0.1, average=0.8, **changes)
    torch.manual_seed(0)
    net = cifar10.Net(images, recipe, 2).to(memory_format=torch.channels_last)
    average = WeightAverage(net, recipe.average)
    *_, (loss, clipped) = cifar10.train(net, average, recipe, images[:128], labels[:128])
    assert loss < 1
    assert (clipped > 0) == bool(recipe.clip)
    with average.applied():
        assert cifar10.accuracy(net, images[128:], labels[128:]) > 0.9


def test_muon_moves_each_convolution_by_an_orthogonal_matrix() -> None:
    recipe = cifar10.Recipe(width=(8, 8, 8), optimizer="muon", filter_lr=1.0)
    net = cifar10.Net(stripes(8)[0], recipe, 2).to(memory_format=torch.channels_last)
    conv = next(p for p in net.parameters() if p.dim() == 4 and p.shape[0] == p.shape[1])
    muon, _ = cifar10.optimizers(net, recipe)
    before = conv.detach().clone()
    F.cross_entropy(net(stripes(8)[0]), stripes(8)[1]).backward()
    muon.step()
    moved = (conv.detach() - before).flatten(1)
    singular = torch.linalg.svdvals(moved)
    assert float(singular.max() / singular.min()) < 2.5  # five steps of Newton and Schulz end near 1, not at it
    assert float(moved.norm()) > 0.1


def test_images_are_mirrored_where_asked_and_moved_by_whole_pixels() -> None:
    images = torch.arange(2 * 3 * 6 * 6.0).reshape(2, 3, 6, 6)
    seen = cifar10.augmented(images, torch.tensor([False, True]), pad=0)
    assert torch.equal(seen, torch.stack([images[0], images[1].flip(2)]))
    moved = cifar10.augmented(images, torch.tensor([False, False]), pad=1)
    padded = F.pad(images, (1,) * 4, mode="reflect")
    places = [(i, j) for i in range(3) for j in range(3)]
    for image, whole in zip(moved, padded):
        assert any(torch.equal(image, whole[:, i : i + 6, j : j + 6]) for i, j in places)


def test_it_runs_from_the_command_line_and_judges_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        batch = {"data": rng.integers(0, 256, (64, 3072), dtype=np.uint8), "labels": [i % 10 for i in range(64)]}
        (tmp_path / name).write_bytes(pickle.dumps(batch))
    said = subprocess.run(
        [sys.executable, "examples/cifar10.py", str(tmp_path), "--epochs", "2"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert said.count("test accuracy") == 1
    assert said.splitlines()[0].startswith("loss ")


def test_what_readers_copy_is_short_and_imports_nothing_else() -> None:
    text = (ROOT / "examples" / "cifar10.py").read_text()
    assert len(text.splitlines()) <= 150
    outside = {line.split()[1].split(".")[0] for line in text.splitlines() if line.startswith(("import ", "from "))}
    assert outside - set(sys.stdlib_module_names) == {"torch", "nfnets_lite"}
