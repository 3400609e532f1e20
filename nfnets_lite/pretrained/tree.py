"""The authors' parameter trees: a pickled dictionary of arrays, read without running anything that it asks for."""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

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
        If there is something else than floating-point arrays below one network's name.
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
    for place, value in _leaves(tree, ""):
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
    """A real ``.npz``: its arrays by name; what is pickled inside goes through our own reader."""
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
                    pickled = _unpickle(file, path)
                    members |= pickled.item() if pickled.ndim == 0 else {member: pickled}
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


def _allowed() -> dict[tuple[str, str], Any]:
    """What a pickle of arrays may name, under the module paths of NumPy 1 and 2 and of dill, which the authors used."""
    import numpy as np

    reconstruct: Callable[..., Any] = np.zeros(0).__reduce__()[0]  # type: ignore[assignment]
    names: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): _latin1,
    }
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.numeric", "_frombuffer"] = _from_buffer
    for module in _NUMPY_CORES:
        names[module, "_reconstruct"] = reconstruct

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
    """How pickle protocol 2 writes bytes; other codecs, some of which decompress, are not wanted."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"the pickle asks for the codec {encoding!r}; only arrays and containers are read")
    return text.encode("latin1")


def _from_buffer(buffer: bytes, dtype: Any, shape: tuple[int, ...], order: Any) -> Any:
    import numpy as np

    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order)


def _create_array(make: Callable[..., Any], args: tuple[Any, ...], state: Any, attributes: object = None) -> Any:
    array = make(*args)
    array.__setstate__(state)
    return array
