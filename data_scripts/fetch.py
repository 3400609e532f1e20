"""Plain download of published files, limited in size and time. The caller checks the sums of the files."""

import http.client
import time
import urllib.error
import urllib.request
from pathlib import Path

from .sources import Source

MAX_BYTES = 256 << 20  # larger than every file that is fetched, far smaller than a disk
MAX_SECONDS = 3600.0
STALL_SECONDS = 30.0
_BLOCK = 1 << 20


def download(source: Source, folder: Path) -> Path:
    """Fetch the published files of `source` into `folder`, and return the folder."""
    for file in source.downloads:
        _download_one(source.base_url + file.name, folder / file.name)
    return folder


def _download_one(url: str, target: Path) -> None:
    elsewhere = f"download {url} elsewhere and pass --from DIR, the folder that holds it"
    stop_at = time.monotonic() + MAX_SECONDS
    received = 0
    print(f"fetching {url}", flush=True)
    try:
        with urllib.request.urlopen(url, timeout=STALL_SECONDS) as answer, target.open("wb") as out:
            while block := answer.read1(_BLOCK):  # what has arrived: a slow stream must not outlast the limit
                received += len(block)
                if received > MAX_BYTES:
                    raise ValueError(f"{url} sends more than the {MAX_BYTES:,} bytes accepted; {elsewhere}")
                if time.monotonic() > stop_at:
                    raise TimeoutError(f"not finished in {MAX_SECONDS:.0f} s")
                out.write(block)
                if received // (20 * _BLOCK) > (received - len(block)) // (20 * _BLOCK):
                    print(f"  {received / 1e6:.0f} MB", flush=True)
    except urllib.error.HTTPError as error:  # before its base URLError: with an HTTPError the network works
        raise ConnectionError(f"{url} answered {error.code} {error.reason}; try later, or {elsewhere}") from error
    except urllib.error.URLError as error:
        raise ConnectionError(f"no network: {error.reason}; {elsewhere}") from error
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise ConnectionError(
            f"{url} broke off after {received:,} bytes: {error}; try again, or {elsewhere}"
        ) from error
