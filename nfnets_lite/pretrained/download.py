"""Download the authors' ImageNet weights into a cache, with checks of length and hash."""

import base64
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import torch

DEEPMIND = "https://storage.googleapis.com/dm-nfnets"
_FILES = {f"nfnet_f{i}": f"F{i}_haiku.npz" for i in range(7)}
_CHUNK = 1 << 20


def download(name: str, *, server: str = DEEPMIND) -> Path:
    """Path of a published parameter file, from the cache or from the server.

    The cache is ``torch.hub.get_dir() / "nfnets_lite"``. It holds each file's SHA-256, which is checked at each use.

    Parameters
    ----------
    name : str
        ``"nfnet_f0"`` to ``"nfnet_f6"``.
    server : str
        URL of the folder.

    Raises
    ------
    ValueError
        For an unknown name.
    ConnectionError
        If the server cannot be reached, refuses or states no hash, or if length or hash of the download are wrong.

    Examples
    --------
    >>> download("nfnet_f0").name  # doctest: +SKIP
    'F0_haiku.npz'
    """
    if name not in _FILES:
        raise ValueError(f"model={name!r} has no published weights; source='deepmind' has {', '.join(_FILES)}")
    target = Path(torch.hub.get_dir()) / "nfnets_lite" / _FILES[name]
    stated = target.with_name(f"{target.name}.sha256")
    if target.is_file() and stated.is_file() and stated.read_text().split()[:1] == [_sha256(target)]:
        return target
    url = f"{server}/{target.name}"
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=target.parent, prefix=f"{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            sha256 = _fetch(url, file.write)
        stated.write_text(f"{sha256}  {target.name}\n")
        os.replace(part, target)
    except HTTPError as error:
        raise ConnectionError(f"{url} answered {error.code} {error.reason}") from error
    except (URLError, TimeoutError, ConnectionResetError) as error:
        reason = getattr(error, "reason", error)
        raise ConnectionError(
            f"{url} cannot be reached ({reason}): is there no network here? Download it elsewhere and pass the file: "
            f"load_pretrained({name!r}, 'path/to/{target.name}')"
        ) from error
    finally:
        Path(part).unlink(missing_ok=True)
    return target


def _fetch(url: str, write: Callable[[bytes], object]) -> str:
    """Stream a URL to `write`, check length and hash, and return the SHA-256."""
    with urlopen(url, timeout=30) as answer:
        length, hashes = answer.headers.get("Content-Length"), _stated_hashes(answer.headers)
        if not hashes:
            raise ConnectionError(f"{url} states no x-goog-hash, so it cannot be checked; did a proxy drop the header?")
        print(f"downloading {url} ({int(length or 0) / 1e6:.0f} MB)", file=sys.stderr)
        md5, sha256, crc, count = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0, 0
        while chunk := answer.read(_CHUNK):
            write(chunk)
            count += len(chunk)
            md5.update(chunk)
            sha256.update(chunk)
            if "md5" not in hashes:  # a Python loop, some 10 MB/s: only if the server states nothing faster
                crc = crc32c(chunk, crc)
    if length is not None and count != int(length):
        raise ConnectionError(f"{url} broke off: {count} bytes of the {length} that the server stated. Try again")
    kind, found = ("md5", md5.digest()) if "md5" in hashes else ("crc32c", crc.to_bytes(4, "big"))
    if found != hashes[kind]:
        raise ConnectionError(
            f"{url}: the {kind} of the {count} bytes is {found.hex()}, the server stated {hashes[kind].hex()}. The "
            "file was damaged on the way: try again"
        )
    return sha256.hexdigest()


def _stated_hashes(headers: Message) -> dict[str, bytes]:
    """``x-goog-hash: crc32c=...,md5=...``, base64; one header or several."""
    stated = ",".join(headers.get_all("x-goog-hash", []))
    return {kind: base64.b64decode(value) for kind, value in re.findall(r"(md5|crc32c)=([^,\s]+)", stated)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def crc32c(data: bytes, value: int = 0) -> int:
    """The Castagnoli checksum (RFC 3720, appendix B.4), continued from `value`.

    Examples
    --------
    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    value ^= 0xFFFFFFFF
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


_TABLE = list(range(256))
for _ in range(8):
    _TABLE = [(entry >> 1) ^ (0x82F63B78 if entry & 1 else 0) for entry in _TABLE]
