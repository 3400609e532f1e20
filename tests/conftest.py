"""Fixtures that several folders of tests share. Tests run on one thread: small networks gain nothing from more."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none, with the reason."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and torch finds none here"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def seeded_zero() -> Iterator[None]:
    """torch's own generator from seed 0, left as it was found."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with real CIFAR-10, converted; skips where neither $NFNETS_LITE_DATA, data/ nor ../shared/data has it."""
    import data_scripts

    roots = [Path(os.environ["NFNETS_LITE_DATA"])] if os.environ.get("NFNETS_LITE_DATA") else []
    for root in (*roots, ROOT / "data", ROOT.parent / "shared" / "data"):
        if (root / "cifar10" / "train_images.npy").exists():
            return root
        if any((root / "cifar10").glob("data_batch_1*")):
            out = tmp_path_factory.mktemp("data")
            data_scripts.convert("cifar10", root / "cifar10", out)
            return out
    pytest.skip("no CIFAR-10 at hand: set NFNETS_LITE_DATA to a folder that holds cifar10/")
