"""Triton kernels where no GPU is: by the interpreter, and down to machine code by the assembler that Triton brings."""

import os
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="Triton is not installed: torch brings it only with CUDA"
)


def run_interpreted(file: str) -> None:
    """Run a test file as a program whose kernels are interpreted; that is decided once a process."""
    if _release("triton") <= (3, 6) and _release("numpy") >= (2, 4):
        # Its interpreter takes arrays of one number for numbers, which numpy refuses since 2.4.
        pytest.skip(f"Triton {version('triton')} does not interpret with numpy {version('numpy')}")
    path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, file], env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path}, check=True)


def _release(package: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version(package).split(".")[:2])


def machine_code(kernel: Any, types: Mapping[str, str], fixed: Mapping[str, object], capability: int) -> bytes:
    """Of a kernel whose arguments have these types or these fixed values, for NVIDIA GPUs of a capability, 80 or 90."""
    compiler, backends = import_module("triton.compiler"), import_module("triton.backends.compiler")
    signature = {name: "constexpr" if name in fixed else types[name] for name in kernel.arg_names}
    constants = {(kernel.arg_names.index(name),): value for name, value in fixed.items()}
    source = compiler.ASTSource(kernel, signature, constants)
    code: bytes = compiler.compile(source, target=backends.GPUTarget("cuda", capability, 32)).asm["cubin"]
    return code
