"""Training on tar shards: the same pictures in the same order for every process, a run that goes on where it stopped,
faults named."""
import io
import tarfile

import pytest
import torch
from conftest import SIZE, tiny_maskgit

from maskgit_nb import training
from maskgit_nb.cats import drawn_cats
from maskgit_nb.cli import main
from maskgit_nb.data import ShardStream, write_shards
from maskgit_nb.stages import fit_maskgit, fit_vqgan
from maskgit_nb.training import RunLog, TrainConfig

pytest.importorskip("webdataset", reason="webdataset is not installed")
CONFIG = TrainConfig(steps=9, batch_size=4, lr=3e-3, warmup=2, ema=0.9, log_every=1, validate_every=9, save_every=4,
                     progress=False, tracker="none")


class Killed(BaseException):
    "The run is cut off."


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(drawn_cats(14, size=SIZE), tmp_path_factory.mktemp("shards"), per_shard=5)


def tar_of(path, name: str, data: bytes):
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("stage", ["vqgan", "transformer"])
def test_run_on_shards_resumes_as_undisturbed(shards, tmp_path, monkeypatch, stage):
    def fit(name: str) -> list[dict]:
        model, stream = tiny_maskgit(), ShardStream(shards, SIZE, flip=True, buffer=6)
        if stage == "vqgan": return fit_vqgan(model.vqgan, stream, tmp_path / name, CONFIG, device="cpu")
        return fit_maskgit(model, stream, tmp_path / name, CONFIG, device="cpu")
    whole, save = fit("whole"), training.save_checkpoint
    def killed(*args):
        save(*args)
        raise Killed
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training, "save_checkpoint", killed)
        fit("cut")
    resumed = fit("cut")
    assert [row["step"] for row in resumed] == [row["step"] for row in whole]
    for row, other in zip(resumed, whole, strict=True):
        assert row.get("loss") == pytest.approx(other.get("loss"), abs=1e-6)


def test_every_pass_brings_every_picture_once_in_another_order(shards):
    batches = ShardStream(shards, SIZE, buffer=4).batches(7)
    passes = [torch.cat([next(batches), next(batches)]).flatten(1) for _ in range(2)]
    assert not torch.equal(*passes)
    ordered = [x[torch.tensor(sorted(range(14), key=lambda i, x=x: x[i].tolist()))] for x in passes]
    assert torch.equal(*ordered) and len(ordered[0].unique(dim=0)) == 14


def test_mirrored_pictures_are_mirrored(shards):
    plain, mirrored = (next(ShardStream(shards, SIZE, flip=flip, buffer=4).batches(14)) for flip in (False, True))
    same, turned = ([torch.equal(y, x) for x, y in zip(other, mirrored, strict=True)]
                    for other in (plain, plain.flip(-1)))
    assert sum(same) == sum(turned) == 7 and not any(a and b for a, b in zip(same, turned, strict=True))


def test_faults_in_shards_are_named(tmp_path, shards):
    with pytest.raises(ValueError, match="no shards given"): ShardStream([], SIZE)
    cases = {"empty.tar": (None, "no pictures in .*empty.tar"),
             "text.tar": (("a.txt", b"hello"), "no picture in sample a of .*text.tar"),
             "broken.tar": (("a.png", b"no png"), "sample a of .*broken.tar is no picture")}
    for name, (content, words) in cases.items():
        if content: tar_of(tmp_path / name, *content)
        else: tarfile.open(tmp_path / name, "w").close()
        with pytest.raises(ValueError, match=words): next(ShardStream([tmp_path / name], SIZE).batches(1))
    with pytest.raises(FileNotFoundError): next(ShardStream([tmp_path / "absent.tar"], SIZE).batches(1))
    (tmp_path / "cut.tar").write_bytes(shards[0].read_bytes()[:700])
    with pytest.raises(Exception, match="cut.tar"): next(ShardStream([tmp_path / "cut.tar"], SIZE).batches(4))


def test_command_line_trains_on_shards(tmp_path, capsys):
    paths = write_shards(drawn_cats(6), tmp_path / "data", per_shard=3)
    options = ["--out", str(tmp_path / "run"), "--preset", "tiny", "--steps", "2", "--batch-size", "2", "--log-every",
               "1", "--tracker", "none"]
    assert main(["--device", "cpu", "train", "--data", *map(str, paths), *options]) == 0
    assert [row["step"] for row in RunLog.read(tmp_path / "run") if "loss" in row] == [1, 2]
    assert not list((tmp_path / "run").glob("tokens*"))
    assert main(["--device", "cpu", "train", "--data", str(paths[0]), "drawn:2", *options]) == 1
    assert "cannot be mixed" in capsys.readouterr().err
