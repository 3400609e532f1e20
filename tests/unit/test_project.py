"""What holds the project together: requirements in two files, the direction of imports, the public names."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import yaml

import nfnets_lite as nf

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA_NAME = {"pytorch": "torch"}


def split(requirement: str) -> tuple[str, str]:
    name, bound = re.fullmatch(r"([A-Za-z0-9_-]+)(.*)", requirement).groups()  # type: ignore[union-attr]
    return CONDA_NAME.get(name, name), bound


def required(extra: str) -> dict[str, str]:
    found = {}
    for requirement in PYPROJECT["optional-dependencies"][extra]:
        inner = re.fullmatch(r"nfnets-lite\[(\w+)\]", requirement)
        found |= required(inner[1]) if inner else dict([split(requirement)])
    return found


def test_environment_yml_asks_for_the_same_as_pyproject() -> None:
    asked = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = [entry for entry in asked if isinstance(entry, str)]
    pip = next(entry["pip"] for entry in asked if isinstance(entry, dict))
    theirs = dict(split(entry) for entry in [*conda, *pip])
    assert theirs.pop("python") == PYPROJECT["requires-python"]
    assert theirs.pop("pip") == ""
    assert theirs == dict(map(split, PYPROJECT["dependencies"])) | required("test")


def test_every_requirement_has_one_pin_and_nothing_else_is_pinned() -> None:
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    wanted = dict(map(split, PYPROJECT["dependencies"])) | required("test") | required("bench")
    assert set(wanted) <= pinned
    assert not [name for name, bound in wanted.items() if "==" in bound]


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("nfnets_lite", {"experiments", "book", "data_scripts"}),
        ("data_scripts", {"experiments", "book", "nfnets_lite"}),
        ("experiments", {"book"}),
    ],
)
def test_imports_point_one_way(package: str, forbidden: set[str]) -> None:
    for path in sorted((ROOT / package).rglob("*.py")):
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(str(node.module).split(".")[0])
        assert not found & forbidden, path


def test_a_module_has_a_name_of_its_own() -> None:
    """Configs aside: they are named by their questions, and nothing but their records is called by that name."""
    count = Counter(
        path.stem
        for folder in ("nfnets_lite", "experiments", "data_scripts", "book")
        for path in (ROOT / folder).rglob("*.py")
        if path.parent.name != "configs" and "_build" not in path.parts and not path.stem.startswith("__")
    )
    assert len(count) > 100
    assert not [name for name, times in count.items() if times > 1]


def test_the_package_imports_torch_and_the_standard_library_alone() -> None:
    program = (
        "import sys, torch; before = set(sys.modules); import nfnets_lite; "
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    added = set(done.stdout.split()) - {"nfnets_lite", "torch"}
    assert not added - set(sys.stdlib_module_names), added


def test_public_names_exist_and_are_documented() -> None:
    wanted = {"create_model", "list_models", "ScaledStdConv2d", "standardize_weight", "adaptive_clip_grad_"}
    assert wanted | {"param_groups", "signal_propagation"} <= set(nf.__all__)
    assert len(nf.__all__) <= 25
    for name in nf.__all__:
        assert ">>>" in (getattr(nf, name).__doc__ or ""), f"{name} has no runnable example"


def test_make_help_lists_every_target_with_its_time() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, re.M)[1].split()  # type: ignore[index]
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # of `make test`
    capture = {"cwd": ROOT, "env": outside, "capture_output": True, "text": True, "check": True}
    shown = subprocess.run(["make", "--no-print-directory", "help"], **capture).stdout.splitlines()
    assert sorted(line.split()[1] for line in shown) == sorted(phony)
    assert all(re.search(r"\d+ (s|min|h)\b", line) for line in shown)


def made(*arguments: str) -> list[str]:
    """The commands that `make` would run."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "PYTHON"))}
    command = ["make", "--no-print-directory", "--dry-run", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=outside, capture_output=True, text=True, check=True
    ).stdout.splitlines()


@pytest.mark.parametrize("target", ["results", "bench", "test-gpu", "doctor", "book"])
def test_a_python_at_hand_is_taken_as_it_is(target: str, tmp_path: Path) -> None:
    at_hand = [line for line in made(target, "VENV=none") if not line.startswith(":")]
    assert [line.removeprefix("env -u OMP_WAIT_POLICY ").split()[:2] for line in at_hand] == [["python3", "-m"]]
    set_up = made(target, f"VENV={tmp_path}/new")
    assert any("pip install" in line for line in set_up)
    assert f"{tmp_path}/new/bin/python -m" in set_up[-1]
    assert any(
        line.startswith("python3.99 -m venv") for line in made(target, f"VENV={tmp_path}/new", "PYTHON=python3.99")
    )


def test_records_of_a_lent_machine_go_to_a_folder_of_ones_own() -> None:
    (line,) = made("results", "VENV=none", "PROFILE=gpu", "MINUTES=9", "RESULTS=lent")
    assert line == 'python3 -m experiments run all --profile gpu --device auto --minutes 9 --results "lent"'


def test_folders_and_names_may_have_spaces_and_a_virtual_environment_says_that_it_may_not() -> None:
    (line,) = made("results", "VENV=none", "RESULTS=my records")
    assert shlex.split(line)[-2:] == ["--results", "my records"]
    (line,) = made("data", "VENV=none", "FROM=my files")
    assert shlex.split(line)[-2:] == ["--from", "my files"]
    (line,) = made("new-experiment", "VENV=none", "NAME=label noise")
    assert shlex.split(line)[-1] == "label noise"
    with pytest.raises(subprocess.CalledProcessError) as refused:
        made("book", "VENV=my env")
    assert "VENV='my env' must be one path without spaces" in refused.value.stderr


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_leaves_the_data_out_also_where_they_are_a_link(tmp_path: Path) -> None:
    shutil.copyfile(ROOT / ".gitignore", tmp_path / ".gitignore")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").symlink_to("elsewhere")
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, env=own, check=True)
    said = subprocess.run(["git", "status", "--short"], cwd=tmp_path, env=own, capture_output=True, text=True)
    assert said.stdout == "?? .gitignore\n"


def test_what_needs_a_gpu_is_collected_where_little_beside_torch_is_installed() -> None:
    arguments = (ROOT / "tests" / "gpu.args").read_text().split("\n")
    listed = {word for word in arguments if word.startswith("tests/")}
    mark = re.compile(r"^@pytest\.mark\.gpu$", re.M)
    marked = {path for path in (ROOT / "tests").rglob("test_*.py") if mark.search(path.read_text())}
    assert {ROOT / name for name in listed} == marked
    absent = ["kornia", "dask", "distributed", "papermill", "jupytext", "hypothesis", "playwright", "timm", "xdist"]
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}, None)); import pytest; "
        "sys.exit(pytest.main(sys.argv[1:] + ['--collect-only', '-q', '-p', 'no:cacheprovider']))"
    )
    # Their plugins are not looked for where they are not installed.
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, "@tests/gpu.args"], cwd=ROOT, env=alone, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(name in done.stdout for name in listed)


def test_readme_names_only_targets_that_exist() -> None:
    text = (ROOT / "README.md").read_text() + (ROOT / "book" / "running.md").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split())  # type: ignore[index]
    named = set(re.findall(r"(?:^|`|&& )make ([a-z-]+)", text, re.M))
    assert {"book", "test"} <= named <= targets


def test_readme_explains_every_folder() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout, so what is tracked is not known")
    tops = {name.split("/")[0] for name in tracked.stdout.splitlines() if "/" in name}
    told = re.findall(r"`([\w./]+)/`", (ROOT / "README.md").read_text().split("## What is where")[1])
    assert tops <= set(told)
    assert [name for name in told if not (ROOT / name).is_dir()] in ([], ["data"])


def test_readme_shows_what_the_records_say() -> None:
    from book.front import headline

    readme = headline.README.read_text()
    assert headline.filled(readme) == readme, "run `python -m book.front.headline`"


def test_version_is_the_same_everywhere() -> None:
    assert nf.__version__ == PYPROJECT["version"]
    assert f"version: {nf.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_check_in_front_of_a_release_passes_for_this_version_alone() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
    (check,) = (step["run"] for step in jobs["build"]["steps"] if "changelog" in step.get("name", ""))
    for tag, status in ((f"v{nf.__version__}", 0), ("v99.9.9", 1)):
        done = subprocess.run(["bash", "-e", "-c", check], cwd=ROOT, env={**os.environ, "TAG": tag})
        assert done.returncode == status, tag


def test_hooks_before_a_commit_run_what_make_lint_runs(tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = {hook["id"]: hook["entry"] for repo in config["repos"] for hook in repo["hooks"]}
    lint = re.search(r"^lint:.*\n\t(.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert lint
    said = lint[1].replace("$(BIN)", ".venv/bin").replace(" --check", "").split(" && ")
    assert [entry.replace(" --fix", "") for entry in hooks.values()] == [part.removesuffix(" .") for part in said]

    for name in (".pre-commit-config.yaml", "pyproject.toml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "ruff").symlink_to(Path(sys.executable).parent / "ruff")
    (tmp_path / "untidy.py").write_text('"""A module."""\nx = [1,2]\n')
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    for command in (["git", "init", "-q"], ["git", "add", "-A"]):
        subprocess.run(command, cwd=tmp_path, check=True, env=own)
    run = [sys.executable, "-m", "pre_commit", "run", "ruff-format", "--all-files"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, env=own)
    assert done.returncode == 1, done.stdout + done.stderr  # it says that it changed something
    assert (tmp_path / "untidy.py").read_text().endswith("x = [1, 2]\n")
