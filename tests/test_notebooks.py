"""Every notebook runs from its first cell to its last under nbdev_test, and what is committed is what the commands
write."""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from nbdev.test import nbdev_test

ROOT = Path(__file__).parents[1]
NOTEBOOKS = [*sorted((ROOT / "nbs").glob("*.ipynb")), *sorted((ROOT / "nbs" / "appendix").glob("*.ipynb"))]
LESSONS = [path for path in NOTEBOOKS if path.stem != "index"]
BIN = Path(sys.executable).parent
sys.path.insert(0, str(ROOT / "tools"))
import addresses  # noqa: E402


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
    lesson = json.loads((ROOT / "nbs" / "10_train_both.ipynb").read_text(encoding="utf-8"))
    last = next(i
                for i, cell in enumerate(lesson["cells"]) if cell["cell_type"] == "code"
                and "rows = fit_vqgan(tiny, cats" in "".join(cell["source"]))
    (tmp_path / "10_train_both.ipynb").write_text(json.dumps(lesson | dict(cells=lesson["cells"][:last + 2])),
                                                  encoding="utf-8")
    process = processes.Process(target=where_a_gpu_is_the_default,
                                args=(str(tmp_path / "10_train_both.ipynb"), str(tmp_path / "log")))
    process.start()
    process.join(300)
    process.kill()
    process.join()
    assert process.exitcode == 0, (tmp_path / "log").read_text(encoding="utf-8")[-6000:]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "A copy of the project to export and clean in."
    folder = tmp_path_factory.mktemp("copy") / "maskgit_nb"
    shutil.copytree(ROOT, folder,
                    ignore=shutil.ignore_patterns(".venv", ".git", "weights", "runs", "__pycache__", "*.egg-info"))
    return folder


def test_export_leaves_no_difference(copy: Path):
    for module in (copy / "maskgit_nb").glob("*.py"):
        if module.name != "__init__.py": module.unlink()
    init = copy / "maskgit_nb" / "__init__.py"  # of which the export writes the version
    init.write_text(re.sub(r'__version__ = ".*"', '__version__ = "0"', init.read_text(encoding="utf-8")),
                    encoding="utf-8")
    done = run(str(BIN / "nbdev_export"), cwd=copy)
    assert done.returncode == 0, done.stderr
    written = {path.name: path.read_text(encoding="utf-8") for path in (copy / "maskgit_nb").glob("*.py")}
    assert written == {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "maskgit_nb").glob("*.py")}


def test_clean_leaves_no_difference(copy: Path):
    done = run(str(BIN / "nbdev_clean"), cwd=copy)
    assert done.returncode == 0, done.stderr
    done = run(sys.executable, "tools/tidy_notebooks.py", *(str(path.relative_to(ROOT)) for path in NOTEBOOKS),
               cwd=copy)
    assert done.returncode == 0, done.stderr
    for notebook in NOTEBOOKS:
        cleaned = (copy / notebook.relative_to(ROOT)).read_text(encoding="utf-8")
        assert cleaned == notebook.read_text(encoding="utf-8"), notebook.name


def test_readme_is_the_index(copy: Path):
    done = run(sys.executable, "tools/make_readme.py", cwd=copy)
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
    assert f"Running time: {recorded['cpu']:.0f} s on {recorded['cores']} CPU cores" in first, "run: make notebooks"
    assert ("on one GPU" in first) == ("gpu" in recorded) and "not measured" not in first
    assert "You will be able to" in first and "Needed: " in first


def with_addresses(lesson: Path, published: str) -> nbformat.NotebookNode:
    given = addresses.settings() | dict(published=published)
    return addresses.with_addresses(nbformat.read(lesson, as_version=4), lesson.relative_to(ROOT).as_posix(), given)


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_addresses_are_those_of_the_settings(lesson: Path):
    """A lesson has its badge and the hidden cell where the repository is public, and neither where it is not; made
    again they are the same."""
    committed = nbformat.read(lesson, as_version=4)
    given = addresses.settings()
    assert with_addresses(lesson, given["published"]) == committed, "run: make export"
    address = f"blob/main/{lesson.relative_to(ROOT).as_posix()})"
    for published, count in (("yes", 1), ("no", 0)):
        made = with_addresses(lesson, published)
        assert made.cells[0].source.count("colab-badge.svg") == made.cells[0].source.count(address) == count
        assert sum("google.colab" in cell.source for cell in made.cells) == count
    assert len({cell.id for cell in with_addresses(lesson, "yes").cells}) == len(with_addresses(lesson, "yes").cells)


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_a_public_lesson_sets_colab_up(lesson: Path, monkeypatch: pytest.MonkeyPatch):
    """With a stand-in for google.colab the hidden cell fetches this version and installs what the lessons import;
    without, it does nothing."""
    settings = addresses.settings()
    code = [cell.source for cell in with_addresses(lesson, "yes").cells if cell.cell_type == "code"]
    shell, asked = InteractiveShell(), []
    monkeypatch.setattr(shell, "system", lambda command: asked.append(command))
    monkeypatch.setattr(shell, "run_line_magic", lambda name, line, **_: asked.append(f"%{name} {line}"))
    monkeypatch.setattr("IPython.core.interactiveshell.InteractiveShell._instance", None)
    shell.run_cell(code[0]).raise_error()
    assert asked == []
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    shell.run_cell(code[0]).raise_error()
    clone, install, move = asked
    assert f"--branch v{settings['version']} {settings['git_url']} /content/maskgit_nb" in clone
    folder = lesson.parent.relative_to(ROOT).as_posix()
    assert install == ('%pip install --quiet '
                       '"/content/maskgit_nb[colab]"') and move == f"%cd -q /content/maskgit_nb/{folder}"
    outside = {"torch", "torchvision", "matplotlib", "numpy", "scipy", "PIL", "accelerate", "tqdm", "safetensors",
               "pytorch_fid", "ipywidgets", "IPython", "traitlets"}
    known = {"fastcore": "fastcore", "skimage": "scikit-image", "anywidget": "anywidget",
             "cv2": "opencv-python-headless"}
    imported = {name
                for name in re.findall(r"^(?:from|import) (\w+)", "\n".join(code),
                                       re.M)} - set(sys.stdlib_module_names) - outside - {"maskgit_nb"}
    extras = settings["colab_requirements"]
    assert all(known.get(name, name) in extras for name in imported), imported
