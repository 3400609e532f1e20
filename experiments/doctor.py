"""Check of this machine: versions, device, dtypes, data, and one forward and backward pass on the device."""

import importlib.metadata
import os
import platform
import time
from collections.abc import Iterator

import torch
from torch.nn import functional as F

import data_scripts
import nfnets_lite as nf
from data_scripts import data_root
from experiments.engine import default_workers, resolve_device
from experiments.records.provenance import device_name
from experiments.tasks.data import converted

PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "jupyter-book", "papermill", "jupytext", "timm")


def findings(device_name_wanted: str = "auto") -> Iterator[tuple[str, str]]:
    """Pairs of a name and what was found; a forward or backward pass that fails raises an error."""
    device = resolve_device(device_name_wanted)
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    for package in PACKAGES:
        try:
            yield package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            yield package, "not installed"
    yield "device", f"{device}: {device_name(device)}, {default_workers(device)} worker(s) by default"
    yield "dtypes", ", ".join(str(dtype).removeprefix("torch.") for dtype in _dtypes(device))
    chosen = "by NFNETS_LITE_DATA" if os.environ.get("NFNETS_LITE_DATA") else "set NFNETS_LITE_DATA for another"
    yield "data folder", f"{data_root()} ({chosen})"
    yield "data digits", "ships with scikit-learn"
    for name in data_scripts.NAMES:
        yield f"data {name}", _found(name)
    for method in ("bn", "nf"):
        yield f"step, {method}", _step(method, device)


def _found(name: str) -> str:
    if (folder := converted(name)) is not None:
        return f"in {folder}"
    published = data_root() / name
    if published.is_dir():
        return (
            f"published files in {published}, converted at first use: python -m data_scripts {name} --from {published}"
        )
    return f"not in {published}: python -m data_scripts {name}"


def _dtypes(device: torch.device) -> Iterator[torch.dtype]:
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        try:
            x = torch.ones(1, 1, 4, 4, device=device, dtype=dtype)
            F.conv2d(x, x[:, :, :3, :3])
        except (RuntimeError, TypeError):
            continue
        yield dtype


def _step(method: str, device: torch.device) -> str:
    """Forward, backward and clipping of a small network, checked to be finite."""
    model = nf.create_model("cifar_resnet8", method=method).to(device)
    start = time.perf_counter()
    loss = F.cross_entropy(model(torch.randn(32, 3, 32, 32, device=device)), torch.arange(32, device=device) % 10)
    loss.backward()  # type: ignore[no-untyped-call]
    clipped = float(nf.adaptive_clip_grad_(model))
    if not all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None):
        raise RuntimeError(f"a gradient of the {method} network is not finite on {device}: this torch is broken there")
    return f"loss {float(loss.detach()):.3f}, {clipped:.0%} of units clipped, {time.perf_counter() - start:.2f} s"
