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
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from conftest import CODES, GRID, SIZE, tiny_maskgit
from safetensors.torch import load_file

from maskgit_nb.images import drawn_cats
from maskgit_nb.inpainting import MaskGIT
from maskgit_nb.training import RunLog, TrainConfig, find_checkpoints, fit_maskgit
from maskgit_nb.transformer import BidirectionalTransformer, TransformerConfig

CONFIG = TrainConfig(steps=60, batch_size=8, lr=3e-3, warmup=4, ema=0.9, log_every=1, validate_every=10, save_every=2, progress=False, tracker="none")
# A slow warm-up: Adam's first steps enlarge what rounding leaves in the adversarial gradient, by as much as the learning rate allows.
TWO = dict(steps=5, batch_size=4, lr=3e-3, warmup=4, log_every=1, save_every=3, validate_every=4)


def run_tiny(out: str, steps: int = CONFIG.steps) -> None:
    "A whole second stage on 16x16 pixels, in a process that may be killed."
    torch.set_num_threads(1)
    config = TrainConfig(**{**vars(CONFIG), "steps": steps})
    fit_maskgit(tiny_maskgit(), drawn_cats(24, size=SIZE), out, config, val=drawn_cats(4, seed=1, size=SIZE), cpu=True)


def launch(processes, out: Path, steps: int = CONFIG.steps) -> multiprocessing.Process:
    process = processes.Process(target=run_tiny, args=(str(out), steps))
    process.start()
    return process


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def curve(out: Path) -> list[dict]: return [{name: value for name, value in row.items() if "second" not in name} for row in RunLog.read(out)]


def test_run_killed_ten_times_ends_as_an_undisturbed_one(processes, tmp_path):
    whole = launch(processes, tmp_path / "whole")
    whole.join()
    whole_files = {path.name for path in find_checkpoints(tmp_path / "whole")[-1].iterdir()}
    moments = random.Random(0)
    for target in sorted(moments.sample(range(1, CONFIG.steps - 10), 10)):
        process = launch(processes, tmp_path / "killed")
        while process.is_alive() and max((row["step"] for row in RunLog.read(tmp_path / "killed")), default=0) < target: time.sleep(0.002)
        time.sleep(moments.uniform(0.0, 0.05))  # anywhere in a step, in a validation or in the writing of a checkpoint
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        for checkpoint in find_checkpoints(tmp_path / "killed"):  # whole or absent
            assert {path.name for path in checkpoint.iterdir()} == whole_files
            torch.load(checkpoint / "optimizer.bin", weights_only=False)
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
    port = free_port()
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", str(port)] if processes > 1 else []
    options = [f"--{name.replace('_', '-')}={value}" for name, value in TWO.items()]
    data = ["--data", "drawn:12", "--val", "drawn:2", "--out", str(out)]
    done = subprocess.run([sys.executable, *launcher, "-m", "maskgit_nb.cli", "--device", "cpu", *command, *data, *options],
                          capture_output=True, text=True, timeout=110, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert len((out / "runs.jsonl").read_text().splitlines()) == 1
    return curve(out)


def fit_like_paper(out: str) -> None:
    "The second stage on a transformer built as the `paper` preset's, but small; called in each process."
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = replace(TransformerConfig.preset("paper"), num_tokens=GRID**2, codebook_size=CODES, dim=32, layers=2, heads=2, hidden=64, dropout=0.0)
    model = MaskGIT(tiny_maskgit().vqgan, BidirectionalTransformer(shape))
    data, val = drawn_cats(12, size=SIZE), drawn_cats(2, seed=1, size=SIZE)
    fit_maskgit(model, data, out, TrainConfig(**TWO, progress=False, tracker="none"), val=val, cpu=True)
    if PartialState().is_main_process: assert torch.equal(MaskGIT.from_pretrained(out).generate(1).mask, model.generate(1).mask)


FSDP = """
import sys
from accelerate import PartialState
from accelerate.utils import DistributedType
sys.path.insert(0, sys.argv[1])
PartialState(cpu=True)
PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU  # accelerate turns FSDP on for these only
import test_processes, maskgit_nb.training as training
made, kinds = training.make_accelerator, set()
def watched(*args):
    accelerator = made(*args)
    kinds.add(accelerator.distributed_type)
    return accelerator
training.make_accelerator = watched
test_processes.fit_like_paper(sys.argv[2])
assert kinds == {DistributedType.FSDP}, kinds
"""


def test_fsdp_on_two_processes_gives_the_losses_of_one(processes, tmp_path):
    alone = processes.Process(target=fit_like_paper, args=(str(tmp_path / "one"),))
    alone.start()
    (tmp_path / "two.py").write_text(FSDP)
    port = free_port()
    settings = dict(ACCELERATE_USE_FSDP="true", FSDP_VERSION="2", FSDP_AUTO_WRAP_POLICY="TRANSFORMER_BASED_WRAP", FSDP_TRANSFORMER_CLS_TO_WRAP="Block",
                    FSDP_STATE_DICT_TYPE="FULL_STATE_DICT", OMP_NUM_THREADS="1")
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port), str(tmp_path / "two.py"),
                           str(Path(__file__).parent), str(tmp_path / "two")], capture_output=True, text=True, timeout=110, env={**os.environ, **settings})
    assert done.returncode == 0, done.stderr[-3000:]
    alone.join()
    assert alone.exitcode == 0
    for row, other in zip(curve(tmp_path / "one"), curve(tmp_path / "two"), strict=True): assert row == pytest.approx(other, abs=1e-5, rel=1e-5)


@pytest.mark.parametrize("command", [["train", "--preset", "tiny", "--accumulate", "2"], ["train-vqgan", "--preset", "tiny", "--adversarial-start", "1"]],
                         ids=lambda command: command[0])
def test_two_processes_give_the_losses_of_one(tmp_path, command):
    one, two = train_on(1, tmp_path / "one", *command), train_on(2, tmp_path / "two", *command)
    assert [row["step"] for row in one] == [row["step"] for row in two] and "loss" in one[0]
    for row, other in zip(one, two, strict=True): assert row == pytest.approx(other, abs=1e-5, rel=1e-5), json.dumps([row, other])
