"""Train `Refiner`, which looks once more at what MaskGIT put into a hole.

usage: python -m benchmarks.refine sample --data cats64/train --out DIR [--shards 10]
       python -m benchmarks.refine train --data DIR --out DIR [--steps 4000] [--begin cats64-small] [--blocks 10]

`sample` mends photographs, or with --data drawn drawn cats, with holes of `train --holes mixed` in 1, 2, 4 or 8 steps,
and writes shards of 512 originals, mended pictures and holes. `train` begins from the direct network with the
perceptual loss, or from the refiner of --begin, deepened to --blocks, and learns from half a batch of each kind:
absolute error, perceptual loss, and a discriminator of small heads on the features of the same classifier (Sauer et al.
2021, "Projected GANs"), looking only where a hole is. Its push at the pixels is --adversarial times as long as that of
the other two. Writes refiner.safetensors, averaged weights, and refine.json with the record; it goes on from its newest
state. With `torchrun --nproc-per-node N -m benchmarks.refine train ...` each of N processes takes a batch of its own.
Needs: pip install 'maskgit_nb[perceptual]'
"""
import argparse
import dataclasses
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.runs import Run, Trainer, average, join_processes
from maskgit_nb.cats import drawn_cats
from maskgit_nb.data import open_images
from maskgit_nb.files import replacing
from maskgit_nb.images import to_uint8
from maskgit_nb.inpainting import REFINED, MaskGIT, Refiner, composite
from maskgit_nb.scores import HoleCNN
from maskgit_nb.stages import mixed_holes
from maskgit_nb.vqgan import PerceptualLoss

STEPS, SHARES = (1, 2, 4, 8), (0.15, 0.2, 0.3, 0.35)  # of MaskGIT, and of the batches
OPTIONS = REFINED | dict(refine=False)  # so that it learns from what it will be given
FEW, SHARD = 32, 16  # pictures mended alike, and how many such batches make a shard


def sample(args: argparse.Namespace) -> None:
    "Write `args.shards` shards of mended pictures."
    model, generator = MaskGIT.from_pretrained(args.weights), torch.Generator().manual_seed(args.seed)
    model.need("evidence")
    drawn = args.data == "drawn"
    pictures = None if drawn else open_images([args.data], 64)
    order = None if drawn else torch.randperm(len(pictures), generator=generator).tolist()
    for shard in range(args.shards):
        began, parts = time.perf_counter(), []
        for batch in range(SHARD):
            if drawn: images = drawn_cats(FEW, args.seed * 100_000 + shard * 100 + batch)
            else:
                first = (shard * SHARD + batch) * FEW
                images = torch.stack([pictures[order[(first + i) % len(order)]] for i in range(FEW)])
                flip = torch.rand(FEW, generator=generator) < 0.5
                images = torch.where(flip.view(-1, 1, 1, 1), images.flip(-1), images)
            holes = mixed_holes(FEW, 64, generator)[torch.randperm(FEW, generator=generator)]
            steps = STEPS[int(torch.multinomial(torch.tensor(SHARES), 1, generator=generator))]
            with torch.autocast("cpu", torch.bfloat16):
                mended = [model.inpaint(x, hole, steps=steps, generator=generator, **OPTIONS).images.float()
                          for x, hole in zip(images.split(8), holes.split(8), strict=True)]
            parts.append((to_uint8(images), to_uint8(torch.cat(mended)), holes))
        with replacing(args.out / f"{'drawn' if drawn else 'photo'}-{shard:03d}.pt") as partial:
            torch.save(tuple(torch.cat(part) for part in zip(*parts, strict=True)), partial)
        print(shard, f"{FEW * SHARD / (time.perf_counter() - began):.1f} pictures/s", flush=True)


class FeatureDiscriminator(nn.Module):
    """Real-or-made scores of features (B,C,h,w) of several depths, each with the share of its place that was missing;
    of the first depth, the largest, one for every four places."""
    def __init__(self, channels: list[int], width: int = 64):
        super().__init__()
        self.heads = nn.ModuleList(nn.Sequential(
            nn.Conv2d(c + 1, width, 1), nn.LeakyReLU(0.2), nn.Conv2d(width, width, 3, 1 if depth else 2, 1),
            nn.LeakyReLU(0.2), nn.Conv2d(width, 1, 1)) for depth, c in enumerate(channels))

    def forward(self, features: list[Tensor], holes: Tensor) -> list[tuple[Tensor, Tensor]]:
        "For each depth its scores (B,1,h,w) and their weights, the shares (B,1,h,w) that lay in `holes` (B,1,H,W)."
        def share(like: Tensor) -> Tensor: return F.adaptive_avg_pool2d(holes.float(), like.shape[-2:])

        scores = [head(torch.cat([f * f.shape[1] ** 0.5, share(f)], 1)).float()
                  for head, f in zip(self.heads, features, strict=True)]
        return [(score, share(score)) for score in scores]


def in_holes(scores: list[tuple[Tensor, Tensor]], of=lambda x: x) -> Tensor:
    "The mean of `of(score)` over what was missing, and over the depths."
    return sum((of(score) * share).sum() / share.sum() for score, share in scores) / len(scores)


def deepen(net: Refiner, blocks: int) -> Refiner:
    "A refiner of `blocks` blocks that answers as `net`: the new ones, after its own, add nothing yet."
    if blocks < net.config.blocks:
        raise SystemExit(f"--blocks must be at least {net.config.blocks}, those it begins with; got {blocks}")
    deep, own = Refiner(dataclasses.replace(net.config, blocks=blocks)), len(net.layers) - 4
    for block in deep.layers[own:-4]:
        for part in block.block[-1].parameters(): nn.init.zeros_(part)
    deep.layers = nn.Sequential(*net.layers[:own], *deep.layers[own:-4], *net.layers[-4:])
    return deep


class RefinerTrainer(Trainer):
    "The refiner, the discriminator and their optimizers. Of the numbers, `scale` is that of the discriminator's push."
    def __init__(self, args: argparse.Namespace):
        self.perceptual = PerceptualLoss(args.size)
        if args.begin: net = Refiner.from_pretrained(args.begin)
        else:
            net, direct = Refiner(), HoleCNN.from_pretrained(args.weights, "direct_perceptual.safetensors")
            net.load_state_dict(direct.state_dict())
            for part in net.layers[-2].parameters(): nn.init.zeros_(part)  # to begin with, no correction
        net = deepen(net, net.config.blocks if args.blocks is None else args.blocks)
        with torch.no_grad(): channels = [f.shape[1] for f in self.perceptual.features(torch.zeros(1, 3, 64, 64))]
        self.critic = FeatureDiscriminator(channels)
        for part in (net, self.perceptual, self.critic): part.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(net.parameters(), args.lr, betas=(0.5, 0.99))
        self.critics = torch.optim.Adam(self.critic.parameters(), 1e-3, betas=(0.0, 0.99))
        super().__init__(args, net, self.critic, self.optimizer, self.critics)

    def learn(self, real: Tensor, mended: Tensor, holes: Tensor) -> list[float]:
        "One step on images (B,3,H,W) and holes (B,1,H,W); returns absolute error, perceptual and critic's loss."
        args, perceptual, critic = self.args, self.perceptual, self.critic
        warm = self.warm_up(self.optimizer, 200)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):  # its cache would hold the first weights
            made = self.net(mended, holes).float()
            leaf = made.detach().requires_grad_()
            ours = perceptual.features(leaf)
            with torch.no_grad(): theirs = perceptual.features(real)
            far = sum((a - b).pow(2).sum(1).mean() for a, b in zip(ours, theirs, strict=True))
            error = (leaf - real).abs().mean()
            told = (in_holes(critic(theirs, holes), lambda x: F.relu(1 - x))
                    + in_holes(critic([f.detach() for f in ours], holes), lambda x: F.relu(1 + x))) / 2
            self.critics.zero_grad()
            told.backward()
            average(critic)
            self.critics.step()
            critic.requires_grad_(False)
            fooled = -in_holes(critic(ours, holes))
            critic.requires_grad_(True)
            near = error + args.perceptual * far
            if self.step % 25 == 0:
                lengths = [torch.autograd.grad(loss, leaf, retain_graph=True)[0].norm() for loss in (near, fooled)]
                ratio = (lengths[0] / lengths[1]).view(1)
                if dist.is_initialized(): dist.all_reduce(ratio, dist.ReduceOp.MAX)
                before = self.numbers.get("scale", ratio.item())
                self.numbers["scale"] = 0.8 * before + 0.2 * ratio.item()
            (near + args.adversarial * warm * self.numbers["scale"] * fooled).backward()
        self.optimizer.zero_grad()
        made.backward(leaf.grad)
        average(self.net)
        self.optimizer.step()
        self.count()
        return [error.item(), far.item(), told.item()]


def open_shards(folder: Path) -> dict[str, list[Tensor]]:
    "Originals, mended pictures (M,3,64,64; uint8) and holes (M,1,64,64) of both kinds."
    kinds = {kind: sorted(folder.glob(f"{kind}-*.pt")) for kind in ("photo", "drawn")}
    for kind, paths in kinds.items():
        if not paths: raise SystemExit(f"no {kind}-*.pt in {folder}: run `python -m benchmarks.refine sample` first")
    return {kind: [torch.cat(part) for part in zip(*(torch.load(path, weights_only=True) for path in paths),
                                                   strict=True)] for kind, paths in kinds.items()}


def draw(shards: dict[str, list[Tensor]], batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    "Half a batch of each kind, half of them mirrored: originals, mended pictures in [-1,1], and holes."
    parts = []
    for kind in shards.values():
        rows = torch.randint(len(kind[0]), (batch // len(shards),), generator=generator)
        parts.append([part[rows] for part in kind])
    flip = (torch.rand(batch, generator=generator) < 0.5).view(-1, 1, 1, 1)
    real, mended, holes = (torch.where(flip, x.flip(-1), x) for x in map(torch.cat, zip(*parts, strict=True)))
    real, mended = (x.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last) for x in (real, mended))
    return real, composite(real, mended, holes), holes


def train(args: argparse.Namespace) -> None:
    "Train for `args.steps` steps, and write the weights and the record."
    join_processes(args.seed)
    trainer, shards = RefinerTrainer(args), open_shards(args.data)
    pictures = {kind: len(parts[0]) for kind, parts in shards.items()}
    run = Run(trainer, args, "refine", "refiner", ["absolute error", "perceptual", "discriminator"], pictures=pictures)
    while run.going: run.tell(trainer.learn(*draw(shards, args.batch_size, run.generator)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="cats64-small")
    parser.add_argument("--seed", type=int, default=0)
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("sample")
    part.add_argument("--data", required=True, help="a folder of photographs, or drawn")
    part.add_argument("--out", type=Path, required=True)
    part.add_argument("--shards", type=int, default=10)
    part.set_defaults(run=sample)
    part = parts.add_parser("train")
    part.add_argument("--data", type=Path, required=True, help="where `sample` wrote its shards")
    part.add_argument("--out", type=Path, required=True)
    part.add_argument("--begin", help="a name or folder with a refiner to go on from")
    part.add_argument("--blocks", type=int, help="residual blocks, if more than those it begins with")
    part.add_argument("--steps", type=int, default=4000)
    part.add_argument("--batch-size", type=int, default=16, help="of each process")
    part.add_argument("--lr", type=float, default=7e-4)
    part.add_argument("--perceptual", type=float, default=0.4)
    part.add_argument("--adversarial", type=float, default=1.0)
    part.add_argument("--size", type=int, default=96, help="pixels at which the classifier looks at the pictures")
    part.add_argument("--ema", type=float, default=0.998)
    part.set_defaults(run=train)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    args.run(args)


if __name__ == "__main__":
    main()
