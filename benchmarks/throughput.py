"""What does training each preset cost? Parameters, arithmetic, images per second, memory and hours.

usage: python benchmarks/throughput.py [--device cpu] [--presets tiny small lab paper] [--out
nbs/results/throughput.json]

Both stages of each preset take a few optimiser steps on drawn cats, in bf16, L1 alone in the first stage. `gflop` is
that of one image's forward pass, counted by torch; training takes about three times as much. `hours`
is for 300 passes over 8,045 images. An H200's figures are computed from the same arithmetic at 40 % of its 989 TFLOP/s
(dense bf16), and marked as such.
"""
import argparse
import json
import resource
import shlex
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from maskgit_nb.cats import drawn_cats
from maskgit_nb.files import provenance, save_text
from maskgit_nb.masking import mvtm_loss, random_mask
from maskgit_nb.speed import count_flops
from maskgit_nb.transformer import BidirectionalTransformer, TransformerConfig, count_parameters
from maskgit_nb.vqgan import VQGAN, VQGANConfig

IMAGES, H200 = 300 * 8045, 0.4 * 989e12


@torch.no_grad()
def gflop(module: torch.nn.Module, example: torch.Tensor) -> float:
    return count_flops(lambda: module.eval()(example)) / 1e9


def images_per_second(module: torch.nn.Module, loss, batch: int, steps: int, device: str) -> float:
    optimizer, best = torch.optim.AdamW(module.train().parameters(), lr=1e-4), 0.0
    for _ in range(steps + 1):  # the first is warm-up
        began = time.perf_counter()
        with torch.autocast(device, torch.bfloat16): found = loss()
        found.backward()
        optimizer.step(), optimizer.zero_grad()
        if device == "cuda": torch.cuda.synchronize()
        best = max(best, batch / (time.perf_counter() - began))
    return best


def peak_gigabytes(device: str) -> float:
    if device == "cuda": return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measure(preset: str, stage: str, device: str) -> dict:
    torch.manual_seed(0)
    vqgan_config, shape = VQGANConfig.preset(preset), TransformerConfig.preset(preset)
    small = preset in ("tiny", "small")
    batch = (32 if small else 4) if device == "cpu" else 128
    if stage == "vqgan":
        if vqgan_config.image_size > 64: batch = max(1, batch // 4)
        module, example = VQGAN(vqgan_config).to(device), drawn_cats(batch, size=vqgan_config.image_size).to(device)
        forward = gflop(module, example[:1])
        def loss():
            rec = module(example)
            return (rec.images - example).abs().mean() + rec.vq_loss
    else:
        codes = torch.nn.functional.normalize(torch.randn(shape.codebook_size, shape.code_dim),
                                              dim=-1) if shape.code_dim else None
        module = BidirectionalTransformer(shape, codes).to(device)
        example = torch.randint(shape.codebook_size, (batch, shape.num_tokens), device=device)
        forward = gflop(module, example[:1])
        mask = random_mask(torch.full((batch,), 0.64), shape.num_tokens).to(device)
        def loss(): return mvtm_loss(module(example.masked_fill(mask, shape.codebook_size)), example, mask)
    rate = images_per_second(module, loss, len(example), 3 if small else 1, device)
    return dict(preset=preset, stage=stage, parameters=count_parameters(module), gflop=forward, batch=len(example),
                images_per_second=rate, gigabytes=peak_gigabytes(device), hours=IMAGES / rate / 3600,
                h200_images_per_second_computed=H200 / (3e9 * forward),
                h200_hours_computed=IMAGES * 3e9 * forward / H200 / 3600)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--presets", nargs="+", default=["tiny", "small", "lab", "paper"])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    for preset in args.presets:
        for stage in ("vqgan", "transformer"):
            with ProcessPoolExecutor(1, get_context("spawn")) as alone:  # the memory of a process only grows
                rows.append(alone.submit(measure, preset, stage, args.device).result())
            print({key: round(value, 3) if isinstance(value, float) else value for key, value in rows[-1].items()},
                  flush=True)
    if args.out:
        result = provenance(shlex.join(["python", *sys.argv]), 0, args.device) | dict(rows=rows)
        save_text(json.dumps(result, indent=1) + "\n", args.out)


if __name__ == "__main__":
    main()
