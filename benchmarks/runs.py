"What the programmes that train one more network share: processes, averaged weights, a record, a state to go on from."
import argparse
import json
import os
import shlex
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from maskgit_nb.files import provenance, replacing, save_module, save_text
from maskgit_nb.training import EMA


class Trainer:
    """A network `net` in training, its running average `mean`, and `parts`, all that has a state. `numbers` are kept
    with it."""
    def __init__(self, args: argparse.Namespace, net: nn.Module, *parts):
        self.args, self.net, self.mean = args, net, EMA(net, args.ema)
        self.parts, self.step, self.numbers = [net, self.mean, *parts], 0, {}

    def warm_up(self, optimizer: torch.optim.Optimizer, steps: int) -> float:
        "Set this step's learning rate, which rises over `steps` and falls to 0 at the end; returns how far it rose."
        warm = min(1.0, (self.step + 1) / steps)
        for group in optimizer.param_groups: group["lr"] = self.args.lr * warm * (1 - self.step / self.args.steps)
        return warm

    def count(self) -> None:
        "A step was taken."
        self.mean.update(self.net)
        self.step += 1

    def save(self, path: Path) -> None:
        state = dict(step=self.step, numbers=self.numbers, parts=[part.state_dict() for part in self.parts])
        with replacing(path) as partial: torch.save(state, partial)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.step, self.numbers = state["step"], state["numbers"]
        for part, kept in zip(self.parts, state["parts"], strict=True): part.load_state_dict(kept)


def join_processes(seed: int) -> None:
    "Find torchrun's other processes, if there are any; all begin with the same random numbers."
    if int(os.environ.get("WORLD_SIZE", 1)) > 1: dist.init_process_group("gloo")
    torch.manual_seed(seed)


def average(gradients_of: nn.Module) -> None:
    "Give every process the mean of all processes' gradients."
    if not dist.is_initialized(): return
    parts = [p.grad for p in gradients_of.parameters()]
    flat = torch.cat([part.reshape(-1) for part in parts])
    dist.all_reduce(flat)
    for part, mean in zip(parts, (flat / dist.get_world_size()).split([part.numel() for part in parts]), strict=True):
        part.copy_(mean.view_as(part))


class Run:
    """The training of `args.steps` steps that `trainer` does in `args.out`, from its newest state on. Every hundred
    steps the first process writes the state, `name`.safetensors, the averaged weights, and the record `kind`.json."""
    def __init__(self, trainer: Trainer, args: argparse.Namespace, kind: str, name: str, columns: list[str], **more):
        self.trainer, self.args, self.more = trainer, args, dict(columns=["step", *columns]) | more
        self.record, self.weights = args.out / f"{kind}.json", args.out / f"{name}.safetensors"
        self.state, self.curve, self.runs, self.before, self.losses = args.out / "state.pt", [], [], 0.0, []
        if self.state.exists():
            trainer.load(self.state)
            told = json.loads(self.record.read_text(encoding="utf-8"))
            self.curve, self.runs, self.before = told["curve"], told["runs"], told["seconds"]
        self.rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.generator = torch.Generator().manual_seed(1_000 * (args.seed + trainer.step) + self.rank)
        made = provenance(shlex.join(["python", "-m", f"benchmarks.{kind}", *sys.argv[1:]]), args.seed, "cpu")
        self.runs.append(made | dict(processes=processes, first=trainer.step))
        self.began = time.perf_counter()

    @property
    def going(self) -> bool: return self.trainer.step < self.args.steps

    def tell(self, losses: list[float], measure=lambda: []) -> None:
        "Note the losses of a step; every hundred, and at the end, their means and what `measure` says are written."
        self.losses.append(losses)
        step, first = self.trainer.step, self.runs[-1]["first"]
        if step % 100 and self.going: return
        row, self.losses = [step, *torch.tensor(self.losses).mean(0).tolist()], []
        if self.rank: return
        self.curve.append(row + measure())
        images = (step - first) * self.args.batch_size * self.runs[-1]["processes"]
        self.runs[-1] |= dict(last=step, images=images)
        seconds = round(self.before + time.perf_counter() - self.began)
        told = dict(runs=self.runs, seconds=seconds, **self.more, curve=self.curve)
        save_text(json.dumps(told) + "\n", self.record)
        self.trainer.save(self.state)
        save_module(self.trainer.mean.module, self.weights, half=True)
        print(*self.curve[-1], f"{seconds} s", flush=True)
