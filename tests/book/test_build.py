"""The build tool on a small book of its own: real papermill, real Jupyter Book, no training."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fixture_book import PROFILES, REPO, make_book
from typer.testing import CliRunner

from book.tool import build, side_by_side
from book.tool.build import Request, run, show_status
from book.tool.execute import clean
from book.tool.layout import Book, reduce_toc

EXECUTE = Request(execute_only=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Book:
    book = make_book(tmp_path_factory.mktemp("repo"))
    assert run(book, Request(), PROFILES) == 0
    return book


@pytest.fixture
def copy(built: Book, tmp_path: Path) -> Book:
    """The built book again, to change at will: stamps hold no path, so it is as fresh as the first."""
    root = tmp_path / "copy"
    shutil.copytree(built.root, root, ignore=shutil.ignore_patterns("_static", "render"))
    return Book(root, root / "book", root / "book" / "_build")


def executions(book: Book) -> list[str]:
    return (book.root / "executions.txt").read_text().splitlines()


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{path.name} has no {old!r} to replace"
    path.write_text(text.replace(old, new), encoding="utf-8")


def notebook(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def statuses(book: Book) -> dict[str, str]:
    return {key: row["status"] for key, row in json.loads((book.out / "status.json").read_text()).items()}


# What a build makes


def test_parameters_take_effect(built: Book) -> None:
    assert executions(built) == [f"{name} smoke True auto book/_build/results/smoke" for name in ("one", "two")]
    assert statuses(built) == {"smoke/one": "ok", "smoke/two": "ok"}


def test_injected_cell_is_hidden_and_the_page_shows_the_values(built: Book) -> None:
    cells = notebook(built.out / "executed/smoke/chapters/one.ipynb")["cells"]
    injected = [cell["metadata"]["tags"] for cell in cells if "injected-parameters" in cell["metadata"].get("tags", [])]
    assert injected == [["injected-parameters", "remove-cell"]]
    page = re.sub(r"<[^>]+>", "", (built.html / "chapters/one.html").read_text(encoding="utf-8"))
    assert page.count("results_dir = ") == 1
    assert re.search(r'results_dir = ("|&quot;)book/_build/results/smoke', page)


def test_executed_notebook_holds_nothing_volatile(built: Book) -> None:
    for path in (built.out / "executed").rglob("*.ipynb"):
        text = path.read_text(encoding="utf-8")
        assert str(built.root) not in text
        assert str(REPO) not in text
        nb = json.loads(text)
        assert "papermill" not in nb["metadata"]
        assert not any({"papermill", "execution"} & cell["metadata"].keys() for cell in nb["cells"])


def test_running_again_gives_the_same_bytes(copy: Book) -> None:
    path = copy.out / "executed/smoke/chapters/one.ipynb"
    before = path.read_bytes()
    path.unlink()
    assert run(copy, replace(EXECUTE, chapters=("one",)), PROFILES) == 0
    assert path.read_bytes() == before


def test_paths_in_outputs_are_shortened(tmp_path: Path) -> None:
    import nbformat

    text = f"/tmp/ipykernel_12/345.py:3: Warning\n{tmp_path}/a.py and {tmp_path}, not {tmp_path}-else"
    cell = nbformat.v4.new_code_cell("1", outputs=[nbformat.v4.new_output("stream", text=text)])
    cleaned = clean(nbformat.v4.new_notebook(cells=[cell]), tmp_path).cells[0].outputs[0].text
    assert cleaned == f"<cell>:3: Warning\n./a.py and ., not {tmp_path}-else"


class Loads(HTMLParser):
    """What a page makes a browser fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        key = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}.get(tag)
        self.urls += [value for name, value in attributes if name == key and value]


def test_pages_load_nothing_from_another_host(built: Book) -> None:
    pages = list(built.html.rglob("*.html"))
    assert {"index.html", "intro.html", "one.html", "two.html", "search.html"} <= {page.name for page in pages}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not [url for url in Loads(text).urls if urlsplit(url).netloc], page.name
        assert "thebe" not in text, page.name
    assert (built.html / "_static/mathjax/tex-svg-full.js").is_file()
    assert (built.html / "_static/mathjax/LICENSE").is_file()
    assert len(list((built.html / "_static/mathjax").iterdir())) == 3


def test_page_content(built: Book) -> None:
    text = (built.html / "chapters/one.html").read_text(encoding="utf-8")
    assert 'aria-label="Accuracy grows with the batch size and levels off"' in text
    assert "edit/main/book/chapters/one.md" in text
    assert '<span class="nf">double</span>' in text  # the source that literalinclude shows
    assert "<table" in text  # Markdown that a cell displayed


# Two builds at once


def test_a_second_build_in_one_folder_stops_with_a_line(tmp_path: Path) -> None:
    book = Book(REPO, REPO / "book", tmp_path / "out")
    holder = "import sys; from book.tool.layout import Book; from pathlib import Path; p = Path(sys.argv[1])\n"
    holder += "with Book(p, p, p).alone(): print('held', flush=True); sys.stdin.read()"
    process = [sys.executable, "-c", holder, str(book.out)]
    with subprocess.Popen(process, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        second = CliRunner().invoke(build.app, ["--out", str(book.out)])
        first.kill()
    assert second.exit_code == 2
    assert second.output.splitlines() == [
        f"error: a build is running in {book.out} (process {first.pid}); wait for its end, or pass --out with another "
        "folder"
    ]
    assert [path.name for path in book.out.iterdir()] == [".lock"]
    with book.alone():  # however the first one ended
        pass


# What a second build does


def test_second_build_skips_everything(built: Book, capsys: pytest.CaptureFixture[str]) -> None:
    before = executions(built)
    start = time.monotonic()
    assert run(built, Request(), PROFILES) == 0
    assert time.monotonic() - start < 10
    assert executions(built) == before
    out = capsys.readouterr().out
    assert "one: fresh, skipped" in out
    assert "(unchanged)" in out


def test_changed_text_runs_that_chapter_only(copy: Book, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(copy.source / "chapters/two.md", "# Running it", "# Running it again")
    show_status(copy, Request(), PROFILES)
    assert "two (smoke): stale: text changed" in capsys.readouterr().out
    before = executions(copy)
    assert run(copy, EXECUTE, PROFILES) == 0
    assert [line.split()[0] for line in executions(copy)[len(before) :]] == ["two"]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("nfnets_lite/core.py", "code"),
        ("experiments/claims/claims.yaml", "code"),
        ("constraints.txt", "constraints"),
        ("experiments/results/small/sweep.jsonl", ""),  # the records of a profile that is not the one shown
        ("book/intro.md", ""),
    ],
)
def test_status_names_what_changed(copy: Book, capsys: pytest.CaptureFixture[str], path: str, why: str) -> None:
    with (copy.root / path).open("a") as file:
        file.write("\n")
    assert show_status(copy, Request(), PROFILES) == 0
    expected = f"stale: {why} changed" if why else "fresh"
    assert capsys.readouterr().out.splitlines() == [f"{name} (smoke): {expected}" for name in ("one", "two")]


def test_committed_records_are_passed_and_stamped(copy: Book, capsys: pytest.CaptureFixture[str]) -> None:
    small = replace(EXECUTE, profile="small", chapters=("two",))
    assert run(copy, small, PROFILES) == 0
    assert executions(copy)[-1] == "two small False auto experiments/results/small"
    assert (copy.out / "executed/smoke/chapters/two.ipynb").is_file()  # a profile does not replace another
    with (copy.root / "experiments/results/small/sweep.jsonl").open("a") as file:
        file.write('{"accuracy": 0.6}\n')
    capsys.readouterr()
    show_status(copy, small, PROFILES)
    assert capsys.readouterr().out == "two (small): stale: records changed\n"


@pytest.mark.skipif(side_by_side.fitting() < 2, reason="needs two cores")
def test_a_chapter_that_reads_the_others_waits_for_them(copy: Book, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(copy.source / "chapters/one.md", "\ncost:", "\nwaits_for_others: true\ncost:")
    rewrite(copy.source / "chapters/two.md", "with Path", "import time\n\ntime.sleep(3)\nwith Path")
    assert run(copy, replace(EXECUTE, at_once=2), PROFILES) == 0
    assert [line.split()[0] for line in executions(copy)[-2:]] == ["two", "one"]
    assert statuses(copy) == {"smoke/one": "ok", "smoke/two": "ok"}
    said = [line for line in capsys.readouterr().out.splitlines() if " ok after " in line]
    assert [line.split(":")[0] for line in said] == ["two", "one"]


# What goes wrong


def test_failing_chapter_is_named_and_the_others_go_on(copy: Book, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(copy.source / "chapters/one.md", 'print("twice', 'raise ValueError("gain must be positive")\nprint("twice')
    rewrite(copy.source / "chapters/two.md", "# Running it", "# Running it again")
    page = (copy.html / "chapters/two.html").read_bytes()
    assert run(copy, Request(), PROFILES) == 1
    error = capsys.readouterr().err
    partial = copy.out / "executed/smoke/chapters/one.failed.ipynb"
    assert "1 of 2 chapters failed" in error
    assert "one: ValueError: gain must be positive" in error
    assert str(partial) in error
    assert "results in" in partial.read_text()  # what ran before the error
    assert statuses(copy) == {"smoke/one": "failed", "smoke/two": "ok"}
    assert executions(copy)[-1].startswith("two")
    assert (copy.html / "chapters/two.html").read_bytes() == page  # the old HTML stays
    show_status(copy, Request(), PROFILES)
    assert "the last run failed: ValueError" in capsys.readouterr().out


def test_mistyped_parameter_is_an_error(copy: Book, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(copy.source / "chapters/two.md", 'device = "auto"', 'devise = "auto"')
    before = executions(copy)
    assert run(copy, EXECUTE, PROFILES) == 1
    error = capsys.readouterr().err
    assert "two: parameter 'device' is not one it accepts (profile, rerun, devise, results_dir)" in error
    assert executions(copy) == before


def test_chapter_timeout(copy: Book, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(copy.source / "chapters/two.md", "with Path", "import time\n\ntime.sleep(60)\nwith Path")
    assert run(copy, replace(EXECUTE, chapters=("two",), timeout=3.0), PROFILES) == 1
    assert "two: did not finish within --timeout 3 s" in capsys.readouterr().err


@pytest.mark.parametrize("at_once", [1, 2])
def test_interrupt_keeps_what_is_finished(copy: Book, at_once: int) -> None:
    rewrite(copy.source / "chapters/one.md", "# Wombat curves", "# Wombat curve")
    rewrite(copy.source / "chapters/two.md", "with Path", "import time\n\ntime.sleep(60)\nwith Path")
    program = (
        "import sys; from pathlib import Path; sys.path[:0] = sys.argv[2:4]; from fixture_book import PROFILES; "
        "from book.tool.build import Request, run; from book.tool.layout import Book; root = Path(sys.argv[1]); "
        "sys.exit(run(Book(root, root / 'book', root / 'book/_build'), Request(at_once=int(sys.argv[4])), PROFILES))"
    )
    command = [sys.executable, "-c", program, str(copy.root), str(REPO), str(Path(__file__).parent), str(at_once)]
    # A test that was itself started in the background of a shell would hand on that Ctrl-C is ignored.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, preexec_fn=listen, **pipes) as child:
        assert child.stdout
        assert child.stderr
        awaited = ["one: ok", "two: started"]
        while awaited:
            line = child.stdout.readline()
            awaited = [start for start in awaited if not line.startswith(start)]
            assert line, child.stderr.read()
        time.sleep(2)
        child.send_signal(signal.SIGINT)
        error = child.stderr.read()
        assert child.wait(timeout=20) == 130, error
    assert "interrupted: finished chapters are kept" in error
    assert "Wombat curve\\n" in (copy.out / "executed/smoke/chapters/one.ipynb").read_text()
    assert statuses(copy)["smoke/one"] == "ok"


def test_unknown_names_list_the_valid_ones(copy: Book, capsys: pytest.CaptureFixture[str]) -> None:
    for request, valid in [
        (Request(chapters=("three",)), "--chapter 'three' is not in _toc.yml; the chapters are: one, two"),
        (Request(profile="huge"), "--profile 'huge' does not exist; the profiles are: smoke, small"),
        (Request(device="gpu"), "--device 'gpu' is not known; give one of: auto, cpu, mps, cuda, cuda:N"),
    ]:
        assert run(copy, request, PROFILES) == 2
        assert valid in capsys.readouterr().err
    (copy.source / "chapters/two.md").unlink()
    assert run(copy, Request(), PROFILES) == 2
    assert "_toc.yml names 'chapters/two'" in capsys.readouterr().err


def test_command_line_hands_on_its_options(copy: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "ROOT", copy.root)
    monkeypatch.setattr(build, "load_profiles", lambda: PROFILES)
    out = ["--out", str(copy.out)]
    assert CliRunner().invoke(build.app, ["--profile", "huge", *out]).exit_code == 2
    assert CliRunner().invoke(build.app, ["--chapter", "three", *out]).exit_code == 2
    result = CliRunner().invoke(build.app, ["--status", "--profile", "small", "--rerun", "1", "--chapter", "one", *out])
    assert (result.exit_code, result.stdout) == (0, "one (small): stale: not executed yet\n")


# A book of which not every chapter is there, or not every one is fresh


def test_rendering_a_part_of_the_book(copy: Book, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(copy, Request(profile="small", chapters=("two",)), PROFILES) == 0
    assert "1 left out, not executed yet" in capsys.readouterr().out
    assert {page.name for page in (copy.html / "chapters").iterdir()} == {"two.html"}
    rewrite(copy.source / "chapters/two.md", "# Running it", "# Running it again")
    assert run(copy, Request(chapters=("one",)), PROFILES) == 0  # smoke has both, the second one now stale
    assert "This page shows an earlier run; since then: text changed." in (copy.html / "chapters/two.html").read_text()
    assert "earlier run" not in (copy.html / "chapters/one.html").read_text()


def test_warnings_fail_the_rendering_and_leave_the_old_pages(copy: Book, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(copy.source / "intro.md", "{doc}`first <chapters/one>`", "{doc}`first <chapters/nowhere>`")
    page = (copy.html / "intro.html").read_bytes()
    assert run(copy, Request(), PROFILES) == 1
    assert "chapters/nowhere" in capsys.readouterr().err
    assert (copy.html / "intro.html").read_bytes() == page


def test_reduce_toc_drops_emptied_parts() -> None:
    toc = {
        "root": "intro",
        "parts": [
            {"caption": "A", "chapters": [{"file": "a"}]},
            {"caption": "B", "chapters": [{"file": "b", "sections": [{"file": "c"}]}, {"file": "d.md"}]},
        ],
    }
    kept = reduce_toc(toc, lambda name: name in ("c", "d"))
    assert kept == {"root": "intro", "parts": [{"caption": "B", "chapters": [{"file": "d.md"}]}]}
