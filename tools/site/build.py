"""The course as a website: notebooks executed, widgets alive, nothing loaded from elsewhere.

usage: build.py [--only NAMES] [--run NAMES] [--out FOLDER], where NAMES are notebooks like 01_images,06_schedules
"""
import argparse
import base64
import html
import io
import json
import os
import re
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import latex2mathml.converter
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))
from addresses import BADGE, colab_address, is_published, settings  # noqa: E402
from tidy_notebooks import joined  # noqa: E402
from writing import MARK, check_folder, write_whole  # noqa: E402

NBS = ROOT / "nbs"
RUN_TIMES = NBS / "results" / "run_times.json"

DISPLAY = {"$": "inline", "$$": "block"}  # of formulas

# The way of an image: what there is, the arrows between, and the lessons that teach them. One definition for the
# diagram of every page.
WAY = (("state", "pixels", ("01",)), ("arrow", "encode", ("02",)), ("state", "tokens", ()), ("arrow", "mask", ("05",)),
       ("state", "tokens with gaps", ()), ("arrow", "transformer", ("03", "04")), ("state", "logits", ()),
       ("arrow", "choose", ("06", "07")), ("state", "tokens", ()), ("arrow", "decode", ("02",)),
       ("state", "pixels", ()))
WHOLE_LINE = ("00", "08")
WAY_TEXT = "".join(f" --{name}--> " if kind == "arrow" else name for kind, name, _ in WAY)
WAY_BLOCK = re.compile(r"^```\w*\n(" + re.escape(WAY_TEXT) + r"\n.*?)^```$", re.MULTILINE | re.DOTALL)

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


# Executing

def execute(path: Path) -> tuple[nbformat.NotebookNode, float]:
    """A copy of the notebook with the outputs of a fresh run, and the seconds it took. BuildError names the failing
    cell."""
    start = time.perf_counter()
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(WIDGETS_AS_PAGES))
    try:
        NotebookClient(notebook, timeout=600, kernel_name="python3", extra_arguments=["--IPKernelApp.log_level=ERROR"],
                       resources={"metadata": {"path": str(path.parent)}}).execute()
    except CellExecutionError as error:
        raise BuildError(f"{path.name}: {error.ename}: {error.evalue}\n{plain(str(error))}") from None
    except Exception as error: raise BuildError(f"{path.name}: {type(error).__name__}: {error}") from error
    del notebook.cells[0]
    return notebook, time.perf_counter() - start


def execute_all(paths: list[Path]) -> dict[str, tuple[nbformat.NotebookNode, float]]:
    "Two notebooks at a time, one thread each, the slowest first."
    os.environ |= {"OMP_NUM_THREADS": "1", "JUPYTER_PREFER_ENV_PATH": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    times = json.loads(RUN_TIMES.read_text(encoding="utf-8")) if RUN_TIMES.exists() else {}
    done = {}
    with ThreadPoolExecutor(2) as pool:
        running = {pool.submit(execute, path): path.stem
                   for path in sorted(paths, key=lambda path: -times.get(path.stem, {}).get("cpu", 60))}
        for future in as_completed(running):
            try: done[running[future]] = future.result()
            except BuildError:
                pool.shutdown(cancel_futures=True)
                raise
            print(f"{running[future]:16} {done[running[future]][1]:6.1f} s", flush=True)
    return done


# From notebooks to pages

def plain(text: str) -> str:
    "Text as a terminal would leave it: without colours, and of a line written over and over the last state."
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text).replace("\r\n", "\n")
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))


def title_of(text: str) -> str:
    return re.search(r"^# (.+)$", text, re.MULTILINE).group(1).strip()


def lesson_number(stem: str) -> str:
    "'01' of '01_images', 'a' of 'a_drawn_cats', nothing of a page that is no lesson."
    found = re.match(r"(\d\d|[a-z])_", stem)
    return found[1] if found else ""


def lesson_words(stem: str) -> str:
    number = lesson_number(stem)
    return f"lesson {number}" if number.isdigit() else f"appendix {number}"


def short_title(stem: str, text: str) -> str:
    "'01 Images' of 'Images: what goes in'."
    return f"{lesson_number(stem)} {title_of(text).split(':')[0]}".strip()


def in_words(text: str) -> str:
    "The last sentence or two of a piece of prose, without markup: what the cell below it is about."
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    blocks = [block
              for block in re.split(r"\n\s*\n", prose) if block.strip()
              and not block.lstrip().startswith(("|", "<", ">"))]
    last = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", blocks[-1]) if blocks else ""
    sentences = re.split(r"(?<=[.?!:]) +", re.sub(r"^(?:#+|-|\d+\.) +|[*`$]", "", last).replace("\n", " ").strip())
    return " ".join(sentences[-2:])


def lit(block: str) -> set[int]:
    """The places of WAY that lie over the carets of a lesson's block, or over its words if it has none; all of them
    where it says so."""
    if "whole line" in block: return set(range(len(WAY)))
    lines, places, column = block.split("\n"), set(), 0
    marks = lines[1] if len(lines) > 1 else ""
    marked = [mark == "^" if "^" in marks else mark != " " for mark in marks]
    for i, (kind, name, _) in enumerate(WAY):
        if kind == "arrow": column += 3
        if 3 * sum(marked[column:column + len(name)]) >= len(name): places.add(i)
        column += len(name) + (4 if kind == "arrow" else 0)
    return places


def formula(match: re.Match) -> str:
    "A formula between single or double dollars as MathML; one that stands alone scrolls where a phone is too narrow."
    made = latex2mathml.converter.convert(match[2], display=DISPLAY[match[1]])
    return made if match[1] == "$" else f'<div class="formula" tabindex="0">{made}</div>'


class Site:
    """Notebooks and Markdown files of nbs/ on their way to mkdocs: `docs` is what mkdocs reads, `outputs` what goes
    into its pages afterwards."""

    def __init__(self, docs: Path, notebooks: list[Path], texts: list[Path]):
        self.docs, self.settings, self.outputs = docs, settings(ROOT), {}
        self.repository = self.settings["git_url"] if is_published(self.settings) else ""
        self.pages = {path.name: f"{path.stem}.md" for path in [*notebooks, *texts]}
        self.lessons = {lesson_number(path.stem): path.stem for path in notebooks if lesson_number(path.stem)}
        self.modules = {}  # module -> lesson

    def link(self, target: str, source: str) -> str:
        """Where a link of nbs/ leads in the site: to a page, to a copied file, or to the repository; nowhere, '', while
        that is not public."""
        if re.match(r"[a-z]+:|#", target): return target
        path, sharp, anchor = target.partition("#")
        if Path(path).name in self.pages: return self.pages[Path(path).name] + sharp + anchor.lower()
        file = (next(iter(NBS.rglob(source)), NBS / source).parent / path).resolve()
        if not file.exists() or not file.is_relative_to(ROOT):
            raise BuildError(f"{source}: the link {target} leads nowhere")
        if file.is_file() and file.is_relative_to(NBS) and file.suffix not in (".ipynb", ".md"):
            copy = self.docs / file.relative_to(NBS)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
            return file.relative_to(NBS).as_posix()
        if not self.repository: return ""
        kind, place = "blob" if file.is_file() else "tree", file.relative_to(ROOT).as_posix()
        return f"{self.repository}/{kind}/{self.settings['branch']}/{place}{sharp}{anchor}"

    def prose(self, text: str, source: str) -> str:
        """Markdown as GitHub reads it, made ready for Python-Markdown: links, formulas, lists that follow a line, open
        answers."""
        parts = re.split(r"(^```.*?^```[^\n]*$|`[^`\n]+`)", text, flags=re.MULTILINE | re.DOTALL)
        for i in range(0, len(parts), 2):
            part = re.sub(r"(?<=\]\()([^)\s]+)(?=\))", lambda match: self.link(match[1], source), parts[i])
            part = re.sub(r"(?<!!)\[([^\]]*)\]\(\)", r"\1", part)
            part = re.sub(r'\b(src|href)="([^"]+)"',
                          lambda match: f'{match[1]}="{self.link(match[2], source).replace(".md", ".html")}"', part)
            part = re.sub(r"(\$\$?)([^$\n]+)\1", formula, part)
            part = re.sub(r"^((?![-*|#>]|\d+\. |\s).+)\n(?=[-*] |1\. )", r"\1\n\n", part, flags=re.MULTILINE)
            parts[i] = part.replace("<details>", '<details markdown="1">')
        return "".join(parts)

    def way(self, block: str, stem: str) -> str:
        "The diagram of WAY as HTML, with the arrows of this lesson lit."
        here, items, names = lit(block), [], []
        def lesson(number: str, text: str, name: str, current: bool) -> str:
            if number not in self.lessons: return f"<span>{text}</span>"
            mark = ' aria-current="step"' if current else ""
            return f'<a href="{self.lessons[number]}.html" aria-label="{name}: lesson {number}"{mark}>{text}</a>'
        for i, (kind, name, numbers) in enumerate(WAY):
            mark = " lit" if i in here else ""
            if i in here and kind == "arrow" or i in here and len(here) == 1: names.append(name)
            if kind == "state":
                label = lesson(numbers[0], name, name, i in here) if numbers else f"<span>{name}</span>"
                items.append(f'<li class="state{mark}">{label}</li>')
            else:
                own = [number for number in numbers if stem.startswith(number)]
                chips = "".join(lesson(number, number, name, bool(mark) and (not own or number in own))
                                for number in numbers)
                items.append(f'<li class="arrow{mark}"><b>{name}</b><i></i><span class="chips">{chips}</span></li>')
        whole = "".join(lesson(number, number, "the whole line", stem.startswith(number)) for number in WHOLE_LINE)
        told = "You are here: " + ("the whole line" if len(here) == len(WAY)
                                   else ", ".join(dict.fromkeys(names))) if here else "Numbers lead to the lessons"
        return (f'<nav class="way" data-search-exclude aria-label="The way of an image"><ol>{"".join(items)}</ol>'
                f'<p>{told}. <span class="chips">The whole line: {whole}</span></p></nav>')

    def opening(self, text: str, stem: str, note: str) -> str:
        "The first cell of a notebook: the diagram for its block of text, plain links for the badge."
        text = WAY_BLOCK.sub(lambda match: self.way(match[1], stem), BADGE.sub("", text))
        if not lesson_number(stem): return text
        folder = "nbs" if lesson_number(stem).isdigit() else "nbs/appendix"
        address = colab_address(self.repository, f"blob/{self.settings['branch']}/{folder}/{stem}.ipynb")
        colab = f'<a href="{address}">Open in Colab</a> ' if self.repository else ""
        tools = (f'<p class="tools">{colab}<a href="notebooks/{stem}.ipynb" download>Download notebook</a> '
                 f'<small>{note}</small></p>')
        return re.sub(r"^(# .+)$", lambda match: f"{match[1]}\n\n{tools}\n", text, count=1, flags=re.MULTILINE)

    def picture(self, data: str, kind: str, key: str, told: str) -> str:
        raw = base64.b64decode(data)
        width, height = Image.open(io.BytesIO(raw)).size
        scale = max(1, 256 // width) if width <= 128 else 1
        (self.docs / "drawn").mkdir(exist_ok=True)
        (self.docs / "drawn" / f"{key}.{kind}").write_bytes(raw)
        small = ' class="small"' if scale > 1 else ""
        return (f'<img{small} src="drawn/{key}.{kind}" width="{width * scale}" height="{height * scale}" '
                f'alt="{html.escape(told)}" loading="lazy">')

    def output(self, output, key: str, told: str) -> str:
        """One output as HTML, a picture with `told` for those who do not see it; Markdown is put into the page by
        `notebook`."""
        if output.output_type == "stream":
            return f'<pre class="{output.name}">{html.escape(plain(output.text).rstrip())}</pre>'
        if output.output_type == "error":
            return f'<pre class="stderr">{html.escape(plain(chr(10).join(output.traceback)))}</pre>'
        data = output.data
        if "data-mg=" in data.get("text/html", ""): return f'<div class="widget">{data["text/html"]}</div>'
        if "text/html" in data: return f'<div class="md-typeset__scrollwrap">{data["text/html"]}</div>'
        if "image/svg+xml" in data: return data["image/svg+xml"]
        for mime, kind in (("image/png", "png"), ("image/jpeg", "jpg")):
            if mime in data: return self.picture(data[mime], kind, key, told)
        return f'<pre>{html.escape(plain(data.get("text/plain", "")))}</pre>'

    def code(self, source: str, stem: str) -> str:
        "A cell's code: what is exported says where to, what is hidden in nbdev's documents is folded."
        directives = re.findall(r"^#\| *(\w+)", source, re.MULTILINE)
        module = re.search(r"^#\| *default_exp (\w+)", source, re.MULTILINE)
        source = re.sub(r"^#\|.*\n?", "", source, flags=re.MULTILINE).strip("\n")
        if module: self.modules[module[1]] = stem
        if not source or "hide" in directives and not lesson_number(stem): return ""
        fence = f"````python\n{source}\n````\n"
        if "hide" in directives:
            return ('<details class="hidden" markdown="1"><summary>imports and '
                    f'helpers</summary>\n\n{fence}\n</details>\n')
        if "gpu" in directives: return f'<p class="label">for a GPU</p>\n\n{fence}'
        if "export" not in directives: return fence
        own = next((name for name, lesson in self.modules.items() if lesson == stem), "")
        return f'<p class="label">in the library: <a href="reference/{own}.html">maskgit_nb.{own}</a></p>\n\n{fence}'

    def notebook(self, path: Path, notebook: nbformat.NotebookNode, note: str) -> None:
        parts, told = [], ""
        for i, cell in enumerate(notebook.cells):
            if cell.cell_type == "markdown":
                told = in_words(cell.source)
                text = self.prose(cell.source, path.name)
                parts.append(self.opening(text, path.stem, note) if i == 0 else text)
            if cell.cell_type != "code": continue
            parts.append(self.code(cell.source, path.stem))
            for j, output in enumerate(joined(cell.outputs)):
                key = f"{path.stem}-{i}-{j}"
                if "text/markdown" in output.get("data", {}):
                    parts.append(self.prose(output.data["text/markdown"], path.name))
                    continue
                self.outputs[key] = self.output(output, key, f"What the code above draws. {told}".strip())
                parts.append(f'<div class="output" data-output="{key}"></div>')
        (self.docs / f"{path.stem}.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
        (self.docs / "notebooks").mkdir(exist_ok=True)
        shutil.copyfile(path, self.docs / "notebooks" / path.name)

    def reference(self) -> list[str]:
        "One page for each module that a lesson exports, in the order of the lessons."
        (self.docs / "reference").mkdir(exist_ok=True)
        for module, stem in self.modules.items():
            text = (f"# maskgit_nb.{module}\n\nEach name is built and tested in "
                    f"[{lesson_words(stem)}](../{stem}.md).\n\n::: maskgit_nb.{module}\n")
            (self.docs / "reference" / f"{module}.md").write_text(text, encoding="utf-8")
        return list(self.modules)

    def with_outputs(self, page: str) -> str:
        return re.sub(r'(<div class="output" data-output="([^"]+)">)(?=</div>)',
                      lambda match: match[1] + self.outputs[match[2]], page)


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


def build_site(out: Path, only: list[str] | None, run: list[str] | None) -> None:
    "Build into a temporary folder, then put it in the place of `out`, if that is a site built here. None means all."
    try: check_folder(out)
    except FileExistsError as error: raise BuildError(error) from None
    every = [*sorted(NBS.glob("*.ipynb")), *sorted(NBS.glob("appendix/*.ipynb"))]
    unknown = {*(only or []), *(run or [])} - {path.stem for path in every}
    if unknown:
        raise BuildError(f"no such notebook: {', '.join(sorted(unknown))}; there are "
                         f"{', '.join(path.stem for path in every)}")
    notebooks = [path for path in every if only is None or path.stem in [*only, "index"]]
    texts = sorted(NBS.glob("*.md")) if only is None else []
    executed = execute_all([path for path in notebooks if run is None or path.stem in run])
    out.parent.mkdir(parents=True, exist_ok=True)
    # on the same disk, so that renaming is enough
    with tempfile.TemporaryDirectory(prefix=".site-", dir=out.parent) as folder:
        docs, made = Path(folder, "docs"), Path(folder, "site")
        docs.mkdir()
        for name in ("course.css", "course.js", "iframe-worker.js", "favicon.svg"):
            shutil.copyfile(HERE / name, docs / name)
        site, titles = Site(docs, notebooks, texts), {}
        for path in notebooks:
            notebook, seconds = executed.get(path.stem) or (nbformat.read(path, as_version=4), None)
            note = "Outputs as committed; not executed for this page."
            if seconds: note = f"Outputs of a fresh run of {seconds:.0f} s."
            site.notebook(path, notebook, note)
            titles[path.stem] = short_title(path.stem, notebook.cells[0].source)
        for path in texts:
            text = path.read_text(encoding="utf-8")
            (docs / path.name).write_text(site.prose(text, path.name), encoding="utf-8")
            titles[path.stem] = title_of(text)
        nav = [{"Front page": "index.md"}]
        for part, kind in (("Lessons", str.isdigit), ("Appendix", str.isalpha)):
            pages = [{titles[stem]: f"{stem}.md"} for number, stem in site.lessons.items() if kind(number)]
            if pages: nav.append({part: pages})
        if texts: nav.append({"Practice": [{titles[path.stem]: path.name} for path in texts]})
        nav.append({"Reference": [{module: f"reference/{module}.md"} for module in site.reference()]})
        mkdocs(site, made, nav)
        for page in made.glob("*.html"):
            page.write_text(site.with_outputs(page.read_text(encoding="utf-8")), encoding="utf-8")
        write_whole(made / MARK, "{}\n")
        if out.exists(): out.rename(Path(folder, "before"))
        made.rename(out)


def main() -> None:
    def names(text):
        return [] if text == "none" else text.split(",")
    parser = argparse.ArgumentParser(description="Build the course as a website.")
    parser.add_argument("--only", type=names, help="build the pages of these notebooks only, and the front page")
    parser.add_argument("--run", type=names,
                        help="execute these notebooks only, or none; the others show the outputs they were committed "
                        "with")
    parser.add_argument("--out", type=Path, default=ROOT / "site", help="where the site goes (default: site/)")
    args = parser.parse_args()
    start = time.perf_counter()
    try: build_site(args.out, args.only, args.run)
    except BuildError as error: sys.exit(f"error: {error}\n{args.out} is as it was")
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(f"{args.out}: {len(list(args.out.rglob('*.html')))} pages, {size / 1e6:.1f} MB, "
          f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__": main()
