"""Converted arrays on disk: written completely or not at all, and their sums are checked before they are read."""

import shlex
from collections.abc import Callable, Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import TypeVar

import numpy as np

from . import sums
from .sources import Source, data_root, lookup

KEYS = ("train_images", "train_labels", "test_images", "test_labels")
SUMS = "SHA256SUMS"  # written last: while it is missing, a data set without pinned sums is not complete
T = TypeVar("T")


def read(name: str, root: Path | str | None = None) -> dict[str, np.ndarray]:
    """Read a converted data set after checking the sum of every file.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    root : path, optional
        The folder given to ``convert`` as `out`; None: `data_root()`.

    Returns
    -------
    dict of str to ndarray
        ``train_images`` and ``test_images``, uint8 (N, C, H, W); ``train_labels`` and ``test_labels``, uint8 (N,).

    Raises
    ------
    FileNotFoundError
        If the data set has not been converted completely.
    ValueError
        If `name` is unknown, or a file has a wrong sum.
    """
    return _each(
        lookup(name),
        (data_root() if root is None else Path(root)) / name,
        lambda handle: np.load(handle, allow_pickle=False),
    )


def verify(spec: Source, folder: Path) -> None:
    """Check that `folder` holds all arrays of `spec` with their sums; raises the errors of `read`."""
    _each(spec, folder, lambda _: None)


def write(spec: Source, folder: Path, arrays: Mapping[str, np.ndarray], work: Path) -> None:
    """Write `arrays` to `work`, a folder on the same file system, and move them to `folder`, the sums last."""
    found = {}
    for key in KEYS:
        with (work / f"{key}.npy").open("w+b") as handle:
            np.save(handle, np.ascontiguousarray(arrays[key]), allow_pickle=False)
            found[f"{key}.npy"] = sums.digest(handle, "SHA-256")
    if spec.sha256 and found != spec.sha256:
        raise ValueError(
            f"{spec.name}: the converted files have SHA-256 {found}, expected {dict(spec.sha256)}, although the "
            "published files have their sums; data_scripts or the installed NumPy is at fault: please report it"
        )
    (work / SUMS).write_text("".join(f"{value}  {name}\n" for name, value in found.items()), encoding="ascii")
    folder.mkdir(exist_ok=True)
    (folder / SUMS).unlink(missing_ok=True)  # old sums must not stand beside a mixture of old and new files
    for name in (*found, SUMS):
        (work / name).replace(folder / name)


def _each(spec: Source, folder: Path, use: Callable[[BufferedIOBase], T]) -> dict[str, T]:
    """Open each array file, check its sum, and apply `use` to it."""
    command = f"python -m data_scripts {spec.name}" + (
        "" if folder.parent == data_root() else f" --out {shlex.quote(str(folder.parent))}"
    )
    way_out = f"run `{command}` (with `--from DIR` if the published files are at hand in DIR)"
    missing = f"is missing, so {spec.title} is not there or not complete; {way_out}"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} {missing}")
    try:
        expected = spec.sha256 or _listed(folder / SUMS)
        results = {}
        for key in KEYS:
            path = folder / f"{key}.npy"
            with path.open("rb") as handle:  # one handle, so that the bytes read are the bytes that were summed
                sums.require(handle, path, "SHA-256", expected.get(path.name, "not listed"), way_out)
                results[key] = use(handle)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error.filename} {missing}") from None
    return results


def _listed(path: Path) -> dict[str, str]:
    pairs = (line.split(maxsplit=1) for line in path.read_text(encoding="ascii", errors="replace").splitlines())
    return {pair[1]: pair[0] for pair in pairs if len(pair) == 2}
