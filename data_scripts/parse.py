"""Parsing of published files to arrays. Callers check the sums first: only the publisher's own bytes are unpickled."""

import gzip
import pickle
from collections.abc import Callable, Iterable

import numpy as np

Split = tuple[np.ndarray, np.ndarray]  # images in any shape, labels


def cifar(contents: Iterable[bytes]) -> Split:
    """CIFAR batches, one pickled dict each, joined in order; rows of `data` are channel, then row, then column."""
    images, labels = [], []
    for content in contents:
        batch = pickle.loads(content, encoding="latin1")  # Python 2 wrote them
        images.append(batch["data"])
        labels.extend(batch["fine_labels"] if "fine_labels" in batch else batch["labels"])  # CIFAR-100, CIFAR-10
    return np.concatenate(images), np.array(labels)


def cifar_classes(content: bytes) -> tuple[str, ...]:
    """Class names in CIFAR's ``meta`` file."""
    meta = pickle.loads(content, encoding="latin1")
    return tuple(meta["fine_label_names"] if "fine_label_names" in meta else meta["label_names"])


def idx(contents: Iterable[bytes]) -> Split:
    """Gzipped IDX files: images, then labels."""
    images, labels = (_idx_array(gzip.decompress(content)) for content in contents)
    return images, labels


def _idx_array(raw: bytes) -> np.ndarray:
    # Two zero bytes, 8 for uint8, the number of dimensions, then each dimension as a big-endian 32-bit integer.
    start = 4 + 4 * raw[3]
    if raw[:3] != b"\0\0\x08" or len(raw) < start:
        raise ValueError(f"not an IDX file of uint8: it starts with {raw[:4].hex()}, expected 000008 and a rank")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(np.frombuffer(raw[4:start], ">u4"))


READERS: dict[str, Callable[[Iterable[bytes]], Split]] = {"cifar": cifar, "idx": idx}
