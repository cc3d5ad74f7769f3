"Every notebook runs from its first cell to its last under nbdev_test, and what is committed is what the commands write."
import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from IPython.core.interactiveshell import InteractiveShell
from nbdev.test import nbdev_test

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
LESSONS = [path for path in NOTEBOOKS if path.stem != "index"]
BIN = Path(sys.executable).parent


def run(*command: str, cwd: Path = ROOT, timeout: int = 120) -> subprocess.CompletedProcess:
    env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout)


def under_nbdev(notebook: str, log: str) -> None:
    "nbdev_test of one notebook, in a process of its own; what it prints goes into a file."
    with open(log, "w", encoding="utf-8") as told:
        for stream in (sys.stdout, sys.stderr): os.dup2(told.fileno(), stream.fileno())
    nbdev_test(path=notebook, n_workers=0)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(processes, tmp_path: Path, notebook: Path):
    process = processes.Process(target=under_nbdev, args=(str(notebook), str(tmp_path / "log")))
    process.start()
    process.join(300)
    process.kill()
    process.join()
    assert process.exitcode == 0, (tmp_path / "log").read_text(encoding="utf-8")[-6000:]


def where_a_gpu_is_the_default(notebook: str, log: str) -> None:
    "The same where accelerate finds a device other than the CPU."
    import accelerate.state
    from device import DEVICE
    accelerate.state.PartialState.default_device = property(lambda state: DEVICE)
    under_nbdev(notebook, log)


def test_training_lesson_runs_where_a_gpu_is_the_default(processes, tmp_path: Path):
    "Up to what is made with the trained first stage; what follows trains in the same ways, and takes a minute."
    lesson = json.loads((ROOT / "nbs" / "09_training.ipynb").read_text(encoding="utf-8"))
    last = next(i for i, cell in enumerate(lesson["cells"]) if cell["cell_type"] == "code" and "rows = fit_vqgan(tiny, cats" in "".join(cell["source"]))
    (tmp_path / "09_training.ipynb").write_text(json.dumps(lesson | dict(cells=lesson["cells"][:last + 2])), encoding="utf-8")
    process = processes.Process(target=where_a_gpu_is_the_default, args=(str(tmp_path / "09_training.ipynb"), str(tmp_path / "log")))
    process.start()
    process.join(300)
    process.kill()
    process.join()
    assert process.exitcode == 0, (tmp_path / "log").read_text(encoding="utf-8")[-6000:]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "A copy of the project to export and clean in."
    folder = tmp_path_factory.mktemp("copy") / "maskgit_nb"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".venv", ".git", "weights", "runs", "__pycache__", "*.egg-info"))
    return folder


def test_export_leaves_no_difference(copy: Path):
    for module in (copy / "maskgit_nb").glob("*.py"): module.unlink()
    (copy / "maskgit_nb" / "__init__.py").write_text('__version__ = "0"\n', encoding="utf-8")
    done = run(str(BIN / "nbdev_export"), cwd=copy)
    assert done.returncode == 0, done.stderr
    written = {path.name: path.read_text(encoding="utf-8") for path in (copy / "maskgit_nb").glob("*.py")}
    assert written == {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "maskgit_nb").glob("*.py")}


def test_clean_leaves_no_difference(copy: Path):
    done = run(str(BIN / "nbdev_clean"), cwd=copy)
    assert done.returncode == 0, done.stderr
    done = run(sys.executable, ".ci/tidy_notebooks.py", *(f"nbs/{path.name}" for path in NOTEBOOKS), cwd=copy)
    assert done.returncode == 0, done.stderr
    for notebook in NOTEBOOKS:
        assert (copy / "nbs" / notebook.name).read_text(encoding="utf-8") == notebook.read_text(encoding="utf-8"), notebook.name


def test_readme_is_the_index(copy: Path):
    done = run(sys.executable, ".ci/make_readme.py", cwd=copy)
    assert done.returncode == 0, done.stderr
    written, committed = ((folder / "README.md").read_text(encoding="utf-8") for folder in (copy, ROOT))
    assert written == committed, "run: make readme"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_with_outputs_and_small(notebook: Path):
    cells = [cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    errors = [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
    assert not errors
    assert notebook.stem == "index" or any(cell["outputs"] for cell in cells), "run: make notebooks"
    assert notebook.stat().st_size <= 300_000


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_lesson_says_how_long_it_takes(lesson: Path):
    recorded = json.loads((ROOT / "nbs" / "results" / "run_times.json").read_text(encoding="utf-8"))[lesson.stem]
    first = "".join(json.loads(lesson.read_text(encoding="utf-8"))["cells"][0]["source"])
    assert f"Time: {recorded['cpu']:.0f} s on {recorded['cores']} CPU cores; on one GPU: " in first, "run: make notebooks"
    assert "You will be able to" in first and "Needed: " in first


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_first_cell_sets_colab_up(lesson: Path, monkeypatch: pytest.MonkeyPatch):
    "With a stand-in for google.colab the cell fetches this version and installs what the lessons import; without, it does nothing."
    settings = configparser.ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    cells = json.loads(lesson.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    shell, asked = InteractiveShell(), []
    monkeypatch.setattr(shell, "system", lambda command: asked.append(command))
    monkeypatch.setattr(shell, "run_line_magic", lambda name, line, **_: asked.append(f"%{name} {line}"))
    monkeypatch.setattr("IPython.core.interactiveshell.InteractiveShell._instance", None)
    shell.run_cell(code[0]).raise_error()
    assert asked == []
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    shell.run_cell(code[0]).raise_error()
    clone, install, move = asked
    assert f"--branch v{settings['DEFAULT']['version']} {settings['DEFAULT']['git_url']} /content/maskgit_nb" in clone
    assert install == '%pip install --quiet "/content/maskgit_nb[colab]"' and move == "%cd -q /content/maskgit_nb/nbs"
    outside = {"torch", "torchvision", "matplotlib", "numpy", "scipy", "PIL", "accelerate", "tqdm", "safetensors", "pytorch_fid", "ipywidgets", "IPython"}
    known = {"fastcore": "fastcore", "skimage": "scikit-image", "anywidget": "anywidget", "cv2": "opencv-python-headless"}
    imported = {name for name in re.findall(r"^(?:from|import) (\w+)", "\n".join(code), re.M)} - set(sys.stdlib_module_names) - outside - {"maskgit_nb"}
    extras = settings["DEFAULT"]["colab_requirements"]
    assert all(known.get(name, name) in extras for name in imported), imported
