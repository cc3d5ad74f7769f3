"""Bad input of every kind, one case each in the table `CASES`. What is bad is refused in one line that names it, by an
error of the kit's own, within bounded time and memory, and nothing is left behind. What only looks odd is read
rightly."""
import io
import json
import pickle
import re
import resource
import shutil
import signal
import struct
import sys
import tarfile
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import SIZE, tiny_maskgit
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from maskgit_nb import cli
from maskgit_nb.cats import drawn_cats
from maskgit_nb.cli import main
from maskgit_nb.data import ImageFolder, ShardStream, find_split, load_hole, load_image, read_gt_csv
from maskgit_nb.fid import fid, get_network
from maskgit_nb.files import find_weights, read_rows
from maskgit_nb.images import to_picture
from maskgit_nb.inpainting import MaskGIT
from maskgit_nb.lab import load_lab, load_lab_transformer, load_lab_vqgan
from maskgit_nb.stages import fit_maskgit
from maskgit_nb.training import RunLog, TrainConfig, changed_settings
from maskgit_nb.transformer import BidirectionalTransformer
from maskgit_nb.vqgan import VQGAN

LAB = Path(__file__).parent / "lab"
OWN_ERRORS = OSError, ValueError, ImportError, FloatingPointError  # what the command line turns into one line
MOST_SECONDS, MOST_BYTES = 20, 3 * 2**29  # of one case, over what is held before


class TooLong(BaseException):
    "A case still runs after `MOST_SECONDS`."


@contextmanager
def bounded(most: int = MOST_BYTES) -> Iterator[None]:
    "Inside, more memory than `most` bytes is refused by the system, and time is bounded."
    def too_long(*_): raise TooLong
    before = signal.signal(signal.SIGALRM, too_long)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    try:
        signal.alarm(MOST_SECONDS)
        if sys.platform == "linux":
            held = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (held + most, limits[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def contents(folder: Path) -> dict[str, bytes | str]:
    "Everything in a folder, hidden files too."
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else "folder"
            for path in folder.rglob("*")}



def stamps(folder: Path) -> dict[Path, tuple]:
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


# --- the table

class Case(NamedTuple):
    "`make(folder, kit)` writes the bad input and gives a call, or a command line, that is refused with `words`."
    make: Callable
    words: str


CASES: dict[tuple[str, str], Case] = {}


def case(kind: str, name: str, words: str, make: Callable) -> None:
    assert (kind, name) not in CASES, name
    CASES[kind, name] = Case(make, words)


@pytest.fixture(scope="module")
def kit(tmp_path_factory) -> SimpleNamespace:
    "Right files to spoil: weights, a picture and its mask, a run."
    folder = tmp_path_factory.mktemp("kit")
    tiny_maskgit().save_pretrained(folder / "weights")
    (folder / "run").mkdir()
    config = TrainConfig(steps=2, batch_size=2, log_every=1, tracker="none", progress=False)
    fit_maskgit(tiny_maskgit(), drawn_cats(4, size=SIZE), folder / "run", config, device="cpu")
    to_picture(drawn_cats(1, size=SIZE)[0]).save(folder / "cat.png")
    mask = Image.new("L", (SIZE, SIZE), 255)
    mask.paste(0, (4, 4, 10, 10))
    mask.save(folder / "mask.png")
    return SimpleNamespace(folder=folder, weights=folder / "weights", run=folder / "run", cat=folder / "cat.png",
                           mask=folder / "mask.png", config=config)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    "No progress bars, whose lines would stand among the errors; no photographs; no network."
    monkeypatch.setattr(cli, "tqdm", lambda *given, **options: tqdm(*given, **options | dict(disable=True)))
    monkeypatch.delenv("MASKGIT_NB_DATA", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def one_line(text: str) -> bool: return bool(text) and "\n" not in text and "\r" not in text


# --- picture files

NOISE = torch.randint(256, (48, 48, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
FORMS = {"png": dict(format="PNG"), "jpeg": dict(format="JPEG"), "progressive": dict(format="JPEG", progressive=True),
         "webp": dict(format="WEBP", lossless=True), "lossy-webp": dict(format="WEBP"), "gif": dict(format="GIF"),
         "tiff": dict(format="TIFF"), "lzw-tiff": dict(format="TIFF", compression="tiff_lzw"),
         "bmp": dict(format="BMP")}


def encoded(picture: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, **options)
    return file.getvalue()


def picture_case(name: str, content: bytes, words: str = "{path}", load: Callable = load_image) -> None:
    def make(folder: Path, kit):
        path = folder / "bad.png"
        path.write_bytes(content)
        return lambda: load(path)
    case("pictures", name, words.format(path="bad.png"), make)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int = 8, colour: int = 0, body: bytes = b"", extra: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def jpeg_of_size(width: int, height: int) -> bytes:
    whole = bytearray(encoded(Image.fromarray(NOISE), format="JPEG"))
    place = whole.index(b"\xff\xc0") + 5
    whole[place:place + 4] = struct.pack(">HH", height, width)
    return bytes(whole)


def bmp_of_size(width: int, height: int) -> bytes:
    whole = bytearray(encoded(Image.fromarray(NOISE), format="BMP"))
    whole[18:26] = struct.pack("<ii", width, height)
    return bytes(whole)


def gif_of_size(width: int, height: int) -> bytes:
    whole = bytearray(encoded(Image.fromarray(NOISE), format="GIF"))
    whole[6:10] = struct.pack("<HH", width, height)
    place = whole.index(b"\x2c", 13 + 768)
    whole[place + 5:place + 9] = struct.pack("<HH", width, height)
    return bytes(whole)


def tiff_of_size(width: int, height: int) -> bytes:
    "An image file directory of a grey picture of this size in one strip of 4 bytes."
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 4}
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 12) + b"\0" * 4 + struct.pack("<H", len(tags)) + fields + b"\0" * 4


WHOLE = {form: encoded(Image.fromarray(NOISE), **options) for form, options in FORMS.items()}
CUTS = (3, 20, 0.1, 0.3, 0.6, 0.9, 0.99, -2)
for form, whole in WHOLE.items():
    for cut in CUTS:
        size = int(len(whole) * cut) if isinstance(cut, float) else cut
        picture_case(f"{form} cut at {cut}", whole[:size])
for name, content in {
        "png bomb": png(30_000, 30_000, body=b"\0" * 1000), "png bomb of one bit": png(30_000, 30_000, 1),
        "png of 4 billion pixels a side": png(2**31 - 1, 2**31 - 1), "jpeg bomb": jpeg_of_size(30_000, 30_000),
        "gif bomb": gif_of_size(30_000, 30_000), "bmp bomb": bmp_of_size(30_000, 30_000),
        "tiff bomb": tiff_of_size(30_000, 30_000), "ppm bomb": b"P6 30000 30000 255\n",
        "png below the bomb limit, cut": png(13_000, 13_000), "tiff below the bomb limit": tiff_of_size(9_000, 9_000),
        "png 0 wide": png(0, 5), "png 0 high": png(5, 0), "png 0 by 0": png(0, 0), "jpeg 0 wide": jpeg_of_size(0, 48),
        "gif 0 by 0": gif_of_size(0, 0), "bmp 0 by 0": bmp_of_size(0, 0), "tiff 0 by 0": tiff_of_size(0, 0),
        "ppm 0 by 0": b"P6 0 0 255\n", "no bytes": b"", "text": b"a photograph of a cat", "zeros": b"\0" * 4096,
        "markup": b"<svg xmlns='http://www.w3.org/2000/svg' width='8' height='8'/>", "a zip": b"PK\5\6" + b"\0" * 18,
        "git's pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n",
        "png with a wrong checksum": WHOLE["png"].replace(WHOLE["png"][29:33], b"abcd", 1),
        "png without pixels": png(8, 8), "png of depth 3": png(8, 8, 3, body=b"\0" * 72),
        "png of colour 5": png(8, 8, 8, 5, body=b"\0" * 72),
        "png of a text bomb": png(8, 8, body=b"\0" * 72,
                                  extra=chunk(b"zTXt", b"k\0\0" + zlib.compress(b"\0" * 2**27))),
        "jpeg without tables": b"\xff\xd8\xff\xd9", "transparent all over":
        encoded(Image.new("RGBA", (8, 8)), format="PNG"), "pages": encoded(
            Image.fromarray(NOISE), format="TIFF", save_all=True, append_images=[Image.fromarray(NOISE)])}.items():
    picture_case(name, content)
picture_case("mask in colours", encoded(Image.fromarray(NOISE), format="PNG"), load=load_hole)
picture_case("mask that is empty", b"", load=load_hole)
picture_case("mask of size 0", png(0, 0), load=load_hole)


def as_folder(folder: Path, kit):
    (folder / "bad.png").mkdir()
    return lambda: load_image(folder / "bad.png")


case("pictures", "a folder", "bad.png", as_folder)
case("pictures", "nothing", "absent.png", lambda folder, kit: lambda: load_image(folder / "absent.png"))
case("pictures", "a folder of folders", "no pictures",
     lambda folder, kit: ((folder / "a.png").mkdir(), lambda: ImageFolder(folder))[1])


# --- weights

def rewritten(path: Path, change: Callable) -> None:
    "Save a weights file again after `change(state, config, metadata)`."
    with safe_open(path, "pt") as file: metadata = file.metadata()
    state, config = load_file(path), json.loads(metadata["config"])
    change(state, config, metadata)
    if metadata.get("config") and not metadata.get("kept"): metadata["config"] = json.dumps(config)
    save_file(state, path, metadata=metadata)


STAGES = {"vqgan": VQGAN, "transformer": BidirectionalTransformer}
HELD = {"vqgan": "quantizer.embedding.weight", "transformer": "token_embedding.weight"}


def weights_case(stage: str, name: str, spoil: Callable) -> None:
    "`spoil(path)` damages the file of the `stage`."
    def make(folder: Path, kit):
        shutil.copytree(kit.weights, folder / "weights")
        spoil(folder / "weights" / f"{stage}.safetensors")
        return lambda: STAGES[stage].from_pretrained(folder / "weights")
    case("weights", f"{stage}: {name}", f"{stage}.safetensors", make)


def config_case(stage: str, name: str, **values) -> None:
    weights_case(stage, f"config {name}", lambda path: rewritten(path, lambda state, config, _: config.update(values)))


def raw_config(text: str) -> Callable:
    return lambda path: rewritten(path, lambda s, c, metadata: metadata.update(config=text, kept="as it is"))


def change_bytes(change: Callable) -> Callable: return lambda path: path.write_bytes(change(path.read_bytes()))


def with_header(header: dict) -> Callable:
    text = json.dumps(header).encode()
    return lambda path: path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 8)


def change_tensor(stage: str, change: Callable) -> Callable:
    def spoil(state: dict, config, metadata): state[HELD[stage]] = change(state[HELD[stage]]).contiguous()
    return lambda path: rewritten(path, spoil)


def poison(value: float) -> Callable: return lambda x: x.index_fill(0, torch.tensor([1]), value)


def emptied(path: Path) -> None: rewritten(path, lambda state, config, metadata: state.clear())


for stage in STAGES:
    for cut in (0, 4, 8, 100, 0.5, 0.99):
        weights_case(stage, f"cut at {cut}", change_bytes(
            lambda whole, cut=cut: whole[:int(len(whole) * cut) if isinstance(cut, float) else cut]))
    for length in (0, 1, 2**20, 2**40, 2**64 - 1):
        weights_case(stage, f"header of {length} bytes",
                     change_bytes(lambda whole, n=length: struct.pack("<Q", n) + whole[8:]))
    weights_case(stage, "header no JSON", change_bytes(lambda whole: whole[:8] + b"\xff" * 50 + whole[58:]))
    weights_case(stage, "offsets beyond the end",
                 with_header({"x": dict(dtype="F32", shape=[2**40], data_offsets=[0, 2**42])}))
    weights_case(stage, "offsets of another size",
                 with_header({"x": dict(dtype="F32", shape=[2**40], data_offsets=[0, 8])}))
    weights_case(stage, "dtype unknown", with_header({"x": dict(dtype="F1", shape=[2], data_offsets=[0, 8])}))
    weights_case(stage, "a pickle", lambda path: path.write_bytes(pickle.dumps({"x": 1})))
    weights_case(stage, "a folder", lambda path: (path.unlink(), path.mkdir()))
    weights_case(stage, "no tensors", emptied)
    weights_case(stage, "a tensor lost", lambda path: rewritten(path, lambda s, c, m: s.pop(next(iter(s)))))
    weights_case(stage, "a tensor too many",
                 lambda path: rewritten(path, lambda s, c, m: s.update(surplus=torch.zeros(1))))
    for name, change in {"another shape": lambda x: x[:-1], "one axis more": lambda x: x[None],
                         "int64": lambda x: x.long(), "bool": lambda x: x > 0, "uint8": lambda x: x.byte(),
                         "complex64": lambda x: x + 0j,
                         "NaN": poison(float("nan")), "infinity": poison(float("inf"))}.items():
        weights_case(stage, f"tensor of {name}", change_tensor(stage, change))
    weights_case(stage, "another model's class", lambda path: rewritten(
        path, lambda s, c, metadata: metadata.update({"class": "Other"})))
    weights_case(stage, "no class", lambda path: rewritten(path, lambda s, c, metadata: metadata.pop("class")))
    weights_case(stage, "no config", lambda path: rewritten(path, lambda s, c, metadata: metadata.pop("config")))
    for text in ("", "3", "null", "[1]", "\"dim\"", "{", "{\"dim\": }", "NaN", "[" * 100_000, "1" * 5000):
        weights_case(stage, f"config {text[:9] or 'empty'}", raw_config(text))
    config_case(stage, "unknown field", colour="red")
    for field in ("codebook_size",):
        for value in (0, -1, 2.5, "24", None, [24], True, 10**9, 10**15, 10**30, float("nan"), float("inf")):
            config_case(stage, f"{field} {value!r}", **{field: value})
for field in ("dim", "layers", "heads", "hidden", "num_tokens", "code_dim"):
    for value in (-1, 10**9, 10**15, "16", None):
        config_case("transformer", f"{field} {value!r}", **{field: value})
for field, value in (("dim", 0), ("heads", 0), ("heads", 3), ("num_tokens", 0), ("num_tokens", 15), ("dropout", 7),
                     ("dropout", "no"), ("local", "yes"), ("norm_first", 3), ("position_bias", "x"), ("layers", 0)):
    config_case("transformer", f"{field} {value!r}", **{field: value})
for field, value in (("image_size", 0), ("image_size", -16), ("image_size", 16.0), ("image_size", "16"),
                     ("image_size", 10**12), ("latent_dim", 0), ("latent_dim", "8"), ("latent_dim", 10**15),
                     ("norm", "batch"), ("norm", 3), ("l2_normalize", "x"), ("beta", "x"), ("beta", None),
                     ("mean", "abc"), ("mean", [0, 0]), ("mean", [None] * 3), ("std", [0, 0, 0]), ("std", ["a"] * 3),
                     ("std", [float("nan")] * 3), ("mean", [float("inf")] * 3), ("encoder", []), ("encoder", 3),
                     ("encoder", [[]]), ("encoder", ["conv"]), ("encoder", [["magic", 3]]), ("encoder", [["conv", 12]]),
                     ("encoder", [["unshuffle", 0]]), ("encoder", [["unshuffle", "2"]]), ("decoder", [["silu", 1, 2]]),
                     ("decoder", [["conv", 8, 10**12, 10**6]]), ("decoder", [["res", -8, 8, 3]]), ("decoder", {})):
    config_case("vqgan", f"{field} {value!r}", **{field: value})


def other_stage(folder: Path, kit):
    shutil.copytree(kit.weights, folder / "weights")
    shutil.copy(kit.weights / "vqgan.safetensors", folder / "weights" / "transformer.safetensors")
    return lambda: MaskGIT.from_pretrained(folder / "weights")


case("weights", "the other stage's file", "transformer.safetensors", other_stage)
case("weights", "no name", "no weights ''", lambda folder, kit: lambda: find_weights(""))
case("weights", "a name of many letters", "", lambda folder, kit: lambda: find_weights("x" * 5000))
case("weights", "an unknown name", "cats64-small", lambda folder, kit: lambda: find_weights("cats"))


# --- bombs

def zeros_packed(before: bytes = b"") -> bytes:
    "`before` and then 3 GB of zeros, deflated to 3 MB in no time: one block again and again."
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = packer.compress(before) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(b"\0" * 2**22) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + block * 768 + packer.flush()


def zip_bomb(path: Path, name: str = "train/0.png") -> None:
    packed = zeros_packed()
    head = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, 0, len(packed), 768 * 2**22, len(name), 0)
    local = b"PK\3\4" + head + name.encode() + packed
    central = b"PK\1\2" + struct.pack("<H", 20) + head + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name.encode()
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)
    path.write_bytes(local + central + end)


def tar_bomb(path: Path) -> None:
    info = tarfile.TarInfo("a.png")
    info.size = 768 * 2**22
    path.write_bytes(b"\x1f\x8b\x08" + b"\0" * 6 + b"\xff" + zeros_packed(info.tobuf(tarfile.GNU_FORMAT)))


# --- the lab's checkpoints

class Bomb:
    "A pickle that leaves a file when it is loaded by code that runs it."
    def __init__(self, trace: Path): self.trace = str(trace)

    def __reduce__(self): return open, (self.trace, "w")


LOADERS = {"vqgan": load_lab_vqgan, "transformer": load_lab_transformer}
STATES = {"vqgan": torch.load(LAB / "VQGAN.pt", weights_only=True),
          "transformer": torch.load(LAB / "transformer_fused.pt", weights_only=True)}
SOURCES = {"vqgan": LAB / "VQGAN.pt", "transformer": LAB / "transformer_fused.pt"}


def lab_case(stage: str, name: str, write: Callable, words: str = "bad.pt") -> None:
    def make(folder: Path, kit):
        write(folder / "bad.pt")
        return lambda: LOADERS[stage](folder / "bad.pt")
    case("lab", f"{stage}: {name}", words, make)


def saved(stage: str, change: Callable) -> Callable:
    def write(path: Path) -> None:
        state = dict(STATES[stage])
        changed = change(state)
        torch.save(state if changed is None else changed, path)
    return write


def set_to(name: str, value) -> Callable: return lambda state: state.update({name: value})


def drop(start: str) -> Callable:
    def change(state: dict) -> None:
        for name in [name for name in state if name.startswith(start)]: del state[name]
    return change


MARKS = {"vqgan": "codebook.embedding.weight", "transformer": "tok_emb.weight"}
for stage in LOADERS:
    whole = SOURCES[stage].read_bytes()
    for cut in (0, 3, 100, 0.3, 0.7, 0.99):
        lab_case(stage, f"cut at {cut}", lambda path, whole=whole, cut=cut: path.write_bytes(
            whole[:int(len(whole) * cut) if isinstance(cut, float) else cut]))
    lab_case(stage, "text", lambda path: path.write_text("weights", encoding="utf-8"))
    lab_case(stage, "a folder", Path.mkdir)
    lab_case(stage, "pickled code", lambda path: torch.save(Bomb(path.with_name("trace")), path))
    lab_case(stage, "pickled code among weights",
             lambda path, stage=stage: torch.save(STATES[stage] | {"x": Bomb(path.with_name("trace"))}, path))
    lab_case(stage, "pickled code in the old format", lambda path: torch.save(
        {"x": Bomb(path.with_name("trace"))}, path, _use_new_zipfile_serialization=False))
    lab_case(stage, "a bare pickle", lambda path: path.write_bytes(pickle.dumps(Bomb(path.with_name("trace")))))
    for name, value in {"None": None, "a number": 3, "a list": [1], "nothing": {}, "other names": {"a": torch.ones(2)},
                        "no tensors": dict.fromkeys(STATES[stage], 0.5), "numbers for names": {1: torch.ones(2)},
                        "the other stage": STATES["vqgan" if stage == "transformer" else "transformer"]}.items():
        lab_case(stage, name, lambda path, value=value: torch.save(value, path))
    for name, value in {"a scalar": torch.tensor(1.0), "one axis": torch.ones(5), "three axes": torch.ones(2, 3, 4),
                        "no rows": torch.ones(0, 8), "no columns": torch.ones(8, 0), "int64": torch.ones(24, 8).long(),
                        "bool": torch.ones(24, 8) > 0, "complex": torch.ones(24, 8) + 0j,
                        "NaN": STATES[stage][MARKS[stage]] * float("nan"),
                        "infinity": STATES[stage][MARKS[stage]] / 0,
                        "a sparse layout": STATES[stage][MARKS[stage]].to_sparse(),
                        "no device": torch.empty(24, 8, device="meta"),
                        "a billion rows of one": torch.ones(1, 1).expand(10**9, 64)}.items():
        lab_case(stage, f"codes of {name}", saved(stage, set_to(MARKS[stage], value)))
    lab_case(stage, "a bias of words", saved(stage, set_to(MARKS[stage], "words")))
for name, change in {
        "a layer lost": drop("decoder.model.3."),
        "a layer number of 13 digits": set_to("encoder.model.9999999999999.conv.weight", torch.ones(2, 2)),
        "a layer number of 5,000 digits": set_to(f"decoder.model.{'9' * 5000}.conv.weight", torch.ones(2, 2)),
        "another kernel": set_to("quant_conv.weight", torch.ones(4, 4)),
        "no quant_conv": drop("quant_conv.weight")}.items():
    lab_case("vqgan", name, saved("vqgan", change))
lab_case("vqgan", "packed a thousand to one", lambda path: zip_bomb(path, "archive/data/0"))
for name, change in {
        "no blocks": drop("blocks."), "a block lost": drop("blocks.0."),
        "a block number of 10 digits": set_to("blocks.9999999999.MLP.0.weight", torch.ones(2, 2)),
        "a block number of 5,000 digits": set_to(f"blocks.{'9' * 5000}.MLP.0.weight", torch.ones(2, 2)),
        "a block number of 4 digits": set_to("blocks.9999.MLP.0.weight", torch.ones(2, 2)),
        "positions of no axis": set_to("pos_emb", torch.tensor(1.0)),
        "positions of a million million": set_to("pos_emb", torch.ones(1, 1).expand(10**12, 64)),
        "no positions": drop("pos_emb"), "perceptron of no axis": set_to("blocks.0.MLP.0.weight", torch.tensor(1.0)),
        "perceptron of one axis": set_to("blocks.0.MLP.0.weight", torch.ones(3)),
        "an attention layer of one axis": set_to("blocks.0.Attention.qkv.weight", torch.ones(3))}.items():
    lab_case("transformer", name, saved("transformer", change))
case("lab", "one file named twice", "holds no transformer",
     lambda folder, kit: lambda: load_lab(f"{LAB / 'VQGAN.pt'},{LAB / 'VQGAN.pt'}"))
case("lab", "heads that do not divide", "transformer_fused.pt",
     lambda folder, kit: lambda: load_lab_transformer(LAB / "transformer_fused.pt", heads=7))


# --- JSON: rows, settings

def row_case(name: str, content: bytes, call: Callable, words: str = "log.jsonl") -> None:
    def make(folder: Path, kit):
        (folder / "log.jsonl").write_bytes(content)
        return lambda: call(folder)
    case("rows", name, words, make)


def open_log(folder: Path): return RunLog(folder, 5)


ROW = dict(step=1, loss=0.5, seconds=1.0)
for name, content in {
        "a log that is not UTF-8": b"\xff\xfe{\0}\0", "a log of a picture": WHOLE["png"],
        "rows that are lists": b"[1, 2]\n", "rows that are numbers": b"3\n{\"step\": 1}\n",
        "rows that are null": b"null\n",
        "rows without step": b"{\"loss\": 1}\n", "steps of words": b"{\"step\": \"one\"}\n",
        "steps of null": b"{\"step\": null}\n", "steps of lists": b"{\"step\": [1]}\n",
        "seconds of words": b"{\"step\": 1, \"seconds\": \"long\"}\n"}.items():
    row_case(name, content, open_log)
row_case("a table that is not UTF-8", b"\xff{}\n", lambda folder: read_rows(folder / "log.jsonl"))
row_case("a table of numbers", b"1\n2\n", lambda folder: read_rows(folder / "log.jsonl"))


def settings_case(name: str, words: str, before, now) -> None:
    case("settings", name, words, lambda folder, kit: lambda: changed_settings(before, now, folder / "run"))


MODEL = dict(dim=16, layers=2)
NOW = dict(model=MODEL, optimizer="adamw", vqgan="abc", stream="none", lr=0.1)
for name in ("model", "optimizer", "vqgan", "stream"):
    settings_case(f"no {name} any more", name, NOW, {key: x for key, x in NOW.items() if key != name})
settings_case("another stage", "another", NOW, dict(model=MODEL, optimizer="adamw", stream="none", decoder_only=1.0))
settings_case("a model with a field more before", "run of another kind",
              NOW | dict(model=MODEL | dict(old=1)), NOW)
for name, value in {"words": "words", "a list": [1], "null": None, "a number": 3}.items():
    settings_case(f"model of {name}", "run of another kind", NOW | dict(model=value), NOW)


def run_case(name: str, spoil: Callable, words: str = "run") -> None:
    def make(folder: Path, kit):
        shutil.copytree(kit.run, folder / "run")
        spoil(folder / "run")
        config = TrainConfig(steps=3, batch_size=2, log_every=1, tracker="none", progress=False)
        return lambda: fit_maskgit(tiny_maskgit(), drawn_cats(4, size=SIZE), folder / "run", config, device="cpu")
    case("runs", name, words, make)


POINT = "checkpoint-00000002"
for name in ("model.safetensors", "optimizer.bin", "scheduler.bin", "custom_checkpoint_0.pkl", "random_states_0.pkl"):
    run_case(f"{name} cut", lambda run, name=name: (run / POINT / name).write_bytes(
        (run / POINT / name).read_bytes()[:100]), POINT)
    run_case(f"{name} of pickled code", lambda run, name=name: (run / POINT / name).write_bytes(
        pickle.dumps(Bomb(run.parent / "trace"))), POINT)
    run_case(f"{name} of saved code", lambda run, name=name: torch.save(
        {"x": Bomb(run.parent / "trace")}, run / POINT / name), POINT)
    run_case(f"{name} lost", lambda run, name=name: (run / POINT / name).unlink(), POINT)
for name, states in {"nothing else": {}, "no numbers": {"torch_manual_seed": torch.zeros(3, dtype=torch.uint8)},
                     "Python's lost": {"torch_manual_seed": torch.get_rng_state() + 1}}.items():
    run_case(f"random states of {name}", lambda run, states=states: torch.save(
        states, run / POINT / "random_states_0.pkl"), POINT)
for name, text in {"model words": "{\"model\": 3}", "model null": "{\"model\": null}"}.items():
    run_case(f"settings of {name}", lambda run, text=text: (run / POINT / "settings.json").write_text(
        text, encoding="utf-8"))
run_case("a checkpoint that is a file", lambda run: (shutil.rmtree(run / POINT), (run / POINT).touch()), POINT)
run_case("a log of numbers", lambda run: (run / "log.jsonl").write_text("1\n", encoding="utf-8"), "log.jsonl")


# --- archives and shards

def zip_case(name: str, write: Callable, words: str = "bad.zip") -> None:
    def make(folder: Path, kit):
        write(folder / "bad.zip")
        return lambda: find_split(folder / "bad.zip", "train")
    case("archives", name, words, make)


def zipped(path: Path, *files: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method) as archive:
        warnings.simplefilter("ignore")  # of names that come twice
        for name, content in files: archive.writestr(name, content)


def with_bits(path: Path, place: int, value: int, width: str) -> None:
    "Two numbers of each file's entry in both directories of a zip, at `place` after the local one's signature."
    whole = bytearray(path.read_bytes())
    for sign, shift in ((b"PK\3\4", 0), (b"PK\1\2", 2)):
        for found in re.finditer(re.escape(sign), bytes(whole)):
            struct.pack_into(width, whole, found.start() + place + shift, value)
    path.write_bytes(bytes(whole))


def broken_inside(path: Path) -> None:
    zipped(path, ("train/0.png", NOISE.tobytes()))
    whole = bytearray(path.read_bytes())
    whole[60:90] = b"\xff" * 30
    path.write_bytes(bytes(whole))


def encrypted(path: Path) -> None:
    zipped(path, ("train/0.png", WHOLE["png"]))
    with_bits(path, 6, 1, "<H")


def strange_method(path: Path) -> None:
    zipped(path, ("train/0.png", WHOLE["png"]))
    with_bits(path, 8, 97, "<H")


GOOD_ZIP = io.BytesIO()
zipped(GOOD_ZIP, ("train/0.png", WHOLE["png"]), ("train/1.png", WHOLE["png"]))
for cut in (0, 3, 40, 0.5, 0.9, -5):
    size = int(len(GOOD_ZIP.getvalue()) * cut) if isinstance(cut, float) else cut
    zip_case(f"cut at {cut}", lambda path, size=size: path.write_bytes(GOOD_ZIP.getvalue()[:size]))
zip_case("a bomb", zip_bomb)
zip_case("damaged inside", broken_inside)
zip_case("encrypted", encrypted)
zip_case("a method that is not known", strange_method)
zip_case("a tar of that name", lambda path: tarfile.open(path, "w").close())
zip_case("a file and a folder of one name",
         lambda path: zipped(path, ("train", b"x"), ("train/0.png", WHOLE["png"])))
zip_case("a name of 5,000 letters", lambda path: zipped(path, (f"train/{'x' * 5000}.png", WHOLE["png"])))


def unpacks_without(name: str, *files: tuple[str, bytes], words: str = "no train/") -> None:
    "A whole zip that holds no split: it is unpacked beside itself, and the sentence names what is missing."
    def make(folder: Path, kit):
        zipped(folder / "bad.zip", *files)
        (folder / "bad").mkdir()  # unpacked already, as the first try would leave it
        return lambda: find_split(folder / "bad.zip", "train")
    case("archives", name, words, make)


unpacks_without("nested", ("cats.zip", GOOD_ZIP.getvalue()))
unpacks_without("empty")


def tar_case(name: str, write: Callable, words: str = "bad.tar", batch: int = 1) -> None:
    def make(folder: Path, kit):
        write(folder / "bad.tar")
        return lambda: next(ShardStream([folder / "bad.tar"], SIZE).batches(batch))
    case("shards", name, words, make)


def tarred(path: Path | io.BytesIO, *files: tuple[str, bytes | str | int], mode: str = "w") -> None:
    "Files by name: their bytes, or what a link of that name points to, or the size of a sparse one."
    with tarfile.open(mode=mode, **({"fileobj": path} if isinstance(path, io.BytesIO) else {"name": path})) as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            if isinstance(content, str): info.type, info.linkname = tarfile.SYMTYPE, content
            else: info.size = len(content)
            archive.addfile(info, None if isinstance(content, str) else io.BytesIO(content))


def lying_tar(path: Path) -> None:
    "A member that claims 1 TB and ends after a block."
    info = tarfile.TarInfo("a.png")
    info.size = 2**40
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 512)


def sparse_tar(path: Path) -> None:
    "A sparse member of 1 TB without a byte in it."
    info = tarfile.TarInfo("a.png")
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = tarfile.itn(2**40, 12, tarfile.GNU_FORMAT)  # its real size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(header) + b"\0" * 1024)


GOOD_TAR = io.BytesIO()
tarred(GOOD_TAR, ("a.png", WHOLE["png"]), ("b.png", WHOLE["png"]))
for cut in (3, 300, 700, 0.4, 0.55):
    size = int(len(GOOD_TAR.getvalue()) * cut) if isinstance(cut, float) else cut
    tar_case(f"cut at {cut}", lambda path, size=size: path.write_bytes(GOOD_TAR.getvalue()[:size]), batch=3)
tar_case("no bytes", lambda path: path.write_bytes(b""))
tar_case("text", lambda path: path.write_text("no tar" * 500, encoding="utf-8"))
tar_case("a zip of that name", lambda path: path.write_bytes(GOOD_ZIP.getvalue()))
tar_case("empty", lambda path: tarred(path))
tar_case("no pictures", lambda path: tarred(path, ("a.txt", b"x"), ("a.cls", b"1")))
tar_case("a picture that is none", lambda path: tarred(path, ("a.png", b"no picture")))
tar_case("a picture that is cut", lambda path: tarred(path, ("a.png", WHOLE["png"][:900])))
tar_case("a picture bomb", lambda path: tarred(path, ("a.png", png(30_000, 30_000))))
tar_case("an empty picture", lambda path: tarred(path, ("a.png", b"")))
tar_case("links alone", lambda path: tarred(path, ("a.png", "/etc/passwd"), ("b.png", "../../secret.png")))
tar_case("one name twice", lambda path: tarred(path, ("a.png", WHOLE["png"]), ("a.png", WHOLE["png"])))
tar_case("nested", lambda path: tarred(path, ("a.tar", GOOD_TAR.getvalue())))
tar_case("a bomb", tar_bomb)
tar_case("a size that is a lie", lying_tar)
tar_case("a sparse bomb", sparse_tar)
tar_case("packed and cut", lambda path: (tarred(path, ("a.png", WHOLE["png"]), mode="w:gz"),
                                        path.write_bytes(path.read_bytes()[:200])))
tar_case("names alone", lambda path: tarred(path, ("png", WHOLE["png"])))
case("shards", "a folder", "bad.tar", lambda folder, kit: (
    (folder / "bad.tar").mkdir(), lambda: next(ShardStream([folder / "bad.tar"], SIZE).batches(1)))[1])
case("shards", "nothing", "absent.tar",
     lambda folder, kit: lambda: next(ShardStream([folder / "absent.tar"], SIZE).batches(1)))
case("shards", "none", "no shards given", lambda folder, kit: lambda: ShardStream([], SIZE))


# --- tables and statistics

LEVELS = ",".join(["7"] * 12288)


def csv_case(name: str, content: bytes | str, words: str = "bad.csv") -> None:
    def make(folder: Path, kit):
        path = folder / "bad.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return lambda: read_gt_csv(path)
    case("tables", name, words, make)


for name, content in {
        "no bytes": "", "empty lines": "\n\n\n", "header alone": ",".join(f"p{i}" for i in range(12288)),
        "a row too short": LEVELS[:-2], "a row too long": LEVELS + ",7", "a cut row": f"{LEVELS}\n{LEVELS[:99]}",
        "words": f"{LEVELS}\n" + LEVELS.replace("7", "x", 1), "a level of 256": LEVELS.replace("7", "256", 1),
        "a level of -1": LEVELS.replace("7", "-1", 1), "a level of 1.5": LEVELS.replace("7", "1.5", 1),
        "NaN": LEVELS.replace("7", "nan", 1), "infinity": LEVELS.replace("7", "inf", 1),
        "1e999": LEVELS.replace("7", "1e999", 1), "an empty cell": LEVELS.replace("7", "", 1),
        "5,000 digits": LEVELS.replace("7", "1" * 5000, 1), "a superscript": LEVELS.replace("7", "²", 1),
        "a cell of 200,000 letters": "x" * 200_000, "an open quote": "\"" + LEVELS * 20,
        "Latin-1": LEVELS.encode().replace(b"7", b"\xe9", 1), "UTF-16": LEVELS.encode("utf-16"),
        "a picture": WHOLE["png"], "zeros": b"\0" * 5000, "a packed table": zlib.compress(LEVELS.encode()),
        "semicolons": LEVELS.replace(",", ";"), "a stray zero": LEVELS.encode().replace(b"7", b"\0", 1)}.items():
    csv_case(name, content)
case("tables", "a folder", "bad.csv",
     lambda folder, kit: ((folder / "bad.csv").mkdir(), lambda: read_gt_csv(folder / "bad.csv"))[1])
case("tables", "nothing", "absent.csv", lambda folder, kit: lambda: read_gt_csv(folder / "absent.csv"))


def npz_case(name: str, write: Callable) -> None:
    def make(folder: Path, kit):
        write(folder / "bad.npz")
        np.savez(folder / "good.npz", mu=np.zeros(4), sigma=np.eye(4))
        return lambda: fid(folder / "good.npz", folder / "bad.npz", get_network("random"))
    case("statistics", name, "bad.npz", make)


def npz(**arrays) -> Callable: return lambda path: np.savez(path, **arrays)


def npy_header(shape: tuple) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, dict(descr="<f8", fortran_order=False, shape=shape))
    return file.getvalue()


SPOILT = {
    "no mu": npz(sigma=np.eye(4)), "no sigma": npz(mu=np.zeros(4)), "nothing": npz(), "words": npz(mu="a", sigma="b"),
    "mu of two axes": npz(mu=np.zeros((2, 2)), sigma=np.eye(4)), "a number": npz(mu=1.0, sigma=2.0),
    "sigma of one axis": npz(mu=np.zeros(4), sigma=np.zeros(4)),
    "sigma of another size": npz(mu=np.zeros(4), sigma=np.eye(3)),
    "NaN in mu": npz(mu=np.full(4, np.nan), sigma=np.eye(4)),
    "infinity in sigma": npz(mu=np.zeros(4), sigma=np.full((4, 4), np.inf)),
    "complex": npz(mu=np.zeros(4) + 0j, sigma=np.eye(4)), "pickled": npz(mu=np.array([{}]), sigma=np.eye(4)),
    "text": lambda path: path.write_text("mu", encoding="utf-8"), "no bytes": Path.touch, "a folder": Path.mkdir,
    "an .npy": lambda path: path.write_bytes(npy_header((4,)) + b"\0" * 32),
    "a pickle": lambda path: path.write_bytes(pickle.dumps(Bomb(path.with_name("trace")))),
    "no arrays": lambda path: zipped(path, ("mu", b"x"), ("sigma", b"y")),
    "a huge shape": lambda path: zipped(path, ("mu.npy", npy_header((10**12,))), ("sigma.npy", npy_header((4, 4)))),
    "a strange shape": lambda path: zipped(path, ("mu.npy", npy_header((-1,))), ("sigma.npy", npy_header((4, 4)))),
    "encrypted": lambda path: (np.savez(path, mu=np.zeros(4), sigma=np.eye(4)), with_bits(path, 6, 1, "<H")),
    "a method that is not known": lambda path: (np.savez(path, mu=np.zeros(4), sigma=np.eye(4)),
                                               with_bits(path, 8, 97, "<H")),
    "a bomb": lambda path: zip_bomb(path, "mu.npy")}
for name, write in SPOILT.items(): npz_case(name, write)
for cut in (0.1, 0.5, 0.9):
    npz_case(f"cut at {cut}", lambda path, cut=cut: (
        np.savez_compressed(path, mu=np.zeros(4), sigma=np.random.default_rng(0).random((4, 4))),
        path.write_bytes(path.read_bytes()[:int(path.stat().st_size * cut)])))


# --- the command line

def command_case(name: str, words: str, *argv: str, prepare: Callable = lambda folder, kit: None) -> None:
    """`argv` in the folder that `prepare` made ready; {cat}, {mask}, {weights} and {run} are right files."""
    def make(folder: Path, kit):
        prepare(folder, kit)
        return [word.format(**vars(kit)) for word in argv]
    case("commands", f"{argv[0] if argv else ''}: {name}", words, make)


INPAINT = "inpaint", "{cat}", "--hole", "{mask}", "--weights", "{weights}"
MEND = (*INPAINT, "--out", "out")
GENERATE = "generate", "--weights", "{weights}", "--out", "out"
VAL = "--val", "drawn:2"
FIRST = "train-vqgan", "--data", "drawn:4", "--preset", "tiny", "--steps", "1", "--tracker", "none"
SECOND = ("train", "--data", "drawn:4", "--vqgan", "{weights}", "--preset", "tiny", "--steps", "1", "--tracker", "none")
for flag in ("--temperature", "--sampling-temperature", "--evidence", "--top-p"):
    for value in ("nan", "inf", "-inf", "-1", "1e999", "one", "", " ", "0x10", "1,5"):
        command_case(f"{flag} {value!r}", flag, *MEND, f"{flag}={value}")
for flag in ("--steps", "--top-k", "--dilate", "--batch-size", "--seed", "--sweet-spot"):
    for value in ("nan", "inf", "-2", "1.5", "1e3", "", "9" * 5000, "one"):
        command_case(f"{flag} {value[:9]!r}", flag, *MEND, f"{flag}={value}")
for flag in ("--schedule", "--order", "--confidence"):
    for value in ("", "Cosine", "sideways", "cosine "):
        command_case(f"{flag} {value!r}", flag, *MEND, f"{flag}={value}")
for flag in ("--lr", "--ema", "--clip", "--weight-decay", "--beta2", "--label-smoothing", "--hole-share"):
    for value in ("nan", "-1", "-inf", "", "one"):
        command_case(f"{flag} {value!r}", flag, *SECOND, "--out", "out", f"{flag}={value}")
for command in (FIRST, SECOND):
    for flag in ("--val", "--init", "--data", "--tracker", "--out"):
        command_case(f"{flag} empty", flag, *command, "--out", "out", flag, "")
    command_case("--val unknown", "absent", *command, "--out", "out", "--val", "absent")
    command_case("--val a file", "cat.png", *command, "--out", "out", "--val", "{cat}")
    command_case("--val a stream", "--val", *command, "--out", "out", "--val", "drawn")
    command_case("--data unknown", "absent", *command[:1], "--data", "absent", "--out", "out")
    command_case("--data a file", "cat.png", *command[:1], "--data", "{cat}", "--out", "out")
    for source in ("drawn:", "drawn:-1", "drawn:0", "drawn:x", "drawn:1.5", "drawn:²"):
        command_case(f"--data {source}", source, *command[:1], "--data", source, "--out", "out", "--preset", "tiny")
    command_case("--init unknown", "absent", *command, "--out", "out", "--init", "./absent")
    command_case("--tracker unknown", "tracker", *command[:-1], "sonar", "--out", "out")
    command_case("--data a huge number", "drawn:99999999999999", *command[:1], "--data", "drawn:99999999999999",
                 "--out", "out", "--preset", "tiny")


def drawings(folder: Path, kit) -> None:
    "A folder of pictures whose name begins as drawn cats do."
    (folder / "drawn_by_hand").mkdir()
    shutil.copy(kit.cat, folder / "drawn_by_hand")


def masks(folder: Path, kit) -> None:
    for name in ("pictures", "masks"): (folder / name).mkdir()
    shutil.copy(kit.cat, folder / "pictures" / "a.png")
    shutil.copy(kit.mask, folder / "masks" / "a.png")


def spoilt(name: str) -> Callable:
    def prepare(folder: Path, kit) -> None: (folder / name).write_text("no such thing", encoding="utf-8")
    return prepare


command_case("--out in a folder drawn_by_hand", "drawn_by_hand", *FIRST[:1], "--data", "drawn_by_hand", "--out",
             "drawn_by_hand/run", "--preset", "tiny", prepare=drawings)
command_case("--out in the folder of --val", "drawn_by_hand", *FIRST, "--val", "drawn_by_hand", "--out",
             "drawn_by_hand/run", prepare=drawings)
command_case("nothing", "command")
command_case("unknown", "mend", "mend")
command_case("--out empty", "--out", *INPAINT, "--out", "")
command_case("--out empty", "--out", *GENERATE[:-1], "")
command_case("--out empty", "--out", "demo", "--out", "")
command_case("--out empty", "--out", "experiment", "baselines", "--out", "")
command_case("--out empty", "--out", "convert", str(LAB / "VQGAN.pt"), "--out", "")
command_case("--out empty", "--out", "export", "{weights}", "--out", "")
for name in ("inpaint", "generate"): command_case("no --out", "--out", name, *(["x", "--hole", "y"] * (name[0] == "i")))
command_case("--hole empty", "--hole", "inpaint", "{cat}", "--hole", "", "--out", "out")
command_case("image empty", "image", "inpaint", "", "--hole", "{mask}", "--out", "out")
command_case("image unknown", "absent.png", "inpaint", "absent.png", "--hole", "{mask}", "--out", "out")
command_case("--hole unknown", "absent.png", "inpaint", "{cat}", "--hole", "absent.png", "--out", "out")
command_case("--weights empty", "--weights", *MEND, "--weights", "")
command_case("--weights unknown", "absent", *MEND, "--weights", "absent")
command_case("--weights a file", "cat.png", *MEND, "--weights", "{cat}")
command_case("--weights a folder without", "vqgan.safetensors", *MEND, "--weights", "{folder}")
command_case("--weights of the lab unknown", "absent.pt", *MEND, "--weights", "absent.pt")
command_case("--weights of the lab, empty second", "VQGAN.pt", *MEND, "--weights", f"{LAB / 'VQGAN.pt'},")
command_case("--weights with a newline", "cats64-small", *MEND, "--weights", "a\nb")
command_case("--device empty", "--device", *MEND, "--device", "")
command_case("--device unknown", "--device", *MEND, "--device", "gpu:99")
command_case("--device meta", "--device", *MEND, "--device", "meta")
command_case("--out a file", "--out", *INPAINT, "--out", "taken", prepare=spoilt("taken"))
command_case("--out below a file", "--out", *INPAINT, "--out", "taken/out", prepare=spoilt("taken"))
command_case("--out in /proc", "--out", *INPAINT, "--out", "/proc/maskgit/out")
command_case("--out the pictures", "pictures", "inpaint", "pictures", "--hole", "masks", "--out", "pictures",
             prepare=masks)
command_case("--out the masks", "masks", "inpaint", "pictures", "--hole", "masks", "--out", "masks", prepare=masks)
command_case("one file in and out", "a.png", "inpaint", "pictures/a.png", "--hole", "masks/a.png", "--out", "pictures",
             prepare=masks)
command_case("pictures as masks", "pictures", "inpaint", "pictures", "--hole", "pictures", "--out", "out",
             prepare=masks)
command_case("--sweet-spot 0", "sweet_spot", *MEND, "--sweet-spot", "0")
command_case("--n huge", "--n", *GENERATE, "--n", "99999999999999")
command_case("--steps huge", "--steps", *GENERATE, "--steps", "99999999999999")
command_case("--dilate huge", "--dilate", *MEND, "--dilate", "99999999999999")
command_case("--top-k huge", "--top-k", *MEND, "--top-k", "9" * 30)
SIDES = {"absent": "absent", "{cat}": "cat.png", "{weights}": "weights", "table.csv": "table.csv",
         "stats.npz": "stats.npz", "": "real"}
for side, words in SIDES.items():
    command_case(f"real {side!r}", words, "fid", side, "{run}", "--network", "random",
                 prepare=lambda folder, kit: [spoilt(name)(folder, kit) for name in ("table.csv", "stats.npz")])
command_case("--network unknown", "--network", "fid", "a", "b", "--network", "vgg")
command_case("unknown", "NAME", "experiment", "colours")
command_case("--images 1", "--images", "experiment", "steps", "--images", "1")
command_case("--images huge", "--images", "experiment", "steps", "--images", "99999999999999")
command_case("unknown", "absent", "info", "./absent")
command_case("empty", "weights", "info", "")
command_case("a lab's file", "maskgit-nb convert", "info", str(LAB / "VQGAN.pt"))
command_case("unknown", "absent.pt", "convert", "absent.pt", "--out", "out")
command_case("a picture", "cat.png", "convert", "{cat}", "--out", "out")
command_case("--heads 7", "transformer_fused.pt", "convert", str(LAB / "VQGAN.pt"),
             str(LAB / "transformer_fused.pt"), "--heads", "7", "--out", "out")
command_case("--heads huge", "heads", "convert", str(LAB / "VQGAN.pt"), str(LAB / "transformer_fused.pt"), "--heads",
             "9" * 30, "--out", "out")
command_case("unknown", "absent", "export", "./absent", "--out", "out")


# --- they are refused

@pytest.mark.parametrize("kind, name", CASES, ids=[f"{kind}: {name}"[:80] for kind, name in CASES])
def test_bad_input_is_refused_in_one_line_and_leaves_nothing(kind, name, kit, tmp_path, monkeypatch, capsys):
    call, words = CASES[kind, name].make(tmp_path, kit), CASES[kind, name].words
    monkeypatch.chdir(tmp_path)
    before, told = contents(tmp_path), stamps(kit.folder)
    capsys.readouterr()
    with bounded(), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        if callable(call):
            try: result = call()
            except OWN_ERRORS as error: said = str(error)
            else:
                assert kind == "pictures" and " cut at " in name, "it was taken as good"
                assert torch.equal(result, load_image(io.BytesIO(WHOLE[name.split(" cut at ")[0]])))
                return
        else:
            status = main(["--device", "cpu", *call])
            said = capsys.readouterr().err.strip()
            assert status in (1, 2) and re.match(r"maskgit-nb( [\w-]+)?: ", said), said
    assert words in said, said
    assert one_line(said), said
    assert not [w for w in warned if issubclass(w.category, (UserWarning, RuntimeWarning))], warned[0].message
    after = contents(tmp_path)
    if kind == "commands": after.pop("out", None)  # the folder itself, made to try it
    assert after == before and stamps(kit.folder) == told


def test_the_table_is_large():
    kinds = Counter(kind for kind, _ in CASES)
    assert sum(kinds.values()) >= 200 and min(kinds.values()) >= 10, kinds


# --- what only looks odd is read rightly

FLAT = np.full((16, 16, 3), (200, 40, 90), dtype=np.uint8)
RED = Image.new("P", (16, 16), 1)
RED.putpalette([0, 0, 255, 200, 40, 90])
FILM = [Image.fromarray(FLAT), Image.new("RGB", (16, 16), "green")]
STRANGE_EXIF = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40


def flat(**options) -> bytes: return encoded(Image.fromarray(FLAT), **options)


def turned(exif: bytes) -> bytes: return flat(format="JPEG", quality=100, subsampling=0, exif=exif)


ODD = {
    "CMYK": encoded(Image.fromarray(255 - np.dstack([FLAT, np.full((16, 16), 255, np.uint8)]), "CMYK"), format="TIFF"),
    "16 bit": encoded(Image.fromarray((FLAT[..., 0].astype(np.uint16)) * 257), format="PNG"),
    "palette, another colour transparent": encoded(RED, format="PNG", transparency=0),
    "palette with opacities": encoded(RED, format="PNG", transparency=bytes([0, 255])),
    "animated gif": encoded(RED, format="GIF", save_all=True, append_images=[Image.new("P", (16, 16), 0)]),
    "animated png": encoded(FILM[0], format="PNG", save_all=True, append_images=FILM[1:]),
    "animated webp": encoded(FILM[0], format="WEBP", lossless=True, save_all=True, append_images=FILM[1:]),
    "EXIF of nonsense": turned(STRANGE_EXIF), "EXIF cut": turned(b"Exif\0\0II*\0\x08\0\0\0\5\0"),
    "EXIF of no kind": turned(b"Exif\0\0nothing"), "EXIF that turns by 11": turned(
        b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\x0b\0\0\0\0\0\0\0"),
    "EXIF of nonsense in a png": flat(format="PNG", exif=STRANGE_EXIF),
    "EXIF of nonsense in a webp": flat(format="WEBP", lossless=True, exif=STRANGE_EXIF),
    "bytes after the end": flat(format="PNG") + b"\0" * 500, "jpeg and more": turned(b"") + b"PK\3\4" * 50,
    "no end": flat(format="PNG")[:-12], "a profile of nonsense": flat(format="PNG", icc_profile=b"colours"),
    "a resolution of 0": flat(format="JPEG", quality=100, subsampling=0, dpi=(0, 0)),
    "opaque all over": encoded(Image.fromarray(FLAT).convert("RGBA"), format="PNG")}


@pytest.mark.parametrize("name", ODD)
def test_what_only_looks_odd_is_read(name, tmp_path):
    path = tmp_path / "odd.png"
    path.write_bytes(ODD[name])
    colour = (200, 200, 200) if name == "16 bit" else (200, 40, 90)
    with bounded(), warnings.catch_warnings():
        warnings.simplefilter("error")
        levels = (load_image(path).permute(1, 2, 0).numpy() + 1) * 127.5
    assert levels.shape == (16, 16, 3) and np.abs(levels - colour).max() <= 3


@pytest.mark.parametrize("mode", ["1", "P"])
def test_a_large_picture_takes_memory_in_proportion(mode, tmp_path):
    "64 million pixels, a few kilobytes packed, within 1 GB; as floats they alone would take 768 MB."
    Image.new(mode, (8000, 8000)).save(tmp_path / "large.png", compress_level=1)
    with bounded(2**30): assert load_image(tmp_path / "large.png", 64).shape == (3, 64, 64)


def test_a_table_of_excel_and_rows_cut_by_a_crash_are_read(tmp_path):
    (tmp_path / "excel.csv").write_text(LEVELS, encoding="utf-8-sig")
    assert (read_gt_csv(tmp_path / "excel.csv") == 7 / 127.5 - 1).all()
    cut = f"{json.dumps(ROW)}\n" + '{"step": 2, "lo\n' + "[" * 100_000 + "\n" + '{"step": ' + "1" * 5000 + "}\n\0\0\0"
    (tmp_path / "log.jsonl").write_text(cut, encoding="utf-8")
    assert read_rows(tmp_path / "log.jsonl") == [ROW] and RunLog(tmp_path, 5).rows == [ROW]


@pytest.mark.parametrize("text", ["[]", "3", "null", "\"model\"", "[" * 100_000, "{\"model", "\xff"])
def test_a_run_whose_settings_are_damaged_goes_on(kit, tmp_path, text):
    shutil.copytree(kit.run, tmp_path / "run")
    (tmp_path / "run" / POINT / "settings.json").write_text(text, encoding="latin-1")
    config = TrainConfig(steps=3, batch_size=2, log_every=1, tracker="none", progress=False)
    rows = fit_maskgit(tiny_maskgit(), drawn_cats(4, size=SIZE), tmp_path / "run", config, device="cpu")
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3]


def test_names_in_archives_lead_nowhere_else(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    link = zipfile.ZipInfo("train/link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(inside / "cats.zip", "w") as archive:
        for name in ("../up.png", "../../up.png", "/tmp/../up.png", "train/../../up.png", "train/0.png"):
            archive.writestr(name, WHOLE["png"])
        archive.writestr(link, "/etc/passwd")
    before = contents(tmp_path)
    assert find_split(inside / "cats.zip", "train") == inside / "cats" / "train"
    assert not [path for path in (inside / "cats").rglob("*") if path.is_symlink()]
    assert {name for name in contents(tmp_path).keys() - before.keys() if not name.startswith("inside/cats")} == set()


def test_of_a_shard_only_files_are_read(tmp_path):
    tarred(tmp_path / "a.tar", ("../../up.png", WHOLE["png"]), ("/abs.png", WHOLE["png"]), ("link.png", "/etc/passwd"),
           ("__notes__/x.json", b"{}"))
    before = contents(tmp_path)
    assert torch.equal(next(ShardStream([tmp_path / "a.tar"], 48, buffer=1).batches(2))[0],
                       load_image(io.BytesIO(WHOLE["png"])))
    assert contents(tmp_path) == before


# --- damage at random: `make soak` tries many more

@given(st.sampled_from(sorted(WHOLE)), st.integers(0, 10**6), st.binary(min_size=1, max_size=12))
def test_a_picture_damaged_anywhere_is_read_or_refused(form, place, scrap):
    whole = bytearray(WHOLE[form])
    place %= len(whole)
    whole[place:place + len(scrap)] = scrap
    with bounded():
        try: x = load_image(io.BytesIO(bytes(whole)), 16)
        except ValueError as error: assert "cannot read" in str(error)
        else: assert x.shape == (3, 16, 16) and x.abs().max() <= 1


@given(st.sampled_from(sorted(STAGES)), st.integers(0, 10**6), st.binary(min_size=1, max_size=12), st.booleans())
def test_weights_damaged_anywhere_are_read_or_refused(kit, tmp_path_factory, stage, place, scrap, in_header):
    folder = tmp_path_factory.mktemp("damaged")
    whole = bytearray((kit.weights / f"{stage}.safetensors").read_bytes())
    place %= 2000 if in_header else len(whole)
    whole[place:place + len(scrap)] = scrap
    (folder / f"{stage}.safetensors").write_bytes(whole)
    with bounded():
        try: module = STAGES[stage].from_pretrained(folder)
        except ValueError as error: assert stage in str(error) and one_line(str(error))
        else: assert all(x.isfinite().all() for x in module.state_dict().values())
    shutil.rmtree(folder)


@example("vqgan", 291, b"\x80")  # a file's name that is no text
@example("vqgan", 287, b"\x00")  # no list of files
@example("vqgan", 143, b"\x00")  # half a list
@example("transformer", 392, b"\n")  # a tensor's name of two lines
@example("transformer", 35, b"\x01")  # a zip on more disks than one
@given(st.sampled_from(sorted(LOADERS)), st.integers(0, 10**6), st.binary(min_size=1, max_size=12))
@settings(max_examples=max(10, settings.default.max_examples // 8))
def test_a_checkpoint_of_the_lab_damaged_anywhere_is_read_or_refused(tmp_path_factory, stage, place, scrap):
    path = tmp_path_factory.mktemp("damaged") / "bad.pt"
    whole = bytearray(SOURCES[stage].read_bytes())
    place = len(whole) - 1 - place % 30_000 if place % 2 else place % len(whole)  # half of them among the names
    whole[place:place + len(scrap)] = scrap
    path.write_bytes(whole)
    with bounded():
        try: LOADERS[stage](path)
        except ValueError as error: assert "bad.pt" in str(error) and one_line(str(error))
    shutil.rmtree(path.parent)


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_no_table_or_rows(tmp_path_factory, content, as_row):
    folder = tmp_path_factory.mktemp("bytes")
    if as_row: content = json.dumps(ROW).encode() + b"\n" + content
    for name in ("log.jsonl", "bad.csv"): (folder / name).write_bytes(content)
    try: assert all(isinstance(row, dict) for row in RunLog.read(folder))
    except ValueError as error: assert "log.jsonl" in str(error)
    with pytest.raises(ValueError, match="bad.csv"): read_gt_csv(folder / "bad.csv")
    shutil.rmtree(folder)
