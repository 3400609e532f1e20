"""What is published: a wheel and an sdist that are whole, and that need torch and nothing else."""

from __future__ import annotations

import re
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from bare_env import bare_env, run

import nfnets_lite as nf

ROOT = Path(__file__).resolve().parents[2]
# Examples that need more than torch, and what; the docstring says so, under Raises.
NEED_MORE = {"nfnets_lite.pretrained.save_pretrained": "safetensors"}

EXAMPLES = """
import doctest, importlib, pkgutil, sys, warnings
import nfnets_lite

assert sys.prefix in nfnets_lite.__file__, nfnets_lite.__file__
assert not set(sys.modules) & {"numpy", "experiments", "book", "pytest"}
finder, tried = doctest.DocTestFinder(exclude_empty=True), 0
for info in [None, *pkgutil.walk_packages(nfnets_lite.__path__, "nfnets_lite.")]:
    module = importlib.import_module(info.name) if info else nfnets_lite
    for test in finder.find(module):
        if not test.examples:
            continue
        said = []
        result = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
        tried += result.attempted
        if result.failed:
            missing = [line for line in "".join(said).splitlines() if "ModuleNotFoundError" in line]
            print("FAILED", test.name, missing[-1].split("'")[1] if missing else "".join(said))
print("tried", tried)
"""

CONVERT = """
import torch, nfnets_lite
from torch import nn

torch.manual_seed(0)
down = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)]
model = nn.Sequential(*down, nn.ConvTranspose2d(8, 4, 2, 2), nn.BatchNorm2d(4))
x = torch.randn(8, 3, 16, 16)
print(nfnets_lite.convert(model, x))
assert abs(model(x).var().item() - 1) < 0.2
"""


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist, and the wheel that was built from it, without asking an index for anything."""
    pytest.importorskip("build", reason="the build front end is not installed")
    pytest.importorskip("hatchling", reason="the build back end is not installed")
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT), cwd=out)
    return out


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds torch with what it needs, and the wheel."""
    pytest.importorskip("pip", reason="pip is not installed")
    folder = tmp_path_factory.mktemp("bare")
    python = bare_env(folder, ["torch"])
    # No index: what the wheel requires is there already, or this fails.
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "install"]
    run(*pip, "--quiet", "--no-index", str(wheel), cwd=folder)
    return python


def test_what_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "nfnets_lite").rglob("*.py")}
    inside = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert inside == sources | {"nfnets_lite/py.typed"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert wheel.stat().st_size < 300_000


def test_what_the_wheel_says_of_itself(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        said = Parser().parsestr(archive.read(name).decode())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (said["Name"], said["Version"]) == (project["name"], nf.__version__)
    assert said["Requires-Python"] == project["requires-python"]
    always = [line for line in said.get_all("Requires-Dist") or [] if "extra ==" not in line]
    assert [re.split(r"[<>=!~ ;]", line)[0] for line in always] == ["torch"]


def test_what_is_in_the_sdist(dist: Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tops = {name.partition("/")[0] for name in names if name}
    expected = {"nfnets_lite", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "pyproject.toml", "PKG-INFO"}
    assert expected <= tops <= expected | {".gitignore"}
    assert "nfnets_lite/py.typed" in names


def test_twine_finds_nothing(dist: Path) -> None:
    pytest.importorskip("twine", reason="twine is not installed")
    files = sorted(map(str, dist.iterdir()))
    shown = run(sys.executable, "-m", "twine", "--no-color", "check", "--strict", *files, cwd=dist)
    assert shown.count("PASSED") == 2


@pytest.mark.slow
def test_every_example_runs_with_torch_alone(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "examples.py").write_text(EXAMPLES)
    shown = run(str(bare), "-I", "-W", "ignore", "examples.py", cwd=tmp_path).splitlines()
    failed = dict(line.split(" ", 2)[1:] for line in shown if line.startswith("FAILED"))
    assert failed == NEED_MORE
    assert int(shown[-1].split()[1]) > 150


@pytest.mark.slow
def test_a_network_is_converted_with_torch_alone(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "converted.py").write_text(CONVERT)
    shown = run(str(bare), "-I", "-W", "ignore", "converted.py", cwd=tmp_path)
    assert shown.splitlines()[-1].startswith("6 layers replaced, 0 left")
