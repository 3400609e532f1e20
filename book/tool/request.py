"""A request of the command line, and the jobs for its chapters."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from book.tool import stamps
from book.tool.layout import Book, Job, Page, UsageError, select

DEVICES = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


@dataclass(frozen=True)
class Request:
    """The options of the command line."""

    profile: str = "smoke"
    rerun: bool | None = None  # None: the profile decides
    device: str = "auto"
    chapters: tuple[str, ...] = ()  # none: all of them
    execute_only: bool = False
    timeout: float = 0.0  # seconds for a chapter; 0: no limit
    log_output: bool = False
    at_once: int = 1  # chapters side by side; 0: the cores and the device decide


def load_profiles() -> Mapping[str, Any]:
    """Profiles by name, imported here so that `--help` imports nothing of the experiments."""
    from experiments.profiles import PROFILES

    return PROFILES


def plan(book: Book, request: Request, profiles: Mapping[str, Any]) -> tuple[list[Page], list[Job]]:
    """All pages of the book, and a job for each chapter that was asked for."""
    if request.profile not in profiles:
        raise UsageError(f"--profile {request.profile!r} does not exist; the profiles are: {', '.join(profiles)}")
    if not DEVICES.fullmatch(request.device):
        raise UsageError(f"--device {request.device!r} is not known; give one of: auto, cpu, mps, cuda, cuda:N")
    pages = book.pages()
    chosen = select(pages, list(request.chapters))
    rerun = profiles[request.profile].rerun if request.rerun is None else request.rerun
    parameters = {
        "profile": request.profile,
        "rerun": rerun,
        "device": request.device,
        "results_dir": book.results_dir(request.profile, rerun),
    }
    shared = stamps.shared_parts(book, request.profile, rerun, request.device)
    jobs = []
    for page in chosen:
        now = stamps.parts(book, page, parameters, shared)
        stale = stamps.why_stale(now, book.executed(page, request.profile))
        jobs.append(Job(page, request.profile, parameters, now, stale))
    return pages, jobs
