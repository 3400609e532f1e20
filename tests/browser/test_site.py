"""Every page in a real browser: nothing asked of another host, readable light, dark and on a phone."""

from __future__ import annotations

import re
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from book.tool.build import Request, run

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

REPO = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "google-chrome", "chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# A page of each kind, and the largest.
CONTRASTS = {f"{page}.html" for page in ("intro", "explorer", "status", "api", "chapters/atlas", "guides/agc_recipes")}
NOT_PAGES = {"index.html", "genindex.html"}  # a redirect, and an empty list
DROPPED = "net::ERR_ABORTED"  # by the browser itself; what a server refuses, or does not have, fails otherwise
AXE = Path(__file__).parent / "vendor" / "axe.min.js"  # axe-core 4.14.1, MPL-2.0
WEIGHT = 1.5e6  # bytes of a page with its images and its data; what several pages load, and MathJax, comes once
SOON = 1.0  # seconds, from the request to a page that answers
PHONE = {"width": 390, "height": 844}
# Of a figure: the opaque grounds between it and the page, and the colours of its labels.
DRAWN = """figure => {
  const numbers = colour => colour.match(/[0-9.]+/g).map(Number), cards = [];
  for (let box = figure; box.tagName !== "ARTICLE"; box = box.parentElement) {
    if ((numbers(getComputedStyle(box).backgroundColor)[3] ?? 1) > 0) cards.push(box.className);
  }
  const labels = [...figure.querySelectorAll("[transform*='scale(0.']")];
  return { cards, inks: labels.filter(l => /262626/.test(l.getAttribute("style")))
    .map(l => numbers(getComputedStyle(l).fill).slice(0, 3)) };
}"""
# The smallest label of each figure, in pixels of the screen.
LABELS = """() => [...document.querySelectorAll(".figure svg")].filter(svg => svg.clientWidth).map(svg => {
  const shrunk = svg.clientWidth / svg.viewBox.baseVal.width;
  const sizes = [...svg.innerHTML.matchAll(/scale\\((0\\.\\d+) -/g)].map(found => 100 * found[1] * shrunk);
  return Math.min(...sizes);
})"""
# What scrolls sideways in a box of its own, and whether the box shows it: a shadow, and rows that let it through.
SIDEWAYS = """() => [...document.querySelectorAll("article table, article .figure")].map(box => {
  let scroller = box;
  while (scroller.tagName !== "ARTICLE" && !/auto|scroll/.test(getComputedStyle(scroller).overflowX)) {
    scroller = scroller.parentElement;
  }
  const covers = [...box.querySelectorAll("tr, td, th")].filter(cell => {
    const alpha = getComputedStyle(cell).backgroundColor.match(/\\/ ([0-9.]+)|, ([0-9.]+)\\)$/);
    return !alpha || Number(alpha[1] ?? alpha[2]) > 0.3;
  });
  const shown = getComputedStyle(scroller).backgroundAttachment.includes("local") && !covers.length;
  return [scroller.scrollWidth > scroller.clientWidth + 1, shown, box.outerHTML.slice(0, 80)];
}).filter(([wide]) => wide)"""


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The book as it was last built; without one, a small book with the same configuration."""
    built = REPO / "book" / "_build" / "html"
    if (built / "index.html").is_file():
        return built
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(REPO / "tests" / "book"))
        from fixture_book import PROFILES, make_book
    small = make_book(tmp_path_factory.mktemp("site"))
    assert run(small, Request(), PROFILES) == 0
    return small.html


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(html: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(html)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser found; looked for {', '.join(BROWSERS)}")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield opened
        opened.close()


class Watch:
    """A tab that notes everything a page asks for and complains about."""

    def __init__(self, browser: sync_api.Browser, site: str, **options: object) -> None:
        self.faults: list[str] = []
        self.context = browser.new_context(base_url=site, **options)  # type: ignore[arg-type]
        self.page = self.context.new_page()
        self.host = urlsplit(site).netloc
        self.page.on("console", lambda message: self._note(message.type == "error", f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self._note(True, f"script: {error}"))
        # The browser asks for the icon when all else is done, and drops that when the tab goes to the next page.
        self.page.on("requestfailed", lambda request: self._note(request.failure != DROPPED, f"failed: {request.url}"))
        self.page.on("request", lambda request: self._note(self._foreign(request.url), f"foreign: {request.url}"))
        self.page.on("response", lambda answer: self._note(answer.status >= 400, f"{answer.status}: {answer.url}"))

    def _foreign(self, url: str) -> bool:
        parts = urlsplit(url)
        return parts.scheme not in ("data", "blob") and parts.netloc != self.host

    def _note(self, bad: bool, message: str) -> None:
        if bad:
            self.faults.append(message)

    def open(self, path: str, until: str = "networkidle") -> sync_api.Page:
        """The page once it asks for nothing more; with ``"load"`` as soon as it is loaded and its formulas are set."""
        self.page.goto(path, wait_until=until)  # type: ignore[arg-type]
        self.page.evaluate("async () => { await window.MathJax?.startup?.promise; }")
        return self.page


@pytest.fixture(scope="module")
def pages(html: Path) -> list[str]:
    found = [path.relative_to(html).as_posix() for path in sorted(html.rglob("*.html"))]
    return [page for page in found if page not in NOT_PAGES and not page.startswith("_")]


@pytest.fixture
def watch(browser: sync_api.Browser, site: str, request: pytest.FixtureRequest) -> Iterator[Watch]:
    tab = Watch(browser, site, **getattr(request, "param", {}))
    yield tab
    tab.context.close()


# A page is opened once for each theme and once as on a phone: opening takes longer than most looks at it.


@pytest.mark.parametrize("everywhere", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pages_load_clean_and_axe_finds_nothing_serious(
    browser: sync_api.Browser, site: str, pages: list[str], theme: str, everywhere: bool
) -> None:
    """Contrast, which takes axe longer than all else, is measured on a few pages by default."""
    watch = Watch(browser, site, color_scheme=theme)
    session = watch.context.new_cdp_session(watch.page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    faults: dict[str, list[str]] = {}
    assert pages
    for name in pages:
        page = watch.open(f"/{name}", until="networkidle" if theme == "light" else "load")
        busy = [busy_seconds(session)]
        while theme == "light" and busy[-1] >= SOON and len(busy) < 3:  # by the work beside it, perhaps
            watch.open(f"/{name}")
            busy.append(busy_seconds(session))
        page.wait_for_function("theme => document.documentElement.dataset.theme === theme", arg=theme)
        found = [*of_the_theme(page, theme), *of_axe(page, theme, everywhere or name in CONTRASTS)]
        if theme == "light":  # what follows has no colour
            found += [
                *without_text(page),
                *not_set(page),
                *[f"{min(busy):.2f} s of the processor"] * (min(busy) >= SOON),
            ]
        if found:
            faults[name] = found
    watch.context.close()
    assert not faults
    assert not watch.faults


def of_the_theme(page: sync_api.Page, theme: str) -> Iterator[str]:
    """A page, or a figure on it, that is not drawn for the theme."""
    brightness = "e => getComputedStyle(e).backgroundColor.match(/[0-9.]+/g).slice(0, 3).map(Number)"
    background = page.locator("body").evaluate(brightness)
    if not ((max(background) < 80) if theme == "dark" else (min(background) > 200)):
        yield f"background {background}"
    for figure in page.locator(".figure:visible").all():
        drawn = figure.evaluate(DRAWN)
        if drawn["cards"]:
            yield f"a figure on a card of its own: {drawn}"
        inks = [value for ink in drawn["inks"] for value in ink]
        if not inks:
            yield "a figure without labels"
        elif not ((min(inks) > 180) if theme == "dark" else (max(inks) < 80)):
            yield f"labels of a figure: {drawn}"


def of_axe(page: sync_api.Page, theme: str, contrast: bool) -> list[str]:
    """What axe calls serious or critical; a theme is colours, and nothing else on a page."""
    if theme == "dark" and not contrast:
        return []
    audit = """async options => {
      const found = await axe.run(document, { resultTypes: ["violations"], ...options });
      return found.violations.filter(v => ["serious", "critical"].includes(v.impact))
        .map(v => `${v.id}: ${v.nodes.length} such as ${v.nodes[0].html.slice(0, 160)}`);
    }"""
    only = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}
    page.add_script_tag(path=str(AXE))
    found: list[str] = page.evaluate(
        audit, only if theme == "dark" else {"rules": {"color-contrast": {"enabled": contrast}}}
    )
    return found


def busy_seconds(session: sync_api.CDPSession) -> float:
    """What the page's own thread had to do: unlike the clock, it does not count the tests beside it."""
    metrics = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
    assert 0 < metrics["ScriptDuration"] < metrics["TaskDuration"]
    return float(metrics["TaskDuration"])


def without_text(page: sync_api.Page) -> Iterator[str]:
    """Images and figures that say nothing to a reader who cannot see them."""
    for image in page.locator("img").all():
        alt = image.get_attribute("alt") or ""
        if not alt.strip() or re.search(r"\.(svg|png|jpe?g|gif|webp)$", alt):  # Sphinx fills in the file name
            yield f"{image.get_attribute('src')} (alt={alt!r}): display(figure, metadata={{'alt': '...'}})"
    for figure in page.locator(".figure svg").all():
        if not (figure.get_attribute("aria-label") or "").strip():
            yield "a figure without a text"


def not_set(page: sync_api.Page) -> Iterator[str]:
    """Formulas that MathJax did not set."""
    missing = "all => all.filter(e => !e.querySelector('mjx-container svg')).length"
    if count := page.locator("article .math").evaluate_all(missing):
        yield f"{count} formulas were not set"


@pytest.mark.parametrize(
    "watch", [{"viewport": PHONE, "is_mobile": True, "has_touch": True}], indirect=True, ids=["phone"]
)
def test_pages_on_a_phone(watch: Watch, pages: list[str]) -> None:
    """Nothing is wider than the page, settings are folded, labels are readable, and what scrolls shows it."""
    faults: dict[str, list[str]] = {}
    folded = sideways = 0
    for name in pages:
        page, found = watch.open(f"/{name}", until="load"), []
        width = page.evaluate("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")
        if width > PHONE["width"]:
            found.append(f"{width} pixels wide")
        for box in page.locator("details", has_text="Settings of this page").all():
            folded += 1
            found += ["settings before the page"] * box.locator("pre").first.is_visible()
        found += [f"a label of {size:.1f} pixels" for size in page.evaluate(LABELS) if size <= 8.9]
        wide = page.evaluate(SIDEWAYS)
        sideways += len(wide)
        found += [f"scrolls and does not show it: {box}" for _, shown, box in wide if not shown]
        if found:
            faults[name] = found
    assert not faults
    assert not watch.faults
    assert folded
    assert sideways


def test_search_finds_a_known_word(watch: Watch, pages: list[str]) -> None:
    chapter = next(name for name in pages if "/" in name)
    title = watch.open(f"/{chapter}").locator("h1").first.inner_text()
    word = max(re.findall(r"[A-Za-z]+", title), key=len)
    watch.page.keyboard.press("Control+k")
    watch.page.locator("#search-input:visible, input[type=search]:visible").first.fill(word)
    watch.page.keyboard.press("Enter")
    watch.page.wait_for_url("**/search.html*")
    hit = watch.page.locator(f"#search-results a[href*='{chapter}']").first
    hit.wait_for(timeout=10_000)
    assert not watch.faults


class Anchors(HTMLParser):
    """The places of a page, what it links to, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.places: set[str] = set()
        self.links: list[str] = []
        self.images: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.places |= {value for name in ("id", "name") if (value := given.get(name))}
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        if tag == "img" and given.get("src"):
            self.images.append(str(given["src"]))
        if tag == "script" and given.get("src"):
            self.scripts.append(str(given["src"]))


def test_internal_links_and_anchors_resolve(html: Path, pages: list[str]) -> None:
    parsed = {name: Anchors((html / name).read_text(encoding="utf-8")) for name in pages}
    broken = []
    for name, page in parsed.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (html / name).parent / unquote(parts.path) if parts.path else html / name
            known = parsed.get(target.resolve().relative_to(html.resolve()).as_posix()) if target.is_file() else None
            if not target.is_file() or (parts.fragment and known and unquote(parts.fragment) not in known.places):
                broken.append(f"{name}: {link}")
    assert not broken


def beside(page: Path, links: list[str]) -> set[Path]:
    """The files that a page names: neither addresses elsewhere nor data in the page itself."""
    own = (parts for parts in map(urlsplit, links) if not parts.scheme)
    return {(page.parent / unquote(parts.path)).resolve() for parts in own}


def test_pages_are_light(html: Path, pages: list[str]) -> None:
    heavy, parsed = {}, {name: Anchors((html / name).read_text(encoding="utf-8")) for name in pages}
    loaded = {name: beside(html / name, page.scripts) for name, page in parsed.items()}
    times = Counter(script for scripts in loaded.values() for script in scripts)
    for name, page in parsed.items():
        own = {script for script in loaded[name] if times[script] == 1 and script.parent.name != "mathjax"}
        files = {html / name, *own, *beside(html / name, page.images)}
        weight = sum(path.stat().st_size for path in files if path.is_file())
        if weight > WEIGHT:
            heavy[name] = weight
    assert not heavy


@pytest.mark.slow
@pytest.mark.alone
def test_pages_answer_a_new_visitor_within_a_second(browser: sync_api.Browser, site: str, pages: list[str]) -> None:
    """From the request to the first frame with all formulas set, with nothing in the cache; the best of three."""
    waited = """async () => {
      await window.MathJax?.startup?.promise;
      await new Promise(requestAnimationFrame);
      return performance.now() / 1000;
    }"""

    def visit(name: str) -> float:
        visitor = Watch(browser, site)
        seconds = visitor.open(f"/{name}", until="load").evaluate(waited)
        visitor.context.close()
        return float(seconds)

    slow = {}
    for name in pages:
        visits = [visit(name)]
        while min(visits) >= SOON and len(visits) < 3:
            visits.append(visit(name))
        if min(visits) >= SOON:
            slow[name] = visits
    assert not slow
