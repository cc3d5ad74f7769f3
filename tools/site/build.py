"""The course as a website: notebooks executed, widgets alive, nothing loaded from elsewhere.

usage: build.py [--run NAMES] [--out FOLDER], where NAMES are notebooks like 01_images,06_schedules

Files of static/ lie beside the pages as they are; the live page's are what tools/live_page.py makes.
"""
import argparse
import base64
import html
import io
import os
import re
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import latex2mathml.converter
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert.filters import strip_ansi
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from PIL import Image

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))
import live_page  # noqa: E402
from addresses import BADGE, colab_address, is_published, settings  # noqa: E402
from writing import MARK, as_bytes, check_folder, write_whole  # noqa: E402

NBS = ROOT / "nbs"

# The way of an image: the block of text that shows it, with carets below the part that a lesson is about, and the
# lessons that open its parts.
WAY = re.compile(r"^```\w*\n(pixels --.*\n(?:.*\n)*?)```$", re.MULTILINE)
OPENED_IN = dict(pixels="01", encode="02", mask="05", transformer="03 04", choose="06 07", decode="02")
WHOLE_LINE = "00 08"

# The first cell of every executed copy: widgets that can, and boxes of them, show themselves as pieces of a static page
# too.
WIDGETS_AS_PAGES = """
import anywidget as _anywidget, ipywidgets as _ipywidgets
def _page(widget): return {"text/html": widget.to_html()} if hasattr(widget, "to_html") else {}
_any, _box = _anywidget.AnyWidget._repr_mimebundle_, _ipywidgets.Box._repr_mimebundle_
def _any_page(widget, **kwargs):
    data, metadata = _any(widget, **kwargs) or ({}, {})
    return data | _page(widget), metadata
_anywidget.AnyWidget._repr_mimebundle_ = _any_page
_ipywidgets.Box._repr_mimebundle_ = lambda box, **kwargs: _box(box, **kwargs) | _page(box)
"""


class BuildError(Exception):
    "The site cannot be built; the message is for whoever called the script."


def execute(path: Path) -> tuple[nbformat.NotebookNode, str]:
    "A copy of the notebook with the outputs of a fresh run, and a note of it. BuildError names the failing cell."
    start = time.perf_counter()
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(WIDGETS_AS_PAGES))
    try:
        NotebookClient(notebook, timeout=600, kernel_name="python3", extra_arguments=["--IPKernelApp.log_level=ERROR"],
                       resources={"metadata": {"path": str(path.parent)}}).execute()
    except Exception as error:
        said = f"{error.ename}: {error.evalue}\n" if isinstance(error, CellExecutionError) else ""
        raise BuildError(f"{path.name}: {said}{strip_ansi(str(error))}") from error
    del notebook.cells[0]
    took = time.perf_counter() - start
    print(f"{path.stem:16} {took:6.1f} s", flush=True)
    return notebook, f"Outputs of a fresh run of {took:.0f} s."


def lesson_number(stem: str) -> str:
    "'01' of '01_images', 'a' of 'a_drawn_cats', nothing of a page that is no lesson."
    found = re.match(r"(\d\d|[a-z])_", stem)
    return found[1] if found else ""


def in_words(text: str) -> str:
    "The last sentence or two of a piece of prose, without markup: what the cell below it is about."
    prose = re.sub(r"^```.*?^```|\$\$.*?\$\$", "", text, flags=re.MULTILINE | re.DOTALL)
    blocks = [block for block in re.split(r"\n\s*\n", prose) if re.match(r"\s*[^\s|<>]", block)]
    last = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", blocks[-1]) if blocks else ""
    sentences = re.split(r"(?<=[.?!:]) +", re.sub(r"^(?:#+|-|\d+\.) +|[*`$]", "", last).replace("\n", " ").strip())
    return " ".join(sentences[-2:])


def formula(match: re.Match) -> str:
    "A formula between single or double dollars as MathML; one that stands alone scrolls where a phone is too narrow."
    alone, thin = match[1] == "$$", '<mspace width="0.167em" />'
    made = latex2mathml.converter.convert(match[2].replace(r"\arg", r"\operatorname{arg}"),
                                          display="block" if alone else "inline")
    made = re.sub(r"(</m[in]>|&#x00029;</mo>)(<mi>(?:ln|log)</mi>)", rf"\1{thin}\2", made)
    made = re.sub(r"(?<!<msub>)(<mi>(?:ln|log|cos|arccos|tr)</mi>)(?=<m[insf])", rf"\1{thin}", made)
    return f'<div class="formula">{made}</div>' if alone else made


def output_html(output, picture) -> str:
    "One output that is no Markdown as HTML; `picture` makes it of a PNG in base64."
    if output.output_type == "stream":
        return f'<pre class="{output.name}">{html.escape(strip_ansi(output.text).rstrip())}</pre>'
    if output.output_type == "error":
        return f'<pre class="stderr">{html.escape(strip_ansi(chr(10).join(output.traceback)))}</pre>'
    data = output.data
    if "text/html" in data:
        kind = "widget" if "data-mg=" in data["text/html"] else "md-typeset__scrollwrap"
        return f'<div class="{kind}">{data["text/html"]}</div>'
    if "image/png" in data: return picture(data["image/png"])
    return f'<pre>{html.escape(data.get("text/plain", ""))}</pre>'


class Site:
    """Notebooks and Markdown files of nbs/ on their way to mkdocs: `docs` is what mkdocs reads, `outputs` what goes
    into its pages afterwards."""

    def __init__(self, docs: Path, notebooks: list[Path], texts: list[Path]):
        self.docs, self.settings, self.outputs = docs, settings(ROOT), {}
        self.repository = self.settings["git_url"] if is_published(self.settings) else ""
        self.pages = {path: f"{path.stem}.md" for path in [*notebooks, *texts]} | {ROOT / "README.md": "index.md"}
        self.lessons = {lesson_number(path.stem): path.stem for path in notebooks if lesson_number(path.stem)}
        self.modules = {}  # module -> lesson

    def link(self, target: str, source: Path) -> str:
        """Where a link of nbs/ leads in the site: to a page, to a copied file, or to the repository; nowhere, '', while
        that is not public."""
        if re.match(r"[a-z]+:|#", target): return target
        path, sharp, anchor = target.partition("#")
        file = (source.parent / path).resolve()
        if not file.exists(): raise BuildError(f"{source.name}: the link {target} leads nowhere")
        if file in self.pages: return self.pages[file] + sharp + anchor.lower()
        if file.is_file() and file.is_relative_to(NBS):
            copy = self.docs / file.relative_to(NBS)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
            return file.relative_to(NBS).as_posix()
        place = f"blob/{self.settings['branch']}/{file.relative_to(ROOT).as_posix()}"  # GitHub finds folders there too
        return f"{self.repository}/{place}{sharp}{anchor}" if self.repository else ""

    def prose(self, text: str, source: Path) -> str:
        """Markdown as GitHub reads it, made ready for Python-Markdown: links, formulas, lists that follow a line, open
        answers."""
        parts = re.split(r"(^```.*?^```[^\n]*$|`[^`\n]+`)", text, flags=re.MULTILINE | re.DOTALL)
        for i in range(0, len(parts), 2):
            part = re.sub(r"(?<=\]\()([^)\s]+)(?=\))", lambda match: self.link(match[1], source), parts[i])
            part = re.sub(r"(?<!!)\[([^\]]*)\]\(\)", r"\1", part)
            part = re.sub(r"(\$\$?)([^$\n]+)\1", formula, part)
            part = re.sub(r"^((?![-*|#>]|\d+\. |\s).+)\n(?=[-*] |1\. )", r"\1\n\n", part, flags=re.MULTILINE)
            parts[i] = part.replace("<details>", '<details markdown="1">')
        return "".join(parts)

    def way(self, block: str, stem: str) -> str:
        "The way of an image as HTML, lit over the carets of a lesson's block, or over its words if it has none."
        line, marks = block.split("\n")[:2]
        whole, sign = "whole line" in block, r"\^" if "^" in marks else r"\S"
        places = list(re.finditer(r"--(\w+)-->|(\w[\w ]*\w)", line))
        spans = [place.span(place.lastindex) for place in places]
        lit = [whole or 3 * len(re.findall(sign, marks[start:end])) >= end - start for start, end in spans]
        items, names = [], []

        def lessons(numbers: str, name: str, text: str = "", lit: bool = False) -> str:
            links = []
            for number in numbers.split():
                here = lit and (stem[:2] == number or stem[:2] not in numbers.split())
                mark = ' aria-current="step"' if here else ""
                links.append(f'<a href="{self.lessons[number]}.html" aria-label="{name}: lesson {number}"{mark}>'
                             f'{text or number}</a>' if number in self.lessons else f"<span>{text or number}</span>")
            return "".join(links) or f"<span>{text}</span>"

        for place, on in zip(places, lit, strict=True):
            name, mark = place[place.lastindex], " lit" if on else ""
            if on and (place[1] or sum(lit) == 1) and name not in names: names.append(name)
            if place[1]:
                chips = lessons(OPENED_IN[name], name, lit=on)
                items.append(f'<li class="arrow{mark}"><b>{name}</b><i></i><span class="chips">{chips}</span></li>')
            else:
                first = OPENED_IN.get(name, "") if not items else ""
                items.append(f'<li class="state{mark}">{lessons(first, name, name, on)}</li>')
        told = "You are here: " + ("the whole line" if all(lit) else ", ".join(names))
        if not names: told = "Numbers lead to the lessons"
        chips = lessons(WHOLE_LINE, "the whole line", lit=stem[:2] in WHOLE_LINE)
        return (f'<nav class="way" data-search-exclude aria-label="The way of an image"><ol>{"".join(items)}</ol>'
                f'<p>{told}. <span class="chips">The whole line: {chips}</span></p></nav>')

    def opening(self, text: str, stem: str, note: str) -> str:
        "The first cell of a notebook: the diagram for its block of text, plain links for the badge."
        text = WAY.sub(lambda match: self.way(match[1], stem), BADGE.sub("", text))
        if not lesson_number(stem): return text
        folder = "nbs" if lesson_number(stem).isdigit() else "nbs/appendix"
        address = colab_address(self.repository, f"blob/{self.settings['branch']}/{folder}/{stem}.ipynb")
        colab = f'<a href="{address}">Open in Colab</a> ' if self.repository else ""
        tools = (f'<p class="tools">{colab}<a href="notebooks/{stem}.ipynb" download>Download notebook</a> '
                 f'<small>{note}</small></p>')
        return re.sub(r"^(# .+)$", rf"\1\n\n{tools}\n", text, count=1, flags=re.MULTILINE)

    def picture(self, data: str, key: str, told: str) -> str:
        "A PNG in a file of its own, a small one enlarged; `told` is for those who do not see it."
        raw = base64.b64decode(data)
        width, height = Image.open(io.BytesIO(raw)).size
        scale = max(1, 256 // width) if width <= 128 else 1
        kind = ' class="small"' if scale > 1 else ' class="wide"' if width > max(600, 1.6 * height) else ""
        (self.docs / "drawn").mkdir(exist_ok=True)
        (self.docs / "drawn" / f"{key}.png").write_bytes(raw)
        return (f'<img{kind} src="drawn/{key}.png" width="{width * scale}" height="{height * scale}" '
                f'alt="{html.escape(told)}" loading="lazy">')

    def code(self, cell, stem: str) -> str:
        """A cell's code: what is exported says where to; what is hidden in nbdev's documents and what solves an
        exercise is folded."""
        directives = re.findall(r"^#\| *(\w+)", cell.source, re.MULTILINE)
        module = re.search(r"^#\| *default_exp (\w+)", cell.source, re.MULTILINE)
        source = re.sub(r"^(#\|| *### (BEGIN|END) SOLUTION).*\n?", "", cell.source, flags=re.MULTILINE).strip("\n")
        if module: self.modules[module[1]] = stem
        if not source or "hide" in directives and not lesson_number(stem): return ""
        fence, folded = f"````python\n{source}\n````\n", ""
        if "### BEGIN SOLUTION" in cell.source: folded = "a solution"
        if "hide" in directives:
            drawn = any("image/png" in output.get("data", {}) for output in cell.outputs)
            folded = "the code of this picture" if drawn else "imports and helpers"
        if folded:
            return f'<details class="hidden" markdown="1"><summary>{folded}</summary>\n\n{fence}\n</details>\n'
        if "gpu" in directives: return f'<p class="label">for a GPU</p>\n\n{fence}'
        if "export" not in directives: return fence
        own = next((name for name, lesson in self.modules.items() if lesson == stem), "")
        return f'<p class="label">in the library: <a href="reference/{own}.html">maskgit_nb.{own}</a></p>\n\n{fence}'

    def notebook(self, path: Path, notebook: nbformat.NotebookNode, note: str) -> None:
        parts, told = [], ""
        notebook, _ = CoalesceStreamsPreprocessor().preprocess(notebook, {})
        for i, cell in enumerate(notebook.cells):
            if cell.cell_type == "markdown":
                told = f"What the code above draws. {in_words(cell.source)}".strip()
                text = self.prose(cell.source, path)
                parts.append(self.opening(text, path.stem, note) if i == 0 else text)
            if cell.cell_type != "code": continue
            parts.append(self.code(cell, path.stem))
            for j, output in enumerate(cell.outputs):
                key = f"{path.stem}-{i}-{j}"
                if "text/markdown" in output.get("data", {}):
                    parts.append(self.prose(output.data["text/markdown"], path))
                    continue
                self.outputs[key] = output_html(output, partial(self.picture, key=key, told=told))
                parts.append(f'<div class="output" data-output="{key}"></div>')
        (self.docs / f"{path.stem}.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
        (self.docs / "notebooks").mkdir(exist_ok=True)
        shutil.copyfile(path, self.docs / "notebooks" / path.name)

    def reference(self) -> list[dict[str, str]]:
        "One page for each module that a lesson exports, in the order of the lessons."
        (self.docs / "reference").mkdir(exist_ok=True)
        for module, stem in self.modules.items():
            lesson = f"{'lesson' if lesson_number(stem).isdigit() else 'appendix'} {lesson_number(stem)}"
            text = f"Each name is built and tested in [{lesson}](../{stem}.md).\n\n::: maskgit_nb.{module}\n"
            (self.docs / f"reference/{module}.md").write_text(f"# maskgit_nb.{module}\n\n{text}", encoding="utf-8")
        return [{module: f"reference/{module}.md"} for module in self.modules]

    def with_outputs(self, page: str) -> str:
        return re.sub(r'(<div class="output" data-output="([^"]+)">)(?=</div>)',
                      lambda match: match[1] + self.outputs[match[2]], page)


def with_live_page(text: str, folder: Path) -> str:
    "`live.md` with the page in place of its text, and its files in `folder`; as it is if they cannot be had."
    try: files = live_page.contents()
    except (OSError, ImportError) as error:
        print(f"the live page is left out: {error}", file=sys.stderr)
        return text
    folder.mkdir()
    for name, content in files.items(): (folder / name).write_bytes(as_bytes(content))
    body = live_page.body("live/")
    return re.sub(r"<!-- the text.*?<!-- the page -->", lambda match: body, text, flags=re.DOTALL)


def mkdocs(site: Site, out: Path, nav: list) -> None:
    os.environ["NO_MKDOCS_2_WARNING"] = "1"
    from mkdocs.commands.build import build
    from mkdocs.config import load_config
    from mkdocs.exceptions import Abort
    address = site.settings["doc_host"] + site.settings["doc_baseurl"] + "/"
    config = load_config(str(HERE / "mkdocs.yml"), docs_dir=str(site.docs), site_dir=str(out), nav=nav,
                         site_url=address, strict=True, site_description=site.settings["description"],
                         copyright=f"Copyright {site.settings['copyright']}. Apache-2.0. "
                         + (f'<a href="{site.repository}">Source on GitHub</a>' if site.repository else ""))
    config.plugins.on_startup(command="build", dirty=False)
    try: build(config)
    except Abort: raise BuildError("mkdocs found faults in the pages: see the lines above") from None
    finally: config.plugins.on_shutdown()


def build_site(out: Path, run: list[str] | None) -> None:
    "Build into a temporary folder, then put it in the place of `out`, if that is a site built here. None means all."
    try: check_folder(out)
    except FileExistsError as error: raise BuildError(error) from None
    notebooks, texts = [*sorted(NBS.glob("*.ipynb")), *sorted(NBS.glob("appendix/*.ipynb"))], sorted(NBS.glob("*.md"))
    names = [path.stem for path in notebooks]
    unknown = sorted({*(run or [])} - {*names})
    if unknown: raise BuildError(f"no such notebook: {', '.join(unknown)}; there are {', '.join(names)}")
    os.environ |= {"OMP_NUM_THREADS": "1", "JUPYTER_PREFER_ENV_PATH": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    chosen = [path for path in notebooks if run is None or path.stem in run]
    with ThreadPoolExecutor(2) as pool: executed = dict(zip(chosen, pool.map(execute, chosen), strict=True))
    out.parent.mkdir(parents=True, exist_ok=True)
    # on the same disk, so that renaming is enough
    with tempfile.TemporaryDirectory(prefix=".site-", dir=out.parent) as folder:
        docs, made = Path(folder, "docs"), Path(folder, "site")
        shutil.copytree(HERE / "static", docs)
        site, titles = Site(docs, notebooks, texts), {}
        for path in notebooks:
            as_committed = nbformat.read(path, as_version=4), "Outputs as committed; not executed for this page."
            notebook, note = executed.get(path, as_committed)
            site.notebook(path, notebook, note)
            title = re.search(r"^# ([^:\n]+)", notebook.cells[0].source, re.MULTILINE)[1]
            titles[path.stem] = f"{lesson_number(path.stem)} {title}".strip()
        for path in texts:
            text = site.prose(path.read_text(encoding="utf-8"), path)
            if path.name == "live.md": text = with_live_page(text, docs / "live")
            (docs / path.name).write_text(text, encoding="utf-8")
        nav = [{"Front page": "index.md"}, *({"Live": path.name} for path in texts if path.name == "live.md")]
        for part, kind in (("Lessons", str.isdigit), ("Appendix", str.isalpha)):
            nav.append({part: [{titles[stem]: f"{stem}.md"} for number, stem in site.lessons.items() if kind(number)]})
        nav.append({"Practice": [path.name for path in texts if path.name != "live.md"]})
        nav.append({"Reference": site.reference()})
        mkdocs(site, made, [part for part in nav if [*part.values()] != [[]]])
        for page in made.glob("*.html"):
            page.write_text(site.with_outputs(page.read_text(encoding="utf-8")), encoding="utf-8")
        write_whole(made / MARK, "{}\n")
        if out.exists(): out.rename(Path(folder, "before"))
        made.rename(out)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the course as a website.")
    parser.add_argument("--run", type=lambda text: [] if text == "none" else text.split(","),
                        help="execute these notebooks only, or none; the others show the outputs they were committed "
                        "with")
    parser.add_argument("--out", type=Path, default=ROOT / "site", help="where the site goes (default: site/)")
    args = parser.parse_args()
    start = time.perf_counter()
    try: build_site(args.out, args.run)
    except BuildError as error: sys.exit(f"error: {error}\n{args.out} is as it was")
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(f"{args.out}: {len(list(args.out.rglob('*.html')))} pages, {size / 1e6:.1f} MB, "
          f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__": main()
