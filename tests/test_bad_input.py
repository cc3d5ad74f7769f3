"What people really pass in: every refusal names what was given and what is allowed; odd but right input works."
import io
import pickle
import shutil
import signal
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from maskgit_nb.cats import drawn_cats
from maskgit_nb.cli import main
from maskgit_nb.data import ImageFolder, find_pictures, load_hole, load_image
from maskgit_nb.decoding import CONFIDENCES, ORDERS, decode, halton_order
from maskgit_nb.files import shipped_weights
from maskgit_nb.inpainting import GENERATING, MaskGIT, hole_to_mask
from maskgit_nb.masking import mvtm_loss, random_mask
from maskgit_nb.schedules import SCHEDULES, mask_counts
from maskgit_nb.stages import fit_maskgit, fit_vqgan
from maskgit_nb.training import TrainConfig
from maskgit_nb.transformer import BidirectionalTransformer, TransformerConfig
from maskgit_nb.vqgan import VQGAN, VQGANConfig

LAB = Path(__file__).parent / "lab"


def seeded(seed: int = 0) -> torch.Generator: return torch.Generator().manual_seed(seed)


def refusal(function, *args, error=ValueError, **options) -> str:
    "The message with which a call is refused."
    with pytest.raises(error) as caught: function(*args, **options)
    return str(caught.value)


def names(message: str, *expected) -> None:
    "The message holds every one of these."
    for word in expected: assert str(word) in message, f"{word!r} is not in {message!r}"


@pytest.fixture
def images(): return torch.rand(2, 3, 16, 16, generator=seeded()) * 2 - 1


@pytest.fixture
def holes():
    holes = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    holes[:, :, 4:9, 3:11] = True
    return holes


# --- images and holes that do not fit the model

@pytest.mark.parametrize("shape",
                         [(2, 3, 20, 16), (2, 3, 32, 32), (2, 1, 16, 16), (2, 4, 16, 16), (3, 16, 16), (2, 16, 16, 3)])
def test_images_of_wrong_size_or_channels(maskgit, shape):
    x = torch.zeros(shape)
    names(refusal(maskgit.inpaint, x, torch.zeros(2, 1, 16, 16, dtype=torch.bool)), "images must be (B,3,16,16)", shape)
    names(refusal(maskgit.vqgan.encode, x), "images must be (B,3,16,16)", shape)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_images_of_whole_numbers(maskgit, images, holes, dtype):
    names(refusal(maskgit.inpaint, images.to(dtype), holes), "images must be float", dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_images_of_another_precision_work(maskgit, images, holes, dtype):
    "As their float32 values do; the known pixels come back as they were."
    result, plain = (maskgit.inpaint(x, holes, generator=seeded()).images
                     for x in (images.to(dtype), images.to(dtype).float()))
    known = ~holes.expand_as(images)
    assert torch.equal(result[known].to(dtype), images.to(dtype)[known])
    assert result.isfinite().all() and (result.float() - plain).abs().max() < 1e-5


@pytest.mark.parametrize("shape",
                         [(2, 1, 8, 8), (2, 1, 16, 8), (1, 1, 16, 16), (3, 1, 16, 16), (2, 3, 16, 16), (2, 16, 16)])
def test_hole_of_another_size(maskgit, images, shape):
    names(refusal(maskgit.inpaint, images, torch.zeros(shape, dtype=torch.bool)), "holes must be bool (2,1,16,16)",
          "True = missing", shape)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int64])
def test_hole_that_is_not_bool(maskgit, images, holes, dtype):
    names(refusal(maskgit.inpaint, images, holes.to(dtype)), "holes must be bool", "True = missing", dtype)
    names(refusal(hole_to_mask, holes.to(dtype), 4), "holes must be bool", dtype)


def test_hole_to_mask_of_a_size_that_does_not_divide():
    names(refusal(hole_to_mask, torch.zeros(1, 1, 20, 16, dtype=torch.bool), 16), "multiples of 16", (20, 16))
    names(refusal(hole_to_mask, torch.zeros(1, 1, 16, 16, dtype=torch.bool), 4, dilate=-1), "dilate", -1)


@pytest.mark.parametrize("composite", [True, False])
@pytest.mark.parametrize("dilate", [0, 2])
def test_empty_hole_returns_the_image_bit_for_bit(maskgit, images, holes, composite, dilate):
    holes[0] = False  # beside an image that has one
    result = maskgit.inpaint(images, holes, composite=composite, dilate=dilate, generator=seeded())
    assert torch.equal(result.images[0].view(torch.int32), images[0].view(torch.int32)) and not result.mask[0].any()
    assert not torch.equal(result.images[1], images[1])
    alone = maskgit.inpaint(images, torch.zeros_like(holes), composite=composite, dilate=dilate, frames=True)
    assert torch.equal(alone.images.view(torch.int32), images.view(torch.int32)) and alone.steps == []


@pytest.mark.parametrize("composite", [True, False])
def test_hole_over_everything_generates(maskgit, images, composite):
    everything = torch.ones(2, 1, 16, 16, dtype=torch.bool)
    result = maskgit.inpaint(images, everything, composite=composite, generator=seeded(), **GENERATING)
    assert result.mask.all() and torch.equal(result.images, maskgit.generate(2, generator=seeded()).images)
    assert not torch.equal(result.images[0], result.images[1])


def test_no_images_at_all(maskgit):
    names(refusal(maskgit.generate, 0), "n must be at least 1", 0)


def test_tokens_of_wrong_shape(maskgit):
    names(refusal(maskgit.transformer, torch.zeros(2, 9, dtype=torch.long)), "tokens must be (B,16)", (2, 9))
    tokens, mask = torch.zeros(2, 16, dtype=torch.long), torch.ones(1, 16, dtype=torch.bool)
    names(refusal(lambda: list(decode(maskgit.transformer, tokens, mask))), "tokens and mask", (2, 16), (1, 16))


def test_stages_that_do_not_go_together(maskgit):
    other = BidirectionalTransformer(TransformerConfig(num_tokens=9, codebook_size=7, dim=8, layers=1, heads=2,
                                                       hidden=8))
    names(refusal(MaskGIT, maskgit.vqgan, other), "16 tokens of 24 codes", "9 of 7")


# --- options that do not exist

def test_unknown_schedule_lists_the_names(maskgit, images, holes):
    for call in (lambda: mask_counts("cosin", 16, 4), lambda: maskgit.inpaint(images, holes, schedule="cosin")):
        names(refusal(call), "schedule must be one of", *SCHEDULES, "or a callable", "'cosin'")
    names(refusal(mask_counts, None, 16, 4), "schedule must be one of", None)


@pytest.mark.parametrize("height", [-0.5, 1.5, float("nan")])
def test_schedule_that_leaves_its_range(height):
    names(refusal(mask_counts, lambda r: height, 16, 4), "[0,1]", height)


def test_unknown_order_or_confidence_lists_the_names(maskgit, images, holes):
    names(refusal(maskgit.inpaint, images, holes, order="sideways"), "order must be one of", *ORDERS, "'sideways'")
    names(refusal(maskgit.inpaint, images, holes, confidence="high"), "confidence must be one of", *CONFIDENCES,
          "'high'")


@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps(maskgit, images, holes, steps):
    names(refusal(maskgit.inpaint, images, holes, steps=steps), "steps must be", "at least 1", steps)
    names(refusal(maskgit.generate, 1, steps=steps), "steps must be", "at least 1", steps)
    names(refusal(TrainConfig, steps=steps), "steps must be", "at least 1", steps)


@pytest.mark.parametrize("option, value",
                         [("top_k", 0), ("top_p", 0.0), ("top_p", 1.5), ("sampling_temperature", -1.0),
                          ("temperature", -1.0), ("guidance", -1.0), ("sweet_spot", 0), ("dilate", -1)])
def test_options_out_of_range(maskgit, images, holes, option, value):
    names(refusal(maskgit.inpaint, images, holes, **{option: value}), option, value)


def test_presets_and_ratios_that_do_not_exist():
    for config in (VQGANConfig, TransformerConfig):
        names(refusal(config.preset, "huge"), "tiny", "small", "lab", "paper", "'huge'")
    for ratio in (-0.1, 1.1, float("nan")):
        names(refusal(random_mask, torch.tensor([ratio])), "ratio must be (B,) within [0,1]")
    names(refusal(random_mask, torch.tensor([0.5, 0.5]),
                  candidates=torch.eye(2, dtype=torch.bool) & torch.tensor([True, False])), "row 1")


def test_loss_needs_a_mask_of_bool_with_something_in_it():
    logits, tokens = torch.randn(2, 5, 3, generator=seeded()), torch.zeros(2, 5, dtype=torch.long)
    names(refusal(mvtm_loss, logits, tokens, torch.zeros(2, 5, dtype=torch.bool)), "nothing is masked")
    names(refusal(mvtm_loss, logits, tokens, torch.ones(2, 4, dtype=torch.bool)), (2, 5, 3), (2, 4))
    # as an index it would pick rows 0 and 1
    names(refusal(mvtm_loss, logits, tokens, torch.ones(2, 5, dtype=torch.long)), "bool", torch.int64)


def test_halton_order_of_no_square_grid_does_not_run_for_ever():
    def too_long(*_): raise TimeoutError("halton_order(12) still runs after 3 s")
    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(3)
    try: names(refusal(halton_order, 12), "square", 12)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# --- picture files

GREY = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))  # a ramp of 64 levels
COLOUR = np.stack([GREY, GREY.T, 255 - GREY], axis=-1)
ALPHA = np.where(np.arange(64)[:, None] < 32, 255, 0).astype(np.uint8).repeat(64, 1)  # opaque above, transparent below


def as_image(pixels: np.ndarray) -> torch.Tensor:
    "Bytes (64,64,3) or (64,64) as load_image should give them."
    return torch.tensor(np.broadcast_to(pixels if pixels.ndim == 3 else pixels[..., None],
                                        (64, 64, 3)).copy()).permute(2, 0, 1) / 127.5 - 1


def over_white(pixels: np.ndarray) -> torch.Tensor:
    return as_image(np.where((ALPHA if pixels.ndim == 2 else ALPHA[..., None]) == 255, pixels, 255))


@pytest.mark.parametrize("mode, expected",
                         [("L", as_image(GREY)), ("LA", over_white(GREY)), ("RGB", as_image(COLOUR)),
                          ("RGBA", over_white(COLOUR)), ("1", as_image(np.where(ALPHA, 255, 0)))])
def test_png_of_any_mode_opens_as_rgb(tmp_path, mode, expected):
    bands = {"L": [GREY], "LA": [GREY, ALPHA], "1": [ALPHA]}.get(mode, [*COLOUR.transpose(2, 0, 1), ALPHA][:len(mode)])
    picture = Image.merge(mode,
                          [Image.fromarray(band)
                           for band in bands]) if mode != "1" else Image.fromarray(ALPHA).convert("1")
    picture.save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as saved: assert saved.mode == mode
    assert torch.equal(load_image(tmp_path / "x.png"), expected)
    assert load_image(tmp_path / "x.png", size=32).shape == (3, 32, 32)


def test_palette_png_opens_as_rgb(tmp_path):
    picture = Image.fromarray(COLOUR // 64 * 64).quantize(64)
    picture.save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as saved: assert saved.mode == "P"
    assert torch.equal(load_image(tmp_path / "x.png"), as_image(np.asarray(picture.convert("RGB"))))


@pytest.mark.parametrize("size", [64, 32])
def test_transparent_palette_png_becomes_white(tmp_path, size):
    picture = Image.fromarray(np.where(ALPHA, 1, 0).astype(np.uint8), "L").convert("P")
    picture.putpalette([0, 0, 0, 200, 0, 0])  # colour 0 is black and, by the file, transparent; colour 1 is red
    picture.save(tmp_path / "x.png", transparency=0)
    x = load_image(tmp_path / "x.png", size)
    assert torch.equal(x[:, 0, 0], torch.tensor([200.0, 0, 0]) / 127.5 - 1) and (x[:, -1, -1] == 1).all()


@pytest.mark.parametrize("size", [None, 64, 32])
def test_16_bit_png_keeps_its_greys(tmp_path, size):
    levels = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    Image.fromarray(levels).save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as saved: assert saved.mode.startswith("I")
    x = load_image(tmp_path / "x.png", size)
    expected = torch.tensor(levels / 32767.5 - 1).float()
    if size == 32: expected = expected.view(64, 32, 2).mean(-1)[:32]
    assert x.shape[0] == 3 and (x - expected).abs().max() <= (0.02 if size == 32 else 1 / 127.5)


def test_16_bit_mask_is_cut_in_the_middle(tmp_path):
    Image.fromarray(np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))).save(tmp_path / "mask.png")
    hole = load_hole(tmp_path / "mask.png")
    assert hole[:, :, :32].all() and not hole[:, :, 32:].any()


def test_mask_files_white_is_known_and_black_is_missing(tmp_path):
    for mode in ("L", "RGB", "1", "P"):
        Image.fromarray(ALPHA).convert(mode).save(tmp_path / "mask.png")
        hole = load_hole(tmp_path / "mask.png")
        assert hole.shape == (1, 64, 64) and not hole[:, :32].any() and hole[:, 32:].all()
        assert torch.equal(load_hole(tmp_path / "mask.png", invert=True), ~hole)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated_file_is_named(tmp_path, form, share):
    path = tmp_path / "half.png"
    noise = torch.randint(256, (64, 64, 3), generator=seeded(), dtype=torch.uint8).numpy()
    whole = io.BytesIO()
    Image.fromarray(noise).save(whole, form)
    path.write_bytes(whole.getvalue()[:int(len(whole.getvalue()) * share)])
    Image.fromarray(COLOUR).save(tmp_path / "good.png")
    for load in (load_image, load_hole): names(refusal(load, path), "cannot read", path)
    folder = ImageFolder(tmp_path)
    assert len(folder) == 2 and torch.equal(folder[0], as_image(COLOUR))  # the good one still loads
    names(refusal(lambda: folder[1]), "cannot read", path)


def test_file_that_is_no_picture_is_named(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").write_text("no picture", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("no picture", encoding="utf-8")
    Image.fromarray(COLOUR).save(tmp_path / "picture.of.unknown.name", "JPEG")
    for name in ("a.png", "b.png", "notes.txt"):
        names(refusal(load_image, tmp_path / name), "cannot read", tmp_path / name)
    names(refusal(load_image, tmp_path / "none.png", error=FileNotFoundError), tmp_path / "none.png")
    found = find_pictures(tmp_path)  # what claims to be a picture is not passed over in silence; other files are
    assert tmp_path / "picture.of.unknown.name" in found and tmp_path / "a.png" in found
    assert tmp_path / "notes.txt" not in found


def test_folder_that_is_empty_or_missing(tmp_path):
    for open_folder in (find_pictures, ImageFolder):
        names(refusal(open_folder, tmp_path), "no pictures in", tmp_path)
        names(refusal(open_folder, tmp_path / "nowhere", error=FileNotFoundError), "no folder", tmp_path / "nowhere")


def test_index_beyond_the_folder(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "x.png")
    folder = ImageFolder(tmp_path, flip=True)
    assert torch.equal(folder[-1], folder[1]) and torch.equal(folder[1], folder[0].flip(-1))
    for index in (2, -3): names(refusal(lambda i: folder[i], index, error=IndexError), index, "of 2")


# --- weights

STAGES = ("vqgan.safetensors", "transformer.safetensors")
FILES = (*STAGES, "refiner.safetensors", "evidence.safetensors")


@pytest.fixture
def weights(make_maskgit, tmp_path) -> Path:
    make_maskgit().save_pretrained(tmp_path / "weights")
    return tmp_path / "weights"


@pytest.mark.parametrize("name", STAGES)
def test_weights_folder_with_a_missing_file(weights, name):
    (weights / name).unlink()
    names(refusal(MaskGIT.from_pretrained, weights, error=FileNotFoundError), weights / name)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncated", "empty", "random bytes", "text", "zip"])
def test_damaged_weights_file(weights, name, damage):
    path, whole = weights / name, (weights / name).read_bytes()
    noise = torch.randint(256, (len(whole),), generator=seeded(), dtype=torch.uint8).numpy().tobytes()
    path.write_bytes({"truncated": whole[:len(whole) // 2], "empty": b"", "random bytes": noise,
                      "text": b"version https://git-lfs", "zip": b"PK\x03\x04" + noise}[damage])
    names(refusal(MaskGIT.from_pretrained, weights), "cannot read", path)


def rewrite(path: Path, change) -> None:
    "Save a weights file again after `change(state, metadata)`."
    with safe_open(path, "pt") as file: metadata = file.metadata()
    state = load_file(path)
    change(state, metadata)
    save_file(state, path, metadata=metadata)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", ["tensor lost", "tensor of another shape", "tensor too many"])
def test_weights_file_whose_tensors_do_not_fit(weights, name, change):
    def spoil(state, _):
        first = next(iter(state))
        if change == "tensor lost": del state[first]
        if change == "tensor of another shape": state[first] = torch.zeros(1, 2, 3)
        if change == "tensor too many": state["surplus"] = torch.zeros(1)
    rewrite(weights / name, spoil)
    names(refusal(MaskGIT.from_pretrained, weights), weights / name)


@pytest.mark.parametrize("name", FILES)
def test_weights_file_without_config(weights, name):
    rewrite(weights / name, lambda state, metadata: metadata.clear())
    names(refusal(MaskGIT.from_pretrained, weights), "cannot read", weights / name)


def test_weights_file_of_another_model(weights):
    shutil.copy(weights / FILES[0], weights / "kept")
    shutil.copy(weights / FILES[1], weights / FILES[0])
    names(refusal(VQGAN.from_pretrained, weights), weights / FILES[0])
    shutil.copy(weights / "kept", weights / FILES[1])
    names(refusal(BidirectionalTransformer.from_pretrained, weights), weights / FILES[1])


def test_another_models_class_is_named(weights):
    rewrite(weights / FILES[0], lambda state, metadata: metadata.update({"class": "Other"}))
    names(refusal(VQGAN.from_pretrained, weights), weights / FILES[0], "Other", "VQGAN")


class Bomb:
    "A pickle that leaves a trace when it is loaded."
    def __init__(self, trace: Path): self.trace = trace

    def __reduce__(self): return Path.touch, (self.trace,)


def test_a_pickle_is_never_loaded(weights, tmp_path):
    trace = tmp_path / "exploded"
    pickle.loads(pickle.dumps(Bomb(trace)))
    assert trace.exists()  # the bomb works
    trace.unlink()
    MaskGIT.from_pretrained(weights)
    for name in ("vqgan.pt", "pytorch_model.bin", "transformer.pkl"):
        (weights / name).write_bytes(pickle.dumps(Bomb(trace)))
    MaskGIT.from_pretrained(weights)  # passed over beside the right files
    for write in (lambda path: path.write_bytes(pickle.dumps(Bomb(trace))), lambda path: torch.save(Bomb(trace), path)):
        write(weights / FILES[0])
        names(refusal(MaskGIT.from_pretrained, weights), "cannot read", weights / FILES[0])
    assert not trace.exists()


@pytest.mark.parametrize("name", ["cats64-smal", "./weights", "/no/such/folder", "a/b/c"])
def test_unknown_weights_name_lists_what_there_is(monkeypatch, name):
    def no_network(*_, **__): raise AssertionError("asked the Hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_network)
    names(refusal(MaskGIT.from_pretrained, name, error=FileNotFoundError), repr(name), *shipped_weights(), "a folder",
          "Hub id")


def test_hub_id_without_network(monkeypatch):
    def no_network(*_, **__): raise ConnectionError("network is down")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_network)
    names(refusal(MaskGIT.from_pretrained, "someone/cats", error=FileNotFoundError), "'someone/cats'",
          *shipped_weights(), "network is down")


def test_hub_id_takes_safetensors_only(monkeypatch, weights, maskgit):
    asked = []
    def snapshot(name, allow_patterns=None, **_):
        asked.append((name, allow_patterns))
        return str(weights)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    loaded = MaskGIT.from_pretrained("someone/cats")
    assert torch.equal(loaded.generate(1, generator=seeded()).images, maskgit.generate(1, generator=seeded()).images)
    assert asked and all(name == "someone/cats" and patterns and all(p.endswith(".safetensors") for p in patterns)
                         for name, patterns in asked)


def test_shipped_weights_need_no_network(monkeypatch):
    def no_network(*_, **__): raise AssertionError("asked the Hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_network)
    assert "cats64-small" in shipped_weights()
    model = MaskGIT.from_pretrained("cats64-small")
    assert (model.vqgan.config.image_size, model.vqgan.config.grid) == (64, 16)


def test_a_failed_save_leaves_the_old_file_whole(weights, make_maskgit, monkeypatch):
    before = (weights / FILES[0]).read_bytes()
    def full_disk(state, path, metadata=None):
        Path(path).write_bytes(b"half a file")
        raise OSError("No space left on device")
    monkeypatch.setattr("maskgit_nb.files.save_file", full_disk)
    names(refusal(make_maskgit(1).save_pretrained, weights, error=OSError), "No space left")
    assert (weights / FILES[0]).read_bytes() == before


# --- numbers that are no picture

def test_levels_kept_as_floats(maskgit, images, holes):
    names(refusal(maskgit.inpaint, (images + 1) * 127.5, holes), "must lie in [-1,1]", "divide levels by 127.5")
    names(refusal(maskgit.inpaint, images.masked_fill(~holes, torch.nan), holes), "must lie in [-1,1]", "nan")
    maskgit.inpaint(images.masked_fill(holes, torch.nan), holes, steps=1)  # what lies in a hole is unused


def test_no_image_at_all(maskgit, images, holes):
    names(refusal(maskgit.inpaint, images[:0], holes[:0]), "at least one")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision(make_maskgit, images, holes, kind):
    names(refusal(make_maskgit().to(kind).inpaint, images, holes), "autocast")


@pytest.mark.parametrize("given, words", [(dict(steps=1e3), "whole number"), (dict(batch_size=2.5), "whole number"),
                                          (dict(lr="1"), "a number"), (dict(steps="10"), "whole number")])
def test_settings_of_another_kind(given, words): names(refusal(TrainConfig, **given), words, *given.values())


class Labelled(torch.utils.data.Dataset):
    def __len__(self) -> int: return 4
    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]: return torch.zeros(3, 16, 16), 1


@pytest.mark.parametrize("data, words", [
    (Labelled(), "without labels"), (torch.utils.data.ConcatDataset([Labelled(), Labelled()]), "without labels"),
    ("folder", "got str"), (torch.zeros(0, 3, 16, 16), "at least one"),
    (torch.full((4, 3, 16, 16), 200.0), "must lie in [-1,1]"), (torch.zeros(4, 3, 32, 32), "(B,3,16,16)")])
def test_data_that_is_no_data(make_maskgit, tmp_path, data, words):
    model, config = make_maskgit(), TrainConfig(steps=1, batch_size=2, tracker="none", progress=False)
    names(refusal(fit_vqgan, model.vqgan, data, tmp_path / "v", config), words)
    names(refusal(fit_maskgit, model, data, tmp_path / "m", config), words)
    assert not any(tmp_path.iterdir())


def test_data_of_other_libraries(make_maskgit, tmp_path):
    data = [*drawn_cats(4, size=16)]  # no class of torch's
    fit_vqgan(make_maskgit().vqgan, data, tmp_path, TrainConfig(steps=1, batch_size=2, tracker="none", progress=False))


# --- weights where others would be written

def test_weights_that_no_run_wrote_are_left(make_maskgit, weights, tmp_path, capsys):
    mine = tmp_path / "mine"
    shutil.copytree(weights, mine)
    before = {path.name: path.read_bytes() for path in mine.iterdir()}
    run = ["--data", "drawn:4", "--steps", "1", "--batch-size", "2", "--tracker", "none", "--out", str(mine)]
    for command in (["train", "--vqgan", str(mine), "--init", str(mine), *run],
                    ["train-vqgan", "--init", str(mine), *run],
                    ["convert", str(LAB / "VQGAN.pt"), "--out", str(mine)]):
        assert main(["--device", "cpu", *command]) == 1
        names(capsys.readouterr().err, "holds weights that", "give another folder")
    config = TrainConfig(steps=1, batch_size=2, tracker="none", progress=False)
    names(refusal(fit_maskgit, make_maskgit(), torch.zeros(4, 3, 16, 16), mine, config, error=FileExistsError), mine)
    assert {path.name: path.read_bytes() for path in mine.iterdir()} == before
    assert main(["--device", "cpu", "train", "--vqgan", str(weights), *run, "--restart"]) == 0
    assert {path.name: path.read_bytes() for path in (mine / "before-1").iterdir()} == before


def test_a_run_that_goes_on_leaves_networks_that_were_put_beside_it(weights, tmp_path):
    out = tmp_path / "run"
    def train(steps: int) -> int:
        return main(["--device", "cpu", "train", "--vqgan", str(weights), "--data", "drawn:4", "--steps", str(steps),
                     "--batch-size", "2", "--tracker", "none", "--save-every", "1", "--out", str(out)])
    assert train(1) == 0
    shutil.copy(weights / "refiner.safetensors", out)
    (out / "log.jsonl").unlink()  # checkpoints tell that it is a run
    assert train(2) == 0 and (out / "refiner.safetensors").exists()


def test_what_was_converted_may_be_converted_again(tmp_path):
    for _ in range(2): assert main(["--device", "cpu", "convert", str(LAB / "VQGAN.pt"), "--out", str(tmp_path)]) == 0


def test_a_model_is_saved_without_another_ones_networks(make_maskgit, tmp_path):
    model = make_maskgit()
    model.save_pretrained(tmp_path)
    model.refiner = model.evidence = None
    model.save_pretrained(tmp_path)
    assert MaskGIT.from_pretrained(tmp_path).refiner is None


def test_a_run_keeps_the_networks_of_the_model_that_it_goes_on_from(weights, tmp_path):
    assert main(["--device", "cpu", "train", "--vqgan", str(weights), "--init", str(weights), "--data", "drawn:4",
                 "--steps", "1", "--batch-size", "2", "--tracker", "none", "--out", str(tmp_path)]) == 0
    made = MaskGIT.from_pretrained(tmp_path)
    assert made.refiner is not None and made.evidence is not None


@pytest.mark.parametrize("name", ["VQGAN.pt", "vqgan.safetensors"])
def test_a_file_is_no_folder_of_weights(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    message = refusal(MaskGIT.from_pretrained, tmp_path / name, error=FileNotFoundError)
    names(message, tmp_path / name, "is a file", "maskgit-nb convert")
