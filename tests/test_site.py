"""The website: nothing is loaded from elsewhere, every link leads somewhere, widgets live without a kernel, and pages
read well on a phone and in the dark."""
import functools
import http.server
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlparse

import pytest

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "tools" / "site" / "build.py"
PATHS = {path.stem: path for folder in ("nbs", "nbs/appendix") for path in sorted((ROOT / folder).glob("*.ipynb"))}
NOTEBOOKS = [*PATHS]
LESSONS = [name for name in NOTEBOOKS if name != "index"]
# with 06 and 11, which only show scrubbers
WITH_WIDGETS = ["g_widgets", "00_whole_game", "03_attention", "06_schedules"]
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1440, "height": 900}
# How many places on the way of an image each lesson lights.
# others: one
LIT = {"00": 11, "02": 2, "08": 11, "09": 3, "10": 3, "13": 4, "14": 3, "a_": 0, "b_": 0, "c_": 0, "d_": 3, "g_": 11,
       "h_": 11, "i_": 3}


def missing(*packages: str) -> list[str]:
    return [name for name in packages if importlib.util.find_spec(name) is None]


pytestmark = pytest.mark.skipif(bool(missing("mkdocs", "material", "mkdocstrings", "latex2mathml")),
                                reason="mkdocs-material is not installed: pip install '.[site]'")


def build(*options: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(BUILD), *options], capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "The whole site; only lessons with widgets are executed, the others show their committed outputs."
    folder = tmp_path_factory.mktemp("site") / "site"
    start = time.perf_counter()
    done = build("--run", ",".join(WITH_WIDGETS), "--out", str(folder))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    print(f"\nsite built in {time.perf_counter() - start:.0f} s")
    return folder


# Links, by reading the files

class Page(HTMLParser):
    "The links, the things loaded and the anchors of one page."

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.loaded, self.anchors, self.current = [], [], {""}, []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"): self.links.append(given["href"])
        if given.get("src"): self.loaded.append(given["src"])
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next"): self.loaded.append(given["href"])
        if given.get("aria-current") == "step": self.current.append(given["href"])


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_formulas_are_drawn_whole(site: Path):
    drawn = 0
    for name in NOTEBOOKS:
        cells = json.loads(PATHS[name].read_text(encoding="utf-8"))["cells"]
        prose = re.sub(r"```.*?```|`[^`\n]+`", "",
                       "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"),
                       flags=re.DOTALL)
        given = [len(signs) for signs in re.findall(r"(\$\$?)[^$\n]+\1", prose)]
        made = re.findall(r'(\$?)<math [^>]*display="(inline|block)".*?</math>(\$?)',
                          (site / f"{name}.html").read_text(encoding="utf-8"), flags=re.DOTALL)
        assert made == [("", "inline" if signs == 1 else "block", "") for signs in given], name
        drawn += len(given)
    assert drawn > 2


def test_every_notebook_and_module_has_a_page(site: Path, pages):
    modules = {path.stem for path in (ROOT / "maskgit_nb").glob("*.py") if not path.stem.startswith("_")}
    assert {path.stem for path in pages if path.parent == site} >= {*NOTEBOOKS,
                                                                    *(path.stem
                                                                      for path in (ROOT / "nbs").glob("*.md"))}
    assert {path.stem for path in pages if path.parent.name == "reference"} == modules


def test_every_internal_link_and_anchor_leads_somewhere(site: Path, pages):
    dead = []
    for path, page in pages.items():
        for link in page.links + page.loaded:
            url = urlparse(urljoin(path.as_uri(), link))
            if url.scheme != "file": continue
            target = Path(unquote(url.path))
            if target.is_dir(): target = target / "index.html"
            known = pages[target].anchors if target in pages else {""}
            if not target.is_file() or target in pages and unquote(url.fragment) not in known:
                dead.append(f"{path.name}: {link}")
    assert not dead


def test_nothing_is_loaded_from_elsewhere_by_name(pages):
    assert not [f"{path.name}: {source}" for path, page in pages.items()
                for source in page.loaded if re.match(r"(https?:)?//", source)]


def test_lessons_can_be_downloaded(site: Path, pages):
    for name in LESSONS:
        assert (site / "notebooks" / f"{name}.ipynb").read_bytes() == PATHS[name].read_bytes()


def test_the_way_is_lit_where_the_lesson_is(site: Path, pages):
    for name in LESSONS:
        text = (site / f"{name}.html").read_text(encoding="utf-8")
        assert text.count('<nav class="way"') == 1 and "pixels --encode" not in text, name
        assert len(re.findall(r'<li class="(?:state|arrow) lit">', text)) == LIT.get(name[:2], 1), name
    assert [Path(link).stem[:2] for link in pages[site / "03_attention.html"].current] == ["03"]


def test_figures_are_told_in_words(site: Path):
    pages = {name: (site / f"{name}.html").read_text(encoding="utf-8") for name in LESSONS}
    told = [alt for page in pages.values() for alt in re.findall(r'<img[^>]* src="drawn/[^>]* alt="([^"]*)"', page)]
    assert len(told) > 80 and min(map(len, told)) > 60 and len(set(told)) > 0.9 * len(told)


def test_pages_say_whether_they_were_executed(site: Path):
    for name in LESSONS:
        page = (site / f"{name}.html").read_text(encoding="utf-8")
        assert ("Outputs of a fresh run" in page) == (name in WITH_WIDGETS), name


# What the script does with faults: on a copy of the project's small parts

@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "tools", tmp_path / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "settings.ini", tmp_path)
    (tmp_path / "maskgit_nb").mkdir()
    (tmp_path / "maskgit_nb" / "gone.py").write_text("", encoding="utf-8")
    (tmp_path / "nbs").mkdir()
    write(tmp_path, "index", "# Course\n\n[one](00_one.ipynb)")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "before.txt").write_text("before", encoding="utf-8")
    (tmp_path / "site" / ".written.json").write_text("{}", encoding="utf-8")
    return tmp_path


def write(project: Path, name: str, text: str, *code: str) -> None:
    cells = [dict(cell_type="markdown", metadata={}, source=text)]
    cells += [dict(cell_type="code", metadata={}, source=source, outputs=[], execution_count=None) for source in code]
    notebook = dict(cells=cells,
                    metadata=dict(kernelspec=dict(name="python3", display_name="python3", language="python")),
                    nbformat=4, nbformat_minor=4)
    (project / "nbs" / f"{name}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")


def build_in(project: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(project / "tools" / "site" / "build.py"), *options], capture_output=True,
                          text=True, timeout=120)


@pytest.mark.parametrize("published", ["yes", "no"])
def test_addresses_of_the_repository_stand_only_where_it_is_public(project: Path, published: str):
    write(project, "00_one", "# One: a lesson\n\nSee [the settings](../settings.ini).")
    settings = project / "settings.ini"
    settings.write_text(re.sub("published = .*", f"published = {published}", settings.read_text(encoding="utf-8")),
                        encoding="utf-8")
    done = build_in(project, "--run", "none")
    assert done.returncode == 0, done.stdout + done.stderr
    page = (project / "site" / "00_one.html").read_text(encoding="utf-8")
    found = ["colab.research.google.com" in page, "github.com/maskgit-nb/maskgit_nb/blob/main/settings.ini" in page,
             "Source on GitHub" in page]
    assert found == [published == "yes"] * 3 and "the settings" in page


def test_a_failing_cell_is_named_and_leaves_the_site(project: Path):
    write(project, "00_one", "# One", "x = 1", "x / 0")
    done = build_in(project)
    assert done.returncode == 1 and "00_one.ipynb: ZeroDivisionError: division by zero" in done.stderr
    assert (project / "site" / "before.txt").exists()


def test_a_dead_link_is_named_and_leaves_the_site(project: Path):
    write(project, "00_one", "# One\n\n[gone](gone.json)")
    done = build_in(project, "--run", "none")
    assert done.returncode == 1 and "00_one.ipynb: the link gone.json leads nowhere" in done.stderr
    assert (project / "site" / "before.txt").exists()


def test_an_unknown_name_is_named(project: Path):
    done = build_in(project, "--run", "00_won")
    assert done.returncode == 1 and "no such notebook: 00_won; there are index" in done.stderr


def test_a_folder_of_others_is_left_alone(project: Path):
    (project / "photos").mkdir()
    (project / "photos" / "cat.jpg").write_text("mine", encoding="utf-8")
    done = build_in(project, "--run", "none", "--out", str(project / "photos"))
    assert done.returncode == 1 and "photos was not made here" in done.stderr
    assert [path.name for path in (project / "photos").iterdir()] == ["cat.jpg"]


def test_a_site_takes_the_place_of_the_last(project: Path):
    write(project, "00_one", "# One")
    done = build_in(project, "--run", "none")
    assert done.returncode == 0, done.stderr
    assert (project / "site" / "00_one.html").exists() and not (project / "site" / "before.txt").exists()
    assert not list(project.glob(".site-*"))


# In a browser

class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


@pytest.fixture(scope="session")
def address(site: Path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


NO_WORDS = dict(config=dict(lang=["en"], separator=" ", pipeline=[], fields=dict(title={}, text={}, tags={})), docs=[])


@contextmanager
def tab(browser, home: str, scheme: str = "light", size: dict = DESK, searching: bool = False):
    """A page that can reach nothing but the site; requests elsewhere and errors in it fail the test that used it. Its
    search knows no words unless `searching`: every page reads all of them, for half a second."""
    context = browser.new_context(viewport=size, color_scheme=scheme)
    faults, page = [], context.new_page()
    if not searching:
        context.route(re.compile("/search/search_index[.]json$"), lambda route: route.fulfill(json=NO_WORDS))

    def refuse(route):
        faults.append(f"request to {route.request.url}")
        route.abort()

    if home.startswith("http"): context.route(re.compile(f"^https?://(?!{re.escape(urlparse(home).netloc)}/)"), refuse)
    else:
        page.on("request",
                lambda request: request.url.startswith(("file:", "data:", "about:", "blob:"))
                or faults.append(f"request to {request.url}"))
    page.on("console",
            lambda message: faults.append(f"{page.url}: {message.text}") if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(f"{page.url}: {error}"))
    yield page
    context.close()
    assert not faults


def test_no_page_asks_the_network_fails_or_is_wider_than_a_phone(browser, address: str, site: Path, pages, shots: Path):
    with tab(browser, address, size=PHONE) as page:
        for path in pages:
            page.goto(f"{address}/{path.relative_to(site).as_posix()}", wait_until="load")
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path.name
            if path.stem in ("index", LESSONS[0]): page.screenshot(path=shots / f"{path.stem}-phone.png")


def search(page) -> str:
    page.locator(".md-search__input").click()
    page.locator(".md-search__input").press_sequentially("Gumbel")
    page.locator(".md-search-result__link").first.wait_for()
    return page.locator(".md-search-result__list").inner_text()


def test_search_finds(browser, address: str):
    with tab(browser, address, searching=True) as page:
        page.goto(f"{address}/index.html")
        assert "Gumbel" in search(page)


def test_search_finds_in_pages_opened_as_files(browser, site: Path):
    with tab(browser, "file://", searching=True) as page:
        page.goto((site / "index.html").as_uri())
        assert "Gumbel" in search(page)


def background(page) -> str: return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_dark_and_light_can_be_switched(browser, address: str, shots: Path):
    with tab(browser, address) as page:
        page.goto(f"{address}/{LESSONS[0]}.html")
        light = background(page)
        page.screenshot(path=shots / "light.png")
        page.locator("label[title='Switch to dark']").click()
        page.wait_for_function("document.body.dataset.mdColorScheme === 'slate'")
        dark = background(page)
        page.screenshot(path=shots / "dark.png")
        page.reload()
        assert background(page) == dark != light
        page.locator("label[title='Switch to light']").click()
        assert background(page) == light


@pytest.mark.parametrize("lesson", WITH_WIDGETS)
def test_a_lessons_widget_answers_to_keys(browser, address: str, shots: Path, lesson: str):
    with tab(browser, address) as page:
        page.goto(f"{address}/{lesson}.html")
        page.wait_for_function("document.documentElement.dataset.widgets && document.querySelector('section.mg "
                               ":is(input[type=range], canvas[tabindex])')")
        widget = page.locator("section.mg").first
        widget.scroll_into_view_if_needed()
        def shown() -> str:
            return widget.evaluate("e => e.innerHTML + [...e.querySelectorAll('canvas')].map(canvas => "
                                   "canvas.toDataURL())")
        widget.locator(":is(input[type=range], canvas[tabindex])").first.focus()
        before = shown()
        for key in ("ArrowLeft", "ArrowLeft", "ArrowUp", "Space"): page.keyboard.press(key)
        assert shown() != before
        widget.screenshot(path=shots / f"{lesson}-after.png")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_widgets_live(browser, address: str, shots: Path, scheme: str):
    pixels = "canvas => canvas.toDataURL()"
    with tab(browser, address, scheme) as page:
        page.goto(f"{address}/{WITH_WIDGETS[0]}.html")
        page.wait_for_function("document.documentElement.dataset.widgets && document.querySelectorAll('.mg "
                               "canvas').length > 8")
        scrubber = page.locator("section[aria-label='decoding, step by step']").first
        slider, canvas = scrubber.locator("input[type=range]"), scrubber.locator("canvas").first
        other = page.locator("section.mg canvas").last
        before, beside = canvas.evaluate(pixels), other.evaluate(pixels)
        slider.focus()
        page.keyboard.press("ArrowLeft")
        assert canvas.evaluate(pixels) != before
        page.keyboard.press("ArrowRight")
        assert canvas.evaluate(pixels) == before and other.evaluate(pixels) == beside
        colour = scrubber.evaluate("e => getComputedStyle(e).color")
        assert colour == page.evaluate("getComputedStyle(document.querySelector('.md-typeset')).color")
        for i, widget in enumerate(page.locator(".widget").all()):
            widget.screenshot(path=shots / f"widget-{i}-{scheme}.png")


def test_the_live_page_comes_first(site: Path, pages):
    links = [link for link in pages[site / "index.html"].links if not link.startswith("#")]
    named = (site / "index.html").read_text(encoding="utf-8")
    assert (site / "live" / "transformer.onnx").stat().st_size > 5e6
    assert named.index('<a href="live.html"><strong>Live') < named.index('href="00_whole_game.html">00 The whole')
    assert links.index("live.html") < links.index("00_whole_game.html")
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) < 60e6


@contextmanager
def visitor(browser, address: str) -> Iterator:
    "A page whose requests are watched and not held, since a worker's would wait for ever."
    context, faults = browser.new_context(viewport=DESK), []
    page = context.new_page()
    context.on("request", lambda request: None if request.url.startswith((address, "data:", "blob:"))
               else faults.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page
    context.close()
    assert not faults


def test_the_lessons_widgets_mend_without_python(browser, address: str, shots: Path):
    with visitor(browser, address) as page:
        page.goto(f"{address}/00_whole_game.html")
        page.get_by_role("button", name="Mend").click()
        said = "document.querySelector('section[aria-label=\"paint a hole\"] .mg-told').textContent"
        page.wait_for_function(said + ".includes('tokens were missing')", timeout=60_000)
        page.locator(".widget").last.screenshot(path=shots / "lesson-mended.png")
        page.goto(f"{address}/06_schedules.html")
        box = page.locator("section[aria-label=schedules]").filter(has=page.locator("figcaption")).first
        box.locator("select").select_option("linear")
        box.get_by_role("slider", name="steps").fill("3")
        box.get_by_role("slider", name="steps").dispatch_event("change")
        box.locator("img[alt='mended by linear, 3 steps']").wait_for(timeout=60_000)


def test_the_live_page_mends(browser, address: str, shots: Path):
    with visitor(browser, address) as page:
        page.goto(f"{address}/index.html")
        page.get_by_role("link", name="Live: paint a hole").click()
        page.wait_for_function("document.body.textContent.includes('Ready: paint a hole')", timeout=60_000)
        page.get_by_role("button", name="Mend").click()
        page.wait_for_function("document.body.textContent.includes('in your browser.')", timeout=60_000)
        assert page.locator("h1").inner_text().strip(" #\n") == "Live"
        left, right = (page.locator(name).first.bounding_box() for name in (".mg-canvas", ".live-result canvas"))
        assert right["x"] > left["x"] + left["width"] and abs(right["y"] - left["y"]) < 10  # beside each other
        page.screenshot(path=shots / "live-page.png", full_page=True)


# Words of code in one colour need one look, and axe takes seconds for thousands: those after the first that it can
# judge become plain text.
ONE_OF_A_KIND = """() => {
    const seen = new Set(), again = []
    for (const word of document.querySelectorAll('pre span[class]')) {
        const paper = getComputedStyle(word.closest('pre')).backgroundColor
        const kind = [word.className, getComputedStyle(word).color, paper].join()
        if (!word.childElementCount && seen.has(kind)) again.push(word)
        else if (word.checkVisibility() && word.textContent.length > 1) seen.add(kind)
    }
    for (const word of again) word.replaceWith(word.textContent) }"""


@pytest.mark.skipif(bool(missing("axe_playwright_python")), reason="axe-core is not installed: pip install '.[site]'")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_fault_of_accessibility(browser, address: str, scheme: str):
    axe = Path(importlib.util.find_spec("axe_playwright_python").origin).with_name("axe.min.js")
    with tab(browser, address, scheme) as page:
        for name in ("index", "06_schedules", "g_widgets", "reference/decoding"):
            page.goto(f"{address}/{name}.html", wait_until="load")
            page.evaluate(ONE_OF_A_KIND)
            page.add_script_tag(path=axe)
            found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
            serious = [(fault["id"], len(fault["nodes"]), fault["nodes"][0]["html"][:200])
                       for fault in found if fault["impact"] in ("serious", "critical")]
            assert not serious, name
