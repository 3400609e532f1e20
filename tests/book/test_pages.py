"""What the build adds to executed notebooks and generated pages: links, setup, status, the explorers' data."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from math import pi
from pathlib import Path

import pytest
from fixture_book import PROFILES, make_book

import nfnets_lite as nf
from book.front import explorers
from book.tool import dress, reading, status
from book.tool.build import Request, run
from book.tool.dress import dressed, given, records_shown, with_links
from experiments import records
from experiments.obtain import RESULTS
from experiments.tasks.mean_field import Moments, predict
from nfnets_lite.models import model_spec


def notebook(*outputs: str, injected: str = "") -> dict:
    cells = [{"cell_type": "markdown", "metadata": {}, "source": "# Title"}]
    if injected:
        cells.append({"cell_type": "code", "metadata": {"tags": ["injected-parameters"]}, "source": injected})
    shown = [{"output_type": "display_data", "data": {"text/markdown": text}, "metadata": {}} for text in outputs]
    cells.append({"cell_type": "code", "metadata": {}, "source": "1", "outputs": shown})
    return {"cells": cells, "metadata": {}}


def test_captions_link_to_config_and_records() -> None:
    made = notebook("*A.* commit 1234567; records `batch_size.jsonl`, 12 runs.", "no records here")
    assert records_shown(made) == ["batch_size"]
    text = with_links(made)["cells"][-1]["outputs"][0]["data"]["text/markdown"]
    assert "[`batch_size`](/experiments/configs/batch_size.py)" in text
    assert "[`batch_size.jsonl`](/records/batch_size.jsonl)" in text


def test_the_first_code_cell_fetches_what_is_missing_and_is_not_shown() -> None:
    made = dressed(notebook("text"), "")
    code = [cell for cell in made["cells"] if cell["cell_type"] == "code"]
    assert code[0]["metadata"]["tags"] == ["remove-cell"]
    compile(code[0]["source"], "setup", "exec")
    exec(code[0]["source"], {})  # here nothing is missing, so nothing happens
    assert made["cells"][0]["source"] == "# Title"


@pytest.mark.skipif(shutil.which("git") is None, reason="the first cell clones with git")
def test_the_first_cell_can_be_run_again_and_takes_main_where_the_release_has_no_tag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, reader = tmp_path / "source", tmp_path / "reader"
    (source / "experiments").mkdir(parents=True)
    (source / "experiments" / "__init__.py").touch()
    reader.mkdir()
    own = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "PYTHON"))}
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], cwd=source, env=own, check=True)
    monkeypatch.setattr(dress, "REPOSITORY", source.as_uri())
    cell = next(cell["source"] for cell in dressed(notebook(), "")["cells"] if cell["cell_type"] == "code")
    # pip is not asked: what is installed is not of this cell's making.
    without_pip = "import subprocess as s; r = s.run; s.run = lambda c, **k: 'pip' in c or r(c, **k)\n"

    def opened() -> subprocess.CompletedProcess[str]:
        program = f"{without_pip}{cell}\nimport experiments; print(os.getcwd())"
        command = [sys.executable, "-I", "-S", "-c", program]
        return subprocess.run(command, cwd=reader, env=own, capture_output=True, text=True)

    (reader / "nfnets-lite.part").mkdir()  # of a first run that was interrupted
    (reader / "nfnets-lite.part" / "half").touch()
    release = f"v{nf.__version__}"
    first, again = opened(), opened()
    assert first.returncode == again.returncode == 0, first.stderr + again.stderr
    said = f"{source.as_uri()} has no tag {release}: this takes its main branch, which may differ from the page"
    assert first.stdout.splitlines() == [said, str(reader / f"nfnets-lite-{release}")]
    assert again.stdout.splitlines() == [str(reader / f"nfnets-lite-{release}")]
    subprocess.run([*git, "tag", release], cwd=source, env=own, check=True)
    (source / "experiments" / "later.py").touch()
    for command in (["add", "-A"], ["commit", "-qm", "second"]):
        subprocess.run([*git, *command], cwd=source, env=own, check=True)
    shutil.rmtree(reader / f"nfnets-lite-{release}")
    tagged = opened()
    assert tagged.stdout.splitlines() == [str(reader / f"nfnets-lite-{release}")], tagged.stderr
    assert not (reader / f"nfnets-lite-{release}" / "experiments" / "later.py").exists()


def test_a_parameter_is_read_back() -> None:
    made = notebook(injected='# Parameters\nprofile = "small"\nresults_dir = "here"\n')
    assert given(made, "results_dir") == "here"
    assert given(made, "device") is None


def test_status_says_what_a_chapter_was_made_from(tmp_path: Path) -> None:
    book = make_book(tmp_path)
    assert run(book, Request(execute_only=True), PROFILES) == 0
    page = next(page for page in book.pages() if page.is_chapter)
    file = tmp_path / "sweep.jsonl"
    line = {"provenance": {"device": "an accelerator", "commit": "0123456789"}}
    file.write_text(json.dumps(line) + "\n" + json.dumps(line) + "\n{torn", encoding="utf-8")
    cells = dict(zip(status.HEADER, status.row(book, page, "smoke", "", [file])))
    assert cells["state"] == "fresh"
    assert cells["records"] == "[sweep](/records/sweep.jsonl) (2 runs)"
    assert (cells["commits of the records"], cells["device of the records"]) == ("0123456", "an accelerator")
    assert cells["took"].endswith(" s")
    stale = dict(zip(status.HEADER, status.row(book, page, "smoke", "code changed", [])))
    assert "code changed" in stale["state"]
    assert stale["records"].startswith("none")
    assert status.table([list(cells.values())]).count("\n") == 2


def test_scales_without_records_are_named(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "sweep.jsonl").touch()
    assert status.scales(tmp_path) == "Committed records: `small`. Nothing is recorded at `gpu` or `paper` yet."


def test_the_published_network_keeps_its_signal() -> None:
    stream, branch = explorers.signal(3, 2, 0.2, "relu", gain=True, standardised=True, scaled=True)
    assert branch == pytest.approx([1.0] * 6, abs=1e-4)
    assert stream == pytest.approx([1.04, 1.08, 1.12] * 2, abs=1e-3)


def test_the_explorer_agrees_with_the_analysis_of_the_chapter() -> None:
    """On a large image, since the analysis also counts the zeros of the padding, and behind a transition."""
    spec = model_spec(
        "cifar_resnet8", method="nf", depth=(3, 3), width=(8, 16), strides=(1, 2), alpha=0.5, skip_gain=1.0
    )
    expected = [after.second for after, _ in predict(spec, Moments(1.0, 0.0), 8192)]
    stream, _ = explorers.signal(3, 2, 0.5, "relu", gain=True, standardised=True, scaled=True)
    # The published gain, which the analysis takes, is 0.06 % above the exact one.
    assert stream[3:] == pytest.approx(expected[3:], rel=6e-3)


def test_what_is_left_out_shows() -> None:
    """A ReLU halves the mean square and leaves 1/2 - 1/(2 pi) of the variance; two layers a branch."""
    kept = 0.5 - 0.5 / pi
    _, branch = explorers.signal(1, 1, 0.2, "relu", gain=False, standardised=True, scaled=True)
    assert branch[0] == pytest.approx(kept**2, rel=1e-3)
    _, branch = explorers.signal(1, 1, 0.2, "relu", gain=True, standardised=False, scaled=True)
    assert branch[0] == pytest.approx((0.5 / kept) ** 2, rel=1e-3)
    stream, _ = explorers.signal(4, 1, 1.0, "identity", gain=True, standardised=True, scaled=False)
    assert stream == pytest.approx([2.0, 4.0, 8.0, 16.0], rel=1e-3)


def test_rows_are_those_of_the_records() -> None:
    path = next(RESULTS.glob("*/batch_size.jsonl"))
    found = explorers.rows(path)
    assert len(found) == sum(record.done for record in records.read(path).records)
    assert {row["split"] for row in found} == {"validation", "test"}
    assert all(0 <= row["accuracy"] <= 1 and row["batch"] >= 1 for row in found)
    assert explorers.rows(path.with_name("none.jsonl")) == []


def test_the_minutes_of_a_row_are_those_of_its_pages() -> None:
    shown = "```{code-cell} ipython3\n" + "x = 1\n" * 30 + "```\n"
    folded = shown.replace("ipython3\n", "ipython3\n:tags: [hide-input]\n")
    pages = {
        "chapters/one": "---\nconfigs: []\n---\n" + "word " * 600 + "\n" + shown + folded,
        "guides/two": "word " * 120,
    }
    row = f"| you | {{doc}}`chapters/one`, {{doc}}`guides/two` | {reading.MARK} |\n"
    assert reading.fill(row, pages.__getitem__).endswith("| about 10 |\n")
    assert reading.fill("no table\n", pages.__getitem__) == "no table\n"
