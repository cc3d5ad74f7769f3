"""Does memory stay flat while a folder of pictures is mended? `maskgit-nb inpaint` on many small pictures.

usage: python -m benchmarks.load [--pictures 100000] [--seed 0] [--out nbs/results/load.json]

The model is tiny and untrained, since its answers do not matter here; the pictures are drawn cats of 16x16 pixels, each
a file of its own, all with one mask. After every thousand pictures the memory that this process holds is noted.
"""
import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import torch
from PIL import Image

from maskgit_nb import cli
from maskgit_nb.cats import drawn_cats
from maskgit_nb.files import provenance, save_png, save_text
from maskgit_nb.images import to_picture
from maskgit_nb.inpainting import MaskGIT
from maskgit_nb.transformer import BidirectionalTransformer, TransformerConfig
from maskgit_nb.vqgan import VQGAN, VQGANConfig

SIZE, EVERY = 16, 1000
ENCODER = ("unshuffle", 2), ("conv", 12, 8, 3), ("down", 8), ("conv", 8, 8, 1)
DECODER = ("conv", 8, 8, 3), ("up", 8), ("conv", 8, 12, 3), ("shuffle", 2)


def held() -> int:
    "Bytes of memory that this process holds."
    pages = Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def prepare(folder: Path, pictures: int) -> None:
    "The weights, the pictures and a mask."
    vqgan = VQGAN(VQGANConfig(ENCODER, DECODER, image_size=SIZE, codebook_size=24, latent_dim=8))
    shape = TransformerConfig(num_tokens=vqgan.config.grid**2, codebook_size=24, dim=16, layers=1, heads=2, hidden=32)
    MaskGIT(vqgan, BidirectionalTransformer(shape)).save_pretrained(folder / "weights")
    cats = [to_picture(cat) for cat in drawn_cats(256, size=SIZE)]
    (folder / "cats").mkdir()
    for i in range(pictures): cats[i % len(cats)].save(folder / "cats" / f"{i:06d}.png")
    known = torch.ones(SIZE, SIZE, dtype=torch.bool)
    known[4:12, 4:12] = False
    Image.fromarray(known.numpy()).save(folder / "mask.png")


def mend(folder: Path, seed: int, every: int = EVERY) -> list[dict]:
    "All pictures in `folder`; a row after every so many: how many pictures there are, and the megabytes held."
    done, rows = 0, []
    def counted(x, path) -> None:
        nonlocal done
        save_png(x, path)
        done += 1
        if done % every == 0: rows.append(dict(pictures=done, megabytes=round(held() / 1e6, 1)))
    command = ["--device", "cpu", "inpaint", str(folder / "cats"), "--hole", str(folder / "mask.png"), "--out",
               str(folder / "mended"), "--weights", str(folder / "weights"), "--steps", "2", "--seed", str(seed)]
    with patch.object(cli, "save_png", counted):
        if cli.main(command): raise SystemExit("not all pictures were mended")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), args.pictures)
        began = time.perf_counter()
        rows = mend(Path(folder), args.seed)
        seconds = time.perf_counter() - began
    for row in rows: print(f"{row['pictures']:7,} pictures  {row['megabytes']:7.1f} MB")
    print(f"{args.pictures / seconds:.0f} pictures a second")
    if args.out:
        made = provenance(shlex.join(["python", "-m", "benchmarks.load", *sys.argv[1:]]), args.seed)
        save_text(json.dumps(made | dict(seconds=round(seconds), rows=rows), indent=1) + "\n", args.out)


if __name__ == "__main__": main()
