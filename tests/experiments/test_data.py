from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.configs import transfer
from experiments.tasks import data
from experiments.tasks.draws import batch, crop_and_flip, draw, mix
from experiments.tasks.recipe import Augment, Data

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


def split_of(images: torch.Tensor, labels: torch.Tensor) -> data.Split:
    channels = images.shape[1]
    return data.Split(images, labels, torch.zeros(1, channels, 1, 1), torch.ones(1, channels, 1, 1))


def drawn(count: int, batch_size: int, updates: int, augment: Augment = Augment(), seed: int = 0):  # noqa: B008
    return draw(count, batch_size, updates, torch.Generator().manual_seed(seed), augment, CPU)


def test_batches_are_full_and_cover_every_epoch_once() -> None:
    split = split_of(torch.arange(10.0).reshape(10, 1, 1, 1), torch.arange(10))
    draws = drawn(10, 4, 5)
    found = [batch(split, draws.at(i), Augment(), 10) for i in range(5)]
    assert [len(labels) for _, labels in found] == [4] * 5
    stream = torch.cat([labels for _, labels in found])
    assert sorted(stream[:10].tolist()) == sorted(stream[10:].tolist()) == list(range(10))
    assert all(torch.equal(images.flatten().long(), labels) for images, labels in found)


def test_a_batch_may_be_larger_than_the_data() -> None:
    rows = drawn(3, 8, 1).rows[0]
    assert torch.bincount(rows).tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])


def test_the_order_does_not_depend_on_the_augmentation() -> None:
    assert torch.equal(drawn(10, 4, 5).rows, drawn(10, 4, 5, Augment(crop_flip=True, mixup=0.2)).rows)


@pytest.mark.parametrize("pad", [2, 4])
def test_crops_only_move_and_mirror(pad: int) -> None:
    x = torch.rand(64, 3, 8, 8) + 0.5
    draws = drawn(64, 64, 1, Augment(crop_flip=True, pad=pad)).at(0)
    assert (int(draws.shift.min()), int(draws.shift.max())) == (0, 2 * pad)
    y = crop_and_flip(x, draws.shift, draws.flip, pad)
    assert y.shape == x.shape
    padded = torch.nn.functional.pad(x, (pad,) * 4)
    for image, source in zip(y, padded):
        crops = [source[:, i : i + 8, j : j + 8] for i in range(2 * pad + 1) for j in range(2 * pad + 1)]
        assert any(torch.equal(image, crop) or torch.equal(image, crop.flip(2)) for crop in crops)
    assert not torch.equal(x, y)


def test_mixing_weighs_images_and_labels_alike() -> None:
    # Image i is the constant i and has label i, so a mixed pixel is the mean of its labels' numbers.
    n = 8
    x, labels = torch.arange(float(n)).reshape(n, 1, 1, 1).expand(n, 1, 8, 8), torch.arange(n)
    for augment in (Augment(mixup=0.5), Augment(cutmix=1.0), Augment(mixup=0.2, cutmix=1.0)):
        draws = drawn(n, n, 1, augment).at(0)
        images, targets = mix(x, labels, draws.share, draws.box, augment, n)
        assert torch.allclose(targets.sum(1), torch.ones(n))
        assert torch.allclose(images.mean((1, 2, 3)), targets @ torch.arange(float(n)), atol=1e-5)
        assert bool(((targets > 0).sum(1) <= 2).all())
        even, odd = images[0::2], images[1::2]
        pure = [bool((part == part.round()).all()) for part in (even, odd)]  # CutMix leaves every pixel whole
        assert pure == [not augment.mixup, bool(augment.cutmix)]


def test_randaugment_changes_images_within_their_range() -> None:
    pytest.importorskip("kornia")
    split = split_of(torch.randint(0, 256, (16, 3, 16, 16)).float(), torch.arange(16))
    augment = Augment(randaugment=5)
    images, labels = batch(split, drawn(16, 16, 1, augment).at(0), augment, 16)
    assert images.shape == (16, 3, 16, 16)
    assert 0 <= float(images.min()) <= float(images.max()) <= 255
    assert not torch.equal(images, split.images[labels])


def test_fewer_classes() -> None:
    splits = data.load(Data("digits", train=200, validation=50, classes=3), CPU)
    assert all(set(split.labels.tolist()) == {0, 1, 2} for split in splits.values())


def pixels(split: data.Split) -> list[bytes]:
    return [image.tobytes() for image in (split.images * split.std + split.mean).round().byte().numpy()]


def test_another_data_sets_validation_images_are_left_out() -> None:
    source, target = (scale := transfer.SCALES["smoke"]).source, scale.data
    held = set(pixels(data.load(target, CPU)["validation"]))
    seen = set(pixels(data.load(source, CPU)["train"])), set(pixels(data.load(source, CPU, target)["train"]))
    assert len(seen[0] & held) > 100
    assert len(seen[1] & held) <= 1  # a few scans are equal by themselves
    assert [len(data.load(source, CPU, target)[name]) for name in ("train", "validation")] == [700, 100]


@pytest.mark.parametrize("profile", ["small", "gpu"])
def test_pretraining_leaves_the_fine_tunings_validation_out(
    profile: str, cifar10: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NFNETS_LITE_DATA", str(cifar10))
    source, target = (scale := transfer.SCALES[profile]).source, replace(scale.data, test=10)
    held = set(pixels(data.load(target, CPU)["validation"]))
    assert not held & set(pixels(data.load(replace(source, test=10), CPU, target)["train"]))


def test_real_cifar10(cifar10: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NFNETS_LITE_DATA", str(cifar10))
    splits = data.load(Data("cifar10", train=5000, validation=2000, test=10000, pool=2), CPU)
    assert splits["train"].images.shape == (5000, 3, 16, 16)
    assert torch.bincount(splits["test"].labels).tolist() == [1000] * 10
    shared = {image.numpy().tobytes() for image in splits["train"].images} & {
        image.numpy().tobytes() for image in splits["validation"].images
    }
    assert not shared
