"""Training in processes of their own: two give the losses of one, and a run that is killed goes on as if it had not
been. Two that mend or measure give what one gives."""
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType
from conftest import CODES, GRID, SIZE, in_double, tiny_maskgit
from PIL import Image
from safetensors.torch import load_file

from maskgit_nb.cats import drawn_cats
from maskgit_nb.cli import main
from maskgit_nb.images import to_picture
from maskgit_nb.inpainting import MaskGIT
from maskgit_nb.stages import fit_maskgit, fit_vqgan
from maskgit_nb.training import RunLog, TrainConfig, find_checkpoints, make_accelerator
from maskgit_nb.transformer import BidirectionalTransformer, TransformerConfig

CONFIG = TrainConfig(steps=60, batch_size=8, lr=3e-3, warmup=4, ema=0.9, log_every=1, validate_every=10, save_every=2,
                     progress=False, tracker="none")
TWO = dict(steps=5, batch_size=4, lr=3e-3, warmup=4, log_every=1, save_every=3, validate_every=4)


def run_tiny(out: str, steps: int = CONFIG.steps) -> None:
    "A whole second stage on 16x16 pixels, in a process that may be killed."
    torch.set_num_threads(1)
    config = TrainConfig(**{**vars(CONFIG), "steps": steps})
    fit_maskgit(tiny_maskgit(), drawn_cats(24, size=SIZE), out, config, val=drawn_cats(4, seed=1, size=SIZE),
                device="cpu")


def launch(processes, out: Path, steps: int = CONFIG.steps) -> multiprocessing.Process:
    process = processes.Process(target=run_tiny, args=(str(out), steps))
    process.start()
    return process


def curve(out: Path) -> list[dict]:
    return [{name: value for name, value in row.items() if "second" not in name} for row in RunLog.read(out)]


def test_run_killed_ten_times_ends_as_an_undisturbed_one(processes, tmp_path):
    whole = launch(processes, tmp_path / "whole")
    whole.join()
    whole_files = {path.name for path in find_checkpoints(tmp_path / "whole")[-1].iterdir()}
    moments = random.Random(0)
    for target in sorted(moments.sample(range(1, CONFIG.steps - 10), 10)):
        process = launch(processes, tmp_path / "killed")
        while process.is_alive() and max((row["step"] for row in RunLog.read(tmp_path / "killed")), default=0) < target:
            time.sleep(0.002)
        time.sleep(moments.uniform(0.0, 0.05))  # anywhere in a step, in a validation or in the writing of a checkpoint
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        for checkpoint in find_checkpoints(tmp_path / "killed"):  # whole or absent
            assert {path.name for path in checkpoint.iterdir()} == whole_files
            torch.load(checkpoint / "optimizer.bin", weights_only=False)
    run_tiny(str(tmp_path / "killed"))
    for row, other in zip(curve(tmp_path / "killed"), curve(tmp_path / "whole"), strict=True):
        assert row == pytest.approx(other, abs=1e-6)
    weights = [load_file(tmp_path / name / "transformer.safetensors") for name in ("killed", "whole")]
    for name, value in weights[0].items(): torch.testing.assert_close(value, weights[1][name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_to_stop_saves_and_exits(processes, tmp_path, sent):
    process = launch(processes, tmp_path, steps=100_000)
    while not RunLog.read(tmp_path): time.sleep(0.02)
    os.kill(process.pid, sent)
    process.join(120)
    last = RunLog.read(tmp_path)[-1]["step"]
    assert process.exitcode == 1 and find_checkpoints(tmp_path)[-1].name == f"checkpoint-{last:08d}"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def assert_same_curve(one: Path, two: Path) -> None:
    "Computed in float64; several processes log in float32."
    for row, other in zip(curve(one), curve(two), strict=True):
        assert row == pytest.approx(other, rel=1e-6, abs=1e-7), json.dumps([row, other])


def as_one_of(environment: dict, function: Callable, *args) -> None:
    os.environ |= environment
    torch.set_num_threads(1)
    function(*args)


def start_on(processes, count: int, function: Callable, *args, **environment: str) -> list:
    "Calls `function` in so many processes at once, with the environment by which torchrun makes them one run."
    environment |= dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()), WORLD_SIZE=str(count),
                        LOCAL_WORLD_SIZE=str(count)) if count > 1 else {}
    ranks = [dict(RANK=str(i), LOCAL_RANK=str(i)) for i in range(count)] if count > 1 else [{}]
    started = [processes.Process(target=as_one_of, args=(environment | rank, function, *args)) for rank in ranks]
    for process in started: process.start()
    return started


def run_on(processes, count: int, function: Callable, *args, **environment: str) -> None:
    "As `start_on`, and waits until all have ended well."
    started = start_on(processes, count, function, *args, **environment)
    for process in started: process.join(300)
    for process in started: process.kill()
    assert [process.exitcode for process in started] == [0] * count


@in_double()
def fit_like_paper(out: str, fsdp: bool) -> None:
    "The second stage on a transformer built as the `paper` preset's, but small; called in each process."
    if fsdp:
        PartialState(cpu=True)
        # accelerate turns FSDP on for these only
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    torch.manual_seed(0)
    data, val = (torch.rand(n, 3, SIZE, SIZE) * 2 - 1 for n in (12, 2))
    shape = replace(TransformerConfig.preset("paper"), num_tokens=GRID**2, codebook_size=CODES, dim=32, layers=2,
                    heads=2, hidden=64, dropout=0.0)
    model = MaskGIT(tiny_maskgit().vqgan, BidirectionalTransformer(shape))
    accelerators = []
    def watched(*args) -> Accelerator:
        accelerators.append(make_accelerator(*args))
        return accelerators[-1]
    with patch("maskgit_nb.training.make_accelerator", watched):
        fit_maskgit(model, data, out, TrainConfig(**TWO, progress=False, tracker="none"), val=val, device="cpu")
    assert {accelerator.distributed_type
            for accelerator in accelerators} == {DistributedType.FSDP if fsdp else DistributedType.NO}
    if PartialState().is_main_process:
        assert torch.equal(MaskGIT.from_pretrained(out).generate(1).mask, model.generate(1).mask)


def test_fsdp_on_two_processes_gives_the_losses_of_one(processes, tmp_path):
    run_on(processes, 1, fit_like_paper, str(tmp_path / "one"), False)
    fsdp = dict(ACCELERATE_USE_FSDP="true", FSDP_VERSION="2", FSDP_AUTO_WRAP_POLICY="TRANSFORMER_BASED_WRAP",
                FSDP_TRANSFORMER_CLS_TO_WRAP="Block", FSDP_STATE_DICT_TYPE="FULL_STATE_DICT")
    run_on(processes, 2, fit_like_paper, str(tmp_path / "two"), True, **fsdp)
    assert_same_curve(tmp_path / "one", tmp_path / "two")


class Tracker:
    "A tracker of accelerate's kind that notes when it is finished."
    name = "own"

    def __init__(self): self.finished = 0
    def log(self, *args, **options) -> None: pass
    def finish(self) -> None: self.finished += 1


def fit_both_with_a_tracker(out: str) -> None:
    trackers = []
    def watched(*args) -> Accelerator:
        accelerator = make_accelerator(*args)
        trackers.append(Tracker())
        accelerator.log_with, accelerator.trackers = ["own"], trackers[-1:]
        accelerator.init_trackers = lambda name: None
        return accelerator
    model, data = tiny_maskgit(), drawn_cats(8, size=SIZE)
    config = TrainConfig(steps=1, batch_size=4, progress=False, tracker="none")
    with patch("maskgit_nb.training.make_accelerator", watched):
        fit_vqgan(model.vqgan, data, f"{out}/first", config, device="cpu")
        fit_maskgit(model, data, f"{out}/second", config, device="cpu")
    assert [tracker.finished for tracker in trackers] == [1, 1]


def test_a_tracker_that_ends_leaves_two_processes_together(processes, tmp_path):
    run_on(processes, 2, fit_both_with_a_tracker, str(tmp_path))
    assert (tmp_path / "second" / "transformer.safetensors").exists()


@in_double()
def command_line(*argv: str) -> None: sys.exit(main(list(argv)))


LIKEWISE = "import torch; torch.set_default_dtype(torch.float64); torch.Tensor.float = torch.Tensor.double"


def launch_two(folder: Path, *argv: str) -> None:
    "The command line on two processes as a user starts it; Python imports a sitecustomize by itself."
    (folder / "sitecustomize.py").write_text(LIKEWISE, encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1",
                   "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port())]
    done = subprocess.run([sys.executable, *launcher, "-m", "maskgit_nb.cli", *argv], capture_output=True, text=True,
                          timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


COMMANDS = [["train", "--preset", "tiny", "--accumulate", "2"],
            ["train-vqgan", "--preset", "tiny", "--adversarial-start", "1", "--rfd", "none"]]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_two_processes_give_the_losses_of_one(processes, tmp_path, command):
    options = [f"--{name.replace('_', '-')}={value}" for name, value in TWO.items()]
    for name, cats in dict(cats=drawn_cats(12), others=drawn_cats(2, seed=1)).items():
        (tmp_path / name).mkdir()
        for i, cat in enumerate(cats): to_picture(cat).save(tmp_path / name / f"{i:02d}.png")
    data = ["--data", str(tmp_path / "cats"), "--val", str(tmp_path / "others")]
    def run(name: str) -> list[str]:
        return ["--device", "cpu", *command, *data, "--out", str(tmp_path / name), *options]
    run_on(processes, 1, command_line, *run("one"))
    if command[0] == "train": launch_two(tmp_path, *run("two"))
    else: run_on(processes, 2, command_line, *run("two"))
    one, two = (curve(tmp_path / name) for name in ("one", "two"))
    for name in ("one", "two"):
        assert len((tmp_path / name / "runs.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    assert [row["step"] for row in one] == [row["step"] for row in two] and "loss" in one[0]
    assert_same_curve(tmp_path / "one", tmp_path / "two")


def test_when_one_of_two_processes_dies_the_other_ends_too(processes, tmp_path):
    started = start_on(processes, 2, run_tiny, str(tmp_path), 100_000)
    end = time.monotonic() + 120
    while not find_checkpoints(tmp_path) and time.monotonic() < end: time.sleep(0.02)
    started[1].kill()
    started[0].join(60)
    assert started[0].exitcode not in (None, 0)
    assert find_checkpoints(tmp_path) and not (tmp_path / "checkpoint.partial").exists()


# --- commands that share their work

def said(folder: Path, *argv: str) -> None:
    "A command line, its standard output in a file of `folder` for each process."
    name = folder / f"said-{os.environ.get('RANK', 'alone')}.txt"
    with open(name, "w", encoding="utf-8") as sys.stdout: code = main(["--device", "cpu", *argv])
    os._exit(code)


def test_two_processes_mend_and_measure_as_one(processes, tmp_path):
    tiny_maskgit().save_pretrained(tmp_path / "weights")
    for name, count in dict(cats=7, holes=7).items():
        (tmp_path / name).mkdir()
        for i in range(count):
            picture = to_picture(drawn_cats(7, size=SIZE)[i]) if name == "cats" else Image.new("L", (SIZE, SIZE), 255)
            if name == "holes": picture.paste(0, (2, 3, 9 + i, 12))
            picture.save(tmp_path / name / f"{i}.png")
    (tmp_path / "cats" / "3.png").write_bytes(b"no picture")
    options = ["--weights", str(tmp_path / "weights"), "--steps", "3", "--batch-size", "2", "--seed", "5"]
    def commands(out: str) -> dict[str, list[str]]:
        mend = ["inpaint", str(tmp_path / "cats"), "--hole", str(tmp_path / "holes"), "--frames"]
        mended, made = str(tmp_path / out / "mended"), str(tmp_path / out / "made")
        return dict(mended=[*mend, "--out", mended, *options], made=["generate", "--n", "5", "--out", made, *options],
                    measured=["fid", mended, made, "--network", "random"])
    words = {}
    for out, count in dict(one=1, two=2).items():
        (tmp_path / out).mkdir()
        for name, argv in commands(out).items():
            started = start_on(processes, count, said, tmp_path, *argv)
            for process in started: process.join(120)
            assert [process.exitcode for process in started] == [int(name == "mended")] * count  # one is no picture
            text = (tmp_path / ("said-0.txt" if count > 1 else "said-alone.txt")).read_text(encoding="utf-8")
            words[out, name] = text.replace(str(tmp_path / out), "")
            if count > 1: assert (tmp_path / "said-1.txt").read_text(encoding="utf-8") == ""  # the main one speaks
    for name in commands("one"): assert words["one", name] == words["two", name] != ""
    assert "6 of 7 images written" in words["one", "mended"]
    one, two = ({path.relative_to(tmp_path / out): path.read_bytes() for path in (tmp_path / out).rglob("*.png")}
                for out in ("one", "two"))
    assert one == two and len(one) == 6 + 6 + 5
