"""Train `Evidence`, which says what the visible pixels around a hole tell of the codes in it.

usage: python -m benchmarks.evidence --data cats64/train --out DIR [--steps 4000] [--begin cats64-small]

The transformer stands still. Every batch holds photographs, half of them mirrored, a share --drawn of it new drawn
cats, with holes of `train --holes mixed`, of whose tokens a share gamma(u) is masked and the others are true. The
network's numbers are added to the transformer's logits, and their cross-entropy with the true codes on the masked
tokens is the loss. Writes evidence.safetensors, averaged weights, and evidence.json with the record; it goes on from
its newest state. With `torchrun --nproc-per-node N -m benchmarks.evidence ...` each of N processes takes a batch of its
own; the loss in the record is the first one's.
"""
import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.runs import Run, Trainer, average, join_processes
from maskgit_nb.cats import drawn_cats
from maskgit_nb.data import open_images, take_images
from maskgit_nb.images import random_holes, to_uint8
from maskgit_nb.inpainting import EVIDENCE, Evidence, MaskGIT, hole_to_mask, smooth_fill, visible_evidence
from maskgit_nb.masking import random_mask
from maskgit_nb.schedules import get_schedule
from maskgit_nb.stages import mixed_holes


def losses(model: MaskGIT, evidence: Evidence, images: Tensor, holes: Tensor, mask: Tensor,
           weights: list[float]) -> list[Tensor]:
    """The mean cross-entropy at `mask` (B,N), some of the tokens in `holes` (B,1,H,W) of `images` (B,3,H,W), with the
    network, and with `visible_evidence` of each weight."""
    vqgan, transformer = model.vqgan, model.transformer
    in_half = torch.autocast("cpu", torch.bfloat16)
    with torch.no_grad():
        filled = smooth_fill(images, holes).contiguous(memory_format=torch.channels_last)
        with in_half: latents = vqgan.latents(torch.cat([images, filled]))
        true, seen = vqgan.quantizer(latents).tokens.chunk(2)
        latents = latents[len(images):]
        tokens = torch.where(hole_to_mask(holes), true, seen).masked_fill(mask, transformer.mask_token_id)
        with in_half: logits = transformer(tokens, only=mask).float()
        said = [visible_evidence(vqgan, filled, holes, weight, latents)[mask] for weight in weights]
    with in_half: said.insert(0, evidence(vqgan, filled, holes, latents)[mask])
    return [F.cross_entropy(logits + bias.float(), true[mask]) for bias in said]


def validate(model: MaskGIT, evidence: Evidence, images: Tensor) -> list[float]:
    """`losses` on whole free-form and then whole mixed holes: of the network, and of the formula with weights 0 and
    `EVIDENCE`."""
    found = []
    for draw_holes in (random_holes, mixed_holes):
        holes, sums = draw_holes(len(images), 64, torch.Generator().manual_seed(5)), torch.zeros(4)
        for x, hole in zip(images.split(16), holes.split(16), strict=True):
            mask = hole_to_mask(hole)
            with torch.no_grad(): parts = losses(model, evidence, x, hole, mask, [0.0, EVIDENCE])
            sums += torch.stack([*parts, torch.ones(())]) * mask.sum()
        found += (sums[:3] / sums[3]).tolist()
    return [round(value, 4) for value in found]


def draw(photographs: Tensor, args: argparse.Namespace, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    "A batch: images, their holes, and the tokens that are masked."
    drawn, gamma = round(args.drawn * args.batch_size), get_schedule("cosine")
    rows = torch.randint(len(photographs), (args.batch_size - drawn,), generator=generator)
    seed, images = int(torch.randint(2**31, (), generator=generator)), photographs[rows].float() / 127.5 - 1
    if drawn: images = torch.cat([images, drawn_cats(drawn, seed)])
    flip = (torch.rand(len(images), generator=generator) < 0.5).view(-1, 1, 1, 1)
    holes = mixed_holes(len(images), 64, generator)[torch.randperm(len(images), generator=generator)]
    ratio = torch.tensor([gamma(u) for u in torch.rand(len(images), generator=generator).tolist()]).clamp(0, 1)
    mask = random_mask(ratio, candidates=hole_to_mask(holes), generator=generator)
    return torch.where(flip, images.flip(-1), images), holes, mask


class EvidenceTrainer(Trainer):
    "The network and its optimizer, beside a `model` that stands still."
    def __init__(self, args: argparse.Namespace, model: MaskGIT):
        self.model = model
        net = Evidence.from_pretrained(args.begin) if args.begin else Evidence()
        for part in (net, model.vqgan): part.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(net.parameters(), args.lr, betas=(0.9, 0.98))
        super().__init__(args, net, self.optimizer)

    def learn(self, images: Tensor, holes: Tensor, mask: Tensor) -> list[float]:
        "One step on a batch of `draw`; returns its loss."
        self.warm_up(self.optimizer, 100)
        loss, = losses(self.model, self.net, images, holes, mask, weights=[])
        self.optimizer.zero_grad()
        loss.backward()
        average(self.net)
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.count()
        return [loss.item()]


def train(args: argparse.Namespace) -> None:
    "Train for `args.steps` steps, and write the weights and the record."
    join_processes(args.seed)
    model = MaskGIT.from_pretrained(args.weights)
    trainer, pictures = EvidenceTrainer(args, model), open_images([args.data], 64)
    photographs = torch.stack([to_uint8(picture) for picture in pictures])
    val = take_images(args.val, 64) if args.val else None
    columns = [f"{holes}, {what}" for holes in ("free-form", "mixed") for what in ("learned", "none", "formula")]
    run = Run(trainer, args, "evidence", "evidence", ["loss", *columns])

    def measure() -> list[float]:
        asked = val is not None and (trainer.step % 500 == 0 or not run.going)
        return validate(model, trainer.mean.module, val) if asked else []

    while run.going: run.tell(trainer.learn(*draw(photographs, args, run.generator)), measure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder of photographs")
    parser.add_argument("--val", help="a folder of photographs to measure the loss on")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", default="cats64-small")
    parser.add_argument("--begin", help="a name or folder with an evidence.safetensors to go on from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=32, help="of each process")
    parser.add_argument("--drawn", type=float, default=0.25, help="share of drawn cats")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--ema", type=float, default=0.995)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    train(args)


if __name__ == "__main__":
    main()
