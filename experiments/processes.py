"""How a process that works for another one ends: not by Ctrl-C, and not after the other one."""

import multiprocessing
import os
import signal
import threading


def start_worker() -> None:
    """Make a worker leave Ctrl-C to its parent, and not outlive it."""
    # Ctrl-C reaches the whole process group; the parent decides what happens to a worker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A parent that was killed closes nothing, and its workers would wait for work forever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
