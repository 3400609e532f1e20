"""Chapters side by side: real processes, real cores."""

from __future__ import annotations

import os
import time
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import pytest

from book.tool.side_by_side import AT_ONCE, cores, each, fitting

needs_two_cores = pytest.mark.skipif(len(cores()) < 2, reason="needs two cores that the system lets be shared")


def note(folder: Path, others: int, name: str) -> list[int]:
    """Leave a mark, wait until as many others have, and say which cores are there to use."""
    if name == "dies":
        os._exit(7)
    (folder / name).touch()
    end = time.monotonic() + 60
    while len(list(folder.iterdir())) <= others:
        assert time.monotonic() < end, f"{name} saw {sorted(path.name for path in folder.iterdir())}"
        time.sleep(0.02)
    return cores()


@needs_two_cores
def test_two_at_a_time_have_their_own_halves_of_the_cores(tmp_path: Path) -> None:
    done = {name: future.result() for name, future in each(partial(note, tmp_path, 1), [["a", "b"]], 2)}
    assert sorted(done["a"] + done["b"]) == cores()
    assert min(map(len, done.values())) >= 1


@needs_two_cores
def test_a_wave_begins_when_the_one_before_has_ended(tmp_path: Path) -> None:
    order = [name for name, _ in each(partial(note, tmp_path, 0), [["a", "b", "c"], ["d"]], 2)]
    assert sorted(order[:3]) == ["a", "b", "c"]
    assert order[3] == "d"


def test_one_at_a_time_is_done_here_in_order() -> None:
    seen = [(name, future.result()) for name, future in each(lambda name: os.getpid(), [["b"], ["a"]], 1)]
    assert seen == [("b", os.getpid()), ("a", os.getpid())]


@needs_two_cores
def test_a_process_that_dies_leaves_its_task_unfinished(tmp_path: Path) -> None:
    ((name, future),) = each(partial(note, tmp_path, 0), [["dies"]], 2)
    assert name == "dies"
    with pytest.raises(BrokenProcessPool):
        future.result()


def test_as_many_as_fit() -> None:
    assert fitting() == min(AT_ONCE, len(cores()))
