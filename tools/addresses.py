"""What leads from a lesson to the public repository, made from settings.ini: its Colab badge, and the hidden cell that
sets Colab up. Every lesson gets both, or none while settings.ini says `published = no`, since each would lead nowhere.

usage: addresses.py NOTEBOOK...
"""
import configparser
import re
import sys
from pathlib import Path

import nbformat
from writing import write_whole

ROOT = Path(__file__).parents[1]
BADGE = re.compile(r"\n*\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)")
PICTURE = "https://colab.research.google.com/assets/colab-badge.svg"
SET_UP = """\
#| hide
import sys
if "google.colab" in sys.modules:
    !git clone --quiet --depth 1 --branch v{version} {git_url} /content/{repo}
    %pip install --quiet "/content/{repo}[colab]"
    %cd -q /content/{repo}/{folder}"""


def settings(root: Path = ROOT) -> dict[str, str]:
    parser = configparser.ConfigParser(delimiters=["="])
    parser.read(root / "settings.ini", encoding="utf-8")
    return dict(parser["DEFAULT"])


def is_published(given: dict[str, str]) -> bool: return given["published"].lower() in ("yes", "true", "1")


def colab_address(repository: str, path: str) -> str:
    "Where Colab opens a notebook at `path` (blob/BRANCH/...) of a repository on GitHub."
    return f"{repository.replace('https://github.com', 'https://colab.research.google.com/github')}/{path}"


def badge(address: str) -> str: return f"[![Open in Colab]({PICTURE})]({address})"


def with_addresses(notebook: nbformat.NotebookNode, path: str, given: dict[str, str]) -> nbformat.NotebookNode:
    """The lesson at `path` (nbs/...) with its badge and its hidden cell, or without either; the notebook itself is
    changed."""
    first, *rest = [cell for cell in notebook.cells if '"google.colab" in sys.modules' not in cell.source]
    first.source = BADGE.sub("", first.source)
    if is_published(given):
        first.source += "\n\n" + badge(colab_address(given["git_url"], f"blob/{given['branch']}/{path}"))
        number = re.match(r"(\d\d|[a-z])_", Path(path).stem)[1]
        set_up = SET_UP.format(**given, folder=Path(path).parent.as_posix())
        rest.insert(0, nbformat.v4.new_code_cell(set_up, id=f"{number}-001"))
    notebook.cells = [first, *rest]
    return notebook


def main(names: list[str]) -> None:
    given = settings()
    for path in map(Path, names):
        if path.stem == "index": continue
        notebook = with_addresses(nbformat.read(path, as_version=4), path.resolve().relative_to(ROOT).as_posix(), given)
        write_whole(path, nbformat.writes(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__": main(sys.argv[1:])
