"The widgets of lesson g: their numbers, and their pages in a real browser, without a network."
import base64
import io
import json
import time
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import VQGAN_CONFIG
from PIL import Image

from maskgit_nb import widgets
from maskgit_nb.cats import drawn_cats
from maskgit_nb.decoding import decided_at
from maskgit_nb.images import random_holes
from maskgit_nb.inpainting import PLAIN, REFINED, MaskGIT, hole_to_mask
from maskgit_nb.schedules import SCHEDULES, mask_counts
from maskgit_nb.vqgan import VQGAN


def seeded(seed): return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def model(): return MaskGIT.from_pretrained("cats64-small")


@pytest.fixture(scope="module")
def cats(): return drawn_cats(24, seed=1)


@pytest.fixture(scope="module")
def hole(): return random_holes(1, generator=seeded(0))


@pytest.fixture(scope="module")
def runs(model, cats, hole):
    return [widgets.record(model, cats[:1], hole, name, schedule=name, steps=steps, generator=seeded(0))
            for name, steps in (("cosine", 6), ("sqrt", 4))]


# Python's side

@pytest.mark.parametrize("options",
                         [dict(), dict(order="halton"), dict(order="random", dilate=1),
                          dict(evidence=0.0, schedule="sqrt")])
def test_record_agrees_with_the_steps(model, cats, options):
    holes = random_holes(2, generator=seeded(3))
    run = widgets.record(model, cats[:2], holes, steps=5, generator=seeded(1), **options)
    result = model.inpaint(cats[:2], holes, steps=5, generator=seeded(1), frames=True, **options)
    decided = decided_at(result.steps)
    for i, picture in enumerate(run["pictures"]):
        assert picture["codes"] == result.tokens[i].tolist()
        assert picture["decided"] == decided[i].tolist()
        assert picture["left"] == [result.mask[i].sum().item(), *(step.counts[i].item() for step in result.steps)]
        assert len(picture["frames"]) == 6
        for n, (probability, rivals) in enumerate(zip(picture["probability"], picture["likeliest"], strict=True)):
            assert decided[i, n] or probability == 0
            assert len(rivals) == (5 if decided[i, n] else 0)
            found = [share for code, share in rivals if code == picture["codes"][n]]
            if found: assert abs(found[0] - 1000 * probability) <= 1
            elif rivals: assert 1000 * probability <= rivals[-1][1] + 1


@pytest.mark.parametrize("options", [dict(), dict(fill="grey"), dict(blend=False), REFINED, PLAIN], ids=str)
def test_record_shows_the_run_of_its_options(model, cats, hole, options):
    "Without noise a token's confidence is log p; the last frame is the mended picture, in a PNG of 128 colours."
    asked = dict(steps=3, temperature=0.0) | options
    picture, = widgets.record(model, cats[:1], hole, generator=seeded(1), **asked)["pictures"]
    result = model.inpaint(cats[:1], hole, generator=seeded(1), frames=True, **asked)
    for n, step in enumerate(decided_at(result.steps)[0].tolist()):
        if step: assert abs(picture["probability"][n] - result.steps[step - 1].confidence[0, n].exp().item()) < 1e-3
    assert picture["frames"][-1] == widgets.png_url(result.images[0], 128)


@pytest.mark.parametrize("options", [dict(guidance=0.5), dict(favour=3.0), dict(guidance=0.5, favour=3.0)], ids=str)
def test_record_knows_guidance_and_favour(model, cats, options):
    "Drawn greedily, every code is the likeliest that is recorded."
    if "favour" in options: options = options | dict(favour=3 * torch.randn(1024, generator=seeded(4)))
    asked = dict(steps=3, sampling_temperature=0.0, generator=seeded(1)) | options
    for picture in widgets.record(model, cats[:2], random_holes(2, generator=seeded(3)), **asked)["pictures"]:
        rivals = zip(picture["codes"], picture["likeliest"], strict=True)
        assert all(code == five[0][0] for code, five in rivals if five)


TURNED = range(1, 9)  # the eight ways in which EXIF says that a camera was held


def turned_photograph(orientation: int) -> bytes:
    "A JPEG of 256x128 stored pixels in four colours, to be shown as its EXIF says."
    picture, data = Image.new("RGB", (256, 128), (0, 0, 255)), io.BytesIO()
    picture.paste((255, 0, 0), (0, 0, 128, 64))
    picture.paste((0, 255, 0), (128, 0, 256, 64))
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(data, "JPEG", quality=95, exif=exif)
    return data.getvalue()


def upright(orientation: int) -> list[str]:
    """The main colours at top left, top right, bottom left and bottom right of that photograph's square, as the EXIF
    standard has it."""
    return list({1: "RGBB", 2: "GRBB", 3: "BBGR", 4: "BBRG", 5: "RBGB", 6: "BRBG", 7: "BGBR", 8: "GBRB"}[orientation])


def main_colours(pixels) -> list[str]: return ["RGB"[max(range(3), key=pixel.__getitem__)] for pixel in pixels]


CORNERS = (8, 8), (56, 8), (8, 56), (56, 56)


@pytest.mark.parametrize("orientation", TURNED)
def test_a_photograph_from_python_is_upright_and_square(orientation):
    brush = widgets.HoleBrush(drawn_cats(1))
    brush.picture = "data:image/jpeg;base64," + base64.b64encode(turned_photograph(orientation)).decode()
    assert brush.image.shape == (1, 3, 64, 64)
    assert main_colours([brush.image[0, :, y, x].tolist() for x, y in CORNERS]) == upright(orientation)
    shown = Image.open(io.BytesIO(base64.b64decode(brush.picture.split(",")[1])))  # what the page draws
    assert shown.size == (64, 64) and not shown.getexif()
    assert main_colours([shown.convert("RGB").getpixel(corner) for corner in CORNERS]) == upright(orientation)


@pytest.mark.parametrize("options",
                         [dict(), dict(order="halton"), dict(order="random", dilate=1), dict(schedule="sqrt")])
def test_what_was_drawn_had_a_probability_and_what_was_known_has_none(maskgit, options):
    images, holes = small_cats(3), random_holes(3, 16, seeded(3))
    with widgets.listening(maskgit.transformer) as heard:
        result = maskgit.inpaint(images, holes, steps=4, evidence=0, generator=seeded(1), frames=True, **options)
    logits = widgets.heard_logits(result, heard)
    probability, codes, likeliest = widgets.choices(result, logits)
    decided = decided_at(result.steps)
    assert torch.equal(probability > 0, decided > 0) and torch.equal(likeliest.sum(-1) > 0, decided > 0)
    assert (likeliest[decided > 0].diff() <= 0).all() and (codes[decided == 0] == 0).all()
    for step in result.steps:
        now = decided == step.number
        expected = logits[step.number - 1].softmax(-1).gather(-1, result.tokens.unsqueeze(-1)).squeeze(-1)
        assert torch.allclose(probability[now], expected[now])


def test_every_hole_comes_back(hole):
    for size in (4, 5, 64):
        one = torch.rand(1, 1, size, size, generator=seeded(size)) < 0.4
        assert torch.equal(widgets.unpack_hole(widgets.pack_hole(one), size), one)
    assert torch.equal(widgets.HoleBrush(drawn_cats(1), hole).hole, hole)


def everything(model, cats, hole, runs):
    return [widgets.Scrubber(*runs), widgets.HoleBrush(cats[:1], hole, model),
            widgets.CodebookExplorer(model.vqgan, cats), widgets.ScheduleExplorer(model, cats[:1], hole),
            widgets.AttentionExplorer(model, cats[:1], hole)]


def test_contact_sheets(model, cats, hole, runs):
    for widget in everything(model, cats, hole, runs):
        data, _ = widget._repr_mimebundle_()
        assert Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).width > 64, type(widget).__name__
        assert "application/vnd.jupyter.widget-view+json" in data
        assert data["text/plain"] == type(widget).__name__


def test_a_name_cannot_leave_its_place(model, cats, hole):
    run = widgets.record(model, cats[:1], hole, "</script><b>", steps=1)
    assert widgets.Scrubber(run).to_html().count("</script>") == 1


def test_twelve_steps_of_four_pictures_are_light(model, cats):
    whole = torch.ones(4, 1, 64, 64, dtype=torch.bool)
    run = widgets.record(model, cats[:4], random_holes(4, generator=seeded(2)), steps=12, generator=seeded(0))
    assert len(json.dumps(widgets.Scrubber(run).data)) < 300_000
    # nothing known: every token has rivals
    assert len(json.dumps(widgets.record(model, cats[:4], whole, steps=12, generator=seeded(0)))) < 400_000


# In the browser

@pytest.fixture
def show(browser, tmp_path, request, shots):
    "Open a page with the given widgets, off the network; afterwards there must have been no error and no request."
    context = browser.new_context(viewport=dict(width=1000, height=900), offline=True, has_touch=True)
    page, faults = context.new_page(), []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("request", lambda asked: faults.append(asked.url) if asked.url.startswith("http") else None)
    def open_page(*shown, style=""):
        path = tmp_path / "page.html"
        head = f"<!doctype html><html lang=en><meta charset=utf-8><title>widgets</title><body style='{style}'>"
        path.write_text(head + "".join(widget.to_html() for widget in shown), encoding="utf-8")
        start = time.perf_counter()
        page.goto(path.as_uri())
        page.wait_for_function("[...document.querySelectorAll('[data-mg]')].every(box => box.querySelector('canvas, "
                               "svg, .mg-told'))")
        page.wait_for_timeout(100)
        print(f"{path.stat().st_size / 1000:.0f} KB, shown after {1000 * (time.perf_counter() - start) - 100:.0f} ms")
        return page
    yield open_page
    page.screenshot(path=shots / f"{request.node.name}.png", full_page=True)
    context.close()
    assert not faults


def pixels(page, canvas, places):
    "The colours of a canvas's own pixels, as #RRGGBB."
    levels = page.evaluate("""([i, places]) => { const pen = document.querySelectorAll('canvas')[i].getContext('2d')
        return places.map(([x, y]) => [...pen.getImageData(x, y, 1, 1).data].slice(0, 3)) }""", [canvas, places])
    return ["#{:02X}{:02X}{:02X}".format(*level) for level in levels]


def pixel(page, canvas, x, y): return pixels(page, canvas, [(x, y)])[0]


COLORS = {"known": "#DDDDDD", "before": "#0072B2", "now": "#E69F00", "masked": "#222222"}


def token_colours(page, canvas):
    return pixels(page, canvas, [(4 * (i % 16) + 2, 4 * (i // 16) + 2) for i in range(256)])


def expected_colours(picture, step):
    return [COLORS["known" if d == 0 else "before" if d < step else "now" if d == step else "masked"]
            for d in picture["decided"]]


def test_scrubber_by_keyboard_mouse_and_play(show, runs):
    page = show(widgets.Scrubber(*runs))
    slider, picture, other = page.get_by_role("slider"), runs[0]["pictures"][0], runs[1]["pictures"][0]
    assert page.locator("output").inner_text() == "step 6 of 6"
    assert token_colours(page, 0) == expected_colours(picture, 6)
    slider.focus()
    page.keyboard.press("ArrowLeft"); page.keyboard.press("ArrowLeft"); page.keyboard.press("ArrowLeft")
    assert slider.get_attribute("aria-valuetext") == "step 3 of 6"
    assert token_colours(page, 0) == expected_colours(picture, 3)
    assert token_colours(page, 4) == expected_colours(other, 3)
    page.keyboard.press("Home")
    assert page.locator("output").inner_text() == "start"
    assert token_colours(page, 0) == expected_colours(picture, 0)
    box = slider.bounding_box()
    page.mouse.click(box["x"] + box["width"] - 3, box["y"] + box["height"] / 2)
    assert page.locator("output").inner_text() == "step 6 of 6"
    assert token_colours(page, 4) == expected_colours(other, 4)  # the shorter run waits at its end
    page.get_by_role("button", name="Play").click()
    page.wait_for_timeout(1500)
    page.get_by_role("button", name="Pause").click()
    assert page.locator("output").inner_text() == "step 2 of 6"


def test_scrubber_shows_the_frames(show, runs):
    page = show(widgets.Scrubber(runs[0]))
    for step in (6, 2):
        page.get_by_role("slider").fill(str(step))
        frame = widgets.open_url(runs[0]["pictures"][0]["frames"][step])
        for x, y in ((1, 1), (30, 31), (63, 63)):
            assert pixel(page, 1, x, y) == "#{:02X}{:02X}{:02X}".format(*frame.getpixel((x, y)))


def test_a_name_is_text_in_the_page(show, runs, cats, tmp_path):
    "Of a run, of a file, and in what Python answers; `show` fails the test if the picture was asked for."
    name = "<img src=x onerror=document.title='run'>"
    brush = widgets.HoleBrush(cats[:1])
    brush.message = name
    page = show(widgets.Scrubber(runs[0] | dict(name=name)), brush)
    (tmp_path / "<img src=x>.png").write_text("no picture", encoding="utf-8")
    page.locator("input[type=file]").set_input_files(tmp_path / "<img src=x>.png")
    page.wait_for_function("document.querySelectorAll('.mg-told')[0].textContent.includes('<img src=x>.png')")
    assert page.locator("h4").inner_text() == name
    assert page.locator("img").count() == 0 and page.title() == "widgets"


def test_scrubber_tells_about_a_token(show, runs):
    page, picture = show(widgets.Scrubber(*runs)), runs[0]["pictures"][0]
    text, decided = page.locator(".mg-text"), picture["decided"]
    i = next(n for n, d in enumerate(decided) if d == 3)
    box = page.locator("canvas").first.bounding_box()
    page.mouse.move(box["x"] + (i % 16 + 0.5) * box["width"] / 16, box["y"] + (i // 16 + 0.5) * box["height"] / 16)
    assert f"row {i // 16}, column {i % 16}: code {picture['codes'][i]}, probability" in text.first.inner_text()
    assert "decided in step 3" in text.first.inner_text()
    for code, _ in picture["likeliest"][i]: assert f"{code} (" in text.first.inner_text()
    assert f"code {runs[1]['pictures'][0]['codes'][i]}" in text.nth(1).inner_text()  # the same token of the other run
    page.mouse.move(5, 5)
    assert "tokens left" in text.first.inner_text()
    page.locator("canvas").first.focus()
    page.keyboard.press("ArrowRight"); page.keyboard.press("ArrowRight"); page.keyboard.press("ArrowDown")
    assert text.first.inner_text().startswith("row 1, column 1")
    known = decided.index(0)
    page.mouse.move(box["x"] + (known % 16 + 0.5) * box["width"] / 16,
                    box["y"] + (known // 16 + 0.5) * box["height"] / 16)
    assert text.first.inner_text().endswith("known")


def test_two_widgets_on_one_page(show, runs):
    page = show(widgets.Scrubber(runs[0]), widgets.Scrubber(runs[1]))
    page.get_by_role("slider").first.fill("1")
    assert page.locator("output").all_inner_texts() == ["step 1 of 6", "step 4 of 4"]


@pytest.mark.alone
def test_a_step_is_drawn_in_time(show, model, cats):
    run = widgets.record(model, cats[:4], random_holes(4, generator=seeded(2)), steps=12, generator=seeded(0))
    page = show(widgets.Scrubber(run))
    took = page.evaluate("""() => { const slider = document.querySelector('input'), start = performance.now()
        for (let i = 0; i <= 12; i++) { slider.value = i; slider.dispatchEvent(new Event('input')) }
        document.querySelectorAll('canvas')[15].getContext('2d').getImageData(0, 0, 1, 1)
        return (performance.now() - start) / 13 }""")
    print(f"{took:.1f} ms a step")
    assert took < 50


MISSING = {"#222222", "#666666"}


def hole_on_page(page): return page.evaluate("document.querySelector('.mg-told').textContent")


def test_brush_paints_erases_and_undoes(show, cats):
    page = show(widgets.HoleBrush(cats[:1]))
    box = page.locator("canvas").bounding_box()
    at = lambda x, y: (box["x"] + x * box["width"] / 64, box["y"] + y * box["height"] / 64)
    before = pixel(page, 0, 30, 20)
    page.mouse.move(*at(10, 20)); page.mouse.down(); page.mouse.move(*at(50, 20)); page.mouse.up()
    page.mouse.move(*at(5, 60))
    assert {pixel(page, 0, 30, 20), pixel(page, 0, 31, 20), pixel(page, 0, 12, 20)} <= MISSING
    assert pixel(page, 0, 30, 30) not in MISSING
    painted = hole_on_page(page)
    page.get_by_role("button", name="Erase").click()
    page.mouse.move(*at(30, 10)); page.mouse.down(); page.mouse.move(*at(30, 30)); page.mouse.up()
    page.mouse.move(*at(5, 60))
    assert pixel(page, 0, 30, 20) == before
    page.get_by_role("button", name="Undo").click()
    assert pixel(page, 0, 30, 20) in MISSING
    assert painted in hole_on_page(page)
    page.get_by_role("button", name="Clear").click()
    assert pixel(page, 0, 30, 20) == before and "0.0 % missing" in hole_on_page(page)
    page.get_by_role("button", name="Invert").click()
    assert "100 % missing" in hole_on_page(page)
    page.get_by_role("button", name="Random hole").click()
    share = widgets.unpack_hole(widgets.HoleBrush(cats[:1]).random_holes[0], 64).float().mean().item()
    assert f"{100 * share:.0f} % missing" in hole_on_page(page)
    assert page.get_by_role("button", name="Mend").count() == 0  # nobody here who could


def test_brush_by_touch(show, cats):
    page = show(widgets.HoleBrush(cats[:1]))
    box = page.locator("canvas").bounding_box()
    page.touchscreen.tap(box["x"] + 40 * box["width"] / 64, box["y"] + 20 * box["height"] / 64)
    assert pixel(page, 0, 40, 20) in MISSING and pixel(page, 0, 40, 40) not in MISSING
    assert hole_on_page(page) in ("1.2 % missing", "1.3 % missing")  # a disc of radius 4


def test_brush_by_keyboard(show, cats):
    page = show(widgets.HoleBrush(cats[:1]))
    page.locator("canvas").focus()
    for key in ("ArrowRight", "ArrowDown", "Space"): page.keyboard.press(key)
    assert pixel(page, 0, 34, 34) in MISSING
    assert "painted" in hole_on_page(page)


def test_brush_sends_once_a_stroke(show, cats):
    class Counted(widgets.HoleBrush):
        def to_html(self):
            return super().to_html().replace("save_changes() {}",
                                             "save_changes() { window.sent = (window.sent ?? 0) + 1 }")
    page = show(Counted(cats[:1]))
    box = page.locator("canvas").bounding_box()
    for strokes in (1, 2):
        page.mouse.move(box["x"] + 20, box["y"] + 20); page.mouse.down()
        for i in range(30): page.mouse.move(box["x"] + 20 + 5 * i, box["y"] + 40 * strokes)
        assert page.evaluate("window.sent ?? 0") == strokes - 1
        page.mouse.up()
        assert page.evaluate("window.sent") == strokes


def test_brush_takes_a_picture_and_refuses_others(show, cats, tmp_path):
    page = show(widgets.HoleBrush(cats[:1]))
    picture = Image.new("RGB", (600, 300), (0, 0, 255))
    picture.paste((255, 0, 0), (150, 0, 450, 300))  # its middle square is red
    picture.save(tmp_path / "wide.png")
    (tmp_path / "text.png").write_text("not a picture", encoding="utf-8")
    (tmp_path / "huge.png").write_bytes(b"0" * 31_000_000)
    page.locator("input[type=file]").set_input_files(tmp_path / "wide.png")
    page.wait_for_function("document.querySelector('.mg-told').textContent.includes('wide.png: cut')")
    page.wait_for_timeout(100)
    assert {pixel(page, 0, x, y) for x, y in ((1, 1), (62, 62), (32, 32))} == {"#FF0000"}
    for name, word in (("text.png", "not a picture"), ("huge.png", "too large")):
        page.locator("input[type=file]").set_input_files(tmp_path / name)
        page.wait_for_function(f"document.querySelector('.mg-told').textContent.includes('{name}')")
        assert word in hole_on_page(page)


def test_an_uploaded_photograph_is_upright(show, cats, tmp_path):
    page = show(widgets.HoleBrush(cats[:1]))
    for orientation in TURNED:
        (tmp_path / f"turned{orientation}.jpg").write_bytes(turned_photograph(orientation))
        page.locator("input[type=file]").set_input_files(tmp_path / f"turned{orientation}.jpg")
        page.wait_for_function(f"document.querySelector('.mg-told').textContent.includes('turned{orientation}.jpg: "
                               "cut')")
        page.wait_for_timeout(50)
        colours = [[int(colour[i:i + 2], 16) for i in (1, 3, 5)] for colour in pixels(page, 0, CORNERS)]
        assert main_colours(colours) == upright(orientation)


# A page whose model speaks with Python in ipywidgets' own messages, and is as silent about equal values as the
# notebook's.
ALIVE = """const state = window.state = {state}, listeners = {{}}, mine = {{}}
function take(values) {{
  const changed = Object.keys(values).filter(name => JSON.stringify(state[name]) !== JSON.stringify(values[name]))
  Object.assign(state, values)
  for (const name of changed) listeners["change:" + name]?.forEach(listener => listener())
}}
const model = {{
  get: name => state[name],
  set(name, value) {{ mine[name] = value; take({{ [name]: value }}) }},
  save_changes() {{
    const sent = {{ ...mine }}; for (const name in mine) delete mine[name];
    python(sent).then(answers => answers.forEach(take))
  }},
  on: (event, listener) => (listeners[event] ??= new Set()).add(listener),
  off: (event, listener) => listeners[event].delete(listener),
}}
render({{ model, el: box }})
"""
def page_parts(widget) -> tuple[str, str]:
    "A static page up to where its model is made, and the model's state."
    before, after = widget.to_html().split("const model = standalone(")
    return before, after.partition("), shown = ")[0]




@pytest.fixture
def alive(browser):
    "Open a page with a widget that can ask Python."
    context = browser.new_context(viewport=dict(width=1000, height=900))
    page, faults = context.new_page(), []
    page.on("pageerror", lambda error: faults.append(str(error)))
    def open_page(widget):
        def python(sent):
            messages = []
            widget._send = lambda message, buffers=None: messages.append(message)
            widget.set_state(sent)
            return [message["state"] for message in messages if message["method"] == "update"]
        page.expose_function("python", python)
        before, state = page_parts(widget)
        page.set_content(f"<!doctype html><meta charset=utf-8>{before}{ALIVE.format(state=state)}</script>")
        page.locator(".mg canvas, .mg svg").first.wait_for()
        return page
    yield open_page
    context.close()
    assert not faults


def small_cats(n): return F.avg_pool2d(drawn_cats(n), 4)  # 16x16, for the tiny models


def answered(page, times, words):
    "Wait until Python has answered so many times; the page must then say so, and not that it waits."
    page.wait_for_function("times => state.answered === times", arg=times, timeout=20_000)
    page.wait_for_timeout(100)
    text = page.locator(".mg").inner_text()
    assert words in text and "mending ..." not in text and "decoding ..." not in text


def test_the_brush_hears_an_answer_that_equals_the_last(alive, maskgit):
    page = alive(widgets.HoleBrush(small_cats(1), model=maskgit))
    for times in (1, 2, 3):
        page.get_by_role("button", name="Mend").click()  # nothing is missing, each time
        answered(page, times, "nothing to decide")
    page.get_by_role("button", name="Invert").click()
    page.get_by_role("button", name="Mend").click()
    answered(page, 4, "16 tokens were missing")


def test_schedules_hear_an_answer_that_equals_the_last(alive, maskgit):
    explorer = widgets.ScheduleExplorer(maskgit, small_cats(1), random_holes(1, 16, seeded(0)))
    page = alive(explorer)
    point = page.locator("circle").nth(0)
    for times in (1, 2, 3):  # the first point lies at 1 and stays there: the same curve, the same picture
        point.press("ArrowUp")
        answered(page, times, "drawn, 8 steps")
    explorer.mended = lambda schedule: 1 / 0
    for times in (4, 5):
        point.press("ArrowUp")
        answered(page, times, "not possible: division by zero")
        assert page.locator("img").count() == 0  # the picture of the last curve is not this one's
    del explorer.mended
    page.locator("input[type=range]").fill("4")
    answered(page, 6, "drawn, 4 steps")


def test_the_codebook_hears_an_answer_that_equals_the_last(alive, monkeypatch):
    vqgan = VQGAN(replace(VQGAN_CONFIG, codebook_size=25)).eval()
    explorer = widgets.CodebookExplorer(vqgan, small_cats(3))
    page = alive(explorer)
    page.locator("canvas").nth(1).click()
    put = page.get_by_role("button", name="Put the code")
    for times in (1, 2, 3):
        put.click()
        answered(page, times, "of the pixels change")
        assert page.locator(".mg > .mg-row canvas").count() == 3
    monkeypatch.setattr(vqgan, "decode", lambda tokens: 1 / 0)
    for times in (4, 5):
        put.click()
        answered(page, times, "not possible: division by zero")


def test_codebook(show, model, cats):
    explorer = widgets.CodebookExplorer(model.vqgan, cats)
    page, data = show(explorer), explorer.data
    box = page.locator("canvas").first.bounding_box()
    cell = 5 * 32 + 7
    code = data["order"][cell]
    page.mouse.click(box["x"] + 7.5 * box["width"] / 32, box["y"] + 5.5 * box["height"] / 32)
    assert f"code {code}: {data['counts'][code]} times" in hole_on_page(page)
    for i, picture in enumerate(data["pictures"]):
        assert (f"picture {i + 1}: "
                f"{picture['tokens'].count(code)} times") in page.locator("figcaption").nth(i + 1).inner_text()
    page.locator("canvas").nth(1).focus()
    page.keyboard.press("ArrowRight"); page.keyboard.press("ArrowDown"); page.keyboard.press("Enter")
    assert f"code {data['pictures'][0]['tokens'][16]}" in hole_on_page(page)
    page.get_by_role("button", name="Show how often").click()


@pytest.mark.parametrize("tokens", [256, 57])
def test_schedules_count_as_python_does(show, tokens):
    page = show(widgets.ScheduleExplorer(tokens=tokens))
    counts = lambda: [int(text) for text in page.locator("td:nth-child(2)").all_inner_texts()]
    for name in SCHEDULES:
        page.get_by_role("combobox").select_option(name)
        for steps in (1, 5, 8, 16):
            page.locator("input[type=range]").fill(str(steps))
            assert counts() == mask_counts(name, tokens, steps), (name, steps)
    point = page.locator("circle").nth(4)
    point.focus()
    page.keyboard.press("ArrowUp")
    assert page.get_by_role("combobox").input_value() == "drawn"
    box = page.locator("circle").nth(2).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y); page.mouse.down(); page.mouse.move(x, y + 60); page.mouse.up()
    points = [float(text)
              for text in page.locator("circle").evaluate_all("dots => dots.map(dot => "
                                                              "dot.getAttribute('aria-valuenow'))")]
    kept = SCHEDULES["arccos"]
    assert points[2] < kept(2 / 8) - 0.2  # dragged
    assert points[4] == pytest.approx(kept(4 / 8) + 0.05, abs=0.01)  # by the arrow key
    assert points[6] == pytest.approx(kept(6 / 8), abs=0.01)
    drawn = mask_counts(widgets.drawn_schedule(points), tokens, 16)
    # the page's points have three decimals, the labels two
    assert all(abs(a - b) <= 3 for a, b in zip(counts(), drawn, strict=True))


def test_schedules_show_what_they_mend(show, model, cats, hole):
    explorer = widgets.ScheduleExplorer(model, cats[:1], hole)
    page = show(explorer)
    for name in SCHEDULES:
        page.get_by_role("combobox").select_option(name)
        assert page.locator("img").get_attribute("src") == explorer.results[f"{name}, 8"]
    assert len(set(explorer.results.values())) > 4
    page.locator("input[type=range]").fill("3")  # nobody here who could mend
    assert page.locator("img").count() == 0 and "without Python" in page.locator(".mg-large").inner_text()


def test_attention(show, model, cats, hole):
    explorer = widgets.AttentionExplorer(model, cats[:1], hole, token=0)
    page = show(explorer)
    assert page.locator("canvas").count() == 17
    box = page.locator("canvas").first.bounding_box()
    page.mouse.move(box["x"] + 8.5 * box["width"] / 16, box["y"] + 4.5 * box["height"] / 16)
    assert "row 4, column 8" in hole_on_page(page)
    maps = explorer.maps[0, :, 4 * 16 + 8]
    for head in range(4):
        share = float(page.locator("figcaption").nth(1 + head).inner_text().split(": ")[1].rstrip(" %")) / 100
        assert abs(share - maps[head].max().item()) < 0.01
    assert hole_to_mask(hole)[0, 4 * 16 + 8].item() == ("masked" in hole_on_page(page))


# What a widget leaves behind: counted by wrapping all that can outlive its elements.
LEFT = """const left = window.left = { model: 0, page: 0, timers: new Set(), observers: 0 }
for (const target of [window, document, document.documentElement, document.body]) {
  const { addEventListener, removeEventListener } = target
  target.addEventListener = function (...given) { left.page++; addEventListener.apply(this, given) }
  target.removeEventListener = function (...given) { left.page--; removeEventListener.apply(this, given) }
}
const start = window.setInterval, stop = window.clearInterval
window.setInterval = (...given) => { const timer = start(...given); left.timers.add(timer); return timer }
window.clearInterval = timer => { left.timers.delete(timer); stop(timer) }
for (const kind of ["ResizeObserver", "MutationObserver", "IntersectionObserver"])
  window[kind] = class extends window[kind] {
  observe(...given) { left.observers++; super.observe(...given) }
  disconnect() { left.observers = 0; super.disconnect() }
}
window.watched = model => ({ ...model,
  on(...given) { left.model++; model.on(...given) }, off(...given) { left.model--; model.off(...given) } })
"""


@pytest.mark.parametrize("kind", ["Scrubber", "HoleBrush", "CodebookExplorer", "ScheduleExplorer", "AttentionExplorer"])
def test_a_widget_that_goes_leaves_nothing(browser, model, cats, hole, runs, kind):
    widget = next(widget for widget in everything(model, cats, hole, runs[:1]) if type(widget).__name__ == kind)
    before, state = page_parts(widget)
    page = browser.new_page()
    page.set_content(f"""<!doctype html><meta charset=utf-8><body><script>{LEFT}</script>{before}
        const gone = await render({{ model: watched(standalone({state})), el: box }})
        const counts = () => ({{ ...left, timers: left.timers.size }})
        document.querySelector(".mg button")?.click()  // the scrubber plays
        const met = counts()
        gone()
        box.replaceChildren()
        window.counted = [met, counts()]
        box.append(document.createElement("hr"))</script>""")
    # Playwright puts listeners of its own into the page as soon as it evaluates
    page.locator("hr").wait_for(state="attached")
    met, remained = page.evaluate("counted")
    assert met["model"] == {"Scrubber": 2, "HoleBrush": 3}.get(kind, 1) and met["timers"] == (kind == "Scrubber")
    assert remained == dict(model=0, page=0, timers=0, observers=0)
    page.close()


def test_the_scrubber_shows_the_newest_of_runs_that_come_at_once(show, runs):
    class Kept(widgets.Scrubber):
        def to_html(self): return super().to_html().replace("model = standalone(", "model = window.model = standalone(")
    page = show(Kept(*runs))
    page.evaluate("([two, one]) => { model.set('data', two); model.set('data', one) }",
                  [widgets.Scrubber(*runs).data, widgets.Scrubber(runs[1]).data])
    page.wait_for_timeout(300)
    assert page.locator("canvas").count() == 4 and page.locator("h4").all_inner_texts() == ["sqrt"]


def test_dark_page(show, model, cats, hole, runs):
    page = show(*everything(model, cats, hole, runs), style="background:#111;color:#ddd;color-scheme:dark")
    for kind in ("button", "figcaption", ".mg-told"):
        colours = page.locator(kind).evaluate_all("all => all.filter(e => !e.disabled).map(e => "
                                                  "getComputedStyle(e).color)")
        assert set(colours) == {"rgb(221, 221, 221)"}, kind
    unnamed = page.locator("button, input, select, [tabindex], canvas, svg, section").evaluate_all(
        "all => all.filter(e => !(e.getAttribute('aria-label') || e.textContent.trim() || e.closest('label'))).length")
    assert unnamed == 0
