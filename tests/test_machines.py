"""On other systems: every text is read and written as UTF-8, and a few commands run where the system offers as little
as Windows or macOS."""
import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import SIZE, tiny_maskgit
from IPython.core.inputtransformer2 import TransformerManager
from PIL import Image

from maskgit_nb.cats import drawn_cats
from maskgit_nb.data import load_image
from maskgit_nb.images import random_holes, to_picture
from maskgit_nb.training import RunLog

ROOT = Path(__file__).parents[1]
NOTEBOOKS = [*sorted((ROOT / "nbs").glob("*.ipynb")), *sorted((ROOT / "nbs" / "appendix").glob("*.ipynb"))]
FOLDERS = (".", "tests", "benchmarks", "tools", "tools/site", "tools/drawings")
SCRIPTS = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.py"))]


def code(path: Path) -> str:
    "The Python in a script or notebook."
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py": return text
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return "\n".join(TransformerManager().transform_cell("".join(cell["source"])) for cell in cells)


def without_encoding(source: str) -> Iterator[str]:
    "Calls that open a text file in whatever encoding the system prefers."
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        method, words = isinstance(call.func, ast.Attribute), {word.arg: word.value for word in call.keywords}
        name, owner = (call.func.attr, ast.unparse(call.func.value)) if method else (ast.unparse(call.func), "")
        if "encoding" in words or owner in ("Image", "os", "tarfile", "gzip"): continue
        mode = words.get("mode", next(iter(call.args[0 if method else 1:]), ast.Constant("r")))
        if name == "open" and "b" not in ast.literal_eval(mode): yield ast.unparse(call)
        if name in ("read_text", "write_text") or (name == "read" and call.args and "settings" in ast.unparse(call)):
            yield ast.unparse(call)


@pytest.mark.parametrize("path", NOTEBOOKS + SCRIPTS, ids=lambda path: path.name)
def test_text_is_utf8_on_every_system(path: Path):
    assert not list(without_encoding(code(path)))


def test_calls_without_encoding_are_found():
    bad = ["open('a')", "open('a', 'w')", "path.open()", "path.open('a')", "path.open(mode='w')", "path.read_text()",
           "path.write_text('é')"]
    good = ["open('a', encoding='utf-8')", "open('a', 'rb')", "path.open('wb')", "Image.open('a')",
            "path.read_text(encoding='utf-8')", "path.read_bytes()"]
    assert list(without_encoding("\n".join(bad + good))) == bad


# What Python imports by itself, in worker processes too, to make this system poorer.
MACOS = """
import multiprocessing
multiprocessing.set_start_method("spawn", force=True)
"""
WINDOWS = MACOS + """
import builtins, functools, io, os, signal, sys
for name in ("fork", "symlink", "posix_fallocate"): delattr(os, name)
for name in ("SIGKILL", "SIGHUP"): delattr(signal, name)
sys.modules["fcntl"] = None

def in_cp1252(file, mode="r", buffering=-1, encoding=None, *others, _open=io.open, **options):
    if "b" not in mode and encoding in (None, "locale"): encoding = "cp1252"
    return _open(file, mode, buffering, encoding, *others, **options)
builtins.open = io.open = in_cp1252

def in_use():
    "The files that this process has open or mapped: Windows neither renames nor removes them."
    with io.open("/proc/self/maps", encoding="utf-8") as maps:
        found = {line.split(maxsplit=5)[-1].strip() for line in maps}
    for number in os.listdir("/proc/self/fd"):
        try: found.add(os.readlink(f"/proc/self/fd/{number}"))
        except OSError: pass
    return found

def refusing(change):
    @functools.wraps(change)
    def changed(*paths, **options):
        for path in paths:
            path = os.path.realpath(path)
            busy = [other for other in in_use() if other == path or other.startswith(path + os.sep)]
            if busy and not options: raise PermissionError(13, f"{busy[0]} is in use", path)
        return change(*paths, **options)
    return changed
for name in ("replace", "rename", "remove", "unlink"): setattr(os, name, refusing(getattr(os, name)))
"""
SCRIPT = """
from pathlib import Path
import torch
from maskgit_nb.cli import main
from maskgit_nb.data import ImageFolder
from maskgit_nb.inpainting import MaskGIT
from maskgit_nb.stages import VQGANLoss, fit_maskgit, fit_vqgan
from maskgit_nb.training import TrainConfig

if __name__ == "__main__":  # workers that are spawned import this file
    torch.set_num_threads(1)
    inpaint = ["--device", "cpu", "inpaint", "cats", "--hole", "holes", "--weights", "weights", "--out", "mended",
               "--steps", "2"]
    assert main(inpaint) == 0 == main(inpaint)  # the second time over the files of the first
    cats, model = ImageFolder("cats", 16), MaskGIT.from_pretrained("weights")
    (levels, faults), = cats.decode(workers=2)
    assert not any(faults) and torch.equal(levels / 127.5 - 1, torch.stack(list(cats)))
    for steps in (2, 4):  # the second time from the checkpoint
        config = TrainConfig(steps=steps, batch_size=2, save_every=1, keep=1, progress=False, tracker="none")
        fit_vqgan(model.vqgan, cats, "vqgan", config, VQGANLoss(adversarial_start=1), device="cpu")
    fit_maskgit(model, cats, "run", config, device="cpu")
    fit_maskgit(model, cats, "run", config, resume=False, device="cpu")
    model = MaskGIT.from_pretrained("run")
    assert model.inpaint(torch.stack(list(cats)), torch.ones(6, 1, 16, 16) > 0).images.isfinite().all()
"""


@pytest.mark.parametrize("system", [WINDOWS, MACOS], ids=["windows", "macos"])
def test_mends_and_trains_where_the_system_offers_less(system: str, tmp_path: Path):
    names = [f"cat {i}.png" for i in range(3)] + ["Kätzchen.PNG", "猫.png", "кот.png"]
    tiny_maskgit().save_pretrained(tmp_path / "weights")
    for folder in ("cats", "holes"): (tmp_path / folder).mkdir()
    for name, cat, hole in zip(names, drawn_cats(6, size=SIZE), random_holes(6, SIZE, torch.Generator().manual_seed(0)),
                               strict=True):
        to_picture(cat).save(tmp_path / "cats" / name)
        Image.fromarray((~hole[0]).numpy()).save(tmp_path / "holes" / Path(name).with_suffix(".png"))
    (tmp_path / "sitecustomize.py").write_text(system, encoding="utf-8")
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    environment = os.environ | dict(PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]), PYTHONIOENCODING="cp1252",
                                    OMP_NUM_THREADS="1")
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True,
                          timeout=300)
    assert done.returncode == 0, done.stderr.decode("cp1252")[-4000:]
    mended = sorted(path.name for path in (tmp_path / "mended").iterdir())
    assert mended == sorted(Path(name).with_suffix(".png").name for name in names)
    for name in names:
        assert not torch.equal(load_image(tmp_path / "mended" / Path(name).with_suffix(".png")),
                               load_image(tmp_path / "cats" / name))
    for folder in ("vqgan", "run"): assert max(row["step"] for row in RunLog.read(tmp_path / folder)) == 4
