"""The exported networks give what torch gives, and the loop in the page is the loop in Python: function by function
under Node, whole runs in a real browser."""
import functools
import http.server
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch

from maskgit_nb.decoding import CONFIDENCES, ORDERS, Draws, decode, halton_order, predict, sample_tokens
from maskgit_nb.images import random_holes, to_picture, to_tensor
from maskgit_nb.inpainting import (
    MaskGIT,
    harmonic_fill,
    hole_to_mask,
    poisson_blend,
    smooth_fill,
    visible_evidence,
)
from maskgit_nb.live import export_onnx
from maskgit_nb.masking import keep_lowest
from maskgit_nb.schedules import SCHEDULES, mask_counts
from maskgit_nb.widgets import drawn_schedule, open_url, pack_hole, png_url, unpack_hole

ROOT = Path(__file__).parents[1]
HERE = ROOT / "tools" / "site" / "live"
sys.path.insert(0, str(ROOT / "tools"))


def seeded(seed: int) -> torch.Generator: return torch.Generator().manual_seed(seed)


# Under Node: each function of live.js beside its original

def node(cases: list) -> list:
    "The answers of live.js to cases (name, values ...)."
    if not shutil.which("node"): pytest.skip("node is not installed: apt install nodejs")
    done = subprocess.run(["node", str(ROOT / "tests" / "live_cases.mjs")], input=json.dumps(cases),
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def typed(x: torch.Tensor) -> dict:
    "A tensor as live_cases.mjs reads it."
    kind = {torch.float32: "f32", torch.float64: "f64", torch.bool: "u8", torch.int64: "i32"}[x.dtype]
    return {kind: x.flatten().tolist() if x.dtype != torch.bool else x.flatten().int().tolist()}


def numbers(values: list) -> torch.Tensor: return torch.tensor([float(x) for x in values], dtype=torch.float64)


def test_random_numbers_are_those_of_torch():
    "So a seed means the same picture in both. 1,700 numbers: the state of 624 words is twisted several times."
    seeds, sizes = (0, 1, 77, 2**31, 2**32 - 1), (256, 16, 700, 3)
    for seed, rows in zip(seeds, node([("draws", seed, sizes) for seed in seeds]), strict=True):
        draws = Draws(1, seeded(seed))
        for n, row in zip(sizes, rows, strict=True): assert draws.uniform(n)[0].tolist() == row


def test_counts_of_every_schedule():
    cases = [(schedule, n, steps) for schedule in SCHEDULES for n in (0, 1, 7, 64, 255, 256) for steps in (1, 2, 8, 13)]
    points = [1.0, 0.9, 0.2, 0.3, 0.0]
    for (schedule, n, steps), counts in zip(cases, node([("counts", *case) for case in cases]), strict=True):
        assert counts == mask_counts(schedule, n, steps), (schedule, n, steps)
    found = node([("counts", points, 200, steps) for steps in range(1, 17)])
    assert found == node([("widgetCounts", points, 200, steps) for steps in range(1, 17)])  # the lessons' explorer
    for steps, counts in enumerate(found, 1): assert counts == mask_counts(drawn_schedule(points), 200, steps)


def test_holes_are_packed_alike():
    "By Python, by the page and by the lessons' brush; 7 by 7 pixels do not fill their last byte."
    holes = [torch.rand(1, size, size, generator=seeded(size)) < 0.5 for size in (7, 16, 64)]
    asked = [(pack_hole(hole), hole.shape[-1]) for hole in holes]
    bits = [hole.flatten().int().tolist() for hole in holes]
    assert node([("unpacked", *case) for case in asked]) == [[row, row] for row in bits]
    assert node([("repacked", *case) for case in asked]) == [packed for packed, _ in asked]


def test_orders_and_ties():
    for n, order in zip((1, 16, 64, 256), node([("haltonOrder", n) for n in (1, 16, 64, 256)]), strict=True):
        assert order == halton_order(n).tolist()
    scores = torch.randint(5, (40, 30), generator=seeded(0)).double()  # many are level
    scores[:, ::3] = torch.inf
    counts = torch.randint(0, 21, (40,), generator=seeded(1))
    kept = node([("keepLowest", {"f64": [x if math.isfinite(x) else 1e300 for x in row.tolist()]}, int(count))
                 for row, count in zip(scores, counts, strict=True)])
    assert kept == keep_lowest(scores, counts).int().tolist()


def test_samples():
    logits = torch.randn(300, 50, generator=seeded(0)) * torch.linspace(0.1, 12, 300).unsqueeze(1)
    uniform = Draws(1, seeded(1)).uniform(300)[0]
    uniform[:4] = torch.tensor([1e-12, 1 - 1e-12, 0.5, 1e-12])
    for temperature in (0, 0.3, 1, 2.5):
        made = node([("sampleToken", typed(row), float(u), temperature)
                     for row, u in zip(logits, uniform, strict=True)])
        assert made == sample_tokens(logits[None], uniform[None], temperature)[0].tolist(), temperature


def test_holes_fillings_and_blends():
    size, grid = 16, 4
    holes = [*random_holes(6, size, seeded(2)), torch.ones(1, size, size, dtype=torch.bool)]
    holes += [torch.zeros(1, size, size, dtype=torch.bool)]
    holes += [torch.rand(1, size, size, generator=seeded(i)) < 0.5 for i in range(4)]
    images = torch.rand(len(holes), 3, size, size, generator=seeded(3)) * 2 - 1
    made, holes = images.flip(0), torch.stack(holes)
    rows = list(zip(images, made, holes, strict=True))
    for dilate in (0, 1, 2):
        masks = node([("holeToMask", typed(hole), size, grid, dilate) for hole in holes])
        assert masks == hole_to_mask(holes, grid, dilate).int().tolist()
    for name, right in (("smoothFill", smooth_fill(images, holes)), ("harmonicFill", harmonic_fill(images, holes))):
        found = numbers(sum(node([(name, typed(x), typed(hole), size) for x, _, hole in rows]), []))
        assert (found - right.flatten().double()).abs().max() < 1e-5, name
    found = numbers(sum(node([("poissonBlend", typed(x), typed(y), typed(hole), size) for x, y, hole in rows]), []))
    right = poisson_blend(images, made, holes)
    assert (found - right.flatten().double()).abs().max() < 1e-5
    known = ~holes.expand_as(images).flatten()
    assert (found[known] == images.flatten()[known].double()).all()


def test_evidence(maskgit):
    holes = random_holes(3, 16, seeded(4))
    images = smooth_fill(torch.rand(3, 3, 16, 16, generator=seeded(5)) * 2 - 1, holes)
    latents, codebook = maskgit.vqgan.latents(images), maskgit.vqgan.quantizer.codebook
    answers = node([("evidence", typed(z), [typed(code) for code in codebook], typed(hole), 16, 4, 30)
                    for z, hole in zip(latents, holes, strict=True)])
    right = visible_evidence(maskgit.vqgan, images, holes, 30)
    assert (torch.tensor(answers) - right).abs().max() < 1e-4


class Table(torch.nn.Module):
    "Gives the logits of a table, a row (N,K) for each call."
    def __init__(self, table: torch.Tensor):
        super().__init__()
        self.rows, self.mask_token_id = list(table), table.shape[-1]

    def forward(self, tokens: torch.Tensor) -> torch.Tensor: return self.rows.pop(0).expand(len(tokens), -1, -1)


def test_decoding_step_by_step():
    """Whole runs on given logits: every schedule, order, confidence, temperature and kind of hole. Tokens and masks
    are equal in every step, confidences up to rounding in float64."""
    n, codes, cases, right, random = 16, 12, [], [], torch.Generator().manual_seed(7)
    for case in range(160):
        steps = int(torch.randint(1, 10, (), generator=random))
        options = dict(steps=steps, schedule=[*SCHEDULES][case % 8], order=ORDERS[case % 3],
                       confidence=CONFIDENCES[case % 2], temperature=[0, 1, 4.5, 14][case % 4])
        sampling = [1, 0, 0.5, 2][case // 8 % 4]
        table = torch.randn(steps, n, codes, generator=random) * 3
        bias = torch.randn(n, codes, generator=random) if case % 5 == 0 else None
        mask = torch.rand(n, generator=random) < [0.1, 0.5, 1, 0.9][case // 3 % 4]
        tokens = torch.randint(codes, (n,), generator=random)
        cases.append(("decode", [typed(row) for row in table], typed(tokens), typed(mask), codes, case,
                      options | dict(samplingTemperature=sampling), bias is not None and [typed(row) for row in bias]))
        right.append(list(decode(Table(table), tokens[None], mask[None], sampling_temperature=sampling,
                                 generator=seeded(case), logit_bias=None if bias is None else bias[None], **options)))
    for case, made, steps in zip(cases, node(cases), right, strict=True):
        assert len(made) == len(steps), case[5:]
        for mine, step in zip(made, steps, strict=True):
            assert mine["tokens"] == step.tokens[0].tolist(), case[5:7]
            assert mine["mask"] == step.mask[0].int().tolist(), case[5:7]
            sure, confidence = numbers(mine["confidence"]), step.confidence[0].double()
            assert torch.equal(sure.isinf(), confidence.isinf())
            assert (sure - confidence)[confidence.isfinite()].abs().max() < 1e-9


# The exported files

@pytest.fixture(scope="session")
def exported(maskgit, tmp_path_factory) -> Path:
    pytest.importorskip("onnxruntime", reason="nothing is exported: pip install '.[live]'")
    pytest.importorskip("onnxscript", reason="nothing is exported: pip install '.[live]'")
    folder = tmp_path_factory.mktemp("exported")
    sizes = export_onnx(maskgit, folder)
    assert sizes == {path.name: path.stat().st_size for path in folder.iterdir()}
    return folder


def session(path: Path):
    import onnxruntime
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_exported_networks_take_any_batch(exported, maskgit, batch):
    images = torch.rand(batch, 3, 16, 16, generator=seeded(batch)) * 2 - 1
    tokens = torch.randint(24, (batch, 16), generator=seeded(batch))
    masked = tokens.masked_fill(torch.rand(batch, 16, generator=seeded(batch)) < 0.6, 24)
    for name, given, right in (("encoder", images, maskgit.vqgan.latents(images)),
                               ("transformer", masked, maskgit.transformer(masked)),
                               ("decoder", tokens, maskgit.vqgan.decode(tokens))):
        network = session(exported / f"{name}.onnx")
        made = torch.from_numpy(network.run(None, {network.get_inputs()[0].name: given.numpy()})[0])
        assert (made - right).abs().max() < 1e-4 * right.abs().max(), name


def test_exported_codes_and_sizes(exported, maskgit):
    config = json.loads((exported / "config.json").read_text(encoding="utf-8"))
    assert (config["image_size"], config["grid"], config["codebook_size"], config["latent_dim"]) == (16, 4, 24, 8)
    codes = np.fromfile(exported / "codebook.bin", "<f4").reshape(24, 8)
    assert np.array_equal(codes, maskgit.vqgan.quantizer.codebook.detach().numpy())


def test_an_export_that_differs_writes_nothing(maskgit, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    from maskgit_nb import live
    right = live._to_onnx
    def wrong(network, takes, gives, example):
        made = right(network, takes, gives, example)
        if gives == "logits":
            from onnx import numpy_helper
            weight = next(w for w in made.graph.initializer if len(w.dims) == 2)
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.01, weight.name))
        return made
    monkeypatch.setattr(live, "_to_onnx", wrong)
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match=r"transformer.onnx differs from torch by up to"):
        export_onnx(maskgit, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_export_leaves_files_of_others_alone(maskgit, tmp_path):
    (tmp_path / "config.json").write_text('{"mine": 1}', encoding="utf-8")
    with pytest.raises(FileExistsError, match="holds config.json, not written by an export"):
        export_onnx(maskgit, tmp_path)
    assert (tmp_path / "config.json").read_text(encoding="utf-8") == '{"mine": 1}'


def test_without_the_extra_export_says_what_to_install(maskgit, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"pip install 'maskgit_nb\[live\]'"): export_onnx(maskgit, tmp_path / "new")
    assert not (tmp_path / "new").exists()


# In a real browser: whole runs beside Python, and the page as a visitor finds it

class Quiet(http.server.SimpleHTTPRequestHandler):
    """A plain web server, which says nothing, and refuses the files whose names are in `broken`. `changed` has texts
    for names, in place of the files: Playwright's routes do not see a worker's worker."""
    broken: set[str] = set()
    changed: dict[str, str] = {}

    def do_GET(self):
        name = Path(self.path).name
        if name in self.broken: return self.send_error(503)
        if name not in self.changed: return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/javascript")
        self.end_headers()
        self.wfile.write(self.changed[name].encode())

    def log_message(self, *args): pass


@pytest.fixture(scope="session")
def live_page(exported, weights, tmp_path_factory):
    """A function from the name of weights to the address of their live page: the tiny model's by "tiny", for runs that
    take milliseconds."""
    import live_page as pages
    try: pages.runtime()
    except OSError as error: pytest.skip(f"onnxruntime-web cannot be had: {error}")
    servers = []

    @functools.cache
    def address(name: str) -> str:
        folder = tmp_path_factory.mktemp("live")
        files = pages.contents(str(weights) if name == "tiny" else name)
        for file, content in (files | {"index.html": pages.page(pages.body())}).items():
            (folder / file).write_bytes(content.encode() if isinstance(content, str) else content)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield address
    for server in servers: server.shutdown()


@pytest.fixture
def visit(browser, live_page, monkeypatch):
    "Opens the live page of some weights; whatever the page asks of another host, or sends, is a fault."
    contexts, faults = [], []

    def open_page(name: str = "tiny", path: str = "", script: str = "", within=None, changed=(), **options):
        "`within`: another browser; `changed`: (file, what, by what), for files that are served otherwise."
        address = live_page(name)
        context = (within or browser).new_context(**dict(viewport=dict(width=1000, height=900)) | options)
        contexts.append(context)
        own = (address, "data:", "blob:")
        context.on("request", lambda request: None if request.method == "GET" and request.url.startswith(own)
                   else faults.append(f"{request.method} {request.url}"))
        texts = {file: (HERE / file).read_text(encoding="utf-8") for file, _, _ in changed}
        for file, old, new in changed:
            assert old in texts[file]
            texts[file] = texts[file].replace(old, new)
        monkeypatch.setattr(Quiet, "changed", texts)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        if script: page.add_init_script(script)
        page.goto(address + path)
        return page

    yield open_page
    for context in contexts: context.close()
    assert not faults


def says(page, text: str) -> None:
    page.wait_for_function("text => document.body.textContent.includes(text)", arg=text, timeout=60_000)


RUN = """async ([cases, device]) => {
  const { Mender, toPixels, unpackHole } = await import("./mender.js")
  const mender = globalThis.mender ??= new Mender(() => {}, device), answers = []
  for (const { picture, hole, size, options } of cases) {
    const steps = await mender.mend(await toPixels(picture, size), unpackHole(hole, size), options)
    answers.push({ tokens: steps.map(step => [...step.tokens]), mask: steps.map(step => [...step.mask]),
                   picture: steps.length ? [...steps.at(-1).picture] : null })
  }
  return JSON.stringify(answers)
}"""


def tie(model: MaskGIT, image: torch.Tensor, hole: torch.Tensor, run: dict, steps: list, t: int, seed: int,
        rows: int) -> bool:
    """Whether the runs part at step `t` because the draw, or the last place, was decided by less than the rounding of
    float32: 1e-5 of a probability, 1e-4 of a confidence. `rows`: random rows that a step takes."""
    draws, n = Draws(1, seeded(seed)), model.vqgan.config.grid**2
    for _ in range(rows * t): draws.uniform(n)
    before = steps[t - 1].mask if t else hole_to_mask(hole, model.vqgan.config.grid)
    tokens = steps[t - 1].tokens if t else model.vqgan.encode(smooth_fill(image, hole))
    logits = predict(model.transformer, tokens.masked_fill(before, model.transformer.mask_token_id))
    logits = (logits + visible_evidence(model.vqgan, smooth_fill(image, hole), hole, 30))[0].double()
    borders, u = logits.softmax(-1).cumsum(-1), draws.uniform(n)[0]
    other = (torch.tensor(run["tokens"][t]) != steps[t].tokens[0]).nonzero().flatten()
    if len(other): return bool(((borders[other] - u[other, None]).abs().amin(-1) < 1e-5).all())
    score, kept = steps[t].confidence[0].double(), torch.tensor(run["mask"][t]).bool()
    moved = kept != steps[t].mask[0]
    return bool((score[moved].max() - score[moved].min()) < 1e-4)


def compare(page, model: MaskGIT, cases: list[tuple[torch.Tensor, torch.Tensor, dict]], device: str = "wasm") -> int:
    """Runs (image, hole, options) in the page and in Python. Steps and tokens must be equal, and pixels to a level of
    255; returns in how many runs a tie was decided otherwise, after which nothing is compared."""
    size, ties = model.vqgan.config.image_size, 0
    asked = [dict(picture=png_url(x[0]), hole=pack_hole(hole), size=size, options=options)
             for x, hole, options in cases]
    for (x, hole, options), run in zip(cases, json.loads(page.evaluate(RUN, [asked, device])), strict=True):
        named = {name: value for name, value in options.items() if name not in ("seed", "samplingTemperature")}
        if isinstance(named.get("schedule"), list): named["schedule"] = drawn_schedule(named["schedule"])
        right = model.inpaint(x, hole, frames=True, generator=seeded(options["seed"]), **named)
        assert len(run["tokens"]) == len(right.steps), options
        for t, step in enumerate(right.steps):
            if run["tokens"][t] == step.tokens[0].tolist() and run["mask"][t] == step.mask[0].int().tolist(): continue
            rows = 1 if options.get("order") == "halton" else 2
            assert tie(model, x, hole, run, right.steps, t, options["seed"], rows), options
            ties += 1
            break
        else:
            if right.steps: assert (numbers(run["picture"]) - right.images.flatten()).abs().max() < 1 / 127.5, options
    return ties


def tiny_cases() -> list[tuple[torch.Tensor, torch.Tensor, dict]]:
    "Forty runs of the tiny model: every schedule, order, filling, temperature; holes of every kind."
    random, cases = torch.Generator().manual_seed(3), []
    holes = random_holes(40, 16, random)
    for i in range(40):
        x = to_tensor(open_url(png_url(torch.rand(3, 16, 16, generator=random) * 2 - 1)))[None]
        hole = torch.ones(1, 1, 16, 16, dtype=torch.bool) if i % 10 == 9 else holes[i:i + 1]
        options = dict(seed=i, steps=1 + i % 9, schedule=[*SCHEDULES, [1.0, 0.2, 0.5, 0.0]][i % 9], order=ORDERS[i % 3],
                       temperature=[0, 1, 4.5, 14][i % 4], evidence=[30, 0, 10][i // 3 % 3],
                       fill=["smooth", "grey"][i // 2 % 2], blend=bool(i // 4 % 2 == 0), dilate=i // 5 % 2)
        cases.append((x, hole, options))
    return cases


def test_whole_runs_in_the_page_are_those_of_python(visit, maskgit):
    assert compare(visit(), maskgit, tiny_cases()) == 0


def test_the_shipped_model_in_the_page_is_that_of_python(visit):
    from maskgit_nb.cats import drawn_cats
    model, cats, holes = MaskGIT.from_pretrained("cats64-small"), drawn_cats(4, 21), random_holes(4, 64, seeded(8))
    changes = dict(), dict(order="halton", steps=4), dict(temperature=4.5, schedule="linear"), dict(steps=2, dilate=1)
    cases = [(x[None], hole[None], dict(seed=i) | change)
             for i, (x, hole, change) in enumerate(zip(cats, holes, changes, strict=True))]
    assert compare(visit("cats64-small"), model, cases) <= 1


def test_a_visitor_paints_and_mends(visit, shots):
    page = visit()
    says(page, "Ready: paint a hole, then press Mend.")
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("button", name="Mend").click()
    says(page, "Nothing is missing: paint a hole first.")
    page.get_by_role("application", name="picture with its hole").press("Space")
    page.get_by_role("button", name="Mend").click()
    says(page, "in your browser.")
    assert page.evaluate("document.querySelectorAll('.mg-row').length") == 1
    slider = page.get_by_role("slider", name="step", exact=True)
    slider.press("Home")
    assert page.evaluate("[...document.querySelectorAll('output')].map(output => output.textContent)").count("start")
    page.screenshot(path=str(shots / "live.png"), full_page=True)


def test_a_picture_of_ones_own_stays_in_the_browser(visit, tmp_path):
    "`visit` fails the test if anything is sent."
    page, name = visit(), "<img src=x onerror=document.title='run'>.png"
    says(page, "Ready")
    to_picture(torch.zeros(3, 40, 50)).save(tmp_path / name)
    page.locator("input[type=file]").set_input_files(tmp_path / name)
    says(page, f"{name}: cut to a square")
    page.get_by_role("button", name="Mend").click()
    says(page, "in your browser.")
    page.get_by_role("button", name="Copy link").click()
    says(page, "Your own picture is not in it: it stays with you.")
    assert "picture" not in page.url and "image" not in page.url and page.title() != "run"


def test_the_last_of_two_clicks_counts(visit):
    page = visit()
    says(page, "Ready")
    for _ in range(3): page.get_by_role("button", name="Another try").click()
    says(page, "seed 3")
    assert "seed 1" not in page.inner_text("body")


def test_settings_travel_in_the_address(visit):
    page = visit()
    says(page, "Ready")
    page.locator("summary").click()
    page.get_by_label("order").select_option("halton")
    page.get_by_role("slider", name="steps").fill("3")
    page.get_by_role("button", name="Plain MaskGIT").click()
    says(page, "in 3 steps")
    page.get_by_role("button", name="Copy link").click()
    says(page, "The link to these settings and this hole is")
    other = visit(path=page.url.partition("#")[1] + page.url.partition("#")[2])
    says(other, "Ready")
    other.get_by_role("button", name="Mend").click()
    says(other, "in 3 steps")
    assert "halton" in other.inner_text(".mg-run h4") and "plain" in other.inner_text(".mg-run h4")
    canvas = "document.querySelector('.live-result canvas').toDataURL()"
    assert other.evaluate(canvas) == page.evaluate(canvas)


@pytest.mark.parametrize("path", ["#steps=1e9&schedule=__proto__&seed=-3&hole=%%%", "#steps=&hole=AAAA&picture=99",
                                  "#temperature=NaN&order=<b>&blend=maybe&evidence=1e999"])
def test_a_spoilt_address_starts_the_page_all_the_same(visit, path):
    page = visit(path=path)
    says(page, "Ready")
    page.get_by_role("button", name="Mend").click()
    says(page, "in your browser.")


def test_without_webassembly_the_page_says_so(visit):
    page = visit(script="delete globalThis.WebAssembly")
    says(page, "This browser has no WebAssembly, or is too old for the networks")
    assert not page.get_by_role("button", name="Mend").count()


def test_a_file_that_cannot_be_loaded_is_named_and_tried_again(visit, monkeypatch):
    monkeypatch.setattr(Quiet, "broken", {"decoder.onnx"})
    page = visit()
    says(page, "The networks could not be loaded: decoder.onnx could not be loaded (503)")
    monkeypatch.setattr(Quiet, "broken", set())
    page.get_by_role("button", name="Mend").click()
    says(page, "in your browser.")


def test_a_second_visit_loads_no_network(visit):
    page = visit()
    says(page, "Ready")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.context.on("request", lambda request: asked.append(request.url))
    page.reload()
    says(page, "Ready")
    assert any(url.endswith("files.json") for url in asked)
    assert not [url for url in asked if url.endswith((".onnx", ".gz"))]


def test_the_page_stays_responsive(visit):
    "While the worker mends, the page's own clock, asked for every 10 ms, never stops for long."
    page = visit("cats64-small")
    says(page, "Ready")
    page.evaluate("""() => {
      globalThis.gaps = []; let last = performance.now()
      setInterval(() => { const now = performance.now(); gaps.push(now - last); last = now }, 10)
    }""")
    page.get_by_role("button", name="Mend").click()
    says(page, "in your browser.")
    gaps = sorted(page.evaluate("gaps"))
    assert len(gaps) > 20 and gaps[int(0.95 * len(gaps))] < 200


SMALL = """() => {
  const targets = [...document.querySelectorAll(".live :is(button, select, summary, input:not([type=checkbox]))")]
  const least = e => Math.min(e.getBoundingClientRect().width, e.getBoundingClientRect().height)
  return targets.filter(e => e.offsetParent && least(e) < 44).map(e => e.outerHTML)
}"""


def test_phone_and_axe(visit, shots):
    "Every target is as large as a finger, and the mended picture comes into view."
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe: pip install '.[browser]'")
    for name, scheme in (("light", "light"), ("dark", "dark")):
        page = visit(viewport=dict(width=390, height=844), has_touch=True, is_mobile=True, color_scheme=scheme)
        says(page, "Ready")
        page.get_by_role("button", name="Mend").tap()
        says(page, "in your browser.")
        place = page.locator(".live-result canvas").bounding_box()
        assert 0 <= place["y"] and place["y"] + place["height"] <= 844
        page.locator("summary").tap()
        assert not page.evaluate(SMALL)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.screenshot(path=str(shots / f"live-phone-{name}.png"), full_page=True)
        found = [violation for violation in axe.Axe().run(page).response["violations"]
                 if violation["impact"] in ("serious", "critical")]
        assert not found, [(violation["id"], violation["nodes"][0]["html"]) for violation in found]


# WebGPU. A Chromium whose processor plays the GPU computes right and takes half a minute to begin. What the page makes
# of a GPU is tried faster, with a second WASM in the GPU's place.

def test_whole_runs_by_webgpu_are_those_of_python(browser, visit, maskgit):
    "A draw near the border of two codes may fall otherwise; in ten runs hardly one is that near."
    if not os.environ.get("MASKGIT_NB_SOAK"): pytest.skip("takes a minute: set MASKGIT_NB_SOAK=1")
    chromium = browser.browser_type.launch(executable_path=shutil.which("chromium"), args=[
        "--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"])
    try:
        page = visit(path="config.json", within=chromium)
        if not page.evaluate("async () => 'Suspending' in WebAssembly && !!await navigator.gpu?.requestAdapter()"):
            pytest.skip("this Chromium gives no software adapter for WebGPU, or cannot suspend WebAssembly")
        assert compare(page, maskgit, tiny_cases()[:10], "webgpu") <= 1
        assert page.evaluate("mender.where.device") == "webgpu"
    finally: chromium.close()


GPU = [("worker.js", "await navigator.gpu?.requestAdapter()", "{ info: {} }"),
       ("worker.js", "fetched(gpu, kept)", "fetched('ort-wasm-simd-threaded.wasm.gz', kept)"),
       ("gpu.js", "./ort.gpu.js", "./ort.js"), ("gpu.js", '["webgpu"]', '["wasm"]'),
       ("gpu.js", "ort.env.webgpu.device.lost", "new Promise(() => {})")]
MS = "gpu.js", "ms: performance.now() - begun"
PROCESSOR, GRAPHICS = "this device's processor", "this device's GPU"


@pytest.mark.parametrize("path, changed, told", [
    ("", [(*MS, "ms: 0.1")], GRAPHICS), ("", [(*MS, "ms: 1e6")], PROCESSOR),
    ("?device=webgpu", [(*MS, "ms: 1e6")], GRAPHICS), ("?device=wasm", [(*MS, "ms: 0.1")], PROCESSOR),
    ("?device=webgpu", [("gpu.js", '["wasm"]', '["nothing"]')], "nothing"),
    ("?device=webgpu", [("gpu.js", "{ data, ms", "{ data: data.map(x => 1.01 * x), ms")], "No GPU: its numbers"),
], ids=["faster", "slower", "forced", "refused", "operator missing", "wrong numbers"])
def test_the_gpu_mends_where_it_is_right_and_faster_or_forced(visit, path, changed, told):
    page = visit(path=path, changed=GPU + changed)
    says(page, told if path != "?device=wasm" else "Ready: paint")
    page.get_by_role("button", name="Mend").click()
    says(page, "in your browser.")
    says(page, told if told == GRAPHICS else PROCESSOR)


def test_a_gpu_that_is_lost_in_the_middle_changes_no_token(visit, maskgit):
    lost = "gpu.js", "const begun", "if (sessions.count++ > 12) throw Error('lost')\n  const begun"
    counting = "gpu.js", "const sessions = {}", "const sessions = { count: 0 }"
    page = visit(path="config.json", changed=[*GPU, counting, lost])
    assert compare(page, maskgit, tiny_cases()[:6], "webgpu") == 0
    assert page.evaluate("mender.where.device") == "wasm"


def test_a_software_adapter_is_left_alone_and_nothing_loaded_for_it(visit):
    software = "worker.js", "await navigator.gpu?.requestAdapter()", "{ info: { isFallbackAdapter: true } }"
    page, asked = visit(path="config.json", changed=[software]), []
    page.context.on("request", lambda request: asked.append(request.url))
    page.goto(page.url.replace("config.json", ""))
    says(page, "Ready")
    page.get_by_role("button", name="Mend").click()
    says(page, PROCESSOR)
    assert any(url.endswith(".wasm.gz") for url in asked)
    assert not [url for url in asked if "gpu" in url or "jspi" in url]


# Other browsers, where Debian's packages are there: apt install firefox-esr, or webkit2gtk-driver and xvfb

MEND_TWICE = """async () => {
  const until = performance.now() + 100_000, text = () => document.body.textContent
  while (!text().includes("Ready: paint a hole")) {
    if (performance.now() > until) return "never ready: " + text().slice(-300)
    await new Promise(resolve => setTimeout(resolve, 50))
  }
  const { Mender, toPixels, unpackHole } = await import("./mender.js"), mender = new Mender(), runs = []
  const { pictures, holes, size } = await (await fetch("start.json")).json()
  for (const seed of [0, 1]) {
    const steps = await mender.mend(await toPixels(pictures[seed].png, size), unpackHole(holes[seed], size), { seed })
    runs.push({ picture: pictures[seed].png, hole: holes[seed], tokens: steps.map(step => [...step.tokens]) })
  }
  return JSON.stringify(runs)
}"""


def check_runs(answer: str, model: MaskGIT) -> None:
    runs, size = json.loads(answer), model.vqgan.config.image_size
    for seed, run in enumerate(runs):
        x, hole = to_tensor(open_url(run["picture"]))[None], unpack_hole(run["hole"], size)
        right = model.inpaint(x, hole, generator=seeded(seed), frames=True)
        assert run["tokens"] == [step.tokens[0].tolist() for step in right.steps]
    assert len(runs) == 2


def test_firefox(live_page, maskgit, tmp_path):
    "By WebDriver BiDi, which it speaks by itself."
    if not (program := shutil.which("firefox-esr") or shutil.which("firefox")): pytest.skip("firefox is not installed")
    client = pytest.importorskip("websockets.sync.client", reason="Firefox is asked over websockets: pip install them")
    firefox = subprocess.Popen([program, "--headless", "--remote-debugging-port=0", "--profile", str(tmp_path)],
                               stderr=subprocess.PIPE, text=True, env=os.environ | {"HOME": str(tmp_path)})
    try:
        line = next(line for line in firefox.stderr if "WebDriver BiDi listening on" in line)
        with client.connect(line.split()[-1] + "/session", max_size=None) as channel:
            def ask(method: str, **values) -> dict:
                channel.send(json.dumps(dict(id=1, method=method, params=values)))
                while (heard := json.loads(channel.recv(timeout=120))).get("id") != 1: pass
                assert heard["type"] == "success", heard
                return heard["result"]
            ask("session.new", capabilities={})
            tab = ask("browsingContext.create", type="tab")["context"]
            ask("browsingContext.navigate", context=tab, url=live_page("tiny"), wait="complete")
            made = ask("script.evaluate", expression=f"({MEND_TWICE})()", target=dict(context=tab), awaitPromise=True)
        check_runs(made["result"]["value"], maskgit)
    finally:
        firefox.kill()
        firefox.wait()


def test_webkit(live_page, maskgit):
    "WebKitGTK, a relative of Safari, by its WebDriver and on a screen that nobody sees."
    browsers = sorted(Path("/usr/lib").glob("*/webkit2gtk-4*/MiniBrowser"))
    if not browsers or not shutil.which("WebKitWebDriver") or not shutil.which("Xvfb"):
        pytest.skip("webkit2gtk-driver and xvfb are not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    screen = f":{port % 1000 + 100}"
    settings = os.environ | dict(DISPLAY=screen, LIBGL_ALWAYS_SOFTWARE="1", WEBKIT_DISABLE_COMPOSITING_MODE="1",
                                 WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS="1")
    started = [subprocess.Popen(["Xvfb", screen], stderr=subprocess.DEVNULL),
               subprocess.Popen(["WebKitWebDriver", f"--port={port}"], env=settings)]

    def ask(path: str, **values):
        request = urllib.request.Request(f"http://127.0.0.1:{port}/session{path}", json.dumps(values).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=150) as answer: return json.load(answer)["value"]

    try:
        time.sleep(2)
        options = {"webkitgtk:browserOptions": dict(binary=str(browsers[-1]), args=["--automation"])}
        session = "/" + ask("", capabilities=dict(alwaysMatch=options))["sessionId"]
        ask(f"{session}/timeouts", script=120_000)
        ask(f"{session}/url", url=live_page("tiny"))
        script = f"const done = arguments[arguments.length - 1]; ({MEND_TWICE})().then(done, e => done('error ' + e))"
        check_runs(ask(f"{session}/execute/async", script=script, args=[]), maskgit)
    finally:
        for program in started:
            program.kill()
            program.wait()
