"""How good are the pictures where `val_table.py` does not look: boxes instead of the lab's holes, drawn cats, from
nothing?

usage: MASKGIT_NB_DATA=DIR python benchmarks/pictures.py [--weights cats64-small] [--out nbs/results/pictures.json]

Tasks: 256 photographs of cats64/val with boxes, and 128 drawn cats with free-form holes and with boxes; known pixels
are kept. Rows: the classical methods, networks that paint the hole in one pass, MaskGIT at several step counts, plain
and refined (`REFINED`), and the VQGAN's own reconstruction in the holes. For drawn cats `eyes` counts the eyes that are
there again, and those that were asked for. Last, 512 pictures made from nothing, with and without guidance, refined,
against as many photographs of cats64/train, and against half as many and drawn cats, which is what the weights were
last trained on; and like photographs (`likeness` of 512 others), against photographs alone.
FD and KID (x 1000) are on EfficientNet-Lite0's features, as in `val_table.py`.
"""
import argparse
import json
import shlex
import sys
import time
from functools import partial
from pathlib import Path

import torch

from maskgit_nb.cats import drawn_cats, drawn_eyes
from maskgit_nb.data import open_pairs, open_train
from maskgit_nb.fid import image_features, lite_network
from maskgit_nb.files import provenance, save_sheet, save_text
from maskgit_nb.images import box_holes, random_holes
from maskgit_nb.inpainting import ALIKE, GENERATING, REFINED, MaskGIT, composite, likeness, poisson_blend
from maskgit_nb.scores import biharmonic, eyes_found, open_direct, opencv_inpaint, score
from maskgit_nb.sweeps import mend_all

SEED = 77  # of the drawn cats
TASKS = ["photographs, boxes", "drawn cats", "drawn cats, boxes", "from nothing"]


def seeded(seed: int = 0) -> torch.Generator: return torch.Generator().manual_seed(seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="cats64-small")
    parser.add_argument("--photographs", type=int, default=256)
    parser.add_argument("--drawn", type=int, default=128)
    parser.add_argument("--made", type=int, default=512)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS,
                        help="rows of the others stay as they are in --out")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--options", type=json.loads, default={}, help="more options of MaskGIT.inpaint, as JSON")
    parser.add_argument("--generating", type=json.loads, default={}, help="options of MaskGIT.generate, as JSON")
    parser.add_argument("--sheets", type=Path, help="a folder for pictures to look at")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    model, network, rows = MaskGIT.from_pretrained(args.weights), lite_network(), []

    def add(task: str, name: str, row: dict) -> None:
        rows.append(dict(task=task, name=name) | row)
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in rows[-1].items()},
              flush=True)

    for task in TASKS[:-1]:
        if task not in args.tasks: continue
        drawn = task.startswith("drawn")
        images = drawn_cats(args.drawn, SEED) if drawn else open_pairs(args.photographs)[0]
        holes = (box_holes if task.endswith("boxes") else random_holes)(len(images), 64, seeded())
        true = image_features(images, network)
        ways = {"biharmonic": lambda: biharmonic(images, holes),
                "Navier-Stokes": lambda: opencv_inpaint(images, holes, "NS")}
        ways |= {name: lambda cnn=cnn: cnn.inpaint(images, holes) for name, cnn in open_direct(args.weights).items()}
        mend = partial(mend_all, model, images, holes)
        for n in args.steps:
            name, options = f"MaskGIT, {n} step{'s' * (n > 1)}", args.options | dict(steps=n)
            ways[name] = partial(mend, **options)
            if model.refiner and model.evidence: ways[f"{name}, refined"] = partial(mend, **options | REFINED)
        ways["VQGAN reconstruction, blended"] = lambda: poisson_blend(images,
                                                                      model.vqgan.decode(model.vqgan.encode(images)),
                                                                      holes)
        for name, way in ways.items():
            began = time.perf_counter()
            made = composite(images, way(), holes)
            row = dict(score(images, made, holes, network, true), seconds=round(time.perf_counter() - began, 1))
            if drawn: row["eyes"] = eyes_found(made, images, holes, drawn_eyes(args.drawn, SEED))
            add(task, name, row)
            if args.sheets and "MaskGIT" in name:
                columns = [images[:16].masked_fill(holes[:16], 0.0), made[:16], images[:16]]
                args.sheets.mkdir(parents=True, exist_ok=True)
                save_sheet(columns, args.sheets / f"{task} {name}.png".replace(", ", " ").replace(" ", "-"))
    if TASKS[-1] in args.tasks:
        cats, half = open_train(2 * args.made), args.made // 2
        if len(cats) < 2 * args.made: raise SystemExit(f"--made must be at most {len(cats) // 2}; got {args.made}")
        real, others = cats.split(args.made)
        sets = {"photographs": real,
                "photographs and drawn cats, half and half": torch.cat([real[half:], drawn_cats(half, SEED)])}
        guided, favour = args.generating, likeness(model, others)
        ways = {", no guidance": (guided | dict(guidance=0.0), None), "": (guided, None)}
        if model.refiner: ways[", refined"] = (guided | dict(refine=True), None)
        ways |= {f" like photographs{way}": (options, favour) for way, (options, _) in ways.items()
                 if "no guidance" not in way}
        for way, (options, like) in ways.items():
            began = time.perf_counter()
            made = torch.cat([model.generate(min(64, args.made - i), seeded(i), favour=like, **options).images
                              for i in range(0, args.made, 64)])
            usual, told = GENERATING, {}
            if like is not None: usual, told = GENERATING | ALIKE, dict(favour=f"likeness of {len(others)} photographs")
            row = dict(options=usual | options | told, seconds=round(time.perf_counter() - began, 1))
            for name, true in sets.items():
                if like is not None and name != "photographs": continue
                add(TASKS[-1], f"MaskGIT{way}, against {name}", score(true, made, None, network) | row)
        if args.sheets: save_sheet([made[:16]], args.sheets / "from-nothing.png")
    if args.out:
        made = provenance(shlex.join(["python", *sys.argv]), 0, model.device)
        kept = json.loads(args.out.read_text(encoding="utf-8"))["rows"] if args.out.exists() else []
        rows = sorted([row for row in kept if row["task"] not in args.tasks] + rows,
                      key=lambda row: TASKS.index(row["task"]))
        result = made | dict(options=args.options, rows=rows)
        save_text(json.dumps(result) + "\n", args.out)


if __name__ == "__main__":
    main()
