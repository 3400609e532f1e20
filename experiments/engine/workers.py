"""Set-up of a worker process: how it ends, and what it does with freed memory."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading

# From glibc's malloc.h: the options for free memory at the top of the heap and for allocations outside of the heap, and
# the largest int.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, LARGEST = -1, -3, 2**31 - 1


def start_worker() -> None:
    """Make a worker process ignore Ctrl-C, end with its parent, and keep freed memory."""
    # Ctrl-C reaches the whole process group; the parent decides what happens to a worker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _keep_memory()


def _keep_memory() -> None:
    """Keep freed memory in the process, if the C library is glibc; do nothing otherwise.

    Each step of a training frees its activations, and the next step allocates as much again. By default glibc returns
    large blocks to the system in between, and every page is faulted in and cleared again (docs/decisions has the cost).
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
