"""Bytes of published files to arrays. Nothing here checks a sum: callers do, before they call."""

import gzip
import io
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

Split = tuple[np.ndarray, np.ndarray]  # images in any shape, labels


class _DType:
    """Stands in for ``numpy.dtype``: unsigned bytes or a refusal."""

    def __init__(self, *args: object) -> None:
        if args[:1] not in (("u1",), ("uint8",)):
            raise pickle.UnpicklingError(f"refused an array of dtype {args[:1]}; only 'u1' is accepted")

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment mean nothing for single bytes."""


class _Array:
    """Stands in for ``numpy.ndarray`` and its ``_reconstruct``, whose arguments describe an empty array."""

    def __init__(self, *_: object) -> None:
        self.value = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran_order, raw = state
        if not isinstance(dtype, _DType) or fortran_order:
            raise pickle.UnpicklingError("refused an array that is not plain bytes in C order")
        raw = raw.encode("latin1") if isinstance(raw, str) else raw  # Python 2 strings are read as latin1
        self.value = np.frombuffer(raw, np.uint8).reshape(shape)


# NumPy's own constructors would not do: a pickle that sets the state of a dtype clears the flag that marks objects,
# after which an array takes raw bytes for pointers. Hence stand-ins, which hold bytes and nothing else.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return _ALLOWED[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"refused the global {module_name}.{global_name}: a data file may name the parts of a NumPy byte array "
                "and nothing else; this is not a published file"
            ) from None


def restricted_load(content: bytes) -> Any:
    """Unpickle plain containers, numbers, strings and uint8 arrays (as objects with a `value`); run nothing.

    Raises
    ------
    pickle.UnpicklingError
        For any other global, which is named, and for a stream that is not a whole pickle.
    """
    try:
        # fix_imports=False: names are judged as they stand in the file, not as Python 3 renames them.
        return _Unpickler(io.BytesIO(content), fix_imports=False, encoding="latin1").load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # a garbled stream can raise nearly anything
        raise pickle.UnpicklingError(f"not a readable pickle: {type(error).__name__}: {error}") from error


def cifar(contents: Iterable[bytes]) -> Split:
    """CIFAR batches, one pickled dict each, joined in order; rows of `data` are channel, then row, then column."""
    images, labels = [], []
    for content in contents:
        batch = restricted_load(content)
        images.append(batch["data"].value)
        labels.extend(batch["fine_labels"] if "fine_labels" in batch else batch["labels"])  # CIFAR-100, CIFAR-10
    return np.concatenate(images), np.array(labels)


def cifar_classes(content: bytes) -> tuple[str, ...]:
    """Class names in CIFAR's ``meta`` file."""
    meta = restricted_load(content)
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
