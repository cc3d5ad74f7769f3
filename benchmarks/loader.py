"""How fast are training batches fed? Rows a second from memory, and pictures a second from files, each beside its
limit.

usage: python -m benchmarks.loader [--device cpu] [--out nbs/results/loader.json]

`tokens`: rows of int16 by index, as the second stage takes them. `pictures`: bytes by index, half of them mirrored, as
floats in [-1,1]. Their limit is a plain copy of the same rows, `limit_rows_per_second`, and for pictures also the
conversion of bytes to float alone. `files`: 2,000 drawn cats as 64x64 PNG through `cached_pictures`, and again when
they are cached. `jpeg`: a photograph's size, 12 megapixels, decoded whole and by `draft`. Medians of several runs, with
the slowest and the fastest; on a CPU freed memory is kept, as `maskgit-nb` does.
"""
import argparse
import json
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from maskgit_nb.cats import drawn_cats
from maskgit_nb.cli import keep_freed_memory
from maskgit_nb.data import (
    EndlessBatches,
    ImageFolder,
    Pictures,
    cached_pictures,
    fit_picture,
    load_image,
    open_picture,
    take_batches,
)
from maskgit_nb.files import provenance, save_text
from maskgit_nb.images import to_picture, to_uint8
from maskgit_nb.training import TrainConfig, make_accelerator

BATCH, BATCHES, TRIES = 128, 24, 9


def seconds(run: Callable, device: str, tries: int = TRIES) -> list[float]:
    "Sorted times of `run`, after one that does not count."
    found = []
    for _ in range(tries + 1):
        began = time.perf_counter()
        run()
        if device.startswith("cuda"): torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return sorted(found[1:])


def rates(times: list[float], items: int) -> dict:
    return dict(rows_per_second=items / statistics.median(times), slowest=items / times[-1], fastest=items / times[0])


def fed(data, device: str) -> dict:
    batches = take_batches(data, EndlessBatches(len(data), BATCH), device)
    return rates(seconds(lambda: [next(batches) for _ in range(BATCHES)], device), BATCH * BATCHES)


def limit(rows: torch.Tensor, device: str, work: Callable) -> float:
    # other rows each time, as in training: not from the cache alone
    parts = rows[:BATCH * BATCHES].to(device).split(BATCH)
    return BATCH * BATCHES / statistics.median(seconds(lambda: [work(part) for part in parts], device))


def memory_rows(device: str) -> list[dict]:
    tokens = torch.randint(1024, (16_384, 256), generator=torch.Generator().manual_seed(0)).short()
    levels = to_uint8(drawn_cats(4096))
    return [dict(name="tokens", **fed(tokens, device), limit_rows_per_second=limit(tokens, device, torch.clone)),
            dict(name="pictures", **fed(Pictures(levels, flip=True), device),
                 limit_rows_per_second=limit(levels, device, torch.clone),
                 to_float_rows_per_second=limit(levels, device, lambda x: x.float()))]


def file_rows(n: int = 2000) -> list[dict]:
    with tempfile.TemporaryDirectory() as work:
        folder, accelerator = Path(work) / "cats", make_accelerator(TrainConfig(tracker="none"), device="cpu")
        folder.mkdir()
        for i, x in enumerate(drawn_cats(n)): to_picture(x).save(folder / f"{i:05d}.png")
        def read(out: Path) -> None:
            out.mkdir(exist_ok=True)
            cached_pictures(ImageFolder(folder, 64), out, accelerator, progress=False)
        fresh = iter(Path(work) / str(i) for i in range(9))
        rows = [dict(name="files, decoded", **rates(seconds(lambda: read(next(fresh)), "cpu", 3), n)),
                dict(name="files, cached", **rates(seconds(lambda: read(Path(work) / "0"), "cpu", 3), n))]
        large = Path(work) / "large.jpg"
        to_picture(drawn_cats(1, size=512)[0]).resize((4000, 3000), Image.Resampling.BICUBIC).save(large, quality=90)
        whole = seconds(lambda: fit_picture(open_picture(large), 64), "cpu", 5)
        drafted = rates(seconds(lambda: load_image(large, 64), "cpu", 5), 1)
        return [*rows,
                dict(name="jpeg of 12 megapixels", **drafted, whole_rows_per_second=1 / statistics.median(whole))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.device == "cpu": keep_freed_memory()
    rows = memory_rows(args.device) + file_rows()
    for row in rows:
        print("  ".join(f"{key} {value:,.1f}" if isinstance(value, float) else f"{value:22}"
                        for key, value in row.items()))
    if args.out:
        made = provenance(shlex.join(["python", "-m", "benchmarks.loader", *sys.argv[1:]]), 0, args.device)
        result = made | dict(threads=torch.get_num_threads(), batch=BATCH, rows=rows)
        save_text(json.dumps(result, indent=1) + "\n", args.out)


if __name__ == "__main__": main()
