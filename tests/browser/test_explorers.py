"""The two drawings of the explorer page, in a real browser: they say what Python says, and follow their controls."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from book.front import explorers

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
SCRIPT = Path(__file__).resolve().parents[2] / "book" / "assets" / "explorers.js"
HOST = (
    '<div class="explorer" data-kind="{kind}"><div class="controls"></div><div class="chart"></div>'
    '<p class="chosen"></p><div class="legend"></div><div class="fallback">fixed</div></div>'
)


def row(method: str, batch: int, rate: float, seed: int, split: str, accuracy: float) -> dict:
    return {
        "method": method, "variant": "", "batch": batch, "rate": rate, "threshold": None, "seed": seed, "split": split,
        "accuracy": accuracy, "train": accuracy + 0.1, "clipped": None, "epochs": 8, "line": batch + seed,
    }  # fmt: skip


DATA = {
    "sweeps": {
        "batch_size": [
            *(row("bn", b, 0.1, s, "test", 0.5 + s / 100) for b in (16, 64) for s in (0, 1, 2)),
            *(row("nf", b, 0.1, s, "test", 0.4) for b in (16, 64) for s in (0, 1, 2)),
            *(row("bn", b, r, 1000, "validation", r) for b in (16, 64) for r in (0.1, 0.2, 0.4)),
        ]
    },
    "files": {"batch_size": "https://example.org/batch_size.jsonl"},
    "look": {"bn": ["BN", "var(--c0072b2, #0072B2)"], "nf": ["NF", "#D55E00"]},
    "signal": ["#0072B2", "#D55E00"],
}


@pytest.fixture(scope="module")
def page() -> Iterator[sync_api.Page]:
    program = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
    if program is None:
        pytest.skip("no browser found")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        hosts = "".join(HOST.format(kind=kind) for kind in ("records", "propagation"))
        script = SCRIPT.read_text(encoding="utf-8")
        page.set_content(f"<body>{hosts}<script>window.EXPLORER={json.dumps(DATA)};\n{script}</script></body>")
        page.wait_for_selector(".explorer svg")
        yield page
        browser.close()


@pytest.mark.parametrize("activation", list(explorers.ACTIVATIONS))
@pytest.mark.parametrize("on", [True, False])
def test_the_signal_is_that_of_python(page: sync_api.Page, activation: str, on: bool) -> None:
    given = {"blocks": 3, "stages": 2, "alpha": 0.5, "activation": activation}
    flags = {"gain": on, "standardised": not on, "scaled": on}
    found = page.evaluate("options => window.predictedSignal(options)", given | flags)
    stream, branch = explorers.signal(**given, **flags)
    assert found["stream"] == pytest.approx(stream, rel=1e-9)
    assert found["branch"] == pytest.approx(branch, rel=1e-9)


def test_points_are_means_with_their_interval(page: sync_api.Page) -> None:
    chart = page.locator('[data-kind="records"] .chart')
    titles = chart.locator("title").all_text_contents()
    assert "BN, 16: 51.0 % ± 2.5, 3 seeds, rate 0.1" in titles  # t of 2 degrees of freedom, 4.303 / sqrt 3
    assert len(titles) == 4
    assert not page.locator(".fallback").first.is_visible()


def test_the_chart_follows_its_controls(page: sync_api.Page) -> None:
    host = page.locator('[data-kind="records"]')
    host.locator("select").nth(1).select_option("rate")
    titles = host.locator(".chart title").all_text_contents()
    assert len(titles) == 3  # one batch size, three rates, searched with one seed
    assert all("one seed" in title for title in titles)
    host.locator("select").nth(1).select_option("batch")
    host.locator(".legend input").first.uncheck()
    assert host.locator(".chart circle").count() == 2
    host.locator(".legend input").first.check()
    host.locator("select").nth(2).select_option("train")
    assert "BN, 16: 61.0 % ± 2.5, 3 seeds, rate 0.1" in host.locator(".chart title").all_text_contents()
    host.locator("select").nth(2).select_option("clipped")
    assert not host.locator(".chart circle").count()  # neither method clips
    host.locator("select").nth(2).select_option("accuracy")


def test_a_point_names_the_records_it_is_made_of(page: sync_api.Page) -> None:
    host = page.locator('[data-kind="records"]')
    point = host.locator(".chart circle").first
    assert point.evaluate("dot => getComputedStyle(dot).fill") == "rgb(0, 114, 178)"
    point.press("Enter")
    lines = host.locator(".chosen a")
    assert lines.all_text_contents() == ["line 16", "line 17", "line 18"]
    assert lines.first.get_attribute("href") == "https://example.org/batch_size.jsonl#L16"


def test_axe_finds_nothing_serious(page: sync_api.Page) -> None:
    page.add_script_tag(path=str(AXE))
    found = page.evaluate("axe.run('.explorer', { resultTypes: ['violations'] })")
    assert not [v["id"] for v in found["violations"] if v["impact"] in ("serious", "critical")]


def test_the_signal_follows_its_controls(page: sync_api.Page) -> None:
    signal = page.locator('[data-kind="propagation"]')
    before = signal.locator(".chart").inner_html()
    signal.locator("select").nth(4).select_option("0")
    assert signal.locator(".chart").inner_html() != before
