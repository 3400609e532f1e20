"""Conversion of published files to verified arrays: find, check the sum, extract, parse, write."""

import io
import lzma
import tarfile
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from . import fetch, parse, store, sums
from .sources import Published, Source, data_root, lookup


def convert(name: str, source: Path | str | None = None, out: Path | str | None = None) -> Path:
    """Write ``out/name/*.npy``; if the files exist and their sums agree, do nothing.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    source : path, optional
        Folder with the published files; without it they are downloaded.
    out : path, optional
        Folder for the converted data sets; None: `data_root()`.

    Returns
    -------
    Path
        The folder that holds the four arrays.
    """
    spec, out = lookup(name), data_root() if out is None else Path(out).expanduser()
    folder = out / name
    try:
        store.verify(spec, folder)
    except FileNotFoundError:
        pass
    except ValueError as error:
        print(f"converting again, since {error}", flush=True)
    else:
        print(f"{name}: {folder} is complete and its sums agree; nothing to do", flush=True)
        return folder
    print(spec.describe(), flush=True)
    if out.is_symlink() and not out.exists():
        raise FileNotFoundError(
            f"{out} is a link to {out.readlink()}, which does not exist; make that folder, or remove the link"
        )
    out.mkdir(parents=True, exist_ok=True)
    # A temporary folder beside the result: a finished file moves into place by one rename on one file system.
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=out) as scratch:
        work = Path(scratch)
        place = fetch.download(spec, work) if source is None else Path(source).expanduser()
        # All sums are checked before any parsing: with one wrong file, nothing is parsed.
        contents = {file: _content(spec, file, path) for file, path in _find(spec, place, work).items()}
        store.write(spec, folder, _arrays(spec, contents), work)
    print(f"{name}: wrote {folder}", flush=True)
    return folder


def extract(archive: BinaryIO, folder: Path, wanted: Collection[str]) -> None:
    """Extract the regular files named in `wanted`; refuse the whole archive if any member would leave `folder`."""
    with tarfile.open(fileobj=archive, mode="r:gz") as tar:
        for member in tar:
            tarfile.data_filter(member, str(folder))  # raises for members that are never extracted, too
            if member.name in wanted and member.isfile():
                tar.extract(member, folder, filter="data")


def _find(spec: Source, place: Path, work: Path) -> dict[Published, Path]:
    """Paths of the files to parse; they are extracted from the archive if `place` has it."""
    if not place.is_dir():
        raise FileNotFoundError(f"--from {place} is not a folder; give the one that holds the files of {spec.urls}")
    files = spec.train + spec.test + ((spec.meta,) if spec.meta else ())
    # The data set's own folders come first, because DIR itself may hold an unrelated file called `train`.
    folders = [place / spec.folder, place / spec.name, place]
    if spec.archive and (path := _first(folders, [spec.archive.name])):
        with path.open("rb") as archive:  # one handle, so that the bytes extracted are the bytes that were summed
            sums.require(archive, path, "MD5", spec.archive.md5, f"fetch it again from {spec.urls}")
            extract(archive, work, {f"{spec.folder}/{file.name}" for file in files})
        folders = [work / spec.folder]
    found = {file: path for file in files if (path := _first(folders, [file.name, f"{file.name}.xz"]))}
    if missing := [file.name for file in spec.train + spec.test if file not in found]:
        looked = ", ".join(str(folder) for folder in dict.fromkeys(folders))
        archived = f", nor {spec.archive.name}" if spec.archive else ""
        raise FileNotFoundError(
            f"{', '.join(missing)} not found (plain or .xz){archived}; looked in {looked}; get them from {spec.urls}"
        )
    return found


def _first(folders: list[Path], names: list[str]) -> Path | None:
    return next((path for folder in folders for name in names if (path := folder / name).is_file()), None)


def _content(spec: Source, file: Published, path: Path) -> bytes:
    """The published bytes of `file`, unpacked if `path` is an .xz of it, after a check of their sum."""
    again = f"fetch it again from {spec.urls}"
    try:
        with lzma.open(path) if path.name == f"{file.name}.xz" else path.open("rb") as handle:
            content = handle.read(fetch.MAX_BYTES + 1)  # a packed file may unpack to any size
    except (lzma.LZMAError, EOFError) as error:
        raise ValueError(
            f"{path} is damaged or truncated: {error}; expected content of MD5 {file.md5}; {again}"
        ) from error
    sums.require(io.BytesIO(content), path, "MD5", file.md5, again)
    return content


def _arrays(spec: Source, contents: Mapping[Published, bytes]) -> dict[str, np.ndarray]:
    """Parse verified contents, and check that counts, labels and classes are those of `spec`."""
    meta = spec.meta
    if meta and meta in contents and (names := parse.cifar_classes(contents[meta])) != spec.classes:
        raise ValueError(f"{meta.name} has the classes {names}; data_scripts/sources.py has {spec.classes}")
    arrays = {}
    for split, files in (("train", spec.train), ("test", spec.test)):
        images, labels = parse.READERS[spec.format]([contents[file] for file in files])
        images, count, classes = images.reshape(-1, *spec.shape), spec.counts[split], len(spec.classes)
        if not len(images) == len(labels) == count or labels.min() < 0 or labels.max() >= classes:
            raise ValueError(
                f"{spec.name}: {split} has {len(images)} images, {len(labels)} labels from {labels.min()} to "
                f"{labels.max()}; expected {count} of each and labels from 0 to {classes - 1}"
            )
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images, labels.astype(np.uint8)
    return arrays
