"""Execute one chapter: a text notebook, run by papermill in a fresh kernel, gives the same notebook each time."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from book.figures.parameters import ACCEPTED, assignments
from book.tool.layout import Book, ChapterError, Job
from book.tool.stamps import KEY, stamp

VOLATILE = ("papermill", "execution", "ExecuteTime", "jupytext")


def read_chapter(path: Path) -> Any:
    """Read a chapter's MyST text as a notebook."""
    import jupytext

    return jupytext.read(path, fmt="md:myst")


def parameter_names(nb: Any, name: str) -> list[str]:
    """The names that a chapter's `parameters` cell assigns; only these may be passed to the chapter."""
    code = next((cell for cell in nb.cells if cell.cell_type == "code"), None)
    if code is None or "parameters" not in code.metadata.get("tags", []):
        raise ChapterError(f"{name}: its first code cell is not tagged `parameters`; tag one that sets {ACCEPTED}")
    return list(assignments(code.source))


def check_parameters(nb: Any, name: str, parameters: dict[str, Any]) -> None:
    """Raise a ChapterError for a parameter that the chapter's `parameters` cell does not assign."""
    accepted = parameter_names(nb, name)
    unknown = [key for key in parameters if key not in accepted]
    if unknown:  # papermill would only warn, inject the name, and leave the chapter to run with its default
        raise ChapterError(
            f"{name}: parameter {unknown[0]!r} is not one it accepts ({', '.join(accepted)}); "
            f"its `parameters` cell must set {ACCEPTED}"
        )


def say(line: str) -> None:
    """Print a line in one piece, because another chapter may be printing too."""
    print(f"{line}\n", end="", flush=True)


@contextmanager
def heartbeat(name: str, every: float = 60.0) -> Iterator[None]:
    """Print a line every minute, so that people and CI services see that a long chapter is not hung."""
    done, start = threading.Event(), time.monotonic()

    def beat() -> None:
        while not done.wait(every):
            say(f"{name}: {time.monotonic() - start:.0f} s so far")

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def private_channels() -> Iterator[Any]:
    """Yield a configuration with which a kernel communicates through its own files, where the system has such channels.

    With ports, one process chooses a port and another one opens it a second later. If kernels start together, one may
    find its port taken, and die.
    """
    from traitlets.config import Config

    with TemporaryDirectory(prefix="kernel-") as folder:
        files = {"KernelManager": {"transport": "ipc", "ip": f"{folder}/channel"}}
        yield Config(files if os.name == "posix" else {})


def execute(book: Book, job: Job, *, timeout: float, stream: bool) -> None:
    """Execute one chapter; on failure keep the partial notebook and raise a ChapterError with the error's last line."""
    import nbformat
    import papermill
    from nbclient.exceptions import CellTimeoutError

    page, profile = job.page, job.profile
    nb = read_chapter(page.path)
    check_parameters(nb, page.name, job.parameters)
    staging = book.staging(page, profile)
    staging.unlink(missing_ok=True)
    staging.parent.mkdir(parents=True, exist_ok=True)
    # Without this every kernel warns about frozen modules, which matter only to a debugger.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    deadline = time.monotonic() + timeout if timeout else None
    error = ""
    try:
        with heartbeat(page.name), private_channels() as channels:
            papermill.execute_notebook(
                nb,
                staging,
                parameters=job.parameters,
                kernel_name="python3",
                cwd=book.root,
                progress_bar=False,
                log_output=stream,
                coalesce_streams=True,  # otherwise the timing decides into how many outputs prints are cut
                config=channels,
                # nbclient's limit is for a cell: each cell gets what is left of the chapter's time
                timeout_func=lambda cell: max(1, int(deadline - time.monotonic())) if deadline else None,
            )
    except CellTimeoutError:
        error = f"did not finish within --timeout {timeout:g} s"
    except Exception as exc:  # any error ends this chapter and not the book
        error = (str(exc).strip() or type(exc).__name__).splitlines()[-1]
    target, other = book.executed(page, profile), book.partial(page, profile)
    target, other = (other, target) if error else (target, other)
    if staging.is_file():
        nb = clean(nbformat.read(staging, as_version=4), book.root)
        if not error:
            nb.metadata[KEY] = {"stamp": stamp(job.parts), "parts": job.parts}
            other.unlink(missing_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nb, staging)
        staging.replace(target)  # a reader of the file sees the old or the new one, never half of it
    if error:
        raise ChapterError(error)


def clean(nb: Any, root: Path) -> Any:
    """Remove what differs between equal runs or between machines, and hide the cell that papermill injects."""
    for key in VOLATILE:
        nb.metadata.pop(key, None)
    for number, cell in enumerate(nb.cells):
        cell["id"] = f"cell-{number}"
        for key in VOLATILE:
            cell.metadata.pop(key, None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata.tags = ["injected-parameters", "remove-cell"]
        for output in cell.get("outputs", []):
            _clean_output(output, root)
    return nb


def _clean_output(output: Any, root: Path) -> None:
    if "text" in output:
        output.text = _without_paths(output.text, root)
    if "traceback" in output:
        output.traceback = [_without_paths(line, root) for line in output.traceback]
    for mime, value in output.get("data", {}).items():
        if mime in ("text/plain", "text/html", "text/markdown") and isinstance(value, str):
            output.data[mime] = _without_paths(value, root)


def _without_paths(text: str, root: Path) -> str:
    text = re.sub(r"\S*/ipykernel_\d+/\d+\.py", "<cell>", text)
    for prefix in sorted({str(root), sys.prefix}, key=len, reverse=True):  # the environment may lie inside the root
        shown = "." if prefix == str(root) else "<python>"
        text = re.sub(re.escape(prefix) + r"(?![\w.-])", shown, text)
    return text
