"""The authors' parameter trees: a pickled dictionary of arrays, read without running code from the file."""

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor


def read_tree(path: Path) -> dict[str, Tensor]:
    """Arrays of a parameter tree, by module and leaf below the network's own name: ``"nf_block_1/conv0/w"``.

    The file is a pickle, as the authors' ``.npz`` files are, or a real NumPy archive of plain arrays.

    Raises
    ------
    ImportError
        Without NumPy, which the package itself does not need.
    pickle.UnpicklingError
        If the pickle asks for anything but arrays and containers.
    ValueError
        If the file is damaged, or holds anything but the floating-point arrays of one network.
    """
    try:
        import numpy as np
    except ImportError as error:
        raise ImportError(f"path={str(path)!r} holds NumPy arrays; install numpy to read it") from error
    arrays: dict[str, Tensor] = {}
    roots: set[str] = set()
    for place, leaf in _leaves(_content(path), ""):
        value = leaf.value if isinstance(leaf, _Array) else leaf
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
            what = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
            raise ValueError(
                f"path={str(path)!r} has {what} at {place!r}; a parameter tree holds floating-point arrays"
            )
        root, *parts = (part for part in place.split("/") if part not in ("", "~"))
        roots.add(root)
        # A copy: the array may be read-only, in the other byte order, or a view of the whole file.
        arrays["/".join(parts)] = torch.from_numpy(value.astype(value.dtype.newbyteorder("="), order="C"))
    if len(roots) != 1:
        raise ValueError(f"path={str(path)!r} holds {len(roots)} networks {sorted(roots)}; save the tree of one alone")
    return arrays


def _content(path: Path) -> Any:
    """The dictionary in an archive or a pickle."""
    import numpy as np

    with path.open("rb") as file:
        zipped = zipfile.is_zipfile(file)
        file.seek(0)
        try:
            return dict(np.load(file, allow_pickle=False)) if zipped else _ArraysOnly(file).load()
        except _Refusal as error:
            raise pickle.UnpicklingError(
                f"path={str(path)!r} {error}; a parameter tree needs arrays and containers only, and loading anything "
                "else could run code. If you trust the file, convert it to plain arrays elsewhere"
            ) from None
        except Exception as error:  # of any kind, if the pickle is damaged
            raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> ValueError:
    """The error for a file that cannot be read, with what its reader said, but not with torch's advice to trust it."""
    said = re.split(r"\.?\s*\n|\. |\.$", str(error).rpartition("WeightsUnpickler error: ")[2].strip())[0]
    with path.open("rb") as file:
        start = file.read(20)
    return ValueError(
        f"path={str(path)!r} is not a whole {path.suffix} file of weights: {said or 'it ends too early'}; it begins "
        f"with {start!r}. Download or save it again, under the suffix of its format; a small file of text is a web "
        "page, or Git LFS's pointer to the weights"
    )


def _leaves(tree: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{place}/{key}")
    else:
        yield place, tree


class _Refusal(Exception):
    """Why a pickle is not read."""


# NumPy's own constructors are unsafe: a pickle can clear the flag of a dtype that marks objects, and an array then
# takes raw bytes for pointers. The classes and functions below make arrays of numbers only.
class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _allowed(module, name)


def _allowed(module: str, name: str) -> Any:
    if (module, name) not in _NAMES:
        raise _Refusal(f"asks for {module}.{name}")
    return _NAMES[module, name]


class _DType:
    """Replaces ``numpy.dtype``."""

    def __init__(self, name: str, *_: object) -> None:
        if not re.fullmatch("[biuf][1248]", name):
            raise _Refusal(f"holds an array of dtype {name!r}")
        self.name, self.order = name, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "=", "|"):
            raise _Refusal(f"asks for the byte order {state[1]!r}")
        self.order = state[1]


class _Array:
    """Replaces ``numpy.ndarray`` and its constructor; `value` is the array."""

    value: Any = None

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        self.value = _from_bytes(raw, dtype, shape, "F" if fortran else "C")


def _from_bytes(raw: Any, dtype: Any, shape: tuple[int, ...], order: Literal["C", "F"]) -> Any:
    import numpy as np

    if not isinstance(dtype, _DType):
        raise _Refusal(f"holds an array of {dtype!r}")
    return np.frombuffer(raw, np.dtype(dtype.order + dtype.name)).reshape(shape, order=order)


def _latin1(text: str, encoding: str) -> bytes:
    """Bytes as pickle protocol 2 writes them; other codecs, some of which decompress, are refused."""
    if encoding != "latin1":
        raise _Refusal(f"asks for the codec {encoding!r}")
    return text.encode("latin1")


def _create_array(make: Callable[..., Any], args: tuple[Any, ...], state: Any, attributes: object = None) -> Any:
    array = make(*args)
    array.__setstate__(state)
    return array


# What a pickle of arrays may use, by the modules of NumPy 1 and 2 and of dill, which the authors used. dill writes
# _get_attr(_import_module("numpy..."), "_reconstruct"); nothing is imported for it here.
_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _latin1,
}
for _core in ("numpy.core", "numpy._core"):
    _NAMES[f"{_core}.numeric", "_frombuffer"] = _from_bytes
    _NAMES |= {(f"{_core}.{part}", "_reconstruct"): _Array for part in ("multiarray", "_multiarray_umath")}
for _dill in ("dill._dill", "dill.dill"):
    _NAMES |= {(_dill, "_create_array"): _create_array, (_dill, "_get_attr"): _allowed, (_dill, "_import_module"): str}
