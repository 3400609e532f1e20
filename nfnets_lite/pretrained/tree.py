"""The authors' parameter trees: a pickled dictionary of arrays, read without running code from the file."""

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Literal

import torch
from torch import Tensor

_NUMPY_CORES = tuple(
    f"numpy.{core}.{part}" for core in ("core", "_core") for part in ("multiarray", "_multiarray_umath")
)


def read_tree(path: Path) -> dict[str, Tensor]:
    """Arrays of a parameter tree, by module and leaf below the network's own name: ``"nf_block_1/conv0/w"``.

    Parameters
    ----------
    path : Path
        A pickle (the authors' ``.npz`` files are one), or a real NumPy archive that holds one or holds plain arrays.

    Raises
    ------
    ImportError
        Without NumPy, which the package itself does not need.
    pickle.UnpicklingError
        If the pickle asks for anything but arrays and containers.
    ValueError
        If the file holds anything but the floating-point arrays of one network.
    """
    try:
        import numpy as np
    except ImportError as error:
        raise ImportError(f"path={str(path)!r} holds NumPy arrays; install numpy to read it") from error
    tree: Any
    if zipfile.is_zipfile(path):
        tree = _read_archive(path)
    else:
        with path.open("rb") as file:
            tree = _unpickle(file, path)
    arrays: dict[str, Tensor] = {}
    roots: set[str] = set()
    for place, leaf in _leaves(tree, ""):
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


def _leaves(tree: Any, place: str) -> list[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        return [leaf for key, value in tree.items() for leaf in _leaves(value, f"{place}/{key}")]
    return [(place, tree)]


def _read_archive(path: Path) -> dict[str, Any]:
    """Arrays of a real ``.npz`` by name; pickles inside it go through `_unpickle`."""
    from numpy.lib import format as npy

    headers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    members: dict[str, Any] = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as file:
                version = npy.read_magic(file)
                if version not in headers:
                    raise ValueError(
                        f"path={str(path)!r} has {member!r} in npy format {version}; versions 1 and 2 are read"
                    )
                dtype = headers[version](file)[2]
                if dtype.hasobject:
                    pickled = _unpickle(file, path).value
                    if not (isinstance(pickled, list) and len(pickled) == 1 and isinstance(pickled[0], Mapping)):
                        raise ValueError(f"path={str(path)!r} has {member!r}, which is not one dictionary of arrays")
                    members |= pickled[0]
                    continue
            with archive.open(member) as file:
                members[member.removesuffix(".npy")] = npy.read_array(file, allow_pickle=False)
    return members


def _unpickle(file: IO[bytes], path: Path) -> Any:
    allowed = _allowed()

    class ArraysOnly(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) in allowed:
                return allowed[module, name]
            raise pickle.UnpicklingError(
                f"path={str(path)!r} asks for {module}.{name}; a parameter tree needs arrays and containers only, and "
                "loading anything else could run code. If you trust the file, convert it to plain arrays elsewhere"
            )

    return ArraysOnly(file).load()


class _DType:
    """Replaces ``numpy.dtype``: accepts types of numbers, and objects for the one entry of an archive."""

    def __init__(self, name: str, *_: object) -> None:
        if not re.fullmatch(r"[biuf][1248]|O8?", name):
            raise pickle.UnpicklingError(f"the pickle holds an array of dtype {name!r}; only numbers are read")
        self.name, self.order = name, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError(f"the pickle asks for the byte order {state[1]!r}; it must be < or >")
        self.order = state[1]


class _Array:
    """Replaces ``numpy.ndarray`` and its constructor; `value` is the array, or a list of objects."""

    def __init__(self, *_: object) -> None:
        self.value: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        self.fill(raw, dtype, shape, "F" if fortran else "C")

    def fill(self, raw: Any, dtype: _DType, shape: tuple[int, ...], order: Literal["C", "F"]) -> "_Array":
        import numpy as np

        if not isinstance(dtype, _DType) or isinstance(raw, list) != dtype.name.startswith("O"):
            raise pickle.UnpicklingError("the pickle describes an array that is neither numbers nor objects")
        if isinstance(raw, list):
            self.value = raw
        else:
            self.value = np.frombuffer(raw, np.dtype(dtype.order + dtype.name)).reshape(shape, order=order)
        return self


# NumPy's own constructors are unsafe: a pickle can clear the flag of a dtype that marks objects, and an array then
# takes raw bytes for pointers. The classes above hold numbers or plain objects only.
def _allowed() -> dict[tuple[str, str], Any]:
    """Names that a pickle of arrays may use, by the modules of NumPy 1 and 2 and of dill, which the authors used."""
    names: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _DType,
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): _latin1,
    }
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.numeric", "_frombuffer"] = lambda *args: _Array().fill(*args)
    for module in _NUMPY_CORES:
        names[module, "_reconstruct"] = _Array

    # dill writes _get_attr(_import_module("numpy..."), "_reconstruct"); nothing is imported for it here.
    def get_attr(module: str, name: str) -> Any:
        if (module, name) in names:
            return names[module, name]
        raise pickle.UnpicklingError(f"the pickle asks for {module}.{name}; only arrays and containers are read")

    for dill in ("dill._dill", "dill.dill"):
        names[dill, "_create_array"] = _create_array
        names[dill, "_get_attr"] = get_attr
        names[dill, "_import_module"] = str
    return names


def _latin1(text: str, encoding: str) -> bytes:
    """Bytes as pickle protocol 2 writes them; other codecs, some of which decompress, are refused."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"the pickle asks for the codec {encoding!r}; only arrays and containers are read")
    return text.encode("latin1")


def _create_array(make: Callable[..., Any], args: tuple[Any, ...], state: Any, attributes: object = None) -> Any:
    array = make(*args)
    array.__setstate__(state)
    return array
