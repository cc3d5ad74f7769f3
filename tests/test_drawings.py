"The drawings of the lessons are those that their scripts make, and every lesson says in words what is on them."
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))  # for `from draw import Drawing`
SCRIPTS = sorted((ROOT / "tools" / "drawings").glob("*.py"))
LESSONS = [*sorted((ROOT / "nbs").glob("*.ipynb")), *sorted((ROOT / "nbs" / "appendix").glob("*.ipynb"))]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_drawing_is_what_its_script_makes(script: Path):
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    committed = (ROOT / "nbs" / "figures" / f"{script.stem}.svg").read_text(encoding="utf-8")
    made = module.draw().svg()
    without_pixels = [re.sub(r"base64,[^\"]+", "", text) for text in (made, committed)]  # pixels may round otherwise
    assert without_pixels[0] == without_pixels[1], f"run: python tools/draw.py {script.stem}"


def test_every_drawing_is_shown_and_told_in_words():
    shown = {}
    for lesson in LESSONS:
        cells = json.loads(lesson.read_text(encoding="utf-8"))["cells"]
        prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        for told, name in re.findall(r"!\[([^\]]*)\]\((?:\.\./)?figures/(\w+)\.svg\)", prose): shown[name] = told
    assert shown.keys() == {script.stem for script in SCRIPTS}
    assert min(map(len, shown.values())) > 60
