"""One chapter: text notebook -> papermill in a fresh kernel -> an executed notebook that is the same each time."""

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
    """The notebook that a MyST text is the source of."""
    import jupytext

    return jupytext.read(path, fmt="md:myst")


def parameter_names(nb: Any, name: str) -> list[str]:
    """The names a chapter's `parameters` cell assigns: the only ones that may be passed to it."""
    code = next((cell for cell in nb.cells if cell.cell_type == "code"), None)
    if code is None or "parameters" not in code.metadata.get("tags", []):
        raise ChapterError(f"{name}: its first code cell is not tagged `parameters`; tag one that sets {ACCEPTED}")
    return list(assignments(code.source))


def check_parameters(nb: Any, name: str, parameters: dict[str, Any]) -> None:
    """Refuse a name that the chapter's `parameters` cell does not assign."""
    accepted = parameter_names(nb, name)
    unknown = [key for key in parameters if key not in accepted]
    if unknown:  # papermill would only warn, inject the name, and leave the chapter to run with its default
        raise ChapterError(
            f"{name}: parameter {unknown[0]!r} is not one it accepts ({', '.join(accepted)}); "
            f"its `parameters` cell must set {ACCEPTED}"
        )


def say(line: str) -> None:
    """Print a line in one piece: another chapter may be printing too."""
    print(f"{line}\n", end="", flush=True)


@contextmanager
def heartbeat(name: str, every: float = 60.0) -> Iterator[None]:
    """A line a minute: a long chapter is not a hung one, and a CI service sees that too."""
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
    """Have a kernel spoken to through files of its own, where a system has that.

    A port is chosen by one process and opened by another a second later: of kernels that start together, one finds its
    port taken, and dies.
    """
    from traitlets.config import Config

    with TemporaryDirectory(prefix="kernel-") as folder:
        files = {"KernelManager": {"transport": "ipc", "ip": f"{folder}/channel"}}
        yield Config(files if os.name == "posix" else {})


def execute(book: Book, job: Job, *, timeout: float, stream: bool) -> None:
    """Run one chapter; raise ChapterError with the last line of what went wrong, the partial notebook kept."""
    import nbformat
    import papermill
    from nbclient.exceptions import CellTimeoutError

    page, profile = job.page, job.profile
    nb = read_chapter(page.path)
    check_parameters(nb, page.name, job.parameters)
    staging = book.staging(page, profile)
    staging.unlink(missing_ok=True)
    staging.parent.mkdir(parents=True, exist_ok=True)
    # Without it every kernel warns about frozen modules, which nobody who builds a book is going to debug.
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
                coalesce_streams=True,  # else the same prints come in one piece or two, as the timing has it
                config=channels,
                # nbclient's limit is for a cell; what is left of the chapter's time makes it one for the chapter
                timeout_func=lambda cell: max(1, int(deadline - time.monotonic())) if deadline else None,
            )
    except CellTimeoutError:
        error = f"did not finish within --timeout {timeout:g} s"
    except Exception as exc:  # whatever it was, it ends this chapter and not the book
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
        staging.replace(target)  # a reader of the file sees the old one or the new one, never half of it
    if error:
        raise ChapterError(error)


def clean(nb: Any, root: Path) -> Any:
    """Drop what differs between two equal runs, or between two machines; hide the cell papermill injects."""
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
