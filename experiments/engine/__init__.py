"""How the runs of a sweep are handed to processes, streams and clusters, and how their records reach the disk."""

from experiments.engine.runner import STREAMS as STREAMS
from experiments.engine.runner import Report as Report
from experiments.engine.runner import Where as Where
from experiments.engine.runner import backend_for as backend_for
from experiments.engine.runner import default_workers as default_workers
from experiments.engine.runner import run_sweep as run_sweep
from experiments.records.provenance import resolve_device as resolve_device
