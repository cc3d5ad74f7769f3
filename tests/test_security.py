"""What SECURITY.md says, where no other file tests it; what is loaded at the start; the versions that CI installs."""
import ast
import hashlib
import io
import os
import pickle
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import SIZE
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from maskgit_nb.cli import main
from maskgit_nb.data import open_images
from maskgit_nb.fid import hub_weights
from maskgit_nb.scores import markdown_table
from maskgit_nb.training import _load_state

ROOT = Path(__file__).parents[1]
CODE = [path for folder in ("maskgit_nb", "tools", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
LOCKS = sorted((ROOT / "tools" / "lock").glob("python*.txt"))


class Bomb:
    "A pickle that leaves a file when it is loaded by code that runs it."
    def __init__(self, trace: Path): self.trace = trace
    def __reduce__(self): return Path.touch, (self.trace,)


# No code from files

def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]


def test_no_pickle_is_loaded_as_one():
    for call in (call for path in CODE for call in calls(path)):
        name, options = ast.unparse(call.func), {word.arg: ast.unparse(word.value) for word in call.keywords}
        if name in ("torch.load", "torch.hub.load_state_dict_from_url"): assert options.get("weights_only") == "True"
        assert not re.fullmatch(r"(pickle|joblib|dill|marshal|shelve)\.\w+", name), name
        assert "allow_pickle" not in options and name not in ("eval", "os.system", "torch.hub.load")
        assert options.get("shell", "False") == "False"


def test_weights_in_torchs_hub_run_no_code_and_have_their_digest(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    data = io.BytesIO()
    torch.save(dict(x=torch.ones(2)), data)
    digest = hashlib.sha256(data.getvalue()).hexdigest()
    def opened(name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        with hub_weights((tmp_path / name).as_uri(), "1 kB"): pass
    opened(f"whole-{digest[:8]}.pth", data.getvalue())
    with pytest.raises(ValueError, match="another file by that name"): opened("other-12345678.pth", data.getvalue())
    bomb = pickle.dumps(Bomb(tmp_path / "trace"))
    with pytest.raises(ValueError, match="damaged"): opened(f"bomb-{hashlib.sha256(bomb).hexdigest()[:8]}.pth", bomb)
    assert not (tmp_path / "trace").exists()


def test_a_process_without_a_random_state_says_so(tmp_path, capsys):
    loaded = []
    accelerator = SimpleNamespace(process_index=1, load_state=loaded.append)
    _load_state(accelerator, tmp_path)
    assert loaded == [str(tmp_path)] and "fewer processes" in capsys.readouterr().err
    accelerator.process_index = 0
    with pytest.raises(FileNotFoundError): _load_state(accelerator, tmp_path)
    assert len(loaded) == 1


# Names are no commands and no addresses

@pytest.mark.parametrize("scheme", ["pipe", "http", "https", "ftp", "gs", "s3", "hf", "ais", "htgs", "file"])
def test_shards_are_no_addresses(scheme, capsys, tmp_path):
    name = f"{scheme}:touch {tmp_path}/trace; cat {tmp_path}/x.tar"
    assert main(["--device", "cpu", "train-vqgan", "--data", name, "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "must be files" in said and scheme in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["x::pipe:{}", "{{pipe:{},y}}.tar", "x/pipe:{}", "-{}", "|{}", "pipe:{}"])
def test_a_name_of_data_runs_nothing(form, tmp_path, monkeypatch):
    pytest.importorskip("webdataset", reason="webdataset is not installed")
    monkeypatch.chdir(tmp_path)
    for end in ("", ".tar"):
        with pytest.raises((OSError, ValueError)):
            next(open_images(form.format("touch trace; cat x") + end, SIZE).batches(2))
        assert not list(tmp_path.iterdir())


# Downloads

def test_what_is_downloaded_is_known():
    "Each place that fetches; one more needs a look, and a digest."
    fetching = r"\b(urlopen|urlretrieve|load_state_dict_from_url|snapshot_download|hf_hub_download|dataset_download)\("
    found = {f"{path.stem} {name}" for path in CODE for name in re.findall(fetching, path.read_text(encoding="utf-8"))}
    assert found == {"live_page urlopen", "files snapshot_download", "data dataset_download",
                     "fid load_state_dict_from_url"}


def test_another_runtime_is_refused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import live_page
    monkeypatch.setattr(live_page, "CACHE", tmp_path)
    monkeypatch.setattr(live_page.urllib.request, "urlopen", lambda *given, **named: io.BytesIO(b"another"))
    with pytest.raises(OSError, match="SHA-512 differs"): live_page.runtime()
    assert not list(tmp_path.iterdir())


# Pages

def test_a_table_holds_no_html():
    name = "<img src=x onerror=alert(1)>|"
    table = markdown_table({name: {name: name}, "whole": {name: 1}}, first=name)
    assert "<" not in table and [line.replace("\\|", "").count("|") for line in table.splitlines()] == [3] * 4


# JupyterLab

SERVER = """
import sys
from jupyter_server.serverapp import ServerApp
app = ServerApp()
app.parse_command_line(sys.argv[1:])
app.init_configurables()
print(app.ip, app.allow_origin == "" and not app.allow_remote_access, len(app.identity_provider.token))
"""


def test_make_lab_listens_to_this_machine_and_asks_for_a_token(tmp_path):
    shown = subprocess.run(["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    line = next(line for line in shown.splitlines() if "/jupyter lab" in line)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTER")}
    clean |= {name: str(tmp_path) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR")}
    said = subprocess.run([sys.executable, "-W", "ignore", "-c", SERVER, *line.split("/jupyter lab")[1].split()[:-1]],
                          env=clean | {"JUPYTER_NO_CONFIG": "1"}, capture_output=True, text=True, cwd=ROOT)
    assert said.stdout.split() == ["localhost", "True", "48"], said.stderr


# The start

START = """
import sys, maskgit_nb
def told(*names): print(*(name for name in names if name in sys.modules), file=sys.stderr)
told("torch", "numpy")
from maskgit_nb import MaskGIT
told("accelerate", *HEAVY)
from maskgit_nb.cli import main
codes = [main(["--help"]), main(["inpaint", "--nope"]), main(["info"])]
told(*HEAVY)
sys.exit(codes != [0, 2, 0])
"""
HEAVY = ["torch._dynamo", "sympy", "scipy", "torchvision", "matplotlib", "huggingface_hub", "skimage", "sklearn", "cv2",
         "pandas", "requests", "pytorch_fid", "webdataset", "kagglehub", "onnx", "onnxscript", "onnxruntime", "IPython",
         "ipywidgets", "anywidget", "jupyterlab", "nbdev", "fastcore", "tensorboard"]


def test_nothing_heavy_is_loaded_at_the_start():
    done = subprocess.run([sys.executable, "-c", f"HEAVY = {HEAVY}\n{START}"], capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("maskgit-nb inpaint: ")]
    assert done.returncode == 0 and lines == ["", "", ""], done.stderr
    assert "weights cats64-small" in done.stdout


# The versions that CI installs

def settings() -> dict[str, str]:
    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


def required() -> list[Requirement]:
    "What `.[dev]` asks for, as settings.ini says it and setup.py puts it together."
    tested = re.search(r"^tested = (.*)$", (ROOT / "setup.py").read_text(encoding="utf-8"), re.M)[1]
    names = ["requirements", "dev_requirements", *(f"{name}_requirements" for name in ast.literal_eval(tested))]
    return [Requirement(text) for name in names for text in settings()[name].split()]


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_the_versions_for_ci_are_those_that_the_settings_allow(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    pins = dict(re.fullmatch(r"([\w.-]+)==([\w.]+)", line).groups() for line in lines)  # no address, no torch for CUDA
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    version = path.stem.removeprefix("python")
    asked = [one for one in required() if not one.marker or one.marker.evaluate({"python_version": version})]
    assert len(asked) > 30
    for one in asked: assert one.specifier.contains(pins[canonicalize_name(one.name)], prereleases=True), one
    assert not [name for name in pins if name.startswith(("nvidia", "cuda", "triton"))]


@pytest.mark.parametrize("version", ["3.11", "3.9999"])
def test_make_takes_the_versions_of_its_python(version, tmp_path):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho {version}\n", encoding="utf-8")
    python.chmod(0o755)
    for options, locked in (([], version == "3.11"), (["LOCK="], False)):
        shown = subprocess.run(["make", "-n", "-W", "settings.ini", ".venv/ready", f"PYTHON={python}", *options],
                               cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert ("--constraint tools/lock/python3.11.txt" in shown) == locked == ("--constraint" in shown)


# SECURITY.md

def test_every_claim_has_a_test():
    said = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    claims = re.findall(r"^- \*\*(.+?)\.\*\*", said, re.M)
    table = (ROOT / "tests" / "README.md").read_text(encoding="utf-8").split("## Security\n")[1].split("\n## ")[0]
    rows = [re.split(r" *\| *", line.strip("| ")) for line in table.splitlines() if line.startswith("| ")][1:]
    assert list(dict.fromkeys(row[0] for row in rows)) == claims and len(claims) > 7
    for row in rows:
        assert re.fullmatch(r"(`test_\w+\.py::test_\w+`(, )?)+", row[-1]), row
        for file, name in re.findall(r"`(test_\w+\.py)::(test_\w+)`", row[-1]):
            assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), (file, name)
    assert f"{settings()['git_url']}/security/advisories/new" in said
