"""In a real browser JupyterLab runs the lessons that need more than a Python shell, widgets answer to mouse and keys,
and so they do in Voila."""
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
# The first, the one that has every widget, and the one that starts processes from a kernel; nbdev_test runs all, the
# site's pages those with widgets.
LESSONS = ["00_whole_game", "appendix/g_widgets", "09_training"]
TOKEN = "learner"

# The commands are dropped in silence until the notebook and its kernel are ready.
OPEN = """async path => {
    const app = window.jupyterapp
    const wait = async found => { while (!found()) await new Promise(done => setTimeout(done, 50)) }
    await app.restored
    const panel = await app.commands.execute('docmanager:open', { path })
    await panel.context.ready; await panel.sessionContext.ready
    await wait(() => panel.sessionContext.session?.kernel?.status === 'idle')
    return 'ready' }"""
CLOSE = """async () => {
    const panel = window.jupyterapp.shell.currentWidget
    await panel.sessionContext.shutdown()
    panel.dispose() }"""
RUN_ALL = """async () => {
    const app = window.jupyterapp, cells = app.shell.currentWidget.content.model.cells
    await app.commands.execute('notebook:run-all-cells')
    const all = Array.from({ length: cells.length }, (_, i) => cells.get(i).toJSON())
    const code = all.filter(cell => cell.cell_type === 'code' && cell.source.trim())
    return JSON.stringify({ run: code.filter(cell => cell.execution_count).length, all: code.length,
                            errors: code.flatMap(cell => cell.outputs).filter(o => o.output_type === 'error')
                                        .map(o => `${o.ename}: ${o.evalue}`) }) }"""
RUN_CELL = """async ([i, paints]) => {
    const app = window.jupyterapp, notebook = app.shell.currentWidget.content
    const drawn = () => document.querySelectorAll('.mg canvas').length, before = drawn()
    notebook.activeCellIndex = i
    await app.commands.execute('notebook:run-cell')
    const start = performance.now()
    while (paints && drawn() === before && performance.now() - start < 3000) await new Promise(requestAnimationFrame)
    const text = notebook.model.cells.get(i).toJSON().outputs.map(o => o.text ?? '').flat().join('')
    return JSON.stringify([text, performance.now() - start]) }"""
# What a canvas shows: the colours of its own pixels.
PIXELS = ("canvas => { const at = canvas.getContext('2d').getImageData(0, 0, canvas.width, "
          "canvas.height).data; return [...at].filter((_, i) => i % 4 < 3) }")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def served(folder: Path, *command: str, status: str) -> Iterator[str]:
    "The address of a server that `command` started in `folder`, once `status` under it answers."
    port = free_port()
    log = (folder / "server.log").open("w", encoding="utf-8")
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    server = subprocess.Popen([sys.executable, "-m", *command, "--no-browser", f"--port={port}"], cwd=folder,
                              stdout=log, stderr=subprocess.STDOUT, env=env)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            if server.poll() is not None:
                raise RuntimeError((folder / "server.log").read_text(encoding="utf-8")[-2000:])
            try: urllib.request.urlopen(address + status).read(); break
            except urllib.error.HTTPError: break  # it answers
            except (urllib.error.URLError, ConnectionError): time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    "JupyterLab over a copy of the notebooks, with the options of `make lab`."
    folder = tmp_path_factory.mktemp("lab") / "maskgit_nb"
    shutil.copytree(ROOT, folder,
                    ignore=shutil.ignore_patterns(".venv", ".git", "runs", "site", "student", "__pycache__",
                                                  "*.egg-info"))
    nbformat.write(playground(), folder / "nbs" / "playground.ipynb")
    options = ("--ip=127.0.0.1", "--allow-root", f"--IdentityProvider.token={TOKEN}",
               "--LabApp.expose_app_in_browser=True")
    with served(folder, "jupyterlab", *options, status=f"/api/status?token={TOKEN}") as address: yield address


def playground() -> nbformat.NotebookNode:
    """A notebook with a scrubber of twelve steps of four pictures, a brush that mends, and a cell that says what was
    painted."""
    sources = """import torch
from maskgit_nb.cats import drawn_cats
from maskgit_nb.images import random_holes
from maskgit_nb.inpainting import MaskGIT
from maskgit_nb.widgets import HoleBrush, Scrubber, record
model, cats, draws = MaskGIT.from_pretrained("cats64-small"), drawn_cats(4, seed=1), torch.Generator().manual_seed(0)
run = record(model, cats, random_holes(4, generator=draws), steps=12, generator=draws)
---
Scrubber(run)
---
brush = HoleBrush(cats[:1], model=model, steps=3)
brush.beside()
---
print(brush.hole.flatten().nonzero().flatten().tolist())
""".split("---\n")
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources],
                                    metadata={"kernelspec": {"display_name": "python3", "language": "python",
                                                             "name": "python3"}})


@pytest.fixture(scope="module")
def desk(browser, lab: str):
    """JupyterLab in a page of its own, for all tests: loading it takes longer than some lessons. With it the faults
    that it met."""
    context, faults = browser.new_context(viewport={"width": 1400, "height": 1000}), []
    # the badge of Colab
    context.route(re.compile("^https://"), lambda route: route.fulfill(content_type="image/svg+xml", body="<svg/>"))
    page = context.new_page()
    page.on("pageerror", lambda error: faults.append(str(error)))
    # for a moment an image of a lesson may stand in the page with the address that the lesson gives it; JupyterLab then
    # puts its own, under /files/, in its place, which must be found
    early = re.compile(re.escape(lab) + "/figures/")
    page.on("console", lambda message: faults.append(f"{message.text} {message.location['url']}")
            if message.type == "error" and not early.match(message.location["url"]) else None)
    page.goto(f"{lab}/lab?token={TOKEN}&reset")
    page.wait_for_function("window.jupyterapp !== undefined", timeout=60_000)
    yield page, faults
    context.close()


@pytest.fixture
def opened(desk, shots: Path, request):
    """Opens a notebook in JupyterLab; afterwards it is closed with its kernel, and the console must hold no error from
    before."""
    page, faults = desk
    faults.clear()
    def open_notebook(path: str):
        assert page.evaluate(OPEN, path) == "ready"
        return page
    yield open_notebook
    page.screenshot(path=shots / f"{request.node.name}.png")
    met = list(faults)
    page.evaluate(CLOSE)
    assert not met


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_runs_in_jupyterlab(opened, lesson: str):
    done = json.loads(opened(f"nbs/{lesson}.ipynb").evaluate(RUN_ALL))
    assert done["errors"] == []
    assert done["run"] == done["all"]


def painted(page) -> list[int]: return json.loads(json.loads(page.evaluate(RUN_CELL, [3, False]))[0])


@pytest.mark.alone
def test_widgets_in_jupyterlab(opened):
    page = opened("nbs/playground.ipynb")
    page.evaluate(RUN_CELL, [0, False])
    took = json.loads(page.evaluate(RUN_CELL, [1, True]))[1]
    print(f"scrubber of 12 steps of 4 pictures: first paint {took:.0f} ms after its cell")
    assert took < 300
    scrubber = page.get_by_label("decoding, step by step").first
    slider, canvases, told = scrubber.get_by_role("slider"), scrubber.locator("canvas"), scrubber.locator("output")
    last = canvases.nth(1).evaluate(PIXELS)
    slider.focus(); page.keyboard.press("Home")                          # by keyboard
    assert told.inner_text() == "start"
    first = canvases.nth(1).evaluate(PIXELS)
    assert first != last
    box = slider.bounding_box()                                           # by mouse
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert told.inner_text() == "step 6 of 12"
    middle = canvases.nth(1).evaluate(PIXELS)
    assert first != middle != last
    scrubber.get_by_role("button", name="Play").click()
    page.wait_for_function("document.querySelector('.mg output').textContent === 'step 12 of 12'", timeout=20_000)
    assert canvases.nth(1).evaluate(PIXELS) == last


def test_a_stroke_reaches_python_and_is_mended(opened):
    page = opened("nbs/playground.ipynb")
    for i in (0, 2): page.evaluate(RUN_CELL, [i, i == 2])
    brush = page.get_by_label("paint a hole")
    canvas = brush.locator("canvas")
    before = canvas.evaluate(PIXELS)
    box = canvas.bounding_box()
    at = lambda x, y: (box["x"] + x * box["width"] / 64, box["y"] + y * box["height"] / 64)
    assert painted(page) == []
    page.mouse.move(*at(20, 30)); page.mouse.down(); page.mouse.move(*at(40, 30), steps=5); page.mouse.up()
    page.mouse.move(box["x"] - 20, box["y"] - 20)
    after = canvas.evaluate(PIXELS)
    page.wait_for_timeout(500)
    hole = painted(page)
    assert hole == [i for i in range(64 * 64) if before[3 * i:3 * i + 3] != after[3 * i:3 * i + 3]]
    assert {30 * 64 + x for x in range(18, 42)} <= set(hole)
    brush.get_by_role("button", name="Mend").click()
    page.wait_for_function("document.querySelectorAll(\"[aria-label='decoding, step by step'] canvas\").length === 4",
                           timeout=60_000)
    page.wait_for_function("document.querySelector('.mg-told').textContent.includes('tokens were missing')",
                           timeout=60_000)
    brush.get_by_role("button", name="Clear").click()
    brush.get_by_role("button", name="Mend").click()
    page.wait_for_function("document.querySelector('.mg-told').textContent.includes('nothing to decide')",
                           timeout=60_000)


def test_voila(browser, shots: Path, tmp_path: Path):
    pytest.importorskip("voila", reason="no test of Voila: pip install voila")
    page_of = playground()
    nbformat.write(nbformat.v4.new_notebook(cells=page_of.cells[:3], metadata=page_of.metadata),
                   tmp_path / "page.ipynb")
    with served(tmp_path, "voila", "page.ipynb", "--Voila.ip=127.0.0.1", status="/voila/static/") as address:
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        faults = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request",
                lambda asked: faults.append(asked.url) if not asked.url.startswith((address, "data:", "blob:"))
                else None)
        # the icons that Voila's own page asks for
        page.route("**/fontawesome-free*/**", lambda route: route.fulfill(content_type="text/css", body=""))
        page.goto(address, timeout=120_000)
        page.get_by_label("paint a hole").locator("canvas").wait_for(timeout=120_000)
        scrubber = page.get_by_label("decoding, step by step").first
        last = scrubber.locator("canvas").nth(1).evaluate(PIXELS)
        scrubber.get_by_role("slider").focus(); page.keyboard.press("Home")
        assert scrubber.locator("canvas").nth(1).evaluate(PIXELS) != last
        brush = page.get_by_label("paint a hole")
        brush.get_by_role("button", name="Random hole").click()
        brush.get_by_role("button", name="Mend").click()
        page.wait_for_function("document.querySelectorAll(\"[aria-label='decoding, step by step'] canvas\").length === "
                               "20", timeout=60_000)
        page.screenshot(path=shots / "voila.png", full_page=True)
        page.close()
        assert [fault for fault in faults if "fontawesome-free" not in fault] == []
