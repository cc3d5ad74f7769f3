"""Train `HoleCNN`, which paints holes in one pass, for its rows in the tables: first on the absolute error alone, then
on with a perceptual loss.

usage: python -m benchmarks.direct --data cats64/train --out DIR [--steps 1000 600]

Half of every batch are photographs of --data, half drawn cats, as in the last training of the shipped MaskGIT; holes
are those of `train --holes mixed`. Writes direct.safetensors (absolute error) and direct_perceptual.safetensors into
DIR, and direct.json with the record. A stage that this record has already is not trained again. Needs: pip install
'maskgit_nb[perceptual]'
"""
import argparse
import json
import shlex
import statistics
import sys
import time
from pathlib import Path

import torch

from maskgit_nb.data import open_images
from maskgit_nb.files import provenance, save_module, save_text
from maskgit_nb.scores import HoleCNN, fit_hole_cnn, hole_l1
from maskgit_nb.stages import mixed_holes
from maskgit_nb.vqgan import PerceptualLoss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, nargs=2, default=[1000, 600],
                        help="on the absolute error; then with the perceptual loss")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--weight", type=float, default=0.4,
                        help="of the perceptual loss, beside the absolute error over all pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    cnn, perceptual = HoleCNN().to(args.device, memory_format=torch.channels_last), PerceptualLoss().to(args.device)
    pictures, record = open_images([args.data, "drawn"], 64, flip=True), args.out / "direct.json"
    runs = json.loads(record.read_text(encoding="utf-8"))["runs"] if record.exists() else {}

    def both(made: torch.Tensor, real: torch.Tensor, holes: torch.Tensor) -> torch.Tensor:
        return hole_l1(made, real, holes) * holes.float().mean() + args.weight * perceptual(made, real)

    for name, steps, loss in zip(("direct", "direct_perceptual"), args.steps, (hole_l1, both), strict=True):
        if name in runs:
            cnn.load_state_dict(HoleCNN.from_pretrained(args.out, f"{name}.safetensors").state_dict())
            continue
        batches = pictures.batches(args.batch_size, args.seed, device=args.device)
        generator, began = torch.Generator().manual_seed(args.seed), time.perf_counter()
        # its cache would hold the first weights
        with torch.autocast(torch.device(args.device).type, torch.bfloat16, cache_enabled=False):
            losses = fit_hole_cnn(cnn, batches, steps, mixed_holes, loss, generator=generator)
        means = dict(first=statistics.mean(losses[:100]), last=statistics.mean(losses[-100:]))
        made = provenance(shlex.join(["python", "-m", "benchmarks.direct", *sys.argv[1:]]), args.seed, args.device)
        runs[name] = made | dict(steps=steps, images=steps * args.batch_size,
                                 seconds=round(time.perf_counter() - began), loss_of_100_steps=means)
        save_module(cnn, args.out / f"{name}.safetensors", half=True)
        save_text(json.dumps(dict(parameters=sum(p.numel() for p in cnn.parameters()), runs=runs)) + "\n", record)
        print(name, runs[name], flush=True)


if __name__ == "__main__":
    main()
