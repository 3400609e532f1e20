"""Origin of a number: name of the device, commit, versions."""

import importlib
import platform
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

import nfnets_lite

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ("nfnets_lite", "experiments", "data_scripts", ":!experiments/results")


@cache
def commit() -> tuple[str, bool | None]:
    """Commit of the checkout, and whether its record-making source has changes; ("unknown", None) outside git."""

    def git(*args: str) -> str:
        return subprocess.run(("git", "-C", str(ROOT), *args), capture_output=True, text=True, check=True).stdout

    try:
        return git("rev-parse", "HEAD").strip(), bool(git("status", "--porcelain", "--", *SOURCE))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", None


def resolve_device(name: str, *, here: bool = True) -> torch.device:
    """The torch device of a name; ``"auto"`` is the GPU if there is one. `here`: it must be on this machine."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name!r} is not known; use auto, cpu, cuda or cuda:0, cuda:1, ...") from error
    if here and device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name!r}, but torch {torch.__version__} finds no CUDA device here; use auto or cpu")
    return device


def device_name(device: torch.device) -> str:
    """Name of the accelerator, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device) if torch.cuda.is_available() else "a CUDA device"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"CPU ({name})"


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MiB: allocated on a GPU since its counter was reset, or used by the process so far on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def energy_j(device: torch.device) -> float | None:
    """Joules that the device has used since its driver was loaded; None where no driver reports it.

    The difference of two readings includes the energy that other processes used on the device meanwhile.
    """
    if device.type != "cuda":
        return None
    try:
        nvml = importlib.import_module("pynvml")  # of nvidia-ml-py, which is not required
        nvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        return float(nvml.nvmlDeviceGetTotalEnergyConsumption(nvml.nvmlDeviceGetHandleByUUID(uuid))) / 1000
    except Exception:  # also NVML's own errors: a device without the counter, a container without the driver
        return None


def provenance(device: torch.device) -> dict[str, Any]:
    """The part of a record's provenance that is the same for every run of a process on a device."""
    revision, dirty = commit()
    return {
        "commit": revision,
        "dirty": dirty,
        "versions": {
            "nfnets_lite": nfnets_lite.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "device": device_name(device),
    }
