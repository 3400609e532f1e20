"""Build the book: execute the chapters that changed, then render.

1. `request.plan` finds the chapters that are stale, by the files that `stamps` hashes.
2. `execute` runs each of them with papermill, several side by side on a CPU (`side_by_side`).
3. A chapter trains the runs that have no record, with `experiments.obtain.obtain`, and draws its figures.
4. `render` copies pages and executed chapters into one folder, and Jupyter Book makes HTML of it.

`python -m book.tool.build` trains the smoke profile, which takes minutes on a CPU. `--profile gpu` shows the committed
records of a GPU; `--profile gpu --rerun 1 --chapter NAME` trains one chapter again. `--status` says which chapters are
stale, and why.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from book.tool import side_by_side, stamps
from book.tool.execute import execute, say
from book.tool.layout import Book, BuildRuns, ChapterError, Job, Page, UsageError
from book.tool.prices import price
from book.tool.render import render
from book.tool.request import Request as Request
from book.tool.request import load_profiles
from book.tool.request import plan as plan
from experiments.terminal import never_fail_to_print

ROOT = Path(__file__).resolve().parents[2]
app = typer.Typer(add_completion=False)


def run(book: Book, request: Request, profiles: Mapping[str, Any]) -> int:
    """Build the book; return the exit status: 0, 1 (a chapter or the rendering failed), 2 (usage), 130 (Ctrl-C)."""
    try:
        pages, jobs = plan(book, request, profiles)
        _, everything = plan(book, replace(request, chapters=()), profiles)
    except UsageError as error:
        return _complain(f"error: {error}", 2)
    _announce(book, jobs)
    try:
        errors = execute_stale(book, request, [job for job in jobs if job.stale])
        if any(errors.values()):
            return report_failures(book, jobs, errors)
        done = {job.page.docname for job in jobs}
        stale = {job.page.docname: job.stale for job in everything if job.page.docname not in done and job.stale}
        return 0 if request.execute_only else render_html(book, request, pages, stale)
    except KeyboardInterrupt:
        return _complain("interrupted: finished chapters are kept; the same command goes on from here", 130)


def _complain(message: str, status: int) -> int:
    print(message, file=sys.stderr)
    return status


def _announce(book: Book, jobs: list[Job]) -> None:
    rows = book.rows()
    for job in jobs:
        name, last = job.page.name, rows.get(job.key, {})
        if not job.stale:
            print(f"{name}: fresh, skipped")
            continue
        stated = price(book, job)
        took = f"; took {last['seconds']:.0f} s last time" if last.get("status") == "ok" else ""
        print(f"{name}: to run ({job.stale})" + (f"; cost: {stated}" if stated else "") + took, flush=True)


def execute_stale(book: Book, request: Request, jobs: list[Job]) -> dict[str, str]:
    """Execute chapters, and note each in status.json when it ends; return the last line of each one's error, or ""."""
    waves = [[job for job in jobs if job.page.waits == waits] for waits in (False, True)]
    # On a GPU a chapter already trains several runs side by side, and several chapters would share its memory.
    shared = any(job.parameters["rerun"] and job.parts["device"] != "cpu" for job in jobs)
    wanted = request.at_once or (1 if shared else side_by_side.fitting())
    errors = {}
    for job, done in side_by_side.each(partial(execute_job, book, request), waves, min(wanted, len(jobs))):
        try:
            row = done.result()
        except BrokenProcessPool:
            row = _row(job, 0.0, "its process died; build this chapter alone (CHAPTER=name) to see more")
        say(f"{job.page.name}: {'FAILED' if row['error'] else 'ok'} after {row['seconds']} s")
        write_status(book, {**book.rows(), job.key: row})
        errors[job.page.name] = row["error"]
    return errors


def execute_job(book: Book, request: Request, job: Job) -> dict[str, Any]:
    """Execute one chapter; return its row of status.json: when it ran, for how long, from what stamp, and its error."""
    start, error = time.monotonic(), ""
    say(f"{job.page.name}: started")
    try:
        execute(book, job, timeout=request.timeout, stream=request.log_output)
    except ChapterError as exc:
        error = str(exc)
    return _row(job, round(time.monotonic() - start, 1), error)


def _row(job: Job, seconds: float, error: str) -> dict[str, Any]:
    return {
        "chapter": job.page.name,
        "profile": job.profile,
        "rerun": job.parameters["rerun"],
        "device": job.parts["device"],
        "python": job.parts["python"],
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": seconds,
        "stamp": stamps.stamp(job.parts),
        "status": "failed" if error else "ok",
        "error": error,
    }


def report_failures(book: Book, jobs: list[Job], errors: dict[str, str]) -> int:
    """Print each failed chapter with the last line of its error and its partial notebook; return the exit status."""
    lines = [f"{sum(map(bool, errors.values()))} of {len(jobs)} chapters failed; the HTML is left as it was:"]
    for job in jobs:
        if errors.get(job.page.name):
            partial = book.partial(job.page, job.profile)
            lines.append(f"  {job.page.name}: {errors[job.page.name]}")
            lines.append(f"    as far as it came: {partial}" if partial.is_file() else "    it did not start")
    return _complain("\n".join(lines), 1)


def render_html(book: Book, request: Request, pages: list[Page], stale: dict[str, str]) -> int:
    """Render, and print where the book is, or what went wrong; return the exit status."""
    start = time.monotonic()
    good, message = render(book, pages, request.profile, stale)
    if not good:
        return _complain(f"{message}\nerror: rendering failed (above); the old HTML stays", 1)
    print(f"rendered in {time.monotonic() - start:.1f} s ({message}): {book.html / 'index.html'}")
    return 0


def show_status(book: Book, request: Request, profiles: Mapping[str, Any]) -> int:
    """Print for each chapter whether it is fresh, or stale and why; execute nothing."""
    try:
        _, jobs = plan(book, request, profiles)
    except UsageError as error:
        return _complain(f"error: {error}", 2)
    rows = book.rows()
    for job in jobs:
        last = rows.get(job.key, {})
        note = f"; the last run failed: {last['error']}" if last.get("status") == "failed" else ""
        print(f"{job.page.name} ({job.profile}): {f'stale: {job.stale}' if job.stale else 'fresh'}{note}")
    return 0


def write_status(book: Book, rows: dict[str, dict[str, Any]]) -> None:
    """Replace status.json in one step, so that a reader never sees half of it."""
    book.out.mkdir(parents=True, exist_ok=True)
    temporary = book.out / "status.json.new"
    temporary.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(book.out / "status.json")


@app.command()
def main(
    profile: Annotated[str, typer.Option(help="Scale of the experiments: smoke, small, gpu, paper.")] = "smoke",
    chapter: Annotated[list[str] | None, typer.Option(help="Build only this chapter; may be repeated.")] = None,
    rerun: Annotated[int | None, typer.Option(min=0, max=1, help="1: train; 0: read the committed records.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, mps, cuda or cuda:N.")] = "auto",
    execute_only: Annotated[bool, typer.Option("--execute-only", help="Do not render.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Print which chapters are stale, and why.")] = False,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds for one chapter; 0: no limit.")] = 0.0,
    at_once: Annotated[
        int, typer.Option(min=0, help="Chapters side by side; 0: one for each core, up to four; one if a GPU trains.")
    ] = 0,
    log_output: Annotated[bool, typer.Option("--log-output", help="Stream what the chapters print.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for all files that are made.", show_default="book/_build")] = ROOT
    / "book"
    / "_build",
) -> None:
    """Execute the chapters that changed, then render the book."""
    if log_output:
        at_once = at_once or 1  # the output of two chapters at once would be mixed
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    book = Book(ROOT, ROOT / "book", out.resolve())
    asked = None if rerun is None else bool(rerun)
    request = Request(profile, asked, device, tuple(chapter or ()), execute_only, timeout, log_output, at_once)
    if status:
        raise typer.Exit(show_status(book, request, load_profiles()))
    try:
        with book.alone():
            raise typer.Exit(run(book, request, load_profiles()))
    except BuildRuns as error:
        raise typer.Exit(_complain(f"error: {error}", 2)) from None


if __name__ == "__main__":
    never_fail_to_print()
    app()
