"Training in processes of their own: two give the losses of one, and a run that is killed goes on as if it had not been."
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import SIZE, tiny_maskgit
from safetensors.torch import load_file

from maskgit_nb.images import drawn_cats
from maskgit_nb.training import RunLog, TrainConfig, find_checkpoints, fit_maskgit

CONFIG = TrainConfig(steps=40, batch_size=8, lr=3e-3, warmup=4, ema=0.9, log_every=1, validate_every=10, save_every=2, progress=False, tracker="none")
TWO = dict(steps=4, batch_size=4, lr=3e-3, warmup=2, log_every=1, save_every=3, validate_every=4)


def run_tiny(out: str, steps: int = CONFIG.steps) -> None:
    "A whole second stage on 16x16 pixels, in a process that may be killed."
    torch.set_num_threads(1)
    config = TrainConfig(**{**vars(CONFIG), "steps": steps})
    fit_maskgit(tiny_maskgit(), drawn_cats(24, size=SIZE), out, config, val=drawn_cats(4, seed=1, size=SIZE), cpu=True)


@pytest.fixture(scope="module")
def processes():
    "Processes that start with everything imported."
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_processes"])
    return context


def launch(processes, out: Path, steps: int = CONFIG.steps) -> multiprocessing.Process:
    process = processes.Process(target=run_tiny, args=(str(out), steps))
    process.start()
    return process


def curve(out: Path) -> list[dict]: return [{name: value for name, value in row.items() if "second" not in name} for row in RunLog.read(out)]


def test_run_killed_ten_times_ends_as_an_undisturbed_one(processes, tmp_path):
    whole = launch(processes, tmp_path / "whole")
    whole.join()
    seconds = RunLog.read(tmp_path / "whole")[-1]["seconds"]
    moments, kills, whole_files = random.Random(0), 0, None
    while kills < 10:
        process = launch(processes, tmp_path / "killed")
        process.join(moments.uniform(0.1, 0.9) * seconds)
        if process.is_alive(): process.kill()
        process.join()
        if process.exitcode == 0: break  # it got to its end between kills
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        for checkpoint in find_checkpoints(tmp_path / "killed"):  # whole or absent
            files = {path.name for path in checkpoint.iterdir()}
            whole_files = whole_files or {path.name for path in find_checkpoints(tmp_path / "whole")[-1].iterdir()}
            assert files == whole_files
            torch.load(checkpoint / "optimizer.bin", weights_only=False)
    assert kills >= 3
    run_tiny(str(tmp_path / "killed"))
    for row, other in zip(curve(tmp_path / "killed"), curve(tmp_path / "whole"), strict=True): assert row == pytest.approx(other, abs=1e-6)
    weights = [load_file(tmp_path / name / "transformer.safetensors") for name in ("killed", "whole")]
    for name, value in weights[0].items(): torch.testing.assert_close(value, weights[1][name], atol=1e-6, rtol=0)


def test_sigterm_saves_and_exits(processes, tmp_path):
    process = launch(processes, tmp_path, steps=100_000)
    while not RunLog.read(tmp_path): time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    process.join(20)
    last = RunLog.read(tmp_path)[-1]["step"]
    assert process.exitcode == 1 and find_checkpoints(tmp_path)[-1].name == f"checkpoint-{last:08d}"


def train_on(processes: int, out: Path, *command: str) -> list[dict]:
    "The log of a run of the command line on so many CPU processes."
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", str(port)] if processes > 1 else []
    options = [f"--{name.replace('_', '-')}={value}" for name, value in TWO.items()]
    data = ["--data", "drawn:12", "--val", "drawn:2", "--out", str(out)]
    done = subprocess.run([sys.executable, *launcher, "-m", "maskgit_nb.cli", "--device", "cpu", *command, *data, *options],
                          capture_output=True, text=True, timeout=110, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert len((out / "runs.jsonl").read_text().splitlines()) == 1
    return curve(out)


@pytest.mark.parametrize("command", [["train", "--preset", "tiny", "--accumulate", "2"], ["train-vqgan", "--preset", "tiny", "--adversarial-start", "1"]],
                         ids=lambda command: command[0])
def test_two_processes_give_the_losses_of_one(tmp_path, command):
    one, two = train_on(1, tmp_path / "one", *command), train_on(2, tmp_path / "two", *command)
    assert [row["step"] for row in one] == [row["step"] for row in two] and "loss" in one[0]
    for row, other in zip(one, two, strict=True): assert row == pytest.approx(other, abs=1e-5, rel=1e-5), json.dumps([row, other])
