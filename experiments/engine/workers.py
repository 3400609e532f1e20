"""What a process that works for another one does first: how it ends, and what it does with freed memory."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading

# Of glibc's malloc.h: what may lie free at the top of the heap, what is asked for beside the heap, and the largest int.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, LARGEST = -1, -3, 2**31 - 1


def start_worker() -> None:
    """Make a worker leave Ctrl-C to its parent, not outlive it, and keep the memory that it has."""
    # Ctrl-C reaches the whole process group; the parent decides what happens to a worker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _keep_memory()


def _keep_memory() -> None:
    """Keep freed memory for what comes next, where the C library is glibc; elsewhere nothing happens.

    Each step of a training frees its activations and asks for as many again. By default large ones go back to the
    system in between, and every page of them is faulted in and cleared once more (docs/decisions has what that takes).
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST)
        mallopt(M_TRIM_THRESHOLD, LARGEST)


def _end_with_parent() -> None:
    # A parent that was killed closes nothing, and its workers would wait for work forever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
