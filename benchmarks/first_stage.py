"""What lesson 02 has no time or no package for: its small VQGAN after more steps, and the perceptual loss on shifted
and blurred cats.

usage: python benchmarks/first_stage.py [--steps 150 500 1000] [--out nbs/results/first_stage.json]

Network, loss, seed and pictures are those of the lesson. Needs: pip install 'maskgit_nb[perceptual]'
"""
import argparse
import json
import shlex
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from maskgit_nb.cats import drawn_cats
from maskgit_nb.files import provenance, save_text
from maskgit_nb.vqgan import VQGAN, PerceptualLoss, psnr, small_vqgan


def learn(cats: torch.Tensor, test_cats: torch.Tensor, marks: list[int]) -> dict[int, float]:
    "PSNR on `test_cats` after each of `marks` steps of lesson 02's loop on `cats`."
    torch.manual_seed(0)
    learner = VQGAN(small_vqgan(encoder=(16, 32), decoder=(32, 16), latent_dim=8, codebook_size=256))
    optimizer, generator = torch.optim.AdamW(learner.parameters(), lr=2e-3), torch.Generator().manual_seed(0)
    found = {}
    for step in range(1, max(marks) + 1):
        x = cats[torch.randint(len(cats), (8,), generator=generator)]
        made = learner(x)
        optimizer.zero_grad()
        (F.l1_loss(made.images, x) + made.vq_loss).backward()
        optimizer.step()
        learner.quantizer.restart_dead_codes(made.latents.detach(), made.tokens, generator, decay=0.8)
        if step in marks: found[step] = round(psnr(learner.decode(learner.encode(test_cats)), test_cats), 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[150, 500, 1000])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    cats, perceptual = drawn_cats(256), PerceptualLoss()
    few = cats[:16]
    changed = dict(shifted=few.roll(1, dims=-1),
                   blurred=F.avg_pool2d(few, 3, stride=1, padding=1, count_include_pad=False))
    made = provenance(shlex.join(["python", *sys.argv]), seed=0)
    distances = {name: round(perceptual(x, few).item(), 3) for name, x in changed.items()}
    result = made | dict(perceptual=distances, psnr=learn(cats, drawn_cats(5, seed=1), args.steps))
    print(json.dumps(result, indent=1))
    if args.out: save_text(json.dumps(result) + "\n", args.out)


if __name__ == "__main__":
    main()
