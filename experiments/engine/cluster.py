"""Train runs on a `dask.distributed` cluster, which finds the workers and repeats the runs of lost workers.

The workers need this checkout and its environment: start them in the repository's folder, one thread each. Only the
client writes records, so the workers need no shared folder but the one with the data.

On one machine, or a few::

    dask scheduler
    dask worker tcp://HOST:8786 --nworkers 8 --nthreads 1
    python -m experiments run batch_size --profile gpu --device cuda --scheduler tcp://HOST:8786

On SLURM, with `dask-jobqueue`, from a Python process that stays alive on the login node::

    from dask_jobqueue import SLURMCluster
    cluster = SLURMCluster(
        cores=1, processes=1, memory="16GB", walltime="04:00:00", job_extra_directives=["--gres=gpu:1"]
    )
    cluster.scale(jobs=32)
    print(cluster.scheduler_address)  # for --scheduler
"""

import importlib
from concurrent.futures import CancelledError, Future
from typing import Any

from experiments.engine.pool import Work, WorkerDied
from experiments.records import Record
from experiments.sweep import Run

AHEAD = 2  # runs submitted for each thread, so that the next one is there when one ends
TIMEOUT = 15


class Cluster:
    """Backend that trains on the workers of a dask scheduler."""

    def __init__(self, work: Work, address: str) -> None:
        try:
            self._dask: Any = importlib.import_module("distributed")
        except ImportError as error:
            raise ValueError(
                f"scheduler={address!r} needs dask.distributed, which is not installed here: "
                "pip install 'nfnets-lite[cluster]', or leave --scheduler out for local processes"
            ) from error
        self._address, self._work = address, work
        try:
            self._client = self._dask.Client(address, timeout=TIMEOUT, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ConnectionError(
                f"scheduler={address!r} does not answer ({error}); it must be the address of a running dask scheduler, "
                "as tcp://HOST:8786. Start one with `dask scheduler`, or leave --scheduler out for local processes"
            ) from error
        self._pool = self._client.get_executor(pure=False)
        self._runs: dict[Future[Record], Run] = {}

    @property
    def capacity(self) -> int:
        """Runs to have in progress now: workers come and go. Without a worker it is 1, a run that waits for one."""
        try:
            threads = sum(int(count) for count in self._client.nthreads().values())
        except OSError as error:
            raise self._gone() from error
        return max(1, AHEAD * threads)

    def submit(self, run: Run) -> Future[Record]:
        future: Future[Record] = self._pool.submit(self._work, run)
        self._runs[future] = run
        return future

    def result(self, future: Future[Record]) -> Record:
        try:
            record = future.result()
        except self._dask.KilledWorker as error:
            raise WorkerDied(str(error), final=True) from None
        except CancelledError as error:
            raise self._gone() from error
        except ImportError as error:
            raise ValueError(
                f"a worker of scheduler={self._address!r} cannot import what a run needs ({error}); "
                "start the workers in the repository's folder, with the environment of this process"
            ) from error
        return accepted(self._runs.pop(future), record, self._address)

    def close(self, *, now: bool) -> None:
        self._pool.shutdown(wait=not now)
        self._client.close()

    def _gone(self) -> ConnectionError:
        return ConnectionError(
            f"scheduler={self._address!r} went away; finished runs are recorded. "
            "Start it again and give the same command: it goes on from there"
        )


def accepted(run: Run, record: Record, address: str) -> Record:
    """Return a worker's record of a run; raise a ValueError if the worker's code computes other numbers than ours."""
    if record.numerics != run.NUMERICS:
        raise ValueError(
            f"a worker of scheduler={address!r} has NUMERICS={record.numerics} for {type(run).__name__}, and this "
            f"process has {run.NUMERICS}; the worker's result was not recorded. Bring the worker's checkout to the "
            "commit of this process and start the worker again"
        )
    return record
