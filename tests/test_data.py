"""Pictures for training: decoded once, in worker processes, into a file that runs and processes share; and what is fed
how fast."""
import errno
import itertools
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SIZE, tiny_maskgit
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset

from maskgit_nb import data as data_module
from maskgit_nb.cats import drawn_cats
from maskgit_nb.cli import keep_freed_memory
from maskgit_nb.data import (
    EndlessBatches,
    FreshCats,
    ImageFolder,
    Pictures,
    cached_pictures,
    decoded,
    fingerprint,
    fit_picture,
    load_image,
    open_picture,
    take_batches,
)
from maskgit_nb.images import to_picture, to_uint8
from maskgit_nb.stages import cached_tokens, fit_maskgit, fit_vqgan, tokenize
from maskgit_nb.training import TrainConfig, make_accelerator

CONFIG = TrainConfig(steps=3, batch_size=4, warmup=1, log_every=1, save_every=3, progress=False, tracker="none")


def save_cats(folder: Path, n: int, seed: int = 0) -> Tensor:
    folder.mkdir(exist_ok=True)
    cats = drawn_cats(n, seed=seed, size=SIZE)
    for i, x in enumerate(cats): to_picture(x).save(folder / f"{i:04d}.png")
    return cats


@pytest.fixture
def accelerator(): return make_accelerator(CONFIG, device="cpu")


@pytest.fixture
def no_file_is_opened(monkeypatch):
    "A function after whose call decoding a picture is an error."
    def refuse(*args): raise AssertionError(f"{args[0]} is decoded again")
    return lambda: monkeypatch.setattr(data_module, "load_image", refuse)


@pytest.mark.parametrize("n", [5, 300], ids=["by this process", "by workers"])
def test_pictures_are_decoded_once_and_in_order(tmp_path, accelerator, no_file_is_opened, n):
    cats = save_cats(tmp_path / "cats", n)
    found = cached_pictures(ImageFolder(tmp_path / "cats", SIZE, flip=True), tmp_path, accelerator, progress=False)
    no_file_is_opened()
    again = cached_pictures(ImageFolder(tmp_path / "cats", SIZE, flip=True), tmp_path, accelerator, progress=False)
    for pictures in (found, again):
        assert torch.equal(pictures.batch(torch.arange(2 * n)), torch.cat([cats, cats.flip(-1)]))
    # nothing else is left
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.is_file()) == [".json", ".npy"]


def test_another_picture_size_time_or_name_is_another_cache(tmp_path, accelerator):
    save_cats(tmp_path / "cats", 4)
    def cache(size: int = SIZE) -> str: return fingerprint(ImageFolder(tmp_path / "cats", size))
    names = [cache(), cache(8)]
    os.utime(tmp_path / "cats" / "0001.png", (1, 1))
    names.append(cache())
    (tmp_path / "cats" / "0001.png").rename(tmp_path / "cats" / "0009.png")
    names.append(cache())
    assert len(set(names)) == 4 and cache() == names[-1]


def test_damaged_pictures_are_named_and_left_out_each_time(tmp_path, accelerator, capsys):
    cats = save_cats(tmp_path / "cats", 6)
    for name in ("0000.png", "0004.png"): (tmp_path / "cats" / name).write_bytes(b"no picture")
    for _ in ("decoded", "mapped"):
        found = cached_pictures(ImageFolder(tmp_path / "cats", SIZE, flip=True), tmp_path, accelerator, progress=False)
        said = capsys.readouterr().err
        assert len(found) == 8 and torch.equal(found.batch(torch.arange(8)),
                                               torch.cat([cats[[1, 2, 3, 5]], cats[[1, 2, 3, 5]].flip(-1)]))
        assert said.count("left out: cannot read") == 2 and "0000.png" in said and "0004.png" in said
    with pytest.raises(IndexError, match="image 8 of 8"): found[8]


def test_a_folder_of_damaged_pictures_alone_is_an_error(tmp_path, accelerator):
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "0.png").write_bytes(b"no picture")
    for _ in ("decoded", "mapped"):
        with pytest.raises(ValueError, match="no picture in .*cats can be read"):
            cached_pictures(ImageFolder(tmp_path / "cats", SIZE), tmp_path, accelerator, progress=False)


def test_a_cache_half_written_is_written_again(tmp_path, accelerator, monkeypatch):
    cats, decode = save_cats(tmp_path / "cats", 130), ImageFolder.decode
    def cut(self, *args):
        yield next(decode(self, *args))
        raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ImageFolder, "decode", cut)
        cached_pictures(ImageFolder(tmp_path / "cats", SIZE), tmp_path, accelerator, progress=False)
    assert not list(tmp_path.glob("pictures-*.npy"))
    found = cached_pictures(ImageFolder(tmp_path / "cats", SIZE), tmp_path, accelerator, progress=False)
    assert torch.equal(found.batch(torch.arange(130)), cats)


def write_cache(source: str, folder: str) -> None:
    accelerator = make_accelerator(CONFIG, device="cpu")
    found = cached_pictures(ImageFolder(source, SIZE), Path(folder), accelerator, progress=False)
    tokens = cached_tokens(tiny_maskgit().vqgan, ImageFolder(source, SIZE), Path(folder), accelerator, progress=False)
    np.savez(Path(folder) / f"seen{accelerator.process_index}.npz", pictures=found.levels.numpy(),
             tokens=tokens.numpy())


def test_two_processes_write_one_cache_and_see_the_same(processes, tmp_path):
    from test_processes import run_on
    cats = save_cats(tmp_path / "cats", 33)
    run_on(processes, 2, write_cache, str(tmp_path / "cats"), str(tmp_path))
    for number in (0, 1):
        seen = np.load(tmp_path / f"seen{number}.npz")
        assert np.array_equal(seen["pictures"], to_uint8(cats).numpy())
        assert np.array_equal(seen["tokens"], tokenize(tiny_maskgit().vqgan, cats, progress=False).numpy())
    assert len(list(tmp_path.glob("pictures-*.npy"))) == 1
    assert not list(tmp_path.glob("*faults*"))
    assert not list(tmp_path.glob("*partial*"))


def test_where_tokens_are_cached_no_picture_is_opened(tmp_path, no_file_is_opened):
    save_cats(tmp_path / "cats", 6)
    def train(folder: str, steps: int) -> list[dict]:
        config = TrainConfig(**{**vars(CONFIG), "steps": steps})
        return fit_maskgit(tiny_maskgit(), ImageFolder(tmp_path / "cats", SIZE, flip=True), tmp_path / folder, config,
                           device="cpu")
    train("run", 3)
    next((tmp_path / "run").glob("pictures-*.npy")).unlink()
    no_file_is_opened()
    assert train("run", 4)[-1]["step"] == 4


def test_the_first_stage_decodes_nothing_that_is_cached(tmp_path, no_file_is_opened):
    save_cats(tmp_path / "cats", 6)
    def train(steps: int) -> list[dict]:
        config = TrainConfig(**{**vars(CONFIG), "steps": steps})
        return fit_vqgan(tiny_maskgit().vqgan, ConcatDataset([ImageFolder(tmp_path / "cats", SIZE)]), tmp_path / "run",
                         config, device="cpu")
    train(3)
    no_file_is_opened()
    assert [row["step"] for row in train(5) if "loss" in row] == [1, 2, 3, 4, 5]


def test_sources_of_pictures_become_one(tmp_path, accelerator):
    cats = save_cats(tmp_path / "cats", 4)
    others = drawn_cats(3, seed=1, size=SIZE)
    sources = ConcatDataset([ImageFolder(tmp_path / "cats", SIZE, flip=True), Pictures(to_uint8(others), flip=True)])
    found, every = decoded(sources, tmp_path, accelerator, progress=False), torch.cat([cats, others])
    assert isinstance(found, Pictures) and torch.equal(found.batch(torch.arange(14)),
                                                       torch.cat([every, every.flip(-1)]))
    mixed = decoded(ConcatDataset([ImageFolder(tmp_path / "cats", SIZE), others]), tmp_path, accelerator,
                    progress=False)
    assert torch.equal(torch.stack([mixed[i] for i in range(7)]), every)  # a tensor of floats stays what it is


def test_what_a_gpu_cannot_hold_is_read_ahead(monkeypatch):
    device = pytest.importorskip("device")
    pictures, tokens = Pictures(to_uint8(drawn_cats(10, size=SIZE)), flip=True), torch.arange(20 * 4).view(20,
                                                                                                           4).short()
    for data in (pictures, tokens):
        expected = list(itertools.islice(take_batches(data, EndlessBatches(20, 6), "cpu"), 9))
        for most in (2**31, 0):
            monkeypatch.setattr(data_module, "MOST_HELD", most)
            found = list(itertools.islice(take_batches(data, EndlessBatches(20, 6), device.DEVICE), 9))
            for x, y in zip(found, expected, strict=True): assert x.device == device.DEVICE and torch.equal(x.cpu(), y)


def test_an_error_in_reading_ahead_arrives():
    def broken():
        yield torch.zeros(1)
        raise OSError("disk gone")
    batches = data_module.read_ahead(broken(), torch.device("cpu"))
    assert next(batches).item() == 0
    with pytest.raises(OSError, match="disk gone"): next(batches)


@pytest.mark.parametrize("n, batch_size, start", [(5, 2, 0), (5, 7, 3), (1, 4, 0), (64, 64, 2), (100, 32, 5)])
def test_each_pass_holds_every_item_once_in_an_order_of_its_own(n, batch_size, start):
    drawn = list(itertools.chain.from_iterable(itertools.islice(EndlessBatches(n, batch_size), 12 * n)))
    passes = [drawn[i:i + n] for i in range(0, len(drawn) - n, n)]
    assert all(sorted(one) == list(range(n)) for one in passes) and (n < 5 or len({tuple(one) for one in passes}) > 1)
    assert next(iter(EndlessBatches(n, batch_size, start=start))) == drawn[start * batch_size:(start + 1) * batch_size]


def test_half_of_each_batch_is_drawn_anew():
    cats = drawn_cats(7, size=SIZE)
    stream = FreshCats(Pictures(to_uint8(cats)), SIZE).batches(8)
    def known(x: Tensor) -> list[int]: return (x[:, None] == cats[None]).flatten(2).all(2).nonzero()[:, 1].tolist()
    batches = list(itertools.islice(stream, 14))
    assert all(len(known(x)) == 4 for x in batches)
    seen = sum((known(x) for x in batches), [])
    assert sorted(seen) == sorted(8 * list(range(7)))  # 56 draws of 7 cats
    fresh = torch.cat([x[~(x[:, None] == cats[None]).flatten(2).all(2).any(1)] for x in batches])
    assert len(fresh.unique(dim=0)) == len(fresh) == 56  # none is drawn twice
    validated = drawn_cats(64, seed=1, size=SIZE)
    assert not (fresh[:, None] == validated[None]).flatten(2).all(2).any()
    assert len(next(FreshCats(size=SIZE).batches(5))) == 5
    with pytest.raises(ValueError, match="pictures must have 8x8 pixels"): next(FreshCats(cats, 8).batches(2))


def test_fresh_cats_go_on_where_they_were_and_are_shared_by_processes():
    cats = drawn_cats(7, size=SIZE)
    first, second = FreshCats(cats, SIZE), FreshCats(cats, SIZE)
    batches = list(itertools.islice(first.batches(6, seed=3), 4))
    for _ in itertools.islice(second.batches(6, seed=3), 2): pass
    third = FreshCats(cats, SIZE)
    third.load_state_dict(second.state_dict())
    going_on = third.batches(6, seed=3)
    for x in batches[2:]: assert torch.equal(x, next(going_on))
    for rows in (slice(0, 3), slice(3, 6)):
        assert torch.equal(next(FreshCats(cats, SIZE).batches(6, seed=3, rows=rows)), batches[0][rows])


def test_a_large_jpeg_is_decoded_small_and_looks_the_same(tmp_path):
    smooth = drawn_cats(1, size=64)[0]
    to_picture(smooth).resize((2000, 1500), Image.Resampling.BICUBIC).save(tmp_path / "large.jpg", quality=95)
    assert open_picture(tmp_path / "large.jpg").size == (2000,
                                                         1500) and min(open_picture(tmp_path / "large.jpg",
                                                                                    128).size) in range(128, 256)
    whole = fit_picture(open_picture(tmp_path / "large.jpg"), 64)
    assert (whole - load_image(tmp_path / "large.jpg", 64)).abs().mean() < 2 / 127.5
    to_picture(smooth).save(tmp_path / "small.jpg")
    assert open_picture(tmp_path / "small.jpg", 128).size == (64, 64)
    turned = Image.open(tmp_path / "large.jpg")
    exif = turned.getexif()
    exif[0x0112] = 6  # held sideways
    turned.save(tmp_path / "turned.jpg", quality=95, exif=exif)
    assert (load_image(tmp_path / "turned.jpg", 64) - whole.rot90(-1, (1, 2))).abs().mean() < 2 / 127.5


def test_memory_while_decoding_is_that_of_a_batch(tmp_path, accelerator):
    "400 pictures of 128 pixels make a file of 20 MB; what is new in this process's own memory stays far below."
    (tmp_path / "cats").mkdir()
    for i, x in enumerate(drawn_cats(8, size=128)):
        for copy in range(50): to_picture(x).save(tmp_path / "cats" / f"{i}_{copy}.jpg")
    def own_memory() -> int:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if "RssAnon" in line).split()[1])
    if not Path("/proc/self/status").exists(): pytest.skip("no /proc to read the memory from")
    before = own_memory()
    found = cached_pictures(ImageFolder(tmp_path / "cats", 128), tmp_path, accelerator, progress=False)
    for _ in itertools.islice(take_batches(found, EndlessBatches(400, 4), "cpu"), 100): pass
    # KB; a batch of 64 has 3 MB, as bytes
    assert found.levels.nbytes == 400 * 3 * 128 * 128 and own_memory() - before < 12_000


def best_rate(run, items: int, tries: int = 5) -> float:
    seconds = []
    for _ in range(tries):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return items / min(seconds)


@pytest.mark.alone
@pytest.mark.parametrize("kind, promised", [("tokens", 200_000), ("pictures", 30_000)])
def test_batches_come_as_fast_as_promised_on_two_cores(kind, promised):
    torch.set_num_threads(2)
    keep_freed_memory()  # as the command line does
    data = torch.zeros(16_384, 256,
                       dtype=torch.int16) if kind == "tokens" else Pictures(torch.zeros(4096, 3, 64, 64,
                                                                                        dtype=torch.uint8), flip=True)
    batches = take_batches(data, EndlessBatches(len(data), 128), "cpu")
    assert best_rate(lambda: [next(batches) for _ in range(16)], 16 * 128) > promised


def test_faults_are_kept_as_json(tmp_path, accelerator):
    save_cats(tmp_path / "cats", 2)
    (tmp_path / "cats" / "0001.png").write_bytes(b"")
    cached_pictures(ImageFolder(tmp_path / "cats", SIZE), tmp_path, accelerator, progress=False)
    faults = json.loads(next(tmp_path.glob("pictures-*.json")).read_text(encoding="utf-8"))
    assert list(faults) == ["1"] and "0001.png" in faults["1"]


def test_a_damaged_picture_beside_fresh_cats_is_left_out(tmp_path, capsys):
    cats = save_cats(tmp_path / "cats", 3)
    (tmp_path / "cats" / "0000.png").write_bytes(b"no picture")
    rows = fit_vqgan(tiny_maskgit().vqgan, FreshCats(ImageFolder(tmp_path / "cats", SIZE), SIZE), tmp_path / "run",
                     CONFIG, device="cpu")
    assert max(row["step"] for row in rows) == 3 and "0000.png" in capsys.readouterr().err and len(cats) == 3


def test_an_error_of_the_disk_is_no_fault_of_a_picture(tmp_path, accelerator, monkeypatch):
    cats = save_cats(tmp_path / "cats", 3)
    def fails(*args): raise OSError(errno.EIO, "Input/output error")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
        patch.setattr(data_module.Image, "open", fails)
        cached_pictures(ImageFolder(tmp_path / "cats", SIZE), tmp_path, accelerator, progress=False)
    found = cached_pictures(ImageFolder(tmp_path / "cats", SIZE), tmp_path, accelerator, progress=False)
    assert torch.equal(found.batch(torch.arange(3)), cats)


def test_a_full_disk_is_said_before_anything_is_decoded(tmp_path, accelerator, monkeypatch):
    save_cats(tmp_path / "cats", 3)
    def full(*args): raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        cached_pictures(ImageFolder(tmp_path / "cats", SIZE), tmp_path, accelerator, progress=False)
    assert not list(tmp_path.glob("pictures-*"))


def test_tokens_of_more_pictures_than_a_gpu_holds(monkeypatch):
    device, cats = pytest.importorskip("device"), drawn_cats(40, size=SIZE)
    monkeypatch.setattr(data_module, "MOST_HELD", 0)
    found = tokenize(tiny_maskgit().vqgan.to(device.DEVICE), Pictures(to_uint8(cats)), progress=False)
    assert torch.equal(found, tokenize(tiny_maskgit().vqgan, cats, progress=False))


def test_a_cache_is_found_by_another_way_to_the_folder(tmp_path, monkeypatch):
    save_cats(tmp_path / "cats", 2)
    monkeypatch.chdir(tmp_path)
    assert len({fingerprint(ImageFolder(name, SIZE))
                for name in ("cats", "./cats", tmp_path / "cats", tmp_path / "cats" / ".." / "cats")}) == 1
