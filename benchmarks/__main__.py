"""How fast is the kit, how near to what this machine can do, and how fast are others? One command, one table.

usage: python -m benchmarks [--parts decode mend ...] [--quick] [--out nbs/results/benchmarks.json]

Each part times its ways in turns (A B A B); a row holds median, least and most of the milliseconds an item, and the
`limit_ms` that these items cannot beat on this machine: their FLOPs, counted, at the rate at which it multiplies
matrices of the transformer's shapes (`maskgit_nb.speed.product_rate`, measured between the runs), or what else the row
names. A part that is run again takes the place of its old rows in the file, the others stay. Weights do not change
what a pass costs, so all but the shipped ones are untrained.

decode     the loop alone, eight steps, presets small and lab, 1 to 64 pictures, beside other people's networks
mend       `inpaint` whole, small: the encoder twice and all logits, as it is, kept keys, bfloat16, refined
folder     747 pictures by `maskgit-nb inpaint`, files and all, beside the transformer's products alone
train      a step of either stage
caches     tokens of a training set, batches of tokens and of pictures
distances  features, Fréchet distance, precision and recall
start      `import torch`, the command line, the package
quality    FD and KID (x 1000) of what is not exact, on 512 photographs (needs MASKGIT_NB_DATA)

Needs an idle machine, and: pip install 'maskgit_nb[fid,judges]' and, for one row, muse-maskgit-pytorch.
"""
import argparse
import contextlib
import io
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.peers import PEERS, report_loop
from maskgit_nb.cats import drawn_cats
from maskgit_nb.cli import keep_freed_memory
from maskgit_nb.cli import main as command_line
from maskgit_nb.data import open_pairs
from maskgit_nb.decoding import decode
from maskgit_nb.files import provenance, save_text
from maskgit_nb.images import random_holes, to_picture
from maskgit_nb.inpainting import REFINED, MaskGIT, hole_to_mask, visible_evidence
from maskgit_nb.masking import mvtm_loss, random_mask
from maskgit_nb.schedules import mask_counts
from maskgit_nb.scores import score
from maskgit_nb.speed import cached, count_flops, product_rate, show_shares
from maskgit_nb.sweeps import mend_all
from maskgit_nb.transformer import BidirectionalTransformer, TransformerConfig, count_parameters, flops_per_pass
from maskgit_nb.vqgan import VQGAN, VQGANConfig

PRODUCTS = "products of matrices"
HALF = torch.bfloat16


def in_turns(ways: dict[str, Callable], repeats: int, between: Callable = lambda: None) -> dict[str, list[float]]:
    "Seconds of every way, `repeats` times in turns, once each has run before; `between` runs before each round."
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        between()
        for name, run in ways.items():
            began = time.perf_counter()
            run()
            found[name].append(time.perf_counter() - began)
    return found


def row(case: str, way: str, seconds: list[float], items: int, limit: float | None, by: str = PRODUCTS,
        **more) -> dict:
    ms = [1000 * s / items for s in seconds]
    of_limit = {} if limit is None else dict(limit_ms=1000 * limit / items, limit=by)
    made = dict(case=case, way=way, ms=statistics.median(ms), least=min(ms), most=max(ms), runs=len(ms))
    made |= of_limit | more
    share = f", {100 * made['limit_ms'] / made['ms']:.0f} % of its limit" if of_limit else ""
    print(f"{case:34} {way:34} {made['ms']:10.2f} ms ({made['least']:.2f} to {made['most']:.2f}){share}", flush=True)
    return made


def build(preset: str) -> MaskGIT:
    if preset == "small": return MaskGIT.from_pretrained("cats64-small")
    torch.manual_seed(0)
    return MaskGIT(VQGAN(VQGANConfig.preset(preset)), BidirectionalTransformer(TransformerConfig.preset(preset)))


class AllLogits(nn.Module):
    "A transformer that is always asked for all logits."
    def __init__(self, inner: BidirectionalTransformer):
        super().__init__()
        self.inner, self.config, self.mask_token_id = inner, inner.config, inner.mask_token_id
        self.position_embedding = inner.position_embedding

    def forward(self, tokens: Tensor) -> Tensor: return self.inner(tokens)


def networks(ours: BidirectionalTransformer, peers: Iterable[str]) -> dict[str, nn.Module]:
    "Ours, as it was before and with kept keys, and those of `peers` that are installed."
    made = {"maskgit_nb": ours, "all logits": AllLogits(ours), "kept keys": cached(ours)}
    bare = replace(ours.config, code_dim=0, local=False)
    for name in peers:
        try: made[name] = PEERS[name](bare).eval()
        except ImportError as error: print(f"{name}: left out ({error})", flush=True)
    return made


def keeping(model: MaskGIT) -> MaskGIT:
    return MaskGIT(model.vqgan, cached(model.transformer), model.refiner, model.evidence)


def pictures(n: int) -> tuple[Tensor, Tensor]: return drawn_cats(n, seed=1), random_holes(n, generator=seeded(0))


def seeded(seed: int) -> torch.Generator: return torch.Generator().manual_seed(seed)


def looped(network: nn.Module, tokens: Tensor, mask: Tensor, dtype: torch.dtype) -> None:
    with torch.autocast("cpu", HALF, enabled=dtype == HALF):
        deque(decode(network, tokens, mask, steps=8, generator=seeded(0)), maxlen=0)


def decode_rows(preset: str, batch: int, repeats: int, peers: Iterable[str], names: Iterable[str] = ()) -> list[dict]:
    "`names`: of these ways alone, since the others take too long."
    ours = build(preset).transformer
    mask = hole_to_mask(pictures(batch)[1])
    tokens = torch.randint(ours.config.codebook_size, mask.shape, generator=seeded(1))
    made = {name: (network, torch.float32) for name, network in networks(ours, peers).items()}
    made |= {"bfloat16": (ours, HALF), "kept keys, bfloat16": (cached(ours), HALF)}
    ways = {name: lambda pair=pair: looped(pair[0], tokens, mask, pair[1]) for name, pair in made.items()}
    if peers: ways["the report's loop"] = lambda: report_loop(ours, tokens, mask)
    if names: ways = {name: ways[name] for name in names}
    flops = {name: count_flops(run) for name, run in ways.items()}
    size, rates = min(batch, 8), {torch.float32: [], HALF: []}
    def measure_rates() -> None:
        for dtype, found in rates.items(): found.append(product_rate(ours.config, size, dtype))
    times = in_turns(ways, repeats, measure_rates)
    rate = {dtype: statistics.median(found) for dtype, found in rates.items()}
    case = f"decode, {preset}, {batch} picture{'s' * (batch > 1)}"
    parameters = {name: count_parameters(pair[0]) for name, pair in made.items()}
    return [row(case, name, seconds, batch, flops[name] / rate[made[name][1] if name in made else torch.float32],
                gflop=flops[name] / batch / 1e9, parameters=parameters.get(name, count_parameters(ours)))
            for name, seconds in times.items()]


def decode_part(quick: bool) -> list[dict]:
    rows = []
    for preset, batch, repeats, peers, *names in (
            ("small", 1, 9, PEERS), ("small", 16, 5, PEERS), ("small", 64, 3, []), ("lab", 1, 3, PEERS),
            ("lab", 16, 1, []), ("lab", 64, 1, [], "maskgit_nb", "kept keys, bfloat16")):
        if quick and (batch > 1 or preset == "lab"): continue
        rows += decode_rows(preset, batch, repeats, peers, names)
    return rows


def mend_part(quick: bool) -> list[dict]:
    rows, model = [], build("small")
    before, kept = MaskGIT(model.vqgan, AllLogits(model.transformer)), keeping(model)
    def evidence(*given) -> Tensor: return visible_evidence(*given[:4])  # without the fifth: what was encoded already
    for batch in (1,) if quick else (1, 16):
        images, holes = pictures(batch)
        def mend(model: MaskGIT, half: bool = False, **options) -> Tensor:
            with torch.autocast("cpu", HALF, enabled=half):
                return model.inpaint(images, holes, steps=8, generator=seeded(0), **options).tokens
        def mend_before() -> Tensor:
            with patch("maskgit_nb.inpainting.visible_evidence", evidence): return mend(before)
        ways = {"all logits, encoder twice": mend_before, "maskgit_nb": lambda: mend(model),
                "kept keys": lambda: mend(kept), "bfloat16": lambda: mend(model, True),
                "kept keys, bfloat16": lambda: mend(kept, True),
                "refined": lambda: mend(model, **REFINED),
                "refined, kept keys, bfloat16": lambda: mend(kept, True, **REFINED)}
        flops, rates = {name: count_flops(run) for name, run in ways.items()}, []
        times = in_turns(ways, 9 if batch == 1 else 5,
                         lambda: rates.append(product_rate(model.transformer.config, min(batch, 8))))
        same = torch.equal(mend_before(), mend(model))  # the same pictures for less work
        half = product_rate(model.transformer.config, min(batch, 8), HALF)
        for name, seconds in times.items():
            limit = flops[name] / (half if "bfloat16" in name else statistics.median(rates))
            more = dict(same_tokens=same) if name == "maskgit_nb" else {}
            rows.append(row(f"mend, small, {batch} picture{'s' * (batch > 1)}", name, seconds, batch, limit, **more))
    return rows


def folder_part(quick: bool, n: int = 747) -> list[dict]:
    n = 50 if quick else n
    images, holes = pictures(n)
    config = TransformerConfig.preset("small")
    masked = hole_to_mask(holes).sum(1).tolist()
    flops = sum(flops_per_pass(config, only=m) for k in masked for m in [k, *mask_counts("cosine", k, 8)][:-1])
    with tempfile.TemporaryDirectory() as work:
        given, masks = Path(work) / "given", Path(work) / "masks"
        for folder in (given, masks): folder.mkdir()
        for i, (image, hole) in enumerate(zip(images, holes, strict=True)):
            to_picture(image).save(given / f"{i:04d}.png")
            to_picture(hole.expand(3, -1, -1).float() * -2 + 1).save(masks / f"{i:04d}.png")  # black is missing
        def run(*options: str) -> None:
            with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
                asked = ["inpaint", str(given), "--hole", str(masks), "--out", f"{out}/mended", "--device", "cpu"]
                if command_line([*asked, *options]): raise SystemExit("maskgit-nb inpaint failed")
        options = "", "--cached", "--cached --precision bf16", "--refine"
        ways = {text or "maskgit_nb": lambda text=text: run(*text.split()) for text in options}
        rates: list[float] = []
        times = in_turns(ways, 1 if quick else 2, lambda: rates.append(product_rate(config, 8)))
    limit = flops / statistics.median(rates)
    return [row(f"folder of {n} pictures, small", name, seconds, n, limit, "the transformer's products, float32")
            for name, seconds in times.items()]


def train_part(quick: bool) -> list[dict]:
    rows, cases = [], [("small", "second stage", 32), ("small", "first stage", 16), ("lab", "second stage", 4)]
    for preset, stage, batch in cases[:1] if quick else cases:
        torch.manual_seed(0)
        config = TransformerConfig.preset(preset)
        if stage == "second stage":
            module = BidirectionalTransformer(config, torch.randn(1024, config.code_dim) if config.code_dim else None)
            tokens = torch.randint(config.codebook_size, (batch, config.num_tokens))
            mask = random_mask(torch.full((batch,), 0.64), config.num_tokens)
            def loss() -> Tensor: return mvtm_loss(module(tokens.masked_fill(mask, 1024)), tokens, mask)
        else:
            module, images = VQGAN(VQGANConfig.preset(preset)), drawn_cats(batch)
            def loss() -> Tensor:
                rebuilt = module(images)
                return (rebuilt.images - images).abs().mean() + rebuilt.vq_loss
        optimizer = torch.optim.AdamW(module.train().parameters(), lr=1e-4)
        def step(half: bool = False) -> None:
            with torch.autocast("cpu", HALF, enabled=half): found = loss()
            found.backward()
            optimizer.step()
            optimizer.zero_grad()
        flops, rates = count_flops(step), []
        times = in_turns({"float32": step, "bfloat16": lambda: step(True)}, 5 if preset == "small" else 2,
                         lambda: rates.append((product_rate(config, 8), product_rate(config, 8, HALF))))
        for (way, seconds), found in zip(times.items(), zip(*rates, strict=True), strict=True):
            rows.append(row(f"train, {preset}, {stage}", way, seconds, batch, flops / statistics.median(found)))
    return rows


def caches_part(quick: bool) -> list[dict]:
    from benchmarks.loader import file_rows, memory_rows
    from maskgit_nb.stages import tokenize
    vqgan, images, rates = build("small").vqgan, drawn_cats(256), []
    flops, config = 256 * count_flops(lambda: vqgan.encode(images[:1])), TransformerConfig.preset("small")
    times = in_turns({"maskgit_nb": lambda: tokenize(vqgan, images, progress=False)}, 5,
                     lambda: rates.append(product_rate(config, 8)))
    rows = [row("tokens of a training set", "maskgit_nb", times["maskgit_nb"], 256, flops / statistics.median(rates))]
    for fed in [] if quick else [*memory_rows("cpu"), *file_rows()]:
        seconds = [1 / fed[key] for key in ("slowest", "rows_per_second", "fastest")]
        bound = fed.get("to_float_rows_per_second", fed.get("limit_rows_per_second"))
        by = "bytes to float" if "to_float_rows_per_second" in fed else "a plain copy"
        rows.append(row(f"batches: {fed['name']}", "maskgit_nb", seconds, 1, bound and 1 / bound, by))
    return rows


def distances_part(quick: bool) -> list[dict]:
    from maskgit_nb.fid import frechet_distance, image_features, lite_network, precision_recall
    network, images, rates = lite_network(), drawn_cats(64), []
    flops, config = count_flops(lambda: image_features(images, network)), TransformerConfig.preset("small")
    n, d = (500, 1280) if quick else (5000, 1280)
    a, b = (torch.randn(n, d, generator=seeded(i)).double().numpy() for i in range(2))
    ways = {"features": lambda: image_features(images, network), "Fréchet distance": lambda: frechet_distance(a, b),
            "precision and recall": lambda: precision_recall(a, b)}
    times = in_turns(ways, 5, lambda: rates.append(product_rate(config, 8)))
    rate, size = statistics.median(rates), f"{n} x {d}"
    return [row("features, EfficientNet-Lite0", "maskgit_nb", times["features"], 64, flops / rate),
            row(f"Fréchet distance, {size}", "maskgit_nb", times["Fréchet distance"], 1, None),
            row(f"precision and recall, {size}", "maskgit_nb", times["precision and recall"], 1, 6 * n * n * d / rate)]


def start_part(quick: bool) -> list[dict]:
    def run(*command: str) -> Callable:
        return lambda: subprocess.run([sys.executable, "-c", *command], check=True, stdout=subprocess.DEVNULL)
    started = "import sys; from maskgit_nb.cli import main; sys.exit(main())"  # what the script maskgit-nb does
    ways = {text: run(text) for text in ("import torch", "import maskgit_nb", "from maskgit_nb import MaskGIT")}
    ways |= {f"maskgit-nb {word}": run(started, word) for word in ("--help", "info")}
    times = in_turns(ways, 3 if quick else 9)
    limit = statistics.median(times["import torch"])
    return [row("start", name, seconds, 1, limit, "import torch") for name, seconds in times.items()]


def quality_part(quick: bool) -> list[dict]:
    from maskgit_nb.fid import image_features, lite_network
    images, holes, _ = open_pairs(64 if quick else 512)
    model, network = build("small"), lite_network()
    rows, kept, true = [], keeping(model), image_features(images, network)
    ways = {"maskgit_nb": model, "kept keys": kept, "bfloat16": model, "kept keys, bfloat16": kept, "refined": model,
            "refined, kept keys, bfloat16": kept}
    for name, mender in ways.items():
        options = REFINED if "refined" in name else {}
        with torch.autocast("cpu", HALF, enabled="bfloat16" in name):
            made = mend_all(mender, images, holes, steps=8, **options).float()
        rows.append(dict(case="quality", way=name, **score(images, made, holes, network, true)))
        print(rows[-1], flush=True)
    return rows


PARTS = dict(start=start_part, mend=mend_part, decode=decode_part, folder=folder_part, train=train_part,
             caches=caches_part, distances=distances_part, quality=quality_part)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="two minutes: small cases alone")
    parser.add_argument("--out", type=Path, help="JSON file, whose other parts stay; beside it a PNG of the shares")
    args = parser.parse_args()
    keep_freed_memory()  # as `maskgit-nb` does
    found = json.loads(args.out.read_text(encoding="utf-8")) if args.out and args.out.exists() else {}
    for part in args.parts:
        command = shlex.join(["python", "-m", "benchmarks", "--parts", part, *["--quick"] * args.quick])
        made = provenance(command, 0) | dict(threads=torch.get_num_threads())
        with torch.inference_mode() if part in ("mend", "decode", "folder") else contextlib.nullcontext():
            found[part] = made | dict(rows=PARTS[part](args.quick))
        if args.out: save_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", args.out)
    if args.out:
        rows = [row for part in found.values() for row in part["rows"]]
        show_shares(rows).savefig(args.out.with_suffix(".png"), dpi=100)


if __name__ == "__main__": main()
