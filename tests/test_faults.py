"""Full disks, signals, weights that are no numbers, folders that cannot be written to. What goes wrong is said in one
line that names the file; old files stay whole, nothing is left over, and the same command again ends as an undisturbed
one. With MASKGIT_NB_SOAK=1 every page of the disk and twenty moments of every command are tried."""
import contextlib
import ctypes
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SIZE, tiny_maskgit
from PIL import Image
from safetensors.torch import load_file

from maskgit_nb.cats import drawn_cats
from maskgit_nb.cli import main
from maskgit_nb.data import ImageFolder, fingerprint, write_shards
from maskgit_nb.files import append_row, read_rows, writing_to
from maskgit_nb.images import random_holes, to_picture
from maskgit_nb.inpainting import MaskGIT
from maskgit_nb.stages import fit_maskgit
from maskgit_nb.training import TrainConfig, find_checkpoints

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs signals and file systems of Linux")
SOAK, ROOT, PAGE = bool(os.environ.get("MASKGIT_NB_SOAK")), Path(__file__).parents[1], 4096
CATS = 6


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    "Weights, pictures and masks, for commands that run in this folder."
    folder = tmp_path_factory.mktemp("home")
    tiny_maskgit().save_pretrained(folder / "weights")
    for name in ("cats", "holes"): (folder / name).mkdir()
    for i, (cat, hole) in enumerate(zip(drawn_cats(CATS, size=SIZE),
                                        random_holes(CATS, SIZE, torch.Generator().manual_seed(0)), strict=True)):
        to_picture(cat).save(folder / "cats" / f"{i}.png")
        Image.fromarray((~hole[0]).numpy()).save(folder / "holes" / f"{i}.png")
    shutil.copy(ROOT / "tests" / "lab" / "VQGAN.pt", folder)
    return folder


TRAINING = ("--init weights --data cats --val drawn:2 --steps 4 --batch-size 2 --warmup 1 --log-every 1 "
            "--validate-every 2 --save-every 2 --tracker none")
COMMANDS = {
    "inpaint": "inpaint cats --hole holes --weights weights --steps 2 --batch-size 2 --frames",
    "train": f"train --vqgan weights {TRAINING}",
    "train-vqgan": f"train-vqgan {TRAINING} --rfd none --adversarial-start 1",
    "experiment": "experiment steps --weights weights --images 4 --runs 1 --network random",
    "convert": "convert VQGAN.pt",
    "generate": "generate --n 5 --batch-size 2 --steps 2 --weights weights",
    "demo": "demo --steps 2 --weights weights",
    "export": "export weights"}


def called(command: str, out: str, home: str, log: str) -> None:
    "A command line in a process of its own, what it says in the file `log`."
    torch.set_num_threads(1)
    os.environ.pop("MASKGIT_NB_DATA", None)
    os.chdir(home)
    with open(log, "w", encoding="utf-8", buffering=1) as file:
        sys.stdout = sys.stderr = file
        code = main(["--device", "cpu", *command.split(), "--out", out])
    os._exit(code)


class Commands:
    "Runs commands in `home`, with `out` as their folder."
    def __init__(self, processes, home: Path, out: Path, log: Path):
        self.processes, self.home, self.out, self.log = processes, home, out, log

    def start(self, command: str):
        process = self.processes.Process(target=called, args=(command, str(self.out), str(self.home), str(self.log)))
        process.start()
        return process

    def run(self, command: str) -> int:
        process = self.start(command)
        process.join(120)
        return process.exitcode

    def sentence(self) -> str:
        "The one line that the command had to say of what went wrong."
        text = self.log.read_text(encoding="utf-8")
        lines = [line for line in text.split("\n") if "maskgit-nb: " in line and "is not set" not in line]
        said = [line.split("\r")[-1] for line in lines]
        assert len(said) == 1 and "Traceback" not in text, text[-3000:]
        return said[0][said[0].index("maskgit-nb: "):]


def plain(value) -> dict | float | str:
    "A row without what another run has otherwise: times, and the command with its folder."
    if not isinstance(value, dict): return value
    return {name: plain(item) for name, item in value.items()
            if "second" not in name and name not in ("date", "command")}


def result(path: Path):
    "What a file holds, without times and the order of a header; of long ones a fingerprint."
    if path.suffix == ".safetensors": return fingerprint(load_file(path))
    if path.suffix == ".jsonl": return [plain(row) for row in read_rows(path)]
    if path.suffix == ".html": return len(path.read_text(encoding="utf-8").splitlines())
    return hashlib.sha256(path.read_bytes()).hexdigest()


def results(out: Path) -> dict:
    """All files that a command made but for its lock, its list of starts and the states within checkpoints, which hold
    no answers; names of whole checkpoints count."""
    folders = [out, out.with_name(out.name + "-frames")]
    files = {path: str(path.relative_to(out.parent)) for folder in folders for path in folder.rglob("*")}
    return {name: result(path) if "checkpoint" not in name else None for path, name in files.items()
            if path.is_file() and path.name not in (".lock", "runs.jsonl")}


def left_over(out: Path) -> list[str]:
    return [str(path) for path in out.parent.rglob("*")
            if "partial" in path.name or path.name.startswith((".export", ".shards", ".tmp")) or ".float." in path.name]


# --- a full disk

@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    "A file system of 32 MB of its own, of which `leave` leaves so many bytes."
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode: pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def free(disk: Path) -> int:
    return shutil.disk_usage(disk).free


def leave(disk: Path, left: int) -> None:
    with open(disk / "ballast", "wb") as file: os.posix_fallocate(file.fileno(), 0, free(disk) - left)


def wipe(disk: Path) -> None:
    for path in disk.iterdir(): shutil.rmtree(path) if path.is_dir() else path.unlink()


CHEAP = ["inpaint", "train", "train-vqgan", "experiment"]


@pytest.mark.parametrize("name", COMMANDS if SOAK else CHEAP)
def test_a_full_disk_is_named_and_the_same_command_ends_right_with_space(processes, home, disk, tmp_path, name):
    wipe(disk)
    commands, command = Commands(processes, home, disk / "out", tmp_path / "log"), COMMANDS[name]
    before = free(disk)
    assert commands.run(command) == 0, commands.log.read_text(encoding="utf-8")
    used, whole = (before - free(disk)) // PAGE, results(disk / "out")
    steps = sorted({page for page in range(0, used, max(1, used // 60))}) if SOAK else [used // 3, used - 1]
    for pages in steps:
        wipe(disk)
        leave(disk, pages * PAGE)
        assert commands.run(command) == 1, f"{pages} pages: {commands.log.read_text(encoding='utf-8')[-3000:]}"
        said = commands.sentence()
        assert "No space left on device" in said and str(disk / "out") in said, said
        assert left_over(disk / "out") == []
        for file, held in results(disk / "out").items():  # whole, or a table or log with the first of its rows
            if file.endswith((".png", ".json", ".npy", ".onnx")): assert held == whole[file], file
            if file.endswith("log.jsonl"): assert held == whole[file][:len(held)]
        (disk / "ballast").unlink()
        assert commands.run(command) == 0, commands.log.read_text(encoding="utf-8")
        assert results(disk / "out") == whole


def test_old_files_stay_whole_on_a_full_disk(processes, home, disk, tmp_path):
    wipe(disk)
    commands = Commands(processes, home, disk / "out", tmp_path / "log")
    assert commands.run(COMMANDS["inpaint"]) == 0
    whole = results(disk / "out")
    leave(disk, 0)
    assert commands.run(COMMANDS["inpaint"] + " --seed 1") == 1
    assert results(disk / "out") == whole and left_over(disk / "out") == []


def test_shards_are_whole_or_absent(home, disk):
    pytest.importorskip("webdataset")
    wipe(disk)
    cats = ImageFolder(home / "cats", SIZE)
    leave(disk, 4 * PAGE)  # of five shards of 10 kB
    with pytest.raises(OSError, match=r"cannot write .*shards: No space left"): write_shards(cats, disk / "shards", 1)
    assert list((disk / "shards").iterdir()) == []
    (disk / "ballast").unlink()
    assert len(write_shards(cats, disk / "shards", 1)) == CATS and len(list((disk / "shards").iterdir())) == CATS


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PermissionError(13, "No access"),
                                   RuntimeError("unexpected pos 64 vs 0")], ids=lambda error: type(error).__name__)
def test_what_cannot_be_written_is_named(tmp_path, error):
    with pytest.raises(OSError, match=f"^cannot write {tmp_path}/absent/a.txt: ") as caught, \
         writing_to(tmp_path / "absent" / "a.txt"):
        raise error
    assert type(caught.value) is (type(error) if isinstance(error, OSError) else OSError)


# --- signals

def until(condition: Callable) -> None:
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end: time.sleep(0.001)
    assert condition()


LONGER = {"inpaint": "inpaint cats --hole holes --weights weights --steps 8 --batch-size 1 --frames",
          "train": COMMANDS["train"].replace("--steps 4", "--steps 40"),
          "experiment": COMMANDS["experiment"]}


def signalled(commands: Commands, command: str, sent: int, wait: float = 0.0) -> int:
    "The exit code of a command to which a signal was sent so many seconds after it had written its first file."
    def written() -> set:
        found = set()
        with contextlib.suppress(FileNotFoundError):  # a partial file, or folder, goes as it is looked at
            for path in commands.out.rglob("*.*"): found.add((path, path.stat().st_ino))
        return found
    before, process = written(), commands.start(command)
    until(lambda: process.exitcode is not None or written() - before)
    if process.exitcode is not None: return process.exitcode
    time.sleep(wait)
    with contextlib.suppress(ProcessLookupError): os.kill(process.pid, sent)  # it may be done by then
    process.join(120)
    return process.exitcode


def newest_alone(found: dict) -> dict:
    "Without older checkpoints, which are those of where a run was stopped."
    steps = [Path(name).parent.name for name in found if "checkpoint-" in name]
    return {name: held for name, held in found.items() if "checkpoint-" not in name or max(steps) in name}


@pytest.mark.parametrize("name", LONGER)
def test_a_command_that_is_stopped_says_so_and_ends_right_the_next_time(processes, home, tmp_path, name):
    whole = Commands(processes, home, tmp_path / "whole", tmp_path / "log")
    assert whole.run(LONGER[name]) == 0
    expected = {file.replace("whole", "out"): held for file, held in results(whole.out).items()}
    commands, moments = Commands(processes, home, tmp_path / "out", tmp_path / "log"), random.Random(0)
    codes = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}
    for sent in [*codes] * (20 if SOAK else 1):
        old = left_over(commands.out)  # of a killed process, which nobody can clear
        code = signalled(commands, LONGER[name], sent, moments.uniform(0, 0.5) if SOAK else 0.05)
        if code == 0: continue  # it was done before
        assert code == codes[sent]
        if sent != signal.SIGKILL: assert "stopped" in commands.sentence() and {*left_over(commands.out)} <= {*old}
    assert commands.run(LONGER[name]) == 0
    for path in commands.out.parent.rglob(".*.partial"): path.unlink()
    assert newest_alone(results(commands.out)) == newest_alone(expected)


# --- weights and losses that are no numbers

def diverging(maskgit: MaskGIT, out: Path, at: int, **changes) -> None:
    "A second stage whose gradient is no number at step `at`."
    steps = 0
    def spoil(module, into, out) -> tuple:
        nonlocal steps
        steps += 1
        return tuple(gradient * torch.nan for gradient in into) if steps == at else into
    maskgit.transformer.norm.register_full_backward_hook(spoil)
    config = replace(TrainConfig(steps=6, batch_size=2, log_every=1, save_every=1, keep=1, progress=False,
                                 tracker="none"), **changes)
    fit_maskgit(maskgit, drawn_cats(4, size=SIZE), out, config, val=drawn_cats(2, size=SIZE), device="cpu")


def test_weights_that_are_no_numbers_are_never_saved(make_maskgit, tmp_path):
    with pytest.raises(FloatingPointError, match="a weight is no finite number after step 3: lower lr"):
        diverging(make_maskgit(), tmp_path, at=3)
    last, = find_checkpoints(tmp_path)
    assert last.name == "checkpoint-00000002"
    assert all(x.isfinite().all() for x in load_file(last / "model.safetensors").values())


def test_a_diverged_run_says_so_before_it_validates(make_maskgit, tmp_path):
    with pytest.raises(FloatingPointError, match="loss is nan at step 4"):
        diverging(make_maskgit(), tmp_path, at=2, log_every=6, save_every=6, validate_every=4)
    assert not (tmp_path / "best").exists() and not (tmp_path / "samples").exists()


# --- folders that cannot be written to

def read_only(commands: list[str], home: str, places: list[str], log: str) -> None:
    "Commands in a process to which `places` are read-only, even if it is root's; their codes and words in `log`."
    def mount(*options: str) -> bool: return subprocess.run(["mount", *options], capture_output=True).returncode == 0
    allowed = ctypes.CDLL(None).unshare(0x20000) == 0 and mount("--make-rprivate", "/")  # mounts of its own
    allowed = allowed and all(mount("--bind", place, place) and mount("-o", "remount,bind,ro", place)
                              for place in places)
    os.environ |= dict(HOME=places[0])
    os.environ.pop("MASKGIT_NB_DATA", None)
    os.chdir(places[-1])
    rows = []
    with open(log, "w", encoding="utf-8") as file:
        sys.stdout = sys.stderr = file
        for command in commands if allowed else ():
            file.truncate(file.seek(0))
            code = main(["--device", "cpu", *command.format(home=home).split()])
            file.flush()
            rows.append(dict(command=command, code=code, said=Path(log).read_text(encoding="utf-8")))
    Path(log).write_text(json.dumps(rows), encoding="utf-8")


FINE = ["info {home}/weights", "inpaint {home}/cats --hole {home}/holes --weights {home}/weights --out {home}/mended",
        "generate --n 2 --steps 2 --weights {home}/weights --out {home}/made",
        "demo --steps 2 --weights {home}/weights --out {home}/demo"]
REFUSED = ["inpaint {home}/cats --hole {home}/holes --weights {home}/weights --out mended",
           "generate --n 2 --weights {home}/weights --out made", "demo --weights {home}/weights",
           "train --vqgan {home}/weights --data drawn:4 --out run",
           "experiment steps --images 2 --network random --weights {home}/weights"]


def test_a_read_only_checkout_and_home_are_no_obstacle_or_are_named(processes, home, tmp_path):
    (tmp_path / "home").mkdir()
    places, log = [str(tmp_path / "home"), str(ROOT)], tmp_path / "log"
    process = processes.Process(target=read_only, args=(FINE + REFUSED, str(home), places, str(log)))
    process.start()
    process.join(120)
    rows = json.loads(log.read_text(encoding="utf-8"))
    if not rows: pytest.skip("no read-only folder can be made here: needs root")
    for row in rows:
        assert row["code"] == (0 if row["command"] in FINE else 1), row
        if row["command"] in FINE: continue
        said, = [line for line in row["said"].splitlines() if "is not set" not in line]
        assert said.startswith("maskgit-nb: cannot write to ") or said.startswith("maskgit-nb: cannot write "), said
        assert said.endswith("Read-only file system"), said


def test_a_table_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot write .*file/rows.jsonl: "):
        append_row(tmp_path / "file" / "rows.jsonl", dict(a=1))


# --- a notebook whose kernel is killed

CELL = """
import sys; sys.path.insert(0, {tests!r})
from conftest import SIZE, tiny_maskgit
from maskgit_nb.cats import drawn_cats
from maskgit_nb.stages import fit_maskgit
from maskgit_nb.training import TrainConfig
config = TrainConfig(steps={steps}, batch_size=2, log_every=1, save_every=2, progress=False, tracker="none")
print(len([row for row in fit_maskgit(tiny_maskgit(), drawn_cats(4, size=SIZE), {out!r}, config, device="cpu")]))
"""


@pytest.mark.skipif(not SOAK, reason="takes half a minute: MASKGIT_NB_SOAK=1")
def test_a_killed_kernel_is_no_obstacle_to_the_same_cell(tmp_path):
    manager = pytest.importorskip("jupyter_client").KernelManager()
    manager.start_kernel(env=os.environ | dict(PYTHONPATH=str(ROOT)))
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(60)
    def cell(steps: int) -> str:
        return CELL.format(tests=str(ROOT / "tests"), out=str(tmp_path / "run"), steps=steps)
    client.execute(cell(100_000))
    end = time.monotonic() + 120
    while not find_checkpoints(tmp_path / "run") and time.monotonic() < end: time.sleep(0.1)
    last = int(find_checkpoints(tmp_path / "run")[-1].name.split("-")[1])
    manager.restart_kernel(now=True)  # killed
    client.wait_for_ready(60)
    reply = client.execute_interactive(cell(last + 20), timeout=120, output_hook=lambda message: None)
    assert reply["content"]["status"] == "ok"
    assert find_checkpoints(tmp_path / "run")[-1].name == f"checkpoint-{last + 20:08d}"
    client.stop_channels()
    manager.shutdown_kernel(now=True)
