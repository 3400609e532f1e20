from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import data
from experiments.config import Data

CPU = torch.device("cpu")
DIGITS = Data("digits", train=1077, validation=360)


@pytest.fixture(autouse=True)
def _fresh_cache() -> None:
    data.load.cache_clear()


def test_digits_are_the_real_ones_and_the_splits_are_disjoint() -> None:
    from sklearn.datasets import load_digits

    splits = data.load(DIGITS, CPU)
    assert {name: len(split) for name, split in splits.items()} == {"train": 1077, "validation": 360, "test": 360}
    rows = [image.numpy().tobytes() for name in ("train", "validation", "test") for image in splits[name].images]
    assert len(set(rows)) >= 1790  # a few scans are equal by themselves
    labels = torch.cat([splits[name].labels for name in ("train", "validation", "test")])
    assert torch.bincount(labels).tolist() == np.bincount(load_digits().target).tolist()
    assert splits["test"].labels.tolist() == load_digits().target[1437:].tolist()


def test_training_images_have_unit_moments() -> None:
    images = data.load(DIGITS, CPU)["train"].images
    assert abs(float(images.mean())) < 1e-5
    assert abs(float(images.std()) - 1) < 1e-5


def test_more_images_than_there_are() -> None:
    with pytest.raises(ValueError, match=r"train=1400 and validation=100 ask for 1500 images; digits has 1437"):
        data.load(Data("digits", train=1400, validation=100), CPU)


def test_unknown_data_set_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"data set 'mnist' is not known; use one of digits, cifar10"):
        data.load(Data("mnist"), CPU)


def test_missing_data_is_said_and_never_made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NFNETS_LITE_DATA", str(tmp_path))
    monkeypatch.setattr(data, "ROOT", tmp_path)
    with pytest.raises(FileNotFoundError, match="python -m data_scripts cifar10"):
        data.load(Data("cifar10"), CPU)


def test_a_damaged_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "train_images.npy").write_bytes(b"not an array")
    monkeypatch.setenv("NFNETS_LITE_DATA", str(tmp_path))
    with pytest.raises((FileNotFoundError, ValueError), match="cifar10"):
        data.load(Data("cifar10"), CPU)


def test_batches_are_full_and_cover_every_epoch_once() -> None:
    split = data.Split(torch.arange(10.0).reshape(10, 1, 1, 1), torch.arange(10))
    found = list(data.batches(split, 4, 5, torch.Generator().manual_seed(0), augment=False))
    assert [len(batch) for batch in found] == [4] * 5
    stream = torch.cat([batch.labels for batch in found])
    assert sorted(stream[:10].tolist()) == sorted(stream[10:].tolist()) == list(range(10))
    assert all(torch.equal(batch.images.flatten().long(), batch.labels) for batch in found)


def test_a_batch_may_be_larger_than_the_data() -> None:
    split = data.Split(torch.zeros(3, 1, 1, 1), torch.arange(3))
    (batch,) = data.batches(split, 8, 1, torch.Generator().manual_seed(0), augment=False)
    assert torch.bincount(batch.labels).tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])


def test_augmentation_only_moves_and_mirrors() -> None:
    x = torch.rand(64, 3, 8, 8) + 0.5
    y = data.crop_and_flip(x, torch.Generator().manual_seed(0), pad=2)
    assert y.shape == x.shape
    padded = torch.nn.functional.pad(x, (2,) * 4)
    for image, source in zip(y, padded):
        crops = [source[:, i : i + 8, j : j + 8] for i in range(5) for j in range(5)]
        assert any(torch.equal(image, crop) or torch.equal(image, crop.flip(2)) for crop in crops)
    assert not torch.equal(x, y)


def test_real_cifar10(cifar10: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NFNETS_LITE_DATA", str(cifar10))
    splits = data.load(Data("cifar10", train=5000, validation=2000, test=10000, pool=2), CPU)
    assert splits["train"].images.shape == (5000, 3, 16, 16)
    assert torch.bincount(splits["test"].labels).tolist() == [1000] * 10
    shared = {image.numpy().tobytes() for image in splits["train"].images} & {
        image.numpy().tobytes() for image in splits["validation"].images
    }
    assert not shared
