"""What does a mending cost on a CPU, what do its exact savings bring, and how near is that to what this machine can do?

usage: python -m benchmarks.decode [--presets small lab] [--batches 1 16] [--repeats 5] [--out nbs/results/decode.json]

Mends drawn cats with free-form holes in eight steps, in turns (A B C A B C), in three ways: `before` computes logits
for every token and runs the encoder a second time for the evidence, `after` is `MaskGIT.inpaint` as it is, and `peer`
is `before` with torch's own `nn.TransformerEncoder` of the same size. `small` are the shipped weights, the others are
untrained: they cost the same. `loop_ms` is the loop of `decode`, `inpaint_ms` the whole, both for one picture: median,
least and most. `share_of_limit` says how much of it the matrix products alone would need: their FLOPs, counted, at the
rate at which this machine multiplies matrices of the same shapes (`gflops_a_second`). Needs an idle machine.
"""
import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from maskgit_nb.cats import drawn_cats
from maskgit_nb.decoding import Step, decode
from maskgit_nb.files import provenance, save_text
from maskgit_nb.images import random_holes
from maskgit_nb.inpainting import MaskGIT, hole_to_mask, visible_evidence
from maskgit_nb.schedules import mask_counts
from maskgit_nb.transformer import BidirectionalTransformer, TransformerConfig, flops_per_pass
from maskgit_nb.vqgan import VQGAN, VQGANConfig

STEPS, AT_ONCE = 8, 8  # steps of the loop; pictures that `predict` gives to a transformer at once


class AllLogits(nn.Module):
    "A transformer that is always asked for all logits."
    def __init__(self, inner: BidirectionalTransformer):
        super().__init__()
        self.inner, self.config, self.mask_token_id = inner, inner.config, inner.mask_token_id
        self.position_embedding = inner.position_embedding

    def forward(self, tokens: Tensor) -> Tensor: return self.inner(tokens)


class Peer(nn.Module):
    "torch's own encoder between the embedding and a head as ours, without the kit's two helps."
    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config, self.mask_token_id, dim, codes = config, config.codebook_size, config.dim, config.codebook_size
        self.token_embedding = nn.Embedding(codes + 1, dim)
        self.position_embedding = nn.Parameter(torch.randn(config.num_tokens, dim))
        layer = nn.TransformerEncoderLayer(dim, config.heads, config.hidden, activation="gelu", batch_first=True,
                                           norm_first=config.norm_first)
        self.encoder = nn.TransformerEncoder(layer, config.layers, nn.LayerNorm(dim), enable_nested_tensor=False)
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim), nn.Linear(dim, codes))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(self.token_embedding(tokens) + self.position_embedding))


def product_rate(config: TransformerConfig, pictures: int) -> float:
    "FLOPs a second of the matrix products of a block and the head, on the rows of so many pictures."
    n, d, rows, heads = config.num_tokens, config.dim, pictures * config.num_tokens, pictures * config.heads
    outers = [(d, 3 * d), (d, d), (d, config.hidden), (config.hidden, d), (d, d), (d, config.codebook_size)]
    shapes = [((rows, a), (a, b)) for a, b in outers]
    shapes += [((heads, n, a), (heads, a, b)) for a, b in ((d // config.heads, n), (n, d // config.heads))]
    flops, seconds = 0, 0.0
    for left, right in shapes:
        x, y = torch.randn(left), torch.randn(right)
        made, times = x @ y, []
        for _ in range(9):
            begun = time.perf_counter()
            torch.matmul(x, y, out=made)
            times.append(time.perf_counter() - begun)
        seconds += statistics.median(times)
        flops += 2 * made.numel() * left[-1]
    return flops / seconds


def build(preset: str) -> MaskGIT:
    if preset == "small": return MaskGIT.from_pretrained("cats64-small")
    torch.manual_seed(0)
    return MaskGIT(VQGAN(VQGANConfig.preset(preset)), BidirectionalTransformer(TransformerConfig.preset(preset)))


def timed(model: MaskGIT, twice: bool, images: Tensor, holes: Tensor) -> tuple[float, float, Tensor]:
    "Seconds of the loop and of a whole mending, which encodes `twice` if asked to, and its tokens."
    loops = []
    def clocked(*given, **options) -> Iterator[Step]:
        begun = time.perf_counter()
        yield from decode(*given, **options)
        loops.append(time.perf_counter() - begun)

    def evidence(*given) -> Tensor: return visible_evidence(*given[:4 if twice else 5])  # the fifth: what was encoded

    with patch.multiple("maskgit_nb.inpainting", decode=clocked, visible_evidence=evidence):
        begun = time.perf_counter()
        tokens = model.inpaint(images, holes, steps=STEPS, generator=torch.Generator().manual_seed(0)).tokens
        return loops[0], time.perf_counter() - begun, tokens


def measure(preset: str, batch: int, repeats: int) -> list[dict]:
    ours = build(preset)
    config, vqgan, images = ours.transformer.config, ours.vqgan, drawn_cats(batch, seed=1)
    holes = random_holes(batch, generator=torch.Generator().manual_seed(0))
    bare = replace(config, code_dim=0, local=False)
    ways = dict(before=MaskGIT(vqgan, AllLogits(ours.transformer)), after=ours, peer=MaskGIT(vqgan, Peer(bare)))
    asked = [count for n in hole_to_mask(holes).sum(1).tolist() for count in [n, *mask_counts("cosine", n, STEPS)][:-1]]
    loop = dict(before=len(asked) * flops_per_pass(config), peer=len(asked) * flops_per_pass(bare),
                after=sum(flops_per_pass(config, only=count) for count in asked))
    with FlopCounterMode(display=False) as encoder, torch.no_grad(): vqgan.latents(images)
    with FlopCounterMode(display=False) as decoder: vqgan.decode(torch.zeros(batch, config.num_tokens).long())
    runs, rates, rows = {name: [] for name in ways}, [], []
    for _ in range(repeats + 1):
        rates.append(product_rate(config, min(batch, AT_ONCE)))
        for name, model in ways.items(): runs[name].append(timed(model, name != "after", images, holes))
    rate = statistics.median(rates)
    for name, (_, *found) in runs.items():  # the first warmed up
        row = dict(preset=preset, batch=batch, way=name, gflops_a_second=rate / 1e9)
        if name == "after": row["same_tokens"] = torch.equal(found[0][2], runs["before"][0][2])
        whole = loop[name] + (1 if name == "after" else 2) * encoder.get_total_flops() + decoder.get_total_flops()
        for i, (part, flops) in enumerate(dict(loop=loop[name], inpaint=whole).items()):
            ms = [1000 * run[i] / batch for run in found]
            row[f"{part}_ms"] = dict(median=statistics.median(ms), least=min(ms), most=max(ms))
            row[f"{part}_share_of_limit"] = 1000 * flops / rate / batch / statistics.median(ms)
        rows.append(row)
        print(row, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["small", "lab"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    for preset in args.presets:
        for batch in args.batches: rows += measure(preset, batch, args.repeats)
    made = provenance(shlex.join(["python", "-m", "benchmarks.decode", *sys.argv[1:]]), 0)
    if args.out: save_text(json.dumps(made | dict(rows=rows), indent=1) + "\n", args.out)


if __name__ == "__main__": main()
