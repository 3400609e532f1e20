"""Make an executed notebook ready for its page: figures for both themes, links, and a warning if it is stale."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
from typing import Any

from book.figures.parameters import assignments
from book.front.themes import inline

REPOSITORY = "https://github.com/nfnets-lite/nfnets-lite"
# The folder has the release's name and is moved into place when it is complete, so a second run finds no half of it.
SETUP = """import importlib.util, os, shutil, subprocess, sys

if importlib.util.find_spec("experiments") is None:  # outside of the repository: fetch it as it was released
    release, source = "{release}", "{source}"
    folder = f"nfnets-lite-{{release}}"
    if not os.path.isdir(folder):
        shutil.rmtree("nfnets-lite.part", ignore_errors=True)
        branch, asked = ["--branch", release], ["git", "ls-remote", "--exit-code", "--tags", source, release]
        if subprocess.run(asked, stdout=subprocess.DEVNULL).returncode == 2:
            print(f"{{source}} has no tag {{release}}: this takes its main branch, which may differ from the page")
            branch = []
        subprocess.run(["git", "clone", "-q", "--depth", "1", *branch, source, "nfnets-lite.part"], check=True)
        os.rename("nfnets-lite.part", folder)
    os.chdir(folder)
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", ".[book]"], check=True)
    sys.path.insert(0, os.getcwd())"""
RECORDS = re.compile(r"records `(\w+)\.jsonl`")


def dressed(notebook: dict[str, Any], stale: str) -> dict[str, Any]:
    """The notebook as the page shows it and as a reader downloads it."""
    return with_setup(with_links(with_banner(with_figures(with_parameters(notebook)), stale)))


def with_parameters(notebook: dict[str, Any]) -> dict[str, Any]:
    """Show the values with which a page was made in its own `parameters` cell, which the page folds.

    The injected cell is removed: in a downloaded notebook it is hidden and would undo what a reader sets above it.
    """
    tagged = {tag: cell for cell in notebook["cells"] for tag in cell["metadata"].get("tags", [])}
    own, injected = tagged.get("parameters"), tagged.get("injected-parameters")
    if own and injected:
        given = assignments("".join(injected["source"]))
        lines = "".join(own["source"]).splitlines()
        for name, value in assignments("\n".join(lines)).items():
            if name in given:
                new, line = ast.literal_eval(given[name]), lines[value.lineno - 1]
                shown = json.dumps(new) if isinstance(new, str) else repr(new)
                lines[value.lineno - 1] = line[: value.col_offset] + shown + line[value.end_col_offset :]
        own["source"] = "\n".join(lines)
        notebook["cells"].remove(injected)
    if own:  # folded, so that a page starts with its findings
        own["metadata"]["tags"] = [*own["metadata"]["tags"], "hide-input"]
        own["metadata"]["mystnb"] = {"code_prompt_show": "Settings of this page"}
    return notebook


def with_figures(notebook: dict[str, Any]) -> dict[str, Any]:
    """Put figures into the text, for both themes, with the text of `display(figure, metadata={"alt": ...})`."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    for number, output in enumerate(outputs):
        if "image/svg+xml" in (data := output.get("data", {})):
            alt = output["metadata"].get("alt", "")
            data["text/html"] = inline("".join(data.pop("image/svg+xml")), alt, f"figure-{number}")
    return notebook


def with_banner(notebook: dict[str, Any], stale: str) -> dict[str, Any]:
    """Add a warning under the title of a page that shows an earlier run; `stale` says what changed since."""
    banner = f"\n\n```{{warning}}\nThis page shows an earlier run; since then: {stale}.\n```\n"
    for cell in notebook["cells"] if stale else []:
        text = "".join(cell["source"])
        cell["source"] = re.sub(r"(?m)^# .+$", lambda title: title[0] + banner, text, count=1)
        if cell["source"] != text:
            break
    return notebook


def with_links(notebook: dict[str, Any]) -> dict[str, Any]:
    """Link each caption's records, and the config that made them, as files to download from the site."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            text = "".join(output.get("data", {}).get("text/markdown", ""))
            if RECORDS.search(text):
                links = r"config [`\1`](/experiments/configs/\1.py), records [`\1.jsonl`](/records/\1.jsonl)"
                output["data"]["text/markdown"] = RECORDS.sub(links, text)
    return notebook


def records_shown(notebook: dict[str, Any]) -> list[str]:
    """The sweeps whose records a notebook's captions name."""
    outputs = (output for cell in notebook["cells"] for output in cell.get("outputs", []))
    texts = ("".join(output.get("data", {}).get("text/markdown", "")) for output in outputs)
    return sorted({name for text in texts for name in RECORDS.findall(text)})


def given(notebook: dict[str, Any], name: str) -> Any:
    """The value that a parameter had when the notebook was executed; None if it was not passed."""
    for cell in notebook["cells"]:
        if "injected-parameters" in cell["metadata"].get("tags", []):
            found = assignments("".join(cell["source"])).get(name)
            return None if found is None else ast.literal_eval(found)
    return None


def with_setup(notebook: dict[str, Any]) -> dict[str, Any]:
    """Add a first code cell that fetches the repository for readers who open the notebook without it."""
    source = SETUP.format(release=f"v{importlib.metadata.version('nfnets-lite')}", source=REPOSITORY)
    cell = {
        "cell_type": "code",
        "id": "setup",
        "execution_count": None,
        "metadata": {"tags": ["remove-cell"]},
        "outputs": [],
        "source": source,
    }
    place = next((i for i, found in enumerate(notebook["cells"]) if found["cell_type"] == "code"), None)
    if place is not None:
        notebook["cells"].insert(place, cell)
    return notebook
